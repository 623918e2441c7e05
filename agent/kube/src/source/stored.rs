//! The last complete state of a cluster, kept in a file, for a host that starts while the API server is away.
//!
//! It stands between a [`KubeSource`] and its consumer, and data flows one way through it. What the server says goes on as it is,
//! and as text into the file. Until the first complete list everything is held back. When that list does not come soon, the objects
//! of the file go out in its place, as the list of a source that is complete; what the server said later replaces them in one
//! batch, and only then the objects go that it does not have any more.
//!
//! The file is a convenience: one that cannot be read or written is told, and keeps nothing from working; nor does a disk that is slow.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{Delivery, KubeSource, WatchStats, kind::Target};
use balancing_core::source::{Batch, SourceProblem, SourceStatus, StoredState};
use file::{FileError, State, StateFile, Whose};
use replay::Replay;
use texts::Texts;

pub use file::STATE_FILE;

mod file;
mod replay;
mod texts;

/// So long the server may take to deliver its lists before the stored objects stand in.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two writes, after one that failed, and between two looks whether the server still says the same.
const WRITE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_secs(60);
const CONFIRM: Duration = Duration::from_secs(60);
/// Deliveries that wait to be passed on.
const DELIVERIES: usize = 1;

/// Where a host keeps the state, and who it is.
#[derive(Clone, Debug)]
pub struct StateDir {
    /// The directory; it is made with mode 0700 where it is missing.
    pub path: PathBuf,
    /// The host's name in the cluster.
    pub host: String,
    /// Namespace of what the agents share.
    pub namespace: String,
}

impl KubeSource {
    /// As [`Self::run`], with a file of the last complete state.
    pub async fn run_stored(
        mut self,
        dir: StateDir,
        batches: mpsc::Sender<Batch>,
        status: watch::Sender<SourceStatus>,
    ) {
        self.targets.iter_mut().for_each(Target::add_texts);
        let whose = Whose { server: self.server.clone(), namespace: dir.namespace, host: dir.host };
        let file = StateFile::new(&dir.path, whose, self.targets.clone());
        let (stats, (sender, deliveries)) = (self.stats(), mpsc::channel(DELIVERIES));
        let (told, tells) = watch::channel(SourceStatus::default());
        let relay = Relay::new(file, stats, batches, status);
        tokio::join!(self.run(sender, told, std::future::pending()), relay.run(deliveries, tells));
    }
}

/// Hands on what comes, and keeps the file.
struct Relay {
    file: Arc<StateFile>,
    stats: Arc<WatchStats>,
    batches: mpsc::Sender<Batch>,
    status: watch::Sender<SourceStatus>,
    replay: Replay,
    texts: Texts,
    /// The server has delivered every list that policies look at.
    is_complete: bool,
    /// When the file is looked at next: to read it before the first list, to write it after that; `None` = it waits for the list.
    due: Option<Instant>,
    /// What is done with the file now.
    work: Option<JoinHandle<Done>>,
    stored: Option<StoredState>,
    problem: Option<String>,
}

/// What was done with the file.
enum Done {
    Read(Result<Option<State>, FileError>),
    /// It has what the server said at this time.
    Kept(SystemTime, Result<(), FileError>),
}

impl Relay {
    fn new(
        file: StateFile,
        stats: Arc<WatchStats>,
        batches: mpsc::Sender<Batch>,
        status: watch::Sender<SourceStatus>,
    ) -> Self {
        Self {
            file: Arc::new(file),
            stats,
            batches,
            status,
            replay: Replay::default(),
            texts: Texts::default(),
            is_complete: false,
            due: Some(Instant::now() + PATIENCE),
            work: None,
            stored: None,
            problem: None,
        }
    }

    /// Works until the source or the consumer ends.
    async fn run(
        mut self,
        mut deliveries: mpsc::Receiver<Delivery>,
        mut tells: watch::Receiver<SourceStatus>,
    ) {
        loop {
            let due = self.due;
            tokio::select! {
                () = self.batches.closed() => return,
                delivery = deliveries.recv() => {
                    let Some(delivery) = delivery else { return };
                    if !self.take(delivery).await { return }
                }
                Ok(()) = tells.changed() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.look(),
                done = ended(self.work.as_mut()), if self.work.is_some() => {
                    self.work = None;
                    if !self.finish(done).await { return }
                }
            }
            self.publish(&tells.borrow_and_update().clone());
        }
    }

