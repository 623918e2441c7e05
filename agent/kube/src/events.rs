//! Kubernetes Events on what cannot be as it should: policies that are not programmed on this node, fabrics that are in trouble.
//!
//! Level-triggered: others say what is true now ([`Health`], [`fabric::Troubles`]), this module tells the API server what changed
//! since it was told last, not too often. It never holds up anybody, and Events that cannot be written are dropped:
//! status, metrics and `balancingctl` say the same.

use std::time::Instant;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use tokio::{sync::watch, time::sleep_until};

use balancing_core::{
    health::{Health, PolicyHealth},
    names,
    objects::PolicyRef,
};

pub mod fabric;
mod schedule;
#[cfg(test)]
mod tests;
mod writer;

use schedule::{Next, Notice, Schedule};
use writer::Writer;

/// Writes Events on policies in the name of one node.
pub struct Events {
    writer: Writer,
    node: String,
    schedule: Schedule<PolicyRef, PolicyHealth>,
}

impl Events {
    /// Nothing is written before [`Self::run`].
    #[must_use]
    pub fn new(client: kube::Client, node: &str) -> Self {
        Self {
            writer: Writer::new(client, node),
            node: node.to_owned(),
            schedule: Schedule::new(Instant::now()),
        }
    }

    /// Writes Events until the loop is gone.
    pub async fn run(mut self, mut health: watch::Receiver<Health>) {
        loop {
            let next = self.schedule.next(Instant::now(), &health.borrow_and_update());
            let changed = match next {
                Next::Tell(notice) => {
                    let (event, regarding) = self.event(&notice);
                    self.writer.write(event, &regarding).await;
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

    fn event(&self, Notice { subject, state }: &Notice<PolicyRef, PolicyHealth>) -> (Event, ObjectReference) {
        let (type_, reason, note) = match &state.problem {
            Some(problem) => {
                let (failed, all) = (problem.failed, state.frontends);
                let note = format!(
                    "{failed} of {all} frontends are not programmed on {}: {}",
                    self.node, problem.message
                );
                (EventType::Warning, "ProgrammingFailed", note)
            }
            None => {
                let note = format!("all {} frontends are programmed on {}", state.frontends, self.node);
                (EventType::Normal, "Programmed", note)
            }
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Program".to_owned(),
            secondary: None,
        };
        (event, regarding(subject.kind.kind(), &subject.name, &state.uid))
    }
}

/// An object of our own group.
fn regarding(kind: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}
