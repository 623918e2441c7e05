//! How the pods of a policy are spread over EndpointSlices: the smallest list of writes that makes the slices
//! as wanted.
//!
//! It is pure. An endpoint stays in the slice where it is, holes are filled before a slice is added, and a
//! change of many endpoints touches each slice once. Slices are never merged for their own sake, because each
//! write wakes every node; their number is therefore bounded by the most pods the policy ever had at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancing_core::{
    objects::{ObjectRef, Port},
    resolve::Family,
};

mod wanted;
pub(super) mod wire;

pub(super) use wanted::wanted;

/// Endpoints of one slice. Kubernetes allows 1000 and makes slices of 100: a change sends the whole slice to
/// every node (Kubernetes, "EndpointSlices", Distribution of EndpointSlices).
pub(super) const LIMIT: usize = 100;

/// What the endpoints of one slice have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// `addressType`, which cannot be changed.
    pub(super) family: Family,
    /// `ports`
    pub(super) ports: BTreeSet<Port>,
}

/// A pod in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) uid: String,
    pub(super) ip: IpAddr,
    pub(super) node: String,
    pub(super) zone: String,
    /// It takes new connections.
    pub(super) ready: bool,
    /// Its condition `Ready`, terminating or not.
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

/// Endpoints by pod: a pod has one address in a family.
pub(super) type Endpoints = BTreeMap<ObjectRef, Endpoint>;

/// The policy that a slice belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Name of the BalancingPolicy; empty when the slice names none.
    pub(super) policy: String,
    pub(super) uid: String,
    pub(super) service_id: u32,
}

/// One EndpointSlice, as far as it is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) owner: Owner,
    pub(super) group: Group,
    pub(super) endpoints: Endpoints,
}

/// A slice as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) slice: Slice,
    /// Nothing in it differs from what [`Slice`] expresses.
    pub(super) exact: bool,
    /// `metadata.uid`
    pub(super) uid: String,
    /// `metadata.resourceVersion`
    pub(super) version: String,
}

/// What the slices of a policy shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) owner: Owner,
    pub(super) groups: BTreeMap<Group, Endpoints>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SliceOp {
    Create(Slice),
    Update(Slice),
    /// By name.
    Delete(String),
}

/// A slice while it is being planned.
struct Draft<'a> {
    group: &'a Group,
    endpoints: Endpoints,
    /// It has to be written anyway.
    touched: bool,
}

/// The writes that turn the `known` slices of one policy, by name, into what is `wanted`; `None` = no slice at
/// all. New slices take none of the names in `taken`. Additions come first, so that nobody is missed meanwhile.
pub(super) fn plan(
    wanted: Option<&Wanted>,
    known: &BTreeMap<&str, &Known>,
    taken: &BTreeSet<String>,
) -> Vec<SliceOp> {
    let delete = |name: &&str| SliceOp::Delete((*name).to_owned());
    let Some(wanted) = wanted else { return known.keys().map(delete).collect() };
    let mut missing: BTreeMap<&Group, BTreeMap<&ObjectRef, &Endpoint>> =
        wanted.groups.iter().map(|(group, endpoints)| (group, endpoints.iter().collect())).collect();
    let mut drafts = BTreeMap::<&str, Draft<'_>>::new();
    for (name, known) in known {
        if let Some(draft) = keep(known, wanted, &mut missing) {
            drafts.insert(name, draft);
        }
    }
    let mut new = Vec::new();
    for (group, mut missing) in missing {
        fill(group, &mut missing, &mut drafts);
        while !missing.is_empty() {
            let endpoints = take(&mut missing, LIMIT);
            new.push(Draft { group, endpoints, touched: true });
        }
    }
    let slice = |name: &str, draft: Draft<'_>| Slice {
        name: name.to_owned(),
        owner: wanted.owner.clone(),
        group: draft.group.clone(),
        endpoints: draft.endpoints,
    };
    let names = free_names(&wanted.owner.policy, known, taken);
    let mut ops: Vec<SliceOp> =
        names.zip(new).map(|(name, draft)| SliceOp::Create(slice(&name, draft))).collect();
    drafts.retain(|_, draft| !draft.endpoints.is_empty());
    let gone: Vec<SliceOp> = known.keys().filter(|name| !drafts.contains_key(*name)).map(delete).collect();
    let touched = drafts.into_iter().filter(|(_, draft)| draft.touched);
    ops.extend(touched.map(|(name, draft)| SliceOp::Update(slice(name, draft))));
    ops.extend(gone);
    ops
}

