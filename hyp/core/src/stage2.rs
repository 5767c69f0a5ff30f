//! Stage 2 translation tables: 4 KiB granule, walks from level 1, blocks of 1 GiB and 2 MiB where they fit. DDI 0487 D8 (VMSAv8-64).
//!
//! The builder only ever turns invalid descriptors into valid ones, so it needs no TLB maintenance; it refuses to replace a live one.

use crate::types::{Ipa, Pa};

/// Bytes of a page, and of a table.
pub const PAGE: u64 = 0x1000;
/// Bytes of a level 2 block.
pub const BLOCK_2M: u64 = 1 << 21;
/// Bytes of a level 1 block.
pub const BLOCK_1G: u64 = 1 << 30;
/// Descriptors in a table.
const ENTRIES: u64 = 512;
/// The smallest and the largest IPA space, in bits, whose walk can start at level 1.
const IPA_BITS: core::ops::RangeInclusive<u32> = 31..=43;

/// Descriptor bits. DDI 0487 D8.3 (Translation table descriptor formats).
pub mod descriptor {
    /// The descriptor is valid.
    pub const VALID: u64 = 1 << 0;
    /// A table at levels 1 and 2, a page at level 3; clear for a block.
    pub const TABLE_OR_PAGE: u64 = 1 << 1;
    /// MemAttr: Device-nGnRE.
    pub const DEVICE_NGNRE: u64 = 0b0001 << 2;
    /// MemAttr: Normal, outer and inner write-back cacheable.
    pub const NORMAL_WB: u64 = 0b1111 << 2;
    /// MemAttr's field.
    pub const MEMATTR_MASK: u64 = 0b1111 << 2;
    /// S2AP: may be read.
    pub const READ: u64 = 1 << 6;
    /// S2AP: may be written.
    pub const WRITE: u64 = 1 << 7;
    /// Inner Shareable.
    pub const INNER_SHAREABLE: u64 = 0b11 << 8;
    /// Access flag.
    pub const AF: u64 = 1 << 10;
    /// XN\[1:0\] = 0b10: never executed, at EL1 and EL0.
    pub const XN: u64 = 0b10 << 53;
    /// Output address, or the next table's.
    pub const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_f000;
}
use descriptor as d;

/// Where tables lie, and where new ones come from.
pub trait Tables {
    /// A zeroed table: 4 KiB, aligned to that.
    fn alloc(&mut self) -> Option<Pa>;
    /// Descriptor `index` (below 512) of the table at `table`.
    fn read(&self, table: Pa, index: usize) -> u64;
    /// Stores descriptor `index` (below 512) of the table at `table`.
    fn write(&mut self, table: Pa, index: usize, descriptor: u64);
}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attrs {
    /// Normal memory, write-back, Inner Shareable: read, written, executed.
    Ram,
    /// Normal memory, write-back, Inner Shareable: read only, never executed.
    RoData,
    /// Device-nGnRE: read and written, never executed.
    Device,
}

impl Attrs {
    /// The descriptor's attribute bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::Ram => d::NORMAL_WB | d::READ | d::WRITE | d::INNER_SHAREABLE | d::AF,
            Self::RoData => d::NORMAL_WB | d::READ | d::INNER_SHAREABLE | d::AF | d::XN,
            Self::Device => d::DEVICE_NGNRE | d::READ | d::WRITE | d::AF | d::XN,
        }
    }
    const fn of(descriptor: u64) -> Self {
        if descriptor & d::MEMATTR_MASK == d::DEVICE_NGNRE {
            Self::Device
        } else if descriptor & d::WRITE == 0 {
            Self::RoData
        } else {
            Self::Ram
        }
    }
}

/// Why a range was not mapped. Nothing of it is mapped then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage2Error {
    /// Something is mapped at this IPA already.
    Overlap {
        /// The first such address.
        ipa: Ipa,
    },
    /// An address or the size is no multiple of 4 KiB, or the size is 0.
    Unaligned,
    /// There is no memory for a table.
    NoMemory,
    /// The range ends beyond the IPA space or the output address space.
    OutOfRange,
}

