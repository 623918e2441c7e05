//! Connecting through io_uring, as runtimes built on it do.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
};

use nix::errno::Errno;
use tokio_uring::Runtime;

use super::errno;

/// Whether the kernel has io_uring and lets this process use it.
pub(super) fn available() -> bool {
    Runtime::new(&tokio_uring::builder()).is_ok()
}

/// `IORING_OP_CONNECT` on the socket. The standard library's UDP type only carries the descriptor: the
/// operation is the same for TCP.
pub(super) fn connect(socket: OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    let Ok(runtime) = Runtime::new(&tokio_uring::builder()) else { return Err(Errno::ENOSYS) };
    runtime.block_on(async {
        let socket = tokio_uring::net::UdpSocket::from_std(UdpSocket::from(socket));
        socket.connect(to).await.map_err(errno)
    })
}
