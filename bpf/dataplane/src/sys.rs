//! The system calls of the user side that neither libc nor nix offers as a safe function.
//!
//! It owns all `unsafe` code of user space: bpf(2), one socket option, maps as memory. Every function does one
//! call, keeps no state and reports the kernel's error unchanged; meaning is given to it by the callers.
//! Structures follow `union bpf_attr` of the kernel's `include/uapi/linux/bpf.h`.

#![allow(unsafe_code, reason = "bpf(2), mmap(2) and SO_NETNS_COOKIE have no safe wrapper")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixDatagram},
    },
    path::Path,
};

pub use self::{
    handle::open_cgroup,
    types::{Attached, LinkInfo, MapInfo, ObjectKind, ProgInfo, ProgramSpec},
};

#[cfg(feature = "loader")]
pub(crate) mod batch;
mod handle;
#[cfg(feature = "loader")]
pub(crate) mod memory;
#[cfg(feature = "loader")]
pub(crate) mod run;
#[cfg(feature = "loader")]
pub(crate) mod tcx;
mod types;

const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
#[cfg(feature = "loader")]
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
#[cfg(feature = "loader")]
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;
/// Socket option of kernel 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// Enough for the verifier's words about a probe of a few instructions.
const LOG_SIZE: usize = 64 * 1024;
/// Enough of every `bpf_*_info` for the fields that are read here.
const INFO_SIZE: usize = 80;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, kernel 4.17.
pub const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;

/// The smallest program that every socket hook accepts: `return 1`, which lets the call pass.
pub const RETURN_ONE: [u64; 2] =
    [u64::from_ne_bytes(instruction(0xb7, 1)), u64::from_ne_bytes(instruction(0x95, 0))];

#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkAttr {
    /// The program of a new link, the link of an update.
    first_fd: u32,
    /// The cgroup of a new link, the program of an update.
    second_fd: u32,
    /// Attach type of a new link, flags of an update.
    third: u32,
    /// Flags of a new link, the expected program of an update.
    fourth: u32,
}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    /// Fields of later kernels, which write some of them whatever size is announced.
    later: [u64; 8],
}

#[cfg(feature = "loader")]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Opens a pinned object. ENOENT: no such pin; EPERM, EACCES: missing privilege or not a pin.
///
/// # Errors
/// The kernel's.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    let mut attr = ObjectAttr { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute points to a NUL-terminated string that outlives the call, and a
    // successful OBJ_GET returns a descriptor nobody else owns.
    unsafe { bpf_fd(OBJ_GET, &mut attr) }
}

/// Pins an object. EEXIST: the name is taken; EPERM: also a name with a dot.
///
/// # Errors
/// The kernel's.
pub fn obj_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    let mut attr = ObjectAttr { pathname: name.as_ptr() as u64, bpf_fd: raw(object), file_flags: 0 };
    // SAFETY: the attribute points to a NUL-terminated string that outlives the call.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

/// Attaches a program to a cgroup2 directory. The attachment ends with the last descriptor and pin.
///
/// Flags are 0: links are always multi-attach, and other flags are EINVAL (kernel 5.7 and later).
///
/// # Errors
/// The kernel's: EPERM below an exclusive ancestor, E2BIG with 64 programs, ENOENT on a removed directory, EBADF on
/// a directory that is not cgroup2.
pub fn link_create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr { first_fd: raw(program), second_fd: raw(cgroup), third: attach_type, fourth: 0 };
    // SAFETY: the attribute holds no pointer, and a successful LINK_CREATE returns a descriptor
    // nobody else owns.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

/// Replaces the program of a link atomically.
///
/// # Errors
/// The kernel's: ENOLINK when the cgroup is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkAttr { first_fd: raw(link), second_fd: raw(program), third: 0, fourth: 0 };
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

/// Ends an attachment at once, although pins and descriptors of the link stay. Kernel 5.9.
///
/// Dropping the last reference does the same, but some time later.
///
/// # Errors
/// The kernel's.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(link);
    // SAFETY: the attribute is the descriptor alone and holds no pointer.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

