//! KVM's vGICv3 device attributes, decided: what exists, what a value means, and which errno a refusal is.
//!
//! [`CPU_SYSREGS`] is whole. Of the other groups only `CTRL`'s `INIT` exists; KVM's ADDR, DIST_REGS, NR_IRQS, REDIST_REGS and
//! LEVEL_INFO answer [`Errno::NoDevice`], as a group that this device does not have.
//!
//! Errors, in the order in which they are looked for, which is KVM's: an unknown group (`ENXIO`), an affinity that no vCPU has
//! (`EINVAL`), a vGIC that is not initialised (`EBUSY`; [`has`] does not ask), an unknown register (`ENXIO`), a value (`EINVAL`).
//! Here bits 31:16 of a CPU_SYSREGS attribute must be zero, and so must bits 63:32 of a value. RES0 bits below are ignored.

use super::cpuif::CpuIf;
use super::ctlr::CtlrView;
use hyp_abi::attr::{
    CPU_SYSREGS, CTRL, CTRL_INIT, ICC_AP0R0, ICC_AP1R0, ICC_BPR0, ICC_BPR1, ICC_CTLR, ICC_IGRPEN0, ICC_IGRPEN1, ICC_PMR, ICC_SRE,
    affinity_of,
};
use hyp_abi::errno::Errno;
use hyp_abi::layout;

/// `ICC_SRE_EL1`: the system register interface is on, its bypasses are off, and none of it can be changed.
const SRE: u64 = 0b111;

/// A register of the group [`CPU_SYSREGS`]; its number is how the low half of an attribute names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Register {
    /// `ICC_PMR_EL1`.
    Pmr = ICC_PMR,
    /// `ICC_BPR0_EL1`.
    Bpr0 = ICC_BPR0,
    /// `ICC_BPR1_EL1`.
    Bpr1 = ICC_BPR1,
    /// `ICC_AP0R0_EL1`.
    Ap0r0 = ICC_AP0R0,
    /// `ICC_AP0R1_EL1`.
    Ap0r1 = ICC_AP0R0 + 1,
    /// `ICC_AP0R2_EL1`.
    Ap0r2 = ICC_AP0R0 + 2,
    /// `ICC_AP0R3_EL1`.
    Ap0r3 = ICC_AP0R0 + 3,
    /// `ICC_AP1R0_EL1`.
    Ap1r0 = ICC_AP1R0,
    /// `ICC_AP1R1_EL1`.
    Ap1r1 = ICC_AP1R0 + 1,
    /// `ICC_AP1R2_EL1`.
    Ap1r2 = ICC_AP1R0 + 2,
    /// `ICC_AP1R3_EL1`.
    Ap1r3 = ICC_AP1R0 + 3,
    /// `ICC_CTLR_EL1`.
    Ctlr = ICC_CTLR,
    /// `ICC_SRE_EL1`.
    Sre = ICC_SRE,
    /// `ICC_IGRPEN0_EL1`.
    Igrpen0 = ICC_IGRPEN0,
    /// `ICC_IGRPEN1_EL1`.
    Igrpen1 = ICC_IGRPEN1,
}

impl Register {
    /// Every register of the group, those first that are asked for most.
    pub const ALL: [Self; 15] = [
        Self::Ctlr,
        Self::Pmr,
        Self::Bpr0,
        Self::Bpr1,
        Self::Ap0r0,
        Self::Ap0r1,
        Self::Ap0r2,
        Self::Ap0r3,
        Self::Ap1r0,
        Self::Ap1r1,
        Self::Ap1r2,
        Self::Ap1r3,
        Self::Sre,
        Self::Igrpen0,
        Self::Igrpen1,
    ];

    /// The register that the low half of an attribute names.
    ///
    /// # Errors
    /// [`Errno::NoDevice`] for an encoding that is not in the group.
    pub fn from_id(id: u32) -> Result<Self, Errno> {
        let register = Self::ALL.iter().find(|register| u32::from(register.id()) == id);
        register.copied().ok_or(Errno::NoDevice)
    }

    /// How the low half of an attribute names this register.
    #[must_use]
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// This register's value in `cpuif`.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for an active-priority register that the vCPU does not have.
    pub fn get(self, cpuif: &CpuIf) -> Result<u64, Errno> {
        Ok(match self {
            Self::Pmr => cpuif.vmcr.pmr(),
            Self::Bpr0 => cpuif.vmcr.bpr0(),
            Self::Bpr1 => cpuif.vmcr.bpr1(),
            Self::Ap0r0 | Self::Ap0r1 | Self::Ap0r2 | Self::Ap0r3 => cpuif.ap0r[self.apr_index(&cpuif.view)?].into(),
            Self::Ap1r0 | Self::Ap1r1 | Self::Ap1r2 | Self::Ap1r3 => cpuif.ap1r[self.apr_index(&cpuif.view)?].into(),
            Self::Ctlr => cpuif.ctlr(),
            Self::Sre => SRE,
            Self::Igrpen0 => cpuif.vmcr.igrpen0(),
            Self::Igrpen1 => cpuif.vmcr.igrpen1(),
        })
    }

