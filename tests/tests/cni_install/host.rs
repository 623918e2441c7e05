//! The directories of a node, and the agent that installs into them.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use balancing_core::view::PluginView;
use balancing_tests::*;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

/// Far above what anything takes.
pub(crate) const LATE: Duration = Duration::from_secs(60);
/// Our plugin.
pub(crate) const OURS: &str = "balancing-cni";
/// A list as a primary plugin writes it.
pub(crate) const LIST: &str = "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"bridge\"}\n  ]\n}\n";
/// A single configuration.
pub(crate) const SINGLE: &str = r#"{"cniVersion": "0.3.1", "name": "net", "type": "bridge"}"#;
/// What counts as a plugin to the installer.
pub(crate) const GOOD: &str =
    "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}'\n";

/// The directories `net.d`, `bin` and `run`, and that in which libcni keeps results.
pub(crate) struct Host {
    place: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let place = TempDir::new("cni-host");
        for name in ["net.d", "bin", "run", "var/lib/cni/results"] {
            fs::create_dir_all(place.path().join(name)).unwrap();
        }
        Self { place }
    }

    /// A host whose primary plugin has written its list.
    pub(crate) fn with_list() -> Self {
        let host = Self::new();
        host.write("10-net.conflist", LIST);
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A file of the network configuration.
    pub(crate) fn conf(&self, name: &str) -> PathBuf {
        self.path("net.d").join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.conf(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.conf(name)).unwrap()
    }

    /// Names in a directory.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A program of that text.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The flags that say where everything is.
    pub(crate) fn flags(&self) -> Vec<String> {
        let flag = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        vec![
            format!("--host-root={}", self.place.path().display()),
            flag("cni-net-dir", "net.d"),
            flag("cni-bin-dir", "bin"),
        ]
    }

    /// `balancing-agent cni WORK`, not run yet.
    pub(crate) fn cni(&self, work: &str) -> Command {
        self.cni_at(work, &self.path("run"))
    }

    /// The same with another run directory.
    pub(crate) fn cni_at(&self, work: &str, run_dir: &Path) -> Command {
        let mut command = Command::new(program("balancing-agent"));
        command.args(["cni", work]).args(self.flags()).arg("--run-dir").arg(run_dir);
        command
    }

    /// Runs it with more flags, which must succeed.
    #[track_caller]
    pub(crate) fn succeed(&self, work: &str, flags: &[&str]) -> Output {
        let output = self.cni(work).args(flags).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        output
    }

    /// Runs it with more flags, which must fail; what it says.
    #[track_caller]
    pub(crate) fn fail(&self, work: &str, flags: &[&str]) -> String {
        let output = self.cni(work).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    }

    /// Types of the plugins of a file.
    pub(crate) fn types(&self, name: &str) -> Vec<String> {
        types(&self.read(name))
    }
}

/// What a command has printed.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Types of the plugins of a list; none of a text that is none.
pub(crate) fn types(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
    plugins.iter().map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned()).collect()
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// A host whose agent runs and keeps the plugin.
pub(crate) struct Kept {
    pub(crate) host: Host,
    pub(crate) node: Node,
}

impl Kept {
    /// The agent has started, with more flags.
    pub(crate) fn start(host: Host, flags: &[&str]) -> Self {
        let all = host.flags();
        let all: Vec<&str> =
            all.iter().map(String::as_str).chain(["--install-cni"]).chain(flags.iter().copied()).collect();
        let mut node = Node::with("cni-install", &all);
        node.start_until(|view| view.plugin.is_some());
        Self { host, node }
    }

    /// What the agent says about the plugin.
    pub(crate) fn view(&self) -> Result<PluginView, String> {
        self.node.view()?.plugin.ok_or_else(|| "the agent does not install the plugin".to_owned())
    }

    /// Waits until the agent says something about the plugin.
    #[track_caller]
    pub(crate) fn wait(&self, mut wanted: impl FnMut(&PluginView) -> bool) -> PluginView {
        eventually_within(LATE, || match self.view() {
            Ok(view) if wanted(&view) => Ok(view),
            other => Err(format!("{other:#?}")),
        })
    }

    /// Waits until pods get these plugins and ours last.
    #[track_caller]
    pub(crate) fn wait_chain(&self, others: &[&str]) -> PluginView {
        let chain = [others, &[OURS]].concat();
        self.wait(|view| view.in_force && view.chain == chain)
    }

    /// What `/readyz` says.
    pub(crate) fn readyz(&self) -> (u16, String) {
        let server = self.node.view().unwrap().http.unwrap().to_string();
        self.node.http(&server, "/readyz").unwrap()
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let server = self.node.view().unwrap().metrics.unwrap().to_string();
        let (_, text) = self.node.http(&server, "/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap().parse().unwrap()
    }
}

/// Mounts are seen by the closure and by what it starts, and end with it.
pub(crate) fn with_own_mounts(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Mounts a file system that is in memory.
pub(crate) fn tmpfs(target: &Path, flags: MsFlags, options: &str) {
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(OsStr::new(options))).unwrap();
}

/// What another program does again and again beside the work.
pub(crate) fn beside_of(pause: Duration, look: impl Fn() + Sync, work: impl FnOnce()) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                look();
                thread::sleep(pause);
            }
        });
        // Also when the work fails the other one has to end.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        ended.store(true, Relaxed);
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Replaces a file as careful programs do.
pub(crate) fn rename_over(path: &Path, text: &str) {
    let other = path.with_extension("tmp");
    fs::write(&other, text).unwrap();
    fs::rename(&other, path).unwrap();
}
