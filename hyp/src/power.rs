//! Ending the machine, with a verdict that says how the run went.

use hyp_abi::psci;
use hyp_core::{
    fdt::board::Chosen,
    text,
    text::{Text, Value},
};
use qemu_exit::QEMUExit;

use crate::{
    arch::{barrier, smc},
    console::{self, record},
    vm,
};

/// What `/chosen` says about the end of a run, once that is known.
fn chosen() -> Option<&'static Chosen> {
    vm::board().map(|board| &board.chosen)
}

/// Repeated in the verdict line, so that nobody else can write it. Empty without one.
fn nonce() -> &'static str {
    chosen().map_or("", |chosen| &chosen.nonce)
}

/// Prints the verdict of a run that EL2 cut short, and ends.
pub(crate) fn end_with(status: u32) -> ! {
    console::last_words(text!("@umbra verdict nonce={} status={}\n", nonce(), status));
    off(status)
}

/// Prints the verdict of a whole run, and ends.
pub(crate) fn end_of_run(status: u32, summary: Text<'_>) -> ! {
    #[cfg(feature = "test-triggers")]
    crate::trigger::meet();
    record!("verdict nonce={} status={} {}", nonce(), status, Value::Of(&summary));
    #[cfg(feature = "test-triggers")]
    crate::trigger::meet();
    off(status)
}

/// Turns the machine off.
pub(crate) fn off(status: u32) -> ! {
    // Semihosting has the status as exit code: only for images of our own.
    if chosen().is_some_and(|chosen| chosen.semihosting) {
        qemu_exit::AArch64::new().exit(status);
    }
    smc::smc(psci::SYSTEM_OFF, 0, 0, 0);
    loop {
        barrier::wfi();
    }
}
