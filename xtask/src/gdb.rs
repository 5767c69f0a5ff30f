//! `cargo xtask gdb`: a run that waits for a debugger, and the debugger with symbols of Umbra and the guest.

use crate::RunArgs;
use crate::fail::{self, usage};
use crate::own::Own;
use crate::plan::{KERNEL, shell};
use crate::qemu;
use crate::run::{self, Request};
use crate::setup;
use crate::ui::{self, outln};
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What gdb is told first: Umbra's symbols where QEMU loads it, the guests' where they are linked, and the connection.
fn gdb_args(request: &Request, port: u16) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["-q".into()];
    let mut tell = |command: String| args.extend(["-ex".into(), command.into()]);
    tell("set architecture aarch64".to_owned());
    tell("set confirm off".to_owned());
    tell(format!("add-symbol-file \"{}\" -o {KERNEL:#x}", request.hyp.elf.display()));
    for vm in &request.ready.plan.vms {
        let is_elf = std::fs::read(&vm.image.source).is_ok_and(|bytes| crate::flatten::is_elf(&bytes));
        if is_elf {
            tell(format!("add-symbol-file \"{}\"", vm.image.source.display()));
        }
    }
    tell(format!("target remote 127.0.0.1:{port}"));
    args
}

/// `cargo xtask gdb`.
pub(crate) fn command(args: &RunArgs, port: u16, attach: bool) -> Result<u8> {
    for (given, option) in [(args.timeout.is_some(), "--timeout"), (args.verbose, "--verbose")] {
        if given {
            return Err(usage(format!(
                "{option} is not for gdb: the run is the debugger's, until you leave it"
            )));
        }
    }
    if attach && !args.dry_run && !taken(port) {
        return Err(usage(format!(
            "nobody listens on port {port}: start a QEMU that does first, with the lines of `cargo xtask gdb --dry-run`, or leave --attach out"
        )));
    }
    if !attach && !args.dry_run && taken(port) {
        return Err(usage(format!(
            "port {port} is taken: choose another with --port, or debug what listens there with --attach"
        )));
    }
    let own = Own::take(&setup::results(args.out.as_deref())?, "gdb")?;
    let request = run::request(args, &own.folder)?;
    let mut qemu_args = request.ready.args.clone();
    qemu_args.extend(["-S", "-gdb"].map(OsString::from));
    qemu_args.push(format!("tcp:127.0.0.1:{port}").into());
    let gdb_args = gdb_args(&request, port);
    if args.dry_run {
        if !attach {
            outln!("{}", shell(&request.qemu, &qemu_args))?;
        }
        outln!("{}", shell(Path::new("gdb-multiarch"), &gdb_args))?;
        return Ok(fail::OK);
    }
    let gdb = setup::gdb(args.no_install)?;
    // Ctrl-C belongs to gdb, which stops the machine with it.
    qemu::catch_interrupts();
    let log = own.file("gdb-console", "log");
    let _qemu = if attach {
        None
    } else {
        Some(start(&request.qemu, &qemu_args, &log, port)?)
    };
    ui::say(
        "Debugging",
        &format!(
            "on port {port}; `hbreak NAME` then `continue`; the console goes to {}",
            setup::shown(&log)
        ),
    );
    let status = Command::new(&gdb)
        .args(&gdb_args)
        .status()
        .with_context(|| format!("cannot start {}", gdb.display()))?;
    Ok(if status.success() { fail::OK } else { fail::FAILED })
}

/// Starts QEMU stopped at its first instruction and waits until it listens.
fn start(qemu: &Path, args: &[OsString], log: &Path, port: u16) -> Result<qemu::Owned> {
    use std::os::unix::process::CommandExt;
    let console = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = console.try_clone()?;
    let mut command = Command::new(qemu);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(errors)
        .process_group(0);
    let mut child = qemu::Owned(command.spawn().with_context(|| format!("cannot start {}", qemu.display()))?);
    let until = Instant::now() + Duration::from_secs(10);
    // A connection that is closed at once would make QEMU's gdb stub resume nothing, but take its only seat: look at the
    // listening socket from outside where the system tells.
    loop {
        if let Some(status) = child.0.try_wait()? {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            anyhow::bail!("QEMU did not start ({status}): {}", text.trim());
        }
        if listens(port) {
            return Ok(child);
        }
        ensure!(Instant::now() < until, "QEMU does not listen on port {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether somebody has the port already. Nothing connects: QEMU's gdb stub has one seat.
fn taken(port: u16) -> bool {
    [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED]
        .iter()
        .any(|address| TcpListener::bind((*address, port)).is_err_and(|error| error.kind() == ErrorKind::AddrInUse))
}

fn listens(port: u16) -> bool {
    match std::fs::read_to_string("/proc/net/tcp") {
        Ok(table) => table.lines().skip(1).any(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let local = words.next().unwrap_or("");
            let state = words.nth(1).unwrap_or("");
            state == "0A" && local.ends_with(&format!(":{port:04X}"))
        }),
        Err(_) => TcpStream::connect(("127.0.0.1", port)).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(args: &RunArgs, port: u16, attach: bool) -> String {
        let error = command(args, port, attach).expect_err("refused");
        assert_eq!(fail::status_of(&error), fail::USAGE);
        error.to_string()
    }

    #[test]
    fn a_port_that_is_taken_or_that_nobody_has_is_named_before_anything_is_built() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let there = refused(&RunArgs::default(), port, false);
        assert!(
            there.contains(&format!("port {port} is taken")) && there.contains("--port"),
            "{there}"
        );
        drop(listener);
        let gone = refused(&RunArgs::default(), port, true);
        assert!(gone.contains(&format!("nobody listens on port {port}")), "{gone}");
    }

    #[test]
    fn what_is_no_option_of_gdbs_is_refused() {
        let args = RunArgs {
            timeout: Some(5),
            ..RunArgs::default()
        };
        assert!(refused(&args, 1234, false).contains("--timeout"));
    }
}
