//! The policies of both kinds.

use std::net::IpAddr;

use balancing_abi::model::{Clients, Protocol};

use super::{LabelSelector, ObjectRef, PolicyRef, PortRef};

/// A policy of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Kind and name.
    pub id: PolicyRef,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.generation`, 0 when absent.
    pub generation: i64,
    /// `metadata.creationTimestamp` in seconds since 1970; absent counts as younger than any.
    pub created: Option<i64>,
    /// `status.proxyPorts`: what the controller gave the ports that are left to it.
    pub proxy_ports: Vec<Port>,
    /// Annotation `balancing.elf.io/serviceId`, when it is valid.
    pub service_id: Option<u32>,
    /// The validated spec, or everything that is wrong with it.
    pub spec: Result<PolicySpec, InvalidSpec>,
}

impl Policy {
    /// Whether it waits for ports that the controller has to choose.
    #[must_use]
    pub fn lacks_ports(&self) -> bool {
        let backend = self.spec.as_ref().map(|spec| &spec.backend);
        matches!(backend, Ok(BackendSpec::Pods { pods, .. }) if pods.ports.iter().any(|it| it.port.port == 0))
    }
}

/// Everything wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct InvalidSpec {
    /// At least one, in the order of the fields.
    pub problems: Vec<Problem>,
    /// What it names as frontend, as far as that can be read; without ports. Only explanations look at it.
    pub frontends: Vec<FrontendSpec>,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Path of the field, such as `spec.frontend.addressMatcher.toPorts[1].port`.
    pub field: String,
    /// The rule, the value found and the remedy, in one line.
    pub message: String,
}

/// A valid spec.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicySpec {
    /// `spec.enabled`
    pub enabled: bool,
    /// `spec.config.nodeLabelSelector`
    pub node_selector: LabelSelector,
    /// `spec.config.enableOutCluster`
    pub out_cluster: bool,
    /// `spec.frontend`
    pub frontend: FrontendSpec,
    /// `spec.backend`
    pub backend: BackendSpec,
    /// `spec.skipRedirectFromBackend`
    pub skip_redirect_from_backend: bool,
    /// `spec.qosLimit`: `None` = the global limit applies, `Some(0)` = no limit.
    pub qos_limit: Option<u32>,
    /// `spec.clients`
    pub clients: Clients,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity: Option<u32>,
    /// `spec.onNoBackend`; `None` = the default for the kind of frontend.
    pub on_no_backend: Option<OnNoBackend>,
}

/// `spec.onNoBackend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnNoBackend {
    /// The connection goes where it was dialled.
    Fallback,
    /// The connection fails with EHOSTUNREACH.
    Reject,
}

/// `spec.frontend`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FrontendSpec {
    /// `addressMatcher`
    Address {
        /// The virtual address; mapped addresses are IPv4 here.
        ip: IpAddr,
        /// At least one.
        ports: Vec<Port>,
    },
    /// `serviceMatcher`
    Service {
        /// The Service.
        service: ObjectRef,
        /// Empty = every port of the Service.
        ports: Vec<Port>,
    },
}

impl FrontendSpec {
    /// The Service that it names.
    #[must_use]
    pub fn service(&self) -> Option<&ObjectRef> {
        match self {
            Self::Service { service, .. } => Some(service),
            Self::Address { .. } => None,
        }
    }
}

/// `spec.backend`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendSpec {
    /// Of a LocalRedirectPolicy: pods of this node.
    LocalPods(PodBackend),
    /// `serviceEndpoint` of a BalancingPolicy: pods of the whole cluster.
    Pods {
        /// Which pods and ports.
        pods: PodBackend,
        /// How they are reached.
        mode: RedirectMode,
    },
    /// `addressEndpoint` of a BalancingPolicy.
    Addresses {
        /// At least one; mapped addresses are IPv4 here.
        addresses: Vec<WeightedAddress>,
        /// At least one.
        ports: Vec<Port>,
    },
}

/// Pods by label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodBackend {
    /// `endpointSelector`
    pub selector: LabelSelector,
    /// `namespace`; `None` = any.
    pub namespace: Option<String>,
    /// At least one.
    pub ports: Vec<BackendPort>,
}

/// A `toPorts` entry of a pod backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendPort {
    /// The port itself. Where it is automatic and not given yet its number is 0.
    pub port: Port,
    /// In `nodeProxy` mode: written as 0, so the controller chooses it.
    pub automatic: bool,
    /// `targetPort`, in `nodeProxy` mode only.
    pub target: Option<PortRef>,
}

/// An address of `addressEndpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightedAddress {
    /// The address.
    pub ip: IpAddr,
    /// 0..=100; 1 when written as a plain address.
    pub weight: u32,
}

/// `redirectMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedirectMode {
    /// Pod address and port.
    PodEndpoint,
    /// Node address and the pod's host port.
    HostPort,
    /// The node's proxy address and the policy's port.
    NodeProxy,
}

/// `PortInfo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1..=65535; see [`BackendPort::port`].
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Lower-case IANA service name, empty when absent.
    pub name: String,
}
