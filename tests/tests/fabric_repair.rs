//! What happens to a host under a fabric at work, and how soon its agent has mended it: the tunnel carries again, by the same device
//! where that can be.
//!
//! The marks are those of a machine that does nothing else; a test waits [`BUSY`] times as long, far below the 30 seconds after which
//! an agent looks at everything anyway.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use balancing_tests::{fabric::*, *};

/// How much slower a machine may be that does other work, too.
const BUSY: u32 = 5;
/// Until an exchanged address of the underlay is in use everywhere.
const MOVED: Duration = Duration::from_secs(2);
/// Until damage is mended.
const MENDED: Duration = Duration::from_secs(1);

/// Whether a tunnel address answers to a host.
fn answers(from: &Node, address: &str) -> bool {
    let mut ping = std::process::Command::new("busybox");
    ping.args(["ping", "-c", "1", "-W", "1", address]).stdout(std::process::Stdio::null());
    from.host().run(|| ping.status()).unwrap().success()
}

/// Waits until the first node answers to the host outside over both families.
fn wait_carries(world: &World, what: &str, mark: Duration) {
    let start = Instant::now();
    for address in ["10.211.0.11", "fd11::11"] {
        eventually_within(mark * BUSY, || match answers(&world.outside, address) {
            true => Ok(()),
            false => Err(format!("{what}: {address} does not answer")),
        });
    }
    eprintln!("{what}: {:?}", start.elapsed());
}

fn index(node: &Node) -> String {
    at(node, "ip -o link show balancing0").split(':').next().unwrap().to_owned()
}

#[test]
fn an_underlay_address_that_changes_is_in_use_soon_by_the_same_device() {
    if !require_kernel() {
        return;
    }
    let world = World::new("repair-address").start();
    wait_carries(&world, "at first", MOVED);
    let node = &world.nodes[0];
    let before = index(node);
    at(node, "ip address add 192.168.1.77/24 dev under0");
    at(node, "ip address del 192.168.1.2/24 dev under0");
    // The kernel takes a second address of a network along with the first.
    if !at(node, "ip address show dev under0").contains("192.168.1.77") {
        at(node, "ip address add 192.168.1.77/24 dev under0");
    }
    world.underlay.route(node.host(), 1);
    world.apply(&member("Node", "n1", 1).with("/spec/underlay/ipv4", "192.168.1.77"));
    eventually_within(MOVED * BUSY, || match at(&world.outside, "bridge fdb show dev balancing0") {
        all if all.contains("192.168.1.77") => Ok(()),
        all => Err(all),
    });
    wait_carries(&world, "another address", MOVED);
    assert_eq!(index(node), before, "the device is the same");
}

#[test]
fn the_device_survives_its_parent_and_follows_its_mtu() {
    if !require_kernel() {
        return;
    }
    let world = World::new("repair-parent").start();
    wait_carries(&world, "at first", MENDED);
    let node = &world.nodes[0];
    let before = index(node);
    node.host().sysctl("ipv6/conf/under0/keep_addr_on_down", "1");
    at(node, "ip link set under0 down");
    at(node, "ip link set under0 up");
    world.underlay.route(node.host(), 1);
    wait_carries(&world, "the parent goes down and up", MENDED);
    world.underlay.rejoin(node.host(), 1);
    wait_carries(&world, "the parent is made anew", MENDED);
    at(node, "ip link set under0 mtu 1400");
    eventually_within(MENDED * BUSY, || match at(node, "ip link show balancing0") {
        shown if shown.contains("mtu 1350") => Ok(()),
        shown => Err(shown),
    });
    wait_carries(&world, "the parent has another MTU", MENDED);
    assert_eq!(index(node), before, "the device is the same");
}

