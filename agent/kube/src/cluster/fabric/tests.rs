//! What the controller writes for the fabric.

use std::time::Duration;

use balancing_core::{
    manifest::{Format, parse},
    membership::mac_of,
    objects::Object,
};

use super::*;

mod claims;
mod interleavings;
mod rights;
mod told;

const NOW: i64 = 1_800_000_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A cluster, what a leader knows of it, and what it has written.
struct Lab {
    snapshot: Snapshot,
    reading: Reading,
    orphans: Orphans,
    last: Option<(Kind, String)>,
    seen: BTreeMap<(Kind, String), Seen>,
    now: Timestamp,
    at: Instant,
}

impl Lab {
    fn new(text: &str) -> Self {
        let mut lab = Self {
            snapshot: Snapshot::new(None),
            reading: Reading::default(),
            orphans: Orphans::default(),
            last: None,
            seen: BTreeMap::new(),
            now: Timestamp::from_second(NOW).unwrap(),
            at: Instant::now(),
        };
        lab.put(text);
        lab
    }

    /// Puts objects, in YAML.
    fn put(&mut self, text: &str) {
        let manifest = parse(text, Format::Yaml).unwrap();
        assert!(manifest.problems.is_empty() && manifest.ignored.is_empty(), "{manifest:?}");
        for object in manifest.objects {
            let seen = match &object {
                Object::Fabric(it) => Some((Kind::TunnelFabric, it.name.clone(), it.uid.clone())),
                Object::Member(it) => Some((Kind::TunnelNode, it.name.clone(), it.uid.clone())),
                Object::ExternalHost(it) => Some((Kind::ExternalHost, it.name.clone(), it.uid.clone())),
                _ => None,
            };
            if let Some((kind, name, uid)) = seen {
                self.seen.insert((kind, name), Seen { uid, generation: 1, status: None });
            }
            self.snapshot.apply([(object.key(), Some(object))]);
        }
    }

    fn delete(&mut self, text: &str) {
        let manifest = parse(text, Format::Yaml).unwrap();
        self.snapshot.apply(manifest.objects.into_iter().map(|object| (object.key(), None)));
    }

    fn pass(&mut self, time: Duration) {
        self.at += time;
        self.now += jiff::SignedDuration::try_from(time).unwrap();
    }

    fn renew(&mut self, name: &str, seconds_ago: i64) {
        let renewed = Timestamp::from_second(self.now.as_second() - seconds_ago).unwrap();
        let mut reading = self.reading.clone();
        reading.leases.insert(name.to_owned(), Lease { renewed, seconds: 30, seen: self.at });
        self.reading = reading.after(Some(&self.reading));
    }

    /// Makes what is left to write, in short; statuses by the condition that stands in them as True or False.
    fn write(&mut self) -> Vec<String> {
        let known = Known {
            snapshot: &self.snapshot,
            reading: &self.reading,
            namespace: "own",
            now: self.now,
            at: self.at,
        };
        let seen = |kind, name: &str| self.seen.get(&(kind, name.to_owned()));
        let writes = known.writes(seen, &mut self.orphans, self.last.as_ref());
        let mut told = Vec::new();
        for write in writes {
            match write {
                Write::Hosts(hosts) => {
                    told.push(format!("hosts {hosts:?}"));
                    self.reading.hosts = hosts;
                }
                Write::Remove(it) => told.push(format!("- {} {}: {}", it.kind.name(), it.name, it.why)),
                Write::Status { kind, name, uid, status } => {
                    let value = serde_json::to_value(&status).unwrap();
                    let conditions = value["conditions"].as_array().unwrap().iter();
                    let said =
                        conditions.map(|it| format!("{}={}", it["reason"].as_str().unwrap(), it["status"]));
                    told.push(format!("{name}: {}", said.collect::<Vec<_>>().join(" ").replace('"', "")));
                    self.last = Some((kind, name.clone()));
                    self.seen.insert((kind, name), Seen { uid, generation: 1, status: Some(status) });
                }
            }
        }
        told
    }
}

