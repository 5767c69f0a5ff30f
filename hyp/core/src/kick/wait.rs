//! The wait for another pCPU.

/// The deadline passed before the answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// Waits until `done`, serving what others ask of this pCPU meanwhile, or until `expired`.
///
/// `serve_own` runs once between two looks at `done`; put the pause (`yield` or `WFE`) there. An answer that is there when the
/// deadline is found to have passed still counts.
///
/// # Errors
/// [`TimedOut`] when `expired` said so and `done` did not.
#[inline]
pub fn wait(mut done: impl FnMut() -> bool, mut serve_own: impl FnMut(), mut expired: impl FnMut() -> bool) -> Result<(), TimedOut> {
    loop {
        if done() {
            return Ok(());
        }
        serve_own();
        if expired() {
            return if done() { Ok(()) } else { Err(TimedOut) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn an_answer_that_is_there_costs_nothing() {
        assert_eq!(wait(|| true, || panic!("served"), || panic!("looked at the clock")), Ok(()));
    }

    #[test]
    fn own_requests_are_served_between_two_looks() {
        let served = Cell::new(0);
        assert_eq!(wait(|| served.get() == 5, || served.set(served.get() + 1), || false), Ok(()));
        assert_eq!(served.get(), 5);
    }

    #[test]
    fn the_deadline_ends_the_wait() {
        let looks = Cell::new(0);
        let expired = || {
            looks.set(looks.get() + 1);
            looks.get() == 3
        };
        assert_eq!(wait(|| false, || (), expired), Err(TimedOut));
        assert_eq!(looks.get(), 3);
    }

    #[test]
    fn an_answer_at_the_deadline_counts() {
        let answered = Cell::new(false);
        let expired = || {
            answered.set(true);
            true
        };
        assert_eq!(wait(|| answered.get(), || (), expired), Ok(()));
    }
}
