//! How the pods of a policy are spread over EndpointSlices: the smallest list of writes that makes the slices
//! as wanted, and the order in which they may be sent.
//!
//! It is pure. An endpoint stays in the slice where it is, holes are filled before a slice is added, and a
//! change of many endpoints touches each slice once. Slices are never merged for their own sake, because each
//! write wakes every node; their number is therefore bounded by the most pods the policy ever had at a time.
//!
//! The protocol with the nodes, which read what is written here (`snapshot::generations` of the core). Each slice names
//! the uid and the generation of the policy whose selector and ports were looked at. One slice, the head, tells how many
//! slices there are; it is there even when the policy has no pod, so that "no pod" and "not listed yet" differ. The head
//! also says which external addresses of its Service the policy may claim; for that alone a policy without pods has one.
//! Writes go out in steps, and a step starts when the one before has been answered:
//!
//! 1. every slice but the head is created or updated;
//! 2. the head, if its generation, the number or the addresses change; otherwise it belongs to the first step;
//! 3. what is left over is deleted.
//!
//! A new generation is complete for a reader with its head, which comes after all that the number counts. Within a
//! generation a set that grows has one slice more than the head says for a moment, and one that shrinks, too: it is
//! complete throughout. A writer that stops between two steps leaves a set that readers do not take for complete; they
//! keep what they had, and the next writer starts with the first step that is not done. A set of one slice, which is
//! nearly every one, changes with one write.

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
    /// Its generation; `None` in a slice of an agent of an earlier version.
    pub(super) generation: Option<i64>,
}

/// One EndpointSlice, as far as it is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) owner: Owner,
    /// How many slices the policy has: the head says it, and no other.
    pub(super) set_size: Option<usize>,
    /// The external addresses that the policy may claim; only the head says it.
    pub(super) approved: Option<BTreeSet<IpAddr>>,
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
    /// The external addresses that the policy may claim; `None` = it asks for none.
    pub(super) approved: Option<BTreeSet<IpAddr>>,
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
    is_new: bool,
}

/// The steps that turn the `known` slices of one policy, by name, into what is `wanted`; `None` = no slice at all. New
/// slices take none of the names in `taken`. Additions come first, so that nobody is missed meanwhile. No step is empty.
pub(super) fn plan(
    wanted: Option<&Wanted>,
    known: &BTreeMap<&str, &Known>,
    taken: &BTreeSet<String>,
) -> Vec<Vec<SliceOp>> {
    let (mut first, mut head_last) = (Vec::new(), Vec::new());
    let mut stays = BTreeSet::new();
    if let Some(wanted) = wanted {
        let nobody = Group { family: Family::V4, ports: BTreeSet::new() };
        let (mut drafts, head) = drafts(wanted, known, taken, &nobody);
        let size = drafts.len();
        stays.extend(drafts.keys().cloned());
        let mut write = |name: String, draft: Draft<'_>, set_size: Option<usize>| {
            let old = known.get(name.as_str()).map(|known| &known.slice);
            let approved = set_size.and_then(|_| wanted.approved.clone());
            let same_set = old.is_some_and(|old| {
                old.owner == wanted.owner && old.set_size == set_size && old.approved == approved
            });
            let (owner, group) = (wanted.owner.clone(), draft.group.clone());
            let slice = Slice { name, owner, set_size, approved, group, endpoints: draft.endpoints };
            let step = if set_size.is_some() && !same_set { &mut head_last } else { &mut first };
            match (draft.is_new, draft.touched || !same_set) {
                (true, _) => step.push(SliceOp::Create(slice)),
                (false, true) => step.push(SliceOp::Update(slice)),
                (false, false) => {}
            }
        };
        if let Some(draft) = drafts.remove(&head) {
            write(head, draft, Some(size));
        }
        drafts.into_iter().for_each(|(name, draft)| write(name, draft, None));
    }
    first.sort_by_key(|op| matches!(op, SliceOp::Update(_)));
    let gone = known.keys().filter(|name| !stays.contains(**name));
    let gone = gone.map(|name| SliceOp::Delete((*name).to_owned())).collect();
    [first, head_last, gone].into_iter().filter(|step| !step.is_empty()).collect()
}

/// The slice that says how many there are.
fn known_head<'a>(known: &BTreeMap<&'a str, &Known>) -> Option<&'a str> {
    known.iter().find(|(_, known)| known.slice.set_size.is_some()).map(|(name, _)| *name)
}

