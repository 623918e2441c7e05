//! The proxy at work: sockets of other members, pods behind it, the kernel's own stack between them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use balancing_dataplane::{
    model::Protocol::{self, Tcp, Udp},
    proxy,
};
use balancing_tests::{
    NetNs, address,
    proxied::{Proxied, frontend, service},
    require_kernel, wait_until, when_free,
};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

const PATIENCE: Duration = Duration::from_secs(30);
/// A port of the proxy, and the pod behind it.
const PORTS: [(&str, &str); 2] =
    [("10.211.0.1:20080", "10.244.1.1:80"), ("[fd11::1]:20080", "[fd44:1::1]:80")];

fn udp(namespace: &NetNs, at: SocketAddr) -> UdpSocket {
    let socket = namespace.run(|| when_free(|| UdpSocket::bind(at))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A socket of a client that talks to one address.
fn caller(namespace: &NetNs, to: SocketAddr, port: u16) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = udp(namespace, SocketAddr::new(any, port));
    socket.connect(to).unwrap();
    socket
}

fn listen(namespace: &NetNs, at: SocketAddr) -> TcpListener {
    namespace.run(|| when_free(|| TcpListener::bind(at))).unwrap()
}

/// Connects from a port; 0 = any.
fn connect(namespace: &NetNs, to: SocketAddr) -> TcpStream {
    let stream = namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, from)
}

/// Sends a question and answers it; who asked, as the server sees it.
fn exchange(client: &UdpSocket, server: &UdpSocket, question: &[u8]) -> SocketAddr {
    client.send(question).unwrap();
    let (heard, from) = receive(server);
    assert_eq!(heard, question);
    let answer: Vec<_> = question.iter().map(|byte| !byte).collect();
    server.send_to(&answer, from).unwrap();
    assert_eq!(receive(client).0, answer);
    from
}

/// As [`exchange`] with 8 kB both ways. A router does not cut packets of IPv6: whoever sends is told the size of the tunnel by the loss of a
/// first one.
fn exchange_pieces(client: &UdpSocket, server: &UdpSocket) {
    for (from, to) in [(client, server), (server, client)] {
        let peer = match from.peer_addr() {
            Ok(peer) => peer,
            Err(_) => exchange(client, server, b"who is it?"),
        };
        to.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        wait_until(PATIENCE, || {
            // Refused here already where the size is known and the way is not yet.
            from.send_to(&[7; 8000], peer).ok();
            to.recv(&mut [0; 8001]).is_ok_and(|length| length == 8000)
        });
        while to.recv(&mut [0; 8001]).is_ok() {}
        to.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for round in 0..5 {
        exchange(client, server, &vec![round; 8000]);
    }
}

/// A megabyte there and back; who connected, as the server sees it.
fn transfer(mut client: TcpStream, listener: &TcpListener) -> SocketAddr {
    let data: Vec<u8> = (0..1 << 20).map(|n: u32| n.wrapping_mul(31) as u8).collect();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut stream, from) = listener.accept().unwrap();
            let mut heard = vec![0; 1 << 20];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(&heard).unwrap();
            from
        });
        client.write_all(&data).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == data, "the data changed on its way");
        server.join().unwrap()
    })
}

fn declare(world: &mut Proxied, protocol: Protocol) {
    PORTS.into_iter().for_each(|(port, pod)| world.declare(port, protocol, &service(&[pod])));
}

#[test]
fn tcp_and_udp_reach_a_pod_that_sees_the_member() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("traffic");
    let pod = world.pod(1, 1);
    declare(&mut world, Tcp);
    declare(&mut world, Udp);
    for (port, at) in PORTS.map(|(port, at)| (address(port), address(at))) {
        let listener = listen(&pod, at);
        let from = transfer(connect(world.host(2), port), &listener);
        assert_eq!(from.ip(), world.inside(2, port));
        let server = udp(&pod, at);
        let client = caller(world.host(3), port, 0);
        let from = exchange(&client, &server, b"question");
        assert_eq!((from.ip(), from.port()), (world.inside(3, port), client.local_addr().unwrap().port()));
        exchange_pieces(&client, &server);
    }
    let counters = world.server.proxy.counters().unwrap();
    assert_eq!((counters.proxied, counters.drops["malformed"]), (4, 0));
}

#[test]
fn a_pod_of_the_hosts_network_is_reached_as_well() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("traffic-host");
    world.host(1).add_loopback(&["fd00::1".parse().unwrap()]);
    for (port, at) in [("10.211.0.1:20080", "192.0.2.1:80"), ("[fd11::1]:20080", "[fd00::1]:80")] {
        world.declare(port, Tcp, &service(&[at]));
        world.declare(port, Udp, &service(&[at]));
        let (port, at) = (address(port), address(at));
        let listener = listen(world.host(1), at);
        assert_eq!(transfer(connect(world.host(2), port), &listener).ip(), world.inside(2, port));
        let from = exchange(&caller(world.host(2), port, 0), &udp(world.host(1), at), b"question");
        assert_eq!(from.ip(), world.inside(2, port));
    }
}