    /// Sets this register in `cpuif` to `value`, or changes nothing.
    ///
    /// # Errors
    /// [`Errno::Invalid`] when bits 63:32 are not zero, for an active-priority register that the vCPU does not have, for
    /// `ICC_SRE_EL1` without SRE, and for what [`host_write`](super::ctlr::CtlrView::host_write) refuses.
    pub fn set(self, cpuif: &mut CpuIf, value: u64) -> Result<(), Errno> {
        let low = u32::try_from(value).map_err(|_| Errno::Invalid)?;
        let (view, vmcr) = (cpuif.view, cpuif.vmcr);
        match self {
            Self::Pmr => cpuif.vmcr = vmcr.with_pmr(&view, value),
            Self::Bpr0 => cpuif.vmcr = vmcr.with_bpr0(&view, value),
            Self::Bpr1 => cpuif.vmcr = vmcr.with_bpr1(&view, value),
            Self::Ap0r0 | Self::Ap0r1 | Self::Ap0r2 | Self::Ap0r3 => cpuif.ap0r[self.apr_index(&view)?] = low,
            Self::Ap1r0 | Self::Ap1r1 | Self::Ap1r2 | Self::Ap1r3 => cpuif.ap1r[self.apr_index(&view)?] = low,
            Self::Ctlr => (cpuif.view, cpuif.vmcr) = view.host_write(vmcr, value, cpuif.has_run)?,
            Self::Sre if value & 1 == 0 => return Err(Errno::Invalid),
            Self::Sre => {}
            Self::Igrpen0 => cpuif.vmcr = vmcr.with_igrpen0(value),
            Self::Igrpen1 => cpuif.vmcr = vmcr.with_igrpen1(value),
        }
        Ok(())
    }

    /// Which of the four active-priority registers of a group this is, if the vCPU has it.
    fn apr_index(self, view: &CtlrView) -> Result<usize, Errno> {
        const _: () = assert!(ICC_AP0R0.is_multiple_of(4) && ICC_AP1R0.is_multiple_of(4));
        let index = usize::from(self.id() & 3);
        if index < view.apr_attributes() {
            Ok(index)
        } else {
            Err(Errno::Invalid)
        }
    }
}

/// What an attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A CPU-interface register of a vCPU.
    CpuSysreg {
        /// The vCPU's index.
        vcpu: usize,
        /// Which register.
        register: Register,
    },
    /// Setting it initialises the vGIC. It has no value.
    Init,
}

/// Finds attribute `attr` of group `group` in a VM with `vcpus` vCPUs, whose vGIC is initialised if `ready`.
///
/// # Errors
/// See the [module](self).
pub fn find(group: u64, attr: u64, vcpus: usize, ready: bool) -> Result<Attribute, Errno> {
    match group {
        CPU_SYSREGS => {
            let vcpu = vcpu_of(affinity_of(attr), vcpus).ok_or(Errno::Invalid)?;
            if !ready {
                return Err(Errno::Busy);
            }
            Ok(Attribute::CpuSysreg {
                vcpu,
                register: Register::from_id(attr as u32)?,
            })
        }
        CTRL if attr == CTRL_INIT => Ok(Attribute::Init),
        _ => Err(Errno::NoDevice),
    }
}

/// Whether attribute `attr` of group `group` exists. The vGIC need not be initialised.
///
/// # Errors
/// [`Errno::NoDevice`] if it does not, [`Errno::Invalid`] if no vCPU has the affinity.
pub fn has(group: u64, attr: u64, vcpus: usize) -> Result<(), Errno> {
    find(group, attr, vcpus, true).map(|_| ())
}

