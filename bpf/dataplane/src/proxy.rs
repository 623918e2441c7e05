//! The proxy on the tunnel device: loads its programs, keeps them at the device, and owns its tables.
//!
//! It is the one writer of what is declared; connections are the programs' own, and only what has ended is removed here. It
//! decides nothing: which port leads where arrives as [`Service`]s. Everything is pinned below `<bpffs>/balancing/proxy-v<ABI>`, so that
//! traffic goes on without the agent. The protocol between both sides is told in [`balancing_abi::proxy`].

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use balancing_abi::proxy::{ABI, counter, maps};

use crate::model::{Backend, FrontendKey};

mod attach;
mod clsact;
mod frame;
mod load;
mod sweep;
mod tables;

pub use self::frame::{Direction, Verdict};
#[cfg(test)]
pub(crate) use self::load::OBJECT;

use attach::Links;
use load::Programs;
use sweep::Sweeper;
use tables::Tables;

/// What to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// Capacities.
    pub sizes: Sizes,
    /// Links of tcx, where the kernel has them; otherwise filters, as everywhere before Linux 6.6.
    pub tcx: bool,
    /// Time runs 2 to the power of this as fast for connections, for tests that cannot wait for hours. Else 0.
    pub time_shift: u32,
}

/// Capacities of the tables. A pinned table keeps the capacity it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Declared (address, port, protocol).
    pub frontends: u32,
    /// Backends of all of them.
    pub backends: u32,
    /// Rows of connections, two a connection; those unused for longest are forgotten first.
    pub connections: u32,
    /// Clients with affinity.
    pub affinity: u32,
    /// Packets that come in pieces.
    pub fragments: u32,
}

/// The own tunnel addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6.
    pub ipv6: Option<Ipv6Addr>,
}

/// Where a port of the proxy leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Policy.
    pub service_id: u32,
    /// Backends of the family of the proxy's address.
    pub backends: Vec<Backend>,
    /// Seconds a client keeps its backend.
    pub affinity: Option<NonZeroU32>,
    /// Without a backend clients are to be refused; noted for people, the packet is dropped either way.
    pub reject: bool,
}

/// What happened to packets since the tables were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets and bytes that came through the tunnel and went on.
    pub ingress: (u64, u64),
    /// Packets and bytes that left through the tunnel.
    pub egress: (u64, u64),
    /// Connections to declared ports.
    pub proxied: u64,
    /// Connections that were started here.
    pub started: u64,
    /// Rows of connections that the kernel has forgotten because the table was full; at least so many, as of the last complete
    /// sweep.
    pub forgotten: u64,
    /// Dropped packets by reason.
    pub drops: BTreeMap<&'static str, u64>,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The table.
    pub table: &'static str,
    /// Rows in use.
    pub used: u32,
    /// Rows there are.
    pub capacity: u32,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rows that were looked at.
    pub seen: u32,
    /// Rows that were removed.
    pub removed: u32,
    /// Everything was looked at; otherwise the next sweep goes on.
    pub complete: bool,
}

/// Why the proxy cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory.
    #[error("cannot {operation} {path}: {source}; is bpffs mounted read-write?", path = path.display())]
    Directory {
        /// What was tried.
        operation: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pinned map does not have the expected shape.
    #[error(
        "pinned map {path} has {field} {found}, this build needs {expected}: run `balancing-agent cleanup` first (it ends all \
         redirection until the agent is back)",
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
    /// The object or a program was refused.
    #[error("cannot load the proxy: {0}")]
    Load(String),
    /// A pinned object.
    #[error("cannot open {path}: {source}", path = path.display())]
    Open {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device.
    #[error("cannot {operation} the proxy at device {device}: {source}{}", attach::remedy(source))]
    Attach {
        /// `attach`, `look for`, `replace` or `detach`.
        operation: &'static str,
        /// Index of the device.
        device: u32,
        /// Why.
        source: io::Error,
    },
    /// A frame that cannot be tried.
    #[error("cannot run a frame of {length} bytes through the proxy: {source}")]
    Frame {
        /// Bytes of the frame.
        length: usize,
        /// Why.
        source: io::Error,
    },
    /// No room.
    #[error(
        "table {table} of the proxy is full ({capacity} entries): {object} does not fit; declare fewer ports or pods"
    )]
    Full {
        /// The table.
        table: &'static str,
        /// Its capacity.
        capacity: u32,
        /// What did not fit.
        object: String,
    },
    /// The kernel refused an operation.
    #[error("cannot {operation} {object} in table {table} of the proxy: {source}")]
    Operation {
        /// `read`, `write` or `delete`.
        operation: &'static str,
        /// The table.
        table: &'static str,
        /// Key or purpose.
        object: String,
        /// Why.
        source: io::Error,
    },
}

/// The one owner of the proxy on this host.
pub struct Proxy {
    programs: Programs,
    links: Links,
    tables: Tables,
    sweeper: Sweeper,
    sizes: Sizes,
}

impl Options {
    /// The usual capacities.
    #[must_use]
    pub fn new(bpffs: &Path) -> Self {
        Self { bpffs: bpffs.to_owned(), sizes: Sizes::default(), tcx: true, time_shift: 0 }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frontends: maps::size::FRONTENDS,
            backends: maps::size::BACKENDS,
            connections: maps::size::CONNECTIONS,
            affinity: maps::size::AFFINITY,
            fragments: maps::size::FRAGMENTS,
        }
    }
}

