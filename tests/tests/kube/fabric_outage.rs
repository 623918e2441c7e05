//! A fabric whose API server is away: traffic through tunnel and proxy goes on, whatever agents do meanwhile.
//!
//! `BALANCING_OUTAGE` is the length of it in seconds; `make outage` makes ten minutes.

#![allow(clippy::print_stdout, reason = "figures of a long run")]

use std::{
    env,
    time::{Duration, Instant},
};

use balancing_tests::*;
use serde_json::json;

use crate::{
    fabric_hosts::{FRONT, Fabric, NODES, pod_on, policy, tunnel_fabric},
    world::answered_by,
};

/// Longer than any period of the agent.
const OUTAGE: Duration = Duration::from_secs(40);
/// Agents try again after half a minute at the latest; far more than that.
const RECOVERY: Duration = Duration::from_secs(120);
/// Times what an agent without fabric may use: one with it has three more kinds to try again, and looks at its tunnel.
const SHARE: u32 = 2;
/// Rest between two datagrams: 200 a second.
const PACE: Duration = Duration::from_millis(5);

/// How long the API server is away.
fn outage() -> Duration {
    env::var("BALANCING_OUTAGE").map_or(OUTAGE, |text| Duration::from_secs(text.parse().unwrap()))
}

/// A policy for TCP and UDP.
fn both() -> Object {
    let front = json!([{"port": 80, "name": "t"}, {"port": 80, "name": "u", "protocol": "UDP"}]);
    let back = json!([
        {"port": 20080, "targetPort": 80, "name": "t"},
        {"port": 20080, "targetPort": 80, "name": "u", "protocol": "UDP"},
    ]);
    policy()
        .with("/spec/frontend/addressMatcher/toPorts", front)
        .with("/spec/backend/serviceEndpoint/toPorts", back)
}

/// A pod on a node, with a server.
fn serve(fabric: &Fabric, node: usize, name: &str, at: &str) -> (Object, Sandbox, EchoServer) {
    let pod = fabric.world.plane.run_pod(&pod_on(NODES[node], name, at));
    let place = fabric.nodes[node].overlay_pod(&pod, &[at]);
    let server = EchoServer::start(&place.netns, name, &[address(&format!("{at}:80"))]);
    (pod, place, server)
}

/// Traffic that must not notice anything.
struct Traffic {
    held: (Client, Socket),
    datagrams: Client,
    connections: Client,
}

impl Traffic {
    fn start(fabric: &Fabric) -> Self {
        let mut client = fabric.outside.client();
        answered_by(&mut client, FRONT, "a");
        eventually(|| match client.ask_udp(address(FRONT)) {
            Ok(name) if name == "a" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let socket = client.open(Kind::Tcp4);
        client.connect(socket, address(FRONT)).unwrap();
        assert_eq!(client.receive(socket).unwrap().data.trim(), "a");
        let (mut datagrams, mut connections) = (fabric.outside.client(), fabric.nodes[1].client());
        datagrams.start_churn(&Churn { pause: Some(PACE), ..Churn::to(Kind::Udp4, address(FRONT)) });
        connections.start_churn(&Churn { pause: Some(4 * PACE), ..Churn::to(Kind::Tcp4, address(FRONT)) });
        Self { held: (client, socket), datagrams, connections }
    }

    fn still_answers(&mut self, text: &str) {
        let (client, socket) = &mut self.held;
        client.send(*socket, text).unwrap();
        assert_eq!(client.receive(*socket).unwrap().data.trim(), text);
    }

    fn end(&mut self) {
        let reports = [("datagrams", &mut self.datagrams), ("connections", &mut self.connections)];
        for (what, client) in reports {
            let report = client.stop_churn();
            println!("{} {what}, lost {:?}", report.successes(), report.errors);
            assert!(report.errors.is_empty() && report.successes() > 0, "{what}: {report:?}");
        }
    }
}

#[test]
fn nothing_is_lost_while_the_api_server_is_away_and_agents_start_meanwhile() {
    if !require_kernel() {
        return;
    }
    let mut fabric = Fabric::start();
    fabric.start_agents();
    fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
    fabric.permit();
    let (pod, _place, _server) = serve(&fabric, 0, "a", "10.244.1.5");
    fabric.world.put(&both());
    let mut traffic = Traffic::start(&fabric);
    // Until the stored state has what answered just now.
    std::thread::sleep(Duration::from_secs(10));

    fabric.world.plane.stop_api_server();
    let end = Instant::now() + outage();
    for host in [&mut fabric.nodes[0], &mut fabric.outside] {
        host.agent().kill();
    }
    // For a while there is no agent at either end.
    std::thread::sleep(outage() / 8);
    for host in [&mut fabric.nodes[0], &mut fabric.outside] {
        host.start_until(|view| !view.source.synced);
    }
    // Until programs are loaded and the waits have grown.
    std::thread::sleep(outage() / 8);
    let hosts = fabric.nodes.iter_mut().chain([&mut fabric.outside]);
    let agents: Vec<_> = hosts.map(|host| ("no API server", host.agent().pid())).collect();
    assert_waiting_costs_nothing(&agents, end.saturating_duration_since(Instant::now()), SHARE);
    traffic.still_answers("while it is away");

    fabric.world.plane.start_api_server();
    for host in fabric.nodes.iter().chain([&fabric.outside]) {
        eventually_within(RECOVERY, || match host.view() {
            Ok(view) if view.ready && view.source.synced => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    traffic.end();
    traffic.still_answers("when it is back");
    // What happens now is noticed.
    let (_moved, _there, _other) = serve(&fabric, 2, "b", "10.244.3.9");
    fabric.world.delete(&pod);
    eventually_within(RECOVERY, || match traffic.held.0.ask_tcp(address(FRONT)) {
        Ok(name) if name == "b" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
