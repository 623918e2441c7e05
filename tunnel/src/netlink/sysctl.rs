//! Variables below `/proc/sys/net`, in the network namespace of the calling thread.

use std::{fs, io};

use crate::plan::Sysctl;

/// Sets a variable that says something else; true when it was written.
pub(super) fn set(sysctl: &Sysctl) -> io::Result<bool> {
    let path = format!("/proc/sys/net/{}", sysctl.path);
    if fs::read_to_string(&path)?.trim() == sysctl.value {
        return Ok(false);
    }
    fs::write(path, sysctl.value)?;
    Ok(true)
}
