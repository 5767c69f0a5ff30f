//! Images: an ELF made flat, and sizes.

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

/// No image of a guest or of ours is larger than this; an ELF whose segments lie further apart is a mistake.
const MAX_FLAT: u64 = 1 << 30;

/// An ELF's loadable segments as one piece of memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flat {
    /// Where the piece goes: the lowest physical address of a segment.
    pub(crate) base: u64,
    /// What the file gives; gaps are zero, and trailing zeroed memory (.bss) is left out.
    pub(crate) bytes: Vec<u8>,
    /// The entry point.
    pub(crate) entry: u64,
    /// How much memory it takes, .bss included.
    pub(crate) memory: u64,
}

/// Whether `bytes` begin as an ELF does.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&elf::ELFMAG)
}

/// How a file that begins with `bytes` is compressed, if it is, and what unpacks it.
pub(crate) fn compression(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const KINDS: [(&[u8], &str, &str); 6] = [
        (b"\x1f\x8b", "gzip", "gunzip -c FILE > Image"),
        (b"\xfd7zXZ\0", "xz", "xz -dc FILE > Image"),
        (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc FILE > Image"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc FILE > Image"),
        (b"BZh", "bzip2", "bzip2 -dc FILE > Image"),
        (b"\x5d\0\0", "lzma", "lzma -dc FILE > Image"),
    ];
    // Linux' EFI zboot image: a PE file that holds a compressed kernel and names itself behind the first word.
    if bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg") {
        return Some(("an EFI zboot image", "take the plain Image of the same build"));
    }
    KINDS
        .iter()
        .find(|(magic, ..)| bytes.starts_with(magic))
        .map(|(_, how, unpack)| (*how, *unpack))
}

fn header(data: &[u8]) -> Result<&elf::FileHeader64<LittleEndian>> {
    let header = elf::FileHeader64::<LittleEndian>::parse(data).context("not a 64-bit little-endian ELF file")?;
    let machine = header.e_machine(LittleEndian);
    ensure!(machine == elf::EM_AARCH64, "an ELF for machine {machine:?}, not AArch64");
    Ok(header)
}

