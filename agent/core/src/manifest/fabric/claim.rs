//! `spec` of a TunnelAddressClaim.

use super::{KINDS, object_name, uid};
use crate::{
    claims::claim_name,
    manifest::{
        field::{Field, Known},
        network,
    },
    objects::{ClaimSpec, Owner},
};

const CLAIM: Known = Known { names: &["fabric", "address", "owner"], elsewhere: &[] };
const OWNER: Known = Known { names: &["kind", "name", "uid"], elsewhere: &[] };

/// Reads the spec of the claim of this name.
pub(super) fn read(name: &str, field: &Field<'_>) -> Option<ClaimSpec> {
    let fields = field.fields(&CLAIM)?;
    let fabric = fields.required("fabric", "add the name of the TunnelFabric", object_name);
    let address = fields.required("address", "add the address that is claimed", |field| {
        let address = network::unicast(field)?;
        let wanted = claim_name(address);
        if name == wanted {
            return Some(address);
        }
        field.reject(
            format_args!("must be what metadata.name says, {name:?}"),
            format_args!("name it {wanted}"),
        )
    });
    let owner = fields.required("owner", "add kind, name and uid", |field| {
        let fields = field.fields(&OWNER)?;
        let kind = fields.required("kind", "add Node or ExternalHost", |field| field.choice(KINDS));
        let name = fields.required("name", "add the name of the Node or ExternalHost", object_name);
        let uid = fields.required("uid", "add the uid of the Node or ExternalHost", uid);
        Some(Owner { kind: kind?, name: name?, uid: uid? })
    });
    Some(ClaimSpec { fabric: fabric?, address: address?, owner: owner? })
}
