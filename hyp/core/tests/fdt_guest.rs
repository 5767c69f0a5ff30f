//! The tree that a guest gets, read back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what only tests call is a test")]

mod fdt_source;

use std::io::Write;
use std::process::{Command, Stdio};

use fdt_source::{Node, cells, quads, strings};
use hyp_abi::layout;
use hyp_core::fdt::Tree;
use hyp_core::fdt::board::{Board, Console, PsciMethod, UartKind};
use hyp_core::fdt::guest::GuestTree;
use hyp_core::fdt::vms::{DTB_SIZE, Device, Spi};
use hyp_core::types::{Pa, Range};

fn guest(vcpus: usize) -> GuestTree<'static> {
    GuestTree {
        ram: Range::new(0x4000_0000, 0x1000_0000).unwrap(),
        vcpus,
        bootargs: b"console=ttyAMA0 earlycon",
        initrd: Range::new(0x4820_0000, 0x12345),
        seed: None,
        devices: &[],
    }
}

/// The tree as a blob.
fn write(tree: &GuestTree<'_>) -> Vec<u8> {
    let mut words = vec![0; tree.size().div_ceil(4)];
    tree.write(&mut words).unwrap().to_vec()
}

#[test]
fn it_describes_the_machine_that_umbra_emulates() {
    let blob = write(&guest(4));
    let board = Board::discover(&blob).unwrap();
    assert_eq!(board.ram.as_slice(), [Range::new(0x4000_0000, 0x1000_0000).unwrap()]);
    assert_eq!(board.cpus.iter().map(|cpu| cpu.affinity).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(board.psci, Some(PsciMethod::Hvc));
    assert_eq!(board.gic.gicd, Range::new(layout::GICD_BASE, layout::GICD_SIZE).unwrap());
    assert_eq!(
        board.gic.gicr.as_slice(),
        [Range::new(layout::GICR_BASE, 4 * layout::GICR_STRIDE).unwrap()]
    );
    assert_eq!(board.gic.maintenance, None, "a guest has no virtualization");
    assert_eq!(
        board.console,
        Some(Console {
            kind: UartKind::Pl011,
            base: Pa::new(layout::UART_BASE),
            interrupt: Some(33),
        })
    );
}

#[test]
fn it_has_the_properties_that_drivers_ask_for() {
    let mut tree = Node::read(&write(&guest(2)));
    let mut property = |path: &str, name: &str| -> Vec<u8> {
        let node = tree.at(path);
        node.properties
            .iter()
            .find(|(have, _)| have == name)
            .unwrap_or_else(|| panic!("{path} {name}"))
            .1
            .clone()
    };
    assert_eq!(property("", "compatible"), strings(&["linux,dummy-virt"]));
    assert_eq!(property("", "interrupt-parent"), property("intc@8000000", "phandle"));
    assert_eq!(property("chosen", "bootargs"), strings(&["console=ttyAMA0 earlycon"]));
    assert_eq!(property("chosen", "linux,initrd-start"), quads(&[0x4820_0000]));
    assert_eq!(property("chosen", "linux,initrd-end"), quads(&[0x4821_2345]));
    assert_eq!(property("cpus/cpu@1", "enable-method"), strings(&["psci"]));
    assert_eq!(property("pl011@9000000", "compatible"), strings(&["arm,pl011", "arm,primecell"]));
    assert_eq!(property("pl011@9000000", "interrupts"), cells(&[0, 1, 4]));
    assert_eq!(property("pl011@9000000", "clocks")[..4], property("apb-pclk", "phandle")[..]);
    assert_eq!(property("timer", "interrupts"), cells(&[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]));
}

#[test]
fn without_command_line_and_initrd_their_properties_are_absent() {
    let blob = write(&GuestTree {
        bootargs: b"",
        initrd: None,
        ..guest(1)
    });
    let names: Vec<_> = Node::read(&blob)
        .at("chosen")
        .properties
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(names, ["stdout-path"]);
}

#[test]
fn a_command_line_with_a_nul_is_an_error() {
    let tree = GuestTree {
        bootargs: b"a\0b",
        ..guest(1)
    };
    assert!(tree.write(&mut [0; 4096]).is_none());
}

#[test]
#[cfg_attr(miri, ignore = "a long string is slow there")]
fn the_largest_fits_in_the_room_kept_for_it() {
    let bootargs = "x".repeat(hyp_core::fdt::vms::MAX_BOOTARGS);
    let blob = write(&GuestTree {
        bootargs: bootargs.as_bytes(),
        ..guest(layout::MAX_VCPUS)
    });
    assert!(blob.len() as u64 <= DTB_SIZE, "{}", blob.len());
    assert_eq!(Board::discover(&blob).unwrap().cpus.len(), layout::MAX_VCPUS);
}

/// Where the device tree compiler is installed, it must have nothing to say about our trees.
#[test]
#[cfg_attr(miri, ignore = "starts a program")]
fn the_device_tree_compiler_has_no_complaint() {
    for vcpus in [1, 16] {
        let blob = write(&guest(vcpus));
        let (stdin, stdout, stderr) = (Stdio::piped(), Stdio::piped(), Stdio::piped());
        let Ok(mut dtc) = Command::new("dtc")
            .args(["-I", "dtb", "-O", "dtb", "-"])
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
        else {
            eprintln!("dtc is not installed: its opinion is not asked");
            return;
        };
        dtc.stdin.take().unwrap().write_all(&blob).unwrap();
        let output = dtc.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(Node::read(&output.stdout), Node::read(&blob));
    }
}

#[test]
fn a_passed_device_stands_below_the_root_with_the_fixed_clock() {
    let device = Device {
        name: b"pl031",
        compatible: b"arm,pl031\0arm,primecell\0",
        registers: Range::new(0x0901_0000, 0x1000).into_iter().collect(),
        interrupts: [Spi { intid: 34, edge: false }, Spi { intid: 40, edge: true }]
            .into_iter()
            .collect(),
        clock_names: b"apb_pclk\0",
        clocks: 1,
    };
    let blob = write(&GuestTree {
        devices: std::slice::from_ref(&device),
        ..guest(1)
    });
    let mut tree = Node::read(&blob);
    let found = tree.at("pl031@9010000").properties.clone();
    let wanted = [
        ("compatible", strings(&["arm,pl031", "arm,primecell"])),
        ("reg", quads(&[0x0901_0000, 0x1000])),
        ("interrupts", cells(&[0, 2, 4, 0, 8, 1])),
        ("clocks", cells(&[2])),
        ("clock-names", strings(&["apb_pclk"])),
    ];
    assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value)));
    // Passed on once more, it is the same device.
    let read = Device::read(&Tree::new(&blob).unwrap(), &Board::discover(&blob).unwrap(), b"/pl031@9010000").unwrap();
    assert_eq!(read, device);
}
