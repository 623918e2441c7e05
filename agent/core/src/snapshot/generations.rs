//! Which generation of a policy is in force: that of which the complete list of backends is known.
//!
//! It owns the EndpointSlices of policies and the policies that wait, for theirs or for a kind that has not been listed. It
//! knows neither who needs what nor what a policy decides.
//!
//! The protocol of a policy's slices, whose other side is `cluster::slices` of the crate for Kubernetes: each slice names
//! the policy's uid and generation, and one, the head, says how many slices there are. The writer sends the head after
//! all others were written and deletes what is left over after the head, so a reader that sees the head has seen the
//! others. In between, slices of two generations stand side by side: those of the older one are no complete set any
//! more, those of the newer one not yet. The reader keeps what it had, spec and backends together, until the head of the
//! newer one is there. Changes of pods within a generation are seen slice by slice. Whatever is missing without a
//! complete set that says so is not gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::objects::{BackendSpec, Endpoints, FrontendSpec, ObjectRef, Policy, PolicyRef, RedirectMode};

/// Slices, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// As the source has them.
    slices: BTreeMap<PolicyRef, BTreeMap<ObjectRef, Arc<Endpoints>>>,
    /// The policies that own them.
    owners: BTreeMap<ObjectRef, PolicyRef>,
    /// Those that are in force: a complete set, empty where a policy has no pods.
    in_force: BTreeMap<PolicyRef, Vec<Arc<Endpoints>>>,
    /// Policies that wait: as the source has it where something earlier is in force, `None` where nothing is.
    waiting: BTreeMap<PolicyRef, Option<Policy>>,
}

/// What a policy needs before it can be put into force as the source has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The EndpointSlices of its generation.
    Slices,
    /// Those, and in them the external addresses that it may claim.
    Approval,
    /// A kind that has not been listed.
    Lacking,
}

/// For what a policy waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// What this generation needs, its first one here: nothing of it is in force.
    First(i64),
    /// What this generation needs; an earlier one, or earlier slices, are in force.
    Next(i64),
}

impl Generations {
    /// Number of slices.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// The slices of a policy that are in force.
    pub(super) fn in_force(&self, policy: &PolicyRef) -> impl Iterator<Item = &Endpoints> {
        self.in_force.get(policy).into_iter().flatten().map(AsRef::as_ref)
    }

    /// For what a policy waits; `current` is the one that is in force, or nothing of it is.
    pub(super) fn wait(&self, current: &Policy) -> Option<Wait> {
        let next = self.waiting.get(&current.id)?;
        Some(next.as_ref().map_or(Wait::First(current.generation), |next| Wait::Next(next.generation)))
    }