/// What a descriptor stands for; `None` when it is no BPF object.
///
/// The info call does not tell: it fills in whatever the object is. Only the descriptor's name does.
///
/// # Errors
/// When /proc is not mounted.
pub fn object_kind(fd: BorrowedFd<'_>) -> io::Result<Option<ObjectKind>> {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(match name.as_os_str().as_bytes() {
        b"anon_inode:bpf-map" => Some(ObjectKind::Map),
        b"anon_inode:bpf-prog" => Some(ObjectKind::Program),
        b"anon_inode:bpf_link" | b"anon_inode:bpf-link" => Some(ObjectKind::Link),
        _ => None,
    })
}

/// State of a cgroup link.
///
/// # Errors
/// `InvalidData` when the object is anything else.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let info = info(link, ObjectKind::Link)?;
    if word(&info, 0) != LINK_TYPE_CGROUP {
        return Err(invalid("the link is not attached to a cgroup"));
    }
    Ok(LinkInfo {
        id: word(&info, 4),
        prog_id: word(&info, 8),
        cgroup_id: u64::from_ne_bytes(bytes(&info, 16)),
        attach_type: word(&info, 24),
    })
}

/// Identity of a program.
///
/// # Errors
/// `InvalidData` when the object is no program.
pub fn prog_info(program: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    let info = info(program, ObjectKind::Program)?;
    Ok(ProgInfo {
        prog_type: word(&info, 0),
        id: word(&info, 4),
        tag: bytes(&info, 8),
        instructions: word(&info, 20) / 8,
        name: name(bytes(&info, 64)),
    })
}

/// Shape of a map.
///
/// # Errors
/// `InvalidData` when the object is no map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let info = info(map, ObjectKind::Map)?;
    Ok(MapInfo {
        map_type: word(&info, 0),
        id: word(&info, 4),
        key_size: word(&info, 8),
        value_size: word(&info, 12),
        max_entries: word(&info, 16),
        flags: word(&info, 20),
        name: name(bytes(&info, 24)),
    })
}

/// Programs attached to this very cgroup for one attach type.
///
/// # Errors
/// The kernel's.
pub fn prog_query(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Attached> {
    let mut ids = [0_u32; 64];
    let mut attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        padding: 0,
        later: [0; 8],
    };
    // SAFETY: the attribute points to room for the announced number of ids, which outlives the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    let programs = ids.into_iter().take(attr.prog_cnt as usize).collect();
    Ok(Attached { flags: attr.attach_flags, programs })
}

/// Number of elements of a hash map, read in batches: for maps that do not count themselves. Kernel 5.6.
///
/// # Errors
/// The kernel's; ENOSPC when one bucket holds more than a batch.
#[cfg(feature = "loader")]
pub(crate) fn map_count(map: BorrowedFd<'_>) -> io::Result<u64> {
    const BATCH: u32 = 4096;
    let info = map_info(map)?;
    let mut keys = vec![0_u8; BATCH as usize * info.key_size as usize];
    let mut values = vec![0_u8; BATCH as usize * info.value_size.next_multiple_of(8) as usize];
    let mut position = vec![0_u8; info.key_size.max(8) as usize];
    let (mut total, mut first) = (0, true);
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { position.as_ptr() as u64 },
            out_batch: position.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH,
            map_fd: raw(map),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the buffers have room for the announced number of elements and for a position, and outlive the call.
        let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) };
        match result {
            Ok(_) => total += u64::from(attr.count),
            // The end; what came before it counts.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                return Ok(total + u64::from(attr.count));
            }
            Err(error) => return Err(error),
        }
        first = false;
    }
}

