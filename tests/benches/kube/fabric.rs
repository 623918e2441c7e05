//! What a fabric of 5,000 members costs the API server: sizes and requests of a few hundred real ones, written by the part of the
//! agent that writes them, and what follows from these for many.

use std::time::Duration;

use balancing_core::{
    membership::mac_of,
    objects::{MemberKind, Owner},
};
use balancing_kube::member::{MemberWish, Membership, Report as Written, Wish};
use balancing_tests::{ApiClient, Object, eventually_within};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    Report,
    world::{NAMESPACE, World},
};

const VERSION: &str = "balancing.elf.io/v1beta1";
const POOL: &str = "10.211.0.0/16";
/// Members that are counted with, and hosts outside among them.
const MEMBERS: f64 = 5000.0;
const HOSTS: f64 = 500.0;
/// A rolling restart, the longest wait of a watch after an outage, and that for a list of so many, in seconds.
const RESTART: f64 = 600.0;
const SPREAD: f64 = 15.0;
const SPREAD_LISTS: f64 = 50.0;
/// As the agent and the controller have them, in seconds: a Lease is renewed, Leases are read, claims are looked at, a watch ends.
const RENEWAL: f64 = 10.0;
const READ: f64 = 15.0;
const RECHECK: f64 = 3600.0;
const WATCH: f64 = 260.0;
/// Watches of an agent for the fabric: TunnelFabrics and TunnelNodes.
const WATCHES: f64 = 2.0;
const MIB: f64 = 1024.0 * 1024.0;

/// Bytes of one object in a list, and as an event.
struct Sizes {
    member: f64,
    event: f64,
    claim: f64,
    lease: f64,
}

pub(crate) fn measure(report: &mut Report, world: &mut World, quick: bool) {
    let count: u16 = if quick { 40 } else { 200 };
    let fabric = Object::named(VERSION, "TunnelFabric", "", "default").with("/spec/ipv4Pool", POOL);
    let client = world.plane.client();
    client.put(&fabric).expect("a fabric is made");
    let place = |n: u16| format!("192.0.{}.{}", 3 + n / 200, 1 + n % 200);
    world.plane.add_nodes((0..count).map(|n| (format!("member-{n}"), place(n))));
    let nodes = client.list("v1", "Node").expect("nodes are listed");
    let nodes: Vec<_> = nodes.into_iter().filter(|node| node.name().starts_with("member-")).collect();
    let before = requests(client);
    let joined = join(world, &nodes);
    let joins = (requests(client) - before) / f64::from(count);
    drop(joined);
    let before = requests(client);
    let again = join(world, &nodes);
    let restarts = (requests(client) - before) / f64::from(count);
    let sizes = sizes(world, count);
    drop(again);
    report.tell("fabric: bytes of a TunnelNode in a list", sizes.member, "B");
    report.tell("  the same as an event of a watch", sizes.event, "B");
    report.tell("  of a TunnelAddressClaim", sizes.claim, "B");
    report.tell("  of a Lease of a host outside", sizes.lease, "B");
    report.tell("  requests for the fabric of a member that joins, watches beside", joins, "");
    report.tell("  of one that starts again", restarts, "");
    tell(report, &sizes, restarts);
}

/// What follows for many members.
fn tell(report: &mut Report, sizes: &Sizes, restarts: f64) {
    let list = MEMBERS * sizes.member;
    report.tell(
        "5,000 members: TunnelNodes and claims in etcd",
        MEMBERS * (sizes.member + sizes.claim) / MIB,
        "MiB",
    );
    report.tell("  TunnelNodes that each agent holds", list / MIB, "MiB");
    let rest = HOSTS / RENEWAL + HOSTS / 600.0 + 1.0 / READ + 2.0 * MEMBERS / RECHECK;
    report.tell("  at rest: events to agents", 0.0, "/s");
    report.tell("  at rest: requests but watches, with 500 hosts outside", rest, "/s");
    report.tell("  at rest: watches that are asked for anew", MEMBERS * WATCHES / WATCH, "/s");
    report.tell("  at rest: Leases that the controller reads", HOSTS * sizes.lease / READ / 1024.0, "KiB/s");
    report.tell("  one member changes: bytes to all agents", MEMBERS * sizes.event / MIB, "MiB");
    let requests = MEMBERS * (restarts + WATCHES) / RESTART;
    report.tell("  all agents start again within 10 min: requests", requests, "/s");
    report.tell("  the same: bytes of lists", MEMBERS * list / RESTART / MIB, "MiB/s");
    report.tell("  the same: TunnelNodes that change", 0.0, "");
    let resumed = MEMBERS * WATCHES * 2.0;
    report.tell("  the network was away for 10 min: requests, none of them a list", resumed / SPREAD, "/s");
    report.tell("  the API server started anew: lists, in all", MEMBERS * list / MIB / 1024.0, "GiB");
    report.tell(
        "  the same: bytes, if it could answer at once",
        MEMBERS * list / SPREAD_LISTS / MIB,
        "MiB/s",
    );
}

