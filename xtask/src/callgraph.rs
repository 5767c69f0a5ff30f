//! No panic path from the vectors: follows the call graph of the release ELF from what a guest can enter.
//!
//! Only branches matter, and in AArch64 they are few and of fixed width (DDI 0487 C4.1, "Branches, Exception Generating
//! and System instructions"): so they are decoded here. A function is everything from its symbol to the next one. Where a
//! branch to a register leads cannot be seen: text alone may make one, and is followed to everything that it may lead to.

mod barriers;
pub(crate) mod stacks;

pub(crate) use barriers::check_barriers;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

/// The symbol of the vector table.
const VECTORS: &str = "el2_vectors";
/// The vectors that a lower exception level enters, from AArch64 and from AArch32: `VBAR_EL2` + 0x400 to 0x800.
const LOWER_EL: std::ops::Range<u64> = 0x400..0x800;

/// Parts of the names of functions that a guest must not be able to reach.
const FORBIDDEN: [&str; 11] = [
    "core::panicking",
    "panic_bounds_check",
    "unwrap_failed",
    "expect_failed",
    "slice_index_fail",
    "slice_start_index",
    "slice_end_index",
    "rust_begin_unwind",
    "panic_handler",
    "alloc::alloc::handle_alloc_error",
    "len_mismatch_fail",
];

/// Functions that are not followed: where Umbra ends on purpose, after it has found that its own state is wrong.
const SINKS: [&str; 1] = ["hyp::fatal::"];

/// Whether a function may branch to a register: text calls what shows itself, and where it goes, through tables of functions. Whatever
/// can be [in those](is_in_texts_tables) is followed.
fn is_text(name: &str) -> bool {
    name.starts_with("hyp_core::text::") || shows_itself(name)
}

fn shows_itself(name: &str) -> bool {
    name.contains(" as hyp_core::text::Shown>::show")
}

fn is_sink(name: &str) -> bool {
    name.contains(" as hyp_core::text::Sink>::")
}

fn is_in_texts_tables(name: &str) -> bool {
    shows_itself(name) || is_sink(name)
}

/// How the message of a reachable panic begins.
pub(crate) const PANIC: &str = "a panic is reachable";

/// What one instruction does to the flow of control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Goes on with the next instruction.
    Next,
    /// Calls or jumps to this address (it may go on as well; the whole function is looked at anyway).
    To(u64),
    /// Branches to what a register holds.
    Indirect(u8),
    /// Returns, from a function or from an exception.
    Return,
}

/// Sign-extends the low `bits` of `value`, times 4.
fn offset(value: u32, bits: u32) -> i64 {
    let shift = 64 - bits;
    ((i64::from(value) << shift) >> shift) * 4
}

/// Decodes the instruction `word` at `at`.
fn decode(at: u64, word: u32) -> Flow {
    let to = |offset: i64| Flow::To(at.wrapping_add_signed(offset));
    let register = ((word >> 5) & 0x1f) as u8;
    match word {
        // B, BL: imm26.
        w if w & 0x7c00_0000 == 0x1400_0000 => to(offset(w & 0x03ff_ffff, 26)),
        // B.cond, BC.cond: imm19.
        w if w & 0xff00_0000 == 0x5400_0000 => to(offset((w >> 5) & 0x7_ffff, 19)),
        // CBZ, CBNZ: imm19.
        w if w & 0x7e00_0000 == 0x3400_0000 => to(offset((w >> 5) & 0x7_ffff, 19)),
        // TBZ, TBNZ: imm14.
        w if w & 0x7e00_0000 == 0x3600_0000 => to(offset((w >> 5) & 0x3fff, 14)),
        // RET, RETAA, RETAB.
        w if w & 0xffff_f000 == 0xd65f_0000 => Flow::Return,
        // ERET, ERETAA, ERETAB.
        w if w & 0xffff_f000 == 0xd69f_0000 => Flow::Return,
        // BR, BLR, and the forms with pointer authentication.
        w if w & 0xfedf_f000 == 0xd61f_0000 => Flow::Indirect(register),
        _ => Flow::Next,
    }
}

/// A function or a label, and where its code ends.
#[derive(Clone, Debug)]
struct Code {
    name: String,
    start: u64,
    end: u64,
}

