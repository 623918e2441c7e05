//! A host outside the cluster in bad times: no API server, its objects taken away, its permission withdrawn, somebody else in its name.

use std::fs;

use balancing_tests::*;
use serde_json::Value;

use crate::{
    fabric_hosts::{FRONT, Fabric, pod_on, policy, tunnel_fabric},
    world::answered_by,
};

/// A host outside that reaches a pod of `n1`.
struct Reaching {
    fabric: Fabric,
    client: Client,
    _place: Sandbox,
    _server: EchoServer,
}

impl Reaching {
    fn start() -> Self {
        let mut fabric = Fabric::start();
        fabric.start_agents();
        fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
        fabric.permit();
        let pod = fabric.world.plane.run_pod(&pod_on("n1", "a", "10.244.1.5"));
        let place = fabric.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
        let server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
        fabric.world.put(&policy());
        let mut client = fabric.outside.client();
        answered_by(&mut client, FRONT, "a");
        Self { fabric, client, _place: place, _server: server }
    }

    /// Waits until the stored state has all that the host needs.
    fn wait_stored(&self) {
        let path = self.fabric.outside.state_dir().join("state.json");
        let proxy = self.fabric.proxy_of("n1");
        eventually(|| {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            let state: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let count = |kind: &str| state["objects"][kind].as_array().map_or(0, Vec::len);
            let counts = ["TunnelNode", "ExternalHost", "BalancingPolicy"].map(count);
            let has_backend = state["objects"]["EndpointSlice"].to_string().contains(&proxy);
            if counts == [4, 1, 1] && has_backend { Ok(()) } else { Err(text) }
        });
    }
}

#[test]
fn a_host_outside_that_restarts_without_api_server_works_from_its_stored_state() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    stage.wait_stored();
    stage.fabric.world.plane.stop_api_server();
    stage.fabric.outside.reboot();
    assert!(stage.client.ask_tcp(address(FRONT)).is_err(), "nothing is left in the kernel");
    stage.fabric.outside.start_until(|_| true);
    answered_by(&mut stage.client, FRONT, "a");
    let stands_in =
        |view: &AgentView| view.source.problems.iter().any(|text| text.contains("stand in until it does"));
    let view = stage.fabric.outside.wait_view(stands_in);
    assert!(!view.source.synced, "{view:#?}");
    let metrics = stage.fabric.outside.http(Node::METRICS, "/metrics").unwrap().1;
    assert!(metrics.contains("balancing_stored_state_in_force 1"), "{metrics}");
    stage.client.start_churn(&Churn::to(Kind::Tcp4, address(FRONT)));
    stage.fabric.world.plane.start_api_server();
    stage.fabric.outside.wait_view(|view| view.ready && view.source.synced && !stands_in(view));
    let report = stage.client.stop_churn();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    stage.fabric.world.delete(&policy());
    eventually(|| match stage.client.ask_tcp(address(FRONT)) {
        Err(_) => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
}

#[test]
fn a_stored_state_that_is_broken_is_ignored_and_replaced() {
    if !require_kernel() {
        return;
    }
    let mut stage = Reaching::start();
    stage.wait_stored();
    stage.fabric.outside.reboot();
    fs::write(stage.fabric.outside.state_dir().join("state.json"), "{\"version\":1").unwrap();
    stage.fabric.world.plane.stop_api_server();
    stage
        .fabric
        .outside
        .start_until(|view| view.source.problems.iter().any(|text| text.contains("it is broken")));
    assert!(stage.client.ask_tcp(address(FRONT)).is_err());
    stage.fabric.world.plane.start_api_server();
    answered_by(&mut stage.client, FRONT, "a");
    stage.wait_stored();
    stage.fabric.outside.wait_view(|view| view.source.problems.is_empty());
}
