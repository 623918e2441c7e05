//! STATUS: could a pod be attached now?

use balancing_dataplane::{links::Programs, mount};

use crate::{
    Request,
    error::{CniError, Code},
    pod,
};

/// Names everything that is missing at once.
pub(super) fn run(request: &Request<'_>) -> Result<(), CniError> {
    let bpffs = &request.config.bpffs;
    let mut problems = Vec::new();
    match mount::is_bpffs(bpffs) {
        Ok(true) => problems.extend(Programs::newest(bpffs).err().map(|error| error.to_string())),
        Ok(false) => {
            problems.push(format!("bpffs: {} is not a bpffs; the agent mounts one", bpffs.display()))
        }
        Err(error) => problems.push(format!("bpffs: {error}")),
    }
    problems.extend(pod::cgroup_root(request).err().map(|error| error.to_string()));
    if problems.is_empty() {
        return Ok(());
    }
    Err(CniError::new(Code::NotAvailable, "pods cannot be attached", problems.join("; ")))
}
