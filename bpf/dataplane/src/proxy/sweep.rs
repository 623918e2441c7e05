//! Removes the rows of connections that have ended.
//!
//! Programs do not count them any more, but they take room, and in a table that is full the kernel drops what was not used for long,
//! living or not. Nothing else depends on it: whether a row's backend is still there is seen at the packet.

use std::{io, os::fd::AsFd as _};

use balancing_abi::proxy::{Connection, ConnectionKey, counter, maps};
use nix::time::{ClockId, clock_gettime};

use super::{Error, Swept, tables::Tables};
use crate::sys::batch::{self, Position};

/// How far the sweeping has come.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// How much faster time runs, as the programs have it.
    time_shift: u32,
    position: Position,
    /// Rows seen since the begin of the table, and of these those that were left.
    seen: (u32, u32),
    /// Rows that were left by the last complete sweep.
    rows: u32,
    /// Rows that had been made before the table was begun.
    made: u64,
    /// Rows that the kernel has forgotten, at least.
    forgotten: u64,
}

impl Sweeper {
    pub(super) fn new(time_shift: u32) -> Self {
        Self { time_shift, ..Self::default() }
    }

    /// Rows that the kernel has forgotten in a full table, at least, as of the last complete sweep.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Rows in use as of the last complete sweep.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    pub(super) fn sweep(&mut self, tables: &mut Tables) -> Result<Swept, Error> {
        let now = now().map_err(failed("read the clock"))? << self.time_shift;
        if self.seen == (0, 0) {
            self.made = tables.counter(counter::ROWS_MADE)?;
        }
        let fd = tables.connections().fd().as_fd();
        let read = batch::next::<ConnectionKey, Connection>(fd, &mut self.position);
        let (rows, complete) = read.map_err(failed("read"))?;
        let gone: Vec<_> = rows.iter().filter(|(key, row)| has_ended(key, row, now)).collect();
        self.seen.0 += rows.len() as u32;
        self.seen.1 += (rows.len() - gone.len()) as u32;
        let mut swept = Swept { seen: rows.len() as u32, removed: 0, complete };
        if complete {
            self.count_forgotten(tables)?;
            (self.rows, self.seen) = (self.seen.1, (0, 0));
        }
        for (key, _) in gone {
            swept.removed += u32::from(end(key, now, tables)?);
        }
        Ok(swept)
    }

    /// Every row that was there at the begin of the table has been seen since, or has been removed, or was forgotten. What
    /// came and went meanwhile makes the number too small, never too large.
    fn count_forgotten(&mut self, tables: &Tables) -> Result<(), Error> {
        let removed = tables.counter(counter::ROWS_REMOVED)? + tables.rows_swept();
        let forgotten = self.made.saturating_sub(removed + u64::from(self.seen.0));
        self.forgotten = self.forgotten.max(forgotten);
        Ok(())
    }
}

/// Removes a row, unless another one has taken its place meanwhile. That of the other direction ends with it and is met on its own.
fn end(key: &ConnectionKey, now: u64, tables: &mut Tables) -> Result<bool, Error> {
    let has_ended = tables.connection(key).is_some_and(|row| has_ended(key, &row, now));
    if has_ended {
        tables.forget(key)?;
    }
    Ok(has_ended)
}

/// Whether a row does not count any more.
fn has_ended(key: &ConnectionKey, row: &Connection, now: u64) -> bool {
    !Connection::is_alive(row.seen, key.protocol, row.state, now)
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Operation { operation, table: maps::CONNECTIONS, object: "rows".to_owned(), source }
}

/// Nanoseconds of the clock that programs read.
fn now() -> io::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0))
}
