//! The machines and VMs that the operations are measured on.

use crate::build::Hyp;
use crate::console::{Record, Source};
use crate::machine::without_umbra;
use crate::plan::{Machine, Plan};
use crate::qemu::{self, Blind, Run};
use crate::run::{forward_cpu_on, forward_oem, host_vm, own_vm, prepare, verdict_of};
use crate::setup;
use crate::vmfile::{FilterEntry, Vm};
use anyhow::{Context, Result, ensure};
use hyp_core::filter::Action;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was measured of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    /// How many samples.
    pub(crate) n: u64,
    /// The least.
    pub(crate) min: u64,
    /// The one in the middle.
    pub(crate) median: u64,
    /// The most.
    pub(crate) max: u64,
}

/// Figures by the operations' names.
pub(crate) type Figures = BTreeMap<String, Figure>;

/// One boot.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// Its name in file names, and the set of operations that it is for.
    pub(crate) id: &'static str,
    /// What it is.
    pub(crate) name: &'static str,
    /// The operations' set ([`super::ops::Op::set`]).
    pub(crate) ops: &'static str,
    /// Whether it measures again, in a larger VM, what another scene measures.
    pub(crate) again: bool,
    program: &'static str,
    vcpus: u32,
    pcpus: &'static [u32],
    smp: Option<u32>,
    strict: bool,
    filter: fn() -> Vec<FilterEntry>,
    host: bool,
}

const PLAIN: Scene = Scene {
    id: "one",
    name: "one vCPU",
    ops: "one",
    again: false,
    program: "bench",
    vcpus: 1,
    pcpus: &[],
    smp: None,
    strict: false,
    filter: Vec::new,
    host: false,
};

/// A filter with as many ranges as there can be; the call that nobody answers is in none of them.
fn full_filter() -> Vec<FilterEntry> {
    let deny = |base, count| FilterEntry {
        base,
        count,
        action: Action::Deny,
    };
    let mut filter = vec![deny(0xC300_0031, 1)];
    filter.extend((1..hyp_core::filter::MAX_RANGES as u32).map(|i| deny(0xC400_1000 + i * 0x100, 1 + i)));
    filter
}

/// What the host partition answers.
fn forwards() -> Vec<FilterEntry> {
    let mut filter = forward_cpu_on();
    filter.push(forward_oem());
    filter
}

impl Scene {
    /// The program whose marks a trace looks for, and the pCPU that it runs on: the host partition has the first.
    pub(crate) fn marked(&self) -> (&'static str, u32) {
        match (self.id, self.host) {
            ("reads", _) => ("benchhost", 0),
            (_, true) => (self.program, 1),
            (_, false) => (self.program, 0),
        }
    }

    /// Every scene.
    pub(crate) fn all() -> Vec<Self> {
        vec![
            PLAIN,
            Self {
                id: "eight",
                name: "one vCPU of eight",
                ops: "one",
                again: true,
                vcpus: 8,
                ..PLAIN
            },
            Self {
                id: "filtered",
                name: "a filter with every range taken",
                ops: "filtered",
                filter: full_filter,
                ..PLAIN
            },
            Self {
                id: "strict",
                name: "strict mode",
                ops: "strict",
                strict: true,
                ..PLAIN
            },
            Self {
                id: "many",
                name: "four vCPUs",
                ops: "many",
                vcpus: 4,
                ..PLAIN
            },
            Self {
                id: "forwarded",
                name: "forwarded calls",
                ops: "forwarded",
                vcpus: 4,
                filter: forwards,
                host: true,
                ..PLAIN
            },
            Self {
                id: "reads",
                name: "the host's reads",
                ops: "reads",
                vcpus: 9,
                filter: forwards,
                host: true,
                ..PLAIN
            },
            Self {
                id: "shared",
                name: "a shared pCPU",
                ops: "shared",
                vcpus: 2,
                pcpus: &[0, 0],
                ..PLAIN
            },
            Self {
                id: "boot-1",
                name: "a boot on one pCPU",
                ops: "boot-1",
                program: "first",
                ..PLAIN
            },
            Self {
                id: "boot-4",
                name: "a boot on four pCPUs",
                ops: "boot-4",
                program: "first",
                smp: Some(4),
                ..PLAIN
            },
        ]
    }
}

/// What a scene found.
pub(crate) struct Done {
    /// The figures.
    pub(crate) figures: Figures,
    /// What Umbra says of its size, by its own words.
    pub(crate) sizes: BTreeMap<String, u64>,
}

/// What the scenes share.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    /// QEMU.
    pub(crate) qemu: &'a Path,
    /// Umbra's image.
    pub(crate) hyp: &'a Hyp,
    /// The EL1 programs.
    pub(crate) guests: &'a BTreeMap<String, PathBuf>,
    /// The operations that are asked for; all when empty.
    pub(crate) only: &'a [String],
    /// How often each is measured.
    pub(crate) samples: u32,
    /// Where its files go.
    pub(crate) folder: &'a Path,
}

