//! Two layers of one frontend, exempt clients, and the end of the line: as dialled or refused.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, num::NonZeroU32};

use balancing_dataplane::{model::ClientId, sys, tables::Counters};
use balancing_tests::{
    dataplane::{Clients, Entry, Family, Layer, Network, Protocol, World, above, alone, layer, weighted},
    *,
};

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn ask(client: &mut Client, protocol: Protocol, to: std::net::SocketAddr) -> Result<String, Errno> {
    match protocol {
        Protocol::Tcp => client.ask_tcp(to),
        Protocol::Udp => client.ask_udp(to),
    }
}

/// The name of the server that hears a datagram sent without a connection, after making sure whose name the
/// answer carries.
fn send(client: &mut Client, family: Family, to: std::net::SocketAddr) -> Result<String, Errno> {
    let socket = client.open(family.udp());
    let answer = client.send_to(socket, to, "x").and_then(|()| client.receive(socket));
    client.close(socket);
    answer.map(|message| {
        assert_eq!(message.from, Some(to));
        message.data.split(' ').next().unwrap_or_default().to_owned()
    })
}

fn cookie(network: &Network) -> u64 {
    network.netns.run(|| sys::netns_cookie().expect("a cookie"))
}

/// First layer: service 1 with the first backend. Second: service 2 with the second.
fn both(family: Family, first: impl FnOnce(Layer) -> Layer) -> Entry {
    above(first(layer(1, &[family.backend(1)])), layer(2, &[family.backend(2)]))
}

#[test]
fn the_first_layer_decides_while_it_can() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers");
    let mut client = world.client();
    for (family, protocol) in Family::ALL.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let key = world.plane.publish(protocol, family.frontend(1), both(family, |first| first));
        let before = [0, 1].map(|layer| world.plane.counters(key, layer));
        assert_eq!(ask(&mut client, protocol, family.frontend(1)).as_deref(), Ok("backend1"), "{family:?}");
        assert_eq!(world.plane.counters(key, 0).redirected, before[0].redirected + 1);
        assert_eq!(world.plane.counters(key, 1), before[1]);
    }
}

#[test]
fn the_second_layer_decides_where_the_first_has_no_backend() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-none");
    let mut client = world.client();
    for family in [Family::V4, Family::V6] {
        for protocol in PROTOCOLS {
            let none = |first: Layer| Layer { backends: Vec::new(), ..first };
            let key = world.plane.publish(protocol, family.frontend(1), both(family, none));
            assert_eq!(
                ask(&mut client, protocol, family.frontend(1)).as_deref(),
                Ok("backend2"),
                "{family:?}"
            );
            let counted = [0, 1].map(|layer| world.plane.counters(key, layer));
            assert_eq!(counted[0], Counters { no_backend: 1, ..Counters::default() });
            assert_eq!(counted[1], Counters { redirected: 1, ..Counters::default() });
            // Drained is as good as none for who is new.
            let drained = |first: Layer| Layer { backends: vec![weighted(family.backend(1), 0)], ..first };
            world.plane.publish(protocol, family.frontend(1), both(family, drained));
            assert_eq!(
                ask(&mut client, protocol, family.frontend(1)).as_deref(),
                Ok("backend2"),
                "{family:?}"
            );
            assert_eq!(world.plane.counters(key, 0).no_backend, 2);
            // The second without a backend: as dialled.
            let mut entry = both(family, none);
            entry.layers[1] = layer(2, &[]);
            world.plane.publish(protocol, family.frontend(1), entry);
            assert_eq!(
                ask(&mut client, protocol, family.frontend(1)).as_deref(),
                Ok("direct1"),
                "{family:?}"
            );
            assert_eq!([0, 1].map(|layer| world.plane.counters(key, layer).no_backend), [3, 1]);
        }
        assert_eq!(send(&mut client, family, family.frontend(1)).as_deref(), Ok("direct1"), "{family:?}");
    }
}

