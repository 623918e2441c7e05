//! How the kernel is made as the objects want it: duties with one small interface, and the scheduler that drives them.
//!
//! A reconciler is level-triggered: it looks at what is wanted, makes the kernel so, and says what is left. It keeps no timer and
//! no flag of its own; when it runs again is the scheduler's business. Nothing here waits: the time is an argument.

use std::{
    ops::{BitOr, BitOrAssign},
    time::{Duration, Instant, SystemTime},
};

pub mod exempt;
pub(crate) mod fabric;
pub(crate) mod forwards;
pub mod host_links;
pub mod link_check;
pub mod older_abi;
pub mod pins;
pub mod pod_links;
pub mod tables;

/// Time between two looks at everything, also at what seems settled.
pub(crate) const LOOK: Duration = Duration::from_secs(30);

/// Why reconcilers sleep.
pub(crate) const NOT_LISTED: &str = "the source has not delivered its complete list";
pub(crate) const NOT_FILLED: &str = "links are made when the tables are filled";
pub(crate) const NOT_HOOKED: &str = "the links come first";

/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// The shortest wait that a reconciler can ask for, so that none can spin.
const SOONEST: Duration = Duration::from_millis(100);

/// What happened that a reconciler may have to act upon: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News(u16);

impl News {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Objects changed.
    pub const OBJECTS: Self = Self(1);
    /// Local pods changed.
    pub const PODS: Self = Self(1 << 1);
    /// By what pods are recognised changed.
    pub const IDENTITIES: Self = Self(1 << 2);
    /// The tables have been filled for the first time.
    pub const FILLED: Self = Self(1 << 3);
    /// The links of the host have been made for the first time.
    pub const HOOKED: Self = Self(1 << 4);
    /// Who is exempt changed.
    pub const EXEMPT: Self = Self(1 << 5);
    /// Cgroups, the plugin's records or links of pods changed.
    pub const POD_LINKS: Self = Self(1 << 6);
    /// Links of the host changed.
    pub const HOST_LINKS: Self = Self(1 << 7);
    /// Objects of the fabric or a Node changed.
    pub const FABRIC: Self = Self(1 << 8);
    /// Links, addresses, routes or neighbours of the host changed.
    pub const NETWORK: Self = Self(1 << 9);
    /// What the proxy forwards, or at which addresses, may have changed.
    pub const PROXY: Self = Self(1 << 10);

    /// Whether both have something in common.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for News {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for News {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What it needs is not complete yet. It sleeps until there is news for it; until then the agent is not ready.
    Asleep(&'static str),
    /// The same, but not beyond that time.
    AsleepUntil(&'static str, Instant),
    /// The kernel is as wanted.
    Done,
    /// The same, and something is to be looked at again at that time.
    Again(Instant),
    /// It has done what it could. The rest is wrong, in words, and looked at again at that time, or when there is news.
    Partly(String, Option<Instant>),
    /// Something failed, in words. It is tried again, later each time.
    Failed(String),
}

/// One duty.
pub trait Reconciler<W> {
    /// Its name in readiness and metrics: a fixed word.
    fn name(&self) -> &'static str;
    /// The news that it acts upon.
    fn listens_to(&self) -> News;
    /// How long the kernel is trusted to stay as it was made.
    fn period(&self) -> Option<Duration>;
    /// Makes the kernel as wanted. `everything`: what seems settled is looked at, too. Returns what that is news of.
    fn reconcile(&mut self, world: &mut W, everything: bool) -> (Outcome, News);
}

/// A reconciler and how it is doing.
struct Slot<W> {
    reconciler: Box<dyn Reconciler<W> + Send>,
    state: State,
}

/// How a reconciler is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its name.
    pub name: &'static str,
    /// What keeps the agent from being ready; `None` = it has done its work.
    pub problem: Option<String>,
    /// It has tried and failed, and does it again.
    pub is_failing: bool,
    /// Runs since the start.
    pub runs: u64,
    /// Runs that failed.
    pub failures: u64,
    /// When it left nothing to do last.
    pub last_success: Option<SystemTime>,
    /// There is news for it.
    is_woken: bool,
    /// When it is to run without news.
    due: Option<Instant>,
    /// When it is to look at everything.
    look_at: Option<Instant>,
    retry: Duration,
}

/// Drives reconcilers in their order, which is that in which they depend on one another.
pub struct Scheduler<W> {
    slots: Vec<Slot<W>>,
}

impl<W> Scheduler<W> {
    /// Each runs for the first time at the first [`Self::run`].
    #[must_use]
    pub fn new(reconcilers: Vec<Box<dyn Reconciler<W> + Send>>) -> Self {
        let slot = |reconciler: Box<dyn Reconciler<W> + Send>| Slot {
            state: State::new(reconciler.name()),
            reconciler,
        };
        Self { slots: reconcilers.into_iter().map(slot).collect() }
    }

