//! A redistributor: one vCPU's SGIs and PPIs, one bit or byte each, and the two frames a guest sees them through.
//!
//! The words here are the state of the interrupts that are in no list register; [`super::lr`] moves the others in and out. Their
//! low halves are INTIDs 0 to 31; the high halves are the SPIs that the vCPU holds, which no register here shows.

use super::dist::{Config, IIDR_VALUE};

/// Offset of `SGI_base` from `RD_base`.
pub const SGI_BASE: u64 = 0x1_0000;

/// `GICR_CTLR`: nothing in it, without LPIs.
pub const CTLR: u64 = 0x0000;
/// `GICR_IIDR`.
pub const IIDR: u64 = 0x0004;
/// `GICR_TYPER`, 64 bits.
pub const TYPER: u64 = 0x0008;
/// `GICR_WAKER`.
pub const WAKER: u64 = 0x0014;
/// `GICR_IGROUPR0`.
pub const IGROUPR0: u64 = SGI_BASE + 0x0080;
/// `GICR_ISENABLER0`.
pub const ISENABLER0: u64 = SGI_BASE + 0x0100;
/// `GICR_ICENABLER0`.
pub const ICENABLER0: u64 = SGI_BASE + 0x0180;
/// `GICR_ISPENDR0`.
pub const ISPENDR0: u64 = SGI_BASE + 0x0200;
/// `GICR_ICPENDR0`.
pub const ICPENDR0: u64 = SGI_BASE + 0x0280;
/// `GICR_ISACTIVER0`.
pub const ISACTIVER0: u64 = SGI_BASE + 0x0300;
/// `GICR_ICACTIVER0`.
pub const ICACTIVER0: u64 = SGI_BASE + 0x0380;
/// `GICR_IPRIORITYR0`, the first of eight.
pub const IPRIORITYR0: u64 = SGI_BASE + 0x0400;
/// The last byte of `GICR_IPRIORITYR7`.
pub const IPRIORITYR_END: u64 = SGI_BASE + 0x041F;

/// SGIs: edge-triggered.
pub(super) const SGIS: u64 = 0x0000_FFFF;
/// `GICR_WAKER`: ProcessorSleep, and ChildrenAsleep that follows it at once.
const ASLEEP: u32 = 1 << 1 | 1 << 2;
/// A priority's implemented bits, in each byte of a word: five, the least that a virtual interface can have.
const PRIORITIES: u32 = 0xF8F8_F8F8;

/// Which redistributor this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The vCPU's index in its VM.
    pub index: usize,
    /// Whether no redistributor follows.
    pub last: bool,
    /// The vCPU's affinity, as in `MPIDR_EL1`.
    pub affinity: u64,
}

/// Pending and active as of now, list registers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// One bit per pending INTID.
    pub pending: u32,
    /// One bit per active INTID.
    pub active: u32,
}

/// The state of a vCPU's interrupts, by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redist {
    typer: u64,
    waker: u32,
    /// Those of group 1.
    pub(super) group: u64,
    pub(super) enabled: u64,
    /// Those that a physical interrupt of the same number stands behind.
    pub(super) hw: u64,
    /// Made pending by an edge or a write and not taken yet.
    pub(super) latch: u64,
    /// Those that a list register holds or held when it was last looked at, and that went in pending. Beside `hw` and `latch`: what is
    /// common reads and writes them together.
    pub(super) shown: u64,
    /// Those of `latch` that a guest's write set: a fallen line does not take them back.
    pub(super) written: u64,
    /// Emulated level lines that are high.
    pub(super) line: u64,
    pub(super) active: u64,
    priority: [u32; 16],
}

impl Redist {
    /// Where `latch` is in it, and `shown` behind that.
    pub(super) const LATCH: usize = {
        let at = core::mem::offset_of!(Self, latch);
        assert!(
            core::mem::offset_of!(Self, shown) == at + 8,
            "the vectors load and store both at once"
        );
        at
    };

    #[inline(always)]
    pub(super) const fn new(id: Identity, hw: u32) -> Self {
        let packed = (id.affinity >> 8) & 0xFF00_0000 | id.affinity & 0x00FF_FFFF;
        let typer = packed << 32 | (id.index as u64 & 0xFFFF) << 8 | (id.last as u64) << 4;
        Self {
            typer,
            waker: ASLEEP,
            group: 0,
            enabled: 0,
            hw: hw as u64,
            latch: 0,
            shown: 0,
            written: 0,
            line: 0,
            active: 0,
            priority: [0; 16],
        }
    }

    /// The priority of an interrupt.
    pub(super) const fn priority(&self, index: u32) -> u8 {
        (self.priority[(index >> 2 & 15) as usize] >> (8 * (index & 3))) as u8
    }

