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
        let structure = part(blob, field(2), 4, field(9)).ok_or(TreeError::Header { block: "structure block" })?;
        let strings = part(blob, field(3), 1, field(8)).ok_or(TreeError::Header { block: "strings block" })?;
        let ended = strings.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        let reservations = reservations(blob, field(4)).ok_or(TreeError::Header {
            block: "memory reservation block",
        })?;
        Ok(Self {
            size,
            reservations,
            structure: bytemuck::try_cast_slice(structure.as_chunks::<4>().0).map_err(|_| TreeError::Unaligned)?,
            strings: strings.get(..ended).unwrap_or_default(),
        })
    }

    /// Whether the node at `place`, counted in words, is called `name`, with or without its unit address.
    #[inline]
    pub(super) fn called(&self, place: u32, name: &[u8]) -> bool {
        let text = bytes(self.structure);
        let start = 4 * (place as usize + 1);
        let end = start + name.len();
        // Most names have another length.
        matches!(text.get(end), Some(0 | b'@')) && text.get(start..end) == Some(name)
    }

    /// Whether a property's name, `at` in the strings block, is `name`.
    #[inline]
    pub(super) fn named(&self, at: u32, name: &[u8]) -> bool {
        let start = u32::from_be(at) as usize;
        let end = start + name.len();
        // Most names have another length.
        self.strings.get(end) == Some(&0) && self.strings.get(start..end) == Some(name)
    }

    /// The value of the property `name` among those that `words` begin with.
    #[inline(never)]
    pub(super) fn property(&self, mut words: &'a [u32], name: &[u8]) -> Option<&'a [u8]> {
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

/// `size` bytes of `blob` from `offset` on, which must be a multiple of `align`.
#[inline(never)]
fn part(blob: &[u8], offset: u32, align: u32, size: u32) -> Option<&[u8]> {
    if !offset.is_multiple_of(align) || (offset as usize) < HEADER_SIZE {
        return None;
    }
    blob.get(offset as usize..)?.get(..size as usize)
}

/// The memory reservation block, which begins at `offset`, without the entry of zeroes that ends it.
fn reservations(blob: &[u8], offset: u32) -> Option<&[u8]> {
    let rest = part(blob, offset, 8, (blob.len() as u32).checked_sub(offset)?)?;
    let entries = rest.chunks_exact(16).position(|entry| entry.iter().all(|byte| *byte == 0))?;
    rest.get(..entries * 16)
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

/// `words` without the properties, and deleted entries, at their beginning.
#[inline(never)]
pub(super) fn after_properties(mut words: &[u32]) -> &[u32] {
    loop {
        words = match words {
            [PROPERTY, length, _, value @ ..] => after_value(value, *length).unwrap_or_default(),
            [NOP, after @ ..] => after,
            _ => return words,
        };
    }
}

/// What comes after the node at the beginning of `words`, if one is there.
#[inline(never)]
pub(super) fn after_node(mut words: &[u32]) -> Option<&[u32]> {
    let mut depth = 0u32;
    loop {
        words = match after_properties(words) {
            [NODE, name @ ..] => {
                depth += 1;
                after_name(name)?
            }
            [NODE_END, after @ ..] => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(after);
                }
                after
            }
            _ => return None,
        };
    }
}

/// Takes the text up to the next `end` off `rest`, and that byte; all of `rest` where there is none.
#[inline(never)]
pub(crate) fn cut<'a>(rest: &mut &'a [u8], end: u8) -> &'a [u8] {
    let length = rest.iter().position(|byte| *byte == end).unwrap_or(rest.len());
    let text = rest.get(..length).unwrap_or_default();
    *rest = rest.get(length + 1..).unwrap_or_default();
    text
}

#[inline(never)]
pub(super) fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
