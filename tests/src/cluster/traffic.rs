//! What a host hears from the API server.

use std::process::Command;

use super::{ADDRESS, ControlPlane};
use crate::{NetNs, must::Must};

impl ControlPlane {
    /// Bytes that TCP has received from the API server on all connections of a joined network namespace that are open
    /// now: TLS records, without the headers of packets (`bytes_received` of `ss(8)`).
    #[must_use]
    pub fn bytes_to(&self, host: &NetNs) -> u64 {
        let mut ss = Command::new("ss");
        ss.args(["--tcp", "--info", "--no-header", "dst", ADDRESS]);
        let output = host.run(|| ss.output()).must("run ss (iproute2)");
        assert!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let counts = text.split_whitespace().filter_map(|word| word.strip_prefix("bytes_received:"));
        counts.map(|count| count.parse::<u64>().must("read the output of ss")).sum()
    }
}
