//! `balancing-agent cni install`, `status` and `uninstall`, one call at a time.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
};

use balancing_tests::*;

use crate::host::{GOOD, Host, LATE, LIST, OURS, SINGLE, inode, said, types};

#[test]
fn g1_without_a_primary_nothing_is_written_but_the_binary() {
    let host = Host::new();
    let said = host.fail("install", &[]);
    assert!(said.contains("there is no network configuration yet"), "{said}");
    assert!(host.names("net.d").is_empty());
    assert_eq!(host.names("bin"), [OURS]);
}

#[test]
fn g2_ours_is_last_of_any_number() {
    for count in [1, 5] {
        let host = Host::new();
        let plugins: Vec<String> = (0..count).map(|n| format!("{{\"type\": \"p{n}\"}}")).collect();
        host.write("10-net.conflist", &LIST.replace("{\"type\": \"bridge\"}", &plugins.join(", ")));
        let said = said(&host.succeed("install", &[]));
        assert!(said.contains("pods that start now get the plugin"), "{said}");
        let types = host.types("10-net.conflist");
        assert_eq!((types.len(), types.last().unwrap().as_str()), (count + 1, OURS));
    }
    let host = Host::new();
    host.write("10-net.conflist", r#"{"cniVersion":"1.0.0","name":"net","plugins":[]}"#);
    assert!(host.fail("install", &[]).contains("its list of plugins is empty"));
}

#[test]
fn g3_a_single_configuration_becomes_a_list_and_comes_back() {
    let host = Host::new();
    host.write("10-net.conf", SINGLE);
    host.succeed("install", &[]);
    assert_eq!(host.names("net.d"), ["10-net.conf.conflist", "10-net.conf.replaced-by-balancing"]);
    assert_eq!(host.types("10-net.conf.conflist"), ["bridge", OURS]);
    host.succeed("status", &[]);
    host.succeed("uninstall", &[]);
    assert_eq!(host.names("net.d"), ["10-net.conf"]);
    assert_eq!(host.read("10-net.conf"), SINGLE);
}

#[test]
fn g4_the_same_file_counts_as_for_the_runtime() {
    let make = || {
        let host = Host::new();
        host.write("00-old.conflist.bak", LIST);
        host.write("05-broken.conflist", &LIST[..30]);
        host.write("10-net.json", SINGLE);
        host.write("20-late.conflist", LIST);
        host
    };
    let host = make();
    let said = host.fail("install", &["--cni-runtime=containerd"]);
    assert!(said.contains("05-broken.conflist is broken, so the runtime loads no network"), "{said}");
    let host = make();
    host.succeed("install", &["--cni-runtime=cri-o"]);
    assert_eq!(host.types("10-net.json.conflist"), ["bridge", OURS]);
    assert_eq!(host.read("20-late.conflist"), LIST);
    assert_eq!(host.read("05-broken.conflist"), LIST[..30]);
    // A hidden file counts for both (filepath.Glob and ReadDir know no hidden ones).
    let host = make();
    host.write(".hidden.conflist", LIST);
    host.succeed("install", &[]);
    assert_eq!(host.types(".hidden.conflist"), ["bridge", OURS]);
}

#[test]
fn g5_a_second_call_writes_nothing() {
    let host = Host::with_list();
    host.succeed("install", &[]);
    let inodes = || (inode(&host.conf("10-net.conflist")), inode(&host.path("bin").join(OURS)));
    let before = inodes();
    let said = said(&host.succeed("install", &[]));
    assert!(said.contains("writes=0"), "{said}");
    assert_eq!(inodes(), before);
}

#[test]
fn g6_other_settings_are_replaced() {
    let host = Host::with_list();
    host.succeed("install", &["--cni-failure-policy=fail"]);
    assert!(host.read("10-net.conflist").contains("\"failurePolicy\":\"fail\""));
    host.succeed("install", &[]);
    let text = host.read("10-net.conflist");
    assert!(text.contains("\"failurePolicy\":\"ignore\"") && types(&text) == ["bridge", OURS], "{text}");
}

#[test]
fn g6_keys_that_somebody_has_set_are_told() {
    let host = Host::with_list();
    host.succeed("install", &[]);
    let by_hand = "\"failurePolicy\":\"fail\",\"logLevel\":\"debug\"";
    host.write(
        "10-net.conflist",
        &host.read("10-net.conflist").replace("\"failurePolicy\":\"ignore\"", by_hand),
    );
    let told = said(&host.succeed("install", &[]));
    assert!(told.contains("10-net.conflist had failurePolicy \"fail\", logLevel \"debug\""), "{told}");
    assert!(!said(&host.succeed("install", &[])).contains("replaced"));
}

#[test]
fn g3_a_single_configuration_that_cannot_come_back_is_told() {
    for is_removed in [true, false] {
        let host = Host::new();
        host.write("10-net.conf", SINGLE);
        host.succeed("install", &[]);
        let list = host.read("10-net.conf.conflist");
        match is_removed {
            true => fs::remove_file(host.conf("10-net.conf.conflist")).unwrap(),
            false => host.write("10-net.conf.conflist", &list.replace("bridge", "ptp")),
        }
        let told = said(&host.succeed("uninstall", &[]));
        let left = "10-net.conf.replaced-by-balancing";
        assert!(told.contains("WARN") && told.contains(&format!("{left} is left")), "{told}");
        assert_eq!(host.read(left), SINGLE);
    }
}

#[test]
fn g33_wrong_settings_leave_what_works() {
    let host = Host::with_list();
    host.succeed("install", &[]);
    let installed = host.read("10-net.conflist");
    let wrong = format!("--cni-bin-dir={}", host.path("bni").display());
    for work in ["install", "status"] {
        let mut command = Command::new(program("balancing-agent"));
        command.args(["cni", work, &wrong, "--cri-socket=off", "--run-dir"]).arg(host.path("run"));
        let output = command.arg("--cni-net-dir").arg(host.path("net.d")).output().unwrap();
        let told = said(&output);
        assert!(!output.status.success() && told.contains("bni: No such file"), "{told}");
        assert!(told.contains("named by --cni-bin-dir"), "{told}");
    }
    // The same of a platform.
    let mut command = Command::new(program("balancing-agent"));
    command.args(["cni", "install", "--cni-preset=rke2", "--run-dir"]).arg(host.path("run"));
    let output = command.arg("--host-root").arg(host.path("")).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("preset rke2"), "{}", said(&output));
    assert_eq!(host.read("10-net.conflist"), installed);
    host.succeed("status", &[]);
    host.script("bin/balancing-cni", "hi\n");
    assert!(host.fail("status", &[]).contains("does not run on this host"));
}

