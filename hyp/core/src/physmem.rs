//! Who may have which physical memory: a first-fit allocator over the board's RAM, for boot only.
//!
//! Everything is kept in fixed tables, so it works before there is a heap and cannot run out of one. Allocation goes from
//! low addresses to high ones, in every region in turn: the result depends on nothing but the requests, and the boot log
//! reads in the order of the addresses. Physical address 0 is never handed out, although some boards have RAM there: a
//! reference to it would be a null pointer.

use arrayvec::ArrayVec;

use crate::types::Range;

/// The most separate RAM regions that are told apart.
pub const MAX_REGIONS: usize = 32;
/// The most separate reservations and allocations that are told apart.
pub const MAX_RESERVED: usize = 128;

/// A table is full; what was to be added is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A set of addresses as ranges: sorted, disjoint, and not even adjacent (neighbours are merged).
#[derive(Clone, Debug)]
pub struct RangeSet {
    ranges: ArrayVec<Range, MAX_RESERVED>,
    most: usize,
}

impl RangeSet {
    /// The empty set, which may have `most` ranges, and [`MAX_RESERVED`] in any case.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            ranges: ArrayVec::new_const(),
            most,
        }
    }

    /// Adds every address of `range`. An empty range changes nothing.
    ///
    /// # Errors
    /// [`Full`] when the set would need more ranges than it may have; it is then as it was.
    pub fn insert(&mut self, range: Range) -> Result<(), Full> {
        match absorb(&mut self.ranges, range) {
            Some(len) => self.ranges.truncate(len),
            None if self.ranges.len() < self.most => {
                self.ranges.try_push(range).map_err(|_| Full)?;
                sort_last(&mut self.ranges);
            }
            None => return Err(Full),
        }
        Ok(())
    }

    /// The ranges, from the lowest address to the highest.
    #[must_use]
    pub fn as_slice(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether every address of `range` is in the set.
    #[must_use]
    pub fn covers(&self, range: Range) -> bool {
        self.ranges.iter().any(|r| r.covers(range))
    }

    /// The lowest range of the set that shares an address with `range`.
    #[must_use]
    pub fn overlapping(&self, range: Range) -> Option<Range> {
        self.ranges.iter().copied().find(|r| r.overlaps(range))
    }

    /// How many addresses are in the set.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, r| sum.saturating_add(r.size()))
    }
}

/// Makes `range` and those of `ranges` that it overlaps or touches one. Gives how many there are then; `None` where it has to be
/// one more.
fn absorb(ranges: &mut [Range], range: Range) -> Option<usize> {
    if range.size() == 0 {
        return Some(ranges.len());
    }
    let mut merged = None::<usize>;
    let mut len = 0;
    for at in 0..ranges.len() {
        let next = ranges[at];
        let touches = next.end() >= range.start() && next.start() <= range.end();
        let known = merged.filter(|_| touches);
        // Neither is beyond what has been looked at.
        let into = known.unwrap_or(len).min(at);
        ranges[into] = match known {
            Some(_) => hull(ranges[into], next),
            None if touches => hull(range, next),
            None => next,
        };
        if known.is_none() {
            merged = merged.or(touches.then_some(into));
            len += 1;
        }
    }
    merged.map(|_| len)
}

/// Moves the last of `ranges` to its place.
#[inline(never)]
fn sort_last(ranges: &mut [Range]) {
    for at in (1..ranges.len()).rev() {
        if ranges[at - 1].start() > ranges[at].start() {
            ranges.swap(at - 1, at);
        }
    }
}

/// The smallest range that holds both. Ends of ranges do not wrap, so the difference does not either.
fn hull(a: Range, b: Range) -> Range {
    let start = a.start().min(b.start());
    let end = a.end().max(b.end());
    Range::new(start, end - start).unwrap_or(a)
}

/// The board's RAM and what of it is taken.
#[derive(Clone, Debug)]
pub struct PhysMem<'b> {
    ram: &'b RangeSet,
    taken: RangeSet,
}

impl<'b> PhysMem<'b> {
    /// All of `ram`, nothing of it taken.
    #[must_use]
    pub const fn new(ram: &'b RangeSet) -> Self {
        Self {
            ram,
            taken: RangeSet::new(MAX_RESERVED),
        }
    }

    /// Takes `range` out of what [`Self::alloc`] gives, whether it is RAM or not, and whether it was taken before or not.
    ///
    /// # Errors
    /// [`Full`] for more than [`MAX_RESERVED`] separate reservations; `range` is then not protected.
    pub fn reserve(&mut self, range: Range) -> Result<(), Full> {
        self.taken.insert(range)
    }

    /// Takes the lowest free `size` bytes whose start is a multiple of `align`, a power of two. `None` when there are none,
    /// for a `size` of 0, for another `align`, and when the table of reservations is full.
    #[must_use]
    pub fn alloc(&mut self, size: u64, align: u64) -> Option<Range> {
        if size == 0 || !align.is_power_of_two() {
            return None;
        }
        let found = self.ram.as_slice().iter().find_map(|region| self.first_fit(*region, size, align))?;
        self.taken.insert(found).ok()?;
        Some(found)
    }

