//! Kubernetes Events on policies that cannot be programmed on this node.
//!
//! Level-triggered: the agent's loop says what is true now ([`Health`]), this module tells the API server what changed
//! since it was told last, not too often. It never holds up the loop, and Events that cannot be written are dropped:
//! status, metrics and `balancingctl` say the same.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use balancing_core::health::Health;
use balancing_core::names;

mod schedule;
#[cfg(test)]
mod tests;

use schedule::{Next, Notice, Schedule};

/// Longest note of an Event in bytes (Kubernetes API, events.k8s.io/v1, `note`).
const NOTE: usize = 1024;
/// Longest name of whoever reports in bytes (the same, `reportingInstance`); names of nodes may be longer.
const INSTANCE: usize = 128;
/// Attempts to write one Event.
const ATTEMPTS: u32 = 3;
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait after the first failed attempt; twice as long after the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes Events in the name of one node.
pub struct Events {
    client: kube::Client,
    node: String,
    schedule: Schedule,
}

impl Events {
    /// Nothing is written before [`Self::run`].
    #[must_use]
    pub fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: node.to_owned(), schedule: Schedule::new(Instant::now()) }
    }

    /// Writes Events until the loop is gone.
    pub async fn run(mut self, mut health: watch::Receiver<Health>) {
        loop {
            let next = self.schedule.next(Instant::now(), &health.borrow_and_update());
            let changed = match next {
                Next::Tell(notice) => {
                    self.tell(&notice).await;
                    continue;
                }
                Next::At(at) => tokio::select! {
                    changed = health.changed() => changed,
                    () = sleep_until(at.into()) => continue,
                },
                Next::Nothing => health.changed().await,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, notice: &Notice) {
        let (event, regarding) = self.event(notice);
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            // One recorder a note: a recorder that has told the same reason before would repeat its old note.
            let reporter = Reporter {
                controller: names::FIELD_MANAGER.to_owned(),
                instance: Some(shortened(self.node.clone(), INSTANCE)),
            };
            let recorder = Recorder::new(self.client.clone(), reporter);
            let (error, again) = match timeout(PATIENCE, recorder.publish(&event, &regarding)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => (error.to_string(), is_worth_another(&error)),
                Err(elapsed) => (elapsed.to_string(), true),
            };
            tracing::debug!(policy = notice.policy.name, attempt, "an Event is not written: {error}");
            if !again || attempt == ATTEMPTS {
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    fn event(&self, notice: &Notice) -> (Event, ObjectReference) {
        let (type_, reason, note) = match &notice.problem {
            Some(problem) => {
                let (failed, all) = (problem.failed, notice.frontends);
                let note = format!(
                    "{failed} of {all} frontends are not programmed on {}: {}",
                    self.node, problem.message
                );
                (EventType::Warning, "ProgrammingFailed", note)
            }
            None => {
                let note = format!("all {} frontends are programmed on {}", notice.frontends, self.node);
                (EventType::Normal, "Programmed", note)
            }
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note, NOTE)),
            action: "Program".to_owned(),
            secondary: None,
        };
        let regarding = ObjectReference {
            api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
            kind: Some(notice.policy.kind.kind().to_owned()),
            name: Some(notice.policy.name.clone()),
            uid: Some(notice.uid.clone()),
            ..ObjectReference::default()
        };
        (event, regarding)
    }
}

/// Whether the API server may say something else the next time.
fn is_worth_another(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

/// The text, cut at a character so that it has at most `limit` bytes.
fn shortened(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text
}
