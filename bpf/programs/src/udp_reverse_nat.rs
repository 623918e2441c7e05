//! Translations of unconnected UDP sockets, in storage of each socket.
//!
//! Threads may share a socket: whatever is read or written is under the storage's lock, where nothing is called.

use aya_ebpf::{
    bindings::bpf_spin_lock,
    helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock},
};
use balancing_abi::sockets::{UDP_PEERS, UdpPeer, UdpPeers, index::pair};

use crate::{
    config,
    context::{Context, Dialled, Peer},
    reverse_nat,
    tables::udp_peers,
};

/// The storage of one socket.
#[derive(Clone, Copy)]
pub(crate) struct Storage(*mut UdpPeers);

/// The storage, if the socket has one: cheap for those that have none.
#[inline(always)]
pub(crate) fn get(ctx: &Context) -> Option<Storage> {
    let storage = udp_peers.get_ptr_mut(&ctx.0);
    if storage.is_null() { None } else { Some(Storage(storage)) }
}

/// The storage; made when there is none.
#[inline(always)]
pub(crate) fn get_or_make(ctx: &Context) -> Option<Storage> {
    let storage = udp_peers.get_or_insert_ptr_mut(&ctx.0, None);
    if storage.is_null() { None } else { Some(Storage(storage)) }
}

#[inline(always)]
fn is_same(address: &[u32; 4], port: u16, peer: &Peer) -> bool {
    let ([a, b, c, d], [e, f, g, h]) = (*address, peer.0);
    port == peer.1 && pair(a, b) == pair(e, f) && pair(c, d) == pair(g, h)
}

impl Storage {
    /// Takes the lock. Until [`Storage::unlock`] no function may be called, not even one of this program: before Linux 6.9 the
    /// verifier refuses that. So what happens in between is written out, and no closure, which the compiler may not inline.
    #[inline(always)]
    fn lock<'a>(self) -> &'a mut UdpPeers {
        // SAFETY: the socket's own storage, which lives as long as the socket; the lock makes this the only reference.
        unsafe {
            lock((&raw mut (*self.0).lock).cast::<bpf_spin_lock>());
            &mut *self.0
        }
    }

    #[inline(always)]
    fn unlock(self) {
        // SAFETY: as in `lock`; the reference from there is not used any more.
        unsafe {
            unlock((&raw mut (*self.0).lock).cast::<bpf_spin_lock>());
        }
    }

    /// The id of the backend that the socket already uses for the frontend, or 0.
    #[inline(always)]
    pub(crate) fn used_before(self, reference: u32) -> u32 {
        let mut id = 0;
        let peers = self.lock();
        for i in 0..UDP_PEERS {
            if peers.peers[i].reference == reference {
                id = peers.peers[i].backend_id;
            }
        }
        self.unlock();
        id
    }

    /// Remembers a translation in place of the same frontend's, or else of the one unused for longest. `kept` was the backend's id
    /// when it was asked for, `id` is that of the new one. Another thread that was first in between has chosen for both: its
    /// backend takes the place of this one, whose record would take the name from the answer to the other.
    #[inline(always)]
    pub(crate) fn record(
        self,
        ctx: &Context,
        reference: u32,
        dialled: &Dialled,
        backend: &mut Peer,
        [kept, id]: [u32; 2],
    ) {
        let connected = if ctx.is_connected() { reverse_nat::connected_to(ctx) } else { 0 };
        let (address, port) = dialled.peer();
        let translator = config::clients();
        let peers = self.lock();
        // Older translations than the connection name nothing that is heard through it. A socket that connects to the
        // same address again, with another in between, is not told from one that stayed.
        if connected != 0 && peers.connected != connected {
            for i in 0..UDP_PEERS {
                peers.peers[i].reference = 0;
            }
        }
        peers.connected = connected;
        peers.translator = translator;
        peers.clock = peers.clock.wrapping_add(1);
        let chosen = oldest_or(peers, reference);
        if chosen < UDP_PEERS {
            let used = peers.clock;
            let peer = &mut peers.peers[chosen];
            if peer.reference == reference && peer.backend_id != kept {
                *backend = (peer.backend, peer.backend_port);
                peer.used = used;
            } else {
                *peer = UdpPeer {
                    frontend: address,
                    backend: backend.0,
                    frontend_port: port,
                    backend_port: backend.1,
                    reference,
                    backend_id: id,
                    used,
                };
            }
        }
        self.unlock();
    }

    /// The application has dialled this address itself: what comes from there bears its own name from now on.
    #[inline(always)]
    pub(crate) fn forget(self, peer: &Peer) {
        let translator = config::clients();
        let peers = self.lock();
        if peers.translator == translator {
            for i in 0..UDP_PEERS {
                if is_same(&peers.peers[i].backend, peers.peers[i].backend_port, peer) {
                    peers.peers[i].reference = 0;
                }
            }
        }
        self.unlock();
    }

    /// What the socket dialled last to reach `peer`.
    #[inline(always)]
    pub(crate) fn dialled(self, ctx: &Context, peer: &Peer) -> Option<Peer> {
        let is_connected = ctx.is_connected();
        let connected = if is_connected { reverse_nat::connected_to(ctx) } else { 0 };
        let mut youngest = u32::MAX;
        let mut name = ([0; 4], 0);
        let peers = self.lock();
        for i in 0..UDP_PEERS {
            let p = &peers.peers[i];
            let age = peers.clock.wrapping_sub(p.used);
            if p.reference != 0 && age < youngest && is_same(&p.backend, p.backend_port, peer) {
                youngest = age;
                name = (p.frontend, p.frontend_port);
            }
        }
        let outdated = is_connected && (peers.connected == 0 || peers.connected != connected);
        self.unlock();
        if youngest != u32::MAX && !outdated { Some(name) } else { None }
    }
}

#[inline(always)]
fn oldest_or(peers: &UdpPeers, reference: u32) -> usize {
    let mut chosen = 0;
    let mut oldest = 0;
    for i in 0..UDP_PEERS {
        let p = &peers.peers[i];
        // An empty one is older than any other.
        let age = if p.reference == 0 { u32::MAX } else { peers.clock.wrapping_sub(p.used) };
        if p.reference == reference {
            chosen = i;
            break;
        }
        if age > oldest {
            oldest = age;
            chosen = i;
        }
    }
    chosen
}
