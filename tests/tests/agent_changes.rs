//! Nothing is lost under change: objects change, agents die and are replaced, and no connection notices.
//!
//! Every server tells its name, so each connection shows where it went. A backend counts as gone from the
//! moment in which the kernel's table was seen without it, until its object is written again.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use balancing_dataplane::{
    ABI,
    layout::Layout,
    links,
    model::PolicyKind,
    tables::{self, Reader},
};
use balancing_tests::*;
use serde_json::json;

const FRONTEND: &str = "10.96.0.1:80";
const BACKENDS: usize = 8;
/// At most 200 changes a second; a slow machine makes fewer.
const PACE: Duration = Duration::from_millis(5);
/// How long a machine may take to get as far as a test wants it.
const PATIENCE: Duration = Duration::from_secs(300);

/// A time in which a backend was in no set, on the clock of the samples.
struct Absence {
    backend: String,
    from: u64,
    to: u64,
}

/// What a backend's object and the kernel say.
#[derive(Clone, Copy, PartialEq)]
enum Presence {
    Coming,
    In,
    Leaving,
    Out { from: u64 },
}

/// A node with a policy over eight pods, and four clients that connect all the time.
struct World {
    node: Node,
    clients: Vec<Client>,
    presence: [Presence; BACKENDS],
    absences: Vec<Absence>,
    turn: usize,
    servers: Vec<EchoServer>,
    _sandboxes: [Sandbox; 2],
}

fn policy() -> Object {
    Object::local_redirect("policy", "10.96.0.1", 80, "web")
}

/// Another state of the policy that leads no connection elsewhere: its limit is beyond what any machine can make in a
/// second.
fn changed_policy(turn: usize) -> Object {
    policy().with("/spec/qosLimit", 2_000_000_000 + turn)
}

fn backend(number: usize) -> Object {
    Object::pod(&format!("b{number}"), "web", &[&format!("10.1.0.{number}")])
}

impl World {
    /// Everything runs; two clients are host processes, two are pods.
    fn start(topic: &str) -> Self {
        Self::start_by(topic, None)
    }

    /// The same with an agent from elsewhere.
    fn start_by(topic: &str, agent: Option<PathBuf>) -> Self {
        let mut node = Node::with(topic, &["--max-frontends", "1024"]);
        agent.into_iter().for_each(|path| node.agent().replace_by(path));
        let mut servers = vec![node.serve("original", &[FRONTEND])];
        for number in 0..BACKENDS {
            servers.push(node.serve(&format!("b{number}"), &[&format!("10.1.0.{number}:80")]));
            node.apply(&backend(number));
        }
        let pods = ["client-a", "client-b"].map(|name| Object::pod(name, "client", &[]));
        let sandboxes = pods.each_ref().map(|pod| node.sandbox(pod));
        pods.iter().for_each(|pod| node.apply(pod));
        node.apply(&policy());
        node.start();
        let clients = vec![node.client(), node.client(), sandboxes[0].client(), sandboxes[1].client()];
        let (presence, absences) = ([Presence::In; BACKENDS], Vec::new());
        Self { node, clients, presence, absences, turn: 0, servers, _sandboxes: sandboxes }
    }

    fn load(&mut self) {
        let mut churn = Churn::to(Kind::Tcp4, address(FRONTEND));
        churn.samples = true;
        self.clients.iter_mut().for_each(|client| client.start_churn(&churn));
    }

    /// Connections since the start, a few that were not counted as answered yet included.
    fn connections(&self) -> u64 {
        self.servers.iter().map(EchoServer::connections).sum()
    }

    /// Waits until the clients have made so many more connections.
    #[track_caller]
    fn wait_connections(&self, count: u64) {
        let wanted = self.connections() + count;
        wait_until(PATIENCE, || self.connections() >= wanted);
    }

    /// Ends the load and judges it. Returns the number of connections.
    #[track_caller]
    fn judge(&mut self) -> usize {
        for number in 0..BACKENDS {
            self.comes_back(number);
        }
        let names: BTreeSet<String> = (0..BACKENDS).map(|number| format!("b{number}")).collect();
        let mut count = 0;
        for client in &mut self.clients {
            let report = client.stop_churn();
            assert!(report.errors.is_empty(), "failed connects: {:?}", report.errors);
            let strangers: Vec<_> = report.peers.keys().filter(|name| !names.contains(*name)).collect();
            assert!(strangers.is_empty(), "not redirected: {:?}", report.peers);
            count += report.samples.len();
            for sample in &report.samples {
                let wrong = self.absences.iter().find(|absence| {
                    sample.outcome.as_deref() == Ok(absence.backend.as_str())
                        && (absence.from..absence.to).contains(&sample.began_ns)
                });
                assert!(wrong.is_none(), "{sample:?} reached a backend that had left");
            }
        }
        count
    }

