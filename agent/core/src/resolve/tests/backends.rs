//! Pods of this node as backends.

use super::fixtures::*;
use crate::{
    objects::{LabelExpression, LabelOperator, ObjectRef, Pod, Policy},
    plan::Reason,
};

const FRONT: &str = "169.254.0.90";

fn mk_plain() -> Policy {
    mk_local("p", at_address(FRONT, &[("", 80, Tcp)]), web_pods(&[("", 8080, Tcp)]))
}

#[test]
fn pod_readiness_gates_the_redirect() {
    let mut lab = Lab::of([mk_plain().into()]);
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    for ready in [false, true, false, true] {
        pod.ready = ready;
        lab.put(pod.clone());
        assert_eq!(lab.shows(key(FRONT, 80, Tcp)), if ready { "10.0.0.1:8080" } else { "-" });
    }
}

#[test]
fn terminating_pod_that_is_still_ready_gets_nothing_new() {
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.terminating = true;
    let mut lab = Lab::of([mk_plain().into(), pod.into(), mk_pod("b", &["10.0.0.2"]).into()]);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.2:8080");
    lab.delete(mk_pod("b", &[]));
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "-");
    assert!(lab.verdict(&local("p")).message.contains("none of the 1 matching pods on this node is ready"));
}

#[test]
fn a_pod_with_a_container_that_has_ended_gets_nothing_new_until_the_kubelet_tells() {
    let running = |ids: &[&str]| Pod {
        containers: ids.iter().map(|id| Box::from(*id)).collect(),
        ..mk_pod("a", &["10.0.0.1"])
    };
    let mut lab = Lab::of([mk_plain().into(), running(&["cache", "sidecar"]).into()]);
    let shown = |lab: &Lab| lab.shows(key(FRONT, 80, Tcp));
    lab.end("uid-a", &["an earlier one"]);
    lab.end("uid-b", &["cache"]);
    assert_eq!(shown(&lab), "10.0.0.1:8080");
    lab.end("uid-a", &["cache"]);
    assert_eq!(shown(&lab), "-");
    assert!(
        lab.verdict(&local("p")).message.contains("a container has ended"),
        "{:?}",
        lab.verdict(&local("p"))
    );
    lab.put(running(&["cache", "sidecar"]));
    assert_eq!(shown(&lab), "-", "the kubelet has told nothing new");
    lab.put(Pod { ready: false, ..running(&["sidecar"]) });
    assert_eq!(shown(&lab), "-");
    lab.put(running(&["cache again", "sidecar"]));
    assert_eq!(shown(&lab), "10.0.0.1:8080");
    lab.end("uid-a", &["cache", "cache again"]);
    assert_eq!(shown(&lab), "-");
    lab.end("uid-a", &[]);
    assert_eq!(shown(&lab), "10.0.0.1:8080", "what is forgotten counts no more");
}

#[test]
fn a_static_pod_is_known_by_the_uid_that_the_node_gave_it() {
    let pod = Pod {
        static_uid: Some("of-the-node".into()),
        containers: vec!["cache".into()],
        ..mk_pod("a", &["10.0.0.1"])
    };
    let mut lab = Lab::of([mk_plain().into(), pod.into()]);
    lab.end("of-the-node", &["cache"]);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "-");
}

#[test]
fn finished_pod_is_no_backend() {
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.finished = true;
    assert_eq!(Lab::of([mk_plain().into(), pod.into()]).shows(key(FRONT, 80, Tcp)), "-");
}

#[test]
fn pods_of_other_nodes_do_not_count() {
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.node = THERE.to_owned();
    let mut lab = Lab::of([mk_plain().into()]);
    assert_eq!(
        lab.put(pod.clone()).resolved,
        0,
        "a pod elsewhere is none of a LocalRedirectPolicy's business"
    );
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "-");
    assert_eq!(lab.verdict(&local("p")).reason, Reason::Applied);
    assert!(lab.verdict(&local("p")).message.contains("no pod on this node matches"));
    pod.node = HERE.to_owned();
    lab.put(pod);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.1:8080");
}

