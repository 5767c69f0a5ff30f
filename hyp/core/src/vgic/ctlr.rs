//! `ICC_CTLR_EL1` as the guest sees it, and as the host must: one function makes both.
//!
//! The guest reads the register untrapped, so hardware decides its value: PRIbits, IDbits, SEIS and A3V come from
//! `ICH_VTR_EL2`; RSS and ExtRange, which `ICH_VTR_EL2` lacks, are those of the physical register; CBPR and EOImode live in
//! `ICH_VMCR_EL2`. PMHE reads 0 in a virtual interface.

use super::vmcr::Vmcr;
use crate::regs::gic::{CtlrValue, ICC_CTLR_EL1, ICH_VMCR_EL2, ICH_VTR_EL2, VtrValue};
use hyp_abi::errno::Errno;

/// Every bit that can be set in a guest's `ICC_CTLR_EL1`.
pub const GUEST_MASK: u64 = 0x000C_FF03;

const PRI: u64 = ICC_CTLR_EL1::PRIbits::SET.value;
const ID: u64 = ICC_CTLR_EL1::IDbits::SET.value;
const EXACT: u64 = ICC_CTLR_EL1::SEIS::SET.value | ICC_CTLR_EL1::A3V::SET.value;
const AT_MOST: u64 = ICC_CTLR_EL1::RSS::SET.value | ICC_CTLR_EL1::ExtRange::SET.value;
const GUEST_WRITES: u64 = ICC_CTLR_EL1::CBPR::SET.value | ICC_CTLR_EL1::EOImode::SET.value;

/// The fields of one vCPU's `ICC_CTLR_EL1` that no guest write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtlrView {
    hardware: u32,
    fixed: u32,
    pre_bits: u8,
    list_registers: u8,
}

impl CtlrView {
    /// The view that this machine's hardware gives: `vtr` is `ICH_VTR_EL2`, `icc_ctlr` the physical `ICC_CTLR_EL1` read at EL2.
    #[must_use]
    pub fn new(vtr: u64, icc_ctlr: u64) -> Self {
        let vtr = VtrValue::new(vtr);
        let mut fixed = CtlrValue::new(icc_ctlr & AT_MOST);
        fixed.modify(
            ICC_CTLR_EL1::PRIbits.val(vtr.read(ICH_VTR_EL2::PRIbits))
                + ICC_CTLR_EL1::IDbits.val(vtr.read(ICH_VTR_EL2::IDbits))
                + ICC_CTLR_EL1::SEIS.val(vtr.read(ICH_VTR_EL2::SEIS))
                + ICC_CTLR_EL1::A3V.val(vtr.read(ICH_VTR_EL2::A3V)),
        );
        Self {
            hardware: fixed.get() as u32,
            fixed: fixed.get() as u32,
            pre_bits: vtr.read(ICH_VTR_EL2::PREbits) as u8 + 1,
            list_registers: vtr.read(ICH_VTR_EL2::ListRegs) as u8 + 1,
        }
    }

    /// `ICC_CTLR_EL1` of a vCPU whose `ICH_VMCR_EL2` is `vmcr`: what the guest reads, the host reads, and a trapped read gives.
    #[must_use]
    pub fn ctlr(&self, vmcr: Vmcr) -> u64 {
        u64::from(self.fixed)
            | ICC_CTLR_EL1::CBPR.val(u64::from(vmcr.cbpr())).value
            | ICC_CTLR_EL1::EOImode.val(u64::from(vmcr.splits_eoi())).value
    }

    /// A guest's write of `value`: CBPR and EOImode take it, everything else is read-only or RES0.
    #[must_use]
    pub fn apply_write(&self, vmcr: Vmcr, value: u64) -> Vmcr {
        let value = CtlrValue::new(value & GUEST_WRITES);
        vmcr.with(ICH_VMCR_EL2::VCBPR.val(value.read(ICC_CTLR_EL1::CBPR)) + ICH_VMCR_EL2::VEOIM.val(value.read(ICC_CTLR_EL1::EOImode)))
    }

