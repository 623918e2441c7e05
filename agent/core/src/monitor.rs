//! What `balancingctl monitor` is told, and what of it it wants to hear. The JSON is a contract: fields may be added, never renamed.
//!
//! The agent answers [`crate::control::Request::Monitor`] with one line as it answers everything, and then with a
//! [`Line`] for each decision until one of them ends.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::view::{KeyView, OwnerView};

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// What became of a call.
    Decision(Box<Decision>),
    /// Decisions that nobody can be told of any more.
    Lost {
        /// How many, whether the filter wants them or not.
        lost: u64,
    },
}

/// What became of one call that met a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When, in UTC: RFC 3339.
    pub time: String,
    /// Who called.
    pub client: ClientView,
    /// What was dialled.
    pub frontend: KeyView,
    /// What became of it.
    pub outcome: Outcome,
    /// Why; `null` when it was redirected, or when it is not known.
    pub reason: Option<Reason>,
    /// Where it went; `null` unless it was redirected.
    pub backend: Option<TargetView>,
    /// Service id of the policy that decided last.
    pub service_id: u32,
    /// That policy; `null` when the agent does not know it any more.
    pub policy: Option<OwnerView>,
}

/// Who called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientView {
    /// `namespace/name` of the local pod; `null` for a process of the host.
    pub pod: Option<String>,
    /// Process id on the host.
    pub pid: u32,
    /// Name of a process of the host, or of its thread when it had ended before it was looked at; `null` for pods.
    pub process: Option<String>,
}

/// Where a call went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `namespace/name` of the pod; `null` when no single pod is behind it.
    pub pod: Option<String>,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It went to a backend.
    Redirected,
    /// It went where it was dialled.
    Passed,
    /// It was refused.
    Rejected,
}

/// Why a call was not redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// No backend takes connections.
    NoBackend,
    /// The limit of this second was reached.
    QosLimit,
    /// The client is exempt from the policy, or from all.
    Exempt,
    /// The policy is for other clients: `spec.clients`.
    OtherClients,
}

/// What a listener wants to hear. Everything, unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Only of this policy.
    pub policy: Option<PolicyFilter>,
    /// Only of this client: `namespace/name`.
    pub pod: Option<String>,
    /// Only with this outcome.
    pub outcome: Option<Outcome>,
}

/// A policy by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFilter {
    /// Its kind; `None` = any.
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
}

impl Filter {
    /// Whether a decision is wanted.
    #[must_use]
    pub fn accepts(&self, decision: &Decision) -> bool {
        let policy = |wanted: &PolicyFilter| {
            let kind = |owner: &OwnerView| wanted.kind.as_ref().is_none_or(|kind| *kind == owner.kind);
            decision.policy.as_ref().is_some_and(|owner| owner.name == wanted.name && kind(owner))
        };
        self.policy.as_ref().is_none_or(policy)
            && (self.pod.is_none() || self.pod == decision.client.pod)
            && self.outcome.is_none_or(|outcome| outcome == decision.outcome)
    }
}

impl Reason {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NoBackend => "no backend",
            Self::QosLimit => "QoS limit",
            Self::Exempt => "client is exempt",
            Self::OtherClients => "for other clients",
        }
    }
}

impl Outcome {
    /// For people, and for `--outcome`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Passed => "passed",
            Self::Rejected => "rejected",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decision() -> Decision {
        Decision {
            time: "2026-01-02T03:04:05.678901Z".into(),
            client: ClientView { pod: Some("default/web".into()), pid: 42, process: None },
            frontend: KeyView { address: [10, 0, 0, 1].into(), port: 80, protocol: "TCP".into() },
            outcome: Outcome::Passed,
            reason: Some(Reason::QosLimit),
            backend: None,
            service_id: 7,
            policy: Some(OwnerView { kind: "LocalRedirectPolicy".into(), name: "dns".into() }),
        }
    }

    #[test]
    fn a_line_is_a_decision_or_a_loss() {
        let line = Line::Decision(decision().into());
        let json = json!({
            "time": "2026-01-02T03:04:05.678901Z",
            "client": {"pod": "default/web", "pid": 42, "process": null},
            "frontend": {"address": "10.0.0.1", "port": 80, "protocol": "TCP"},
            "outcome": "passed",
            "reason": "qosLimit",
            "backend": null,
            "serviceId": 7,
            "policy": {"kind": "LocalRedirectPolicy", "name": "dns"},
        });
        assert_eq!(serde_json::to_value(&line).unwrap(), json);
        assert_eq!(serde_json::from_value::<Line>(json).unwrap(), line);
        let lost = serde_json::to_string(&Line::Lost { lost: 3 }).unwrap();
        assert_eq!(lost, r#"{"lost":3}"#);
        assert_eq!(serde_json::from_str::<Line>(&lost).unwrap(), Line::Lost { lost: 3 });
    }

    #[test]
    fn a_filter_wants_all_that_it_names() {
        let wants = |policy: Option<(Option<&str>, &str)>, pod: Option<&str>, outcome| {
            let policy =
                policy.map(|(kind, name)| PolicyFilter { kind: kind.map(Into::into), name: name.into() });
            Filter { policy, pod: pod.map(Into::into), outcome }.accepts(&decision())
        };
        assert!(wants(None, None, None));
        assert!(wants(Some((None, "dns")), Some("default/web"), Some(Outcome::Passed)));
        assert!(wants(Some((Some("LocalRedirectPolicy"), "dns")), None, None));
        assert!(!wants(Some((Some("BalancingPolicy"), "dns")), None, None));
        assert!(!wants(Some((None, "dn")), None, None));
        assert!(!wants(None, Some("default/we"), None));
        assert!(!wants(None, None, Some(Outcome::Rejected)));
        let nobody = Decision { client: ClientView::default(), policy: None, ..decision() };
        let pod = Filter { pod: Some("default/web".into()), ..Filter::default() };
        assert!(!pod.accepts(&nobody));
    }
}
