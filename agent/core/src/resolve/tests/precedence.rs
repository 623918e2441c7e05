//! Conflicts, layers and takeover.

use std::collections::BTreeSet;

use balancing_abi::model::Clients;

use super::fixtures::*;
use crate::{
    objects::{Object, PodBackend, Policy, RedirectMode::PodEndpoint},
    plan::Reason,
};

const FRONT: &str = "169.254.0.90";

fn front() -> crate::objects::FrontendSpec {
    at_address(FRONT, &[("", 80, Tcp)])
}

fn mk_redirect(name: &str, port: u16) -> Policy {
    mk_local(name, front(), web_pods(&[("", port, Tcp)]))
}

fn mk_custom(name: &str, address: &str) -> Policy {
    mk_addresses(name, front(), &[address], 80)
}

fn nobody() -> PodBackend {
    PodBackend { selector: selector(&[("app", "none")]), ..web_pods(&[("", 1, Tcp)]) }
}

fn shows(lab: &Lab) -> String {
    lab.shows(key(FRONT, 80, Tcp))
}

fn in_both_orders(objects: &[Object], check: impl Fn(&Lab)) {
    let mut reversed: Vec<Object> = objects.to_vec();
    reversed.reverse();
    for order in [objects.to_vec(), reversed] {
        let mut lab = Lab::new();
        for object in order {
            lab.put(object);
        }
        check(&lab);
    }
}

#[test]
fn older_policy_wins_in_both_kinds_and_both_orders() {
    let pod: Object = mk_pod("a", &["10.0.0.1"]).into();
    let redirects: [Object; 2] =
        [mk_redirect("z-old", 1).created(Some(5)).into(), mk_redirect("a-new", 2).created(Some(6)).into()];
    in_both_orders(&[pod, redirects[0].clone(), redirects[1].clone()], |lab| {
        assert_eq!(shows(lab), "10.0.0.1:1");
        let (winner, loser) = (lab.verdict(&local("z-old")), lab.verdict(&local("a-new")));
        assert_eq!((winner.reason, winner.conflicts_with.len()), (Reason::Applied, 0));
        assert_eq!(loser.reason, Reason::Conflicted);
        assert_eq!(loser.conflicts_with, BTreeSet::from([local("z-old")]));
        assert!(loser.accepted && loser.resolved_refs && loser.frontends.is_empty() && loser.backends == 0);
        assert!(loser.message.contains("belong to the older LocalRedirectPolicy z-old"), "{}", loser.message);
        assert!(loser.message.contains("169.254.0.90:80/TCP"), "{}", loser.message);
    });
    let customs = [
        mk_custom("z", "1.1.1.1").created(Some(5)).into(),
        mk_custom("a", "1.1.1.2").created(Some(6)).into(),
    ];
    in_both_orders(&customs, |lab| {
        assert_eq!(shows(lab), "1.1.1.1:80");
        assert_eq!(lab.verdict(&balancing("a")).conflicts_with, BTreeSet::from([balancing("z")]));
    });
}

#[test]
fn same_age_smaller_name_wins_and_no_age_is_youngest() {
    let table = [(Some(5), Some(5), "1.1.1.1:80"), (None, Some(9), "1.1.1.2:80"), (None, None, "1.1.1.1:80")];
    for (a, b, expected) in table {
        let objects =
            [mk_custom("a", "1.1.1.1").created(a).into(), mk_custom("b", "1.1.1.2").created(b).into()];
        in_both_orders(&objects, |lab| {
            assert_eq!(shows(lab), expected, "{a:?} {b:?}");
            let (loser, words) = match (a, b) {
                (None, Some(_)) => ("a", "belong to BalancingPolicy b, which has a creationTimestamp: "),
                _ => ("b", "belong to BalancingPolicy a, which has the smaller name: "),
            };
            let message = &lab.verdict(&balancing(loser)).message;
            assert!(message.contains(words), "{a:?} {b:?}: {message}");
        });
    }
    let early = [
        mk_custom("a", "1.1.1.1").created(Some(0)).into(),
        mk_custom("b", "1.1.1.2").created(Some(-1)).into(),
    ];
    in_both_orders(&early, |lab| assert_eq!(shows(lab), "1.1.1.2:80"));
}