/// The vCPU with `affinity`, of `vcpus`.
fn vcpu_of(affinity: u64, vcpus: usize) -> Option<usize> {
    (0..vcpus.min(layout::MAX_VCPUS)).find(|&index| layout::affinity_of(index) == affinity)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use hyp_abi::attr::{ADDR, DIST_REGS, LEVEL_INFO, NR_IRQS, REDIST_REGS, cpu_sysreg};
    use proptest::prelude::*;

    const QEMU_VTR: u64 = 0x90b8_0003;

    fn cpuif() -> CpuIf {
        CpuIf::new(CtlrView::new(QEMU_VTR, 0))
    }

    fn register(index: usize) -> Register {
        Register::ALL[index % Register::ALL.len()]
    }

    #[test]
    fn every_id_of_the_group_and_no_other_names_a_register() {
        for register in Register::ALL {
            assert_eq!(Register::from_id(register.id().into()), Ok(register));
        }
        let known = (0..=0xffff).filter(|&id| Register::from_id(id).is_ok()).count();
        assert_eq!(known, Register::ALL.len());
        assert_eq!(Register::from_id(1 << 16 | 0xc664), Err(Errno::NoDevice));
    }

    #[test]
    fn errors_come_in_kvms_order() {
        let unknown = cpu_sysreg(0, 0x1234);
        assert_eq!(find(CPU_SYSREGS, cpu_sysreg(4, 0x1234), 4, false), Err(Errno::Invalid));
        assert_eq!(find(CPU_SYSREGS, unknown, 4, false), Err(Errno::Busy));
        assert_eq!(find(CPU_SYSREGS, unknown, 4, true), Err(Errno::NoDevice));
        assert_eq!(has(CPU_SYSREGS, unknown, 4), Err(Errno::NoDevice));
        assert_eq!(has(CPU_SYSREGS, cpu_sysreg(3, ICC_CTLR), 4), Ok(()));
    }

    #[test]
    fn groups_that_are_not_there_yet_say_so() {
        for group in [ADDR, DIST_REGS, NR_IRQS, REDIST_REGS, LEVEL_INFO, 2, 8, u64::MAX] {
            assert_eq!(has(group, 0, 4), Err(Errno::NoDevice));
        }
        assert_eq!(find(CTRL, CTRL_INIT, 4, false), Ok(Attribute::Init));
        assert_eq!(has(CTRL, 1, 4), Err(Errno::NoDevice));
    }

    #[test]
    fn reset_values_are_those_of_a_fresh_cpu_interface() {
        let cpuif = cpuif();
        for (register, value) in [
            (Register::Pmr, 0),
            (Register::Bpr0, 2),
            (Register::Bpr1, 3),
            (Register::Ctlr, 0x8c00),
            (Register::Sre, 7),
            (Register::Igrpen0, 0),
            (Register::Igrpen1, 0),
        ] {
            assert_eq!(register.get(&cpuif), Ok(value), "{register:?}");
        }
    }

    #[test]
    fn active_priority_registers_beyond_the_implemented_are_invalid() {
        let mut cpuif = cpuif();
        assert_eq!(Register::Ap0r0.set(&mut cpuif, 0x8000_0001), Ok(()));
        assert_eq!(Register::Ap0r0.get(&cpuif), Ok(0x8000_0001));
        use Register::{Ap0r1, Ap0r2, Ap0r3, Ap1r1, Ap1r2, Ap1r3};
        for register in [Ap0r1, Ap0r2, Ap0r3, Ap1r1, Ap1r2, Ap1r3] {
            assert_eq!(register.get(&cpuif), Err(Errno::Invalid));
            assert_eq!(register.set(&mut cpuif, 0), Err(Errno::Invalid));
        }
        let mut seven = CpuIf::new(CtlrView::new(6 << 29 | 6 << 26, 0));
        assert_eq!(Register::Ap1r3.set(&mut seven, 5), Ok(()));
        assert_eq!(seven.ap1r, [0, 0, 0, 5]);
    }

    #[test]
    fn sre_cannot_be_cleared() {
        let mut cpuif = cpuif();
        assert_eq!(Register::Sre.set(&mut cpuif, 6), Err(Errno::Invalid));
        assert_eq!(Register::Sre.set(&mut cpuif, 7), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_register_reads_back_what_a_write_of_it_made_of_it(which: usize, value: u32, ran: bool) {
            let mut cpuif = CpuIf { has_run: ran, ..cpuif() };
            let before = cpuif;
            match register(which).set(&mut cpuif, value.into()) {
                Ok(()) => {
                    let read = register(which).get(&cpuif).expect("what can be set can be read");
                    let after = cpuif;
                    prop_assert_eq!(register(which).set(&mut cpuif, read), Ok(()));
                    prop_assert_eq!(cpuif, after);
                }
                Err(errno) => {
                    prop_assert_eq!(errno, Errno::Invalid);
                    prop_assert_eq!(cpuif, before);
                }
            }
        }

        #[test]
        fn upper_bits_are_invalid_and_change_nothing(which: usize, value: u64) {
            let mut cpuif = cpuif();
            let before = cpuif;
            prop_assert_eq!(register(which).set(&mut cpuif, value | 1 << 40), Err(Errno::Invalid));
            prop_assert_eq!(cpuif, before);
        }

        #[test]
        fn a_saved_interface_restores_in_kvms_order(writes in proptest::collection::vec((any::<usize>(), any::<u32>()), 0..24)) {
            let mut source = cpuif();
            for (which, value) in writes {
                let _ = register(which).set(&mut source, value.into());
            }
            let mut target = cpuif();
            // BPR1 is written while CBPR is still 0: with CBPR it reads as BPR0's and the stored value is out of reach.
            let split = source.view.apply_write(source.vmcr, 0);
            prop_assert_eq!(Register::Bpr1.set(&mut target, split.bpr1()), Ok(()));
            for register in [Register::Sre, Register::Ctlr, Register::Pmr, Register::Bpr0, Register::Igrpen0, Register::Igrpen1, Register::Ap0r0, Register::Ap1r0] {
                let value = register.get(&source).expect("readable");
                prop_assert_eq!(register.set(&mut target, value), Ok(()), "{:?}", register);
            }
            prop_assert_eq!(target, source);
        }
    }
}
