//! Links at the cgroup root, and what happens where they meet a pod's.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::os::unix::fs::MetadataExt;

use balancing_dataplane::{loader::HostScope, sys};
use balancing_tests::{
    dataplane::{DataPlane, Family, Network, Protocol, SIZES, canonical},
    *,
};

/// A cgroup that stands for the root, and a pod below it.
struct Node {
    plane: DataPlane,
    root: Cgroup,
    pod: Cgroup,
    /// The host's.
    host: Network,
    /// A pod's.
    other: Network,
}

impl Node {
    fn new(topic: &str, scope: impl FnOnce(u64) -> HostScope) -> Self {
        let (host, other) = (Network::new(), Network::new());
        let cookie = host.netns.run(|| sys::netns_cookie().expect("a cookie"));
        let plane = DataPlane::with(topic, SIZES, scope(cookie));
        let root = Cgroup::new(topic);
        let pod = root.child("kubepods/pod");
        plane.attach_host(&root);
        plane.attach_pod(&pod);
        Self { plane, root, pod, host, other }
    }
}

/// Connects and sends in every way, and compares server and names.
#[track_caller]
fn assert_reaches(client: &mut Client, family: Family, server: &str) {
    let to = family.frontend(1);
    for kind in [family.tcp(), family.udp()] {
        let socket = client.open(kind);
        assert_eq!(client.connect(socket, to), Ok(()));
        assert_eq!(client.peer_name(socket), Ok(to), "{family:?} {kind:?}");
        assert_eq!(client.send(socket, "x"), Ok(()));
        let heard = client.receive(socket).expect("an answer").data;
        assert!(heard.starts_with(server), "{family:?} {kind:?}: {heard}, not {server}");
        client.close(socket);
    }
    let socket = client.open(family.udp());
    assert_eq!(client.send_to(socket, to, "x"), Ok(()));
    let expected = Message { data: format!("{server} x"), from: Some(to) };
    assert_eq!(client.receive(socket), Ok(expected), "{family:?}");
    client.close(socket);
}

#[test]
fn the_hosts_programs_act_in_its_namespace_alone() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("host-scope", |cookie| HostScope::Namespace(Some(cookie)));
    let deep = node.root.child("system.slice/some.service");
    let mut processes = [&node.root, &deep].map(|cgroup| node.host.client(cgroup));
    // A pod that has no links of its own: it is not the host's business.
    let mut unhooked = node.other.client(&node.root.child("kubepods/unhooked"));
    for family in Family::ALL {
        let keys = [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| node.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]));
        for process in &mut processes {
            assert_reaches(process, family, "backend1");
        }
        assert_reaches(&mut unhooked, family, "direct1");
        for key in keys {
            node.plane.tables.remove(&key).unwrap();
        }
    }
}

#[test]
fn a_connection_below_two_links_is_translated_once() {
    if !require_kernel() {
        return;
    }
    for everything in [false, true] {
        let scope =
            |cookie| if everything { HostScope::Everything } else { HostScope::Namespace(Some(cookie)) };
        let mut node = Node::new("host-both", scope);
        let mut pod = node.other.client(&node.pod);
        for family in [Family::V4, Family::V6] {
            let keys = [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| node.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]));
            let socket = pod.open(family.tcp());
            assert_eq!(pod.connect(socket, family.frontend(1)), Ok(()));
            assert_eq!(pod.receive(socket).unwrap().data, "backend1\n");
            let connected = pod.open(family.udp());
            assert_eq!(pod.connect(connected, family.frontend(1)), Ok(()));
            let unconnected = pod.open(family.udp());
            assert_eq!(pod.send_to(unconnected, family.frontend(1), "x"), Ok(()));
            let expected = Message { data: "backend1 x".into(), from: Some(family.frontend(1)) };
            assert_eq!(pod.receive(unconnected), Ok(expected), "{family:?}");
            assert_eq!(keys.map(|key| node.plane.redirected(key)), [1, 2], "{family:?}");
            assert_eq!(pod.peer_name(socket), Ok(family.frontend(1)), "everything: {everything}");
            assert_eq!(pod.peer_name(connected), Ok(family.frontend(1)), "everything: {everything}");
        }
    }
}

#[test]
fn a_backend_that_is_a_frontend_is_dialled_no_further() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("host-chain", |cookie| HostScope::Namespace(Some(cookie)));
    let mut clients = [node.other.client(&node.pod), node.host.client(&node.root)];
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            node.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]);
            node.plane.redirect(protocol, family.backend(1), &[family.backend(2)]);
        }
        for client in &mut clients {
            assert_reaches(client, family, "backend1");
        }
    }
}

#[test]
fn outside_a_cluster_every_socket_is_the_hosts() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("host-all", |_| HostScope::Everything);
    let mut clients = [&node.host, &node.other].map(|network| network.client(&node.root));
    for family in Family::ALL {
        let keys = [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| node.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]));
        for client in &mut clients {
            assert_reaches(client, family, "backend1");
        }
        let socket = clients[1].open(family.udp());
        assert_eq!(clients[1].connect(socket, family.frontend(1)), Ok(()));
        let own = clients[1].sock_name(socket).unwrap();
        assert_eq!(node.other.real_peer(family.udp(), own.port()), Some(canonical(family.backend(1))));
        for key in keys {
            node.plane.tables.remove(&key).unwrap();
        }
    }
}

#[test]
fn without_a_cookie_the_host_is_the_kernels_first_namespace() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("host-first", |_| HostScope::Namespace(None));
    /// `NET_NS_INIT_INO` of Linux 6.18. Earlier kernels do not tell which namespace is their first.
    const FIRST: u64 = 0xefff_fff9;
    if std::fs::metadata("/proc/self/ns/net").unwrap().ino() == FIRST {
        let here = NetNs::current();
        let servers = ["dialled", "backend"]
            .map(|name| EchoServer::start(&here, name, &["127.0.0.1:0".parse().unwrap()]));
        let [dialled, backend] = servers.each_ref().map(EchoServer::address);
        node.plane.redirect(Protocol::Tcp, dialled, &[backend]);
        let mut process = Client::start(&Place::default().in_cgroup(&node.root));
        assert_eq!(process.ask_tcp(dialled).as_deref(), Ok("backend"));
    } else {
        eprintln!("this is not known to be the first namespace: only tested that others are left alone");
    }
    node.plane.redirect(Protocol::Tcp, Family::V4.frontend(1), &[Family::V4.backend(1)]);
    assert_eq!(node.other.client(&node.root).ask_tcp(Family::V4.frontend(1)).as_deref(), Ok("direct1"));
}
