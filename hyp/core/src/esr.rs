//! What made a guest leave: `ESR_EL2`, decoded once.

use crate::put;
use crate::regs::cpu::{SCTLR_EL1, SPSR_EL2, SysReg};
use crate::text::{Shown, Sink, Value};
use crate::types::Ipa;

/// A syndrome, as `ESR_EL2` holds it. DDI 0487 ESR_EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Esr(u64);

impl Esr {
    /// The syndrome `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
    /// The register's value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
    /// Exception class, bits 31:26.
    #[must_use]
    pub const fn ec(self) -> u8 {
        (self.0 >> 26 & 0x3f) as u8
    }
    /// Whether the instruction was 32 bits long, bit 25.
    #[must_use]
    pub const fn il(self) -> bool {
        self.0 >> 25 & 1 != 0
    }
    /// Instruction-specific syndrome, bits 24:0.
    #[must_use]
    pub const fn iss(self) -> u32 {
        (self.0 & 0x1ff_ffff) as u32
    }
}

/// Exception classes, DDI 0487 ESR_EL2.EC.
pub mod ec {
    /// Unknown reason: an undefined instruction.
    pub const UNKNOWN: u8 = 0x00;
    /// WFI, WFE, WFIT or WFET.
    pub const WFX: u8 = 0x01;
    /// MCR or MRC of coprocessor 15, in AArch32.
    pub const CP15_32: u8 = 0x03;
    /// MCRR or MRRC of coprocessor 15, in AArch32.
    pub const CP15_64: u8 = 0x04;
    /// Advanced SIMD or floating point.
    pub const FP: u8 = 0x07;
    /// A pointer-authentication instruction or key.
    pub const PAUTH: u8 = 0x09;
    /// LD64B or ST64B.
    pub const LS64: u8 = 0x0a;
    /// A branch to something that is no landing pad.
    pub const BRANCH_TARGET: u8 = 0x0d;
    /// Illegal execution state.
    pub const ILLEGAL_STATE: u8 = 0x0e;
    /// MSRR, MRRS or a 128-bit system instruction.
    pub const SYSREG_128: u8 = 0x14;
    /// SVC.
    pub const SVC: u8 = 0x15;
    /// HVC.
    pub const HVC: u8 = 0x16;
    /// SMC.
    pub const SMC: u8 = 0x17;
    /// MSR, MRS or a system instruction.
    pub const SYSREG: u8 = 0x18;
    /// SVE.
    pub const SVE: u8 = 0x19;
    /// SME.
    pub const SME: u8 = 0x1d;
    /// Instruction abort from a lower EL.
    pub const INST_ABORT_LOWER: u8 = 0x20;
    /// Instruction abort from the same EL.
    pub const INST_ABORT_SAME: u8 = 0x21;
    /// PC alignment.
    pub const PC_ALIGN: u8 = 0x22;
    /// Data abort from a lower EL.
    pub const DATA_ABORT_LOWER: u8 = 0x24;
    /// Data abort from the same EL.
    pub const DATA_ABORT_SAME: u8 = 0x25;
    /// SP alignment.
    pub const SP_ALIGN: u8 = 0x26;
    /// A store to a guarded control stack, or another instruction of FEAT_GCS.
    pub const GCS: u8 = 0x2d;
    /// SError.
    pub const SERROR: u8 = 0x2f;
    /// BRK.
    pub const BRK: u8 = 0x3c;
}

/// Why the guest left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// HVC; the return address is already past it.
    Hvc {
        /// The instruction's immediate.
        imm: u16,
    },
    /// SMC; the return address is that of the SMC itself.
    Smc {
        /// The instruction's immediate.
        imm: u16,
    },
    /// MSR, MRS or a system instruction; from AArch32, an access to the physical timer.
    SysReg(SysRegAccess),
    /// A data access that faulted.
    DataAbort(Abort),
    /// An instruction fetch that faulted.
    InstAbort(Abort),
    /// A wait.
    Wfx(Wfx),
    /// SError.
    SError,
    /// SVC. Not routed to EL2 here.
    Svc {
        /// The instruction's immediate.
        imm: u16,
    },
    /// What the guest may not use, so that it is undefined for it: floating point when trapped, pointer authentication, SVE, SME,
    /// LD64B, 128-bit system registers, guarded control stacks, and every other access from AArch32 state.
    Hidden {
        /// The exception class.
        ec: u8,
    },
    /// Illegal execution state.
    IllegalState,
    /// PC alignment.
    PcAlign,
    /// SP alignment.
    SpAlign,
    /// Any other exception class.
    Other {
        /// The exception class.
        ec: u8,
    },
}

impl Trap {
    /// Decodes `ESR_EL2` after an exception from EL1 or EL0.
    #[must_use]
    pub const fn decode(esr: u64) -> Self {
        let esr = Esr::new(esr);
        let iss = esr.iss();
        match esr.ec() {
            ec::HVC => Self::Hvc { imm: iss as u16 },
            ec::SMC => Self::Smc { imm: iss as u16 },
            ec::SYSREG => Self::SysReg(SysRegAccess::decode(iss)),
            ec::DATA_ABORT_LOWER => Self::DataAbort(Abort { iss }),
            ec::INST_ABORT_LOWER => Self::InstAbort(Abort { iss }),
            ec::WFX => Self::Wfx(Wfx::decode(iss)),
            ec::SERROR => Self::SError,
            ec::SVC => Self::Svc { imm: iss as u16 },
            // The fields lie as in EC 0x18, but for op0; and op1, which is 3 for everything that EL0 can reach and EL2 traps.
            ec::CP15_32 => Self::SysReg(SysRegAccess::decode(iss | 3 << 20 | 3 << 14)),
            // CNTP_CVAL: p15, 2, c14. op1 is in bits 19:16, Rt2 in 14:10, CRm in 4:1.
            ec::CP15_64 if iss & 0xf_001e == 0x2_001c => Self::SysReg(SysRegAccess {
                high: (iss >> 10 & 31) as u8,
                ..SysRegAccess::decode(SysReg::CNTP_CVAL_EL0.to_iss() | iss & 0x3e1)
            }),
            // 0x04 to 0x06, 0x08, 0x0c, 0x11 to 0x13: coprocessor, LDC, VMRS, SVC, HVC and SMC of AArch32.
            // SYSREG_128 and GCS: HCRX_EL2.D128En and EnIDCP128, and HFGITR_EL2.nGCSSTR_EL1, are 0.
            ec @ (ec::FP
            | ec::PAUTH
            | ec::LS64
            | ec::SVE
            | ec::SME
            | ec::SYSREG_128
            | ec::GCS
            | ec::CP15_64..=0x06
            | 0x08
            | 0x0c
            | 0x11..=0x13) => Self::Hidden { ec },
            ec::ILLEGAL_STATE => Self::IllegalState,
            ec::PC_ALIGN => Self::PcAlign,
            ec::SP_ALIGN => Self::SpAlign,
            ec => Self::Other { ec },
        }
    }
}

