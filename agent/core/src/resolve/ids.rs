//! Service ids: chosen by annotation or derived from kind and name.
//!
//! The outcome depends on the set of policies alone, never on the order in which they came.
//! A derived id lies in the upper half of the numbers. When two policies derive the same number,
//! or an annotation took it, the later in order moves on to the next number that nobody has.

use std::collections::{BTreeMap, BTreeSet};

use crate::{objects::PolicyRef, resolve::settle::Rank};

const DERIVED: u32 = 1 << 31;

/// What matters about a policy for its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bid {
    /// The annotation.
    pub(super) chosen: Option<u32>,
    /// Its seniority.
    pub(super) rank: Rank,
    /// Only a policy that takes part contests an id.
    pub(super) active: bool,
}

/// All ids.
#[derive(Debug, Default)]
pub(super) struct Ids {
    bids: BTreeMap<PolicyRef, Bid>,
    chosen: BTreeMap<u32, BTreeSet<PolicyRef>>,
    /// Policies by the number their name derives.
    homes: BTreeMap<u32, BTreeSet<PolicyRef>>,
    /// Numbers that more than one policy would have.
    crowded: BTreeSet<u32>,
    /// Where the policies went that could not stay.
    moved: BTreeMap<PolicyRef, u32>,
}

impl Ids {
    /// Takes in new bids, `None` for policies that are gone. Returns whose id, or whose right to
    /// it, may have changed, those named included.
    pub(super) fn update(&mut self, bids: BTreeMap<PolicyRef, Option<Bid>>) -> BTreeSet<PolicyRef> {
        let mut touched = BTreeSet::new();
        for (policy, bid) in bids {
            if self.bids.get(&policy) != bid.as_ref() {
                self.replace(&policy, bid, &mut touched);
            }
            touched.insert(policy);
        }
        let moved = self.place_crowded();
        let changed = |policy: &&PolicyRef| self.moved.get(*policy) != moved.get(*policy);
        touched.extend(self.moved.keys().chain(moved.keys()).filter(changed).cloned());
        self.moved = moved;
        touched
    }

    /// The id of a policy that was taken in.
    pub(super) fn id(&self, policy: &PolicyRef) -> u32 {
        let chosen = self.bids.get(policy).and_then(|bid| bid.chosen);
        chosen.or_else(|| self.moved.get(policy).copied()).unwrap_or_else(|| home(policy))
    }

    /// The senior policy that has the id this one chose, too.
    pub(super) fn winner_over(&self, policy: &PolicyRef) -> Option<&PolicyRef> {
        let bid = self.bids.get(policy).filter(|bid| bid.active)?;
        let rivals = self.chosen.get(&bid.chosen?)?.iter().filter_map(|rival| self.bids.get(rival));
        let senior = rivals.filter(|rival| rival.active).min_by(|a, b| a.rank.seniority(&b.rank))?;
        (senior.rank.policy != *policy).then_some(&senior.rank.policy)
    }

    fn replace(&mut self, policy: &PolicyRef, bid: Option<Bid>, touched: &mut BTreeSet<PolicyRef>) {
        let old = self.bids.remove(policy);
        if let Some(old) = &old {
            self.unlist(policy, old.chosen, touched);
        }
        if let Some(bid) = bid {
            self.list(policy, bid.chosen, touched);
            self.bids.insert(policy.clone(), bid);
        }
    }

    fn list(&mut self, policy: &PolicyRef, chosen: Option<u32>, touched: &mut BTreeSet<PolicyRef>) {
        let (map, id) = match chosen {
            Some(id) => (&mut self.chosen, id),
            None => (&mut self.homes, home(policy)),
        };
        let sharers = map.entry(id).or_default();
        if chosen.is_some() {
            touched.extend(sharers.iter().cloned());
        }
        sharers.insert(policy.clone());
        self.count(id);
    }

    fn unlist(&mut self, policy: &PolicyRef, chosen: Option<u32>, touched: &mut BTreeSet<PolicyRef>) {
        let (map, id) = match chosen {
            Some(id) => (&mut self.chosen, id),
            None => (&mut self.homes, home(policy)),
        };
        if let Some(sharers) = map.get_mut(&id) {
            sharers.remove(policy);
            if chosen.is_some() {
                touched.extend(sharers.iter().cloned());
            }
            if sharers.is_empty() {
                map.remove(&id);
            }
        }
        self.count(id);
    }

    fn count(&mut self, id: u32) {
        let at_home = self.homes.get(&id).map_or(0, BTreeSet::len);
        if at_home > 1 || (at_home == 1 && self.chosen.contains_key(&id)) {
            self.crowded.insert(id);
        } else {
            self.crowded.remove(&id);
        }
    }

    /// Finds a number for everybody who cannot have the one of his name: the work follows the
    /// number of collisions, of which there are hardly ever any.
    fn place_crowded(&self) -> BTreeMap<PolicyRef, u32> {
        let mut leaving = BTreeSet::new();
        for id in &self.crowded {
            let stays = usize::from(!self.chosen.contains_key(id));
            leaving.extend(self.homes.get(id).into_iter().flatten().skip(stays));
        }
        let mut taken = BTreeSet::new();
        let mut moved = BTreeMap::new();
        for policy in leaving {
            let mut id = home(policy);
            while self.homes.contains_key(&id) || self.chosen.contains_key(&id) || taken.contains(&id) {
                id = id.wrapping_add(1) | DERIVED;
            }
            taken.insert(id);
            moved.insert(policy.clone(), id);
        }
        moved
    }
}

/// The number derived from kind and name: their fingerprint, folded to 31 bits.
fn home(policy: &PolicyRef) -> u32 {
    let [a, b, c, d, e, f, g, h] = policy.fingerprint().to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h])) | DERIVED
}

#[cfg(test)]
mod tests;
