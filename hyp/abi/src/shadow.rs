//! The shadow page: what a VM's vCPUs' GIC CPU interfaces held when they last left the guest, and its lock-free readers.
//!
//! One page a VM, one [`ShadowSlot`] a vCPU, read-only in the host partition. A slot answers three questions:
//!
//! * [`ShadowSlot::template`]: what is `ICC_CTLR_EL1` after reset? Wait-free.
//! * [`ShadowSlot::word`]: what was `ICC_CTLR_EL1` at the vCPU's last exit, and is it so now? Wait-free.
//! * [`ShadowSlot::try_read`]: the whole [`Record`] of that exit. A sequence lock: an attempt that met the writer gives
//!   `None`, and the writer never waits.
//!
//! The writer is `hyp_core::shadow::ShadowWriter`, one a slot. Everything here only loads.

use super::sync::{AtomicU64, fence, order, undisturbed};

/// How many slots a page has.
pub const SLOTS: usize = 16;

/// The 64-bit words of a record, in memory order: `ctlr`, `vmcr`, `fields`, `generation`, `stamp`.
pub const RECORD_WORDS: usize = 5;

/// One VM's shadow page. All zeroes is a valid page on which nothing is ready.
#[repr(C, align(4096))]
pub struct ShadowPage {
    slots: [ShadowSlot; SLOTS],
}

/// One vCPU's shadow: 256 bytes, so that no two share a cache line.
///
/// Only hyp's writer stores to it; the host's mapping is read-only.
#[repr(C, align(256))]
pub struct ShadowSlot {
    /// Offset 0. A [`Word`].
    pub word: AtomicU64,
    /// Offset 8. `ICC_CTLR_EL1` after reset.
    pub template: AtomicU64,
    /// Offset 64. The record and its sequence counter.
    pub sequenced: Sequenced,
}

/// The part of a slot that the sequence counter guards.
#[repr(C, align(64))]
pub struct Sequenced {
    /// Odd while the record is being written.
    pub seq: AtomicU64,
    /// The words of a [`Record`].
    pub record: [AtomicU64; RECORD_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<ShadowPage>() == 4096, "a page");
    assert!(size_of::<ShadowSlot>() == 256, "a slot");
    assert!(offset_of!(ShadowSlot, word) == 0, "host programs load the word at offset 0");
    assert!(offset_of!(ShadowSlot, template) == 8, "host programs load the template at offset 8");
    assert!(offset_of!(ShadowSlot, sequenced) == 64, "the sequence counter is at offset 64");
    assert!(offset_of!(Sequenced, record) == 8, "the record is at offset 72");
};

impl ShadowPage {
    /// A page on which nothing is ready.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { ShadowSlot::new() }; SLOTS],
        }
    }

    /// The slot of vCPU `index`.
    #[must_use]
    #[inline]
    pub fn slot(&self, index: usize) -> Option<&ShadowSlot> {
        self.slots.get(index)
    }

    /// Every slot, in the order of the vCPUs.
    #[must_use]
    pub const fn slots(&self) -> &[ShadowSlot; SLOTS] {
        &self.slots
    }
}

#[cfg(not(loom))]
impl Default for ShadowPage {
    fn default() -> Self {
        Self::new()
    }
}

impl ShadowSlot {
    /// A slot of zeroes: not ready.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            template: AtomicU64::new(0),
            sequenced: Sequenced {
                seq: AtomicU64::new(0),
                record: [const { AtomicU64::new(0) }; RECORD_WORDS],
            },
        }
    }

    /// A slot of zeroes: not ready.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            template: AtomicU64::new(0),
            sequenced: Sequenced {
                seq: AtomicU64::new(0),
                record: core::array::from_fn(|_| AtomicU64::new(0)),
            },
        }
    }

    /// `ICC_CTLR_EL1` as of the last refresh, how fresh that is, and its generation: one load.
    ///
    /// A record read after it is of this generation or a newer one.
    #[must_use]
    #[inline]
    pub fn word(&self) -> Word {
        Word(self.word.load(order::READ_WORD))
    }

    /// `ICC_CTLR_EL1` after reset: one load. Means something once [`Word::ready`] was seen.
    #[must_use]
    #[inline]
    pub fn template(&self) -> u64 {
        self.template.load(order::READ_TEMPLATE)
    }

    /// The record, unless the writer was met: one attempt, no loop.
    #[must_use]
    #[inline]
    pub fn try_read(&self) -> Option<Record> {
        let Sequenced { seq, record } = &self.sequenced;
        let before = seq.load(order::READ_SEQ_FIRST);
        let [ctlr, vmcr, fields, generation, stamp] = record;
        let record = Record {
            ctlr: ctlr.load(order::READ_RECORD),
            vmcr: vmcr.load(order::READ_RECORD),
            fields: fields.load(order::READ_RECORD),
            generation: generation.load(order::READ_RECORD),
            stamp: stamp.load(order::READ_RECORD),
        };
        fence(order::READ_FENCE);
        let after = seq.load(order::READ_SEQ_LAST);
        undisturbed(before, after).then_some(record)
    }

    /// The record, after at most `max` attempts. Each attempt that met the writer adds one to `retries`.
    ///
    /// `None` means that the writer was met every time; the [`word`](Self::word) answers nevertheless.
    #[must_use]
    #[inline]
    pub fn read(&self, retries: &mut u64, max: u32) -> Option<Record> {
        for _ in 0..max {
            if let Some(record) = self.try_read() {
                return Some(record);
            }
            *retries += 1;
        }
        None
    }
}

