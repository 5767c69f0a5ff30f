//! Register layouts against `arm-sysregs`, which is generated from Arm's own description, and against the bit numbers of
//! IHI 0069 where that has no such register or field.
#![cfg(not(any(loom, miri)))]

use arm_sysregs::aarch32::registers::IccSgi1r;
use arm_sysregs::el1::registers::IccCtlrEl1;
use arm_sysregs::el2::registers::{IchHcrEl2, IchVmcrEl2};
use hyp_core::regs::gic::*;

/// Field against mask of a one-bit field.
macro_rules! bits {
    ($ours:ident, $theirs:ident: $($field:ident = $bit:ident),* $(,)?) => {
        $(assert_eq!($ours::$field::SET.value, $theirs::$bit.bits(), concat!(stringify!($ours), ".", stringify!($field)));)*
    };
}

/// Mask and shift against mask and shift.
macro_rules! fields {
    ($ours:ident, $theirs:ident: $($field:ident = $shift:ident $mask:ident),* $(,)?) => {
        $(assert_eq!(($ours::$field.mask, $ours::$field.shift), ($theirs::$mask, $theirs::$shift as usize), stringify!($field));)*
    };
}

/// Mask and shift against a bit range.
macro_rules! ranges {
    ($ours:ident: $($field:ident = $high:literal:$low:literal),* $(,)?) => {
        $(assert_eq!(($ours::$field.mask, $ours::$field.shift), ((1 << ($high - $low + 1)) - 1, $low), stringify!($field));)*
    };
}

#[test]
fn ich_vmcr_el2() {
    bits!(ICH_VMCR_EL2, IchVmcrEl2: VENG0 = VENG0, VENG1 = VENG1, VAckCtl = VACKCTL, VFIQEn = VFIQEN, VCBPR = VCBPR, VEOIM = VEOIM);
    fields!(ICH_VMCR_EL2, IchVmcrEl2: VBPR1 = VBPR1_SHIFT VBPR1_MASK, VBPR0 = VBPR0_SHIFT VBPR0_MASK);
    ranges!(ICH_VMCR_EL2: VPMR = 31:24);
}

#[test]
fn ich_hcr_el2() {
    bits!(ICH_HCR_EL2, IchHcrEl2:
        En = EN, UIE = UIE, LRENPIE = LRENPIE, NPIE = NPIE, VGrp0EIE = VGRP0EIE, VGrp0DIE = VGRP0DIE, VGrp1EIE = VGRP1EIE,
        VGrp1DIE = VGRP1DIE, vSGIEOICount = VSGIEOICOUNT, TC = TC, TALL0 = TALL0, TALL1 = TALL1, TSEI = TSEI, TDIR = TDIR, DVIM = DVIM);
    fields!(ICH_HCR_EL2, IchHcrEl2: EOIcount = EOICOUNT_SHIFT EOICOUNT_MASK);
}

#[test]
fn icc_ctlr_el1() {
    bits!(ICC_CTLR_EL1, IccCtlrEl1:
        CBPR = CBPR, EOImode = EOIMODE, PMHE = PMHE, SEIS = SEIS, A3V = A3V, RSS = RSS, ExtRange = EXTRANGE);
    fields!(ICC_CTLR_EL1, IccCtlrEl1: PRIbits = PRIBITS_SHIFT PRIBITS_MASK, IDbits = IDBITS_SHIFT IDBITS_MASK);
}

#[test]
fn icc_sgi1r_el1() {
    bits!(ICC_SGI1R_EL1, IccSgi1r: IRM = IRM);
    fields!(ICC_SGI1R_EL1, IccSgi1r:
        TargetList = TARGETLIST_SHIFT TARGETLIST_MASK, Aff1 = AFF1_SHIFT AFF1_MASK, INTID = INTID_SHIFT INTID_MASK,
        Aff2 = AFF2_SHIFT AFF2_MASK, RS = RS_SHIFT RS_MASK, Aff3 = AFF3_SHIFT AFF3_MASK);
}

#[test]
fn ich_vtr_el2() {
    ranges!(ICH_VTR_EL2:
        ListRegs = 4:0, TDS = 19:19, nV4 = 20:20, A3V = 21:21, SEIS = 22:22, IDbits = 25:23, PREbits = 28:26, PRIbits = 31:29);
}

#[test]
fn ich_lr_el2() {
    ranges!(ICH_LR_EL2:
        vINTID = 31:0, pINTID = 44:32, EOI = 41:41, Priority = 55:48, Group = 60:60, HW = 61:61, State = 63:62);
}
