//! GICv3 system registers (IHI 0069): the layouts that `aarch64-cpu` leaves out.
//!
//! `ICH_*` are EL2's view of a vCPU's interface, `ICC_*` the CPU interface itself. A `*Value` type is an image of a register, not
//! the register: reads and writes live in `hyp`.

#![allow(missing_docs, reason = "the macro also makes structs and constants that take no comment")]

use tock_registers::{LocalRegisterCopy, register_bitfields};

register_bitfields! { u64,
    /// Interrupt Controller Virtual Machine Control Register: what the guest writes into its CPU interface lands here.
    pub ICH_VMCR_EL2 [
        /// Virtual group 0 enable (`ICV_IGRPEN0_EL1.Enable`).
        VENG0 OFFSET(0) NUMBITS(1) [],
        /// Virtual group 1 enable (`ICV_IGRPEN1_EL1.Enable`).
        VENG1 OFFSET(1) NUMBITS(1) [],
        /// RES0 while the system register interface is the only one.
        VAckCtl OFFSET(2) NUMBITS(1) [],
        /// Group 0 is signalled as a virtual FIQ; RES1 while SRE is 1.
        VFIQEn OFFSET(3) NUMBITS(1) [],
        /// Virtual common binary point (`ICV_CTLR_EL1.CBPR`).
        VCBPR OFFSET(4) NUMBITS(1) [],
        /// Virtual EOI mode (`ICV_CTLR_EL1.EOImode`).
        VEOIM OFFSET(9) NUMBITS(1) [],
        /// Virtual binary point, group 1 (`ICV_BPR1_EL1`).
        VBPR1 OFFSET(18) NUMBITS(3) [],
        /// Virtual binary point, group 0 (`ICV_BPR0_EL1`).
        VBPR0 OFFSET(21) NUMBITS(3) [],
        /// Virtual priority mask (`ICV_PMR_EL1`).
        VPMR OFFSET(24) NUMBITS(8) [],
    ],

    /// Interrupt Controller Hyp Control Register: maintenance interrupts and traps of one vCPU's interface.
    pub ICH_HCR_EL2 [
        /// The virtual CPU interface works.
        En OFFSET(0) NUMBITS(1) [],
        /// Maintenance interrupt when at most one list register is valid (underflow).
        UIE OFFSET(1) NUMBITS(1) [],
        /// Maintenance interrupt when `EOIcount` is not zero.
        LRENPIE OFFSET(2) NUMBITS(1) [],
        /// Maintenance interrupt when no list register is pending.
        NPIE OFFSET(3) NUMBITS(1) [],
        /// Maintenance interrupt when the guest enables group 0.
        VGrp0EIE OFFSET(4) NUMBITS(1) [],
        /// Maintenance interrupt when the guest disables group 0.
        VGrp0DIE OFFSET(5) NUMBITS(1) [],
        /// Maintenance interrupt when the guest enables group 1.
        VGrp1EIE OFFSET(6) NUMBITS(1) [],
        /// Maintenance interrupt when the guest disables group 1.
        VGrp1DIE OFFSET(7) NUMBITS(1) [],
        /// Deactivation of a virtual SGI leaves `EOIcount` alone (GICv4.1).
        vSGIEOICount OFFSET(8) NUMBITS(1) [],
        /// Traps the registers common to both groups: CTLR, PMR, RPR, DIR and the SGI generators.
        TC OFFSET(10) NUMBITS(1) [],
        /// Traps the registers of group 0.
        TALL0 OFFSET(11) NUMBITS(1) [],
        /// Traps the registers of group 1.
        TALL1 OFFSET(12) NUMBITS(1) [],
        /// Traps locally generated SErrors.
        TSEI OFFSET(13) NUMBITS(1) [],
        /// Traps `ICC_DIR_EL1`.
        TDIR OFFSET(14) NUMBITS(1) [],
        /// Masks directly injected virtual interrupts.
        DVIM OFFSET(15) NUMBITS(1) [],
        /// How many deactivations found no list register.
        EOIcount OFFSET(27) NUMBITS(5) [],
    ],

    /// Interrupt Controller VGIC Type Register: what the virtual interface of this PE has.
    pub ICH_VTR_EL2 [
        /// Number of list registers, minus one.
        ListRegs OFFSET(0) NUMBITS(5) [],
        /// `ICH_HCR_EL2.TDIR` exists.
        TDS OFFSET(19) NUMBITS(1) [],
        /// Direct injection does not exist.
        nV4 OFFSET(20) NUMBITS(1) [],
        /// Affinity 3 of SGI targets may be non-zero.
        A3V OFFSET(21) NUMBITS(1) [],
        /// Locally generated SErrors exist.
        SEIS OFFSET(22) NUMBITS(1) [],
        /// Size of virtual INTIDs: 0 for 16 bits, 1 for 24.
        IDbits OFFSET(23) NUMBITS(3) [],
        /// Virtual preemption bits, minus one.
        PREbits OFFSET(26) NUMBITS(3) [],
        /// Virtual priority bits, minus one.
        PRIbits OFFSET(29) NUMBITS(3) [],
    ],

    /// Interrupt Controller List Register: one virtual interrupt that the guest can take or has taken.
    pub ICH_LR_EL2 [
        /// The virtual INTID.
        vINTID OFFSET(0) NUMBITS(32) [],
        /// The physical INTID that the guest's deactivation reaches, while `HW` is 1.
        pINTID OFFSET(32) NUMBITS(13) [],
        /// Maintenance interrupt on deactivation, while `HW` is 0 (the same bit is `pINTID`'s while it is 1).
        EOI OFFSET(41) NUMBITS(1) [],
        /// Priority.
        Priority OFFSET(48) NUMBITS(8) [],
        /// Group 1.
        Group OFFSET(60) NUMBITS(1) [],
        /// Backed by a physical interrupt.
        HW OFFSET(61) NUMBITS(1) [],
        /// State. Both with `HW` is reserved.
        State OFFSET(62) NUMBITS(2) [
            Invalid = 0,
            Pending = 1,
            Active = 2,
            PendingActive = 3,
        ],
    ],

    /// Interrupt Controller Control Register, as EL1 sees it. The low 32 bits are all of it.
    pub ICC_CTLR_EL1 [
        /// Common binary point: `ICC_BPR0_EL1` serves both groups.
        CBPR OFFSET(0) NUMBITS(1) [],
        /// 0: EOIR drops the priority and deactivates; 1: EOIR drops, DIR deactivates.
        EOImode OFFSET(1) NUMBITS(1) [],
        /// Priority mask hint. Not in a virtual interface.
        PMHE OFFSET(6) NUMBITS(1) [],
        /// Priority bits, minus one.
        PRIbits OFFSET(8) NUMBITS(3) [],
        /// Size of INTIDs: 0 for 16 bits, 1 for 24.
        IDbits OFFSET(11) NUMBITS(3) [],
        /// Locally generated SErrors exist.
        SEIS OFFSET(14) NUMBITS(1) [],
        /// Affinity 3 of SGI targets may be non-zero.
        A3V OFFSET(15) NUMBITS(1) [],
        /// SGI targets may have an affinity 0 of 0 to 255.
        RSS OFFSET(18) NUMBITS(1) [],
        /// The extended INTID ranges exist.
        ExtRange OFFSET(19) NUMBITS(1) [],
    ],

    /// Interrupt Controller Software Generated Interrupt Group 1 Register; SGI0R and ASGI1R have the same layout.
    pub ICC_SGI1R_EL1 [
        /// One bit for each PE whose affinity 0 is `RS * 16` plus the bit's number.
        TargetList OFFSET(0) NUMBITS(16) [],
        /// Affinity 1 of the targets.
        Aff1 OFFSET(16) NUMBITS(8) [],
        /// The SGI.
        INTID OFFSET(24) NUMBITS(4) [],
        /// Affinity 2 of the targets.
        Aff2 OFFSET(32) NUMBITS(8) [],
        /// Every PE but the one that writes; all affinities are ignored.
        IRM OFFSET(40) NUMBITS(1) [],
        /// Range selector.
        RS OFFSET(44) NUMBITS(4) [],
        /// Affinity 3 of the targets.
        Aff3 OFFSET(48) NUMBITS(8) [],
    ],
}

/// An image of `ICH_VMCR_EL2`.
pub type VmcrValue = LocalRegisterCopy<u64, ICH_VMCR_EL2::Register>;
/// An image of `ICH_VTR_EL2`.
pub type VtrValue = LocalRegisterCopy<u64, ICH_VTR_EL2::Register>;
/// An image of an `ICH_LR<n>_EL2`.
pub type LrValue = LocalRegisterCopy<u64, ICH_LR_EL2::Register>;
/// An image of `ICC_CTLR_EL1`.
pub type CtlrValue = LocalRegisterCopy<u64, ICC_CTLR_EL1::Register>;
/// An image of `ICC_SGI1R_EL1`, `ICC_SGI0R_EL1` or `ICC_ASGI1R_EL1`.
pub type SgirValue = LocalRegisterCopy<u64, ICC_SGI1R_EL1::Register>;
