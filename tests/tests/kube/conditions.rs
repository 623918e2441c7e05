//! Every condition and every reason, as the controller writes them to status.

use balancing_tests::*;
use serde_json::json;

use crate::world::{World, condition_of, number, service, text};

fn redirect(name: &str) -> Object {
    Object::local_redirect(name, "169.254.0.10", 80, "web")
}

#[test]
fn a_policy_in_force_says_so_in_every_condition() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _node = world.started_node();
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    let policy = world.put(&redirect("p").annotated("balancing.elf.io/serviceId", "10091"));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "1 frontend, 1 backend");
    let waited = world.plane.kubectl(&["wait", "--for=condition=Accepted", "lr/p", "--timeout=60s"]);
    assert!(waited.ok, "{}", waited.stderr);
    let policy = world.policy("LocalRedirectPolicy", "p");
    for (condition, status) in [("Accepted", "True"), ("ResolvedRefs", "True"), ("Conflicted", "False")] {
        assert_eq!(condition_of(&policy, condition).unwrap().0, status, "{condition}");
    }
    let counts = ["/status/serviceId", "/status/frontends", "/status/backends", "/status/observedGeneration"];
    assert_eq!(counts.map(|field| number(&policy, field)), [Some(10091), Some(1), Some(1), Some(1)]);
}

#[test]
fn services_that_cannot_be_a_frontend() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let policy = world.put(&redirect("p").for_service("web"));
    world.wait_condition(&policy, "ResolvedRefs", ("False", "ServiceNotFound"), "default/web");
    world.wait_condition(&policy, "Programmed", ("False", "ServiceNotFound"), "");
    world.wait_condition(&policy, "Accepted", ("True", "Accepted"), "");
    let headless = Object::service("web", &["None"], &[("http", 80)]).with("/spec/clusterIP", "None");
    world.put(&headless);
    world.wait_condition(&policy, "ResolvedRefs", ("False", "UnsupportedService"), "headless");
    world.delete(&headless);
    let external = json!({"type": "ExternalName", "externalName": "example.com"});
    let external = Object::named("v1", "Service", "default", "web").with("/spec", external);
    world.put(&external);
    world.wait_condition(&policy, "ResolvedRefs", ("False", "UnsupportedService"), "ExternalName");
    world.delete(&external);
    world.put(&service("web", "10.96.0.20", &[("http", 80)]));
    world.wait_condition(&policy, "ResolvedRefs", ("True", "ResolvedRefs"), "");
    world.wait_condition(&policy, "Programmed", ("False", "NoBackends"), "no pod");
    assert_eq!(node.wait_policy("p", |view| view.resolved_refs).backends, 0);
}

/// Such a policy is in force, but not what `kubectl wait --for=condition=Programmed` waits for.
#[test]
fn a_policy_that_refuses_everything_is_not_programmed() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let policy = world.put(&Object::balancing("p", "169.254.0.10", 80, "web"));
    world.wait_condition(&policy, "Programmed", ("False", "NoBackends"), "connections are refused");
    node.wait_policy("p", |view| view.message.contains("1 frontend, 0 backends: connections are refused"));
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "1 frontend, 1 backend");
}

#[test]
fn ports_that_do_not_pair_are_named() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _node = world.started_node();
    world.put(&service("web", "10.96.0.20", &[("http", 80), ("admin", 81)]));
    let ports = json!([{"port": 80, "name": "http"}, {"port": 9, "name": "other"}]);
    let policy = world.put(&redirect("p").for_service("web").with("/spec/backend/toPorts", ports));
    world.wait_condition(&policy, "ResolvedRefs", ("False", "PortsNotPaired"), "admin");
}

#[test]
fn policies_that_do_not_take_part() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _node = world.started_node();
    let disabled = world.put(&redirect("disabled").with("/spec/enabled", false));
    world.wait_condition(&disabled, "Programmed", ("False", "Disabled"), "spec.enabled");
    let nowhere = redirect("nowhere").with("/spec/config/nodeLabelSelector/matchLabels/place", "moon");
    let nowhere = world.put(&nowhere);
    world.wait_condition(&nowhere, "Programmed", ("False", "NotSelected"), "no node");
    world.wait_condition(&nowhere, "Accepted", ("True", "Accepted"), "");
}

