//! Tests on the machine: each is a fresh QEMU boot with a deadline.
//!
//! A test is one entry of the table in [`cases`]: what runs, on what machine, and what must be true afterwards. Without
//! [`Case::expect`] that is: Umbra's verdict is good, and every one of our programs that reports results reports at least
//! one pass and no failure.

mod cases;
mod documented;
mod linux;
mod matrix;
mod ratio;
mod tool;

pub(crate) use ratio::without_umbra;

use crate::build::{self, Profile};
use crate::console::{HOST, Line, Transcript};
use crate::guests;
use crate::plan::{Machine, Plan, shell};
use crate::qemu::{self, Run, Watch};
use crate::report::{About, Report};
use crate::run::{forward_cpu_on, host_vm, own_vm, prepare};
use crate::verdict::{Ending, Verdict};
use crate::vmfile::{FilterEntry, Vm};
use anyhow::{Context, Result};
use hyp_core::filter::Action;
use hyp_core::types::Range;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::mpsc;
use std::time::Duration;

/// In the place of a program's name: the host program that docs/host-abi.md shows.
const DOCUMENTED: &str = "docs/host-abi.md";

/// The channel of the first guest.
const FIRST_GUEST: u8 = HOST + 1;

/// One guest of a test.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The VM's name.
    name: &'static str,
    program: Program,
    bootargs: &'static str,
    vcpus: u32,
    filter: Vec<FilterEntry>,
    strict: bool,
    on_pending: bool,
    deadline_ms: Option<u32>,
    ram: Option<(u64, u64)>,
    initrd_mib: u64,
    blob: usize,
    flat: bool,
    pcpus: &'static [u32],
    devices: &'static [&'static str],
    spoil: Option<fn(&mut Vm)>,
}

/// What a guest runs.
#[derive(Clone, Copy, Debug)]
enum Program {
    /// A program of the guest package.
    Own(&'static str),
    /// Debian's.
    Debian(guests::Guest),
}

#[allow(dead_code, reason = "the table of tests decides which of these it needs")]
impl Guest {
    /// A guest that runs the program `bin` with `bootargs`, on one vCPU.
    pub(crate) fn new(bin: &'static str, bootargs: &'static str) -> Self {
        Self::of(bin, Program::Own(bin), bootargs, 1)
    }
    /// Debian's Linux on four vCPUs; `bootargs` are added to its command line.
    pub(crate) fn linux(bootargs: &'static str) -> Self {
        Self::of("linux", Program::Debian(guests::Guest::Linux), bootargs, 4)
    }
    /// Debian's U-Boot.
    pub(crate) fn u_boot() -> Self {
        Self::of("u-boot", Program::Debian(guests::Guest::UBoot), "", 1)
    }
    fn of(name: &'static str, program: Program, bootargs: &'static str, vcpus: u32) -> Self {
        Self {
            name,
            program,
            bootargs,
            vcpus,
            filter: Vec::new(),
            strict: false,
            on_pending: true,
            deadline_ms: None,
            ram: None,
            initrd_mib: 0,
            blob: 0,
            flat: false,
            pcpus: &[],
            devices: &[],
            spoil: None,
        }
    }
    /// Names it; needed when two guests run the same program.
    pub(crate) fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }
    /// Gives it this many vCPUs.
    pub(crate) fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }
    /// Says on which pCPU each of its vCPUs runs.
    pub(crate) fn pcpus(mut self, pcpus: &'static [u32]) -> Self {
        self.pcpus = pcpus;
        self
    }
    /// Gives it these devices of the machine, by their device-tree paths.
    pub(crate) fn devices(mut self, devices: &'static [&'static str]) -> Self {
        self.devices = devices;
        self
    }
    /// Forwards these PSCI calls to the host partition, named as on the command line.
    pub(crate) fn forwards(mut self, calls: &[&str]) -> Self {
        let names: Vec<String> = calls.iter().map(|c| (*c).to_owned()).collect();
        self.filter.extend(guests::forward(&names).unwrap_or_default());
        self
    }
    /// Forwards `CPU_ON` to the host partition, in both widths.
    pub(crate) fn forward(mut self) -> Self {
        self.filter.extend(forward_cpu_on());
        self
    }
    /// Forwards the calls that our guests and our host programs make up between them.
    pub(crate) fn oem(mut self) -> Self {
        self.filter.push(crate::run::forward_oem());
        self
    }
    /// Adds a range to its filter.
    pub(crate) fn filter(mut self, base: u32, count: u32, action: Action) -> Self {
        self.filter.push(FilterEntry { base, count, action });
        self
    }
    /// Traps every `ICC_CTLR_EL1` access.
    pub(crate) fn strict(mut self) -> Self {
        self.strict = true;
        self
    }
    /// Has losers of a forwarded `CPU_ON` see `ALREADY_ON`.
    pub(crate) fn no_on_pending(mut self) -> Self {
        self.on_pending = false;
        self
    }
    /// Gives forwarded calls this long.
    pub(crate) fn forward_deadline(mut self, ms: u32) -> Self {
        self.deadline_ms = Some(ms);
        self
    }
    /// Gives it this RAM.
    pub(crate) fn ram(mut self, base: u64, size: u64) -> Self {
        self.ram = Some((base, size));
        self
    }
    /// Gives it an initial RAM disk of so many MiB, in which nothing is.
    pub(crate) fn initrd_mib(mut self, mib: u64) -> Self {
        self.initrd_mib = mib;
        self
    }
    /// Adds a file `blob` of so many bytes, which [`linux::blob`] makes, to its initramfs.
    pub(crate) fn blob(mut self, bytes: usize) -> Self {
        self.blob = bytes;
        self
    }
    /// Gives its image as an arm64 `Image`, not as an ELF for the tool to make flat.
    pub(crate) fn given_as_image(mut self) -> Self {
        self.flat = true;
        self
    }
    /// Changes its description after every check of the tool, so that Umbra sees something wrong.
    pub(crate) fn spoil(mut self, change: fn(&mut Vm)) -> Self {
        self.spoil = Some(change);
        self
    }
}

