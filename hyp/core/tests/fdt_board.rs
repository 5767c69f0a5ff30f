//! What `fdt::board` makes of QEMU's tree and of trees with the peculiarities of real boards.
#![cfg(not(miri))] // Hours under miri, and no unsafe code is reached: `fdt_guest` reads and writes a tree there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what only tests call is a test")]

mod fdt_source;

use fdt_source::{Node, QEMU_GICV2, QEMU_GICV3, cells, node, quads, strings};
use hyp_core::fdt::board::{Board, BoardError, Console, Cpu, MAX_CPUS, MAX_GICR, MAX_RESERVED, PsciMethod, UartKind, console, psci};
use hyp_core::fdt::{MAX_DEPTH, Tree, TreeError};
use hyp_core::types::{Pa, Range};

fn r(start: u64, size: u64) -> Range {
    Range::new(start, size).unwrap()
}

fn qemu() -> Node {
    Node::read(QEMU_GICV3)
}

fn discover(tree: &Node) -> Result<Board, BoardError> {
    Board::discover(&tree.write())
}

/// A board as SoCs' trees describe theirs: a bus with `ranges`, one-cell addresses below it, two-cell affinities.
fn soc() -> Node {
    node("")
        .set("#address-cells", cells(&[2]))
        .set("#size-cells", cells(&[2]))
        .set("interrupt-parent", cells(&[1]))
        .with(node("aliases").set("serial2", strings(&["/soc/bus@10000000/serial@800"])))
        .with(node("chosen").set("stdout-path", strings(&["serial2:1500000n8"])))
        .with(
            node("memory@80000000")
                .set("device_type", strings(&["memory"]))
                .set("reg", quads(&[0x8000_0000, 0x4000_0000])),
        )
        .with(
            node("cpus")
                .set("#address-cells", cells(&[2]))
                .set("#size-cells", cells(&[0]))
                .with(node("cpu-map"))
                .with(cpu("cpu@0", 0))
                .with(cpu("cpu@100", 0x100))
                .with(cpu("cpu@10000", 0x1_0000).set("status", strings(&["fail"])))
                .with(cpu("cpu@10100", 0x1_0100).set("status", strings(&["disabled"])))
                .with(
                    cpu("cpu@100000000", 0x1_0000_0000)
                        .set("status", strings(&["okay"]))
                        .set("enable-method", strings(&["spin-table"])),
                ),
        )
        .with(
            node("soc")
                .set("compatible", strings(&["simple-bus"]))
                .set("#address-cells", cells(&[1]))
                .set("#size-cells", cells(&[1]))
                // 0x1000_0000 here is 0x3_1000_0000 above; a second window for the GIC.
                .set(
                    "ranges",
                    [
                        cells(&[0x1000_0000]),
                        quads(&[0x3_1000_0000]),
                        cells(&[0x100_0000]),
                        cells(&[0x4000_0000]),
                        quads(&[0xfe60_0000]),
                        cells(&[0x20_0000]),
                    ]
                    .concat(),
                )
                .with(gic(
                    "interrupt-controller@40000000",
                    &[0x4000_0000, 0x1_0000, 0x4008_0000, 0x10_0000],
                ))
                .with(
                    node("bus@10000000")
                        .set("#address-cells", cells(&[1]))
                        .set("#size-cells", cells(&[1]))
                        .set("ranges", cells(&[0, 0x1000_0000, 0x10_0000]))
                        .with(
                            node("serial@800")
                                .set("compatible", strings(&["rockchip,rk3588-uart", "snps,dw-apb-uart"]))
                                .set("reg", cells(&[0x800, 0x100]))
                                .set("reg-shift", cells(&[2]))
                                .set("reg-io-width", cells(&[4])),
                        ),
                ),
        )
}

fn cpu(name: &str, affinity: u64) -> Node {
    node(name)
        .set("device_type", strings(&["cpu"]))
        .set("enable-method", strings(&["psci"]))
        .set("reg", quads(&[affinity]))
}

fn gic(name: &str, reg: &[u32]) -> Node {
    node(name)
        .set("compatible", strings(&["arm,gic-v3"]))
        .set("reg", cells(reg))
        .set("#interrupt-cells", cells(&[4]))
        .set("interrupts", cells(&[1, 9, 4, 0]))
}

