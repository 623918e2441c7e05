//! The manifests that users of the original project have work as their pages say, exactly as written.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, fs, path::Path};

use balancing_tests::*;
use serde_json::json;

/// The text of a seed.
fn seed(file: &str) -> String {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/core/tests/fixtures/seeds");
    fs::read_to_string(seeds.join(file)).unwrap()
}

/// Connects over TCP: who answers, and that the socket names what was dialled.
#[track_caller]
fn reach(client: &mut Client, to: &str) -> String {
    let socket = client.open(Kind::tcp(address(to)));
    assert_eq!(client.connect(socket, address(to)), Ok(()), "{to}");
    assert_eq!(client.peer_name(socket), Ok(address(to)));
    let name = client.receive(socket).unwrap().data.trim().to_owned();
    client.close(socket);
    name
}

/// Everybody who answers at an address.
fn reach_all(client: &mut Client, to: &str) -> BTreeSet<String> {
    (0..60).map(|_| reach(client, to)).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Waits until an address is answered by exactly these.
#[track_caller]
fn reached_by(client: &mut Client, to: &str, wanted: &[&str]) {
    eventually(|| {
        let found = reach_all(client, to);
        if found == names(wanted) { Ok(()) } else { Err(format!("{to} is answered by {found:?}")) }
    });
}

#[test]
fn local_redirect_by_service() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("seed-service");
    let _original = node.serve("original", &["10.96.0.10:8080", "10.96.0.10:80"]);
    let _local = node.serve("local", &["10.1.0.1:80"]);
    let _remote = node.serve("remote", &["10.1.0.2:80"]);
    let pod = Object::pod("local", "http-redirect", &["10.1.0.1"]);
    let remote = Object::pod("remote", "http-redirect", &["10.1.0.2"]).with("/spec/nodeName", "n2");
    let service = Object::service("http-server-v4", &["10.96.0.10"], &[("p1", 8080), ("p2", 80)]);
    for object in [&pod, &remote, &service] {
        node.apply(object);
    }
    node.apply_text("policy.yaml", &seed("00-localredirectpolicy-test-service.yaml"));
    assert_eq!(
        seed("00-localredirectpolicy-test-service.yaml"),
        seed("02-localredirectpolicy-test-service.yaml"),
        "both pages show the same example"
    );
    node.start();

    let mut host = node.client();
    for to in ["10.96.0.10:8080", "10.96.0.10:80"] {
        assert_eq!(reach_all(&mut host, to), names(&["local"]), "only pods of this node");
    }
    assert_eq!(host.ask_udp(address("10.96.0.10:80")).as_deref(), Ok("original"), "the policy is for TCP");

    // "This supports resolving service access to the original service during failures or upgrades."
    node.apply(&pod.clone().unready());
    reached_by(&mut host, "10.96.0.10:8080", &["original"]);
    let view = node.wait_backends("test-service", 0);
    assert!(view.message.contains("none of the 1 matching pods on this node is ready"), "{}", view.message);
    node.apply(&pod);
    reached_by(&mut host, "10.96.0.10:8080", &["local"]);
    node.delete(&pod);
    reached_by(&mut host, "10.96.0.10:80", &["original"]);
}

#[test]
fn local_redirect_by_address() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("seed-address");
    let _plain = node.serve("plain", &["169.254.0.90:8080", "169.254.0.90:80"]);
    let _local = node.serve("local", &["10.1.0.1:80"]);
    let pod = Object::pod("local", "http-redirect", &["10.1.0.1"]);
    node.apply(&pod);
    node.apply_text("policy.yaml", &seed("01-localredirectpolicy-test-addr.yaml"));
    assert_eq!(
        seed("01-localredirectpolicy-test-addr.yaml"),
        seed("03-localredirectpolicy-test-addr.yaml"),
        "both pages show the same example"
    );
    node.start();

    let mut host = node.client();
    for to in ["169.254.0.90:8080", "169.254.0.90:80"] {
        assert_eq!(reach(&mut host, to), "local");
    }
    let frontends = node.ctl_json(&["frontends"]);
    assert_eq!(frontends[0]["serviceId"], json!(10091), "the id of the annotation names the policy");
    assert_eq!(frontends[0]["owner"], json!({"kind": "LocalRedirectPolicy", "name": "test-addr"}));
    assert_eq!(frontends[0]["counters"]["redirected"], json!(1));
    node.delete(&pod);
    reached_by(&mut host, "169.254.0.90:80", &["plain"]);
}

