//! DEL: forgets an attachment, and detaches the pod with its last one.
//!
//! It always succeeds: a pod must not stay because of us. What cannot be removed now is dead once the
//! pod's cgroup is gone, and the agent and GC sweep it.

use std::collections::BTreeSet;

use balancing_dataplane::{
    cgroup::PodUid,
    links::Locks,
    records::{Records, Seen},
};

use super::lock_patience;
use crate::{Request, error::CniError, pod};

pub(super) fn run(request: &Request<'_>) {
    let records = Records::new(&request.config.run_dir);
    let record = pod::record(request, &records);
    // The record's pod and the runtime's are the same unless a container id was used again.
    let uids: BTreeSet<PodUid> =
        record.iter().map(|record| record.pod_uid.clone()).chain(pod::uid(request, None)).collect();
    let attachment = request.environment.attachment(&request.config.name);
    for uid in &uids {
        let released = release(request, &records, uid, &mut Seen::default(), || {
            records.remove(&attachment)?;
            Ok(())
        });
        match released {
            Ok(true) => request.log.info(&format!("pod {uid} detached")),
            Ok(false) => request.log.debug(&format!("pod {uid}: nothing to detach")),
            Err(error) => request.log.warn(&format!("pod {uid}: {error}")),
        }
    }
    // Also when the lock could not be had, and a record that cannot be read.
    if let Err(error) = records.remove(&attachment) {
        request.log.warn(&error.to_string());
    }
}

/// Under the pod's lock: forgets an attachment, then removes the links if nothing refers to them any more.
pub(super) fn release(
    request: &Request<'_>,
    records: &Records,
    uid: &PodUid,
    seen: &mut Seen,
    forget: impl FnOnce() -> Result<(), CniError>,
) -> Result<bool, CniError> {
    let _lock = Locks::new(&request.config.run_dir).acquire(uid, lock_patience(request))?;
    forget()?;
    if records.references(uid, seen)? > 0 {
        return Ok(false);
    }
    Ok(pod::detach(&request.node.bpffs, uid)?)
}
