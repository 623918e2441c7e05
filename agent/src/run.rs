//! `balancing-agent run`: wires source, owner, attacher and socket together in one loop.
//!
//! The loop is the only place that touches the kernel after the start. Stopping it, in whatever way, leaves everything
//! in force.

use std::{
    fs, io,
    time::{Duration, Instant},
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
    client::ClientError,
    config::{Config, socket_path},
    control::{self, ControlError, Pending, Request},
    explain::explain,
    lock::{self, Lock, LockError},
    owner::Owner,
    resolve::Role,
    source::{Batch, SourceStatus, dir::DirSourceError},
    view::{self, AgentView, PodName, SourceView},
};

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
    let _lock = lock::run_dir(&config.place.run_dir)?;
    let mut agent = Agent::start(&config, abi)?;
    let (batches_in, batches) = mpsc::channel(BATCHES);
    let (status_in, status) = watch::channel(SourceStatus::default());
    let (requests_in, requests) = mpsc::channel(1);
    let listener = control::bind(&socket_path(&config.place.run_dir))?;
    let feed = feed::start(&config, batches_in, status_in).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let server = tokio::spawn(control::serve(listener, requests_in));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), abi, ?config, "started");
    tokio::select! {
        () = agent.work(batches, requests, status) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.abort();
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
    next_links: Instant,
    retry_at: Option<Instant>,
    retry: Duration,
    /// Why the links are not as they should be.
    link_problem: Option<String>,
    /// Why pods that must not be redirected may be.
    exempt_problem: Option<String>,
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
            next_links: Instant::now() + LINKS,
            retry_at: None,
            retry: RETRY.0,
            link_problem: None,
            exempt_problem: None,
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
        let search =
            self.attacher.next_search().map(|at| at.max(Instant::now() + Duration::from_millis(100)));
        [self.retry_at, search].into_iter().flatten().fold(self.next_links, Instant::min)
    }

    /// Makes the kernel as the objects want it; what fails is tried again later.
    fn reconcile(&mut self, everything: bool) {
        let synced = self.owner.is_synced();
        if synced {
            self.look_at_pods(everything);
        }
        let mut done = self.owner.program();
        if synced && (self.links_due || everything) {
            done &= self.attach();
        }
        self.retry_at = (!done).then(|| Instant::now() + self.retry);
        self.retry = if done { RETRY.0 } else { (self.retry * 2).min(RETRY.1) };
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

    fn answer(
        &self,
        request: &Request,
        status: &SourceStatus,
    ) -> Result<serde_json::Value, serde_json::Error> {
        let engine = self.owner.engine();
        match request {
            Request::Agent => serde_json::to_value(self.view(status)),
            Request::Policies => serde_json::to_value(self.owner.policy_views()),
            Request::Origins => {
                let origins: Vec<_> = engine
                    .entries()
                    .flat_map(|(_, entry)| view::origins(&entry).collect::<Vec<_>>())
                    .collect();
                serde_json::to_value(origins)
            }
            Request::Pods => {
                let pods = engine.snapshot().pods_on(&self.node).map(|pod| PodName {
                    uid: pod.uid.clone(),
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    cgroup: self.attacher.cgroup_of(&pod.uid).map(|path| path.display().to_string()),
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
        let mut problems: Vec<String> =
            self.link_problem.iter().chain(&self.exempt_problem).cloned().collect();
        problems.extend(self.owner.problems());
        problems.extend(self.attacher.problems());
        AgentView {
            node: self.node.clone(),
            role: match self.role {
                Role::Node => "node",
                Role::External => "external",
                Role::Cluster => "cluster",
            }
            .to_owned(),
            ready: self.owner.is_synced() && self.attached && self.owner.failures().is_empty(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: SourceView::from(status),
            problems,
        }
    }
}
