//! Device trees as values: read from a blob, changed, written back. Only the tests of `hyp_core::fdt` need that.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what only tests call is a test")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file takes it in as a module of its own and uses its part"
)]

use flat_device_tree::{Fdt, node::FdtNode};
use vm_fdt::{FdtReserveEntry, FdtWriter};

/// `qemu-system-aarch64 -M virt,virtualization=on,gic-version=3,dumpdtb=FILE -smp 5 -m 1G` (QEMU 7.2), unused space cut off.
pub const QEMU_GICV3: &[u8] = &Aligned(*include_bytes!("../data/qemu-virt-gicv3.dtb")).0;
/// The same with `gic-version=2 -smp 2 -m 512M`.
pub const QEMU_GICV2: &[u8] = &Aligned(*include_bytes!("../data/qemu-virt-gicv2.dtb")).0;

/// Where a boot loader puts a tree.
#[repr(align(8))]
struct Aligned<T>(T);

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Node>,
}

pub fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        properties: Vec::new(),
        children: Vec::new(),
    }
}

impl Node {
    pub fn read(blob: &[u8]) -> Self {
        let fdt = Fdt::new(blob).unwrap();
        Self::copy(fdt.find_node("/").unwrap())
    }

    fn copy(from: FdtNode<'_, '_>) -> Self {
        Self {
            name: from.name.into(),
            properties: from.properties().map(|p| (p.name.into(), p.value.into())).collect(),
            children: from.children().map(Self::copy).collect(),
        }
    }

    pub fn write(&self) -> Vec<u8> {
        self.write_with_reservations(&[])
    }

    pub fn write_with_reservations(&self, reservations: &[(u64, u64)]) -> Vec<u8> {
        let entries: Vec<_> = reservations
            .iter()
            .map(|&(start, size)| FdtReserveEntry::new(start, size).unwrap())
            .collect();
        let mut fdt = FdtWriter::new_with_mem_reserv(&entries).unwrap();
        self.emit(&mut fdt);
        fdt.finish().unwrap()
    }

    fn emit(&self, fdt: &mut FdtWriter) {
        let open = fdt.begin_node(&self.name).unwrap();
        for (name, value) in &self.properties {
            fdt.property(name, value).unwrap();
        }
        for child in &self.children {
            child.emit(fdt);
        }
        fdt.end_node(open).unwrap();
    }

    /// Sets or replaces a property.
    pub fn set(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.put(name, value);
        self
    }

    pub fn put(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.remove(name);
        self.properties.push((name.into(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.properties.retain(|(have, _)| have != name);
    }

    pub fn without(mut self, name: &str) -> Self {
        self.remove(name);
        self
    }

    pub fn with(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    /// The node at `path` (exact names, no leading slash), or `self` for "".
    pub fn at(&mut self, path: &str) -> &mut Node {
        path.split('/').filter(|part| !part.is_empty()).fold(self, |node, part| {
            node.children
                .iter_mut()
                .find(|child| child.name == part)
                .unwrap_or_else(|| panic!("no {part}"))
        })
    }

    pub fn drop_child(&mut self, name: &str) {
        self.children.retain(|child| child.name != name);
    }
}

pub fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

pub fn quads(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

pub fn strings(values: &[&str]) -> Vec<u8> {
    values.iter().flat_map(|value| value.bytes().chain([0])).collect()
}

/// A deterministic source of numbers (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }
}
