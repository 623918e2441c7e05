//! The rounds: every case once a round beside the empty program, and every base, rested and warmed up.
//!
//! The empty program has a cgroup of its own, so that a case and the empty program can take turns within microseconds:
//! when the speed of the machine changes, it changes for both.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    thread::sleep,
    time::{Duration, Instant},
};

use balancing_tests::{Cgroup, dataplane::raise_open_files};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    cases::{self, Call, Case, FRONTENDS, Programs},
    work::{self, BATCH, CALLS, SOCKETS, WARM_UP},
};
use crate::{
    plane::{Attached, Plane, RunTime, attach_one, empty_program, run_time},
    statistics::{Pair, Point},
};

/// Rounds, when the time is enough for them.
const ROUNDS: usize = 50;
/// Time for the rounds.
const BUDGET: Duration = Duration::from_secs(230);
/// Links that change and sockets that close in numbers leave work to the kernel that takes up to this long.
const REST: Duration = Duration::from_millis(50);

/// Turns of a case and of the empty program, with new sockets: the process moves to another cgroup for each.
const TURNS: usize = 8;
/// New sockets of a turn that do not count: the move itself leaves the caches to others.
const SETTLE: usize = 2 * BATCH;

/// Parts of the calls for which the kernel's statistics are read apart.
const PARTS: usize = 16;

/// Everything that can be attached, and the cgroups to attach it to.
pub(super) struct Stage {
    many: Plane,
    one: Plane,
    empties: BTreeMap<Call, OwnedFd>,
    targets: Vec<SocketAddr>,
    // Dropped in this order: the process leaves the pod's cgroup before the one above goes.
    pod: Cgroup,
    root: Cgroup,
    beside: Cgroup,
}

/// Times of the calls of both sides, and of close(2) where the calls are on new sockets.
#[derive(Default)]
struct Sides {
    case: [Vec<f64>; 2],
    empty: [Vec<f64>; 2],
}

/// Measurements of all rounds.
#[derive(Default)]
pub(super) struct Record {
    /// Of a case and the empty program that took turns, by name of the case, one a round.
    pub(super) calls: BTreeMap<&'static str, Vec<Pair>>,
    /// The same for close(2).
    pub(super) closes: BTreeMap<&'static str, Vec<Pair>>,
    /// Of the empty program over no program, one after the other.
    pub(super) bases: BTreeMap<Call, Vec<Pair>>,
}

