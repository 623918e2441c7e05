//! The data-plane thread: the one place that touches the kernel after the start, and may wait for it.
//!
//! Everything that waits for the network is in the async runtime. The two talk by channels: batches of objects and requests go in,
//! reports and answers come out. A kernel that is slow holds up this thread and nothing else. Ending it, in whatever way, leaves
//! everything in force.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use balancing_cni_install::keeper::Standing;
use balancing_core::{
    health::Health,
    source::{Batch, SourceStatus},
};
use balancing_kube::{
    events::fabric::Troubles,
    member::{Report as MemberReport, Wish},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc, oneshot, watch},
    time::sleep_until,
};

use crate::{
    attach::Descriptor,
    config::Config,
    control::Pending,
    error::RunError,
    fabric::Channels,
    feed::Counters,
    listen::Addresses,
    metrics::Rounds,
    monitor::{Names, Teller},
    owner::Owner,
    probe::{Busy, Probe, Report},
    reconcile::{
        News, Scheduler, exempt::ExemptReconciler, fabric::FabricReconciler, forwards::ForwardsReconciler,
        host_links::HostLinksReconciler, link_check::LinkCheckReconciler, older_abi::OlderAbiReconciler,
        pins::PinsReconciler, pod_links::PodLinksReconciler, tables::TablesReconciler,
    },
    world::World,
};

mod answer;
mod fabric_view;

/// Longest sleep of the thread.
const IDLE: Duration = Duration::from_secs(3600);

/// What the thread needs from outside.
pub(crate) struct Inputs {
    /// Objects.
    pub batches: mpsc::Receiver<Batch>,
    /// Commands and scrapes.
    pub requests: mpsc::Receiver<Pending>,
    /// How the source is doing; only for answers.
    pub status: watch::Receiver<SourceStatus>,
    /// Where policies that fail are told.
    pub health: watch::Sender<Health>,
    /// Where the names of clients, policies and backends are told while somebody listens to events.
    pub names: watch::Sender<Arc<Names>>,
    /// Where it is told what this host wants to be in the fabric.
    pub wishes: watch::Sender<Wish>,
    /// Where it is told what keeps this host from that.
    pub troubles: watch::Sender<Troubles>,
    /// How that goes.
    pub membership: watch::Receiver<MemberReport>,
    /// Where health and metrics are served; only for answers.
    pub addresses: Addresses,
    /// What is counted in the runtime; only for answers.
    pub counters: Counters,
    /// How the CNI plugin stands, where the agent installs it; only for answers.
    pub plugin: Option<watch::Receiver<Standing>>,
}

/// The thread, seen from the runtime.
pub(crate) struct Handle {
    /// How it is doing.
    pub probe: Probe,
    /// Says that everything is loaded, or why not.
    pub loaded: oneshot::Receiver<Result<(), RunError>>,
    /// Ends when the thread ends.
    pub ended: oneshot::Receiver<()>,
}

/// Starts the thread. It loads everything first and says how that went.
///
/// # Errors
/// No thread.
pub(crate) fn spawn(config: Config, abi: u32, inputs: Inputs) -> io::Result<Handle> {
    let (report, reports) = watch::channel(Report::default());
    let busy = Arc::new(Busy::default());
    let probe = Probe::new(reports, Arc::clone(&busy), inputs.status.clone());
    let (loaded_in, loaded) = oneshot::channel();
    let (ending, ended) = oneshot::channel();
    thread::Builder::new().name("dataplane".to_owned()).spawn(move || {
        // Dropped with the thread, in whatever way it ends.
        let _ending = ending;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let result = busy.during(|| {
            let runtime = runtime.map_err(RunError::Thread)?;
            let inside = Inside::load(&config, abi, report, Arc::clone(&busy), &inputs)?;
            Ok((runtime, inside))
        });
        match result {
            Ok((runtime, mut inside)) => {
                loaded_in.send(Ok(())).ok();
                runtime.block_on(inside.work(inputs));
            }
            Err(error) => drop(loaded_in.send(Err(error))),
        }
    })?;
    Ok(Handle { probe, loaded, ended })
}

/// A descriptor that tells of changes. Without one nothing is ever told.
struct Watched(Option<AsyncFd<Descriptor>>);

impl Watched {
    fn new(descriptor: Option<Descriptor>) -> Self {
        #[expect(
            deprecated,
            reason = "the other one is unsafe for types that do not own their descriptor; this one does"
        )]
        let register = |fd| AsyncFd::with_interest(fd, Interest::READABLE);
        let registered = descriptor.map(register).transpose();
        if let Err(error) = &registered {
            tracing::warn!("new pods are noticed late: their watch cannot be waited for: {error}");
        }
        Self(registered.ok().flatten())
    }

    /// Waits for changes. Whoever waited reads all there are: until then nothing new is told.
    async fn changed(&mut self) {
        let Some(fd) = &self.0 else { return std::future::pending().await };
        match fd.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!("new pods are noticed late: their watch has ended: {error}");
                self.0 = None;
            }
        }
    }
}

/// The thread from inside.
struct Inside {
    world: World,
    scheduler: Scheduler<World>,
    report: watch::Sender<Report>,
    busy: Arc<Busy>,
    abi: u32,
    addresses: Addresses,
    counters: Counters,
    plugin: Option<watch::Receiver<Standing>>,
    /// When the source told of a change last.
    last_change: Option<SystemTime>,
    rounds: Rounds,
    names: Teller,
    /// Told when the host's network changed.
    network: Arc<Notify>,
}

