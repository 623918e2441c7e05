use std::net::Ipv4Addr;

use super::*;
use crate::{
    objects::{AcceptFrom, ExternalHost, InvalidSpec, Node, Object},
    resolve::fixtures::*,
};

fn fabric(name: &str, created: i64, selector: LabelSelector) -> TunnelFabric {
    let spec = FabricSpec {
        node_selector: selector,
        ipv4_pool: Some("10.211.0.0/16".parse().unwrap()),
        ipv6_pool: None,
        vni: 7710,
        port: 7710,
        mtu: None,
        underlay: Default::default(),
        accept_from: Default::default(),
        proxy_ports: (20000, 29999),
    };
    TunnelFabric {
        name: name.into(),
        uid: "f".into(),
        created: Some(created),
        generation: 1,
        acceptance: Acceptance::Accepted,
        spec: Ok(spec),
    }
}

fn tunnel_node(kind: MemberKind, name: &str, uid: &str, address: &str, created: i64) -> TunnelNode {
    let spec = MemberSpec {
        fabric: "f".into(),
        kind,
        name: name.into(),
        uid: uid.into(),
        underlay_v4: Some(Ipv4Addr::new(192, 0, 2, created as u8)),
        underlay_v6: None,
        port: 7710,
        mac: mac_of("f", &kind.object_name(name)),
        addresses: vec![ip(address)],
        mtu: 1450,
    };
    TunnelNode {
        name: kind.object_name(name),
        uid: "t".into(),
        created: Some(created),
        lacks_claim: false,
        spec: Ok(spec),
    }
}

/// An agent that reads from an API server.
fn on_cluster() -> Settings {
    Settings { cluster_pods: ClusterPods::Listed, ..mk_settings() }
}

fn snapshot(objects: impl IntoIterator<Item = Object>) -> Snapshot {
    let mut snapshot = Snapshot::new(Some(HERE));
    snapshot.apply(objects.into_iter().map(|object| (object.key(), Some(object))));
    snapshot
}

fn node(uid: &str, pairs: &[(&str, &str)]) -> Object {
    Node { uid: uid.into(), labels: labels(pairs), ..mk_node(HERE, &["192.0.2.1"], &[]) }.into()
}

/// What is said about this node.
fn says(objects: impl IntoIterator<Item = Object>) -> String {
    match membership(&snapshot(objects), &on_cluster()) {
        Membership::Outside(why) => format!("outside: {why}"),
        Membership::Waiting(why) => format!("waiting: {why}"),
        Membership::Member(member) => {
            let own = member.own.map(|own| own.addresses[0].to_string()).unwrap_or_default();
            let peers: Vec<_> = member.peers.keys().copied().collect();
            format!("{} {own} {}", member.fabric.name, peers.join(" ")).trim_end().to_owned()
        }
    }
}

#[test]
fn the_oldest_fabric_that_selects_the_node() {
    let everyone = LabelSelector::default;
    let some = || selector(&[("a", "b")]);
    assert_eq!(says([node("1", &[])]), "outside: there is no TunnelFabric");
    assert!(says([fabric("f", 1, everyone()).into()]).starts_with("waiting: Node "));
    let both = |labels| [node("1", labels), fabric("g", 1, some()).into(), fabric("f", 2, everyone()).into()];
    assert_eq!(says(both(&[])), "f");
    assert_eq!(says(both(&[("a", "b")])), "g");
    assert!(says([node("1", &[]), fabric("g", 1, some()).into()]).starts_with("outside: no TunnelFabric's"));
    let broken = TunnelFabric { spec: Err(InvalidSpec::default()), ..fabric("f", 1, everyone()) };
    assert!(says([node("1", &[]), broken.into()]).starts_with("waiting: TunnelFabric f is not valid"));
}

