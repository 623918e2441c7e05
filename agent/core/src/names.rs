//! Names of ours that stand in Kubernetes objects. They are part of the contract: none ever changes.

/// API group of the policies.
pub const GROUP: &str = "balancing.elf.io";
/// The one version of [`GROUP`].
pub const VERSION: &str = "v1beta1";
/// Field manager of everything that is written, and reporting controller of its events.
pub const FIELD_MANAGER: &str = "balancing-agent";
/// Label of an EndpointSlice that says who manages it (Kubernetes, "EndpointSlices", Management).
pub const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] in the slices that the controller writes.
pub const MANAGED_BY: &str = "balancing.elf.io";
/// Label of those slices with the service id of their policy.
pub const LABEL_SERVICE_ID: &str = "balancing.elf.io/service-id";
/// Annotation of those slices with the generation of their policy. It is no label: nothing is selected by it.
pub const ANNOTATION_GENERATION: &str = "balancing.elf.io/generation";
/// Annotation of one of those slices, the head, with the number of slices of that generation.
pub const ANNOTATION_SLICES: &str = "balancing.elf.io/slices";
/// Annotation of the head with the external addresses of its Service that the policy may claim.
pub const ANNOTATION_EXTERNAL: &str = "balancing.elf.io/external-addresses";
/// Label that keeps kube-proxy away from those slices: they belong to no Service.
pub const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Annotations of a Node with its proxy address of each family.
pub const ANNOTATION_PROXY_IPV4: &str = "balancing.elf.io/nodeProxyIpv4";
/// As [`ANNOTATION_PROXY_IPV4`].
pub const ANNOTATION_PROXY_IPV6: &str = "balancing.elf.io/nodeProxyIpv6";
/// ConfigMap in the namespace of the agents with the hosts outside the cluster that may join a fabric, for admission policies.
pub const EXTERNAL_HOSTS: &str = "balancing-external-hosts";
/// VNI of a fabric that names none.
pub const DEFAULT_VNI: u32 = 7710;
/// Port of a fabric that names none.
pub const DEFAULT_VXLAN_PORT: u16 = 7710;
/// Ports on which network plugins run their own tunnels (VXLAN by RFC 7348, and the kernel's older default).
pub const FOREIGN_VXLAN_PORTS: [u16; 2] = [4789, 8472];
/// Lease by which the replicas of the controller elect one of them.
pub const LEASE: &str = "balancing-controller";
