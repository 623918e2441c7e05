//! `balancingctl`, also installed as `kubectl-balancing`.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_ctl::ctl::main()
}
