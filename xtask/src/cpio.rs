//! Writes a cpio archive of the `newc` kind, which Linux unpacks as its first file system.

/// An archive that grows entry by entry.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Archive {
    /// Adds a directory. A directory comes before what is in it.
    pub(crate) fn directory(&mut self, name: &str) -> &mut Self {
        self.entry(name, DIRECTORY, &[], (0, 0))
    }

    /// Adds a file that can be run.
    pub(crate) fn program(&mut self, name: &str, data: &[u8]) -> &mut Self {
        self.entry(name, PROGRAM, data, (0, 0))
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, name: &str, major: u32, minor: u32) -> &mut Self {
        self.entry(name, CHARACTER_DEVICE, &[], (major, minor))
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) -> &mut Self {
        self.entries += 1;
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // Inode, mode, uid, gid, links, time, size, device (2), device it stands for (2), length of the name, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            length(data.len()),
            0,
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, data, device number.
    type Entry = (String, u32, Vec<u8>, (u32, u32));

    /// Reads an archive back.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |i: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * i..14 + 8 * i]).expect("text");
                u32::from_str_radix(text, 16).expect("a number")
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).expect("a name").to_owned();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let data = (110 + name_size).next_multiple_of(4);
            let entry = (name, field(1), bytes[data..data + size].to_vec(), (field(9), field(10)));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
            if entry.0 == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push(entry);
        }
    }

    #[test]
    fn an_archive_holds_what_was_added_in_order() {
        let mut archive = Archive::default();
        archive.directory("dev").device("dev/console", 5, 1).program("init", b"#!/bin/sh\n");
        for size in 0..5 {
            archive.program(&"n".repeat(size + 1), &vec![7; size]);
        }
        let entries = read(&archive.finish());
        assert_eq!(entries[0], ("dev".to_owned(), 0o40755, vec![], (0, 0)));
        assert_eq!(entries[1], ("dev/console".to_owned(), 0o20600, vec![], (5, 1)));
        assert_eq!(entries[2], ("init".to_owned(), 0o100_755, b"#!/bin/sh\n".to_vec(), (0, 0)));
        for (size, entry) in entries[3..].iter().enumerate() {
            assert_eq!(entry.2.len(), size, "{}", entry.0);
        }
        assert_eq!(entries.len(), 8);
    }
}
