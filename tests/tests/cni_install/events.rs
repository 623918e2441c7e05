//! What watchers of the directories see of an install: containerd and CRI-O react to different events.

use std::{fs, path::Path};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::host::{Host, LIST, OURS, SINGLE};

/// Everything but reading.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE);
/// What fsnotify calls Write, Rename and Remove: containerd's watcher reloads on these (go-cni users: cri `cni_conf_syncer.go`
/// passes over Create and Chmod).
const CONTAINERD: AddWatchFlags =
    AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_MOVED_FROM).union(AddWatchFlags::IN_DELETE);
/// What fsnotify calls Create, Write and Rename: CRI-O's watcher reloads on these (ocicni, `monitorConfDir`).
const CRIO: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_MOVED_FROM);

/// A change: the directory, what happened, and the name.
type Event = (String, AddWatchFlags, String);

struct Watcher {
    inotify: Inotify,
    directories: Vec<(WatchDescriptor, String)>,
}

impl Watcher {
    fn new(directories: &[&Path]) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let watch = |path: &&Path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (inotify.add_watch(*path, CHANGES).unwrap(), name)
        };
        let directories = directories.iter().map(watch).collect();
        Self { inotify, directories }
    }

    /// Everything so far, in the order in which it happened.
    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(more) = self.inotify.read_events() {
            events.extend(more.into_iter().filter_map(|event| {
                let (_, directory) =
                    self.directories.iter().find(|(descriptor, _)| *descriptor == event.wd)?;
                let name = event.name.unwrap_or_default().to_string_lossy().into_owned();
                Some((directory.clone(), event.mask, name))
            }));
        }
        events
    }
}

fn is_loadable(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| ["conf", "conflist", "json"].contains(&extension))
}

/// Position of the last event of a kind in the directory of configurations.
#[track_caller]
fn last(events: &[Event], kind: AddWatchFlags) -> usize {
    let found = events.iter().rposition(|(directory, mask, _)| directory == "net.d" && mask.intersects(kind));
    found.unwrap_or_else(|| panic!("no such event: {events:#?}"))
}

/// An install of a way; its events.
fn install(host: &Host, mode: &str) -> Vec<Event> {
    fs::create_dir_all(host.conf("net")).unwrap();
    let watcher = Watcher::new(&[&host.path("bin"), &host.path("net.d"), &host.conf("net")]);
    host.succeed("install", &[&format!("--cni-mode={mode}")]);
    watcher.events()
}

#[test]
fn g14_a_file_that_is_being_written_has_a_name_that_no_runtime_takes() {
    for (file, text) in [("10-net.conflist", LIST), ("10-net.conf", SINGLE)] {
        for mode in ["inline", "copy", "drop-in"] {
            if (file, mode) == ("10-net.conf", "drop-in") {
                continue;
            }
            let host = Host::new();
            host.write(file, text);
            let events = install(&host, mode);
            let written = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY;
            for (directory, mask, name) in &events {
                assert!(directory == "bin" || !mask.intersects(written) || !is_loadable(name), "{events:#?}");
            }
            let came = |event: &&Event| event.1.contains(AddWatchFlags::IN_MOVED_TO) && is_loadable(&event.2);
            assert_eq!(events.iter().filter(came).count(), 1, "one file gets its name, whole: {events:#?}");
        }
    }
}

#[test]
fn g15_g28_both_runtimes_look_again_when_everything_is_there() {
    for (file, text) in [("10-net.conflist", LIST), ("10-net.conf", SINGLE)] {
        for mode in ["inline", "copy", "drop-in"] {
            if (file, mode) == ("10-net.conf", "drop-in") {
                continue;
            }
            let host = Host::new();
            host.write(file, text);
            let events = install(&host, mode);
            let done = events
                .iter()
                .rposition(|(_, mask, name)| mask.contains(AddWatchFlags::IN_MOVED_TO) && is_loadable(name))
                .unwrap();
            // The two events of a rename tell of the same moment.
            let done = done.saturating_sub(1);
            for kind in [CONTAINERD, CRIO] {
                assert!(last(&events, kind) >= done, "{mode} {file} {kind:?}: {events:#?}");
            }
        }
    }
}

#[test]
fn g15_both_runtimes_look_again_after_an_uninstall() {
    for mode in ["inline", "copy", "drop-in"] {
        let host = Host::with_list();
        install(&host, mode);
        let watcher = Watcher::new(&[&host.path("net.d")]);
        host.succeed("uninstall", &[]);
        let events = watcher.events();
        for kind in [CONTAINERD, CRIO] {
            last(&events, kind);
        }
    }
}

#[test]
fn g38_the_binary_is_there_before_a_configuration_names_it() {
    let host = Host::with_list();
    let events = install(&host, "inline");
    let came = |directory: &str, name: &str| {
        let is_it = |event: &Event| {
            event.0 == directory && event.1.contains(AddWatchFlags::IN_MOVED_TO) && event.2 == name
        };
        events.iter().position(is_it).unwrap()
    };
    assert!(came("bin", OURS) < came("net.d", "10-net.conflist"), "{events:#?}");
    // And it goes after the configuration.
    let watcher = Watcher::new(&[&host.path("bin"), &host.path("net.d")]);
    host.succeed("uninstall", &[]);
    let events = watcher.events();
    let gone = events.iter().position(|event| event.1.contains(AddWatchFlags::IN_DELETE) && event.2 == OURS);
    let out = events.iter().position(|event| event.2 == "10-net.conflist").unwrap();
    assert!(out < gone.unwrap(), "{events:#?}");
}

#[test]
fn g5_g24_a_second_install_is_no_event_for_anybody() {
    let host = Host::with_list();
    install(&host, "inline");
    let events = install(&host, "inline");
    assert_eq!(events, [], "it only looks");
}
