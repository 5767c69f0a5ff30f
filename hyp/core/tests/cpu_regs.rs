//! The register layouts against Arm's own description, as arm-sysregs generates it.
#![cfg(not(any(loom, miri)))]

use arm_sysregs::el1::registers as el1;
use arm_sysregs::el2::registers as el2;
use hyp_core::idreg::{HostId, early};
use hyp_core::regs::cpu::*;

/// Asserts for each field that its bits, all set, are where Arm has them.
macro_rules! same {
    ($($ours:ident::$field:ident = $theirs:expr;)*) => {
        $(assert_eq!($ours::$field.val(u64::MAX).value, $theirs, concat!(stringify!($ours), ".", stringify!($field)));)*
    };
}

#[test]
fn hcr_el2_is_arms() {
    type Arm = el2::HcrEl2;
    same! {
        HCR_EL2::VM = Arm::VM.bits();
        HCR_EL2::SWIO = Arm::SWIO.bits();
        HCR_EL2::PTW = Arm::PTW.bits();
        HCR_EL2::FMO = Arm::FMO.bits();
        HCR_EL2::IMO = Arm::IMO.bits();
        HCR_EL2::AMO = Arm::AMO.bits();
        HCR_EL2::FB = Arm::FB.bits();
        HCR_EL2::BSU = Arm::BSU_MASK << Arm::BSU_SHIFT;
        HCR_EL2::TWI = Arm::TWI.bits();
        HCR_EL2::TWE = Arm::TWE.bits();
        HCR_EL2::TID3 = Arm::TID3.bits();
        HCR_EL2::TSC = Arm::TSC.bits();
        HCR_EL2::TIDCP = Arm::TIDCP.bits();
        HCR_EL2::TACR = Arm::TACR.bits();
        HCR_EL2::TSW = Arm::TSW.bits();
        HCR_EL2::RW = Arm::RW.bits();
        HCR_EL2::E2H = Arm::E2H.bits();
        HCR_EL2::TLOR = Arm::TLOR.bits();
        HCR_EL2::TERR = Arm::TERR.bits();
        HCR_EL2::APK = Arm::APK.bits();
        HCR_EL2::API = Arm::API.bits();
        HCR_EL2::TID5 = Arm::TID5.bits();
    }
}

#[test]
fn trap_controls_are_arms() {
    // TTA has bit 20 with E2H = 0, which arm-sysregs describes for E2H = 1 only.
    same! {
        CPTR_EL2::TZ = el2::CptrEl2::TZ.bits();
        CPTR_EL2::TFP = el2::CptrEl2::TFP.bits();
        CPTR_EL2::TSM = el2::CptrEl2::TSM.bits();
        CPTR_EL2::TAM = el2::CptrEl2::TAM.bits();
        CPTR_EL2::TCPAC = el2::CptrEl2::TCPAC.bits();
        CPTR_EL2::TTA = 1 << 20;
        MDCR_EL2::HPMN = el2::MdcrEl2::HPMN_MASK << el2::MdcrEl2::HPMN_SHIFT;
        MDCR_EL2::TPMCR = el2::MdcrEl2::TPMCR.bits();
        MDCR_EL2::TPM = el2::MdcrEl2::TPM.bits();
        MDCR_EL2::TDA = el2::MdcrEl2::TDA.bits();
        MDCR_EL2::TDOSA = el2::MdcrEl2::TDOSA.bits();
        MDCR_EL2::TDRA = el2::MdcrEl2::TDRA.bits();
        MDCR_EL2::TPMS = el2::MdcrEl2::TPMS.bits();
        MDCR_EL2::TTRF = el2::MdcrEl2::TTRF.bits();
        MDCR_EL2::TDCC = el2::MdcrEl2::TDCC.bits();
        CNTHCTL_EL2::EL1PCTEN = 1 << 0;
        CNTHCTL_EL2::EL1PCEN = el2::CnthctlEl2::EL1PCEN.bits();
        ICC_SRE_EL2::SRE = el2::IccSreEl2::SRE.bits();
        ICC_SRE_EL2::DFB = el2::IccSreEl2::DFB.bits();
        ICC_SRE_EL2::DIB = el2::IccSreEl2::DIB.bits();
        ICC_SRE_EL2::ENABLE = el2::IccSreEl2::ENABLE.bits();
        MPAM2_EL2::TRAPMPAM0EL1 = el2::Mpam2El2::TRAPMPAM0EL1.bits();
        MPAM2_EL2::TRAPMPAM1EL1 = el2::Mpam2El2::TRAPMPAM1EL1.bits();
    }
}

