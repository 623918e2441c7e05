//! What a status says about every state of a policy, and when it is left alone.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use balancing_core::{
    objects::{InvalidSpec, Problem},
    resolve::fixtures::{
        Tcp, at_address, balancing, key, local, mk_addresses, mk_balancing, mk_local, web_pods,
    },
};

fn mk_verdict(reason: Reason) -> Verdict {
    let in_force = matches!(reason, Reason::Applied);
    let unresolved =
        matches!(reason, Reason::ServiceNotFound | Reason::UnsupportedService | Reason::PortsNotPaired);
    let frontends = if in_force { BTreeMap::from([(key("10.0.0.1", 80, Tcp), 2)]) } else { BTreeMap::new() };
    Verdict {
        service_id: 7,
        generation: 3,
        accepted: reason != Reason::InvalidSpec,
        takes_part: !matches!(
            reason,
            Reason::InvalidSpec | Reason::Disabled | Reason::NotSelected | Reason::Pending
        ),
        resolved_refs: !unresolved,
        conflicts_with: BTreeSet::new(),
        reason,
        left_alone: Vec::new(),
        message: format!("about {}", reason.as_str()),
        backends: 2 * frontends.len(),
        redirects: in_force,
        frontends,
    }
}

fn mk_policy() -> Policy {
    mk_addresses("b", at_address("10.0.0.1", &[("", 80, Tcp)]), &["10.9.9.9"], 80)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn first(verdict: &Verdict) -> Status {
    next(&mk_policy(), verdict, None, 3, &[], at(100)).unwrap()
}

/// `status/reason` of the four conditions.
fn words(status: &Status) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

#[test]
fn every_reason_has_its_conditions() {
    let no = "Conflicted=False/NoConflict";
    let cases = [
        (Reason::Applied, "Accepted=True/Accepted", "True/ResolvedRefs", "True/Programmed"),
        (Reason::InvalidSpec, "Accepted=False/InvalidSpec", "Unknown/InvalidSpec", "False/InvalidSpec"),
        (Reason::ServiceNotFound, "Accepted=True/Accepted", "False/ServiceNotFound", "False/ServiceNotFound"),
        (
            Reason::UnsupportedService,
            "Accepted=True/Accepted",
            "False/UnsupportedService",
            "False/UnsupportedService",
        ),
        (Reason::PortsNotPaired, "Accepted=True/Accepted", "False/PortsNotPaired", "False/PortsNotPaired"),
        (Reason::Disabled, "Accepted=True/Accepted", "Unknown/Disabled", "False/Disabled"),
        (Reason::NotSelected, "Accepted=True/Accepted", "Unknown/NotSelected", "False/NotSelected"),
    ];
    for (reason, accepted, refs, programmed) in cases {
        let expected = [
            accepted.to_owned(),
            format!("ResolvedRefs={refs}"),
            no.to_owned(),
            format!("Programmed={programmed}"),
        ];
        assert_eq!(words(&first(&mk_verdict(reason))), expected, "{reason:?}");
    }
    let mut lost = mk_verdict(Reason::Conflicted);
    lost.conflicts_with = BTreeSet::from([balancing("old"), balancing("older")]);
    let status = first(&lost);
    assert_eq!(words(&status)[2..], ["Conflicted=True/Conflicted", "Programmed=False/Conflicted"]);
    assert_eq!(status.conditions[2].message, lost.message);
    let mut idle = mk_verdict(Reason::Applied);
    idle.redirects = false;
    assert_eq!(words(&first(&idle))[3], "Programmed=False/NoBackends", "its frontends refuse connections");
    idle.frontends.clear();
    assert_eq!(words(&first(&idle))[3], "Programmed=False/NoBackends");
    let mut partly = mk_verdict(Reason::Applied);
    (partly.reason, partly.resolved_refs) = (Reason::PortsNotPaired, false);
    assert_eq!(words(&first(&partly))[3], "Programmed=True/Programmed", "some ports are in force");
    assert_eq!(words(&first(&partly))[1], "ResolvedRefs=False/PortsNotPaired");
}

#[test]
fn numbers_mode_and_generation_are_told() {
    let status = first(&mk_verdict(Reason::Applied));
    assert_eq!((status.observed_generation, status.service_id), (Some(3), Some(7)));
    assert_eq!((status.frontends, status.backends), (Some(1), Some(2)));
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)));
    let front = || at_address("10.0.0.1", &[("", 80, Tcp)]);
    let pods = |mode| mk_balancing("b", front(), web_pods(&[("", 80, Tcp)]), mode);
    let mut broken = mk_policy();
    broken.spec = Err(InvalidSpec {
        problems: vec![Problem { field: "f".into(), message: "m".into() }],
        frontends: Vec::new(),
    });
    let mut broken_local = mk_local("l", front(), web_pods(&[("", 80, Tcp)]));
    broken_local.spec = broken.spec.clone();
    for (policy, expected) in [
        (mk_policy(), Some("addresses")),
        (pods(RedirectMode::PodEndpoint), Some("podEndpoint")),
        (pods(RedirectMode::HostPort), Some("hostPort")),
        (pods(RedirectMode::NodeProxy), Some("nodeProxy")),
        (mk_local("l", front(), web_pods(&[("", 80, Tcp)])), Some("LocalRedirect")),
        (broken, None),
        (broken_local, Some("LocalRedirect")),
    ] {
        assert_eq!(mode(&policy), expected, "{:?}", policy.id);
    }
    assert_eq!(local("l").kind.kind(), "LocalRedirectPolicy");
}

