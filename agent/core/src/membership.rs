//! Whether this host is a member of a fabric, of which, and who the others are.
//!
//! Pure: it looks at objects alone. Which address of the host peers dial is not decided here, because that depends on the
//! host's interfaces; nor whether the device works.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    objects::{
        ExternalHostSpec, FabricSpec, LabelSelector, MemberKind, MemberSpec, Owner, TunnelFabric, TunnelNode,
    },
    resolve::{Role, Settings},
    snapshot::Snapshot,
};

/// What the objects say about this host and a fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership<'a> {
    /// There is no fabric for this host, and why.
    Outside(String),
    /// It should be a member and cannot, and why: what is there stays.
    Waiting(String),
    /// It is one, or about to be.
    Member(Member<'a>),
}

/// This host as a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The fabric.
    pub fabric: &'a TunnelFabric,
    /// Its valid spec.
    pub spec: &'a FabricSpec,
    /// The Node or ExternalHost that this host is.
    pub owner: Owner,
    /// `InternalIP`s of its Node.
    pub node_ips: Vec<IpAddr>,
    /// What an administrator allows a host outside; `None` on a node.
    pub permission: Option<&'a ExternalHostSpec>,
    /// How the fabric knows it; `None` = not yet.
    pub own: Option<&'a MemberSpec>,
    /// The other members, by the names of their TunnelNodes. Of two that have an address the older one counts.
    pub peers: BTreeMap<&'a str, &'a MemberSpec>,
    /// What is wrong with others, in words.
    pub problems: Vec<String>,
}

impl Member<'_> {
    /// Name of this host's TunnelNode.
    #[must_use]
    pub fn name(&self) -> String {
        self.owner.kind.object_name(&self.owner.name)
    }
}

/// What the objects say about the host that the settings describe.
#[must_use]
pub fn membership<'a>(snapshot: &'a Snapshot, settings: &Settings) -> Membership<'a> {
    match settings.role {
        Role::Node => of_node(snapshot, &settings.node_name),
        Role::External => of_host(snapshot, &settings.node_name),
        Role::Cluster => Membership::Outside("the controller is no host".to_owned()),
    }
}

fn of_node<'a>(snapshot: &'a Snapshot, name: &str) -> Membership<'a> {
    let mut fabrics: Vec<_> = snapshot.fabrics().collect();
    if fabrics.is_empty() {
        return Membership::Outside("there is no TunnelFabric".to_owned());
    }
    fabrics.sort_by_key(|fabric| (fabric.created.is_none(), fabric.created, &fabric.name));
    let Some(node) = snapshot.node(name) else {
        return Membership::Waiting(format!("Node {name} is not known"));
    };
    let selects = |spec: &FabricSpec| {
        spec.node_selector == LabelSelector::default() || spec.node_selector.matches(&node.labels)
    };
    // A broken fabric may have been the one of this node: what it made stays.
    let broken = fabrics.iter().find(|fabric| fabric.spec.is_err());
    let valid =
        fabrics.iter().find_map(|fabric| Some((*fabric, fabric.spec.as_ref().ok().filter(|s| selects(s))?)));
    let Some((fabric, spec)) = valid else {
        return match broken {
            Some(fabric) => Membership::Waiting(why_broken(fabric)),
            None => Membership::Outside(format!(
                "no TunnelFabric's nodeSelector matches the labels of node {name}"
            )),
        };
    };
    let owner = Owner { kind: MemberKind::Node, name: name.to_owned(), uid: node.uid.clone() };
    Membership::Member(member(snapshot, (fabric, spec), owner, node.ips.to_vec(), None))
}

fn of_host<'a>(snapshot: &'a Snapshot, name: &str) -> Membership<'a> {
    let Some(host) = snapshot.external_hosts().find(|host| host.name == name) else {
        return Membership::Outside(format!("there is no ExternalHost {name}"));
    };
    let spec = match &host.spec {
        Ok(spec) if spec.paused => {
            return Membership::Outside(format!("ExternalHost {name} is paused by spec.paused"));
        }
        Ok(spec) => spec,
        Err(invalid) => return Membership::Waiting(first(invalid, &format!("ExternalHost {name}"))),
    };
    let Some(fabric) = snapshot.fabrics().find(|fabric| fabric.name == spec.fabric) else {
        return Membership::Outside(format!(
            "TunnelFabric {} of ExternalHost {name} does not exist",
            spec.fabric
        ));
    };
    let Ok(of_fabric) = &fabric.spec else { return Membership::Waiting(why_broken(fabric)) };
    let owner = Owner { kind: MemberKind::ExternalHost, name: name.to_owned(), uid: host.uid.clone() };
    Membership::Member(member(snapshot, (fabric, of_fabric), owner, Vec::new(), Some(spec)))
}

