//! Time: the counter that host and guests share, and EL2's own timer for deadlines.

use super::barrier;

/// The physical counter, in ticks of [`frequency`]; equal to the host partition's virtual counter, whose `CNTVOFF_EL2` is 0.
pub(crate) fn now() -> u64 {
    mrs!("cntpct_el0")
}

/// Ticks per second, as the firmware set it: not 0 on a pCPU that takes part.
pub(crate) fn frequency() -> u64 {
    mrs!("cntfrq_el0")
}

/// `milliseconds` in ticks.
#[inline(never)]
pub(crate) fn ticks(milliseconds: u64) -> u64 {
    (frequency() / 1000).max(1).saturating_mul(milliseconds)
}

/// Raises the EL2 physical timer's interrupt (PPI 26) at `deadline`.
pub(crate) fn arm(deadline: u64) {
    msr!("cnthp_cval_el2", deadline);
    msr!("cnthp_ctl_el2", 1);
    barrier::isb();
}

/// Turns the EL2 physical timer off.
pub(crate) fn disarm() {
    msr!("cnthp_ctl_el2", 0);
    barrier::isb();
}

/// Raises [`REMINDER_PPI`](super::gic::REMINDER_PPI) on this pCPU at `at`, or no more: EL1's physical timer, which no guest reaches.
pub(crate) fn remind(at: Option<u64>) {
    if let Some(at) = at {
        msr!("cntp_cval_el0", at);
    }
    msr!("cntp_ctl_el0", u64::from(at.is_some()));
    barrier::isb();
}

/// `CNTVOFF_EL2`: the guest's virtual counter is the physical one less this. Acts at the next ERET.
pub(crate) fn set_guest_offset(offset: u64) {
    msr!("cntvoff_el2", offset);
}
