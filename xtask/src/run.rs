//! `cargo xtask qemu`: from what the user asked for to QEMU's end and the verdict.

use crate::RunArgs;
use crate::build::{self, Hyp, Profile};
use crate::fail::{self, usage};
use crate::forwarded::Summary;
use crate::guests::{self, Guest, Wish};
use crate::own::Own;
use crate::plan::{self, Machine, Plan, shell};
use crate::qemu::{self, Run};
use crate::report::{About, Report};
use crate::screen::Screen;
use crate::setup;
use crate::terminal::{self, Console};
use crate::tree::Tree;
use crate::ui::{self, Style, errln, outln};
use crate::verdict::{self, Ending, Verdict};
use crate::vmfile::{self, Dtb, FilterEntry, Image, Vm};
use anyhow::{Context, Result};
use hyp_abi::{layout, psci};
use hyp_core::filter::Action;
use hyp_core::types::Range;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// RAM of the host partition, and of our own guests unless more or less is asked for.
const OWN_RAM: u64 = 32 << 20;
/// Size of the device tree that QEMU writes, most of it room to grow.
const DUMPED_TREE: usize = 1 << 20;
/// How long a run may take when nobody is there to end it.
const DEADLINE: u64 = 120;

/// A VM that runs an image of our own.
pub(crate) fn own_vm(name: &str, vcpus: u32, elf: &Path, scratch: &Path) -> Result<Vm> {
    let image = own_image(name, name, elf, scratch)?;
    Ok(bare_vm(&format!("our own {name}"), name, vcpus, own_ram()?, image))
}

fn own_ram() -> Result<Range> {
    Range::new(layout::RAM_BASE, OWN_RAM).context("RAM that wraps")
}

/// The image of the VM `name`; `asked` is how the user asked for it.
fn own_image(name: &str, asked: &str, file: &Path, scratch: &Path) -> Result<Image> {
    vmfile::load_image(file, None, None, own_ram()?, scratch, name).map_err(|e| e.called(|_| asked.to_owned()))
}

/// A VM that runs `image` and has the defaults for all else.
pub(crate) fn bare_vm(origin: &str, name: &str, vcpus: u32, ram: Range, image: Image) -> Vm {
    Vm {
        origin: origin.to_owned(),
        name: name.to_owned(),
        host: false,
        vcpus,
        pcpus: Vec::new(),
        ram,
        bootargs: String::new(),
        initrd: None,
        dtb: Dtb::AboveImage,
        strict: false,
        on_pending: true,
        forward_deadline_ms: vmfile::DEFAULT_FORWARD_DEADLINE_MS,
        filter: Vec::new(),
        image,
        devices: Vec::new(),
    }
}

/// The host partition, running `image`.
pub(crate) fn host_vm(image: &Path, scratch: &Path) -> Result<Vm> {
    let image = own_image("host", "--host", image, scratch)?;
    Ok(Vm {
        host: true,
        ..bare_vm("--host", "host", 1, own_ram()?, image)
    })
}

/// Filter entries that forward `CPU_ON` in both widths.
pub(crate) fn forward_cpu_on() -> Vec<FilterEntry> {
    [psci::CPU_ON_32, psci::CPU_ON_64]
        .map(|base| FilterEntry {
            base,
            count: 1,
            action: Action::Forward,
        })
        .to_vec()
}

/// The filter entry that forwards the calls which our guests and our host programs make up between them: SMCCC fast
/// calls, SMC64, owner 3 (OEM).
pub(crate) const fn forward_oem() -> FilterEntry {
    FilterEntry {
        base: 0xC300_0000,
        count: 0x100,
        action: Action::Forward,
    }
}

/// A run, ready for QEMU.
pub(crate) struct Ready {
    /// The checked plan.
    pub(crate) plan: Plan,
    /// QEMU's arguments.
    pub(crate) args: Vec<OsString>,
}

