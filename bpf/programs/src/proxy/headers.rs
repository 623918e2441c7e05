//! Headers as they lie in packets, and their numbers.

/// Bytes of the Ethernet header.
pub(crate) const ETHERNET: u32 = 14;
/// `ETH_P_IP` as it lies in the header.
pub(crate) const TYPE_IPV4: u16 = 0x0800_u16.to_be();
/// `ETH_P_IPV6` as it lies in the header.
pub(crate) const TYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// `IPPROTO_ICMP`
pub(crate) const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
pub(crate) const ICMPV6: u8 = 58;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

#[repr(C)]
pub(crate) struct Ipv4 {
    /// Version, and the header's length in words.
    pub(crate) version: u8,
    pub(crate) service: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    /// Flags and offset.
    pub(crate) fragment: u16,
    pub(crate) hops: u8,
    pub(crate) protocol: u8,
    pub(crate) check: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

impl Ipv4 {
    pub(crate) const SIZE: u32 = 20;
    pub(crate) const CHECK: u32 = 10;
    pub(crate) const SOURCE: u32 = 12;
    pub(crate) const DESTINATION: u32 = 16;
    pub(crate) const MORE: u16 = 0x2000;
    pub(crate) const OFFSET: u16 = 0x1fff;
}

#[repr(C)]
pub(crate) struct Ipv6 {
    /// The version in the first four bits.
    pub(crate) version: u8,
    pub(crate) flow: [u8; 3],
    pub(crate) length: u16,
    pub(crate) next: u8,
    pub(crate) hops: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

impl Ipv6 {
    pub(crate) const SIZE: u32 = 40;
    pub(crate) const SOURCE: u32 = 8;
    pub(crate) const DESTINATION: u32 = 24;
}

/// An extension header's first bytes.
#[repr(C)]
pub(crate) struct Extension {
    pub(crate) next: u8,
    /// Length beyond the first 8 bytes, in units of 8; zero in a fragment header.
    pub(crate) length: u8,
    /// Fragment header: offset and flag.
    pub(crate) fragment: u16,
    /// Fragment header: identification.
    pub(crate) id: u32,
}

impl Extension {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const DESTINATION: u8 = 60;
    pub(crate) const MORE: u16 = 1;
    pub(crate) const OFFSET: u16 = 0xfff8;
}

#[repr(C)]
pub(crate) struct Tcp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    /// The header's length in words, in the upper half.
    pub(crate) length: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) check: u16,
    pub(crate) urgent: u16,
}

impl Tcp {
    pub(crate) const SIZE: u32 = 20;
    pub(crate) const CHECK: u32 = 16;
}

#[repr(C)]
pub(crate) struct Udp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) length: u16,
    pub(crate) check: u16,
}

impl Udp {
    pub(crate) const SIZE: u32 = 8;
    pub(crate) const CHECK: u32 = 6;
}
