//! The flattened format, as far as it is needed to walk it. Devicetree Specification, release 0.4, chapter 5.
//!
//! Every step goes forward and stays inside the structure block, whatever that holds.

use super::TreeError;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER_SIZE: usize = 40;

/// Tokens as they stand in the structure block.
pub(super) const NODE: u32 = 1u32.to_be();
pub(super) const NODE_END: u32 = 2u32.to_be();
pub(super) const PROPERTY: u32 = 3u32.to_be();
pub(super) const NOP: u32 = 4u32.to_be();
pub(super) const END: u32 = 9u32.to_be();

/// The blocks of a blob.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) size: usize,
    pub(super) reservations: &'a [u8],
    /// Big-endian words.
    pub(super) structure: &'a [u32],
    /// Up to its last NUL: each string that begins in it ends in it.
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
        let ended = strings.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        let reservations = from(field(4), 8, RESERVATIONS)?;
        let entries = reservations.chunks_exact(16).position(|entry| entry.iter().all(|byte| *byte == 0));
        let reservations = entries.and_then(|entries| reservations.get(..entries * 16));
        Ok(Self {
            size,
            reservations: reservations.ok_or(TreeError::Header { block: RESERVATIONS })?,
            structure: bytemuck::try_cast_slice(structure.as_chunks::<4>().0).map_err(|_| TreeError::Unaligned)?,
            strings: strings.get(..ended).unwrap_or_default(),
        })
    }

    /// Whether the node at `place`, counted in words, is called `name`, with or without its unit address.
    #[inline]
    pub(super) fn called(&self, place: u32, name: &str) -> bool {
        let text = bytes(self.structure);
        let start = 4 * (place as usize + 1);
        let end = start + name.len();
        // Most names have another length.
        matches!(text.get(end), Some(0 | b'@')) && text.get(start..end) == Some(name.as_bytes())
    }

    /// Whether a property's name, `at` in the strings block, is `name`.
    #[inline]
    pub(super) fn named(&self, at: u32, name: &str) -> bool {
        let start = u32::from_be(at) as usize;
        let end = start + name.len();
        // Most names have another length.
        self.strings.get(end) == Some(&0) && self.strings.get(start..end) == Some(name.as_bytes())
    }

    /// The values of the properties `names` among those that `words` begin with, found in one pass.
    pub(super) fn properties(&self, mut words: &'a [u32], names: &[&str], values: &mut [Option<&'a [u8]>]) {
        loop {
            words = match words {
                [PROPERTY, length, at, value @ ..] => {
                    let named = names.iter().position(|name| self.named(*at, name));
                    if let Some(first) = named.and_then(|index| values.get_mut(index)) {
                        first.get_or_insert(content(value, *length));
                    }
                    after_value(value, *length).unwrap_or_default()
                }
                [NOP, after @ ..] => after,
                _ => return,
            };
        }
    }

    /// The value of the property `name` among those that `words` begin with.
    pub(super) fn property(&self, mut words: &'a [u32], name: &str) -> Option<&'a [u8]> {
        loop {
            words = match words {
                [PROPERTY, length, at, value @ ..] => {
                    if self.named(*at, name) {
                        return Some(content(value, *length));
                    }
                    after_value(value, *length)?
                }
                [NOP, after @ ..] => after,
                _ => return None,
            };
        }
    }
}

/// `words` as they stand.
pub(super) fn bytes(words: &[u32]) -> &[u8] {
    bytemuck::must_cast_slice(words)
}

/// The value of `length` bytes with which `words` begin.
pub(super) fn content(words: &[u32], length: u32) -> &[u8] {
    bytes(words).get(..u32::from_be(length) as usize).unwrap_or_default()
}

/// What comes after the value of `length` bytes with which `words` begin.
#[inline]
pub(super) fn after_value(words: &[u32], length: u32) -> Option<&[u32]> {
    words.get((u32::from_be(length) as usize).div_ceil(4)..)
}

/// The length of the name with which `words` begin. `None` if it has no NUL at its end, or cannot be printed.
pub(super) fn name_length(words: &[u32]) -> Option<usize> {
    const ONES: u32 = 0x0101_0101;
    const TOPS: u32 = 0x8080_8080;
    let mut length = 0;
    for word in words {
        // The name's next byte is the lowest.
        let word = u32::from_le(*word);
        // The top bit of the first byte that is not graphic is set, and of none before it: below 0x21 and above 0xa0 by the
        // subtraction, above 0x7e by the addition.
        let other = (word.wrapping_sub(0x21 * ONES) | word.wrapping_add(ONES)) & TOPS;
        if other != 0 {
            let bits = other.trailing_zeros() & 0x18;
            return (word >> bits & 0xFF == 0).then_some(length + bits as usize / 8);
        }
        length += 4;
    }
    None
}

/// What comes after the name with which `words` begin.
pub(super) fn after_name(words: &[u32]) -> Option<&[u32]> {
    words.get(name_length(words)? / 4 + 1..)
}

/// `words` without the deleted entries at their beginning.
pub(super) fn after_nops(mut words: &[u32]) -> &[u32] {
    while let [NOP, after @ ..] = words {
        words = after;
    }
    words
}

/// What comes after the node at the beginning of `words`.
pub(super) fn after_node(mut words: &[u32]) -> Option<&[u32]> {
    let mut depth = 0;
    loop {
        words = match words {
            [PROPERTY, length, _, value @ ..] => after_value(value, *length)?,
            [NODE, name @ ..] => {
                depth += 1;
                after_name(name)?
            }
            [NODE_END, after @ ..] => {
                depth -= 1;
                if depth == 0 {
                    return Some(after);
                }
                after
            }
            [NOP, after @ ..] => after,
            _ => return None,
        };
    }
}

pub(super) fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
