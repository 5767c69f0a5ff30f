//! The SPIs that a vCPU holds: those it claimed from the distributor and has not given back.
//!
//! A vCPU holds an SPI while it may be in a list register: from when it is pending and routed here until it is neither pending nor
//! active, or not for this vCPU any more. An active one stays until its end, also while the vCPU is not loaded; a pending one goes
//! back when the vCPU is put. At most 32 are held. When more are pending for this vCPU, it holds the most urgent, and NPIE brings it
//! back for the rest; when 32 are active, which takes EOImode 1, the least urgent waits in the distributor for its DIR.

#[cfg(all(test, not(loom)))]
mod physical_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use super::{Dist, INDICES, Ich, PRIVATE, PRIVATE_INTIDS, Spi, VcpuGic, Vcpus, Vmcr, for_each};
use crate::vgic::PhysicalSpis;
use crate::vgic::dist::{SpiAsk, SpiOp, State};

/// How many SPIs a vCPU can hold.
const PLACES: usize = INDICES - PRIVATE_INTIDS as usize;

/// Which SPIs are held, and what of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// A bit for each place that is taken.
    used: u32,
    spi: [Spi; PLACES],
    /// Those that go to another vCPU once they end here, by index.
    pub(super) elsewhere: u64,
    /// Words of the distributor in which more is for this vCPU than it can hold.
    pub(super) more: u32,
    /// The distributor knows that this vCPU is on.
    online: bool,
    /// Which groups the distributor thinks are enabled at this vCPU's interface: bit 0, group 0; bit 1, group 1.
    taking: u32,
    /// SPIs are in use.
    pub(super) used_at_all: bool,
}

impl Held {
    pub(super) const NONE: Self = Self {
        used: 0,
        spi: [Spi::FIRST; PLACES],
        elsewhere: 0,
        more: 0,
        online: false,
        taking: 0,
        used_at_all: false,
    };

    /// The index of `spi`, if it is held.
    pub(super) fn find(&self, spi: Spi) -> Option<u32> {
        let mut found = None;
        for_each(self.used.into(), |place| {
            if self.spi[place as usize % PLACES] == spi {
                found = Some(PRIVATE_INTIDS + place);
            }
        });
        found
    }

    /// The SPI with this index.
    pub(super) const fn spi(&self, index: u32) -> Spi {
        self.spi[index as usize % PLACES]
    }

    /// The indices of all.
    const fn indices(&self) -> u64 {
        (self.used as u64) << PRIVATE_INTIDS
    }

    /// The indices of those in `words` of the distributor.
    fn within(&self, words: u32) -> u64 {
        let mut indices = 0;
        for_each(self.indices(), |index| {
            indices |= u64::from(words >> self.spi(index).word() & 1) << index;
        });
        indices
    }
}