/// A wait instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wfx {
    /// WFI.
    Wfi,
    /// WFE.
    Wfe,
    /// WFI with a timeout.
    Wfit,
    /// WFE with a timeout.
    Wfet,
}

impl Wfx {
    const fn decode(iss: u32) -> Self {
        match iss & 3 {
            0 => Self::Wfi,
            1 => Self::Wfe,
            2 => Self::Wfit,
            _ => Self::Wfet,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Wfi => "WFI",
            Self::Wfe => "WFE",
            Self::Wfit => "WFIT",
            Self::Wfet => "WFET",
        }
    }
}

/// A trapped system-register access or system instruction. DDI 0487 ESR_EL2, EC 0x18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysRegAccess {
    /// Which register.
    pub register: SysReg,
    /// The general-purpose register; 31 is XZR.
    pub rt: u8,
    /// That of the upper half, of a 64-bit register in AArch32; else 31.
    pub high: u8,
    /// MRS rather than MSR.
    pub read: bool,
}

impl SysRegAccess {
    /// `ESR_EL2` of a trapped write of `register` by XZR; the number of another general-purpose register is in bits 9:5.
    #[must_use]
    pub const fn write_syndrome(register: SysReg) -> u32 {
        (ec::SYSREG as u32) << 26 | 1 << 25 | register.to_iss()
    }

    /// The access with this ISS.
    #[must_use]
    pub const fn decode(iss: u32) -> Self {
        Self {
            register: SysReg::from_iss(iss),
            rt: (iss >> 5 & 31) as u8,
            high: 31,
            read: iss & 1 != 0,
        }
    }
}

/// The syndrome of an abort. DDI 0487 ESR_EL2, ISS encodings for a Data Abort and an Instruction Abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    iss: u32,
}

impl Abort {
    /// The abort with this ISS.
    #[must_use]
    pub const fn new(iss: u32) -> Self {
        Self { iss: iss & 0x1ff_ffff }
    }
    /// The whole ISS.
    #[must_use]
    pub const fn iss(self) -> u32 {
        self.iss
    }
    const fn bit(self, bit: u32) -> bool {
        self.iss >> bit & 1 != 0
    }
    /// Fault status code.
    #[must_use]
    pub const fn status(self) -> Fault {
        Fault::decode((self.iss & 0x3f) as u8)
    }
    /// The access was a write, or cache maintenance.
    #[must_use]
    pub const fn write(self) -> bool {
        self.bit(6)
    }
    /// Stage 2 faulted on the stage 1 walk, not on the access itself.
    #[must_use]
    pub const fn on_stage1_walk(self) -> bool {
        self.bit(7)
    }
    /// [`on_stage1_walk`](Self::on_stage1_walk) in words.
    const fn of_walk(self) -> &'static str {
        if self.on_stage1_walk() { ", on the stage 1 walk" } else { "" }
    }
    /// The access was cache maintenance or address translation.
    #[must_use]
    pub const fn cache_maintenance(self) -> bool {
        self.bit(8)
    }
    /// How the instruction accessed memory, if the syndrome tells.
    #[must_use]
    #[inline]
    pub const fn access(self) -> Option<MemAccess> {
        if !self.bit(24) {
            return None;
        }
        Some(MemAccess {
            size: self.size() as u8,
            sign_extend: self.bit(21),
            rt: self.rt(),
            sixty_four: self.bit(15),
            write: self.write(),
        })
    }
    /// The abort with syndrome `esr`, if it is the common one: a data abort by a load or store that stage 2 did not translate, so that `HPFAR_EL2` and `FAR_EL2` hold its
    /// IPA, and of a register that the syndrome describes, which a load does not extend the sign of.
    #[must_use]
    #[inline]
    pub const fn plain(esr: u64) -> Option<Self> {
        const CLASS: u32 = 0x3F << 26;
        const ISV: u32 = 1 << 24;
        const SIGN_EXTEND: u32 = 1 << 21;
        const CACHE_MAINTENANCE: u32 = 1 << 8;
        const STAGE1_WALK: u32 = 1 << 7;
        /// The fault status but for its level, and that of a translation fault.
        const STATUS: u32 = 0x3C;
        const TRANSLATION: u32 = 0x04;
        let esr = esr as u32;
        if esr & (CLASS | ISV | SIGN_EXTEND | CACHE_MAINTENANCE | STAGE1_WALK | STATUS)
            == (ec::DATA_ABORT_LOWER as u32) << 26 | ISV | TRANSLATION
        {
            Some(Self { iss: esr & 0x1ff_ffff })
        } else {
            None
        }
    }
    /// The general-purpose register; 31 is XZR. With a syndrome that has an [`access`](Self::access).
    #[must_use]
    #[inline]
    pub const fn rt(self) -> u8 {
        (self.iss >> 16 & 31) as u8
    }
    /// Bytes: 1, 2, 4 or 8. As [`rt`](Self::rt).
    #[must_use]
    #[inline]
    pub const fn size(self) -> u64 {
        1 << self.size_log2()
    }
    /// The logarithm of [`size`](Self::size).
    #[must_use]
    #[inline]
    pub const fn size_log2(self) -> u32 {
        self.iss >> 22 & 3
    }
    /// The page of the faulting IPA, where `HPFAR_EL2` holds it.
    #[must_use]
    #[inline]
    pub const fn page(self, hpfar: u64) -> u64 {
        // FIPA, bits 43:4, is IPA bits 51:12.
        (hpfar & 0x0fff_ffff_fff0) << 8
    }
    /// The faulting IPA of a [`plain`](Self::plain) one.
    #[must_use]
    #[inline(always)]
    pub const fn plain_ipa(hpfar: u64, far: u64) -> u64 {
        // FIPA, bits 43:4, is IPA bits 51:12; the bits above are 0.
        hpfar << 8 & !0xFFF | far & 0xFFF
    }
    /// Whether `HPFAR_EL2` holds this fault's IPA: for a translation, access-flag or address-size fault, and for any stage 2 fault on
    /// a stage 1 walk. Not for a permission fault on the access itself.
    #[must_use]
    pub const fn hpfar_valid(self) -> bool {
        match self.status() {
            Fault::Translation { .. } | Fault::AccessFlag { .. } | Fault::AddressSize { .. } => true,
            Fault::Permission { .. } => self.on_stage1_walk(),
            _ => false,
        }
    }
    /// The faulting IPA, from `HPFAR_EL2` and `FAR_EL2`. `None` when `HPFAR_EL2` does not hold it. For a fault on the stage 1 walk it
    /// is that of the page with the descriptor, since `FAR_EL2` is the address that was being translated.
    #[must_use]
    pub const fn ipa(self, hpfar: u64, far: u64) -> Option<Ipa> {
        if !self.hpfar_valid() {
            return None;
        }
        let page = self.page(hpfar);
        let offset = if self.on_stage1_walk() { 0 } else { far & 0xfff };
        Some(Ipa::new(page | offset))
    }
}

