//! Loads the programs and opens the tables: the beginning of everything that writes to the kernel.
//!
//! Maps are created once and stay pinned; programs are loaded anew by every agent. Loading attaches nothing and
//! publishes nothing: that is for when the tables are filled.

use std::{
    fs::DirBuilder,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, MapError, MapInfo},
    programs::{CgroupSockAddr, ProgramError},
};
use balancing_abi::{conn, flags, maps};

use crate::{
    layout::{Hook, Layout},
    links::{self, Programs},
    probe::Features,
};

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockets.o"));

/// Capacities of the tables. A pinned table keeps the capacity it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends of each family, both layers.
    pub frontends: u32,
    /// Slots of all backend sets; a set of one backend takes none.
    pub backends: u32,
    /// Connected sockets that keep their frontend's name; a power of two, at least 65,536.
    pub connections: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frontends: maps::size::FRONTENDS,
            backends: maps::size::BACKENDS,
            connections: maps::size::CONNECTIONS,
        }
    }
}

/// Whose sockets the programs at the cgroup root act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostScope {
    /// Only those in the host's network namespace, given by its cookie; `None` = the kernel's first namespace.
    Namespace(Option<u64>),
    /// Every socket: a host outside the cluster.
    Everything,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the pins are.
    pub layout: Layout,
    /// Capacities.
    pub sizes: Sizes,
    /// For the programs at the cgroup root.
    pub host_scope: HostScope,
}

/// Why the data plane cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A directory cannot be made.
    #[error("cannot create {path}: {source}; is bpffs mounted read-write and is the agent allowed to write there?", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pinned map does not have the expected shape.
    #[error(
        "pinned map {path} has {field} {found}, this build and its settings need {expected}: keep the setting \
         it was made with, or run `balancing-agent cleanup` first (it ends all redirection until the agent is back)",
        path = path.display()
    )]
    Shape {
        /// The pin.
        path: PathBuf,
        /// The property that differs.
        field: &'static str,
        /// Its value in the kernel.
        found: u32,
        /// Its value here.
        expected: u32,
    },
    /// A map operation failed.
    #[error("cannot open map {path}: {}", chain(source), path = path.display())]
    Map {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: Box<MapError>,
    },
    /// The object was refused.
    #[error("cannot load the BPF object: {}", chain(source))]
    Object {
        /// Why.
        source: Box<EbpfError>,
    },
    /// A program was refused.
    #[error("cannot load program {name}: {}", chain(source))]
    Program {
        /// The program.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A loaded program cannot be used.
    #[error(transparent)]
    Programs(#[from] links::Error),
    /// The object lacks something that this crate was built with.
    #[error("the BPF object has no {kind} {name}: build the programs and the agent from one checkout")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
}

/// An error with its sources in one line, because aya's messages stop at the first level, and what to do about it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut remedy = remedy(error);
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        remedy = remedy.or_else(|| self::remedy(inner));
        source = inner.source();
    }
    format!("{text}{}", remedy.unwrap_or_default())
}

/// What to do about a refusal of the kernel.
fn remedy(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    match error.downcast_ref::<io::Error>()?.raw_os_error()? {
        libc::EPERM | libc::EACCES => Some(
            "; the agent has to run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN and a bpffs of its own",
        ),
        libc::EROFS => Some("; is bpffs mounted read-write?"),
        libc::ENOMEM => Some("; raise the memory limit of the agent's container, its maps count there"),
        _ => None,
    }
}

/// Programs of one agent; the maps are opened by their pins.
pub struct Loaded {
    /// Programs for pods; nobody sees them before they are published.
    pub pods: Programs,
    /// Programs for the cgroup root.
    pub host: Programs,
    /// What the kernel can do.
    pub features: Features,
}

