//! List and watch of one kind, without end: list, watch from the version of the list, list again when the server
//! says that the version is too old.
//!
//! It knows no state but the version. It tells when a watch stands again after a failure, which is why it does not
//! use `kube::runtime::watcher`: that one keeps it to itself, and a quiet kind would count as failed for ever.

use std::{sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt as _,
    stream::{BoxStream, unfold},
};
use kube::{Client, Error, core::WatchEvent};
use serde_json::value::RawValue;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    backoff::{Backoff, missing},
    failure::{Failure, Verb, Verdict, judge, judge_status},
    kind::{Kind, Target},
    read::{Next, Page, Reading, read, read_key},
    stats::KindStats,
};
use balancing_core::objects::ObjectKey;

/// A watch that lived this long was a good one, whatever ended it.
const STEADY: Duration = Duration::from_secs(5);

/// What a watch has to say.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "the large one is the frequent one")]
pub(super) enum Signal {
    /// Objects of a list. Several pages make a list.
    Page {
        /// A list begins; an earlier one that did not end does not count.
        first: bool,
        /// The list ends: what it did not have is gone.
        last: bool,
        objects: Vec<Reading>,
    },
    /// An object is new or different.
    Changed(Reading),
    /// An object is gone.
    Gone(ObjectKey),
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
    /// Wait before the next request.
    delay: Option<Duration>,
    /// The server as a whole failed the last time.
    away: bool,
    /// Told when the server is there again.
    contact: Arc<Notify>,
    listed: bool,
}

enum State {
    /// A page is asked for next.
    List {
        token: Option<String>,
    },
    /// A watch is asked for next.
    Start {
        version: String,
    },
    Open(Open),
}

/// A watch that stands.
struct Open {
    version: String,
    lines: Lines,
    since: Instant,
    heard: bool,
}

type Lines = BoxStream<'static, Result<WatchEvent<Box<RawValue>>, Error>>;

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
            delay: None,
            away: false,
            contact,
            listed: false,
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
                State::List { token } => self.list(token).await,
                State::Start { version } => self.start(version).await,
                State::Open(open) => self.follow(open).await,
            };
            if let Some(signal) = signal {
                return signal;
            }
        }
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

    /// A watch does what it should.
    fn proved(&mut self) {
        self.backoff.reset();
        self.expiries.reset();
    }

    /// Asks for a page.
    async fn list(&mut self, token: Option<String>) -> Option<Signal> {
        let first = token.is_none();
        let (next, objects) = match self.fetch(token.clone()).await {
            Ok(page) => page,
            Err(error) => {
                return self.fail(State::List { token }, judge(self.target.kind, Verb::List, &error));
            }
        };
        self.answered();
        let last = matches!(next, Next::Watch(_));
        self.state = match next {
            Next::Page(token) => State::List { token: Some(token) },
            Next::Watch(version) => State::Start { version },
        };
        if last && self.listed {
            self.stats.count_relist();
        }
        self.listed |= last;
        Some(Signal::Page { first, last, objects })
    }

    async fn fetch(&mut self, token: Option<String>) -> Result<(Next, Vec<Reading>), Error> {
        let text = self.client.request_text(self.target.list(token)?).await?;
        let page = Page::parse(&text).map_err(Error::SerdeError)?;
        let next = page.next().ok_or_else(|| {
            Error::SerdeError(serde::de::Error::custom("the list has no metadata.resourceVersion"))
        })?;
        let objects = page.items().filter_map(|item| self.named(read(&self.target, item))).collect();
        Ok((next, objects))
    }

    /// Asks for a watch.
    async fn start(&mut self, version: String) -> Option<Signal> {
        let lines = match self.target.watch(&version) {
            Ok(request) => self.client.request_events(request).await,
            Err(error) => Err(error),
        };
        match lines {
            Ok(lines) => {
                self.answered();
                let lines = lines.boxed();
                self.state = State::Open(Open { version, lines, since: Instant::now(), heard: false });
                Some(Signal::Watching)
            }
            Err(error) => self.fail(State::Start { version }, judge(self.target.kind, Verb::Watch, &error)),
        }
    }

    /// Waits for the next change.
    async fn follow(&mut self, mut open: Open) -> Option<Signal> {
        let line = open.lines.next().await;
        if matches!(line, Some(Ok(WatchEvent::Error(_)) | Err(_)) | None) {
            return self.end(open, line.and_then(verdict(self.target.kind)));
        }
        open.heard = true;
        self.stats.hear();
        self.proved();
        let signal = match line {
            Some(Ok(WatchEvent::Added(text) | WatchEvent::Modified(text))) => {
                self.stats.count_event();
                self.named(read(&self.target, &text)).map(|mut reading| {
                    advance(&mut open.version, std::mem::take(&mut reading.version));
                    Signal::Changed(reading)
                })
            }
            Some(Ok(WatchEvent::Deleted(text))) => {
                self.stats.count_event();
                self.named(read_key(&self.target, &text)).map(|(key, version)| {
                    advance(&mut open.version, version);
                    Signal::Gone(key)
                })
            }
            Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                advance(&mut open.version, bookmark.metadata.resource_version);
                None
            }
            Some(Ok(WatchEvent::Error(_)) | Err(_)) | None => None,
        };
        self.state = State::Open(open);
        signal
    }

    /// A watch is over: the server ended it, or something broke.
    fn end(&mut self, open: Open, verdict: Option<Verdict>) -> Option<Signal> {
        let steady = open.since.elapsed() >= STEADY;
        if steady {
            self.proved();
        }
        match verdict {
            // The usual end: the server bounds the time of a watch. One that ends at once is not usual.
            None => {
                self.delay = (!open.heard && !steady).then(|| self.backoff.next());
                self.state = State::Start { version: open.version };
                None
            }
            // Connections break; whether the server is away will be seen when it is asked again.
            Some(Verdict::Again(Failure::Server(..))) if open.heard || steady => {
                self.stats.count_error();
                self.delay = Some(self.backoff.next());
                self.state = State::Start { version: open.version };
                None
            }
            Some(verdict) => self.fail(State::Start { version: open.version }, verdict),
        }
    }

    /// Something failed; `same` tries the same again.
    fn fail(&mut self, same: State, verdict: Verdict) -> Option<Signal> {
        self.stats.count_error();
        let failure = match verdict {
            Verdict::Expired => {
                self.answered();
                self.delay = Some(self.expiries.next());
                return None;
            }
            Verdict::Again(failure) => {
                self.state = same;
                failure
            }
            Verdict::Relist(failure) => failure,
        };
        self.delay = Some(match failure {
            Failure::Missing(_) => missing(),
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

/// What ended a watch.
fn verdict(kind: Kind) -> impl Fn(Result<WatchEvent<Box<RawValue>>, Error>) -> Option<Verdict> {
    move |line| match line {
        Ok(WatchEvent::Error(status)) => Some(judge_status(kind, Verb::Watch, &status)),
        Ok(_) => None,
        Err(error) => Some(judge(kind, Verb::Watch, &error)),
    }
}

/// The version to go on from; an object without one says nothing about it.
fn advance(version: &mut String, new: String) {
    if !new.is_empty() {
        *version = new;
    }
}
