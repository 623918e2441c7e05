//! Decisions on behalf of the whole cluster, and pods that the controller listed.

use std::collections::{BTreeMap, BTreeSet};

use super::fixtures::*;
use crate::{
    objects::{
        BackendPort, Endpoint, Endpoints, FrontendSpec, Node, Object, ObjectRef, Pod, Policy, PortRef,
        RedirectMode::{self, HostPort, NodeProxy, PodEndpoint},
    },
    plan::{Entry, Reason},
    resolve::{ClusterPods, Family, Role, Settings, reach},
};

const FRONT: &str = "169.254.0.90";

fn mk_cluster() -> Lab {
    Lab::with_settings(Settings { role: Role::Cluster, node_name: String::new(), ..mk_settings() })
}

fn front() -> FrontendSpec {
    at_address(FRONT, &[("", 80, Tcp)])
}

fn mk_labelled(name: &str, pairs: &[(&str, &str)]) -> Node {
    Node { labels: labels(pairs), ..mk_node(name, &[], &[]) }
}

/// A LocalRedirectPolicy for the nodes with `pool=<pool>`.
fn mk_pool(name: &str, pool: &str, created: i64) -> Policy {
    let policy = mk_local(name, front(), web_pods(&[("", 8080, Tcp)])).created(Some(created));
    policy.with(|spec| spec.node_selector = selector(&[("pool", pool)]))
}

fn losers(lab: &Lab) -> Vec<String> {
    let lost = lab.engine.verdicts().iter().filter(|(_, verdict)| !verdict.conflicts_with.is_empty());
    lost.map(|(policy, _)| policy.name.clone()).collect()
}

#[test]
fn policies_for_different_nodes_do_not_conflict() {
    let mut lab = mk_cluster();
    lab.put(mk_labelled(HERE, &[("pool", "a")]));
    lab.put(mk_labelled(THERE, &[("pool", "b")]));
    lab.put(mk_pool("a", "a", 1));
    lab.put(mk_pool("b", "b", 2));
    assert_eq!(losers(&lab), [""; 0]);
    assert_eq!(lab.verdict(&local("b")).reason, Reason::Applied);
}

#[test]
fn policies_that_meet_on_a_node_conflict_until_its_labels_change() {
    let mut lab = mk_cluster();
    lab.put(mk_labelled(HERE, &[("pool", "a")]));
    lab.put(mk_labelled(THERE, &[("pool", "b")]));
    lab.put(mk_pool("a", "a", 1));
    let everywhere = mk_local("all", front(), web_pods(&[("", 8080, Tcp)])).created(Some(2));
    lab.put(everywhere.clone());
    assert_eq!(losers(&lab), ["all"], "both are in force here");
    lab.delete(everywhere);
    lab.put(mk_pool("b", "b", 2));
    lab.put(mk_labelled(THERE, &[("pool", "a")]));
    assert_eq!(losers(&lab), [""; 0], "no node is in the pool b any more");
    assert_eq!(lab.verdict(&local("b")).reason, Reason::NotSelected);
    lab.put(mk_pool("b", "a", 2));
    assert_eq!(losers(&lab), ["b"]);
    lab.put(mk_pool("b", "b", 2));
    lab.put(mk_labelled(THERE, &[("pool", "b")]));
    assert_eq!(losers(&lab), [""; 0]);
    assert_eq!(lab.verdict(&local("b")).reason, Reason::Applied);
}

#[test]
fn balancing_policies_meet_outside_the_cluster_too() {
    let pool = |name: &str, created: i64| {
        let policy = mk_balancing(name, front(), web_pods(&[("", 8080, Tcp)]), PodEndpoint);
        policy.created(Some(created)).with(|spec| spec.node_selector = selector(&[("pool", name)]))
    };
    let mut lab = mk_cluster();
    lab.put(mk_labelled(HERE, &[("pool", "a")]));
    lab.put(mk_labelled(THERE, &[("pool", "b")]));
    lab.put(mk_pod("web", &["10.0.0.1"]));
    lab.put(pool("a", 1));
    lab.put(pool("b", 2));
    assert_eq!(losers(&lab), ["b"], "hosts outside apply both");
    lab.put(pool("b", 2).with(|spec| spec.out_cluster = false));
    assert_eq!(losers(&lab), [""; 0]);
    assert_eq!(lab.verdict(&balancing("a")).message, "1 frontend, 1 backend");
    lab.put(mk_labelled(HERE, &[]));
    let verdict = lab.verdict(&balancing("a"));
    assert_eq!(verdict.reason, Reason::Applied, "still for hosts outside");
    let note = "spec.config.nodeLabelSelector matches the labels of no node; it applies on hosts outside the cluster only";
    assert!(verdict.message.contains(note), "{}", verdict.message);
}

