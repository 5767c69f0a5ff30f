//! What the tool does when its output cannot be written: an error or silence, never a panic.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::process::{Command, Output, Stdio};

fn tool(args: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.output().expect("the tool")
}

fn full() -> File {
    File::create("/dev/full").expect("a disk that is full")
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    for args in [&[][..], &["clean", "--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let done = tool(args, writer, Stdio::piped());
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(done.stderr.is_empty(), "{done:?}");
    }
}

#[test]
fn a_full_disk_is_named() {
    let done = tool(&[], full(), Stdio::piped());
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("error: cannot write standard output: No space left"), "{text}");
}

#[test]
fn errors_that_nobody_can_read_change_no_status() {
    let done = tool(&["qemu", "--vm", "/nowhere.toml"], Stdio::null(), full());
    assert_eq!(done.status.code(), Some(2), "{done:?}");
}
