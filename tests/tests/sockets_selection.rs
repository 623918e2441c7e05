//! Which backend a connection gets: by weight, and by memory where affinity is asked for.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use balancing_dataplane::model::Backend;
use balancing_tests::{
    dataplane::{Family, Layer, Network, Protocol, World, alone, layer, raise_open_files, weighted},
    *,
};

/// Asks often over UDP and counts the answers.
fn draw(client: &mut Client, to: SocketAddr, rounds: u64) -> BTreeMap<String, u64> {
    let churn = Churn { threads: 2, rounds: Some(rounds / 2), ..Churn::to(Kind::udp(to), to) };
    let report = client.churn(&churn);
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(report.successes(), rounds);
    report.peers
}

/// Pearson's statistic of the counts against the weights.
fn chi_square(counts: &BTreeMap<String, u64>, weights: &BTreeMap<String, u32>) -> f64 {
    let total: u64 = counts.values().sum();
    let sum: u32 = weights.values().sum();
    assert!(counts.keys().all(|name| weights.contains_key(name)), "{counts:?}");
    let terms = weights.iter().map(|(name, weight)| {
        let expected = total as f64 * f64::from(*weight) / f64::from(sum);
        let got = counts.get(name).copied().unwrap_or(0) as f64;
        (got - expected).powi(2) / expected
    });
    terms.sum()
}

fn affine(backends: &[SocketAddr], seconds: u32) -> Layer {
    Layer { affinity: NonZeroU32::new(seconds), ..layer(1, backends) }
}

fn backends(family: Family) -> [SocketAddr; 4] {
    [1, 2, 3, 4].map(|number| family.backend(number))
}

/// Enough frontends that chance alone never makes two clients choose alike.
const MANY: u16 = 20;

/// Frontends that differ by port.
fn many(family: Family) -> impl Iterator<Item = SocketAddr> {
    (1..=MANY).map(move |port| SocketAddr::new(family.frontend(1).ip(), port))
}

/// The backends that a client gets at all of them.
fn choices(client: &mut Client, family: Family) -> Vec<String> {
    many(family).map(|to| client.ask_udp(to).expect("an answer")).collect()
}

fn publish_many(world: &mut World, family: Family, layer: &Layer) {
    for to in many(family) {
        world.plane.publish(Protocol::Udp, to, alone(layer.clone()));
    }
}

#[test]
fn shares_follow_the_weights() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-weights");
    let mut client = world.client();
    for family in Family::ALL {
        let weights = [10, 20, 30, 0];
        let backends =
            (1..).zip(weights).map(|(number, weight)| weighted(family.backend(number), weight)).collect();
        let layer = Layer { backends, ..layer(1, &[]) };
        world.plane.publish(Protocol::Udp, family.frontend(1), alone(layer));
        let counts = draw(&mut client, family.frontend(1), 12_000);
        // Weight 0 is not among the expected names, so one answer of the fourth would fail.
        let expected =
            (1..).zip(weights).take(3).map(|(number, weight)| (format!("backend{number}"), weight));
        let statistic = chi_square(&counts, &expected.collect());
        // Two degrees of freedom: more than 40 has a probability of 2e-9.
        assert!(statistic < 40.0, "{family:?}: {statistic} of {counts:?}");
    }
}

#[test]
fn unconnected_sockets_and_tcp_draw_by_weight_too() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-calls");
    let mut client = world.client();
    let family = Family::V4;
    let backends: Vec<Backend> = vec![weighted(family.backend(1), 3), weighted(family.backend(2), 1)];
    let expected = BTreeMap::from([("backend1".to_owned(), 3), ("backend2".to_owned(), 1)]);
    for (protocol, exchange) in [(Protocol::Udp, Exchange::Unconnected), (Protocol::Tcp, Exchange::Connected)]
    {
        let layer = Layer { backends: backends.clone(), ..layer(1, &[]) };
        world.plane.publish(protocol, family.frontend(1), alone(layer));
        let churn =
            Churn { exchange, rounds: Some(8000), ..Churn::to(family.kind(protocol), family.frontend(1)) };
        let report = client.churn(&churn);
        assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
        let statistic = chi_square(&report.peers, &expected);
        // One degree of freedom: more than 36 has a probability of 2e-9.
        assert!(statistic < 36.0, "{protocol:?}: {statistic} of {:?}", report.peers);
    }
}

