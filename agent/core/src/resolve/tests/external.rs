//! Which external addresses of a Service are claimed, and which are left alone.

use super::fixtures::*;
use crate::{
    objects::{Addresses, Endpoints, Node, Object, ObjectRef, Policy, RedirectMode, Service},
    plan::Reason,
    resolve::{ClusterPods, Settings, approve},
    snapshot::Wait,
};

const GOOD: &str = "203.0.113.7";

/// Service `s` with these external addresses.
fn mk_outside(external: &[&str]) -> Service {
    let service = mk_service("s", &["10.96.0.1"], &[("", 80, Tcp)]);
    Service { external_ips: ips(external), ..service }
}

fn mk_other(cluster_ip: &str) -> Service {
    mk_service("other", &[cluster_ip], &[("", 80, Tcp)])
}

fn mk_direct() -> Policy {
    mk_addresses("b", at_service("s", &[]), &["1.1.1.1", "fd0f::1"], 8080)
}

fn mk_listed() -> Lab {
    Lab::with_settings(Settings { cluster_pods: ClusterPods::Listed, ..mk_settings() })
}

/// The head of a policy without pods, with what the controller approves.
fn mk_head(policy: &Policy, approved: Option<&[&str]>) -> Endpoints {
    Endpoints {
        slice: ObjectRef { namespace: "balancing".to_owned(), name: "b-0".to_owned() },
        policy: policy.id.clone(),
        policy_uid: policy.uid.clone(),
        generation: Some(policy.generation),
        set_size: Some(1),
        approved: approved.map(ips),
        ports: Vec::new(),
        list: Vec::new(),
    }
}

fn claims(lab: &Lab) -> Addresses {
    lab.entries().keys().map(|key| key.address).collect()
}

fn left_alone(lab: &Lab) -> Vec<String> {
    lab.verdict(&balancing("b")).left_alone.clone()
}

#[test]
fn addresses_of_somebody_else_are_left_alone_and_named() {
    let node = Node { other_ips: ips(&["198.51.100.9"]), ..mk_node(THERE, &["192.168.0.2"], &["10.9.0.2"]) };
    let cases = [
        ("10.96.0.10", "it is the ClusterIP of default/other"),
        ("192.168.0.2", "it is an address of Node node-b"),
        ("198.51.100.9", "it is an address of Node node-b"),
        ("10.9.0.2", "it is an address of Node node-b"),
        ("127.0.0.53", "it is a loopback address"),
        ("::1", "it is a loopback address"),
        ("169.254.169.254", "it is a link-local address"),
        ("fe80::1", "it is a link-local address"),
        ("0.0.0.0", "it is the unspecified address"),
        ("::", "it is the unspecified address"),
        ("224.0.0.1", "it is a multicast address"),
        ("ff02::1", "it is a multicast address"),
        ("255.255.255.255", "it is the broadcast address"),
    ];
    for (address, why) in cases {
        for field in ["external", "load balancer"] {
            let mut service = mk_outside(&[GOOD, address]);
            if field == "load balancer" {
                std::mem::swap(&mut service.external_ips, &mut service.load_balancer_ips);
            }
            let lab = Lab::of([
                service.into(),
                mk_direct().into(),
                mk_other("10.96.0.10").into(),
                node.clone().into(),
            ]);
            assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]), "{address}");
            let told = format!("external address {address} of Service default/s is left alone: {why}");
            assert_eq!(left_alone(&lab), std::slice::from_ref(&told));
            let verdict = lab.verdict(&balancing("b"));
            assert_eq!((verdict.resolved_refs, verdict.reason), (true, Reason::Applied));
            assert!(verdict.message.contains(&told), "{}", verdict.message);
        }
    }
}

/// The same address in another spelling.
#[test]
fn a_mapped_address_is_the_ipv4_address() {
    let lab = Lab::of([
        mk_outside(&["::ffff:10.96.0.10", "::ffff:127.0.0.1", "::ffff:203.0.113.7"]).into(),
        mk_direct().into(),
        mk_other("10.96.0.10").into(),
    ]);
    assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
    assert_eq!(left_alone(&lab).len(), 2);
}

#[test]
fn the_own_cluster_ip_is_nobody_elses() {
    let lab = Lab::of([mk_outside(&["10.96.0.1"]).into(), mk_direct().into()]);
    assert_eq!((claims(&lab), left_alone(&lab).len()), (ips(&["10.96.0.1"]), 0));
}

