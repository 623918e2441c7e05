//! The agent's settings: flags, then environment, then defaults; all problems in one message.
//!
//! `run` and `cleanup` share the flags that say where things are.

use std::{collections::BTreeSet, num::NonZeroU32, path::PathBuf};

use balancing_dataplane::{loader::Sizes, model::Clients};
use clap::{Args, Parser, Subcommand};

use crate::listen::Listen;
use balancing_core::resolve::{ClusterPods, Role, Settings};
use balancing_kube::api::PLURALS;

use cni::{CniArgs, CniCommand};
use values::{Problems, given};

mod cni;
mod values;

pub use cni::{CniConfig, CniWork};

/// Client-side load balancing for Kubernetes: the node agent.
#[derive(Debug, Parser)]
#[command(name = "balancing-agent", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (the default).
    Run(Box<RunArgs>),
    /// Do what concerns the whole cluster, as one of a few replicas.
    Controller(ControllerArgs),
    /// The CNI plugin of this host.
    #[command(subcommand)]
    Cni(Box<CniCommand>),
    /// Detach and remove everything of ours on this host. Redirection ends.
    Cleanup(PlaceArgs),
    /// Print the CustomResourceDefinitions as YAML.
    Crds {
        /// Only the one of this plural.
        #[arg(value_parser = PLURALS)]
        plural: Option<String>,
    },
}

/// Where things are on this host.
#[derive(Args, Clone, Debug)]
struct PlaceArgs {
    /// Mount point of bpffs; mounted when it is not.
    #[arg(long, default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Directory of the socket, locks and the CNI plugin's records.
    #[arg(long, env = "BALANCING_RUN_DIR", default_value = "/run/balancing")]
    run_dir: PathBuf,
    /// Directory in which a host outside the cluster keeps the last state of the cluster, or off; nodes keep none
    /// [default: /var/lib/balancing].
    #[arg(long, env = "BALANCING_STATE_DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

/// How to log.
#[derive(Args, Clone, Debug)]
struct LogArgs {
    /// Level of the log: error, warn, info, debug, trace.
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Form of the log: text or json.
    #[arg(long, default_value = "text")]
    log_format: String,
}

// Values are taken as text, so that every wrong one can be reported at once.
#[derive(Args, Clone, Debug)]
struct RunArgs {
    /// Where objects come from: kube, the API server, or dir:PATH, a directory of Kubernetes objects.
    #[arg(long, env = "BALANCING_SOURCE", default_value = "kube")]
    source: String,
    /// How to reach the API server; default: the ServiceAccount of the pod.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the EndpointSlices; default: that of the credentials.
    #[arg(long, env = "BALANCING_NAMESPACE")]
    namespace: Option<String>,
    /// Name of this node's Node object; default: the host's name.
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// node: on a node of the cluster; external: on a host outside it.
    #[arg(long, env = "BALANCING_ROLE", default_value = "node")]
    role: String,
    /// Redirections per second and LocalRedirectPolicy; 0 = no limit.
    #[arg(long, env = "REDIRECT_QOS_LIMIT", default_value = "0", allow_hyphen_values = true)]
    redirect_qos_limit: String,
    /// Which sockets are hooked: all, pods or host.
    #[arg(long, default_value = "all")]
    scope: String,
    /// Namespaces whose pods are never hooked, separated by commas; the CNI plugin follows.
    #[arg(long, env = "BALANCING_EXCLUDE_NAMESPACES", value_delimiter = ',')]
    exclude_namespaces: Vec<String>,
    /// Root of the cgroup2 hierarchy; default: found in /proc/self/mountinfo.
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// Frontends there is room for [default: 65536].
    #[arg(long, allow_hyphen_values = true)]
    max_frontends: Option<String>,
    /// Backends of all sets there is room for; a lone backend without QoS limit and affinity takes none
    /// [default: 65536].
    #[arg(long, allow_hyphen_values = true)]
    max_backends: Option<String>,
    /// Clients with session affinity; when they are more, those unused for longest are forgotten [default: 8192].
    #[arg(long, allow_hyphen_values = true)]
    max_affinity: Option<String>,
    /// Clients that are exempt, times the policies they are exempt from [default: 8192].
    #[arg(long, allow_hyphen_values = true)]
    max_skips: Option<String>,
    /// Policies with a QoS limit there is room for [default: 8192].
    #[arg(long, allow_hyphen_values = true)]
    max_qos_policies: Option<String>,
    /// Policies that `balancingctl frontends` can name [default: 65536].
    #[arg(long, allow_hyphen_values = true)]
    max_policy_names: Option<String>,
    /// Connected sockets that keep the name of their frontend: a power of two, at least 65536 [default: 262144].
    #[arg(long, allow_hyphen_values = true)]
    max_connections: Option<String>,
    /// Where /healthz and /readyz are served: ADDRESS:PORT, :PORT for all addresses, or off.
    #[arg(long, env = "BALANCING_HTTP", default_value = "127.0.0.1:5810")]
    http: String,
    /// Where /metrics is served: ADDRESS:PORT, :PORT for all addresses, or off.
    #[arg(long, env = "BALANCING_METRICS", default_value = ":5811")]
    metrics: String,
    /// Install the CNI plugin and keep it in the network configuration.
    #[arg(long, env = "BALANCING_INSTALL_CNI")]
    install_cni: bool,
    #[command(flatten)]
    cni: CniArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args, Clone, Debug)]