#[test]
fn sets_of_every_size() {
    if !require_kernel() {
        return;
    }
    raise_open_files();
    let mut world = World::new("select-sizes");
    let address = |i: u16| SocketAddr::from((Ipv4Addr::from(0x0a40_0000 + u32::from(i)), 2000));
    let named: Vec<_> = (0..1000).map(|i| (format!("s{i}"), address(i))).collect();
    let _servers = EchoServer::start_named(&world.network.netns, &named);
    let mut client = world.client();
    let to = Family::V4.frontend(1);
    for (size, rounds) in [(1, 500), (2, 4000), (10, 10_000), (1000, 50_000)] {
        let set: Vec<_> = (0..size).map(address).collect();
        let key = world.plane.redirect(Protocol::Udp, to, &set);
        let before = world.plane.redirected(key);
        let counts = draw(&mut client, to, rounds);
        assert_eq!(world.plane.redirected(key) - before, rounds);
        assert_eq!(counts.len(), usize::from(size), "every backend gets some");
        let expected = named.iter().take(size.into()).map(|(name, _)| (name.clone(), 1)).collect();
        let statistic = chi_square(&counts, &expected);
        let freedom = f64::from(size - 1);
        // Mean and variance of chi-square are n and 2n; its tail is longer where n is small.
        let limit = freedom + 7.0 * (2.0 * freedom).sqrt() + 30.0;
        assert!(statistic < limit, "{size} backends: {statistic} is over {limit}");
    }
}

#[test]
fn a_namespace_keeps_its_backend_and_others_choose_for_themselves() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-sticky");
    let other = Network::new();
    let (mut one, mut two) = (world.client(), other.client(&world.pod));
    // A second process of the first namespace, in another cgroup, is the same client.
    let mut same = world.network.client(&world.pod.child("other"));
    for family in [Family::V4, Family::V6] {
        publish_many(&mut world, family, &affine(&backends(family), 600));
        let (first, second) = (choices(&mut one, family), choices(&mut two, family));
        assert_ne!(first, second, "{family:?}");
        for _ in 0..5 {
            assert_eq!(choices(&mut one, family), first, "{family:?}");
            assert_eq!(choices(&mut same, family), first, "{family:?}");
            assert_eq!(choices(&mut two, family), second, "{family:?}");
        }
    }
    // An IPv4-mapped socket is a client of the IPv4 frontend.
    let (plain, mapped) = (choices(&mut one, Family::V4), choices(&mut one, Family::Mapped));
    assert_eq!(plain, mapped);
    // Unconnected sockets of the client too.
    for (to, expected) in many(Family::V4).zip(plain) {
        let socket = one.open(Kind::Udp4);
        one.send_to(socket, to, "x").unwrap();
        assert_eq!(one.receive(socket), Ok(Message { data: format!("{expected} x"), from: Some(to) }));
        one.close(socket);
    }
}

#[test]
fn a_backend_that_leaves_moves_its_clients_and_no_others() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-leave");
    let other = Network::new();
    let mut clients = [world.client(), other.client(&world.pod)];
    for family in [Family::V4, Family::V6] {
        publish_many(&mut world, family, &affine(&backends(family), 600));
        let before = clients.each_mut().map(|client| choices(client, family));
        let left: Vec<_> = backends(family).into_iter().skip(1).collect();
        publish_many(&mut world, family, &affine(&left, 600));
        let after = clients.each_mut().map(|client| choices(client, family));
        for (old, new) in before.iter().flatten().zip(after.iter().flatten()) {
            assert_ne!(new, "backend1");
            assert!(old == "backend1" || old == new, "{family:?}: {old} became {new}");
        }
        assert_eq!(
            clients.each_mut().map(|client| choices(client, family)),
            after,
            "they stay where they moved"
        );
        // Its return moves nobody.
        publish_many(&mut world, family, &affine(&backends(family), 600));
        assert_eq!(clients.each_mut().map(|client| choices(client, family)), after);
        // One backend left, then none of it left: at once.
        for number in [2, 3] {
            publish_many(&mut world, family, &affine(&[family.backend(number)], 600));
            let all = vec![format!("backend{number}"); usize::from(MANY)];
            assert_eq!(clients.each_mut().map(|client| choices(client, family)), [all.clone(), all]);
        }
    }
}

