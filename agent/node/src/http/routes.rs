//! What is served: probes from what the data-plane thread said last, scrapes by asking it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

use balancing_kube::cluster::ClusterStats;

use crate::{
    control::Pending,
    metrics::{self, ControllerSample, Sample},
    probe::Probe,
};

/// How long the thread may take for a sample; Prometheus gives up after 10 s by default.
const SAMPLE: Duration = Duration::from_secs(8);
/// Within this time all scrapes get the same text, whoever asks how often.
const FRESH: Duration = Duration::from_secs(1);

/// `/healthz` and `/readyz`.
pub(super) fn health(probe: Probe) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(probe)
}

/// `/metrics`.
pub(super) fn metrics(requests: mpsc::Sender<Pending>) -> Router {
    let scrapes = Scrapes { requests, last: Mutex::new(None) };
    Router::new().route("/metrics", get(scrape)).with_state(Arc::new(scrapes))
}

async fn healthz(State(probe): State<Probe>) -> Response {
    match probe.hanging() {
        None => "ok\n".into_response(),
        Some(why) => unavailable(&[why]),
    }
}

async fn readyz(State(probe): State<Probe>) -> Response {
    match probe.unready() {
        reasons if reasons.is_empty() => "ok\n".into_response(),
        reasons => unavailable(&reasons),
    }
}

/// `/healthz` and `/readyz` of a controller: ready is who can take over, elected or not.
pub(super) fn controller_health(stats: Arc<ClusterStats>) -> Router {
    let ready = async |State(stats): State<Arc<ClusterStats>>| match stats.has_contact.load(Relaxed) {
        true => "ok\n".into_response(),
        false => unavailable(&["the API server does not answer; the log says why".to_owned()]),
    };
    let healthy = async || "ok\n".into_response();
    Router::new().route("/healthz", get(healthy)).route("/readyz", get(ready)).with_state(stats)
}

/// `/metrics` of a controller.
pub(super) fn controller_metrics(stats: Arc<ClusterStats>) -> Router {
    let scrape =
        async |State(stats): State<Arc<ClusterStats>>| text(metrics::encode(ControllerSample::from(&*stats)));
    Router::new().route("/metrics", get(scrape)).with_state(stats)
}

/// An exposition as an answer.
fn text(text: Result<String, std::fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response(),
    }
}

fn unavailable(reasons: &[String]) -> Response {
    let lines: String = reasons.iter().map(|reason| format!("{}\n", reason.replace('\n', " "))).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

/// Asks the thread; `None` = it did not answer in time, or is gone.
async fn ask<T>(
    requests: &mpsc::Sender<Pending>,
    patience: Duration,
    pending: impl FnOnce(oneshot::Sender<T>) -> Pending,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let answer = async {
        requests.send(pending(sender)).await.ok()?;
        receiver.await.ok()
    };
    timeout(patience, answer).await.ok()?
}

fn hanging() -> Response {
    unavailable(&["the data-plane thread does not answer".to_owned()])
}

/// Everybody who scrapes.
struct Scrapes {
    requests: mpsc::Sender<Pending>,
    /// The last text and its age. Whoever makes a new one holds the lock.
    last: Mutex<Option<(Instant, Bytes)>>,
}

async fn scrape(State(scrapes): State<Arc<Scrapes>>) -> Response {
    let mut last = scrapes.last.lock().await;
    let text = match &*last {
        Some((at, text)) if at.elapsed() < FRESH => text.clone(),
        _ => {
            let sample: Option<Box<Sample>> = ask(&scrapes.requests, SAMPLE, Pending::Sample).await;
            let Some(sample) = sample else { return hanging() };
            let Ok(text) = metrics::encode(*sample) else {
                return (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n")
                    .into_response();
            };
            let text = Bytes::from(text);
            *last = Some((Instant::now(), text.clone()));
            text
        }
    };
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
