//! The kick's tickets.

use super::sync::{AtomicU64, Ordering, order};

/// A vCPU's kick: how many were asked for, and how many of those are answered.
///
/// The asker calls [`raise`](Self::raise), makes the store visible (`DSB ISHST`), and sends the kick SGI in every case: it does not
/// look where the target is, so no kick is lost and the target's way into the guest needs no barrier. The target's next interrupt
/// exit calls [`answer`](Self::answer), whether or not the SGI was its own reason to exit.
#[derive(Debug)]
pub struct Kick {
    ticket: AtomicU64,
    ack: AtomicU64,
}

/// One asker's place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a kick is over when its ticket is answered"]
pub struct Ticket(u64);

/// The newest ticket that the target knew of before it read its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "askers wait for the acknowledgement"]
pub struct Observed(u64);

impl Kick {
    /// A kick that nobody asked for.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ticket: AtomicU64::new(0),
            ack: AtomicU64::new(0),
        }
    }

    /// A kick that nobody asked for.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            ticket: AtomicU64::new(0),
            ack: AtomicU64::new(0),
        }
    }

    /// Asker: draws a ticket. `DSB ISHST` and the SGI come next.
    pub fn raise(&self) -> Ticket {
        Ticket(self.ticket.fetch_add(1, order::KICK_RAISE).wrapping_add(1))
    }

    /// Asker: whether the target has published since the ticket was drawn. What it published is visible then.
    #[must_use]
    #[inline]
    pub fn is_answered(&self, ticket: Ticket) -> bool {
        self.ack.load(order::KICK_ANSWERED).wrapping_sub(ticket.0).cast_signed() >= 0
    }

    /// Target: whether a ticket waits for an answer. A hint for the exit path; the SGI is what cannot be lost.
    #[must_use]
    #[inline]
    pub fn pending(&self) -> bool {
        self.ticket.load(Ordering::Relaxed) != self.ack.load(Ordering::Relaxed)
    }

    /// Target: notes the newest ticket. Before `ICH_VMCR_EL2` is read, so that no ticket is answered with a value older than itself.
    #[inline]
    pub fn observe(&self) -> Observed {
        Observed(self.ticket.load(order::KICK_OBSERVE))
    }

    /// Target: answers every ticket up to `observed`. After the registers were published.
    #[inline]
    pub fn acknowledge(&self, observed: Observed) {
        self.ack.store(observed.0, order::KICK_ACKNOWLEDGE);
    }

    /// Target: [`observe`](Self::observe), `publish`, [`acknowledge`](Self::acknowledge), in the only right order. `publish` reads the registers and
    /// publishes them, changed or not.
    #[inline]
    pub fn answer<R>(&self, publish: impl FnOnce() -> R) -> R {
        let observed = self.observe();
        let result = publish();
        self.acknowledge(observed);
        result
    }
}

impl Default for Kick {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_answered_by_the_next_answer() {
        let kick = Kick::default();
        assert!(!kick.pending());
        let ticket = kick.raise();
        assert!(kick.pending() && !kick.is_answered(ticket));
        assert_eq!(kick.answer(|| 7), 7);
        assert!(!kick.pending() && kick.is_answered(ticket));
    }

    #[test]
    fn one_answer_serves_every_ticket_drawn_before_it_and_none_drawn_after_it_began() {
        let kick = Kick::new();
        let (first, second) = (kick.raise(), kick.raise());
        let third = kick.answer(|| kick.raise());
        assert!(kick.is_answered(first) && kick.is_answered(second));
        assert!(!kick.is_answered(third) && kick.pending());
        kick.answer(|| ());
        assert!(kick.is_answered(third) && !kick.pending());
    }

    #[test]
    fn answering_nobody_is_harmless() {
        let kick = Kick::new();
        kick.answer(|| ());
        let ticket = kick.raise();
        assert!(!kick.is_answered(ticket));
    }

    #[test]
    fn tickets_wrap() {
        let kick = Kick {
            ticket: AtomicU64::new(u64::MAX - 1),
            ack: AtomicU64::new(u64::MAX - 1),
        };
        let (last, first) = (kick.raise(), kick.raise());
        assert!(!kick.is_answered(last) && !kick.is_answered(first));
        kick.answer(|| ());
        assert!(kick.is_answered(last) && kick.is_answered(first));
        assert!(!kick.is_answered(kick.raise()));
    }
}
