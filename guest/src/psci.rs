//! PSCI (DEN 0022) from the caller's side.

use crate::smccc::{Conduit, call};
use hyp_abi::psci::{AFFINITY_INFO_64, CPU_OFF, CPU_ON_64, FEATURES, SYSTEM_OFF, SYSTEM_RESET, VERSION};

/// `SUCCESS`.
pub const SUCCESS: i64 = 0;
/// `NOT_SUPPORTED`.
pub const NOT_SUPPORTED: i64 = -1;
/// `INVALID_PARAMETERS`.
pub const INVALID_PARAMETERS: i64 = -2;
/// `DENIED`.
pub const DENIED: i64 = -3;
/// `ALREADY_ON`.
pub const ALREADY_ON: i64 = -4;
/// `ON_PENDING`.
pub const ON_PENDING: i64 = -5;
/// `INTERNAL_FAILURE`.
pub const INTERNAL_FAILURE: i64 = -6;
/// `INVALID_ADDRESS`.
pub const INVALID_ADDRESS: i64 = -9;

/// One PSCI call by `conduit`.
#[must_use]
pub fn psci(conduit: Conduit, function: u32, x1: u64, x2: u64, x3: u64) -> i64 {
    let [result, ..] = call(conduit, [u64::from(function), x1, x2, x3]);
    result as i64
}

/// `PSCI_VERSION`.
#[must_use]
pub fn version() -> i64 {
    psci(Conduit::Hvc, VERSION, 0, 0, 0)
}

/// `PSCI_FEATURES`: an ordinary exit that does nothing else.
#[must_use]
pub fn features(function: u32) -> i64 {
    psci(Conduit::Hvc, FEATURES, u64::from(function), 0, 0)
}

/// `CPU_ON`, SMC64.
#[must_use]
pub fn cpu_on(target: u64, entry: u64, context: u64) -> i64 {
    psci(Conduit::Hvc, CPU_ON_64, target, entry, context)
}

/// `AFFINITY_INFO` of one vCPU.
#[must_use]
pub fn affinity_info(target: u64) -> i64 {
    psci(Conduit::Hvc, AFFINITY_INFO_64, target, 0, 0)
}

/// `CPU_OFF`. Returns only when it was refused.
#[must_use]
pub fn cpu_off() -> i64 {
    psci(Conduit::Hvc, CPU_OFF, 0, 0, 0)
}

/// `CPU_OFF`, or wait for ever when it is refused.
pub fn cpu_off_or_park() -> ! {
    let _refused = cpu_off();
    loop {
        aarch64_cpu::asm::wfe();
    }
}

/// `SYSTEM_OFF`.
pub fn system_off() -> ! {
    let _returned = psci(Conduit::Hvc, SYSTEM_OFF, 0, 0, 0);
    loop {
        aarch64_cpu::asm::wfe();
    }
}

/// `SYSTEM_RESET`.
pub fn system_reset() -> ! {
    let _returned = psci(Conduit::Hvc, SYSTEM_RESET, 0, 0, 0);
    loop {
        aarch64_cpu::asm::wfe();
    }
}
