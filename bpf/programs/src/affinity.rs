//! The backend that a client keeps.
//!
//! The table holds one word a client: backend and last use. CPUs that meet change it by comparison, and whoever comes second
//! takes what the first one left: so all connections of a client agree, also the first ones.
//!
//! A full table may give a client's place to another one between looking and comparing. Where that one has the same backend and was
//! used at the same tick, its word is changed; it has the right one after its next connection.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns};
use balancing_abi::sockets::{Affinity, AffinityKey, Frontend, SetHead, Slot, stat};

use crate::{atomic::compare_exchange, backend_set, context::Context, count, tables::affinity};

/// Whoever loses has at once the word of somebody who won.
const TRIES: u32 = 3;

/// The slot of the client's backend while it lives and was used in time, else of a new one; `None` when there is none.
#[inline(never)]
pub(crate) fn choose(ctx: &Context, frontend: *const Frontend, head: &SetHead) -> Option<&'static Slot> {
    // SAFETY: a live array element that does not change.
    let (reference, ticks) = (unsafe { (*frontend).reference }, head.affinity);
    let key = AffinityKey { client: ctx.netns(), reference, pad: 0 };
    // SAFETY: no arguments.
    let now = Affinity::now(unsafe { bpf_ktime_get_ns() });
    for _ in 0..TRIES {
        let Some(known) = affinity.get_ptr_mut(&key) else {
            let slot = backend_set::draw(frontend)?;
            let word = Affinity { backend_id: slot.target.id, used: now }.word();
            match affinity.insert(&key, &word, u64::from(BPF_NOEXIST)) {
                Ok(()) => count::stat(stat::AFFINITY_NEW),
                // Another CPU was first.
                Err(_) if affinity.get_ptr(&key).is_some() => continue,
                Err(_) => count::stat(stat::AFFINITY_REFUSED),
            }
            return Some(slot);
        };
        // SAFETY: a live, aligned element that programs only change atomically.
        let seen = unsafe { known.read_volatile() };
        let client = Affinity::of(seen);
        if client.is_fresh(now, ticks)
            && let Some(slot) = backend_set::find(frontend, client.backend_id)
        {
            if client.used != now {
                // Another CPU may have noted its use at the same time, which is as good.
                // SAFETY: as above.
                unsafe { compare_exchange(known, seen, Affinity { used: now, ..client }.word()) };
            }
            return Some(slot);
        }
        let slot = backend_set::draw(frontend)?;
        let word = Affinity { backend_id: slot.target.id, used: now }.word();
        // SAFETY: as above.
        if unsafe { compare_exchange(known, seen, word) } == seen {
            return Some(slot);
        }
    }
    backend_set::draw(frontend)
}
