//! Who has which index: frontend ids, backend ids, ranges of slots. Pure bookkeeping.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
};

use crate::model::{Backend, Protocol};

/// Consecutive slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Free slots: best fit, neighbours are joined again.
#[derive(Debug)]
pub(crate) struct Ranges {
    by_start: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    taken: Vec<Range>,
    capacity: u32,
}

impl Ranges {
    pub(crate) fn new(capacity: u32) -> Self {
        let mut ranges =
            Self { by_start: BTreeMap::new(), by_size: BTreeSet::new(), taken: Vec::new(), capacity };
        ranges.insert(0, capacity);
        ranges
    }

    /// Notes a range found in the kernel; [`Ranges::settle`] ends the noting.
    pub(crate) fn take(&mut self, range: Range) {
        self.taken.push(range);
    }

    /// Everything that was not taken is free.
    pub(crate) fn settle(&mut self) {
        self.by_start.clear();
        self.by_size.clear();
        let mut taken = std::mem::take(&mut self.taken);
        taken.sort_unstable();
        let mut next = 0;
        for range in taken {
            if range.first > next {
                self.insert(next, range.first - next);
            }
            next = next.max(range.first.saturating_add(range.count));
        }
        if next < self.capacity {
            self.insert(next, self.capacity - next);
        }
    }

    pub(crate) fn allocate(&mut self, count: u32) -> Option<Range> {
        let (size, first) = *self.by_size.range((count, 0)..).next()?;
        self.erase(first, size);
        if size > count {
            self.insert(first + count, size - count);
        }
        Some(Range { first, count })
    }

    pub(crate) fn free(&mut self, range: Range) {
        let (mut first, mut count) = (range.first, range.count);
        if let Some((&before, &size)) = self.by_start.range(..first).next_back()
            && before + size == first
        {
            self.erase(before, size);
            first = before;
            count += size;
        }
        if let Some(&size) = self.by_start.get(&(first + count)) {
            self.erase(first + count, size);
            count += size;
        }
        self.insert(first, count);
    }

    fn insert(&mut self, first: u32, count: u32) {
        self.by_start.insert(first, count);
        self.by_size.insert((count, first));
    }

    fn erase(&mut self, first: u32, count: u32) {
        self.by_start.remove(&first);
        self.by_size.remove(&(count, first));
    }
}

/// Single slots. Each is wanted at a certain place, and is given away there or as near to it as there is one.
#[derive(Debug)]
pub(crate) struct Slots {
    /// A bit for each free slot.
    free: Vec<u64>,
}

impl Slots {
    /// Slots from 1 to `end` - 1: 0 names none.
    pub(crate) fn new(end: u32) -> Self {
        let mut slots = Self { free: vec![0; end.div_ceil(u64::BITS) as usize] };
        (1..end).for_each(|slot| slots.free(slot));
        slots
    }

    /// Notes a slot found in the kernel.
    pub(crate) fn take(&mut self, slot: u32) {
        self.free[(slot / u64::BITS) as usize] &= !(1 << (slot % u64::BITS));
    }

    /// The wanted slot, else its neighbour, else the first free one of the 64 that are one page of memory with it, else of the next
    /// 64 that have one.
    pub(crate) fn allocate(&mut self, wanted: u32) -> Option<u32> {
        let (words, first) = (self.free.len(), (wanted / u64::BITS) as usize);
        let word = (0..words).map(|i| (first + i) % words).find(|&word| self.free[word] != 0)?;
        let (free, bit) = (self.free[word], wanted % u64::BITS);
        // The neighbour is one pair of cache lines with the place itself, which processors like to load together.
        let near = [bit, bit ^ 1].into_iter().find(|bit| free & 1 << bit != 0);
        let slot = word as u32 * u64::BITS + near.unwrap_or(free.trailing_zeros());
        self.take(slot);
        Some(slot)
    }

    pub(crate) fn free(&mut self, slot: u32) {
        self.free[(slot / u64::BITS) as usize] |= 1 << (slot % u64::BITS);
    }
}

/// Numbers that are given away one by one. Freed ones are used again as late as possible.
#[derive(Debug)]
pub(crate) struct Numbers {
    free: VecDeque<u32>,
    taken: BTreeSet<u32>,
    next: u32,
    end: u32,
}

impl Numbers {
    pub(crate) fn new(numbers: std::ops::Range<u32>) -> Self {
        Self { free: VecDeque::new(), taken: BTreeSet::new(), next: numbers.start, end: numbers.end }
    }

    /// Notes a number found in the kernel; [`Numbers::settle`] ends the noting.
    pub(crate) fn take(&mut self, number: u32) {
        self.taken.insert(number);
    }

    /// Ends the noting. Numbers below `used` may have been given away by an earlier agent: they count as freed.
    pub(crate) fn settle(&mut self, used: u32) {
        let taken = std::mem::take(&mut self.taken);
        let first = self.next;
        self.next = taken.last().map_or(first, |last| last + 1).max(used.min(self.end));
        self.free = (first..self.next).filter(|number| !taken.contains(number)).collect();
    }

