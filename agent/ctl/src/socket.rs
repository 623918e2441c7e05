//! The agent's socket, asked: one request a connection.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use balancing_core::control::{Answer, Request};
use serde::de::DeserializeOwned;

/// Longest wait for the agent.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
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

/// Asks the agent.
///
/// # Errors
/// No agent, or an answer that cannot be used.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, AskError> {
    let down = |source| AskError::Down { path: path.to_owned(), source };
    let unreadable = |source| AskError::Answer { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(down)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(down)?;
    let mut text = serde_json::to_string(request).map_err(unreadable)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(down)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(down)?;
    match serde_json::from_str(&line).map_err(unreadable)? {
        Answer::Ok(value) => serde_json::from_value(value).map_err(unreadable),
        Answer::Error(message) => Err(AskError::Refused(message)),
    }
}
