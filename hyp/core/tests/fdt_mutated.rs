//! Damaged trees: whatever is done to one, it is read or refused, and never ends the reader.
#![cfg(not(miri))] // Hours under miri, and no unsafe code is reached: `fdt_guest` reads and writes a tree there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what only tests call is a test")]

mod fdt_source;

use fdt_source::{Node, QEMU_GICV3, Random, cells, node, quads, strings};
use hyp_core::fdt::Tree;
use hyp_core::fdt::board::{Board, BoardError, Cpu, chosen, console};
use hyp_core::fdt::vms::{Surroundings, Vms, describe};
use hyp_core::types::Range;

const ROUNDS: usize = 2500;

/// QEMU's tree with a host and a guest: everything that the readers look at is there.
fn whole() -> Vec<u8> {
    let image = |start| {
        node(&format!("image@{start:x}"))
            .set("compatible", strings(&["umbra,image"]))
            .set("reg", quads(&[start, 0x1000]))
    };
    let vm = |name: &str, start| {
        node(name)
            .set("compatible", strings(&["umbra,vm"]))
            .set("#address-cells", cells(&[2]))
            .set("#size-cells", cells(&[2]))
            .set("umbra,name", strings(&[name]))
            .set("umbra,pcpus", cells(&[start as u32 >> 24 & 3]))
            .set("umbra,ram", quads(&[0x4000_0000, 0x100_0000]))
            .set("umbra,smccc-filter", cells(&[0x8400_0003, 1, 2]))
            .set("bootargs", strings(&["console=ttyAMA0"]))
            .with(image(start))
    };
    let mut tree = Node::read(QEMU_GICV3);
    // The fewer bytes that nobody looks at, the more damage hits what somebody does.
    tree.children.retain(|child| {
        !["virtio_mmio", "pcie", "fw-cfg", "pl061", "flash"]
            .iter()
            .any(|name| child.name.starts_with(name))
    });
    tree.children.push(node("aliases").set("serial0", strings(&["/pl011@9000000"])));
    let chosen = tree.at("chosen");
    chosen.put("stdout-path", strings(&["serial0:115200"]));
    chosen.children.push(
        vm("host", 0x5100_0000)
            .set("compatible", strings(&["umbra,host", "umbra,vm"]))
            .without("umbra,smccc-filter"),
    );
    chosen
        .children
        .push(vm("guest", 0x5200_0000).set("umbra,devices", strings(&["/pl031@9010000"])));
    tree.write_with_reservations(&[(0x4400_0000, 0x1000)])
}

