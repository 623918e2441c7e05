//! `balancingctl`: looks at the data plane, asks the agent and converts manifests. It changes nothing.
//!
//! Tables, links and records are read from the host itself, so those commands work without an agent; what only
//! the agent knows (verdicts, pods behind backends, explanations) is asked over its socket.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use balancing_dataplane::{
    model::{FrontendKey, Protocol},
    mount,
    settings::{NodeSettings, Told as _},
};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

mod collect;
mod convert;
mod doctor;
mod monitor;
mod rights;
mod table;
mod tables_dir;

use balancing_core::{control::EXIT_USAGE, view::PodView};

use collect::{CollectError, Host};

/// Shows what Balancing does on this host. Also runs as `kubectl balancing`.
#[derive(Debug, Parser)]
#[command(name = "balancingctl", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Form of the output; table, and yaml for convert, unless given.
    #[arg(short, long, value_enum, global = true)]
    output: Option<Output>,
    /// Directory of the agent's socket and the CNI plugin's records.
    #[arg(long, env = "BALANCING_RUN_DIR", default_value = "/run/balancing", global = true)]
    run_dir: PathBuf,
    /// Mount point of bpffs; the agent's unless given, and /sys/fs/bpf where none has run.
    #[arg(long, global = true)]
    bpffs: Option<PathBuf>,
}

