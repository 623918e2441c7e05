//! Typed access to `struct bpf_sock_addr`.
//!
//! The kernel rewrites each access into one to its own structures and allows only aligned accesses of whole
//! fields, hence volatile.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use balancing_abi::{
    mapped,
    sockets::{OWN_PRIORITY, index::pair},
};

use crate::config;

/// The socket and address of one hook call.
pub(crate) struct Context(pub(crate) SockAddrContext);

/// Address and port, dialled or resolved.
pub(crate) type Peer = ([u32; 4], u16);

/// The address of a call: what an application dials, or hears from.
pub(crate) struct Dialled {
    pub(crate) address: [u32; 4],
    pub(crate) port: u16,
    pub(crate) protocol: u32,
}

impl Dialled {
    #[inline(always)]
    pub(crate) fn peer(&self) -> Peer {
        (self.address, self.port)
    }
}

/// How a hook names addresses.
pub(crate) trait Family {
    /// The address of the call.
    fn address(ctx: &Context) -> [u32; 4];
    /// Changes it.
    fn set_address(ctx: &Context, address: &[u32; 4]);
    /// The address that the socket is connected to.
    fn connected_to(sk: *mut bpf_sock) -> [u32; 4];
}

/// The hooks for IPv4.
pub(crate) struct V4;
/// The hooks for IPv6.
pub(crate) struct V6;

macro_rules! field {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the kernel passes a valid context; the field is one that sock_addr programs may read.
        unsafe { core::ptr::read_volatile(&raw const (*$ctx.raw()).$($field)+) }
    };
}

macro_rules! set_field {
    ($ctx:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as for reading; the address fields are writable in every hook that is ours.
        unsafe { core::ptr::write_volatile(&raw mut (*$ctx.raw()).$($field)+, $value) }
    };
}

macro_rules! sock_field {
    ($sk:expr, $($field:tt)+) => {
        // SAFETY: not null; the field is one that programs may read.
        unsafe { core::ptr::read_volatile(&raw const (*$sk).$($field)+) }
    };
}

impl Family for V4 {
    #[inline(always)]
    fn address(ctx: &Context) -> [u32; 4] {
        mapped(field!(ctx, user_ip4))
    }
    #[inline(always)]
    fn set_address(ctx: &Context, address: &[u32; 4]) {
        set_field!(ctx, address[3], user_ip4);
    }
    #[inline(always)]
    fn connected_to(sk: *mut bpf_sock) -> [u32; 4] {
        mapped(sock_field!(sk, dst_ip4))
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(ctx: &Context) -> [u32; 4] {
        let [low, high] = [0, 1].map(|half| {
            // SAFETY: as for other fields. Two words lie at a multiple of 8, and may be read as one (since 5.3).
            unsafe { ctx.user_ip6().add(half).read_volatile() }
        });
        [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32]
    }
    #[inline(always)]
    fn set_address(ctx: &Context, address: &[u32; 4]) {
        // SAFETY: as above, and may be written so, too.
        unsafe {
            ctx.user_ip6().write_volatile(pair(address[0], address[1]));
            ctx.user_ip6().add(1).write_volatile(pair(address[2], address[3]));
        }
    }
    #[inline(always)]
    fn connected_to(sk: *mut bpf_sock) -> [u32; 4] {
        [
            sock_field!(sk, dst_ip6[0]),
            sock_field!(sk, dst_ip6[1]),
            sock_field!(sk, dst_ip6[2]),
            sock_field!(sk, dst_ip6[3]),
        ]
    }
}

impl Context {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.0.sock_addr
    }

    /// The address of the call in IPv6: two words each.
    #[inline(always)]
    fn user_ip6(&self) -> *mut u64 {
        // SAFETY: only an address within the context.
        unsafe { (&raw mut (*self.raw()).user_ip6).cast() }
    }

    /// Whether the program has nothing to do with the socket's network namespace.
    #[inline(always)]
    pub(crate) fn is_foreign(&self) -> bool {
        if !config::host_only() {
            return false;
        }
        let mut host = config::host_netns();
        if host == 0 {
            // SAFETY: a null context asks for the cookie of the first network namespace.
            host = unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) };
        }
        self.netns() != host
    }

    #[inline(always)]
    pub(crate) fn netns(&self) -> u64 {
        // SAFETY: the context is the hook's own.
        unsafe { bpf_get_netns_cookie(self.raw().cast()) }
    }

    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: the context is the hook's own.
        unsafe { bpf_get_socket_cookie(self.raw().cast()) }
    }

    /// The address of the call with the socket's protocol. The whole number, so that `IPPROTO_MPTCP` is none of ours.
    #[inline(always)]
    pub(crate) fn dialled<F: Family>(&self) -> Dialled {
        Dialled {
            address: F::address(self),
            port: field!(self, user_port) as u16,
            protocol: field!(self, protocol),
        }
    }

    /// Changes the address of the call.
    #[inline(always)]
    pub(crate) fn set_peer<F: Family>(&self, peer: &Peer) {
        F::set_address(self, &peer.0);
        set_field!(self, u32::from(peer.1), user_port);
    }

    /// The socket, `None` when the kernel gives none.
    #[inline(always)]
    fn socket(&self) -> Option<*mut bpf_sock> {
        // SAFETY: `sk` is a pointer field of the context.
        let sk: *mut bpf_sock =
            unsafe { core::ptr::read_volatile(&raw const (*self.raw()).__bindgen_anon_1.sk) };
        if sk.is_null() { None } else { Some(sk) }
    }

    /// Whether the agent is connecting to its API server.
    #[inline(always)]
    pub(crate) fn is_own(&self) -> bool {
        let Some(sk) = self.socket() else { return false };
        sock_field!(sk, priority) == OWN_PRIORITY
    }

    /// Whether the socket is connected.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        let Some(sk) = self.socket() else { return false };
        connected_port(sk) != 0
    }

    /// Where the socket is connected to, `None` when it is not.
    #[inline(always)]
    pub(crate) fn connected_to<F: Family>(&self) -> Option<Peer> {
        let sk = self.socket()?;
        let port = connected_port(sk);
        if port == 0 { None } else { Some((F::connected_to(sk), port)) }
    }
}

/// The port that a socket is connected to, 0 when it is not connected.
#[inline(always)]
fn connected_port(sk: *mut bpf_sock) -> u16 {
    // SAFETY: not null; `dst_port` is readable and two bytes wide.
    unsafe { core::ptr::read_volatile((&raw const (*sk).dst_port).cast::<u16>()) }
}
