//! Umbra's developer tool: set-up, build, run, test, debug. `cargo xtask` lists the commands.
//!
//! Each command is one module: [`run`] (`qemu`), [`test`], [`bench`], [`build`] (`build`, `image`, `clean`), [`doctor`], [`gdb`]. A
//! run goes through [`vmfile`] (what the user wants), [`plan`] (checked as a whole, placed in memory), [`tree`] (told to
//! Umbra in the machine's device tree), [`qemu`] (the process), [`console`] (its words, taken apart), and [`verdict`]
//! and [`report`] (what it came to).
#![forbid(unsafe_code)]
// They panic when nobody reads any longer: `outln` and `errln` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod build;
mod callgraph;
mod console;
mod cpio;
mod doctor;
mod fail;
mod fetch;
mod flatten;
mod forwarded;
mod gdb;
mod guests;
mod machine;
mod own;
mod plan;
mod qemu;
mod report;
mod run;
mod screen;
mod setup;
mod terminal;
mod test;
mod tree;
mod ui;
mod verdict;
mod vmfile;

use crate::guests::Guest;
use crate::ui::{errln, outln};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Umbra's developer tool.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about = "Builds, runs, tests and debugs the Umbra hypervisor.", after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Start here:
  cargo xtask qemu                     set up what is missing, build, run the demo, show its numbers
  cargo xtask test                     run every test
  cargo xtask doctor                   see what this machine lacks

More:
  cargo xtask qemu --vm my.toml        run a VM of your own instead of the demo
  cargo xtask qemu --guest linux       boot Debian's Linux on four vCPUs, to a shell
  cargo xtask qemu --icount            the demo's numbers in instructions, the same every time
  cargo xtask bench                    what each operation costs, in instructions
  cargo xtask test --only machine psci run the machine tests whose names contain \"psci\"
  cargo xtask gdb                      the demo under gdb, from its first instruction

Exit status:
  0 all is well, or you ended the run: Ctrl-A x, or q in the monitor
  1 a VM crashed or was refused, numbers disagree, a test or a build failed
  2 wrong usage, a wrong VM file, or a missing tool     3 not ended in time     130 Ctrl-C";

#[derive(Subcommand)]
enum Command {
    /// Run the demo, or VMs of your own, on Umbra under QEMU
    #[command(after_help = QEMU_HELP)]
    Qemu(RunArgs),
    /// Run every test: host, loom, miri, corpus, panic-path, machine, linux and bench
    Test(test::TestArgs),
    /// Measure what each operation costs, in instructions, and compare it with its budget
    #[command(after_help = bench::HELP)]
    Bench(bench::BenchArgs),
    /// Build Umbra and its guests
    Build {
        /// Build without optimisation
        #[arg(long)]
        debug: bool,
        #[command(flatten)]
        install: Install,
    },
    /// Write Umbra as Image, .bin and ELF, and show how to boot them from U-Boot
    Image {
        /// Write to this folder [default: target/umbra]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        install: Install,
    },
    /// Remove what this tool has made: target/umbra and the AArch64 builds
    Clean {
        /// Remove the whole target folder
        #[arg(long)]
        all: bool,
    },
    /// Show what is missing on this machine and how to get it
    Doctor,
    /// Debug a run with gdb-multiarch, with symbols of Umbra and the guests
    #[command(mut_arg("timeout", |arg| arg.hide(true)), mut_arg("verbose", |arg| arg.hide(true)))]
    Gdb {
        #[command(flatten)]
        run: RunArgs,
        /// The port that QEMU's gdb stub listens on
        #[arg(long, default_value_t = 1234, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// Start no QEMU: attach to one that waits on the port already
        #[arg(long)]
        attach: bool,
    },
}

#[derive(Args, Clone, Copy)]
struct Install {
    /// Install nothing: print the command that would, and stop with status 2
    #[arg(long)]
    no_install: bool,
}

