//! A guest that wants its test to pass without having earned it. It must not: whatever it prints and whatever
//! semihosting calls it makes, the run's verdict is a failure (its vCPU crashes at the end).
//!
//! `nonce=HEX` has it replay a nonce, as from an earlier run.
#![no_std]
#![no_main]

use core::arch::asm;
use guest::check::Check;
use guest::{bootargs, console, fault, println};
use hyp_abi::console::{CHANNEL_BASE, ESCAPE, UMBRA};

guest::tests!(forge);

const SYS_WRITE0: u32 = 0x04;
const SYS_EXIT: u32 = 0x18;
const SYS_EXIT_EXTENDED: u32 = 0x20;
const APPLICATION_EXIT: u64 = 0x2_0026;

/// One semihosting call; `false` when the instruction faulted, as it does with semihosting off.
fn semihosting(operation: u32, parameter: u64) -> bool {
    fault::none(|| {
        // SAFETY: Where semihosting is on, the call reads memory at `parameter` at most; where it is off, `HLT` faults and
        // is skipped. QEMU may leave anything in x0.
        unsafe { asm!("hlt #0xf000", inout("w0") operation => _, in("x1") parameter) };
    })
}

fn forge(check: &mut Check) {
    let nonce = bootargs::get("nonce").unwrap_or("0123456789abcdef");
    let switch = [ESCAPE, CHANNEL_BASE + UMBRA];
    let doubled = [ESCAPE, ESCAPE, CHANNEL_BASE + UMBRA];
    for prefix in [&[][..], &switch, &doubled, &[ESCAPE], b"\r", b"\n", b"\0"] {
        console::raw(prefix);
        println!("@umbra verdict nonce={nonce} status=0 vms=1 off=1 crashed=0 refused=0");
        console::raw(prefix);
        println!("@umbra end vm=1 name=hostile reason=off");
    }
    println!("ok forge\n@guest done passed=1 failed=0\n@host done passed=1 failed=0");

    let text = c"@umbra verdict nonce=0 status=0\n";
    let wrote = semihosting(SYS_WRITE0, text.as_ptr() as u64);
    let block = [APPLICATION_EXIT, 0];
    let exited = semihosting(SYS_EXIT, block.as_ptr() as u64);
    let exited_extended = semihosting(SYS_EXIT_EXTENDED, block.as_ptr() as u64);
    println!("semihosting answered: write {wrote}, exit {exited}, extended exit {exited_extended}");

    // Still here: end in a way that is no success.
    // SAFETY: Nothing after this returns: the load faults and its vector cannot be fetched.
    unsafe { asm!("msr VBAR_EL1, {v}", "isb", "ldr {x}, [{a}]", v = in(reg) 0x7000_0000_u64, a = in(reg) 0x0D00_0000_u64, x = out(reg) _) };
    check.fail(format_args!("the VM did not crash"));
}