    /// Configures an SPI.
    pub(super) fn set_config(&mut self, index: u32, config: Config) {
        let bit = 1 << (index & 63);
        let set = |word: &mut u64, on: bool| *word = *word & !bit | if on { bit } else { 0 };
        set(&mut self.group, config.group1);
        set(&mut self.enabled, config.enabled);
        set(&mut self.line, config.line);
        let shift = 8 * (index & 3);
        let word = &mut self.priority[(index >> 2 & 15) as usize];
        *word = *word & !(0xFF << shift) | u32::from(config.priority) << shift;
    }

    /// Forgets the interrupts of `indices`.
    pub(super) fn forget(&mut self, indices: u64) {
        for word in [
            &mut self.group,
            &mut self.enabled,
            &mut self.latch,
            &mut self.written,
            &mut self.line,
            &mut self.active,
        ] {
            *word &= !indices;
        }
    }

    /// Pending: latched, or a level line that is high.
    pub(super) const fn pending(&self) -> u64 {
        self.latch | self.line
    }

    /// A guest's read of `size` bytes at `offset`, if that needs nothing but these words: `None` for pending and active state.
    #[inline(always)]
    pub(super) fn read_plain(&self, offset: u64, size: u64) -> Option<u64> {
        match size {
            4 if offset & 3 == 0 => self.read_word(offset),
            8 if offset == TYPER => Some(self.typer),
            1 if (IPRIORITYR0..=IPRIORITYR_END).contains(&offset) => Some(u64::from(self.priority((offset - IPRIORITYR0) as u32))),
            _ => Some(0),
        }
    }

    #[inline(always)]
    fn read_word(&self, offset: u64) -> Option<u64> {
        if offset < SGI_BASE {
            return Some(u64::from(self.read_rd_frame(offset)));
        }
        // Each kind has 32 words; but for the priorities only the first is this vCPU's.
        let (kind, n) = ((offset - SGI_BASE) >> 7, offset >> 2 & 31);
        let value = match kind {
            4..=7 if n == 0 => return None,
            8 if n < 8 => self.priority[n as usize],
            2 | 3 if n == 0 => self.enabled as u32,
            1 if n == 0 => self.group as u32,
            24 if n == 0 => 0xAAAA_AAAA,
            _ => 0,
        };
        Some(u64::from(value))
    }

    #[inline(always)]
    fn read_rd_frame(&self, offset: u64) -> u32 {
        match offset {
            IIDR => IIDR_VALUE,
            TYPER => self.typer as u32,
            0x000C => (self.typer >> 32) as u32,
            WAKER => self.waker,
            _ => id_register(offset, 0x93),
        }
    }

    /// Whether the state at `offset` is pending state; else it is active state.
    #[inline(always)]
    pub(super) const fn is_pending(offset: u64) -> bool {
        offset < ISACTIVER0
    }

    /// A guest's read of pending or active state at `offset`.
    pub(super) const fn read_state(offset: u64, live: Live) -> u64 {
        match offset {
            ISPENDR0 | ICPENDR0 => live.pending as u64,
            _ => live.active as u64,
        }
    }

    /// Whether a write there changes pending or active state, so that nothing may be in a list register meanwhile.
    pub(super) const fn writes_state(offset: u64, size: u64) -> bool {
        size == 4 && matches!(offset, ISPENDR0 | ICPENDR0 | ISACTIVER0 | ICACTIVER0)
    }

    /// A guest's write of `size` bytes at `offset`, but for pending and active state. Gives the INTIDs whose priority, group or enable
    /// changed.
    pub(super) fn write(&mut self, offset: u64, size: u64, value: u64) -> u32 {
        let (offset, value) = match (size, offset) {
            (4, WAKER) => {
                self.waker = if value & 1 << 1 != 0 { ASLEEP } else { 0 };
                return 0;
            }
            (4, _) => (offset, value as u32),
            (1, IPRIORITYR0..=IPRIORITYR_END) => {
                let (word, shift) = (self.priority[(offset - IPRIORITYR0) as usize >> 2 & 7], 8 * (offset & 3));
                (offset & !3, word & !(0xFF << shift) | (value as u32 & 0xFF) << shift)
            }
            _ => return 0,
        };
        self.write_apart(offset, value, 0).unwrap_or(0)
    }

    /// A guest's write of pending or active state.
    pub(super) fn write_state(&mut self, offset: u64, value: u32) {
        let bits = u64::from(value);
        match offset {
            ISPENDR0 => {
                self.latch |= bits;
                self.written |= bits;
            }
            ICPENDR0 => {
                self.latch &= !bits;
                self.written &= !bits;
            }
            ISACTIVER0 => self.active |= bits,
            _ => self.active &= !bits,
        }
    }

