//! ADD: attaches the pod and hands on the result of the plugins before.

use balancing_dataplane::{
    cgroup::PodUid,
    links::{self, Locks, Programs},
    records::{self, Record, Records, State},
};

use super::lock_patience;
use crate::{
    Request,
    config::{FailurePolicy, Previous},
    error::{CniError, Code},
    netns, node, pod,
};

/// Attaches the pod unless it is excluded. A failure counts only under `failurePolicy: fail`.
pub(super) fn run(request: &Request<'_>) -> Result<String, CniError> {
    let Previous { result, problem } = request.config.prev_result()?;
    if let Some(problem) = problem {
        request.log.warn(&format!("{problem}; the result is handed on as it is (failurePolicy: ignore)"));
    }
    node::tell(&request.config, &request.log);
    match add(request) {
        Ok(()) => {}
        Err(error) if request.config.failure_policy == FailurePolicy::Ignore => {
            request.log.warn(&format!("the pod starts without redirection (failurePolicy: ignore): {error}"));
        }
        Err(error) => return Err(error),
    }
    Ok(format!("{}\n", result.get()))
}

fn add(request: &Request<'_>) -> Result<(), CniError> {
    let excluded = pod::exclusion(request);
    let Some(uid) = pod::uid(request, None) else {
        return excluded.map_or_else(
            || Err(no_uid(request.config.cgroup_path.as_deref())),
            |why| {
                request.log.debug(&why);
                Ok(())
            },
        );
    };
    let mut record = mk_record(request, uid);
    let lock = Locks::new(&request.config.run_dir).acquire(&record.pod_uid, lock_patience(request));
    let _lock = match lock {
        Ok(lock) => lock,
        Err(error) => {
            let error = error.into();
            // A record of its own attachment needs no lock. CHECK and the agent find why the pod is not attached.
            if request.config.failure_policy == FailurePolicy::Ignore {
                give_up(request, record, &error);
            }
            return Err(error);
        }
    };
    if let Some(why) = excluded {
        request.log.debug(&why);
        record.state = State::Excluded(why);
        write(request, &record);
        return Ok(());
    }
    let attached = attach(request, &mut record);
    if let Err(error) = &attached {
        give_up(request, record, error);
    }
    attached
}

/// Finds programs and cgroup, and makes the links. A cgroup that is replaced meanwhile is looked for once more.
fn attach(request: &Request<'_>, record: &mut Record) -> Result<(), CniError> {
    let uid = record.pod_uid.clone();
    let (layout, programs) = Programs::newest(&request.node.bpffs)?;
    let dir = layout.pods().join(uid.as_str());
    let mut cgroup = pod::cgroup(request, &uid)?;
    // Written before the links: DEL and GC find whatever a killed call leaves.
    record.cgroup = Some(cgroup.path().to_owned());
    write(request, record);
    let mut attached = links::attach(&programs, &cgroup, &dir);
    if matches!(attached, Err(links::Error::CgroupGone { .. })) {
        cgroup = pod::cgroup(request, &uid)?;
        attached = links::attach(&programs, &cgroup, &dir);
    }
    let changes = attached?;
    detach_older(request, &uid, layout.abi());
    let kept = changes.values().all(|change| *change == links::Change::Kept);
    for other in if kept { Vec::new() } else { links::overridden(&cgroup) } {
        request.log.warn(&format!(
            "pod {uid}: {other} does not run for it any more: it was attached with BPF_F_ALLOW_OVERRIDE; attach it with \
             BPF_F_ALLOW_MULTI or as a link, and both run"
        ));
    }
    let what = if kept { "was attached already" } else { "attached" };
    request.log.info(&format!("pod {uid} {what}: {} hooks at {}", changes.len(), cgroup.path().display()));
    Ok(())
}

/// Two ABIs on one pod would both translate.
fn detach_older(request: &Request<'_>, uid: &PodUid, newest: u32) {
    let removed = links::layouts(&request.node.bpffs).and_then(|layouts| {
        layouts
            .iter()
            .filter(|layout| layout.abi() != newest)
            .try_for_each(|layout| links::remove(&layout.pods().join(uid.as_str())).map(drop))
    });
    if let Err(error) = removed {
        request.log.warn(&format!("links of another ABI stay: {error}"));
    }
}

fn mk_record(request: &Request<'_>, uid: PodUid) -> Record {
    let environment = &request.environment;
    let netns_cookie = environment.netns.as_deref().and_then(|path| {
        netns::cookie(path).unwrap_or_else(|error| {
            request.log.debug(&format!("no cookie of CNI_NETNS {}: {error}", path.display()));
            None
        })
    });
    Record {
        attachment: environment.attachment(&request.config.name),
        pod_uid: uid,
        pod_namespace: environment.args.namespace.clone(),
        pod_name: environment.args.name.clone(),
        cgroup: None,
        netns_cookie,
        namespace_excluded: request
            .config
            .exclude_namespaces
            .as_ref()
            .map(|names| names.contains(&environment.args.namespace)),
        written: records::now(),
        state: State::Attached,
    }
}

/// The record tells the agent why the pod is not attached; without a pod it has nothing to tell.
fn give_up(request: &Request<'_>, mut record: Record, error: &CniError) {
    match request.config.failure_policy {
        FailurePolicy::Ignore => {
            record.state = State::Pending(error.to_string());
            write(request, &record);
        }
        FailurePolicy::Fail => {
            if let Err(error) = Records::new(&request.config.run_dir).remove(&record.attachment) {
                request.log.warn(&error.to_string());
            }
        }
    }
}

/// A pod can be attached without a record; GC and a DEL that does not tell the pod then leave its links to the agent.
fn write(request: &Request<'_>, record: &Record) {
    let records = Records::new(&request.config.run_dir);
    let same = |found: Record| Record { written: record.written, ..found } == *record;
    if records.get(&record.attachment).is_ok_and(|found| found.is_some_and(same)) {
        return;
    }
    if let Err(error) = records.write(record) {
        request.log.warn(&error.to_string());
    }
}

fn no_uid(cgroup_path: Option<&str>) -> CniError {
    let given = match cgroup_path {
        Some(path) => {
            format!("there is no K8S_POD_UID in CNI_ARGS, and cgroupPath {path:?} is not a pod's cgroup")
        }
        None => "neither K8S_POD_UID in CNI_ARGS nor the capability cgroupPath was given".to_owned(),
    };
    CniError::new(
        Code::CgroupNotFound,
        "cannot tell which pod this is",
        format!(
            "{given}; use containerd 1.5.3, CRI-O 1.22 or later, or declare \"capabilities\": {{\"cgroupPath\": true}} where \
             the runtime has it"
        ),
    )
}
