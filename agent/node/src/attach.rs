//! The links of this host: at the cgroup root for host processes, at the cgroups of pods that have none yet.
//!
//! The CNI plugin attaches pods at their birth. This module adopts the others, brings links up to date with the
//! agent's programs, and takes over what an agent of another ABI left.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use balancing_dataplane::{
    cgroup::{self, CgroupDir, PodUid},
    layout::Layout,
    links::{self, Change, Locks, Programs},
    model::{ClientId, Clients},
    records::{Record, Records, State},
};

use crate::metrics::{AttachFailures, LinkSample};
use balancing_core::{objects::Pod, resolve::Role};

mod news;
mod takeover;

use news::{Event, News};
use takeover::move_dir;

/// First and longest wait before a pod without a cgroup is looked for again.
const SEARCH: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The object of a pod is there before its sandbox: a search that has not come to longer waits than this is no news.
const SANDBOX: Duration = Duration::from_secs(5);
/// Longest wait for the plugin to finish with a pod.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why links are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The cgroup cannot be used.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// A link cannot be made or changed.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// A directory of an earlier ABI cannot be taken over.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Takeover {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is known of one local pod.
#[derive(Debug)]
struct Known {
    /// Whether it wanted links when it was looked at.
    wanted: bool,
    /// Everything was as wanted.
    settled: bool,
    cgroup: Option<PathBuf>,
    identities: BTreeSet<ClientId>,
    next: Instant,
    wait: Duration,
    failure: Option<String>,
    /// The failure has been logged.
    told: bool,
    /// What the log does not say yet, and why.
    news: Option<(Event, String)>,
}

impl Known {
    fn is_due(&self, now: Instant) -> bool {
        let settled = self.settled && !self.identities.is_empty();
        !settled && now >= self.next
    }
}

/// Makes and mends links.
pub struct Attacher {
    layout: Layout,
    cgroup_root: PathBuf,
    pods: Programs,
    host: Programs,
    scope: Clients,
    role: Role,
    locks: Locks,
    records: Records,
    known: BTreeMap<String, Known>,
    /// What was told last; `None` at first, when the kernel still has what an earlier agent wrote.
    exempt: Option<BTreeSet<ClientId>>,
    /// The tables are filled: links of pods may be made.
    filled: bool,
    /// Pods whose links could not be brought up to date, in words.
    stuck: Vec<String>,
    /// Host processes were hooked when that was looked at last.
    host_attached: bool,
    failures: AttachFailures,
}

/// What a look at the pods found.
#[derive(Debug, Default)]
pub struct Observed {
    /// By what the connections of a pod are recognised, for pods where that changed.
    pub identities: Vec<(String, BTreeSet<ClientId>)>,
    /// Clients that are never redirected, when that changed.
    pub exempt: Option<BTreeSet<ClientId>>,
}

impl Attacher {
    /// An attacher of loaded programs.
    #[must_use]
    pub fn new(
        layout: Layout,
        cgroup_root: PathBuf,
        (pods, host): (Programs, Programs),
        (scope, role): (Clients, Role),
        run_dir: &Path,
    ) -> Self {
        Self {
            layout,
            cgroup_root,
            pods,
            host,
            scope,
            role,
            locks: Locks::new(run_dir),
            records: Records::new(run_dir),
            known: BTreeMap::new(),
            exempt: None,
            filled: false,
            stuck: Vec::new(),
            host_attached: false,
            failures: AttachFailures::default(),
        }
    }

    fn hooks_pods(&self) -> bool {
        self.role == Role::Node && self.scope != Clients::Host
    }

    fn hooks_host(&self) -> bool {
        self.scope != Clients::Pods
    }

    /// Makes and mends the host's links, or takes them away; the tables must be filled. Idempotent.
    ///
    /// # Errors
    /// What keeps the host from being hooked.
    pub fn attach_host(&mut self) -> Result<(), AttachError> {
        let result = self.try_attach_host();
        self.failures.host += u64::from(result.is_err());
        self.host_attached = result.is_ok() && self.hooks_host();
        result
    }

    fn try_attach_host(&self) -> Result<(), AttachError> {
        let host = self.layout.host();
        for old in self.older()? {
            move_dir(&old.host(), &host)?;
        }
        if self.hooks_host() {
            let root = CgroupDir::open(&self.cgroup_root)?;
            // Made by the loader as an empty place; only a published directory may be mended.
            let changes = links::attach(&self.host, &root, &host)?;
            let hooks = changes.values().filter(|change| **change != Change::Kept).count();
            if hooks > 0 {
                tracing::info!(hooks, "the host's links are up to date");
            }
        } else {
            links::remove(&host)?;
        }
        Ok(())
    }

