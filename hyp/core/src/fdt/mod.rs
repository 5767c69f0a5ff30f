//! Device trees: the board's own (read), the VM descriptions in it (read), and a guest's (written).
//!
//! [`Tree::new`] walks the structure block once and refuses what is not well formed. After that, and even without it, every
//! loop here goes forward through the blob and is bounded by its size; nothing recurses, and no heap is needed. The
//! libraries that were tried need ten times the instructions and the code, and one of them had to be kept from indexing
//! out of bounds; they remain the tests' independent opinion of what a tree says.

pub mod board;
mod flat;
pub mod guest;
mod tree;
pub mod vms;
mod write;

use crate::put;
use crate::text::{Shown, Sink};

pub(crate) use flat::cut;
pub(crate) use tree::{Cells, Node, is_string, one_cell, one_string};

pub use tree::Tree;

/// The deepest nesting that is read, the root counted. Among the boards that Linux knows the deepest tree has 12 levels.
pub const MAX_DEPTH: usize = 32;

/// Why a blob is not a device tree that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The magic number is not there.
    NoTree,
    /// The blob does not lie at a multiple of 4. Where it may lie, by the boot protocol, is a multiple of 8.
    Unaligned,
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
}

impl Shown for TreeError {
    fn show(&self, f: &mut dyn Sink) {
        match *self {
            Self::NoTree => f.words("no device tree there (no magic number)"),
            Self::Unaligned => f.words("the device tree does not lie at a multiple of 8"),
            Self::Truncated => f.words("the device tree is cut short"),
            Self::Version { version } => put!(f, "device tree format {} is not supported (17 is)", version),
            Self::Header { block } => put!(f, "the device tree's {} lies outside of it", block),
            Self::Structure { offset } => put!(f, "the device tree is damaged (structure block, offset {:#x})", offset),
            Self::TooDeep { offset } => put!(f, "the device tree is nested too deep (structure block, offset {:#x})", offset),
        }
    }
}

crate::shown!(TreeError);

impl core::error::Error for TreeError {}
