//! Locking a value that threads share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `shared`, even after a thread panicked while it held the lock. Only for values that no panic leaves half changed:
/// each change must happen in one step.
pub(super) fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
