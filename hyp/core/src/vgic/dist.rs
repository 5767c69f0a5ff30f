//! The distributor: what `GICD_*` reads and writes as. One per VM, shared by its vCPUs without a lock.
//!
//! SGIs and PPIs are the redistributors', so what is here is the identity and `GICD_CTLR`. A VM has no SPIs yet: their
//! registers are RAZ/WI and `GICD_TYPER.ITLinesNumber` is 0, which is how the architecture says so.

use super::ctlr::CtlrView;
use super::redist::{Effect, id_register};
use crate::sync::{AtomicU32, Ordering};

/// `GICD_CTLR`.
pub const CTLR: u64 = 0x0000;
/// `GICD_TYPER`.
pub const TYPER: u64 = 0x0004;
/// `GICD_IIDR`.
pub const IIDR: u64 = 0x0008;
/// `GICD_TYPER2`.
pub const TYPER2: u64 = 0x000C;

/// `GICD_CTLR`: EnableGrp0 and EnableGrp1.
const ENABLES: u32 = 0b11;
/// `GICD_CTLR`: ARE and DS, both fixed at 1. RWP is 0: a write has taken effect when it returns.
const FIXED: u32 = 1 << 4 | 1 << 6;

/// `GICD_TYPER`, `GICR_IIDR`'s value: product 0x55, revision 0, and the designer of the architecture it implements.
pub const IIDR_VALUE: u32 = 0x5500_043B;

/// A VM's distributor.
#[derive(Debug)]
pub struct Dist {
    enables: AtomicU32,
    typer: u32,
}

impl Dist {
    /// A distributor as after reset, for vCPUs that all see `view`.
    #[must_use]
    pub fn new(view: &CtlrView) -> Self {
        // IDbits is 9, INTIDs of 10 bits: there are no LPIs.
        let typer = 9 << 19 | u32::from(view.a3v()) << 24 | u32::from(view.rss()) << 26;
        Self {
            enables: AtomicU32::new(0),
            typer,
        }
    }

    /// Back to the state after reset.
    pub fn reset(&self) {
        self.enables.store(0, Ordering::Release);
    }

    /// Bit 0: group 0 is forwarded; bit 1: group 1 is.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.enables.load(Ordering::Acquire)
    }

    /// The INTIDs whose group is forwarded, given which of them are in group 1.
    #[must_use]
    pub fn forwarded(&self, group1: u32) -> u32 {
        let enables = self.groups();
        let zero = if enables & 1 != 0 { !group1 } else { 0 };
        let one = if enables & 2 != 0 { group1 } else { 0 };
        zero | one
    }

    /// A guest's read of `size` bytes at `offset` of the frame. What does not exist reads as zero, so does a wrong size.
    #[must_use]
    pub fn read(&self, offset: u64, size: u64) -> u64 {
        if size != 4 || offset & 3 != 0 {
            return 0;
        }
        u64::from(match offset {
            CTLR => FIXED | self.groups(),
            TYPER => self.typer,
            IIDR => IIDR_VALUE,
            _ => id_register(offset, 0x92),
        })
    }

    /// A guest's write of `size` bytes at `offset`. What does not exist, cannot be written or has a wrong size is ignored.
    pub fn write(&self, offset: u64, size: u64, value: u64) -> Effect {
        if size != 4 || offset != CTLR {
            return Effect::None;
        }
        let enables = value as u32 & ENABLES;
        let before = self.enables.swap(enables, Ordering::AcqRel);
        if before == enables { Effect::None } else { Effect::RefreshVm }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn dist() -> Dist {
        Dist::new(&CtlrView::new(0x90b8_0003, 0x000c_0000))
    }

    #[test]
    fn identity_is_a_gicv3_with_one_security_state_and_no_spis() {
        let dist = dist();
        assert_eq!(dist.read(CTLR, 4), 0x50);
        assert_eq!(dist.read(TYPER, 4), 9 << 19 | 1 << 24 | 1 << 26);
        assert_eq!(dist.read(IIDR, 4), 0x5500_043b);
        assert_eq!(dist.read(TYPER2, 4), 0);
        assert_eq!(dist.read(0xffe8, 4), 0x3b);
    }

    #[test]
    fn affinity_routing_and_ds_cannot_be_turned_off() {
        let dist = dist();
        assert_eq!(dist.write(CTLR, 4, 0x8000_0083), Effect::RefreshVm);
        assert_eq!(dist.read(CTLR, 4), 0x53);
        assert_eq!(dist.write(CTLR, 4, 3), Effect::None);
        assert_eq!(dist.write(CTLR, 4, 0), Effect::RefreshVm);
        assert_eq!(dist.read(CTLR, 4), 0x50);
    }

    #[test]
    fn a_group_is_forwarded_while_its_enable_is_set() {
        let dist = dist();
        for (ctlr, forwarded) in [(0, 0), (1, !0xf0), (2, 0xf0), (3, u32::MAX)] {
            let _ = dist.write(CTLR, 4, ctlr);
            assert_eq!(dist.forwarded(0xf0), forwarded);
        }
        dist.reset();
        assert_eq!(dist.groups(), 0);
    }

    #[test]
    fn every_offset_at_every_size_has_a_defined_result() {
        let dist = dist();
        for size in [1, 2, 4, 8] {
            // Two bytes past the frame's end as well.
            for offset in (0..0x1_0002u64).step_by(if cfg!(miri) { 211 } else { 1 }) {
                let known = matches!(offset, CTLR | TYPER | IIDR) || (0xffd0..0x1_0000).contains(&offset);
                let read = dist.read(offset, size);
                if size != 4 || offset % 4 != 0 || !known {
                    assert_eq!(read, 0, "{offset:#x} size {size}");
                }
                let effect = dist.write(offset, size, u64::MAX);
                assert_eq!(effect == Effect::RefreshVm, size == 4 && offset == CTLR, "{offset:#x} size {size}");
                if effect != Effect::None {
                    dist.reset();
                }
                assert_eq!(dist.read(offset, size), read, "{offset:#x} size {size} keeps what it read");
            }
        }
    }
}
