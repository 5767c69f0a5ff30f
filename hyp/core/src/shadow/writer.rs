//! The only code that stores to a shadow page.

use super::page::{RECORD_WORDS, Record, ShadowSlot, Word};
use super::sync::{ODD_PHASE, fence, order};

/// What a vCPU's CPU interface held at one moment: one read of `ICH_VMCR_EL2`, taken apart by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// `ICC_CTLR_EL1` as the guest sees it.
    pub ctlr: u64,
    /// `ICH_VMCR_EL2`.
    pub vmcr: u64,
    /// `ICC_PMR_EL1`.
    pub pmr: u64,
    /// `ICC_BPR0_EL1`.
    pub bpr0: u64,
    /// `ICC_BPR1_EL1` as the guest sees it.
    pub bpr1: u64,
    /// `ICC_IGRPEN0_EL1`.
    pub igrpen0: u64,
    /// `ICC_IGRPEN1_EL1`.
    pub igrpen1: u64,
    /// The power state, numbered as in [`Record::power`].
    pub power: u64,
    /// `CNTVCT_EL0` at that moment.
    pub stamp: u64,
}

/// Where the vCPU is while the published value stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// It goes on in the guest ([`Word::IN_GUEST`]). Clear it only with a sample that is the registers' state now.
    pub in_guest: bool,
    /// Its `ICC_CTLR_EL1` writes trap ([`Word::TRAPPED`]).
    pub trapped: bool,
}

impl Flags {
    const fn bits(self) -> u64 {
        (if self.in_guest { Word::IN_GUEST } else { 0 }) | (if self.trapped { Word::TRAPPED } else { 0 })
    }
}

/// The writer of one vCPU's slot.
///
/// Keep it inside the data of the vCPU's lock. It goes with one slot that starts as zeroes, for as long as that slot is used: the
/// counters that it remembers are the slot's, so it never loads.
#[derive(Debug)]
pub struct ShadowWriter {
    seq: u64,
    generation: u64,
    word: Word,
}

impl ShadowWriter {
    /// The writer of a slot of zeroes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            seq: 0,
            generation: 0,
            word: Word::new(0, 0, 0),
        }
    }

    /// Publishes `sample` as the next generation: the record first, then the word.
    #[inline]
    pub fn publish(&mut self, slot: &ShadowSlot, sample: &Sample, flags: Flags) {
        let kept = if flags.in_guest {
            Word::READY
        } else {
            Word::READY | Word::TEMPLATE
        };
        self.publish_with(slot, sample, flags.bits() | (self.word.flags() & kept));
    }

    /// The vCPU is about to enter the guest: from here on the value is as of its last refresh. Call it before every `ERET` to it.
    #[inline]
    pub fn enter(&mut self, slot: &ShadowSlot) {
        let flags = (self.word.flags() | Word::IN_GUEST) & !Word::TEMPLATE;
        if flags != self.word.flags() {
            self.word = Word::new(self.word.ctlr(), flags, self.generation);
            slot.word.store(self.word.bits(), order::WRITE_WORD_ENTER);
        }
    }

    /// The vCPU has left the guest with `sample` in its registers: publishes it, exact until [`Self::enter`].
    #[inline]
    pub fn leave(&mut self, slot: &ShadowSlot, sample: &Sample) {
        let trapped = self.word.trapped();
        self.publish(slot, sample, Flags { in_guest: false, trapped });
    }

    /// The vCPU has left the guest, and its registers hold what was last published: that is exact until [`Self::enter`].
    #[inline]
    pub fn rest(&mut self, slot: &ShadowSlot) {
        self.word = Word::new(self.word.ctlr(), self.word.flags() & !Word::IN_GUEST, self.generation);
        slot.word.store(self.word.bits(), order::WRITE_WORD_ENTER);
    }

    /// The vCPU is reset, or its reset state is edited before it first runs: stores the template and publishes `template` as what
    /// the registers hold. Keep the vCPU out of the guest.
    pub fn set_template(&mut self, slot: &ShadowSlot, template: &Sample) {
        slot.template.store(template.ctlr, order::WRITE_TEMPLATE);
        self.publish_with(slot, template, Word::TEMPLATE | (self.word.flags() & (Word::READY | Word::TRAPPED)));
    }

    /// The VM's vGIC is initialised: value and template mean something. After [`Self::set_template`].
    pub fn mark_ready(&mut self, slot: &ShadowSlot) {
        self.set_flags(slot, self.word.flags() | Word::READY);
    }

    /// The VM is reset and its vGIC not initialised any more.
    pub fn mark_unready(&mut self, slot: &ShadowSlot) {
        self.set_flags(slot, self.word.flags() & !Word::READY);
    }

    /// The word that the slot holds.
    #[must_use]
    #[inline]
    pub const fn word(&self) -> Word {
        self.word
    }

    /// How many generations were published.
    #[must_use]
    #[inline]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    #[inline]
    fn publish_with(&mut self, slot: &ShadowSlot, sample: &Sample, flags: u64) {
        self.generation = self.generation.wrapping_add(1);
        let fields = Record::fields(
            sample.pmr,
            [sample.bpr0, sample.bpr1],
            [sample.igrpen0, sample.igrpen1],
            sample.power,
        );
        self.write_record(slot, [sample.ctlr, sample.vmcr, fields, self.generation, sample.stamp]);
        self.word = Word::new(sample.ctlr, flags, self.generation);
        slot.word.store(self.word.bits(), order::WRITE_WORD);
    }

    #[inline]
    fn write_record(&mut self, slot: &ShadowSlot, words: [u64; RECORD_WORDS]) {
        let seq = &slot.sequenced.seq;
        if ODD_PHASE {
            seq.store(self.seq.wrapping_add(1), order::WRITE_SEQ_ODD);
            fence(order::WRITE_FENCE);
        }
        // Not a loop: it would cost more than its body.
        let ([a, b, c, d, e], [ctlr, vmcr, fields, generation, stamp]) = (&slot.sequenced.record, words);
        a.store(ctlr, order::WRITE_RECORD);
        linger();
        b.store(vmcr, order::WRITE_RECORD);
        linger();
        c.store(fields, order::WRITE_RECORD);
        linger();
        d.store(generation, order::WRITE_RECORD);
        linger();
        e.store(stamp, order::WRITE_RECORD);
        linger();
        self.seq = self.seq.wrapping_add(2);
        seq.store(self.seq, order::WRITE_SEQ_EVEN);
    }

    fn set_flags(&mut self, slot: &ShadowSlot, flags: u64) {
        self.word = Word::new(self.word.ctlr(), flags, self.generation);
        slot.word.store(self.word.bits(), order::WRITE_WORD);
    }
}

