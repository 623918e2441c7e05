//! How members get their addresses from a real API server, while the controller collects what is left, and who keeps them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use balancing_core::{
    membership::mac_of,
    objects::{MemberKind, Owner},
};
use balancing_kube::member::{MemberWish, Membership, Report, Wish};
use balancing_tests::*;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    fabric_hosts::{ANNOTATION, Fabric, tunnel_fabric},
    world::{NAMESPACE, VERSION, World, condition_of, text},
};

/// Events wait until a trouble has stood for a while.
const STANDS: Duration = Duration::from_secs(60);
/// An Event of a member comes after 90 s at the latest.
const TOLD: Duration = Duration::from_secs(120);

/// The part of an agent that writes for the fabric, in the name of a node.
struct Writer {
    _client: ApiClient,
    wish: watch::Sender<Wish>,
    reports: watch::Receiver<Report>,
}

fn wish(node: &Object, number: u8, pools: &[&str]) -> Wish {
    Wish::Member(Box::new(MemberWish {
        fabric: "default".to_owned(),
        owner: Owner { kind: MemberKind::Node, name: node.name().to_owned(), uid: node.uid().to_owned() },
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
        underlay_v4: Some([192, 0, 2, number].into()),
        underlay_v6: None,
        port: 7710,
        mac: mac_of("default", &format!("node.{}", node.name())),
        mtu: 1450,
        seen: None,
        lacks_claim: false,
        proven: None,
        annotated: Vec::new(),
    }))
}

impl Writer {
    fn new(world: &World, node: &str) -> Self {
        let client = world.plane.client_of(&world.kubeconfig(node));
        let (wish, wishes) = watch::channel(Wish::Unknown);
        let (reports_in, reports) = watch::channel(Report::default());
        client
            .spawn(Membership::new(client.kube(), Some(node.to_owned()), NAMESPACE).run(wishes, reports_in));
        Self { _client: client, wish, reports }
    }

    fn problem(&self) -> Option<String> {
        self.reports.borrow().problem.clone()
    }
}

fn list(world: &World, kind: &str) -> Vec<Object> {
    world.plane.client().list(VERSION, kind).unwrap()
}

