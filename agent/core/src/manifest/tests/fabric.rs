//! What is read from the objects of the fabric; their rules are in `tests/fixtures/rules/fabric.yaml`.

use super::yaml;
use crate::objects::{
    AcceptFrom, ClaimSpec, ExternalHostSpec, FabricSpec, LabelSelector, MemberKind, MemberSpec, Object,
    Owner, Underlay, UnderlayFamily,
};

fn objects(text: &str) -> Vec<Object> {
    let manifest = yaml(text);
    assert!(manifest.problems.is_empty() && manifest.ignored.is_empty(), "{manifest:?}");
    manifest.objects
}

#[test]
fn a_fabric_with_every_field_and_one_with_the_least() {
    let list = objects(
        r#"
apiVersion: balancing.elf.io/v1beta1
kind: TunnelFabric
metadata: {name: full, uid: u1, generation: 3, creationTimestamp: "2026-01-02T03:04:05Z"}
spec:
  nodeSelector: {matchLabels: {fabric: "yes"}}
  ipv4Pool: 10.211.0.0/16
  ipv6Pool: fd00:10:211::/64
  vxlan: {vni: 5, port: 6}
  mtu: 1400
  underlay: {cidrs: [192.0.2.0/24], interfaces: [eth0, "bond*"], ipFamily: IPv4}
  acceptFrom: Anyone
  proxyPorts: {from: 5000, to: 5999}
status: {members: 7}
---
apiVersion: balancing.elf.io/v1beta1
kind: TunnelFabric
metadata: {name: least}
spec: {ipv4Pool: 10.212.0.0/16}
"#,
    );
    let [Object::Fabric(full), Object::Fabric(least)] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((full.uid.as_str(), full.generation, full.created), ("u1", 3, Some(1_767_323_045)));
    let (full, least) = (full.spec.clone().unwrap(), least.spec.clone().unwrap());
    assert_eq!(full.node_selector.labels.len(), 1);
    assert_eq!(
        full.pools().map(|pool| pool.to_string()).collect::<Vec<_>>(),
        ["10.211.0.0/16", "fd00:10:211::/64"]
    );
    assert_eq!((full.vni, full.port, full.mtu, full.proxy_ports), (5, 6, Some(1400), (5000, 5999)));
    assert_eq!((full.accept_from, full.underlay.family), (AcceptFrom::Anyone, UnderlayFamily::Ipv4));
    let interfaces = ["eth0", "eth01", "bond", "bond7", "b"].map(|name| full.underlay.takes_interface(name));
    assert_eq!(interfaces, [true, false, true, true, false]);
    let defaults = FabricSpec {
        node_selector: LabelSelector::default(),
        ipv4_pool: Some("10.212.0.0/16".parse().unwrap()),
        ipv6_pool: None,
        vni: 7710,
        port: 7710,
        mtu: None,
        underlay: Underlay::default(),
        accept_from: AcceptFrom::Members,
        proxy_ports: (20_000, 29_999),
    };
    assert_eq!(least, defaults);
    assert!(least.underlay.takes_interface("any"));
}

#[test]
fn members_hosts_and_claims() {
    let list = objects(
        r#"
apiVersion: balancing.elf.io/v1beta1
kind: List
items:
- kind: TunnelNode
  apiVersion: balancing.elf.io/v1beta1
  metadata: {name: host.db-1, uid: u2}
  spec:
    {fabric: f, kind: ExternalHost, name: db-1, uid: u1, underlay: {ipv4: 192.0.2.1, ipv6: "2001:db8::1"}, port: 7710,
     mac: "66:00:00:00:00:0f", addresses: [10.211.0.9, "fd00::9"], mtu: 1450}
  status: {conditions: [{type: Conflicted, status: "False"}, {type: Claimed, status: "False"}]}
- kind: ExternalHost
  apiVersion: balancing.elf.io/v1beta1
  metadata: {name: db-1, uid: u1}
  spec: {fabric: f, serviceAccountName: db-1, underlayCIDRs: [192.0.2.0/24, "2001:db8::/32"], paused: true}
- kind: TunnelAddressClaim
  apiVersion: balancing.elf.io/v1beta1
  metadata: {name: 10-211-0-9, uid: u3}
  spec: {fabric: f, address: 10.211.0.9, owner: {kind: ExternalHost, name: db-1, uid: u1}}
"#,
    );
    let [Object::Member(member), Object::ExternalHost(host), Object::Claim(claim)] = list.as_slice() else {
        panic!("{list:?}")
    };
    assert!(member.lacks_claim);
    let owner = Owner { kind: MemberKind::ExternalHost, name: "db-1".to_owned(), uid: "u1".to_owned() };
    let member = member.spec.clone().unwrap();
    assert_eq!(member.owner(), owner);
    let address = |text: &str| text.parse().unwrap();
    assert_eq!(member.underlay().collect::<Vec<_>>(), ["192.0.2.1", "2001:db8::1"].map(address));
    let expected = MemberSpec {
        fabric: "f".to_owned(),
        kind: MemberKind::ExternalHost,
        name: "db-1".to_owned(),
        uid: "u1".to_owned(),
        underlay_v4: Some("192.0.2.1".parse().unwrap()),
        underlay_v6: Some("2001:db8::1".parse().unwrap()),
        port: 7710,
        mac: [0x66, 0, 0, 0, 0, 0x0f],
        addresses: ["10.211.0.9", "fd00::9"].map(address).into(),
        mtu: 1450,
    };
    assert_eq!(member, expected);
    let networks = ["192.0.2.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap());
    let expected = ExternalHostSpec {
        fabric: "f".to_owned(),
        user: None,
        service_account: Some("db-1".to_owned()),
        underlay_cidrs: networks.into(),
        paused: true,
    };
    assert_eq!(host.spec.as_ref().unwrap(), &expected);
    let expected = ClaimSpec { fabric: "f".to_owned(), address: address("10.211.0.9"), owner };
    assert_eq!(claim.spec.as_ref().unwrap(), &expected);
}
