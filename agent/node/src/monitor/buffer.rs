//! The event buffer, read by one thread at a time. Reading waits a moment for events: it is for threads that may block.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_core::monitor::Decision;
use balancing_dataplane::{
    layout::Layout,
    tables::events::{Events, Resolution},
};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use tokio::sync::watch;

use super::{MonitorError, Names, resolver::Resolver};

/// Milliseconds between two looks into the buffer. The programs ring when it fills faster than that.
const LOOK: u8 = 20;
/// Between two looks at how much found the buffer full.
const COUNT: Duration = Duration::from_secs(1);
/// Events that get their names together.
const BATCH: usize = 1024;

/// The buffer with what is known of it.
pub(super) struct Buffer {
    events: Events,
    /// Edge-triggered, so that it rings when the programs wake a reader and not whenever there are events.
    bell: Epoll,
    resolver: Resolver,
    /// What the kernel's counter of lost events said last, and when.
    lost: u64,
    counted: Instant,
    /// The last batch was full, so that there may be more.
    more: bool,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) decisions: Vec<Decision>,
    /// How many events the kernel had no room for since that was counted last.
    pub(super) lost: u64,
}

impl Buffer {
    pub(super) fn open(layout: &Layout) -> Result<Self, MonitorError> {
        let events = Events::open(layout)?;
        let bell = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        bell.add(&events, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        let lost = events.lost()?;
        Ok(Self { events, bell, resolver: Resolver::default(), lost, counted: Instant::now(), more: false })
    }

    /// Waits for events, not for long, and gives them names.
    pub(super) fn read(&mut self, names: &watch::Receiver<Arc<Names>>) -> Result<Found, MonitorError> {
        if !self.more {
            match self.bell.wait(&mut [EpollEvent::empty()], EpollTimeout::from(LOOK)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let batch: Vec<Resolution> = std::iter::from_fn(|| self.events.next()).take(BATCH).collect();
        self.more = batch.len() == BATCH;
        let names = Arc::clone(&names.borrow());
        let decisions = self.resolver.resolve(&names, &batch);
        Ok(Found { decisions, lost: self.count_lost()? })
    }

    fn count_lost(&mut self) -> Result<u64, MonitorError> {
        if self.counted.elapsed() < COUNT {
            return Ok(0);
        }
        let before = std::mem::replace(&mut self.lost, self.events.lost()?);
        self.counted = Instant::now();
        Ok(self.lost.saturating_sub(before))
    }
}
