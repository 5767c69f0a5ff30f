//! How much of each of EL2's stacks its deepest path takes: what the functions of the release ELF on it take themselves, added up.
//!
//! A function takes what its prologues subtract from SP. Calls through a table of functions are followed to everything that can be in that
//! table, by name: text to what shows itself and to where it goes, readers of the device tree to their callers' closures.

use super::{Code, Flow, Image, SINKS, decode, is_sink, is_text, shows_itself};
use anyhow::{Context, Result, bail, ensure};
use hyp_core::stacks;
use object::{Object, ObjectSymbol};
use std::collections::BTreeMap;

/// The exits of a guest, and what comes between two of them: they begin behind the frame in which the vectors save its registers.
const EXITS: [&str; 11] = [
    "hyp::trap::guest_call",
    "hyp::trap::guest_forwarded_on",
    "hyp::trap::guest_sync",
    "hyp::trap::guest_irq",
    "hyp::short::guest_on",
    "hyp::short::guest_load",
    "hyp::short::guest_store",
    "hyp::short::guest_id",
    "hyp::short::guest_sgi",
    "hyp::short::guest_kick",
    "hyp::run::run_loop",
];
/// `x0` to `x30`, in a frame of the vectors or of a fault.
const FRAME: u64 = 256;
/// How deep texts stand in texts: a page has an exception's syndrome in it, and that a register.
const NESTED: u8 = 3;

/// What is in no text but of this depth: a page is in none, a syndrome in no other.
const OUTER: [(&str, u8); 3] = [
    ("hyp_core::crash::GuestCrash", NESTED),
    ("hyp_core::crash::El2Crash", NESTED),
    ("hyp_core::esr::Esr", NESTED - 1),
];

/// A stack, and the deepest path on it.
#[derive(Debug)]
pub(crate) struct Stack {
    /// Whose it is.
    pub(crate) name: &'static str,
    /// Its bytes.
    pub(crate) size: u64,
    /// Bytes that the path takes.
    pub(crate) taken: u64,
    /// Its functions.
    pub(crate) path: String,
}

/// Every stack of `elf`, an optimised image.
///
/// # Errors
/// A function calls itself, or it is no image of Umbra's.
pub(crate) fn stacks(elf: &[u8]) -> Result<[Stack; 3]> {
    let file = object::File::parse(elf).context("not an ELF file")?;
    let symbol = |name: &str| {
        let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
        found.map(|symbol| symbol.address()).with_context(|| format!("no symbol {name}"))
    };
    let boot = symbol("__boot_stack_top")? - symbol("__boot_stack")?;
    let mut depths = Depths::new(Image::read(elf)?);
    let exits = depths.deepest_of("exits", FRAME, &EXITS)?;
    let first = depths.deepest_of("boot", 0, &["hyp::boot::primary"])?;
    let second = depths.deepest_of("boot", 0, &["hyp::boot::secondary"])?;
    let fault = depths.deepest_of("fault", FRAME, &["hyp::fatal::el2_fault"])?;
    let stack = |name, size, (taken, path): &(u64, String)| Stack {
        name,
        size,
        taken: *taken,
        path: path.clone(),
    };
    Ok([
        stack("the boot CPU's stack", boot, (&exits).max(&first)),
        stack("a pCPU's stack", stacks::PCPU, (&exits).max(&second)),
        stack("the emergency stack", stacks::EMERGENCY, &fault),
    ])
}

/// Whether `word` takes from the stack what a register says: `SUB SP, SP, Xm`.
const fn takes_any(word: u32) -> bool {
    word & 0xFFE0_03FF == 0xCB20_03FF
}

/// Whether what `word` branches to returns behind it: BL.
const fn calls_back(word: u32) -> bool {
    word & 0xFC00_0000 == 0x9400_0000
}

/// What `word` takes from the stack.
fn taken_by(word: u32) -> u64 {
    let signed = |at: u32, bits: u32| i64::from(word << (32 - at - bits)) << 32 >> (64 - bits);
    let below = |offset: i64| offset.min(0).unsigned_abs();
    match word {
        // SUB SP, SP, #imm, shifted by 12 or not.
        w if w & 0xFF80_03FF == 0xD100_03FF => u64::from(w >> 10 & 0xFFF) << (12 * (w >> 22 & 1)),
        // STP of X registers with an address below SP that SP becomes.
        w if w & 0xFFC0_03E0 == 0xA980_03E0 => below(signed(15, 7) * 8),
        // STR of one.
        w if w & 0xFFE0_0FE0 == 0xF800_0FE0 => below(signed(12, 9)),
        _ => 0,
    }
}

