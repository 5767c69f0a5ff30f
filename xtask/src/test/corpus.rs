//! The corpus: device trees of real boards, from Debian's arm64 kernel package, fetched without touching this machine's
//! package state.

use super::{Context, Outcome, suites};
use crate::setup;
use crate::ui::Step;
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Packages with device trees, the usual one first.
const PACKAGES: [&str; 2] = ["linux-image-6.1-arm64", "linux-image-arm64"];
/// The trees that the tests read; fewer than this is no corpus.
const LEAST: usize = 100;
/// The environment variable that names the folder to the tests.
const VARIABLE: &str = "UMBRA_DTB_CORPUS";

/// Runs the tests that read the corpus.
pub(super) fn run(context: &Context<'_>) -> Result<Vec<Outcome>> {
    let folder = fetch()?;
    let mut command = command();
    command.env(VARIABLE, folder);
    suites::run_cargo(command, context, "corpus")
}

/// The cargo command that runs them.
pub(super) fn command() -> Command {
    let mut command = setup::cargo();
    command.args(["test", "-p", "hyp-core", "--test", "fdt_corpus"]);
    command
}

fn count(folder: &Path) -> usize {
    let mut folders = vec![folder.to_path_buf()];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "dtb") {
                found += 1;
            }
        }
    }
    found
}

/// The folder with the trees, fetched once.
fn fetch() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(VARIABLE) {
        let given = PathBuf::from(given);
        ensure!(count(&given) > 0, "{VARIABLE}: {} holds no .dtb file", given.display());
        return Ok(given);
    }
    let cache = setup::output().join("cache");
    let folder = cache.join("board-trees");
    if count(&folder) >= LEAST {
        return Ok(folder);
    }
    let how = format!("set {VARIABLE} to a folder of .dtb files instead");
    ensure!(
        setup::find("apt-get").is_some(),
        "the device trees come from a Debian package, and there is no apt-get here; {how}"
    );
    let _step = Step::begin(
        "Fetching",
        "device trees of real boards (Debian's linux-image for arm64, about 70 MB)",
    );
    let lists = cache.join("apt");
    for part in ["lists/partial", "archives/partial", "unpacked"] {
        std::fs::create_dir_all(lists.join(part))?;
    }
    let apt = |args: &[&str]| -> Result<String> {
        let mut command = Command::new("apt-get");
        command.current_dir(lists.join("archives")).stdin(Stdio::null());
        for option in [
            "APT::Architecture=arm64".to_owned(),
            "APT::Architectures::=arm64".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "APT::Update::Post-Invoke::=".to_owned(),
            format!("Dir::State::Lists={}", lists.join("lists").display()),
            format!("Dir::Cache={}", lists.display()),
        ] {
            command.arg("-o").arg(option);
        }
        let output = command.args(args).output().context("cannot start apt-get")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors
            .lines()
            .rev()
            .find(|l| l.starts_with("E:"))
            .unwrap_or("no message")
            .to_owned();
        ensure!(output.status.success(), "apt-get {} failed: {last}; {how}", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // An unreachable extra source need not matter; a missing package will.
    let update = apt(&["update"]);
    let mut fetched = Err(anyhow::anyhow!("no package"));
    for package in PACKAGES {
        fetched = real_package(&lists, package).and_then(|name| apt(&["download", &name]));
        if fetched.is_ok() {
            break;
        }
    }
    if let (Err(update), Err(_)) = (update, &fetched) {
        return Err(update);
    }
    fetched?;
    let deb = std::fs::read_dir(lists.join("archives"))?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.context("apt-get downloaded no package")?;
    let unpacked = lists.join("unpacked");
    let status = Command::new("dpkg")
        .arg("-x")
        .arg(&deb)
        .arg(&unpacked)
        .status()
        .context("cannot start dpkg")?;
    ensure!(status.success(), "dpkg could not unpack {}", deb.display());
    let trees = std::fs::read_dir(unpacked.join("usr/lib"))?
        .flatten()
        .map(|e| e.path())
        .find(|p| count(p) >= LEAST);
    let trees = trees.with_context(|| format!("{} holds no device trees", deb.display()))?;
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::rename(&trees, &folder)?;
    let _ = std::fs::remove_dir_all(&lists);
    Ok(folder)
}

/// The package that a meta package stands for: its own name when it is none.
fn real_package(lists: &Path, name: &str) -> Result<String> {
    let output = Command::new("apt-cache")
        .args([
            "-o",
            "APT::Architecture=arm64",
            "-o",
            &format!("Dir::State::Lists={}", lists.join("lists").display()),
        ])
        .args(["-o", &format!("Dir::Cache={}", lists.display()), "depends", "--important", name])
        .output()
        .context("cannot start apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let depends = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .find(|l| l.starts_with("linux-image-"));
    Ok(depends.unwrap_or(name).to_owned())
}
