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
use crate::nfnetlink::{self, Changes, attribute, nest, value_of};

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
/// Flows that are ended in one call: whoever calls has other work.
const MOST: usize = 16_384;

/// What became of stale flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) flows: usize,
    /// There may be more.
    pub(super) is_part: bool,
}

/// Ends flows to these frontends that lead to none of their pods. The next packet of each is looked up anew.
pub(super) fn end_stale(frontends: &Frontends, changed: &BTreeSet<Frontend>) -> io::Result<Ended> {
    let of_udp = changed.iter().filter(|frontend| frontend.is_udp);
    let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        of_udp.map(|frontend| frontend.at.ip()).partition(IpAddr::is_ipv4);
    let mut ended = Ended::default();
    for (addresses, family) in [(v4, libc::AF_INET), (v6, libc::AF_INET6)] {
        if addresses.is_empty() {
            continue;
        }
        // Both fit into a byte.
        let (family, most) = (family as u8, MOST - ended.flows);
        let stale = |flow: &[u8]| is_stale(flow, frontends, changed).then(|| deletion_of(flow));
        let found = flows(&addresses, family, most, stale)?;
        ended.is_part |= found.len() == most;
        ended.flows += end(&found, family)?;
    }
    Ok(ended)
}

/// What is made of the UDP flows to a single IPv4 address; where there are more, or others, of all of the family.
fn flows<T>(
    addresses: &BTreeSet<IpAddr>,
    family: u8,
    most: usize,
    make: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    let protocol = nest(TUPLE_PROTOCOL, &[attribute(NUMBER, &[UDP])]);
    // By an IPv6 address kernels select the flows that do not have it: the comparison is the wrong way round there.
    let (parts, flags) = match (addresses.first(), addresses.len()) {
        (Some(IpAddr::V4(ip)), 1) => {
            let ip = nest(TUPLE_IP, &[attribute(DESTINATION, &ip.octets())]);
            (vec![ip, protocol], BY_DESTINATION | BY_PROTOCOL)
        }
        _ => (vec![protocol], BY_PROTOCOL),
    };
    let (tuple, flags) = (nest(ORIGINAL, &parts), flags.to_ne_bytes());
    let filter = [attribute(FILTER_ORIGINAL, &flags), attribute(FILTER_REPLY, &[0; 4])];
    match nfnetlink::pick(GET, family, &[tuple, nest(FILTER, &filter)].concat(), most, make) {
        // A kernel without connection tracking tracks nothing.
        Err(error) if nfnetlink::is_unsupported(&error) => Ok(Vec::new()),
        flows => flows,
    }
}

/// Whether a flow was sent to one of these frontends and is answered by none of its pods. What is sent to a port that is declared no
/// more, and goes where it was sent, is right.
fn is_stale(flow: &[u8], frontends: &Frontends, changed: &BTreeSet<Frontend>) -> bool {
    let end = |tuple, end| value_of(flow, tuple).and_then(|tuple| end_of(tuple, end));
    let (Some(at), Some(from)) = (end(ORIGINAL, DESTINATION), end(REPLY, SOURCE)) else { return false };
    let frontend = Frontend { at, is_udp: true };
    let is_right = || frontends.get(&frontend).map_or(from == at, |pods| pods.pods.contains(&from));
    changed.contains(&frontend) && !is_right()
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

/// The attributes by which a flow is deleted.
fn deletion_of(flow: &[u8]) -> Vec<u8> {
    let same = |kind: u16| value_of(flow, kind).map(|value| attribute(kind, value)).unwrap_or_default();
    let original = nest(ORIGINAL, &[value_of(flow, ORIGINAL).unwrap_or_default().to_vec()]);
    [original, same(ZONE), same(ID)].concat()
}

/// Deletes flows; how many of them were still there.
fn end(deletions: &[Vec<u8>], family: u8) -> io::Result<usize> {
    let (mut changes, mut count) = (Changes::new()?, 0);
    for deletion in deletions {
        match changes.make(DELETE, family, deletion) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map(|()| count += 1)?,
        }
    }
    Ok(count)
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

    #[test]
    fn a_flow_is_stale_when_none_of_the_pods_answers_it() {
        let end = |ip: (u16, [u8; 4]), port: (u16, u16)| {
            let protocol = [attribute(NUMBER, &[UDP]), attribute(port.0, &port.1.to_be_bytes())];
            [nest(TUPLE_IP, &[attribute(ip.0, &ip.1)]), nest(TUPLE_PROTOCOL, &protocol)]
        };
        let flow = |port: u16, pod: u8| {
            let original = end((DESTINATION, [192, 0, 2, 1]), (DESTINATION_PORT, port));
            let reply = end((SOURCE, [10, 0, 0, pod]), (SOURCE_PORT, 80));
            [nest(ORIGINAL, &original), nest(REPLY, &reply), attribute(ID, &[pod; 4])].concat()
        };
        let frontend = Frontend { at: "192.0.2.1:53".parse().unwrap(), is_udp: true };
        let pods = super::super::Pods { pods: vec!["10.0.0.2:80".parse().unwrap()], sticky: false };
        let (frontends, changed) = (Frontends::from([(frontend, pods)]), BTreeSet::from([frontend]));
        let stale = |flow: &[u8]| is_stale(flow, &frontends, &changed);
        assert_eq!([stale(&flow(53, 2)), stale(&flow(53, 3)), stale(&flow(54, 3))], [false, true, false]);
        assert!(!stale(&[]));
        let plain = |frontends: &Frontends| {
            let original = end((DESTINATION, [192, 0, 2, 1]), (DESTINATION_PORT, 53));
            let reply = end((SOURCE, [192, 0, 2, 1]), (SOURCE_PORT, 53));
            is_stale(&[nest(ORIGINAL, &original), nest(REPLY, &reply)].concat(), frontends, &changed)
        };
        assert!(plain(&frontends), "it began before there were pods");
        assert!(!plain(&Frontends::new()), "the port is declared no more");
        assert!(is_stale(&flow(53, 2), &Frontends::new(), &changed));
        let deletion = deletion_of(&flow(53, 3));
        assert_eq!(value_of(&deletion, ID), Some(&[3; 4][..]));
        assert_eq!(value_of(&deletion, ORIGINAL), value_of(&flow(53, 3), ORIGINAL));
        assert_eq!((value_of(&deletion, REPLY), value_of(&deletion, ZONE)), (None, None));
    }
}