/// A load or store of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemAccess {
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// A load extends the sign.
    pub sign_extend: bool,
    /// The general-purpose register; 31 is XZR.
    pub rt: u8,
    /// The register is 64 bits wide.
    pub sixty_four: bool,
    /// A store.
    pub write: bool,
}

impl MemAccess {
    /// What a load puts into the register when the device answers `raw`. `big_endian` is the guest's data endianness at the access.
    #[must_use]
    #[inline(always)]
    pub const fn load(self, raw: u64, big_endian: bool) -> u64 {
        let raw = if big_endian { self.swap(raw) } else { raw };
        mmio_value(raw, self.size, self.sign_extend, self.sixty_four)
    }
    /// What a store of the register value `value` gives the device.
    #[must_use]
    #[inline(always)]
    pub const fn store(self, value: u64, big_endian: bool) -> u64 {
        let value = value & mask(self.size);
        if big_endian { self.swap(value) } else { value }
    }
    const fn swap(self, value: u64) -> u64 {
        match self.size {
            1 => value & 0xff,
            2 => (value as u16).swap_bytes() as u64,
            4 => (value as u32).swap_bytes() as u64,
            _ => value.swap_bytes(),
        }
    }
}

/// `PSTATE.SS`.
const SS: u64 = 1 << 21;

/// Where a guest goes on, and with which PSTATE, when the instruction at `pc` that trapped with `esr` has been done for it. As after
/// any instruction that was executed, PSTATE.BTYPE and PSTATE.SS are 0.
#[inline]
#[must_use]
pub const fn stepped_over(esr: Esr, pc: u64, pstate: u64) -> (u64, u64) {
    const BTYPE: u64 = 3 << 10;
    if pstate & SPSR_EL2::NRW::SET.value != 0 {
        return stepped_over_32(esr, pc, pstate);
    }
    (pc.wrapping_add(4), pstate & !(SS | BTYPE))
}

/// [`stepped_over`] in AArch32: a Thumb instruction may have 2 bytes, and PSTATE.IT says which of those that follow are executed.
/// DDI 0487, AArch32.ITAdvance: its upper three bits are the condition, and stay until the block ends.
const fn stepped_over_32(esr: Esr, pc: u64, pstate: u64) -> (u64, u64) {
    // IT[1:0] are bits 26:25, IT[7:2] are bits 15:10.
    const IT: u64 = 3 << 25 | 0x3F << 10;
    let it = pstate >> 25 & 3 | pstate >> 8 & 0xFC;
    let it = if it & 7 == 0 { 0 } else { it & 0xE0 | it << 1 & 0x1F };
    let length = if esr.il() { 4 } else { 2 };
    let pstate = pstate & !(SS | IT) | (it & 3) << 25 | (it & 0xFC) << 8;
    (pc.wrapping_add(length) & 0xFFFF_FFFF, pstate)
}

/// Whether the instruction that trapped with `esr` was to be executed: in AArch32 it may have trapped though its condition fails (DDI 0487
/// ESR_EL2, COND), and is then to be stepped over. With an exception class below 0x10, whose ISS has the condition.
#[must_use]
#[inline(never)]
pub const fn passes(esr: Esr, pstate: u64) -> bool {
    const VALID: u32 = 1 << 24;
    if pstate & SPSR_EL2::NRW::SET.value == 0 {
        return true;
    }
    let condition = match esr.iss() {
        iss if iss & VALID != 0 => iss >> 20 & 0xF,
        // IT[7:4] is the condition in an IT block, which always has something in IT[3:0]. Those are bits 11:10 and 26:25.
        _ if pstate & (3 << 10 | 3 << 25) != 0 => (pstate >> 12 & 0xF) as u32,
        _ => 0xE,
    };
    CONDITIONS[condition as usize] >> (pstate >> 28 & 0xF) & 1 != 0
}

/// For each condition, with which values of NZCV it holds. DDI 0487, ConditionHolds.
static CONDITIONS: [u16; 16] = {
    let mut conditions = [0; 16];
    let mut i = 0;
    while i < 256 {
        let (condition, flags) = (i >> 4, i & 0xF);
        let (n, z, c, v) = (flags & 8 != 0, flags & 4 != 0, flags & 2 != 0, flags & 1 != 0);
        let holds = match condition >> 1 {
            0 => z,
            1 => c,
            2 => n,
            3 => v,
            4 => c && !z,
            5 => n == v,
            6 => n == v && !z,
            _ => true,
        };
        if holds != (condition & 1 != 0 && condition != 0xF) {
            conditions[condition] |= 1 << flags;
        }
        i += 1;
    }
    conditions
};