#[test]
fn g10_mode_and_owner_stay() {
    let host = Host::with_list();
    let path = host.conf("10-net.conflist");
    let is_root = chown(&path, Some(1001), Some(1002)).is_ok();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    host.succeed("install", &[]);
    let after = fs::metadata(&path).unwrap();
    assert_eq!(after.mode() & 0o7777, 0o640);
    assert!(!is_root || (after.uid(), after.gid()) == (1001, 1002));
}

#[test]
fn g16_leftovers_of_ours_go_and_those_of_others_stay() {
    let host = Host::with_list();
    host.write(".balancing-cni.10-net.conflist.4711.tmp", "half");
    host.write(".10-net.conflist.tmp", "of somebody else");
    fs::write(host.path("bin/.balancing-cni.balancing-cni.4711.tmp"), "half").unwrap();
    host.succeed("install", &[]);
    assert_eq!(host.names("net.d"), [".10-net.conflist.tmp", "10-net.conflist"]);
    assert_eq!(host.names("bin"), [OURS]);
}

#[test]
fn g18_links_stay_links() {
    let host = Host::new();
    fs::create_dir(host.path("elsewhere")).unwrap();
    let target = host.path("elsewhere/real.conflist");
    for link in [Path::new("../elsewhere/real.conflist"), &target] {
        fs::write(&target, LIST).unwrap();
        let path = host.conf("10-net.conflist");
        symlink(link, &path).unwrap();
        host.succeed("install", &[]);
        assert_eq!(fs::read_link(&path).unwrap(), link);
        assert_eq!(types(&fs::read_to_string(&target).unwrap()), ["bridge", OURS]);
        fs::remove_file(&path).unwrap();
    }
    symlink("nowhere", host.conf("10-net.conflist")).unwrap();
    let said = host.fail("install", &[]);
    assert!(said.contains("10-net.conflist is broken") && said.contains("No such file"), "{said}");
    assert_eq!(host.names("net.d"), ["10-net.conflist"]);
}

