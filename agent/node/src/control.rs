//! Serves the agent's socket: one JSON request a connection, one JSON answer; for a monitor a stream follows. Mode 0600, read-only.
//!
//! It only carries requests to the agent's loop; it decides nothing. What goes over the socket is told in
//! [`balancing_core::control`].

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream as AsyncStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    fabric::check::check,
    metrics::Sample,
    monitor::{Listener, Monitors},
};
use balancing_core::{
    control::{Answer, Request},
    monitor::Filter,
};
use balancing_dataplane::tables::TableError;
use serde_json::Value;

/// Longest request in bytes.
const REQUEST: u64 = 64 << 10;
/// Connections served at once.
const CONNECTIONS: usize = 16;
/// Longest wait for the other end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request on its way to the agent's loop, with where the answer goes.
pub enum Pending {
    /// A command asks over the socket.
    Ask {
        /// What is asked.
        request: Request,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Value, serde_json::Error>>,
    },
    /// What the metrics say.
    Sample(oneshot::Sender<Box<Sample>>),
    /// The programs shall write events, or not.
    Events {
        /// Somebody listens.
        on: bool,
        /// Told when it is so.
        done: oneshot::Sender<Result<(), TableError>>,
    },
}

/// Whom connections talk to.
#[derive(Clone)]
struct Inside {
    requests: mpsc::Sender<Pending>,
    monitors: Monitors,
}

/// A connection that stays after its answer.
struct Stream {
    listener: Listener,
    filter: Filter,
    connection: AsyncStream,
}

/// Why the socket cannot be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be made.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// The socket or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Binds the socket in place of one that a dead agent left.
///
/// # Errors
/// When the directory is not writable.
pub fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |operation| {
        let path = path.to_owned();
        move |source| ControlError::Socket { operation, path, source }
    };
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed("listen at"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("restrict"))?;
    Ok(listener)
}

/// Serves until the loop is gone.
pub async fn serve(listener: UnixListener, requests: mpsc::Sender<Pending>, monitors: Monitors) {
    let inside = Inside { requests, monitors };
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let inside = inside.clone();
                tokio::spawn(async move {
                    let served = timeout(PATIENCE, inside.answer(stream)).await.map_err(io::Error::from);
                    // A stream has a place of its own.
                    drop((place, inside));
                    let ended = match served.flatten() {
                        Ok(Some(stream)) => stream.listener.tell(stream.connection, &stream.filter).await,
                        Ok(None) => Ok(()),
                        Err(error) => Err(error),
                    };
                    if let Err(error) = ended {
                        tracing::debug!("control connection: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Inside {
    /// Answers one request. What is to be told after that is returned.
    async fn answer(&self, connection: AsyncStream) -> io::Result<Option<Stream>> {
        let mut line = String::new();
        let mut connection = tokio::io::BufReader::new(connection);
        (&mut connection).take(REQUEST).read_line(&mut line).await?;
        let mut connection = connection.into_inner();
        let (answer, listening) = match serde_json::from_str(&line) {
            Ok(Request::Monitor(filter)) => match self.monitors.join().await {
                Ok(listener) => (Answer::Ok(Value::Null), Some((listener, filter))),
                Err(error) => (Answer::Error(error.to_string()), None),
            },
            Ok(Request::FabricCheck { peer }) => (self.check(peer.as_deref()).await, None),
            Ok(request) => (self.ask(request).await, None),
            Err(error) => (Answer::Error(format!("the request cannot be read: {error}")), None),
        };
        let mut text = serde_json::to_string(&answer).map_err(io::Error::other)?;
        text.push('\n');
        connection.write_all(text.as_bytes()).await?;
        Ok(listening.map(|(listener, filter)| Stream { listener, filter, connection }))
    }

    /// Asks members of the fabric, which the data-plane thread must not wait for.
    async fn check(&self, peer: Option<&str>) -> Answer {
        let view = match self.ask(Request::Fabric).await {
            Answer::Ok(value) => serde_json::from_value(value).map_err(|error| error.to_string()),
            Answer::Error(error) => Err(error),
        };
        let checked = match view {
            Ok(view) => check(&view, peer).await,
            Err(error) => Err(error),
        };
        match checked.map(serde_json::to_value) {
            Ok(Ok(value)) => Answer::Ok(value),
            Ok(Err(error)) => Answer::Error(error.to_string()),
            Err(error) => Answer::Error(error),
        }
    }

    async fn ask(&self, request: Request) -> Answer {
        let (sender, receiver) = oneshot::channel();
        let pending = Pending::Ask { request, answer: sender };
        match (self.requests.send(pending).await, receiver.await) {
            (Ok(()), Ok(Ok(value))) => Answer::Ok(value),
            (Ok(()), Ok(Err(error))) => Answer::Error(error.to_string()),
            _ => Answer::Error("the agent is stopping".to_owned()),
        }
    }
}