    /// One change: the next backend leaves or comes back, or the policy changes, or another comes or goes.
    fn change(&mut self, reader: &Reader) {
        self.observe(reader);
        self.turn += 1;
        let number = self.turn / 2 % BACKENDS;
        match self.turn % 4 {
            0 => self.node.apply(&changed_policy(self.turn)),
            2 => {
                let other = Object::balancing_to("other", "10.96.0.9", 80, &["192.0.2.8", "192.0.2.9"]);
                match self.turn % 8 {
                    2 => self.node.apply(&other),
                    _ => self.node.delete(&other),
                }
            }
            _ => match self.presence[number] {
                Presence::In if self.present() > 2 => self.leaves(number),
                Presence::Out { .. } => self.comes_back(number),
                Presence::Coming | Presence::In | Presence::Leaving => {
                    self.node.apply(&changed_policy(self.turn))
                }
            },
        }
    }

    fn present(&self) -> usize {
        self.presence.iter().filter(|presence| **presence == Presence::In).count()
    }

    fn leaves(&mut self, number: usize) {
        match number % 3 {
            0 => self.node.delete(&backend(number)),
            1 => self.node.apply(&backend(number).unready()),
            _ => {
                self.node.apply(&backend(number).with("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z"))
            }
        }
        self.presence[number] = Presence::Leaving;
    }

    fn comes_back(&mut self, number: usize) {
        if let Presence::Out { from } = self.presence[number] {
            self.absences.push(Absence { backend: format!("b{number}"), from, to: monotonic_ns() });
        }
        if !matches!(self.presence[number], Presence::In | Presence::Coming) {
            self.node.apply(&backend(number));
            self.presence[number] = Presence::Coming;
        }
    }

    /// Notes which leaving backends the kernel does not have any more, and which coming ones it has.
    fn observe(&mut self, reader: &Reader) {
        let Some(set) = kernel_set(reader) else { return };
        let now = monotonic_ns();
        for number in 0..BACKENDS {
            let known = set.contains(&format!("10.1.0.{number}"));
            match self.presence[number] {
                Presence::Leaving if !known => self.presence[number] = Presence::Out { from: now },
                Presence::Coming if known => self.presence[number] = Presence::In,
                _ => {}
            }
        }
    }

    /// Waits until the kernel has what the objects say.
    #[track_caller]
    fn settle(&mut self) {
        let reader = self.node.reader();
        eventually(|| {
            self.observe(&reader);
            let open =
                [Presence::Leaving, Presence::Coming].iter().any(|state| self.presence.contains(state));
            if open { Err("a backend stays or does not come".to_owned()) } else { Ok(()) }
        });
    }
}

/// The addresses behind the frontend.
fn kernel_set(reader: &Reader) -> Option<BTreeSet<String>> {
    let layers = reader.layers().ok()?;
    let found = layers.iter().find(|layer| layer.key.address == address(FRONTEND).ip())?;
    Some(found.layer.backends.iter().map(|backend| backend.address.to_string()).collect())
}

/// Live hooks of a link directory by name of the program's id.
fn live_hooks(dir: &std::path::Path) -> usize {
    links::inspect(dir).unwrap().values().filter(|state| state.cgroup_id != 0).count()
}

/// Starts the agent. Returns how long that took, to die in the middle of it the next time.
fn timed_start(node: &mut Node) -> Duration {
    let began = Instant::now();
    node.start();
    began.elapsed()
}

#[test]
fn two_thousand_changes_lose_no_connection() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("changes");
    let reader = world.node.reader();
    world.load();
    let started = Instant::now();
    let mut changes = 0;
    // Few connections or absences would prove little.
    while changes < 2_000 || world.connections() < 5_000 || world.absences.len() < 50 {
        assert!(started.elapsed() < PATIENCE, "{changes} changes, {} absences", world.absences.len());
        world.change(&reader);
        changes += 1;
        thread::sleep((PACE * changes).saturating_sub(started.elapsed()));
    }
    let took = started.elapsed();
    let connections = world.judge();
    let absences = world.absences.len();
    println!("{changes} changes in {took:?}: {connections} connections, {absences} absences of backends");
    world.node.wait_backends("policy", BACKENDS);
}