    /// Tells news; those that listen run at the next [`Self::run`].
    pub fn tell(&mut self, news: News) {
        for slot in &mut self.slots {
            slot.state.is_woken |= slot.reconciler.listens_to().meets(news);
        }
    }

    /// When something is to be done without news.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.slots.iter().flat_map(|slot| [slot.state.due, slot.state.look_at]).flatten().min()
    }

    /// Runs what has news or is due, and then what that is news for. Each runs twice at most, so that this ends.
    pub fn run(&mut self, world: &mut W, now: Instant) {
        for _ in 0..2 {
            for index in 0..self.slots.len() {
                let slot = &mut self.slots[index];
                if !slot.state.is_due(now) {
                    continue;
                }
                let news = slot.run(world, now);
                self.tell(news);
            }
        }
        // Whoever is still woken by the others has its turn soon, but others come first.
        for state in self.slots.iter_mut().map(|slot| &mut slot.state).filter(|state| state.is_woken) {
            state.due = Some(now + SOONEST);
        }
    }

    /// How all are doing, in their order.
    pub fn states(&self) -> impl Iterator<Item = &State> {
        self.slots.iter().map(|slot| &slot.state)
    }
}

impl State {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            problem: Some("it has not run yet".to_owned()),
            is_failing: false,
            runs: 0,
            failures: 0,
            last_success: None,
            is_woken: true,
            due: None,
            look_at: None,
            retry: RETRY.0,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.is_woken || [self.due, self.look_at].into_iter().flatten().any(|at| at <= now)
    }
}

impl<W> Slot<W> {
    fn run(&mut self, world: &mut W, now: Instant) -> News {
        let everything = self.state.look_at.is_some_and(|at| at <= now);
        (self.state.is_woken, self.state.due) = (false, None);
        let (outcome, news) = self.reconciler.reconcile(world, everything);
        self.note(outcome, everything, now);
        news
    }

    fn note(&mut self, outcome: Outcome, everything: bool, now: Instant) {
        let state = &mut self.state;
        state.runs += 1;
        // News do not put it off. It is put off by a failure, too: what is past would be due for ever.
        if everything || state.look_at.is_none() {
            state.look_at = self.reconciler.period().map(|period| now + period);
        }
        state.is_failing = matches!(outcome, Outcome::Failed(_));
        match outcome {
            Outcome::Asleep(why) | Outcome::AsleepUntil(why, _) => {
                state.problem = Some(why.to_owned());
                state.look_at = None;
            }
            Outcome::Failed(why) => {
                state.failures += 1;
                state.problem = Some(why);
                state.due = Some(now + state.retry);
                state.retry = (state.retry * 2).min(RETRY.1);
                return;
            }
            Outcome::Done | Outcome::Again(_) => {
                state.problem = None;
                state.last_success = Some(SystemTime::now());
            }
            Outcome::Partly(ref why, _) => state.problem = Some(why.clone()),
        }
        if let Outcome::Again(at) | Outcome::AsleepUntil(_, at) | Outcome::Partly(_, Some(at)) = outcome {
            state.due = Some(at.max(now + SOONEST));
        }
        state.retry = RETRY.0;
    }
}

#[cfg(test)]
mod tests;
