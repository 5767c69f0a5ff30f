//! `cargo xtask bench`: what each operation costs, in instructions.

mod profile;
mod scene;

use crate::build::{self, Profile};
use crate::fail;
use crate::qemu;
use crate::setup;
use crate::ui::{self, Style, out};
use anyhow::Result;
use clap::Args;
use scene::{Figures, Scene};
use std::path::PathBuf;

/// What can be asked of `bench`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct BenchArgs {
    /// Measure only this operation (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// How often each operation is measured
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) samples: u32,
    /// Say where the instructions of this operation go, by function and by class
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Use this QEMU [default: qemu-system-aarch64 on PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// Install nothing: print the command that would, and stop with status 2
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// `cargo xtask bench`.
pub(crate) fn command(args: &BenchArgs) -> Result<u8> {
    qemu::catch_interrupts();
    let qemu = setup::qemu(args.qemu.as_deref(), args.no_install)?;
    setup::toolchain(args.no_install)?;
    let hyp = build::hyp(&[], Profile::Release, true)?;
    let guests = build::guests(Profile::Release, true)?;
    let only: Vec<String> = args.profile.iter().chain(&args.only).cloned().collect();
    let bench = scene::Bench {
        qemu: &qemu.path,
        hyp: &hyp,
        guests: &guests,
        only: &only,
        samples: if args.profile.is_some() { 16 } else { args.samples },
    };
    if let Some(name) = &args.profile {
        profile::profile(&bench, name)?;
        return Ok(fail::OK);
    }
    let mut figures = Figures::new();
    for scene in Scene::all() {
        ui::say("Measuring", scene.name);
        let t = std::time::Instant::now();
        figures.extend(bench.run(&scene)?);
        eprintln!("{:?}", t.elapsed());
        if qemu::interrupted() {
            return Ok(fail::INTERRUPTED);
        }
    }
    ui::say("Measuring", "the same without Umbra");
    let bare = bench.bare()?;
    println!(
        "{}",
        out(
            Style::Bold,
            &format!("{:<28} {:>8} {:>8} {:>8} {:>8}", "operation", "min", "median", "max", "bare")
        )
    );
    for (name, figure) in &figures {
        let floor = bare.get(name).map_or_else(|| "-".to_owned(), |f| ui::thousands(f.median));
        let [min, median, max] = [figure.min, figure.median, figure.max].map(ui::thousands);
        println!("{name:<28} {min:>8} {median:>8} {max:>8} {floor:>8}");
    }
    Ok(fail::OK)
}
