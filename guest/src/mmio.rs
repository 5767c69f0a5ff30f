//! Device registers, by load and store instructions that carry a full syndrome (`ESR_EL2.ISV`): a compiler may
//! otherwise choose a form with write-back, which no hypervisor can emulate.

use core::arch::asm;

/// Reads a word.
#[must_use]
pub fn read32(address: u64) -> u32 {
    let value: u32;
    // SAFETY: A load from the device half of the stage-1 map, or wherever a test wants its fault; it changes no memory
    // that Rust knows of.
    unsafe { asm!("ldr {v:w}, [{a}]", v = out(reg) value, a = in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes a word.
pub fn write32(address: u64, value: u32) {
    // SAFETY: Callers name device registers, which are not Rust objects.
    unsafe { asm!("str {v:w}, [{a}]", v = in(reg) value, a = in(reg) address, options(nostack, preserves_flags)) };
}

/// Reads a doubleword.
#[must_use]
pub fn read64(address: u64) -> u64 {
    let value: u64;
    // SAFETY: As [`read32`].
    unsafe { asm!("ldr {v}, [{a}]", v = out(reg) value, a = in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes a doubleword.
pub fn write64(address: u64, value: u64) {
    // SAFETY: As [`write32`].
    unsafe { asm!("str {v}, [{a}]", v = in(reg) value, a = in(reg) address, options(nostack, preserves_flags)) };
}

/// Reads a byte.
#[must_use]
pub fn read8(address: u64) -> u8 {
    let value: u32;
    // SAFETY: As [`read32`].
    unsafe { asm!("ldrb {v:w}, [{a}]", v = out(reg) value, a = in(reg) address, options(nostack, preserves_flags)) };
    value as u8
}

/// Writes a byte.
pub fn write8(address: u64, value: u8) {
    // SAFETY: As [`write32`].
    unsafe { asm!("strb {v:w}, [{a}]", v = in(reg) u32::from(value), a = in(reg) address, options(nostack, preserves_flags)) };
}

/// Reads a half-word.
#[must_use]
pub fn read16(address: u64) -> u16 {
    let value: u32;
    // SAFETY: As [`read32`].
    unsafe { asm!("ldrh {v:w}, [{a}]", v = out(reg) value, a = in(reg) address, options(nostack, preserves_flags)) };
    value as u16
}

/// Writes a half-word.
pub fn write16(address: u64, value: u16) {
    // SAFETY: As [`write32`].
    unsafe { asm!("strh {v:w}, [{a}]", v = in(reg) u32::from(value), a = in(reg) address, options(nostack, preserves_flags)) };
}
