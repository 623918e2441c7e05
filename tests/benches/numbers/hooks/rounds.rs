//! The rounds: every case once a round, between its bases, rested and warmed up.

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
    statistics::{Point, Trio},
    work::{self, CALLS, SOCKETS, WARM_UP},
};
use crate::plane::{Attached, Plane, RunTime, attach_one, empty_program, run_time};

/// Rounds, when the time is enough for them.
const ROUNDS: usize = 40;
/// Time for the rounds.
const BUDGET: Duration = Duration::from_secs(230);
/// Links that change and sockets that close in numbers leave work to the kernel that takes up to this long.
const REST: Duration = Duration::from_millis(50);

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
}

/// One measurement.
struct Sample {
    calls: Point,
    /// Of calls on new sockets.
    closes: Option<Point>,
}

/// Measurements of all rounds.
#[derive(Default)]
pub(super) struct Record {
    /// By name of the case, one a round.
    pub(super) calls: BTreeMap<&'static str, Vec<Trio>>,
    /// The same for close(2).
    pub(super) closes: BTreeMap<&'static str, Vec<Trio>>,
    /// Tenth percentiles of the bases in the order in which they were measured.
    pub(super) bases: BTreeMap<(Call, Programs), Vec<f64>>,
    /// The same for close(2).
    pub(super) base_closes: BTreeMap<Programs, Vec<f64>>,
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
        Self { many, one, empties, targets: shuffled(), pod, root }
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

    /// Measures the cases of one call, each between two measurements of its bases.
    fn group(&self, call: Call, cases: &[Case], record: &mut Record) {
        let mut before = self.bases(call, record);
        for case in cases {
            let sample = self.measure(case);
            let after = self.bases(call, record);
            let between = |pick: fn(&Sample) -> Option<Point>| {
                let [none, empty] = [0, 1].map(|i| Some(Point::between(pick(&before[i])?, pick(&after[i])?)));
                Some(Trio { case: pick(&sample)?, none: none?, empty: empty? })
            };
            record.calls.entry(case.name).or_default().extend(between(|sample| Some(sample.calls)));
            record.closes.entry(case.name).or_default().extend(between(|sample| sample.closes));
            before = after;
        }
    }

    /// Measures a call without a program and with the empty one.
    fn bases(&self, call: Call, record: &mut Record) -> [Sample; 2] {
        [Programs::None, Programs::Empty].map(|programs| {
            let sample = self.measure(&call.base(programs));
            record.bases.entry((call, programs)).or_default().push(sample.calls.p10);
            let closes = sample.closes.map(|closes| closes.p10);
            record.base_closes.entry(programs).or_default().extend(closes);
            sample
        })
    }

    fn measure(&self, case: &Case) -> Sample {
        let _attached = self.attach(case);
        sleep(REST);
        if case.call == Call::ConnectNew {
            work::new_sockets(case.target, WARM_UP);
            sleep(REST);
            let (connects, closes) = work::new_sockets(case.target, SOCKETS);
            return Sample { calls: Point::of(&connects), closes: Some(Point::of(&closes)) };
        }
        let mut call = work::prepare(case, &self.targets[..WARM_UP + CALLS]);
        work::batches(&mut call, WARM_UP);
        let calls = work::batches(&mut call, CALLS);
        work::check(case);
        Sample { calls: Point::of(&calls), closes: None }
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
