//! The SMCCC filter: which of a VM's calls hyp handles, denies, or forwards to the host, with KVM's actions and errors.
//!
//! A range is set before its VM first runs and never leaves. A look-up costs the same whatever the number of ranges: the
//! first 32 PSCI calls, in both widths, have a table of their own; any other call takes a search of fixed depth.

use hyp_abi::{errno::Errno, psci};

/// The most ranges a filter holds. A power of two: the search halves it.
pub const MAX_RANGES: usize = 32;

/// What becomes of a call. The numbers are KVM's (`KVM_SMCCC_FILTER_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// hyp handles it, as if there were no filter.
    #[default]
    Handle = 0,
    /// The guest gets `NOT_SUPPORTED`.
    Deny = 1,
    /// The host decides; the calling vCPU waits.
    Forward = 2,
}

impl Action {
    /// The action with this number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Handle,
            1 => Self::Deny,
            2 => Self::Forward,
            _ => return None,
        })
    }
}

/// Function identifiers `first..=last`, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    action: Action,
}

impl Range {
    /// Fills the places that no range has taken: whatever the search finds there is handled.
    const UNUSED: Self = Self {
        first: 0,
        last: 0,
        action: Action::Handle,
    };

    const fn new(base: u32, count: u32, action_and_pad: u64) -> Result<Self, Errno> {
        if action_and_pad > 0xFF || count == 0 {
            return Err(Errno::Invalid);
        }
        match (base.checked_add(count - 1), Action::from_u8(action_and_pad as u8)) {
            (Some(last), Some(action)) => Ok(Self { first: base, last, action }),
            _ => Err(Errno::Invalid),
        }
    }

