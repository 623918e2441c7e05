//! The storm: everything changes at full speed, and no connection is wrong or fails.
//!
//! `BALANCING_STORM` is the number of connections, `make storm` makes a million.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{
    env,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use balancing_dataplane::{
    loader::{HostScope, Sizes},
    model::{ClientId, FrontendKey},
    sys,
    tables::Usage,
};
use balancing_tests::{
    dataplane::{
        Clients, DataPlane, Entry, Family, Layer, Protocol, SIZES, World, alone, key, layer, raise_open_files,
    },
    history::{History, State, state},
    *,
};

/// Connections where nobody says how many.
const SAMPLES: u64 = 100_000;
/// For each change at least one in so many connections.
const SAMPLES_PER_CHANGE: u64 = 50;
/// Connections of the client that ends a round, and what others make meanwhile at most.
const ROUND: (u64, u64) = (1500, 10_000);
/// Far above what so many connections take anywhere.
const DEADLINE: Duration = Duration::from_secs(600);
/// Servers of the largest set.
const SERVERS: u16 = 1000;
/// Few ids, slots and buckets, so that all are used again all the time and frontends share buckets.
const SMALL: Sizes = Sizes { frontends: 64, ids: 64, backends: 16_384, ..SIZES };
/// Places in [`states`].
const ONE: usize = 0;
/// As above.
const TWO: usize = 1;
/// Neighbours at one time, so that with the duels' stranger and three layers for each of the clients' frontends all ids are taken.
const NEIGHBOURS: usize = 35;

fn server(family: Family, number: u16) -> SocketAddr {
    let v4 = Ipv4Addr::from(0x0a40_0000 + u32::from(number));
    family.name(v4, Ipv6Addr::new(0x2001, 0xdb8, 0xb, 1, 0, 0, 0, number), 2000)
}

fn servers(world: &World) -> EchoServer {
    let numbers = || 0..SERVERS;
    let of = |family| numbers().map(move |number| (format!("s{number}"), server(family, number)));
    let named: Vec<_> = of(Family::V4).chain(of(Family::V6)).collect();
    EchoServer::start_named(&world.network.netns, &named)
}

/// The states of a frontend that clients connect to, each with servers of its own but for the largest set. Whoever is led
/// by a layer that does not apply reaches `backend2`, who is in none. The second frontend is not always there.
fn states(world: &World, family: Family, frontend: u8) -> Vec<State> {
    let cookie = world.network.netns.run(|| sys::netns_cookie().expect("a cookie"));
    let (netns, cgroup) = (ClientId::NetnsCookie(cookie), ClientId::Cgroup(world.pod.id()));
    let numbered = |service, numbers: std::ops::Range<u16>| {
        layer(service, &numbers.map(|number| server(family, number)).collect::<Vec<_>>())
    };
    let names = |numbers: std::ops::Range<u16>| numbers.map(|number| format!("s{number}"));
    let wrong = |service| layer(service, &[family.backend(2)]);
    let skipping = |service, client| Layer { skip: [client].into(), ..wrong(service) };
    let not_here = Layer { clients: Clients::Host, ..wrong(5) };
    let (affinity, qos_limit) = (NonZeroU32::new(600), NonZeroU32::new(u32::MAX));
    let with_head = Layer { affinity, qos_limit, ..numbered(1, 40..44) };
    let stack = |layers: &[Layer]| Entry { layers: layers.to_vec() };
    let gone = State { entry: None, names: [format!("direct{frontend}")].into() };
    let thousand = state(alone(numbered(1, 0..SERVERS)), names(0..SERVERS));
    vec![
        state(alone(numbered(1, 0..1)), names(0..1)),
        state(alone(numbered(1, 44..46)), names(44..46)),
        if frontend == 1 { thousand } else { gone },
        state(stack(&[layer(1, &[]), numbered(2, 11..12)]), names(11..12)),
        state(stack(&[skipping(1, netns), numbered(2, 12..22)]), names(12..22)),
        state(stack(&[layer(1, &[]), skipping(2, cgroup), numbered(3, 22..24)]), names(22..24)),
        state(stack(&[skipping(4, netns), not_here, numbered(3, 24..25)]), names(24..25)),
        state(alone(with_head), names(40..44)),
        state(alone(numbered(7, 1..11)), names(1..11)),
    ]
}

