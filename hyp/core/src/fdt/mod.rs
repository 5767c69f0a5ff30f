//! Device trees: the board's own (read), the VM descriptions in it (read), and a guest's (written).
//!
//! `flat_device_tree` reads them. Before it sees a blob, [`Tree::new`] walks the structure block once and refuses what is
//! not well formed: that crate indexes with offsets from the header, keeps parents in a table of 64, recurses as deep as the
//! tree is nested and follows aliases for ever, so that a damaged tree could end it. After the check, and by nodes and
//! properties only (no look-up by path or alias of the crate's own is used), every loop here is bounded by the blob's size.

pub mod board;
mod check;
pub mod guest;
pub mod vms;

use core::fmt;

use flat_device_tree::Fdt;
use flat_device_tree::node::FdtNode;

use crate::types::Range;

pub use check::{MAX_DEPTH, remove_nops};

/// Why a blob is not a device tree that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The magic number is not there.
    NoTree,
    /// The blob ends before the size its header gives.
    Truncated,
    /// A format older than version 17, or not compatible with it.
    Version {
        /// What the header says.
        version: u32,
    },
    /// A block that the header names lies outside the blob.
    Header {
        /// Which one.
        block: &'static str,
    },
    /// The structure block breaks the format's rules.
    Structure {
        /// Where, in bytes from the beginning of that block.
        offset: usize,
    },
    /// Nodes are nested deeper than [`MAX_DEPTH`].
    TooDeep {
        /// Where, in bytes from the beginning of the structure block.
        offset: usize,
    },
    /// It has deleted entries (`FDT_NOP`), which [`remove_nops`] takes out.
    Nops,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree => f.write_str("no device tree there (no magic number)"),
            Self::Truncated => f.write_str("the device tree is cut short"),
            Self::Version { version } => write!(f, "device tree format {version} is not supported (17 is)"),
            Self::Header { block } => write!(f, "the device tree's {block} lies outside of it"),
            Self::Structure { offset } => write!(f, "the device tree is damaged (structure block, offset {offset:#x})"),
            Self::TooDeep { offset } => write!(f, "the device tree is nested too deep (structure block, offset {offset:#x})"),
            Self::Nops => f.write_str("the device tree has deleted entries (FDT_NOP)"),
        }
    }
}

impl core::error::Error for TreeError {}

/// A device tree whose structure has been checked.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    fdt: Fdt<'a>,
}

impl<'a> Tree<'a> {
    /// The tree at the beginning of `blob`, which may be longer than the tree.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn new(blob: &'a [u8]) -> Result<Self, TreeError> {
        check::check(blob)?;
        Ok(Self {
            fdt: Fdt::new(blob).map_err(|_| TreeError::NoTree)?,
        })
    }

    /// The tree's size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fdt.total_size()
    }

    /// The entries of the memory reservation block (`/memreserve/` in source form). Those that wrap are left out.
    pub fn reservations(&self) -> impl Iterator<Item = Range> {
        self.fdt
            .memory_reservations()
            .filter_map(|entry| Range::new(entry.address() as usize as u64, entry.size() as u64))
    }

    /// The root. There always is one after the check, and looking for it does not fall back on aliases then.
    pub(crate) fn root(&self) -> Option<Node<'_, 'a>> {
        Some(Node {
            raw: self.fdt.find_node("/")?,
            parent: None,
        })
    }

    /// Gives `f` the node that `path` or the alias `path` names.
    pub(crate) fn at<R>(&self, path: &str, f: &mut dyn FnMut(&Node<'_, 'a>) -> R) -> Option<R> {
        let root = self.root()?;
        match path.strip_prefix('/') {
            Some(rest) => root.descend(rest, f),
            None => {
                let aliases = root.child("aliases")?;
                root.descend(aliases.string(path)?.strip_prefix('/')?, f)
            }
        }
    }

    /// The first `Some` that `f` gives, in the tree's order.
    pub(crate) fn find<R>(&self, f: &mut dyn FnMut(&Node<'_, 'a>) -> Option<R>) -> Option<R> {
        self.root()?.find(f)
    }
}

/// A node, with the way to the root.
#[derive(Clone, Copy)]
pub(crate) struct Node<'n, 'a> {
    raw: FdtNode<'n, 'a>,
    parent: Option<&'n Node<'n, 'a>>,
}

