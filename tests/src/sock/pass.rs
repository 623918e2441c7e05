//! Passing a socket to another process over a unix socket (`SCM_RIGHTS`).

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use nix::errno::Errno;
use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};

use super::{errno, sockets::PATIENCE};
use crate::wait::wait_for;

/// Sends the socket to whoever receives at the path, waiting for it to listen there.
pub(super) fn send(socket: OwnedFd, path: &Path) -> Result<(), Errno> {
    let stream = wait_for(PATIENCE, || UnixStream::connect(path).ok());
    let descriptors = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    // Descriptors travel with at least one byte.
    sendmsg(&stream, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).map(drop).map_err(errno)
}

/// Listens at the path for one socket.
pub(super) fn receive(path: &Path) -> Result<OwnedFd, Errno> {
    let listener = UnixListener::bind(path).map_err(errno)?;
    listener.set_nonblocking(true).map_err(errno)?;
    let (stream, _) = wait_for(PATIENCE, || listener.accept().ok());
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(errno)?;
    let received = control.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message { descriptors.next() } else { None }
    });
    received.ok_or(Errno::ENOMSG)
}
