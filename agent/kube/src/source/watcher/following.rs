//! Changes of a watch, and the objects of a stream before them.

use futures::{StreamExt as _, stream::BoxStream};
use kube::{Error, core::WatchEvent, core::watch::Bookmark};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{STEADY, Signal, State, Watch};
use crate::source::{
    failure::{Failure, Verb, Verdict, judge, judge_status},
    kind::Kind,
    read::{read, read_key},
};

/// The mark of the bookmark that follows the last object of a list (Kubernetes, "API Concepts", Streaming lists).
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// A watch that stands.
pub(super) struct Open {
    version: String,
    lines: Lines,
    since: Instant,
    heard: bool,
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
    pub(super) fn listing(lines: Lines, since: Instant) -> Self {
        Self { version: String::new(), lines, since, heard: false, list: List::Begins }
    }

    /// What to do when it is over: `after` goes on from the version, which a list that is not complete has not yet.
    fn next(self, after: impl Fn(String) -> State) -> State {
        if self.list == List::Ended { after(self.version) } else { State::List { token: None } }
    }

    fn advance(&mut self, new: String) {
        // An object without a version says nothing about it.
        if self.list == List::Ended && !new.is_empty() {
            self.version = new;
        }
    }
}

impl Watch {
    /// Asks for a watch.
    pub(super) async fn start(&mut self, version: String) -> Option<Signal> {
        let lines = match self.target.watch(&version) {
            Ok(request) => self.client.request_events(request).await,
            Err(error) => Err(error),
        };
        match lines {
            Ok(lines) => {
                self.answered();
                let lines = lines.boxed();
                let since = Instant::now();
                self.state = State::Open(Open { version, lines, since, heard: false, list: List::Ended });
                Some(Signal::Watching)
            }
            Err(error) => self.fail(State::Check { version }, judge(self.target.kind, Verb::Watch, &error)),
        }
    }

    /// Waits for the next line.
    pub(super) async fn follow(&mut self, mut open: Open) -> Option<Signal> {
        let event = match open.lines.next().await {
            Some(Ok(event)) if !matches!(event, WatchEvent::Error(_)) => event,
            end => return self.end(open, end.and_then(verdict(self.target.kind))),
        };
        open.heard = true;
        self.stats.hear();
        let signal = if open.list == List::Ended {
            self.proved();
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
        if let Some(version) = &last {
            self.count_list();
            self.proved();
            open.list = List::Ended;
            open.advance(version.clone());
        }
        Some(Signal::Page { first, last, objects })
    }

    /// A watch is over: the server ended it, or something broke.
    fn end(&mut self, open: Open, verdict: Option<Verdict>) -> Option<Signal> {
        let (heard, steady) = (open.heard, open.since.elapsed() >= STEADY);
        let is_list = open.list != List::Ended;
        if steady && !is_list {
            self.proved();
        }
        match verdict {
            // The usual end: the server bounds the time of a watch. One that ends at once is not usual, nor is a list
            // without an end, for which pages are the other way.
            None => {
                self.streams &= !is_list;
                self.delay = (!heard && !steady).then(|| self.backoff.next());
                self.state = open.next(|version| State::Start { version });
                None
            }
            // Connections break; whether the server is away will be seen when it is asked again.
            Some(Verdict::Again(Failure::Server(..))) if heard || steady => {
                self.stats.count_error();
                self.delay = Some(self.backoff.next());
                self.state = open.next(|version| State::Check { version });
                None
            }
            Some(verdict) => self.fail(open.next(|version| State::Check { version }), verdict),
        }
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
