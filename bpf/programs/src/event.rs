//! Events for whoever listens; nobody listening costs the test of a flag that was loaded anyway.

use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_ringbuf_reserve, bpf_ringbuf_submit},
    },
};
use balancing_abi::sockets::{Event, stat};

use crate::{
    context::{Context, Dialled, Peer},
    count, tables,
};

/// The switches, bits of `sockets::control`.
#[inline(always)]
pub(crate) fn switches() -> u32 {
    // SAFETY: a live array element; volatile, because user space flips bits by single stores.
    tables::control.get_ptr(0).map_or(0, |control| unsafe { (&raw const (*control).flags).read_volatile() })
}

/// Tells the listeners what became of a call; `backend` is zero when there is none. A full buffer drops the event.
#[inline(never)]
pub(crate) fn emit(ctx: &Context, service_id: u32, outcome: u8, dialled: &Dialled, backend: &Peer) {
    // SAFETY: the size is that of what is written; the kernel keeps the room until it is submitted.
    let room: *mut Event = unsafe {
        bpf_ringbuf_reserve((&raw const tables::events).cast_mut().cast(), size_of::<Event>() as u64, 0)
    }
    .cast();
    if room.is_null() {
        count::stat(stat::EVENTS_LOST);
        return;
    }
    // SAFETY: room for one event, written whole and handed over once; the helpers take no pointers.
    unsafe {
        (*room).time = bpf_ktime_get_ns();
        (*room).cgroup = bpf_get_current_cgroup_id();
        (*room).netns = ctx.netns();
        (*room).frontend = dialled.address;
        (*room).backend = backend.0;
        (*room).frontend_port = dialled.port;
        (*room).backend_port = backend.1;
        (*room).service_id = service_id;
        (*room).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*room).protocol = dialled.protocol as u8;
        (*room).outcome = outcome;
        (*room).pad = [0; 10];
        bpf_ringbuf_submit(room.cast(), u64::from(BPF_RB_FORCE_WAKEUP));
    }
}