/// The address of each TunnelNode, by its name and uid; none is there twice, and each has its claim.
fn addresses(world: &World) -> Result<BTreeMap<String, String>, String> {
    let claims: BTreeMap<String, String> = list(world, "TunnelAddressClaim")
        .iter()
        .map(|claim| (text(claim, "/spec/address").to_owned(), text(claim, "/spec/owner/uid").to_owned()))
        .collect();
    let (mut found, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for member in list(world, "TunnelNode") {
        for address in member.at("/spec/addresses").as_array().unwrap() {
            let address = address.as_str().unwrap().to_owned();
            assert!(taken.insert(address.clone()), "{address} is there twice");
            if claims.get(&address).map(String::as_str) != Some(text(&member, "/spec/uid")) {
                return Err(format!("{address} of {} has no claim", member.name()));
            }
            found.insert(member.name().to_owned(), address);
        }
    }
    Ok(found)
}

fn claim(owner: &Object, address: &str) -> Object {
    let labels = json!({"balancing.elf.io/owner-uid": owner.uid()});
    let owner = json!({"kind": "Node", "name": owner.name(), "uid": owner.uid()});
    Object::named(VERSION, "TunnelAddressClaim", "", &address.replace('.', "-"))
        .with("/metadata/labels", labels)
        .with("/spec", json!({"fabric": "default", "address": address, "owner": owner}))
}

/// Waits for an Event on the TunnelFabric.
#[track_caller]
fn wait_event(world: &World, reason: &str, words: &str) {
    eventually_within(TOLD, || {
        let events = world.plane.client().list("events.k8s.io/v1", "Event").map_err(|e| e.to_string())?;
        let is_it = |event: &&Object| {
            text(event, "/regarding/kind") == "TunnelFabric"
                && text(event, "/reason") == reason
                && text(event, "/note").contains(words)
        };
        let notes = || events.iter().map(|event| text(event, "/note").to_owned()).collect::<Vec<_>>();
        events.iter().find(is_it).map(drop).ok_or_else(|| format!("no {reason} in {:?}", notes()))
    });
}

/// T10.
#[test]
fn ten_members_at_once_get_ten_addresses_and_of_nine_one_gets_none_and_says_so() {
    if !require_kernel() {
        return;
    }
    // A /28 has room for 13.
    for (taken, left) in [(3, 10), (4, 9)] {
        let world = World::start();
        let fabric = world.put(&tunnel_fabric("10.211.0.0/28"));
        let holder = world.plane.add_node("holder", &[], "192.0.2.100");
        for last in 2..2 + taken {
            world.put(&claim(&holder, &format!("10.211.0.{last}")));
        }
        let nodes: Vec<Object> = (1..=10_u8)
            .map(|n| world.plane.add_node(&format!("n{n}"), &[], &format!("192.0.2.{n}")))
            .collect();
        let writers: Vec<Writer> = nodes.iter().map(|node| Writer::new(&world, node.name())).collect();
        for ((writer, node), number) in writers.iter().zip(&nodes).zip(1..) {
            writer.wish.send(wish(node, number, &["10.211.0.0/28"])).unwrap();
        }
        eventually(|| {
            let found = addresses(&world)?;
            if found.len() == left { Ok(()) } else { Err(format!("{found:?}")) }
        });
        let is_full = |problem: String| problem.starts_with("all 13 addresses of the pool 10.211.0.0/28");
        eventually(|| {
            let lacking = writers.iter().filter_map(Writer::problem).filter(|it| is_full(it.clone())).count();
            if lacking == 10 - left { Ok(()) } else { Err(format!("{lacking} say that the pool is full")) }
        });
        let most = format!("Node holder has most of them, {taken}");
        world.wait_condition(&fabric, "Exhausted", ("True", "PoolExhausted"), &most);
        if left == 9 {
            wait_event(&world, "PoolExhausted", "10.211.0.0/28");
        }
    }
}

#[test]
fn of_two_pools_a_full_one_keeps_nobody_from_the_other() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.plane.add_node("n1", &[], "192.0.2.1");
    let holder = world.plane.add_node("holder", &[], "192.0.2.100");
    world.put(&tunnel_fabric("10.211.0.0/30").with("/spec/ipv6Pool", "fd00:10:211::/64"));
    let held = world.put(&claim(&holder, "10.211.0.2"));
    let writer = Writer::new(&world, "n1");
    let pools = ["10.211.0.0/30", "fd00:10:211::/64"];
    writer.wish.send(wish(&node, 1, &pools)).unwrap();
    let addresses = || addresses(&world).map(|found| found.get("node.n1").cloned().unwrap_or_default());
    eventually(|| match addresses()? {
        address if address.starts_with("fd00:10:211:") => Ok(()),
        other => Err(other),
    });
    eventually(|| match writer.problem() {
        Some(problem) if problem.contains("the pool 10.211.0.0/30 are taken") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.delete(&held);
    eventually_within(STANDS, || {
        let member = world.plane.client().get(&Object::named(VERSION, "TunnelNode", "", "node.n1"));
        let count = member.map_err(|e| e.to_string())?.at("/spec/addresses").as_array().map_or(0, Vec::len);
        if count == 2 && writer.problem().is_none() { Ok(()) } else { Err(format!("{count}")) }
    });
}

/// T11, for real: `cluster::fabric` of agent/kube has a thousand rounds of it without an API server. T12 as well: nobody uses the
/// claim of an agent that was killed before it described itself.
#[test]
fn a_node_that_is_made_again_under_its_name_and_an_agent_that_was_killed_get_addresses_of_their_own() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.put(&tunnel_fabric("10.211.0.0/24"));
    let mut last = None;
    for round in 0..6 {
        let nodes = ["n1", "n2"].map(|name| world.plane.add_node(name, &[], "192.0.2.1"));
        // An agent that was killed between claim and TunnelNode.
        let killed = claim(&nodes[0], &format!("10.211.0.{}", 200 + round));
        world.put(&killed);
        let writers = ["n1", "n2"].map(|name| Writer::new(&world, name));
        for ((writer, node), number) in writers.iter().zip(&nodes).zip(1..) {
            writer.wish.send(wish(node, number, &["10.211.0.0/24"])).unwrap();
        }
        let uids: BTreeSet<&str> = nodes.iter().map(Object::uid).collect();
        let found = eventually(|| {
            let members = list(&world, "TunnelNode");
            let of: BTreeSet<&str> = members.iter().map(|member| text(member, "/spec/uid")).collect();
            if of == uids { addresses(&world) } else { Err(format!("{of:?}, not {uids:?}")) }
        });
        assert_eq!(found["node.n1"], text(&killed, "/spec/address"), "its claim is taken up again");
        assert_ne!(
            last.replace(found["node.n2"].clone()),
            Some(found["node.n2"].clone()),
            "nothing is inherited"
        );
        drop(writers);
        nodes.iter().for_each(|node| world.delete(node));
    }
}

#[test]
fn whoever_takes_the_address_of_a_younger_member_loses_his_tunnelnode() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.put(&tunnel_fabric("10.211.0.0/24"));
    let nodes =
        [("n1", 1), ("n2", 2)].map(|(name, n)| world.plane.add_node(name, &[], &format!("192.0.2.{n}")));
    let writers = ["n1", "n2"].map(|name| Writer::new(&world, name));
    for ((writer, node), number) in writers.iter().zip(&nodes).zip(1..) {
        writer.wish.send(wish(node, number, &["10.211.0.0/24"])).unwrap();
        eventually(|| match addresses(&world)?.len() {
            count if count == usize::from(number) => Ok(()),
            count => Err(format!("{count} members")),
        });
    }
    let [_thief, victim] = writers;
    let stolen = world.plane.client_of(&world.kubeconfig("n1"));
    let member = Object::named(VERSION, "TunnelNode", "", "node.n1");
    let before = world.plane.client().get(&member).unwrap();
    let taken = addresses(&world).unwrap()["node.n2"].clone();
    stolen.patch(&member, "", json!({"spec": {"addresses": [taken]}})).unwrap();
    eventually(|| match world.plane.client().get(&member) {
        Err(refusal) if refusal.code == 404 => Ok(()),
        Ok(found) if found.uid() != before.uid() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let said = format!("its address {taken} is claimed by Node n2");
    wait_event(&world, "AddressTakenBack", &said);
    assert_eq!(addresses(&world).unwrap()["node.n2"], taken);
    assert_eq!(victim.problem(), None);
    // The same with the underlay address of a Node.
    let (stolen, member) =
        (world.plane.client_of(&world.kubeconfig("n2")), Object::named(VERSION, "TunnelNode", "", "node.n2"));
    let before = world.plane.client().get(&member).unwrap();
    stolen.patch(&member, "", json!({"spec": {"underlay": {"ipv4": "192.0.2.1"}}})).unwrap();
    eventually_within(STANDS, || match world.plane.client().get(&member) {
        Err(refusal) if refusal.code == 404 => Ok(()),
        Ok(found) if found.uid() != before.uid() => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_node_that_cannot_join_says_so_in_an_event() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    // It has no address in any network of the underlay.
    let _node = world.started_node();
    let fabric = tunnel_fabric("10.211.0.0/24").with("/spec/underlay/cidrs", json!(["203.0.113.0/24"]));
    world.put(&fabric);
    wait_event(&world, "JoinFailed", "n1 cannot join: ");
}

#[test]
fn a_claim_deleted_by_hand_comes_back_and_who_leaves_the_fabric_keeps_nothing() {
    if !require_kernel() {
        return;
    }
    let mut fabric = Fabric::start();
    fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
    fabric.start_agents();
    let address = fabric.proxy_of("n1");
    let claim = Object::named(VERSION, "TunnelAddressClaim", "", &address.replace('.', "-"));
    let before = fabric.world.plane.client().get(&claim).unwrap();
    fabric.world.delete(&claim);
    let member = Object::named(VERSION, "TunnelNode", "", "node.n1");
    eventually_within(STANDS, || match fabric.world.plane.client().get(&claim) {
        Ok(again) if again.at("/spec") == before.at("/spec") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually_within(STANDS, || {
        let member = fabric.world.plane.client().get(&member).map_err(|e| e.to_string())?;
        match condition_of(&member, "Claimed") {
            Some((status, ..)) if status == "True" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // n3 leaves by the selector.
    fabric.proxy_of("n3");
    for name in ["n1", "n2"] {
        let label = json!({"metadata": {"labels": {"in": "fabric"}}});
        fabric.world.plane.client().patch(&fabric.node(name), "", label).unwrap();
    }
    fabric.world.put(&tunnel_fabric("10.211.0.0/24").with("/spec/nodeSelector/matchLabels/in", "fabric"));
    let left = Object::named(VERSION, "TunnelNode", "", "node.n3");
    eventually_within(STANDS, || match fabric.world.plane.client().get(&left) {
        Err(refusal) if refusal.code == 404 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually(|| match text(&fabric.node("n3"), ANNOTATION) {
        "" => Ok(()),
        found => Err(found.to_owned()),
    });
    assert!(fabric.world.plane.client().get(&member).is_ok());
}
