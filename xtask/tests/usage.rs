//! What the tool refuses or cannot do: told before it builds, runs or removes anything, and by this run's words.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The exit status, and what was said on standard error.
fn tool(target: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(args).env("CARGO_TARGET_DIR", target).stdin(Stdio::null());
    let output = command.output().expect("the tool");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_wrong_qemu_is_wrong_usage_of_test_too() {
    let target = tempfile::tempdir().expect("a folder");
    let args = ["test", "--only", "machine", "--qemu", "/nowhere/qemu"];
    let (status, text) = tool(target.path(), &args);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--qemu: /nowhere/qemu is not a program"), "{text}");
}

#[test]
fn a_port_of_0_is_no_port() {
    let target = tempfile::tempdir().expect("a folder");
    let (status, text) = tool(target.path(), &["gdb", "--port", "0", "--dry-run"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("'0' for '--port <PORT>'"), "{text}");
}

#[test]
fn a_host_that_is_not_there_is_named_by_its_option() {
    let target = tempfile::tempdir().expect("a folder");
    let (status, text) = tool(target.path(), &["qemu", "--host", "/nowhere/host"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("error: --host: /nowhere/host: No such file"), "{text}");
}

#[test]
fn a_list_of_nothing_is_wrong_usage() {
    let target = tempfile::tempdir().expect("a folder");
    let (status, text) = tool(target.path(), &["test", "--list", "--only", "machine", "no-such-test"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("no test has \"no-such-test\" in its name"), "{text}");
}

#[test]
fn a_run_keeps_its_files_when_another_cleans() {
    let target = tempfile::tempdir().expect("a folder");
    let run = target.path().join("umbra/run");
    std::fs::create_dir_all(&run).expect("a folder");
    let lock = File::create(run.join("lock")).expect("a lock");
    lock.lock().expect("locked");
    for args in [&["clean"][..], &["clean", "--all"]] {
        let (status, text) = tool(target.path(), args);
        assert_eq!(status, Some(2), "{text}");
        assert!(text.contains(&format!("a run is going on in {}", run.display())), "{text}");
        assert!(run.join("lock").exists());
    }
}

#[test]
fn a_run_keeps_umbras_image_though_its_results_go_elsewhere() {
    let target = tempfile::tempdir().expect("a folder");
    let (out, pipe) = (target.path().join("out"), target.path().join("vm.toml"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("qemu").arg("--vm").arg(&pipe).arg("--out").arg(&out);
    command
        .env("CARGO_TARGET_DIR", target.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Whoever reads its VM file waits as long as this is open.
    let _held = File::options().read(true).write(true).open(&pipe).expect("a pipe");
    let mut run = Killed(command.spawn().expect("the tool"));
    // Before it has begun there is nothing to keep.
    let refused = (0..100).find_map(|_| {
        assert!(run.0.try_wait().expect("a state").is_none(), "it has not waited for its VM file");
        let (status, text) = tool(target.path(), &["clean"]);
        (status != Some(0)).then_some((status, text))
    });
    let (status, text) = refused.expect("clean removes Umbra's image again and again");
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("another command begins or ends in"), "{text}");
}

/// A program that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A QEMU in `folder` that says its version and no more.
fn fake_qemu(folder: &Path, version: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let qemu = folder.join("qemu-system-aarch64");
    std::fs::write(&qemu, format!("#!/bin/sh\necho QEMU emulator version {version}\n")).expect("written");
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).expect("executable");
    qemu
}

#[test]
fn the_log_of_a_suite_that_cannot_run_says_why() {
    let target = tempfile::tempdir().expect("a folder");
    let logs = target.path().join("umbra/test");
    std::fs::create_dir_all(&logs).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["test", "--only", "loom", "--only", "bench", "--qemu"]);
    command.arg(fake_qemu(target.path(), "9.0.0")).stdin(Stdio::null());
    command.env("CARGO_TARGET_DIR", target.path()).env("CARGO", "/nowhere/cargo");
    for log in ["loom.log", "bench.log"] {
        std::fs::write(logs.join(log), "from an earlier run").expect("written");
    }
    assert_eq!(command.output().expect("the tool").status.code(), Some(1));
    for log in ["loom.log", "bench.log"] {
        let text = std::fs::read_to_string(logs.join(log)).expect("the log");
        assert!(text.starts_with("cannot start cargo: No such file"), "{log}: {text}");
    }
}

#[test]
fn doctor_says_what_to_do_about_a_qemu_that_is_too_old() {
    let folder = tempfile::tempdir().expect("a folder");
    let qemu = fake_qemu(folder.path(), "5.2.0");
    let path = std::env::var("PATH").expect("a PATH");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("doctor").env("PATH", format!("{}:{path}", folder.path().display()));
    let output = command.output().expect("the tool");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stdout);
    let what = format!(
        "for qemu, test, gdb. {} is QEMU 5.2, and Umbra needs 7.2 or newer. Get a newer one",
        qemu.display()
    );
    assert!(text.contains(&what), "{text}");
}

#[test]
fn what_is_no_folder_is_told_before_umbra_is_built() {
    let target = tempfile::tempdir().expect("a folder");
    let (status, text) = tool(target.path(), &["image", "--out", "/dev/null"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--out: /dev/null is not a folder"), "{text}");
}