#[test]
fn the_second_layer_decides_for_clients_of_the_other_kind() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-clients");
    let host = Cgroup::new("layers-host");
    world.plane.attach_host(&host);
    let (mut pod, mut process) = (world.client(), world.network.client(&host));
    for (family, protocol) in Family::ALL.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let cases = [
            (Clients::All, "backend1", "backend1"),
            (Clients::Pods, "backend1", "backend2"),
            (Clients::Host, "backend2", "backend1"),
        ];
        for (clients, for_pods, for_host) in cases {
            let entry = both(family, |first| Layer { clients, ..first });
            world.plane.publish(protocol, family.frontend(1), entry);
            assert_eq!(ask(&mut pod, protocol, family.frontend(1)).as_deref(), Ok(for_pods), "{clients:?}");
            assert_eq!(
                ask(&mut process, protocol, family.frontend(1)).as_deref(),
                Ok(for_host),
                "{clients:?}"
            );
            // Alone, the rest goes as dialled.
            let only = Layer { clients, ..layer(1, &[family.backend(1)]) };
            world.plane.publish(protocol, family.frontend(1), alone(only));
            let expected = |name| if name == "backend2" { "direct1" } else { name };
            assert_eq!(ask(&mut pod, protocol, family.frontend(1)).as_deref(), Ok(expected(for_pods)));
            assert_eq!(ask(&mut process, protocol, family.frontend(1)).as_deref(), Ok(expected(for_host)));
        }
    }
}

#[test]
fn rejected_calls_get_ehostunreach_and_are_counted() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-reject");
    let mut client = world.client();
    for (family, number) in Family::ALL.into_iter().zip(1..) {
        let to = family.frontend(number);
        let reject = Layer { reject: true, ..layer(1, &[]) };
        let tcp = world.plane.publish(Protocol::Tcp, to, alone(reject.clone()));
        let udp = world.plane.publish(Protocol::Udp, to, alone(reject.clone()));
        for how in [Connect::Blocking, Connect::NonBlocking] {
            let socket = client.open(family.tcp());
            assert_eq!(client.connect_by(how, socket, to), Err(dataplane::refusal()), "{family:?} {how:?}");
            assert_eq!(client.peer_name(socket), Err(Errno::ENOTCONN));
        }
        assert_eq!(world.plane.counters(tcp, 0), Counters { no_backend: 2, ..Counters::default() });
        let socket = client.open(family.udp());
        assert_eq!(client.connect(socket, to), Err(dataplane::refusal()), "{family:?}");
        assert_eq!(client.send_to(socket, to, "x"), Err(dataplane::refusal()), "{family:?}");
        assert_eq!(client.send_msg(socket, Some(to), "x"), Err(dataplane::refusal()), "{family:?}");
        assert_eq!(client.send_mmsg(socket, &[(to, "x")]), Err(dataplane::refusal()), "{family:?}");
        assert_eq!(world.plane.counters(udp, 0), Counters { no_backend: 4, ..Counters::default() });
        // In one sendmmsg the messages before it are sent.
        let sent =
            client.send_mmsg(socket, &[(family.frontend(8), "a"), (to, "b"), (family.frontend(8), "c")]);
        assert_eq!(sent, Ok(1), "{family:?}");
        assert_eq!(client.receive(socket).unwrap().data, "direct8 a");
        // A backend comes: the same sockets work.
        let found = Layer { backends: vec![weighted(family.backend(1), 1)], ..reject };
        world.plane.publish(Protocol::Udp, to, alone(found));
        client.send_to(socket, to, "x").unwrap();
        assert_eq!(client.receive(socket), Ok(Message { data: "backend1 x".into(), from: Some(to) }));
    }
}

#[test]
fn the_second_layer_rejects_what_the_first_leaves() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-reject2");
    let mut client = world.client();
    for (family, protocol) in Family::ALL.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let entry = above(layer(1, &[]), Layer { reject: true, ..layer(2, &[]) });
        world.plane.publish(protocol, family.frontend(1), entry);
        assert_eq!(ask(&mut client, protocol, family.frontend(1)), Err(dataplane::refusal()), "{family:?}");
    }
}