    /// The host's write of `value`, checked whole before anything changes: the new view and `ICH_VMCR_EL2`.
    ///
    /// PRIbits and IDbits may be at most the hardware's; smaller ones narrow the vCPU, once only, before it first ran
    /// (`has_run`). SEIS and A3V must be the hardware's. RSS and ExtRange are facts of the hardware: a value may leave them out,
    /// as KVM's values do, but not claim them. Other bits are RES0 and ignored, as KVM ignores them.
    ///
    /// # Errors
    /// [`Errno::Invalid`] when a field cannot be had, or bits 63:32 are not zero. Nothing has changed then.
    pub fn host_write(&self, vmcr: Vmcr, value: u64, has_run: bool) -> Result<(Self, Vmcr), Errno> {
        let hardware = u64::from(self.hardware);
        let too_large = value >> 32 != 0 || value & PRI > hardware & PRI || value & ID > hardware & ID || value & AT_MOST & !hardware != 0;
        let differs = value & EXACT != hardware & EXACT;
        let fixed = (hardware & !(PRI | ID) | value & (PRI | ID)) as u32;
        if too_large || differs || (has_run && fixed != self.fixed) {
            return Err(Errno::Invalid);
        }
        Ok((Self { fixed, ..*self }, self.apply_write(vmcr, value)))
    }

    /// `ICC_CTLR_EL1` after reset.
    #[must_use]
    pub fn reset_value(&self) -> u64 {
        self.ctlr(Vmcr::reset(self))
    }

    /// Whether the host gave this vCPU fewer bits than the hardware has: it then keeps `ICH_HCR_EL2.TC` for life, or the guest
    /// would read the hardware's.
    #[must_use]
    pub const fn narrowed(&self) -> bool {
        self.fixed != self.hardware
    }

    /// How many list registers each vCPU has, 1 to 16.
    #[must_use]
    pub const fn list_registers(&self) -> usize {
        if self.list_registers > 16 {
            16
        } else {
            self.list_registers as usize
        }
    }

    /// Virtual preemption bits: what the binary points and the active-priority registers go by.
    #[must_use]
    pub const fn pre_bits(&self) -> u32 {
        self.pre_bits as u32
    }

    /// Virtual priority bits of this vCPU.
    #[must_use]
    pub const fn pri_bits(&self) -> u32 {
        ((self.fixed as u64 & PRI) >> 8) as u32 + 1
    }

    /// The bits of a priority that the hardware's virtual interface implements.
    #[must_use]
    pub const fn priority_mask(&self) -> u64 {
        let bits = ((self.hardware as u64 & PRI) >> 8) as u32 + 1;
        (0xFF00 >> bits) & 0xFF
    }

    /// Whether SGIs may name an affinity 0 above 15 (`GICD_TYPER.RSS` says the same).
    #[must_use]
    pub const fn rss(&self) -> bool {
        self.fixed as u64 & ICC_CTLR_EL1::RSS::SET.value != 0
    }

    /// Whether affinity 3 may be non-zero (`GICD_TYPER.A3V` says the same).
    #[must_use]
    pub const fn a3v(&self) -> bool {
        self.fixed as u64 & ICC_CTLR_EL1::A3V::SET.value != 0
    }

    /// How many `ICH_AP0R<n>_EL2` and `ICH_AP1R<n>_EL2` the hardware has: 1, 2 or 4. Others are UNDEFINED, at EL2 too.
    #[must_use]
    pub const fn apr_count(&self) -> usize {
        apr_count(self.pre_bits())
    }

    /// How many of them the host may get and set: KVM counts by the vCPU's priority bits.
    #[must_use]
    pub const fn apr_attributes(&self) -> usize {
        let bits = if self.pri_bits() < self.pre_bits() {
            self.pri_bits()
        } else {
            self.pre_bits()
        };
        apr_count(bits)
    }
}

/// How many `ICC_AP1R<n>_EL1` a PE has whose physical `ICC_CTLR_EL1` is `ctlr`: 1, 2 or 4. Others are UNDEFINED.
#[must_use]
pub fn physical_apr_count(ctlr: u64) -> usize {
    // Of 8 priority bits 7 are for preemption, of fewer all.
    apr_count(CtlrValue::new(ctlr).read(ICC_CTLR_EL1::PRIbits) as u32 + 1)
}