/// Where an IPA leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address.
    pub pa: Pa,
    /// What the mapping allows.
    pub attrs: Attrs,
    /// Level of the descriptor: 1 (1 GiB), 2 (2 MiB) or 3 (4 KiB).
    pub level: u8,
}

/// One VM's tables.
#[derive(Clone, Copy, Debug)]
pub struct Stage2 {
    root: Pa,
    ipa_bits: u32,
    pa_bits: u32,
}

/// How many level 1 tables lie one after the other at the root of an IPA space of `ipa_bits` bits: the walk starts at level 1.
#[must_use]
pub const fn root_tables(ipa_bits: u32) -> usize {
    if ipa_bits <= 39 { 1 } else { 1 << (ipa_bits - 39) }
}

/// An upper bound of the tables, the root aside, that mapping `size` bytes from `ipa` to `pa` allocates.
#[must_use]
pub fn tables_needed(ipa: Ipa, pa: Pa, size: u64) -> u64 {
    let start = ipa.get();
    // No IPA space is larger, so the loop below is bounded.
    let end = start.saturating_add(size).min(1 << IPA_BITS.end());
    let mut tables = 0;
    let mut at = start;
    while at < end {
        let next = (at - at % BLOCK_1G).saturating_add(BLOCK_1G).min(end);
        if !block_fits(at, at.wrapping_sub(start).wrapping_add(pa.get()), next - at, BLOCK_1G) {
            tables += 1 + level3_tables(at, at.wrapping_sub(start).wrapping_add(pa.get()), next);
        }
        at = next;
    }
    tables
}

/// Level 3 tables for `start..end`, which lies within 1 GiB.
fn level3_tables(start: u64, pa: u64, end: u64) -> u64 {
    let touched = end.div_ceil(BLOCK_2M) - start / BLOCK_2M;
    let whole = (end / BLOCK_2M).saturating_sub(start.div_ceil(BLOCK_2M));
    if (start ^ pa).is_multiple_of(BLOCK_2M) {
        touched - whole
    } else {
        touched
    }
}

/// Whether a block of `block` bytes can map `ipa` to `pa` with `left` bytes to go.
const fn block_fits(ipa: u64, pa: u64, left: u64, block: u64) -> bool {
    (ipa | pa).is_multiple_of(block) && left >= block
}

impl Stage2 {
    /// Empty tables. `root` is the first of [`root_tables`] zeroed tables, aligned to their total size; `ipa_bits` is 64 less
    /// `VTCR_EL2.T0SZ`, and `pa_bits` what `VTCR_EL2.PS` says. `None` when the walk cannot start at level 1 or `root` is not aligned.
    #[must_use]
    pub fn new(root: Pa, ipa_bits: u32, pa_bits: u32) -> Option<Self> {
        let fits = IPA_BITS.contains(&ipa_bits) && (32..=48).contains(&pa_bits);
        (fits && root.get().is_multiple_of(PAGE * root_tables(ipa_bits) as u64)).then_some(Self { root, ipa_bits, pa_bits })
    }

    /// Address of the root, for `VTTBR_EL2`.
    #[must_use]
    pub const fn root(&self) -> Pa {
        self.root
    }

    /// Maps `size` bytes from `ipa` to `pa`, with the largest blocks that fit.
    ///
    /// # Errors
    /// Nothing is mapped then; tables that were linked in stay, empty.
    pub fn map(&self, tables: &mut impl Tables, ipa: Ipa, pa: Pa, size: u64, attrs: Attrs) -> Result<(), Stage2Error> {
        self.check(ipa.get(), pa.get(), size)?;
        if let Some(ipa) = self.first_mapped(tables, ipa.get(), size) {
            return Err(Stage2Error::Overlap { ipa });
        }
        let mut done = 0;
        while done < size {
            match self.map_some(tables, ipa.get() + done, pa.get() + done, size - done, attrs) {
                Some(mapped) => done += mapped,
                None => {
                    self.undo(tables, ipa.get(), done);
                    return Err(Stage2Error::NoMemory);
                }
            }
        }
        Ok(())
    }

