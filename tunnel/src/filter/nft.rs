//! Running `nft`, for so long and no longer: whoever waits for it has other work. After one that did not end none is run for a while.

use std::{
    env,
    ffi::OsStr,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use super::Error;

/// Far above what the largest table takes.
const LIMIT: Duration = Duration::from_secs(10);
/// How many times as long as one took that did not end no other is run: where it is slow, it is so for everybody.
pub(super) const REST: u32 = 10;
/// Of this process.
static BREAKER: Breaker = Breaker(Mutex::new(None));
/// Between two looks at a process that has closed its output and not ended.
const PAUSE: Duration = Duration::from_millis(1);

/// Lets nobody run the program for a while after it did not end.
struct Breaker(Mutex<Option<Late>>);

/// A program that did not end.
struct Late {
    took: Duration,
    /// When another may be run.
    until: Instant,
}

impl Breaker {
    /// Does the work, or fails as the last one did.
    fn run<T>(&self, now: Instant, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let late = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Late { took, .. }) = late().as_ref().filter(|late| now < late.until) {
            return Err(Error::TimedOut(*took));
        }
        let done = work();
        *late() = match done {
            Err(Error::TimedOut(took)) => Some(Late { took, until: Instant::now() + took * REST }),
            _ => None,
        };
        done
    }
}

/// Runs it with a text on its standard input and returns what it printed.
pub(crate) fn run(arguments: &[&str], input: &str) -> Result<String, Error> {
    let program = env::var_os("PATH").and_then(|path| find(&path)).ok_or(Error::NoNft)?;
    BREAKER.run(Instant::now(), || run_within(LIMIT, &program, arguments, input))
}

/// The same of any program. One that takes longer is killed.
fn run_within(limit: Duration, program: &Path, arguments: &[&str], input: &str) -> Result<String, Error> {
    let until = Instant::now() + limit;
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::Run)?;
    // Threads wait on the pipes: any of them may be full, or stay open for ever in the hands of some grandchild.
    let written = feed(child.stdin.take(), input.to_owned());
    let (output, complaint) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let told = |pipe: &Receiver<String>| {
        pipe.recv_timeout(until.saturating_duration_since(Instant::now()))
            .map_err(|_late| Error::TimedOut(limit))
    };
    let ended = told(&output).and_then(|output| {
        let complaint = told(&complaint)?;
        while child.try_wait().map_err(Error::Run)?.is_none() {
            if Instant::now() >= until {
                return Err(Error::TimedOut(limit));
            }
            thread::sleep(PAUSE);
        }
        Ok((output, complaint))
    });
    let (output, complaint) = ended.inspect_err(|_| kill(&mut child))?;
    if !child.wait().map_err(Error::Run)?.success() {
        return Err(Error::Refused(complaint.lines().next().unwrap_or("it gave no reason").to_owned()));
    }
    written.recv().unwrap_or(Ok(())).map_err(Error::Run)?;
    Ok(output)
}

/// Ends and reaps it.
fn kill(child: &mut Child) {
    // It may have ended by itself.
    child.kill().ok();
    if let Err(error) = child.wait() {
        tracing::warn!(%error, "a process that took too long cannot be reaped");
    }
}

/// Writes a text into a pipe; how that went.
fn feed(pipe: Option<impl Write + Send + 'static>, text: String) -> Receiver<io::Result<()>> {
    let (done, told) = mpsc::channel();
    thread::spawn(move || {
        let written = pipe.map_or(Ok(()), |mut pipe| pipe.write_all(text.as_bytes()));
        done.send(written).ok();
    });
    told
}

/// Reads a pipe to its end.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (done, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What cannot be read any more ends the text.
        pipe.map(|mut pipe| pipe.read_to_end(&mut bytes).ok());
        done.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    told
}

fn find(path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join("nft")).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(limit: Duration, script: &str, input: &str) -> Result<String, Error> {
        run_within(limit, Path::new("/bin/sh"), &["-c", script], input)
    }

    #[test]
    fn a_host_without_the_program_is_told_what_to_do() {
        assert_eq!(find(OsStr::new("/nowhere:/proc")), None);
        let told = Error::NoNft.to_string();
        assert!(told.contains("install nftables") && told.contains("acceptFrom: Anyone"), "{told}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_reaped() {
        for script in ["exec sleep 5", "exec sleep 5 >&- 2>&-", "sleep 5 & wait", "sleep 5 &"] {
            let start = Instant::now();
            let limit = Duration::from_millis(200);
            // It reads nothing either, so that its input is full.
            let told = shell(limit, script, &"x".repeat(1 << 20)).unwrap_err();
            assert!(matches!(told, Error::TimedOut(_)), "{script}: {told}");
            assert!(start.elapsed() < Duration::from_secs(30), "{script}");
        }
    }

    #[test]
    fn after_one_that_did_not_end_none_is_run_for_ten_times_as_long() {
        let (breaker, start, took) = (Breaker(Mutex::new(None)), Instant::now(), Duration::from_secs(60));
        let late = || -> Result<(), Error> { Err(Error::TimedOut(took)) };
        let refused = || -> Result<(), Error> { Err(Error::Refused("x".to_owned())) };
        assert!(matches!(breaker.run(start, refused), Err(Error::Refused(_))));
        assert!(breaker.run(start, || Ok(())).is_ok(), "only time makes it rest");
        let first = breaker.run(start, late).unwrap_err().to_string();
        let soon = breaker.run(start + took * 9, || -> Result<(), Error> { panic!("it is run") });
        assert_eq!(soon.unwrap_err().to_string(), first, "the words stay the same");
        assert!(breaker.run(start + took * 11, || Ok(())).is_ok());
        assert!(breaker.run(start, || Ok(())).is_ok());
    }

    #[test]
    fn what_it_says_comes_back() {
        let soon = Duration::from_secs(30);
        let long = "x".repeat(1 << 20);
        assert_eq!(shell(soon, "cat", &long).unwrap(), long);
        let refused = shell(soon, "cat > /dev/null; echo no way >&2; exit 1", &long).unwrap_err();
        assert_eq!(refused.to_string(), "nft refused: no way");
    }
}
