//! The host partition of the bench: it allows every `CPU_ON`, answers [`oem::STEP`] at once, and measures its own reads
//! of vCPU 1 when the step says how many vCPUs run.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::hint::black_box;
use guest::check::{self, Check};
use guest::cpu::relax;
use guest::host::{self, Answer, Exit};
use guest::stats::Samples;
use guest::{bootargs, oem, println};
use hyp_abi::attr::{ICC_CTLR, cpu_sysreg};
use hyp_abi::errno::Errno;
use hyp_abi::layout::affinity_of;
use hyp_abi::shadow::ShadowSlot;

guest::program!(main);

global_asm!(include_str!("bench/marks.s"));

unsafe extern "C" {
    safe fn bench_begin();
    safe fn bench_end();
}

const KEPT: usize = 4096;
/// How long an exact read may take, in microseconds: a thousand instructions each.
const DEADLINE: u64 = 100_000;
/// Turns that the others get between two reads.
const TURNS: u64 = 100;
/// Attempts at a record.
const ATTEMPTS: u32 = 1000;

static SAMPLES: spin::mutex::SpinMutex<Samples<KEPT>, guest::cpu::Relax> = spin::mutex::SpinMutex::new(Samples::new());

fn main() {
    check::is_host();
    let mut check = Check::new("served");
    host::serve(|exit| {
        Some(if exit.function() == oem::STEP {
            let fine = exit.x[1] == 0 || reads(exit);
            check.that(fine, "the host reads vCPU 1");
            Answer::value(u64::from(!fine))
        } else {
            Answer::ALLOW
        })
    });
    check.finish();
    check::done()
}

#[inline(always)]
fn now() -> u64 {
    let value: u64;
    // SAFETY: Reads a counter; not `nomem`, so that memory accesses stay on their side of it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Measures `read`, if `ops=` does not leave it out, and says what it found; whether every one of the reads was fine.
fn measure<R>(name: &str, running: u64, mut read: impl FnMut() -> R, fine: impl Fn(&R) -> bool) -> bool {
    if bootargs::get("ops").is_some_and(|names| names.split(',').all(|one| one != name)) {
        return true;
    }
    let mut samples = SAMPLES.lock();
    samples.clear();
    let pair = (0..16)
        .map(|_| {
            let before = now();
            now() - before
        })
        .min()
        .unwrap_or(0);
    let mut all = true;
    let warm_up = 8;
    for run in 0..bootargs::number("samples", 256) + warm_up {
        // Whoever was held or interrupted by the last one runs again.
        for _ in 0..TURNS {
            relax();
        }
        bench_begin();
        let before = now();
        let result = read();
        let after = now();
        bench_end();
        all &= fine(&result);
        if run >= warm_up {
            samples.add(after - before - pair);
        }
    }
    let found = samples.summary();
    println!(
        "{}bench op={name} running={running} n={} min={} med={} max={}",
        check::tag(),
        found.count,
        found.min,
        found.median,
        found.max
    );
    all
}

/// Every kind of read of vCPU 1, while as many vCPUs run as the guest says.
fn reads(exit: &Exit) -> bool {
    let (vm, running) = (u64::from(exit.vm), exit.x[1]);
    let attribute = cpu_sysreg(affinity_of(1), ICC_CTLR);
    let Some(slot) = host::shadow(vm).slot(1) else { return false };
    let slot = || -> &ShadowSlot { black_box(slot) };
    let mut retries = 0;
    measure("host-template", running, || black_box(slot().template()), |_| true)
        && measure("host-word", running, || black_box(slot().word()), |word| word.ready())
        && measure(
            "host-record",
            running,
            || black_box(slot().read(&mut retries, ATTEMPTS)),
            Option::is_some,
        )
        && measure("host-exact", running, || host::exact_read(vm, attribute, DEADLINE), Result::is_ok)
        && measure("host-contended", running, || contended(vm, attribute), |fine| *fine)
}

/// KVM's way: try, and when a vCPU runs stop all of them, try again, let them go on.
fn contended(vm: u64, attribute: u64) -> bool {
    match host::contended_read(vm, attribute) {
        Err(Errno::Busy) => {
            let stopped = host::vm_stop(vm);
            let value = host::contended_read(vm, attribute);
            stopped.is_ok() && host::vm_resume(vm).is_ok() && value.is_ok()
        }
        _ => false,
    }
}
