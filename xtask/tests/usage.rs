//! What the tool refuses, told before it builds, runs or removes anything.

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
