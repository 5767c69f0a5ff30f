//! What comes often, in few instructions: each of these does what the long way of the same name does, or says that it cannot and
//! has done nothing. The model tests go through them whenever they can.

use super::{Dist, Group, Ich, Live, NOBODY, PENDING, PRIVATE_INTIDS, Redist, VcpuGic, accepted};
use crate::regs::gic::ICH_LR_EL2;
use crate::vgic::MAX_LRS;
use hyp_abi::layout::VTIMER_INTID;

/// How the virtual timer's interrupt can be shown again without a look at anything else: see [`VcpuGic::fire_again`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Again {
    /// What goes into its list register; 0 if it cannot.
    value: u64,
    /// Which list register.
    slot: u64,
}

impl Again {
    pub(super) const UNKNOWN: Self = Self { value: 0, slot: 0 };

    /// List register `slot` was given `value`.
    pub(super) const fn new(value: u64, slot: usize) -> Self {
        Self { value, slot: slot as u64 }
    }

    /// List register `slot` is read back: what is known of it counts no more.
    pub(super) const fn forget(&mut self, slot: usize) {
        if self.slot == slot as u64 {
            self.value = 0;
        }
    }

    /// The list register to be kept free, as a bit.
    const fn kept(self) -> u64 {
        if self.value == 0 { 0 } else { 1 << (self.slot & 15) }
    }
}

impl VcpuGic {
    /// [`inject_hw`](Self::inject_hw) for the virtual timer, when the list register in which it was last shown is empty and nothing
    /// about it has changed. False, and nothing happens: it is not so. The vectors do just this, by [`AGAIN`](Self::AGAIN),
    /// [`LATCH`](Self::LATCH) and [`SHOWN`](Self::SHOWN); here it is for the tests, which hold it against the long way.
    pub fn fire_again<H: Ich>(&mut self, h: &mut H) -> bool {
        let Again { value, slot } = self.again;
        if value == 0 || h.elrsr_at_exit() >> slot & 1 == 0 {
            return false;
        }
        h.set_lr(slot as usize, value);
        self.words.latch |= 1 << VTIMER_INTID;
        self.shown |= 1 << VTIMER_INTID;
        true
    }

    /// Where in it two words are: what the virtual timer's list register is to hold (0: nothing is known), and which one it is.
    pub const AGAIN: usize = core::mem::offset_of!(Self, again);
    /// Where in it the word is that has a bit for each interrupt that was made pending.
    pub const LATCH: usize = core::mem::offset_of!(Self, words) + Redist::LATCH;
    /// Where in it the word is that has a bit for each interrupt that went into its list register pending.
    pub const SHOWN: usize = core::mem::offset_of!(Self, shown);

    /// [`attend`](Self::attend), if it has nothing to withdraw: the virtual timer's interrupt was taken and is over. False: it may have,
    /// or there is more.
    #[inline(always)]
    pub fn attend_ended<H: Ich>(&mut self, h: &H) -> bool {
        let bit = 1u64 << VTIMER_INTID;
        let Again { value, slot } = self.again;
        if self.words.latch & self.hw & !self.words.written != bit || value == 0 || h.elrsr_at_exit() >> slot & 1 == 0 {
            return false;
        }
        self.words.latch &= !bit;
        self.shown &= !bit;
        true
    }

    /// [`inject`](Self::inject) of an interrupt that is deliverable and software's alone, when it is neither pending nor active, and an
    /// empty list register is there for it. No list register was written since the exit.
    pub(super) fn inject_plain<H: Ich>(&mut self, h: &mut H, intid: u32) -> bool {
        let bit = 1u64 << (intid & 31);
        if !self.loaded || intid >= PRIVATE_INTIDS || self.open & !self.hw & bit == 0 || self.spill.any() {
            return false;
        }
        let empty = h.elrsr_at_exit() & ((1 << h.count().min(MAX_LRS)) - 1);
        if self.in_lr & bit == 0 && !self.claim_empty(empty, intid) {
            return false;
        }
        self.inject_sgi(h, intid)
    }

