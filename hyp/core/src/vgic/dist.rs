//! The distributor: a VM's SPIs, and `GICD_*`. One per VM, shared by its vCPUs and by whoever raises interrupts, without a lock.
//!
//! One bit, byte or word each for INTIDs 32 to 287; [`Dist::read`] and [`Dist::write`] are how a guest sees them. An SPI is in one
//! of two places:
//!
//! * here, its pending and active state in `latch` and `active`;
//! * *held* by one vCPU, which claimed it to put it into a list register. `owner` names that vCPU, and the state is in its
//!   [`VcpuGic`](super::lr::VcpuGic), which no one else touches. New edges and writes that set state are left here in `latch` and
//!   `active` all the same; the owner *pulls* them when it is kicked.
//!
//! What is configured (enable, group, priority, line, trigger, route) is always here; owners have copies.
//!
//! Whatever makes an SPI deliverable *notifies*: a held one's owner, or the vCPU that the SPI is routed to, finds a bit in its
//! inbox, one for each word of 32 SPIs, and is to be kicked or woken. It claims what is there for it; one compare-and-swap decides
//! when two try.
//!
//! **Physical SPIs.** Behind an SPI of a passed-through device stands the physical one of the same number ([`Dist::back`]). That is
//! active from when it [fires](Dist::fire) until the guest's deactivation, which hardware passes on (`ICH_LR<n>_EL2.HW`), or which
//! software does: whoever takes away a pending or active state, and leaves neither, deactivates the physical interrupt, after that; who
//! writes one makes it active, before that. So one that fires is never lost, and none stays active for ever: where two pCPUs do such
//! things at once, a level fires once more than it must.
//!
//! **Routing.** `GICD_IROUTER<n>` names a vCPU: that one, and while it is off, or does not exist, the SPI stays pending here.
//! With `Interrupt_Routing_Mode` 1: the lowest-numbered vCPU that is on and whose interface had the SPI's group enabled when it was
//! last looked at; if none has, the lowest-numbered that is on; if none is on, the first that comes.

mod registers;
#[cfg(all(test, not(loom)))]
mod tests;

pub use registers::{CTLR, Effect, IIDR, IIDR_VALUE, PASSES, TYPER, TYPER2, active};
#[cfg(all(test, not(loom)))]
pub(super) use registers::{ICACTIVER, ICENABLER, ICFGR, ICPENDR, IGROUPR, IPRIORITYR, IROUTER, ISACTIVER, ISENABLER, ISPENDR};

use super::ctlr::CtlrView;
use super::for_each;
use super::vmcr::Vmcr;
use super::{Group, PRIVATE_INTIDS, PhysicalSpis};
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use hyp_abi::layout::{MAX_VCPUS, affinity_of};

/// How many SPIs a VM has: INTIDs 32 to 287.
pub const SPIS: u32 = 32 * WORDS as u32;
/// Words of 32 SPIs. One is enough for the model checker, which pays for each atomic.
pub(super) const WORDS: usize = if cfg!(loom) { 1 } else { 8 };

/// `GICD_IROUTER<n>.Interrupt_Routing_Mode`: any vCPU will do.
const ANY: u64 = 1 << 31;
/// Nobody's.
const NOBODY: u8 = 0xFF;

/// Two who change different words about one SPI must not both miss the other's change: held against latch and active, in either
/// order. Nothing weaker says that.
const ORDER: Ordering = Ordering::SeqCst;

/// A bit for each of 32 SPIs.
#[derive(Debug)]
struct Word {
    group1: AtomicU32,
    enabled: AtomicU32,
    /// Made pending by an edge or a write, and not taken yet.
    latch: AtomicU32,
    /// Lines that are high.
    line: AtomicU32,
    active: AtomicU32,
    /// Edge-triggered, as opposed to level-sensitive.
    edge: AtomicU32,
    /// With a vCPU.
    held: AtomicU32,
    /// A physical interrupt stands behind them.
    backed: AtomicU32,
    /// Those of `backed` that are edge-triggered in the physical distributor.
    backed_edge: AtomicU32,
    /// Those of `latch & backed` that a line that has fallen does not take back: written by the guest, or edges.
    written: AtomicU32,
}

