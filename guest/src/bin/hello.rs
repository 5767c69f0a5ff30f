//! The smallest guest: one line, then off.
#![no_std]
#![no_main]

use guest::{bootargs, check, check::Check, cpu, println, psci};

guest::program!(main);

fn main() {
    println!(
        "hello from EL1: vCPU {} of {}, PSCI {:#x}, bootargs test={}",
        cpu::index(),
        cpu::count(),
        psci::version(),
        bootargs::get("test").unwrap_or("-")
    );
    let mut check = Check::new("hello");
    check.that(cpu::index() == 0, "the boot vCPU has index 0");
    check.finish();
    check::done()
}
