//! Serves one listener: one request a connection, few connections at once, little time for each.

use std::{net::TcpListener, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: u32 = 8;
/// Longest life of a connection, from the first byte of the request to the last one of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for the head of a request in bytes; bodies are not read.
const HEAD: usize = 16 << 10;
/// Wait after a connection could not be accepted, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopping` closes, and answers what is under way then.
pub(super) async fn serve(listener: Option<TcpListener>, routes: Router, mut stopping: watch::Receiver<()>) {
    let Some(listener) = listener else { return };
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("HTTP is not served: {error}"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            _ = stopping.changed() => break,
        };
        let Some((stream, place)) = accepted else { continue };
        let routes = routes.clone();
        tokio::spawn(async move {
            let _place = place;
            let connection = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(HEAD)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
            match timeout(PATIENCE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("HTTP connection: {error}"),
                Err(elapsed) => tracing::debug!("HTTP connection: {elapsed}"),
            }
        });
    }
    drop(listener);
    // Every place is free again when every answer is given; whoever stops the server sets the limit.
    drop(places.acquire_many(CONNECTIONS).await);
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::debug!("HTTP connection: {error}");
            sleep(PAUSE).await;
            None
        }
    }
}
