//! The rights of the agents: enough, which every other suite shows, and no more.

use balancing_tests::*;
use serde_json::json;

use crate::world::{NAMESPACE, World, repository};

/// Verb; resource with its group after a dot, a subresource after a colon and a name after an equals sign;
/// namespace, empty for the whole cluster.
type Right = (&'static str, &'static str, &'static str);

/// What the API server's authorizer says.
fn may(world: &World, account: &str, (verb, resource, namespace): Right) -> bool {
    let (resource, name) = resource.split_once('=').unwrap_or((resource, ""));
    let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = Object::from(json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{account}"),
            "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "name": name, "namespace": namespace,
            },
        },
    }));
    let answer = world.plane.client().create(&review).unwrap();
    answer.at("/status/allowed").as_bool().unwrap()
}

#[test]
fn an_agent_may_do_what_it_does_and_nothing_else() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.plane.apply_file(&repository().join("install/rbac/external.yaml"));
    let both: &[Right] = &[
        ("watch", "balancingpolicies.balancing.elf.io", ""),
        ("list", "services", ""),
        ("watch", "nodes", ""),
        ("watch", "endpointslices.discovery.k8s.io", NAMESPACE),
        ("create", "events.events.k8s.io", "default"),
    ];
    let node_only: &[Right] = &[
        ("watch", "localredirectpolicies.balancing.elf.io", ""),
        ("watch", "pods", ""),
        ("patch", "localredirectpolicies.balancing.elf.io:status", ""),
        ("patch", "balancingpolicies.balancing.elf.io:status", ""),
        ("delete", "endpointslices.discovery.k8s.io", NAMESPACE),
        ("create", "leases.coordination.k8s.io", NAMESPACE),
        ("update", "leases.coordination.k8s.io=balancing-agent", NAMESPACE),
    ];
    let neither: &[Right] = &[
        ("get", "secrets", NAMESPACE),
        ("get", "pods", ""),
        ("patch", "endpointslices.discovery.k8s.io", NAMESPACE),
        ("patch", "events.events.k8s.io", "default"),
        ("patch", "leases.coordination.k8s.io=balancing-agent", NAMESPACE),
        ("list", "secrets", ""),
        ("get", "configmaps", ""),
        ("create", "pods", "default"),
        ("delete", "pods", ""),
        ("create", "pods:exec", ""),
        ("patch", "nodes", ""),
        ("update", "nodes:status", ""),
        ("patch", "services", ""),
        ("update", "localredirectpolicies.balancing.elf.io", ""),
        ("delete", "balancingpolicies.balancing.elf.io", ""),
        ("create", "endpointslices.discovery.k8s.io", "default"),
        ("list", "endpointslices.discovery.k8s.io", ""),
        ("patch", "leases.coordination.k8s.io=other", NAMESPACE),
        ("create", "leases.coordination.k8s.io", "kube-system"),
        ("create", "serviceaccounts:token", NAMESPACE),
        ("impersonate", "users", ""),
        ("escalate", "clusterroles.rbac.authorization.k8s.io", ""),
    ];
    for right in both {
        assert!(may(&world, "balancing-agent", *right), "a node's agent may not {right:?}");
        assert!(may(&world, "balancing-external", *right), "an agent outside may not {right:?}");
    }
    for right in node_only {
        assert!(may(&world, "balancing-agent", *right), "a node's agent may not {right:?}");
        assert!(!may(&world, "balancing-external", *right), "an agent outside may {right:?}");
    }
    for right in neither {
        for account in ["balancing-agent", "balancing-external"] {
            assert!(!may(&world, account, *right), "{account} may {right:?}");
        }
    }
}