    /// Policies that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &PolicyRef> {
        self.waiting.keys()
    }

    /// The policies that wait for a generation whose frontend is the Service.
    pub(super) fn waiting_for_service<'a>(
        &'a self,
        key: &'a ObjectRef,
    ) -> impl Iterator<Item = &'a PolicyRef> {
        let names = move |policy: &&Policy| {
            let frontend = policy.spec.as_ref().map(|spec| &spec.frontend);
            matches!(frontend, Ok(FrontendSpec::Service { service, .. }) if service == key)
        };
        self.waiting.values().flatten().filter(names).map(|policy| &policy.id)
    }

    /// The policy as the source has it, if another is in force.
    pub(super) fn wanted(&self, policy: &PolicyRef) -> Option<&Policy> {
        self.waiting.get(policy)?.as_ref()
    }

    /// Puts a policy; [`Self::settle`] decides when it is in force. `is_known`: there is one of that name. Whether it takes
    /// that one's place at once, because nothing of it is in force.
    pub(super) fn put(&mut self, policy: &Policy, is_known: bool) -> bool {
        let is_new = !is_known || self.waiting.get(&policy.id).is_some_and(Option::is_none);
        self.waiting.insert(policy.id.clone(), (!is_new).then(|| policy.clone()));
        is_new
    }

    /// The policy is gone, and with it what was in force.
    pub(super) fn remove(&mut self, policy: &PolicyRef) {
        self.waiting.remove(policy);
        self.in_force.remove(policy);
    }

    /// Puts or removes a slice; the policies whose slices are not as they were.
    pub(super) fn set_slice(&mut self, slice: &ObjectRef, new: Option<Endpoints>) -> BTreeSet<PolicyRef> {
        let old_owner = match &new {
            Some(new) => self.owners.insert(slice.clone(), new.policy.clone()),
            None => self.owners.remove(slice),
        };
        let mut changed = BTreeSet::new();
        if let Some(owner) = old_owner
            && let Some(slices) = self.slices.get_mut(&owner)
        {
            if slices.get(slice).map(AsRef::as_ref) == new.as_ref() {
                return changed;
            }
            slices.remove(slice);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
            changed.insert(owner);
        }
        if let Some(new) = new {
            changed.insert(new.policy.clone());
            self.slices.entry(new.policy.clone()).or_default().insert(slice.clone(), Arc::new(new));
        }
        changed
    }

    /// Brings a policy into force if it can be; `current` is what is in force now. Returns what is in force from now on,
    /// if that may be another.
    pub(super) fn settle(
        &mut self,
        key: &PolicyRef,
        current: Option<&Policy>,
        needs: Needs,
    ) -> Option<Policy> {
        let current = current?;
        let waiting = self.waiting.remove(key);
        let is_new = matches!(waiting, Some(None));
        let next = waiting.flatten();
        let wanted = next.as_ref().unwrap_or(current);
        let complete = match needs {
            Needs::Nothing => {
                self.in_force.remove(key);
                return next;
            }
            Needs::Slices => self.complete(wanted, wanted.generation),
            Needs::Approval => self.complete(wanted, wanted.generation).filter(|list| approves(list)),
            Needs::Lacking => None,
        };
        if let Some(list) = complete {
            self.in_force.insert(key.clone(), list);
            return next;
        }
        // A policy that lacks a kind by its present spec has never been in force with it.
        let is_first = is_new || (needs == Needs::Lacking && next.is_none());
        if is_first || current.uid != wanted.uid || !self.is_in_force(current) {
            self.in_force.remove(key);
            self.waiting.insert(key.clone(), None);
            return next;
        }
        let kept = self.keep(key, current, wanted);
        self.waiting.insert(key.clone(), Some(next.unwrap_or_else(|| current.clone())));
        Some(kept)
    }

    /// What stays in force of a policy that has to wait: what depends on its generation. Pods may change within that.
    fn keep(&mut self, key: &PolicyRef, old: &Policy, wanted: &Policy) -> Policy {
        if let Some(list) = self.complete(old, old.generation) {
            self.in_force.insert(key.clone(), list);
        } else if self.has_lost_an_earlier_format(key) {
            self.in_force.insert(key.clone(), Vec::new());
        }
        Policy { spec: old.spec.clone(), generation: old.generation, ..wanted.clone() }
    }

    /// Whether there is something that could be kept: not of a policy that is broken, or off, or was for other hosts.
    fn is_in_force(&self, policy: &Policy) -> bool {
        policy.spec.as_ref().is_ok_and(|spec| {
            let over_pods = matches!(spec.backend, BackendSpec::Pods { .. });
            spec.enabled && (!over_pods || self.in_force.contains_key(&policy.id))
        })
    }

    /// The complete set of slices of a generation. Slices without a generation come from an agent of an earlier version:
    /// as long as there are no others they are a complete set of any generation. They have the addresses of pods, which are
    /// of no use where pods are reached through their nodes.
    fn complete(&self, policy: &Policy, generation: i64) -> Option<Vec<Arc<Endpoints>>> {
        let own = self.slices.get(&policy.id)?.values().filter(|slice| slice.policy_uid == policy.uid);
        let own: Vec<_> = own.cloned().collect();
        if own.iter().all(|slice| slice.generation.is_none()) {
            return (!own.is_empty() && is_reached_itself(policy)).then_some(own);
        }
        let mut set = own;
        set.retain(|slice| slice.generation == Some(generation));
        let size = set.iter().find_map(|slice| slice.set_size)?;
        (set.len() >= size).then_some(set)
    }

    /// An earlier version says that there is no pod by deleting the last slice.
    fn has_lost_an_earlier_format(&self, key: &PolicyRef) -> bool {
        let earlier = |list: &Vec<Arc<Endpoints>>| list.iter().all(|slice| slice.generation.is_none());
        !self.slices.contains_key(key) && self.in_force.get(key).is_some_and(earlier)
    }
}

/// Whether it says which external addresses may be claimed.
fn approves(list: &[Arc<Endpoints>]) -> bool {
    list.iter().any(|slice| slice.approved.is_some())
}

/// Whether the backends are pods at their own addresses.
fn is_reached_itself(policy: &Policy) -> bool {
    let backend = policy.spec.as_ref().map(|spec| &spec.backend);
    matches!(backend, Ok(BackendSpec::Pods { mode: RedirectMode::PodEndpoint, .. }))
}