#[test]
fn another_node_of_the_name_inherits_nothing_and_a_duplicate_address_is_left_out() {
    let base = || [node("1", &[]), fabric("f", 1, LabelSelector::default()).into()];
    let own = |uid| Object::from(tunnel_node(MemberKind::Node, HERE, uid, "10.211.0.5", 1));
    assert_eq!(says(base().into_iter().chain([own("1")])), "f 10.211.0.5");
    assert_eq!(says(base().into_iter().chain([own("0")])), "f");
    let peers = [
        tunnel_node(MemberKind::Node, "b", "2", "10.211.0.6", 2),
        tunnel_node(MemberKind::ExternalHost, "c", "3", "10.211.0.6", 3),
        tunnel_node(MemberKind::Node, "elsewhere", "4", "10.99.0.1", 4),
    ];
    let all = base().into_iter().chain([own("1")]).chain(peers.map(Object::from));
    assert_eq!(says(all), "f 10.211.0.5 node.b");
    // A younger one that copies the MAC or the underlay address takes nobody's place.
    let thief = |change: &dyn Fn(&mut MemberSpec)| {
        let mut thief = tunnel_node(MemberKind::ExternalHost, "a", "6", "10.211.0.7", 6);
        change(thief.spec.as_mut().unwrap());
        let victim = tunnel_node(MemberKind::Node, "b", "2", "10.211.0.6", 2);
        says(base().into_iter().chain([own("1"), victim.into(), thief.into()]))
    };
    assert_eq!(thief(&|_| ()), "f 10.211.0.5 host.a node.b");
    assert_eq!(thief(&|spec| spec.underlay_v4 = Some(Ipv4Addr::new(192, 0, 2, 2))), "f 10.211.0.5 node.b");
}

#[test]
fn a_host_outside_is_a_member_by_permission() {
    let permission = ExternalHostSpec {
        fabric: "f".into(),
        user: Some("h".into()),
        service_account: None,
        underlay_cidrs: vec!["198.51.100.0/24".parse().unwrap()],
        paused: false,
    };
    let host = |spec: &ExternalHostSpec| ExternalHost {
        name: "h".into(),
        uid: "9".into(),
        created: Some(1),
        spec: Ok(spec.clone()),
    };
    let settings = Settings { role: Role::External, node_name: "h".into(), ..on_cluster() };
    let fabric: Object = fabric("f", 1, selector(&[("no", "node")])).into();
    let known = snapshot([fabric.clone(), host(&permission).into()]);
    let Membership::Member(member) = membership(&known, &settings) else { panic!() };
    assert_eq!((member.name().as_str(), member.permission), ("host.h", Some(&permission)));
    let paused = ExternalHostSpec { paused: true, ..permission.clone() };
    for objects in [vec![fabric.clone(), host(&paused).into()], vec![fabric], vec![host(&permission).into()]]
    {
        assert!(matches!(membership(&snapshot(objects), &settings), Membership::Outside(_)));
    }
}

/// What is said of the peers of this node, whose status has 192.0.2.1, and of the others.
fn peers_of(peers: impl IntoIterator<Item = TunnelNode>) -> (Vec<String>, Vec<String>) {
    let base = [node("1", &[]), fabric("f", 1, LabelSelector::default()).into()];
    let snapshot = snapshot(base.into_iter().chain(peers.into_iter().map(Object::from)));
    let Membership::Member(member) = membership(&snapshot, &on_cluster()) else { panic!() };
    (member.peers.keys().map(|name| (*name).to_owned()).collect(), member.problems)
}

#[test]
fn the_address_of_a_node_is_nobody_elses_underlay_however_old_he_is() {
    let older = |address: &str| {
        let mut older = tunnel_node(MemberKind::Node, "b", "2", "10.211.0.6", 2);
        older.spec.as_mut().unwrap().underlay_v4 = Some(address.parse().unwrap());
        peers_of([older, tunnel_node(MemberKind::Node, HERE, "1", "10.211.0.5", 9)])
    };
    assert_eq!(older("192.0.2.7"), (vec!["node.b".to_owned()], vec![]));
    let (peers, problems) = older("192.0.2.1");
    assert!(peers.is_empty());
    let said = format!(
        "TunnelNode node.b has the underlay address 192.0.2.1, which is an address of Node {HERE}: it is left out"
    );
    assert_eq!(problems, [said]);
    let (peers, problems) = older("10.211.0.9");
    assert!(peers.is_empty() && problems[0].contains("which is of the fabric's own pool"), "{problems:?}");
}

