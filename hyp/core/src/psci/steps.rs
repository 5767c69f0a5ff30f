//! The atomic steps of a vCPU's power state. Every ordering stands here, each with what it pairs with, and a test of the
//! model checker can put a wrong step in the place of a right one.

use crate::sync::{AtomicU64, Ordering};

/// Takes the word from `off` to `next` if it still is `off`; else gives what it is. This decides which `CPU_ON` wins.
///
/// Acquire pairs with [`settle`] in the target's `CPU_OFF`: the target has read its last start before the next is written.
pub(crate) fn claim(word: &AtomicU64, off: u64, next: u64) -> Result<(), u64> {
    word.compare_exchange(off, next, Ordering::Acquire, Ordering::Relaxed).map(|_| ())
}

/// Moves the word from `from` to `to`; false if it is something else, and then nothing changes.
///
/// Release publishes what its caller wrote before: the start, to [`peek`]; a vCPU's last stores, to whoever reads OFF.
pub(crate) fn settle(word: &AtomicU64, from: u64, to: u64) -> bool {
    word.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Reads the word. Acquire pairs with [`settle`].
pub(crate) fn peek(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}
