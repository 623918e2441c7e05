//! Tells that somebody changed a table of ours. What changed is found by a look: an event is only the reason for one.
//!
//! The kernel tells every change of every table; those of others end here. Our own changes are told as well, and cost a look each.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
};

use super::{look, text};
use crate::nat;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// Between two calls at least: a storm of events becomes two calls a second.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
/// Before a socket that failed is read again.
const AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Listens as long as it lives, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Watch {
    changes: Arc<AtomicU64>,
    /// Closing it ends the thread. `None` only while it is dropped.
    stop: Option<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    /// `changed` is called, at most twice a second, after our tables changed, and when events were lost.
    ///
    /// # Errors
    /// When the socket or the thread cannot be made.
    pub fn start(changed: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP)?;
        socket.set_non_blocking(true)?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let changes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&changes);
        let tell = move || {
            counted.fetch_add(1, Ordering::Release);
            changed();
        };
        let listen = move || listen(&socket, &stopped, tell);
        let thread = thread::Builder::new().name("nftables".to_owned()).spawn(listen)?;
        Ok(Self { changes, stop: Some(stop), thread: Some(thread) })
    }

    /// Grows with every call.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that listens to nftables has panicked");
        }
    }
}

/// Calls `changed` until the other end of the pipe is closed.
fn listen(socket: &Socket, stopped: &OwnedFd, changed: impl Fn()) {
    loop {
        if !waits(stopped, Some(socket), None) {
            return;
        }
        let pause = match drain(socket) {
            Ok(false) => continue,
            Ok(true) => PAUSE,
            Err(error) => {
                tracing::warn!(%error, "changes of nftables are noticed late: their events cannot be read");
                AGAIN
            }
        };
        changed();
        if !waits(stopped, None, Some(&pause)) {
            return;
        }
    }
}

/// Waits for an event, or so long; false when the end has come.
fn waits(stopped: &OwnedFd, socket: Option<&Socket>, pause: Option<&Timespec>) -> bool {
    let mut all = vec![PollFd::new(stopped, PollFlags::IN)];
    all.extend(socket.map(|socket| PollFd::new(socket, PollFlags::IN)));
    match poll(&mut all, pause) {
        Ok(_) => all.first().is_some_and(|stop| stop.revents().is_empty()),
        Err(rustix::io::Errno::INTR) => true,
        Err(error) => {
            tracing::error!(%error, "changes of nftables are noticed late: they cannot be waited for");
            false
        }
    }
}

/// Reads all events there are; whether one of them is a reason for a look.
fn drain(socket: &Socket) -> io::Result<bool> {
    let mut matters = false;
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => matters |= look::tables(&datagram).any(|table| is_ours(&table)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(matters),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Some were lost.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => matters = true,
            Err(error) => return Err(error),
        }
    }
}

fn is_ours(table: &str) -> bool {
    table == text::TABLE || table == nat::TABLE
}
