//! Clients that are exempt from a policy, or from all of them.

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use balancing_abi::SkipKey;

use crate::{context::Context, tables::skips};

#[inline(always)]
fn has(client: u64, kind: u32, service_id: u32) -> bool {
    skips.get_ptr(&SkipKey { client, service_id, kind }).is_some()
}

/// Whether the calling client is exempt; `by_cgroup`: some are known by their cgroup.
#[inline(never)]
pub(crate) fn is_exempt(ctx: &Context, service_id: u32, by_cgroup: bool) -> bool {
    if has(ctx.netns(), SkipKey::NETNS, service_id) {
        return true;
    }
    if !by_cgroup {
        return false;
    }
    // SAFETY: no arguments; valid in process context, where the hooks run.
    if has(unsafe { bpf_get_current_cgroup_id() }, SkipKey::CGROUP, service_id) {
        return true;
    }
    for level in 1..SkipKey::DEPTH {
        // SAFETY: a depth the task does not have yields 0.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if ancestor == 0 {
            return false;
        }
        if has(ancestor, SkipKey::CGROUP, service_id) {
            return true;
        }
    }
    false
}