#[test]
fn vtcr_el2_is_arms() {
    type Arm = el2::VtcrEl2;
    same! {
        VTCR_EL2::T0SZ = Arm::T0SZ_MASK << Arm::T0SZ_SHIFT;
        VTCR_EL2::SL0 = Arm::SL0_MASK << Arm::SL0_SHIFT;
        VTCR_EL2::IRGN0 = Arm::IRGN0_MASK << Arm::IRGN0_SHIFT;
        VTCR_EL2::ORGN0 = Arm::ORGN0_MASK << Arm::ORGN0_SHIFT;
        VTCR_EL2::SH0 = Arm::SH0_MASK << Arm::SH0_SHIFT;
        VTCR_EL2::TG0 = Arm::TG0_MASK << Arm::TG0_SHIFT;
        VTCR_EL2::PS = Arm::PS_MASK << Arm::PS_SHIFT;
        VTCR_EL2::VS = Arm::VS.bits();
    }
}

#[test]
fn sctlr_and_spsr_are_arms() {
    same! {
        SCTLR_EL1::M = el1::SctlrEl1::M.bits();
        SCTLR_EL1::C = el1::SctlrEl1::C.bits();
        SCTLR_EL1::I = el1::SctlrEl1::I.bits();
        SCTLR_EL1::SPAN = el1::SctlrEl1::SPAN.bits();
        SCTLR_EL1::E0E = 1 << 24;
        SCTLR_EL1::EE = 1 << 25;
        SCTLR_EL1::DSSBS = el1::SctlrEl1::DSSBS.bits();
        SCTLR_EL1::SPINTMASK = el1::SctlrEl1::SPINTMASK.bits();
        SCTLR_EL2::M = el2::SctlrEl2::M.bits();
        SCTLR_EL2::A = el2::SctlrEl2::A.bits();
        SCTLR_EL2::C = el2::SctlrEl2::C.bits();
        SCTLR_EL2::SA = el2::SctlrEl2::SA.bits();
        SCTLR_EL2::I = el2::SctlrEl2::I.bits();
        SCTLR_EL2::WXN = el2::SctlrEl2::WXN.bits();
        SCTLR_EL2::EE = 1 << 25;
        SPSR_EL2::M = el2::SpsrEl2::M_3_0_MASK << el2::SpsrEl2::M_3_0_SHIFT;
        SPSR_EL2::NRW = el2::SpsrEl2::M_4.bits();
        SPSR_EL2::F = el2::SpsrEl2::F.bits();
        SPSR_EL2::I = el2::SpsrEl2::I.bits();
        SPSR_EL2::A = el2::SpsrEl2::A.bits();
        SPSR_EL2::D = el2::SpsrEl2::D.bits();
        SPSR_EL2::BTYPE = el2::SpsrEl2::BTYPE_MASK << el2::SpsrEl2::BTYPE_SHIFT;
        SPSR_EL2::SSBS = 1 << 12;
        SPSR_EL2::ALLINT = el2::SpsrEl2::ALLINT.bits();
        SPSR_EL2::IL = el2::SpsrEl2::IL.bits();
        SPSR_EL2::SS = el2::SpsrEl2::SS.bits();
        SPSR_EL2::PAN = el2::SpsrEl2::PAN.bits();
        SPSR_EL2::UAO = el2::SpsrEl2::UAO.bits();
        SPSR_EL2::DIT = el2::SpsrEl2::DIT.bits();
        SPSR_EL2::TCO = el2::SpsrEl2::TCO.bits();
        SPSR_EL2::V = el2::SpsrEl2::V.bits();
        SPSR_EL2::C = el2::SpsrEl2::C.bits();
        SPSR_EL2::Z = el2::SpsrEl2::Z.bits();
        SPSR_EL2::N = el2::SpsrEl2::N.bits();
    }
}

#[test]
fn a_syndromes_parts_are_arms() {
    type Arm = el2::EsrEl2;
    for bit in 0..64 {
        let value = 1 << bit;
        let esr = hyp_core::esr::Esr::new(value);
        let arm = Arm::from_bits_retain(value);
        assert_eq!(u64::from(esr.ec()), u64::from(arm.ec()));
        assert_eq!(u64::from(esr.iss()), u64::from(arm.iss()));
        assert_eq!(esr.il(), arm.contains(Arm::IL));
    }
}

#[test]
fn fine_grained_debug_traps_are_arms() {
    let read = el2::HdfgrtrEl2::DBGCLAIM | el2::HdfgrtrEl2::OSECCR_EL1;
    let write = el2::HdfgwtrEl2::DBGCLAIM | el2::HdfgwtrEl2::OSECCR_EL1;
    let ours = hyp_core::policy::FINE_GRAINED_DEBUG_TRAPS;
    assert_eq!((ours, ours), (read.bits(), write.bits()));
}

