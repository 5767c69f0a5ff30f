//! The SMC Calling Convention (DEN 0028) from the caller's side.

use core::arch::asm;
pub use hyp_abi::smccc::Conduit;

/// Makes a call with up to seven arguments (`x0` the function id) and returns `x0` to `x6`.
#[must_use]
pub fn call7(conduit: Conduit, mut x: [u64; 7]) -> [u64; 7] {
    macro_rules! conduit {
        ($instruction:literal) => {
            // SAFETY: SMCCC lets the callee change x0 to x17 and nothing else; memory may change (a host call can stop
            // this VM, a PSCI call can switch it off), so the block is not `nomem`.
            unsafe {
                asm!($instruction,
                    inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3],
                    inout("x4") x[4], inout("x5") x[5], inout("x6") x[6],
                    lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _,
                    lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _,
                    options(nostack));
            }
        };
    }
    match conduit {
        Conduit::Hvc => conduit!("hvc #0"),
        Conduit::Smc => conduit!("smc #0"),
    }
    x
}

/// Makes a call with up to four arguments (`x0` the function id) and returns `x0` to `x3`.
#[must_use]
pub fn call(conduit: Conduit, [x0, x1, x2, x3]: [u64; 4]) -> [u64; 4] {
    let [r0, r1, r2, r3, ..] = call7(conduit, [x0, x1, x2, x3, 0, 0, 0]);
    [r0, r1, r2, r3]
}

/// [`call`] by `HVC`.
#[must_use]
pub fn hvc(function: u32, x1: u64, x2: u64, x3: u64) -> [u64; 4] {
    call(Conduit::Hvc, [u64::from(function), x1, x2, x3])
}

/// The conduits that work here: `HVC`, and `SMC` unless it is UNDEFINED (as on a bare machine without EL3).
#[must_use]
pub fn conduits() -> &'static [Conduit] {
    let smc = crate::fault::none(|| {
        let _version = call(Conduit::Smc, [u64::from(hyp_abi::psci::VERSION), 0, 0, 0]);
    });
    if smc { &[Conduit::Hvc, Conduit::Smc] } else { &[Conduit::Hvc] }
}
