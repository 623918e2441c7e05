//! Typed access to `struct bpf_sock_addr`.
//!
//! The kernel rewrites each access into one to its own structures and allows only aligned accesses of whole
//! fields, hence volatile.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};

use crate::config;

/// The socket and address of one hook call.
pub(crate) struct Context(pub(crate) SockAddrContext);

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

impl Context {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.0.sock_addr
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

    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        field!(self, protocol) as u8
    }

    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        field!(self, user_port) as u16
    }

    #[inline(always)]
    pub(crate) fn ip4(&self) -> u32 {
        field!(self, user_ip4)
    }

    #[inline(always)]
    pub(crate) fn ip6(&self) -> [u32; 4] {
        [
            field!(self, user_ip6[0]),
            field!(self, user_ip6[1]),
            field!(self, user_ip6[2]),
            field!(self, user_ip6[3]),
        ]
    }

    #[inline(always)]
    pub(crate) fn set_port(&self, port: u16) {
        set_field!(self, u32::from(port), user_port);
    }

    #[inline(always)]
    pub(crate) fn set_ip4(&self, address: u32) {
        set_field!(self, address, user_ip4);
    }

    #[inline(always)]
    pub(crate) fn set_ip6(&self, address: &[u32; 4]) {
        set_field!(self, address[0], user_ip6[0]);
        set_field!(self, address[1], user_ip6[1]);
        set_field!(self, address[2], user_ip6[2]);
        set_field!(self, address[3], user_ip6[3]);
    }

    /// Whether the socket has a local port already: it was bound, connected or has sent before.
    #[inline(always)]
    pub(crate) fn was_used(&self) -> bool {
        // SAFETY: `sk` is a pointer field of the context, null-checked before use.
        let sk: *mut bpf_sock =
            unsafe { core::ptr::read_volatile(&raw const (*self.raw()).__bindgen_anon_1.sk) };
        if sk.is_null() {
            return true;
        }
        // SAFETY: checked above; `src_port` is readable in `struct bpf_sock`.
        unsafe { core::ptr::read_volatile(&raw const (*sk).src_port) != 0 }
    }

    /// The socket, `None` when the kernel gives none.
    #[inline(always)]
    fn socket(&self) -> Option<*mut bpf_sock> {
        // SAFETY: `sk` is a pointer field of the context.
        let sk: *mut bpf_sock =
            unsafe { core::ptr::read_volatile(&raw const (*self.raw()).__bindgen_anon_1.sk) };
        if sk.is_null() { None } else { Some(sk) }
    }

    /// The port that the socket is connected to, 0 when it is not connected.
    #[inline(always)]
    fn connected_port(&self) -> u16 {
        let Some(sk) = self.socket() else { return 0 };
        // SAFETY: not null; `dst_port` is readable and two bytes wide.
        unsafe { core::ptr::read_volatile((&raw const (*sk).dst_port).cast::<u16>()) }
    }

    /// Whether the socket is connected.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        self.connected_port() != 0
    }

    /// Whether the socket is connected to this very IPv4 address, as itself or mapped.
    #[inline(always)]
    pub(crate) fn is_connected_to4(&self, address: u32, port: u16) -> bool {
        let Some(sk) = self.socket() else { return false };
        // SAFETY: not null; `dst_ip4` is readable.
        self.connected_port() == port
            && unsafe { core::ptr::read_volatile(&raw const (*sk).dst_ip4) } == address
    }

    /// Whether the socket is connected to this very IPv6 address.
    #[inline(always)]
    pub(crate) fn is_connected_to6(&self, address: &[u32; 4], port: u16) -> bool {
        let Some(sk) = self.socket() else { return false };
        if self.connected_port() != port {
            return false;
        }
        for i in 0..4 {
            // SAFETY: not null; `dst_ip6` is readable.
            if unsafe { core::ptr::read_volatile(&raw const (*sk).dst_ip6[i]) } != address[i] {
                return false;
            }
        }
        true
    }
}