#[test]
fn loser_takes_over_by_itself_and_gives_back() {
    let old = mk_custom("old", "1.1.1.1").created(Some(1));
    let mut lab = Lab::of([old.clone().into(), mk_custom("new", "1.1.1.2").into()]);
    let delta = lab.delete(old.clone());
    assert_eq!(shows(&lab), "1.1.1.2:80");
    assert_eq!(delta.entries.len(), 1, "one swap, no gap");
    assert_eq!(lab.verdict(&balancing("new")).reason, Reason::Applied);
    lab.put(old.clone());
    assert_eq!(shows(&lab), "1.1.1.1:80");
    assert_eq!(lab.verdict(&balancing("new")).reason, Reason::Conflicted);
    lab.put(old.clone().with(|spec| spec.enabled = false));
    assert_eq!(shows(&lab), "1.1.1.2:80", "a disabled policy claims nothing");
    lab.put(Policy {
        spec: Err(crate::objects::InvalidSpec { problems: Vec::new(), frontends: Vec::new() }),
        ..old.clone()
    });
    assert_eq!(shows(&lab), "1.1.1.2:80", "an invalid policy claims nothing");
    lab.put(old.clone());
    lab.put(old.created(Some(2000)));
    assert_eq!(shows(&lab), "1.1.1.2:80", "a re-created policy is younger");
}

#[test]
fn winner_without_backends_keeps_its_claim() {
    let mut lab = Lab::of([
        mk_local("old", front(), nobody()).created(Some(1)).into(),
        mk_redirect("new", 2).into(),
        mk_pod("a", &["10.0.0.1"]).into(),
    ]);
    assert_eq!(shows(&lab), "-");
    assert_eq!(lab.verdict(&local("new")).reason, Reason::Conflicted);
    lab.put(mk_custom("b", "1.1.1.1"));
    assert_eq!(shows(&lab), "1.1.1.1:80", "the next layer decides, not the loser");
}

#[test]
fn conflict_is_per_frontend() {
    let wide = at_address(FRONT, &[("a", 80, Tcp), ("b", 81, Tcp)]);
    let wide = mk_local("new", wide, web_pods(&[("a", 1, Tcp), ("b", 2, Tcp)]));
    let lab = Lab::of([
        mk_redirect("old", 9).created(Some(1)).into(),
        wide.into(),
        mk_pod("x", &["10.0.0.1"]).into(),
    ]);
    assert_eq!(shows(&lab), "10.0.0.1:9");
    assert_eq!(lab.shows(key(FRONT, 81, Tcp)), "10.0.0.1:2");
    let verdict = lab.verdict(&local("new"));
    assert_eq!((verdict.reason, verdict.frontends.len(), verdict.backends), (Reason::Conflicted, 1, 1));
    assert!(verdict.message.contains("1 of 2 frontends"), "{}", verdict.message);
}

#[test]
fn address_policy_and_service_policy_meet_at_the_cluster_ip() {
    let service = mk_service("s", &[FRONT], &[("", 80, Tcp)]);
    let by_service = mk_local("svc", at_service("s", &[]), web_pods(&[("", 2, Tcp)]));
    let objects =
        [service.into(), by_service.into(), mk_redirect("addr", 1).into(), mk_pod("a", &["10.0.0.1"]).into()];
    in_both_orders(&objects, |lab| {
        assert_eq!(shows(lab), "10.0.0.1:1");
        assert_eq!(lab.verdict(&local("svc")).conflicts_with, BTreeSet::from([local("addr")]));
    });
}

#[test]
fn kinds_layer_and_the_second_decides_alone_without_local_pods() {
    let redirect = mk_redirect("l", 1).created(Some(9)).with(|spec| spec.qos_limit = Some(3));
    let spread = mk_balancing("b", front(), web_pods(&[("", 2, Tcp)]), PodEndpoint).created(Some(1));
    let mut away = mk_pod("b", &["10.0.1.2"]);
    away.node = THERE.to_owned();
    let mut lab = Lab::of([redirect.into(), spread.into(), mk_pod("a", &["10.0.0.1"]).into(), away.into()]);
    assert_eq!(shows(&lab), "10.0.0.1:1", "the kind counts before the age");
    assert_eq!(lab.second(key(FRONT, 80, Tcp)), "10.0.0.1:2 10.0.1.2:2");
    assert!(
        lab.verdict(&local("l")).conflicts_with.is_empty()
            && lab.verdict(&balancing("b")).conflicts_with.is_empty()
    );
    assert_eq!(lab.verdict(&balancing("b")).frontends.len(), 1, "a second layer counts as in force");
    lab.delete(mk_pod("a", &[]));
    assert_eq!(shows(&lab), "10.0.1.2:2");
    assert_eq!(lab.second(key(FRONT, 80, Tcp)), "-");
}