#[test]
fn g18_a_link_to_where_anyone_may_write_is_not_followed() {
    let host = Host::new();
    let open = host.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(open.join("real"), LIST).unwrap();
    symlink(open.join("real"), host.conf("10-net.conflist")).unwrap();
    let said = host.fail("install", &[]);
    assert!(said.contains("anyone may write") && said.contains("chmod o-w"), "{said}");
    assert_eq!(fs::read_to_string(open.join("real")).unwrap(), LIST);
}

#[test]
fn g33_the_agents_own_binary_is_there_whatever_was() {
    let host = Host::with_list();
    let own = fs::read(program("balancing-cni")).unwrap();
    let (other, target) = (host.script("other", GOOD), host.path("bin").join(OURS));
    host.succeed("install", &[]);
    assert_eq!(fs::read(&target).unwrap(), own);
    let before = inode(&target);
    host.succeed("install", &[]);
    assert_eq!(inode(&target), before);
    // Newer, older: what the agent has is right.
    host.succeed("install", &[&format!("--cni-binary={}", other.display())]);
    assert_eq!(fs::read_to_string(&target).unwrap(), GOOD);
    for existing in [&own[..own.len() / 2], b""] {
        fs::write(&target, existing).unwrap();
        host.succeed("install", &[]);
        assert_eq!(fs::read(&target).unwrap(), own);
    }
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn g34_a_binary_that_is_replaced_can_be_run_at_any_moment() {
    let host = Host::with_list();
    let target = host.path("bin").join(OURS);
    // The same with a byte at its end is another one; a script would be opened twice when it is run.
    let other = host.script("other", "");
    fs::write(&other, [fs::read(program("balancing-cni")).unwrap(), vec![0]].concat()).unwrap();
    let binaries = [program("balancing-cni"), other];
    host.succeed("install", &[]);
    let (ended, runs) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    let output = Command::new(&target).env("CNI_COMMAND", "VERSION").output().unwrap();
                    let has_run = output.status.success();
                    ended.fetch_or(!has_run, Relaxed);
                    assert!(has_run, "{}", said(&output));
                    runs.fetch_add(1, Relaxed);
                }
            });
        }
        for binary in binaries.iter().cycle().take(20) {
            let seen = runs.load(Relaxed);
            let output =
                host.cni("install").arg(format!("--cni-binary={}", binary.display())).output().unwrap();
            if !output.status.success() {
                ended.store(true, Relaxed);
                panic!("{}", said(&output));
            }
            wait_until(LATE, || ended.load(Relaxed) || runs.load(Relaxed) > seen + 4);
        }
        ended.store(true, Relaxed);
    });
}

