//! Software-generated interrupts: who a write to an SGI register is for, and how it gets there.

use super::Group;
use crate::regs::gic::{ICC_SGI1R_EL1, SgirValue};
use crate::sync::{AtomicU32, Ordering};

/// Which SGI register the guest wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiRegister {
    /// `ICC_SGI0R_EL1`: raises SGIs that the target holds in group 0.
    Sgi0r,
    /// `ICC_SGI1R_EL1`: raises SGIs that the target holds in group 1.
    Sgi1r,
    /// `ICC_ASGI1R_EL1`: the other security state's group 1. There is none.
    Asgi1r,
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
/// Targets that no vCPU answers to are dropped, as are all of `ICC_ASGI1R_EL1`'s. Affinities are those of
/// [`hyp_abi::layout::affinity_of`]: 16 vCPUs to a value of Aff1, and nothing above.
#[must_use]
pub fn decode(register: SgiRegister, value: u64, from: usize, vcpus: usize) -> Request {
    let value = SgirValue::new(value);
    let group = match register {
        SgiRegister::Sgi0r => Group::Zero,
        SgiRegister::Sgi1r => Group::One,
        SgiRegister::Asgi1r => return Request { targets: 0, word: 0 },
    };
    let word = word(value.read(ICC_SGI1R_EL1::INTID) as u32, group);
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

/// SGI `intid` of `group`, as an inbox carries it: group 1 in bits 15:0, group 0 in bits 31:16.
#[must_use]
pub const fn word(intid: u32, group: Group) -> u32 {
    let bit = 1 << (intid & 15);
    match group {
        Group::One => bit,
        Group::Zero => bit << 16,
    }
}

/// The SGIs of `word` that a vCPU with `GICR_IGROUPR0` = `igroupr` takes: those that it holds in the group they were raised for.
#[must_use]
pub const fn accepted(word: u32, igroupr: u32) -> u32 {
    word & 0xFFFF & igroupr | word >> 16 & !igroupr
}

/// Where other pCPUs leave a vCPU its SGIs. Anyone posts; only the vCPU's owner drains.
#[derive(Debug)]
pub struct Inbox(AtomicU32);

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
        Self(AtomicU32::new(0))
    }

    /// An empty inbox.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Leaves the SGIs of `word`. True when the inbox was empty: the owner must be kicked (after a `DSB ISHST`) or woken.
    /// When it was not, whoever filled it has done that, and the owner has yet to drain.
    pub fn post(&self, word: u32) -> bool {
        self.0.fetch_or(word, Ordering::AcqRel) == 0
    }

    /// Whether there is something to drain: a plain load, for the exit path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Takes what is there.
    #[must_use]
    pub fn drain(&self) -> u32 {
        if self.is_empty() { 0 } else { self.0.swap(0, Ordering::AcqRel) }
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

    #[test]
    fn sixteen_vcpus_are_the_most() {
        assert_eq!(MAX_VCPUS, 16);
        assert!((0..16).all(|i| affinity_of(i) == i as u64));
    }

    #[test]
    fn asgi1r_has_no_effect() {
        assert_eq!(decode(SgiRegister::Asgi1r, 1 << 40 | 0xffff, 0, 16).targets, 0);
    }

    #[test]
    fn a_range_selector_beyond_the_vcpus_reaches_nobody() {
        assert_eq!(decode(SgiRegister::Sgi1r, 1 << 44 | 1, 0, 16).targets, 0);
    }

    #[test]
    fn an_sgi_reaches_only_vcpus_that_hold_it_in_the_registers_group() {
        for (register, group) in [(SgiRegister::Sgi1r, Group::One), (SgiRegister::Sgi0r, Group::Zero)] {
            let request = decode(register, 5 << 24 | 1, 0, 1);
            assert_eq!(
                request,
                Request {
                    targets: 1,
                    word: word(5, group)
                }
            );
        }
        assert_eq!(accepted(word(5, Group::One), 1 << 5), 1 << 5);
        assert_eq!(accepted(word(5, Group::One), 0), 0);
        assert_eq!(accepted(word(5, Group::Zero), 0), 1 << 5);
        assert_eq!(accepted(word(5, Group::Zero), 1 << 5), 0);
    }

    #[test]
    fn only_the_first_poster_kicks() {
        let inbox = Inbox::new();
        assert!(inbox.post(1));
        assert!(!inbox.post(2));
        assert_eq!(inbox.drain(), 3);
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
            let request = decode(SgiRegister::Sgi1r, value, from, vcpus);
            for vcpu in 0..16 {
                let expected = vcpu < vcpus && is_target(value, from, vcpu);
                prop_assert_eq!(request.targets >> vcpu & 1 == 1, expected, "vcpu {}", vcpu);
            }
            prop_assert_eq!(request.word, 1 << intid);
        }
    }
}
