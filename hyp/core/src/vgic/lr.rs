//! A vCPU's interrupts, and the list registers they pass through: its SGIs and PPIs, and the SPIs that it holds (`lr/spis.rs`).
//!
//! An *index* names an interrupt here: 0 to 31 are the INTIDs of SGIs and PPIs, 32 to 63 the SPIs, in the order they came.
//!
//! An interrupt is in one of two places. In no list register, its state is a bit in each word of `Redist`. In one, the
//! guest acknowledges and ends it without an exit, so pending and active are known only by reading it back (*folding*). `in_lr`
//! says which; everything that needs the truth about an interrupt folds it first, and the ordinary exit needs none of it.
//!
//! When more is pending and active than fits, the rest is *spilled*, and maintenance interrupts bring it back ([`hcr_for`] says
//! which). Two rules keep that sound. The most urgent pending interrupt always has a list register, however many are active, so
//! nothing deliverable waits for a guest that handles its interrupts late. Of the active ones the most urgent stay, so with
//! EOImode 0 an EOIR that finds no list register is for the most urgent of those spilled.
//!
//! A hardware-backed interrupt, the virtual timer or a passed-through device's SPI, keeps one invariant: the physical interrupt is
//! active exactly while the virtual one is pending or active, so it fires again when the guest is done and not before. In a list
//! register with `HW` set the guest's own deactivation sees to that; whatever else ends one (`set_physical`) does it itself.

mod short;
mod spis;
#[cfg(all(test, not(loom)))]
mod tests;

use super::cpuif::{Spill, Trapping, hcr_for};
use super::dist::{Dist, Effect, Spi, Vcpus};
use super::for_each;
use super::redist::{Identity, Live, Redist, SGIS};
use super::sgi::accepted;
use super::vmcr::Vmcr;
use super::{Group, Ich, MAX_LRS, PRIVATE_INTIDS, PhysicalSpis};
use hyp_abi::layout::VTIMER_INTID;

use crate::regs::gic::{ICH_HCR_EL2, ICH_LR_EL2, LrValue};

const NOBODY: u8 = 0xFF;
/// How many interrupts there are: indices.
const INDICES: usize = 64;
/// The indices of SGIs and PPIs.
const PRIVATE: u64 = 0xFFFF_FFFF;
/// The virtual timer.
const TIMER: u64 = 1 << VTIMER_INTID;
const PENDING: u64 = 1;
const ACTIVE: u64 = 2;

/// The interrupts of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuGic {
    words: Redist,
    id: Identity,
    /// Those of `hw` that have come since [`attend`](Self::attend) was last here: it looks at them the next time, when the guest could
    /// take them.
    fresh: u64,
    /// Those that a list register holds or held when it was last looked at.
    in_lr: u64,
    /// Active ones that the guest acknowledged, as opposed to set active by a write: those an EOIR may be for.
    taken: u64,
    /// Enabled and of a group that the distributor forwards.
    open: u64,
    /// Group 1 as of when an active one was acknowledged: it ends by that group's EOIR whatever the guest writes meanwhile.
    taken_group: u64,
    /// Priority as of when an active one was acknowledged: that is the one in the active-priority registers.
    taken_priority: [u8; INDICES],
    /// What each list register was given, if it holds or held an SGI or PPI of this vCPU's that would be shown in the same way again; else 0.
    image: [u64; MAX_LRS],
    /// What each list register holds.
    owner: [u8; MAX_LRS],
    /// The list register of each of `in_lr`.
    slot: [u8; INDICES],
    /// List registers that may be other than zero.
    used: u32,
    spill: Spill,
    trapping: Trapping,
    loaded: bool,
    /// `ICH_HCR_EL2` as last written.
    hcr: u64,
    /// The SPIs that this vCPU holds.
    held: spis::Held,
    /// vCPUs for which something was left in the distributor.
    kicks: Vcpus,
}

