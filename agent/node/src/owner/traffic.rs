//! What happened to the connections of each policy, in numbers that only grow while the policy is known.
//!
//! The tables tell growth by service id; this module knows which policy has which.

use std::collections::BTreeMap;

use balancing_dataplane::tables::Counters;

use balancing_core::{objects::PolicyRef, plan::Verdict};

/// Ids beyond twice the number of policies that are kept before those of nobody are dropped.
const SPARE: usize = 64;

/// Totals by policy.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Who has a service id, or had it last: the tables follow decisions a little later.
    owners: BTreeMap<u32, PolicyRef>,
    totals: BTreeMap<PolicyRef, Counters>,
}

impl Traffic {
    /// Whether a service id passes from one policy to another: what was counted so far must be taken in before.
    pub(super) fn changes_hands(&self, ids: &[(&PolicyRef, Option<u32>)]) -> bool {
        let owner = |id: &Option<u32>| id.and_then(|id| self.owners.get(&id));
        ids.iter().any(|(policy, id)| owner(id).is_some_and(|owner| owner != *policy))
    }

    /// Takes in who has which service id; `None` = the policy is gone, and its totals with it.
    pub(super) fn judge(&mut self, ids: &[(&PolicyRef, Option<u32>)]) {
        for (policy, id) in ids {
            match id {
                Some(id) => {
                    self.owners.insert(*id, (*policy).clone());
                    self.totals.entry((*policy).clone()).or_default();
                }
                None => {
                    self.totals.remove(*policy);
                }
            }
        }
    }

    /// Forgets service ids that no policy has any more.
    pub(super) fn prune(&mut self, verdicts: &BTreeMap<PolicyRef, Verdict>) {
        if self.owners.len() > 2 * verdicts.len() + SPARE {
            self.owners.retain(|id, policy| verdicts.get(policy).is_some_and(|v| v.service_id == *id));
        }
    }

    /// Adds growth; that of policies that are gone is nobody's.
    pub(super) fn add(&mut self, counted: BTreeMap<u32, Counters>) {
        for (id, counters) in counted {
            let total = self.owners.get(&id).and_then(|policy| self.totals.get_mut(policy));
            if let Some(total) = total {
                total.add(&counters);
            }
        }
    }

    /// By policy, all zero for those that counted nothing.
    pub(super) fn totals(&self) -> &BTreeMap<PolicyRef, Counters> {
        &self.totals
    }
}

#[cfg(test)]
mod tests {
    use balancing_dataplane::model::PolicyKind;

    use super::*;

    fn policy(name: &str) -> PolicyRef {
        PolicyRef { kind: PolicyKind::Balancing, name: name.to_owned() }
    }

    fn counted(id: u32, redirected: u64) -> BTreeMap<u32, Counters> {
        BTreeMap::from([(id, Counters { redirected, ..Counters::default() })])
    }

    fn redirected(traffic: &Traffic, name: &str) -> Option<u64> {
        traffic.totals().get(&policy(name)).map(|total| total.redirected)
    }

    #[test]
    fn totals_follow_the_policy_and_not_its_id() {
        let (mut traffic, a, b) = (Traffic::default(), policy("a"), policy("b"));
        traffic.judge(&[(&a, Some(5)), (&b, Some(6))]);
        traffic.add(counted(5, 3));
        traffic.judge(&[(&a, Some(7))]);
        traffic.add(counted(5, 2));
        traffic.add(counted(7, 1));
        assert_eq!((redirected(&traffic, "a"), redirected(&traffic, "b")), (Some(6), Some(0)));
    }

    #[test]
    fn an_id_that_passes_on_is_noticed() {
        let (mut traffic, a, b) = (Traffic::default(), policy("a"), policy("b"));
        traffic.judge(&[(&a, Some(5))]);
        assert!(!traffic.changes_hands(&[(&a, Some(5)), (&b, Some(6))]));
        let change = [(&a, None), (&b, Some(5))];
        assert!(traffic.changes_hands(&change));
        traffic.judge(&change);
        traffic.add(counted(5, 4));
        assert_eq!((redirected(&traffic, "a"), redirected(&traffic, "b")), (None, Some(4)));
    }

    #[test]
    fn policies_and_ids_that_are_gone_take_no_room() {
        let mut traffic = Traffic::default();
        for id in 0..1000 {
            let policy = policy(&id.to_string());
            traffic.judge(&[(&policy, Some(id))]);
            traffic.judge(&[(&policy, None)]);
            traffic.prune(&BTreeMap::new());
        }
        traffic.add(counted(999, 1));
        assert!(traffic.owners.len() <= SPARE && traffic.totals.is_empty(), "{traffic:?}");
    }
}