    /// Where `ipa` leads, as the hardware walks.
    #[must_use]
    pub fn translate(&self, tables: &impl Tables, ipa: Ipa) -> Option<Translation> {
        let slot = self.slot(tables, ipa.get())?;
        let offset = ipa.get() & (slot.span() - 1);
        slot.leaf().then(|| Translation {
            pa: Pa::new((slot.descriptor & d::ADDRESS_MASK) + offset),
            attrs: Attrs::of(slot.descriptor),
            level: slot.level,
        })
    }

    fn check(&self, ipa: u64, pa: u64, size: u64) -> Result<(), Stage2Error> {
        if size == 0 || !(ipa | pa | size).is_multiple_of(PAGE) {
            return Err(Stage2Error::Unaligned);
        }
        let within = |start: u64, bits: u32| start.checked_add(size).is_some_and(|end| end <= 1u64 << bits);
        if within(ipa, self.ipa_bits) && within(pa, self.pa_bits) {
            Ok(())
        } else {
            Err(Stage2Error::OutOfRange)
        }
    }

    /// The descriptor at which the walk of `ipa` ends: a leaf, or an invalid one. `None` when `ipa` is beyond the IPA space.
    fn slot(&self, tables: &impl Tables, ipa: u64) -> Option<Slot> {
        if ipa >> self.ipa_bits != 0 {
            return None;
        }
        // The concatenated level 1 tables are one table of more than 512 descriptors.
        let table = Pa::new(self.root.get() + (ipa >> 39) * PAGE);
        let mut slot = Slot::read(tables, table, ipa, 1);
        while slot.level < 3 && slot.descriptor & (d::VALID | d::TABLE_OR_PAGE) == d::VALID | d::TABLE_OR_PAGE {
            slot = Slot::read(tables, Pa::new(slot.descriptor & d::ADDRESS_MASK), ipa, slot.level + 1);
        }
        Some(slot)
    }

    /// The first address of `size` bytes from `ipa` that is mapped.
    fn first_mapped(&self, tables: &impl Tables, ipa: u64, size: u64) -> Option<Ipa> {
        let mut at = ipa;
        while at < ipa + size {
            let slot = self.slot(tables, at)?;
            if slot.descriptor & d::VALID != 0 {
                return Some(Ipa::new(at));
            }
            at = (at & !(slot.span() - 1)) + slot.span();
        }
        None
    }

    /// Maps blocks or pages of one size from `ipa`, which is not mapped, as far as one table goes. Gives how many bytes; `None` when
    /// there is no memory for a table.
    fn map_some(&self, tables: &mut impl Tables, ipa: u64, pa: u64, left: u64, attrs: Attrs) -> Option<u64> {
        let mut slot = self.slot(tables, ipa)?;
        while slot.level < 3 && !block_fits(ipa, pa, left, slot.span()) {
            let next = tables.alloc()?;
            tables.write(slot.table, slot.index, next.get() | d::TABLE_OR_PAGE | d::VALID);
            slot = Slot {
                table: next,
                index: index(ipa, slot.level + 1),
                level: slot.level + 1,
                descriptor: 0,
            };
        }
        let kind = if slot.level == 3 { d::TABLE_OR_PAGE | d::VALID } else { d::VALID };
        let (span, mut done) = (slot.span(), 0);
        for index in slot.index..ENTRIES as usize {
            // An empty table may be linked in here.
            if left - done < span || done > 0 && tables.read(slot.table, index) != 0 {
                break;
            }
            tables.write(slot.table, index, (pa + done) | attrs.bits() | kind);
            done += span;
        }
        Some(done)
    }

