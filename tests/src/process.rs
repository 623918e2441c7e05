//! Child processes of a test, with their output kept.

use std::{
    fs::{self, File},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{TempDir, must::Must, wait::wait_for};

/// How long a process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(60);

/// A running program. It is killed on drop; its output is printed when the test is failing.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: TempDir,
    /// How many lines of its output a failing test prints.
    shown: usize,
}

impl Process {
    /// Starts a command; see [`crate::Place::command`] for one in a certain namespace and cgroup.
    /// Standard input is empty, standard output and error are kept.
    #[must_use]
    pub fn start(name: &str, command: &mut Command) -> Self {
        let output = TempDir::new(name);
        let log = File::create(output.path().join("log")).must("create a log");
        let both = log.try_clone().must("share a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(both)
            .spawn()
            .must(format_args!("start {name} ({})", command.get_program().display()));
        Self { name: name.to_owned(), child, output, shown: usize::MAX }
    }

    /// Prints only the end of its output when the test is failing, for programs that say much.
    #[must_use]
    pub fn brief(mut self) -> Self {
        self.shown = 40;
        self
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, both streams.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.output.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().must(format_args!("wait for {}", self.name))
    }

    /// Waits until a condition of the outside world holds that tells that the process works.
    ///
    /// # Panics
    /// When the process ends first, or the deadline passes.
    #[track_caller]
    pub fn wait_ready(&mut self, deadline: Duration, mut ready: impl FnMut() -> bool) {
        wait_for(deadline, || {
            if let Some(status) = self.ended() {
                panic!("{} ended before it was ready: {status}", self.name);
            }
            ready().then_some(())
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).must("use a process id");
        kill(Pid::from_raw(pid), signal).must(format_args!("signal {}", self.name));
    }

    /// Asks it to end with SIGTERM and waits for its status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for(GRACE, || self.ended())
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails when it has ended already, which is as good.
        self.child.kill().ok();
        self.child.wait().must(format_args!("wait for {}", self.name));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines[lines.len().saturating_sub(self.shown)..].join("\n");
            eprintln!("--- output of {} ---\n{shown}\n--- end of {} ---", self.name, self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_output_and_status() {
        let mut shell =
            Process::start("shell", Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        assert_eq!(shell.wait().code(), Some(3));
        assert_eq!(shell.log(), "out\nerr\n");
    }

    #[test]
    #[should_panic(expected = "ended before it was ready")]
    fn a_dead_process_is_never_ready() {
        let mut process = Process::start("false", &mut Command::new("false"));
        process.wait_ready(GRACE, || false);
    }

    #[test]
    fn ends_when_asked() {
        let mut sleeper = Process::start("sleep", Command::new("sleep").arg("600"));
        assert!(!sleeper.terminate().success());
    }
}
