//! Who owns a frontend: within a kind the older policy, then the smaller name.
//!
//! A claim counts whether or not its policy has a backend at the moment, so that a younger policy
//! does not come and go with the pods of the older one.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use balancing_abi::model::{FrontendKey, PolicyKind};

use crate::{
    objects::{Policy, PolicyRef},
    plan::{Entry, Layer},
};

/// The kinds in the order in which their layers are asked.
const LAYERS: [PolicyKind; 2] = [PolicyKind::LocalRedirect, PolicyKind::Balancing];

/// A policy's place in the order of precedence; smaller wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    pub(super) policy: PolicyRef,
    created: Option<i64>,
}

/// Why a policy comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Advantage {
    /// It is older.
    Age,
    /// It has a time of creation, and the other has none.
    Timestamp,
    /// Its name is smaller, at equal age or without times.
    Name,
    /// Its kind comes first, at equal age and name.
    Kind,
}

/// A policy that comes before another, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Senior {
    pub(crate) policy: PolicyRef,
    pub(crate) advantage: Advantage,
}

/// One policy's claim on a frontend.
#[derive(Debug)]
pub(super) struct Claim {
    rank: Arc<Rank>,
    /// What it decides there; `None` = nothing at the moment.
    pub(super) layer: Option<Arc<Layer>>,
}

/// The claims on every frontend, in the order of precedence.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_key: BTreeMap<FrontendKey, Vec<Claim>>,
}

impl Rank {
    pub(super) fn of(policy: &Policy) -> Self {
        Self { policy: policy.id.clone(), created: policy.created }
    }

    /// The order whatever the kind: age, then name. Without a time of creation a policy counts
    /// as younger than any that has one.
    pub(super) fn seniority(&self, other: &Self) -> Ordering {
        let age = |rank: &Self| (rank.created.is_none(), rank.created);
        let names = || self.policy.name.cmp(&other.policy.name);
        age(self).cmp(&age(other)).then_with(names).then_with(|| self.policy.kind.cmp(&other.policy.kind))
    }
}

impl Senior {
    /// The holder of the first rank, as one that comes before the other.
    pub(super) fn new(senior: &Rank, junior: &Rank) -> Self {
        let advantage = match (senior.created, junior.created) {
            (Some(_), None) => Advantage::Timestamp,
            (one, other) if one != other => Advantage::Age,
            _ if senior.policy.name != junior.policy.name => Advantage::Name,
            _ => Advantage::Kind,
        };
        Self { policy: senior.policy.clone(), advantage }
    }
}

impl fmt::Display for Senior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyRef { kind, name } = &self.policy;
        match self.advantage {
            Advantage::Age => write!(f, "the older {kind} {name}"),
            Advantage::Timestamp => write!(f, "{kind} {name}, which has a creationTimestamp"),
            Advantage::Name => write!(f, "{kind} {name}, which has the smaller name"),
            Advantage::Kind => write!(f, "{kind} {name}, whose kind comes first"),
        }
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Kinds apart, then by seniority.
impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.policy.kind.cmp(&other.policy.kind).then_with(|| self.seniority(other))
    }
}

impl Claim {
    pub(super) fn policy(&self) -> &PolicyRef {
        &self.rank.policy
    }
}

impl Claims {
    /// Puts a claim or renews what it decides.
    pub(super) fn put(&mut self, key: FrontendKey, rank: &Arc<Rank>, layer: Option<&Arc<Layer>>) {
        let claim = Claim { rank: Arc::clone(rank), layer: layer.map(Arc::clone) };
        let claims = self.by_key.entry(key).or_insert_with(|| Vec::with_capacity(1));
        match claims.binary_search_by(|known| known.rank.as_ref().cmp(rank)) {
            Ok(at) => claims[at] = claim,
            Err(at) => claims.insert(at, claim),
        }
    }

    pub(super) fn remove(&mut self, key: &FrontendKey, rank: &Rank) {
        let Some(claims) = self.by_key.get_mut(key) else { return };
        if let Ok(at) = claims.binary_search_by(|known| known.rank.as_ref().cmp(rank)) {
            claims.remove(at);
        }
        if claims.is_empty() {
            self.by_key.remove(key);
        }
    }

    /// Who claims the frontend: by kind, the owner first.
    pub(super) fn on(&self, key: &FrontendKey) -> &[Claim] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// The layers of the owners.
    pub(super) fn entry(&self, key: &FrontendKey) -> Option<Entry> {
        entry(self.on(key))
    }

    /// All frontends with an entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (FrontendKey, Entry)> {
        self.by_key.iter().filter_map(|(key, claims)| Some((*key, entry(claims)?)))
    }
}

fn entry(claims: &[Claim]) -> Option<Entry> {
    let layer = |kind| claims.iter().find(|claim| claim.policy().kind == kind)?.layer.clone();
    let layers: Vec<_> = LAYERS.into_iter().filter_map(layer).collect();
    (!layers.is_empty()).then_some(Entry { layers })
}