#[test]
fn pods_of_another_member_share_its_address() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("traffic-pods");
    let pod = world.pod(1, 1);
    let far = world.start_on(2, "traffic-pods-far");
    declare(&mut world, Tcp);
    declare(&mut world, Udp);
    let clients = [world.pod(2, 1), world.pod(2, 2)];
    for (port, at) in PORTS.map(|(port, at)| (address(port), address(at))) {
        let server = udp(&pod, at);
        let callers = clients.each_ref().map(|client| caller(client, port, 5000));
        for _ in 0..3 {
            let seen = callers.each_ref().map(|caller| exchange(caller, &server, b"question"));
            assert!(seen.iter().all(|from| from.ip() == world.inside(2, port)), "{seen:?}");
            assert_ne!(seen[0].port(), seen[1].port());
        }
        exchange_pieces(&callers[0], &server);
        let listener = listen(&pod, at);
        for client in &clients {
            assert_eq!(transfer(connect(client, port), &listener).ip(), world.inside(2, port));
        }
    }
    assert_eq!(far.proxy.counters().unwrap().started, 8);
}

#[test]
fn a_closed_port_of_a_pod_is_told_to_the_client() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("traffic-closed");
    let _pod = world.pod(1, 1);
    let _far = world.start_on(2, "traffic-closed-far");
    declare(&mut world, Tcp);
    declare(&mut world, Udp);
    // A process of a host without a proxy, and a pod behind one.
    let pod = world.pod(2, 1);
    for client in [world.host(3), &pod] {
        for (port, _) in PORTS {
            let port = address(port);
            let socket = caller(client, port, 0);
            socket.send(b"anybody there?").unwrap();
            assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let refused = client.run(|| TcpStream::connect_timeout(&port, PATIENCE)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn udp_leaves_a_pod_that_is_gone_and_tcp_drains() {
    if !require_kernel() {
        return;
    }
    let mut world = Proxied::new("traffic-gone");
    let pods = [world.pod(1, 1), world.pod(1, 2)];
    declare(&mut world, Tcp);
    declare(&mut world, Udp);
    for (port, first, second) in [
        ("10.211.0.1:20080", "10.244.1.1:80", "10.244.1.2:80"),
        ("[fd11::1]:20080", "[fd44:1::1]:80", "[fd44:1::2]:80"),
    ] {
        let to = address(port);
        let servers = [udp(&pods[0], address(first)), udp(&pods[1], address(second))];
        let client = caller(world.host(2), to, 0);
        exchange(&client, &servers[0], b"to the first");
        let listener = listen(&pods[0], address(first));
        let mut stream = connect(world.host(2), to);
        let (mut served, _) = listener.accept().unwrap();
        stream.write_all(b"before").unwrap();
        for protocol in [Tcp, Udp] {
            world.declare(port, protocol, &service(&[second]));
        }
        exchange(&client, &servers[1], b"to the second");
        stream.write_all(b" after").unwrap();
        let mut heard = [0; 12];
        served.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"before after");
        for protocol in [Tcp, Udp] {
            world.server.proxy.remove(&frontend(port, protocol)).unwrap();
        }
        let undeclared = world.dropped("undeclared_port");
        client.send(b"to nobody").unwrap();
        wait_until(PATIENCE, || world.dropped("undeclared_port") > undeclared);
        served.write_all(b"goes on").unwrap();
        stream.read_exact(&mut heard[..7]).unwrap();
        assert_eq!(&heard[..7], b"goes on");
    }
}

#[test]
fn the_hosts_own_connections_pass_also_older_ones() {
    if !require_kernel() {
        return;
    }
    let world = Proxied::new("traffic-own");
    for port in PORTS.map(|(port, _)| address(port)) {
        let there = SocketAddr::new(world.inside(2, port), 7000);
        let listener = listen(world.host(2), there);
        // The second member gets its proxy while this connection is there.
        let mut old = connect(world.host(1), there);
        let (mut accepted, _) = listener.accept().unwrap();
        let far = world.start_on(2, "traffic-own-far");
        accepted.write_all(b"older").unwrap();
        let mut heard = [0; 5];
        old.read_exact(&mut heard).unwrap();
        old.write_all(b"still").unwrap();
        accepted.read_exact(&mut heard).unwrap();
        assert_eq!((&heard, far.proxy.counters().unwrap().started), (b"still", 1));
        // Filters, which a kernel without tcx has, stay on the device when their agent ends.
        world.host(2).run(|| proxy::unload(far.bpffs.path())).unwrap();
        let from = transfer(connect(world.host(1), there), &listener);
        assert_eq!(from.ip(), world.inside(1, port));
        exchange(&caller(world.host(1), there, 0), &udp(world.host(2), there), b"question");
    }
}

#[test]
fn new_connections_from_many_threads_all_arrive() {
    if !require_kernel() {
        return;
    }
    const THREADS: usize = 4;
    const EACH: usize = 250;
    let mut world = Proxied::new("traffic-storm");
    let pod = world.pod(1, 1);
    declare(&mut world, Tcp);
    let (port, at) = (address(PORTS[0].0), address(PORTS[0].1));
    let listener = listen(&pod, at);
    let seen = thread::scope(|scope| {
        for member in [2, 3].into_iter().cycle().take(THREADS) {
            let host = world.host(member);
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut stream = connect(host, port);
                    stream.write_all(&(number as u32).to_be_bytes()).unwrap();
                    let mut back = [0; 4];
                    stream.read_exact(&mut back).unwrap();
                    assert_eq!(u32::from_be_bytes(back), number as u32);
                }
            });
        }
        let mut seen = BTreeSet::new();
        for _ in 0..THREADS * EACH {
            let (mut stream, from) = listener.accept().unwrap();
            seen.insert(from);
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        }
        seen
    });
    assert_eq!(seen.len(), THREADS * EACH);
    let counters = world.server.proxy.counters().unwrap();
    assert_eq!(counters.proxied, (THREADS * EACH) as u64);
    assert_eq!((counters.drops["no_port"], counters.drops["table_full"]), (0, 0));
    let swept = world.server.proxy.sweep().unwrap();
    assert!(swept.complete && swept.seen as usize >= 2 * THREADS * EACH, "{swept:?}");
}

