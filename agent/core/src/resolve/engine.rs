//! Keeps the decisions up to date: resolves the policies that a change touched, settles their
//! frontends and reports the difference.
//!
//! What it holds is a function of the objects alone: any order of the same changes, and a start
//! from nothing, end in the same state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use balancing_abi::model::{ClientId, FrontendKey, PolicyKind};

use crate::{
    kinds::Lacking,
    objects::{LabelSelector, Node, Object, ObjectKey, Policy, PolicyRef, PolicySpec},
    plan::{Entry, Layer, Verdict},
    resolve::{
        ProxyPort, Resolution, Role, Settings, Standing,
        ids::{Bid, Ids},
        needs::{lacks, needs},
        proxy_ports::ProxyPorts,
        resolve_policy,
        settle::{Claim, Claims, Rank, Senior},
        standing,
        verdict::{Contest, verdict},
    },
    snapshot::{Needs, Snapshot},
};

/// The decisions of this host.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    snapshot: Snapshot,
    ids: Ids,
    proxy_ports: ProxyPorts,
    owners: BTreeMap<PolicyRef, Owner>,
    claims: Claims,
    verdicts: BTreeMap<PolicyRef, Verdict>,
}

/// What [`Engine::resolve`] changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Frontends whose entry is new, different or gone (`None`).
    pub entries: BTreeMap<FrontendKey, Option<Entry>>,
    /// Policies whose verdict is new, different or gone (`None`).
    pub verdicts: BTreeMap<PolicyRef, Option<Verdict>>,
    /// Number of policies that had to be resolved.
    pub resolved: usize,
    /// Those policies, and those that are gone: whatever depends on the objects a policy looks at may have changed
    /// for these, and for no other.
    pub touched: BTreeSet<PolicyRef>,
}

/// A policy, resolved, and how it entered the contest.
#[derive(Debug)]
struct Owner {
    resolution: Resolution,
    rank: Arc<Rank>,
    /// Whether its claims count: a policy whose service id belongs to another has none.
    claims: bool,
}

/// A policy that was resolved; `None` = it is gone.
type Fresh = (PolicyRef, Option<Owner>);