#[test]
fn g36_a_directory_that_anyone_may_write_is_refused() {
    for name in ["net.d", "bin"] {
        let host = Host::with_list();
        fs::set_permissions(host.path(name), fs::Permissions::from_mode(0o777)).unwrap();
        let said = host.fail("install", &[]);
        assert!(said.contains(&format!("{name} (mode 0777)")), "{said}");
        assert_eq!(host.read("10-net.conflist"), LIST);
    }
    let host = Host::with_list();
    fs::remove_dir(host.path("bin")).unwrap();
    let said = host.fail("install", &[]);
    assert!(said.contains("bin: No such file"), "{said}");
    assert_eq!(host.read("10-net.conflist"), LIST, "binary first");
}

#[test]
fn g37_a_binary_that_does_not_run_here_keeps_everything_as_it_is() {
    let host = Host::with_list();
    let mut foreign = fs::read(program("balancing-cni")).unwrap();
    // e_machine of the ELF header: a machine that there is not.
    foreign[18..20].copy_from_slice(&[0xfe, 0xca]);
    let path = host.script("foreign", "");
    fs::write(&path, foreign).unwrap();
    let said = host.fail("install", &[&format!("--cni-binary={}", path.display())]);
    assert!(said.contains("does not run on this host") && said.contains("architecture"), "{said}");
    assert_eq!((host.read("10-net.conflist").as_str(), host.names("bin").len()), (LIST, 0));
}