/// A VM's distributor.
#[derive(Debug)]
pub struct Dist {
    enables: AtomicU32,
    typer: u32,
    /// Writable bits of `GICD_IROUTER<n>`.
    routes: u64,
    /// Words in which some are backed.
    backed: AtomicU32,
    /// Words in which an SPI was ever enabled or made active: nothing is ever deliverable in another, and until there is one a guest's
    /// `ICC_DIR_EL1` cannot be for an SPI.
    used: AtomicU32,
    /// vCPUs that are on.
    online: AtomicU32,
    /// vCPUs whose interface had group 0, in bits 15:0, and group 1, in bits 31:16, enabled when last looked at.
    taking: AtomicU32,
    /// For each vCPU a bit per word of SPIs in which there may be something for it.
    inbox: [AtomicU32; MAX_VCPUS],
    word: [Word; WORDS],
    /// Four to a word.
    priority: [AtomicU32; SPIS as usize / 4],
    router: [AtomicU64; SPIS as usize],
    owner: [AtomicU8; SPIS as usize],
}

/// Which SPI: its INTID minus 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spi(u8);

impl Spi {
    /// INTID 32.
    pub(super) const FIRST: Self = Self(0);

    /// The SPI with this INTID, if there is one.
    pub(super) const fn of(intid: u32) -> Option<Self> {
        if intid >= PRIVATE_INTIDS && intid < PRIVATE_INTIDS + SPIS {
            Some(Self((intid - PRIVATE_INTIDS) as u8))
        } else {
            None
        }
    }

    /// SPI `bit` of word `word`.
    pub(super) const fn at(word: usize, bit: u32) -> Self {
        Self((word as u32 * 32 + bit) as u8)
    }

    /// Its INTID.
    pub(super) const fn intid(self) -> u32 {
        PRIVATE_INTIDS + self.0 as u32
    }

    /// The word it is in.
    pub(super) const fn word(self) -> usize {
        self.0 as usize / 32
    }

    /// Its bit there.
    pub(super) const fn bit(self) -> u32 {
        1 << (self.0 % 32)
    }
}

/// What an owner keeps a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) enabled: bool,
    pub(super) group1: bool,
    pub(super) priority: u8,
    /// Level-sensitive, and its line is high.
    pub(super) line: bool,
}

/// An SPI's state on its way between the distributor and its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) latch: bool,
    pub(super) active: bool,
    /// `latch`, whatever the line of the physical interrupt behind it.
    pub(super) written: bool,
}

/// What its owner is asked about the SPIs it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpiOp {
    /// Take over what was configured.
    #[default]
    Refresh,
    /// Which are pending?
    ReadPending,
    /// Which are active?
    ReadActive,
    /// Pending no more, their lines aside.
    ClearPending,
    /// Active no more.
    ClearActive,
}

/// A question about 32 SPIs to a vCPU that may hold some: for [`VcpuGic::spi`](super::lr::VcpuGic::spi).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpiAsk {
    pub(super) op: SpiOp,
    pub(super) word: u8,
    /// Those that are meant: they were with some vCPU when the question was put. 0 for [`SpiOp::Refresh`], which is about whatever is held:
    /// who claims one later sees by itself how it is configured.
    pub(super) mask: u32,
}

impl SpiAsk {
    /// As one word, for a request slot.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.op as u64) << 40 | (self.word as u64) << 32 | self.mask as u64
    }

    /// What [`to_word`](Self::to_word) gave.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let op = match word >> 40 {
            1 => SpiOp::ReadPending,
            2 => SpiOp::ReadActive,
            3 => SpiOp::ClearPending,
            4 => SpiOp::ClearActive,
            _ => SpiOp::Refresh,
        };
        Self {
            op,
            word: (word >> 32) as u8 % WORDS as u8,
            mask: word as u32,
        }
    }
}

