//! Tests of `cargo xtask qemu` itself: this very program is started as a user starts it, typed to, and its words and its
//! exit status are looked at.

use super::{Bench, Case, Done, Typist};
use crate::console::Line;
use crate::qemu::{self, Run, Watch};
use crate::verdict::Ending;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin};
use std::time::Duration;

/// What the tool is asked for, and what must come of it.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    args: &'static [&'static str],
    vms: Vec<(&'static str, &'static str)>,
    status: i32,
    says: &'static [&'static str],
    silent: &'static [&'static str],
}

impl Tool {
    /// `cargo xtask qemu` with these arguments, ending with status 0.
    pub(super) fn new(args: &'static [&'static str]) -> Self {
        Self {
            args,
            vms: Vec::new(),
            status: 0,
            says: &[],
            silent: &[],
        }
    }
    /// Adds `--vm` with a file that holds `text` and runs the program `bin` of the guest package.
    pub(super) fn vm(mut self, bin: &'static str, text: &'static str) -> Self {
        self.vms.push((bin, text));
        self
    }
    /// Each of these must be on standard output or standard error.
    pub(super) fn says(mut self, parts: &'static [&'static str]) -> Self {
        self.says = parts;
        self
    }
    /// None of these may be there.
    pub(super) fn never_says(mut self, parts: &'static [&'static str]) -> Self {
        self.silent = parts;
        self
    }

    fn check(&self, run: &Run, limit: Duration) -> Result<(), String> {
        match run.ending {
            Ending::Exited(Some(status)) if status == self.status => {}
            Ending::Exited(Some(status)) => return Err(format!("the tool's status is {status}, not {}", self.status)),
            Ending::Deadline(_) => return Err(format!("the tool did not end within {} s", limit.as_secs())),
            other => return Err(format!("the tool ended otherwise: {other:?}")),
        }
        let said = |part: &&&str| run.transcript.lines(0).iter().any(|line| line.contains(**part)) || run.stderr.contains(**part);
        if let Some(part) = self.says.iter().find(|part| !said(part)) {
            return Err(format!("the tool does not say {part:?}"));
        }
        match self.silent.iter().find(said) {
            Some(part) => Err(format!("the tool says {part:?}")),
            None => Ok(()),
        }
    }
}

/// How much longer than its run the tool may take: it may have to build, too.
const MORE: Duration = Duration::from_secs(120);

/// Runs a test of the tool.
pub(super) fn run(bench: &mut Bench, case: &Case, tool: &Tool, folder: &Path, log: &Path) -> Result<Done> {
    std::fs::create_dir_all(folder)?;
    let mut args: Vec<OsString> = ["qemu", "--timeout", &case.seconds.to_string(), "--qemu"]
        .map(OsString::from)
        .into();
    args.push(bench.qemu.clone().into());
    // The last run's console and figures are the user's.
    args.extend(["--out".into(), folder.into()]);
    for (at, (bin, text)) in tool.vms.iter().enumerate() {
        let file = folder.join(format!("{at}.toml"));
        let image = toml::Value::from(bench.program(bin)?.display().to_string());
        std::fs::write(&file, format!("{text}\n[image]\npath = {image}\n"))?;
        args.extend(["--vm".into(), file.into()]);
    }
    args.extend(tool.args.iter().map(OsString::from));
    let this = this_program()?;
    let limit = Duration::from_secs(case.seconds) + MORE;
    let mut reader = Reader(Typist::new(case));
    let run = qemu::run(&this, &args, log, Some(limit), &mut reader)?;
    let mut result = tool.check(&run, limit);
    if result.is_ok() && !folder.join("console.log").exists() {
        result = Err(format!("the console log is not in {}", folder.display()));
    }
    if result.is_ok()
        && let Some(wait) = reader.0.unheard()
    {
        result = Err(format!("nobody ever said {wait:?}"));
    }
    let mut file = std::fs::OpenOptions::new().append(true).open(log)?;
    writeln!(file, "\n---- {}", crate::plan::shell(&this, &args))?;
    writeln!(file, "---- {:?}; its standard error:\n{}", run.ending, run.stderr.trim_end())?;
    writeln!(file, "---- {}", result.as_ref().err().map_or("passed", String::as_str))?;
    Ok(Done {
        result,
        seconds: run.elapsed.as_secs_f64(),
        figures: None,
    })
}

/// Reads the tool's standard output as a person does: whatever is there is a guest's.
struct Reader(Typist);

impl Watch for Reader {
    fn begin(&mut self, input: ChildStdin) {
        self.0.begin(input);
    }
    fn byte(&mut self, _channel: u8, byte: u8) {
        self.0.byte(super::FIRST_GUEST, byte);
    }
    fn line(&mut self, _line: &Line) {}
    fn leave(&mut self, child: &mut Child) {
        // Asked, it ends its QEMU too; a failure is that it has ended.
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
        let _ = qemu::wait(child, Duration::from_secs(10));
    }
}

/// This program. The host suite builds it anew, with what its own tests need, and puts it in the place of the one that runs: Linux says
/// then that the one that runs was deleted.
fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("where this program is")?;
    let name = path.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
