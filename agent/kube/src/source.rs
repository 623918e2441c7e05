//! The API server source: lists and watches the kinds that the agent's role needs.
//!
//! It owns the connections to the server and the order in which changes go out. A change goes out as soon as the
//! consumer has room; while it has none, changes to one object become one, and the watches wait when too many objects
//! have changed. Memory holds the keys of what exists, not the objects.
//!
//! Nothing is forgotten because of an error. A server that is away, a kind that it does not know and a list that is
//! not allowed leave everything as it was and are reported. Only the server saying so, or a later list that is
//! complete, deletes an object.

use std::{collections::BTreeSet, future::Future, pin::pin, sync::Arc};

use ::kube::Client;
use futures::{FutureExt as _, StreamExt as _, stream::select_all};
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, watch};

use crate::client::Connection;
use balancing_core::source::{Batch, SourceStatus};
use health::Health;
use kind::Target;
use merge::Merge;
use read::Reading;
use watcher::{Signal, Watch};

pub(crate) use failure::cause;
pub(crate) use kind::Kind;
pub use stats::{KindStats, WatchStats};

mod backoff;
mod failure;
mod health;
mod kind;
mod merge;
mod read;
mod stats;
pub mod stored;
#[cfg(test)]
mod tests;
mod watcher;

/// Signals that are taken in before the consumer gets its turn.
const TURN: usize = 4096;

/// What a source watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For an agent on a node: policies, Services, its own Node, the pods of the node, the EndpointSlices that the
    /// controller writes, and the members of the fabric.
    Node {
        /// The node.
        name: String,
    },
    /// For an agent outside the cluster: BalancingPolicies, Services, those EndpointSlices, the members of the fabric and
    /// its own ExternalHost.
    External {
        /// The ExternalHost.
        name: String,
    },
    /// For the controller: policies, Services, Nodes, all pods that are not finished, the EndpointSlices that it
    /// writes, and the whole fabric.
    Cluster,
}

/// What goes out at once: changes of objects, and what the server said of kinds whose text the consumer reads itself.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) batch: Batch,
    pub(crate) texts: Vec<Text>,
}

/// What the server said of an object, or of a list; in the order in which it said so.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) kind: Kind,
    pub(crate) event: Event<Box<RawValue>>,
}

/// What happens to objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<T> {
    /// A list begins; an earlier one that did not end does not count.
    Begin,
    /// The list has this object.
    Listed(T),
    /// The list is complete; the version of the server's data.
    End(String),
    /// An object is new or different.
    Put(T),
    /// An object is gone; how it was last.
    Gone(T),
}

impl From<Delivery> for Batch {
    fn from(delivery: Delivery) -> Self {
        delivery.batch
    }
}

/// Objects of an API server.
pub struct KubeSource {
    client: Client,
    server: String,
    description: String,
    credentials: watch::Receiver<Option<String>>,
    targets: Vec<Target>,
    stats: Arc<WatchStats>,
}

impl KubeSource {
    /// A source that watches what `scope` says; EndpointSlices in `namespace`, the one the agents run in.
    #[must_use]
    pub fn new(connection: &Connection, scope: &Scope, namespace: &str) -> Self {
        let targets = scope.targets(namespace);
        let stats = Arc::new(WatchStats::new(targets.iter().map(|target| target.kind.name())));
        Self {
            client: connection.client.clone(),
            server: connection.server.clone(),
            description: connection.description.clone(),
            credentials: connection.problem.clone(),
            targets,
            stats,
        }
    }

    /// The counters of its watches.
    #[must_use]
    pub fn stats(&self) -> Arc<WatchStats> {
        Arc::clone(&self.stats)
    }