#[test]
fn damage_by_hand_is_mended_and_what_is_not_ours_stays() {
    if !require_kernel() {
        return;
    }
    let world = World::new("repair-damage").start();
    wait_carries(&world, "at first", MENDED);
    let node = &world.nodes[0];
    let mac = "66:00:00:00:00:04";
    for damage in [
        "ip link del balancing0",
        "ip link set balancing0 down",
        "ip link set balancing0 address 02:00:00:00:00:01",
        "ip link set balancing0 mtu 1000",
        "ip neigh flush dev balancing0 nud permanent",
        "ip route flush dev balancing0 proto 111",
        "ip address flush dev balancing0",
        &format!("bridge fdb del {mac} dev balancing0 self"),
        &format!("bridge fdb replace {mac} dev balancing0 dst 192.168.2.2 self permanent"),
    ] {
        at(node, damage);
        wait_carries(&world, damage, MENDED);
        eventually_within(MENDED * BUSY, || match at(node, "ip link show balancing0") {
            shown if shown.contains("mtu 1450") && shown.contains("66:00:00:00:00:01") => Ok(()),
            shown => Err(format!("{damage}: {shown}")),
        });
    }
    let foreign = [
        (
            "bridge fdb add 02:00:00:00:00:05 dev balancing0 dst 192.0.2.5 self dynamic",
            "bridge fdb",
            "02:00:00:00:00:05",
        ),
        (
            "ip neigh add 10.211.0.5 lladdr 02:00:00:00:00:06 dev balancing0 nud stale",
            "ip neigh",
            "02:00:00:00:00:06",
        ),
    ];
    for (command, _, _) in foreign {
        at(node, command);
    }
    // One of ours beside them is a reason for a look.
    at(node, &format!("bridge fdb del {mac} dev balancing0 self"));
    wait_carries(&world, "an entry beside foreign ones", MENDED);
    for (command, list, text) in foreign {
        assert!(at(node, list).contains(text), "{command}");
    }
}

#[test]
fn rules_that_somebody_flushes_are_back_within_a_second() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-flushed").start();
    let node = &world.nodes[0];
    let rules = || -> Vec<String> {
        let all = at(node, "nft list ruleset");
        all.lines().filter(|line| !line.contains("packets")).map(str::to_owned).collect()
    };
    // Its peers have been let in.
    let before = eventually(|| {
        let all = rules();
        let members = all.join("").matches("192.168.").count();
        if members >= 10 { Ok(all) } else { Err(all.join("\n")) }
    });
    for damage in [
        "nft flush ruleset",
        "nft delete table inet balancing",
        "nft flush set inet balancing members4",
        "nft flush chain inet balancing tunnel",
    ] {
        at(node, damage);
        // Far below the 30 seconds of the slow look.
        eventually_within(Duration::from_secs(5), || {
            let all = rules();
            if all == before { Ok(()) } else { Err(format!("{damage}: {}", all.join("\n"))) }
        });
    }
}

#[test]
fn strict_hosts_work_or_say_what_is_in_the_way() {
    if !require_kernel() {
        return;
    }
    let world = World::new("repair-strict");
    let drops = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; ct state established accept; }; }";
    let nft = |host: &Node, text: &str| {
        let mut program = std::process::Command::new("nft");
        assert!(host.host().run(|| program.arg(text).status()).unwrap().success(), "{text}");
    };
    nft(&world.nodes[0], drops);
    let world = world.start();
    let (node, outside) = (&world.nodes[0], &world.outside);
    let pod = pod_on("n1", "a", "10.244.1.5");
    let place = node.overlay_pod(&pod, &["10.244.1.5"]);
    let _server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
    world.apply(&pod);
    let mut client = outside.client();
    let problems = told(node)["problems"].to_string();
    assert!(problems.contains("chain FORWARD of table ip filter drops"), "{problems}");
    for way in ["iifname", "oifname"] {
        nft(node, &format!("insert rule ip filter FORWARD {way} balancing0 accept"));
    }
    wait_answer(&mut client, "a");
    // Strict for every other device: ours is loose.
    for variable in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
        node.host().sysctl(variable, "1");
        outside.host().sysctl(variable, "1");
    }
    wait_answer(&mut client, "a");
    node.host().sysctl("ipv4/ip_forward", "0");
    let says = |words: &str| {
        // A switch tells nobody that it changed; a link that changes is the reason for a look.
        at(node, "ip link set lo mtu 65000");
        at(node, "ip link set lo mtu 65536");
        let told = told(node)["problems"].to_string();
        if told.contains(words) { Ok(()) } else { Err(told) }
    };
    eventually(|| says("net.ipv4.ip_forward is 0"));
    node.host().sysctl("ipv4/ip_forward", "1");
    wait_answer(&mut client, "a");
}

#[test]
fn who_may_send_follows_the_fabric_at_once() {
    if !require_kernel() {
        return;
    }
    let world = World::new("repair-accept").start();
    let node = &world.nodes[0];
    for (who, wanted) in [("Anyone", false), ("Members", true), ("Anyone", false), ("Members", true)] {
        world.apply(&fabric().with("/spec/acceptFrom", who));
        eventually_within(MENDED * BUSY, || match at(node, "nft list tables") {
            tables if tables.contains("inet balancing") == wanted => Ok(()),
            tables => Err(format!("{who}: {tables}")),
        });
    }
}
