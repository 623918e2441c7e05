//! Whose rules keep packets of the tunnel from pods: chains at the forward hook that drop what no rule accepts.
//!
//! Docker and firewalls make such chains. Nothing is done about them, but an administrator should know. What the older `ip_tables` has
//! of its own is not seen here.

use std::io;

use crate::nfnetlink::{self, Attributes, attribute, value_of};

/// `NFNL_SUBSYS_NFTABLES` with `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE`.
const CHAINS: u16 = (10 << 8) | 4;
const RULES: u16 = (10 << 8) | 7;
/// `NFPROTO_*` that see packets of IP, by the words of `nft`.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];
/// `NFTA_CHAIN_*`.
const TABLE: u16 = 1;
const NAME: u16 = 3;
const HOOK: u16 = 4;
const POLICY: u16 = 5;
/// `NFTA_HOOK_HOOKNUM`, and `NF_INET_FORWARD`.
const NUMBER: u16 = 1;
const FORWARD: [u8; 4] = 2u32.to_be_bytes();
/// `NF_DROP`.
const DROP: [u8; 4] = [0; 4];
/// `NFTA_RULE_CHAIN` and `NFTA_RULE_EXPRESSIONS`.
const RULE_CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;

/// In words, a sentence a chain; none where rules of the chain name all of these devices.
///
/// # Errors
/// When the kernel does not tell.
pub fn drops(devices: &[&str]) -> io::Result<Vec<String>> {
    let mut told = Vec::new();
    for (family, word) in FAMILIES {
        for chain in nfnetlink::dump(CHAINS, family, &[])?.iter().filter(|chain| drops_all(chain)) {
            let (Some(table), Some(name)) = (chain.get(&TABLE), chain.get(&NAME)) else { continue };
            let missing = unnamed(devices, family, table, name)?.join(" and ");
            if !missing.is_empty() {
                told.push(format!(
                    "chain {} of table {word} {} drops what none of its rules accepts, and none names {missing}: nothing from \
                     there reaches a pod, unless another rule lets it pass; accept what comes from {missing} and what goes there",
                    nfnetlink::text(name),
                    nfnetlink::text(table)
                ));
            }
        }
    }
    Ok(told)
}

/// Whether it is at the forward hook and drops what comes to its end.
fn drops_all(chain: &Attributes) -> bool {
    let hook = chain.get(&HOOK).and_then(|hook| value_of(hook, NUMBER));
    hook == Some(&FORWARD[..]) && chain.get(&POLICY).is_some_and(|policy| policy[..] == DROP)
}

/// Devices that no rule of a chain names.
fn unnamed<'d>(devices: &[&'d str], family: u8, table: &[u8], chain: &[u8]) -> io::Result<Vec<&'d str>> {
    let filter = [attribute(TABLE, table), attribute(RULE_CHAIN, chain)].concat();
    let rules = nfnetlink::dump(RULES, family, &filter)?;
    let of_chain = rules.iter().filter(|rule| rule.get(&RULE_CHAIN).is_some_and(|of| of[..] == *chain));
    let expressions: Vec<_> = of_chain.filter_map(|rule| rule.get(&EXPRESSIONS)).collect();
    let is_named = |device: &str| {
        expressions.iter().any(|all| all.windows(device.len()).any(|part| part == device.as_bytes()))
    };
    Ok(devices.iter().copied().filter(|device| !is_named(device)).collect())
}
