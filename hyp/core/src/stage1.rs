//! EL2's own translation tables: the identity, 4 KiB granule, walks from level 1, blocks of 1 GiB and 2 MiB where they fit.
//! DDI 0487 D8 (VMSAv8-64).
//!
//! They are made before EL2's translation is on, and but for the windows' table never changed after: no TLB maintenance is needed.

use crate::stage2::{PAGE, Tables};
use crate::types::{Pa, Range};

/// One table at level 1.
pub const VA_BITS: u32 = 39;
/// As many tables as a board takes whose memory and devices are far apart: each of image, pCPUs' stacks, device tree, interrupt
/// controller and console in a GiB of its own, and across a boundary wherever it can lie so. One is to spare.
pub const MOST_TABLES: usize = 18;
/// The addresses that one descriptor of the root covers.
pub const GIB: u64 = 1 << 30;

/// Descriptor bits. DDI 0487 D8.3 (Translation table descriptor formats).
mod descriptor {
    pub(super) const VALID: u64 = 1 << 0;
    /// A table at levels 1 and 2, a page at level 3; clear for a block.
    pub(super) const TABLE_OR_PAGE: u64 = 1 << 1;
    /// AttrIndx 1 of [`MAIR`](super::MAIR).
    pub(super) const DEVICE: u64 = 1 << 2;
    /// AP\[1\], which is RES1 in a translation regime with one exception level.
    pub(super) const AP1: u64 = 1 << 6;
    /// AP\[2\].
    pub(super) const READ_ONLY: u64 = 1 << 7;
    pub(super) const OUTER_SHAREABLE: u64 = 0b10 << 8;
    pub(super) const INNER_SHAREABLE: u64 = 0b11 << 8;
    pub(super) const AF: u64 = 1 << 10;
    pub(super) const XN: u64 = 1 << 54;
    pub(super) const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_f000;
}
use descriptor as d;

/// `MAIR_EL2`: 0 is Normal memory, write-back, read and write allocate; 1 is Device-nGnRE.
pub const MAIR: u64 = 0x04FF;

/// What EL2 may do with a piece of its own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Run it.
    Execute,
    /// Read it.
    Read,
    /// Read and write it.
    Write,
    /// A device's registers.
    Device,
}

impl Access {
    const fn bits(self) -> u64 {
        let normal = d::AP1 | d::INNER_SHAREABLE | d::AF;
        match self {
            Self::Execute => normal | d::READ_ONLY,
            Self::Read => normal | d::READ_ONLY | d::XN,
            Self::Write => normal | d::XN,
            Self::Device => d::DEVICE | d::AP1 | d::OUTER_SHAREABLE | d::AF | d::XN,
        }
    }

    /// The descriptor of a block of memory at `pa`.
    #[must_use]
    pub const fn block(self, pa: u64) -> u64 {
        pa | self.bits() | d::VALID
    }
}

/// The range, or a part of it, cannot be mapped: it is beyond the last but one GiB of the address space, there is no memory
/// for a table, or a block with other attributes is in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFailed;

/// EL2's tables. The last GiB is for windows: one table at level 2, whose descriptors are written by their users.
#[derive(Clone, Copy, Debug)]
pub struct Stage1 {
    root: Pa,
    windows: Pa,
}

impl Stage1 {
    /// Where windows are.
    pub const WINDOWS: u64 = 511 * GIB;

    /// Tables with nothing in them. `None` when there is no memory for them.
    #[must_use]
    pub fn new(tables: &mut impl Tables) -> Option<Self> {
        let (root, windows) = (tables.alloc()?, tables.alloc()?);
        tables.write(root, 511, windows.get() | d::TABLE_OR_PAGE | d::VALID);
        Some(Self { root, windows })
    }

    /// The root, for `TTBR0_EL2`.
    #[must_use]
    pub const fn root(&self) -> Pa {
        self.root
    }

    /// The table under the windows.
    #[must_use]
    pub const fn windows(&self) -> Pa {
        self.windows
    }

    /// Maps `range`, rounded out to pages, to itself. What was mapped there before is replaced; a block must be of the same
    /// attributes.
    ///
    /// # Errors
    /// [`MapFailed`].
    pub fn identity(&self, tables: &mut impl Tables, range: Range, access: Access) -> Result<(), MapFailed> {
        let mut at = range.start() & !(PAGE - 1);
        let end = range.end().checked_next_multiple_of(PAGE).filter(|end| *end <= Self::WINDOWS);
        let end = end.ok_or(MapFailed)?;
        while at < end {
            at = self.some(tables, at, end, access)?;
        }
        Ok(())
    }

