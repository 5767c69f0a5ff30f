//! Atomics: the core library's, or loom's under the model checker.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// Whether the sequence counter, looked at before and after a record was read, says that no writer was at it.
#[inline]
pub(crate) const fn undisturbed(before: u64, after: u64) -> bool {
    before & 1 == 0 && before == after
}

/// The memory orderings of the shadow's readers, one name a step.
///
/// hyp-core's loom tests compile the same readers with one of these (or that check) weakened at a time, and expect the model to object.
pub(crate) mod order {
    use super::Ordering;

    /// The word: what was stored before it (the record of its generation, the template) is seen after it.
    pub(crate) const READ_WORD: Ordering = Ordering::Acquire;
    /// The template.
    pub(crate) const READ_TEMPLATE: Ordering = Ordering::Acquire;
    /// The sequence counter before the record: the record read next is at least as new.
    pub(crate) const READ_SEQ_FIRST: Ordering = Ordering::Acquire;
    /// The record's words. They may be torn; the counter tells.
    pub(crate) const READ_RECORD: Ordering = Ordering::Relaxed;
    /// The fence after the record: a word of a newer record brings that record's odd count with it.
    pub(crate) const READ_FENCE: Ordering = Ordering::Acquire;
    /// The sequence counter again, after the fence.
    pub(crate) const READ_SEQ_LAST: Ordering = Ordering::Relaxed;
}
