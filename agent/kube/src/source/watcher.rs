//! List and watch of one kind, without end: list, watch from the version of the list, list again when the server
//! says that the version is too old.
//!
//! It knows no state but the version. It tells when a watch stands again after a failure, which is why it does not
//! use `kube::runtime::watcher`: that one keeps it to itself, and a quiet kind would count as failed for ever.
//!
//! A list is a stream that goes on as the watch, which the server takes from its cache, and of which neither side holds
//! more than an object (Kubernetes 1.34, "API Concepts", Streaming lists). A server that has no streams, or does not bring
//! one to its end, is asked for pages for a while. Both say what is in force when they are asked, however far behind the
//! server's cache is.

use std::{sync::Arc, time::Duration};

use futures::{Stream, stream::unfold};
use kube::Client;
use serde_json::value::RawValue;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    backoff::{Backoff, random},
    failure::{Failure, Verdict},
    kind::{Kind, Target},
    read::Reading,
    stats::KindStats,
};
use balancing_core::objects::ObjectKey;
use following::Open;

mod following;
mod listing;

/// A watch that lived this long was a good one, whatever ended it. Waits grow until there is one: neither a line nor a list
/// says that the next request will do better.
const STEADY: Duration = Duration::from_secs(5);
/// Longest silence within a list.
const SILENCE: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(30) };
/// So long lists are pages after a stream that was refused or did not end.
const PAGES: Duration = Duration::from_secs(600);

/// TunnelNodes from which on the agents of a cluster spread their lists, and the time for each: everybody lists what everybody is,
/// all at once after the API server has started anew, and hardly any of it has changed meanwhile.
const MANY_MEMBERS: u32 = 1000;
const SPREAD: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(60);

/// What a watch has to say.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the frequent one")]
pub(super) enum Signal {
    /// Objects of a list. Several pages make a list.
    Page {
        /// A list begins; an earlier one that did not end does not count.
        first: bool,
        /// The list ends: what it did not have is gone. It is of this version.
        last: Option<String>,
        objects: Vec<Reading>,
    },
    /// An object is new or different.
    Changed(Reading),
    /// An object is gone; how it was last, where the consumer wants texts.
    Gone(ObjectKey, Option<Box<RawValue>>),
    /// Changes come in from now on.
    Watching,
    /// A list or watch failed. It goes on after a wait.
    Failed(Failure),
}

/// The list and watch of one kind.
pub(super) struct Watch {
    client: Client,
    target: Target,
    stats: Arc<KindStats>,
    state: State,
    backoff: Backoff,
    /// For versions that are too old: the server is well then, and a list soon helps.
    expiries: Backoff,
    /// For a kind that the server does not know.
    absences: Backoff,
    /// Wait before the next request.
    delay: Option<Duration>,
    /// The server as a whole failed the last time.
    away: bool,
    /// Told when the server is there again.
    contact: Arc<Notify>,
    /// Until then lists are pages.
    pages_until: Option<Instant>,
    listed: bool,
    /// Objects of the last list.
    size: u32,
}

enum State {
    /// A list is asked for next, or with a token its next page.
    List { token: Option<String> },
    /// Something broke. Before the watch goes on, the server is asked how new its data is: those of an etcd that was
    /// restored are older, and it would be silent until they have caught up.
    Check { version: String },
    /// A watch is asked for next.
    Start { version: String },
    /// A stream or watch stands.
    Open(Open),
}

impl Watch {
    /// A watch that begins with a list. The watches of a server share `contact`: the first that the server answers
    /// again ends the wait of the others.
    pub(super) fn new(client: Client, target: Target, stats: Arc<KindStats>, contact: Arc<Notify>) -> Self {
        Self {
            client,
            target,
            stats,
            state: State::List { token: None },
            backoff: Backoff::default(),
            expiries: Backoff::default(),
            absences: Backoff::missing(),
            delay: None,
            away: false,
            contact,
            pages_until: None,
            listed: false,
            size: 0,
        }
    }

    /// What it says, without end.
    pub(super) fn into_stream(self) -> impl Stream<Item = (Kind, Signal)> {
        let kind = self.target.kind;
        unfold(self, move |mut watch| async move { Some(((kind, watch.next().await), watch)) })
    }

