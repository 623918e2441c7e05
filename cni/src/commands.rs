//! The commands of the protocol. Each returns what belongs on stdout.

use crate::{
    Request,
    environment::Command,
    error::{CniError, Code},
    version::{self, Version},
};

mod add;
mod check;
mod del;
mod gc;
mod status;

/// How long another writer of the same pod may take.
const LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

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
