//! The slot through which one pCPU has another act on the vCPU that is resident there.

use super::sync::{AtomicU64, Ordering, order};

/// How many words a request carries.
const ARGUMENTS: usize = 3;
/// How many words its result has.
const RESULTS: usize = 2;

/// Nobody's.
const FREE: u64 = 0;
/// A requester fills it.
const CLAIMED: u64 = 1;
/// The target may take it, the requester may withdraw it: one compare-and-swap decides.
const SUBMITTED: u64 = 2;
/// The target performs it.
const TAKEN: u64 = 3;
/// The result is there; the requester's again.
const DONE: u64 = 4;
/// The target performs it for nobody, and frees it.
const ABANDONED: u64 = 5;

/// One vCPU's request slot: one request outstanding at a time, from any requester to the vCPU's pCPU.
///
/// Requester: [`claim`](Self::claim) (retry while serving one's own requests), [`Claim::submit`], kick, [`Submitted::poll`] in a [`wait`](super::wait);
/// at the deadline [`Submitted::withdraw`]. Target: [`serve`](Self::serve) before it answers the kick.
#[derive(Debug)]
pub struct Request {
    state: AtomicU64,
    arguments: [AtomicU64; ARGUMENTS],
    results: [AtomicU64; RESULTS],
}

/// The requester's exclusive right to fill the slot. Dropping it frees the slot.
#[derive(Debug)]
#[must_use = "a claimed slot is closed to everybody else"]
pub struct Claim<'a>(&'a Request);

/// A request that was handed over. Dropping it withdraws it.
#[derive(Debug)]
#[must_use = "a request that nobody polls is withdrawn"]
pub struct Submitted<'a> {
    request: &'a Request,
    result: Option<[u64; RESULTS]>,
    settled: bool,
}

/// A request that the target performs.
#[derive(Debug)]
#[must_use = "the requester waits for the result"]
pub struct Taken<'a> {
    request: &'a Request,
    arguments: [u64; ARGUMENTS],
}

/// What became of a request that was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// The target never saw it: it had no effect and will have none.
    Untouched,
    /// It was performed after all, with this result.
    Finished([u64; RESULTS]),
    /// The target is at it: it takes effect, or did, and the result is lost.
    Abandoned,
}

impl Request {
    /// A free slot.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: AtomicU64::new(FREE),
            arguments: [const { AtomicU64::new(0) }; ARGUMENTS],
            results: [const { AtomicU64::new(0) }; RESULTS],
        }
    }

    /// A free slot.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: AtomicU64::new(FREE),
            arguments: core::array::from_fn(|_| AtomicU64::new(0)),
            results: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Requester: claims the slot; `None` while another request is outstanding.
    pub fn claim(&self) -> Option<Claim<'_>> {
        // Lazily: a `Claim` that is made and dropped frees the slot.
        self.swap(FREE, CLAIMED, order::REQUEST_CLAIM).then(|| Claim(self))
    }

    /// Target: whether a request waits to be taken.
    #[must_use]
    #[inline]
    pub fn pending(&self) -> bool {
        self.state.load(Ordering::Relaxed) == SUBMITTED
    }

    /// Target: takes the request that waits, if one does.
    #[inline]
    pub fn take(&self) -> Option<Taken<'_>> {
        if !self.pending() || !self.swap(SUBMITTED, TAKEN, order::REQUEST_TAKE) {
            return None;
        }
        let arguments = self.arguments.each_ref().map(|cell| cell.load(Ordering::Relaxed));
        Some(Taken { request: self, arguments })
    }

    /// Target: takes the request that waits, performs it and hands the result back. Whether there was one.
    #[inline]
    pub fn serve(&self, perform: impl FnOnce([u64; ARGUMENTS]) -> [u64; RESULTS]) -> bool {
        let Some(taken) = self.take() else { return false };
        let results = perform(taken.arguments());
        taken.finish(results);
        true
    }

    fn swap(&self, from: u64, to: u64, success: Ordering) -> bool {
        self.state.compare_exchange(from, to, success, Ordering::Relaxed).is_ok()
    }

    fn free(&self) {
        self.state.store(FREE, order::REQUEST_FREE);
    }
}

impl Default for Request {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Claim<'a> {
    /// Hands the request to the target. A kick comes next.
    pub fn submit(self, arguments: [u64; ARGUMENTS]) -> Submitted<'a> {
        let request = self.0;
        core::mem::forget(self);
        for (cell, value) in request.arguments.iter().zip(arguments) {
            cell.store(value, Ordering::Relaxed);
        }
        request.state.store(SUBMITTED, order::REQUEST_SUBMIT);
        Submitted {
            request,
            result: None,
            settled: false,
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.free();
    }
}

