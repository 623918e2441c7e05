//! Proxy addresses that are not of our tunnel: an administrator has put them on another interface, or a router maps them to this host.
//!
//! What arrives there at a declared port is translated by nftables, in a table of our own: one rule for each family looks up
//! (address, protocol, port, slot) in a map. The slot is drawn, or is the hash of the client's address where a client keeps its pod; each
//! frontend has [`SLOTS`] slots, which its pods share evenly. Rules for each frontend would take minutes where there are many. A
//! frontend without pods is refused: nothing else that listens on this host is meant.
//!
//! The table outlives the program. Connections that are open stay where they are: that is the kernel's connection tracking. UDP
//! flows to pods that are gone are ended ([`conntrack`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

mod conntrack;
mod look;

use crate::{
    filter::{Error, nft::run},
    nfnetlink,
};
use look::State;

/// Slots of a frontend: more than a node has pods (Kubernetes, "Considerations for large clusters": 110).
pub const SLOTS: usize = 128;
/// The table, of the family `inet`.
pub(crate) const TABLE: &str = "balancing_proxy";
/// The frontends without pods, by family.
const REFUSED: [(&str, &str); 2] = [("refused4", "ip"), ("refused6", "ip6")];

/// A port at such an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// Address and port.
    pub at: SocketAddr,
    /// UDP and not TCP.
    pub is_udp: bool,
}

/// Where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    /// Addresses of the frontend's family.
    pub pods: Vec<SocketAddr>,
    /// Clients keep their pod, as long as the pods stay the same.
    pub sticky: bool,
}

/// What is wanted at all such addresses.
pub type Frontends = BTreeMap<Frontend, Pods>;

/// The table, in the network namespace of whichever thread calls.
#[derive(Debug, Default)]
pub struct Nat {
    /// What the kernel has; `None` = nobody knows.
    applied: Option<(Frontends, State)>,
    /// Frontends whose flows are still to be looked at.
    unsettled: BTreeSet<Frontend>,
}

impl Nat {
    /// Nothing is known of what the kernel has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the table so, by one transaction of what differs; `everything`: looks whether it is still as it was made. Whether
    /// anything was changed.
    ///
    /// # Errors
    /// When there is no `nft`, or it or the kernel refuses.
    pub fn apply(&mut self, wanted: &Frontends, everything: bool) -> Result<bool, Error> {
        let known = self.applied.take();
        let known = match known {
            Some((applied, state)) if everything && !applied.is_empty() && state != look()? => None,
            known => known,
        };
        let changed = match &known {
            Some((applied, _)) if applied == wanted => false,
            _ if wanted.is_empty() => return self.remove(),
            _ => {
                let applied = known.as_ref().map(|(applied, _)| applied);
                run(&["-f", "-"], &applied.map_or_else(|| whole(wanted), |applied| change(applied, wanted)))?;
                self.unsettled.extend(differing(applied.unwrap_or(&Frontends::new()), wanted));
                true
            }
        };
        self.applied = match known {
            Some(known) if !changed => Some(known),
            _ => {
                let state = look()?;
                // Where somebody was faster than this look, the next run makes it anew.
                (state.elements == elements(wanted)).then(|| (wanted.clone(), state))
            }
        };
        // Only now: whoever is looked up anew must find what is there from now on.
        self.settle(wanted)?;
        Ok(changed)
    }

    /// Ends flows to pods that are gone.
    fn settle(&mut self, wanted: &Frontends) -> Result<(), Error> {
        if !self.unsettled.is_empty() {
            let ended = conntrack::end_stale(wanted, &self.unsettled).map_err(Error::Unreadable)?;
            tracing::debug!(?ended, "UDP flows to pods that are gone are ended");
            if !ended.is_part {
                self.unsettled.clear();
            }
        }
        Ok(())
    }

