//! Caches and guest translation: what must be done so that other observers see memory as EL2 left it.

use core::arch::{asm, global_asm};

global_asm!(include_str!("mem.s"));

fn line() -> usize {
    4 << ((mrs!("ctr_el0") >> 16) & 0xF)
}

/// Cleans and invalidates `[start, start + size)` to the point of coherency, so that an observer with its caches off
/// (a guest that starts, a pCPU that comes up, EL2 itself at first) sees what was written. Completes with `DSB SY`.
pub(crate) fn clean_to_poc(start: usize, size: usize) {
    let (line, end) = (line(), start + size);
    let mut at = start & !(line - 1);
    // SAFETY: Cleaning a mapped line changes no value that Rust can see. Callers pass memory that is mapped, or the MMU is off.
    unsafe {
        // Eight lines at a time, as far as that goes.
        while at + 8 * line <= end {
            asm!(".rept 8", "dc civac, {0}", "add {0}, {0}, {1}", ".endr", inout(reg) at, in(reg) line, options(nostack, preserves_flags));
        }
        while at < end {
            asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags));
            at += line;
        }
    }
    super::barrier::dsb_sy();
}

/// Writes zeroes to `[start, start + size)`, multiples of 4 KiB, with translation and caches on.
///
/// # Safety
/// The memory must be mapped as Normal memory, writable, and no Rust object may live in it.
pub(crate) unsafe fn zero_pages(start: usize, size: usize) {
    // DCZID_EL0: the size of what DC ZVA zeroes, 2 KiB at most, as the logarithm of its words; bit 4: it must not be used.
    let unit = match mrs!("dczid_el0") & 0x1F {
        log @ 0..=9 => 4 << log,
        _ => 0,
    };
    if unit == 0 {
        // SAFETY: This function's contract.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, size) };
        return;
    }
    for at in (start..start + size).step_by(unit) {
        // SAFETY: This function's contract; `at` is inside, and so are the bytes up to the next multiple of `unit`.
        unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) };
    }
}

/// Drops every pCPU's cached instructions (`IC IALLUIS`): guest text was rewritten.
pub(crate) fn drop_instructions() {
    // SAFETY: Instruction-cache invalidation changes no value; EL2's own text is unchanged.
    unsafe { asm!("ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Drops this pCPU's guest translations and instructions of the VMID in `VTTBR_EL2`: another vCPU of it ran here before.
pub(crate) fn drop_local_guest_tlb() {
    // SAFETY: TLB and instruction-cache invalidation remove cached copies only; the tables stay.
    unsafe { asm!("tlbi vmalle1", "ic iallu", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Drops EL2's own translation of `va` on all pCPUs, after its descriptor was made invalid.
pub(crate) fn drop_hyp_tlb(va: usize) {
    // SAFETY: The descriptor is invalid already: nobody uses the mapping any more.
    unsafe {
        asm!("dsb ishst", "tlbi vae2is, {}", "dsb ish", "isb", in(reg) va >> 12, options(nostack, preserves_flags));
    }
}

/// Drops every stage-1 and stage-2 translation of every VM on all pCPUs: at boot, before the first guest.
pub(crate) fn drop_all_guest_tlb() {
    // SAFETY: As above.
    unsafe { asm!("dsb ishst", "tlbi alle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
}
