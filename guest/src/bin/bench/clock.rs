//! Taking the time: one tick of `CNTVCT_EL0` is one instruction under the instruction clock.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::stats::Samples;
use guest::{bootargs, println};

/// The most samples that are kept of one operation.
pub(crate) const KEPT: usize = 4096;

/// Ticks from the first reading of the counter to the second one, around one instruction (or none).
macro_rules! timed {
    ($instruction:literal $(, $($operand:tt)*)?) => {{
        let (before, after): (u64, u64);
        // SAFETY: Reads the counter around what the operation is, which touches no memory that Rust knows of; the
        // operands name every register that changes.
        unsafe {
            core::arch::asm!("isb", "mrs {before}, cntvct_el0", "isb", $instruction, "isb", "mrs {after}, cntvct_el0",
                before = out(reg) before, after = out(reg) after $(, $($operand)*)?, options(nostack));
        }
        after.wrapping_sub(before)
    }};
}
pub(crate) use timed;

unsafe extern "C" {
    safe fn bench_begin();
    safe fn bench_end();
}

static PAIR: AtomicU64 = AtomicU64::new(0);

/// What two readings with nothing in between are apart.
pub(crate) fn pair() -> u64 {
    PAIR.load(Ordering::Relaxed)
}

/// Measures [`pair`], and says so.
pub(crate) fn calibrate() {
    let least = (0..64).map(|_| timed!("")).min().unwrap_or(0);
    PAIR.store(least, Ordering::Relaxed);
    println!("@guest bench pair={least}");
}

/// How often each operation is measured.
pub(crate) fn wanted() -> u64 {
    bootargs::number("samples", 256).clamp(1, KEPT as u64)
}

/// The samples of the operation that runs. Only vCPU 0 collects.
static SAMPLES: spin::mutex::SpinMutex<[Samples<KEPT>; 2], guest::cpu::Relax> =
    spin::mutex::SpinMutex::new([Samples::new(), Samples::new()]);

/// Measures `op`, which gives the ticks of one run, net; the first runs warm up and are dropped.
pub(crate) fn measure(name: &str, mut op: impl FnMut() -> u64) {
    measure_two([name, ""], || [op(), 0]);
}

/// Measures two things at once, such as the way to a handler and through its end of interrupt.
pub(crate) fn measure_two(names: [&str; 2], op: impl FnMut() -> [u64; 2]) {
    collect(op);
    report(names);
}

/// Takes the samples.
pub(crate) fn collect(mut op: impl FnMut() -> [u64; 2]) {
    let mut samples = SAMPLES.lock();
    for one in samples.iter_mut() {
        one.clear();
    }
    let warm_up = 8;
    for run in 0..wanted() + warm_up {
        let ticks = op();
        if run >= warm_up {
            for (one, ticks) in samples.iter_mut().zip(ticks) {
                one.add(ticks);
            }
        }
    }
}

/// Says what was collected.
pub(crate) fn report(names: [&str; 2]) {
    let mut samples = SAMPLES.lock();
    for (one, name) in samples.iter_mut().zip(names) {
        if !name.is_empty() {
            let found = one.summary();
            print(
                name,
                found.count as u64,
                u64::from(found.min),
                u64::from(found.median),
                u64::from(found.max),
            );
        }
    }
}

/// The record of one operation.
pub(crate) fn print(name: &str, n: u64, min: u64, median: u64, max: u64) {
    println!("@guest bench op={name} n={n} min={min} med={median} max={max}");
}

/// Marks where in a trace `op` begins and ends.
#[inline(always)]
pub(crate) fn marked<R>(op: impl FnOnce() -> R) -> R {
    bench_begin();
    let result = op();
    bench_end();
    result
}

/// Marks it, or only runs it.
#[inline(always)]
pub(crate) fn marked_if<R>(mark: bool, op: impl FnOnce() -> R) -> R {
    if mark {
        bench_begin();
    }
    let result = op();
    if mark {
        bench_end();
    }
    result
}

/// The counter, between barriers.
#[inline(always)]
pub(crate) fn now() -> u64 {
    let value: u64;
    // SAFETY: Reads a counter; not `nomem`, so that memory accesses stay on their side of it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) value, options(nostack, preserves_flags)) };
    value
}

unsafe extern "C" {
    static bench_vectors_sgi: u8;
    static bench_vectors_timer: u8;
    static bench_vectors_line: u8;
}

/// The vectors of the bench: they take the time first, end the interrupt, and change x9 to x12.
#[derive(Clone, Copy)]
pub(crate) enum Vectors {
    /// For SGIs and faults.
    Sgi,
    /// Turns the virtual timer off before the end of interrupt.
    Timer,
    /// Writes 0 to the word at x12 before the end of interrupt.
    Line,
}

impl Vectors {
    /// Runs `body` with these vectors, then puts the runtime's back.
    pub(crate) fn with<R>(self, body: impl FnOnce() -> R) -> R {
        let table = match self {
            Self::Sgi => &raw const bench_vectors_sgi,
            Self::Timer => &raw const bench_vectors_timer,
            Self::Line => &raw const bench_vectors_line,
        };
        let before: u64;
        // SAFETY: The tables stand in for the runtime's; interrupts are masked here and unmasked only in asm blocks that
        // declare what the handlers change.
        unsafe {
            asm!("mrs {b}, vbar_el1", "msr vbar_el1, {t}", "isb", b = out(reg) before, t = in(reg) table, options(nostack, preserves_flags));
        }
        let result = body();
        // SAFETY: The runtime's own vectors again.
        unsafe { asm!("msr vbar_el1, {}", "isb", in(reg) before, options(nostack, preserves_flags)) };
        result
    }
}