struct ControllerArgs {
    /// How to reach the API server; default: the ServiceAccount of the pod.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease and the EndpointSlices; default: that of the credentials.
    #[arg(long, env = "BALANCING_NAMESPACE")]
    namespace: Option<String>,
    /// Begin of its name in the election; default: the host's name, which is the pod's in a pod.
    #[arg(long, env = "POD_NAME")]
    name: Option<String>,
    /// Where /healthz and /readyz are served: ADDRESS:PORT, :PORT for all addresses, or off.
    #[arg(long, env = "BALANCING_HTTP", default_value = ":5812")]
    http: String,
    /// Where /metrics is served: ADDRESS:PORT, :PORT for all addresses, or off.
    #[arg(long, env = "BALANCING_METRICS", default_value = ":5813")]
    metrics: String,
    #[command(flatten)]
    log: LogArgs,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Run the agent.
    Run(Box<Config>),
    /// Run the controller.
    Controller(ControllerConfig),
    /// Do something with the CNI plugin.
    Cni(CniWork, Box<CniConfig>, Place),
    /// Remove everything of ours.
    Cleanup(Place),
    /// Print the CustomResourceDefinitions: the one of a plural, or all.
    Crds(Option<String>),
}

/// Where things are on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// Directory of the socket, locks and records.
    pub run_dir: PathBuf,
    /// Directory of the last state of the cluster; `None` = it is not kept.
    pub state_dir: Option<PathBuf>,
    /// How to log.
    pub log: Log,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least important level that is written.
    pub level: tracing::Level,
    /// One JSON object a line.
    pub json: bool,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// Files below a directory.
    Dir(PathBuf),
    /// The API server of a cluster.
    Kube {
        /// Credentials; `None` = those of the pod.
        kubeconfig: Option<PathBuf>,
        /// Namespace of what the agents share; `None` = that of the credentials.
        namespace: Option<String>,
    },
}

/// Valid settings of `run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where objects come from.
    pub source: SourceConfig,
    /// What decisions depend on.
    pub settings: Settings,
    /// Namespaces whose pods are never hooked.
    pub exclude_namespaces: BTreeSet<String>,
    /// Root of the cgroup2 hierarchy, if it was given.
    pub cgroup_root: Option<PathBuf>,
    /// Capacities.
    pub sizes: Sizes,
    /// Where health and metrics are served.
    pub listen: Listen,
    /// The CNI plugin, where the agent installs it.
    pub cni: Option<CniConfig>,
    /// Places and log.
    pub place: Place,
}

/// Valid settings of `controller`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Credentials; `None` = those of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease and the EndpointSlices; `None` = that of the credentials.
    pub namespace: Option<String>,
    /// Begin of its name in the election.
    pub name: String,
    /// Where health and metrics are served.
    pub listen: Listen,
    /// How to log.
    pub log: Log,
}

/// Everything that is wrong with the settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("wrong settings:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);

