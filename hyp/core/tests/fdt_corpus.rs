//! Board discovery on the device trees of real boards.
//!
//! They are not in this repository: most are GPL-2.0 or MIT at choice, some are GPL-2.0 alone, and there are hundreds.
//! `UMBRA_DTB_CORPUS` names a directory that has them, at any depth; `cargo xtask test` downloads Debian's
//! `linux-image-*-arm64` package, unpacks it and sets the variable to its `usr/lib/linux-image-*`. Without the variable this
//! file tests nothing and says so; with it, a directory that has no trees is a failure.
#![cfg(not(miri))] // Hours under miri, and no unsafe code is reached: `fdt_guest` reads and writes a tree there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what only tests call is a test")]

mod fdt_source;

use std::path::{Path, PathBuf};

use fdt_source::Random;
use hyp_core::fdt::board::{self, Board, BoardError, UartKind};
use hyp_core::fdt::{Tree, TreeError};

fn corpus() -> Option<Vec<PathBuf>> {
    let Some(directory) = std::env::var_os("UMBRA_DTB_CORPUS") else {
        eprintln!("UMBRA_DTB_CORPUS is not set: no real board's tree was read");
        return None;
    };
    let mut found = Vec::new();
    collect(Path::new(&directory), &mut found);
    found.sort();
    assert!(!found.is_empty(), "no .dtb file below {}", Path::new(&directory).display());
    Some(found)
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "dtb") {
            found.push(path);
        }
    }
}

#[test]
fn every_tree_is_read_and_every_refusal_is_about_the_board() {
    let Some(files) = corpus() else { return };
    let (mut gicv3, mut gicv2, mut consoles, mut other_timers) = (0, 0, 0, 0);
    for file in &files {
        let blob = std::fs::read(file).unwrap();
        let tree = Tree::new(&blob).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let name = file.display();
        board::ram(&tree).unwrap_or_else(|error| panic!("{name}: {error}"));
        board::reserved(&tree).unwrap_or_else(|error| panic!("{name}: {error}"));
        let cpus = board::cpus(&tree).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!cpus.is_empty(), "{name}: no CPU");
        consoles += usize::from(board::console(&tree).is_some());
        match board::gic(&tree) {
            Ok(gic) => {
                gicv3 += 1;
                assert!(gic.gicd.size() >= 0x1_0000, "{name}: {gic:x?}");
                assert!(gic.gicr.iter().all(|region| region.size() >= 0x2_0000), "{name}: {gic:x?}");
            }
            Err(BoardError::GicV2 { .. }) => gicv2 += 1,
            Err(BoardError::NoGic) => eprintln!("{name}: neither GICv3 nor GICv2"),
            Err(error) => panic!("{name}: {error}"),
        }
        match Board::discover(&blob) {
            Ok(_) | Err(BoardError::GicV2 { .. } | BoardError::NoGic) => {}
            // U-Boot fills /memory in, and some trees leave it to that.
            Err(BoardError::NoRam) => {}
            Err(BoardError::OtherTimers) => other_timers += 1,
            Err(error) => panic!("{name}: {error}"),
        }
    }
    eprintln!(
        "{} trees: {gicv3} with GICv3, {gicv2} with GICv2, {consoles} with a console that we drive, {other_timers} with RAM and other timers",
        files.len()
    );
    assert!(gicv3 > 0 && gicv2 > 0 && consoles > 0);
}

/// File, number of CPUs, GICD, GICR, console.
type Known = (&'static str, usize, u64, u64, Option<(UartKind, u64)>);

const WORDS: UartKind = UartKind::Uart8250 { reg_shift: 2, io_width: 4 };
const BOARDS: [Known; 6] = [
    ("rk3588-rock-5b.dtb", 8, 0xfe60_0000, 0xfe68_0000, Some((WORDS, 0xfeb5_0000))),
    ("k3-am625-sk.dtb", 4, 0x0180_0000, 0x0188_0000, Some((WORDS, 0x0280_0000))),
    ("imx8mp-evk.dtb", 4, 0x3880_0000, 0x3888_0000, Some((UartKind::Imx, 0x3089_0000))),
    (
        "fsl-lx2160a-honeycomb.dtb",
        16,
        0x0600_0000,
        0x0620_0000,
        Some((UartKind::Pl011, 0x021c_0000)),
    ),
    ("rk3399-rockpro64.dtb", 6, 0xfee0_0000, 0xfef0_0000, Some((WORDS, 0xff1a_0000))),
    ("k3-am625-beagleplay.dtb", 4, 0x0180_0000, 0x0188_0000, Some((WORDS, 0x0280_0000))),
];

#[test]
fn known_boards_are_found_as_their_manuals_say() {
    let Some(files) = corpus() else { return };
    let mut seen = 0;
    for (name, cpus, gicd, gicr, uart) in BOARDS {
        let Some(file) = files.iter().find(|file| file.ends_with(name)) else {
            continue;
        };
        let blob = std::fs::read(file).unwrap();
        let tree = Tree::new(&blob).unwrap();
        let gic = board::gic(&tree).unwrap();
        assert_eq!(board::cpus(&tree).unwrap().len(), cpus, "{name}");
        assert_eq!(
            (gic.gicd.start(), gic.gicr[0].start(), gic.maintenance),
            (gicd, gicr, Some(25)),
            "{name}"
        );
        assert_eq!(
            board::console(&tree).map(|console| (console.kind, console.base.get())),
            uart,
            "{name}"
        );
        assert_eq!(board::psci(&tree), Some(board::PsciMethod::Smc), "{name}");
        seen += 1;
    }
    let pi = files
        .iter()
        .find(|file| file.ends_with("bcm2711-rpi-4-b.dtb"))
        .expect("a Raspberry Pi 4");
    let pi = std::fs::read(pi).unwrap();
    assert_eq!(
        board::gic(&Tree::new(&pi).unwrap()).unwrap_err(),
        BoardError::GicV2 { compatible: "arm,gic-400" }
    );
    assert!(seen >= 4, "only {seen} of the known boards are in the corpus");
}

#[test]
fn damaged_trees_of_real_boards_are_read_or_refused() {
    let Some(files) = corpus() else { return };
    let mut random = Random(0x5eed_0003);
    let mut refused = 0;
    for file in files.iter().step_by(5) {
        let whole = std::fs::read(file).unwrap();
        for _ in 0..4 {
            let mut blob = whole.clone();
            for _ in 0..=random.below(6) {
                let at = random.below(blob.len());
                blob[at] = random.next() as u8;
            }
            refused += usize::from(matches!(Board::discover(&blob), Err(BoardError::Tree(error)) if error != TreeError::NoTree));
        }
    }
    eprintln!("{refused} damaged trees were refused for their structure");
}
