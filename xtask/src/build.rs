//! Builds the EL2 image and the EL1 programs, and makes them flat.

use crate::callgraph;
use crate::flatten;
use crate::own;
use crate::setup::{self, TARGET};
use crate::ui::{self, errln, outln};
use anyhow::{Context, Result, ensure};
use hyp_core::image::{Format, Image};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// How to compile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised: what users get and tests run.
    #[default]
    Release,
    /// For stepping through.
    Debug,
}

/// LLVM's feature that keeps a multiply-accumulate away from the load or store before it: Cortex-A53 up to r0p4 may compute a wrong
/// value there (its erratum 835769).
const CORTEX_A53: &str = "fix-cortex-a53-835769";

/// Umbra's image in its three forms.
#[derive(Clone, Debug)]
pub(crate) struct Hyp {
    /// With symbols.
    pub(crate) elf: PathBuf,
    /// Flat, with the arm64 `Image` header.
    pub(crate) bin: PathBuf,
}

/// Runs cargo and returns the programs that it built, by name.
fn compile(package: &str, features: &[&str], profile: Profile, extra: &[&str], quiet: bool) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = setup::cargo();
    let mut flags = vec!["-C".to_owned(), format!("target-feature=+{CORTEX_A53}")];
    if let Some(sources) = setup::registry_sources() {
        flags.extend(nameless(&sources));
    }
    let flags = format!("target.{TARGET}.rustflags = {}", serde_json::Value::from(flags));
    let messages = if std::io::stderr().is_terminal() {
        "--message-format=json-diagnostic-rendered-ansi"
    } else {
        "--message-format=json"
    };
    // Flags of the environment, such as the `-D warnings` of many a CI, would take the place of these.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
        .args(["--config", &flags, "build", messages, "--target", TARGET, "-p", package])
        .args(extra);
    if profile == Profile::Release {
        // `hyp` does: without it, and for debugging, where every function uses what it likes, the long ways are taken.
        command.arg("--release").env("UMBRA_LEAVES_ARE_CHECKED", "1");
    }
    if quiet {
        command.arg("--quiet");
    }
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    let mut cargo = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start cargo")?;
    let mut programs = BTreeMap::new();
    for line in cargo.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line?) else {
            continue;
        };
        if let (Some(file), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
            programs.insert(name.to_owned(), PathBuf::from(file));
        }
        // The compiler does not know the feature, and says so for each crate; LLVM does.
        let known = message["message"]["message"].as_str().is_some_and(|text| text.contains(CORTEX_A53));
        if let Some(rendered) = message["message"]["rendered"].as_str().filter(|_| !known) {
            errln!("{}", rendered.strip_suffix('\n').unwrap_or(rendered));
        }
    }
    ensure!(cargo.wait()?.success(), "building {package} failed; cargo's message is above");
    Ok(programs)
}

/// Panic messages name the source file of a dependency the same way wherever cargo got and keeps it (below `sources` it has a folder for
/// each registry), so that an image says nothing of the machine that built it. Debug information, for gdb, has the true paths.
fn nameless(sources: &Path) -> Vec<String> {
    let registries = std::fs::read_dir(sources).into_iter().flatten().flatten();
    let mut flags: Vec<_> = registries
        .map(|registry| format!("--remap-path-prefix={}=registry", registry.path().display()))
        .collect();
    flags.sort();
    flags.push("--remap-path-scope=macro".to_owned());
    flags
}

