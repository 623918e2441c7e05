//! Reading a packet's headers. What does not add up is refused here, so that nobody after it has to doubt a length.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use balancing_abi::{TCP, UDP, is_mapped, mapped, proxy::counter};

use crate::{
    headers::{ETHERNET, Extension, ICMP, ICMPV6, Ipv4, Ipv6, TYPE_IPV4, TYPE_IPV6, Tcp, Udp},
    scratch::{self, Scratch, number},
};

/// Extension headers that are looked at.
const EXTENSIONS: u32 = 4;
/// The longest packet that pieces may make.
const LONGEST: u32 = 65_535;

/// How much of a packet is here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Whole,
    /// With the transport header.
    First,
    Later,
}

/// What the headers say. Ports and flags are those of TCP and UDP and zero elsewhere; nothing of the transport is known of a later piece.
pub(crate) struct Packet {
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
    /// Where the transport header begins.
    pub(crate) transport: u32,
    /// Bytes from there on.
    pub(crate) payload: u32,
    /// Bytes of the transport header.
    pub(crate) header: u32,
    /// Identification of a packet in pieces.
    pub(crate) id: u32,
    /// Where the piece belongs, in bytes.
    pub(crate) offset: u32,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    /// Type of an ICMP message.
    pub(crate) message: u8,
    pub(crate) v6: bool,
    pub(crate) piece: Piece,
}

/// Reads a frame into the room for it.
#[inline(never)]
pub(crate) fn read(skb: *mut __sk_buff, room: &mut Scratch) -> u32 {
    number(room.packet.read(&scratch::context(skb)))
}

impl Packet {
    /// Reads a frame, in place: a copy of what was read would cost as much as reading it.
    #[inline(always)]
    fn read(&mut self, ctx: &TcContext) -> Result<(), u32> {
        let kind = ctx.load::<u16>(12).map_err(|_| counter::MALFORMED)?;
        match kind {
            TYPE_IPV4 => self.ipv4(ctx)?,
            TYPE_IPV6 => self.ipv6(ctx)?,
            _ => return Err(counter::NOT_IP),
        }
        if self.piece == Piece::Later { Ok(()) } else { self.transport(ctx) }
    }

    #[inline(always)]
    fn ipv4(&mut self, ctx: &TcContext) -> Result<(), u32> {
        let header = ctx.load::<Ipv4>(ETHERNET as usize).map_err(|_| counter::MALFORMED)?;
        let size = u32::from(header.version & 15) * 4;
        if header.version >> 4 != 4 || size < Ipv4::SIZE {
            return Err(counter::MALFORMED);
        }
        // Among the options is a way of the packet's own, past what is decided here; none of them is of use.
        if size != Ipv4::SIZE {
            return Err(counter::UNSUPPORTED);
        }
        let total = length(ctx, u16::from_be(header.length), size)?;
        let fragment = u16::from_be(header.fragment);
        let (offset, more) = (u32::from(fragment & Ipv4::OFFSET) * 8, fragment & Ipv4::MORE != 0);
        *self = Self {
            source: mapped(header.source),
            destination: mapped(header.destination),
            transport: ETHERNET + size,
            payload: total - size,
            header: 0,
            id: u32::from(header.id),
            offset: 0,
            source_port: 0,
            destination_port: 0,
            protocol: header.protocol,
            flags: 0,
            message: 0,
            v6: false,
            piece: Piece::Whole,
        };
        self.set_piece(offset, more)
    }

    #[inline(always)]
    fn ipv6(&mut self, ctx: &TcContext) -> Result<(), u32> {
        let header = ctx.load::<Ipv6>(ETHERNET as usize).map_err(|_| counter::MALFORMED)?;
        if header.version >> 4 != 6 {
            return Err(counter::MALFORMED);
        }
        // A mapped address would make it a packet of IPv4 in the tables.
        if is_mapped(&header.source) || is_mapped(&header.destination) {
            return Err(counter::BAD_SOURCE);
        }
        let payload = u16::from_be(header.length);
        let total = match payload {
            0 => length(ctx, 0, Ipv6::SIZE)?,
            _ => length_of(ctx, u32::from(payload) + Ipv6::SIZE, Ipv6::SIZE)?,
        };
        *self = Self {
            source: header.source,
            destination: header.destination,
            transport: ETHERNET + Ipv6::SIZE,
            payload: total - Ipv6::SIZE,
            header: 0,
            id: 0,
            offset: 0,
            source_port: 0,
            destination_port: 0,
            protocol: header.next,
            flags: 0,
            message: 0,
            v6: true,
            piece: Piece::Whole,
        };
        self.extensions(ctx)
    }

