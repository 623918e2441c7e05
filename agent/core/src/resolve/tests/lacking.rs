//! Kinds that have never been listed: what needs them waits, everything else is in force.

use super::fixtures::*;
use crate::{
    kinds::ObjectKind,
    objects::{Node, Policy, PolicyRef, RedirectMode},
    plan::Reason,
    resolve::{ClusterPods, Role, Settings},
};
use balancing_abi::model::PolicyKind;

const FRONT: &str = "169.254.0.90";
const CLUSTER_IP: &str = "10.96.0.1";
const LOCAL: ObjectKind = ObjectKind::Policy(PolicyKind::LocalRedirect);
const BALANCING: ObjectKind = ObjectKind::Policy(PolicyKind::Balancing);

fn mk_lab(lacking: &[ObjectKind]) -> Lab {
    let mut lab = Lab::with_settings(Settings { cluster_pods: ClusterPods::Listed, ..mk_settings() });
    lab.lack(lacking);
    lab
}

fn mk_custom(name: &str) -> Policy {
    mk_addresses(name, at_address(FRONT, &[("", 80, Tcp)]), &["1.1.1.1"], 80)
}

fn mk_of_service(name: &str) -> Policy {
    mk_addresses(name, at_service("web", &[]), &["1.1.1.1"], 80)
}

fn mk_over_pods(name: &str, mode: RedirectMode) -> Policy {
    mk_balancing(name, at_address(FRONT, &[("", 81, Tcp)]), web_pods(&[("", 8080, Tcp)]), mode)
}

fn mk_redirect(name: &str) -> Policy {
    mk_local(name, at_address(FRONT, &[("", 82, Tcp)]), web_pods(&[("", 8080, Tcp)]))
}

fn with_labels(policy: Policy) -> Policy {
    policy.with(|spec| spec.node_selector = selector(&[("dns", "local")]))
}

/// This node.
fn mk_labelled(dns: &str) -> Node {
    Node { labels: labels(&[("dns", dns)]), ..mk_node(HERE, &[], &[]) }
}

fn shows(lab: &Lab) -> String {
    lab.shows(key(FRONT, 80, Tcp))
}

/// For which kinds a policy waits, in words; `-` when it waits for none.
fn waits_for(lab: &Lab, policy: &PolicyRef) -> String {
    let verdict = lab.verdict(policy);
    let rest = verdict.message.strip_prefix("waits for the ").and_then(|rest| rest.split_once(", which"));
    if let Some((_, todo)) = rest {
        assert_eq!((verdict.reason, verdict.frontends.len()), (Reason::Pending, 0), "{}", verdict.message);
        assert!(todo.contains("balancingctl status"), "{}", verdict.message);
    }
    rest.map_or("-", |(kinds, _)| kinds).to_owned()
}

#[test]
fn a_policy_waits_for_the_kinds_that_it_needs_and_for_no_others() {
    let cases = [
        (mk_custom("b"), "BalancingPolicies"),
        (with_labels(mk_custom("b")), "BalancingPolicies Nodes"),
        (mk_of_service("b"), "BalancingPolicies Services"),
        (mk_over_pods("b", RedirectMode::PodEndpoint), "BalancingPolicies Pods EndpointSlices"),
        (mk_over_pods("b", RedirectMode::HostPort), "BalancingPolicies Nodes Pods EndpointSlices"),
        (mk_over_pods("b", RedirectMode::NodeProxy), "BalancingPolicies Nodes Pods EndpointSlices"),
        (mk_redirect("l"), "LocalRedirectPolicies Pods"),
        (with_labels(mk_redirect("l")), "LocalRedirectPolicies Nodes Pods"),
    ];
    let all =
        [LOCAL, BALANCING, ObjectKind::Service, ObjectKind::Node, ObjectKind::Pod, ObjectKind::EndpointSlice];
    for (policy, needed) in cases {
        for kind in all {
            let mut lab = mk_lab(&[kind]);
            if kind != ObjectKind::Node {
                lab.put(mk_labelled("local"));
            }
            lab.put(policy.clone());
            let wanted = if needed.split(' ').any(|word| word == kind.to_string()) {
                kind.to_string()
            } else {
                "-".to_owned()
            };
            assert_eq!(waits_for(&lab, &policy.id), wanted, "{:?} without {kind}", policy.spec);
        }
    }
}