    /// Publishes the programs for the plugin and brings the links that pods have up to date; the tables must be filled.
    /// Idempotent.
    ///
    /// # Errors
    /// What concerns all pods. A pod that fails is among [`Self::problems`] and keeps no other from being attached.
    pub fn refresh_pods(&mut self) -> Result<(), AttachError> {
        let result = self.try_refresh_pods();
        self.failures.host += u64::from(result.is_err());
        result
    }

    fn try_refresh_pods(&mut self) -> Result<(), AttachError> {
        let mut stuck = self.take_over_pods()?;
        if self.hooks_pods() {
            self.pods.publish(&self.layout.programs())?;
            stuck.extend(self.update_pods()?);
        } else {
            for dir in links::pods(&self.layout)?.values() {
                links::remove(dir)?;
            }
        }
        self.failures.pods += stuck.len() as u64;
        self.stuck = stuck;
        Ok(())
    }

    /// Gives the pods' links the current programs and sweeps those of pods that are gone. Returns what failed, in words.
    fn update_pods(&self) -> Result<Vec<String>, AttachError> {
        let (mut news, mut stuck) = (News::default(), Vec::new());
        let swept = links::sweep(&self.layout, &self.cgroup_root, &self.locks)?;
        for uid in &swept.pods {
            news.add(Event::Gone, uid.to_string(), "");
        }
        if let Some(first) = swept.failed.first() {
            tracing::warn!(more = swept.failed.len() - 1, "{first}");
        }
        let records = self.records();
        for (uid, dir) in links::pods(&self.layout)? {
            match self.refresh(&uid, &dir, records.get(&uid)) {
                Ok(true) => news.add(Event::Updated, uid.to_string(), ""),
                Ok(false) => {}
                Err(error) => {
                    let problem = format!("pod {uid}: {error}");
                    if !self.stuck.contains(&problem) {
                        news.add(Event::Outdated, uid.to_string(), error.to_string());
                    }
                    stuck.push(problem);
                }
            }
        }
        news.log();
        Ok(stuck)
    }

    /// Whether anything changed.
    fn refresh(&self, uid: &PodUid, dir: &Path, record: Option<&Record>) -> Result<bool, AttachError> {
        // Whoever holds the lock attaches the newest programs.
        let Some(_lock) = self.locks.try_acquire(uid)? else { return Ok(false) };
        match self.find(uid, record) {
            Ok(cgroup) => Ok(links::attach(&self.pods, &cgroup, dir)?.values().any(|c| *c != Change::Kept)),
            Err(error) => {
                tracing::debug!(%uid, "{error}");
                Ok(false)
            }
        }
    }

    /// What the plugin wrote down, by pod. Unreadable records are its business.
    fn records(&self) -> BTreeMap<PodUid, Record> {
        let listing = self.records.read_all().map(|l| l.records).unwrap_or_default();
        listing.into_iter().map(|record| (record.pod_uid.clone(), record)).collect()
    }

    fn find(&self, uid: &PodUid, record: Option<&Record>) -> Result<CgroupDir, cgroup::Error> {
        if let Some(path) = record.and_then(|r| r.cgroup.as_ref())
            && let Ok(found) = CgroupDir::open(path)
        {
            return Ok(found);
        }
        cgroup::find(&self.cgroup_root, uid, None, Duration::ZERO)
    }

    /// Looks at the local pods: tells by what they are recognised and, once the tables are filled, attaches
    /// those that have no links and detaches those that must not have any.
    pub fn look(&mut self, pods: &[&Pod], everything: bool, filled: bool) -> Observed {
        self.filled = filled;
        let mut observed = Observed::default();
        let mut exempt = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let (mut records, mut news) = (None, News::default());
        for pod in pods.iter().filter(|pod| !pod.uid.is_empty() && !pod.finished) {
            seen.insert(pod.uid.as_str());
            if self.is_due(pod, everything) {
                let records = records.get_or_insert_with(|| self.records());
                let mut known = self.look_at(pod, records);
                if let Some((event, why)) = known.news.take() {
                    news.add(event, format!("{}/{}", pod.namespace, pod.name), why);
                }
                self.failures.pods += u64::from(known.failure.is_some());
                let before = self.known.get(&pod.uid).map(|k| &k.identities);
                if known.identities != *before.unwrap_or(&BTreeSet::new()) {
                    observed.identities.push((pod.uid.clone(), known.identities.clone()));
                }
                self.known.insert(pod.uid.clone(), known);
            }
            let Some(known) = self.known.get(&pod.uid) else { continue };
            if pod.redirect_disabled && pod.host_network {
                exempt.extend(known.identities.iter().copied());
            }
        }
        news.log();
        let gone: Vec<String> =
            self.known.keys().filter(|uid| !seen.contains(uid.as_str())).cloned().collect();
        for uid in gone {
            self.known.remove(&uid);
            observed.identities.push((uid, BTreeSet::new()));
        }
        if self.exempt.as_ref() != Some(&exempt) {
            self.exempt = Some(exempt.clone());
            observed.exempt = Some(exempt);
        }
        observed
    }

