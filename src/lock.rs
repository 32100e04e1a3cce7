//! Locks that are held for plain assignments only: a panic leaves nothing half-done behind, so poison does not matter.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock, whether or not another thread panicked while it held it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
