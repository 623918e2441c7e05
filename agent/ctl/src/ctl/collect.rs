//! Collects what the commands show, from the kernel, the records and the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use balancing_dataplane::{
    layout::{Hook, Layout},
    links,
    model::{Backend, FrontendKey},
    probe::Features,
    records::{Listing, Record, Records},
    settings::{NodeSettings, PluginSettings, Told as _},
    tables::{LayerView, Reader, TableError, Usage},
};
use serde::{Deserialize, Serialize};

use super::{
    doctor::{STOPPED, differences},
    rights,
    tables_dir::{self, SearchError},
};
use crate::socket::{AskError, ask};
use balancing_core::control::{Request, socket_path};
use balancing_core::fabric_view::{CheckView, FabricView};
use balancing_core::view::{
    AgentView, BackendView, CountersView, FrontendView, KeyView, Origin, OwnerView, PluginView, PodName,
    PodView, PolicyView, SourceView,
};

/// What the agent knows of backends, by service id, address and port.
type Origins = BTreeMap<(u32, IpAddr, u16), Origin>;

/// Why something cannot be collected.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    #[error(transparent)]
    Links(#[from] links::Error),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Control(#[from] AskError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error(
        "permission denied: what the kernel has is shown to root, or with CAP_BPF or CAP_SYS_ADMIN; run this as root"
    )]
    NoRights,
    #[error(
        "nothing is loaded below {bpffs}: the agent has not run on this host since its last boot, or `cleanup` \
         removed everything; start balancing-agent",
        bpffs = .0.display()
    )]
    NothingLoaded(PathBuf),
}

/// What `explain` answers; the agent's words are passed on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExplainView {
    pub(super) frontend: KeyView,
    pub(super) winner: Option<OwnerView>,
    pub(super) losers: Vec<LoserView>,
    pub(super) backends: Vec<ExplainBackend>,
    pub(super) decision: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LoserView {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) why: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExplainBackend {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) pod: Option<String>,
    pub(super) node: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pods: Vec<String>,
}

/// What `status` answers.
#[derive(Debug, Serialize)]
pub(super) struct StatusView {
    pub(super) node: Option<String>,
    pub(super) role: Option<String>,
    pub(super) ready: bool,
    /// Why the agent did not answer.
    pub(super) agent: Option<String>,
    pub(super) source: Option<SourceView>,
    /// The CNI plugin, where the agent installs it.
    pub(super) plugin: Option<PluginView>,
    pub(super) kernel: KernelView,
    pub(super) hooks: HooksView,
    pub(super) tables: Vec<TableView>,
    pub(super) overwritten: u64,
    pub(super) events_lost: u64,
    /// The same as the others are named; the name above is a promise.
    #[serde(rename = "eventsLost")]
    pub(super) lost_events: u64,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) problems: Vec<String>,
    /// Settings of the agent and the CNI plugin that differ, with both values.
    pub(super) differences: Vec<String>,
    pub(super) http: Option<SocketAddr>,
    pub(super) metrics: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
