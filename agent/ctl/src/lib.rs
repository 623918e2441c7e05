//! `balancingctl`: looks at the data plane, asks the agent and converts manifests. It changes nothing.

pub mod convert;
pub mod ctl;
pub mod socket;
