//! Connecting through io_uring, as runtimes built on it do.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    panic::resume_unwind,
    thread,
};

use nix::errno::Errno;
use tokio_uring::Runtime;

use super::errno;

/// Whether the kernel has io_uring and lets this process use it.
pub(super) fn available() -> bool {
    thread::spawn(|| Runtime::new(&tokio_uring::builder()).is_ok()).join().unwrap_or(false)
}

/// `IORING_OP_CONNECT` on the socket. The standard library's UDP type only carries the descriptor: the
/// operation is the same for TCP.
///
/// On a thread of its own: a ring's last work interrupts the thread it belongs to, which may by then wait in
/// another call (EINTR).
pub(super) fn connect(socket: OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    thread::spawn(move || connect_here(socket, to)).join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn connect_here(socket: OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    let Ok(runtime) = Runtime::new(&tokio_uring::builder()) else { return Err(Errno::ENOSYS) };
    runtime.block_on(async {
        let socket = tokio_uring::net::UdpSocket::from_std(UdpSocket::from(socket));
        socket.connect(to).await.map_err(errno)
    })
}
