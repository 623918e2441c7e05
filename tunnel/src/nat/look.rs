//! What the kernel has of the table, as one number: whoever changed anything of it since is found out by another look.

use std::{
    hash::{DefaultHasher, Hash, Hasher as _},
    io,
};

use rtnetlink::packet_core::NlasIterator;

use super::TABLE;
use crate::nfnetlink::{self, attribute};

/// `NFNL_SUBSYS_NFTABLES` with `NFT_MSG_GETRULE` and `NFT_MSG_GETSETELEM`.
const RULES: u16 = (10 << 8) | 7;
const ELEMENTS: u16 = (10 << 8) | 13;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFTA_RULE_CHAIN` and `NFTA_RULE_EXPRESSIONS`, `NFTA_SET_ELEM_LIST_SET` and `NFTA_SET_ELEM_LIST_ELEMENTS`.
const CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
const SET: u16 = 2;
const LIST: u16 = 3;

/// Rules and elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) rules: usize,
    pub(super) elements: usize,
    /// Of all of them, in whatever order.
    sum: u64,
}

/// Looks at the table with these sets and maps.
pub(super) fn look(sets: &[&str]) -> io::Result<State> {
    let mut state = State::default();
    let table = attribute(1, &[TABLE.as_bytes(), &[0]].concat());
    for rule in dump(RULES, &table)? {
        state.rules += 1;
        state.add(&(rule.get(&CHAIN), rule.get(&EXPRESSIONS)));
    }
    for &set in sets {
        let filter = [table.clone(), attribute(SET, &[set.as_bytes(), &[0]].concat())].concat();
        for list in dump(ELEMENTS, &filter)?.iter().filter_map(|message| message.get(&LIST)) {
            for element in NlasIterator::new(&list[..]).map_while(Result::ok) {
                state.elements += 1;
                state.add(&(set, element.value()));
            }
        }
    }
    Ok(state)
}

impl State {
    fn add(&mut self, what: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// None where there is no such table or set.
fn dump(kind: u16, filter: &[u8]) -> io::Result<Vec<nfnetlink::Attributes>> {
    match nfnetlink::dump(kind, INET, filter) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}