/// What can be asked of a run.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    /// Run the VM that this file describes instead of the demo (repeatable)
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) vm: Vec<PathBuf>,
    /// Run a guest that others wrote, with a terminal to type in; fetched from Debian once
    #[arg(long, value_enum, value_name = "GUEST")]
    pub(crate) guest: Option<Guest>,
    /// Boot this arm64 Image, or this U-Boot, in place of Debian's
    #[arg(long, value_name = "PATH", requires = "guest", help_heading = GUEST_OPTIONS)]
    pub(crate) kernel: Option<PathBuf>,
    /// Boot with this initramfs instead of the BusyBox one
    #[arg(long, value_name = "PATH", requires = "guest", help_heading = GUEST_OPTIONS)]
    pub(crate) initrd: Option<PathBuf>,
    /// How many vCPUs the guest has [default: 4 for linux, 1 for u-boot]
    #[arg(long, value_name = "N", requires = "guest", help_heading = GUEST_OPTIONS)]
    pub(crate) vcpus: Option<u32>,
    /// The guest's RAM, such as 512M or 4G; the demo's without --guest [default: 512M for linux, 128M for u-boot, 32M for the demo]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = GUEST_OPTIONS)]
    pub(crate) memory: Option<u64>,
    /// Add this to the guest's command line, which begins with console=ttyAMA0 for linux
    #[arg(long, value_name = "TEXT", requires = "guest", allow_hyphen_values = true, help_heading = GUEST_OPTIONS)]
    pub(crate) bootargs: Option<String>,
    /// Forward these PSCI calls to the host partition, such as cpu_on,cpu_off
    #[arg(long, value_name = "CALLS", value_delimiter = ',', requires = "guest", help_heading = GUEST_OPTIONS)]
    pub(crate) forward: Vec<String>,
    /// Run this image (ELF, arm64 Image or raw binary) as the host partition
    #[arg(long, value_name = "IMAGE")]
    pub(crate) host: Option<PathBuf>,
    /// The CPU to emulate: cortex-a53, cortex-a57, cortex-a72, neoverse-n1, max
    #[arg(long, default_value = "cortex-a72", value_parser = parse_cpu)]
    pub(crate) cpu: String,
    /// How many pCPUs [default: as many as the VMs need]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) smp: Option<u32>,
    /// The machine's RAM, for all VMs and Umbra [default: 1G, or more when the VMs need it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) machine_memory: Option<u64>,
    /// Count instructions: one thread, one tick an instruction, the same numbers every time
    #[arg(long)]
    pub(crate) icount: bool,
    /// Use this QEMU [default: qemu-system-aarch64 on PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// Keep the console log and the figures in this folder [default: target/umbra]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Do everything but run: print the QEMU command line
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// End the run after this long, with status 3; 0 for never [default: 120; never for --vm and --guest on a terminal]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Build without optimisation
    #[arg(long)]
    pub(crate) debug: bool,
    /// Install nothing: print the command that would, and stop with status 2
    #[arg(long)]
    pub(crate) no_install: bool,
    /// Show more: the records that the table is made of
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// More arguments for QEMU
    #[arg(last = true, value_name = "EXTRA QEMU ARGUMENTS")]
    pub(crate) extra: Vec<String>,
}

impl RunArgs {
    /// Whether nothing but the demo is asked for.
    pub(crate) fn is_demo(&self) -> bool {
        self.vm.is_empty() && self.guest.is_none()
    }
}

/// The heading of the options that go with `--guest`.
const GUEST_OPTIONS: &str = "With --guest";

