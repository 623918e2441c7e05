//! The layers of a frontend: each decides, or stands aside for the one below.

use balancing_abi::sockets::{Frontend, LAYERS, control, flags, reason};

use crate::{
    backend_set, config,
    context::{Context, Dialled, Peer},
    count::{self, Rare},
    lookup, qos, reverse_nat, select, skip, udp_reverse_nat,
};

/// The kind of call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `connect`
    Connect,
    /// `sendto`, `sendmsg`
    Send,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Answer {
    /// Send it to the backend of the case.
    Redirect = 0,
    /// Leave it as dialled, and so below; of one layer: ask the next. No backend takes it.
    NoBackend = reason::NO_BACKEND as u32,
    /// The QoS limit is reached.
    QosLimit = reason::QOS_LIMIT as u32,
    /// The client is exempt.
    Exempt = reason::EXEMPT as u32,
    /// The layer is for other clients.
    OtherClients = reason::OTHER_CLIENTS as u32,
    /// Refuse it.
    Reject,
    /// Leave it as dialled, because the kernel failed us.
    Failed,
}

impl Answer {
    /// Whether the next layer is asked.
    #[inline(always)]
    fn stands_aside(self) -> bool {
        matches!(self, Self::NoBackend | Self::QosLimit | Self::Exempt | Self::OtherClients)
    }
}

/// A call that met a frontend.
pub(crate) struct Case {
    pub(crate) dialled: Dialled,
    /// Bits of `sockets::control`.
    pub(crate) switches: u32,
    /// Policy of the layer that was asked last.
    pub(crate) service_id: u32,
    /// The backend, once the answer is to redirect.
    pub(crate) backend: Peer,
}

/// Asks the layers from the first on and keeps the records that the answer needs.
#[inline(always)]
pub(crate) fn ask(ctx: &Context, first: *const Frontend, call: Call, case: &mut Case) -> Answer {
    let answer = match call {
        Call::Connect => ask_one(ctx, first, call, case),
        Call::Send => ask_for_send(ctx, first, case),
    };
    match call {
        _ if !answer.stands_aside() => answer,
        Call::Connect => ask_below_for_connect(ctx, first, case, answer),
        Call::Send => ask_below_for_send(ctx, first, case, answer),
    }
}

/// Out of line: what a send needs would not fit beside what `ask_below_for_send` calls. Together they have 512 bytes, where
/// kernels before 6.8 round each function's up to a multiple of 32.
#[inline(never)]
fn ask_for_send(ctx: &Context, first: *const Frontend, case: &mut Case) -> Answer {
    ask_one(ctx, first, Call::Send, case)
}

// Out of line: seldom needed, and two copies in one frame would not fit the stack. One for each kind of call: what it is may not
// be a value, which a verifier that loses sight of it takes for either, and then finds a storage that was never set.

#[inline(never)]
fn ask_below_for_connect(ctx: &Context, first: *const Frontend, case: &mut Case, answer: Answer) -> Answer {
    ask_below(ctx, first, Call::Connect, case, answer)
}

#[inline(never)]
fn ask_below_for_send(ctx: &Context, first: *const Frontend, case: &mut Case, answer: Answer) -> Answer {
    ask_below(ctx, first, Call::Send, case, answer)
}

#[inline(always)]
fn ask_below(
    ctx: &Context,
    first: *const Frontend,
    call: Call,
    case: &mut Case,
    mut answer: Answer,
) -> Answer {
    let mut above = first;
    for _ in 1..LAYERS {
        let Some(layer) = lookup::below(above) else { break };
        answer = ask_one(ctx, layer, call, case);
        if !answer.stands_aside() {
            return answer;
        }
        above = layer;
    }
    answer
}

#[inline(always)]
fn ask_one(ctx: &Context, layer: *const Frontend, call: Call, case: &mut Case) -> Answer {
    // SAFETY: a live array element; but for `chain` it does not change while the program runs.
    let frontend = unsafe { &*layer };
    case.service_id = frontend.service_id;
    let reference = frontend.reference;
    if u32::from(frontend.target.detail) & config::clients() == 0 {
        return Answer::OtherClients;
    }
    if is_exempt(ctx, frontend, case.switches) {
        count::rarely(reference, Rare::Skipped);
        return Answer::Exempt;
    }
    if frontend.count == 0 {
        return without_backend(frontend);
    }
    let mut storage = None;
    let mut kept = 0;
    if call == Call::Send {
        // Without a place for the translation the reply would come from a stranger.
        let Some(made) = udp_reverse_nat::get_or_make(ctx) else { return Answer::Failed };
        kept = made.used_before(reference);
        storage = Some(made);
    }
    let head = backend_set::head(layer);
    let Some(target) = select::choose(ctx, layer, head, kept) else { return without_backend(frontend) };
    let mut backend = (target.address, target.port);
    if let Some(head) = head
        && head.qos_limit != 0
        && !qos::grant(head.window, head.qos_limit)
    {
        count::rarely(reference, Rare::QosOverflow);
        return Answer::QosLimit;
    }
    // First, because the counter is far away when frontends take turns: what follows need not wait for it.
    count::redirect(reference);
    match storage {
        Some(storage) => storage.record(ctx, reference, &case.dialled, &mut backend, [kept, target.id]),
        None => reverse_nat::record(ctx, reference, &backend),
    }
    case.backend = backend;
    Answer::Redirect
}

/// Whether the client is exempt from this layer, or from all.
#[inline(always)]
fn is_exempt(ctx: &Context, frontend: &Frontend, switches: u32) -> bool {
    let detail = frontend.target.detail;
    switches & control::EXEMPT != 0 && skip::is_exempt(ctx, 0, true)
        || detail & flags::SKIP != 0
            && skip::is_exempt(ctx, frontend.service_id, detail & flags::SKIP_CGROUP != 0)
}

#[inline(always)]
fn without_backend(frontend: &Frontend) -> Answer {
    count::rarely(frontend.reference, Rare::NoBackend);
    if frontend.target.detail & flags::REJECT != 0 { Answer::Reject } else { Answer::NoBackend }
}