#[test]
fn a_tree_that_does_not_lie_as_the_boot_protocol_asks_is_refused() {
    let blob = qemu().write();
    for offset in 1..4 {
        let mut room = vec![0; offset];
        room.extend(&blob);
        assert_eq!(Tree::new(&room[offset..]).err(), Some(TreeError::Unaligned), "{offset}");
    }
}

#[test]
fn what_a_node_is_compatible_with_may_come_last() {
    let mut tree = soc();
    tree.at("/soc/interrupt-controller@40000000")
        .put("compatible", strings(&["vendor,gic", "arm,gic-v3"]));
    let expected = discover(&soc()).unwrap().gic;
    assert_eq!(discover(&tree).unwrap().gic, expected);
}

#[test]
fn qemus_virt_machine_is_found_whole() {
    let board = Board::discover(QEMU_GICV3).unwrap();
    assert_eq!(board.ram.as_slice(), [r(0x4000_0000, 0x4000_0000)]);
    assert!(board.reserved.as_slice().is_empty());
    assert_eq!(board.cpus.as_slice(), [0, 1, 2, 3, 4].map(|affinity| Cpu { affinity }));
    assert_eq!(board.psci, Some(PsciMethod::Smc));
    assert_eq!(board.gic.gicd, r(0x0800_0000, 0x1_0000));
    assert_eq!(board.gic.gicr.as_slice(), [r(0x080a_0000, 0xf6_0000)]);
    assert_eq!((board.gic.stride, board.gic.maintenance), (None, Some(25)));
    assert_eq!(
        board.console,
        Some(Console {
            kind: UartKind::Pl011,
            base: Pa::new(0x0900_0000),
            interrupt: Some(33),
        })
    );
    assert!(board.chosen.nonce.is_empty() && !board.chosen.semihosting && !board.chosen.console_mux);
    assert_eq!(board.chosen.loglevel, None);
}

#[test]
fn a_gicv2_is_named_and_there_is_a_console_to_say_it_on() {
    assert_eq!(
        Board::discover(QEMU_GICV2).unwrap_err(),
        BoardError::GicV2 {
            compatible: "arm,cortex-a15-gic"
        }
    );
    assert!(console(&Tree::new(QEMU_GICV2).unwrap()).is_some());
}

#[test]
fn cpus_keep_the_trees_order_and_sparse_affinities_and_unusable_ones_are_passed_over() {
    let cpus = discover(&soc()).unwrap().cpus;
    assert_eq!(cpus.iter().map(|cpu| cpu.affinity).collect::<Vec<_>>(), [0, 0x100, 0x1_0000_0000]);
}

#[test]
fn an_affinity_of_one_cell_or_two_is_the_same() {
    let mut tree = soc();
    let cpus = tree.at("cpus");
    *cpus = node("cpus")
        .set("#address-cells", cells(&[1]))
        .with(node("cpu@10203").set("reg", cells(&[0x1_0203])));
    assert_eq!(discover(&tree).unwrap().cpus[0], Cpu { affinity: 0x1_0203 });
}

#[test]
fn the_boot_loaders_seeds_are_folded_and_without_any_there_is_none() {
    let seed = |rng: &[u8], kaslr: &[u8]| {
        let mut tree = soc();
        let chosen = tree.at("chosen");
        for (name, bytes) in [("rng-seed", rng), ("kaslr-seed", kaslr)] {
            if !bytes.is_empty() {
                chosen.put(name, bytes.to_vec());
            }
        }
        discover(&tree).unwrap().chosen.seed
    };
    assert_eq!(seed(b"", b""), None);
    // FNV-1a of "foobar", wherever it stands.
    for (rng, kaslr) in [(&b"foobar"[..], &b""[..]), (b"", b"foobar"), (b"foo", b"bar")] {
        assert_eq!(seed(rng, kaslr), Some(0x8594_4171_f739_67e8));
    }
}

