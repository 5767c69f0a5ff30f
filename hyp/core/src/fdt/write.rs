//! A device tree that is written: the flattened format, version 17.

use alloc::{vec, vec::Vec};

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

const HEADER: usize = 40;
/// The block of memory reservations: the entry of zeroes that ends it.
const RESERVATIONS: usize = 16;

/// A tree that is being written.
pub(super) struct Writer {
    /// Zeroes from `at` on.
    bytes: Vec<u8>,
    at: usize,
}

impl Writer {
    /// Nothing yet, with room for `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size],
            at: HEADER + RESERVATIONS,
        }
    }

    /// The next `count` bytes, zeroes as yet.
    fn next(&mut self, count: usize) -> &mut [u8] {
        let start = self.at;
        self.at += count;
        if self.at > self.bytes.len() {
            self.bytes.resize(self.at.next_multiple_of(1024), 0);
        }
        self.bytes.get_mut(start..self.at).unwrap_or_default()
    }

    fn word(&mut self, word: u32) {
        if let Some(bytes) = self.next(4).first_chunk_mut() {
            *bytes = word.to_be_bytes();
        }
    }

    fn put(&mut self, at: usize, word: u32) {
        if let Some(bytes) = self.bytes.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) {
            *bytes = word.to_be_bytes();
        }
    }

    /// `text` and a NUL.
    fn string(&mut self, text: &str) {
        let bytes = self.next(text.len() + 1);
        bytes.iter_mut().zip(text.as_bytes()).for_each(|(to, from)| *to = *from);
    }

    /// `name@address` and a NUL.
    fn string_at(&mut self, name: &str, address: u64) {
        self.string(name);
        let digits = (67 - (address | 1).leading_zeros()) / 4;
        self.at -= 1;
        let bytes = self.next(digits as usize + 2);
        if let Some((at, number)) = bytes.split_first_mut() {
            *at = b'@';
            for (digit, to) in (0..digits).rev().zip(number) {
                let value = (address >> (4 * digit) & 0xF) as u8;
                *to = if value < 10 { b'0' + value } else { b'a' - 10 + value };
            }
        }
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(4);
    }

    /// Begins a node.
    pub(super) fn begin(&mut self, name: &str) {
        self.word(1);
        self.string(name);
        self.align();
    }

    /// Begins the node `name` of the unit address `address`.
    pub(super) fn begin_at(&mut self, name: &str, address: u64) {
        self.word(1);
        self.string_at(name, address);
        self.align();
    }

    /// Ends the node that was begun last.
    pub(super) fn end(&mut self) {
        self.word(2);
    }

    /// Begins a property whose value ends with the next [`Self::close`].
    fn open(&mut self, name: Name) -> usize {
        self.word(3);
        self.word(0);
        self.word(name.0);
        self.at
    }

    fn close(&mut self, value: usize) {
        self.put(value - 8, (self.at - value) as u32);
        self.align();
    }

    /// A property of bytes.
    pub(super) fn bytes(&mut self, name: Name, value: &[u8]) {
        let open = self.open(name);
        self.next(value.len()).copy_from_slice(value);
        self.close(open);
    }

    /// A property of strings: `text` with a NUL at its end, and one after each string before.
    pub(super) fn text(&mut self, name: Name, text: &str) {
        let open = self.open(name);
        self.string(text);
        self.close(open);
    }

    /// A property that is the path of a node below the root: `/node@address`.
    pub(super) fn path(&mut self, name: Name, node: &str, address: u64) {
        let open = self.open(name);
        self.next(1).fill(b'/');
        self.string_at(node, address);
        self.close(open);
    }

    /// A property of cells.
    pub(super) fn cells(&mut self, name: Name, cells: &[u32]) {
        let open = self.open(name);
        for cell in cells {
            self.word(*cell);
        }
        self.close(open);
    }

    /// A property of numbers of two cells each.
    pub(super) fn quads(&mut self, name: Name, quads: &[u64]) {
        let open = self.open(name);
        for quad in quads {
            self.word((quad >> 32) as u32);
            self.word(*quad as u32);
        }
        self.close(open);
    }

    /// The tree as a blob. Every node must have been ended.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.word(9);
        let strings = self.at;
        self.next(NAMES.len()).copy_from_slice(NAMES);
        let structure = HEADER + RESERVATIONS;
        let (version, compatible, boot_cpu) = (17, 16, 0);
        let header = [
            0xd00d_feed,
            self.at,
            structure,
            strings,
            HEADER,
            version,
            compatible,
            boot_cpu,
            NAMES.len(),
            strings - structure,
        ];
        for (index, word) in header.into_iter().enumerate() {
            self.put(4 * index, word as u32);
        }
        self.bytes.truncate(self.at);
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