    fn wants_links(&self, pod: &Pod) -> bool {
        self.hooks_pods() && !pod.host_network && !pod.redirect_disabled
    }

    fn is_due(&self, pod: &Pod, everything: bool) -> bool {
        let Some(known) = self.known.get(&pod.uid) else { return true };
        everything || known.wanted != self.wants_links(pod) || known.is_due(Instant::now())
    }

    fn look_at(&self, pod: &Pod, records: &BTreeMap<PodUid, Record>) -> Known {
        let before = self.known.get(&pod.uid);
        let wait = before.map_or(SEARCH.0, |k| (k.wait * 2).min(SEARCH.1));
        let next = Instant::now() + wait;
        let (wanted, identities) = (self.wants_links(pod), BTreeSet::new());
        let told = before.is_some_and(|k| k.told);
        let (settled, cgroup, failure, news) = (false, None, None, None);
        let mut known = Known { wanted, settled, cgroup, identities, next, wait, failure, told, news };
        if let Err(error) = self.connect(pod, records, &mut known) {
            let failure = error.to_string();
            if wait > SANDBOX && !told {
                known.told = true;
                known.news = Some((Event::NotAttached, failure.clone()));
            }
            known.failure = Some(failure);
        } else if told {
            known.told = false;
            known.news = Some((Event::AttachedAfterAll, String::new()));
        }
        known
    }

    fn connect(
        &self,
        pod: &Pod,
        records: &BTreeMap<PodUid, Record>,
        known: &mut Known,
    ) -> Result<(), AttachError> {
        let uid = PodUid::new(&pod.uid)?;
        let record = records.get(&uid);
        let cgroup = self.find(&uid, record);
        known.cgroup = cgroup.as_ref().ok().map(|found| found.path().to_owned());
        match (record.and_then(|r| r.netns_cookie), &cgroup) {
            // A host-network pod shares the host's namespace: only its cgroup tells it apart.
            (Some(cookie), _) if !pod.host_network => {
                known.identities.insert(ClientId::NetnsCookie(cookie));
            }
            (_, Ok(found)) => {
                known.identities.insert(ClientId::Cgroup(found.id()));
            }
            (_, Err(_)) => {}
        }
        if !self.filled {
            return Ok(());
        }
        let dir = self.layout.pods().join(uid.as_str());
        // Only the plugin's configuration knows the excluded namespaces.
        let excluded = record.is_some_and(|r| matches!(r.state, State::Excluded { .. }));
        let _lock = self.locks.acquire(&uid, PATIENCE)?;
        if !known.wanted || excluded {
            known.settled = true;
            if links::remove(&dir)? {
                known.news = Some((Event::Detached, String::new()));
            }
            return Ok(());
        }
        let changes = links::attach(&self.pods, &cgroup?, &dir)?;
        if changes.values().any(|change| *change != Change::Kept) {
            known.news = Some((Event::Attached, String::new()));
        }
        known.settled = true;
        Ok(())
    }

    /// The cgroup of a local pod, if it was found.
    #[must_use]
    pub fn cgroup_of(&self, uid: &str) -> Option<&Path> {
        self.known.get(uid)?.cgroup.as_deref()
    }

    /// Why a local pod could not be given links.
    #[must_use]
    pub fn failure_of(&self, uid: &str) -> Option<&str> {
        self.known.get(uid)?.failure.as_deref()
    }

    /// Pods that want links and have none, in words.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let missing =
            self.known.iter().filter_map(|(uid, k)| Some(format!("pod {uid}: {}", k.failure.as_ref()?)));
        self.stuck.iter().cloned().chain(missing).collect()
    }

    /// The links at this moment.
    #[must_use]
    pub fn sample(&self) -> LinkSample {
        // The plugin makes links of pods that no object tells of yet.
        let pods = links::pods(&self.layout).map_or(0, |pods| pods.len());
        LinkSample {
            host: self.host_attached,
            pods,
            pods_failed: self.problems().len(),
            failures: self.failures,
        }
    }

    /// When a pod that was not found should be looked for again.
    #[must_use]
    pub fn next_search(&self) -> Option<Instant> {
        self.known.values().filter(|known| known.failure.is_some()).map(|known| known.next).min()
    }
}
