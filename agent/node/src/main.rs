//! `balancing-agent`: the node agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_agent::app::main(balancing_dataplane::ABI)
}
