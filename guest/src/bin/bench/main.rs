//! What each operation costs, in ticks of the counter: instructions, when the machine runs under the instruction clock.
//!
//! `set=` names a set of operations, `ops=` some of them (all without it), `samples=` how often each is measured.
//! Every figure is net of the measuring pair (two readings of the counter with nothing in between); what the guest itself
//! executes is in it, and is what the same program finds on a bare machine.
#![no_std]
#![no_main]

mod calls;
mod clock;
mod many;
mod one;

use core::arch::global_asm;
use guest::{bootargs, check::Check, cpu};

global_asm!(include_str!("vectors.s"));
global_asm!(include_str!("marks.s"));

guest::program!(main);

fn main() {
    let names = bootargs::get("ops");
    let wants = |name: &str| names.is_none_or(|names| names.split(',').any(|one| one == name));
    let mut check = Check::new("bench");
    clock::calibrate();
    one::prepare();
    match bootargs::get("set") {
        Some("one") => {
            many::park(cpu::count() - 1);
            calls::plain(&wants);
            alone(&wants);
        }
        Some("many") => {
            many::sgis(&wants);
            many::power(&wants, "cpu-on", "cpu-off");
        }
        Some("bare") => {
            alone(&wants);
            many::sgis(&wants);
        }
        Some("filtered") => calls::filtered(&wants),
        Some("strict") => one::icc(&wants, ["icc-ctlr-read-strict", "icc-ctlr-write-strict"]),
        Some("forwarded") => {
            many::forwarded(&wants);
            many::power(&wants, "cpu-on-forwarded", "");
        }
        Some("reads") => many::reads(),
        Some("shared") => many::switch(&wants),
        set => check.fail(format_args!("no set of operations is named {set:?}")),
    }
    check.finish();
    guest::check::done()
}

/// What concerns one vCPU, calls aside.
fn alone(wants: &dyn Fn(&str) -> bool) {
    one::registers(wants);
    one::devices(wants);
    one::interrupts(wants);
    one::waiting(wants);
    one::faults(wants);
}
