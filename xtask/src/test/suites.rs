//! The suites: how each is run, and how its results are read.

use super::{Context, Outcome, Suite, corpus};
use crate::bench;
use crate::build::{self, Profile};
use crate::callgraph;
use crate::machine::{self, Bench};
use crate::qemu;
use crate::setup::{self, TARGET};
use crate::ui::{self, Step, Style, errln};
use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Checks of the host suite that are one cargo command each.
const CHECKS: [(&str, &[&str]); 5] = [
    ("fmt", &["fmt", "--all", "--check"]),
    ("clippy-host", &["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]),
    (
        "clippy-hyp",
        &["clippy", "--quiet", "-p", "hyp", "--target", TARGET, "--", "-D", "warnings"],
    ),
    (
        "clippy-guest",
        &["clippy", "--quiet", "-p", "guest", "--target", TARGET, "--", "-D", "warnings"],
    ),
    ("doc", &["doc", "--quiet", "--no-deps", "-p", "hyp-abi", "-p", "hyp-core"]),
];

/// The image with a panic in its path, which the check must find.
const CANARY: &[&str] = &["panic-canary"];

/// Names the tests of a suite.
pub(super) fn list(suite: Suite, context: &Context<'_>) -> Result<Vec<String>> {
    let mut names = match suite {
        Suite::Host => {
            let mut names: Vec<String> = CHECKS.iter().map(|(name, _)| (*name).to_owned()).collect();
            names.extend(list_cargo(host_command())?);
            names
        }
        Suite::Loom => list_cargo(loom_command())?,
        Suite::Miri => list_cargo(miri_command(context)?)?,
        Suite::Corpus => list_cargo(corpus::command())?,
        Suite::PanicPath => vec!["release-image".to_owned(), "canary-is-caught".to_owned()],
        Suite::Machine => machine::all().iter().map(|case| case.name.to_owned()).collect(),
        Suite::Linux => machine::foreign().iter().map(|case| case.name.to_owned()).collect(),
        Suite::Bench => bench::suite_names(),
    };
    names.retain(|name| context.wants(name));
    Ok(names)
}

/// Runs a suite.
pub(super) fn run(suite: Suite, context: &Context<'_>) -> Result<Vec<Outcome>> {
    match suite {
        Suite::Host => {
            let mut outcomes = checks(context)?;
            outcomes.extend(run_cargo(host_command(), context, "host")?);
            Ok(outcomes)
        }
        Suite::Loom => run_cargo(loom_command(), context, "loom"),
        Suite::Miri => run_cargo(miri_command(context)?, context, "miri"),
        Suite::Corpus => corpus::run(context),
        Suite::PanicPath => panic_path(context),
        Suite::Machine => machines(machine::all(), context),
        Suite::Linux => machines(machine::foreign(), context),
        Suite::Bench => costs(context),
    }
}

fn show(name: &str, failure: Option<&str>, seconds: Option<f64>) {
    let mark = if failure.is_none() {
        ui::err(Style::Good, "ok    ")
    } else {
        ui::err(Style::Bad, "FAILED")
    };
    let time = seconds.map_or_else(String::new, |s| ui::err(Style::Dim, &format!("  {s:.1} s")));
    let reason = failure.map_or_else(String::new, |f| format!(": {}", f.lines().next().unwrap_or("")));
    errln!("  {mark} {name}{reason}{time}");
}

// ---- suites that are cargo's

fn host_command() -> Command {
    let mut command = setup::cargo();
    command.args(["test", "--no-fail-fast"]);
    command
}

fn loom_command() -> Command {
    let mut command = setup::cargo();
    command.args([
        "test",
        "--no-fail-fast",
        "--release",
        "-p",
        "hyp-core",
        "-p",
        "hyp-abi",
        "--test",
        "loom_*",
    ]);
    command
        .env("RUSTFLAGS", "--cfg loom")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("LOOM_MAX_PREEMPTIONS", "2")
        .env("CARGO_TARGET_DIR", setup::output().join("loom"));
    // The models need speed, not size: link-time optimisation would only cost time.
    command
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    command
}

fn miri_command(context: &Context<'_>) -> Result<Command> {
    setup::miri(context.args.no_install)?;
    let mut command = Command::new("rustup");
    command.args([
        "run",
        "nightly",
        "cargo",
        "miri",
        "test",
        "--no-fail-fast",
        "-p",
        "hyp-abi",
        "-p",
        "hyp-core",
        "--lib",
    ]);
    command.current_dir(setup::root()).stdin(Stdio::null());
    setup::clean_environment(&mut command);
    for name in ["RUSTC", "RUSTDOC", "CARGO", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command.env("CARGO_TARGET_DIR", setup::output().join("miri"));
    // Property tests write their seeds and read the clock; a few cases each are enough for an interpreter.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "4");
    Ok(command)
}

fn list_cargo(mut command: Command) -> Result<Vec<String>> {
    let output = command.args(["--", "--list"]).output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo ended with {}; it said:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Reads `test NAME ... ok` and its kin. Ignored tests are not counted.
fn parse_line(line: &str) -> Option<(String, bool)> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.trim_end_matches(" - should panic").to_owned();
    match result.split([' ', ',']).next() {
        Some("ok") => Some((name, true)),
        Some("FAILED") => Some((name, false)),
        _ => None,
    }
}

/// Runs `cargo test` and reads its results. Everything it says goes to the suite's log.
pub(super) fn run_cargo(mut command: Command, context: &Context<'_>, suite: &str) -> Result<Vec<Outcome>> {
    if let Some(filter) = &context.args.filter {
        command.arg(filter);
    }
    let path = context.log(suite);
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let step = Step::begin("Testing", suite);
    let mut child = qemu::Owned(
        command
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .context("cannot start cargo")?,
    );
    let mut log = log;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let (mut announced, mut summed) = (0usize, 0usize);
    let mut waiting: Option<String> = None;
    if let Some(stdout) = child.0.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            writeln!(log, "{line}").with_context(|| format!("cannot write {}", path.display()))?;
            // With one test thread the result can stand on a line after what the test printed.
            let parsed = parse_line(&line).or_else(|| match (line.trim(), waiting.take()) {
                ("ok", Some(name)) => Some((name, true)),
                ("FAILED", Some(name)) => Some((name, false)),
                (_, name) => {
                    waiting = line
                        .strip_prefix("test ")
                        .and_then(|l| l.split_once(" ... "))
                        .map(|(n, _)| n.to_owned())
                        .or(name);
                    None
                }
            });
            if let Some((name, ok)) = parsed {
                step.note(&format!("{suite}: {name}"));
                let failure = (!ok).then(|| "the test failed; its output is in the log".to_owned());
                outcomes.push(Outcome {
                    name,
                    failure,
                    log: path.clone(),
                });
            } else if let Some(rest) = line.strip_prefix("running ") {
                announced += rest.split(' ').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
            } else if line.starts_with("test result:") {
                summed += result_sum(&line);
            }
        }
    }
    let status = child.0.wait()?;
    drop(step);
    let failed = outcomes.iter().filter(|o| o.failure.is_some()).count();
    if (!status.success() && failed == 0) || summed != outcomes.len() {
        let reason = format!(
            "cargo ended with {status} after {} results of {announced} tests ({summed} summed up)",
            outcomes.len()
        );
        outcomes.push(Outcome {
            name: "suite".to_owned(),
            failure: Some(reason),
            log: path.clone(),
        });
    }
    for outcome in outcomes.iter().filter(|o| o.failure.is_some()) {
        show(&outcome.name, outcome.failure.as_deref(), None);
    }
    show(
        &format!("{suite}: {} tests", outcomes.len()),
        (failed > 0 || !status.success()).then_some("see above"),
        None,
    );
    Ok(outcomes)
}

/// Passed plus failed of a `test result:` line.
fn result_sum(line: &str) -> usize {
    let count = |word: &str| {
        let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
        words
            .windows(2)
            .find(|w| w[1] == word)
            .and_then(|w| w[0].parse::<usize>().ok())
            .unwrap_or(0)
    };
    count("passed") + count("failed")
}

fn checks(context: &Context<'_>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (name, args) in CHECKS.into_iter().filter(|(name, _)| context.wants(name)) {
        let path = context.log(name);
        let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let step = Step::begin("Checking", name);
        let mut command = setup::cargo();
        command.args(args).stdout(log.try_clone()?).stderr(log);
        if name == "doc" {
            command.env("RUSTDOCFLAGS", "-D warnings");
        }
        let status = command.status().context("cannot start cargo")?;
        drop(step);
        let failure = (!status.success()).then(|| format!("cargo {} ended with {status}", args.join(" ")));
        show(name, failure.as_deref(), None);
        outcomes.push(Outcome {
            name: name.to_owned(),
            failure,
            log: path,
        });
    }
    Ok(outcomes)
}