#[test]
fn local_backends_are_counted_on_all_nodes_that_apply_the_policy() {
    let mut lab = mk_cluster();
    lab.put(mk_labelled(HERE, &[("pool", "a")]));
    lab.put(mk_labelled(THERE, &[("pool", "a")]));
    lab.put(mk_labelled("node-c", &[("pool", "c")]));
    for (n, node) in [HERE, THERE, THERE, "node-c"].into_iter().enumerate() {
        let pod = mk_pod(&format!("p{n}"), &[&format!("10.0.0.{n}")]);
        lab.put(Pod { node: node.to_owned(), ..pod });
    }
    lab.put(mk_pool("a", "a", 1));
    assert_eq!(lab.verdict(&local("a")).backends, 3);
    lab.put(mk_labelled(THERE, &[("pool", "c")]));
    assert_eq!(lab.verdict(&local("a")).backends, 1);
    lab.put(mk_local("a", front(), web_pods(&[("", 8080, Tcp)])));
    assert_eq!(lab.verdict(&local("a")).backends, 4, "every node");
}

#[test]
fn what_was_touched_is_told_and_nothing_else() {
    let mut lab = mk_cluster();
    lab.put(mk_balancing("b", front(), web_pods(&[("", 8080, Tcp)]), PodEndpoint));
    let mut db = web_pods(&[("", 8080, Tcp)]);
    db.selector = selector(&[("app", "db")]);
    let other = mk_balancing("db", at_address("169.254.0.91", &[("", 80, Tcp)]), db, PodEndpoint);
    lab.put(other.clone());
    assert_eq!(lab.put(mk_pod("a", &["10.0.0.1"])).touched, BTreeSet::from([balancing("b")]));
    assert_eq!(lab.delete(other).touched, BTreeSet::from([balancing("db")]), "gone is touched, too");
}

/// The nodes with their addresses.
fn mk_nodes() -> [Node; 2] {
    [
        mk_node(HERE, &["192.168.0.1", "fd00:1::1"], &["10.255.0.1", "fd00:2::1"]),
        mk_node(THERE, &["192.168.0.2"], &["10.255.0.2"]),
    ]
}

/// What the controller lists of a pod, as `cluster::slices` does: one slice for each family.
fn mk_slices(pod: &Pod, policy: &Policy, mode: RedirectMode) -> Vec<Object> {
    let crate::objects::BackendSpec::Pods { pods, .. } = &policy.spec.as_ref().unwrap().backend else {
        panic!("not a policy over pods")
    };
    let nodes = mk_nodes();
    let node = nodes.iter().find(|node| node.name == pod.node);
    let slice = |(n, family): (usize, Family)| {
        let at = |port: &&BackendPort| reach::address(pod, node, port, mode, family, None).ok();
        let ip = pods.ports.iter().find_map(|port| at(&port))?;
        Some(Object::Endpoints(Endpoints {
            slice: ObjectRef { namespace: "balancing".to_owned(), name: format!("{}-{n}", pod.name) },
            policy: policy.id.clone(),
            policy_uid: policy.uid.clone(),
            generation: Some(policy.generation),
            // Each is its own head, so that any number of them is complete.
            set_size: Some(1),
            approved: None,
            ports: pods
                .ports
                .iter()
                .filter(|port| at(port).is_some())
                .map(|port| port.port.clone())
                .collect(),
            list: vec![Endpoint {
                ip,
                pod: mk_ref(&pod.name),
                node: pod.node.clone(),
                zone: String::new(),
                ready: pod.is_available(),
            }],
        }))
    };
    [Family::V4, Family::V6].into_iter().enumerate().filter_map(slice).collect()
}

