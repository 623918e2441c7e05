//! What an earlier agent left in the kernel and nobody can judge yet: layers of policies that wait, and of policies that may
//! exist although they are not known, because their kind has not been listed.
//!
//! Absence needs proof: until there is one, the kernel keeps such a layer as it is, in its place, and what is decided for the
//! other kind is programmed beside it. That holds only for what an earlier agent left. What this agent has seen coming waits
//! without ever having had an entry.

use std::collections::{BTreeMap, BTreeSet};

use balancing_core::{
    kinds::{Lacking, ObjectKind, lacks_policies},
    objects::PolicyRef,
    plan,
    resolve::{Engine, Standing},
};
use balancing_dataplane::model::{Entry, FrontendKey, Layer, PolicyKind, PolicyName};

/// Layers that stay as they are.
#[derive(Debug, Default)]
pub(super) struct Kept {
    layers: BTreeMap<FrontendKey, Vec<Held>>,
    /// Who has them, by service id.
    owners: BTreeMap<u32, Owner>,
    /// What was lacking when the owners were judged.
    lacking: Lacking,
}

/// A layer of a frontend.
#[derive(Debug)]
struct Held {
    layer: Layer,
    /// The kind of its owner, where its place tells it.
    place: Option<PolicyKind>,
}

/// Whose layer it is, as far as that is known.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    /// The policy that the kernel names.
    named: Option<PolicyRef>,
    until: Until,
}

/// Until when a layer stays.
#[derive(Debug, PartialEq, Eq)]
enum Until {
    /// Until this policy is decided, or another.
    Decided(PolicyRef, Marks),
    /// Until the policies of this kind are listed.
    Listed(PolicyKind),
}

/// How to tell a policy and its entries from others.
#[derive(Debug, PartialEq, Eq)]
struct Marks {
    /// `metadata.uid`
    uid: String,
    service_id: u32,
}

impl Kept {
    /// Starts with what the kernel has at the moment of the first decisions.
    pub(super) fn start(
        engine: &Engine,
        entries: &BTreeMap<FrontendKey, Entry>,
        names: &BTreeMap<u32, PolicyName>,
    ) -> Self {
        let judge = Judge::new(engine);
        let mut owners = BTreeMap::<u32, Option<Owner>>::new();
        let mut layers = BTreeMap::<FrontendKey, Vec<Held>>::new();
        for (key, entry) in entries {
            for (index, layer) in entry.layers.iter().enumerate() {
                let owner = owners.entry(layer.service_id).or_insert_with(|| {
                    let name = names.get(&layer.service_id);
                    let named = name.map(|n| PolicyRef { kind: n.kind, name: n.name.clone() });
                    let until = judge.until(named.as_ref(), layer.service_id)?;
                    Some(Owner { named, until })
                });
                if owner.is_some() {
                    let place = place(index, entry.layers.len());
                    layers.entry(*key).or_default().push(Held { layer: layer.clone(), place });
                }
            }
        }
        let owners = owners.into_iter().filter_map(|(id, owner)| Some((id, owner?))).collect();
        Self { layers, owners, lacking: judge.lacking.clone() }
    }

    /// Lets go of what can be judged by now; the frontends that it concerns.
    pub(super) fn release(&mut self, engine: &Engine) -> Vec<FrontendKey> {
        let lacking = engine.snapshot().lacking();
        let judge = (self.lacking != *lacking).then(|| Judge::new(engine));
        let mut released = BTreeSet::new();
        self.owners.retain(|id, owner| {
            let stays = match (&owner.until, &judge) {
                (Until::Decided(policy, kept), _) => marks(engine, policy).as_ref() == Some(kept),
                (Until::Listed(_), None) => true,
                (Until::Listed(_), Some(judge)) => {
                    let until = judge.until(owner.named.as_ref(), *id);
                    until.map(|until| owner.until = until).is_some()
                }
            };
            if !stays {
                released.insert(*id);
            }
            stays
        });
        if judge.is_some() {
            self.lacking.clone_from(lacking);
        }
        if released.is_empty() { Vec::new() } else { self.drop_layers(&released) }
    }

