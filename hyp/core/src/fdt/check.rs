//! Is a blob well formed? Devicetree Specification, release 0.4, chapter 5 (flattened format).

use super::TreeError;

/// The deepest nesting that is read, the root counted. Among the boards that Linux knows the deepest tree has 12 levels.
pub const MAX_DEPTH: usize = 32;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER_SIZE: usize = 40;
/// Longer names of properties are refused: each look-up by name reads the name of every property that it passes.
const MAX_NAME: usize = 255;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// The header's fields that say where the blocks are.
struct Blocks<'a> {
    reservations: &'a [u8],
    structure: core::ops::Range<usize>,
    strings: &'a [u8],
}

/// Refuses a blob that is not well formed.
pub(super) fn check(blob: &[u8]) -> Result<(), TreeError> {
    let blocks = blocks(blob)?;
    if !blocks
        .reservations
        .chunks_exact(16)
        .any(|entry| entry.iter().all(|byte| *byte == 0))
    {
        return Err(TreeError::Header {
            block: "memory reservation block",
        });
    }
    let structure = blob.get(blocks.structure).ok_or(TreeError::Header { block: "structure block" })?;
    walk(structure, blocks.strings)
}

/// Moves everything in the structure block over the deleted entries (`FDT_NOP`) in it, in place. Editors of a tree, boot
/// loaders among them, delete so; the reader behind [`super::Tree`] would lose its way.
///
/// # Errors
/// [`TreeError`] for a tree that is damaged otherwise; it may then be half done.
pub fn remove_nops(blob: &mut [u8]) -> Result<(), TreeError> {
    let range = blocks(blob)?.structure;
    let structure = blob.get_mut(range).ok_or(TreeError::Header { block: "structure block" })?;
    let (mut from, mut to) = (0, 0);
    loop {
        let (token, next) = token(structure, from)?;
        if token != NOP {
            structure.copy_within(from..next, to);
            to += next - from;
        }
        from = next;
        if token == END {
            return Ok(());
        }
    }
}

/// The blocks, each inside the blob and inside the size that the header gives.
fn blocks(blob: &[u8]) -> Result<Blocks<'_>, TreeError> {
    let field = |index: usize| be32(blob, index * 4).ok_or(TreeError::Truncated);
    if field(0)? != MAGIC {
        return Err(TreeError::NoTree);
    }
    let total = field(1)? as usize;
    let blob = blob
        .get(..total)
        .filter(|blob| blob.len() >= HEADER_SIZE)
        .ok_or(TreeError::Truncated)?;
    let version = field(5)?;
    if version < VERSION || field(6)? > VERSION {
        return Err(TreeError::Version { version });
    }
    let range = |offset: u32, size: u32, align: u32| {
        let start = offset as usize;
        let end = start.checked_add(size as usize)?;
        (offset.is_multiple_of(align) && start >= HEADER_SIZE && end <= total).then_some(start..end)
    };
    let structure = range(field(2)?, field(9)?, 4).ok_or(TreeError::Header { block: "structure block" })?;
    let strings = range(field(3)?, field(8)?, 1).and_then(|strings| blob.get(strings));
    let reservations = range(field(4)?, 0, 8).and_then(|start| blob.get(start.start..));
    Ok(Blocks {
        reservations: reservations.ok_or(TreeError::Header {
            block: "memory reservation block",
        })?,
        structure,
        strings: strings.ok_or(TreeError::Header { block: "strings block" })?,
    })
}

/// One pass over the structure block: one root without a name, properties before children, every name text and terminated.
fn walk(structure: &[u8], strings: &[u8]) -> Result<(), TreeError> {
    let (mut offset, mut depth, mut roots) = (0, 0, 0);
    // Whether a property may stand here: after the name of a node, or after a property of it.
    let mut properties = false;
    loop {
        let damaged = TreeError::Structure { offset };
        let (token, next) = token(structure, offset)?;
        match token {
            BEGIN_NODE if depth == MAX_DEPTH => return Err(TreeError::TooDeep { offset }),
            BEGIN_NODE => {
                let name = structure.get(offset + 4..next).and_then(text).ok_or(damaged)?;
                roots += usize::from(depth == 0);
                if (depth == 0) != name.is_empty() || roots > 1 {
                    return Err(damaged);
                }
                depth += 1;
                properties = true;
            }
            END_NODE => {
                depth = depth.checked_sub(1).ok_or(damaged)?;
                properties = false;
            }
            PROP => {
                let name = be32(structure, offset + 8).and_then(|name| strings.get(name as usize..));
                let short = name.and_then(|name| name.get(..name.len().min(MAX_NAME + 1)));
                if !properties || short.and_then(text).is_none_or(str::is_empty) {
                    return Err(damaged);
                }
            }
            NOP => return Err(TreeError::Nops),
            _ if depth == 0 && roots == 1 => return Ok(()),
            _ => return Err(damaged),
        }
        offset = next;
    }
}

/// The token at `offset` and where the next one is, always further on and inside the block ([`END`] has none).
fn token(structure: &[u8], offset: usize) -> Result<(u32, usize), TreeError> {
    let damaged = TreeError::Structure { offset };
    let token = be32(structure, offset).ok_or(damaged)?;
    let content = match token {
        BEGIN_NODE => {
            structure
                .get(offset + 4..)
                .and_then(|name| name.iter().position(|byte| *byte == 0))
                .ok_or(damaged)?
                + 1
        }
        PROP => be32(structure, offset + 4).ok_or(damaged)? as usize + 8,
        END_NODE | NOP | END => 0,
        _ => return Err(damaged),
    };
    let next = content
        .checked_next_multiple_of(4)
        .and_then(|content| offset.checked_add(4)?.checked_add(content));
    let next = next.filter(|next| *next <= structure.len()).ok_or(damaged)?;
    Ok((token, next))
}

/// The text before the first NUL; `None` when there is no NUL or what stands before it is not UTF-8.
fn text(bytes: &[u8]) -> Option<&str> {
    core::ffi::CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
}

fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_be_bytes)
}
