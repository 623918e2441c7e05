//! A local backend whose container dies gets nothing new at once, while its object still says Ready.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use balancing_tests::*;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

const FRONTEND: &str = "10.96.0.1:80";
/// Far above what an event takes, below the next look at everything.
const SOON: Duration = Duration::from_secs(10);
/// Between two questions, so that the agent has the processor, too.
const PACE: Duration = Duration::from_millis(1);
/// How long a container lives here at least. One that ends within the 10 ms in which the kernel tells once may never have been seen.
const LIFE: Duration = Duration::from_millis(200);

/// A cache on the node before a server of the cluster.
struct World {
    node: Node,
    client: Client,
    _servers: [EchoServer; 2],
}

/// A container with one process.
struct Container {
    id: String,
    cgroup: Cgroup,
    process: Process,
}

impl World {
    fn new(topic: &str) -> Self {
        let node = Node::new(topic);
        let servers = [node.serve("cache", &["10.1.0.1:80"]), node.serve("cluster", &[FRONTEND])];
        node.apply(&Object::local_redirect("policy", "10.96.0.1", 80, "cache"));
        Self { client: node.client(), node, _servers: servers }
    }

    /// A container of the cache, as a runtime makes it: the cgroup first, then the process in it.
    fn container(&self, digit: char) -> Container {
        let id = digit.to_string().repeat(64);
        let cgroup = self.cgroup(&id);
        let process = Process::start("container", Command::new("sleep").arg("1000"));
        cgroup.add(process.pid());
        thread::sleep(LIFE);
        Container { id, cgroup, process }
    }

    fn cgroup(&self, id: &str) -> Cgroup {
        let below = format!("kubepods/burstable/pod{}/cri-containerd-{id}.scope", cache(&[]).node_uid());
        self.node.cgroup().child(&below)
    }

    fn ask(&mut self) -> String {
        self.client.ask_tcp(address(FRONTEND)).unwrap()
    }

    #[track_caller]
    fn wait_answer(&mut self, wanted: &str, within: Duration) {
        let (begin, mut last) = (Instant::now(), self.ask());
        while last != wanted {
            assert!(begin.elapsed() < within, "{last} answers, not {wanted}: {:?}", self.node.policies());
            thread::sleep(PACE);
            last = self.ask();
        }
    }
}

/// The pod, Ready with these containers.
fn cache(ids: &[&str]) -> Object {
    let status = |id: &&str| json!({"name": id, "containerID": format!("containerd://{id}"), "state": {"running": {}}});
    let statuses: Vec<_> = ids.iter().map(status).collect();
    Object::pod("cache", "cache", &["10.1.0.1"]).with("/status/containerStatuses", json!(statuses))
}

fn kill_hard(container: &Container) {
    kill(Pid::from_raw(i32::try_from(container.process.pid()).unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_container_that_is_killed_is_no_backend_any_more_at_once() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("killed");
    let mut times = Vec::new();
    let mut container = world.container('a');
    world.node.apply(&cache(&[&container.id]));
    world.node.start();
    world.wait_answer("cache", SOON);
    for digit in ['b', 'c', 'd', 'e', 'f'] {
        let killed = Instant::now();
        kill_hard(&container);
        world.wait_answer("cluster", SOON);
        times.push(killed.elapsed());
        let told =
            world.node.wait_policy("policy", |policy| policy.message.contains("a container has ended"));
        assert!(told.message.contains("none of the 1 matching pods"), "{told:?}");
        // The kubelet starts it anew, and tells when it is Ready.
        container = world.container(digit);
        assert_eq!(world.ask(), "cluster");
        world.node.apply(&cache(&[&container.id]));
        world.wait_answer("cache", SOON);
    }
    times.sort();
    println!("new connections went to the cluster after {times:?}");
}

#[test]
fn a_container_whose_cgroup_is_removed_has_ended() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("removed");
    let container = world.container('a');
    world.node.apply(&cache(&[&container.id]));
    world.node.start();
    world.wait_answer("cache", SOON);
    let Container { cgroup, process, .. } = container;
    drop(process);
    cgroup.remove();
    world.wait_answer("cluster", SOON);
}

#[test]
fn a_container_that_was_never_seen_alive_is_not_dead() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("unseen");
    let ids = ['a', 'b'].map(|digit| digit.to_string().repeat(64));
    // One has a cgroup and no process yet, the other not even that.
    let starting = world.cgroup(&ids[0]);
    world.node.apply(&cache(&[&ids[0], &ids[1]]));
    world.node.start();
    world.wait_answer("cache", SOON);
    // One of another pod, or of another time, is nobody's.
    let other = world.container('c');
    world.node.wait_view(|view| view.ready);
    kill_hard(&other);
    starting.remove();
    // Longer than what is seen takes to be acted upon.
    let until = Instant::now() + SOON / 10;
    while Instant::now() < until {
        assert_eq!(world.ask(), "cache");
    }
}

#[test]
fn an_agent_that_starts_believes_the_kubelet() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("restarted");
    let container = world.container('a');
    world.node.apply(&cache(&[&container.id]));
    world.node.start();
    world.wait_answer("cache", SOON);
    kill_hard(&container);
    world.wait_answer("cluster", SOON);
    world.node.agent().kill();
    assert_eq!(world.ask(), "cluster", "what is in the kernel stays");
    world.node.start();
    world.wait_answer("cache", SOON);
}
