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
