//! The work follows the change, not the size of the cluster: counted, not timed.

use super::fixtures::*;
use crate::{
    objects::{Object, ObjectKey, Pod, Policy, RedirectMode},
    resolve::Engine,
};

const POLICIES: usize = 2000;

fn mk_team_policy(n: usize) -> Policy {
    let mut pods = web_pods(&[("", 80, Tcp)]);
    pods.selector = selector(&[("app", "web"), ("team", &format!("t{n}"))]);
    // The first pair is unique: "a-team" sorts before "app".
    pods.selector.labels.insert("a-team".to_owned(), format!("t{n}"));
    let address = format!("169.254.{}.{}", n / 250, n % 250);
    mk_local(&format!("p{n}"), at_address(&address, &[("", 80, Tcp)]), pods)
}

fn mk_team_pod(n: usize) -> Pod {
    let mut pod = mk_pod(&format!("pod{n}"), &[&format!("10.0.{}.{}", n / 250, n % 250)]);
    let team = format!("t{n}");
    pod.labels = labels(&[("a-team", &team), ("app", "web"), ("team", &team)]);
    pod
}

fn put(object: impl Into<Object>) -> [(ObjectKey, Option<Object>); 1] {
    let object = object.into();
    [(object.key(), Some(object))]
}

fn mk_cluster() -> Engine {
    let mut engine = Engine::new(mk_settings());
    engine.apply((0..POLICIES).flat_map(|n| put(mk_team_policy(n))));
    engine.apply((0..POLICIES).flat_map(|n| put(mk_team_pod(n))));
    assert_eq!(engine.resolve().resolved, POLICIES);
    assert_eq!(engine.entries().count(), POLICIES);
    engine
}

#[test]
fn one_pod_among_thousands_touches_one_policy_and_one_frontend() {
    let mut engine = mk_cluster();
    engine.apply(put(Pod { ready: false, ..mk_team_pod(17) }));
    let delta = engine.resolve();
    assert_eq!((delta.resolved, delta.entries.len(), delta.verdicts.len()), (1, 1, 1));
    let mut pod = mk_team_pod(18);
    pod.labels = mk_team_pod(19).labels;
    engine.apply(put(pod));
    assert_eq!(engine.resolve().resolved, 2, "the policy it leaves and the one it joins");
}

#[test]
fn one_policy_service_or_node_touches_its_users_only() {
    let mut engine = mk_cluster();
    engine.apply(put(mk_service("s", &["10.96.0.1"], &[("", 80, Tcp)])));
    assert_eq!(engine.resolve().resolved, 0, "nobody names the Service");
    engine.apply(put(mk_local("svc", at_service("s", &[]), web_pods(&[("", 80, Tcp)]))));
    assert_eq!(engine.resolve().resolved, 1);
    engine.apply(put(mk_service("s", &["10.96.0.2"], &[("", 80, Tcp)])));
    assert_eq!(engine.resolve().resolved, 1);
    engine.apply(put(mk_node(HERE, &["192.168.0.1"], &["192.168.9.1"])));
    assert_eq!(engine.resolve().resolved, 0, "pod addresses do not depend on the node");
}

#[test]
fn node_addresses_touch_policies_with_backends_on_that_node_and_in_that_mode() {
    let mut engine = mk_cluster();
    for (n, mode) in
        [(0, RedirectMode::HostPort), (1, RedirectMode::NodeProxy), (2, RedirectMode::PodEndpoint)]
    {
        let mut pods = web_pods(&[("", 80, Tcp)]);
        pods.selector = selector(&[("team", &format!("t{n}"))]);
        let frontend = at_address(&format!("169.253.0.{n}"), &[("", 80, Tcp)]);
        engine.apply(put(mk_balancing(&format!("b{n}"), frontend, pods, mode)));
    }
    assert_eq!(engine.resolve().resolved, 3);
    for (node, resolved) in [
        (mk_node(HERE, &["192.168.0.1"], &[]), 1),
        (mk_node(HERE, &["192.168.0.1"], &["192.168.9.1"]), 1),
        (mk_node(HERE, &["192.168.0.2"], &["192.168.9.2"]), 2),
        (mk_node(THERE, &["192.168.0.3"], &["192.168.9.3"]), 0),
        (mk_node(HERE, &["192.168.0.2"], &["192.168.9.2"]), 0),
    ] {
        engine.apply(put(node));
        assert_eq!(engine.resolve().resolved, resolved);
    }
}

#[test]
fn pods_of_one_node_do_not_cost_the_selector_of_a_whole_cluster() {
    let mut engine = Engine::new(mk_settings());
    let everywhere =
        (0..3000).map(|n| Pod { node: format!("n{n}"), ..mk_pod(&format!("d{n}"), &["10.9.9.9"]) });
    engine.apply(everywhere.flat_map(put));
    engine.apply(put(mk_pod("mine", &["10.0.0.1"])));
    let policy = mk_local("p", at_address("169.254.0.1", &[("", 80, Tcp)]), web_pods(&[("", 80, Tcp)]));
    engine.apply(put(policy));
    assert_eq!(engine.resolve().entries.len(), 1);
    engine.apply((0..3000).map(|n| (ObjectKey::Pod(mk_ref(&format!("d{n}"))), None)));
    assert_eq!(engine.resolve().resolved, 0, "pods of other nodes come and go unnoticed");
}
