//! Looks at local pods: by what they are recognised, and whether they have the links that they are to have.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use balancing_core::objects::Pod;
use balancing_dataplane::{
    cgroup::{self, CgroupDir, PodUid},
    links::{self, Change},
    model::ClientId,
};

use super::{
    AttachError, Attacher, Observed, PATIENCE,
    claims::{self, Claim},
    known::{Found, Known, LeftAlone, State},
    news::{Event, News},
    recorded::namespace_excluded,
    watch::{Happened, Wanted},
};

/// Why a pod is looked at, from the least to the most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// Something happened to it.
    Touched,
    /// Its time has come, or it is new: it is searched for.
    Due,
}

impl Attacher {
    /// Looks at the local pods: tells by what they are recognised and, once the tables are filled, attaches
    /// those that have no links and detaches those that must not have any.
    pub fn look(&mut self, pods: &[&Pod], everything: bool, filled: bool) -> Observed {
        let now = Instant::now();
        self.filled = filled;
        let happened = self.watch.take();
        let everything = everything || happened.lost;
        let touched = self.read_records(&happened, everything);
        let (mut observed, mut news) = (Observed::default(), News::default());
        let mut exempt = BTreeSet::new();
        self.places = self.parents();
        let claims = self.claims(pods);
        for claim in &claims {
            let touched = touched.contains(&claim.uid) || (happened.places && self.is_waiting(claim.pod));
            if let Some(reason) = self.reason(claim, everything, touched, now) {
                observed.identities.extend(self.look_at(claim, reason, now, &mut news));
            }
            let Some(known) = self.known.get(&claim.pod.uid) else { continue };
            if claim.pod.redirect_disabled && claim.pod.host_network {
                exempt.extend(known.identities.iter().copied());
            }
        }
        for claim in &claims {
            let cgroup = self.known.get(&claim.pod.uid).and_then(Known::cgroup);
            let concerned = everything || happened.containers.contains(&claim.uid);
            if concerned || self.containers.is_due(&claim.uid, cgroup, now) {
                observed.ended.extend(self.ended_of(claim, now));
            }
        }
        news.log();
        self.fresh.clear();
        let seen: BTreeSet<&str> = claims.iter().map(|claim| claim.pod.uid.as_str()).collect();
        let gone: Vec<String> =
            self.known.keys().filter(|uid| !seen.contains(uid.as_str())).cloned().collect();
        for uid in gone {
            self.known.remove(&uid);
            observed.identities.push((uid, BTreeSet::new()));
        }
        let uids: BTreeSet<&PodUid> = claims.iter().map(|claim| &claim.uid).collect();
        observed.ended.extend(self.containers.keep(&uids).into_iter().map(|uid| (uid, BTreeSet::new())));
        if self.exempt.as_ref() != Some(&exempt) {
            self.exempt = Some(exempt.clone());
            observed.exempt = Some(exempt);
        }
        self.set_watch();
        // What is watched from now on may have begun or ended before.
        let watched = self.watch.take_containers();
        for claim in claims.iter().filter(|claim| watched.contains(&claim.uid)) {
            observed.ended.extend(self.ended_of(claim, now));
        }
        if !watched.is_empty() {
            // What that found is watched, too; it is news for the next look.
            self.set_watch();
        }
        observed
    }

    /// The containers of a pod that have ended, if that has changed.
    fn ended_of(&mut self, claim: &Claim<'_>, now: Instant) -> Option<(PodUid, BTreeSet<Box<str>>)> {
        let known = self.known.get(&claim.pod.uid)?;
        let ended = self.containers.look(&claim.uid, known.cgroup(), now)?;
        let listed = claim.pod.containers.iter().any(|id| ended.contains(id));
        if listed && claim.pod.is_available() {
            tracing::info!(
                pod = known.name(),
                "a container has ended, which the kubelet has not told yet: it is no backend meanwhile"
            );
        }
        Some((claim.uid.clone(), ended))
    }

