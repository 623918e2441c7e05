//! Turning a failed set-up step into a panic that says what was being done.

use std::fmt::Display;

/// Unwraps what a test cannot do without.
pub(crate) trait Must<T> {
    /// The value, or a panic at the caller's line that names the step and the cause.
    fn must(self, step: impl Display) -> T;
}

impl<T, E: Display> Must<T> for Result<T, E> {
    #[track_caller]
    fn must(self, step: impl Display) -> T {
        match self {
            Ok(value) => value,
            Err(cause) => panic!("cannot {step}: {cause}"),
        }
    }
}

impl<T> Must<T> for Option<T> {
    #[track_caller]
    fn must(self, step: impl Display) -> T {
        match self {
            Some(value) => value,
            None => panic!("cannot {step}"),
        }
    }
}
