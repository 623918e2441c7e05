//! The commands of the protocol. Each returns what belongs on stdout.

use std::time::Duration;

use crate::{
    Request,
    config::FailurePolicy,
    environment::Command,
    error::{CniError, Code},
    version::{self, Version},
};

mod add;
mod check;
mod del;
mod gc;
mod status;

/// How long another writer of the same pod may take where the pod must not start without links.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// The same where the agent attaches or sweeps the pod later: the agent holds a lock for some milliseconds.
const SHORT_PATIENCE: Duration = Duration::from_millis(100);

/// Runs the command of a request.
pub(crate) fn run(request: &Request<'_>) -> Result<String, CniError> {
    let silent = |()| String::new();
    match request.environment.command {
        Command::Add => add::run(request),
        Command::Del => {
            del::run(request);
            Ok(String::new())
        }
        Command::Check => since(request, Version::V0_4_0).and_then(|()| check::run(request)).map(silent),
        Command::Status => since(request, Version::V1_1_0).and_then(|()| status::run(request)).map(silent),
        Command::Gc => since(request, Version::V1_1_0).and_then(|()| gc::run(request)).map(silent),
        Command::Version => Ok(version::reply(Some(request.config.version))),
    }
}

/// How long a call waits for another writer of its pod.
fn lock_patience(request: &Request<'_>) -> Duration {
    match request.config.failure_policy {
        FailurePolicy::Fail => LONG_PATIENCE,
        FailurePolicy::Ignore => SHORT_PATIENCE,
    }
}

/// Refuses a command that the configuration's version does not have.
fn since(request: &Request<'_>, first: Version) -> Result<(), CniError> {
    let version = request.config.version;
    if version >= first {
        return Ok(());
    }
    let details = format!(
        "{} exists since {}, the configuration is of {}",
        request.environment.command.name(),
        first.as_str(),
        version.as_str()
    );
    Err(CniError::new(Code::Version, "incompatible CNI version", details))
}
