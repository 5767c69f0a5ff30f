//! The CPU interface in EL2's hands: a vCPU's saved registers, those that trap while `ICH_HCR_EL2.TC` is set, and `ICH_HCR_EL2`.

use super::Ich;
use super::ctlr::CtlrView;
use super::vmcr::Vmcr;
use crate::regs::gic::ICH_HCR_EL2;
use tock_registers::fields::FieldValue;

/// The CPU-interface state of one vCPU that is in no list register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuIf {
    /// `ICH_VMCR_EL2`.
    pub vmcr: Vmcr,
    /// `ICH_AP0R<n>_EL2`: active priorities of group 0.
    pub ap0r: [u32; 4],
    /// `ICH_AP1R<n>_EL2`: active priorities of group 1.
    pub ap1r: [u32; 4],
    /// What the guest's `ICC_CTLR_EL1` shows besides CBPR and EOImode.
    pub view: CtlrView,
    /// Whether the vCPU has run: its view is fixed from then on.
    pub has_run: bool,
}

impl CpuIf {
    /// A CPU interface as CPU_ON gives it.
    #[must_use]
    pub fn new(view: CtlrView) -> Self {
        Self {
            vmcr: Vmcr::reset(&view),
            ap0r: [0; 4],
            ap1r: [0; 4],
            view,
            has_run: false,
        }
    }

    /// `ICC_CTLR_EL1`.
    #[must_use]
    pub fn ctlr(&self) -> u64 {
        self.view.ctlr(self.vmcr)
    }
}

/// `ICC_RPR_EL1`: the running priority, 0xFF when nothing is active. A trapped read while TC is set.
#[must_use]
#[inline(never)]
pub fn running_priority(view: &CtlrView, ap0r: &[u32; 4], ap1r: &[u32; 4]) -> u64 {
    let shift = 8 - view.pre_bits().clamp(5, 7);
    let mut level = 0;
    for (group0, group1) in ap0r.iter().zip(ap1r) {
        let active = group0 | group1;
        if active != 0 {
            return u64::from((level + active.trailing_zeros()) << shift) & 0xFF;
        }
        level += 32;
    }
    0xFF
}

/// Why a vCPU's common CPU-interface registers trap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trapping {
    /// From CPU_ON until an exit finds group 1 enabled ([`window_closed`]).
    pub coming_up: bool,
    /// The VM asked for it.
    pub strict: bool,
    /// The host narrowed the vCPU's view ([`CtlrView::narrowed`]).
    pub narrowed: bool,
}

impl Trapping {
    /// Whether `ICH_HCR_EL2.TC` is set.
    #[must_use]
    pub const fn tc(self) -> bool {
        self.coming_up || self.strict || self.narrowed
    }
}

/// What did not fit into the list registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spill {
    /// Pending interrupts that wait for a list register, one bit each: INTIDs 0 to 31, and the SPIs that the vCPU holds.
    pub pending: u64,
    /// Active interrupts without a list register, likewise.
    pub active: u64,
    /// Pending SPIs wait in the distributor: the vCPU holds as many as it can.
    pub more: bool,
}

impl Spill {
    /// Whether anything was left out.
    #[must_use]
    pub const fn any(self) -> bool {
        self.more || self.pending | self.active != 0
    }
}

/// Whether the window in which a vCPU's bring-up is trapped is over: the guest has enabled group 1, so its set-up is done.
#[must_use]
pub fn window_closed(vmcr: Vmcr) -> bool {
    vmcr.igrpen1() != 0
}

/// `ICH_HCR_EL2`, EOIcount zero.
///
/// * TC as [`Trapping`] says.
/// * NPIE while a pending interrupt is spilled: the next one goes in when the guest has taken those that are there. Whoever
///   spills keeps at least one list register pending, or this would fire at once and for ever. The guest may also turn a group on
///   or off (`vmcr` is `ICH_VMCR_EL2` as of the spill), and what matters most changes with it: VGrp0EIE and its three siblings.
/// * UIE while anything is spilled. With a single list register it would always fire, so not there.
/// * TDIR while an active interrupt is spilled: the guest's DIR finds no list register and EOIcount would not say which INTID.
///   With EOImode 1 also while `spis` are in use: one that another vCPU took, or a write made active, may be deactivated here.
///   Where TDIR does nothing ([`Ich::tdir`]), TC, which traps DIR with the rest.
/// * LRENPIE besides, with EOImode 0: its EOIR deactivates too, and what it deactivates may be due again.
#[must_use]
#[inline]
pub fn hcr_for(trapping: Trapping, spill: Spill, spis: bool, vmcr: Vmcr, h: &impl Ich) -> u64 {
    let mut hcr = ICH_HCR_EL2::En::SET;
    if trapping.tc() {
        hcr += ICH_HCR_EL2::TC::SET;
    }
    if spill.any() {
        hcr += maintenance(spill, vmcr, h.count());
    }
    if spill.active != 0 || spis && vmcr.splits_eoi() {
        hcr += if h.tdir() { ICH_HCR_EL2::TDIR::SET } else { ICH_HCR_EL2::TC::SET };
    }
    hcr.value
}

