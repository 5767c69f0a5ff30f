//! VM descriptions: what is read from a good one, and one refusal for each way to break one.
#![cfg(not(miri))] // Hours under miri, and no unsafe code is reached: `fdt_guest` reads and writes a tree there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what only tests call is a test")]

mod fdt_source;

use fdt_source::{Node, QEMU_GICV3, cells, node, quads, strings};
use hyp_core::fdt::Tree;
use hyp_core::fdt::board::{Board, chosen, console};
use hyp_core::fdt::vms::{
    BLOCK, DTB_SIZE, Device, DtbPlacement, FilterAction, MAX_BOOTARGS, MAX_FILTER, Placement, Spi, Surroundings, VmDesc, Vms, describe,
};
use hyp_core::image::{HEADER_SIZE, ImageError};
use hyp_core::physmem::RangeSet;
use hyp_core::types::Range;

fn r(start: u64, size: u64) -> Range {
    Range::new(start, size).unwrap()
}

const RAM_START: u64 = 0x4000_0000;
const RAM_SIZE: u64 = 0x4000_0000;
const RESERVED: u64 = 0x7000_0000;
const HYP: u64 = 0x4020_0000;
const DTB: u64 = 0x4800_0000;

/// A VM that can be built, or why it cannot.
#[derive(Debug)]
struct Vm {
    id: usize,
    name: String,
    description: Result<VmDesc<'static>, String>,
}

/// The VMs of `tree`, by their numbers, on a board with 5 CPUs and 1 GiB of RAM.
fn read(tree: &Node) -> Vec<Vm> {
    read_with(tree, &RAW)
}

/// The same, where images begin with `head`.
fn read_with(tree: &Node, head: &'static [u8]) -> Vec<Vm> {
    read_on(r(RAM_START, RAM_SIZE), tree, head)
}

/// The same, on a board with this RAM.
fn read_on(ram: Range, tree: &Node, head: &'static [u8]) -> Vec<Vm> {
    let blob: &'static [u8] = tree.write().leak();
    let tree = Tree::new(blob).unwrap();
    let mut board = Board::new(chosen(&tree), console(&tree));
    let _ = board.read(&tree);
    (board.ram, board.reserved) = (RangeSet::new(1), RangeSet::new(1));
    board.ram.insert(ram).unwrap();
    board.reserved.insert(r(RESERVED, 0x1000)).unwrap();
    let around = Surroundings {
        board: &board,
        hyp: r(HYP, 0x20_0000),
        dtb: r(DTB, 0x10_0000),
        head: &|_| head,
    };
    let (mut accepted, mut refused) = (Vms::new(), Vec::new());
    describe(&tree, &around, &mut accepted, &mut |id, name, property, reason| {
        refused.push(Vm {
            id,
            name: name.to_owned(),
            description: Err(format!("{property}: {reason}")),
        });
    });
    let accepted = accepted.iter().map(|desc| Vm {
        id: desc.id,
        name: desc.name().to_owned(),
        description: Ok(desc.clone()),
    });
    let mut vms: Vec<Vm> = accepted.chain(refused).collect();
    vms.sort_by_key(|vm| vm.id);
    vms
}

fn tree(vms: Vec<Node>) -> Node {
    let mut tree = Node::read(QEMU_GICV3);
    tree.at("chosen").children = vms;
    tree
}

fn module(kind: &str, start: u64, size: u64) -> Node {
    node(&format!("{kind}@{start:x}"))
        .set("compatible", strings(&[&format!("umbra,{kind}")]))
        .set("reg", quads(&[start, size]))
}

/// The least that a VM must say.
fn least(name: &str, image: u64) -> Node {
    node(name)
        .set("compatible", strings(&["umbra,vm"]))
        .set("#address-cells", cells(&[2]))
        .set("#size-cells", cells(&[2]))
        .with(module("image", image, 0x1000))
}

/// A VM that says everything.
fn full() -> Node {
    let mut vm = least("vm-1", 0x5000_0000)
        .set("umbra,name", strings(&["guest"]))
        .set("umbra,vcpus", cells(&[4]))
        .set("umbra,pcpus", cells(&[1, 2, 3, 4]))
        .set("umbra,ram", quads(&[0x4000_0000, 0x1000_0000]))
        .set("bootargs", strings(&["console=ttyAMA0"]))
        .set("umbra,dtb", quads(&[0x4000_0000]))
        .set("umbra,strict", [])
        .set("umbra,no-on-pending", [])
        .set("umbra,forward-deadline-ms", cells(&[250]))
        .with(module("initrd", 0x5800_0000, 0x12345));
    *vm.at("image@50000000") = module("image", 0x5000_0000, 0x4_0000)
        .set("umbra,load", quads(&[0x4008_0000]))
        .set("umbra,entry", quads(&[0x4008_0040]));
    vm
}

fn host() -> Node {
    least("host", 0x6000_0000).set("compatible", strings(&["umbra,host", "umbra,vm"]))
}

fn only(tree: &Node) -> VmDesc<'static> {
    let mut vms = read(tree);
    assert_eq!(vms.len(), 1);
    vms.remove(0).description.unwrap()
}

/// The message with which the only VM is refused.
fn refusal(vm: Node) -> String {
    let vms = read(&tree(vec![vm]));
    assert_eq!(vms.len(), 1);
    vms[0].description.as_ref().unwrap_err().clone()
}

