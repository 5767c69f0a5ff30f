//! What a guest finds when it touches a system register that traps: the feature ID registers, which show exactly what works, and a
//! defined answer for every other one.

use crate::esr::ec;
use crate::regs::cpu::SysReg;
use crate::timer::Register;

/// The machine's own ID registers, as far as a decision needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostId {
    /// `ID_AA64PFR0_EL1`.
    pub pfr0: u64,
    /// `ID_AA64PFR1_EL1`.
    pub pfr1: u64,
    /// `ID_AA64DFR0_EL1`.
    pub dfr0: u64,
    /// `ID_AA64ISAR1_EL1`.
    pub isar1: u64,
    /// `ID_AA64ISAR2_EL1`.
    pub isar2: u64,
    /// `ID_AA64MMFR0_EL1`.
    pub mmfr0: u64,
    /// `ID_AA64MMFR1_EL1`.
    pub mmfr1: u64,
}

/// The four-bit field of `value` at `shift`.
const fn field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}

/// What `trap.s` asks before the MMU is on, as bits of an ID register of which one at least is set.
pub mod early {
    /// `ID_AA64MMFR3_EL1`: `TCR2_EL2` exists.
    pub const TCRX: u64 = 0xf;
    /// `ID_AA64MMFR3_EL1`: `SCTLR2_EL2` exists.
    pub const SCTLRX: u64 = 0xf << 4;
    /// `ID_AA64MMFR0_EL1`: fine-grained traps have their second registers, `FGT` being 2 or more.
    pub const FGT2: u64 = 0xe << 56;
    /// `ID_AA64PFR0_EL1`: MPAM exists ([`HostId::mpam`](super::HostId::mpam)).
    pub const MPAM: u64 = 0xf << 40;
    /// `ID_AA64PFR1_EL1`: MPAM exists.
    pub const MPAM_FRAC: u64 = 0xf << 16;
    /// `MPAMIDR_EL1`: `MPAMHCR_EL2` exists.
    pub const MPAM_HAS_HCR: u64 = 1 << 17;
}

impl HostId {
    /// A machine whose ID registers all read 0.
    pub const NONE: Self = Self {
        pfr0: 0,
        pfr1: 0,
        dfr0: 0,
        isar1: 0,
        isar2: 0,
        mmfr0: 0,
        mmfr1: 0,
    };

    /// Reads what this PE says of itself; `read` performs the MRS.
    #[must_use]
    pub fn read(mut read: impl FnMut(SysReg) -> u64) -> Self {
        Self {
            pfr0: read(SysReg::ID_AA64PFR0_EL1),
            pfr1: read(SysReg::ID_AA64PFR1_EL1),
            dfr0: read(SysReg::ID_AA64DFR0_EL1),
            isar1: read(SysReg::ID_AA64ISAR1_EL1),
            isar2: read(SysReg::ID_AA64ISAR2_EL1),
            mmfr0: read(SysReg::ID_AA64MMFR0_EL1),
            mmfr1: read(SysReg::ID_AA64MMFR1_EL1),
        }
    }
    /// Pointer authentication of addresses, by any algorithm.
    #[must_use]
    pub const fn pauth(&self) -> bool {
        self.isar1 >> 4 & 0xff != 0 || field(self.isar2, 12) != 0
    }
    /// AArch32 at EL0.
    #[must_use]
    pub const fn aarch32_el0(&self) -> bool {
        field(self.pfr0, 0) == 2
    }
    /// RAS.
    #[must_use]
    pub const fn ras(&self) -> bool {
        field(self.pfr0, 28) != 0
    }
    /// Activity monitors.
    #[must_use]
    pub const fn amu(&self) -> bool {
        field(self.pfr0, 44) != 0
    }
    /// MPAM.
    #[must_use]
    pub const fn mpam(&self) -> bool {
        self.pfr0 & early::MPAM != 0 || self.pfr1 & early::MPAM_FRAC != 0
    }
    /// Memory tagging, instructions at least.
    #[must_use]
    pub const fn mte(&self) -> bool {
        field(self.pfr1, 8) != 0
    }
    /// Memory tagging with tags in memory.
    #[must_use]
    pub const fn mte2(&self) -> bool {
        field(self.pfr1, 8) >= 2
    }
    /// Speculative store bypass safe.
    #[must_use]
    pub const fn ssbs(&self) -> bool {
        field(self.pfr1, 4) != 0
    }
    /// Non-maskable interrupts.
    #[must_use]
    pub const fn nmi(&self) -> bool {
        field(self.pfr1, 36) != 0
    }
    /// Performance monitors of the architecture.
    #[must_use]
    pub const fn pmu(&self) -> bool {
        !matches!(field(self.dfr0, 8), 0 | 0xf)
    }
    /// Statistical profiling.
    #[must_use]
    pub const fn spe(&self) -> bool {
        field(self.dfr0, 32) != 0
    }
    /// Trace filter controls.
    #[must_use]
    pub const fn trace_filter(&self) -> bool {
        field(self.dfr0, 40) != 0
    }
    /// Limited ordering regions.
    #[must_use]
    pub const fn lor(&self) -> bool {
        field(self.mmfr1, 16) != 0
    }
    /// Privileged access never.
    #[must_use]
    pub const fn pan(&self) -> bool {
        field(self.mmfr1, 20) != 0
    }
    /// `HCRX_EL2` exists.
    #[must_use]
    pub const fn hcrx(&self) -> bool {
        field(self.mmfr1, 40) != 0
    }
    /// Fine-grained traps exist.
    #[must_use]
    pub const fn fine_grained_traps(&self) -> bool {
        field(self.mmfr0, 56) != 0
    }
    /// `ID_AA64MMFR0_EL1.PARange`, at most 48 bits: more needs LPA2 or a larger granule.
    #[must_use]
    pub const fn pa_range(&self) -> u64 {
        let range = field(self.mmfr0, 0);
        if range > 5 { 5 } else { range }
    }
    /// Bits of a physical address, at most 48.
    #[must_use]
    pub const fn pa_bits(&self) -> u32 {
        match self.pa_range() {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        }
    }
}

