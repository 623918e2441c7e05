//! Settings of the installer of the CNI plugin.

use std::path::{Path, PathBuf};

use balancing_cni_install::{
    conflist::{PLUGIN, Place},
    directory::Runtime,
    entry::{Entry, Paths},
    keeper::Choice,
    placement::Mode,
    preset::{self, Preset},
};
use clap::{Args, Subcommand};

use super::{Action, PlaceArgs, values::Problems};

/// Where sockets of runtimes usually are. On a platform with one of its own that is asked and no other: Docker's containerd beside
/// it knows nothing of pods.
const SOCKETS: [&str; 2] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];
/// What CRI-O makes, and leaves when it is stopped.
const CRIO: &str = "/run/crio";
/// What the plugin takes for granted; other values are written into its configuration.
const USUAL: (&str, &str) = ("/run/balancing", "/sys/fs/bpf");

/// How the CNI plugin is installed.
#[derive(Args, Clone, Debug)]
pub(super) struct CniArgs {
    /// Platform whose directories are used: auto, standard, gke, k3d, k3s, microk8s or rke2.
    #[arg(long, env = "BALANCING_CNI_PRESET", default_value = "auto")]
    cni_preset: String,
    /// Directory of network configurations; default: that of the platform.
    #[arg(long, env = "BALANCING_CNI_NET_DIR")]
    cni_net_dir: Option<PathBuf>,
    /// Directory of plugins; default: that of the platform.
    #[arg(long, env = "BALANCING_CNI_BIN_DIR")]
    cni_bin_dir: Option<PathBuf>,
    /// The plugin's binary; default: beside that of the agent.
    #[arg(long, env = "BALANCING_CNI_BINARY")]
    cni_binary: Option<PathBuf>,
    /// How it is put in: auto, inline (in the primary's list), drop-in (beside it) or copy (of the list, in front of it).
    #[arg(long, env = "BALANCING_CNI_MODE", default_value = "auto")]
    cni_mode: String,
    /// Its place in the list: last, or before:TYPE.
    #[arg(long, env = "BALANCING_CNI_PLACE", default_value = "last")]
    cni_place: String,
    /// What a pod does that cannot be attached: ignore (it starts, the agent attaches it later) or fail.
    #[arg(long, env = "BALANCING_CNI_FAILURE_POLICY", default_value = "ignore")]
    cni_failure_policy: String,
    /// How the runtime chooses its network: auto, containerd or cri-o.
    #[arg(long, env = "BALANCING_CNI_RUNTIME", default_value = "auto")]
    cni_runtime: String,
    /// Name of the network that CRI-O is told to use (its cni_default_network); default: the first one.
    #[arg(long, env = "BALANCING_CNI_NETWORK")]
    cni_network: Option<String>,
    /// Socket of the runtime (CRI), which tells what it has loaded: a path, auto or off.
    #[arg(long, env = "BALANCING_CRI_SOCKET", default_value = "auto")]
    cri_socket: String,
    /// Root of the host's file system, from a container.
    #[arg(long, env = "BALANCING_HOST_ROOT", default_value = "/")]
    host_root: PathBuf,
}

/// What to do with the CNI plugin.
#[derive(Debug, Subcommand)]
pub(super) enum CniCommand {
    /// Put the plugin into the runtime's directory and into the network configuration.
    Install(CniInstall),
    /// Take it out of the network configuration; its binary goes once no pod needs it.
    Uninstall(CniAlone),
    /// Say whether pods that start now get it.
    Status(CniAlone),
}

/// How to install it.
#[derive(Args, Clone, Debug)]
pub(super) struct CniInstall {
    /// Say what would be changed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    alone: CniAlone,
}

/// The installer without an agent.
#[derive(Args, Clone, Debug)]
pub(super) struct CniAlone {
    #[command(flatten)]
    cni: CniArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

/// What to do with the CNI plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniWork {
    /// Install it.
    Install,
    /// Say what that would change.
    Rehearse,
    /// Uninstall it.
    Uninstall,
    /// Say how it stands.
    Status,
}

/// Valid settings of the installer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// Root of the host's file system.
    pub host: PathBuf,
    /// Directory of network configurations.
    pub net_dir: PathBuf,
    /// Directory of plugins.
    pub bin_dir: PathBuf,
    /// What has named these two: a flag, or the platform.
    pub origins: [String; 2],
    /// The plugin's binary.
    pub binary: PathBuf,
    /// The way it is put in.
    pub choice: Choice,
    /// Its place.
    pub place: Place,
    /// Its entry.
    pub entry: Entry,
    /// How the runtime chooses; `None` = it is asked.
    pub runtime: Option<Runtime>,
    /// The network that CRI-O is told to use; `None` = the first.
    pub network: Option<String>,
    /// Sockets at which the runtime may be asked.
    pub sockets: Vec<PathBuf>,
    /// A directory that is there where CRI-O has run since the host started.
    pub crio: PathBuf,
}