impl Inside {
    fn load(
        config: &Config,
        abi: u32,
        report: watch::Sender<Report>,
        busy: Arc<Busy>,
        inputs: &Inputs,
    ) -> Result<Self, RunError> {
        let network = Arc::new(Notify::new());
        let channels = Channels {
            wishes: inputs.wishes.clone(),
            troubles: inputs.troubles.clone(),
            reports: inputs.membership.clone(),
            news: Arc::clone(&network),
        };
        Ok(Self {
            world: World::load(config, abi, inputs.health.clone(), channels)?,
            scheduler: Scheduler::new(vec![
                Box::new(PodLinksReconciler::default()),
                Box::new(ExemptReconciler),
                Box::new(TablesReconciler),
                Box::new(FabricReconciler::default()),
                Box::new(ForwardsReconciler::default()),
                Box::new(HostLinksReconciler),
                Box::new(LinkCheckReconciler),
                Box::new(OlderAbiReconciler),
                Box::new(PinsReconciler),
            ]),
            report,
            busy,
            abi,
            addresses: inputs.addresses,
            counters: inputs.counters.clone(),
            plugin: inputs.plugin.clone(),
            last_change: None,
            rounds: Rounds::default(),
            names: Teller::new(inputs.names.clone()),
            network,
        })
    }

    async fn work(&mut self, inputs: Inputs) {
        let Inputs { mut batches, mut requests, status, mut membership, .. } = inputs;
        let network = Arc::clone(&self.network);
        let mut watch = Watched::new(self.world.attacher.descriptor());
        Arc::clone(&self.busy).during(|| self.reconcile());
        loop {
            self.names.tell(&self.world);
            let due = [self.scheduler.next_due(), self.names.due()].into_iter().flatten().min();
            let due = due.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                batch = batches.recv() => {
                    let Some(batch) = batch else { return };
                    let _busy = self.busy.begin();
                    self.apply(batch);
                    while let Ok(more) = batches.try_recv() {
                        self.apply(more);
                    }
                    self.last_change = Some(SystemTime::now());
                    self.reconcile();
                }
                pending = requests.recv() => {
                    let Some(pending) = pending else { return };
                    let _busy = self.busy.begin();
                    self.answer(pending, &status.borrow().clone());
                }
                () = watch.changed() => Arc::clone(&self.busy).during(|| {
                    self.notice();
                    self.reconcile();
                }),
                () = network.notified() => Arc::clone(&self.busy).during(|| {
                    self.scheduler.tell(News::NETWORK);
                    self.reconcile();
                }),
                // Without a cluster nobody reports, and never will.
                Ok(()) = membership.changed() => Arc::clone(&self.busy).during(|| {
                    self.scheduler.tell(News::FABRIC);
                    self.reconcile();
                }),
                // At other times it is the names alone that are due.
                () = sleep_until(due.into()) => if self.scheduler.next_due().is_some_and(|due| due <= Instant::now()) {
                    Arc::clone(&self.busy).during(|| self.reconcile());
                },
            }
        }
    }

    /// Takes in what happened to cgroups, records and links.
    fn notice(&mut self) {
        let host = self.world.attacher.notice();
        self.scheduler.tell(if host { News::POD_LINKS | News::HOST_LINKS } else { News::POD_LINKS });
    }

    fn apply(&mut self, batch: Batch) {
        let known = |owner: &Owner| (owner.is_synced(), owner.lacking().clone());
        let fabric = |owner: &Owner| {
            let snapshot = owner.engine().snapshot();
            (snapshot.fabric_revision(), snapshot.fabric_lacking().clone())
        };
        let (before, fabric_before) = (known(&self.world.owner), fabric(&self.world.owner));
        let pods = batch.has_pods();
        self.world.owner.apply(batch);
        self.scheduler.tell(News::OBJECTS);
        if pods || known(&self.world.owner) != before {
            self.scheduler.tell(News::PODS);
        }
        if known(&self.world.owner) != before || fabric(&self.world.owner) != fabric_before {
            self.scheduler.tell(News::FABRIC);
        }
    }

    /// Makes the kernel as the objects want it; what fails is tried again later.
    fn reconcile(&mut self) {
        let start = Instant::now();
        self.names.changed();
        self.scheduler.run(&mut self.world, start);
        let report = self.make_report();
        self.rounds.done(start.elapsed(), report.is_ready());
        let was_ready = self.report.borrow().is_ready();
        if report.is_ready() && !was_ready {
            tracing::info!("ready");
        } else if was_ready && let Some(problem) = report.problems.first() {
            tracing::warn!("not ready: {problem}");
        }
        self.report.send_if_modified(|old| {
            let differs = *old != report;
            *old = report;
            differs
        });
    }

    fn make_report(&self) -> Report {
        let synced = self.world.owner.is_synced();
        let states = self.scheduler.states();
        // While the source is not complete everybody waits for it, and it says itself why.
        let told = states.filter(|state| synced || state.is_failing);
        let problems = told.filter_map(|state| Some(format!("{}: {}", state.name, state.problem.as_ref()?)));
        let (problems, lacking) = (problems.collect(), self.world.owner.lacking().clone());
        Report { is_loaded: true, is_synced: synced, lacking, problems }
    }
}
