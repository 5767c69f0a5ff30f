//! Software-generated interrupts: who a write to an SGI register is for, and how it gets there.

use crate::regs::gic::{ICC_SGI1R_EL1, SgirValue};
use crate::sync::{AtomicU64, Ordering};

/// Which SGI register the guest wrote. With one security state (`GICD_CTLR.DS` is 1) there are two kinds, as under KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiRegister {
    /// `ICC_SGI1R_EL1`: raises an SGI in whichever group the target holds it.
    Any,
    /// `ICC_SGI0R_EL1`, and `ICC_ASGI1R_EL1`, for there is no other security state's group 1: raise one that the target holds in group 0.
    Zero,
}

/// An SGI and its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The vCPUs it is for, one bit per index.
    pub targets: u16,
    /// What to [`post`](Inbox::post) to each of them.
    pub word: u32,
}

/// Decodes a write of `value` by vCPU `from` of a VM that has `vcpus` of them.
///
/// Targets that no vCPU answers to are dropped. Affinities are those of
/// [`hyp_abi::layout::affinity_of`]: 16 vCPUs to a value of Aff1, and nothing above.
#[must_use]
pub fn decode(register: SgiRegister, value: u64, from: usize, vcpus: usize) -> Request {
    let value = SgirValue::new(value);
    let word = word(value.read(ICC_SGI1R_EL1::INTID) as u32, register);
    let present = if vcpus >= 16 { u16::MAX } else { (1 << vcpus) - 1 };
    let targets = if value.is_set(ICC_SGI1R_EL1::IRM) {
        !(1u16 << (from & 15))
    } else if value.read(ICC_SGI1R_EL1::Aff3)
        | value.read(ICC_SGI1R_EL1::Aff2)
        | value.read(ICC_SGI1R_EL1::Aff1)
        | value.read(ICC_SGI1R_EL1::RS)
        == 0
    {
        value.read(ICC_SGI1R_EL1::TargetList) as u16
    } else {
        0
    };
    Request {
        targets: targets & present,
        word,
    }
}

/// The SGI and the targets of a write to `ICC_SGI1R_EL1` that names vCPUs one by one. A target may be one that no vCPU answers to.
#[must_use]
#[inline]
pub const fn decode_listed(value: u64) -> Option<(u32, u16)> {
    const INTID: u64 = 0xF << 24;
    const TARGET_LIST: u64 = 0xFFFF;
    if value & !(INTID | TARGET_LIST) != 0 {
        return None;
    }
    Some((((value & INTID) >> 24) as u32, (value & TARGET_LIST) as u16))
}

/// SGI `intid`, raised by `register`, as an inbox carries it: in bits 15:0, or, of group 0 only, in bits 31:16.
#[must_use]
pub const fn word(intid: u32, register: SgiRegister) -> u32 {
    let bit = 1 << (intid & 15);
    match register {
        SgiRegister::Any => bit,
        SgiRegister::Zero => bit << 16,
    }
}

/// The SGIs of `word` that a vCPU with `GICR_IGROUPR0` = `igroupr` takes.
#[must_use]
pub const fn accepted(word: u32, igroupr: u32) -> u32 {
    word & 0xFFFF | word >> 16 & !igroupr
}

/// Where other pCPUs leave a vCPU its SGIs, and word that there is something else to look at. Anyone posts; only
/// who holds the vCPU's lock drains: mostly its owner.
///
/// The word is for an owner that is kicked: if all it was kicked for is SGIs it need not look anywhere else. Who wants anything else
/// of it says so ([`look`](Self::look)) before the kick, and what is posted stays posted until the owner begins to look at everything
/// ([`drain`](Self::drain)). Only what an owner waits for, and looks at with each kick while it does, needs no word.
#[derive(Debug)]
pub struct Inbox(AtomicU64);

