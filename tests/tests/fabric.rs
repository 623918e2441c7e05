//! The nodeProxy fabric with real agents that work on directories: three nodes and a host outside, each with a network of its own, and
//! pods that only their node reaches.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use balancing_tests::{fabric::*, *};
use serde_json::json;

#[test]
fn a_pod_of_an_overlay_is_reached_from_outside_and_from_other_nodes() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("fabric").start();
    let pod = pod_on("n1", "a", "10.244.1.5");
    let place = world.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
    let _server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
    world.apply(&pod);
    let mut outside = world.outside.client();
    wait_answer(&mut outside, "a");
    // It has no pods, so it need not forward.
    assert_eq!(world.outside.ctl_json(&["fabric"])["problems"], json!([]));
    let explained = |host: &Node, at: &str| String::from_utf8(host.ctl(&["explain", at]).stdout).unwrap();
    let told = explained(&world.outside, FRONT);
    assert!(told.contains("10.211.0.11:20080 weight 1 (proxy of node n1, pods default/a)"), "{told}");
    let told = explained(&world.nodes[0], "10.211.0.11:20080");
    assert!(
        told.contains("what comes through the tunnel goes by BalancingPolicy proxied to 10.244.1.5:80"),
        "{told}"
    );
    // A process of another node, and a pod of it: the way back is the same for both.
    wait_answer(&mut world.nodes[1].client(), "a");
    let other = Object::pod("client", "client", &["10.244.2.7"]).with("/spec/nodeName", "n2");
    let of_other = world.nodes[1].overlay_pod(&other, &["10.244.2.7"]);
    world.apply(&other);
    wait_answer(&mut of_other.client(), "a");
    // Connections are counted, each once; those that have ended go after a while.
    let socket = outside.open(Kind::Tcp4);
    outside.connect(socket, address(FRONT)).unwrap();
    eventually(|| match &world.nodes[0].ctl_json(&["fabric"])["connections"][0] {
        count if *count == 1 => Ok(()),
        count => Err(format!("{count} connections")),
    });
    outside.close(socket);
    // On the pod's own node nothing crosses the tunnel.
    wait_answer(&mut world.nodes[0].client(), "a");
    // It moves.
    let moved = pod_on("n3", "b", "10.244.3.9");
    let there = world.nodes[2].overlay_pod(&moved, &["10.244.3.9"]);
    let _other = EchoServer::start(&there.netns, "b", &[address("10.244.3.9:80")]);
    world.apply(&moved);
    world.hosts().for_each(|host| host.delete(&pod));
    wait_answer(&mut outside, "b");
    // Nothing stops with the agents.
    world.nodes[2].agent().kill();
    world.outside.agent().kill();
    assert_eq!(answer(&mut outside, Kind::Tcp4), Ok("b".to_owned()));
    for host in [&mut world.nodes[2], &mut world.outside] {
        host.start();
    }
    assert_eq!(answer(&mut outside, Kind::Tcp4), Ok("b".to_owned()));
}

/// A member that is dialled over one family only.
fn dialled(object: Object, family: &str) -> Object {
    let address = object.at("/spec/underlay").get(family).cloned().unwrap();
    object.with("/spec/underlay", json!({family: address}))
}

