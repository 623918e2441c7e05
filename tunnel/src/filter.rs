//! Who may send to the tunnel port: a table of nftables, ours alone.
//!
//! Only packets of our port and VNI are looked at. Their outer source must be a member and their inner source a tunnel
//! address of that very member; a pod may not send any. Everything dropped is counted by reason. The text is made in
//! [`text`]; here it is handed to `nft`, in one transaction, and only when it would change something. The table
//! outlives the program, and its counters every change.

use std::collections::BTreeMap;

use thiserror::Error;

pub mod forward;
mod look;
pub(crate) mod nft;
pub mod text;
mod watch;

pub use watch::Watch;

use crate::{AcceptFrom, Fabric, Member, nfnetlink};
use text::{Scope, Wanted};

/// Why the filter could not be set.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no program to set it with.
    #[error(
        "there is no `nft` in PATH: install nftables, or set spec.acceptFrom: Anyone to run without the filter"
    )]
    NoNft,
    /// The program could not be run.
    #[error("cannot run nft: {0}")]
    Run(#[source] std::io::Error),
    /// The program refused.
    #[error("nft refused: {0}")]
    Refused(String),
    /// The program did not end.
    #[error(
        "nft did not end within {} s and was killed; it is tried again after {} s: is this host overloaded, or does it have very many \
         rules?",
        .0.as_secs(), (*.0 * nft::REST).as_secs()
    )]
    TimedOut(std::time::Duration),
    /// The kernel did not tell what it has.
    #[error("cannot read the kernel's nftables: {0}")]
    Unreadable(#[source] std::io::Error),
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the kernel's rules were changed.
    pub changed: bool,
}

/// The filter, in the network namespace of whichever thread calls.
#[derive(Debug, Default)]
pub struct Filter {
    /// What we last put into the kernel. Only changes to it are sent while the kernel still has it.
    applied: Option<Wanted>,
}

impl Filter {
    /// A filter that does not know yet what the kernel has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets these members in, and nobody else. With `acceptFrom: Anyone` there is no table.
    ///
    /// # Errors
    /// When there is no `nft`, or it refuses.
    pub fn apply(&mut self, members: &[Member], fabric: &Fabric, own: &Member) -> Result<Outcome, Error> {
        if fabric.accept_from == AcceptFrom::Anyone {
            return self.remove();
        }
        let wanted = Wanted::new(members, fabric, own);
        let present = look::look().map_err(Error::Unreadable)?;
        if present.is(&wanted) {
            self.applied = Some(wanted);
            return Ok(Outcome { changed: false });
        }
        let known = self.applied.take().filter(|applied| present.is(applied));
        widen(known.as_ref(), |scope| nft::run(&["-f", "-"], &wanted.transaction(scope)).map(drop))?;
        self.applied = Some(wanted);
        Ok(Outcome { changed: true })
    }

    /// Packets dropped so far, by reason; none where there is no table.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>, Error> {
        look::counters().map_err(Error::Unreadable)
    }

    /// Removes the table.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn remove(&mut self) -> Result<Outcome, Error> {
        self.applied = None;
        match nft::run(&["-f", "-"], text::REMOVE) {
            Ok(_) => Ok(Outcome { changed: true }),
            // The program may have been removed since.
            Err(Error::NoNft) => match look::look() {
                Ok(present) if present.is_there() => Err(Error::NoNft),
                Err(error) if !nfnetlink::is_unsupported(&error) => Err(Error::Unreadable(error)),
                _ => Ok(Outcome { changed: false }),
            },
            Err(Error::Refused(complaint)) if complaint.contains("No such file") => {
                Ok(Outcome { changed: false })
            }
            Err(error) => Err(error),
        }
    }
}

/// Makes the smallest change that the program accepts. Whoever changed the elements by hand, or left sets of another kind, makes
/// the smaller ones fail; any other failure says nothing of the table.
fn widen(known: Option<&Wanted>, mut run: impl FnMut(Scope<'_>) -> Result<(), Error>) -> Result<(), Error> {
    for scope in known.map(Scope::Since).into_iter().chain([Scope::Elements]) {
        match run(scope) {
            Err(Error::Refused(complaint)) => {
                tracing::warn!(complaint, "the filter's table is not as expected and is made anew");
            }
            done => return done,
        }
    }
    run(Scope::Everything)
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    /// How often it is run when each run fails so, and how that ends.
    fn runs(error: impl Fn() -> Error) -> (usize, Error) {
        let mut count = 0;
        let done = widen(None, |_| {
            count += 1;
            Err(error())
        });
        (count, done.unwrap_err())
    }

    #[test]
    fn only_what_is_refused_is_tried_with_more() {
        assert_eq!(runs(|| Error::Refused("no".to_owned())).0, 2);
        let (count, error) = runs(|| Error::TimedOut(Duration::from_secs(10)));
        assert_eq!(count, 1);
        assert!(error.to_string().contains("tried again after 100 s"), "{error}");
        assert_eq!(runs(|| Error::NoNft).0, 1);
        assert_eq!(runs(|| Error::Run(io::ErrorKind::Other.into())).0, 1);
    }
}
