//! Where the instructions of one operation go: QEMU logs every instruction that it executes (`-d exec,nochain` with
//! `-singlestep`, limited by `-dfilter` to Umbra's image and the guest's two marks), and each address is looked up in
//! Umbra's ELF: its function, and what kind of instruction stands there. No plugin of QEMU's is needed.
//!
//! Where a sender sleeps until its targets are done, the alarm that wakes it is between the marks too.

use super::scene::{Bench, Scene};
use crate::plan::KERNEL;
use crate::qemu;
use crate::setup;
use crate::ui::{self, Style, out};
use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ChildStderr;
use std::time::Duration;

/// What an instruction is, by what real CPUs pay for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// `MSR` and `MRS`, and the system instructions (`AT`, `DC`, `IC`, `TLBI`).
    System,
    /// `DMB`, `DSB`, `ISB`.
    Barrier,
    /// Exclusives and the atomic read-modify-writes of LSE.
    Atomic,
    /// Every other load and store; acquiring and releasing ones, too.
    Memory,
    /// Everything else.
    Other,
}

impl Class {
    /// All of them, in the order in which they are shown.
    const ALL: [Self; 5] = [Self::System, Self::Barrier, Self::Atomic, Self::Memory, Self::Other];

    const fn name(self) -> &'static str {
        match self {
            Self::System => "system registers",
            Self::Barrier => "barriers",
            Self::Atomic => "atomics",
            Self::Memory => "loads and stores",
            Self::Other => "other",
        }
    }

    /// The class of the instruction `word` (DDI 0487, C4.1 "A64 instruction set encoding").
    const fn of(word: u32) -> Self {
        // Barriers: CRn 3 of the system space, of which CLREX (op2 2) is none.
        if word & 0xFFFF_F01F == 0xD503_301F && word >> 5 & 7 != 2 {
            return Self::Barrier;
        }
        // MSR (immediate): op0 0, CRn 4.
        if word & 0xFFF8_F01F == 0xD500_401F {
            return Self::System;
        }
        // MSR, MRS, SYS, SYSL: op0 1 to 3. What is left of the space are hints.
        if word & 0xFFC0_0000 == 0xD500_0000 && word >> 19 & 3 != 0 {
            return Self::System;
        }
        // Loads and stores: bits 27 and 25 are 1 and 0.
        if word >> 27 & 1 == 1 && word >> 25 & 1 == 0 {
            // Exclusives and compare-and-swap: 001000 in 29:24. Ordered ones have o2 (23) set and o1 (21) clear.
            let exclusive = word >> 24 & 0x3F == 0x08;
            let ordered = word >> 23 & 1 == 1 && word >> 21 & 1 == 0;
            // LSE read-modify-write: xx111000 in 31:24, 21 set, 00 in 11:10; LDAPR is no read-modify-write.
            let lse = word >> 24 & 0x3F == 0x38 && word >> 21 & 1 == 1 && word >> 10 & 3 == 0 && word >> 12 & 0xF != 0xC;
            return if exclusive && !ordered || lse { Self::Atomic } else { Self::Memory };
        }
        Self::Other
    }
}

/// Umbra's code.
struct Code {
    /// Executable bytes by address.
    text: Vec<(u64, Vec<u8>)>,
    /// Functions and labels by address.
    names: BTreeMap<u64, String>,
}

