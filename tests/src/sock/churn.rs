//! Connecting over and over, to see what a change does to connections that are being made.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use rustix::net::{RecvFlags, SendFlags, connect, getpeername, recvfrom, send, sendto, sockopt};
use serde::{Deserialize, Serialize};

use super::{errno, protocol::Kind, sockets::create};
use crate::must::Must;

/// One round of a churn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// A new socket connects, learns the server's name and closes. TCP closes with a reset, which leaves
    /// no port waiting.
    Connected,
    /// A new UDP socket sends with sendto(2) and receives with recvfrom(2). An answer from another
    /// address than the one dialled counts as EBADMSG.
    Unconnected,
    /// A new socket connects and closes; nothing is sent. All successes count under one empty name. TCP
    /// closes with a reset.
    ConnectOnly,
    /// As many new sockets connect and are asked for their peer's name in turn, so many times; then they close. The outcome
    /// is every name that was told, with blanks between them.
    Names {
        /// Sockets that are open at once.
        sockets: u32,
        /// How often each is asked.
        times: u32,
    },
}

/// A loop of connections to one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Churn {
    /// Kind of the sockets.
    pub kind: Kind,
    /// Address dialled.
    pub to: SocketAddr,
    /// What happens in a round.
    pub exchange: Exchange,
    /// Threads that loop, at least one.
    pub threads: usize,
    /// How long; with neither this nor `rounds` until the churn is stopped.
    pub duration: Option<Duration>,
    /// How many rounds each thread makes at most.
    pub rounds: Option<u64>,
    /// Whether each round is reported as a [`Sample`].
    pub samples: bool,
    /// Rest of a thread between two rounds; without one a thread takes all of a processor.
    pub pause: Option<Duration>,
    /// How many failed rounds a thread makes at most: each may take as long as a call's time-out.
    pub failures: Option<u64>,
}

impl Churn {
    /// Connected rounds on one thread, without rest and samples, until stopped.
    #[must_use]
    pub fn to(kind: Kind, to: SocketAddr) -> Self {
        Self {
            kind,
            to,
            exchange: Exchange::Connected,
            threads: 1,
            duration: None,
            rounds: None,
            samples: false,
            pause: None,
            failures: None,
        }
    }
}

/// What a churn saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChurnReport {
    /// Successful rounds by the server's name.
    pub peers: BTreeMap<String, u64>,
    /// Failed rounds by the name of the errno, such as `ECONNREFUSED`.
    pub errors: BTreeMap<String, u64>,
    /// Every round, ordered by its beginning, where asked for.
    pub samples: Vec<Sample>,
}

impl ChurnReport {
    /// All successful rounds.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.peers.values().sum()
    }

    fn merge(&mut self, other: Self) {
        for (name, count) in other.peers {
            *self.peers.entry(name).or_default() += count;
        }
        for (name, count) in other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        self.samples.extend(other.samples);
    }

    fn count(&mut self, outcome: &Result<String, Errno>) {
        match outcome {
            Ok(name) => *self.peers.entry(name.clone()).or_default() += 1,
            Err(errno) => *self.errors.entry(format!("{errno:?}")).or_default() += 1,
        }
    }
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When it began, in nanoseconds of the monotonic clock, which all processes share.
    pub began_ns: u64,
    /// When it was over, on the same clock.
    pub ended_ns: u64,
    /// The server's name, or the name of the errno.
    pub outcome: Result<String, String>,
}

/// The threads of a churn.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<ChurnReport>>,
}

