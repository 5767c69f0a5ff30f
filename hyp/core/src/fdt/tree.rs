//! A device tree that is read: nodes, their properties, and where their addresses are on the way up to the CPUs.

use arrayvec::ArrayVec;

use super::flat::{
    Blocks, END, NODE, NODE_END, NOP, PROPERTY, after_name, after_node, after_nops, after_properties, after_value, be32, bytes, content,
    cut, name_length,
};
use super::{MAX_DEPTH, TreeError};
use crate::types::Range;

/// How many of the root's children are found without walking over those before them.
const TOP: usize = 64;
/// What board discovery looks for in `compatible`, all over the tree: the GIC, and the firmware's PSCI.
pub(crate) const COMPATIBLE: [&str; 3] = ["arm,gic-v3", "arm,psci-1.0", "arm,psci-0.2"];
/// With which each of [`COMPATIBLE`] begins.
const LETTER: u8 = {
    let mut names = 0;
    while names < COMPATIBLE.len() {
        assert!(COMPATIBLE[names].as_bytes()[0] == COMPATIBLE[0].as_bytes()[0]);
        names += 1;
    }
    COMPATIBLE[0].as_bytes()[0]
};

/// A device tree whose structure has been checked. Places in it are counted in words.
pub struct Tree<'a> {
    blocks: Blocks<'a>,
    /// Where the root begins.
    root: u32,
    /// Where the root's first children are, in the tree's order.
    tops: ArrayVec<u32, TOP>,
    /// Which of those are memory: a bit each.
    memory: u64,
    /// What the root says of its children's `reg`: see [`Node::cell_counts`].
    cells: (u32, u32),
    /// Where the strings block has `compatible`, as it stands in the structure: mostly in one place.
    compatible: u32,
    /// Where the first child of the root is that is called `chosen`, if it is noted.
    chosen: Option<u32>,
    /// Where the first GICv3 is that can be used.
    gic: Option<u32>,
    /// Where the first PSCI is that can be used.
    psci: Option<u32>,
}