#[test]
fn pod_appears_and_goes_and_the_earlier_state_returns() {
    let mut lab = Lab::of([mk_plain().into()]);
    let before = lab.verdict(&local("p")).clone();
    lab.put(mk_pod("a", &["10.0.0.1"]));
    assert_eq!(lab.verdict(&local("p")).backends, 1);
    lab.delete(mk_pod("a", &[]));
    assert!(lab.entries().is_empty());
    assert_eq!(lab.verdict(&local("p")), &before);
}

#[test]
fn frontend_uses_backends_of_its_own_family() {
    let v4 = mk_plain();
    let v6 = mk_local("q", at_address("fd00::90", &[("", 80, Tcp)]), web_pods(&[("", 8080, Tcp)]));
    let mut lab = Lab::of([v4.into(), v6.into(), mk_pod("a", &["10.0.0.1", "fd01::1"]).into()]);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.1:8080");
    assert_eq!(lab.shows(key("fd00::90", 80, Tcp)), "[fd01::1]:8080");
    lab.put(mk_pod("a", &["10.0.0.1"]));
    assert_eq!(lab.shows(key("fd00::90", 80, Tcp)), "-");
    assert!(lab.verdict(&local("q")).message.contains("no backend for the IPv6 frontends"));
    assert!(!lab.verdict(&local("p")).message.contains("IPv6"));
}

#[test]
fn missing_family_of_a_dual_stack_service_is_named() {
    let service = mk_service("s", &["10.96.0.1", "fd00::1"], &[("", 80, Tcp)]);
    let policy = mk_local("p", at_service("s", &[]), web_pods(&[("", 80, Tcp)]));
    let mut lab = Lab::of([service.into(), policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("10.96.0.1", 80, Tcp)), "10.0.0.1:80");
    assert_eq!(lab.shows(key("fd00::1", 80, Tcp)), "-");
    assert!(lab.verdict(&local("p")).message.contains("IPv6"));
    lab.put(mk_pod("b", &["fd01::2"]));
    assert_eq!(lab.shows(key("fd00::1", 80, Tcp)), "[fd01::2]:80", "only the IPv6 frontend gains it");
    assert_eq!(lab.shows(key("10.96.0.1", 80, Tcp)), "10.0.0.1:80");
}