#[test]
fn timers_with_other_interrupts_are_refused() {
    let with = |ppis: &[u32], fourth: &[u32]| {
        let specifier = |ppi: &u32| [&[1, *ppi, 0xf08], fourth].concat();
        let interrupts: Vec<u32> = ppis.iter().flat_map(specifier).collect();
        let mut tree = soc();
        tree.children.push(
            node("timer")
                .set("compatible", strings(&["vendor,timer", "arm,armv8-timer"]))
                .set("interrupts", cells(&interrupts)),
        );
        tree
    };
    let refused = |tree: &Node| discover(tree).err() == Some(BoardError::OtherTimers);
    for (ppis, other) in [
        (&[13, 14, 11, 10][..], false),
        (&[13, 14, 11, 10, 12], false),
        // With names, and without the secure one.
        (&[14, 11, 10, 12], false),
        // As a Snapdragon 845 and an Actions S900 have them.
        (&[1, 2, 3, 0], true),
        (&[9, 8, 10, 7], true),
        (&[13, 14, 3, 10], true),
        (&[13, 14, 11, 0], true),
        (&[13, 14, 10, 11], true),
        (&[13, 14], true),
        (&[], true),
    ] {
        assert_eq!(refused(&with(ppis, &[])), other, "{ppis:?}");
        assert_eq!(refused(&with(ppis, &[0])), other, "{ppis:?}, in specifiers of four cells");
    }
    // An SPI 11, and half a specifier.
    let mut tree = with(&[], &[]);
    tree.at("timer").put("interrupts", cells(&[1, 13, 8, 1, 14, 8, 0, 11, 8, 1, 10, 8]));
    assert!(refused(&tree));
    tree.at("timer").put("interrupts", cells(&[1, 13, 8, 1, 14, 8, 1, 11, 8, 1]));
    assert!(refused(&tree));
    // What says nothing.
    tree.at("timer").remove("interrupts");
    assert!(!refused(&tree));
    let mut tree = with(&[1, 2, 3, 0], &[]);
    tree.at("timer").put("compatible", strings(&["vendor,timer"]));
    assert!(!refused(&tree));
}

#[test]
fn the_consoles_interrupt_is_an_spi_of_the_gic_or_none() {
    for (interrupts, intid) in [
        (&[0, 3, 4, 0][..], Some(35)),
        (&[0, 3, 4], Some(35)),
        (&[0, 987, 1], Some(1019)),
        (&[0, 988, 1], None),
        (&[1, 3, 4], None),
        (&[], None),
        // Behind a controller of its own, at its lines 0 and 3.
        (&[0, 4], None),
        (&[0], None),
        (&[3, 4], None),
    ] {
        let mut tree = soc();
        tree.at("soc/bus@10000000/serial@800").put("interrupts", cells(interrupts));
        assert_eq!(discover(&tree).unwrap().console.unwrap().interrupt, intid, "{interrupts:?}");
    }
}

#[test]
fn what_is_no_affinity_is_refused() {
    for bits in [0x8000_0000, 0x100_0000_0000, 0x0100_0000] {
        let mut tree = soc();
        tree.at("cpus/cpu@100").put("reg", quads(&[bits]));
        assert_eq!(discover(&tree).unwrap_err(), BoardError::BadCpu { index: 1 }, "{bits:#x}");
    }
    let mut tree = soc();
    tree.at("cpus/cpu@100").put("reg", quads(&[0]));
    assert_eq!(discover(&tree).unwrap_err(), BoardError::SameCpu { affinity: 0 });
    tree.at("cpus/cpu@100").remove("reg");
    assert_eq!(discover(&tree).unwrap_err(), BoardError::BadCpu { index: 1 });
}

#[test]
fn addresses_go_up_through_the_ranges_of_every_bus() {
    let board = discover(&soc()).unwrap();
    let kind = UartKind::Uart8250 { reg_shift: 2, io_width: 4 };
    assert_eq!(
        board.console,
        Some(Console {
            kind,
            base: Pa::new(0x3_1000_0800),
            interrupt: None,
        })
    );
    assert_eq!(board.gic.gicd, r(0xfe60_0000, 0x1_0000));
    assert_eq!(board.gic.gicr.as_slice(), [r(0xfe68_0000, 0x10_0000)]);
}

#[test]
fn an_address_that_no_bus_maps_is_none() {
    let mut tree = soc();
    tree.at("soc/bus@10000000").remove("ranges");
    assert_eq!(discover(&tree).unwrap().console, None);
    let mut tree = soc();
    tree.at("soc/interrupt-controller@40000000")
        .put("reg", cells(&[0x4000_0000, 0x1_0000, 0x4800_0000, 0x10_0000]));
    assert_eq!(discover(&tree).unwrap_err(), BoardError::BadGic);
}