/// The page for users has the message in the row of its property; numbers may be others there.
fn assert_documented(message: &str) {
    let (property, reason) = message.split_once(": ").unwrap();
    let quoted = format!("`{property}`");
    let mut rows = DOCUMENT
        .lines()
        .filter(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(&quoted)))
        .map(without_numbers);
    let reason = without_numbers(reason);
    // "A..B overlaps X" and "overlaps the guest's X" stand there once, with other Xs beside it.
    let what = reason.split_once("overlaps ").map_or(reason.as_str(), |(_, what)| what);
    let what = if reason.starts_with("overlaps the guest's") {
        "overlaps the guest's"
    } else {
        what
    };
    assert!(
        rows.any(|row| row.contains(&reason) || (what != reason && row.contains(what))),
        "docs/devicetree.md lacks {message:?}"
    );
}

/// `text` with each number as `#`, and with the quotation marks of the page.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for word in text.replace('`', "'").split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            out.push('#');
            out.push_str(word.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
        } else {
            out.push_str(word);
        }
    }
    out
}

const DOCUMENT: &str = include_str!("../../../docs/devicetree.md");

#[test]
fn everything_that_is_said_is_read() {
    let vm = full().set("umbra,smccc-filter", cells(&[0x8400_0003, 1, 1, 0xc400_0000, 0x20, 0]));
    let vm = only(&tree(vec![vm]));
    assert_eq!((vm.id, vm.name(), vm.pcpus.as_slice()), (1, "guest", &[1, 2, 3, 4][..]));
    assert_eq!((vm.ram, vm.bootargs), (r(0x4000_0000, 0x1000_0000), &b"console=ttyAMA0"[..]));
    assert_eq!(vm.dtb, DtbPlacement::At(0x4000_0000));
    assert_eq!((vm.strict, vm.on_pending, vm.forward_deadline_ms), (true, false, 250));
    assert_eq!((vm.image, vm.initrd), (r(0x5000_0000, 0x4_0000), Some(r(0x5800_0000, 0x12345))));
    assert_eq!((vm.load, vm.entry), (Some(0x4008_0000), Some(0x4008_0040)));
    assert!(vm.devices.is_empty() && !vm.forwards);
    assert_eq!(
        [0x8400_0003, 0xc400_001f, 0x8400_0004].map(|fid| vm.smccc_filter().lookup(fid)),
        [FilterAction::Deny, FilterAction::Handle, FilterAction::Handle]
    );
}

#[test]
fn everything_but_the_image_has_a_default() {
    let vm = only(&tree(vec![least("linux@1", 0x5000_0000)]));
    assert_eq!(
        (vm.is_host(), vm.name(), vm.pcpus.as_slice(), vm.vcpus()),
        (false, "linux", &[0][..], 1)
    );
    assert_eq!(
        (vm.ram, vm.bootargs, vm.dtb),
        (r(0x4000_0000, 0x1000_0000), &b""[..], DtbPlacement::AboveImage)
    );
    assert_eq!((vm.strict, vm.on_pending, vm.forward_deadline_ms), (false, true, 5000));
    assert_eq!(
        (vm.smccc_filter().is_empty(), vm.load, vm.entry, vm.initrd),
        (true, None, None, None)
    );
}

#[test]
fn a_tree_without_vms_has_none() {
    assert!(read(&tree(vec![])).is_empty());
    assert!(read(&tree(vec![node("framebuffer").set("compatible", strings(&["simple-framebuffer"]))])).is_empty());
    assert!(read(&tree(vec![least("off", 0x5000_0000).set("status", strings(&["disabled"]))])).is_empty());
    assert!(read(&node("")).is_empty());
}

#[test]
fn the_host_partition_is_vm_0_wherever_it_stands_and_guests_count_from_1() {
    let broken = least("broken", 0x5010_0000).set("umbra,vcpus", cells(&[0]));
    let vms = read(&tree(vec![least("a", 0x5000_0000), broken, host(), least("b", 0x5020_0000)]));
    let ids: Vec<_> = vms.iter().map(|vm| (vm.id, vm.name.as_str(), vm.description.is_ok())).collect();
    assert_eq!(ids, [(0, "host", true), (1, "a", true), (2, "broken", false), (3, "b", true)]);
    assert!(vms[0].description.as_ref().unwrap().is_host());
}

#[test]
fn vms_that_name_no_pcpus_get_those_that_run_least_and_share_when_none_is_free() {
    let vms = read(&tree(vec![
        least("a", 0x5000_0000).set("umbra,vcpus", cells(&[2])),
        least("b", 0x5010_0000).set("umbra,pcpus", cells(&[1])),
        least("c", 0x5020_0000).set("umbra,vcpus", cells(&[3])),
        least("d", 0x5030_0000),
    ]));
    let pcpus: Vec<_> = vms
        .iter()
        .map(|vm| {
            vm.description
                .as_ref()
                .map(|vm| vm.pcpus.to_vec())
                .map_err(|error| error.to_string())
        })
        .collect();
    assert_eq!(pcpus, [Ok(vec![0, 2]), Ok(vec![1]), Ok(vec![3, 4, 0]), Ok(vec![1])]);
}

