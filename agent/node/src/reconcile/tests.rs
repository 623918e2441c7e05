//! The scheduler with a clock that the test drives.

use super::*;

/// What a fake does next, and what it was asked.
#[derive(Default)]
struct World {
    outcomes: Vec<Outcome>,
    news: News,
    runs: Vec<(&'static str, bool)>,
}

struct Fake {
    name: &'static str,
    listens_to: News,
    period: Option<Duration>,
}

impl Reconciler<World> for Fake {
    fn name(&self) -> &'static str {
        self.name
    }
    fn listens_to(&self) -> News {
        self.listens_to
    }
    fn period(&self) -> Option<Duration> {
        self.period
    }
    fn reconcile(&mut self, world: &mut World, everything: bool) -> (Outcome, News) {
        world.runs.push((self.name, everything));
        (world.outcomes.pop().unwrap_or(Outcome::Done), std::mem::take(&mut world.news))
    }
}

fn scheduler(fakes: impl IntoIterator<Item = Fake>) -> Scheduler<World> {
    Scheduler::new(
        fakes.into_iter().map(|fake| Box::new(fake) as Box<dyn Reconciler<World> + Send>).collect(),
    )
}

fn fake(name: &'static str, listens_to: News, period: Option<u64>) -> Fake {
    Fake { name, listens_to, period: period.map(Duration::from_secs) }
}

/// Drives the clock as the thread does; returns how often anything ran.
fn drive(scheduler: &mut Scheduler<World>, world: &mut World, start: Instant, time: Duration) -> usize {
    let (mut now, mut wakes) = (start, 0);
    while now < start + time {
        world.runs.clear();
        scheduler.run(world, now);
        wakes += 1;
        assert!(wakes < 10_000, "it spins");
        now = scheduler.next_due().unwrap_or(start + time).max(now);
    }
    wakes
}

#[test]
fn whoever_sleeps_is_not_woken_by_the_clock() {
    let start = Instant::now();
    let mut scheduler = scheduler([fake("a", News::OBJECTS, Some(30))]);
    let mut world = World { outcomes: vec![Outcome::Asleep("no objects"); 3], ..World::default() };
    assert_eq!(drive(&mut scheduler, &mut world, start, Duration::from_secs(3600)), 1);
    let problem = scheduler.states().next().unwrap().problem.clone();
    assert_eq!(problem.as_deref(), Some("no objects"));
    scheduler.tell(News::OBJECTS);
    world.outcomes.clear();
    scheduler.run(&mut world, start);
    assert_eq!(scheduler.states().next().unwrap().problem, None);
}

#[test]
fn a_sleep_with_an_end_is_over_then_and_not_before() {
    let start = Instant::now();
    let end = start + Duration::from_secs(60);
    let mut scheduler = scheduler([fake("a", News::OBJECTS, Some(30))]);
    let mut world = World { outcomes: vec![Outcome::AsleepUntil("may come", end)], ..World::default() };
    scheduler.run(&mut world, start);
    let state = scheduler.states().next().unwrap().clone();
    assert_eq!((state.problem.as_deref(), state.is_failing), (Some("may come"), false));
    assert_eq!(scheduler.next_due(), Some(end), "no look at what is not made yet");
    scheduler.run(&mut world, end - Duration::from_millis(1));
    assert_eq!(world.runs.len(), 1);
    scheduler.run(&mut world, end);
    assert_eq!((world.runs.len(), scheduler.states().next().unwrap().problem.clone()), (2, None));
}

#[test]
fn a_period_is_a_look_at_everything_also_after_failures() {
    let start = Instant::now();
    let mut scheduler = scheduler([fake("a", News::NONE, Some(30))]);
    let mut world = World::default();
    scheduler.run(&mut world, start);
    scheduler.run(&mut world, start + Duration::from_secs(29));
    scheduler.run(&mut world, start + Duration::from_secs(30));
    assert_eq!(world.runs, [("a", false), ("a", true)]);
    world.outcomes = vec![Outcome::Failed("no".to_owned()); 2000];
    // An hour of failures: 100 ms, 200 ms, ... 30 s.
    let wakes = drive(&mut scheduler, &mut world, start + Duration::from_secs(60), Duration::from_secs(3600));
    assert!((120..260).contains(&wakes), "{wakes} wakes in an hour");
    assert!(scheduler.states().next().unwrap().is_failing);
}

#[test]
fn news_does_not_put_the_look_at_everything_off() {
    let start = Instant::now();
    let mut scheduler = scheduler([fake("a", News::OBJECTS, Some(30))]);
    let mut world = World::default();
    for second in 0..=60 {
        scheduler.tell(News::OBJECTS);
        scheduler.run(&mut world, start + Duration::from_secs(second));
    }
    assert_eq!(world.runs.iter().filter(|(_, everything)| *everything).count(), 2);
}

#[test]
fn nobody_can_ask_to_be_run_at_once_over_and_over() {
    let start = Instant::now();
    let mut scheduler = scheduler([fake("a", News::NONE, None)]);
    let mut world = World { outcomes: vec![Outcome::Again(start); 100_000], ..World::default() };
    let wakes = drive(&mut scheduler, &mut world, start, Duration::from_secs(60));
    assert!(wakes <= 601, "{wakes} wakes in a minute");
}

#[test]
fn news_reaches_those_before_and_behind_in_the_same_run() {
    let start = Instant::now();
    let mut scheduler = scheduler([
        fake("first", News::FILLED, None),
        fake("second", News::OBJECTS, None),
        fake("third", News::FILLED, None),
    ]);
    let mut world = World::default();
    scheduler.run(&mut world, start);
    world.runs.clear();
    scheduler.tell(News::OBJECTS);
    world.news = News::FILLED;
    scheduler.run(&mut world, start);
    assert_eq!(world.runs, [("second", false), ("third", false), ("first", false)]);
}

#[test]
fn two_that_are_news_to_each_other_do_not_hold_up_the_thread() {
    /// Tells news whenever it runs.
    struct Echo(&'static str);
    impl Reconciler<usize> for Echo {
        fn name(&self) -> &'static str {
            self.0
        }
        fn listens_to(&self) -> News {
            News::OBJECTS
        }
        fn period(&self) -> Option<Duration> {
            None
        }
        fn reconcile(&mut self, runs: &mut usize, _everything: bool) -> (Outcome, News) {
            *runs += 1;
            (Outcome::Done, News::OBJECTS)
        }
    }
    let mut runs = 0;
    Scheduler::new(vec![Box::new(Echo("a")), Box::new(Echo("b"))]).run(&mut runs, Instant::now());
    assert_eq!(runs, 4);
}
