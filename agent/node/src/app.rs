//! The command line of the agent: arguments in, exit status out.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use tracing::Level;
use tracing_subscriber::EnvFilter;

use crate::{
    cleanup::{Removed, cleanup},
    cni::{self, CniError},
    config::{Action, Cli, CniConfig, CniWork, Log, Place},
    controller,
    run::run,
};
use balancing_core::control::EXIT_USAGE;
use balancing_kube::api::crds_yaml;

/// Runs the agent for an ABI; a build with another number calls it with that number.
#[must_use]
pub fn main(abi: u32) -> ExitCode {
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
    match cli.into_action() {
        Err(problems) => {
            eprintln!("balancing-agent: {problems}");
            ExitCode::from(EXIT_USAGE)
        }
        Ok(Action::Cleanup(place)) => {
            log(&place.log);
            finish(
                cleanup(&place, abi).map(|removed| tell(&place, removed)).map_err(|error| error.to_string()),
            )
        }
        Ok(Action::Cni(work, config, place)) => {
            log(&place.log);
            finish(with_plugin(work, &config, &place).map_err(|error| error.to_string()))
        }
        Ok(Action::Crds(plural)) => match print_crds(plural.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("balancing-agent: {message}");
                ExitCode::FAILURE
            }
        },
        Ok(Action::Run(config)) => {
            log(&config.place.log);
            finish(block_on(run(*config, abi)))
        }
        Ok(Action::Controller(config)) => {
            log(&config.log);
            finish(block_on(controller::run(config)))
        }
    }
}

fn with_plugin(work: CniWork, config: &CniConfig, place: &Place) -> Result<(), CniError> {
    match work {
        CniWork::Install => cni::install(config, place),
        CniWork::Rehearse => {
            let changes = cni::rehearse(config, place)?;
            let changes = if changes.is_empty() { "nothing would be changed\n" } else { &changes };
            Ok(std::io::stdout().write_all(changes.as_bytes())?)
        }
        CniWork::Uninstall => cni::uninstall(config, place),
        CniWork::Status => cni::status(config, place),
    }
}

fn block_on<E: Display>(work: impl Future<Output = Result<(), E>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let result = runtime.block_on(work).map_err(|error| error.to_string());
    // A read of the source that is under way is not waited for.
    runtime.shutdown_background();
    result
}

/// What `cleanup` did. The log says it, as it says everything of the agent.
fn tell(place: &Place, removed: Removed) {
    let (bpffs, run_dir) = (place.bpffs.display(), place.run_dir.display());
    match removed {
        Removed { anything: false, .. } => {
            tracing::info!("nothing of Balancing was on {bpffs} and at {run_dir}");
        }
        Removed { pods, host, is_busy: true, .. } => {
            tracing::warn!(
                pods,
                host,
                "redirection has ended; {run_dir} stays: the CNI plugin is at work there"
            );
        }
        Removed { pods, host, .. } => {
            tracing::info!(
                pods,
                host,
                "redirection has ended: everything on {bpffs} and at {run_dir} is removed"
            );
        }
    }
}

/// Prints to standard output; no log is there that could report an error.
fn print_crds(plural: Option<&str>) -> Result<(), String> {
    let yaml = crds_yaml(plural).map_err(|error| error.to_string())?;
    std::io::stdout()
        .write_all(yaml.as_bytes())
        .map_err(|error| format!("cannot write the CustomResourceDefinitions: {error}"))
}

fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error.
fn log(log: &Log) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log.level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if log.json { builder.json().init() } else { builder.init() }
}

/// The client of the API server logs an error at every attempt. Whoever asks tells it once; its own words are for
/// who looks closer.
fn filter(level: Level) -> EnvFilter {
    let quiet = if level >= Level::DEBUG { "" } else { ",kube_client::client=off" };
    EnvFilter::new(format!("{level}{quiet}"))
}
