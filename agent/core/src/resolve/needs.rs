//! What a policy needs to be known completely before it can be put into force.
//!
//! A policy that looks at a kind that has never been listed would see nothing where there may be something: it would
//! redirect less than it says, or reject everything. It waits; others are not held up by that.

use crate::{
    kinds::{Lacking, ObjectKind},
    objects::{BackendSpec, FrontendSpec, LabelSelector, Policy, PolicyRef, PolicySpec, RedirectMode},
    resolve::{ClusterPods, Role, Settings, Standing, external::asks_for, standing},
    snapshot::{Needs, Snapshot},
};

/// What the policy needs before it can be put into force.
pub(super) fn needs(policy: &Policy, snapshot: &Snapshot, settings: &Settings) -> Needs {
    if !lacks(policy, snapshot, settings).is_empty() || waits_for_ports(policy, snapshot, settings) {
        return Needs::Lacking;
    }
    let (true, Ok(spec)) = (settings.cluster_pods == ClusterPods::Listed, &policy.spec) else {
        return Needs::Nothing;
    };
    if standing(policy, snapshot, settings) != Standing::Active {
        return Needs::Nothing;
    }
    if asks_for(&policy.id, spec, snapshot).is_some() {
        Needs::Approval
    } else if matches!(spec.backend, BackendSpec::Pods { .. }) {
        Needs::Slices
    } else {
        Needs::Nothing
    }
}

/// The kinds that the policy looks at and that are not known completely. A policy that does not take part, whatever they
/// say, lacks nothing.
pub(super) fn lacks(policy: &Policy, snapshot: &Snapshot, settings: &Settings) -> Lacking {
    let (lacking, Ok(spec)) = (snapshot.lacking(), &policy.spec) else { return Lacking::new() };
    if lacking.is_empty() {
        return Lacking::new();
    }
    let by_labels = lacking.contains(&ObjectKind::Node) && is_selected_by_labels(spec, settings);
    match standing(policy, snapshot, settings) {
        Standing::Active => {}
        Standing::NotSelected if by_labels => {}
        Standing::NotSelected | Standing::Disabled | Standing::Invalid | Standing::Pending => {
            return Lacking::new();
        }
    }
    let kinds = [
        (ObjectKind::Policy(policy.id.kind), true),
        (ObjectKind::Service, matches!(spec.frontend, FrontendSpec::Service { .. })),
        (ObjectKind::Node, by_labels || leads_through_nodes(spec)),
        (ObjectKind::Pod, selects_known_pods(spec, settings)),
        (ObjectKind::EndpointSlice, reads_slices(&policy.id, spec, snapshot, settings)),
    ];
    let needed = kinds.into_iter().filter(|(kind, is_needed)| *is_needed && lacking.contains(kind));
    needed.map(|(kind, _)| kind).collect()
}

fn waits_for_ports(policy: &Policy, snapshot: &Snapshot, settings: &Settings) -> bool {
    policy.lacks_ports() && standing(policy, snapshot, settings) == Standing::Active
}

/// For what the policy waits, in words.
pub(super) fn waits(policy: &Policy, snapshot: &Snapshot, settings: &Settings) -> String {
    let lacks: Vec<String> = lacks(policy, snapshot, settings).iter().map(ToString::to_string).collect();
    if lacks.is_empty() && policy.lacks_ports() {
        return "waits for the controller to choose its ports at the proxy addresses, of the proxyPorts of a TunnelFabric; `kubectl get \
                tunnelfabrics` shows whether there is one"
            .to_owned();
    }
    if lacks.is_empty() {
        let slices = format!("waits for the EndpointSlices of generation {}", policy.generation);
        let asks = policy.spec.as_ref().is_ok_and(|spec| asks_for(&policy.id, spec, snapshot).is_some());
        return match asks {
            true => format!(
                "{slices} with the external addresses that it may claim, which a controller of this version lists"
            ),
            false => slices,
        };
    }
    format!(
        "waits for the {}, which the agent could not list yet; `balancingctl status` says why and what to do",
        lacks.join(" and ")
    )
}

fn is_selected_by_labels(spec: &PolicySpec, settings: &Settings) -> bool {
    settings.role != Role::External && spec.node_selector != LabelSelector::default()
}

fn leads_through_nodes(spec: &PolicySpec) -> bool {
    let BackendSpec::Pods { mode, .. } = &spec.backend else { return false };
    matches!(mode, RedirectMode::HostPort | RedirectMode::NodeProxy)
}

/// Also where the others are listed, the pods of the own node are known by themselves.
fn selects_known_pods(spec: &PolicySpec, settings: &Settings) -> bool {
    match &spec.backend {
        BackendSpec::LocalPods(_) => true,
        BackendSpec::Pods { .. } => {
            settings.cluster_pods == ClusterPods::Selected || settings.role == Role::Node
        }
        BackendSpec::Addresses { .. } => false,
    }
}

/// For its pods, or for the external addresses that it may claim.
fn reads_slices(policy: &PolicyRef, spec: &PolicySpec, snapshot: &Snapshot, settings: &Settings) -> bool {
    settings.cluster_pods == ClusterPods::Listed
        && (matches!(spec.backend, BackendSpec::Pods { .. }) || asks_for(policy, spec, snapshot).is_some())
}
