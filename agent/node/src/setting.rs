//! Where the agent finds itself, looked at before anything is loaded: a wrong place is refused in words.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use balancing_core::resolve::Role;
use balancing_dataplane::{
    cgroup::{self, CgroupDir},
    mount,
    records::Records,
    sys,
};

use crate::{attach::Rules, config::Config, error::RunError};

/// Others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The directory that stands for the whole host. A part of the hierarchy is taken only when somebody has named it, and never the
/// agent's own cgroup, which is all that a private cgroup namespace shows.
pub(crate) fn cgroup_root(config: &Config) -> Result<PathBuf, RunError> {
    let (root, given) = match &config.cgroup_root {
        Some(path) => (path.clone(), true),
        None => (mount::Mounts::read()?.cgroup2_root()?, false),
    };
    CgroupDir::open(&root).map_err(RunError::CgroupRoot)?;
    if cgroup::is_hierarchy_root(&root) || (given && !cgroup::is_own(&root)) {
        return Ok(root);
    }
    Err(RunError::PartOfCgroups { path: root })
}

/// In a pod's network namespace the programs for host processes would act on that pod's sockets alone.
pub(crate) fn refuse_pod_namespace(rules: &Rules, run_dir: &Path) -> Result<(), RunError> {
    if rules.role != Role::Node || !rules.hooks_host() {
        return Ok(());
    }
    let Ok(own) = sys::netns_cookie() else { return Ok(()) };
    let records = Records::new(run_dir).read_all().map(|listing| listing.records).unwrap_or_default();
    match records.into_iter().find(|record| record.netns_cookie == Some(own)) {
        Some(record) => Err(RunError::PodNamespace(format!("{}/{}", record.pod_namespace, record.pod_name))),
        None => Ok(()),
    }
}

/// A directory that somebody else owns, or may write to, is not ours: whoever could rename things in it could replace them.
pub(crate) fn refuse_foreign(path: &Path) -> Result<(), RunError> {
    let found =
        fs::symlink_metadata(path).map_err(|source| RunError::Place { path: path.to_owned(), source })?;
    let own = fs::metadata("/proc/self").map(|process| process.uid()).unwrap_or_default();
    let is_ours = found.uid() == 0 || found.uid() == own;
    if found.is_dir() && is_ours && found.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(RunError::Foreign { path: path.to_owned(), owner: found.uid(), mode: found.mode() & 0o7777 })
}