/// What [`hcr_for`] asks for while something is spilled.
#[inline(never)]
fn maintenance(spill: Spill, vmcr: Vmcr, list_registers: usize) -> FieldValue<u64, ICH_HCR_EL2::Register> {
    let mut hcr = ICH_HCR_EL2::En::SET;
    if spill.more || spill.pending != 0 {
        hcr += ICH_HCR_EL2::NPIE::SET;
        hcr += if vmcr.igrpen0() != 0 {
            ICH_HCR_EL2::VGrp0DIE::SET
        } else {
            ICH_HCR_EL2::VGrp0EIE::SET
        };
        hcr += if vmcr.igrpen1() != 0 {
            ICH_HCR_EL2::VGrp1DIE::SET
        } else {
            ICH_HCR_EL2::VGrp1EIE::SET
        };
    }
    if list_registers > 1 {
        hcr += ICH_HCR_EL2::UIE::SET;
    }
    if spill.active != 0 && !vmcr.splits_eoi() {
        hcr += ICH_HCR_EL2::LRENPIE::SET;
    }
    hcr
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::fake::{FakeIch, Kind};
    use super::*;

    fn view(vtr: u64) -> CtlrView {
        CtlrView::new(vtr, 0)
    }

    #[test]
    fn running_priority_is_the_highest_active_of_both_groups() {
        let five = view(0x90b8_0003);
        assert_eq!(running_priority(&five, &[0; 4], &[0; 4]), 0xff);
        assert_eq!(running_priority(&five, &[1 << 20, 0, 0, 0], &[1 << 4 | 1 << 30, 0, 0, 0]), 0x20);
        let seven = view(6 << 29 | 6 << 26);
        assert_eq!(running_priority(&seven, &[0, 0, 0, 0], &[0, 0, 1, 0]), 0x80);
        assert_eq!(running_priority(&seven, &[0, 0, 0, 1 << 31], &[0; 4]), 0xfe);
    }

    #[test]
    fn tc_is_on_while_coming_up_in_strict_mode_and_for_a_narrowed_view() {
        let none = Trapping::default();
        assert_eq!(hcr_for(none, Spill::default(), false, Vmcr::new(0), &FakeIch::new(4)), 1);
        for trapping in [
            Trapping { coming_up: true, ..none },
            Trapping { strict: true, ..none },
            Trapping { narrowed: true, ..none },
        ] {
            assert_eq!(
                hcr_for(trapping, Spill::default(), false, Vmcr::new(0), &FakeIch::new(4)),
                1 << 10 | 1
            );
        }
    }

    #[test]
    fn maintenance_is_asked_for_only_while_something_is_spilled() {
        let hcr = |pending, active, vmcr, lrs| {
            hcr_for(
                Trapping::default(),
                Spill {
                    pending,
                    active,
                    more: false,
                },
                false,
                Vmcr::new(vmcr),
                &FakeIch::new(lrs),
            )
        };
        let (en, uie, lrenpie, npie, tdir) = (1, 1 << 1, 1 << 2, 1 << 3, 1 << 14);
        assert_eq!(hcr(1, 0, 0, 4), en | uie | npie | 1 << 4 | 1 << 6);
        assert_eq!(hcr(1, 0, 3, 4), en | uie | npie | 1 << 5 | 1 << 7);
        assert_eq!(hcr(0, 1, 0, 4), en | uie | lrenpie | tdir);
        assert_eq!(hcr(0, 1, 1 << 9, 4), en | uie | tdir);
        assert_eq!(hcr(1, 1, 2, 1), en | npie | 1 << 4 | 1 << 7 | lrenpie | tdir);
    }

    #[test]
    fn deactivation_by_intid_traps_wherever_it_can() {
        let hcr = |kind, spis, vmcr| {
            let mut h = FakeIch::new(4);
            h.kind = kind;
            hcr_for(Trapping::default(), Spill::default(), spis, Vmcr::new(vmcr), &h)
        };
        let splits = 1 << 9;
        assert_eq!(hcr(Kind::ARM, true, splits), 1 << 14 | 1);
        assert_eq!(hcr(Kind::EARLY, true, splits), 1 << 10 | 1);
        for kind in Kind::ALL {
            assert_eq!(hcr(kind, true, 0), 1);
            assert_eq!(hcr(kind, false, splits), 1);
        }
    }

    #[test]
    fn window_closes_when_group_1_is_enabled() {
        let reset = Vmcr::reset(&view(0x90b8_0003));
        assert!(!window_closed(reset));
        assert!(!window_closed(reset.with_igrpen0(1)));
        assert!(window_closed(reset.with_igrpen1(1)));
    }
}
