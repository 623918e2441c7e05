//! Why a frontend could not be programmed: a fixed word for counting, a sentence for people.

/// Why a frontend is not as the policies want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For counting.
    pub reason: FailureReason,
    /// One line with the object and the remedy.
    pub message: String,
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureReason {
    /// A table has no room.
    TableFull,
    /// The kernel refused an operation.
    KernelRefused,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::TableFull, Self::KernelRefused];

    /// The word in metrics. It never changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TableFull => "TableFull",
            Self::KernelRefused => "KernelRefused",
        }
    }
}
