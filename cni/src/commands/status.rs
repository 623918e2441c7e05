//! STATUS: can this node start pods as the configuration wants it?
//!
//! A node whose plugin fails STATUS turns NotReady and starts no pods any more (containerd 2, CNI spec 1.1.0, "STATUS"). So
//! what the agent mends, programs that are not pinned and a bpffs that is not mounted, is only logged: the agent may be a
//! pod itself. What it cannot mend fails under `failurePolicy: fail`, where no pod would start anyway.

use std::collections::BTreeSet;

use balancing_dataplane::{
    cgroup::PodUid,
    links::{self, Programs},
    mount,
    records::{Records, State},
};

use crate::{
    Request,
    config::FailurePolicy,
    error::{CniError, Code},
};

/// Names everything that is missing at once.
pub(super) fn run(request: &Request<'_>) -> Result<(), CniError> {
    let wrong = request.node.cgroup_root().err().map(|error| error.to_string());
    let missing: Vec<String> = wrong.iter().cloned().chain(unpinned(request)).collect();
    if !missing.is_empty() {
        let pods = match request.config.failure_policy {
            FailurePolicy::Ignore => "pods start without redirection",
            FailurePolicy::Fail => "no pod starts (failurePolicy: fail)",
        };
        request.log.warn(&format!("{pods} until this is mended: {}", missing.join("; ")));
    }
    match wrong {
        Some(wrong) if request.config.failure_policy == FailurePolicy::Fail => {
            Err(unavailable(request, wrong))
        }
        _ => Ok(()),
    }
}

/// Tells apart whether only new pods suffer or also those that were attached.
fn unavailable(request: &Request<'_>, wrong: String) -> CniError {
    match without_links(request) {
        0 => CniError::new(Code::NotAvailable, "pods cannot be attached", wrong),
        pods => CniError::new(
            Code::Degraded,
            "pods cannot be attached, and some have lost their links",
            format!(
                "{pods} pods of network {:?} that were attached have no links any more; {wrong}",
                request.config.name
            ),
        ),
    }
}

/// How many pods ADD has attached to this network that have no directory of links any more.
fn without_links(request: &Request<'_>) -> usize {
    let Ok(listing) = Records::new(&request.config.run_dir).read_network(&request.config.name) else {
        return 0;
    };
    let layouts = links::layouts(&request.node.bpffs).unwrap_or_default();
    let has_links = |uid: &PodUid| layouts.iter().any(|layout| layout.pods().join(uid.as_str()).is_dir());
    let attached = listing.records.iter().filter(|record| record.state == State::Attached);
    attached
        .map(|record| &record.pod_uid)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|uid| !has_links(uid))
        .count()
}

/// What an agent has to do first.
fn unpinned(request: &Request<'_>) -> Option<String> {
    let bpffs = &request.node.bpffs;
    match mount::is_bpffs(bpffs) {
        Ok(true) => Programs::newest(bpffs).err().map(|error| error.to_string()),
        Ok(false) => Some(format!("bpffs: {} is not a bpffs; the agent mounts one", bpffs.display())),
        Err(error) => Some(format!("bpffs: {error}")),
    }
}
