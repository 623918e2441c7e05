//! STATUS: can this node start pods as the configuration wants it?
//!
//! A node whose plugin fails STATUS turns NotReady and starts no pods any more (containerd 2, CNI spec 1.1.0, "STATUS"). So
//! what the agent mends, programs that are not pinned and a bpffs that is not mounted, is only logged: the agent may be a
//! pod itself. What it cannot mend fails under `failurePolicy: fail`, where no pod would start anyway.

use balancing_dataplane::{links::Programs, mount};

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
        request
            .log
            .warn(&format!("pods start without redirection until this is mended: {}", missing.join("; ")));
    }
    match wrong {
        Some(wrong) if request.config.failure_policy == FailurePolicy::Fail => {
            Err(CniError::new(Code::NotAvailable, "pods cannot be attached", wrong))
        }
        _ => Ok(()),
    }
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