#[test]
fn a_maintenance_interrupt_in_a_specifier_of_four_cells_is_found_and_an_spi_is_none() {
    assert_eq!(discover(&soc()).unwrap().gic.maintenance, Some(25));
    for interrupts in [[0, 9, 4, 0], [1, 16, 4, 0], [3, 9, 4, 0]] {
        let mut tree = soc();
        tree.at("soc/interrupt-controller@40000000").put("interrupts", cells(&interrupts));
        assert_eq!(discover(&tree).unwrap().gic.maintenance, None);
    }
}

#[test]
fn several_redistributor_regions_and_a_stride_are_kept() {
    let mut tree = qemu();
    let gic = tree.at("intc@8000000");
    gic.put(
        "reg",
        quads(&[
            0x800_0000, 0x1_0000, 0x900_0000, 0x10_0000, 0xa00_0000, 0x20_0000, 0xb00_0000, 0x1000,
        ]),
    );
    gic.put("#redistributor-regions", cells(&[2]));
    gic.put("redistributor-stride", quads(&[0x4_0000]));
    let gic = discover(&tree).unwrap().gic;
    assert_eq!(gic.gicr.as_slice(), [r(0x900_0000, 0x10_0000), r(0xa00_0000, 0x20_0000)]);
    assert_eq!(gic.stride, Some(0x4_0000));
}

#[test]
fn a_gic_without_its_frames_is_refused() {
    let mut tree = qemu();
    for (reg, regions) in [
        (quads(&[0x800_0000, 0x1_0000]), 1),
        (quads(&[]), 1),
        (quads(&[0, 1, 2, 3]), 2),
        (quads(&[0, 1, 2, 3]), 0),
    ] {
        tree.at("intc@8000000").put("reg", reg);
        tree.at("intc@8000000").put("#redistributor-regions", cells(&[regions]));
        assert_eq!(discover(&tree).unwrap_err(), BoardError::BadGic);
    }
    tree.at("intc@8000000").put("#redistributor-regions", cells(&[u32::MAX]));
    assert_eq!(
        discover(&tree).unwrap_err(),
        BoardError::TooMany {
            what: "GIC redistributor regions",
            most: MAX_GICR
        }
    );
    tree.at("intc@8000000").put("compatible", strings(&["arm,gic-v5"]));
    assert_eq!(discover(&tree).unwrap_err(), BoardError::NoGic);
}

#[test]
fn ram_is_every_memory_node_sorted_and_merged() {
    let mut tree = soc();
    tree.children.push(
        node("memory@0")
            .set("device_type", strings(&["memory"]))
            .set("reg", quads(&[0, 0x1000, 0x7000_0000, 0x1000_0000])),
    );
    tree.children.push(
        node("memory@c0000000")
            .set("status", strings(&["disabled"]))
            .set("reg", quads(&[0xc000_0000, 0x1000])),
    );
    tree.children
        .push(node("memory-controller@1").set("reg", quads(&[0xd000_0000, 0x1000])));
    assert_eq!(discover(&tree).unwrap().ram.as_slice(), [r(0, 0x1000), r(0x7000_0000, 0x5000_0000)]);
    tree.children.retain(|child| !child.name.starts_with("memory@"));
    assert_eq!(discover(&tree).unwrap_err(), BoardError::NoRam);
}

#[test]
fn reserved_memory_comes_from_both_places() {
    let mut tree = soc();
    let child = |name: &str, start, size| node(name).set("reg", quads(&[start, size]));
    let parent = node("reserved-memory")
        .set("#address-cells", cells(&[2]))
        .set("#size-cells", cells(&[2]))
        .set("ranges", []);
    tree.children.push(
        parent
            .with(child("atf@80000000", 0x8000_0000, 0x10_0000).set("no-map", []))
            .with(child("off@90000000", 0x9000_0000, 0x1000).set("status", strings(&["disabled"])))
            .with(node("cma").set("size", quads(&[0x100_0000]))),
    );
    let blob = tree.write_with_reservations(&[(0xa000_0000, 0x2000)]);
    let board = Board::discover(&blob).unwrap();
    assert_eq!(board.reserved.as_slice(), [r(0x8000_0000, 0x10_0000), r(0xa000_0000, 0x2000)]);
    // Translated where there is something to translate: entry, bus address and physical address of two cells each.
    tree.at("reserved-memory")
        .put("ranges", quads(&[0x8000_0000, 0xb000_0000, 0x100_0000]));
    assert_eq!(discover(&tree).unwrap().reserved.as_slice(), [r(0xb000_0000, 0x10_0000)]);
    // Without `ranges` too: better reserved for nothing than overwritten.
    tree.at("reserved-memory").remove("ranges");
    assert_eq!(discover(&tree).unwrap().reserved.as_slice(), [r(0x8000_0000, 0x10_0000)]);
}

