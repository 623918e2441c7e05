//! The control plane of the tests is a real one and does what its harness promises.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    fs,
    sync::mpsc,
    time::{Duration, Instant},
};

use balancing_tests::*;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{WatchEvent, WatchParams},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use serde_json::json;

/// A ConfigMap that somebody changes.
fn config_map(name: &str, value: &str) -> Object {
    Object::named("v1", "ConfigMap", "default", name).with("/data/value", value)
}

/// Opens a watch of ConfigMaps from a revision on and says how it begins: the first change, or the refusal.
fn resume(plane: &ControlPlane, revision: &str) -> Result<String, u16> {
    let (maps, revision) =
        (Api::<ConfigMap>::namespaced(plane.client().kube(), "default"), revision.to_owned());
    plane.client().run(async move {
        let events = match maps.watch(&WatchParams::default(), &revision).await {
            Ok(events) => events,
            Err(kube::Error::Api(status)) => return Err(status.code),
            Err(error) => panic!("{error}"),
        };
        match events.boxed().try_next().await.unwrap().unwrap() {
            WatchEvent::Error(status) => Err(status.code),
            WatchEvent::Modified(map) | WatchEvent::Added(map) => Ok(map.name_any()),
            other => panic!("{other:?}"),
        }
    })
}

/// Watches all ConfigMaps of the namespace `default` in the background and tells what it notices.
fn watch(plane: &ControlPlane) -> mpsc::Receiver<String> {
    let maps = Api::<ConfigMap>::namespaced(plane.client().kube(), "default");
    let (seen, events) = mpsc::channel();
    let text = |map: ConfigMap| format!("{} {}", map.name_any(), map.data.unwrap_or_default()["value"]);
    plane.client().spawn(async move {
        let mut stream = watcher(maps, watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = stream.next().await {
            let line = match event {
                Ok(watcher::Event::Init) => "list".to_owned(),
                Ok(watcher::Event::InitApply(map) | watcher::Event::Apply(map)) => text(map),
                Ok(watcher::Event::InitDone) => "listed".to_owned(),
                Ok(other @ watcher::Event::Delete(_)) => format!("{other:?}"),
                Err(watcher::Error::WatchError(status)) => status.code.to_string(),
                // No answer: the API server is gone for a moment.
                Err(_) => continue,
            };
            if seen.send(line).is_err() {
                break;
            }
        }
    });
    events
}

fn revision(object: &Object) -> &str {
    object.at("/metadata/resourceVersion").as_str().unwrap()
}

#[test]
fn kubectl_and_client_see_the_same_cluster() {
    if !require_kernel() {
        return;
    }
    let began = Instant::now();
    let plane = ControlPlane::start();
    println!("ready after {:?}", began.elapsed());

    plane.apply(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "both", "namespace": "default"},
            "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}}"#,
    );
    let service = plane.client().get(&Object::named("v1", "Service", "default", "both")).unwrap();
    let addresses = service.at("/spec/clusterIPs").as_array().unwrap();
    assert!(addresses[0].as_str().unwrap().starts_with("10.96."), "{addresses:?}");
    assert!(addresses[1].as_str().unwrap().starts_with("fd00:96::"), "{addresses:?}");
    assert_eq!(plane.get_json("service", "both", "default")["metadata"]["uid"], service.uid());

    let complaint =
        plane.apply_err(r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "UPPER"}}"#);
    assert!(complaint.contains("metadata.name"), "{complaint}");
    let pod = plane.run_pod(&Object::pod("pod", "web", &["10.1.0.1"]));
    plane.patch_status("pod", "pod", "default", &json!({"status": {"message": "changed"}}));
    assert_eq!(plane.client().get(&pod).unwrap().at("/status/message"), "changed");

    let mut map = config_map("map", "one").with("/data/other", "value");
    plane.client().put(&map).unwrap();
    let refusal = plane.client().create(&map).unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (409, "AlreadyExists"));
    map.take("/data/other");
    let stored = plane.client().put(&map.with("/data/value", "two")).unwrap();
    assert_eq!(stored.at("/data"), &json!({"value": "two"}), "what is no longer given is removed");
    let stored = plane.client().patch(&stored, "", json!({"data": {"value": null}})).unwrap();
    assert!(stored.at("/data").is_null());
    plane.delete(&["configmap", "map"]);
    assert_eq!(plane.client().get(&stored).unwrap_err().code, 404);
}

