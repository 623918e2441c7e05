//! Events for whoever listens; nobody listening costs the load of a flag.

use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_ringbuf_reserve, bpf_ringbuf_submit},
    },
};
use balancing_abi::Event;

use crate::{context::Context, tables};

/// Whether any of the switches is on.
#[inline(always)]
pub(crate) fn switched_on(bit: u32) -> bool {
    tables::control.get(0).is_some_and(|c| c.flags & bit != 0)
}

/// Address and port, dialled or resolved.
pub(crate) type Peer = ([u32; 4], u16);

/// Tells the listeners what became of a call; `backend` is zero when there is none. A full buffer drops the event.
#[inline(never)]
pub(crate) fn emit(ctx: &Context, service_id: u32, outcome: u8, frontend: &Peer, backend: &Peer) {
    // SAFETY: the size is that of what is written; the kernel keeps the room until it is submitted.
    let room: *mut Event = unsafe {
        bpf_ringbuf_reserve((&raw const tables::events).cast_mut().cast(), size_of::<Event>() as u64, 0)
    }
    .cast();
    if room.is_null() {
        return;
    }
    // SAFETY: room for one event, written whole and handed over once; the helpers take no pointers.
    unsafe {
        (*room).time = bpf_ktime_get_ns();
        (*room).cgroup = bpf_get_current_cgroup_id();
        (*room).netns = ctx.netns();
        (*room).frontend = frontend.0;
        (*room).backend = backend.0;
        (*room).frontend_port = frontend.1;
        (*room).backend_port = backend.1;
        (*room).service_id = service_id;
        (*room).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*room).protocol = ctx.protocol();
        (*room).outcome = outcome;
        (*room).pad = [0; 10];
        bpf_ringbuf_submit(room.cast(), u64::from(BPF_RB_FORCE_WAKEUP));
    }
}
