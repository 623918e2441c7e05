//! Changes of a watch, and the objects of a stream before them.

use futures::{StreamExt as _, stream::BoxStream};
use kube::{Error, core::WatchEvent, core::watch::Bookmark};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use super::{SILENCE, STEADY, Signal, State, Watch};
use crate::source::{
    failure::{Failure, Verb, Verdict, judge, judge_status},
    kind::{Kind, Lasting},
    read::{read, read_key},
};

/// The mark of the bookmark that follows the last object of a list (Kubernetes, "API Concepts", Streaming lists).
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// A watch that stands.
pub(super) struct Open {
    version: String,
    lines: Lines,
    since: Instant,
    /// The server ends it then.
    until: Instant,
    list: List,
}

/// Where a stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    /// None of its objects has come.
    Begins,
    /// Some have.
    GoesOn,
    /// What comes now are changes.
    Ended,
}

type Line = Result<WatchEvent<Box<RawValue>>, Error>;
pub(super) type Lines = BoxStream<'static, Line>;

impl Open {
    /// A stream that begins with a list.
    pub(super) fn listing(lines: Lines, until: Instant) -> Self {
        Self { version: String::new(), lines, since: Instant::now(), until, list: List::Begins }
    }

    /// The next line. A list that has begun does not fall silent.
    async fn line(&mut self) -> Option<Line> {
        if self.list == List::Ended {
            return self.lines.next().await;
        }
        timeout(SILENCE, self.lines.next()).await.unwrap_or(None)
    }

    fn advance(&mut self, new: String) {
        // An object without a version says nothing about it.
        if self.list == List::Ended && !new.is_empty() {
            self.version = new;
        }
    }
}

impl Watch {
    /// Sends a request whose answer goes on until a time.
    pub(super) async fn open(&mut self, request: Result<Lasting, Error>) -> Result<(Lines, Instant), Error> {
        let (request, time) = request?;
        let lines = self.client.request_events(request).await?;
        self.answered();
        Ok((lines.boxed(), Instant::now() + time))
    }

    /// Asks for a watch.
    pub(super) async fn start(&mut self, version: String) -> Option<Signal> {
        match self.open(self.target.watch(&version)).await {
            Ok((lines, until)) => {
                let since = Instant::now();
                self.state = State::Open(Open { version, lines, since, until, list: List::Ended });
                Some(Signal::Watching)
            }
            Err(error) => self.fail(State::Check { version }, judge(self.target.kind, Verb::Watch, &error)),
        }
    }

    /// Waits for the next line.
    pub(super) async fn follow(&mut self, mut open: Open) -> Option<Signal> {
        let event = match open.line().await {
            Some(Ok(event)) if !matches!(event, WatchEvent::Error(_)) => event,
            end if open.list == List::Ended => {
                return self.end(open, end.and_then(verdict(self.target.kind)));
            }
            end => return self.end_list(end.and_then(verdict(self.target.kind))),
        };
        self.stats.hear();
        let signal = if open.list == List::Ended {
            self.change(&mut open, event)
        } else {
            self.listed_object(&mut open, event)
        };
        self.state = State::Open(open);
        signal
    }

    fn change(&mut self, open: &mut Open, event: WatchEvent<Box<RawValue>>) -> Option<Signal> {
        match event {
            WatchEvent::Added(text) | WatchEvent::Modified(text) => {
                self.stats.count_event();
                let mut reading = self.named(read(&self.target, &text))?;
                open.advance(std::mem::take(&mut reading.version));
                Some(Signal::Changed(reading))
            }
            WatchEvent::Deleted(text) => {
                self.stats.count_event();
                let (key, version) = self.named(read_key(&self.target, &text))?;
                open.advance(version);
                Some(Signal::Gone(key, self.target.has_texts().then_some(text)))
            }
            WatchEvent::Bookmark(Bookmark { metadata, .. }) => {
                open.advance(metadata.resource_version);
                None
            }
            WatchEvent::Error(_) => None,
        }
    }

    /// Changes come among the objects of a list, too: they are later states of its objects.
    fn listed_object(&mut self, open: &mut Open, event: WatchEvent<Box<RawValue>>) -> Option<Signal> {
        let first = open.list == List::Begins;
        let (last, objects) = match event {
            WatchEvent::Added(text) | WatchEvent::Modified(text) => {
                (None, vec![self.named(read(&self.target, &text))?])
            }
            WatchEvent::Bookmark(Bookmark { metadata, .. }) => {
                metadata.annotations.get(END_OF_LIST)?;
                (Some(metadata.resource_version), Vec::new())
            }
            WatchEvent::Deleted(text) => {
                let (key, _) = self.named(read_key(&self.target, &text))?;
                return Some(Signal::Gone(key, self.target.has_texts().then_some(text)));
            }
            WatchEvent::Error(_) => return None,
        };
        open.list = List::GoesOn;
        self.count_objects(first, objects.len());
        if let Some(version) = &last {
            self.count_list();
            open.list = List::Ended;
            open.advance(version.clone());
        }
        Some(Signal::Page { first, last, objects })
    }

    /// A stream ended before its list did, for whatever reason; a list that cannot be had says itself why.
    fn end_list(&mut self, verdict: Option<Verdict>) -> Option<Signal> {
        self.stats.count_error();
        self.turn_to_pages(&format!("a stream did not end its list: {verdict:?}"));
        self.delay = Some(self.backoff.next());
        None
    }

    /// A watch is over: the server ended it, or something broke. Ends of both kinds look alike, except that the server
    /// says how long a watch lasts.
    fn end(&mut self, open: Open, verdict: Option<Verdict>) -> Option<Signal> {
        let now = Instant::now();
        let steady = now.duration_since(open.since) >= STEADY;
        if steady {
            self.proved();
        }
        let version = open.version;
        match verdict {
            None if now + STEADY >= open.until => {
                self.state = State::Start { version };
                None
            }
            // Connections break; whether the server is away will be seen when it is asked again.
            None => self.resume(version),
            Some(Verdict::Again(Failure::Server(..))) if steady => self.resume(version),
            Some(verdict) => self.fail(State::Check { version }, verdict),
        }
    }

    fn resume(&mut self, version: String) -> Option<Signal> {
        self.stats.count_error();
        self.delay = Some(self.backoff.next());
        self.state = State::Check { version };
        None
    }
}

/// What ended a watch.
fn verdict(kind: Kind) -> impl Fn(Line) -> Option<Verdict> {
    move |line| match line {
        Ok(WatchEvent::Error(status)) => Some(judge_status(kind, Verb::Watch, &status)),
        Ok(_) => None,
        Err(error) => Some(judge(kind, Verb::Watch, &error)),
    }
}
