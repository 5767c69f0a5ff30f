//! What is said, and counted, where Debian's packages cannot be had: the tool itself, on a machine of which it sees only what
//! is put in one folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QEMU: &str = "#!/bin/sh\necho QEMU emulator version 7.2.0\n";
/// A compiler that has all that the tool looks for, and compiles nothing.
const RUSTC: &str = "#!/bin/sh\necho FOLDER/sysroot\n";
/// An apt that reaches no archive.
const APT: &str = "#!/bin/sh\necho 'E: Failed to fetch: no such archive' >&2\nexit 100\n";

struct Machine(tempfile::TempDir);

impl Machine {
    /// A machine with a toolchain and QEMU, without any package that was fetched before, and without apt.
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a folder"));
        machine.program("bin/rustc", &RUSTC.replace("FOLDER", &machine.path("").display().to_string()));
        machine.program("bin/qemu-system-aarch64", QEMU);
        for program in ["cargo-clippy", "rustfmt"] {
            machine.program(&format!("sysroot/bin/{program}"), "");
        }
        let library = machine.path("sysroot/lib/rustlib/aarch64-unknown-none-softfloat/lib");
        std::fs::create_dir_all(library).expect("made");
        machine
    }

    fn with_an_apt_that_reaches_nothing(self) -> Self {
        for program in ["apt-get", "dpkg", "apt-cache"] {
            self.program(&format!("bin/{program}"), APT);
        }
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("made");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// The exit status, and what was said.
    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(args)
            .env("PATH", self.path("bin"))
            .env("CARGO_TARGET_DIR", self.path("target"))
            .stdin(Stdio::null())
            .output()
            .expect("the tool");
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.code(), text)
    }
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn without_apt_the_tool_says_what_to_pass_instead() {
    let machine = Machine::new();
    let (status, text) = machine.run(&["qemu", "--guest", "linux"]);
    assert_eq!(status, Some(2), "{text}");
    has(&text, &["no apt-get here", "arm64 Image", "--kernel PATH --initrd PATH"]);
    let (status, text) = machine.run(&["qemu", "--guest", "u-boot"]);
    assert_eq!(status, Some(2), "{text}");
    has(&text, &["no apt-get here", "u-boot.bin", "--kernel PATH"]);
}

#[test]
fn without_an_archive_the_tool_says_why_and_what_to_pass_instead() {
    let (status, text) = Machine::new().with_an_apt_that_reaches_nothing().run(&["qemu", "--guest", "linux"]);
    assert_eq!(status, Some(2), "{text}");
    has(&text, &["no such archive", "--kernel PATH --initrd PATH"]);
}

#[test]
fn tests_whose_packages_cannot_be_had_count_as_failed() {
    for machine in [Machine::new(), Machine::new().with_an_apt_that_reaches_nothing()] {
        let (status, text) = machine.run(&["test", "--only", "linux", "and-powers-off"]);
        assert_eq!(status, Some(1), "{text}");
        has(
            &text,
            &[
                "FAILED linux::linux-boots-and-powers-off: Debian's arm64 kernel",
                "--kernel PATH --initrd PATH",
                "0 passed, 1 failed",
            ],
        );
    }
}
