//! What is attached, in the kernel's words, against what should be.

use std::{collections::BTreeSet, path::PathBuf};

use balancing_core::view::{POD_OF_HOST, PodName};
use balancing_dataplane::{
    cgroup::{self, CgroupDir, PodUid},
    layout::{Hook, Layout},
    links::{self, ProgramIds, Programs},
    mount::Mounts,
    records::{Listing, Record, Records, State},
};

use super::{Finding, Host, Level};

/// Pods that are named one by one.
const FEW: usize = 5;
/// What to do about links that are gone.
const MENDS: [&str; 2] =
    ["the agent mends that within a second; if not, its log says why", "start the agent, which mends that"];

/// State of a pod that nobody tells of but its links.
const LINKED: &str = "linked";

/// A pod, and what was found at its cgroup.
#[derive(Debug)]
struct Seen {
    name: String,
    /// What the agent says; `None` without one.
    state: Option<String>,
    /// The agent's reason; without one that of a record, by which the pod was left alone when it started.
    why: Option<String>,
    /// Hooks that run for it because they are attached to its cgroup; `None` where that could not be asked.
    hooks: Option<usize>,
}

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let mut findings = leftovers(host);
    let Some(layout) = &host.layout else {
        let message = format!("nothing of Balancing is on {}", host.bpffs.display());
        let remedy = host
            .mended_by_agent("see the agent's log, and whether it has this --bpffs", "start balancing-agent");
        findings.push(Finding::of(Level::Problem, "hooks", message, remedy));
        return findings;
    };
    findings.push(host_hooks(host, layout));
    if host.node.as_ref().is_none_or(|node| node.hooks_pods) {
        if let Err(error) = Programs::open(layout) {
            let remedy = host.mended_by_agent(
                "the agent mends that within 30 s; if not, its log says why",
                "start the agent: without them no new pod is hooked",
            );
            findings.push(Finding::of(Level::Problem, "hooks", error.to_string(), remedy));
        }
        let remedy = host.mended_by_agent(MENDS[0], MENDS[1]);
        findings.extend(judge_pods(&pods(host, layout), &remedy));
        findings.extend(broken(layout));
    }
    findings
}

/// Directories of other ABIs.
fn leftovers(host: &Host<'_>) -> Vec<Finding> {
    let layouts = links::layouts(host.bpffs).unwrap_or_default();
    let old = layouts.iter().filter(|layout| Some(*layout) != host.layout.as_ref());
    old.map(|layout| {
        let pods = links::pods(layout).map_or(0, |pods| pods.len());
        let message = format!(
            "{} is left from another version, with the links of {pods} pods",
            layout.root().display()
        );
        let remedy = "the agent takes them over and removes it; while it stays the agent's log says why";
        Finding::of(Level::Warning, "hooks", message, remedy)
    })
    .collect()
}

fn host_hooks(host: &Host<'_>, layout: &Layout) -> Finding {
    let unseen = |why: String, remedy: &str| {
        let message = format!("whether host processes are hooked was not looked at: {why}");
        Finding::of(Level::Note, "hooks", message, remedy)
    };
    let Some(node) = &host.node else {
        let why = format!("the agent's settings are not in {}", host.run_dir.display());
        return unseen(why, "the agent writes them when it starts; name its --run-dir");
    };
    if node.scope == "pods" {
        return Finding::ok("hooks", "host processes are not hooked: --scope pods");
    }
    let root = match CgroupDir::open(&node.cgroup_root) {
        Ok(root) => root,
        Err(error) => return unseen(error.to_string(), "run this where the agent runs"),
    };
    match links::running(&root, &links::programs_in([layout.host()])) {
        count if count == Hook::ALL.len() => {
            Finding::ok("hooks", format!("host processes: all {count} hooks run"))
        }
        count => {
            let message = format!(
                "host processes: {count} of {} hooks run at {}",
                Hook::ALL.len(),
                root.path().display()
            );
            Finding::of(Level::Problem, "hooks", message, host.mended_by_agent(MENDS[0], MENDS[1]))
        }
    }
}

