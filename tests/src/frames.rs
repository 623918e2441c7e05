//! Ethernet frames made by hand, and read again: what a test sends where no socket would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::tunnel::checksum;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const ETHERNET: usize = 14;

/// Flags of TCP.
pub mod tcp {
    /// The sender has no more to say.
    pub const FIN: u8 = 1;
    /// A beginning.
    pub const SYN: u8 = 2;
    /// An end.
    pub const RST: u8 = 4;
    /// Of a connection that there is.
    pub const ACK: u8 = 16;
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The sender.
    pub source: SocketAddr,
    /// The receiver, of the same family.
    pub destination: SocketAddr,
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// Nobody listens at the port.
    PortUnreachable,
    /// The packet is longer than that.
    TooBig(u16),
}

impl Flow {
    /// Parses both ends.
    #[must_use]
    pub fn new(source: &str, destination: &str) -> Self {
        Self { source: crate::address(source), destination: crate::address(destination) }
    }

    /// The way back.
    #[must_use]
    pub fn back(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    /// The same to another receiver.
    #[must_use]
    pub fn to(self, destination: SocketAddr) -> Self {
        Self { destination, ..self }
    }

    /// The same from another port.
    #[must_use]
    pub fn from_port(mut self, port: u16) -> Self {
        self.source.set_port(port);
        self
    }

    /// A segment of TCP.
    #[must_use]
    pub fn tcp(self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let header = [&self.ports()[..], &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]].concat();
        self.frame(TCP, self.summed(TCP, 16, [&header, payload].concat()))
    }

    /// A datagram of UDP.
    #[must_use]
    pub fn udp(self, payload: &[u8]) -> Vec<u8> {
        let length = (8 + payload.len() as u16).to_be_bytes();
        let datagram = [&self.ports()[..], &length, &[0, 0], payload].concat();
        self.frame(UDP, self.summed(UDP, 6, datagram))
    }

    /// An echo request.
    #[must_use]
    pub fn echo(self) -> Vec<u8> {
        let kind = if self.source.is_ipv4() { 8 } else { 128 };
        self.icmp(&[kind, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4])
    }

    /// An ICMP message; its checksum is made.
    #[must_use]
    pub fn icmp(self, message: &[u8]) -> Vec<u8> {
        let protocol = if self.source.is_ipv4() { ICMP } else { ICMPV6 };
        self.frame(protocol, self.summed(protocol, 2, message.to_vec()))
    }

    /// An ICMP error about a frame.
    #[must_use]
    pub fn complains(self, complaint: Complaint, about: &[u8]) -> Vec<u8> {
        let head = match (complaint, self.source.is_ipv4()) {
            (Complaint::PortUnreachable, true) => [3, 3, 0, 0, 0, 0, 0, 0],
            (Complaint::PortUnreachable, false) => [1, 4, 0, 0, 0, 0, 0, 0],
            (Complaint::TooBig(mtu), true) => [3, 4, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8],
            (Complaint::TooBig(mtu), false) => [2, 0, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8],
        };
        self.icmp(&[&head, &about[ETHERNET..]].concat())
    }

    /// A frame of any protocol.
    #[must_use]
    pub fn frame(self, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
                header.extend(source.octets().into_iter().chain(destination.octets()));
                let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &header, &payload].concat();
                finish(&mut frame);
                frame
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                header.extend(source.octets().into_iter().chain(destination.octets()));
                let mut frame =
                    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd][..], &header, &payload].concat();
                finish(&mut frame);
                frame
            }
            _ => panic!("{self:?} has ends of two families"),
        }
    }

    fn ports(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.source.port().to_be_bytes(), self.destination.port().to_be_bytes());
        [a, b, c, d]
    }

    /// Puts the checksum where it belongs.
    fn summed(self, protocol: u8, at: usize, mut transport: Vec<u8>) -> Vec<u8> {
        let sum = checksum(&with_pseudo_header(self, protocol, &transport));
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        transport
    }
}

