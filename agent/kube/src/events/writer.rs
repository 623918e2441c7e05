//! One Event, written within reason: a few attempts, then it is dropped.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio::time::{sleep, timeout};

use balancing_core::names;

/// Longest note of an Event in bytes (Kubernetes API, events.k8s.io/v1, `note`).
pub(super) const NOTE: usize = 1024;
/// Longest name of whoever reports in bytes (the same, `reportingInstance`); names of nodes may be longer.
const INSTANCE: usize = 128;
/// Attempts to write one Event.
const ATTEMPTS: u32 = 3;
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait after the first failed attempt; twice as long after the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes in the name of one reporter.
pub(super) struct Writer {
    client: kube::Client,
    instance: String,
}

impl Writer {
    pub(super) fn new(client: kube::Client, instance: &str) -> Self {
        Self { client, instance: shortened(instance.to_owned(), INSTANCE) }
    }

    /// Writes it, or drops it.
    pub(super) async fn write(&self, mut event: Event, regarding: &ObjectReference) {
        event.note = event.note.map(|note| shortened(note, NOTE));
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            // One recorder a note: a recorder that has told the same reason before would repeat its old note.
            let reporter = Reporter {
                controller: names::FIELD_MANAGER.to_owned(),
                instance: Some(self.instance.clone()),
            };
            let recorder = Recorder::new(self.client.clone(), reporter);
            let (error, again) = match timeout(PATIENCE, recorder.publish(&event, regarding)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => (error.to_string(), is_worth_another(&error)),
                Err(elapsed) => (elapsed.to_string(), true),
            };
            tracing::debug!(object = regarding.name, attempt, "an Event is not written: {error}");
            if !again || attempt == ATTEMPTS {
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
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
pub(super) fn shortened(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text
}
