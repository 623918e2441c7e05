//! Programs at a device by filters, for kernels before Linux 6.6: the qdisc `clsact` and the classifier `bpf`, over rtnetlink.
//!
//! A filter belongs to the device and not to a file descriptor, so it outlives the agent without a pin. Ours has a place of its own
//! (priority and handle) and a name; putting it there replaces what is there in one step.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Our place among the filters of a device.
const PRIORITY: u32 = 7710;
const HANDLE: u32 = 1;
const NAME: &[u8] = b"balancing-proxy\0";

const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
/// `NLMSG_ERROR`, which is also the answer of success.
const ANSWER: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// `TCA_KIND`, `TCA_OPTIONS`
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_BPF_*`
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
/// The program's answer is the verdict.
const DIRECT: u32 = 1;

/// `TC_H_CLSACT`, and its handle.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

/// Bytes of `nlmsghdr` and `tcmsg`, behind which attributes begin.
const HEADER: usize = 36;

/// A place of filters at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Side {
    Ingress = 0xffff_fff2,
    Egress = 0xffff_fff3,
}

/// Puts a program there.
pub(super) fn attach(device: u32, side: Side, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut qdisc =
        Message::new(NEW_QDISC, ACKNOWLEDGE | CREATE | EXCLUSIVE, [device, CLSACT_HANDLE, CLSACT, 0]);
    qdisc.attribute(KIND, b"clsact\0");
    match qdisc.ask() {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        made => _ = made?,
    }
    let mut filter = Message::filter(NEW_FILTER, ACKNOWLEDGE | CREATE, device, side);
    filter.attribute(KIND, b"bpf\0");
    let options = filter.begin(OPTIONS);
    filter.attribute(BPF_FD, &program.as_raw_fd().to_ne_bytes());
    filter.attribute(BPF_NAME, NAME);
    filter.attribute(BPF_FLAGS, &DIRECT.to_ne_bytes());
    filter.end(options);
    filter.ask().map(drop)
}

/// The id of the program that works there, if it is one of ours.
pub(super) fn program(device: u32, side: Side) -> io::Result<Option<u32>> {
    let answer = match Message::filter(GET_FILTER, 0, device, side).ask() {
        // Neither the filter nor, where nobody has put one, the qdisc; or the device is gone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => {
            return Ok(None);
        }
        answer => answer?,
    };
    let Some(options) = answer.get(HEADER..).and_then(|attributes| find(attributes, OPTIONS)) else {
        return Ok(None);
    };
    if find(options, BPF_NAME) != Some(NAME) {
        return Ok(None);
    }
    let id = find(options, BPF_ID).and_then(|id| id.try_into().ok());
    Ok(id.map(u32::from_ne_bytes))
}

/// Takes our program away. The qdisc stays: others may use it.
pub(super) fn detach(device: u32, side: Side) -> io::Result<()> {
    if program(device, side)?.is_none() {
        return Ok(());
    }
    Message::filter(DELETE_FILTER, ACKNOWLEDGE, device, side).ask().map(drop)
}

/// A request.
struct Message(Vec<u8>);

impl Message {
    /// A request with `tcmsg`: device, handle, parent, info.
    fn new(kind: u16, flags: u16, words: [u32; 4]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        // Number and sender, and the family.
        bytes.extend([0; 12]);
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        Self(bytes)
    }

    /// A request about our filter.
    fn filter(kind: u16, flags: u16, device: u32, side: Side) -> Self {
        let every_protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
        Self::new(kind, flags, [device, HANDLE, side as u32, PRIORITY << 16 | every_protocol])
    }

    fn begin(&mut self, kind: u16) -> usize {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        at
    }

    /// Notes the length of what began, and fills up to a word.
    fn end(&mut self, at: usize) {
        let length = (self.0.len() - at) as u16;
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let at = self.begin(kind);
        self.0.extend(value);
        self.end(at);
    }

    /// Sends it; the answer.
    fn ask(mut self) -> io::Result<Vec<u8>> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let socket: OwnedFd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        send(socket.as_raw_fd(), &self.0, MsgFlags::empty())?;
        let mut answer = vec![0; 8192];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        let word = |at: usize| {
            answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes)
        };
        match (answer.get(4..6), word(16)) {
            (Some(kind), Some(code)) if kind == ANSWER.to_ne_bytes() && code != 0 => {
                Err(io::Error::from_raw_os_error(-code))
            }
            (Some(_), Some(_)) => Ok(answer),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is too short")),
        }
    }
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let word = |at: usize| attributes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        let (length, kind) = (usize::from(word(0)?), word(2)? & 0x3fff);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_nonsense_is_none() {
        let mut message = Message::new(NEW_FILTER, 0, [1, 2, 3, 4]);
        message.attribute(KIND, b"bpf\0");
        let options = message.begin(OPTIONS);
        message.attribute(BPF_NAME, b"odd\0\0");
        message.attribute(BPF_ID, &7_u32.to_ne_bytes());
        message.end(options);
        let bytes = &message.0[HEADER..];
        assert_eq!(find(bytes, KIND), Some(&b"bpf\0"[..]));
        let options = find(bytes, OPTIONS).unwrap();
        assert_eq!(find(options, BPF_NAME), Some(&b"odd\0\0"[..]));
        assert_eq!(find(options, BPF_ID), Some(&7_u32.to_ne_bytes()[..]));
        assert_eq!(find(options, BPF_FD), None);
        for length in 0..bytes.len() {
            find(&bytes[..length], BPF_ID);
        }
        assert_eq!(find(&[0; 8], 1), None);
    }
}
