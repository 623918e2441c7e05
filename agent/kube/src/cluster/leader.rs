//! The loop of the leader: objects and news in, writes out.
//!
//! Level-triggered: news only say which policy to look at, and what is written follows from what is known then. For
//! one policy all writes of slices, and the one of its status, end before the next are decided. Nothing is written
//! before everything has been listed.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use balancing_abi::model::{Clients, PolicyKind};
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::sleep_until,
};

use super::{
    ClusterStats,
    cache::{Cache, Item},
    requests::{FabricWriter, Outcome, WriteError, Writer},
    store::Store,
    watch_event::{Observed, WatchEvent},
};
use crate::{
    events::fabric::{FabricEvents, Troubles},
    source::Delivery,
};
use balancing_core::{
    objects::PolicyRef,
    resolve::{ClusterPods, Engine, Role, Settings},
    source::Change,
};
use fabric::{FabricWork, RoundEnd};
use ports::PortWork;
use slices::SliceWork;
use statuses::StatusWork;

mod fabric;
mod ports;
mod slices;
mod statuses;

/// The end of a write.
enum Done {
    Slice { policy: String, name: String, version: u64, result: Result<Outcome, WriteError> },
    Status { policy: PolicyRef, result: Result<Option<Item<Observed>>, WriteError> },
    Fabric(RoundEnd),
}

struct Leader<'a> {
    stats: &'a ClusterStats,
    writer: Writer,
    engine: Engine,
    /// The source has delivered everything.
    synced: bool,
    /// Everything has been listed, and every policy was looked at.
    started: bool,
    store: Store,
    local: Cache<Observed>,
    balancing: Cache<Observed>,
    tasks: JoinSet<Done>,
    slices: SliceWork,
    statuses: StatusWork,
    fabric: FabricWork,
    ports: PortWork,
}

/// Does the duties until the source ends or a task fails; why.
pub(super) async fn lead(
    client: &Client,
    namespace: &str,
    identity: &str,
    mut deliveries: mpsc::Receiver<Delivery>,
    stats: &ClusterStats,
) -> String {
    let (troubles_in, troubles) = watch::channel(Troubles::default());
    let writer = FabricWriter::new(client, namespace);
    let fabric = FabricWork::new(writer, namespace, troubles_in, Instant::now());
    // It ends with the term.
    let mut events = JoinSet::new();
    events.spawn(FabricEvents::new(client.clone(), identity, None).run(troubles));
    let mut leader = Leader::new(Writer::new(client, namespace), fabric, stats);
    loop {
        let due = leader.next_due();
        tokio::select! {
            delivery = deliveries.recv() => {
                let Some(delivery) = delivery else { return "the source has ended".to_owned() };
                leader.apply(delivery);
                while let Ok(more) = deliveries.try_recv() {
                    leader.apply(more);
                }
            }
            Some(done) = leader.tasks.join_next() => {
                if let Err(error) = leader.finish(done) {
                    return error.to_string();
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
        leader.advance(Instant::now());
    }
}

impl<'a> Leader<'a> {
    fn new(writer: Writer, fabric: FabricWork, stats: &'a ClusterStats) -> Self {
        let settings = Settings {
            role: Role::Cluster,
            node_name: String::new(),
            qos_limit: None,
            cluster_pods: ClusterPods::Selected,
            scope: Clients::All,
        };
        Self {
            stats,
            writer,
            engine: Engine::new(settings),
            synced: false,
            started: false,
            store: Store::default(),
            local: Cache::default(),
            balancing: Cache::default(),
            tasks: JoinSet::new(),
            slices: SliceWork::default(),
            statuses: StatusWork::new(Instant::now()),
            fabric,
            ports: PortWork::default(),
        }
    }

    fn apply(&mut self, Delivery { batch, texts }: Delivery) {
        texts.into_iter().filter_map(WatchEvent::read).for_each(|item| self.observe(item));
        // What is written speaks for the whole cluster: a kind that is lacking holds up everything, but one of the fabric only
        // that.
        self.synced |= batch.is_complete();
        self.engine.set_lacking(batch.lacking);
        self.engine.apply(batch.changes.into_iter().map(|change| match change {
            Change::Upsert(object) => (object.key(), Some(object)),
            Change::Delete(key) => (key, None),
        }));
    }

    fn observe(&mut self, item: WatchEvent) {
        let now = Instant::now();
        match item {
            WatchEvent::Slice(event) => {
                for policy in self.store.observe(event) {
                    self.look_at_slices(policy, now);
                }
            }
            WatchEvent::Fabric(kind, event) => self.fabric.observe(kind, event),
            WatchEvent::Policy(kind, event) => {
                for (name, _) in self.cache(kind).observe(event) {
                    self.look_at_status(&PolicyRef { kind, name }, now);
                }
            }
        }
    }

    fn cache(&mut self, kind: PolicyKind) -> &mut Cache<Observed> {
        match kind {
            PolicyKind::LocalRedirect => &mut self.local,
            PolicyKind::Balancing => &mut self.balancing,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let fabric = self.fabric_due(Instant::now());
        self.slices.next_due().into_iter().chain(self.statuses.next_due()).chain(fabric).min()
    }

    /// Decides and sends what is due.
    fn advance(&mut self, now: Instant) {
        let listed = self.store.is_listed() && self.local.is_listed() && self.balancing.is_listed();
        if !self.synced || !listed {
            return;
        }
        let delta = self.engine.resolve();
        for policy in delta.touched.iter().filter(|policy| policy.kind == PolicyKind::Balancing) {
            self.slices.add_fresh(&policy.name, now);
        }
        if !self.started {
            self.started = true;
            self.stats.is_synced.store(true, Relaxed);
            for policy in self.store.policies() {
                self.look_at_slices(policy, now);
            }
            tracing::info!(policies = self.engine.verdicts().len(), "the cluster is known");
        }
        self.give_ports(&delta.touched, now);
        // A policy that took the place of an equal one has the same verdict, and no status yet.
        let judged = delta.verdicts.keys().filter(|policy| !delta.touched.contains(*policy));
        for policy in delta.touched.iter().chain(judged) {
            self.look_at_status(policy, now);
        }
        self.start_slices(now);
        self.start_statuses(now);
        self.start_fabric(now);
        self.stats.status_pending.store(self.statuses.pending(), Relaxed);
    }

    fn finish(&mut self, done: Result<Done, JoinError>) -> Result<(), JoinError> {
        match done? {
            Done::Slice { policy, name, version, result } => self.slice_done(policy, name, version, result),
            Done::Status { policy, result } => self.status_done(&policy, result),
            Done::Fabric(end) => self.fabric_done(end),
        }
        Ok(())
    }
}
