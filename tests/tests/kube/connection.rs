//! The agent's connection to the API server: noticed when it is dead, and never led astray by a policy.

use std::{
    fs,
    time::{Duration, Instant},
};

use balancing_tests::*;
use nix::errno::Errno;

use crate::world::{World, answered_by};

/// The API server as nodes dial it.
const SERVER: (&str, u16) = ("172.30.0.1", 6443);

#[test]
fn a_connection_that_went_silent_is_noticed() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let began = Instant::now();
    // The server's packets get lost on the way, those of the agent arrive.
    world.plane.netns().ip(&["route", "add", "blackhole", "172.31.1.2/32"]);
    // Twice the time that the documentation names, for busy machines, and half of what a silent server has.
    let view = eventually_within(Duration::from_secs(60), || match node.view() {
        Ok(view) if view.source.problems.iter().any(|problem| problem.contains("not reachable")) => Ok(view),
        other => Err(format!("{other:#?}")),
    });
    println!("noticed after {:?}", began.elapsed());
    assert!(view.source.synced, "the last known state stays");
    world.plane.netns().ip(&["route", "delete", "blackhole", "172.31.1.2/32"]);
    eventually_within(Duration::from_secs(120), || match node.view() {
        Ok(view) if view.ready && view.source.problems.is_empty() => Ok(()),
        other => Err(format!("{other:#?}")),
    });
}

/// A frontend at the API server's own address, without backends or with one where nobody listens, catches everybody but the
/// agent.
#[test]
fn no_policy_locks_the_agent_out() {
    if !require_kernel() {
        return;
    }
    let (server, port) = SERVER;
    let at = format!("{server}:{port}");
    let rejects = Object::balancing("rejects", server, port, "nobody").with("/spec/onNoBackend", "Reject");
    let dead = Object::balancing_to("dead", server, port, &["172.30.0.9"]);
    for (policy, expected) in [(rejects, Errno::EHOSTUNREACH), (dead, Errno::ECONNREFUSED)] {
        let mut world = World::start();
        let mut node = world.started_node();
        // As on a node, where the programs are at the root of all cgroups.
        let own = node.cgroup().child("system.slice/balancing-agent.service");
        let enter = |pid: u32| fs::write(own.path().join("cgroup.procs"), pid.to_string()).unwrap();
        enter(node.agent().pid());
        node.host().add_loopback(&[address("172.30.0.9:80").ip()]);
        let _web = node.serve("web", &["10.1.0.1:80"]);
        world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
        world.put(&policy);
        let mut client = node.client();
        eventually(|| match client.ask_tcp(address(&at)) {
            Err(errno) if errno == expected => Ok(()),
            other => Err(format!("{other:?}, not {expected}")),
        });
        // All connections of the agent are new from here on.
        world.plane.restart_api_server();
        let other = world.put(&Object::local_redirect("other", "169.254.0.10", 80, "web"));
        eventually_within(Duration::from_secs(60), || match client.ask_tcp(address("169.254.0.10:80")) {
            Ok(name) if name == "web" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        world.delete(&other);
        world.delete(&policy);
        // A server that speaks TLS says nothing first.
        eventually(|| match client.ask_tcp(address(&at)) {
            Err(Errno::EAGAIN) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn credentials_are_read_again_and_broken_ones_are_told() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start();
    let node = world.started_node();
    let kubeconfig = world.kubeconfig("n1");
    let good = fs::read_to_string(&kubeconfig).unwrap();
    let told = |wanted: bool| {
        eventually_within(Duration::from_secs(60), || match node.view() {
            Ok(view) if view.source.problems.iter().any(|it| it.contains("stays in use")) == wanted => {
                Ok(view)
            }
            other => Err(format!("{other:#?}")),
        })
    };
    fs::write(&kubeconfig, "{").unwrap();
    world.plane.restart_api_server();
    let view = told(true);
    assert!(view.source.problems.iter().any(|it| it.contains("kubeconfig")), "{view:#?}");
    // What was read before still works.
    let _web = node.serve("web", &["10.1.0.1:80"]);
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    world.put(&Object::local_redirect("p", "169.254.0.10", 80, "web"));
    answered_by(&mut node.client(), "169.254.0.10:80", "web");
    fs::write(&kubeconfig, good).unwrap();
    told(false);
}

#[test]
fn a_proxy_in_the_environment_keeps_no_agent_from_starting() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let dead = "http://127.0.0.1:9";
    let mut behind = world.node("n1", &[], "192.0.2.1").env("HTTPS_PROXY", dead);
    behind.start_until(|view| !view.source.problems.is_empty());
    behind.wait_view(|view| view.source.problems.iter().any(|it| it.contains("refused")));
    let mut exempt =
        world.node("n2", &[], "192.0.2.2").env("HTTPS_PROXY", dead).env("NO_PROXY", "172.30.0.0/16");
    exempt.start();
}