#[test]
fn more_than_fits_in_a_table_is_an_error_and_never_half_the_truth() {
    let mut tree = soc();
    let mut parent = node("reserved-memory")
        .set("#address-cells", cells(&[2]))
        .set("#size-cells", cells(&[2]))
        .set("ranges", []);
    for index in 0..=MAX_RESERVED as u64 {
        parent = parent.with(node(&format!("r@{index:x}")).set("reg", quads(&[index * 0x2000, 0x1000])));
    }
    tree.children.push(parent);
    assert_eq!(
        discover(&tree).unwrap_err(),
        BoardError::TooMany {
            what: "reserved ranges",
            most: MAX_RESERVED
        }
    );
    let mut tree = soc();
    for index in 0..=MAX_CPUS as u64 {
        tree.at("cpus")
            .children
            .push(cpu(&format!("cpu@{index:x}"), 0x2_0000 + index % 16 + ((index / 16) << 8)));
    }
    assert_eq!(
        discover(&tree).unwrap_err(),
        BoardError::TooMany {
            what: "CPUs",
            most: MAX_CPUS
        }
    );
    tree.at("cpus").children.clear();
    assert_eq!(discover(&tree).unwrap_err(), BoardError::NoCpu);
    tree.drop_child("cpus");
    assert_eq!(discover(&tree).unwrap_err(), BoardError::NoCpu);
}

#[test]
fn the_console_is_found_by_path_by_alias_and_with_options() {
    let found = |tree: &Node| console(&Tree::new(&tree.write()).unwrap()).map(|console| console.base.get());
    for (path, base) in [
        ("/soc/bus@10000000/serial@800", Some(0x3_1000_0800)),
        ("/soc/bus/serial:115200n8", Some(0x3_1000_0800)),
        ("serial2", Some(0x3_1000_0800)),
        ("serial2:1500000n8", Some(0x3_1000_0800)),
        ("serial3", None),
        ("", None),
        ("/", None),
        ("//", None),
        ("/soc/bus@10000000/serial@801", None),
    ] {
        let mut tree = soc();
        tree.at("chosen").put("stdout-path", strings(&[path]));
        assert_eq!(found(&tree), base, "{path}");
    }
    let mut tree = soc();
    tree.at("chosen").remove("stdout-path");
    assert_eq!(found(&tree), None);
    tree.at("chosen").put("linux,stdout-path", strings(&["serial2"]));
    assert_eq!(found(&tree), Some(0x3_1000_0800));
    // An alias of itself, and one of another alias: neither is followed round.
    tree.at("aliases").put("serial2", strings(&["serial2"]));
    assert_eq!(found(&tree), None);
}

#[test]
fn uarts_are_recognised_by_what_they_are_compatible_with() {
    for (compatible, extra, kind) in [
        (vec!["arm,sbsa-uart"], None, Some(UartKind::Pl011)),
        (vec!["arm,pl011", "arm,primecell"], None, Some(UartKind::Pl011)),
        (vec!["fsl,imx8mp-uart", "fsl,imx6q-uart"], None, Some(UartKind::Imx)),
        (vec!["ns16550a"], None, Some(UartKind::Uart8250 { reg_shift: 0, io_width: 1 })),
        (
            vec!["ti,am64-uart", "ti,am654-uart"],
            None,
            Some(UartKind::Uart8250 { reg_shift: 2, io_width: 4 }),
        ),
        (vec!["snps,dw-apb-uart"], Some(9), None),
        (vec!["amlogic,meson-gx-uart"], None, None),
    ] {
        let mut tree = soc();
        let uart = tree.at("soc/bus@10000000/serial@800");
        *uart = node("serial@800")
            .set("reg", cells(&[0x800, 0x100]))
            .set("compatible", strings(&compatible));
        if let Some(shift) = extra {
            uart.put("reg-shift", cells(&[shift]));
        }
        assert_eq!(discover(&tree).unwrap().console.map(|console| console.kind), kind, "{compatible:?}");
    }
}