impl Engine {
    /// An engine that knows no object yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let here = (settings.role != Role::Cluster).then_some(settings.node_name.as_str());
        Self {
            snapshot: Snapshot::new(here),
            settings,
            ids: Ids::default(),
            proxy_ports: ProxyPorts::default(),
            owners: BTreeMap::new(),
            claims: Claims::default(),
            verdicts: BTreeMap::new(),
        }
    }

    /// Takes in changes of objects; `None` deletes. Decisions change with [`Self::resolve`].
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (ObjectKey, Option<Object>)>) {
        self.snapshot.apply(changes);
    }

    /// Takes in which kinds are not known completely.
    pub fn set_lacking(&mut self, lacking: Lacking) {
        self.snapshot.set_lacking(lacking);
    }

    /// See [`Snapshot::set_ended`].
    pub fn set_ended(&mut self, node_uid: &str, containers: BTreeSet<Box<str>>) -> bool {
        self.snapshot.set_ended(node_uid, containers)
    }

    /// See [`Snapshot::set_identities`].
    pub fn set_identities(&mut self, uid: &str, ids: BTreeSet<ClientId>) {
        self.snapshot.set_identities(uid, ids);
    }

    /// Resolves what the changes since the last call touched.
    pub fn resolve(&mut self) -> Delta {
        let dirty = self.snapshot.take_dirty();
        for policy in &dirty {
            let needs = self.snapshot.wanted(policy).map(|p| needs(p, &self.snapshot, &self.settings));
            self.snapshot.settle(policy, needs.unwrap_or(Needs::Nothing));
        }
        let mut shared = BTreeSet::new();
        for policy in &dirty {
            shared.extend(self.proxy_ports.update(policy, self.snapshot.policy(policy)));
        }
        let touched = self.bid(dirty.into_iter().chain(shared).collect());
        let fresh: Vec<Fresh> = touched.iter().cloned().map(|policy| self.resolve_one(policy)).collect();
        let resolved = fresh.iter().filter(|(_, owner)| owner.is_some()).count();
        let mut before = BTreeMap::new();
        let mut contested = Vec::new();
        let mut judged = BTreeSet::new();
        for (policy, owner) in &fresh {
            self.compare(self.owners.get(policy), owner.as_ref(), &mut before, &mut contested);
        }
        self.judge_rivals(&contested, &mut judged);
        for (policy, owner) in fresh {
            self.install(&policy, owner);
            judged.insert(policy);
        }
        self.judge_rivals(&contested, &mut judged);
        let after = before.into_iter().filter_map(|(key, old)| {
            let new = self.entry(&key);
            (new != old).then_some((key, new))
        });
        let entries = after.collect();
        Delta { entries, verdicts: self.judge(judged), resolved, touched }
    }

    /// The entry of one frontend.
    #[must_use]
    pub fn entry(&self, key: &FrontendKey) -> Option<Entry> {
        self.claims.entry(key)
    }

    /// All entries, by frontend.
    pub fn entries(&self) -> impl Iterator<Item = (FrontendKey, Entry)> {
        self.claims.entries()
    }

    /// All verdicts.
    #[must_use]
    pub fn verdicts(&self) -> &BTreeMap<PolicyRef, Verdict> {
        &self.verdicts
    }

    /// What a policy makes of the objects, before it meets the others.
    #[must_use]
    pub fn resolution(&self, policy: &PolicyRef) -> Option<&Resolution> {
        self.owners.get(policy).map(|owner| &owner.resolution)
    }

    /// Who claims a frontend: LocalRedirectPolicies, then BalancingPolicies, the owner of each
    /// kind before those that lost to it.
    pub fn claimants(&self, key: &FrontendKey) -> impl Iterator<Item = &PolicyRef> {
        self.claims.on(key).iter().map(Claim::policy)
    }

    /// The policy that comes first and has the service id this policy chose.
    #[must_use]
    pub fn id_winner_over(&self, policy: &PolicyRef) -> Option<&PolicyRef> {
        self.ids.winner_over(policy)
    }

    /// A port of this policy at the proxy addresses that a policy which comes first leads to other pods, and that policy.
    pub(crate) fn port_winner_over(&self, policy: &PolicyRef) -> Option<(ProxyPort, &PolicyRef)> {
        self.proxy_ports.winner_over(policy)
    }

    /// The service id of a policy: chosen or derived.
    #[must_use]
    pub fn service_id(&self, policy: &PolicyRef) -> u32 {
        self.ids.id(policy)
    }

    /// The first policy as one that comes before the second.
    pub(crate) fn senior(&self, senior: &PolicyRef, junior: &PolicyRef) -> Option<Senior> {
        Some(Senior::new(&self.owners.get(senior)?.rank, &self.owners.get(junior)?.rank))
    }

    /// The current objects.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Brings the ids up to date; the policies to resolve again.
    fn bid(&mut self, dirty: BTreeSet<PolicyRef>) -> BTreeSet<PolicyRef> {
        let bids = dirty.into_iter().map(|key| {
            let bid = self.snapshot.policy(&key).map(|policy| Bid {
                chosen: policy.service_id,
                rank: Rank::of(policy),
                // Who may take part holds its id meanwhile.
                active: standing(policy, &self.snapshot, &self.settings) == Standing::Active
                    || !lacks(policy, &self.snapshot, &self.settings).is_empty(),
            });
            (key, bid)
        });
        let bids = bids.collect();
        self.ids.update(bids)
    }

    fn resolve_one(&self, key: PolicyRef) -> Fresh {
        let owner = self.snapshot.policy(&key).map(|policy| Owner {
            resolution: resolve_policy(policy, self.ids.id(&key), &self.snapshot, &self.settings),
            rank: Arc::new(Rank::of(policy)),
            claims: self.ids.winner_over(&key).is_none() && self.proxy_ports.winner_over(&key).is_none(),
        });
        (key, owner)
    }

    /// Notes the present entry of every frontend that a policy is about to change, and the
    /// frontends whose claimants change with it.
    fn compare(
        &self,
        old: Option<&Owner>,
        new: Option<&Owner>,
        before: &mut BTreeMap<FrontendKey, Option<Entry>>,
        contested: &mut Vec<FrontendKey>,
    ) {
        let same_rank = same_rank(old, new);
        // Which policies meet may change with the nodes alone.
        let may_meet_others = self.settings.role == Role::Cluster;
        for (this, other) in [(old, new), (new, old)] {
            for (key, layer) in claims(this) {
                let theirs = other.and_then(|owner| owner.claim(key));
                if theirs.is_none() || !same_rank || may_meet_others {
                    contested.push(*key);
                } else if theirs == Some(layer) {
                    continue;
                }
                before.entry(*key).or_insert_with(|| self.entry(key));
            }
        }
    }

    /// Where several claim a frontend, all of them may win or lose by the change.
    fn judge_rivals(&self, contested: &[FrontendKey], judged: &mut BTreeSet<PolicyRef>) {
        let shared = contested.iter().map(|key| self.claims.on(key)).filter(|claims| claims.len() > 1);
        judged.extend(shared.flatten().map(|claim| claim.policy().clone()));
    }

    fn install(&mut self, policy: &PolicyRef, new: Option<Owner>) {
        let old = self.owners.remove(policy);
        let same_rank = same_rank(old.as_ref(), new.as_ref());
        if let Some(old) = &old {
            let stays =
                |key: &FrontendKey| same_rank && new.as_ref().is_some_and(|owner| owner.claim(key).is_some());
            for (key, _) in claims(Some(old)).filter(|(key, _)| !stays(key)) {
                self.claims.remove(key, &old.rank);
            }
        }
        if let Some(new) = new {
            for (key, layer) in claims(Some(&new)) {
                self.claims.put(*key, &new.rank, layer.as_ref());
            }
            self.owners.insert(policy.clone(), new);
        }
    }

    /// Renews verdicts; those that changed.
    fn judge(&mut self, policies: BTreeSet<PolicyRef>) -> BTreeMap<PolicyRef, Option<Verdict>> {
        let mut changed = BTreeMap::new();
        for policy in policies {
            let new = self
                .owners
                .get(&policy)
                .map(|owner| verdict(&owner.resolution, &self.contest(&policy, owner)));
            if new.as_ref() == self.verdicts.get(&policy) {
                continue;
            }
            match &new {
                Some(verdict) => self.verdicts.insert(policy.clone(), verdict.clone()),
                None => self.verdicts.remove(&policy),
            };
            changed.insert(policy, new);
        }
        changed
    }

    fn contest(&self, policy: &PolicyRef, owner: &Owner) -> Contest {
        let lost = claims(Some(owner)).filter_map(|(key, _)| {
            let winner = self.winner_over(policy, key)?;
            Some((*key, self.senior(winner, policy)?))
        });
        let id_winner = self.ids.winner_over(policy).and_then(|winner| self.senior(winner, policy));
        let port_winner = self.proxy_ports.winner_over(policy);
        let port_winner = port_winner.and_then(|(port, winner)| Some((port, self.senior(winner, policy)?)));
        Contest { id_winner, port_winner, lost: lost.collect() }
    }

    /// The senior policy of the kind to which a frontend that this one claims belongs. As seen from the whole
    /// cluster it must be in force on a host where this one is, too.
    fn winner_over(&self, policy: &PolicyRef, key: &FrontendKey) -> Option<&PolicyRef> {
        let same_kind = self.claims.on(key).iter().map(Claim::policy).filter(|p| p.kind == policy.kind);
        let mut seniors = same_kind.take_while(|p| *p != policy);
        seniors.find(|senior| self.settings.role != Role::Cluster || self.meet(senior, policy))
    }

    /// Whether there is a host on which both policies are in force.
    fn meet(&self, a: &PolicyRef, b: &PolicyRef) -> bool {
        let balancing = a.kind == PolicyKind::Balancing && b.kind == PolicyKind::Balancing;
        let spec = |policy| self.snapshot.policy(policy).and_then(|p: &Policy| p.spec.as_ref().ok());
        let (Some(a), Some(b)) = (spec(a), spec(b)) else { return false };
        let everywhere = |spec: &PolicySpec| spec.node_selector == LabelSelector::default();
        let on = |node: &Node| a.node_selector.matches(&node.labels) && b.node_selector.matches(&node.labels);
        (balancing && a.out_cluster && b.out_cluster)
            || (everywhere(a) && everywhere(b))
            || self.snapshot.nodes().any(on)
    }
}

impl Owner {
    fn claim(&self, key: &FrontendKey) -> Option<&Option<Arc<Layer>>> {
        self.resolution.claims.get(key).filter(|_| self.claims)
    }
}

/// The claims that count.
fn claims(owner: Option<&Owner>) -> impl Iterator<Item = (&FrontendKey, &Option<Arc<Layer>>)> {
    owner.filter(|owner| owner.claims).into_iter().flat_map(|owner| &owner.resolution.claims)
}

fn same_rank(old: Option<&Owner>, new: Option<&Owner>) -> bool {
    old.map(|owner| &owner.rank) == new.map(|owner| &owner.rank)
}
