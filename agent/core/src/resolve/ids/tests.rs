//! Collisions of service ids.

use std::collections::{BTreeMap, HashMap};

use balancing_abi::model::PolicyKind;

use super::{Bid, DERIVED, Ids, home};
use crate::{
    objects::{InvalidSpec, Policy, PolicyRef},
    resolve::settle::Rank,
};

fn mk_ref(name: &str) -> PolicyRef {
    PolicyRef { kind: PolicyKind::Balancing, name: name.to_owned() }
}

fn mk_bid(name: &str, chosen: Option<u32>) -> Bid {
    let spec = Err(InvalidSpec { problems: Vec::new(), frontends: Vec::new() });
    let policy = Policy {
        id: mk_ref(name),
        uid: String::new(),
        generation: 0,
        created: Some(1),
        proxy_ports: Vec::new(),
        service_id: chosen,
        spec,
    };
    Bid { chosen, rank: Rank::of(&policy), active: true }
}

fn update(ids: &mut Ids, name: &str, bid: Option<Bid>) -> Vec<String> {
    ids.update(BTreeMap::from([(mk_ref(name), bid)])).into_iter().map(|policy| policy.name).collect()
}

/// Two names, in order, that derive the same number.
fn twins() -> (String, String) {
    let mut seen = HashMap::new();
    for n in 0_u32.. {
        let name = format!("p{n}");
        if let Some(other) = seen.insert(home(&mk_ref(&name)), name.clone()) {
            return if other < name { (other, name) } else { (name, other) };
        }
    }
    unreachable!()
}

#[test]
fn colliding_names_get_two_ids_whatever_the_order() {
    let (a, b) = twins();
    for order in [[&a, &b], [&b, &a]] {
        let mut ids = Ids::default();
        for name in order {
            update(&mut ids, name, Some(mk_bid(name, None)));
        }
        let shared = home(&mk_ref(&a));
        assert_eq!(ids.id(&mk_ref(&a)), shared, "the first in order stays");
        assert_eq!(ids.id(&mk_ref(&b)), shared.wrapping_add(1) | DERIVED);
        assert_eq!(update(&mut ids, &a, None).len(), 2, "the twin is touched when its id changes");
        assert_eq!(ids.id(&mk_ref(&b)), shared);
    }
}

#[test]
fn chosen_id_displaces_a_derived_one_and_gives_it_back() {
    let mut ids = Ids::default();
    update(&mut ids, "derived", Some(mk_bid("derived", None)));
    let id = ids.id(&mk_ref("derived"));
    let touched = update(&mut ids, "chosen", Some(mk_bid("chosen", Some(id))));
    assert_eq!(touched, ["chosen", "derived"]);
    assert_eq!(ids.id(&mk_ref("chosen")), id);
    assert_ne!(ids.id(&mk_ref("derived")), id);
    assert_eq!(ids.winner_over(&mk_ref("derived")), None, "a derived id is never contested");
    update(&mut ids, "chosen", None);
    assert_eq!(ids.id(&mk_ref("derived")), id);
}

#[test]
fn probing_wraps_within_the_upper_half() {
    assert_eq!(u32::MAX.wrapping_add(1) | DERIVED, DERIVED);
    assert!((0..1000).all(|n| home(&mk_ref(&n.to_string())) >= DERIVED));
}

#[test]
fn kind_is_part_of_the_derived_id() {
    let other = PolicyRef { kind: PolicyKind::LocalRedirect, name: "x".to_owned() };
    assert_ne!(home(&mk_ref("x")), home(&other));
}

#[test]
fn inactive_policy_contests_nothing() {
    let mut ids = Ids::default();
    update(&mut ids, "a", Some(mk_bid("a", Some(7))));
    update(&mut ids, "b", Some(mk_bid("b", Some(7))));
    assert_eq!(ids.winner_over(&mk_ref("b")), Some(&mk_ref("a")));
    let touched = update(&mut ids, "a", Some(Bid { active: false, ..mk_bid("a", Some(7)) }));
    assert_eq!(touched, ["a", "b"]);
    assert_eq!(ids.winner_over(&mk_ref("b")), None);
    assert_eq!(ids.winner_over(&mk_ref("a")), None);
}

#[test]
fn any_sequence_of_choices_ends_like_the_same_choices_at_once() {
    let names: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
    let mut state = 1_u32;
    let mut roll = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % n
    };
    for _ in 0..500 {
        let (mut ids, mut bids) = (Ids::default(), BTreeMap::new());
        for _ in 0..12 {
            let name = &names[roll(6)];
            // Numbers that others derive, or the next one: every choice collides.
            let near = home(&mk_ref(&names[roll(6)])).wrapping_add(u32::try_from(roll(2)).unwrap());
            let bid =
                [None, Some(mk_bid(name, None)), Some(mk_bid(name, Some(near | DERIVED)))][roll(3)].clone();
            let before: BTreeMap<_, _> = bids.keys().map(|policy| (policy, ids.id(policy))).collect();
            let touched = ids.update(BTreeMap::from([(mk_ref(name), bid.clone())]));
            for (policy, old) in before {
                assert!(ids.id(policy) == old || touched.contains(policy), "an id changed unnoticed");
            }
            bids.insert(mk_ref(name), bid);
            let mut scratch = Ids::default();
            scratch.update(bids.clone());
            for policy in bids.iter().filter(|(_, bid)| bid.is_some()).map(|(policy, _)| policy) {
                assert_eq!(ids.id(policy), scratch.id(policy));
                assert_eq!(ids.winner_over(policy), scratch.winner_over(policy));
            }
            let derived = bids.iter().filter(|(_, bid)| bid.as_ref().is_some_and(|bid| bid.chosen.is_none()));
            let derived: Vec<u32> = derived.map(|(policy, _)| ids.id(policy)).collect();
            let chosen: Vec<u32> = bids.values().flatten().filter_map(|bid| bid.chosen).collect();
            let distinct: std::collections::BTreeSet<_> = derived.iter().collect();
            assert!(distinct.len() == derived.len() && derived.iter().all(|id| !chosen.contains(id)));
        }
    }
}
