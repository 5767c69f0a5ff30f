//! The PE's own registers: layouts of the EL2 controls, and system registers by their encoding.

use core::fmt;

use crate::put;
use crate::text::{Shown, Sink};

pub use layout::*;

mod layout {
    #![allow(missing_docs, reason = "the macro's own items cannot carry a comment")]
    use tock_registers::register_bitfields;

    register_bitfields! { u64,
        /// Hypervisor Configuration Register. DDI 0487 HCR_EL2.
        pub HCR_EL2 [
            /// Stage 2 translation for EL1&0.
            VM OFFSET(0) NUMBITS(1) [],
            /// Set/way invalidation by the guest cleans too.
            SWIO OFFSET(1) NUMBITS(1) [],
            /// A stage 1 walk that stage 2 leads to device memory faults.
            PTW OFFSET(2) NUMBITS(1) [],
            /// Physical FIQs go to EL2.
            FMO OFFSET(3) NUMBITS(1) [],
            /// Physical IRQs go to EL2.
            IMO OFFSET(4) NUMBITS(1) [],
            /// Physical SErrors go to EL2.
            AMO OFFSET(5) NUMBITS(1) [],
            /// TLB and instruction-cache maintenance is broadcast.
            FB OFFSET(9) NUMBITS(1) [],
            /// Least shareability of the guest's barriers.
            BSU OFFSET(10) NUMBITS(2) [
                /// Inner Shareable.
                InnerShareable = 0b01
            ],
            /// Traps WFI and WFIT.
            TWI OFFSET(13) NUMBITS(1) [],
            /// Traps WFE and WFET.
            TWE OFFSET(14) NUMBITS(1) [],
            /// Traps the feature ID registers.
            TID3 OFFSET(18) NUMBITS(1) [],
            /// Traps SMC.
            TSC OFFSET(19) NUMBITS(1) [],
            /// Traps implementation-defined registers and instructions.
            TIDCP OFFSET(20) NUMBITS(1) [],
            /// Traps `ACTLR_EL1`.
            TACR OFFSET(21) NUMBITS(1) [],
            /// Traps cache maintenance by set/way.
            TSW OFFSET(22) NUMBITS(1) [],
            /// EL1 executes in AArch64 state.
            RW OFFSET(31) NUMBITS(1) [],
            /// EL2 hosts an operating system (VHE).
            E2H OFFSET(34) NUMBITS(1) [],
            /// Traps the LORegion registers.
            TLOR OFFSET(35) NUMBITS(1) [],
            /// Traps the RAS error records.
            TERR OFFSET(36) NUMBITS(1) [],
            /// Pointer-authentication keys are not trapped.
            APK OFFSET(40) NUMBITS(1) [],
            /// Pointer-authentication instructions are not trapped.
            API OFFSET(41) NUMBITS(1) [],
            /// Traps `GMID_EL1`.
            TID5 OFFSET(58) NUMBITS(1) [],
        ],
        /// Architectural Feature Trap Register, with `HCR_EL2.E2H` = 0. DDI 0487 CPTR_EL2.
        pub CPTR_EL2 [
            /// Traps SVE.
            TZ OFFSET(8) NUMBITS(1) [],
            /// Traps Advanced SIMD and floating point.
            TFP OFFSET(10) NUMBITS(1) [],
            /// Traps SME.
            TSM OFFSET(12) NUMBITS(1) [],
            /// Traps the trace registers.
            TTA OFFSET(20) NUMBITS(1) [],
            /// Traps the activity monitors.
            TAM OFFSET(30) NUMBITS(1) [],
            /// Traps `CPACR_EL1`.
            TCPAC OFFSET(31) NUMBITS(1) [],
        ],
        /// Monitor Debug Configuration Register. DDI 0487 MDCR_EL2.
        pub MDCR_EL2 [
            /// How many event counters EL1 and EL0 own.
            HPMN OFFSET(0) NUMBITS(5) [],
            /// Traps `PMCR_EL0`.
            TPMCR OFFSET(5) NUMBITS(1) [],
            /// Traps the performance monitors.
            TPM OFFSET(6) NUMBITS(1) [],
            /// Traps the debug registers.
            TDA OFFSET(9) NUMBITS(1) [],
            /// Traps the OS lock, OS double lock and power-down registers.
            TDOSA OFFSET(10) NUMBITS(1) [],
            /// Traps `MDRAR_EL1` and the AArch32 debug ROM registers.
            TDRA OFFSET(11) NUMBITS(1) [],
            /// Traps the statistical profiling controls.
            TPMS OFFSET(14) NUMBITS(1) [],
            /// Traps the trace filter controls.
            TTRF OFFSET(19) NUMBITS(1) [],
            /// Traps the debug communications channel.
            TDCC OFFSET(27) NUMBITS(1) [],
        ],
        /// Counter-timer Hypervisor Control Register, with `HCR_EL2.E2H` = 0. DDI 0487 CNTHCTL_EL2.
        pub CNTHCTL_EL2 [
            /// The physical counter is not trapped.
            EL1PCTEN OFFSET(0) NUMBITS(1) [],
            /// The physical timer is not trapped.
            EL1PCEN OFFSET(1) NUMBITS(1) [],
        ],
        /// Virtualization Translation Control Register. DDI 0487 VTCR_EL2.
        pub VTCR_EL2 [
            /// 64 less the size of the IPA space in bits.
            T0SZ OFFSET(0) NUMBITS(6) [],
            /// Level at which the walk starts.
            SL0 OFFSET(6) NUMBITS(2) [
                /// Level 1, for the 4 KiB granule.
                Level1 = 0b01
            ],
            /// Inner cacheability of walks.
            IRGN0 OFFSET(8) NUMBITS(2) [
                /// Write-back, read- and write-allocate.
                WriteBack = 0b01
            ],
            /// Outer cacheability of walks.
            ORGN0 OFFSET(10) NUMBITS(2) [
                /// Write-back, read- and write-allocate.
                WriteBack = 0b01
            ],
            /// Shareability of walks.
            SH0 OFFSET(12) NUMBITS(2) [
                /// Inner Shareable.
                Inner = 0b11
            ],
            /// Granule.
            TG0 OFFSET(14) NUMBITS(2) [
                /// 4 KiB.
                KiB4 = 0b00
            ],
            /// Size of the output address, encoded as `ID_AA64MMFR0_EL1.PARange`.
            PS OFFSET(16) NUMBITS(3) [],
            /// Size of the VMID.
            VS OFFSET(19) NUMBITS(1) [
                /// 8 bits.
                Bits8 = 0
            ],
            /// RES1.
            RES1 OFFSET(31) NUMBITS(1) [],
        ],
        /// Interrupt Controller System Register Enable register. IHI 0069H ICC_SRE_EL2.
        pub ICC_SRE_EL2 [
            /// EL2 uses the system registers.
            SRE OFFSET(0) NUMBITS(1) [],
            /// Disables FIQ bypass.
            DFB OFFSET(1) NUMBITS(1) [],
            /// Disables IRQ bypass.
            DIB OFFSET(2) NUMBITS(1) [],
            /// EL1's `ICC_SRE_EL1` is not trapped.
            ENABLE OFFSET(3) NUMBITS(1) [],
        ],
        /// System Control Register of EL1. DDI 0487 SCTLR_EL1.
        pub SCTLR_EL1 [
            /// Stage 1 translation.
            M OFFSET(0) NUMBITS(1) [],
            /// Data accesses are cacheable.
            C OFFSET(2) NUMBITS(1) [],
            /// Instruction fetches are cacheable.
            I OFFSET(12) NUMBITS(1) [],
            /// Taking an exception leaves `PSTATE.PAN` alone.
            SPAN OFFSET(23) NUMBITS(1) [],
            /// Big-endian data at EL0.
            E0E OFFSET(24) NUMBITS(1) [],
            /// Big-endian data at EL1, and big-endian walks.
            EE OFFSET(25) NUMBITS(1) [],
            /// `PSTATE.SSBS` upon an exception.
            DSSBS OFFSET(44) NUMBITS(1) [],
            /// `PSTATE.ALLINT` stays clear upon an exception.
            SPINTMASK OFFSET(62) NUMBITS(1) [],
        ],
        /// System Control Register of EL2. DDI 0487 SCTLR_EL2.
        pub SCTLR_EL2 [
            /// Stage 1 translation.
            M OFFSET(0) NUMBITS(1) [],
            /// Alignment checks.
            A OFFSET(1) NUMBITS(1) [],
            /// Data accesses are cacheable.
            C OFFSET(2) NUMBITS(1) [],
            /// The stack pointer is checked for alignment.
            SA OFFSET(3) NUMBITS(1) [],
            /// Instruction fetches are cacheable.
            I OFFSET(12) NUMBITS(1) [],
            /// What can be written cannot be executed.
            WXN OFFSET(19) NUMBITS(1) [],
            /// Big-endian data.
            EE OFFSET(25) NUMBITS(1) [],
        ],
        /// Saved Program Status Register, of an exception from AArch64 state. DDI 0487 SPSR_EL2.
        pub SPSR_EL2 [
            /// Exception level and stack pointer.
            M OFFSET(0) NUMBITS(4) [
                /// EL0.
                EL0t = 0b0000,
                /// EL1 on `SP_EL0`.
                EL1t = 0b0100,
                /// EL1 on `SP_EL1`.
                EL1h = 0b0101,
                /// EL2 on `SP_EL0`.
                EL2t = 0b1000,
                /// EL2 on `SP_EL2`.
                EL2h = 0b1001
            ],
            /// The exception came from AArch32 state.
            NRW OFFSET(4) NUMBITS(1) [],
            /// FIQ mask.
            F OFFSET(6) NUMBITS(1) [],
            /// IRQ mask.
            I OFFSET(7) NUMBITS(1) [],
            /// SError mask.
            A OFFSET(8) NUMBITS(1) [],
            /// Debug mask.
            D OFFSET(9) NUMBITS(1) [],
            /// Branch type.
            BTYPE OFFSET(10) NUMBITS(2) [],
            /// Speculative store bypass is safe.
            SSBS OFFSET(12) NUMBITS(1) [],
            /// All interrupts are masked.
            ALLINT OFFSET(13) NUMBITS(1) [],
            /// Illegal execution state.
            IL OFFSET(20) NUMBITS(1) [],
            /// Software step.
            SS OFFSET(21) NUMBITS(1) [],
            /// Privileged access never.
            PAN OFFSET(22) NUMBITS(1) [],
            /// User access override.
            UAO OFFSET(23) NUMBITS(1) [],
            /// Data-independent timing.
            DIT OFFSET(24) NUMBITS(1) [],
            /// Tag checks are overridden.
            TCO OFFSET(25) NUMBITS(1) [],
            /// Overflow.
            V OFFSET(28) NUMBITS(1) [],
            /// Carry.
            C OFFSET(29) NUMBITS(1) [],
            /// Zero.
            Z OFFSET(30) NUMBITS(1) [],
            /// Negative.
            N OFFSET(31) NUMBITS(1) [],
        ],
        /// MPAM trap controls. DDI 0598 MPAM2_EL2.
        pub MPAM2_EL2 [
            /// Traps `MPAM1_EL1`.
            TRAPMPAM1EL1 OFFSET(48) NUMBITS(1) [],
            /// Traps `MPAM0_EL1`.
            TRAPMPAM0EL1 OFFSET(49) NUMBITS(1) [],
        ],
    }
}