/// What a test has to look at afterwards.
pub(crate) struct Seen<'a> {
    /// QEMU's end and the consoles' words.
    pub(crate) run: &'a Run,
    /// What the tool makes of it.
    pub(crate) verdict: &'a Verdict,
    /// The run's plan.
    pub(crate) plan: &'a Plan,
    /// Bytes of Umbra's flat image.
    image: u64,
}

#[allow(dead_code, reason = "the table of tests decides which of these it needs")]
impl Seen<'_> {
    /// The consoles.
    pub(crate) fn transcript(&self) -> &Transcript {
        &self.run.transcript
    }

    /// The lines of Umbra's own console.
    pub(crate) fn umbra(&self) -> &[String] {
        self.run.transcript.lines(0)
    }

    /// The lines of the VM of that name.
    pub(crate) fn lines(&self, name: &str) -> &[String] {
        let at = self.plan.vms.iter().position(|vm| vm.name == name);
        at.map_or(&[], |at| self.run.transcript.lines(self.plan.channel_of(at)))
    }

    /// The verdict must be good, and every program that reports results must report passes only, at least one in all.
    pub(crate) fn all_passed(&self) -> Result<(), String> {
        self.failures()?;
        if self.verdict.status != 0 {
            return Err(self.verdict.reason.clone());
        }
        let done: Vec<_> = self.transcript().records.iter().filter(|r| r.kind == "done").collect();
        if done.is_empty() {
            return Err("no program reported a result (`@guest done` or `@host done`)".to_owned());
        }
        let sum = |key: &str| done.iter().filter_map(|r| r.number(key)).sum::<u64>();
        match (sum("passed"), sum("failed")) {
            (0, _) => Err("no check ran".to_owned()),
            (_, 0) => Ok(()),
            (_, failed) => Err(format!("{failed} checks failed")),
        }
    }

    /// The demo's table must have no miss.
    pub(crate) fn demo_passed(&self) -> Result<(), String> {
        self.all_passed()?;
        let machine = &self.plan.machine;
        let about = About {
            icount: machine.icount,
            seconds: self.run.elapsed.as_secs_f64(),
            image: self.image,
            cpu: &machine.cpu,
            smp: machine.smp,
        };
        let misses = Report::new(self.transcript(), &about).misses();
        if misses.is_empty() {
            Ok(())
        } else {
            Err(format!("the demo's table: {}", misses.join(", ")))
        }
    }

    /// The number `key` in the records of a phase of the host partition's program.
    pub(crate) fn host_figure(&self, phase: &str, key: &str) -> Option<u64> {
        self.transcript()
            .records
            .iter()
            .filter(|r| r.channel == HOST && r.text("phase") == Some(phase))
            .find_map(|r| r.number(key))
    }

    /// No program may print a `FAIL` line.
    pub(crate) fn failures(&self) -> Result<(), String> {
        let all = (1..=9).flat_map(|channel| self.transcript().lines(channel));
        match all.into_iter().find(|line| line.starts_with("FAIL ")) {
            Some(line) => Err(line.clone()),
            None => Ok(()),
        }
    }

    /// The verdict must have this status, and its reason this part.
    pub(crate) fn verdict_is(&self, status: u8, part: &str) -> Result<(), String> {
        let v = self.verdict;
        if v.status == status && v.reason.contains(part) {
            Ok(())
        } else {
            Err(format!("the verdict is {} ({})", v.status, v.reason))
        }
    }

    /// Umbra's console must have a line with every one of `parts`, in any lines.
    pub(crate) fn umbra_says(&self, parts: &[&str]) -> Result<(), String> {
        match parts.iter().find(|part| !self.umbra().iter().any(|line| line.contains(**part))) {
            Some(part) => Err(format!("Umbra's console does not say {part:?}")),
            None => Ok(()),
        }
    }

    /// The VM `name` must have said a line with `part`.
    pub(crate) fn vm_says(&self, name: &str, part: &str) -> Result<(), String> {
        if self.lines(name).iter().any(|line| line.contains(part)) {
            Ok(())
        } else {
            Err(format!("{name} does not say {part:?}"))
        }
    }

    /// The number `key` in hyp's final count of VM `vm`, summed over its vCPUs.
    pub(crate) fn counted(&self, vm: u64, key: &str) -> u64 {
        self.transcript()
            .umbra("count")
            .filter(|r| r.number("vm") == Some(vm))
            .filter_map(|r| r.number(key))
            .sum()
    }
}

