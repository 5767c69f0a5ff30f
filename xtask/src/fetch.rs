//! Debian's arm64 packages, fetched with apt into a folder of our own: this machine's package state stays as it is.

use crate::fail::usage;
use crate::setup;
use crate::ui::{self, Step};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// apt with its state in a folder of ours, which is removed in the end.
pub(crate) struct Apt {
    folder: PathBuf,
    step: Step,
    what: String,
    /// Why the lists could not be brought up to date, if they could not: an unreachable extra source need not matter.
    stale: Option<anyhow::Error>,
}

impl Apt {
    /// Reads the package lists. `what` is fetched, and `instead` tells what to do where it cannot be.
    pub(crate) fn begin(what: &str, instead: &str) -> Result<Self> {
        for program in ["apt-get", "dpkg"] {
            if setup::find(program).is_none() {
                return Err(usage(format!(
                    "{what}: comes from a Debian package, and there is no {program} here; {instead}"
                )));
            }
        }
        let folder = cache().join(format!("apt-{}", std::process::id()));
        for part in ["lists/partial", "archives/partial", "debs"] {
            std::fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut apt = Self {
            folder,
            step: Step::begin("Fetching", what),
            what: what.to_owned(),
            stale: None,
        };
        apt.stale = apt.get(&["update"], "package lists").err();
        Ok(apt)
    }

    fn options(&self) -> Vec<String> {
        let at = |part: &str| self.folder.join(part).display().to_string();
        [
            "APT::Architecture=arm64".to_owned(),
            "APT::Architectures::=arm64".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "APT::Update::Post-Invoke::=".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("")),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }

    /// Runs apt-get and shows how much has arrived.
    fn get(&self, args: &[&str], part: &str) -> Result<()> {
        let errors = self.folder.join("errors");
        let child = Command::new("apt-get")
            .args(self.options())
            .args(args)
            .current_dir(self.folder.join("debs"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&errors)?)
            .spawn()
            .context("cannot start apt-get")?;
        let mut child = crate::qemu::Owned(child);
        let status = loop {
            if let Some(status) = crate::qemu::wait(&mut child.0, Duration::from_millis(200))? {
                break status;
            }
            ensure!(!crate::qemu::interrupted(), "interrupted");
            let arrived = ui::bytes(size_of_tree(&self.folder));
            self.step.note(&format!("{}: {part}, {arrived}", self.what));
        };
        let text = std::fs::read_to_string(&errors).unwrap_or_default();
        let last = text.lines().rev().find(|l| l.starts_with("E:")).unwrap_or("no message");
        ensure!(status.success(), "apt-get {} failed: {last}", args.join(" "));
        Ok(())
    }

    /// Unpacks the first of `packages` that can be had, and returns the folder with its files.
    pub(crate) fn unpack(&self, packages: &[&str], instead: &str) -> Result<PathBuf> {
        let mut failed = None;
        for package in packages {
            let name = self.real_package(package)?;
            match self.download(&name) {
                Ok(folder) => return Ok(folder),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let reason = match (&self.stale, failed) {
            (Some(stale), _) => format!("{stale:#}"),
            (None, Some(error)) => format!("{error:#}"),
            (None, None) => "no package is named".to_owned(),
        };
        Err(usage(format!("{}: {reason}; {instead}", self.what)))
    }

    fn download(&self, name: &str) -> Result<PathBuf> {
        let debs = self.folder.join("debs");
        for old in std::fs::read_dir(&debs)?.flatten() {
            std::fs::remove_file(old.path())?;
        }
        self.get(&["download", name], name)?;
        let deb = std::fs::read_dir(&debs)?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .context("apt-get downloaded no package")?;
        self.step.note(&format!("{}: unpacking", self.what));
        let unpacked = self.folder.join("unpacked").join(name);
        std::fs::create_dir_all(&unpacked)?;
        let status = Command::new("dpkg")
            .arg("-x")
            .args([&deb, &unpacked])
            .status()
            .context("cannot start dpkg")?;
        ensure!(status.success(), "dpkg could not unpack {}", deb.display());
        Ok(unpacked)
    }

    /// The package that a meta package of a kernel stands for: its own name when it is none.
    fn real_package(&self, name: &str) -> Result<String> {
        let output = Command::new("apt-cache")
            .args(self.options())
            .args(["depends", "--important", name])
            .output()
            .context("cannot start apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let depends = text
            .lines()
            .filter_map(|l| l.trim().strip_prefix("Depends: "))
            .find(|l| l.starts_with("linux-image-"));
        Ok(depends.unwrap_or(name).to_owned())
    }
}

impl Drop for Apt {
    fn drop(&mut self) {
        // What stays behind is found and removed by `cargo xtask clean`.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where fetched files are kept.
pub(crate) fn cache() -> PathBuf {
    setup::output().join("cache")
}

fn size_of_tree(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(data) if data.is_dir() => size_of_tree(&e.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