/// The entries with the pods known, and with the pods listed.
fn both_ways(pods: &[Pod], policy: &Policy, mode: RedirectMode) -> [BTreeMap<String, Entry>; 2] {
    [ClusterPods::Selected, ClusterPods::Listed].map(|cluster_pods| {
        let mut lab = Lab::with_settings(Settings { cluster_pods, ..mk_settings() });
        // Of other nodes an agent knows what the slices say.
        let nodes = mk_nodes().into_iter();
        for node in nodes.filter(|node| cluster_pods == ClusterPods::Selected || node.name == HERE) {
            lab.put(node);
        }
        lab.put(policy.clone());
        for pod in pods {
            // The pods of its own node every agent knows.
            if cluster_pods == ClusterPods::Selected || pod.node == HERE {
                lab.put(pod.clone());
            }
            if cluster_pods == ClusterPods::Selected {
                continue;
            }
            for slice in mk_slices(pod, policy, mode) {
                lab.change([(slice.key(), Some(slice))]);
            }
        }
        lab.entries().iter().map(|(key, entry)| (key.to_string(), entry.clone())).collect()
    })
}

#[test]
fn listed_pods_give_the_same_entries_as_known_ones() {
    let mut open = mk_pod("open", &["10.0.0.1", "fd00::1"]);
    open.ports = vec![mk_container_port("a", 80, Some(20080)), mk_container_port("b", 81, Some(20081))];
    let mut one = Pod { node: THERE.to_owned(), ..mk_pod("one", &["10.0.1.1"]) };
    one.ports = vec![mk_container_port("a", 90, Some(20080))];
    let mut host = Pod { node: THERE.to_owned(), ..mk_pod("host", &["192.168.0.2"]) };
    host.host_network = true;
    let unready = Pod { ready: false, ..mk_pod("unready", &["10.0.0.2"]) };
    let leaving = Pod { terminating: true, ..mk_pod("leaving", &["10.0.0.3"]) };
    let pods = [open, one, host, unready, leaving, mk_pod("plain", &["10.0.0.4", "fd00::4"])];
    for mode in [PodEndpoint, HostPort, NodeProxy] {
        for address in [FRONT, "fd00:9::1"] {
            let front = at_address(address, &[("a", 80, Tcp), ("b", 81, Tcp)]);
            let mut backend = web_pods(&[("a", 20080, Tcp), ("b", 20081, Tcp)]);
            if mode == NodeProxy {
                backend.ports[1].target = Some(PortRef::Name("b".to_owned()));
            }
            let policy = mk_balancing("b", front, backend, mode);
            let [known, listed] = both_ways(&pods, &policy, mode);
            assert_eq!(known, listed, "{mode:?} {address}");
            let backends: usize = known.values().map(|entry| entry.layers[0].backends.len()).sum();
            assert!(known.len() == 2 && backends > 0, "{mode:?} {address}: nothing is compared");
        }
    }
}

#[test]
fn a_listed_pod_that_becomes_unready_or_leaves_is_no_backend() {
    let policy = mk_balancing("b", front(), web_pods(&[("", 8080, Tcp)]), PodEndpoint);
    let settings = Settings { cluster_pods: ClusterPods::Listed, ..mk_settings() };
    let mut lab = Lab::with_settings(settings);
    let shows = |lab: &Lab| lab.shows(key(FRONT, 80, Tcp));
    // Slices may come before their policy.
    let pods = [mk_pod("a", &["10.0.0.1"]), mk_pod("b", &["10.0.0.2"])];
    let pods = pods.map(|pod| Pod { node: THERE.to_owned(), ..pod });
    for slice in pods.iter().flat_map(|pod| mk_slices(pod, &policy, PodEndpoint)) {
        lab.change([(slice.key(), Some(slice))]);
    }
    lab.put(policy.clone());
    lab.put(Pod { node: THERE.to_owned(), ..mk_pod("unlisted", &["10.0.0.3"]) });
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.0.2:8080", "only what is listed counts");
    let unready = Pod { ready: false, ..pods[0].clone() };
    for slice in mk_slices(&unready, &policy, PodEndpoint) {
        lab.change([(slice.key(), Some(slice))]);
    }
    assert_eq!(shows(&lab), "10.0.0.2:8080");
    for slice in mk_slices(&pods[1], &policy, PodEndpoint) {
        lab.change([(slice.key(), None)]);
    }
    assert_eq!(shows(&lab), "reject");
}