#[test]
fn a_node_whose_own_tunnelnode_is_broken_still_sees_who_is_a_peer_and_who_no_more() {
    let own = TunnelNode {
        spec: Err(InvalidSpec::default()),
        ..tunnel_node(MemberKind::Node, HERE, "1", "10.211.0.5", 1)
    };
    let peer = tunnel_node(MemberKind::Node, "b", "2", "10.211.0.6", 2);
    let (peers, problems) = peers_of([own.clone(), peer]);
    assert_eq!((peers, problems.len()), (vec!["node.b".to_owned()], 1));
    assert!(peers_of([own]).0.is_empty());
}

#[test]
fn a_fabric_that_the_controller_has_not_accepted_changes_nothing() {
    let with = |acceptance| {
        let fabric = TunnelFabric { acceptance, ..fabric("f", 1, LabelSelector::default()) };
        snapshot([node("1", &[]), fabric.into()])
    };
    let listed = on_cluster();
    let selected = mk_settings();
    let waits = |acceptance: Acceptance, settings: &Settings| match membership(&with(acceptance), settings) {
        Membership::Waiting(why) => Some(why),
        _ => None,
    };
    assert!(waits(Acceptance::Pending, &listed).unwrap().contains("is a controller running"));
    let refused = Acceptance::Refused("it overlaps 10.96.0.80".to_owned());
    assert!(waits(refused.clone(), &listed).unwrap().contains("not accepted: it overlaps 10.96.0.80"));
    assert_eq!(waits(Acceptance::Accepted, &listed), None);
    for acceptance in [Acceptance::Pending, Acceptance::Accepted, refused] {
        assert_eq!(waits(acceptance, &selected), None, "a directory has no controller");
    }
}

#[test]
fn members_follow_who_comes_and_leaves_while_a_new_spec_is_not_accepted() {
    let settings = on_cluster();
    let [b, c] = [("b", "2", "10.211.0.6", 2), ("c", "3", "10.211.0.7", 3)]
        .map(|(name, uid, address, created)| tunnel_node(MemberKind::Node, name, uid, address, created));
    let accepted = fabric("f", 1, LabelSelector::default());
    let before = accepted.spec.clone().unwrap();
    let mut snapshot = snapshot([node("1", &[]), accepted.clone().into(), b.clone().into()]);
    let mut edited = TunnelFabric { acceptance: Acceptance::Pending, generation: 2, ..accepted };
    edited.spec = Ok(FabricSpec { ipv4_pool: Some("10.96.0.0/16".parse().unwrap()), ..before.clone() });
    let broken = TunnelFabric { spec: Err(InvalidSpec::default()), ..edited.clone() };
    let refused = TunnelFabric { acceptance: Acceptance::Refused("no".to_owned()), ..edited.clone() };
    let mut put = |objects: [Object; 1], gone: Option<&TunnelNode>| {
        snapshot.apply(objects.into_iter().map(|object| (object.key(), Some(object))));
        snapshot.apply(gone.map(|gone| (Object::from(gone.clone()).key(), None)));
        match membership(&snapshot, &settings) {
            Membership::Member(member) => Ok((
                member.spec.clone(),
                member.peers.keys().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
                member.problems,
            )),
            Membership::Waiting(why) | Membership::Outside(why) => Err(why),
        }
    };
    for not_accepted in [edited.clone(), broken, refused] {
        let (spec, _, problems) = put([not_accepted.into()], None).unwrap();
        assert_eq!((spec, problems.len()), (before.clone(), 1));
        assert_eq!(put([c.clone().into()], None).unwrap().1, ["node.b", "node.c"]);
        assert_eq!(put([b.clone().into()], Some(&c)).unwrap().1, ["node.b"], "whoever has left is no peer");
    }
    let another = TunnelFabric { uid: "other".into(), ..edited.clone() };
    assert!(put([another.into()], None).is_err(), "one of the same name begins anew");
    assert!(put([edited.into()], None).is_err());
}

