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
    /// Its name.
    pub(crate) name: &'static str,
    /// What the bench guest measures: `set=`.
    set: &'static str,
    vcpus: u32,
    pcpus: &'static [u32],
    strict: bool,
    filter: fn() -> Vec<FilterEntry>,
    host: bool,
}

const PLAIN: Scene = Scene {
    name: "one vCPU",
    set: "one",
    vcpus: 1,
    pcpus: &[],
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
    /// Every scene.
    pub(crate) fn all() -> Vec<Self> {
        vec![
            PLAIN,
            Self {
                name: "a filter with every range taken",
                set: "filtered",
                filter: full_filter,
                ..PLAIN
            },
            Self {
                name: "strict mode",
                set: "strict",
                strict: true,
                ..PLAIN
            },
            Self {
                name: "four vCPUs",
                set: "many",
                vcpus: 4,
                ..PLAIN
            },
            Self {
                name: "forwarded calls",
                set: "forwarded",
                vcpus: 4,
                filter: forwards,
                host: true,
                ..PLAIN
            },
            Self {
                name: "the host's reads",
                set: "reads",
                vcpus: 9,
                filter: forwards,
                host: true,
                ..PLAIN
            },
            Self {
                name: "a shared pCPU",
                set: "shared",
                vcpus: 2,
                pcpus: &[0, 0],
                ..PLAIN
            },
        ]
    }
}

/// What the scenes share.
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

    fn guest(&self, set: &str, vcpus: u32, folder: &Path) -> Result<Vm> {
        let mut vm = own_vm("bench", vcpus, self.program("bench")?, folder)?;
        vm.bootargs = format!("set={set} samples={}", self.samples);
        if !self.only.is_empty() {
            vm.bootargs += &format!(" ops={}", self.only.join(","));
        }
        Ok(vm)
    }

    /// The plan of a scene.
    fn plan(&self, scene: &Scene, folder: &Path) -> Result<Plan> {
        let mut vm = self.guest(scene.set, scene.vcpus, folder)?;
        vm.pcpus = scene.pcpus.to_vec();
        vm.strict = scene.strict;
        vm.filter = (scene.filter)();
        let mut vms = vec![vm];
        if scene.host {
            let mut host = host_vm(self.program("benchhost")?, folder)?;
            host.bootargs = format!("samples={}", self.samples);
            vms.push(host);
        }
        let mut plan = Plan::new(vms, machine(), None, None, true)?;
        plan.bootargs = "loglevel=1".to_owned();
        Ok(plan)
    }

    /// QEMU's arguments for a scene.
    pub(super) fn arguments(&self, scene: &Scene) -> Result<Vec<OsString>> {
        let folder = setup::output().join("bench");
        let plan = self.plan(scene, &folder)?;
        Ok(prepare(plan, self.qemu, &self.hyp.bin, &folder)?.args)
    }

    /// Boots a scene on Umbra.
    pub(crate) fn run(&self, scene: &Scene) -> Result<Figures> {
        let folder = setup::output().join("bench");
        let plan = self.plan(scene, &folder)?;
        let ready = prepare(plan, self.qemu, &self.hyp.bin, &folder)?;
        let log = folder.join(format!("{}.log", scene.set));
        let run = qemu::run(self.qemu, &ready.args, &log, Some(LIMIT), &mut Blind)?;
        let verdict = verdict_of(&run, &ready.plan);
        ensure!(
            verdict.status == 0,
            "the bench with {}: {} (console log: {})",
            scene.name,
            verdict.reason,
            setup::shown(&log)
        );
        Ok(figures(run.transcript.records.iter().filter(|r| r.source != Source::Umbra)))
    }

    /// Boots the bench guest at EL1, without Umbra.
    pub(crate) fn bare(&self) -> Result<Figures> {
        let folder = setup::output().join("bench");
        let mut vm = self.guest("bare", 4, &folder)?;
        vm.pcpus = vec![0, 1, 2, 3];
        let plan = Plan::new(vec![vm], machine(), None, None, true)?;
        let run = without_umbra(self.qemu, &plan, &folder, Some(LIMIT))?;
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
