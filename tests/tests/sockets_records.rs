//! What is left of a name when its record or its frontend is gone: the truth, never another's name.

use std::time::Duration;

use balancing_dataplane::loader::{HostScope, Sizes};
use balancing_tests::{
    dataplane::{DataPlane, Family, Protocol, SIZES, World},
    *,
};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn the_oldest_connections_show_their_backend_when_the_table_is_full() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("records");
    let mut client = world.client();
    let old: Vec<_> = Family::ALL
        .into_iter()
        .flat_map(|family| [(family, family.tcp()), (family, family.udp())])
        .map(|(family, kind)| (family, kind, client.open(kind)))
        .collect();
    for (family, kind, socket) in &old {
        let protocol = if *kind == family.tcp() { Protocol::Tcp } else { Protocol::Udp };
        world.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]);
        assert_eq!(client.connect(*socket, family.frontend(1)), Ok(()));
        assert_eq!(client.peer_name(*socket), Ok(family.frontend(1)));
    }
    // Others with the same backend, so that a wrong name would be believed.
    for family in [Family::V4, Family::V6] {
        world.plane.redirect(Protocol::Udp, family.frontend(2), &[family.backend(1)]);
    }
    let mut young = world.client();
    young.start_churn(&Churn {
        exchange: Exchange::ConnectOnly,
        ..Churn::to(Kind::Udp4, Family::V4.frontend(2))
    });
    young_and_old(&mut client, &old);
    assert!(young.stop_churn().successes() > 1000);
    let reader = world.plane.reader();
    let usage = reader.usage().unwrap();
    let table = usage.iter().find(|usage| usage.name == "connections").unwrap();
    assert_eq!(table.capacity, 65_536);
    // CPUs take cookies in batches, so some places may wait for their first.
    assert!(table.used > 32_768 && table.used <= 65_536, "{table:?}");
    assert!(reader.overwritten().unwrap() >= old.len() as u64);
    // The newest have their names.
    for family in Family::ALL {
        let socket = client.open(family.udp());
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)));
    }
    // The old ones work on.
    let (family, _, socket) = &old[0];
    assert_eq!(client.receive(*socket).unwrap().data, "backend1\n", "{family:?}");
}

/// Looks at the old sockets until all have lost their names: at no time has one a third name.
fn young_and_old(client: &mut Client, old: &[(Family, Kind, Socket)]) {
    wait_until(DEADLINE, || {
        old.iter().all(|(family, kind, socket)| {
            let name = client.peer_name(*socket);
            let (dialled, real) = (Ok(family.frontend(1)), Ok(family.backend(1)));
            assert!(name == dialled || name == real, "{family:?} {kind:?}: {name:?}");
            name == real
        })
    });
}

#[test]
fn the_id_of_a_frontend_that_is_gone_never_names_another() {
    if !require_kernel() {
        return;
    }
    // Few ids, so that they are given away again soon.
    let sizes = Sizes { frontends: 16, backends: 16, ..SIZES };
    let mut world = World::on(DataPlane::with("records-ids", sizes, HostScope::Everything), "records-ids");
    let mut client = world.client();
    for family in Family::ALL {
        let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        let (connected, unconnected) = (client.open(family.udp()), client.open(family.udp()));
        assert_eq!(client.connect(connected, family.frontend(1)), Ok(()));
        client.send_to(unconnected, family.frontend(1), "x").unwrap();
        assert_eq!(client.receive(unconnected).unwrap().from, Some(family.frontend(1)));
        world.plane.tables.remove(&key).unwrap();
        for round in 0..100_u16 {
            let other = std::net::SocketAddr::new(family.frontend(2).ip(), 5000 + round);
            let key = world.plane.redirect(Protocol::Udp, other, &[family.backend(1)]);
            let name = client.peer_name(connected);
            let allowed = [Ok(family.frontend(1)), Ok(family.backend(1))];
            assert!(allowed.contains(&name), "{family:?} round {round}: {name:?}");
            world.plane.tables.remove(&key).unwrap();
        }
        assert_eq!(client.peer_name(connected), Ok(family.backend(1)), "{family:?}: its id was used again");
        // The socket knows the address itself where it is not connected.
        client.send_to(unconnected, family.backend(1), "y").unwrap();
        let heard = client.receive(unconnected).unwrap();
        assert_eq!(heard.data, "backend1 y");
        assert!([family.frontend(1), family.backend(1)].map(Some).contains(&heard.from), "{heard:?}");
    }
}