/// Members as their agents write them; they are there when it returns.
fn join(world: &World, nodes: &[Object]) -> Vec<watch::Sender<Wish>> {
    let client = world.plane.client();
    let known = client.list(VERSION, "TunnelNode").expect("members are listed");
    let seen = |name: &str| known.iter().find(|member| member.name() == name);
    let wishes = nodes.iter().map(|node| {
        let (wish, wishes) = watch::channel(wish(node, seen(&format!("node.{}", node.name()))));
        let (reports, _) = watch::channel(Written::default());
        let membership = Membership::new(client.kube(), Some(node.name().to_owned()), NAMESPACE);
        client.spawn(membership.run(wishes, reports));
        wish
    });
    let wishes: Vec<_> = wishes.collect();
    eventually_within(Duration::from_secs(120), || {
        let found = client.list(VERSION, "TunnelNode").map_err(|refusal| refusal.to_string())?.len();
        if found >= nodes.len() { Ok(()) } else { Err(format!("{found} members")) }
    });
    settle(client);
    wishes
}

/// Waits until nobody asks any more.
fn settle(client: &ApiClient) {
    let mut before = requests(client);
    eventually_within(Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_secs(2));
        let now = requests(client);
        let asked = now - std::mem::replace(&mut before, now);
        if asked < 1.0 { Ok(()) } else { Err(format!("{asked} requests")) }
    });
}

fn wish(node: &Object, known: Option<&Object>) -> Wish {
    let mut wish = MemberWish {
        fabric: "default".to_owned(),
        owner: Owner { kind: MemberKind::Node, name: node.name().to_owned(), uid: node.uid().to_owned() },
        pools: POOL.parse().into_iter().collect(),
        underlay_v4: node.at("/status/addresses/0/address").as_str().and_then(|it| it.parse().ok()),
        underlay_v6: None,
        port: 7710,
        mac: mac_of("default", &format!("node.{}", node.name())),
        mtu: 1450,
        seen: None,
        lacks_claim: false,
        proven: None,
        annotated: Vec::new(),
    };
    if let Some(known) = known {
        let address = known.at("/spec/addresses/0").as_str().and_then(|it| it.parse().ok());
        wish.seen = Some(balancing_core::objects::MemberSpec {
            fabric: wish.fabric.clone(),
            kind: wish.owner.kind,
            name: wish.owner.name.clone(),
            uid: wish.owner.uid.clone(),
            underlay_v4: wish.underlay_v4,
            underlay_v6: None,
            port: wish.port,
            mac: wish.mac,
            addresses: address.into_iter().collect(),
            mtu: wish.mtu,
        });
        // An agent that starts again annotates its Node again.
        wish.proven = Some(address.into_iter().collect());
        wish.annotated = address.into_iter().collect();
    }
    Wish::Member(Box::new(wish))
}

/// Requests that members make, as the API server counts them; not those of the controller, of the bench, and watches.
fn requests(client: &ApiClient) -> f64 {
    let text = client.text("/metrics").expect("the API server has metrics");
    let of_members = |line: &&str| {
        let has = |part: &str| line.contains(part);
        line.starts_with("apiserver_request_total{")
            && !has("verb=\"WATCH\"")
            && !has("subresource=\"status\"")
            && (has("resource=\"tunneladdressclaims\"")
                || has("resource=\"tunnelnodes\"") && has("verb=\"APPLY\"")
                || has("resource=\"nodes\"") && has("verb=\"APPLY\""))
    };
    text.lines().filter(of_members).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn sizes(world: &World, count: u16) -> Sizes {
    let client = world.plane.client();
    let length = |path: &str| client.text(path).expect("a list is there").len() as f64;
    let each = |path: &str| length(path) / f64::from(count);
    let ours = "/apis/balancing.elf.io/v1beta1";
    let stream = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=2";
    let spec = json!({"holderIdentity": "host.edge", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"});
    for n in 0..count {
        let lease = Object::named("coordination.k8s.io/v1", "Lease", NAMESPACE, &format!("host.edge-{n}"));
        client.put(&lease.with("/spec", spec.clone())).expect("a Lease is written");
    }
    Sizes {
        member: each(&format!("{ours}/tunnelnodes")),
        event: each(&format!("{ours}/tunnelnodes?{stream}")),
        claim: each(&format!("{ours}/tunneladdressclaims")),
        lease: each(&format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")),
    }
}
