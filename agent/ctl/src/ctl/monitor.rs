//! `balancingctl monitor`: follows what the agent tells of live decisions, line by line.
//!
//! The agent filters; this only asks, waits and writes. It ends when whoever reads has seen enough, on Ctrl-C, and with an error
//! when the agent ends.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    process, thread,
};

use balancing_core::{
    control::{Request, socket_path},
    monitor::{Filter, Line, Outcome, PolicyFilter},
    view::AgentView,
};
use balancing_dataplane::model::PolicyKind;
use clap::ValueEnum;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, Signal},
};

use super::{CtlError, Output};
use crate::socket::{AskError, ask, follow};
use format::Format;

mod format;

/// What is to be shown.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only decisions of this policy.
    #[arg(long, value_name = "[KIND/]NAME", value_parser = parse_policy)]
    policy: Option<PolicyFilter>,
    /// Only calls of this pod.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_pod)]
    pod: Option<String>,
    /// Only calls of which this became.
    #[arg(long, value_enum)]
    outcome: Option<Wanted>,
}

/// Values of `--outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Redirected,
    Passed,
    Rejected,
}

/// Why the stream ended too early.
#[derive(Debug, thiserror::Error)]
pub(super) enum MonitorError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the agent has ended, and with it its stream of decisions; redirection goes on without it")]
    Ended,
    #[error(
        "the agent has closed the stream of decisions, and runs: it was started anew, or nothing was read here for \
         30 s; call the command again"
    )]
    Closed,
    #[error("cannot follow the agent: {0}")]
    Follow(io::Error),
    #[error("a decision cannot be read: {0}; are agent and command of the same version?")]
    Line(serde_json::Error),
}

/// Shows decisions until one end closes.
///
/// # Errors
/// No agent, or one that has ended.
pub(super) fn run(args: &Args, run_dir: &Path, output: Output) -> Result<(), CtlError> {
    let mut format = match output {
        Output::Table => Format::table(),
        Output::Json => Format::Json,
        Output::Yaml => {
            let message = "monitor: -o yaml: must be table, or json for one object a line";
            return Err(CtlError::Usage(message.to_owned()));
        }
    };
    end_on_interrupt();
    let request = Request::Monitor(args.filter());
    let socket = socket_path(run_dir);
    let mut lines = follow(&socket, &request).map_err(MonitorError::from)?;
    let mut out = io::stdout();
    out.write_all(format.header().as_bytes())?;
    let mut text = String::new();
    loop {
        if lines.buffer().is_empty() && !wait(&lines)? {
            return Ok(());
        }
        text.clear();
        match lines.read_line(&mut text) {
            Ok(_) if text.ends_with('\n') => {}
            Ok(_) => return Err(closed(&socket).into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(closed(&socket).into());
            }
            Err(error) => return Err(MonitorError::Follow(error).into()),
        }
        let line: Line = serde_json::from_str(&text).map_err(MonitorError::Line)?;
        // Standard output writes whenever a line is complete.
        out.write_all(format.line(&line, &text).as_bytes())?;
    }
}

/// Why there is no more to read.
fn closed(socket: &Path) -> MonitorError {
    match ask::<AgentView>(socket, &Request::Agent) {
        Ok(_) => MonitorError::Closed,
        Err(_) => MonitorError::Ended,
    }
}

/// Waits for the agent; `false` when nobody reads what is written.
fn wait(lines: &BufReader<UnixStream>) -> Result<bool, MonitorError> {
    let (agent, out) = (lines.get_ref().as_fd(), io::stdout());
    let mut ends = [PollFd::new(agent, PollFlags::POLLIN), PollFd::new(out.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut ends, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(MonitorError::Follow(errno.into())),
            Ok(_) => {
                let gone = ends[1].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
                return Ok(!gone);
            }
        }
    }
}

/// Ctrl-C is how it is meant to end, also while a reader that is slow keeps a line waiting.
fn end_on_interrupt() {
    let interrupt = SigSet::from(Signal::SIGINT);
    if interrupt.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        if interrupt.wait().is_ok() {
            process::exit(0);
        }
    });
}

impl Args {
    fn filter(&self) -> Filter {
        let outcome = self.outcome.map(|wanted| match wanted {
            Wanted::Redirected => Outcome::Redirected,
            Wanted::Passed => Outcome::Passed,
            Wanted::Rejected => Outcome::Rejected,
        });
        Filter { policy: self.policy.clone(), pod: self.pod.clone(), outcome }
    }
}

fn parse_policy(text: &str) -> Result<PolicyFilter, String> {
    let (kind, name) = match text.split_once('/') {
        Some((kind, name)) => (Some(kind), name),
        None => (None, text),
    };
    let kinds = [PolicyKind::LocalRedirect, PolicyKind::Balancing].map(PolicyKind::kind);
    let known = kind.is_none_or(|kind| kinds.contains(&kind));
    if !known || name.is_empty() || name.contains('/') {
        return Err(format!("must be NAME, or KIND/NAME with KIND {}", kinds.join(" or ")));
    }
    Ok(PolicyFilter { kind: kind.map(str::to_owned), name: name.to_owned() })
}

fn parse_pod(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("must be NAMESPACE/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_named_with_or_without_their_kind() {
        let policy = |kind: Option<&str>| PolicyFilter { kind: kind.map(Into::into), name: "dns".into() };
        assert_eq!(parse_policy("dns"), Ok(policy(None)));
        assert_eq!(parse_policy("BalancingPolicy/dns"), Ok(policy(Some("BalancingPolicy"))));
        for wrong in ["", "/dns", "Policy/dns", "BalancingPolicy/", "BalancingPolicy/a/b"] {
            let message = parse_policy(wrong).unwrap_err();
            assert_eq!(
                message,
                "must be NAME, or KIND/NAME with KIND LocalRedirectPolicy or BalancingPolicy"
            );
        }
    }

    #[test]
    fn pods_are_named_with_their_namespace() {
        assert_eq!(parse_pod("default/web"), Ok("default/web".to_owned()));
        for wrong in ["web", "/web", "default/", "a/b/c"] {
            assert!(parse_pod(wrong).is_err(), "{wrong}");
        }
    }
}
