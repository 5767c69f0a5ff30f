//! What this machine needs: looked for, and got where we may.

use crate::fail::usage;
use crate::qemu::{self, Owned};
use crate::ui;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What every EL2 and EL1 program is built for.
pub(crate) const TARGET: &str = "aarch64-unknown-none-softfloat";
/// The oldest QEMU that is known to work.
pub(crate) const OLDEST_QEMU: (u32, u32) = (7, 2);
/// QEMU's program.
const QEMU: &str = "qemu-system-aarch64";
/// The debugger's program.
const GDB: &str = "gdb-multiarch";

/// The project's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts its output.
pub(crate) fn cargo_target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        _ => root().join("target"),
    }
}

/// Where this tool puts its own output.
pub(crate) fn output() -> PathBuf {
    cargo_target().join("umbra")
}

/// Where a command's results go: the folder that the user names, which may not be there yet, or this tool's own.
pub(crate) fn results(out: Option<&Path>) -> Result<PathBuf> {
    match out {
        Some(path) if path.exists() && !path.is_dir() => Err(usage(format!("--out: {} is not a folder", path.display()))),
        Some(path) => Ok(std::path::absolute(path)?),
        None => Ok(output()),
    }
}

/// Where cargo unpacks the sources of dependencies.
pub(crate) fn registry_sources() -> Option<PathBuf> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) if !home.is_empty() => PathBuf::from(home),
        _ => std::env::home_dir()?.join(".cargo"),
    };
    Some(home.join("registry").join("src"))
}

/// A path as the user would write it from where they are.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// Looks for a program on `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The standard output of a command that succeeds.
pub(crate) fn output_of(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Option<String> {
    // rustup may fetch a whole toolchain first.
    output_within(program, args, Duration::from_secs(1800))
}

/// The standard output of a command that succeeds in time.
fn output_within(program: impl AsRef<std::ffi::OsStr>, args: &[&str], limit: Duration) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Owned(command.current_dir(root()).spawn().ok()?);
    let mut stdout = child.0.stdout.take()?;
    // Not joined: a child of the command may keep the pipe open for ever.
    let (sender, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if stdout.read_to_end(&mut text).is_ok() {
            // Fails when the limit is over.
            let _ = sender.send(text);
        }
    });
    let text = said.recv_timeout(limit).ok()?;
    let status = qemu::wait(&mut child.0, limit).ok()??;
    status.success().then(|| String::from_utf8_lossy(&text).trim().to_owned())
}

/// A cargo command in the project's root, free of what the cargo that started us left in the environment.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).stdin(Stdio::null());
    clean_environment(&mut command);
    // A relative one is meant from where the user is, as in `cargo_target`.
    command.env("CARGO_TARGET_DIR", cargo_target());
    command
}

/// Removes what `cargo run` sets for its child and no other cargo should see.
pub(crate) fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_PRIMARY_PACKAGE"
            || text == "CARGO_CRATE_NAME"
        {
            command.env_remove(&name);
        }
    }
}

// ---- the toolchain

