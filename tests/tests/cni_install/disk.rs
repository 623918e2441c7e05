//! Disks that are full, read-only, not for programs, or lose their power.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use balancing_tests::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::host::{GOOD, Host, LIST, OURS, said, tmpfs, with_own_mounts};

/// A list in a file system of its own; `bin` is elsewhere.
fn on_disk(host: &Host, options: &str) -> PathBuf {
    let net_dir = host.path("net.d");
    tmpfs(&net_dir, MsFlags::empty(), options);
    host.write("10-net.conflist", LIST);
    net_dir
}

fn read_only(path: &Path) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).unwrap();
}

#[test]
fn g17_a_full_disk_leaves_the_list_as_it_is() {
    if !require_kernel() {
        return;
    }
    with_own_mounts(|| {
        let host = Host::new();
        on_disk(&host, "size=64k,mode=755");
        // It takes all there is, then there is nothing.
        fs::write(host.conf("filler"), vec![0; 1 << 20]).unwrap_err();
        let said = host.fail("install", &[]);
        assert!(said.contains("No space left on device"), "{said}");
        assert_eq!(host.read("10-net.conflist"), LIST);
        assert_eq!(host.names("net.d"), ["10-net.conflist", "filler"]);
        fs::remove_file(host.conf("filler")).unwrap();
        host.succeed("install", &[]);
    });
}

#[test]
fn g17_a_read_only_disk_is_told() {
    if !require_kernel() {
        return;
    }
    with_own_mounts(|| {
        let host = Host::new();
        read_only(&on_disk(&host, "mode=755"));
        let said = host.fail("install", &[]);
        assert!(said.contains("Read-only file system") && said.contains("net.d"), "{said}");
    });
}

#[test]
fn g35_a_read_only_directory_of_plugins_needs_the_right_binary_in_it() {
    if !require_kernel() {
        return;
    }
    for (existing, is_right) in [(Some("the agent's"), true), (Some(GOOD), false), (None, false)] {
        with_own_mounts(|| {
            let host = Host::with_list();
            tmpfs(&host.path("bin"), MsFlags::empty(), "mode=755");
            match existing {
                Some(GOOD) => drop(host.script("bin/balancing-cni", GOOD)),
                Some(_) => drop(fs::copy(program("balancing-cni"), host.path("bin").join(OURS)).unwrap()),
                None => {}
            }
            read_only(&host.path("bin"));
            if is_right {
                host.succeed("install", &[]);
                assert_eq!(host.types("10-net.conflist"), ["bridge", OURS]);
            } else {
                let said = host.fail("install", &[]);
                assert!(said.contains("Read-only file system"), "{said}");
                assert_eq!(host.read("10-net.conflist"), LIST);
            }
        });
    }
}

#[test]
fn g36_a_directory_from_which_nothing_can_be_run_is_told() {
    if !require_kernel() {
        return;
    }
    with_own_mounts(|| {
        let host = Host::with_list();
        tmpfs(&host.path("bin"), MsFlags::MS_NOEXEC, "mode=755");
        let said = host.fail("install", &[]);
        assert!(said.contains("mounted noexec"), "{said}");
        assert_eq!(host.read("10-net.conflist"), LIST);
    });
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", said(&output));
}

/// An ext4 in a file. A copy of the file is what a power cut leaves: it has what the file system has sent to its disk.
struct Disk {
    place: TempDir,
}

impl Disk {
    fn new() -> Self {
        let place = TempDir::new("cni-disk");
        let disk = Self { place };
        fs::File::create(disk.image()).unwrap().set_len(16 << 20).unwrap();
        run("mkfs.ext4", &["-q", &disk.image()]);
        disk
    }

    fn image(&self) -> String {
        self.place.path().join("disk").display().to_string()
    }

    /// Mounts it, or what a power cut has left of it. Files get their blocks late, and no rename hurries them.
    fn mount(&self, image: &str, target: &Path) {
        let options = "loop,noauto_da_alloc,commit=600";
        run("mount", &["-o", options, image, &target.display().to_string()]);
    }

    fn power_cut(&self) -> String {
        let copy = self.place.path().join("copy").display().to_string();
        fs::copy(self.image(), &copy).unwrap();
        copy
    }
}

#[test]
fn g13_a_power_cut_after_the_install_loses_nothing() {
    if !require_kernel() {
        return;
    }
    with_own_mounts(|| {
        let (host, disk) = (Host::new(), Disk::new());
        let net_dir = host.path("net.d");
        disk.mount(&disk.image(), &net_dir);
        host.write("10-net.conflist", LIST);
        run("sync", &["-f", &net_dir.display().to_string()]);
        host.succeed("install", &[]);
        let installed = host.read("10-net.conflist");
        // This one is not synced: it shows that the copy is of the disk and not of what the kernel remembers.
        host.write("unsynced", "x");
        let left = disk.power_cut();
        umount2(&net_dir, MntFlags::MNT_DETACH).unwrap();
        disk.mount(&left, &net_dir);
        assert_eq!(host.read("10-net.conflist"), installed);
        assert!(fs::read(host.conf("unsynced")).map_or(true, |text| text.is_empty()));
        umount2(&net_dir, MntFlags::MNT_DETACH).unwrap();
    });
}