fn fabric(name: &str, born: u8, pool: &str) -> String {
    format!(
        "{{apiVersion: balancing.elf.io/v1beta1, kind: TunnelFabric, metadata: {{name: {name}, uid: {name}-uid, \
         creationTimestamp: '2026-01-01T00:00:{born:02}Z'}}, spec: {{ipv4Pool: {pool}}}}}\n---\n"
    )
}

fn node(name: &str, uid: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, uid: {uid}, annotations: \
         {{balancing.elf.io/nodeProxyIpv4: 10.211.0.9}}}}, spec: {{podCIDRs: [10.1.0.0/24]}}, \
         status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}}}\n---\n"
    )
}

fn member(kind: &str, name: &str, uid: &str, born: u8, address: &str) -> String {
    let object = if kind == "Node" { format!("node.{name}") } else { format!("host.{name}") };
    let mac = mac_of("f", &object).map(|byte| format!("{byte:02x}")).join(":");
    format!(
        "{{apiVersion: balancing.elf.io/v1beta1, kind: TunnelNode, metadata: {{name: {object}, uid: {object}-uid, \
         creationTimestamp: '2026-01-01T00:00:{born:02}Z'}}, spec: {{fabric: f, kind: {kind}, name: {name}, uid: {uid}, \
         underlay: {{ipv4: 192.0.2.1}}, port: 7710, mac: '{mac}', addresses: [{address}], mtu: 1450}}}}\n---\n"
    )
}

fn claim(kind: &str, name: &str, uid: &str, address: &str) -> String {
    let object = address.replace('.', "-");
    format!(
        "{{apiVersion: balancing.elf.io/v1beta1, kind: TunnelAddressClaim, metadata: {{name: {object}, uid: {object}-uid}}, \
         spec: {{fabric: f, address: {address}, owner: {{kind: {kind}, name: {name}, uid: {uid}}}}}}}\n---\n"
    )
}

fn host(name: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: balancing.elf.io/v1beta1, kind: ExternalHost, metadata: {{name: {name}, uid: {name}-uid}}, \
         spec: {{fabric: f, underlayCIDRs: [192.0.2.0/24], {rest}}}}}\n---\n"
    )
}

const NOTHING: [&str; 0] = [];

#[test]
fn the_oldest_valid_fabric_is_in_force() {
    let mut lab = Lab::new(&(fabric("young", 2, "10.212.0.0/16") + &fabric("old", 1, "10.211.0.0/16")));
    lab.put(&fabric("broken", 0, "10.0.0.1/8"));
    let said = ["broken: InvalidSpec=False AddressesLeft=False", "old: Accepted=True AddressesLeft=False"];
    assert_eq!(lab.write(), [&said[..], &["young: NotInForce=False AddressesLeft=False"]].concat());
    assert_eq!(lab.write(), NOTHING, "only on change");
    lab.delete(&fabric("old", 1, "10.211.0.0/16"));
    lab.pass(MINUTE);
    assert_eq!(lab.write(), ["young: Accepted=True AddressesLeft=False"]);
}

#[test]
fn pools_overlap_nothing_of_the_cluster() {
    for (pool, of) in [
        ("10.1.0.0/16", "pod network of Node n1"),
        ("10.1.0.64/26", "pod network of Node n1"),
        ("192.0.0.0/16", "address of Node n1"),
        ("10.96.0.0/16", "ClusterIP of Service default/web"),
        ("10.2.0.0/16", "address of Pod default/p"),
    ] {
        let mut lab = Lab::new(&(fabric("f", 1, pool) + &node("n1", "u1")));
        lab.put("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.7}}");
        lab.put(
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.2.0.7}]}}",
        );
        assert_eq!(lab.write(), ["f: PoolOverlaps=False AddressesLeft=False"], "{pool}");
        let status = lab.seen[&(Kind::TunnelFabric, "f".to_owned())].status.clone();
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains(of) && text.contains(pool), "{text}");
    }
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/16") + &node("n1", "u1")));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"], "a proxy address comes from the pool");
}

#[test]
fn whoever_takes_an_address_of_the_pool_ends_no_fabric() {
    let said = "status: {conditions: [{type: Accepted, status: 'True', observedGeneration: 0}]}}\n---";
    let accepted = fabric("f", 1, "10.211.0.0/16").replace("}\n---", &format!(", {said}"));
    let mut lab = Lab::new(&(accepted + &node("n1", "u1")));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"]);
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.211.0.7}]}}";
    lab.put(pod);
    assert_eq!(lab.write(), ["f: Accepted=True PoolOverlaps=True AddressesLeft=False"]);
    lab.delete(pod);
    assert_eq!(lab.write(), ["f: Accepted=True NoOverlap=False AddressesLeft=False"]);
}

