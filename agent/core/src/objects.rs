//! The Kubernetes objects the agent looks at, reduced to what it needs, in plain types.
//!
//! Every source (directory, API server) produces these; `resolve` consumes them. No
//! serde and no Kubernetes type appears here. Bad input is carried as data ([`InvalidSpec`]), so that one bad
//! object never hides the others.

use std::net::IpAddr;

use balancing_abi::model::{PolicyKind, Protocol};
use ipnetwork::IpNetwork;

mod compact;
mod fabric;
mod policy;
mod selector;

pub use compact::{Addresses, Labels};
pub use fabric::{
    AcceptFrom, Acceptance, ClaimSpec, ExternalHost, ExternalHostSpec, FabricSpec, MemberKind, MemberSpec,
    Owner, TunnelAddressClaim, TunnelFabric, TunnelNode, Underlay, UnderlayFamily,
};
pub use policy::{
    BackendPort, BackendSpec, FrontendSpec, InvalidSpec, OnNoBackend, PodBackend, Policy, PolicySpec, Port,
    Problem, RedirectMode, WeightedAddress,
};
pub use selector::{LabelExpression, LabelOperator, LabelSelector};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// `metadata.namespace`, empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// Kind and name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Its kind.
    pub kind: PolicyKind,
    /// `metadata.name`.
    pub name: String,
}

impl PolicyRef {
    /// A number for kind and name, the same everywhere and always.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.kind.kind(), &self.name)
    }
}

/// A number for kind and name, the same everywhere and always: FNV-1a.
pub(crate) fn fingerprint(kind: &str, name: &str) -> u64 {
    fnv([kind, "/", name].iter().flat_map(|word| word.bytes()))
}

/// FNV-1a of 64 bits.
pub(crate) fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// One object of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A pod of any node.
    Pod(Pod),
    /// A node.
    Node(Node),
    /// A Service.
    Service(Service),
    /// A LocalRedirectPolicy or BalancingPolicy, valid or not.
    Policy(Policy),
    /// Backends that the controller selected.
    Endpoints(Endpoints),
    /// A TunnelFabric, valid or not.
    Fabric(TunnelFabric),
    /// A TunnelNode, valid or not.
    Member(TunnelNode),
    /// An ExternalHost, valid or not.
    ExternalHost(ExternalHost),
    /// A TunnelAddressClaim, valid or not.
    Claim(TunnelAddressClaim),
}

/// Identifies an [`Object`] within a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// Pod by namespace and name.
    Pod(ObjectRef),
    /// Node by name.
    Node(String),
    /// Service by namespace and name.
    Service(ObjectRef),
    /// Policy by kind and name.
    Policy(PolicyRef),
    /// EndpointSlice of ours by namespace and name.
    Endpoints(ObjectRef),
    /// TunnelFabric by name.
    Fabric(String),
    /// TunnelNode by name.
    Member(String),
    /// ExternalHost by name.
    ExternalHost(String),
    /// TunnelAddressClaim by name.
    Claim(String),
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Pod {
    /// `metadata.namespace`, `default` when absent.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// The UID under which the node runs it, where that is another one: see [`Pod::node_uid`].
    pub static_uid: Option<Box<str>>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nodeName`; empty while unscheduled.
    pub node: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
    /// `status.podIPs`, else `status.podIP`.
    pub ips: Addresses,
    /// `status.hostIPs`, else `status.hostIP`; filled from the Node when absent.
    pub host_ips: Addresses,
    /// Container ports of all containers.
    pub ports: Vec<ContainerPort>,
    /// Annotation `balancing.elf.io/redirect: "disabled"`.
    pub redirect_disabled: bool,
    /// Ids of the containers that run as the kubelet has told last, without the name of the runtime:
    /// `containerID` of those of `status.containerStatuses` and `.initContainerStatuses` whose state is `running`. Empty for
    /// pods of other nodes.
    pub containers: Vec<Box<str>>,
    /// The node has seen one of them end, which the kubelet has not told yet: [`crate::snapshot::Snapshot::set_ended`].
    pub container_ended: bool,
}

impl Pod {
    /// The UID that the kubelet, the runtime and the cgroup's name know. The object of a static pod is only its mirror and has
    /// a UID of its own; the kubelet notes the pod's in an annotation (Kubernetes, "Create static Pods").
    #[must_use]
    pub fn node_uid(&self) -> &str {
        self.static_uid.as_deref().unwrap_or(&self.uid)
    }
}

/// `spec.containers[].ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// `name`, empty when absent.
    pub name: String,
    /// `containerPort`.
    pub port: u16,
    /// `hostPort`.
    pub host_port: Option<u16>,
    /// `protocol`; a port of another protocol is left out.
    pub protocol: Protocol,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` of type `InternalIP`.
    pub ips: Addresses,
    /// Addresses in `status.addresses` of other types. Nothing is sent there.
    pub other_ips: Addresses,
    /// `spec.podCIDRs`, without what is no network.
    pub pod_networks: Box<[IpNetwork]>,
    /// Annotations `balancing.elf.io/nodeProxyIpv4` and `nodeProxyIpv6`: parsed addresses of the right family.
    pub proxy_ips: Addresses,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// `metadata.namespace`, `default` when absent.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.type` is `ExternalName`.
    pub external_name: bool,
    /// `spec.clusterIP` is `None`.
    pub headless: bool,
    /// `spec.clusterIPs`, else `spec.clusterIP`.
    pub cluster_ips: Addresses,
    /// `spec.externalIPs`.
    pub external_ips: Addresses,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Addresses,
    /// `spec.ports`; a port of another protocol than TCP or UDP is left out.
    pub ports: Vec<ServicePort>,
}

