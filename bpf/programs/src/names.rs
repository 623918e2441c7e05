//! Reverse translation: what a socket dialled, for `getpeername` and `recvmsg`.
//!
//! Connected sockets have a record in a direct-mapped table, unconnected UDP sockets have storage of their own.

use balancing_abi::{UDP_PEERS, UdpPeers, conn, stat};

use crate::{
    config,
    context::Context,
    count,
    event::Peer,
    tables::{connections, names, udp_peers},
};

/// Remembers that the connected socket dialled the frontend and reached `backend`.
#[inline(always)]
pub(crate) fn record(ctx: &Context, reference: u32, backend: &Peer) {
    let cookie = ctx.cookie();
    let Some(slot) = connections.get_ptr_mut(cookie as u32 & config::connection_mask()) else { return };
    let [first, second] = conn::record(cookie, reference, conn::digest(&backend.0, backend.1));
    let slot = slot.cast::<u64>();
    // SAFETY: two words of a live array element. The first is invalid while the second changes,
    // so that a reader on another CPU never pairs words of two sockets.
    unsafe {
        let seen = slot.read_volatile();
        if seen == 0 {
            count::stat(stat::CONN_USED);
        } else if !conn::is_of(seen, cookie) {
            count::stat(stat::CONN_OVERWRITTEN);
        }
        slot.write_volatile(!0);
        slot.add(1).write_volatile(second);
        slot.write_volatile(first);
    }
}

/// Forgets what the socket was connected to; called only for sockets that were used before.
#[inline(always)]
pub(crate) fn forget(ctx: &Context) {
    let cookie = ctx.cookie();
    if let Some(slot) = connections.get_ptr_mut(cookie as u32 & config::connection_mask()) {
        let slot = slot.cast::<u64>();
        // SAFETY: as in `record`. The first word stays, so that the slot still counts as this socket's.
        unsafe {
            if conn::is_of(slot.read_volatile(), cookie) {
                slot.add(1).write_volatile(0);
            }
        }
    }
}

/// The reference of the frontend that the socket is connected to, 0 when it is to none.
#[inline(always)]
fn connected_to(ctx: &Context) -> u32 {
    let cookie = ctx.cookie();
    match connections.get_ptr(cookie as u32 & config::connection_mask()) {
        // SAFETY: two words of a live array element.
        Some(slot) => unsafe {
            let slot = slot.cast::<u64>();
            if conn::is_of(slot.read_volatile(), cookie) {
                (slot.add(1).read_volatile() >> 32) as u32
            } else {
                0
            }
        },
        None => 0,
    }
}

/// What the connected socket dialled to reach `peer`.
#[inline(always)]
pub(crate) fn dialled(ctx: &Context, peer: &Peer) -> Option<Peer> {
    let cookie = ctx.cookie();
    let slot = connections.get_ptr(cookie as u32 & config::connection_mask())?.cast::<u64>();
    // SAFETY: two words of a live array element; the first is read again after the second.
    let (record, still) =
        unsafe { ([slot.read_volatile(), slot.add(1).read_volatile()], slot.read_volatile()) };
    let reference = conn::find(record, cookie, conn::digest(&peer.0, peer.1))?;
    if still != record[0] {
        return None;
    }
    let name = names.get(conn::id(reference))?;
    if conn::reference(conn::id(reference), name.generation) != reference {
        return None;
    }
    Some((name.address, name.port))
}

/// The translations of an unconnected UDP socket; made when there are none.
#[inline(always)]
pub(crate) fn peers(ctx: &Context) -> Option<&'static mut UdpPeers> {
    let peers = udp_peers.get_or_insert_ptr_mut(&ctx.0, None);
    // SAFETY: null or the socket's own storage, which lives as long as the socket.
    unsafe { peers.as_mut() }
}

/// The id of the backend that the socket already uses for the frontend, or 0.
#[inline(always)]
pub(crate) fn used_before(peers: &UdpPeers, reference: u32) -> u32 {
    for i in 0..UDP_PEERS {
        if peers.peers[i].reference == reference {
            return peers.peers[i].backend_id;
        }
    }
    0
}

/// Remembers a translation in place of the same frontend's, or else of the one unused for longest.
#[inline(always)]
pub(crate) fn record_peer(
    ctx: &Context,
    peers: &mut UdpPeers,
    reference: u32,
    frontend: &Peer,
    backend: &Peer,
    backend_id: u32,
) {
    peers.connected = if ctx.is_connected() { connected_to(ctx) } else { 0 };
    peers.clock = peers.clock.wrapping_add(1);
    let clock = peers.clock;
    let mut chosen = 0;
    let mut oldest = 0;
    for i in 0..UDP_PEERS {
        let age = clock.wrapping_sub(peers.peers[i].used);
        if peers.peers[i].reference == reference {
            chosen = i;
            break;
        }
        if age > oldest {
            oldest = age;
            chosen = i;
        }
    }
    if chosen >= UDP_PEERS {
        return;
    }
    let peer = &mut peers.peers[chosen];
    peer.frontend = frontend.0;
    peer.frontend_port = frontend.1;
    peer.backend = backend.0;
    peer.backend_port = backend.1;
    peer.reference = reference;
    peer.backend_id = backend_id;
    peer.used = clock;
}

/// What the unconnected socket dialled last to reach `peer`.
#[inline(always)]
pub(crate) fn dialled_unconnected(ctx: &Context, peer: &Peer) -> Option<Peer> {
    let peers = udp_peers.get_ptr_mut(&ctx.0);
    // SAFETY: null or the socket's own storage.
    let peers = unsafe { peers.as_ref() }?;
    if ctx.is_connected() && (peers.connected == 0 || peers.connected != connected_to(ctx)) {
        return None;
    }
    let mut youngest = u32::MAX;
    let mut found = None;
    for i in 0..UDP_PEERS {
        let p = &peers.peers[i];
        let age = peers.clock.wrapping_sub(p.used);
        if p.reference != 0 && p.backend_port == peer.1 && p.backend == peer.0 && age < youngest {
            youngest = age;
            found = Some((p.frontend, p.frontend_port));
        }
    }
    found
}
