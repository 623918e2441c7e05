//! What a hook adds to connect(2) and close(2), against an empty program on the same hook.
//!
//! UDP sockets in a private namespace whose addresses are all local, so that the kernel's own part is small and nothing is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::{Hook, Layout},
    links::{self, Programs},
    loader::{HostScope, Options, Sizes, load},
    model::{Backend, Clients, Entry, FrontendKey, Layer, Protocol},
    sys,
    tables::Tables,
};
use balancing_tests::{Bpffs, Cgroup, NetNs};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use rustix::net::{AddressFamily, SocketType, connect, socket};

use crate::{Report, median};

/// Frontends of the large table.
pub(crate) const FRONTENDS: u32 = 60_000;
const ROUNDS: usize = 101;
const CALLS: usize = 5_120;
const SOCKETS: usize = 512;
const MISS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), 53);
const TEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 1, 1), 53);

/// The i-th frontend and its backend.
fn frontend(i: u32) -> (SocketAddrV4, SocketAddrV4) {
    let [front, back] = [0x0a60_0000, 0x0af4_0000].map(|base| Ipv4Addr::from(base + i));
    (SocketAddrV4::new(front, 53), SocketAddrV4::new(back, 5353))
}

fn entry(backends: impl IntoIterator<Item = SocketAddrV4>) -> Entry {
    let backends = backends
        .into_iter()
        .map(|a| Backend { address: (*a.ip()).into(), port: a.port(), weight: 1 })
        .collect();
    let first = Layer {
        service_id: 1,
        backends,
        clients: Clients::All,
        qos_limit: None,
        window: 1,
        affinity: None,
        reject: false,
        skip: BTreeSet::new(),
    };
    Entry { layers: vec![first] }
}

pub(crate) fn key(address: SocketAddrV4) -> FrontendKey {
    FrontendKey { address: (*address.ip()).into(), port: address.port(), protocol: Protocol::Udp }
}

/// Tables with all frontends, and programs to attach.
pub(crate) fn fill(layout: &Layout) -> (Tables, Programs, Programs) {
    let sizes = Sizes::default();
    let options = Options { layout: layout.clone(), sizes, host_scope: HostScope::Namespace(None) };
    let loaded = load(&options).expect("the programs load");
    let mut tables = Tables::open(layout, sizes).expect("the tables open");
    for i in 0..FRONTENDS {
        let (front, back) = frontend(i);
        tables.publish(key(front), &entry([back])).expect("there is room");
    }
    let ten = (0..10).map(|i| SocketAddrV4::new(Ipv4Addr::new(10, 2, 2, i), 5353));
    tables.publish(key(TEN), &entry(ten)).expect("there is room");
    (tables, loaded.pods, loaded.host)
}

fn udp() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket")
}

/// Nanoseconds per connect of one socket.
fn same_socket(targets: &[SocketAddrV4], calls: usize) -> f64 {
    let socket = udp();
    connect(&socket, &targets[0]).expect("every address is local");
    let start = Instant::now();
    for target in targets.iter().cycle().take(calls) {
        connect(&socket, target).expect("every address is local");
    }
    start.elapsed().as_nanos() as f64 / calls as f64
}

/// Nanoseconds per first connect and per close.
fn new_sockets(target: SocketAddrV4) -> (f64, f64) {
    let (mut connects, mut closes) = (0, 0);
    let rounds = CALLS / SOCKETS;
    for _ in 0..rounds {
        let sockets: Vec<OwnedFd> = (0..SOCKETS).map(|_| udp()).collect();
        let start = Instant::now();
        for socket in &sockets {
            connect(socket, &target).expect("every address is local");
        }
        connects += start.elapsed().as_nanos();
        let start = Instant::now();
        drop(sockets);
        closes += start.elapsed().as_nanos();
    }
    let calls = (rounds * SOCKETS) as f64;
    (connects as f64 / calls, closes as f64 / calls)
}

type Samples = BTreeMap<&'static str, Vec<f64>>;

fn sample(samples: &mut Samples, same: &'static str, target: SocketAddrV4, new: [&'static str; 2]) {
    samples.entry(same).or_default().push(same_socket(&[target], CALLS));
    let (connect, close) = new_sockets(target);
    samples.entry(new[0]).or_default().push(connect);
    samples.entry(new[1]).or_default().push(close);
}

fn shuffled() -> Vec<SocketAddrV4> {
    let mut targets: Vec<_> = (0..FRONTENDS).map(|i| frontend(i).0).collect();
    let mut seed = 1_u64;
    for i in (1..targets.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        targets.swap(i, (seed >> 33) as usize % (i + 1));
    }
    targets
}