// ---- the panic path

fn panic_path(context: &Context<'_>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut add = |name: &str, run: &dyn Fn(&Path) -> Result<Option<String>>| -> Result<()> {
        if !context.wants(name) {
            return Ok(());
        }
        let log = context.log(&format!("panic-path-{name}"));
        let failure = match run(&log) {
            Ok(failure) => failure,
            Err(error) => {
                std::fs::write(&log, format!("{error:#}\n"))?;
                Some(format!("{error:#}"))
            }
        };
        show(name, failure.as_deref(), None);
        outcomes.push(Outcome {
            name: name.to_owned(),
            failure,
            log,
        });
        Ok(())
    };
    let look = |features: &[&str], log: &Path| -> Result<callgraph::Findings> {
        let hyp = build::hyp(features, Profile::Release, true)?;
        let findings = callgraph::check(&std::fs::read(&hyp.elf)?)?;
        std::fs::write(
            log,
            format!(
                "{} functions are reachable from the lower-EL vectors\n{}\n",
                findings.reached,
                findings.problems.join("\n")
            ),
        )?;
        Ok(findings)
    };
    add("release-image", &|log| {
        let findings = look(&[], log)?;
        Ok(findings
            .problems
            .first()
            .map(|first| format!("{} problems, the first: {first}", findings.problems.len())))
    })?;
    add("canary-is-caught", &|log| {
        let caught = look(CANARY, log)?.problems.iter().any(|p| p.starts_with(callgraph::PANIC));
        Ok((!caught).then(|| "the image with an index in the trap path passed the check".to_owned()))
    })?;
    add("stacks-are-deep-enough", &|log| {
        let hyp = build::hyp(&[], Profile::Release, true)?;
        let stacks = callgraph::stacks::stacks(&std::fs::read(&hyp.elf)?)?;
        let lines = stacks.each_ref().map(|stack| {
            let callgraph::stacks::Stack { name, size, taken, path } = stack;
            format!("{name}: {taken} of {size} bytes: {path}\n")
        });
        std::fs::write(log, lines.concat())?;
        let narrow = stacks.iter().find(|stack| stack.taken > stack.size);
        Ok(narrow.map(|stack| {
            format!(
                "{} has {} bytes, and {} are taken: {}",
                stack.name, stack.size, stack.taken, stack.path
            )
        }))
    })?;
    Ok(outcomes)
}