impl<'a> Tree<'a> {
    /// The tree at the beginning of `blob`, which may be longer than the tree.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn new(blob: &'a [u8]) -> Result<Self, TreeError> {
        let mut tree = Self {
            blocks: Blocks::of(blob)?,
            root: 0,
            tops: ArrayVec::new_const(),
            memory: 0,
            cells: (0, 0),
            compatible: u32::MAX,
            chosen: None,
            gic: None,
            psci: None,
        };
        tree.walk()?;
        tree.cells = tree.root().count_cells();
        Ok(tree)
    }

    /// One pass over the structure block: one root without a name, properties before children, every name terminated and
    /// printable. On the way it notes what is looked for later.
    #[inline(never)]
    fn walk(&mut self) -> Result<(), TreeError> {
        let mut words = after_nops(self.blocks.structure);
        // The root has no name, and no other node has none.
        self.root = self.place(words);
        words = match words {
            [NODE, name @ ..] if name_length(name) == Some(0) => name.get(1..).unwrap_or_default(),
            _ => return Err(self.damage(words)),
        };
        let mut depth = 1;
        words = self.properties(self.root, words);
        while depth > 0 {
            words = match words {
                [NODE, name @ ..] => {
                    let after = match name_length(name) {
                        Some(length @ 1..) => name.get(length / 4 + 1..),
                        _ => None,
                    };
                    let Some(after) = after else { return Err(self.damage(words)) };
                    let node = self.place(words);
                    if depth == 1 {
                        self.top(node);
                    } else if depth == MAX_DEPTH {
                        return Err(TreeError::TooDeep { offset: 4 * node as usize });
                    }
                    depth += 1;
                    self.properties(node, after)
                }
                [NODE_END, after @ ..] => {
                    depth -= 1;
                    after
                }
                [NOP, after @ ..] => after,
                // A property, too, if it is wrong, or comes after a child.
                _ => return Err(self.damage(words)),
            };
        }
        match after_nops(words) {
            [END, ..] => Ok(()),
            words => Err(self.damage(words)),
        }
    }

    /// What comes after the properties of `node` with which `words` begin, or from one on that is wrong.
    fn properties(&mut self, node: u32, mut words: &'a [u32]) -> &'a [u32] {
        let blocks = self.blocks;
        loop {
            words = match words {
                [PROPERTY, length, name, value @ ..] => {
                    let letter = blocks.strings.get(u32::from_be(*name) as usize);
                    let (Some(letter @ 1..), Some(after)) = (letter, after_value(value, *length)) else {
                        return words;
                    };
                    match letter {
                        b'c' if self.compatible == *name || blocks.named(*name, b"compatible") => {
                            self.compatible = *name;
                            if is_sought(value, *length) {
                                self.note(node);
                            }
                        }
                        b'd' if blocks.named(*name, b"device_type") => self.note(node),
                        _ => {}
                    }
                    after
                }
                [NOP, after @ ..] => after,
                _ => return words,
            };
        }
    }

    /// Notes a child of the root.
    #[inline(never)]
    fn top(&mut self, node: u32) {
        if self.tops.try_push(node).is_ok() && self.blocks.called(node, b"memory") {
            self.memory |= 1 << (self.tops.len() - 1);
        } else if self.blocks.called(node, b"chosen") {
            self.chosen.get_or_insert(node);
        }
    }

    /// Notes the node at `place`, which says what it is, if it is memory, or the first GIC or PSCI that can be used.
    #[inline(never)]
    fn note(&mut self, place: u32) {
        let Some(node) = self.node(place) else { return };
        let memory = self.tops.last() == Some(&place) && node.says("device_type", "memory");
        match node.compatible_with(&COMPATIBLE) {
            _ if memory => self.memory |= 1 << (self.tops.len() - 1),
            Some(name) if node.available() => {
                if name == COMPATIBLE[0] {
                    self.gic.get_or_insert(place);
                } else if node.says("method", "smc") || node.says("method", "hvc") {
                    self.psci.get_or_insert(place);
                }
            }
            _ => {}
        }
    }

    /// The structure block breaks a rule where `words` begin.
    #[cold]
    fn damage(&self, words: &[u32]) -> TreeError {
        TreeError::Structure {
            offset: 4 * self.place(words) as usize,
        }
    }

    /// Where `words`, which go to the end of the structure block, begin.
    fn place(&self, words: &[u32]) -> u32 {
        (self.blocks.structure.len() - words.len()) as u32
    }

    /// The tree's size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.blocks.size
    }

    /// The entries of the memory reservation block (`/memreserve/` in source form). Those that wrap are left out.
    pub fn reservations(&self) -> impl Iterator<Item = Range> {
        Reg {
            cells: Cells(self.blocks.reservations),
            address: 2,
            size: 2,
        }
    }

    /// The words of the structure block from `place` on.
    fn words(&self, place: u32) -> &'a [u32] {
        self.blocks.structure.get(place as usize..).unwrap_or_default()
    }

    /// The root.
    pub(crate) fn root(&self) -> Node<'_, 'a> {
        Node {
            tree: self,
            at: self.root,
            // Its name is a word of zeroes.
            body: self.root + 2,
        }
    }

    /// The node at `place`.
    #[inline(never)]
    fn node(&self, place: u32) -> Option<Node<'_, 'a>> {
        let [NODE, name @ ..] = self.words(place) else { return None };
        Some(Node {
            tree: self,
            at: place,
            body: self.place(after_name(name)?),
        })
    }

    /// The children of the root that say that they are memory, or are called so.
    pub(crate) fn memory(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        self.root().places().enumerate().filter_map(|(nth, place)| {
            let node = match nth {
                ..TOP if self.memory >> nth & 1 == 0 => return None,
                _ => self.node(place)?,
            };
            (nth < TOP || self.blocks.called(place, b"memory") || node.says("device_type", "memory")).then_some(node)
        })
    }

    /// `/chosen`, which everyone asks.
    pub(crate) fn chosen(&self) -> Option<Node<'_, 'a>> {
        self.node(self.chosen?)
    }

    /// The first GICv3 that can be used.
    pub(crate) fn gic(&self) -> Option<Node<'_, 'a>> {
        self.node(self.gic?)
    }

    /// The first PSCI that can be used.
    pub(crate) fn psci(&self) -> Option<Node<'_, 'a>> {
        self.node(self.psci?)
    }

    /// The node that `path` or the alias `path` names.
    pub(crate) fn at(&self, path: &[u8]) -> Option<Node<'_, 'a>> {
        let mut node = self.root();
        let mut path = match path.strip_prefix(b"/") {
            Some(rest) => rest,
            None => one_string(self.blocks.property(node.child(b"aliases")?.words(), path)?)?.strip_prefix(b"/")?,
        };
        loop {
            let name = cut(&mut path, b'/');
            if name.is_empty() {
                return Some(node);
            }
            node = node.child(name)?;
        }
    }

    /// Every node, in the tree's order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        let mut words = self.words(self.root);
        core::iter::from_fn(move || {
            loop {
                words = after_properties(words);
                if let [NODE_END, after @ ..] = words {
                    words = after;
                } else {
                    let node = self.node(self.place(words))?;
                    words = node.words();
                    return Some(node);
                }
            }
        })
    }
}

