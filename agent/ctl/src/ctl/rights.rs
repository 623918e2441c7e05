//! Whether this process may look at what commands show. Who may not would take what is closed for what is not there.

use std::fs;

/// Capabilities of `include/uapi/linux/capability.h` that let a process look at programs and tables.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Whether the kernel lets this process look at BPF programs and tables.
pub(super) fn may_look() -> bool {
    // Where /proc does not tell, the kernel's answers will.
    fs::read_to_string("/proc/self/status").map_or(true, |status| is_privileged(&status))
}

fn is_privileged(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // Real, effective, saved, of the file system.
    let effective = field("Uid").and_then(|ids| ids.split_whitespace().nth(1));
    let capabilities = field("CapEff").and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let has = |capability: u32| capabilities.is_some_and(|set| set & (1 << capability) != 0);
    effective == Some("0") || has(CAP_SYS_ADMIN) || has(CAP_BPF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_or_a_capability_is_enough() {
        let status = |uid: &str, capabilities: &str| {
            format!("Name:\tbalancingctl\nUid:\t1000\t{uid}\t0\t0\nCapEff:\t{capabilities}\n")
        };
        for (uid, capabilities, may) in [
            ("0", "0000000000000000", true),
            ("1000", "0000000000000000", false),
            ("1000", "0000000000200000", true),
            ("1000", "0000008000000000", true),
            // CAP_NET_ADMIN alone.
            ("1000", "0000000000001000", false),
        ] {
            assert_eq!(is_privileged(&status(uid, capabilities)), may, "{uid} {capabilities}");
        }
    }
}