    /// The lowest free place within one region. Every step leaves one taken range behind, so it ends.
    fn first_fit(&self, region: Range, size: u64, align: u64) -> Option<Range> {
        let mut start = region.start().max(1).checked_next_multiple_of(align)?;
        loop {
            let candidate = Range::new(start, size)?;
            if !region.covers(candidate) {
                return None;
            }
            match self.taken.overlapping(candidate) {
                None => return Some(candidate),
                Some(taken) => start = taken.end().checked_next_multiple_of(align)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn r(start: u64, size: u64) -> Range {
        Range::new(start, size).unwrap()
    }

    fn ram(regions: &[Range]) -> RangeSet {
        let mut ram = RangeSet::new(MAX_REGIONS);
        regions.iter().for_each(|region| ram.insert(*region).unwrap());
        ram
    }

    #[test]
    fn neighbours_and_overlaps_merge_into_one_range() {
        let mut set = RangeSet::new(4);
        for range in [r(0x100, 0x10), r(0x200, 0x10), r(0x110, 0x10), r(0x1f0, 0x30), r(0x500, 0)] {
            set.insert(range).unwrap();
        }
        assert_eq!(set.as_slice(), [r(0x100, 0x20), r(0x1f0, 0x30)]);
        set.insert(r(0x80, 0x1000)).unwrap();
        assert_eq!(set.as_slice(), [r(0x80, 0x1000)]);
    }

    #[test]
    fn a_full_set_stays_as_it_was() {
        let mut set = RangeSet::new(2);
        set.insert(r(0, 1)).unwrap();
        set.insert(r(10, 1)).unwrap();
        assert_eq!(set.insert(r(20, 1)), Err(Full));
        assert_eq!(set.as_slice(), [r(0, 1), r(10, 1)]);
        set.insert(r(1, 9)).unwrap();
        assert_eq!(set.as_slice(), [r(0, 11)]);
    }

    #[test]
    fn allocation_goes_low_to_high_around_reservations() {
        let ram = ram(&[r(0x4000_0000, 64 * MIB)]);
        let mut mem = PhysMem::new(&ram);
        mem.reserve(r(0x4020_0000, MIB)).unwrap();
        assert_eq!(mem.alloc(2 * MIB, 2 * MIB), Some(r(0x4000_0000, 2 * MIB)));
        assert_eq!(mem.alloc(2 * MIB, 2 * MIB), Some(r(0x4040_0000, 2 * MIB)));
        assert_eq!(mem.alloc(4096, 4096), Some(r(0x4030_0000, 4096)));
        assert_eq!(mem.alloc(128 * MIB, 2 * MIB), None);
    }

    #[test]
    fn a_second_region_serves_what_the_first_cannot() {
        let ram = ram(&[r(0x8_8000_0000, 64 * MIB), r(0x8000_0000, 2 * MIB)]);
        let mut mem = PhysMem::new(&ram);
        assert_eq!(mem.alloc(4 * MIB, 2 * MIB), Some(r(0x8_8000_0000, 4 * MIB)));
    }

    #[test]
    fn address_zero_is_never_handed_out() {
        let ram = ram(&[r(0, MIB)]);
        let mut mem = PhysMem::new(&ram);
        assert_eq!(mem.alloc(4096, 4096), Some(r(4096, 4096)));
        assert_eq!(mem.alloc(1, 1), Some(r(1, 1)));
    }

    #[test]
    fn the_top_of_the_address_space_does_not_wrap() {
        let ram = ram(&[r(u64::MAX - 0x1fff, 0x1fff)]);
        let mut mem = PhysMem::new(&ram);
        assert_eq!(mem.alloc(0x2000, 0x1000), None);
        assert_eq!(mem.alloc(u64::MAX, 1 << 63), None);
        assert_eq!(mem.alloc(0x1000, 0x1000), Some(r(u64::MAX - 0x1fff, 0x1000)));
        assert_eq!(mem.alloc(0x1000, 0x1000), None);
    }

    #[test]
    fn a_size_of_zero_and_a_crooked_alignment_get_nothing() {
        let ram = ram(&[r(0x1000, MIB)]);
        let mut mem = PhysMem::new(&ram);
        assert_eq!(mem.alloc(0, 1), None);
        assert_eq!(mem.alloc(1, 0), None);
        assert_eq!(mem.alloc(1, 3), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against the obvious model: one bit per page.
        #[test]
        fn allocations_are_ram_aligned_free_and_the_lowest(
            regions in prop::collection::vec((0u64..200, 1u64..40), 1..5),
            reserved in prop::collection::vec((0u64..240, 1u64..20), 0..6),
            requests in prop::collection::vec((1u64..12, 0u32..4), 1..12),
        ) {
            let mut free = [false; 256];
            let ram = ram(&regions.iter().map(|&(s, n)| r(s, n)).collect::<Vec<_>>());
            let mut mem = PhysMem::new(&ram);
            for (s, n) in regions { for page in s..s + n { free[page as usize] = page != 0; } }
            for (s, n) in reserved {
                mem.reserve(r(s, n)).unwrap();
                for page in s..(s + n).min(256) { free[page as usize] = false; }
            }
            for (size, shift) in requests {
                let align = 1u64 << shift;
                let expected = (0..256 - size).step_by(align as usize)
                    .find(|&start| (start..start + size).all(|page| free[page as usize]));
                prop_assert_eq!(mem.alloc(size, align), expected.map(|start| r(start, size)));
                if let Some(start) = expected { for page in start..start + size { free[page as usize] = false; } }
            }
        }
    }
}
