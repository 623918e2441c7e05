//! Entry points, one a hook: context in, decision, context out.

use aya_ebpf::{helpers::generated::bpf_set_retval, macros::cgroup_sock_addr, programs::SockAddrContext};
use balancing_abi::{Key4, Key6, TCP, UDP, is_mapped, mapped, stat};

use crate::{
    config,
    context::Context,
    count,
    decide::{Call, Case, Decision, decide},
    event::Peer,
    names,
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const EHOSTUNREACH: i32 = 113;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    out4(&Context(ctx), Call::Connect, 0)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    out6(&Context(ctx), Call::Connect, 1)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    out4(&Context(ctx), Call::Send, 2)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    out6(&Context(ctx), Call::Send, 3)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    let ctx = Context(ctx);
    if !ctx.is_foreign() {
        name4(&ctx, received(&ctx, &(mapped(ctx.ip4()), ctx.port())));
    }
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let ctx = Context(ctx);
    if !ctx.is_foreign() {
        name6(&ctx, received(&ctx, &(ctx.ip6(), ctx.port())));
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    let ctx = Context(ctx);
    if !ctx.is_foreign() {
        name4(&ctx, names::dialled(&ctx, &(mapped(ctx.ip4()), ctx.port())));
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    let ctx = Context(ctx);
    if !ctx.is_foreign() {
        name6(&ctx, names::dialled(&ctx, &(ctx.ip6(), ctx.port())));
    }
    ALLOW
}

#[inline(always)]
fn is_ours(ctx: &Context, call: Call) -> bool {
    !ctx.is_foreign() && (call == Call::Send || matches!(ctx.protocol(), TCP | UDP))
}

#[inline(always)]
fn out4(ctx: &Context, call: Call, hook: u32) -> i32 {
    if !is_ours(ctx, call) {
        return ALLOW;
    }
    let mut case = Case::new();
    let key = Key4 { address: ctx.ip4(), port: ctx.port(), protocol: ctx.protocol(), layer: 0 };
    let decision = decide(ctx, &key, call, &mut case);
    if decision == Decision::Redirect {
        ctx.set_ip4(case.backend.0[3]);
        ctx.set_port(case.backend.1);
    }
    finish(ctx, decision, call, hook)
}

#[inline(always)]
fn out6(ctx: &Context, call: Call, hook: u32) -> i32 {
    if !is_ours(ctx, call) {
        return ALLOW;
    }
    let mut case = Case::new();
    let (address, port, protocol) = (ctx.ip6(), ctx.port(), ctx.protocol());
    let decision = if is_mapped(&address) {
        decide_mapped(ctx, &Key4 { address: address[3], port, protocol, layer: 0 }, call, &mut case)
    } else {
        decide(ctx, &Key6 { address, port, protocol, layer: 0 }, call, &mut case)
    };
    if decision == Decision::Redirect {
        ctx.set_ip6(&case.backend.0);
        ctx.set_port(case.backend.1);
    }
    finish(ctx, decision, call, hook)
}

/// [`decide`] out of line: two copies in one program would not fit the stack.
#[inline(never)]
fn decide_mapped(ctx: &Context, key: &Key4, call: Call, case: &mut Case) -> Decision {
    decide(ctx, key, call, case)
}

#[inline(always)]
fn finish(ctx: &Context, decision: Decision, call: Call, hook: u32) -> i32 {
    match decision {
        Decision::Redirect => return ALLOW,
        Decision::Reject => {
            if config::set_retval() {
                // SAFETY: an integer argument; the call sets what the application gets as errno.
                unsafe { bpf_set_retval(-EHOSTUNREACH) };
            }
            return DENY;
        }
        Decision::Failed => count::stat(stat::ERRORS + hook),
        Decision::Miss | Decision::Pass => {}
    }
    // A socket that was used before may carry a record that would now name the wrong peer. A socket that was dissolved by
    // connect(2) with AF_UNSPEC looks like a new one, and looking up its record anyway would cost every connect(2) of the
    // machine: such a socket keeps the frontend's name when it then dials that very backend. docs/operations.md says so.
    if call == Call::Connect && ctx.was_used() {
        names::forget(ctx);
    }
    ALLOW
}

/// What an application dialled to hear from `peer`: the latest send counts more than the connection.
#[inline(always)]
fn received(ctx: &Context, peer: &Peer) -> Option<Peer> {
    names::dialled_unconnected(ctx, peer).or_else(|| names::dialled(ctx, peer))
}

#[inline(always)]
fn name4(ctx: &Context, name: Option<Peer>) {
    if let Some((address, port)) = name {
        ctx.set_ip4(address[3]);
        ctx.set_port(port);
    }
}

#[inline(always)]
fn name6(ctx: &Context, name: Option<Peer>) {
    if let Some((address, port)) = name {
        ctx.set_ip6(&address);
        ctx.set_port(port);
    }
}
