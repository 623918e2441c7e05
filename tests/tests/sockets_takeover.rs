//! An agent that takes over: what was programmed stays in force, and nothing that is equal is written anew.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::num::NonZeroU32;

use balancing_dataplane::{
    model::{ClientId, PolicyKind, PolicyName},
    tables::{Counters, LayerView},
};
use balancing_tests::{
    dataplane::{Clients, Entry, Family, Layer, Protocol, World, above, alone, layer, weighted},
    *,
};

/// One of everything that an entry can be.
fn all_kinds(family: Family) -> Vec<Entry> {
    let many = |count: u16| -> Vec<_> {
        let port = |i| std::net::SocketAddr::new(family.backend(1).ip(), 2000 + i);
        (0..count).map(|i| weighted(port(i), u32::from(i % 5))).collect()
    };
    let base = layer(1, &[family.backend(1)]);
    let skip = [ClientId::NetnsCookie(77), ClientId::Cgroup(88)];
    vec![
        alone(base.clone()),
        alone(layer(2, &[family.backend(2), family.backend(3)])),
        alone(Layer { backends: many(10), ..layer(3, &[]) }),
        alone(Layer { backends: many(1000), affinity: NonZeroU32::new(10_800), ..layer(4, &[]) }),
        alone(Layer { backends: vec![weighted(family.backend(1), 0)], ..layer(5, &[]) }),
        alone(Layer { reject: true, ..layer(6, &[]) }),
        alone(layer(7, &[])),
        above(
            Layer { skip: skip.into(), qos_limit: NonZeroU32::new(9), ..layer(8, &[family.backend(1)]) },
            Layer { backends: many(3), ..layer(9, &[]) },
        ),
        above(
            Layer { clients: Clients::Pods, ..base.clone() },
            Layer { clients: Clients::Host, reject: true, ..layer(10, &[]) },
        ),
        alone(Layer { clients: Clients::Host, backends: vec![weighted(family.backend(1), 7)], ..base }),
    ]
}

/// What a reader sees, without what counts on.
fn layers(world: &World) -> Vec<LayerView> {
    let mut layers = world.plane.reader().layers().expect("the tables");
    for view in &mut layers {
        view.counters = Counters::default();
    }
    layers
}

#[test]
fn everything_is_read_back_as_it_was_written() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("takeover");
    for family in [Family::V4, Family::V6] {
        for (entry, port) in all_kinds(family).into_iter().zip(3000..) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let to = std::net::SocketAddr::new(family.frontend(1).ip(), port);
                world.plane.publish(protocol, to, entry.clone());
            }
        }
    }
    // Second layers that are no more, and ids with holes.
    for port in [3000, 3003, 3007] {
        let to = std::net::SocketAddr::new(Family::V4.frontend(1).ip(), port);
        world.plane.tables.remove(&dataplane::key(Protocol::Tcp, to)).unwrap();
        world.plane.publish(Protocol::Udp, to, all_kinds(Family::V4).remove(1));
    }
    let name = PolicyName { kind: PolicyKind::LocalRedirect, name: "a-policy".into() };
    world.plane.tables.set_policy(1, Some(&name)).unwrap();
    let (entries, before) = (world.plane.tables.entries().clone(), layers(&world));
    assert_eq!(entries.len(), 37);

    world.plane.take_over();
    assert_eq!(*world.plane.tables.entries(), entries);
    assert_eq!(world.plane.tables.policies()[&1], name);
    assert_eq!(layers(&world), before, "backends keep their ids");
    // The same again changes nothing, in whatever spelling.
    for (key, entry) in &entries {
        let mut spelled = entry.clone();
        for backend in &mut spelled.layers[0].backends {
            backend.weight *= 3;
        }
        spelled.layers[0].backends.reverse();
        world.plane.tables.publish(*key, &spelled).unwrap();
    }
    assert_eq!(*world.plane.tables.entries(), entries);
    assert_eq!(layers(&world), before);
    // What is new gets ids and slots of its own, and does not harm what was there.
    for port in 4000..4100 {
        let to = std::net::SocketAddr::new(Family::V4.frontend(2).ip(), port);
        world.plane.publish(Protocol::Udp, to, all_kinds(Family::V4).remove(2));
    }
    let after: Vec<_> = layers(&world).into_iter().filter(|view| entries.contains_key(&view.key)).collect();
    assert_eq!(after, before);
    let mut used = world.plane.reader().usage().unwrap().into_iter();
    let slots = used.find(|usage| usage.name == "backends").unwrap().used;
    // Limit and affinity take a place of their own beside the backends.
    let places = |view: &LayerView| {
        let head = usize::from(view.layer.qos_limit.is_some() || view.layer.affinity.is_some());
        match view.backends.len() {
            0 => 0,
            1 if head == 0 => 0,
            count => count + head,
        }
    };
    let expected: usize = layers(&world).iter().map(places).sum();
    assert_eq!(slots, expected as u64);
}

