//! The agent's own connections go where it dials, whatever the tables say.

use balancing_dataplane::{OWN_PRIORITY, loader::HostScope, model::Protocol};
use balancing_tests::{
    dataplane::{DataPlane, Entry, Family, Network, SIZES, alone, layer},
    *,
};
use nix::errno::Errno;

/// A frontend without backends that refuses connections.
fn refusing() -> Entry {
    let mut layer = layer(1, &[]);
    layer.reject = true;
    alone(layer)
}

/// Redirects frontend 1 and refuses connections to frontend 2.
fn program(plane: &mut DataPlane) {
    for family in [Family::V4, Family::V6] {
        plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        plane.publish(Protocol::Tcp, family.frontend(2), refusing());
    }
}

/// What a client that is marked, or one that is not, gets from both frontends.
fn asked(
    client: &mut Client,
    family: Family,
    priority: Option<u32>,
    how: Connect,
) -> [Result<String, Errno>; 2] {
    [1, 2].map(|number| {
        let socket = client.open(family.tcp());
        if let Some(value) = priority {
            client.set_priority(socket, value)?;
        }
        client.connect_by(how, socket, family.frontend(number))?;
        let answer = client.receive(socket);
        client.close(socket);
        answer.map(|message| message.data.trim_end().to_owned())
    })
}

#[test]
fn marked_sockets_are_not_redirected_in_pods_and_on_hosts() {
    if !require_kernel() {
        return;
    }
    let network = Network::new();
    let cookie = network.netns.run(|| balancing_dataplane::sys::netns_cookie().unwrap());
    let mut plane = DataPlane::with("own", SIZES, HostScope::Namespace(Some(cookie)));
    let (pod, host) = (Cgroup::new("own-pod"), Cgroup::new("own-host"));
    plane.attach_pod(&pod);
    plane.attach_host(&host);
    program(&mut plane);
    for cgroup in [&pod, &host] {
        let mut client = network.client(cgroup);
        for family in Family::ALL {
            let ordinary = [Ok("backend1".to_owned()), Err(dataplane::refusal())];
            let own = [Ok("direct1".to_owned()), Ok("direct2".to_owned())];
            for how in [Connect::Blocking, Connect::NonBlocking] {
                assert_eq!(asked(&mut client, family, Some(OWN_PRIORITY), how), own, "{family:?}");
                for other in [None, Some(0), Some(6), Some(OWN_PRIORITY + 1), Some(OWN_PRIORITY << 8)] {
                    assert_eq!(asked(&mut client, family, other, how), ordinary, "{family:?} {other:?}");
                }
            }
        }
    }
}

#[test]
fn a_socket_whose_mark_is_taken_away_is_an_ordinary_one() {
    if !require_kernel() {
        return;
    }
    let mut world = dataplane::World::new("own-reset");
    program(&mut world.plane);
    let mut client = world.client();
    for family in Family::ALL {
        let socket = client.open(family.tcp());
        client.set_priority(socket, OWN_PRIORITY).unwrap();
        assert_eq!(client.connect(socket, family.frontend(2)), Ok(()));
        assert_eq!(client.peer_name(socket), Ok(family.frontend(2)), "{family:?}");
        client.set_priority(socket, 0).unwrap();
        client.disconnect(socket).unwrap();
        assert_eq!(client.connect(socket, family.frontend(2)), Err(dataplane::refusal()), "{family:?}");
    }
}
