//! Reading and changing the kernel's devices, addresses, routes, neighbours and forwarding entries.
//!
//! [`Netlink`] is a plain handle for a thread that may block; behind it a thread of its own runs the sockets. It
//! decides nothing: what shall be is in the [`Plan`], what differs is found by [`diff`](crate::diff).

use std::{io, sync::mpsc, thread};

use thiserror::Error;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

mod apply;
mod events;
mod read;
mod requests;
mod sysctl;
mod worker;
mod write;

use crate::{
    Deletions, Facts, Plan,
    kept::{Kept, Removal},
};

/// Why the kernel could not be read or changed.
#[derive(Debug, Error)]
pub enum Error {
    /// The thread or its sockets could not be made.
    #[error("cannot open netlink: {0}")]
    Start(#[source] io::Error),
    /// A request was refused.
    #[error("cannot {what}: {cause}{remedy}")]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        cause: io::Error,
        /// What to do about it, if that is known.
        remedy: &'static str,
    },
    /// The kernel did not answer in time; the sockets are opened anew for the next request.
    #[error("the kernel did not answer for 30 seconds")]
    TimedOut,
    /// The thread has ended.
    #[error("the netlink thread has ended")]
    Gone,
}

/// What [`Netlink::apply`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Changes of the kernel's state; 0 when everything was as planned.
    pub writes: usize,
    /// Index of the primary device.
    pub device: Option<u32>,
    /// Indices of all devices, the primary first.
    pub devices: Vec<u32>,
    /// Whether a device was made.
    pub made: bool,
    /// What could not be done and is worth another try, and what an administrator should know.
    pub problems: Vec<String>,
}

type Reply<T> = mpsc::Sender<Result<T, Error>>;

#[derive(Debug)]
enum Command {
    Facts(Reply<Facts>),
    Shape(Box<Plan>, Deletions, Reply<Vec<u32>>),
    Apply(Box<Plan>, Deletions, Reply<Applied>),
    Kept(Reply<Vec<Kept>>),
    Reduce(Vec<Removal>, Reply<Applied>),
    Remove(Reply<usize>),
}

/// The kernel's network configuration, in the network namespace of the thread that started it.
#[derive(Debug)]
pub struct Netlink {
    /// `None` only while it is dropped.
    commands: Option<UnboundedSender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Netlink {
    /// Opens the kernel in the calling thread's network namespace. `changed` is called, at most ten times a second, after
    /// links, addresses, routes, or neighbours of our devices changed, and when events were lost.
    ///
    /// # Errors
    /// When the thread or its sockets cannot be made.
    pub fn start(changed: impl Fn() + Send + 'static) -> Result<Self, Error> {
        let (commands, inbox) = unbounded_channel();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("tunnel".to_owned())
            .spawn(move || worker::run(inbox, changed, &ready))
            .map_err(Error::Start)?;
        started.recv().map_err(|_gone| Error::Gone)??;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    /// Reads what the host has.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn facts(&self) -> Result<Facts, Error> {
        self.ask(Command::Facts)
    }

    /// Makes the devices as planned, but sets none up; those that are down, by index. Nothing comes through them yet, so this is the time
    /// to put a guard on them.
    ///
    /// # Errors
    /// When a device cannot be made, or the kernel does not answer.
    pub fn shape(&self, plan: &Plan, deletions: Deletions) -> Result<Vec<u32>, Error> {
        let plan = Box::new(plan.clone());
        self.ask(|reply| Command::Shape(plan, deletions, reply))
    }

    /// Makes the kernel as planned, by the differences only: first what is missing or wrong, then, if deletions are
    /// allowed, what is no longer wanted. What is not ours stays. A new IPv6 address answers a moment later: the kernel
    /// makes the route to it in a work queue.
    ///
    /// # Errors
    /// When a device cannot be made, or the kernel does not answer. What concerns single entries comes back as problems.
    pub fn apply(&self, plan: &Plan, deletions: Deletions) -> Result<Applied, Error> {
        let plan = Box::new(plan.clone());
        self.ask(|reply| Command::Apply(plan, deletions, reply))
    }

    /// Reads what our devices have.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn kept(&self) -> Result<Vec<Kept>, Error> {
        self.ask(Command::Kept)
    }

    /// Removes that and nothing else, where no plan can be made.
    ///
    /// # Errors
    /// When the kernel does not answer. What concerns single entries comes back as problems.
    pub fn reduce(&self, removals: Vec<Removal>) -> Result<Applied, Error> {
        self.ask(|reply| Command::Reduce(removals, reply))
    }

    /// Removes every device of ours, and with it all that belongs to it.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn remove(&self) -> Result<usize, Error> {
        self.ask(Command::Remove)
    }

    fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = mpsc::channel();
        let commands = self.commands.as_ref().ok_or(Error::Gone)?;
        commands.send(command(reply)).map_err(|_gone| Error::Gone)?;
        answer.recv().map_err(|_gone| Error::Gone)?
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        // Without a sender the thread's loop ends. A thread that drops the last handle from within `changed` is it.
        drop(self.commands.take());
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the netlink thread has panicked");
        }
    }
}
