//! Slices after any history hold what is wanted, and each change costs as few writes as it can.

use super::*;
use balancing_core::{
    objects::{Pod, PolicyRef, PortRef, RedirectMode},
    resolve::{
        ClusterPods, Engine, Role, Settings,
        fixtures::{
            Tcp, at_address, balancing, ip, labels, mk_balancing, mk_container_port, mk_node, mk_pod,
            mk_ports, mk_settings, web_pods,
        },
    },
};

/// The slices of a policy as the API server would have them.
#[derive(Default)]
struct Server {
    slices: BTreeMap<String, Known>,
    version: u64,
}

impl Server {
    /// Plans, writes and checks the outcome; the writes.
    fn settle(&mut self, wanted: Option<&Wanted>) -> Vec<SliceOp> {
        let steps = self.plan(wanted);
        let ops: Vec<SliceOp> = steps.iter().flatten().cloned().collect();
        let names: BTreeSet<&str> = ops.iter().map(name).collect();
        assert_eq!(names.len(), ops.len(), "each slice is touched once");
        for (at, step) in steps.iter().enumerate() {
            step.iter().for_each(|op| self.write(op));
            assert!(self.plan(wanted) == steps[at + 1..], "the steps that are left stay the same");
        }
        self.check(wanted);
        ops
    }

    fn plan(&self, wanted: Option<&Wanted>) -> Vec<Vec<SliceOp>> {
        let known = self.slices.iter().map(|(name, known)| (name.as_str(), known)).collect();
        plan(wanted, &known, &BTreeSet::new())
    }

    fn write(&mut self, op: &SliceOp) {
        self.version += 1;
        match op {
            SliceOp::Create(slice) | SliceOp::Update(slice) => {
                let old = self.slices.get(&slice.name);
                assert_eq!(old.is_none(), matches!(op, SliceOp::Create(_)), "{op:?}");
                if let Some(old) = old {
                    assert_eq!(old.slice.group.family, slice.group.family, "addressType is immutable");
                }
                // The way over the wire loses nothing.
                let mut object = wire::to_api(slice, "balancing", old);
                object.metadata.resource_version = Some(self.version.to_string());
                let known = wire::from_api(&object);
                assert_eq!((&known.slice, known.exact), (slice, true));
                self.slices.insert(slice.name.clone(), known);
            }
            SliceOp::Delete(name) => assert!(self.slices.remove(name).is_some(), "{name}"),
        }
    }

    fn check(&self, wanted: Option<&Wanted>) {
        let mut listed = BTreeMap::<Group, Endpoints>::new();
        let heads: Vec<usize> = self.slices.values().filter_map(|known| known.slice.set_size).collect();
        assert_eq!(heads, wanted.map(|_| self.slices.len()).into_iter().collect::<Vec<_>>(), "one head");
        for known in self.slices.values() {
            let slice = &known.slice;
            assert!(slice.endpoints.len() <= LIMIT, "{}", slice.name);
            assert_eq!(Some(&slice.owner), wanted.map(|wanted| &wanted.owner));
            if slice.endpoints.is_empty() {
                assert!(slice.set_size.is_some(), "{} is of no use", slice.name);
                continue;
            }
            let group = listed.entry(slice.group.clone()).or_default();
            for (pod, endpoint) in &slice.endpoints {
                assert!(group.insert(pod.clone(), endpoint.clone()).is_none(), "{pod:?} is listed twice");
            }
        }
        let groups = wanted.map(|wanted| wanted.groups.clone()).unwrap_or_default();
        let groups = groups.into_iter().filter(|(_, endpoints)| !endpoints.is_empty()).collect();
        assert_eq!(listed, groups);
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.values().map(|known| known.slice.endpoints.len()).collect()
    }
}

fn name(op: &SliceOp) -> &str {
    match op {
        SliceOp::Create(slice) | SliceOp::Update(slice) => &slice.name,
        SliceOp::Delete(name) => name,
    }
}

fn mk_group(family: Family, port: u16) -> Group {
    Group { family, ports: mk_ports(&[("", port, Tcp)]).into_iter().collect() }
}

fn mk_endpoint(n: usize, ready: bool) -> Endpoint {
    Endpoint {
        uid: format!("uid-{n}"),
        ip: IpAddr::from([10, 0, u8::try_from(n / 256).unwrap(), u8::try_from(n % 256).unwrap()]),
        node: "node-a".to_owned(),
        zone: String::new(),
        ready,
        serving: ready,
        terminating: false,
    }
}

fn mk_pod_name(n: usize) -> ObjectRef {
    ObjectRef { namespace: "default".to_owned(), name: format!("p{n:04}") }
}

fn mk_wanted(pods: impl IntoIterator<Item = usize>) -> Wanted {
    let endpoints = pods.into_iter().map(|n| (mk_pod_name(n), mk_endpoint(n, true))).collect();
    mk_groups([(mk_group(Family::V4, 80), endpoints)])
}