// ---- the machine

fn machines(cases: Vec<machine::Case>, context: &Context<'_>) -> Result<Vec<Outcome>> {
    let cases: Vec<_> = cases.into_iter().filter(|case| context.wants(case.name)).collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let qemu = setup::qemu(context.args.qemu.as_deref(), context.args.no_install)?;
    let mut bench = Bench::new(&qemu.path);
    let mut outcomes = Vec::new();
    for case in &cases {
        let log = context.log(case.name);
        let step = Step::begin("Booting", case.name);
        let done = bench.run(case, &context.logs.join(case.name), &log);
        drop(step);
        if qemu::interrupted() {
            break;
        }
        let mut figures = None;
        let (failure, seconds) = match done {
            Ok(done) => {
                figures = done.figures;
                (done.result.err(), Some(done.seconds))
            }
            Err(error) => {
                std::fs::write(&log, format!("{error:#}\n"))?;
                (Some(format!("{error:#}")), None)
            }
        };
        show(case.name, failure.as_deref(), seconds);
        for line in figures.iter().flat_map(|f| f.lines()) {
            errln!("         {line}");
        }
        outcomes.push(Outcome {
            name: case.name.to_owned(),
            failure,
            log,
        });
    }
    Ok(outcomes)
}

// ---- what it costs

