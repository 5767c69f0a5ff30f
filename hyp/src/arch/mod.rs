//! The machine: everything that is an instruction, a system register or a device register.

/// Reads a system register that `aarch64-cpu` has no accessor for. Not `nomem`: ordered with memory accesses around it.
macro_rules! mrs {
    ($($reg:literal)+) => {{
        let value: u64;
        // SAFETY: Reading a system register of EL2 or below changes nothing that Rust can see; the registers named in
        // this crate have no read side effects on memory (ICC_IAR1_EL1 only acknowledges an interrupt).
        unsafe { core::arch::asm!(concat!("mrs {}, ", $($reg),+), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// Writes a system register that `aarch64-cpu` has no accessor for. Not `nomem`: ordered with memory accesses around it.
macro_rules! msr {
    ($($reg:literal)+, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: The registers written through this macro configure the guest's world, the GIC or the timer; EL2's own
        // translation and stack are changed in boot.s and mmu.rs only.
        unsafe { core::arch::asm!(concat!("msr ", $($reg,)+ ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

pub(crate) mod barrier;
pub(crate) mod context;
pub(crate) mod cpu;
pub(crate) mod debug;
pub(crate) mod gic;
pub(crate) mod memory;
pub(crate) mod mmio;
pub(crate) mod mmu;
pub(crate) mod smc;
pub(crate) mod timer;
pub(crate) mod uart;
