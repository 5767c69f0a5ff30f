//! The flattened format, as far as it is needed to walk it. Devicetree Specification, release 0.4, chapter 5.
//!
//! Every step goes forward and stays inside the structure block, whatever that holds.

use super::{MAX_DEPTH, TreeError};

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER_SIZE: usize = 40;

/// What a token begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A node.
    Node,
    /// The end of one.
    NodeEnd,
    /// A property of the node that was begun last.
    Property,
    /// A deleted entry.
    Nop,
    /// The end of the tree.
    End,
}

/// A token of the structure block.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    /// A node's name, a property's value.
    pub(super) content: &'a [u8],
    /// Where a property's name begins in the strings block.
    pub(super) name: usize,
    /// Where the next token is.
    pub(super) next: usize,
}

/// The blocks of a blob.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) size: usize,
    pub(super) reservations: &'a [u8],
    pub(super) structure: &'a [u8],
    pub(super) strings: &'a [u8],
}

impl<'a> Blocks<'a> {
    /// The blocks, each inside the blob and inside the size that the header gives.
    pub(super) fn of(blob: &'a [u8]) -> Result<Self, TreeError> {
        let header = blob.get(..HEADER_SIZE);
        let magic = be32(blob, 0).ok_or(TreeError::Truncated)?;
        if magic != MAGIC {
            return Err(TreeError::NoTree);
        }
        let header = header.ok_or(TreeError::Truncated)?;
        let field = |index: usize| be32(header, index * 4).unwrap_or(0);
        let size = field(1) as usize;
        let blob = blob.get(..size).filter(|_| size >= HEADER_SIZE).ok_or(TreeError::Truncated)?;
        let version = field(5);
        if version < VERSION || field(6) > VERSION {
            return Err(TreeError::Version { version });
        }
        let from = |offset: u32, align: u32, block| {
            let here = (offset.is_multiple_of(align) && offset as usize >= HEADER_SIZE).then(|| blob.get(offset as usize..));
            here.flatten().ok_or(TreeError::Header { block })
        };
        let part = |offset, align, size: u32, block| from(offset, align, block)?.get(..size as usize).ok_or(TreeError::Header { block });
        const RESERVATIONS: &str = "memory reservation block";
        let structure = part(field(2), 4, field(9), "structure block")?;
        let strings = part(field(3), 1, field(8), "strings block")?;
        let reservations = from(field(4), 8, RESERVATIONS)?;
        let entries = reservations.chunks_exact(16).position(|entry| entry.iter().all(|byte| *byte == 0));
        let reservations = entries.and_then(|entries| reservations.get(..entries * 16));
        Ok(Self {
            size,
            reservations: reservations.ok_or(TreeError::Header { block: RESERVATIONS })?,
            structure,
            strings,
        })
    }

    /// The token at `offset`, a multiple of 4; `None` when it is none or goes beyond the block.
    pub(super) fn token(&self, offset: usize) -> Option<Token<'a>> {
        let (word, rest) = self.structure.get(offset..)?.split_first_chunk::<4>()?;
        let (mut kind, mut content, mut name, mut next) = (Kind::NodeEnd, &[][..], 0, offset + 4);
        match u32::from_be_bytes(*word) {
            1 => {
                kind = Kind::Node;
                content = rest.get(..rest.iter().position(|byte| *byte == 0)?)?;
                next += (content.len() + 4) & !3;
            }
            2 => {}
            3 => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (at, rest) = rest.split_first_chunk::<4>()?;
                kind = Kind::Property;
                content = rest.get(..u32::from_be_bytes(*length) as usize)?;
                name = u32::from_be_bytes(*at) as usize;
                next += 8 + ((content.len() + 3) & !3);
            }
            4 => kind = Kind::Nop,
            9 => kind = Kind::End,
            _ => return None,
        }
        (next <= self.structure.len()).then_some(Token { kind, content, name, next })
    }

    /// Whether a property's name, `at` in the strings block, is `name`.
    pub(super) fn named(&self, at: usize, name: &str) -> bool {
        let Some(text) = self.strings.get(at..) else { return false };
        // Most names differ in their first letter.
        text.first() == name.as_bytes().first() && text.get(name.len()) == Some(&0) && text.starts_with(name.as_bytes())
    }

    /// One pass over the structure block: one root without a name, properties before children, every name terminated and
    /// printable. `node` is told the depth and the offset of each node; the root's depth is 0.
    pub(super) fn check(&self, mut node: impl FnMut(usize, usize)) -> Result<(), TreeError> {
        // A name that begins before the last NUL has an end.
        let names = self.strings.iter().rposition(|byte| *byte == 0).unwrap_or(0);
        let (mut offset, mut depth, mut roots) = (0, 0, 0);
        // Whether a property may stand here: after the name of a node, or after a property of it.
        let mut properties = false;
        loop {
            let token = self.token(offset).ok_or(TreeError::Structure { offset })?;
            let right = match token.kind {
                Kind::Node => {
                    if depth == MAX_DEPTH {
                        return Err(TreeError::TooDeep { offset });
                    }
                    node(depth, offset);
                    roots += usize::from(depth == 0);
                    properties = true;
                    depth += 1;
                    (depth == 1) == token.content.is_empty() && roots == 1 && token.content.iter().all(u8::is_ascii_graphic)
                }
                Kind::NodeEnd => {
                    properties = false;
                    depth = depth.wrapping_sub(1);
                    depth < MAX_DEPTH
                }
                Kind::Property => properties && token.name < names && self.strings.get(token.name) != Some(&0),
                Kind::Nop => true,
                Kind::End if depth == 0 && roots == 1 => return Ok(()),
                Kind::End => false,
            };
            if !right {
                return Err(TreeError::Structure { offset });
            }
            offset = token.next;
        }
    }
}

pub(super) fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