/// Whether the guest's data accesses are big-endian: `SPSR_EL2` and `SCTLR_EL1` say so, and AArch32 at EL0 by its own PSTATE.E.
#[must_use]
#[inline]
pub const fn big_endian(pstate: u64, sctlr: u64) -> bool {
    const E: u64 = 1 << 9;
    if pstate & SPSR_EL2::NRW::SET.value != 0 {
        return pstate & E != 0;
    }
    let bit = if pstate & 0b1100 == 0 {
        SCTLR_EL1::E0E::SET.value
    } else {
        SCTLR_EL1::EE::SET.value
    };
    sctlr & bit != 0
}

/// Whether the guest's data accesses are little-endian wherever it runs, in A64.
#[must_use]
#[inline(always)]
pub const fn always_little_endian(sctlr: u64) -> bool {
    sctlr & (SCTLR_EL1::E0E::SET.value | SCTLR_EL1::EE::SET.value) == 0
}

/// Whether to go past an instruction is to add 4 to its address: it was an A64 one, and `PSTATE.BTYPE` and `PSTATE.SS` are 0
/// already.
#[must_use]
#[inline]
pub const fn is_plain(pstate: u64) -> bool {
    const SS: u64 = 1 << 21;
    const BTYPE: u64 = 3 << 10;
    pstate & (SPSR_EL2::NRW::SET.value | SS | BTYPE) == 0
}

/// Ones in the low `size` bytes.
const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// What a load of `size` bytes puts into the register: `raw` cut to `size`, its sign extended when `sign_extend`, cut to 32 bits unless
/// `sixty_four`.
#[must_use]
pub const fn mmio_value(raw: u64, size: u8, sign_extend: bool, sixty_four: bool) -> u64 {
    let value = match (sign_extend, size) {
        (true, 1) => raw as u8 as i8 as u64,
        (true, 2) => raw as u16 as i16 as u64,
        (true, 4) => raw as u32 as i32 as u64,
        _ => raw & mask(size),
    };
    if sixty_four { value } else { value & 0xffff_ffff }
}

/// A fault status code. DDI 0487 ESR_EL2, DFSC and IFSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An address is too large.
    AddressSize {
        /// Level of the walk.
        level: i8,
    },
    /// Nothing is mapped.
    Translation {
        /// Level of the walk.
        level: i8,
    },
    /// The access flag is clear.
    AccessFlag {
        /// Level of the walk.
        level: i8,
    },
    /// The mapping forbids it.
    Permission {
        /// Level of the walk.
        level: i8,
    },
    /// Synchronous external abort, not on a walk.
    External,
    /// Synchronous external abort on a walk.
    ExternalOnWalk {
        /// Level of the walk.
        level: i8,
    },
    /// Alignment.
    Alignment,
    /// TLB conflict.
    TlbConflict,
    /// An exclusive or atomic access to memory that does not support it.
    UnsupportedExclusive,
    /// Any other code.
    Other {
        /// The code.
        code: u8,
    },
}

impl Fault {
    /// Decodes the six bits of a fault status code.
    #[must_use]
    pub const fn decode(code: u8) -> Self {
        let level = (code & 3) as i8;
        match code & 0x3f {
            0x00..=0x03 => Self::AddressSize { level },
            0x04..=0x07 => Self::Translation { level },
            0x08..=0x0b => Self::AccessFlag { level },
            0x0c..=0x0f => Self::Permission { level },
            0x10 => Self::External,
            0x13 => Self::ExternalOnWalk { level: -1 },
            0x14..=0x17 => Self::ExternalOnWalk { level },
            0x21 => Self::Alignment,
            0x29 => Self::AddressSize { level: -1 },
            0x2b => Self::Translation { level: -1 },
            0x30 => Self::TlbConflict,
            0x35 => Self::UnsupportedExclusive,
            code => Self::Other { code },
        }
    }
    /// A translation fault, at any level.
    #[must_use]
    pub const fn is_translation(self) -> bool {
        matches!(self, Self::Translation { .. })
    }
    /// A permission fault, at any level.
    #[must_use]
    pub const fn is_permission(self) -> bool {
        matches!(self, Self::Permission { .. })
    }
    /// Level of the walk that faulted.
    #[must_use]
    pub const fn level(self) -> Option<i8> {
        match self {
            Self::AddressSize { level }
            | Self::Translation { level }
            | Self::AccessFlag { level }
            | Self::Permission { level }
            | Self::ExternalOnWalk { level } => Some(level),
            _ => None,
        }
    }
}

impl Shown for Fault {
    fn show(&self, f: &mut dyn Sink) {
        let (what, level) = match *self {
            Self::AddressSize { level } => ("address size fault", level),
            Self::Translation { level } => ("translation fault", level),
            Self::AccessFlag { level } => ("access flag fault", level),
            Self::Permission { level } => ("permission fault", level),
            Self::ExternalOnWalk { level } => ("synchronous external abort on a walk", level),
            Self::External => return f.words("synchronous external abort"),
            Self::Alignment => return f.words("alignment fault"),
            Self::TlbConflict => return f.words("TLB conflict"),
            Self::UnsupportedExclusive => return f.words("unsupported exclusive or atomic access"),
            Self::Other { code } => return put!(f, "fault status {:#04x}", code),
        };
        put!(f, "{}, level {}", what, i64::from(level));
    }
}

crate::shown!(Fault);

