//! A device tree that is read: nodes, their properties, and where their addresses are on the way up to the CPUs.

use super::flat::{Blocks, Kind, be32};
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

/// A device tree whose structure has been checked.
pub struct Tree<'a> {
    blocks: Blocks<'a>,
    /// Where the root begins.
    root: usize,
    /// The offsets of the root's first children, in the tree's order.
    top: [u32; TOP],
    tops: usize,
    /// The offsets of the first nodes that are compatible with one of [`COMPATIBLE`], say that they are memory, or are called so
    /// right below the root.
    note: [u32; NOTED],
    notes: usize,
}

impl<'a> Tree<'a> {
    /// The tree at the beginning of `blob`, which may be longer than the tree.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn new(blob: &'a [u8]) -> Result<Self, TreeError> {
        let blocks = Blocks::of(blob)?;
        let mut tree = Self {
            blocks,
            root: 0,
            top: [0; TOP],
            tops: 0,
            note: [0; NOTED],
            notes: 0,
        };
        tree.walk()?;
        Ok(tree)
    }

    /// One pass over the structure block: one root without a name, properties before children, every name terminated and
    /// printable. On the way it notes what is looked for later.
    #[inline(never)]
    fn walk(&mut self) -> Result<(), TreeError> {
        let blocks = self.blocks;
        let size = blocks.structure.len();
        // A name that begins before the last NUL has an end.
        let names = blocks.strings.iter().rposition(|byte| *byte == 0).unwrap_or(0);
        let names = blocks.strings.get(..names).unwrap_or_default();
        // Where the strings block has `compatible`, once that is known: mostly in one place.
        let mut compatible = usize::MAX;
        let (mut next, mut depth, mut node) = (0, 0, None);
        // Whether a property may stand here: after the name of a node, or after a property of it.
        let mut properties = false;
        loop {
            let offset = next;
            let wrong = Err(TreeError::Structure { offset });
            let (token, length, name) = blocks.head(offset);
            match token {
                1 => {
                    let Some(end) = blocks.name_end(offset + 4) else { return wrong };
                    next = (end + 4) & !3;
                    if depth == MAX_DEPTH {
                        return Err(TreeError::TooDeep { offset });
                    }
                    // The first node, and no other, is the root, and has no name.
                    if (end == offset + 4) != (depth == 0) || node.is_some() == (depth == 0) {
                        return wrong;
                    }
                    if depth == 0 {
                        self.root = offset;
                    } else if let (1, Some(place)) = (depth, self.top.get_mut(self.tops)) {
                        *place = offset as u32;
                        self.tops += 1;
                    }
                    if depth == 1 && blocks.called(offset, "memory") {
                        self.note(offset);
                    }
                    node = Some(offset);
                    properties = true;
                    depth += 1;
                }
                2 if depth > 0 => {
                    next = offset + 4;
                    properties = false;
                    depth -= 1;
                }
                3 if properties => {
                    let (length, name) = (length as usize, name as usize);
                    let value = offset + 12;
                    next = value + ((length + 3) & !3);
                    let (Some(letter), true) = (names.get(name), next <= size) else {
                        return wrong;
                    };
                    let value = || blocks.structure.get(value..value + length).unwrap_or_default();
                    let wanted = match letter {
                        b'c' if name == compatible || blocks.named(name, "compatible") => {
                            compatible = name;
                            // Most nodes' is one string, which begins with another letter.
                            let one = || blocks.name_end(offset + 12) == Some(offset + 11 + length);
                            (blocks.structure.get(offset + 12) == Some(&LETTER) || !one()) && first_of(value(), &COMPATIBLE).is_some()
                        }
                        b'd' => blocks.named(name, "device_type") && is_string(value(), "memory"),
                        0 => return wrong,
                        _ => false,
                    };
                    if let (true, Some(node)) = (wanted, node) {
                        self.note(node);
                    }
                }
                4 => next = offset + 4,
                9 if depth == 0 && node.is_some() => return Ok(()),
                _ => return wrong,
            }
            if next > size {
                return wrong;
            }
        }
    }

    /// Notes the node at `offset`, once, if there is room.
    fn note(&mut self, offset: usize) {
        let last = self.notes.checked_sub(1).and_then(|last| self.note.get(last));
        if last == Some(&(offset as u32)) {
            return;
        }
        if let Some(place) = self.note.get_mut(self.notes) {
            *place = offset as u32;
            self.notes += 1;
        }
    }

    /// The nodes that are compatible with one of [`COMPATIBLE`], say that they are memory, or are called so; others, too, where there are many.
    pub(crate) fn noted(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        let notes = self.note.get(..self.notes).filter(|_| self.notes < NOTED);
        let all = notes.is_none().then(|| self.nodes()).into_iter().flatten();
        let noted = notes.unwrap_or_default().iter();
        noted.filter_map(|offset| self.node(*offset as usize)).chain(all)
    }

    /// Where the root's first children are.
    fn tops(&self) -> &[u32] {
        self.top.get(..self.tops).unwrap_or_default()
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
        Node {
            tree: self,
            name: &[],
            at: self.root,
            // Its name is a word of zeroes.
            body: self.root + 8,
        }
    }

    /// The node at `offset`.
    fn node(&self, offset: usize) -> Option<Node<'_, 'a>> {
        let token = self.blocks.token(offset).filter(|token| token.kind == Kind::Node)?;
        Some(Node {
            tree: self,
            name: token.content,
            at: offset,
            body: token.next(),
        })
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
        let mut offset = self.root;
        core::iter::from_fn(move || {
            loop {
                let token = self.blocks.token(offset)?;
                let at = core::mem::replace(&mut offset, token.next());
                if token.kind == Kind::Node {
                    return Some(Node {
                        tree: self,
                        name: token.content,
                        at,
                        body: token.next(),
                    });
                }
            }
        })
    }
}

