//! A generation of a policy is in force once the complete list of its backends is known, and not before.

use super::fixtures::*;
use crate::{
    objects::{
        BackendSpec, Endpoint, Endpoints, InvalidSpec, Node, Object, ObjectRef, Pod, Policy, Port, Problem,
        RedirectMode, WeightedAddress,
    },
    plan::Reason,
    resolve::{ClusterPods, Role, Settings},
    snapshot::Wait,
};

const FRONT: &str = "169.254.0.90";

fn mk_lab() -> Lab {
    Lab::with_settings(Settings { cluster_pods: ClusterPods::Listed, ..mk_settings() })
}

fn mk_web() -> Policy {
    let front = at_address(FRONT, &[("", 80, Tcp)]);
    let policy = mk_balancing("b", front, web_pods(&[("", 8080, Tcp)]), RedirectMode::PodEndpoint);
    Policy { uid: "u1".to_owned(), ..policy }
}

fn mk_endpoint(ip: &str, node: &str) -> Endpoint {
    let pod = mk_ref(&format!("pod-{ip}"));
    Endpoint { ip: self::ip(ip), pod, node: node.to_owned(), zone: String::new(), ready: true }
}

fn through_nodes() -> BackendSpec {
    BackendSpec::Pods { pods: web_pods(&[("", 8080, Tcp)]), mode: RedirectMode::HostPort }
}

/// Slice `n` of a policy's generation, with pods on another node.
fn mk_slice(n: u32, policy: &Policy, set_size: Option<usize>, pods: &[&str]) -> Endpoints {
    Endpoints {
        slice: ObjectRef { namespace: "balancing".to_owned(), name: format!("b-{n}") },
        policy: policy.id.clone(),
        policy_uid: policy.uid.clone(),
        generation: Some(policy.generation),
        set_size,
        approved: None,
        ports: vec![Port { port: 8080, protocol: Tcp, name: String::new() }],
        list: pods.iter().map(|ip| mk_endpoint(ip, THERE)).collect(),
    }
}

/// The same as an agent of an earlier version writes it.
fn mk_earlier(n: u32, policy: &Policy, pods: &[&str]) -> Endpoints {
    Endpoints { generation: None, ..mk_slice(n, policy, None, pods) }
}

fn shows(lab: &Lab) -> String {
    lab.shows(key(FRONT, 80, Tcp))
}

fn wait(lab: &Lab) -> Option<Wait> {
    lab.engine.snapshot().wait(&balancing("b"))
}

impl From<Endpoints> for Object {
    fn from(object: Endpoints) -> Self {
        Self::Endpoints(object)
    }
}

