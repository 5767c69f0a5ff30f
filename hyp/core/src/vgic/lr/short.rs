//! What comes often, in few instructions: each of these does what the long way of the same name does, or says that it cannot and
//! has done nothing. The model tests go through both.
//!
//! `ICH_ELRSR_EL2` shows what was written to a list register only after a barrier, which these do without. So those that take an
//! empty list register for the end of what was in it come first in an exit, before anything is written; [`VcpuGic::show_again`] may
//! come at any time, because to write the same image twice is to write it once.

use super::{Dist, Ich, Redist, VcpuGic};
use crate::regs::gic::ICH_LR_EL2;
use crate::vgic::redist::IPRIORITYR0;
use hyp_abi::layout::VTIMER_INTID;

/// How an interrupt is shown once more: the list register, and what it is given.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    intid: u32,
    slot: usize,
    image: u64,
}

impl VcpuGic {
    /// [`inject`](Self::inject) of an SGI or PPI, when it can be [shown](Self::show) [again](Self::again). False, and nothing happens: it
    /// cannot. For the virtual timer the vectors do just this.
    #[inline(always)]
    pub fn show_again<H: Ich>(&mut self, h: &mut H, intid: u32) -> bool {
        let Some(again) = self.again(h, intid) else {
            return false;
        };
        self.show(h, again);
        true
    }

    /// How SGI or PPI `intid` is shown, when the list register in which it was last shown is empty and nothing about it has changed
    /// since: its image is all there is to write.
    #[inline(always)]
    #[must_use]
    pub fn again<H: Ich>(&self, h: &H, intid: u32) -> Option<Again> {
        let (slot, image) = (self.slot_of(intid & 31), self.image_of(intid & 31));
        let shown = image & ICH_LR_EL2::State::Pending.value != 0;
        (shown && h.elrsr_at_exit() >> slot & 1 != 0).then_some(Again { intid, slot, image })
    }

    /// Makes it pending, as [`again`](Self::again) has just said.
    #[inline(always)]
    pub fn show<H: Ich>(&mut self, h: &mut H, again: Again) {
        let (slot, image) = self.showing(again);
        h.set_lr_in_place(slot, image);
    }

    /// [`show`](Self::show), but for the list register: which, and its image.
    #[inline(always)]
    pub(super) const fn showing(&mut self, again: Again) -> (usize, u64) {
        let bit = 1u64 << (again.intid & 31);
        self.words.latch |= bit;
        self.words.shown |= bit;
        (again.slot, again.image)
    }

    /// What the list register of `intid` held when that was shown; 0 if it may be something else by now. An image names its interrupt.
    #[inline(always)]
    fn image_of(&self, intid: u32) -> u64 {
        let image = self.image[self.slot_of(intid)];
        if image as u32 == intid { image } else { 0 }
    }

    /// The list register that is better left to the virtual timer, as a bit.
    pub(super) fn kept(&self) -> u32 {
        if self.image_of(VTIMER_INTID) == 0 {
            0
        } else {
            1 << self.slot_of(VTIMER_INTID)
        }
    }

    /// Where in it the list registers' images are, 8 bytes each: 0, or what was last written to it for the interrupt that owns it.
    pub const IMAGE: usize = core::mem::offset_of!(Self, image);
    /// Where in it the byte is that says which list register is the virtual timer's.
    pub const TIMER_SLOT: usize = core::mem::offset_of!(Self, slot) + VTIMER_INTID as usize;
    /// Where in it the word is that has a bit for each interrupt that was made pending, and behind it that for each interrupt that went
    /// into its list register pending.
    pub const LATCH: usize = core::mem::offset_of!(Self, words) + Redist::LATCH;

    /// [`attend`](Self::attend), if it has nothing to withdraw: the virtual timer's interrupt was taken and is over. False: it may have,
    /// or there is more. No list register was written since the exit.
    #[inline(always)]
    pub fn attend_ended<H: Ich>(&mut self, h: &H) -> bool {
        let (bit, slot) = (1u64 << VTIMER_INTID, self.slot_of(VTIMER_INTID));
        let its_own = self.words.latch & self.words.hw & !self.words.written == bit && u32::from(self.owner[slot]) == VTIMER_INTID;
        if !its_own || h.elrsr_at_exit() >> slot & 1 == 0 {
            return false;
        }
        self.words.latch &= !bit;
        self.words.shown &= !bit;
        true
    }

    /// [`read`](Self::read) of the loaded vCPU, unless it is of pending or active state and a list register holds some, or of active state and
    /// an interrupt is active without one. No list register was written since the exit.
    #[inline(always)]
    #[must_use]
    pub fn read_short<H: Ich>(&self, h: &H, offset: u64, size: u64) -> Option<u64> {
        match self.read_plain(offset, size) {
            None if h.all_empty_at_exit() => self.state_apart(h, Redist::is_pending(offset)).map(u64::from),
            value => value,
        }
    }

    /// Pending or active as [`live`](Self::live) has it, while every list register is empty; `None` if that takes more.
    #[inline(always)]
    fn state_apart<H: Ich>(&self, h: &H, pending: bool) -> Option<u32> {
        if !pending {
            return (self.words.active & !self.in_lr == 0).then_some(0);
        }
        let timer = u64::from(h.timer_line()) << VTIMER_INTID;
        Some((self.words.latch & !(self.in_lr & self.words.shown) | self.words.line | timer) as u32)
    }

    /// [`write`](Self::write) of a word that is neither pending nor active state, and that changes nothing of an interrupt which is one of
    /// the two.
    #[inline]
    pub fn write_plain(&mut self, dist: &Dist, offset: u64, value: u32) -> bool {
        let concerned = self.in_lr | self.words.pending() | self.words.active;
        let Some(changed) = self.words.write_apart(offset, value, concerned as u32) else {
            return false;
        };
        if changed != 0 && offset < IPRIORITYR0 {
            self.open = self.words.enabled & dist.forwarded(self.words.group);
        }
        true
    }
}
