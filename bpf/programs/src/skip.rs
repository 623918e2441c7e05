//! Clients that are exempt from a policy, or from all of them.

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use balancing_abi::sockets::SkipKey;

use crate::{context::Context, tables::skips};

#[inline(always)]
fn has(client: u64, kind: u32, service_id: u32) -> bool {
    skips.get_ptr(&SkipKey { client, service_id, kind }).is_some()
}

/// Whether the calling client is exempt; `by_cgroup`: some are known by their cgroup.
#[inline(never)]
pub(crate) fn is_exempt(ctx: &Context, service_id: u32, by_cgroup: bool) -> bool {
    has(ctx.netns(), SkipKey::NETNS, service_id) || by_cgroup && exempt_cgroup(service_id) != 0
}

/// 1 when the caller's cgroup or one above it is exempt.
///
/// A global function to the verifier: it is checked once and not again for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn exempt_cgroup(service_id: u32) -> u32 {
    // SAFETY: no arguments; valid in process context, where the hooks run.
    if has(unsafe { bpf_get_current_cgroup_id() }, SkipKey::CGROUP, service_id) {
        return 1;
    }
    for level in 1..SkipKey::DEPTH {
        // SAFETY: a depth the task does not have yields 0.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if ancestor == 0 {
            return 0;
        }
        if has(ancestor, SkipKey::CGROUP, service_id) {
            return 1;
        }
    }
    0
}