#[test]
fn an_edited_selector_moves_nobody_before_it_is_accepted() {
    let selecting = |name: &str| LabelSelector { labels: labels(&[(name, "1")]), ..Default::default() };
    let accepted = fabric("f", 1, selecting("old"));
    let says = |snapshot: &Snapshot| match membership(snapshot, &on_cluster()) {
        Membership::Member(member) => member.fabric.name.clone(),
        Membership::Waiting(why) => format!("waiting: {why}"),
        Membership::Outside(why) => format!("outside: {why}"),
    };
    let refused = Acceptance::Refused("no".to_owned());
    let selectors = [selecting("new"), LabelSelector::default()];
    for (acceptance, selector) in
        [Acceptance::Pending, refused].iter().flat_map(|it| selectors.each_ref().map(|s| (it, s)))
    {
        let mut edited = TunnelFabric { acceptance: acceptance.clone(), generation: 2, ..accepted.clone() };
        edited.spec.as_mut().unwrap().node_selector = selector.clone();
        let younger = fabric("g", 2, LabelSelector::default());
        let younger = TunnelFabric { acceptance: Acceptance::Refused("f is older".to_owned()), ..younger };
        let mut snapshot = snapshot([node("1", &[("old", "1")]), accepted.clone().into()]);
        let mut put = |objects: Vec<Object>| {
            snapshot.apply(objects.into_iter().map(|object| (object.key(), Some(object))));
            says(&snapshot)
        };
        assert_eq!(put(vec![edited.clone().into(), younger.into()]), "f", "who is a member stays one");
        let left = put(vec![node("1", &[("new", "1")])]);
        assert!(left.starts_with("waiting: TunnelFabric g is not accepted"), "{left}");
        let another = fabric("g", 2, selecting("another"));
        let left = put(vec![another.into()]);
        assert!(
            left.starts_with("outside: no TunnelFabric's")
                && left.contains("; TunnelFabric f is not accepted"),
            "{left}"
        );
        assert_eq!(put(vec![TunnelFabric { acceptance: Acceptance::Accepted, ..edited }.into()]), "f");
    }
}

#[test]
fn an_agent_that_starts_beside_an_edit_keeps_what_its_node_has() {
    let mut edited = fabric("f", 1, LabelSelector { labels: labels(&[("new", "1")]), ..Default::default() });
    edited.acceptance = Acceptance::Pending;
    let own = tunnel_node(MemberKind::Node, HERE, "1", "10.211.0.5", 1);
    let others: [Object; 2] = [node("1", &[]), edited.into()];
    assert!(says(others.clone()).starts_with("outside: "));
    assert!(
        says(others.into_iter().chain([own.into()])).starts_with("waiting: TunnelFabric f is not accepted")
    );
}