/// An image's code, ready to be followed.
struct Image {
    /// By start address; they do not overlap.
    functions: Vec<Code>,
    /// Executable bytes by address.
    text: Vec<(u64, Vec<u8>)>,
    /// Where code and where data begin (`$x`, `$d`).
    maps: BTreeMap<u64, bool>,
}

fn readable(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

impl Image {
    fn read(elf: &[u8]) -> Result<Self> {
        let file = object::File::parse(elf).context("not an ELF file")?;
        let mut text = Vec::new();
        let mut executable = Vec::new();
        for section in file.sections() {
            if let SectionFlags::Elf { sh_flags, .. } = section.flags()
                && sh_flags.0 & object::elf::SHF_EXECINSTR.0 != 0
            {
                executable.push(section.index());
                text.push((section.address(), section.data().context("a section without data")?.to_vec()));
            }
        }
        let inside = |at: u64| text.iter().find(|(start, bytes)| at >= *start && at < start + bytes.len() as u64);
        let mut maps = BTreeMap::new();
        let mut starts: BTreeMap<u64, String> = BTreeMap::new();
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or("");
            // Debug sections have symbols too, and their addresses begin at 0 as well.
            let here = symbol.section_index().is_some_and(|index| executable.contains(&index));
            if !here || inside(symbol.address()).is_none() {
                continue;
            }
            if let Some(kind) = name.strip_prefix('$') {
                maps.insert(symbol.address(), kind.starts_with('x'));
            } else if !name.is_empty()
                && !name.starts_with(".L")
                && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown)
            {
                // Of several names for one address the first that is a function's is as good as any.
                starts.entry(symbol.address()).or_insert_with(|| name.to_owned());
            }
        }
        ensure!(!starts.is_empty(), "the ELF has no symbols: it was stripped");
        let addresses: Vec<u64> = starts.keys().copied().collect();
        let functions = starts
            .into_iter()
            .enumerate()
            .filter_map(|(i, (start, name))| {
                let (base, bytes) = inside(start)?;
                let section_end = base + bytes.len() as u64;
                let end = addresses.get(i + 1).copied().unwrap_or(section_end).min(section_end);
                Some(Code {
                    name: readable(&name),
                    start,
                    end,
                })
            })
            .collect();
        Ok(Self { functions, text, maps })
    }

    fn at(&self, address: u64) -> Option<&Code> {
        let after = self.functions.partition_point(|f| f.start <= address);
        self.functions[..after].last().filter(|f| address < f.end)
    }

    fn is_code(&self, address: u64) -> bool {
        self.maps.range(..=address).next_back().is_none_or(|(_, code)| *code)
    }

    fn words(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u32)> {
        let section = self
            .text
            .iter()
            .find(|(base, bytes)| start >= *base && end <= base + bytes.len() as u64);
        let slice = section.map_or(&[][..], |(base, bytes)| &bytes[(start - base) as usize..(end - base) as usize]);
        let words = slice.chunks_exact(4).enumerate();
        words.map(move |(i, b)| (start + 4 * i as u64, u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    }

    /// Whether the indirect branch on `register` at `at` takes its target from a jump table of the same function: an
    /// `ADD Xn, Xm, Xk, LSL #2` or `ADD Xn, Xm, Wk, SXTW/UXTW #2` of an `ADR` whose label lies in it.
    fn is_jump_table(&self, function: &Code, at: u64, register: u8) -> bool {
        let before: Vec<(u64, u32)> = self.words(at.saturating_sub(4 * 12).max(function.start), at).collect();
        let Some((_, add)) = before.iter().rev().find(|(_, w)| (w & 0x1f) as u8 == register && writes_low(*w)) else {
            return false;
        };
        // ADD (shifted register) or ADD (extended register), 64-bit.
        if add & 0xff20_0000 != 0x8b00_0000 && add & 0xffe0_0000 != 0x8b20_0000 {
            return false;
        }
        let sources = [((add >> 5) & 0x1f) as u8, ((add >> 16) & 0x1f) as u8];
        before.iter().any(|(pc, w)| {
            let adr = w & 0x9f00_0000 == 0x1000_0000;
            let immediate = ((w >> 5) & 0x7_ffff) << 2 | (w >> 29) & 3;
            let label = pc.wrapping_add_signed(offset(immediate, 21) / 4);
            adr && sources.contains(&((w & 0x1f) as u8)) && (function.start..function.end).contains(&label)
        })
    }
}

/// Whether an instruction of the data-processing classes writes the register in its low five bits.
const fn writes_low(word: u32) -> bool {
    // Data processing, immediate (op0 100x) and register (x101).
    matches!((word >> 25) & 0xf, 0b1000 | 0b1001 | 0b0101 | 0b1101)
}

/// The short ways that the vectors call without having saved every register that a function may use, and the last of the registers that
/// they have saved: x0, x1, and x8 to this one.
const LEAVES: [(&str, u32); 4] = [
    ("hyp::short::guest_load", 17),
    ("hyp::short::guest_id", 13),
    ("hyp::short::guest_sgi", 15),
    ("hyp::short::guest_kick", 15),
];

/// The general-purpose registers that an instruction may write, as bits; XZR and SP, which have one number, are none. More than it does
/// write, where that is simpler; all of them if it is none of those that the compiler gives for code without floating point. DDI 0487 C4.1.
const fn writes(word: u32) -> u32 {
    const fn bit(word: u32, at: u32) -> u32 {
        1 << (word >> at & 31) & !(1 << 31)
    }
    let (rt, rn, rt2, rs) = (bit(word, 0), bit(word, 5), bit(word, 10), bit(word, 16));
    let load = word >> 22 & 1 != 0;
    match word >> 24 & 0x3F {
        _ if writes_low(word) => rt,
        // Branches but for those that leave a return address; exceptions and system instructions, of which MRS writes.
        _ if word & 0xFC00_0000 == 0x9400_0000 || word & 0xFFFF_FC1F == 0xD63F_0000 => 1 << 30,
        _ if word & 0xFFE0_0000 == 0xD520_0000 => rt,
        _ if word >> 26 & 7 == 5 => 0,
        // Exclusive, ordered, compare and swap: the status or what is compared, and the second of a pair.
        0x08 => rs | rt2 | if load { rt } else { 0 },
        // Pairs, with an address that stays and with one that is written back.
        0x28 | 0x29 => {
            let back = if word >> 23 & 1 != 0 { rn } else { 0 };
            back | if load { rt | rt2 } else { 0 }
        }
        // One register: with an offset, and otherwise with one that may be written back, or read and written at once.
        0x39 if word >> 22 & 3 == 0 => 0,
        0x39 | 0x18 => rt,
        0x38 => rt | if word >> 21 & 1 == 0 && word >> 10 & 1 != 0 { rn } else { 0 },
        _ => !(1 << 31),
    }
}

/// What keeps a function of [`LEAVES`] in `elf`, an optimised image, from being called with few registers saved.
///
/// # Errors
/// It is no image of Umbra's.
pub(crate) fn check_leaves(elf: &[u8]) -> Result<()> {
    let image = Image::read(elf)?;
    for (name, last) in LEAVES {
        let saved = 0x3 | ((2 << last) - (1 << 8));
        let leaf = image
            .functions
            .iter()
            .find(|f| f.name == name)
            .with_context(|| format!("no function {name}"))?;
        for (at, word) in image.words(leaf.start, leaf.end).filter(|(at, _)| image.is_code(*at)) {
            let stays = match decode(at, word) {
                Flow::Next | Flow::Return => true,
                Flow::To(target) => (leaf.start..leaf.end).contains(&target),
                Flow::Indirect(register) => image.is_jump_table(leaf, at, register),
            };
            ensure!(
                stays && writes(word) & !saved == 0,
                "{name} {} at {at:#x}: the vectors (trap.s, save_few; LEAVES here) have not saved every register for it",
                if stays { "uses another register" } else { "calls something" }
            );
        }
    }
    Ok(())
}

/// Whether a Cortex-A53 up to r0p4 may compute `second` wrongly after `first` (its erratum 835769): a load or store, and a 64-bit
/// multiply-accumulate right behind it. DDI 0487 C4.1: Loads and stores, Data-processing (3 source).
const fn is_erratum_835769(first: u32, second: u32) -> bool {
    let accesses_memory = first >> 25 & 0b101 == 0b100;
    let accumulates = second >> 24 == 0x9B && second >> 10 & 31 != 31;
    accesses_memory && accumulates
}

/// Whether it is AT, a `SYS` with CRn 7 and CRm 8 or 9. Cortex-A55, A57, A72 and A76 may execute one ahead of time, in between the writes
/// that bring another vCPU's tables (their errata 1530923, 1319537, 1319367 and 1165522), and keep what it finds. Without one they cannot.
const fn translates(word: u32) -> bool {
    word & 0xFFF8_FE00 == 0xD508_7800
}

/// Whether a Cortex-A53 up to r0p4 may access a wrong address (its erratum 843419): an ADRP at `at`, which is one of the last two instructions of
/// a page of 4 KiB, and one or two instructions behind the next, which is a load or store, another with the ADRP's register as its base and
/// an unsigned offset. That the next is one is not looked at. DDI 0487 C4.1: PC-relative addressing, Loads and stores.
const fn is_erratum_843419(at: u64, adrp: u32, second: u32, third: u32) -> bool {
    const fn based_on(word: u32, register: u32) -> bool {
        word & 0x3B00_0000 == 0x3900_0000 && word >> 5 & 31 == register
    }
    at & 0xFF8 == 0xFF8 && adrp & 0x9F00_0000 == 0x9000_0000 && (based_on(second, adrp & 31) || based_on(third, adrp & 31))
}

/// That no function of `elf`, an optimised image, has instructions which a processor is known to get wrong. Of [`is_erratum_835769`] the
/// compiler keeps the two apart in what it compiles, but not in what comes compiled, nor in assembly.
///
/// # Errors
/// There are such, or it is no image of Umbra's.
pub(crate) fn check_sequences(elf: &[u8]) -> Result<()> {
    let image = Image::read(elf)?;
    // Assembly runs on from one label into the next: what is behind an instruction may be another function's.
    let words: Vec<_> = image
        .functions
        .iter()
        .flat_map(|function| {
            image
                .words(function.start, function.end)
                .map(|(at, word)| (&function.name, at, word))
        })
        .filter(|(_, at, _)| image.is_code(*at))
        .collect();
    for (index, &(name, at, word)) in words.iter().enumerate() {
        let behind = |n: usize| match words.get(index + n) {
            Some((_, next, word)) if *next == at + 4 * n as u64 => *word,
            _ => 0,
        };
        ensure!(
            !is_erratum_843419(at, word, behind(2), behind(3)),
            "{name} takes a page's address at {at:#x}, the end of another: Cortex-A53 may use a wrong one (its erratum 843419)"
        );
        ensure!(
            !is_erratum_835769(word, behind(1)),
            "{name} accesses memory at {at:#x}, and what is right behind multiplies and accumulates: Cortex-A53 may compute that wrongly \
             (its erratum 835769)"
        );
        ensure!(
            !translates(word),
            "{name} translates an address at {at:#x}: some processors may do that with a mixture of two vCPUs' tables"
        );
    }
    Ok(())
}

/// What a look at an image found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What must not be there, each with the way that leads to it.
    pub(crate) problems: Vec<String>,
    /// How many functions a guest can reach.
    pub(crate) reached: usize,
}