type Expect = fn(&Seen<'_>) -> Result<(), String>;

/// What is typed: when a guest's console has said the first of a pair, the second is typed.
type Script = &'static [(&'static str, &'static str)];

/// One boot.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The test's name.
    pub(crate) name: &'static str,
    guests: Vec<Guest>,
    tool: Option<tool::Tool>,
    host: Option<(&'static str, &'static str)>,
    host_vcpus: u32,
    features: &'static [&'static str],
    cpu: &'static str,
    smp: Option<u32>,
    memory: Option<u64>,
    icount: bool,
    own: bool,
    seconds: u64,
    script: Script,
    answer: Option<(&'static str, &'static str)>,
    until: Option<&'static str>,
    parks: Option<&'static str>,
    extra: &'static [&'static str],
    tree_at: Option<u64>,
    ratio: Option<ratio::Ratio>,
    figure: Option<fn(&Seen<'_>) -> Option<String>>,
    expect: Expect,
}

#[allow(dead_code, reason = "the table of tests decides which of these it needs")]
impl Case {
    /// A test of one guest on a machine that has just what it needs.
    pub(crate) fn new(name: &'static str, guest: Guest) -> Self {
        Self {
            name,
            guests: vec![guest],
            tool: None,
            host: None,
            host_vcpus: 1,
            features: &[],
            cpu: "cortex-a72",
            smp: None,
            memory: None,
            icount: false,
            own: true,
            seconds: 60,
            script: &[],
            answer: None,
            until: None,
            parks: None,
            extra: &[],
            tree_at: None,
            ratio: None,
            figure: None,
            expect: |seen| seen.all_passed(),
        }
    }
    /// A test of `cargo xtask qemu`.
    fn of_the_tool(name: &'static str, tool: tool::Tool) -> Self {
        let mut case = Self::new(name, Guest::new("hello", ""));
        case.guests.clear();
        case.tool = Some(tool);
        case
    }
    /// Adds another guest.
    pub(crate) fn and(mut self, guest: Guest) -> Self {
        self.guests.push(guest);
        self
    }
    /// Runs the program `bin` with `bootargs` in the host partition. Guests that forward get `host` without it.
    pub(crate) fn host(mut self, bin: &'static str, bootargs: &'static str) -> Self {
        self.host = Some((bin, bootargs));
        self
    }
    /// Gives the host partition so many vCPUs.
    pub(crate) fn host_vcpus(mut self, vcpus: u32) -> Self {
        self.host_vcpus = vcpus;
        self
    }
    /// Runs Umbra built with these features.
    pub(crate) fn features(mut self, features: &'static [&'static str]) -> Self {
        self.features = features;
        self
    }
    /// Emulates this CPU.
    pub(crate) fn cpu(mut self, cpu: &'static str) -> Self {
        self.cpu = cpu;
        self
    }
    /// Gives the machine this many pCPUs.
    pub(crate) fn smp(mut self, smp: u32) -> Self {
        self.smp = Some(smp);
        self
    }
    /// Gives the machine this many MiB.
    pub(crate) fn memory_mib(mut self, mib: u64) -> Self {
        self.memory = Some(mib << 20);
        self
    }
    /// Counts instructions.
    pub(crate) fn icount(mut self) -> Self {
        self.icount = true;
        self
    }
    /// Runs as images that are not ours do: without semihosting, in a sandbox.
    pub(crate) fn foreign(mut self) -> Self {
        self.own = false;
        self
    }
    /// Types: when a guest's console has said the first of a pair, the second.
    pub(crate) fn types(mut self, script: Script) -> Self {
        self.script = script;
        self
    }
    /// Types the second when Umbra itself has said a line with the first.
    pub(crate) fn answers(mut self, said: &'static str, keys: &'static str) -> Self {
        self.answer = Some((said, keys));
        self
    }
    /// Ends the run well when a guest's console has said this, for guests that never end by themselves.
    pub(crate) fn until(mut self, text: &'static str) -> Self {
        self.until = Some(text);
        self
    }
    /// Runs on a machine that these arguments of QEMU change, on which Umbra must say `why` and park.
    pub(crate) fn parks(mut self, extra: &'static [&'static str], why: &'static str) -> Self {
        (self.extra, self.parks) = (extra, Some(why));
        self.expect(|seen| {
            seen.umbra_says(&["Parked."])?;
            if seen.run.ending == Ending::Enough {
                Ok(())
            } else {
                Err(format!("the run ended otherwise: {:?}", seen.run.ending))
            }
        })
    }
    /// Has QEMU say on its standard error ([`Run::stderr`]) what it does of `events`.
    pub(crate) fn traces(mut self, events: &'static [&'static str]) -> Self {
        self.extra = events;
        self
    }
    /// Has the device tree lie at this address, as a boot loader may put it anywhere.
    pub(crate) fn tree_at(mut self, address: u64) -> Self {
        self.tree_at = Some(address);
        self
    }
    /// Boots the guest without Umbra too, and compares.
    pub(crate) fn ratio(mut self, ratio: ratio::Ratio) -> Self {
        self.ratio = Some(ratio);
        self
    }
    /// Ends the run after this many seconds.
    pub(crate) fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }
    /// Shows this figure when the test has passed.
    pub(crate) fn figure(mut self, figure: fn(&Seen<'_>) -> Option<String>) -> Self {
        self.figure = Some(figure);
        self
    }
    /// Says what must be true afterwards, instead of [`Seen::all_passed`].
    pub(crate) fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }
}

