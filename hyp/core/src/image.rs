//! What kind of file a VM's image is, from its first bytes.
//!
//! The header is that of the arm64 Linux `Image` (Documentation/arch/arm64/booting.rst in the kernel): 64 bytes, all
//! little-endian, `text_offset` at 8, `image_size` at 16, `flags` at 24, the magic number `ARM\x64` at 56. A file without
//! it is a raw binary, unless its first bytes say that it is something which cannot run as it stands.

use crate::put;
use crate::text::{Shown, Sink};

/// How many of the file's first bytes [`Image::parse`] looks at.
pub const HEADER_SIZE: usize = 64;
const MAGIC: [u8; 4] = *b"ARM\x64";
/// Where old kernels expect to be, which leave `image_size` 0 and do not say so.
const LEGACY_TEXT_OFFSET: u64 = 0x8_0000;

/// The page size that a kernel in an arm64 `Image` was built for (bits 2:1 of its flags).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// The header does not say.
    Unspecified,
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

/// The kind of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An arm64 Linux `Image`.
    Arm64 {
        /// Distance of the image from a 2 MiB boundary.
        text_offset: u64,
        /// The page size it was built for.
        page_size: PageSize,
        /// Bit 3 of the flags: it runs anywhere in RAM, not only near its start.
        anywhere: bool,
    },
    /// A raw binary: it is copied, and entered at its first byte unless the VM's description says otherwise.
    Raw,
}

/// An image that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its kind.
    pub format: Format,
    /// Bytes to copy.
    pub file_size: u64,
    /// Bytes it needs in memory: the file and what follows it (`.bss`).
    pub memory_size: u64,
}

/// Why a file cannot be started as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file has no bytes.
    Empty,
    /// It is compressed.
    Compressed {
        /// With what.
        with: &'static str,
    },
    /// It is an ELF file.
    Elf,
    /// It is a container for images.
    Container {
        /// Which one.
        kind: &'static str,
    },
    /// It is a kernel for a big-endian EL1 (bit 0 of its flags).
    BigEndian,
}

impl Shown for ImageError {
    fn show(&self, f: &mut dyn Sink) {
        match *self {
            Self::Empty => f.words("the image is empty"),
            Self::Compressed { with } => put!(f, "the image is compressed ({}): decompress it first", with),
            Self::Elf => f.words("the image is an ELF file: `cargo xtask` flattens it, or use `objcopy -O binary`"),
            Self::Container { kind } => put!(f, "the image is a {}: extract the kernel from it first", kind),
            Self::BigEndian => f.words("the image is a big-endian kernel, which is not supported"),
        }
    }
}

crate::shown!(ImageError);

impl core::error::Error for ImageError {}

/// First bytes that say what a file is, when that is nothing to be run. They are looked at after the arm64 header, because
/// a kernel with an EFI stub starts with `MZ` as an EFI zboot file does.
const KNOWN: [(&[u8], ImageError); 8] = [
    (b"\x7fELF", ImageError::Elf),
    (b"\x1f\x8b", ImageError::Compressed { with: "gzip" }),
    (b"\xfd7zXZ\0", ImageError::Compressed { with: "xz" }),
    (b"\x28\xb5\x2f\xfd", ImageError::Compressed { with: "zstd" }),
    (b"\x02\x21\x4c\x18", ImageError::Compressed { with: "lz4" }),
    (b"MZ\0\0zimg", ImageError::Compressed { with: "EFI zboot" }),
    (
        b"\xd0\x0d\xfe\xed",
        ImageError::Container {
            kind: "U-Boot FIT image or a device tree",
        },
    ),
    (
        b"\x27\x05\x19\x56",
        ImageError::Container {
            kind: "U-Boot legacy image",
        },
    ),
];