/// A system register or system instruction, by its encoding. Packed as Linux's UAPI packs it: Op0 15:14, Op1 13:11,
/// CRn 10:7, CRm 6:3, Op2 2:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysReg(u16);

impl SysReg {
    /// The register `S<op0>_<op1>_C<crn>_C<crm>_<op2>`; what exceeds a field is dropped.
    #[must_use]
    pub const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self((op0 & 3) << 14 | (op1 & 7) << 11 | (crn & 15) << 7 | (crm & 15) << 3 | (op2 & 7))
    }
    /// The register with the packed encoding `id`.
    #[must_use]
    pub const fn from_id(id: u16) -> Self {
        Self(id)
    }
    /// The register that the ISS of a trapped MSR, MRS or system instruction names. DDI 0487 ESR_EL2, EC 0x18.
    #[must_use]
    pub const fn from_iss(iss: u32) -> Self {
        Self::new(
            (iss >> 20 & 3) as u16,
            (iss >> 14 & 7) as u16,
            (iss >> 10 & 15) as u16,
            (iss >> 1 & 15) as u16,
            (iss >> 17 & 7) as u16,
        )
    }
    /// The ISS of a trapped write of the register, but for the general-purpose register.
    #[must_use]
    #[inline(always)]
    pub const fn to_iss(self) -> u32 {
        (self.op0() as u32) << 20
            | (self.op2() as u32) << 17
            | (self.op1() as u32) << 14
            | (self.crn() as u32) << 10
            | (self.crm() as u32) << 1
    }
    /// The packed encoding.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0
    }
    /// Op0.
    #[must_use]
    pub const fn op0(self) -> u16 {
        self.0 >> 14
    }
    /// Op1.
    #[must_use]
    pub const fn op1(self) -> u16 {
        self.0 >> 11 & 7
    }
    /// CRn.
    #[must_use]
    pub const fn crn(self) -> u16 {
        self.0 >> 7 & 15
    }
    /// CRm.
    #[must_use]
    pub const fn crm(self) -> u16 {
        self.0 >> 3 & 15
    }
    /// Op2.
    #[must_use]
    pub const fn op2(self) -> u16 {
        self.0 & 7
    }
}