    /// [`inject`](Self::inject) of an SGI, when the list register in which it was last shown is empty and still its own. No list
    /// register was written since the exit.
    #[inline(always)]
    pub fn inject_sgi<H: Ich>(&mut self, h: &mut H, intid: u32) -> bool {
        let (bit, intid) = (1u64 << (intid & 31), intid & 31);
        let slot = self.slot_of(intid);
        let ready = self.in_lr & self.open & !self.hw & !self.wants_more() & bit != 0;
        if !ready || h.elrsr_at_exit() >> slot & 1 == 0 || self.spill.any() {
            return false;
        }
        let lr = ICH_LR_EL2::vINTID.val(u64::from(intid))
            + ICH_LR_EL2::Priority.val(u64::from(self.words.priority(intid)))
            + ICH_LR_EL2::Group.val(self.words.group >> intid & 1)
            + ICH_LR_EL2::State.val(PENDING);
        h.set_lr(slot, lr.value);
        self.words.active &= !bit;
        self.taken &= !bit;
        self.words.written &= !bit;
        self.words.latch |= bit;
        self.shown |= bit;
        true
    }

    /// Gives one of the `empty` list registers to `intid`, which has none, if it is neither pending nor active.
    fn claim_empty(&mut self, empty: u64, intid: u32) -> bool {
        let bit = 1u64 << (intid & 31);
        let slot = (empty & !self.again.kept()).trailing_zeros() as usize;
        let owner = self.owner.get(slot).copied();
        if (self.words.pending() | self.words.active) & bit != 0 || !owner.is_some_and(|owner| owner == NOBODY || self.forget_ended(owner))
        {
            return false;
        }
        self.in_lr |= bit;
        if let (Some(owner), Some(place)) = (self.owner.get_mut(slot), self.slot.get_mut(intid as usize)) {
            (*owner, *place) = (intid as u8, slot as u8);
        }
        self.used |= 1 << slot;
        true
    }

    /// [`read`](Self::read), unless it is of pending or active state and a list register holds some.
    #[inline(always)]
    #[must_use]
    pub fn read_short<H: Ich>(&self, h: &H, offset: u64, size: u64) -> Option<u64> {
        match self.read_plain(offset, size) {
            None => self.live_apart(h).map(|live| Redist::read_state(offset, live)),
            value => value,
        }
    }

    /// [`live`](Self::live) while every list register is empty. None was written since the exit.
    fn live_apart<H: Ich>(&self, h: &H) -> Option<Live> {
        if !self.loaded || !h.elrsr_at_exit() & ((1 << h.count().min(MAX_LRS)) - 1) != 0 {
            return None;
        }
        let pending = self.words.pending() & !(self.in_lr & self.shown & !self.words.line);
        let timer = u64::from(h.line(VTIMER_INTID)) << VTIMER_INTID;
        Some(Live {
            pending: (pending | self.hw & timer) as u32,
            active: (self.words.active & !self.in_lr) as u32,
        })
    }

    /// [`write`](Self::write) of a word that is neither pending nor active state, and that changes nothing of an interrupt which is one of
    /// the two.
    #[inline]
    pub fn write_plain(&mut self, dist: &Dist, offset: u64, value: u32) -> bool {
        if Redist::writes_state(offset, 4) || offset & 3 != 0 {
            return false;
        }
        let concerned = self.in_lr | self.words.pending() | self.words.active;
        let Some(changed) = self.words.write_apart(offset, value, concerned as u32) else {
            return false;
        };
        if changed {
            self.open = self.words.enabled & dist.forwarded(self.words.group);
        }
        true
    }

    /// The SGI of `word`, which has one, if the vCPU takes it.
    #[must_use]
    #[inline(always)]
    pub const fn accepts(&self, word: u32) -> Option<u32> {
        let accepted = accepted(word, self.words.group as u32);
        if accepted == 0 { None } else { Some(accepted.trailing_zeros()) }
    }

    /// The group of SGI or PPI `intid`.
    #[must_use]
    #[inline]
    pub const fn group_of(&self, intid: u32) -> Group {
        if self.words.group >> (intid & 31) & 1 != 0 {
            Group::One
        } else {
            Group::Zero
        }
    }

    /// Those that are to be looked at when what their list registers hold is over.
    const fn wants_more(&self) -> u64 {
        self.words.line | self.words.latch & !self.shown
    }

    /// What list register `owner` was in is over and asked for nothing: its state follows, if that is all there is to it.
    fn forget_ended(&mut self, owner: u8) -> bool {
        let bit = 1u64 << (owner & 31);
        if u32::from(owner) >= PRIVATE_INTIDS || (self.hw | self.wants_more()) & bit != 0 {
            return false;
        }
        if self.shown & bit != 0 {
            self.words.latch &= !bit;
            self.words.written &= !bit;
        }
        self.in_lr &= !bit;
        self.shown &= !bit;
        self.words.active &= !bit;
        self.taken &= !bit;
        true
    }
}