/// Writes `bytes` unless the file has them already, so that its time tells when it changed.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // In one step: another run may be reading it.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&new, bytes)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Builds Umbra with `features`. Each set of features has a folder of its own, so that none takes another's place.
pub(crate) fn hyp(features: &[&str], profile: Profile, quiet: bool) -> Result<Hyp> {
    let programs = compile("hyp", features, profile, &[], quiet)?;
    let built = programs.get("hyp").context("cargo built no program named hyp")?;
    let variant = if features.is_empty() {
        "plain".to_owned()
    } else {
        features.join("+")
    };
    let folder = setup::output().join("hyp").join(if profile == Profile::Debug {
        format!("{variant}-debug")
    } else {
        variant
    });
    let bytes = std::fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if profile == Profile::Release {
        callgraph::check_leaves(&bytes)?;
        callgraph::check_sequences(&bytes)?;
        let barriers = callgraph::check_barriers(&bytes)?;
        ensure!(
            !barriers.contains(&0),
            "Umbra's image never returns to a guest, sends no SGI, or acknowledges no interrupt"
        );
    }
    let flat = flatten::flatten(&bytes).context("Umbra's own ELF")?;
    ensure!(flat.base == 0, "Umbra's ELF is linked at {:#x}, not at 0", flat.base);
    ensure!(
        Image::parse(&flat.bytes, flat.bytes.len() as u64).is_ok_and(|image| image.format != Format::Raw),
        "Umbra's flat image does not begin with an arm64 Image header"
    );
    for place in setup::registry_sources().iter().chain([&setup::root()]) {
        let place = place.display().to_string();
        ensure!(
            !flat.bytes.windows(place.len()).any(|text| text == place.as_bytes()),
            "Umbra's flat image names {place}, a folder of this machine"
        );
    }
    let hyp = Hyp {
        elf: folder.join("umbra.elf"),
        bin: folder.join("umbra.bin"),
    };
    write_if_changed(&hyp.elf, &bytes)?;
    write_if_changed(&hyp.bin, &flat.bytes)?;
    Ok(hyp)
}

/// Builds the EL1 programs and returns their ELF files by name.
pub(crate) fn guests(profile: Profile, quiet: bool) -> Result<BTreeMap<String, PathBuf>> {
    let programs = compile("guest", &[], profile, &["--bins"], quiet)?;
    ensure!(!programs.is_empty(), "cargo built no guest program");
    Ok(programs)
}

/// `cargo xtask build`.
pub(crate) fn command(profile: Profile, no_install: bool) -> Result<()> {
    let _images = own::keep(&setup::output())?;
    setup::toolchain(no_install)?;
    let hyp = hyp(&[], profile, false)?;
    let guests = guests(profile, false)?;
    outln!("{}", ui::out(ui::Style::Bold, "Built"))?;
    outln!("  {:<10} {}", "umbra", describe(&hyp.elf)?)?;
    for (name, path) in &guests {
        outln!("  {name:<10} {}", describe(path)?)?;
    }
    outln!("\nNext: {} runs the demo.", ui::out(ui::Style::Bold, "cargo xtask qemu"))?;
    Ok(())
}

fn describe(elf: &Path) -> Result<String> {
    let sizes = flatten::sizes(&std::fs::read(elf)?)?;
    Ok(format!(
        "{}  (text {}, data {})",
        setup::shown(elf),
        ui::bytes(sizes.text),
        ui::bytes(sizes.data)
    ))
}

/// `cargo xtask image`.
pub(crate) fn image(out: Option<&Path>, no_install: bool) -> Result<()> {
    let folder = setup::results(out)?;
    let _images = own::keep(&setup::output())?;
    setup::toolchain(no_install)?;
    let hyp = hyp(&[], Profile::Release, false)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (elf, bin) = (std::fs::read(&hyp.elf)?, std::fs::read(&hyp.bin)?);
    for (name, bytes) in [("Image", &bin), ("umbra.bin", &bin), ("umbra.elf", &elf)] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        outln!("{:<50} {}", setup::shown(&path), ui::bytes(bytes.len() as u64))?;
    }
    outln!("{}", uboot_lines())?;
    Ok(())
}

/// How to boot the image from U-Boot.
pub(crate) fn uboot_lines() -> &'static str {
    "
Image and umbra.bin are the same bytes: an arm64 Linux Image that U-Boot's `booti` enters at EL2.
The ELF carries the symbols for a debugger.

