//! The addresses of this host: which it has, and how it gets one.

use std::{collections::BTreeSet, net::IpAddr};

use balancing_core::{
    claims::{Exhausted, candidates, claim_name, first_free},
    objects::{ClaimSpec, Owner},
};
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::{
    Addresses, MemberWish, RECHECK,
    requests::{Requests, WriteError},
};

/// Addresses that are tried one after the other before all claims are read.
const TRIES: usize = 8;
/// Times that all claims are read because others were faster.
const ROUNDS: usize = 5;

/// The address of each pool.
pub(super) type Held = Addresses;

/// What is known of the claims.
#[derive(Default)]
pub(super) struct Claims {
    owner: Option<Owner>,
    fabric: String,
    held: Held,
    checked: Option<Instant>,
}

impl Claims {
    /// Makes sure that an address of each pool is this host's, and which.
    pub(super) async fn hold(
        &mut self,
        requests: &Requests,
        wish: &MemberWish,
        now: Instant,
    ) -> Result<Held, WriteError> {
        if self.owner.as_ref() != Some(&wish.owner) || self.fabric != wish.fabric {
            *self = Self { owner: Some(wish.owner.clone()), fabric: wish.fabric.clone(), ..Self::default() };
        }
        // While the fabric knows the host by its addresses nobody takes their claims; whoever took the TunnelNode may have taken them too.
        let seen = wish.seen.as_ref().map_or(&[][..], |seen| &seen.addresses);
        let is_known = self.wanted(wish).values().all(|address| seen.contains(address));
        let is_fresh = is_known && self.checked.is_some_and(|at| now < at + RECHECK);
        if is_fresh && wish.pools.iter().all(|pool| self.held.contains_key(pool)) {
            return Ok(self.wanted(wish));
        }
        let mut held = Held::new();
        for pool in &wish.pools {
            held.insert(*pool, self.hold_one(requests, wish, *pool).await?);
        }
        self.held.extend(held);
        self.checked = Some(now);
        Ok(self.wanted(wish))
    }

    fn wanted(&self, wish: &MemberWish) -> Held {
        self.held.iter().filter(|(pool, _)| wish.pools.contains(pool)).map(|(p, a)| (*p, *a)).collect()
    }

    /// The address that is held, the one of an earlier start, any that was ever claimed, a new one: in this order.
    async fn hold_one(
        &self,
        requests: &Requests,
        wish: &MemberWish,
        pool: IpNetwork,
    ) -> Result<IpAddr, WriteError> {
        let seen = wish.seen.iter().flat_map(|seen| seen.addresses.iter().copied());
        let known = self.held.get(&pool).copied().into_iter().chain(seen);
        for address in known.filter(|address| pool.contains(*address)) {
            if take(requests, wish, address).await? {
                return Ok(address);
            }
        }
        let ours = requests.claims_of(&wish.owner).await?;
        if let Some(claim) =
            ours.iter().find(|claim| claim.fabric == wish.fabric && pool.contains(claim.address))
        {
            return Ok(claim.address);
        }
        for address in candidates(pool, wish.owner.kind, &wish.owner.name).take(TRIES) {
            if take(requests, wish, address).await? {
                return Ok(address);
            }
        }
        self.search(requests, wish, pool).await
    }

    /// In a pool that is nearly full: looks where there is room.
    async fn search(
        &self,
        requests: &Requests,
        wish: &MemberWish,
        pool: IpNetwork,
    ) -> Result<IpAddr, WriteError> {
        for _ in 0..ROUNDS {
            let mut taken: BTreeSet<IpAddr> = requests.taken().await?;
            for _ in 0..TRIES {
                let free =
                    first_free(pool, wish.owner.kind, &wish.owner.name, |address| taken.contains(&address));
                let address = free.map_err(|full: Exhausted| WriteError::Exhausted(full.to_string()))?;
                if take(requests, wish, address).await? {
                    return Ok(address);
                }
                taken.insert(address);
            }
        }
        Err(WriteError::Contended(pool))
    }
}

/// Claims an address; `false` = it belongs to somebody else.
async fn take(requests: &Requests, wish: &MemberWish, address: IpAddr) -> Result<bool, WriteError> {
    let claim = ClaimSpec { fabric: wish.fabric.clone(), address, owner: wish.owner.clone() };
    let taken = requests.claim(&claim).await?;
    if taken.is_new {
        tracing::info!(claim = claim_name(address), "address claimed");
    }
    Ok(taken.is_ours)
}