#[test]
fn psci_is_known_by_its_version_and_its_conduit() {
    let found = |compatible: &[&str], method: &str| {
        let tree = node("").with(
            node("psci")
                .set("compatible", strings(compatible))
                .set("method", strings(&[method])),
        );
        psci(&Tree::new(&tree.write()).unwrap())
    };
    assert_eq!(found(&["arm,psci", "arm,psci-0.2", "arm,psci-1.0"], "hvc"), Some(PsciMethod::Hvc));
    assert_eq!(found(&["arm,psci-0.2"], "smc"), Some(PsciMethod::Smc));
    // Its function identifiers are the node's to say.
    assert_eq!(found(&["arm,psci"], "hvc"), None);
    assert_eq!(found(&["arm,psci-1.0"], "svc"), None);
    assert_eq!(found(&["vendor,psci"], "smc"), None);
}

#[test]
fn chosen_speaks_to_umbra() {
    let mut tree = qemu();
    let chosen = tree.at("chosen");
    chosen.put("umbra,nonce", strings(&["0123abcd"]));
    chosen.put("umbra,semihosting", []);
    chosen.put("umbra,console-mux", []);
    chosen.put("bootargs", strings(&["loglevel=3"]));
    let found = discover(&tree).unwrap().chosen;
    assert_eq!(
        (found.nonce.as_str(), found.semihosting, found.console_mux, found.loglevel),
        ("0123abcd", true, true, Some(3))
    );
    tree.at("chosen").put("umbra,nonce", strings(&[&"f".repeat(65)]));
    assert!(discover(&tree).unwrap().chosen.nonce.is_empty());
}

#[test]
fn deleted_entries_are_passed_over() {
    // A byte image with a NOP before, between and after everything in the root: written by hand around vm-fdt's output.
    let plain = soc().write();
    let word = |blob: &[u8], at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
    let (start, size) = (word(&plain, 8), word(&plain, 36));
    let (mut at, mut structure) = (start, Vec::new());
    while at < start + size {
        structure.extend(4u32.to_be_bytes());
        let length = match word(&plain, at) {
            1 => 4 + (plain[at + 4..].iter().position(|byte| *byte == 0).unwrap() + 4) / 4 * 4,
            3 => 12 + word(&plain, at + 4).next_multiple_of(4),
            _ => 4,
        };
        structure.extend(&plain[at..at + length]);
        at += length;
    }
    let mut blob = plain.clone();
    let strings = plain[word(&plain, 12)..].to_vec();
    blob.truncate(start);
    blob.extend(&structure);
    let strings_at = blob.len();
    blob.extend(&strings);
    for (at, value) in [(4, blob.len()), (12, strings_at), (36, structure.len())] {
        blob[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes());
    }
    let (board, without) = (Board::discover(&blob).unwrap(), Board::discover(&plain).unwrap());
    assert_eq!(format!("{board:?}"), format!("{without:?}"));
}

#[test]
fn a_tree_nested_too_deep_is_refused_and_the_deepest_allowed_is_read() {
    let nested = |levels: usize| (1..levels).fold(node("deepest"), |inner, _| node("n").with(inner));
    assert!(Tree::new(&node("").with(nested(MAX_DEPTH - 1)).write()).is_ok());
    assert!(matches!(
        Tree::new(&node("").with(nested(MAX_DEPTH)).write()),
        Err(TreeError::TooDeep { .. })
    ));
}

#[test]
fn headers_that_lie_are_refused() {
    let damage = |at: usize, value: u32| {
        let mut blob = QEMU_GICV3.to_vec();
        blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
        Tree::new(&blob).err()
    };
    assert_eq!(Tree::new(&[]).err(), Some(TreeError::Truncated));
    assert_eq!(Tree::new(&QEMU_GICV3[..QEMU_GICV3.len() - 1]).err(), Some(TreeError::Truncated));
    assert_eq!(damage(0, 0x1234), Some(TreeError::NoTree));
    assert_eq!(damage(4, 39), Some(TreeError::Truncated));
    assert_eq!(damage(8, u32::MAX - 3), Some(TreeError::Header { block: "structure block" }));
    assert_eq!(damage(36, u32::MAX), Some(TreeError::Header { block: "structure block" }));
    assert_eq!(damage(12, u32::MAX), Some(TreeError::Header { block: "strings block" }));
    assert_eq!(
        damage(16, 0xffff_fff8),
        Some(TreeError::Header {
            block: "memory reservation block"
        })
    );
    assert_eq!(damage(20, 16), Some(TreeError::Version { version: 16 }));
    assert_eq!(damage(24, 18), Some(TreeError::Version { version: 17 }));
}