#[test]
fn a_service_of_which_nothing_is_left_is_unsupported() {
    let service = Service { cluster_ips: ips(&[]), ..mk_outside(&["127.0.0.1"]) };
    let lab = Lab::of([service.into(), mk_direct().into()]);
    let verdict = lab.verdict(&balancing("b"));
    assert_eq!((verdict.resolved_refs, verdict.reason), (false, Reason::UnsupportedService));
    assert!(verdict.message.contains("127.0.0.1 of Service default/s is left alone"), "{}", verdict.message);
}

#[test]
fn owners_that_come_and_go_take_and_give() {
    let mut lab = Lab::of([mk_outside(&[GOOD]).into(), mk_direct().into()]);
    let (service, node) = (mk_other(GOOD), mk_node(THERE, &[GOOD], &[]));
    for owner in [Object::from(service), node.into()] {
        assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
        let delta = lab.put(owner.clone());
        assert_eq!((claims(&lab), delta.resolved), (ips(&["10.96.0.1"]), 1), "{owner:?}");
        lab.delete(owner);
    }
    assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
}

/// A change costs the policies that it concerns, and no other.
#[test]
fn other_owners_touch_nobody() {
    let redirect = mk_local("l", at_service("s", &[]), web_pods(&[("", 1, Tcp)]));
    let mut lab = Lab::of([mk_outside(&[GOOD]).into(), mk_direct().into(), redirect.into()]);
    assert_eq!(lab.put(mk_other("10.96.0.3")).resolved, 0);
    assert_eq!(lab.put(mk_node(THERE, &["192.168.0.2"], &[])).resolved, 0);
    assert_eq!(lab.put(mk_other(GOOD)).resolved, 1, "a LocalRedirectPolicy claims no external address");
}