#[test]
fn a_client_is_skipped_by_its_network_namespace() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-netns");
    let other = Network::new();
    let (mut exempt, mut client) = (world.client(), other.client(&world.pod));
    let skip = BTreeSet::from([ClientId::NetnsCookie(cookie(&world.network))]);
    for (family, protocol) in Family::ALL.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let to = family.frontend(1);
        let key =
            world.plane.publish(protocol, to, both(family, |first| Layer { skip: skip.clone(), ..first }));
        let before = world.plane.counters(key, 0);
        assert_eq!(ask(&mut exempt, protocol, to).as_deref(), Ok("backend2"), "{family:?}");
        assert_eq!(ask(&mut client, protocol, to).as_deref(), Ok("backend1"), "{family:?}");
        let only = Layer { skip: skip.clone(), ..layer(1, &[family.backend(1)]) };
        world.plane.publish(protocol, to, alone(only));
        assert_eq!(ask(&mut exempt, protocol, to).as_deref(), Ok("direct1"), "{family:?}");
        assert_eq!(ask(&mut client, protocol, to).as_deref(), Ok("backend1"), "{family:?}");
        let after = world.plane.counters(key, 0);
        assert_eq!(
            (after.skipped - before.skipped, after.redirected - before.redirected),
            (2, 2),
            "{family:?}"
        );
        if protocol == Protocol::Udp {
            assert_eq!(send(&mut exempt, family, to).as_deref(), Ok("direct1"), "{family:?}");
            assert_eq!(send(&mut client, family, to).as_deref(), Ok("backend1"), "{family:?}");
        }
        // Not skipped any more.
        world.plane.redirect(protocol, to, &[family.backend(1)]);
        assert_eq!(ask(&mut exempt, protocol, to).as_deref(), Ok("backend1"), "{family:?}");
    }
}

#[test]
fn a_client_is_skipped_by_its_cgroup_or_an_ancestor() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-cgroup");
    let exempt = world.pod.child("exempt");
    let deep = exempt.child("a/b/c");
    let mut inside = [&exempt, &deep].map(|cgroup| world.network.client(cgroup));
    let sibling = world.pod.child("sibling");
    let mut outside = [&world.pod, &sibling].map(|cgroup| world.network.client(cgroup));
    let skip = BTreeSet::from([ClientId::Cgroup(exempt.id())]);
    for (family, protocol) in Family::ALL.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let to = family.frontend(1);
        world.plane.publish(protocol, to, both(family, |first| Layer { skip: skip.clone(), ..first }));
        for client in &mut inside {
            assert_eq!(ask(client, protocol, to).as_deref(), Ok("backend2"), "{family:?}");
        }
        for client in &mut outside {
            assert_eq!(ask(client, protocol, to).as_deref(), Ok("backend1"), "{family:?}");
        }
    }
}

#[test]
fn a_hostnetwork_backend_is_skipped_by_cgroup_on_the_host() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-hostnet");
    let host = Cgroup::new("layers-hostnet-root");
    world.plane.attach_host(&host);
    let backend = host.child("kubepods/podx");
    let mut clients = [&backend, &host].map(|cgroup| world.network.client(cgroup));
    let skip = BTreeSet::from([ClientId::Cgroup(backend.id())]);
    for family in Family::ALL {
        // The protocol is part of it: only the TCP frontend has the rule.
        let tcp = Layer { skip: skip.clone(), ..layer(1, &[family.backend(1)]) };
        world.plane.publish(Protocol::Tcp, family.frontend(1), alone(tcp));
        world.plane.publish(Protocol::Udp, family.frontend(1), alone(layer(1, &[family.backend(1)])));
        let to = family.frontend(1);
        let answers = clients.each_mut().map(|client| (client.ask_tcp(to), client.ask_udp(to)));
        let names = |tcp: &str, udp: &str| (Ok(tcp.to_owned()), Ok(udp.to_owned()));
        assert_eq!(answers, [names("direct1", "backend1"), names("backend1", "backend1")], "{family:?}");
    }
}

