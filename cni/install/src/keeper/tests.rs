use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;
use crate::{
    fixtures::{BINARY, Host, LIST},
    lock::LOCK,
};

const LATE: Duration = Duration::from_secs(20);

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn g1_the_primary_may_come_later() {
    let host = Host::new();
    let mut keeper = Keeper::new(host.settings());
    keeper.round(Instant::now());
    let standing = keeper.standing().clone();
    assert!(
        standing.problem.as_ref().is_some_and(|why| why.contains("primary network plugin")),
        "{standing:?}"
    );
    assert_eq!(fs::read_dir(host.path("net.d")).unwrap().count(), 0);
    assert!(host.path("bin").join(PLUGIN).exists(), "the binary is first");
    fs::write(host.list(), LIST).unwrap();
    keeper.wait(LATE);
    keeper.round(Instant::now());
    assert!(keeper.standing().is_ready(), "{:?}", keeper.standing());
    assert_eq!(keeper.standing().chain, ["bridge", PLUGIN]);
}

#[test]
fn g5_g24_a_second_round_writes_nothing_and_wakes_nobody() {
    let fresh = || {
        let host = Host::new();
        fs::write(host.list(), LIST).unwrap();
        let mut keeper = Keeper::new(host.settings());
        keeper.round(Instant::now());
        (host, keeper)
    };
    // A process that another test starts just then has our files for a moment, and its exec closes them late.
    let quiet = (0..10).map(|_| fresh()).find_map(|(host, mut keeper)| {
        (!keeper.watch.wait(Duration::from_millis(50))).then_some((host, keeper))
    });
    let (host, mut keeper) = quiet.expect("its own writes are no reason");
    let before = (inode(&host.list()), inode(&host.path("bin").join(PLUGIN)));
    assert_eq!(keeper.round(Instant::now()), PERIOD);
    assert_eq!((inode(&host.list()), inode(&host.path("bin").join(PLUGIN))), before);
}

#[test]
fn g41_a_lock_that_is_held_for_a_moment_is_waited_for() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let settings = host.settings();
    let held = settings.lock().unwrap();
    assert!(matches!(settings.install(), Err(Error::Locked(_))), "not for ever");
    thread::scope(|scope| {
        let installed = scope.spawn(|| settings.install());
        thread::sleep(LOCK.1);
        drop(held);
        assert!(installed.join().unwrap().is_ok());
    });
}

/// The keeper at work beside whatever the closure does.
fn beside(keeper: &mut Keeper, work: impl FnOnce() + Send) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            work();
            ended.store(true, Ordering::Release);
        });
        while !ended.load(Ordering::Acquire) {
            let next = keeper.round(Instant::now());
            keeper.wait(next.min(SETTLE));
        }
    });
}

#[test]
fn g20_however_the_primary_writes_ours_is_back() {
    let host = Host::new();
    let list = host.list();
    fs::write(&list, LIST).unwrap();
    let mut keeper = Keeper::new(host.settings());
    let other = host.path("net.d/.new");
    let ways: [&(dyn Fn() + Sync); 3] = [
        &|| fs::write(&list, LIST).unwrap(),
        &|| {
            fs::write(&other, LIST).unwrap();
            fs::rename(&other, &list).unwrap();
        },
        &|| {
            fs::remove_file(&list).unwrap();
            fs::write(&list, LIST).unwrap();
        },
    ];
    for way in ways {
        beside(&mut keeper, || {
            way();
            let begin = Instant::now();
            while !fs::read_to_string(&list).is_ok_and(|text| text.contains(PLUGIN)) {
                assert!(begin.elapsed() < LATE);
                thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(keeper.standing().is_ready());
    }
}

#[test]
fn g41_of_two_agents_one_installs() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let settings = host.settings();
    let lock = settings.lock().unwrap();
    let mut keeper = Keeper::new(host.settings());
    keeper.round(Instant::now());
    let problem = keeper.standing().problem.clone().unwrap();
    assert!(problem.contains("another balancing-agent"), "{problem}");
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
    drop(lock);
    keeper.round(Instant::now());
    assert!(keeper.standing().is_ready());
}

#[test]
fn g41_agents_that_share_nothing_but_the_directory_of_configurations() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let other = Settings { run_dir: host.path("other"), ..host.settings() };
    let held = other.lock().unwrap();
    assert!(matches!(host.settings().install(), Err(Error::Locked(_))));
    drop(held);
    assert!(host.settings().install().is_ok());
}

#[test]
fn g20_who_writes_right_behind_ours_is_not_overlooked() {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < LATE, "nobody was fast enough");
        let host = Host::new();
        let list = host.list();
        fs::write(&list, LIST).unwrap();
        let mut keeper = Keeper::new(host.settings());
        let next = thread::scope(|scope| {
            scope.spawn(|| {
                while !fs::read_to_string(&list).is_ok_and(|text| text.contains(PLUGIN)) {}
                fs::write(&list, LIST).unwrap();
            });
            keeper.round(Instant::now())
        });
        if !keeper.standing().is_ready() {
            assert_eq!(next, AGAIN);
            return;
        }
    }
}