/// A node.
#[derive(Clone, Copy)]
pub(crate) struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    /// Name and unit address; empty for the root alone.
    name: &'a [u8],
    /// Where it begins.
    at: usize,
    /// Where its first property is.
    body: usize,
}

impl<'t, 'a> Node<'t, 'a> {
    /// The name without the unit address.
    pub(crate) fn base_name(&self) -> &'a str {
        let name = self.name.split(|byte| *byte == b'@').next().unwrap_or_default();
        core::str::from_utf8(name).unwrap_or_default()
    }

    /// Whether its name is `name`, with or without its unit address.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.tree.blocks.called(self.at, name)
    }

    /// The node above this one: the last one before it that has not ended there.
    fn parent(&self) -> Option<Self> {
        if self.name.is_empty() {
            return None;
        }
        // Everything from one child of the root to the next one is inside of it.
        let tops = self.tree.tops();
        let top = tops.get(..tops.partition_point(|top| *top as usize <= self.at))?.last();
        let mut offset = *top? as usize;
        let (mut path, mut depth) = ([self.tree.root; MAX_DEPTH], 0);
        while offset != self.at {
            let token = self.tree.blocks.token(offset)?;
            match token.kind {
                Kind::Node => {
                    depth += 1;
                    *path.get_mut(depth)? = offset;
                }
                Kind::NodeEnd => depth = depth.checked_sub(1)?,
                Kind::Property | Kind::Nop | Kind::End => {}
            }
            offset = token.next();
        }
        self.tree.node(*path.get(depth)?)
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = Self> + use<'t, 'a> {
        let tree = self.tree;
        self.offsets().filter_map(move |offset| tree.node(offset))
    }

    fn offsets(&self) -> Offsets<'t, 'a> {
        let tops = if self.name.is_empty() { self.tree.tops() } else { &[] };
        Offsets {
            tree: self.tree,
            tops,
            next: if tops.is_empty() { self.body } else { 0 },
        }
    }

    /// The first child of that name, with or without its unit address.
    pub(crate) fn child(&self, name: &str) -> Option<Self> {
        let blocks = &self.tree.blocks;
        // Looking below the root is what most look-ups do.
        let tops = if self.name.is_empty() { self.tree.tops() } else { &[] };
        if let Some(top) = tops.iter().find(|top| blocks.called(**top as usize, name)) {
            return self.tree.node(*top as usize);
        }
        if !tops.is_empty() && tops.len() < TOP {
            return None;
        }
        self.children_called(name).next()
    }

    /// The children of that name, with or without their unit addresses.
    pub(crate) fn children_called(&self, name: &str) -> impl Iterator<Item = Self> {
        let called = self.offsets().filter(move |offset| self.tree.blocks.called(*offset, name));
        called.filter_map(|offset| self.tree.node(offset))
    }

    pub(crate) fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.tree.blocks.property(self.body, name)
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
        let value = self.property(name)?;
        be32(value, 0).filter(|_| value.len() == 4)
    }

    /// The first of `names` that the node is compatible with, in the order of the node's own list.
    pub(crate) fn compatible_with(&self, names: &[&'static str]) -> Option<&'static str> {
        let list = self.property("compatible")?;
        first_of(list, names)
    }

    /// Whether the root is right above it.
    pub(crate) fn is_top(&self) -> bool {
        self.tree.tops().contains(&(self.at as u32)) || self.parent().is_some_and(|parent| parent.name.is_empty())
    }

    /// Whether `status` lets the node be used: it is absent, `okay` or `ok`.
    pub(crate) fn available(&self) -> bool {
        self.property("status")
            .is_none_or(|status| is_string(status, "okay") || is_string(status, "ok"))
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

/// Where the children of a node begin.
struct Offsets<'t, 'a> {
    tree: &'t Tree<'a>,
    /// Of the root's children, those that are known and were not given yet.
    tops: &'t [u32],
    /// Where to look on; 0 while `tops` are given.
    next: usize,
}

impl Iterator for Offsets<'_, '_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let Some((top, rest)) = self.tops.split_first() {
            self.tops = rest;
            if rest.is_empty() && self.tree.tops == TOP {
                self.next = self.after(*top as usize);
            }
            return Some(*top as usize);
        }
        while self.next != 0 {
            let token = self.tree.blocks.token(self.next)?;
            let at = self.next;
            match token.kind {
                Kind::Node => {
                    self.next = self.after(at);
                    return Some(at);
                }
                Kind::Property | Kind::Nop => self.next = token.next(),
                Kind::NodeEnd | Kind::End => break,
            }
        }
        None
    }
}

impl Offsets<'_, '_> {
    /// What comes after the node at `offset`.
    fn after(&self, offset: usize) -> usize {
        let (mut offset, mut depth) = (offset, 0);
        loop {
            // Checked by `walk`, but for its end, which is no node's.
            let (token, length, _) = self.tree.blocks.head(offset);
            offset += 4;
            match token {
                1 => {
                    depth += 1;
                    offset = self.tree.blocks.name_end(offset).map_or(offset, |end| (end + 4) & !3);
                }
                2 => {
                    depth -= 1;
                    if depth == 0 {
                        return offset;
                    }
                }
                3 => offset += 8 + ((length as usize + 3) & !3),
                4 => {}
                _ => return offset,
            }
        }
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

/// A value that is one string: UTF-8 with one NUL, at its end.
pub(crate) fn one_string(value: &[u8]) -> Option<&str> {
    let (nul, text) = value.split_last()?;
    if *nul != 0 || text.contains(&0) {
        return None;
    }
    core::str::from_utf8(text).ok()
}

/// The first string of `list` that is one of `names`.
fn first_of(mut list: &[u8], names: &[&'static str]) -> Option<&'static str> {
    while let Some(first) = list.first() {
        let same = |name: &&&str| {
            let ends = matches!(list.get(name.len()), None | Some(0));
            // Most names differ in their first letter.
            ends && name.as_bytes().first() == Some(first) && list.starts_with(name.as_bytes())
        };
        if let Some(name) = names.iter().find(same) {
            return Some(name);
        }
        let end = list.iter().position(|byte| *byte == 0)?;
        list = list.get(end + 1..)?;
    }
    None
}

fn is_string(value: &[u8], text: &str) -> bool {
    value.strip_suffix(&[0]) == Some(text.as_bytes())
}
