//! The programs at the tunnel device: by pinned links, or by filters where the kernel has no links for devices.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::net::if_::if_nameindex;

use super::{
    Error,
    clsact::{self, Side},
    load::Programs,
};
use crate::sys::{self, tcx};

/// Pins by direction: a host has two devices at most, and a pin is of either.
const DIRECTIONS: [([&str; 2], u32); 2] =
    [(["ingress", "ingress2"], tcx::INGRESS), (["egress", "egress2"], tcx::EGRESS)];

/// The links.
pub(super) struct Links {
    directory: PathBuf,
    /// The kernel has not refused links yet.
    tcx: bool,
}

impl Links {
    pub(super) fn new(directory: PathBuf, tcx: bool) -> Self {
        Self { directory, tcx }
    }

    /// Makes both links lead from the device to the programs. Egress first: answers are translated before a packet is let in.
    pub(super) fn attach(&mut self, programs: &Programs, device: u32) -> Result<bool, Error> {
        let mut changed = false;
        for (names, direction) in DIRECTIONS.into_iter().rev() {
            changed |= self.attach_one(program(programs, direction), names, direction, device)?;
        }
        Ok(changed)
    }

    /// Whether both links are as they should be.
    pub(super) fn is_attached(&self, programs: &Programs, device: u32) -> Result<bool, Error> {
        for (names, direction) in DIRECTIONS {
            let id = program_id(program(programs, direction), device)?;
            let is_there = if self.tcx {
                self.find(names, direction, device)?.is_some_and(|(_, found)| found == id)
            } else {
                filter_id(direction, device)? == Some(id)
            };
            if !is_there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn attach_one(
        &mut self,
        program: BorrowedFd<'_>,
        names: [&str; 2],
        direction: u32,
        device: u32,
    ) -> Result<bool, Error> {
        let failed = |operation| move |source| Error::Attach { operation, device, source };
        if !self.tcx {
            return attach_filter(program, direction, device);
        }
        if let Some((link, id)) = self.find(names, direction, device)? {
            if id == program_id(program, device)? {
                return Ok(false);
            }
            sys::link_update(link.as_fd(), program).map_err(failed("replace"))?;
            return Ok(true);
        }
        let name = self.free(names)?;
        let link = match tcx::attach(program, device, direction) {
            // The attach type is unknown.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.tcx = false;
                return attach_filter(program, direction, device);
            }
            link => link.map_err(failed("attach"))?,
        };
        let path = self.directory.join(name);
        sys::obj_pin(link.as_fd(), &path).map_err(|source| Error::Directory {
            operation: "pin",
            path,
            source,
        })?;
        Ok(true)
    }

    /// The link of a device, and the program that it leads to.
    fn find(&self, names: [&str; 2], direction: u32, device: u32) -> Result<Option<(OwnedFd, u32)>, Error> {
        for name in names {
            let Some(link) = self.link(name)? else { continue };
            if let Ok((at, way, id)) = tcx::link(link.as_fd())
                && (at, way) == (device, direction)
            {
                return Ok(Some((link, id)));
            }
        }
        Ok(None)
    }

    /// A pin for a link of another device: one that there is not, or whose device is gone. Else the first, whose device is none of ours
    /// any more.
    fn free<'a>(&self, names: [&'a str; 2]) -> Result<&'a str, Error> {
        let [first, _] = names;
        let mut free = first;
        for name in names {
            let link = self.link(name)?.map(|link| tcx::link(link.as_fd()));
            if link.is_none_or(|link| link.map_or(true, |(at, ..)| at == 0)) {
                free = name;
                break;
            }
        }
        if self.link(free)?.is_some() {
            self.unpin(free)?;
        }
        Ok(free)
    }

    fn link(&self, name: &str) -> Result<Option<OwnedFd>, Error> {
        let path = self.directory.join(name);
        match sys::obj_get(&path) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Open { path, source }),
        }
    }

    fn unpin(&self, name: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        fs::remove_file(&path).map_err(|source| Error::Directory { operation: "remove", path, source })
    }
}

fn program(programs: &Programs, direction: u32) -> BorrowedFd<'_> {
    if direction == tcx::INGRESS { programs.ingress.as_fd() } else { programs.egress.as_fd() }
}

fn program_id(program: BorrowedFd<'_>, device: u32) -> Result<u32, Error> {
    let info = sys::prog_info(program);
    Ok(info.map_err(|source| Error::Attach { operation: "look for", device, source })?.id)
}

/// Puts a program in the place of our filter, unless it is there.
fn attach_filter(program: BorrowedFd<'_>, direction: u32, device: u32) -> Result<bool, Error> {
    if filter_id(direction, device)? == Some(program_id(program, device)?) {
        return Ok(false);
    }
    let attached = clsact::attach(device, side(direction), program);
    attached.map_err(|source| Error::Attach { operation: "attach", device, source })?;
    Ok(true)
}

/// The program of our filter.
fn filter_id(direction: u32, device: u32) -> Result<Option<u32>, Error> {
    let found = clsact::program(device, side(direction));
    found.map_err(|source| Error::Attach { operation: "look for", device, source })
}

fn side(direction: u32) -> Side {
    if direction == tcx::INGRESS { Side::Ingress } else { Side::Egress }
}

/// Takes our filters away from every device.
pub(super) fn detach_filters() -> Result<(), Error> {
    let failed = |device| move |source| Error::Attach { operation: "detach", device, source };
    let devices = if_nameindex().map_err(|errno| failed(0)(errno.into()))?;
    for device in devices.iter().map(|device| device.index()) {
        for side in [Side::Ingress, Side::Egress] {
            clsact::detach(device, side).map_err(failed(device))?;
        }
    }
    Ok(())
}

/// Ends the links of a directory at once; whatever else is there is left to its removal.
pub(super) fn detach_all(directory: &Path) {
    for name in DIRECTIONS.into_iter().flat_map(|(names, _)| names) {
        if let Ok(link) = sys::obj_get(&directory.join(name)) {
            // A link whose device is gone is detached already.
            sys::link_detach(link.as_fd()).ok();
        }
    }
}

/// What to do about a refusal of the kernel.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP) => {
            "; the kernel has neither tcx (Linux 6.6) nor the qdisc clsact with bpf filters (CONFIG_NET_SCH_INGRESS, \
             CONFIG_NET_CLS_BPF)"
        }
        Some(libc::EPERM) => "; the agent has to run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
        _ => "",
    }
}
