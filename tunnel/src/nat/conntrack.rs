//! UDP flows that the kernel's connection tracking still leads to pods that are gone.
//!
//! A flow that is known is never looked up again, so a client that goes on sending would talk to a dead pod for ever. The kernel is
//! asked by netlink: the program `conntrack` is on few hosts, and would be one more to install.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::libc;

use super::{Frontend, Frontends};
use crate::nfnetlink::{self, Attributes, attribute, nest, value_of};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
/// `CTA_*`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`.
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_DST` and `CTA_FILTER_F_CTA_PROTO_NUM`.
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
/// `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_V4_SRC` and the like: those of IPv6 are two behind.
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;
const OF_IPV6: u16 = 2;
/// `CTA_PROTO_*`.
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// Ends the flows to these frontends that lead to none of their pods; how many there were. The next packet of each is looked up anew.
pub(super) fn end_stale(frontends: &Frontends, changed: &BTreeSet<Frontend>) -> io::Result<usize> {
    let of_udp = changed.iter().filter(|frontend| frontend.is_udp);
    let addresses: BTreeSet<IpAddr> = of_udp.map(|frontend| frontend.at.ip()).collect();
    let mut ended = 0;
    for address in addresses {
        for flow in flows(address)? {
            let Some((to, from)) = ends(&flow) else { continue };
            let frontend = Frontend { at: to, is_udp: true };
            let is_right = frontends.get(&frontend).is_some_and(|pods| pods.pods.contains(&from));
            if changed.contains(&frontend) && !is_right {
                ended += usize::from(end(&flow, family(address))?);
            }
        }
    }
    Ok(ended)
}

/// The UDP flows to an address; of IPv6, to all.
fn flows(address: IpAddr) -> io::Result<Vec<Attributes>> {
    let protocol = nest(TUPLE_PROTOCOL, &[attribute(NUMBER, &[UDP])]);
    // By an IPv6 address kernels select the flows that do not have it: the comparison is the wrong way round there.
    let (parts, flags) = match address {
        IpAddr::V4(ip) => {
            let ip = nest(TUPLE_IP, &[attribute(DESTINATION, &ip.octets())]);
            (vec![ip, protocol], BY_DESTINATION | BY_PROTOCOL)
        }
        IpAddr::V6(_) => (vec![protocol], BY_PROTOCOL),
    };
    let (tuple, flags) = (nest(ORIGINAL, &parts), flags.to_ne_bytes());
    let filter = [attribute(FILTER_ORIGINAL, &flags), attribute(FILTER_REPLY, &[0; 4])];
    match nfnetlink::dump(GET, family(address), &[tuple, nest(FILTER, &filter)].concat()) {
        // A kernel without connection tracking tracks nothing.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        flows => flows,
    }
}

/// Where a flow was sent, and who answers it.
fn ends(flow: &Attributes) -> Option<(SocketAddr, SocketAddr)> {
    Some((end_of(flow.get(&ORIGINAL)?, DESTINATION)?, end_of(flow.get(&REPLY)?, SOURCE)?))
}

/// One end of a tuple.
fn end_of(tuple: &[u8], end: u16) -> Option<SocketAddr> {
    let (ip, protocol) = (value_of(tuple, TUPLE_IP)?, value_of(tuple, TUPLE_PROTOCOL)?);
    if value_of(protocol, NUMBER)? != [UDP] {
        return None;
    }
    let port = if end == SOURCE { SOURCE_PORT } else { DESTINATION_PORT };
    let port = u16::from_be_bytes(value_of(protocol, port)?.try_into().ok()?);
    let ip: IpAddr = match value_of(ip, end) {
        Some(bytes) => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        None => Ipv6Addr::from(<[u8; 16]>::try_from(value_of(ip, end + OF_IPV6)?).ok()?).into(),
    };
    Some(SocketAddr::new(ip, port))
}

/// Ends one flow; whether it was still there.
fn end(flow: &Attributes, family: u8) -> io::Result<bool> {
    let same = |kind: u16| flow.get(&kind).map(|value| attribute(kind, value)).unwrap_or_default();
    let original = nest(ORIGINAL, &[flow.get(&ORIGINAL).cloned().unwrap_or_default()]);
    match nfnetlink::change(DELETE, family, &[original, same(ZONE), same(ID)].concat()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

fn family(address: IpAddr) -> u8 {
    // Both fit into a byte.
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_flow_are_read_and_nothing_else_is() {
        let ports = [
            attribute(NUMBER, &[UDP]),
            attribute(SOURCE_PORT, &5000u16.to_be_bytes()),
            attribute(DESTINATION_PORT, &53u16.to_be_bytes()),
        ];
        let tuple = |ips: &[Vec<u8>]| [nest(TUPLE_IP, ips), nest(TUPLE_PROTOCOL, &ports)].concat();
        let ipv4 = tuple(&[attribute(SOURCE, &[192, 0, 2, 1]), attribute(DESTINATION, &[192, 0, 2, 2])]);
        assert_eq!(end_of(&ipv4, DESTINATION), Some("192.0.2.2:53".parse().unwrap()));
        assert_eq!(end_of(&ipv4, SOURCE), Some("192.0.2.1:5000".parse().unwrap()));
        let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let ipv6 = tuple(&[attribute(DESTINATION + OF_IPV6, &address.octets())]);
        assert_eq!(end_of(&ipv6, DESTINATION), Some("[2001:db8::1]:53".parse().unwrap()));
        for length in 0..ipv4.len() - 2 {
            assert_eq!(end_of(&ipv4[..length], DESTINATION), None, "{length}");
        }
    }
}