    /// Makes the leaves of `size` bytes from `ipa`, all mapped by this call of `map`, invalid again.
    fn undo(&self, tables: &mut impl Tables, ipa: u64, size: u64) {
        let mut at = ipa;
        while at < ipa + size {
            let Some(slot) = self.slot(tables, at) else { return };
            tables.write(slot.table, slot.index, 0);
            at += slot.span();
        }
    }
}

/// A descriptor and where it lies.
struct Slot {
    table: Pa,
    index: usize,
    level: u8,
    descriptor: u64,
}

impl Slot {
    fn read(tables: &impl Tables, table: Pa, ipa: u64, level: u8) -> Self {
        let index = index(ipa, level);
        Self {
            table,
            index,
            level,
            descriptor: tables.read(table, index),
        }
    }
    /// Bytes that the descriptor covers.
    const fn span(&self) -> u64 {
        1 << shift(self.level)
    }
    /// Whether the walk found a block or a page.
    const fn leaf(&self) -> bool {
        let kind = self.descriptor & (d::VALID | d::TABLE_OR_PAGE);
        if self.level == 3 {
            kind == d::VALID | d::TABLE_OR_PAGE
        } else {
            kind == d::VALID
        }
    }
}

/// The lowest IPA bit that indexes a table of `level`.
const fn shift(level: u8) -> u32 {
    match level {
        1 => 30,
        2 => 21,
        _ => 12,
    }
}

