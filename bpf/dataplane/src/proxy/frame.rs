//! A frame through the programs without a device: what would become of it.

use std::{io, os::fd::AsFd as _};

use super::{Error, Proxy};
use crate::sys;

/// `TC_ACT_OK`
const PASS: u32 = 0;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came through the tunnel.
    Ingress,
    /// It leaves through the tunnel.
    Egress,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It goes on; otherwise it is dropped, and a counter says why.
    pub passed: bool,
    /// As it goes on.
    pub frame: Vec<u8>,
}

impl Proxy {
    /// Runs an Ethernet frame through the program of a direction. It opens connections and is counted as any frame is.
    ///
    /// # Errors
    /// The kernel takes no such frame: it is shorter than an Ethernet header, or longer than a page.
    pub fn try_frame(&self, direction: Direction, frame: &[u8]) -> Result<Verdict, Error> {
        let program = match direction {
            Direction::Ingress => &self.programs.ingress,
            Direction::Egress => &self.programs.egress,
        };
        let failed = |source: io::Error| Error::Frame { length: frame.len(), source };
        let (answer, frame) = sys::run::on_frame(program.as_fd(), frame).map_err(failed)?;
        Ok(Verdict { passed: answer == PASS, frame })
    }
}
