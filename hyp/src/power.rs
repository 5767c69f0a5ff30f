//! Ending the machine, with a verdict that says how the run went.

use hyp_abi::psci;
use qemu_exit::QEMUExit;

use crate::{
    arch::{
        barrier::{self, Once},
        smc,
    },
    console,
};

/// What `/chosen` says about the end of a run.
pub(crate) struct Ending {
    /// Repeated in the verdict line, so that nobody else can write it. Empty without one.
    pub(crate) nonce: &'static str,
    /// End by semihosting, with the status as exit code: only for images of our own.
    pub(crate) semihosting: bool,
}

static ENDING: Once<Ending> = Once::new();

/// Remembers how to end.
pub(crate) fn init(ending: Ending) {
    ENDING.call_once(|| ending);
}

/// Prints the verdict of a run that EL2 cut short, and ends.
pub(crate) fn end_with(status: u32) -> ! {
    let nonce = ENDING.get().map_or("", |ending| ending.nonce);
    console::last_words(|out| writeln!(out, "@umbra verdict nonce={nonce} status={status}"));
    off(status)
}

/// Prints the verdict of a whole run, and ends.
pub(crate) fn end_of_run(status: u32, summary: core::fmt::Arguments<'_>) -> ! {
    let nonce = ENDING.get().map_or("", |ending| ending.nonce);
    console::line(format_args!("@umbra verdict nonce={nonce} status={status} {summary}"));
    off(status)
}

/// Turns the machine off.
pub(crate) fn off(status: u32) -> ! {
    if ENDING.get().is_some_and(|ending| ending.semihosting) {
        qemu_exit::AArch64::new().exit(status);
    }
    smc::smc(psci::SYSTEM_OFF, 0, 0, 0);
    loop {
        barrier::wfi();
    }
}
