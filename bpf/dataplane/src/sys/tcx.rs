//! Programs on network devices by links: tcx, Linux 6.6.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::{LINK_CREATE, LinkAttr, ObjectKind, bpf_fd, info, invalid, raw, word};

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
pub(crate) const INGRESS: u32 = 46;
pub(crate) const EGRESS: u32 = 47;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;

/// Attaches a program behind those that a device has. The attachment ends with the last descriptor and pin.
///
/// # Errors
/// The kernel's: EINVAL before Linux 6.6, ENODEV without the device.
pub(crate) fn attach(program: BorrowedFd<'_>, device: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr { first_fd: raw(program), second_fd: device, third: attach_type, fourth: 0 };
    // SAFETY: the attribute holds no pointer, and a successful LINK_CREATE returns a descriptor nobody else owns.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

/// Where a link is attached, and the id of its program: device, 0 once that is gone, and attach type.
///
/// # Errors
/// `InvalidData` when the object is anything else.
pub(crate) fn link(link: BorrowedFd<'_>) -> io::Result<(u32, u32, u32)> {
    let info = info(link, ObjectKind::Link)?;
    if word(&info, 0) != LINK_TYPE_TCX {
        return Err(invalid("the link is not attached to a network device"));
    }
    Ok((word(&info, 16), word(&info, 20), word(&info, 8)))
}