/// A node.
#[derive(Clone, Copy)]
pub(crate) struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    /// Where it begins.
    at: u32,
    /// Where its properties begin.
    body: u32,
}

impl<'t, 'a> Node<'t, 'a> {
    fn is_root(&self) -> bool {
        self.at == self.tree.root
    }

    /// From its first property on.
    fn words(&self) -> &'a [u32] {
        self.tree.words(self.body)
    }

    /// The name without the unit address.
    pub(crate) fn base_name(&self) -> &'a [u8] {
        let name = self.tree.words(self.at + 1);
        let mut name = bytes(name).get(..name_length(name).unwrap_or(0)).unwrap_or_default();
        cut(&mut name, b'@')
    }

    /// Whether its name is `name`, with or without its unit address.
    pub(crate) fn is_called(&self, name: &[u8]) -> bool {
        self.tree.blocks.called(self.at, name)
    }

    /// The node above this one. To find it is to walk over those before this one: who goes through the children of a node knows it.
    #[inline(never)]
    pub(crate) fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let tree = self.tree;
        let (mut above, tops) = (tree.root(), &tree.tops);
        // Everything from one child of the root to the next one is inside of it.
        let mut words = tree.words(*tops.get(..tops.partition_point(|top| *top <= self.at))?.last()?);
        loop {
            words = after_properties(words);
            let at = tree.place(words);
            if at == self.at {
                return Some(above);
            }
            let after = after_node(words)?;
            words = if tree.place(after) > self.at {
                above = tree.node(at)?;
                above.words()
            } else {
                after
            };
        }
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = Self> + use<'t, 'a> {
        let mut places = self.places();
        core::iter::from_fn(move || places.next_node())
    }

    /// Where its children are.
    #[inline(never)]
    fn places(&self) -> Places<'t, 'a> {
        let tree = self.tree;
        let (noted, words) = match (self.is_root(), tree.tops.last()) {
            (true, Some(last)) if tree.tops.is_full() => (&tree.tops[..], after_node(tree.words(*last)).unwrap_or_default()),
            (true, Some(_)) => (&tree.tops[..], &[][..]),
            _ => (&[][..], self.words()),
        };
        Places { tree, noted, words }
    }

    /// The first child of that name, with or without its unit address.
    #[inline(never)]
    pub(crate) fn child(&self, name: &[u8]) -> Option<Self> {
        let tree = self.tree;
        let place = self.places().find(|place| tree.blocks.called(*place, name))?;
        tree.node(place)
    }

    #[inline(never)]
    pub(crate) fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.tree.blocks.property(self.words(), name.as_bytes())
    }

    /// The name of its first property that begins with `umbra,` and is none of `known`.
    #[inline(never)]
    pub(crate) fn unknown(&self, known: &[&str]) -> Option<&'a [u8]> {
        let mut words = self.words();
        loop {
            words = match words {
                [PROPERTY, length, name, value @ ..] => {
                    let blocks = &self.tree.blocks;
                    let mut text = blocks.strings.get(u32::from_be(*name) as usize..)?;
                    if text.starts_with(b"umbra,") && !known.iter().any(|known| blocks.named(*name, known.as_bytes())) {
                        return Some(cut(&mut text, 0));
                    }
                    after_value(value, *length)?
                }
                [NOP, after @ ..] => after,
                _ => return None,
            };
        }
    }

    /// A property that is one string, of any characters.
    pub(crate) fn text(&self, name: &str) -> Option<&'a [u8]> {
        one_string(self.property(name)?)
    }

    /// Whether it has one of these properties.
    pub(crate) fn has(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.property(name).is_some())
    }

    /// Whether a property is the one string `text`.
    #[inline(never)]
    pub(crate) fn says(&self, name: &str, text: &str) -> bool {
        self.property(name).is_some_and(|value| is_string(value, text))
    }

    /// A property that is one cell.
    #[inline(never)]
    pub(crate) fn cell(&self, name: &str) -> Option<u32> {
        one_cell(self.property(name)?)
    }

    /// The first of `names` that the node is compatible with, in the order of the node's own list.
    pub(crate) fn compatible_with(&self, names: &[&'static str]) -> Option<&'static str> {
        let list = self.property("compatible")?;
        first_of(list, names)
    }

    /// Whether `status` lets the node be used: it is absent, `okay` or `ok`.
    #[inline(never)]
    pub(crate) fn available(&self) -> bool {
        let status = self.property("status");
        status.is_none_or(|status| is_string(status, "okay") || is_string(status, "ok"))
    }

    /// The phandle of the controller to which its `interrupts` go: its own word, or the nearest node's above that has one.
    pub(crate) fn interrupt_parent(&self) -> Option<u32> {
        let mut node = *self;
        loop {
            if let Some(phandle) = node.cell("interrupt-parent") {
                return Some(phandle);
            }
            node = node.parent()?;
        }
    }

    /// `#address-cells` and `#size-cells` for the node's children, 2 and 1 where they are absent.
    #[inline(never)]
    pub(crate) fn cell_counts(&self) -> (u32, u32) {
        if self.is_root() { self.tree.cells } else { self.count_cells() }
    }

    fn count_cells(&self) -> (u32, u32) {
        (self.cell("#address-cells").unwrap_or(2), self.cell("#size-cells").unwrap_or(1))
    }

    /// The entries of `reg` as addresses on `bus`, which is its parent.
    #[inline(never)]
    pub(crate) fn reg(&self, bus: &Self) -> Reg<'a> {
        let (address, size) = bus.cell_counts();
        // An entry of no cells would never use the value up.
        let value = self.property("reg").filter(|_| address != 0);
        Reg {
            cells: Cells(value.unwrap_or_default()),
            address,
            size,
        }
    }

    /// `range` on this bus as the CPUs see it, through the `ranges` of this and every bus above.
    #[inline(never)]
    pub(crate) fn physical(&self, range: Range) -> Option<Range> {
        let (mut range, mut bus) = (range, *self);
        while let Some(above) = bus.parent() {
            range = bus.map_up(&above, range)?;
            bus = above;
        }
        Some(range)
    }

    /// `range` on this bus as the bus above it sees it. No `ranges` means not mapped; an empty one, the same address.
    fn map_up(&self, above: &Self, range: Range) -> Option<Range> {
        let mut cells = Cells(self.property("ranges")?);
        if cells.0.is_empty() {
            return Some(range);
        }
        let (child, size) = self.cell_counts();
        let (parent, _) = above.cell_counts();
        if child == 0 {
            return None;
        }
        while !cells.0.is_empty() {
            let (from, to, length) = (cells.take(child), cells.take(parent), cells.take(size));
            let (Some(from), Some(to), Some(length)) = (from, to, length) else {
                continue;
            };
            if Range::new(from, length).is_some_and(|window| window.covers(range)) {
                return Range::new(to.checked_add(range.start() - from)?, range.size());
            }
        }
        None
    }
}