/// As an assembler spells a register without a name: `S3_0_C12_C12_4`.
impl Shown for SysReg {
    fn show(&self, f: &mut dyn Sink) {
        put!(f, "S{}_{}_C{}_C{}_{}", self.op0(), self.op1(), self.crn(), self.crm(), self.op2());
    }
}

crate::shown!(SysReg);

impl fmt::Debug for SysReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Named registers: `NAME = op0 op1 CRn CRm op2`.
macro_rules! registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        impl SysReg {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Self = Self::new($op0, $op1, $crn, $crm, $op2);
            )*
        }
        /// Every register named here, with its name.
        #[cfg(test)]
        const NAMES: &[(&str, SysReg)] = &[$((stringify!($name), SysReg::$name)),*];
    };
}

registers! {
    // Debug. DDI 0487 K1 (Debug registers).
    OSDTRRX_EL1 = 2 0 0 0 2;
    MDCCINT_EL1 = 2 0 0 2 0;
    MDSCR_EL1 = 2 0 0 2 2;
    OSDTRTX_EL1 = 2 0 0 3 2;
    OSECCR_EL1 = 2 0 0 6 2;
    MDRAR_EL1 = 2 0 1 0 0;
    OSLAR_EL1 = 2 0 1 0 4;
    OSLSR_EL1 = 2 0 1 1 4;
    OSDLR_EL1 = 2 0 1 3 4;
    DBGPRCR_EL1 = 2 0 1 4 4;
    DBGCLAIMSET_EL1 = 2 0 7 8 6;
    DBGCLAIMCLR_EL1 = 2 0 7 9 6;
    DBGAUTHSTATUS_EL1 = 2 0 7 14 6;
    MDCCSR_EL0 = 2 3 0 1 0;
    DBGDTR_EL0 = 2 3 0 4 0;
    DBGDTRRX_EL0 = 2 3 0 5 0;
    // Identification.
    MIDR_EL1 = 3 0 0 0 0;
    MPIDR_EL1 = 3 0 0 0 5;
    ID_PFR0_EL1 = 3 0 0 1 0;
    ID_PFR1_EL1 = 3 0 0 1 1;
    ID_DFR0_EL1 = 3 0 0 1 2;
    ID_AFR0_EL1 = 3 0 0 1 3;
    ID_MMFR0_EL1 = 3 0 0 1 4;
    ID_MMFR1_EL1 = 3 0 0 1 5;
    ID_MMFR2_EL1 = 3 0 0 1 6;
    ID_MMFR3_EL1 = 3 0 0 1 7;
    ID_ISAR0_EL1 = 3 0 0 2 0;
    ID_ISAR1_EL1 = 3 0 0 2 1;
    ID_ISAR2_EL1 = 3 0 0 2 2;
    ID_ISAR3_EL1 = 3 0 0 2 3;
    ID_ISAR4_EL1 = 3 0 0 2 4;
    ID_ISAR5_EL1 = 3 0 0 2 5;
    ID_MMFR4_EL1 = 3 0 0 2 6;
    ID_ISAR6_EL1 = 3 0 0 2 7;
    MVFR0_EL1 = 3 0 0 3 0;
    MVFR1_EL1 = 3 0 0 3 1;
    MVFR2_EL1 = 3 0 0 3 2;
    ID_PFR2_EL1 = 3 0 0 3 4;
    ID_DFR1_EL1 = 3 0 0 3 5;
    ID_MMFR5_EL1 = 3 0 0 3 6;
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    ID_AA64PFR1_EL1 = 3 0 0 4 1;
    ID_AA64PFR2_EL1 = 3 0 0 4 2;
    ID_AA64ZFR0_EL1 = 3 0 0 4 4;
    ID_AA64SMFR0_EL1 = 3 0 0 4 5;
    ID_AA64DFR0_EL1 = 3 0 0 5 0;
    ID_AA64DFR1_EL1 = 3 0 0 5 1;
    ID_AA64AFR0_EL1 = 3 0 0 5 4;
    ID_AA64AFR1_EL1 = 3 0 0 5 5;
    ID_AA64ISAR0_EL1 = 3 0 0 6 0;
    ID_AA64ISAR1_EL1 = 3 0 0 6 1;
    ID_AA64ISAR2_EL1 = 3 0 0 6 2;
    ID_AA64ISAR3_EL1 = 3 0 0 6 3;
    ID_AA64MMFR0_EL1 = 3 0 0 7 0;
    ID_AA64MMFR1_EL1 = 3 0 0 7 1;
    ID_AA64MMFR2_EL1 = 3 0 0 7 2;
    ID_AA64MMFR3_EL1 = 3 0 0 7 3;
    ID_AA64MMFR4_EL1 = 3 0 0 7 4;
    // EL1's own.
    SCTLR_EL1 = 3 0 1 0 0;
    ACTLR_EL1 = 3 0 1 0 1;
    CPACR_EL1 = 3 0 1 0 2;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    SPSR_EL1 = 3 0 4 0 0;
    ELR_EL1 = 3 0 4 0 1;
    SP_EL0 = 3 0 4 1 0;
    SP_EL1 = 3 4 4 1 0;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    ESR_EL1 = 3 0 5 2 0;
    FAR_EL1 = 3 0 6 0 0;
    PAR_EL1 = 3 0 7 4 0;
    MAIR_EL1 = 3 0 10 2 0;
    AMAIR_EL1 = 3 0 10 3 0;
    VBAR_EL1 = 3 0 12 0 0;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    TPIDR_EL1 = 3 0 13 0 4;
    TPIDR_EL0 = 3 3 13 0 2;
    TPIDRRO_EL0 = 3 3 13 0 3;
    CSSELR_EL1 = 3 2 0 0 0;
    CNTKCTL_EL1 = 3 0 14 1 0;
    CNTP_TVAL_EL0 = 3 3 14 2 0;
    CNTP_CTL_EL0 = 3 3 14 2 1;
    CNTP_CVAL_EL0 = 3 3 14 2 2;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
    // The GIC CPU interface, as far as it traps.
    ICC_PMR_EL1 = 3 0 4 6 0;
    ICC_DIR_EL1 = 3 0 12 11 1;
    ICC_RPR_EL1 = 3 0 12 11 3;
    ICC_SGI1R_EL1 = 3 0 12 11 5;
    ICC_ASGI1R_EL1 = 3 0 12 11 6;
    ICC_SGI0R_EL1 = 3 0 12 11 7;
    ICC_CTLR_EL1 = 3 0 12 12 4;
    // The performance monitors' control register, which stands for all of them in tests.
    PMCR_EL0 = 3 3 9 12 0;
    // System instructions.
    DC_ISW = 1 0 7 6 2;
    DC_CSW = 1 0 7 10 2;
    DC_CISW = 1 0 7 14 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_gives_its_parts_back() {
        for id in (0..=u16::MAX).step_by(if cfg!(miri) { 61 } else { 1 }) {
            let r = SysReg::from_id(id);
            assert_eq!(SysReg::new(r.op0(), r.op1(), r.crn(), r.crm(), r.op2()), r);
        }
    }

    #[test]
    fn a_trapped_icc_ctlr_access_names_icc_ctlr() {
        // Seen on QEMU: a read and a write of ICC_CTLR_EL1.
        for esr in [0x6238_3039u64, 0x6238_3058] {
            assert_eq!(SysReg::from_iss(esr as u32 & 0x1ff_ffff), SysReg::ICC_CTLR_EL1);
        }
        assert_eq!(SysReg::ICC_CTLR_EL1.id(), 0xc664, "KVM's attribute id");
        assert_eq!(SysReg::ICC_PMR_EL1.id(), 0xc230, "KVM's attribute id");
    }

    #[test]
    fn no_two_names_share_an_encoding() {
        for (i, (name, register)) in NAMES.iter().enumerate() {
            for (other, same) in &NAMES[i + 1..] {
                assert_ne!(register, same, "{name} and {other}");
            }
        }
    }

    #[test]
    fn a_register_is_spelt_as_an_assembler_spells_it() {
        assert_eq!(SysReg::ICC_CTLR_EL1.to_string(), "S3_0_C12_C12_4");
    }
}
