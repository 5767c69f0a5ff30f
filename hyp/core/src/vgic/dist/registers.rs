//! `GICD_*` as a guest reads and writes them (IHI 0069, affinity routing on, one security state).
//!
//! Registers of INTIDs 0 to 31 are the redistributors' and RAZ/WI here, so are those that only exist with two security states or
//! without affinity routing. An access costs the same whatever its offset; only what is held by a vCPU costs a question to that one.

use super::{Dist, MAX_VCPUS, ORDER, SPIS, Spi, SpiAsk, SpiOp, Vcpus, WORDS};
use crate::sync::{AtomicU32, Ordering};
use crate::vgic::PhysicalSpis;
use crate::vgic::redist::{differing_bytes, id_register};

/// `GICD_CTLR`.
pub const CTLR: u64 = 0x0000;
/// `GICD_TYPER`.
pub const TYPER: u64 = 0x0004;
/// `GICD_IIDR`.
pub const IIDR: u64 = 0x0008;
/// `GICD_TYPER2`.
pub const TYPER2: u64 = 0x000C;
/// `GICD_IGROUPR0`.
pub(in crate::vgic) const IGROUPR: u64 = 0x0080;
/// `GICD_ISENABLER0`.
pub(in crate::vgic) const ISENABLER: u64 = 0x0100;
/// `GICD_ICENABLER0`.
pub(in crate::vgic) const ICENABLER: u64 = 0x0180;
/// `GICD_ISPENDR0`.
pub(in crate::vgic) const ISPENDR: u64 = 0x0200;
/// `GICD_ICPENDR0`.
pub(in crate::vgic) const ICPENDR: u64 = 0x0280;
/// `GICD_ISACTIVER0`.
pub(in crate::vgic) const ISACTIVER: u64 = 0x0300;
/// `GICD_ICACTIVER0`.
pub(in crate::vgic) const ICACTIVER: u64 = 0x0380;
/// `GICD_IPRIORITYR0`.
pub(in crate::vgic) const IPRIORITYR: u64 = 0x0400;
/// `GICD_ICFGR0`.
#[cfg(all(test, not(loom)))]
pub(in crate::vgic) const ICFGR: u64 = 0x0C00;
/// `GICD_IROUTER0`, if there were one: they begin with INTID 32.
pub(in crate::vgic) const IROUTER: u64 = 0x6000;

/// `GICD_CTLR`: EnableGrp0 and EnableGrp1.
const ENABLES: u32 = 0b11;
/// `GICD_CTLR`: ARE and DS, both fixed at 1. RWP is 0: a write has taken effect when it returns.
const FIXED: u32 = 1 << 4 | 1 << 6;
/// A priority's implemented bits.
const PRIORITIES: u32 = 0xF8F8_F8F8;

/// How often an access is made at most: each time but the first, an SPI has just gone from one vCPU to the next.
pub const PASSES: usize = 2 * MAX_VCPUS;

/// `GICD_IIDR`, `GICR_IIDR`'s value: product 0x55, revision 0, and the designer of the architecture it implements.
pub const IIDR_VALUE: u32 = 0x5500_043B;

/// What a guest's access asks of vCPUs. Everything at once, before the access is over; `owners` first. Then, unless it
/// [is over](Effect::is_over), the access is to be made again, at most [`PASSES`] times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effect {
    /// Whom to ask ([`VcpuGic::spi`](crate::vgic::lr::VcpuGic::spi)). Bits 31:0 of the answers to a read are bits of its value.
    pub owners: Vcpus,
    /// What they are asked.
    pub ask: SpiAsk,
    /// Who must [`receive_spis`](crate::vgic::lr::VcpuGic::receive_spis): to be kicked or woken; the caller's own is among them.
    pub kick: Vcpus,
}