const fn apr_count(bits: u32) -> usize {
    match bits {
        0..=5 => 1,
        6 => 2,
        _ => 4,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// QEMU's `ICH_VTR_EL2`: 4 list registers, 5 bits, A3V, 24-bit INTIDs.
    const QEMU_VTR: u64 = 0x90b8_0003;

    fn qemu() -> CtlrView {
        CtlrView::new(QEMU_VTR, 0)
    }

    #[test]
    fn mask_holds_every_field_of_the_guests_view() {
        let all = GUEST_WRITES | PRI | ID | EXACT | AT_MOST;
        assert_eq!(all, GUEST_MASK);
    }

    #[test]
    fn reset_value_is_what_qemu_shows_a_guest() {
        assert_eq!(qemu().reset_value(), 0x8c00);
    }

    #[test]
    fn rss_and_extrange_come_from_the_physical_register() {
        let view = CtlrView::new(QEMU_VTR, u64::MAX);
        assert_eq!(view.reset_value(), 0x000c_8c00);
        assert!(view.rss());
        assert!(!view.narrowed());
    }

    #[test]
    fn guest_write_of_pmhe_reads_back_zero() {
        let view = qemu();
        let vmcr = view.apply_write(Vmcr::reset(&view), 0x43);
        assert_eq!(view.ctlr(vmcr), 0x8c03);
        assert_eq!(vmcr.get(), 0x004c_0218);
    }

    #[test]
    fn smaller_fields_narrow_before_the_first_run_only() {
        let view = qemu();
        let vmcr = Vmcr::reset(&view);
        let (narrow, _) = view.host_write(vmcr, 0x8000, false).expect("narrowing");
        assert!(narrow.narrowed());
        assert_eq!(narrow.ctlr(vmcr), 0x8000);
        assert_eq!(view.host_write(vmcr, 0x8000, true), Err(Errno::Invalid));
        assert_eq!(narrow.host_write(vmcr, 0x8001, true).map(|(v, m)| v.ctlr(m)), Ok(0x8001));
        let (wide, _) = narrow.host_write(vmcr, 0x8c00, false).expect("widening back");
        assert!(!wide.narrowed());
    }

    #[test]
    fn larger_or_different_fields_are_invalid() {
        let view = qemu();
        let vmcr = Vmcr::reset(&view);
        for bad in [0x8d00, 0x9400, 0xcc00, 0x0c00, 0x4_8c00, 0x8_8c00, 1 << 32 | 0x8c00] {
            assert_eq!(view.host_write(vmcr, bad, false), Err(Errno::Invalid), "{bad:#x}");
        }
    }

    #[test]
    fn sizes_follow_ich_vtr() {
        let view = qemu();
        assert_eq!(
            (view.list_registers(), view.pre_bits(), view.pri_bits(), view.apr_count()),
            (4, 5, 5, 1)
        );
        assert_eq!(view.priority_mask(), 0xf8);
        let large = CtlrView::new(6 << 29 | 6 << 26 | 31, 0);
        assert_eq!(
            (large.list_registers(), large.pre_bits(), large.apr_count(), large.priority_mask()),
            (16, 7, 4, 0xfe)
        );
    }

    #[test]
    fn as_many_registers_hold_active_priorities_as_there_are_bits_for() {
        // A bit for each level: PRIbits is one less than the bits that levels have.
        for (pri_bits, registers) in [(3, 1), (4, 1), (5, 2), (6, 4), (7, 4)] {
            assert_eq!(physical_apr_count(pri_bits << 8), registers);
            assert_eq!(physical_apr_count(!(7 << 8) | pri_bits << 8), registers);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn ctlr_round_trips_through_vmcr(vtr: u64, physical: u64, vmcr: u64, value: u64) {
            let view = CtlrView::new(vtr, physical);
            let before = Vmcr::new(vmcr);
            let after = view.apply_write(before, value);
            let read = view.ctlr(after);
            prop_assert_eq!(read & 3, value & 3);
            prop_assert_eq!(read & !3, view.reset_value() & !3);
            prop_assert_eq!(read & !GUEST_MASK, 0);
            prop_assert_eq!(view.apply_write(after, read), after);
            prop_assert_eq!((after.get() ^ vmcr) & !0x210, 0);
        }

        #[test]
        fn what_the_host_reads_it_may_write_back(vtr: u64, physical: u64, vmcr: u64, ran: bool) {
            let view = CtlrView::new(vtr, physical);
            let vmcr = Vmcr::new(vmcr);
            prop_assert_eq!(view.host_write(vmcr, view.ctlr(vmcr), ran), Ok((view, vmcr)));
        }
    }
}