    /// Maps from `at` on as far as one table goes. Gives where to go on.
    fn some(&self, tables: &mut impl Tables, mut at: u64, end: u64, access: Access) -> Result<u64, MapFailed> {
        let (mut table, mut shift) = (self.root, 30);
        loop {
            let span = 1 << shift;
            let index = (at >> shift & 511) as usize;
            let descriptor = tables.read(table, index);
            let below = shift > 12 && descriptor & (d::VALID | d::TABLE_OR_PAGE) == d::VALID | d::TABLE_OR_PAGE;
            if !below && at.is_multiple_of(span) && end - at >= span {
                // Only of pages there are many in a row, and no table is below them.
                let (kind, pages) = if shift == 12 {
                    (d::TABLE_OR_PAGE, (end - at) / PAGE)
                } else {
                    (0, 1)
                };
                for index in (index..512).take(pages as usize) {
                    tables.write(table, index, access.block(at) | kind);
                    at += span;
                }
                return Ok(at);
            }
            if below {
                table = Pa::new(descriptor & d::ADDRESS_MASK);
            } else if descriptor & d::VALID == 0 {
                let next = tables.alloc().ok_or(MapFailed)?;
                tables.write(table, index, next.get() | d::TABLE_OR_PAGE | d::VALID);
                table = next;
            } else if descriptor & !d::ADDRESS_MASK == access.block(0) {
                return Ok(((at & !(span - 1)) + span).min(end));
            } else {
                return Err(MapFailed);
            }
            shift -= 9;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Memory for `left` tables more.
    struct Memory {
        tables: BTreeMap<u64, [u64; 512]>,
        left: usize,
    }

    impl Tables for Memory {
        fn alloc(&mut self) -> Option<Pa> {
            self.left = self.left.checked_sub(1)?;
            let at = 0x4000_0000 + self.tables.len() as u64 * PAGE;
            self.tables.insert(at, [0; 512]);
            Some(Pa::new(at))
        }
        fn read(&self, table: Pa, index: usize) -> u64 {
            self.tables[&table.get()][index]
        }
        fn write(&mut self, table: Pa, index: usize, descriptor: u64) {
            self.tables.get_mut(&table.get()).expect("a table")[index] = descriptor;
        }
    }

    fn memory(left: usize) -> Memory {
        Memory {
            tables: BTreeMap::new(),
            left,
        }
    }

    /// Where `va` leads, and with which attributes, as the hardware walks.
    fn walk(memory: &Memory, map: &Stage1, va: u64) -> Option<(u64, u64)> {
        let mut table = map.root();
        for shift in [30, 21, 12] {
            let descriptor = memory.read(table, (va >> shift & 511) as usize);
            match (descriptor & 3, shift) {
                (3, 30 | 21) => table = Pa::new(descriptor & d::ADDRESS_MASK),
                (1, 30 | 21) | (3, 12) => {
                    let offset = va & ((1 << shift) - 1);
                    return Some(((descriptor & d::ADDRESS_MASK) + offset, descriptor & !d::ADDRESS_MASK & !3));
                }
                _ => return None,
            }
        }
        None
    }

    fn range(start: u64, size: u64) -> Range {
        Range::new(start, size).expect("a range")
    }

    #[test]
    fn blocks_are_used_where_they_fit() {
        let mut memory = memory(16);
        let map = Stage1::new(&mut memory).expect("tables");
        map.identity(&mut memory, range(GIB, 2 * GIB), Access::Write).expect("mapped");
        assert_eq!(memory.tables.len(), 2, "1 GiB each");
        map.identity(&mut memory, range(4 * GIB, 6 << 20), Access::Write).expect("mapped");
        assert_eq!(memory.tables.len(), 3, "2 MiB each");
        map.identity(&mut memory, range(4 * GIB + (6 << 20), PAGE), Access::Read)
            .expect("mapped");
        assert_eq!(memory.tables.len(), 4, "a page");
        for (va, access) in [(GIB, Access::Write), (4 * GIB + (6 << 20) + 5, Access::Read)] {
            assert_eq!(walk(&memory, &map, va), Some((va, access.bits())));
        }
        assert_eq!(walk(&memory, &map, 4 * GIB + (6 << 20) + PAGE), None);
    }

    #[test]
    fn a_board_whose_parts_are_far_apart_has_tables_enough() {
        const MIB2: u64 = 2 << 20;
        let mut memory = memory(MOST_TABLES);
        let map = Stage1::new(&mut memory).expect("tables");
        let mut add = |start: u64, size: u64, access| map.identity(&mut memory, range(start, size), access).expect("a table");
        // The image by its parts: it begins at a boundary of 2 MiB and is smaller than that.
        let image = 4 * GIB;
        for (part, access) in [Access::Execute, Access::Read, Access::Write, Access::Write]
            .into_iter()
            .enumerate()
        {
            add(image + part as u64 * 0x2_0000, 0x1_F000, access);
        }
        // 63 stacks without their guard pages, the contexts and the pool: one behind the other, across two boundaries.
        let ram = 6 * GIB + MIB2 - 63 * 0x3000 + 0x1000;
        for n in 0..63 {
            add(ram + n * 0x3000, 0x2000, Access::Write);
        }
        add(6 * GIB + MIB2, MIB2 - PAGE, Access::Write);
        add(6 * GIB + 2 * MIB2 - PAGE, 0x6_0000, Access::Write);
        add(9 * GIB - PAGE, 2 * PAGE, Access::Read);
        // 64 redistributors in one piece.
        add(10 * GIB, 0x1_0000, Access::Device);
        add(10 * GIB + 0xA_0000, 64 * 0x2_0000, Access::Device);
        add(12 * GIB, PAGE, Access::Device);
        assert!(memory.tables.len() + 1 >= MOST_TABLES, "{}", memory.tables.len());
    }

    #[test]
    fn a_block_is_not_changed_by_what_comes_after() {
        let mut memory = memory(16);
        let map = Stage1::new(&mut memory).expect("tables");
        map.identity(&mut memory, range(0, 4 << 20), Access::Device).expect("mapped");
        map.identity(&mut memory, range(0x1000, 0x1000), Access::Device).expect("the same");
        assert_eq!(map.identity(&mut memory, range(0x1000, 0x1000), Access::Write), Err(MapFailed));
        assert_eq!(walk(&memory, &map, 0x1000), Some((0x1000, Access::Device.bits())));
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let mut memory = memory(3);
        let map = Stage1::new(&mut memory).expect("tables");
        for start in [Stage1::WINDOWS, Stage1::WINDOWS - PAGE, 1 << VA_BITS, u64::MAX - 2 * PAGE] {
            assert_eq!(map.identity(&mut memory, range(start, PAGE + 1), Access::Write), Err(MapFailed));
        }
        assert_eq!(
            map.identity(&mut memory, range(0, PAGE), Access::Write),
            Err(MapFailed),
            "no table is left"
        );
        assert!(Stage1::new(&mut memory).is_none());
    }

    #[test]
    fn only_text_is_executed_and_it_is_never_written() {
        for access in [Access::Read, Access::Write, Access::Device] {
            assert_ne!(access.bits() & d::XN, 0, "{access:?}");
        }
        for access in [Access::Execute, Access::Read] {
            assert_ne!(access.bits() & d::READ_ONLY, 0, "{access:?}");
        }
    }

    #[test]
    fn attributes_are_arms() {
        // DDI 0487, stage 1 block descriptors: valid, AttrIndx (4:2), AP[2:1] of which AP[1] is RES1 at EL2, SH (9:8), AF, XN.
        let block = |xn: u64, sh: u64, ap: u64, index: u64| xn << 54 | 1 << 10 | sh << 8 | ap << 6 | index << 2 | 1;
        for (access, bits) in [
            (Access::Execute, block(0, 0b11, 0b11, 0)),
            (Access::Read, block(1, 0b11, 0b11, 0)),
            (Access::Write, block(1, 0b11, 0b01, 0)),
            (Access::Device, block(1, 0b10, 0b01, 1)),
        ] {
            assert_eq!(access.block(0x8020_0000), 0x8020_0000 | bits, "{access:?}");
        }
    }

    proptest! {
        #[test]
        fn every_page_leads_where_the_last_one_who_mapped_it_said(
            ranges in proptest::collection::vec((0u64..1 << 12, 1u64..if cfg!(miri) { 20 } else { 1500 }, 0usize..4), 1..6),
            gib in prop_oneof![Just(0), Just(510 * GIB)],
        ) {
            const ALL: [Access; 4] = [Access::Execute, Access::Read, Access::Write, Access::Device];
            let mut memory = memory(64);
            let map = Stage1::new(&mut memory).expect("tables");
            let mut model = BTreeMap::new();
            for (first, pages, access) in ranges {
                let access = ALL[access];
                let range = range(gib + first * PAGE, pages * PAGE);
                let mapped = map.identity(&mut memory, range, access);
                if mapped.is_err() {
                    // A block of another kind is in the way; what came before it has been mapped.
                    return Ok(());
                }
                model.extend((first..first + pages).map(|page| (page, access.bits())));
            }
            for page in (0..(1 << 12) + 1500).step_by(if cfg!(miri) { 211 } else { 1 }) {
                let va = gib + page * PAGE + 4;
                prop_assert_eq!(walk(&memory, &map, va), model.get(&page).map(|bits| (va, *bits)));
            }
        }
    }
}
