//! Cgroups by their id, wherever their directory is: open_by_handle_at(2).

#![allow(unsafe_code, reason = "open_by_handle_at(2) has no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// `FILEID_KERNFS` of `include/linux/exportfs.h`, kernel 5.5: the handle is the 64-bit id.
const FILEID_KERNFS: i32 = 0xfe;

/// `struct file_handle` with the one payload that is used here.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: u64,
}

/// Opens the cgroup of an id. `any` is a directory of the same hierarchy; the cgroup need not lie below it, nor be visible
/// in the caller's cgroup namespace.
///
/// # Errors
/// The kernel's: ESTALE when no cgroup has the id, also when it was removed and a socket still holds it; EPERM without
/// `CAP_DAC_READ_SEARCH`.
pub fn open_cgroup(any: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let mut handle = Handle { bytes: size_of::<u64>() as u32, kind: FILEID_KERNFS, id };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle has the form and the announced size of `struct file_handle` and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, any.as_raw_fd(), &raw mut handle, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
