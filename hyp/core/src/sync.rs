//! Atomics: the core library's, or loom's under the model checker; and the memory orderings of the lock-free protocols.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// Whether the shadow's writer marks a record that it is about to change. Only the test image that must show torn records says no.
pub const ODD_PHASE: bool = !cfg!(feature = "broken-writer");

/// The memory orderings of the lock-free protocols, one name a step.
///
/// The loom tests compile the same sources with one of these weakened at a time, and expect the model to object.
pub mod order {
    use super::Ordering;

    /// Shadow: the count turns odd. The fence that follows orders it.
    pub const WRITE_SEQ_ODD: Ordering = Ordering::Relaxed;
    /// Shadow: the fence after the odd count. Who sees a word of the new record, and fences in turn, sees the odd count.
    pub const WRITE_FENCE: Ordering = Ordering::Release;
    /// Shadow: the record's words.
    pub const WRITE_RECORD: Ordering = Ordering::Relaxed;
    /// Shadow: the count turns even. Who sees it sees the whole record.
    pub const WRITE_SEQ_EVEN: Ordering = Ordering::Release;
    /// Shadow: the word. Who sees it sees the record of its generation, and the template.
    pub const WRITE_WORD: Ordering = Ordering::Release;
    /// Shadow: the word on the way into the guest, and of one that waits, for the same reason: it carries the same generation.
    pub const WRITE_WORD_ENTER: Ordering = Ordering::Release;
    /// Shadow: the template.
    pub const WRITE_TEMPLATE: Ordering = Ordering::Release;

    /// Ready flag: raised. Who sees it sees the templates.
    pub const READY_PUBLISH: Ordering = Ordering::Release;
    /// Ready flag: asked.
    pub const READY_CHECK: Ordering = Ordering::Acquire;

    /// Kick: the ticket is drawn. Who observes it sees what the asker stored before.
    pub const KICK_RAISE: Ordering = Ordering::Release;
    /// Kick: the target observes the newest ticket.
    pub const KICK_OBSERVE: Ordering = Ordering::Acquire;
    /// Kick: the target acknowledges. Who sees it sees what was published.
    pub const KICK_ACKNOWLEDGE: Ordering = Ordering::Release;
    /// Kick: the asker looks for its answer.
    pub const KICK_ANSWERED: Ordering = Ordering::Acquire;

    /// Request: claimed. The last user's loads are over.
    pub const REQUEST_CLAIM: Ordering = Ordering::Acquire;
    /// Request: handed over. Who takes it sees its arguments.
    pub const REQUEST_SUBMIT: Ordering = Ordering::Release;
    /// Request: taken.
    pub const REQUEST_TAKE: Ordering = Ordering::Acquire;
    /// Request: finished. Who sees it sees the result.
    pub const REQUEST_FINISH: Ordering = Ordering::Release;
    /// Request: the requester looks for its result.
    pub const REQUEST_POLL: Ordering = Ordering::Acquire;
    /// Request: free again. Who claims it next may store to it.
    pub const REQUEST_FREE: Ordering = Ordering::Release;
}
