//! What the bench asks of the data plane: the one file that knows its programs, links and tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

pub(crate) use balancing_dataplane::layout::Hook;
use balancing_dataplane::{
    ABI,
    cgroup::CgroupDir,
    layout::Layout,
    links::{self, Programs},
    loader::{HostScope, Options, Sizes, load},
    model::Protocol,
    sys,
    tables::{Reader, Tables},
};
use balancing_tests::{Bpffs, Cgroup, dataplane};

/// Loaded programs and the tables that they read.
pub(crate) struct Plane {
    layout: Layout,
    tables: Tables,
    pods: Programs,
    host: Programs,
    bpffs: Bpffs,
}

/// What a frontend has besides its backends.
#[derive(Clone, Copy, Default)]
pub(crate) struct Terms {
    /// Redirections a second.
    pub(crate) qos_limit: Option<NonZeroU32>,
    /// Seconds that a client keeps its backend.
    pub(crate) affinity: Option<NonZeroU32>,
}

/// Links; detached on drop.
pub(crate) struct Attached {
    dirs: Vec<PathBuf>,
    link: Option<OwnedFd>,
}

/// What the kernel counted of a program since statistics were switched on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunTime {
    /// Nanoseconds in it.
    ns: u64,
    /// Runs.
    runs: u64,
}

impl RunTime {
    /// Nanoseconds a run until a later look; 0 when there was none.
    pub(crate) fn until(self, later: Self) -> f64 {
        let runs = later.runs - self.runs;
        if runs == 0 { 0.0 } else { (later.ns - self.ns) as f64 / runs as f64 }
    }
}

impl Plane {
    /// Programs and empty tables of the default sizes. The host's programs act in the host's namespace.
    pub(crate) fn load(topic: &str) -> Self {
        let bpffs = Bpffs::new(topic);
        let layout = Layout::new(bpffs.path(), ABI);
        let (sizes, host_scope) = (Sizes::default(), HostScope::Namespace(None));
        let loaded = load(&Options { layout: layout.clone(), sizes, host_scope }).expect("the programs load");
        let tables = Tables::open(&layout, sizes).expect("the tables open");
        Self { layout, tables, pods: loaded.pods, host: loaded.host, bpffs }
    }

    /// Programs a UDP frontend. Its number is that of its policy.
    pub(crate) fn redirect(
        &mut self,
        number: u32,
        frontend: SocketAddr,
        backends: &[SocketAddr],
        terms: Terms,
    ) {
        let mut layer = dataplane::layer(number, backends);
        layer.qos_limit = terms.qos_limit;
        layer.affinity = terms.affinity;
        let key = dataplane::key(Protocol::Udp, frontend);
        self.tables.publish(key, &dataplane::alone(layer)).expect("there is room");
    }

    /// Attaches the programs for pods to a pod's cgroup.
    pub(crate) fn attach_pod(&self, cgroup: &Cgroup) -> Attached {
        self.attach(&self.pods, cgroup, "pod")
    }

    /// Attaches the programs for the host to a cgroup that stands for the root.
    pub(crate) fn attach_root(&self, cgroup: &Cgroup) -> Attached {
        self.attach(&self.host, cgroup, "root")
    }

    fn attach(&self, programs: &Programs, cgroup: &Cgroup, name: &str) -> Attached {
        let directory = CgroupDir::open(cgroup.path()).expect("the cgroup is there");
        let dir = self.bpffs.path().join(name);
        links::attach(programs, &directory, &dir).expect("the links attach");
        Attached { dirs: vec![dir], link: None }
    }

    /// A hook's programs: the pods' and the host's.
    pub(crate) fn programs(&self, hook: Hook) -> Vec<OwnedFd> {
        let open = |(name, programs): (&str, &Programs)| {
            let dir = self.bpffs.path().join(name);
            fs::create_dir_all(&dir).expect("bpffs is writable");
            programs.publish(&dir).expect("the programs are pinned");
            sys::obj_get(&dir.join(hook.name())).expect("the program was pinned")
        };
        [("for-pods", &self.pods), ("for-host", &self.host)].map(open).into()
    }

    /// Bytes of every pinned map by the kernel's accounting, `memlock` in a map's fdinfo.
    pub(crate) fn memory(&self) -> BTreeMap<String, u64> {
        let maps = fs::read_dir(self.layout.maps()).expect("the maps are pinned");
        let maps = maps.map(|entry| entry.expect("an entry").path());
        let bytes = |path: PathBuf| {
            let map = sys::obj_get(&path).expect("the map is pinned");
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            (name.unwrap_or_default(), fdinfo(&map, "memlock"))
        };
        maps.map(bytes).collect()
    }
}

/// The smallest program of a hook: it lets every call pass.
pub(crate) fn empty_program(hook: Hook) -> OwnedFd {
    let empty = sys::ProgramSpec {
        prog_type: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type: hook.attach_type(),
        name: "empty",
        instructions: &sys::RETURN_ONE,
    };
    sys::prog_load(&empty, None).expect("an empty program loads")
}

/// Attaches one program to one hook.
pub(crate) fn attach_one(program: &OwnedFd, hook: Hook, cgroup: &Cgroup) -> Attached {
    let directory = CgroupDir::open(cgroup.path()).expect("the cgroup is there");
    let link = sys::link_create(program.as_fd(), directory.as_fd(), hook.attach_type());
    Attached { dirs: Vec::new(), link: Some(link.expect("the program attaches")) }
}

impl Attached {
    /// Both.
    pub(crate) fn and(mut self, mut other: Self) -> Self {
        self.dirs.append(&mut other.dirs);
        self
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        for dir in &self.dirs {
            links::remove(dir).expect("the links go");
        }
        if let Some(link) = &self.link {
            sys::link_detach(link.as_fd()).expect("the link goes");
        }
    }
}

/// What the kernel counted of a program so far.
pub(crate) fn run_time(program: &OwnedFd) -> RunTime {
    RunTime { ns: fdinfo(program, "run_time_ns"), runs: fdinfo(program, "run_cnt") }
}

fn fdinfo(object: &OwnedFd, field: &str) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd())).expect("fdinfo");
    let mut values = info.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    values.next().and_then(|value| value.trim().parse().ok()).expect("a number of the object")
}

/// Whether an agent has attached its programs to the cgroup root, which it does when everything is programmed.
pub(crate) fn host_links(bpffs: &Path) -> bool {
    Layout::new(bpffs, ABI).host().join(Hook::Connect6.name()).exists()
}

/// The tables of an agent, read from outside.
pub(crate) struct Kernel(Reader);

impl Kernel {
    /// Opens what an agent has pinned.
    pub(crate) fn open(bpffs: &Path) -> Self {
        Self(Reader::open(&Layout::new(bpffs, ABI)).expect("the tables are there"))
    }

    /// How many layers all frontends have.
    pub(crate) fn layers(&self) -> usize {
        self.0.layers().expect("the tables can be read").len()
    }

    /// Addresses of the backends of a TCP frontend.
    pub(crate) fn backends(&self, frontend: SocketAddr) -> BTreeSet<IpAddr> {
        let layer = self.0.layer(&dataplane::key(Protocol::Tcp, frontend)).expect("the table can be read");
        layer.map(|layer| layer.backends.iter().map(|b| b.address).collect()).unwrap_or_default()
    }
}
