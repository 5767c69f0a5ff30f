//! How fresh each answer is: a vCPU writes `ICC_CTLR_EL1` untrapped, another has the host look. See the host test
//! `staleness`.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use guest::check::Check;
use guest::{cpu, gic, oem, psci};
use hyp_abi::psci::CPU_ON_64;

guest::tests!(steps);

/// What the writer is to do next.
static ORDER: AtomicU64 = AtomicU64::new(0);
/// What it has done, and the register as it reads it.
static DONE: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);

/// vCPU 1: does what it is told, and between two orders never exits of its own accord.
fn writer(_: u64) {
    gic::set_igrpen1(true);
    // An ordinary exit that finds group 1 on: from here on writes are not trapped.
    let _features = psci::features(CPU_ON_64);
    let mut done = 0;
    report(1);
    while done < 4 {
        let order = ORDER.load(Ordering::Acquire);
        if order != done {
            done = order;
            match order {
                1 => gic::set_ctlr(gic::CTLR_EOIMODE),
                2 => gic::set_ctlr(gic::CTLR_CBPR),
                3 => {
                    gic::set_ctlr(gic::CTLR_CBPR | gic::CTLR_EOIMODE);
                    let _features = psci::features(CPU_ON_64);
                }
                _ => {}
            }
            report(order + 1);
        }
        cpu::relax();
    }
}

fn report(done: u64) {
    SEEN.store(gic::ctlr(), Ordering::Relaxed);
    DONE.store(done, Ordering::Release);
}

fn steps(check: &mut Check) {
    check.eq("CPU_ON", cpu::start(1, writer, 0), psci::SUCCESS);
    for step in 1..=4 {
        check.that(
            cpu::wait_until(10, || DONE.load(Ordering::Acquire) == step),
            "the writer has written",
        );
        // x1 the step, x2 what the writer reads in its register.
        if oem::ask(oem::STEP, step, SEEN.load(Ordering::Relaxed)) != 0 {
            check.fail(format_args!("step {step}: the host saw something else"));
        }
        ORDER.store(step, Ordering::Release);
    }
    check.that(cpu::wait_off(1, 10), "the writer goes off");
}
