//! Two things at the same time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Tells the other thread to stop, also when its own panics: a test that failed has to end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Works on a thread of its own until the caller's part is over: then the flag becomes true. Returns both results.
///
/// # Panics
/// When one of them does.
pub fn beside<T: Send, R>(work: impl FnOnce(&AtomicBool) -> T + Send, part: impl FnOnce() -> R) -> (T, R) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| work(&stop));
        let result = {
            let _stop = Stop(&stop);
            part()
        };
        (worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), result)
    })
}