#[test]
fn a_policy_claims_a_bounded_number_of_addresses_and_says_so_in_few_words() {
    let many: Vec<String> = (0..1100).map(|n| format!("203.0.{}.{}", n / 256, n % 256)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let lab = Lab::of([mk_outside(&many).into(), mk_direct().into()]);
    assert_eq!(claims(&lab).len(), 1 + 1024);
    let notes = left_alone(&lab);
    assert_eq!((notes.len(), notes[5].as_str()), (6, "so are 71 more external addresses"));
}

#[test]
fn an_agent_claims_only_what_the_controller_approved() {
    let (mut lab, policy) = (mk_listed(), mk_direct());
    lab.put(mk_outside(&[GOOD]));
    lab.put(policy.clone());
    assert_eq!(claims(&lab), ips(&[]), "a first claim waits");
    assert_eq!(lab.engine.snapshot().wait(&balancing("b")), Some(Wait::First(1)));
    // A controller of an earlier version approves nothing.
    lab.put(mk_head(&policy, None));
    assert_eq!(claims(&lab), ips(&[]));
    let message = &lab.verdict(&balancing("b")).message;
    assert!(message.contains("which a controller of this version lists"), "{message}");
    lab.put(mk_head(&policy, Some(&[GOOD])));
    assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
    // Another node's address, which an agent cannot know.
    lab.put(mk_outside(&[GOOD, "192.168.0.2"]));
    assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
    assert!(left_alone(&lab)[0].contains("192.168.0.2"), "{:?}", left_alone(&lab));
    assert!(
        left_alone(&lab)[0].ends_with("the controller has not approved it; the policy's status tells why")
    );
    // What is approved, but known here to be somebody else's, is not claimed either.
    lab.put(mk_other(GOOD));
    assert_eq!(claims(&lab), ips(&["10.96.0.1"]));
    lab.delete(mk_other(GOOD));
    // A node joined.
    lab.put(mk_head(&policy, Some(&[])));
    assert_eq!(claims(&lab), ips(&["10.96.0.1"]));
}

/// An agent does not know what the controller refused, and must not count that.
#[test]
fn the_bound_is_the_controllers() {
    let (mut lab, policy) = (mk_listed(), mk_direct());
    let many: Vec<String> = (0..1124).map(|n| format!("203.0.{}.{}", n / 256, n % 256)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    lab.put(mk_outside(&many));
    lab.put(policy.clone());
    lab.put(mk_head(&policy, Some(&many[100..])));
    assert_eq!(claims(&lab).len(), 1 + 1024);
}

#[test]
fn what_is_in_force_stays_until_the_controller_has_answered() {
    let (mut lab, policy) = (mk_listed(), mk_direct());
    lab.put(mk_outside(&[]));
    lab.put(policy.clone());
    assert_eq!(claims(&lab), ips(&["10.96.0.1"]), "nothing is asked for");
    lab.put(mk_outside(&[GOOD]));
    assert_eq!(claims(&lab), ips(&["10.96.0.1"]));
    assert_eq!(lab.engine.snapshot().wait(&balancing("b")), Some(Wait::Next(1)));
    lab.put(mk_head(&policy, Some(&[GOOD])));
    assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
    // Somebody deletes the slice: that takes nothing away.
    lab.delete(mk_head(&policy, None));
    assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
    let next = policy.edited(|spec| spec.frontend = at_service("s", &[("", 80, Tcp)]));
    lab.put(next.clone());
    assert_eq!(lab.engine.snapshot().wait(&balancing("b")), Some(Wait::Next(2)));
    lab.put(mk_head(&next, Some(&[GOOD])));
    assert_eq!(lab.engine.snapshot().wait(&balancing("b")), None);
}

/// The generation that waits names another Service than the one in force.
#[test]
fn a_generation_that_needs_no_approval_any_more_waits_no_longer() {
    let (mut lab, policy) = (mk_listed(), mk_direct());
    lab.put(mk_other("10.96.0.9"));
    lab.put(policy.clone().with(|spec| spec.frontend = at_service("other", &[])));
    lab.put(mk_outside(&[GOOD]));
    lab.put(policy.edited(|_| ()));
    assert_eq!(claims(&lab), ips(&["10.96.0.9"]));
    lab.put(mk_outside(&[]));
    assert_eq!(claims(&lab), ips(&["10.96.0.1"]));
}

#[test]
fn policies_over_pods_ask_for_approval_too() {
    let mut lab = mk_listed();
    let policy =
        mk_balancing("b", at_service("s", &[]), web_pods(&[("", 8080, Tcp)]), RedirectMode::PodEndpoint);
    lab.put(mk_outside(&[GOOD]));
    lab.put(mk_pod("a", &["10.0.0.1"]));
    lab.put(policy.clone());
    lab.put(mk_head(&policy, None));
    assert_eq!(claims(&lab), ips(&[]));
    lab.put(mk_head(&policy, Some(&[GOOD])));
    assert_eq!(claims(&lab), ips(&["10.96.0.1", GOOD]));
}

/// Whatever the order of changes, nobody claims what is another's by all that is known.
#[test]
fn no_claim_is_ever_anybody_elses() {
    let addresses = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "fd00::3"];
    let some = |bits: usize| -> Vec<&str> {
        addresses.iter().enumerate().filter(|(n, _)| bits & 1 << n != 0).map(|(_, ip)| *ip).collect()
    };
    let mut dice: u64 = 0x9e37_79b9;
    let mut below = |n: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from((dice >> 33) % n).unwrap()
    };
    for is_listed in [false, true] {
        let (mut lab, policy) = (if is_listed { mk_listed() } else { Lab::new() }, mk_direct());
        lab.put(policy.clone());
        let mut claimed = 0;
        for _ in 0..400 {
            match below(4) {
                0 => lab.put(mk_outside(&some(below(16)))),
                1 => lab.put(mk_other(addresses[below(4)])),
                2 => lab.put(mk_node(THERE, &some(below(16) & below(16)), &[])),
                _ => lab.put(mk_head(&policy, Some(&some(below(16))))),
            };
            let snapshot = lab.engine.snapshot();
            let approved = snapshot.approved(&balancing("b")).cloned();
            for address in claims(&lab).iter().filter(|address| **address != ip("10.96.0.1")) {
                claimed += 1;
                assert!(snapshot.with_cluster_ip(*address).all(|owner| owner.name == "s"), "{address}");
                assert_eq!(snapshot.node_at(*address), None, "{address}");
                assert!(!is_listed || approved.as_ref().is_some_and(|list| list.contains(address)));
            }
        }
        assert!(claimed > 50, "{claimed}");
    }
}

#[test]
fn the_controller_approves_by_all_that_it_knows() {
    let lab = Lab::of([
        mk_outside(&[GOOD, "192.168.0.2"]).into(),
        mk_direct().into(),
        mk_node(THERE, &["192.168.0.2"], &[]).into(),
    ]);
    let policy = mk_direct();
    let approved = |policy: &Policy| {
        approve(&policy.id, policy.spec.as_ref().unwrap(), lab.engine.snapshot())
            .map(|set| set.into_iter().collect::<Addresses>())
    };
    assert_eq!(approved(&policy), Some(ips(&[GOOD])));
    assert_eq!(approved(&policy.with(|spec| spec.frontend = at_service("none", &[]))), None);
    let redirect = mk_local("l", at_service("s", &[]), web_pods(&[("", 1, Tcp)]));
    assert_eq!(approved(&redirect), None);
}
