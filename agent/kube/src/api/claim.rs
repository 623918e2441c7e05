//! TunnelAddressClaim.

use kube::{CustomResource, KubeSchema, core::Rule};
use serde::{Deserialize, Serialize};

use super::{
    member::MemberKind,
    name::{DNS_SUBDOMAIN_LENGTH, dns_subdomain},
    network::{ADDRESS_LENGTH, unicast},
};

/// An address in the tunnel that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "TunnelAddressClaim",
    plural = "tunneladdressclaims",
    shortname = "tac",
    category = "balancing",
    derive = "PartialEq",
    validation = own_name(),
    validation = fixed(),
    doc = "TunnelAddressClaim says whose an address in the tunnel is. It is named after the address, so that creating it takes it."
)]
#[serde(rename_all = "camelCase")]
pub struct TunnelAddressClaimSpec {
    /// Name of the TunnelFabric.
    #[schemars(length(max = DNS_SUBDOMAIN_LENGTH))]
    #[x_kube(validation = dns_subdomain())]
    pub fabric: String,
    /// The address.
    #[schemars(length(max = ADDRESS_LENGTH))]
    #[x_kube(validation = unicast()[0].clone(), validation = unicast()[1].clone(), validation = unicast()[2].clone())]
    pub address: String,
    /// Whose it is.
    pub owner: ClaimOwner,
}

/// A Node or an ExternalHost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimOwner {
    /// What the owner is. The description in the schema is that of the type.
    pub kind: MemberKind,
    /// Name of the owner.
    #[schemars(length(max = DNS_SUBDOMAIN_LENGTH))]
    #[x_kube(validation = dns_subdomain())]
    pub name: String,
    /// UID of the owner: another one of the same name inherits nothing.
    #[schemars(length(min = 1, max = 128))]
    pub uid: String,
}

/// As `claim_name` of the core: an IPv6 address is written in full, so reading the name must give the same address.
fn own_name() -> Rule {
    Rule::new(
        "!isIP(self.spec.address) || (ip(self.spec.address).family() == 4 \
         ? self.metadata.name == self.spec.address.replace('.', '-') \
         : self.metadata.name.matches('^[0-9a-f]{4}(-[0-9a-f]{4}){7}$') \
         && ip(self.metadata.name.replace('-', ':')) == ip(self.spec.address))",
    )
    .message("must be what metadata.name says: such as 10-211-3-7, IPv6 in eight groups of four digits")
    .field_path(".spec.address")
}

fn fixed() -> Rule {
    Rule::new("self.spec == oldSelf.spec")
        .message("a claim never changes; delete it and create another one")
        .field_path(".spec")
}
