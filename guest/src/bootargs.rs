//! The boot arguments: `/chosen/bootargs` of the device tree, words of the form `key=value`.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

const CAPACITY: usize = 512;
const FDT_MAGIC: u32 = 0xD00D_FEED;
/// A tree larger than this is not believed.
const LARGEST: u32 = 0x20_0000;

static TEXT: [AtomicU8; CAPACITY] = [const { AtomicU8::new(0) }; CAPACITY];
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Reads the boot arguments from the tree at `dtb`, if there is one.
pub(crate) fn read(dtb: u64) {
    if !(hyp_abi::layout::RAM_BASE..0x8000_0000 - u64::from(LARGEST)).contains(&dtb) || !dtb.is_multiple_of(8) {
        return;
    }
    // SAFETY: `x0` at entry is either zero or the device tree's address (arm64 boot protocol); the range test above
    // keeps it inside the part of the stage-1 map that is RAM. 40 bytes are a header.
    let header = unsafe { core::slice::from_raw_parts(dtb as *const u8, 40) };
    let Some(size) = word(header, 4).filter(|&size| word(header, 0) == Some(FDT_MAGIC) && size <= LARGEST) else {
        return;
    };
    // SAFETY: The magic is there, so this is the tree; its header gives its size, and nobody writes to it.
    let tree = unsafe { core::slice::from_raw_parts(dtb as *const u8, size as usize) };
    if let Some(text) = chosen_bootargs(tree) {
        let length = text.iter().take(CAPACITY).take_while(|&&byte| byte != 0).count();
        for (cell, &byte) in TEXT.iter().zip(&text[..length]) {
            cell.store(byte, Ordering::Relaxed);
        }
        LENGTH.store(length, Ordering::Release);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    rest.get(..rest.iter().position(|&byte| byte == 0)?)
}

/// The value of `bootargs` in the node `/chosen`. Each step of the walk moves forward in `tree`, so it ends.
fn chosen_bootargs(tree: &[u8]) -> Option<&[u8]> {
    const BEGIN_NODE: u32 = 1;
    const END_NODE: u32 = 2;
    const PROP: u32 = 3;
    const NOP: u32 = 4;
    let strings = word(tree, 12)? as usize;
    let mut at = word(tree, 8)? as usize;
    let mut depth = 0_usize;
    let mut chosen = false;
    loop {
        let token = word(tree, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(tree, at)?;
                depth += 1;
                chosen = depth == 2 && name == b"chosen" || chosen && depth > 2;
                at = (at + name.len() + 4) & !3;
            }
            END_NODE => {
                chosen &= depth != 2;
                depth = depth.checked_sub(1)?;
            }
            PROP => {
                let (length, name) = (word(tree, at)? as usize, word(tree, at + 4)? as usize);
                at += 8;
                if chosen && depth == 2 && text(tree, strings + name)? == b"bootargs" {
                    return tree.get(at..at + length);
                }
                at = (at + length + 3) & !3;
            }
            NOP => {}
            _ => return None,
        }
    }
}

/// The value of `key`, if the boot arguments have it.
#[must_use]
pub fn get(key: &str) -> Option<&'static str> {
    let length = LENGTH.load(Ordering::Acquire);
    // SAFETY: `LENGTH` is published after the last write to `TEXT`, which happens once, before `main`; from then on the
    // bytes never change, and an `AtomicU8` is laid out as a `u8`.
    let bytes = unsafe { core::slice::from_raw_parts(TEXT.as_ptr().cast::<u8>(), length) };
    let text = core::str::from_utf8(bytes).ok()?;
    text.split_ascii_whitespace()
        .find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
}

/// The number that `key` names, or `default`.
#[must_use]
pub fn number(key: &str, default: u64) -> u64 {
    get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
}