Boot it from U-Boot with one guest, whose kernel is `Image` (here from the first FAT partition of an SD card; use
`tftpboot` for a network). 0xa0000000 is for RAM of the board that U-Boot does not use:

    load mmc 0:1 ${fdt_addr_r} board.dtb
    fdt addr ${fdt_addr_r}
    fdt resize 8192
    fdt mknode /chosen guest
    fdt set /chosen/guest compatible \"umbra,vm\"
    fdt set /chosen/guest \"#address-cells\" <2>
    fdt set /chosen/guest \"#size-cells\" <2>
    fdt set /chosen/guest bootargs \"console=ttyAMA0 rdinit=/init\"
    load mmc 0:1 0xa0000000 Image
    fdt mknode /chosen/guest image@a0000000
    fdt set /chosen/guest/image@a0000000 compatible \"umbra,image\"
    fdt set /chosen/guest/image@a0000000 reg <0x0 0xa0000000 0x0 0x${filesize}>
    load mmc 0:1 ${kernel_addr_r} umbra.bin
    booti ${kernel_addr_r} - ${fdt_addr_r}

docs/devicetree.md has more: an initrd, vCPUs, RAM, calls that are forwarded, what is typed on the serial line.
The board needs a GICv3, PSCI by SMC, and a U-Boot that runs at EL2."
}

/// `cargo xtask clean`.
pub(crate) fn clean(all: bool) -> Result<()> {
    let folder = setup::output();
    let found = own::All::take(&folder)?;
    // This program runs out of that folder; cargo knows how to empty it all the same.
    let what: &[&str] = if all {
        &[]
    } else {
        &["--target", TARGET, "-p", "hyp", "-p", "guest"]
    };
    let status = setup::cargo().arg("clean").args(what).status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo clean failed");
    if all {
        return Ok(());
    }
    if found.remove()? {
        outln!("Removed {}", setup::shown(&folder))
    } else {
        outln!("{} is not there: nothing to do", setup::shown(&folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_does_not_say_where_its_sources_came_from() {
        let sources = tempfile::tempdir().expect("a folder");
        for registry in ["b.example-0123", "a.example-4567"] {
            std::fs::create_dir(sources.path().join(registry)).expect("made");
        }
        let path = sources.path().display();
        let remap = |registry| format!("--remap-path-prefix={path}/{registry}=registry");
        let scope = "--remap-path-scope=macro".to_owned();
        assert_eq!(
            nameless(sources.path()),
            [remap("a.example-4567"), remap("b.example-0123"), scope.clone()]
        );
        assert_eq!(nameless(Path::new("/nowhere/at/all")), [scope]);
    }

    /// The lines that are typed to U-Boot.
    fn typed<'a>(text: &'a str, begins: &str) -> Vec<&'a str> {
        let words = ["load ", "fdt ", "setenv ", "booti "].map(|word| format!("{begins}{word}"));
        text.lines()
            .filter(|line| words.iter().any(|word| line.starts_with(word)))
            .map(str::trim)
            .collect()
    }

    #[test]
    fn the_lines_for_u_boot_are_those_of_the_document() {
        let document = include_str!("../../docs/devicetree.md");
        let (ours, theirs) = (typed(uboot_lines(), "    "), typed(document, ""));
        // In its order, and without what the defaults do, too.
        let mut rest = theirs.iter();
        for line in &ours {
            assert!(rest.any(|other| other == line), "{line} is not there, or elsewhere");
        }
        for part in ["umbra.bin", "\"umbra,image\"", "reg <0x0 0xa0000000 0x0 0x${filesize}>"] {
            assert!(ours.iter().any(|line| line.ends_with(part)), "no {part}");
        }
        // To U-Boot's shell a word that begins with # begins a comment.
        assert!(!theirs.iter().any(|line| line.contains(" #")));
    }
}