/// Asks everything that can be asked. Gives whether the structure was accepted, and how many VMs were.
fn read_all(blob: &[u8]) -> (bool, usize) {
    let board = Board::discover(blob);
    let Ok(tree) = Tree::new(blob) else {
        assert!(matches!(board, Err(BoardError::Tree(_))));
        return (false, 0);
    };
    let board = board.unwrap_or_else(|error| {
        let _ = error.to_string();
        let mut whole = Board::new(chosen(&tree), console(&tree));
        whole.ram.insert(Range::new(0x4000_0000, 0x4000_0000).unwrap()).unwrap();
        whole.cpus.push(Cpu { affinity: 0 });
        whole
    });
    let around = Surroundings {
        board: &board,
        hyp: Range::EMPTY,
        dtb: Range::EMPTY,
        head: &|_| &[0x14; 64],
    };
    let shown = |name: &str| assert!(name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    let mut vms = Vms::new();
    describe(&tree, &around, &mut vms, &mut |_, name, property, reason| {
        shown(name);
        drop(format!("{property}: {reason}"));
    });
    for vm in vms.iter() {
        shown(vm.name());
    }
    (true, vms.iter().count())
}

#[test]
fn bytes_changed_anywhere() {
    let whole = whole();
    assert_eq!(read_all(&whole), (true, 2), "undamaged, everything is read");
    let mut random = Random(0x5eed_0001);
    let (mut accepted, mut both) = (0, 0);
    for _ in 0..ROUNDS {
        let mut blob = whole.clone();
        for _ in 0..=random.below(8) {
            let at = random.below(blob.len());
            blob[at] = match random.below(3) {
                0 => random.next() as u8,
                1 => blob[at] ^ (1 << random.below(8)),
                _ => [0, 1, 2, 3, 4, 9, 0x7f, 0xff][random.below(8)],
            };
        }
        let (structure, vms) = read_all(&blob);
        accepted += usize::from(structure);
        both += usize::from(vms == 2);
    }
    eprintln!("{accepted} of {ROUNDS} damaged trees were well formed, {both} still had both VMs");
    assert!(
        (accepted > ROUNDS / 10 && accepted < ROUNDS),
        "the damage must reach both sides of the check"
    );
}

#[test]
fn tokens_changed_in_the_structure() {
    let whole = whole();
    let start = u32::from_be_bytes(whole[8..12].try_into().unwrap()) as usize;
    let size = u32::from_be_bytes(whole[36..40].try_into().unwrap()) as usize;
    let mut random = Random(0x5eed_0002);
    for _ in 0..ROUNDS {
        let mut blob = whole.clone();
        for _ in 0..=random.below(4) {
            let at = start + random.below(size / 4) * 4;
            let token = [0, 1, 2, 3, 4, 5, 9, 0x100, u32::MAX, random.next() as u32][random.below(10)];
            blob[at..at + 4].copy_from_slice(&token.to_be_bytes());
        }
        read_all(&blob);
    }
}

#[test]
fn cut_short_anywhere() {
    let whole = whole();
    for length in (0..whole.len()).step_by(3) {
        assert!(!read_all(&whole[..length]).0);
        // And with a header that admits it.
        let mut blob = whole[..length].to_vec();
        if let Some(total) = blob.get_mut(4..8) {
            total.copy_from_slice(&(length as u32).to_be_bytes());
        }
        read_all(&blob);
    }
}

#[test]
fn headers_of_any_content() {
    let whole = whole();
    let mut random = Random(0x5eed_0004);
    for _ in 0..ROUNDS {
        let mut blob = whole.clone();
        for _ in 0..=random.below(3) {
            let field = 4 * (1 + random.below(9));
            let value = [
                0,
                4,
                39,
                40,
                41,
                48,
                blob.len() as u32,
                u32::MAX,
                u32::MAX - 7,
                random.below(blob.len()) as u32,
            ][random.below(10)];
            blob[field..field + 4].copy_from_slice(&value.to_be_bytes());
        }
        read_all(&blob);
    }
}

#[test]
fn properties_of_any_content() {
    let tree = Node::read(&whole());
    let mut random = Random(0x5eed_0005);
    for _ in 0..ROUNDS / 4 {
        let mut tree = tree.clone();
        for _ in 0..=random.below(4) {
            scramble(&mut tree, &mut random);
        }
        read_all(&tree.write());
    }
}

/// Gives one property somewhere in the tree another value, or moves a node.
fn scramble(node: &mut Node, random: &mut Random) {
    let children = node.children.len();
    if children > 0 && random.below(4) != 0 {
        return scramble(&mut node.children[random.below(children)], random);
    }
    let properties = node.properties.len();
    if properties == 0 {
        return;
    }
    let at = random.below(properties);
    let length = random.below(40);
    node.properties[at].1 = match random.below(4) {
        0 => Vec::new(),
        1 => (0..length).map(|_| random.next() as u8).collect(),
        2 => cells(&[[0, 1, 2, 3, 4, 1 << 31, u32::MAX][random.below(7)]]),
        _ => quads(&(0..length / 4).map(|_| u64::MAX << random.below(64)).collect::<Vec<_>>()),
    };
}

/// With `more` in QEMU's tree, it is read, and soon.
fn is_read_in_moments(more: impl FnOnce(&mut Node)) {
    let mut tree = Node::read(&whole());
    more(&mut tree);
    let blob = tree.write();
    let start = std::time::Instant::now();
    assert_eq!(read_all(&blob), (true, 2));
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn a_hostile_tree_of_a_megabyte_takes_no_more_than_moments() {
    let levels = hyp_core::fdt::MAX_DEPTH - 4;
    // As deep as allowed, as many nodes as fit at the bottom, each asked for its properties by every reader.
    let leaves = 12_000;
    let mut inner = node("n");
    inner.children = (0..leaves)
        .map(|index| node(&format!("l{index:x}")).set("compatible", strings(&["x"])).set("reg", []))
        .collect();
    let deep = (0..levels).fold(inner, |inner, _| node("n").with(inner));
    is_read_in_moments(|tree| tree.children.push(deep));
}

#[test]
fn many_nodes_of_memory_or_of_reserved_memory_take_no_more_than_moments() {
    let many = |name| (0..30_000).map(move |_| node(name).set("reg", quads(&[0x4400_0000, 0x1000])));
    is_read_in_moments(|tree| tree.children.extend(many("memory")));
    is_read_in_moments(|tree| {
        let mut reserved = node("reserved-memory")
            .set("#address-cells", cells(&[2]))
            .set("#size-cells", cells(&[2]))
            .set("ranges", []);
        reserved.children.extend(many("r"));
        tree.children.push(reserved);
    });
}