pub(super) struct KernelView {
    pub(super) release: String,
    pub(super) features: BTreeMap<&'static str, bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct HooksView {
    pub(super) abi: Option<u32>,
    pub(super) host: Vec<&'static str>,
    pub(super) pods: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct TableView {
    pub(super) name: &'static str,
    pub(super) used: u64,
    pub(super) capacity: u32,
    /// What found no room or had to give way; `None` where only a running agent knows.
    pub(super) dropped: Option<u64>,
}

impl From<Usage> for TableView {
    fn from(usage: Usage) -> Self {
        let Usage { name, used, capacity, dropped } = usage;
        Self { name, used, capacity, dropped }
    }
}

/// What the tables say of themselves.
#[derive(Default)]
struct TablesView {
    tables: Vec<TableView>,
    overwritten: u64,
    events_lost: u64,
    errors: BTreeMap<&'static str, u64>,
    is_stopped: bool,
}

impl TablesView {
    /// Reads the tables; `told` is what the agent says they had to drop.
    fn read(layout: &Layout, told: Option<&BTreeMap<String, u64>>) -> Result<Self, TableError> {
        let reader = Reader::open(layout)?;
        let usage = reader.usage()?.into_iter().map(|usage| {
            let told = || told?.get(usage.name).copied();
            Usage { dropped: usage.dropped.or_else(told), ..usage }
        });
        Ok(Self {
            tables: usage.map(TableView::from).collect(),
            overwritten: reader.overwritten()?,
            events_lost: reader.events_lost()?,
            errors: reader.hook_errors()?.into_iter().collect(),
            is_stopped: reader.is_stopped(),
        })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct VersionView {
    pub(super) version: &'static str,
    pub(super) abi: u32,
    pub(super) agent: Option<String>,
}

/// This host.
pub(super) struct Host {
    run_dir: PathBuf,
    bpffs: PathBuf,
}

impl Host {
    pub(super) fn new(run_dir: &Path, bpffs: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), bpffs: bpffs.to_owned() }
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T, AskError> {
        ask(&socket_path(&self.run_dir), request)
    }

    /// The newest layout that has tables.
    fn layout(&self) -> Result<Layout, CollectError> {
        tables_dir::newest(&self.bpffs)?.ok_or_else(|| CollectError::NothingLoaded(self.bpffs.clone()))
    }

    fn reader(&self) -> Result<Reader, CollectError> {
        Ok(Reader::open(&self.layout()?)?)
    }

    pub(super) fn status(&self) -> Result<StatusView, CollectError> {
        // The kernel would seem to be able to do nothing.
        if !rights::may_look() {
            return Err(CollectError::NoRights);
        }
        let (agent, down) = match self.ask::<AgentView>(&Request::Agent) {
            Ok(agent) => (Some(agent), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = KernelView {
            release: release.trim().to_owned(),
            features: Features::probe().list().into_iter().collect(),
        };
        let layout = match self.layout() {
            Ok(layout) => Some(layout),
            Err(CollectError::NothingLoaded(_)) => None,
            Err(error) => return Err(error),
        };
        let mut problems = agent.as_ref().map(|a| a.problems.clone()).unwrap_or_default();
        // What cannot be read hides nothing else.
        let hooks = self.hooks(layout.as_ref()).unwrap_or_else(|error| {
            problems.push(error.to_string());
            HooksView { abi: layout.as_ref().map(Layout::abi), host: Vec::new(), pods: 0 }
        });
        let told = agent.as_ref().map(|agent| &agent.dropped);
        let read = layout.as_ref().map(|layout| TablesView::read(layout, told)).transpose();
        let tables = read.unwrap_or_else(|error| {
            problems.push(error.to_string());
            None
        });
        let TablesView { tables, overwritten, events_lost, errors, is_stopped } = tables.unwrap_or_default();
        problems.extend(is_stopped.then(|| STOPPED.to_owned()));
        Ok(StatusView {
            node: agent.as_ref().map(|a| a.node.clone()),
            role: agent.as_ref().map(|a| a.role.clone()),
            ready: agent.as_ref().is_some_and(|a| a.ready),
            agent: down,
            problems,
            differences: self.differences(),
            http: agent.as_ref().and_then(|a| a.http),
            metrics: agent.as_ref().and_then(|a| a.metrics),
            plugin: agent.as_ref().and_then(|a| a.plugin.clone()),
            source: agent.map(|a| a.source),
            kernel,
            hooks,
            tables,
            overwritten,
            events_lost,
            lost_events: events_lost,
            errors,
        })
    }

    fn differences(&self) -> Vec<String> {
        let node = NodeSettings::read(&self.run_dir).ok().flatten();
        let plugin = PluginSettings::read(&self.run_dir).ok().flatten();
        let both = node.zip(plugin);
        both.map(|(node, plugin)| differences(&node, &plugin)).unwrap_or_default()
    }

    fn hooks(&self, layout: Option<&Layout>) -> Result<HooksView, CollectError> {
        let Some(layout) = layout else { return Ok(HooksView { abi: None, host: Vec::new(), pods: 0 }) };
        let host = live(&layout.host())?;
        Ok(HooksView { abi: Some(layout.abi()), host, pods: links::pods(layout)?.len() })
    }

    pub(super) fn policies(&self) -> Result<Vec<PolicyView>, CollectError> {
        Ok(self.ask(&Request::Policies)?)
    }

    /// Why policies may be missing: the agent does not know all of them.
    pub(super) fn incomplete(&self) -> Option<String> {
        let source = self.ask::<AgentView>(&Request::Agent).ok()?.source;
        (!source.synced).then(|| {
            let why = source.problems.first().map(|problem| format!(": {problem}")).unwrap_or_default();
            format!("the agent is not synced with {}, so policies may be missing{why}", source.description)
        })
    }

    pub(super) fn explain(
        &self,
        key: &FrontendKey,
        pod: Option<(String, String)>,
    ) -> Result<ExplainView, CollectError> {
        Ok(self.ask(&Request::Explain { frontend: KeyView::from(key), pod })?)
    }

    pub(super) fn fabric(&self) -> Result<FabricView, CollectError> {
        Ok(self.ask(&Request::Fabric)?)
    }

    pub(super) fn check(&self, peer: Option<String>) -> Result<Vec<CheckView>, CollectError> {
        Ok(self.ask(&Request::FabricCheck { peer })?)
    }

    /// Pods behind the addresses of each service id; empty while no agent runs.
    fn origins(&self) -> Origins {
        let origins: Vec<Origin> = self.ask(&Request::Origins).unwrap_or_default();
        origins.into_iter().map(|o| ((o.service_id, o.address, o.port), o)).collect()
    }

    pub(super) fn frontends(&self) -> Result<Vec<FrontendView>, CollectError> {
        let reader = self.reader()?;
        let policies = reader.policies()?;
        let origins = self.origins();
        let layers = reader.layers()?.into_iter();
        Ok(layers
            .map(|view| {
                let owner = policies
                    .get(&view.layer.service_id)
                    .map(|p| OwnerView { kind: p.kind.to_string(), name: p.name.clone() });
                frontend(&view, owner, &origins)
            })
            .collect())
    }

    pub(super) fn backends(&self) -> Result<Vec<BackendView>, CollectError> {
        let mut rows: BTreeMap<u32, BackendView> = BTreeMap::new();
        for frontend in self.frontends()? {
            for backend in frontend.backends {
                rows.insert(backend.id, backend);
            }
        }
        Ok(rows.into_values().collect())
    }

    /// The pods with links; with `all` also those that the agent knows and that have none.
    pub(super) fn pods(&self, all: bool) -> Result<Vec<PodView>, CollectError> {
        let layout = self.layout()?;
        let records = Records::new(&self.run_dir).read_all().map(Listing::newest).unwrap_or_default();
        let names: Vec<PodName> = self.ask(&Request::Pods).unwrap_or_default();
        let mut names: BTreeMap<String, PodName> = names.into_iter().map(|n| (n.uid.clone(), n)).collect();
        let linked = links::pods(&layout)?.into_iter().map(|(uid, dir)| {
            let (record, name) = (records.get(&uid), names.remove(uid.as_str()));
            let (hooks, problem) = match live(&dir) {
                Ok(hooks) => (hooks.into_iter().map(str::to_owned).collect(), None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
            PodView { hooks, problem, ..pod(uid.as_str(), record, name) }
        });
        let mut pods: Vec<PodView> = linked.collect();
        if all {
            let unlinked = names.into_values();
            pods.extend(unlinked.map(|name| pod(&name.uid.clone(), None, Some(name))));
        }
        Ok(pods)
    }

    pub(super) fn version(&self) -> VersionView {
        let agent = self.ask::<AgentView>(&Request::Agent).ok().map(|agent| agent.version);
        VersionView { version: env!("CARGO_PKG_VERSION"), abi: balancing_dataplane::ABI, agent }
    }
}

/// A pod as the agent knows it, or else the plugin's record. Nothing is said of hooks.
fn pod(uid: &str, record: Option<&Record>, name: Option<PodName>) -> PodView {
    let recorded = record.map(|r| (r.pod_namespace.clone(), r.pod_name.clone()));
    let named = name.as_ref().map(|n| (n.namespace.clone(), n.name.clone()));
    let (namespace, pod) = named.or(recorded).unzip();
    let cgroup = name.as_ref().and_then(|n| n.cgroup.clone());
    PodView {
        namespace,
        name: pod,
        uid: uid.to_owned(),
        cgroup: cgroup.or_else(|| recorded_cgroup(record?)),
        hooks: Vec::new(),
        problem: None,
        state: name.as_ref().map(|n| n.state.clone()).filter(|state| !state.is_empty()),
        why: name.and_then(|n| n.why),
    }
}

fn recorded_cgroup(record: &Record) -> Option<String> {
    record.cgroup.as_ref().map(|path| path.display().to_string())
}

/// Hooks of a link directory that run.
fn live(dir: &Path) -> Result<Vec<&'static str>, CollectError> {
    let states = links::inspect(dir)?;
    let alive: BTreeSet<Hook> =
        states.into_iter().filter(|(_, state)| state.cgroup_id != 0).map(|(hook, _)| hook).collect();
    Ok(alive.into_iter().map(Hook::name).collect())
}

fn frontend(view: &LayerView, owner: Option<OwnerView>, origins: &Origins) -> FrontendView {
    let origin = |backend: &Backend| origins.get(&(view.layer.service_id, backend.address, backend.port));
    // The kernel keeps shares in lowest terms. Those of the agent are of use only for all backends at once.
    let has_weights = view
        .backends
        .iter()
        .all(|(_, backend)| origin(backend).is_some_and(|o| (o.weight > 0) == (backend.weight > 0)));
    let backends = view.backends.iter().map(|(id, backend)| {
        let origin = origin(backend);
        BackendView {
            id: *id,
            address: backend.address,
            port: backend.port,
            weight: origin.filter(|_| has_weights).map_or(backend.weight, |o| o.weight),
            pod: origin.and_then(|o| o.pod.clone()),
            node: origin.and_then(|o| o.node.clone()),
        }
    });
    FrontendView {
        address: view.key.address,
        port: view.key.port,
        protocol: view.key.protocol.to_string(),
        service_id: view.layer.service_id,
        owner,
        layer: view.layer_number,
        backends: backends.collect(),
        counters: CountersView {
            redirected: view.counters.redirected,
            qos_overflow: view.counters.qos_overflow,
            no_backend: view.counters.no_backend,
            skipped: view.counters.skipped,
        },
    }
}
