//! The kinds of objects that sources deliver, and those that a source cannot deliver.

use std::{collections::BTreeSet, fmt};

use balancing_abi::model::PolicyKind;

use crate::objects::ObjectKey;

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The policies of a kind.
    Policy(PolicyKind),
    /// Services.
    Service,
    /// Nodes.
    Node,
    /// Pods.
    Pod,
    /// EndpointSlices that the controller writes.
    EndpointSlice,
    /// TunnelFabrics.
    Fabric,
    /// TunnelNodes.
    Member,
    /// ExternalHosts.
    ExternalHost,
    /// TunnelAddressClaims.
    Claim,
}

impl ObjectKind {
    /// The kind of an object.
    #[must_use]
    pub fn of(key: &ObjectKey) -> Self {
        match key {
            ObjectKey::Policy(policy) => Self::Policy(policy.kind),
            ObjectKey::Service(_) => Self::Service,
            ObjectKey::Node(_) => Self::Node,
            ObjectKey::Pod(_) => Self::Pod,
            ObjectKey::Endpoints(_) => Self::EndpointSlice,
            ObjectKey::Fabric(_) => Self::Fabric,
            ObjectKey::Member(_) => Self::Member,
            ObjectKey::ExternalHost(_) => Self::ExternalHost,
            ObjectKey::Claim(_) => Self::Claim,
        }
    }

    /// Whether only the fabric looks at it: nothing else waits for it.
    #[must_use]
    pub fn is_fabric(self) -> bool {
        matches!(self, Self::Fabric | Self::Member | Self::ExternalHost | Self::Claim)
    }
}

/// Kinds that the source has never been able to list, for a reason that concerns them alone: a right or a CRD is
/// missing. Whatever does not depend on them is known completely.
pub type Lacking = BTreeSet<ObjectKind>;

/// The plural.
impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy(PolicyKind::LocalRedirect) => "LocalRedirectPolicies",
            Self::Policy(PolicyKind::Balancing) => "BalancingPolicies",
            Self::Service => "Services",
            Self::Node => "Nodes",
            Self::Pod => "Pods",
            Self::EndpointSlice => "EndpointSlices",
            Self::Fabric => "TunnelFabrics",
            Self::Member => "TunnelNodes",
            Self::ExternalHost => "ExternalHosts",
            Self::Claim => "TunnelAddressClaims",
        })
    }
}

/// Whether the policies of a kind are not known completely.
#[must_use]
pub fn lacks_policies(lacking: &Lacking, kind: PolicyKind) -> bool {
    lacking.contains(&ObjectKind::Policy(kind))
}

/// What an agent says about a kind that is lacking.
#[must_use]
pub fn describe(kind: ObjectKind) -> String {
    format!(
        "{kind} could not be listed yet: policies that need them wait, and what the kernel has of those stays; the \
         source's problems say why"
    )
}