#[test]
fn balancing_to_pods_host_ports_proxies_and_addresses() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("seed-balancing");
    let clusters = ["10.96.0.20", "10.96.0.21", "10.96.0.22"];
    let _originals =
        node.serve("original", &clusters.map(|ip| format!("{ip}:80")).each_ref().map(String::as_str));
    let pods = ["10.1.0.1:80", "10.1.0.2:80"].map(|to| node.serve(&format!("pod-{to}"), &[to]));
    let _hosts = ["192.0.2.1:20080", "192.0.2.2:20080"].map(|to| node.serve(&format!("host-{to}"), &[to]));
    let _proxies =
        ["192.168.0.10:20080", "192.168.0.11:20080"].map(|to| node.serve(&format!("proxy-{to}"), &[to]));
    let _custom = ["1.1.1.1:80", "1.1.1.2:80"].map(|to| node.serve(&format!("custom-{to}"), &[to]));
    for (number, name) in [(1, "n1"), (2, "n2")] {
        let (pod, host) = (format!("10.1.0.{number}"), format!("192.0.2.{number}"));
        let proxy = format!("192.168.0.{}", 9 + number);
        node.apply(&Object::node(name, &host).annotated("balancing.elf.io/nodeProxyIpv4", &proxy));
        let ports = json!([{"ports": [{"containerPort": 80, "hostPort": 20080}]}]);
        let pod = Object::pod(&format!("pod-{name}"), "http-redirect", &[&pod]);
        node.apply(&pod.with("/spec/nodeName", name).with("/spec/containers", ports));
    }
    for (service, ip) in ["pod", "hostport", "nodeproxy"].iter().zip(clusters) {
        let name = format!("http-server-balancing-{service}-v4");
        node.apply(&Object::service(&name, &[ip], &[("p1", 8080), ("p2", 80)]));
    }
    for file in [
        "07-balancingpolicy-test-service-podendpoint.yaml",
        "08-balancingpolicy-test-service-hostport.yaml",
        "09-balancingpolicy-test-service-nodeproxy.yaml",
        "10-balancingpolicy-test-addr.yaml",
    ] {
        node.apply_text(file, &seed(file));
    }
    node.start();

    let mut host = node.client();
    for (to, wanted) in [
        ("10.96.0.20:80", ["pod-10.1.0.1:80", "pod-10.1.0.2:80"]),
        ("10.96.0.20:8080", ["pod-10.1.0.1:80", "pod-10.1.0.2:80"]),
        ("10.96.0.21:80", ["host-192.0.2.1:20080", "host-192.0.2.2:20080"]),
        // A client on the node of a pod goes straight to it.
        ("10.96.0.22:80", ["pod-10.1.0.1:80", "proxy-192.168.0.11:20080"]),
        ("169.254.169.254:80", ["custom-1.1.1.1:80", "custom-1.1.1.2:80"]),
        ("169.254.169.254:8080", ["custom-1.1.1.1:80", "custom-1.1.1.2:80"]),
    ] {
        assert_eq!(reach_all(&mut host, to), names(&wanted), "{to}");
    }
    assert!(pods.iter().all(|pod| pod.connections() > 0));

    // The administrator takes the annotation of a node away.
    node.apply(&Object::node("n2", "192.0.2.2"));
    reached_by(&mut host, "10.96.0.22:80", &["pod-10.1.0.1:80"]);
    let view = node.wait_backends("test-service-nodeproxy", 1);
    let wanted = "its annotation balancing.elf.io/nodeProxyIpv4, which a TunnelFabric or you write, and its own clients alone reach its pods: n2";
    assert!(view.message.contains(wanted), "{}", view.message);
}

#[test]
fn objects_of_others_are_left_alone() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("seed-cilium");
    let _plain = node.serve("plain", &["169.254.169.254:8080", "169.254.0.90:80"]);
    let _local = node.serve("local", &["10.1.0.1:80"]);
    for file in [
        "04-pod-lrp-pod.yaml",
        "05-ciliumlocalredirectpolicy-lrp-addr.yaml",
        "06-ciliumlocalredirectpolicy-lrp-svc.yaml",
        "01-localredirectpolicy-test-addr.yaml",
    ] {
        node.apply_text(file, &seed(file));
    }
    node.apply(&Object::pod("local", "http-redirect", &["10.1.0.1"]));
    node.start();
    let mut host = node.client();
    assert_eq!(reach(&mut host, "169.254.169.254:8080"), "plain", "a policy of Cilium does nothing here");
    assert_eq!(reach(&mut host, "169.254.0.90:80"), "local");
    assert_eq!(node.view().unwrap().source.problems, [""; 0]);
    assert_eq!(node.agent().log().matches("CiliumLocalRedirectPolicy").count(), 1, "one line for the kind");
    assert_eq!(node.policies().len(), 1);
}