impl Code {
    fn read(elf: &Path) -> Result<Self> {
        let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let file = object::File::parse(bytes.as_slice()).context("not an ELF file")?;
        let mut code = Self {
            text: Vec::new(),
            names: BTreeMap::new(),
        };
        for section in file.sections().filter(|s| s.kind() == object::SectionKind::Text) {
            code.text.push((section.address(), section.data()?.to_vec()));
        }
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or("");
            let kind = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
            if kind && !name.is_empty() && !name.starts_with('$') && !name.starts_with(".L") && code.word(symbol.address()).is_some() {
                code.names.insert(symbol.address(), format!("{:#}", rustc_demangle::demangle(name)));
            }
        }
        ensure!(!code.names.is_empty(), "the ELF has no symbols: it was stripped");
        Ok(code)
    }

    fn word(&self, at: u64) -> Option<u32> {
        let (start, bytes) = self
            .text
            .iter()
            .find(|(start, bytes)| at >= *start && at < start + bytes.len() as u64)?;
        let offset = usize::try_from(at - start).ok()?;
        Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
    }

    fn name(&self, at: u64) -> (&str, u64) {
        self.names
            .range(..=at)
            .next_back()
            .map_or(("?", 0), |(start, name)| (name, at - start))
    }

    /// One past the last executable address.
    fn end(&self) -> u64 {
        self.text.iter().map(|(start, bytes)| start + bytes.len() as u64).max().unwrap_or(0)
    }
}

/// The address of a symbol of a guest.
fn address_of(elf: &Path, name: &str) -> Result<u64> {
    let bytes = std::fs::read(elf)?;
    let file = object::File::parse(bytes.as_slice()).context("not an ELF file")?;
    let found = file.symbols().find(|s| s.name() == Ok(name)).map(|s| s.address());
    found.with_context(|| format!("{} has no symbol {name}", elf.display()))
}

/// The addresses in Umbra's image that one run of an operation executed, each with its pCPU.
type Trace = Vec<(u32, u64)>;

/// Cuts QEMU's log into the traces between the guest's two marks.
struct Cutter {
    /// Where the marks are executed; another program may have other code at the same addresses.
    pcpu: u32,
    begin: u64,
    end: u64,
    open: Option<Trace>,
    done: Vec<Trace>,
}

impl Cutter {
    /// Takes one line: `Trace CPU: HOST [CS_BASE/PC/FLAGS/CFLAGS] NAME`, or a notice that the last one did not run.
    fn line(&mut self, line: &str) {
        if line.starts_with("Stopped execution of TB chain before") {
            if let Some(open) = &mut self.open {
                open.pop();
            }
            return;
        }
        let Some((pcpu, rest)) = line.strip_prefix("Trace ").and_then(|l| l.split_once(':')) else {
            return;
        };
        let pc = rest.split('/').nth(1).and_then(|pc| u64::from_str_radix(pc, 16).ok());
        let (Ok(pcpu), Some(pc)) = (pcpu.parse::<u32>(), pc) else { return };
        if pc == self.begin || pc == self.end {
            if pcpu != self.pcpu {
                return;
            }
            self.done.extend(self.open.take().filter(|_| pc == self.end));
            self.open = (pc == self.begin).then(Trace::new);
        } else if let Some(open) = &mut self.open {
            open.push((pcpu, pc));
        }
    }
}

/// How long a traced run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Samples of a traced run; QEMU logs every instruction, from the boot on.
const SAMPLES: u32 = 16;

/// Runs `name` a few times in its scene and says where its instructions go.
pub(crate) fn profile(bench: &Bench<'_>, name: &str, file: &Path) -> Result<String> {
    let code = Code::read(&bench.hyp.elf)?;
    let only = [name.to_owned()];
    let bench = Bench {
        only: &only,
        samples: SAMPLES,
        ..*bench
    };
    let set = super::ops::all().into_iter().find(|op| op.name == name).map_or("", |op| op.set);
    let scene = Scene::all()
        .into_iter()
        .find(|scene| scene.ops == set)
        .context("no scene measures it")?;
    let step = ui::Step::begin("Tracing", name);
    let mut traces = trace(&bench, &scene, &code)?.runs;
    drop(step);
    ensure!(!traces.is_empty(), "{name} was not run between two marks");
    // The first runs warm up.
    traces.drain(..traces.len() / 2);
    traces.sort_by_key(Vec::len);
    let (least, most) = (traces[0].len(), traces[traces.len() - 1].len());
    let median = &traces[traces.len() / 2];
    let mut text = text(name, &code, median);
    if least != most {
        let _ = writeln!(
            text,
            "{} runs: {least} to {most} instructions; shown is the one in the middle",
            traces.len()
        );
    }
    std::fs::write(file, listing(&code, median)).with_context(|| format!("cannot write {}", file.display()))?;
    let _ = write!(text, "Every instruction in its order is in {}", setup::shown(file));
    Ok(text)
}

