//! Starts the source that the settings name, and with an API server the part in the duties of the elected agent.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{BATCHES, RunError};
use crate::{
    client::{Connection, connect},
    cluster::{self, ClusterStats, Context},
    config::{Config, SourceConfig},
    resolve::Role,
    source::{
        Batch, SourceStatus,
        dir::DirSource,
        kube::{KubeSource, Scope, WatchStats},
    },
};

/// A source at work.
pub(super) struct Feed {
    /// Ends only when it is aborted.
    task: JoinHandle<()>,
    /// The cluster, unless the source is a directory.
    pub(super) cluster: Option<Cluster>,
}

/// The API server and what the agents share there.
pub(super) struct Cluster {
    /// How to reach it.
    pub(super) connection: Connection,
    /// What the watches did.
    pub(super) watches: Arc<WatchStats>,
    /// The part in the duties; agents outside the cluster have none.
    pub(super) duties: Option<Duties>,
}

/// Takes part in the election, and does what the elected agent does.
pub(super) struct Duties {
    pub(super) stats: Arc<ClusterStats>,
    task: JoinHandle<()>,
    /// Its end asks the task to give the Lease back and end.
    stop: oneshot::Sender<()>,
}

/// Starts the source. It delivers until it is aborted.
pub(super) async fn start(
    config: &Config,
    batches: mpsc::Sender<Batch>,
    status: watch::Sender<SourceStatus>,
) -> Result<Feed, RunError> {
    match &config.source {
        SourceConfig::Dir(path) => {
            let source = DirSource::new(path)?;
            Ok(Feed { task: tokio::spawn(source.run(batches, status, std::future::pending())), cluster: None })
        }
        SourceConfig::Kube { kubeconfig, namespace } => {
            let connection = connect(kubeconfig.as_deref()).await?;
            let namespace = namespace.clone().unwrap_or_else(|| connection.namespace.clone());
            let scope = match config.settings.role {
                Role::Node => Scope::Node { name: config.settings.node_name.clone() },
                Role::External => Scope::External,
                Role::Cluster => Scope::Cluster,
            };
            let source = KubeSource::new(&connection, &scope, &namespace);
            let watches = source.stats();
            let task = tokio::spawn(source.run(batches, status, std::future::pending()));
            let duties = (config.settings.role == Role::Node)
                .then(|| Duties::start(&connection, &namespace, &config.settings.node_name));
            Ok(Feed { task, cluster: Some(Cluster { connection, watches, duties }) })
        }
    }
}

impl Feed {
    /// Ends the source, and hands over to another agent in an orderly way.
    pub(super) async fn stop(self) {
        self.task.abort();
        if let Some(Duties { task, stop, .. }) = self.cluster.and_then(|cluster| cluster.duties) {
            drop(stop);
            if let Err(error) = task.await {
                tracing::error!("the duties of the elected agent ended: {error}");
            }
        }
    }
}

impl Duties {
    fn start(connection: &Connection, namespace: &str, node_name: &str) -> Self {
        let stats = Arc::new(ClusterStats::default());
        let (connection_of_term, namespace_of_term) = (connection.clone(), namespace.to_owned());
        let context = Context {
            client: connection.client.clone(),
            namespace: namespace.to_owned(),
            node_name: node_name.to_owned(),
            source: move || whole_cluster(&connection_of_term, &namespace_of_term),
            stats: Arc::clone(&stats),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(cluster::run(context, async {
            // Nothing is ever sent: the end of the sender is the signal.
            stopped.await.ok();
        }));
        Self { stats, task, stop }
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
