use balancing_abi::model::PolicyKind;

use super::*;
use balancing_core::{failure::FailureReason, health::Health, objects::PolicyRef};

type Policies = Schedule<PolicyRef, PolicyHealth>;

fn policy(number: usize) -> PolicyRef {
    PolicyRef { kind: PolicyKind::LocalRedirect, name: format!("p{number:05}") }
}

fn health(uid: &str, message: Option<&str>) -> PolicyHealth {
    let problem = message.map(|message| Problem {
        failed: 1,
        reason: FailureReason::TableFull,
        message: message.to_owned(),
    });
    PolicyHealth { uid: uid.to_owned(), frontends: 1, problem }
}

fn one(message: Option<&str>) -> Health {
    Health::from([(policy(1), health("u", message))])
}

/// Seconds after the start.
struct Clock(Instant);

impl Clock {
    fn at(&self, seconds: u64) -> Instant {
        self.0 + Duration::from_secs(seconds)
    }
}

fn start() -> (Clock, Policies) {
    let now = Instant::now();
    (Clock(now), Policies::new(now))
}

fn told(next: Next<PolicyRef, PolicyHealth>) -> Option<String> {
    match next {
        Next::Tell(notice) => notice.state.problem.map(|problem| problem.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failure_and_its_end_are_told_once() {
    let (clock, mut schedule) = start();
    assert_eq!(schedule.next(clock.at(0), &one(None)), Next::Nothing, "nobody heard of a failure");
    assert_eq!(told(schedule.next(clock.at(0), &one(Some("full")))).as_deref(), Some("full"));
    assert_eq!(schedule.next(clock.at(100), &one(Some("full"))), Next::Nothing);
    assert_eq!(told(schedule.next(clock.at(101), &one(None))), None);
    assert_eq!(schedule.next(clock.at(102), &one(None)), Next::Nothing);
}

#[test]
fn a_policy_is_told_of_every_30_s_with_the_latest_text() {
    let (clock, mut schedule) = start();
    assert_eq!(told(schedule.next(clock.at(0), &one(Some("a")))).as_deref(), Some("a"));
    assert_eq!(schedule.next(clock.at(1), &one(Some("b"))), Next::At(clock.at(30)));
    assert_eq!(schedule.next(clock.at(2), &one(None)), Next::At(clock.at(30)));
    assert_eq!(schedule.next(clock.at(3), &one(Some("c"))), Next::At(clock.at(30)));
    assert_eq!(schedule.next(clock.at(29), &one(Some("a"))), Next::Nothing, "as it was told");
    assert_eq!(told(schedule.next(clock.at(30), &one(Some("c")))).as_deref(), Some("c"));
    assert_eq!(schedule.next(clock.at(31), &one(Some("d"))), Next::At(clock.at(60)));
}

#[test]
fn many_policies_share_a_burst_and_ten_a_minute() {
    let (clock, mut schedule) = start();
    let all: Health = (0..100).map(|n| (policy(n), health("u", Some("full")))).collect();
    let mut count = |seconds| {
        let tell = |_: &usize| matches!(schedule.next(clock.at(seconds), &all), Next::Tell(_));
        (0..100).take_while(tell).count()
    };
    assert_eq!(count(0), 20);
    assert_eq!(count(5), 0);
    assert_eq!(count(6), 1);
    assert_eq!(count(60), 9);
    assert_eq!(count(3600), 20, "room does not pile up");
    assert_eq!((count(3660), count(3720), count(3780), count(3840), count(3900)), (10, 10, 10, 10, 10));
    assert_eq!(count(9999), 0, "all were told");
}

#[test]
fn without_room_it_says_when_there_is_some() {
    let (clock, mut schedule) = start();
    let all: Health = (0..21).map(|n| (policy(n), health("u", Some("full")))).collect();
    while let Next::Tell(_) = schedule.next(clock.at(1), &all) {}
    assert_eq!(schedule.next(clock.at(2), &all), Next::At(clock.at(7)));
}

#[test]
fn a_new_failure_comes_before_an_old_one_with_a_new_text() {
    let (clock, mut schedule) = start();
    let mut all = one(Some("a"));
    told(schedule.next(clock.at(0), &all));
    all.insert(policy(1), health("u", Some("b")));
    all.insert(policy(2), health("u", Some("new")));
    assert_eq!(told(schedule.next(clock.at(40), &all)).as_deref(), Some("new"));
    assert_eq!(told(schedule.next(clock.at(40), &all)).as_deref(), Some("b"));
}

#[test]
fn a_policy_made_anew_is_another_one() {
    let (clock, mut schedule) = start();
    told(schedule.next(clock.at(0), &one(Some("full"))));
    let anew = |message| Health::from([(policy(1), health("v", message))]);
    assert_eq!(schedule.next(clock.at(40), &anew(None)), Next::Nothing, "it never failed");
    assert_eq!(told(schedule.next(clock.at(41), &anew(Some("full")))).as_deref(), Some("full"));
}

#[test]
fn policies_that_are_gone_or_well_take_no_room() {
    let (clock, mut schedule) = start();
    for round in 0..50 {
        let uid = round.to_string();
        let now = clock.at(round * 100);
        let failing = Health::from([(policy(round as usize), health(&uid, Some("full")))]);
        told(schedule.next(now, &failing));
    }
    assert_eq!(schedule.next(clock.at(9999), &Health::new()), Next::Nothing);
    assert!(schedule.told.is_empty());
    told(schedule.next(clock.at(10_000), &one(Some("full"))));
    told(schedule.next(clock.at(10_100), &one(None)));
    assert_eq!(schedule.next(clock.at(10_200), &one(None)), Next::Nothing);
    assert!(schedule.told.is_empty());
}