/// A set of vCPUs of one VM, one bit per index.
pub type Vcpus = u16;

impl Word {
    fn new() -> Self {
        Self {
            group1: AtomicU32::new(0),
            enabled: AtomicU32::new(0),
            latch: AtomicU32::new(0),
            line: AtomicU32::new(0),
            active: AtomicU32::new(0),
            edge: AtomicU32::new(0),
            held: AtomicU32::new(0),
            backed: AtomicU32::new(0),
            backed_edge: AtomicU32::new(0),
            written: AtomicU32::new(0),
        }
    }

    /// Pending here: latched, or a level that is high.
    fn pending(&self) -> u32 {
        self.latch.load(ORDER) | self.line.load(ORDER) & !self.edge.load(ORDER)
    }
}

impl Dist {
    /// A distributor as after reset, for vCPUs that all see `view`.
    #[must_use]
    pub fn new(view: &CtlrView) -> Self {
        // IDbits is 9, INTIDs of 10 bits: there are no LPIs.
        let typer = (WORDS as u32) | 9 << 19 | u32::from(view.a3v()) << 24 | u32::from(view.rss()) << 26;
        let aff3 = if view.a3v() { 0xFF << 32 } else { 0 };
        Self {
            enables: AtomicU32::new(0),
            typer,
            routes: aff3 | ANY | 0xFF_FFFF,
            backed: AtomicU32::new(0),
            used: AtomicU32::new(0),
            online: AtomicU32::new(0),
            taking: AtomicU32::new(0),
            inbox: core::array::from_fn(|_| AtomicU32::new(0)),
            word: core::array::from_fn(|_| Word::new()),
            priority: core::array::from_fn(|_| AtomicU32::new(0)),
            router: core::array::from_fn(|_| AtomicU64::new(0)),
            owner: core::array::from_fn(|_| AtomicU8::new(NOBODY)),
        }
    }

    /// Back to the state after reset. Lines stay what they are, and so does what is backed; no physical interrupt behind it is
    /// active, or can fire meanwhile. Every vCPU is off, and reset first.
    pub fn reset(&self) {
        for cells in [
            core::slice::from_ref(&self.enables),
            core::slice::from_ref(&self.used),
            core::slice::from_ref(&self.online),
            core::slice::from_ref(&self.taking),
            &self.inbox,
            &self.priority,
        ] {
            for cell in cells {
                cell.store(0, ORDER);
            }
        }
        for word in &self.word {
            for cell in [
                &word.group1,
                &word.enabled,
                &word.latch,
                &word.active,
                &word.edge,
                &word.held,
                &word.written,
            ] {
                cell.store(0, ORDER);
            }
        }
        for cell in &self.router {
            cell.store(0, ORDER);
        }
        for cell in &self.owner {
            cell.store(NOBODY, ORDER);
        }
    }

    // Interrupts.

    /// The line of SPI `intid` is `high` now. Gives the vCPU that must look ([`receive_spis`](super::lr::VcpuGic::receive_spis)):
    /// to be kicked or woken, or the caller's own. INTIDs that are no SPI's are ignored.
    pub fn set_line(&self, intid: u32, high: bool) -> Option<usize> {
        let spi = Spi::of(intid)?;
        let (word, bit) = (self.word(spi), spi.bit());
        let before = if high {
            word.line.fetch_or(bit, ORDER)
        } else {
            word.line.fetch_and(!bit, ORDER)
        };
        if (before & bit != 0) == high {
            return None;
        }
        if word.edge.load(ORDER) & bit != 0 {
            if !high {
                return None;
            }
            word.latch.fetch_or(bit, ORDER);
        }
        first(self.notify(spi.word(), bit))
    }

