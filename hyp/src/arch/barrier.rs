//! Barriers and waiting, each with its memory effect.

use core::{
    arch::asm,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

/// Earlier stores are visible to the inner-shareable domain before what follows (`DSB ISHST`).
pub(crate) fn dsb_ishst() {
    // SAFETY: A barrier changes no state. Not `nomem`: the compiler keeps stores before it.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// Everything before is complete before what follows (`DSB SY`).
pub(crate) fn dsb_sy() {
    // SAFETY: As above.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// System-register writes before act on what follows (`ISB`).
pub(crate) fn isb() {
    // SAFETY: As above.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// Waits for an interrupt; one that is pending but masked ends the wait, too (DDI 0487, Wait for Interrupt).
pub(crate) fn wfi() {
    // SAFETY: Waiting changes no state; the barrier completes the stores that the waker will look for.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Gives the turn away in a loop that waits for another pCPU. `YIELD`, not `ISB`: QEMU's single-threaded mode goes on to
/// the next CPU at once.
pub(crate) fn relax() {
    // SAFETY: A hint changes no state.
    unsafe { asm!("yield", options(nostack, preserves_flags)) };
}

/// How EL2's spin locks wait: see [`relax`].
pub(crate) struct Yield;

impl spin::RelaxStrategy for Yield {
    fn relax() {
        relax();
    }
}

/// EL2's lock: a spin lock that waits with [`relax`].
pub(crate) type Mutex<T> = spin::mutex::SpinMutex<T, Yield>;
/// A lock for what every pCPU wants again and again: first come, first served.
pub(crate) type FairMutex<T> = spin::mutex::TicketMutex<T, Yield>;
/// The proof that a [`FairMutex`] is held.
pub(crate) type FairGuard<'a, T> = spin::mutex::ticket::TicketMutexGuard<'a, T, Yield>;
/// The proof that a [`Mutex`] is held.
pub(crate) type Guard<'a, T> = spin::mutex::SpinMutexGuard<'a, T, Yield>;

/// What is made once, at boot, and read without a lock ever after.
pub(crate) struct Once<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Once<T> {
    /// It is not made yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// It is `value`.
    pub(crate) fn set(&self, value: &'static T) {
        self.0.store(ptr::from_ref(value).cast_mut(), Ordering::Release);
    }

    /// What was [`set`](Self::set).
    pub(crate) fn get(&self) -> Option<&'static T> {
        // SAFETY: Null, or what `set` was given: a shared reference that lives for ever.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}

/// Frees the lock of `mutex`, which `guard` holds, for as long as `meanwhile` takes `with` what it is given, and takes it again. The guard
/// of another lock stays as it is.
#[inline(always)]
pub(crate) fn lend<T, A, R>(mutex: &Mutex<T>, guard: &mut Guard<'_, T>, meanwhile: impl FnOnce(A) -> R, with: A) -> R {
    let held = core::ptr::eq(core::ptr::from_ref(&**guard), mutex.as_mut_ptr());
    if held {
        // SAFETY: `guard` guards what is in `mutex`, so its lock is held; and it is borrowed until that is so again, so nobody
        // reaches the data through it meanwhile.
        unsafe { mutex.force_unlock() };
    }
    let result = meanwhile(with);
    if held {
        core::mem::forget(mutex.lock());
    }
    result
}