    fn claims<'a>(&self, pods: &[&'a Pod]) -> Vec<Claim<'a>> {
        let is_known =
            |pod: &Pod, uid: &PodUid| self.known.get(&pod.uid).is_some_and(|known| known.speaks_for(uid));
        let recorded = |uid: &PodUid| {
            let record = self.recorded.of(uid).filter(|record| !record.pod_name.is_empty())?;
            Some((record.pod_namespace.clone(), record.pod_name.clone()))
        };
        claims::settle(pods, is_known, recorded)
    }

    /// Brings the records up to date. Returns the pods to which something happened.
    fn read_records(&mut self, happened: &Happened, everything: bool) -> BTreeSet<PodUid> {
        let mut touched = happened.pods.clone();
        if everything || happened.networks {
            self.recorded.read_all();
        }
        for path in &happened.records {
            touched.extend(self.recorded.read(path));
        }
        touched
    }

    fn is_waiting(&self, pod: &Pod) -> bool {
        self.known.get(&pod.uid).is_some_and(Known::is_waiting)
    }

    /// Why a claim is to be looked at, if it is.
    fn reason(&mut self, claim: &Claim<'_>, everything: bool, touched: bool, now: Instant) -> Option<Reason> {
        let left_alone = self.reason_to_leave(claim);
        let has_record = self.recorded.of(&claim.uid).is_some();
        let Some(known) = self.known.get_mut(&claim.pod.uid) else { return Some(Reason::Due) };
        if everything || known.left_alone != left_alone || known.next().is_some_and(|at| at <= now) {
            return Some(Reason::Due);
        }
        if touched && known.had_record && !has_record {
            known.end(now);
            return None;
        }
        touched.then_some(Reason::Touched)
    }

    /// Why a pod is to have no links; `None`: it is to have some. The annotation counts as the object has it now, whatever it was
    /// at the pod's start.
    fn reason_to_leave(&self, claim: &Claim<'_>) -> Option<LeftAlone> {
        let pod = claim.pod;
        let excluded = self.recorded.of(&claim.uid).and_then(namespace_excluded);
        let excluded = || excluded.unwrap_or_else(|| self.rules.exclude_namespaces.contains(&pod.namespace));
        if pod.host_network {
            Some(LeftAlone::HostNetwork)
        } else if !self.rules.hooks_pods() {
            Some(LeftAlone::Scope)
        } else if pod.redirect_disabled {
            Some(LeftAlone::Annotation)
        } else {
            excluded().then_some(LeftAlone::Namespace)
        }
    }

    /// Looks at a pod. Returns by what it is recognised, if that has changed.
    fn look_at(
        &mut self,
        claim: &Claim<'_>,
        reason: Reason,
        now: Instant,
        news: &mut News,
    ) -> Option<(String, BTreeSet<ClientId>)> {
        let (pod, uid) = (claim.pod, &claim.uid);
        let mut found = Found {
            left_alone: self.reason_to_leave(claim),
            had_record: self.recorded.of(uid).is_some(),
            cgroup: None,
            identities: BTreeSet::new(),
            state: State::Early,
            searched: reason == Reason::Due,
        };
        let mut event = None;
        match self.connect(claim, reason, &mut found) {
            Ok(happened) => event = happened,
            Err(error) => found.state = State::of_error(&error),
        }
        if matches!(found.state, State::Hooked | State::LeftAlone) {
            self.stuck.remove(uid.as_str());
        }
        self.failures.pods += u64::from(matches!(found.state, State::Failing(_)));
        let before = self.known.get(&pod.uid);
        let nobody = BTreeSet::new();
        let changed = found.identities != *before.map_or(&nobody, |before| &before.identities);
        let identities = changed.then(|| (pod.uid.clone(), found.identities.clone()));
        let (known, told) = Known::after(before, uid.clone(), pod, found, now);
        if let Some((event, why)) = told.or(event.map(|event| (event, String::new()))) {
            news.add(event, known.name(), why);
        }
        self.known.insert(pod.uid.clone(), known);
        identities
    }

    /// Finds a pod and makes its links as wanted. Returns what was done to them.
    fn connect(
        &self,
        claim: &Claim<'_>,
        reason: Reason,
        found: &mut Found,
    ) -> Result<Option<Event>, AttachError> {
        let (pod, uid) = (claim.pod, &claim.uid);
        let dir = self.layout.pods().join(uid.as_str());
        let cgroup = self.cgroup(pod, uid, reason);
        found.cgroup = cgroup.as_ref().ok().map(|found| (found.path().to_owned(), found.id()));
        if claim.is_contested {
            found.state = State::Contested;
            return Ok(None);
        }
        found.identities = self.identities(pod, uid, cgroup.as_ref());
        if !self.filled {
            return Ok(None);
        }
        if found.left_alone.is_some() {
            let _lock = self.locks.acquire(uid, PATIENCE)?;
            found.state = State::LeftAlone;
            return Ok(links::remove(&dir)?.then_some(Event::Detached));
        }
        let cgroup = match cgroup {
            Ok(cgroup) => cgroup,
            Err(error @ cgroup::Error::NotFound { .. }) => {
                found.state = State::Waiting(error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        // Brought up to date in this very round.
        if self.fresh.get(uid) == Some(&cgroup.id()) {
            found.state = State::Hooked;
            return Ok(None);
        }
        let _lock = self.locks.acquire(uid, PATIENCE)?;
        let changes = match links::attach(&self.pods, &cgroup, &dir) {
            // Between the two the pod ended, or its cgroup was made anew.
            Err(links::Error::CgroupGone { .. }) => {
                found.state = State::Waiting("its cgroup has just been removed".to_owned());
                return Ok(None);
            }
            changes => changes?,
        };
        self.detach_older(uid)?;
        found.state = State::Hooked;
        Ok(changes.values().any(|change| *change != Change::Kept).then_some(Event::Attached))
    }

    /// By what the connections of a pod are recognised. What it was recognised by holds on when its cgroup is not found, until it
    /// is certain that it is gone.
    fn identities(
        &self,
        pod: &Pod,
        uid: &PodUid,
        cgroup: Result<&CgroupDir, &cgroup::Error>,
    ) -> BTreeSet<ClientId> {
        let cookie = self.recorded.of(uid).and_then(|record| record.netns_cookie);
        match (cookie, cgroup) {
            // A host-network pod shares the host's namespace: only its cgroup tells it apart.
            (Some(cookie), _) if !pod.host_network => BTreeSet::from([ClientId::NetnsCookie(cookie)]),
            (_, Ok(cgroup)) => BTreeSet::from([ClientId::Cgroup(cgroup.id())]),
            (_, Err(_)) => {
                let before = self.known.get(&pod.uid).map(|known| known.identities.clone());
                let is_gone = |id: &ClientId| match id {
                    ClientId::Cgroup(id) => matches!(cgroup::by_id(&self.cgroup_root, *id), Ok(None)),
                    ClientId::NetnsCookie(_) => true,
                };
                before.into_iter().flatten().filter(|id| !is_gone(id)).collect()
            }
        }
    }

    /// The cgroup of a pod: where the plugin found it, where kubelets put it, after a search, or where its links are. The plugin
    /// may see another part of the hierarchy than the agent.
    fn cgroup(&self, pod: &Pod, uid: &PodUid, reason: Reason) -> Result<CgroupDir, cgroup::Error> {
        if let Some(path) = self.recorded.of(uid).and_then(|record| record.cgroup.as_ref())
            && let Ok(found) = CgroupDir::open(path)
        {
            return Ok(found);
        }
        // The same directory that it had is the pod's as long as it is there.
        let before = self.known.get(&pod.uid).and_then(Known::cgroup);
        if let Some(found) = before.and_then(|path| CgroupDir::open(path).ok()) {
            return Ok(found);
        }
        if let Some(found) = cgroup::look(&self.cgroup_root, uid, &self.places)? {
            return Ok(found);
        }
        let searched = match reason {
            Reason::Due => cgroup::find(&self.cgroup_root, uid, None, Duration::ZERO),
            Reason::Touched => Err(cgroup::not_found(&self.cgroup_root, uid)),
        };
        match searched {
            Err(error @ cgroup::Error::NotFound { .. }) => self.linked_cgroup(uid).ok_or(error),
            searched => searched,
        }
    }

    /// The cgroup at which a pod's links are, wherever that is.
    fn linked_cgroup(&self, uid: &PodUid) -> Option<CgroupDir> {
        let dir = self.layout.pods().join(uid.as_str());
        // Most pods that are searched for have none, and every hook would be asked for.
        let links = dir.is_dir().then(|| links::inspect(&dir).ok())??;
        self.cgroup_of_ids(&links.values().map(|link| link.cgroup_id).collect())
    }

    /// The first cgroup of these that is there.
    pub(super) fn cgroup_of_ids(&self, ids: &BTreeSet<u64>) -> Option<CgroupDir> {
        let ids = ids.iter().filter(|id| **id != 0);
        ids.into_iter().find_map(|id| cgroup::by_id(&self.cgroup_root, *id).ok().flatten())
    }

    /// Directories beside which other pods were found.
    fn parents(&self) -> BTreeSet<PathBuf> {
        let parents = self.known.values().filter_map(|known| known.cgroup()?.parent());
        parents.map(Path::to_owned).collect()
    }

    fn set_watch(&mut self) {
        let hooked = self.known.values().filter(|known| known.is_hooked());
        let wanted = Wanted {
            places: cgroup::places(&self.cgroup_root, &self.parents()),
            records: self.recorded.dir().to_owned(),
            links: self.rules.hooks_pods().then(|| self.layout.pods()),
            pods: hooked.map(|known| known.uid().clone()).collect(),
            containers: self.containers.directories().collect(),
            events: self.containers.events().collect(),
        };
        self.watch.set(&wanted);
    }
}
