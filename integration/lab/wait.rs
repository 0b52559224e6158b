//! Waiting for what happens a little later.

use std::time::{Duration, Instant};

/// The longest that `eventually` waits. The kernel removes namespaces one after the other, which takes seconds when many tests
/// end at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds; false if it never did.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// The first success of something that is tried again and again, or how the last attempt failed. A port of a socket that was closed
/// just now is one: what is left of a process that another test starts at that moment may have the socket a little longer.
pub fn success<T, E>(mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() <= PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
}
