//! The harness tested by itself: without Balancing, a client reaches exactly what it dials.

use std::{collections::BTreeSet, net::SocketAddr, process::Command, time::Duration};

use balancing_tests::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// A namespace with one server on an IPv4 and an IPv6 address, and a client in a cgroup of its own.
struct World {
    cgroup: Cgroup,
    namespace: NetNs,
    server: EchoServer,
    v4: SocketAddr,
    v6: SocketAddr,
}

impl World {
    fn new() -> Self {
        let namespace = NetNs::new();
        let v4 = SocketAddr::from(([192, 0, 2, 1], 7000));
        let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 7000));
        namespace.add_loopback(&[v4.ip(), v6.ip()]);
        let server = EchoServer::start(&namespace, "alpha", &[v4, v6]);
        Self { cgroup: Cgroup::new("harness"), namespace, server, v4, v6 }
    }

    fn place(&self) -> Place {
        Place::default().in_netns(&self.namespace).in_cgroup(&self.cgroup)
    }

    fn client(&self) -> Client {
        Client::start(&self.place())
    }
}

#[test]
fn a_client_lives_in_its_cgroup_and_namespace() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    assert_eq!(client.ask_tcp(world.v4).as_deref(), Ok("alpha"));
    assert_eq!(world.cgroup.processes(), [client.pid()]);

    // The same address in another namespace leads nowhere.
    let elsewhere = NetNs::new();
    let mut stranger = Client::start(&Place::default().in_netns(&elsewhere));
    assert_eq!(stranger.ask_tcp(world.v4), Err(Errno::ENETUNREACH));
}

#[test]
fn tcp_in_every_way_of_connecting() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let mut ways = vec![Connect::Blocking, Connect::NonBlocking];
    if client.has_uring() {
        ways.push(Connect::Uring);
    }
    let closed = SocketAddr::new(world.v4.ip(), 7001);
    for how in ways {
        for to in [world.v4, world.v6] {
            let socket = client.open(Kind::tcp(to));
            assert_eq!(client.peer_name(socket), Err(Errno::ENOTCONN));
            assert_eq!(client.connect_by(how, socket, to), Ok(()), "{how:?}");
            assert_eq!(client.peer_name(socket), Ok(to));
            assert_eq!(client.sock_name(socket).unwrap().ip(), to.ip());
            assert_eq!(client.receive(socket).unwrap().data, "alpha\n");
            client.send(socket, "echo").unwrap();
            assert_eq!(client.receive_by(Receive::Recv, socket, DEADLINE).unwrap().data, "echo");
        }
        let socket = client.open(Kind::Tcp4);
        assert_eq!(client.connect_by(how, socket, closed), Err(Errno::ECONNREFUSED), "{how:?}");
    }
    assert_eq!(world.server.connections() % 2, 0);
}

#[test]
fn a_mapped_address_reaches_the_ipv4_server() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let SocketAddr::V4(v4) = world.v4 else { panic!("an IPv4 address") };
    let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
    let socket = client.open(Kind::Tcp6);
    assert_eq!(client.connect(socket, mapped), Ok(()));
    assert_eq!(client.peer_name(socket), Ok(mapped));
}

#[test]
fn udp_with_every_call() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    for to in [world.v4, world.v6] {
        let socket = client.open(Kind::udp(to));
        client.send_to(socket, to, "one").unwrap();
        client.send_msg(socket, Some(to), "two").unwrap();
        assert_eq!(client.send_mmsg(socket, &[(to, "three"), (to, "four")]), Ok(2));
        for (how, word) in [
            (Receive::RecvFrom, "one"),
            (Receive::RecvMsg, "two"),
            (Receive::RecvFrom, "three"),
            (Receive::RecvMsg, "four"),
        ] {
            let message = client.receive_by(how, socket, DEADLINE).unwrap();
            assert_eq!(message, Message { data: format!("alpha {word}"), from: Some(to) });
        }
        assert_eq!(client.receive_by(Receive::Recv, socket, Duration::from_millis(1)), Err(Errno::EAGAIN));
    }
    assert_eq!(world.server.datagrams(), 8);
}

#[test]
fn udp_connects_and_dissolves() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let socket = client.open(Kind::Udp4);
    client.connect(socket, world.v4).unwrap();
    client.send_msg(socket, None, "hello").unwrap();
    assert_eq!(client.receive(socket).unwrap().data, "alpha hello");
    client.disconnect(socket).unwrap();
    assert_eq!(client.peer_name(socket), Err(Errno::ENOTCONN));
    assert_eq!(client.send(socket, "lost"), Err(Errno::EDESTADDRREQ));

    let address = SocketAddr::new(world.v4.ip(), 7100);
    let bound = client.open_bound(Kind::Udp4, address).unwrap();
    assert_eq!(client.sock_name(bound), Ok(address));
    client.close(bound);
    assert_eq!(client.sock_name(bound), Err(Errno::EBADF));
}

