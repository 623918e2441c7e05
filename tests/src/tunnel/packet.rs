//! VXLAN packets made by hand, as somebody who forges them would.

use std::net::{IpAddr, SocketAddr};

use balancing_tunnel::Mac;

const UDP: u8 = 17;

/// A UDP datagram in Ethernet in VXLAN; what stands in front of that the sender's socket makes.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Inner Ethernet destination.
    pub to: Mac,
    /// Inner source.
    pub source: IpAddr,
    /// Inner destination, of the source's family.
    pub destination: SocketAddr,
    /// Another Ethernet type than the inner packet's.
    pub ethertype: Option<u16>,
}

impl Packet {
    /// The payload of the outer datagram.
    #[must_use]
    pub fn bytes(&self, payload: &[u8]) -> Vec<u8> {
        let ethertype = if self.source.is_ipv4() { 0x0800u16 } else { 0x86dd };
        let [_, a, b, c] = self.vni.to_be_bytes();
        [
            &[8, 0, 0, 0, a, b, c, 0][..],
            &self.to.0,
            &[2, 0, 0, 0, 0, 0x77],
            &self.ethertype.unwrap_or(ethertype).to_be_bytes(),
            &self.inner(payload),
        ]
        .concat()
    }

    fn inner(&self, payload: &[u8]) -> Vec<u8> {
        let udp = self.udp(payload);
        match (self.source, self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = [
                    &[0x45, 0][..],
                    &length(20 + udp.len()),
                    &[0, 0, 0, 0, 64, UDP, 0, 0],
                    &source.octets(),
                    &destination.octets(),
                ]
                .concat();
                let sum = checksum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&sum);
                [header, udp].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => [
                &[0x60, 0, 0, 0][..],
                &length(udp.len()),
                &[UDP, 64],
                &source.octets(),
                &destination.octets(),
                &udp,
            ]
            .concat(),
            _ => panic!("source and destination are of different families"),
        }
    }

    fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let whole = length(8 + payload.len());
        let mut udp =
            [&5000u16.to_be_bytes()[..], &self.destination.port().to_be_bytes(), &whole, &[0, 0], payload]
                .concat();
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let (source, destination) = (octets(self.source), octets(self.destination.ip()));
        let pseudo = [&source[..], &destination, &whole, &[0, UDP], &udp].concat();
        udp[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        udp
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// The checksum of IP and its transports; of what holds its own, 0.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