impl Default for ShadowWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Spreads a broken writer's stores, so that a reader meets them; nothing otherwise.
#[inline]
fn linger() {
    #[cfg(feature = "broken-writer")]
    for turn in 0..4096 {
        core::hint::black_box(turn);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn sample(n: u64) -> Sample {
        Sample {
            ctlr: 0x8c00 | (n & 3),
            vmcr: n,
            pmr: n,
            bpr0: n,
            bpr1: n,
            igrpen0: n,
            igrpen1: n,
            power: n,
            stamp: n,
        }
    }

    #[test]
    fn what_is_published_is_what_is_read() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        for n in 1..=300 {
            writer.publish(&slot, &sample(n), Flags::default());
            let (word, record) = (slot.word(), slot.try_read().expect("no writer is at work"));
            assert_eq!(word.ctlr(), 0x8c00 | (n & 3));
            assert_eq!((record.ctlr(), record.vmcr(), record.stamp()), (word.ctlr(), n, n));
            assert_eq!((record.pmr(), record.bpr0(), record.bpr1()), (n & 0xff, n & 7, n & 7));
            assert_eq!((record.igrpen0(), record.igrpen1(), record.power()), (n & 1, n & 1, n & 0xff));
            assert_eq!((record.generation(), word.generation(), writer.generation()), (n, n, n));
            assert_eq!(word, writer.word());
        }
    }

    #[test]
    fn the_shadow_is_the_template_before_any_host_write() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        writer.set_template(
            &slot,
            &Sample {
                ctlr: 0x8c00,
                ..Sample::default()
            },
        );
        assert!(!slot.word().ready());
        writer.mark_ready(&slot);
        assert_eq!(slot.template(), 0x8c00);
        assert_eq!(slot.word().ctlr(), 0x8c00);
        assert!(slot.word().is_template() && slot.word().exact());
        assert_eq!(slot.try_read().map(|record| record.ctlr()), Some(0x8c00));
    }

    #[test]
    fn an_edit_before_the_first_run_keeps_the_template_flag_and_running_drops_it() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        writer.set_template(&slot, &sample(0));
        writer.mark_ready(&slot);
        writer.publish(&slot, &sample(1), Flags::default());
        assert!(slot.word().is_template());
        assert_eq!(slot.template(), 0x8c00);
        writer.enter(&slot);
        assert!(!slot.word().is_template());
        writer.leave(&slot, &sample(2));
        assert!(!slot.word().is_template());
        writer.set_template(&slot, &sample(3));
        assert!(slot.word().is_template() && slot.word().ready());
        writer.publish(
            &slot,
            &sample(3),
            Flags {
                in_guest: true,
                trapped: false,
            },
        );
        assert!(!slot.word().is_template());
    }

    #[test]
    fn the_word_is_exact_between_leave_and_enter() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        writer.set_template(&slot, &sample(0));
        writer.mark_ready(&slot);
        for n in 1..4 {
            writer.enter(&slot);
            assert!(slot.word().in_guest() && !slot.word().exact());
            writer.leave(&slot, &sample(n));
            assert!(!slot.word().in_guest() && slot.word().exact());
        }
    }

    #[test]
    fn the_word_at_rest_is_exact_and_of_the_same_generation() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        writer.set_template(&slot, &sample(0));
        writer.mark_ready(&slot);
        writer.publish(
            &slot,
            &sample(5),
            Flags {
                in_guest: true,
                trapped: false,
            },
        );
        let (before, record) = (slot.word(), slot.try_read());
        writer.rest(&slot);
        let word = slot.word();
        assert!(!before.exact() && word.exact() && word.ready() && !word.is_template());
        assert_eq!((word.ctlr(), word.generation()), (before.ctlr(), before.generation()));
        assert_eq!((word, slot.try_read()), (writer.word(), record));
        writer.enter(&slot);
        assert_eq!(slot.word(), before);
    }

    #[test]
    fn the_word_of_a_trapped_vcpu_is_exact_in_the_guest_until_the_window_ends() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        writer.set_template(&slot, &sample(0));
        writer.mark_ready(&slot);
        writer.publish(
            &slot,
            &sample(0),
            Flags {
                in_guest: false,
                trapped: true,
            },
        );
        writer.enter(&slot);
        assert!(slot.word().in_guest() && slot.word().exact());
        writer.leave(&slot, &sample(1));
        assert!(slot.word().trapped());
        writer.publish(
            &slot,
            &sample(1),
            Flags {
                in_guest: true,
                trapped: false,
            },
        );
        assert!(!slot.word().exact());
    }

    #[test]
    fn entering_again_stores_nothing_and_keeps_the_generation() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        writer.publish(
            &slot,
            &sample(1),
            Flags {
                in_guest: true,
                trapped: false,
            },
        );
        let word = slot.word();
        slot.word.store(0, super::super::sync::Ordering::Relaxed);
        writer.enter(&slot);
        assert_eq!(slot.word().bits(), 0, "the slot was stored to");
        assert_eq!(writer.word(), word);
    }

    #[test]
    fn counters_wrap() {
        let slot = ShadowSlot::new();
        let mut writer = ShadowWriter {
            seq: u64::MAX - 1,
            generation: u64::MAX,
            word: Word::new(0, 0, u64::MAX),
        };
        let before = writer.word();
        writer.publish(&slot, &sample(1), Flags::default());
        assert_eq!(slot.try_read().map(|record| record.generation()), Some(0));
        assert!(slot.word().is_newer_than(before));
    }

    #[test]
    fn a_reset_vgic_is_not_ready_and_its_word_not_exact() {
        let (slot, mut writer) = (ShadowSlot::new(), ShadowWriter::new());
        writer.set_template(&slot, &sample(0));
        writer.mark_ready(&slot);
        writer.mark_unready(&slot);
        assert!(!slot.word().ready() && !slot.word().exact());
        assert!(slot.word().is_template());
    }

    #[cfg(all(feature = "broken-writer", not(miri)))]
    #[test]
    fn the_broken_writers_records_are_torn() {
        use std::{sync::Arc, sync::atomic::AtomicBool, sync::atomic::Ordering, thread};
        const { assert!(!ODD_PHASE) };
        let shared = Arc::new((ShadowSlot::new(), AtomicBool::new(false)));
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let torn = |record: Record| record.vmcr() != record.stamp();
                let seen = (0..100_000_000).any(|_| shared.0.try_read().is_some_and(torn));
                shared.1.store(true, Ordering::Relaxed);
                seen
            }
        });
        let mut writer = ShadowWriter::new();
        let mut n = 0;
        while !shared.1.load(Ordering::Relaxed) {
            n += 1;
            writer.publish(&shared.0, &sample(n), Flags::default());
        }
        assert!(reader.join().expect("the reader"), "no record was torn");
    }

    #[cfg(not(feature = "broken-writer"))]
    #[test]
    fn records_read_while_they_are_written_are_not_torn() {
        use std::{sync::Arc, thread};
        let rounds = if cfg!(miri) { 50 } else { 20_000 };
        let slot = Arc::new(ShadowSlot::new());
        let reader = thread::spawn({
            let slot = Arc::clone(&slot);
            move || {
                let mut last = 0;
                while last < rounds {
                    let generation = slot.word().generation();
                    let Some(record) = slot.try_read() else {
                        thread::yield_now();
                        continue;
                    };
                    assert_eq!((record.vmcr(), record.stamp()), (record.generation(), record.generation()));
                    assert!(record.generation() >= generation, "the record is older than the word");
                    assert!(record.generation() >= last, "records went back");
                    last = record.generation();
                }
            }
        });
        let mut writer = ShadowWriter::new();
        for n in 1..=rounds {
            writer.publish(&slot, &sample(n), Flags::default());
            if n % 16 == 0 {
                thread::yield_now();
            }
        }
        reader.join().expect("the reader");
    }
}