#[test]
fn a_rule_is_its_policys_own() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-own");
    let mut client = world.client();
    let skip = BTreeSet::from([ClientId::NetnsCookie(cookie(&world.network))]);
    let family = Family::V4;
    let skipping = Layer { skip, ..layer(1, &[family.backend(1)]) };
    world.plane.publish(Protocol::Tcp, family.frontend(1), alone(skipping.clone()));
    world.plane.publish(Protocol::Tcp, family.frontend(2), alone(layer(2, &[family.backend(2)])));
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("direct1"));
    assert_eq!(client.ask_tcp(family.frontend(2)).as_deref(), Ok("backend2"));
    // Two frontends share the rule; it stays while one has it.
    let key = world.plane.publish(Protocol::Tcp, family.frontend(3), alone(skipping));
    assert_eq!(client.ask_tcp(family.frontend(3)).as_deref(), Ok("direct3"));
    world.plane.tables.remove(&key).unwrap();
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("direct1"));
}

#[test]
fn exempt_clients_are_never_redirected() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-exempt");
    let other = Network::new();
    let container = world.pod.child("exempt");
    let (mut by_netns, mut by_cgroup) = (other.client(&world.pod), world.network.client(&container));
    let mut client = world.client();
    for family in Family::ALL {
        let (to, reject) = (family.frontend(1), family.frontend(2));
        world.plane.publish(Protocol::Tcp, to, both(family, |first| first));
        world.plane.publish(Protocol::Tcp, reject, alone(Layer { reject: true, ..layer(3, &[]) }));
        let exempt = [ClientId::NetnsCookie(cookie(&other)), ClientId::Cgroup(container.id())];
        world.plane.tables.set_exempt(&exempt.into()).unwrap();
        for exempt in [&mut by_netns, &mut by_cgroup] {
            assert_eq!(exempt.ask_tcp(to).as_deref(), Ok("direct1"), "{family:?}");
            assert_eq!(exempt.ask_tcp(reject).as_deref(), Ok("direct2"), "{family:?}");
        }
        assert_eq!(client.ask_tcp(to).as_deref(), Ok("backend1"), "{family:?}");
        assert_eq!(client.ask_tcp(reject), Err(dataplane::refusal()));
        world.plane.tables.set_exempt(&[exempt[1]].into()).unwrap();
        assert_eq!(by_netns.ask_tcp(to).as_deref(), Ok("backend1"), "{family:?}");
        assert_eq!(by_cgroup.ask_tcp(to).as_deref(), Ok("direct1"), "{family:?}");
        world.plane.tables.set_exempt(&BTreeSet::new()).unwrap();
        assert_eq!(by_cgroup.ask_tcp(to).as_deref(), Ok("backend1"), "{family:?}");
    }
}

#[test]
fn the_second_layer_decides_beyond_the_limit() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-qos");
    let mut client = world.client();
    let family = Family::V4;
    let limited = both(family, |first| Layer { qos_limit: NonZeroU32::new(5), ..first });
    let key = world.plane.publish(Protocol::Udp, family.frontend(1), limited);
    let churn = Churn { rounds: Some(2000), ..Churn::to(Kind::Udp4, family.frontend(1)) };
    let report = client.churn(&churn);
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["backend1", "backend2"]);
    let counted = [0, 1].map(|layer| world.plane.counters(key, layer));
    assert_eq!(
        (counted[0].redirected, counted[0].qos_overflow),
        (report.peers["backend1"], report.peers["backend2"])
    );
    assert_eq!((counted[1].redirected, counted[1].qos_overflow), (report.peers["backend2"], 0));
}

#[test]
fn a_client_is_recognised_however_deep_its_cgroup_is() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-deep");
    let deep = world.pod.child("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16");
    let below = deep.child("container/init");
    let mut clients = [&deep, &below].map(|cgroup| world.network.client(cgroup));
    let mut other = world.client();
    let family = Family::V4;
    let skip = BTreeSet::from([ClientId::Cgroup(deep.id())]);
    let to = family.frontend(1);
    world.plane.publish(Protocol::Tcp, to, both(family, |first| Layer { skip: skip.clone(), ..first }));
    for client in &mut clients {
        assert_eq!(client.ask_tcp(to).as_deref(), Ok("backend2"));
    }
    assert_eq!(other.ask_tcp(to).as_deref(), Ok("backend1"));
    world.plane.tables.set_exempt(&skip).unwrap();
    for client in &mut clients {
        assert_eq!(client.ask_tcp(to).as_deref(), Ok("direct1"));
    }
}