#[test]
fn affinity_ends_after_its_time_without_use() {
    if !require_kernel() {
        return;
    }
    const SECOND: u64 = 1_000_000_000;
    let mut world = World::new("select-expire");
    let mut client = world.client();
    let family = Family::V4;
    publish_many(&mut world, family, &affine(&backends(family), 1));
    // Used more often than once a second it lasts longer than a second.
    let (first, ended) = undisturbed(|| {
        let (mut began, first) = (monotonic_ns(), choices(&mut client, family));
        let start = began;
        let mut ended = monotonic_ns();
        while ended - start < 2 * SECOND + SECOND / 2 {
            wait_until(Duration::from_secs(60), || monotonic_ns() - ended > SECOND / 4);
            let now = monotonic_ns();
            let again = choices(&mut client, family);
            ended = monotonic_ns();
            if ended - began >= SECOND {
                return None;
            }
            assert_eq!(again, first);
            began = now;
        }
        Some((first, ended))
    });
    wait_until(Duration::from_secs(60), || monotonic_ns() - ended > SECOND);
    assert_ne!(choices(&mut client, family), first);
}

#[test]
fn a_drained_backend_keeps_the_clients_it_has() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-drain");
    let other = Network::new();
    let (mut old, mut new) = (world.client(), other.client(&world.pod));
    for family in [Family::V4, Family::V6] {
        publish_many(&mut world, family, &affine(&backends(family), 600));
        let before = choices(&mut old, family);
        assert!(before.iter().any(|name| name == "backend1"), "{before:?}");
        let drained = |weights: [u32; 4]| {
            let backends =
                backends(family).into_iter().zip(weights).map(|(b, weight)| weighted(b, weight)).collect();
            Layer { backends, ..affine(&[], 600) }
        };
        publish_many(&mut world, family, &drained([0, 1, 1, 1]));
        assert_eq!(choices(&mut old, family), before, "{family:?}");
        assert!(choices(&mut new, family).iter().all(|name| name != "backend1"), "{family:?}");
        // All drained: old clients stay, new ones find no backend.
        publish_many(&mut world, family, &drained([0, 0, 0, 0]));
        assert_eq!(choices(&mut old, family), before, "{family:?}");
        let fresh = Network::new();
        let to = many(family).next().unwrap();
        let _direct = EchoServer::start(&fresh.netns, "direct", &[to]);
        assert_eq!(fresh.client(&world.pod).ask_udp(to).as_deref(), Ok("direct"), "{family:?}");
    }
}

#[test]
fn a_lone_drained_backend_keeps_the_clients_it_has() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-lone");
    let other = Network::new();
    let (mut old, mut new) = (world.client(), other.client(&world.pod));
    for family in Family::ALL {
        let to = family.frontend(1);
        let lone = |weight| Layer { backends: vec![weighted(family.backend(1), weight)], ..affine(&[], 600) };
        world.plane.publish(Protocol::Tcp, to, alone(lone(1)));
        assert_eq!(old.ask_tcp(to).as_deref(), Ok("backend1"));
        world.plane.publish(Protocol::Tcp, to, alone(lone(0)));
        assert_eq!(old.ask_tcp(to).as_deref(), Ok("backend1"), "{family:?}");
        assert_eq!(new.ask_tcp(to).as_deref(), Ok("direct1"), "{family:?}");
        // Without affinity a client is nobody's.
        world.plane.publish(Protocol::Tcp, to, alone(Layer { affinity: None, ..lone(0) }));
        assert_eq!(old.ask_tcp(to).as_deref(), Ok("direct1"), "{family:?}");
        // A drained backend of an unconnected socket is kept by the socket.
        world.plane.publish(Protocol::Udp, to, alone(Layer { affinity: None, ..lone(1) }));
        let socket = old.open(family.udp());
        old.send_to(socket, to, "a").unwrap();
        assert_eq!(old.receive(socket).unwrap().data, "backend1 a");
        world.plane.publish(Protocol::Udp, to, alone(Layer { affinity: None, ..lone(0) }));
        old.send_to(socket, to, "b").unwrap();
        assert_eq!(
            old.receive(socket),
            Ok(Message { data: "backend1 b".into(), from: Some(to) }),
            "{family:?}"
        );
        let fresh = old.open(family.udp());
        old.send_to(fresh, to, "c").unwrap();
        assert_eq!(old.receive(fresh).unwrap().data, "direct1 c", "{family:?}");
        world.plane.tables.remove(&dataplane::key(Protocol::Tcp, to)).unwrap();
        world.plane.tables.remove(&dataplane::key(Protocol::Udp, to)).unwrap();
    }
}