/// The first of two policies wins, whichever kind of claim they make, until it goes.
#[test]
fn conflicts_in_both_orders_and_after_the_winner() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    for (older, younger) in [("a", "b"), ("d", "c")] {
        let first = world.put(&redirect(older));
        // Precedence is by creationTimestamp, which counts seconds.
        let born = text(&first, "/metadata/creationTimestamp").to_owned();
        let second = eventually(|| {
            let second = world.put(&redirect(younger));
            if text(&second, "/metadata/creationTimestamp") > born.as_str() {
                return Ok(second);
            }
            world.delete(&second);
            Err("both policies are of one second".to_owned())
        });
        world.wait_condition(&second, "Conflicted", ("True", "Conflicted"), &format!("Policy {older}"));
        world.wait_condition(&second, "Programmed", ("False", "Conflicted"), "");
        world.wait_condition(&first, "Conflicted", ("False", "NoConflict"), "");
        world.wait_condition(&first, "Programmed", ("True", "Programmed"), "");
        node.wait_policy(younger, |view| view.conflicted && !view.programmed);
        world.delete(&first);
        world.wait_condition(&second, "Conflicted", ("False", "NoConflict"), "");
        world.wait_condition(&second, "Programmed", ("True", "Programmed"), "");
        node.wait_policy(younger, |view| view.programmed);
        world.delete(&second);
    }
}

#[test]
fn two_policies_with_one_service_id() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _node = world.started_node();
    world.put(&redirect("a").annotated("balancing.elf.io/serviceId", "7"));
    let other =
        Object::local_redirect("b", "169.254.0.11", 80, "web").annotated("balancing.elf.io/serviceId", "7");
    let other = world.put(&other);
    world.wait_condition(&other, "Conflicted", ("True", "Conflicted"), "service id 7");
    world.put(&other.annotated("balancing.elf.io/serviceId", "8"));
    let other = world.policy("LocalRedirectPolicy", "b");
    world.wait_condition(&other, "Conflicted", ("False", "NoConflict"), "");
}

/// A CRD that lets everything pass stands for one that is older than the agent.
#[test]
fn an_update_that_breaks_a_rule_removes_the_redirect_and_the_others_stay() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    let policy = world.put(&redirect("p"));
    let other = world.put(&Object::local_redirect("other", "169.254.0.11", 80, "web"));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
    let crd = Object::named(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "",
        "localredirectpolicies.balancing.elf.io",
    );
    let crd = world.plane.client().get(&crd).unwrap();
    let loose = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let versions = crd.at("/spec/versions/0").clone();
    let versions = Object::from(versions).with("/schema/openAPIV3Schema", loose).value().clone();
    world.plane.client().patch(&crd, "", json!({"spec": {"versions": [versions]}})).unwrap();
    eventually(|| {
        let broken = json!({"spec": {"frontend": {"addressMatcher": {"ip": "nowhere"}}}});
        world.plane.client().patch(&policy, "", broken).map_err(|refusal| refusal.to_string())
    });
    world.wait_condition(&policy, "Accepted", ("False", "InvalidSpec"), "spec.frontend.addressMatcher.ip");
    world.wait_condition(&policy, "Programmed", ("False", "InvalidSpec"), "");
    node.wait_policy("p", |view| !view.accepted && view.frontends.is_empty());
    assert_eq!(node.layers().len(), 1, "only the other policy is in force");
    // Not even an object.
    world.plane.client().patch(&policy, "", json!({"spec": ["text", 7]})).unwrap();
    world.wait_condition(&policy, "Accepted", ("False", "InvalidSpec"), "spec");
    world.put(&other.with("/spec/backend/toPorts/0/port", 81));
    node.wait_policy("other", |view| view.programmed);
    world.plane.client().patch(&policy, "", json!({"spec": redirect("p").at("/spec")})).unwrap();
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
}