impl Image {
    /// What the image is, of which `head` is the beginning ([`HEADER_SIZE`] bytes, or all when it has fewer) and `file_size`
    /// the length.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn parse(head: &[u8], file_size: u64) -> Result<Self, ImageError> {
        if file_size == 0 || head.is_empty() {
            return Err(ImageError::Empty);
        }
        if head.get(56..60) == Some(&MAGIC) {
            return Self::arm64(head, file_size);
        }
        match KNOWN.iter().find(|(first, _)| head.starts_with(first)) {
            Some((_, error)) => Err(*error),
            None => Ok(Self {
                format: Format::Raw,
                file_size,
                memory_size: file_size,
            }),
        }
    }

    fn arm64(head: &[u8], file_size: u64) -> Result<Self, ImageError> {
        let (text_offset, image_size, flags) = (le64(head, 8), le64(head, 16), le64(head, 24));
        if flags & 1 != 0 {
            return Err(ImageError::BigEndian);
        }
        let page_size = match (flags >> 1) & 3 {
            1 => PageSize::K4,
            2 => PageSize::K16,
            3 => PageSize::K64,
            _ => PageSize::Unspecified,
        };
        let legacy = image_size == 0;
        Ok(Self {
            format: Format::Arm64 {
                text_offset: if legacy { LEGACY_TEXT_OFFSET } else { text_offset },
                page_size,
                anywhere: flags & 8 != 0,
            },
            file_size,
            memory_size: file_size.max(image_size),
        })
    }
}

/// The little-endian word at `offset`, 0 where there is none.
#[inline(never)]
fn le64(bytes: &[u8], offset: usize) -> u64 {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut head = vec![0; HEADER_SIZE];
        head[8..16].copy_from_slice(&text_offset.to_le_bytes());
        head[16..24].copy_from_slice(&image_size.to_le_bytes());
        head[24..32].copy_from_slice(&flags.to_le_bytes());
        head[56..60].copy_from_slice(&MAGIC);
        head
    }

    #[test]
    fn an_arm64_image_says_where_it_goes_and_how_much_memory_it_needs() {
        let image = Image::parse(&header(0, 0x200_0000, 0b1010), 0x180_0000).unwrap();
        assert_eq!(
            image.format,
            Format::Arm64 {
                text_offset: 0,
                page_size: PageSize::K4,
                anywhere: true
            }
        );
        assert_eq!((image.file_size, image.memory_size), (0x180_0000, 0x200_0000));
    }

    #[test]
    fn an_image_longer_than_its_header_says_needs_its_length() {
        assert_eq!(Image::parse(&header(0, 0x1000, 0), 0x3000).unwrap().memory_size, 0x3000);
    }

    #[test]
    fn an_old_kernel_without_a_size_goes_to_half_a_megabyte() {
        let image = Image::parse(&header(0x1234, 0, 0b0110), 100).unwrap();
        assert_eq!(
            image.format,
            Format::Arm64 {
                text_offset: 0x8_0000,
                page_size: PageSize::K64,
                anywhere: false
            }
        );
    }

    #[test]
    fn an_efi_stub_kernel_is_still_an_arm64_image() {
        let mut head = header(0, 0x1000, 0b0100);
        head[..2].copy_from_slice(b"MZ");
        assert!(matches!(
            Image::parse(&head, 64).unwrap().format,
            Format::Arm64 {
                page_size: PageSize::K16,
                ..
            }
        ));
    }

    #[test]
    fn a_big_endian_kernel_is_refused() {
        assert_eq!(Image::parse(&header(0, 0x1000, 1), 0x1000), Err(ImageError::BigEndian));
    }

    #[test]
    fn what_cannot_run_as_it_stands_is_named() {
        for (first, error) in KNOWN {
            assert_eq!(Image::parse(first, 4096), Err(error));
        }
        for (head, size) in [(&[][..], 0), (&[], 4096), (&[0x14], 0)] {
            assert_eq!(Image::parse(head, size), Err(ImageError::Empty));
        }
        assert!(ImageError::Compressed { with: "gzip" }.to_string().contains("compressed"));
        assert!(ImageError::Elf.to_string().contains("xtask"));
    }

    #[test]
    fn anything_else_is_a_raw_binary_however_short() {
        for length in 1..80_usize {
            let image = Image::parse(&vec![0x14; length], length as u64).unwrap();
            assert_eq!(
                image,
                Image {
                    format: Format::Raw,
                    file_size: length as u64,
                    memory_size: length as u64
                }
            );
        }
    }
}