impl Problems {
    pub(super) fn cni_command(&mut self, command: CniCommand) -> Action {
        let (work, args) = match command {
            CniCommand::Install(CniInstall { dry_run: true, alone }) => (CniWork::Rehearse, alone),
            CniCommand::Install(args) => (CniWork::Install, args.alone),
            CniCommand::Uninstall(args) => (CniWork::Uninstall, args),
            CniCommand::Status(args) => (CniWork::Status, args),
        };
        let cni = self.cni(args.cni, &args.place.run_dir, &args.place.bpffs);
        Action::Cni(work, Box::new(cni), self.place(args.place, false))
    }

    pub(super) fn cni(&mut self, args: CniArgs, run_dir: &Path, bpffs: &Path) -> CniConfig {
        let host = self.absolute("--host-root", args.host_root);
        let preset = self.preset(&args.cni_preset, &host);
        let on_host = |path: &str| preset::below(&host, path);
        let choice = self.choice(
            "--cni-mode",
            &args.cni_mode,
            &[
                ("auto", Choice::Auto),
                ("inline", Choice::Only(Mode::Inline)),
                ("drop-in", Choice::Only(Mode::DropIn)),
                ("copy", Choice::Only(Mode::Copy)),
            ],
        );
        let net_dir = self.given_path("--cni-net-dir", args.cni_net_dir);
        let bin_dir = self.given_path("--cni-bin-dir", args.cni_bin_dir);
        let origin = |flag: &str, given: &Option<PathBuf>| match given {
            Some(_) => flag.to_owned(),
            None => format!("the preset {} (--cni-preset); {flag} names another one", preset.name),
        };
        let policies = [("ignore", false), ("fail", true)];
        let differs = |path: &Path, usual: &str| (path != Path::new(usual)).then(|| path.to_owned());
        CniConfig {
            origins: [origin("--cni-net-dir", &net_dir), origin("--cni-bin-dir", &bin_dir)],
            net_dir: net_dir.unwrap_or_else(|| on_host(preset.net_dir)),
            bin_dir: bin_dir.unwrap_or_else(|| on_host(preset.bin_dir)),
            binary: self.given_path("--cni-binary", args.cni_binary).unwrap_or_else(beside_the_agent),
            choice,
            place: self.place_of(&args.cni_place, choice),
            entry: Entry {
                must_attach: self.choice("--cni-failure-policy", &args.cni_failure_policy, &policies),
                // What else the plugin needs the agent tells it in node.json.
                paths: Paths {
                    run_dir: differs(run_dir, USUAL.0),
                    bpffs: differs(bpffs, USUAL.1),
                    cgroup_root: None,
                },
                ..Entry::default()
            },
            runtime: self.choice(
                "--cni-runtime",
                &args.cni_runtime,
                &[("auto", None), ("containerd", Some(Runtime::Containerd)), ("cri-o", Some(Runtime::Crio))],
            ),
            network: args.cni_network.filter(|name| !name.is_empty()),
            sockets: match args.cri_socket.as_str() {
                "off" | "" => Vec::new(),
                "auto" if preset.socket.is_empty() => SOCKETS.into_iter().map(on_host).collect(),
                "auto" => vec![on_host(preset.socket)],
                path => vec![self.absolute("--cri-socket", PathBuf::from(path))],
            },
            crio: on_host(CRIO),
            host,
        }
    }

    fn given_path(&mut self, flag: &str, path: Option<PathBuf>) -> Option<PathBuf> {
        path.filter(|path| !path.as_os_str().is_empty()).map(|path| self.absolute(flag, path))
    }

    fn preset(&mut self, name: &str, host: &Path) -> Preset {
        if name == "auto" {
            return preset::of_host(host);
        }
        if name == "openshift" {
            self.0.push(format!(
                "--cni-preset {name}: there is none, for OpenShift keeps the default network where CRI-O's configuration says: give its network_dir as --cni-net-dir and the first of its plugin_dirs as --cni-bin-dir"
            ));
            return preset::STANDARD;
        }
        preset::named(name).unwrap_or_else(|| {
            let names: Vec<&str> = preset::ALL.iter().map(|preset| preset.name).collect();
            self.0.push(format!("--cni-preset {name}: must be auto or one of {}", names.join(", ")));
            preset::STANDARD
        })
    }

    fn place_of(&mut self, text: &str, choice: Choice) -> Place {
        let before = text.strip_prefix("before:").filter(|kind| !kind.is_empty() && *kind != PLUGIN);
        match (text, before) {
            ("last", _) => Place::Last,
            (_, Some(kind)) if choice != Choice::Only(Mode::DropIn) => Place::Before(kind.to_owned()),
            (_, Some(_)) => {
                self.0.push(format!(
                    "--cni-place {text}: a drop-in is always last; use --cni-mode inline or copy"
                ));
                Place::Last
            }
            _ => {
                self.0.push(format!(
                    "--cni-place {text}: must be last, or before:TYPE, the type of another plugin"
                ));
                Place::Last
            }
        }
    }
}

fn beside_the_agent() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name(PLUGIN)
}