#[test]
fn killed_and_restarted_agents_lose_no_connection() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("killed");
    let reader = world.node.reader();
    world.load();
    let mut start = Duration::ZERO;
    for round in 0..24 {
        world.wait_connections(50);
        // In the middle of changes.
        for _ in 0..8 {
            world.change(&reader);
        }
        world.node.agent().kill();
        for _ in 0..2 {
            world.change(&reader);
        }
        if round % 3 == 2 {
            // In the middle of a start, each time a little later.
            world.node.agent().start(|| true);
            thread::sleep(start * round / 24);
            world.node.agent().kill();
        }
        start = timed_start(&mut world.node);
        world.settle();
    }
    let connections = world.judge();
    println!("24 kills: {connections} connections, {} absences", world.absences.len());
    assert!(world.absences.len() > 20);
}

#[test]
fn the_names_of_connections_outlive_every_agent() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("names");
    let mut sockets = Vec::new();
    for client in &mut world.clients {
        for kind in [Kind::Tcp4, Kind::Tcp6] {
            let to = if kind == Kind::Tcp4 { address(FRONTEND) } else { address("[::ffff:10.96.0.1]:80") };
            let socket = client.open(kind);
            client.connect(socket, to).unwrap();
            sockets.push((socket, to));
        }
    }
    for round in 0..4 {
        world.node.apply(&changed_policy(round));
        world.leaves(round);
        world.node.agent().kill();
        world.node.start();
        world.settle();
        for (number, (socket, to)) in sockets.iter().enumerate() {
            assert_eq!(world.clients[number / 2].peer_name(*socket), Ok(*to));
        }
    }
}

#[test]
fn upgrades_and_downgrades_lose_no_connection() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("upgrade");
    let layouts = [ABI, ABI + 1].map(|abi| world.node.layout(abi));
    let pods: BTreeSet<_> = links::pods(&layouts[0]).unwrap().into_keys().collect();
    assert_eq!(pods.len(), 2);
    let mut old: Vec<(usize, Socket, String)> = Vec::new();
    world.load();
    let mut start = Duration::ZERO;
    for round in 0..10 {
        world.wait_connections(100);
        for (number, client) in world.clients.iter_mut().enumerate() {
            let socket = client.open(Kind::Tcp4);
            client.connect(socket, address(FRONTEND)).unwrap();
            let name = client.receive(socket).unwrap().data.trim().to_owned();
            old.push((number, socket, name));
        }
        let next = usize::from(round % 2 == 0);
        if round % 3 == 0 {
            world.node.agent().kill();
        } else {
            assert!(world.node.agent().terminate().success());
        }
        world.node.agent().replace(if next == 1 { "agent_next" } else { "balancing-agent" });
        if round >= 4 {
            // It dies on the way to its readiness, each time a little later.
            world.node.agent().start(|| true);
            thread::sleep(start * (round - 3) / 8);
            world.node.agent().kill();
        }
        world.leaves(usize::try_from(round).unwrap() % BACKENDS);
        start = timed_start(&mut world.node);
        world.settle();
        moved(&layouts[1 - next], &layouts[next], &pods);
        world.comes_back(usize::try_from(round).unwrap() % BACKENDS);
        for (number, socket, name) in &old {
            let real = format!("10.1.0.{}:80", &name[1..]);
            let peer = world.clients[*number].peer_name(*socket).unwrap().to_string();
            assert!(peer == FRONTEND || peer == real, "{peer} is neither what was dialled nor {real}");
        }
    }
    let connections = world.judge();
    println!("10 changes of the ABI: {connections} connections");
    assert_eq!(world.absences.len(), 10);
}

/// From the build of an earlier version, whose tables have another ABI: `make upgrade FROM=<commit>`.
#[test]
#[ignore = "needs a build of an earlier version: make upgrade FROM=<commit>"]
fn an_upgrade_from_an_earlier_build_loses_no_connection() {
    if !require_kernel() {
        return;
    }
    let earlier = PathBuf::from(std::env::var_os("BALANCING_EARLIER").expect("BALANCING_EARLIER"));
    let mut connections = 0;
    for round in 0..10 {
        let mut world = World::start_by("earlier", Some(earlier.clone()));
        let old = links::layouts(world.node.bpffs()).unwrap().remove(0);
        assert_ne!(old.abi(), ABI, "{} is no build of an earlier version", earlier.display());
        let pods: BTreeSet<_> = links::pods(&old).unwrap().into_keys().collect();
        world.load();
        world.wait_connections(200);
        if round % 2 == 0 {
            world.node.agent().kill();
        } else {
            assert!(world.node.agent().terminate().success());
        }
        world.node.agent().replace("balancing-agent");
        world.node.start();
        moved(&old, &world.node.layout(ABI), &pods);
        world.wait_connections(200);
        connections += world.judge();
    }
    println!("10 upgrades: {connections} connections");
}