fn member<'a>(
    snapshot: &'a Snapshot,
    (fabric, spec): (&'a TunnelFabric, &'a FabricSpec),
    owner: Owner,
    node_ips: Vec<IpAddr>,
    permission: Option<&'a ExternalHostSpec>,
) -> Member<'a> {
    let name = owner.kind.object_name(&owner.name);
    let broken = snapshot.members().filter_map(|member| Some((member, member.spec.as_ref().err()?)));
    let mut problems: Vec<_> =
        broken.map(|(member, invalid)| first(invalid, &format!("TunnelNode {}", member.name))).collect();
    let mut members: Vec<_> =
        snapshot.members().filter_map(|member| of_fabric(member, fabric, spec)).collect();
    members.sort_by_key(|(member, _)| (member.created.is_none(), member.created, &member.name));
    let (mut taken, mut macs, mut underlays) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut own, mut peers) = (None, BTreeMap::new());
    for (member, spec) in members {
        if member.name == name && !is_of(spec, &owner) {
            // Of a Node of this name that was deleted: this one inherits nothing.
            continue;
        }
        if let Some(address) = spec.addresses.iter().find(|address| taken.contains(*address)) {
            problems.push(format!(
                "TunnelNode {} has the address {address} of an older one and is left out",
                member.name
            ));
            continue;
        }
        // Whoever copies what an older member has must not take its place.
        if macs.contains(&spec.mac) || spec.underlay().any(|address| underlays.contains(&address)) {
            problems.push(format!(
                "TunnelNode {} has the MAC or the underlay address of an older one and is left out",
                member.name
            ));
            continue;
        }
        macs.insert(spec.mac);
        underlays.extend(spec.underlay());
        taken.extend(spec.addresses.iter().copied());
        if member.name == name {
            own = Some(spec);
        } else {
            peers.insert(member.name.as_str(), spec);
        }
    }
    Member { fabric, spec, owner, node_ips, permission, own, peers, problems }
}

/// The spec of a member that belongs to the fabric as it is now.
fn of_fabric<'a>(
    member: &'a TunnelNode,
    fabric: &TunnelFabric,
    spec: &FabricSpec,
) -> Option<(&'a TunnelNode, &'a MemberSpec)> {
    let known = member.spec.as_ref().ok()?;
    let in_pool = |address: &IpAddr| spec.pools().any(|pool| pool.contains(*address));
    let fits = known.fabric == fabric.name && known.port == spec.port && known.addresses.iter().all(in_pool);
    fits.then_some((member, known))
}

/// Without a uid, as in files, the name decides.
fn is_of(spec: &MemberSpec, owner: &Owner) -> bool {
    let same = owner.uid.is_empty() || spec.uid.is_empty() || spec.uid == owner.uid;
    spec.kind == owner.kind && spec.name == owner.name && same
}

fn why_broken(fabric: &TunnelFabric) -> String {
    match &fabric.spec {
        Err(invalid) => first(invalid, &format!("TunnelFabric {}", fabric.name)),
        Ok(_) => String::new(),
    }
}

fn first(invalid: &crate::objects::InvalidSpec, object: &str) -> String {
    let problem = invalid.problems.first().map(|p| format!("{}: {}", p.field, p.message));
    format!("{object} is not valid: {}", problem.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        objects::{ExternalHost, InvalidSpec, Node, Object},
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
            mac: [0x66, 0, 0, 0, 0, created as u8],
            addresses: vec![ip(address)],
            mtu: 1450,
        };
        TunnelNode { name: kind.object_name(name), uid: "t".into(), created: Some(created), spec: Ok(spec) }
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
        match membership(&snapshot(objects), &mk_settings()) {
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
        let both =
            |labels| [node("1", labels), fabric("g", 1, some()).into(), fabric("f", 2, everyone()).into()];
        assert_eq!(says(both(&[])), "f");
        assert_eq!(says(both(&[("a", "b")])), "g");
        assert!(
            says([node("1", &[]), fabric("g", 1, some()).into()]).starts_with("outside: no TunnelFabric's")
        );
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
        assert_eq!(thief(&|spec| spec.mac[5] = 2), "f 10.211.0.5 node.b");
        assert_eq!(
            thief(&|spec| spec.underlay_v4 = Some(Ipv4Addr::new(192, 0, 2, 2))),
            "f 10.211.0.5 node.b"
        );
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
        let settings = Settings { role: Role::External, node_name: "h".into(), ..mk_settings() };
        let fabric: Object = fabric("f", 1, selector(&[("no", "node")])).into();
        let known = snapshot([fabric.clone(), host(&permission).into()]);
        let Membership::Member(member) = membership(&known, &settings) else { panic!() };
        assert_eq!((member.name().as_str(), member.permission), ("host.h", Some(&permission)));
        let paused = ExternalHostSpec { paused: true, ..permission.clone() };
        for objects in
            [vec![fabric.clone(), host(&paused).into()], vec![fabric], vec![host(&permission).into()]]
        {
            assert!(matches!(membership(&snapshot(objects), &settings), Membership::Outside(_)));
        }
    }
}
