//! Messages to and from the kernel's netfilter, as bytes: dumps and single requests.
//!
//! Small on purpose: what the kernel says is split into attributes, and nobody here knows what they mean. Each dump has a socket of
//! its own, in the network namespace of whichever thread asks; changes share one.

use std::{collections::BTreeMap, io};

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator},
    sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER},
};

/// Sizes of `nlmsghdr` and `nfgenmsg`.
const HEADER: usize = 16;
pub(crate) const FAMILY: usize = 4;
/// `NLM_F_DUMP_INTR`, and how often such a dump is made again.
const INTERRUPTED: u16 = 0x10;
const DUMPS: usize = 16;
/// The part of an attribute's type that is no flag, and the flag of one that holds others.
const TYPE: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

pub(crate) type Attributes = BTreeMap<u16, Vec<u8>>;

/// The attributes of every message of a dump.
pub(crate) fn dump(kind: u16, family: u8, filter: &[u8]) -> io::Result<Vec<Attributes>> {
    pick(kind, family, filter, usize::MAX, |message| Some(attributes(message)))
}

/// What is made of the messages of a dump while they come in; not more than `most`, the rest is not read then.
pub(crate) fn pick<T>(
    kind: u16,
    family: u8,
    filter: &[u8],
    most: usize,
    make: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    for _ in 0..DUMPS {
        if let Some(found) = pick_once(kind, family, filter, most, &make)? {
            return Ok(found);
        }
    }
    Err(io::Error::other("netfilter is changed all the time by somebody else"))
}

/// `None` when something changed meanwhile.
fn pick_once<T>(
    kind: u16,
    family: u8,
    filter: &[u8],
    most: usize,
    make: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<Vec<T>>> {
    let mut socket = connected()?;
    socket.send(&request(kind, family, NLM_F_REQUEST | NLM_F_DUMP, filter), 0)?;
    let (mut found, mut steady) = (Vec::new(), true);
    'dump: while found.len() < most {
        let datagram = receive(&mut socket)?;
        let mut rest = &datagram[..];
        while let Some((message, behind)) = split(rest) {
            steady &= message.flags & INTERRUPTED == 0;
            match message.kind {
                NLMSG_DONE => break 'dump,
                NLMSG_ERROR => return Err(error_of(message.payload)),
                _ => found.extend(make(message.payload.get(FAMILY..).unwrap_or_default())),
            }
            rest = behind;
        }
    }
    found.truncate(most);
    Ok(steady.then_some(found))
}

/// A socket for changes, one after the other.
pub(crate) struct Changes(Socket);

impl Changes {
    pub(crate) fn new() -> io::Result<Self> {
        connected().map(Self)
    }

    /// One change, which the kernel confirms.
    pub(crate) fn make(&mut self, kind: u16, family: u8, attributes: &[u8]) -> io::Result<()> {
        self.0.send(&request(kind, family, NLM_F_REQUEST | NLM_F_ACK, attributes), 0)?;
        loop {
            let datagram = receive(&mut self.0)?;
            let Some((message, _)) = split(&datagram) else { continue };
            if message.kind == NLMSG_ERROR {
                let refused = error_of(message.payload);
                return if refused.raw_os_error() == Some(0) { Ok(()) } else { Err(refused) };
            }
        }
    }
}

/// Whether the kernel has no such part: neither a socket for it nor somebody who answers (`nfnetlink_rcv_msg`).
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    use nix::libc::{EAFNOSUPPORT, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT};
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EINVAL | EOPNOTSUPP | EPROTONOSUPPORT))
}

fn connected() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn receive(socket: &mut Socket) -> io::Result<Vec<u8>> {
    loop {
        match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.map(|(datagram, _)| datagram),
        }
    }
}

fn request(kind: u16, family: u8, flags: u16, filter: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + FAMILY + filter.len()).unwrap_or(u32::MAX);
    [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &0u32.to_ne_bytes(),
        &[family, 0, 0, 0],
        filter,
    ]
    .concat()
}

/// An attribute whose length is a multiple of four with its padding.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value, &padding].concat()
}

/// One that holds others.
pub(crate) fn nest(kind: u16, inner: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &inner.concat())
}

/// A message of netlink.
pub(crate) struct Message<'a> {
    kind: u16,
    flags: u16,
    pub(crate) payload: &'a [u8],
}

/// The first message, and what is behind it.
pub(crate) fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    Some((Message { kind, flags, payload }, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn error_of(payload: &[u8]) -> io::Error {
    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(-code)
}

pub(crate) fn attributes(bytes: &[u8]) -> Attributes {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind() & TYPE, attribute.value().to_vec()))
        .collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// The value of one attribute of several.
pub(crate) fn value_of(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    while let Some(header) = rest.get(..4) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) & TYPE == kind {
            return rest.get(4..length);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_cut_off_are_no_messages() {
        let whole = request(7, 1, NLM_F_REQUEST, &attribute(1, b"balancing\0"));
        assert_eq!(whole.len() % 4, 0);
        let (message, rest) = split(&whole).unwrap();
        assert_eq!((message.kind, rest.len()), (7, 0));
        assert_eq!(attributes(&message.payload[FAMILY..])[&1], b"balancing\0");
        for length in 0..whole.len() - 3 {
            assert!(split(&whole[..length]).is_none(), "{length}");
        }
        assert_eq!(error_of(&(-2i32).to_ne_bytes()).kind(), io::ErrorKind::NotFound);
    }
}
