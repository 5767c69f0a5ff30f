//! The flag that says a VM's vGIC is initialised.

use super::sync::{AtomicBool, Ordering, order};

/// Whether a VM's vGIC is initialised: no template is read before it was seen raised.
///
/// Raised once all templates are stored, lowered when the VM is reset.
#[derive(Debug)]
pub struct Ready(AtomicBool);

impl Ready {
    /// Not ready.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Not ready.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Raises the flag: every template stored before is seen by whoever finds [`Self::is_ready`].
    pub fn publish(&self) {
        self.0.store(true, order::READY_PUBLISH);
    }

    /// Whether the flag is raised.
    #[must_use]
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.0.load(order::READY_CHECK)
    }

    /// Lowers the flag, for a VM that is reset. Nothing of the VM may run meanwhile.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ready_is_raised_once_and_lowered_by_reset() {
        let ready = Ready::default();
        assert!(!ready.is_ready());
        ready.publish();
        ready.publish();
        assert!(ready.is_ready());
        ready.reset();
        assert!(!ready.is_ready());
    }
}
