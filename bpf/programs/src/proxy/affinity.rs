//! The backend that a client keeps.
//!
//! One word a client: backend and last use. CPUs that meet change it by comparison, and whoever comes second takes what the
//! first one left.

use aya_ebpf::bindings::BPF_NOEXIST;
use balancing_abi::{
    proxy::{AffinityKey, Backend, Service},
    sockets::Affinity,
};

use crate::{atomic::compare_exchange, services, tables::affinity};

/// Whoever loses has at once the word of somebody who won.
const TRIES: u32 = 3;

/// The client's backend while it lives and was used in time, else a new one; `None` when there is none.
#[inline(always)]
pub(crate) fn choose(service: *const Service, key: &AffinityKey, nanoseconds: u64) -> Option<*const Backend> {
    // SAFETY: a live array element that does not change.
    let ticks = unsafe { (*service).affinity };
    let now = Affinity::now(nanoseconds);
    for _ in 0..TRIES {
        let Some(known) = affinity.get_ptr_mut(key) else {
            let backend = services::draw(service)?;
            let word = word(backend, now);
            if affinity.insert(key, &word, u64::from(BPF_NOEXIST)).is_err() && affinity.get_ptr(key).is_some()
            {
                // Another CPU was first.
                continue;
            }
            return Some(backend);
        };
        // SAFETY: a live, aligned element that programs only change atomically.
        let seen = unsafe { known.read_volatile() };
        let client = Affinity::of(seen);
        if client.is_fresh(now, ticks)
            && let Some(backend) = services::backend(service, client.backend_id)
        {
            if client.used != now {
                // Another CPU may have noted its use at the same time, which is as good.
                // SAFETY: as above.
                unsafe { compare_exchange(known, seen, Affinity { used: now, ..client }.word()) };
            }
            return Some(backend);
        }
        let backend = services::draw(service)?;
        // SAFETY: as above.
        if unsafe { compare_exchange(known, seen, word(backend, now)) } == seen {
            return Some(backend);
        }
    }
    services::draw(service)
}

#[inline(always)]
fn word(backend: *const Backend, now: u32) -> u64 {
    // SAFETY: a live array element that does not change.
    Affinity { backend_id: unsafe { (*backend).id }, used: now }.word()
}
