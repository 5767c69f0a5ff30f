//! A device tree that is read: nodes, their properties, and where their addresses are on the way up to the CPUs.

use arrayvec::ArrayVec;

use super::flat::{
    Blocks, END, NODE, NODE_END, NOP, PROPERTY, after_name, after_node, after_nops, after_value, be32, bytes, content, name_length,
};
use super::{MAX_DEPTH, TreeError};
use crate::types::Range;

/// How many of the root's children are found without walking over those before them.
const TOP: usize = 64;
/// How many nodes that board discovery looks for are noted on the way.
const NOTED: usize = 16;
/// What it looks for in `compatible`.
pub(crate) const COMPATIBLE: [&str; 5] = ["arm,gic-v3", "arm,armv8-timer", "arm,psci-1.0", "arm,psci-0.2", "arm,psci"];
/// With which each of [`COMPATIBLE`] begins.
const LETTER: u8 = {
    let mut names = 0;
    while names < COMPATIBLE.len() {
        assert!(COMPATIBLE[names].as_bytes()[0] == COMPATIBLE[0].as_bytes()[0]);
        names += 1;
    }
    COMPATIBLE[0].as_bytes()[0]
};

/// What board discovery looks for all over the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sought {
    /// It says that it is memory, or is called so right below the root.
    Memory,
    /// It is compatible with this one of [`COMPATIBLE`].
    Compatible(&'static str),
}

/// A device tree whose structure has been checked. Places in it are counted in words.
pub struct Tree<'a> {
    blocks: Blocks<'a>,
    /// Where the root begins.
    root: u32,
    /// Where the root's first children are, in the tree's order.
    tops: ArrayVec<u32, TOP>,
    /// Where the first nodes are that are sought.
    notes: ArrayVec<(u32, Sought), NOTED>,
    /// What the root says of its children's `reg`: see [`Node::cell_counts`].
    cells: (u32, u32),
    /// Where the strings block has `compatible`, as it stands in the structure: mostly in one place.
    compatible: u32,
    /// Where the first child of the root is that is called `chosen`, if it is noted.
    chosen: Option<u32>,
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
            notes: ArrayVec::new_const(),
            cells: (0, 0),
            compatible: u32::MAX,
            chosen: None,
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
                        b'c' if self.compatible == *name || blocks.named(*name, "compatible") => {
                            self.compatible = *name;
                            if let Some(name) = sought(value, *length) {
                                self.note(node, Sought::Compatible(name));
                            }
                        }
                        b'd' if blocks.named(*name, "device_type") && is_string(content(value, *length), "memory") => {
                            self.note(node, Sought::Memory);
                        }
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
    fn top(&mut self, node: u32) {
        let _ = self.tops.try_push(node);
        if self.blocks.called(node, "memory") {
            self.note(node, Sought::Memory);
        } else if self.blocks.called(node, "chosen") {
            self.chosen.get_or_insert(node);
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

    /// Notes that the node at `place` is sought, once, if there is room.
    fn note(&mut self, place: u32, sought: Sought) {
        if self.notes.last() != Some(&(place, sought)) {
            let _ = self.notes.try_push((place, sought));
        }
    }

    /// Gives `each` the nodes that are sought, in the tree's order. Which of those called `memory` are right below the root is
    /// left to it.
    pub(crate) fn seek<'t>(&'t self, each: &mut dyn FnMut(Node<'t, 'a>, Sought)) {
        if !self.notes.is_full() {
            for (place, sought) in &self.notes {
                if let Some(node) = self.node(*place) {
                    each(node, *sought);
                }
            }
            return;
        }
        // There may be more than were noted: every node is looked at again.
        for node in self.nodes() {
            if node.says("device_type", "memory") || node.is_called("memory") {
                each(node, Sought::Memory);
            }
            if let Some(name) = node.compatible_with(&COMPATIBLE) {
                each(node, Sought::Compatible(name));
            }
        }
    }

    /// The tree's size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.blocks.size
    }

    /// The entries of the memory reservation block (`/memreserve/` in source form). Those that wrap are left out.
    pub fn reservations(&self) -> impl Iterator<Item = Range> {
        self.blocks.reservations.chunks_exact(16).filter_map(|entry| {
            let mut cells = Cells(entry);
            Range::new(cells.take(2)?, cells.take(2)?)
        })
    }

    /// The root.
    pub(crate) fn root(&self) -> Node<'_, 'a> {
        // Its name is a word of zeroes.
        let body = self.blocks.structure.get(self.root as usize + 2..).unwrap_or_default();
        Node {
            tree: self,
            at: self.root,
            body,
        }
    }

    /// The words of the structure block from `place` on.
    fn words(&self, place: u32) -> &'a [u32] {
        self.blocks.structure.get(place as usize..).unwrap_or_default()
    }

    /// The node at `place`.
    fn node(&self, place: u32) -> Option<Node<'_, 'a>> {
        let [NODE, name @ ..] = self.words(place) else { return None };
        Some(Node {
            tree: self,
            at: place,
            body: after_name(name)?,
        })
    }

    /// `/chosen`, which everyone asks.
    pub(crate) fn chosen(&self) -> Option<Node<'_, 'a>> {
        self.node(self.chosen?)
    }

    /// The node that `path` or the alias `path` names.
    pub(crate) fn at(&self, path: &str) -> Option<Node<'_, 'a>> {
        let mut node = self.root();
        let path = match path.strip_prefix('/') {
            Some(rest) => rest,
            None => node.child("aliases")?.string(path)?.strip_prefix('/')?,
        };
        for name in path.split('/').take_while(|name| !name.is_empty()) {
            node = node.child(name)?;
        }
        Some(node)
    }

    /// Every node, in the tree's order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        let mut words = self.words(self.root);
        core::iter::from_fn(move || self.next_node(&mut words))
    }

    /// The first node in `words`, which are then what comes after its name.
    #[inline(never)]
    fn next_node(&self, words: &mut &'a [u32]) -> Option<Node<'_, 'a>> {
        loop {
            *words = match *words {
                [PROPERTY, length, _, value @ ..] => after_value(value, *length)?,
                [NODE, name @ ..] => {
                    let (at, body) = (self.place(words), after_name(name)?);
                    *words = body;
                    return Some(Node { tree: self, at, body });
                }
                [NODE_END | NOP, after @ ..] => after,
                _ => return None,
            };
        }
    }

    /// Where the first child is in `words`, properties and children of one node, which are then what comes after it.
    #[inline(never)]
    fn next_child(&self, words: &mut &'a [u32]) -> Option<u32> {
        loop {
            *words = match *words {
                [PROPERTY, length, _, value @ ..] => after_value(value, *length)?,
                [NODE, ..] => {
                    let place = self.place(words);
                    *words = after_node(words)?;
                    return Some(place);
                }
                [NOP, after @ ..] => after,
                _ => return None,
            };
        }
    }
}

