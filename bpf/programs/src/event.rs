//! Events for whoever listens; nobody listening costs the test of a flag that was loaded anyway.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_get_current_comm, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit},
    },
};
use balancing_abi::sockets::{Event, maps::size, stat};

use crate::{context::Context, count, layers::Case, tables};

/// Bytes in the buffer at which its reader is woken.
const HALF: u64 = size::EVENTS as u64 / 2;
/// Processors that pass the half at one moment all find more than it: so many bytes more still wake.
const PASSING: u64 = 8 * size_of::<Event>() as u64;

/// The switches, bits of `sockets::control`.
#[inline(always)]
pub(crate) fn switches() -> u32 {
    // SAFETY: a live array element; volatile, because user space flips bits by single stores.
    tables::control.get_ptr(0).map_or(0, |control| unsafe { (&raw const (*control).flags).read_volatile() })
}

/// Tells the listeners what became of a call: outcome and reason. A full buffer drops the event.
///
/// To wake the reader for each event would cost the caller more than all the rest: it reads by its own clock, and is woken
/// only when that is too slow for what comes.
#[inline(never)]
pub(crate) fn emit(ctx: &Context, case: &Case, (outcome, reason): (u8, u8)) {
    let ring = (&raw const tables::events).cast_mut().cast();
    // SAFETY: the size is that of what is written; the kernel keeps the room until it is submitted.
    let room: *mut Event = unsafe { bpf_ringbuf_reserve(ring, size_of::<Event>() as u64, 0) }.cast();
    if room.is_null() {
        count::stat(stat::EVENTS_LOST);
        return;
    }
    // SAFETY: room for one event, written whole and handed over once; the helpers take no pointers but into it and that of the map.
    unsafe {
        (*room).time = bpf_ktime_get_ns();
        (*room).cgroup = bpf_get_current_cgroup_id();
        (*room).netns = ctx.netns();
        (*room).frontend = case.dialled.address;
        (*room).backend = case.backend.0;
        (*room).frontend_port = case.dialled.port;
        (*room).backend_port = case.backend.1;
        (*room).service_id = case.service_id;
        (*room).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*room).protocol = case.dialled.protocol as u8;
        (*room).outcome = outcome;
        (*room).reason = reason;
        (*room).pad = [0; 9];
        bpf_get_current_comm((&raw mut (*room).comm).cast(), size_of_val(&(*room).comm) as u32);
        let used = bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA));
        let wake = (HALF..HALF + PASSING).contains(&used);
        let flags = if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
        bpf_ringbuf_submit(room.cast(), u64::from(flags));
    }
}