/// What a VM is shown beyond what every VM is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Pointer authentication, if the machine has it. Its keys must then be switched with the vCPU.
    pub pauth: bool,
}

/// How a field of an ID register is shown. What no rule names reads 0, so a feature that is newer than these tables stays hidden.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// As hardware, but at most this.
    Max(u64),
    /// As hardware when negative (0b1xxx: not implemented), else at most this.
    Signed(u64),
    /// This value, whatever the hardware.
    Fixed(u64),
    /// As hardware where pointer authentication is shown, else 0.
    Pauth,
}
use Rule::{Fixed, Max, Pauth, Signed};

/// A four-bit field.
#[derive(Clone, Copy, Debug)]
struct Field {
    #[cfg(all(test, not(any(loom, miri))))]
    name: &'static str,
    shift: u32,
    rule: Rule,
}

macro_rules! fields {
    ($($name:ident @ $shift:literal $rule:expr,)*) => {
        &[$(Field { #[cfg(all(test, not(any(loom, miri))))] name: stringify!($name), shift: $shift, rule: $rule }),*]
    };
}

/// The AArch64 registers with anything to show.
const AARCH64: &[(SysReg, &[Field])] = &[
    (
        SysReg::ID_AA64PFR0_EL1,
        fields! {
            // EL0 as hardware; EL1 is AArch64 only, because HCR_EL2.RW is set. EL2 and EL3 are not there.
            EL0 @ 0 Max(2),
            EL1 @ 4 Fixed(1),
            // Untrapped, and switched with the vCPU.
            FP @ 16 Signed(1),
            ADVSIMD @ 20 Signed(1),
            // The system-register interface of GICv3.
            GIC @ 24 Fixed(1),
            // A PSTATE bit, nothing else.
            DIT @ 48 Max(1),
            // Properties of the PE. CSV2 2 and 3 add SCXTNUM_ELx, which traps.
            CSV2 @ 56 Max(1),
            CSV3 @ 60 Max(1),
        },
    ),
    (
        SysReg::ID_AA64PFR1_EL1,
        fields! {
            // Stage 1 and PSTATE alone.
            BT @ 0 Max(1),
            SSBS @ 4 Max(2),
        },
    ),
    (
        SysReg::ID_AA64DFR0_EL1,
        fields! {
            // Every breakpoint and watchpoint of the PE is switched with the vCPU. There is no double lock.
            DEBUGVER @ 0 Max(8),
            BRPS @ 12 Max(15),
            WRPS @ 20 Max(15),
            CTX_CMPS @ 28 Max(15),
            DOUBLELOCK @ 36 Fixed(0xf),
        },
    ),
    (
        SysReg::ID_AA64ISAR0_EL1,
        fields! {
            // Instructions that need nothing of EL2.
            AES @ 4 Max(2),
            SHA1 @ 8 Max(1),
            SHA2 @ 12 Max(2),
            CRC32 @ 16 Max(1),
            ATOMIC @ 20 Max(3),
            RDM @ 28 Max(1),
            SHA3 @ 32 Max(1),
            SM3 @ 36 Max(1),
            SM4 @ 40 Max(1),
            DP @ 44 Max(1),
            FHM @ 48 Max(1),
            TS @ 52 Max(2),
            // By range and to the outer domain: untrapped.
            TLB @ 56 Max(2),
            RNDR @ 60 Max(1),
        },
    ),
    (
        SysReg::ID_AA64ISAR1_EL1,
        fields! {
            DPB @ 0 Max(2),
            APA @ 4 Pauth,
            API @ 8 Pauth,
            JSCVT @ 12 Max(1),
            FCMA @ 16 Max(1),
            LRCPC @ 20 Max(3),
            GPA @ 24 Pauth,
            GPI @ 28 Pauth,
            FRINTTS @ 32 Max(1),
            SB @ 36 Max(1),
            SPECRES @ 40 Max(2),
            BF16 @ 44 Max(2),
            DGH @ 48 Max(1),
            I8MM @ 52 Max(1),
            // The nXS forms work with HCRX_EL2 = 0. LS64 does not, and is hidden.
            XS @ 56 Max(1),
        },
    ),
    (
        SysReg::ID_AA64ISAR2_EL1,
        fields! {
            // WFxT is hidden: a trapped WFIT would need its deadline kept. MOPS needs HCRX_EL2.
            RPRES @ 4 Max(1),
            GPA3 @ 8 Pauth,
            APA3 @ 12 Pauth,
            BC @ 20 Max(1),
            PAC_FRAC @ 24 Pauth,
            CLRBHB @ 28 Max(1),
            RPRFM @ 48 Max(1),
            CSSC @ 52 Max(1),
        },
    ),
    (
        SysReg::ID_AA64MMFR0_EL1,
        fields! {
            // 40 bits: the IPA space.
            PARANGE @ 0 Max(2),
            ASIDBITS @ 4 Max(2),
            BIGEND @ 8 Max(1),
            BIGENDEL0 @ 16 Max(1),
            // Stage 1 granules, without 52-bit addresses.
            TGRAN16 @ 20 Max(1),
            TGRAN64 @ 24 Signed(0),
            TGRAN4 @ 28 Signed(0),
            // No stage 2 of its own.
            TGRAN16_2 @ 32 Fixed(1),
            TGRAN64_2 @ 36 Fixed(1),
            TGRAN4_2 @ 40 Fixed(1),
            EXS @ 44 Max(1),
            // Self-synchronized counter views; 2 is about EL2.
            ECV @ 60 Max(1),
        },
    ),
    (
        SysReg::ID_AA64MMFR1_EL1,
        fields! {
            // Stage 1 access flag and dirty state.
            HAFDBS @ 0 Max(2),
            HPDS @ 12 Max(2),
            PAN @ 20 Max(3),
            ETS @ 36 Max(2),
            AFP @ 44 Max(1),
            NTLBPA @ 48 Max(1),
            TIDCP1 @ 52 Max(1),
            ECBHB @ 60 Max(1),
        },
    ),
    (
        SysReg::ID_AA64MMFR2_EL1,
        fields! {
            CNP @ 0 Max(1),
            UAO @ 4 Max(1),
            LSM @ 8 Max(1),
            VARANGE @ 16 Max(1),
            // The format of CCSIDR_EL1, which is not trapped.
            CCIDX @ 20 Max(1),
            ST @ 28 Max(1),
            AT @ 32 Max(1),
            IDS @ 36 Max(1),
            TTL @ 48 Max(1),
            // BBM is hidden: a TLB conflict under stage 2 would come to EL2.
            E0PD @ 60 Max(1),
        },
    ),
];

/// The AArch32 registers, each with the bits that are shown: they describe EL0, the only EL that may use AArch32. Hidden: activity
/// monitors, RAS, security and virtualization extensions, the GIC interface, performance monitors and trace, stage 2.
const AARCH32: &[(SysReg, u32)] = &[
    (SysReg::ID_PFR0_EL1, 0x0f0f_ffff),
    (SysReg::ID_PFR1_EL1, 0x000f_000f),
    (SysReg::ID_DFR0_EL1, 0x0000_000f),
    (SysReg::ID_MMFR0_EL1, u32::MAX),
    (SysReg::ID_MMFR1_EL1, u32::MAX),
    (SysReg::ID_MMFR2_EL1, u32::MAX),
    (SysReg::ID_MMFR3_EL1, u32::MAX),
    (SysReg::ID_ISAR0_EL1, u32::MAX),
    (SysReg::ID_ISAR1_EL1, u32::MAX),
    (SysReg::ID_ISAR2_EL1, u32::MAX),
    (SysReg::ID_ISAR3_EL1, u32::MAX),
    (SysReg::ID_ISAR4_EL1, u32::MAX),
    (SysReg::ID_ISAR5_EL1, u32::MAX),
    (SysReg::ID_MMFR4_EL1, 0x0fff_f0f0),
    (SysReg::ID_ISAR6_EL1, u32::MAX),
    (SysReg::MVFR0_EL1, u32::MAX),
    (SysReg::MVFR1_EL1, u32::MAX),
    (SysReg::MVFR2_EL1, u32::MAX),
    (SysReg::ID_PFR2_EL1, 0x0000_00ff),
    (SysReg::ID_MMFR5_EL1, 0x0000_00ff),
];

/// Whether `register` is in the space that `HCR_EL2.TID3` traps: op0 3, op1 0, CRn 0, CRm 1 to 7, reserved encodings included.
#[must_use]
pub const fn is_id(register: SysReg) -> bool {
    register.op0() == 3 && register.op1() == 0 && register.crn() == 0 && matches!(register.crm(), 1..=7)
}

/// What the guest reads in the ID register `register`, of which this PE says `host_value`. Reserved encodings read 0. The AArch32
/// registers are UNKNOWN on a machine without AArch32 at EL0 (`aarch32`), and read 0 there.
#[must_use]
pub fn emulate(register: SysReg, host_value: u64, shown: Shown, aarch32: bool) -> u64 {
    if let Some((_, mask)) = AARCH32.iter().find(|(known, _)| *known == register) {
        return if aarch32 { host_value & u64::from(*mask) } else { 0 };
    }
    let Some((_, fields)) = AARCH64.iter().find(|(known, _)| *known == register) else {
        return 0;
    };
    show_all(fields, host_value, shown)
}

/// The rules of all of a register's fields, each in the four bits of its field: what a table is built from.
#[derive(Clone, Copy, Debug)]
struct Rules {
    most: u64,
    signed: u64,
    fixed: u64,
    pauth: u64,
}

/// [`AARCH64`], folded.
static RULES: [(SysReg, Rules); AARCH64.len()] = {
    let mut rules = [(AARCH64[0].0, Rules::of(&[])); AARCH64.len()];
    let mut i = 0;
    while i < rules.len() {
        rules[i] = (AARCH64[i].0, Rules::of(AARCH64[i].1));
        i += 1;
    }
    rules
};

impl Rules {
    const fn of(mut fields: &[Field]) -> Self {
        let (mut most, mut signed, mut fixed, mut pauth) = (0, 0, 0, 0);
        while let [first, rest @ ..] = fields {
            match first.rule {
                Max(value) => most |= value << first.shift,
                Signed(value) => {
                    most |= value << first.shift;
                    signed |= 0xf << first.shift;
                }
                Fixed(value) => fixed |= value << first.shift,
                Pauth => pauth |= 0xf << first.shift,
            }
            fields = rest;
        }
        Self {
            most,
            signed,
            fixed,
            pauth,
        }
    }

    /// The register's value: [`show_all`] of its fields.
    const fn show(&self, host: u64, shown: Shown) -> u64 {
        const TOPS: u64 = 0x8888_8888_8888_8888;
        let negative = (host & self.signed & TOPS) >> 3;
        // All of a field's bits, and those of pointer authentication.
        let as_is = (negative * 0xf) | if shown.pauth { self.pauth } else { 0 };
        host & as_is | least(host, self.most) & !as_is | self.fixed
    }
}

/// The lesser of each four-bit field of `a` and `b`.
const fn least(a: u64, b: u64) -> u64 {
    const EVEN: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    const ABOVE: u64 = 0x1010_1010_1010_1010;
    const fn of_even(a: u64, b: u64) -> u64 {
        // The bit above a field stays where `b`'s is not less than `a`'s, and no borrow goes beyond it.
        let not_less = ((b | ABOVE) - a) & ABOVE;
        let first = not_less - (not_less >> 4);
        a & first | b & !first
    }
    of_even(a & EVEN, b & EVEN) | of_even(a >> 4 & EVEN, b >> 4 & EVEN) << 4
}

/// A register's value by the rules of its fields.
fn show_all(fields: &[Field], host: u64, shown: Shown) -> u64 {
    fields
        .iter()
        .fold(0, |value, f| value | show(f.rule, field(host, f.shift), shown) << f.shift)
}

/// One field's value.
fn show(rule: Rule, host: u64, shown: Shown) -> u64 {
    match rule {
        Max(most) => host.min(most),
        Signed(_) if host >= 8 => host,
        Signed(most) => host.min(most),
        Fixed(value) => value,
        Pauth if shown.pauth => host,
        Pauth => 0,
    }
}

/// Every ID register as one VM sees it, built once so that a trapped read is one look-up.
#[derive(Clone, Debug)]
pub struct IdTable {
    /// CRm 1 to 7, op2 0 to 7.
    values: [u64; 56],
}

impl IdTable {
    /// A table in which every register reads 0.
    pub const EMPTY: Self = Self { values: [0; 56] };

    /// The table of a VM that is shown `shown`. `read` performs the MRS of the registers it is asked for, all of them named in
    /// [`SysReg`]; it is not asked for the AArch32 ones on a machine without AArch32 at EL0.
    #[must_use]
    #[inline(never)] // A table of its own is made where it is to stay, and not copied byte by byte with what is around it.
    pub fn build(mut read: impl FnMut(SysReg) -> u64, shown: Shown) -> Self {
        let aarch32 = HostId {
            pfr0: read(SysReg::ID_AA64PFR0_EL1),
            ..HostId::NONE
        }
        .aarch32_el0();
        let mut table = Self::EMPTY;
        let mut set = |register, value| {
            if let Some(slot) = Self::index(register).and_then(|i| table.values.get_mut(i)) {
                *slot = value;
            }
        };
        for (register, rules) in &RULES {
            set(*register, rules.show(read(*register), shown));
        }
        if aarch32 {
            for (register, mask) in AARCH32 {
                set(*register, read(*register) & u64::from(*mask));
            }
        }
        table
    }

    /// What the guest reads; `None` when `register` is not in the ID space.
    #[must_use]
    pub fn get(&self, register: SysReg) -> Option<u64> {
        Self::index(register).and_then(|i| self.values.get(i)).copied()
    }

    /// What a guest reads whose trapped access has the syndrome `esr`, and into which general-purpose register; `None` when it is not a
    /// read of a register in the ID space.
    #[must_use]
    #[inline(always)]
    pub fn read(&self, esr: u64) -> Option<(u8, u64)> {
        const OP0_3: u32 = 3 << 20;
        const READ: u32 = 1;
        // Class, op0, op1, CRn and direction; CRm and op2 say which register.
        const MASK: u32 = 0x3F << 26 | 3 << 20 | 7 << 14 | 15 << 10 | 1;
        let esr = esr as u32;
        if esr & MASK != u32::from(ec::SYSREG) << 26 | OP0_3 | READ {
            return None;
        }
        let index = (esr << 2 & 0x78 | esr >> 17 & 7).wrapping_sub(8);
        let value = *self.values.get(index as usize)?;
        Some(((esr >> 5 & 31) as u8, value))
    }

    fn index(register: SysReg) -> Option<usize> {
        is_id(register).then(|| usize::from(register.crm() - 1) * 8 + usize::from(register.op2()))
    }
}

/// A register of the GIC CPU interface whose accesses trap, always or with `ICH_HCR_EL2.TC` or TDIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IccRegister {
    /// `ICC_SGI1R_EL1`, write only.
    Sgi1r,
    /// `ICC_ASGI1R_EL1`, write only.
    Asgi1r,
    /// `ICC_SGI0R_EL1`, write only.
    Sgi0r,
    /// `ICC_CTLR_EL1`.
    Ctlr,
    /// `ICC_PMR_EL1`.
    Pmr,
    /// `ICC_RPR_EL1`, read only.
    Rpr,
    /// `ICC_DIR_EL1`, write only.
    Dir,
}

/// A cache operation by set and way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetWay {
    /// DC ISW, which `HCR_EL2.SWIO` makes a clean too.
    Invalidate,
    /// DC CSW.
    Clean,
    /// DC CISW.
    CleanInvalidate,
}

/// What to do with a trapped system-register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysRegAction {
    /// A read of an ID register: [`IdTable::get`].
    Id,
    /// A read gives this value.
    Value(u64),
    /// A write changes nothing.
    Ignore,
    /// An access to the GIC CPU interface.
    Icc(IccRegister),
    /// An access to the physical timer.
    PhysicalTimer(Register),
    /// The first access to the debug registers since the vCPU came to its pCPU: to be made again, with them in hardware.
    Debug,
    /// Cache maintenance by set/way: answered by VA over the VM's RAM.
    SetWay(SetWay),
    /// The register does not exist for this guest.
    Undef,
}