impl Ready {
    /// Has QEMU start `loader`, with Umbra at `umbra` and the device tree at `tree`.
    pub(crate) fn put_elsewhere(&mut self, loader: &Path, umbra: u64, tree: u64) {
        let mut more = Vec::new();
        for (option, at) in [("-kernel", umbra), ("-dtb", tree)] {
            if let Some(n) = self.args.iter().position(|arg| arg == option)
                && let Some(file) = self.args.get_mut(n + 1)
            {
                more.extend(plan::load(Path::new(file), at));
                if option == "-kernel" {
                    *file = loader.into();
                }
            }
        }
        self.args.extend(more);
    }
}

/// Asks QEMU for the machine's device tree, adds the VMs to it, and returns QEMU's arguments. Files go to `folder`.
pub(crate) fn prepare(plan: Plan, qemu: &Path, kernel: &Path, folder: &Path) -> Result<Ready> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let own_tree = folder.join("machine.dtb");
    let _ = std::fs::remove_file(&own_tree);
    let mut dump = std::process::Command::new(qemu);
    dump.args(plan.machine.dump_args(&own_tree))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = qemu::Owned(dump.spawn().with_context(|| format!("cannot start {}", qemu.display()))?);
    let ended = qemu::wait(&mut child.0, Duration::from_secs(30))?;
    let mut complaint = String::new();
    if ended.is_some()
        && let Some(mut stderr) = child.0.stderr.take()
    {
        let _ = std::io::Read::read_to_string(&mut stderr, &mut complaint);
    }
    drop(child);
    let Ok(bytes) = std::fs::read(&own_tree) else {
        // QEMU has to write it, all of it: where that cannot be, the machine is not to blame.
        std::fs::write(&own_tree, vec![0; DUMPED_TREE]).with_context(|| format!("cannot write {}", own_tree.display()))?;
        let complaint = complaint.lines().next().unwrap_or("it said nothing");
        return Err(usage(format!(
            "QEMU refused the machine (--cpu {}, --smp {}, --machine-memory {}M): {complaint}",
            plan.machine.cpu,
            plan.machine.smp,
            plan.machine.memory >> 20
        )));
    };
    let tree = Tree::parse(&bytes).context("the device tree that QEMU wrote")?;
    plan.check_devices(&bytes)?;
    let merged = folder.join("umbra.dtb");
    std::fs::write(&merged, plan.describe(&tree).flatten()?).with_context(|| format!("cannot write {}", merged.display()))?;
    let args = plan.qemu_args(kernel, &merged);
    Ok(Ready { plan, args })
}

/// What a request comes to before QEMU runs.
pub(crate) struct Request {
    /// The run.
    pub(crate) ready: Ready,
    /// Umbra's image.
    pub(crate) hyp: Hyp,
    /// QEMU.
    pub(crate) qemu: PathBuf,
    /// Whether it is the demo, whose numbers are shown and checked.
    pub(crate) demo: bool,
}

