//! The links of this host: at the cgroup root for host processes, at the cgroups of pods that have none yet.
//!
//! The CNI plugin attaches pods at their birth. This module adopts the others, brings links up to date with the agent's
//! programs, mends what somebody takes away, and takes over what an agent of another ABI left. It decides by what the kernel,
//! the objects and the plugin's records say, never by what it has done before.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use balancing_core::resolve::Role;
use balancing_dataplane::{
    cgroup::{self, PodUid},
    layout::Layout,
    links::{self, Locks, Programs},
    model::{ClientId, Clients},
};

use self::{containers::Containers, known::Known, recorded::Recorded, watch::Watch};
use crate::metrics::{AttachFailures, LinkSample};

mod check;
mod claims;
mod containers;
mod host;
mod known;
mod news;
mod orphans;
mod pods;
mod recorded;
mod refresh;
mod takeover;
mod watch;

pub use check::CHECK;
pub use watch::Descriptor;

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
    /// The agent runs as a pod without `hostNetwork`.
    #[error(
        "processes of the host are not hooked: the agent is in the network namespace of pod {pod}, not in the host's; \
         set hostNetwork: true in its pod"
    )]
    PodNamespace {
        /// Namespace and name of the pod.
        pod: String,
    },
}

/// What decides about links beside the pods themselves.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `--scope`.
    pub scope: Clients,
    /// `--role`.
    pub role: Role,
    /// `--exclude-namespaces`.
    pub exclude_namespaces: BTreeSet<String>,
}

/// Makes and mends links.
pub struct Attacher {
    layout: Layout,
    cgroup_root: PathBuf,
    pods: Programs,
    host: Programs,
    rules: Rules,
    locks: Locks,
    recorded: Recorded,
    /// Local pods by the UID of their object.
    known: BTreeMap<String, Known>,
    /// What was told last; `None` at first, when the kernel still has what an earlier agent wrote.
    exempt: Option<BTreeSet<ClientId>>,
    /// The tables are filled: links of pods may be made.
    filled: bool,
    /// Why links of pods could not be brought up to date, by the UID that the node knows.
    stuck: BTreeMap<String, String>,
    /// Cgroups at which links of pods were made right a moment ago, until the pods are looked at.
    fresh: BTreeMap<PodUid, u64>,
    /// Host processes were hooked when that was looked at last.
    host_attached: bool,
    failures: AttachFailures,
    watch: Watch,
    /// The pod that was checked last, where a round did not come to the end.
    checked: Option<String>,
    /// Directories beside which pods were found.
    places: BTreeSet<PathBuf>,
    containers: Containers,
}

/// What a look at the pods found.
#[derive(Debug, Default)]
pub struct Observed {
    /// By what the connections of a pod are recognised, for pods where that changed.
    pub identities: Vec<(String, BTreeSet<ClientId>)>,
    /// Clients that are never redirected, when that changed.
    pub exempt: Option<BTreeSet<ClientId>>,
    /// Containers that have ended, of pods where that changed, by the UID that the node knows.
    pub ended: Vec<(PodUid, BTreeSet<Box<str>>)>,
}

impl Rules {
    /// Whether pods are hooked on this host.
    #[must_use]
    pub fn hooks_pods(&self) -> bool {
        self.role == Role::Node && self.scope != Clients::Host
    }

    /// Whether processes of the host are hooked.
    #[must_use]
    pub fn hooks_host(&self) -> bool {
        self.scope != Clients::Pods
    }
}

impl Attacher {
    /// An attacher of loaded programs.
    #[must_use]
    pub fn new(
        layout: Layout,
        cgroup_root: PathBuf,
        (pods, host): (Programs, Programs),
        rules: Rules,
        run_dir: &Path,
    ) -> Self {
        Self {
            layout,
            cgroup_root,
            pods,
            host,
            rules,
            locks: Locks::new(run_dir),
            recorded: Recorded::new(run_dir),
            known: BTreeMap::new(),
            exempt: None,
            filled: false,
            stuck: BTreeMap::new(),
            fresh: BTreeMap::new(),
            host_attached: false,
            failures: AttachFailures::default(),
            watch: Watch::new(),
            checked: None,
            places: BTreeSet::new(),
            containers: Containers::default(),
        }
    }

    /// The descriptor that is readable when something happened to cgroups, records or links.
    #[must_use]
    pub fn descriptor(&self) -> Option<Descriptor> {
        self.watch.descriptor()
    }

    /// The cgroup of a local pod, if it was found.
    #[must_use]
    pub fn cgroup_of(&self, uid: &str) -> Option<&Path> {
        self.known.get(uid)?.cgroup()
    }

    /// The UID that the node knows, of the pod that an object speaks for.
    #[must_use]
    pub fn node_uid_of(&self, uid: &str) -> Option<&str> {
        Some(self.known.get(uid)?.uid().as_str())
    }

    /// How a local pod is: a word, and why.
    #[must_use]
    pub fn state_of(&self, uid: &str) -> Option<(&'static str, Option<String>)> {
        Some(self.known.get(uid)?.state())
    }

    /// What is wrong with single pods, in words: each once.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems: BTreeMap<&str, String> =
            self.stuck.iter().map(|(uid, why)| (uid.as_str(), format!("pod {uid}: {why}"))).collect();
        for known in self.known.values() {
            let node_uid = known.uid().as_str();
            if let Some(why) = known.problem() {
                problems.insert(node_uid, format!("pod {}: {why}", known.name()));
            } else if let Some(why) = self.stuck.get(node_uid) {
                problems.insert(node_uid, format!("pod {}: {why}", known.name()));
            }
        }
        problems.into_values().collect()
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

    /// When a pod that is not as wanted should be looked at again.
    #[must_use]
    pub fn next_look(&self) -> Option<Instant> {
        let news = self.watch.has_news().then(Instant::now);
        self.known.values().filter_map(Known::next).chain(news).chain(self.containers.next()).min()
    }

    /// Why news of pods may come late, if they may.
    #[must_use]
    pub fn blindness(&self) -> Option<&str> {
        self.watch.blindness()
    }

    /// Takes in what the watch has seen. Returns whether the host's links are concerned.
    pub fn notice(&mut self) -> bool {
        self.watch.notice_host()
    }
}