    /// A write of a word that sets or clears neither pending nor active state, if it changes nothing of `concerned`. Gives the INTIDs whose
    /// priority, group or enable changed.
    #[inline]
    pub(super) fn write_apart(&mut self, offset: u64, value: u32, concerned: u32) -> Option<u32> {
        let (word, value) = match offset {
            IGROUPR0 => (&mut self.group, value),
            ISENABLER0 => {
                let value = self.enabled as u32 | value;
                (&mut self.enabled, value)
            }
            ICENABLER0 => {
                let value = self.enabled as u32 & !value;
                (&mut self.enabled, value)
            }
            IPRIORITYR0..=IPRIORITYR_END if offset & 3 == 0 => {
                let index = (offset - IPRIORITYR0) as u32 >> 2 & 7;
                let word = &mut self.priority[index as usize];
                let changed = (*word ^ value) & PRIORITIES;
                let intids = differing_bytes(changed) << (4 * index);
                if intids & concerned != 0 {
                    return None;
                }
                *word ^= changed;
                return Some(intids);
            }
            _ => return None,
        };
        let changed = *word as u32 ^ value;
        if changed & concerned != 0 {
            return None;
        }
        *word ^= u64::from(changed);
        Some(changed)
    }
}

/// One bit for each byte of `changed`, differences between priorities, that is not zero.
pub(super) const fn differing_bytes(changed: u32) -> u32 {
    // One bit per byte that differs, gathered into four neighbouring bits.
    let bytes = (changed | changed >> 1 | changed >> 2 | changed >> 3 | changed >> 4) >> 3 & 0x0101_0101;
    bytes.wrapping_mul(0x0102_0408) >> 24 & 0xF
}