impl<'n, 'a: 'n> Node<'n, 'a> {
    /// Name and unit address; empty for the root.
    pub(crate) fn name(&self) -> &'a str {
        self.raw.name
    }

    /// The name without the unit address.
    pub(crate) fn base_name(&self) -> &'a str {
        let name = self.raw.name;
        name.split_once('@').map_or(name, |(base, _)| base)
    }

    pub(crate) fn children<'s>(&'s self) -> impl Iterator<Item = Node<'s, 'a>> {
        let raw: FdtNode<'s, 'a> = self.raw;
        raw.children().map(move |raw| Node { raw, parent: Some(self) })
    }

    /// The first child of that name, with or without its unit address.
    pub(crate) fn child<'s>(&'s self, name: &str) -> Option<Node<'s, 'a>> {
        self.children().find(|child| child.name() == name || child.base_name() == name)
    }

    fn descend<R>(&self, path: &str, f: &mut dyn FnMut(&Node<'_, 'a>) -> R) -> Option<R> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        if first.is_empty() {
            Some(f(self))
        } else {
            self.child(first)?.descend(rest, f)
        }
    }

    fn find<R>(&self, f: &mut dyn FnMut(&Node<'_, 'a>) -> Option<R>) -> Option<R> {
        f(self).or_else(|| self.children().find_map(|child| child.find(f)))
    }

    pub(crate) fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.raw.property(name).map(|property| property.value)
    }

    /// A property that is one string.
    pub(crate) fn string(&self, name: &str) -> Option<&'a str> {
        one_string(self.property(name)?)
    }

    /// A property that is one cell.
    pub(crate) fn cell(&self, name: &str) -> Option<u32> {
        let mut cells = Cells(self.property(name)?);
        let value = cells.take(1)?;
        cells.0.is_empty().then_some(value as u32)
    }

    /// The first of `names` that the node is compatible with, in the order of the node's own list.
    pub(crate) fn compatible_with(&self, names: &[&'static str]) -> Option<&'static str> {
        let list = core::str::from_utf8(self.property("compatible")?).ok()?;
        list.split_terminator('\0')
            .find_map(|entry| names.iter().copied().find(|name| *name == entry))
    }

    /// Whether `status` lets the node be used: it is absent, `okay` or `ok`.
    pub(crate) fn available(&self) -> bool {
        self.property("status")
            .is_none_or(|status| matches!(one_string(status), Some("okay" | "ok")))
    }

    /// The phandle of the controller to which its `interrupts` go: its own word, or the nearest node's above that has one.
    pub(crate) fn interrupt_parent(&self) -> Option<u32> {
        let mut node = self;
        loop {
            if let Some(phandle) = node.cell("interrupt-parent") {
                return Some(phandle);
            }
            node = node.parent?;
        }
    }

    /// `#address-cells` and `#size-cells` for the node's children, 2 and 1 where they are absent.
    pub(crate) fn cell_counts(&self) -> (u32, u32) {
        (self.cell("#address-cells").unwrap_or(2), self.cell("#size-cells").unwrap_or(1))
    }

    /// The entries of `reg` as addresses on the parent's bus.
    pub(crate) fn reg(&self) -> impl Iterator<Item = Range> {
        let (address, size) = self.parent.map_or((2, 1), Node::cell_counts);
        // An entry of no cells would never use the value up.
        let value = self.property("reg").filter(|_| address != 0);
        let mut cells = Cells(value.unwrap_or_default());
        core::iter::from_fn(move || {
            (!cells.0.is_empty())
                .then(|| Some((cells.take(address)?, cells.take(size)?)))
                .flatten()
        })
        .filter_map(|(start, size)| Range::new(start, size))
    }

    /// The entries of `reg` as physical addresses; an entry that no bus on the way maps is left out.
    pub(crate) fn physical_reg(&self) -> impl Iterator<Item = Range> {
        self.reg().filter_map(|range| self.physical(range))
    }

    /// `range` on this node's parent's bus as the CPUs see it, through the `ranges` of every bus on the way.
    pub(crate) fn physical(&self, range: Range) -> Option<Range> {
        let mut range = range;
        let mut bus = self.parent?;
        while let Some(above) = bus.parent {
            range = bus.map_up(above, range)?;
            bus = above;
        }
        Some(range)
    }

    /// `range` on this bus as the bus above it sees it. No `ranges` means not mapped; an empty one, the same address.
    fn map_up(&self, above: &Node<'_, 'a>, range: Range) -> Option<Range> {
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

/// A value made of big-endian 32-bit cells, eaten from the front.
#[derive(Clone, Copy)]
pub(crate) struct Cells<'a>(pub(crate) &'a [u8]);

impl Cells<'_> {
    /// The next `count` cells as one number; `None` when it has more than 64 bits or the value is too short. It always
    /// advances: past the number, or to the end.
    pub(crate) fn take(&mut self, count: u32) -> Option<u64> {
        let bytes = usize::try_from(count).ok()?.checked_mul(4);
        let Some((number, rest)) = bytes.and_then(|bytes| self.0.split_at_checked(bytes)) else {
            self.0 = &[];
            return None;
        };
        self.0 = rest;
        number
            .iter()
            .try_fold(0u64, |value, byte| (value >> 56 == 0).then_some(value << 8 | u64::from(*byte)))
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
