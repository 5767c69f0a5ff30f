//! Plain words that several decisions share.

/// An intermediate physical address: what a guest calls physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ipa(u64);

/// A physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pa(u64);

impl Ipa {
    /// The address `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
    /// The address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Pa {
    /// The address `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
    /// The address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A half-open range of addresses, `start..start + size`, that does not wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    start: u64,
    size: u64,
}

impl Range {
    /// No address at all.
    pub const EMPTY: Self = Self { start: 0, size: 0 };

    /// `size` bytes from `start`; `None` when that wraps.
    #[must_use]
    pub const fn new(start: u64, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(_) => Some(Self { start, size }),
            None => None,
        }
    }
    /// The first address.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }
    /// How many bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }
    /// The first address after the range.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.size
    }
    /// The range and what lies between its ends and the next multiples of `size`, a power of two; at the end of the address space less.
    #[must_use]
    pub const fn outward(self, size: u64) -> Self {
        let start = self.start & !(size - 1);
        let end = self.end().saturating_add(size - 1) & !(size - 1);
        Self { start, size: end - start }
    }
    /// Whether `address` lies inside.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        address >= self.start && address - self.start < self.size
    }
    /// Whether all of `other` lies inside.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        other.start >= self.start && other.end() <= self.end()
    }
    /// Whether any byte lies in both.
    #[must_use]
    #[inline(never)]
    pub const fn overlaps(self, other: Self) -> bool {
        self.size != 0 && other.size != 0 && self.start < other.end() && other.start < self.end()
    }
    /// Whether any byte lies in one of `others`, too.
    #[must_use]
    #[inline(never)]
    pub fn overlaps_any(self, others: &[Self]) -> bool {
        others.iter().any(|other| self.overlaps(*other))
    }
}
