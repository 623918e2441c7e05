//! Claims that nobody uses, or too many of.

use super::*;

const UNUSED: &str = "the TunnelNode of its owner does not have the address";

fn lab() -> Lab {
    let mut lab = Lab::new(&(fabric("f", 1, "10.211.0.0/28") + &node("n1", "u1") + &node("n2", "u2")));
    lab.write();
    lab
}

#[test]
fn a_claim_that_its_owner_does_not_use_is_given_back() {
    let mut lab = lab();
    lab.put(&claim("Node", "n1", "u1", "10.211.0.3"));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"], "it has no TunnelNode yet");
    lab.pass(14 * MINUTE);
    lab.put(&member("Node", "n1", "u1", 1, "10.211.0.3"));
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"]);
    lab.pass(60 * MINUTE);
    assert_eq!(lab.write(), NOTHING);
    lab.put(&claim("Node", "n1", "u1", "10.211.0.2"));
    lab.put(&member("Node", "n1", "u1", 1, "10.211.0.2"));
    lab.write();
    lab.pass(15 * MINUTE);
    assert_eq!(lab.write(), [format!("- TunnelAddressClaim 10-211-0-3: {UNUSED}")]);
    // An agent that was killed between its claim and its TunnelNode leaves nothing for ever.
    lab.put(&claim("Node", "n2", "u2", "10.211.0.4"));
    lab.write();
    lab.pass(15 * MINUTE);
    assert!(lab.write().contains(&format!("- TunnelAddressClaim 10-211-0-4: {UNUSED}")));
}

#[test]
fn whoever_claims_a_whole_pool_keeps_little_of_it_and_is_named() {
    let mut lab = lab();
    lab.put(&(claim("Node", "n2", "u2", "10.211.0.2") + &member("Node", "n2", "u2", 1, "10.211.0.2")));
    for last in 3..15 {
        lab.put(&claim("Node", "n1", "u1", &format!("10.211.0.{last}")));
    }
    assert_eq!(lab.write(), ["f: Accepted=True PoolExhausted=True"]);
    let status = &lab.seen[&(Kind::TunnelFabric, "f".to_owned())].status;
    let text = serde_json::to_string(status).unwrap();
    assert!(text.contains("none; Node n1 has most of them, 12"), "{text}");
    lab.pass(MINUTE / 4);
    let told = lab.write();
    assert_eq!(told.len(), 8, "four stay for a quarter of an hour: {told:?}");
    assert!(told.iter().all(|told| told.contains("more than 4 addresses that its TunnelNode does not have")));
}

#[test]
fn a_member_whose_claim_was_deleted_hears_of_it_and_of_the_end() {
    let mut lab = lab();
    let (claimed, mine) =
        (claim("Node", "n1", "u1", "10.211.0.3"), member("Node", "n1", "u1", 1, "10.211.0.3"));
    lab.put(&(claimed.clone() + &mine));
    lab.write();
    lab.delete(&claimed);
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False"]);
    let due = lab.orphans.next_due().unwrap();
    assert_eq!(due - lab.at, Duration::from_secs(5));
    lab.pass(due - lab.at);
    assert_eq!(lab.write(), ["node.n1: NoClaim=False"]);
    lab.pass(MINUTE);
    assert_eq!(lab.write(), NOTHING);
    lab.put(&claimed);
    assert_eq!(lab.write(), ["f: Accepted=True AddressesLeft=False", "node.n1: Claimed=True"]);
    assert_eq!(lab.write(), NOTHING);
}

/// What cannot be removed, as an object with a finalizer, and a status that cannot be written.
#[test]
fn many_removals_and_those_that_fail_keep_nobody_from_his_turn() {
    let mut lab = Lab::new(&fabric("f", 1, "10.211.0.0/16"));
    lab.write();
    for n in 0..100 {
        lab.put(&member("Node", &format!("n{n:03}"), "gone", 1, &format!("10.211.1.{n}")));
        lab.put(&host(&format!("h{n:03}"), "user: db"));
    }
    lab.write();
    let (mut removed, mut told) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for _ in 0..4 {
        lab.pass(MINUTE / 30);
        let before = lab.seen.clone();
        let writes = lab.write();
        assert!(writes.len() <= 64 && writes.iter().any(|it| it.starts_with("- ")), "{}", writes.len());
        let (removals, statuses): (Vec<_>, Vec<_>) = writes.into_iter().partition(|it| it.starts_with("- "));
        removed.extend(removals);
        told.extend(statuses);
        // Nothing of it is done.
        lab.seen = before;
    }
    assert_eq!(removed.len(), 100);
    assert!(told.iter().filter(|it| it.starts_with('h')).count() > 32, "{}", told.len());
}