#[test]
fn a_chain_of_layers_is_asked_to_its_end() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers-chain");
    let mut client = world.client();
    for (family, protocol) in Family::ALL.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let to = family.frontend(1);
        let chain = |deciding: u32| {
            let layer = |number: u32| match number == deciding {
                true => layer(number, &[family.backend(number as u8)]),
                false => layer(number, &[]),
            };
            Entry { layers: (1..=4).map(layer).collect() }
        };
        for deciding in 1..=4 {
            let key = world.plane.publish(protocol, to, chain(deciding));
            let expected = format!("backend{deciding}");
            assert_eq!(ask(&mut client, protocol, to), Ok(expected), "{family:?} {protocol:?}");
            assert_eq!(world.plane.counters(key, deciding as u8 - 1).redirected, 1);
        }
        let key = world.plane.publish(protocol, to, chain(0));
        assert_eq!(ask(&mut client, protocol, to).as_deref(), Ok("direct1"));
        let mut five = chain(1);
        five.layers.push(layer(5, &[]));
        let refused = world.plane.tables.publish(key, &five).unwrap_err().to_string();
        assert!(refused.contains("has 5 layers, at most 4"), "{refused}");
        assert_eq!(ask(&mut client, protocol, to).as_deref(), Ok("direct1"), "it is as it was");
        world.plane.tables.remove(&key).unwrap();
    }
}

#[test]
fn a_change_that_does_not_fit_leaves_nothing_behind() {
    if !require_kernel() {
        return;
    }
    let sizes = balancing_dataplane::loader::Sizes { backends: 16, ..dataplane::SIZES };
    let scope = balancing_dataplane::loader::HostScope::Everything;
    let mut world = World::on(dataplane::DataPlane::with("layers-full", sizes, scope), "layers-full");
    let mut client = world.client();
    let family = Family::V4;
    let to = family.frontend(1);
    let many = |id, count| {
        let port = |i: u16| std::net::SocketAddr::new(family.backend(1).ip(), 2000 + i);
        layer(id, &(0..count).map(port).collect::<Vec<_>>())
    };
    let used = |world: &World| -> Vec<_> {
        let usage = world.plane.tables.usage().unwrap().into_iter();
        usage.filter(|row| row.name != "connections").map(|row| (row.name, row.used)).collect()
    };
    let key = dataplane::key(Protocol::Tcp, to);
    let nothing = used(&world);
    let skip = BTreeSet::from([ClientId::NetnsCookie(1)]);
    // The layer below is written first and fits; the first one does not.
    let first = Layer { skip, qos_limit: NonZeroU32::new(5), ..many(1, 12) };
    let too_much = above(first.clone(), many(2, 12));
    for before in [None, Some(alone(layer(3, &[family.backend(2)])))] {
        if let Some(entry) = &before {
            world.plane.publish(Protocol::Tcp, to, entry.clone());
        }
        let there = used(&world);
        let refused = world.plane.tables.publish(key, &too_much).unwrap_err().to_string();
        assert!(refused.contains("table backends is full (16 entries)"), "{refused}");
        assert_eq!(used(&world), there);
        let expected = if before.is_some() { "backend2" } else { "direct1" };
        assert_eq!(client.ask_tcp(to).as_deref(), Ok(expected));
    }
    world.plane.tables.remove(&key).unwrap();
    assert_eq!(used(&world), nothing);
    // Nothing is left of it for those who read the tables anew, and all places are free.
    world.plane.publish(Protocol::Tcp, to, alone(many(1, 16)));
    world.plane.take_over();
    assert_eq!(world.plane.tables.entries()[&key].layers.len(), 1);
}