impl VcpuGic {
    /// What another pCPU, a device or a write left for this vCPU in the distributor: after a kick, and whenever an injection or an
    /// [`Effect`](crate::vgic::dist::Effect) names it. While it is not loaded, nothing: its next load takes it.
    #[inline]
    pub fn receive_spis<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        if self.loaded && dist.has_spis(self.id.index) {
            self.look_for_spis(h, dist);
        }
    }

    /// [`receive_spis`](Self::receive_spis): there is something.
    #[inline(never)]
    fn look_for_spis<H: Ich>(&mut self, h: &mut H, dist: &Dist) {
        if self.spill.any() {
            return self.refresh(h, dist);
        }
        let words = dist.drain(self.id.index);
        for_each(self.held.within(words), |index| {
            if self.holds(index) {
                self.take_out(h, index);
                self.put_back(h, dist, index);
            }
        });
        let new = self.claim(dist, words);
        if self.held.more != 0 || self.spill.any() {
            return self.refresh(h, dist);
        }
        for_each(new, |index| {
            // One that found no place had all of them looked at.
            if self.holds(index) && self.in_lr >> index & 1 == 0 && !self.spill.any() {
                self.put_in(h, dist, index);
            }
        });
    }

    /// Answers what is asked about the SPIs that this vCPU holds: in bits 63:32 which of those that are meant, and in bits 31:0 of
    /// which of these it is so.
    #[must_use]
    pub fn spi<H: Ich>(&mut self, h: &mut H, dist: &Dist, ask: SpiAsk) -> u64 {
        self.fold(h);
        // Those whose line may have fallen.
        let old = self.words.latch & self.words.hw & !self.words.written & !self.fresh;
        let mut answer = 0;
        for_each(self.held.within(1 << ask.word), |index| {
            let bit = self.held.spi(index).bit();
            if ask.mask & bit == 0 {
                return;
            }
            answer |= u64::from(bit) << 32;
            match ask.op {
                SpiOp::ReadPending | SpiOp::ReadActive => {
                    // Here and now: what is withdrawn by `attend` may change hands before the answer.
                    if old >> index & 1 != 0 && !self.asserted(h, index) {
                        self.unlatch(h, index);
                    }
                    let state = if ask.op == SpiOp::ReadActive {
                        self.words.active
                    } else {
                        self.words.latch
                    };
                    answer |= if state >> index & 1 != 0 { bit.into() } else { 0 };
                }
                SpiOp::ClearPending => self.unlatch(h, index),
                SpiOp::ClearActive => self.end(h, index),
                SpiOp::Refresh => {}
            }
        });
        self.flush(h, dist);
        answer
    }

    /// `index`, held and in no list register, is pending no more.
    fn unlatch<H: Ich>(&mut self, h: &mut H, index: u32) {
        let bit = 1u64 << (index & 63);
        self.words.latch &= !bit;
        self.words.written &= !bit;
        if self.words.hw & bit != 0 {
            // Also when the pending state was still in the distributor: who took it away there knows nothing of what is active here.
            self.set_physical(h, index, self.words.active & bit != 0);
        }
    }

    /// `ICH_VMCR_EL2` has become `vmcr`, by the guest's hand: which groups it takes, and whether its DIR must trap. What
    /// [`will_trap`](Self::will_trap) said holds from here on.
    pub fn vmcr_changed<H: Ich>(&mut self, h: &mut H, dist: &Dist, vmcr: Vmcr) {
        let taking = self.set_taking(dist, vmcr);
        if taking && self.spill.any() || self.has_ends(h) {
            // The maintenance interrupt that asks for this looks at how the groups were and at EOIcount, and the next write of
            // ICH_HCR_EL2 changes what it waits for. What has ended may be pending again.
            return self.refresh(h, dist);
        }
        self.write_hcr(h);
    }

    /// vCPUs for which something was left in the distributor since this was last asked: to be kicked or woken, this one too if it is
    /// among them. To be asked after everything that may change an SPI's state, [`put`](Self::put) and [`park`](Self::park) included.
    #[must_use]
    pub fn take_kicks(&mut self) -> Vcpus {
        core::mem::take(&mut self.kicks)
    }

    /// This vCPU, as a set.
    pub(super) const fn me(&self) -> Vcpus {
        1 << (self.id.index & 15)
    }

    /// It is not loaded but waits to be woken, as by `SYSTEM_SUSPEND`: SPIs are routed to it, and [`wakes`](Self::wakes) sees them.
    /// Until it is [parked](Self::park) again.
    pub fn stand_by(&mut self, dist: &Dist) {
        let words = self.go_online(dist);
        dist.post(self.id.index, words);
    }

    /// It is loaded: the distributor may give it SPIs. Gives the words in which they may be there already.
    #[inline]
    pub(super) fn come_online(&mut self, dist: &Dist, vmcr: Vmcr) -> u32 {
        let words = self.go_online(dist);
        let _ = self.set_taking(dist, vmcr);
        words
    }

    #[inline]
    fn go_online(&mut self, dist: &Dist) -> u32 {
        if core::mem::replace(&mut self.held.online, true) {
            0
        } else {
            dist.power_on(self.id.index)
        }
    }

    /// Tells the distributor which groups are enabled; whether that changed.
    #[inline]
    fn set_taking(&mut self, dist: &Dist, vmcr: Vmcr) -> bool {
        let taking = (vmcr.igrpen0() | vmcr.igrpen1() << 1) as u32;
        let changed = taking != self.held.taking;
        if changed {
            self.take(dist, taking);
        }
        changed
    }

    fn take(&mut self, dist: &Dist, taking: u32) {
        self.held.taking = taking;
        self.kicks |= dist.set_taking(self.id.index, taking) & !self.me();
    }

    /// It is off: everything goes back to the distributor.
    pub(super) fn go_offline(&mut self, dist: &Dist) {
        self.kicks |= dist.power_off(self.id.index, core::mem::take(&mut self.held.more));
        (self.held.online, self.held.taking) = (false, 0);
        for_each(self.held.indices(), |index| self.release(dist, index));
    }

    /// It leaves its pCPU: what is pending goes back to the distributor.
    pub(super) fn release_waiting(&mut self, dist: &Dist) {
        if self.held.more != 0 {
            dist.post(self.id.index, core::mem::take(&mut self.held.more));
        }
        for_each(self.held.indices() & !(self.words.active & self.taken), |index| {
            self.release(dist, index);
        });
    }

    /// With nothing in the list registers: looks at what is held, gives back what is not this vCPU's to have, and claims what is.
    /// `words`: where to look besides what the distributor says.
    #[inline]
    pub(super) fn gather<H: Ich>(&mut self, h: &H, dist: &Dist, words: u32) {
        self.held.used_at_all = dist.is_used();
        for_each(self.held.indices(), |index| {
            self.sync_held(h, dist, index);
            if !self.fits(index) {
                self.release(dist, index);
            }
        });
        if !self.loaded {
            return;
        }
        let words = words | dist.drain(self.id.index) | core::mem::take(&mut self.held.more);
        self.kicks &= !self.me();
        let _ = self.claim(dist, words);
        if self.held.more != 0 {
            self.choose(dist, Vmcr::new(h.vmcr()));
        }
    }

    /// [`sync`](Self::sync) of an SPI that was held before. What a guest's write left for it in the distributor made the physical
    /// interrupt active; the end of what was held, of which that write knew nothing, may have deactivated it since.
    fn sync_held<H: Ich>(&mut self, h: &H, dist: &Dist, index: u32) {
        let pulled = self.sync(dist, index);
        if (pulled.written || pulled.active) && self.words.hw >> index & 1 != 0 {
            let spi = self.held.spi(index);
            h.spis().set_active(spi.word(), spi.bit(), true);
        }
    }

    /// Takes over what the distributor has of a held SPI. Gives what that was.
    fn sync(&mut self, dist: &Dist, index: u32) -> State {
        let (bit, spi) = (1 << index, self.held.spi(index));
        let backed = dist.is_backed(spi);
        let pulled = dist.pull(spi, backed);
        if backed {
            self.words.hw |= bit;
            if pulled.latch {
                self.fresh |= bit;
                self.words.written |= if pulled.written { bit } else { 0 };
            }
        }
        if pulled.latch {
            self.words.latch |= bit;
        }
        if pulled.active {
            self.words.active |= bit;
        }
        self.words.set_config(index, dist.config(spi));
        let elsewhere = if dist.route(spi) == Some(self.id.index) { 0 } else { bit };
        self.held.elsewhere = self.held.elsewhere & !bit | elsewhere;
        self.open = self.words.enabled & dist.forwarded(self.words.group);
        pulled
    }

    /// Whether a held SPI, in no list register, is this vCPU's to keep: it runs here, or is deliverable here.
    fn fits(&self, index: u32) -> bool {
        let bit = 1 << index;
        if self.words.active & bit != 0 {
            return self.taken & bit != 0;
        }
        self.words.pending() & self.open & !self.held.elsewhere & bit != 0
    }

    fn holds(&self, index: u32) -> bool {
        self.held.indices() >> index & 1 != 0
    }

    /// `index` was taken out of its list register, or was in none: it goes back in, or is given back.
    pub(super) fn put_back<H: Ich>(&mut self, h: &mut H, dist: &Dist, index: u32) {
        if self.holds(index) {
            self.sync_held(h, dist, index);
            if !self.fits(index) {
                return self.release(dist, index);
            }
        }
        self.put_in(h, dist, index);
    }

    /// Gives back a held SPI that is in no list register.
    fn release(&mut self, dist: &Dist, index: u32) {
        let bit = 1 << index;
        let state = State {
            latch: self.words.latch & bit != 0,
            active: self.words.active & bit != 0,
            written: self.words.written & bit != 0,
        };
        self.words.forget(bit);
        self.taken &= !bit;
        self.open &= !bit;
        self.words.hw &= !bit;
        self.fresh &= !bit;
        self.held.elsewhere &= !bit;
        self.held.used &= !(1 << (index - PRIVATE_INTIDS));
        self.kicks |= dist.release(self.held.spi(index), state);
    }

    /// Claims what is for this vCPU in `words`, while there is place. Gives the new indices.
    #[inline]
    fn claim(&mut self, dist: &Dist, words: u32) -> u64 {
        let mut new = 0;
        for_each(words.into(), |word| {
            let deliverable = dist.deliverable(word as usize);
            if deliverable != 0 {
                new |= self.claim_of(dist, word as usize, deliverable);
            }
        });
        new
    }

    /// [`claim`](Self::claim) in one word, of which these are deliverable.
    #[inline(never)]
    fn claim_of(&mut self, dist: &Dist, word: usize, deliverable: u32) -> u64 {
        let mut new = 0;
        let (mine, kicks) = dist.sort(word, deliverable, self.id.index);
        self.kicks |= kicks;
        for_each(mine.into(), |bit| {
            if self.held.used == u32::MAX {
                self.held.more |= 1 << word;
            } else {
                new |= self.claim_one(dist, Spi::at(word, bit));
            }
        });
        new
    }

    /// Claims one SPI, if nobody else does; there is place. Gives its index as a bit, or none.
    fn claim_one(&mut self, dist: &Dist, spi: Spi) -> u64 {
        let place = self.held.used.trailing_ones();
        if place as usize >= PLACES || !dist.claim(self.id.index, spi) {
            return 0;
        }
        let index = PRIVATE_INTIDS + place;
        self.held.used |= 1 << place;
        self.held.spi[place as usize] = spi;
        let _ = self.sync(dist, index);
        if self.fits(index) {
            1 << index
        } else {
            self.release(dist, index);
            0
        }
    }

    /// More is pending for this vCPU than it can hold: it holds the most urgent, those first whose group it takes.
    #[cold]
    #[inline(never)]
    fn choose(&mut self, dist: &Dist, vmcr: Vmcr) {
        for_each(self.held.indices() & !self.words.active, |index| self.release(dist, index));
        if self.held.used == u32::MAX
            && let Some(index) = super::lowest(self.held.indices(), |index| !self.level(index, vmcr))
        {
            self.release(dist, index);
        }
        let words = dist.drain(self.id.index) | core::mem::take(&mut self.held.more);
        self.kicks &= !self.me();
        // First how many there are of each urgency, and from which on there is no place for all; then those before that; then of that as
        // many as there is place for.
        let (mut count, mut place, mut bound) = ([0u32; 64], self.held.used.count_zeros(), 0);
        for pass in 0..3 {
            for_each(words.into(), |word| {
                for_each(dist.for_vcpu(word as usize, self.id.index).into(), |bit| {
                    let spi = Spi::at(word as usize, bit);
                    let config = dist.config(spi);
                    let on = if config.group1 { vmcr.igrpen1() } else { vmcr.igrpen0() } != 0;
                    let urgency = usize::from(config.priority >> 3) | if on { 0 } else { 32 };
                    if pass == 0 {
                        count[urgency % 64] += 1;
                    } else if if pass == 1 { urgency < bound } else { urgency == bound } {
                        let _ = self.claim_one(dist, spi);
                    }
                });
            });
            while pass == 0 && bound < count.len() && count[bound] <= place {
                place -= count[bound];
                bound += 1;
            }
        }
        for_each(words.into(), |word| {
            let (mine, kicks) = dist.sort(word as usize, dist.deliverable(word as usize), self.id.index);
            self.kicks |= kicks;
            if mine != 0 {
                self.held.more |= 1 << word;
            }
        });
    }

    /// The INTID of `index`.
    pub(super) const fn intid(&self, index: u32) -> u32 {
        if 1 << index & PRIVATE != 0 {
            index
        } else {
            self.held.spi(index).intid()
        }
    }
}