/// Decides one trapped access.
#[must_use]
#[inline(always)]
pub fn classify(register: SysReg, read: bool) -> SysRegAction {
    if is_id(register) {
        return if read { SysRegAction::Id } else { SysRegAction::Undef };
    }
    match register.op0() {
        3 => interface(register, read),
        2 => debug(register, read),
        _ => set_way(register, read),
    }
}

/// `ACTLR_EL1` and the GIC; all the rest of op0 3 that traps is undefined: performance monitors, implementation-defined
/// registers, and what is hidden.
#[inline(always)]
const fn interface(register: SysReg, read: bool) -> SysRegAction {
    let icc = match (register, read) {
        (SysReg::ACTLR_EL1, _) => return raz_wi(read),
        (SysReg::CNTP_CTL_EL0, _) => return SysRegAction::PhysicalTimer(Register::Ctl),
        (SysReg::CNTP_CVAL_EL0, _) => return SysRegAction::PhysicalTimer(Register::Cval),
        (SysReg::CNTP_TVAL_EL0, _) => return SysRegAction::PhysicalTimer(Register::Tval),
        (SysReg::ICC_SGI1R_EL1, false) => IccRegister::Sgi1r,
        (SysReg::ICC_ASGI1R_EL1, false) => IccRegister::Asgi1r,
        (SysReg::ICC_SGI0R_EL1, false) => IccRegister::Sgi0r,
        (SysReg::ICC_CTLR_EL1, _) => IccRegister::Ctlr,
        (SysReg::ICC_PMR_EL1, _) => IccRegister::Pmr,
        (SysReg::ICC_RPR_EL1, true) => IccRegister::Rpr,
        (SysReg::ICC_DIR_EL1, false) => IccRegister::Dir,
        _ => return SysRegAction::Undef,
    };
    SysRegAction::Icc(icc)
}

