//! Starts the source that the settings name, and with an API server the part in the duties of the elected agent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::run::{BATCHES, RunError};
use crate::{
    config::SourceConfig,
    dir::DirSource,
    metrics::{ClusterSample, WatchSample, WriteSample},
};
use balancing_core::health::Health;
use balancing_core::{
    resolve::{Role, Settings},
    source::{Batch, SourceStatus},
};
use balancing_kube::source::{KubeSource, Scope, WatchStats};
use balancing_kube::{
    client::{Connection, connect},
    cluster::{self, ClusterStats, Context},
    events::Events,
};

/// A source at work.
pub(crate) struct Feed {
    /// Ends only when it is aborted.
    task: JoinHandle<()>,
    pub(crate) counters: Counters,
    /// Writes Events; a directory has no place for them.
    events: Option<JoinHandle<()>>,
    /// The part in the duties; agents outside the cluster and without one have none.
    duties: Option<Duties>,
}

/// What is counted beside the loop.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    watches: Option<Arc<WatchStats>>,
    duties: Option<Arc<ClusterStats>>,
}

/// Takes part in the election, and does what the elected agent does.
struct Duties {
    task: JoinHandle<()>,
    /// Its end asks the task to give the Lease back and end.
    stop: oneshot::Sender<()>,
}

/// A source that can be started: its settings are good.
pub(crate) enum Origin {
    /// Files below a directory.
    Dir(DirSource),
    /// The API server, and the namespace of what the agents share.
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
        batches: mpsc::Sender<Batch>,
        status: watch::Sender<SourceStatus>,
        health: watch::Receiver<Health>,
    ) -> Feed {
        let (connection, namespace) = match self {
            Self::Dir(source) => {
                let task = tokio::spawn(source.run(batches, status, std::future::pending()));
                return Feed { task, counters: Counters::default(), events: None, duties: None };
            }
            Self::Kube(connection, namespace) => (connection, namespace),
        };
        let scope = match settings.role {
            Role::Node => Scope::Node { name: settings.node_name.clone() },
            Role::External => Scope::External,
            Role::Cluster => Scope::Cluster,
        };
        let source = KubeSource::new(&connection, &scope, &namespace);
        let mut counters = Counters { watches: Some(source.stats()), duties: None };
        let task = tokio::spawn(source.run(batches, status, std::future::pending()));
        let duties = (settings.role == Role::Node).then(|| {
            let stats = Arc::clone(counters.duties.get_or_insert_default());
            Duties::start(&connection, &namespace, &settings.node_name, stats)
        });
        let events = Events::new(connection.client, &settings.node_name);
        Feed { task, counters, events: Some(tokio::spawn(events.run(health))), duties }
    }
}

impl Feed {
    /// Ends the source, and hands over to another agent in an orderly way.
    pub(crate) async fn stop(self) {
        self.task.abort();
        if let Some(events) = self.events {
            events.abort();
        }
        if let Some(Duties { task, stop }) = self.duties {
            drop(stop);
            if let Err(error) = task.await {
                tracing::error!("the duties of the elected agent ended: {error}");
            }
        }
    }
}

impl Counters {
    /// The watches of the API server, by kind.
    pub(crate) fn watches(&self) -> BTreeMap<&'static str, WatchSample> {
        let kinds = self.watches.iter().flat_map(|watches| watches.kinds());
        let sample = kinds.map(|kind| {
            let (events, relists, errors) = (kind.events(), kind.relists(), kind.errors());
            (kind.kind(), WatchSample { events, relists, errors })
        });
        sample.collect()
    }

    /// The duties of the elected agent, if this one takes part.
    pub(crate) fn duties(&self) -> Option<ClusterSample> {
        let stats = self.duties.as_ref()?;
        let write = |done: &AtomicU64, failed: &AtomicU64| WriteSample {
            done: done.load(Relaxed),
            failed: failed.load(Relaxed),
        };
        let writes = [
            ("endpointslice", write(&stats.slice_writes, &stats.slice_errors)),
            ("status", write(&stats.status_writes, &stats.status_errors)),
        ];
        Some(ClusterSample { leader: stats.is_leader.load(Relaxed), writes: writes.into() })
    }
}

impl Duties {
    fn start(connection: &Connection, namespace: &str, node_name: &str, stats: Arc<ClusterStats>) -> Self {
        let (connection_of_term, namespace_of_term) = (connection.clone(), namespace.to_owned());
        let context = Context {
            client: connection.client.clone(),
            namespace: namespace.to_owned(),
            node_name: node_name.to_owned(),
            source: move || whole_cluster(&connection_of_term, &namespace_of_term),
            stats,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(cluster::run(context, async {
            // Nothing is ever sent: the end of the sender is the signal.
            stopped.await.ok();
        }));
        Self { task, stop }
    }
}

/// The source of one term; it ends when the receiver is dropped. What is wrong with the API server is told by the
/// source of the node.
fn whole_cluster(connection: &Connection, namespace: &str) -> mpsc::Receiver<Batch> {
    let (batches, receiver) = mpsc::channel(BATCHES);
    let source = KubeSource::new(connection, &Scope::Cluster, namespace);
    let status = watch::Sender::new(SourceStatus::default());
    tokio::spawn(source.run(batches, status, std::future::pending()));
    receiver
}
