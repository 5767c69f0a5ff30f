//! What traps, and what a vCPU finds at entry: one table, each value with its reason and a test.
//!
//! `HCR_EL2` is written whole, and before any register whose name `E2H` would redirect.

use crate::idreg::HostId;
use crate::regs::cpu::{
    CNTHCTL_EL2, CPTR_EL2, HCR_EL2, ICC_SRE_EL2, MDCR_EL2, MPAM2_EL2, SCTLR_EL1, SCTLR_EL2, SPSR_EL2, SysReg, VTCR_EL2,
};
use crate::types::Pa;

/// What a VM's description decides about traps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The guest is shown pointer authentication.
    pub pauth: bool,
    /// This vCPU shares its pCPU, so that WFI must give it up.
    pub shared_pcpu: bool,
}

/// `HCR_EL2` until a pCPU's first guest: EL2 without VHE, EL1 is AArch64, and every physical interrupt and SError is EL2's. One that is EL1's
/// does not end a WFI at EL2 (DDI 0487, Wait for Interrupt), where a pCPU waits for the start of its vCPU.
pub const HCR_IDLE: u64 = HCR_EL2::RW::SET.value | HCR_EL2::IMO::SET.value | HCR_EL2::FMO::SET.value | HCR_EL2::AMO::SET.value;

/// `HCR_EL2` while a guest runs.
#[must_use]
pub const fn hcr(host: &HostId, options: Options) -> u64 {
    // EL1 is AArch64; stage 2 on; every physical interrupt and SError comes to EL2.
    let mut hcr = HCR_IDLE
        | HCR_EL2::VM::SET.value
        // SMC is a way to call EL2; feature IDs show what works; no implementation-defined register, no ACTLR_EL1.
        | HCR_EL2::TSC::SET.value
        | HCR_EL2::TID3::SET.value
        | HCR_EL2::TIDCP::SET.value
        | HCR_EL2::TACR::SET.value
        // Set/way operations reach one PE's caches and any VM's lines: answered by VA instead.
        | HCR_EL2::TSW::SET.value
        | HCR_EL2::SWIO::SET.value
        // No walk of a guest's tables in a device's registers.
        | HCR_EL2::PTW::SET.value
        // A guest's maintenance and barriers reach every PE that a vCPU of the VM may have run on.
        | HCR_EL2::FB::SET.value
        | HCR_EL2::BSU::InnerShareable.value;
    if options.shared_pcpu {
        hcr |= HCR_EL2::TWI::SET.value;
    }
    if options.pauth && host.pauth() {
        hcr |= HCR_EL2::API::SET.value | HCR_EL2::APK::SET.value;
    }
    // What the ID registers hide and hardware has is trapped. The bits are RES0 where the feature is missing.
    if host.ras() {
        hcr |= HCR_EL2::TERR::SET.value;
    }
    if host.lor() {
        hcr |= HCR_EL2::TLOR::SET.value;
    }
    if host.mte2() {
        hcr |= HCR_EL2::TID5::SET.value;
    }
    hcr
}

/// `CPTR_EL2`, with E2H = 0: its RES1 bits, which are TZ and TSM where SVE and SME exist; trace and activity monitors trapped, floating
/// point and `CPACR_EL1` not.
#[must_use]
pub const fn cptr(host: &HostId) -> u64 {
    const RES1: u64 = 0x32ff;
    let cptr = RES1 | CPTR_EL2::TZ::SET.value | CPTR_EL2::TSM::SET.value | CPTR_EL2::TTA::SET.value;
    if host.amu() { cptr | CPTR_EL2::TAM::SET.value } else { cptr }
}

