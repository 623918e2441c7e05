//! Whether the tunnel carries: another member has answered a packet of full size from the own address.
//!
//! Only then is anybody sent here. A member without others is proven by itself. Where all that are asked are silent for a while it is
//! taken as proven, with a word about it: they may be down, and a host must not be without its annotation because others are. That
//! small packets are answered by nodes and no large ones is another matter: connections would hang, so nobody is sent here. A host
//! that has its annotation loses it only after many nodes were asked, for it may be the way to the first of them that is narrow.
//! Hosts outside the cluster are behind ways of any kind, and prove nothing against this one. What was answered once stays proven
//! until the device changes, and nobody is asked any more.
//!
//! Nothing here waits: the questions are asked on a thread of their own, one round at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use balancing_tunnel::{Member, Pair, echo};

/// Members that are asked at once for an address.
const AT_ONCE: usize = 3;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long silence is no proof.
const SILENCE: Duration = Duration::from_secs(20);
/// Rounds in which only small packets were answered, before that is believed: one may get lost.
const BELIEVED: usize = 2;
/// Nodes after which no more have to be asked before that is believed of a host that has its annotation.
const MANY: usize = 36;
/// How the names of nodes begin; the other members are hosts outside the cluster.
const NODE: &str = "node.";
/// First and longest wait between two rounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Bytes of a small packet.
const SMALL: usize = 84;

/// What is to be proven: another device is another matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Index of the device.
    pub(crate) device: u32,
    /// Its MTU.
    pub(crate) mtu: u32,
    /// Its place on the underlay.
    pub(crate) underlay: Pair,
    /// Its addresses.
    pub(crate) addresses: Pair,
}

/// What one member is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    peer: String,
    from: IpAddr,
    to: IpAddr,
    mtu: u32,
}

/// What came back of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    Nothing,
    Small,
    Full,
}

/// What came back of each.
pub(crate) type Answers = Vec<(Question, Reach)>;

/// What a round came to, where no packet of full size was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Nothing,
    /// Small packets, and only by hosts outside the cluster.
    SmallOutside,
    /// Small packets, by a node.
    Small,
}

/// What is known of an own address.
#[derive(Clone, Debug, Default)]
struct Evidence {
    /// There was nobody to ask.
    was_alone: bool,
    is_answered: bool,
    asked_since: Option<Instant>,
    /// What the last rounds came to: no more of them than are needed to ask every node, or many.
    rounds: VecDeque<Round>,
    /// How many those are.
    rotation: usize,
    /// Nodes answer small packets only, as far as is known.
    is_cut: bool,
    /// Who was asked last.
    asked: Vec<String>,
    /// Who answered small packets only in the last round in which somebody did.
    small: Vec<String>,
}

/// What is known so far.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    subject: Option<Subject>,
    evidence: BTreeMap<IpAddr, Evidence>,
    asking: Option<Receiver<Answers>>,
    rounds: u32,
    /// When the next round may begin.
    next: Option<Instant>,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Addresses that carry; `None` = not known yet.
    pub(crate) proven: Option<Vec<IpAddr>>,
    /// What keeps large packets from passing. It goes into Events, so its words stay the same while others are asked.
    pub(crate) fault: Option<String>,
    /// What an administrator should know, by name.
    pub(crate) problems: Vec<String>,
    /// When there is more to see without news.
    pub(crate) again: Option<Instant>,
}

impl Proof {
    /// Takes in what has come, begins another round if one is due, and says what is known. `ask` puts the questions and tells the
    /// answers later; `annotated`: addresses to which others are sent now.
    pub(crate) fn look(
        &mut self,
        subject: &Subject,
        peers: &[Member],
        annotated: &[IpAddr],
        now: Instant,
        ask: impl FnOnce(Vec<Question>) -> io::Result<Receiver<Answers>>,
    ) -> Finding {
        if self.subject.as_ref() != Some(subject) {
            let evidence = subject.addresses.iter().map(|address| (address, Evidence::default())).collect();
            *self = Self { subject: Some(subject.clone()), evidence, ..Self::default() };
        }
        self.take_answers(annotated, now);
        let questions = self.questions(subject, peers);
        let open = !questions.is_empty();
        if open && self.asking.is_none() && self.next.is_none_or(|next| next <= now) {
            self.note_asked(&questions, now);
            match ask(questions) {
                Ok(answers) => self.asking = Some(answers),
                Err(error) => {
                    tracing::warn!(%error, "the other members cannot be asked whether the tunnel carries");
                    self.pause(now);
                }
            }
        }
        self.finding(subject.mtu, open, now)
    }