/// Loads a program of a few instructions under the GPL. With `log`, the verifier's words replace its content.
///
/// # Errors
/// The kernel's: EINVAL for what it does not know, EACCES for what the verifier refuses.
pub fn prog_load(program: &ProgramSpec<'_>, log: Option<&mut String>) -> io::Result<OwnedFd> {
    let mut prog_name = [0_u8; 16];
    if program.name.len() >= prog_name.len() {
        return Err(invalid("a program's name has at most 15 bytes"));
    }
    prog_name[..program.name.len()].copy_from_slice(program.name.as_bytes());
    let count =
        u32::try_from(program.instructions.len()).map_err(|_error| invalid("too many instructions"))?;
    let mut words = vec![0_u8; if log.is_some() { LOG_SIZE } else { 0 }];
    let mut attr = LoadAttr {
        prog_type: program.prog_type,
        insn_cnt: count,
        insns: program.instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: u32::from(log.is_some()),
        log_size: if log.is_some() { LOG_SIZE as u32 } else { 0 },
        log_buf: if log.is_some() { words.as_mut_ptr() as u64 } else { 0 },
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: program.attach_type,
    };
    // SAFETY: instructions, licence and log buffer have the announced sizes and outlive the call, and
    // a successful PROG_LOAD returns a descriptor nobody else owns.
    let loaded = unsafe { bpf_fd(PROG_LOAD, &mut attr) };
    if let Some(log) = log {
        let end = words.iter().position(|byte| *byte == 0).unwrap_or(words.len());
        *log = String::from_utf8_lossy(&words[..end]).into_owned();
    }
    loaded
}

/// Cookie of the calling thread's network namespace: what BPF programs see as `bpf_get_netns_cookie`.
///
/// # Errors
/// ENOPROTOOPT before kernel 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length are valid for writes of the announced size during the call.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if status == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Waits until every BPF program that ran when this was called has ended, so that what no table names any more
/// may be written again.
///
/// `MEMBARRIER_CMD_GLOBAL` is an RCU grace period (`kernel/sched/membarrier.c`), and BPF programs of
/// cgroups are RCU readers. It is refused with `nohz_full` and does nothing on one CPU; there a pause stands in that no
/// program outlasts unless it is kept off the CPU for as long.
pub fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: integers only.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    let one_cpu = std::thread::available_parallelism().is_ok_and(|n| n.get() == 1);
    if status != 0 || one_cpu {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A key or value as it lies in a map.
#[cfg(feature = "loader")]
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Raw<T>(pub(crate) T);

// SAFETY: `Plain` is sealed to types without padding and invalid bit patterns, and `Raw` is transparent.
#[cfg(feature = "loader")]
unsafe impl<T: balancing_abi::Plain> aya::Pod for Raw<T> {}

/// Asks the kernel about an object after making sure that it is of the expected kind.
fn info(fd: BorrowedFd<'_>, expected: ObjectKind) -> io::Result<[u8; INFO_SIZE]> {
    if object_kind(fd)? != Some(expected) {
        return Err(invalid(match expected {
            ObjectKind::Map => "the object is not a BPF map",
            ObjectKind::Program => "the object is not a BPF program",
            ObjectKind::Link => "the object is not a BPF link",
        }));
    }
    let mut buffer = [0_u8; INFO_SIZE];
    let mut attr = InfoAttr { bpf_fd: raw(fd), info_len: INFO_SIZE as u32, info: buffer.as_mut_ptr() as u64 };
    // SAFETY: the buffer has the announced size and outlives the call; the kernel writes no more.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(buffer)
}

/// Calls bpf(2).
///
/// # Safety
/// `T` is a prefix of `union bpf_attr` for the command, and every pointer in it is valid for what the
/// kernel reads and writes there.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for the content; address and size are those of a live object.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls bpf(2) with a command that returns a new descriptor.
///
/// # Safety
/// As [`bpf`]; and the command returns a descriptor that the caller owns.
unsafe fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the caller's promise: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_error| invalid("the path contains a NUL byte"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn bytes<const N: usize>(info: &[u8; INFO_SIZE], offset: usize) -> [u8; N] {
    std::array::from_fn(|index| info[offset + index])
}

fn word(info: &[u8; INFO_SIZE], offset: usize) -> u32 {
    u32::from_ne_bytes(bytes(info, offset))
}

fn name(raw: [u8; 16]) -> String {
    let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(&raw[..end]).into_owned()
}

/// An instruction that touches only register 0: opcode, registers, offset, immediate.
const fn instruction(code: u8, immediate: i32) -> [u8; 8] {
    let [a, b, c, d] = immediate.to_ne_bytes();
    [code, 0, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests;
