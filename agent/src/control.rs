//! The agent's socket: one JSON request a connection, one JSON answer. Mode 0600, read-only.
//!
//! Both ends are here, so that they cannot drift apart. The server only carries requests to the agent's loop; it decides
//! nothing.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use balancing_dataplane::model::{FrontendKey, Protocol};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream as AsyncStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{metrics::Sample, objects::ObjectRef, view::KeyView};

/// Longest request in bytes.
const REQUEST: u64 = 64 << 10;
/// Connections served at once.
const CONNECTIONS: usize = 16;
/// Longest wait for the other end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase")]
pub enum Request {
    /// [`crate::view::AgentView`]
    Agent,
    /// List of [`crate::view::PolicyView`]
    Policies,
    /// List of [`crate::view::Origin`]
    Origins,
    /// List of [`crate::view::PodName`]
    Pods,
    /// [`crate::explain::Explanation`]
    Explain {
        /// The frontend.
        frontend: KeyView,
        /// Namespace and name of the client.
        pod: Option<(String, String)>,
    },
}

impl Request {
    /// The frontend and client of `Explain` in plain types.
    #[must_use]
    pub fn explain_key(frontend: &KeyView) -> FrontendKey {
        let protocol = if frontend.protocol == "UDP" { Protocol::Udp } else { Protocol::Tcp };
        FrontendKey { address: frontend.address, port: frontend.port, protocol }
    }

    /// A namespace and name as a reference.
    #[must_use]
    pub fn pod_ref(pod: &(String, String)) -> ObjectRef {
        ObjectRef { namespace: pod.0.clone(), name: pod.1.clone() }
    }
}

/// An answer as it goes over the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Ok(serde_json::Value),
    Error(String),
}

/// A request on its way to the agent's loop, with where the answer goes.
pub enum Pending {
    /// A command asks over the socket.
    Ask {
        /// What is asked.
        request: Request,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<serde_json::Value, serde_json::Error>>,
    },
    /// Why the agent is not ready, one line a reason; empty when it is.
    Unready(oneshot::Sender<Vec<String>>),
    /// What the metrics say.
    Sample(oneshot::Sender<Box<Sample>>),
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
    /// Nobody serves the socket.
    #[error("no agent answers at {path}: {source}; is balancing-agent running with this --run-dir?", path = path.display())]
    Down {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("the agent's answer at {path} cannot be read: {source}; are agent and command of the same version?", path = path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The agent refused.
    #[error("the agent says: {0}")]
    Refused(String),
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
pub async fn serve(listener: UnixListener, requests: mpsc::Sender<Pending>) {
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    let _place = place;
                    match timeout(PATIENCE, answer(stream, requests)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!("control connection: {error}"),
                        Err(elapsed) => tracing::debug!("control connection: {elapsed}"),
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

async fn answer(stream: AsyncStream, requests: mpsc::Sender<Pending>) -> io::Result<()> {
    let mut line = String::new();
    let mut stream = tokio::io::BufReader::new(stream);
    (&mut stream).take(REQUEST).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (sender, receiver) = oneshot::channel();
            let pending = Pending::Ask { request, answer: sender };
            match (requests.send(pending).await, receiver.await) {
                (Ok(()), Ok(Ok(value))) => Answer::Ok(value),
                (Ok(()), Ok(Err(error))) => Answer::Error(error.to_string()),
                _ => Answer::Error("the agent is stopping".to_owned()),
            }
        }
        Err(error) => Answer::Error(format!("the request cannot be read: {error}")),
    };
    let mut text = serde_json::to_string(&answer).map_err(io::Error::other)?;
    text.push('\n');
    stream.get_mut().write_all(text.as_bytes()).await
}

/// Asks the agent.
///
/// # Errors
/// No agent, or an answer that cannot be used.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ControlError> {
    let down = |source| ControlError::Down { path: path.to_owned(), source };
    let unreadable = |source| ControlError::Answer { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(down)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(down)?;
    let mut text = serde_json::to_string(request).map_err(unreadable)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(down)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(down)?;
    match serde_json::from_str(&line).map_err(unreadable)? {
        Answer::Ok(value) => serde_json::from_value(value).map_err(unreadable),
        Answer::Error(message) => Err(ControlError::Refused(message)),
    }
}