impl Running {
    pub(super) fn start(churn: Churn) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..churn.threads.max(1))
            .map(|_| {
                let (churn, stop) = (churn.clone(), Arc::clone(&stop));
                thread::spawn(move || work(&churn, &stop))
            })
            .collect();
        Self { stop, threads }
    }

    /// Waits for the threads; with `stop` they end after their present round.
    pub(super) fn end(self, stop: bool) -> ChurnReport {
        self.stop.fetch_or(stop, Ordering::Relaxed);
        let mut report = ChurnReport::default();
        for thread in self.threads {
            report.merge(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        report.samples.sort_by_key(|sample| sample.began_ns);
        report
    }
}

fn work(churn: &Churn, stop: &AtomicBool) -> ChurnReport {
    let mut report = ChurnReport::default();
    let started = Instant::now();
    let (mut made, mut failed) = (0, 0);
    // The first round is always made, so that a report is never empty.
    loop {
        let began_ns = monotonic_ns();
        let outcome = round(churn);
        report.count(&outcome);
        failed += u64::from(outcome.is_err());
        if churn.samples {
            let outcome = outcome.map_err(|errno| format!("{errno:?}"));
            report.samples.push(Sample { began_ns, ended_ns: monotonic_ns(), outcome });
        }
        made += 1;
        let over = churn.duration.is_some_and(|duration| started.elapsed() >= duration)
            || churn.rounds.is_some_and(|rounds| made >= rounds)
            || churn.failures.is_some_and(|failures| failed >= failures);
        if over || stop.load(Ordering::Relaxed) {
            return report;
        }
        if let Some(pause) = churn.pause {
            thread::sleep(pause);
        }
    }
}

/// A new socket. TCP will close with a reset.
fn new_socket(kind: Kind) -> Result<OwnedFd, Errno> {
    let socket = create(kind)?;
    if kind.is_tcp() {
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).map_err(errno)?;
    }
    Ok(socket)
}

/// Connects new sockets and returns all names that their peers are told to have.
fn names(churn: &Churn, sockets: u32, times: u32) -> Result<String, Errno> {
    let connected = |_| {
        let socket = new_socket(churn.kind)?;
        connect(&socket, &churn.to).map_err(errno)?;
        Ok(socket)
    };
    let sockets: Vec<_> = (0..sockets).map(connected).collect::<Result<_, Errno>>()?;
    let mut names = BTreeSet::new();
    for _ in 0..times {
        for socket in &sockets {
            let name = getpeername(socket).map_err(errno)?.ok_or(Errno::ENOTCONN)?;
            names.insert(SocketAddr::try_from(name).map_err(errno)?);
        }
    }
    Ok(names.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" "))
}

/// Makes one round and returns the name of the server that answered.
fn round(churn: &Churn) -> Result<String, Errno> {
    match churn.exchange {
        Exchange::Connected => {
            let socket = new_socket(churn.kind)?;
            connect(&socket, &churn.to).map_err(errno)?;
            if !churn.kind.is_tcp() {
                send(&socket, b"?", SendFlags::empty()).map_err(errno)?;
            }
            Ok(read_name(&socket)?.0)
        }
        Exchange::Unconnected => {
            let socket = new_socket(churn.kind)?;
            sendto(&socket, b"?", SendFlags::empty(), &churn.to).map_err(errno)?;
            let (name, from) = read_name(&socket)?;
            if from == Some(churn.to) { Ok(name) } else { Err(Errno::EBADMSG) }
        }
        Exchange::ConnectOnly => {
            let socket = new_socket(churn.kind)?;
            connect(&socket, &churn.to).map_err(errno)?;
            Ok(String::new())
        }
        Exchange::Names { sockets, times } => names(churn, sockets, times),
    }
}

/// The first word that arrives, and who sent it. A stream that ends without one is ECONNRESET.
pub(super) fn read_name(socket: &OwnedFd) -> Result<(String, Option<SocketAddr>), Errno> {
    let mut buffer = [0; 256];
    let (length, _, from) = recvfrom(socket.as_fd(), &mut buffer[..], RecvFlags::empty()).map_err(errno)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    let name = text.split_whitespace().next().ok_or(Errno::ECONNRESET)?;
    Ok((name.to_owned(), from.and_then(|from| from.try_into().ok())))
}

/// Now, on the clock of the samples.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).must("read the clock"));
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
