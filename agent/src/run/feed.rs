//! Starts the source that the settings name.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::RunError;
use crate::{
    client::{Connection, connect},
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
    pub(super) task: JoinHandle<()>,
    /// The cluster, unless the source is a directory.
    pub(super) cluster: Option<Cluster>,
}

/// The API server and what the agents share there.
pub(super) struct Cluster {
    /// How to reach it.
    pub(super) connection: Connection,
    /// Namespace of the Lease and the EndpointSlices.
    pub(super) namespace: String,
    /// What the watches did.
    pub(super) watches: Arc<WatchStats>,
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
            Ok(Feed { task, cluster: Some(Cluster { connection, namespace, watches }) })
        }
    }
}
