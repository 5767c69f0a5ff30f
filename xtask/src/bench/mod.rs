//! `cargo xtask bench`: what each operation costs, in instructions.
//!
//! [`scene`] boots what is measured, [`ops`] lists the operations, [`report`] makes the table of their figures,
//! [`budget`] compares them with the budgets in the repository, [`plot`] draws them, and [`profile`] says where the
//! instructions of one operation go.

mod budget;
mod ops;
mod plot;
mod profile;
mod report;
mod scene;

use crate::build::{self, Hyp, Profile};
use crate::fail::{self, usage};
use crate::own::Own;
use crate::qemu;
use crate::setup;
use crate::ui::{self, Step, Style, errln, outln};
use anyhow::{Context, Result};
use budget::Budgets;
use clap::Args;
use report::Report;
use scene::{Bench, Figures, Scene};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Samples of each operation, unless the user says otherwise.
const SAMPLES: u32 = 256;

/// What can be asked of `bench`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct BenchArgs {
    /// Measure only this operation (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// How often each operation is measured
    #[arg(long, value_name = "N", default_value_t = SAMPLES, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) samples: u32,
    /// Print everything as JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Fail when a median or a size exceeds its budget in xtask/bench-budgets.toml
    #[arg(long)]
    pub(crate) check: bool,
    /// Lower the budgets to what was measured, and add those that are missing; none is raised
    #[arg(long, conflicts_with = "check")]
    pub(crate) lower_budgets: bool,
    /// Say where the instructions of this operation go, by function and by class
    #[arg(long, value_name = "NAME", conflicts_with_all = ["only", "json", "check", "lower_budgets"])]
    pub(crate) profile: Option<String>,
    /// Use this QEMU [default: qemu-system-aarch64 on PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// Install nothing: print the command that would, and stop with status 2
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// What `--help` says after the options.
pub(crate) const HELP: &str = "\
The machine is QEMU's under its instruction clock: one thread runs all pCPUs, and one tick is one
instruction. A guest reads the counter before and after each operation; figures are net of that
pair, and repeat to the instruction. The same guest measures what it can on the bare machine, too.
What --json prints is described in docs/reports.md.
The plot is target/umbra/bench.svg (bench-2.svg and so on for benches at the same time).

--profile has QEMU log every instruction (-singlestep -d exec,nochain) and looks each up in Umbra's
ELF; no plugin is needed. The whole sequence goes to target/umbra/bench-trace.txt.

  cargo xtask bench --only null-hvc --only sgi-self
  cargo xtask bench --check                the table, and status 1 above a budget
  cargo xtask bench --profile null-hvc     by function and by class of instruction";

/// Fails on a name that is no operation's, and lists those that are.
fn known(names: &[String]) -> Result<()> {
    let all: Vec<String> = ops::all().into_iter().map(|op| op.name).collect();
    match names.iter().find(|name| !all.contains(name)) {
        None => Ok(()),
        Some(name) => Err(usage(format!(
            "no operation is named \"{name}\"; there are:\n  {}",
            all.join("\n  ")
        ))),
    }
}

/// Measures everything, or only some, and puts it together.
fn measure(bench: &Bench<'_>) -> Result<Option<Report>> {
    let Bench { hyp, only, samples, .. } = *bench;
    let ops: Vec<ops::Op> = ops::all()
        .into_iter()
        .filter(|op| only.is_empty() || only.contains(&op.name))
        .collect();
    let wanted = |set: &str| ops.iter().any(|op| op.set == set);
    let mut figures = Figures::new();
    let mut eight = Figures::new();
    let mut told = Vec::new();
    for scene in Scene::all().into_iter().filter(|scene| wanted(scene.ops)) {
        let step = Step::begin("Measuring", scene.name);
        let done = bench.run(&scene)?;
        drop(step);
        if qemu::interrupted() {
            return Ok(None);
        }
        if scene.again {
            eight.extend(done.figures);
        } else {
            figures.extend(done.figures);
        }
        told.push((scene.id, done.sizes));
    }
    let bare = if wanted("one") || wanted("many") {
        let _step = Step::begin("Measuring", "the same without Umbra");
        bench.bare()?
    } else {
        Figures::new()
    };
    let sizes = if only.is_empty() { sizes(hyp, &told)? } else { Vec::new() };
    Ok(Some(Report::new(ops, &figures, &eight, &bare, &sizes, samples)))
}