/// There is something else to look at. The SGIs are in bits 31:0.
const LOOK: u64 = 1 << 32;

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// An empty inbox.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// An empty inbox.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Leaves the SGIs of `word`. True when there were none: the owner must be kicked (after a `DSB ISHST`) or woken. When there were,
    /// whoever left them has done that, and the owner has yet to drain.
    #[inline]
    pub fn post(&self, word: u32) -> bool {
        self.0.fetch_or(word.into(), Ordering::AcqRel) as u32 == 0
    }

    /// The owner is to look at everything: what it is to find is stored before this, and a kick comes after.
    #[inline]
    pub fn look(&self) {
        self.0.fetch_or(LOOK, Ordering::Release);
    }

    /// Whether there are no SGIs to drain: a plain load, for the exit path.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) as u32 == 0
    }

    /// Whether there are neither SGIs nor the word to look: who finds it so after a kick has nothing to look at.
    #[must_use]
    #[inline(always)]
    pub fn is_untouched(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Whether the word to look is there.
    #[must_use]
    #[inline(always)]
    pub fn is_to_look(&self) -> bool {
        self.0.load(Ordering::Relaxed) & LOOK != 0
    }

    /// Takes the SGIs, and the word to look; the owner looks at everything else next. `None`: there was neither.
    #[must_use]
    pub fn drain(&self) -> Option<u32> {
        if self.is_untouched() {
            return None;
        }
        Some(self.0.swap(0, Ordering::AcqRel) as u32)
    }

    /// Takes the SGIs, and leaves the word to look.
    #[must_use]
    pub fn drain_sgis(&self) -> u32 {
        if self.is_empty() {
            return 0;
        }
        self.0.fetch_and(LOOK, Ordering::AcqRel) as u32
    }

    /// What is in it, if that is one SGI of any group and nothing else.
    #[must_use]
    #[inline(always)]
    pub fn only_sgi(&self) -> Option<u32> {
        let word = self.0.load(Ordering::Relaxed);
        if word <= u64::from(u16::MAX) && word.is_power_of_two() {
            Some(word as u32)
        } else {
            None
        }
    }

    /// Takes `word`, which [`only_sgi`](Self::only_sgi) has given. False: something was added since, and nothing is taken.
    #[must_use]
    #[inline(always)]
    pub fn take_only(&self, word: u32) -> bool {
        self.0
            .compare_exchange(word.into(), 0, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use hyp_abi::layout::{MAX_VCPUS, affinity_of};
    use proptest::prelude::*;

    /// The architecture's words, one vCPU at a time.
    fn is_target(value: u64, from: usize, vcpu: usize) -> bool {
        if value >> 40 & 1 == 1 {
            return vcpu != from;
        }
        let affinity = affinity_of(vcpu);
        let (aff0, aff1, aff2, aff3) = (affinity & 0xff, affinity >> 8 & 0xff, affinity >> 16 & 0xff, affinity >> 32 & 0xff);
        let cluster = aff1 == value >> 16 & 0xff && aff2 == value >> 32 & 0xff && aff3 == value >> 48 & 0xff;
        cluster && aff0 / 16 == value >> 44 & 0xf && value >> (aff0 % 16) & 1 == 1
    }

    proptest! {
        #[test]
        fn what_is_listed_is_decoded_the_same(value in prop_oneof![any::<u64>(), any::<u64>().prop_map(|value| value & 0x0F00_FFFF)]) {
            if let Some((intid, targets)) = decode_listed(value) {
                let request = decode(SgiRegister::Any, value, 0, 16);
                prop_assert_eq!((request.word, request.targets), (word(intid, SgiRegister::Any), targets));
            }
        }
    }

    #[test]
    fn sixteen_vcpus_are_the_most() {
        assert_eq!(MAX_VCPUS, 16);
        assert!((0..16).all(|i| affinity_of(i) == i as u64));
    }

    #[test]
    fn a_range_selector_beyond_the_vcpus_reaches_nobody() {
        assert_eq!(decode(SgiRegister::Any, 1 << 44 | 1, 0, 16).targets, 0);
    }

    /// IHI 0069, forwarding an SGI to a target PE, where `GICD_CTLR.DS` is 1.
    #[test]
    fn sgi1r_raises_sgis_of_either_group_and_the_others_of_group_0_only() {
        for (register, in_group_1) in [(SgiRegister::Any, 1), (SgiRegister::Zero, 0)] {
            let request = decode(register, 5 << 24 | 1, 0, 1);
            assert_eq!(request.targets, 1);
            assert_eq!(accepted(request.word, 1 << 5), in_group_1 << 5);
            assert_eq!(accepted(request.word, !(1 << 5)), 1 << 5);
        }
    }

    #[test]
    fn the_word_to_look_is_no_sgi_and_stays_until_the_owner_looks() {
        let inbox = Inbox::new();
        assert_eq!(inbox.only_sgi(), None);
        assert!(inbox.post(4));
        assert_eq!(inbox.only_sgi(), Some(4));
        assert!(!inbox.is_untouched() && !inbox.is_to_look());
        inbox.look();
        assert!(!inbox.is_untouched() && inbox.is_to_look());
        assert_eq!((inbox.only_sgi(), inbox.take_only(4)), (None, false));
        assert_eq!((inbox.drain_sgis(), inbox.is_empty()), (4, true));
        assert!(inbox.post(8), "whoever posts the first SGI kicks, whatever else is there");
        assert_eq!(inbox.only_sgi(), None);
        assert_eq!(inbox.drain(), Some(8));
        assert!(inbox.is_untouched() && !inbox.is_to_look());
        assert!(inbox.post(word(0, SgiRegister::Zero)));
        assert_eq!(inbox.only_sgi(), None, "of group 0 only");
        assert_eq!(inbox.drain(), Some(1 << 16));
        assert!(inbox.post(2) && inbox.only_sgi() == Some(2) && inbox.take_only(2) && inbox.is_empty());
    }

    #[test]
    fn only_the_first_poster_kicks() {
        let inbox = Inbox::new();
        assert!(inbox.post(1));
        assert!(!inbox.post(2));
        assert_eq!(inbox.drain(), Some(3));
        assert!(inbox.is_empty());
        assert!(inbox.post(2));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn targets_are_those_the_architecture_names(
            list: u16,
            aff1 in prop_oneof![8 => Just(0u64), 1 => 0..256u64],
            aff2 in prop_oneof![8 => Just(0u64), 1 => 0..256u64],
            aff3 in prop_oneof![8 => Just(0u64), 1 => 0..256u64],
            rs in prop_oneof![4 => Just(0u64), 1 => 0..16u64],
            irm in 0..2u64,
            intid in 0..16u64,
            from in 0..16usize,
            vcpus in 1..=16usize,
        ) {
            let value = u64::from(list) | aff1 << 16 | intid << 24 | aff2 << 32 | irm << 40 | rs << 44 | aff3 << 48;
            let from = from % vcpus;
            let request = decode(SgiRegister::Any, value, from, vcpus);
            for vcpu in 0..16 {
                let expected = vcpu < vcpus && is_target(value, from, vcpu);
                prop_assert_eq!(request.targets >> vcpu & 1 == 1, expected, "vcpu {}", vcpu);
            }
            prop_assert_eq!(request.word, 1 << intid);
        }
    }
}
