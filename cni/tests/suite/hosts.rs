//! Hosts that are not as they should be: other mounts, fewer rights, nothing but the binary.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use balancing_dataplane::{
    layout::Hook,
    mount::{self, Mounts},
};
use nix::{
    mount::{MntFlags, MsFlags, mount as mount_at, umount, umount2},
    sched::{CloneFlags, unshare},
};
use serde_json::json;

use crate::{
    fixture::{Fixture, UID, attached, remove_cgroup},
    plugin::{BINARY, Call, Nowhere, as_nobody, copy_program},
};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Runs in a mount namespace of its own; processes that are started there are in it too.
fn among_other_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount_at(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount_new(kind: &str, at: &Path, options: Option<&str>) -> nix::Result<()> {
    fs::create_dir_all(at).unwrap();
    mount_at(Some(kind), at, Some(kind), MsFlags::empty(), options)
}

/// Takes every cgroup2 mount away, and puts an empty file system in the place of the usual one.
fn hide_cgroup2() {
    let mounts = Mounts::read().unwrap();
    for mount in mounts.cgroup2() {
        umount2(mount, MntFlags::MNT_DETACH).unwrap();
    }
    mount_new("tmpfs", Path::new(CGROUPS), None).unwrap();
}

/// A call that has to find the cgroup mount itself.
fn discovering(fixture: &Fixture, uid: &str) -> Call {
    let mut call = Call::new(fixture, uid);
    call.config.as_object_mut().unwrap().remove("cgroupRoot");
    call
}

#[test]
fn d22_d23_a_host_of_version_1() {
    let Some(fixture) = Fixture::new("v1") else { return };
    fixture.pin_programs(1);
    // The whole hierarchy is searched here, in which other tests have pods.
    let uid = "22222222-2323-2323-2323-222222222222";
    among_other_mounts(|| {
        let call = discovering(&fixture, uid);
        hide_cgroup2();
        let message = call.fail("ADD", 101);
        assert!(
            message.contains("no cgroup2 file system is mounted") && message.contains("mount"),
            "{message}"
        );
        call.fail("STATUS", 50);
        let named = Path::new(CGROUPS).join("systemd");
        let hierarchy = format!("none,name=balancing-test-{}", std::process::id());
        if mount_new("cgroup", &named, Some(&hierarchy)).is_err() {
            println!("the rest is skipped: this kernel has no cgroup version 1");
            return;
        }
        assert!(call.fail("ADD", 101).contains("this host has only cgroup version 1"));
        // Hybrid: version 2 is there, but the kubelet's directories are in version 1.
        mount_new("cgroup2", &Path::new(CGROUPS).join("unified"), None).unwrap();
        let pod = named.join(format!("kubepods/burstable/pod{uid}"));
        fs::create_dir_all(&pod).unwrap();
        let answer = call.run("ADD");
        remove_cgroup(&named.join("kubepods"));
        let message = answer.error(101);
        assert!(
            message.contains(pod.to_str().unwrap()) && message.contains("of cgroup version 1"),
            "{message}"
        );
    });
}

#[test]
fn d24_cgroup2_is_found_wherever_it_is_mounted() {
    let Some(fixture) = Fixture::new("elsewhere") else { return };
    fixture.pin_programs(1);
    let below = fixture.cgroups.strip_prefix(CGROUPS).unwrap().to_owned();
    among_other_mounts(|| {
        hide_cgroup2();
        let elsewhere = fixture.run_dir.join("c g\\roups");
        mount_new("cgroup2", &elsewhere, None).unwrap();
        let path = format!("{}/kubepods/burstable/pod{UID}", below.display());
        fs::create_dir_all(elsewhere.join(&path)).unwrap();
        let call = discovering(&fixture, UID).with("runtimeConfig", json!({"cgroupPath": path}));
        call.add();
        assert_eq!(call.records()[0]["cgroup"], json!(elsewhere.join(&path)));
        call.silent("CHECK");
        call.silent("DEL");
        umount(&elsewhere).unwrap();
    });
}

#[test]
fn e22_f12_bpffs_is_missing_read_only_or_elsewhere() {
    let Some(fixture) = Fixture::new("bpffs") else { return };
    fixture.pin_programs(1);
    let cgroup = fixture.make_pod(UID);
    let call = Call::new(&fixture, UID);
    call.add();
    let other = call.clone().set("CNI_IFNAME", "net1");
    among_other_mounts(|| {
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        let none = None::<&str>;
        mount_at(none, "/sys/fs/bpf", none, read_only, none).unwrap();
        other.add();
        fs::create_dir_all(fixture.cgroups.join("kubepods/pod2")).unwrap();
        let second = Call::new(&fixture, "2").set("CNI_CONTAINERID", "c2");
        let message = second.fail("ADD", 5);
        assert!(message.contains("Read-only file system") && message.contains("/pods/tmp-2"), "{message}");
        assert!(second.with("failurePolicy", json!("ignore")).add().stderr.contains("Read-only file system"));
        call.silent("DEL");
        let said = other.succeed("DEL");
        assert!(said.contains("Read-only file system"), "{said}");
    });
    assert_eq!(attached(&cgroup, Hook::Connect4), 1, "what cannot be unpinned is left to the agent");
    among_other_mounts(|| {
        mount_new("tmpfs", Path::new("/sys/fs/bpf"), None).unwrap();
        assert!(call.fail("ADD", 11).contains("is bpffs mounted there"));
        call.silent("DEL");
        // A bpffs of its own that holds what others have pinned.
        mount_new("bpf", Path::new("/sys/fs/bpf"), None).unwrap();
        fs::create_dir_all("/sys/fs/bpf/balancing/other/programs").unwrap();
        assert!(mount::is_bpffs(Path::new("/sys/fs/bpf")).unwrap());
        assert!(call.fail("ADD", 11).contains("does balancing-agent run on this node"));
    });
    call.add();
    call.silent("DEL");
    assert_eq!(attached(&cgroup, Hook::Connect4), 0);
}

#[test]
fn e24_without_rights_the_error_tells_which_are_needed() {
    let Some(fixture) = Fixture::new("rights") else { return };
    fixture.pin_programs(1);
    fixture.make_pod(UID);
    fs::set_permissions(&fixture.run_dir, fs::Permissions::from_mode(0o777)).unwrap();
    let call = Call::new(&fixture, UID);
    let message = as_nobody(&fixture, &call, "ADD").error(5);
    assert!(message.contains("Permission denied") && message.contains("CAP_BPF"), "{message}");
    let ignoring = call.with("failurePolicy", json!("ignore"));
    let answer = as_nobody(&fixture, &ignoring, "ADD");
    assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    assert!(answer.stderr.contains("CAP_BPF"), "{}", answer.stderr);
    assert_eq!(as_nobody(&fixture, &ignoring, "DEL").code, Some(0));
}

/// No shell, no locale, no name service, no certificates: a root directory with nothing but the binary, and the libraries that
/// a build for tests is linked with.
#[test]
fn a25_nothing_but_the_binary_is_needed() {
    let Some(_root) = Fixture::new("scratch") else { return };
    let nowhere = Nowhere::new("scratch");
    fs::create_dir_all(&nowhere.0).unwrap();
    let linked = Command::new("ldd").arg(BINARY).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/') && !word.contains("vdso"));
    for file in libraries.chain([BINARY]) {
        let inside = if file == BINARY { Path::new("/plugin") } else { Path::new(file) };
        let inside = nowhere.0.join(inside.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        copy_program(Path::new(file), &inside);
    }
    let mut call = nowhere.call("u").with("runDir", json!("/run"));
    call.variables.retain(|name, _| *name != "CNI_PATH");
    let answers = ["ADD", "CHECK", "DEL", "VERSION"].map(|command| {
        let mut chroot = Command::new("/usr/sbin/chroot");
        call.run_as(chroot.arg(&nowhere.0).arg("/plugin"), command)
    });
    for answer in &answers {
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    }
    assert_eq!(answers[0].stdout, "{\"ips\":[]}\n");
    assert!(answers[3].stdout.contains("supportedVersions"));
}
