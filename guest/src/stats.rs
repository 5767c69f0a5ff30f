//! Minimum, median and maximum of what was measured.

/// Up to `N` samples; more are counted, and enter the minimum and the maximum only.
#[derive(Debug)]
pub struct Samples<const N: usize> {
    kept: [u32; N],
    count: usize,
    min: u32,
    max: u32,
}

impl<const N: usize> Default for Samples<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Samples<N> {
    /// No samples.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            kept: [0; N],
            count: 0,
            min: u32::MAX,
            max: 0,
        }
    }

    /// Forgets every sample.
    pub fn clear(&mut self) {
        self.count = 0;
        self.min = u32::MAX;
        self.max = 0;
    }

    /// Takes a sample; one too large for 32 bits counts as the largest.
    pub fn add(&mut self, value: u64) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        if let Some(cell) = self.kept.get_mut(self.count) {
            *cell = value;
        }
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// How many samples there were.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Minimum, median and maximum; zeroes when there is no sample. Sorts what it holds.
    pub fn summary(&mut self) -> Summary {
        let held = self.count.min(N);
        let kept = &mut self.kept[..held];
        kept.sort_unstable();
        match kept.get(held / 2) {
            Some(&median) => Summary {
                count: self.count,
                min: self.min,
                median,
                max: self.max,
            },
            None => Summary {
                count: 0,
                min: 0,
                median: 0,
                max: 0,
            },
        }
    }
}

/// What [`Samples::summary`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// The smallest.
    pub min: u32,
    /// The one in the middle.
    pub median: u32,
    /// The largest.
    pub max: u32,
}
