//! Many policies: all are in force, and a change costs what it touches.

use std::{collections::BTreeMap, time::Instant};

use balancing_dataplane::model::FrontendKey;
use balancing_tests::*;

const POLICIES: usize = 2_000;

fn ip(network: u8, number: usize) -> String {
    format!("10.{network}.{}.{}", number / 250, number % 250)
}

fn pod(number: usize) -> Object {
    Object::pod(
        &format!("pod-{number}"),
        &format!("app-{number}"),
        &[&ip(1, number), &format!("fd00:1::{number:x}")],
    )
}

fn policy(number: usize) -> Object {
    Object::balancing(&format!("policy-{number}"), &ip(96, number), 80, &format!("app-{number}"))
}

/// Ids of the backends of every frontend.
fn backend_ids(node: &Node) -> BTreeMap<FrontendKey, Vec<u32>> {
    let ids =
        |layer: &balancing_dataplane::tables::LayerView| layer.backends.iter().map(|(id, _)| *id).collect();
    node.layers().iter().map(|layer| (layer.key, ids(layer))).collect()
}

#[test]
fn a_change_among_two_thousand_policies_touches_one_frontend() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("scale", &["--log-level", "debug"]);
    let _servers =
        [0, 777, POLICIES - 1].map(|at| node.serve(&format!("pod-{at}"), &[&format!("{}:80", ip(1, at))]));
    let _other = node.serve("other", &["10.2.0.1:80"]);
    node.apply_text("pods.json", &Object::list((0..POLICIES).filter(|at| *at != 777).map(pod)).json());
    node.apply(&pod(777));
    node.apply_text("policies.json", &Object::list((0..POLICIES).map(policy)).json());
    let started = Instant::now();
    node.start();
    println!("{POLICIES} policies in force after {:?}", started.elapsed());
    let mut client = node.client();
    for at in [0, 777, POLICIES - 1] {
        assert_eq!(client.ask_tcp(address(&format!("{}:80", ip(96, at)))).unwrap(), format!("pod-{at}"));
    }
    assert!(node.policies().iter().all(|policy| policy.programmed));

    let written = |node: &mut Node| node.agent().log().matches("programmed").count();
    let (before, count) = (backend_ids(&node), written(&mut node));
    assert_eq!((before.len(), count), (POLICIES, POLICIES));
    let changed = address(&format!("{}:80", ip(96, 777)));
    let started = Instant::now();
    node.apply(&pod(777).with("/status/podIPs/0/ip", "10.2.0.1"));
    eventually(|| match client.ask_tcp(changed) {
        Ok(name) if name == "other" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    println!("one endpoint changed after {:?}", started.elapsed());
    assert_eq!(written(&mut node), POLICIES + 1, "one frontend is written");
    let after = backend_ids(&node);
    let differs: Vec<_> =
        before.iter().filter(|(key, ids)| after.get(key) != Some(*ids)).map(|(key, _)| key).collect();
    assert_eq!(differs.len(), 1, "{differs:?}");
    assert_eq!(differs[0].address, changed.ip());

    // What an earlier agent has programmed is taken over, not written again.
    node.agent().kill();
    node.start();
    assert_eq!(written(&mut node), POLICIES + 1, "nothing is written without a change");
    assert_eq!(backend_ids(&node), after);
}