/// Sets up, checks, builds and prepares what `args` ask for.
pub(crate) fn request(args: &RunArgs, folder: &Path) -> Result<Request> {
    // Mistakes in VM files and options are told before anything is installed or built.
    let demo = args.is_demo();
    let demo_ram = args.memory.filter(|_| demo).map(guests::ram).transpose()?;
    if args.memory.is_some() && !demo && args.guest.is_none() {
        return Err(usage(
            "--memory is for --guest and for the demo: a VM file says its own RAM (size in [ram]), --machine-memory is the machine's",
        ));
    }
    let mut vms = args.vm.iter().map(|path| vmfile::read(path, folder)).collect::<Result<Vec<_>>>()?;
    if let Some(guest) = args.guest {
        vms.insert(0, foreign_vm(guest, args, folder)?);
    }
    for warning in vms
        .iter()
        .flat_map(|vm| vm.one_width_warnings().into_iter().chain(vm.device_warning()))
    {
        ui::warn(&warning);
    }
    if let Some(host) = &args.host {
        if demo {
            ui::warn("the demo's guest asks for what only the demo's own host knows: --vm or --guest gives this one another guest");
        }
        vms.push(host_vm(host, folder)?);
    }
    let machine = Machine {
        cpu: args.cpu.clone(),
        smp: 0,
        memory: 0,
        icount: args.icount,
        extra: args.extra.clone(),
    };
    let forwards = vms.iter().any(Vm::forwards);
    if !demo && (!forwards || args.host.is_some()) {
        // All is known already: check the whole before the long steps.
        Plan::new(vms.clone(), machine.clone(), args.smp, args.machine_memory, false)?;
    }

    let qemu = setup::qemu(args.qemu.as_deref(), args.no_install)?;
    setup::toolchain(args.no_install)?;
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    let hyp = build::hyp(&[], profile, false)?;
    let mut own = args.host.is_none();
    if demo || (forwards && args.host.is_none()) {
        let guests = build::guests(profile, false)?;
        let program = |name: &str| {
            guests
                .get(name)
                .with_context(|| format!("the guest package has no program named {name}"))
        };
        if demo {
            let mut vm = own_vm("demo", 4, program("demo")?, folder)?;
            if let Some(ram) = demo_ram {
                vm.ram = ram;
                vmfile::check_room(&vm).map_err(|e| usage(format!("--memory: {e}")))?;
            }
            vm.filter = forward_cpu_on();
            vm.filter.push(forward_oem());
            vms.push(vm);
        }
        if args.host.is_none() {
            vms.push(host_vm(program("host")?, folder)?);
        }
    }
    own &= demo;
    let plan = Plan::new(vms, machine, args.smp, args.machine_memory, own)?;
    let ready = prepare(plan, &qemu.path, &hyp.bin, folder)?;
    Ok(Request {
        ready,
        hyp,
        qemu: qemu.path,
        demo: demo && own,
    })
}

/// The VM that `--guest` and its options describe.
fn foreign_vm(guest: Guest, args: &RunArgs, folder: &Path) -> Result<Vm> {
    let wish = Wish {
        kernel: args.kernel.as_deref(),
        initrd: args.initrd.as_deref(),
        vcpus: args.vcpus,
        ram: args.memory,
        bootargs: args.bootargs.as_deref().unwrap_or(""),
    };
    // What to forward is checked before anything is fetched.
    let filter = guests::forward(&args.forward)?;
    let mut vm = guest.vm(&wish, folder)?;
    vm.filter = filter;
    Ok(vm)
}

/// The deadline of a run: what the user says, else none when somebody is there to end it.
fn deadline(args: &RunArgs) -> Option<Duration> {
    let interactive = !args.is_demo() && terminal::is_there();
    match args.timeout {
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None if interactive => None,
        None => Some(Duration::from_secs(DEADLINE)),
    }
}

/// Judges a finished run.
pub(crate) fn verdict_of(run: &Run, plan: &Plan) -> Verdict {
    verdict::judge(&run.transcript, &plan.nonce, plan.guests(), run.ending, plan.own)
}