impl Default for ShadowSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// `ICC_CTLR_EL1` in bits 31:0, flags in 39:32, the generation in 63:40.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Word(u64);

impl Word {
    /// The vCPU may be in the guest, where it can write `ICC_CTLR_EL1` unseen unless [`Self::TRAPPED`].
    pub const IN_GUEST: u64 = 1 << 32;
    /// The VM's vGIC is initialised: the value and the template mean something.
    pub const READY: u64 = 1 << 33;
    /// The vCPU has not run since its reset: the value is the template.
    pub const TEMPLATE: u64 = 1 << 34;
    /// The vCPU's `ICC_CTLR_EL1` writes trap now, so none is unseen.
    pub const TRAPPED: u64 = 1 << 35;
    /// Generations are counted modulo 2 to this power.
    pub const GENERATION_BITS: u32 = 24;

    const FLAGS: u64 = 0xff << 32;
    const GENERATION_SHIFT: u32 = 64 - Self::GENERATION_BITS;

    /// The word of `ctlr`'s low half, `flags` and the low bits of `generation`.
    #[must_use]
    #[inline]
    pub const fn new(ctlr: u64, flags: u64, generation: u64) -> Self {
        Self((ctlr & 0xffff_ffff) | (flags & Self::FLAGS) | (generation << Self::GENERATION_SHIFT))
    }

    /// The word with these 64 bits.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// All 64 bits.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// `ICC_CTLR_EL1`, whose upper half is RES0.
    #[must_use]
    #[inline]
    pub const fn ctlr(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// The flags, in place.
    #[must_use]
    #[inline]
    pub const fn flags(self) -> u64 {
        self.0 & Self::FLAGS
    }

    /// The low [`GENERATION_BITS`](Self::GENERATION_BITS) bits of the generation.
    #[must_use]
    #[inline]
    pub const fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_SHIFT
    }

    /// [`Self::IN_GUEST`]: the vCPU may be in the guest.
    #[must_use]
    #[inline]
    pub const fn in_guest(self) -> bool {
        self.0 & Self::IN_GUEST != 0
    }

    /// [`Self::READY`]: the vGIC is initialised.
    #[must_use]
    #[inline]
    pub const fn ready(self) -> bool {
        self.0 & Self::READY != 0
    }

    /// [`Self::TEMPLATE`]: the vCPU has not run since its reset.
    #[must_use]
    #[inline]
    pub const fn is_template(self) -> bool {
        self.0 & Self::TEMPLATE != 0
    }

    /// [`Self::TRAPPED`]: the vCPU's `ICC_CTLR_EL1` writes trap.
    #[must_use]
    #[inline]
    pub const fn trapped(self) -> bool {
        self.0 & Self::TRAPPED != 0
    }

    /// Whether the value is the register's now, not only at the last refresh.
    #[must_use]
    #[inline]
    pub const fn exact(self) -> bool {
        self.ready() && (!self.in_guest() || self.trapped())
    }

    /// Whether this word's generation comes after `other`'s, modulo the counter's width.
    #[must_use]
    pub const fn is_newer_than(self, other: Self) -> bool {
        let ahead = self.generation().wrapping_sub(other.generation()) & ((1 << Self::GENERATION_BITS) - 1);
        ahead != 0 && ahead < 1 << (Self::GENERATION_BITS - 1)
    }
}

