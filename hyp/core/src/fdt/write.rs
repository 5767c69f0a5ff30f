//! A device tree that is written: the flattened format, version 17.

use alloc::vec::Vec;

/// The names of all properties, each with its NUL: the strings block of every tree that is written.
const NAMES: &[u8] = b"#address-cells\0#clock-cells\0#interrupt-cells\0#size-cells\0always-on\0bootargs\0clock-frequency\0\
    clock-names\0clock-output-names\0clocks\0compatible\0device_type\0enable-method\0interrupt-controller\0\
    interrupt-parent\0interrupts\0kaslr-seed\0linux,initrd-end\0linux,initrd-start\0method\0model\0phandle\0reg\0rng-seed\0\
    stdout-path\0";

/// The name of a property.
#[derive(Clone, Copy)]
pub(super) struct Name(u32);

impl Name {
    /// The name `name`, which must be in [`NAMES`]: a constant, so that one that is not does not compile.
    pub(super) const fn new(name: &str) -> Self {
        let name = name.as_bytes();
        let mut at = 0;
        while at + name.len() < NAMES.len() {
            let mut same = 0;
            while same < name.len() && NAMES[at + same] == name[same] {
                same += 1;
            }
            if same == name.len() && NAMES[at + same] == 0 && (at == 0 || NAMES[at - 1] == 0) {
                return Self(at as u32);
            }
            at += 1;
        }
        [][at]
    }
}

/// The name of a property, looked up while compiling.
macro_rules! name {
    ($name:literal) => {
        const { $crate::fdt::write::Name::new($name) }
    };
}
pub(super) use name;

const HEADER: u32 = 40;
/// The block of memory reservations: the entry of zeroes that ends it.
const RESERVATIONS: u32 = 16;

/// A tree that is being written.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Nothing yet, with room for `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        let mut bytes = Vec::with_capacity(size);
        bytes.resize((HEADER + RESERVATIONS) as usize, 0);
        Self { bytes }
    }

    fn word(&mut self, word: u32) {
        self.bytes.extend_from_slice(&word.to_be_bytes());
    }

    fn align(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Begins a node.
    pub(super) fn begin(&mut self, name: &str) {
        self.word(1);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    /// Begins the node `name` of the unit address `address`.
    pub(super) fn begin_at(&mut self, name: &str, address: u64) {
        self.word(1);
        self.text_at(name, address);
        self.align();
    }

    /// `name@address`, with a NUL.
    fn text_at(&mut self, name: &str, address: u64) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'@');
        let digits = (67 - (address | 1).leading_zeros()) / 4;
        for digit in (0..digits).rev() {
            let value = (address >> (4 * digit) & 0xF) as u8;
            self.bytes.push(if value < 10 { b'0' + value } else { b'a' - 10 + value });
        }
        self.bytes.push(0);
    }

    /// Ends the node that was begun last.
    pub(super) fn end(&mut self) {
        self.word(2);
    }

    fn value(&mut self, name: Name, value: impl FnOnce(&mut Self)) {
        self.word(3);
        let length_at = self.bytes.len();
        self.word(0);
        self.word(name.0);
        let start = self.bytes.len();
        value(self);
        let length = (self.bytes.len() - start) as u32;
        self.put(length_at, length);
        self.align();
    }

    fn put(&mut self, at: usize, word: u32) {
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }

    /// A property of bytes.
    pub(super) fn bytes(&mut self, name: Name, value: &[u8]) {
        self.value(name, |tree| tree.bytes.extend_from_slice(value));
    }

    /// A property of strings: `text` with a NUL at its end, and one after each string before.
    pub(super) fn text(&mut self, name: Name, text: &str) {
        self.value(name, |tree| {
            tree.bytes.extend_from_slice(text.as_bytes());
            tree.bytes.push(0);
        });
    }

    /// A property that is the path of a node below the root: `/node@address`.
    pub(super) fn path(&mut self, name: Name, node: &str, address: u64) {
        self.value(name, |tree| {
            tree.bytes.push(b'/');
            tree.text_at(node, address);
        });
    }

    /// A property of cells.
    pub(super) fn cells(&mut self, name: Name, cells: impl IntoIterator<Item = u32>) {
        self.value(name, |tree| cells.into_iter().for_each(|cell| tree.word(cell)));
    }

    /// A property of numbers of two cells each.
    pub(super) fn quads(&mut self, name: Name, quads: &[u64]) {
        self.value(name, |tree| {
            for quad in quads {
                tree.bytes.extend_from_slice(&quad.to_be_bytes());
            }
        });
    }

    /// The tree as a blob. Every node must have been ended.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.word(9);
        let strings = self.bytes.len() as u32;
        self.bytes.extend_from_slice(NAMES);
        let size = self.bytes.len() as u32;
        let structure = HEADER + RESERVATIONS;
        let (names, version, compatible, boot_cpu) = (NAMES.len() as u32, 17, 16, 0);
        let header = [
            0xd00d_feed,
            size,
            structure,
            strings,
            HEADER,
            version,
            compatible,
            boot_cpu,
            names,
            strings - structure,
        ];
        for (index, word) in header.into_iter().enumerate() {
            self.put(4 * index, word);
        }
        self.bytes.shrink_to_fit();
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole_and_not_as_the_end_of_another() {
        for name in ["#address-cells", "reg", "clocks", "stdout-path"] {
            let at = Name::new(name).0 as usize;
            assert_eq!(NAMES[at..].split(|byte| *byte == 0).next(), Some(name.as_bytes()));
            assert!(at == 0 || NAMES[at - 1] == 0, "{name}");
        }
    }

    #[test]
    fn unit_addresses_are_hexadecimal_without_leading_zeroes() {
        for address in [0, 1, 0xf, 0x10, 0x0901_0000, u64::MAX] {
            let mut tree = Writer::new(0);
            tree.begin_at("x", address);
            let text = format!("x@{address:x}\0");
            assert!(tree.bytes[60..].starts_with(text.as_bytes()), "{text}");
        }
    }
}