#[test]
fn a_packet_that_is_not_cut_yet_counts_as_its_segments_also_where_it_is_dropped() {
    if !require_kernel() {
        return;
    }
    const SEGMENTS: u64 = 10;
    let world = Proxied::new("traffic-segments");
    let mut far = world.start_on(2, "traffic-segments-far");
    let client = caller(world.host(2), address(PORTS[0].0), 0);
    setsockopt(&client, UdpGsoSegment, &100).unwrap();
    let whole = vec![7; 100 * SEGMENTS as usize];
    client.send(&whole).unwrap();
    assert_eq!(far.proxy.counters().unwrap().egress.0, SEGMENTS);
    wait_until(PATIENCE, || world.dropped("undeclared_port") == SEGMENTS);
    far.proxy.set_local(&Default::default()).unwrap();
    client.send(&whole).ok();
    assert_eq!(far.proxy.counters().unwrap().drops["no_address"], SEGMENTS);
}

#[test]
fn a_flow_of_udp_moves_at_once_and_a_transfer_by_tcp_drains_even_from_the_last_pod() {
    if !require_kernel() {
        return;
    }
    const SIZE: usize = 64 << 20;
    let mut world = Proxied::new("traffic-moves");
    let pods = [world.pod(1, 1), world.pod(1, 2)];
    let (port, [first, second]) = (PORTS[0].0, ["10.244.1.1:80", "10.244.1.2:80"]);
    for protocol in [Tcp, Udp] {
        world.declare(port, protocol, &service(&[first]));
    }
    let servers = [udp(&pods[0], address(first)), udp(&pods[1], address(second))];
    let client = caller(world.host(2), address(port), 0);
    exchange(&client, &servers[0], b"to the first");
    let listener = listen(&pods[0], address(first));
    let mut stream = connect(world.host(2), address(port));
    let (mut served, _) = listener.accept().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || served.write_all(&vec![7; SIZE]).unwrap());
        let mut heard = vec![0; SIZE];
        stream.read_exact(&mut heard[..SIZE / 2]).unwrap();
        for protocol in [Tcp, Udp] {
            world.declare(port, protocol, &service(&[second]));
        }
        // Nobody sweeps, and no packet is late.
        for _ in 0..100 {
            exchange(&client, &servers[1], b"to the second");
        }
        for protocol in [Tcp, Udp] {
            world.declare(port, protocol, &service(&[]));
        }
        let before = world.dropped("no_backend");
        client.send(b"to nobody").unwrap();
        wait_until(PATIENCE, || world.dropped("no_backend") > before);
        stream.read_exact(&mut heard[SIZE / 2..]).unwrap();
        assert!(heard.iter().all(|byte| *byte == 7));
    });
    servers[0].set_nonblocking(true).unwrap();
    assert_eq!(servers[0].recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
}
