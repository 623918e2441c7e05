//! Who is redirected, through the real agent: host processes, pods with and without links of their own,
//! exempt pods, hosts outside the cluster.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use balancing_dataplane::{
    cgroup::PodUid,
    records::{Attachment, Record, Records, State},
    sys,
};
use balancing_tests::{
    redirected::{FRONTEND, Redirected as World, client_pod, policy},
    *,
};
use serde_json::json;

/// Far above what an event takes, below the next look at all links.
const SOON: Duration = Duration::from_secs(25);

fn ask(client: &mut Client) -> String {
    client.ask_tcp(address(FRONTEND)).unwrap()
}

#[track_caller]
fn answered_by(client: &mut Client, wanted: &str) {
    eventually_within(SOON, || {
        let name = ask(client);
        if name == wanted { Ok(()) } else { Err(format!("answered by {name}, not {wanted}")) }
    });
}

#[test]
fn a_pod_without_links_is_adopted_before_and_after_the_start() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("adopt");
    let (early, late) = (client_pod("early"), client_pod("late"));
    let early_place = world.node.sandbox(&early);
    let mut early_client = early_place.client();
    assert_eq!(ask(&mut early_client), "original");
    world.node.apply(&early);
    world.node.start();
    answered_by(&mut early_client, "local");

    let late_place = world.node.sandbox(&late);
    let mut late_client = late_place.client();
    assert_eq!(ask(&mut late_client), "original", "a pod has its own links or none");
    world.node.apply(&late);
    answered_by(&mut late_client, "local");
    let pods = world.node.ctl_json(&["pods"]);
    let rows = pods.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["hooks"].as_array().unwrap().len(), 8, "{row}");
        assert!(["early", "late"].contains(&row["name"].as_str().unwrap()), "{row}");
    }
    assert!(world.node.view().unwrap().problems.is_empty(), "the backend has no cgroup here, and no process");
}

#[test]
fn a_new_cgroup_of_the_same_name_is_hooked() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("heal");
    let again = client_pod("again");
    let first = world.node.sandbox(&again);
    world.node.apply(&again);
    world.node.start();
    answered_by(&mut first.client(), "local");
    first.cgroup.remove();
    let second = world.node.sandbox(&again);
    answered_by(&mut second.client(), "local");
}

#[test]
fn a_pod_that_is_gone_leaves_nothing() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("gone");
    let pod = client_pod("gone");
    let place = world.node.sandbox(&pod);
    world.node.apply(&pod);
    world.node.start();
    answered_by(&mut place.client(), "local");
    place.cgroup.remove();
    world.node.delete(&pod);
    // The next agent sweeps at its start, a running one within 30 seconds.
    world.node.agent().terminate();
    world.node.start();
    assert_eq!(world.node.ctl_json(&["pods"]), json!([]));
}

#[test]
fn a_pod_may_opt_out_and_in_again() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("opt-out");
    let out = |pod: &Object| pod.clone().annotated("balancing.elf.io/redirect", "disabled");
    let (pod, host_pod) = (client_pod("pod"), client_pod("host-pod").with("/spec/hostNetwork", true));
    let place = world.node.sandbox(&pod);
    let host_cgroup = world.node.pod_cgroup(&host_pod);
    world.node.apply(&out(&pod));
    world.node.apply(&out(&host_pod));
    world.node.start();
    let mut client = place.client();
    let mut host_client =
        Client::start(&Place::default().in_netns(world.node.host()).in_cgroup(&host_cgroup));
    assert_eq!(ask(&mut client), "original");
    assert_eq!(ask(&mut host_client), "original");
    assert_eq!(ask(&mut world.node.client()), "local", "others are redirected");
    // Back and forth, faster than the agent looks for pods that are not there yet.
    for _ in 0..3 {
        world.node.apply(&pod);
        world.node.apply(&host_pod);
        answered_by(&mut client, "local");
        answered_by(&mut host_client, "local");
        world.node.apply(&out(&pod));
        world.node.apply(&out(&host_pod));
        answered_by(&mut client, "original");
        answered_by(&mut host_client, "original");
    }
    // A restart in between does not let one connection through.
    let mut churn = Churn::to(Kind::Tcp4, address(FRONTEND));
    churn.samples = false;
    client.start_churn(&churn);
    host_client.start_churn(&churn);
    for _ in 0..3 {
        world.node.agent().kill();
        world.node.start();
    }
    for report in [client.stop_churn(), host_client.stop_churn()] {
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["original"]);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
    }
}