#[test]
fn fewer_are_let_in_at_once() {
    let mut open = fabric("f", 1, LabelSelector::default());
    open.spec.as_mut().unwrap().accept_from = AcceptFrom::Anyone;
    let mut snapshot = snapshot([node("1", &[]), open.clone().into()]);
    let settings = on_cluster();
    let mut put = |accept_from| {
        let mut edited = TunnelFabric { acceptance: Acceptance::Pending, ..open.clone() };
        edited.spec.as_mut().unwrap().accept_from = accept_from;
        let edited = Object::from(edited);
        snapshot.apply([(edited.key(), Some(edited))]);
        match membership(&snapshot, &settings) {
            Membership::Member(member) => member.spec.accept_from,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(put(AcceptFrom::Members), AcceptFrom::Members);
    assert_eq!(put(AcceptFrom::Anyone), AcceptFrom::Members, "more only once that is accepted");
}

#[test]
fn in_a_directory_macs_are_given_by_hand_whether_or_not_objects_have_a_uid() {
    let mut own = tunnel_node(MemberKind::Node, HERE, "1", "10.211.0.5", 1);
    let mut peer = tunnel_node(MemberKind::Node, "b", "2", "10.211.0.6", 2);
    own.spec.as_mut().unwrap().mac = [2, 0, 0, 0, 0, 1];
    peer.spec.as_mut().unwrap().mac = [2, 0, 0, 0, 0, 2];
    let fabric = fabric("f", 1, LabelSelector::default());
    let snapshot = snapshot([node("1", &[]), fabric.into(), own.into(), peer.into()]);
    let macs = |cluster_pods| match membership(&snapshot, &Settings { cluster_pods, ..on_cluster() }) {
        Membership::Member(member) => (member.mac[5], member.peers.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(macs(ClusterPods::Selected), (1, 1));
    assert_eq!(macs(ClusterPods::Listed).1, 0);
}

#[test]
fn nobody_has_the_mac_of_another_member_however_old_he_is() {
    let victim = tunnel_node(MemberKind::Node, "b", "2", "10.211.0.6", 5);
    let mut thief = tunnel_node(MemberKind::ExternalHost, "a", "6", "10.211.0.7", 2);
    for of in ["node.b".to_owned(), MemberKind::Node.object_name(HERE)] {
        thief.spec.as_mut().unwrap().mac = mac_of("f", &of);
        let own = tunnel_node(MemberKind::Node, HERE, "1", "10.211.0.5", 9);
        let (peers, problems) = peers_of([own, thief.clone(), victim.clone()]);
        assert_eq!(peers, ["node.b"]);
        assert_eq!(problems, ["TunnelNode host.a has a MAC that is not its own: it is left out"]);
    }
}

#[test]
fn this_host_keeps_its_mac_whatever_its_tunnelnode_says() {
    let mut own = tunnel_node(MemberKind::Node, HERE, "1", "10.211.0.5", 1);
    own.spec.as_mut().unwrap().mac = mac_of("f", "node.b");
    let peer = tunnel_node(MemberKind::Node, "b", "2", "10.211.0.6", 2);
    let base = |uid| [node(uid, &[]), fabric("f", 1, LabelSelector::default()).into()];
    let known = snapshot(base("1").into_iter().chain([own.clone().into(), peer.clone().into()]));
    let Membership::Member(member) = membership(&known, &on_cluster()) else { panic!() };
    assert_eq!(member.mac, mac_of("f", &member.name()));
    // It sees what somebody wrote, so that it says so and writes its own again.
    assert_eq!(member.own, own.spec.as_ref().ok());
    assert_eq!(member.peers.keys().collect::<Vec<_>>(), [&"node.b"]);
    // MACs in a directory are as somebody wrote them.
    let known = snapshot(base("").into_iter().chain([own.clone().into(), peer.into()]));
    let Membership::Member(member) = membership(&known, &mk_settings()) else { panic!() };
    assert_eq!(Some(member.mac), own.spec.ok().map(|own| own.mac));
}

#[test]
fn a_tunnelnode_of_a_file_that_does_not_fit_is_told() {
    let own = tunnel_node(MemberKind::Node, HERE, "", "10.211.0.5", 1);
    let told = |change: &dyn Fn(&mut crate::objects::MemberSpec)| {
        let mut own = own.clone();
        change(own.spec.as_mut().unwrap());
        let known = snapshot([node("", &[]), fabric("f", 1, LabelSelector::default()).into(), own.into()]);
        let Membership::Member(member) = membership(&known, &mk_settings()) else { panic!() };
        member.problems.join("; ")
    };
    assert_eq!(told(&|_| {}), "");
    assert!(
        told(&|own| own.addresses = vec![ip("10.99.0.1")]).contains("the address 10.99.0.1, which no pool")
    );
    assert!(told(&|own| own.port = 1).contains("has spec.port 1, TunnelFabric f has 7710"));
    assert!(
        told(&|own| own.fabric = "g".to_owned())
            .contains("is of spec.fabric g, and TunnelFabric f is in force")
    );
}