    const fn contains(&self, fid: u32) -> bool {
        self.first <= fid && fid <= self.last
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The Arm Architecture calls, SMC32 and SMC64: always handled, as under KVM, so that a guest can discover SMCCC.
const RESERVED: [Range; 2] = [
    Range {
        first: 0x8000_0000,
        last: 0x8000_FFFF,
        action: Action::Handle,
    },
    Range {
        first: 0xC000_0000,
        last: 0xC000_FFFF,
        action: Action::Handle,
    },
];

/// PSCI calls that the table answers: numbers 0 to 31 of the standard service, in both widths (bit 30).
const PSCI_BASE: u32 = 0x8400_0000;
const PSCI_VARIES: u32 = 0x4000_001F;

/// One VM's filter.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Two bits a call, an [`Action`] each: SMC32, then SMC64.
    psci: [u64; 2],
    /// How many of `ranges` are in use: the last ones, in ascending order.
    len: usize,
    ranges: [Range; MAX_RANGES],
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    /// A filter without ranges: every call is handled.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            psci: [0; 2],
            len: 0,
            ranges: [Range::UNUSED; MAX_RANGES],
        }
    }

    /// Whether no range was ever set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives `count` function identifiers from `base` an action, which is in bits 7:0 of `action_and_pad`.
    ///
    /// # Errors
    /// `EINVAL`: an unknown action, padding that is not zero, no identifiers, or more than there are from `base` on.
    /// `EEXIST`: one of them has an action already, or is an Arm Architecture call. `E2BIG`: [`MAX_RANGES`] are set.
    pub fn insert(&mut self, base: u32, count: u32, action_and_pad: u64) -> Result<(), Errno> {
        self.add(Range::new(base, count, action_and_pad)?)
    }

    /// [`Filter::insert`] for the host's call, whose arguments are 64 bits wide and which comes too late once a vCPU of
    /// the VM `has_run`.
    ///
    /// # Errors
    /// As [`Filter::insert`]; `EINVAL` also for a base or a count beyond 32 bits; `EBUSY` after the first run. A bad
    /// value is reported before a late one, and a late one before a collision, as under KVM.
    pub fn insert_before_run(&mut self, has_run: bool, base: u64, count: u64, action_and_pad: u64) -> Result<(), Errno> {
        Self::check(base, count, action_and_pad)?;
        if has_run {
            return Err(Errno::Busy);
        }
        self.insert(base as u32, count as u32, action_and_pad)
    }

    /// Whether the host's arguments are those of a range at all, whatever else is wrong with it.
    ///
    /// # Errors
    /// `EINVAL`, as [`Filter::insert_before_run`].
    pub fn check(base: u64, count: u64, action_and_pad: u64) -> Result<(), Errno> {
        let (Ok(base), Ok(count)) = (u32::try_from(base), u32::try_from(count)) else {
            return Err(Errno::Invalid);
        };
        Range::new(base, count, action_and_pad).map(|_| ())
    }

    fn add(&mut self, range: Range) -> Result<(), Errno> {
        let taken = self.ranges.iter().skip(MAX_RANGES - self.len.min(MAX_RANGES));
        if RESERVED.iter().chain(taken).any(|other| other.overlaps(&range)) {
            return Err(Errno::Exists);
        }
        if self.len >= MAX_RANGES {
            return Err(Errno::TooBig);
        }
        self.len += 1;
        self.place(range);
        self.note_psci(&range);
        Ok(())
    }

    /// Puts `range` at the head of those in use, and passes each lower one down before it.
    fn place(&mut self, range: Range) {
        let mut hole = None::<&mut Range>;
        for next in self.ranges.iter_mut().skip(MAX_RANGES - self.len) {
            if let Some(hole) = hole.take() {
                if next.first > range.first {
                    *hole = range;
                    return;
                }
                *hole = *next;
            }
            hole = Some(next);
        }
        if let Some(hole) = hole {
            *hole = range;
        }
    }

    fn note_psci(&mut self, range: &Range) {
        for (width, word) in (0_u32..).zip(self.psci.iter_mut()) {
            for number in 0..32 {
                if range.contains(PSCI_BASE | width << 30 | number) {
                    *word |= (range.action as u64) << (2 * number);
                }
            }
        }
    }

    /// What becomes of a call of `fid`.
    #[must_use]
    #[inline(never)]
    pub fn lookup(&self, fid: u32) -> Action {
        if fid & !PSCI_VARIES == PSCI_BASE {
            let word = self.psci[(fid >> 30 & 1) as usize];
            return match word >> (2 * (fid & 31)) & 3 {
                0 => Action::Handle,
                1 => Action::Deny,
                _ => Action::Forward,
            };
        }
        self.search(fid)
    }

    /// Whether the calls that only read can be answered without a look at the filter: `PSCI_VERSION` and `AFFINITY_INFO` are
    /// handled, and of the services that nobody implements (neither the Arm Architecture's nor the standard one) nothing is
    /// forwarded. `SMCCC_VERSION` always is handled.
    #[must_use]
    pub fn leaves_reads_alone(&self) -> bool {
        let reads = [psci::VERSION, psci::AFFINITY_INFO_32, psci::AFFINITY_INFO_64];
        let implemented = |fid: u32| matches!(fid >> 24 & 0x3F, 0 | 4);
        reads.into_iter().all(|fid| self.lookup(fid) == Action::Handle)
            && self.ranges.iter().all(|range| {
                range.action != Action::Forward
                    || implemented(range.first) && implemented(range.last) && range.first >> 24 == range.last >> 24
            })
    }

    /// Finds the last range that starts at or below `fid`, in as many steps for none as for [`MAX_RANGES`].
    fn search(&self, fid: u32) -> Action {
        let mut at = 0;
        let mut half = MAX_RANGES / 2;
        while half != 0 {
            let probe = (at | half) & (MAX_RANGES - 1);
            if self.ranges[probe].first <= fid {
                at = probe;
            }
            half /= 2;
        }
        let found = self.ranges[at & (MAX_RANGES - 1)];
        if found.contains(fid) { found.action } else { Action::Handle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyp_abi::smccc;
    use proptest::prelude::*;

    #[test]
    fn without_ranges_every_call_is_handled() {
        let filter = Filter::new();
        assert!(filter.is_empty());
        for fid in [
            0,
            1,
            psci::VERSION,
            psci::CPU_ON_64,
            smccc::VERSION,
            0x8400_0020,
            0xC600_0001,
            u32::MAX,
        ] {
            assert_eq!(filter.lookup(fid), Action::Handle);
        }
    }

    #[test]
    fn each_width_of_a_call_is_filtered_by_itself() {
        let mut filter = Filter::new();
        assert_eq!(filter.insert(psci::CPU_ON_32, 1, 2), Ok(()));
        assert_eq!(filter.lookup(psci::CPU_ON_32), Action::Forward);
        assert_eq!(filter.lookup(psci::CPU_ON_64), Action::Handle);
        assert_eq!(filter.insert(psci::CPU_ON_64, 1, 1), Ok(()));
        assert_eq!(filter.lookup(psci::CPU_ON_64), Action::Deny);
        assert!(!filter.is_empty());
    }

    #[test]
    fn bad_values_are_einval() {
        let mut filter = Filter::new();
        assert_eq!(filter.insert(0x8400_0000, 1, 3), Err(Errno::Invalid), "unknown action");
        assert_eq!(filter.insert(0x8400_0000, 1, 0x100), Err(Errno::Invalid), "padding");
        assert_eq!(filter.insert(0x8400_0000, 1, 1 << 63), Err(Errno::Invalid), "padding");
        assert_eq!(filter.insert(0x8400_0000, 0, 1), Err(Errno::Invalid), "no identifiers");
        assert_eq!(filter.insert(0, 0, 1), Err(Errno::Invalid), "no identifiers from 0");
        assert_eq!(filter.insert(u32::MAX, 2, 1), Err(Errno::Invalid), "wraps");
        assert_eq!(filter.insert(u32::MAX, 1, 1), Ok(()), "the very last identifier does not wrap");
        assert_eq!(filter.lookup(u32::MAX), Action::Deny);
    }

    #[test]
    fn an_overlap_is_eexist_whatever_its_action() {
        let mut filter = Filter::new();
        assert_eq!(filter.insert(0x8400_0002, 4, 0), Ok(()));
        for (base, count) in [
            (0x8400_0002, 4),
            (0x8400_0000, 3),
            (0x8400_0005, 1),
            (0x8400_0003, 1),
            (0x8300_0000, u32::MAX >> 4),
        ] {
            assert_eq!(filter.insert(base, count, 0), Err(Errno::Exists));
        }
        assert_eq!(filter.insert(0x8400_0006, 1, 1), Ok(()));
        assert_eq!(filter.insert(0x8400_0001, 1, 1), Ok(()));
    }

    #[test]
    fn the_architecture_calls_are_reserved() {
        let mut filter = Filter::new();
        for base in [0x8000_0000, 0xC000_0000] {
            assert_eq!(filter.insert(base, 1, 1), Err(Errno::Exists));
            assert_eq!(filter.insert(base + 0xFFFF, 1, 1), Err(Errno::Exists));
            assert_eq!(filter.insert(base - 1, 2, 1), Err(Errno::Exists));
            assert_eq!(filter.insert(base + 0x1_0000, 1, 1), Ok(()));
            assert_eq!(filter.insert(base - 1, 1, 1), Ok(()));
        }
        assert_eq!(filter.lookup(smccc::VERSION), Action::Handle);
    }

    #[test]
    fn after_the_first_run_only_bad_values_are_not_ebusy() {
        let mut filter = Filter::new();
        assert_eq!(filter.insert_before_run(true, 0x8400_0000, 1, 1), Err(Errno::Busy));
        assert_eq!(filter.insert_before_run(true, 0x8000_0000, 1, 1), Err(Errno::Busy));
        assert_eq!(filter.insert_before_run(true, 0x8400_0000, 1, 9), Err(Errno::Invalid));
        assert_eq!(filter.insert_before_run(false, 1 << 32, 1, 1), Err(Errno::Invalid));
        assert_eq!(filter.insert_before_run(false, 0, 1 << 32, 1), Err(Errno::Invalid));
        assert!(filter.is_empty());
        assert_eq!(filter.insert_before_run(false, 0x8400_0000, 1, 1), Ok(()));
    }

    #[test]
    fn a_full_filter_is_e2big_and_still_exact() {
        let mut filter = Filter::new();
        for n in (0..MAX_RANGES as u32).rev() {
            assert_eq!(filter.insert(n * 16 + 8, 2, u64::from(n % 3)), Ok(()));
        }
        assert_eq!(filter.insert(0x9000_0000, 1, 1), Err(Errno::TooBig));
        assert_eq!(filter.insert(8, 1, 1), Err(Errno::Exists));
        for fid in 0..MAX_RANGES as u32 * 16 + 16 {
            let action = if (8..10).contains(&(fid % 16)) && fid < 512 {
                (fid / 16 % 3) as u8
            } else {
                0
            };
            assert_eq!(filter.lookup(fid) as u8, action, "{fid}");
        }
    }

    #[test]
    fn calls_that_read_are_left_alone_unless_they_or_a_service_that_nobody_implements_is_filtered() {
        let leaves = |ranges: &[(u32, u32, Action)]| {
            let mut filter = Filter::new();
            for &(base, count, action) in ranges {
                assert_eq!(filter.insert(base, count, action as u64), Ok(()), "{base:#x}");
            }
            filter.leaves_reads_alone()
        };
        assert!(leaves(&[]));
        for fid in [psci::VERSION, psci::AFFINITY_INFO_32, psci::AFFINITY_INFO_64] {
            assert!(!leaves(&[(fid, 1, Action::Deny)]) && !leaves(&[(fid, 1, Action::Forward)]));
        }
        assert!(
            leaves(&[(psci::CPU_ON_64, 1, Action::Forward)]),
            "another call of the standard service"
        );
        // By who owns a service (bits 29:24), in each width; whatever nobody implements is answered alike when it is denied.
        for top in 0..=0xFF_u32 {
            // Those of the Arm Architecture that can be filtered.
            let base = top << 24 | 0x1_0000;
            let implemented = matches!(top & 0x3F, 0 | 4);
            assert_eq!(leaves(&[(base, 1, Action::Forward)]), implemented, "{base:#x}");
            assert!(leaves(&[(base, 1, Action::Deny)]), "{base:#x}");
        }
        // One identifier of another owner is enough: before, behind, and between.
        assert!(!leaves(&[(0x83FF_FFFF, 2, Action::Forward)]));
        assert!(!leaves(&[(0x84FF_FFFF, 2, Action::Forward)]));
        assert!(!leaves(&[(0x0000_0000, 0x0400_0001, Action::Forward)]));
        assert!(leaves(&[(0x8400_0100, 0xFF_FF00, Action::Forward)]), "up to the owner's last");
        assert!(!leaves(&[(0xC200_0000, 1, Action::Deny), (0xC300_0000, 1, Action::Forward)]));
    }

    /// Identifiers near the edges that matter, and ranges that often meet.
    fn fid() -> impl Strategy<Value = u32> {
        let base = prop_oneof![
            Just(0_u32),
            Just(0x7FFF_FFF0),
            Just(0x8000_FFF0),
            Just(0x8400_0000),
            Just(0xC3FF_FFF8),
            Just(0xC400_0010),
            Just(0xFFFF_FFC0),
            any::<u32>(),
        ];
        (base, 0_u32..64).prop_map(|(base, offset)| base.saturating_add(offset))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_filter_answers_as_a_plain_list_does(
            inserts in prop::collection::vec((fid(), prop_oneof![1_u32..40, any::<u32>()], 0_u64..4), 0..if cfg!(miri) { 8 } else { 60 }),
            probes in prop::collection::vec(fid(), if cfg!(miri) { 8 } else { 40 }),
        ) {
            let mut filter = Filter::new();
            let mut list: Vec<(u64, u64, u64)> = Vec::new();
            for &(base, count, action) in &inserts {
                let (first, end) = (u64::from(base), u64::from(base) + u64::from(count));
                let fixed = [(0x8000_0000, 0x8001_0000, 0), (0xC000_0000, 0xC001_0000, 0)];
                let expected = if count == 0 || end > 1 << 32 || action > 2 {
                    Err(Errno::Invalid)
                } else if fixed.iter().chain(&list).any(|range| range.0 < end && first < range.1) {
                    Err(Errno::Exists)
                } else if list.len() == MAX_RANGES {
                    Err(Errno::TooBig)
                } else {
                    list.push((first, end, action));
                    Ok(())
                };
                prop_assert_eq!(filter.insert(base, count, action), expected);
            }
            let edges = inserts.iter().flat_map(|i| [i.0.wrapping_sub(1), i.0, i.0.wrapping_add(i.1).wrapping_sub(1), i.0.wrapping_add(i.1)]);
            for fid in probes.iter().copied().chain(edges) {
                let action = list.iter().find(|range| (range.0..range.1).contains(&u64::from(fid))).map_or(0, |range| range.2);
                prop_assert_eq!(filter.lookup(fid) as u64, action, "{:#x}", fid);
            }
        }
    }
}
