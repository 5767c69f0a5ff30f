//! A device tree that is read: nodes, their properties, and where their addresses are on the way up to the CPUs.

use super::flat::{Blocks, Kind, Token, be32};
use super::{MAX_DEPTH, TreeError};
use crate::types::Range;

/// How many of the root's children are found without walking over those before them.
const TOP: usize = 64;

/// A device tree whose structure has been checked.
pub struct Tree<'a> {
    blocks: Blocks<'a>,
    /// The offsets of the root's first children, in the tree's order.
    top: [u32; TOP],
    tops: usize,
}

impl<'a> Tree<'a> {
    /// The tree at the beginning of `blob`, which may be longer than the tree.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn new(blob: &'a [u8]) -> Result<Self, TreeError> {
        let blocks = Blocks::of(blob)?;
        let (mut top, mut tops) = ([0; TOP], 0);
        blocks.check(|depth, offset| {
            if let (1, Some(place)) = (depth, top.get_mut(tops)) {
                *place = offset as u32;
                tops += 1;
            }
        })?;
        Ok(Self { blocks, top, tops })
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
        let mut root = Node {
            tree: self,
            name: &[],
            body: 0,
            path: [0; MAX_DEPTH],
            depth: 0,
        };
        let mut offset = 0;
        while let Some(token) = self.blocks.token(offset) {
            if token.kind != Kind::Nop {
                root.path[0] = offset as u32;
                root.body = token.next;
                break;
            }
            offset = token.next;
        }
        root
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
    pub(crate) fn nodes(&self) -> Nodes<'_, 'a> {
        Nodes { next: Some(self.root()) }
    }
}

/// A node, with the way to it.
#[derive(Clone, Copy)]
pub(crate) struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    /// Name and unit address; empty for the root.
    name: &'a [u8],
    /// Where its first property is.
    body: usize,
    /// The offsets of the nodes on the way from the root, its own the last.
    path: [u32; MAX_DEPTH],
    depth: usize,
}

impl<'t, 'a> Node<'t, 'a> {
    /// The name without the unit address.
    pub(crate) fn base_name(&self) -> &'a str {
        core::str::from_utf8(base(self.name)).unwrap_or_default()
    }

    /// Whether its name is `name`, with or without its unit address.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name == name.as_bytes() || base(self.name) == name.as_bytes()
    }

    fn token(&self, offset: usize) -> Option<Token<'a>> {
        self.tree.blocks.token(offset)
    }

    /// The node below this one whose token, at `offset`, is `token`.
    fn below(&self, offset: usize, token: &Token<'a>) -> Option<Self> {
        let mut node = *self;
        node.depth += 1;
        *node.path.get_mut(node.depth)? = offset as u32;
        node.name = token.content;
        node.body = token.next;
        Some(node)
    }

    /// The node above this one.
    fn parent(&self) -> Option<Self> {
        let mut node = *self;
        node.depth = node.depth.checked_sub(1)?;
        let token = self.token(*node.path.get(node.depth)? as usize)?;
        node.name = token.content;
        node.body = token.next;
        Some(node)
    }

    pub(crate) fn children(&self) -> Children<'t, 'a> {
        Children {
            parent: *self,
            offset: self.body,
            index: 0,
        }
    }

    /// The first child of that name, with or without its unit address.
    pub(crate) fn child(&self, name: &str) -> Option<Self> {
        self.children().find(|child| child.is_called(name))
    }

    pub(crate) fn property(&self, name: &str) -> Option<&'a [u8]> {
        let mut offset = self.body;
        loop {
            let token = self.token(offset)?;
            match token.kind {
                Kind::Property if self.tree.blocks.named(token.name, name) => return Some(token.content),
                Kind::Property | Kind::Nop => offset = token.next,
                _ => return None,
            }
        }
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
        list.split(|byte| *byte == 0)
            .find_map(|entry| names.iter().find(|name| name.as_bytes() == entry).copied())
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

fn base(name: &[u8]) -> &[u8] {
    let at = name.iter().position(|byte| *byte == b'@').unwrap_or(name.len());
    name.get(..at).unwrap_or(name)
}

/// The children of a node.
pub(crate) struct Children<'t, 'a> {
    parent: Node<'t, 'a>,
    /// Where to look on.
    offset: usize,
    /// How many children of the root were given.
    index: usize,
}

impl<'t, 'a> Iterator for Children<'t, 'a> {
    type Item = Node<'t, 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let tree = self.parent.tree;
        if self.parent.depth == 0
            && let Some(offset) = tree.top.get(..tree.tops)?.get(self.index)
        {
            self.index += 1;
            self.offset = *offset as usize;
            let token = tree.blocks.token(self.offset)?;
            let child = self.parent.below(self.offset, &token);
            if self.index == TOP {
                self.offset = token.next;
                self.offset = self.after_child();
            } else if self.index == tree.tops {
                self.offset = usize::MAX;
            }
            return child;
        }
        loop {
            let token = tree.blocks.token(self.offset)?;
            match token.kind {
                Kind::Node => {
                    let child = self.parent.below(self.offset, &token);
                    self.offset = token.next;
                    self.offset = self.after_child();
                    return child;
                }
                Kind::Property | Kind::Nop => self.offset = token.next,
                Kind::NodeEnd | Kind::End => return None,
            }
        }
    }
}

impl Children<'_, '_> {
    /// From inside a child to what comes after it.
    fn after_child(&self) -> usize {
        let (mut offset, mut depth) = (self.offset, 1);
        while depth > 0
            && let Some(token) = self.parent.token(offset)
        {
            match token.kind {
                Kind::Node => depth += 1,
                Kind::NodeEnd => depth -= 1,
                Kind::Property | Kind::Nop | Kind::End => {}
            }
            offset = token.next;
        }
        offset
    }
}

/// Every node, each before its children.
pub(crate) struct Nodes<'t, 'a> {
    next: Option<Node<'t, 'a>>,
}

impl<'t, 'a> Iterator for Nodes<'t, 'a> {
    type Item = Node<'t, 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let given = self.next?;
        let (mut above, mut offset) = (given, given.body);
        self.next = loop {
            let Some(token) = given.token(offset) else { break None };
            match token.kind {
                Kind::Node => break above.below(offset, &token),
                // The last end is the root's.
                Kind::NodeEnd if above.depth == 0 => break None,
                Kind::NodeEnd => above.depth -= 1,
                Kind::Property | Kind::Nop => {}
                Kind::End => break None,
            }
            offset = token.next;
        };
        Some(given)
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

fn is_string(value: &[u8], text: &str) -> bool {
    value.strip_suffix(&[0]) == Some(text.as_bytes())
}