    async fn next(&mut self) -> Signal {
        loop {
            if let Some(delay) = self.delay.take() {
                self.pause(delay).await;
            }
            // A list is what helps unless the step says otherwise.
            let signal = match std::mem::replace(&mut self.state, State::List { token: None }) {
                State::List { token: None } if self.tries_streams() => self.stream().await,
                State::List { token } => self.list(token).await,
                State::Check { version } => self.check(version).await,
                State::Start { version } => self.start(version).await,
                State::Open(open) => self.follow(open).await,
            };
            if let Some(signal) = signal {
                return signal;
            }
        }
    }

    fn tries_streams(&self) -> bool {
        self.pages_until.is_none_or(|until| Instant::now() >= until)
    }

    /// A stream was refused or did not end: pages are the other way.
    fn turn_to_pages(&mut self, why: &str) {
        tracing::debug!(kind = self.target.kind.name(), why, "lists are asked for in pages for a while");
        self.pages_until = Some(Instant::now() + PAGES);
    }

    async fn pause(&mut self, delay: Duration) {
        if !self.away {
            return sleep(delay).await;
        }
        let contact = Arc::clone(&self.contact);
        tokio::select! {
            () = sleep(delay) => {}
            () = contact.notified() => sleep(Backoff::default().next()).await,
        }
    }

    /// The server answered.
    fn answered(&mut self) {
        self.stats.hear();
        if std::mem::take(&mut self.away) {
            self.contact.notify_waiters();
        }
    }

    /// A watch has lived long enough.
    fn proved(&mut self) {
        self.backoff.reset();
        self.expiries.reset();
        self.absences.reset();
    }

    /// Objects of a list have come.
    fn count_objects(&mut self, first: bool, count: usize) {
        let before = if first { 0 } else { self.size };
        self.size = before.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// A list is complete.
    fn count_list(&mut self) {
        if std::mem::replace(&mut self.listed, true) {
            self.stats.count_relist();
        }
    }

    /// Something failed; `same` tries the same again.
    fn fail(&mut self, same: State, verdict: Verdict) -> Option<Signal> {
        self.stats.count_error();
        let failure = match verdict {
            Verdict::Expired => {
                self.answered();
                let spread = spread(&self.target, self.size).as_millis();
                let random = u32::try_from(spread).ok().filter(|spread| *spread > 0).map_or(0, random);
                self.delay = Some(self.expiries.next() + Duration::from_millis(random.into()));
                return None;
            }
            Verdict::Again(failure) => {
                self.state = same;
                failure
            }
            Verdict::Relist(failure) => failure,
        };
        self.delay = Some(match failure {
            Failure::Missing(_) => self.absences.next(),
            Failure::Server(..) | Failure::Kind(_) => self.backoff.next(),
        });
        match failure {
            Failure::Server(..) => self.away = true,
            Failure::Missing(_) | Failure::Kind(_) => self.answered(),
        }
        Some(Signal::Failed(failure))
    }

    /// Counts an object without a name, and goes on without it.
    fn named<T>(&self, reading: Option<T>) -> Option<T> {
        if reading.is_none() {
            self.stats.count_error();
            tracing::debug!(kind = self.target.kind.name(), "the API server sent an object without a name");
        }
        reading
    }
}

/// The time over which the next list is spread after one of that size.
fn spread(target: &Target, size: u32) -> Duration {
    if target.is_spread && size >= MANY_MEMBERS { (SPREAD * size).min(MOST) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::{super::Scope, *};

    #[test]
    fn only_the_lists_of_large_fabrics_are_spread() {
        let spread = |scope: &Scope, kind, size| {
            let targets = scope.targets("own");
            spread(targets.iter().find(|target| target.kind == kind).unwrap(), size)
        };
        let node = Scope::Node { name: "n1".to_owned() };
        assert_eq!(spread(&node, Kind::TunnelNode, 5000), Duration::from_secs(50));
        assert_eq!(spread(&node, Kind::TunnelNode, MANY_MEMBERS - 1), Duration::ZERO);
        assert_eq!(spread(&node, Kind::Service, 50_000), Duration::ZERO);
        assert_eq!(spread(&Scope::Cluster, Kind::TunnelNode, 5000), Duration::ZERO, "the controller is one");
    }
}
