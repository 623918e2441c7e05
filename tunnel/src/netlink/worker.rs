//! The thread behind the handle: one runtime, one socket for requests, one for events.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use tokio::{runtime::Builder, sync::mpsc::UnboundedReceiver, time::timeout};

use super::{Command, Error, apply, events, read, requests::Requests};
use crate::facts::Link;

/// Far above what the largest fabric takes. An answer that was lost would be awaited for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// Indices of our devices, for the events that are ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours(Arc<Mutex<BTreeSet<u32>>>);

impl Ours {
    /// Takes over what a list of links says.
    pub(super) fn learn(&self, links: &[Link]) {
        let ours = links.iter().filter(|link| link.is_ours()).map(|link| link.index).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ours;
    }

    pub(super) fn contain(&self, index: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&index)
    }
}

impl FromIterator<u32> for Ours {
    fn from_iter<I: IntoIterator<Item = u32>>(indices: I) -> Self {
        Self(Arc::new(Mutex::new(indices.into_iter().collect())))
    }
}

/// Runs until the handle is dropped; says through `ready` whether it could start.
pub(super) fn run(
    mut inbox: UnboundedReceiver<Command>,
    changed: impl Fn() + Send + 'static,
    ready: &mpsc::Sender<Result<(), Error>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return answer(ready, Err(Error::Start(error))),
    };
    runtime.block_on(async {
        let ours = Ours::default();
        let opened = Requests::open().and_then(|requests| Ok((requests, events::open()?)));
        let (mut requests, socket) = match opened {
            Ok(opened) => opened,
            Err(error) => return answer(ready, Err(Error::Start(error))),
        };
        tokio::spawn(events::listen(socket, ours.clone(), changed));
        answer(ready, Ok(()));
        while let Some(command) = inbox.recv().await {
            if !serve(command, &requests, &ours).await {
                match Requests::open() {
                    Ok(opened) => requests = opened,
                    Err(error) => tracing::error!(%error, "cannot open netlink anew"),
                }
            }
        }
    });
}

/// Serves a command; false when the socket is to be opened anew.
async fn serve(command: Command, requests: &Requests, ours: &Ours) -> bool {
    match command {
        Command::Facts(reply) => {
            let facts = patient(async {
                let facts = read::facts(requests).await?;
                ours.learn(&facts.links);
                Ok(facts)
            });
            finish(&reply, facts.await)
        }
        Command::Shape(plan, deletions, reply) => {
            finish(&reply, patient(apply::shape(requests, &plan, deletions, ours)).await)
        }
        Command::Apply(plan, deletions, reply) => {
            finish(&reply, patient(apply::apply(requests, &plan, deletions, ours)).await)
        }
        Command::Kept(reply) => finish(&reply, patient(apply::kept(requests)).await),
        Command::Reduce(removals, reply) => finish(&reply, patient(apply::reduce(requests, &removals)).await),
        Command::Remove(reply) => finish(&reply, patient(apply::remove(requests)).await),
    }
}

async fn patient<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(PATIENCE, work).await.unwrap_or(Err(Error::TimedOut))
}

fn finish<T>(reply: &mpsc::Sender<Result<T, Error>>, result: Result<T, Error>) -> bool {
    let sound = !matches!(&result, Err(Error::TimedOut | Error::Gone));
    answer(reply, result);
    sound
}

/// Whoever asked may be gone by now.
fn answer<T>(reply: &mpsc::Sender<Result<T, Error>>, result: Result<T, Error>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for netlink's answer");
    }
}
