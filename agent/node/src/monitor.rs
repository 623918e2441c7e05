//! Live decisions for whoever listens: reads the programs' events, gives them names and hands them on.
//!
//! Here is the one reader of the event buffer. It works only while somebody listens, and it waits for no listener: who is too
//! slow misses decisions and is told how many. The switch is a matter of the data-plane thread, which owns the tables. With the last
//! listener, however it ended, events are off again.

use std::{sync::Arc, time::Duration};

use balancing_core::monitor::Decision;
use balancing_dataplane::{layout::Layout, tables::TableError};
use nix::errno::Errno;
use tokio::{
    sync::{Semaphore, broadcast, mpsc, oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::control::Pending;

use buffer::{Buffer, Found};
pub use listener::Listener;
pub(crate) use names::{Names, Teller};

mod buffer;
mod listener;
mod names;
mod resolver;

/// Listeners at once.
const LISTENERS: usize = 4;
/// Decisions that a listener may be behind before it misses some.
const BEHIND: usize = 4096;
/// Longest wait for the switch when the agent stops.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why nobody can listen.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// There are enough of them.
    #[error(
        "{LISTENERS} monitors are running, and more are not served at once: end one of them and try again"
    )]
    TooMany,
    /// The buffer cannot be read.
    #[error("the events cannot be read: {0}")]
    Events(#[from] TableError),
    /// It cannot be waited for.
    #[error("the events cannot be waited for: {0}")]
    Wait(#[from] Errno),
    /// There is nobody to ask any more.
    #[error("the agent is stopping")]
    Stopping,
}

/// What listeners are handed.
#[derive(Clone, Debug)]
struct Item {
    /// Events so far, this one and lost ones included: a gap tells a listener what it missed.
    number: u64,
    /// `None` = this one is lost, and maybe some before it.
    decision: Option<Arc<Decision>>,
}

/// Where a new listener begins.
struct Seat {
    items: broadcast::Receiver<Item>,
    number: u64,
}

type Join = oneshot::Sender<Result<Seat, MonitorError>>;

/// Lets listeners in.
#[derive(Clone)]
pub struct Monitors {
    joins: mpsc::Sender<Join>,
    places: Arc<Semaphore>,
}

/// The reader's task, to be stopped.
pub(crate) struct Handle {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What the reader works with.
struct Reader {
    layout: Layout,
    joins: mpsc::Receiver<Join>,
    requests: mpsc::Sender<Pending>,
    names: watch::Receiver<Arc<Names>>,
}

/// The time while somebody listens.
struct Session {
    items: broadcast::Sender<Item>,
    number: u64,
}

impl Monitors {
    /// Starts to listen.
    ///
    /// # Errors
    /// No place, or no events.
    pub async fn join(&self) -> Result<Listener, MonitorError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_full| MonitorError::TooMany)?;
        let (sender, seat) = oneshot::channel();
        self.joins.send(sender).await.map_err(|_gone| MonitorError::Stopping)?;
        let seat = seat.await.map_err(|_gone| MonitorError::Stopping)??;
        Ok(Listener::new(seat, place))
    }
}

impl Handle {
    /// Ends all listening; events are off after that.
    pub(crate) async fn stop(self) {
        self.stop.send(()).ok();
        if timeout(PATIENCE, self.task).await.is_err() {
            tracing::warn!("events may be on until the next agent starts: the data-plane thread is busy");
        }
    }
}

/// Starts the reader, which rests until somebody listens.
pub(crate) fn start(
    layout: Layout,
    requests: mpsc::Sender<Pending>,
    names: watch::Receiver<Arc<Names>>,
) -> (Monitors, Handle) {
    let (joins_in, joins) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel();
    let reader = Reader { layout, joins, requests, names };
    let task = tokio::spawn(reader.run(stopped));
    (Monitors { joins: joins_in, places: Arc::new(Semaphore::new(LISTENERS)) }, Handle { stop, task })
}