/// Whether the compiler has the target's library.
pub(crate) fn has_target() -> bool {
    output_of("rustc", &["--print", "sysroot"]).is_some_and(|root| Path::new(&root).join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

/// Whether the compiler has a component's program, such as `cargo-clippy`.
pub(crate) fn has_component(program: &str) -> bool {
    output_of("rustc", &["--print", "sysroot"]).is_some_and(|root| is_program(&Path::new(&root).join("bin").join(program)))
}

/// Makes sure of the pinned toolchain with its target and components.
pub(crate) fn toolchain(no_install: bool) -> Result<()> {
    if has_target() && has_component("cargo-clippy") && has_component("rustfmt") {
        return Ok(());
    }
    let what = format!("the toolchain of rust-toolchain.toml with target {TARGET}");
    if find("rustup").is_none() {
        return Err(usage(format!(
            "{what} is missing, and so is rustup, which could get it. Install rustup from https://rustup.rs, then run this again."
        )));
    }
    let args = ["toolchain", "install", "--no-self-update"];
    if no_install {
        return Err(usage(format!("{what} is missing. Get it with: rustup {}", args.join(" "))));
    }
    ui::say("Installing", &format!("{what} (rustup {})", args.join(" ")));
    let mut command = Command::new("rustup");
    // Without this variable rustup reads rust-toolchain.toml, which also lists target and components.
    command
        .args(args)
        .current_dir(root())
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null());
    let status = command.status().context("cannot start rustup")?;
    if !status.success() {
        return Err(usage(format!("rustup could not install {what} ({status}); see its message above")));
    }
    if !has_target() {
        return Err(usage(format!(
            "rustup finished, but target {TARGET} is still missing; try: rustup target add {TARGET}"
        )));
    }
    Ok(())
}

/// Whether there is a nightly with miri.
pub(crate) fn has_miri() -> bool {
    let sysroot = output_of("rustup", &["run", "nightly", "rustc", "--print", "sysroot"]);
    sysroot.is_some_and(|root| {
        let root = Path::new(&root);
        is_program(&root.join("bin/cargo-miri")) && root.join("lib/rustlib/src/rust/library").is_dir()
    })
}

/// The command that gets miri.
pub(crate) const MIRI_COMMAND: &str =
    "rustup toolchain install nightly --profile minimal --component miri --component rust-src --no-self-update";

/// Makes sure of a nightly with miri.
pub(crate) fn miri(no_install: bool) -> Result<()> {
    if has_miri() {
        return Ok(());
    }
    if no_install || find("rustup").is_none() {
        return Err(usage(format!(
            "a nightly toolchain with miri is missing. Get it with: {MIRI_COMMAND}"
        )));
    }
    ui::say("Installing", &format!("nightly with miri ({MIRI_COMMAND})"));
    let words: Vec<&str> = MIRI_COMMAND.split(' ').skip(1).collect();
    let status = Command::new("rustup")
        .args(words)
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .context("cannot start rustup")?;
    if !status.success() || !has_miri() {
        return Err(usage(format!(
            "a nightly toolchain with miri could not be installed. Try by hand: {MIRI_COMMAND}"
        )));
    }
    Ok(())
}

// ---- packages of the system

/// How this machine gets its packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Debian, Ubuntu and their kin.
    Apt,
    /// Fedora and its kin.
    Dnf,
    /// Arch.
    Pacman,
    /// macOS, or Homebrew elsewhere.
    Brew,
    /// Something else.
    Unknown,
}

/// Finds out which.
pub(crate) fn system() -> System {
    for (program, system) in [
        ("apt-get", System::Apt),
        ("dnf", System::Dnf),
        ("pacman", System::Pacman),
        ("brew", System::Brew),
    ] {
        if find(program).is_some() {
            return system;
        }
    }
    System::Unknown
}

/// A package under each system's name for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// What people call it.
    pub(crate) what: &'static str,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
    brew: &'static str,
}

/// QEMU.
pub(crate) const QEMU_PACKAGE: Package = Package {
    what: "QEMU for AArch64 (qemu-system-aarch64, 7.2 or newer)",
    apt: "qemu-system-arm",
    dnf: "qemu-system-aarch64-core",
    pacman: "qemu-system-aarch64",
    brew: "qemu",
};

/// The debugger.
pub(crate) const GDB_PACKAGE: Package = Package {
    what: "a gdb for AArch64 (gdb-multiarch)",
    apt: "gdb-multiarch",
    dnf: "gdb",
    pacman: "gdb",
    brew: "gdb",
};

