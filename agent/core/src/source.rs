//! Where objects come from.
//!
//! A source delivers its complete list once and every change after it, in batches. It knows nothing of
//! policies being in force; what it cannot read it reports in its status and keeps as it was.

use std::time::SystemTime;

use crate::{
    kinds::Lacking,
    objects::{Object, ObjectKey},
};

/// One change of one object.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all changes are upserts, a box would only cost an allocation"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is new or different.
    Upsert(Object),
    /// The object is gone.
    Delete(ObjectKey),
}

/// Changes that belong together; each object appears at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// In the order of their keys.
    pub changes: Vec<Change>,
    /// The source's complete list has been delivered with or before this batch, but for what is lacking.
    pub synced: bool,
    /// Kinds of which there is no complete list yet. In batches that are synced the set only shrinks, in others it
    /// is empty.
    pub lacking: Lacking,
}

impl Batch {
    /// Whether the complete list of every kind that policies look at has been delivered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.synced && self.lacking.iter().all(|kind| kind.is_fabric())
    }

    /// Whether it changes pods.
    #[must_use]
    pub fn has_pods(&self) -> bool {
        self.changes.iter().any(|change| {
            matches!(change, Change::Upsert(Object::Pod(_)) | Change::Delete(ObjectKey::Pod(_)))
        })
    }
}

/// How a source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// What it is, such as `dir:/etc/balancing`.
    pub description: String,
    /// The complete list of every kind has been delivered.
    pub synced: bool,
    /// What is wrong now, in the order of the paths.
    pub problems: Vec<SourceProblem>,
    /// What is kept of it for a start without it.
    pub stored: Option<StoredState>,
}

/// A state of the source that is stored on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredState {
    /// When the source said last that it is so.
    pub confirmed: SystemTime,
    /// It stands in for the source, which has not delivered its list since the start.
    pub in_force: bool,
}

/// One thing that is wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceProblem {
    /// The file or directory; the object, kind or URL of an API server.
    pub path: String,
    /// The object, the rule and what became of it, in one line.
    pub message: String,
}

/// Kind and name of an object, for messages.
#[must_use]
pub fn title(key: &ObjectKey) -> String {
    match key {
        ObjectKey::Pod(pod) => format!("Pod {}/{}", pod.namespace, pod.name),
        ObjectKey::Endpoints(slice) => format!("EndpointSlice {}/{}", slice.namespace, slice.name),
        ObjectKey::Service(service) => format!("Service {}/{}", service.namespace, service.name),
        ObjectKey::Node(name) => format!("Node {name}"),
        ObjectKey::Fabric(name) => format!("TunnelFabric {name}"),
        ObjectKey::Member(name) => format!("TunnelNode {name}"),
        ObjectKey::ExternalHost(name) => format!("ExternalHost {name}"),
        ObjectKey::Claim(name) => format!("TunnelAddressClaim {name}"),
        ObjectKey::Policy(policy) => format!("{} {}", policy.kind, policy.name),
    }
}
