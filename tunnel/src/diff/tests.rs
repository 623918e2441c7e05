use super::*;

fn want() -> Device {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Device {
        name: "balancing0",
        alias: "balancing:default".into(),
        vni: 7710,
        port: 7710,
        mac: Mac([0x66, 0, 0, 0, 0, 1]),
        local: ip("192.0.2.1"),
        mtu: 1450,
        addresses: [ip("10.211.0.1")].into(),
        routes: [("10.211.0.0/16".parse().unwrap(), Path { source: ip("10.211.0.1"), mtu: None })].into(),
        neighbours: [(ip("10.211.0.2"), Mac([0x66, 0, 0, 0, 0, 2]))].into(),
        forwarding: [(Mac([0x66, 0, 0, 0, 0, 2]), Destination { ip: ip("192.0.2.2"), port: None })].into(),
        sysctls: Vec::new(),
    }
}

/// A device as wanted.
fn made() -> Link {
    let want = want();
    Link {
        index: 7,
        name: want.name.into(),
        alias: Some(want.alias),
        mac: Some(want.mac),
        mtu: want.mtu,
        up: true,
        kind: Some("vxlan".into()),
        vxlan: Some(Vxlan { vni: 7710, port: 7710, local: Some(want.local), ..Vxlan::default() }),
        ..Link::default()
    }
}

fn have() -> Have {
    let Device { addresses, routes, neighbours, forwarding, .. } = want();
    Have { addresses, routes, neighbours, forwarding }
}

#[test]
fn a_device_is_made_changed_or_made_anew() {
    let unchanged = LinkChange { index: 7, ..LinkChange::default() };
    let set = |change| Some(LinkStep::Set(change));
    let vxlan = || made().vxlan.unwrap();
    let settings = |vxlan: Vxlan| Link { vxlan: Some(vxlan), ..made() };
    let other: IpAddr = "192.0.2.9".parse().unwrap();
    let renamed = LinkChange { name: Some("balancing0"), up: true, ..unchanged.clone() };
    let cases = [
        (vec![], Some(LinkStep::Create)),
        (vec![made()], None),
        (vec![Link { up: false, ..made() }], set(LinkChange { up: true, ..unchanged.clone() })),
        (vec![Link { mtu: 1500, ..made() }], set(LinkChange { mtu: Some(1450), ..unchanged.clone() })),
        (vec![Link { mac: None, ..made() }], set(LinkChange { mac: Some(want().mac), ..unchanged.clone() })),
        (
            vec![settings(Vxlan { local: Some(other), ..vxlan() })],
            set(LinkChange { local: Some(want().local), ..unchanged.clone() }),
        ),
        (vec![Link { name: "mine".into(), ..made() }], set(renamed)),
        (
            vec![Link { alias: None, up: false, ..made() }],
            set(LinkChange { alias: Some(want().alias), up: true, ..unchanged.clone() }),
        ),
        (vec![Link { alias: Some("balancing:old".into()), ..made() }], Some(LinkStep::Delete(7))),
        (vec![settings(Vxlan { vni: 1, ..vxlan() })], Some(LinkStep::Delete(7))),
        (vec![settings(Vxlan { port: 1, ..vxlan() })], Some(LinkStep::Delete(7))),
        (vec![settings(Vxlan { learning: true, ..vxlan() })], Some(LinkStep::Delete(7))),
        (vec![settings(Vxlan { bound_to: 2, ..vxlan() })], Some(LinkStep::Delete(7))),
        (vec![settings(Vxlan { local: "2001:db8::1".parse().ok(), ..vxlan() })], Some(LinkStep::Delete(7))),
    ];
    for (links, step) in cases {
        assert_eq!(link_step(&want(), &links, Up::Now), step, "{links:?}");
        assert_eq!(is_shaped(&[want()], &links), step.is_none(), "{links:?}");
        // Later it is the same without that.
        let step = match step {
            Some(LinkStep::Set(change)) => Some(LinkChange { up: false, ..change })
                .filter(|change| *change != unchanged)
                .map(LinkStep::Set),
            other => other,
        };
        assert_eq!(link_step(&want(), &links, Up::Later), step, "{links:?}");
    }
}

#[test]
fn the_other_familys_device_is_not_taken_for_this_one() {
    let second = Link { name: "balancing1".into(), index: 8, ..made() };
    assert_eq!(link_step(&want(), std::slice::from_ref(&second), Up::Now), Some(LinkStep::Create));
    assert_eq!(surplus(&[want()], &[made(), second.clone()]), [8]);
    let foreign = Link { alias: None, ..second };
    assert!(surplus(&[want()], &[made(), foreign]).is_empty());
}

#[test]
fn nothing_changes_where_nothing_differs() {
    assert_eq!(changes(&want(), &have(), Deletions::Allowed), Changes::default());
}

#[test]
fn a_route_comes_after_its_source_and_its_peers_and_goes_before_them() {
    let all = changes(&want(), &Have::default(), Deletions::Allowed);
    let [addresses, peers, routes] = &all.set[..] else { panic!("{all:?}") };
    assert!(matches!(addresses[..], [Entry::Address(_)]) && matches!(routes[..], [Entry::Route(..)]));
    assert!(matches!(peers[..], [Entry::Forwarding(..), Entry::Neighbour(..)]));
    let empty = Device {
        addresses: BTreeSet::new(),
        routes: BTreeMap::new(),
        neighbours: BTreeMap::new(),
        forwarding: BTreeMap::new(),
        ..want()
    };
    let none = changes(&empty, &have(), Deletions::Allowed);
    assert!(none.set.is_empty());
    assert!(
        matches!(none.delete[0][..], [Entry::Route(..)]) && matches!(none.delete[2][..], [Entry::Address(_)])
    );
    assert_eq!(changes(&empty, &have(), Deletions::Held), Changes::default());
}

#[test]
fn what_changed_is_replaced_not_deleted() {
    let mut moved = have();
    for to in moved.forwarding.values_mut() {
        to.ip = "192.0.2.77".parse().unwrap();
    }
    for path in moved.routes.values_mut() {
        path.mtu = Some(1300);
    }
    let changes = changes(&want(), &moved, Deletions::Allowed);
    assert_eq!(changes.set.concat().len(), 2);
    assert!(changes.delete.is_empty());
}