#[test]
fn a_bad_vm_is_refused_by_itself() {
    let vms = read(&tree(vec![full(), least("twin", 0x5000_0000), least("other", 0x5100_0000)]));
    assert!(vms[0].description.is_ok());
    assert_eq!(
        vms[1].description.as_ref().unwrap_err().clone(),
        "image: 0x50000000..0x50001000 overlaps another module"
    );
    assert!(vms[2].description.is_ok());
}

#[test]
fn a_pcpu_runs_sixteen_vcpus_at_most() {
    let on = |node: &'static str, image, pcpus: &[u32]| least(node, image).set("umbra,pcpus", cells(pcpus));
    let full = [2; 16];
    let vms = read(&tree(vec![
        on("a", 0x5000_0000, &full[..15]),
        on("b", 0x5010_0000, &[2, 1]),
        on("c", 0x5020_0000, &[1, 2]),
        on("d", 0x5030_0000, &[1]),
    ]));
    assert!(vms[0].description.is_ok() && vms[1].description.is_ok());
    assert_eq!(
        vms[2].description.as_ref().unwrap_err(),
        "umbra,pcpus: a pCPU would run more than 16 vCPUs"
    );
    assert!(vms[3].description.is_ok(), "one that is refused takes none");
    // Five pCPUs: those that name none are dealt out.
    let nodes: Vec<_> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .enumerate()
        .map(|(n, name)| least(name, 0x5000_0000 + n as u64 * 0x10_0000).set("umbra,vcpus", cells(&[16])))
        .chain([on("f", 0x5090_0000, &[0])])
        .collect();
    let vms = read(&tree(nodes));
    assert!(vms[..5].iter().all(|vm| vm.description.is_ok()));
    assert_eq!(
        vms[5].description.as_ref().unwrap_err(),
        "umbra,pcpus: a pCPU would run more than 16 vCPUs"
    );
}

#[test]
fn names_are_printable_short_and_without_spaces() {
    let named = |name: &str| {
        read(&tree(vec![least("node", 0x5000_0000).set("umbra,name", strings(&[name]))]))[0]
            .name
            .clone()
    };
    assert_eq!(named("a b\x1b[31m\u{e9}="), "a_b_[31m_=");
    assert_eq!(named(&"x".repeat(100)), "x".repeat(32));
    let odd = least("node", 0x5000_0000).set("umbra,name", vec![b'a', 0xff, 0xfe, b'b', 0]);
    assert_eq!(read(&tree(vec![odd]))[0].name, "a__b");
    for bad in [vec![], vec![0], b"no-nul".to_vec(), b"two\0strings\0".to_vec()] {
        let message = refusal(least("node", 0x5000_0000).set("umbra,name", bad));
        assert_eq!(message, "umbra,name: must be one string that is not empty");
    }
    let vms = read(&tree(vec![
        least("x", 0x5000_0000),
        least("y", 0x5010_0000).set("umbra,name", strings(&["x"])),
    ]));
    assert_eq!(
        vms[1].description.as_ref().unwrap_err().clone(),
        "umbra,name: an earlier VM has this name"
    );
}

#[test]
fn a_property_that_is_spelt_wrong_is_not_passed_over() {
    let vm = || least("vm", 0x5000_0000);
    let unknown = |name: &str| format!("{name}: Umbra knows no such property");
    for name in [
        "umbra,smcc-filter",
        "umbra,smccc-filters",
        "umbra,",
        "umbra,load",
        "umbra,vm",
        "umbra,STRICT",
    ] {
        assert_eq!(refusal(vm().set(name, [])), unknown(name));
    }
    for (module, name) in [("umbra,image", "umbra,entrypoint"), ("umbra,initrd", "umbra,load")] {
        let mut vm = vm();
        let initrd = vm.at("image@50000000").clone().set("compatible", strings(&["umbra,initrd"]));
        vm = vm.with(
            Node {
                name: "initrd@50001000".into(),
                ..initrd
            }
            .set("reg", quads(&[0x5000_1000, 0x1000])),
        );
        let node = if module == "umbra,image" {
            "image@50000000"
        } else {
            "initrd@50001000"
        };
        assert!(read(&tree(vec![vm.clone()]))[0].description.is_ok());
        vm.at(node).put(name, []);
        assert_eq!(refusal(vm), unknown(name));
    }
    // What is not ours is not looked at, and a name that only begins as ours do is not ours.
    let vms = read(&tree(vec![
        vm().set("linux,umbra,x", []).set("umbrage,strict", []).set("umbra", []),
    ]));
    assert!(vms[0].description.is_ok());
}

