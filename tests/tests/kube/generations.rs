//! A change of a policy meets its own pods and no others, however long nobody lists them.

use std::time::Duration;

use balancing_tests::*;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::world::{NAMESPACE, World, answered_by};

const FRONTEND: &str = "169.254.0.10:80";
const OLD: &str = "10.1.0.1";
const NEW: &str = "10.1.0.2";

/// A cluster with a controller, and node `n2`, where a client connects.
struct Pair {
    world: World,
    node: Node,
    client: Client,
    _servers: [EchoServer; 3],
}

impl Pair {
    fn start() -> Self {
        let world = World::start();
        world.plane.add_node("n1", &[], "192.0.2.1");
        world.controller.borrow().wait_elected();
        let mut node = world.node("n2", &[], "192.0.2.2");
        node.start();
        let servers = [("dialled", FRONTEND), ("old", "10.1.0.1:80"), ("new", "10.1.0.2:8080")];
        let servers = servers.map(|(name, at)| node.serve(name, &[at]));
        let client = node.client();
        Self { world, node, client, _servers: servers }
    }

    /// From now on nobody does the duties of the controller: it hangs, and the Lease is somebody's for longer than a
    /// test takes.
    fn pause(&mut self) {
        self.signal(Signal::SIGSTOP);
        let held = json!({"spec": {"holderIdentity": "nobody", "leaseDurationSeconds": 60}});
        self.world.plane.client().patch(&lease(), "", held).unwrap();
    }

    fn resume(&mut self) {
        let free = json!({"spec": {"holderIdentity": null}});
        self.world.plane.client().patch(&lease(), "", free).unwrap();
        self.signal(Signal::SIGCONT);
    }

    fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.world.controller.borrow().pid()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn put_pods(&self) {
        self.world.plane.run_pod(&Object::pod("old", "old", &[OLD]).with("/spec/nodeName", "n1"));
        self.world.plane.run_pod(&Object::pod("new", "new", &[NEW]).with("/spec/nodeName", "n1"));
    }

    fn start_churn(&mut self) {
        let pause = Some(Duration::from_micros(200));
        self.client.start_churn(&Churn { pause, ..Churn::to(Kind::Tcp4, address(FRONTEND)) });
    }

    /// Every connection came through and was answered by one of these.
    #[track_caller]
    fn check_churn(&mut self, wanted: &[&str]) {
        let report = self.client.stop_churn();
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), wanted, "{:?}", report.peers);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

fn lease() -> Object {
    Object::named("coordination.k8s.io/v1", "Lease", NAMESPACE, "balancing-controller")
}

fn policy(app: &str) -> Object {
    Object::balancing("p", "169.254.0.10", 80, app)
}

/// Other pods, which listen on another port.
fn edited() -> Object {
    policy("new").with("/spec/backend/serviceEndpoint/toPorts", json!([{"port": 8080}]))
}

