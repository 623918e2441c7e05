//! Counters of the watches, for metrics.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use jiff::Timestamp;

/// Counters of all watches of a source.
#[derive(Debug)]
pub struct WatchStats {
    kinds: Vec<Arc<KindStats>>,
}

/// Counters of the watch of one kind. They only grow.
#[derive(Debug)]
pub struct KindStats {
    kind: &'static str,
    events: AtomicU64,
    relists: AtomicU64,
    errors: AtomicU64,
    /// Milliseconds since 1970; 0 = never.
    heard: AtomicI64,
}

impl WatchStats {
    pub(super) fn new(kinds: impl Iterator<Item = &'static str>) -> Self {
        Self { kinds: kinds.map(|kind| Arc::new(KindStats::new(kind))).collect() }
    }

    /// The kinds in a fixed order.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<KindStats>> {
        self.kinds.iter()
    }

    /// When the API server last said something about any kind, a bookmark included; `None` = never yet.
    #[must_use]
    pub fn last_event(&self) -> Option<Timestamp> {
        self.kinds.iter().filter_map(|kind| kind.last_event()).max()
    }
}

impl KindStats {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            events: AtomicU64::new(0),
            relists: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            heard: AtomicI64::new(0),
        }
    }

    /// `kind` of the objects.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Changes and deletions that a watch brought; objects of lists do not count.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Complete lists after the first one.
    #[must_use]
    pub fn relists(&self) -> u64 {
        self.relists.load(Relaxed)
    }

    /// Requests that failed, watches that broke or expired, and objects without a name.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// When the API server last said something about this kind, a bookmark included; `None` = never yet.
    #[must_use]
    pub fn last_event(&self) -> Option<Timestamp> {
        let heard = self.heard.load(Relaxed);
        Timestamp::from_millisecond(heard).ok().filter(|_| heard > 0)
    }

    pub(super) fn count_event(&self) {
        self.events.fetch_add(1, Relaxed);
    }

    pub(super) fn count_relist(&self) {
        self.relists.fetch_add(1, Relaxed);
    }

    pub(super) fn count_error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(super) fn hear(&self) {
        self.heard.store(Timestamp::now().as_millisecond(), Relaxed);
    }
}
