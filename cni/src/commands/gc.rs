//! GC: forgets the attachments of its own network that the runtime does not know any more.

use balancing_dataplane::{
    links::{self, Locks},
    records::{Record, Records, Seen},
};

use super::del;
use crate::{
    Request,
    error::{CniError, Code},
};

/// Goes on after errors and reports them at the end. Without the list of what is in use nothing is touched.
pub(super) fn run(request: &Request<'_>) -> Result<(), CniError> {
    let Some(valid) = request.config.valid_attachments()? else {
        request.log.warn("what is in use was not told: nothing is removed");
        return Ok(());
    };
    let records = Records::new(&request.config.run_dir);
    let listing = records.read_network(&request.config.name)?;
    let mut problems: Vec<String> = listing.broken.iter().map(ToString::to_string).collect();
    let mut seen = Seen::default();
    for record in &listing.records {
        let attachment = &record.attachment;
        // Whoever made the list did not know of an ADD that runs beside this call.
        let newer = record.written > request.began;
        if newer || valid.contains(&(attachment.container_id.clone(), attachment.ifname.clone())) {
            continue;
        }
        match forget(request, &records, record, &mut seen) {
            Ok(()) => request.log.info(&format!(
                "pod {}: attachment {} {} is not in use, removed",
                record.pod_uid, attachment.container_id, attachment.ifname
            )),
            Err(error) => problems.push(format!("pod {}: {error}", record.pod_uid)),
        }
    }
    sweep(request, &mut problems);
    if problems.is_empty() {
        return Ok(());
    }
    Err(CniError::new(Code::Io, "not everything could be removed", problems.join("; ")))
}

/// A record that has changed since it was listed belongs to an ADD that runs now, and stays.
fn forget(
    request: &Request<'_>,
    records: &Records,
    listed: &Record,
    seen: &mut Seen,
) -> Result<(), CniError> {
    let forget = || {
        if records.get(&listed.attachment)?.as_ref() == Some(listed) {
            records.remove(&listed.attachment)?;
        }
        Ok(())
    };
    del::release(request, records, &listed.pod_uid, seen, forget).map(drop)
}

/// Removes what no record tells of: unfinished directories, links of cgroups that are gone.
fn sweep(request: &Request<'_>, problems: &mut Vec<String>) {
    let Ok(root) = request.node.cgroup_root() else { return };
    let locks = Locks::new(&request.config.run_dir);
    let swept = links::layouts(&request.node.bpffs)
        .and_then(|layouts| layouts.iter().map(|layout| links::sweep(layout, &root, &locks)).collect());
    let swept: Vec<links::Swept> = match swept {
        Ok(swept) => swept,
        Err(error) => return problems.push(error.to_string()),
    };
    for done in swept {
        problems.extend(done.failed.iter().map(ToString::to_string));
        for uid in done.pods {
            request.log.info(&format!("pod {uid}: its cgroup is gone, links removed"));
        }
    }
}