/// What a write has changed, and what follows for those that hold some of it.
#[derive(Clone, Copy)]
struct Change {
    /// What they are asked; `None`: they are told to look.
    op: Option<SpiOp>,
    /// Which word of SPIs.
    word: u8,
    /// Whatever they hold, all vCPUs that are on are asked. Those that are not look when they are next loaded.
    everybody: bool,
    /// Which of them: those that nobody holds may have become deliverable, or somebody else's.
    mask: u32,
}

impl Change {
    const NONE: Self = Self::new(Some(SpiOp::Refresh), 0, 0);

    const fn new(op: Option<SpiOp>, word: usize, mask: u32) -> Self {
        Self {
            op,
            word: word as u8,
            everybody: false,
            mask,
        }
    }
}

impl Effect {
    /// Whether nothing is asked of anybody, and the access is over.
    #[must_use]
    #[inline]
    pub const fn is_none(&self) -> bool {
        (self.owners | self.kick) as u32 | self.ask.mask == 0
    }

    /// Whether the access is over, with these answers or'ed: each SPI that was with a vCPU was found there. One that was not has gone to
    /// the distributor or to another vCPU, with the state that was asked for or was to be cleared.
    #[must_use]
    #[inline]
    pub const fn is_over(&self, answers: u64) -> bool {
        self.ask.mask & !((answers >> 32) as u32) == 0
    }
}

/// The word of `GICD_ICACTIVER<n>` that `intid` has its bit in, and that bit: a write of it deactivates as `ICC_DIR_EL1` does, whoever
/// has it.
#[must_use]
pub const fn active(intid: u32) -> (u64, u64) {
    (ICACTIVER + 4 * (intid as u64 / 32), 1 << (intid % 32))
}

/// Which SPI's `GICD_IROUTER<n>` holds the byte at `offset`.
const fn routed(offset: u64) -> Option<usize> {
    const FIRST: u64 = IROUTER + 8 * 32;
    if offset >= FIRST && offset < FIRST + 8 * SPIS as u64 {
        Some((offset - FIRST) as usize / 8)
    } else {
        None
    }
}

