//! `spec` of an ExternalHost.

use super::object_name;
use crate::{
    manifest::{
        field::{Field, Known},
        network,
    },
    objects::ExternalHostSpec,
};

const HOST: Known =
    Known { names: &["fabric", "user", "serviceAccountName", "underlayCIDRs", "paused"], elsewhere: &[] };

/// Reads the spec.
pub(super) fn read(field: &Field<'_>) -> Option<ExternalHostSpec> {
    let fields = field.fields(&HOST)?;
    let fabric = fields.required("fabric", "add the name of the TunnelFabric", object_name);
    let one = fields.exactly_one("user", "serviceAccountName");
    let user = fields.optional("user", user);
    let service_account = fields.optional("serviceAccountName", object_name);
    let underlay_cidrs =
        fields.required("underlayCIDRs", "add the networks of its underlay address", |field| {
            network::list(field, 1)
        });
    let paused = fields.or("paused", false, |field| field.boolean());
    one?;
    Some(ExternalHostSpec {
        fabric: fabric?,
        user: user?,
        service_account: service_account?,
        underlay_cidrs: underlay_cidrs?,
        paused: paused?,
    })
}

/// Names of Kubernetes itself are not for hosts: a service account has a field of its own.
fn user(field: &Field<'_>) -> Option<String> {
    let is_user = |text: &str| (1..=253).contains(&text.chars().count()) && !text.starts_with("system:");
    field.text_like(
        is_user,
        "must be a user name of 1 to 253 characters that does not begin with 'system:'; a service account is named by serviceAccountName",
    )
}