    /// An edge of SPI `intid`, whatever its line. Gives the vCPU that must look, as [`set_line`](Self::set_line).
    pub fn raise_edge(&self, intid: u32) -> Option<usize> {
        let spi = Spi::of(intid)?;
        self.word(spi).latch.fetch_or(spi.bit(), ORDER);
        first(self.notify(spi.word(), spi.bit()))
    }

    /// The physical interrupt of the same number stands behind SPI `intid` from now on, edge-triggered or level-sensitive. Before its VM
    /// runs.
    pub fn back(&self, intid: u32, edge: bool) {
        if let Some(spi) = Spi::of(intid) {
            let word = self.word(spi);
            if edge {
                word.backed_edge.fetch_or(spi.bit(), ORDER);
            }
            word.backed.fetch_or(spi.bit(), ORDER);
            self.backed.fetch_or(1 << spi.word(), ORDER);
        }
    }

    /// The physical interrupt behind SPI `intid` fired and is active now (EL2 has dropped its priority and no more). Gives the vCPUs
    /// that must look.
    pub fn fire(&self, intid: u32) -> Vcpus {
        let Some(spi) = Spi::of(intid) else { return 0 };
        let (word, bit) = (self.word(spi), spi.bit());
        if word.backed_edge.load(ORDER) & bit != 0 {
            word.written.fetch_or(bit, ORDER);
        }
        word.latch.fetch_or(bit, ORDER);
        self.notify(spi.word(), bit)
    }

    /// Whether physical interrupts stand behind any.
    #[must_use]
    pub fn has_backed(&self) -> bool {
        self.backed.load(Ordering::Relaxed) != 0
    }

    /// Withdraws backed interrupts that wait here and whose line has fallen: before a guest's access that may show one, or let it go to
    /// a vCPU. Those that are with vCPUs are theirs ([`VcpuGic::attend`](super::lr::VcpuGic::attend)). Gives who must look.
    pub fn sample<S: PhysicalSpis>(&self, spis: &S) -> Vcpus {
        let mut kicks = 0;
        for_each(self.backed.load(Ordering::Relaxed).into(), |n| {
            let (n, word) = (n as usize, self.bits(n as usize));
            let waiting = word.latch.load(ORDER) & word.backed.load(ORDER) & !word.written.load(ORDER) & !word.held.load(ORDER);
            for_each(waiting.into(), |bit| {
                let spi = Spi::at(n, bit);
                if !spis.asserted(spi.intid()) {
                    kicks |= self.withdraw(spis, spi);
                }
            });
        });
        kicks
    }

    fn withdraw<S: PhysicalSpis>(&self, spis: &S, spi: Spi) -> Vcpus {
        let (word, bit) = (self.word(spi), spi.bit());
        if word.latch.fetch_and(!bit, ORDER) & bit == 0 {
            return 0;
        }
        if word.written.load(ORDER) & bit != 0 {
            // A write made it pending meanwhile.
            spis.set_active(spi.word(), bit, true);
            word.latch.fetch_or(bit, ORDER);
            return self.notify(spi.word(), bit);
        }
        spis.set_active(spi.word(), bit, word.active.load(ORDER) & bit != 0);
        0
    }

    /// Lets the physical interrupts behind the SPIs of `mask` fire again, but for those that are pending or active here still.
    fn let_go<S: PhysicalSpis>(&self, spis: &S, n: usize, mask: u32) {
        let word = self.bits(n);
        let mask = mask & word.backed.load(ORDER);
        if mask != 0 {
            let idle = mask & !word.latch.load(ORDER) & !word.active.load(ORDER);
            spis.set_active(n, idle, false);
        }
    }

    /// Whether there may be SPIs for `vcpu` to claim: one load, for the exit path.
    #[must_use]
    pub fn has_spis(&self, vcpu: usize) -> bool {
        self.inbox(vcpu).load(Ordering::Relaxed) != 0
    }

