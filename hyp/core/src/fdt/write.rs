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
    /// Big-endian, and zeroes from `at` on.
    words: Vec<u32>,
    /// In bytes.
    at: usize,
}

impl Writer {
    /// Nothing yet, with room for `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            words: vec![0; size.div_ceil(4)],
            at: HEADER + RESERVATIONS,
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.words.resize(self.at.next_multiple_of(1024) / 4, 0);
    }

    /// The next `count` bytes, zeroes as yet.
    fn next(&mut self, count: usize) -> &mut [u8] {
        let start = self.at;
        self.at += count;
        if self.at > 4 * self.words.len() {
            self.grow();
        }
        let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(&mut self.words);
        bytes.get_mut(start..self.at).unwrap_or_default()
    }

    /// The next word; `at` is a multiple of 4.
    #[inline]
    fn word(&mut self, word: u32) {
        let start = self.at / 4;
        self.at += 4;
        if start >= self.words.len() {
            self.grow();
        }
        if let Some(place) = self.words.get_mut(start) {
            *place = word.to_be();
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

    /// Begins a property whose value has `length` bytes.
    fn open(&mut self, name: Name, length: usize) {
        let start = self.at / 4;
        self.at += 12;
        if self.at > 4 * self.words.len() {
            self.grow();
        }
        if let Some([token, size, at]) = self.words.get_mut(start..).and_then(<[u32]>::first_chunk_mut) {
            (*token, *size, *at) = (3u32.to_be(), (length as u32).to_be(), name.0.to_be());
        }
    }

    /// A property of bytes.
    pub(super) fn bytes(&mut self, name: Name, value: &[u8]) {
        self.open(name, value.len());
        self.next(value.len()).copy_from_slice(value);
        self.align();
    }

    /// A property of strings: `text` with a NUL at its end, and one after each string before.
    pub(super) fn text(&mut self, name: Name, text: &str) {
        self.open(name, text.len() + 1);
        self.string(text);
        self.align();
    }

    /// A property that is the path of a node below the root: `/node@address`.
    pub(super) fn path(&mut self, name: Name, node: &str, address: u64) {
        let length = self.at / 4 + 1;
        self.open(name, 0);
        let start = self.at;
        self.next(1).fill(b'/');
        self.string_at(node, address);
        if let Some(place) = self.words.get_mut(length) {
            *place = ((self.at - start) as u32).to_be();
        }
        self.align();
    }

    /// A property of cells.
    pub(super) fn cells(&mut self, name: Name, cells: &[u32]) {
        self.open(name, 4 * cells.len());
        for cell in cells {
            self.word(*cell);
        }
    }

    /// A property of numbers of two cells each.
    pub(super) fn quads(&mut self, name: Name, quads: &[u64]) {
        self.open(name, 8 * quads.len());
        for quad in quads {
            self.word((quad >> 32) as u32);
            self.word(*quad as u32);
        }
    }

    /// The tree as a blob. Every node must have been ended.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.word(9);
        let strings = self.at;
        self.next(NAMES.len()).copy_from_slice(NAMES);
        let structure = HEADER + RESERVATIONS;
        let (size, version, compatible, boot_cpu) = (self.at, 17, 16, 0);
        self.at = 0;
        let header = [
            0xd00d_feed,
            size,
            structure,
            strings,
            HEADER,
            version,
            compatible,
            boot_cpu,
            NAMES.len(),
            strings - structure,
        ];
        header.into_iter().for_each(|word| self.word(word as u32));
        let bytes: &[u8] = bytemuck::must_cast_slice(&self.words);
        bytes.get(..size).unwrap_or_default().to_vec()
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
            let bytes: &[u8] = bytemuck::must_cast_slice(&tree.words);
            assert!(bytes[60..].starts_with(text.as_bytes()), "{text}");
        }
    }
}
