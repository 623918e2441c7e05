//! The helper's sockets and the calls on them.

use std::{
    collections::BTreeMap,
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::Priority},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    net::{
        self, AddressFamily, MMsgHdr, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags,
        SocketAddrAny, SocketFlags, SocketType, ipproto, sockopt,
    },
};

use super::{
    errno,
    protocol::{Connect, Kind, Message, Receive, Socket},
    uring,
};

/// Bounds every blocking call.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Open sockets by the number the test knows them by.
#[derive(Default)]
pub(super) struct Sockets {
    open: BTreeMap<Socket, OwnedFd>,
    next: u64,
}

impl Sockets {
    pub(super) fn open(&mut self, kind: Kind, bind: Option<SocketAddr>) -> Result<Socket, Errno> {
        let socket = create(kind)?;
        if let Some(address) = bind {
            net::bind(&socket, &address).map_err(errno)?;
        }
        Ok(self.add(socket))
    }

    pub(super) fn add(&mut self, descriptor: OwnedFd) -> Socket {
        self.next += 1;
        let socket = Socket(self.next);
        self.open.insert(socket, descriptor);
        socket
    }

    /// Adds a socket under a number that is known already.
    pub(super) fn keep(&mut self, socket: Socket, descriptor: OwnedFd) {
        self.open.insert(socket, descriptor);
    }

    pub(super) fn close(&mut self, socket: Socket) -> Result<(), Errno> {
        self.open.remove(&socket).map(drop).ok_or(Errno::EBADF)
    }

    pub(super) fn set_priority(&self, socket: Socket, value: u32) -> Result<(), Errno> {
        setsockopt(&self.get(socket)?, Priority, &value.cast_signed())
    }

    fn get(&self, socket: Socket) -> Result<BorrowedFd<'_>, Errno> {
        self.open.get(&socket).map(AsFd::as_fd).ok_or(Errno::EBADF)
    }

    /// A second descriptor of the same socket.
    pub(super) fn share(&self, socket: Socket) -> Result<OwnedFd, Errno> {
        self.get(socket)?.try_clone_to_owned().map_err(errno)
    }

    pub(super) fn connect(&self, socket: Socket, to: SocketAddr, how: Connect) -> Result<(), Errno> {
        match how {
            Connect::Blocking => net::connect(self.get(socket)?, &to).map_err(errno),
            Connect::NonBlocking => {
                let descriptor = self.get(socket)?;
                ioctl_fionbio(descriptor, true).map_err(errno)?;
                let result = connect_and_wait(descriptor, to);
                ioctl_fionbio(descriptor, false).map_err(errno)?;
                result
            }
            Connect::Uring => uring::connect(self.share(socket)?, to),
        }
    }

    pub(super) fn disconnect(&self, socket: Socket) -> Result<(), Errno> {
        net::connect_unspec(self.get(socket)?).map_err(errno)
    }

    pub(super) fn send(&self, socket: Socket, data: &str) -> Result<(), Errno> {
        net::send(self.get(socket)?, data.as_bytes(), SendFlags::NOSIGNAL).map(drop).map_err(errno)
    }

    pub(super) fn send_to(&self, socket: Socket, to: SocketAddr, data: &str) -> Result<(), Errno> {
        net::sendto(self.get(socket)?, data.as_bytes(), SendFlags::NOSIGNAL, &to).map(drop).map_err(errno)
    }

    /// Connects and sends in one call.
    pub(super) fn fast_open(&self, socket: Socket, to: SocketAddr, data: &str) -> Result<(), Errno> {
        /// `MSG_FASTOPEN` of the kernel's `include/linux/socket.h`.
        const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
        let flags = SendFlags::NOSIGNAL | FAST_OPEN;
        net::sendto(self.get(socket)?, data.as_bytes(), flags, &to).map(drop).map_err(errno)
    }

    pub(super) fn send_msg(&self, socket: Socket, to: Option<SocketAddr>, data: &str) -> Result<(), Errno> {
        let socket = self.get(socket)?;
        let parts = [IoSlice::new(data.as_bytes())];
        let mut control = SendAncillaryBuffer::default();
        match to {
            Some(to) => net::sendmsg_addr(socket, &to, &parts, &mut control, SendFlags::NOSIGNAL),
            None => net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL),
        }
        .map(drop)
        .map_err(errno)
    }

    /// How many of the messages one sendmmsg(2) sent.
    pub(super) fn send_mmsg(
        &self,
        socket: Socket,
        messages: &[(SocketAddr, String)],
    ) -> Result<usize, Errno> {
        let addresses: Vec<SocketAddrAny> = messages.iter().map(|(to, _)| (*to).into()).collect();
        let parts: Vec<[IoSlice<'_>; 1]> =
            messages.iter().map(|(_, data)| [IoSlice::new(data.as_bytes())]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            messages.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut headers: Vec<MMsgHdr<'_>> = addresses
            .iter()
            .zip(&parts)
            .zip(&mut controls)
            .map(|((address, parts), control)| MMsgHdr::new_with_addr(address, parts, control))
            .collect();
        net::sendmmsg(self.get(socket)?, &mut headers, SendFlags::NOSIGNAL).map_err(errno)
    }

    pub(super) fn receive(&self, socket: Socket, how: Receive, patience_ms: u64) -> Result<Message, Errno> {
        let socket = self.get(socket)?;
        let patience = Duration::from_millis(patience_ms);
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(patience)).map_err(errno)?;
        let mut buffer = [0; 4096];
        let (length, from) = match how {
            Receive::Recv => {
                let (length, _) = net::recv(socket, &mut buffer[..], RecvFlags::empty()).map_err(errno)?;
                (length, None)
            }
            Receive::RecvFrom => {
                let (length, _, from) =
                    net::recvfrom(socket, &mut buffer[..], RecvFlags::empty()).map_err(errno)?;
                (length, from)
            }
            Receive::RecvMsg => {
                let mut control = RecvAncillaryBuffer::default();
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let message =
                    net::recvmsg(socket, &mut parts, &mut control, RecvFlags::empty()).map_err(errno)?;
                (message.bytes, message.address)
            }
        };
        let data = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(Message { data, from: from.and_then(|from| from.try_into().ok()) })
    }

    pub(super) fn peer_name(&self, socket: Socket) -> Result<SocketAddr, Errno> {
        let name = net::getpeername(self.get(socket)?).map_err(errno)?;
        name.ok_or(Errno::ENOTCONN)?.try_into().map_err(errno)
    }

    pub(super) fn sock_name(&self, socket: Socket) -> Result<SocketAddr, Errno> {
        net::getsockname(self.get(socket)?).map_err(errno)?.try_into().map_err(errno)
    }
}