#[test]
fn a_node_of_both_families_serves_members_that_have_one_each() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("fabric-families");
    // The second node has IPv6 alone, the host outside IPv4.
    for (host, address) in [(&world.nodes[1], "192.168.2.2/24"), (&world.outside, "fd00:4::2/64")] {
        host.host().ip(&["address", "del", address, "dev", "under0"]);
    }
    world.apply(&dialled(member("Node", "n2", 2), "ipv6"));
    world.apply(&dialled(member("ExternalHost", "outside", 4), "ipv4"));
    world = world.start();
    let pod = pod_on("n1", "a", "10.244.1.5");
    let place = world.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
    let _server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
    world.apply(&pod);
    wait_answer(&mut world.outside.client(), "a");
    wait_answer(&mut world.nodes[1].client(), "a");
    let links = at(&world.nodes[0], "ip -br link");
    assert!(links.contains("balancing0") && links.contains("balancing1"), "{links}");
    // A port that nobody declares is closed on either.
    for host in [&world.nodes[1], &world.outside] {
        let at_host = EchoServer::start(world.nodes[0].host(), "host", &[address("10.211.0.11:9999")]);
        assert!(host.client().ask_tcp(at_host.address()).is_err());
    }
    let drops = told(&world.nodes[0])["drops"]["undeclared_port"].as_u64();
    assert!(drops.is_some_and(|drops| drops >= 2), "{drops:?}");
}

#[test]
fn a_pod_of_the_host_network_is_reached_at_its_node() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-host").start();
    let pod = pod_on("n1", "h", "192.168.1.2").with("/spec/hostNetwork", true);
    let _server = EchoServer::start(world.nodes[0].host(), "h", &[address("192.168.1.2:80")]);
    world.apply(&pod);
    for host in world.hosts() {
        wait_answer(&mut host.client(), "h");
    }
}

#[test]
fn a_fabric_that_is_deleted_leaves_nothing() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-gone").start();
    let devices = || world.nodes[0].host().ip(&["-br", "link"]);
    wait_until(SOON, || devices().contains("balancing0"));
    world.hosts().for_each(|host| host.delete(&fabric()));
    wait_until(SOON, || !devices().contains("balancing"));
}

#[test]
fn what_an_agent_that_was_down_missed_is_removed_and_cleanup_leaves_nothing() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("fabric-missed").start();
    let node = &mut world.nodes[0];
    node.agent().kill();
    assert!(node.host().ip(&["-br", "link"]).contains("balancing0"), "the tunnel outlives the agent");
    node.delete(&fabric());
    node.start();
    wait_until(SOON, || !node.host().ip(&["-br", "link"]).contains("balancing"));
    let node = &mut world.nodes[1];
    node.agent().kill();
    let (status, _) = node.cleanup();
    assert!(status.success());
    assert!(!node.host().ip(&["-br", "link"]).contains("balancing"));
    let rules =
        node.host().run(|| std::process::Command::new("nft").args(["list", "tables"]).output()).unwrap();
    assert!(!String::from_utf8_lossy(&rules.stdout).contains("balancing"), "{rules:?}");
}

