//! How much may be said in the log at once: a start with tens of thousands of policies is a summary.

/// As many events of a round are told one by one; of more, equal ones become one line with a count.
pub const FEW: usize = 20;
