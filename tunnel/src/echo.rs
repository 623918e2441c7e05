//! Whether a peer answers through the tunnel, how fast, and whether a packet of full size gets there: ICMP echo (RFC 792, RFC 4443).
//!
//! It blocks until the answer or the time is over; whoever may not wait runs it on a thread of its own. It needs CAP_NET_RAW.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, bind, connect, ipproto, recv, send, socket,
    sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, Timeout, set_ip_mtu_discover, set_ipv6_mtu_discover,
        set_socket_timeout,
    },
};
use thiserror::Error;

/// Bytes of the headers of an echo.
const ICMP: usize = 8;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Type of request and reply, by family.
const REQUEST: [u8; 2] = [8, 128];
const REPLY: [u8; 2] = [0, 129];
/// Longest packet that is sent.
const MOST: usize = 65_000;

/// Why there is no round trip.
#[derive(Debug, Error)]
pub enum EchoError {
    /// Nothing came back in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The packet does not fit into the device, or a router said so.
    #[error("a packet of {0} bytes does not fit")]
    TooLong(usize),
    /// The kernel refused.
    #[error("cannot {what}: {source}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn refused(what: &'static str) -> impl Fn(rustix::io::Errno) -> EchoError {
    move |errno| EchoError::Refused { what, source: errno.into() }
}

/// Sends one packet of `size` bytes, IP header included, which no host on the way may cut, and waits for its echo.
///
/// # Errors
/// See [`EchoError`].
pub fn echo(from: IpAddr, to: IpAddr, size: usize, patience: Duration) -> Result<Duration, EchoError> {
    let socket = open(from, to)?;
    let header = if to.is_ipv4() { IPV4 } else { IPV6 };
    let message = request(to, size.clamp(header + ICMP, MOST) - header);
    let start = Instant::now();
    match send(&socket, &message, SendFlags::empty()) {
        Err(rustix::io::Errno::MSGSIZE) => return Err(EchoError::TooLong(size)),
        sent => sent.map_err(refused("send an echo"))?,
    };
    let mut buffer = vec![0; MOST];
    loop {
        let left = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
        let left = left.ok_or(EchoError::Silent(patience))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(left)).map_err(refused("set a time limit"))?;
        match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, length)) if is_reply(to, &message, buffer.get(..length).unwrap_or_default()) => {
                return Ok(start.elapsed());
            }
            // Answers to others, and to earlier ones of ours.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(EchoError::Silent(patience)),
            Err(rustix::io::Errno::MSGSIZE) => return Err(EchoError::TooLong(size)),
            Err(errno) => return Err(refused("receive an echo")(errno)),
        }
    }
}

fn open(from: IpAddr, to: IpAddr) -> Result<OwnedFd, EchoError> {
    let what = refused("open a socket for echoes (it needs CAP_NET_RAW)");
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = socket(family, SocketType::RAW, Some(protocol)).map_err(what)?;
    // As the device allows, whatever was learnt of the path before.
    match to {
        IpAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE),
        IpAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE),
    }
    .map_err(refused("forbid fragments"))?;
    bind(&socket, &SocketAddr::new(from, 0)).map_err(refused("bind the tunnel address"))?;
    connect(&socket, &SocketAddr::new(to, 0)).map_err(refused("reach the peer"))?;
    Ok(socket)
}

/// An echo request of that length, with a number that no other one has.
fn request(to: IpAddr, length: usize) -> Vec<u8> {
    use std::hash::{BuildHasher as _, RandomState};
    let number = RandomState::new().hash_one(to).to_be_bytes();
    let mut message = vec![0; length];
    message[0] = REQUEST[usize::from(to.is_ipv6())];
    message[4..8].copy_from_slice(&number[..4]);
    if to.is_ipv4() {
        // Over IPv6 the kernel does it (RFC 3542 section 3.1).
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Whether a packet is the reply to a request. Over IPv4 its header comes with it.
fn is_reply(to: IpAddr, request: &[u8], packet: &[u8]) -> bool {
    let header = if to.is_ipv4() { usize::from(packet.first().map_or(0, |first| first & 15)) * 4 } else { 0 };
    let Some(message) = packet.get(header..) else { return false };
    message.len() == request.len()
        && message.first() == Some(&REPLY[usize::from(to.is_ipv6())])
        && message.get(4..8) == request.get(4..8)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_by_its_reply_only() {
        for (to, header) in [("10.0.0.1", vec![0x45]), ("fd00::1", Vec::new())] {
            let to: IpAddr = to.parse().unwrap();
            let sent = request(to, 64);
            let mut packet = header.clone();
            if !header.is_empty() {
                packet.resize(20, 0);
                assert_eq!(checksum(&sent), 0, "the sum of a message with its sum");
            }
            let at = packet.len();
            packet.extend(&sent);
            assert!(!is_reply(to, &sent, &packet), "the request itself");
            packet[at] = REPLY[usize::from(to.is_ipv6())];
            assert!(is_reply(to, &sent, &packet));
            assert!(!is_reply(to, &sent, &packet[..packet.len() - 1]));
            packet[at + 5] ^= 1;
            assert!(!is_reply(to, &sent, &packet), "of another request");
            assert!(!is_reply(to, &sent, &[]));
        }
    }
}
