//! When the leader looks at the fabric. It works in rounds: one follows from what is known at its begin, and the next one
//! begins when all writes of the last have ended.
//!
//! While nothing of a fabric exists it asks the API server nothing, but for what an earlier leader may have left.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Done, Leader};
use crate::{
    cluster::{
        cache::{Cache, Item},
        fabric::{Known, Orphans, Reading, Seen, TakenBack, Write, news},
        rate_limit::Backoff,
        requests::{FabricWriter, WriteError},
    },
    events::fabric::{Subject, Troubles, note},
    source::{Event, Kind},
};

/// Least time between two rounds, so that a storm of changes becomes few of them.
const ROUND: Duration = Duration::from_secs(1);
/// What is not watched is read again after this time.
const READ: Duration = Duration::from_secs(15);
/// Writes that are made at the same time.
const WRITES: usize = 4;

/// What is known of the fabric besides the objects.
pub(super) struct FabricWork {
    writer: FabricWriter,
    namespace: String,
    fabrics: Cache<Seen>,
    members: Cache<Seen>,
    hosts: Cache<Seen>,
    /// `None` = not read in this term.
    reading: Option<Reading>,
    read_at: Instant,
    orphans: Orphans,
    /// The status that was written last.
    last: Option<(Kind, String)>,
    taken_back: TakenBack,
    /// What Events are written of.
    troubles: watch::Sender<Troubles>,
    failures: Backoff<()>,
    is_running: bool,
    /// Objects as of the last round.
    revision: u64,
    /// A status is another, or the last round left something.
    is_stale: bool,
    next_round: Instant,
}

/// What came of a write.
pub(super) enum Sent {
    /// Nothing is known, or nothing was there to be written.
    Nothing,
    /// What is known of an object after its status was written.
    Written(Item<Seen>),
    /// It is deleted.
    Removed,
}

type Answer = Result<Sent, WriteError>;

/// The end of a round.
pub(super) enum RoundEnd {
    Read(Result<Reading, WriteError>),
    Written(Vec<(Write, Answer)>),
}

impl FabricWork {
    pub(super) fn new(
        writer: FabricWriter,
        namespace: &str,
        troubles: watch::Sender<Troubles>,
        now: Instant,
    ) -> Self {
        Self {
            writer,
            namespace: namespace.to_owned(),
            fabrics: Cache::default(),
            members: Cache::default(),
            hosts: Cache::default(),
            reading: None,
            read_at: now,
            orphans: Orphans::default(),
            last: None,
            taken_back: TakenBack::default(),
            troubles,
            failures: Backoff::default(),
            is_running: false,
            revision: 0,
            is_stale: true,
            next_round: now,
        }
    }

    /// Takes in what the server says of an object.
    pub(super) fn observe(&mut self, kind: Kind, event: Event<Item<Seen>>) {
        if let Some(cache) = self.cache(kind) {
            let changed = cache.observe(event);
            self.is_stale |= !changed.is_empty();
        }
    }

    fn cache(&mut self, kind: Kind) -> Option<&mut Cache<Seen>> {
        match kind {
            Kind::TunnelFabric => Some(&mut self.fabrics),
            Kind::TunnelNode => Some(&mut self.members),
            Kind::ExternalHost => Some(&mut self.hosts),
            _ => None,
        }
    }

    fn seen(&self, kind: Kind, name: &str) -> Option<&Seen> {
        match kind {
            Kind::TunnelFabric => self.fabrics.get(name),
            Kind::TunnelNode => self.members.get(name),
            Kind::ExternalHost => self.hosts.get(name),
            _ => None,
        }
    }

    fn is_listed(&self) -> bool {
        self.fabrics.is_listed() && self.members.is_listed() && self.hosts.is_listed()
    }
}