impl Package {
    /// The command that installs it, as a user would type it.
    pub(crate) fn command(&self, system: System) -> String {
        match system {
            System::Apt => format!("sudo apt-get update && sudo apt-get install -y {}", self.apt),
            System::Dnf => format!("sudo dnf install -y {}", self.dnf),
            System::Pacman => format!("sudo pacman -S --noconfirm {}", self.pacman),
            System::Brew => format!("brew install {}", self.brew),
            System::Unknown => "your system's package manager".to_owned(),
        }
    }

    fn missing(&self, system: System) -> anyhow::Error {
        usage(format!(
            "{} is missing. Get it with:\n    {}\nthen run this again.",
            self.what,
            self.command(system)
        ))
    }

    /// Installs it on Debian and its kin, as root or by sudo; elsewhere says how and stops.
    fn install(&self, no_install: bool) -> Result<()> {
        let system = system();
        if no_install || system != System::Apt {
            return Err(self.missing(system));
        }
        let root = output_of("id", &["-u"]).as_deref() == Some("0");
        if !root && find("sudo").is_none() {
            return Err(self.missing(system));
        }
        ui::say(
            "Installing",
            &format!("{}: {}apt-get install -y {}", self.what, if root { "" } else { "sudo " }, self.apt),
        );
        for args in [vec!["update"], vec!["install", "-y", "--no-install-recommends", self.apt]] {
            let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
            if !root {
                command.arg("apt-get");
            }
            command
                .args(&args)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(Stdio::from(std::io::stderr()));
            let status = command.status().context("cannot start apt-get")?;
            // An unreachable extra source fails `update` and need not matter to the package itself.
            if !status.success() && args[0] == "install" {
                return Err(usage(format!(
                    "apt-get could not install {} ({status}). By hand:\n    {}",
                    self.apt,
                    self.command(system)
                )));
            }
        }
        Ok(())
    }
}

// ---- QEMU

/// A QEMU that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    /// The program.
    pub(crate) path: PathBuf,
    /// Its version.
    pub(crate) version: (u32, u32),
}

/// Reads the version out of `qemu-system-aarch64 --version`.
pub(crate) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let rest = text.split("version ").nth(1)?;
    let mut parts = rest.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks at one QEMU.
pub(crate) fn inspect_qemu(path: &Path) -> Result<Qemu> {
    let text = output_within(path, &["--version"], PATIENCE).ok_or_else(|| {
        usage(format!(
            "{} does not run: `--version` failed, or took longer than {} s",
            path.display(),
            PATIENCE.as_secs()
        ))
    })?;
    let version = parse_version(&text).ok_or_else(|| {
        usage(format!(
            "{} does not look like QEMU: it says \"{}\"",
            path.display(),
            text.lines().next().unwrap_or("")
        ))
    })?;
    Ok(Qemu {
        path: path.to_path_buf(),
        version,
    })
}

/// What to say of a QEMU that is too old.
pub(crate) fn too_old(qemu: &Qemu) -> String {
    let ((major, minor), (old_major, old_minor)) = (qemu.version, OLDEST_QEMU);
    format!(
        "{} is QEMU {major}.{minor}, and Umbra needs {old_major}.{old_minor} or newer. Get a newer one (on Debian 11 and Ubuntu 22.04 from backports or by building it), and name it with --qemu PATH.",
        qemu.path.display()
    )
}

/// Finds QEMU: `asked`, or the one on `PATH`, or the one that we install. One that is too old is named.
pub(crate) fn qemu(asked: Option<&Path>, no_install: bool) -> Result<Qemu> {
    let found = match asked {
        Some(path) => {
            let named = if path.components().count() == 1 {
                path.to_str().and_then(find)
            } else {
                None
            };
            // Where it is meant from is not where it is started.
            let path = std::path::absolute(named.as_deref().unwrap_or(path))?;
            if !is_program(&path) {
                return Err(usage(format!("--qemu: {} is not a program", path.display())));
            }
            path
        }
        None => match find(QEMU) {
            Some(path) => path,
            None => {
                QEMU_PACKAGE.install(no_install)?;
                find(QEMU).ok_or_else(|| QEMU_PACKAGE.missing(system()))?
            }
        },
    };
    let qemu = inspect_qemu(&found)?;
    if qemu.version < OLDEST_QEMU {
        return Err(usage(too_old(&qemu)));
    }
    Ok(qemu)
}

