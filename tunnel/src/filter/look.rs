//! What the kernel has of the filter: its rules, by a mark and by number, the elements of its sets, and its counters.
//!
//! Asked by netlink, because `nft` reads every element of every set for it: 170 ms with 10,000 members, against less
//! than one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator},
    sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER},
};

use super::text::{Element, GENERATION, INPUT, SETS, TABLE, Wanted};

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_GETRULE`, `NFT_MSG_GETSETELEM` and `NFT_MSG_GETOBJ`.
const GET_RULE: u16 = 7;
const GET_ELEMENTS: u16 = 13;
const GET_OBJECT: u16 = 19;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Sizes of `nlmsghdr` and `nfgenmsg`.
const HEADER: usize = 16;
const FAMILY: usize = 4;
/// `NFTA_RULE_*`, `NFTA_SET_ELEM_LIST_*` and `NFTA_OBJ_*`: all name the table first.
const ATTRIBUTE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_USERDATA: u16 = 7;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// `NFTA_SET_ELEM_KEY`, and `NFTA_DATA_VALUE` within it.
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`, and its packets.
const COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;
/// `NLM_F_DUMP_INTR`, and how often such a dump is made again.
const INTERRUPTED: u16 = 0x10;
const DUMPS: usize = 16;
/// The part of an attribute's type that is no flag.
const TYPE: u16 = 0x3fff;

/// The rules and the elements of the table; none when there is no table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    generation: Option<String>,
    /// Rules by chain.
    rules: BTreeMap<String, usize>,
    /// `None` where one of a set is none of ours.
    elements: Option<BTreeSet<Element>>,
}

impl Present {
    /// Whether it is what was wanted: its mark, every chain with all its rules, every element and no other.
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        let rules =
            wanted.chains().into_iter().map(|(chain, rules)| (chain.to_owned(), rules.len())).collect();
        self.generation.as_deref() == Some(&wanted.generation())
            && self.rules == rules
            && self.elements.as_ref() == Some(&wanted.elements)
    }
}

/// Looks at the table.
pub(super) fn look() -> io::Result<Present> {
    let mut present = Present::default();
    for rule in dump(GET_RULE, &table())? {
        let Some(chain) = rule.get(&RULE_CHAIN).map(|bytes| text(bytes)) else { continue };
        let comment = rule.get(&RULE_USERDATA).and_then(|bytes| comment(bytes));
        if let Some(generation) = comment.filter(|_| chain == INPUT) {
            present.generation = Some(generation);
        }
        *present.rules.entry(chain).or_default() += 1;
    }
    present.elements = elements()?;
    Ok(present)
}

/// The elements of all sets.
fn elements() -> io::Result<Option<BTreeSet<Element>>> {
    let mut found = Vec::new();
    for (set, _) in SETS {
        let filter = [table(), attribute(ELEMENTS_SET, &[set.as_bytes(), &[0]].concat())].concat();
        let messages = match dump(GET_ELEMENTS, &filter) {
            // Neither the set nor the table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            messages => messages?,
        };
        for list in messages.iter().filter_map(|message| message.get(&ELEMENTS)) {
            let elements = NlasIterator::new(&list[..]).map_while(Result::ok);
            found.extend(elements.map(|element| Element::read(set, key(element.value())?)));
        }
    }
    // Sorted first: a tree is made faster of what is in order.
    found.sort_unstable();
    Ok(found.into_iter().collect())
}

/// The key of an element.
fn key(element: &[u8]) -> Option<&[u8]> {
    value_of(value_of(element, ELEMENT_KEY)?, DATA_VALUE)
}

