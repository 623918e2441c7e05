//! What the CNI plugin says, in the agent's own log.
//!
//! It only repeats lines; nothing is decided by them, and the agent works as well without.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use balancing_dataplane::plugin_log;
use tokio::{net::UnixDatagram, task::JoinHandle};

/// Pause after a failure of the socket.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until the task is aborted. `None`, which is logged: the plugin's lines are in its own log alone.
pub(crate) fn start(run_dir: &Path) -> Option<JoinHandle<()>> {
    let path = plugin_log::socket(run_dir);
    match bind(&path) {
        Ok(socket) => Some(tokio::spawn(repeat(socket))),
        Err(error) => {
            tracing::warn!("cannot listen at {} to what the CNI plugin says: {error}", path.display());
            None
        }
    }
}

/// Binds the socket in place of one that a dead agent left.
fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

async fn repeat(socket: UnixDatagram) {
    let mut datagram = [0; plugin_log::LONGEST];
    loop {
        match socket.recv(&mut datagram).await {
            Ok(length) => tell(&datagram[..length]),
            Err(error) => {
                tracing::warn!("what the CNI plugin says cannot be read: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn tell(datagram: &[u8]) {
    let (level, text) = plugin_log::parse(datagram);
    match level.as_str() {
        "error" => tracing::error!("CNI plugin: {text}"),
        "warn" => tracing::warn!("CNI plugin: {text}"),
        "info" => tracing::info!("CNI plugin: {text}"),
        _ => tracing::debug!("CNI plugin: {text}"),
    }
}