    /// Whether all flows to pods that are gone are ended; if not, the next [`Self::apply`] ends more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Removes the table; whether it was there.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn remove(&mut self) -> Result<bool, Error> {
        let there = match is_there() {
            // The program may have been removed since.
            Err(Error::NoNft) => match look::look(&[]) {
                Ok(state) if state.rules > 0 => return Err(Error::NoNft),
                Err(error) if !nfnetlink::is_unsupported(&error) => return Err(Error::Unreadable(error)),
                _ => false,
            },
            found => found?,
        };
        if there {
            run(&["-f", "-"], &format!("delete table inet {TABLE}\n"))?;
        }
        self.applied = Some((Frontends::new(), State::default()));
        self.unsettled.clear();
        Ok(there)
    }
}

fn is_there() -> Result<bool, Error> {
    let tables = run(&["list", "tables", "inet"], "")?;
    Ok(tables.lines().any(|line| line.trim() == format!("table inet {TABLE}")))
}

fn look() -> Result<State, Error> {
    let maps = maps();
    let sets: Vec<_> = maps.iter().map(|(name, ..)| *name).chain(REFUSED.map(|(name, _)| name)).collect();
    look::look(&sets).map_err(Error::Unreadable)
}

/// How many elements the kernel has of them.
fn elements(frontends: &Frontends) -> usize {
    frontends.values().map(|pods| if pods.pods.is_empty() { 1 } else { SLOTS }).sum()
}

/// The frontends that are not the same in both.
fn differing(before: &Frontends, after: &Frontends) -> BTreeSet<Frontend> {
    let all = before.keys().chain(after.keys());
    all.filter(|frontend| before.get(frontend) != after.get(frontend)).copied().collect()
}

/// The table from nothing.
fn whole(wanted: &Frontends) -> String {
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for (name, family, slot) in maps() {
        // Writing to a string cannot fail.
        writeln!(
            text,
            " map {name} {{\n  typeof {family} daddr . meta l4proto . th dport . {slot} : {family} daddr . th dport\n }}"
        )
        .ok();
    }
    for (name, family) in REFUSED {
        writeln!(text, " set {name} {{\n  typeof {family} daddr . meta l4proto . th dport\n }}").ok();
    }
    text.push_str(" chain prerouting {\n  type nat hook prerouting priority dstnat - 5; policy accept;\n");
    for (name, family, slot) in maps() {
        writeln!(text, "  dnat {family} to {family} daddr . meta l4proto . th dport . {slot} map @{name}")
            .ok();
    }
    // Behind all translation (-100): what has a pod has another destination by now.
    text.push_str(" }\n chain refuse {\n  type filter hook prerouting priority dstnat + 1; policy accept;\n");
    for (name, family) in REFUSED {
        let is_refused = format!("{family} daddr . meta l4proto . th dport @{name}");
        writeln!(text, "  meta l4proto tcp {is_refused} reject with tcp reset").ok();
        writeln!(text, "  {is_refused} reject with icmpx type port-unreachable").ok();
    }
    text.push_str(" }\n}\n");
    text + &change(&Frontends::new(), wanted)
}

/// Name, family and where the slot comes from.
fn maps() -> [(&'static str, &'static str, String); 4] {
    let random = format!("numgen random mod {SLOTS}");
    let hash = |family: &str| format!("jhash {family} saddr mod {SLOTS}");
    [
        ("ipv4", "ip", random.clone()),
        ("ipv4_sticky", "ip", hash("ip")),
        ("ipv6", "ip6", random),
        ("ipv6_sticky", "ip6", hash("ip6")),
    ]
}

/// The difference: slots that go first, because a slot that changes is there already.
fn change(before: &Frontends, after: &Frontends) -> String {
    let mut text = String::new();
    for (from, to, verb) in [(before, after, "delete"), (after, before, "add")] {
        for (frontend, pods) in from.iter().filter(|(frontend, pods)| to.get(frontend) != Some(pods)) {
            let map = map_of(frontend, pods);
            writeln!(text, "{verb} element inet {TABLE} {map} {{ {} }}", Elements(frontend, pods, verb)).ok();
        }
    }
    text
}