/// Every test on the machine with guests of our own, in the order in which they run.
pub(crate) fn all() -> Vec<Case> {
    let mut all = cases::all();
    all.extend(matrix::all());
    all
}

/// Every test with guests that others wrote.
pub(crate) fn foreign() -> Vec<Case> {
    linux::all()
}

/// Where Umbra lies when a [loader](loader_of) starts it: away from where QEMU puts that.
const UMBRA_AT: u64 = 0x4080_0000;

/// A boot loader as an arm64 `Image`: it starts what lies at `umbra` with the device tree at `tree`.
fn loader_of(umbra: u64, tree: u64) -> Vec<u8> {
    const HEADER: usize = 64;
    let load = |register: u32, value: u64| {
        let part = move |n: u32| (value >> (16 * n) & 0xFFFF) as u32;
        // MOVZ, and a MOVK for each other half-word.
        (0..4).map(move |n| if n == 0 { 0xD280_0000 } else { 0xF280_0000 } | n << 21 | part(n) << 5 | register)
    };
    let mut image = vec![0; HEADER];
    image[..4].copy_from_slice(&(0x1400_0000 | (HEADER as u32 / 4)).to_le_bytes());
    image[16..24].copy_from_slice(&4096_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    let br_x4 = 0xD61F_0080;
    image.extend(load(0, tree).chain(load(4, umbra)).chain([br_x4]).flat_map(u32::to_le_bytes));
    image
}

/// Types a test's script, and sees when there is enough.
struct Typist {
    script: Script,
    answer: Option<(&'static str, &'static str)>,
    until: Option<&'static str>,
    parks: Option<&'static str>,
    input: Option<Box<dyn Write>>,
    /// What each channel said last, since the last key was typed.
    tails: BTreeMap<u8, String>,
    enough: bool,
}

impl Typist {
    fn new(case: &Case) -> Self {
        Self {
            script: case.script,
            answer: case.answer,
            until: case.until,
            parks: case.parks,
            input: None,
            tails: BTreeMap::new(),
            enough: false,
        }
    }

    fn keys(&mut self, keys: &str) {
        if let Some(input) = &mut self.input {
            // A machine that has ended reads no more; the run's end tells.
            let _ = input.write_all(keys.as_bytes()).and_then(|()| input.flush());
        }
    }

    /// What was waited for in vain.
    fn unheard(&self) -> Option<&'static str> {
        let (waits, said) = (self.script.first(), self.answer.as_ref());
        waits.or(said).map(|(wait, _)| *wait)
    }
}