/// A node.
#[derive(Clone, Copy)]
pub(crate) struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    /// Where it begins.
    at: u32,
    /// From its first property on.
    body: &'a [u32],
}

impl<'t, 'a> Node<'t, 'a> {
    fn is_root(&self) -> bool {
        self.at == self.tree.root
    }

    /// The name without the unit address.
    pub(crate) fn base_name(&self) -> &'a str {
        let name = self.tree.words(self.at + 1);
        let name = bytes(name).get(..name_length(name).unwrap_or(0)).unwrap_or_default();
        let name = name.split(|byte| *byte == b'@').next().unwrap_or_default();
        core::str::from_utf8(name).unwrap_or_default()
    }

    /// Whether its name is `name`, with or without its unit address.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.tree.blocks.called(self.at, name)
    }

    /// The node above this one: the last one before it that has not ended there.
    fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        // Everything from one child of the root to the next one is inside of it.
        let tops = &self.tree.tops;
        let top = *tops.get(..tops.partition_point(|top| *top <= self.at))?.last()?;
        if top == self.at {
            return Some(self.tree.root());
        }
        let (mut path, mut depth) = ([self.tree.root; MAX_DEPTH], 0);
        let mut words = self.tree.words(top);
        loop {
            let at = self.tree.place(words);
            if at == self.at {
                return self.tree.node(*path.get(depth)?);
            }
            words = match words {
                [PROPERTY, length, _, value @ ..] => after_value(value, *length)?,
                [NODE, name @ ..] => {
                    depth += 1;
                    *path.get_mut(depth)? = at;
                    after_name(name)?
                }
                [NODE_END, after @ ..] => {
                    depth = depth.checked_sub(1)?;
                    after
                }
                [NOP, after @ ..] => after,
                _ => return None,
            };
        }
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = Self> + use<'t, 'a> {
        let tree = self.tree;
        self.places().filter_map(move |place| tree.node(place))
    }

    /// Where its children are.
    fn places(&self) -> impl Iterator<Item = u32> + use<'t, 'a> {
        let tree = self.tree;
        let (tops, mut rest) = match (self.is_root(), tree.tops.last()) {
            (true, Some(last)) if tree.tops.is_full() => (&tree.tops[..], after_node(tree.words(*last)).unwrap_or_default()),
            (true, Some(_)) => (&tree.tops[..], &[][..]),
            _ => (&[][..], self.body),
        };
        tops.iter().copied().chain(core::iter::from_fn(move || tree.next_child(&mut rest)))
    }

    /// The first child of that name, with or without its unit address.
    pub(crate) fn child(&self, name: &str) -> Option<Self> {
        self.children_called(name).next()
    }

    /// The children of that name, with or without their unit addresses.
    pub(crate) fn children_called(&self, name: &str) -> impl Iterator<Item = Self> {
        let tree = self.tree;
        let called = self.places().filter(move |place| tree.blocks.called(*place, name));
        called.filter_map(move |place| tree.node(place))
    }

    pub(crate) fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.tree.blocks.property(self.body, name)
    }

    /// The properties of these names, looked for all at once.
    pub(crate) fn properties<const N: usize>(&self, names: &[&str; N]) -> [Option<&'a [u8]>; N] {
        let mut values = [None; N];
        self.tree.blocks.properties(self.body, names, &mut values);
        values
    }

    /// A property that is one string.
    pub(crate) fn string(&self, name: &str) -> Option<&'a str> {
        one_string(self.property(name)?)
    }

    /// Whether a property is the one string `text`.
    pub(crate) fn says(&self, name: &str, text: &str) -> bool {
        self.property(name).is_some_and(|value| is_string(value, text))
    }

    /// A property that is one cell.
    pub(crate) fn cell(&self, name: &str) -> Option<u32> {
        one_cell(self.property(name)?)
    }

    /// The first of `names` that the node is compatible with, in the order of the node's own list.
    pub(crate) fn compatible_with(&self, names: &[&'static str]) -> Option<&'static str> {
        let list = self.property("compatible")?;
        first_of(list, names)
    }

    /// Whether the root is right above it.
    pub(crate) fn is_top(&self) -> bool {
        self.parent().is_some_and(|parent| parent.is_root())
    }

    /// Whether `status` lets the node be used.
    pub(crate) fn available(&self) -> bool {
        is_okay(self.property("status"))
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
    pub(crate) fn cell_counts(&self) -> (u32, u32) {
        if self.is_root() { self.tree.cells } else { self.count_cells() }
    }

    fn count_cells(&self) -> (u32, u32) {
        (self.cell("#address-cells").unwrap_or(2), self.cell("#size-cells").unwrap_or(1))
    }

    /// The entries of `reg` as addresses on the parent's bus.
    pub(crate) fn reg(&self) -> Reg<'a> {
        let (address, size) = self.parent().map_or((2, 1), |bus| bus.cell_counts());
        // An entry of no cells would never use the value up.
        let value = self.property("reg").filter(|_| address != 0);
        Reg {
            cells: Cells(value.unwrap_or_default()),
            address,
            size,
        }
    }

    /// The entries of `reg` as physical addresses; an entry that no bus on the way maps is left out.
    pub(crate) fn physical_reg(&self) -> impl Iterator<Item = Range> {
        self.reg().filter_map(|range| self.physical(range))
    }

    /// `range` on this node's parent's bus as the CPUs see it, through the `ranges` of every bus on the way.
    pub(crate) fn physical(&self, range: Range) -> Option<Range> {
        let mut range = range;
        let mut bus = self.parent()?;
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

/// The entries of a `reg`, those that wrap left out.
pub(crate) struct Reg<'a> {
    cells: Cells<'a>,
    address: u32,
    size: u32,
}

impl Iterator for Reg<'_> {
    type Item = Range;

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

/// A value that is one string: UTF-8 with one NUL, at its end.
pub(crate) fn one_string(value: &[u8]) -> Option<&str> {
    let (nul, text) = value.split_last()?;
    if *nul != 0 || text.contains(&0) {
        return None;
    }
    core::str::from_utf8(text).ok()
}

/// The first string of `list` that is one of `names`.
pub(crate) fn first_of(mut list: &[u8], names: &[&'static str]) -> Option<&'static str> {
    while !list.is_empty() {
        let end = list.iter().position(|byte| *byte == 0).unwrap_or(list.len());
        let (string, rest) = list.split_at_checked(end)?;
        if let Some(name) = names.iter().find(|name| name.as_bytes() == string) {
            return Some(name);
        }
        list = rest.get(1..)?;
    }
    None
}

/// Which of [`COMPATIBLE`] a list of strings, `length` bytes of `value`, names first.
fn sought(value: &[u32], length: u32) -> Option<&'static str> {
    let list = content(value, length);
    // Most are one string, which begins with another letter.
    let one = || name_length(value).is_some_and(|end| end + 1 == list.len());
    if list.first() != Some(&LETTER) && one() {
        return None;
    }
    first_of(list, &COMPATIBLE)
}

/// Whether a `status` lets its node be used: it is absent, `okay` or `ok`.
pub(crate) fn is_okay(status: Option<&[u8]>) -> bool {
    status.is_none_or(|status| is_string(status, "okay") || is_string(status, "ok"))
}

fn is_string(value: &[u8], text: &str) -> bool {
    value.strip_suffix(&[0]) == Some(text.as_bytes())
}