#[test]
fn a_pool_without_addresses_is_exhausted() {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/30") + &node("n1", "u1")));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"]);
    lab.put(&claim("Node", "n1", "u1", "10.211.0.2"));
    assert_eq!(lab.write(), ["f: Accepted=True PoolExhausted=True"]);
}

#[test]
fn a_claim_outlives_its_owner_by_a_quarter_of_an_hour() {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/16") + &node("n1", "u1")));
    lab.put(&(member("Node", "n1", "u1", 1, "10.211.0.2") + &claim("Node", "n1", "u1", "10.211.0.2")));
    lab.write();
    lab.pass(60 * MINUTE);
    assert_eq!(lab.write(), NOTHING);
    // Another node of the same name inherits nothing.
    lab.put(&node("n1", "u2"));
    assert_eq!(lab.write(), NOTHING, "its own TunnelNode may come any moment");
    let due = lab.orphans.next_due().unwrap();
    lab.pass(due - lab.at);
    assert_eq!(lab.orphans.next_due(), Some(due), "it stays due until it was looked at");
    assert_eq!(lab.write(), ["- TunnelNode node.n1: its owner is gone"]);
    assert_eq!(lab.orphans.next_due(), Some(due + MINUTE / 2), "what is not gone by then is tried again");
    lab.pass(MINUTE);
    assert_eq!(lab.write(), ["- TunnelNode node.n1: its owner is gone"]);
    lab.delete(&member("Node", "n1", "u1", 1, "10.211.0.2"));
    lab.write();
    let due = due - Duration::from_secs(2) + 15 * MINUTE;
    assert_eq!(lab.orphans.next_due(), Some(due), "the claim is next");
    lab.pass(13 * MINUTE);
    assert_eq!(lab.write(), NOTHING);
    lab.pass(MINUTE);
    assert_eq!(lab.write(), ["- TunnelAddressClaim 10-211-0-2: its owner is gone"]);
    // An owner that comes back in time begins anew.
    lab.put(&node("n1", "u1"));
    assert_eq!(lab.write(), NOTHING);
    lab.put(&node("n1", "u2"));
    assert_eq!(lab.write(), NOTHING);
}

#[test]
fn of_two_members_with_one_address_the_younger_is_told_and_hears_when_it_is_over() {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/16") + &node("n1", "u1") + &node("n2", "u2")));
    lab.put(&(member("Node", "n1", "u1", 2, "10.211.0.2") + &member("Node", "n2", "u2", 1, "10.211.0.2")));
    let told = lab.write();
    assert_eq!(told, ["f: Accepted=True AddressesLeft=False", "node.n1: DuplicateAddress=True"]);
    lab.put(&(claim("Node", "n2", "u2", "10.211.0.2") + &claim("Node", "n1", "u1", "10.211.0.7")));
    lab.snapshot.apply(
        parse(&member("Node", "n1", "u1", 2, "10.211.0.7"), Format::Yaml)
            .unwrap()
            .objects
            .into_iter()
            .map(|object| (object.key(), Some(object))),
    );
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False", "node.n1: NoConflict=False"]);
    assert_eq!(lab.write(), NOTHING);
}