/// The sizes, from the image and from what Umbra says of itself in the scenes.
fn sizes(hyp: &Hyp, told: &[(&str, BTreeMap<String, u64>)]) -> Result<Vec<(&'static str, u64)>> {
    let of = |id: &str, key: &str| {
        let found = told.iter().find(|(scene, _)| *scene == id).and_then(|(_, sizes)| sizes.get(key));
        found.copied().with_context(|| format!("Umbra does not say its size `{key}`"))
    };
    let (fixed, per_pcpu) = (of("one", "static")?, of("one", "percpu")?);
    // One vCPU more on the same pCPU.
    let contexts = |scene| Ok::<_, anyhow::Error>(of(scene, "vms_used")? + of(scene, "heap_used")?);
    let per_vcpu = contexts("shared")?.saturating_sub(contexts("one")?);
    Ok(vec![
        ("size-image", std::fs::metadata(&hyp.bin)?.len()),
        ("size-text", of("one", "text")?),
        ("size-static", fixed + per_pcpu),
        ("size-per-pcpu", per_pcpu),
        ("size-per-vcpu", per_vcpu),
    ])
}

/// `cargo xtask bench`.
pub(crate) fn command(args: &BenchArgs) -> Result<u8> {
    qemu::catch_interrupts();
    known(&args.only)?;
    known(args.profile.as_slice())?;
    // A file that cannot be read is told before anything is measured.
    let budgets = args.check.then(Budgets::read).transpose()?;
    let qemu = setup::qemu(args.qemu.as_deref(), args.no_install)?;
    setup::toolchain(args.no_install)?;
    let hyp = build::hyp(&[], Profile::Release, true)?;
    let guests = build::guests(Profile::Release, true)?;
    let own = Own::take(&setup::output(), "bench")?;
    let bench = Bench {
        qemu: &qemu.path,
        hyp: &hyp,
        guests: &guests,
        only: &args.only,
        samples: args.samples,
        folder: &own.folder,
    };
    if let Some(name) = &args.profile {
        outln!("{}", profile::profile(&bench, name, &own.file("bench-trace", "txt"))?)?;
        return Ok(fail::OK);
    }
    let Some(report) = measure(&bench)? else {
        return Ok(fail::INTERRUPTED);
    };
    if args.lower_budgets {
        let changed = Budgets::lower(&report.figures())?;
        ui::say("Lowered", &format!("{changed} budgets"));
    }
    let budgets = budgets.or_else(|| Budgets::read().ok());
    let checked = budgets
        .as_ref()
        .filter(|_| args.check)
        .map(|budgets| report.check(budgets, args.only.is_empty()));
    if args.json {
        let json = report.json(budgets.as_ref(), checked.as_deref());
        outln!("{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        outln!("{}", report.table())?;
    }
    let plot = own.file("bench", "svg");
    std::fs::write(&plot, plot::svg(&report.rows)).with_context(|| format!("cannot write {}", plot.display()))?;
    errln!("The plot is {}", setup::shown(&plot));
    let mut status = fail::OK;
    for checked in checked.into_iter().flatten() {
        if let Some(hint) = checked.hint {
            errln!("{} {hint}", ui::err(Style::Warn, "below "));
        }
        if let Some(failure) = checked.failure {
            errln!("{} {failure}", ui::err(Style::Bad, "FAILED"));
            status = fail::FAILED;
        }
    }
    Ok(status)
}

/// The names of the suite `bench`: each operation and size against its budget, and the rules.
pub(crate) fn suite_names() -> Vec<String> {
    let ops = ops::all().into_iter().map(|op| op.name);
    let sizes = report::SIZES.iter().map(|(name, ..)| (*name).to_owned());
    ops.chain(sizes).chain([COMPARISONS, BY_CONSTRUCTION].map(str::to_owned)).collect()
}

/// The test of what holds between figures.
const COMPARISONS: &str = "comparisons";
/// The test of what an exit's way may contain.
const BY_CONSTRUCTION: &str = "exit-path-by-construction";

/// Runs the suite `bench`; the table goes to `log`, files to `folder`.
pub(crate) fn suite(qemu: &Path, folder: &Path, log: &Path) -> Result<Vec<(String, Option<String>)>> {
    let hyp = build::hyp(&[], Profile::Release, true)?;
    let guests = build::guests(Profile::Release, true)?;
    let bench = Bench {
        qemu,
        hyp: &hyp,
        guests: &guests,
        only: &[],
        samples: SAMPLES,
        folder,
    };
    let report = measure(&bench)?.context("interrupted")?;
    let checked = report.check(&Budgets::read()?, true);
    let counted = profile::by_construction(&bench)?;
    std::fs::write(log, format!("{}\n\n{}\n", report.table(), counted.text))?;
    let mut results: Vec<(String, Option<String>)> = Vec::new();
    let mut between = Vec::new();
    let names = suite_names();
    for one in checked {
        if names.contains(&one.name) {
            results.push((one.name, one.failure));
        } else {
            between.extend(one.failure);
        }
    }
    results.push((COMPARISONS.to_owned(), (!between.is_empty()).then(|| between.join("; "))));
    let broken = counted.broken;
    results.push((BY_CONSTRUCTION.to_owned(), (!broken.is_empty()).then(|| broken.join("; "))));
    Ok(results)
}