/// A blocking socket whose calls end within [`PATIENCE`].
pub(super) fn create(kind: Kind) -> Result<OwnedFd, Errno> {
    let family = match kind {
        Kind::Tcp4 | Kind::Udp4 | Kind::Mptcp4 | Kind::Icmp4 => AddressFamily::INET,
        Kind::Tcp6 | Kind::Udp6 | Kind::Mptcp6 | Kind::Icmp6 => AddressFamily::INET6,
    };
    let protocol = match kind {
        Kind::Mptcp4 | Kind::Mptcp6 => Some(ipproto::MPTCP),
        Kind::Icmp4 => Some(ipproto::ICMP),
        Kind::Icmp6 => Some(ipproto::ICMPV6),
        Kind::Tcp4 | Kind::Tcp6 | Kind::Udp4 | Kind::Udp6 => None,
    };
    let is_datagram = !kind.is_tcp();
    let kind = if is_datagram { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol).map_err(errno)?;
    if is_datagram {
        sockopt::set_socket_broadcast(&socket, true).map_err(errno)?;
    }
    for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(&socket, direction, Some(PATIENCE)).map_err(errno)?;
    }
    Ok(socket)
}

fn connect_and_wait(socket: BorrowedFd<'_>, to: SocketAddr) -> Result<(), Errno> {
    match net::connect(socket, &to) {
        Err(rustix::io::Errno::INPROGRESS) => {}
        result => return result.map_err(errno),
    }
    let patience = Timespec::try_from(PATIENCE).unwrap_or_default();
    let ready = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&patience)).map_err(errno)?;
    if ready == 0 {
        return Err(Errno::ETIMEDOUT);
    }
    sockopt::socket_error(socket).map_err(errno)?.map_err(errno)
}
