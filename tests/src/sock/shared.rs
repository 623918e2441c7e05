//! One unconnected UDP socket that several threads use at once.

use std::{
    collections::BTreeMap,
    hint,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use nix::errno::Errno;
use rustix::net::{SendFlags, bind, sendto};
use serde::{Deserialize, Serialize};

use super::{churn::read_name, errno, protocol::Kind, sockets::create};

/// What the threads do: each sends to its own address and receives one answer, which may be another's, over and over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Kind of the sockets.
    pub kind: Kind,
    /// The address of each thread; several threads may have the same.
    pub to: Vec<SocketAddr>,
    /// New sockets, one after the other.
    pub sockets: u64,
    /// Datagrams of each thread on each socket.
    pub datagrams: u64,
}

/// Answers from one address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Heard {
    /// The name that the server gave itself.
    pub name: String,
    /// Where the answer came from, as the socket's owner is told.
    pub from: Option<SocketAddr>,
}

/// Sockets that are open at once.
const AT_ONCE: u64 = 100;

/// All answers, counted. Ends with the first error: an answer that did not come is EAGAIN.
pub(super) fn run(shared: &Shared) -> Result<Vec<(Heard, u64)>, Errno> {
    let mut heard = BTreeMap::new();
    let mut left = shared.sockets;
    while left > 0 {
        let now = left.min(AT_ONCE);
        let sockets: Vec<_> = (0..now).map(|_| open(shared.kind)).collect::<Result<_, Errno>>()?;
        let arrived = AtomicUsize::new(0);
        let all: Vec<_> = thread::scope(|scope| {
            let (sockets, arrived) = (&sockets, &arrived);
            let work = |to| scope.spawn(move || exchange(shared, sockets, to, arrived));
            let threads: Vec<_> = shared.to.iter().map(work).collect();
            let join = |thread: ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        for outcome in all {
            outcome?.into_iter().for_each(|(answer, count)| *heard.entry(answer).or_insert(0) += count);
        }
        left -= now;
    }
    Ok(heard.into_iter().collect())
}

/// A socket with a port. The first send of an IPv6 socket without one binds it in steps: another thread may send in
/// between, and the kernel finds no socket for the answer.
fn open(kind: Kind) -> Result<OwnedFd, Errno> {
    let socket = create(kind)?;
    let any: IpAddr =
        if kind == Kind::Udp4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    bind(&socket, &SocketAddr::new(any, 0)).map_err(errno)?;
    Ok(socket)
}

/// One thread's part: all threads begin with a socket at the same time.
fn exchange(
    shared: &Shared,
    sockets: &[OwnedFd],
    to: &SocketAddr,
    arrived: &AtomicUsize,
) -> Result<BTreeMap<Heard, u64>, Errno> {
    let mut heard = BTreeMap::new();
    let mut failed = None;
    for (number, socket) in (1..).zip(sockets) {
        arrived.fetch_add(1, Ordering::AcqRel);
        meet(arrived, number * shared.to.len());
        // Who failed goes on meeting the others.
        for _ in 0..if failed.is_none() { shared.datagrams } else { 0 } {
            let answer = sendto(socket, b"?", SendFlags::empty(), to).map_err(errno);
            match answer.and_then(|_sent| read_name(socket)) {
                Ok((name, from)) => *heard.entry(Heard { name, from }).or_insert(0) += 1,
                Err(errno) => failed = Some(errno),
            }
        }
    }
    failed.map_or(Ok(heard), Err)
}

/// Spins: a barrier that puts threads to sleep wakes them one after the other, and their first datagrams would never meet.
fn meet(arrived: &AtomicUsize, wanted: usize) {
    let mut tries = 0_u64;
    while arrived.load(Ordering::Acquire) < wanted {
        tries += 1;
        if tries.is_multiple_of(5000) { thread::yield_now() } else { hint::spin_loop() }
    }
}
