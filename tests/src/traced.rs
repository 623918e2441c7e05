//! A process that is killed at a system call of choice.
//!
//! All its threads are followed, and their calls counted together in the order in which the kernel reports them. Processes that it
//! starts are not followed.

use std::{
    ffi::OsString,
    io::{Read, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    libc::{PTRACE_EVENT_EXEC, PTRACE_SYSCALL_INFO_ENTRY},
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::must::Must;

/// Where in a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before the kernel has done anything.
    Entry,
    /// When it has done everything.
    Exit,
}

/// What became of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was killed where it was to be killed.
    Killed,
    /// It ended before, with this code.
    Code(i32),
}

/// A process that has ended.
#[derive(Clone, Debug)]
pub struct Traced {
    /// How.
    pub ended: Ended,
    /// Its stdout and stderr.
    pub said: String,
}

/// A program with arguments and environment.
#[derive(Clone, Debug)]
pub struct Victim {
    command: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
    input: String,
}

/// The loop around a process.
struct Tracer {
    leader: Pid,
    follows_calls: bool,
    /// The call that starts the program has not ended yet.
    is_starting: bool,
    seen: usize,
    target: (usize, Side),
    is_killed: bool,
}

impl Victim {
    /// A program with arguments, without any environment.
    #[must_use]
    pub fn new<A: Into<OsString>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = vec![program.as_os_str().to_owned()];
        command.extend(arguments.into_iter().map(Into::into));
        Self { command, environment: Vec::new(), input: String::new() }
    }

    /// Sets its environment.
    #[must_use]
    pub fn with_environment(mut self, environment: Vec<(&'static str, String)>) -> Self {
        self.environment = environment;
        self
    }

    /// Sets what is on stdin: less than a pipe holds.
    #[must_use]
    pub fn with_input(mut self, input: String) -> Self {
        self.input = input;
        self
    }

    /// Runs it, and kills it at its n-th system call, counted from 1. The one that starts it is not counted.
    #[must_use]
    pub fn killed_at(&self, number: usize, side: Side) -> Traced {
        let mut child = self.start();
        let leader = Pid::from_raw(i32::try_from(child.id()).must("read the id of a process"));
        let mut tracer = Tracer {
            leader,
            follows_calls: false,
            is_starting: false,
            seen: 0,
            target: (number, side),
            is_killed: false,
        };
        let ended = tracer.run();
        // It was waited for as a traced one.
        child.wait().ok();
        let said = drain(child.stdout.take()) + &drain(child.stderr.take());
        Traced { ended, said }
    }

    /// A process that stops itself before it becomes the program, so that nothing of the program is missed.
    fn start(&self) -> Child {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
            .args(&self.command)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .must("start a process to be killed");
        let mut stdin = child.stdin.take().must("write to a process");
        stdin.write_all(self.input.as_bytes()).must("write to a process");
        child
    }
}

fn drain(pipe: Option<impl Read>) -> String {
    let mut said = Vec::new();
    pipe.must("read a process's output").read_to_end(&mut said).must("read a process's output");
    String::from_utf8_lossy(&said).into_owned()
}

impl Tracer {
    fn run(&mut self) -> Ended {
        let stopped = waitpid(self.leader, Some(WaitPidFlag::WUNTRACED)).must("wait for a process");
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(self.leader, options).must("trace a process");
        kill(self.leader, Signal::SIGCONT).must("go on with a process");
        // Its threads, and nobody else's children: they all are of its process group.
        let group = Pid::from_raw(-self.leader.as_raw());
        loop {
            let status = waitpid(group, Some(WaitPidFlag::__WALL)).must("wait for a traced thread");
            match status {
                WaitStatus::Exited(pid, code) if pid == self.leader => return Ended::Code(code),
                WaitStatus::Signaled(pid, ..) if pid == self.leader => {
                    assert!(self.is_killed, "{status:?}");
                    return Ended::Killed;
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    if event == PTRACE_EVENT_EXEC {
                        (self.follows_calls, self.is_starting) = (true, true);
                    }
                    self.resume(thread, None);
                }
                WaitStatus::PtraceSyscall(thread) => self.call(thread),
                WaitStatus::Stopped(thread, signal) => self.resume(thread, Some(signal)),
                _ => {}
            }
        }
    }

    fn call(&mut self, thread: Pid) {
        // A thread that is killed just now cannot be asked.
        let Ok(info) = ptrace::syscall_info(thread) else { return };
        let side = if info.op == PTRACE_SYSCALL_INFO_ENTRY { Side::Entry } else { Side::Exit };
        if std::mem::take(&mut self.is_starting) {
            return self.resume(thread, None);
        }
        let (number, wanted) = self.target;
        self.seen += usize::from(side == wanted);
        if side == wanted && self.seen == number {
            self.is_killed = true;
            kill(self.leader, Signal::SIGKILL).must("kill a process");
        } else {
            self.resume(thread, None);
        }
    }

    fn resume(&self, thread: Pid, signal: Option<Signal>) {
        // It may have been killed in between.
        let resumed =
            if self.follows_calls { ptrace::syscall(thread, signal) } else { ptrace::cont(thread, signal) };
        resumed.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_killed_where_it_is_told() {
        let echo =
            Victim::new(Path::new("/bin/sh"), ["-c", "read x; echo $x"]).with_input("said\n".to_owned());
        let mut unsaid = 0;
        for number in 1.. {
            let (before, after) = (echo.killed_at(number, Side::Entry), echo.killed_at(number, Side::Exit));
            if let Ended::Code(code) = after.ended {
                assert_eq!((code, after.said.as_str()), (0, "said\n"));
                break;
            }
            assert_eq!((&before.ended, &after.ended), (&Ended::Killed, &Ended::Killed));
            // Exactly one call writes: before it nothing is said, after it everything is.
            unsaid += usize::from(before.said.is_empty() && after.said == "said\n");
        }
        assert_eq!(unsaid, 1);
    }
}