#[test]
fn controllers_work_on_running_pods() {
    if !require_kernel() {
        return;
    }
    let wanted = ["endpointslice-controller", "serviceaccount-controller", "daemonset-controller"];
    let plane = ControlPlane::builder().controllers(&wanted).scheduler().start();
    plane.add_node("n1", &[("zone", "a")], "192.0.2.1");
    let pods = plane.run_pods((1..=2).map(|number| {
        Object::pod(
            &format!("pod{number}"),
            "web",
            &[&format!("10.1.0.{number}"), &format!("fd00::{number}")],
        )
    }));
    assert!(pods.iter().all(|pod| pod.at("/status/hostIP") == "192.0.2.1"));
    assert_eq!(pods[0].at("/spec/serviceAccountName"), "default");
    let service = Object::named("v1", "Service", "default", "web")
        .with("/spec", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
    plane.client().create(&service).unwrap();

    let ready = || {
        let slices = plane.client().list("discovery.k8s.io/v1", "EndpointSlice").unwrap();
        let of_web = |slice: &&Object| slice.at("/metadata/labels/kubernetes.io~1service-name") == "web";
        let endpoints = slices.iter().filter(of_web).flat_map(|slice| slice.at("/endpoints").as_array());
        let ready = endpoints.flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true);
        ready.map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let reached = |wanted: &[&str]| {
        eventually(|| {
            let found = ready();
            if found.iter().eq(wanted) { Ok(()) } else { Err(format!("{found:?} is ready")) }
        });
    };
    reached(&["10.1.0.1", "10.1.0.2"]);
    plane.set_ready("default", "pod1", false);
    reached(&["10.1.0.2"]);
    plane.set_ready("default", "pod1", true);
    plane.client().terminate(&pods[1]).unwrap();
    reached(&["10.1.0.1"]);
    let terminating = plane.client().get(&pods[1]).unwrap();
    assert!(terminating.at("/metadata/deletionTimestamp").is_string(), "no kubelet ends it");
    plane.client().delete(&pods[1]).unwrap();
    assert_eq!(plane.client().get(&pods[1]).unwrap_err().code, 404);

    // The scheduler gives a pod without a node one.
    let mut homeless = pods[0].clone();
    for field in ["/spec/nodeName", "/metadata/resourceVersion", "/metadata/uid", "/status"] {
        homeless.take(field);
    }
    let homeless = plane.client().create(&homeless.with("/metadata/name", "homeless")).unwrap();
    eventually(|| {
        let pod = plane.client().get(&homeless).unwrap();
        if pod.at("/spec/nodeName") == "n1" { Ok(()) } else { Err(pod.json()) }
    });
}

#[test]
fn a_restart_keeps_data_and_watches_until_they_are_expired() {
    if !require_kernel() {
        return;
    }
    let mut plane = ControlPlane::start();
    let created = plane.client().create(&config_map("kept", "one")).unwrap();
    let before = revision(&created).to_owned();

    // The API server being gone, there is no answer; it comes back with what it had.
    plane.stop_api_server();
    assert_eq!(plane.client().get(&created).unwrap_err().code, 0);
    plane.start_api_server();
    assert_eq!(plane.client().get(&created).unwrap().uid(), created.uid());

    let events = watch(&plane);
    let next = || events.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!([next(), next(), next()], ["list", "kept one", "listed"]);
    let current = plane.client().put(&config_map("kept", "two")).unwrap();
    let latest = revision(&current).to_owned();
    let after = plane.client().put(&config_map("later", "three")).unwrap();
    assert_eq!(resume(&plane, &latest), Ok("later".into()), "a watch goes on from where it was");
    assert_eq!([next(), next()], ["kept two", "later three"]);

    // Also a watch that has seen the very last change cannot be resumed.
    let last = revision(&after).to_owned();
    plane.expire_watches();
    for old in [&before, &latest, &last] {
        assert_eq!(resume(&plane, old), Err(410), "revision {old}");
    }
    assert_eq!(
        [next(), next(), next(), next(), next()],
        ["410", "list", "kept two", "later three", "listed"]
    );
}

#[test]
fn an_account_has_only_the_rights_of_its_role_from_any_node() {
    if !require_kernel() {
        return;
    }
    let plane = ControlPlane::start();
    let kubeconfig = plane.service_account_kubeconfig("agents", "reader");
    let node = Node::in_cluster(&plane, "n1", &kubeconfig, "agents", &[]);
    let reader = ApiClient::new(node.host(), &kubeconfig);
    let service = Object::named("v1", "Service", "default", "kubernetes");
    assert_eq!(reader.get(&service).unwrap_err().code, 403);

    let files = TempDir::new("manifests");
    let rule = json!({"apiGroups": [""], "resources": ["services"], "verbs": ["get"]});
    let role = Object::named("rbac.authorization.k8s.io/v1", "ClusterRole", "", "reader")
        .with("/rules", json!([rule]));
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"});
    let binding = Object::named("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", "reader")
        .with("/roleRef", reference)
        .with("/subjects", json!([{"kind": "ServiceAccount", "name": "reader", "namespace": "agents"}]));
    files.write("role.json", role.json());
    files.write("binding.json", binding.json());
    plane.apply_file(files.path());
    eventually(|| reader.get(&service).map_err(|refusal| refusal.to_string()));
    assert_eq!(reader.delete(&service).unwrap_err().code, 403);
    let text = fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains(r#""namespace":"agents""#), "{text}");
}

#[test]
fn definitions_are_served_when_they_are_installed() {
    if !require_kernel() {
        return;
    }
    let plane = ControlPlane::start();
    let files = TempDir::new("crds");
    let schema = json!({"openAPIV3Schema": {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"port": {"type": "integer", "maximum": 65535}}}},
    }});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    let definition =
        Object::named("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "things.example.test")
            .with("/spec/group", "example.test")
            .with("/spec/scope", "Cluster")
            .with("/spec/names", json!({"kind": "Thing", "plural": "things"}))
            .with("/spec/versions", json!([version]));
    files.write("things.json", definition.json());
    plane.install_crds_of(files.path());

    let thing = Object::named("example.test/v1", "Thing", "", "one").with("/spec/port", 80);
    plane.client().create(&thing).unwrap();
    let refusal = plane.client().put(&thing.with("/spec/port", 70_000)).unwrap_err();
    assert_eq!(refusal.code, 422);
    assert!(refusal.message.contains("spec.port"), "{refusal}");
}