/// Where the children of a node are: those of the root that are noted, and those that are found in `words`.
struct Places<'t, 'a> {
    tree: &'t Tree<'a>,
    noted: &'t [u32],
    words: &'a [u32],
}

impl Iterator for Places<'_, '_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        match self.noted {
            [place, noted @ ..] => {
                self.noted = noted;
                Some(*place)
            }
            [] => self.search(),
        }
    }
}

impl<'t, 'a> Places<'t, 'a> {
    /// The node that is there.
    #[inline(never)]
    fn next_node(&mut self) -> Option<Node<'t, 'a>> {
        let place = self.next()?;
        self.tree.node(place)
    }

    /// The next one in `words`.
    #[inline(never)]
    fn search(&mut self) -> Option<u32> {
        let child = after_properties(self.words);
        self.words = after_node(child)?;
        Some(self.tree.place(child))
    }
}

/// The entries of a `reg`, those that wrap left out.
pub(crate) struct Reg<'a> {
    cells: Cells<'a>,
    address: u32,
    size: u32,
}

impl Iterator for Reg<'_> {
    type Item = Range;

    #[inline(never)]
    fn next(&mut self) -> Option<Range> {
        while !self.cells.0.is_empty() {
            let (start, size) = (self.cells.take(self.address)?, self.cells.take(self.size)?);
            if let Some(range) = Range::new(start, size) {
                return Some(range);
            }
        }
        None
    }
}