/// `cargo xtask qemu`.
pub(crate) fn command(args: &RunArgs) -> Result<u8> {
    qemu::catch_interrupts();
    let own = Own::take(&setup::results(args.out.as_deref())?, "run")?;
    let request = request(args, &own.folder)?;
    let plan = &request.ready.plan;
    if args.dry_run {
        outln!("{}", shell(&request.qemu, &request.ready.args))?;
        return Ok(fail::OK);
    }
    let log = &own.file("console", "log");
    let figures = own.file("report", "json");
    if request.demo {
        // Whatever comes of this run, the last one's are not its figures.
        let _ = std::fs::remove_file(&figures);
    }
    let limit = deadline(args);
    let what = if request.demo { "the demo" } else { "the VMs" };
    let keyboard = !request.demo && terminal::is_there();
    let limit_text = match (limit, keyboard) {
        (Some(limit), _) => format!("{} s at most", limit.as_secs()),
        (None, true) => "Ctrl-A x ends it".to_owned(),
        (None, false) => "Ctrl-C ends it".to_owned(),
    };
    ui::say(
        "Running",
        &format!("{what} on {} pCPUs of {} ({limit_text})", plan.machine.smp, plan.machine.cpu),
    );

    let guests: BTreeMap<u8, String> = plan
        .vms
        .iter()
        .enumerate()
        .filter(|(_, vm)| !vm.host)
        .map(|(i, vm)| (plan.channel_of(i), vm.name.clone()))
        .collect();
    let screen = Screen::new(std::io::stdout(), std::io::stderr(), guests, plan.own, args.verbose);
    let mut console = Console::new(screen, !request.demo);
    let run = qemu::run(&request.qemu, &request.ready.args, log, limit, &mut console)?;
    // The terminal is the user's again before the summary is written.
    drop(console);
    for line in run.stderr.lines() {
        errln!("{} {line}", ui::err(Style::Dim, "qemu| "));
    }

    if run.ending == Ending::Enough {
        errln!("{} by Ctrl-A x (console log: {})", ui::err(Style::Bold, "ended"), setup::shown(log));
        return Ok(fail::OK);
    }

    let mut verdict = verdict_of(&run, plan);
    if request.demo {
        report(&request, &run, args, &mut verdict, &figures)?;
    } else if !args.forward.is_empty()
        && let Some(summary) = Summary::of(&run.transcript, args.icount)
    {
        outln!("\n{}\n", summary.text())?;
        let misses = summary.misses();
        if verdict.status == fail::OK && !misses.is_empty() {
            verdict = Verdict {
                status: fail::FAILED,
                reason: format!("rules missed: {}", misses.join(", ")),
            };
        }
    }
    let (style, word) = if verdict.status == fail::OK {
        (Style::Good, "passed")
    } else {
        (Style::Bad, "FAILED")
    };
    errln!("{} {} (console log: {})", ui::err(style, word), verdict.reason, setup::shown(log));
    Ok(verdict.status)
}

/// Shows the table of a demo that has ended by itself, writes its report, and lets a missed rule fail the run.
fn report(request: &Request, run: &Run, args: &RunArgs, verdict: &mut Verdict, file: &Path) -> Result<()> {
    let plan = &request.ready.plan;
    let about = About {
        icount: args.icount,
        seconds: run.elapsed.as_secs_f64(),
        image: std::fs::metadata(&request.hyp.bin)?.len(),
        cpu: &plan.machine.cpu,
        smp: plan.machine.smp,
    };
    let report = Report::new(&run.transcript, &about);
    let misses = report.misses();
    if verdict.status == fail::OK && !misses.is_empty() {
        *verdict = Verdict {
            status: fail::FAILED,
            reason: format!("rules missed: {}", misses.join(", ")),
        };
    }
    let text = serde_json::to_string_pretty(&report.json(verdict.status, &verdict.reason))?;
    std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    if matches!(run.ending, Ending::Exited(_) | Ending::Lingered) {
        outln!("\n{}\n", report.table())?;
    }
    errln!("Every figure is in {}", setup::shown(file));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_guests_and_the_machines_follows() {
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = folder.path().join("k.bin");
        std::fs::write(&kernel, [0u8; 4096]).expect("written");
        let args = RunArgs {
            guest: Some(Guest::Linux),
            kernel: Some(kernel.clone()),
            initrd: Some(kernel),
            memory: Some(3 << 30),
            ..RunArgs::default()
        };
        let vm = foreign_vm(Guest::Linux, &args, folder.path()).expect("a VM");
        assert_eq!(vm.ram.size(), 3 << 30);
        let machine = Machine {
            cpu: "cortex-a72".to_owned(),
            smp: 0,
            memory: 0,
            icount: false,
            extra: Vec::new(),
        };
        let planned = |asked| Plan::new(vec![vm.clone()], machine.clone(), None, asked, false);
        assert_eq!(planned(None).expect("a plan").machine.memory, 4 << 30);
        let little = planned(Some(2 << 30)).expect_err("too little").to_string();
        assert!(
            little.starts_with("--machine-memory: 2 GiB cannot hold") && little.contains("4 GiB is enough"),
            "{little}"
        );
    }

    #[test]
    fn a_vm_file_says_its_own_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = RunArgs {
            vm: vec![folder.path().join("my.toml")],
            memory: Some(1 << 30),
            ..RunArgs::default()
        };
        let Err(error) = request(&args, folder.path()) else {
            panic!("accepted")
        };
        let message = error.to_string();
        assert!(message.contains("[ram]") && message.contains("--machine-memory"), "{message}");
    }
}
