//! `spec` of a TunnelNode.

use std::net::IpAddr;

use super::{KINDS, MTU_LEAST, MTU_MOST, object_name, tunnel_port, uid};
use crate::{
    bounds::MAX_TUNNEL_ADDRESSES,
    manifest::{
        field::{Field, Known},
        network,
    },
    objects::MemberSpec,
};

const MEMBER: Known = Known {
    names: &["fabric", "kind", "name", "uid", "underlay", "port", "mac", "addresses", "mtu"],
    elsewhere: &[("ipv4", "it belongs to underlay"), ("ipv6", "it belongs to underlay")],
};
const UNDERLAY: Known = Known { names: &["ipv4", "ipv6"], elsewhere: &[] };

/// Reads the spec of the TunnelNode of this name.
pub(super) fn read(name: &str, field: &Field<'_>) -> Option<MemberSpec> {
    let fields = field.fields(&MEMBER)?;
    let fabric = fields.required("fabric", "add the name of the TunnelFabric", object_name);
    let kind = fields.required("kind", "add Node or ExternalHost", |field| field.choice(KINDS));
    let of = fields.required("name", "add the name of the Node or ExternalHost", |field| {
        let of = object_name(field)?;
        let wanted = kind?.object_name(&of);
        if name == wanted {
            return Some(of);
        }
        field.reject(
            format_args!("must be what metadata.name says, {name:?}"),
            format_args!("name it {wanted}"),
        )
    });
    let uid = fields.required("uid", "add the uid of the Node or ExternalHost", uid);
    let underlay = fields.required("underlay", "add ipv4, ipv6 or both", underlay);
    let port = fields.required("port", "add the port of the fabric", tunnel_port);
    let mac = fields.required("mac", "add the MAC address of the tunnel device", network::mac);
    let addresses = fields.required("addresses", "add the addresses in the tunnel", addresses);
    let mtu = fields
        .required("mtu", "add the MTU of the tunnel device", |field| field.integer(MTU_LEAST..=MTU_MOST));
    let (underlay_v4, underlay_v6) = underlay?;
    Some(MemberSpec {
        fabric: fabric?,
        kind: kind?,
        name: of?,
        uid: uid?,
        underlay_v4,
        underlay_v6,
        port: port?,
        mac: mac?,
        addresses: addresses?,
        mtu: mtu?,
    })
}

type Families = (Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>);

fn underlay(field: &Field<'_>) -> Option<Families> {
    let fields = field.fields(&UNDERLAY)?;
    let ipv4 = fields.optional("ipv4", |field| match network::unicast(field)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => field.reject("must be an IPv4 address", "write it as ipv6"),
    });
    let ipv6 = fields.optional("ipv6", |field| match network::unicast(field)? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => field.reject("must be an IPv6 address", "write it as ipv4"),
    });
    let (ipv4, ipv6) = (ipv4?, ipv6?);
    if ipv4.is_none() && ipv6.is_none() {
        return field.report("must have at least one of ipv4 and ipv6, found neither; add one".to_owned());
    }
    Some((ipv4, ipv6))
}

fn addresses(field: &Field<'_>) -> Option<Vec<IpAddr>> {
    let items = field.items()?;
    if items.len() == 0 {
        return field.report("must have at least one address, found none; add one".to_owned());
    }
    field.at_most(MAX_TUNNEL_ADDRESSES, items.len(), "addresses")?;
    let addresses: Option<Vec<IpAddr>> =
        items.map(|item| network::unicast(&item)).collect::<Vec<_>>().into_iter().collect();
    let addresses = addresses?;
    for (index, item) in field.items()?.enumerate() {
        let (before, address) = (addresses.get(..index)?, addresses.get(index)?);
        if before.contains(address) {
            return item
                .report(format!("must differ from the other addresses, found {address} twice; remove one"));
        }
    }
    Some(addresses)
}
