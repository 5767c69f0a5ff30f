//! How a run that does not end by itself is ended, and with which status: the tool itself, with a QEMU that only sleeps.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Says a version, writes a device tree if that is asked for, or runs until it is ended.
const QEMU: &str = r#"#!/bin/sh
case "$*" in
*--version*) echo "QEMU emulator version 7.2.0" ;;
*dumpdtb=*) file="${*#*dumpdtb=}"; cp TREE "${file%% *}" ;;
*) cat SAYS; exec sleep 60 ;;
esac
"#;

struct Run {
    child: Child,
    folder: tempfile::TempDir,
}

/// `cargo xtask qemu` with a VM of one instruction and `more`.
fn start(more: &[&str]) -> Run {
    start_with("", more)
}

/// The same, with a machine whose serial line says this.
fn start_with(says: &str, more: &[&str]) -> Run {
    start_tool(says, &[&["--vm", "vm.toml"], more].concat())
}

/// `cargo xtask qemu` in a folder with that VM's file.
fn start_tool(says: &str, args: &[&str]) -> Run {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hyp/core/tests/data/qemu-virt-gicv3.dtb");
    std::fs::write(path("says"), says).expect("written");
    let qemu = QEMU.replace("TREE", &tree.display().to_string());
    std::fs::write(path("qemu"), qemu.replace("SAYS", &path("says").display().to_string())).expect("written");
    std::fs::set_permissions(path("qemu"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    std::fs::write(path("vm.bin"), [0x14, 0, 0, 0]).expect("written");
    let file = "name = \"a\"\n[ram]\nsize = 0x1000000\n[image]\npath = \"vm.bin\"\nload = 0x40080000\n";
    std::fs::write(path("vm.toml"), file).expect("written");
    let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("qemu")
        .args(["--no-install", "--qemu", "./qemu", "--out", "out"])
        .args(args)
        .current_dir(folder.path())
        // Which many a CI sets: it must not take the place of the flags that Umbra is built with.
        .env("RUSTFLAGS", "-D warnings")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool");
    Run { child, folder }
}

impl Run {
    /// The exit status, and what was said.
    fn end(self) -> (Option<i32>, String) {
        let (status, text, _) = self.end_and_keep();
        (status, text)
    }

    /// The same, and the folder that it ran in.
    fn end_and_keep(self) -> (Option<i32>, String, tempfile::TempDir) {
        let output = self.child.wait_with_output().expect("an end");
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.code(), text, self.folder)
    }
}

#[test]
fn a_run_that_does_not_end_in_time_has_status_3() {
    let (status, text) = start(&["--timeout", "1"]).end();
    assert_eq!(status, Some(3), "{text}");
    assert!(text.contains("did not end within 1 s"), "{text}");
}

#[test]
fn a_tree_that_qemu_has_no_room_for_is_not_the_machines_fault() {
    let (status, text, folder) = start(&["--dry-run"]).end_and_keep();
    assert_eq!(status, Some(0), "{text}");
    // Now everything is built: what is written then has 512 KiB at most, and no signal ends who writes more.
    std::fs::write(
        folder.path().join("qemu"),
        QEMU.replace("cp TREE \"${file%% *}\"", "echo failed >&2; exit 1"),
    )
    .expect("written");
    let script = r#"trap "" XFSZ; ulimit -f 512; exec "$0" qemu --no-install --qemu ./qemu --out out --vm vm.toml"#;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_xtask")]);
    let output = command
        .current_dir(folder.path())
        .env("RUSTFLAGS", "-D warnings")
        .output()
        .expect("the tool");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("machine.dtb: File too large"), "{text}");
}

#[test]
fn a_crash_is_not_hidden_by_the_deadline() {
    let said = "@umbra end vm=1 name=a reason=crashed\n@umbra end vm=2 name=b reason=refused\n";
    let (status, text) = start_with(said, &["--timeout", "1"]).end();
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("a crashed, b was refused; the run did not end within 1 s"), "{text}");
    let (status, text) = start_with("@umbra end vm=1 name=a reason=off\n", &["--timeout", "1"]).end();
    assert_eq!(status, Some(3), "{text}");
}

#[test]
fn the_report_is_of_the_run_that_wrote_it_however_that_ended() {
    let (status, text, folder) = start_tool("", &["--timeout", "1"]).end_and_keep();
    assert_eq!(status, Some(3), "{text}");
    assert!(text.contains("Every figure is in out/report.json"), "{text}");
    assert!(folder.path().join("out/console.log").exists(), "{text}");
    let report = std::fs::read_to_string(folder.path().join("out/report.json")).expect("the report");
    assert!(report.contains("\"status\": 3") && report.contains("did not end"), "{report}");
}

#[test]
fn a_run_ends_when_umbra_says_that_it_cannot_run() {
    let reason = "Umbra cannot run here: the device tree describes no GICv3 (compatible \"arm,gic-v3\")";
    let (status, text) = start_with(&format!("error: {reason}. Parked.\r\n"), &["--timeout", "50"]).end();
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(&format!("FAILED {reason} (console log")), "{text}");
    // A guest may say so, too.
    let (status, text) = start_with(&format!("\x0eB{reason}. Parked.\r\n"), &["--timeout", "1"]).end();
    assert_eq!(status, Some(3), "{text}");
}

#[test]
fn a_run_that_is_interrupted_has_status_130() {
    use std::io::Read;
    let mut run = start(&["--timeout", "0"]);
    let mut stderr = run.child.stderr.take().expect("its words");
    // It says so when QEMU is about to start.
    let mut text = String::new();
    let mut piece = [0; 1024];
    while !text.contains("Running") {
        let read = stderr.read(&mut piece).expect("read");
        assert_ne!(read, 0, "it ended: {text}");
        text += &String::from_utf8_lossy(&piece[..read]);
    }
    let interrupt = || {
        let id = run.child.id().to_string();
        Command::new("kill").args(["-INT", &id]).status().expect("kill")
    };
    assert!(interrupt().success());
    let begun = Instant::now();
    let (status, _) = run.end();
    assert_eq!(status, Some(130));
    assert!(begun.elapsed() < Duration::from_secs(30), "at once");
}
