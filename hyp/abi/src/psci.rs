//! PSCI's function identifiers and return codes (DEN 0022; the numbers of the Linux UAPI).

/// `PSCI_VERSION`.
pub const VERSION: u32 = 0x8400_0000;
/// `CPU_SUSPEND`, SMC32.
pub const CPU_SUSPEND_32: u32 = 0x8400_0001;
/// `CPU_SUSPEND`, SMC64.
pub const CPU_SUSPEND_64: u32 = 0xC400_0001;
/// `CPU_OFF`.
pub const CPU_OFF: u32 = 0x8400_0002;
/// `CPU_ON`, SMC32.
pub const CPU_ON_32: u32 = 0x8400_0003;
/// `CPU_ON`, SMC64.
pub const CPU_ON_64: u32 = 0xC400_0003;
/// `AFFINITY_INFO`, SMC32.
pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
/// `AFFINITY_INFO`, SMC64.
pub const AFFINITY_INFO_64: u32 = 0xC400_0004;
/// `MIGRATE_INFO_TYPE`.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// `SYSTEM_OFF`.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// `SYSTEM_RESET`.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// `PSCI_FEATURES`.
pub const FEATURES: u32 = 0x8400_000A;
/// `SYSTEM_SUSPEND`, SMC32.
pub const SYSTEM_SUSPEND_32: u32 = 0x8400_000E;
/// `SYSTEM_SUSPEND`, SMC64.
pub const SYSTEM_SUSPEND_64: u32 = 0xC400_000E;
/// `SYSTEM_RESET2`, SMC32.
pub const SYSTEM_RESET2_32: u32 = 0x8400_0012;
/// `SYSTEM_RESET2`, SMC64.
pub const SYSTEM_RESET2_64: u32 = 0xC400_0012;
/// `SYSTEM_OFF2`, SMC32.
pub const SYSTEM_OFF2_32: u32 = 0x8400_0015;
/// `SYSTEM_OFF2`, SMC64.
pub const SYSTEM_OFF2_64: u32 = 0xC400_0015;

/// `PSCI_VERSION`'s answer for PSCI 1.3.
pub const VERSION_1_3: u64 = 0x1_0003;
/// `SYSTEM_RESET2`'s reset type: the architectural warm reset.
pub const WARM_RESET: u32 = 0;
/// `SYSTEM_OFF2`'s type, and the bit in its answer to `PSCI_FEATURES`: off with the memory's contents saved.
pub const HIBERNATE_OFF: u32 = 1;
/// `MIGRATE_INFO_TYPE`'s answer: no Trusted OS, or one that needs no migration.
pub const MIGRATE_NOT_REQUIRED: u64 = 2;

/// A PSCI error. DEN 0022 gives the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum PsciError {
    /// The function, or this use of it, is not implemented.
    NotSupported = -1,
    /// A parameter names nothing or has reserved bits set.
    InvalidParameters = -2,
    /// Policy refused it.
    Denied = -3,
    /// The target is on.
    AlreadyOn = -4,
    /// Another `CPU_ON` for the target is outstanding.
    OnPending = -5,
    /// It failed for a reason of the implementation's own.
    InternalFailure = -6,
    /// The target is not present.
    NotPresent = -7,
    /// The target is disabled.
    Disabled = -8,
    /// The entry point address cannot be entered.
    InvalidAddress = -9,
}

impl PsciError {
    /// The value in `x0`: the code, sign-extended, as SMC64 callers expect (and SMC32 callers read its low half).
    #[must_use]
    pub const fn to_ret(self) -> u64 {
        self as i32 as i64 as u64
    }
}

/// `AFFINITY_INFO`: at least one core of the affinity instance is on.
pub const AFFINITY_ON: u64 = 0;
/// `AFFINITY_INFO`: every core of the affinity instance is off.
pub const AFFINITY_OFF: u64 = 1;
/// `AFFINITY_INFO`: a core of the affinity instance is on its way to on.
pub const AFFINITY_ON_PENDING: u64 = 2;
