//! One listener: what it wants of the decisions, as lines over its connection. It never keeps the reader waiting.

use std::io;

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
};

use super::{Item, Seat};

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
    /// The connection broke.
    pub async fn tell(mut self, stream: UnixStream, filter: &Filter) -> io::Result<()> {
        let (mut from, to) = stream.into_split();
        let mut out = BufWriter::new(to);
        let mut end = [0];
        loop {
            let item = match self.items.try_recv() {
                Err(TryRecvError::Empty) => {
                    out.flush().await?;
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
                Ok(item) => self.heard.tell(&item, filter, &mut out).await?,
                // The number of the next item says how many.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return out.flush().await,
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

async fn write(line: &impl serde::Serialize, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut text = serde_json::to_string(line).map_err(io::Error::other)?;
    text.push('\n');
    out.write_all(text.as_bytes()).await
}