#[test]
fn g39_a_platform_is_found_below_the_root_of_the_host() {
    let root = TempDir::new("cni-k3s");
    let net_dir = root.path().join("var/lib/rancher/k3s/agent/etc/cni/net.d");
    let bin_dir = root.path().join("var/lib/rancher/k3s/data/cni");
    for directory in [&net_dir, &bin_dir, &root.path().join("etc/cni/net.d")] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(net_dir.join("10-flannel.conflist"), LIST).unwrap();
    let mut command = Command::new(program("balancing-agent"));
    command.args(["cni", "install", "--host-root"]).arg(root.path());
    let output = command.arg("--run-dir").arg(root.path().join("run")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(bin_dir.join(OURS).is_file());
    assert_eq!(types(&fs::read_to_string(net_dir.join("10-flannel.conflist")).unwrap()), ["bridge", OURS]);
}

#[test]
fn g41_calls_at_once_end_with_one_entry() {
    let host = Host::with_list();
    let work = || {
        for _ in 0..5 {
            let output = host.cni("install").output().unwrap();
            let said = said(&output);
            assert!(output.status.success() || said.contains("another balancing-agent"), "{said}");
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    assert_eq!(host.types("10-net.conflist"), ["bridge", OURS]);
    assert_eq!((host.names("net.d").len(), host.names("bin").len()), (1, 1));
}

/// `cni install` as root without any capability but these.
fn with_capabilities(host: &Host, capabilities: &str) -> (bool, String) {
    let install = host.cni("install");
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-all{capabilities}")).arg("--inh-caps=-all");
    let output = command.arg(install.get_program()).args(install.get_args()).output().unwrap();
    (output.status.success(), said(&output))
}

#[test]
fn g42_least_capabilities() {
    if !require_kernel() {
        return;
    }
    let host = Host::with_list();
    let (installed, said) = with_capabilities(&host, "");
    assert!(installed, "files of root need none: {said}");
    assert_eq!(host.types("10-net.conflist"), ["bridge", OURS]);
    // Directories of others that cannot be read are passed over.
    let host = Host::with_list();
    fs::create_dir(host.conf("other")).unwrap();
    fs::set_permissions(host.conf("other"), fs::Permissions::from_mode(0o700)).unwrap();
    chown(host.conf("other"), Some(1001), Some(1001)).unwrap();
    let (installed, said) = with_capabilities(&host, "");
    assert!(installed, "{said}");
    // Files of others take CHOWN and FOWNER, directories of others DAC_OVERRIDE, too.
    let host = Host::with_list();
    chown(host.conf("10-net.conflist"), Some(1001), Some(1001)).unwrap();
    let (installed, said) = with_capabilities(&host, "");
    assert!(!installed && said.contains("cannot change the owner of"), "{said}");
    assert_eq!(host.read("10-net.conflist"), LIST);
    assert_eq!(host.names("net.d"), ["10-net.conflist"]);
    let (installed, said) = with_capabilities(&host, ",+chown,+fowner");
    assert!(installed, "{said}");
    for name in ["net.d", "bin"] {
        chown(host.path(name), Some(1001), Some(1001)).unwrap();
    }
    host.write("10-net.conflist", LIST);
    let (installed, said) = with_capabilities(&host, ",+chown,+fowner");
    assert!(!installed && said.contains("Permission denied"), "{said}");
    let (installed, said) = with_capabilities(&host, ",+chown,+fowner,+dac_override");
    assert!(installed, "{said}");
    assert_eq!(fs::metadata(host.conf("10-net.conflist")).unwrap().uid(), 1001);
}

#[test]
fn g30_g31_a_drop_in_follows_the_network_and_leaves_for_another_way() {
    let host = Host::with_list();
    host.succeed("install", &["--cni-mode=drop-in"]);
    assert_eq!(host.names("net.d/net"), ["99-balancing.conf"]);
    let told = said(&host.succeed("status", &["--cni-mode=drop-in"]));
    assert!(told.contains("is not known") && !told.contains("pods that start now get"), "{told}");
    assert_eq!(host.read("10-net.conflist"), LIST);
    host.write("10-net.conflist", &LIST.replace("\"net\"", "\"other\""));
    assert!(host.fail("status", &["--cni-mode=drop-in"]).contains("has bridge"));
    host.succeed("install", &["--cni-mode=drop-in"]);
    assert_eq!(host.names("net.d"), ["10-net.conflist", "other"]);
    host.succeed("install", &["--cni-mode=copy"]);
    assert_eq!(host.names("net.d"), ["00-balancing.conflist", "10-net.conflist"]);
    assert_eq!(host.types("10-net.conflist"), ["bridge"]);
    host.succeed("install", &["--cni-mode=inline"]);
    assert_eq!(host.names("net.d"), ["10-net.conflist"]);
    assert_eq!(host.types("10-net.conflist"), ["bridge", OURS]);
    host.succeed("uninstall", &[]);
    assert_eq!(host.types("10-net.conflist"), ["bridge"]);
}

#[test]
fn g36_a_directory_of_drop_ins_can_be_read_whatever_the_umask() {
    let host = Host::with_list();
    let install = host.cni("install");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(install.get_program()).args(install.get_args());
    let output = command.arg("--cni-mode=drop-in").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::metadata(host.conf("net")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn g44_a_dry_run_tells_the_change_and_makes_none() {
    let host = Host::with_list();
    let said = said(&host.succeed("install", &["--dry-run"]));
    let told: Vec<&str> = said.lines().collect();
    assert!(told[0].contains("bin/balancing-cni: as "), "{said}");
    assert_eq!(
        told[1..4],
        ["10-net.conflist, line 5", "-    {\"type\": \"bridge\"}", "+    {\"type\": \"bridge\"},"]
    );
    assert!(told[4].starts_with("+    {") && told[4].contains("\"type\":\"balancing-cni\""), "{said}");
    assert_eq!((host.read("10-net.conflist").as_str(), host.names("bin").len()), (LIST, 0));
    host.succeed("install", &[]);
    let said = String::from_utf8(host.succeed("install", &["--dry-run"]).stdout).unwrap();
    assert_eq!(said, "nothing would be changed\n");
}

#[test]
fn g48_the_networks_name_is_a_flag() {
    let host = Host::with_list();
    host.write("50-named.conflist", &LIST.replace("\"net\"", "\"named\""));
    host.script("bin/bridge", GOOD);
    host.succeed("install", &["--cni-runtime=cri-o", "--cni-network=named", "--cri-socket=off"]);
    assert_eq!(host.read("10-net.conflist"), LIST);
    assert_eq!(host.types("50-named.conflist"), ["bridge", OURS]);
}
