//! Device registers, by address.

use core::ptr;

/// How often a register is read that is to change.
const PATIENCE: u32 = 1_000_000;

/// A block of device registers that EL2 may access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mmio {
    base: usize,
}

impl Mmio {
    /// The block at `base`.
    ///
    /// # Safety
    /// `base` must be a device's frame as the machine's device tree gives it, mapped as Device memory at EL2 whenever an
    /// access is made (or the MMU is off), and the offsets used must lie inside it.
    pub(crate) const unsafe fn new(base: usize) -> Self {
        Self { base }
    }

    /// Reads the 32-bit register at `offset`.
    pub(crate) fn read32(self, offset: usize) -> u32 {
        // SAFETY: `new`'s contract: a mapped device frame, aligned offsets of its own registers.
        unsafe { ptr::read_volatile((self.base + offset) as *const u32) }
    }

    /// Writes the 32-bit register at `offset`.
    pub(crate) fn write32(self, offset: usize, value: u32) {
        // SAFETY: As for reads; no device EL2 drives does DMA, so no memory that Rust owns changes.
        unsafe { ptr::write_volatile((self.base + offset) as *mut u32, value) }
    }

    /// Writes `value` to each of `count` 32-bit registers from `offset` on.
    #[inline(never)]
    pub(crate) fn fill32(self, offset: usize, count: usize, value: u32) {
        for register in 0..count {
            self.write32(offset + 4 * register, value);
        }
    }

    /// Waits until `bits` of the 32-bit register at `offset` read 0, but not for ever.
    #[inline(never)]
    pub(crate) fn settle(self, offset: usize, bits: u32) {
        for _ in 0..PATIENCE {
            if self.read32(offset) & bits == 0 {
                break;
            }
        }
    }

    /// Reads the 64-bit register at `offset`.
    pub(crate) fn read64(self, offset: usize) -> u64 {
        // SAFETY: As above.
        unsafe { ptr::read_volatile((self.base + offset) as *const u64) }
    }

    /// Reads the byte register at `offset`.
    pub(crate) fn read8(self, offset: usize) -> u8 {
        // SAFETY: As above.
        unsafe { ptr::read_volatile((self.base + offset) as *const u8) }
    }

    /// Writes the byte register at `offset`.
    pub(crate) fn write8(self, offset: usize, value: u8) {
        // SAFETY: As above.
        unsafe { ptr::write_volatile((self.base + offset) as *mut u8, value) }
    }
}