/// `spec.ports[]` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// `name`, empty when absent.
    pub name: String,
    /// `port`.
    pub port: u16,
    /// `protocol`.
    pub protocol: Protocol,
    /// `targetPort`; defaults to `port`.
    pub target: PortRef,
}

/// A port by number or by the name of a container port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// Number.
    Number(u16),
    /// Name of a container port.
    Name(String),
}

/// What one EndpointSlice of ours lists: pods of the cluster that a BalancingPolicy selects. An endpoint with
/// addresses of both families stands in two slices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// The EndpointSlice.
    pub slice: ObjectRef,
    /// The policy, which owns the slice.
    pub policy: PolicyRef,
    /// `metadata.uid` of the policy.
    pub policy_uid: String,
    /// `metadata.generation` of the policy whose selector and ports were looked at; `None` = written by an agent of
    /// an earlier version.
    pub generation: Option<i64>,
    /// How many slices this generation has; only one of them, the head, says it.
    pub set_size: Option<usize>,
    /// The external addresses of its Service that the policy may claim; only the head says it, and only where the
    /// Service has any.
    pub approved: Option<Addresses>,
    /// The backend ports of the policy that these pods have: name and protocol as in `toPorts`, the number
    /// as the pod has it (`hostPort` mode: the host port).
    pub ports: Vec<Port>,
    /// The pods.
    pub list: Vec<Endpoint>,
}

/// A pod in [`Endpoints`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of the pod.
    pub ip: IpAddr,
    /// The pod.
    pub pod: ObjectRef,
    /// Name of its node; empty when unknown.
    pub node: String,
    /// Zone of its node; empty when unknown.
    pub zone: String,
    /// It is Ready, not terminating and not finished.
    pub ready: bool,
}

impl Pod {
    /// Whether it takes new connections: Ready, not terminating, not finished, and no container was seen to end.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.ready && !self.terminating && !self.finished && !self.container_ended
    }

    /// Whether the port is open on its node: Kubernetes opens a port that a container declares as `hostPort`,
    /// and every port of a hostNetwork pod is one of its node.
    #[must_use]
    pub fn opens_on_node(&self, port: &Port) -> bool {
        let wanted = (Some(port.port), port.protocol);
        self.host_network || self.ports.iter().any(|p| (p.host_port, p.protocol) == wanted)
    }
}

impl Service {
    /// `externalIPs` and load balancer addresses.
    pub fn external(&self) -> impl Iterator<Item = &IpAddr> {
        self.external_ips.iter().chain(&self.load_balancer_ips)
    }

    /// Whether a policy that names it asks for external addresses.
    #[must_use]
    pub fn has_external(&self) -> bool {
        !self.headless && !self.external_name && self.external().next().is_some()
    }
}

impl Node {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.ips.iter().chain(&self.other_ips).chain(&self.proxy_ips)
    }

    /// The zone it is in, by the label `topology.kubernetes.io/zone`; empty when unknown.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.labels.get("topology.kubernetes.io/zone").unwrap_or_default()
    }
}

impl Object {
    /// The key of this object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Pod(o) => {
                ObjectKey::Pod(ObjectRef { namespace: o.namespace.clone(), name: o.name.clone() })
            }
            Self::Node(o) => ObjectKey::Node(o.name.clone()),
            Self::Service(o) => {
                ObjectKey::Service(ObjectRef { namespace: o.namespace.clone(), name: o.name.clone() })
            }
            Self::Policy(o) => ObjectKey::Policy(o.id.clone()),
            Self::Endpoints(o) => ObjectKey::Endpoints(o.slice.clone()),
            Self::Fabric(o) => ObjectKey::Fabric(o.name.clone()),
            Self::Member(o) => ObjectKey::Member(o.name.clone()),
            Self::ExternalHost(o) => ObjectKey::ExternalHost(o.name.clone()),
            Self::Claim(o) => ObjectKey::Claim(o.name.clone()),
        }
    }
}
