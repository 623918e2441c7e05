//! What a test and its socket helper say to each other: one JSON line each way.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    churn::{Churn, ChurnReport},
    shared::{Heard, Shared},
};

/// A socket of a helper. The number means nothing to another helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Socket(pub(crate) u64);

/// Family and protocol of a socket. The IPv6 kinds also take IPv4-mapped addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// Multipath TCP over IPv4.
    Mptcp4,
    /// Multipath TCP over IPv6.
    Mptcp6,
    /// ICMP echo over a datagram socket; the kernel must allow it (`ipv4/ping_group_range`).
    Icmp4,
    /// ICMPv6 echo over a datagram socket.
    Icmp6,
}

impl Kind {
    /// TCP of the address's family.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::Tcp4 } else { Self::Tcp6 }
    }

    /// UDP of the address's family.
    #[must_use]
    pub fn udp(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::Udp4 } else { Self::Udp6 }
    }

    pub(crate) fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6 | Self::Mptcp4 | Self::Mptcp6)
    }
}

/// How a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connect {
    /// connect(2) on a blocking socket, bounded by the socket's send time-out.
    Blocking,
    /// connect(2) on a non-blocking socket, then poll(2) until it is writable, then `SO_ERROR`.
    NonBlocking,
    /// `IORING_OP_CONNECT`; ENOSYS where the kernel has no io_uring or does not let us use it.
    Uring,
}

/// The call that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receive {
    /// recv(2): tells no sender.
    Recv,
    /// recvfrom(2).
    RecvFrom,
    /// recvmsg(2).
    RecvMsg,
}

/// What was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The content; empty at the end of a TCP stream.
    pub data: String,
    /// The sender, where the call tells it.
    pub from: Option<SocketAddr>,
}

/// One call for a helper to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub(crate) enum Request {
    Open {
        kind: Kind,
        bind: Option<SocketAddr>,
    },
    Close {
        socket: Socket,
    },
    Priority {
        socket: Socket,
        value: u32,
    },
    Connect {
        socket: Socket,
        to: SocketAddr,
        how: Connect,
    },
    Disconnect {
        socket: Socket,
    },
    Send {
        socket: Socket,
        data: String,
    },
    SendTo {
        socket: Socket,
        to: SocketAddr,
        data: String,
    },
    FastOpen {
        socket: Socket,
        to: SocketAddr,
        data: String,
    },
    SendMsg {
        socket: Socket,
        to: Option<SocketAddr>,
        data: String,
    },
    SendMmsg {
        socket: Socket,
        messages: Vec<(SocketAddr, String)>,
    },
    Receive {
        socket: Socket,
        how: Receive,
        patience_ms: u64,
    },
    PeerName {
        socket: Socket,
    },
    SockName {
        socket: Socket,
    },
    /// The request is answered by a child process that shares the socket.
    Fork {
        socket: Socket,
        request: Box<Request>,
    },
    PassSocket {
        socket: Socket,
        path: PathBuf,
    },
    TakeSocket {
        path: PathBuf,
    },
    HasUring,
    Share(Shared),
    StartChurn(Churn),
    EndChurn {
        stop: bool,
    },
}

/// A call's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Truth(bool),
    Count(usize),
    Socket(Socket),
    Address(SocketAddr),
    Message(Message),
    Heard(Vec<(Heard, u64)>),
    Churn(ChurnReport),
}

/// A result, or the errno of the call.
pub(crate) type Response = Result<Reply, i32>;
