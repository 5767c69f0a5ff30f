//! `cargo xtask test`: every suite, one sum at the end.

mod corpus;
mod suites;

use crate::fail::{self, usage};
use crate::own::Own;
use crate::qemu;
use crate::setup;
use crate::ui::{self, Style, errln, out, outln};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// What can be asked of `test`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TestArgs {
    /// Run only the tests whose name contains this
    pub(crate) filter: Option<String>,
    /// Run only this suite (repeatable)
    #[arg(long, value_enum, value_name = "SUITE")]
    pub(crate) only: Vec<Suite>,
    /// List the tests and run none
    #[arg(long)]
    pub(crate) list: bool,
    /// Use this QEMU [default: qemu-system-aarch64 on PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// Install nothing: print the command that would, and stop with status 2
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// A kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Format, lints, documentation, and every unit and property test
    Host,
    /// Every interleaving of the lock-free parts with at most two preemptions
    Loom,
    /// The same code under an interpreter that finds undefined behaviour
    Miri,
    /// Board discovery on the device trees of Debian's arm64 kernel
    Corpus,
    /// No panic can be reached from the exception vectors, and no path is too deep for its stack
    PanicPath,
    /// Fresh boots under QEMU
    Machine,
    /// Boots of Debian's Linux and U-Boot under QEMU
    Linux,
    /// What each operation costs, in instructions, against its budget
    Bench,
}

impl Suite {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// One test's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Its name within the suite.
    pub(crate) name: String,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
    /// Where to read more.
    pub(crate) log: PathBuf,
}

/// What suites share.
pub(crate) struct Context<'a> {
    /// What the user asked for.
    pub(crate) args: &'a TestArgs,
    /// Where logs go.
    pub(crate) logs: PathBuf,
}

impl Context<'_> {
    /// Whether the filter takes a test of this name.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.args.filter.as_deref().is_none_or(|part| name.contains(part))
    }

    /// The log of a test or a suite.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

/// A suite's share of the summary.
struct Share {
    suite: Suite,
    passed: usize,
    failed: usize,
    seconds: f64,
}

/// `cargo xtask test`.
pub(crate) fn command(args: &TestArgs) -> Result<u8> {
    qemu::catch_interrupts();
    let own = Own::take(&setup::output(), "test")?;
    let context = Context {
        args,
        logs: own.folder.clone(),
    };
    let suites: Vec<Suite> = Suite::value_variants()
        .iter()
        .copied()
        .filter(|s| args.only.is_empty() || args.only.contains(s))
        .collect();
    setup::toolchain(args.no_install)?;
    let none = || {
        usage(format!(
            "no test has \"{}\" in its name; `cargo xtask test --list` names them all",
            args.filter.as_deref().unwrap_or("")
        ))
    };
    if args.list {
        let mut any = false;
        for suite in suites {
            for name in suites::list(suite, &context)? {
                any = true;
                outln!("{:<12} {name}", suite.name())?;
            }
        }
        return if any { Ok(fail::OK) } else { Err(none()) };
    }
    if args.qemu.is_some() {
        // A wrong one is told before anything runs.
        setup::qemu(args.qemu.as_deref(), args.no_install)?;
    }

    let mut shares: Vec<Share> = Vec::new();
    let mut failures: Vec<(Suite, Outcome)> = Vec::new();
    for suite in suites {
        let started = Instant::now();
        errln!("{}", ui::err(Style::Bold, &format!("suite {}", suite.name())));
        // What an earlier run left there is not this one's.
        let _ = std::fs::remove_file(context.log(&suite.name()));
        let mut outcomes = match suites::run(suite, &context) {
            Ok(outcomes) => outcomes,
            Err(error) if fail::status_of(&error) == fail::USAGE && args.no_install => return Err(error),
            Err(error) => vec![broken(suite, &context, &format!("{error:#}"))],
        };
        if qemu::interrupted() {
            // What failed may have failed because of that.
            let passed = shares.iter().map(|s| s.passed).sum::<usize>() + outcomes.iter().filter(|o| o.failure.is_none()).count();
            let failed = shares.iter().map(|s| s.failed).sum::<usize>();
            let so_far = summary(&shares, &failures);
            outln!("{so_far}{passed} passed, {failed} failed; interrupted in suite {}", suite.name())?;
            return Ok(fail::INTERRUPTED);
        }
        // A suite that ran nothing has tested nothing: only a name filter may leave it empty.
        if outcomes.is_empty() && args.filter.is_none() {
            outcomes.push(broken(suite, &context, "the suite ran no test"));
        }
        let failed: Vec<_> = outcomes.iter().filter(|o| o.failure.is_some()).cloned().collect();
        let share = Share {
            suite,
            passed: outcomes.len() - failed.len(),
            failed: failed.len(),
            seconds: started.elapsed().as_secs_f64(),
        };
        shares.push(share);
        failures.extend(failed.into_iter().map(|o| (suite, o)));
    }
    let passed: usize = shares.iter().map(|s| s.passed).sum();
    let failed: usize = shares.iter().map(|s| s.failed).sum();
    if passed + failed == 0 {
        return Err(none());
    }
    outln!("{}{passed} passed, {failed} failed", summary(&shares, &failures))?;
    Ok(if failed == 0 { fail::OK } else { fail::FAILED })
}

/// A suite that could not run, as a failed test of its name.
fn broken(suite: Suite, context: &Context<'_>, reason: &str) -> Outcome {
    let log = context.log(&suite.name());
    // After what the suite has said itself, if anything.
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&log);
    let _ = file.and_then(|mut file| writeln!(file, "{reason}"));
    Outcome {
        name: "suite".to_owned(),
        failure: Some(reason.to_owned()),
        log,
    }
}

fn summary(shares: &[Share], failures: &[(Suite, Outcome)]) -> String {
    let mut text = String::new();
    for (suite, outcome) in failures {
        let name = format!("{}::{}", suite.name(), outcome.name);
        let reason = outcome.failure.as_deref().unwrap_or("").lines().next().unwrap_or("").trim();
        let again = if outcome.name == "suite" {
            String::new()
        } else {
            format!(" {}", outcome.name)
        };
        let _ = writeln!(text, "\n{} {name}: {reason}", out(Style::Bad, "FAILED"));
        let _ = writeln!(text, "    log:   {}", setup::shown(&outcome.log));
        let _ = writeln!(text, "    again: cargo xtask test --only {}{again}", suite.name());
    }
    let _ = writeln!(
        text,
        "\n{}",
        out(
            Style::Bold,
            &format!("{:<12} {:>8} {:>8} {:>9}", "suite", "passed", "failed", "seconds")
        )
    );
    for share in shares {
        let line = format!(
            "{:<12} {:>8} {:>8} {:>9.1}",
            share.suite.name(),
            share.passed,
            share.failed,
            share.seconds
        );
        let _ = writeln!(text, "{}", if share.failed > 0 { out(Style::Bad, &line) } else { line });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_log_and_the_command_that_runs_it_again() {
        let outcome = Outcome {
            name: "boot-and-off".to_owned(),
            failure: Some("no verdict\nmore".to_owned()),
            log: "/x/boot-and-off.log".into(),
        };
        let share = Share {
            suite: Suite::Machine,
            passed: 1,
            failed: 1,
            seconds: 2.0,
        };
        let text = summary(&[share], &[(Suite::Machine, outcome)]);
        for part in [
            "machine::boot-and-off: no verdict\n",
            "/x/boot-and-off.log",
            "again: cargo xtask test --only machine boot-and-off",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
}