fn map_of(frontend: &Frontend, pods: &Pods) -> &'static str {
    match (frontend.at.ip(), pods.sticky) {
        (IpAddr::V4(_), _) if pods.pods.is_empty() => REFUSED[0].0,
        (IpAddr::V6(_), _) if pods.pods.is_empty() => REFUSED[1].0,
        (IpAddr::V4(_), false) => "ipv4",
        (IpAddr::V4(_), true) => "ipv4_sticky",
        (IpAddr::V6(_), false) => "ipv6",
        (IpAddr::V6(_), true) => "ipv6_sticky",
    }
}

/// The slots of a frontend, or itself where it has none.
struct Elements<'a>(&'a Frontend, &'a Pods, &'a str);

impl fmt::Display for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Frontend { at, is_udp }, pods, verb) = self;
        let protocol = if *is_udp { "udp" } else { "tcp" };
        if pods.pods.is_empty() {
            return write!(f, "{} . {protocol} . {}", at.ip(), at.port());
        }
        for (slot, pod) in pods.pods.iter().cycle().take(SLOTS).enumerate() {
            let comma = if slot == 0 { "" } else { ", " };
            write!(f, "{comma}{} . {protocol} . {} . {slot}", at.ip(), at.port())?;
            if *verb == "add" {
                write!(f, " : {} . {}", pod.ip(), pod.port())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(at: &str, pods: &[&str], sticky: bool) -> (Frontend, Pods) {
        let pods = pods.iter().map(|pod| pod.parse().unwrap()).collect();
        (Frontend { at: at.parse().unwrap(), is_udp: false }, Pods { pods, sticky })
    }

    #[test]
    fn only_what_differs_is_changed_and_removal_comes_first() {
        let before = Frontends::from([
            one("192.0.2.1:80", &["10.0.0.1:8080"], false),
            one("192.0.2.1:81", &["10.0.0.1:8081"], false),
            one("[2001:db8::1]:80", &["[fd00::1]:8080"], true),
        ]);
        let mut after = before.clone();
        after.extend([one("192.0.2.1:80", &["10.0.0.1:8080", "10.0.0.2:8080"], false)]);
        assert_eq!(change(&before, &before), "");
        let text = change(&before, &after);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].starts_with("delete element inet balancing_proxy ipv4 { 192.0.2.1 . tcp . 80 . 0, ")
        );
        assert!(lines[1].contains("80 . 0 : 10.0.0.1 . 8080, 192.0.2.1 . tcp . 80 . 1 : 10.0.0.2 . 8080, "));
        assert_eq!(lines[1].matches("10.0.0.2").count(), SLOTS / 2, "pods share evenly");
        let text = change(&after, &Frontends::new());
        assert!(
            text.contains("delete element inet balancing_proxy ipv6_sticky { 2001:db8::1 . tcp . 80 . 0, ")
        );
    }

    #[test]
    fn a_frontend_without_pods_is_refused_and_has_no_slot() {
        let (frontend, with) = one("192.0.2.1:80", &["10.0.0.1:8080"], false);
        let without = Pods { pods: Vec::new(), ..with.clone() };
        let [none, some] = [without, with].map(|pods| Frontends::from([(frontend, pods)]));
        let refused = "element inet balancing_proxy refused4 { 192.0.2.1 . tcp . 80 }\n";
        assert_eq!(change(&Frontends::new(), &none), format!("add {refused}"));
        let text = change(&none, &some);
        assert!(
            text.starts_with(&format!("delete {refused}add element inet balancing_proxy ipv4 ")),
            "{text}"
        );
        assert_eq!((elements(&none), elements(&some)), (1, SLOTS));
        assert_eq!(differing(&none, &some), [frontend].into());
        assert!(differing(&some, &some).is_empty());
    }
}
