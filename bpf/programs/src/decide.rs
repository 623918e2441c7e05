//! One decision: dialled address in, backend out.

use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use balancing_abi::{Frontend, Key4, Key6, Locked, Target, check, conn, control, flags, outcome, rare};

use crate::{
    config,
    context::Context,
    count,
    event::{self, Peer},
    names, qos, select, skip,
    tables::{frontends4, frontends6},
};

/// Attempts to read an entry that was found in the middle of a change.
const TRIES: u32 = 4;

/// What shall become of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Decision {
    /// It is none of ours.
    Miss,
    /// Leave it as dialled.
    Pass,
    /// Send it to the backend of the case.
    Redirect,
    /// Refuse it.
    Reject,
    /// Leave it as dialled, because the kernel failed us.
    Failed,
}

/// The kind of call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `connect`
    Connect,
    /// `sendto`, `sendmsg`
    Send,
}

/// A key of either table.
pub(crate) trait Dialled: check::Key + Copy {
    fn get(&self) -> Option<*mut Locked>;
    fn second(self) -> Self;
    fn peer(&self) -> Peer;
    /// Whether the socket is connected to the address.
    fn is_connected(&self, ctx: &Context) -> bool;
}

impl Dialled for Key4 {
    #[inline(always)]
    fn get(&self) -> Option<*mut Locked> {
        frontends4.get_ptr_mut(self)
    }
    #[inline(always)]
    fn second(self) -> Self {
        Self { layer: 1, ..self }
    }
    #[inline(always)]
    fn peer(&self) -> Peer {
        (balancing_abi::mapped(self.address), self.port)
    }
    #[inline(always)]
    fn is_connected(&self, ctx: &Context) -> bool {
        ctx.is_connected_to4(self.address, self.port)
    }
}

impl Dialled for Key6 {
    #[inline(always)]
    fn get(&self) -> Option<*mut Locked> {
        frontends6.get_ptr_mut(self)
    }
    #[inline(always)]
    fn second(self) -> Self {
        Self { layer: 1, ..self }
    }
    #[inline(always)]
    fn peer(&self) -> Peer {
        (self.address, self.port)
    }
    #[inline(always)]
    fn is_connected(&self, ctx: &Context) -> bool {
        ctx.is_connected_to6(&self.address, self.port)
    }
}

const EMPTY: Frontend = Frontend {
    check: 0,
    service_id: 0,
    id: 0,
    flags: 0,
    count: 0,
    qos_limit: 0,
    affinity: 0,
    target: Target { address: [0; 4], port: 0, generation: 0, id: 0 },
};

/// What one layer says.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Answer {
    Use,
    StandAside,
    Reject,
    Failed,
}

/// A decision in the making. It stays in memory: passed by reference it costs less stack than in registers.
pub(crate) struct Case {
    entry: Frontend,
    dialled: Peer,
    /// The backend, once the decision is to redirect.
    pub(crate) backend: Peer,
}

impl Case {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self { entry: EMPTY, dialled: ([0; 4], 0), backend: ([0; 4], 0) }
    }
}

