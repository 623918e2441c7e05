//! Events: nothing while nobody listens, and one for each call that meets a frontend while somebody does.

use std::{
    fs,
    num::NonZeroU32,
    os::{fd::AsFd, unix::fs::MetadataExt},
    time::Duration,
};

use balancing_dataplane::{
    sys,
    tables::events::{Events, Outcome, Reason, Resolution},
};
use balancing_tests::{
    dataplane::{Family, Layer, Protocol, World, above, alone, canonical, layer},
    *,
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn drain(events: &mut Events) -> Vec<Resolution> {
    std::iter::from_fn(|| events.next()).collect()
}

/// Policy, protocol, dialled, outcome.
type Essence = (u32, Protocol, std::net::SocketAddr, Outcome);

fn essence(event: &Resolution) -> Essence {
    (event.service_id, event.protocol, event.frontend, event.outcome)
}

#[test]
fn every_call_has_one_event_with_its_story() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("events");
    let mut events = Events::open(world.plane.layout()).unwrap();
    let mut client = world.client();
    let cookie = world.network.netns.run(sys::netns_cookie).unwrap();
    world.plane.tables.set_events(true).unwrap();
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            world.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]);
            world.plane.publish(protocol, family.frontend(2), alone(Layer { reject: true, ..layer(2, &[]) }));
            world.plane.publish(protocol, family.frontend(3), alone(layer(3, &[])));
            let entry = above(layer(4, &[]), layer(5, &[family.backend(2)]));
            world.plane.publish(protocol, family.frontend(4), entry);
        }
        let before = monotonic_ns();
        for kind in [family.tcp(), family.udp()] {
            for number in [1, 2, 3, 4, 5] {
                let socket = client.open(kind);
                client.connect(socket, family.frontend(number)).ok();
            }
        }
        let socket = client.open(family.udp());
        client.send_to(socket, family.frontend(1), "x").unwrap();
        assert_eq!(client.send_to(socket, family.frontend(2), "x"), Err(dataplane::refusal()));
        client.send_to(socket, family.frontend(6), "x").unwrap();
        let sent = client.send_mmsg(socket, &[(family.frontend(4), "x"), (family.frontend(1), "y")]);
        assert_eq!(sent, Ok(2));
        // Names are looked up without an event.
        client.receive(socket).unwrap();
        client.peer_name(socket).ok();
        let after = monotonic_ns();

        let found = drain(&mut events);
        let [to1, to2, to3, to4] = [1, 2, 3, 4].map(|number| canonical(family.frontend(number)));
        let [at1, at2] = [1, 2].map(|number| Outcome::Redirected(canonical(family.backend(number))));
        let mut expected = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            expected.push((1, protocol, to1, at1));
            expected.push((2, protocol, to2, Outcome::Rejected));
            expected.push((3, protocol, to3, Outcome::Passed(Reason::NoBackend)));
            expected.push((5, protocol, to4, at2));
        }
        expected.push((1, Protocol::Udp, to1, at1));
        expected.push((2, Protocol::Udp, to2, Outcome::Rejected));
        expected.push((5, Protocol::Udp, to4, at2));
        expected.push((1, Protocol::Udp, to1, at1));
        assert_eq!(found.iter().map(essence).collect::<Vec<_>>(), expected, "{family:?}");
        let mut last = before;
        for event in &found {
            assert!(last <= event.time_ns && event.time_ns <= after, "{event:?}");
            last = event.time_ns;
            assert_eq!((event.cgroup, event.netns_cookie), (world.pod.id(), cookie));
            assert_eq!(&event.comm[..5], b"sock\0");
            // `PROC_PID_INIT_INO`: in another pid namespace the test knows its client by another number.
            if fs::metadata("/proc/self/ns/pid").unwrap().ino() == 0xefff_fffc {
                assert_eq!(event.pid, client.pid());
            }
        }
    }
}

#[test]
fn a_waiting_reader_is_woken_when_the_buffer_is_half_full_and_not_before() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("events-half");
    let events = Events::open(world.plane.layout()).unwrap();
    let mut client = world.client();
    let family = Family::V4;
    world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
    world.plane.tables.set_events(true).unwrap();
    // Edge-triggered: it tells of wake-ups, not of content.
    let bell = Epoll::new(EpollCreateFlags::empty()).unwrap();
    bell.add(&events, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
    let rings = |patience: u16| bell.wait(&mut [EpollEvent::empty()], patience).unwrap() == 1;
    let connect = |client: &mut Client, rounds| {
        let to = Churn::to(Kind::Udp4, family.frontend(1));
        client.churn(&Churn { rounds: Some(rounds), exchange: Exchange::ConnectOnly, ..to });
    };
    // The buffer has room for 630: 104 bytes each.
    connect(&mut client, 250);
    assert!(!rings(0), "callers pay for wake-ups");
    connect(&mut client, 200);
    assert!(rings(10_000), "the buffer may be full before anybody looks");
}

#[test]
fn nobody_listens_nothing_is_written() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("events-off");
    let mut events = Events::open(world.plane.layout()).unwrap();
    let mut client = world.client();
    let family = Family::V4;
    world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("backend1"));
    assert_eq!(events.next(), None);
    world.plane.tables.set_events(true).unwrap();
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("backend1"));
    world.plane.tables.set_events(false).unwrap();
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("backend1"));
    assert_eq!(drain(&mut events).len(), 1);
    // A new reader does not see what its predecessor left.
    world.plane.tables.set_events(true).unwrap();
    assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("backend1"));
    let mut other = Events::open(world.plane.layout()).unwrap();
    assert_eq!(other.next(), None);
}

#[test]
fn a_reader_is_woken_and_a_full_buffer_harms_nobody() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("events-full");
    let mut events = Events::open(world.plane.layout()).unwrap();
    let mut client = world.client();
    let family = Family::V4;
    let limited = Layer { qos_limit: NonZeroU32::new(1), ..layer(1, &[family.backend(1)]) };
    world.plane.publish(Protocol::Udp, family.frontend(1), alone(limited));
    world.plane.tables.set_events(true).unwrap();
    let ready = |events: &Events, patience: Duration| {
        let patience = Timespec::try_from(patience).unwrap();
        poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&patience)).unwrap() == 1
    };
    assert!(!ready(&events, Duration::ZERO));
    client.start_churn(&Churn::to(Kind::Udp4, family.frontend(1)));
    assert!(ready(&events, Duration::from_secs(5)));
    client.stop_churn();
    drain(&mut events);
    assert!(!ready(&events, Duration::ZERO));
    // 96 bytes and a header of 8 for each.
    let buffer = sys::obj_get(&world.plane.layout().maps().join("events")).unwrap();
    let room = sys::map_info(buffer.as_fd()).unwrap().max_entries as usize / 104;
    let rounds = 2 * room as u64;
    let report = client.churn(&Churn { rounds: Some(rounds), ..Churn::to(Kind::Udp4, family.frontend(1)) });
    assert_eq!((report.successes(), report.errors.len()), (rounds, 0));
    let found = drain(&mut events);
    assert!(found.len() + 2 > room && found.len() <= room, "{} events", found.len());
    let overflow = |event: &&Resolution| event.outcome == Outcome::Passed(Reason::QosLimit);
    assert!(found.iter().filter(overflow).count() > room / 2, "beyond the limit a call passes");
    // There is room again.
    assert!(client.ask_udp(family.frontend(1)).is_ok());
    assert_eq!(drain(&mut events).len(), 1);
}