/// Types in a thread of its own: who reads the consoles must not wait until the machine has taken what is typed.
struct Keyboard(mpsc::Sender<Vec<u8>>);

impl Keyboard {
    fn new(mut input: ChildStdin) -> Self {
        let (sender, typed) = mpsc::channel::<Vec<u8>>();
        // Ends with the machine, which then reads no more, or with the test.
        std::thread::spawn(move || {
            typed
                .iter()
                .try_for_each(|keys| input.write_all(&keys).and_then(|()| input.flush()))
        });
        Self(sender)
    }
}

impl Write for Keyboard {
    fn write(&mut self, keys: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.send(keys.to_vec());
        sent.map(|()| keys.len()).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Watch for Typist {
    fn begin(&mut self, input: ChildStdin) {
        self.input = Some(Box::new(Keyboard::new(input)));
    }

    fn byte(&mut self, channel: u8, byte: u8) {
        if channel <= HOST || (self.script.is_empty() && self.until.is_none()) {
            return;
        }
        let tail = self.tails.entry(channel).or_default();
        tail.push(char::from(byte));
        // Enough to find any of the script's words at its end.
        if tail.len() > 4096 {
            tail.drain(..tail.len() - 1024);
        }
        self.enough |= self.until.is_some_and(|text| tail.ends_with(text));
        if let Some(((wait, keys), rest)) = self.script.split_first()
            && tail.ends_with(wait)
        {
            self.script = rest;
            self.tails.clear();
            self.keys(keys);
        }
    }

    fn line(&mut self, line: &Line) {
        if let Some((_, keys)) = self.answer.take_if(|(said, _)| line.channel == 0 && line.text.contains(*said)) {
            self.keys(keys);
        }
        self.enough |= line.channel == 0 && self.parks.is_some_and(|why| line.text.contains(why));
    }

    fn enough(&self) -> bool {
        self.enough
    }
}

/// What the tests share: QEMU, and what has been built.
pub(crate) struct Bench {
    qemu: PathBuf,
    /// Programs of the guest package, once a test has needed one.
    programs: Option<BTreeMap<String, PathBuf>>,
    hyps: BTreeMap<&'static [&'static str], build::Hyp>,
}

/// A test that has run.
pub(crate) struct Done {
    /// Why it failed, if it did.
    pub(crate) result: Result<(), String>,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Figures to show.
    pub(crate) figures: Option<String>,
}

impl Bench {
    /// Nothing is built before a test needs it.
    pub(crate) fn new(qemu: &Path) -> Self {
        Self {
            qemu: qemu.to_path_buf(),
            programs: None,
            hyps: BTreeMap::new(),
        }
    }