#[test]
fn hosts_join_fall_silent_and_leave() {
    let mut lab = Lab::new(&host("db", "user: db-user"));
    assert_eq!(lab.write(), ["hosts {\"db\": \"db-uid 192.0.2.0/24 db-user\"}", "db: NoFabric=False"]);
    lab.put(&fabric("f", 1, "10.211.0.0/16"));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False", "db: NotJoined=False"]);
    let claimed = claim("ExternalHost", "db", "db-uid", "10.211.0.2");
    lab.put(&(claimed + &member("ExternalHost", "db", "db-uid", 1, "10.211.0.2")));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False", "db: Silent=False"]);
    lab.renew("host.db", 5);
    assert_eq!(lab.write(), ["db: Joined=True"]);
    for _ in 0..9 {
        lab.pass(MINUTE);
        lab.renew("host.db", 5);
        assert_eq!(lab.write(), NOTHING, "a renewal is no change");
    }
    lab.pass(MINUTE);
    lab.renew("host.db", 5);
    assert_eq!(lab.write(), ["db: Joined=True"], "but is told now and then");
    lab.pass(2 * MINUTE);
    assert_eq!(lab.write(), ["db: Silent=False"]);
    lab.pass(24 * 60 * MINUTE);
    assert_eq!(lab.write(), NOTHING);
    lab.pass(MINUTE);
    assert_eq!(lab.write(), ["- TunnelNode host.db: its host has not renewed its Lease for a day"]);
}

#[test]
fn a_host_whose_clock_is_days_behind_is_not_silent_as_long_as_it_renews() {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/16") + &host("db", "user: db-user")));
    lab.put(&claim("ExternalHost", "db", "db-uid", "10.211.0.2"));
    lab.put(&member("ExternalHost", "db", "db-uid", 1, "10.211.0.2"));
    for _ in 0..30 {
        lab.renew("host.db", 3 * 24 * 60 * 60);
        assert!(!lab.write().iter().any(|told| told.starts_with("- ")));
        lab.pass(60 * MINUTE);
    }
    lab.pass(24 * 60 * MINUTE);
    lab.write();
    lab.pass(MINUTE);
    assert_eq!(lab.write(), ["- TunnelNode host.db: its host has not renewed its Lease for a day"]);
}

#[test]
fn a_host_that_is_paused_moved_or_gone_is_no_member() {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/16") + &host("db", "serviceAccountName: host-db")));
    let claimed = claim("ExternalHost", "db", "db-uid", "10.211.0.2");
    lab.put(&(claimed + &member("ExternalHost", "db", "db-uid", 1, "10.211.0.2")));
    let user = "system:serviceaccount:own:host-db";
    assert_eq!(lab.write()[0], format!("hosts {{\"db\": \"db-uid 192.0.2.0/24 {user}\"}}"));
    for (change, why) in [
        (host("db", "user: db, paused: true"), "its ExternalHost is paused"),
        (
            host("db", "user: db").replace("192.0.2.0", "198.51.100.0"),
            "its underlay address is not of its ExternalHost's networks",
        ),
        (host("db", "user: db").replace("db-uid", "other-uid"), "its owner is gone"),
    ] {
        lab.put(&change);
        lab.write();
        lab.pass(MINUTE);
        assert_eq!(lab.write(), [format!("- TunnelNode host.db: {why}")], "{change}");
        assert_eq!(lab.reading.hosts.is_empty(), why.contains("paused"), "{:?}", lab.reading.hosts);
        lab.put(&host("db", "user: db"));
        lab.write();
    }
}

#[test]
fn what_others_write_into_a_status_is_left_alone() {
    let mut lab = Lab::new(&fabric("f", 1, "10.211.0.0/16"));
    lab.write();
    let key = (Kind::TunnelFabric, "f".to_owned());
    let mut status = serde_json::to_value(&lab.seen[&key].status).unwrap();
    let foreign = serde_json::json!({"type": "Foreign", "status": "True", "reason": "X", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    status["conditions"].as_array_mut().unwrap().insert(0, foreign);
    status["foreign"] = 7.into();
    lab.seen.insert(key.clone(), Seen::new("f-uid".to_owned(), 1, Some(&status)));
    assert_eq!(lab.write(), NOTHING);
    lab.seen.insert(key, Seen::new("f-uid".to_owned(), 1, Some(&serde_json::json!({"conditions": 5}))));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"]);
}

#[test]
fn a_cluster_without_a_fabric_is_not_looked_at() {
    let lab = Lab::new(&node("n1", "u1"));
    let known =
        |reading| Known { snapshot: &lab.snapshot, reading, namespace: "own", now: lab.now, at: lab.at };
    assert!(!known(&lab.reading).is_in_use());
    let left = Reading { hosts: [("db".to_owned(), String::new())].into(), ..Reading::default() };
    assert!(known(&left).is_in_use(), "what an earlier leader left is taken back");
}