    /// Takes in what the source says; `false` = nobody listens any more.
    async fn take(&mut self, Delivery { batch, texts }: Delivery) -> bool {
        for text in texts {
            self.texts.take(text);
        }
        let (was_over, is_complete) = (self.replay.is_over(), batch.is_complete());
        let Some(batch) = self.replay.take(batch, &self.texts) else { return true };
        self.is_complete = is_complete;
        if !self.replay.stands_in() && self.stored.is_some_and(|stored| stored.in_force) {
            tracing::info!("the API server has delivered its lists: the stored objects are replaced");
            self.stored = None;
        }
        if !was_over {
            self.due = Some(Instant::now());
        }
        self.batches.send(batch).await.is_ok()
    }

    /// Begins what is due.
    fn look(&mut self) {
        self.due = None;
        let file = Arc::clone(&self.file);
        if !self.replay.is_over() {
            self.work = Some(spawn_blocking(move || Done::Read(file.read())));
        } else if self.work.is_none() {
            self.keep(file);
        }
    }

    /// Writes the file where the server says something else by now, and otherwise notes in it that this is still so.
    fn keep(&mut self, file: Arc<StateFile>) {
        let heard = self.heard();
        let is_old = self.stored.is_none_or(|stored| heard > stored.confirmed + CONFIRM);
        if self.is_complete && self.texts.changed() {
            match self.texts.document(&self.file.whose) {
                Ok(text) => {
                    self.texts.set_changed(false);
                    self.work = Some(spawn_blocking(move || Done::Kept(heard, file.write(&text, heard))));
                }
                Err(error) => self.failed(error.to_string()),
            }
        } else if self.is_complete && is_old {
            self.work = Some(spawn_blocking(move || Done::Kept(heard, file.confirm(heard))));
        } else {
            self.due = Some(Instant::now() + WRITE);
        }
    }

    /// Takes in what was done with the file; `false` = nobody listens any more.
    async fn finish(&mut self, done: Result<Done, String>) -> bool {
        match done {
            Ok(Done::Read(_)) if self.replay.is_over() => self.due = Some(Instant::now()),
            // Nobody but this agent writes the file: it is not read again.
            Ok(Done::Read(Ok(None))) => {}
            Ok(Done::Read(Ok(Some(state)))) => return self.show(state).await,
            Ok(Done::Read(Err(error))) => self.warn(error.to_string()),
            Ok(Done::Kept(confirmed, Ok(()))) => {
                self.stored = Some(StoredState { confirmed, in_force: false });
                self.problem = None;
                self.due = Some(Instant::now() + WRITE);
            }
            Ok(Done::Kept(_, Err(error))) => {
                self.texts.set_changed(true);
                self.failed(error.to_string());
            }
            Err(ended) => {
                self.texts.set_changed(true);
                self.failed(ended);
            }
        }
        true
    }

    /// Lets the stored objects stand in; `false` = nobody listens any more.
    async fn show(&mut self, State { objects, kinds, lacking, confirmed }: State) -> bool {
        tracing::warn!(
            objects = objects.len(),
            as_of = %in_words(confirmed),
            "the API server has not delivered its lists: the stored objects stand in"
        );
        self.stored = Some(StoredState { confirmed, in_force: true });
        self.batches.send(self.replay.show(objects, kinds, lacking)).await.is_ok()
    }

    /// When the server said something last.
    fn heard(&self) -> SystemTime {
        self.stats.last_event().map_or_else(SystemTime::now, SystemTime::from)
    }

    fn failed(&mut self, problem: String) {
        self.warn(problem);
        self.due = Some(Instant::now() + RETRY);
    }

    fn warn(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!("{problem}");
        }
        self.problem = Some(problem);
    }

    /// Tells how the source is doing, and the file.
    fn publish(&self, told: &SourceStatus) {
        let mut status = SourceStatus { stored: self.stored, ..told.clone() };
        let path = self.file.path().display().to_string();
        let stands_in = self.stored.filter(|stored| stored.in_force).map(|stored| {
            format!(
                "the API server has not delivered its lists since the agent started: the objects of {} that are \
                 stored here stand in until it does",
                in_words(stored.confirmed)
            )
        });
        let problems = stands_in.into_iter().chain(self.problem.clone());
        status.problems.extend(problems.map(|message| SourceProblem { path: path.clone(), message }));
        self.status.send_if_modified(|old| {
            let differs = *old != status;
            *old = status;
            differs
        });
    }
}

/// The end of the work; of none there is no end.
async fn ended(work: Option<&mut JoinHandle<Done>>) -> Result<Done, String> {
    match work {
        Some(work) => work.await.map_err(|error| error.to_string()),
        None => std::future::pending().await,
    }
}

/// Whole seconds of a time.
fn in_words(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.strftime("%FT%TZ").to_string()).unwrap_or_default()
}