impl Cli {
    /// Validates everything.
    ///
    /// # Errors
    /// All problems at once, each naming the flag, the value and what it may be.
    pub fn into_action(self) -> Result<Action, ConfigError> {
        let mut problems = Problems::default();
        let action = match self.command {
            Some(Command::Controller(args)) => Action::Controller(problems.controller(args)),
            Some(Command::Cni(command)) => problems.cni_command(*command),
            Some(Command::Cleanup(place)) => Action::Cleanup(problems.place(place, true)),
            Some(Command::Crds { plural }) => Action::Crds(plural),
            Some(Command::Run(run)) => Action::Run(Box::new(problems.run(*run))),
            None => Action::Run(Box::new(problems.run(self.run))),
        };
        if problems.0.is_empty() { Ok(action) } else { Err(ConfigError(problems.0)) }
    }
}

impl Problems {
    fn run(&mut self, args: RunArgs) -> Config {
        let scope = self.choice(
            "--scope",
            &args.scope,
            &[("all", Clients::All), ("pods", Clients::Pods), ("host", Clients::Host)],
        );
        let role = self.choice("--role", &args.role, &[("node", Role::Node), ("external", Role::External)]);
        if role == Role::External && scope == Clients::Pods {
            self.0.push("--scope pods: a host outside the cluster has no pods; use all or host".to_owned());
        }
        let limit = self.number("--redirect-qos-limit", Some(&args.redirect_qos_limit), 0, 0..=u32::MAX);
        let defaults = Sizes::default();
        let frontends = self.number(
            "--max-frontends",
            args.max_frontends.as_deref(),
            defaults.frontends,
            1..=Sizes::MAX_FRONTENDS,
        );
        let sizes = Sizes {
            frontends,
            ids: Sizes::ids(frontends),
            backends: self.rows("--max-backends", args.max_backends.as_deref(), defaults.backends),
            affinity: self.rows("--max-affinity", args.max_affinity.as_deref(), defaults.affinity),
            skips: self.rows("--max-skips", args.max_skips.as_deref(), defaults.skips),
            qos: self.rows("--max-qos-policies", args.max_qos_policies.as_deref(), defaults.qos),
            policies: self.rows("--max-policy-names", args.max_policy_names.as_deref(), defaults.policies),
            connections: self.connections(args.max_connections.as_deref(), defaults.connections),
        };
        let source = self.source(&args.source, args.kubeconfig, args.namespace);
        // An API server is not asked for every pod of the cluster by every node.
        let cluster_pods = match &source {
            SourceConfig::Dir(_) => ClusterPods::Selected,
            SourceConfig::Kube { .. } => ClusterPods::Listed,
        };
        let keeps_state = self.keeps_state(role, &source, args.place.state_dir.as_deref());
        Config {
            source,
            settings: Settings {
                role,
                node_name: self.node_name(args.node_name),
                qos_limit: NonZeroU32::new(limit),
                cluster_pods,
                scope,
            },
            exclude_namespaces: self.namespaces("--exclude-namespaces", args.exclude_namespaces),
            cgroup_root: args.cgroup_root.map(|path| self.absolute("--cgroup-root", path)),
            sizes,
            listen: self.listeners(&args.http, &args.metrics),
            cni: args.install_cni.then(|| self.cni(args.cni, &args.place.run_dir, &args.place.bpffs)),
            place: self.place(args.place, keeps_state),
        }
    }

    fn controller(&mut self, args: ControllerArgs) -> ControllerConfig {
        ControllerConfig {
            kubeconfig: given(args.kubeconfig),
            namespace: self.namespace(args.namespace),
            name: self.host_name("--name", args.name),
            listen: self.listeners(&args.http, &args.metrics),
            log: self.log(&args.log),
        }
    }

    fn place(&mut self, args: PlaceArgs, keeps_state: bool) -> Place {
        Place {
            bpffs: self.absolute("--bpffs", args.bpffs),
            run_dir: self.absolute("--run-dir", args.run_dir),
            state_dir: keeps_state.then(|| self.state_dir(args.state_dir)).flatten(),
            log: self.log(&args.log),
        }
    }

    fn log(&mut self, args: &LogArgs) -> Log {
        let levels = [
            ("info", tracing::Level::INFO),
            ("error", tracing::Level::ERROR),
            ("warn", tracing::Level::WARN),
            ("debug", tracing::Level::DEBUG),
            ("trace", tracing::Level::TRACE),
        ];
        Log {
            level: self.choice("--log-level", &args.log_level, &levels),
            json: self.choice("--log-format", &args.log_format, &[("text", false), ("json", true)]),
        }
    }
}

#[cfg(test)]
mod tests;
