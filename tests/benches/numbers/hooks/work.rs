//! The calls themselves, made so that they cost the kernel as little as possible beside the hook.
//!
//! UDP sockets and addresses that are all local. connect(2) sends nothing. sendto(2) ends before the datagram is made
//! (`MSG_PROBE`), after the hook and the route. recvfrom(2) looks at one datagram again and again (`MSG_PEEK`).

use std::{
    array,
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketType, bind, connect, getpeername, getsockname,
    recvfrom, sendto, socket,
    sockopt::{Timeout, set_socket_timeout},
};

use super::cases::{Call, Case, SERVER, frontend};

/// Calls whose time is taken together: the clock's own cost is then below one nanosecond a call.
pub(super) const BATCH: usize = 64;
/// Calls before the first that counts.
pub(super) const WARM_UP: usize = 2_048;
/// Calls that count.
pub(super) const CALLS: usize = 4_096;
/// Sockets whose first connect and whose close count.
pub(super) const SOCKETS: usize = 4_096;
/// `MSG_PROBE` of the kernel's `include/linux/socket.h`: only the path is probed.
const PROBE: SendFlags = SendFlags::from_bits_retain(0x10);
/// No datagram takes so long.
const LOST: Duration = Duration::from_secs(2);

/// A call, ready to be made over and over.
pub(super) type Ready = Box<dyn FnMut()>;

/// Makes everything ready under the programs that are attached now. `targets` are those of a call with many.
///
/// # Panics
/// When the call is not translated as the case says.
pub(super) fn prepare(case: &Case, targets: &[SocketAddr]) -> Ready {
    match case.call {
        Call::Connect | Call::Connect6 => connecting(vec![case.target]),
        Call::ConnectRandom => connecting(targets.to_vec()),
        Call::ConnectNew => unreachable!("new sockets are measured by `new_sockets`"),
        Call::Send => sending(case.target),
        Call::Receive => receiving(if case.hit { reply() } else { question() }),
        Call::PeerName => naming(case.target),
    }
}

/// Nanoseconds per call in each batch.
pub(super) fn batches(call: &mut Ready, calls: usize) -> Vec<f64> {
    let batch = |_| {
        let start = Instant::now();
        for _ in 0..BATCH {
            call();
        }
        start.elapsed().as_nanos() as f64 / BATCH as f64
    };
    (0..calls / BATCH).map(batch).collect()
}

/// Nanoseconds per first connect and per close in each batch. The sockets of a batch are opened just before, as
/// applications do it, so that they lie in the CPU's caches.
pub(super) fn new_sockets(target: SocketAddr, count: usize) -> (Vec<f64>, Vec<f64>) {
    let per_call = |start: Instant| start.elapsed().as_nanos() as f64 / BATCH as f64;
    let batch = |_| {
        let sockets: [OwnedFd; BATCH] = array::from_fn(|_| udp(target));
        let start = Instant::now();
        for socket in &sockets {
            connect(socket, &target).expect("every address is local");
        }
        let connected = per_call(start);
        let start = Instant::now();
        drop(sockets);
        (connected, per_call(start))
    };
    (0..count / BATCH).map(batch).unzip()
}

/// Makes sure that a connect goes where the case says: a socket's own address is that of its peer where every address
/// is local. The second try is for a QoS limit of one, whose second may have begun just now.
///
/// # Panics
/// When it does not.
pub(super) fn check(case: &Case) {
    let goes = || {
        let socket = udp(case.target);
        connect(&socket, &case.target).expect("every address is local");
        let own = plain(getsockname(&socket).expect("it is connected"));
        (own.ip() != case.target.ip()) == case.hit
    };
    let connects = !matches!(case.call, Call::Send | Call::Receive);
    assert!(!connects || goes() || goes(), "{}: is connected to another address", case.name);
}

fn udp(to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket(family, SocketType::DGRAM, None).expect("a socket")
}

fn connecting(targets: Vec<SocketAddr>) -> Ready {
    let socket = udp(targets[0]);
    let mut next = 0;
    Box::new(move || {
        connect(&socket, &targets[next]).expect("every address is local");
        next = if next + 1 < targets.len() { next + 1 } else { 0 };
    })
}

fn sending(target: SocketAddr) -> Ready {
    let socket = udp(target);
    Box::new(move || {
        sendto(&socket, b"?", PROBE, &target).expect("every address is local");
    })
}

fn naming(target: SocketAddr) -> Ready {
    let socket = udp(target);
    connect(&socket, &target).expect("every address is local");
    let name = getpeername(&socket).expect("it is connected").map(plain);
    assert_eq!(name, Some(target), "getpeername tells what was dialled");
    Box::new(move || {
        getpeername(&socket).expect("it is connected");
    })
}

fn receiving(socket: OwnedFd) -> Ready {
    Box::new(move || {
        peek(&socket);
    })
}

/// Looks at the datagram of a socket and says from whom it is.
fn peek(socket: &OwnedFd) -> SocketAddr {
    let mut buffer = [0_u8; 8];
    let (_, _, from) = recvfrom(socket, &mut buffer, RecvFlags::PEEK).expect("a datagram is there");
    plain(from.expect("a datagram has a sender"))
}

/// A server's socket with a client's question in it.
fn question() -> OwnedFd {
    let (server, client) = (bound(SERVER), udp(SERVER));
    let address = plain(getsockname(&server).expect("it is bound"));
    sendto(&client, b"?", SendFlags::empty(), &address).expect("every address is local");
    peek(&server);
    server
}

/// A client's socket with a backend's answer to a question that went to a frontend.
fn reply() -> OwnedFd {
    let (front, back) = frontend(0);
    let (server, client) = (bound(back), udp(front));
    set_socket_timeout(&client, Timeout::Recv, Some(LOST)).expect("a socket");
    sendto(&client, b"?", SendFlags::empty(), &front).expect("every address is local");
    let asked_by = peek(&server);
    sendto(&server, b"!", SendFlags::empty(), &asked_by).expect("every address is local");
    assert_eq!(peek(&client), front, "the answer seems to come from the frontend");
    client
}

fn bound(address: SocketAddr) -> OwnedFd {
    let socket = udp(address);
    bind(&socket, &address).expect("the address is local");
    set_socket_timeout(&socket, Timeout::Recv, Some(LOST)).expect("a socket");
    socket
}

fn plain(address: SocketAddrAny) -> SocketAddr {
    address.try_into().expect("an address of IP")
}
