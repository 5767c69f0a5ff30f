//! `ICH_VMCR_EL2` and the CPU-interface registers that live in it.
//!
//! Each getter gives what the guest reads in the register of that name; each setter does what a write by the guest does, so a
//! value set by the host is a value the guest could have made.

use super::Group;
use super::ctlr::CtlrView;
use crate::regs::gic::{ICH_VMCR_EL2, VmcrValue};
use tock_registers::fields::{Field, FieldValue};

/// An image of `ICH_VMCR_EL2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vmcr(u64);

/// The least value of `ICC_BPR0_EL1`: with fewer preemption bits there is less to split.
const fn least_bpr0(view: &CtlrView) -> u64 {
    (7 - if view.pre_bits() > 7 { 7 } else { view.pre_bits() }) as u64
}

impl Vmcr {
    /// The image `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The image as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    fn read(self, field: Field<u64, ICH_VMCR_EL2::Register>) -> u64 {
        VmcrValue::new(self.0).read(field)
    }

    pub(super) fn with(self, fields: FieldValue<u64, ICH_VMCR_EL2::Register>) -> Self {
        let mut image = VmcrValue::new(self.0);
        image.modify(fields);
        Self(image.get())
    }

    /// What CPU_ON gives: both groups off, priority mask 0, binary points at their least, CBPR and EOImode 0.
    #[must_use]
    pub fn reset(view: &CtlrView) -> Self {
        Self(0).legal(view)
    }

    /// This image as hardware would hold it: RES0 bits clear, VFIQEn set, binary points not below their least.
    #[must_use]
    pub fn legal(self, view: &CtlrView) -> Self {
        let least = least_bpr0(view);
        let kept = ICH_VMCR_EL2::VENG0::SET
            + ICH_VMCR_EL2::VENG1::SET
            + ICH_VMCR_EL2::VCBPR::SET
            + ICH_VMCR_EL2::VEOIM::SET
            + ICH_VMCR_EL2::VPMR::SET;
        Self(self.0 & kept.value).with(
            ICH_VMCR_EL2::VFIQEn::SET
                + ICH_VMCR_EL2::VBPR0.val(self.read(ICH_VMCR_EL2::VBPR0).max(least))
                + ICH_VMCR_EL2::VBPR1.val(self.read(ICH_VMCR_EL2::VBPR1).max(least + 1)),
        )
    }

    /// `ICC_PMR_EL1`.
    #[must_use]
    pub fn pmr(self) -> u64 {
        self.read(ICH_VMCR_EL2::VPMR)
    }

    /// Writes `ICC_PMR_EL1`; priority bits that are not implemented read back 0.
    #[must_use]
    pub fn with_pmr(self, view: &CtlrView, value: u64) -> Self {
        self.with(ICH_VMCR_EL2::VPMR.val(value & view.priority_mask()))
    }

    /// `ICC_BPR0_EL1`.
    #[must_use]
    pub fn bpr0(self) -> u64 {
        self.read(ICH_VMCR_EL2::VBPR0)
    }

    /// Writes `ICC_BPR0_EL1`; a value below the least becomes the least.
    #[must_use]
    pub fn with_bpr0(self, view: &CtlrView, value: u64) -> Self {
        self.with(ICH_VMCR_EL2::VBPR0.val((value & 7).max(least_bpr0(view))))
    }

    /// `ICC_BPR1_EL1`. While CBPR is 1 it is `ICC_BPR0_EL1` plus one, at most 7.
    #[must_use]
    pub fn bpr1(self) -> u64 {
        if self.cbpr() {
            (self.bpr0() + 1).min(7)
        } else {
            self.read(ICH_VMCR_EL2::VBPR1)
        }
    }

    /// Writes `ICC_BPR1_EL1`; ignored while CBPR is 1.
    #[must_use]
    pub fn with_bpr1(self, view: &CtlrView, value: u64) -> Self {
        if self.cbpr() {
            self
        } else {
            self.with(ICH_VMCR_EL2::VBPR1.val((value & 7).max(least_bpr0(view) + 1)))
        }
    }

    /// `ICC_IGRPEN0_EL1`.
    #[must_use]
    pub fn igrpen0(self) -> u64 {
        self.read(ICH_VMCR_EL2::VENG0)
    }

    /// Writes `ICC_IGRPEN0_EL1`.
    #[must_use]
    pub fn with_igrpen0(self, value: u64) -> Self {
        self.with(ICH_VMCR_EL2::VENG0.val(value & 1))
    }

    /// `ICC_IGRPEN1_EL1`.
    #[must_use]
    pub fn igrpen1(self) -> u64 {
        self.read(ICH_VMCR_EL2::VENG1)
    }

    /// Writes `ICC_IGRPEN1_EL1`.
    #[must_use]
    pub fn with_igrpen1(self, value: u64) -> Self {
        self.with(ICH_VMCR_EL2::VENG1.val(value & 1))
    }

    /// `ICC_CTLR_EL1.CBPR`: BPR0 serves both groups.
    #[must_use]
    pub fn cbpr(self) -> bool {
        self.read(ICH_VMCR_EL2::VCBPR) != 0
    }

    /// The bits of a priority of `group` that decide preemption; the binary point splits off the rest.
    #[must_use]
    pub fn preempting(self, group: Group) -> u64 {
        let below = match group {
            Group::Zero => self.bpr0() + 1,
            Group::One if self.cbpr() => self.bpr0() + 1,
            Group::One => self.bpr1(),
        };
        0xFF << below & 0xFF
    }

    /// Whether an interrupt of `group` and this priority is more urgent than the priority mask and than what runs.
    #[must_use]
    pub fn is_urgent(self, priority: u8, group: Group, running: u64) -> bool {
        let priority = u64::from(priority);
        priority < self.pmr() && priority & self.preempting(group) < running
    }

    /// `ICC_CTLR_EL1.EOImode`: EOIR only drops the priority, and DIR deactivates.
    #[must_use]
    pub fn splits_eoi(self) -> bool {
        self.read(ICH_VMCR_EL2::VEOIM) != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn qemu() -> CtlrView {
        CtlrView::new(0x90b8_0003, 0)
    }

    #[test]
    fn zero_reads_back_as_on_hardware() {
        assert_eq!(Vmcr::reset(&qemu()).get(), 0x004c_0008);
    }

    #[test]
    fn all_ones_read_back_as_on_hardware() {
        assert_eq!(Vmcr::new(u64::MAX).legal(&qemu()).get(), 0xfffc_021b);
    }

    #[test]
    fn bpr1_follows_bpr0_while_cbpr_is_one() {
        let view = qemu();
        let split = Vmcr::reset(&view).with_bpr0(&view, 4).with_bpr1(&view, 6);
        assert_eq!((split.bpr0(), split.bpr1()), (4, 6));
        let common = view.apply_write(split, 1);
        assert_eq!(common.bpr1(), 5);
        assert_eq!(common.with_bpr1(&view, 3), common);
        assert_eq!(common.with_bpr0(&view, 7).bpr1(), 7);
        assert_eq!(view.apply_write(common, 0).bpr1(), 6);
    }

    #[test]
    fn binary_points_clamp_to_their_least() {
        let view = qemu();
        let vmcr = Vmcr::reset(&view).with_bpr0(&view, 0).with_bpr1(&view, 0);
        assert_eq!((vmcr.bpr0(), vmcr.bpr1()), (2, 3));
        let seven = CtlrView::new(6 << 29 | 6 << 26, 0);
        let vmcr = Vmcr::reset(&seven);
        assert_eq!((vmcr.bpr0(), vmcr.bpr1()), (0, 1));
    }

    #[test]
    fn priority_mask_keeps_the_implemented_bits() {
        let view = qemu();
        assert_eq!(Vmcr::reset(&view).with_pmr(&view, 0xff).pmr(), 0xf8);
    }
}