impl Leader<'_> {
    /// When the next round is due; `None` = when something changes.
    pub(super) fn fabric_due(&self, now: Instant) -> Option<Instant> {
        let fabric = &self.fabric;
        if fabric.is_running || !self.started || !self.knows_fabric() {
            return None;
        }
        let is_news = fabric.is_stale || fabric.revision != self.engine.snapshot().fabric_revision();
        let read = match &fabric.reading {
            None => Some(now),
            Some(reading) => self.known(reading).is_in_use().then_some(fabric.read_at),
        };
        let due = is_news.then_some(now).into_iter().chain(read).chain(fabric.orphans.next_due()).min()?;
        Some(fabric.failures.not_before(&(), due.max(fabric.next_round)))
    }

    fn knows_fabric(&self) -> bool {
        self.fabric.is_listed() && self.engine.snapshot().fabric_lacking().is_empty()
    }

    fn known<'k>(&'k self, reading: &'k Reading) -> Known<'k> {
        let (snapshot, namespace) = (self.engine.snapshot(), self.fabric.namespace.as_str());
        Known { snapshot, reading, namespace, now: Timestamp::now(), at: Instant::now() }
    }

    /// Begins a round if one is due.
    pub(super) fn start_fabric(&mut self, now: Instant) {
        if self.fabric_due(now).is_none_or(|due| due > now) {
            return;
        }
        self.fabric.next_round = now + ROUND;
        let reading = self.fabric.reading.clone().filter(|_| now < self.fabric.read_at);
        let Some(reading) = reading else {
            let writer = self.fabric.writer.clone();
            self.fabric.is_running = true;
            self.tasks.spawn(async move { Done::Fabric(RoundEnd::Read(writer.read().await)) });
            return;
        };
        let mut orphans = std::mem::take(&mut self.fabric.orphans);
        self.tell_troubles(&reading, now);
        let seen = |kind, name: &str| self.fabric.seen(kind, name);
        let writes = self.known(&reading).writes(seen, &mut orphans, self.fabric.last.as_ref());
        self.fabric.orphans = orphans;
        self.fabric.last = writes.iter().rev().find_map(|write| match write {
            Write::Status { kind, name, .. } => Some((*kind, name.clone())),
            Write::Hosts(_) | Write::Remove(_) => None,
        });
        self.fabric.revision = self.engine.snapshot().fabric_revision();
        // What does not fit into one round is found by the next.
        self.fabric.is_stale = !writes.is_empty();
        if writes.is_empty() {
            return;
        }
        self.fabric.is_running = true;
        let writer = self.fabric.writer.clone();
        self.tasks.spawn(async move {
            let sent = stream::iter(writes).map(|write| {
                let writer = writer.clone();
                async move {
                    let result = send(&writer, &write).await;
                    (write, result)
                }
            });
            Done::Fabric(RoundEnd::Written(sent.buffer_unordered(WRITES).collect().await))
        });
    }

    fn tell_troubles(&self, reading: &Reading, now: Instant) {
        let news = news(&self.known(reading), &self.fabric.taken_back, now);
        self.fabric.troubles.send_if_modified(|troubles| {
            let before = troubles.len();
            troubles.retain(|subject, trouble| {
                news.contains_key(&(subject.fabric.clone(), trouble.uid.clone(), subject.reason))
            });
            let is_less = troubles.len() != before;
            news.into_iter().fold(is_less, |changed, ((fabric, uid, reason), text)| {
                note(troubles, Subject { fabric, reason }, &uid, Some(text), now) || changed
            })
        });
    }

    pub(super) fn fabric_done(&mut self, end: RoundEnd) {
        let now = Instant::now();
        self.fabric.is_running = false;
        let failed = match end {
            RoundEnd::Read(Ok(reading)) => {
                let reading = reading.after(self.fabric.reading.as_ref());
                // A Lease that is as it was has become older; and no news tells when a pod or Service of the cluster has left the pool.
                self.fabric.is_stale |= !reading.leases.is_empty()
                    || self.fabric.reading.as_ref() != Some(&reading)
                    || self.engine.snapshot().fabrics().next().is_some();
                self.fabric.reading = Some(reading);
                self.fabric.read_at = now + READ;
                false
            }
            RoundEnd::Read(Err(error)) => {
                tracing::warn!("Leases and the list of external hosts cannot be read: {error}; tried again");
                true
            }
            RoundEnd::Written(results) => results
                .into_iter()
                .fold(false, |failed, (write, result)| !self.learn_fabric(write, result) || failed),
        };
        if failed {
            self.fabric.failures.fail(&(), now);
        } else {
            self.fabric.failures.reset(&());
        }
    }

    /// Takes in the answer to a write; whether it succeeded.
    fn learn_fabric(&mut self, write: Write, result: Answer) -> bool {
        let counter = if result.is_ok() { &self.stats.fabric_writes } else { &self.stats.fabric_errors };
        counter.fetch_add(1, Relaxed);
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                tracing::warn!("the fabric: {} not written: {error}; tried again", title(&write));
                return false;
            }
        };
        match (write, result) {
            (Write::Hosts(hosts), _) => {
                if let Some(reading) = &mut self.fabric.reading {
                    reading.hosts = hosts;
                }
            }
            (Write::Status { kind, .. }, Sent::Written((name, version, seen))) => {
                if let Some(cache) = self.fabric.cache(kind) {
                    cache.put(name, version, Some(seen));
                }
            }
            (Write::Remove(remains), Sent::Removed) => self.fabric.taken_back.note(&remains, Instant::now()),
            (Write::Status { .. } | Write::Remove(_), _) => {}
        }
        true
    }
}

async fn send(writer: &FabricWriter, write: &Write) -> Answer {
    match write {
        Write::Hosts(hosts) => writer.hosts(hosts).await.map(|()| Sent::Nothing),
        Write::Status { kind, name, uid, status } => {
            let written = writer.status(*kind, name, uid, status).await?;
            Ok(written.map_or(Sent::Nothing, Sent::Written))
        }
        Write::Remove(remains) => {
            if !writer.remove(remains).await? {
                return Ok(Sent::Nothing);
            }
            let (kind, name) = (remains.kind.name(), &remains.name);
            tracing::info!(kind, name, "deleted: {}", remains.why);
            Ok(Sent::Removed)
        }
    }
}

fn title(write: &Write) -> String {
    match write {
        Write::Hosts(_) => "the list of external hosts".to_owned(),
        Write::Status { kind, name, .. } => format!("status of {} {name}", kind.name()),
        Write::Remove(remains) => format!("end of {} {}", remains.kind.name(), remains.name),
    }
}
