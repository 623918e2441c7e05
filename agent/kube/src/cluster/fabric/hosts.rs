//! The list of hosts outside the cluster by which admission policies know who may write what: for each ExternalHost that is
//! valid and not paused its uid, its networks and its user. `install/rbac/admission.yaml` reads it.

use std::collections::BTreeMap;

use balancing_core::{objects::ExternalHost, snapshot::Snapshot};

/// Bytes of a ConfigMap that are used at most: the API server takes 1 MiB of names and values.
const SIZE: usize = 1_000_000;

/// The wanted list. Hosts for which there is no room are left out, and so cannot join.
pub(super) fn list(snapshot: &Snapshot, namespace: &str) -> BTreeMap<String, String> {
    let mut left = SIZE;
    let entries =
        snapshot.external_hosts().filter_map(|host| Some((host.name.clone(), entry(host, namespace)?)));
    let fits = |(name, entry): &(String, String)| {
        let rest = left.checked_sub(name.len() + entry.len());
        left = rest.unwrap_or(0);
        if rest.is_none() {
            tracing::warn!(name, "no room for this ExternalHost: delete some that are not used");
        }
        rest.is_some()
    };
    entries.filter(fits).collect()
}

/// The user comes last: its name may have blanks.
fn entry(host: &ExternalHost, namespace: &str) -> Option<String> {
    let spec = host.spec.as_ref().ok().filter(|spec| !spec.paused)?;
    let networks: Vec<String> = spec.underlay_cidrs.iter().map(ToString::to_string).collect();
    let account = |name: &String| format!("system:serviceaccount:{namespace}:{name}");
    let user = spec.user.clone().or_else(|| spec.service_account.as_ref().map(account))?;
    Some(format!("{} {} {user}", host.uid, networks.join(",")))
}