#[test]
fn an_address_that_changes_takes_the_tunnel_along() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-moves").start();
    let pod = pod_on("n1", "a", "10.244.1.5");
    let place = world.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
    let _server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
    world.apply(&pod);
    let mut outside = world.outside.client();
    wait_answer(&mut outside, "a");
    let host = world.nodes[0].host();
    let index =
        |host: &NetNs| host.ip(&["-o", "link", "show", "balancing0"]).split(':').next().unwrap().to_owned();
    let before = index(host);
    // The node gets another address, and its TunnelNode says so.
    host.ip(&["address", "del", "192.168.1.2/24", "dev", "under0"]);
    host.add_address("192.168.1.77/24", "under0");
    world.underlay.route(host, 1);
    world.apply(&member("Node", "n1", 1).with("/spec/underlay/ipv4", "192.168.1.77"));
    wait_answer(&mut outside, "a");
    eventually(|| match told(&world.nodes[0])["underlay"][0].as_str() {
        Some("192.168.1.77") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(index(host), before, "the device is the same");
    // The underlay is gone for a while: nobody is sent there, and it is back by itself.
    host.sysctl("ipv6/conf/under0/keep_addr_on_down", "1");
    host.ip(&["link", "set", "under0", "down"]);
    host.ip(&["link", "set", "under0", "up"]);
    world.underlay.route(host, 1);
    wait_answer(&mut outside, "a");
    // Somebody takes the device away.
    host.ip(&["link", "del", "balancing0"]);
    wait_answer(&mut outside, "a");
}

#[test]
fn a_clash_is_told_and_harms_nobody() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("fabric-clash");
    let host = world.nodes[0].host();
    let theirs = "link add theirs type vxlan id 7710 dstport 7710 local 192.168.1.2 nolearning";
    host.ip(&theirs.split(' ').collect::<Vec<_>>());
    host.ip(&["link", "set", "theirs", "up"]);
    world.nodes[0].start_until(|_| true);
    eventually(|| match told(&world.nodes[0])["message"].as_str() {
        Some(message) if message.contains("theirs") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(!world.nodes[0].view().unwrap().ready);
    assert!(!world.nodes[0].host().ip(&["-br", "link"]).contains("balancing0"));
    world.nodes[0].host().ip(&["link", "del", "theirs"]);
    world.nodes[0].wait_view(|view| view.ready);
}

#[test]
fn whoever_loses_its_permission_is_shut_out_also_while_there_is_a_conflict() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-revoked").start();
    let (node, outside) = (&world.nodes[0], member("ExternalHost", "outside", 4));
    for n in 2..=4 {
        wait_admitted(node, n, true);
    }
    let conflict = |address: &str, verb: &str| {
        let words = format!("address {verb} {address}/32 dev under0");
        node.host().ip(&words.split(' ').collect::<Vec<_>>());
    };
    conflict("10.211.0.99", "add");
    eventually(|| match told(node)["message"].as_str() {
        Some(message) if message.contains("overlaps") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    node.delete(&outside);
    wait_admitted(node, 4, false);
    wait_admitted(node, 2, true);
    // Nobody is let in meanwhile.
    node.apply(&outside);
    node.delete(&member("Node", "n3", 3));
    wait_admitted(node, 3, false);
    wait_admitted(node, 4, false);
    conflict("10.211.0.99", "del");
    wait_admitted(node, 4, true);
    // The same while the underlay has no address.
    node.apply(&member("Node", "n3", 3));
    wait_admitted(node, 3, true);
    for address in Underlay::addresses(1, 2) {
        let length = if address.is_ipv4() { 24 } else { 64 };
        node.host().ip(&["address", "del", &format!("{address}/{length}"), "dev", "under0"]);
    }
    eventually(|| match told(node)["message"].as_str() {
        Some(_) => Ok(()),
        None => Err("it is content".to_owned()),
    });
    node.delete(&outside);
    wait_admitted(node, 4, false);
    wait_admitted(node, 2, true);
}

#[test]
fn an_agent_that_starts_with_a_list_that_lost_many_holds_too() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("fabric-lost");
    for n in [5, 6] {
        let name = format!("n{n}");
        world.apply(&node(&name, n));
        world.apply(&member("Node", &name, n));
    }
    world.nodes[0].start_until(|view| view.ready);
    for n in 2..=6 {
        wait_admitted(&world.nodes[0], n, true);
    }
    world.nodes[0].agent().kill();
    for (name, n) in [("n3", 3), ("n5", 5), ("n6", 6)] {
        world.nodes[0].delete(&member("Node", name, n));
    }
    world.nodes[0].start();
    for n in 2..=6 {
        wait_admitted(&world.nodes[0], n, true);
    }
    // One that leaves a full list goes at once.
    for (name, n) in [("n3", 3), ("n5", 5), ("n6", 6)] {
        world.nodes[0].apply(&member("Node", name, n));
    }
    world.nodes[0].wait_view(|view| view.ready);
    world.nodes[0].delete(&member("Node", "n6", 6));
    wait_admitted(&world.nodes[0], 6, false);
    wait_admitted(&world.nodes[0], 5, true);
}

#[test]
fn nobody_is_sent_to_a_tunnel_that_large_packets_do_not_pass() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-small");
    let nft = |world: &World, rule: &str| {
        let mut program = std::process::Command::new("nft");
        assert!(world.underlay.router().run(|| program.arg(rule).status()).unwrap().success(), "{rule}");
    };
    nft(
        &world,
        "table ip way { chain forward { type filter hook forward priority 0; ip length > 1300 drop; }; }",
    );
    let world = world.start_all();
    let node = &world.nodes[0];
    eventually(|| match told(node)["message"].as_str() {
        Some(message) if message.contains("set spec.mtu") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    nft(&world, "delete table ip way");
    node.wait_view(|view| view.ready);
}

#[test]
fn members_are_asked_and_strangers_are_kept_out() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-check").start();
    let checks = eventually(|| {
        let output = world.nodes[0].ctl(&["fabric", "check", "-o", "json"]);
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
        if output.status.success() { Ok(checks) } else { Err(checks.to_string()) }
    });
    let checks = checks.as_array().unwrap().clone();
    assert_eq!(checks.len(), 6, "three members, two addresses each: {checks:#?}");
    assert!(checks.iter().all(|check| check["reachable"] == true && check["mtu"] == 1450), "{checks:#?}");
    let one = world.outside.ctl(&["fabric", "check", "n1"]);
    assert!(String::from_utf8_lossy(&one.stdout).contains("node.n1"), "{one:?}");
    // A member that nobody reaches is told in words.
    world.nodes[1].host().ip(&["link", "set", "under0", "down"]);
    let gone = world.nodes[0].ctl(&["fabric", "check", "n2"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stdout).contains("no answer within"), "{gone:?}");
    let nobody = world.nodes[0].ctl(&["fabric", "check", "n9"]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no other member is called n9"), "{nobody:?}");
}

#[test]
fn an_administrators_proxy_address_on_another_interface_leads_to_pods() {
    if !require_kernel() {
        return;
    }
    let underlay = Underlay::new();
    let mut node = Node::named("fabric-nat", "n1", &[]);
    let mut outside = Node::named("fabric-nat", "outside", &["--role", "external"]);
    underlay.join(node.host());
    underlay.join(outside.host());
    let (pod, other) = (pod_on("n1", "a", "10.244.1.5"), pod_on("n1", "b", "10.244.1.6"));
    let places = [node.overlay_pod(&pod, &["10.244.1.5"]), node.overlay_pod(&other, &["10.244.1.6"])];
    let _servers = [
        EchoServer::start(&places[0].netns, "a", &[address("10.244.1.5:80")]),
        EchoServer::start(&places[1].netns, "b", &[address("10.244.1.6:80")]),
    ];
    // There is no fabric: the address of the node's own network is what hosts outside reach.
    let proxied =
        Object::node("n1", "192.168.1.2").annotated("balancing.elf.io/nodeProxyIpv4", "192.168.1.2");
    for host in [&mut node, &mut outside] {
        for object in [&proxied, &policy(), &pod] {
            host.apply(object);
        }
        host.start();
    }
    let mut client = outside.client();
    wait_answer(&mut client, "a");
    for host in [&node, &outside] {
        host.apply(&other);
        host.apply(&policy().with("/spec/sessionAffinity", "ClientIP"));
    }
    node.wait_backends("proxied", 2);
    let first = answer(&mut client, Kind::Tcp4).unwrap();
    assert!(
        (0..20).all(|_| answer(&mut client, Kind::Tcp4).as_ref() == Ok(&first)),
        "a client keeps its pod"
    );
    for host in [&node, &outside] {
        host.apply(&policy());
    }
    let mut names = std::collections::BTreeSet::new();
    wait_until(SOON, || {
        names.extend(answer(&mut client, Kind::Tcp4));
        names.len() == 2
    });
    node.delete(&policy());
    let tables =
        || node.host().run(|| std::process::Command::new("nft").args(["list", "tables"]).output()).unwrap();
    wait_until(SOON, || !String::from_utf8_lossy(&tables().stdout).contains("balancing_proxy"));
}
