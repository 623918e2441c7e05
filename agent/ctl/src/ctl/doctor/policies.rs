//! The policies, in the agent's words. Without an agent nothing is known of them, and nothing is said.

use balancing_core::{
    control::{Request, socket_path},
    failure::FailureReason,
    plan::Reason,
    view::PolicyView,
};

use super::{Finding, Host, Level};
use crate::socket::ask;

/// Policies of a sort that are told one by one.
const FEW: usize = 5;

/// What may be wrong with a policy, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Failing,
    NotAccepted,
    NotResolved,
    NotPaired,
    Conflicted,
    NoBackends,
    Waiting,
}

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    if host.agent.is_err() {
        return Vec::new();
    }
    match ask::<Vec<PolicyView>>(&socket_path(host.run_dir), &Request::Policies) {
        Ok(policies) => judge(&policies),
        Err(error) => {
            vec![Finding::of(Level::Problem, "policies", error.to_string(), "see the agent's log")]
        }
    }
}

fn judge(policies: &[PolicyView]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wrong in Wrong::ALL {
        let of: Vec<&PolicyView> =
            policies.iter().filter(|policy| Wrong::of(policy) == Some(wrong)).collect();
        findings.extend(of.iter().take(FEW).map(|policy| {
            let message = format!("{} {}: {}", policy.kind, policy.name, policy.message);
            Finding::of(wrong.level(), "policies", message, wrong.remedy())
        }));
        if let Some(more) = of.len().checked_sub(FEW).filter(|more| *more > 0) {
            let message = format!("{more} more {}", wrong.says());
            let remedy = "`balancingctl policies` shows all of them";
            findings.push(Finding::of(wrong.level(), "policies", message, remedy));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("policies", format!("nothing is wrong with {}", policies.len())));
    }
    findings
}

impl Wrong {
    const ALL: [Self; 7] = [
        Self::Failing,
        Self::NotAccepted,
        Self::NotResolved,
        Self::NotPaired,
        Self::Conflicted,
        Self::NoBackends,
        Self::Waiting,
    ];

    /// The worst of what is wrong; `None` also for a policy that is not meant to do anything here.
    fn of(policy: &PolicyView) -> Option<Self> {
        let reason = policy.reason.as_str();
        if FailureReason::ALL.iter().any(|failure| failure.as_str() == reason) {
            Some(Self::Failing)
        } else if !policy.accepted {
            Some(Self::NotAccepted)
        } else if reason == Reason::PortsNotPaired.as_str() {
            Some(Self::NotPaired)
        } else if !policy.resolved_refs {
            Some(Self::NotResolved)
        } else if policy.conflicted {
            Some(Self::Conflicted)
        } else if reason == Reason::Pending.as_str() {
            Some(Self::Waiting)
        } else {
            (reason == "NoBackends").then_some(Self::NoBackends)
        }
    }

    fn level(self) -> Level {
        if self == Self::Failing { Level::Problem } else { Level::Warning }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Failing => "are not programmed",
            Self::NotAccepted => "are not accepted",
            Self::NotResolved => "have no Service that can be a frontend",
            Self::NotPaired => "have ports that do not pair",
            Self::Conflicted => "lost to another policy",
            Self::NoBackends => "have no backend",
            Self::Waiting => "wait",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            // The message names it.
            Self::Failing => "",
            Self::NotAccepted => "correct the field that the message names",
            Self::NotResolved => "create the Service with a ClusterIP, or correct serviceMatcher",
            Self::NotPaired => {
                "give frontend and backend ports equal names and protocols, and only TCP and UDP ports that the Service has"
            }
            Self::Conflicted => {
                "change in one of the two what the message names: frontend, serviceId or proxy port"
            }
            Self::NoBackends => "make a backend ready, or correct spec.backend",
            Self::Waiting => "the message says for what; if that lasts, see the logs of agent and controller",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, reason: &str) -> PolicyView {
        PolicyView {
            kind: "BalancingPolicy".to_owned(),
            name: name.to_owned(),
            service_id: 1,
            accepted: true,
            resolved_refs: true,
            conflicted: false,
            conflicts_with: Vec::new(),
            programmed: reason == "Applied",
            reason: reason.to_owned(),
            message: format!("about {name}"),
            frontends: Vec::new(),
            backends: 0,
        }
    }

    #[test]
    fn each_is_told_by_the_worst_that_is_wrong() {
        let table = [
            (policy("full", "TableFull"), Some(Level::Problem)),
            (policy("refused", "KernelRefused"), Some(Level::Problem)),
            (PolicyView { accepted: false, ..policy("invalid", "InvalidSpec") }, Some(Level::Warning)),
            (PolicyView { resolved_refs: false, ..policy("lost", "ServiceNotFound") }, Some(Level::Warning)),
            (PolicyView { resolved_refs: false, ..policy("ports", "PortsNotPaired") }, Some(Level::Warning)),
            (PolicyView { conflicted: true, ..policy("second", "Conflicted") }, Some(Level::Warning)),
            (policy("idle", "NoBackends"), Some(Level::Warning)),
            (policy("fine", "Applied"), None),
            (policy("off", "Disabled"), None),
            (policy("elsewhere", "NotSelected"), None),
            (policy("waits", "Pending"), Some(Level::Warning)),
            // That the agent has not read everything yet is told once, and not of each.
            (policy("early", "NotSynced"), None),
        ];
        for (policy, level) in table {
            let found = judge(std::slice::from_ref(&policy));
            assert_eq!(found[0].level, level.unwrap_or(Level::Ok), "{policy:?}");
            let named = format!("BalancingPolicy {0}: about {0}", policy.name);
            assert_eq!(found[0].message == named, level.is_some(), "{found:?}");
        }
    }

    #[test]
    fn many_are_counted() {
        let policies: Vec<PolicyView> = (0..9).map(|n| policy(&format!("p{n}"), "NoBackends")).collect();
        let found = judge(&policies);
        assert_eq!(found.len(), 6);
        assert_eq!(found[5].message, "4 more have no backend");
    }
}
