//! Two other implementations of the plugin side of CNI, which accept every call that they understand: oracles of the
//! differential test.
//!
//! `cni_peer rscni` is the crate `rscni-plugin`, `cni_peer cni-plugin` the crate `cni-plugin`. They read environment and stdin
//! themselves, so each call is a process.

use std::process::ExitCode;

use rscni_plugin::{
    cni::{Cni, Plugin},
    error::Error,
    types::{Args, CNIResult},
    version::SpecVersion,
};

/// Accepts everything.
struct Accepting;

impl Cni for Accepting {
    fn add(&self, _: Args) -> Result<CNIResult, Error> {
        Ok(CNIResult::default())
    }

    fn del(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }

    fn check(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }

    fn status(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }

    fn gc(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }
}

fn main() -> ExitCode {
    let accepted = match std::env::args().nth(1).as_deref() {
        Some("rscni") => {
            let versions = [(0, 3, 0), (0, 3, 1), (0, 4, 0), (1, 0, 0), (1, 1, 0)];
            let versions = versions.map(|(major, minor, patch)| SpecVersion::new(major, minor, patch));
            Plugin::new(SpecVersion::new(1, 1, 0), versions.to_vec()).msg("oracle").run(&Accepting).is_ok()
        }
        Some("cni-plugin") => cni_plugin::Cni::from_env().is_ok(),
        _ => false,
    };
    if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
