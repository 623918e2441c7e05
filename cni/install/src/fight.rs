//! Whether somebody else takes us out again and again, and how long to wait then. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// Repairs within this time count together.
const WINDOW: Duration = Duration::from_secs(60);
/// So many are no accident: a primary plugin that starts writes its file up to three times.
const MANY: usize = 4;
/// First and longest wait in a fight.
const WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// After so long without repair the fight is over.
const PEACE: Duration = Duration::from_secs(600);

/// Files that are remembered at most: a primary may give its file another name each time.
const FILES: usize = 64;

/// What is remembered of repairs.
#[derive(Debug, Default)]
pub struct Fight {
    repairs: VecDeque<Instant>,
    wait: Option<Duration>,
}

impl Fight {
    /// Takes note of a repair; whether a fight begins with it.
    pub fn note(&mut self, now: Instant) -> bool {
        if self.repairs.back().is_some_and(|last| now.duration_since(*last) > PEACE) {
            *self = Self::default();
        }
        self.repairs.push_back(now);
        if self.repairs.len() > MANY {
            self.repairs.pop_front();
        }
        let is_many = self.repairs.len() == MANY
            && self.repairs.front().is_some_and(|first| now.duration_since(*first) <= WINDOW);
        let was_peace = self.wait.is_none();
        self.wait = match self.wait {
            Some(wait) => Some((wait * 2).min(WAIT.1)),
            None => is_many.then_some(WAIT.0),
        };
        was_peace && self.wait.is_some()
    }

    /// Until when nothing is repaired; `None` = there is no fight.
    #[must_use]
    pub fn until(&self, now: Instant) -> Option<Instant> {
        let last = *self.repairs.back()?;
        let until = last + self.wait?;
        (now < last + PEACE).then_some(until)
    }
}

/// What is remembered of each file that has held ours. Somebody's fight about one says nothing of another.
#[derive(Debug, Default)]
pub struct Fights(BTreeMap<String, Fight>);

impl Fights {
    /// Takes note that ours is in a file.
    pub fn hold(&mut self, file: &str) {
        if self.0.len() >= FILES && !self.0.contains_key(file) {
            self.0.clear();
        }
        self.0.entry(file.to_owned()).or_default();
    }

    /// Takes note that ours was put into a file; whether a fight begins with it. In one that has never held it nobody has undone
    /// anything.
    pub fn note(&mut self, file: &str, now: Instant) -> bool {
        match self.0.get_mut(file) {
            Some(fight) => fight.note(now),
            None => {
                self.hold(file);
                false
            }
        }
    }

    /// Until when nothing is put back into a file; `None` = there is no fight about it.
    #[must_use]
    pub fn until(&self, file: &str, now: Instant) -> Option<Instant> {
        self.0.get(file)?.until(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g23_repairs_become_rare_and_are_told_as_a_fight() {
        let (mut fight, begin) = (Fight::default(), Instant::now());
        let (mut now, mut repairs, mut begun) = (begin, 0, 0);
        // Somebody takes us out every second, for an hour.
        while now < begin + Duration::from_secs(3600) {
            if fight.until(now).is_none_or(|until| until <= now) {
                begun += usize::from(fight.note(now));
                repairs += 1;
            }
            now += Duration::from_secs(1);
        }
        assert!((12..=24).contains(&repairs), "{repairs}");
        assert_eq!(begun, 1, "it is one fight");
        assert!(fight.until(now).is_some());
    }

    #[test]
    fn a_primary_that_starts_is_no_fight() {
        let (mut fight, begin) = (Fight::default(), Instant::now());
        for second in [0, 1, 2] {
            assert!(!fight.note(begin + Duration::from_secs(second)));
        }
        assert_eq!(fight.until(begin + Duration::from_secs(2)), None);
        // Nor are four of them within an hour.
        for minute in 1..60 {
            let now = begin + Duration::from_secs(60 * minute * 2);
            fight.note(now);
            assert_eq!(fight.until(now), None);
        }
    }

    #[test]
    fn a_fight_is_about_one_file() {
        let (mut fights, now) = (Fights::default(), Instant::now());
        let begun: Vec<bool> = (0..5).map(|_| fights.note("a", now)).collect();
        assert_eq!(begun, [false, false, false, false, true], "the first time is no repair");
        assert!(fights.until("a", now).is_some());
        assert_eq!(fights.until("b", now), None);
        fights.hold("b");
        assert_eq!((0..4).filter(|_| fights.note("b", now)).count(), 1);
    }

    #[test]
    fn ever_new_names_cost_no_memory() {
        let mut fights = Fights::default();
        for number in 0..10 * FILES {
            fights.hold(&format!("{number}.conflist"));
            assert!(fights.0.len() <= FILES);
        }
    }

    #[test]
    fn it_is_over_after_ten_quiet_minutes() {
        let (mut fight, begin) = (Fight::default(), Instant::now());
        let begun: Vec<bool> = (0..8).map(|_| fight.note(begin)).collect();
        assert_eq!(begun.iter().filter(|begun| **begun).count(), 1, "{begun:?}");
        assert!(fight.until(begin).is_some());
        let later = begin + PEACE + Duration::from_secs(1);
        assert_eq!(fight.until(later), None);
        fight.note(later);
        assert_eq!(fight.until(later), None);
    }
}
