//! Chained CNI plugin of Balancing: attaches a pod's cgroup to the programs that the agent has pinned.
//!
//! It owns the protocol with the container runtime and the records of attachments. It loads no program,
//! asks no API server, needs no credentials and no running agent, and leaves the network alone.
//!
//! ```text
//! environment + stdin → Environment, Config → commands/{add,del,check,status,gc} → stdout
//!                                                      └→ dataplane: cgroup, links, records
//! ```
//!
//! It may be killed at any instruction: see [`balancing_dataplane::links`].

use std::{
    io::{self, Write},
    panic::PanicHookInfo,
    process::ExitCode,
    time::Duration,
};

use balancing_dataplane::records;

use crate::{
    config::{Config, FailurePolicy},
    environment::{Command, Environment},
    error::{CniError, Code},
    log::Log,
    node::Node,
    version::Version,
};

mod args;
mod commands;
mod config;
mod environment;
mod error;
#[cfg(test)]
mod fuzz;
mod level;
mod log;
mod netns;
mod node;
mod pod;
mod stdin;
mod version;

/// How long the runtime may take to write the configuration.
const PATIENCE: Duration = Duration::from_secs(5);
/// VERSION needs no configuration; one that is there tells the version to answer in.
const VERSION_PATIENCE: Duration = Duration::from_millis(200);

/// One call of the plugin.
struct Request<'a> {
    /// When the call began, as [`records::Record::written`] tells time.
    began: u64,
    environment: Environment,
    config: Config<'a>,
    node: Node,
    log: Log,
}

fn main() -> ExitCode {
    // The release profile aborts on panic: the hook is the last chance to answer in the protocol.
    std::panic::set_hook(Box::new(give_up));
    let mut version = Version::NEWEST;
    let printed = run(&mut version).map(|reply| answer(reply.as_bytes()));
    match printed {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // Nobody reads the answer: the runtime must not take this for a success.
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            drop(answer(error.to_json(version).as_bytes()));
            ExitCode::FAILURE
        }
    }
}

/// Answers a panic as an error of the protocol. What it leaves is what a killed call leaves: the next call or a sweep mends it.
fn give_up(panic: &PanicHookInfo<'_>) {
    let error = CniError::new(Code::Internal, "balancing-cni failed unexpectedly", panic.to_string());
    drop(answer(error.to_json(Version::NEWEST).as_bytes()));
    std::process::exit(1);
}

/// Does what the environment says and returns what belongs on stdout. Sets the version to answer in once it is known.
fn run(version: &mut Version) -> Result<String, CniError> {
    let began = records::now();
    let variable = |name: &str| std::env::var_os(name);
    let Some(command) = Command::read(&variable)? else {
        drop(writeln!(io::stderr(), "{}", about()));
        return Ok(String::new());
    };
    if command == Command::Version {
        let input = stdin::read(VERSION_PATIENCE).unwrap_or_default();
        return Ok(version::reply(config::version_of(&input)));
    }
    let environment = Environment::read(command, &variable)?;
    let input = stdin::read(PATIENCE)?;
    *version = config::version_of(&input).unwrap_or(Version::NEWEST);
    let mut config = Config::parse(&input)?;
    let log = Log::new(&config, &environment);
    if let Some(problem) = &environment.problem {
        log.warn(&problem.to_string());
    }
    judge(&mut config, command, &log).inspect_err(|error| log.error(&error.to_string()))?;
    let node = Node::read(&config, &log);
    let request = Request { began, environment, config, node, log };
    let result = commands::run(&request);
    if let Err(error) = &result {
        request.log.error(&error.to_string());
    }
    result
}

/// A mistake in our own keys refuses the call only where a pod must not start without links. Pods that run are left and checked
/// whatever somebody has written since.
fn judge(config: &mut Config<'_>, command: Command, log: &Log) -> Result<(), CniError> {
    for key in &config.unknown {
        log.warn(&format!("the key {key} of the network configuration means nothing to this plugin"));
    }
    for problem in config.problems.drain(..) {
        let starts_pods = matches!(command, Command::Add | Command::Status);
        if starts_pods && config.failure_policy == FailurePolicy::Fail {
            return Err(problem);
        }
        log.warn(&format!(
            "{problem}; the key is ignored ({} under failurePolicy: {})",
            command.name(),
            config.failure_policy.name()
        ));
    }
    Ok(())
}

/// Writes the one thing that goes to stdout.
fn answer(reply: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(reply)?;
    stdout.flush()
}

fn about() -> String {
    format!(
        "balancing-cni {}: chained CNI plugin that attaches pods to Balancing\nCNI versions: {}",
        env!("CARGO_PKG_VERSION"),
        Version::list()
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[ignore = "a18_a_panic_is_an_error_of_the_protocol runs it in a process of its own"]
    fn panics_under_the_hook() {
        std::panic::set_hook(Box::new(give_up));
        panic!("on \"purpose\"");
    }

    #[test]
    fn a18_a_panic_is_an_error_of_the_protocol() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::panics_under_the_hook", "--ignored", "--test-threads=1", "--nocapture"])
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let error: serde_json::Value = serde_json::from_str(&stdout[stdout.find('{').unwrap()..]).unwrap();
        assert_eq!((output.status.code(), &error["code"]), (Some(1), &999.into()), "{stdout}");
        assert!(error["details"].as_str().unwrap().contains("on \"purpose\""), "{stdout}");
    }
}