/// What remains of a slice; `None` when nothing wanted could be put into it.
fn keep<'a>(
    known: &Known,
    wanted: &'a Wanted,
    missing: &mut BTreeMap<&'a Group, BTreeMap<&'a ObjectRef, &'a Endpoint>>,
) -> Option<Draft<'a>> {
    let group = group_for(&known.slice, wanted)?;
    let missing = missing.get_mut(group)?;
    let mut endpoints = Endpoints::new();
    for pod in known.slice.endpoints.keys() {
        if endpoints.len() < LIMIT
            && let Some((pod, endpoint)) = missing.remove_entry(pod)
        {
            endpoints.insert(pod.clone(), endpoint.clone());
        }
    }
    let same = known.exact
        && known.slice.owner == wanted.owner
        && known.slice.group == *group
        && known.slice.endpoints == endpoints;
    Some(Draft { group, endpoints, touched: !same })
}

/// The group a slice serves from now on: its own as long as one of its pods is there, otherwise the one its pods
/// moved to. Ports of a slice may change in their place, its family may not.
fn group_for<'a>(slice: &Slice, wanted: &'a Wanted) -> Option<&'a Group> {
    let own = wanted.groups.get_key_value(&slice.group);
    let stays = |pods: &Endpoints| slice.endpoints.keys().any(|pod| pods.contains_key(pod));
    if let Some((group, pods)) = own
        && stays(pods)
    {
        return Some(group);
    }
    let related = wanted.groups.iter().filter(|(group, _)| group.family == slice.group.family);
    let moved = related.filter(|(_, pods)| stays(pods)).map(|(group, _)| group).next();
    moved.or(own.map(|(group, _)| group))
}

/// Fills the holes in the slices of a group, at first in those that are written anyway.
fn fill(
    group: &Group,
    missing: &mut BTreeMap<&ObjectRef, &Endpoint>,
    drafts: &mut BTreeMap<&str, Draft<'_>>,
) {
    for written_anyway in [true, false] {
        for draft in drafts.values_mut().filter(|d| d.group == group && d.touched == written_anyway) {
            let room = LIMIT.saturating_sub(draft.endpoints.len());
            let mut added = take(missing, room);
            draft.touched |= !added.is_empty();
            draft.endpoints.append(&mut added);
        }
    }
}

fn take(missing: &mut BTreeMap<&ObjectRef, &Endpoint>, count: usize) -> Endpoints {
    let first = std::iter::from_fn(|| missing.pop_first()).take(count);
    first.map(|(pod, endpoint)| (pod.clone(), endpoint.clone())).collect()
}

/// The names a policy's new slices get: the same for whoever plans, so that two agents that take each other for
/// stopped meet in a name instead of listing the pods twice. A DNS label of at most 63 characters.
fn free_names(
    policy: &str,
    known: &BTreeMap<&str, &Known>,
    taken: &BTreeSet<String>,
) -> impl Iterator<Item = String> {
    let stem = stem(policy);
    let names = (0_u32..).map(move |number| format!("{stem}-{number}"));
    names.filter(|name| !known.contains_key(name.as_str()) && !taken.contains(name))
}

/// Begin of the policy's name for people, and a hash of the whole of it (FNV-1a).
fn stem(policy: &str) -> String {
    let readable: String = policy.chars().map(|c| if c == '.' { '-' } else { c }).take(40).collect();
    let hash = policy.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{}-{:010x}", readable.trim_end_matches('-'), hash >> 24)
}

#[cfg(test)]
mod tests;