/// `MDCR_EL2` of a vCPU that comes to its pCPU: performance monitors and debug registers trapped, the latter until the vCPU has its own
/// in hardware ([`MDCR_TDA`]). TDE is 0: debug exceptions are EL1's, so none is taken from EL2. HPMN is `PMCR_EL0.N`, so that no counter is EL2's own and the register
/// has its reset meaning; `pmcr` is not looked at on a machine without performance monitors. Profiling and trace buffers, where they
/// exist, belong to EL2 and trap: E2PB and E2TB are 0. The debug communications channel is an external debugger's, and traps for ever
/// where that is possible.
#[must_use]
pub const fn mdcr(host: &HostId, pmcr: u64) -> u64 {
    let mut mdcr = MDCR_EL2::TDOSA::SET.value | MDCR_EL2::TDRA::SET.value | MDCR_EL2::TDA::SET.value;
    if host.pmu() {
        mdcr |= MDCR_EL2::TPM::SET.value | MDCR_EL2::TPMCR::SET.value | (pmcr >> 11 & 0x1f);
    }
    if host.spe() {
        mdcr |= MDCR_EL2::TPMS::SET.value;
    }
    if host.trace_filter() {
        mdcr |= MDCR_EL2::TTRF::SET.value;
    }
    if host.fine_grained_traps() {
        mdcr |= MDCR_EL2::TDCC::SET.value;
    }
    mdcr
}

/// What of `MDCR_EL2` traps breakpoints, watchpoints and `MDSCR_EL1`. Cleared at a vCPU's first access: then it has them in hardware,
/// until it leaves its pCPU.
pub const MDCR_TDA: u64 = MDCR_EL2::TDA::SET.value;
/// The bits of `MDSCR_EL1` without which there is no breakpoint, watchpoint or step: SS, KDE and MDE. While all are 0, hardware need not
/// have the vCPU's other debug registers.
pub const MDSCR_EVENTS: u64 = 1 << 0 | 1 << 13 | 1 << 15;

/// `CNTHCTL_EL2`, with E2H = 0: the physical counter is free to read; the physical timer only when it is passed to the guest.
#[must_use]
pub const fn cnthctl(physical_timer: bool) -> u64 {
    let cnthctl = CNTHCTL_EL2::EL1PCTEN::SET.value;
    if physical_timer {
        cnthctl | CNTHCTL_EL2::EL1PCEN::SET.value
    } else {
        cnthctl
    }
}

/// `ICC_SRE_EL2`: system registers at EL2 and at EL1, no bypass.
pub const ICC_SRE: u64 =
    ICC_SRE_EL2::SRE::SET.value | ICC_SRE_EL2::DFB::SET.value | ICC_SRE_EL2::DIB::SET.value | ICC_SRE_EL2::ENABLE::SET.value;
/// `HSTR_EL2`: AArch32 at EL0 has no coprocessor access that needs a trap.
pub const HSTR: u64 = 0;
/// `HCRX_EL2`, where present: what needs a permission here is hidden.
pub const HCRX: u64 = 0;
/// `HFGRTR_EL2`, `HFGWTR_EL2` and `HFGITR_EL2`, where present: no trap beyond the coarse ones; the bits of the other polarity are 0 too, so
/// that registers newer than this table trap. The second registers, of `FEAT_FGT2`, are 0, too (`trap.s`). `HAFGRTR_EL2` stays as it is: what it
/// could trap, activity monitors, traps by [`cptr`].
pub const FINE_GRAINED_TRAPS: u64 = 0;
/// `HDFGRTR_EL2` and `HDFGWTR_EL2`, where present: as [`FINE_GRAINED_TRAPS`], but claim tags (bit 5) and `OSECCR_EL1` (bit 10), which
/// are not switched with a vCPU's other debug registers, trap also while those are in hardware.
pub const FINE_GRAINED_DEBUG_TRAPS: u64 = 1 << 5 | 1 << 10;
/// `MPAM2_EL2`, where MPAM is present: EL2 is of partition 0, and EL1 cannot choose that of EL1 and EL0. Those are in `MPAM1_EL1` and
/// `MPAM0_EL1`, which are 0 (`trap.s`), and not virtual ones: `MPAMHCR_EL2` is 0 where it exists.
pub const MPAM2: u64 = MPAM2_EL2::TRAPMPAM0EL1::SET.value | MPAM2_EL2::TRAPMPAM1EL1::SET.value;

