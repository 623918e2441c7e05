//! The policies that might have decided a frontend and do not.

use balancing_abi::model::FrontendKey;

use crate::{
    explain::{Loser, loser, name},
    objects::{InvalidSpec, Policy, PolicyRef},
    plan::Layer,
    resolve::{Engine, Frontends, Resolution, Standing},
};

/// Policies that claim the frontend without deciding it, then those that are near: not in force,
/// or on another port or protocol of the address.
pub(super) fn others(
    engine: &Engine,
    key: &FrontendKey,
    layers: &[&Layer],
    winner: Option<&Layer>,
) -> Vec<Loser> {
    let mut losers = Vec::new();
    let mut owner: Option<&PolicyRef> = None;
    for policy in engine.claimants(key) {
        let senior = owner.filter(|owner| owner.kind == policy.kind);
        let why = match senior.and_then(|senior| engine.senior(senior, policy)) {
            Some(senior) => Some(format!("conflict: the frontend belongs to {senior}")),
            None => owner_aside(engine, key, policy, layers, winner),
        };
        losers.extend(why.map(|why| loser(policy, why)));
        if senior.is_none() {
            owner = Some(policy);
        }
    }
    let claimants: Vec<&PolicyRef> = engine.claimants(key).collect();
    let near = engine.snapshot().policies().filter(|policy| !claimants.contains(&&policy.id));
    losers.extend(near.filter_map(|policy| Some(loser(&policy.id, nearly(engine, key, policy)?))));
    losers
}

/// Why the owner of a kind does not decide; `None` when it does or has been told of already.
fn owner_aside(
    engine: &Engine,
    key: &FrontendKey,
    policy: &PolicyRef,
    layers: &[&Layer],
    winner: Option<&Layer>,
) -> Option<String> {
    let resolution = engine.resolution(policy)?;
    if matches!(resolution.claims.get(key), Some(None)) {
        let notes = if resolution.notes.is_empty() { "no backend" } else { &resolution.notes.join("; ") };
        return Some(format!("it has no backend for this frontend: {notes}"));
    }
    let place = |wanted: &PolicyRef| layers.iter().position(|layer| layer.policy == *wanted);
    let above = winner.filter(|winner| place(&winner.policy) < place(policy))?;
    let mut occasions = Vec::new();
    if above.qos_limit.is_some() {
        occasions.push("its limit is reached");
    }
    if above.clients != balancing_abi::model::Clients::All {
        occasions.push("spec.clients excludes the client");
    }
    if !above.skip.is_empty() {
        occasions.push("the client is one of its backends");
    }
    let above = name(&above.policy);
    Some(match occasions.is_empty() {
        true => format!("{above} decides before it"),
        false => format!("{above} decides before it, except when {}", occasions.join(" or ")),
    })
}

/// Why a policy that knows the address does not claim the frontend.
fn nearly(engine: &Engine, key: &FrontendKey, policy: &Policy) -> Option<String> {
    let spec = match &policy.spec {
        Ok(spec) => spec,
        Err(invalid) => return refused(engine, key, &policy.id, invalid),
    };
    let frontends = Frontends::of(&policy.id, &spec.frontend, engine.snapshot(), engine.settings()).ok()?;
    if let (Some(why), Some(service)) = (frontends.refused.get(&key.address), frontends.service) {
        return Some(format!(
            "the external address {} of Service {}/{} is left alone: {why}",
            key.address, service.namespace, service.name
        ));
    }
    if !frontends.has_address(key.address) {
        return None;
    }
    let resolution = engine.resolution(&policy.id)?;
    let has_port = frontends.ports.iter().any(|p| (p.port, p.protocol) == (key.port, key.protocol));
    match (has_port, resolution.standing) {
        (_, Standing::Invalid) => None,
        (true, Standing::Disabled | Standing::NotSelected | Standing::Pending) => {
            Some(resolution.notes.join("; "))
        }
        (true, Standing::Active) => Some(withdrawn(engine, &policy.id, resolution)),
        (false, _) => {
            let ports: Vec<String> =
                frontends.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol)).collect();
            let asked = format!("{}/{}", key.port, key.protocol);
            Some(format!("hint: it names {} on {}, not on {asked}", key.address, ports.join(", ")))
        }
    }
}

/// Why a policy that names the address has no say: its spec breaks rules.
fn refused(engine: &Engine, key: &FrontendKey, policy: &PolicyRef, invalid: &InvalidSpec) -> Option<String> {
    let names_it = invalid.frontends.iter().any(|frontend| {
        Frontends::of(policy, frontend, engine.snapshot(), engine.settings())
            .is_ok_and(|frontends| frontends.has_address(key.address))
    });
    let problems = || engine.resolution(policy).map(|resolution| resolution.notes.join("; "));
    names_it
        .then(problems)?
        .map(|problems| format!("its spec is invalid, so it redirects nothing: {problems}"))
}

fn withdrawn(engine: &Engine, policy: &PolicyRef, resolution: &Resolution) -> String {
    let senior_of = |senior| engine.senior(senior, policy);
    if let Some(senior) = engine.id_winner_over(policy).and_then(senior_of) {
        return format!("conflict: its service id {} belongs to {senior}", resolution.service_id);
    }
    if let Some(((port, protocol), senior)) = engine.port_winner_over(policy)
        && let Some(senior) = senior_of(senior)
    {
        return format!("conflict: its proxy port {port}/{protocol} belongs to {senior}");
    }
    format!("its port has no partner: {}", resolution.notes.join("; "))
}