/// A value made of big-endian 32-bit cells, eaten from the front.
#[derive(Clone, Copy)]
pub(crate) struct Cells<'a>(pub(crate) &'a [u8]);

impl Cells<'_> {
    /// The next `count` cells as one number; `None` when it has more than 64 bits or the value is too short. It always
    /// advances: past the number, or to the end.
    #[inline(never)]
    pub(crate) fn take(&mut self, count: u32) -> Option<u64> {
        let (mut value, mut fits) = (0u64, true);
        for _ in 0..count {
            let Some((cell, rest)) = self.0.split_first_chunk::<4>() else {
                self.0 = &[];
                return None;
            };
            self.0 = rest;
            fits &= value >> 32 == 0;
            value = value << 32 | u64::from(u32::from_be_bytes(*cell));
        }
        fits.then_some(value)
    }
}

/// A value that is one cell.
pub(crate) fn one_cell(value: &[u8]) -> Option<u32> {
    be32(value, 0).filter(|_| value.len() == 4)
}

/// A value that is one string: one NUL, at its end.
#[inline(never)]
pub(crate) fn one_string(value: &[u8]) -> Option<&[u8]> {
    value.strip_suffix(&[0]).filter(|text| text.iter().all(|byte| *byte != 0))
}

/// The first string of `list` that is one of `names`.
#[inline(never)]
pub(crate) fn first_of(mut list: &[u8], names: &[&'static str]) -> Option<&'static str> {
    while !list.is_empty() {
        let string = cut(&mut list, 0);
        if let Some(name) = names.iter().find(|name| name.as_bytes() == string) {
            return Some(name);
        }
    }
    None
}

/// Whether a list of strings, `length` bytes of `value`, names one of [`COMPATIBLE`].
fn is_sought(value: &[u32], length: u32) -> bool {
    let list = content(value, length);
    // Most are one string, which begins with another letter.
    let one = || name_length(value).is_some_and(|end| end + 1 == list.len());
    (list.first() == Some(&LETTER) || !one()) && first_of(list, &COMPATIBLE).is_some()
}

#[inline(never)]
pub(crate) fn is_string(value: &[u8], text: &str) -> bool {
    value.strip_suffix(&[0]) == Some(text.as_bytes())
}
