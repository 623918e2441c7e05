//! The objects of the fabric: the rules of the API, all of them checked, each problem with its field.
//!
//! As of policies, the API server checks the same rules by the CRDs and the agent never trusts that; one with a name is an
//! object whatever is wrong with it.

use serde_json::Value;

use super::{
    field::{Field, Fields, Known, Problems},
    metadata::{self, Metadata},
    name, network,
    policy::selector,
};
use crate::{
    bounds::MAX_INTERFACES,
    names::{DEFAULT_VNI, DEFAULT_VXLAN_PORT, FOREIGN_VXLAN_PORTS},
    objects::{
        AcceptFrom, Acceptance, ExternalHost, FabricSpec, InvalidSpec, LabelSelector, MemberKind,
        TunnelAddressClaim, TunnelFabric, TunnelNode, Underlay, UnderlayFamily,
    },
};

mod claim;
mod external_host;
mod member;

const FABRIC: Known = Known {
    names: &["nodeSelector", "ipv4Pool", "ipv6Pool", "vxlan", "mtu", "underlay", "acceptFrom", "proxyPorts"],
    elsewhere: &[("vni", "it belongs to vxlan"), ("port", "it belongs to vxlan")],
};
const VXLAN: Known = Known { names: &["vni", "port"], elsewhere: &[] };
const UNDERLAY: Known = Known { names: &["cidrs", "interfaces", "ipFamily"], elsewhere: &[] };
const PROXY_PORTS: Known = Known { names: &["from", "to"], elsewhere: &[] };

/// Default of `proxyPorts`.
const PROXY_PORTS_DEFAULT: (u16, u16) = (20_000, 29_999);
/// Ports below are those of well-known services.
const PROXY_PORTS_LEAST: u16 = 1024;
/// Largest VNI: it has 24 bits.
const VNI_MAX: u32 = 0xff_ffff;
/// Smallest MTU of IPv4 that every host takes, of IPv6, and the largest of any device.
const MTU_LEAST: u32 = 576;
const MTU_LEAST_IPV6: u32 = 1280;
const MTU_MOST: u32 = 65_535;

/// Reads a TunnelFabric whose name is known. `tree` is the whole object, or why it is no tree.
pub(super) fn read(name: &str, tree: Result<Value, String>) -> TunnelFabric {
    let said = tree.as_ref().ok().and_then(|tree| condition(tree, "Accepted").cloned());
    let (Metadata { uid, generation, created }, spec) = object("TunnelFabric", name, tree, fabric);
    let acceptance = said.map_or(Acceptance::Pending, |said| acceptance(&said, generation));
    TunnelFabric { name: name.to_owned(), uid, created, generation, acceptance, spec }
}

/// As [`read`], for a TunnelNode.
pub(super) fn read_member(name: &str, tree: Result<Value, String>) -> TunnelNode {
    let lacks_claim = tree.as_ref().is_ok_and(lacks_claim);
    let (Metadata { uid, created, .. }, spec) =
        object("TunnelNode", name, tree, |spec| member::read(name, spec));
    TunnelNode { name: name.to_owned(), uid, created, lacks_claim, spec }
}

fn lacks_claim(tree: &Value) -> bool {
    condition(tree, "Claimed").is_some_and(|said| said["status"] == "False")
}

/// A condition of the object's status.
fn condition<'t>(tree: &'t Value, kind: &str) -> Option<&'t Value> {
    let conditions = tree.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

/// What is said of another generation is not said of this one.
fn acceptance(said: &Value, generation: i64) -> Acceptance {
    if said["observedGeneration"].as_i64() != Some(generation) {
        return Acceptance::Pending;
    }
    match said["status"].as_str() {
        Some("True") => Acceptance::Accepted,
        Some("False") => Acceptance::Refused(said["message"].as_str().unwrap_or_default().to_owned()),
        _ => Acceptance::Pending,
    }
}

/// As [`read`], for an ExternalHost.
pub(super) fn read_external_host(name: &str, tree: Result<Value, String>) -> ExternalHost {
    let (Metadata { uid, created, .. }, spec) = object("ExternalHost", name, tree, external_host::read);
    ExternalHost { name: name.to_owned(), uid, created, spec }
}

/// As [`read`], for a TunnelAddressClaim.
pub(super) fn read_claim(name: &str, tree: Result<Value, String>) -> TunnelAddressClaim {
    let (Metadata { uid, created, .. }, spec) =
        object("TunnelAddressClaim", name, tree, |spec| claim::read(name, spec));
    TunnelAddressClaim { name: name.to_owned(), uid, created, spec }
}