fn mk_groups(groups: impl IntoIterator<Item = (Group, Endpoints)>) -> Wanted {
    let (policy, uid) = ("web".to_owned(), "u1".to_owned());
    let owner = Owner { policy, uid, service_id: 7, generation: Some(1) };
    Wanted { owner, approved: None, groups: groups.into_iter().collect() }
}

#[test]
fn many_pods_are_spread_over_slices_of_one_hundred() {
    let mut server = Server::default();
    assert_eq!(server.settle(Some(&mk_wanted(0..250))).len(), 3);
    assert_eq!(server.sizes(), [100, 100, 50]);
    assert_eq!(server.settle(Some(&mk_wanted(0..250))), [], "nothing has changed");
}

#[test]
fn endpoints_stay_and_holes_are_filled_before_slices_are_added() {
    let mut server = Server::default();
    server.settle(Some(&mk_wanted(0..250)));
    let ops = server.settle(Some(&mk_wanted((0..250).filter(|n| *n != 120))));
    assert!(matches!(ops.as_slice(), [SliceOp::Update(_)]), "one write for one pod");
    assert_eq!(server.sizes(), [100, 99, 50]);
    let many = (0..301).filter(|n| *n != 120);
    let ops = server.settle(Some(&mk_wanted(many.clone())));
    assert_eq!((ops.len(), server.sizes()), (2, vec![100, 100, 100]), "51 pods fill the holes");
    let ops = server.settle(Some(&mk_wanted(many.filter(|n| *n != 3).chain([900]))));
    assert_eq!(ops.len(), 1, "the new pod takes the place that had to be written anyway");
}

#[test]
fn a_slice_without_pods_goes_and_its_name_comes_back() {
    let mut server = Server::default();
    server.settle(Some(&mk_wanted(0..201)));
    let [first, head] = [0, 2].map(|n| server.slices.keys().nth(n).cloned().unwrap());
    let ops = server.settle(Some(&mk_wanted(100..201)));
    assert!(
        matches!(&ops[0], SliceOp::Update(slice) if slice.name == head),
        "first what is to be counted on"
    );
    assert_eq!(ops[1..], [SliceOp::Delete(first.clone())]);
    let ops = server.settle(Some(&mk_wanted((100..302).filter(|n| *n != 200))));
    assert!(matches!(&ops[0], SliceOp::Create(slice) if slice.name == first), "{ops:?}");
    assert!(matches!(&ops[1], SliceOp::Update(slice) if slice.name == head), "{ops:?}");
    server.settle(Some(&mk_wanted(100..200)));
    assert_eq!(server.sizes(), [100, 0], "the head stays");
}

#[test]
fn a_policy_that_is_gone_loses_its_slices() {
    let mut server = Server::default();
    server.settle(Some(&mk_wanted(0..250)));
    assert_eq!(server.settle(None).len(), 3);
}

#[test]
fn a_policy_without_pods_has_one_empty_slice() {
    let mut server = Server::default();
    let ops = server.settle(Some(&mk_groups([])));
    assert!(matches!(ops.as_slice(), [SliceOp::Create(_)]) && server.sizes() == [0], "{ops:?}");
    let mut v6: Endpoints = [(mk_pod_name(1), mk_endpoint(1, true))].into();
    v6.values_mut().for_each(|endpoint| endpoint.ip = ip("fd00::1"));
    server.settle(Some(&mk_groups([(mk_group(Family::V6, 80), v6)])));
    assert_eq!(server.sizes(), [0, 1], "the family of a slice cannot change");
    server.settle(Some(&mk_wanted(0..1)));
    assert_eq!(server.sizes(), [1]);
}

#[test]
fn families_and_ports_do_not_mix() {
    let some = |pods: std::ops::Range<usize>| -> Endpoints {
        pods.map(|n| (mk_pod_name(n), mk_endpoint(n, true))).collect()
    };
    let mut v6 = some(0..2);
    for endpoint in v6.values_mut() {
        endpoint.ip = ip("fd00::1");
    }
    let mut server = Server::default();
    let groups = [
        (mk_group(Family::V4, 80), some(0..3)),
        (mk_group(Family::V4, 81), some(3..5)),
        (mk_group(Family::V6, 80), v6),
    ];
    server.settle(Some(&mk_groups(groups.clone())));
    assert_eq!(server.sizes(), [3, 2, 2]);
    // Other ports change slices in their place, and both at once.
    let moved = groups.map(|(group, pods)| {
        let port = group.ports.first().map_or(0, |port| port.port + 1000);
        (mk_group(group.family, port), pods)
    });
    let ops = server.settle(Some(&mk_groups(moved)));
    assert!(ops.len() == 3 && ops.iter().all(|op| matches!(op, SliceOp::Update(_))), "{ops:?}");
}