#[test]
fn a_blob_longer_than_its_tree_is_read() {
    let mut blob = QEMU_GICV3.to_vec();
    blob.resize(blob.len() + 4096, 0xa5);
    assert_eq!(Tree::new(&blob).unwrap().size(), QEMU_GICV3.len());
    assert!(Board::discover(&blob).is_ok());
}

#[test]
fn counts_of_cells_that_make_no_sense_end_in_an_error_not_in_a_loop() {
    for count in [0, 3, 5, 1 << 30, u32::MAX] {
        for name in ["#address-cells", "#size-cells"] {
            for path in ["", "soc", "cpus", "soc/bus@10000000"] {
                let mut tree = soc();
                tree.at(path).put(name, cells(&[count]));
                let _ = discover(&tree);
            }
        }
    }
    // Nothing at all to a reg entry, nothing at all to a ranges entry.
    let paths = ["", "soc", "cpus", "soc/bus@10000000"];
    for zeroed in 0..1 << paths.len() {
        let mut tree = soc();
        for path in (0..paths.len()).filter(|bit| zeroed >> bit & 1 != 0).map(|bit| paths[bit]) {
            tree.at(path).put("#address-cells", cells(&[0]));
            tree.at(path).put("#size-cells", cells(&[0]));
        }
        let _ = discover(&tree);
        let _ = console(&Tree::new(&tree.write()).unwrap());
    }
}

#[test]
fn every_message_is_in_the_page_for_users() {
    let document = include_str!("../../../docs/devicetree.md").replace('`', "'");
    let errors = [
        BoardError::Tree(TreeError::NoTree),
        BoardError::Tree(TreeError::Truncated),
        BoardError::Tree(TreeError::Version { version: 16 }),
        BoardError::Tree(TreeError::Header { block: "strings block" }),
        BoardError::Tree(TreeError::Structure { offset: 0x40 }),
        BoardError::Tree(TreeError::TooDeep { offset: 0x40 }),
        BoardError::NoRam,
        BoardError::NoCpu,
        BoardError::BadCpu { index: 0 },
        BoardError::SameCpu { affinity: 0x40 },
        BoardError::NoGic,
        BoardError::GicV2 { compatible: "arm,gic-400" },
        BoardError::BadGic,
        BoardError::OtherTimers,
        BoardError::TooMany { what: "CPUs", most: 64 },
    ];
    for error in errors {
        let message = error.to_string().replace('`', "'");
        let words = [
            ("format 16", "format N"),
            ("strings block", "BLOCK"),
            ("0x40", "N"),
            ("CPU 0", "CPU N"),
            ("(arm,gic-400)", "(NAME)"),
            ("64 CPUs", "N THINGS"),
        ];
        let message = words.iter().fold(message, |message, (value, word)| message.replace(value, word));
        assert!(document.contains(&format!("'{message}'")), "docs/devicetree.md lacks {message:?}");
    }
}

/// A blob around the words of a structure block, with one property name, "p", at offset 0 of the strings.
fn raw(structure: &[u32], reservations: &[u64]) -> Vec<u8> {
    let body = [quads(reservations), cells(structure), b"p\0".to_vec()].concat();
    let (at_structure, at_strings) = (40 + reservations.len() * 8, 40 + reservations.len() * 8 + structure.len() * 4);
    let header = [
        0xd00d_feed,
        40 + body.len(),
        at_structure,
        at_strings,
        40,
        17,
        16,
        0,
        2,
        structure.len() * 4,
    ];
    [cells(&header.map(|word| word as u32)), body].concat()
}