/// The value of one attribute of several.
fn value_of(bytes: &[u8], kind: u16) -> Option<&[u8]> {
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

/// The packets of every counter; none when there is no table.
pub(super) fn counters() -> io::Result<BTreeMap<String, u64>> {
    let filter = [table(), attribute(OBJECT_TYPE, &COUNTER.to_be_bytes())].concat();
    let objects = dump(GET_OBJECT, &filter)?;
    Ok(objects
        .iter()
        .filter_map(|object| {
            let data = attributes(object.get(&OBJECT_DATA)?);
            let packets = <[u8; 8]>::try_from(&data.get(&COUNTER_PACKETS)?[..]).ok()?;
            Some((text(object.get(&OBJECT_NAME)?), u64::from_be_bytes(packets)))
        })
        .collect())
}

/// The tables that events are about.
pub(super) fn tables(datagram: &[u8]) -> impl Iterator<Item = String> {
    let mut rest = datagram;
    let messages = std::iter::from_fn(move || {
        let (message, behind) = split(rest)?;
        rest = behind;
        Some(message)
    });
    messages.filter_map(|message| Some(text(value_of(message.payload.get(FAMILY..)?, ATTRIBUTE_TABLE)?)))
}

/// Whose rules or objects are asked for.
fn table() -> Vec<u8> {
    attribute(ATTRIBUTE_TABLE, &[TABLE.as_bytes(), &[0]].concat())
}

type Attributes = BTreeMap<u16, Vec<u8>>;

/// The attributes of every message of a dump.
fn dump(kind: u16, filter: &[u8]) -> io::Result<Vec<Attributes>> {
    for _ in 0..DUMPS {
        if let Some(found) = dump_once(kind, filter)? {
            return Ok(found);
        }
    }
    Err(io::Error::other("nftables are changed all the time by somebody else"))
}

/// `None` when something changed meanwhile.
fn dump_once(kind: u16, filter: &[u8]) -> io::Result<Option<Vec<Attributes>>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(kind, filter), 0)?;
    let (mut found, mut steady) = (Vec::new(), true);
    loop {
        let (datagram, _) = match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        let mut rest = &datagram[..];
        while let Some((message, behind)) = split(rest) {
            steady &= message.flags & INTERRUPTED == 0;
            match message.kind {
                NLMSG_DONE => return Ok(steady.then_some(found)),
                NLMSG_ERROR => return Err(error_of(message.payload)),
                _ => found.push(attributes(message.payload.get(FAMILY..).unwrap_or_default())),
            }
            rest = behind;
        }
    }
}

fn request(kind: u16, filter: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + FAMILY + filter.len()).unwrap_or(u32::MAX);
    [
        &length.to_ne_bytes()[..],
        &(NFTABLES | kind).to_ne_bytes(),
        &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &0u32.to_ne_bytes(),
        &[INET, 0, 0, 0],
        filter,
    ]
    .concat()
}

/// An attribute whose length is a multiple of four with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value, &padding].concat()
}

/// A message of netlink.
struct Message<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

/// The first message, and what is behind it.
fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
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

fn attributes(bytes: &[u8]) -> Attributes {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind() & TYPE, attribute.value().to_vec()))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// The generation that a rule's comment tells. A comment is the first of its user data: type 0, length, text.
fn comment(userdata: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = userdata else { return None };
    Some(text(rest.get(..usize::from(*length))?).strip_prefix(GENERATION)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_comment_is_a_generation() {
        assert_eq!(comment(b"\0\x0dgeneration 1\0"), Some("1".to_owned()));
        assert_eq!(comment(b"\0\x06hello\0"), None);
        assert_eq!(comment(b"\0\xffgeneration 1\0"), None);
        assert_eq!(comment(b"\x01\x0dgeneration 1\0"), None);
        assert_eq!(comment(b""), None);
    }

    #[test]
    fn messages_that_are_cut_off_are_no_messages() {
        let whole = request(GET_RULE, &table());
        assert_eq!(whole.len() % 4, 0);
        let (message, rest) = split(&whole).unwrap();
        assert_eq!((message.kind, rest.len()), (NFTABLES | GET_RULE, 0));
        assert_eq!(attributes(&message.payload[FAMILY..])[&ATTRIBUTE_TABLE], b"balancing\0");
        for length in 0..whole.len() - 3 {
            assert!(split(&whole[..length]).is_none(), "{length}");
        }
        assert_eq!(error_of(&(-2i32).to_ne_bytes()).kind(), io::ErrorKind::NotFound);
    }
}
