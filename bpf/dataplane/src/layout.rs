//! Names of everything of ours on a host's bpffs.
//!
//! ```text
//! <bpffs>/balancing/v<ABI>/maps/<map>          shared tables
//! <bpffs>/balancing/v<ABI>/progs/<hook>        programs for pods: act on every socket of the cgroup
//! <bpffs>/balancing/v<ABI>/host/<hook>         links at the cgroup root
//! <bpffs>/balancing/v<ABI>/pods/<uid>/<hook>   links at a pod's cgroup
//! ```
//!
//! bpffs refuses names that contain a dot.

use std::path::{Path, PathBuf};

/// The socket hooks, in the order in which they are attached: a reply hook is in place before
/// the hook that makes it necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// `cgroup/recvmsg4`
    Recvmsg4,
    /// `cgroup/recvmsg6`
    Recvmsg6,
    /// `cgroup/getpeername4`
    Getpeername4,
    /// `cgroup/getpeername6`
    Getpeername6,
    /// `cgroup/sendmsg4`
    Sendmsg4,
    /// `cgroup/sendmsg6`
    Sendmsg6,
    /// `cgroup/connect4`
    Connect4,
    /// `cgroup/connect6`
    Connect6,
}

impl Hook {
    /// All hooks in attachment order.
    pub const ALL: [Self; 8] = [
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Name of the program, of its pin and of its links' pins.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
        }
    }

    /// `enum bpf_attach_type` of the kernel's `include/uapi/linux/bpf.h`.
    #[must_use]
    pub fn attach_type(self) -> u32 {
        match self {
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Sendmsg4 => 14,
            Self::Sendmsg6 => 15,
            Self::Recvmsg4 => 19,
            Self::Recvmsg6 => 20,
            Self::Getpeername4 => 29,
            Self::Getpeername6 => 30,
        }
    }
}

/// Paths of one ABI's pins. Only joins validated parts; touches no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    bpffs: PathBuf,
    abi: u32,
}

impl Layout {
    /// The layout below a mounted bpffs.
    #[must_use]
    pub fn new(bpffs: &Path, abi: u32) -> Self {
        Self { bpffs: bpffs.to_owned(), abi }
    }

    /// The bpffs mount itself.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The ABI number the paths are for.
    #[must_use]
    pub fn abi(&self) -> u32 {
        self.abi
    }

    /// Directory of every ABI's directories.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.bpffs.join("balancing")
    }

    /// Directory of this ABI.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.base().join(format!("v{}", self.abi))
    }

    /// Directory of the maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.root().join("maps")
    }

    /// Directory of the programs that are attached to pods.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.root().join("progs")
    }

    /// Pin of one program for pods.
    #[must_use]
    pub fn program(&self, hook: Hook) -> PathBuf {
        self.programs().join(hook.name())
    }

    /// Directory of the links at the cgroup root.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.root().join("host")
    }

    /// Directory of the pods' link directories, one per pod UID.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.root().join("pods")
    }
}
