//! The agent's socket, asked: one request a connection, and what follows its answer.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use balancing_core::control::{Answer, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;

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
    /// The socket is root's.
    #[error("permission denied at the agent's socket {path}: run this as root", path = path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody served the socket, and is gone.
    #[error("the agent at {path} ended before it answered", path = path.display())]
    Ended {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody serves the socket, and is held up.
    #[error(
        "the agent at {path} did not answer within {seconds} s: it hangs or is very busy; see its log and /healthz",
        path = path.display(), seconds = patience.as_secs()
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// So long it was waited for.
        patience: Duration,
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
    ask_within(PATIENCE, path, request)
}

fn ask_within<T: DeserializeOwned>(
    patience: Duration,
    path: &Path,
    request: &Request,
) -> Result<T, AskError> {
    let (value, _) = call(patience, path, request)?;
    serde_json::from_value(value).map_err(|source| AskError::Answer { path: path.to_owned(), source })
}

/// Asks the agent for lines that follow its answer. Reading them waits as long as it takes.
///
/// # Errors
/// No agent, or one that refuses.
pub fn follow(path: &Path, request: &Request) -> Result<BufReader<UnixStream>, AskError> {
    let (_, stream) = call(PATIENCE, path, request)?;
    let waits = stream.get_ref().set_read_timeout(None);
    waits.map_err(|source| AskError::Down { path: path.to_owned(), source })?;
    Ok(stream)
}

fn call(
    patience: Duration,
    path: &Path,
    request: &Request,
) -> Result<(Value, BufReader<UnixStream>), AskError> {
    let down = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            AskError::Silent { path: path.to_owned(), patience }
        }
        io::ErrorKind::PermissionDenied => AskError::Denied { path: path.to_owned() },
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            AskError::Ended { path: path.to_owned() }
        }
        _ => AskError::Down { path: path.to_owned(), source },
    };
    let unreadable = |source| AskError::Answer { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(down)?;
    stream.set_read_timeout(Some(patience)).map_err(down)?;
    stream.set_write_timeout(Some(patience)).map_err(down)?;
    let mut text = serde_json::to_string(request).map_err(unreadable)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(down)?;
    let (mut line, mut stream) = (String::new(), BufReader::new(stream));
    stream.read_line(&mut line).map_err(down)?;
    if !line.ends_with('\n') {
        return Err(AskError::Ended { path: path.to_owned() });
    }
    match serde_json::from_str(&line).map_err(unreadable)? {
        Answer::Ok(value) => Ok((value, stream)),
        Answer::Error(message) => Err(AskError::Refused(message)),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn an_agent_that_hangs_is_not_called_absent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let ask = || ask_within::<()>(Duration::from_millis(10), &path, &Request::Agent).unwrap_err();
        assert!(matches!(ask(), AskError::Down { .. }));
        let _hangs = UnixListener::bind(&path).unwrap();
        let error = ask();
        assert!(matches!(error, AskError::Silent { .. }), "{error}");
        let path = directory.path().join("ends.sock");
        let ends = UnixListener::bind(&path).unwrap();
        let agent = thread::spawn(move || drop(ends.accept().unwrap()));
        let error = ask_within::<()>(PATIENCE, &path, &Request::Agent).unwrap_err();
        assert!(matches!(error, AskError::Ended { .. }), "{error}");
        agent.join().unwrap();
        let patient = AskError::Silent { path: "/run/a.sock".into(), patience: PATIENCE };
        assert!(patient.to_string().contains("at /run/a.sock did not answer within 10 s"), "{patient}");
    }
}
