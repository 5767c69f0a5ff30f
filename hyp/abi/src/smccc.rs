//! The SMC Calling Convention (DEN 0028): function identifiers that are not PSCI's.

/// `SMCCC_VERSION`.
pub const VERSION: u32 = 0x8000_0000;
/// `SMCCC_ARCH_FEATURES`.
pub const ARCH_FEATURES: u32 = 0x8000_0001;
/// SMCCC 1.1, the answer to [`VERSION`].
pub const VERSION_1_1: u64 = 0x1_0001;
/// "Call UID" of the vendor-specific hypervisor service.
pub const VENDOR_HYP_UID: u32 = 0x8600_FF01;
/// "Revision" of the vendor-specific hypervisor service: major in `w0`, minor in `w1`.
pub const VENDOR_HYP_REVISION: u32 = 0x8600_FF03;
/// Umbra's vendor hypervisor UID, as the four words that [`VENDOR_HYP_UID`] returns in `w0` to `w3`.
pub const UMBRA_UID: [u32; 4] = [0x9c1f_47b2, 0x4be3_6d0a, 0x5ec1_72a4, 0x11d8_03f6];
/// The return value of an unknown or denied call, in `x0`.
pub const NOT_SUPPORTED: u64 = u64::MAX;

/// Which instruction made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `HVC #0`.
    Hvc,
    /// `SMC #0`, trapped by `HCR_EL2.TSC`.
    Smc,
}