/// The slices as they shall be, by name, at least one; and the name of the head, which stays, even without endpoints.
fn drafts<'a>(
    wanted: &'a Wanted,
    known: &BTreeMap<&str, &'a Known>,
    taken: &BTreeSet<String>,
    nobody: &'a Group,
) -> (BTreeMap<String, Draft<'a>>, String) {
    let head = known_head(known);
    let mut missing: BTreeMap<&Group, BTreeMap<&ObjectRef, &Endpoint>> =
        wanted.groups.iter().map(|(group, endpoints)| (group, endpoints.iter().collect())).collect();
    let mut drafts = BTreeMap::<String, Draft<'_>>::new();
    for (name, known) in known {
        if let Some(draft) = keep(known, wanted, &mut missing, head == Some(*name)) {
            drafts.insert((*name).to_owned(), draft);
        }
    }
    let mut new = Vec::new();
    for (group, mut missing) in missing {
        fill(group, &mut missing, &mut drafts, head);
        while !missing.is_empty() {
            let endpoints = take(&mut missing, LIMIT);
            new.push(Draft { group, endpoints, touched: true, is_new: true });
        }
    }
    drafts.retain(|name, draft| !draft.endpoints.is_empty() || head == Some(name.as_str()));
    if drafts.is_empty() && new.is_empty() {
        new.push(Draft { group: nobody, endpoints: Endpoints::new(), touched: true, is_new: true });
    }
    let new: Vec<_> = free_names(&wanted.owner.policy, known, taken).zip(new).collect();
    // The last one has room; when it comes after all others these are full, and nothing is to be moved then.
    let head =
        head.or(new.last().map(|(name, _)| name.as_str())).or(drafts.keys().next().map(String::as_str));
    let head = head.unwrap_or_default().to_owned();
    drafts.extend(new);
    (drafts, head)
}

/// What remains of a slice; `None` when nothing wanted could be put into it, unless it is the head.
fn keep<'a>(
    known: &'a Known,
    wanted: &'a Wanted,
    missing: &mut BTreeMap<&'a Group, BTreeMap<&'a ObjectRef, &'a Endpoint>>,
    is_head: bool,
) -> Option<Draft<'a>> {
    let group = group_for(&known.slice, wanted).or_else(|| {
        // It serves whom it can.
        let own = &known.slice.group;
        let related = || wanted.groups.keys().find(|group| group.family == own.family);
        is_head.then(|| related().unwrap_or(own))
    })?;
    let mut endpoints = Endpoints::new();
    if let Some(missing) = missing.get_mut(group) {
        for pod in known.slice.endpoints.keys() {
            if endpoints.len() < LIMIT
                && let Some((pod, endpoint)) = missing.remove_entry(pod)
            {
                endpoints.insert(pod.clone(), endpoint.clone());
            }
        }
    }
    let same = known.exact
        && known.slice.owner == wanted.owner
        && known.slice.group == *group
        && known.slice.endpoints == endpoints;
    Some(Draft { group, endpoints, touched: !same, is_new: false })
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

/// Fills the holes in the slices of a group, at first in those that are written anyway. The head comes before the
/// others: what is meant for it must not go elsewhere when the first step is done.
fn fill(
    group: &Group,
    missing: &mut BTreeMap<&ObjectRef, &Endpoint>,
    drafts: &mut BTreeMap<String, Draft<'_>>,
    head: Option<&str>,
) {
    let rank = |name: &str, draft: &Draft<'_>| {
        if draft.touched { 0 } else { 1 + u8::from(head != Some(name)) }
    };
    let related = drafts.iter_mut().filter(|(_, draft)| draft.group == group);
    let mut related: Vec<_> = related.map(|(name, draft)| (rank(name, draft), draft)).collect();
    related.sort_by_key(|(rank, _)| *rank);
    for (_, draft) in related {
        let room = LIMIT.saturating_sub(draft.endpoints.len());
        let mut added = take(missing, room);
        draft.touched |= !added.is_empty();
        draft.endpoints.append(&mut added);
    }
}

fn take(missing: &mut BTreeMap<&ObjectRef, &Endpoint>, count: usize) -> Endpoints {
    let first = std::iter::from_fn(|| missing.pop_first()).take(count);
    first.map(|(pod, endpoint)| (pod.clone(), endpoint.clone())).collect()
}

/// The names a policy's new slices get: the same for whoever plans, so that two replicas that take each other for
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