#[test]
fn structures_that_break_the_formats_rules_are_refused() {
    const BEGIN: u32 = 1;
    const STOP: u32 = 2;
    const PROP: u32 = 3;
    const END: u32 = 9;
    const X: u32 = u32::from_be_bytes(*b"x\0\0\0");
    let read = |structure: &[u32]| Tree::new(&raw(structure, &[0, 0])).map(|_| ());
    let at = |offset| Err(TreeError::Structure { offset });
    assert_eq!(read(&[BEGIN, 0, PROP, 4, 0, 7, BEGIN, X, STOP, STOP, END]), Ok(()));
    for (structure, result) in [
        (&[BEGIN, 0, BEGIN, X, STOP, PROP, 0, 0, STOP, END][..], at(20)), // a property after a child
        (&[PROP, 0, 0, BEGIN, 0, STOP, END], at(0)),                      // a property before the root
        (&[BEGIN, 0, STOP, BEGIN, 0, STOP, END], at(12)),                 // two roots
        (&[BEGIN, X, STOP, END], at(0)),                                  // a root with a name
        (&[BEGIN, 0, BEGIN, 0, STOP, STOP, END], at(8)),                  // a child without one
        (&[BEGIN, 0xff00_0000, STOP, END], at(0)),                        // a name that is no text
        (&[BEGIN, 0x7878_7878], at(0)),                                   // a name without an end
        (&[BEGIN, 0, PROP, 0, 2, STOP, END], at(8)),                      // a property's name outside the strings
        (&[BEGIN, 0, PROP, 0, 1, STOP, END], at(8)),                      // a property without a name
        (&[BEGIN, 0, PROP, 9, 0, 1, STOP, END], at(8 + 12 + 12)),         // a value that takes the end of the node
        (&[BEGIN, 0, PROP, u32::MAX, 0, STOP, END], at(8)),               // a value beyond the block
        (&[BEGIN, 0, STOP, STOP, END], at(12)),                           // an end too many
        (&[BEGIN, 0, END], at(8)),                                        // an end too few
        (&[BEGIN, 0, STOP], at(12)),                                      // no end of the tree
        (&[END], at(0)),                                                  // no root
        (&[BEGIN, 0, 5, STOP, END], at(8)),                               // an unknown token
    ] {
        assert_eq!(read(structure), result, "{structure:x?}");
    }
}

#[test]
fn a_reservation_block_without_an_end_is_refused() {
    let structure = [1, 0, 2, 9];
    let block = |reservations: &[u64]| Tree::new(&raw(&structure, reservations)).map(|tree| tree.reservations().collect::<Vec<_>>());
    assert_eq!(block(&[0x1000, 0x10, 0, 0]), Ok(vec![r(0x1000, 0x10)]));
    assert_eq!(block(&[u64::MAX, 0x10, 0, 0]), Ok(vec![]));
    // Without the entry of zeros the reader would take the structure for reservations.
    assert_eq!(
        block(&[0x1000, 0x10]),
        Err(TreeError::Header {
            block: "memory reservation block"
        })
    );
    assert_eq!(
        block(&[]),
        Err(TreeError::Header {
            block: "memory reservation block"
        })
    );
}

#[test]
fn addresses_of_more_than_two_cells_count_when_they_fit_in_64_bits() {
    let serial = |high: u32| {
        let mut tree = soc();
        let bus = tree.at("soc/bus@10000000");
        bus.put("#address-cells", cells(&[3]));
        bus.put("ranges", cells(&[0, 0, 0, 0x1000_0000, 0x10_0000]));
        bus.at("serial@800").put("reg", cells(&[high, 0, 0x800, 0x100]));
        discover(&tree).unwrap().console.map(|console| console.base.get())
    };
    assert_eq!((serial(0), serial(1)), (Some(0x3_1000_0800), None));
}

#[test]
fn what_comes_after_more_nodes_than_are_noted_is_found_all_the_same() {
    let mut tree = soc();
    let plain = discover(&tree).unwrap();
    // Before everything else: more children of the root, and more nodes that discovery looks for, than there is room to note.
    let psci = |name: &str| {
        node(name)
            .set("compatible", strings(&["arm,psci-1.0"]))
            .set("status", strings(&["disabled"]))
    };
    let timers = (0..40).fold(node("bus"), |bus, index| bus.with(psci(&format!("psci@{index:x}"))));
    let others = (0..100).map(|index| node(&format!("filler@{index:x}")).with(node("inner")));
    let first: Vec<Node> = core::iter::once(timers).chain(others).collect();
    tree.children.splice(0..0, first);
    assert_eq!(format!("{:?}", discover(&tree).unwrap()), format!("{plain:?}"));
}