#[test]
fn g23_a_fight_is_told_and_costs_little() {
    let host = Host::new();
    let mut keeper = Keeper::new(host.settings());
    let begin = Instant::now();
    let mut repairs = 0;
    for second in 0..600 {
        fs::write(host.list(), LIST).unwrap();
        keeper.round(begin + Duration::from_secs(second));
        repairs += usize::from(keeper.standing().is_ready());
    }
    assert!(repairs < 16, "{repairs}");
    let problem = keeper.standing().problem.clone().unwrap();
    assert!(problem.contains("again and again") && problem.contains("10-net.conflist"), "{problem}");
    assert_eq!(keeper.standing().fights, 1);
    assert!(keeper.standing().writes >= repairs as u64);
}

#[test]
fn g33_in_a_fight_the_next_look_is_no_later_than_else() {
    let host = Host::new();
    let mut keeper = Keeper::new(host.settings());
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    for second in 0..60 {
        fs::write(host.list(), LIST).unwrap();
        let now = begin + Duration::from_secs(second);
        assert!(keeper.round(now) <= PERIOD);
        longest = longest.max(keeper.truce(now).map_or(Duration::ZERO, |until| until - now));
    }
    assert!(longest > PERIOD, "the list itself is left alone for longer: {longest:?}");
}

#[test]
fn a_directory_that_cannot_be_swept_stops_nothing() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    // A temporary name that is a directory cannot be removed.
    fs::create_dir_all(host.path("net.d/other/.balancing-cni.x.1.tmp")).unwrap();
    host.settings().install().unwrap();
    assert!(host.settings().standing().is_ready());
    host.settings().uninstall(|| None).unwrap();
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
}

