//! Running a program of network devices once, on a frame from user space: `BPF_PROG_TEST_RUN`, Linux 4.12.

use std::{io, os::fd::BorrowedFd};

use super::{PROG_TEST_RUN, bpf, invalid, raw};

#[repr(C)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// What a program answered, and the frame as it left it.
///
/// # Errors
/// The kernel's: EINVAL for a frame without an Ethernet header, or of more than a page.
pub(crate) fn on_frame(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    let size = u32::try_from(frame.len()).map_err(|_error| invalid("the frame is too long"))?;
    let mut left = vec![0_u8; frame.len()];
    let mut attr = RunAttr {
        prog_fd: raw(program),
        retval: 0,
        data_size_in: size,
        data_size_out: size,
        data_in: frame.as_ptr() as u64,
        data_out: left.as_mut_ptr() as u64,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: both buffers have the announced sizes and outlive the call; the kernel writes no more than the second one holds.
    unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
    left.truncate(attr.data_size_out as usize);
    Ok((attr.retval, left))
}