/// Nothing is left of one ABI; host and pods are attached by the other.
#[track_caller]
fn moved(from: &Layout, to: &Layout, pods: &BTreeSet<balancing_dataplane::cgroup::PodUid>) {
    assert!(!from.root().exists(), "{} is left", from.root().display());
    assert_eq!(live_hooks(&to.host()), 8);
    let moved: BTreeMap<_, _> = links::pods(to).unwrap();
    assert_eq!(&moved.keys().cloned().collect::<BTreeSet<_>>(), pods);
    assert!(moved.values().all(|dir| live_hooks(dir) == 8));
}

#[test]
fn without_an_agent_everything_goes_on_and_can_be_seen() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("stopped");
    assert!(world.node.agent().terminate().success(), "SIGTERM is an ordinary end");
    for client in &mut world.clients {
        assert!(client.ask_tcp(address(FRONTEND)).unwrap().starts_with('b'));
    }
    let status = world.node.ctl_json(&["status"]);
    assert_eq!(status["ready"], json!(false));
    assert!(status["agent"].as_str().unwrap().contains("no agent answers at"), "{status}");
    assert_eq!(status["hooks"]["host"].as_array().unwrap().len(), 8);
    assert_eq!(status["hooks"]["pods"], json!(2));
    let frontends = world.node.ctl_json(&["frontends"]);
    assert_eq!(frontends[0]["owner"], json!({"kind": PolicyKind::LocalRedirect.kind(), "name": "policy"}));
    assert_eq!(frontends[0]["counters"]["redirected"], json!(4));
    assert_eq!(frontends[0]["backends"].as_array().unwrap().len(), BACKENDS);
    assert_eq!(world.node.ctl_json(&["backends"]).as_array().unwrap().len(), BACKENDS);
    assert_eq!(world.node.ctl_json(&["pods"]).as_array().unwrap().len(), 2);
    for command in ["status", "frontends", "backends", "pods", "version"] {
        assert!(world.node.ctl(&[command]).status.success(), "{command}");
    }
    let refused = world.node.ctl(&["policies"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("is balancing-agent running with this --run-dir?"),
        "{words}"
    );
}

/// An agent that knows no object yet names what an earlier one left in the kernel.
#[test]
fn an_agent_that_is_not_synced_tells_what_the_kernel_has() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("unsynced");
    world.node.agent().kill();
    let away = world.node.objects().with_extension("away");
    fs::rename(world.node.objects(), &away).unwrap();
    world.node.start_until(|view| !view.source.synced && !view.source.problems.is_empty());
    let [policy] = world.node.policies().try_into().unwrap();
    assert_eq!(
        (policy.name.as_str(), policy.reason.as_str(), policy.programmed),
        ("policy", "NotSynced", true)
    );
    assert_eq!((policy.frontends.len(), policy.backends), (1, BACKENDS));
    let words = String::from_utf8(world.node.ctl(&["policies"]).stderr).unwrap();
    assert!(words.contains("the agent is not synced with dir:"), "{words}");
    let told = world.node.ctl_json(&["explain", FRONTEND]);
    let decision = told["decision"].as_str().unwrap();
    assert!(decision.ends_with("the kernel has an earlier state, of LocalRedirectPolicy policy"), "{told}");
    fs::rename(&away, world.node.objects()).unwrap();
    world.node.wait_policy("policy", |view| view.reason == "Applied");
    assert_eq!(String::from_utf8(world.node.ctl(&["policies"]).stderr).unwrap(), "");
}