/// The name of an exception class.
#[must_use]
pub const fn ec_name(ec: u8) -> &'static str {
    match ec {
        ec::UNKNOWN => "unknown reason (undefined instruction)",
        ec::WFX => "WFI or WFE",
        0x03..=0x06 | 0x08 | 0x0c => "AArch32 coprocessor access",
        ec::FP => "floating point or Advanced SIMD",
        ec::PAUTH => "pointer authentication",
        ec::LS64 => "LD64B or ST64B",
        ec::BRANCH_TARGET => "branch target",
        ec::ILLEGAL_STATE => "illegal execution state",
        0x11..=0x13 => "AArch32 SVC, HVC or SMC",
        ec::SVC => "SVC",
        ec::HVC => "HVC",
        ec::SMC => "SMC",
        ec::SYSREG => "system register or instruction",
        ec::SVE => "SVE",
        ec::SME => "SME",
        ec::INST_ABORT_LOWER => "instruction abort from a lower EL",
        ec::INST_ABORT_SAME => "instruction abort from the same EL",
        ec::PC_ALIGN => "PC alignment",
        ec::DATA_ABORT_LOWER => "data abort from a lower EL",
        ec::DATA_ABORT_SAME => "data abort from the same EL",
        ec::SP_ALIGN => "SP alignment",
        ec::SERROR => "SError",
        0x30..=0x35 => "breakpoint, step or watchpoint",
        ec::BRK => "BRK",
        _ => "reserved or unexpected class",
    }
}

/// In words: the class, then what its ISS says.
impl Shown for Esr {
    fn show(&self, f: &mut dyn Sink) {
        let (ec, iss) = (self.ec(), self.iss());
        put!(f, "EC {:#04x} {}, ", ec, ec_name(ec));
        match ec {
            ec::HVC | ec::SMC | ec::SVC | ec::BRK => put!(f, "immediate {:#x}", iss as u16),
            ec::WFX => put!(f, "{}", Wfx::decode(iss).name()),
            ec::SYSREG => {
                let access = SysRegAccess::decode(iss);
                let how = if access.read { "read" } else { "write" };
                put!(f, "{} of {}, x{}", how, Value::Of(&access.register), access.rt);
            }
            ec::INST_ABORT_LOWER | ec::INST_ABORT_SAME => {
                let abort = Abort { iss };
                put!(f, "{}{}", Value::Of(&abort.status()), abort.of_walk());
            }
            ec::DATA_ABORT_LOWER | ec::DATA_ABORT_SAME => data_abort(Abort { iss }, f),
            _ => put!(f, "ISS {:#x}", iss),
        }
    }
}

crate::shown!(Esr);

