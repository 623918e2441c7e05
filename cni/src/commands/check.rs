//! CHECK: are the links those that ADD made? What other plugins changed does not matter.

use std::path::Path;

use balancing_dataplane::{
    cgroup::{CgroupDir, PodUid},
    layout::Hook,
    links::{self, Programs},
    records::{Records, State},
};

use crate::{
    Request,
    config::FailurePolicy,
    error::{CniError, Code},
    pod,
};

pub(super) fn run(request: &Request<'_>) -> Result<(), CniError> {
    if let Some(why) = pod::exclusion(request) {
        request.log.debug(&why);
        return Ok(());
    }
    let record = pod::record(request, &Records::new(&request.config.run_dir));
    let pending = record.as_ref().is_some_and(|record| matches!(record.state, State::Pending(_)));
    let checked = match pod::uid(request, record.as_ref()) {
        Some(uid) => check(request, &uid),
        None => Err(CniError::new(
            Code::UnknownContainer,
            "nothing is known of this attachment",
            "there is no record of ADD, and neither K8S_POD_UID nor cgroupPath was given",
        )),
    };
    match checked {
        // CRI-O checks right after ADD: what was ignored there cannot fail here.
        Err(error) if pending && request.config.failure_policy == FailurePolicy::Ignore => {
            request.log.warn(&format!("the pod runs without redirection (failurePolicy: ignore): {error}"));
            Ok(())
        }
        other => other,
    }
}

fn check(request: &Request<'_>, uid: &PodUid) -> Result<(), CniError> {
    let (newest, programs) = Programs::newest(&request.node.bpffs)?;
    let cgroup = pod::cgroup(request, uid)?;
    let differences = differences(&programs, &cgroup, &newest.pods().join(uid.as_str()))?;
    if differences.is_empty() {
        return Ok(());
    }
    // During an upgrade of the agent a pod may still have the links of the ABI before.
    for layout in links::layouts(&request.node.bpffs)?.into_iter().filter(|layout| *layout != newest) {
        let dir = layout.pods().join(uid.as_str());
        if let Ok(programs) = Programs::open(&layout)
            && self::differences(&programs, &cgroup, &dir)?.is_empty()
        {
            return Ok(());
        }
    }
    Err(CniError::new(
        Code::Links,
        format!("pod {uid} is not attached as it should be"),
        differences.join("; "),
    ))
}

/// What is wrong, hook by hook.
fn differences(programs: &Programs, cgroup: &CgroupDir, dir: &Path) -> Result<Vec<String>, links::Error> {
    let states = links::inspect(dir)?;
    let difference = |hook: Hook| {
        let name = hook.name();
        match (states.get(&hook), programs.id(hook)) {
            (None, _) => Some(format!("{name} has no link")),
            (Some(link), _) if link.cgroup_id == 0 => Some(format!("the cgroup of {name} is gone")),
            (Some(link), _) if link.cgroup_id != cgroup.id() => {
                Some(format!("{name} is attached to cgroup {}, not {}", link.cgroup_id, cgroup.id()))
            }
            (Some(link), wanted) if Some(link.prog_id) != wanted => {
                Some(format!("{name} runs program {}, not the pinned one", link.prog_id))
            }
            (Some(_), _) => None,
        }
    };
    Ok(Hook::ALL.into_iter().filter_map(difference).collect())
}
