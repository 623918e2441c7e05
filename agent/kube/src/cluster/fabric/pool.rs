//! How full the pools of a fabric are, and who has most of them.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::Known;
use balancing_core::{
    claims::capacity,
    objects::{ClaimSpec, FabricSpec, Owner},
};

/// A pool is nearly full when less than one part in so many is left.
const LITTLE: u128 = 10;

/// A pool of which all is claimed, in words.
pub(super) fn exhausted(known: &Known<'_>, spec: &FabricSpec) -> Option<String> {
    spec.pools().find_map(|pool| {
        let taken = taken(known, pool);
        (left(&taken, pool) == 0).then(|| {
            let most = most(&taken).map(|(owner, count)| {
                format!("; {} {} has most of them, {count}", owner.kind.kind(), owner.name)
            });
            format!(
                "all {} addresses of the pool {pool} are claimed; members that come later get none{}",
                taken.len(),
                most.unwrap_or_default()
            )
        })
    })
}

/// Pools of which little is left, in words that are the same while that is so.
pub(super) fn nearly_full(known: &Known<'_>, spec: &FabricSpec) -> Option<String> {
    let pools = spec.pools().filter(|pool| {
        let left = left(&taken(known, *pool), *pool);
        (1..=capacity(*pool) / LITTLE).contains(&left)
    });
    let pools: Vec<String> = pools.map(|pool| pool.to_string()).collect();
    (!pools.is_empty()).then(|| {
        format!(
            "less than one address in {LITTLE} is left of the pool {}; move to a TunnelFabric with a larger one in time",
            pools.join(" and of ")
        )
    })
}

fn taken<'a>(known: &Known<'a>, pool: IpNetwork) -> Vec<&'a ClaimSpec> {
    let claims = known.snapshot.claims().filter_map(|claim| claim.spec.as_ref().ok());
    claims.filter(|claim| pool.contains(claim.address)).collect()
}

fn left(taken: &[&ClaimSpec], pool: IpNetwork) -> u128 {
    capacity(pool).saturating_sub(taken.len() as u128)
}

fn most<'a>(taken: &[&'a ClaimSpec]) -> Option<(&'a Owner, usize)> {
    let mut counts = BTreeMap::<&Owner, usize>::new();
    for claim in taken {
        *counts.entry(&claim.owner).or_default() += 1;
    }
    // Where everybody has as many there is nobody to look at.
    counts.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 1)
}
