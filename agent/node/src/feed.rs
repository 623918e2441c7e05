//! Starts the source that the settings name, and what goes with it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::error::RunError;
use crate::{config::SourceConfig, dir::DirSource, metrics::WatchSample};
use balancing_core::health::Health;
use balancing_core::{
    resolve::{Role, Settings},
    source::{Batch, SourceStatus},
};
use balancing_kube::source::{KubeSource, Scope, WatchStats, stored::StateDir};
use balancing_kube::{
    client::{Connection, connect},
    events::{
        Events,
        fabric::{FabricEvents, Troubles},
    },
    member::{Membership, Report, Wish},
};

/// Batches that wait for the consumer; a source that is faster waits.
pub(crate) const BATCHES: usize = 16;

/// A source at work.
pub(crate) struct Feed {
    /// Ends only when it is aborted.
    task: JoinHandle<()>,
    pub(crate) counters: Counters,
    /// Write Events; a directory has no place for them.
    events: Vec<JoinHandle<()>>,
    /// Writes what this host is in the fabric; in a directory an administrator does.
    member: Option<JoinHandle<()>>,
    /// How that goes.
    pub(crate) membership: watch::Receiver<Report>,
}

/// What is counted beside the loop.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    watches: Option<Arc<WatchStats>>,
}

/// What those listen to that write to the API server.
pub(crate) struct Tasks {
    /// Policies that fail.
    pub(crate) health: watch::Receiver<Health>,
    /// What keeps this host out of its fabric.
    pub(crate) troubles: watch::Receiver<Troubles>,
    /// What it wants to be there.
    pub(crate) wishes: watch::Receiver<Wish>,
}

/// A source that can be started: its settings are good.
pub(crate) enum Origin {
    /// Files below a directory.
    Dir(DirSource),
    /// The API server, and the namespace of the EndpointSlices.
    Kube(Connection, String),
}

impl Origin {
    /// Looks at the settings of the source; nothing is asked or started yet.
    pub(crate) async fn of(config: &SourceConfig) -> Result<Self, RunError> {
        match config {
            SourceConfig::Dir(path) => Ok(Self::Dir(DirSource::new(path)?)),
            SourceConfig::Kube { kubeconfig, namespace } => {
                let connection = connect(kubeconfig.as_deref()).await?;
                let namespace = namespace.clone().unwrap_or_else(|| connection.namespace.clone());
                Ok(Self::Kube(connection, namespace))
            }
        }
    }

    /// Starts the source. It delivers until it is stopped.
    pub(crate) fn start(
        self,
        settings: &Settings,
        state_dir: Option<PathBuf>,
        batches: mpsc::Sender<Batch>,
        status: watch::Sender<SourceStatus>,
        tasks: Tasks,
    ) -> Feed {
        let Tasks { health, troubles, wishes } = tasks;
        let (reports, membership) = watch::channel(Report::default());
        let (connection, namespace) = match self {
            Self::Dir(source) => {
                let task = tokio::spawn(source.run(batches, status, std::future::pending()));
                return Feed {
                    task,
                    counters: Counters::default(),
                    events: Vec::new(),
                    member: None,
                    membership,
                };
            }
            Self::Kube(connection, namespace) => (connection, namespace),
        };
        let scope = match settings.role {
            Role::Node => Scope::Node { name: settings.node_name.clone() },
            Role::External => Scope::External { name: settings.node_name.clone() },
            Role::Cluster => Scope::Cluster,
        };
        let source = KubeSource::new(&connection, &scope, &namespace);
        let counters = Counters { watches: Some(source.stats()) };
        let task = match state_dir {
            Some(path) => {
                let dir = StateDir { path, host: settings.node_name.clone(), namespace: namespace.clone() };
                tokio::spawn(source.run_stored(dir, batches, status))
            }
            None => tokio::spawn(source.run(batches, status, std::future::pending())),
        };
        let node = (settings.role == Role::Node).then(|| settings.node_name.clone());
        let member = Membership::new(connection.client.clone(), node, &namespace);
        let name = &settings.node_name;
        let over = ("Joined", format!("{name} has joined"));
        let of_fabric = FabricEvents::new(connection.client.clone(), name, Some(over));
        let events = Events::new(connection.client, name);
        Feed {
            task,
            counters,
            events: vec![tokio::spawn(events.run(health)), tokio::spawn(of_fabric.run(troubles))],
            member: Some(tokio::spawn(member.run(wishes, reports))),
            membership,
        }
    }
}

impl Feed {
    /// Ends the source.
    pub(crate) fn stop(self) {
        self.task.abort();
        for task in self.events.into_iter().chain(self.member) {
            task.abort();
        }
    }
}

impl Counters {
    /// Seconds since the API server last said anything; `None` for a directory, and before its first word.
    pub(crate) fn last_contact(&self) -> Option<u64> {
        let heard = self.watches.as_ref()?.last_event()?.as_second();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(now.saturating_sub(u64::try_from(heard).ok()?))
    }

    /// The watches of the API server, by kind.
    pub(crate) fn watches(&self) -> BTreeMap<&'static str, WatchSample> {
        let kinds = self.watches.iter().flat_map(|watches| watches.kinds());
        let sample = kinds.map(|kind| {
            let (events, relists, errors) = (kind.events(), kind.relists(), kind.errors());
            (kind.kind(), WatchSample { events, relists, errors })
        });
        sample.collect()
    }
}