/// Makes an AArch64 ELF flat: every `PT_LOAD` segment at its physical address.
///
/// # Errors
/// It is not a little-endian AArch64 ELF, its headers are broken, or it has nothing to load.
pub(crate) fn flatten(data: &[u8]) -> Result<Flat> {
    let header = header(data)?;
    let mut parts = Vec::new();
    let segments = header.program_headers(LittleEndian, data).context("broken program headers")?;
    let headers = u64::from(header.e_ehsize(LittleEndian)) + size_of_val(segments) as u64;
    for segment in segments {
        if segment.p_type(LittleEndian) == elf::PT_LOAD && segment.p_memsz(LittleEndian) != 0 {
            let bytes = segment
                .data(LittleEndian, data)
                .ok()
                .context("a segment lies beyond the end of the file")?;
            if is_elf(bytes) {
                // Linkers that are not told otherwise load the file's own headers, often in a segment by themselves.
                if segment.p_memsz(LittleEndian) <= headers {
                    continue;
                }
                bail!(
                    "its first segment, at {:#x}, begins with the ELF's own headers: link it with a linker script that leaves them out",
                    segment.p_paddr(LittleEndian)
                );
            }
            let memory = segment.p_memsz(LittleEndian).max(bytes.len() as u64);
            let start = segment.p_paddr(LittleEndian);
            let end = start.checked_add(memory).context("a segment wraps around the address space")?;
            parts.push((start, end, bytes));
        }
    }
    let base = parts.iter().map(|p| p.0).min().context("no loadable segment")?;
    let top = parts.iter().map(|p| p.1).max().unwrap_or(base);
    if top - base > MAX_FLAT {
        bail!("its segments span {:#x} to {top:#x}, more than 1 GiB", base);
    }
    let mut flat = Vec::new();
    for (start, _, bytes) in parts {
        // Memory alone, as .bss is, adds nothing to the file.
        if bytes.is_empty() {
            continue;
        }
        let at = usize::try_from(start - base)?;
        if flat.len() < at + bytes.len() {
            flat.resize(at + bytes.len(), 0);
        }
        flat[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Ok(Flat {
        base,
        bytes: flat,
        entry: header.e_entry(LittleEndian),
        memory: top - base,
    })
}

/// Sizes of an ELF's allocated sections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Executable sections.
    pub(crate) text: u64,
    /// Writable sections, .bss included: static RAM.
    pub(crate) data: u64,
}

/// Adds up an ELF's executable and writable sections.
pub(crate) fn sizes(data: &[u8]) -> Result<Sizes> {
    let header = header(data)?;
    let mut sizes = Sizes::default();
    for section in header.sections(LittleEndian, data).context("broken section headers")?.iter() {
        let (flags, size) = (section.sh_flags(LittleEndian).0, section.sh_size(LittleEndian));
        if flags & elf::SHF_ALLOC.0 == 0 {
            continue;
        }
        if flags & elf::SHF_EXECINSTR.0 != 0 {
            sizes.text += size;
        } else if flags & elf::SHF_WRITE.0 != 0 {
            sizes.data += size;
        }
    }
    Ok(sizes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small AArch64 ELF with the given segments (physical address, file bytes, memory size).
    pub(crate) fn elf_with(entry: u64, segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(2u16.to_le_bytes());
        file.extend(183u16.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(entry.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (paddr, bytes, memory) in segments {
            file.extend(1u32.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            for word in [offset, *paddr, *paddr, bytes.len() as u64, *memory, 0x1000] {
                file.extend(word.to_le_bytes());
            }
            offset += bytes.len() as u64;
        }
        for (_, bytes, _) in segments {
            file.extend_from_slice(bytes);
        }
        file
    }

    #[test]
    fn compressed_images_are_told_from_plain_ones() {
        let kind = |bytes: &[u8]| compression(bytes).map(|(how, _)| how);
        assert_eq!(kind(b"\x1f\x8b\x08"), Some("gzip"));
        assert_eq!(kind(b"MZ\0\0zimg"), Some("an EFI zboot image"));
        assert_eq!(kind(b"\x28\xb5\x2f\xfd"), Some("zstd"));
        assert_eq!(kind(b"MZ\x40\xfa"), None);
        assert_eq!(kind(b""), None);
    }

    #[test]
    fn segments_land_at_their_physical_addresses_and_bss_stays_out() {
        let elf = elf_with(0x4008_0004, &[(0x4008_0010, b"world", 0x100), (0x4008_0000, b"hello", 5)]);
        let flat = flatten(&elf).expect("flat");
        assert_eq!(flat.base, 0x4008_0000);
        assert_eq!(flat.entry, 0x4008_0004);
        assert_eq!(&flat.bytes, b"hello\0\0\0\0\0\0\0\0\0\0\0world");
        assert_eq!(flat.memory, 0x110);
    }

    #[test]
    fn the_elfs_own_headers_are_not_part_of_the_image() {
        // Linked with `-Ttext` alone, the headers are a segment of their own, wherever the linker likes.
        let headers = elf_with(0, &[]);
        let size = 64 + 56 * 2;
        let elf = elf_with(0x4008_0000, &[(0x20_0000, &headers, size), (0x4008_0000, b"code", 4)]);
        let flat = flatten(&elf).expect("flat");
        assert_eq!((flat.base, flat.memory, &flat.bytes[..]), (0x4008_0000, 4, &b"code"[..]));
        // In one with code, they are in its way.
        let elf = elf_with(0x4008_0000, &[(0x4007_0000, &headers, 0x1_0004)]);
        let message = flatten(&elf).expect_err("refused").to_string();
        assert!(message.contains("0x40070000") && message.contains("own headers"), "{message}");
    }

    #[test]
    fn an_elf_of_another_machine_is_refused() {
        let mut elf = elf_with(0, &[(0, b"x", 1)]);
        elf[18] = 62;
        assert!(flatten(&elf).expect_err("refused").to_string().contains("not AArch64"));
    }

    #[test]
    fn an_elf_with_segments_far_apart_is_refused() {
        let elf = elf_with(0, &[(0, b"x", 1), (1 << 40, b"y", 1)]);
        assert!(flatten(&elf).expect_err("refused").to_string().contains("more than 1 GiB"));
    }

    #[test]
    fn a_truncated_elf_is_refused_at_every_length() {
        let elf = elf_with(0, &[(0, b"hello", 5)]);
        for length in 0..elf.len() {
            assert!(flatten(&elf[..length]).is_err(), "at {length}");
        }
    }
}