/// What the exits of one vCPU consist of.
pub(crate) struct Counted {
    /// A line for each operation.
    pub(crate) text: String,
    /// What should not be there.
    pub(crate) broken: Vec<String>,
}

/// Operations that concern one vCPU alone: not the VM's distributor nor its PL011, whose words its vCPUs share.
const ALONE: [&str; 17] = [
    "null-hvc",
    "null-smc",
    "psci-version-hvc",
    "psci-version-smc",
    "affinity-info-hvc",
    "affinity-info-smc",
    "smccc-version-hvc",
    "smccc-version-smc",
    "id-register-read",
    "gicr-isenabler0-read",
    "gicr-ipriorityr-read",
    "gicr-typer-read",
    "gicr-isenabler0-write",
    "gicr-ipriorityr-write",
    "sgi-self",
    "vtimer",
    "wfi",
];
/// Those of them that are calls.
const CALLS: usize = 8;
/// System registers that a call may access.
const CALL_REGISTERS: u64 = 10;

/// Counts, in one traced run, what the exits of one vCPU consist of: no atomic read-modify-write, and for calls at most 10
/// accesses to system registers and no barrier (those that keep speculation from going past `ERET` are never executed).
pub(crate) fn by_construction(bench: &Bench<'_>) -> Result<Counted> {
    let code = Code::read(&bench.hyp.elf)?;
    let only = ALONE.map(str::to_owned);
    let bench = Bench {
        only: &only,
        samples: 1,
        ..*bench
    };
    let scene = Scene::all()
        .into_iter()
        .find(|scene| scene.id == "one")
        .context("no scene of one vCPU")?;
    let step = ui::Step::begin("Tracing", "exits of one vCPU");
    let Traced { runs, names } = trace(&bench, &scene, &code)?;
    drop(step);
    ensure!(
        !names.is_empty() && runs.len().is_multiple_of(names.len()),
        "{} traces of {} operations",
        runs.len(),
        names.len()
    );
    let mut counted = Counted {
        text: String::new(),
        broken: ALONE
            .iter()
            .filter(|name| !names.iter().any(|n| n == *name))
            .map(|name| format!("{name} was not traced"))
            .collect(),
    };
    for (name, runs) in names.iter().zip(runs.chunks(runs.len() / names.len())) {
        let Some(run) = runs.last() else { continue };
        let counts = classes(run.iter().map(|&(_, pc)| code.word(pc - KERNEL).unwrap_or(0)));
        let of = |class| counts.get(&class).copied().unwrap_or(0);
        let line = format!(
            "{name}: {} instructions, of them {} system registers, {} barriers, {} atomics",
            run.len(),
            of(Class::System),
            of(Class::Barrier),
            of(Class::Atomic)
        );
        let call = ALONE[..CALLS].contains(&name.as_str());
        let fine = of(Class::Atomic) == 0 && (!call || of(Class::System) <= CALL_REGISTERS && of(Class::Barrier) == 0);
        let _ = writeln!(counted.text, "{line}");
        if !fine {
            counted.broken.push(line);
        }
    }
    Ok(counted)
}

/// What a traced run left: each run of an operation, and the operations in their order.
struct Traced {
    runs: Vec<Trace>,
    names: Vec<String>,
}