#[test]
fn g23_a_fight_about_a_file_says_nothing_of_another() {
    let host = Host::new();
    let (mut keeper, now) = (Keeper::new(host.settings()), Instant::now());
    // The first time, and what a primary plugin writes while it starts.
    for _ in 0..4 {
        fs::write(host.list(), LIST).unwrap();
        keeper.round(now);
        assert!(keeper.standing().is_ready() && keeper.standing().fights == 0, "{:?}", keeper.standing());
    }
    fs::write(host.list(), LIST).unwrap();
    keeper.round(now);
    assert_eq!(keeper.standing().fights, 1);
    fs::write(host.list(), LIST).unwrap();
    keeper.round(now);
    let problem = keeper.standing().problem.clone().unwrap();
    assert!(problem.contains("--cni-mode drop-in") && problem.contains("--cni-mode copy"), "{problem}");
    for first in ["05-first.conflist", "01-single.conf"] {
        let text =
            if first.ends_with(".conf") { r#"{"cniVersion":"1.0.0","name":"x","type":"ptp"}"# } else { LIST };
        for _ in 0..4 {
            fs::write(host.path("net.d").join(first), text).unwrap();
            keeper.round(now);
            assert!(keeper.standing().is_ready() && keeper.standing().fights == 1, "{:?}", keeper.standing());
        }
    }
    fs::write(host.path("net.d/01-single.conf"), r#"{"cniVersion":"1.0.0","name":"x","type":"ptp"}"#)
        .unwrap();
    keeper.round(now);
    assert_eq!(
        keeper.standing().fights,
        2,
        "the list that is made of a single configuration is the same network"
    );
}

#[test]
fn g33_wrong_settings_leave_what_works() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    host.settings().install().unwrap();
    let installed = fs::read_to_string(host.list()).unwrap();
    fs::create_dir(host.path("empty")).unwrap();
    fs::write(host.path("unfit"), "#!/nonexistent\n").unwrap();
    fs::set_permissions(host.path("unfit"), fs::Permissions::from_mode(0o755)).unwrap();
    for (bin_dir, binary, why) in
        [("bni", "source", "--cni-bin-dir"), ("empty", "unfit", "does not run on this host")]
    {
        let wrong = Settings { bin_dir: host.path(bin_dir), binary: host.path(binary), ..host.settings() };
        let refused = wrong.install().unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        let mut keeper = Keeper::new(wrong.clone());
        keeper.round(Instant::now());
        assert!(keeper.standing().problem.as_ref().is_some_and(|told| told.contains(why)));
        assert!(bin_dir == "empty" || wrong.standing().problem.unwrap().contains(why));
        assert_eq!(fs::read_to_string(host.list()).unwrap(), installed);
    }
    let wrong = Settings { net_dir: host.path("net"), ..host.settings() };
    for told in [wrong.install().unwrap_err().to_string(), wrong.standing().problem.unwrap()] {
        assert!(told.contains("No such file") && told.contains("--cni-net-dir"), "{told}");
    }
    assert!(host.settings().tried().is_ready());
}

#[test]
fn g33_a_program_that_does_not_answer_is_not_in_force() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    host.settings().install().unwrap();
    for text in ["hi\n", "#!/bin/sh\nexit 1\n"] {
        fs::write(host.path("bin").join(PLUGIN), text).unwrap();
        let standing = host.settings().tried();
        assert!(standing.problem.as_ref().is_some_and(|told| told.contains("as a plugin: ")), "{standing:?}");
    }
}

#[test]
fn g49_a_list_whose_name_runtimes_do_not_take_is_told_and_not_joined() {
    let host = Host::new();
    for (name, why) in
        [("\"title\":\"net\"", "it has no name"), ("\"name\":\"\"", "is none that runtimes take")]
    {
        fs::write(host.list(), LIST).unwrap();
        host.settings().install().unwrap();
        let ours = fs::read_to_string(host.list()).unwrap().replace("\"name\":\"net\"", name);
        let bare = LIST.replace("\"name\":\"net\"", name);
        for text in [&ours, &bare] {
            fs::write(host.list(), text).unwrap();
            let standing = host.settings().standing();
            assert!(standing.problem.as_ref().is_some_and(|told| told.contains(why)), "{standing:?}");
            assert!(host.settings().install().unwrap_err().to_string().contains(why));
        }
        assert_eq!(fs::read_to_string(host.list()).unwrap(), bare);
    }
}

#[test]
fn g33_the_program_comes_back_also_in_a_fight() {
    let host = Host::new();
    let mut keeper = Keeper::new(host.settings());
    let now = Instant::now();
    while keeper.standing().fights == 0 {
        fs::write(host.list(), LIST).unwrap();
        keeper.round(now);
    }
    fs::remove_file(host.path("bin").join(PLUGIN)).unwrap();
    let status = host.settings().standing();
    assert!(!status.is_ready() && status.problem.as_ref().unwrap().contains("is no program"), "{status:?}");
    keeper.round(now);
    assert!(keeper.standing().is_ready(), "{:?}", keeper.standing());
    assert!(host.path("bin").join(PLUGIN).exists());
}

