//! `balancing-agent controller`: what concerns the whole cluster. Several replicas run, one is elected.
//!
//! It has an identity of its own and needs no right on a host; it touches no kernel object.

use std::{io, sync::Arc};

use balancing_core::source::SourceStatus;
use balancing_kube::{
    client::{ClientError, Connection, connect},
    cluster::{self, ClusterStats, Context},
    source::{Delivery, KubeSource, Scope},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    config::ControllerConfig,
    feed::BATCHES,
    http::{self, HttpError},
    listen::BindError,
};

/// Why the controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Health and metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The addresses of both.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// Runs until SIGTERM or SIGINT; then the Lease is given back.
///
/// # Errors
/// What keeps the controller from starting.
pub async fn run(config: ControllerConfig) -> Result<(), ControllerError> {
    let connection = connect(config.kubeconfig.as_deref()).await?;
    let namespace = config.namespace.clone().unwrap_or_else(|| connection.namespace.clone());
    let bound = config.listen.bind()?;
    let receive = |kind| signal(kind).map_err(ControllerError::Signals);
    let (mut terminate, mut interrupt) =
        (receive(SignalKind::terminate())?, receive(SignalKind::interrupt())?);
    let stats = Arc::new(ClusterStats::default());
    let addresses = bound.addresses();
    let http = http::start(bound, http::controller(Arc::clone(&stats)))?;
    let identity = identity(&config.name);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, ?config, "started");
    http::tell(addresses);
    let context = Context {
        client: connection.client.clone(),
        namespace: namespace.clone(),
        identity,
        source: || whole_cluster(&connection, &namespace),
        stats,
    };
    cluster::run(context, async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await;
    http.stop().await;
    tracing::info!("stopped; another replica takes over");
    Ok(())
}

/// The name of the pod or host and a random part: a name alone may come back, or stand twice.
fn identity(name: &str) -> String {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    format!("{name}_{:08x}", RandomState::new().build_hasher().finish() as u32)
}

/// The source of one term; it ends when the receiver is dropped.
fn whole_cluster(connection: &Connection, namespace: &str) -> mpsc::Receiver<Delivery> {
    let (batches, receiver) = mpsc::channel(BATCHES);
    let source = KubeSource::new(connection, &Scope::Cluster, namespace);
    // The source logs what is wrong itself.
    let (status, _) = watch::channel(SourceStatus::default());
    tokio::spawn(source.run(batches, status, std::future::pending()));
    receiver
}
