//! Somebody else who writes this host's TunnelNode: a second agent with its name, or one with its token.
//!
//! It cannot be seen who wrote, for both write as the same user; but whoever finds his own words changed back again and again is
//! not alone. He goes on, slower and slower, for each change is told to every member.

use std::{collections::VecDeque, time::Duration};

use balancing_core::objects::MemberSpec;
use tokio::time::Instant;

/// Changes back that make a dispute, within this time.
const MANY: usize = 3;
const WHILE: Duration = Duration::from_secs(600);
/// Changes that are remembered: the wait grows with each to a minute.
const MOST: usize = 8;

/// What became of what was written.
#[derive(Debug, Default)]
pub(super) struct Dispute {
    /// What the source has shown as it was wanted.
    shown: Option<MemberSpec>,
    /// What was written and not shown yet, the oldest first.
    sent: VecDeque<MemberSpec>,
    undone: VecDeque<Instant>,
    /// What somebody else wrote last, in words.
    other: String,
    wrote: Option<Instant>,
}

impl Dispute {
    /// Takes in what is wanted and what the source shows; before when nothing shall be written.
    pub(super) fn look(&mut self, wanted: &MemberSpec, seen: Option<&MemberSpec>, now: Instant) -> Instant {
        self.undone.retain(|at| now < *at + WHILE);
        let is_own = seen.is_some_and(|seen| self.shows_sent(seen));
        match seen {
            Some(seen) if seen == wanted => self.shown = Some(wanted.clone()),
            // His own earlier words, shown late.
            Some(_) if is_own => self.shown = None,
            // Who wants something new has not been contradicted.
            Some(seen) if self.shown.as_ref() == Some(wanted) => {
                self.shown = None;
                self.undone.truncate(MOST - 1);
                self.undone.push_front(now);
                self.other = describe(seen);
            }
            // What is deleted was the controller's or an administrator's to delete.
            _ => {}
        }
        let steps = self.undone.len().saturating_sub(MANY - 1);
        let wait = u32::try_from(steps).map_or(0, |steps| (1_u64 << steps) - 1);
        self.wrote.map_or(now, |wrote| wrote + Duration::from_secs(wait))
    }

    /// It is written.
    pub(super) fn wrote(&mut self, wanted: &MemberSpec, now: Instant) {
        self.wrote = Some(now);
        if self.sent.len() == MOST {
            self.sent.pop_front();
        }
        self.sent.push_back(wanted.clone());
    }

    /// Whether that was written and is shown for the first time; what was written before it will not be shown any more.
    fn shows_sent(&mut self, seen: &MemberSpec) -> bool {
        let at = self.sent.iter().position(|sent| sent == seen);
        self.sent.drain(..at.map_or(0, |at| at + 1));
        at.is_some()
    }

    /// The dispute in words.
    pub(super) fn problem(&self, name: &str) -> Option<String> {
        (self.undone.len() >= MANY).then(|| {
            format!(
                "TunnelNode {name} is changed back again and again, lately to {}: another agent has this host's name or its token; stop \
                 it, or revoke the token",
                self.other
            )
        })
    }
}

fn describe(spec: &MemberSpec) -> String {
    let list = |addresses: Vec<String>| addresses.join(" and ");
    format!(
        "underlay {} and tunnel address {}",
        list(spec.underlay().map(|address| address.to_string()).collect()),
        list(spec.addresses.iter().map(ToString::to_string).collect())
    )
}

#[cfg(test)]
mod tests {
    use balancing_core::objects::MemberKind;

    use super::*;

    fn spec(last: u8) -> MemberSpec {
        MemberSpec {
            fabric: "f".to_owned(),
            kind: MemberKind::Node,
            name: "n1".to_owned(),
            uid: "u".to_owned(),
            underlay_v4: Some([192, 0, 2, last].into()),
            underlay_v6: None,
            port: 7710,
            mac: [0x66, 0, 0, 0, 0, 1],
            addresses: vec!["10.211.0.5".parse().unwrap()],
            mtu: 1450,
        }
    }

    #[test]
    fn whoever_is_contradicted_again_and_again_says_so_and_slows_down() {
        let (mut dispute, mut now) = (Dispute::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..10 {
            now = now.max(dispute.look(&spec(1), Some(&spec(2)), now));
            dispute.wrote(&spec(1), now);
            assert!(dispute.look(&spec(1), Some(&spec(1)), now) >= now);
            waits.push((dispute.look(&spec(1), Some(&spec(2)), now) - now).as_secs());
            assert_eq!(dispute.problem("node.n1").is_some(), waits.len() >= 3);
        }
        assert_eq!(waits, [0, 0, 1, 3, 7, 15, 31, 63, 63, 63]);
        let said = dispute.problem("node.n1").unwrap();
        assert!(said.contains("node.n1 is changed back") && said.contains("192.0.2.2"), "{said}");
        dispute.look(&spec(1), Some(&spec(1)), now + WHILE);
        assert_eq!(dispute.problem("node.n1"), None);
    }

    #[test]
    fn news_of_ones_own_and_deletions_are_no_dispute() {
        let (mut dispute, now) = (Dispute::default(), Instant::now());
        for last in 1..20 {
            for seen in [Some(spec(last - 1)), None, Some(spec(last)), None] {
                dispute.look(&spec(last), seen.as_ref(), now);
                dispute.wrote(&spec(last), now);
            }
        }
        assert_eq!(dispute.problem("node.n1"), None);
    }
    #[test]
    fn ones_own_words_that_are_shown_late_are_no_dispute() {
        let (mut dispute, now) = (Dispute::default(), Instant::now());
        for _ in 0..10 {
            // An address goes and comes back before the source has shown that it was gone.
            dispute.look(&spec(1), Some(&spec(1)), now);
            dispute.look(&spec(2), Some(&spec(1)), now);
            dispute.wrote(&spec(2), now);
            dispute.look(&spec(1), Some(&spec(1)), now);
            for _ in 0..2 {
                dispute.look(&spec(1), Some(&spec(2)), now);
            }
            dispute.wrote(&spec(1), now);
        }
        assert_eq!(dispute.problem("node.n1"), None);
    }
}
