//! Keys that wait for their time, each worked on by one at a time.
//!
//! It knows neither what the work is nor what time it is. A key that is added while it is worked on comes again
//! afterwards, so no news is lost and no two workers meet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// A queue without duplicates: it never holds more than there are keys.
#[derive(Debug)]
pub(super) struct WorkQueue<K> {
    order: BTreeSet<(Instant, K)>,
    due: BTreeMap<K, Instant>,
    busy: BTreeSet<K>,
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        Self { order: BTreeSet::new(), due: BTreeMap::new(), busy: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    /// Adds a key for a time; of two times the earlier counts.
    pub(super) fn add(&mut self, key: K, at: Instant) {
        if let Some(known) = self.due.get(&key) {
            if *known <= at {
                return;
            }
            self.order.remove(&(*known, key.clone()));
        }
        self.due.insert(key.clone(), at);
        if !self.busy.contains(&key) {
            self.order.insert((at, key));
        }
    }

    /// Takes the key that is due for longest and marks it as being worked on.
    pub(super) fn take(&mut self, now: Instant) -> Option<K> {
        if self.next_due()? > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// The work on a key has ended.
    pub(super) fn done(&mut self, key: &K) {
        self.busy.remove(key);
        if let Some(at) = self.due.get(key) {
            self.order.insert((*at, key.clone()));
        }
    }

    /// When the next key that nobody works on is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// How many keys wait or are worked on.
    pub(super) fn len(&self) -> usize {
        self.due.len() + self.busy.iter().filter(|key| !self.due.contains_key(key)).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_is_worked_on_by_one_at_a_time_and_never_forgotten() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a", now);
        assert_eq!(queue.take(now), Some("a"));
        queue.add("a", now);
        queue.add("b", now);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.take(now), Some("b"), "a is being worked on");
        assert_eq!((queue.take(now), queue.next_due()), (None, None));
        queue.done(&"a");
        assert_eq!(queue.take(now), Some("a"), "the news during the work");
        queue.done(&"a");
        queue.done(&"b");
        assert_eq!((queue.take(now), queue.len()), (None, 0));
    }

    #[test]
    fn the_earlier_of_two_times_counts() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        queue.add("a", later);
        assert_eq!((queue.take(now), queue.next_due()), (None, Some(later)));
        queue.add("a", now);
        queue.add("a", later);
        assert_eq!((queue.take(now), queue.next_due()), (Some("a"), None));
    }
}