const fn index(ipa: u64, level: u8) -> usize {
    (ipa >> shift(level) & (ENTRIES - 1)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ROOT: u64 = 0x8000_0000;

    /// Tables in a vector; the first ones are the root's.
    struct Memory {
        tables: Vec<[u64; 512]>,
        limit: usize,
    }

    impl Memory {
        fn new(limit: usize) -> Self {
            Self {
                tables: vec![[0; 512]; root_tables(40)],
                limit,
            }
        }
        fn at(table: Pa) -> usize {
            ((table.get() - ROOT) / PAGE) as usize
        }
        fn allocated(&self) -> u64 {
            (self.tables.len() - root_tables(40)) as u64
        }
        fn leaves(&self) -> usize {
            self.tables.iter().flatten().filter(|e| **e & d::AF != 0).count()
        }
    }

    impl Tables for Memory {
        fn alloc(&mut self) -> Option<Pa> {
            if self.allocated() as usize == self.limit {
                return None;
            }
            self.tables.push([0; 512]);
            Some(Pa::new(ROOT + (self.tables.len() as u64 - 1) * PAGE))
        }
        fn read(&self, table: Pa, index: usize) -> u64 {
            self.tables[Self::at(table)][index]
        }
        fn write(&mut self, table: Pa, index: usize, descriptor: u64) {
            let slot = &mut self.tables[Self::at(table)][index];
            assert!(*slot == 0 || descriptor == 0, "a live descriptor is never replaced");
            *slot = descriptor;
        }
    }

    fn empty() -> (Memory, Stage2) {
        (Memory::new(usize::MAX), Stage2::new(Pa::new(ROOT), 40, 44).expect("aligned"))
    }

    #[test]
    fn ram_is_mapped_with_the_largest_blocks_that_fit() {
        let (mut m, s) = empty();
        // 2 GiB + 2 MiB + 4 KiB.
        let size = 2 * BLOCK_1G + BLOCK_2M + PAGE;
        s.map(&mut m, Ipa::new(0x4000_0000), Pa::new(0x1_4000_0000), size, Attrs::Ram)
            .expect("mapped");
        let level = |ipa| s.translate(&m, Ipa::new(ipa)).map(|t| t.level);
        assert_eq!(level(0x4000_0000), Some(1));
        assert_eq!(level(0xbfff_ffff), Some(1));
        assert_eq!(level(0xc000_0000), Some(2));
        assert_eq!(level(0xc020_0000), Some(3));
        assert_eq!(level(0xc020_1000), None);
        assert_eq!(m.leaves(), 4);
        assert_eq!(m.allocated(), 2);
    }

    #[test]
    fn a_block_needs_both_addresses_aligned() {
        let (mut m, s) = empty();
        s.map(&mut m, Ipa::new(0x4000_0000), Pa::new(0x1_4020_0000), BLOCK_1G, Attrs::Ram)
            .expect("mapped");
        assert_eq!(m.leaves(), 512, "2 MiB blocks");
        s.map(&mut m, Ipa::new(0x8000_0000), Pa::new(0x2_0000_1000), BLOCK_2M, Attrs::Ram)
            .expect("mapped");
        assert_eq!(m.leaves(), 1024, "pages");
    }

    #[test]
    fn descriptors_have_the_manuals_bits() {
        let (mut m, s) = empty();
        s.map(&mut m, Ipa::new(0), Pa::new(0x1_0000_0000), BLOCK_1G, Attrs::Ram)
            .expect("mapped");
        // Valid block, MemAttr 0b1111, S2AP 0b11, SH 0b11, AF, nT 0, contiguous 0, XN 0b00.
        assert_eq!(m.tables[0][0], 0x1_0000_0000 | 0x7fd);
        s.map(&mut m, Ipa::new(BLOCK_1G), Pa::new(0x20_0000), BLOCK_2M, Attrs::RoData)
            .expect("mapped");
        // Table descriptor without attributes, then a block with S2AP 0b01 and XN 0b10.
        assert_eq!(m.tables[0][1], ROOT + 2 * PAGE + 3);
        assert_eq!(m.tables[2][0], 1 << 54 | 0x20_0000 | 0x77d);
        s.map(&mut m, Ipa::new(2 * BLOCK_1G), Pa::new(0x0900_0000), PAGE, Attrs::Device)
            .expect("mapped");
        // Page, MemAttr 0b0001, S2AP 0b11, AF, XN 0b10; the shareability of Device memory is not looked at.
        assert_eq!(m.tables[4][0], 1 << 54 | 0x0900_0000 | 0x4c7);
    }

    #[test]
    fn both_root_tables_of_a_40_bit_space_are_used() {
        let (mut m, s) = empty();
        assert_eq!(root_tables(40), 2);
        s.map(&mut m, Ipa::new(0xff_c000_0000), Pa::new(0), BLOCK_1G, Attrs::Ram)
            .expect("the last GiB");
        assert_ne!(m.tables[1][511], 0);
        assert_eq!(s.translate(&m, Ipa::new(0xff_ffff_ffff)).map(|t| t.pa), Some(Pa::new(0x3fff_ffff)));
        assert_eq!(s.translate(&m, Ipa::new(0x100_0000_0000)), None);
        assert_eq!((root_tables(36), root_tables(39), root_tables(42)), (1, 1, 8));
    }

    #[test]
    fn a_root_must_be_aligned_to_all_its_tables() {
        assert!(Stage2::new(Pa::new(ROOT + PAGE), 40, 44).is_none());
        assert!(Stage2::new(Pa::new(ROOT + PAGE), 39, 44).is_some());
        assert!(Stage2::new(Pa::new(ROOT), 30, 44).is_none(), "too small to start at level 1");
        assert!(Stage2::new(Pa::new(ROOT), 44, 44).is_none(), "too large to start at level 1");
        assert!(
            Stage2::new(Pa::new(ROOT), 40, 52).is_none(),
            "more than a descriptor of this granule can hold"
        );
    }

    #[test]
    fn an_overlap_is_refused_and_nothing_changes() {
        let (mut m, s) = empty();
        s.map(&mut m, Ipa::new(0x4020_0000), Pa::new(0), BLOCK_2M, Attrs::Ram)
            .expect("mapped");
        let before = m.tables.clone();
        for (ipa, size, hit) in [
            (0x4020_0000, PAGE, 0x4020_0000),
            (0x403f_f000, PAGE, 0x403f_f000),
            (0x4000_0000, BLOCK_1G, 0x4020_0000),
            (0x401f_f000, 2 * PAGE, 0x4020_0000),
            (0, 0x100_0000_0000, 0x4020_0000),
        ] {
            let e = s.map(&mut m, Ipa::new(ipa), Pa::new(0), size, Attrs::Ram);
            assert_eq!(e, Err(Stage2Error::Overlap { ipa: Ipa::new(hit) }));
        }
        assert!(m.tables == before);
    }

    #[test]
    fn bad_ranges_are_refused() {
        let (mut m, s) = empty();
        let mut map = |ipa, pa, size| s.map(&mut m, Ipa::new(ipa), Pa::new(pa), size, Attrs::Ram);
        assert_eq!(map(0x800, 0, PAGE), Err(Stage2Error::Unaligned));
        assert_eq!(map(0, 0x800, PAGE), Err(Stage2Error::Unaligned));
        assert_eq!(map(0, 0, 0x800), Err(Stage2Error::Unaligned));
        assert_eq!(map(0, 0, 0), Err(Stage2Error::Unaligned));
        assert_eq!(map(0x100_0000_0000, 0, PAGE), Err(Stage2Error::OutOfRange));
        assert_eq!(map(0xff_ffff_f000, 0, 2 * PAGE), Err(Stage2Error::OutOfRange));
        assert_eq!(map(u64::MAX - 0xfff, 0, 2 * PAGE), Err(Stage2Error::OutOfRange));
        assert_eq!(map(0, 1 << 44, PAGE), Err(Stage2Error::OutOfRange));
    }

    #[test]
    fn without_memory_nothing_of_the_range_stays_mapped() {
        for limit in 0..3 {
            let (mut m, s) = (Memory::new(limit), Stage2::new(Pa::new(ROOT), 40, 44).expect("aligned"));
            // Pages on both sides of a 1 GiB boundary: four tables.
            let e = s.map(&mut m, Ipa::new(BLOCK_1G - PAGE), Pa::new(0), 2 * PAGE, Attrs::Ram);
            assert_eq!(e, Err(Stage2Error::NoMemory));
            assert_eq!(m.leaves(), 0);
            // What was linked in is used by the next attempt.
            m.limit = 4;
            s.map(&mut m, Ipa::new(BLOCK_1G - PAGE), Pa::new(0), 2 * PAGE, Attrs::Ram)
                .expect("now there is");
            assert_eq!((m.leaves(), m.allocated()), (2, 4));
        }
    }

    #[test]
    fn an_empty_table_that_a_failed_map_left_is_used_and_not_replaced() {
        let (mut m, s) = (Memory::new(2), empty().1);
        // Pages over two tables, of which there is one.
        let (at, size) = (BLOCK_1G + BLOCK_2M, 2 * BLOCK_2M);
        let failed = s.map(&mut m, Ipa::new(at), Pa::new(at + PAGE), size, Attrs::Ram);
        assert_eq!((failed, m.leaves(), m.allocated()), (Err(Stage2Error::NoMemory), 0, 2));
        s.map(&mut m, Ipa::new(BLOCK_1G), Pa::new(BLOCK_1G), 4 * BLOCK_2M, Attrs::Ram)
            .expect("no table is missing");
        assert_eq!(m.leaves(), 3 + 512, "blocks before and behind, and pages in the table");
        for ipa in (BLOCK_1G..BLOCK_1G + 4 * BLOCK_2M).step_by(PAGE as usize) {
            assert_eq!(s.translate(&m, Ipa::new(ipa)).map(|t| t.pa), Some(Pa::new(ipa)));
        }
    }

    /// A range in units that make blocks of every level likely.
    fn range() -> impl Strategy<Value = (u64, u64, u64, Attrs)> {
        let unit = prop_oneof![Just(PAGE), Just(BLOCK_2M), Just(BLOCK_1G)];
        let attrs = prop_oneof![Just(Attrs::Ram), Just(Attrs::RoData), Just(Attrs::Device)];
        (unit, 0u64..1024, 0u64..1024, 1u64..24, attrs).prop_map(|(unit, ipa, pa, n, attrs)| {
            // Pages lie around the first 2 MiB and 1 GiB boundaries, so that ranges meet.
            let base = if unit == PAGE { BLOCK_1G - BLOCK_2M } else { 0 };
            (base + ipa * unit, pa * unit, n * unit, attrs)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_walker_agrees_with_a_map_of_ranges(ranges in prop::collection::vec(range(), 1..12), probes in prop::collection::vec(0u64..1 << 41, 32)) {
            let (mut m, s) = empty();
            // start -> (end, pa, attrs)
            let mut model: BTreeMap<u64, (u64, u64, Attrs)> = BTreeMap::new();
            let mut bound = 0;
            for (ipa, pa, size, attrs) in ranges {
                let (ipa, pa) = (ipa % (1 << 40), pa);
                let result = s.map(&mut m, Ipa::new(ipa), Pa::new(pa), size, attrs);
                let expected = if ipa + size > 1 << 40 {
                    Err(Stage2Error::OutOfRange)
                } else if let Some(hit) = model.iter().filter(|(start, (end, ..))| **start < ipa + size && *end > ipa).map(|(start, _)| ipa.max(*start)).min() {
                    Err(Stage2Error::Overlap { ipa: Ipa::new(hit) })
                } else {
                    bound += tables_needed(Ipa::new(ipa), Pa::new(pa), size);
                    model.insert(ipa, (ipa + size, pa, attrs));
                    Ok(())
                };
                prop_assert_eq!(result, expected);
            }
            prop_assert!(m.allocated() <= bound, "{} tables, bound {}", m.allocated(), bound);
            let edges = model.iter().flat_map(|(start, (end, ..))| [*start, *start + 0xfff, start.wrapping_sub(1), end - 1, *end]);
            for ipa in edges.chain(probes) {
                let expected = model.range(..=ipa).next_back().filter(|(_, (end, ..))| ipa < *end).map(|(start, (_, pa, attrs))| (Pa::new(pa + (ipa - start)), *attrs));
                prop_assert_eq!(s.translate(&m, Ipa::new(ipa)).map(|t| (t.pa, t.attrs)), expected, "{:#x}", ipa);
            }
            // As few descriptors as possible: each range by itself cannot be mapped with fewer.
            let fewest: usize = model.iter().map(|(ipa, (end, pa, _))| fewest(*ipa, *pa, *end)).sum();
            prop_assert_eq!(m.leaves(), fewest);
        }
    }

    fn fewest(mut ipa: u64, mut pa: u64, end: u64) -> usize {
        let mut n = 0;
        while ipa < end {
            let size = [BLOCK_1G, BLOCK_2M, PAGE]
                .into_iter()
                .find(|b| (ipa | pa).is_multiple_of(*b) && end - ipa >= *b)
                .expect("a page");
            (ipa, pa, n) = (ipa + size, pa + size, n + 1);
        }
        n
    }

    #[test]
    fn the_bound_is_exact_for_one_range() {
        for (ipa, pa, size) in [
            (0x4000_0000, 0x4000_0000, BLOCK_1G),
            (0x4000_0000, 0x4020_0000, BLOCK_1G),
            (0x4000_1000, 0x4000_1000, BLOCK_1G),
            (0x4000_0000, 0x4000_1000, 3 * BLOCK_2M),
            (0x401f_f000, 0x001f_f000, 2 * PAGE),
            (0x0900_0000, 0x0900_0000, PAGE),
            (0x3fff_f000, 0x3fff_f000, 2 * BLOCK_1G),
        ] {
            let (mut m, s) = empty();
            s.map(&mut m, Ipa::new(ipa), Pa::new(pa), size, Attrs::Ram).expect("mapped");
            assert_eq!(
                m.allocated(),
                tables_needed(Ipa::new(ipa), Pa::new(pa), size),
                "{ipa:#x} {pa:#x} {size:#x}"
            );
        }
    }
}