    /// Whether an SPI waits here that would interrupt `vcpu` or wake it from WFI. See
    /// [`VcpuGic::wakes`](super::lr::VcpuGic::wakes).
    #[inline(never)]
    pub(super) fn wakes(&self, vcpu: usize, vmcr: Vmcr, running: u64) -> bool {
        let mut wakes = false;
        for_each(self.inbox(vcpu).load(ORDER).into(), |word| {
            let word = word as usize % WORDS;
            for_each(self.deliverable(word).into(), |bit| {
                let spi = Spi::at(word, bit);
                let config = self.config(spi);
                let (group, on) = if config.group1 {
                    (Group::One, vmcr.igrpen1() != 0)
                } else {
                    (Group::Zero, vmcr.igrpen0() != 0)
                };
                wakes |= on && vmcr.is_urgent(config.priority, group, running) && self.route(spi) == Some(vcpu);
            });
        });
        wakes
    }

    // What vCPUs do.

    /// `vcpu` is on: what is routed to it has somewhere to go. Gives the words in which it may be.
    #[must_use]
    pub(super) fn power_on(&self, vcpu: usize) -> u32 {
        self.online.fetch_or(1 << (vcpu % MAX_VCPUS), ORDER);
        self.used.load(ORDER)
    }

    /// `vcpu` is off. What was on its way to it, in its inbox or in `words`, is routed again: gives who must look.
    pub(super) fn power_off(&self, vcpu: usize, words: u32) -> Vcpus {
        let bit = 1 << (vcpu % MAX_VCPUS);
        self.online.fetch_and(!bit, ORDER);
        self.taking.fetch_and(!(bit | bit << 16), ORDER);
        let mut kicks = 0;
        for_each((self.drain(vcpu) | words).into(), |word| {
            kicks |= self.notify(word as usize % WORDS, u32::MAX);
        });
        kicks
    }

    /// `vcpu`'s interface has group 0, in bit 0, and group 1, in bit 1, enabled, or not. Gives who must look: if it is the first to have
    /// one enabled, whoever got an SPI for want of it.
    pub(super) fn set_taking(&self, vcpu: usize, groups: u32) -> Vcpus {
        let (zero, one) = (groups & 1, groups >> 1 & 1);
        let (on, off) = (zero | one << 16, zero ^ 1 | (one ^ 1) << 16);
        let before = self.taking.fetch_or(on << (vcpu % MAX_VCPUS), ORDER);
        self.taking.fetch_and(!(off << (vcpu % MAX_VCPUS)), ORDER);
        let mut kicks = 0;
        if zero != 0 && before as Vcpus == 0 || one != 0 && before >> 16 == 0 {
            let used = self.used.load(ORDER);
            for_each(self.online.load(ORDER).into(), |other| kicks |= self.post(other as usize, used));
        }
        kicks
    }

    /// Takes what `vcpu`'s inbox says.
    pub(super) fn drain(&self, vcpu: usize) -> u32 {
        let inbox = self.inbox(vcpu);
        if inbox.load(Ordering::Relaxed) == 0 {
            0
        } else {
            inbox.swap(0, ORDER)
        }
    }

    /// The SPIs of a word that are deliverable and not held, one bit each.
    #[inline(never)]
    pub(super) fn deliverable(&self, word: usize) -> u32 {
        let it = self.bits(word);
        let ready = it.pending() & it.enabled.load(ORDER);
        if ready == 0 {
            return 0;
        }
        let forwarded = self.forwarded(u64::from(it.group1.load(ORDER))) as u32;
        ready & forwarded & !it.active.load(ORDER) & !it.held.load(ORDER)
    }

