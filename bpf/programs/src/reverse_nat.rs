//! Reverse translation: what a socket dialled, for `getpeername` and `recvmsg`.
//!
//! Connected sockets have a record in a direct-mapped table, unconnected UDP sockets have storage of their own ([`crate::udp_reverse_nat`]).

use balancing_abi::sockets::{flags, reverse_nat, stat};

use crate::{
    config,
    context::{Context, Peer},
    count,
    tables::{connections, names},
};

/// The two words of the socket's place in the table.
#[inline(always)]
fn place(cookie: u64) -> Option<*mut u64> {
    connections.get_ptr_mut(cookie as u32 & config::connection_mask()).map(|slot| slot.cast())
}

/// Remembers that the connected socket dialled the frontend and reached `backend`.
#[inline(always)]
pub(crate) fn record(ctx: &Context, reference: u32, backend: &Peer) {
    let cookie = ctx.cookie();
    let Some(slot) = place(cookie) else { return };
    let digest = reverse_nat::digest(cookie, &backend.0, backend.1);
    let [first, second] = reverse_nat::record(cookie, reference, digest, is_host());
    // SAFETY: two words of a live array element; whatever another CPU makes of them, see `reverse_nat`.
    unsafe {
        let seen = slot.read_volatile();
        if seen == 0 {
            count::stat(stat::CONN_USED);
        } else if !reverse_nat::is_of(seen, cookie) {
            count::stat(stat::CONN_OVERWRITTEN);
        }
        slot.write_volatile(first);
        slot.add(1).write_volatile(second);
    }
}

/// Whether this is one of the host's programs.
#[inline(always)]
fn is_host() -> bool {
    config::clients() == u32::from(flags::HOST)
}

/// Forgets what the socket was connected to. Where a pod's program and the host's run one after the other, the second meets the
/// address that the first has put there, and must not take it for one that the application dialled.
#[inline(always)]
pub(crate) fn forget(ctx: &Context) {
    let cookie = ctx.cookie();
    let Some(slot) = place(cookie) else { return };
    // SAFETY: as in `record`. The first word stays, so that the slot still counts as this socket's.
    unsafe {
        let ours = reverse_nat::is_by_host(slot.add(1).read_volatile()) == is_host();
        if ours && reverse_nat::is_of(slot.read_volatile(), cookie) {
            slot.add(1).write_volatile(0);
        }
    }
}

/// The reference of the frontend that the socket is connected to, 0 when it is to none.
#[inline(always)]
pub(crate) fn connected_to(ctx: &Context) -> u32 {
    let cookie = ctx.cookie();
    let Some(slot) = place(cookie) else { return 0 };
    // SAFETY: two words of a live array element.
    let (first, second) = unsafe { (slot.read_volatile(), slot.add(1).read_volatile()) };
    if reverse_nat::is_of(first, cookie) && first as u32 == second as u32 { first as u32 } else { 0 }
}

/// What the connected socket dialled to reach `peer`.
#[inline(always)]
pub(crate) fn dialled(ctx: &Context, peer: &Peer) -> Option<Peer> {
    let cookie = ctx.cookie();
    let slot = place(cookie)?;
    // SAFETY: two words of a live array element.
    let record = unsafe { [slot.read_volatile(), slot.add(1).read_volatile()] };
    name(reverse_nat::find(record, cookie, reverse_nat::digest(cookie, &peer.0, peer.1))?)
}

/// The address behind a reference. The generation is read first: see `sockets::Name`.
#[inline(always)]
fn name(reference: u32) -> Option<Peer> {
    let name = names.get_ptr(reverse_nat::id(reference))?;
    // SAFETY: a live array element. Port to generation are one aligned word, which user space changes by single stores.
    unsafe {
        let tail = (&raw const (*name).port).cast::<u64>().read_volatile();
        if reverse_nat::reference(reverse_nat::id(reference), (tail >> 32) as u32) != reference {
            return None;
        }
        Some(((&raw const (*name).address).read_volatile(), tail as u16))
    }
}