#[test]
fn mapped_addresses_are_ipv4() {
    let policy =
        mk_local("p", at_address("::ffff:169.254.0.90", &[("", 80, Tcp)]), web_pods(&[("", 80, Tcp)]));
    let lab = Lab::of([policy.into(), mk_pod("a", &["::ffff:10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.1:80");
}

#[test]
fn container_ports_need_not_be_declared() {
    let front = at_address(FRONT, &[("a", 1, Tcp), ("b", 2, Tcp)]);
    let policy = mk_local("p", front, web_pods(&[("a", 10, Tcp), ("b", 20, Tcp)]));
    let lab = Lab::of([policy.into(), mk_pod("x", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key(FRONT, 1, Tcp)), "10.0.0.1:10");
    assert_eq!(lab.shows(key(FRONT, 2, Tcp)), "10.0.0.1:20");
}

#[test]
fn pods_of_any_namespace_unless_restricted() {
    let mut other = mk_pod("b", &["10.0.0.2"]);
    other.namespace = "other".to_owned();
    let mut lab = Lab::of([mk_plain().into(), mk_pod("a", &["10.0.0.1"]).into(), other.into()]);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.1:8080 10.0.0.2:8080");
    let mut pods = web_pods(&[("", 8080, Tcp)]);
    pods.namespace = Some("other".to_owned());
    lab.put(mk_local("p", at_address(FRONT, &[("", 80, Tcp)]), pods));
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.2:8080");
}

#[test]
fn labels_change_and_revert() {
    let mut lab =
        Lab::of([mk_plain().into(), mk_pod("a", &["10.0.0.1"]).into(), mk_pod("b", &["10.0.0.2"]).into()]);
    let mut pod = mk_pod("b", &["10.0.0.2"]);
    pod.labels = labels(&[("app", "other")]);
    lab.put(pod);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.1:8080");
    lab.put(mk_pod("b", &["10.0.0.2"]));
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.1:8080 10.0.0.2:8080");
}

#[test]
fn selectors_without_labels_find_their_pods() {
    let mut pods = web_pods(&[("", 8080, Tcp)]);
    pods.selector.labels.clear();
    pods.selector.expressions =
        vec![LabelExpression { key: "app".to_owned(), operator: LabelOperator::Exists }];
    for namespace in [None, Some("default".to_owned())] {
        pods.namespace = namespace;
        let policy = mk_local("p", at_address(FRONT, &[("", 80, Tcp)]), pods.clone());
        let mut bare = mk_pod("z", &["10.0.0.9"]);
        bare.labels = labels(&[]);
        let mut lab = Lab::of([policy.into(), bare.into()]);
        lab.put(mk_pod("a", &["10.0.0.1"]));
        assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.0.0.1:8080");
    }
}

#[test]
fn host_network_pods_count_with_their_pod_address_and_equal_ones_merge() {
    let [mut a, mut b] = ["a", "b"].map(|name| mk_pod(name, &["192.168.0.1"]));
    (a.host_network, b.host_network) = (true, true);
    let mut lab = Lab::of([mk_plain().into(), a.into()]);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "192.168.0.1:8080");
    let first = &lab.entry(key(FRONT, 80, Tcp)).layers[0].backends[0];
    assert_eq!(first.pod, Some(ObjectRef { namespace: "default".to_owned(), name: "a".to_owned() }));
    lab.put(b);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "192.168.0.1:8080*2");
    let merged = &lab.entry(key(FRONT, 80, Tcp)).layers[0].backends[0];
    assert_eq!((merged.pod.as_ref(), merged.node.as_deref()), (None, Some(HERE)));
}

#[test]
fn unrelated_pod_or_equal_object_changes_nothing() {
    let mut lab = Lab::of([mk_plain().into(), mk_pod("a", &["10.0.0.1"]).into()]);
    let mut other = mk_pod("b", &["10.0.0.2"]);
    other.labels = labels(&[("app", "db")]);
    assert_eq!(lab.put(other).resolved, 0);
    assert_eq!(lab.put(mk_pod("a", &["10.0.0.1"])).resolved, 0);
    assert_eq!(lab.put(mk_plain()).resolved, 0);
}

#[test]
fn limit_of_the_policy_overrides_the_global_one_and_zero_is_none() {
    let mut settings = mk_settings();
    settings.qos_limit = limit(100);
    let mut lab = Lab::with_settings(settings);
    lab.put(mk_pod("a", &["10.0.0.1"]));
    for (own, effective) in [(None, limit(100)), (Some(7), limit(7)), (Some(0), None)] {
        lab.put(mk_plain().with(|spec| spec.qos_limit = own));
        assert_eq!(lab.entry(key(FRONT, 80, Tcp)).layers[0].qos_limit, effective);
    }
}

#[test]
fn rolling_update_never_leaves_the_frontend_without_a_backend() {
    let mut lab = Lab::of([mk_plain().into(), mk_pod("old", &["10.0.0.1"]).into()]);
    let mut new = mk_pod("new", &["10.0.0.2"]);
    new.ready = false;
    let mut leaving = mk_pod("old", &["10.0.0.1"]);
    leaving.terminating = true;
    let ready = mk_pod("new", &["10.0.0.2"]);
    let expected = ["10.0.0.1:8080", "10.0.0.1:8080 10.0.0.2:8080", "10.0.0.2:8080"];
    for (pod, expected) in [new, ready, leaving].into_iter().zip(expected) {
        lab.put(pod);
        assert_eq!(lab.shows(key(FRONT, 80, Tcp)), expected);
    }
    assert!(lab.delete(mk_pod("old", &[])).entries.is_empty(), "its end is no news");
}
