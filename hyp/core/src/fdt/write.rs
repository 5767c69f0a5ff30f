//! A device tree that is written: the flattened format, version 17. What is the same in every tree is written by the compiler.

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

/// What a constant function writes, as words: the compiler runs it.
macro_rules! part {
    ($write:path) => {{
        const WORDS: usize = {
            let mut writer = $crate::fdt::write::Writer::new(&mut []);
            $write(&mut writer);
            writer.at() / 4
        };
        const PART: [u32; WORDS] = {
            let mut words = [0; WORDS];
            $write(&mut $crate::fdt::write::Writer::new(&mut words));
            words
        };
        &PART
    }};
}
pub(super) use part;

/// The header, and the block of memory reservations: the entry of zeroes that ends it.
const HEADER: usize = 40;
const RESERVATIONS: usize = 16;
const STRUCTURE: usize = HEADER + RESERVATIONS;

/// A tree, or a part of it, that is being written. What there is no room for is only counted.
pub(super) struct Writer<'w> {
    /// Big-endian, and zeroes from `at` on.
    words: &'w mut [u32],
    /// In bytes.
    at: usize,
}

impl<'w> Writer<'w> {
    /// For a part of a tree.
    pub(super) const fn new(words: &'w mut [u32]) -> Self {
        Self { words, at: 0 }
    }

    /// For a tree.
    pub(super) const fn tree(words: &'w mut [u32]) -> Self {
        Self { words, at: STRUCTURE }
    }

    /// How many bytes it took.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// The next word; `at` is a multiple of 4.
    #[inline(never)]
    pub(super) const fn word(&mut self, word: u32) {
        if self.at / 4 < self.words.len() {
            self.words[self.at / 4] = word.to_be();
        }
        self.at += 4;
    }

    const fn byte(&mut self, byte: u8) {
        if self.at / 4 < self.words.len() {
            self.words[self.at / 4] |= ((byte as u32) << (24 - self.at % 4 * 8)).to_be();
        }
        self.at += 1;
    }

    /// `bytes`, without a NUL.
    const fn string(&mut self, mut bytes: &[u8]) {
        while self.at.is_multiple_of(4)
            && let [a, b, c, d, rest @ ..] = bytes
        {
            self.word(u32::from_be_bytes([*a, *b, *c, *d]));
            bytes = rest;
        }
        while let [byte, rest @ ..] = bytes {
            self.byte(*byte);
            bytes = rest;
        }
    }

    /// `name@address`, without a NUL.
    const fn string_at(&mut self, name: &[u8], address: u64) {
        self.string(name);
        self.byte(b'@');
        let mut digits = digits(address);
        while digits > 0 {
            digits -= 1;
            let value = (address >> (4 * digits) & 0xF) as u8;
            self.byte(if value < 10 { b'0' + value } else { b'a' - 10 + value });
        }
    }

    /// A NUL, and up to the next word.
    const fn terminate(&mut self) {
        self.at = (self.at + 1).next_multiple_of(4);
    }

    /// Begins a node.
    pub(super) const fn begin(&mut self, name: &[u8]) {
        self.word(1);
        self.string(name);
        self.terminate();
    }

    /// Begins the node `name` of the unit address `address`.
    pub(super) const fn begin_at(&mut self, name: &[u8], address: u64) {
        self.word(1);
        self.string_at(name, address);
        self.terminate();
    }

    /// Ends the node that was begun last.
    pub(super) const fn end(&mut self) {
        self.word(2);
    }

    /// The next two words.
    pub(super) const fn quad(&mut self, quad: u64) {
        self.word((quad >> 32) as u32);
        self.word(quad as u32);
    }

    /// Begins a property whose value, which is to follow, has `length` bytes.
    pub(super) const fn open(&mut self, name: Name, length: usize) {
        self.word(3);
        self.word(length as u32);
        self.word(name.0);
    }

    /// A property without a value.
    pub(super) const fn flag(&mut self, name: Name) {
        self.open(name, 0);
    }

    /// A property of bytes.
    pub(super) fn bytes(&mut self, name: Name, value: &[u8]) {
        self.open(name, value.len());
        let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(self.words);
        if let Some(room) = bytes.get_mut(self.at..self.at + value.len()) {
            room.copy_from_slice(value);
        }
        self.at = (self.at + value.len()).next_multiple_of(4);
    }

    /// A property of strings: `text` with a NUL at its end, and one after each string before.
    pub(super) const fn text(&mut self, name: Name, text: &[u8]) {
        self.open(name, text.len() + 1);
        self.string(text);
        self.terminate();
    }

    /// A property that is the path of a node below the root: `/node@address`.
    pub(super) const fn path(&mut self, name: Name, node: &[u8], address: u64) {
        let text = "/@".len() + node.len() + digits(address) as usize;
        self.open(name, text + 1);
        self.byte(b'/');
        self.string_at(node, address);
        self.terminate();
    }

    /// A property of cells.
    pub(super) const fn cells(&mut self, name: Name, mut cells: &[u32]) {
        self.open(name, 4 * cells.len());
        while let [cell, rest @ ..] = cells {
            self.word(*cell);
            cells = rest;
        }
    }

    /// A property of numbers of two cells each.
    pub(super) const fn quads(&mut self, name: Name, mut quads: &[u64]) {
        self.open(name, 8 * quads.len());
        while let [quad, rest @ ..] = quads {
            self.quad(*quad);
            quads = rest;
        }
    }

    /// What [`part`] made.
    #[inline(never)]
    pub(super) fn part(&mut self, part: &[u32]) {
        let start = self.at / 4;
        if let Some(room) = self.words.get_mut(start..start + part.len()) {
            room.copy_from_slice(part);
        }
        self.at += 4 * part.len();
    }

    /// Ends the tree, every node of which must have been ended. Gives its size in bytes.
    pub(super) fn finish(mut self) -> usize {
        self.word(9);
        let strings = self.at;
        self.part(&NAME_WORDS);
        let (size, version, compatible, boot_cpu) = (strings + NAMES.len(), 17, 16, 0);
        self.at = 0;
        let header = [
            0xd00d_feed,
            size,
            STRUCTURE,
            strings,
            HEADER,
            version,
            compatible,
            boot_cpu,
            NAMES.len(),
            strings - STRUCTURE,
        ];
        header.into_iter().for_each(|word| self.word(word as u32));
        size
    }
}

/// How many hexadecimal digits a unit address has.
const fn digits(address: u64) -> u32 {
    (67 - (address | 1).leading_zeros()) / 4
}

/// [`NAMES`] in words.
const NAME_WORDS: [u32; NAMES.len().div_ceil(4)] = {
    let mut words = [0; NAMES.len().div_ceil(4)];
    let mut writer = Writer::new(&mut words);
    let mut names = NAMES;
    while let [byte, rest @ ..] = names {
        writer.byte(*byte);
        names = rest;
    }
    words
};

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
            let mut words = [0; 8];
            Writer::new(&mut words).begin_at(b"x", address);
            let text = format!("x@{address:x}\0");
            let bytes: &[u8] = bytemuck::must_cast_slice(&words);
            assert!(bytes[4..].starts_with(text.as_bytes()), "{text}");
        }
    }
}