/// The component's identification registers, the last 48 bytes of a frame: a GICv3 (`PIDR2.ArchRev` 3) by Arm's part numbers.
#[inline(always)]
pub(super) const fn id_register(offset: u64, part: u32) -> u32 {
    match offset {
        0xFFD0 => 0x44,
        0xFFE0 => part,
        0xFFE4 => 0xB4,
        0xFFE8 => 0x3B,
        0xFFF0 => 0x0D,
        0xFFF4 => 0xF0,
        0xFFF8 => 0x05,
        0xFFFC => 0xB1,
        _ => 0,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::vgic::ctlr::CtlrView;
    use crate::vgic::dist::Dist;
    use crate::vgic::fake::Absent;
    use crate::vgic::lr::VcpuGic;

    fn dist() -> Dist {
        Dist::new(&CtlrView::new(0x90b8_0003, 0))
    }

    fn gic() -> VcpuGic {
        VcpuGic::new(Identity {
            index: 3,
            last: true,
            affinity: 0x01_0000_0203,
        })
    }

    fn read(gic: &VcpuGic, offset: u64, size: u64) -> u64 {
        gic.read(&Absent(()), offset, size)
    }

    fn write(gic: &mut VcpuGic, offset: u64, value: u64) {
        gic.write(&mut Absent(()), &dist(), offset, 4, value);
    }

    #[test]
    fn typer_reads_the_same_as_eight_bytes_and_as_two_halves() {
        let gic = gic();
        let typer = read(&gic, TYPER, 8);
        assert_eq!(typer, 0x0100_0203 << 32 | 3 << 8 | 1 << 4);
        assert_eq!(read(&gic, TYPER, 4) | read(&gic, TYPER + 4, 4) << 32, typer);
    }

    #[test]
    fn waker_sleeps_and_wakes_at_once() {
        let mut gic = gic();
        assert_eq!(read(&gic, WAKER, 4), 6);
        write(&mut gic, WAKER, 0);
        assert_eq!(read(&gic, WAKER, 4), 0);
        write(&mut gic, WAKER, 0xffff_ffff);
        assert_eq!(read(&gic, WAKER, 4), 6);
    }

    #[test]
    fn set_and_clear_registers_are_two_views_of_one_word() {
        for (set, clear) in [(ISENABLER0, ICENABLER0), (ISPENDR0, ICPENDR0), (ISACTIVER0, ICACTIVER0)] {
            let mut gic = gic();
            write(&mut gic, set, 0x8001_0003);
            write(&mut gic, set, 0x4);
            assert_eq!((read(&gic, set, 4), read(&gic, clear, 4)), (0x8001_0007, 0x8001_0007));
            write(&mut gic, clear, 0x8000_0001);
            assert_eq!((read(&gic, set, 4), read(&gic, clear, 4)), (0x0001_0006, 0x0001_0006));
        }
    }

    #[test]
    fn priorities_take_bytes_and_words_and_keep_five_bits() {
        let mut gic = gic();
        write(&mut gic, IPRIORITYR0 + 24, 0xff80_a107);
        assert_eq!(read(&gic, IPRIORITYR0 + 24, 4), 0xf880_a000);
        gic.write(&mut Absent(()), &dist(), IPRIORITYR0 + 27, 1, 0x1234_5678);
        assert_eq!(read(&gic, IPRIORITYR0 + 24, 4), 0x7880_a000);
        assert_eq!(read(&gic, IPRIORITYR0 + 26, 1), 0x80);
        assert_eq!(read(&gic, IPRIORITYR_END - 3, 4), 0);
    }

    #[test]
    fn changed_priorities_name_their_intids() {
        let mut words = Redist::new(
            Identity {
                index: 0,
                last: false,
                affinity: 0,
            },
            0,
        );
        assert_eq!(words.write(IPRIORITYR0 + 8, 4, 0x0800_f800), 0b1010 << 8);
        assert_eq!(words.write(IPRIORITYR0 + 8, 4, 0x1000_f807), 0b1000 << 8);
        assert_eq!(words.write(IPRIORITYR0 + 8, 1, 0x80), 1 << 8);
        assert_eq!(words.write(IPRIORITYR_END, 1, 0xff), 1 << 31);
        for intid in 0..32 {
            for bit in 3..8 {
                let mut words = Redist::new(
                    Identity {
                        index: 0,
                        last: false,
                        affinity: 0,
                    },
                    0,
                );
                assert_eq!(words.write(IPRIORITYR0 + intid, 1, 1 << bit), 1 << intid);
            }
        }
    }

    #[test]
    fn no_register_shows_anything_of_the_spis_that_the_vcpu_holds() {
        let id = Identity {
            index: 0,
            last: false,
            affinity: 0,
        };
        let (fresh, mut holds) = (Redist::new(id, 0), Redist::new(id, 0));
        for index in 32..64 {
            let config = Config {
                priority: 0xF8,
                group1: true,
                enabled: true,
                line: true,
            };
            holds.set_config(index, config);
            assert_eq!(holds.priority(index), 0xF8);
        }
        for size in [1, 4, 8] {
            for offset in (0..0x2_0000).step_by(if cfg!(miri) { 211 } else { 1 }) {
                assert_eq!(
                    holds.read_plain(offset, size),
                    fresh.read_plain(offset, size),
                    "{offset:#x} size {size}"
                );
            }
        }
    }

    /// What a register reads after all ones were written to it, and whether it can be written. `None`: no such register.
    fn expected(offset: u64) -> Option<(u32, bool)> {
        Some(match offset {
            0x0004 => (0x5500_043b, false),
            0x0008 => (0x310, false),
            0x000c => (0x0100_0203, false),
            0x0014 => (6, true),
            0xffd0 => (0x44, false),
            0xffe0 => (0x93, false),
            0xffe4 => (0xb4, false),
            0xffe8 => (0x3b, false),
            0xfff0 => (0x0d, false),
            0xfff4 => (0xf0, false),
            0xfff8 => (0x05, false),
            0xfffc => (0xb1, false),
            0x1_0080 => (0xffff_ffff, true),
            0x1_0100 | 0x1_0200 | 0x1_0300 => (0xffff_ffff, true),
            0x1_0180 | 0x1_0280 | 0x1_0380 => (0, true),
            0x1_0400..=0x1_041f => (0xf8f8_f8f8, true),
            0x1_0c00 => (0xaaaa_aaaa, false),
            _ => return None,
        })
    }

    #[test]
    fn every_offset_at_every_size_has_a_defined_result() {
        let dist = dist();
        let fresh = gic();
        for size in [1, 2, 4, 8] {
            // Past the frames' end as well.
            for offset in (0..0x2_0010u64).step_by(if cfg!(miri) { 211 } else { 1 }) {
                let mut gic = fresh.clone();
                gic.write(&mut Absent(()), &dist, offset, size, u64::MAX);
                let read = gic.read(&Absent(()), offset, size);
                let known = expected(offset & !3);
                let (value, writable) = match (size, known) {
                    (4, Some((value, writable))) if offset % 4 == 0 => (u64::from(value), writable),
                    (1, Some(_)) if (0x1_0400..0x1_0420).contains(&offset) => (0xf8, true),
                    (8, _) if offset == 8 => (0x0100_0203_0000_0310, false),
                    _ => (0, false),
                };
                assert_eq!(read, value, "{offset:#x} size {size}");
                assert!(writable || gic == fresh, "{offset:#x} size {size} is read-only");
            }
        }
    }
}
