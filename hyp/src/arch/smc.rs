//! Calls to the firmware below us: PSCI of the physical machine.

use core::arch::asm;

/// Makes an SMCCC call by `SMC #0`. Returns `x0`.
pub(crate) fn smc(function: u32, x1: u64, x2: u64, x3: u64) -> u64 {
    let result;
    // SAFETY: An SMCCC 1.0 call preserves x18 to x30 and the stack; x0 to x17 are declared clobbered. The firmware touches
    // no memory of ours but what the call names, and PSCI names none that Rust has references to.
    unsafe {
        asm!(
            "smc #0",
            inlateout("x0") u64::from(function) => result,
            inlateout("x1") x1 => _, inlateout("x2") x2 => _, inlateout("x3") x3 => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
            out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, out("x18") _,
            options(nostack),
        );
    }
    result
}