/// Bits of the IPA space: 40, or what the machine has if that is less.
#[must_use]
pub const fn ipa_bits(host: &HostId) -> u32 {
    let pa = host.pa_bits();
    if pa < hyp_abi::layout::IPA_BITS {
        pa
    } else {
        hyp_abi::layout::IPA_BITS
    }
}

/// `VTCR_EL2`: 4 KiB granule, walk from level 1, write-back Inner Shareable walks, 8-bit VMID.
#[must_use]
pub const fn vtcr(host: &HostId) -> u64 {
    VTCR_EL2::RES1::SET.value
        | (64 - ipa_bits(host)) as u64
        | VTCR_EL2::SL0::Level1.value
        | VTCR_EL2::IRGN0::WriteBack.value
        | VTCR_EL2::ORGN0::WriteBack.value
        | VTCR_EL2::SH0::Inner.value
        | VTCR_EL2::TG0::KiB4.value
        | host.pa_range() << 16
        | VTCR_EL2::VS::Bits8.value
}

/// `VTTBR_EL2` of the VM `vmid` whose stage 2 root is at `root`.
#[must_use]
pub const fn vttbr(vmid: u8, root: Pa) -> u64 {
    (vmid as u64) << 48 | root.get()
}

/// `VMPIDR_EL2`: what the vCPU with this affinity reads as `MPIDR_EL1`. Bit 31 is RES1; U and MT are clear.
#[must_use]
pub const fn vmpidr(affinity: u64) -> u64 {
    affinity & 0xff_00ff_ffff | 1 << 31
}

/// `SCTLR_EL2` once EL2's stage 1 tables are in place: RES1 bits, MMU and caches on, stack alignment checked, W^X enforced,
/// little-endian.
pub const SCTLR_EL2_ON: u64 = 0x30c5_0830
    | SCTLR_EL2::M::SET.value
    | SCTLR_EL2::C::SET.value
    | SCTLR_EL2::SA::SET.value
    | SCTLR_EL2::I::SET.value
    | SCTLR_EL2::WXN::SET.value;

/// `SPSR_EL2` at a vCPU's entry: EL1h, DAIF masked.
pub const ENTRY_SPSR: u64 =
    SPSR_EL2::M::EL1h.value | SPSR_EL2::D::SET.value | SPSR_EL2::A::SET.value | SPSR_EL2::I::SET.value | SPSR_EL2::F::SET.value;

/// `SCTLR_EL1` at a vCPU's entry: the bits that are RES1 in Armv8.0, MMU and caches off, the endianness of the CPU_ON's caller.
#[must_use]
pub const fn entry_sctlr(big_endian: bool) -> u64 {
    const RES1: u64 = 0x30d0_0800;
    if big_endian { RES1 | SCTLR_EL1::EE::SET.value } else { RES1 }
}

/// `ISR_EL1.A`: a physical SError is pending (DDI 0487 ISR_EL1).
pub const ISR_A: u64 = 1 << 8;

/// When a register of a vCPU changes, which decides when it is saved, published and restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Never: the hardware's, or fixed when the VM is built.
    Immutable,
    /// By the host, before the vCPU first runs; no guest instruction reaches it.
    HostConfig,
    /// By the guest, rarely: when it boots, or brings a vCPU up.
    GuestPseudoStatic,
    /// By the guest, at any moment.
    Dynamic,
}

/// A register of EL1: its class, and its value at a vCPU's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct El1Register {
    /// Which.
    pub register: SysReg,
    /// When it changes.
    pub class: Class,
    /// The value at entry, for a little-endian caller.
    pub reset: u64,
}