    fn take_answers(&mut self, annotated: &[IpAddr], now: Instant) {
        let Some(asking) = &self.asking else { return };
        let answers = match asking.try_recv() {
            Ok(answers) => answers,
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => Vec::new(),
        };
        self.asking = None;
        self.pause(now);
        for (address, evidence) in &mut self.evidence {
            let told: Vec<_> = answers.iter().filter(|(question, _)| question.from == *address).collect();
            evidence.take(&told, annotated.contains(address));
        }
    }

    fn pause(&mut self, now: Instant) {
        let wait = PAUSE.0.saturating_mul(1 << self.rounds.min(16)).min(PAUSE.1);
        self.next = Some(now + wait);
        self.rounds += 1;
    }

    /// Whom to ask next, for the addresses that nobody has answered: others each time.
    fn questions(&mut self, subject: &Subject, peers: &[Member]) -> Vec<Question> {
        let mut questions = Vec::new();
        for (&from, evidence) in self.evidence.iter_mut().filter(|(_, evidence)| !evidence.is_answered) {
            let to = |peer: &Member| peer.addresses.iter().find(|to| to.is_ipv4() == from.is_ipv4());
            let able = peers.iter().filter_map(|peer| {
                let mtu = if peer.mtu == 0 { subject.mtu } else { subject.mtu.min(peer.mtu) };
                Some(Question { peer: peer.name.clone(), from, to: to(peer)?, mtu })
            });
            let (nodes, outside): (Vec<_>, Vec<_>) = able.partition(Question::is_of_node);
            evidence.was_alone |= nodes.is_empty() && outside.is_empty();
            evidence.rotation = nodes.len().min(MANY).div_ceil(AT_ONCE).max(BELIEVED);
            let mut of_round = turn(&nodes, AT_ONCE, self.rounds);
            // What says more goes first; others are asked where there are too few nodes.
            of_round.extend(turn(&outside, AT_ONCE - of_round.len(), self.rounds));
            questions.extend(of_round);
        }
        questions
    }

    fn note_asked(&mut self, questions: &[Question], now: Instant) {
        for (address, evidence) in &mut self.evidence {
            let of_address = questions.iter().filter(|question| question.from == *address);
            let asked: Vec<_> = of_address.map(|question| question.peer.clone()).collect();
            if !asked.is_empty() {
                evidence.asked_since.get_or_insert(now);
                evidence.asked = asked;
            }
        }
    }

    fn finding(&self, mtu: u32, open: bool, now: Instant) -> Finding {
        let mut finding = Finding { proven: Some(Vec::new()), ..Finding::default() };
        for (&address, evidence) in &self.evidence {
            let silence = evidence.asked_since.map(|since| since + SILENCE);
            let is_cut = evidence.is_cut;
            let is_silent = !evidence.hears_nodes() && silence.is_some_and(|until| until <= now);
            if !evidence.is_answered && is_cut {
                finding.problems.push(too_small(address, mtu, &evidence.small.join(", ")));
                if !evidence.was_alone {
                    let who = format!(
                        "nodes (up to {AT_ONCE} are asked at a time, `balancingctl fabric` names them)"
                    );
                    finding.fault = Some(too_small(address, mtu, &who));
                }
            } else if !evidence.is_answered && evidence.count(Round::SmallOutside) >= BELIEVED {
                finding.problems.push(too_small(address, mtu, &evidence.small.join(", ")));
            } else if !evidence.is_answered && is_silent {
                finding.problems.push(silent(address, &evidence.asked));
            }
            if evidence.is_answered || evidence.was_alone || is_silent && !is_cut {
                finding.proven.iter_mut().for_each(|proven| proven.push(address));
            } else if !is_cut {
                finding.proven = None;
                finding.again = finding.again.into_iter().chain(silence.filter(|until| *until > now)).min();
            }
        }
        if open && self.asking.is_none() {
            finding.again = finding.again.into_iter().chain(self.next).min();
        }
        finding
    }
}

