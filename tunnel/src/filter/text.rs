//! The filter as text for `nft -f -`. Pure.
//!
//! Offsets are bits behind the start of the UDP header: 8 bytes of UDP, 8 of VXLAN (the identifier in the fifth to
//! seventh), 14 of Ethernet, then the inner packet.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    Fabric, Member, Pair,
    fabric::hash,
    facts::{DEVICE_IPV4, DEVICE_IPV6},
};

/// The table's name.
pub const TABLE: &str = "balancing";
/// Removes the table.
pub const REMOVE: &str = "delete table inet balancing\n";
/// The chain of packets to this host.
pub const INPUT: &str = "input";
/// The chain that lowers what TCP offers to what the tunnel takes.
const CLAMP: &str = "clamp";
/// Starts the comment that marks which state of the filter this is.
pub const GENERATION: &str = "generation ";
/// Names of the counters, one a reason.
pub const COUNTERS: [&str; 4] = ["not_a_member", "wrong_inner_source", "not_ip", "from_a_pod"];

/// The sets with their keys: outer sources, and outer with inner sources.
pub(super) const SETS: [(&str, &str); 6] = [
    ("members4", "type ipv4_addr"),
    ("members6", "type ipv6_addr"),
    ("bound44", "typeof ip saddr . @th,336,32"),
    ("bound46", "typeof ip saddr . @th,304,128"),
    ("bound64", "typeof ip6 saddr . @th,336,32"),
    ("bound66", "typeof ip6 saddr . @th,304,128"),
];
/// Elements that one command carries.
const AT_ONCE: usize = 500;

/// How much of the table is written.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// The rules, and the elements in which it differs from what the kernel has.
    Since(&'a Wanted),
    /// The rules and all elements.
    Elements,
    /// A new table: its counters start again.
    Everything,
}

/// An element of a set: an outer source, alone or with an inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    set: &'static str,
    outer: IpAddr,
    inner: Option<IpAddr>,
}

/// What the filter shall let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    port: u16,
    vni: u32,
    own: Pair,
    pub(super) elements: BTreeSet<Element>,
    generation: String,
}

impl Wanted {
    /// Lets in the members, and this one itself.
    #[must_use]
    pub fn new(members: &[Member], fabric: &Fabric, own: &Member) -> Self {
        let all = members.iter().filter(|member| member.name != own.name).chain([own]);
        let elements = all.flat_map(elements).collect();
        let mut wanted = Self {
            port: fabric.port,
            vni: fabric.vni,
            own: own.underlay,
            elements,
            generation: String::new(),
        };
        wanted.generation = format!("{:016x}", hash(wanted.identity()));
        wanted
    }

    /// The mark of exactly this state.
    #[must_use]
    pub fn generation(&self) -> String {
        self.generation.clone()
    }

    /// Every byte that makes a difference.
    fn identity(&self) -> impl Iterator<Item = u8> {
        let sets = SETS.iter().flat_map(|(name, key)| name.bytes().chain(key.bytes()));
        let rules = self.chains().into_iter().flat_map(|(_, rules)| rules).flat_map(String::into_bytes);
        let element =
            |element: &Element| element.set.bytes().chain(element.to_string().into_bytes()).chain([0]);
        sets.chain(rules).chain(self.elements.iter().flat_map(element))
    }

