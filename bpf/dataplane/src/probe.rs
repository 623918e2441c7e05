//! What this kernel can do, found out by trying: distributions backport, so versions tell little.

use std::io;

use crate::sys::{PROG_TYPE_CGROUP_SOCK_ADDR, ProgramSpec, prog_load};

/// Number of `bpf_set_retval` in the kernel's `include/uapi/linux/bpf.h`.
const SET_RETVAL: i32 = 187;
/// Number of `bpf_get_netns_cookie`.
const GET_NETNS_COOKIE: i32 = 122;
const CONNECT4: u32 = 10;
const GETPEERNAME4: u32 = 29;

/// Features whose absence changes what users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Refused connections get EHOSTUNREACH; without it EPERM (Linux 5.18).
    pub set_retval: bool,
    /// `getpeername` tells the dialled address (Linux 5.8).
    pub getpeername: bool,
    /// Sockets can be told apart by network namespace (Linux 5.7).
    pub netns_cookie: bool,
    /// Atomic additions with a result, which the QoS cap needs (Linux 5.12).
    pub atomics: bool,
}

impl Features {
    /// Tries each feature; attaches nothing.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            set_retval: loads(CONNECT4, &[mov(1, 0), call(SET_RETVAL), mov(0, 1), EXIT]).is_ok(),
            getpeername: loads(GETPEERNAME4, &[mov(0, 1), EXIT]).is_ok(),
            netns_cookie: loads(CONNECT4, &[call(GET_NETNS_COOKIE), mov(0, 1), EXIT]).is_ok(),
            atomics: loads(CONNECT4, &[mov(1, 0), STORE, mov(2, 1), FETCH_ADD, mov(0, 1), EXIT]).is_ok(),
        }
    }

    /// Names and states, for people.
    #[must_use]
    pub fn list(&self) -> [(&'static str, bool); 4] {
        [
            ("set_retval", self.set_retval),
            ("getpeername", self.getpeername),
            ("netns_cookie", self.netns_cookie),
            ("atomics", self.atomics),
        ]
    }
}

const EXIT: u64 = 0x95;
/// `*(u64 *)(r10 - 8) = r1`
const STORE: u64 = instruction(0x7b, 10, 1, -8, 0);
/// `r2 = atomic_fetch_add((u64 *)(r10 - 8), r2)`
const FETCH_ADD: u64 = instruction(0xdb, 10, 2, -8, 1);

const fn mov(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, 0, 0, value)
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    u64::from_ne_bytes([code, source << 4 | destination, o0, o1, i0, i1, i2, i3])
}

/// Loads a program, again where the verifier gave up for a signal that waits for this thread: EAGAIN.
pub(crate) fn load_patiently<T, E>(
    mut load: impl FnMut() -> Result<T, E>,
    errno: impl Fn(&E) -> Option<i32>,
) -> Result<T, E> {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match load() {
            Err(error) if errno(&error) == Some(libc::EAGAIN) => {}
            done => return done,
        }
    }
    load()
}

fn loads(attach_type: u32, instructions: &[u64]) -> io::Result<()> {
    let program = ProgramSpec {
        prog_type: PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type,
        name: "balancing_probe",
        instructions,
    };
    // An interruption says nothing of the kernel.
    load_patiently(|| prog_load(&program, None), io::Error::raw_os_error).map(drop)
}