/// A laboratory in which the first generation is in force, with two slices.
fn mk_running() -> (Lab, Policy) {
    let (mut lab, policy) = (mk_lab(), mk_web());
    lab.put(policy.clone());
    lab.put(mk_slice(1, &policy, None, &["10.0.0.2"]));
    lab.put(mk_slice(0, &policy, Some(2), &["10.0.0.1"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.2:8080");
    (lab, policy)
}

#[test]
fn a_new_policy_redirects_nothing_until_its_set_is_complete() {
    let (mut lab, policy) = (mk_lab(), mk_web());
    lab.put(policy.clone());
    let verdict = lab.verdict(&balancing("b")).clone();
    assert_eq!((shows(&lab).as_str(), verdict.reason), ("-", Reason::Pending), "it must not reject");
    assert!(verdict.accepted && verdict.frontends.is_empty());
    assert_eq!(verdict.message, "waits for the EndpointSlices of generation 1");
    lab.put(mk_slice(1, &policy, None, &["10.0.0.2"]));
    assert_eq!(shows(&lab), "-");
    lab.put(mk_slice(0, &policy, Some(2), &["10.0.0.1"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.2:8080");
    assert_eq!((wait(&lab), lab.verdict(&balancing("b")).reason), (None, Reason::Applied));
}

#[test]
fn no_pod_and_no_list_are_not_the_same() {
    let (mut lab, policy) = (mk_lab(), mk_web());
    lab.put(policy.clone());
    assert_eq!(shows(&lab), "-");
    lab.put(mk_slice(0, &policy, Some(1), &[]));
    assert_eq!(shows(&lab), "reject");
}

#[test]
fn an_edit_keeps_the_earlier_generation_until_its_own_set_is_complete() {
    let (mut lab, policy) = mk_running();
    let next = policy.edited(|spec| {
        spec.frontend = at_address(FRONT, &[("", 81, Tcp)]);
        spec.backend =
            BackendSpec::Pods { pods: web_pods(&[("", 9090, Tcp)]), mode: RedirectMode::PodEndpoint };
    });
    lab.put(next.clone());
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.2:8080", "old spec, old pods");
    assert_eq!(wait(&lab), Some(Wait::Next(2)));
    let verdict = lab.verdict(&balancing("b"));
    assert_eq!((verdict.generation, verdict.reason, verdict.backends), (1, Reason::Pending, 2));
    assert!(verdict.message.contains("generation 2"), "{}", verdict.message);
    // The writer has one of two slices over.
    lab.put(mk_slice(1, &next, None, &["10.0.0.7"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.2:8080", "never a mixture");
    lab.put(mk_slice(0, &next, Some(2), &["10.0.0.8"]));
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("-", None), "the old port");
    assert_eq!(lab.shows(key(FRONT, 81, Tcp)), "10.0.0.7:9090 10.0.0.8:9090");
}

#[test]
fn slices_may_come_before_the_generation_they_are_for() {
    let (mut lab, policy) = mk_running();
    let next = policy.edited(|_| ());
    lab.put(mk_slice(1, &next, None, &["10.0.0.7"]));
    lab.put(mk_slice(0, &next, Some(2), &["10.0.0.8"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.2:8080");
    lab.put(next);
    assert_eq!(shows(&lab), "10.0.0.7:8080 10.0.0.8:8080");
}

#[test]
fn pods_of_the_kept_generation_change() {
    let (mut lab, policy) = mk_running();
    lab.put(policy.clone().edited(|_| ()));
    lab.put(mk_slice(1, &policy, None, &["10.0.0.3"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.3:8080");
    assert_eq!(wait(&lab), Some(Wait::Next(2)));
}

#[test]
fn a_live_edit_from_addresses_to_pods_and_back() {
    let (mut lab, policy) = (mk_lab(), mk_web());
    let addresses = BackendSpec::Addresses {
        addresses: vec![WeightedAddress { ip: ip("10.9.9.9"), weight: 1 }],
        ports: mk_ports(&[("", 80, Tcp)]),
    };
    let first = policy.clone().with(|spec| spec.backend = addresses.clone());
    lab.put(first);
    assert_eq!(shows(&lab), "10.9.9.9:80");
    let pods = policy.edited(|_| ());
    lab.put(pods.clone());
    assert_eq!(shows(&lab), "10.9.9.9:80");
    lab.put(mk_slice(0, &pods, Some(1), &["10.0.0.1"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080");
    lab.put(pods.edited(|spec| spec.backend = addresses));
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("10.9.9.9:80", None), "addresses need no slices");
}

#[test]
fn off_takes_effect_at_once_and_on_with_its_slices() {
    let (mut lab, policy) = mk_running();
    let off = policy.edited(|spec| spec.enabled = false);
    lab.put(off.clone());
    assert_eq!((shows(&lab).as_str(), lab.verdict(&balancing("b")).reason), ("-", Reason::Disabled));
    let on = off.edited(|spec| spec.enabled = true);
    lab.put(on.clone());
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("-", Some(Wait::First(3))), "old slices do not count");
    lab.put(mk_slice(1, &on, None, &[]));
    lab.put(mk_slice(0, &on, Some(2), &["10.0.0.1"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080");
}

#[test]
fn an_invalid_edit_and_a_deletion_take_effect_at_once() {
    let (mut lab, policy) = mk_running();
    let problems = vec![Problem { field: "spec".to_owned(), message: "broken".to_owned() }];
    let broken = Policy {
        generation: 2,
        spec: Err(InvalidSpec { problems, frontends: Vec::new() }),
        ..policy.clone()
    };
    lab.put(broken);
    assert_eq!((shows(&lab).as_str(), lab.verdict(&balancing("b")).accepted), ("-", false));
    // What was in force before the mistake is no reason to go on with it.
    lab.put(Policy { generation: 3, ..policy });
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("-", Some(Wait::First(3))));
    let (mut lab, policy) = mk_running();
    lab.put(policy.clone().edited(|_| ()));
    lab.delete(policy);
    assert!(lab.entries().is_empty());
}

#[test]
fn a_policy_of_the_same_name_inherits_nothing() {
    for in_one_step in [true, false] {
        let (mut lab, policy) = mk_running();
        let second = Policy { uid: "u2".to_owned(), ..policy.clone() };
        if !in_one_step {
            lab.delete(policy);
        }
        lab.put(second.clone());
        assert_eq!((shows(&lab).as_str(), wait(&lab)), ("-", Some(Wait::First(1))), "{in_one_step}");
        lab.put(mk_slice(0, &second, Some(1), &["10.0.0.5"]));
        assert_eq!(shows(&lab), "10.0.0.5:8080");
    }
}

#[test]
fn a_set_that_shrinks_or_grows_is_never_incomplete() {
    let (mut lab, policy) = mk_running();
    // Growth: the slice, then the head.
    lab.put(mk_slice(2, &policy, None, &["10.0.0.3"]));
    assert_eq!((shows(&lab).split(' ').count(), wait(&lab)), (3, None));
    lab.put(mk_slice(0, &policy, Some(3), &["10.0.0.1"]));
    // The other way: the head, then what is left over.
    lab.put(mk_slice(0, &policy, Some(2), &["10.0.0.1"]));
    assert_eq!((shows(&lab).split(' ').count(), wait(&lab)), (3, None));
    lab.delete(mk_slice(2, &policy, None, &[]));
    assert_eq!((shows(&lab).split(' ').count(), wait(&lab)), (2, None));
    // Somebody deletes a slice: its absence says nothing of the pods.
    lab.delete(mk_slice(1, &policy, None, &[]));
    assert_eq!((shows(&lab).split(' ').count(), wait(&lab)), (2, Some(Wait::Next(1))));
    lab.delete(mk_slice(0, &policy, None, &[]));
    assert_eq!(shows(&lab).split(' ').count(), 2);
}

#[test]
fn slices_of_an_earlier_version_are_complete_as_they_are() {
    let (mut lab, policy) = (mk_lab(), mk_web());
    lab.put(mk_earlier(0, &policy, &["10.0.0.1"]));
    lab.put(mk_earlier(1, &policy, &["10.0.0.2"]));
    lab.put(policy.clone());
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("10.0.0.1:8080 10.0.0.2:8080", None));
    // The first agent of this version that is elected writes them anew, the head last.
    lab.put(mk_slice(1, &policy, None, &["10.0.0.2"]));
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.2:8080");
    lab.put(mk_slice(0, &policy, Some(2), &["10.0.0.3"]));
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("10.0.0.2:8080 10.0.0.3:8080", None));
    // Those of another policy of that name are of no use.
    let (mut lab, other) = (mk_lab(), Policy { uid: "u2".to_owned(), ..policy.clone() });
    lab.put(mk_earlier(0, &other, &["10.0.0.1"]));
    lab.put(policy.clone());
    assert_eq!(shows(&lab), "-");
    // With the last pod an earlier version deletes the last slice.
    let mut lab = mk_lab();
    lab.put(mk_earlier(0, &policy, &["10.0.0.1"]));
    lab.put(policy.clone());
    lab.delete(mk_earlier(0, &policy, &[]));
    assert_eq!(shows(&lab), "reject");
}

#[test]
fn pods_of_this_node_need_no_slice() {
    let (mut lab, policy) = (mk_lab(), mk_web());
    lab.put(policy.clone());
    lab.put(mk_pod("own", &["10.0.1.1"]));
    assert_eq!(shows(&lab), "-", "the list must be complete first");
    let mut slice = mk_slice(0, &policy, Some(1), &["10.0.0.1"]);
    slice.list.push(mk_endpoint("10.0.1.9", HERE));
    lab.put(slice.clone());
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.1.1:8080", "own pods as they are known here");
    lab.put(Pod { terminating: true, ..mk_pod("own", &["10.0.1.1"]) });
    assert_eq!(shows(&lab), "10.0.0.1:8080");
    // On the way through nodes, too: of its own one an agent knows the addresses.
    let through = policy.edited(|spec| spec.backend = through_nodes());
    lab.put(mk_node(HERE, &["192.168.0.1"], &[]));
    lab.put(through.clone());
    let mut own = mk_pod("own", &["10.0.1.1"]);
    own.ports = vec![mk_container_port("", 80, Some(8080))];
    lab.put(own);
    lab.put(mk_slice(0, &through, Some(1), &["192.168.0.2"]));
    assert_eq!(shows(&lab), "192.168.0.1:8080 192.168.0.2:8080");
    // Outside the cluster nothing is known first-hand.
    let outside = Settings {
        role: Role::External,
        node_name: String::new(),
        cluster_pods: ClusterPods::Listed,
        ..mk_settings()
    };
    let mut lab = Lab::with_settings(outside);
    lab.put(mk_web());
    lab.put(slice);
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.1.9:8080");
}

/// An earlier version lists addresses of pods, which lead nowhere with a port of the node.
#[test]
fn slices_of_an_earlier_version_do_not_tell_the_addresses_of_nodes() {
    let (mut lab, policy) = (mk_lab(), mk_web().edited(|spec| spec.backend = through_nodes()));
    lab.put(mk_earlier(0, &policy, &["10.0.0.1"]));
    lab.put(policy.clone());
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("-", Some(Wait::First(2))));
    lab.put(mk_slice(0, &policy, Some(1), &["192.168.0.2"]));
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("192.168.0.2:8080", None));
}

#[test]
fn a_policy_for_other_nodes_waits_for_nothing() {
    let (mut lab, policy) = mk_running();
    let elsewhere = policy.edited(|spec| spec.node_selector = selector(&[("pool", "a")]));
    lab.put(elsewhere.clone());
    assert_eq!((shows(&lab).as_str(), wait(&lab)), ("-", None));
    lab.put(Node { labels: labels(&[("pool", "a")]), ..mk_node(HERE, &[], &[]) });
    assert_eq!((shows(&lab).as_str(), wait(&lab).is_some()), ("-", true), "now it is for this one");
    lab.put(mk_slice(1, &elsewhere, None, &[]));
    lab.put(mk_slice(0, &elsewhere, Some(2), &["10.0.0.4"]));
    assert_eq!(shows(&lab), "10.0.0.4:8080");
}
