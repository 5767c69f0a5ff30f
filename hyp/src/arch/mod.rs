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
        // translation and stack are changed in boot.s, trap.s and mmu.rs only.
        unsafe { core::arch::asm!(concat!("msr ", $($reg,)+ ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

/// Reads a system register as [`mrs!`] does, one that no access to memory changes and that changes nothing in memory: the compiler may
/// keep what it has loaded.
macro_rules! mrs_apart {
    ($reg:literal) => {{
        let value: u64;
        // SAFETY: As for `mrs!`.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $reg), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// Reads the register at place `$index` of the list, by a branch to its MRS. Their number is a power of two, and the index is taken
/// modulo it.
macro_rules! mrs_indexed {
    ($index:expr, $($($reg:literal)+),+) => {{
        const COUNT: usize = [$(concat!($($reg),+)),+].len();
        const _: () = assert!(COUNT.is_power_of_two());
        let value: u64;
        // SAFETY: As for `mrs!`; the index is less than the number of reads.
        unsafe {
            core::arch::asm!(
                "adr {to}, 2f", "add {to}, {to}, {index}, lsl #3", "br {to}", "2:",
                $(concat!("mrs {value}, ", $($reg),+), "b 3f",)+
                "3:",
                index = in(reg) $index & (COUNT - 1), to = out(reg) _, value = lateout(reg) value, options(nostack, preserves_flags)
            );
        }
        value
    }};
}

/// Writes the register at place `$index` of the list, as [`mrs_indexed`] reads it.
macro_rules! msr_indexed {
    ($index:expr, $value:expr, $($reg:literal),+) => {{
        const COUNT: usize = [$($reg),+].len();
        const _: () = assert!(COUNT.is_power_of_two());
        let value: u64 = $value;
        // SAFETY: As for `msr!`; the index is less than the number of writes.
        unsafe {
            core::arch::asm!(
                "adr {to}, 2f", "add {to}, {to}, {index}, lsl #3", "br {to}", "2:",
                $(concat!("msr ", $reg, ", {value}"), "b 3f",)+
                "3:",
                index = in(reg) $index & (COUNT - 1), to = out(reg) _, value = in(reg) value, options(nostack, preserves_flags)
            );
        }
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
