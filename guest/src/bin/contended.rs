//! A VM whose vCPUs are in every state while its vCPU 0 asks the host to try something: see the host tests `contended`
//! and `badcalls`. vCPU 1 runs, 2 waits in WFI, 3 is off; in the second step 1 and 2 are off too.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use guest::check::Check;
use guest::{cpu, gic, oem, psci};
use hyp_abi::layout::affinity_of;

guest::tests!(states);

static RUNS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicU64 = AtomicU64::new(0);

fn spin(_: u64) {
    while STOP.load(Ordering::Acquire) == 0 {
        RUNS.fetch_add(1, Ordering::Relaxed);
        cpu::relax();
    }
}

fn sleep(_: u64) {
    gic::init_cpu();
    STOP.store(0, Ordering::Release);
    while STOP.load(Ordering::Acquire) == 0 {
        cpu::wfi();
        // Interrupts are masked: what woke it is taken by hand.
        let intid = gic::iar1();
        if intid != gic::SPURIOUS {
            gic::eoir1(intid);
        }
    }
}

fn visit(_: u64) {
    RUNS.fetch_add(1, Ordering::Release);
}

fn states(check: &mut Check) {
    gic::init_distributor();
    gic::init_cpu();
    // vCPU 3 has been on, and is off.
    check.eq("CPU_ON of the visitor", cpu::start(3, visit, 0), psci::SUCCESS);
    check.that(cpu::wait_until(10, || RUNS.load(Ordering::Acquire) == 1), "the visitor comes");
    check.that(cpu::wait_off(3, 10), "the visitor goes off");
    RUNS.store(0, Ordering::Relaxed);
    STOP.store(1, Ordering::Release);
    check.eq("CPU_ON of the sleeper", cpu::start(2, sleep, 0), psci::SUCCESS);
    check.that(cpu::wait_until(10, || STOP.load(Ordering::Acquire) == 0), "the sleeper sleeps");
    check.eq("CPU_ON of the runner", cpu::start(1, spin, 0), psci::SUCCESS);
    check.that(cpu::wait_until(10, || RUNS.load(Ordering::Relaxed) > 0), "the runner runs");

    check.eq("step 1", oem::ask(oem::STEP, 1, 0), 0);

    let before = RUNS.load(Ordering::Relaxed);
    check.that(cpu::wait_until(10, || RUNS.load(Ordering::Relaxed) > before), "the runner runs on");
    STOP.store(1, Ordering::Release);
    gic::send_sgi(affinity_of(2), 1);
    for index in [1, 2] {
        check.that(cpu::wait_off(index, 10), "it goes off");
    }
    check.eq("step 2", oem::ask(oem::STEP, 2, 0), 0);
}
