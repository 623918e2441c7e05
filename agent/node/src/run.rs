//! `balancing-agent run`: wires source, owner, attacher and socket together in one loop.
//!
//! The loop is the only place that touches the kernel after the start. Stopping it, in whatever way, leaves everything
//! in force.

use std::{
    fs, io,
    time::{Duration, Instant, SystemTime},
};

use balancing_dataplane::{
    cgroup::{self, CgroupDir},
    layout::Layout,
    loader::{self, HostScope, LoadError, Options},
    mount, sys,
    tables::{TableError, Tables},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::sleep_until,
};

use crate::{
    attach::Attacher,
    config::Config,
    control::{self, ControlError, Pending},
    dir::DirSourceError,
    http::{self, Addresses, HttpError},
    lock::{self, Lock, LockError},
    metrics::Reconcile,
    owner::Owner,
};
use balancing_core::{
    resolve::Role,
    source::{Batch, SourceStatus},
};
use balancing_kube::client::ClientError;

use feed::{Counters, Origin};

mod answer;
mod feed;

/// Batches that wait for the loop; a source that is faster waits.
const BATCHES: usize = 16;
/// Time between two looks at all links.
const LINKS: Duration = Duration::from_secs(30);
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Why the agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// bpffs or cgroup2.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// Programs or maps.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Tables.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The source.
    #[error(transparent)]
    Source(#[from] DirSourceError),
    /// The credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another agent, or the run directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Health and metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The cgroup root.
    #[error(
        "--cgroup-root: {0}; give the directory where the cgroup2 hierarchy is mounted, or leave the flag out"
    )]
    CgroupRoot(cgroup::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the agent from starting.
pub async fn run(config: Config, abi: u32) -> Result<(), RunError> {
    let origin = Origin::of(&config.source).await?;
    let _lock = lock::run_dir(&config.place.run_dir)?;
    let bound = config.listen.bind()?;
    let mut agent = Agent::start(&config, abi, bound.addresses())?;
    let (batches_in, batches) = mpsc::channel(BATCHES);
    let (status_in, status) = watch::channel(SourceStatus::default());
    let (requests_in, requests) = mpsc::channel(1);
    let listener = control::bind(&balancing_core::control::socket_path(&config.place.run_dir))?;
    let feed = origin.start(&config.settings, batches_in, status_in, agent.owner.health());
    agent.counters = feed.counters.clone();
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let http = http::start(bound, requests_in.clone())?;
    let server = tokio::spawn(control::serve(listener, requests_in));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), abi, ?config, "started");
    let Addresses { http: health, metrics } = agent.addresses;
    let (health, metrics) = (health.map(tracing::field::display), metrics.map(tracing::field::display));
    tracing::info!(http = health, metrics, "listening");
    tokio::select! {
        () = agent.work(batches, requests, status) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.abort();
    http.stop().await;
    feed.stop().await;
    tracing::info!("stopped; everything programmed stays in force");
    Ok(())
}

/// The parts that the loop drives.
struct Agent {
    owner: Owner,
    attacher: Attacher,
    /// Held as long as the agent owns what is pinned.
    _pins: Lock,
    /// The links have been right once; from then on the agent is ready.
    attached: bool,
    links_due: bool,
    /// Local pods have changed since they were looked at.
    pods_due: bool,
    next_links: Instant,
    retry_at: Option<Instant>,
    retry: Duration,
    /// Why the links are not as they should be.
    link_problem: Option<String>,
    /// Why pods that must not be redirected may be.
    exempt_problem: Option<String>,
    role: Role,
    node: String,
    abi: u32,
    addresses: Addresses,
    counters: Counters,
    /// When the source told of a change last.
    last_change: Option<SystemTime>,
    rounds: Reconcile,
}

impl Agent {
    fn start(config: &Config, abi: u32, addresses: Addresses) -> Result<Self, RunError> {
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
            owner: Owner::new(settings, tables),
            _pins: pins,
            attached: false,
            links_due: true,
            pods_due: true,
            next_links: Instant::now() + LINKS,
            retry_at: None,
            retry: RETRY.0,
            link_problem: None,
            exempt_problem: None,
            abi,
            addresses,
            counters: Counters::default(),
            last_change: None,
            rounds: Reconcile::default(),
        })
    }

    async fn work(
        &mut self,
        mut batches: mpsc::Receiver<Batch>,
        mut requests: mpsc::Receiver<Pending>,
        status: watch::Receiver<SourceStatus>,
    ) {
        loop {
            let due = self.next_due();
            tokio::select! {
                batch = batches.recv() => {
                    let Some(batch) = batch else { return };
                    self.apply(batch);
                    while let Ok(more) = batches.try_recv() {
                        self.apply(more);
                    }
                    self.last_change = Some(SystemTime::now());
                    self.reconcile(false);
                }
                pending = requests.recv() => {
                    let Some(pending) = pending else { return };
                    self.answer(pending, &status.borrow());
                }
                () = sleep_until(due.into()) => {
                    let everything = Instant::now() >= self.next_links;
                    self.reconcile(everything);
                }
            }
        }
    }

    fn apply(&mut self, batch: Batch) {
        self.pods_due |= batch.has_pods();
        self.owner.apply(batch);
    }

    fn next_due(&self) -> Instant {
        let search =
            self.attacher.next_search().map(|at| at.max(Instant::now() + Duration::from_millis(100)));
        [self.retry_at, search].into_iter().flatten().fold(self.next_links, Instant::min)
    }

    /// Makes the kernel as the objects want it; what fails is tried again later.
    fn reconcile(&mut self, everything: bool) {
        let start = Instant::now();
        let done = self.round(everything);
        self.rounds.done(start.elapsed(), done);
        self.retry_at = (!done).then(|| Instant::now() + self.retry);
        self.retry = if done { RETRY.0 } else { (self.retry * 2).min(RETRY.1) };
    }

    /// `true` when nothing is left to do.
    fn round(&mut self, everything: bool) -> bool {
        let synced = self.owner.is_synced();
        if synced && (everything || self.pods_due || self.attacher.is_look_due()) {
            self.look_at_pods(everything);
        }
        let mut done = self.owner.program();
        if synced && (self.links_due || everything) {
            done &= self.attach();
        }
        done
    }

    /// Makes and mends all links; the tables are filled. `true` when nothing is left to do.
    fn attach(&mut self) -> bool {
        self.next_links = Instant::now() + LINKS;
        self.link_problem = self.attacher.attach_all().err().map(|error| error.to_string());
        self.links_due = self.link_problem.is_some();
        if let Some(problem) = &self.link_problem {
            tracing::error!("cannot attach: {problem}");
            return false;
        }
        if self.attached {
            return true;
        }
        self.attached = true;
        self.look_at_pods(true);
        let done = self.owner.program();
        tracing::info!("ready");
        done
    }

    /// By what pods are recognised must be known before the tables are filled, also after a restart; links of
    /// pods are made after that ([`Attacher::look`]).
    fn look_at_pods(&mut self, everything: bool) {
        self.pods_due = false;
        if self.role == Role::External {
            return;
        }
        let pods: Vec<_> = self.owner.engine().snapshot().pods_on(&self.node).collect();
        let observed = self.attacher.look(&pods, everything);
        for (uid, ids) in observed.identities {
            self.owner.set_identities(&uid, ids);
        }
        if let Some(exempt) = observed.exempt {
            self.exempt_problem = self.owner.set_exempt(&exempt).err().map(|error| error.to_string());
            if let Some(problem) = &self.exempt_problem {
                tracing::error!("{problem}");
            }
        }
    }
}
