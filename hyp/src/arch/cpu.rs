//! The PE: who it is, what it can do, and the registers that a trap brings.

use aarch64_cpu::registers::{
    CNTHCTL_EL2, CPTR_EL2, ELR_EL2, ESR_EL2, FAR_EL2, HCR_EL2, HPFAR_EL2, MDCR_EL2, MIDR_EL1, MPIDR_EL1, Readable, SPSR_EL2, TPIDR_EL2,
    VMPIDR_EL2, VTCR_EL2, VTTBR_EL2, Writeable,
};

use hyp_core::policy;

use super::barrier;

/// `ESR_EL2`.
pub(crate) fn esr() -> u64 {
    ESR_EL2.get()
}

/// `FAR_EL2`.
pub(crate) fn far() -> u64 {
    FAR_EL2.get()
}

/// `HPFAR_EL2`. Not valid for permission faults.
pub(crate) fn hpfar() -> u64 {
    HPFAR_EL2.get()
}

/// `ELR_EL2`: where the guest goes on.
pub(crate) fn elr() -> u64 {
    ELR_EL2.get()
}

/// Sets where the guest goes on.
pub(crate) fn set_elr(value: u64) {
    ELR_EL2.set(value);
}

/// `SPSR_EL2`: the guest's PSTATE.
pub(crate) fn spsr() -> u64 {
    SPSR_EL2.get()
}

/// Sets the guest's PSTATE.
pub(crate) fn set_spsr(value: u64) {
    SPSR_EL2.set(value);
}

/// The affinity of this pCPU, in `MPIDR_EL1`'s layout without its other bits.
pub(crate) fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xFF_00FF_FFFF
}

/// `MIDR_EL1`.
pub(crate) fn midr() -> u64 {
    MIDR_EL1.get()
}

/// The value of `TPIDR_EL2`: this pCPU's own data.
pub(crate) fn per_cpu() -> usize {
    TPIDR_EL2.get() as usize
}

/// Sets `TPIDR_EL2`.
pub(crate) fn set_per_cpu(address: usize) {
    TPIDR_EL2.set(address as u64);
}

/// Turns VHE off and says whether it stayed off: `HCR_EL2.E2H` is RES1 on some implementations.
pub(crate) fn leave_vhe(hcr: u64) -> bool {
    HCR_EL2.set(hcr);
    barrier::isb();
    HCR_EL2.get() & 1 << 34 == 0
}

/// What traps from a guest on this pCPU.
#[derive(Clone, Copy)]
pub(crate) struct World {
    /// `HCR_EL2`.
    pub(crate) hcr: u64,
    /// `VTCR_EL2`.
    pub(crate) vtcr: u64,
    /// `CPTR_EL2`.
    pub(crate) cptr: u64,
    /// `MDCR_EL2`.
    pub(crate) mdcr: u64,
    /// `CNTHCTL_EL2`.
    pub(crate) cnthctl: u64,
    /// `HCRX_EL2` exists.
    pub(crate) hcrx: bool,
    /// `VDISR_EL2` exists.
    pub(crate) ras: bool,
    /// `MPAM2_EL2` exists.
    pub(crate) mpam: bool,
    /// The fine-grained trap registers exist.
    pub(crate) fine_grained_traps: bool,
}

impl World {
    /// Writes all of it. Acts behind the `ISB` of [`enter_vcpu`]. Before anything that `HCR_EL2.E2H` would redirect.
    pub(crate) fn enter(&self) {
        HCR_EL2.set(self.hcr);
        VTCR_EL2.set(self.vtcr);
        msr!("vpidr_el2", midr());
        CPTR_EL2.set(self.cptr);
        MDCR_EL2.set(self.mdcr);
        CNTHCTL_EL2.set(self.cnthctl);
        msr!("hstr_el2", policy::HSTR);
        if self.ras {
            // DISR_EL1 is this register to EL1 while HCR_EL2.AMO is set (DDI 0487 DISR_EL1). RAS is hidden, but nothing traps it.
            msr!("S3_4_C12_C1_1", 0); // VDISR_EL2
        }
        if self.hcrx {
            msr!("S3_4_C1_C2_2", policy::HCRX); // HCRX_EL2
        }
        if self.mpam {
            msr!("S3_4_C10_C5_0", policy::MPAM2); // MPAM2_EL2
        }
        if self.fine_grained_traps {
            msr!("S3_4_C1_C1_4", policy::FINE_GRAINED_TRAPS); // HFGRTR_EL2
            msr!("S3_4_C1_C1_5", policy::FINE_GRAINED_TRAPS); // HFGWTR_EL2
            msr!("S3_4_C1_C1_6", policy::FINE_GRAINED_TRAPS); // HFGITR_EL2
            msr!("S3_4_C3_C1_4", policy::FINE_GRAINED_DEBUG_TRAPS); // HDFGRTR_EL2
            msr!("S3_4_C3_C1_5", policy::FINE_GRAINED_DEBUG_TRAPS); // HDFGWTR_EL2
        }
    }
}

impl World {
    /// Debug registers trap again, as for a vCPU that has none of its own in hardware.
    pub(crate) fn trap_debug(&self) {
        MDCR_EL2.set(self.mdcr);
    }
}

/// Which memory the vCPU that comes to this pCPU has, and who it is.
pub(crate) fn enter_vcpu(vttbr: u64, vmpidr: u64) {
    VTTBR_EL2.set(vttbr);
    VMPIDR_EL2.set(vmpidr);
    barrier::isb();
}

/// Whether a physical interrupt waits for this pCPU, masked or not (`ISR_EL1`).
pub(crate) fn interrupt_pending() -> bool {
    mrs!("isr_el1") != 0
}

/// Whether a physical SError waits for this pCPU (`ISR_EL1.A`): EL2 masks it, and it comes when a guest runs.
pub(crate) fn serror_pending() -> bool {
    mrs!("isr_el1") & policy::ISR_A != 0
}

/// `PMCR_EL0`, on a machine that `has` performance monitors.
pub(crate) fn pmcr(has: bool) -> u64 {
    if has { mrs!("pmcr_el0") } else { 0 }
}

/// `ID_AA64MMFR0_EL1` of the hardware.
pub(crate) fn mmfr0() -> u64 {
    mrs!("id_aa64mmfr0_el1")
}

macro_rules! id_registers {
    ($index:expr, [$($crm:literal)+] $ops:tt) => { id_registers!(@ $index, $([$crm $ops])+) };
    (@ $index:expr, $([$crm:literal [$($op2:literal)+]])+) => {
        mrs_indexed!($index as usize, $($("S3_0_C0_C" $crm "_" $op2),+),+)
    };
}

/// The hardware's value of an ID register (op0 3, op1 0, CRn 0, `crm`, `op2`), allocated or reserved (RAZ): of the AArch32 ones, and of
/// the first four of each kind of the AArch64 ones, beyond which nothing is shown. 0 for others.
#[inline(never)]
pub(crate) fn id_register(crm: u64, op2: u64) -> u64 {
    match (crm, op2) {
        (1..=3, 0..=7) => id_registers!(8 * crm + op2, [0 1 2 3] [0 1 2 3 4 5 6 7]),
        (4..=7, 0..=3) => id_registers!(4 * (crm - 4) + op2, [4 5 6 7] [0 1 2 3]),
        _ => 0,
    }
}