/// The owner of the tables, who changes something all the time.
struct Owner {
    plane: DataPlane,
    /// What clients connect to.
    frontends: Vec<History>,
    neighbours: Vec<Option<FrontendKey>>,
    random: u32,
    changes: u64,
}

impl Owner {
    /// The frontend of a number, a protocol and a family; IPv4-mapped ones are IPv4 ones.
    fn frontend(number: u8, protocol: Protocol, family: Family) -> usize {
        let (v6, tcp) = (family == Family::V6, protocol == Protocol::Tcp);
        usize::from(number - 1) + 2 * usize::from(v6) + 4 * usize::from(tcp)
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 8) as usize % below
    }

    /// Changes until told to stop: in some rounds the clients' frontends only, in some neighbours as well, in some there are duels.
    fn change(&mut self, round: usize, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let frontend = self.random(self.frontends.len());
            match round % 3 {
                0 => {}
                1 => self.change_neighbour(),
                _ => self.duel(frontend),
            }
            let state = self.random(self.frontends[frontend].states());
            self.frontends[frontend].publish(&mut self.plane, state);
            self.changes += 1;
        }
    }

    /// A frontend and a stranger in turn have a set of the same size, so that each would take the other's place as soon as
    /// it may be taken.
    fn duel(&mut self, frontend: usize) {
        let stranger = SocketAddr::from((Ipv4Addr::from(0x0a40_7fff), 1000));
        let set: Vec<_> =
            (0..2).map(|port| SocketAddr::new(Family::V4.backend(2).ip(), 2000 + port)).collect();
        for _ in 0..32 {
            self.frontends[frontend].publish(&mut self.plane, TWO);
            self.frontends[frontend].publish(&mut self.plane, ONE);
            self.plane.redirect(Protocol::Udp, stranger, &set);
            self.plane.redirect(Protocol::Udp, stranger, &set[..1]);
            self.changes += 4;
        }
    }

    /// Adds a frontend that nobody connects to, replaces its set, or removes it.
    fn change_neighbour(&mut self) {
        let (place, number) = (self.random(NEIGHBOURS), self.random(5000) as u16);
        let strangers = [Family::V4, Family::V6].map(|family| [2, 3, 4].map(|number| family.backend(number)));
        let some = 1 + self.random(3);
        self.changes += 1;
        match self.neighbours[place] {
            Some(key) if number % 2 == 0 => {
                let strangers = &strangers[usize::from(key.address.is_ipv6())];
                self.plane.tables.publish(key, &alone(layer(9, &strangers[..some]))).expect("a change");
            }
            Some(key) => {
                self.plane.tables.remove(&key).expect("a removal");
                self.neighbours[place] = None;
            }
            None => {
                let family = if number.is_multiple_of(3) { Family::V6 } else { Family::V4 };
                let v4 = Ipv4Addr::from(0x0a40_8000 + u32::from(number));
                let to = family.name(v4, Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, number), 1000);
                let protocol = if number % 2 == 0 { Protocol::Tcp } else { Protocol::Udp };
                // Two places may have drawn one number: it stays with the first.
                if !self.plane.tables.entries().contains_key(&key(protocol, to)) {
                    let strangers = &strangers[usize::from(to.is_ipv6())];
                    self.neighbours[place] = Some(self.plane.redirect(protocol, to, &strangers[..some]));
                }
            }
        }
    }

    fn remove_everything(&mut self) {
        for key in self.plane.tables.entries().keys().copied().collect::<Vec<_>>() {
            self.plane.tables.remove(&key).expect("a removal");
        }
    }
}

/// What a client does in a round: four connect, with all kinds of sockets in turn, and two send. Some share a frontend.
fn plan(round: usize, client: usize) -> (usize, Family, Protocol, Exchange) {
    let number = 1 + ((round + client) % 2) as u8;
    let (family, protocol, exchange) = match client {
        0..4 => {
            let kind = (4 * round + client) % 6;
            (Family::ALL[kind % 3], [Protocol::Tcp, Protocol::Udp][kind / 3], Exchange::Connected)
        }
        4 => ([Family::V4, Family::Mapped][round % 2], Protocol::Udp, Exchange::Unconnected),
        _ => (Family::V6, Protocol::Udp, Exchange::Unconnected),
    };
    (Owner::frontend(number, protocol, family), family, protocol, exchange)
}

