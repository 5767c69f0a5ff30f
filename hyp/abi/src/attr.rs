//! KVM's vGICv3 device attributes: groups, and how a CPU-interface register is named (Linux UAPI, `asm/kvm.h`).
//!
//! In the group [`CPU_SYSREGS`] an attribute has the vCPU's affinity (Aff3.Aff2.Aff1.Aff0) in bits 63:32 and a register
//! in bits 15:0, encoded as `Op0<<14 | Op1<<11 | CRn<<7 | CRm<<3 | Op2`. Values are 64 bits wide.

/// `KVM_DEV_ARM_VGIC_GRP_ADDR`.
pub const ADDR: u64 = 0;
/// `KVM_DEV_ARM_VGIC_GRP_DIST_REGS`.
pub const DIST_REGS: u64 = 1;
/// `KVM_DEV_ARM_VGIC_GRP_NR_IRQS`.
pub const NR_IRQS: u64 = 3;
/// `KVM_DEV_ARM_VGIC_GRP_CTRL`.
pub const CTRL: u64 = 4;
/// `KVM_DEV_ARM_VGIC_GRP_REDIST_REGS`.
pub const REDIST_REGS: u64 = 5;
/// `KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS`.
pub const CPU_SYSREGS: u64 = 6;
/// `KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO`.
pub const LEVEL_INFO: u64 = 7;

/// In [`CTRL`]: `KVM_DEV_ARM_VGIC_CTRL_INIT`.
pub const CTRL_INIT: u64 = 0;

/// Packs a system register's encoding into the low half of an attribute.
#[must_use]
pub const fn sysreg(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// `ICC_PMR_EL1`.
pub const ICC_PMR: u16 = sysreg(3, 0, 4, 6, 0);
/// `ICC_BPR0_EL1`.
pub const ICC_BPR0: u16 = sysreg(3, 0, 12, 8, 3);
/// `ICC_AP0R0_EL1`; `ICC_AP0R<n>_EL1` is `ICC_AP0R0 + n`.
pub const ICC_AP0R0: u16 = sysreg(3, 0, 12, 8, 4);
/// `ICC_AP1R0_EL1`; `ICC_AP1R<n>_EL1` is `ICC_AP1R0 + n`.
pub const ICC_AP1R0: u16 = sysreg(3, 0, 12, 9, 0);
/// `ICC_BPR1_EL1`.
pub const ICC_BPR1: u16 = sysreg(3, 0, 12, 12, 3);
/// `ICC_CTLR_EL1`.
pub const ICC_CTLR: u16 = sysreg(3, 0, 12, 12, 4);
/// `ICC_SRE_EL1`.
pub const ICC_SRE: u16 = sysreg(3, 0, 12, 12, 5);
/// `ICC_IGRPEN0_EL1`.
pub const ICC_IGRPEN0: u16 = sysreg(3, 0, 12, 12, 6);
/// `ICC_IGRPEN1_EL1`.
pub const ICC_IGRPEN1: u16 = sysreg(3, 0, 12, 12, 7);

/// Names register `reg` of the vCPU with affinity `affinity` (as in `MPIDR_EL1`: Aff3 in bits 39:32, Aff2..Aff0 in 23:0).
#[must_use]
pub const fn cpu_sysreg(affinity: u64, reg: u16) -> u64 {
    let packed = (affinity >> 8) & 0xFF00_0000 | affinity & 0x00FF_FFFF;
    packed << 32 | reg as u64
}

/// The affinity (in `MPIDR_EL1`'s layout) that a [`CPU_SYSREGS`] attribute names.
#[must_use]
pub const fn affinity_of(attr: u64) -> u64 {
    let packed = attr >> 32;
    (packed & 0xFF00_0000) << 8 | packed & 0x00FF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_ids_are_the_uapis() {
        assert_eq!(ICC_PMR, 0xC230);
        assert_eq!(ICC_BPR0, 0xC643);
        assert_eq!(ICC_AP0R0, 0xC644);
        assert_eq!(ICC_AP1R0, 0xC648);
        assert_eq!(ICC_BPR1, 0xC663);
        assert_eq!(ICC_CTLR, 0xC664);
        assert_eq!(ICC_SRE, 0xC665);
        assert_eq!(ICC_IGRPEN0, 0xC666);
        assert_eq!(ICC_IGRPEN1, 0xC667);
    }

    #[test]
    fn affinities_round_trip() {
        for affinity in [0, 3, 0x0001_0203, 0xFF_0011_2233, 0xAB_0000_0000] {
            assert_eq!(affinity_of(cpu_sysreg(affinity, ICC_CTLR)), affinity);
        }
    }
}
