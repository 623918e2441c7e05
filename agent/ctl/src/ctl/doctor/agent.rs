//! The agent and its source.

use std::time::Duration;

use balancing_core::view::{AgentView, PluginView};

use super::{Finding, Host, Level};
use crate::socket::AskError;

/// The API server says something about each kind at least once a minute, a bookmark if nothing else.
const QUIET: Duration = Duration::from_secs(180);

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    match &host.agent {
        Ok(agent) => judge(agent, host.is_stopped),
        Err(error) => vec![down(error, host.layout.is_some() && !host.is_stopped)],
    }
}

fn down(error: &AskError, redirects: bool) -> Finding {
    let means = if redirects {
        "redirection goes on as it was, and nothing is looked at: no change, no new pod"
    } else {
        "nothing is redirected"
    };
    let remedy = match error {
        AskError::Down { .. } => "start balancing-agent; its log says why it ended",
        AskError::Denied { .. } => "",
        _ => "see its log; a restart interrupts no redirection",
    };
    Finding::of(Level::Problem, "agent", format!("{error}; {means}"), remedy)
}

fn judge(agent: &AgentView, is_stopped: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = env!("CARGO_PKG_VERSION");
    findings.push(if agent.ready {
        Finding::ok(
            "agent",
            format!("version {} is ready as {} on {}", agent.version, agent.role, agent.node),
        )
    } else {
        Finding::of(Level::Problem, "agent", "it is not ready", "see what follows, and its log")
    });
    if agent.version != own {
        let message = format!("the agent is of version {}, this command of {own}", agent.version);
        findings.push(Finding::of(Level::Note, "agent", message, ""));
    }
    for problem in &agent.problems {
        findings.push(Finding::of(Level::Problem, "agent", problem.clone(), ""));
    }
    findings.extend(source(agent, is_stopped));
    findings.extend(agent.plugin.as_ref().map(plugin));
    findings
}

fn plugin(plugin: &PluginView) -> Finding {
    match &plugin.problem {
        _ if plugin.in_force => {
            Finding::ok("cni", format!("pods that start now get {}", plugin.chain.join(", ")))
        }
        Some(problem) => Finding::of(
            Level::Problem,
            "cni",
            problem.clone(),
            "until then the agent hooks pods after they have started",
        ),
        None => Finding::of(
            Level::Problem,
            "cni",
            format!("pods that start now get {}, without our plugin", plugin.chain.join(", ")),
            "see the agent's log",
        ),
    }
}

fn source(agent: &AgentView, is_stopped: bool) -> Vec<Finding> {
    let (source, mut findings) = (&agent.source, Vec::new());
    let what = &source.description;
    if !source.synced {
        let remedy = "see the problems of the source; until then nothing changes";
        findings.push(Finding::of(
            Level::Problem,
            "source",
            format!("{what} has not delivered everything"),
            remedy,
        ));
    }
    for problem in &source.problems {
        findings.push(Finding::of(Level::Problem, "source", problem.clone(), ""));
    }
    match source.last_contact.map(Duration::from_secs) {
        Some(age) if age > QUIET => findings.push(Finding::of(
            Level::Problem,
            "source",
            format!("{what} has said nothing for {} s", age.as_secs()),
            if is_stopped {
                "see whether the API server is reachable from this host; until then nothing is redirected"
            } else {
                "see whether the API server is reachable from this host; redirection goes on as it was"
            },
        )),
        Some(age) => {
            findings.push(Finding::ok("source", format!("{what} said something {} s ago", age.as_secs())))
        }
        None if findings.is_empty() => findings.push(Finding::ok("source", format!("{what} is read"))),
        None => {}
    }
    findings
}

#[cfg(test)]
mod tests {
    use balancing_core::view::SourceView;

    use super::*;

    fn agent(ready: bool, last_contact: Option<u64>, problems: &[&str]) -> AgentView {
        let problems = problems.iter().map(|text| (*text).to_owned()).collect();
        AgentView {
            node: "n1".to_owned(),
            role: "node".to_owned(),
            ready,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: SourceView { description: "kube".to_owned(), synced: true, problems, last_contact },
            problems: Vec::new(),
            http: None,
            metrics: None,
            dropped: Default::default(),
            plugin: None,
        }
    }

    fn levels(agent: &AgentView) -> Vec<Level> {
        judge(agent, false).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn silence_and_refusals_of_the_api_server_are_problems() {
        use Level::{Note, Ok, Problem};
        assert_eq!(levels(&agent(true, Some(3), &[])), [Ok, Ok]);
        assert_eq!(levels(&agent(true, None, &[])), [Ok, Ok]);
        assert_eq!(levels(&agent(true, Some(181), &[])), [Ok, Problem]);
        assert_eq!(levels(&agent(false, Some(1), &["Services: forbidden"])), [Problem, Problem, Ok]);
        for (is_stopped, means) in [(false, "redirection goes on"), (true, "nothing is redirected")] {
            let found = judge(&agent(true, Some(181), &[]), is_stopped);
            assert!(found[1].remedy.contains(means), "{}", found[1].remedy);
        }
        let other = AgentView { version: "0.0.0".to_owned(), ..agent(true, None, &[]) };
        assert_eq!(levels(&other), [Ok, Note, Ok]);
    }
}