/// A vCPU's CPU interface at one of its exits: what one read of `ICH_VMCR_EL2` gives, with the time and the power state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    ctlr: u64,
    vmcr: u64,
    fields: u64,
    generation: u64,
    stamp: u64,
}

impl Record {
    const BPR0_SHIFT: u32 = 8;
    const BPR1_SHIFT: u32 = 16;
    const IGRPEN0_SHIFT: u32 = 24;
    const IGRPEN1_SHIFT: u32 = 25;
    const POWER_SHIFT: u32 = 32;

    /// The record with these words, in memory order.
    #[must_use]
    pub const fn from_words([ctlr, vmcr, fields, generation, stamp]: [u64; RECORD_WORDS]) -> Self {
        Self {
            ctlr,
            vmcr,
            fields,
            generation,
            stamp,
        }
    }

    /// The record's words, in memory order.
    #[must_use]
    #[inline]
    pub const fn words(&self) -> [u64; RECORD_WORDS] {
        [self.ctlr, self.vmcr, self.fields, self.generation, self.stamp]
    }

    /// The third word, from its parts; bits that do not fit are dropped.
    #[must_use]
    #[inline]
    pub const fn fields(pmr: u64, bpr: [u64; 2], igrpen: [u64; 2], power: u64) -> u64 {
        let [bpr0, bpr1] = bpr;
        let [igrpen0, igrpen1] = igrpen;
        (pmr & 0xff)
            | (bpr0 & 7) << Self::BPR0_SHIFT
            | (bpr1 & 7) << Self::BPR1_SHIFT
            | (igrpen0 & 1) << Self::IGRPEN0_SHIFT
            | (igrpen1 & 1) << Self::IGRPEN1_SHIFT
            | (power & 0xff) << Self::POWER_SHIFT
    }

    /// `ICC_CTLR_EL1`.
    #[must_use]
    #[inline]
    pub const fn ctlr(&self) -> u64 {
        self.ctlr
    }

    /// `ICH_VMCR_EL2`.
    #[must_use]
    #[inline]
    pub const fn vmcr(&self) -> u64 {
        self.vmcr
    }

    /// `ICC_PMR_EL1`.
    #[must_use]
    #[inline]
    pub const fn pmr(&self) -> u64 {
        self.fields & 0xff
    }

    /// `ICC_BPR0_EL1`.
    #[must_use]
    #[inline]
    pub const fn bpr0(&self) -> u64 {
        self.fields >> Self::BPR0_SHIFT & 7
    }

    /// `ICC_BPR1_EL1`, as the guest reads it: with `ICC_CTLR_EL1.CBPR` it follows `ICC_BPR0_EL1`.
    #[must_use]
    #[inline]
    pub const fn bpr1(&self) -> u64 {
        self.fields >> Self::BPR1_SHIFT & 7
    }

    /// `ICC_IGRPEN0_EL1`.
    #[must_use]
    #[inline]
    pub const fn igrpen0(&self) -> u64 {
        self.fields >> Self::IGRPEN0_SHIFT & 1
    }

    /// `ICC_IGRPEN1_EL1`.
    #[must_use]
    #[inline]
    pub const fn igrpen1(&self) -> u64 {
        self.fields >> Self::IGRPEN1_SHIFT & 1
    }

    /// The vCPU's power state when the record was published, numbered as `AFFINITY_INFO` numbers it: 0 on, 1 off, 2 on its way to on.
    #[must_use]
    #[inline]
    pub const fn power(&self) -> u64 {
        self.fields >> Self::POWER_SHIFT & 0xff
    }

