//! Proxy addresses of an administrator by nftables: pods come and go under flows, and nobody else answers for them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use balancing_tests::{EchoServer, NetNs, address, require_kernel, wait_until, when_free};
use balancing_tunnel::{
    Nat,
    nat::{Frontend, Frontends, Pods},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Where clients go, by family.
const FRONTS: [&str; 2] = ["192.0.2.1:5000", "[2001:db8::1]:5000"];
const PODS: [[&str; 2]; 2] = [["10.244.0.2:80", "10.244.0.3:80"], ["[fd44::2]:80", "[fd44::3]:80"]];

/// A host with an address for clients, two pods behind it, and a client.
struct Scene {
    host: NetNs,
    client: NetNs,
    _pods: Vec<(NetNs, EchoServer)>,
    nat: Nat,
}

impl Scene {
    fn new() -> Self {
        let (host, client) = (NetNs::new(), NetNs::new());
        host.sysctl("ipv4/ip_forward", "1");
        host.sysctl("ipv6/conf/all/forwarding", "1");
        host.join("out", &client, "eth0");
        for (at_host, at_client, family, via) in [
            ("192.0.2.1/24", "192.0.2.2/24", "-4", "192.0.2.1"),
            ("2001:db8::1/64", "2001:db8::2/64", "-6", "2001:db8::1"),
        ] {
            host.add_address(at_host, "out");
            client.add_address(at_client, "eth0");
            client.ip(&[family, "route", "add", "default", "via", via]);
        }
        let pod = |n: usize| {
            let (pod, device) = (NetNs::new(), format!("pod{n}"));
            host.join(&device, &pod, "eth0");
            let addresses = [address(PODS[0][n]), address(PODS[1][n])];
            for (own, gateway, length, family) in
                [(addresses[0], "169.254.1.1", 32, "-4"), (addresses[1], "fe80::1", 128, "-6")]
            {
                host.add_address(&format!("{gateway}/{length}"), &device);
                pod.add_address(&format!("{}/{length}", own.ip()), "eth0");
                pod.ip(&[family, "route", "replace", "default", "via", gateway, "dev", "eth0", "onlink"]);
                host.ip(&[family, "route", "replace", &format!("{}/{length}", own.ip()), "dev", &device]);
            }
            let server = EchoServer::start(&pod, ["a", "b"][n], &addresses);
            (pod, server)
        };
        let pods = vec![pod(0), pod(1)];
        Self { host, client, _pods: pods, nat: Nat::new() }
    }

    /// Leads both families, TCP and UDP, to these pods.
    fn declare(&mut self, pods: &[usize]) -> Frontends {
        let mut wanted = Frontends::new();
        for (front, family) in FRONTS.iter().zip(PODS) {
            for is_udp in [false, true] {
                let pods = pods.iter().map(|n| address(family[*n])).collect();
                wanted.insert(Frontend { at: address(front), is_udp }, Pods { pods, sticky: false });
            }
        }
        assert!(self.apply(&wanted, false));
        wanted
    }

    fn apply(&mut self, wanted: &Frontends, everything: bool) -> bool {
        let (nat, host) = (&mut self.nat, &self.host);
        host.run(|| nat.apply(wanted, everything)).unwrap()
    }

    fn udp(&self, front: &str) -> UdpSocket {
        let front = address(front);
        let any: SocketAddr = if front.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = self.client.run(|| UdpSocket::bind(any)).unwrap();
        socket.connect(front).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    }

    fn connect(&self, front: &str) -> io::Result<TcpStream> {
        self.client.run(|| TcpStream::connect_timeout(&address(front), Duration::from_secs(5)))
    }

    fn nft(&self, command: &str) {
        let output = self.host.run(|| Command::new("nft").args(command.split(' ')).output()).unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

/// Who answers on a socket.
fn asks(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

#[test]
fn a_udp_flow_goes_on_with_another_pod_when_its_own_is_gone() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new();
    scene.declare(&[0]);
    let sockets = FRONTS.map(|front| scene.udp(front));
    for socket in &sockets {
        wait_until(PATIENCE, || asks(socket).is_ok_and(|name| name.starts_with('a')));
    }
    scene.declare(&[1]);
    for socket in &sockets {
        // The connection tracking would lead it to the old pod for as long as it is used.
        let name = asks(socket).unwrap();
        assert!(name.starts_with('b'), "{name}");
    }
    // A pod that stays keeps its flows.
    scene.declare(&[0, 1]);
    assert!(sockets.iter().all(|socket| asks(socket).unwrap().starts_with('b')));
    // So it is with a new agent, which knows nothing of the flows.
    scene.nat = Nat::new();
    scene.declare(&[0]);
    assert!(sockets.iter().all(|socket| asks(socket).unwrap().starts_with('a')));
}

#[test]
fn very_many_flows_to_a_pod_that_is_gone_are_ended_in_parts() {
    if !require_kernel() {
        return;
    }
    /// More than are ended at once.
    const FLOWS: u16 = 17_000;
    let mut scene = Scene::new();
    scene.declare(&[0]);
    let front = address(FRONTS[0]);
    let flows = || -> u16 {
        let count = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        scene.host.run(count).unwrap().trim().parse().unwrap()
    };
    // The queue of a device may overflow.
    wait_until(PATIENCE, || {
        scene.client.run(|| {
            for port in 10_000..10_000 + FLOWS {
                when_free(|| UdpSocket::bind(("0.0.0.0", port))).unwrap().send_to(b"who", front).unwrap();
            }
        });
        flows() >= FLOWS
    });
    let wanted = scene.declare(&[1]);
    assert!(!scene.nat.is_settled());
    for _ in 0..2 {
        assert!(!scene.apply(&wanted, false));
    }
    assert!(scene.nat.is_settled());
    let socket = scene.client.run(|| when_free(|| UdpSocket::bind(("0.0.0.0", 10_000 + FLOWS - 1)))).unwrap();
    socket.connect(front).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(asks(&socket).unwrap().starts_with('b'));
}

#[test]
fn a_declared_port_without_pods_is_refused_also_where_the_host_listens() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new();
    let listen = || FRONTS.map(|front| when_free(|| TcpListener::bind(address(front))).unwrap());
    let _listeners = scene.host.run(listen);
    let _servers =
        scene.host.run(|| FRONTS.map(|front| when_free(|| UdpSocket::bind(address(front))).unwrap()));
    wait_until(PATIENCE, || FRONTS.iter().all(|front| scene.connect(front).is_ok()));
    for pods in [&[][..], &[0], &[]] {
        scene.declare(pods);
        for front in FRONTS {
            let (socket, connected) = (scene.udp(front), scene.connect(front));
            if pods.is_empty() {
                assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{front}");
                assert_eq!(asks(&socket).unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{front}");
            } else {
                assert!(asks(&socket).unwrap().starts_with('a') && connected.is_ok(), "{front}");
            }
        }
    }
    // Nobody declares it any more: it is the host's.
    assert!(scene.apply(&Frontends::new(), false));
    assert!(FRONTS.iter().all(|front| scene.connect(front).is_ok()));
}

#[test]
fn a_table_that_somebody_changed_is_made_anew() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new();
    let wanted = scene.declare(&[0, 1]);
    assert!(!scene.apply(&wanted, true));
    for damage in [
        "flush ruleset",
        "flush map inet balancing_proxy ipv4",
        "flush chain inet balancing_proxy prerouting",
        "add rule inet balancing_proxy refuse accept",
        "add element inet balancing_proxy refused4 { 192.0.2.9 . tcp . 80 }",
    ] {
        scene.nft(damage);
        assert!(scene.apply(&wanted, true), "{damage}");
        assert!(!scene.apply(&wanted, true), "{damage}");
    }
}
