//! The calls that our guests and our host programs make up between them: SMCCC fast calls, SMC64, owner 3 (OEM). Their
//! VM's filter forwards 0xC300_0000 to 0xC300_00FF.

use crate::smccc::hvc;

/// First of the range to forward.
pub const BASE: u32 = 0xC300_0000;
/// Tells the host which [`phase`] the demo is in. `x1` the phase, `x2` a vCPU index.
pub const PHASE: u32 = 0xC300_0001;
/// `x1` the caller's own `ICC_CTLR_EL1`, `x2` its index: 0 if the host's exact read gives the same, else 1.
pub const COMPARE: u32 = 0xC300_0002;
/// Asks whether the storm is over: 1 to stop.
pub const STORM_POLL: u32 = 0xC300_0003;
/// Returns which boot of this VM this is, from 1.
pub const BOOTCOUNT: u32 = 0xC300_0010;
/// Swaps a value that the host keeps for this VM across its resets. `x1` one of 8 slots, `x2` the new value; returns
/// the old one, at first 0.
pub const KEEP: u32 = 0xC300_0011;
/// A step of a test that guest and host make together. `x1` the step, `x2` and `x3` what it needs.
pub const STEP: u32 = 0xC300_0020;
/// Denied by the filter of the host test `filter`.
pub const FILTER_DENIED: u32 = 0xC300_0031;
/// Forwarded by the filter of the host test `filter`.
pub const FILTER_FORWARDED: u32 = 0xC300_0032;

/// Values of `x1` in [`PHASE`].
pub mod phase {
    /// Cycles and races in umbra mode begin.
    pub const UMBRA_BEGIN: u64 = 1;
    /// They ended.
    pub const UMBRA_END: u64 = 2;
    /// Cycles and races in contended mode begin.
    pub const CONTENDED_BEGIN: u64 = 3;
    /// They ended.
    pub const CONTENDED_END: u64 = 4;
    /// The storm on vCPU `x2` begins.
    pub const STORM_BEGIN: u64 = 5;
    /// It ended.
    pub const STORM_END: u64 = 6;
    /// The demo is over.
    pub const ALL_DONE: u64 = 7;
}

/// Makes one of these calls; the host's `x0`, or -1 when nobody answers.
#[must_use]
pub fn ask(function: u32, x1: u64, x2: u64) -> i64 {
    let [x0, ..] = hvc(function, x1, x2, 0);
    x0 as i64
}

/// Iterations of the storm between two [`STORM_POLL`] calls.
pub const STORM_ROUND: u64 = 256;

/// What the storming vCPU has in its CPU interface in one of its states, so that any mix of two states shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormState {
    /// `ICC_PMR_EL1`: the counter in the five bits that every implementation has.
    pub pmr: u8,
    /// `ICC_BPR0_EL1`: two of its bits, above every implementation's minimum.
    pub bpr0: u8,
    /// `ICC_BPR1_EL1`: two of its bits, above every implementation's minimum.
    pub bpr1: u8,
    /// `ICC_CTLR_EL1`: CBPR and EOImode are its two lowest bits.
    pub ctlr: u8,
}

impl StormState {
    /// The state at `counter`; five bits of it count.
    #[must_use]
    pub const fn of(counter: u64) -> Self {
        let n = counter as u8 & 0x1F;
        Self {
            pmr: n << 3,
            bpr0: 4 + (n >> 2 & 3),
            bpr1: 4 + (n >> 3 & 3),
            ctlr: n & 3,
        }
    }
}
