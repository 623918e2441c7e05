//! The pod of a call: which one it is, whether it is wanted, where its cgroup and its links are.

use std::{path::Path, time::Duration};

use balancing_dataplane::{
    cgroup::{self, CgroupDir, PodUid},
    links, mount,
    records::{Record, Records},
};

use crate::{
    Request,
    error::{CniError, Code},
};

/// Annotation of a pod whose connections are never redirected, and the value that says so.
const ANNOTATION: (&str, &str) = ("balancing.elf.io/redirect", "disabled");
/// How long a pod's cgroup may be late. Kubelets make it before they ask for the sandbox.
const PATIENCE: Duration = Duration::from_millis(100);

/// UID of the pod: told by the runtime, remembered from ADD, or read off the cgroup's path.
pub(crate) fn uid(request: &Request<'_>, record: Option<&Record>) -> Option<PodUid> {
    let told = request.environment.args.uid.clone();
    told.or_else(|| record.map(|record| record.pod_uid.clone()))
        .or_else(|| request.config.cgroup_path.as_deref().and_then(cgroup::uid_in_path))
}

/// Why the pod is left alone on purpose; `None`: it is to be attached.
pub(crate) fn exclusion(request: &Request<'_>) -> Option<String> {
    let namespace = &request.environment.args.namespace;
    if request.node.exclude_namespaces.contains(namespace) {
        return Some(format!("namespace {namespace} is excluded"));
    }
    if !request.node.hooks_pods {
        return Some("the agent of this node hooks no pods (--scope host or --role external)".to_owned());
    }
    let (key, disabled) = ANNOTATION;
    match request.config.annotations.as_ref()?.get(key) {
        Some(value) if value == disabled => Some(format!("the pod has annotation {key}: {disabled}")),
        Some(value) => {
            request
                .log
                .warn(&format!("annotation {key} is {value:?}, which means nothing; only {disabled:?} does"));
            None
        }
        None => None,
    }
}

/// The record of the call's attachment. One that cannot be read counts as none.
pub(crate) fn record(request: &Request<'_>, records: &Records) -> Option<Record> {
    records.get(&request.environment.attachment(&request.config.name)).unwrap_or_else(|error| {
        request.log.warn(&error.to_string());
        None
    })
}

/// The pod's cgroup.
pub(crate) fn cgroup(request: &Request<'_>, uid: &PodUid) -> Result<CgroupDir, CniError> {
    let hint = request.config.cgroup_path.as_deref();
    if hint.and_then(cgroup::uid_in_path).is_some_and(|other| other != *uid) {
        request.log.warn(&format!("cgroupPath is not that of pod {uid}; cgroupPath is used"));
    }
    let root = request.node.cgroup_root()?;
    cgroup::find(&root, uid, hint, PATIENCE).map_err(|error| match error {
        cgroup::Error::NotFound { .. } => not_on_cgroup2(uid, hint).unwrap_or_else(|| error.into()),
        other => other.into(),
    })
}

/// Removes the pod's links of every ABI. Goes on after an error and returns the first.
pub(crate) fn detach(bpffs: &Path, uid: &PodUid) -> Result<bool, links::Error> {
    let mut removed = Ok(false);
    for layout in links::layouts(bpffs)? {
        match (links::remove(&layout.pods().join(uid.as_str())), &mut removed) {
            (Ok(some), Ok(any)) => *any |= some,
            (Err(error), Ok(_)) => removed = Err(error),
            (_, Err(_)) => {}
        }
    }
    removed
}

/// Explains a missing cgroup by one of version 1: the kubelet uses that hierarchy.
fn not_on_cgroup2(uid: &PodUid, hint: Option<&str>) -> Option<CniError> {
    let path = cgroup::on_v1(&mount::Mounts::read().ok()?, uid, hint)?;
    let details = format!(
        "the pod's cgroup is {}, of cgroup version 1; let the kubelet and the container runtime use cgroup2",
        path.display()
    );
    Some(CniError::new(Code::NotCgroup2, "cannot find the pod's cgroup", details))
}