    /// How many records were published before this one and with it. [`Word::generation`] is its low bits.
    #[must_use]
    #[inline]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// `CNTVCT_EL0` when the registers were read.
    #[must_use]
    #[inline]
    pub const fn stamp(&self) -> u64 {
        self.stamp
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    fn stored(slot: &ShadowSlot, words: [u64; RECORD_WORDS]) {
        for (cell, value) in slot.sequenced.record.iter().zip(words) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_new_page_is_not_ready_and_has_a_slot_a_vcpu() {
        let page = ShadowPage::new();
        assert_eq!(page.slots().len(), SLOTS);
        assert!(page.slots().iter().all(|slot| !slot.word().ready() && !slot.word().exact()));
        assert!(page.slot(SLOTS - 1).is_some());
        assert!(page.slot(SLOTS).is_none());
        assert!(page.slot(usize::MAX).is_none());
    }

    #[test]
    fn slots_do_not_share_a_cache_line() {
        let page = ShadowPage::new();
        let address = |index: usize| core::ptr::from_ref(page.slot(index).expect("slot")).addr();
        assert_eq!(address(0) % 4096, 0);
        assert_eq!(address(5) - address(0), 5 * 256);
    }

    #[test]
    fn a_word_keeps_value_flags_and_generation_apart() {
        let word = Word::new(u64::MAX, 0, 0);
        assert_eq!((word.ctlr(), word.flags(), word.generation()), (0xffff_ffff, 0, 0));
        let word = Word::new(0, u64::MAX, 0);
        assert_eq!((word.ctlr(), word.flags(), word.generation()), (0, 0xff << 32, 0));
        let word = Word::new(0, 0, u64::MAX);
        assert_eq!((word.ctlr(), word.flags(), word.generation()), (0, 0, 0xff_ffff));
        assert_eq!(Word::from_bits(word.bits()), word);
    }

    #[test]
    fn a_word_is_exact_when_ready_and_out_of_the_guest_or_trapped() {
        let exact = |flags| Word::new(0, flags, 0).exact();
        assert!(!exact(0));
        assert!(!exact(Word::TRAPPED));
        assert!(exact(Word::READY));
        assert!(exact(Word::READY | Word::TEMPLATE));
        assert!(!exact(Word::READY | Word::IN_GUEST));
        assert!(exact(Word::READY | Word::IN_GUEST | Word::TRAPPED));
    }

    #[test]
    fn generations_are_compared_modulo_their_width() {
        let at = |generation| Word::new(0, 0, generation);
        assert!(at(2).is_newer_than(at(1)));
        assert!(!at(1).is_newer_than(at(2)));
        assert!(!at(7).is_newer_than(at(7)));
        assert!(at(1 << 24).is_newer_than(at((1 << 24) - 1)));
        assert!(!at((1 << 24) - 1).is_newer_than(at(1 << 24)));
    }

    #[test]
    fn a_record_is_its_words() {
        let words = [0x8c03, 0x004c_0218, Record::fields(0xf0, [2, 3], [0, 1], 2), 9, 10];
        let record = Record::from_words(words);
        assert_eq!(record.words(), words);
        assert_eq!((record.ctlr(), record.vmcr(), record.pmr()), (0x8c03, 0x004c_0218, 0xf0));
        assert_eq!((record.bpr0(), record.bpr1(), record.igrpen0(), record.igrpen1()), (2, 3, 0, 1));
        assert_eq!((record.power(), record.generation(), record.stamp()), (2, 9, 10));
    }

    #[test]
    fn fields_that_do_not_fit_leave_their_neighbours_alone() {
        let only = |pmr, bpr, igrpen, power| Record::from_words([0, 0, Record::fields(pmr, bpr, igrpen, power), 0, 0]);
        let all = u64::MAX;
        assert_eq!(only(all, [0, 0], [0, 0], 0), only(0xff, [0, 0], [0, 0], 0));
        assert_eq!(only(0, [all, 0], [0, 0], 0), only(0, [7, 0], [0, 0], 0));
        assert_eq!(only(0, [0, all], [0, 0], 0), only(0, [0, 7], [0, 0], 0));
        assert_eq!(only(0, [0, 0], [all, 0], 0), only(0, [0, 0], [1, 0], 0));
        assert_eq!(only(0, [0, 0], [0, all], 0), only(0, [0, 0], [0, 1], 0));
        assert_eq!(only(0, [0, 0], [0, 0], all), only(0, [0, 0], [0, 0], 0xff));
    }

    #[test]
    fn an_odd_count_is_a_retry_and_retries_are_bounded() {
        let slot = ShadowSlot::new();
        stored(&slot, [1, 2, 3, 4, 5]);
        let mut retries = 0;
        assert_eq!(slot.read(&mut retries, 3).map(|record| record.words()), Some([1, 2, 3, 4, 5]));
        assert_eq!(retries, 0);
        slot.sequenced.seq.store(1, Ordering::Relaxed);
        assert_eq!(slot.try_read(), None);
        assert_eq!(slot.read(&mut retries, 3), None);
        assert_eq!(retries, 3);
        assert_eq!(slot.read(&mut retries, 0), None);
        assert_eq!(retries, 3);
    }
}
