//! `balancingctl doctor`: looks at everything that is known to go wrong, and says what is and what to do.
//!
//! Each topic is a file: it collects what it judges and judges it by pure functions. It needs no agent: what only an agent
//! knows is left out, and said to be. It changes nothing. Who may not look is told only that.

use std::{fmt, path::Path};

use balancing_core::{
    control::{Request, socket_path},
    view::{AgentView, PodName},
};
use balancing_dataplane::{
    layout::Layout,
    settings::{NodeSettings, PluginSettings, Told},
    tables::Reader,
};
use serde::Serialize;

use super::{rights, tables_dir};
use crate::socket::{AskError, ask};

mod agent;
mod fabric;
mod hooks;
mod host;
mod plugin;
mod policies;
mod tables;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Redirection works, and something will go wrong or is less than it could be.
    Warning,
    /// Somebody is not redirected, or changes do not come through.
    Problem,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// How bad it is.
    pub(super) level: Level,
    /// What was looked at.
    pub(super) topic: &'static str,
    /// What is so.
    pub(super) message: String,
    /// What to do; empty where nothing is to be done.
    pub(super) remedy: String,
}

/// What several topics need.
struct Host<'a> {
    bpffs: &'a Path,
    run_dir: &'a Path,
    agent: Result<AgentView, AskError>,
    /// Local pods in the agent's words; `None` without an agent.
    pods: Option<Vec<PodName>>,
    node: Option<NodeSettings>,
    plugin: Option<PluginSettings>,
    /// The newest directory on bpffs.
    layout: Option<Layout>,
    /// A cleanup has ended redirection there.
    is_stopped: bool,
}

impl Finding {
    fn ok(topic: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, topic, message: message.into(), remedy: String::new() }
    }

    fn of(level: Level, topic: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level, topic, message: message.into(), remedy: remedy.into() }
    }
}

impl Host<'_> {
    /// What to do about something that a running agent mends. One that hangs is told of by its own topic.
    fn mended_by_agent(&self, running: &str, down: &str) -> String {
        match &self.agent {
            Ok(_) => running.to_owned(),
            Err(AskError::Down { .. }) => down.to_owned(),
            Err(_) => String::new(),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "WARNING",
            Self::Problem => "PROBLEM",
        })
    }
}

pub(super) use plugin::differences;

/// What is so where a cleanup has ended redirection, and is at work still or was killed.
pub(super) const STOPPED: &str =
    "nothing is redirected, for a `balancing-agent cleanup` has not come to its end";

/// Looks at everything.
pub(super) fn examine(run_dir: &Path, bpffs: &Path) -> Vec<Finding> {
    if !rights::may_look() {
        let message = "this process may not look at BPF programs and tables, so nothing can be said";
        return vec![Finding::of(Level::Problem, "rights", message, "run this as root")];
    }
    let socket = socket_path(run_dir);
    let agent = ask::<AgentView>(&socket, &Request::Agent);
    let pods = agent.is_ok().then(|| ask(&socket, &Request::Pods).ok()).flatten();
    let mut findings = Vec::new();
    let layout = tables_dir::newest(bpffs).unwrap_or_else(|error| {
        findings.push(Finding::of(Level::Problem, "bpffs", error.to_string(), ""));
        None
    });
    let reader = layout.as_ref().and_then(|layout| Reader::open(layout).ok());
    let host = Host {
        is_stopped: reader.is_some_and(|reader| reader.is_stopped()),
        bpffs,
        run_dir,
        agent,
        pods,
        node: told(run_dir, &mut findings),
        plugin: told(run_dir, &mut findings),
        layout,
    };
    findings.extend(host::look(&host));
    findings.extend(agent::look(&host));
    findings.extend(policies::look(&host));
    findings.extend(fabric::look(&host));
    findings.extend(hooks::look(&host));
    findings.extend(plugin::look(&host));
    findings.extend(tables::look(&host));
    findings
}

/// Whether a script should be told.
pub(super) fn is_wrong(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Problem)
}

/// The findings for people: what is wrong in full, the rest in a line.
pub(super) fn table(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for Finding { level, topic, message, remedy } in findings {
        lines.push(format!("{level:<8} {topic:<9} {message}"));
        if !remedy.is_empty() {
            lines.push(format!("{:<18} -> {remedy}", ""));
        }
    }
    let count = |wanted| findings.iter().filter(|finding| finding.level == wanted).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    lines.push(String::new());
    lines.push(format!("{problems} problems, {warnings} warnings"));
    lines.join("\n")
}

fn told<T: Told>(run_dir: &Path, findings: &mut Vec<Finding>) -> Option<T> {
    T::read(run_dir).unwrap_or_else(|error| {
        let remedy = "remove the file and restart the agent; the plugin writes its own at the next pod";
        findings.push(Finding::of(Level::Warning, "settings", error.to_string(), remedy));
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_problems_are_told_to_scripts_and_remedies_to_people() {
        let findings = [
            Finding::ok("kernel", "fine"),
            Finding::of(Level::Warning, "tables", "nearly full", "make room"),
        ];
        assert!(!is_wrong(&findings));
        assert_eq!(
            table(&findings),
            "ok       kernel    fine\n\
             WARNING  tables    nearly full\n                   -> make room\n\n0 problems, 1 warnings"
        );
        assert!(is_wrong(&[Finding::of(Level::Problem, "agent", "down", "")]));
    }
}
