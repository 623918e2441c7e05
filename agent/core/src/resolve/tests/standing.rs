//! Who takes part: enabled, valid, selected by node and role.

use super::fixtures::*;
use crate::{
    objects::{InvalidSpec, LabelExpression, LabelOperator, Node, Policy, Problem},
    plan::Reason,
    resolve::{Role, Settings},
};

const FRONT: &str = "169.254.0.90";

fn mk_redirect() -> Policy {
    mk_local("p", at_address(FRONT, &[("", 80, Tcp)]), web_pods(&[("", 8080, Tcp)]))
}

fn mk_custom() -> Policy {
    mk_addresses("b", at_address(FRONT, &[("", 80, Tcp)]), &["1.1.1.1"], 80)
}

fn mk_labelled(pairs: &[(&str, &str)]) -> Node {
    Node { labels: labels(pairs), ..mk_node(HERE, &[], &[]) }
}

fn shows(lab: &Lab) -> String {
    lab.shows(key(FRONT, 80, Tcp))
}

#[test]
fn disabled_policy_is_inert_and_says_so() {
    let mut lab =
        Lab::of([mk_redirect().with(|spec| spec.enabled = false).into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(shows(&lab), "-");
    let verdict = lab.verdict(&local("p"));
    assert_eq!((verdict.reason, verdict.accepted, verdict.resolved_refs), (Reason::Disabled, true, true));
    lab.put(mk_redirect());
    assert_eq!(shows(&lab), "10.0.0.1:8080");
}

#[test]
fn update_that_makes_a_policy_invalid_removes_its_redirect_and_names_every_problem() {
    let mut lab = Lab::of([mk_redirect().into(), mk_pod("a", &["10.0.0.1"]).into()]);
    let problem = |field: &str| Problem { field: field.to_owned(), message: "must be an IP".to_owned() };
    let problems = vec![problem("spec.frontend.addressMatcher.ip"), problem("spec.clients")];
    lab.put(Policy {
        spec: Err(InvalidSpec { problems, frontends: Vec::new() }),
        generation: 2,
        ..mk_redirect()
    });
    assert_eq!(shows(&lab), "-");
    let verdict = lab.verdict(&local("p"));
    assert_eq!((verdict.reason, verdict.accepted, verdict.generation), (Reason::InvalidSpec, false, 2));
    assert_eq!(
        verdict.message,
        "spec.frontend.addressMatcher.ip: must be an IP; spec.clients: must be an IP"
    );
    lab.put(mk_redirect());
    assert_eq!(shows(&lab), "10.0.0.1:8080");
}

#[test]
fn node_labels_match_stop_matching_and_match_again() {
    let policy = mk_redirect().with(|spec| spec.node_selector = selector(&[("dns", "local")]));
    let mut lab = Lab::of([policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(shows(&lab), "-", "without a Node object only the empty selector matches");
    assert_eq!(lab.verdict(&local("p")).reason, Reason::NotSelected);
    assert!(lab.verdict(&local("p")).message.contains(HERE));
    for (value, expected) in [("local", "10.0.0.1:8080"), ("no", "-"), ("local", "10.0.0.1:8080")] {
        lab.put(mk_labelled(&[("dns", value)]));
        assert_eq!(shows(&lab), expected);
    }
    lab.put(Node { name: THERE.to_owned(), ..mk_labelled(&[]) });
    assert_eq!(shows(&lab), "10.0.0.1:8080", "labels of other nodes do not matter");
    lab.delete(mk_labelled(&[]));
    assert_eq!(shows(&lab), "-");
}

#[test]
fn missing_node_does_not_match_a_negative_selector_either() {
    let absent = LabelExpression { key: "gpu".to_owned(), operator: LabelOperator::DoesNotExist };
    let policy = mk_redirect().with(|spec| spec.node_selector.expressions = vec![absent]);
    let mut lab = Lab::of([policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(shows(&lab), "-");
    lab.put(mk_labelled(&[]));
    assert_eq!(shows(&lab), "10.0.0.1:8080");
}

#[test]
fn external_host_applies_balancing_policies_that_are_for_it() {
    let mut lab = Lab::with_settings(Settings { role: Role::External, ..mk_settings() });
    lab.put(mk_pod("a", &["10.0.0.1"]));
    lab.put(mk_redirect());
    assert_eq!(shows(&lab), "-");
    assert_eq!(lab.verdict(&local("p")).reason, Reason::NotSelected);
    lab.put(mk_custom().with(|spec| spec.node_selector = selector(&[("any", "node")])));
    assert_eq!(shows(&lab), "1.1.1.1:80", "node labels mean nothing outside the cluster");
    lab.put(mk_custom().with(|spec| spec.out_cluster = false));
    assert_eq!(shows(&lab), "-");
    assert!(lab.verdict(&balancing("b")).message.contains("enableOutCluster"));
}

#[test]
fn out_cluster_means_nothing_on_a_node() {
    let lab = Lab::of([mk_custom().with(|spec| spec.out_cluster = false).into()]);
    assert_eq!(shows(&lab), "1.1.1.1:80");
}

#[test]
fn derived_ids_are_stable_and_in_the_upper_half() {
    let (one, two) = (Lab::of([mk_redirect().into()]), Lab::of([mk_custom().into(), mk_redirect().into()]));
    let id = one.verdict(&local("p")).service_id;
    assert!(id >= 1 << 31);
    assert_eq!(two.verdict(&local("p")).service_id, id);
    assert_ne!(two.verdict(&balancing("b")).service_id, id);
}
