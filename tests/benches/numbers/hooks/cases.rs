//! What is measured: the calls, what is attached meanwhile, and where they go.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
};

use crate::plane::{Hook, Plane, Terms};

/// Frontends of the large table.
pub(crate) const FRONTENDS: u32 = 60_000;

/// An address that is no frontend.
pub(super) const MISS: SocketAddr = v4([10, 9, 9, 9], 53);
/// The same in IPv6.
pub(super) const MISS6: SocketAddr = v6(0x9, 53);
/// Where servers of their own are, on any port: neither frontend nor backend.
pub(super) const SERVER: SocketAddr = v4([10, 9, 9, 10], 0);
const TEN: SocketAddr = v4([10, 1, 1, 1], 53);
const AFFINE: SocketAddr = v4([10, 1, 1, 2], 53);
const ROOMY: SocketAddr = v4([10, 1, 1, 3], 53);
const EXHAUSTED: SocketAddr = v4([10, 1, 1, 4], 53);
const SIX: SocketAddr = v6(0xf, 53);
const SIX_BACKEND: SocketAddr = v6(0xb, 5353);
/// Seconds of affinity: longer than a bench.
const AFFINITY: u32 = 10_800;

/// A call that is made over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    /// connect(2) of one UDP socket.
    Connect,
    /// The same in IPv6.
    Connect6,
    /// The same, each time to another of 60,000 addresses.
    ConnectRandom,
    /// The first connect(2) of a UDP socket, and its close(2).
    ConnectNew,
    /// sendto(2) on an unconnected UDP socket.
    Send,
    /// recvfrom(2) on an unconnected UDP socket.
    Receive,
    /// getpeername(2) of a connected UDP socket.
    PeerName,
}

/// What is attached to the cgroup of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Programs {
    /// Nothing.
    None,
    /// The empty program, on the very hook of the call.
    Empty,
    /// Ours, on all hooks.
    Pod,
    /// The same, and the host's at the cgroup above.
    PodAndRoot,
    /// Ours with tables of one frontend.
    OneFrontend,
}

/// One thing to measure, against no program and the empty program with the same call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) call: Call,
    pub(super) programs: Programs,
    pub(super) target: SocketAddr,
    /// Whether the call is translated.
    pub(super) hit: bool,
    /// The bound, as a multiple of what the empty program costs.
    pub(super) bound: Option<f64>,
}

/// The names that figures between cases refer to.
pub(super) mod name {
    pub(crate) const HIT: &str = "connect: hit";
    pub(crate) const ONE_FRONTEND: &str = "connect: hit, 1 frontend in the table";
    pub(crate) const NEW_HIT: &str = "first connect of a socket: hit";
    pub(crate) const NEW_MISS: &str = "first connect of a socket: miss";
}

impl Call {
    pub(super) const ALL: [Self; 7] = [
        Self::Connect,
        Self::Connect6,
        Self::ConnectRandom,
        Self::ConnectNew,
        Self::Send,
        Self::Receive,
        Self::PeerName,
    ];

    /// Where the kernel asks a program.
    pub(super) fn hook(self) -> Hook {
        match self {
            Self::Connect | Self::ConnectRandom | Self::ConnectNew => Hook::Connect4,
            Self::Connect6 => Hook::Connect6,
            Self::Send => Hook::Sendmsg4,
            Self::Receive => Hook::Recvmsg4,
            Self::PeerName => Hook::Getpeername4,
        }
    }

    /// Its name in the report.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Connect6 => "connect, IPv6",
            Self::ConnectRandom => "connect, random of 60,000 addresses",
            Self::ConnectNew => "first connect of a socket",
            Self::Send => "sendto",
            Self::Receive => "recvfrom",
            Self::PeerName => "getpeername",
        }
    }

    /// The call without a program of ours.
    pub(super) fn base(self, programs: Programs) -> Case {
        let target = match self {
            Self::Connect6 => MISS6,
            Self::ConnectRandom => frontend(0).0,
            _ => MISS,
        };
        Case { name: self.title(), call: self, programs, target, hit: false, bound: None }
    }
}