    /// Lists and watches until `cancel` is ready or `batches` is closed.
    ///
    /// Objects go out as they come. A batch is synced once every kind has delivered a complete list with or before
    /// it, or is lacking because the server refuses it.
    pub async fn run<D: From<Delivery>>(
        mut self,
        batches: mpsc::Sender<D>,
        status: watch::Sender<SourceStatus>,
        cancel: impl Future<Output = ()>,
    ) {
        let mut cancel = pin!(cancel);
        let mut state = State {
            merge: Merge::new(self.targets.iter().map(|target| target.kind)),
            health: Health::new(self.server),
            with_texts: self.targets.iter().filter(|t| t.has_texts()).map(|t| t.kind).collect(),
            texts: Vec::new(),
        };
        status.send_modify(|status| status.description = self.description);
        let contact = Arc::new(Notify::new());
        let watches = self.targets.into_iter().zip(self.stats.kinds());
        let mut signals = select_all(watches.map(|(target, stats)| {
            Watch::new(self.client.clone(), target, Arc::clone(stats), Arc::clone(&contact))
                .into_stream()
                .boxed()
        }));
        loop {
            tokio::select! {
                () = &mut cancel => return,
                () = batches.closed() => return,
                permit = batches.reserve(), if state.is_due() => match permit {
                    Ok(permit) => permit.send(state.deliver().into()),
                    Err(_) => return,
                },
                Some((kind, signal)) = signals.next(), if state.has_room() => state.take(kind, signal),
                Ok(()) = self.credentials.changed() => {
                    state.health.credentials(self.credentials.borrow_and_update().clone());
                }
            }
            // What came with it goes into the same batch.
            for _ in 0..TURN {
                if !state.has_room() {
                    break;
                }
                let Some(Some((kind, signal))) = signals.next().now_or_never() else { break };
                state.take(kind, signal);
            }
            state.publish(&status);
        }
    }
}

/// What is known, and how it goes.
struct State {
    merge: Merge,
    health: Health,
    /// Kinds whose texts go out.
    with_texts: BTreeSet<Kind>,
    texts: Vec<Text>,
}

impl State {
    fn has_room(&self) -> bool {
        self.merge.has_room() && self.texts.len() < TURN
    }

    fn is_due(&self) -> bool {
        self.merge.is_due() || !self.texts.is_empty()
    }

    fn deliver(&mut self) -> Delivery {
        Delivery { batch: self.merge.take(), texts: std::mem::take(&mut self.texts) }
    }

    fn take(&mut self, kind: Kind, signal: Signal) {
        match signal {
            Signal::Page { first, last, mut objects } => {
                // A stream that does not come to the end of its list does not work.
                if last.is_some() {
                    self.health.works(kind);
                }
                objects.iter_mut().for_each(|reading| self.note(reading));
                self.add_texts(kind, first, last.as_deref(), &mut objects);
                for key in self.merge.page(kind, first, last.is_some(), objects) {
                    self.health.object(&key, Vec::new());
                }
            }
            Signal::Changed(mut reading) => {
                self.note(&mut reading);
                let text = reading.text.take();
                self.texts.extend(text.map(|text| Text { kind, event: Event::Put(text) }));
                self.merge.change(kind, reading);
            }
            Signal::Gone(key, text) => {
                self.texts.extend(text.map(|text| Text { kind, event: Event::Gone(text) }));
                self.health.object(&key, Vec::new());
                self.merge.gone(kind, key);
            }
            Signal::Watching => self.health.works(kind),
            Signal::Failed(failure) => {
                self.merge.failed(kind, &failure);
                self.health.failed(kind, failure);
            }
        }
    }

    /// Keeps the texts of a page, where the consumer reads them.
    fn add_texts(&mut self, kind: Kind, first: bool, last: Option<&str>, objects: &mut [Reading]) {
        if !self.with_texts.contains(&kind) {
            return;
        }
        let begin = first.then_some(Event::Begin);
        let listed = objects.iter_mut().filter_map(|reading| reading.text.take()).map(Event::Listed);
        let end = last.map(|version| Event::End(version.to_owned()));
        self.texts.extend(begin.into_iter().chain(listed).chain(end).map(|event| Text { kind, event }));
    }

    fn note(&mut self, reading: &mut Reading) {
        self.health.object(&reading.key, std::mem::take(&mut reading.problems));
    }

    fn publish(&mut self, status: &watch::Sender<SourceStatus>) {
        let (synced, news) = (self.merge.is_synced(), self.health.news());
        status.send_if_modified(|status| {
            let news = news.filter(|problems| *problems != status.problems);
            let changed = status.synced != synced || news.is_some();
            status.synced = synced;
            if let Some(problems) = news {
                status.problems = problems;
            }
            changed
        });
    }
}
