//! A vCPU's SGIs and PPIs, and the list registers they pass through.
//!
//! An INTID is in one of two places. In no list register, its state is a bit in each word of the redistributor. In one, the
//! guest acknowledges and ends it without an exit, so pending and active are known only by reading it back (*folding*). `in_lr`
//! says which; everything that needs the truth about an INTID folds it first, and the ordinary exit needs none of it.
//!
//! When more is pending and active than fits, the rest is *spilled*, and maintenance interrupts bring it back ([`hcr_for`] says
//! which). Two rules keep that sound. The most urgent pending interrupt always has a list register, however many are active, so
//! nothing deliverable waits for a guest that handles its interrupts late. Of the active ones the most urgent stay, so with
//! EOImode 0 an EOIR that finds no list register is for the most urgent of those spilled.
//!
//! A hardware-backed INTID keeps one invariant: the physical interrupt is active exactly while the virtual one is pending or
//! active, so it fires again when the guest is done and not before.

use super::cpuif::{Spill, Trapping, hcr_for};
use super::dist::Dist;
use super::redist::{Identity, Live, Redist, SGIS};
use super::sgi::accepted;
use super::vmcr::Vmcr;
use super::{Group, Ich, MAX_LRS, PRIVATE_INTIDS};
use crate::regs::gic::{ICH_HCR_EL2, ICH_LR_EL2, LrValue};

const NOBODY: u8 = 0xFF;
const PENDING: u64 = 1;
const ACTIVE: u64 = 2;

/// The private interrupts of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuGic {
    words: Redist,
    id: Identity,
    /// INTIDs that a physical interrupt of the same number stands behind.
    hw: u32,
    /// INTIDs that a list register holds or held when it was last looked at.
    in_lr: u32,
    /// Those of `in_lr` that went in pending.
    shown: u32,
    /// Active INTIDs that the guest acknowledged, as opposed to set active by a write: those an EOIR may be for.
    taken: u32,
    /// Enabled and of a group that the distributor forwards.
    open: u32,
    /// Group 1 as of when an active INTID was acknowledged: it ends by that group's EOIR whatever the guest writes meanwhile.
    taken_group: u32,
    /// Priority as of when an active INTID was acknowledged: that is the one in the active-priority registers.
    taken_priority: [u8; PRIVATE_INTIDS as usize],
    /// The INTID in each list register.
    owner: [u8; MAX_LRS],
    /// The list register of each INTID of `in_lr`.
    slot: [u8; PRIVATE_INTIDS as usize],
    /// List registers that may be other than zero.
    used: u32,
    spill: Spill,
    trapping: Trapping,
    loaded: bool,
    /// `ICH_HCR_EL2` as last written.
    hcr: u64,
}

impl VcpuGic {
    /// A vCPU's interrupts as after a reset of its VM. `hw` has a bit for each hardware-backed INTID.
    #[must_use]
    pub const fn new(id: Identity, hw: u32) -> Self {
        Self {
            words: Redist::new(id),
            id,
            hw,
            in_lr: 0,
            shown: 0,
            taken: 0,
            open: 0,
            taken_group: 0,
            taken_priority: [0; PRIVATE_INTIDS as usize],
            owner: [NOBODY; MAX_LRS],
            slot: [0; PRIVATE_INTIDS as usize],
            used: 0,
            spill: Spill { pending: 0, active: 0 },
            trapping: Trapping {
                coming_up: false,
                strict: false,
                narrowed: false,
            },
            loaded: false,
            hcr: 0,
        }
    }

    /// The redistributor's state after a reset of the VM. The vCPU must not be loaded.
    pub fn reset(&mut self) {
        *self = Self {
            trapping: self.trapping,
            ..Self::new(self.id, self.hw)
        };
    }

    // Coming and going.

