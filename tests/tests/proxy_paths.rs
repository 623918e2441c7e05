//! Paths of unequal MTU through tunnel and proxy, and pods whose packets go past the host's stack: nothing gets stuck.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use balancing_dataplane::model::Protocol::{Tcp, Udp};
use balancing_tests::{
    NetNs, address,
    proxied::{Proxied, service},
    require_kernel,
    tunnel::fabric,
    when_free,
};
use balancing_tunnel::{EchoError, Filter, echo};

const PATIENCE: Duration = Duration::from_secs(30);
/// A port of the proxy, and the pod behind it.
const PORTS: [(&str, &str); 2] =
    [("10.211.0.1:20080", "10.244.1.1:80"), ("[fd11::1]:20080", "[fd44:1::1]:80")];
/// Far more than any window.
const BULK: usize = 4 << 20;

/// Both ports lead to pod 1 of the first member.
fn declare(scene: &mut Proxied) {
    for (front, pod) in PORTS {
        for protocol in [Tcp, Udp] {
            scene.declare(front, protocol, &service(&[pod]));
        }
    }
}

/// Moves [`BULK`] bytes each way over one connection. One that gets stuck fails at the deadline.
fn bulk(client: &NetNs, front: &str, server: &NetNs, pod: &str) {
    let listener = server.run(|| when_free(|| TcpListener::bind(address(pod)))).unwrap();
    let serve = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut vec![0; BULK]).unwrap();
        stream.write_all(&vec![2; BULK]).unwrap();
    });
    let mut stream = client.run(|| TcpStream::connect_timeout(&address(front), PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![1; BULK]).unwrap();
    stream.read_exact(&mut vec![0; BULK]).unwrap();
    serve.join().unwrap();
}

/// A question and its answer by UDP.
fn ask(client: &NetNs, front: &str, server: &NetNs, pod: &str) {
    let bind = |namespace: &NetNs, at: SocketAddr| {
        let socket = namespace.run(|| when_free(|| UdpSocket::bind(at))).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let any: IpAddr = if address(front).is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let (client, server) = (bind(client, SocketAddr::new(any, 0)), bind(server, address(pod)));
    client.connect(address(front)).unwrap();
    client.send(b"question").unwrap();
    let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
    server.send_to(b"answer", from).unwrap();
    assert_eq!(client.recv(&mut [0; 64]).unwrap(), 6, "the answer comes from the proxy's address");
}

#[test]
fn pods_of_a_larger_mtu_than_the_tunnel_exchange_bulk() {
    if !require_kernel() {
        return;
    }
    let mut scene = Proxied::new("paths-larger");
    declare(&mut scene);
    let _client_proxy = scene.start_on(2, "paths-larger-client");
    let (pod, client) = (scene.pod(1, 1), scene.pod(2, 1));
    for (front, at) in PORTS {
        bulk(scene.host(2), front, &pod, at);
        bulk(&client, front, &pod, at);
    }
}

#[test]
fn pods_that_hear_no_icmp_exchange_bulk_too() {
    if !require_kernel() {
        return;
    }
    let mut scene = Proxied::new("paths-deaf");
    declare(&mut scene);
    let _client_proxy = scene.start_on(2, "paths-deaf-client");
    let (pod, client) = (scene.pod(1, 1), scene.pod(2, 1));
    // The filter's table lowers what their connections offer.
    for host in &scene.members.hosts {
        let all = scene.members.all();
        host.namespace.run(|| Filter::new().apply(&all, &fabric(), &host.own)).unwrap();
    }
    for namespace in [&pod, &client] {
        nft(
            namespace,
            "table inet deaf { chain input { type filter hook input priority 0; icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }",
        );
    }
    for (front, at) in PORTS {
        bulk(&client, front, &pod, at);
    }
}

#[test]
fn hosts_of_different_mtu_exchange_bulk() {
    if !require_kernel() {
        return;
    }
    let mut scene = Proxied::new("paths-mixed");
    // The first member and its pods have jumbo frames, the others have not.
    for device in ["p1", "br0"] {
        scene.members.switch.ip(&["link", "set", device, "mtu", "9000"]);
    }
    scene.host(1).ip(&["link", "set", "eth0", "mtu", "9000"]);
    scene.members.hosts[0].own.mtu = 8950;
    for host in &mut scene.members.hosts[1..] {
        host.own.mtu = 1450;
    }
    scene.members.apply();
    declare(&mut scene);
    let _client_proxy = scene.start_on(2, "paths-mixed-client");
    let (pod, client) = (scene.pod(1, 1), scene.pod(2, 1));
    pod.ip(&["link", "set", "eth0", "mtu", "9000"]);
    scene.host(1).ip(&["link", "set", "pod1", "mtu", "9000"]);
    for (front, at) in PORTS {
        bulk(scene.host(2), front, &pod, at);
        bulk(&client, front, &pod, at);
    }
}

#[test]
fn what_fits_passes_and_a_byte_more_is_told() {
    if !require_kernel() {
        return;
    }
    let scene = Proxied::new("paths-limit");
    for (from, to) in scene.members.inside(2).into_iter().zip(scene.members.inside(1)) {
        let sized = |size| scene.host(2).run(|| echo(from, to, size, PATIENCE));
        assert!(sized(1450).is_ok());
        assert!(matches!(sized(1451), Err(EchoError::TooLong(1451))));
    }
}

/// Sends what pod 1 of the first member sends into the tunnel straight to the tunnel's device, as network plugins do that bypass the
/// host's stack.
fn bypass(scene: &Proxied, to: usize) {
    let mac = scene.members.hosts[to - 1].own.mac;
    let rule = |network: &str| format!("{network} ether daddr set {mac} fwd to balancing0");
    let rules = [rule("ip daddr 10.211.0.0/16"), rule("ip6 daddr fd11::/112")].join("; ");
    let table = format!(
        "table netdev bypass {{ chain pod {{ type filter hook ingress device pod1 priority 0; {rules}; }}; }}"
    );
    nft(scene.host(1), &table);
}

fn nft(namespace: &NetNs, text: &str) {
    let status = namespace.run(|| Command::new("nft").arg(text).status()).unwrap();
    assert!(status.success(), "{text}");
}

#[test]
fn answers_that_bypass_the_stack_are_translated() {
    if !require_kernel() {
        return;
    }
    let mut scene = Proxied::new("paths-bypass");
    declare(&mut scene);
    let _client_proxy = scene.start_on(2, "paths-bypass-client");
    let (pod, client) = (scene.pod(1, 1), scene.pod(2, 1));
    bypass(&scene, 2);
    // The host's stack takes part no more.
    let stack =
        "table inet stack { chain forward { type filter hook forward priority 0; iifname pod1 drop; }; }";
    nft(scene.host(1), stack);
    for (front, at) in PORTS {
        ask(scene.host(2), front, &pod, at);
        bulk(scene.host(2), front, &pod, at);
        bulk(&client, front, &pod, at);
    }
}