    /// Umbra built with `features`.
    pub(crate) fn hyp(&mut self, features: &'static [&'static str]) -> Result<build::Hyp> {
        if let Some(hyp) = self.hyps.get(features) {
            return Ok(hyp.clone());
        }
        let hyp = build::hyp(features, Profile::Release, true)?;
        self.hyps.insert(features, hyp.clone());
        Ok(hyp)
    }

    fn program(&mut self, name: &str) -> Result<PathBuf> {
        if name == DOCUMENTED {
            return documented::build();
        }
        let programs = match &mut self.programs {
            Some(programs) => programs,
            none => none.insert(build::guests(Profile::Release, true)?),
        };
        let found = programs.get(name).cloned();
        found.with_context(|| format!("the guest package has no program named {name}"))
    }

    fn vm(&mut self, guest: &Guest, folder: &Path) -> Result<Vm> {
        match guest.program {
            Program::Own(bin) => {
                let mut vm = own_vm(guest.name, guest.vcpus, &self.program(bin)?, folder)?;
                vm.bootargs = guest.bootargs.to_owned();
                Ok(vm)
            }
            Program::Debian(which) => {
                let wish = guests::Wish {
                    vcpus: Some(guest.vcpus),
                    ram: guest.ram.map(|(_, size)| size),
                    bootargs: guest.bootargs,
                    ..guests::Wish::default()
                };
                let mut vm = which.vm(&wish, folder)?;
                vm.name = guest.name.to_owned();
                Ok(vm)
            }
        }
    }

