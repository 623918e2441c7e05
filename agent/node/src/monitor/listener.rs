//! One listener: what it wants of the decisions, as lines over its connection. It never keeps the reader waiting.

use std::{io, time::Duration};

use balancing_core::monitor::{Filter, Line};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter},
    net::UnixStream,
    sync::{
        OwnedSemaphorePermit,
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
    },
    time::timeout,
};

use super::{Item, Seat};

/// Longest time without progress of a write. Who reads nothing for so long must not keep the events on.
const STILL: Duration = Duration::from_secs(30);

/// Somebody who listens. Its place is free when it is dropped.
pub struct Listener {
    items: broadcast::Receiver<Item>,
    heard: Heard,
    _place: OwnedSemaphorePermit,
}

/// How far a listener has come.
#[derive(Debug)]
struct Heard {
    /// The number of the item that it heard last.
    number: u64,
}

impl Listener {
    pub(super) fn new(seat: Seat, place: OwnedSemaphorePermit) -> Self {
        Self { items: seat.items, heard: Heard { number: seat.number }, _place: place }
    }

    /// Tells the other end all that it wants to hear until it is gone, or the reader is.
    ///
    /// # Errors
    /// The connection broke, or nobody reads what is written.
    pub async fn tell(mut self, stream: UnixStream, filter: &Filter) -> io::Result<()> {
        let (mut from, to) = stream.into_split();
        let mut out = BufWriter::new(to);
        let mut end = [0];
        loop {
            let item = match self.items.try_recv() {
                Err(TryRecvError::Empty) => {
                    in_time(out.flush()).await?;
                    tokio::select! {
                        item = self.items.recv() => item,
                        // The other end has nothing to say: it has closed, or it makes no sense.
                        _ = from.read(&mut end) => return Ok(()),
                    }
                }
                Ok(item) => Ok(item),
                Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
            match item {
                Ok(item) => in_time(self.heard.tell(&item, filter, &mut out)).await?,
                // The number of the next item says how many.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return in_time(out.flush()).await,
            }
        }
    }
}

impl Heard {
    async fn tell(
        &mut self,
        item: &Item,
        filter: &Filter,
        out: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let told = u64::from(item.decision.is_some());
        let lost = item.number.saturating_sub(self.number).saturating_sub(told);
        self.number = item.number;
        if lost > 0 {
            write(&Line::Lost { lost }, out).await?;
        }
        match &item.decision {
            Some(decision) if filter.accepts(decision) => write(decision.as_ref(), out).await,
            _ => Ok(()),
        }
    }
}

/// A write of one line, or of a buffer of lines, without progress for too long is given up.
async fn in_time(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(STILL, write).await.map_err(|_elapsed| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the monitor has read nothing for {} s and is dropped", STILL.as_secs()),
        )
    })?
}