fn object<T>(
    kind: &str,
    name: &str,
    tree: Result<Value, String>,
    read: impl FnOnce(&Field<'_>) -> Option<T>,
) -> (Metadata, Result<T, InvalidSpec>) {
    let problems = Problems::default();
    let (metadata, spec) = match &tree {
        Ok(tree) => {
            let metadata =
                metadata::read(kind, name, tree.get("metadata").unwrap_or(&Value::Null), &problems);
            let value = tree.get("spec").unwrap_or(&Value::Null);
            let field = Field::root("spec", value, &problems);
            let spec = if value.is_null() {
                field.report("is required; add the fields of the object".to_owned())
            } else {
                read(&field)
            };
            (metadata, spec)
        }
        Err(message) => {
            problems.add("spec".to_owned(), format!("the object cannot be read: {message}"));
            (Metadata::default(), None)
        }
    };
    (metadata, problems.settle(spec))
}

fn fabric(field: &Field<'_>) -> Option<FabricSpec> {
    let fields = field.fields(&FABRIC)?;
    let node_selector = fields.or("nodeSelector", LabelSelector::default(), selector::read);
    let ipv4_pool = fields.optional("ipv4Pool", network::ipv4_pool);
    let ipv6_pool = fields.optional("ipv6Pool", network::ipv6_pool);
    let pools = some_pool(&fields);
    let vxlan = fields.or("vxlan", (DEFAULT_VNI, DEFAULT_VXLAN_PORT), vxlan);
    let mtu = mtu(&fields);
    let underlay = fields.or("underlay", Underlay::default(), underlay);
    let accept_from = fields.or("acceptFrom", AcceptFrom::default(), |field| {
        field.choice(&[("Members", AcceptFrom::Members), ("Anyone", AcceptFrom::Anyone)])
    });
    let proxy_ports = fields.or("proxyPorts", PROXY_PORTS_DEFAULT, proxy_ports);
    pools?;
    let (vni, port) = vxlan?;
    Some(FabricSpec {
        node_selector: node_selector?,
        ipv4_pool: ipv4_pool?,
        ipv6_pool: ipv6_pool?,
        vni,
        port,
        mtu: mtu?,
        underlay: underlay?,
        accept_from: accept_from?,
        proxy_ports: proxy_ports?,
    })
}

fn some_pool(fields: &Fields<'_>) -> Option<()> {
    if fields.get("ipv4Pool").is_some() || fields.get("ipv6Pool").is_some() {
        return Some(());
    }
    fields
        .field()
        .report("must have at least one of ipv4Pool and ipv6Pool, found neither; add one".to_owned())
}

fn vxlan(field: &Field<'_>) -> Option<(u32, u16)> {
    let fields = field.fields(&VXLAN)?;
    let vni = fields.or("vni", DEFAULT_VNI, |field| field.integer(1..=VNI_MAX));
    let port = fields.or("port", DEFAULT_VXLAN_PORT, tunnel_port);
    Some((vni?, port?))
}

/// A port of a tunnel.
fn tunnel_port(field: &Field<'_>) -> Option<u16> {
    let port = field.integer(1..=u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())?;
    if FOREIGN_VXLAN_PORTS.contains(&port) {
        return field.reject(
            "must not be 4789 or 8472, on which the tunnels of network plugins run",
            "take another port",
        );
    }
    Some(port)
}

/// 0 stands for what the underlay leaves.
fn mtu(fields: &Fields<'_>) -> Option<Option<u32>> {
    let mtu = fields.or("mtu", 0, |field| {
        let mtu = field.value().as_u64().and_then(|n| u32::try_from(n).ok());
        mtu.filter(|mtu| *mtu == 0 || (MTU_LEAST..=MTU_MOST).contains(mtu)).or_else(|| {
            field.reject(
                format_args!("must be 0 or an integer from {MTU_LEAST} to {MTU_MOST}"),
                "write 0 to take what the underlay leaves",
            )
        })
    })?;
    if fields.get("ipv6Pool").is_some() && (1..MTU_LEAST_IPV6).contains(&mtu) {
        return fields.field().report_at(
            "mtu",
            format!("must be at least {MTU_LEAST_IPV6} with an ipv6Pool, found {mtu}; raise it or write 0"),
        );
    }
    Some(Some(mtu).filter(|mtu| *mtu != 0))
}

fn underlay(field: &Field<'_>) -> Option<Underlay> {
    let fields = field.fields(&UNDERLAY)?;
    let cidrs = fields.or("cidrs", Vec::new(), |field| network::list(field, 0));
    let interfaces = fields.or("interfaces", Vec::new(), |field| {
        let items = field.items()?;
        field.at_most(MAX_INTERFACES, items.len(), "interfaces")?;
        let interfaces: Vec<_> =
            items.map(|item| item.text_like(name::is_interface, name::INTERFACE)).collect();
        interfaces.into_iter().collect()
    });
    let family = fields.or("ipFamily", UnderlayFamily::Auto, |field| {
        field.choice(&[
            ("Auto", UnderlayFamily::Auto),
            ("IPv4", UnderlayFamily::Ipv4),
            ("IPv6", UnderlayFamily::Ipv6),
        ])
    });
    Some(Underlay { cidrs: cidrs?, interfaces: interfaces?, family: family? })
}

fn proxy_ports(field: &Field<'_>) -> Option<(u16, u16)> {
    let fields = field.fields(&PROXY_PORTS)?;
    let (least, most) = PROXY_PORTS_DEFAULT;
    let port = |field: &Field<'_>| {
        let range = u32::from(PROXY_PORTS_LEAST)..=u32::from(u16::MAX);
        field.integer(range).and_then(|port| u16::try_from(port).ok())
    };
    let (from, to) = (fields.or("from", least, port), fields.or("to", most, port));
    let (from, to) = (from?, to?);
    if from > to {
        return fields.field().report(format!(
            "must not end before it begins, found from {from} to {to}; exchange or correct them"
        ));
    }
    Some((from, to))
}

/// What members and owners have in common.
const KINDS: &[(&str, MemberKind)] =
    &[("Node", MemberKind::Node), ("ExternalHost", MemberKind::ExternalHost)];

/// A name of an object.
fn object_name(field: &Field<'_>) -> Option<String> {
    field.text_like(name::is_dns_subdomain, name::DNS_SUBDOMAIN)
}

/// `uid` of an object.
fn uid(field: &Field<'_>) -> Option<String> {
    field.text_like(
        |text| (1..=128).contains(&text.len()),
        "must be the uid of the object, 1 to 128 characters",
    )
}