    /// A number that was never given away.
    pub(crate) fn fresh(&mut self) -> Option<u32> {
        (self.next < self.end).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// The number that was freed first.
    pub(crate) fn freed(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// Whether no freed one is left.
    pub(crate) fn has_none_freed(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn free(&mut self, number: u32) {
        self.free.push_back(number);
    }
}

/// Ids of backends: one for as long as any set holds the backend.
#[derive(Debug, Default)]
pub(crate) struct BackendIds {
    known: HashMap<(IpAddr, u16, Protocol), (u32, u32)>,
    used: BTreeSet<u32>,
    last: u32,
}

impl BackendIds {
    /// Goes on after the id that was given away last.
    pub(crate) fn go_on(&mut self, last: u32) {
        self.last = last;
    }

    /// The id that was given away last.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Notes a use found in the kernel.
    pub(crate) fn take(&mut self, id: u32, backend: &Backend, protocol: Protocol) {
        self.known.entry((backend.address, backend.port, protocol)).or_insert((id, 0)).1 += 1;
        self.used.insert(id);
    }

    pub(crate) fn acquire(&mut self, backend: &Backend, protocol: Protocol) -> u32 {
        let key = (backend.address, backend.port, protocol);
        if let Some((id, users)) = self.known.get_mut(&key) {
            *users += 1;
            return *id;
        }
        // 0 means "none" to the programs.
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if self.used.insert(self.last) {
                break;
            }
        }
        self.known.insert(key, (self.last, 1));
        self.last
    }

    pub(crate) fn release(&mut self, backend: &Backend, protocol: Protocol) {
        let key = (backend.address, backend.port, protocol);
        if let Some((id, users)) = self.known.get_mut(&key) {
            *users -= 1;
            if *users == 0 {
                self.used.remove(id);
                self.known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_ranges_join_and_serve_again() {
        let mut ranges = Ranges::new(10);
        let a = ranges.allocate(4).unwrap();
        let b = ranges.allocate(4).unwrap();
        assert!(ranges.allocate(4).is_none());
        ranges.free(a);
        ranges.free(b);
        assert_eq!(ranges.allocate(10), Some(Range { first: 0, count: 10 }));
    }

    #[test]
    fn what_was_found_is_not_given_away() {
        let mut ranges = Ranges::new(10);
        ranges.take(Range { first: 6, count: 2 });
        ranges.take(Range { first: 0, count: 3 });
        ranges.settle();
        assert_eq!(ranges.allocate(3), Some(Range { first: 3, count: 3 }));
        assert_eq!(ranges.allocate(2), Some(Range { first: 8, count: 2 }));
        assert_eq!(ranges.allocate(1), None);
    }

    #[test]
    fn a_slot_is_as_near_as_there_is_one() {
        let mut slots = Slots::new(130);
        slots.take(70);
        assert_eq!([(); 2].map(|()| slots.allocate(70)), [Some(71), Some(64)]);
        assert_eq!(slots.allocate(100), Some(100));
        assert_eq!([(); 3].map(|()| slots.allocate(128)), [Some(128), Some(129), Some(1)]);
        slots.free(70);
        assert_eq!(slots.allocate(70), Some(70));
        let rest = std::iter::from_fn(|| slots.allocate(1000)).count();
        assert_eq!(rest, 129 - 8 + 1, "0 names none");
        assert_eq!(slots.allocate(0), None);
    }

    #[test]
    fn numbers_come_back_in_the_order_in_which_they_went() {
        let mut ids = Numbers::new(1..4);
        assert_eq!([(); 4].map(|()| ids.fresh()), [Some(1), Some(2), Some(3), None]);
        ids.free(2);
        ids.free(1);
        assert_eq!([(); 3].map(|()| ids.freed()), [Some(2), Some(1), None]);
    }

    #[test]
    fn what_was_found_is_taken() {
        let mut ids = Numbers::new(1..6);
        ids.take(4);
        ids.take(2);
        ids.settle(0);
        assert_eq!((ids.fresh(), ids.fresh()), (Some(5), None));
        assert_eq!([(); 3].map(|()| ids.freed()), [Some(1), Some(3), None]);
    }

    #[test]
    fn what_an_earlier_agent_gave_away_is_not_fresh() {
        let mut ids = Numbers::new(1..6);
        ids.take(2);
        ids.settle(4);
        assert_eq!([(); 3].map(|()| ids.fresh()), [Some(4), Some(5), None]);
        assert_eq!([(); 3].map(|()| ids.freed()), [Some(1), Some(3), None]);
    }

    #[test]
    fn a_backend_keeps_its_id_while_a_set_holds_it() {
        let mut ids = BackendIds::default();
        let backend = Backend { address: [10, 0, 0, 1].into(), port: 80, weight: 1 };
        let id = ids.acquire(&backend, Protocol::Tcp);
        assert_eq!(ids.acquire(&backend, Protocol::Tcp), id);
        assert_ne!(ids.acquire(&backend, Protocol::Udp), id);
        ids.release(&backend, Protocol::Tcp);
        assert_eq!(ids.acquire(&backend, Protocol::Tcp), id);
        ids.release(&backend, Protocol::Tcp);
        ids.release(&backend, Protocol::Tcp);
        assert_ne!(ids.acquire(&backend, Protocol::Tcp), id);
    }
}
