//! The agent as a process under test.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use crate::{Place, Process, must::Must, programs::program};

/// How long the agent may take until it is ready.
const READY: Duration = Duration::from_secs(120);

/// `balancing-agent` with fixed arguments and environment, started, killed and restarted at will. It serves
/// HTTP at ports that the kernel chooses. It is killed on drop and its output printed when the test is failing.
///
/// ```no_run
/// # use balancing_tests::*;
/// # let (files, run) = (TempDir::new("objects"), TempDir::new("run"));
/// let mut agent = Agent::new(&Place::default()).args(["run", "--source"]).args([files.path()]);
/// agent.start(|| run.path().join("agent.sock").exists());
/// agent.kill();
/// agent.start(|| run.path().join("agent.sock").exists());
/// ```
#[derive(Debug)]
pub struct Agent {
    place: Place,
    program: &'static str,
    /// A program instead of that one.
    elsewhere: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    process: Option<Process>,
    /// Output of earlier runs.
    earlier: String,
}

impl Agent {
    /// An agent at a place, not started yet.
    #[must_use]
    pub fn new(place: &Place) -> Self {
        Self {
            place: place.clone(),
            program: "balancing-agent",
            elsewhere: None,
            arguments: Vec::new(),
            // Many agents run at once; flags win over these.
            environment: ["BALANCING_HTTP", "BALANCING_METRICS"]
                .map(|name| (name.into(), "127.0.0.1:0".into()))
                .into(),
            process: None,
            earlier: String::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds arguments to those of the next start.
    pub fn add_args<A: Into<OsString>>(&mut self, arguments: impl IntoIterator<Item = A>) {
        self.arguments.extend(arguments.into_iter().map(Into::into));
    }

    /// Makes the next start run another build of the agent, such as `agent_next`.
    pub fn replace(&mut self, program: &'static str) {
        self.program = program;
        self.elsewhere = None;
    }

    /// Makes the next start run a build of the agent from elsewhere.
    pub fn replace_by(&mut self, path: PathBuf) {
        self.elsewhere = Some(path);
    }

    /// The command that [`Agent::start`] runs, for subcommands that end by themselves.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.place.command(self.elsewhere.clone().unwrap_or_else(|| program(self.program)));
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it, anew when it ran before, and waits for the condition. Beware of conditions that an
    /// earlier run has left behind.
    ///
    /// # Panics
    /// When it is running, ends before it is ready, or takes longer than 2 minutes.
    #[track_caller]
    pub fn start(&mut self, ready: impl FnMut() -> bool) {
        assert!(self.process.is_none(), "the agent is running: kill or terminate it first");
        let process = Process::start(self.program, &mut self.command());
        self.process.insert(process).wait_ready(READY, ready);
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        let mut process = self.take();
        process.kill();
        self.earlier += &process.log();
    }

    /// Asks it to end with SIGTERM and waits for its status.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.take();
        let status = process.terminate();
        self.earlier += &process.log();
        status
    }

    /// Whether it was started, and neither killed nor terminated since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().must("ask for the process id: the agent is not running").pid()
    }

    /// What it has printed in all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        self.earlier.clone() + &self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    fn take(&mut self) -> Process {
        self.process.take().must("stop the agent: it is not running")
    }
}