/// Below a function, with so many texts in texts still to come: bytes, and the next function of the deepest path.
type Below = (u64, Option<(u64, u8)>);

struct Depths {
    image: Image,
    /// `None` while it is looked for.
    known: BTreeMap<(u64, u8), Option<Below>>,
}

impl Depths {
    const fn new(image: Image) -> Self {
        Self {
            image,
            known: BTreeMap::new(),
        }
    }

    fn deepest_of(&mut self, what: &str, before: u64, roots: &[&str]) -> Result<(u64, String)> {
        let mut deepest = (0, String::new());
        for root in roots {
            let start = self.named(|name| name == *root).first().map(|code| code.start);
            let start = start.with_context(|| format!("no function {root}, which {what} begin with"))?;
            let taken = before + self.depth(start, NESTED)?;
            if taken > deepest.0 {
                deepest = (taken, self.path(start));
            }
        }
        Ok(deepest)
    }

    fn named(&self, wanted: impl Fn(&str) -> bool) -> Vec<Code> {
        self.image.functions.iter().filter(|code| wanted(&code.name)).cloned().collect()
    }

    fn path(&self, start: u64) -> String {
        let mut names = Vec::new();
        let mut next = Some((start, NESTED));
        while let Some(at) = next {
            names.push(self.image.at(at.0).map_or("?", |code| code.name.as_str()));
            next = self.known.get(&at).copied().flatten().and_then(|(_, next)| next);
        }
        names.join(" -> ")
    }

    /// What the function at `start` and the deepest below it take.
    fn depth(&mut self, start: u64, nested: u8) -> Result<u64> {
        let code = self.image.at(start).with_context(|| format!("no function at {start:#x}"))?.clone();
        if let Some(known) = self.known.get(&(code.start, nested)) {
            return known
                .map(|(depth, _)| depth)
                .with_context(|| format!("{} calls itself: nothing bounds the stack", code.name));
        }
        self.known.insert((code.start, nested), None);
        let mut own = 0;
        let mut calls = Vec::new();
        let mut last_take = None;
        let words: Vec<_> = self.image.words(code.start, code.end).collect();
        for (at, word) in words.into_iter().filter(|(at, _)| self.image.is_code(*at)) {
            ensure!(!takes_any(word), "{} takes at {at:#x} what a register says", code.name);
            if taken_by(word) != 0 {
                last_take = Some(at);
                own += taken_by(word);
            }
            match decode(at, word) {
                Flow::To(target) if calls_back(word) && (code.start..code.end).contains(&target) => {
                    bail!("{} calls itself at {at:#x}: nothing bounds the stack", code.name)
                }
                // For more than a few pages the compiler takes and touches one after the other.
                Flow::To(target) if (code.start..at).contains(&target) && last_take.is_some_and(|take| take >= target) => {
                    bail!("{} takes in a loop, up to {at:#x}: how much is not known here", code.name)
                }
                Flow::To(target) if !(code.start..code.end).contains(&target) => {
                    let target = self.image.at(target).with_context(|| format!("no function at {target:#x}"))?;
                    calls.push((target.start, nested));
                }
                Flow::Indirect(register) if !self.image.is_jump_table(&code, at, register) => {
                    calls.extend(self.behind_tables(&code.name, nested)?);
                }
                _ => {}
            }
        }
        let mut deepest = (0, None);
        for call in calls {
            // Where Umbra ends on purpose, only the fault's own path counts.
            let name = self.image.at(call.0).map_or("", |code| code.name.as_str());
            let ends = SINKS.iter().any(|sink| name.starts_with(sink)) || name.starts_with("core::panicking");
            if ends && !code.name.starts_with(SINKS[0]) {
                continue;
            }
            let depth = self.depth(call.0, call.1)?;
            if depth > deepest.0 {
                deepest = (depth, Some(call));
            }
        }
        let below = (own + deepest.0, deepest.1);
        self.known.insert((code.start, nested), Some(below));
        Ok(below.0)
    }