#[test]
fn the_time_of_a_condition_changes_with_its_status_only() {
    let before = first(&mk_verdict(Reason::Applied));
    let mut more = mk_verdict(Reason::Applied);
    (more.backends, more.message) = (5, "1 frontend, 5 backends".to_owned());
    let status = next(&mk_policy(), &more, Some(&before), 3, &[], at(200)).unwrap();
    assert_eq!((status.backends, &status.conditions[3].message), (Some(5), &more.message));
    assert!(status.conditions.iter().all(|c| c.last_transition_time.0 == at(100)));
    assert_eq!(status.urgency(Some(&before)), Urgency::Soon);
    let gone = mk_verdict(Reason::ServiceNotFound);
    let status = next(&mk_policy(), &gone, Some(&before), 3, &[], at(300)).unwrap();
    let times: Vec<i64> = status.conditions.iter().map(|c| c.last_transition_time.0.as_second()).collect();
    assert_eq!(times, [100, 300, 100, 300]);
    assert_eq!((status.urgency(Some(&before)), status.urgency(None)), (Urgency::Now, Urgency::Now));
}

#[test]
fn what_is_there_already_is_not_written() {
    let verdict = mk_verdict(Reason::Applied);
    let json = serde_json::to_value(first(&verdict)).unwrap();
    let mut foreign = json.clone();
    foreign["somebody"] = "else".into();
    let list = foreign["conditions"].as_array_mut().unwrap();
    list.reverse();
    let mut other = list[0].clone();
    other["type"] = "Theirs".into();
    list.insert(1, other);
    for status in [&json, &foreign] {
        let current = Status::read(Some(status)).unwrap();
        assert_eq!(next(&mk_policy(), &verdict, Some(&current), 3, &[], at(900)), None);
    }
    for spoil in ["serviceId", "frontends", "mode", "observedGeneration", "conditions"] {
        let mut spoilt = json.clone();
        spoilt.as_object_mut().unwrap().remove(spoil);
        let current = Status::read(Some(&spoilt)).unwrap();
        let status = next(&mk_policy(), &verdict, Some(&current), 3, &[], at(900)).unwrap();
        assert!(status.says_the_same(&first(&verdict)), "{spoil} is put right");
    }
    let nonsense = serde_json::json!({ "frontends": "many" });
    assert_eq!((Status::read(Some(&nonsense)), Status::read(None)), (None, None));
}

#[test]
fn an_older_view_does_not_overwrite_a_newer_one() {
    let mut newer = mk_verdict(Reason::Applied);
    newer.generation = 4;
    let current = first(&newer);
    let older = mk_verdict(Reason::InvalidSpec);
    assert_eq!(next(&mk_policy(), &older, Some(&current), 4, &[], at(200)), None);
    // Nobody can have seen a generation that does not exist yet.
    assert!(next(&mk_policy(), &older, Some(&current), 3, &[], at(200)).is_some());
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let mut verdict = mk_verdict(Reason::InvalidSpec);
    verdict.message = "ä".repeat(MESSAGE);
    assert_eq!(first(&verdict).conditions[0].message, verdict.message);
    verdict.message.push('x');
    let message = &first(&verdict).conditions[0].message;
    assert_eq!(message.chars().count(), MESSAGE);
    assert!(message.ends_with("ä ..."));
}