/// How long a scene may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The channel of the first guest.
const FIRST_GUEST: u8 = 2;

impl Bench<'_> {
    /// A program of the guest package.
    pub(super) fn program(&self, name: &str) -> Result<&Path> {
        let found = self.guests.get(name).map(PathBuf::as_path);
        found.with_context(|| format!("the guest package has no program named {name}"))
    }

    fn guest(&self, program: &str, set: &str, vcpus: u32, folder: &Path) -> Result<Vm> {
        let mut vm = own_vm(program, vcpus, self.program(program)?, folder)?;
        vm.bootargs = format!("set={set} samples={}", self.samples);
        if !self.only.is_empty() {
            vm.bootargs += &format!(" ops={}", self.only.join(","));
        }
        Ok(vm)
    }

    /// The plan of a scene.
    fn plan(&self, scene: &Scene, folder: &Path) -> Result<Plan> {
        let mut vm = self.guest(scene.program, scene.ops, scene.vcpus, folder)?;
        vm.pcpus = scene.pcpus.to_vec();
        vm.strict = scene.strict;
        vm.filter = (scene.filter)();
        let mut vms = vec![vm];
        if scene.host {
            let mut host = host_vm(self.program("benchhost")?, folder)?;
            host.bootargs = format!("samples={}", self.samples);
            if scene.id == "reads" && !self.only.is_empty() {
                // `host-word-4`: what the host does, and how many vCPUs run meanwhile.
                let (kinds, running): (Vec<&str>, Vec<&str>) = self.only.iter().filter_map(|name| name.rsplit_once('-')).unzip();
                host.bootargs += &format!(" ops={}", kinds.join(","));
                if let [running] = running.as_slice() {
                    vms[0].bootargs += &format!(" running={running}");
                }
            }
            vms.push(host);
        }
        let mut plan = Plan::new(vms, machine(), scene.smp, None, true)?;
        // A boot is measured with a quiet console; the other scenes' logs show what was found.
        plan.bootargs = format!("loglevel={}", u8::from(scene.program != "first"));
        Ok(plan)
    }

    /// QEMU's arguments for a scene.
    pub(super) fn arguments(&self, scene: &Scene) -> Result<Vec<OsString>> {
        let plan = self.plan(scene, self.folder)?;
        Ok(prepare(plan, self.qemu, &self.hyp.bin, self.folder)?.args)
    }

    /// Boots a scene on Umbra.
    pub(crate) fn run(&self, scene: &Scene) -> Result<Done> {
        let plan = self.plan(scene, self.folder)?;
        let ready = prepare(plan, self.qemu, &self.hyp.bin, self.folder)?;
        let log = self.folder.join(format!("{}.log", scene.id));
        let run = qemu::run(self.qemu, &ready.args, &log, Some(LIMIT), &mut Blind)?;
        let verdict = verdict_of(&run, &ready.plan);
        ensure!(
            verdict.status == 0,
            "the bench with {}: {} (console log: {})",
            scene.name,
            verdict.reason,
            setup::shown(&log)
        );
        let mut figures = figures(run.transcript.records.iter().filter(|r| r.source != Source::Umbra));
        if let Some(boot) = figures.remove("boot") {
            figures.insert(scene.ops.to_owned(), boot);
        }
        let told = run.transcript.umbra("size").next();
        let numbers = told.into_iter().flat_map(Record::fields);
        let sizes = numbers.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)));
        Ok(Done {
            figures,
            sizes: sizes.collect(),
        })
    }

    /// Boots the bench guest at EL1, without Umbra.
    pub(crate) fn bare(&self) -> Result<Figures> {
        let mut vm = self.guest("bench", "bare", 4, self.folder)?;
        vm.pcpus = vec![0, 1, 2, 3];
        let plan = Plan::new(vec![vm], machine(), None, None, true)?;
        let run = without_umbra(self.qemu, &plan, self.folder, Some(LIMIT))?;
        Ok(figures(&bare_records(&run)))
    }
}

/// The records of a guest that is alone on the wire.
fn bare_records(run: &Run) -> Vec<Record> {
    let lines = run.transcript.lines(0).iter();
    lines.filter_map(|line| Record::parse(FIRST_GUEST, line)).collect()
}

fn machine() -> Machine {
    Machine {
        cpu: "cortex-a72".to_owned(),
        smp: 0,
        memory: 0,
        icount: true,
        extra: Vec::new(),
    }
}

fn figures<'a>(records: impl IntoIterator<Item = &'a Record>) -> Figures {
    let of = |record: &Record| {
        let figure = Figure {
            n: record.number("n")?,
            min: record.number("min")?,
            median: record.number("med")?,
            max: record.number("max")?,
        };
        let mut name = record.text("op")?.to_owned();
        if let Some(running) = record.number("running") {
            name += &format!("-{running}");
        }
        Some((name, figure))
    };
    records.into_iter().filter(|r| r.kind == "bench").filter_map(of).collect()
}