impl Stage {
    /// Loads and fills everything, and moves this thread to the last CPU and the process into the pod's cgroup.
    pub(super) fn set() -> Self {
        raise_open_files();
        let (mut many, mut one) = (Plane::load("bench"), Plane::load("bench-one"));
        cases::fill(&mut many);
        cases::fill_special(&mut many);
        cases::fill_one(&mut one);
        let root = Cgroup::new("bench");
        let mut pod = root.child("pod");
        pod.enter();
        let mut cpu = CpuSet::new();
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        cpu.set(last).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpu)).expect("the CPU is there");
        let empties = Call::ALL.map(|call| (call, empty_program(call.hook()))).into();
        Self { many, one, empties, targets: shuffled(), pod, root, beside: Cgroup::new("bench-beside") }
    }

    /// Measures every case in every round.
    pub(super) fn rounds(&mut self, cases: &[Case]) -> Record {
        let (mut record, start) = (Record::default(), Instant::now());
        for round in 0..ROUNDS {
            if start.elapsed() > BUDGET {
                eprintln!("hooks: {round} rounds of {ROUNDS}, the time is over");
                break;
            }
            self.targets.rotate_left(WARM_UP + CALLS);
            for call in rotated(&Call::ALL, round) {
                let group: Vec<Case> = cases.iter().filter(|case| case.call == call).copied().collect();
                self.group(call, &rotated(&group, round), &mut record);
            }
        }
        record
    }

    /// Measures the bases of one call and its cases.
    fn group(&self, call: Call, cases: &[Case], record: &mut Record) {
        let measure = |programs| self.base(&call.base(programs));
        let [first, empty, empty_again, last] =
            [Programs::None, Programs::Empty, Programs::Empty, Programs::None].map(measure);
        let bases = Pair { case: Point::between(empty, empty_again), base: Point::between(first, last) };
        record.bases.entry(call).or_default().push(bases);
        for case in cases {
            let sides = self.sides(case);
            let pair = |i: usize| Pair { case: Point::of(&sides.case[i]), base: Point::of(&sides.empty[i]) };
            record.calls.entry(case.name).or_default().push(pair(0));
            if call == Call::ConnectNew {
                record.closes.entry(case.name).or_default().push(pair(1));
            }
        }
    }

    /// Measures a call without a program or with the empty one.
    fn base(&self, case: &Case) -> Point {
        let _attached = self.attach(case);
        sleep(REST);
        if case.call == Call::ConnectNew {
            work::new_sockets(case.target, WARM_UP);
            sleep(REST);
            return Point::of(&work::new_sockets(case.target, SOCKETS).0);
        }
        let mut call = work::prepare(case, &self.targets[..WARM_UP + CALLS]);
        work::batches(&mut call, WARM_UP);
        Point::of(&work::batches(&mut call, CALLS))
    }

    /// Measures a case and the empty program in turns.
    fn sides(&self, case: &Case) -> Sides {
        let base = case.call.base(Programs::Empty);
        let _attached = self.attach(case);
        let _empty = attach_one(&self.empties[&case.call], case.call.hook(), &self.beside);
        if case.call == Call::ConnectNew {
            return self.new_sockets(case, &base);
        }
        let targets = &self.targets[..WARM_UP + CALLS];
        self.move_to(&self.beside);
        let mut empty = work::prepare(&base, targets);
        self.move_to(&self.pod);
        let mut call = work::prepare(case, targets);
        sleep(REST);
        work::batches(&mut empty, WARM_UP);
        work::batches(&mut call, WARM_UP);
        let mut sides = Sides::default();
        // Two batches in a row: the second finds the caches as it left them.
        for _ in 0..CALLS / BATCH / 2 {
            sides.empty[0].extend(work::batches(&mut empty, 2 * BATCH));
            sides.case[0].extend(work::batches(&mut call, 2 * BATCH));
        }
        work::check(case);
        sides
    }

    /// The same with calls on new sockets, which belong to the cgroup that the process is in.
    fn new_sockets(&self, case: &Case, base: &Case) -> Sides {
        sleep(REST);
        let mut sides = Sides::default();
        for turn in 0..TURNS {
            let turns = [(&self.beside, base, &mut sides.empty), (&self.pod, case, &mut sides.case)];
            for (cgroup, case, side) in turns {
                self.move_to(cgroup);
                work::new_sockets(case.target, if turn == 0 { WARM_UP } else { SETTLE });
                let (connects, closes) = work::new_sockets(case.target, SOCKETS / TURNS);
                side[0].extend(connects);
                side[1].extend(closes);
            }
        }
        sides
    }

    fn move_to(&self, cgroup: &Cgroup) {
        cgroup.add(std::process::id());
    }

    fn attach(&self, case: &Case) -> Option<Attached> {
        match case.programs {
            Programs::None => None,
            Programs::Empty => Some(attach_one(&self.empties[&case.call], case.call.hook(), &self.pod)),
            Programs::Pod => Some(self.many.attach_pod(&self.pod)),
            Programs::PodAndRoot => {
                Some(self.many.attach_pod(&self.pod).and(self.many.attach_root(&self.root)))
            }
            Programs::OneFrontend => Some(self.one.attach_pod(&self.pod)),
        }
    }

    /// Makes the calls of a case once more and says what the kernel counted inside its programs: nanoseconds a call in
    /// some parts of the calls.
    pub(super) fn inside(&self, case: &Case) -> Vec<f64> {
        let programs = self.programs(case);
        let part = |calls: &mut dyn FnMut()| {
            let before: Vec<RunTime> = programs.iter().map(run_time).collect();
            calls();
            let parts =
                before.into_iter().zip(&programs).map(|(before, program)| before.until(run_time(program)));
            let sum: f64 = parts.sum();
            assert!(sum > 0.0, "{}: no program ran", case.name);
            sum
        };
        let _attached = self.attach(case);
        sleep(REST);
        if case.call == Call::ConnectNew {
            work::new_sockets(case.target, WARM_UP);
            sleep(REST);
            return vec![part(&mut || drop(work::new_sockets(case.target, SOCKETS)))];
        }
        let mut call = work::prepare(case, &self.targets[..WARM_UP + CALLS]);
        work::batches(&mut call, WARM_UP);
        (0..PARTS).map(|_| part(&mut || drop(work::batches(&mut call, CALLS / PARTS)))).collect()
    }

    /// The programs that the call of a case may run.
    fn programs(&self, case: &Case) -> Vec<OwnedFd> {
        match case.programs {
            Programs::None => Vec::new(),
            Programs::Empty => vec![self.empties[&case.call].try_clone().expect("a descriptor")],
            Programs::Pod | Programs::PodAndRoot => self.many.programs(case.call.hook()),
            Programs::OneFrontend => self.one.programs(case.call.hook()),
        }
    }
}

/// Another order for every round: another first one, and every other round backwards.
fn rotated<T: Copy>(all: &[T], round: usize) -> Vec<T> {
    let mut order = all.to_vec();
    order.rotate_left(round / 2 % all.len());
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn shuffled() -> Vec<SocketAddr> {
    let mut targets: Vec<_> = (0..FRONTENDS).map(|i| cases::frontend(i).0).collect();
    let mut seed = 1_u64;
    for i in (1..targets.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        targets.swap(i, (seed >> 33) as usize % (i + 1));
    }
    targets
}
