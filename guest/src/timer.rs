//! The virtual counter and timer (PPI 27).

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_TVAL_EL0, Readable, Writeable};
use core::arch::asm;

/// `CNTVCT_EL0`, not read ahead of what comes before.
#[inline]
#[must_use]
pub fn now() -> u64 {
    let value: u64;
    // SAFETY: Reads a counter; not `nomem`, so measured memory accesses stay on their side.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Ticks per second.
#[must_use]
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// Ticks in `microseconds`, at least 1.
#[must_use]
pub fn micros(microseconds: u64) -> u64 {
    (microseconds * frequency() / 1_000_000).max(1)
}

/// Busy-waits for `ticks`.
pub fn delay(ticks: u64) {
    let end = now() + ticks;
    while now() < end {
        crate::cpu::relax();
    }
}

/// Lets the timer fire `ticks` from now.
pub fn arm(ticks: u64) {
    CNTV_TVAL_EL0.set(ticks);
    control(1);
}

/// Turns the timer off, and its line low.
pub fn disarm() {
    control(0);
}

/// Whether the timer's condition is met (`ISTATUS`).
#[must_use]
pub fn fired() -> bool {
    CNTV_CTL_EL0.get() & 4 != 0
}

fn control(value: u64) {
    CNTV_CTL_EL0.set(value);
    // SAFETY: A barrier: the write takes effect before what follows.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}