macro_rules! el1_registers {
    ($($(#[$doc:meta])* $field:ident: $register:ident, $class:ident, $reset:expr;)*) => {
        /// Every register of EL1 that a vCPU has to itself and that EL2 reads and writes by its EL1 name.
        pub const EL1_REGISTERS: &[El1Register] =
            &[$(El1Register { register: SysReg::$register, class: Class::$class, reset: $reset }),*];

        /// A vCPU's EL1 registers while it is not resident.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct El1State {
            $($(#[$doc])* #[doc = concat!("\n\n`", stringify!($register), "`.")] pub $field: u64,)*
        }

        impl El1State {
            /// The state at a vCPU's entry, after CPU_ON by a caller of this endianness.
            #[must_use]
            pub const fn at_entry(big_endian: bool) -> Self {
                let mut state = Self { $($field: $reset),* };
                state.sctlr_el1 = entry_sctlr(big_endian);
                state
            }
            /// Every register with its value, in the order of [`EL1_REGISTERS`].
            #[must_use]
            pub const fn values(&self) -> [u64; EL1_REGISTERS.len()] {
                [$(self.$field),*]
            }
        }
    };
}

el1_registers! {
    /// MMU and caches off.
    sctlr_el1: SCTLR_EL1, GuestPseudoStatic, entry_sctlr(false);
    /// Floating point and SVE trap to EL1 until it allows them.
    cpacr_el1: CPACR_EL1, GuestPseudoStatic, 0;
    /// Lower translation table.
    ttbr0_el1: TTBR0_EL1, Dynamic, 0;
    /// Upper translation table.
    ttbr1_el1: TTBR1_EL1, Dynamic, 0;
    /// Translation control.
    tcr_el1: TCR_EL1, GuestPseudoStatic, 0;
    /// Memory attributes.
    mair_el1: MAIR_EL1, GuestPseudoStatic, 0;
    /// Auxiliary memory attributes.
    amair_el1: AMAIR_EL1, GuestPseudoStatic, 0;
    /// Vectors.
    vbar_el1: VBAR_EL1, GuestPseudoStatic, 0;
    /// Context ID.
    contextidr_el1: CONTEXTIDR_EL1, Dynamic, 0;
    /// EL0's thread pointer.
    tpidr_el0: TPIDR_EL0, Dynamic, 0;
    /// EL0's read-only thread pointer.
    tpidrro_el0: TPIDRRO_EL0, Dynamic, 0;
    /// EL1's thread pointer.
    tpidr_el1: TPIDR_EL1, Dynamic, 0;
    /// EL0's stack pointer.
    sp_el0: SP_EL0, Dynamic, 0;
    /// EL1's stack pointer.
    sp_el1: SP_EL1, Dynamic, 0;
    /// Return address of EL1's last exception.
    elr_el1: ELR_EL1, Dynamic, 0;
    /// Program status at EL1's last exception.
    spsr_el1: SPSR_EL1, Dynamic, 0;
    /// Syndrome of EL1's last exception.
    esr_el1: ESR_EL1, Dynamic, 0;
    /// Fault address of EL1's last exception.
    far_el1: FAR_EL1, Dynamic, 0;
    /// Auxiliary fault status.
    afsr0_el1: AFSR0_EL1, Dynamic, 0;
    /// Auxiliary fault status.
    afsr1_el1: AFSR1_EL1, Dynamic, 0;
    /// Result of an address translation.
    par_el1: PAR_EL1, Dynamic, 0;
    /// Which cache `CCSIDR_EL1` describes.
    csselr_el1: CSSELR_EL1, Dynamic, 0;
    /// EL0's access to counters and timers, event stream off.
    cntkctl_el1: CNTKCTL_EL1, GuestPseudoStatic, 0;
    /// The virtual timer is off.
    cntv_ctl_el0: CNTV_CTL_EL0, Dynamic, 0;
    /// The virtual timer's deadline.
    cntv_cval_el0: CNTV_CVAL_EL0, Dynamic, 0;
    /// No debug event.
    mdscr_el1: MDSCR_EL1, Dynamic, 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with nothing optional, 40-bit addresses (a Cortex-A53).
    const PLAIN: HostId = HostId {
        pfr0: 0x2222,
        mmfr0: 2,
        dfr0: 0x1030_5106,
        ..HostId::NONE
    };
    /// A machine with everything that a trap must cover.
    const RICH: HostId = HostId {
        pfr0: 1 << 28 | 1 << 32 | 1 << 40 | 1 << 44 | 0x22,
        pfr1: 2 << 8 | 1 << 24,
        dfr0: 1 << 32 | 1 << 40 | 6 << 8 | 6,
        isar1: 1 << 4,
        isar2: 0,
        mmfr0: 6,
        mmfr1: 1 << 16,
    };
    const NO_OPTIONS: Options = Options {
        pauth: false,
        shared_pcpu: false,
    };

    #[test]
    fn hcr_of_a_plain_machine() {
        // RW, TSW, TACR, TIDCP, TSC, TID3 | BSU=IS, FB | AMO, IMO, FMO | PTW, SWIO, VM; E2H, TGE, DC, TVM, HCD, FWB clear.
        let bits = [31, 22, 21, 20, 19, 18, 10, 9, 5, 4, 3, 2, 1, 0];
        let expected = bits.iter().fold(0u64, |value, bit| value | 1 << bit);
        assert_eq!(hcr(&PLAIN, NO_OPTIONS), expected);
        assert_eq!(expected, 0x807c_063f);
    }

    #[test]
    fn a_pcpu_that_waits_for_its_first_guest_is_woken_by_interrupts() {
        // RW | AMO, IMO, FMO; nothing of a guest's, and no VHE.
        assert_eq!(HCR_IDLE, 1 << 31 | 1 << 5 | 1 << 4 | 1 << 3);
    }

    #[test]
    fn hcr_traps_wfi_only_where_pcpus_are_shared() {
        let shared = hcr(
            &PLAIN,
            Options {
                shared_pcpu: true,
                ..NO_OPTIONS
            },
        );
        assert_eq!(shared ^ hcr(&PLAIN, NO_OPTIONS), 1 << 13);
    }

    #[test]
    fn hcr_passes_pointer_authentication_only_when_shown_and_present() {
        let shown = Options { pauth: true, ..NO_OPTIONS };
        assert_eq!(hcr(&RICH, shown) ^ hcr(&RICH, NO_OPTIONS), 1 << 40 | 1 << 41);
        assert_eq!(hcr(&PLAIN, shown), hcr(&PLAIN, NO_OPTIONS));
    }

    #[test]
    fn hcr_traps_what_is_hidden_where_it_exists() {
        assert_eq!(hcr(&RICH, NO_OPTIONS) ^ hcr(&PLAIN, NO_OPTIONS), 1 << 35 | 1 << 36 | 1 << 58);
    }

    #[test]
    fn cptr_traps_sve_sme_trace_and_not_floating_point() {
        assert_eq!(cptr(&PLAIN), 0x0010_33ff);
        assert_eq!(cptr(&RICH), 0x4010_33ff);
        assert_eq!(cptr(&RICH) & CPTR_EL2::TFP::SET.value, 0);
    }

    #[test]
    fn mdcr_traps_debug_and_performance_monitors() {
        assert_eq!(mdcr(&PLAIN, 0x4103_3000), 1 << 11 | 1 << 10 | 1 << 9 | 1 << 6 | 1 << 5 | 6);
        assert_eq!(
            mdcr(&RICH, 31 << 11),
            1 << 19 | 1 << 14 | 1 << 11 | 1 << 10 | 1 << 9 | 1 << 6 | 1 << 5 | 31
        );
        assert_eq!(mdcr(&PLAIN, 0) & MDCR_TDA, 1 << 9, "TDA, until the first access");
        assert_eq!(
            (mdcr(&RICH, u64::MAX) | mdcr(&PLAIN, u64::MAX)) & 1 << 8,
            0,
            "TDE: debug exceptions are EL1's"
        );
        let fine = HostId {
            mmfr0: 1 << 56 | 6,
            ..PLAIN
        };
        assert_eq!(mdcr(&fine, 0) ^ mdcr(&PLAIN, 0), 1 << 27, "TDCC");
        let without_pmu = HostId { dfr0: 6, ..PLAIN };
        assert_eq!(mdcr(&without_pmu, u64::MAX), 0xe00);
        let impdef_pmu = HostId { dfr0: 0xf06, ..PLAIN };
        assert_eq!(mdcr(&impdef_pmu, u64::MAX), 0xe00);
    }

    #[test]
    fn the_physical_timer_traps_unless_passed() {
        assert_eq!(cnthctl(false), 0b01);
        assert_eq!(cnthctl(true), 0b11);
    }

    #[test]
    fn constants_have_the_values_of_the_table() {
        assert_eq!(ICC_SRE, 0xf);
        assert_eq!((HSTR, HCRX, FINE_GRAINED_TRAPS), (0, 0, 0));
        assert_eq!(MPAM2, 3 << 48);
        assert_eq!(SCTLR_EL2_ON, 0x30cd_183d);
        assert_eq!(ENTRY_SPSR, 0x3c5);
    }

    #[test]
    fn vtcr_of_a_40_bit_machine() {
        // VS 0, PS 0b010, TG0 0b00, SH0 0b11, ORGN0 and IRGN0 0b01, SL0 0b01, T0SZ 24.
        assert_eq!(vtcr(&PLAIN), 0x8002_3558);
        assert_eq!(ipa_bits(&PLAIN), 40);
    }

    #[test]
    fn vtcr_never_promises_more_than_the_machine_or_the_granule_has() {
        let with = |mmfr0| HostId { mmfr0, ..PLAIN };
        let field = |mmfr0: u64, shift: u32, mask: u64| vtcr(&with(mmfr0)) >> shift & mask;
        // PARange 36 bits: the IPA space shrinks with it.
        assert_eq!((field(1, 0, 63), field(1, 16, 7)), (28, 1));
        assert_eq!((field(0, 0, 63), field(0, 16, 7)), (32, 0));
        // 44 and 48 bits: 40-bit IPA, whole output range.
        assert_eq!((field(4, 0, 63), field(4, 16, 7)), (24, 4));
        assert_eq!((field(5, 0, 63), field(5, 16, 7)), (24, 5));
        // 52 and 56 bits need a larger granule or LPA2: 48.
        assert_eq!((field(6, 0, 63), field(6, 16, 7)), (24, 5));
        assert_eq!((field(7, 0, 63), field(7, 16, 7)), (24, 5));
    }

    #[test]
    fn vttbr_and_vmpidr_keep_their_fields_apart() {
        assert_eq!(vttbr(0xab, Pa::new(0x8000_2000)), 0x00ab_0000_8000_2000);
        assert_eq!(vmpidr(0x3), 0x8000_0003);
        assert_eq!(vmpidr(u64::MAX), 0xff_80ff_ffff);
    }

    #[test]
    fn a_vcpu_starts_with_mmu_and_caches_off_in_its_callers_endianness() {
        assert_eq!(entry_sctlr(false), 0x30d0_0800);
        assert_eq!(entry_sctlr(true), 0x32d0_0800);
        assert_eq!(El1State::at_entry(true).sctlr_el1, 0x32d0_0800);
        assert_eq!(El1State::at_entry(false).sctlr_el1 & 0x1005, 0);
    }

    #[test]
    fn every_other_el1_register_starts_at_zero() {
        let values = El1State::at_entry(false).values();
        for (register, value) in EL1_REGISTERS.iter().zip(values) {
            assert_eq!(register.reset, value);
            let expected = if register.register == SysReg::SCTLR_EL1 { 0x30d0_0800 } else { 0 };
            assert_eq!(value, expected, "{}", register.register);
        }
    }

    #[test]
    fn the_table_names_each_register_once() {
        for (i, one) in EL1_REGISTERS.iter().enumerate() {
            assert!(
                EL1_REGISTERS[i + 1..].iter().all(|other| other.register != one.register),
                "{}",
                one.register
            );
        }
        assert_eq!(EL1_REGISTERS.len() * 8, size_of::<El1State>());
        let class = |register| EL1_REGISTERS.iter().find(|r| r.register == register).map(|r| r.class);
        assert_eq!(
            class(SysReg::MDSCR_EL1),
            Some(Class::Dynamic),
            "a kernel writes it whenever it steps a program"
        );
        assert_eq!(class(SysReg::VBAR_EL1), Some(Class::GuestPseudoStatic));
        assert_eq!(class(SysReg::ELR_EL1), Some(Class::Dynamic));
    }
}