#[test]
fn many_objects_take_little_time() {
    if !require_kernel() {
        return;
    }
    let plane = ControlPlane::start();
    plane.add_node("n1", &[], "192.0.2.1");
    let rate = |what: &str, count: u32, action: &dyn Fn()| {
        let began = Instant::now();
        action();
        println!("{what}: {:.0} a second", f64::from(count) / began.elapsed().as_secs_f64());
    };
    let services = (0..1000).map(|number| {
        Object::named("v1", "Service", "default", &format!("service{number}"))
            .with("/spec", json!({"ports": [{"port": 80}]}))
    });
    rate("services", 1000, &|| drop(plane.client().create_many(services.clone()).unwrap()));
    let pods = (0..500).map(|number| Object::pod(&format!("pod{number}"), "web", &["10.1.0.1"]));
    rate("running pods", 500, &|| drop(plane.run_pods(pods.clone())));
    rate("reads", 500, &|| {
        for number in 0..500 {
            plane.client().get(&Object::named("v1", "Pod", "default", &format!("pod{number}"))).unwrap();
        }
    });
    assert_eq!(plane.client().list("v1", "Service").unwrap().len(), 1001);
    let pods = plane.client().list("v1", "Pod").unwrap();
    assert_eq!(pods.iter().filter(|pod| pod.at("/status/phase") == "Running").count(), 500);
}
