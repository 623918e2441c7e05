//! Requests and their answers: dumps, single changes, and many changes at once.

use std::io;

use futures::{StreamExt, stream};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::{
    Handle, new_connection_with_strict_check,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    sys::AsyncSocket,
};

use super::Error;

/// Requests that wait for their answers at the same time.
const IN_FLIGHT: usize = 1024;
/// Holds the answers of all of them, which the kernel would drop otherwise.
pub(super) const RECEIVE_BUFFER: usize = 8 << 20;
/// A dump during which something changed is made again, this often.
const DUMPS: usize = 4;
/// `NLM_F_DUMP_INTR`.
const INTERRUPTED: u16 = 0x10;

/// How a change treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It must not be there.
    Create,
    /// It is made or replaced.
    Set,
    /// It must be there.
    Change,
}

/// A change of the kernel's state.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) message: RouteNetlinkMessage,
    pub(super) mode: Mode,
}

/// The socket for requests.
#[derive(Clone, Debug)]
pub(super) struct Requests(Handle);

impl Requests {
    pub(super) fn open() -> io::Result<Self> {
        let (mut connection, handle, _unsolicited) = new_connection_with_strict_check()?;
        let socket = connection.socket_mut().socket_mut();
        widen(socket)?;
        // Answers need not repeat the question.
        socket.set_cap_ack(true)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// What a dump tells, by what a function finds in each message. Taken as it comes: a message is many times as large.
    pub(super) async fn dump<T>(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        find: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 1..DUMPS {
            let (found, complete) = self.dump_once(what, message.clone(), &find).await?;
            if complete {
                return Ok(found);
            }
        }
        // Something changes all the time; what is missed comes with the next event.
        Ok(self.dump_once(what, message, &find).await?.0)
    }

    async fn dump_once<T>(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        find: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<(Vec<T>, bool), Error> {
        let mut answers = self.request(message, NLM_F_DUMP)?;
        let (mut found, mut complete) = (Vec::new(), true);
        while let Some(answer) = answers.next().await {
            complete &= answer.header.flags & INTERRUPTED == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => found.extend(find(inner)),
                NetlinkPayload::Error(error) => {
                    return Err(refused(format!("list {what}"), error.to_io()));
                }
                NetlinkPayload::Overrun(_) => return Err(Error::TimedOut),
                _ => {}
            }
        }
        Ok((found, complete))
    }

    /// One change.
    pub(super) async fn write(&self, write: Write) -> Result<(), io::Error> {
        let flags = match write.mode {
            Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
            Mode::Set => NLM_F_CREATE | NLM_F_REPLACE,
            Mode::Change => 0,
        };
        let mut answers = self.request(write.message, NLM_F_ACK | flags).map_err(io::Error::other)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Overrun(_) => return Err(io::ErrorKind::Interrupted.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Many changes whose order does not matter; those that failed come back by their place.
    pub(super) async fn write_all(&self, writes: impl Iterator<Item = Write>) -> Vec<(usize, io::Error)> {
        stream::iter(writes.enumerate())
            .map(async |(place, write)| self.write(write).await.err().map(|error| (place, error)))
            .buffer_unordered(IN_FLIGHT)
            .filter_map(async |failure| failure)
            .collect()
            .await
    }

    fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl futures::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin + use<>, Error> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        self.0.clone().request(message).map(Box::pin).map_err(|_closed| Error::Gone)
    }
}

/// Makes room for what the kernel sends while we are busy.
pub(super) fn widen(socket: &rtnetlink::sys::Socket) -> io::Result<()> {
    // Beyond the limit of `net.core.rmem_max` where we may, up to it otherwise.
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER))
        .map_err(io::Error::from)
}

/// A refusal, with what to do where that is known.
pub(super) fn refused(what: String, cause: io::Error) -> Error {
    let remedy = match cause.kind() {
        io::ErrorKind::PermissionDenied => ": run as root, or with CAP_NET_ADMIN",
        io::ErrorKind::AddrInUse => {
            ": another program or device has the UDP port: stop it or give it another one, or create a TunnelFabric with another \
             spec.vxlan.port and delete this one"
        }
        io::ErrorKind::Unsupported => ": the kernel needs CONFIG_VXLAN",
        _ => "",
    };
    Error::Refused { what, cause, remedy }
}