impl Sizes {
    /// Rows of a table, `None` for one that no size changes.
    fn entries(&self, table: &str) -> Option<u32> {
        match table {
            maps::FRONTENDS => Some(self.frontends),
            maps::SERVICES => Some(self.frontends + maps::size::SPARE),
            maps::BACKENDS => Some(self.backends),
            maps::CONNECTIONS => Some(self.connections),
            maps::AFFINITY => Some(self.affinity),
            maps::FRAGMENTS => Some(self.fragments),
            _ => None,
        }
    }
}

/// Directory of everything of this ABI.
fn root(bpffs: &Path) -> PathBuf {
    bpffs.join("balancing").join(format!("proxy-v{ABI}"))
}

impl Proxy {
    /// Loads the programs, makes the tables that are missing, and takes over what they hold.
    ///
    /// # Errors
    /// Any step that the kernel refuses, naming the object.
    pub fn load(options: &Options) -> Result<Self, Error> {
        let root = root(&options.bpffs);
        let (maps, links) = (root.join("maps"), root.join("links"));
        for path in [&maps, &links] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|source| Error::Directory { operation: "create", path: path.clone(), source })?;
        }
        let programs = load::load(&maps, options)?;
        let tables = Tables::open(&maps, options.sizes)?;
        Ok(Self {
            programs,
            links: Links::new(links, options.tcx),
            tables,
            sweeper: Sweeper::new(options.time_shift),
            sizes: options.sizes,
        })
    }

    /// Makes the programs work on a device, and tells whether anything had to be done. Links of an earlier agent get the new programs
    /// in one step; those to a device that is gone are replaced.
    ///
    /// # Errors
    /// The device is gone, or the kernel has neither tcx nor clsact.
    pub fn attach(&mut self, device: u32) -> Result<bool, Error> {
        self.links.attach(&self.programs, device)
    }

    /// Whether the programs work on a device.
    ///
    /// # Errors
    /// A pin that cannot be read.
    pub fn is_attached(&self, device: u32) -> Result<bool, Error> {
        self.links.is_attached(&self.programs, device)
    }

    /// Tells the programs which addresses are the own ones.
    ///
    /// # Errors
    /// None today; the kernel is not asked.
    pub fn set_local(&mut self, local: &Local) -> Result<(), Error> {
        self.tables.set_local(local);
        Ok(())
    }

    /// What is declared.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<FrontendKey, Service> {
        self.tables.entries()
    }

    /// Declares a port, or changes where it leads: atomically for every packet.
    ///
    /// # Errors
    /// A full table or a refused operation; then the port is as it was before.
    pub fn publish(&mut self, key: FrontendKey, service: &Service) -> Result<(), Error> {
        self.tables.publish(key, service)
    }

    /// Takes a port back. TCP connections drain; UDP, and TCP that was not answered yet, end with the next packet.
    ///
    /// # Errors
    /// A refused operation.
    pub fn remove(&mut self, key: &FrontendKey) -> Result<(), Error> {
        self.tables.remove(key)
    }

    /// What happened to packets.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn counters(&self) -> Result<Counters, Error> {
        let values = (0..counter::COUNT).map(|index| self.tables.counter(index));
        let values: Vec<u64> = values.collect::<Result<_, _>>()?;
        let at = |index: u32| values.get(index as usize).copied().unwrap_or_default();
        let reasons = counter::REASONS.iter().zip(0_u32..).skip(1);
        Ok(Counters {
            ingress: (at(counter::INGRESS), at(counter::INGRESS + 1)),
            egress: (at(counter::EGRESS), at(counter::EGRESS + 1)),
            proxied: at(counter::PROXIED),
            started: at(counter::STARTED),
            forgotten: self.sweeper.forgotten(),
            drops: reasons.map(|(reason, number)| (*reason, at(counter::drop(number)))).collect(),
        })
    }

    /// How full the tables are; connections as the last complete sweep has seen them.
    ///
    /// # Errors
    /// None today.
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        let row = |table, used, capacity| Usage { table, used, capacity };
        Ok(vec![
            row(maps::FRONTENDS, self.tables.entries().len() as u32, self.sizes.frontends),
            row(maps::BACKENDS, self.tables.backends(), self.sizes.backends),
            row(maps::CONNECTIONS, self.sweeper.rows(), self.sizes.connections),
        ])
    }

    /// Removes rows of connections that have ended, among the next few thousand.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn sweep(&mut self) -> Result<Swept, Error> {
        self.sweeper.sweep(&mut self.tables)
    }
}

/// Whether there are pins of this version.
#[must_use]
pub fn is_pinned(bpffs: &Path) -> bool {
    root(bpffs).exists()
}

/// Detaches the programs from every device of this network namespace and removes every pin of every version. Nothing there is
/// no failure.
///
/// # Errors
/// What cannot be removed.
pub fn unload(bpffs: &Path) -> Result<(), Error> {
    attach::detach_filters()?;
    let base = bpffs.join("balancing");
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Directory { operation, path, source }
    };
    let entries = match fs::read_dir(&base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("list", &base))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", &base))?;
        if entry.file_name().to_string_lossy().starts_with("proxy-v") {
            attach::detach_all(&entry.path().join("links"));
            fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}