fn costs(context: &Context<'_>) -> Result<Vec<Outcome>> {
    if !bench::suite_names().iter().any(|name| context.wants(name)) {
        return Ok(Vec::new());
    }
    let qemu = setup::qemu(context.args.qemu.as_deref(), context.args.no_install)?;
    let log = context.log("bench");
    let mut outcomes = Vec::new();
    for (name, failure) in bench::suite(&qemu.path, &context.logs.join("bench"), &log)? {
        if context.wants(&name) {
            if failure.is_some() {
                show(&name, failure.as_deref(), None);
            }
            outcomes.push(Outcome {
                name,
                failure,
                log: log.clone(),
            });
        }
    }
    let failed = outcomes.iter().any(|o| o.failure.is_some());
    show(&format!("bench: {} figures", outcomes.len()), failed.then_some("see above"), None);
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_test_harness_are_read() {
        assert_eq!(parse_line("test a::b ... ok"), Some(("a::b".to_owned(), true)));
        assert_eq!(parse_line("test a::b ... FAILED"), Some(("a::b".to_owned(), false)));
        assert_eq!(parse_line("test a::b ... ignored, slow"), None);
        assert_eq!(parse_line("test a - should panic ... ok"), Some(("a".to_owned(), true)));
        assert_eq!(
            parse_line("test src/lib.rs - x (line 3) ... ok"),
            Some(("src/lib.rs - x (line 3)".to_owned(), true))
        );
        assert_eq!(parse_line("test result: ok. 3 passed; 0 failed; 0 ignored"), None);
        assert_eq!(
            result_sum("test result: FAILED. 30 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out"),
            32
        );
    }

    #[test]
    fn a_list_of_what_does_not_build_is_an_error() {
        let sh = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            list_cargo(command)
        };
        assert_eq!(sh("echo a::b: test; echo Compiling >&2").expect("a list"), ["a::b"]);
        let error = sh("echo a::b: test; echo error: no >&2; exit 101").expect_err("not built");
        assert!(error.to_string().contains("error: no"), "{error}");
    }

    #[test]
    fn a_suite_whose_program_fails_to_build_is_a_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = super::super::TestArgs::default();
        let context = Context {
            args: &args,
            logs: folder.path().to_path_buf(),
        };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo error: no; exit 101"]);
        let outcomes = run_cargo(command, &context, "x").expect("read");
        assert_eq!(outcomes.len(), 1);
        assert!(outcomes[0].failure.is_some());
    }

    #[test]
    fn a_result_that_was_lost_on_the_way_is_a_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = super::super::TestArgs::default();
        let context = Context {
            args: &args,
            logs: folder.path().to_path_buf(),
        };
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "echo 'running 2 tests'; echo 'test a ... ok'; echo 'test result: ok. 2 passed; 0 failed'",
        ]);
        let outcomes = run_cargo(command, &context, "x").expect("read");
        assert!(outcomes.iter().any(|o| o.name == "suite" && o.failure.is_some()), "{outcomes:?}");
    }
}