fn trace(bench: &Bench<'_>, scene: &Scene, code: &Code) -> Result<Traced> {
    let (program, pcpu) = scene.marked();
    let elf = bench.program(program)?;
    let (begin, end) = if program == "first" {
        // A boot is what lies between Umbra's first instruction and the guest's.
        (KERNEL, address_of(elf, "_start")?)
    } else {
        (address_of(elf, "bench_begin")?, address_of(elf, "bench_end")?)
    };
    let mut args = bench.arguments(scene)?;
    let filter = format!("{begin:#x}+4,{end:#x}+4,{KERNEL:#x}+{:#x}", code.end());
    args.extend(["-singlestep", "-d", "exec,nochain", "-dfilter", &filter].map(Into::into));
    let mut child = qemu::spawn(bench.qemu, &args)?;
    let log = child.0.stderr.take().context("QEMU has no standard error")?;
    let mut output = child.0.stdout.take().context("QEMU has no standard output")?;
    let console = std::thread::spawn(move || {
        let mut said = Vec::new();
        // What was read before an error is looked at all the same.
        let _ = output.read_to_end(&mut said);
        said
    });
    let cutter = Cutter {
        pcpu,
        begin,
        end,
        open: None,
        done: Vec::new(),
    };
    let reader = std::thread::spawn(move || read(log, cutter));
    ensure!(
        qemu::wait(&mut child.0, LIMIT)?.is_some(),
        "the traced run with {} did not end within {} s",
        scene.name,
        LIMIT.as_secs()
    );
    drop(child);
    let said = console.join().unwrap_or_default();
    let runs = reader.join().map_err(|_| anyhow::anyhow!("the trace could not be read"))?;
    Ok(Traced {
        runs,
        names: measured(&String::from_utf8_lossy(&said)),
    })
}

/// The operations that the guest says it measured, in their order; of two that one run measures the first.
fn measured(console: &str) -> Vec<String> {
    let names = console
        .lines()
        .filter_map(|line| line.split_once("@guest bench op=")?.1.split(' ').next());
    names.filter(|name| !name.ends_with("-eoi")).map(str::to_owned).collect()
}

fn read(log: ChildStderr, mut cutter: Cutter) -> Vec<Trace> {
    let mut log = BufReader::with_capacity(1 << 20, log);
    let mut line = String::new();
    while log.read_line(&mut line).is_ok_and(|n| n > 0) {
        cutter.line(&line);
        line.clear();
    }
    cutter.done
}

/// The counts of a trace by class.
pub(crate) fn classes(words: impl Iterator<Item = u32>) -> BTreeMap<Class, u64> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(Class::of(word)).or_insert(0) += 1;
    }
    counts
}

fn text(name: &str, code: &Code, trace: &Trace) -> String {
    let word = |pc: u64| code.word(pc - KERNEL).unwrap_or(0);
    let mut by_function: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for &(_, pc) in trace {
        by_function.entry(code.name(pc - KERNEL).0).or_default().push(word(pc));
    }
    let mut rows: Vec<(&str, Vec<u32>)> = by_function.into_iter().collect();
    rows.sort_by_key(|(name, words)| (std::cmp::Reverse(words.len()), *name));
    rows.push(("all of it", trace.iter().map(|&(_, pc)| word(pc)).collect()));
    let mut text = format!("{name}: {} instructions at EL2\n\n", ui::thousands(trace.len() as u64));
    let heads = Class::ALL.map(Class::name);
    let head = format!("{:>7}  {}  function", "all", heads.map(|h| format!("{h:>16}")).join(" "));
    let _ = writeln!(text, "{}", out(Style::Bold, &head));
    for (function, words) in rows {
        let counts = classes(words.iter().copied());
        let cells = Class::ALL.map(|class| counts.get(&class).map_or_else(|| "-".to_owned(), |n| ui::thousands(*n)));
        let all = ui::thousands(words.len() as u64);
        let _ = writeln!(text, "{all:>7}  {}  {function}", cells.map(|c| format!("{c:>16}")).join(" "));
    }
    text
}

