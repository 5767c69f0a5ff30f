//! The flattened format, as far as it is needed to walk it. Devicetree Specification, release 0.4, chapter 5.
//!
//! Every step goes forward and stays inside the structure block, whatever that holds.

use super::TreeError;

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
    /// Where the next token is. A block has 32 bits of bytes.
    next: u32,
}

/// The blocks of a blob.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) size: usize,
    pub(super) reservations: &'a [u8],
    pub(super) structure: &'a [u8],
    /// The structure block again; empty where it does not lie at a multiple of 4.
    words: &'a [u32],
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
            words: bytemuck::try_cast_slice(structure.as_chunks::<4>().0).unwrap_or_default(),
            strings,
        })
    }

    /// The word at `offset`, a multiple of 4, of the structure block; 0, which begins nothing, behind its end.
    #[inline(always)]
    pub(super) fn word(&self, offset: usize) -> u32 {
        match self.words.get(offset / 4) {
            Some(word) => u32::from_be(*word),
            None => self.byte_word(offset),
        }
    }

    /// The same where the blob does not lie at a multiple of 4.
    #[cold]
    #[inline(never)]
    fn byte_word(&self, offset: usize) -> u32 {
        be32(self.structure, offset).unwrap_or(0)
    }

    /// Three words from `offset` on: a property's token, the length of its value, and where its name is in the strings block.
    #[inline(always)]
    pub(super) fn head(&self, offset: usize) -> (u32, u32, u32) {
        match self.words.get(offset / 4..).and_then(<[u32]>::first_chunk) {
            Some([token, length, name]) => (u32::from_be(*token), u32::from_be(*length), u32::from_be(*name)),
            None => (self.byte_word(offset), self.byte_word(offset + 4), self.byte_word(offset + 8)),
        }
    }

    /// Where the name ends that begins at `offset`, a multiple of 4: at its NUL. `None` if it has none, or cannot be printed.
    pub(super) fn name_end(&self, mut offset: usize) -> Option<usize> {
        const ONES: u32 = 0x0101_0101;
        const TOPS: u32 = 0x8080_8080;
        loop {
            // The name's next byte is the lowest.
            let word = self.word(offset).swap_bytes();
            // The top bit of the first byte that is not graphic is set, and of none before it: below 0x21 it borrows, and above
            // 0x7e it has that bit, or gets it from its successor.
            let other = (word.wrapping_sub(0x21 * ONES) | word | word.wrapping_add(ONES)) & TOPS;
            if other == 0 {
                offset += 4;
                continue;
            }
            let bits = other.trailing_zeros() & 0x18;
            let end = offset + bits as usize / 8;
            return (word >> bits & 0xFF == 0 && end < self.structure.len()).then_some(end);
        }
    }

    /// The token at `offset`, a multiple of 4; `None` when it is none or goes beyond the block, and for a name that cannot be
    /// printed.
    pub(super) fn token(&self, offset: usize) -> Option<Token<'a>> {
        let (mut kind, mut content, mut next) = (Kind::NodeEnd, &[][..], offset + 4);
        match self.word(offset) {
            1 => {
                kind = Kind::Node;
                content = self.structure.get(next..self.name_end(next)?)?;
                next += (content.len() + 4) & !3;
            }
            2 => {}
            3 => {
                let length = self.word(next) as usize;
                kind = Kind::Property;
                content = self.structure.get(next + 8..)?.get(..length)?;
                next += 8 + ((length + 3) & !3);
            }
            4 => kind = Kind::Nop,
            9 => kind = Kind::End,
            _ => return None,
        }
        // A block has 32 bits of bytes.
        (next <= self.structure.len()).then_some(Token {
            kind,
            content,
            next: next as u32,
        })
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
    pub(super) fn named(&self, at: usize, name: &str) -> bool {
        let text = self.strings.get(at..).unwrap_or_default();
        text.get(name.len()) == Some(&0) && text.starts_with(name.as_bytes())
    }

    /// The value of the property `name` among those from `offset` on.
    pub(super) fn property(&self, mut offset: usize, name: &str) -> Option<&'a [u8]> {
        let first = *name.as_bytes().first()?;
        loop {
            let (token, length, at) = self.head(offset);
            if token == 3 {
                let (length, at) = (length as usize, at as usize);
                // Most names differ in their first letter.
                if self.strings.get(at) == Some(&first) && self.named(at, name) {
                    return self.structure.get(offset + 12..)?.get(..length);
                }
                offset += 12 + ((length + 3) & !3);
            } else if token == 4 {
                offset += 4;
            } else {
                return None;
            }
        }
    }
}

pub(super) fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
