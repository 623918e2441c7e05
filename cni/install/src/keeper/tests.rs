use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;
use crate::entry::Entry;

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;
const BINARY: &str = "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n";
const LATE: Duration = Duration::from_secs(20);

struct Host {
    place: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { place: tempfile::tempdir().unwrap() };
        for name in ["net.d", "bin", "run"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        fs::write(host.path("source"), BINARY).unwrap();
        fs::set_permissions(host.path("source"), fs::Permissions::from_mode(0o755)).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings {
            host: self.place.path().to_owned(),
            net_dir: self.path("net.d"),
            bin_dir: self.path("bin"),
            binary: self.path("source"),
            run_dir: self.path("run"),
            choice: Choice::Auto,
            runtime: Runtime::Containerd,
            reads_drop_ins: false,
            entry: Entry::default().to_json(),
            place: Place::Last,
        }
    }

    fn list(&self) -> PathBuf {
        self.path("net.d/10-net.conflist")
    }
}

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
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let mut keeper = Keeper::new(host.settings());
    keeper.round(Instant::now());
    let before = (inode(&host.list()), inode(&host.path("bin").join(PLUGIN)));
    assert!(!keeper.watch.wait(Duration::from_millis(50)), "its own writes are no reason");
    assert_eq!(keeper.round(Instant::now()), PERIOD);
    assert_eq!((inode(&host.list()), inode(&host.path("bin").join(PLUGIN))), before);
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
}

#[test]
fn uninstalled_nothing_is_left_but_a_binary_that_is_called() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let settings = host.settings();
    settings.install().unwrap();
    fs::create_dir_all(host.path("var/lib/cni/results")).unwrap();
    let cached = host.path("var/lib/cni/results/net-a-eth0");
    fs::write(&cached, "unreadable").unwrap();
    assert_eq!(settings.uninstall().unwrap(), ["net-a-eth0"]);
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
    assert!(host.path("bin").join(PLUGIN).exists());
    fs::remove_file(&cached).unwrap();
    assert!(settings.uninstall().unwrap().is_empty());
    assert!(!host.path("bin").join(PLUGIN).exists());
    // Also when nothing is there at all.
    fs::remove_dir_all(host.path("net.d")).unwrap();
    fs::remove_dir_all(host.path("bin")).unwrap();
    assert!(settings.uninstall().unwrap().is_empty());
}

#[test]
fn drop_ins_are_used_where_they_are_read() {
    let host = Host::new();
    fs::write(host.list(), LIST).unwrap();
    let settings = Settings { reads_drop_ins: true, ..host.settings() };
    settings.install().unwrap();
    assert_eq!(fs::read_to_string(host.list()).unwrap(), LIST);
    assert!(settings.standing().is_ready());
    // A runtime that does not read them is told apart.
    assert!(!host.settings().standing().is_ready());
    let only = LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\":true,\"name\"");
    fs::write(host.list(), only).unwrap();
    settings.install().unwrap();
    assert_eq!(settings.standing().chain, ["bridge", PLUGIN]);
    assert!(!host.path("net.d/net").exists());
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
    let begin = Instant::now();
    assert_eq!(settings.install().unwrap(), 0);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(settings.standing().is_ready());
}
