use std::{cell::RefCell, sync::mpsc::Sender};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subject() -> Subject {
    let pair = |addresses: &[&str]| addresses.iter().map(|text| ip(text)).collect();
    Subject { device: 7, mtu: 1450, underlay: pair(&["192.0.2.1"]), addresses: pair(&["10.211.0.1"]) }
}

fn peers(count: u8) -> Vec<Member> {
    let peer = |n: u8| Member {
        name: format!("node.n{n}"),
        underlay: Pair::default(),
        port: 7710,
        mac: balancing_tunnel::Mac([n; 6]),
        addresses: [ip(&format!("10.211.0.{n}"))].into_iter().collect(),
        mtu: if n == 2 { 1400 } else { 0 },
    };
    (2..2 + count).map(peer).collect()
}

/// A proof whose questions are answered by hand.
struct Bench {
    proof: Proof,
    now: Instant,
    asked: RefCell<Vec<(Vec<Question>, Sender<Answers>)>>,
}

impl Bench {
    fn new() -> Self {
        Self { proof: Proof::default(), now: Instant::now(), asked: RefCell::default() }
    }

    fn look(&mut self, peers: &[Member]) -> Finding {
        self.look_at(&subject(), peers)
    }

    fn look_at(&mut self, subject: &Subject, peers: &[Member]) -> Finding {
        let asked = &self.asked;
        self.proof.look(subject, peers, self.now, |questions| {
            let (answers, told) = channel();
            asked.borrow_mut().push((questions, answers));
            Ok(told)
        })
    }

    /// Ends the round that runs; who was asked.
    fn answer(&mut self, reach: Reach) -> Vec<String> {
        let (questions, answers) = self.asked.borrow_mut().pop().expect("a round runs");
        answers.send(vec![(ip("10.211.0.1"), reach)]).unwrap();
        questions.iter().map(|question| format!("{} {}", question.peer, question.mtu)).collect()
    }

    fn is_asking(&self) -> bool {
        !self.asked.borrow().is_empty()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

fn proven() -> Option<Vec<IpAddr>> {
    Some(vec![ip("10.211.0.1")])
}

#[test]
fn whoever_is_answered_is_proven_until_the_device_changes() {
    let mut bench = Bench::new();
    assert_eq!(bench.look(&peers(5)).proven, None, "not known");
    assert_eq!(bench.answer(Reach::Full), ["node.n2 1400", "node.n3 1450", "node.n4 1450"]);
    let found = bench.look(&peers(5));
    assert_eq!(found, Finding { proven: proven(), ..Finding::default() });
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.look(&peers(6)).proven, proven());
    assert!(!bench.is_asking(), "nobody is asked again");
    let made_anew = Subject { device: 8, ..subject() };
    assert_eq!(bench.look_at(&made_anew, &peers(5)).proven, None);
    assert!(bench.is_asking());
}

#[test]
fn a_first_member_is_proven_by_itself_and_stays_so() {
    let mut bench = Bench::new();
    assert_eq!(bench.look(&[]), Finding { proven: proven(), ..Finding::default() });
    assert!(!bench.is_asking());
    assert_eq!(bench.look(&peers(1)).proven, proven());
    bench.answer(Reach::Nothing);
    bench.wait(SILENCE);
    let found = bench.look(&peers(1));
    assert_eq!((found.proven, found.fault), (proven(), None));
    assert!(found.problems[0].contains("asked last: node.n2"), "{:?}", found.problems);
}

#[test]
fn silence_is_no_proof_for_a_while_and_then_told() {
    let mut bench = Bench::new();
    let until = bench.now + SILENCE;
    bench.look(&peers(5));
    assert_eq!(bench.answer(Reach::Nothing).len(), AT_ONCE);
    let found = bench.look(&peers(5));
    assert_eq!((found.proven, found.again), (None, Some(bench.now + PAUSE.0)));
    assert!(!bench.is_asking(), "not before the pause is over");
    bench.wait(PAUSE.0);
    assert_eq!(bench.look(&peers(5)).again, Some(until));
    assert_eq!(
        bench.answer(Reach::Nothing),
        ["node.n5 1450", "node.n6 1450", "node.n2 1400"],
        "others are asked"
    );
    bench.now = until;
    let found = bench.look(&peers(5));
    assert_eq!(found.proven, proven());
    assert!(found.problems[0].contains("firewall"), "{:?}", found.problems);
    bench.wait(PAUSE.1);
    bench.look(&peers(5));
    bench.answer(Reach::Full);
    assert_eq!(bench.look(&peers(5)), Finding { proven: proven(), ..Finding::default() });
}

#[test]
fn a_way_that_carries_small_packets_only_is_no_proof() {
    let mut bench = Bench::new();
    for round in 0..BELIEVED {
        assert_eq!(bench.look(&peers(1)).proven, None, "{round}");
        bench.answer(Reach::Small);
        bench.look(&peers(1));
        bench.wait(PAUSE.1);
    }
    let found = bench.look(&peers(1));
    assert_eq!(found.proven, Some(Vec::new()));
    assert!(found.fault.unwrap().contains("set spec.mtu of the TunnelFabric lower"));
    bench.wait(SILENCE);
    assert_eq!(bench.look(&peers(1)).proven, Some(Vec::new()), "time changes nothing");
    bench.answer(Reach::Full);
    assert_eq!(bench.look(&peers(1)), Finding { proven: proven(), ..Finding::default() });
}

#[test]
fn a_round_that_got_lost_is_made_again() {
    let mut bench = Bench::new();
    bench.look(&peers(1));
    bench.asked.borrow_mut().clear();
    assert!(bench.look(&peers(1)).again.is_some());
    bench.wait(PAUSE.1);
    bench.look(&peers(1));
    assert!(bench.is_asking());
}
