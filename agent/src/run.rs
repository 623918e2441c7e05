//! `balancing-agent run`: wires source, owner, attacher and socket together in one loop.
//!
//! The loop is the only place that touches the kernel after the start. Stopping it, in whatever way, leaves everything
//! in force.

use std::{
    fs,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use balancing_dataplane::{
    layout::Layout,
    loader::{self, HostScope, LoadError, Options},
    mount,
    sys,
    tables::{TableError, Tables},
};
use nix::fcntl::{Flock, FlockArg};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::sleep_until,
};

use crate::{
    attach::Attacher,
    config::{Config, SourceConfig, lock_path, socket_path},
    control::{self, ControlError, Pending, Request},
    explain::explain,
    owner::Owner,
    resolve::Role,
    source::{
        Batch, SourceStatus,
        dir::{DirSource, DirSourceError},
    },
    view::{self, AgentView, PodName, SourceView},
};

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
    /// The run directory.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    RunDir {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent.
    #[error("another agent holds {path}: stop it first, or give this one its own --run-dir and --bpffs", path = path.display())]
    Running {
        /// The lock.
        path: PathBuf,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the agent from starting.
pub async fn run(config: Config, abi: u32) -> Result<(), RunError> {
    let _lock = lock(&config)?;
    let mut agent = Agent::start(&config, abi)?;
    let (batches_in, batches) = mpsc::channel(BATCHES);
    let (status_in, status) = watch::channel(SourceStatus::default());
    let (requests_in, requests) = mpsc::channel(1);
    let listener = control::bind(&socket_path(&config.place.run_dir))?;
    let SourceConfig::Dir(path) = &config.source;
    let source = DirSource::new(path)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let source = tokio::spawn(source.run(batches_in, status_in, std::future::pending()));
    let server = tokio::spawn(control::serve(listener, requests_in));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), abi, ?config, "started");
    tokio::select! {
        () = agent.work(batches, requests, status) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    source.abort();
    server.abort();
    tracing::info!("stopped; everything programmed stays in force");
    Ok(())
}

/// One agent per run directory.
fn lock(config: &Config) -> Result<Flock<fs::File>, RunError> {
    let dir = &config.place.run_dir;
    let failed = |operation, path: &PathBuf| {
        let path = path.clone();
        move |source| RunError::RunDir { operation, path, source }
    };
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let path = lock_path(dir);
    let file = fs::File::create(&path).map_err(failed("create", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => RunError::Running { path: path.clone() },
        other => failed("lock", &path)(other.into()),
    })
}

/// The parts that the loop drives.
struct Agent {
    owner: Owner,
    attacher: Attacher,
    attached: bool,
    next_links: Instant,
    retry_at: Option<Instant>,
    retry: Duration,
    problems: Vec<String>,
    role: Role,
    node: String,
}

impl Agent {
    fn start(config: &Config, abi: u32) -> Result<Self, RunError> {
        mount::ensure_bpffs(&config.place.bpffs)?;
        let cgroup_root = match &config.cgroup_root {
            Some(path) => path.clone(),
            None => mount::Mounts::read()?.cgroup2_root()?,
        };
        let layout = Layout::new(&config.place.bpffs, abi);
        let host_scope = match config.settings.role {
            Role::External => HostScope::Everything,
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
            attached: false,
            next_links: Instant::now() + LINKS,
            retry_at: None,
            retry: RETRY.0,
            problems: Vec::new(),
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
                    self.owner.apply(batch);
                    while let Ok(more) = batches.try_recv() {
                        self.owner.apply(more);
                    }
                    self.reconcile(false);
                }
                pending = requests.recv() => {
                    let Some(Pending { request, answer }) = pending else { return };
                    if answer.send(self.answer(&request, &status.borrow())).is_err() {
                        tracing::debug!("the asker is gone");
                    }
                }
                () = sleep_until(due.into()) => {
                    let everything = Instant::now() >= self.next_links;
                    self.reconcile(everything);
                }
            }
        }
    }

    fn next_due(&self) -> Instant {
        let search = self.attacher.next_search().map(|at| at.max(Instant::now() + Duration::from_millis(100)));
        [self.retry_at, search].into_iter().flatten().fold(self.next_links, Instant::min)
    }

    /// Makes the kernel as the objects want it; what fails is tried again later.
    fn reconcile(&mut self, everything: bool) {
        self.problems.clear();
        self.look_at_pods(everything);
        let mut done = self.owner.program();
        if self.owner.is_synced() && (!self.attached || everything) {
            self.next_links = Instant::now() + LINKS;
            match self.attacher.attach_all() {
                Ok(()) => {
                    let first = !self.attached;
                    self.attached = true;
                    if first {
                        self.look_at_pods(true);
                        done &= self.owner.program();
                        tracing::info!("ready");
                    }
                }
                Err(error) => {
                    tracing::error!("cannot attach: {error}");
                    self.problems.push(error.to_string());
                    done = false;
                }
            }
        }
        self.retry_at = (!done).then(|| Instant::now() + self.retry);
        self.retry = if done { RETRY.0 } else { (self.retry * 2).min(RETRY.1) };
    }

    /// Pods are attached only when the tables are filled: nothing attached sees an empty table.
    fn look_at_pods(&mut self, everything: bool) {
        if self.role == Role::External || !self.attached {
            return;
        }
        let pods: Vec<_> = self.owner.engine().snapshot().pods_on(&self.node).collect();
        let observed = self.attacher.look(&pods, everything);
        for (uid, ids) in observed.identities {
            self.owner.set_identities(&uid, ids);
        }
        if let Some(exempt) = observed.exempt
            && let Err(error) = self.owner.set_exempt(&exempt)
        {
            tracing::error!("{error}");
            self.problems.push(error.to_string());
        }
    }

    fn answer(&self, request: &Request, status: &SourceStatus) -> Result<serde_json::Value, serde_json::Error> {
        let engine = self.owner.engine();
        match request {
            Request::Agent => serde_json::to_value(self.view(status)),
            Request::Policies => serde_json::to_value(self.owner.policy_views()),
            Request::Origins => {
                let origins: Vec<_> =
                    engine.entries().flat_map(|(_, entry)| view::origins(&entry).collect::<Vec<_>>()).collect();
                serde_json::to_value(origins)
            }
            Request::Pods => {
                let pods = engine.snapshot().pods_on(&self.node).map(|pod| PodName {
                    uid: pod.uid.clone(),
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                });
                serde_json::to_value(pods.collect::<Vec<_>>())
            }
            Request::Explain { frontend, pod } => {
                let pod = pod.as_ref().map(Request::pod_ref);
                serde_json::to_value(explain(engine, Request::explain_key(frontend), pod.as_ref()))
            }
        }
    }

    fn view(&self, status: &SourceStatus) -> AgentView {
        let failures = self.owner.failures().values().cloned();
        let mut problems: Vec<String> = self.problems.iter().cloned().chain(failures).collect();
        problems.extend(self.attacher.problems());
        AgentView {
            node: self.node.clone(),
            role: match self.role {
                Role::Node => "node",
                Role::External => "external",
            }
            .to_owned(),
            ready: self.owner.is_synced() && self.attached && self.owner.failures().is_empty(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: SourceView::from(status),
            problems,
        }
    }
}