/// Copies the entry of a key; `false` when it is gone.
#[inline(never)]
fn read<K: Dialled>(key: &K, found: *mut Locked, case: &mut Case) -> bool {
    // SAFETY: a map element; its bytes may be changing, which the sum tells.
    case.entry = unsafe { (&raw const (*found).frontend).read() };
    if is_whole(key, case) {
        return true;
    }
    // Somebody writes there: wait for it, or find the key elsewhere.
    for _ in 0..TRIES {
        let Some(again) = key.get() else { return false };
        // SAFETY: a map element with its own lock; nothing but the copy happens while it is held.
        unsafe {
            let lock = (&raw mut (*again).lock).cast();
            bpf_spin_lock(lock);
            case.entry = (&raw const (*again).frontend).read();
            bpf_spin_unlock(lock);
        }
        if is_whole(key, case) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn is_whole<K: Dialled>(key: &K, case: &Case) -> bool {
    // SAFETY: the six words after `check` are plain bytes of the copy.
    let words = unsafe { &*(&raw const case.entry).cast::<u64>().add(1).cast::<[u64; 6]>() };
    check::sum_words(key, words) == case.entry.check
}

/// Decides a call on `key` and keeps the records that its answer needs.
#[inline(always)]
pub(crate) fn decide<K: Dialled>(ctx: &Context, key: &K, call: Call, case: &mut Case) -> Decision {
    let Some(found) = key.get() else {
        return Decision::Miss;
    };
    // What goes to the socket's own peer was decided by connect: an answer from anybody else would not be let in. The
    // kernel asks for each datagram of a connected IPv6 socket whose peer is mapped.
    if call == Call::Send && key.is_connected(ctx) {
        return Decision::Miss;
    }
    if !read(key, found, case) {
        return Decision::Miss;
    }
    case.dialled = key.peer();
    let mut answer = ask(ctx, case, call);
    if answer == Answer::StandAside && case.entry.flags & flags::NEXT != 0 {
        let second = key.second();
        if let Some(found) = second.get()
            && read(&second, found, case)
        {
            answer = ask_second(ctx, case, call);
        }
    }
    let (outcome, decision) = match answer {
        Answer::Use => (outcome::REDIRECTED, Decision::Redirect),
        Answer::Reject => (outcome::REJECTED, Decision::Reject),
        Answer::StandAside => (outcome::PASSED, Decision::Pass),
        Answer::Failed => return Decision::Failed,
    };
    if event::switched_on(control::EVENTS) {
        event::emit(ctx, case.entry.service_id, outcome, &case.dialled, &case.backend);
    }
    decision
}

/// [`ask`] out of line: seldom needed, and two copies in one frame would not fit the stack.
#[inline(never)]
fn ask_second(ctx: &Context, case: &mut Case, call: Call) -> Answer {
    ask(ctx, case, call)
}

/// Whether the layer is for this client at all.
#[inline(always)]
fn applies(ctx: &Context, entry: &Frontend) -> bool {
    if entry.flags & config::clients() == 0 {
        return false;
    }
    let exempt = event::switched_on(control::EXEMPT) && skip::is_exempt(ctx, 0, true)
        || entry.flags & flags::SKIP != 0
            && skip::is_exempt(ctx, entry.service_id, entry.flags & flags::SKIP_CGROUP != 0);
    if exempt {
        count::rarely(entry.id, rare::SKIPPED);
    }
    !exempt
}

/// Asks one layer; the case then holds the backend, or none.
#[inline(always)]
fn ask(ctx: &Context, case: &mut Case, call: Call) -> Answer {
    let Case { entry, dialled, backend } = case;
    if !applies(ctx, entry) {
        return Answer::StandAside;
    }
    if entry.count == 0 {
        return without_backend(entry);
    }
    let reference = conn::reference(entry.id, u32::from(entry.target.generation));
    let mut peers = None;
    let mut kept = 0;
    if call == Call::Send {
        // Without a place for the translation the reply would come from a stranger.
        let Some(storage) = names::peers(ctx) else { return Answer::Failed };
        kept = names::used_before(storage, reference);
        peers = Some(storage);
    }
    let id = select::choose(ctx, entry, kept, backend);
    if id == 0 {
        return without_backend(entry);
    }
    if entry.qos_limit != 0 && !qos::grant(entry.service_id, entry.qos_limit) {
        count::rarely(entry.id, rare::QOS_OVERFLOW);
        *backend = ([0; 4], 0);
        return Answer::StandAside;
    }
    match peers {
        Some(peers) => names::record_peer(ctx, peers, reference, dialled, backend, id),
        None => names::record(ctx, reference, backend),
    }
    count::redirect(entry.id);
    Answer::Use
}

#[inline(always)]
fn without_backend(entry: &Frontend) -> Answer {
    count::rarely(entry.id, rare::NO_BACKEND);
    if entry.flags & flags::REJECT != 0 { Answer::Reject } else { Answer::StandAside }
}