    /// Those of some [`deliverable`](Self::deliverable) SPIs that are routed to `vcpu`, which was told of this word. Of what is another's
    /// now word is left for that one; and who did not know.
    pub(super) fn sort(&self, word: usize, deliverable: u32, vcpu: usize) -> (u32, Vcpus) {
        let (mut mine, mut kicks) = (0, 0);
        for_each(deliverable.into(), |bit| match self.route(Spi::at(word, bit)) {
            Some(target) if target == vcpu => mine |= 1 << bit,
            Some(target) if self.inbox(target).fetch_or(1 << word, ORDER) >> word & 1 == 0 => kicks |= 1 << target,
            _ => {}
        });
        (mine, kicks)
    }

    /// The SPIs of [`deliverable`](Self::deliverable) that are routed to `vcpu`.
    pub(super) fn for_vcpu(&self, word: usize, vcpu: usize) -> u32 {
        let mut mine = 0;
        for_each(self.deliverable(word).into(), |bit| {
            mine |= u32::from(self.route(Spi::at(word, bit)) == Some(vcpu)) << bit;
        });
        mine
    }

    /// `vcpu` claims an SPI; false when somebody else has it. From here on whoever changes something about it tells this vCPU, which
    /// now [pulls](Self::pull) its state, and looks at its [`config`](Self::config) and [`route`](Self::route) again.
    pub(super) fn claim(&self, vcpu: usize, spi: Spi) -> bool {
        let owner = self.owner(spi);
        let claimed = owner.compare_exchange(NOBODY, vcpu as u8, ORDER, ORDER).is_ok();
        if claimed {
            self.word(spi).held.fetch_or(spi.bit(), ORDER);
        }
        claimed
    }

    /// Its owner gives an SPI back, in this state. Gives who must look.
    pub(super) fn release(&self, spi: Spi, state: State) -> Vcpus {
        let (word, bit) = (self.word(spi), spi.bit());
        if state.written {
            word.written.fetch_or(bit, ORDER);
        }
        if state.latch {
            word.latch.fetch_or(bit, ORDER);
        }
        if state.active {
            word.active.fetch_or(bit, ORDER);
        }
        word.held.fetch_and(!bit, ORDER);
        self.owner(spi).store(NOBODY, ORDER);
        self.notify(spi.word(), bit)
    }

    /// What was left here about an SPI, `backed` or not, for its owner: an edge, an active state. It is the owner's now.
    pub(super) fn pull(&self, spi: Spi, backed: bool) -> State {
        let (word, bit) = (self.word(spi), spi.bit());
        let take = |cell: &AtomicU32| cell.load(ORDER) & bit != 0 && cell.fetch_and(!bit, ORDER) & bit != 0;
        State {
            latch: take(&word.latch),
            active: take(&word.active),
            written: backed && take(&word.written),
        }
    }

    /// Whether a physical interrupt stands behind an SPI.
    pub(super) fn is_backed(&self, spi: Spi) -> bool {
        self.word(spi).backed.load(Ordering::Relaxed) & spi.bit() != 0
    }

    /// The vCPU that SPI `intid` goes to now, if any can have it.
    #[must_use]
    pub fn target(&self, intid: u32) -> Option<usize> {
        self.route(Spi::of(intid)?)
    }

    /// How an SPI is configured, and its line.
    pub(super) fn config(&self, spi: Spi) -> Config {
        let (word, bit) = (self.word(spi), spi.bit());
        Config {
            enabled: word.enabled.load(ORDER) & bit != 0,
            group1: word.group1.load(ORDER) & bit != 0,
            priority: (self.priorities(spi.0 as usize / 4).load(ORDER) >> (8 * (spi.0 % 4))) as u8,
            line: word.line.load(ORDER) & !word.edge.load(ORDER) & bit != 0,
        }
    }

    /// The vCPU an SPI goes to, if any can have it: see the [module](self).
    pub(super) fn route(&self, spi: Spi) -> Option<usize> {
        first(self.ways(spi))
    }

