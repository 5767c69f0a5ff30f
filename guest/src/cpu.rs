//! Which vCPU this is, starting others, and waiting without starving them.

use crate::{psci, timer};
use aarch64_cpu::registers::{DAIF, MPIDR_EL1, Readable, Writeable};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use hyp_abi::layout::{MAX_VCPUS, affinity_of};

/// How a lock waits: with `YIELD`, which under QEMU's `-icount` passes the turn to the next CPU (`ISB` would keep it).
#[derive(Debug)]
pub struct Relax;

impl spin::RelaxStrategy for Relax {
    fn relax() {
        relax();
    }
}

/// One turn of a waiting loop.
#[inline]
pub fn relax() {
    // SAFETY: A hint; not `nomem`, so a loop around it re-reads memory.
    unsafe { asm!("yield", options(nostack, preserves_flags)) };
}

/// Waits until `condition` holds or `seconds` have passed; says whether it held.
pub fn wait_until(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = timer::now() + seconds * timer::frequency();
    while !condition() {
        if timer::now() >= deadline {
            return condition();
        }
        relax();
    }
    true
}

/// [`wait_until`] that naps in WFI between two looks, for `micros` at a time, so that it takes no time from others. Needs
/// the virtual timer's PPI enabled here, and leaves the timer off.
pub fn nap_until(seconds: u64, micros: u64, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = timer::now() + seconds * timer::frequency();
    while !condition() {
        if timer::now() >= deadline {
            return condition();
        }
        timer::arm(timer::micros(micros));
        wfi();
        timer::disarm();
    }
    true
}

/// This vCPU's index. Every vCPU of a VM of at most 16 has its own Aff0.
#[must_use]
pub fn index() -> usize {
    (MPIDR_EL1.get() & 0xF) as usize
}

/// This vCPU's affinity: `MPIDR_EL1` without its other bits.
#[must_use]
pub fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xFF_00FF_FFFF
}

/// How many vCPUs this VM has: as many as `AFFINITY_INFO` knows.
#[must_use]
pub fn count() -> usize {
    (0..MAX_VCPUS)
        .take_while(|&index| psci::affinity_info(affinity_of(index)) >= 0)
        .count()
}

/// Runs `body` with interrupts masked, and puts the mask back.
pub fn masked<R>(body: impl FnOnce() -> R) -> R {
    let before = DAIF.get();
    // SAFETY: Masking is always allowed; the block has a memory effect, so `body` stays after it.
    unsafe { asm!("msr daifset, #0xf", options(nostack, preserves_flags)) };
    let result = body();
    // SAFETY: As above: what `body` did to memory stays before the unmasking.
    unsafe { asm!("", options(nostack, preserves_flags)) };
    DAIF.set(before);
    result
}

/// Lets IRQs in.
pub fn unmask() {
    // SAFETY: The vectors are installed by `start.s` before any Rust code runs.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
}

/// Masks IRQs.
pub fn mask() {
    // SAFETY: Masking is always allowed.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}

/// Waits for an interrupt.
pub fn wfi() {
    // SAFETY: Waiting changes no state; an interrupt handler may change memory, hence not `nomem`.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// `SEV`: wakes vCPUs that wait with `WFE`.
pub fn sev() {
    // SAFETY: The barrier orders what the woken vCPU is to see.
    unsafe { asm!("dsb ishst", "sev", options(nostack, preserves_flags)) };
}

/// The registers a secondary had at its very first instruction, as `start.s` stores them.
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    /// `x0` to `x30`.
    pub x: [u64; 31],
    /// `CurrentEL`.
    pub current_el: u64,
    /// `DAIF`.
    pub daif: u64,
    /// `SPSel`.
    pub spsel: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
}

/// What a secondary needs in order to run; its address is the `context_id` of `CPU_ON`.
#[repr(C, align(256))]
pub struct Start {
    /// Offsets in `captured`: x0 to x30, CurrentEL, DAIF, SPSel, SCTLR_EL1.
    pub(crate) captured: [AtomicU64; 35],
    pub(crate) time: AtomicU64,
    pub(crate) stack: AtomicU64,
    entry: AtomicUsize,
    argument: AtomicU64,
}

impl Start {
    const fn new() -> Self {
        Self {
            captured: [const { AtomicU64::new(0) }; 35],
            time: AtomicU64::new(0),
            stack: AtomicU64::new(0),
            entry: AtomicUsize::new(0),
            argument: AtomicU64::new(0),
        }
    }

    pub(crate) fn run(&self) {
        let entry = self.entry.load(Ordering::Acquire);
        if entry != 0 {
            // SAFETY: `entry` is only ever written by [`prepare`], with a `fn(u64)`; the MMU was off when the writer
            // cleaned it to memory, and is on now.
            let entry: fn(u64) = unsafe { core::mem::transmute::<usize, fn(u64)>(entry) };
            entry(self.argument.load(Ordering::Relaxed));
        }
    }
}

static STARTS: [Start; MAX_VCPUS] = [const { Start::new() }; MAX_VCPUS];

/// Which of the two entries in `start.s` a secondary takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The first instruction reads the time: see [`started_at`].
    Timed,
    /// The first instructions store every register: see [`captured`].
    Recorded,
}

unsafe extern "C" {
    static __stacks_start: u8;
    fn secondary_timed();
    fn secondary_recorded();
}

impl Entry {
    /// The entry's address.
    #[must_use]
    pub fn address(self) -> u64 {
        match self {
            Self::Timed => secondary_timed as *const () as u64,
            Self::Recorded => secondary_recorded as *const () as u64,
        }
    }
}

/// Makes ready for vCPU `index` to run `entry(argument)`, and returns the context id to start it with.
pub fn prepare(index: usize, entry: fn(u64), argument: u64) -> u64 {
    let start = &STARTS[index];
    let stacks = &raw const __stacks_start as u64;
    start.time.store(0, Ordering::Relaxed);
    start.stack.store(stacks + (index as u64 + 1) * 0x8000, Ordering::Relaxed);
    start.argument.store(argument, Ordering::Relaxed);
    start.entry.store(entry as usize, Ordering::Release);
    let address = core::ptr::from_ref(start) as u64;
    // The secondary reads this with its MMU and caches off.
    for line in (address..address + size_of::<Start>() as u64).step_by(16) {
        // SAFETY: Cleans and invalidates lines of a live static; atomics in it are re-read from memory.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: Completes the maintenance before the call that follows.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
    address
}

/// Starts vCPU `index` with `entry(argument)`; the PSCI code. When `entry` returns the vCPU goes off.
pub fn start(index: usize, entry: fn(u64), argument: u64) -> i64 {
    psci::cpu_on(affinity_of(index), Entry::Timed.address(), prepare(index, entry, argument))
}

/// When vCPU `index` executed its first instruction after [`Entry::Timed`]; 0 before that.
#[must_use]
pub fn started_at(index: usize) -> u64 {
    STARTS[index].time.load(Ordering::Relaxed)
}

/// What vCPU `index` found in its registers at [`Entry::Recorded`].
#[must_use]
pub fn captured(index: usize) -> Captured {
    let value = |slot: usize| STARTS[index].captured[slot].load(Ordering::Relaxed);
    Captured {
        x: core::array::from_fn(value),
        current_el: value(31),
        daif: value(32),
        spsel: value(33),
        sctlr: value(34),
    }
}

/// Waits until `AFFINITY_INFO` says that vCPU `index` is off; says whether it came.
pub fn wait_off(index: usize, seconds: u64) -> bool {
    wait_until(seconds, || psci::affinity_info(affinity_of(index)) == 1)
}
