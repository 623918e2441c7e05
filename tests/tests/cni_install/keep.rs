//! The agent that keeps the plugin in the configuration while others write it.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use balancing_tests::*;
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::host::{
    Host, Kept, LATE, LIST, OURS, SINGLE, beside_of, rename_over, said, tmpfs, types, with_own_mounts,
};

/// Within this time what was rewritten has ours again.
const TARGET: Duration = Duration::from_secs(1);
/// So long a fight is watched: above the first waits of the installer, and half a minute of rest in the end.
const FIGHT: Duration = Duration::from_secs(31);

/// Waits until a file has ours in it, once and last.
#[track_caller]
fn wait_ours(path: &Path) {
    wait_until(LATE, || {
        let types = fs::read_to_string(path).map(|text| types(&text)).unwrap_or_default();
        types.iter().filter(|kind| *kind == OURS).count() == 1
            && types.last().is_some_and(|kind| kind == OURS)
    });
}

#[test]
fn g1_the_primary_may_come_later() {
    if !require_kernel() {
        return;
    }
    let kept = Kept::start(Host::new(), &[]);
    let view =
        kept.wait(|view| view.problem.as_ref().is_some_and(|why| why.contains("primary network plugin")));
    assert!(!view.in_force && view.chain.is_empty(), "{view:?}");
    let (status, body) = kept.readyz();
    assert!(status == 503 && body.contains("cni: there is no network configuration yet"), "{body}");
    assert_eq!(kept.metric("balancing_cni_in_force"), 0);
    assert!(!kept.node.view().unwrap().ready, "status says what /readyz says");
    assert!(kept.host.names("net.d").is_empty());
    kept.host.write("10-net.conflist", LIST);
    kept.wait_chain(&["bridge"]);
    kept.node.wait_view(|view| view.ready);
    assert_eq!(kept.readyz(), (200, "ok\n".to_owned()));
    wait_until(LATE, || kept.metric("balancing_cni_in_force") == 1);
    let status = String::from_utf8(kept.node.ctl(&["status"]).stdout).unwrap();
    assert!(status.contains("CNI:       in force (10-net.conflist: bridge, balancing-cni)"), "{status}");
}

#[test]
fn g3_a_single_configuration_that_is_written_again_is_replaced_again() {
    if !require_kernel() {
        return;
    }
    let host = Host::new();
    host.write("10-net.conf", SINGLE);
    let kept = Kept::start(host, &[]);
    kept.wait_chain(&["bridge"]);
    kept.host.write("10-net.conf", &SINGLE.replace("bridge", "ptp"));
    kept.wait_chain(&["ptp"]);
    assert_eq!(kept.host.names("net.d"), ["10-net.conf.conflist", "10-net.conf.replaced-by-balancing"]);
}

#[test]
fn g19_a_directory_that_goes_and_comes_again_is_kept_too() {
    if !require_kernel() {
        return;
    }
    with_own_mounts(|| {
        let host = Host::new();
        fs::remove_dir(host.path("net.d")).unwrap();
        let kept = Kept::start(host, &[]);
        kept.wait(|view| view.problem.as_ref().is_some_and(|why| why.contains("net.d: No such file")));
        for _ in 0..2 {
            fs::create_dir(kept.host.path("net.d")).unwrap();
            kept.host.write("10-net.conflist", LIST);
            kept.wait_chain(&["bridge"]);
            fs::remove_dir_all(kept.host.path("net.d")).unwrap();
            kept.wait(|view| !view.in_force);
        }
        // No event tells of a mount: the look every 10 s finds it.
        fs::create_dir(kept.host.path("net.d")).unwrap();
        kept.wait(|view| view.problem.as_ref().is_some_and(|why| why.contains("primary network plugin")));
        tmpfs(&kept.host.path("net.d"), MsFlags::empty(), "mode=755");
        kept.host.write("10-net.conflist", &LIST.replace("bridge", "ptp"));
        kept.wait_chain(&["ptp"]);
        drop(kept.node);
        umount2(&kept.host.path("net.d"), MntFlags::MNT_DETACH).unwrap();
    });
}

/// A way to write a file again.
type Way = dyn Fn(&Path);

#[test]
fn g20_however_the_primary_writes_ours_is_back_at_once() {
    if !require_kernel() {
        return;
    }
    let in_place = |path: &Path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(LIST.as_bytes(), 0).unwrap();
        file.set_len(LIST.len() as u64).unwrap();
    };
    let again = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::write(path, LIST).unwrap();
    };
    let ways: [(&str, &Way); 4] = [
        ("written in place", &in_place),
        ("renamed over", &|path| rename_over(path, LIST)),
        ("removed and made", &again),
        ("cut off and written", &|path| fs::write(path, LIST).unwrap()),
    ];
    for (name, way) in ways {
        undisturbed(|| {
            let kept = Kept::start(Host::with_list(), &[]);
            kept.wait_chain(&["bridge"]);
            let path = kept.host.conf("10-net.conflist");
            let begin = Instant::now();
            way(&path);
            wait_ours(&path);
            let took = begin.elapsed();
            eprintln!("{name}: {took:?}");
            // The binary, the list, and the list again: nothing else was written, nor by its own events.
            let view = kept.wait(|view| view.in_force && view.writes >= 3);
            assert_eq!(view.writes, 3, "{view:?}");
            (took < TARGET).then_some(())
        });
    }
}

