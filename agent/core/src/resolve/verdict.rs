//! What is said about a policy in status and by commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancing_abi::model::FrontendKey;

use crate::{
    objects::PolicyRef,
    plan::{Reason, Verdict},
    resolve::{ProxyPort, Resolution, Standing, settle::Senior},
};

/// How a policy fared against the others.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// The senior policy with the same chosen service id; everything is withdrawn then.
    pub(super) id_winner: Option<Senior>,
    /// The port at the proxy addresses that a senior policy leads to other pods; everything is withdrawn then, too.
    pub(super) port_winner: Option<(ProxyPort, Senior)>,
    /// Frontends that belong to another policy of the kind.
    pub(super) lost: BTreeMap<FrontendKey, Senior>,
}

/// Puts together a policy's own findings and its luck.
pub(super) fn verdict(resolution: &Resolution, contest: &Contest) -> Verdict {
    let mut frontends = BTreeMap::new();
    let mut backends = BTreeSet::<(IpAddr, u16)>::new();
    let (mut redirects, mut refuses) = (false, false);
    for (key, layer) in &resolution.claims {
        let Some(layer) = layer else { continue };
        if contest.id_winner.is_none() && contest.port_winner.is_none() && !contest.lost.contains_key(key) {
            frontends.insert(*key, layer.backends.len());
            backends.extend(layer.backends.iter().map(|b| (b.target.address, b.target.port)));
            redirects |= layer.backends.iter().any(|b| b.target.weight > 0);
            refuses |= layer.reject;
        }
    }
    let port_winner = contest.port_winner.as_ref().map(|(_, winner)| winner);
    let conflicts_with: BTreeSet<PolicyRef> = contest
        .id_winner
        .iter()
        .chain(port_winner)
        .chain(contest.lost.values())
        .map(|senior| senior.policy.clone())
        .collect();
    let conflicted = !conflicts_with.is_empty();
    let lost = conflicted && resolution.reason == Reason::Applied;
    let reason = if lost { Reason::Conflicted } else { resolution.reason };
    let mut sentences = conflict(resolution, contest);
    let own = resolution.notes.iter().cloned();
    if reason == Reason::Conflicted {
        sentences.extend(own);
    } else {
        sentences.splice(0..0, own);
    }
    if resolution.standing == Standing::Active && reason == Reason::Applied {
        let idle = match (redirects, refuses) {
            (true, _) => "",
            (false, true) => ": connections are refused",
            (false, false) => ": connections go where they were dialled",
        };
        sentences.insert(0, summary(frontends.len(), backends.len(), idle));
    }
    Verdict {
        service_id: resolution.service_id,
        generation: resolution.generation,
        accepted: resolution.standing != Standing::Invalid,
        takes_part: resolution.standing == Standing::Active,
        resolved_refs: resolution.resolved_refs,
        left_alone: resolution.left_alone.clone(),
        conflicts_with,
        reason,
        message: sentences.join("; "),
        frontends,
        backends: backends.len(),
        redirects,
    }
}

fn summary(frontends: usize, backends: usize, idle: &str) -> String {
    if frontends == 0 {
        return "no frontend is redirected at the moment".to_owned();
    }
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    format!("{frontends} frontend{}, {backends} backend{}{idle}", plural(frontends), plural(backends))
}

fn conflict(resolution: &Resolution, contest: &Contest) -> Vec<String> {
    let id = contest.id_winner.iter().map(|winner| {
        format!(
            "its service id {} belongs to {winner}; choose another balancing.elf.io/serviceId",
            resolution.service_id
        )
    });
    let port = contest.port_winner.iter().map(|((port, protocol), winner)| {
        format!(
            "its proxy port {port}/{protocol} belongs to {winner}, whose pods are others; choose another port in \
             spec.backend.serviceEndpoint.toPorts"
        )
    });
    let mut by_winner = BTreeMap::<&Senior, Vec<String>>::new();
    for (key, winner) in &contest.lost {
        by_winner.entry(winner).or_default().push(key.to_string());
    }
    let all = resolution.claims.len();
    let keys = by_winner.iter().map(|(winner, keys)| {
        let shown = keys.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
        let rest = if keys.len() > 5 { ", ..." } else { "" };
        format!("{} of {all} frontends belong to {winner}: {shown}{rest}", keys.len())
    });
    id.chain(port).chain(keys).collect()
}