/// The pods of this host: as the agent knows them, or else those whose cgroups are found.
fn pods(host: &Host<'_>, layout: &Layout) -> Vec<Seen> {
    let programs = programs_of(layout);
    let count = |cgroup: Option<CgroupDir>| Some(links::running(&cgroup?, &programs));
    let told = host.node.as_ref().map(|node| node.cgroup_root.clone());
    let root = told.or_else(|| Mounts::read().ok()?.cgroup2_root().ok());
    if let Some(pods) = &host.pods {
        let known: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        let of_agent = pods.iter().map(|pod| Seen {
            name: format!("{}/{}", pod.namespace, pod.name),
            state: Some(pod.state.clone()),
            why: pod.why.clone(),
            hooks: count(cgroup_of(pod)),
        });
        let found = root.map(|root| cgroup::pods(&root)).unwrap_or_default();
        let unknown = found.into_iter().filter(|(uid, _)| !known.contains(uid.as_str()));
        let unknown = unknown.map(|(uid, path)| Seen {
            name: uid.to_string(),
            state: Some("unknown".to_owned()),
            why: None,
            hooks: count(CgroupDir::open(&path).ok()),
        });
        return of_agent.chain(unknown).collect();
    }
    let found = root.map(|root| cgroup::pods(&root)).unwrap_or_default();
    let records = Records::new(host.run_dir).read_all().map(Listing::newest).unwrap_or_default();
    let linked = links::pods(layout).unwrap_or_default();
    let seen = |(uid, path): (PodUid, PathBuf)| {
        let record = records.get(&uid);
        let why = record.and_then(|record| match &record.state {
            State::Excluded(why) => Some(why.clone()),
            State::Attached | State::Pending(_) => None,
        });
        let name = |record: &Record| format!("{}/{}", record.pod_namespace, record.pod_name);
        Seen {
            name: record.map_or_else(|| uid.to_string(), name),
            // Whoever leaves a pod alone removes its links.
            state: linked.contains_key(&uid).then(|| LINKED.to_owned()),
            why,
            hooks: count(CgroupDir::open(&path).ok()),
        }
    };
    found.into_iter().map(seen).collect()
}

fn cgroup_of(pod: &PodName) -> Option<CgroupDir> {
    CgroupDir::open(pod.cgroup.as_ref()?.as_ref()).ok()
}

/// Programs of ours that may run for a pod: those that are pinned, and those that links still have.
fn programs_of(layout: &Layout) -> ProgramIds {
    let linked = links::pods(layout).unwrap_or_default();
    let mut ids = links::programs_in(linked.into_values());
    if let Ok(programs) = Programs::open(layout) {
        for hook in Hook::ALL {
            ids.entry(hook).or_default().extend(programs.id(hook));
        }
    }
    ids
}

impl Seen {
    /// The name with what is to be known of it.
    fn label(&self) -> String {
        let all = Hook::ALL.len();
        let count = self.hooks.filter(|count| (1..all).contains(count));
        let count = count.map(|count| format!("{count} of {all} hooks run"));
        let details: Vec<String> = self.why.iter().cloned().chain(count).collect();
        if details.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, details.join("; ")) }
    }
}

/// What the kernel has against what the agent says, or a record without one; `remedy` is for links that are gone.
fn judge_pods(pods: &[Seen], remedy: &str) -> Vec<Finding> {
    let all = Hook::ALL.len();
    let mut findings = Vec::new();
    let hooked = pods.iter().filter(|pod| pod.hooks == Some(all)).count();
    findings.push(Finding::ok(
        "pods",
        format!(
            "{hooked} of {} local pods with a cgroup are hooked",
            pods.iter().filter(|pod| pod.hooks.is_some()).count()
        ),
    ));
    let group = |level, says: &str, remedy: &str, pods: Vec<&Seen>| {
        let first = pods.iter().take(FEW).map(|pod| pod.label());
        let names = first.collect::<Vec<_>>().join(", ");
        let more = pods.len().saturating_sub(FEW);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!pods.is_empty()).then(|| Finding::of(level, "pods", format!("{says}: {names}{more}"), remedy))
    };
    let state = |pod: &Seen, wanted: &str| pod.state.as_deref() == Some(wanted);
    let lacks = |pod: &Seen| pod.hooks.is_some_and(|hooks| hooks < all);
    let has = |pod: &Seen| pod.hooks.is_some_and(|hooks| hooks > 0);
    let unjudged = |pod: &Seen| pod.state.is_none() && pod.hooks == Some(0);
    let select = |test: &dyn Fn(&Seen) -> bool| pods.iter().filter(|pod| test(pod)).collect();
    findings.extend(group(
        Level::Problem,
        "the agent says hooked, and in the kernel not all hooks run",
        remedy,
        select(&|pod| state(pod, "hooked") && lacks(pod)),
    ));
    findings.extend(group(
        Level::Problem,
        "are hooked and should not be",
        "see the agent's log",
        select(&|pod| (state(pod, "leftAlone") || state(pod, POD_OF_HOST)) && has(pod)),
    ));
    findings.extend(group(
        Level::Note,
        "are left alone on purpose",
        "",
        select(&|pod| state(pod, "leftAlone") && !has(pod)),
    ));
    findings.extend(group(
        Level::Note,
        "have a cgroup and no object that the agent knows",
        "",
        select(&|pod| state(pod, "unknown") && lacks(pod)),
    ));
    findings.extend(group(
        Level::Problem,
        "have links, and in the kernel not all hooks run",
        remedy,
        select(&|pod| lacks(pod) && (state(pod, LINKED) || (pod.state.is_none() && has(pod)))),
    ));
    findings.extend(group(
        Level::Note,
        "are not hooked, and were left alone on purpose when they started",
        "",
        select(&|pod| unjudged(pod) && pod.why.is_some()),
    ));
    findings.extend(group(
        Level::Warning,
        "are not hooked; without an agent nobody knows whether they should be",
        if remedy.is_empty() { "" } else { "start the agent" },
        select(&|pod| unjudged(pod) && pod.why.is_none()),
    ));
    findings
}