fn data_abort(abort: Abort, f: &mut dyn Sink) {
    put!(
        f,
        "{}, {}{}{}, ",
        Value::Of(&abort.status()),
        if abort.write() { "write" } else { "read" },
        abort.of_walk(),
        if abort.cache_maintenance() { ", cache maintenance" } else { "" }
    );
    match abort.access() {
        Some(a) => {
            let (width, sign) = (if a.sixty_four { "x" } else { "w" }, if a.sign_extend { ", signed" } else { "" });
            put!(f, "{} bytes, {}{}{}", a.size, width, a.rt, sign);
        }
        None => f.words("no instruction syndrome (ISV=0)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idreg::{self, SysRegAction};

    const fn esr(ec: u8, iss: u32) -> u64 {
        (ec as u64) << 26 | 1 << 25 | iss as u64
    }

    #[test]
    fn a_write_of_a_register_is_what_decoding_says() {
        for iss in (0..1 << 22).step_by(if cfg!(miri) { 1021 } else { 1 }) {
            let decoded = SysRegAccess::decode(iss);
            let differs = (0x18 << 26 | 1 << 25 | iss) ^ SysRegAccess::write_syndrome(SysReg::ICC_SGI1R_EL1);
            assert_eq!(
                (differs & !(31 << 5) == 0).then_some((differs >> 5) as u8),
                (decoded.register == SysReg::ICC_SGI1R_EL1 && !decoded.read).then_some(decoded.rt),
                "{iss:#x}"
            );
        }
    }

    #[test]
    fn a_plain_access_is_one_that_the_careful_way_takes_for_a_device() {
        for iss in (0..1u32 << 25).step_by(if cfg!(miri) { 4999 } else { 1 }) {
            let abort = Abort::new(iss);
            assert_eq!(Abort::plain(0x25 << 26 | u64::from(iss)), None);
            let plain = Abort::plain(0x24 << 26 | 1 << 25 | u64::from(iss));
            let careful = abort.access().filter(|access| {
                !access.sign_extend
                    && !abort.cache_maintenance()
                    && !abort.on_stage1_walk()
                    && matches!(abort.status(), Fault::Translation { level: 0..=3 })
            });
            assert_eq!(plain, careful.map(|_| abort), "{iss:#x}");
            if let Some(access) = careful {
                assert_eq!(
                    (access.rt, u64::from(access.size), access.write),
                    (abort.rt(), abort.size(), abort.write())
                );
                for (hpfar, far) in [(0x0123_4567_89a0, 0xffff_0def), (0xfff_ffff_fff0, u64::MAX), (0x9_000f, 0)] {
                    assert_eq!(abort.ipa(hpfar, far), Some(Ipa::new(Abort::plain_ipa(hpfar, far))));
                }
            }
        }
    }

    #[test]
    fn an_instruction_that_was_done_is_stepped_over() {
        let (long, short) = (Esr::new(1 << 25), Esr::new(0));
        // AArch64: single step and the branch type are over, flags and mode stay.
        assert_eq!(stepped_over(long, 0x1000, 0x6020_0C05), (0x1004, 0x6000_0005));
        assert_eq!(stepped_over(long, u64::MAX - 3, 5), (0, 5));
        // A32: PSTATE.IT is 0; PSTATE.GE and E stay. Addresses have 32 bits.
        assert_eq!(stepped_over(long, 0xFFFF_FFFC, 0x002F_0210), (0, 0x000F_0210));
        // T32 outside of an IT block, and with a short instruction.
        assert_eq!(stepped_over(long, 0x2002, 0x30), (0x2006, 0x30));
        assert_eq!(stepped_over(short, 0x2002, 0x30), (0x2004, 0x30));
    }

    #[test]
    fn an_instruction_whose_condition_fails_was_not_to_be_executed() {
        let (a32, t32) = (0x10, 0x30);
        let with = |cond: u32| Esr::new(esr(0x03, 1 << 24 | cond << 20));
        let flags = |n: u64, z: u64, c: u64, v: u64| n << 31 | z << 30 | c << 29 | v << 28;
        // (condition, flags with which it holds, flags with which it does not)
        let cases = [
            (0x0, flags(0, 1, 0, 0), flags(1, 0, 1, 1)),
            (0x1, flags(1, 0, 1, 1), flags(0, 1, 0, 0)),
            (0x2, flags(0, 0, 1, 0), flags(1, 1, 0, 1)),
            (0x3, flags(1, 1, 0, 1), flags(0, 0, 1, 0)),
            (0x4, flags(1, 0, 0, 0), flags(0, 1, 1, 1)),
            (0x5, flags(0, 1, 1, 1), flags(1, 0, 0, 0)),
            (0x6, flags(0, 0, 0, 1), flags(1, 1, 1, 0)),
            (0x7, flags(1, 1, 1, 0), flags(0, 0, 0, 1)),
            (0x8, flags(0, 0, 1, 0), flags(0, 1, 1, 0)),
            (0x9, flags(0, 1, 1, 0), flags(0, 0, 1, 0)),
            (0xa, flags(1, 0, 0, 1), flags(1, 0, 0, 0)),
            (0xb, flags(0, 0, 0, 1), flags(1, 0, 0, 1)),
            (0xc, flags(1, 0, 0, 1), flags(1, 1, 0, 1)),
            (0xd, flags(1, 1, 0, 1), flags(0, 0, 0, 0)),
        ];
        for (condition, holds, fails) in cases {
            assert!(passes(with(condition), holds | a32), "{condition:#x}");
            assert!(!passes(with(condition), fails | a32), "{condition:#x}");
            assert!(passes(with(condition), fails), "A64 has no condition");
            // T32 without a valid COND: by PSTATE.IT, in the block's last place and before it.
            for it in [u64::from(condition) << 4 | 8, u64::from(condition) << 4 | 1] {
                let it = (it & 3) << 25 | (it >> 2) << 10;
                assert!(passes(Esr::new(esr(0x03, 0)), holds | it | t32), "{condition:#x}");
                assert!(!passes(Esr::new(esr(0x03, 0)), fails | it | t32), "{condition:#x}");
            }
        }
        for nzcv in 0..16 {
            assert!(passes(with(0xe), nzcv << 28 | a32) && passes(with(0xf), nzcv << 28 | a32));
            assert!(passes(Esr::new(esr(0x03, 0)), nzcv << 28 | t32), "no IT block");
        }
    }

    #[test]
    fn an_it_block_goes_on_behind_an_instruction_that_was_done() {
        let spsr = |it: u64| 0x30 | (it & 3) << 25 | (it >> 2) << 10;
        let next = |it: u64| stepped_over(Esr::new(0), 0x2000, spsr(it)).1;
        // ITTEE EQ: four instructions, the condition's lowest bit in turn 0, 0, 1, 1; then none.
        for (it, after) in [
            (0b000_00111, 0b000_01110),
            (0b000_01110, 0b000_11100),
            (0b000_11100, 0b000_11000),
            (0b000_11000, 0),
        ] {
            assert_eq!(next(it), spsr(after), "{it:#010b}");
        }
        // IT GT: one instruction.
        assert_eq!(next(0b110_01000), spsr(0));
        assert_eq!(next(0), spsr(0));
        for it in 0..=0xFF {
            let after = next(it);
            assert_eq!(after & !spsr(0xFF), 0);
            assert!(after == spsr(0) || it & 7 != 0, "{it:#010b}");
        }
    }

    #[test]
    fn hvc_and_smc_carry_their_immediate() {
        assert_eq!(Trap::decode(esr(0x16, 0x1234)), Trap::Hvc { imm: 0x1234 });
        assert_eq!(Trap::decode(esr(0x17, 0xffff)), Trap::Smc { imm: 0xffff });
    }

    #[test]
    fn a_trapped_icc_ctlr_access_gives_register_direction_and_rt() {
        let read = SysRegAccess {
            register: SysReg::ICC_CTLR_EL1,
            rt: 1,
            high: 31,
            read: true,
        };
        let write = SysRegAccess {
            register: SysReg::ICC_CTLR_EL1,
            rt: 2,
            high: 31,
            read: false,
        };
        assert_eq!(Trap::decode(0x6238_3039), Trap::SysReg(read));
        assert_eq!(Trap::decode(0x6238_3058), Trap::SysReg(write));
    }

    #[test]
    fn the_four_waits_are_told_apart() {
        for (ti, wfx) in [Wfx::Wfi, Wfx::Wfe, Wfx::Wfit, Wfx::Wfet].into_iter().enumerate() {
            assert_eq!(Trap::decode(esr(1, ti as u32)), Trap::Wfx(wfx));
        }
    }

    #[test]
    fn every_class_decodes_and_aarch32_and_hidden_features_are_undefined() {
        for ec in 0..64 {
            let trap = Trap::decode(esr(ec, 0));
            let hidden = matches!(ec, 0x04..=0x0a | 0x0c | 0x11..=0x14 | 0x19 | 0x1d | 0x2d);
            assert_eq!(matches!(trap, Trap::Hidden { .. }), hidden, "{ec:#x}: {trap:?}");
        }
        assert_eq!(Trap::decode(esr(0x2f, 0)), Trap::SError);
        assert_eq!(Trap::decode(esr(0x0e, 0)), Trap::IllegalState);
        assert_eq!(Trap::decode(esr(0x22, 0)), Trap::PcAlign);
        assert_eq!(Trap::decode(esr(0x26, 0)), Trap::SpAlign);
        assert_eq!(Trap::decode(esr(0x15, 7)), Trap::Svc { imm: 7 });
        assert_eq!(Trap::decode(esr(0x3d, 0)), Trap::Other { ec: 0x3d });
    }

    #[test]
    fn the_physical_timer_is_there_in_aarch32_and_no_other_register_that_traps() {
        // DDI 0487 ESR_EL2, EC 0x03: CV, COND, opc2 19:17, opc1 16:14, CRn 13:10, Rt 9:5, CRm 4:1, direction.
        let cp15 = |opc1: u32, crn: u32, crm: u32, opc2: u32| 0x1e << 20 | opc2 << 17 | opc1 << 14 | crn << 10 | 12 << 5 | crm << 1;
        for (opc2, register) in [(0, SysReg::CNTP_TVAL_EL0), (1, SysReg::CNTP_CTL_EL0)] {
            for read in [false, true] {
                let access = SysRegAccess {
                    register,
                    rt: 12,
                    high: 31,
                    read,
                };
                assert_eq!(
                    Trap::decode(esr(0x03, cp15(0, 14, 2, opc2) | u32::from(read))),
                    Trap::SysReg(access)
                );
            }
        }
        // c14, c2, 2 is CNTP_CVAL in A64 and no register here: undefined without a trap.
        for n in (0..1 << 11).filter(|n| *n != 14 | 2 << 4 | 2 << 8) {
            let (crn, crm, opc2) = (n & 15, n >> 4 & 15, n >> 8);
            let Trap::SysReg(access) = Trap::decode(esr(0x03, cp15(0, crn, crm, opc2))) else {
                panic!("{n:#x}");
            };
            assert_eq!(
                idreg::classify(access.register, access.read) != SysRegAction::Undef,
                (crn, crm, opc2 & 6) == (14, 2, 0),
                "{n:#x}"
            );
        }
        // EC 0x04: CV, COND, opc1 19:16, Rt2 14:10, Rt 9:5, CRm 4:1, direction.
        for n in 0..1 << 8 {
            let (opc1, crm) = (n & 15, n >> 4);
            let trap = Trap::decode(esr(0x04, 0x1e << 20 | opc1 << 16 | 9 << 10 | 5 << 5 | crm << 1 | 1));
            let cval = Trap::SysReg(SysRegAccess {
                register: SysReg::CNTP_CVAL_EL0,
                rt: 5,
                high: 9,
                read: true,
            });
            let expected = if (opc1, crm) == (2, 14) { cval } else { Trap::Hidden { ec: 0x04 } };
            assert_eq!(trap, expected, "{n:#x}");
        }
    }

    #[test]
    fn a_data_abort_gives_the_access_only_with_isv() {
        // ldrsh w3: ISV, SAS 01, SSE, SRT 3, SF 0, translation fault level 2.
        let Trap::DataAbort(abort) = Trap::decode(esr(0x24, 1 << 24 | 1 << 22 | 1 << 21 | 3 << 16 | 0x06)) else {
            panic!("a data abort");
        };
        assert_eq!(
            abort.access(),
            Some(MemAccess {
                size: 2,
                sign_extend: true,
                rt: 3,
                sixty_four: false,
                write: false
            })
        );
        assert_eq!(abort.status(), Fault::Translation { level: 2 });
        // str x30: SAS 11, SF, WnR.
        let store = Abort::new(1 << 24 | 3 << 22 | 30 << 16 | 1 << 15 | 1 << 6 | 0x07);
        assert_eq!(
            store.access(),
            Some(MemAccess {
                size: 8,
                sign_extend: false,
                rt: 30,
                sixty_four: true,
                write: true
            })
        );
        assert_eq!(Abort::new(store.iss() & !(1 << 24)).access(), None);
    }

    #[test]
    fn a_load_is_cut_extended_and_cut_again() {
        assert_eq!(mmio_value(0x1_2380, 1, false, true), 0x80);
        assert_eq!(mmio_value(0x1_2380, 1, true, true), 0xffff_ffff_ffff_ff80);
        assert_eq!(mmio_value(0x1_2380, 1, true, false), 0xffff_ff80);
        assert_eq!(mmio_value(0xffff_8000, 2, true, false), 0xffff_8000);
        assert_eq!(mmio_value(0x8000_0000, 4, true, true), 0xffff_ffff_8000_0000);
        assert_eq!(mmio_value(0x8000_0000, 4, false, true), 0x8000_0000);
        assert_eq!(mmio_value(u64::MAX, 8, false, true), u64::MAX);
        assert_eq!(mmio_value(u64::MAX, 4, false, false), 0xffff_ffff);
    }

    #[test]
    fn a_big_endian_guest_sees_its_bytes_swapped() {
        let word = MemAccess {
            size: 4,
            sign_extend: false,
            rt: 0,
            sixty_four: false,
            write: false,
        };
        assert_eq!(word.load(0x1122_3344, true), 0x4433_2211);
        assert_eq!(word.store(0xaa_1122_3344, true), 0x4433_2211);
        assert_eq!(word.store(0xaa_1122_3344, false), 0x1122_3344);
        let byte = MemAccess { size: 1, ..word };
        assert_eq!(byte.store(0x141, true), 0x41);
        let half = MemAccess {
            size: 2,
            sign_extend: true,
            sixty_four: true,
            ..word
        };
        assert_eq!(half.load(0x00ff, true), 0xffff_ffff_ffff_ff00);
    }

    #[test]
    fn endianness_is_that_of_the_level_and_state_that_accessed() {
        let (e0e, ee) = (1 << 24, 1 << 25);
        assert!(big_endian(0x3c5, ee) && !big_endian(0x3c5, e0e), "EL1h");
        assert!(big_endian(0x3c4, ee) && !big_endian(0x3c4, e0e), "EL1t");
        assert!(big_endian(0x3c0, e0e) && !big_endian(0x3c0, ee), "EL0");
        assert!(big_endian(0x210, 0) && !big_endian(0x010, ee | e0e), "AArch32");
        for (pstate, sctlr) in [0x3c5, 0x3c4, 0x3c0]
            .into_iter()
            .flat_map(|p| [0, e0e, ee, e0e | ee].map(|s| (p, s | 5)))
        {
            assert!(
                is_plain(pstate) && !(always_little_endian(sctlr) && big_endian(pstate, sctlr)),
                "{sctlr:#x}"
            );
        }
        assert!(always_little_endian(!(e0e | ee)));
    }

    #[test]
    fn hpfar_and_far_make_the_ipa() {
        // GICD at 0x0800_0104 reached through VA 0xffff_0000_0000_1104.
        let translation = Abort::new(0x07);
        assert_eq!(
            translation.ipa(0x0800_0000 >> 8, 0xffff_0000_0000_1104),
            Some(Ipa::new(0x0800_0104))
        );
        // All of FIPA, and nothing of NS or RES0.
        assert_eq!(translation.ipa(u64::MAX, 0), Some(Ipa::new(0x000f_ffff_ffff_f000)));
        let on_walk = Abort::new(1 << 7 | 0x07);
        assert_eq!(on_walk.ipa(0x0800_0000 >> 8, 0x1104), Some(Ipa::new(0x0800_0000)));
    }

    #[test]
    fn hpfar_says_nothing_about_a_permission_fault_on_the_access() {
        assert_eq!(Abort::new(0x0f).ipa(0x1230, 0), None);
        assert!(Abort::new(1 << 7 | 0x0f).ipa(0x1230, 0).is_some());
        assert_eq!(Abort::new(0x10).ipa(0x1230, 0), None, "an external abort");
    }

    #[test]
    fn fault_status_codes_tell_kind_and_level() {
        for level in 0..4u8 {
            assert_eq!(Fault::decode(0x04 | level).level(), Some(level as i8));
            assert!(Fault::decode(0x04 | level).is_translation());
            assert!(Fault::decode(0x0c | level).is_permission());
        }
        assert_eq!(Fault::decode(0x2b), Fault::Translation { level: -1 });
        assert_eq!(Fault::decode(0x10), Fault::External);
        assert_eq!(Fault::decode(0x21).level(), None);
        for code in 0..=255 {
            assert!(!Fault::decode(code).to_string().is_empty());
        }
    }

    #[test]
    fn a_class_is_named_by_its_number() {
        // DDI 0487, ESR_ELx.EC.
        let named = [
            (0x00, "unknown reason"),
            (0x01, "WFI or WFE"),
            (0x03, "AArch32"),
            (0x06, "AArch32"),
            (0x07, "floating point"),
            (0x08, "AArch32"),
            (0x09, "pointer authentication"),
            (0x0a, "LD64B"),
            (0x0c, "AArch32"),
            (0x0d, "branch target"),
            (0x0e, "illegal execution state"),
            (0x11, "AArch32"),
            (0x13, "AArch32"),
            (0x15, "SVC"),
            (0x16, "HVC"),
            (0x17, "SMC"),
            (0x18, "system register"),
            (0x19, "SVE"),
            (0x1d, "SME"),
            (0x20, "instruction abort from a lower EL"),
            (0x21, "instruction abort from the same EL"),
            (0x22, "PC alignment"),
            (0x24, "data abort from a lower EL"),
            (0x25, "data abort from the same EL"),
            (0x26, "SP alignment"),
            (0x2f, "SError"),
            (0x30, "breakpoint"),
            (0x35, "breakpoint"),
            (0x3c, "BRK"),
        ];
        for (ec, name) in named {
            assert!(ec_name(ec).starts_with(name), "{ec:#x}: {}", ec_name(ec));
        }
        for reserved in [0x02, 0x0b, 0x0f, 0x14, 0x23, 0x36, 0x3f] {
            assert!(ec_name(reserved).starts_with("reserved"), "{reserved:#x}");
        }
    }

    #[test]
    fn a_fault_is_said_with_its_level() {
        // DDI 0487, ESR_ELx.DFSC.
        for (code, text) in [
            (0x00, "address size fault, level 0"),
            (0x07, "translation fault, level 3"),
            (0x2b, "translation fault, level -1"),
            (0x09, "access flag fault, level 1"),
            (0x0e, "permission fault, level 2"),
        ] {
            assert_eq!(Fault::decode(code).to_string(), text, "{code:#x}");
        }
        for (code, text) in [(0x10, "external"), (0x21, "alignment"), (0x30, "TLB conflict"), (0x35, "exclusive")] {
            assert!(Fault::decode(code).to_string().contains(text), "{code:#x}: {}", Fault::decode(code));
        }
        assert_eq!(Fault::decode(0x3f).to_string(), "fault status 0x3f");
    }

    #[test]
    fn a_syndrome_says_what_its_class_has() {
        let said = |ec, iss| {
            let text = Esr::new(esr(ec, iss)).to_string();
            text.split_once(", ").expect("a class, and more").1.to_owned()
        };
        for ec in [0x15, 0x16, 0x17, 0x3c] {
            assert_eq!(said(ec, 0x1f_1234), "immediate 0x1234", "{ec:#x}");
        }
        assert_eq!(said(0x01, 0), Wfx::Wfi.name());
        assert_eq!(said(0x01, 3), Wfx::Wfet.name());
        assert_eq!(said(0x18, 0x38_3058), "write of S3_0_C12_C12_4, x2");
        for ec in [0x20, 0x21] {
            assert!(said(ec, 0x07).starts_with("translation fault, level 3"), "{ec:#x}");
        }
        for ec in [0x24, 0x25] {
            assert_eq!(said(ec, 0x06), "translation fault, level 2, read, no instruction syndrome (ISV=0)");
        }
        // A store of x30, eight bytes; a cache operation; ldrsh w3.
        assert!(said(0x24, 1 << 24 | 3 << 22 | 30 << 16 | 1 << 15 | 1 << 6 | 0x07).ends_with("write, 8 bytes, x30"));
        assert!(said(0x24, 1 << 8 | 1 << 6 | 0x07).contains("write, cache maintenance"));
        assert!(said(0x24, 1 << 24 | 1 << 22 | 1 << 21 | 3 << 16 | 0x07).ends_with("read, 2 bytes, w3, signed"));
        assert_eq!(said(0x2f, 0x12), "ISS 0x12");
    }

    #[test]
    fn a_syndrome_reads_as_a_sentence() {
        let text = Esr::new(esr(0x24, 1 << 24 | 2 << 22 | 3 << 16 | 1 << 6 | 0x05)).to_string();
        assert_eq!(
            text,
            "EC 0x24 data abort from a lower EL, translation fault, level 1, write, 4 bytes, w3"
        );
        let text = Esr::new(0x6238_3039).to_string();
        assert_eq!(text, "EC 0x18 system register or instruction, read of S3_0_C12_C12_4, x1");
        for ec in 0..64 {
            assert!(Esr::new(esr(ec, 0x1ff_ffff)).to_string().len() > 8);
        }
    }
}
