//! A pod without Kubernetes: a cgroup, a directory on bpffs with trivial programs, a run directory.
//!
//! Everything is removed when the fixture is dropped, also when the test fails.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::{Hook, Layout},
    links::Programs,
    mount::{self, Mounts},
    sys,
};
use nix::libc;

/// A UID as the API server makes them.
pub(crate) const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";

/// Flags of BPF_PROG_ATTACH (`include/uapi/linux/bpf.h`): no other program below; another one below takes its place.
pub(crate) const EXCLUSIVE: u32 = 0;
pub(crate) const OVERRIDE: u32 = 1;

pub(crate) struct Fixture {
    pub(crate) bpffs: PathBuf,
    pub(crate) cgroups: PathBuf,
    pub(crate) run_dir: PathBuf,
}

impl Fixture {
    /// `None`, with the reason printed, where the kernel or the privileges do not allow these tests. That is a
    /// failure where `BALANCING_REQUIRE_KERNEL=1`.
    pub(crate) fn new(test: &str) -> Option<Self> {
        match Self::try_new(test) {
            Ok(fixture) => Some(fixture),
            Err(why) if std::env::var("BALANCING_REQUIRE_KERNEL").is_ok_and(|value| value == "1") => {
                panic!("{test} cannot run: {why}")
            }
            Err(why) => {
                println!("{test} skipped: {why}");
                None
            }
        }
    }

    fn try_new(test: &str) -> Result<Self, String> {
        let name = format!("balancing-test-{test}-{}", std::process::id());
        mount::ensure_bpffs(Path::new("/sys/fs/bpf")).map_err(|error| error.to_string())?;
        let cgroup2 =
            Mounts::read().and_then(|mounts| mounts.cgroup2_root()).map_err(|error| error.to_string())?;
        let fixture = Self {
            bpffs: Path::new("/sys/fs/bpf").join(&name),
            cgroups: cgroup2.join(&name),
            run_dir: std::env::temp_dir().join(&name),
        };
        for dir in [&fixture.bpffs, &fixture.cgroups, &fixture.run_dir] {
            fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        }
        load("probe", Hook::Connect4).map_err(|error| format!("cannot load a program: {error}"))?;
        Ok(fixture)
    }

    pub(crate) fn layout(&self, abi: u32) -> Layout {
        Layout::new(&self.bpffs, abi)
    }

    /// Pins a program for each hook, in place of those pinned before.
    pub(crate) fn pin_programs(&self, abi: u32) -> Programs {
        let layout = self.layout(abi);
        fs::create_dir_all(layout.programs()).unwrap();
        for hook in Hook::ALL {
            drop(fs::remove_file(layout.program(hook)));
            let program = load(hook.name(), hook).unwrap();
            sys::obj_pin(program.as_fd(), &layout.program(hook)).unwrap();
        }
        Programs::open(&layout).unwrap()
    }

    /// Makes a cgroup below the fixture's own.
    pub(crate) fn make_cgroup(&self, below: &str) -> CgroupDir {
        let path = self.cgroups.join(below);
        fs::create_dir_all(&path).unwrap();
        CgroupDir::open(&path).unwrap()
    }

    /// Makes the pod's cgroup where the cgroupfs driver puts it.
    pub(crate) fn make_pod(&self, uid: &str) -> CgroupDir {
        self.make_cgroup(&format!("kubepods/burstable/pod{uid}"))
    }

    pub(crate) fn pod_dir(&self, abi: u32, uid: &str) -> PathBuf {
        self.layout(abi).pods().join(uid)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.bpffs));
        drop(fs::remove_dir_all(&self.run_dir));
        remove_cgroup(&self.cgroups);
    }
}

/// Loads a program that lets every call of the hook pass.
pub(crate) fn load(name: &str, hook: Hook) -> std::io::Result<OwnedFd> {
    let spec = sys::ProgramSpec {
        prog_type: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type: hook.attach_type(),
        name,
        instructions: &sys::RETURN_ONE,
    };
    sys::prog_load(&spec, None)
}

/// Attaches the way that is older than links. The attachment ends with the cgroup.
#[allow(unsafe_code, reason = "BPF_PROG_ATTACH is what others do; the project itself never does")]
pub(crate) fn attach_with_flags(
    program: &OwnedFd,
    cgroup: &CgroupDir,
    hook: Hook,
    flags: u32,
) -> io::Result<()> {
    const PROG_ATTACH: libc::c_int = 8;
    let mut attr = [cgroup.as_fd().as_raw_fd() as u32, program.as_raw_fd() as u32, hook.attach_type(), flags];
    // SAFETY: the attribute is a live array without pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, attr.as_mut_ptr(), size_of_val(&attr)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many programs run on a hook because they are attached to this very cgroup.
pub(crate) fn attached(cgroup: &CgroupDir, hook: Hook) -> usize {
    sys::prog_query(cgroup.as_fd(), hook.attach_type()).unwrap().programs.len()
}

/// A process outside a cgroup that holds a socket which was made inside.
pub(crate) struct SocketOf(Child);

impl SocketOf {
    pub(crate) fn new(cgroup: &CgroupDir, outside: &Path) -> Self {
        let script = "echo $$ > \"$1/cgroup.procs\" && exec 3<>/dev/udp/127.0.0.1/9 \
                      && echo $$ > \"$2/cgroup.procs\" && echo ready && read -r _";
        let mut child = Command::new("bash")
            .args(["-c", script, "bash"])
            .args([cgroup.path(), outside])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    pub(crate) fn stop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for SocketOf {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes a cgroup and those below it. The files in it cannot be removed and need not be.
pub(crate) fn remove_cgroup(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    drop(fs::remove_dir(path));
}