#[test]
fn g33_without_a_program_no_list_names_it() {
    for fights in [0, 1] {
        let host = Host::new();
        let mut keeper = Keeper::new(host.settings());
        let now = Instant::now();
        fs::write(host.list(), LIST).unwrap();
        keeper.round(now);
        while keeper.standing().fights < fights {
            fs::write(host.list(), LIST).unwrap();
            keeper.round(now);
        }
        fs::write(host.path("source"), "#!/nonexistent\n").unwrap();
        keeper.round(now);
        assert!(fs::read_to_string(host.list()).unwrap().contains(PLUGIN), "the older one does");
        fs::remove_file(host.path("bin").join(PLUGIN)).unwrap();
        keeper.round(now);
        assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
        let problem = keeper.standing().problem.clone().unwrap();
        assert!(problem.contains("does not run on this host") || fights == 1, "{problem}");
        fs::write(host.path("source"), BINARY).unwrap();
        keeper.round(now + Duration::from_secs(3));
        assert!(keeper.standing().is_ready(), "{:?}", keeper.standing());
    }
}

#[test]
fn drop_ins_are_used_where_they_are_read() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let settings = Settings { reads_drop_ins: Some(true), ..host.settings() };
    settings.install().unwrap();
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
    assert!(settings.standing().is_ready());
    // Whether one that does not tell reads it nobody knows, and one that does not read them is told apart.
    let silent = host.settings().standing();
    assert!(silent.is_ready() && silent.is_assumed && !settings.standing().is_assumed);
    let older = Settings { reads_drop_ins: Some(false), ..host.settings() };
    assert!(!older.standing().is_ready());
    host.settings().install().unwrap();
    let silent = host.settings().standing();
    assert!(silent.is_ready() && !silent.is_assumed, "auto takes what is sure");
    assert!(!host.path("net.d/net").exists());
    settings.install().unwrap();
    let only = LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\":true,\"name\"");
    fs::write(host.list(), only).unwrap();
    settings.install().unwrap();
    assert_eq!(settings.standing().chain, ["bridge", PLUGIN]);
    assert!(!host.path("net.d/net").exists());
}

#[test]
fn g29_a_runtime_that_is_too_old_gets_no_drop_in() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let older = Settings { reads_drop_ins: Some(false), ..host.settings() };
    let only = Settings { choice: Choice::Only(Mode::DropIn), ..older.clone() };
    assert!(only.install().unwrap_err().to_string().contains("older"));
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
    // A drop-in that an upgrade had brought goes with the downgrade.
    Settings { reads_drop_ins: Some(true), ..host.settings() }.install().unwrap();
    older.install().unwrap();
    assert_eq!(older.standing().chain, ["bridge", PLUGIN]);
    assert!(!host.path("net.d/net").exists());
}

#[test]
fn g44_a_rehearsal_writes_nothing() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let said = host.settings().rehearse().unwrap();
    assert!(said.contains("bin/balancing-cni: as ") && said.contains("10-net.conflist, line 1"), "{said}");
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
    let names = ["net.d", "bin", "run"].map(|name| fs::read_dir(host.path(name)).unwrap().count());
    assert_eq!(names, [1, 0, 0]);
    host.settings().install().unwrap();
    assert_eq!(host.settings().rehearse().unwrap(), "");
}

#[test]
fn g43_many_and_large_files_are_read_in_time() {
    let host = Host::new();
    let padding = "x".repeat(1 << 20);
    fs::write(host.list(), LIST.replace("\"name\"", &format!("\"pad\":\"{padding}\",\"name\""))).unwrap();
    for number in 0..200 {
        fs::write(host.path(&format!("net.d/50-{number}.conflist")), LIST).unwrap();
    }
    let settings = host.settings();
    settings.install().unwrap();
    let times = (0..20).map(|_| {
        let begin = Instant::now();
        assert_eq!(settings.install().unwrap(), 0);
        begin.elapsed()
    });
    // The fastest: what else the machine does is no part of it.
    let fastest = times.min().unwrap();
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
    assert!(settings.standing().is_ready());
}

#[test]
fn g45_ours_leaves_a_list_whose_version_it_does_not_speak() {
    let host = Host::new();
    for choice in [Choice::Auto, Choice::Only(Mode::DropIn), Choice::Only(Mode::Copy)] {
        let settings = Settings { choice, ..host.settings() };
        fs::write(host.list(), LIST).unwrap();
        settings.install().unwrap();
        let older = fs::read_to_string(host.list()).unwrap().replace("1.0.0", "0.2.0");
        fs::write(host.list(), older).unwrap();
        let mut keeper = Keeper::new(settings);
        keeper.round(Instant::now());
        assert!(keeper.standing().problem.as_ref().is_some_and(|why| why.contains("cniVersion 0.2.0")));
        assert_eq!(keeper.standing().chain, ["bridge"], "{choice:?}");
    }
}