#[test]
fn a_pin_that_cannot_be_read_hides_no_other_pod() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("bad-pin");
    world.node.agent().kill();
    let layout = Layout::new(world.node.bpffs(), ABI);
    let pods = links::pods(&layout).unwrap();
    let spoil = |dir: &PathBuf| {
        fs::remove_file(dir.join("connect4")).unwrap();
        fs::create_dir(dir.join("connect4")).unwrap();
    };
    spoil(pods.values().next().unwrap());
    let output = world.node.ctl(&["pods", "-o", "json"]);
    let words = String::from_utf8(output.stderr).unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{words}");
    let uid = pods.keys().next().unwrap().as_str();
    assert!(words.contains(&format!("the hooks of pod {uid} cannot be looked at")), "{words}");
    let hooks = |uid: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| row["uid"] == uid).unwrap();
        (row["hooks"].as_array().unwrap().len(), row["problem"].is_null())
    };
    assert_eq!((rows.as_array().unwrap().len(), hooks(uid)), (2, (0, false)));
    let other = pods.keys().nth(1).unwrap();
    assert_eq!(hooks(other.as_str()), (8, true));
    let table = String::from_utf8(world.node.ctl(&["pods"]).stdout).unwrap();
    assert!(table.contains("unknown"), "{table}");
    spoil(&pods[other]);
    assert_eq!(world.node.ctl(&["pods"]).status.code(), Some(1), "no pod could be looked at");
    assert!(world.node.ctl(&["status"]).status.success());
    for dir in pods.values() {
        fs::remove_dir(dir.join("connect4")).unwrap();
    }
}

#[test]
fn cleanup_removes_everything() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("cleanup");
    let socket = world.clients[0].open(Kind::Tcp4);
    world.clients[0].connect(socket, address(FRONTEND)).unwrap();
    let (status, words) = world.node.cleanup();
    assert!(!status.success() && words.contains("stop it first"), "beside a running agent: {words}");
    assert!(world.clients[0].ask_tcp(address(FRONTEND)).unwrap().starts_with('b'));

    world.node.agent().kill();
    let (status, words) = world.node.cleanup();
    assert!(status.success(), "{words}");
    assert!(!world.node.bpffs().join("balancing").exists());
    assert!(!world.node.run_dir().exists());
    for client in &mut world.clients {
        assert_eq!(client.ask_tcp(address(FRONTEND)).as_deref(), Ok("original"));
    }
    assert_eq!(
        world.clients[0].receive(socket).unwrap().data.chars().next(),
        Some('b'),
        "old connections live on"
    );
    let (status, words) = world.node.cleanup();
    assert!(status.success(), "a second time: {words}");
    let status = world.node.ctl_json(&["status"]);
    assert_eq!((&status["hooks"]["abi"], &status["tables"]), (&json!(null), &json!([])));
    let words = String::from_utf8(world.node.ctl(&["frontends"]).stderr).unwrap();
    assert!(words.contains("nothing is loaded below") && words.contains("since its last boot"), "{words}");

    // And a new agent begins again.
    world.node.start();
    assert!(world.clients[0].ask_tcp(address(FRONTEND)).unwrap().starts_with('b'));
}

#[test]
fn a_cleanup_that_did_not_end_is_told_until_an_agent_goes_on() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("cleanup-cut");
    world.node.agent().kill();
    let ask = |world: &mut World| world.clients[0].ask_tcp(address(FRONTEND)).unwrap();
    assert!(ask(&mut world).starts_with('b'));
    let says = |world: &World, command: &str| {
        let output = world.node.ctl(&[command]);
        String::from_utf8(output.stdout).unwrap().contains("has not come to its end")
    };
    assert!(!says(&world, "doctor") && !says(&world, "status"));
    tables::stop(&world.node.layout(ABI)).unwrap();
    assert_eq!(ask(&mut world), "original");
    assert!(says(&world, "doctor") && says(&world, "status"));
    world.node.start();
    assert!(ask(&mut world).starts_with('b'));
    assert!(!says(&world, "doctor") && !says(&world, "status"));
}

#[test]
fn a_second_agent_is_turned_away() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start("second");
    for elsewhere in [false, true] {
        let run = TempDir::new("second-run");
        let directory = if elsewhere { run.path() } else { world.node.run_dir() };
        let mut second = Agent::new(&Place::default().in_netns(world.node.host()))
            .args(["--source", &format!("dir:{}", run.path().display()), "--node-name", "n1"])
            .args(["--bpffs".as_ref(), world.node.bpffs().as_os_str()])
            .args(["--cgroup-root".as_ref(), world.node.cgroup().path().as_os_str()])
            .args(["--run-dir".as_ref(), directory.as_os_str()])
            .command();
        let output = second.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains("another agent holds") && words.contains("stop it first"), "{words}");
    }
    assert!(world.node.view().unwrap().ready, "the first one goes on");
    assert!(world.clients[0].ask_tcp(address(FRONTEND)).unwrap().starts_with('b'));
    assert!(fs::exists(world.node.run_dir().join("agent.sock")).unwrap());
}
