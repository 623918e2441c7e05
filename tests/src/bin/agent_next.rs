//! The agent of a build with the next ABI number: what an upgrade installs.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_agent::app::main(balancing_dataplane::ABI + 1)
}
