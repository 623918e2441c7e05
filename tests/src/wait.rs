//! Waiting for conditions, the only way a test may spend time.

use std::{
    io, thread,
    time::{Duration, Instant},
};

/// Times that a measurement is made before the machine counts as unfit for it.
const TRIES: usize = 20;
/// How long an address may be in use by copies of a socket that is closed.
const FREE: Duration = Duration::from_secs(10);
/// Between two looks at a condition: short against any deadline, long against a look's cost.
const PAUSE: Duration = Duration::from_millis(2);

/// Returns as soon as the condition holds.
///
/// # Panics
/// At the caller's line, when the condition does not hold within the deadline.
#[track_caller]
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, || condition().then_some(()));
}

/// Returns the first value that the probe finds.
///
/// # Panics
/// At the caller's line, when it finds none within the deadline.
#[track_caller]
pub fn wait_for<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < deadline, "nothing came of waiting {deadline:?}");
        thread::sleep(PAUSE);
    }
}

/// Binds a socket as soon as its address is free. A child of another thread's holds a copy of every socket of this
/// process between `fork` and `exec`, so an address may be in use for a moment after its socket was closed.
///
/// # Errors
/// What binding says; "in use" only after 10 s.
pub fn when_free<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let started = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < FREE => {
                thread::sleep(PAUSE);
            }
            bound => return bound,
        }
    }
}

/// Repeats a measurement that must happen within a time of the kernel's, such as a second, until the machine let it.
/// `None` says that it did not: it stood still in between, so what was measured tells nothing.
///
/// # Panics
/// At the caller's line, when 20 measurements in a row tell nothing.
#[track_caller]
pub fn undisturbed<T>(mut measure: impl FnMut() -> Option<T>) -> T {
    for _ in 0..TRIES {
        if let Some(found) = measure() {
            return found;
        }
    }
    panic!("{TRIES} measurements in a row were disturbed");
}