impl Submitted<'_> {
    /// The result, once it is there. It frees the slot then, and goes on returning the result.
    pub fn poll(&mut self) -> Option<[u64; RESULTS]> {
        if !self.settled && self.request.state.load(order::REQUEST_POLL) == DONE {
            self.result = Some(self.request.results.each_ref().map(|cell| cell.load(Ordering::Relaxed)));
            self.settled = true;
            self.request.free();
        }
        self.result
    }

    /// Gives the request up, unless it is finished by now.
    pub fn withdraw(mut self) -> Withdrawn {
        self.settle()
    }

    /// A request is only ever taken after it was submitted, and finished after it was taken: at most one state follows another here.
    fn settle(&mut self) -> Withdrawn {
        if !self.settled {
            if self.request.swap(SUBMITTED, FREE, order::REQUEST_FREE) {
                self.settled = true;
                return Withdrawn::Untouched;
            }
            if self.request.swap(TAKEN, ABANDONED, Ordering::Relaxed) {
                self.settled = true;
                return Withdrawn::Abandoned;
            }
        }
        // Neither submitted nor taken: finished.
        self.poll().map_or(Withdrawn::Abandoned, Withdrawn::Finished)
    }
}

impl Drop for Submitted<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.settle();
        }
    }
}

impl Taken<'_> {
    /// What the requester passed.
    #[must_use]
    pub const fn arguments(&self) -> [u64; ARGUMENTS] {
        self.arguments
    }

    /// Hands the result to the requester, or frees the slot of one that gave up.
    pub fn finish(self, results: [u64; RESULTS]) {
        for (cell, value) in self.request.results.iter().zip(results) {
            cell.store(value, Ordering::Relaxed);
        }
        if !self.request.swap(TAKEN, DONE, order::REQUEST_FINISH) {
            self.request.free();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_performed_once_and_its_slot_is_free_again() {
        let request = Request::default();
        let mut submitted = request.claim().expect("free").submit([1, 2, 3]);
        assert_eq!(submitted.poll(), None);
        assert!(request.serve(|[a, b, c]| [a + b, c]));
        assert!(!request.serve(|_| panic!("performed twice")));
        assert_eq!(submitted.poll(), Some([3, 3]));
        assert_eq!(submitted.poll(), Some([3, 3]));
        assert!(request.claim().is_some());
    }

    #[test]
    fn one_request_at_a_time() {
        let request = Request::new();
        let claim = request.claim().expect("free");
        assert!(request.claim().is_none());
        assert!(!request.pending() && request.take().is_none());
        let mut submitted = claim.submit([0; 3]);
        assert!(request.pending() && request.claim().is_none());
        request.serve(|_| [0; 2]);
        assert!(request.claim().is_none(), "the result was not fetched yet");
        submitted.poll();
        assert!(request.claim().is_some());
    }

    #[test]
    fn a_polled_result_does_not_free_the_next_requesters_slot() {
        let request = Request::new();
        let mut first = request.claim().expect("free").submit([0; 3]);
        request.serve(|_| [1; 2]);
        assert_eq!(first.poll(), Some([1; 2]));
        let _second = request.claim().expect("free").submit([0; 3]);
        assert_eq!(first.withdraw(), Withdrawn::Finished([1; 2]));
        assert!(request.pending(), "the second request is gone");
    }

    #[test]
    fn a_claim_that_is_dropped_frees_the_slot() {
        let request = Request::new();
        drop(request.claim());
        assert!(request.claim().is_some());
    }

    #[test]
    fn a_request_withdrawn_in_time_has_no_effect() {
        let request = Request::new();
        assert_eq!(request.claim().expect("free").submit([0; 3]).withdraw(), Withdrawn::Untouched);
        assert!(!request.serve(|_| panic!("performed")));
        drop(request.claim().expect("free").submit([0; 3]));
        assert!(!request.serve(|_| panic!("performed")));
        assert!(request.claim().is_some());
    }

    #[test]
    fn a_request_withdrawn_while_it_is_performed_is_freed_by_the_target() {
        let request = Request::new();
        let submitted = request.claim().expect("free").submit([4, 5, 6]);
        let taken = request.take().expect("submitted");
        assert_eq!(submitted.withdraw(), Withdrawn::Abandoned);
        assert!(request.claim().is_none(), "the target is still at it");
        assert_eq!(taken.arguments(), [4, 5, 6]);
        taken.finish([0; 2]);
        assert!(request.claim().is_some());
    }

    #[test]
    fn a_request_withdrawn_after_it_was_performed_has_its_result() {
        let request = Request::new();
        let submitted = request.claim().expect("free").submit([0; 3]);
        request.serve(|_| [8, 9]);
        assert_eq!(submitted.withdraw(), Withdrawn::Finished([8, 9]));
        assert!(request.claim().is_some());
    }
}
