//! The flattened format, as far as it is needed to walk it. Devicetree Specification, release 0.4, chapter 5.
//!
//! Every step goes forward and stays inside the structure block, whatever that holds.

use super::{MAX_DEPTH, TreeError};

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER_SIZE: usize = 40;

/// What a token begins.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
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
    pub(super) name: u32,
    /// Where the next token is. A block has 32 bits of bytes.
    next: u32,
}

/// The blocks of a blob.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) size: usize,
    pub(super) reservations: &'a [u8],
    pub(super) structure: &'a [u8],
    pub(super) strings: &'a [u8],
}

impl Token<'_> {
    /// Where the next token is.
    pub(super) const fn next(&self) -> usize {
        self.next as usize
    }
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

    /// The token at `offset`, a multiple of 4; `None` when it is none or goes beyond the block, and for a name that cannot be
    /// printed.
    pub(super) fn token(&self, offset: usize) -> Option<Token<'a>> {
        self.read(offset)
    }

    #[inline(always)]
    fn read(&self, offset: usize) -> Option<Token<'a>> {
        let (word, rest) = self.structure.get(offset..)?.split_first_chunk::<4>()?;
        let (mut kind, mut content, mut name, mut next) = (Kind::NodeEnd, &[][..], 0, offset + 4);
        match u32::from_be_bytes(*word) {
            1 => {
                kind = Kind::Node;
                let end = rest.iter().position(|byte| !byte.is_ascii_graphic())?;
                content = rest.get(..end).filter(|_| rest.get(end) == Some(&0))?;
                next += (content.len() + 4) & !3;
            }
            2 => {}
            3 => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (at, rest) = rest.split_first_chunk::<4>()?;
                kind = Kind::Property;
                content = rest.get(..u32::from_be_bytes(*length) as usize)?;
                name = u32::from_be_bytes(*at);
                next += 8 + ((content.len() + 3) & !3);
            }
            4 => kind = Kind::Nop,
            9 => kind = Kind::End,
            _ => return None,
        }
        let next = u32::try_from(next).ok().filter(|_| next <= self.structure.len())?;
        Some(Token { kind, content, name, next })
    }

    /// Whether the node at `offset` is called `name`, with or without its unit address.
    #[inline]
    pub(super) fn called(&self, offset: usize, name: &str) -> bool {
        // Most names differ in their first letter.
        self.structure.get(offset + 4) == name.as_bytes().first() && self.called_whole(offset, name)
    }

    fn called_whole(&self, offset: usize, name: &str) -> bool {
        let text = self.structure.get(offset + 4..).unwrap_or_default();
        matches!(text.get(name.len()), Some(0 | b'@')) && text.starts_with(name.as_bytes())
    }

    /// Whether a property's name, `at` in the strings block, is `name`.
    #[inline]
    pub(super) fn named(&self, at: u32, name: &str) -> bool {
        // Most names differ in their first letter.
        self.strings.get(at as usize) == name.as_bytes().first() && self.named_whole(at as usize, name)
    }

    fn named_whole(&self, at: usize, name: &str) -> bool {
        let text = self.strings.get(at..).unwrap_or_default();
        text.get(name.len()) == Some(&0) && text.starts_with(name.as_bytes())
    }

    /// The value of the property `name` among those from `offset` on.
    pub(super) fn property(&self, mut offset: usize, name: &str) -> Option<&'a [u8]> {
        loop {
            // A property and what ends its node take more than that.
            let (head, rest) = self.structure.get(offset..)?.split_first_chunk::<12>()?;
            let [_, _, _, kind, l0, l1, l2, l3, n0, n1, n2, n3] = *head;
            match kind {
                3 => {
                    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                    if self.named(u32::from_be_bytes([n0, n1, n2, n3]), name) {
                        return rest.get(..length);
                    }
                    offset += 12 + ((length + 3) & !3);
                }
                4 => offset += 4,
                _ => return None,
            }
        }
    }

    /// One pass over the structure block: one root without a name, properties before children, every name terminated and
    /// printable. `see` is shown the tokens of nodes and properties, each with its offset and the depth of the node; the
    /// root's is 0.
    #[inline(never)]
    pub(super) fn check(&self, mut see: impl FnMut(&Token<'a>, usize, usize)) -> Result<(), TreeError> {
        // A name that begins before the last NUL has an end.
        let names = self.strings.iter().rposition(|byte| *byte == 0).unwrap_or(0);
        let (mut offset, mut depth, mut roots) = (0, 0, 0);
        // Whether a property may stand here: after the name of a node, or after a property of it.
        let mut properties = false;
        loop {
            let Some(token) = self.read(offset) else {
                return Err(TreeError::Structure { offset });
            };
            let right = match token.kind {
                Kind::Node => {
                    if depth == MAX_DEPTH {
                        return Err(TreeError::TooDeep { offset });
                    }
                    see(&token, offset, depth);
                    roots += usize::from(depth == 0);
                    properties = true;
                    depth += 1;
                    (depth == 1) == token.content.is_empty() && roots == 1
                }
                Kind::NodeEnd => {
                    properties = false;
                    depth = depth.wrapping_sub(1);
                    depth < MAX_DEPTH
                }
                Kind::Property => {
                    see(&token, offset, depth.wrapping_sub(1));
                    properties && (token.name as usize) < names && self.strings.get(token.name as usize) != Some(&0)
                }
                Kind::Nop => true,
                Kind::End if depth == 0 && roots == 1 => return Ok(()),
                Kind::End => false,
            };
            if !right {
                return Err(TreeError::Structure { offset });
            }
            offset = token.next();
        }
    }
}

pub(super) fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
