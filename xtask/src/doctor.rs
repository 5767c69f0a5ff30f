//! `cargo xtask doctor`: what is missing on this machine, and how to get it.

use crate::fail;
use crate::setup::{self, GDB_PACKAGE, MIRI_COMMAND, OLDEST_QEMU, QEMU_PACKAGE};
use crate::ui::{Style, out, outln};
use anyhow::Result;

/// One thing that is looked for.
struct Finding {
    what: &'static str,
    needed_for: &'static str,
    /// What was found, or what to do.
    result: std::result::Result<String, String>,
    required: bool,
}

fn get_it(command: &str) -> String {
    format!("Get it with: {command}")
}

/// Looks at the machine and says what it found. The status is 2 when something required is missing.
pub(crate) fn command() -> Result<u8> {
    let system = setup::system();
    let found = |ok: bool, yes: &str, get: &str| if ok { Ok(yes.to_owned()) } else { Err(get_it(get)) };
    let pinned = "rustup toolchain install --no-self-update";
    let qemu = match setup::find("qemu-system-aarch64") {
        None => Err(get_it(&QEMU_PACKAGE.command(system))),
        Some(path) => match setup::inspect_qemu(&path) {
            Err(e) => Err(e.to_string()),
            Ok(qemu) if qemu.version < OLDEST_QEMU => Err(setup::too_old(&qemu)),
            Ok(qemu) => Ok(format!("{}.{} at {}", qemu.version.0, qemu.version.1, path.display())),
        },
    };
    let gdb = setup::find_gdb()
        .map(|p| p.display().to_string())
        .ok_or_else(|| get_it(&GDB_PACKAGE.command(system)));
    let rustc = setup::output_of("rustc", &["--version"]).ok_or_else(|| "Install rustup from https://rustup.rs".to_owned());
    let findings = [
        Finding {
            what: "Rust compiler",
            needed_for: "everything",
            result: rustc,
            required: true,
        },
        Finding {
            what: "Rust target",
            needed_for: "build, qemu, test",
            result: found(setup::has_target(), setup::TARGET, pinned),
            required: true,
        },
        Finding {
            what: "clippy",
            needed_for: "test",
            result: found(setup::has_component("cargo-clippy"), "there", pinned),
            required: false,
        },
        Finding {
            what: "rustfmt",
            needed_for: "test",
            result: found(setup::has_component("rustfmt"), "there", pinned),
            required: false,
        },
        Finding {
            what: "QEMU",
            needed_for: "qemu, test, gdb",
            result: qemu,
            required: true,
        },
        Finding {
            what: "miri",
            needed_for: "test (suite miri)",
            result: found(setup::has_miri(), "with nightly", MIRI_COMMAND),
            required: false,
        },
        Finding {
            what: "gdb",
            needed_for: "gdb",
            result: gdb,
            required: false,
        },
    ];
    let mut status = fail::OK;
    let mut missing = 0;
    for finding in &findings {
        let (mark, text) = match &finding.result {
            Ok(text) => (out(Style::Good, "ok     "), text.clone()),
            Err(what_to_do) => {
                missing += 1;
                if finding.required {
                    status = fail::USAGE;
                }
                (
                    out(if finding.required { Style::Bad } else { Style::Warn }, "missing"),
                    format!("for {}. {what_to_do}", finding.needed_for),
                )
            }
        };
        outln!("{mark}  {:<14} {text}", finding.what)?;
    }
    if missing == 0 {
        outln!("\nNothing is missing.")?;
    } else {
        outln!(
            "\n`cargo xtask qemu` and `cargo xtask test` get what they need by themselves, saying so first, unless --no-install is given."
        )?;
    }
    Ok(status)
}
