//! Programs of others on the cgroups above a pod: what may be attached beside them, and who runs first.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Command, Output},
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::Hook,
    links::{self, Programs},
    sys,
};
use nix::libc;

use crate::fixture::{Fixture, OVERRIDE, UID, attach_with_flags, load};

/// Flags of BPF_PROG_ATTACH (`include/uapi/linux/bpf.h`).
const MULTI: u32 = 2;
const PREORDER: u32 = 64;

/// `return 0`: the call fails with EPERM.
const DENY: [u64; 2] = [0xb7, 0x95];

fn id(program: &OwnedFd) -> u32 {
    sys::prog_info(program.as_fd()).unwrap().id
}

fn denying() -> OwnedFd {
    let spec = sys::ProgramSpec {
        prog_type: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type: Hook::Connect4.attach_type(),
        name: "deny",
        instructions: &DENY,
    };
    sys::prog_load(&spec, None).unwrap()
}

/// Programs that run for a process in a cgroup, in their order.
#[allow(unsafe_code, reason = "the project has no use for the effective programs")]
fn effective(cgroup: &CgroupDir, hook: Hook) -> Vec<u32> {
    const PROG_QUERY: libc::c_int = 16;
    const EFFECTIVE: u32 = 1;
    let mut ids = [0_u32; 64];
    let room = ids.as_mut_ptr() as u64;
    let mut attr: [u32; 16] = [
        cgroup.as_fd().as_raw_fd() as u32,
        hook.attach_type(),
        EFFECTIVE,
        0,
        room as u32,
        (room >> 32) as u32,
        64,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the attribute points to room for the announced number of ids, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, attr.as_mut_ptr(), size_of_val(&attr)) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    ids[..attr[6] as usize].to_vec()
}

/// A pod below a cgroup of others, with our programs.
struct Family {
    fixture: Fixture,
    programs: Programs,
    ancestor: CgroupDir,
    pod: CgroupDir,
}

impl Family {
    fn new(test: &str) -> Option<Self> {
        let fixture = Fixture::new(test)?;
        let (programs, ancestor) = (fixture.pin_programs(1), fixture.make_cgroup("kubepods"));
        let pod = fixture.make_pod(UID);
        Some(Self { fixture, programs, ancestor, pod })
    }

    fn attach(&self) {
        links::attach(&self.programs, &self.pod, &self.fixture.pod_dir(1, UID)).unwrap();
    }

    fn ours(&self) -> u32 {
        self.programs.id(Hook::Connect4).unwrap()
    }

    /// Connects a UDP socket from the pod.
    fn connect(&self) -> Output {
        self.connect_from(&self.pod)
    }

    /// Connects a UDP socket from a process that was moved into a cgroup.
    fn connect_from(&self, cgroup: &CgroupDir) -> Output {
        let script = "echo $$ > \"$1/cgroup.procs\" && exec 3<>/dev/udp/127.0.0.1/9";
        Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(cgroup.path())
            .env("LC_ALL", "C")
            .output()
            .unwrap()
    }
}

#[test]
fn e16_a_program_above_that_may_be_overridden_is() {
    let Some(family) = Family::new("override") else { return };
    let theirs = load("theirs", Hook::Connect4).unwrap();
    attach_with_flags(&theirs, &family.ancestor, Hook::Connect4, OVERRIDE).unwrap();
    assert_eq!(effective(&family.pod, Hook::Connect4), [id(&theirs)]);
    assert_eq!(links::overridden(&family.pod).len(), 1);
    family.attach();
    assert_eq!(effective(&family.pod, Hook::Connect4), [family.ours()], "theirs does not run any more");
    let told = &links::overridden(&family.pod)[0];
    assert!(told.contains(&id(&theirs).to_string()) && told.contains("connect4"), "{told}");
    assert!(told.contains(family.ancestor.path().to_str().unwrap()), "{told}");
}

#[test]
fn e17_programs_above_run_after_ours_whoever_came_first() {
    let Some(family) = Family::new("above") else { return };
    let (old, linked, late) = ("old", "linked", "late");
    let [old, linked, late] = [old, linked, late].map(|name| load(name, Hook::Connect4).unwrap());
    attach_with_flags(&old, &family.ancestor, Hook::Connect4, MULTI).unwrap();
    let link = |program: &OwnedFd| {
        let hook = Hook::Connect4.attach_type();
        sys::link_create(program.as_fd(), family.ancestor.as_fd(), hook).unwrap()
    };
    let _before = link(&linked);
    family.attach();
    let _after = link(&late);
    let order = [family.ours(), id(&old), id(&linked), id(&late)];
    assert_eq!(effective(&family.pod, Hook::Connect4), order);
    assert!(links::overridden(&family.pod).is_empty());
}

#[test]
fn e18_a_program_above_that_asks_for_it_runs_before_ours() {
    let Some(family) = Family::new("preorder") else { return };
    let theirs = load("theirs", Hook::Connect4).unwrap();
    match attach_with_flags(&theirs, &family.ancestor, Hook::Connect4, MULTI | PREORDER) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            println!("preorder skipped: this kernel is older than 6.15");
            return;
        }
        attached => attached.unwrap(),
    }
    family.attach();
    assert_eq!(effective(&family.pod, Hook::Connect4), [id(&theirs), family.ours()]);
}

#[test]
fn e19_a_call_that_anyone_denies_is_denied() {
    let Some(family) = Family::new("deny") else { return };
    family.attach();
    assert!(family.connect().status.success());
    let deny = denying();
    let hook = Hook::Connect4.attach_type();
    for place in [&family.ancestor, &family.pod] {
        let link = sys::link_create(deny.as_fd(), place.as_fd(), hook).unwrap();
        assert!(effective(&family.pod, Hook::Connect4).contains(&family.ours()));
        let refused = family.connect();
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && told.contains("Operation not permitted"), "{told}");
        sys::link_detach(link.as_fd()).unwrap();
    }
    assert!(family.connect().status.success());
}

#[test]
fn e30_e31_whatever_runs_below_the_pod_is_covered() {
    let Some(family) = Family::new("containers") else { return };
    let deny = denying();
    let hook = Hook::Connect4.attach_type();
    let _link = sys::link_create(deny.as_fd(), family.pod.as_fd(), hook).unwrap();
    for container in ["init", "cri-containerd-4f.scope", "sidecar", "crio-4f.scope/container", "later/exec"] {
        let container = family.fixture.make_cgroup(&format!("kubepods/burstable/pod{UID}/{container}"));
        assert!(!family.connect_from(&container).status.success(), "{}", container.path().display());
    }
    let outside = family.fixture.make_cgroup("kubepods/burstable/other");
    assert!(family.connect_from(&outside).status.success());
}