/// Asserts that a question to [`HostId`] answers whether Arm's fields of one register, or one of several, are not 0.
macro_rules! asks {
    ($($question:ident: $($register:ident $type:ident $($field:ident)+),+;)*) => {
        for bit in 0..64 {
            let value = 1 << bit;
            for (name, id) in one_register_each(value) {
                $(
                    let arm = false $(|| name == stringify!($register) && {
                        let arm = el1::$type::from_bits_retain(value);
                        false $(|| arm.$field() != 0)+
                    })+;
                    assert_eq!(id.$question(), arm, "{} of {} {value:#x}", stringify!($question), name);
                )*
            }
        }
    };
}

/// Machines of which one register that [`HostId`] knows reads `value`, and the others 0.
fn one_register_each(value: u64) -> Vec<(&'static str, HostId)> {
    let mut machines = Vec::new();
    macro_rules! with {
        ($($register:ident)*) => {
            $(machines.push((stringify!($register), HostId { $register: value, ..HostId::NONE }));)*
        };
    }
    with!(pfr0 pfr1 dfr0 isar1 isar2 mmfr0 mmfr1);
    machines
}

#[test]
fn what_the_machine_has_is_read_where_arm_says() {
    asks! {
        pauth: isar1 IdAa64isar1El1 apa api, isar2 IdAa64isar2El1 apa3;
        ras: pfr0 IdAa64pfr0El1 ras;
        amu: pfr0 IdAa64pfr0El1 amu;
        mpam: pfr0 IdAa64pfr0El1 mpam, pfr1 IdAa64pfr1El1 mpam_frac;
        mte: pfr1 IdAa64pfr1El1 mte;
        ssbs: pfr1 IdAa64pfr1El1 ssbs;
        nmi: pfr1 IdAa64pfr1El1 nmi;
        pmu: dfr0 IdAa64dfr0El1 pmuver;
        spe: dfr0 IdAa64dfr0El1 pmsver;
        trace_filter: dfr0 IdAa64dfr0El1 tracefilt;
        lor: mmfr1 IdAa64mmfr1El1 lo;
        pan: mmfr1 IdAa64mmfr1El1 pan;
        hcrx: mmfr1 IdAa64mmfr1El1 hcx;
        fine_grained_traps: mmfr0 IdAa64mmfr0El1 fgt;
    }
    // Those of which not every value but 0 says yes.
    for value in 0..16 {
        let id = |pfr0, pfr1, dfr0| HostId {
            pfr0,
            pfr1,
            dfr0,
            ..HostId::NONE
        };
        assert_eq!(
            id(el1::IdAa64pfr0El1::default().with_el0(value).bits(), 0, 0).aarch32_el0(),
            value == 2
        );
        assert_eq!(id(0, el1::IdAa64pfr1El1::default().with_mte(value).bits(), 0).mte2(), value >= 2);
        // 0xf: performance monitors that are not the architecture's.
        let dfr0 = el1::IdAa64dfr0El1::default().with_pmuver(value).bits();
        assert_eq!(id(0, 0, dfr0).pmu(), !matches!(value, 0 | 0xf));
        let mmfr0 = el1::IdAa64mmfr0El1::default().with_parange(value).bits();
        let bits = [32, 36, 40, 42, 44].get(usize::from(value)).copied().unwrap_or(48);
        assert_eq!(HostId { mmfr0, ..HostId::NONE }.pa_bits(), bits);
    }
}

#[test]
fn a_pending_serror_is_arms() {
    assert_eq!(hyp_core::policy::ISR_A, el1::IsrEl1::A.bits());
}

#[test]
fn what_is_asked_before_the_mmu_is_on_is_read_where_arm_says() {
    for bit in 0..64 {
        let value = 1 << bit;
        let mmfr3 = el1::IdAa64mmfr3El1::from_bits_retain(value);
        assert_eq!(value & early::TCRX != 0, mmfr3.tcrx() != 0);
        assert_eq!(value & early::SCTLRX != 0, mmfr3.sctlrx() != 0);
        assert_eq!(value & early::FGT2 != 0, el1::IdAa64mmfr0El1::from_bits_retain(value).fgt() >= 2);
        assert_eq!(value & early::MPAM != 0, el1::IdAa64pfr0El1::from_bits_retain(value).mpam() != 0);
        let frac = el1::IdAa64pfr1El1::from_bits_retain(value).mpam_frac();
        assert_eq!(value & early::MPAM_FRAC != 0, frac != 0);
    }
    assert_eq!(early::MPAM_HAS_HCR, el1::MpamidrEl1::HAS_HCR.bits());
    // Not only the field's lowest values, of which each has one bit.
    for fgt in 0..16 {
        let mmfr0 = el1::IdAa64mmfr0El1::default().with_fgt(fgt).bits();
        assert_eq!(mmfr0 & early::FGT2 != 0, fgt >= 2);
    }
}