#[test]
fn a_new_policy_rejects_nobody_while_its_pods_are_not_listed() {
    if !require_kernel() {
        return;
    }
    let mut pair = Pair::start();
    pair.put_pods();
    pair.start_churn();
    pair.pause();
    pair.world.put(&policy("old"));
    let view = pair.node.wait_policy("p", |view| view.accepted);
    pair.check_churn(&["dialled"]);
    assert!(view.reason == "Pending" && !view.programmed && view.frontends.is_empty(), "{view:?}");
    assert!(view.message.contains("EndpointSlices of generation 1"), "{view:?}");
    pair.start_churn();
    pair.resume();
    pair.node.wait_policy("p", |view| view.reason == "Applied" && view.backends == 1);
    answered_by(&mut pair.node.client(), FRONTEND, "old");
    pair.check_churn(&["dialled", "old"]);
    // That there is no pod is known, too, once it is said.
    pair.world.put(&policy("none"));
    pair.node.wait_policy("p", |view| view.reason == "NoBackends" && !view.programmed);
    eventually(|| match pair.client.ask_tcp(address(FRONTEND)) {
        Err(Errno::EHOSTUNREACH) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn an_edit_keeps_the_old_pods_until_the_new_ones_are_listed() {
    if !require_kernel() {
        return;
    }
    let mut pair = Pair::start();
    pair.put_pods();
    pair.world.put(&policy("old"));
    answered_by(&mut pair.client, FRONTEND, "old");
    pair.pause();
    pair.start_churn();
    pair.world.put(&edited());
    let view = pair.node.wait_policy("p", |view| view.reason == "Pending");
    assert!(view.programmed && view.message.contains("generation 2"), "{view:?}");
    // Not even an agent that starts now takes away what the kernel has.
    pair.node.agent().kill();
    pair.node.start();
    let view = pair.node.wait_policy("p", |view| view.reason == "Pending");
    assert!(view.frontends.is_empty(), "{view:?}");
    pair.check_churn(&["old"]);
    pair.start_churn();
    pair.resume();
    answered_by(&mut pair.node.client(), FRONTEND, "new");
    pair.check_churn(&["new", "old"]);
    pair.node.wait_policy("p", |view| view.reason == "Applied" && view.programmed);
}

#[test]
fn a_policy_made_again_inherits_nothing() {
    if !require_kernel() {
        return;
    }
    let mut pair = Pair::start();
    pair.put_pods();
    let first = pair.world.put(&policy("old"));
    answered_by(&mut pair.client, FRONTEND, "old");
    pair.pause();
    pair.world.delete(&first);
    answered_by(&mut pair.client, FRONTEND, "dialled");
    let second = pair.world.put(&edited());
    assert_ne!(first.uid(), second.uid());
    pair.start_churn();
    let view = pair.node.wait_policy("p", |view| view.accepted);
    pair.check_churn(&["dialled"]);
    assert_eq!(view.reason, "Pending");
    pair.resume();
    answered_by(&mut pair.client, FRONTEND, "new");
}

#[test]
fn an_own_pod_that_fails_is_left_at_once() {
    if !require_kernel() {
        return;
    }
    let mut pair = Pair::start();
    pair.world.plane.run_pod(&Object::pod("old", "old", &[OLD]).with("/spec/nodeName", "n2"));
    pair.world.plane.run_pod(&Object::pod("far", "old", &["10.1.0.3"]).with("/spec/nodeName", "n1"));
    let _server = pair.node.serve("far", &["10.1.0.3:80"]);
    pair.world.put(&policy("old"));
    pair.node.wait_backends("p", 2);
    pair.pause();
    pair.world.plane.set_ready("default", "old", false);
    pair.node.wait_backends("p", 1);
    pair.start_churn();
    pair.check_churn(&["far"]);
    pair.resume();
}

/// New tables begin empty, so they do not replace those of another ABI while slices may be coming.
#[test]
fn an_upgrade_waits_for_slices() {
    if !require_kernel() {
        return;
    }
    let mut pair = Pair::start();
    pair.put_pods();
    pair.world.put(&policy("old"));
    answered_by(&mut pair.client, FRONTEND, "old");
    pair.pause();
    // No list of this generation comes for now.
    pair.world.put(&edited());
    pair.start_churn();
    pair.node.agent().kill();
    pair.node.agent().replace("agent_next");
    pair.node.start_until(|view| view.source.synced);
    eventually(|| match pair.node.http(Node::HTTP, "/readyz") {
        Some((503, text)) if text.contains("until every policy has its slices") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    pair.resume();
    eventually(|| if pair.node.view()?.ready { Ok(()) } else { Err("not ready".to_owned()) });
    answered_by(&mut pair.node.client(), FRONTEND, "new");
    pair.check_churn(&["new", "old"]);
}

/// Without a controller the other policies do not wait for ever, also when nothing at all happens.
#[test]
fn an_upgrade_does_not_wait_for_slices_for_ever() {
    if !require_kernel() {
        return;
    }
    let mut pair = Pair::start();
    pair.put_pods();
    pair.world.put(&policy("old"));
    answered_by(&mut pair.client, FRONTEND, "old");
    pair.pause();
    pair.world.put(&edited());
    pair.node.agent().kill();
    pair.node.agent().replace("agent_next");
    pair.node.start_until(|view| view.source.synced && !view.ready);
    // The wait is a minute, and nothing wakes the agent meanwhile.
    eventually_within(Duration::from_secs(75), || match pair.node.http(Node::HTTP, "/readyz") {
        Some((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    pair.resume();
    answered_by(&mut pair.client, FRONTEND, "new");
}