/// A debugger that knows AArch64.
pub(crate) fn find_gdb() -> Option<PathBuf> {
    let fits = |path: &PathBuf| output_within(path, &["-batch", "-ex", "set architecture aarch64"], PATIENCE).is_some();
    find(GDB)
        .or_else(|| find("aarch64-linux-gnu-gdb"))
        .or_else(|| find("gdb").filter(fits))
}

/// Finds the debugger, or installs one.
pub(crate) fn gdb(no_install: bool) -> Result<PathBuf> {
    if let Some(path) = find_gdb() {
        return Ok(path);
    }
    GDB_PACKAGE.install(no_install)?;
    match find_gdb() {
        Some(path) => Ok(path),
        None => bail!(GDB_PACKAGE.missing(system())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fake_qemu(version: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qemu");
        std::fs::write(&path, format!("#!/bin/sh\necho 'QEMU emulator version {version} (Debian)'\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        (folder, path)
    }

    #[test]
    fn cargo_builds_into_one_place_wherever_it_is_called() {
        let command = cargo();
        let target = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_DIR");
        assert_eq!(target.and_then(|(_, value)| value), Some(cargo_target().as_os_str()));
        assert!(cargo_target().is_absolute());
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2)"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.2"), Some((10, 0)));
        assert_eq!(parse_version("GNU ld"), None);
    }

    #[test]
    fn too_old_a_qemu_is_named() {
        let (_folder, path) = fake_qemu("6.2.0");
        let error = qemu(Some(&path), true).expect_err("too old");
        assert_eq!(crate::fail::status_of(&error), crate::fail::USAGE);
        assert!(error.to_string().contains("is QEMU 6.2, and Umbra needs 7.2"), "{error}");
    }

    #[test]
    fn a_program_that_says_nothing_is_not_waited_for() {
        let begun = std::time::Instant::now();
        let limit = Duration::from_millis(200);
        assert_eq!(output_within("/bin/sh", &["-c", "sleep 30; echo late"], limit), None);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(output_within("/bin/sh", &["-c", "echo said"], PATIENCE).as_deref(), Some("said"));
        assert_eq!(output_within("/bin/false", &[], PATIENCE), None);
    }

    #[test]
    fn a_new_enough_qemu_is_taken() {
        let (_folder, path) = fake_qemu("9.1.0");
        assert_eq!(qemu(Some(&path), true).expect("taken").version, (9, 1));
    }

    #[test]
    fn a_qemu_that_is_not_there_or_not_qemu_is_refused() {
        assert!(
            qemu(Some(Path::new("/nowhere/qemu")), true)
                .expect_err("gone")
                .to_string()
                .contains("not a program")
        );
        assert!(
            qemu(Some(Path::new("/bin/true")), true)
                .expect_err("another")
                .to_string()
                .contains("does not look like QEMU")
        );
    }

    #[test]
    fn each_system_has_its_command() {
        assert_eq!(
            QEMU_PACKAGE.command(System::Apt),
            "sudo apt-get update && sudo apt-get install -y qemu-system-arm"
        );
        assert!(QEMU_PACKAGE.command(System::Dnf).starts_with("sudo dnf install"));
        assert!(QEMU_PACKAGE.command(System::Pacman).starts_with("sudo pacman"));
        assert_eq!(QEMU_PACKAGE.command(System::Brew), "brew install qemu");
        let unknown = QEMU_PACKAGE.missing(System::Unknown).to_string();
        assert!(unknown.contains("Get it with:\n    your system's package manager\n"), "{unknown}");
    }
}
