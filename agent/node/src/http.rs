//! The HTTP side of the agent: health for the kubelet, metrics for Prometheus. Read-only, without authentication.
//!
//! It runs on a thread of its own and asks the agent's loop for everything, so a loop that hangs is told and a scraper
//! can hold up neither the loop nor a probe: connections, requests and answers are bounded in number, size and time.

use std::{sync::Arc, time::Duration};

use axum::Router;
use balancing_kube::cluster::ClusterStats;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    control::Pending,
    listen::{Addresses, Bound},
    probe::Probe,
};

mod routes;
mod serve;
#[cfg(test)]
mod tests;

/// How long answers that are under way may take when the agent stops.
const GRACE: Duration = Duration::from_secs(2);

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The thread cannot start.
    #[error("cannot start the thread of --http and --metrics: {0}")]
    Thread(std::io::Error),
}

/// A running server. Dropped, it stops at once.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

/// What is served at either address.
#[derive(Debug)]
pub struct Pages {
    health: Router,
    metrics: Router,
}

/// The pages of an agent.
#[must_use]
pub fn agent(requests: mpsc::Sender<Pending>, probe: Probe) -> Pages {
    Pages { health: routes::health(probe), metrics: routes::metrics(requests) }
}

/// The pages of a controller.
#[must_use]
pub fn controller(stats: Arc<ClusterStats>) -> Pages {
    Pages {
        health: routes::controller_health(Arc::clone(&stats)),
        metrics: routes::controller_metrics(stats),
    }
}

/// Logs what is served where.
pub(crate) fn tell(Addresses { http, metrics }: Addresses) {
    let (health, metrics) = (http.map(tracing::field::display), metrics.map(tracing::field::display));
    tracing::info!(http = health, metrics, "listening");
}

/// Serves until the server is stopped.
///
/// # Errors
/// The thread cannot start.
pub fn start(bound: Bound, Pages { health, metrics }: Pages) -> Result<Server, HttpError> {
    let (stop, stopping) = watch::channel(());
    let (done, stopped) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(HttpError::Thread)?;
    let serve = move || {
        runtime.block_on(async {
            tokio::join!(
                serve::serve(bound.http, health, stopping.clone()),
                serve::serve(bound.metrics, metrics, stopping),
            )
        });
        // The other end may have lost its patience.
        drop(done);
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(serve).map_err(HttpError::Thread)?;
    Ok(Server { stop, stopped })
}

impl Server {
    /// Takes no more connections and waits a moment for answers that are under way.
    pub async fn stop(self) {
        drop(self.stop);
        if timeout(GRACE, self.stopped).await.is_err() {
            tracing::debug!("requests over HTTP are cut off");
        }
    }
}