#[test]
fn clients_notice_nothing() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("takeover-clients");
    let mut client = world.client();
    for family in Family::ALL {
        let all = [1, 2, 3, 4].map(|number| family.backend(number));
        let sticky = Layer { affinity: NonZeroU32::new(600), ..layer(1, &all) };
        let (tcp, udp) = (family.frontend(1), family.frontend(2));
        let entries = [(Protocol::Tcp, tcp, alone(sticky)), (Protocol::Udp, udp, alone(layer(2, &all)))];
        let keys = entries.clone().map(|(protocol, to, entry)| world.plane.publish(protocol, to, entry));
        let (connection, datagrams) = (client.open(family.tcp()), client.open(family.udp()));
        client.connect(connection, tcp).unwrap();
        let server = client.receive(connection).unwrap().data.trim().to_owned();
        client.send_to(datagrams, udp, "a").unwrap();
        let told = client.receive(datagrams).unwrap();
        let counted = keys.map(|key| world.plane.counters(key, 0));

        world.plane.take_over();
        for (protocol, to, entry) in entries {
            world.plane.publish(protocol, to, entry);
        }
        assert_eq!(keys.map(|key| world.plane.counters(key, 0)), counted);
        assert_eq!(client.peer_name(connection), Ok(tcp), "{family:?}");
        for _ in 0..20 {
            assert_eq!(client.ask_tcp(tcp), Ok(server.clone()), "affinity, {family:?}");
            client.send_to(datagrams, udp, "a").unwrap();
            assert_eq!(client.receive(datagrams), Ok(told.clone()), "{family:?}");
        }
        assert_eq!(keys.map(|key| world.plane.redirected(key)), counted.map(|c| c.redirected + 20));
    }
}

#[test]
fn counters_and_names_survive_an_update_and_end_with_the_frontend() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("takeover-counters");
    let mut client = world.client();
    for family in [Family::V4, Family::V6] {
        let to = family.frontend(1);
        let key = world.plane.redirect(Protocol::Tcp, to, &[family.backend(1)]);
        for _ in 0..3 {
            assert_eq!(client.ask_tcp(to).as_deref(), Ok("backend1"));
        }
        let socket = client.open(family.tcp());
        client.connect(socket, to).unwrap();
        world.plane.publish(Protocol::Tcp, to, alone(layer(9, &[family.backend(2), family.backend(3)])));
        world.plane.redirect(Protocol::Tcp, to, &[family.backend(2)]);
        assert_eq!(world.plane.redirected(key), 4);
        assert_eq!(client.peer_name(socket), Ok(to));
        assert_eq!(client.ask_tcp(to).as_deref(), Ok("backend2"));
        assert_eq!(world.plane.redirected(key), 5);
        world.plane.tables.remove(&key).unwrap();
        world.plane.redirect(Protocol::Tcp, to, &[family.backend(2)]);
        assert_eq!(world.plane.redirected(key), 0, "another frontend with the same address");
    }
}

#[test]
fn the_exempt_stay_exempt() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("takeover-exempt");
    let mut client = world.client();
    let family = Family::V4;
    world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
    world.plane.tables.set_exempt(&[ClientId::Cgroup(world.pod.id())].into()).unwrap();
    world.plane.take_over();
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("direct1"));
    world.plane.tables.set_exempt(&[].into()).unwrap();
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("backend1"));
}

#[test]
fn a_window_goes_on() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("takeover-qos");
    let mut client = world.client();
    let (family, second) = (Family::V4, 1_000_000_000);
    let to = family.frontend(1);
    let limited = alone(Layer { qos_limit: NonZeroU32::new(100), ..layer(1, &[family.backend(1)]) });
    world.plane.publish(Protocol::Udp, to, limited.clone());
    let ask = |client: &mut Client| {
        let report = client.churn(&Churn { rounds: Some(70), ..Churn::to(Kind::Udp4, to) });
        report.peers.get("backend1").copied().unwrap_or(0)
    };
    let granted = undisturbed(|| {
        let before = monotonic_ns() / second;
        wait_until(std::time::Duration::from_secs(60), || monotonic_ns() / second > before);
        let began = monotonic_ns() / second;
        let first = ask(&mut client);
        world.plane.take_over();
        world.plane.publish(Protocol::Udp, to, limited.clone());
        let granted = (first, ask(&mut client));
        (monotonic_ns() / second == began).then_some(granted)
    });
    assert_eq!(granted, (70, 30));
}

#[test]
fn a_new_backend_inherits_no_client_of_one_that_is_gone() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("takeover-ids");
    let family = Family::V4;
    let mut client = world.client();
    // Keeps its backend, so that the one that goes is the one with the largest id.
    world.plane.redirect(Protocol::Udp, family.frontend(2), &[family.backend(1)]);
    // The backend goes before the agent does; a drained one comes when there is another agent.
    for port in 1..=20 {
        let to = std::net::SocketAddr::new(family.frontend(1).ip(), 3000 + port);
        let sticky = |backends| Layer { affinity: NonZeroU32::new(600), backends, ..layer(1, &[]) };
        world.plane.publish(Protocol::Udp, to, alone(sticky(vec![weighted(family.backend(2), 1)])));
        assert_eq!(client.ask_udp(to).as_deref(), Ok("backend2"));
        let others = vec![weighted(family.backend(1), 1)];
        world.plane.publish(Protocol::Udp, to, alone(sticky(others.clone())));
        world.plane.take_over();
        let drained = [others, vec![weighted(family.backend(3), 0)]].concat();
        world.plane.publish(Protocol::Udp, to, alone(sticky(drained)));
        assert_eq!(client.ask_udp(to).as_deref(), Ok("backend1"), "port {port}");
        world.plane.tables.remove(&dataplane::key(Protocol::Udp, to)).unwrap();
    }
}