#[test]
fn sockets_are_inherited_and_passed() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let socket = client.open(Kind::Tcp4);
    assert_eq!(client.fork_connect(socket, world.v4), Ok(()));
    assert_eq!(client.peer_name(socket), Ok(world.v4), "both processes share one socket");
    assert_eq!(client.fork_peer_name(socket), Ok(world.v4));

    let mut other = Client::start(&Place::default());
    let passed = client.pass(socket, &mut other);
    client.close(socket);
    assert_eq!(other.peer_name(passed), Ok(world.v4));
    assert_eq!(other.receive(passed).unwrap().data, "alpha\n");
}

#[test]
fn a_churn_counts_names_errors_and_moments() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let before = monotonic_ns();
    let mut churn = Churn::to(Kind::Tcp4, world.v4);
    (churn.threads, churn.samples) = (2, true);
    client.start_churn(&churn);
    wait_until(DEADLINE, || world.server.connections() >= 100);
    let report = client.stop_churn();
    assert!(report.successes() >= 100);
    assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["alpha"]);
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(report.samples.len() as u64, report.successes());
    assert!(
        report.samples.iter().all(|sample| sample.began_ns > before && sample.ended_ns > sample.began_ns)
    );

    let duration = Some(Duration::from_millis(20));
    for exchange in [Exchange::Connected, Exchange::Unconnected, Exchange::ConnectOnly] {
        let report = client.churn(&Churn { exchange, duration, ..Churn::to(Kind::Udp6, world.v6) });
        assert!(report.successes() > 0 && report.errors.is_empty(), "{exchange:?}: {report:?}");
    }
    let closed = SocketAddr::new(world.v4.ip(), 7001);
    let report = client.churn(&Churn { duration, ..Churn::to(Kind::Tcp4, closed) });
    assert_eq!(report.errors.keys().collect::<Vec<_>>(), ["ECONNREFUSED"]);
    assert_eq!(report.successes(), 0);
}

#[test]
fn namespaces_are_joined_by_veth() {
    if !require_kernel() {
        return;
    }
    let (left, right) = (NetNs::new(), NetNs::new());
    left.join("veth0", &right, "veth1");
    left.add_address("198.51.100.1/24", "veth0");
    right.ip_batch("address add 198.51.100.2/24 dev veth1\n");
    right.sysctl("ipv4/ip_forward", "1");
    let servers: Vec<EchoServer> = ["beta", "gamma"]
        .map(|name| EchoServer::start(&right, name, &["198.51.100.2:0".parse().unwrap()]))
        .into();
    let mut client = Client::start(&Place::default().in_netns(&left));
    let names: BTreeSet<String> =
        servers.iter().map(|server| client.ask_udp(server.address()).unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["beta".into(), "gamma".into()]));
}

#[test]
fn a_process_starts_in_its_place() {
    if !require_kernel() {
        return;
    }
    let world = World::new();
    let mut command = world.place().command("sh");
    let mut process =
        Process::start("sh", command.args(["-c", "cat /proc/self/cgroup; ip -o address; exec sleep 600"]));
    wait_until(DEADLINE, || process.log().contains("192.0.2.1/32"));
    let name = world.cgroup.path().file_name().unwrap().to_str().unwrap();
    assert!(process.log().contains(name), "{}", process.log());
    // The commands before the last one come and go in the same cgroup.
    wait_until(DEADLINE, || world.cgroup.processes() == [process.pid()]);
    process.kill();
    assert!(world.cgroup.processes().is_empty());
}

#[test]
fn everything_goes_when_a_test_panics() {
    if !require_kernel() {
        return;
    }
    let cgroup = Cgroup::new("panic");
    let (cgroup_path, bpffs) = (cgroup.path().to_owned(), Bpffs::new("panic"));
    let (bpffs_path, files) = (bpffs.path().to_owned(), TempDir::new("panic"));
    let files_path = files.path().to_owned();
    let outcome = std::thread::spawn(move || {
        let _client = Client::start(&Place::default().in_cgroup(&cgroup));
        let _guards = (bpffs, files, cgroup);
        panic!("on purpose");
    })
    .join();
    assert!(outcome.is_err());
    for path in [cgroup_path, bpffs_path, files_path] {
        assert!(!path.exists(), "{} is left over", path.display());
    }
}

#[test]
fn the_reference_plugins_run() {
    if !require_kernel() {
        return;
    }
    for name in ["bridge", "host-local", "loopback"] {
        let output = Command::new(tool(name)).env("CNI_COMMAND", "VERSION").output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let versions = answer["supportedVersions"].as_array().unwrap();
        assert!(versions.contains(&"1.1.0".into()), "{name}: {answer}");
    }
    // Without arguments it prints how to use it.
    let usage = Command::new(tool("cnitool")).output().unwrap();
    assert!(String::from_utf8_lossy(&usage.stderr).contains("cnitool"));
}