impl Cli {
    /// An agent in a container may see it at a place that is not there for others.
    fn bpffs(&self) -> PathBuf {
        let told = || NodeSettings::read(&self.run_dir).ok().flatten().map(|settings| settings.bpffs);
        let found =
            self.bpffs.clone().or_else(|| told().filter(|path| mount::is_bpffs(path).unwrap_or(false)));
        found.unwrap_or_else(|| PathBuf::from("/sys/fs/bpf"))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The agent, the kernel, hooks and tables.
    Status,
    /// Policies and what became of them.
    Policies,
    /// Frontends as the kernel has them, with counters.
    Frontends,
    /// Backends as the kernel has them.
    Backends,
    /// Pods with hooks.
    Pods {
        /// Also the other pods of this node, and why they have none.
        #[arg(long)]
        all: bool,
    },
    /// Why a connection goes where it goes.
    Explain {
        /// ADDRESS:PORT, with /udp for UDP.
        frontend: String,
        /// The client pod.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        pod: Option<String>,
    },
    /// The nodeProxy fabric: members, addresses, forwards, drops.
    Fabric {
        #[command(subcommand)]
        command: Option<FabricCommand>,
    },
    /// Looks for everything that is known to go wrong here, and says what to do. Exit status 1: something is wrong.
    Doctor,
    /// Live decisions: who called, what became of it, and why.
    Monitor(monitor::Args),
    /// Turns policies of Cilium and of the original project into ours. Needs no agent.
    Convert(convert::Args),
    /// Versions of this command and of the agent.
    Version,
}

#[derive(Debug, Subcommand)]
enum FabricCommand {
    /// Asks members whether they answer, how fast, and what fits. Exit status 1: one does not.
    Check {
        /// Name of a Node, ExternalHost or TunnelNode; every member unless given.
        peer: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error(transparent)]
    Collect(#[from] CollectError),
    #[error(transparent)]
    Monitor(#[from] monitor::MonitorError),
    #[error("{0}")]
    Usage(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot encode the output: {0}")]
    Encode(String),
}

/// Runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap; the stream and the status tell them apart.
            let wrong = error.use_stderr();
            return match error.print() {
                Ok(()) if !wrong => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_USAGE),
            };
        }
    };
    match run(&cli) {
        Ok(status) => status,
        // Whoever reads may have seen enough.
        Err(CtlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("balancingctl: {error}");
            if matches!(error, CtlError::Usage(_)) { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, CtlError> {
    let bpffs = cli.bpffs();
    let host = Host::new(&cli.run_dir, &bpffs);
    let output = cli.output.unwrap_or(Output::Table);
    match &cli.command {
        Command::Status => show(output, &host.status()?, table::status),
        Command::Policies => {
            let rows = host.policies()?;
            host.incomplete().iter().for_each(|note| eprintln!("balancingctl: {note}"));
            show(output, &rows, |rows| table::policies(rows))
        }
        Command::Frontends => show(output, &host.frontends()?, |rows| table::frontends(rows)),
        Command::Backends => show(output, &host.backends()?, |rows| table::backends(rows)),
        Command::Pods { all } => return pods(output, &host.pods(*all)?, *all),
        Command::Explain { frontend, pod } => {
            let key = parse_frontend(frontend).map_err(CtlError::Usage)?;
            let pod = pod.as_deref().map(parse_pod).transpose()?;
            show(output, &host.explain(&key, pod)?, table::explain)
        }
        Command::Fabric { command: None } => show(output, &host.fabric()?, table::fabric),
        Command::Fabric { command: Some(FabricCommand::Check { peer }) } => {
            let checks = host.check(peer.clone())?;
            show(output, &checks, |checks| table::checks(checks))?;
            let is_wrong = checks.iter().any(|check| check.problem.is_some());
            return Ok(if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        Command::Doctor => return doctor(output, &cli.run_dir, &bpffs),
        Command::Monitor(args) => monitor::run(args, &cli.run_dir, output),
        Command::Convert(args) => return convert::run(args, cli.output),
        Command::Version => show(output, &host.version(), table::version),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Everything is looked at before anything is shown.
fn doctor(output: Output, run_dir: &Path, bpffs: &Path) -> Result<ExitCode, CtlError> {
    let findings = doctor::examine(run_dir, bpffs);
    show(output, &findings, |findings| doctor::table(findings))?;
    Ok(if doctor::is_wrong(&findings) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Shows the pods that can be looked at. Fails when there is none among them.
fn pods(output: Output, rows: &[PodView], all: bool) -> Result<ExitCode, CtlError> {
    show(output, &rows, |rows| table::pods(rows, all))?;
    for row in rows {
        if let Some(problem) = &row.problem {
            eprintln!("balancingctl: the hooks of pod {} cannot be looked at: {problem}", row.uid);
        }
    }
    let is_blind = !rows.is_empty() && rows.iter().all(|row| row.problem.is_some());
    Ok(if is_blind { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn parse_pod(text: &str) -> Result<(String, String), CtlError> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(CtlError::Usage(format!("--pod {text}: must be NAMESPACE/NAME"))),
    }
}

fn show<T: Serialize>(output: Output, value: &T, table: impl Fn(&T) -> String) -> Result<(), CtlError> {
    let text = match output {
        Output::Table => table(value),
        Output::Json => serde_json::to_string_pretty(value).map_err(|e| CtlError::Encode(e.to_string()))?,
        Output::Yaml => yaml_serde::to_string(value).map_err(|e| CtlError::Encode(e.to_string()))?,
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(())
}

/// Parses `ADDRESS:PORT` or `[ADDRESS]:PORT` with an optional `/tcp` or `/udp`.
///
/// # Errors
/// What the text must look like.
fn parse_frontend(text: &str) -> Result<FrontendKey, String> {
    let wrong = || format!("{text}: must be ADDRESS:PORT or ADDRESS:PORT/udp, IPv6 addresses in brackets");
    let (address, protocol) = match text.rsplit_once('/') {
        Some((address, "udp" | "UDP")) => (address, Protocol::Udp),
        Some((address, "tcp" | "TCP")) => (address, Protocol::Tcp),
        Some(_) => return Err(wrong()),
        None => (text, Protocol::Tcp),
    };
    let socket: std::net::SocketAddr = address.parse().map_err(|_unparsable| wrong())?;
    let ip = socket.ip().to_canonical();
    if socket.port() == 0 {
        return Err(wrong());
    }
    Ok(FrontendKey { address: ip, port: socket.port(), protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_are_written_as_on_the_wire() {
        assert_eq!(parse_frontend("10.0.0.1:53/udp").unwrap().to_string(), "10.0.0.1:53/UDP");
        assert_eq!(parse_frontend("[fd00::1]:80").unwrap().to_string(), "[fd00::1]:80/TCP");
        assert_eq!(parse_frontend("[::ffff:10.0.0.1]:80").unwrap().to_string(), "10.0.0.1:80/TCP");
        for wrong in ["10.0.0.1", "10.0.0.1:0", "10.0.0.1:80/icmp", "a:80"] {
            assert!(parse_frontend(wrong).is_err(), "{wrong}");
        }
    }
}
