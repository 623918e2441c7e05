//! The objects of a cluster by number: Service `n` has the pods `0..`[`PODS`] of it, policy `n` is for Service `n`.

use std::net::{IpAddr, Ipv4Addr};

use balancing_tests::Object;
use serde_json::json;

/// Pods of a Service.
pub(crate) const PODS: usize = 10;
pub(super) const PORT: u16 = 80;

/// Those that a kubelet writes.
const CONDITIONS: [&str; 5] =
    ["Ready", "Initialized", "ContainersReady", "PodScheduled", "PodReadyToStartContainers"];

/// What a cluster is made of.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Nodes over which the pods are spread.
    pub(crate) nodes: usize,
    /// One policy of so many is a LocalRedirectPolicy, the others are BalancingPolicies; `None` = all are.
    pub(crate) local: Option<usize>,
    /// Environment variables of a pod, which are most of its size: none makes a pod of 1.5 kB, 20 one of 5 kB.
    pub(crate) variables: usize,
}

impl Shape {
    pub(super) fn is_local(&self, policy: usize) -> bool {
        self.local.is_some_and(|every| policy % every == every - 1)
    }

    /// The nodes whose agents run have a pod of every Service with a LocalRedirectPolicy.
    pub(super) fn node_of(&self, service: usize, pod: usize) -> String {
        let spread = || (service * PODS + pod) % self.nodes + 1;
        node_name(if self.is_local(service) { pod + 1 } else { spread() })
    }

    /// A running pod.
    pub(super) fn pod(&self, service: usize, number: usize) -> Object {
        let name = pod_name(service, number);
        let variables: Vec<_> = (0..self.variables)
            .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value {n} of {name}, which nobody reads")}))
            .collect();
        let image = "registry.example.com/team/application:v1.2.3";
        let main = json!({
            "name": "main",
            "image": image,
            "env": variables,
            "ports": [{"containerPort": PORT, "name": "http"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
        });
        let running = json!([{
            "name": "main", "image": image, "imageID": format!("{image}@sha256:{:064x}", number), "ready": true,
            "restartCount": 0, "started": true, "containerID": format!("containerd://{:064x}", service),
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }]);
        let conditions = CONDITIONS.map(
            |name| json!({"type": name, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}),
        );
        Object::pod(&name, &format!("s{service}"), &[&pod_ip(service, number).to_string()])
            .with("/spec/nodeName", self.node_of(service, number))
            .with("/spec/containers", json!([main]))
            .with("/status/containerStatuses", running)
            .with("/status/conditions", Vec::from(conditions))
    }

    pub(super) fn policy(&self, number: usize) -> Object {
        let (name, app) = (policy_name(number), format!("s{number}"));
        let policy = if self.is_local(number) {
            Object::local_redirect(&name, "0.0.0.0", PORT, &app)
        } else {
            Object::balancing(&name, "0.0.0.0", PORT, &app)
        };
        policy.for_service(&app)
    }
}

pub(crate) fn node_name(number: usize) -> String {
    format!("n{number}")
}

pub(super) fn pod_name(service: usize, pod: usize) -> String {
    format!("s{service}-{pod}")
}

fn policy_name(policy: usize) -> String {
    format!("p{policy}")
}

fn ip(base: u32, number: usize) -> IpAddr {
    Ipv4Addr::from(base + u32::try_from(number).expect("a small number")).into()
}

/// 198.18.0.0 and what follows.
pub(super) fn node_ip(number: usize) -> IpAddr {
    ip(0xc612_0000, number)
}

/// 10.96.16.0 and what follows.
pub(super) fn service_ip(service: usize) -> IpAddr {
    ip(0x0a60_1000, service)
}

/// 10.64.0.0 and what follows.
pub(super) fn pod_ip(service: usize, pod: usize) -> IpAddr {
    ip(0x0a40_0000, service * PODS + pod)
}

pub(super) fn service(number: usize) -> Object {
    let ip = service_ip(number).to_string();
    Object::service(&format!("s{number}"), &[&ip], &[("http", PORT)]).with("/spec/clusterIP", ip.as_str())
}