#[test]
fn every_broken_property_is_named_with_the_reason() {
    let vm = || least("vm", 0x5000_0000);
    let image = |change: &dyn Fn(&mut Node)| {
        let mut vm = vm();
        change(vm.at("image@50000000"));
        vm
    };
    let reg = |value: &[u64]| image(&|image| image.put("reg", quads(value)));
    let cases: Vec<(Node, &str)> = vec![
        (vm().set("umbra,vcpus", cells(&[0])), "umbra,vcpus: 0 is not in 1..=16"),
        (vm().set("umbra,vcpus", cells(&[17])), "umbra,vcpus: 17 is not in 1..=16"),
        (
            vm().set("umbra,vcpus", cells(&[u32::MAX])),
            "umbra,vcpus: 4294967295 is not in 1..=16",
        ),
        (vm().set("umbra,vcpus", quads(&[1])), "umbra,vcpus: must be one cell"),
        (vm().set("umbra,pcpus", []), "umbra,vcpus: 0 is not in 1..=16"),
        (vm().set("umbra,pcpus", [0, 0, 0]), "umbra,pcpus: must be a list of cells"),
        (
            vm().set("umbra,pcpus", cells(&[1])).set("umbra,vcpus", cells(&[2])),
            "umbra,pcpus: 1 given for 2 vCPUs",
        ),
        (vm().set("umbra,pcpus", cells(&[1, 5])), "umbra,pcpus: no pCPU 5: the board has 5"),
        (
            vm().set("umbra,pcpus", cells(&[u32::MAX])),
            "umbra,pcpus: no pCPU 4294967295: the board has 5",
        ),
        (
            vm().set("umbra,ram", cells(&[0x4000_0000, 0x1000_0000])),
            "umbra,ram: must be base and size, two cells each",
        ),
        (vm().set("umbra,ram", quads(&[0x4000_0000, 0])), "umbra,ram: has no bytes"),
        (
            vm().set("umbra,ram", quads(&[0x4010_0000, 0x20_0000])),
            "umbra,ram: 0x40100000 is not a multiple of 0x200000",
        ),
        (
            vm().set("umbra,ram", quads(&[0x4000_0000, 0x1000])),
            "umbra,ram: 0x1000 is not a multiple of 0x200000",
        ),
        (
            vm().set("umbra,ram", quads(&[!0x1f_ffff, 0x20_0000])),
            "umbra,ram: goes beyond the end of the address space",
        ),
        (
            vm().set("umbra,ram", quads(&[0x100_0000_0000, 0x20_0000])),
            "umbra,ram: ends at 0x10000200000, above the guest's 40 address bits",
        ),
        (
            vm().set("umbra,ram", quads(&[0, 0x20_0000])),
            "umbra,ram: overlaps the guest's flash",
        ),
        (
            vm().set("umbra,ram", quads(&[0x800_0000, 0x20_0000])),
            "umbra,ram: overlaps the guest's GIC distributor",
        ),
        (
            vm().set("umbra,ram", quads(&[0x820_0000, 0x20_0000])),
            "umbra,ram: overlaps the guest's GIC redistributors",
        ),
        (
            vm().set("umbra,ram", quads(&[0x900_0000, 0x20_0000])),
            "umbra,ram: overlaps the guest's PL011",
        ),
        (
            vm().set("umbra,ram", quads(&[0xb00_0000, 0x20_0000])),
            "umbra,ram: overlaps the guest's shadow pages",
        ),
        (vm().set("bootargs", b"no nul".to_vec()), "bootargs: must be one string"),
        (vm().set("bootargs", strings(&["a", "b"])), "bootargs: must be one string"),
        (
            vm().set("bootargs", strings(&[&"x".repeat(MAX_BOOTARGS + 1)])),
            "bootargs: 2048 bytes are too long (2047 are allowed)",
        ),
        (
            vm().set("umbra,dtb", strings(&["below"])),
            "umbra,dtb: must be \"above-image\", \"none\" or an address of two cells",
        ),
        (
            vm().set("umbra,dtb", cells(&[0x4000_0000])),
            "umbra,dtb: must be \"above-image\", \"none\" or an address of two cells",
        ),
        (
            vm().set("umbra,forward-deadline-ms", cells(&[0])),
            "umbra,forward-deadline-ms: 0 is not in 1..=3600000",
        ),
        (
            vm().set("umbra,forward-deadline-ms", cells(&[3_600_001])),
            "umbra,forward-deadline-ms: 3600001 is not in 1..=3600000",
        ),
        (
            vm().set("umbra,forward-deadline-ms", []),
            "umbra,forward-deadline-ms: must be one cell",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[1, 1])),
            "umbra,smccc-filter: must be triples of cells: base, count, action",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[1, 0, 1])),
            "umbra,smccc-filter: a range has no identifiers",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[u32::MAX, 2, 1])),
            "umbra,smccc-filter: a range goes beyond 0xffffffff",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[0x8400_0000, 4, 1, 0x8400_0003, 1, 2])),
            "umbra,smccc-filter: the range from 0x84000003 overlaps an earlier one or a reserved one",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[0x7fff_ffff, 2, 1])),
            "umbra,smccc-filter: the range from 0x7fffffff overlaps an earlier one or a reserved one",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[1, 1, 0x101])),
            "umbra,smccc-filter: no action 257 (0 handle, 1 deny, 2 forward)",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[1, 1, 3])),
            "umbra,smccc-filter: no action 3 (0 handle, 1 deny, 2 forward)",
        ),
        (
            vm().set("umbra,smccc-filter", cells(&[1, 1, 2])),
            "umbra,smccc-filter: calls are to be forwarded, and there is no host partition",
        ),
        (
            vm().set("umbra,smccc-filter", vec![0; 12 * (MAX_FILTER + 1)]),
            "umbra,smccc-filter: 33 is not in 0..=32",
        ),
        (
            host().set("umbra,smccc-filter", cells(&[1, 1, 2])),
            "umbra,smccc-filter: the host partition cannot forward to itself",
        ),
        (node("vm").set("compatible", strings(&["umbra,vm"])), "image: missing"),
        (image(&|image| image.remove("reg")), "image: missing"),
        (reg(&[0x5000_0000]), "image: must be one address and one size in `reg`"),
        (
            reg(&[0x5000_0000, 0x1000, 0x5100_0000, 0x1000]),
            "image: must be one address and one size in `reg`",
        ),
        (reg(&[0x5000_0000, 0]), "image: has no bytes"),
        (reg(&[u64::MAX, 0x1000]), "image: goes beyond the end of the address space"),
        (
            reg(&[0x3fff_f000, 0x2000]),
            "image: 0x3fe00000..0x40200000 is not in the board's RAM",
        ),
        (
            reg(&[0x7fff_f000, 0x2000]),
            "image: 0x7fe00000..0x80200000 is not in the board's RAM",
        ),
        (
            reg(&[HYP + 0x1f_f000, 0x2000]),
            "image: 0x403ff000..0x40401000 overlaps Umbra itself",
        ),
        (
            reg(&[DTB - 0x1000, 0x1001]),
            "image: 0x47fff000..0x48000001 overlaps the board's device tree",
        ),
        (reg(&[RESERVED, 1]), "image: 0x70000000..0x70000001 overlaps reserved memory"),
        (
            image(&|image| image.put("umbra,load", cells(&[1]))),
            "umbra,load: must be an address of two cells",
        ),
        (
            image(&|image| image.put("umbra,entry", strings(&["x"]))),
            "umbra,entry: must be an address of two cells",
        ),
        (
            vm().with(module("initrd", 0x5000_0800, 0x1000)),
            "initrd: 0x50000800..0x50001800 overlaps the image",
        ),
        (
            vm().with(module("initrd", RESERVED, 0x1000)),
            "initrd: 0x70000000..0x70001000 overlaps reserved memory",
        ),
    ];
    for (vm, message) in cases {
        assert_eq!(refusal(vm.clone()), message, "{vm:?}");
        assert_documented(message);
    }
}