    /// What a call through a table of functions in `caller` can lead to.
    fn behind_tables(&self, caller: &str, nested: u8) -> Result<Vec<(u64, u8)>> {
        let starts = |codes: Vec<Code>, nested| codes.into_iter().map(move |code| (code.start, nested));
        if is_text(caller) {
            let sinks = self.named(is_sink);
            // Numbers have nothing in them.
            let any = nested > 0 && caller != "hyp_core::text::digits";
            let fits = |name: &str| OUTER.iter().all(|(outer, least)| nested >= *least || !name.contains(outer));
            let shown = self.named(|name| any && shows_itself(name) && fits(name));
            return Ok(starts(sinks, nested).chain(starts(shown, nested.saturating_sub(1))).collect());
        }
        ensure!(
            caller.contains("hyp_core::fdt::vms::"),
            "{caller} calls through a table: what can be in it is not known here"
        );
        let closures = self.named(|name| name.contains("{{closure}}") || name.starts_with("core::ops::function::Fn"));
        Ok(starts(closures, nested).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bl, elf};
    use super::*;

    const RET: u32 = 0xd65f_03c0;
    /// `stp x29, x30, [sp, #-32]!`
    const STP: u32 = 0xa9be_7bfd;
    /// `sub sp, sp, #48`
    const SUB: u32 = 0xd100_c3ff;

    #[test]
    fn prologues_are_decoded() {
        for (word, taken) in [
            (STP, 32),
            (SUB, 48),
            // sub sp, sp, #1, lsl #12; str x30, [sp, #-16]!; stp x28, x27, [sp, #-96]!
            (0xd140_07ff, 4096),
            (0xf81f_0ffe, 16),
            (0xa9ba_6ffc, 96),
            // ldp x29, x30, [sp], #32; add sp, sp, #48; stp x20, x19, [sp, #16]; sub x0, sp, #16; str x0, [x1, #-16]!
            (0xa8c2_7bfd, 0),
            (0x9100_c3ff, 0),
            (0xa901_4ff4, 0),
            (0xd100_43e0, 0),
            (0xf81f_0c20, 0),
        ] {
            assert_eq!(taken_by(word), taken, "{word:#x}");
        }
    }

    #[test]
    fn the_deepest_path_counts_and_a_recursion_is_none() {
        let words = [STP, bl(4, 0x10), bl(8, 0x18), RET, SUB, RET, STP, SUB, bl(0x20, 0x28), RET, RET];
        let names = [("root", 0), ("shallow", 0x10), ("deep", 0x18), ("leaf", 0x28)];
        let mut depths = Depths::new(Image::read(&elf(&words, &names)).expect("an image"));
        let deepest = depths.deepest_of("tests", 100, &["root"]).expect("a depth");
        assert_eq!(deepest, (100 + 32 + 32 + 48, "root -> deep".to_owned()));
        let by_another = [STP, bl(4, 0xc), RET, STP, bl(0x10, 0), RET];
        let directly = [STP, bl(4, 0), RET, RET];
        for words in [&by_another[..], &directly[..]] {
            let mut depths = Depths::new(Image::read(&elf(words, &[("root", 0), ("other", 0xc)])).expect("an image"));
            let error = depths.deepest_of("tests", 0, &["root"]).expect_err("it calls itself");
            assert!(error.to_string().contains("calls itself"), "{error}");
        }
    }

    #[test]
    fn what_is_taken_in_a_loop_or_by_a_register_is_not_known() {
        // sub x9, sp, #16, lsl #12; 1: sub sp, sp, #1, lsl #12; str xzr, [sp]; cmp sp, x9; b.ne 1b: a frame of 64 KiB, one page taken.
        let pages = [0xd140_43e9, 0xd140_07ff, 0xf900_03ff, 0xeb29_63ff, 0x54ff_ffa1, RET];
        // sub sp, sp, x9
        let register = [0xcb29_63ff, RET];
        for (words, why) in [(&pages[..], "in a loop"), (&register[..], "a register says")] {
            let mut depths = Depths::new(Image::read(&elf(words, &[("root", 0)])).expect("an image"));
            let error = depths.deepest_of("tests", 0, &["root"]).expect_err("nobody knows");
            assert!(error.to_string().contains(why), "{error}");
        }
        // A loop behind the prologue takes nothing: stp; 1: subs x0, x0, #1; b.ne 1b.
        let words = [STP, 0xf100_0400, 0x54ff_ffe1, RET];
        let mut depths = Depths::new(Image::read(&elf(&words, &[("root", 0)])).expect("an image"));
        assert_eq!(depths.deepest_of("tests", 0, &["root"]).expect("a depth").0, 32);
    }
}