    fn drop_layers(&mut self, ids: &BTreeSet<u32>) -> Vec<FrontendKey> {
        let mut concerned = Vec::new();
        self.layers.retain(|key, held| {
            let before = held.len();
            held.retain(|held| !ids.contains(&held.layer.service_id));
            if held.len() != before {
                concerned.push(*key);
            }
            !held.is_empty()
        });
        concerned
    }

    /// The entry to program where `decided` was decided. A layer that stays takes the place of its kind.
    pub(super) fn desired(&self, key: &FrontendKey, decided: Option<&plan::Entry>) -> Option<Entry> {
        let Some(held) = self.layers.get(key) else {
            return decided.map(|entry| entry.to_model().normalized());
        };
        let kind = |held: &Held| held.place.unwrap_or_else(|| self.kind(held.layer.service_id));
        let mut layers: Vec<_> = held.iter().map(|held| (kind(held), held.layer.clone())).collect();
        for layer in decided.iter().flat_map(|entry| &entry.layers) {
            if layers.iter().all(|(kind, _)| *kind != layer.policy.kind) {
                layers.push((layer.policy.kind, layer.to_model()));
            }
        }
        // In the order of the enumeration a LocalRedirectPolicy decides first.
        layers.sort_by_key(|(kind, _)| *kind);
        Some(Entry { layers: layers.into_iter().map(|(_, layer)| layer).collect() }.normalized())
    }

    fn kind(&self, service_id: u32) -> PolicyKind {
        match self.owners.get(&service_id).map(|owner| &owner.until) {
            Some(Until::Decided(policy, _)) => policy.kind,
            Some(Until::Listed(kind)) => *kind,
            None => PolicyKind::Balancing,
        }
    }
}

/// What the decisions say about owners of layers.
struct Judge<'a> {
    engine: &'a Engine,
    lacking: &'a Lacking,
    /// Who has a service id.
    holders: BTreeMap<u32, &'a PolicyRef>,
}

impl<'a> Judge<'a> {
    fn new(engine: &'a Engine) -> Self {
        let verdicts = engine.verdicts().iter();
        let holders = verdicts.filter(|(policy, _)| engine.id_winner_over(policy).is_none());
        let holders = holders.map(|(policy, verdict)| (verdict.service_id, policy)).collect();
        Self { engine, lacking: engine.snapshot().lacking(), holders }
    }

    /// Until when the layers with a service id stay; `None` = there is proof of what becomes of them. The kernel knows best
    /// whose they are, but has not had room for every name.
    fn until(&self, named: Option<&PolicyRef>, service_id: u32) -> Option<Until> {
        let owner = named.or_else(|| self.holders.get(&service_id).copied());
        let Some(owner) = owner else {
            return self.lacking.iter().rev().find_map(|kind| match kind {
                ObjectKind::Policy(kind) => Some(Until::Listed(*kind)),
                _ => None,
            });
        };
        if lacks_policies(self.lacking, owner.kind) {
            return Some(Until::Listed(owner.kind));
        }
        Some(Until::Decided(owner.clone(), marks(self.engine, owner)?))
    }
}

/// Of two layers the first is that of a LocalRedirectPolicy; one alone may be of either kind.
fn place(index: usize, layers: usize) -> Option<PolicyKind> {
    let kinds = [PolicyKind::LocalRedirect, PolicyKind::Balancing];
    if layers == kinds.len() { kinds.get(index).copied() } else { None }
}

/// `None` = the policy does not wait, or something of it is in force.
fn marks(engine: &Engine, policy: &PolicyRef) -> Option<Marks> {
    let resolution = engine.resolution(policy).filter(|r| r.standing == Standing::Pending)?;
    let uid = engine.snapshot().policy(policy)?.uid.clone();
    Some(Marks { uid, service_id: resolution.service_id })
}

#[cfg(test)]
mod tests;