const fn set_way(register: SysReg, read: bool) -> SysRegAction {
    match (register, read) {
        (SysReg::DC_ISW, false) => SysRegAction::SetWay(SetWay::Invalidate),
        (SysReg::DC_CSW, false) => SysRegAction::SetWay(SetWay::Clean),
        (SysReg::DC_CISW, false) => SysRegAction::SetWay(SetWay::CleanInvalidate),
        _ => SysRegAction::Undef,
    }
}

/// The other debug registers: what they read as, if they can be read, and whether a write is ignored. The OS lock is implemented
/// (OSLM = 0b10) and cannot be locked, the claim tags that exist read as ones, and no external debugger is at the other end of the
/// communications channel.
const DEBUG: [(SysReg, Option<u8>, bool); 15] = [
    (SysReg::OSLSR_EL1, Some(0b1000), false),
    (SysReg::OSLAR_EL1, None, true),
    (SysReg::MDRAR_EL1, Some(0), false),
    (SysReg::DBGAUTHSTATUS_EL1, Some(0), false),
    (SysReg::MDCCSR_EL0, Some(0), false),
    (SysReg::MDCCINT_EL1, Some(0), true),
    (SysReg::OSDTRRX_EL1, Some(0), true),
    (SysReg::OSDTRTX_EL1, Some(0), true),
    (SysReg::OSECCR_EL1, Some(0), true),
    (SysReg::OSDLR_EL1, Some(0), true),
    (SysReg::DBGPRCR_EL1, Some(0), true),
    (SysReg::DBGCLAIMSET_EL1, Some(0xff), true),
    (SysReg::DBGCLAIMCLR_EL1, Some(0), true),
    (SysReg::DBGDTR_EL0, Some(0), true),
    (SysReg::DBGDTRRX_EL0, Some(0), true),
];