#[test]
fn what_is_known_is_in_force_and_the_rest_follows_when_it_is_listed() {
    let mut lab = mk_lab(&[LOCAL, ObjectKind::Service]);
    lab.put(mk_custom("b"));
    lab.put(mk_of_service("s"));
    lab.put(mk_redirect("l"));
    lab.put(mk_pod("a", &["10.0.0.1"]));
    assert_eq!(shows(&lab), "1.1.1.1:80");
    assert_eq!(waits_for(&lab, &balancing("s")), "Services");
    assert_eq!(waits_for(&lab, &local("l")), "LocalRedirectPolicies");
    lab.put(mk_service("web", &[CLUSTER_IP], &[("", 80, Tcp)]));
    assert_eq!(lab.shows(key(CLUSTER_IP, 80, Tcp)), "-", "one Service is not all");
    lab.lack(&[LOCAL]);
    assert_eq!(lab.shows(key(CLUSTER_IP, 80, Tcp)), "1.1.1.1:80");
    assert_eq!(lab.shows(key(FRONT, 82, Tcp)), "-");
    lab.lack(&[]);
    assert_eq!(lab.shows(key(FRONT, 82, Tcp)), "10.0.0.1:8080");
}

#[test]
fn two_kinds_are_named_together() {
    let mut lab = mk_lab(&[ObjectKind::Node, ObjectKind::Service]);
    lab.put(with_labels(mk_of_service("s")));
    assert_eq!(waits_for(&lab, &balancing("s")), "Services and Nodes");
}

#[test]
fn a_policy_that_does_not_take_part_does_not_wait() {
    let mut lab = mk_lab(&[ObjectKind::Service, ObjectKind::Pod]);
    lab.put(mk_of_service("off").with(|spec| spec.enabled = false));
    lab.put(with_labels(mk_of_service("elsewhere")));
    lab.put(mk_labelled("no"));
    assert_eq!(lab.verdict(&balancing("off")).reason, Reason::Disabled);
    assert_eq!(lab.verdict(&balancing("elsewhere")).reason, Reason::NotSelected);
    lab.put(mk_labelled("local"));
    assert_eq!(waits_for(&lab, &balancing("elsewhere")), "Services");
}

#[test]
fn outside_the_cluster_nobody_waits_for_labels() {
    let settings = Settings { role: Role::External, cluster_pods: ClusterPods::Listed, ..mk_settings() };
    let mut lab = Lab::with_settings(settings);
    lab.lack(&[ObjectKind::Node]);
    lab.put(with_labels(mk_custom("b")));
    assert_eq!(shows(&lab), "1.1.1.1:80");
}

#[test]
fn an_edit_that_needs_what_is_lacking_leaves_the_last_generation_in_force() {
    let mut lab = mk_lab(&[ObjectKind::Service]);
    lab.put(mk_custom("b"));
    lab.put(mk_custom("b").edited(|spec| spec.frontend = at_service("web", &[])));
    assert_eq!(shows(&lab), "1.1.1.1:80");
    let verdict = lab.verdict(&balancing("b"));
    assert_eq!((verdict.reason, verdict.generation), (Reason::Pending, 1));
    assert!(verdict.message.contains("waits for the Services"), "{}", verdict.message);
    assert!(verdict.message.contains("the last generation stays in force"), "{}", verdict.message);
    lab.put(mk_service("web", &[CLUSTER_IP], &[("", 80, Tcp)]));
    lab.lack(&[]);
    assert_eq!((shows(&lab).as_str(), lab.shows(key(CLUSTER_IP, 80, Tcp)).as_str()), ("-", "1.1.1.1:80"));
}

#[test]
fn who_waits_keeps_its_service_id() {
    let mut lab = mk_lab(&[ObjectKind::Node]);
    lab.put(with_labels(mk_custom("old")).service_id(7));
    lab.put(mk_custom("young").created(Some(2000)).service_id(7));
    assert_eq!(shows(&lab), "-", "which would be taken from it as soon as the labels are known");
    assert!(lab.verdict(&balancing("young")).conflicts_with.contains(&balancing("old")));
}