impl Reader {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let first = tokio::select! {
                join = self.joins.recv() => join,
                _ = &mut stopped => return,
            };
            let Some(first) = first else { return };
            // A receiver that has told its end must not be asked again.
            let result = tokio::select! {
                result = self.serve(first) => Some(result),
                _ = &mut stopped => None,
            };
            self.switch(false).await.ok();
            match result {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::warn!("monitors are cut off: {error}"),
                None => return,
            }
        }
    }

    /// Serves listeners until there is none.
    async fn serve(&mut self, first: Join) -> Result<(), MonitorError> {
        let buffer = match self.open().await {
            Ok(buffer) => buffer,
            Err(error) => {
                first.send(Err(error)).ok();
                return Ok(());
            }
        };
        let session = Session { items: broadcast::channel(BEHIND).0, number: 0 };
        session.seat(first);
        session.run(buffer, &mut self.joins, &self.names).await
    }

    async fn open(&self) -> Result<Buffer, MonitorError> {
        // First: the thread has made the buffer when it answers.
        self.switch(true).await?;
        Buffer::open(&self.layout)
    }

    async fn switch(&self, on: bool) -> Result<(), MonitorError> {
        let (done, switched) = oneshot::channel();
        self.requests.send(Pending::Events { on, done }).await.map_err(|_gone| MonitorError::Stopping)?;
        Ok(switched.await.map_err(|_gone| MonitorError::Stopping)??)
    }
}

impl Session {
    fn seat(&self, join: Join) {
        join.send(Ok(Seat { items: self.items.subscribe(), number: self.number })).ok();
    }

    async fn run(
        mut self,
        buffer: Buffer,
        joins: &mut mpsc::Receiver<Join>,
        names: &watch::Receiver<Arc<Names>>,
    ) -> Result<(), MonitorError> {
        let mut reading = read(buffer, names);
        loop {
            tokio::select! {
                () = self.items.closed() => break,
                join = joins.recv() => match join {
                    Some(join) => self.seat(join),
                    None => break,
                },
                done = &mut reading => {
                    // It ends without a result only when the agent ends.
                    let Ok((buffer, found)) = done else { return Ok(()) };
                    self.hand_on(found?);
                    reading = read(buffer, names);
                }
            }
        }
        // Two readers would take each other's events.
        reading.await.ok();
        Ok(())
    }

    fn hand_on(&mut self, found: Found) {
        for decision in found.decisions {
            self.number += 1;
            self.send(Some(Arc::new(decision)));
        }
        if found.lost > 0 {
            self.number += found.lost;
            self.send(None);
        }
    }

    fn send(&self, decision: Option<Arc<Decision>>) {
        // Fails when nobody listens any more, which the loop sees itself.
        self.items.send(Item { number: self.number, decision }).ok();
    }
}

/// Reads once, where nothing else has to wait for it.
fn read(
    mut buffer: Buffer,
    names: &watch::Receiver<Arc<Names>>,
) -> JoinHandle<(Buffer, Result<Found, MonitorError>)> {
    let names = names.clone();
    spawn_blocking(move || {
        let found = buffer.read(&names);
        (buffer, found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_while_somebody_listens_ends_the_reader() {
        let (requests_in, mut requests) = mpsc::channel(1);
        let (monitors, reader) =
            start(Layout::new("/nowhere".as_ref(), 1), requests_in, watch::channel(Default::default()).1);
        let joins = monitors.clone();
        let joining = tokio::spawn(async move { joins.join().await.err() });
        // The reader waits for the switch, and is stopped.
        let Some(Pending::Events { on: true, done: _unanswered }) = requests.recv().await else { panic!() };
        reader.stop.send(()).unwrap();
        let Some(Pending::Events { on: false, done }) = requests.recv().await else { panic!() };
        done.send(Ok(())).unwrap();
        reader.task.await.unwrap();
        assert!(matches!(joining.await.unwrap(), Some(MonitorError::Stopping)));
        drop(monitors);
    }
}