    /// Runs one test. Its log goes to `log`, its files to `folder`.
    pub(crate) fn run(&mut self, case: &Case, folder: &Path, log: &Path) -> Result<Done> {
        if let Some(tool) = &case.tool {
            return tool::run(self, case, tool, folder, log);
        }
        let mut vms = Vec::new();
        for guest in &case.guests {
            let mut vm = self.vm(guest, folder)?;
            if guest.flat {
                // The same bytes, but found by their own header.
                let bin = vm.image.module.file.clone();
                vm.image = crate::vmfile::load_image(&bin, None, None, vm.ram, folder, guest.name).map_err(|e| e.called(str::to_owned))?;
            }
            if let Some((base, size)) = guest.ram {
                vm.ram = Range::new(base, size).context("RAM that wraps")?;
            }
            if guest.initrd_mib != 0 {
                let path = folder.join(format!("{}.initrd", guest.name));
                std::fs::File::create(&path)?.set_len(guest.initrd_mib << 20)?;
                vm.initrd = Some(crate::vmfile::module(&path).map_err(|e| anyhow::anyhow!("{e}"))?);
            }
            if let (Some(initrd), 1..) = (&mut vm.initrd, guest.blob) {
                *initrd = linux::with_blob(&initrd.file, guest.blob)?;
            }
            vm.pcpus = guest.pcpus.to_vec();
            vm.devices = guest.devices.iter().map(|path| (*path).to_owned()).collect();
            vm.filter.clone_from(&guest.filter);
            vm.strict = guest.strict;
            vm.on_pending = guest.on_pending;
            vm.forward_deadline_ms = guest.deadline_ms.unwrap_or(vm.forward_deadline_ms);
            vms.push(vm);
        }
        let host = case.host.or_else(|| vms.iter().any(Vm::forwards).then_some(("host", "")));
        if let Some((bin, bootargs)) = host {
            let mut vm = host_vm(&self.program(bin)?, folder)?;
            vm.bootargs = bootargs.to_owned();
            vm.vcpus = case.host_vcpus;
            vms.push(vm);
        }
        let machine = Machine {
            cpu: case.cpu.to_owned(),
            smp: 0,
            memory: 0,
            icount: case.icount,
            extra: case.extra.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        let mut plan = Plan::new(vms, machine, case.smp, case.memory, case.own)?;
        for guest in &case.guests {
            if let (Some(spoil), Some(vm)) = (guest.spoil, plan.vms.iter_mut().find(|vm| vm.name == guest.name)) {
                spoil(vm);
            }
        }
        let hyp = self.hyp(case.features)?;
        let mut ready = prepare(plan, &self.qemu, &hyp.bin, folder)?;
        if let Some(address) = case.tree_at {
            let loader = folder.join("loader.Image");
            std::fs::write(&loader, loader_of(UMBRA_AT, address))?;
            ready.put_elsewhere(&loader, UMBRA_AT, address);
        }
        let image = std::fs::metadata(&hyp.bin)?.len();
        let limit = Some(Duration::from_secs(case.seconds));
        let mut typist = Typist::new(case);
        let run = qemu::run(&self.qemu, &ready.args, log, limit, &mut typist)?;
        let verdict = crate::run::verdict_of(&run, &ready.plan);
        let seen = Seen {
            run: &run,
            verdict: &verdict,
            plan: &ready.plan,
            image,
        };
        let mut result = (case.expect)(&seen);
        if result.is_ok()
            && let Some(wait) = typist.unheard()
        {
            result = Err(format!("nobody ever said {wait:?}"));
        }
        let mut figures = case.figure.filter(|_| result.is_ok()).and_then(|figure| figure(&seen));
        if result.is_ok()
            && let Some(ratio) = &case.ratio
        {
            let without = ratio::without_umbra(&self.qemu, &ready.plan, folder, limit)?;
            match ratio.compare(&run, &without) {
                Ok((text, good)) => {
                    result = if good { Ok(()) } else { Err(text.clone()) };
                    figures = Some(format!("{text}\n{}", ratio::counts(&run.transcript)));
                }
                Err(reason) => result = Err(reason),
            }
        }
        note(log, &shell(&self.qemu, &ready.args), &run, &verdict, &result)?;
        let result = if qemu::interrupted() {
            Err("interrupted".to_owned())
        } else {
            result
        };
        Ok(Done {
            result,
            seconds: run.elapsed.as_secs_f64(),
            figures,
        })
    }
}

/// Adds to a test's log what is not on the console.
fn note(log: &Path, command: &str, run: &Run, verdict: &Verdict, result: &Result<(), String>) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(log)?;
    writeln!(file, "\n---- {command}")?;
    writeln!(
        file,
        "---- QEMU: {:?} after {:.1} s; verdict {} ({})",
        run.ending,
        run.elapsed.as_secs_f64(),
        verdict.status,
        verdict.reason
    )?;
    if !run.stderr.is_empty() {
        writeln!(file, "---- QEMU's standard error:\n{}", run.stderr.trim_end())?;
    }
    writeln!(file, "---- {}", result.as_ref().err().map_or("passed", String::as_str))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_typed_step_by_step_and_only_guests_are_listened_to() {
        let case = Case::new("x", Guest::new("hello", ""))
            .types(&[("# ", "one\r"), ("# ", "two\r")])
            .until("done");
        let typed = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        struct To(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);
        impl Write for To {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.borrow_mut().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut typist = Typist::new(&case);
        typist.input = Some(Box::new(To(std::rc::Rc::clone(&typed))));
        let mut say = |channel: u8, text: &str| {
            text.bytes().for_each(|b| typist.byte(channel, b));
            (typed.borrow().len(), typist.enough())
        };
        assert_eq!(say(0, "# done"), (0, false), "Umbra's own words");
        assert_eq!(say(2, "#"), (0, false));
        assert_eq!(say(3, " "), (0, false), "another guest's words");
        assert_eq!(say(2, " "), (4, false));
        assert_eq!(say(3, "# "), (8, false));
        assert_eq!(say(2, "# done"), (8, true));
        assert_eq!(typed.borrow().as_slice(), b"one\rtwo\r");
    }

    #[test]
    fn names_are_distinct_and_fit_for_a_file_name() {
        let mut names: Vec<_> = all().iter().chain(&foreign()).map(|c| c.name).collect();
        assert!(
            names.iter().all(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')),
            "{names:?}"
        );
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