    /// The rules of each chain.
    #[must_use]
    pub fn chains(&self) -> [(&'static str, Vec<String>); 4] {
        let Self { port, vni, .. } = self;
        let ours = format!("udp dport {port} @th,96,24 {vni}");
        let mark = format!("comment \"{GENERATION}{}\"", self.generation);
        [
            ("tunnel", self.tunnel()),
            (
                INPUT,
                vec![
                    // IPv6 is put together behind this hook: in pieces nothing of it could be looked at.
                    format!("udp dport {port} exthdr frag exists counter name not_a_member drop"),
                    format!("{ours} goto tunnel {mark}"),
                ],
            ),
            (
                "forward",
                vec![
                    format!("{ours} counter name from_a_pod drop"),
                    // In pieces the identifier may stand in a later one, which says no port; without the first
                    // nobody can put them together.
                    format!("udp dport {port} ip frag-off & 0x3fff != 0 counter name from_a_pod drop"),
                    format!("udp dport {port} exthdr frag exists counter name from_a_pod drop"),
                ],
            ),
            (
                // A pod offers what fits into its own device. What the tunnel takes it would have to learn from ICMP, which
                // somebody on the way to the pod may drop.
                CLAMP,
                vec![format!(
                    "oifname {{ \"{DEVICE_IPV4}\", \"{DEVICE_IPV6}\" }} tcp flags syn / syn,rst tcp option maxseg size set rt mtu"
                )],
            ),
        ]
    }

    fn tunnel(&self) -> Vec<String> {
        let stranger = "counter name not_a_member drop";
        // What this host sends to itself comes by the loopback device; by any other somebody else pretends to be it.
        let own = self.own.iter().map(|ip| {
            let family = if ip.is_ipv4() { "ip" } else { "ip6" };
            format!("iifname != \"lo\" {family} saddr {ip} {stranger}")
        });
        let rules = [
            format!("ip saddr != @members4 {stranger}"),
            format!("ip6 saddr != @members6 {stranger}"),
            "@th,224,16 0x0800 ip saddr . @th,336,32 @bound44 accept".to_owned(),
            "@th,224,16 0x0800 ip6 saddr . @th,336,32 @bound64 accept".to_owned(),
            "@th,224,16 0x86dd ip saddr . @th,304,128 @bound46 accept".to_owned(),
            "@th,224,16 0x86dd ip6 saddr . @th,304,128 @bound66 accept".to_owned(),
            "@th,224,16 { 0x0800, 0x86dd } counter name wrong_inner_source drop".to_owned(),
            "counter name not_ip drop".to_owned(),
        ];
        own.chain(rules).collect()
    }

    /// The whole change; the kernel takes all of it or nothing.
    #[must_use]
    pub fn transaction(&self, scope: Scope<'_>) -> String {
        let mut text = format!("add table inet {TABLE}\n");
        if matches!(scope, Scope::Everything) {
            text.push_str(REMOVE);
            _ = writeln!(text, "add table inet {TABLE}");
        }
        for counter in COUNTERS {
            _ = writeln!(text, "add counter inet {TABLE} {counter}");
        }
        for (set, key) in SETS {
            _ = writeln!(text, "add set inet {TABLE} {set} {{ {key}; }}");
        }
        for (chain, _) in self.chains() {
            let hook = match chain {
                "tunnel" => String::new(),
                CLAMP => " { type filter hook forward priority mangle; policy accept; }".to_owned(),
                hook => format!(" {{ type filter hook {hook} priority -300; policy accept; }}"),
            };
            _ = writeln!(text, "add chain inet {TABLE} {chain}{hook}");
        }
        for (chain, _) in self.chains() {
            _ = writeln!(text, "flush chain inet {TABLE} {chain}");
        }
        let none = BTreeSet::new();
        let had = match scope {
            Scope::Since(known) => &known.elements,
            Scope::Elements | Scope::Everything => {
                SETS.iter().for_each(|(set, _)| _ = writeln!(text, "flush set inet {TABLE} {set}"));
                &none
            }
        };
        change(&mut text, "delete", &had.difference(&self.elements).collect::<Vec<_>>());
        change(&mut text, "add", &self.elements.difference(had).collect::<Vec<_>>());
        for (chain, rules) in self.chains() {
            rules.iter().for_each(|rule| _ = writeln!(text, "add rule inet {TABLE} {chain} {rule}"));
        }
        text
    }
}

impl Element {
    fn new(outer: IpAddr, inner: Option<IpAddr>) -> Self {
        let set = match (outer.is_ipv4(), inner.map(|inner| inner.is_ipv4())) {
            (true, None) => "members4",
            (false, None) => "members6",
            (true, Some(true)) => "bound44",
            (true, Some(false)) => "bound46",
            (false, Some(true)) => "bound64",
            (false, Some(false)) => "bound66",
        };
        Self { set, outer, inner }
    }

    /// An element of a set as the kernel has it: its addresses one behind the other.
    pub(super) fn read(set: &'static str, key: &[u8]) -> Option<Self> {
        let length = if set.starts_with("members4") || set.starts_with("bound4") { 4 } else { 16 };
        let (outer, inner) = key.split_at_checked(length)?;
        let inner = if inner.is_empty() { None } else { Some(address(inner)?) };
        Some(Self { set, outer: address(outer)?, inner })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.outer)?;
        match self.inner {
            Some(IpAddr::V4(ip)) => write!(f, " . 0x{:08x}", ip.to_bits()),
            Some(IpAddr::V6(ip)) => write!(f, " . 0x{:032x}", ip.to_bits()),
            None => Ok(()),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    ipv4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv6Addr::from(bytes)))).ok()
}

/// One command for many elements of a set.
fn change(text: &mut String, verb: &str, elements: &[&Element]) {
    for of_set in elements.chunk_by(|a, b| a.set == b.set) {
        for some in of_set.chunks(AT_ONCE) {
            let Some(Element { set, .. }) = some.first() else { continue };
            let some: Vec<String> = some.iter().map(ToString::to_string).collect();
            _ = writeln!(text, "{verb} element inet {TABLE} {set} {{ {} }}", some.join(", "));
        }
    }
}

/// What the sets hold for a member: its outer addresses, and each with each of its tunnel addresses.
fn elements(member: &Member) -> impl Iterator<Item = Element> + use<> {
    let inner = member.addresses;
    let with_inner = move |outer| inner.iter().map(move |inner| Element::new(outer, Some(inner)));
    member
        .underlay
        .iter()
        .flat_map(move |outer| [Element::new(outer, None)].into_iter().chain(with_inner(outer)))
}

#[cfg(test)]
mod tests;
