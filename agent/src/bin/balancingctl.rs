//! `balancingctl`, also installed as `kubectl-balancing`.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_agent::ctl::main()
}