impl Dist {
    /// Bit 0: group 0 is forwarded; bit 1: group 1 is.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.enables.load(ORDER)
    }

    /// The interrupts whose group is forwarded, given which of them are in group 1.
    #[must_use]
    pub fn forwarded(&self, group1: u64) -> u64 {
        let enables = self.groups();
        let zero = if enables & 1 != 0 { !group1 } else { 0 };
        let one = if enables & 2 != 0 { group1 } else { 0 };
        zero | one
    }

    /// A guest's read of `size` bytes at `offset` of the frame. What does not exist reads as zero, so does a wrong size. What further reads
    /// give, if the effect asks for them, is to be or'ed into the value. After a [`sample`](Self::sample).
    pub fn read<S: PhysicalSpis>(&self, spis: &S, offset: u64, size: u64) -> (u64, Effect) {
        match self.read_plain(offset, size) {
            Some(value) => (value, Effect::default()),
            None => self.read_state(spis, offset, (offset >> 2) as usize & 31),
        }
    }

    /// [`Dist::read`] of everything but pending and active state of which vCPUs or physical interrupts have some: `None` for that.
    #[inline(always)]
    #[must_use]
    pub fn read_plain(&self, offset: u64, size: u64) -> Option<u64> {
        match size {
            4 if offset & 3 == 0 => self.read_word(offset),
            8 if offset & 7 == 0 => match self.router_at(offset) {
                Some(router) => Some(router),
                None => Some(0),
            },
            1 if offset >> 7 >= 8 && offset >> 7 < 16 => Some(self.read_word(offset & !3)? >> (8 * (offset & 3)) & 0xFF),
            _ => Some(0),
        }
    }

    #[inline(always)]
    fn read_word(&self, offset: u64) -> Option<u64> {
        let kind = offset >> 7;
        // Each kind has 32 words of 32 INTIDs; word 0 is the redistributors'.
        let word = self.word.get((offset >> 2 & 31).wrapping_sub(1) as usize);
        Some(u64::from(match kind {
            4..=7 => match word {
                Some(word) => {
                    let state = || {
                        if kind < ISACTIVER >> 7 {
                            word.pending()
                        } else {
                            word.active.load(ORDER)
                        }
                    };
                    let before = state();
                    if word.held.load(ORDER) | word.backed.load(Ordering::Relaxed) != 0 {
                        return None;
                    }
                    // Before: one that a vCPU claims now. After: one that it has just given back.
                    before | state()
                }
                None => 0,
            },
            // A byte for each INTID; the first eight words are the redistributors'.
            8..=15 => match self.priority.get(((offset - IPRIORITYR) >> 2).wrapping_sub(8) as usize) {
                Some(word) => word.load(ORDER),
                None => 0,
            },
            2 | 3 => match word {
                Some(word) => word.enabled.load(ORDER),
                None => 0,
            },
            1 => match word {
                Some(word) => word.group1.load(ORDER),
                None => 0,
            },
            0 => match offset {
                CTLR => FIXED | self.groups(),
                TYPER => self.typer,
                IIDR => IIDR_VALUE,
                _ => 0,
            },
            _ => self.read_rare(offset),
        }))
    }

    #[inline(always)]
    fn read_rare(&self, offset: u64) -> u32 {
        if let Some(router) = self.router_at(offset) {
            return (router >> (8 * (offset & 4))) as u32;
        }
        match offset >> 7 {
            24 | 25 => {
                let half = (offset >> 2) as usize & 0x3F;
                match self.word.get((half / 2).wrapping_sub(1)) {
                    Some(word) => spread(word.edge.load(ORDER) >> (half as u32 % 2 * 16)),
                    None => 0,
                }
            }
            511 => id_register(offset, 0x92),
            _ => 0,
        }
    }

    #[inline(always)]
    fn router_at(&self, offset: u64) -> Option<u64> {
        let spi = routed(offset)?;
        Some(self.router(spi).load(ORDER))
    }

    /// Pending or active state: word `n` of the register that `offset` is in.
    fn read_state<S: PhysicalSpis>(&self, spis: &S, offset: u64, n: usize) -> (u64, Effect) {
        let n = n.wrapping_sub(1);
        let word = self.bits(n);
        let held = word.held.load(ORDER);
        let (value, op) = if offset < ISACTIVER {
            (word.pending() | self.pending_behind(spis, n), SpiOp::ReadPending)
        } else {
            (word.active.load(ORDER), SpiOp::ReadActive)
        };
        (u64::from(value), self.ask(op, n, held | word.held.load(ORDER)))
    }

    /// Asks vCPUs about SPIs of word `n` that they hold.
    fn ask(&self, op: SpiOp, n: usize, held: u32) -> Effect {
        Effect {
            owners: if held == 0 { 0 } else { self.owners_of(n, held) },
            ask: SpiAsk {
                op,
                word: n as u8,
                mask: if op == SpiOp::Refresh { 0 } else { held },
            },
            ..Effect::default()
        }
    }

    /// Those of a word of which the physical distributor says that they are pending.
    fn pending_behind<S: PhysicalSpis>(&self, spis: &S, n: usize) -> u32 {
        match self.bits(n).backed.load(ORDER) {
            0 => 0,
            backed => backed & spis.pending(n),
        }
    }

    /// A guest's write of `size` bytes at `offset`. What does not exist, cannot be written or has a wrong size is ignored. After a
    /// [`sample`](Self::sample).
    #[inline(never)]
    pub fn write<S: PhysicalSpis>(&self, spis: &S, offset: u64, size: u64, value: u64) -> Effect {
        self.tell(match size {
            4 if offset & 3 == 0 => self.write_word(spis, offset, value as u32),
            8 if offset & 7 == 0 => self.set_route(offset, u64::MAX, value),
            1 if offset >> 7 >= 8 && offset >> 7 < 16 => {
                let shift = 8 * (offset & 3);
                self.set_priorities(offset, 0xFF << shift, (value as u32 & 0xFF) << shift)
            }
            _ => Change::NONE,
        })
    }

    fn write_word<S: PhysicalSpis>(&self, spis: &S, offset: u64, value: u32) -> Change {
        // The registers are laid out as `read_word` says.
        let n = (offset >> 2 & 31).wrapping_sub(1) as usize;
        match offset >> 7 {
            1..=7 if n < WORDS => self.write_bits(spis, offset & !0x7F, n, value),
            8..=15 => self.set_priorities(offset, u32::MAX, value),
            24 | 25 => self.set_triggers((offset >> 2) as usize & 0x3F, value),
            0 if offset == CTLR => {
                let enables = value & ENABLES;
                let everybody = self.enables.swap(enables, ORDER) != enables;
                if everybody {
                    for inbox in &self.inbox {
                        inbox.fetch_or((1 << WORDS) - 1, ORDER);
                    }
                }
                Change { everybody, ..Change::NONE }
            }
            _ => {
                let shift = 8 * (offset & 4);
                self.set_route(offset, 0xFFFF_FFFF << shift, u64::from(value) << shift)
            }
        }
    }

    /// Word `n` of the registers with a bit for each INTID that begin at `register`: of all but the first, every other one sets bits of
    /// what it is about, and the next one clears them.
    fn write_bits<S: PhysicalSpis>(&self, spis: &S, register: u64, n: usize, value: u32) -> Change {
        let word = self.bits(n);
        let sets = register & 0x80 == 0;
        let backed = if register < ISPENDR { 0 } else { value & word.backed.load(ORDER) };
        if sets && backed != 0 {
            spis.set_active(n, backed, true);
            if register == ISPENDR {
                word.written.fetch_or(backed, ORDER);
            }
        }
        // First: a vCPU that comes on looks only where there may be something.
        let everybody = matches!(register, ISENABLER | ISACTIVER) && value != 0 && self.first_use(n);
        let (cell, op) = match register {
            IGROUPR => (&word.group1, Some(SpiOp::Refresh)),
            ISENABLER => (&word.enabled, None),
            ICENABLER => (&word.enabled, Some(SpiOp::Refresh)),
            ISPENDR => (&word.latch, None),
            ICPENDR => (&word.latch, Some(SpiOp::ClearPending)),
            ISACTIVER => (&word.active, Some(SpiOp::Refresh)),
            _ => (&word.active, Some(SpiOp::ClearActive)),
        };
        let (before, after) = if register == IGROUPR {
            (cell.swap(value, ORDER), value)
        } else if sets {
            let before = cell.fetch_or(value, ORDER);
            (before, before | value)
        } else {
            let before = cell.fetch_and(!value, ORDER);
            (before, before & !value)
        };
        if !sets && backed != 0 {
            if register == ICPENDR {
                word.written.fetch_and(!backed, ORDER);
                spis.clear_pending(n, backed);
            }
            self.let_go(spis, n, backed & before);
        }
        let mask = if register < ISPENDR { before ^ after } else { value };
        Change {
            everybody,
            ..Change::new(op, n, mask)
        }
    }

    /// An SPI that may be active, and is in no list register of the caller's, is so no more. Gives who must look, and who holds it
    /// and must be asked instead.
    #[cold]
    #[inline(never)]
    pub(in crate::vgic) fn deactivate<S: PhysicalSpis>(&self, spis: &S, spi: Spi) -> Effect {
        self.tell(self.write_bits(spis, ICACTIVER, spi.word(), spi.bit()))
    }

    /// SPIs of word `n` are used from now on. True once for all words: a DIR may be for an SPI, and every vCPU must see that.
    fn first_use(&self, n: usize) -> bool {
        self.used.load(ORDER) >> n & 1 == 0 && self.used.fetch_or(1 << n, ORDER) == 0
    }

    /// The priorities of the four INTIDs at `offset`.
    fn set_priorities(&self, offset: u64, mask: u32, value: u32) -> Change {
        let n = (offset - IPRIORITYR) as usize / 4;
        // The first eight are the redistributors'.
        let Some(cell) = self.priority.get(n.wrapping_sub(8)) else {
            return Change::NONE;
        };
        let before = replace(cell, mask & PRIORITIES, value);
        let changed = differing_bytes((before ^ value) & mask & PRIORITIES) << (n % 8 * 4);
        Change::new(Some(SpiOp::Refresh), n / 8 - 1, changed)
    }

    /// `GICD_ICFGR<n>`: two bits for each of 16 INTIDs.
    fn set_triggers(&self, n: usize, value: u32) -> Change {
        let (word, shift) = ((n / 2).wrapping_sub(1), n as u32 % 2 * 16);
        let Some(it) = self.word.get(word) else { return Change::NONE };
        let (mask, edge) = (0xFFFF << shift, gather(value) << shift);
        let before = replace(&it.edge, mask, edge);
        Change::new(Some(SpiOp::Refresh), word, (before ^ edge) & mask)
    }

    /// The bits of `mask` of the `GICD_IROUTER<n>` that has the byte at `offset`.
    #[inline(never)]
    fn set_route(&self, offset: u64, mask: u64, value: u64) -> Change {
        let Some(spi) = routed(offset) else { return Change::NONE };
        let mask = mask & self.routes;
        let before = self.router(spi).load(ORDER);
        let after = before & !mask | value & mask;
        // Two that write the halves of one at once get what hardware would give them: either order, or a mixture.
        self.router(spi).store(after, ORDER);
        Change::new(Some(SpiOp::Refresh), spi / 32, u32::from(before != after) << (spi % 32))
    }

    /// Who must hear of a change.
    fn tell(&self, change: Change) -> Effect {
        let (n, mask) = (change.word.into(), change.mask);
        let mut effect = Effect::default();
        match change.op {
            _ if mask == 0 => {}
            Some(op) => {
                let word = self.bits(n);
                let held = word.held.load(ORDER);
                // What a vCPU has given back since the change shows here now.
                let given_back = match op {
                    SpiOp::ClearPending => word.latch.load(ORDER),
                    SpiOp::ClearActive => word.active.load(ORDER),
                    _ => 0,
                };
                effect = self.ask(op, n, (held | given_back) & mask);
                effect.kick = self.offer(n, mask);
            }
            None => effect.kick = self.notify(n, mask),
        }
        if change.everybody {
            effect.owners = self.online.load(ORDER) as Vcpus;
        }
        effect
    }
}

/// Sets the bits of `mask` to those of `value`; gives what was there. Between the two steps both values are taken for one.
fn replace(cell: &AtomicU32, mask: u32, value: u32) -> u32 {
    let before = cell.fetch_and(!mask | value, ORDER);
    cell.fetch_or(mask & value, ORDER);
    before
}

/// Bits 15:0 to bits 31, 29, .., 1: the upper bit of each field of `GICD_ICFGR<n>`.
#[inline(always)]
const fn spread(bits: u32) -> u32 {
    let mut x = bits & 0xFFFF;
    x = (x | x << 8) & 0x00FF_00FF;
    x = (x | x << 4) & 0x0F0F_0F0F;
    x = (x | x << 2) & 0x3333_3333;
    x = (x | x << 1) & 0x5555_5555;
    x << 1
}

/// The reverse of [`spread`].
const fn gather(fields: u32) -> u32 {
    let mut x = fields >> 1 & 0x5555_5555;
    x = (x | x >> 1) & 0x3333_3333;
    x = (x | x >> 2) & 0x0F0F_0F0F;
    x = (x | x >> 4) & 0x00FF_00FF;
    (x | x >> 8) & 0xFFFF
}