#[test]
fn addresses_of_backends_may_differ_by_port_alone() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-ports");
    let address = |port| SocketAddr::new(IpAddr::from([198, 51, 100, 1]), port);
    let named = [("x".to_owned(), address(2100)), ("y".to_owned(), address(2101))];
    let _servers = EchoServer::start_named(&world.network.netns, &named);
    let mut client = world.client();
    world.plane.redirect(Protocol::Udp, Family::V4.frontend(1), &[address(2100), address(2101)]);
    let counts = draw(&mut client, Family::V4.frontend(1), 2000);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["x", "y"]);
}

#[test]
fn connections_of_one_client_agree_from_the_first_on() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("select-agree");
    let family = Family::V4;
    let address = |port: u16| SocketAddr::new(family.backend(1).ip(), 2100 + port);
    let named: Vec<_> = (0..10).map(|port| (format!("s{port}"), address(port))).collect();
    let _servers = EchoServer::start_named(&world.network.netns, &named);
    let set: Vec<_> = named.iter().map(|(_, address)| *address).collect();
    // Two processes of one network namespace, eight threads in all, whose clocks and CPUs meet.
    let mut clients = [world.client(), world.client()];
    for round in 0..20 {
        let to = SocketAddr::new(family.frontend(1).ip(), 3000 + round);
        world.plane.publish(Protocol::Udp, to, alone(affine(&set, 600)));
        let churn = Churn { threads: 4, rounds: Some(500), ..Churn::to(Kind::Udp4, to) };
        clients.iter_mut().for_each(|client| client.start_churn(&churn));
        let mut peers: Vec<String> = vec![];
        for client in &mut clients {
            let report = client.end_churn();
            assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
            peers.extend(report.peers.into_keys());
        }
        peers.dedup();
        assert_eq!(peers.len(), 1, "round {round}: {peers:?}");
    }
    let usage = world.plane.tables.usage().unwrap();
    let row = usage.iter().find(|row| row.name == "affinity").unwrap();
    assert_eq!((row.used, row.dropped), (20, Some(0)));
}

#[test]
fn what_the_affinity_table_forgets_is_counted() {
    if !require_kernel() {
        return;
    }
    let sizes = balancing_dataplane::loader::Sizes { affinity: 64, ..dataplane::SIZES };
    let scope = balancing_dataplane::loader::HostScope::Everything;
    let mut world = World::on(dataplane::DataPlane::with("select-forget", sizes, scope), "select-forget");
    let family = Family::V4;
    let mut client = world.client();
    for port in 0..400 {
        let to = SocketAddr::new(family.frontend(1).ip(), 3000 + port);
        world.plane.publish(Protocol::Udp, to, alone(affine(&[family.backend(1)], 600)));
        assert_eq!(client.ask_udp(to).as_deref(), Ok("backend1"));
    }
    let usage = world.plane.reader().usage().unwrap();
    let row = usage.iter().find(|row| row.name == "affinity").unwrap();
    assert_eq!(row.capacity, 64);
    assert!(row.used > 0 && row.used <= 64, "{row:?}");
    assert_eq!(row.dropped, Some(400 - row.used));
}