/// Pins that are not what they should be.
fn broken(layout: &Layout) -> Vec<Finding> {
    let pods = match links::pods(layout) {
        Ok(pods) => pods,
        Err(error) => return vec![Finding::of(Level::Problem, "hooks", error.to_string(), "")],
    };
    let errors = pods.values().filter_map(|dir| links::inspect(dir).err());
    errors.map(|error| Finding::of(Level::Problem, "hooks", error.to_string(), "")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, state: Option<&str>, hooks: Option<usize>) -> Seen {
        Seen { name: name.to_owned(), state: state.map(str::to_owned), why: None, hooks }
    }

    fn worst(pods: &[Seen]) -> Option<Level> {
        judge_pods(pods, "mend").iter().map(|finding| finding.level).max()
    }

    #[test]
    fn the_kernel_is_the_judge() {
        let all = Hook::ALL.len();
        for (state, hooks, level) in [
            (Some("hooked"), Some(all), Level::Ok),
            (Some("hooked"), Some(all - 1), Level::Problem),
            (Some("hooked"), None, Level::Ok),
            // That is among the agent's own problems.
            (Some("failing"), Some(0), Level::Ok),
            (Some("waiting"), None, Level::Ok),
            (Some("leftAlone"), Some(0), Level::Note),
            (Some("leftAlone"), Some(1), Level::Problem),
            (Some("host"), Some(0), Level::Ok),
            (Some("host"), Some(all), Level::Problem),
            (Some("unknown"), Some(0), Level::Note),
            (Some("unknown"), Some(all), Level::Ok),
            (Some(LINKED), Some(0), Level::Problem),
            (Some(LINKED), Some(all), Level::Ok),
            (None, Some(0), Level::Warning),
            (None, Some(all - 1), Level::Problem),
            (None, Some(all), Level::Ok),
        ] {
            assert_eq!(worst(&[seen("a", state, hooks)]), Some(level), "{state:?} {hooks:?}");
        }
    }

    #[test]
    fn an_old_record_only_excuses_a_pod_without_hooks() {
        let all = Hook::ALL.len();
        let excluded = |hooks| Seen { why: Some("excluded".to_owned()), ..seen("a", None, Some(hooks)) };
        assert_eq!(worst(&[excluded(0)]), Some(Level::Note));
        assert_eq!(worst(&[excluded(all)]), Some(Level::Ok));
        let findings = judge_pods(&[excluded(all - 1)], "start the agent");
        assert_eq!((findings[1].level, findings[1].remedy.as_str()), (Level::Problem, "start the agent"));
        assert!(findings[1].message.ends_with("a (excluded; 7 of 8 hooks run)"), "{}", findings[1].message);
    }

    #[test]
    fn many_pods_are_named_by_a_few() {
        let pods: Vec<Seen> = (0..9).map(|n| seen(&format!("p{n}"), Some("hooked"), Some(0))).collect();
        let findings = judge_pods(&pods, "");
        assert!(findings[1].message.ends_with("p4 and 4 more"), "{}", findings[1].message);
    }
}
