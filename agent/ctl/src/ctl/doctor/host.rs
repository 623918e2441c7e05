//! The kernel and its file systems.

use std::path::PathBuf;

use balancing_dataplane::{
    cgroup,
    mount::{self, Mounts},
    probe::Features,
};

use super::{Finding, Host, Level};

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut findings = features(release.trim(), &Features::probe().list());
    let bpffs = host.bpffs;
    findings.push(match mount::is_bpffs(bpffs) {
        Ok(true) => Finding::ok("bpffs", format!("{} is a bpffs", bpffs.display())),
        Ok(false) => Finding::of(
            Level::Problem,
            "bpffs",
            format!("{} is not a bpffs", bpffs.display()),
            host.mended_by_agent(
                "name the mount with --bpffs, as the agent has it",
                "start the agent, which mounts one, or name the mount with --bpffs",
            ),
        ),
        Err(error) => Finding::of(
            Level::Problem,
            "bpffs",
            error.to_string(),
            "name the mount with --bpffs, as the agent has it",
        ),
    });
    findings.extend(cgroups(host));
    findings
}

/// What the kernel cannot do, and what that means.
fn features(release: &str, features: &[(&'static str, bool)]) -> Vec<Finding> {
    let missing = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name);
    let findings: Vec<Finding> = missing
        .map(|name| {
            let (level, means) = match name {
                "set_retval" => (Level::Note, "a refused connection gets EPERM instead of EHOSTUNREACH"),
                "netns_cookie" => (Level::Note, "the host's network namespace is the kernel's first one"),
                _ => (Level::Problem, "the programs do not load"),
            };
            let remedy = if level == Level::Problem { "use Linux 5.12 or later" } else { "" };
            Finding::of(level, "kernel", format!("{release} has no {name}: {means}"), remedy)
        })
        .collect();
    if findings.is_empty() {
        vec![Finding::ok("kernel", format!("{release} has everything"))]
    } else {
        findings
    }
}

fn cgroups(host: &Host<'_>) -> Vec<Finding> {
    let mounts = match Mounts::read() {
        Ok(mounts) => mounts,
        Err(error) => return vec![Finding::of(Level::Problem, "cgroups", error.to_string(), "")],
    };
    let told = host.node.as_ref().map(|node| node.cgroup_root.clone());
    let root = match told.clone().map_or_else(|| mounts.cgroup2_root(), Ok) {
        Ok(root) => root,
        Err(error) => return vec![Finding::of(Level::Problem, "cgroups", error.to_string(), "")],
    };
    let v1: Vec<PathBuf> = mounts.cgroup_v1().map(PathBuf::from).collect();
    judge_root(&root, mount::is_cgroup2(&root).unwrap_or(false), cgroup::is_hierarchy_root(&root), v1.len())
}

fn judge_root(root: &std::path::Path, is_cgroup2: bool, is_whole: bool, v1: usize) -> Vec<Finding> {
    let path = root.display();
    if !is_cgroup2 {
        let remedy = "an agent in a container sees other paths: run this where the agent runs";
        return vec![Finding::of(
            Level::Warning,
            "cgroups",
            format!("{path} is not on cgroup2 here"),
            remedy,
        )];
    }
    let mut findings = vec![if is_whole {
        Finding::ok("cgroups", format!("{path} is the root of the hierarchy"))
    } else {
        let message = format!("{path} is a part of the hierarchy: what runs outside of it is not hooked");
        Finding::of(Level::Note, "cgroups", message, "leave --cgroup-root out unless that is meant")
    }];
    if v1 > 0 {
        let message =
            format!("{v1} hierarchies of cgroup version 1 are mounted; pods must be in cgroup2, too");
        findings.push(Finding::of(Level::Note, "cgroups", message, ""));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_told_with_what_it_means() {
        assert_eq!(features("6.1", &[("atomics", true)]), [Finding::ok("kernel", "6.1 has everything")]);
        let lacking = features("5.4", &[("set_retval", false), ("atomics", false)]);
        assert_eq!(
            lacking.iter().map(|finding| finding.level).collect::<Vec<_>>(),
            [Level::Note, Level::Problem]
        );
        assert!(
            lacking[0].message.contains("EPERM") && lacking[1].message.contains("do not load"),
            "{lacking:?}"
        );
    }

    #[test]
    fn a_part_of_the_hierarchy_is_told() {
        let level = |cgroup2, whole| judge_root("/c".as_ref(), cgroup2, whole, 0)[0].level;
        assert_eq!(
            (level(true, true), level(true, false), level(false, false)),
            (Level::Ok, Level::Note, Level::Warning)
        );
        assert_eq!(judge_root("/c".as_ref(), true, true, 3).len(), 2);
    }
}
