//! What `resolve` decides: the table the kernel shall have and a verdict for each policy.
//!
//! Plain data, ordered, so that the same input gives the same output.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
};

use balancing_abi::model::{self, ClientId, Clients, FrontendKey};

use crate::objects::{ObjectRef, PolicyRef};

/// A backend with where it came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Address, port and weight.
    pub target: model::Backend,
    /// The pod behind it; `None` for custom addresses and for several pods behind one node address.
    pub pod: Option<ObjectRef>,
    /// The pod's node.
    pub node: Option<String>,
}

/// One policy's decision for one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The policy.
    pub policy: PolicyRef,
    /// Its service id.
    pub service_id: u32,
    /// Sorted and merged by address and port.
    pub backends: Vec<Backend>,
    /// See [`model::Layer::clients`].
    pub clients: Clients,
    /// See [`model::Layer::qos_limit`].
    pub qos_limit: Option<NonZeroU32>,
    /// See [`model::Layer::affinity`].
    pub affinity: Option<NonZeroU32>,
    /// See [`model::Layer::reject`].
    pub reject: bool,
    /// See [`model::Layer::skip`].
    pub skip: BTreeSet<ClientId>,
}

/// The layers of a frontend after precedence, at least one. Each decides where the one before stands aside. They are
/// shared with whoever resolved them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the first to the last.
    pub layers: Vec<Arc<Layer>>,
}

/// What became of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its service id: chosen by annotation or derived.
    pub service_id: u32,
    /// `metadata.generation` that was looked at.
    pub generation: i64,
    /// Condition `Accepted`.
    pub accepted: bool,
    /// It takes part, so that its references were looked at.
    pub takes_part: bool,
    /// Condition `ResolvedRefs`.
    pub resolved_refs: bool,
    /// External addresses of the Service that are not claimed because they belong to somebody else, in words.
    pub left_alone: Vec<String>,
    /// Condition `Conflicted`: the policies that won, if any.
    pub conflicts_with: BTreeSet<PolicyRef>,
    /// Why the first condition that is not as wished is so; `Applied` when all is well.
    pub reason: Reason,
    /// One line for people.
    pub message: String,
    /// Frontends that this policy decides, first or second, with the number of backends it has there.
    pub frontends: BTreeMap<FrontendKey, usize>,
    /// Number of distinct backends.
    pub backends: usize,
    /// Whether new connections of at least one frontend go to a backend. Frontends without are there to refuse connections, or
    /// have only backends of weight 0.
    pub redirects: bool,
}

/// Reasons of conditions, as written in status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// In force.
    Applied,
    /// A rule of the API is broken.
    InvalidSpec,
    /// The Service does not exist.
    ServiceNotFound,
    /// The Service is headless or an ExternalName.
    UnsupportedService,
    /// No frontend port, or only some, found a backend port.
    PortsNotPaired,
    /// An older policy owns every frontend, or the service id.
    Conflicted,
    /// `spec.enabled: false`.
    Disabled,
    /// The policy is not for this node or this role.
    NotSelected,
    /// The EndpointSlices of its generation are not complete, or a kind that it needs has not been listed; what was in
    /// force before stays.
    Pending,
}

impl Reason {
    /// The CamelCase word used in conditions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "Applied",
            Self::InvalidSpec => "InvalidSpec",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::UnsupportedService => "UnsupportedService",
            Self::PortsNotPaired => "PortsNotPaired",
            Self::Conflicted => "Conflicted",
            Self::Disabled => "Disabled",
            Self::NotSelected => "NotSelected",
            Self::Pending => "Pending",
        }
    }
}

impl Layer {
    /// The layer in the data plane's words.
    #[must_use]
    pub fn to_model(&self) -> model::Layer {
        model::Layer {
            service_id: self.service_id,
            backends: self.backends.iter().map(|b| b.target).collect(),
            clients: self.clients,
            qos_limit: self.qos_limit,
            window: self.policy.fingerprint(),
            affinity: self.affinity,
            reject: self.reject,
            skip: self.skip.clone(),
        }
    }
}

impl Entry {
    /// The entry in the data plane's words.
    #[must_use]
    pub fn to_model(&self) -> model::Entry {
        model::Entry { layers: self.layers.iter().map(|layer| layer.to_model()).collect() }
    }
}