#[test]
fn g46_a_copy_goes_when_multus_comes() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let settings = Settings { choice: Choice::Only(Mode::Copy), ..host.settings() };
    let mut keeper = Keeper::new(settings);
    keeper.round(Instant::now());
    assert!(keeper.standing().is_ready());
    fs::write(host.path("net.d/00-multus.conf"), r#"{"cniVersion":"0.3.1","name":"m","type":"multus"}"#)
        .unwrap();
    keeper.round(Instant::now());
    assert!(keeper.standing().problem.as_ref().is_some_and(|why| why.contains("Multus")));
    assert_eq!(fs::read_dir(host.path("net.d")).unwrap().count(), 2, "no copy");
}

#[test]
fn g47_ours_leaves_a_list_in_which_it_would_be_the_first() {
    let host = Host::new();
    let wanted = [r#"{"type":"bridge"}"#, r#"{"type":"portmap"}"#];
    fs::write(host.list(), LIST.replace(wanted[0], &wanted.join(","))).unwrap();
    let settings = Settings { place: Place::Before("portmap".to_owned()), ..host.settings() };
    let mut keeper = Keeper::new(settings);
    keeper.round(Instant::now());
    assert_eq!(keeper.standing().chain, ["bridge", PLUGIN, "portmap"]);
    let ours = format!("{{\"type\":\"{PLUGIN}\"}}");
    fs::write(host.list(), LIST.replace(wanted[0], &format!("{ours},{},{}", wanted[1], wanted[0]))).unwrap();
    assert!(!keeper.settings.standing().is_ready(), "the first of a chain fails each pod");
    keeper.round(Instant::now());
    let why = keeper.standing().problem.clone().unwrap();
    assert!(why.contains("portmap is the first plugin") && !why.contains("  "), "{why}");
    assert_eq!(keeper.standing().chain, ["portmap", "bridge"]);
}

#[test]
fn g48_the_network_that_cri_o_is_told_counts() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let named = host.path("net.d/50-named.conflist");
    let text = LIST.replace("\"net\"", "\"named\"").replace("bridge", "ptp");
    fs::write(host.path("net.d/20-x.conflist"), "{").unwrap();
    let network = Some("named".to_owned());
    let containerd = Settings { network: network.clone(), ..host.settings() };
    for choice in [Choice::Only(Mode::Inline), Choice::Only(Mode::Copy), Choice::Only(Mode::DropIn)] {
        let settings = Settings { runtime: Runtime::Crio, choice, ..containerd.clone() };
        fs::remove_file(&named).ok();
        let refused = settings.install().unwrap_err().to_string();
        assert!(refused.contains("the name named") && refused.contains("--cni-network"), "{refused}");
        assert_eq!(settings.standing().problem, Some(refused));
        fs::write(&named, &text).unwrap();
        settings.install().unwrap();
        assert_eq!(settings.install().unwrap(), 0);
        let standing = settings.standing();
        assert_eq!(standing.chain, ["ptp", PLUGIN]);
        assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
        settings.uninstall(|| None).unwrap();
    }
    // containerd knows no names.
    assert_eq!(containerd.standing().chain, ["bridge"]);
}

#[test]
fn g29_a_runtime_that_is_late_takes_no_drop_in_away() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let knows = Settings { reads_drop_ins: Some(true), ..host.settings() };
    knows.install().unwrap();
    let drop_in = host.path("net.d/net/99-balancing.conf");
    assert!(drop_in.exists());
    Settings { reads_drop_ins: None, runtime_is_awaited: true, ..host.settings() }.install().unwrap();
    assert!(drop_in.exists());
    Settings { reads_drop_ins: None, ..host.settings() }.install().unwrap();
    assert!(!drop_in.exists(), "one that never answers reads none for sure");
}