#[test]
fn g22_half_of_a_file_is_waited_for() {
    if !require_kernel() {
        return;
    }
    let kept = Kept::start(Host::with_list(), &[]);
    kept.wait_chain(&["bridge"]);
    let (half, rest) = LIST.split_at(LIST.len() / 2);
    kept.host.write("10-net.conflist", half);
    kept.wait(|view| view.problem.as_ref().is_some_and(|why| why.contains("10-net.conflist is broken")));
    assert_eq!(kept.host.read("10-net.conflist"), half);
    kept.host.write("10-net.conflist", &(half.to_owned() + rest));
    kept.wait_chain(&["bridge"]);
}

#[test]
fn g23_a_fight_is_told_and_costs_little() {
    if !require_kernel() {
        return;
    }
    let mut kept = Kept::start(Host::with_list(), &[]);
    kept.wait_chain(&["bridge"]);
    let path = kept.host.conf("10-net.conflist");
    // Somebody who looks every 100 ms and wants the list as it was.
    let other = || {
        if fs::read_to_string(&path).is_ok_and(|text| text != LIST) {
            rename_over(&path, LIST);
        }
        // Also while ours stays away there is something to look at.
        fs::write(path.with_extension("state"), "x").unwrap();
    };
    beside_of(Duration::from_millis(100), other, || {
        let problem = kept.wait(|view| view.fights == 1 && !view.in_force).problem.unwrap();
        assert!(problem.contains("somebody else takes our plugin out of 10-net.conflist again and again"));
        let pid = kept.node.agent().pid();
        let (begin, cpu_before, lines) = (Instant::now(), cpu(pid), kept.node.agent().log().lines().count());
        wait_until(2 * FIGHT, || begin.elapsed() >= FIGHT);
        let (used, lines) = (cpu(pid) - cpu_before, kept.node.agent().log().lines().count() - lines);
        let writes = kept.view().unwrap().writes;
        eprintln!("{FIGHT:?} of a fight: {used:?} of CPU, {lines} lines of log, {writes} writes");
        assert!(used < FIGHT / 20, "{used:?}");
        assert!(lines < 30 && writes < 15, "{lines} lines, {writes} writes");
        assert_eq!(kept.metric("balancing_cni_fights_total"), 1);
        // But for the moments in which ours is back.
        wait_until(LATE, || kept.readyz().1.contains("again and again"));
    });
}

#[test]
fn g32_the_copy_follows_the_primary() {
    if !require_kernel() {
        return;
    }
    let kept = Kept::start(Host::with_list(), &["--cni-mode=copy"]);
    kept.wait_chain(&["bridge"]);
    rename_over(&kept.host.conf("10-net.conflist"), &LIST.replace("bridge", "ptp"));
    kept.wait_chain(&["ptp"]);
    assert_eq!(kept.host.types("10-net.conflist"), ["ptp"]);
    assert_eq!(kept.host.types("00-balancing.conflist"), ["ptp", OURS]);
}

#[test]
fn g33_a_binary_that_somebody_replaces_or_removes_is_back() {
    if !require_kernel() {
        return;
    }
    let mut kept = Kept::start(Host::with_list(), &[]);
    kept.wait_chain(&["bridge"]);
    let (target, own) = (kept.host.path("bin").join(OURS), fs::read(program("balancing-cni")).unwrap());
    let mut told = || kept.node.agent().log().matches("program is put in place").count();
    let before = told();
    fs::remove_file(&target).unwrap();
    wait_until(LATE, || fs::read(&target).is_ok_and(|found| found == own));
    wait_until(LATE, || told() == before + 1);
    rename_over(&target, "of somebody else");
    wait_until(LATE, || fs::read(&target).is_ok_and(|found| found == own));
}

#[test]
fn h23_beside_an_agent_that_installs_an_uninstall_is_refused() {
    if !require_kernel() {
        return;
    }
    let mut kept = Kept::start(Host::with_list(), &[]);
    kept.wait_chain(&["bridge"]);
    let uninstall = |kept: &Kept| {
        let mut command = kept.host.cni_at("uninstall", kept.node.run_dir());
        command.arg("--bpffs").arg(kept.node.bpffs()).output().unwrap()
    };
    let output = uninstall(&kept);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("installs the plugin (--install-cni): stop it"), "{}", said(&output));
    assert_eq!(kept.host.types("10-net.conflist"), ["bridge", OURS]);
    kept.node.agent().terminate();
    let output = uninstall(&kept);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(kept.host.read("10-net.conflist"), LIST);
}

#[test]
fn g41_of_two_agents_with_a_run_directory_the_second_does_not_start() {
    if !require_kernel() {
        return;
    }
    let kept = Kept::start(Host::with_list(), &[]);
    kept.wait_chain(&["bridge"]);
    let second = kept.node.run_to_end();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another agent holds"));
    // A call beside the one that runs finds everything done.
    let mut command = kept.host.cni_at("install", kept.node.run_dir());
    let output = command.arg("--bpffs").arg(kept.node.bpffs()).output().unwrap();
    assert!(said(&output).contains("writes=0"), "{}", said(&output));
}
