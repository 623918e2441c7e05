//! The configuration on stdin, bounded in size and time: a runtime may keep the pipe open.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::error::{CniError, Code};

/// Far above any configuration; a result with thousands of routes has some hundred kilobytes.
const LIMIT: usize = 4 * 1024 * 1024;

/// Reads stdin to its end.
pub(crate) fn read(patience: Duration) -> Result<Vec<u8>, CniError> {
    let stdin = io::stdin();
    // A second handle on the same pipe: the standard one buffers, which polling would not see.
    let mut source =
        stdin.as_fd().try_clone_to_owned().map(std::fs::File::from).map_err(|error| failed(&error))?;
    read_from(&mut source, stdin.as_fd(), patience, LIMIT)
}

fn read_from(
    source: &mut impl Read,
    fd: BorrowedFd<'_>,
    patience: Duration,
    limit: usize,
) -> Result<Vec<u8>, CniError> {
    let deadline = Instant::now() + patience;
    let mut content = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        await_data(fd, deadline)?;
        match source.read(&mut chunk) {
            Ok(0) => return Ok(content),
            Ok(count) => content.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(&error)),
        }
        if content.len() > limit {
            let details = format!("stdin has more than {limit} bytes");
            return Err(CniError::new(Code::Decode, "the configuration is too large", details));
        }
    }
}

fn await_data(fd: BorrowedFd<'_>, deadline: Instant) -> Result<(), CniError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                let details =
                    "stdin was not closed in time; does the runtime write the configuration and close it?";
                return Err(CniError::new(Code::Io, "cannot read the configuration", details));
            }
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(&errno.into())),
        }
    }
}

fn failed(error: &io::Error) -> CniError {
    CniError::new(Code::Io, "cannot read the configuration", format!("stdin: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn all_up_to_the_limit() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"0123456789").unwrap();
        drop(writer);
        let fd = reader.try_clone().unwrap();
        assert_eq!(read_from(&mut reader, fd.as_fd(), SOON, 10).unwrap(), b"0123456789");
    }

    #[test]
    fn a13_one_byte_too_many() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"0123456789").unwrap();
        let fd = reader.try_clone().unwrap();
        assert_eq!(read_from(&mut reader, fd.as_fd(), SOON, 9).unwrap_err().code, Code::Decode);
    }

    #[test]
    fn a14_a_writer_that_hangs() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"{").unwrap();
        let fd = reader.try_clone().unwrap();
        assert_eq!(read_from(&mut reader, fd.as_fd(), SOON, 10).unwrap_err().code, Code::Io);
    }
}
