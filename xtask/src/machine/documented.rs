//! The host program of docs/host-abi.md, built as its reader builds it: in a folder of its own, outside of this workspace.

use crate::setup::{self, TARGET};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// Where the document has what a file is to hold: how the fence before it begins, and how it begins itself.
const FILES: [(&str, &str, &str); 3] = [
    ("Cargo.toml", "```toml\n", "[package]"),
    ("build.rs", "```rust\n", "fn main() {\n    println!(\"cargo::"),
    ("src/main.rs", "```rust\n", "#![no_std]"),
];

/// The piece of `text` that lies between such a fence and the next.
fn piece<'a>(text: &'a str, fence: &str, beginning: &str) -> Option<&'a str> {
    let begin = text.find(&format!("{fence}{beginning}"))? + fence.len();
    let rest = text.get(begin..)?;
    rest.get(..rest.find("```")?)
}

/// Builds it and says where it is.
pub(super) fn build() -> Result<PathBuf> {
    // What cargo finds in the folders above this one has no say there.
    let folder = std::env::temp_dir().join(format!("umbra-documented-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("src"))?;
    let built = build_in(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    built
}

fn build_in(folder: &Path) -> Result<PathBuf> {
    let root = setup::root();
    let page = std::fs::read_to_string(root.join("docs/host-abi.md"))?;
    for (name, fence, beginning) in FILES {
        let text = piece(&page, fence, beginning).with_context(|| format!("docs/host-abi.md has no {name}"))?;
        let text = text.replace("../umbra", &root.display().to_string());
        std::fs::write(folder.join(name), text)?;
    }
    // The same dependencies as here, which this machine has.
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    let output = setup::output().join("documented");
    let built = setup::cargo()
        .current_dir(folder)
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(&output)
        .output()
        .context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&built.stderr);
    let errors: Vec<_> = said.lines().map(str::trim).filter(|line| line.contains("error")).collect();
    ensure!(
        built.status.success(),
        "the program of docs/host-abi.md is not built: {}",
        errors.join("; ")
    );
    Ok(output.join(TARGET).join("release").join("myhost"))
}
