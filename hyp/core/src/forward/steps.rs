//! The atomic steps of a forwarded call. Every ordering stands here, each with what it pairs with, and a test of the model
//! checker can put a wrong step in the place of a right one.

use crate::sync::{AtomicU64, Ordering};

/// Reads a slot's word. Acquire pairs with [`publish`]: who sees a call or an answer also sees its registers.
pub(crate) fn peek(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// Shows a call to the host, or an answer to the waiter: what was written before is seen with it.
pub(crate) fn publish(word: &AtomicU64, to: u64) {
    word.store(to, Ordering::Release);
}

/// The host takes a call whose registers it has read. Release keeps those reads before the waiter's next call (it goes on
/// by [`answer`] or [`give_up`], which acquire), so a call that is delivered was read whole.
pub(crate) fn deliver(word: &AtomicU64, posted: u64, delivered: u64) -> bool {
    word.compare_exchange(posted, delivered, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// The answer's half of the decision between verdict and deadline: the one who gets this through writes the answer alone.
pub(crate) fn answer(word: &AtomicU64, delivered: u64, answering: u64) -> bool {
    word.compare_exchange(delivered, answering, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

/// The deadline's half of that decision, and a reset's.
pub(crate) fn give_up(word: &AtomicU64, outstanding: u64, to: u64) -> bool {
    word.compare_exchange(outstanding, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Adds to the exits that wait for the host. Release pairs with [`lower`]: who takes a bit sees the call behind it.
pub(crate) fn raise(waiting: &AtomicU64, bits: u64) {
    waiting.fetch_or(bits, Ordering::Release);
}

/// Takes from the exits that wait for the host, and says which of `bits` were there: each is taken once.
pub(crate) fn lower(waiting: &AtomicU64, bits: u64) -> u64 {
    waiting.fetch_and(!bits, Ordering::Acquire) & bits
}

/// [`lower`], unless one of `before`, which come first, is there at the same moment.
pub(crate) fn lower_behind(waiting: &AtomicU64, bits: u64, before: u64) -> u64 {
    let lowered = waiting.fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
        (word & before == 0 && word & bits != 0).then_some(word & !bits)
    });
    lowered.map_or(0, |word| word & bits)
}