/// Follows every branch from the lower-EL vectors of `elf`.
pub(crate) fn check(elf: &[u8]) -> Result<Findings> {
    check_with(elf, &SINKS)
}

/// Puts `next` in the queue unless it has been seen; `from` is the way that led to it.
fn visit(next: &Code, from: u64, came_from: &mut BTreeMap<u64, Option<u64>>, queue: &mut VecDeque<Code>) {
    if let Entry::Vacant(unseen) = came_from.entry(next.start) {
        unseen.insert(Some(from));
        queue.push_back(next.clone());
    }
}

fn check_with(elf: &[u8], sinks: &[&str]) -> Result<Findings> {
    let image = Image::read(elf)?;
    let vectors = image
        .functions
        .iter()
        .find(|f| f.name == VECTORS)
        .with_context(|| format!("the ELF has no symbol {VECTORS}"))?
        .start;
    let mut findings = Findings::default();
    // The vectors are one table with labels of its own in between: it is walked as one range.
    let table = Code {
        name: "the lower-EL vectors".to_owned(),
        start: vectors + LOWER_EL.start,
        end: vectors + LOWER_EL.end,
    };
    let mut came_from: BTreeMap<u64, Option<u64>> = BTreeMap::from([(table.start, None)]);
    let mut queue = VecDeque::from([table.clone()]);
    let lookup = |start: u64| if start == table.start { Some(&table) } else { image.at(start) };
    let way = |came_from: &BTreeMap<u64, Option<u64>>, start: u64| {
        let mut names = Vec::new();
        let mut at = Some(start);
        while let Some(address) = at {
            names.push(lookup(address).map_or("?", |f| f.name.as_str()));
            at = came_from.get(&address).copied().flatten();
        }
        names.reverse();
        names.join(" -> ")
    };
    while let Some(function) = queue.pop_front() {
        if FORBIDDEN.iter().any(|bad| function.name.contains(bad)) {
            findings.problems.push(format!("{PANIC}: {}", way(&came_from, function.start)));
            continue;
        }
        if sinks.iter().any(|sink| function.name.starts_with(sink)) {
            continue;
        }
        let mut last = Flow::Return;
        for (at, word) in image.words(function.start, function.end).filter(|(at, _)| image.is_code(*at)) {
            last = decode(at, word);
            match last {
                // Back into the table that was walked first.
                Flow::To(target) if (table.start..table.end).contains(&target) => {}
                Flow::To(target) if !(function.start..function.end).contains(&target) => match image.at(target) {
                    Some(next) => visit(next, function.start, &mut came_from, &mut queue),
                    None => {
                        let name = &function.name;
                        findings
                            .problems
                            .push(format!("{name} branches to {target:#x}, where there is no function"));
                    }
                },
                Flow::Indirect(register) if image.is_jump_table(&function, at, register) => {}
                Flow::Indirect(_) if is_text(&function.name) => {
                    let shown = image.functions.iter().filter(|code| is_in_texts_tables(&code.name));
                    shown.for_each(|next| visit(next, function.start, &mut came_from, &mut queue));
                }
                Flow::Indirect(_) => {
                    let way = way(&came_from, function.start);
                    findings
                        .problems
                        .push(format!("an indirect branch at {at:#x} that is not listed: {way}"));
                }
                _ => {}
            }
        }
        // A function whose last instruction is not a branch runs on into the next symbol: hand-written assembly does.
        if last == Flow::Next
            && function.start != table.start
            && let Some(next) = image.at(function.end)
        {
            visit(next, function.start, &mut came_from, &mut queue);
        }
    }
    findings.reached = came_from.len();
    ensure!(findings.reached > 1, "nothing is reachable from the vectors: they cannot be right");
    Ok(findings)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const NOP: u32 = 0xd503_201f;
    const RET: u32 = 0xd65f_03c0;
    const ERET: u32 = 0xd69f_03e0;

    fn b(from: u64, to: u64) -> u32 {
        0x1400_0000 | ((to.wrapping_sub(from) >> 2) as u32 & 0x03ff_ffff)
    }

    pub(super) fn bl(from: u64, to: u64) -> u32 {
        b(from, to) | 0x8000_0000
    }

    #[test]
    fn branches_are_decoded() {
        // Each word as an assembler gives it at address 0x1000.
        for (word, flow) in [
            (0x1400_0002, Flow::To(0x1008)),
            (0x17ff_ffff, Flow::To(0xffc)),
            (0x9400_0010, Flow::To(0x1040)),
            (0x97ff_fc00, Flow::To(0)),
            (0x5400_0040, Flow::To(0x1008)),
            (0x54ff_ffe1, Flow::To(0xffc)),
            (0xb400_0080, Flow::To(0x1010)),
            (0x35ff_ffc3, Flow::To(0xff8)),
            (0x3608_0041, Flow::To(0x1008)),
            (0xb7ff_ffe2, Flow::To(0xffc)),
            (0xd61f_0200, Flow::Indirect(16)),
            (0xd63f_0100, Flow::Indirect(8)),
            (0xd73f_0801, Flow::Indirect(0)),
            (RET, Flow::Return),
            (0xd65f_0bff, Flow::Return),
            (ERET, Flow::Return),
            (NOP, Flow::Next),
            (0xd400_0002, Flow::Next),
            (0x9100_0400, Flow::Next),
        ] {
            assert_eq!(decode(0x1000, word), flow, "{word:#010x}");
        }
    }

    /// An ELF with one executable section at 0, holding `words`, and `symbols` in it.
    pub(super) fn elf(words: &[u32], symbols: &[(&str, u64)]) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut table = vec![0u8; 24];
        for (name, at) in symbols {
            table.extend((strings.len() as u32).to_le_bytes());
            table.extend([0x12, 0, 1, 0]);
            table.extend(at.to_le_bytes());
            table.extend(0u64.to_le_bytes());
            strings.extend(name.bytes().chain([0]));
        }
        let names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0";
        let text: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let parts: [&[u8]; 4] = [&text, &table, &strings, names];
        let mut offsets = Vec::new();
        let mut body = Vec::new();
        for part in parts {
            offsets.push(64 + body.len() as u64);
            body.extend_from_slice(part);
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend([2u8, 0, 183, 0, 1, 0, 0, 0]);
        file.extend([0u64, 0, 64 + body.len() as u64].iter().flat_map(|w| w.to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, 0, 64, 5, 4].iter().flat_map(|h| h.to_le_bytes()));
        file.extend(body);
        let sections: [(u32, u32, u64, usize, u32, u64); 4] =
            [(1, 1, 6, 0, 0, 0), (7, 2, 0, 1, 3, 24), (15, 3, 0, 2, 0, 0), (23, 3, 0, 3, 0, 0)];
        file.extend([0u8; 64]);
        for (name, kind, flags, part, link, entry) in sections {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            for word in [flags, 0, offsets[part], parts[part].len() as u64] {
                file.extend(word.to_le_bytes());
            }
            file.extend(link.to_le_bytes());
            file.extend(1u32.to_le_bytes());
            file.extend([8, entry].iter().flat_map(|w: &u64| w.to_le_bytes()));
        }
        file
    }

    /// A vector table at 0, whose lower-EL synchronous vector branches to `handler` at 0x800, with more code after it.
    fn program(handler: &[u32], more: &[(&str, &[u32])]) -> Vec<u8> {
        let mut words = vec![ERET; 0x200];
        words[0x100] = b(0x400, 0x800);
        let mut symbols = vec![("el2_vectors", 0), ("handler", 0x800)];
        words.extend(handler);
        for (name, code) in more {
            symbols.push((name, words.len() as u64 * 4));
            words.extend(*code);
        }
        elf(&words, &symbols)
    }

    #[test]
    fn a_path_without_panics_is_followed_to_its_end() {
        let image = program(
            &[bl(0x800, 0x808), RET],
            &[("leaf", &[NOP, RET]), ("core::panicking::panic", &[RET])],
        );
        let findings = check_with(&image, &[]).expect("followed");
        assert_eq!((findings.problems.len(), findings.reached), (0, 3), "{findings:?}");
    }

    #[test]
    fn a_panic_behind_two_calls_is_found_with_its_way() {
        let image = program(
            &[bl(0x800, 0x808), RET],
            &[("leaf", &[bl(0x808, 0x810), RET]), ("core::panicking::panic", &[RET])],
        );
        let findings = check_with(&image, &[]).expect("followed");
        assert_eq!(
            findings.problems,
            ["a panic is reachable: the lower-EL vectors -> handler -> leaf -> core::panicking::panic"]
        );
    }

    #[test]
    fn a_mangled_name_is_recognised() {
        let image = program(
            &[b(0x800, 0x804)],
            &[("_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE", &[RET])],
        );
        assert_eq!(check_with(&image, &[]).expect("followed").problems.len(), 1);
    }

    #[test]
    fn code_that_runs_on_into_the_next_symbol_is_followed() {
        let image = program(&[NOP, NOP], &[("core::panicking::panic", &[RET])]);
        assert_eq!(check_with(&image, &[]).expect("followed").problems.len(), 1);
    }

    #[test]
    fn a_conditional_branch_counts() {
        // CBZ x0, #8 out of the handler.
        let image = program(&[0xb400_0040, RET], &[("core::panicking::panic", &[RET])]);
        assert_eq!(check_with(&image, &[]).expect("followed").problems.len(), 1);
    }

    #[test]
    fn a_sink_is_not_followed() {
        let image = program(
            &[bl(0x800, 0x808), RET],
            &[("hyp::fatal::end", &[bl(0x808, 0x810), RET]), ("core::panicking::panic", &[RET])],
        );
        assert!(check(&image).expect("followed").problems.is_empty());
        assert_eq!(check_with(&image, &[]).expect("followed").problems.len(), 1);
    }

    #[test]
    fn an_indirect_call_is_for_text_alone_and_is_followed() {
        let image = program(&[0xd63f_0100, RET], &[]);
        let findings = check_with(&image, &[]).expect("followed");
        assert!(findings.problems[0].contains("an indirect branch at 0x800"), "{findings:?}");
        let image = program(
            &[bl(0x800, 0x808), RET],
            &[
                ("hyp_core::text::put", &[0xd63f_0100, RET]),
                ("<a::Page as hyp_core::text::Shown>::show", &[bl(0x810, 0x818), RET]),
                ("core::panicking::panic", &[RET]),
            ],
        );
        let findings = check_with(&image, &[]).expect("followed");
        assert_eq!(
            findings.problems,
            [
                "a panic is reachable: the lower-EL vectors -> handler -> hyp_core::text::put -> <a::Page as hyp_core::text::Shown>::show -> core::panicking::panic"
            ]
        );
    }

    #[test]
    fn a_jump_table_inside_the_function_is_no_indirect_call() {
        // adr x9, #16; ldrb w10, [x8, x0]; add x9, x9, x10, lsl #2; br x9; ret
        let table = [0x1000_0089, 0x3860_690a, 0x8b0a_0929, 0xd61f_0120, RET];
        assert!(check_with(&program(&table, &[]), &[]).expect("followed").problems.is_empty());
        // The same, but the label lies outside the function.
        let outside = [0x1000_0289, 0x3860_690a, 0x8b0a_0929, 0xd61f_0120, RET];
        assert_eq!(check_with(&program(&outside, &[]), &[]).expect("followed").problems.len(), 1);
    }

    #[test]
    fn what_an_instruction_writes_is_known() {
        let x = |numbers: &[u32]| numbers.iter().fold(0, |bits, n| bits | 1 << n);
        for (word, registers) in [
            (0x8b0a_0929, x(&[9])),      // add x9, x9, x10, lsl #2
            (0xd280_0028, x(&[8])),      // mov x8, #1
            (0xeb09_011f, 0),            // cmp x8, x9
            (0xd53c_1108, x(&[8])),      // mrs x8, hcr_el2
            (0xd51c_1108, 0),            // msr hcr_el2, x8
            (0xd503_3fdf, 0),            // isb
            (0x9400_0010, x(&[30])),     // bl
            (0xd63f_0100, x(&[30])),     // blr x8
            (0xd61f_0120, 0),            // br x9
            (0x3608_0041, 0),            // tbz w1, #1
            (0xf940_0128, x(&[8])),      // ldr x8, [x9]
            (0xf900_0128, 0),            // str x8, [x9]
            (0xf840_8528, x(&[8, 9])),   // ldr x8, [x9], #8
            (0xf86a_7928, x(&[8])),      // ldr x8, [x9, x10, lsl #3]
            (0xf82a_0128, x(&[8])),      // ldadd x10, x8, [x9]
            (0xa940_2528, x(&[8, 9])),   // ldp x8, x9, [x9]
            (0xa900_2528, 0),            // stp x8, x9, [x9]
            (0xa9bf_4ff4, 0),            // stp x20, x19, [sp, #-16]!
            (0xa8c1_4ff4, x(&[20, 19])), // ldp x20, x19, [sp], #16
            (0xc85f_fd2c, x(&[12])),     // ldaxr x12, [x9]
            (0xc80e_fd2d, x(&[14])),     // stlxr w14, x13, [x9]
            (0x88df_fd08, x(&[8])),      // ldar w8, [x8]
            (0xc8ac_7d2a, x(&[12])),     // cas x12, x10, [x9]
            (0x5800_0048, x(&[8])),      // ldr x8, label
            (0x1e20_4000, !(1 << 31)),   // fmov s0, s0
        ] {
            assert_eq!(writes(word), registers, "{word:#010x}");
        }
    }

    #[test]
    fn a_leaf_that_uses_another_register_or_calls_is_refused() {
        let few: &[u32] = &[0xd280_0028, RET];
        let with = |which: usize, last: &[u32]| {
            let more: Vec<(&str, &[u32])> = LEAVES
                .into_iter()
                .map(|(name, _)| (name, if name == LEAVES[which].0 { last } else { few }))
                .collect();
            check_leaves(&program(&[RET], &more))
        };
        assert!(with(0, few).is_ok());
        for (which, (_, last)) in LEAVES.into_iter().enumerate() {
            assert!(with(which, &[0xd280_0020 | last, RET]).is_ok(), "mov x{last}, #1");
            assert!(with(which, &[0xd280_0020 | (last + 1), RET]).is_err(), "mov x{}, #1", last + 1);
        }
        for bad in [
            0xd280_0022,
            0xd280_0032,
            0xa8c1_4ff4,
            bl(0x1000, 0x800),
            b(0x1000, 0x800),
            0xd61f_0120,
        ] {
            assert!(with(3, &[bad, RET]).is_err(), "{bad:#010x}");
        }
        assert!(check_leaves(&program(&[RET], &[])).is_err(), "there are none");
    }

    #[test]
    fn a_sequence_that_a_processor_gets_wrong_is_found() {
        // ldr x28, [x9, #40]; stp x0, x1, [sp]; ldar w10, [x10]; nop; mov x0, x1
        let (ldr, stp, ldar, nop, mov) = (0xf940_153c, 0xa900_07e0, 0x88df_fd4a, 0xd503_201f, 0xaa01_03e0);
        // madd x27, x8, x9, x21; umaddl x8, w9, w10, x1; smsubl x0, w1, w2, x3; mul x0, x1, x2; madd w0, w1, w2, w3; umulh x0, x1, x2
        let (madd, umaddl, smsubl) = (0x9b09_551b, 0x9baa_0528, 0x9b22_8c20);
        let (mul, madd_w, umulh) = (0x9b02_7c20, 0x1b02_0c20, 0x9bc2_7c20);
        for second in [madd, umaddl, smsubl] {
            for first in [ldr, stp, ldar] {
                assert!(
                    check_sequences(&program(&[first, second, RET], &[])).is_err(),
                    "{first:#x} {second:#x}"
                );
                assert!(check_sequences(&program(&[first, nop, second, RET], &[])).is_ok());
            }
            assert!(check_sequences(&program(&[mov, second, RET], &[])).is_ok());
            // A label between the two is no instruction; data between them is no way from one to the other.
            let words = [NOP, ldr, second, RET];
            assert!(
                check_sequences(&elf(&words, &[("first", 0), ("second", 8)])).is_err(),
                "{second:#x}"
            );
            let words = [NOP, ldr, 0, second, RET];
            let symbols = [("first", 0), ("$x", 0), ("$d", 8), ("second", 12), ("$x", 12)];
            assert!(check_sequences(&elf(&words, &symbols)).is_ok(), "{second:#x}");
        }
        // at s1e1r, x0; at s12e1r, x2; at s1e1rp, x3; dc civac, x0
        for at in [0xd508_7800, 0xd50c_7882, 0xd508_7903] {
            assert!(check_sequences(&program(&[at, RET], &[])).is_err(), "{at:#x}");
        }
        assert!(check_sequences(&program(&[0xd50b_7e20, RET], &[])).is_ok());
        for second in [mul, madd_w, umulh] {
            assert!(check_sequences(&program(&[ldr, second, RET], &[])).is_ok(), "{second:#x}");
        }
    }

    #[test]
    fn an_address_that_is_taken_at_the_end_of_a_page_is_found() {
        // adrp x0, .; ldr x1, [x0, #8]; str w1, [x0]; ldrb w2, [x0, #1]; ldr x1, [x2]; add x0, x0, #8; ldr x1, [x0], #8
        let (adrp, ldr, str, ldrb) = (0x9000_0000, 0xf940_0401, 0xb900_0001, 0x3940_0402);
        let (other, add, written_back) = (0xf940_0041, 0x9100_2000, 0xf840_8401);
        let with = |at: usize, code: [u32; 4]| {
            let mut words = vec![0xd503_201f; at];
            words.extend(code);
            check_sequences(&elf(&words, &[("el2_vectors", 0)])).is_err()
        };
        for at in [0x3fe, 0x3ff] {
            for bad in [[adrp, other, ldr, RET], [adrp, other, str, RET], [adrp, other, add, ldrb]] {
                assert!(with(at, bad), "{at:#x} {bad:x?}");
            }
            for good in [[adrp, other, add, RET], [adrp, add, other, written_back], [RET, ldr, ldr, ldr]] {
                assert!(!with(at, good), "{at:#x} {good:x?}");
            }
        }
        assert!(!with(0x3fd, [adrp, other, ldr, RET]));
        assert!(!with(0x10, [adrp, other, ldr, RET]));
    }

    #[test]
    fn an_image_without_the_vectors_is_an_error() {
        assert!(check_with(&elf(&[RET], &[("other", 0)]), &[]).is_err());
    }
}
