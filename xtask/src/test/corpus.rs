//! The corpus: device trees of real boards, from Debian's arm64 kernel package, fetched without touching this machine's
//! package state.

use super::{Context, Outcome, suites};
use crate::fetch::{self, Apt};
use crate::setup;
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

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
    let folder = fetch::cache().join("board-trees");
    if count(&folder) >= LEAST {
        return Ok(folder);
    }
    let how = format!("set {VARIABLE} to a folder of .dtb files instead");
    let apt = Apt::begin("device trees of real boards (Debian's linux-image for arm64, about 70 MB)", &how)?;
    let unpacked = apt.unpack(&PACKAGES, &how)?;
    let trees = std::fs::read_dir(unpacked.join("usr/lib"))?
        .flatten()
        .map(|e| e.path())
        .find(|p| count(p) >= LEAST);
    let trees = trees.context("the kernel's package holds no device trees")?;
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::rename(&trees, &folder)?;
    Ok(folder)
}
