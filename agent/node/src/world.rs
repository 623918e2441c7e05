//! What the reconcilers share: tables and links, and how far they have come.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use balancing_core::{health::Health, resolve::Role};
use balancing_dataplane::{
    layout::Layout,
    loader::{self, HostScope, LoadError, Options},
    model::{ClientId, Clients},
    mount,
    settings::{NodeSettings, Told as _},
    sys,
    tables::{MapPins, Tables},
};
use tokio::sync::watch;

use crate::{
    attach::{AttachError, Attacher, Rules},
    config::Config,
    error::RunError,
    fabric::{Channels, Fabric},
    lock::{self, Lock},
    owner::Owner,
    reconcile::NOT_LISTED,
    setting,
};

/// Why reconcilers sleep, beside what they say themselves.
const OTHER_ABI: &str = "what an agent of another ABI left stays in force until every kind has been listed";
const OTHER_ABI_SLICES: &str =
    "what an agent of another ABI left stays in force for a minute, or until every policy has its slices";
/// So long an agent waits for slices before it replaces what an agent of another ABI left.
const SLICES_PATIENCE: Duration = Duration::from_secs(60);

/// What the reconcilers share.
pub struct World {
    pub(crate) owner: Owner,
    pub(crate) attacher: Attacher,
    pub(crate) fabric: Fabric,
    pub(crate) role: Role,
    pub(crate) node: String,
    /// Clients that are never redirected; `None` = the pods have not been looked at.
    pub(crate) exempt: Option<BTreeSet<ClientId>>,
    /// The tables have been filled.
    pub(crate) filled: bool,
    /// The links of the host have been made.
    pub(crate) hooked: bool,
    loaded: Instant,
    pub(crate) found_by_name: FoundByName,
    /// Held as long as the agent owns what is pinned.
    _pins: Lock,
}

/// What others find by its name, and somebody may take away.
pub(crate) struct FoundByName {
    maps: MapPins,
    settings: NodeSettings,
    run_dir: PathBuf,
}

impl FoundByName {
    /// Puts back what is missing.
    pub(crate) fn mend(&self) -> Result<(), RunError> {
        let maps = self.maps.mend()?;
        if maps > 0 {
            tracing::warn!(maps, "pins of tables were gone and are back");
        }
        Ok(self.settings.write(&self.run_dir)?)
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

    /// Why the tables may not be used yet although they are filled, and until when: slices come as soon as a controller runs.
    /// Where none does, the other policies do not wait for ever.
    pub(crate) fn must_wait_for_slices(&self) -> Result<Option<(&'static str, Instant)>, AttachError> {
        let until = self.loaded + SLICES_PATIENCE;
        let may_come = !self.filled && Instant::now() < until;
        let must_keep = may_come && self.owner.waits_for_slices() && self.attacher.has_older()?;
        Ok(must_keep.then_some((OTHER_ABI_SLICES, until)))
    }

    /// Loads programs and tables; a directory that another agent owns is refused.
    pub(crate) fn load(
        config: &Config,
        abi: u32,
        health: watch::Sender<Health>,
        channels: Channels,
    ) -> Result<Self, RunError> {
        mount::ensure_bpffs(&config.place.bpffs)?;
        let cgroup_root = setting::cgroup_root(config)?;
        let rules = Rules {
            scope: config.settings.scope,
            role: config.settings.role,
            exclude_namespaces: config.exclude_namespaces.clone(),
        };
        setting::refuse_pod_namespace(&rules, &config.place.run_dir)?;
        let layout = Layout::new(&config.place.bpffs, abi);
        let base = layout.base();
        let is_new = !base.exists();
        fs::create_dir_all(&base).map_err(|source| LoadError::Directory { path: base.clone(), source })?;
        for path in [&base, &config.place.run_dir] {
            setting::refuse_foreign(path)?;
        }
        let pins = lock::directory(&base)?;
        let host_scope = match config.settings.role {
            Role::External | Role::Cluster => HostScope::Everything,
            // Without the cookie the programs compare with the kernel's first namespace.
            Role::Node => HostScope::Namespace(sys::netns_cookie().ok()),
        };
        let options = Options { layout: layout.clone(), sizes: config.sizes, host_scope };
        let loaded = loader::load(&options).inspect_err(|_| {
            // Whoever may load nothing leaves nothing.
            if is_new {
                fs::remove_dir_all(&base).ok();
            }
        })?;
        let mut tables = Tables::open(&layout, config.sizes)?;
        tables.set_events(false)?;
        let found_by_name = FoundByName {
            maps: MapPins::open(&layout)?,
            settings: node_settings(config, abi, &rules, &cgroup_root),
            run_dir: config.place.run_dir.clone(),
        };
        found_by_name.mend()?;
        let settings = config.settings.clone();
        Ok(Self {
            role: settings.role,
            node: settings.node_name.clone(),
            attacher: Attacher::new(
                layout,
                cgroup_root,
                (loaded.pods, loaded.host),
                rules,
                &config.place.run_dir,
            ),
            fabric: Fabric::new(&config.place.bpffs, channels),
            owner: Owner::new(settings, tables, health),
            exempt: None,
            filled: false,
            hooked: false,
            loaded: Instant::now(),
            found_by_name,
            _pins: pins,
        })
    }
}

fn node_settings(config: &Config, abi: u32, rules: &Rules, cgroup_root: &Path) -> NodeSettings {
    NodeSettings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi,
        hooks_pods: rules.hooks_pods(),
        role: if rules.role == Role::External { "external" } else { "node" }.to_owned(),
        scope: match rules.scope {
            Clients::All => "all",
            Clients::Pods => "pods",
            Clients::Host => "host",
        }
        .to_owned(),
        cgroup_root: cgroup_root.to_owned(),
        bpffs: config.place.bpffs.clone(),
        exclude_namespaces: rules.exclude_namespaces.clone(),
    }
}