    /// Loads the vCPU: its interrupts go into the list registers, the physical ones behind them are set to what it needs, and
    /// `ICH_HCR_EL2` is written.
    pub fn load<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        self.loaded = true;
        self.hcr = 0;
        self.used = u32::MAX;
        let live = self.words.latch | self.words.active;
        for_each(self.hw, |intid| h.set_active(intid, live >> intid & 1 != 0));
        self.refresh(h, dist);
    }

    /// Takes the vCPU's interrupts out of the list registers, for it to leave its pCPU. Hardware-backed ones stay what they are
    /// in software; the physical ones are the next vCPU's to set.
    pub fn put<H: Ich>(&mut self, h: &mut H) {
        self.fold(h);
        self.clear_from(h, 0);
        self.spill = Spill::default();
        self.loaded = false;
    }

    /// CPU_OFF, reset or stop: as [`put`](Self::put), and hardware-backed interrupts are neither pending nor active any more, here
    /// and in the physical GIC. Other pending SGIs and PPIs stay.
    pub fn park<H: Ich>(&mut self, h: &mut H) {
        let loaded = self.loaded;
        self.put(h);
        self.words.latch &= !self.hw;
        self.words.written &= !self.hw;
        self.words.active &= !self.hw;
        // The active-priority registers start from zero: no EOIR will be for what is active now.
        self.taken = 0;
        if loaded {
            for_each(self.hw, |intid| h.set_active(intid, false));
        }
    }

    /// Sets why the common registers trap, and `ICH_HCR_EL2` with it.
    pub fn set_trapping<H: Ich>(&mut self, h: &mut H, trapping: Trapping) {
        self.trapping = trapping;
        if self.spill.active != 0 {
            // The write below clears EOIcount.
            self.count_ends(h);
        }
        self.write_hcr(h);
    }

    /// Why the common registers trap.
    #[must_use]
    pub const fn trapping(&self) -> Trapping {
        self.trapping
    }

    // Interrupts.

    /// An edge of `intid`: an SGI, or a PPI without a line. Values from 32 are ignored.
    pub fn inject<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32) {
        if intid >= PRIVATE_INTIDS {
            return;
        }
        self.take_out(h, intid);
        self.words.latch |= 1 << intid;
        self.put_in(h, dist, intid);
    }

    /// The physical interrupt behind `intid` fired on this pCPU and is active now (EL2 has dropped its priority and no more).
    pub fn inject_hw<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32) {
        self.inject(h, dist, intid);
    }

    /// The SGIs of `word`, which came out of this vCPU's inbox or from its own SGI register.
    pub fn receive<H: Ich>(&mut self, h: &mut H, dist: &Dist, word: u32) {
        for_each(accepted(word, self.words.group), |intid| self.inject(h, dist, intid));
    }

    /// The emulated line of PPI `intid` is `high` now.
    pub fn set_line<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32, high: bool) {
        if intid >= PRIVATE_INTIDS {
            return;
        }
        let bit = 1 << intid & !SGIS & !self.hw;
        let line = if high { self.words.line | bit } else { self.words.line & !bit };
        if line == self.words.line {
            return;
        }
        self.take_out(h, intid);
        self.words.line = line;
        self.put_in(h, dist, intid);
    }

    /// The guest wrote `intid` to `ICC_DIR_EL1` and that trapped. Without EOImode 1 such a write does nothing.
    pub fn deactivate<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32) {
        if intid >= PRIVATE_INTIDS || !Vmcr::new(h.vmcr()).splits_eoi() {
            return;
        }
        self.fold(h);
        self.end(h, intid);
        self.flush(h, dist);
    }

    // Exits.

    /// Whether the next [`attend`](Self::attend) has something to do: a hardware-backed interrupt may still be pending. Two
    /// loads, for the ordinary exit path. The inbox is asked separately ([`super::sgi::Inbox::is_empty`]).
    #[must_use]
    pub const fn needs_attention(&self) -> bool {
        self.words.latch & self.hw & !self.words.written != 0
    }

    /// Withdraws hardware-backed interrupts that the guest has not taken and whose line has fallen: hardware would not show them
    /// any more. Their physical interrupt is deactivated, so that the next edge fires.
    pub fn attend<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        for_each(self.words.latch & self.hw & !self.words.written, |intid| {
            self.withdraw(h, dist, intid);
        });
    }

    fn withdraw<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32) {
        let bit = 1 << intid;
        if self.in_lr & self.shown & bit != 0 {
            let lr = h.lr(self.slot_of(intid));
            if LrValue::new(lr).read(ICH_LR_EL2::State) & PENDING == 0 {
                // Taken: what is in the list register is active or over, and the guest's EOI reaches the physical interrupt.
                self.words.latch &= !bit;
                self.shown &= !bit;
                self.taken |= bit;
                return;
            }
        }
        if h.line(intid) {
            return;
        }
        self.take_out(h, intid);
        self.words.latch &= !bit;
        if self.words.active & bit == 0 {
            h.set_active(intid, false);
        }
        self.put_in(h, dist, intid);
        if self.spill.any() {
            self.refresh(h, dist);
        }
    }

    /// The maintenance interrupt: list registers that asked for it are read back, level lines sampled again, and what was
    /// spilled moves up.
    pub fn maintenance<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        if self.spill.any() {
            return self.refresh(h, dist);
        }
        let ended = h.eisr() as u32 & self.used;
        for i in 0..h.count().min(MAX_LRS) {
            let intid = u32::from(self.owner[i & (MAX_LRS - 1)]);
            if ended >> i & 1 != 0 && intid < PRIVATE_INTIDS {
                self.take_out(h, intid);
                self.put_in(h, dist, intid);
            }
        }
    }

    /// Reads every list register back and fills them anew: after a change to `GICD_CTLR`, or to anything else that decides
    /// what is deliverable.
    pub fn refresh<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        self.fold(h);
        self.flush(h, dist);
    }

    // The guest's and the host's view.

    /// What is pending and active now, list registers and hardware lines included.
    #[must_use]
    pub fn live<H: Ich>(&self, h: &H) -> Live {
        let mut pending = self.words.pending() & !(self.in_lr & self.shown & !self.words.line);
        let mut active = self.words.active & !self.in_lr;
        for_each(self.in_lr, |intid| {
            let state = LrValue::new(h.lr(self.slot_of(intid))).read(ICH_LR_EL2::State);
            pending |= ((state & PENDING) as u32) << intid;
            active |= ((state & ACTIVE) as u32 >> 1) << intid;
        });
        for_each(self.hw & !pending, |intid| {
            pending |= u32::from(self.loaded && h.line(intid)) << intid;
        });
        Live { pending, active }
    }

    /// A guest's read of `size` bytes at `offset` from this vCPU's `RD_base`; both frames.
    #[must_use]
    pub fn read<H: Ich>(&self, h: &H, offset: u64, size: u64) -> u64 {
        let live = if Redist::writes_state(offset, size) {
            self.live(h)
        } else {
            Live::default()
        };
        self.words.read(offset, size, live)
    }

    /// A guest's write of `size` bytes at `offset`. Pending and active state of hardware-backed interrupts reaches the physical
    /// GIC; what goes into the list registers follows at once.
    pub fn write<H: Ich>(&mut self, h: &mut H, dist: &Dist, offset: u64, size: u64, value: u64) {
        if Redist::writes_state(offset, size) {
            self.fold(h);
            let before = self.words.latch | self.words.active;
            let _ = self.words.write(offset, size, value);
            self.taken &= self.words.active;
            let after = self.words.latch | self.words.active;
            // A pending state taken back from an interrupt whose line is still high must let it fire again.
            for_each((before ^ after) & self.hw, |intid| h.set_active(intid, after >> intid & 1 != 0));
            self.flush(h, dist);
            return;
        }
        let changed = self.words.write(offset, size, value);
        if changed & (self.in_lr | self.words.pending() | self.words.active) != 0 {
            self.refresh(h, dist);
        } else if changed != 0 {
            self.open = self.words.enabled & dist.forwarded(self.words.group);
        }
    }

    /// Whether an interrupt is there that would wake the vCPU from WFI or interrupt it: pending, enabled, its group enabled at
    /// both ends, more urgent than the priority mask and than what runs. `PSTATE.I` and `PSTATE.F` do not matter.
    #[must_use]
    pub fn wakes<H: Ich>(&self, h: &H, vmcr: Vmcr, running: u64) -> bool {
        let live = self.live(h);
        let mut wakes = false;
        for_each(live.pending & !live.active & self.open & self.groups_on(vmcr), |intid| {
            let group = if self.words.group >> intid & 1 != 0 {
                Group::One
            } else {
                Group::Zero
            };
            let priority = u64::from(self.words.priority(intid));
            wakes |= priority < vmcr.pmr() && priority & vmcr.preempting(group) < running;
        });
        wakes
    }

    /// The INTIDs whose group the guest has enabled at its CPU interface.
    fn groups_on(&self, vmcr: Vmcr) -> u32 {
        let zero = if vmcr.igrpen0() != 0 { !self.words.group } else { 0 };
        let one = if vmcr.igrpen1() != 0 { self.words.group } else { 0 };
        zero | one
    }

    /// What is spilled.
    #[must_use]
    pub const fn spill(&self) -> Spill {
        self.spill
    }

    /// `GICR_IGROUPR0`: the INTIDs in group 1.
    #[must_use]
    pub const fn group1(&self) -> u32 {
        self.words.group
    }

    // List registers.

    fn slot_of(&self, intid: u32) -> usize {
        usize::from(self.slot[(intid & 31) as usize]) & (MAX_LRS - 1)
    }

    /// Folds `intid` if a list register holds it, and empties that.
    fn take_out<H: Ich>(&mut self, h: &mut H, intid: u32) {
        if self.in_lr >> (intid & 31) & 1 == 0 {
            return;
        }
        let i = self.slot_of(intid);
        self.fold_slot(h, i);
        h.set_lr(i, 0);
        self.used &= !(1 << i);
    }

    /// Gives `intid`, which is in no list register, one if it needs it.
    fn put_in<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32) {
        let bit = 1 << (intid & 31);
        if !self.loaded || (self.words.active | self.words.pending() & self.open) & bit == 0 {
            return;
        }
        let present = if h.count() >= MAX_LRS { 0xFFFF } else { (1 << h.count()) - 1 };
        let free = h.elrsr() as u32 & present;
        if free == 0 || self.spill.any() {
            return self.refresh(h, dist);
        }
        let i = free.trailing_zeros() as usize & (MAX_LRS - 1);
        self.fold_slot(h, i);
        self.fill(h, i, intid, false);
    }

    /// Reads list register `i` back into the words. It still holds what it held: to be emptied or filled by the caller.
    fn fold_slot<H: Ich>(&mut self, h: &mut H, i: usize) {
        let intid = u32::from(core::mem::replace(&mut self.owner[i & (MAX_LRS - 1)], NOBODY));
        if intid >= PRIVATE_INTIDS {
            return;
        }
        let bit = 1 << intid;
        let lr = LrValue::new(h.lr(i));
        let state = lr.read(ICH_LR_EL2::State);
        if self.shown & bit != 0 && state & PENDING == 0 {
            self.words.latch &= !bit;
            self.words.written &= !bit;
            self.taken |= bit;
        }
        self.in_lr &= !bit;
        self.shown &= !bit;
        if state & ACTIVE != 0 {
            self.words.active |= bit;
            self.taken_priority[intid as usize & 31] = lr.read(ICH_LR_EL2::Priority) as u8;
            self.taken_group = self.taken_group & !bit | (lr.read(ICH_LR_EL2::Group) as u32) << intid;
        } else {
            self.words.active &= !bit;
            self.taken &= !bit;
            // An entry that only software stood behind: its end has not reached the physical interrupt.
            if self.hw & bit != 0 && !lr.is_set(ICH_LR_EL2::HW) && self.words.latch & bit == 0 {
                h.set_active(intid, false);
            }
        }
    }

    /// Reads every list register back, and what the guest ended without one.
    fn fold<H: Ich>(&mut self, h: &mut H) {
        if self.spill.active != 0 {
            self.count_ends(h);
        }
        for i in 0..h.count().min(MAX_LRS) {
            self.fold_slot(h, i);
        }
    }

    /// Ends spilled active interrupts, the most urgent first, as many as EOIcount says. With EOImode 1 the count says nothing:
    /// DIR traps, and what some implementations count besides is not a deactivation.
    fn count_ends<H: Ich>(&mut self, h: &mut H) {
        let hcr = h.hcr();
        let count = ICH_HCR_EL2::EOIcount.read(hcr);
        if count == 0 {
            return;
        }
        let vmcr = Vmcr::new(h.vmcr());
        if !vmcr.splits_eoi() {
            let mut candidates = self.spill.active & self.taken;
            for _ in 0..count {
                let Some(intid) = self.innermost(candidates, vmcr) else { break };
                candidates &= !(1 << intid);
                self.end(h, intid);
            }
            self.spill.active &= self.words.active;
        }
        // The next write of ICH_HCR_EL2 is due even if nothing but the count differs.
        self.hcr = 0;
    }

    /// `intid`, in no list register, is active no more.
    fn end<H: Ich>(&mut self, h: &mut H, intid: u32) {
        let bit = 1 << (intid & 31);
        if self.words.active & bit == 0 {
            return;
        }
        self.words.active &= !bit;
        self.taken &= !bit;
        if self.hw & !self.words.latch & bit != 0 {
            h.set_active(intid, false);
        }
    }

    /// Fills the list registers; everything is in the words, nothing in them counts.
    fn flush<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        self.open = self.words.enabled & dist.forwarded(self.words.group);
        if !self.loaded {
            return;
        }
        let count = h.count().min(MAX_LRS);
        let mut active = self.words.active;
        let mut pending = self.words.pending() & self.open & !active;
        let mut filled = 0;
        if (active | pending).count_ones() as usize <= count {
            for_each(active | pending, |intid| {
                self.fill(h, filled, intid, false);
                filled += 1;
            });
            (active, pending) = (0, 0);
        } else {
            // The most urgent pending one first of all, then the active ones before whatever they keep from running. What the
            // guest's own group enables hold back comes last.
            let vmcr = Vmcr::new(h.vmcr());
            let on = self.groups_on(vmcr);
            let mut first = true;
            while filled < count {
                let ready = self.most_urgent(pending & on);
                let running = if first && pending != 0 {
                    None
                } else {
                    self.innermost(active, vmcr)
                };
                first = false;
                let next = match (ready, running) {
                    (Some(ready), Some(running)) if self.words.priority(ready) < self.level(running, vmcr) => Some(ready),
                    (ready, running) => running.or(ready),
                };
                let Some(intid) = next.or_else(|| self.most_urgent(pending)) else {
                    break;
                };
                self.fill(h, filled, intid, true);
                filled += 1;
                active &= !(1 << intid);
                pending &= !(1 << intid);
            }
        }
        self.clear_from(h, filled);
        self.spill = Spill { pending, active };
        self.write_hcr(h);
    }

    /// Empties list registers `first` and above.
    fn clear_from<H: Ich>(&mut self, h: &mut H, first: usize) {
        for i in first..h.count().min(MAX_LRS) {
            if self.used >> i & 1 != 0 {
                h.set_lr(i, 0);
            }
        }
        self.used &= (1 << first.min(MAX_LRS)) - 1;
    }

    /// The pending INTID of `candidates` with the lowest priority value, the lowest of those.
    fn most_urgent(&self, candidates: u32) -> Option<u32> {
        lowest(candidates, |intid| self.words.priority(intid))
    }

    /// The active INTID of `candidates` that runs innermost: what preempts is the part of its priority, as of when it was taken,
    /// that its group's binary point leaves.
    fn innermost(&self, candidates: u32, vmcr: Vmcr) -> Option<u32> {
        lowest(candidates, |intid| self.level(intid, vmcr))
    }

    fn level(&self, intid: u32, vmcr: Vmcr) -> u8 {
        if self.taken >> (intid & 31) & 1 == 0 {
            return self.words.priority(intid);
        }
        let group = if self.taken_group >> (intid & 31) & 1 != 0 {
            Group::One
        } else {
            Group::Zero
        };
        self.taken_priority[intid as usize & 31] & vmcr.preempting(group) as u8
    }

    /// Puts `intid` into list register `i`; `crowded` if others find no place.
    fn fill<H: Ich>(&mut self, h: &mut H, i: usize, intid: u32, crowded: bool) {
        let bit = 1 << (intid & 31);
        let active = self.words.active & bit != 0;
        let taken = active && self.taken & bit != 0;
        let (mut priority, mut group) = (self.words.priority(intid), self.words.group);
        // A line that is high makes an active interrupt pending again only when it ends: it is sampled then.
        let source = if active { self.words.latch } else { self.words.pending() };
        let mut pending = source & self.open & bit != 0;
        // One that hardware stands behind, or a line, is looked at when it ends, unless hardware does all that is needed.
        let mut watched = active && source & self.hw & bit != 0 || self.words.line & bit != 0;
        // Pending behind its own active state, it would come to the fore at its end without an exit; among others that are spilled,
        // whose turn it is must be asked then.
        let mut waits = crowded;
        if taken {
            let (new_priority, new_group) = (priority, group);
            priority = self.taken_priority[intid as usize & 31];
            group = self.taken_group;
            // Pending again, but not as it was taken: a list register has one priority and one group.
            waits |= priority != new_priority || (group ^ new_group) & bit != 0;
        }
        if active && pending && waits {
            pending = false;
            watched = true;
        }
        let state = if active { ACTIVE } else { 0 } | if pending { PENDING } else { 0 };
        let mut lr = ICH_LR_EL2::vINTID.val(u64::from(intid))
            + ICH_LR_EL2::Priority.val(u64::from(priority))
            + ICH_LR_EL2::Group.val(u64::from(group & bit != 0))
            + ICH_LR_EL2::State.val(state);
        if watched {
            lr += ICH_LR_EL2::EOI::SET;
        } else if self.hw & bit != 0 {
            lr += ICH_LR_EL2::HW::SET + ICH_LR_EL2::pINTID.val(u64::from(intid));
        }
        h.set_lr(i, lr.value);
        self.in_lr |= bit;
        self.shown = self.shown & !bit | if pending { bit } else { 0 };
        self.owner[i & (MAX_LRS - 1)] = intid as u8;
        self.slot[intid as usize & 31] = i as u8;
        self.used |= 1 << (i & (MAX_LRS - 1));
    }

    /// Writes `ICH_HCR_EL2` if it differs from what was last written.
    fn write_hcr<H: Ich>(&mut self, h: &mut H) {
        if !self.loaded {
            return;
        }
        let vmcr = if self.spill.any() { Vmcr::new(h.vmcr()) } else { Vmcr::default() };
        let hcr = hcr_for(self.trapping, self.spill, vmcr, h.count());
        if hcr != self.hcr {
            self.hcr = hcr;
            h.set_hcr(hcr);
        }
    }
}