/// Loads everything and pins the maps.
///
/// # Errors
/// Any step that the kernel refuses, naming the object. What was pinned before is untouched, except that
/// missing maps may have been created.
pub fn load(options: &Options) -> Result<Loaded, LoadError> {
    let layout = &options.layout;
    for path in [layout.maps(), layout.programs(), layout.pods(), layout.host()] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| LoadError::Directory { path, source })?;
    }
    check_shapes(layout, &options.sizes)?;
    let features = Features::probe();
    let mut pods = open(options, &features, &Flavour { clients: flags::PODS, host_only: None })?;
    let host_only = match options.host_scope {
        HostScope::Namespace(cookie) => Some(cookie.unwrap_or(0)),
        HostScope::Everything => None,
    };
    let mut host = open(options, &features, &Flavour { clients: flags::HOST, host_only })?;
    let pods = Programs::loaded(load_programs(&mut pods)?, &layout.programs())?;
    let host = Programs::loaded(load_programs(&mut host)?, &layout.host())?;
    Ok(Loaded { pods, host, features })
}

/// The constants in which the two sets of programs differ.
struct Flavour {
    clients: u32,
    host_only: Option<u64>,
}

fn open(options: &Options, features: &Features, flavour: &Flavour) -> Result<Ebpf, LoadError> {
    let sizes = &options.sizes;
    let mask = sizes.connections - 1;
    let set_retval = u32::from(features.set_retval);
    let host_only = u32::from(flavour.host_only.is_some());
    let host_netns = flavour.host_only.unwrap_or(0);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("CLIENTS", &flavour.clients, true)
        .override_global("HOST_ONLY", &host_only, true)
        .override_global("HOST_NETNS", &host_netns, true)
        .override_global("SET_RETVAL", &set_retval, true)
        .override_global("CONNECTION_MASK", &mask, true);
    for name in maps::ALL {
        loader.map_pin_path(name, options.layout.maps().join(name));
        if let Some(entries) = entries(name, sizes) {
            loader.map_max_entries(name, entries);
        }
    }
    loader.load(OBJECT).map_err(|source| LoadError::Object { source: Box::new(source) })
}

/// The capacity of a table whose capacity is a setting.
fn entries(name: &str, sizes: &Sizes) -> Option<u32> {
    match name {
        maps::FRONTENDS4 | maps::FRONTENDS6 | maps::REDIRECTED | maps::NAMES => Some(sizes.frontends),
        maps::BACKENDS => Some(sizes.backends),
        maps::CONNECTIONS => Some(sizes.connections.max(conn::MIN_SLOTS)),
        _ => None,
    }
}

fn check_shapes(layout: &Layout, sizes: &Sizes) -> Result<(), LoadError> {
    for expected in crate::shape::ALL {
        let path = layout.maps().join(expected.name);
        if !path.exists() {
            continue;
        }
        let info = map_info(&path)?;
        let capacity = entries(expected.name, sizes).unwrap_or(expected.entries);
        let kind = info.map_type().map(|t| t as u32).unwrap_or(u32::MAX);
        for (field, found, expected) in [
            ("type", kind, expected.kind),
            ("key size", info.key_size(), expected.key),
            ("value size", info.value_size(), expected.value),
            ("capacity", info.max_entries(), capacity),
        ] {
            if found != expected {
                return Err(LoadError::Shape { path, field, found, expected });
            }
        }
    }
    Ok(())
}

fn map_info(path: &Path) -> Result<MapInfo, LoadError> {
    MapData::from_pin(path)
        .and_then(|map| map.info())
        .map_err(|source| LoadError::Map { path: path.to_owned(), source: Box::new(source) })
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut CgroupSockAddr, LoadError> {
    let missing = || LoadError::Missing { kind: "program", name: hook.name() };
    ebpf.program_mut(hook.name())
        .ok_or_else(missing)?
        .try_into()
        .map_err(|_other_type: ProgramError| missing())
}

fn load_programs(ebpf: &mut Ebpf) -> Result<Vec<(Hook, OwnedFd)>, LoadError> {
    Hook::ALL
        .into_iter()
        .map(|hook| {
            let failed = |source| LoadError::Program { name: hook.name(), source: Box::new(source) };
            let program = program(ebpf, hook)?;
            program.load().map_err(failed)?;
            let fd = program.fd().map_err(failed)?;
            let fd = fd.as_fd().try_clone_to_owned().map_err(|e| failed(ProgramError::IOError(e)))?;
            Ok((hook, fd))
        })
        .collect()
}

/// The capacity of a pinned table, 0 when it cannot be asked.
pub(crate) fn capacity(layout: &Layout, name: &str) -> u32 {
    map_info(&layout.maps().join(name)).map_or(0, |info| info.max_entries())
}