    /// The vCPUs that an SPI could go to: it goes to the [`first`]. Of a 1-of-N SPI that nobody was seen to take, every vCPU that is on: one
    /// may have enabled the group since its last exit; the next one shows it, and gets the SPI then.
    #[inline(never)]
    fn ways(&self, spi: Spi) -> Vcpus {
        let router = self.router(spi.0.into()).load(ORDER);
        let online = self.online.load(ORDER);
        let ways = if router & ANY == 0 {
            let index = ((router >> 8 & 0xFF) * 16 + (router & 0xF)) as usize;
            let exists = index < MAX_VCPUS && affinity_of(index) == router;
            if exists { online & 1 << index } else { 0 }
        } else {
            let group1 = self.word(spi).group1.load(ORDER) & spi.bit() != 0;
            let taking = self.taking.load(ORDER) >> if group1 { 16 } else { 0 };
            match online & taking {
                0 => online,
                taking => taking & taking.wrapping_neg(),
            }
        };
        ways as Vcpus
    }

    /// Whether the guest may deactivate SPIs by `ICC_DIR_EL1`.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) != 0
    }

    /// Something about the SPIs of `mask` has changed that may make them deliverable, or is for their owners to see. Gives who must
    /// look.
    fn notify(&self, word: usize, mask: u32) -> Vcpus {
        let held = self.bits(word).held.load(ORDER) & mask;
        let mut kicks = 0;
        for_each(held.into(), |bit| kicks |= self.post(self.owner_of(Spi::at(word, bit)), 1 << word));
        kicks | self.offer(word, mask)
    }

    /// [`notify`](Self::notify), but for owners: they are asked.
    #[inline]
    fn offer(&self, word: usize, mask: u32) -> Vcpus {
        match self.deliverable(word) & mask {
            0 => 0,
            deliverable => self.offer_each(word, deliverable),
        }
    }

    #[inline(never)]
    fn offer_each(&self, word: usize, deliverable: u32) -> Vcpus {
        let mut kicks = 0;
        for_each(deliverable.into(), |bit| {
            let ways = self.ways(Spi::at(word, bit));
            if let Some(target) = first(ways) {
                kicks |= self.post(target, 1 << word) | ways;
            }
        });
        kicks
    }

    /// Who holds SPIs that were held a moment ago.
    #[inline(never)]
    fn owners_of(&self, word: usize, held: u32) -> Vcpus {
        let mut owners = 0;
        for_each(held.into(), |bit| {
            let owner = self.owner_of(Spi::at(word, bit));
            owners |= if owner < MAX_VCPUS { 1 << owner } else { 0 };
        });
        owners
    }

    fn owner_of(&self, spi: Spi) -> usize {
        usize::from(self.owner(spi).load(ORDER))
    }

    /// Leaves word that there may be something for `vcpu` in `words`.
    pub(super) fn post(&self, vcpu: usize, words: u32) -> Vcpus {
        if vcpu >= MAX_VCPUS {
            return 0;
        }
        self.inbox[vcpu % MAX_VCPUS].fetch_or(words & ((1 << WORDS) - 1), ORDER);
        1 << vcpu
    }

    fn inbox(&self, vcpu: usize) -> &AtomicU32 {
        &self.inbox[vcpu % MAX_VCPUS]
    }

    fn word(&self, spi: Spi) -> &Word {
        self.bits(spi.word())
    }

    fn bits(&self, word: usize) -> &Word {
        &self.word[word % WORDS]
    }

    fn priorities(&self, n: usize) -> &AtomicU32 {
        &self.priority[n % (SPIS as usize / 4)]
    }

    fn router(&self, spi: usize) -> &AtomicU64 {
        &self.router[spi % SPIS as usize]
    }

    fn owner(&self, spi: Spi) -> &AtomicU8 {
        &self.owner[spi.0 as usize % SPIS as usize]
    }
}

fn first(vcpus: Vcpus) -> Option<usize> {
    (vcpus != 0).then(|| vcpus.trailing_zeros() as usize)
}
