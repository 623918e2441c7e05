//! `skipRedirectFromBackend`: identities of the backend pods in the layer.

use std::collections::BTreeSet;

use balancing_abi::model::ClientId::{self, Cgroup, NetnsCookie};

use super::fixtures::*;
use crate::objects::{Object, Policy, RedirectMode::PodEndpoint};

const FRONT: &str = "169.254.0.90";

fn mk_skipping() -> Policy {
    let policy = mk_local("p", at_address(FRONT, &[("", 80, Tcp)]), web_pods(&[("", 8080, Tcp)]));
    policy.with(|spec| spec.skip_redirect_from_backend = true)
}

fn skip(lab: &Lab) -> BTreeSet<ClientId> {
    lab.entry(key(FRONT, 80, Tcp)).layers[0].skip.clone()
}

#[test]
fn identity_pod_and_policy_arrive_in_any_order() {
    let steps: [fn(&mut Lab); 3] = [
        |lab| drop(lab.put(mk_skipping())),
        |lab| drop(lab.put(mk_pod("a", &["10.0.0.1"]))),
        |lab| drop(lab.identify("uid-a", &[NetnsCookie(7), Cgroup(8)])),
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut lab = Lab::new();
        for step in order {
            steps[step](&mut lab);
        }
        assert_eq!(skip(&lab), BTreeSet::from([NetnsCookie(7), Cgroup(8)]), "{order:?}");
    }
}

#[test]
fn flag_off_label_change_and_forgotten_identity_empty_the_list() {
    let mut lab =
        Lab::of([mk_skipping().into(), mk_pod("a", &["10.0.0.1"]).into(), mk_pod("b", &["10.0.0.2"]).into()]);
    assert!(skip(&lab).is_empty(), "unknown identities are not written");
    lab.identify("uid-a", &[NetnsCookie(7)]);
    lab.identify("uid-b", &[NetnsCookie(9)]);
    assert_eq!(skip(&lab).len(), 2);
    lab.put(mk_skipping().with(|spec| spec.skip_redirect_from_backend = false));
    assert!(skip(&lab).is_empty());
    lab.put(mk_skipping());
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.labels = labels(&[]);
    lab.put(pod);
    assert_eq!(skip(&lab), BTreeSet::from([NetnsCookie(9)]));
    lab.put(mk_pod("a", &["10.0.0.1"]));
    assert_eq!(skip(&lab).len(), 2);
    lab.identify("uid-b", &[]);
    assert_eq!(skip(&lab), BTreeSet::from([NetnsCookie(7)]));
}

#[test]
fn selected_pod_that_is_not_ready_is_skipped_too() {
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.ready = false;
    let mut lab = Lab::of([mk_skipping().into(), pod.into(), mk_pod("b", &["10.0.0.2"]).into()]);
    lab.identify("uid-a", &[NetnsCookie(7)]);
    assert_eq!(skip(&lab), BTreeSet::from([NetnsCookie(7)]));
}

#[test]
fn recreated_pod_has_the_identity_of_its_own_uid() {
    let mut lab = Lab::of([mk_skipping().into(), mk_pod("a", &["10.0.0.1"]).into()]);
    lab.identify("uid-a", &[NetnsCookie(7)]);
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.uid = "uid-new".to_owned();
    lab.put(pod);
    assert!(skip(&lab).is_empty(), "the cookie of a pod that is gone may belong to anybody");
    lab.identify("uid-new", &[NetnsCookie(8)]);
    assert_eq!(skip(&lab), BTreeSet::from([NetnsCookie(8)]));
}

#[test]
fn two_policies_over_one_pod_keep_their_own_lists() {
    let other = mk_local("q", at_address("169.254.0.91", &[("", 80, Tcp)]), web_pods(&[("", 8080, Tcp)]));
    let other = other.with(|spec| spec.skip_redirect_from_backend = true);
    let mut lab = Lab::of([mk_skipping().into(), other.clone().into(), mk_pod("a", &["10.0.0.1"]).into()]);
    lab.identify("uid-a", &[NetnsCookie(7)]);
    lab.delete(other);
    assert_eq!(skip(&lab), BTreeSet::from([NetnsCookie(7)]));
}

#[test]
fn identities_touch_only_policies_that_skip() {
    let plain = mk_local("q", at_address("169.254.0.91", &[("", 80, Tcp)]), web_pods(&[("", 8080, Tcp)]));
    let spread = mk_balancing(
        "b",
        at_address("169.254.0.92", &[("", 80, Tcp)]),
        web_pods(&[("", 1, Tcp)]),
        PodEndpoint,
    );
    let objects: [Object; 4] =
        [mk_skipping().into(), plain.into(), spread.into(), mk_pod("a", &["10.0.0.1"]).into()];
    let mut lab = Lab::of(objects);
    assert_eq!(lab.identify("uid-a", &[NetnsCookie(7)]).resolved, 1);
    assert_eq!(lab.identify("uid-a", &[NetnsCookie(7)]).resolved, 0);
    assert_eq!(lab.identify("uid-unknown", &[NetnsCookie(9)]).resolved, 0);
    assert!(lab.entry(key("169.254.0.91", 80, Tcp)).layers[0].skip.is_empty());
}

#[test]
fn tcp_and_udp_of_one_port_have_their_own_lists() {
    let udp = mk_local("u", at_address(FRONT, &[("", 80, Udp)]), web_pods(&[("", 8080, Udp)]));
    let mut lab = Lab::of([mk_skipping().into(), udp.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    lab.identify("uid-a", &[NetnsCookie(7)]);
    assert_eq!(skip(&lab).len(), 1);
    assert!(lab.entry(key(FRONT, 80, Udp)).layers[0].skip.is_empty());
}
