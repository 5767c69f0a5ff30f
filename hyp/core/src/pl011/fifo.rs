//! The receive FIFO: bytes, each with its error flags; and what waits behind it.

/// How many entries the guest is shown at once.
pub(super) const DEPTH: usize = 32;
/// How many there can be.
pub(super) const CAPACITY: usize = 64;

/// A ring of entries.
#[derive(Clone, Debug)]
pub(super) struct Fifo {
    entries: [u16; CAPACITY],
    first: usize,
    len: usize,
}

impl Fifo {
    pub(super) const fn new() -> Self {
        Self {
            entries: [0; CAPACITY],
            first: 0,
            len: 0,
        }
    }

    pub(super) const fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Appends `entry`; nothing happens if there is no room.
    pub(super) const fn push(&mut self, entry: u16) {
        if self.len < CAPACITY {
            self.entries[(self.first + self.len) % CAPACITY] = entry;
            self.len += 1;
        }
    }

    /// Takes the oldest entry.
    pub(super) const fn pop(&mut self) -> Option<u16> {
        if self.len == 0 {
            return None;
        }
        let entry = self.entries[self.first % CAPACITY];
        self.first = (self.first + 1) % CAPACITY;
        self.len -= 1;
        Some(entry)
    }
}
