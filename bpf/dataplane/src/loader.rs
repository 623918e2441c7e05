//! Loads the programs and opens the tables: the beginning of everything that writes to the kernel.
//!
//! Maps are created once and stay pinned; programs are loaded anew by every agent. Loading attaches nothing and
//! publishes nothing: that is for when the tables are filled.

use std::{
    fs::{self, DirBuilder},
    hash::{BuildHasher as _, RandomState},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    process,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, MapError, MapInfo},
    programs::{CgroupSockAddr, ProgramError},
};
use balancing_abi::sockets::{
    Control, flags,
    index::{self, Seeds},
    maps, reverse_nat,
};

use crate::{
    layout::{Hook, Layout},
    links::{self, Programs},
    probe::{Features, load_patiently},
    tables::{TableError, pins},
};

use crate::sizes::Setting;
pub use crate::sizes::Sizes;

/// The compiled programs.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockets.o"));

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
    /// The tables were made with other settings.
    #[error(
        "the tables below {path} were made with {found}, the settings say {expected}: keep what they were made \
         with, or run `balancing-agent cleanup` first (it ends all redirection until the agent is back)",
        path = path.display()
    )]
    Settings {
        /// The directory of the maps.
        path: PathBuf,
        /// The flags that differ, with what the tables were made with.
        found: String,
        /// The same with what is wanted.
        expected: String,
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
    /// The seed cannot be read or written.
    #[error(transparent)]
    Tables(#[from] TableError),
    /// The number of CPUs cannot be read.
    #[error("cannot read the number of possible CPUs from {path}: {source}")]
    Cpus {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
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
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
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
    let seed = seed(options)?;
    let host_only = match options.host_scope {
        HostScope::Namespace(cookie) => Some(cookie.unwrap_or(0)),
        HostScope::Everything => None,
    };
    let load = |clients, host_only, directory: &Path| -> Result<Programs, LoadError> {
        let mut ebpf = open(options, &features, &Flavour { clients, host_only, seed })?;
        Ok(Programs::loaded(load_programs(&mut ebpf)?, directory)?)
    };
    // One after the other: a second thread would leave the allocator with 15 MB more.
    let pods = load(flags::PODS, None, &layout.programs())?;
    let host = load(flags::HOST, host_only, &layout.host())?;
    Ok(Loaded { pods, host, features })
}

/// The seed of the index, the same for as long as the tables are there: programs have it as a constant.
///
/// The first start makes the tables first, from an object that is not used further; so does one after an interrupted
/// first start, where some are missing.
fn seed(options: &Options) -> Result<u64, LoadError> {
    if maps::ALL.iter().any(|name| !options.layout.maps().join(name).exists()) {
        let features =
            Features { set_retval: false, getpeername: false, netns_cookie: false, atomics: false };
        open(options, &features, &Flavour { clients: 0, host_only: None, seed: 0 })?;
    }
    let mut control = pins::memory::<Control>(&options.layout, maps::CONTROL, true)?;
    let offset = std::mem::offset_of!(Control, seed);
    if control.load64(0, offset) == 0 {
        // Keyed by the operating system's randomness, so that nobody can choose addresses that share a bucket.
        let random = RandomState::new().hash_one(process::id());
        control.store64(0, offset, random.max(1));
    }
    Ok(control.load64(0, offset))
}

/// The constants in which the two sets of programs differ, and the seed.
struct Flavour {
    clients: u16,
    host_only: Option<u64>,
    seed: u64,
}

fn open(options: &Options, features: &Features, flavour: &Flavour) -> Result<Ebpf, LoadError> {
    let sizes = &options.sizes;
    let mask = sizes.connections.max(reverse_nat::MIN_SLOTS) - 1;
    let bucket_shift = index::bucket_shift(index::buckets(sizes.frontends));
    let clients = u32::from(flavour.clients);
    let cpus = possible_cpus()?;
    let seeds = Seeds::from(flavour.seed);
    let set_retval = u32::from(features.set_retval);
    let host_only = u32::from(flavour.host_only.is_some());
    let host_netns = flavour.host_only.unwrap_or(0);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("CLIENTS", &clients, true)
        .override_global("SEED", &flavour.seed, true)
        .override_global("SEED_LOW", &seeds.low, true)
        .override_global("SEED_HIGH", &seeds.high, true)
        .override_global("SEED_TAIL", &seeds.tail, true)
        .override_global("BUCKET_SHIFT", &bucket_shift, true)
        .override_global("IDS", &sizes.ids, true)
        .override_global("HOST_ONLY", &host_only, true)
        .override_global("HOST_NETNS", &host_netns, true)
        .override_global("SET_RETVAL", &set_retval, true)
        .override_global("CONNECTION_MASK", &mask, true);
    for name in maps::ALL {
        loader.map_pin_path(name, options.layout.maps().join(name));
        if let Some(entries) = sizes.entries(name, cpus) {
            loader.map_max_entries(name, entries);
        }
    }
    loader.load(OBJECT).map_err(|source| LoadError::Object { source: Box::new(source) })
}

/// Rows of counters: CPUs that there can ever be on this machine.
/// One more than the highest number that a CPU can have: numbers may be missing in between.
fn possible_cpus() -> Result<u32, LoadError> {
    let path = "/sys/devices/system/cpu/possible";
    let list = fs::read_to_string(path).and_then(|list| {
        cpu_numbers(&list).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a list of CPUs"))
    });
    list.map_err(|source| LoadError::Cpus { path, source })
}

/// Numbers that a list of CPUs like `0-3,8-11` needs.
fn cpu_numbers(list: &str) -> Option<u32> {
    let last = list.trim().rsplit([',', '-']).next()?.parse::<u32>().ok()?;
    last.checked_add(1)
}

fn check_shapes(layout: &Layout, sizes: &Sizes) -> Result<(), LoadError> {
    let (cpus, path) = (possible_cpus()?, layout.maps());
    let settings = Sizes::of(layout).settings().into_iter().zip(sizes.settings());
    let differ: Vec<_> = settings.filter(|(found, wanted)| found.1 != 0 && found != wanted).collect();
    if !differ.is_empty() {
        let list = |pick: fn(&(Setting, Setting)) -> Setting| {
            let flags = differ.iter().map(pick).map(|(flag, value)| format!("{flag} {value}"));
            flags.collect::<Vec<_>>().join(" ")
        };
        let (found, expected) = (list(|(found, _)| *found), list(|(_, wanted)| *wanted));
        return Err(LoadError::Settings { path, found, expected });
    }
    for expected in crate::shape::ALL {
        let path = layout.maps().join(expected.name);
        if !path.exists() {
            continue;
        }
        let info = map_info(&path)?;
        let capacity = sizes.entries(expected.name, cpus).unwrap_or(expected.entries);
        let kind = info.map_type().map(|t| t as u32).unwrap_or(u32::MAX);
        for (field, found, expected) in [
            ("type", kind, expected.kind),
            ("key size", info.key_size(), expected.key),
            ("value size", info.value_size(), expected.value),
            ("capacity", info.max_entries(), capacity),
            ("flags", info.map_flags(), expected.flags),
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

/// The kernel's answer to a load, where it is one.
pub(crate) fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
        _ => None,
    }
}

fn load_programs(ebpf: &mut Ebpf) -> Result<Vec<(Hook, OwnedFd)>, LoadError> {
    Hook::ALL
        .into_iter()
        .map(|hook| {
            let failed = |source| LoadError::Program { name: hook.name(), source: Box::new(source) };
            let program = program(ebpf, hook)?;
            load_patiently(|| program.load(), errno).map_err(failed)?;
            let fd = program.fd().map_err(failed)?;
            let fd = fd.as_fd().try_clone_to_owned().map_err(|e| failed(ProgramError::IOError(e)))?;
            Ok((hook, fd))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_does_not_keep_a_program_from_being_loaded() {
        let refusal = |code| {
            let io_error = io::Error::from_raw_os_error(code);
            ProgramError::LoadError { io_error, verifier_log: aya_obj::VerifierLog::new(String::new()) }
        };
        for (code, tries) in [(libc::EAGAIN, 5), (libc::EACCES, 1)] {
            let mut tried = 0;
            let load = || {
                tried += 1;
                Err::<(), _>(refusal(code))
            };
            assert!(load_patiently(load, errno).is_err());
            assert_eq!(tried, tries);
        }
    }

    #[test]
    fn cpus_may_have_any_numbers() {
        for (list, numbers) in [("0\n", 1), ("0-7\n", 8), ("0,2\n", 3), ("0-3,8-11\n", 12)] {
            assert_eq!(cpu_numbers(list), Some(numbers), "{list}");
        }
        assert_eq!(cpu_numbers("\n"), None);
    }
}
