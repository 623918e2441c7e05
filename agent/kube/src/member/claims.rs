//! The addresses of this host: which it has, and how it gets one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use balancing_core::{
    claims::{Exhausted, candidates, claim_name, first_free},
    objects::{ClaimSpec, Owner},
};
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::{
    Addresses, MemberWish,
    requests::{Requests, WriteError},
};

/// Time between two looks at claims that are held, while the TunnelNode is there: nobody but an administrator deletes one, and the
/// controller says so. 5,000 members that asked every ten minutes would be 17 requests a second at rest.
const RECHECK: Duration = Duration::from_secs(3600);
/// The same while the controller says that one is gone, and after one was taken up again that nobody used: the controller may have
/// been about to delete it.
const RECHECK_SOON: Duration = Duration::from_secs(10);
/// First and longest time after which a full pool is looked at again.
const FULL: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
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
    /// Some were claimed before, and not in use.
    is_adopted: bool,
    full: BTreeMap<IpNetwork, Full>,
}

/// A pool without an address for this host.
struct Full {
    message: String,
    wait: Duration,
    until: Instant,
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
        self.full.retain(|pool, _| wish.pools.contains(pool));
        // While the fabric knows the host by its addresses nobody takes their claims; whoever took the TunnelNode may have taken them too.
        let seen = wish.seen.as_ref().map_or(&[][..], |seen| &seen.addresses);
        let is_known = self.wanted(wish).values().all(|address| seen.contains(address));
        let is_fresh = is_known && self.checked.is_some_and(|at| now < at + self.recheck(wish));
        self.is_adopted &= is_fresh;
        for pool in &wish.pools {
            let is_settled = match self.full.get(pool) {
                Some(full) => now < full.until,
                None => is_fresh && self.held.contains_key(pool),
            };
            if !is_settled {
                self.settle(requests, wish, *pool, now).await?;
            }
        }
        if !is_fresh {
            self.checked = Some(now);
        }
        let held = self.wanted(wish);
        match self.lacking() {
            Some(why) if held.is_empty() => Err(WriteError::Exhausted(why)),
            _ => Ok(held),
        }
    }

    /// What pools have no address for this host, in words.
    pub(super) fn lacking(&self) -> Option<String> {
        let full: Vec<&str> = self.full.values().map(|full| full.message.as_str()).collect();
        (!full.is_empty()).then(|| full.join("; "))
    }

    /// When to look again.
    pub(super) fn due(&self, wish: &MemberWish, now: Instant) -> Instant {
        let recheck = now + self.recheck(wish);
        self.full.values().map(|full| full.until).fold(recheck, Instant::min)
    }

    fn recheck(&self, wish: &MemberWish) -> Duration {
        if wish.lacks_claim || self.is_adopted { RECHECK_SOON } else { RECHECK }
    }

    async fn settle(
        &mut self,
        requests: &Requests,
        wish: &MemberWish,
        pool: IpNetwork,
        now: Instant,
    ) -> Result<(), WriteError> {
        match self.hold_one(requests, wish, pool).await {
            Ok(address) => {
                self.full.remove(&pool);
                self.held.insert(pool, address);
            }
            Err(WriteError::Exhausted(message)) => {
                self.held.remove(&pool);
                let wait = self.full.get(&pool).map_or(FULL.0, |full| (full.wait * 2).min(FULL.1));
                self.full.insert(pool, Full { message, wait, until: now + wait });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn wanted(&self, wish: &MemberWish) -> Held {
        self.held.iter().filter(|(pool, _)| wish.pools.contains(pool)).map(|(p, a)| (*p, *a)).collect()
    }

    /// The address that is held, the one of an earlier start, any that was ever claimed, a new one: in this order.
    async fn hold_one(
        &mut self,
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
        for claim in ours.iter().filter(|it| it.fabric == wish.fabric && pool.contains(it.address)) {
            if take(requests, wish, claim.address).await? {
                self.is_adopted = true;
                return Ok(claim.address);
            }
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
