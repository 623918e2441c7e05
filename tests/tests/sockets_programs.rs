//! How large the programs are, and how much of the verifier's patience they use, so that growth is seen.
//!
//! The kernel counts the instructions that it has looked at, over all ways through a program, and gives up at a million. A
//! program that grows beyond its bound here is no fault: look why it grew, then raise the bound.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
};

use balancing_dataplane::{layout::Hook, sys};
use balancing_tests::{dataplane::DataPlane, *};

/// Instructions of a program after the verifier's rewriting, and those that it looks at, at most.
const BOUNDS: [(Hook, u32, u64); 8] = [
    (Hook::Connect4, 2_300, 25_000),
    (Hook::Connect6, 2_300, 25_000),
    (Hook::Sendmsg4, 2_900, 21_000),
    (Hook::Sendmsg6, 2_900, 21_000),
    (Hook::Recvmsg4, 480, 2_000),
    (Hook::Recvmsg6, 480, 2_000),
    (Hook::Getpeername4, 210, 170),
    (Hook::Getpeername6, 210, 170),
];

#[test]
fn programs_stay_small() {
    if !require_kernel() {
        return;
    }
    let plane = DataPlane::new("programs");
    let mut grown = vec![];
    for (number, programs) in plane.programs().into_iter().enumerate() {
        let dir = plane.layout().root().join(format!("set{number}"));
        fs::create_dir(&dir).expect("bpffs is writable");
        programs.publish(&dir).expect("the programs are pinned");
        for (hook, instructions, verified) in BOUNDS {
            let program = sys::obj_get(&dir.join(hook.name())).expect("the program was pinned");
            let size = sys::prog_info(program.as_fd()).expect("a program").instructions;
            let looked_at = verified_instructions(&program);
            let row = format!("set {number} {}: {size} instructions, {looked_at:?} verified", hook.name());
            eprintln!("{row}");
            assert!(size > 2 && looked_at.is_none_or(|count| count > 2), "{row}");
            if size > instructions || looked_at > Some(verified) {
                grown.push(row);
            }
        }
    }
    assert_eq!(grown, [""; 0]);
}

/// `None` where the kernel does not tell: before Linux 5.16.
fn verified_instructions(program: &impl AsRawFd) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).expect("fdinfo");
    let mut values = info.lines().filter_map(|line| line.strip_prefix("verified_insns:"));
    values.next().map(|value| value.trim().parse().expect("a number"))
}
