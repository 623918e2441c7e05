//! The Helm chart on a real API server: what it installs is taken, changed, taken back and removed, and what
//! belongs to users stays. There is no kubelet: pods are made and do not run.

use balancing_tests::*;
use serde_json::{Value, json};

use crate::world::{NAMESPACE, VERSION, repository};

/// What makes pods of the chart's objects.
const CONTROLLERS: [&str; 4] =
    ["daemonset-controller", "deployment-controller", "replicaset-controller", "serviceaccount-controller"];
const RELEASE: &str = "balancing";

fn cluster() -> ControlPlane {
    let plane = ControlPlane::builder().controllers(&CONTROLLERS).start();
    plane.add_node("n1", &[("kubernetes.io/os", "linux")], "192.0.2.1");
    plane
}

/// Runs Helm, which must succeed.
#[track_caller]
fn helm(plane: &ControlPlane, arguments: &[&str]) -> String {
    let done = plane.helm(NAMESPACE, arguments);
    assert!(done.ok, "helm {}: {}", arguments.join(" "), done.stderr);
    done.stdout
}

/// `helm install` or `helm upgrade` of the chart with values.
#[track_caller]
fn apply(plane: &ControlPlane, action: &str, values: &[&str]) -> String {
    let chart = repository().join("install/chart");
    let mut arguments = vec![action, RELEASE, chart.to_str().unwrap()];
    if action == "install" {
        arguments.push("--create-namespace");
    }
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    helm(plane, &arguments)
}

/// How many pods the API server has taken of one of the chart's workloads.
fn pods(plane: &ControlPlane, name: &str) -> usize {
    let pods = plane.client().list("v1", "Pod").unwrap();
    pods.iter().filter(|pod| pod.at("/metadata/labels/app.kubernetes.io~1name") == &json!(name)).count()
}

fn exists(plane: &ControlPlane, kind: &str, name: &str) -> bool {
    plane.kubectl(&["get", kind, name, "--namespace", NAMESPACE]).ok
}

/// A value of the agent's DaemonSet.
fn agent_at(plane: &ControlPlane, pointer: &str) -> Value {
    let agent = plane.get_json("daemonset", "balancing-agent", NAMESPACE);
    agent.pointer(&format!("/spec/template/spec{pointer}")).cloned().unwrap_or_default()
}

fn qos_limit(plane: &ControlPlane) -> Value {
    let variables = agent_at(plane, "/containers/0/env");
    let found = variables.as_array().unwrap().iter().find(|one| one["name"] == "REDIRECT_QOS_LIMIT").cloned();
    found.unwrap()["value"].clone()
}

#[test]
fn every_pod_of_the_chart_is_taken_by_the_api_server() {
    if !require_kernel() {
        return;
    }
    let plane = cluster();
    // The policy is of a kind that comes with the same release.
    let notes = apply(&plane, "install", &["nodeLocalDNS.enabled=true", "balancingAgent.cni.install=true"]);
    assert!(notes.contains("kubectl wait --for=condition=Programmed lr/node-local-dns"), "{notes}");
    let wanted = [("balancing-agent", 1), ("balancing-controller", 2), ("node-local-dns", 1)];
    eventually(|| {
        let found = wanted.map(|(name, _)| (name, pods(&plane, name)));
        if found == wanted { Ok(()) } else { Err(format!("{found:?}, not {wanted:?}")) }
    });
    assert!(exists(&plane, "lr", "node-local-dns"));
    let doctor = helm(&plane, &["get", "hooks", RELEASE]);
    let checked = plane.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &doctor);
    assert!(checked.ok, "{}", checked.stderr);
}

#[test]
fn a_release_is_upgraded_taken_back_and_removed_and_policies_stay() {
    if !require_kernel() {
        return;
    }
    let plane = cluster();
    apply(&plane, "install", &["nodeLocalDNS.enabled=true"]);
    let mine = Object::from(json!({
        "apiVersion": VERSION,
        "kind": "BalancingPolicy",
        "metadata": {"name": "mine"},
        "spec": {
            "frontend": {"addressMatcher": {"ip": "10.99.0.3", "toPorts": [{"port": 80}]}},
            "backend": {"addressEndpoint": {"addresses": ["192.0.2.9"], "toPorts": [{"port": 80}]}},
        },
    }));
    plane.client().put(&mine).unwrap();
    // What the controller writes there.
    let hosts = Object::named("v1", "ConfigMap", NAMESPACE, "balancing-external-hosts");
    plane.client().patch(&hosts, "", json!({"data": {"edge": "uid 192.0.2.0/24 user"}})).unwrap();

    apply(&plane, "upgrade", &["feature.redirectQosLimit=100", "externalHosts.enabled=true"]);
    assert_eq!(qos_limit(&plane), "100");
    assert!(!exists(&plane, "lr", "node-local-dns") && !exists(&plane, "daemonset", "node-local-dns"));
    assert!(exists(&plane, "serviceaccount", "balancing-external"));
    assert_eq!(plane.client().get(&hosts).unwrap().at("/data/edge"), &json!("uid 192.0.2.0/24 user"));

    helm(&plane, &["rollback", RELEASE, "1"]);
    assert_eq!(qos_limit(&plane), "0");
    assert!(exists(&plane, "lr", "node-local-dns") && exists(&plane, "daemonset", "node-local-dns"));
    assert!(!exists(&plane, "serviceaccount", "balancing-external"));

    // The step before it is uninstalled: the plugin first, then all that is in the kernel.
    apply(&plane, "upgrade", &["balancingAgent.remove=true"]);
    let steps = agent_at(&plane, "/initContainers");
    let names: Vec<&Value> = steps.as_array().unwrap().iter().map(|step| &step["name"]).collect();
    assert_eq!(names, ["cni-uninstall", "cleanup"]);

    helm(&plane, &["uninstall", RELEASE]);
    eventually(|| {
        let is_there = exists(&plane, "daemonset", "balancing-agent");
        if is_there { Err("the agent's DaemonSet is still there".to_owned()) } else { Ok(()) }
    });
    assert!(!exists(&plane, "clusterrole", "balancing-agent"));
    assert!(!exists(&plane, "validatingadmissionpolicy", "balancing-agent-own-node"));
    assert!(exists(&plane, "crd", "localredirectpolicies.balancing.elf.io"));
    assert!(exists(&plane, "bl", "mine"));
}

#[test]
fn plain_manifests_are_taken_after_the_crds() {
    if !require_kernel() {
        return;
    }
    let plane = cluster();
    plane.install_crds();
    plane.apply_file(&repository().join("install/balancing.yaml"));
    eventually(|| {
        let found = (pods(&plane, "balancing-agent"), pods(&plane, "balancing-controller"));
        if found == (1, 2) { Ok(()) } else { Err(format!("{found:?} pods of agent and controller")) }
    });
}
