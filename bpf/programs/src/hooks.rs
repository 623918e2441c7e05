//! Entry points, one a hook: context in, decision, context out.

use aya_ebpf::{helpers::generated::bpf_set_retval, macros::cgroup_sock_addr, programs::SockAddrContext};
use balancing_abi::sockets::{Frontend, control, outcome, reason, stat};

use crate::{
    config,
    context::{Context, Dialled, Family, Peer, V4, V6},
    count, event,
    layers::{Answer, Call, Case, ask},
    lookup, reverse_nat, udp_reverse_nat,
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const EHOSTUNREACH: i32 = 113;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&Context(ctx), 0)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&Context(ctx), 1)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<V4>(&Context(ctx), 2)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<V6>(&Context(ctx), 3)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    receive::<V4>(&Context(ctx))
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    receive::<V6>(&Context(ctx))
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    peer_name::<V4>(&Context(ctx))
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    peer_name::<V6>(&Context(ctx))
}

#[inline(always)]
fn connect<F: Family>(ctx: &Context, hook: u32) -> i32 {
    let dialled = ctx.dialled::<F>();
    let hash = lookup::hash(&dialled);
    match lookup::find(&dialled, hash) {
        Some(_) if ctx.is_foreign() || ctx.is_own() => return ALLOW,
        Some(frontend) => match decide::<F>(ctx, frontend, dialled, Call::Connect, hook) {
            Answer::Redirect => return ALLOW,
            Answer::Reject => return refuse(),
            _ => {}
        },
        None => {}
    }
    // The socket may carry a record of this very peer, from a time when it dialled a frontend. Other records say nothing: they
    // count only for their own peer.
    if lookup::may_be_backend(hash) && !ctx.is_foreign() {
        reverse_nat::forget(ctx);
    }
    ALLOW
}

#[inline(always)]
fn send<F: Family>(ctx: &Context, hook: u32) -> i32 {
    let dialled = ctx.dialled::<F>();
    let hash = lookup::hash(&dialled);
    let Some(frontend) = lookup::find(&dialled, hash) else {
        if lookup::may_be_backend(hash) && !ctx.is_foreign() {
            forget_sent(ctx, &dialled.peer());
        }
        return ALLOW;
    };
    if ctx.is_foreign() {
        return ALLOW;
    }
    // What goes to the socket's own peer was decided by connect: an answer from anybody else would not be let in.
    if let Some(peer) = ctx.connected_to::<F>() {
        // The kernel asks for each datagram of a connected IPv6 socket whose peer is mapped.
        if same(&peer, &dialled.peer()) {
            return ALLOW;
        }
        if let Some(name) = reverse_nat::dialled(ctx, &peer)
            && same(&name, &dialled.peer())
        {
            ctx.set_peer::<F>(&peer);
            return ALLOW;
        }
    }
    let peer = dialled.peer();
    match decide::<F>(ctx, frontend, dialled, Call::Send, hook) {
        Answer::Reject => return refuse(),
        Answer::Redirect | Answer::Failed => {}
        _ if lookup::may_be_backend(hash) => forget_sent(ctx, &peer),
        _ => {}
    }
    ALLOW
}

/// The application dials an address itself: what comes from there bears its own name from now on.
#[inline(always)]
fn forget_sent(ctx: &Context, peer: &Peer) {
    if let Some(storage) = udp_reverse_nat::get(ctx) {
        storage.forget(peer);
    }
}

#[inline(always)]
fn same(a: &Peer, b: &Peer) -> bool {
    a.1 == b.1 && a.0[0] == b.0[0] && a.0[1] == b.0[1] && a.0[2] == b.0[2] && a.0[3] == b.0[3]
}

/// Asks the frontend's layers, tells listeners, and changes the call's address where the answer is to redirect it.
#[inline(always)]
fn decide<F: Family>(
    ctx: &Context,
    frontend: *const Frontend,
    dialled: Dialled,
    call: Call,
    hook: u32,
) -> Answer {
    let switches = event::switches();
    if switches & control::STOPPED != 0 {
        return Answer::Exempt;
    }
    let mut case = Case { dialled, switches, service_id: 0, backend: ([0; 4], 0) };
    let answer = ask(ctx, frontend, call, &mut case);
    let outcome = match answer {
        Answer::Redirect => {
            ctx.set_peer::<F>(&case.backend);
            (outcome::REDIRECTED, reason::UNKNOWN)
        }
        Answer::Reject => (outcome::REJECTED, reason::UNKNOWN),
        Answer::Failed => {
            count::stat(stat::ERRORS + hook);
            return answer;
        }
        _ => (outcome::PASSED, answer as u8),
    };
    if switches & control::EVENTS != 0 {
        event::emit(ctx, &case, outcome);
    }
    answer
}

#[inline(always)]
fn refuse() -> i32 {
    if config::set_retval() {
        // SAFETY: an integer argument; the call sets what the application gets as errno.
        unsafe { bpf_set_retval(-EHOSTUNREACH) };
    }
    DENY
}

/// Names what an application dialled to hear from a peer: the latest send counts more than the connection.
#[inline(always)]
fn receive<F: Family>(ctx: &Context) -> i32 {
    let from = ctx.dialled::<F>();
    if !lookup::may_be_backend(lookup::hash(&from)) || ctx.is_foreign() {
        return ALLOW;
    }
    let peer = from.peer();
    let sent = match udp_reverse_nat::get(ctx) {
        Some(storage) => storage.dialled(ctx, &peer),
        None => None,
    };
    let name = match sent {
        Some(name) => Some(name),
        None if ctx.is_connected() => reverse_nat::dialled(ctx, &peer),
        None => None,
    };
    if let Some(name) = name {
        ctx.set_peer::<F>(&name);
    }
    ALLOW
}

#[inline(always)]
fn peer_name<F: Family>(ctx: &Context) -> i32 {
    let peer = ctx.dialled::<F>();
    if lookup::may_be_backend(lookup::hash(&peer))
        && !ctx.is_foreign()
        && let Some(name) = reverse_nat::dialled(ctx, &peer.peer())
    {
        ctx.set_peer::<F>(&name);
    }
    ALLOW
}