impl Question {
    fn is_of_node(&self) -> bool {
        self.peer.starts_with(NODE)
    }
}

impl Evidence {
    /// Takes in what a round came to.
    fn take(&mut self, told: &[&(Question, Reach)], is_annotated: bool) {
        let Some(best) = told.iter().map(|(_, reach)| *reach).max() else { return };
        if best == Reach::Full {
            self.is_answered = true;
            return;
        }
        let small: Vec<_> = told.iter().filter(|(_, reach)| *reach == Reach::Small).collect();
        let round = match small.is_empty() {
            true => Round::Nothing,
            false if small.iter().any(|(question, _)| question.is_of_node()) => Round::Small,
            false => Round::SmallOutside,
        };
        if round != Round::Nothing {
            self.small = small.iter().map(|(question, _)| question.peer.clone()).collect();
        }
        self.rounds.push_back(round);
        self.rounds.drain(..self.rounds.len().saturating_sub(self.rotation));
        let is_whole = self.rounds.len() == self.rotation;
        let mut last = self.rounds.iter().rev().take(BELIEVED);
        let is_believed = is_whole || !is_annotated && last.all(|round| *round == Round::Small);
        if is_believed && self.count(Round::Small) >= BELIEVED {
            self.is_cut = true;
        } else if is_whole {
            self.is_cut = false;
        }
    }

    fn count(&self, what: Round) -> usize {
        self.rounds.iter().filter(|round| **round == what).count()
    }

    /// Nodes answer something: that is no silence, whatever it will turn out to be.
    fn hears_nodes(&self) -> bool {
        self.rounds.back() == Some(&Round::Small) || self.count(Round::Small) >= BELIEVED
    }
}

/// So many of them in this round, others each time.
fn turn(of: &[Question], places: usize, round: u32) -> Vec<Question> {
    let first = if of.is_empty() { 0 } else { round as usize * places % of.len() };
    of.iter().cycle().skip(first).take(places.min(of.len())).cloned().collect()
}

/// Asks on threads of their own; `done` is called when the answers are there.
///
/// # Errors
/// No thread.
pub(crate) fn ask(
    questions: Vec<Question>,
    done: impl FnOnce() + Send + 'static,
) -> io::Result<Receiver<Answers>> {
    let (answers, told) = channel();
    thread::Builder::new().name("proof".to_owned()).spawn(move || {
        let all = thread::scope(|scope| {
            let asked: Vec<_> = questions.iter().map(|question| scope.spawn(|| reach(question))).collect();
            let reaches = asked.into_iter().map(|thread| thread.join().unwrap_or(Reach::Nothing));
            questions.iter().cloned().zip(reaches).collect()
        });
        // Whoever asked may have another device by now.
        answers.send(all).ok();
        done();
    })?;
    Ok(told)
}

fn reach(question: &Question) -> Reach {
    let Question { from, to, mtu, .. } = question;
    if echo(*from, *to, *mtu as usize, PATIENCE).is_ok() {
        return Reach::Full;
    }
    if echo(*from, *to, SMALL, PATIENCE).is_ok() { Reach::Small } else { Reach::Nothing }
}

fn too_small(address: IpAddr, mtu: u32, who: &str) -> String {
    format!(
        "{who} answer small packets of {address}, but none of the tunnel's MTU {mtu}: the way between the hosts carries less than \
         their interfaces say; set spec.mtu of the TunnelFabric lower"
    )
}

fn silent(address: IpAddr, asked: &[String]) -> String {
    format!(
        "no member has answered {address} through the tunnel yet (asked last: {}): either they are down, or a firewall between the \
         hosts drops the tunnel's UDP port; see `balancingctl fabric check`",
        asked.join(", ")
    )
}

#[cfg(test)]
mod tests;