#[test]
fn what_others_changed_is_put_right() {
    type Spoil = fn(&mut k8s_openapi::api::discovery::v1::EndpointSlice);
    let spoils: [(&str, Spoil); 9] = [
        ("a label", |s| {
            drop(s.metadata.labels.as_mut().unwrap().remove(balancing_core::names::LABEL_PROXY_NAME))
        }),
        ("the generation", |s| {
            let annotations = s.metadata.annotations.as_mut().unwrap();
            annotations.insert(balancing_core::names::ANNOTATION_GENERATION.to_owned(), "x".to_owned());
        }),
        ("the number", |s| {
            let annotations = s.metadata.annotations.as_mut().unwrap();
            annotations.remove(balancing_core::names::ANNOTATION_SLICES);
        }),
        ("the owner", |s| s.metadata.owner_references = None),
        ("a port", |s| s.ports.as_mut().unwrap()[0].port = Some(99)),
        ("a condition", |s| s.endpoints[0].conditions.as_mut().unwrap().ready = Some(false)),
        ("an endpoint twice", |s| s.endpoints.push(s.endpoints[0].clone())),
        ("a second address", |s| s.endpoints[1].addresses.push("10.9.9.9".to_owned())),
        ("an endpoint of nobody", |s| s.endpoints[1].target_ref = None),
    ];
    for (what, spoil) in spoils {
        let mut server = Server::default();
        server.settle(Some(&mk_wanted(0..5)));
        let known = server.slices.values_mut().next().unwrap();
        let mut object = wire::to_api(&known.slice, "balancing", None);
        spoil(&mut object);
        *known = wire::from_api(&object);
        if known.slice.owner.policy.is_empty() {
            // Nobody's: it is deleted on its own, and the policy gets a new one.
            assert_eq!(what, "the owner");
            assert!(matches!(server.plan(None).concat().as_slice(), [SliceOp::Delete(_)]));
            continue;
        }
        let ops = server.settle(Some(&mk_wanted(0..5)));
        assert!(matches!(ops.as_slice(), [SliceOp::Update(_)]), "{what}: {ops:?}");
    }
}

#[test]
fn the_order_of_endpoints_does_not_matter() {
    let mut server = Server::default();
    server.settle(Some(&mk_wanted(0..5)));
    let known = server.slices.values_mut().next().unwrap();
    let mut object = wire::to_api(&known.slice, "balancing", None);
    object.endpoints.reverse();
    *known = wire::from_api(&object);
    assert!(server.plan(Some(&mk_wanted(0..5))).is_empty());
}

#[test]
fn a_new_policy_of_the_same_name_takes_the_slices_over() {
    let mut server = Server::default();
    server.settle(Some(&mk_wanted(0..150)));
    let mut wanted = mk_wanted(0..150);
    wanted.owner.uid = "u2".to_owned();
    let ops = server.settle(Some(&wanted));
    assert!(ops.len() == 2 && ops.iter().all(|op| matches!(op, SliceOp::Update(_))), "{ops:?}");
}

#[test]
fn names_are_labels_that_tell_policies_apart() {
    let long = "a.very-long.name-".repeat(14);
    let other = format!("{long}x");
    for policy in ["web", "a.b", "a-b", long.as_str(), other.as_str()] {
        let name = free_names(policy, &BTreeMap::new(), &BTreeSet::new()).next().unwrap();
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.len() <= 63 && name.chars().all(valid), "{name}");
    }
    assert_ne!(stem("a.b"), stem("a-b"));
    assert_ne!(stem(&long), stem(&other));
    let taken = BTreeSet::from([format!("{}-0", stem("web"))]);
    let first = free_names("web", &BTreeMap::new(), &taken).next();
    assert_eq!(first, Some(format!("{}-1", stem("web"))), "the name of somebody else's object");
}

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

#[test]
fn any_history_ends_in_the_wanted_slices_with_few_writes() {
    for seed in 1..=4 {
        let mut random = Random(seed * 0x9e37_79b9);
        let mut server = Server::default();
        let mut pods = BTreeMap::<usize, (bool, u16)>::new();
        for step in 0..150 {
            let mass = random.below(20) == 0;
            let changes = if mass { 1 + random.below(200) } else { 1 };
            for _ in 0..changes {
                let pod = random.below(400);
                match random.below(4) {
                    0 => drop(pods.remove(&pod)),
                    1 => drop(pods.insert(pod, (false, 80))),
                    2 => drop(pods.insert(pod, (true, 81))),
                    _ => drop(pods.insert(pod, (true, 80))),
                }
            }
            let mut groups = BTreeMap::<Group, Endpoints>::new();
            for (pod, (ready, port)) in &pods {
                let group = groups.entry(mk_group(Family::V4, *port)).or_default();
                group.insert(mk_pod_name(*pod), mk_endpoint(*pod, *ready));
            }
            let ops = server.settle(Some(&mk_groups(groups)));
            if !mass {
                assert!(ops.len() <= 3, "seed {seed} step {step}: one change needs {} writes", ops.len());
            }
        }
    }
}

fn put(engine: &mut Engine, object: impl Into<balancing_core::objects::Object>) -> BTreeSet<PolicyRef> {
    let object = object.into();
    engine.apply([(object.key(), Some(object))]);
    engine.resolve().touched
}

mod readers;
mod wants;