impl VcpuGic {
    /// A vCPU's interrupts as after a reset of its VM.
    #[must_use]
    #[inline(always)]
    pub const fn new(id: Identity) -> Self {
        Self {
            words: Redist::new(id, TIMER as u32),
            id,
            fresh: 0,
            in_lr: 0,
            taken: 0,
            open: 0,
            taken_group: 0,
            taken_priority: [0; INDICES],
            image: [0; MAX_LRS],
            owner: [NOBODY; MAX_LRS],
            slot: [0; INDICES],
            used: 0,
            spill: Spill {
                pending: 0,
                active: 0,
                more: false,
            },
            trapping: Trapping {
                coming_up: false,
                strict: false,
                narrowed: false,
            },
            loaded: false,
            hcr: 0,
            held: spis::Held::NONE,
            kicks: 0,
        }
    }

    /// The redistributor's state after a reset of the VM. The vCPU must not be loaded.
    pub fn reset(&mut self) {
        *self = Self {
            trapping: self.trapping,
            ..Self::new(self.id)
        };
    }

    // Coming and going.

    /// Loads the vCPU: its interrupts go into the list registers, which are all zero, the physical ones behind them are set to what it needs, and
    /// `ICH_HCR_EL2` is written.
    pub fn load<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        self.loaded = true;
        self.hcr = 0;
        h.set_timer_active(self.has_timer());
        let words = self.come_online(dist, Vmcr::new(h.vmcr()));
        self.flush_with(h, dist, words);
    }

    /// Takes the vCPU's interrupts out of the list registers, for it to leave its pCPU. Hardware-backed ones stay what they are
    /// in software; physical PPIs are the next vCPU's to set, physical SPIs stay as they are. Pending SPIs go back to the distributor.
    pub fn put<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        self.take_all_out(h);
        if self.words.latch & TIMER != 0 && self.words.written & TIMER == 0 && !h.timer_line() {
            // Fallen since the last `attend`. Nobody sees it pending meanwhile, nor wakes the vCPU for it.
            self.words.latch &= !TIMER;
        }
        self.release_waiting(dist);
        // What is routed to this vCPU again waits for its next load, or wakes it.
        self.kicks &= !self.me();
    }

    fn take_all_out<H: Ich>(&mut self, h: &mut H) {
        self.fold(h);
        self.clear_from(h, 0);
        self.spill = Spill::default();
        self.loaded = false;
    }

    /// CPU_OFF, reset or stop: as [`put`](Self::put), and hardware-backed PPIs are neither pending nor active any more, here
    /// and in the physical GIC. Other pending SGIs and PPIs stay. SPIs go back to the distributor and are routed again, active ones
    /// stay active there, and so do the physical ones behind them.
    pub fn park<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        let loaded = self.loaded;
        self.take_all_out(h);
        self.go_offline(dist);
        self.words.latch &= !self.words.hw;
        self.words.written &= !self.words.hw;
        self.words.active &= !self.words.hw;
        // The active-priority registers start from zero: no EOIR will be for what is active now.
        self.taken = 0;
        if loaded {
            h.set_timer_active(false);
        }
    }

    /// Whether the virtual timer's interrupt, in no list register, is pending or active.
    const fn has_timer(&self) -> bool {
        (self.words.latch | self.words.active) & TIMER != 0
    }

    /// Sets why the common registers trap: from the next [`load`](Self::load) or [`vmcr_changed`](Self::vmcr_changed).
    pub const fn will_trap(&mut self, trapping: Trapping) {
        self.trapping = trapping;
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
        if let Some(again) = self.again(h, intid) {
            let (slot, image) = self.showing(again);
            return h.set_lr(slot, image);
        }
        self.take_out(h, intid);
        self.words.latch |= 1u64 << intid;
        self.put_in(h, dist, intid);
    }

    /// The physical interrupt behind `intid` fired on this pCPU and is active now (EL2 has dropped its priority and no more).
    pub fn inject_hw<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32) {
        self.inject(h, dist, intid);
    }

    /// The SGIs of `word`, which came out of this vCPU's inbox or from its own SGI register.
    pub fn receive<H: Ich>(&mut self, h: &mut H, dist: &Dist, word: u32) {
        for_each(accepted(word, self.words.group as u32).into(), |intid| self.inject(h, dist, intid));
    }

    /// The emulated line of PPI `intid` is `high` now.
    pub fn set_line<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32, high: bool) {
        if intid >= PRIVATE_INTIDS {
            return;
        }
        let bit = 1u64 << intid & !SGIS & !self.words.hw;
        let line = if high { self.words.line | bit } else { self.words.line & !bit };
        if line == self.words.line {
            return;
        }
        self.take_out(h, intid);
        self.words.line = line;
        self.put_in(h, dist, intid);
    }

    /// The guest wrote `intid` to `ICC_DIR_EL1` and that trapped. Without EOImode 1 such a write does nothing. An SPI that this vCPU
    /// does not hold is another's to deactivate, or the distributor's: the effect says.
    pub fn deactivate<H: Ich>(&mut self, h: &mut H, dist: &Dist, intid: u32) -> Effect {
        if !Vmcr::new(h.vmcr()).splits_eoi() {
            return Effect::default();
        }
        let index = match Spi::of(intid) {
            None if intid < PRIVATE_INTIDS => intid,
            None => return Effect::default(),
            Some(spi) => match self.held.find(spi) {
                Some(index) => index,
                None => return dist.deactivate(h.spis(), spi),
            },
        };
        self.fold(h);
        self.end(h, index);
        self.flush(h, dist);
        Effect::default()
    }

    // Exits.

    /// Whether the next [`attend`](Self::attend) has something to do: a hardware-backed interrupt may still be pending. Two
    /// loads, for the ordinary exit path. The inbox is asked separately ([`super::sgi::Inbox::is_empty`]).
    #[must_use]
    pub const fn needs_attention(&self) -> bool {
        self.words.latch & self.words.hw & !self.words.written != 0
    }

    /// Whether [`needs_attention`](Self::needs_attention) may be: less to look at.
    #[must_use]
    #[inline(always)]
    pub const fn may_need_attention(&self) -> bool {
        self.words.latch & self.words.hw != 0
    }

    /// Withdraws hardware-backed interrupts that the guest has not taken and whose line has fallen: hardware would not show them
    /// any more. Their physical interrupt is deactivated, so that the next edge fires. At the end of an exit that took a physical
    /// interrupt, and at the beginning of every other.
    pub fn attend<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        let old = !core::mem::take(&mut self.fresh);
        for_each(self.words.latch & self.words.hw & !self.words.written & old, |index| {
            self.withdraw(h, dist, index);
        });
    }

    fn withdraw<H: Ich>(&mut self, h: &mut H, dist: &Dist, index: u32) {
        let bit = 1u64 << (index & 63);
        if self.words.latch & self.words.hw & !self.words.written & !self.fresh & bit == 0 {
            // Withdrawing another has moved it.
            return;
        }
        if self.in_lr & self.words.shown & bit != 0 {
            let lr = h.lr(self.slot_of(index));
            if LrValue::new(lr).read(ICH_LR_EL2::State) & PENDING == 0 {
                // Taken: what is in the list register is active or over, and the guest's EOI reaches the physical interrupt.
                self.words.latch &= !bit;
                self.words.shown &= !bit;
                self.taken |= bit;
                return;
            }
        }
        if self.asserted(h, index) {
            return;
        }
        self.take_out(h, index);
        self.words.latch &= !bit;
        self.set_physical(h, index, self.words.active & bit != 0);
        self.put_back(h, dist, index);
        if self.spill.any() {
            self.refresh(h, dist);
        }
    }

    /// Whether the line behind `index`, hardware-backed and pending, is high.
    fn asserted<H: Ich>(&self, h: &H, index: u32) -> bool {
        if index < PRIVATE_INTIDS {
            h.timer_line()
        } else {
            h.spis().asserted(self.intid(index))
        }
    }

    /// Sets the active state of the physical interrupt behind `index`. After whatever makes it so in software.
    fn set_physical<H: Ich>(&self, h: &mut H, index: u32, active: bool) {
        if index < PRIVATE_INTIDS {
            h.set_timer_active(active);
        } else {
            let spi = self.held.spi(index);
            h.spis().set_active(spi.word(), spi.bit(), active);
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
            let index = u32::from(self.owner[i & (MAX_LRS - 1)]);
            if ended >> i & 1 != 0 && index < INDICES as u32 {
                self.take_out(h, index);
                self.put_back(h, dist, index);
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

    /// Which SGIs and PPIs are pending and active now, list registers and hardware lines included.
    #[must_use]
    pub fn live<H: Ich>(&self, h: &H) -> Live {
        let (pending, active) = self.state(h);
        Live {
            pending: pending as u32,
            active: active as u32,
        }
    }

    /// What is pending and active now, by index.
    #[inline]
    fn state<H: Ich>(&self, h: &H) -> (u64, u64) {
        if self.loaded {
            self.state_loaded(h)
        } else {
            (self.words.pending(), self.words.active)
        }
    }

    #[inline(never)]
    fn state_loaded<H: Ich>(&self, h: &H) -> (u64, u64) {
        let mut pending = self.words.pending() & !(self.in_lr & self.words.shown & !self.words.line);
        let mut active = self.words.active & !self.in_lr;
        if active != 0 {
            // Without a list register: what the guest has ended of them waits for the maintenance interrupt.
            active &= !self.ended(h);
        }
        for_each(self.in_lr, |index| {
            let state = LrValue::new(h.lr(self.slot_of(index))).read(ICH_LR_EL2::State);
            pending |= (state & PENDING) << index;
            active |= ((state & ACTIVE) >> 1) << index;
        });
        if self.words.written & TIMER == 0 {
            // Pending with its line, whatever a list register shows until it is withdrawn.
            pending &= !TIMER;
        }
        if h.timer_line() {
            pending |= TIMER;
        }
        (pending, active)
    }

    /// A guest's read of `size` bytes at `offset` from this vCPU's `RD_base`; both frames.
    #[must_use]
    pub fn read<H: Ich>(&self, h: &H, offset: u64, size: u64) -> u64 {
        match self.read_plain(offset, size) {
            Some(value) => value,
            None => Redist::read_state(offset, self.live(h)),
        }
    }

    /// [`read`](Self::read) of everything but pending and active state, which is `None`.
    #[inline(always)]
    #[must_use]
    pub fn read_plain(&self, offset: u64, size: u64) -> Option<u64> {
        self.words.read_plain(offset, size)
    }

    /// A guest's write of `size` bytes at `offset`. Pending and active state of hardware-backed interrupts reaches the physical
    /// GIC; what goes into the list registers follows at once.
    pub fn write<H: Ich>(&mut self, h: &mut H, dist: &Dist, offset: u64, size: u64, value: u64) {
        if Redist::writes_state(offset, size) {
            self.fold(h);
            let before = self.has_timer();
            self.words.write_state(offset, value as u32);
            self.taken &= self.words.active;
            let after = self.has_timer();
            if self.loaded && before != after {
                // A pending state taken back from the timer while its line is still high must let it fire again.
                h.set_timer_active(after);
            }
            return self.flush(h, dist);
        }
        let changed = u64::from(self.words.write(offset, size, value));
        if changed & (self.in_lr | self.words.pending() | self.words.active) != 0 {
            self.refresh(h, dist);
        } else if changed != 0 {
            self.open = self.words.enabled & dist.forwarded(self.words.group);
        }
    }

    /// Whether an interrupt is there that would wake the vCPU from WFI or interrupt it: pending, enabled, its group enabled at
    /// both ends, more urgent than the priority mask and than what runs. `PSTATE.I` and `PSTATE.F` do not matter. SPIs that wait
    /// in the distributor for this vCPU count.
    #[must_use]
    pub fn wakes<H: Ich>(&self, h: &H, dist: &Dist, vmcr: Vmcr, running: u64) -> bool {
        let (pending, active) = self.state(h);
        let candidates = pending & !active & self.open & self.groups_on(vmcr);
        candidates != 0 && self.are_urgent(candidates, vmcr, running)
            || dist.has_spis(self.id.index) && dist.wakes(self.id.index, vmcr, running)
    }

    /// Whether one of `candidates` is more urgent than the priority mask and than what runs.
    #[inline(never)]
    fn are_urgent(&self, candidates: u64, vmcr: Vmcr, running: u64) -> bool {
        let mut urgent = false;
        for_each(candidates, |index| {
            let group = if self.words.group >> index & 1 != 0 {
                Group::One
            } else {
                Group::Zero
            };
            urgent |= vmcr.is_urgent(self.words.priority(index), group, running);
        });
        urgent
    }

    /// Whether no interrupt is there at all: then none [wakes](Self::wakes) the vCPU, whatever its CPU interface says. Physical lines
    /// are not looked at: a vCPU that is loaded is told of them.
    #[must_use]
    #[inline]
    pub fn is_quiet(&self, dist: &Dist) -> bool {
        self.in_lr | self.words.pending() == 0 && !dist.has_spis(self.id.index)
    }

    /// The interrupts whose group the guest has enabled at its CPU interface.
    fn groups_on(&self, vmcr: Vmcr) -> u64 {
        let zero = if vmcr.igrpen0() != 0 { !self.words.group } else { 0 };
        let one = if vmcr.igrpen1() != 0 { self.words.group } else { 0 };
        zero | one
    }

    /// What is spilled.
    #[must_use]
    pub const fn spill(&self) -> Spill {
        self.spill
    }

    /// Whether `GICR_ISENABLER0` has SGI or PPI `intid` enabled.
    #[must_use]
    pub const fn is_enabled(&self, intid: u32) -> bool {
        self.words.enabled >> (intid & 31) & 1 != 0
    }

    /// `GICR_IGROUPR0`: the INTIDs in group 1.
    #[must_use]
    pub const fn group1(&self) -> u32 {
        self.words.group as u32
    }

    // List registers.

    fn slot_of(&self, index: u32) -> usize {
        usize::from(self.slot[(index & 63) as usize]) & (MAX_LRS - 1)
    }

    /// Folds `index` if a list register holds it, and empties that.
    fn take_out<H: Ich>(&mut self, h: &mut H, index: u32) {
        if self.in_lr >> (index & 63) & 1 == 0 {
            return;
        }
        let i = self.slot_of(index);
        self.fold_slot(h, i);
        h.set_lr(i, 0);
        self.used &= !(1 << i);
    }

    /// Gives `index`, which is in no list register, one if it needs it.
    fn put_in<H: Ich>(&mut self, h: &mut H, dist: &Dist, index: u32) {
        let bit = 1u64 << (index & 63);
        if !self.loaded || (self.words.active | self.words.pending() & self.open) & bit == 0 {
            return;
        }
        let present = if h.count() >= MAX_LRS { 0xFFFF } else { (1 << h.count()) - 1 };
        let free = h.elrsr() as u32 & present;
        if free == 0 || self.spill.any() {
            return self.refresh(h, dist);
        }
        let free = if index == VTIMER_INTID || free == self.kept() {
            free
        } else {
            free & !self.kept()
        };
        let i = free.trailing_zeros() as usize & (MAX_LRS - 1);
        if self.owner[i] != NOBODY {
            self.fold_slot(h, i);
        }
        self.fill(h, i, index, false);
    }

    /// Reads list register `i` back into the words. It still holds what it held: to be emptied or filled by the caller.
    fn fold_slot<H: Ich>(&mut self, h: &mut H, i: usize) {
        let index = u32::from(core::mem::replace(&mut self.owner[i & (MAX_LRS - 1)], NOBODY));
        if index >= INDICES as u32 {
            return;
        }
        let bit = 1u64 << index;
        self.image[i & (MAX_LRS - 1)] = 0;
        let lr = LrValue::new(h.lr(i));
        let state = lr.read(ICH_LR_EL2::State);
        if self.words.shown & bit != 0 && state & PENDING == 0 {
            self.words.latch &= !bit;
            self.words.written &= !bit;
            self.taken |= bit;
        }
        self.in_lr &= !bit;
        self.words.shown &= !bit;
        if state & ACTIVE != 0 {
            self.words.active |= bit;
            self.taken_priority[index as usize & 63] = lr.read(ICH_LR_EL2::Priority) as u8;
            self.taken_group = self.taken_group & !bit | lr.read(ICH_LR_EL2::Group) << index;
        } else {
            self.words.active &= !bit;
            self.taken &= !bit;
            // An entry that only software stood behind: its end has not reached the physical interrupt.
            if self.words.hw & bit != 0 && !lr.is_set(ICH_LR_EL2::HW) && self.words.latch & bit == 0 {
                self.set_physical(h, index, false);
            }
        }
    }

    /// Reads every list register back, and what the guest ended without one.
    fn fold<H: Ich>(&mut self, h: &mut H) {
        if self.has_ends(h) {
            self.count_ends(h);
        }
        for_each(self.used.into(), |i| self.fold_slot(h, i as usize));
    }

    /// Whether the guest has ended interrupts without a list register.
    pub(super) fn has_ends<H: Ich>(&self, h: &H) -> bool {
        self.spill.active != 0 && ICH_HCR_EL2::EOIcount.read(h.hcr()) != 0
    }

    /// Ends spilled active interrupts that the guest has ended. The list registers are filled anew after this: one of those may be
    /// pending again.
    fn count_ends<H: Ich>(&mut self, h: &mut H) {
        for_each(self.ended(h), |index| self.end(h, index));
        self.spill.active &= self.words.active;
        // The next write of ICH_HCR_EL2 is due even if nothing but the count differs.
        self.hcr = 0;
    }

    /// Spilled active interrupts that the guest has ended: the most urgent, as many as EOIcount says. With EOImode 1 the count says
    /// nothing, unless the guest has just changed to that: DIR traps, and what some implementations count besides is not a deactivation.
    fn ended<H: Ich>(&self, h: &H) -> u64 {
        let (vmcr, mut ended) = (Vmcr::new(h.vmcr()), 0);
        if !vmcr.splits_eoi() || ICH_HCR_EL2::LRENPIE.is_set(self.hcr) {
            for _ in 0..ICH_HCR_EL2::EOIcount.read(h.hcr()) {
                let Some(index) = self.innermost(self.spill.active & self.taken & !ended, vmcr) else {
                    break;
                };
                ended |= 1 << index;
            }
        }
        ended
    }

    /// `index`, in no list register, is active no more.
    fn end<H: Ich>(&mut self, h: &mut H, index: u32) {
        let bit = 1u64 << (index & 63);
        if self.words.active & bit == 0 {
            return;
        }
        self.words.active &= !bit;
        self.taken &= !bit;
        if self.words.hw & !self.words.latch & bit != 0 {
            self.set_physical(h, index, false);
        }
    }

    /// Fills the list registers; everything is in the words, nothing in them counts.
    fn flush<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        self.flush_with(h, dist, 0);
    }

    /// [`flush`](Self::flush), and SPIs may be in these words of the distributor.
    fn flush_with<H: Ich>(&mut self, h: &mut H, dist: &Dist, words: u32) {
        self.gather(h, dist, words);
        self.open = self.words.enabled & dist.forwarded(self.words.group);
        if !self.loaded {
            return;
        }
        let count = h.count().min(MAX_LRS);
        let mut active = self.words.active;
        let mut pending = self.words.pending() & self.open & !active;
        if active | pending | u64::from(self.used | self.held.more) == 0 {
            // Nothing to show, and nothing shown: as a vCPU comes up, and mostly as one comes back.
            self.spill = Spill::default();
            return self.write_hcr(h);
        }
        let mut filled = 0;
        if (active | pending).count_ones() as usize <= count {
            for_each(active | pending, |index| {
                self.fill(h, filled, index, false);
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
                let Some(index) = next.or_else(|| self.most_urgent(pending)) else {
                    break;
                };
                self.fill(h, filled, index, true);
                filled += 1;
                active &= !(1 << index);
                pending &= !(1 << index);
            }
        }
        self.clear_from(h, filled);
        self.spill = Spill {
            pending,
            active,
            more: self.held.more != 0,
        };
        self.write_hcr(h);
    }

    /// Empties list registers `first` and above.
    fn clear_from<H: Ich>(&mut self, h: &mut H, first: usize) {
        for_each((self.used >> first).into(), |i| h.set_lr(first + i as usize, 0));
        self.used &= (1 << first.min(MAX_LRS)) - 1;
    }

    /// The pending one of `candidates` with the lowest priority value, the lowest of those.
    fn most_urgent(&self, candidates: u64) -> Option<u32> {
        lowest(candidates, |index| self.words.priority(index))
    }

    /// The active one of `candidates` that runs innermost: what preempts is the part of its priority, as of when it was taken,
    /// that its group's binary point leaves.
    fn innermost(&self, candidates: u64, vmcr: Vmcr) -> Option<u32> {
        lowest(candidates, |index| self.level(index, vmcr))
    }

    fn level(&self, index: u32, vmcr: Vmcr) -> u8 {
        if self.taken >> (index & 63) & 1 == 0 {
            return self.words.priority(index);
        }
        let group = if self.taken_group >> (index & 63) & 1 != 0 {
            Group::One
        } else {
            Group::Zero
        };
        self.taken_priority[index as usize & 63] & vmcr.preempting(group) as u8
    }

    /// Puts `index`, which is active, or pending and open, into list register `i`; `crowded` if others find no place.
    fn fill<H: Ich>(&mut self, h: &mut H, i: usize, index: u32, crowded: bool) {
        let bit = 1u64 << (index & 63);
        let (mut priority, mut group) = (self.words.priority(index), self.words.group);
        // One that a line stands behind is looked at when it ends.
        let mut watched = self.words.line & bit != 0;
        let state = if self.words.active & bit == 0 {
            PENDING
        } else {
            // A line that is high makes an active interrupt pending again only when it ends: it is sampled then.
            let again = self.words.latch & bit != 0;
            // Hardware does not do all that is needed.
            watched |= again && self.words.hw & bit != 0;
            // Pending behind its own active state, it would come to the fore at its end without an exit; among others that are spilled,
            // whose turn it is must be asked then. An SPI that is another vCPU's now goes there then.
            let mut waits = crowded || self.held.elsewhere & bit != 0;
            if self.taken & bit != 0 {
                let (new_priority, new_group) = (priority, group);
                priority = self.taken_priority[index as usize & 63];
                group = self.taken_group;
                // Pending again, but not as it was taken: a list register has one priority and one group.
                waits |= priority != new_priority || (group ^ new_group) & bit != 0;
            }
            if !again || self.open & bit == 0 {
                ACTIVE
            } else if waits {
                watched = true;
                ACTIVE
            } else {
                ACTIVE | PENDING
            }
        };
        let mut lr = ICH_LR_EL2::vINTID.val(u64::from(self.intid(index)))
            + ICH_LR_EL2::Priority.val(u64::from(priority))
            + ICH_LR_EL2::Group.val(u64::from(group & bit != 0))
            + ICH_LR_EL2::State.val(state);
        if watched {
            lr += ICH_LR_EL2::EOI::SET;
        } else if self.words.hw & bit != 0 {
            lr += ICH_LR_EL2::HW::SET + ICH_LR_EL2::pINTID.val(u64::from(self.intid(index)));
        }
        let again = state == PENDING && !watched && !crowded && index < PRIVATE_INTIDS && self.words.written & bit == 0;
        self.image[i & (MAX_LRS - 1)] = if again { lr.value } else { 0 };
        self.in_lr |= bit;
        self.words.shown = self.words.shown & !bit | if state & PENDING != 0 { bit } else { 0 };
        self.owner[i & (MAX_LRS - 1)] = index as u8;
        self.slot[index as usize & 63] = i as u8;
        self.used |= 1 << (i & (MAX_LRS - 1));
        h.set_lr(i, lr.value);
    }

    /// Writes `ICH_HCR_EL2` if it differs from what was last written.
    fn write_hcr<H: Ich>(&mut self, h: &mut H) {
        if !self.loaded {
            return;
        }
        let spis = self.held.used_at_all;
        let vmcr = if spis || self.spill.any() {
            Vmcr::new(h.vmcr())
        } else {
            Vmcr::default()
        };
        let hcr = hcr_for(self.trapping, self.spill, spis, vmcr, h);
        if hcr != self.hcr {
            self.hcr = hcr;
            h.set_hcr(hcr);
        }
    }
}

/// The number of the bit of `candidates` with the lowest `key`, the first of those.
fn lowest(candidates: u64, key: impl Fn(u32) -> u8) -> Option<u32> {
    let mut best: Option<(u8, u32)> = None;
    for_each(candidates, |index| {
        let key = key(index);
        if best.is_none_or(|(least, _)| key < least) {
            best = Some((key, index));
        }
    });
    best.map(|(_, index)| index)
}
