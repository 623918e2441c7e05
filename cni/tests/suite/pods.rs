//! Which pod a call is about, and whether it is wanted.

use balancing_dataplane::layout::Hook;
use serde_json::json;

use crate::{
    fixture::{Fixture, UID, attached},
    plugin::Call,
};

const OTHER: &str = "11111111-2222-3333-4444-555555555555";

#[test]
fn c9_the_runtimes_path_wins_over_another_uid() {
    let Some(fixture) = Fixture::new("disagree") else { return };
    fixture.pin_programs(1);
    let [told, named] = [UID, OTHER].map(|uid| fixture.make_pod(uid));
    let path = format!("/kubepods/burstable/pod{OTHER}");
    let call = Call::new(&fixture, UID).with("runtimeConfig", json!({"cgroupPath": path}));
    let said = call.add().stderr;
    assert!(said.contains(&format!("cgroupPath is not that of pod {UID}")), "{said}");
    assert_eq!((attached(&told, Hook::Connect4), attached(&named, Hook::Connect4)), (0, 1));
    call.silent("DEL");
    assert_eq!(attached(&named, Hook::Connect4), 0);
}

/// The kubelet writes the path as its driver does; a runtime may pass it on in several ways.
#[test]
fn c10_every_form_of_the_runtimes_path() {
    let Some(fixture) = Fixture::new("forms") else { return };
    fixture.pin_programs(1);
    let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
    let expanded = format!("kubepods.slice/kubepods-burstable.slice/{slice}");
    let cgroup = fixture.make_cgroup(&expanded);
    let call = Call::new(&fixture, UID).unset("CNI_ARGS");
    let with = |path: &str| call.clone().with("runtimeConfig", json!({"cgroupPath": path}));
    for form in [
        format!("/{expanded}"),
        expanded.clone(),
        format!("/{expanded}/"),
        format!("//{}", expanded.replace('/', "//./")),
        slice.clone(),
        format!("/{slice}"),
    ] {
        with(&form).add();
        assert_eq!(attached(&cgroup, Hook::Connect4), 1, "{form}");
        with(&form).silent("DEL");
    }
    for refused in ["/".to_owned(), format!("/../{expanded}"), format!("kubepods.slice/../{expanded}")] {
        let call = with(&refused).set("CNI_ARGS", &format!("K8S_POD_UID={UID}"));
        assert!(call.fail("ADD", 7).contains("cgroup path"), "{refused}");
    }
    // A path that is not there says nothing: the pod is looked for by its UID.
    let call = with("/gone").set("CNI_ARGS", &format!("K8S_POD_UID={UID}"));
    call.add();
    assert_eq!(attached(&cgroup, Hook::Connect4), 1);
}

#[test]
fn c13_the_configurations_args_say_nothing() {
    let Some(fixture) = Fixture::new("args") else { return };
    fixture.pin_programs(1);
    let [told, other] = [UID, OTHER].map(|uid| fixture.make_pod(uid));
    let args = json!({"cni": {"K8S_POD_UID": OTHER, "K8S_POD_NAMESPACE": "excluded", "labels": [1]}});
    let call = Call::new(&fixture, UID).with("args", args).with("excludeNamespaces", json!(["excluded"]));
    call.add();
    assert_eq!((attached(&told, Hook::Connect4), attached(&other, Hook::Connect4)), (1, 0));
}

/// libcni passes a capability only where the configuration declares it.
#[test]
fn c14_without_capabilities_the_uid_is_enough() {
    let Some(fixture) = Fixture::new("capabilities") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    for config in [
        None,
        Some(json!({})),
        Some(json!(null)),
        Some(json!({"portMappings": [], "mac": "0a:00:00:00:00:01"})),
    ] {
        let mut call = Call::new(&fixture, UID);
        if let Some(config) = config {
            call = call.with("runtimeConfig", config);
        }
        call.add();
        assert_eq!(attached(&cgroup, Hook::Connect4), 1);
        call.silent("DEL");
    }
}

/// An agent that hooks no pods, or excludes the namespace, says so in the run directory; Kubernetes is not asked.
#[test]
fn c12_an_empty_namespace_is_excluded_by_none() {
    let Some(fixture) = Fixture::new("nameless") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID)
        .set("CNI_ARGS", &format!("K8S_POD_UID={UID}"))
        .with("excludeNamespaces", json!(["default"]));
    call.add();
    assert_eq!(attached(&cgroup, Hook::Connect4), 1);
}