#[test]
fn only_ram_that_is_not_reserved_lies_in_the_blocks_of_a_module() {
    let accepted = |ram, start| {
        let vms = read_on(ram, &tree(vec![least("vm", start)]), &RAW);
        vms[0].description.is_ok()
    };
    let all = r(RAM_START, RAM_SIZE);
    // Up to the block of what is reserved, not in it, and again behind it.
    assert!(accepted(all, RESERVED - 0x1000));
    assert!(!accepted(all, RESERVED + 0x1000));
    assert!(!accepted(all, RESERVED + 0x1f_f000));
    assert!(accepted(all, RESERVED + 0x20_0000));
    // RAM that begins and ends inside a block.
    let most = r(RAM_START + 0x1000, RAM_SIZE - 0x2000);
    let end = RAM_START + RAM_SIZE;
    for (start, by_all) in [
        (RAM_START + 0x1f_f000, false),
        (RAM_START + 0x60_0000, true),
        (end - 0x20_1000, true),
        (end - 0x3000, false),
    ] {
        assert!(accepted(all, start), "{start:#x}");
        assert_eq!(accepted(most, start), by_all, "{start:#x}");
    }
}

#[test]
fn ram_may_lie_between_the_devices_and_above_them() {
    for base in [0x0c00_0000, 0x8000_0000, (1 << 40) - 2 * BLOCK] {
        assert_eq!(
            only(&tree(vec![least("vm", 0x5000_0000).set("umbra,ram", quads(&[base, 2 * BLOCK]))])).ram,
            r(base, 2 * BLOCK)
        );
    }
}