fn with_pseudo_header(flow: Flow, protocol: u8, transport: &[u8]) -> Vec<u8> {
    if protocol == ICMP {
        return transport.to_vec();
    }
    let mut bytes = Vec::new();
    for address in [flow.source.ip(), flow.destination.ip()] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((transport.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(transport);
    bytes
}

/// Brings the lengths and the header's checksum of a frame in line with what it holds.
pub fn finish(frame: &mut [u8]) {
    let length = frame.len() - ETHERNET;
    if frame[12] == 8 {
        frame[16..18].copy_from_slice(&(length as u16).to_be_bytes());
        frame[24..26].fill(0);
        let end = ETHERNET + usize::from(frame[14] & 15) * 4;
        let sum = checksum(&frame[ETHERNET..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[18..20].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    }
}

/// Cuts a frame without options into pieces of up to `size` bytes of payload, a multiple of 8.
#[must_use]
pub fn pieces(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    assert!(size.is_multiple_of(8));
    let v4 = frame[12] == 8;
    let (head, payload) = frame.split_at(ETHERNET + if v4 { 20 } else { 40 });
    let count = payload.len().div_ceil(size);
    let cut = |(number, part): (usize, &[u8])| {
        let (offset, more) = ((number * size) as u16, number + 1 < count);
        let mut piece = head.to_vec();
        if v4 {
            let word = (offset / 8) | if more { 0x2000 } else { 0 };
            piece[20..22].copy_from_slice(&word.to_be_bytes());
        } else {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            piece.extend([piece[20], 0, high, low, 0, 0, 0x12, 0x34]);
            piece[20] = FRAGMENT;
        }
        piece.extend(part);
        finish(&mut piece);
        piece
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// The ends of a frame of TCP or UDP without options; ports are zero for everything else.
#[must_use]
pub fn ends(frame: &[u8]) -> Option<Flow> {
    let (source, destination, protocol, at): (IpAddr, IpAddr, u8, usize) = match frame.get(12..14)? {
        [8, 0] => {
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
            (address(26)?.into(), address(30)?.into(), frame[23], 34)
        }
        [0x86, 0xdd] => {
            let address =
                |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
            (address(22)?.into(), address(38)?.into(), frame[20], 54)
        }
        _ => return None,
    };
    let port = |at: usize| match (protocol, frame.get(at..at + 2)) {
        (TCP | UDP, Some(&[a, b])) => u16::from_be_bytes([a, b]),
        _ => 0,
    };
    Some(Flow {
        source: SocketAddr::new(source, port(at)),
        destination: SocketAddr::new(destination, port(at + 2)),
    })
}

/// Whether all checksums of a whole frame without options are right.
#[must_use]
pub fn is_sound(frame: &[u8]) -> bool {
    let Some(flow) = ends(frame) else { return false };
    let v4 = flow.source.is_ipv4();
    let (at, protocol) = if v4 { (34, frame[23]) } else { (54, frame[20]) };
    if v4 && checksum(&frame[ETHERNET..at]) != 0 {
        return false;
    }
    let transport = &frame[at..];
    let unsummed = v4 && protocol == UDP && transport[6..8] == [0, 0];
    unsummed || checksum(&with_pseudo_header(flow, protocol, transport)) == 0
}

/// The packet inside of an ICMP error without options, as a frame.
#[must_use]
pub fn inside(frame: &[u8]) -> Vec<u8> {
    let at = if frame[12] == 8 { 42 } else { 62 };
    [&frame[..ETHERNET], &frame[at..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows() -> [Flow; 2] {
        [Flow::new("10.0.0.1:1", "10.0.0.2:2"), Flow::new("[fd00::1]:1", "[fd00::2]:2")]
    }

    #[test]
    fn frames_are_sound_and_say_who_sends() {
        for flow in flows() {
            for frame in [flow.tcp(tcp::SYN, b"odd"), flow.udp(b"data")] {
                assert_eq!(ends(&frame), Some(flow));
                assert!(is_sound(&frame));
                let broken = |at: usize| {
                    let mut frame = frame.clone();
                    frame[at] ^= 1;
                    frame
                };
                assert!(!is_sound(&broken(frame.len() - 1)) && !is_sound(&broken(30)));
            }
            let error = flow.back().complains(Complaint::PortUnreachable, &flow.udp(b""));
            assert!(is_sound(&error) && is_sound(&flow.echo()));
            assert_eq!(ends(&inside(&error)), Some(flow));
        }
    }

    #[test]
    fn pieces_hold_everything() {
        for flow in flows() {
            let frame = flow.udp(&[7; 100]);
            let all = pieces(&frame, 48);
            assert_eq!(all.len(), 3);
            let head = if flow.source.is_ipv4() { 34 } else { 62 };
            assert_eq!(all.iter().map(|piece| piece.len() - head).sum::<usize>(), 108);
        }
    }
}