#[test]
fn second_layer_may_reject() {
    let spread = mk_balancing("b", front(), nobody(), PodEndpoint);
    let lab = Lab::of([mk_redirect("l", 1).into(), spread.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(
        (shows(&lab), lab.second(key(FRONT, 80, Tcp))),
        ("10.0.0.1:1".to_owned(), "reject".to_owned())
    );
}

#[test]
fn clients_are_carried_by_each_layer() {
    let redirect = mk_redirect("l", 1).with(|spec| spec.clients = Clients::Pods);
    let mut lab = Lab::of([redirect.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    let entry = lab.entry(key(FRONT, 80, Tcp));
    assert_eq!((entry.layers[0].clients, entry.layers.len() == 1), (Clients::Pods, true));
    lab.put(mk_custom("b", "1.1.1.1").with(|spec| spec.clients = Clients::Host));
    assert_eq!(lab.entry(key(FRONT, 80, Tcp)).layers[1].clients, Clients::Host);
}

#[test]
fn one_chosen_service_id_belongs_to_the_older_policy() {
    let old = mk_addresses("old", at_address("169.254.0.1", &[("", 80, Tcp)]), &["1.1.1.1"], 80);
    let old = old.created(Some(1)).service_id(10091);
    let new = mk_redirect("new", 1).service_id(10091);
    let objects = [old.clone().into(), new.clone().into(), mk_pod("a", &["10.0.0.1"]).into()];
    in_both_orders(&objects, |lab| {
        assert_eq!(lab.shows(key("169.254.0.1", 80, Tcp)), "1.1.1.1:80");
        assert_eq!(shows(lab), "-", "everything of the younger is withdrawn");
        let loser = lab.verdict(&local("new"));
        assert_eq!((loser.reason, loser.service_id), (Reason::Conflicted, 10091));
        assert_eq!(loser.conflicts_with, BTreeSet::from([balancing("old")]));
        let words = "its service id 10091 belongs to the older BalancingPolicy old; choose another";
        assert!(loser.message.contains(words), "{}", loser.message);
        assert!(lab.verdict(&balancing("old")).conflicts_with.is_empty());
    });
    let mut lab = Lab::of(objects);
    lab.put(old.clone().service_id(5));
    assert_eq!(shows(&lab), "10.0.0.1:1");
    lab.put(old.clone());
    assert_eq!(shows(&lab), "-");
    lab.put(old.clone().with(|spec| spec.enabled = false));
    assert_eq!(shows(&lab), "10.0.0.1:1", "a disabled policy contests nothing");
    lab.put(old.clone());
    lab.delete(old);
    assert_eq!(shows(&lab), "10.0.0.1:1");
}

#[test]
fn loser_of_an_id_claims_no_frontend_from_others() {
    let holder = mk_addresses("holder", at_address("169.254.0.1", &[("", 80, Tcp)]), &["1.1.1.1"], 80);
    let middle = mk_custom("middle", "1.1.1.2").created(Some(2)).service_id(7);
    let young = mk_custom("young", "1.1.1.3").created(Some(3));
    let mut lab =
        Lab::of([holder.clone().created(Some(1)).service_id(7).into(), middle.into(), young.into()]);
    assert_eq!(shows(&lab), "1.1.1.3:80");
    assert!(lab.verdict(&balancing("young")).conflicts_with.is_empty());
    lab.delete(holder);
    assert_eq!(shows(&lab), "1.1.1.2:80");
    assert_eq!(lab.verdict(&balancing("young")).conflicts_with, BTreeSet::from([balancing("middle")]));
}
