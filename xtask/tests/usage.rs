//! What the tool refuses, told before it builds, runs or removes anything.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

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
