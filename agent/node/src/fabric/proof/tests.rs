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
    named("node", 2..2 + count)
}

fn named(kind: &str, numbers: std::ops::Range<u8>) -> Vec<Member> {
    let peer = |n: u8| Member {
        name: format!("{kind}.n{n}"),
        underlay: Pair::default(),
        port: 7710,
        mac: balancing_tunnel::Mac([n; 6]),
        addresses: [ip(&format!("10.211.0.{n}"))].into_iter().collect(),
        mtu: if n == 2 { 1400 } else { 0 },
    };
    numbers.map(peer).collect()
}

/// A proof whose questions are answered by hand.
struct Bench {
    proof: Proof,
    now: Instant,
    annotated: Vec<IpAddr>,
    asked: RefCell<Vec<(Vec<Question>, Sender<Answers>)>>,
}

impl Bench {
    fn new() -> Self {
        let (proof, asked) = (Proof::default(), RefCell::default());
        Self { proof, now: Instant::now(), annotated: Vec::new(), asked }
    }

    fn look(&mut self, peers: &[Member]) -> Finding {
        self.look_at(&subject(), peers)
    }

    fn look_at(&mut self, subject: &Subject, peers: &[Member]) -> Finding {
        let asked = &self.asked;
        self.proof.look(subject, peers, &self.annotated, self.now, |questions| {
            let (answers, told) = channel();
            asked.borrow_mut().push((questions, answers));
            Ok(told)
        })
    }

    /// Ends the round that runs; who was asked.
    fn answer(&mut self, reach: Reach) -> Vec<String> {
        self.answer_each(|_| reach)
    }

    fn answer_each(&mut self, reach: impl Fn(&str) -> Reach) -> Vec<String> {
        let (questions, answers) = self.asked.borrow_mut().pop().expect("a round runs");
        let told = questions.iter().map(|question| (question.clone(), reach(&question.peer)));
        answers.send(told.collect()).unwrap();
        questions.iter().map(|question| format!("{} {}", question.peer, question.mtu)).collect()
    }

    /// One round, and the pause behind it.
    fn round(&mut self, peers: &[Member], reach: impl Fn(&str) -> Reach) -> Finding {
        self.look(peers);
        self.answer_each(reach);
        let found = self.look(peers);
        self.wait(PAUSE.1);
        found
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

#[test]
fn nodes_are_asked_before_hosts_outside() {
    let mut bench = Bench::new();
    let all = [named("host", 10..40), named("node", 2..7)].concat();
    bench.look(&all);
    assert!(bench.answer(Reach::Nothing).iter().all(|asked| asked.starts_with("node.")));
    let few = [named("host", 10..40), named("node", 2..3)].concat();
    let mut bench = Bench::new();
    bench.look(&few);
    assert_eq!(bench.answer(Reach::Nothing), ["node.n2 1400", "host.n10 1450", "host.n11 1450"]);
    bench.look(&few);
    bench.wait(PAUSE.1);
    bench.look(&few);
    assert_eq!(bench.answer(Reach::Nothing), ["node.n2 1400", "host.n12 1450", "host.n13 1450"]);
}

#[test]
fn an_annotation_stays_until_every_node_or_many_were_asked() {
    for (nodes, rounds) in [(1, BELIEVED), (12, 4), (200, MANY / AT_ONCE)] {
        let all = peers(nodes);
        let mut bench = Bench { annotated: proven().unwrap(), ..Bench::new() };
        for round in 1..rounds {
            let found = bench.round(&all, |_| Reach::Small);
            assert_eq!((found.proven, found.fault), (None, None), "{nodes}: {round}");
        }
        assert!(bench.round(&all, |_| Reach::Small).fault.is_some(), "{nodes}");
        // It is taken back now, and silence of some does not bring it again.
        bench.annotated.clear();
        if rounds > BELIEVED {
            assert_eq!(bench.round(&all, |_| Reach::Nothing).proven, Some(Vec::new()));
        }
        assert_eq!(bench.round(&all, |_| Reach::Full).proven, proven());
    }
}

#[test]
fn a_new_host_behind_a_narrow_way_is_not_believed_for_long() {
    let mut bench = Bench::new();
    assert_eq!(bench.round(&peers(200), |_| Reach::Small).fault, None);
    assert!(bench.round(&peers(200), |_| Reach::Small).fault.is_some());
}

#[test]
fn small_answers_of_hosts_outside_are_told_and_take_nothing_back() {
    let outside = |peer: &str| if peer.starts_with("host.") { Reach::Small } else { Reach::Nothing };
    let all = [named("host", 10..40), named("node", 2..3)].concat();
    let mut bench = Bench { annotated: proven().unwrap(), ..Bench::new() };
    for _ in 0..20 {
        let found = bench.round(&all, outside);
        assert_eq!(found.fault, None);
        assert_ne!(found.proven, Some(Vec::new()));
    }
    let found = bench.round(&all, outside);
    assert_eq!(found.proven, proven());
    assert!(found.problems[0].contains("host.n") && !found.problems[0].contains("node.n"), "{found:?}");
}

#[test]
fn the_words_of_a_fault_stay_the_same_and_the_view_names_who_answered() {
    let mut bench = Bench::new();
    let found: Vec<_> = (0..6).map(|_| bench.round(&peers(9), |_| Reach::Small)).skip(BELIEVED).collect();
    for pair in found.windows(2) {
        assert!(pair[0].fault.is_some());
        assert_eq!(pair[0].fault, pair[1].fault);
        assert!(pair[0].problems[0].starts_with("node.n"), "{pair:?}");
        assert_ne!(pair[0].problems, pair[1].problems, "others are asked");
    }
}
