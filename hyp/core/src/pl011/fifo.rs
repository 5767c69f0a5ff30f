//! The receive FIFO: bytes, each with its error flags.

/// How many entries it has.
pub(super) const DEPTH: usize = 32;

/// A ring of entries.
#[derive(Clone, Debug)]
pub(super) struct Fifo {
    entries: [u16; DEPTH],
    first: usize,
    len: usize,
}

impl Fifo {
    pub(super) const fn new() -> Self {
        Self {
            entries: [0; DEPTH],
            first: 0,
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Appends `entry`; nothing happens if there is no room.
    pub(super) const fn push(&mut self, entry: u16) {
        if self.len < DEPTH {
            self.entries[(self.first + self.len) % DEPTH] = entry;
            self.len += 1;
        }
    }

    /// Takes the oldest entry.
    pub(super) const fn pop(&mut self) -> Option<u16> {
        if self.len == 0 {
            return None;
        }
        let entry = self.entries[self.first % DEPTH];
        self.first = (self.first + 1) % DEPTH;
        self.len -= 1;
        Some(entry)
    }
}