/// The most instructions that are listed.
const LISTED: usize = 200_000;

/// Every instruction of a trace in its order; of a long one the first.
fn listing(code: &Code, trace: &Trace) -> String {
    let mut text = String::new();
    for &(pcpu, pc) in trace.iter().take(LISTED) {
        let (name, offset) = code.name(pc - KERNEL);
        let word = code.word(pc - KERNEL).unwrap_or(0);
        let class = Class::of(word).name();
        let _ = writeln!(text, "{pcpu} {:#08x} {word:08x} {class:<16} {name}+{offset:#x}", pc - KERNEL);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_of_the_class_that_the_manual_says() {
        let classes = [
            (0xD53B_E040, Class::System),  // mrs x0, cntvct_el0
            (0xD51C_1100, Class::System),  // msr hcr_el2, x0
            (0xD503_42DF, Class::System),  // msr daifset, #2
            (0xD50C_83DF, Class::System),  // tlbi vmalls12e1is
            (0xD503_3FDF, Class::Barrier), // isb
            (0xD503_3BBF, Class::Barrier), // dmb ish
            (0xD503_3A9F, Class::Barrier), // dsb ishst
            (0xD503_3F5F, Class::Other),   // clrex
            (0xD503_201F, Class::Other),   // nop
            (0xD503_207F, Class::Other),   // wfi
            (0x885F_FC01, Class::Atomic),  // ldaxr w1, [x0]
            (0x8802_FC01, Class::Atomic),  // stlxr w2, w1, [x0]
            (0xB8A0_0041, Class::Atomic),  // ldadda w0, w1, [x2]
            (0x88E1_FC02, Class::Atomic),  // casal w1, w2, [x0]
            (0xC8DF_FC01, Class::Memory),  // ldar x1, [x0]
            (0xC89F_FC01, Class::Memory),  // stlr x1, [x0]
            (0xB8BF_C041, Class::Memory),  // ldapr w1, [x2]
            (0xF940_0001, Class::Memory),  // ldr x1, [x0]
            (0xA9BF_7BFD, Class::Memory),  // stp x29, x30, [sp, #-16]!
            (0x5800_0040, Class::Memory),  // ldr x0, label
            (0x8B01_0000, Class::Other),   // add x0, x0, x1
            (0x1400_0001, Class::Other),   // b
            (0xD69F_03E0, Class::Other),   // eret
        ];
        for (word, class) in classes {
            assert_eq!(Class::of(word), class, "{word:08x}");
        }
    }

    #[test]
    fn the_console_says_what_was_measured() {
        let console =
            "\u{e}B@guest bench pair=3\n@guest bench op=sgi-self n=1\n@guest bench op=sgi-self-eoi n=1\n\u{e}B@guest bench op=wfi n=1\n";
        assert_eq!(measured(console), ["sgi-self", "wfi"]);
    }

    #[test]
    fn a_trace_is_what_lies_between_the_marks() {
        let mut cutter = Cutter {
            pcpu: 0,
            begin: 0x100,
            end: 0x104,
            open: None,
            done: Vec::new(),
        };
        let line = |cpu: u32, pc: u64| format!("Trace {cpu}: 0x7f [0000000000000000/{pc:016x}/00000061/ff020201] \n");
        for (cpu, pc) in [(0, 0x200), (0, 0x100), (0, 0x204), (1, 0x100), (1, 0x208), (0, 0x20c)] {
            cutter.line(&line(cpu, pc));
        }
        cutter.line("Stopped execution of TB chain before 0x7f [20c] \n");
        cutter.line("anything else");
        for (cpu, pc) in [(0, 0x20c), (0, 0x104), (0, 0x210)] {
            cutter.line(&line(cpu, pc));
        }
        assert_eq!(cutter.done, [[(0, 0x204), (1, 0x208), (0, 0x20c)]]);
    }
}