async fn write(line: &impl serde::Serialize, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut text = serde_json::to_string(line).map_err(io::Error::other)?;
    text.push('\n');
    out.write_all(text.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use balancing_core::{
        monitor::{ClientView, Decision, Outcome},
        view::KeyView,
    };
    use tokio::{
        io::{AsyncBufReadExt as _, BufReader},
        sync::Semaphore,
        task::{JoinHandle, yield_now},
        time::{Instant, advance},
    };

    use super::*;

    fn item(number: u64, outcome: Outcome) -> Item {
        let frontend = KeyView { address: [10, 0, 0, 1].into(), port: 80, protocol: "TCP".into() };
        let decision = Decision {
            time: String::new(),
            client: ClientView::default(),
            frontend,
            outcome,
            reason: None,
            backend: None,
            service_id: u32::try_from(number).unwrap(),
            policy: None,
        };
        Item { number, decision: Some(Arc::new(decision)) }
    }

    fn redirected(number: u64) -> Item {
        item(number, Outcome::Redirected)
    }

    /// Numbers of decisions, losses as negative numbers.
    fn told(lines: &[u8]) -> Vec<i64> {
        let lines = std::str::from_utf8(lines).unwrap().lines();
        let number = |line| match serde_json::from_str(line).unwrap() {
            Line::Decision(decision) => i64::from(decision.service_id),
            Line::Lost { lost } => -i64::try_from(lost).unwrap(),
        };
        lines.map(number).collect()
    }

    #[tokio::test]
    async fn a_gap_is_told_before_what_follows_it() {
        let (mut heard, mut out) = (Heard { number: 10 }, Vec::new());
        let filter = Filter { outcome: Some(Outcome::Redirected), ..Filter::default() };
        let lost = Item { number: 20, decision: None };
        for item in [redirected(11), item(12, Outcome::Passed), redirected(16), lost, redirected(21)] {
            heard.tell(&item, &filter, &mut out).await.unwrap();
        }
        assert_eq!(told(&out), [11, -3, 16, -4, 21], "what the filter leaves out is not lost");
    }

    #[tokio::test]
    async fn who_does_not_read_misses_the_oldest_and_nobody_waits() {
        const MADE: u64 = 100_000;
        let (sender, items) = broadcast::channel(64);
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let listener = Listener::new(Seat { items, number: 0 }, place);
        let (near, far) = UnixStream::pair().unwrap();
        let task = tokio::spawn(async move { listener.tell(near, &Filter::default()).await });
        for number in 1..=MADE {
            sender.send(redirected(number)).unwrap();
            if number % 32 == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(sender);
        let (mut far, mut lines) = (BufReader::new(far), Vec::new());
        while far.read_until(b'\n', &mut lines).await.unwrap() > 0 {}
        task.await.unwrap().unwrap();
        let told = told(&lines);
        let lost: i64 = told.iter().filter(|number| **number < 0).map(|number| -number).sum();
        let heard = told.iter().filter(|number| **number > 0).count() as u64;
        assert!(lost > 0 && heard > 0);
        assert_eq!(heard + lost.cast_unsigned(), MADE);
        assert_eq!(*told.last().unwrap(), i64::try_from(MADE).unwrap(), "the newest are kept");
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn who_is_gone_is_noticed_while_nothing_happens() {
        let (sender, items) = broadcast::channel(64);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let listener = Listener::new(Seat { items, number: 0 }, place);
        let task = tokio::spawn(async move { listener.tell(near, &Filter::default()).await });
        drop(far);
        sender.closed().await;
        task.await.unwrap().unwrap();
    }

    /// A listener whose connection is full: nobody has read of it yet.
    async fn full(
        places: &Arc<Semaphore>,
    ) -> (broadcast::Sender<Item>, UnixStream, JoinHandle<io::Result<()>>) {
        let (sender, items) = broadcast::channel(64);
        let place = Arc::clone(places).try_acquire_owned().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let listener = Listener::new(Seat { items, number: 0 }, place);
        let task = tokio::spawn(async move { listener.tell(near, &Filter::default()).await });
        fill(&sender).await;
        (sender, far, task)
    }

    async fn fill(sender: &broadcast::Sender<Item>) {
        for number in 1..=20_000 {
            sender.send(redirected(number)).ok();
            if number % 32 == 0 {
                yield_now().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_dropped_and_its_place_is_free() {
        let places = Arc::new(Semaphore::new(1));
        let start = Instant::now();
        let (sender, _far, task) = full(&places).await;
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), STILL.as_secs());
        assert_eq!((sender.receiver_count(), places.available_permits()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_served() {
        let places = Arc::new(Semaphore::new(1));
        let (sender, far, task) = full(&places).await;
        for _ in 0..4 {
            advance(STILL * 2 / 3).await;
            let mut heard = 0;
            while let Ok(count) = far.try_read(&mut [0; 64 << 10]) {
                heard += count;
            }
            assert!(heard > 0);
            fill(&sender).await;
            assert!(!task.is_finished());
        }
    }
}