#[test]
fn modules_of_several_vms_keep_apart_and_those_of_refused_ones_do_not_count() {
    let refused = least("refused", 0x5000_0000).set("umbra,vcpus", cells(&[0]));
    let vms = read(&tree(vec![
        refused,
        least("a", 0x5000_0000),
        least("b", 0x5000_0fff),
        least("c", 0x5000_1000),
    ]));
    assert_eq!(
        vms.iter().map(|vm| vm.description.is_ok()).collect::<Vec<_>>(),
        [false, true, false, true]
    );
    // Initrds count too.
    let vms = read(&tree(vec![full(), least("a", 0x5801_2000)]));
    assert_eq!(vms.iter().map(|vm| vm.description.is_ok()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn vcpus_share_pcpus_where_the_tree_says_so() {
    let pcpus = |name, image, list: &[u32]| least(name, image).set("umbra,pcpus", cells(list));
    let vms = read(&tree(vec![
        pcpus("a", 0x5000_0000, &[1, 2]),
        pcpus("b", 0x5010_0000, &[2, 3]),
        pcpus("c", 0x5020_0000, &[3]),
    ]));
    let pcpus: Vec<_> = vms.iter().map(|vm| vm.description.as_ref().unwrap().pcpus.to_vec()).collect();
    assert_eq!(pcpus, [vec![1, 2], vec![2, 3], vec![3]]);
}

#[test]
fn there_is_one_host_and_seven_guests_at_most() {
    let second = host().set("umbra,name", strings(&["second"]));
    let mut vms: Vec<_> = (0..40)
        .map(|index| least(&format!("vm{index}"), 0x5000_0000 + index * 0x1000))
        .collect();
    vms.insert(0, host());
    vms.insert(1, second);
    let read = read(&tree(vms));
    assert_eq!(read.len(), 32, "what is looked at is bounded");
    assert!(read[0].description.is_ok());
    assert_eq!(
        read[1].description.as_ref().unwrap_err().clone(),
        "compatible: there already is a host partition"
    );
    // Five pCPUs: from the sixth vCPU on they are shared, the least busy first.
    assert_eq!(read.iter().filter(|vm| vm.description.is_ok()).count(), 8);
    let pcpus: Vec<_> = read
        .iter()
        .filter_map(|vm| vm.description.as_ref().ok())
        .flat_map(|desc| desc.pcpus.clone())
        .collect();
    assert_eq!(pcpus, [0, 1, 2, 3, 4, 0, 1, 2]);
    assert_eq!(
        read[9].description.as_ref().unwrap_err().clone(),
        "compatible: there can be no more than 7 guests"
    );
}

#[test]
fn forwarding_needs_a_host_that_is_accepted() {
    let forwards = || least("vm", 0x5000_0000).set("umbra,smccc-filter", cells(&[0x8400_0003, 1, 2]));
    assert!(read(&tree(vec![forwards(), host()])).iter().all(|vm| vm.description.is_ok()));
    let broken = host().set("umbra,vcpus", cells(&[0]));
    assert_eq!(
        read(&tree(vec![forwards(), broken]))[1].description.as_ref().unwrap_err(),
        "umbra,smccc-filter: calls are to be forwarded, and there is no host partition"
    );
}

#[test]
fn cells_of_a_module_are_counted_by_the_vm_then_by_chosen_then_two() {
    let mut vm = least("vm", 0x5000_0000);
    vm.at("image@50000000").put("reg", cells(&[0x5000_0000, 0x1000]));
    vm.put("#address-cells", cells(&[1]));
    vm.put("#size-cells", cells(&[1]));
    assert_eq!(only(&tree(vec![vm.clone()])).image, r(0x5000_0000, 0x1000));
    let mut by_chosen = tree(vec![vm.without("#address-cells").without("#size-cells")]);
    by_chosen.at("chosen").put("#address-cells", cells(&[1]));
    by_chosen.at("chosen").put("#size-cells", cells(&[1]));
    assert_eq!(only(&by_chosen).image, r(0x5000_0000, 0x1000));
    let by_nobody = least("vm", 0x5000_0000).without("#address-cells").without("#size-cells");
    assert_eq!(only(&tree(vec![by_nobody])).image, r(0x5000_0000, 0x1000));
}

/// An arm64 header of an image that needs `memory` bytes.
fn arm64(text_offset: u64, memory: u64) -> Vec<u8> {
    let mut head = vec![0; HEADER_SIZE];
    head[8..16].copy_from_slice(&text_offset.to_le_bytes());
    head[16..24].copy_from_slice(&memory.to_le_bytes());
    head[24] = 0b1010;
    head[56..60].copy_from_slice(b"ARM\x64");
    head
}

const RAW: [u8; HEADER_SIZE] = [0x14; HEADER_SIZE];

fn placed(vm: &Node, head: &[u8]) -> Result<Placement, String> {
    let vm = read_with(&tree(vec![vm.clone()]), head.to_vec().leak()).remove(0);
    vm.description.map(|desc| desc.placement)
}

#[test]
fn a_raw_binary_goes_where_virt_programs_are_linked_and_the_rest_above_it() {
    let vm = least("vm", 0x5000_0000).with(module("initrd", 0x5800_0000, 0x20_0001));
    let expected = Placement {
        image: r(0x4008_0000, 0x1000),
        entry: 0x4008_0000,
        initrd: Some(r(0x4020_0000, 0x20_0001)),
        dtb: Some(0x4060_0000),
    };
    assert_eq!(placed(&vm, &RAW), Ok(expected));
}

#[test]
fn an_arm64_image_goes_to_its_text_offset_and_keeps_room_for_its_bss() {
    let vm = least("vm", 0x5000_0000);
    let expected = Placement {
        image: r(0x4000_0000, 0x20_0001),
        entry: 0x4000_0000,
        initrd: None,
        dtb: Some(0x4040_0000),
    };
    assert_eq!(placed(&vm, &arm64(0, 0x20_0001)), Ok(expected));
    assert_eq!(placed(&vm, &arm64(0x8_0000, 0x1000)).unwrap().entry, 0x4008_0000);
}

#[test]
fn what_the_description_asks_for_is_done() {
    let expected = Placement {
        image: r(0x4008_0000, 0x4_0000),
        entry: 0x4008_0040,
        initrd: Some(r(0x4020_0000, 0x12345)),
        dtb: Some(0x4000_0000),
    };
    assert_eq!(placed(&full(), &RAW), Ok(expected));
    assert_eq!(placed(&full().set("umbra,dtb", strings(&["none"])), &RAW).unwrap().dtb, None);
}

#[test]
fn what_does_not_fit_is_refused_with_the_property_to_change() {
    let vm = || least("vm", 0x5000_0000).set("umbra,ram", quads(&[0x4000_0000, 2 * BLOCK]));
    let image = |load: Option<u64>, entry: Option<u64>| {
        let mut vm = vm();
        let image = vm.at("image@50000000");
        load.into_iter().for_each(|load| image.put("umbra,load", quads(&[load])));
        entry.into_iter().for_each(|entry| image.put("umbra,entry", quads(&[entry])));
        vm
    };
    let last = 0x4040_0000 - 0x1000;
    let cases: Vec<(Node, Vec<u8>, &str)> = vec![
        (
            vm(),
            arm64(0, 2 * BLOCK + 1),
            "image: 0x400001 bytes at 0x40000000 are not in the VM's RAM",
        ),
        (vm(), arm64(u64::MAX, 1), "image: goes beyond the end of the address space"),
        (vm(), arm64(0, u64::MAX), "image: goes beyond the end of the address space"),
        (
            vm(),
            arm64(0, BLOCK + 1),
            "umbra,dtb: 0x10000 bytes at 0x40400000 are not in the VM's RAM",
        ),
        (
            vm(),
            b"\x1f\x8b\x08".to_vec(),
            "image: the image is compressed (gzip): decompress it first",
        ),
        (
            vm(),
            b"\x7fELF".to_vec(),
            "image: the image is an ELF file: `cargo xtask` flattens it, or use `objcopy -O binary`",
        ),
        (
            image(Some(last + 1), None),
            RAW.to_vec(),
            "umbra,load: 0x1000 bytes at 0x403ff001 are not in the VM's RAM",
        ),
        (
            image(Some(0x3fff_f000), None),
            RAW.to_vec(),
            "umbra,load: 0x1000 bytes at 0x3ffff000 are not in the VM's RAM",
        ),
        (
            image(Some(u64::MAX), None),
            RAW.to_vec(),
            "umbra,load: goes beyond the end of the address space",
        ),
        (
            image(Some(0x4000_1000), None),
            arm64(0, 0x1000),
            "umbra,load: 0x40001000 is not 0x0 (the image's text_offset) above a multiple of 2 MiB",
        ),
        (
            image(None, Some(0x4008_1000)),
            RAW.to_vec(),
            "umbra,entry: 0x40081000 is not in the image",
        ),
        (
            image(None, Some(0x4007_fffc)),
            RAW.to_vec(),
            "umbra,entry: 0x4007fffc is not in the image",
        ),
        (
            image(None, Some(0x4008_0002)),
            RAW.to_vec(),
            "umbra,entry: 0x40080002 is not a multiple of 0x4",
        ),
        (
            vm().with(module("initrd", 0x5800_0000, BLOCK + 1)),
            RAW.to_vec(),
            "initrd: 0x200001 bytes at 0x40200000 are not in the VM's RAM",
        ),
        (
            vm().set("umbra,dtb", quads(&[0x4008_0ff8])),
            RAW.to_vec(),
            "umbra,dtb: overlaps the image in the VM's RAM",
        ),
        (
            vm().set("umbra,dtb", quads(&[0x4000_0004])),
            RAW.to_vec(),
            "umbra,dtb: 0x40000004 is not a multiple of 0x8",
        ),
        (
            vm().set("umbra,dtb", quads(&[0x4040_0000 - DTB_SIZE + 8])),
            RAW.to_vec(),
            "umbra,dtb: 0x10000 bytes at 0x403f0008 are not in the VM's RAM",
        ),
        (
            vm().set("umbra,dtb", quads(&[u64::MAX - 7])),
            RAW.to_vec(),
            "umbra,dtb: goes beyond the end of the address space",
        ),
        (
            vm().with(module("initrd", 0x5800_0000, 0x1000))
                .set("umbra,dtb", quads(&[0x4020_0000])),
            RAW.to_vec(),
            "umbra,dtb: overlaps the initrd in the VM's RAM",
        ),
    ];
    for (vm, head, message) in cases {
        assert_eq!(placed(&vm, &head).unwrap_err(), message);
        assert_documented(message);
    }
    assert!(placed(&image(Some(last), None).set("umbra,dtb", quads(&[0x4000_0000])), &RAW).is_ok());
    assert!(
        placed(&vm(), &arm64(0, BLOCK)).is_ok(),
        "the last block is enough for the device tree"
    );
    assert_eq!(
        ImageError::Elf.to_string(),
        "the image is an ELF file: `cargo xtask` flattens it, or use `objcopy -O binary`"
    );
}

/// A VM that is to be given `paths`.
fn given(name: &str, image: u64, paths: &[&str]) -> Node {
    least(name, image).set("umbra,devices", strings(paths))
}

const RTC: &str = "/pl031@9010000";

#[test]
fn a_device_is_found_by_its_path_with_registers_interrupts_and_clocks() {
    let device: Device = only(&tree(vec![given("a", 0x5000_0000, &[RTC])])).devices.remove(0);
    assert_eq!(device.name, b"pl031");
    assert_eq!(device.compatible, strings(&["arm,pl031", "arm,primecell"]));
    assert_eq!(device.registers.as_slice(), [r(0x901_0000, 0x1000)]);
    assert_eq!(device.interrupts.as_slice(), [Spi { intid: 34, edge: false }]);
    assert_eq!((device.clocks, device.clock_names), (1, strings(&["apb_pclk"]).as_slice()));
}

#[test]
fn a_devices_registers_go_up_through_the_buses_and_out_to_whole_pages() {
    let mut tree = tree(vec![given("a", 0x5000_0000, &["/bus/timer@100"])]);
    tree.children.push(
        node("bus")
            .set("#address-cells", cells(&[1]))
            .set("#size-cells", cells(&[1]))
            .set("ranges", cells(&[0, 0, 0x0a80_0000, 0x1_0000]))
            .with(
                node("timer@100")
                    .set("compatible", strings(&["x,timer"]))
                    .set("reg", cells(&[0xf00, 0x200]))
                    .set("interrupts", cells(&[0, 255, 1])),
            ),
    );
    let device = only(&tree).devices.remove(0);
    assert_eq!(
        (device.name, device.registers.as_slice()),
        (&b"timer"[..], &[r(0x0a80_0f00, 0x200)][..])
    );
    assert_eq!(device.pages().as_slice(), [r(0x0a80_0000, 0x2000)]);
    assert_eq!(device.interrupts.as_slice(), [Spi { intid: 287, edge: true }]);
}

#[test]
fn a_device_has_one_vm_and_that_of_a_refused_vm_is_free() {
    let mut refused = given("refused", 0x5000_0000, &[RTC]);
    refused.put("umbra,vcpus", cells(&[0]));
    let vms = read(&tree(vec![
        refused,
        given("first", 0x5000_0000, &[RTC]),
        given("second", 0x5800_0000, &[RTC]),
    ]));
    assert!(vms[1].description.is_ok());
    let message = vms[2].description.as_ref().unwrap_err().clone();
    assert_eq!(
        message,
        "umbra,devices: entry 0: it, or a page or interrupt that it shares, is given away already"
    );
    assert_documented(&message);
}

#[test]
fn every_device_that_cannot_be_passed_is_refused_with_the_reason() {
    const DMA: &str = "it does DMA, which nothing confines without an SMMU";
    const UMBRAS: &str = "Umbra needs it itself";
    const NONE: &str = "the board has no such node";
    const OTHER: &str = "its interrupts are not all SPIs 0 to 255 of the GIC, edge-rising or level-high";
    let change = |name: &str, value: Vec<u8>| {
        let mut tree = tree(vec![given("a", 0x5000_0000, &[RTC])]);
        tree.at(&RTC[1..]).put(name, value);
        tree
    };
    let path = |path: &str| tree(vec![given("a", 0x5000_0000, &[path])]);
    let cases = [
        (path("/pl031@1"), NONE),
        (path("pl031@9010000"), NONE),
        (path("/virtio_mmio@a000000"), DMA),
        (path("/pcie@10000000"), DMA),
        (path("/fw-cfg@9020000"), DMA),
        (change("iommus", cells(&[1, 2])), DMA),
        (change("dma-coherent", vec![]), DMA),
        (path("/pl011@9000000"), UMBRAS),
        (path("/intc@8000000"), UMBRAS),
        (path("/timer"), UMBRAS),
        (path("/memory@40000000"), UMBRAS),
        (change("reg", quads(&[0x5000_0000, 0x1000])), UMBRAS),
        (
            change("reg", quads(&[0x0b00_0000, 0x1000])),
            "its registers overlap the VM's RAM or what Umbra emulates, or lie above the guest's addresses",
        ),
        (
            change("reg", quads(&[1 << 40, 0x1000])),
            "its registers overlap the VM's RAM or what Umbra emulates, or lie above the guest's addresses",
        ),
        (
            change("reg", quads(&[u64::MAX - 1, 1])),
            "it has no registers that the CPUs can reach",
        ),
        (change("reg", vec![]), "it has no registers that the CPUs can reach"),
        (change("status", strings(&["disabled"])), "it is disabled or has no 'compatible'"),
        (change("interrupts", cells(&[1, 2, 4])), OTHER),
        (change("interrupts", cells(&[0, 256, 4])), OTHER),
        (change("interrupts", cells(&[0, 2, 8])), OTHER),
        (change("interrupts", cells(&[0, 2])), OTHER),
        (change("interrupt-parent", cells(&[99])), OTHER),
        (change("interrupts-extended", cells(&[1, 0, 2, 4])), OTHER),
        (
            change("interrupts", cells(&[0, 1, 4])),
            "it shares an interrupt with Umbra's console",
        ),
        (
            change(
                "reg",
                quads(&[0xa80_0000, 4, 0xa90_0000, 4, 0xaa0_0000, 4, 0xab0_0000, 4, 0xac0_0000, 4]),
            ),
            "it has more registers, interrupts or clocks than Umbra passes on",
        ),
    ];
    for (tree, why) in cases {
        let message = read(&tree)[0].description.as_ref().unwrap_err().clone();
        assert_eq!(message, format!("umbra,devices: entry 0: {why}"));
        assert_documented(&message);
    }
    let mut quiet = tree(vec![given("a", 0x5000_0000, &[RTC])]);
    quiet.at("chosen").put("stdout-path", strings(&["/none"]));
    quiet.at(&RTC[1..]).put("interrupts", cells(&[0, 1, 4]));
    let message = read(&quiet)[0].description.as_ref().unwrap_err().clone();
    assert_eq!(message, "umbra,devices: entry 0: its SPI 1 is the guest's PL011's");
    assert_documented(&message);
    for (value, message) in [
        (b"/a".to_vec(), "umbra,devices: must be a list of device-tree paths"),
        (
            strings(&[RTC, RTC]),
            "umbra,devices: entry 1: it, or a page or interrupt that it shares, is given away already",
        ),
    ] {
        assert_eq!(refusal(least("a", 0x5000_0000).set("umbra,devices", value)), message);
        assert_documented(message);
    }
}
