//! The way from the plugin's log into the agent's: a socket in the run directory that takes one line a datagram.
//!
//! The plugin sends and never waits: without an agent, or with one that does not read, a line is in the plugin's own log alone. A
//! line is `LEVEL TEXT`; the level is one of the configuration's names.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

/// Longest datagram; what is longer is cut.
pub const LONGEST: usize = 4096;

/// Where the agent listens.
#[must_use]
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("cni-log.sock")
}

/// Sends a line if somebody takes it at once.
///
/// # Errors
/// When nobody does.
pub fn send(run_dir: &Path, level: &str, text: &str) -> io::Result<()> {
    let line = format!("{level} {text}");
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(&line.as_bytes()[..line.len().min(LONGEST)], self::socket(run_dir)).map(drop)
}

/// Level and text of a datagram.
#[must_use]
pub fn parse(datagram: &[u8]) -> (String, String) {
    let line = String::from_utf8_lossy(datagram);
    let (level, text) = line.split_once(' ').unwrap_or(("", &line));
    (level.to_owned(), text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn f9_a_reader_that_does_not_read_stops_nobody() {
        let dir = std::env::temp_dir().join(format!("balancing-plugin-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(send(&dir, "warn", "nobody is there").is_err());
        let reader = UnixDatagram::bind(socket(&dir)).unwrap();
        let begin = Instant::now();
        while send(&dir, "warn", &"é".repeat(LONGEST)).is_ok() {}
        assert!(begin.elapsed() < Duration::from_secs(60));
        let mut datagram = [0; LONGEST + 1];
        let length = reader.recv(&mut datagram).unwrap();
        assert_eq!(length, LONGEST);
        assert_eq!(parse(&datagram[..length]).0, "warn");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn whatever_comes_is_one_line() {
        assert_eq!(parse(b"info a\nb\x1b[0m"), ("info".to_owned(), "a b [0m".to_owned()));
        assert_eq!(parse(b"\xff"), (String::new(), "\u{fffd}".to_owned()));
    }
}