#[test]
fn a_backend_reaches_the_real_destination() {
    if !require_kernel() {
        return;
    }
    let policy = policy().with("/spec/skipRedirectFromBackend", true);
    let mut world = World::with("skip", &[], &policy);
    // One backend is known by its cgroup, one by the record of the plugin, one shares the host's namespace.
    let by_record = Object::pod("by-record", "local", &["10.1.0.1"]);
    let by_host = Object::pod("by-host", "local", &["10.1.0.1"]).with("/spec/hostNetwork", true);
    let by_cgroup = world.backend.clone();
    let places = [world.node.sandbox(&by_cgroup), world.node.sandbox(&by_record)];
    let host_cgroup = world.node.pod_cgroup(&by_host);
    let record = Record {
        attachment: Attachment {
            network: "cluster".into(),
            container_id: "0123456789ab".into(),
            ifname: "eth0".into(),
        },
        pod_uid: PodUid::new(by_record.uid()).unwrap(),
        pod_namespace: "default".into(),
        pod_name: "by-record".into(),
        cgroup: Some(places[1].cgroup.path().to_owned()),
        netns_cookie: Some(places[1].netns.run(sys::netns_cookie).unwrap()),
        namespace_excluded: None,
        written: 0,
        state: State::Attached,
    };
    Records::new(world.node.run_dir()).write(&record).unwrap();
    let stranger = client_pod("stranger");
    let stranger_place = world.node.sandbox(&stranger);
    for pod in [&by_record, &by_host, &stranger] {
        world.node.apply(pod);
    }
    world.node.start();
    let mut backends = Vec::from(places.each_ref().map(Sandbox::client));
    backends.push(Client::start(&Place::default().in_netns(world.node.host()).in_cgroup(&host_cgroup)));
    // A process of the pod that entered another cgroup is known by the namespace of the record.
    backends.push(Client::start(
        &Place::default().in_netns(&places[1].netns).in_cgroup(&places[1].cgroup.child("c1")),
    ));
    let others = &mut [stranger_place.client(), world.node.client()];
    for client in others.iter_mut() {
        answered_by(client, "local");
    }
    for client in &mut backends {
        answered_by(client, "original");
    }
    let skipped = &world.node.ctl_json(&["frontends"])[0]["counters"]["skipped"];
    assert!(skipped.as_u64().unwrap() >= 4, "{skipped}");

    // No restart makes a backend call itself.
    for client in &mut backends {
        client.start_churn(&Churn::to(Kind::Tcp4, address(FRONTEND)));
    }
    for _ in 0..5 {
        world.node.agent().kill();
        world.node.start();
    }
    for client in &mut backends {
        let report = client.stop_churn();
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["original"]);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
    }
    world.node.apply(&policy.with("/spec/skipRedirectFromBackend", false));
    for client in &mut backends {
        answered_by(client, "local");
    }
}

#[test]
fn pods_of_the_host_network_are_host_processes() {
    if !require_kernel() {
        return;
    }
    let mut world = World::with("host-network", &[], &policy().with("/spec/clients", "host"));
    let (host_pod, pod) = (client_pod("host-pod").with("/spec/hostNetwork", true), client_pod("pod"));
    let (cgroup, place) = (world.node.pod_cgroup(&host_pod), world.node.sandbox(&pod));
    world.node.apply(&host_pod);
    world.node.apply(&pod);
    world.node.start();
    answered_by(
        &mut Client::start(&Place::default().in_netns(world.node.host()).in_cgroup(&cgroup)),
        "local",
    );
    assert_eq!(ask(&mut place.client()), "original", "the policy is for the host");
    let pods = world.node.ctl_json(&["pods"]);
    assert_eq!(pods.as_array().unwrap().len(), 1, "a pod of the host network needs no links: {pods}");
    world.node.apply(&policy().with("/spec/clients", "pods"));
    answered_by(&mut place.client(), "local");
    answered_by(&mut world.node.client(), "original");
}

#[test]
fn the_scope_says_who_is_hooked() {
    if !require_kernel() {
        return;
    }
    for (scope, host, inside) in [("host", "local", "original"), ("pods", "original", "local")] {
        let mut world = World::with(&format!("scope-{scope}"), &[], &policy());
        let pod = client_pod("pod");
        let place = world.node.sandbox(&pod);
        world.node.apply(&pod);
        world.node.start();
        let (mut client, mut host_client) = (place.client(), world.node.client());
        answered_by(&mut client, "local");
        answered_by(&mut host_client, "local");
        // An agent with a narrower scope takes back what the wider one has attached.
        world.node.agent().terminate();
        world.node.agent().add_args(["--scope", scope]);
        world.node.start();
        assert_eq!((ask(&mut host_client).as_str(), ask(&mut client).as_str()), (host, inside), "{scope}");
        let told = world.node.ctl_json(&["explain", FRONTEND]);
        let says = told["decision"].as_str().unwrap().contains("processes of the host have no hooks");
        assert_eq!(says, scope == "pods", "{told}");
        let status = world.node.ctl_json(&["status"]);
        let hooks = status["hooks"]["host"].as_array().unwrap().len();
        let wanted = if scope == "host" { (8, 0) } else { (0, 1) };
        assert_eq!((hooks, status["hooks"]["pods"].as_u64().unwrap()), wanted, "{scope}");
    }
}

#[test]
fn outside_the_cluster_every_process_is_hooked_for_balancing_policies() {
    if !require_kernel() {
        return;
    }
    let mut world = World::with("external", &["--role", "external"], &policy());
    let elsewhere = world.node.sandbox(&client_pod("container"));
    let mut clients = [world.node.client(), elsewhere.client()];
    let _global = world.node.serve("global", &["10.1.0.9:80"]);
    let balancing = Object::balancing_to("global", "10.96.0.1", 80, &["10.1.0.9"]);
    world.node.apply(&balancing.clone().with("/spec/config/enableOutCluster", false));
    world.node.start();
    for client in &mut clients {
        assert_eq!(ask(client), "original");
    }
    let view = world.node.wait_policy("policy", |policy| policy.reason == "NotSelected");
    assert!(view.message.contains("does not apply on hosts outside the cluster"), "{}", view.message);
    world.node.apply(&balancing);
    for client in &mut clients {
        answered_by(client, "global");
    }
    assert_eq!(world.node.ctl_json(&["status"])["role"], json!("external"));
}