/// The number of the bit of `candidates` with the lowest `key`, the first of those.
fn lowest(candidates: u32, key: impl Fn(u32) -> u8) -> Option<u32> {
    let mut best: Option<(u8, u32)> = None;
    for_each(candidates, |intid| {
        let key = key(intid);
        if best.is_none_or(|(least, _)| key < least) {
            best = Some((key, intid));
        }
    });
    best.map(|(_, intid)| intid)
}

/// Calls `f` with the number of each bit set in `word`, lowest first.
fn for_each(mut word: u32, mut f: impl FnMut(u32)) {
    while word != 0 {
        f(word.trailing_zeros());
        word &= word - 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::fake::{Dir, FakeIch};
    use super::*;
    use crate::vgic::dist::CTLR;
    use crate::vgic::redist::{ICACTIVER0, ICENABLER0, ICPENDR0, IGROUPR0, IPRIORITYR0, ISENABLER0, ISPENDR0};

    const TIMER: u32 = 27;
    const EOIMODE: u64 = 2;

    /// A loaded vCPU with everything enabled, in group 1, priority 0x80.
    fn loaded(lrs: usize) -> (VcpuGic, FakeIch, Dist) {
        let mut h = FakeIch::new(lrs);
        let dist = Dist::new(&h.view);
        let _ = dist.write(CTLR, 4, 3);
        let mut gic = VcpuGic::new(
            Identity {
                index: 0,
                last: true,
                affinity: 0,
            },
            1 << TIMER,
        );
        gic.load(&mut h, &dist);
        gic.write(&mut h, &dist, IGROUPR0, 4, u64::MAX);
        gic.write(&mut h, &dist, ISENABLER0, 4, u64::MAX);
        for word in 0..8 {
            gic.write(&mut h, &dist, IPRIORITYR0 + 4 * word, 4, 0x8080_8080);
        }
        (gic, h, dist)
    }

    fn set_priority(gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist, intid: u32, priority: u8) {
        gic.write(h, dist, IPRIORITYR0 + u64::from(intid), 1, priority.into());
    }

    fn settle(gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist) {
        while h.misr() != 0 {
            gic.maintenance(h, dist);
        }
    }

    fn fire_timer(gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist) {
        h.line = true;
        h.active = true;
        gic.inject_hw(h, dist, TIMER);
    }

    #[test]
    fn more_pending_than_list_registers_are_all_taken_in_order_of_priority() {
        let (mut gic, mut h, dist) = loaded(4);
        for intid in 0..10 {
            set_priority(&mut gic, &mut h, &dist, intid, 0xf0 - 8 * intid as u8);
            gic.inject(&mut h, &dist, intid);
        }
        assert_eq!(gic.spill().pending.count_ones(), 6);
        let mut taken = Vec::new();
        for _ in 0..10 {
            let intid = h.ack().expect("an interrupt");
            settle(&mut gic, &mut h, &dist);
            h.eoi(intid);
            settle(&mut gic, &mut h, &dist);
            taken.push(intid);
        }
        assert_eq!(taken, (0..10).rev().collect::<Vec<_>>());
        assert_eq!(gic.spill(), Spill::default());
        assert_eq!(h.hcr, 1, "no maintenance is asked for when nothing is spilled");
    }

    #[test]
    fn nothing_but_the_list_register_is_written_when_there_is_room() {
        let (mut gic, mut h, dist) = loaded(4);
        h.hcr = 0xdead_0001;
        gic.inject(&mut h, &dist, 1);
        assert_eq!(h.hcr, 0xdead_0001);
        assert_eq!(h.signalled_intid(), Some(1));
    }

    #[test]
    fn nested_active_interrupts_beyond_the_list_registers_end_in_order() {
        for lrs in [1, 2, 4] {
            let (mut gic, mut h, dist) = loaded(lrs);
            for intid in 0..8 {
                set_priority(&mut gic, &mut h, &dist, intid, 0x80 - 8 * intid as u8);
                gic.inject(&mut h, &dist, intid);
                assert_eq!(h.ack(), Some(intid));
                settle(&mut gic, &mut h, &dist);
            }
            assert_eq!(gic.live(&h).active, 0xff);
            for intid in (0..8).rev() {
                h.eoi(intid);
                settle(&mut gic, &mut h, &dist);
                assert_eq!(gic.live(&h).active, (1 << intid) - 1, "{lrs} list registers");
            }
        }
    }

    #[test]
    fn with_eoimode_1_pending_interrupts_arrive_while_every_active_one_waits_for_dir() {
        for counts_drops in [false, true] {
            let (mut gic, mut h, dist) = loaded(4);
            h.counts_drops = counts_drops;
            h.vmcr = h.view.apply_write(h.vmcr, EOIMODE);
            for intid in 0..12 {
                gic.inject(&mut h, &dist, intid);
                assert_eq!(h.ack(), Some(intid));
                settle(&mut gic, &mut h, &dist);
                h.eoi(intid);
                settle(&mut gic, &mut h, &dist);
            }
            assert_eq!(gic.live(&h).active, 0xfff);
            for intid in [3, 11, 0, 7, 1, 2, 4, 5, 6, 8, 9, 10] {
                if h.dir(intid) == Dir::Trapped {
                    gic.deactivate(&mut h, &dist, intid);
                }
                settle(&mut gic, &mut h, &dist);
                assert_eq!(gic.live(&h).active >> intid & 1, 0);
            }
            assert_eq!((gic.live(&h).active, h.hcr & (1 << 14)), (0, 0));
        }
    }

    #[test]
    fn dir_without_eoimode_1_does_nothing() {
        let (mut gic, mut h, dist) = loaded(4);
        gic.inject(&mut h, &dist, 1);
        h.ack();
        gic.deactivate(&mut h, &dist, 1);
        assert_eq!(gic.live(&h).active, 1 << 1);
    }

    #[test]
    fn an_edge_while_active_is_taken_again() {
        let (mut gic, mut h, dist) = loaded(4);
        gic.inject(&mut h, &dist, 1);
        assert_eq!(h.ack(), Some(1));
        gic.inject(&mut h, &dist, 1);
        gic.inject(&mut h, &dist, 1);
        assert_eq!((gic.live(&h).pending, gic.live(&h).active), (2, 2));
        h.eoi(1);
        assert_eq!(h.ack(), Some(1));
        h.eoi(1);
        assert_eq!(h.ack(), None);
    }

    #[test]
    fn pending_behind_its_own_active_state_does_not_overtake_what_is_spilled() {
        let (mut gic, mut h, dist) = loaded(3);
        for (intid, priority) in [(2, 0x50), (0, 0), (5, 0x48), (6, 0x40)] {
            set_priority(&mut gic, &mut h, &dist, intid, priority);
        }
        // 0x48 does not preempt 0x50, so the running one keeps its list register.
        h.vmcr = h.vmcr.with_bpr1(&h.view, 5);
        gic.inject(&mut h, &dist, 2);
        assert_eq!(h.ack(), Some(2));
        // Active by a write, it takes a list register and is never ended.
        gic.write(&mut h, &dist, crate::vgic::redist::ISACTIVER0, 4, 1 << 6);
        for intid in [2, 0] {
            gic.inject(&mut h, &dist, intid);
        }
        gic.inject(&mut h, &dist, 5);
        assert_ne!(gic.spill().pending & 1 << 5, 0);
        h.eoi(2);
        settle(&mut gic, &mut h, &dist);
        assert_eq!(h.ack(), Some(0));
        settle(&mut gic, &mut h, &dist);
        h.eoi(0);
        settle(&mut gic, &mut h, &dist);
        assert_eq!(h.ack(), Some(5), "0x48 comes before 0x50");
    }

    #[test]
    fn an_eoi_of_the_timer_reaches_the_physical_interrupt_without_an_exit() {
        let (mut gic, mut h, dist) = loaded(4);
        fire_timer(&mut gic, &mut h, &dist);
        assert_eq!(h.ack(), Some(TIMER));
        h.line = false;
        h.eoi(TIMER);
        assert!(!h.active);
        assert_eq!(gic.live(&h).pending, 0);
    }

    #[test]
    fn a_timer_entry_whose_line_fell_is_withdrawn_and_deactivated() {
        let (mut gic, mut h, dist) = loaded(4);
        fire_timer(&mut gic, &mut h, &dist);
        gic.attend(&mut h, &dist);
        assert_eq!(h.signalled_intid(), Some(TIMER), "not while the line is high");
        h.line = false;
        assert!(gic.needs_attention());
        gic.attend(&mut h, &dist);
        assert_eq!(h.ack(), None);
        assert!(!h.active);
        assert!(!gic.needs_attention());
    }

    #[test]
    fn a_taken_timer_needs_no_attention_after_one_look() {
        let (mut gic, mut h, dist) = loaded(4);
        fire_timer(&mut gic, &mut h, &dist);
        h.ack();
        gic.attend(&mut h, &dist);
        assert!(!gic.needs_attention());
        assert!(h.active);
        assert_eq!(gic.live(&h).active, 1 << TIMER);
    }

    #[test]
    fn a_write_to_the_timers_pending_state_reaches_the_physical_interrupt() {
        let (mut gic, mut h, dist) = loaded(4);
        gic.write(&mut h, &dist, ISPENDR0, 4, 1 << TIMER);
        assert!(h.active, "or the guest's EOI would have nothing to deactivate");
        gic.attend(&mut h, &dist);
        assert_eq!(h.signalled_intid(), Some(TIMER), "a written pending state needs no line");
        gic.write(&mut h, &dist, ICPENDR0, 4, 1 << TIMER);
        assert!(!h.active);
    }

    #[test]
    fn a_write_that_ends_the_timer_lets_it_fire_again() {
        let (mut gic, mut h, dist) = loaded(4);
        fire_timer(&mut gic, &mut h, &dist);
        h.ack();
        gic.write(&mut h, &dist, ICACTIVER0, 4, 1 << TIMER);
        assert!(!h.active);
    }

    #[test]
    fn ispendr_shows_the_line_of_a_disabled_timer() {
        let (mut gic, mut h, dist) = loaded(4);
        gic.write(&mut h, &dist, ICENABLER0, 4, u64::MAX);
        h.line = true;
        assert_eq!(gic.read(&h, ISPENDR0, 4), 1 << TIMER);
        h.active = true;
        gic.inject_hw(&mut h, &dist, TIMER);
        assert_eq!(gic.read(&h, ISPENDR0, 4), 1 << TIMER);
        assert_eq!(h.signalled_intid(), None);
        gic.write(&mut h, &dist, ISENABLER0, 4, 1 << TIMER);
        assert_eq!(h.signalled_intid(), Some(TIMER));
    }

    #[test]
    fn a_level_line_is_sampled_again_when_its_interrupt_ends() {
        let (mut gic, mut h, dist) = loaded(4);
        gic.set_line(&mut h, &dist, 30, true);
        assert_eq!(h.ack(), Some(30));
        h.eoi(30);
        assert_ne!(h.misr(), 0);
        settle(&mut gic, &mut h, &dist);
        assert_eq!(h.ack(), Some(30), "still high");
        gic.set_line(&mut h, &dist, 30, false);
        h.eoi(30);
        settle(&mut gic, &mut h, &dist);
        assert_eq!(h.ack(), None);
    }

    #[test]
    fn cpu_off_keeps_pending_sgis_and_drops_the_timer() {
        let (mut gic, mut h, dist) = loaded(4);
        for intid in 0..6 {
            gic.inject(&mut h, &dist, intid);
        }
        fire_timer(&mut gic, &mut h, &dist);
        gic.park(&mut h);
        assert!(h.lr.iter().take(4).all(|&lr| lr == 0));
        assert!(!h.active);
        assert_eq!(gic.read(&h, ISPENDR0, 4), 0x3f);
        h.line = false;
        gic.load(&mut h, &dist);
        let mut taken = 0;
        while let Some(intid) = h.ack() {
            taken |= 1 << intid;
            h.eoi(intid);
            settle(&mut gic, &mut h, &dist);
        }
        assert_eq!(taken, 0x3f);
    }

    #[test]
    fn an_sgi_is_taken_only_in_the_group_the_target_holds_it_in() {
        let (mut gic, mut h, dist) = loaded(4);
        gic.write(&mut h, &dist, IGROUPR0, 4, !2);
        gic.receive(&mut h, &dist, 0b110);
        assert_eq!(gic.live(&h).pending, 0b100);
        gic.receive(&mut h, &dist, 0b110 << 16);
        assert_eq!(gic.live(&h).pending, 0b110);
    }

    #[test]
    fn group_0_that_the_guest_does_not_use_keeps_no_list_register_from_group_1() {
        let (mut gic, mut h, dist) = loaded(2);
        gic.write(&mut h, &dist, IGROUPR0, 4, !0xf);
        for intid in 0..4 {
            set_priority(&mut gic, &mut h, &dist, intid, 0);
            gic.inject(&mut h, &dist, intid);
        }
        gic.inject(&mut h, &dist, 7);
        settle(&mut gic, &mut h, &dist);
        assert_eq!(h.ack(), Some(7));
        settle(&mut gic, &mut h, &dist);
        h.eoi(7);
        h.vmcr = h.vmcr.with_igrpen0(1);
        settle(&mut gic, &mut h, &dist);
        assert_eq!(h.ack(), Some(0));
    }

    #[test]
    fn trapping_is_in_ich_hcr_once_loaded() {
        let (mut gic, mut h, dist) = loaded(4);
        let coming_up = Trapping {
            coming_up: true,
            ..Trapping::default()
        };
        gic.set_trapping(&mut h, coming_up);
        assert_eq!(h.hcr, 1 << 10 | 1);
        gic.put(&mut h);
        h.hcr = 0;
        gic.set_trapping(&mut h, Trapping { strict: true, ..coming_up });
        assert_eq!(h.hcr, 0);
        gic.load(&mut h, &dist);
        assert_eq!(h.hcr, 1 << 10 | 1);
        gic.set_trapping(&mut h, Trapping::default());
        assert_eq!(h.hcr, 1);
    }

    #[test]
    fn intids_that_no_vcpu_has_are_ignored() {
        let (mut gic, mut h, dist) = loaded(4);
        let before = gic.clone();
        for intid in [32, 1020, 1023, u32::MAX] {
            gic.inject(&mut h, &dist, intid);
            gic.set_line(&mut h, &dist, intid, true);
            h.vmcr = h.view.apply_write(h.vmcr, EOIMODE);
            gic.deactivate(&mut h, &dist, intid);
        }
        assert_eq!(gic, before);
    }
}
