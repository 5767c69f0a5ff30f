//! The machine a guest sees: a subset of QEMU's `virt` at the same addresses. All addresses are IPAs.

/// Base of RAM, unless the VM's description says otherwise.
pub const RAM_BASE: u64 = 0x4000_0000;
/// Below this address nothing is mapped, reads give 0 and writes are ignored (flash, on `virt`).
pub const FLASH_END: u64 = 0x0800_0000;
/// The GIC distributor's frame.
pub const GICD_BASE: u64 = 0x0800_0000;
/// Size of the distributor's frame.
pub const GICD_SIZE: u64 = 0x1_0000;
/// The first redistributor; one follows another, [`GICR_STRIDE`] apart.
pub const GICR_BASE: u64 = 0x080A_0000;
/// A redistributor's `RD_base` and `SGI_base` frames, 64 KiB each.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// The VM's PL011.
pub const UART_BASE: u64 = 0x0900_0000;
/// Size of the PL011's frame.
pub const UART_SIZE: u64 = 0x1000;
/// The PL011's interrupt, as an SPI number (INTID 33).
pub const UART_SPI: u32 = 1;
/// The virtual timer's PPI, as an INTID.
pub const VTIMER_INTID: u32 = 27;
/// The physical timer's PPI, as an INTID.
pub const PTIMER_INTID: u32 = 30;
/// In the host partition: the shadow page of VM `n` is at `SHADOW_BASE + n * SHADOW_STRIDE`, read-only.
pub const SHADOW_BASE: u64 = 0x0B00_0000;
/// Distance between the shadow pages of two VMs.
pub const SHADOW_STRIDE: u64 = 0x1000;
/// The most vCPUs a VM can have; one shadow page holds as many slots.
pub const MAX_VCPUS: usize = 16;
/// The most vCPUs, of all VMs together, that one pCPU runs.
pub const MAX_SHARING: usize = 16;
/// The most VMs, the host partition (VM 0) included.
pub const MAX_VMS: usize = 8;

/// A VM's physical address size in bits, as `ID_AA64MMFR0_EL1.PARange` shows it: 40 bits, 1 TiB.
pub const IPA_BITS: u32 = 40;

/// `MPIDR_EL1` of vCPU `index`, as QEMU's `virt` numbers a GICv3 machine: 16 to a cluster in Aff0, then Aff1.
/// Bit 31 is RES1 in the register and not part of the affinity that PSCI takes.
#[must_use]
pub const fn affinity_of(index: usize) -> u64 {
    ((index as u64 / 16) << 8) | (index as u64 % 16)
}
