//! Attaching: a new directory is built aside and published by one rename; an existing one is mended.
//!
//! A caller that is killed at any instruction leaves a directory that the next call completes, or a
//! temporary one that the next call or a sweep removes.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
};

use nix::errno::Errno;

use super::{Error, LinkState, Programs, discard, io_error, open_link, temporary_of};
use crate::{cgroup::CgroupDir, layout::Hook, sys};

/// What [`attach`] did to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The link was right.
    Kept,
    /// There was none.
    Added,
    /// The link got another program, atomically and in its place.
    Updated,
    /// The link was dead or belonged to another cgroup and was made anew.
    Recreated,
}

/// Makes `dir` hold one link per hook that runs `programs` on `cgroup`, whatever it holds now.
///
/// The caller holds the [`super::PodLock`] of a pod's directory.
///
/// # Errors
/// Every kind of [`Error`] but [`Error::Locked`]. After an error nothing is attached by a directory that
/// did not exist; an existing one keeps what it had, and the next call goes on.
pub fn attach(programs: &Programs, cgroup: &CgroupDir, dir: &Path) -> Result<BTreeMap<Hook, Change>, Error> {
    match fs::symlink_metadata(dir) {
        Ok(found) if found.is_dir() => ensure(programs, cgroup, dir),
        Ok(_) => Err(Error::Foreign { path: dir.to_owned(), expected: "a link directory" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => publish(programs, cgroup, dir),
        Err(source) => Err(io_error("examine", dir)(source)),
    }
}

/// Builds all links in the temporary sibling and renames it.
fn publish(programs: &Programs, cgroup: &CgroupDir, dir: &Path) -> Result<BTreeMap<Hook, Change>, Error> {
    let temporary = temporary_of(dir)?;
    discard(&temporary)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&temporary)
        .map_err(io_error("make the directory", &temporary))?;
    let built = build(programs, cgroup, &temporary).and_then(|changes| {
        fs::rename(&temporary, dir).map_err(io_error("publish the links of", dir)).map(|()| changes)
    });
    if built.is_err() {
        // The first error tells the reason; what stays here is removed by the next call or a sweep.
        drop(discard(&temporary));
    }
    built
}

fn build(programs: &Programs, cgroup: &CgroupDir, dir: &Path) -> Result<BTreeMap<Hook, Change>, Error> {
    programs
        .iter()
        .map(|(hook, program, _)| create(hook, program, cgroup, dir).map(|()| (hook, Change::Added)))
        .collect()
}

/// Compares each link with what is wanted and changes what differs.
fn ensure(programs: &Programs, cgroup: &CgroupDir, dir: &Path) -> Result<BTreeMap<Hook, Change>, Error> {
    // An interrupted removal of the same directory still has its links attached.
    discard(&temporary_of(dir)?)?;
    programs
        .iter()
        .map(|(hook, program, id)| {
            let change = match open_link(dir, hook)? {
                None => create(hook, program, cgroup, dir).map(|()| Change::Added),
                Some((_, state)) if state == (LinkState { prog_id: id, cgroup_id: cgroup.id() }) => {
                    Ok(Change::Kept)
                }
                Some((link, state)) if state.cgroup_id == cgroup.id() => {
                    update(hook, link.as_fd(), program, cgroup, dir)
                }
                Some(_) => recreate(hook, program, cgroup, dir),
            };
            change.map(|change| (hook, change))
        })
        .collect()
}

fn update(
    hook: Hook,
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    cgroup: &CgroupDir,
    dir: &Path,
) -> Result<Change, Error> {
    match sys::link_update(link, program) {
        Ok(()) => Ok(Change::Updated),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => recreate(hook, program, cgroup, dir),
        Err(source) => Err(io_error("update the link", &dir.join(hook.name()))(source)),
    }
}

/// Replaces a link of no use here: dead, or of a cgroup that had the path before.
fn recreate(hook: Hook, program: BorrowedFd<'_>, cgroup: &CgroupDir, dir: &Path) -> Result<Change, Error> {
    let path = dir.join(hook.name());
    fs::remove_file(&path).map_err(io_error("unpin", &path))?;
    create(hook, program, cgroup, dir).map(|()| Change::Recreated)
}

/// Attaches and pins. Until the pin exists the attachment ends with this process.
fn create(hook: Hook, program: BorrowedFd<'_>, cgroup: &CgroupDir, dir: &Path) -> Result<(), Error> {
    let link = sys::link_create(program, cgroup.as_fd(), hook.attach_type())
        .map_err(|source| refused(hook, cgroup, source))?;
    let path = dir.join(hook.name());
    sys::obj_pin(link.as_fd(), &path).map_err(io_error("pin the link", &path))
}

/// Gives a refused LINK_CREATE its meaning.
fn refused(hook: Hook, cgroup: &CgroupDir, source: io::Error) -> Error {
    let path = cgroup.path().to_owned();
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => match exclusive_holder(hook, cgroup) {
            Some(holder) => Error::Exclusive { hook: hook.name(), cgroup: path, holder },
            None => Error::Io { operation: "attach to", path, source },
        },
        Some(Errno::E2BIG) => Error::TooMany { hook: hook.name(), cgroup: path },
        Some(Errno::ENOENT | Errno::ENODEV) => Error::CgroupGone { cgroup: path },
        Some(Errno::EINVAL) => Error::Unsupported { hook: hook.name(), source },
        _ => Error::Io { operation: "attach to", path, source },
    }
}

/// The nearest cgroup, from this one upwards, whose program tolerates no other: attached with flags 0.
fn exclusive_holder(hook: Hook, cgroup: &CgroupDir) -> Option<String> {
    for path in cgroup.path().ancestors() {
        let directory = CgroupDir::open(path).ok()?;
        let attached = sys::prog_query(directory.as_fd(), hook.attach_type()).ok()?;
        if let (0, Some(id)) = (attached.flags, attached.programs.first()) {
            return Some(format!("program {id} is attached exclusively to {}", path.display()));
        }
    }
    None
}

/// What stands aside for the pod's links: programs that were attached above it with `BPF_F_ALLOW_OVERRIDE`. The kernel runs
/// them only where nothing is attached below.
#[must_use]
pub fn overridden(cgroup: &CgroupDir) -> Vec<String> {
    const OVERRIDE: u32 = 1;
    let mut found = Vec::new();
    for path in cgroup.path().ancestors().skip(1) {
        let Ok(directory) = CgroupDir::open(path) else { break };
        for hook in Hook::ALL {
            let Ok(attached) = sys::prog_query(directory.as_fd(), hook.attach_type()) else { continue };
            if let (OVERRIDE, Some(id)) = (attached.flags, attached.programs.first()) {
                found.push(format!("program {id} on {} of {}", hook.name(), path.display()));
            }
        }
    }
    found
}