const QEMU_HELP: &str = "\
A VM file needs a name and an image; the rest has defaults:
  name = \"guest\"
  vcpus = 4                         # 1
  pcpus = [1, 2, 3, 4]              # where each vCPU runs; the next free ones
  bootargs = \"console=ttyAMA0\"
  initrd = \"initramfs.cpio.gz\"      # paths are meant from this file
  dtb = \"above-image\"               # or \"none\", or an address
  strict = false                    # trap every ICC_CTLR_EL1 access
  on_pending = true                 # false: losers of a forwarded CPU_ON see ALREADY_ON, as under KVM
  forward_deadline_ms = 5000
  devices = [\"/pl031@9010000\"]      # devices of the machine, by device-tree path: none that do DMA
  smccc_filter = [                  # handle, deny or forward; a forward brings in the host partition
    { base = 0x84000003, count = 1, action = \"forward\" },
    { base = 0xC4000003, count = 1, action = \"forward\" },
  ]
  [ram]
  base = 0x40000000
  size = 0x10000000
  [image]
  path = \"Image\"                    # arm64 Image, ELF or raw binary
  # load = 0x40080000               # a raw binary's: where it goes; an Image says that itself
  # entry = 0x40080000              # and its first instruction

With --guest and with --vm, what you type goes to the guest, Ctrl-C too. Ctrl-] asks Umbra's monitor (h: help),
Ctrl-A x ends the run, Ctrl-A Ctrl-A types one.
VMs that share pCPUs: name the same pCPU in several lists of pcpus, or give a --smp smaller than the number of vCPUs.

Guests' consoles go to standard output as the guests wrote them (tagged by name when there are several);
Umbra's lines go to standard error, marked \"umbra|\". The whole console is kept in target/umbra/console.log
(console-2.log and so on for runs at the same time), the demo's figures in target/umbra/report.json (docs/reports.md);
--out DIR keeps them elsewhere.";

fn parse_cpu(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || !text.chars().all(fine) {
        return Err("not the name of a CPU".to_owned());
    }
    // QEMU's machine takes these two: they would execute Umbra as something else, and say nothing.
    if matches!(text, "cortex-a7" | "cortex-a15") {
        return Err("it has no AArch64 state, which Umbra is made for".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KIB" => 10,
        "" | "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        _ => return Err("write it as 512M or 4G".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "write it as 512M or 4G".to_owned())?;
    number
        .checked_shl(shift)
        .filter(|n| n >> shift == number && *n <= 1 << 40)
        .ok_or_else(|| "more than 1 TiB".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        None => {
            let help = Cli::command().render_help();
            let shown = if ui::stdout_colour() {
                outln!("{}", help.ansi())
            } else {
                outln!("{help}")
            };
            shown.map(|()| fail::OK)
        }
        Some(Command::Qemu(args)) => run::command(args),
        Some(Command::Test(args)) => test::command(args),
        Some(Command::Bench(args)) => bench::command(args),
        Some(Command::Build { debug, install }) => {
            let profile = if *debug { build::Profile::Debug } else { build::Profile::Release };
            build::command(profile, install.no_install).map(|()| fail::OK)
        }
        Some(Command::Image { out, install }) => build::image(out.as_deref(), install.no_install).map(|()| fail::OK),
        Some(Command::Clean { all }) => build::clean(*all).map(|()| fail::OK),
        Some(Command::Doctor) => doctor::command(),
        Some(Command::Gdb { run, port, attach }) => gdb::command(run, *port, *attach),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(_) if qemu::interrupted() => ExitCode::from(fail::INTERRUPTED),
        Err(error) => {
            errln!("{} {error:#}", ui::err(ui::Style::Bad, "error:"));
            ExitCode::from(fail::status_of(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        assert_eq!(parse_size("256"), Ok(256 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert!(parse_size("x").is_err() && parse_size("4T").is_err() && parse_size("99999999999G").is_err());
    }

    #[test]
    fn a_cpus_name_carries_no_options() {
        assert!(parse_cpu("cortex-a72").is_ok());
        assert!(parse_cpu("max,pauth=off").is_err() && parse_cpu("").is_err());
        assert!(parse_cpu("cortex-a15").is_err());
    }

    #[test]
    fn the_documented_options_exist() {
        let words = [
            "cargo xtask",
            "qemu",
            "--vm",
            "a.toml",
            "--vm",
            "b.toml",
            "--host",
            "h",
            "--cpu",
            "max",
            "--smp",
            "4",
            "--machine-memory",
            "2G",
        ];
        let more = [
            "--qemu",
            "q",
            "--dry-run",
            "--timeout",
            "5",
            "--icount",
            "--no-install",
            "--",
            "-d",
            "int",
        ];
        let Some(Command::Qemu(args)) = Cli::parse_from(words.iter().chain(&more)).command else {
            panic!("another command")
        };
        assert_eq!(
            (args.vm.len(), args.machine_memory, args.extra),
            (2, Some(2 << 30), vec!["-d".to_owned(), "int".to_owned()])
        );
        let words = ["cargo xtask", "qemu", "--guest", "linux", "--memory", "2G", "--vcpus", "2"];
        let more = ["--bootargs", "-x", "--kernel", "k", "--initrd", "i", "--forward", "cpu_on,cpu_off"];
        let Some(Command::Qemu(args)) = Cli::parse_from(words.iter().chain(&more)).command else {
            panic!("another command")
        };
        assert_eq!((args.memory, args.vcpus, args.forward.len()), (Some(2 << 30), Some(2), 2));
    }
}