/// Every case.
pub(super) fn all() -> Vec<Case> {
    use Call::{Connect, Connect6, ConnectNew, ConnectRandom, PeerName, Receive, Send};
    use Programs::{OneFrontend, Pod, PodAndRoot};
    let first = frontend(0).0;
    let case = |name, call, programs, target, hit, bound| Case { name, call, programs, target, hit, bound };
    vec![
        case("connect: miss", Connect, Pod, MISS, false, Some(1.15)),
        case(name::HIT, Connect, Pod, first, true, Some(1.35)),
        case("connect: hit among 10 backends", Connect, Pod, TEN, true, Some(1.45)),
        case("connect: hit, host's programs at the root as well", Connect, PodAndRoot, first, true, None),
        case(name::ONE_FRONTEND, Connect, OneFrontend, first, true, None),
        case("connect: hit, ClientIP affinity among 10 backends", Connect, Pod, AFFINE, true, None),
        case("connect: hit, below its QoS limit", Connect, Pod, ROOMY, true, None),
        case("connect: beyond its QoS limit", Connect, Pod, EXHAUSTED, false, None),
        case("connect: hit, random of 60,000 frontends", ConnectRandom, Pod, first, true, Some(2.5)),
        case("connect, IPv6: miss", Connect6, Pod, MISS6, false, Some(1.15)),
        case("connect, IPv6: hit", Connect6, Pod, SIX, true, Some(1.35)),
        case(name::NEW_MISS, ConnectNew, Pod, MISS, false, None),
        case(name::NEW_HIT, ConnectNew, Pod, first, true, Some(1.6)),
        case("sendto: miss", Send, Pod, MISS, false, Some(1.15)),
        case("sendto: hit", Send, Pod, first, true, None),
        case("recvfrom: a server's socket, none of ours", Receive, Pod, MISS, false, Some(1.15)),
        case("recvfrom: a backend's reply", Receive, Pod, first, true, None),
        case("getpeername: socket that was not redirected", PeerName, Pod, MISS, false, None),
        case("getpeername: socket that was redirected", PeerName, Pod, first, true, None),
    ]
}

/// The i-th frontend and its backend.
pub(super) fn frontend(i: u32) -> (SocketAddr, SocketAddr) {
    let [front, back] = [0x0a60_0000, 0x0af4_0000].map(|base| IpAddr::V4(Ipv4Addr::from_bits(base + i)));
    (SocketAddr::new(front, 53), SocketAddr::new(back, 5353))
}

/// Addresses of IPv6 that the network needs; all of 10.0.0.0/8 is local anyway.
pub(super) fn addresses6() -> [IpAddr; 3] {
    [MISS6, SIX, SIX_BACKEND].map(|address| address.ip())
}

/// 60,000 frontends with one backend each.
pub(crate) fn fill(plane: &mut Plane) {
    for i in 0..FRONTENDS {
        let (front, back) = frontend(i);
        plane.redirect(1, front, &[back], Terms::default());
    }
}

/// The first of them alone.
pub(super) fn fill_one(plane: &mut Plane) {
    let (front, back) = frontend(0);
    plane.redirect(1, front, &[back], Terms::default());
}

/// The frontends that are not like the many.
pub(super) fn fill_special(plane: &mut Plane) {
    let ten: Vec<SocketAddr> = (0..10).map(|i| v4([10, 2, 2, i], 5353)).collect();
    let lone = [v4([10, 2, 3, 1], 5353)];
    let affine = Terms { affinity: NonZeroU32::new(AFFINITY), ..Terms::default() };
    let limit = |limit| Terms { qos_limit: NonZeroU32::new(limit), ..Terms::default() };
    plane.redirect(2, TEN, &ten, Terms::default());
    plane.redirect(3, AFFINE, &ten, affine);
    plane.redirect(4, ROOMY, &lone, limit(u32::MAX));
    plane.redirect(5, EXHAUSTED, &lone, limit(1));
    plane.redirect(6, SIX, &[SIX_BACKEND], Terms::default());
}

const fn v4([a, b, c, d]: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

const fn v6(net: u16, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, 1)), port)
}