/// `MDSCR_EL1`, breakpoints and watchpoints are the vCPU's own. Trace registers (op1 1) are undefined.
fn debug(register: SysReg, read: bool) -> SysRegAction {
    if register == SysReg::MDSCR_EL1 || is_breakpoint(register) {
        return SysRegAction::Debug;
    }
    match DEBUG.iter().find(|(known, ..)| *known == register) {
        Some((_, Some(value), _)) if read => SysRegAction::Value(u64::from(*value)),
        Some((_, _, true)) if !read => SysRegAction::Ignore,
        _ => SysRegAction::Undef,
    }
}

/// `DBGBVR<n>_EL1`, `DBGBCR<n>_EL1`, `DBGWVR<n>_EL1` and `DBGWCR<n>_EL1`. Those that the PE does not have are undefined without a trap.
const fn is_breakpoint(register: SysReg) -> bool {
    register.op1() == 0 && register.crn() == 0 && register.op2() >= 4
}

const fn raz_wi(read: bool) -> SysRegAction {
    if read { SysRegAction::Value(0) } else { SysRegAction::Ignore }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esr::SysRegAccess;

    const fn id(crm: u16, op2: u16) -> SysReg {
        SysReg::new(3, 0, 0, crm, op2)
    }
    fn shown(register: SysReg, host: u64) -> u64 {
        emulate(register, host, Shown::default(), true)
    }

    #[test]
    fn a_syndrome_reads_what_its_register_does() {
        let mut table = IdTable::EMPTY;
        for (n, value) in (1..).zip(table.values.iter_mut()) {
            *value = n;
        }
        let rts = [0, 7, 31];
        for rest in 0..1u32 << 17 {
            for rt in rts {
                let iss = rest & 0x1F | rt << 5 | rest >> 5 << 10;
                let access = SysRegAccess::decode(iss);
                let expected = table.get(access.register).filter(|_| access.read).map(|value| (access.rt, value));
                assert_eq!(table.read(0x18 << 26 | 1 << 25 | u64::from(iss)), expected, "{iss:#x}");
            }
            if cfg!(miri) && rest > 99 {
                break;
            }
        }
        assert_eq!(table.read(0x17 << 26 | 3 << 20 | 1 << 1 | 1), None);
    }

    #[test]
    fn nothing_that_is_not_listed_is_shown() {
        // Whatever the hardware says: of all registers in the space, these bits at most.
        let most = [
            (SysReg::ID_AA64PFR0_EL1, 0x1101_0000_01ff_0012),
            (SysReg::ID_AA64PFR1_EL1, 0x21),
            (SysReg::ID_AA64DFR0_EL1, 0x0000_00f0_f0f0_f008),
            (SysReg::ID_AA64ISAR0_EL1, 0x1221_1111_1031_2120),
            (SysReg::ID_AA64ISAR1_EL1, 0x0111_2211_0031_1002),
            (SysReg::ID_AA64ISAR2_EL1, 0x0011_0000_1010_0010),
            (SysReg::ID_AA64MMFR0_EL1, 0x1000_1111_ff11_0122),
            (SysReg::ID_AA64MMFR1_EL1, 0x1011_1020_0030_2002),
            (SysReg::ID_AA64MMFR2_EL1, 0x1001_0011_1011_0111),
        ];
        for crm in 4..8 {
            for op2 in 0..8 {
                let expected = most
                    .iter()
                    .find(|(register, _)| *register == id(crm, op2))
                    .map_or(0, |(_, value)| *value);
                assert_eq!(shown(id(crm, op2), u64::MAX), expected, "{}", id(crm, op2));
            }
        }
        for reserved in [id(3, 3), id(3, 7), SysReg::ID_AFR0_EL1, SysReg::ID_DFR1_EL1] {
            assert_eq!(shown(reserved, u64::MAX), 0, "{reserved}");
        }
    }

    #[test]
    fn el2_el3_sve_ras_amu_and_mpam_are_hidden_and_the_gic_is_shown() {
        // A Neoverse-like PFR0: CSV3, CSV2=2, DIT, AMU, MPAM, SEL2, SVE, RAS, no GIC, FP16, EL3 to EL0 (EL1 and EL0 with AArch32).
        let pfr0 = shown(SysReg::ID_AA64PFR0_EL1, 0x1201_1111_1011_2222);
        assert_eq!(pfr0, 0x1101_0000_0111_0012);
    }

    #[test]
    fn a_pe_without_floating_point_says_so() {
        let pfr0 = shown(SysReg::ID_AA64PFR0_EL1, 0x00ff_0011);
        assert_eq!(pfr0 >> 16 & 0xff, 0xff);
    }

    #[test]
    fn breakpoints_and_watchpoints_are_the_hardwares_and_pmu_and_trace_are_hidden() {
        // Cortex-A72: DebugVer 6, PMUVer 1, 6 breakpoints, 4 watchpoints, 2 contexts.
        assert_eq!(shown(SysReg::ID_AA64DFR0_EL1, 0x1030_5106), 0x0000_00f0_1030_5006);
    }

    #[test]
    fn pointer_authentication_is_shown_only_when_asked_for() {
        let (isar1, isar2) = (SysReg::ID_AA64ISAR1_EL1, SysReg::ID_AA64ISAR2_EL1);
        let (host1, host2) = (0x1100_0550, 0x0100_1100);
        assert_eq!((shown(isar1, host1), shown(isar2, host2)), (0, 0));
        let with = Shown { pauth: true };
        assert_eq!(emulate(isar1, host1, with, true), host1);
        assert_eq!(emulate(isar2, host2, with, true), host2);
    }

    #[test]
    fn the_physical_address_size_is_the_ipa_spaces_or_less() {
        for (host, expected) in [(0, 0), (1, 1), (2, 2), (4, 2), (5, 2), (6, 2)] {
            assert_eq!(shown(SysReg::ID_AA64MMFR0_EL1, host) & 0xf, expected);
        }
    }

    #[test]
    fn granules_lose_52_bit_addresses_and_missing_ones_stay_missing() {
        let granules = |host: u64| shown(SysReg::ID_AA64MMFR0_EL1, host) >> 20 & 0xfff;
        // 4 KiB and 16 KiB with LPA2, 64 KiB.
        assert_eq!(granules(0x1020_0000), 0x001);
        // None but 4 KiB.
        assert_eq!(granules(0x0f00_0000), 0x0f0);
        assert_eq!(granules(0xf000_0000), 0xf00);
    }

    #[test]
    fn aarch32_registers_are_shown_only_where_el0_can_use_them() {
        assert_eq!(
            emulate(SysReg::ID_PFR0_EL1, 0x1011_0131, Shown::default(), true),
            0x0001_0131,
            "RAS and AMU hidden"
        );
        assert_eq!(
            emulate(SysReg::ID_PFR1_EL1, 0x1001_1011, Shown::default(), true),
            0x0001_0001,
            "virtualization, security, GIC hidden"
        );
        assert_eq!(
            emulate(SysReg::ID_DFR0_EL1, 0x0301_0066, Shown::default(), true),
            6,
            "performance monitors and trace hidden"
        );
        for (register, _) in AARCH32 {
            assert_eq!(emulate(*register, u64::MAX, Shown::default(), false), 0);
            assert_eq!(emulate(*register, u64::MAX, Shown::default(), true) >> 32, 0);
        }
    }

    #[test]
    fn the_table_agrees_with_emulation_and_reads_only_named_registers() {
        // Every value of every field, positive and negative: sixteen machines, each with AArch32 at EL0.
        for (n, pauth) in (0..0x10).flat_map(|n| [(n, false), (n, true)]) {
            let host = |register: SysReg| match register {
                SysReg::ID_AA64PFR0_EL1 => 0x1111_1111_1111_1110_u64.wrapping_mul(n) | 2,
                _ => 0x0123_4567_89ab_cdef_u64.rotate_left(4 * n as u32) ^ u64::from(register.id()) << 33,
            };
            let shown = Shown { pauth };
            let table = IdTable::build(host, shown);
            for id in (0..=u16::MAX).step_by(if cfg!(miri) { 997 } else { 1 }) {
                let register = SysReg::from_id(id);
                let expected = is_id(register).then(|| emulate(register, host(register), shown, true));
                assert_eq!(table.get(register), expected, "{register} of machine {n}");
            }
        }
        let mut asked = Vec::new();
        let _ = IdTable::build(
            |register| {
                asked.push(register);
                0x11
            },
            Shown::default(),
        );
        assert!(asked.iter().all(|register| register.crm() >= 4), "no AArch32 at EL0: not asked for");
        assert_eq!(IdTable::EMPTY.get(SysReg::ID_AA64PFR0_EL1), Some(0));
    }

    #[test]
    fn host_features_come_from_their_registers() {
        let host = HostId::read(|register| u64::from(register.crm() * 8 + register.op2()));
        assert_eq!((host.pfr0, host.pfr1, host.dfr0), (32, 33, 40));
        assert_eq!((host.isar1, host.isar2, host.mmfr0, host.mmfr1), (49, 50, 56, 57));
        assert!(!HostId::NONE.pauth() && !HostId::NONE.mte() && !HostId::NONE.pmu());
        assert!(
            HostId {
                isar2: 1 << 12,
                ..HostId::NONE
            }
            .pauth()
        );
        assert!(
            HostId {
                isar1: 1 << 8,
                ..HostId::NONE
            }
            .pauth()
        );
        assert!(
            !HostId {
                dfr0: 0xf00,
                ..HostId::NONE
            }
            .pmu()
        );
        assert_eq!(HostId { mmfr0: 7, ..HostId::NONE }.pa_bits(), 48);
    }

    #[test]
    fn gic_accesses_have_a_direction() {
        use IccRegister::*;
        let cases = [
            (SysReg::ICC_SGI1R_EL1, None, Some(Sgi1r)),
            (SysReg::ICC_ASGI1R_EL1, None, Some(Asgi1r)),
            (SysReg::ICC_SGI0R_EL1, None, Some(Sgi0r)),
            (SysReg::ICC_CTLR_EL1, Some(Ctlr), Some(Ctlr)),
            (SysReg::ICC_PMR_EL1, Some(Pmr), Some(Pmr)),
            (SysReg::ICC_RPR_EL1, Some(Rpr), None),
            (SysReg::ICC_DIR_EL1, None, Some(Dir)),
        ];
        for (register, read, write) in cases {
            assert_eq!(classify(register, true), read.map_or(SysRegAction::Undef, SysRegAction::Icc));
            assert_eq!(classify(register, false), write.map_or(SysRegAction::Undef, SysRegAction::Icc));
        }
    }

    #[test]
    fn set_way_operations_are_named() {
        assert_eq!(classify(SysReg::DC_ISW, false), SysRegAction::SetWay(SetWay::Invalidate));
        assert_eq!(classify(SysReg::DC_CSW, false), SysRegAction::SetWay(SetWay::Clean));
        assert_eq!(classify(SysReg::DC_CISW, false), SysRegAction::SetWay(SetWay::CleanInvalidate));
        // DC IGSW, of memory tagging.
        assert_eq!(classify(SysReg::new(1, 0, 7, 6, 4), false), SysRegAction::Undef);
    }

    #[test]
    fn what_a_booting_kernel_does_with_debug_registers_works() {
        assert_eq!(classify(SysReg::OSLSR_EL1, true), SysRegAction::Value(8), "implemented, not locked");
        assert_eq!(classify(SysReg::OSLAR_EL1, false), SysRegAction::Ignore);
        assert_eq!(classify(SysReg::OSLAR_EL1, true), SysRegAction::Undef, "write only");
        assert_eq!(classify(SysReg::OSDLR_EL1, false), SysRegAction::Ignore);
        assert_eq!(classify(SysReg::MDCCINT_EL1, false), SysRegAction::Ignore, "no external debugger");
    }

    #[test]
    fn breakpoints_watchpoints_and_mdscr_are_the_vcpus_own() {
        for read in [true, false] {
            assert_eq!(classify(SysReg::MDSCR_EL1, read), SysRegAction::Debug);
            for (crm, op2) in (0..16).flat_map(|crm| (4..8).map(move |op2| (crm, op2))) {
                assert_eq!(classify(SysReg::new(2, 0, 0, crm, op2), read), SysRegAction::Debug);
                assert_eq!(classify(SysReg::new(2, 1, 0, crm, op2), read), SysRegAction::Undef, "trace");
            }
        }
    }

    #[test]
    fn everything_else_is_undefined() {
        let undefined = [
            SysReg::PMCR_EL0,
            SysReg::new(3, 0, 15, 0, 0),
            SysReg::new(3, 1, 11, 0, 0),
            SysReg::new(1, 0, 11, 0, 0),
            SysReg::new(2, 1, 0, 0, 0),
            SysReg::new(0, 0, 0, 0, 0),
        ];
        for register in undefined {
            assert_eq!(classify(register, true), SysRegAction::Undef, "{register}");
            assert_eq!(classify(register, false), SysRegAction::Undef, "{register}");
        }
    }

    #[cfg_attr(miri, ignore = "every encoding, which other tests sample")]
    #[test]
    fn few_encodings_are_defined_and_id_registers_are_read_only() {
        let mut defined = 0;
        for id in 0..=u16::MAX {
            let register = SysReg::from_id(id);
            defined += u32::from(classify(register, true) != SysRegAction::Undef || classify(register, false) != SysRegAction::Undef);
            if is_id(register) {
                assert_eq!(classify(register, true), SysRegAction::Id);
                assert_eq!(classify(register, false), SysRegAction::Undef);
            }
        }
        // 56 ID, 7 GIC, 3 physical timer, ACTLR, 3 set/way, 16 named debug registers and 64 of breakpoints and watchpoints.
        assert_eq!(defined, 56 + 7 + 3 + 1 + 3 + 16 + 64);
    }

    /// Arm's own description of each field: a name that does not exist there does not compile.
    #[cfg(not(any(loom, miri)))]
    #[test]
    fn fields_lie_where_arm_says() {
        use arm_sysregs::el1::registers::*;
        let arm: &[(SysReg, &str, u32)] = &[
            (SysReg::ID_AA64PFR0_EL1, "EL0", IdAa64pfr0El1::EL0_SHIFT),
            (SysReg::ID_AA64PFR0_EL1, "EL1", IdAa64pfr0El1::EL1_SHIFT),
            (SysReg::ID_AA64PFR0_EL1, "FP", IdAa64pfr0El1::FP_SHIFT),
            (SysReg::ID_AA64PFR0_EL1, "ADVSIMD", IdAa64pfr0El1::ADVSIMD_SHIFT),
            (SysReg::ID_AA64PFR0_EL1, "GIC", IdAa64pfr0El1::GIC_SHIFT),
            (SysReg::ID_AA64PFR0_EL1, "DIT", IdAa64pfr0El1::DIT_SHIFT),
            (SysReg::ID_AA64PFR0_EL1, "CSV2", IdAa64pfr0El1::CSV2_SHIFT),
            (SysReg::ID_AA64PFR0_EL1, "CSV3", IdAa64pfr0El1::CSV3_SHIFT),
            (SysReg::ID_AA64PFR1_EL1, "BT", IdAa64pfr1El1::BT_SHIFT),
            (SysReg::ID_AA64PFR1_EL1, "SSBS", IdAa64pfr1El1::SSBS_SHIFT),
            (SysReg::ID_AA64DFR0_EL1, "DEBUGVER", IdAa64dfr0El1::DEBUGVER_SHIFT),
            (SysReg::ID_AA64DFR0_EL1, "BRPS", IdAa64dfr0El1::BRPS_SHIFT),
            (SysReg::ID_AA64DFR0_EL1, "WRPS", IdAa64dfr0El1::WRPS_SHIFT),
            (SysReg::ID_AA64DFR0_EL1, "CTX_CMPS", IdAa64dfr0El1::CTX_CMPS_SHIFT),
            (SysReg::ID_AA64DFR0_EL1, "DOUBLELOCK", IdAa64dfr0El1::DOUBLELOCK_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "AES", IdAa64isar0El1::AES_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "SHA1", IdAa64isar0El1::SHA1_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "SHA2", IdAa64isar0El1::SHA2_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "CRC32", IdAa64isar0El1::CRC32_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "ATOMIC", IdAa64isar0El1::ATOMIC_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "RDM", IdAa64isar0El1::RDM_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "SHA3", IdAa64isar0El1::SHA3_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "SM3", IdAa64isar0El1::SM3_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "SM4", IdAa64isar0El1::SM4_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "DP", IdAa64isar0El1::DP_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "FHM", IdAa64isar0El1::FHM_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "TS", IdAa64isar0El1::TS_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "TLB", IdAa64isar0El1::TLB_SHIFT),
            (SysReg::ID_AA64ISAR0_EL1, "RNDR", IdAa64isar0El1::RNDR_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "DPB", IdAa64isar1El1::DPB_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "APA", IdAa64isar1El1::APA_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "API", IdAa64isar1El1::API_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "JSCVT", IdAa64isar1El1::JSCVT_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "FCMA", IdAa64isar1El1::FCMA_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "LRCPC", IdAa64isar1El1::LRCPC_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "GPA", IdAa64isar1El1::GPA_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "GPI", IdAa64isar1El1::GPI_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "FRINTTS", IdAa64isar1El1::FRINTTS_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "SB", IdAa64isar1El1::SB_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "SPECRES", IdAa64isar1El1::SPECRES_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "BF16", IdAa64isar1El1::BF16_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "DGH", IdAa64isar1El1::DGH_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "I8MM", IdAa64isar1El1::I8MM_SHIFT),
            (SysReg::ID_AA64ISAR1_EL1, "XS", IdAa64isar1El1::XS_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "RPRES", IdAa64isar2El1::RPRES_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "GPA3", IdAa64isar2El1::GPA3_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "APA3", IdAa64isar2El1::APA3_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "BC", IdAa64isar2El1::BC_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "PAC_FRAC", IdAa64isar2El1::PAC_FRAC_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "CLRBHB", IdAa64isar2El1::CLRBHB_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "RPRFM", IdAa64isar2El1::RPRFM_SHIFT),
            (SysReg::ID_AA64ISAR2_EL1, "CSSC", IdAa64isar2El1::CSSC_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "PARANGE", IdAa64mmfr0El1::PARANGE_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "ASIDBITS", IdAa64mmfr0El1::ASIDBITS_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "BIGEND", IdAa64mmfr0El1::BIGEND_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "BIGENDEL0", IdAa64mmfr0El1::BIGENDEL0_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "TGRAN16", IdAa64mmfr0El1::TGRAN16_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "TGRAN64", IdAa64mmfr0El1::TGRAN64_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "TGRAN4", IdAa64mmfr0El1::TGRAN4_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "TGRAN16_2", IdAa64mmfr0El1::TGRAN16_2_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "TGRAN64_2", IdAa64mmfr0El1::TGRAN64_2_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "TGRAN4_2", IdAa64mmfr0El1::TGRAN4_2_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "EXS", IdAa64mmfr0El1::EXS_SHIFT),
            (SysReg::ID_AA64MMFR0_EL1, "ECV", IdAa64mmfr0El1::ECV_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "HAFDBS", IdAa64mmfr1El1::HAFDBS_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "HPDS", IdAa64mmfr1El1::HPDS_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "PAN", IdAa64mmfr1El1::PAN_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "ETS", IdAa64mmfr1El1::ETS_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "AFP", IdAa64mmfr1El1::AFP_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "NTLBPA", IdAa64mmfr1El1::NTLBPA_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "TIDCP1", IdAa64mmfr1El1::TIDCP1_SHIFT),
            (SysReg::ID_AA64MMFR1_EL1, "ECBHB", IdAa64mmfr1El1::ECBHB_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "CNP", IdAa64mmfr2El1::CNP_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "UAO", IdAa64mmfr2El1::UAO_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "LSM", IdAa64mmfr2El1::LSM_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "VARANGE", IdAa64mmfr2El1::VARANGE_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "CCIDX", IdAa64mmfr2El1::CCIDX_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "ST", IdAa64mmfr2El1::ST_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "AT", IdAa64mmfr2El1::AT_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "IDS", IdAa64mmfr2El1::IDS_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "TTL", IdAa64mmfr2El1::TTL_SHIFT),
            (SysReg::ID_AA64MMFR2_EL1, "E0PD", IdAa64mmfr2El1::E0PD_SHIFT),
        ];
        let ours: Vec<_> = AARCH64
            .iter()
            .flat_map(|(register, fields)| fields.iter().map(|f| (*register, f.name, f.shift)))
            .collect();
        assert_eq!(ours, arm);
    }
}