/// Everybody works until one client, another one in each round, has done its part. Returns the number of samples, all of them right.
fn round(owner: &mut Owner, clients: &mut [Client], round: usize) -> u64 {
    owner.frontends.iter_mut().for_each(History::forget);
    let plans: Vec<_> = (0..clients.len()).map(|client| plan(round, client)).collect();
    let last = round % plans.len();
    for (number, (client, plan)) in clients.iter_mut().zip(&plans).enumerate() {
        let (frontend, family, protocol, exchange) = *plan;
        let v4_or_v6 = owner.frontends[frontend].to();
        let to = match (family, v4_or_v6) {
            (Family::Mapped, SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            (_, other) => other,
        };
        let rounds = if number == last { ROUND.0 } else { ROUND.1 };
        client.start_churn(&Churn {
            exchange,
            rounds: Some(rounds),
            samples: true,
            failures: Some(10),
            ..Churn::to(family.kind(protocol), to)
        });
    }
    let connect = || {
        let first = clients[last].end_churn();
        let end = |(number, client): (usize, &mut Client)| {
            if number == last { first.clone() } else { client.stop_churn() }
        };
        clients.iter_mut().enumerate().map(end).collect::<Vec<_>>()
    };
    let ((), reports) = beside(|stop| owner.change(round, stop), connect);
    for (report, (frontend, ..)) in reports.iter().zip(plans) {
        owner.frontends[frontend].judge(report);
    }
    reports.iter().map(ChurnReport::successes).sum()
}

/// Use of the tables that only the owner fills.
fn used(plane: &DataPlane) -> Vec<Usage> {
    let usage = plane.tables.usage().expect("the tables");
    usage.into_iter().filter(|usage| !["connections", "affinity"].contains(&usage.name)).collect()
}

/// All ids can still be given away, and all slots for backends as one set: none was lost.
fn assert_no_room_was_lost(owner: &mut Owner) {
    let address = |number: u32| SocketAddr::from((Ipv4Addr::from(0x0a40_8000 + number), 53));
    let set: Vec<_> = (0..SMALL.backends).map(address).collect();
    for number in 0..SMALL.frontends {
        let backends = if number == 0 { &set[..] } else { &set[..1] };
        owner.plane.redirect(Protocol::Udp, address(number), backends);
    }
    let usage = used(&owner.plane);
    let full = |name: &str| usage.iter().any(|u| u.name == name && u.used == u64::from(u.capacity));
    assert!(full("frontends") && full("backends"), "{usage:?}");
    owner.remove_everything();
}

#[test]
fn none_is_wrong_and_none_fails() {
    if !require_kernel() {
        return;
    }
    let wanted = env::var("BALANCING_STORM").map_or(SAMPLES, |text| text.parse().expect("a number"));
    raise_open_files();
    let world = World::on(DataPlane::with("storm", SMALL, HostScope::Everything), "storm");
    let _servers = servers(&world);
    let mut clients: Vec<Client> = (0..6).map(|_| world.client()).collect();
    let mut states_of = vec![];
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for family in [Family::V4, Family::V6] {
            for number in [1, 2] {
                states_of.push((protocol, family.frontend(number), states(&world, family, number)));
            }
        }
    }
    let World { mut plane, network: _network, pod: _pod } = world;
    let before = used(&plane);
    let frontends =
        states_of.into_iter().map(|(protocol, to, s)| History::begin(&mut plane, protocol, to, s));
    let frontends = frontends.collect();
    let neighbours = vec![None; NEIGHBOURS];
    let mut owner = Owner { plane, frontends, neighbours, random: 1, changes: 0 };
    let (started, mut samples) = (Instant::now(), 0);
    for number in 0.. {
        if samples >= wanted && owner.changes >= wanted / SAMPLES_PER_CHANGE {
            break;
        }
        samples += round(&mut owner, &mut clients, number);
        assert!(started.elapsed() < DEADLINE, "{samples} connections, {} changes", owner.changes);
    }
    eprintln!("{samples} connections, {} changes in {:?}", owner.changes, started.elapsed());
    let errors = owner.plane.reader().hook_errors().expect("the tables");
    assert!(errors.iter().all(|(_, errors)| *errors == 0), "{errors:?}");
    owner.remove_everything();
    // Rows of clients go after a grace period, and QoS windows after their second.
    wait_until(DEADLINE, || {
        assert_no_room_was_lost(&mut owner);
        used(&owner.plane) == before
    });
}