fn rounds() -> Samples {
    let bpffs = Bpffs::new("bench");
    let layout = Layout::new(bpffs.path(), balancing_dataplane::ABI);
    let one = Layout::new(bpffs.path(), balancing_dataplane::ABI + 1);
    let (mut tables, pods, host) = fill(&layout);
    let loaded =
        load(&Options { layout: one.clone(), sizes: Sizes::default(), host_scope: HostScope::Everything })
            .expect("the programs load");
    let mut single = Tables::open(&one, Sizes::default()).expect("the tables open");
    let (front, back) = frontend(0);
    single.publish(key(front), &entry([back])).expect("there is room");
    let mut cgroup = Cgroup::new("bench");
    cgroup.enter();
    let mut cpu = CpuSet::new();
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    cpu.set(last).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpu)).expect("the CPU is there");
    let directory = CgroupDir::open(cgroup.path()).expect("the cgroup is there");
    let empty = sys::ProgramSpec {
        prog_type: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type: Hook::Connect4.attach_type(),
        name: "empty",
        instructions: &sys::RETURN_ONE,
    };
    let empty = sys::prog_load(&empty, None).expect("an empty program loads");
    let mut targets = shuffled();
    let hit = targets[0];
    let attach = |programs: &Programs, name: &str| {
        let dir = bpffs.path().join(name);
        links::attach(programs, &directory, &dir).expect("the links attach");
        dir
    };
    let mut samples = Samples::new();
    for _ in 0..ROUNDS {
        sample(&mut samples, "none", MISS, ["none new", "none close"]);
        let link = sys::link_create(empty.as_fd(), directory.as_fd(), Hook::Connect4.attach_type())
            .expect("the empty program attaches");
        sample(&mut samples, "empty", MISS, ["empty new", "empty close"]);
        drop(link);
        let dir = attach(&loaded.pods, "one");
        samples.entry("hit one").or_default().push(same_socket(&[front], CALLS));
        links::remove(&dir).expect("the links go");
        let dir = attach(&pods, "pods");
        sample(&mut samples, "miss", MISS, ["miss new", "miss close"]);
        sample(&mut samples, "hit", hit, ["hit new", "hit close"]);
        samples.entry("ten").or_default().push(same_socket(&[TEN], CALLS));
        targets.rotate_left(CALLS);
        samples.entry("random").or_default().push(same_socket(&targets, CALLS));
        let both = attach(&host, "both");
        samples.entry("hit under the root").or_default().push(same_socket(&[hit], CALLS));
        links::remove(&both).expect("the links go");
        links::remove(&dir).expect("the links go");
    }
    tables.remove(&key(TEN)).expect("the entry goes");
    samples
}

/// The median over rounds of the difference between two cases of the same round.
fn difference(samples: &Samples, case: &str, base: &str) -> f64 {
    let pairs = samples[case].iter().zip(&samples[base]);
    median(&mut pairs.map(|(case, base)| case - base).collect::<Vec<_>>())
}

/// Measures in a thread of its own: it changes its network namespace.
pub(crate) fn measure(report: &mut Report) {
    let namespace = NetNs::new();
    namespace.add_address("10.0.0.1/8", "lo");
    let samples = namespace.run(rounds);
    let value = |name: &str| median(&mut samples[name].clone());
    let hook = difference(&samples, "empty", "none");
    let new_hook = difference(&samples, "empty new", "none new");
    report.tell("connect(2) of a UDP socket, no program", value("none"), "ns");
    report.tell("empty program on the hook, over none", hook, "ns");
    let over = |name: &str| difference(&samples, name, "none") / hook;
    let over_new = |name: &str| difference(&samples, name, "none new") / new_hook;
    report.at_most("connect that misses, over the empty hook", over("miss"), "x", 1.2);
    report.at_most("connect that is redirected, same socket, over the empty hook", over("hit"), "x", 1.35);
    report.tell("the same among 10 backends", over("ten"), "x");
    report.tell("the same under a second link at the root (host scope)", over("hit under the root"), "x");
    report.tell("first connect of a new socket, empty program, over none", new_hook, "ns");
    report.at_most(
        "first connect of a new socket, redirected, over the empty hook",
        over_new("hit new"),
        "x",
        1.7,
    );
    report.tell("first connect of a new socket that misses", over_new("miss new"), "x");
    report.tell("close(2) under the empty hook", value("empty close"), "ns");
    let close = difference(&samples, "hit close", "empty close");
    report.tell("close(2) of a redirected socket, over that", close, "ns");
    let one = difference(&samples, "hit", "hit one") + value("hit one");
    report.at_most("1 frontend against 60,000, same target", one / value("hit one"), "x", 1.05);
    report.at_most("random target among 60,000, over the empty hook", over("random"), "x", 3.0);
}