    /// Walks over extension headers, one fragment header at most.
    #[inline(always)]
    fn extensions(&mut self, ctx: &TcContext) -> Result<(), u32> {
        let mut fragmented = false;
        for number in 0..EXTENSIONS {
            let kind = self.protocol;
            match kind {
                Extension::HOP_BY_HOP if number == 0 => {}
                Extension::DESTINATION => {}
                Extension::FRAGMENT if !fragmented => {}
                _ => return Ok(()),
            }
            let header = ctx.load::<Extension>(self.transport as usize).map_err(|_| counter::MALFORMED)?;
            let fragment = kind == Extension::FRAGMENT;
            let size = if fragment { 8 } else { 8 + u32::from(header.length) * 8 };
            if size > self.payload {
                return Err(counter::MALFORMED);
            }
            self.transport += size;
            self.payload -= size;
            self.protocol = header.next;
            if fragment {
                fragmented = true;
                self.id = header.id;
                let bits = u16::from_be(header.fragment);
                self.set_piece(u32::from(bits & Extension::OFFSET), bits & Extension::MORE != 0)?;
                if self.piece == Piece::Later {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn set_piece(&mut self, offset: u32, more: bool) -> Result<(), u32> {
        self.offset = offset;
        self.piece = match (offset, more) {
            (0, false) => return Ok(()),
            (0, true) => Piece::First,
            _ => Piece::Later,
        };
        if self.payload == 0 || more && self.payload & 7 != 0 || offset + self.payload > LONGEST {
            return Err(counter::MALFORMED);
        }
        Ok(())
    }

    /// Reads the transport header, which has to be here as a whole.
    #[inline(always)]
    fn transport(&mut self, ctx: &TcContext) -> Result<(), u32> {
        let at = self.transport as usize;
        match self.protocol {
            TCP => {
                let header = ctx.load::<Tcp>(at).map_err(|_| counter::MALFORMED)?;
                self.header = u32::from(header.length >> 4) * 4;
                if self.header < Tcp::SIZE || self.header > self.payload {
                    return Err(counter::MALFORMED);
                }
                self.source_port = header.source;
                self.destination_port = header.destination;
                self.flags = header.flags;
            }
            UDP => {
                let header = ctx.load::<Udp>(at).map_err(|_| counter::MALFORMED)?;
                self.header = Udp::SIZE;
                let length = u32::from(u16::from_be(header.length));
                let too_long = self.piece == Piece::Whole && length > self.payload;
                if self.payload < Udp::SIZE || length < Udp::SIZE || too_long {
                    return Err(counter::MALFORMED);
                }
                self.source_port = header.source;
                self.destination_port = header.destination;
            }
            ICMP | ICMPV6 if self.is_icmp() => {
                self.message = ctx.load::<u8>(at).map_err(|_| counter::MALFORMED)?;
                self.header = 8;
                if self.payload < 8 {
                    return Err(counter::MALFORMED);
                }
            }
            _ => return Err(counter::UNSUPPORTED),
        }
        Ok(())
    }

    /// Whether it is the family's ICMP.
    #[inline(always)]
    pub(crate) fn is_icmp(&self) -> bool {
        self.protocol == if self.v6 { ICMPV6 } else { ICMP }
    }

    /// Whether it is TCP or UDP.
    #[inline(always)]
    pub(crate) fn has_ports(&self) -> bool {
        self.protocol == TCP || self.protocol == UDP
    }
}

/// The length of the IP packet. What the kernel has put together or not yet cut may be longer than the field can say, and has 0 there.
#[inline(always)]
fn length(ctx: &TcContext, field: u16, header: u32) -> Result<u32, u32> {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: the context of the program.
    let large = field == 0 && unsafe { (*skb).gso_size } != 0;
    // IPv6 counts without its header: an empty packet of its own is as long as the header.
    let length = if large { ctx.len() - ETHERNET } else { u32::from(field) };
    length_of(ctx, length, header)
}

#[inline(always)]
fn length_of(ctx: &TcContext, length: u32, header: u32) -> Result<u32, u32> {
    if length < header || length > ctx.len() - ETHERNET { Err(counter::MALFORMED) } else { Ok(length) }
}
