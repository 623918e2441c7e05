//! The data-plane thread: the one place that touches the kernel after the start, and may wait for it.
//!
//! Everything that waits for the network is in the async runtime. The two talk by channels: batches of objects and requests go in,
//! reports and answers come out. A kernel that is slow holds up this thread and nothing else. Ending it, in whatever way, leaves
//! everything in force.

use std::{
    collections::BTreeSet,
    fs, io,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use balancing_core::{
    health::Health,
    resolve::Role,
    source::{Batch, SourceStatus},
};
use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::Layout,
    loader::{self, HostScope, LoadError, Options},
    model::ClientId,
    mount, sys,
    tables::Tables,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep_until,
};

use crate::{
    attach::{AttachError, Attacher},
    config::Config,
    control::Pending,
    feed::Counters,
    http::Addresses,
    lock::{self, Lock},
    metrics::Rounds,
    owner::Owner,
    reconcile::{
        News, Scheduler, exempt::ExemptReconciler, host_links::HostLinksReconciler,
        older_abi::OlderAbiReconciler, pod_links::PodLinksReconciler, tables::TablesReconciler,
    },
    run::RunError,
};

pub use report::{Probe, Report};

use report::Busy;

mod answer;
mod report;

/// Time between two looks at everything, also at what seems settled.
pub(crate) const LOOK: Duration = Duration::from_secs(30);
/// Longest sleep of the thread.
const IDLE: Duration = Duration::from_secs(3600);

/// Why reconcilers sleep.
pub(crate) const NOT_LISTED: &str = "the source has not delivered its complete list";
const OTHER_ABI: &str = "what an agent of another ABI left stays in force until every kind has been listed";
const OTHER_ABI_SLICES: &str =
    "what an agent of another ABI left stays in force for a minute, or until every policy has its slices";
/// So long an agent waits for slices before it replaces what an agent of another ABI left.
const SLICES_PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const NOT_FILLED: &str = "links are made when the tables are filled";
pub(crate) const NOT_HOOKED: &str = "the links come first";

/// What the reconcilers share.
pub struct World {
    pub(crate) owner: Owner,
    pub(crate) attacher: Attacher,
    pub(crate) role: Role,
    pub(crate) node: String,
    /// Clients that are never redirected; `None` = the pods have not been looked at.
    pub(crate) exempt: Option<BTreeSet<ClientId>>,
    /// The tables have been filled.
    pub(crate) filled: bool,
    /// The links of the host have been made.
    pub(crate) hooked: bool,
    loaded: Instant,
    /// Held as long as the agent owns what is pinned.
    _pins: Lock,
}

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
    /// Where health and metrics are served; only for answers.
    pub addresses: Addresses,
    /// What is counted in the runtime; only for answers.
    pub counters: Counters,
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
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

/// The thread from inside.
struct Inside {
    world: World,
    scheduler: Scheduler<World>,
    report: watch::Sender<Report>,
    busy: Arc<Busy>,
    abi: u32,
    addresses: Addresses,
    counters: Counters,
    /// When the source told of a change last.
    last_change: Option<SystemTime>,
    rounds: Rounds,
}

impl Inside {
    fn load(
        config: &Config,
        abi: u32,
        report: watch::Sender<Report>,
        busy: Arc<Busy>,
        inputs: &Inputs,
    ) -> Result<Self, RunError> {
        Ok(Self {
            world: World::load(config, abi, inputs.health.clone())?,
            scheduler: Scheduler::new(vec![
                Box::new(PodLinksReconciler::default()),
                Box::new(ExemptReconciler),
                Box::new(TablesReconciler),
                Box::new(HostLinksReconciler),
                Box::new(OlderAbiReconciler),
            ]),
            report,
            busy,
            abi,
            addresses: inputs.addresses,
            counters: inputs.counters.clone(),
            last_change: None,
            rounds: Rounds::default(),
        })
    }

    async fn work(&mut self, inputs: Inputs) {
        let Inputs { mut batches, mut requests, status, .. } = inputs;
        Arc::clone(&self.busy).during(|| self.reconcile());
        loop {
            let due = self.scheduler.next_due().unwrap_or_else(|| Instant::now() + IDLE);
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
                () = sleep_until(due.into()) => Arc::clone(&self.busy).during(|| self.reconcile()),
            }
        }
    }

    fn apply(&mut self, batch: Batch) {
        let known = |owner: &Owner| (owner.is_synced(), owner.lacking().clone());
        let before = known(&self.world.owner);
        let pods = batch.has_pods();
        self.world.owner.apply(batch);
        self.scheduler.tell(News::OBJECTS);
        if pods || known(&self.world.owner) != before {
            self.scheduler.tell(News::PODS);
        }
    }

    /// Makes the kernel as the objects want it; what fails is tried again later.
    fn reconcile(&mut self) {
        let start = Instant::now();
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

impl World {
    /// Why nothing may be made as the objects want it yet.
    pub(crate) fn must_wait(&self) -> Result<Option<&'static str>, AttachError> {
        if !self.owner.is_synced() {
            return Ok(Some(NOT_LISTED));
        }
        // New tables begin empty: what waits would be in force no longer when they replace older ones.
        let must_keep = !self.filled && !self.owner.lacking().is_empty() && self.attacher.has_older()?;
        Ok(must_keep.then_some(OTHER_ABI))
    }

    /// Why the tables may not be used yet although they are filled: slices come as soon as a controller runs. Where none does,
    /// the other policies do not wait for ever.
    pub(crate) fn must_wait_for_slices(&self) -> Result<Option<&'static str>, AttachError> {
        let may_come = !self.filled && self.loaded.elapsed() < SLICES_PATIENCE;
        let must_keep = may_come && self.owner.waits_for_slices() && self.attacher.has_older()?;
        Ok(must_keep.then_some(OTHER_ABI_SLICES))
    }

    fn load(config: &Config, abi: u32, health: watch::Sender<Health>) -> Result<Self, RunError> {
        mount::ensure_bpffs(&config.place.bpffs)?;
        let cgroup_root = match &config.cgroup_root {
            Some(path) => path.clone(),
            None => mount::Mounts::read()?.cgroup2_root()?,
        };
        CgroupDir::open(&cgroup_root).map_err(RunError::CgroupRoot)?;
        let layout = Layout::new(&config.place.bpffs, abi);
        let base = layout.base();
        fs::create_dir_all(&base).map_err(|source| LoadError::Directory { path: base.clone(), source })?;
        let pins = lock::directory(&base)?;
        let host_scope = match config.settings.role {
            Role::External | Role::Cluster => HostScope::Everything,
            // Without the cookie the programs compare with the kernel's first namespace.
            Role::Node => HostScope::Namespace(sys::netns_cookie().ok()),
        };
        let loaded = loader::load(&Options { layout: layout.clone(), sizes: config.sizes, host_scope })?;
        let mut tables = Tables::open(&layout, config.sizes)?;
        tables.set_events(false)?;
        let settings = config.settings.clone();
        Ok(Self {
            role: settings.role,
            node: settings.node_name.clone(),
            attacher: Attacher::new(
                layout,
                cgroup_root,
                (loaded.pods, loaded.host),
                (settings.scope, settings.role),
                &config.place.run_dir,
            ),
            owner: Owner::new(settings, tables, health),
            exempt: None,
            filled: false,
            hooked: false,
            loaded: Instant::now(),
            _pins: pins,
        })
    }
}
