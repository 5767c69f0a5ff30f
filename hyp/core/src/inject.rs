//! Exceptions that EL2 gives a guest, whole, as hardware would have taken them; and when to give up instead.

use crate::esr::{Abort, ec};
use crate::idreg::HostId;
use crate::regs::cpu::{SCTLR_EL1, SPSR_EL2};

/// Where the guest was when it trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// Address of the instruction: `ELR_EL2`, less 4 after an HVC.
    pub pc: u64,
    /// `SPSR_EL2`.
    pub pstate: u64,
}

/// What of EL1's state decides how it takes an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// `VBAR_EL1`.
    pub vbar: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
    /// Which PSTATE bits the PE has.
    pub features: PstateFeatures,
}

/// PSTATE bits that taking an exception changes, where the PE has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PstateFeatures {
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
    /// FEAT_MTE: PSTATE.TCO exists, whether or not the guest is shown the feature.
    pub mte: bool,
    /// FEAT_NMI: PSTATE.ALLINT exists, whether or not the guest is shown the feature.
    pub nmi: bool,
}

impl PstateFeatures {
    /// What this machine has.
    #[must_use]
    pub const fn of(host: &HostId) -> Self {
        Self {
            pan: host.pan(),
            ssbs: host.ssbs(),
            mte: host.mte(),
            nmi: host.nmi(),
        }
    }
}

/// An exception for EL1: what to write before the return to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`; `None` leaves it alone.
    pub far: Option<u64>,
    /// `ELR_EL1`.
    pub elr: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
    /// `ELR_EL2`: the vector.
    pub pc: u64,
    /// `SPSR_EL2`: PSTATE at the vector.
    pub pstate: u64,
}

/// An undefined instruction: EC 0, with IL. DDI 0487 ESR_EL1, "Unknown reason".
#[must_use]
pub const fn undef(from: Interrupted, target: Target) -> Injected {
    exception(syndrome(ec::UNKNOWN, 0), None, from, target)
}

/// A synchronous external abort for the data access that `abort` describes, at virtual address `far`.
#[must_use]
pub const fn data_abort(abort: Abort, far: u64, from: Interrupted, target: Target) -> Injected {
    const WNR_AND_CM: u32 = 1 << 6 | 1 << 8;
    let class = if from_el1(from.pstate) {
        ec::DATA_ABORT_SAME
    } else {
        ec::DATA_ABORT_LOWER
    };
    exception(syndrome(class, external(abort) | abort.iss() & WNR_AND_CM), Some(far), from, target)
}

/// A synchronous external abort for the instruction fetch that `abort` describes, at virtual address `far`.
#[must_use]
pub const fn inst_abort(abort: Abort, far: u64, from: Interrupted, target: Target) -> Injected {
    let class = if from_el1(from.pstate) {
        ec::INST_ABORT_SAME
    } else {
        ec::INST_ABORT_LOWER
    };
    exception(syndrome(class, external(abort)), Some(far), from, target)
}

/// The fault status of an external abort, FnV included. A fault on the guest's stage 1 walk is reported without its level too: the
/// syndrome at EL2 has stage 2's level, not that of the guest's walk.
const fn external(abort: Abort) -> u32 {
    const EXTERNAL: u32 = 0x10;
    const FNV: u32 = 1 << 10;
    EXTERNAL | abort.iss() & FNV
}

/// IL is 1 in each of these: EC 0, instruction aborts, and data aborts without an instruction syndrome.
const fn syndrome(class: u8, iss: u32) -> u64 {
    (class as u64) << 26 | 1 << 25 | iss as u64
}

const fn from_el1(pstate: u64) -> bool {
    pstate & SPSR_EL2::NRW::SET.value == 0 && pstate & 0b1100 == SPSR_EL2::M::EL1t.value
}

/// DDI 0487 AArch64.TakeException, to EL1, of a synchronous exception.
const fn exception(esr: u64, far: Option<u64>, from: Interrupted, target: Target) -> Injected {
    // VBAR_EL1 bits 10:0 are RES0.
    let pc = (target.vbar & !0x7ff).wrapping_add(vector(from.pstate));
    Injected {
        esr,
        far,
        elr: from.pc,
        spsr: from.pstate,
        pc,
        pstate: pstate_at_vector(from.pstate, target),
    }
}

/// Offset of the synchronous vector. DDI 0487 D1.3 (Exception vectors).
const fn vector(pstate: u64) -> u64 {
    if pstate & SPSR_EL2::NRW::SET.value != 0 {
        return 0x600;
    }
    match pstate & 0xf {
        0b0101 => 0x200,
        0b0100 => 0x000,
        _ => 0x400,
    }
}

/// PSTATE at the vector. Kept: the condition flags, DIT, and PAN unless `SCTLR_EL1.SPAN` is clear, which sets it. SS, IL, UAO, BTYPE
/// and everything of AArch32 become 0.
const fn pstate_at_vector(old: u64, target: Target) -> u64 {
    const KEPT: u64 = SPSR_EL2::N::SET.value | SPSR_EL2::Z::SET.value | SPSR_EL2::C::SET.value | SPSR_EL2::V::SET.value;
    let mut new = crate::policy::ENTRY_SPSR | old & (KEPT | SPSR_EL2::DIT::SET.value | SPSR_EL2::PAN::SET.value);
    if target.features.pan && target.sctlr & SCTLR_EL1::SPAN::SET.value == 0 {
        new |= SPSR_EL2::PAN::SET.value;
    }
    if target.features.ssbs && target.sctlr & SCTLR_EL1::DSSBS::SET.value != 0 {
        new |= SPSR_EL2::SSBS::SET.value;
    }
    if target.features.mte {
        new |= SPSR_EL2::TCO::SET.value;
    }
    if target.features.nmi && target.sctlr & SCTLR_EL1::SPINTMASK::SET.value == 0 {
        new |= SPSR_EL2::ALLINT::SET.value;
    }
    new
}

/// Why a vCPU cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashReason {
    /// The fetch of the vector of an injected abort faulted in stage 2 itself.
    VectorFault,
    /// The same abort came again at the same instruction, with the same registers and nothing between.
    RepeatedAbort,
    /// An SError was taken while the vCPU ran.
    SError,
    /// An exception that no guest should be able to cause.
    Unexpected,
}

impl CrashReason {
    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::VectorFault => "its exception vector is not in its memory",
            Self::RepeatedAbort => "the same abort came twice at one instruction, with nothing between",
            Self::SError => "SError",
            Self::Unexpected => "an exception that no guest should be able to cause",
        }
    }
}

/// The abort that a vCPU was last given. One per vCPU, cleared with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AbortHistory {
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    injected: Injected,
    /// Number of the exit at which it was injected.
    exit: u64,
    /// A digest of the general-purpose registers.
    registers: u64,
}

impl AbortHistory {
    /// No abort yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// Whether `injected` may be given to the vCPU, and remembers it if so. `exit` counts the vCPU's exits, so that "nothing between"
    /// means consecutive numbers; `x` are x0 to x30, so that a guest that probes the same address in a loop is not taken for one
    /// that is stuck.
    ///
    /// # Errors
    /// The vCPU crashes: giving it this exception would only bring the same one back.
    pub fn admit(&mut self, injected: Injected, exit: u64, x: &[u64; 31]) -> Result<(), CrashReason> {
        if self.is_vector_fetch(&injected, exit) {
            return Err(CrashReason::VectorFault);
        }
        let now = Last {
            injected,
            exit,
            registers: digest(x),
        };
        if let Some(last) = self.last
            && (Last { exit, ..last }) == now
            && follows(last.exit, exit)
        {
            return Err(CrashReason::RepeatedAbort);
        }
        self.last = Some(now);
        Ok(())
    }

    /// An instruction abort at the very vector it would be taken to, or at the one that was just entered.
    fn is_vector_fetch(&self, injected: &Injected, exit: u64) -> bool {
        let class = (injected.esr >> 26 & 0x3f) as u8;
        class == ec::INST_ABORT_SAME
            && (injected.elr == injected.pc
                || self
                    .last
                    .is_some_and(|last| last.injected.pc == injected.elr && follows(last.exit, exit)))
    }
}

const fn follows(before: u64, now: u64) -> bool {
    before.wrapping_add(1) == now
}

/// FNV-1a over whole registers: enough to tell one iteration of a loop from the next.
fn digest(x: &[u64; 31]) -> u64 {
    x.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, value| (hash ^ value).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EL1H: u64 = 0x0000_0005;
    const EL1T: u64 = 0x0000_0004;
    const EL0T: u64 = 0x0000_0000;
    const AARCH32_USR: u64 = 0x0000_0010;
    const SPAN: u64 = 1 << 23;
    const READ: Abort = Abort::new(1 << 24 | 2 << 22 | 0x07);
    const WRITE: Abort = Abort::new(1 << 24 | 2 << 22 | 1 << 6 | 0x07);

    fn target() -> Target {
        Target {
            vbar: 0xffff_8000_0001_0800,
            sctlr: SPAN,
            features: PstateFeatures::default(),
        }
    }

    fn at(pstate: u64) -> Interrupted {
        Interrupted { pc: 0x4008_1234, pstate }
    }

    #[test]
    fn the_vector_follows_where_the_guest_was() {
        for (pstate, offset) in [(EL1T, 0), (EL1H, 0x200), (EL0T, 0x400), (AARCH32_USR, 0x600)] {
            let injected = data_abort(READ, 0, at(pstate), target());
            assert_eq!(injected.pc, 0xffff_8000_0001_0800 + offset, "{pstate:#x}");
            assert_eq!(injected.spsr, pstate);
            assert_eq!(injected.elr, 0x4008_1234);
        }
    }

    #[test]
    fn a_vbars_res0_bits_are_not_looked_at() {
        let target = Target { vbar: 0x7ff, ..target() };
        assert_eq!(undef(at(EL1H), target).pc, 0x200);
    }

    #[test]
    fn a_data_abort_is_an_external_abort_with_source_and_direction() {
        // EC 0x25, IL, DFSC 0x10; WnR of a write; no instruction syndrome.
        assert_eq!(data_abort(READ, 0x1234, at(EL1H), target()).esr, 0x9600_0010);
        assert_eq!(data_abort(WRITE, 0x1234, at(EL1T), target()).esr, 0x9600_0050);
        // EC 0x24 from EL0, in either state.
        assert_eq!(data_abort(WRITE, 0x1234, at(EL0T), target()).esr, 0x9200_0050);
        assert_eq!(data_abort(READ, 0x1234, at(AARCH32_USR), target()).esr, 0x9200_0010);
        assert_eq!(data_abort(READ, 0x1234, at(EL1H), target()).far, Some(0x1234));
        // Cache maintenance is a write with CM.
        let maintenance = Abort::new(1 << 8 | 1 << 6 | 0x07);
        assert_eq!(data_abort(maintenance, 0, at(EL1H), target()).esr, 0x9600_0150);
        // A fault on the stage 1 walk: S1PTW is stage 2's business.
        assert_eq!(data_abort(Abort::new(1 << 7 | 0x07), 0, at(EL1H), target()).esr, 0x9600_0010);
    }

    #[test]
    fn an_instruction_abort_is_an_external_abort_with_source() {
        let fetch = Abort::new(0x07);
        assert_eq!(inst_abort(fetch, 0x5000_0000, at(EL1H), target()).esr, 0x8600_0010);
        assert_eq!(inst_abort(fetch, 0x5000_0000, at(EL0T), target()).esr, 0x8200_0010);
        assert_eq!(inst_abort(fetch, 0x5000_0000, at(EL0T), target()).far, Some(0x5000_0000));
    }

    #[test]
    fn an_undefined_instruction_has_class_0_il_and_no_address() {
        let injected = undef(at(EL1H), target());
        assert_eq!((injected.esr, injected.far), (0x0200_0000, None));
    }

    #[test]
    fn pstate_at_the_vector_is_el1h_with_daif_masked_and_flags_kept() {
        // N, C | DIT | PAN kept; SS, IL, UAO, BTYPE, SSBS, TCO gone.
        let old = 1 << 31 | 1 << 29 | 1 << 24 | 1 << 22 | 1 << 21 | 1 << 20 | 1 << 23 | 3 << 10 | 1 << 12 | 1 << 25 | EL1T;
        let injected = undef(at(old), target());
        assert_eq!(injected.pstate, 1 << 31 | 1 << 29 | 1 << 24 | 1 << 22 | 0x3c5);
        assert_eq!(injected.spsr, old, "SPSR_EL1 keeps all of it");
        // From AArch32: nothing of IT, GE, J, E, T, M.
        let injected = undef(at(0x0f0f_ff3f | AARCH32_USR), target());
        assert_eq!(injected.pstate, 0x0100_03c5);
    }

    #[test]
    fn pan_is_set_only_where_span_is_clear_and_the_pe_has_it() {
        let with = |sctlr, pan| {
            undef(
                at(EL0T),
                Target {
                    sctlr,
                    features: PstateFeatures { pan, ..Default::default() },
                    ..target()
                },
            )
            .pstate
        };
        assert_eq!(with(0, true), 0x3c5 | 1 << 22);
        assert_eq!(with(SPAN, true), 0x3c5);
        assert_eq!(with(0, false), 0x3c5);
    }

    #[test]
    fn ssbs_tco_and_allint_follow_their_rules_where_the_pe_has_them() {
        let all = PstateFeatures {
            pan: true,
            ssbs: true,
            mte: true,
            nmi: true,
        };
        let with = |sctlr, features| {
            undef(
                at(EL0T),
                Target {
                    sctlr,
                    features,
                    ..target()
                },
            )
            .pstate
        };
        let (dssbs, spintmask) = (1 << 44, 1 << 62);
        assert_eq!(with(SPAN | dssbs | spintmask, all), 0x3c5 | 1 << 12 | 1 << 25);
        assert_eq!(with(SPAN, all), 0x3c5 | 1 << 13 | 1 << 25);
        assert_eq!(with(SPAN | dssbs, PstateFeatures::default()), 0x3c5);
    }

    #[test]
    fn the_same_abort_twice_with_nothing_between_crashes() {
        let (mut history, x) = (AbortHistory::new(), [7; 31]);
        let injected = data_abort(READ, 0x1234, at(EL1H), target());
        assert_eq!(history.admit(injected, 10, &x), Ok(()));
        assert_eq!(history.admit(injected, 11, &x), Err(CrashReason::RepeatedAbort));
    }

    #[test]
    fn the_same_abort_after_another_exit_or_with_other_registers_does_not() {
        let (mut history, mut x) = (AbortHistory::new(), [7; 31]);
        let injected = data_abort(READ, 0x1234, at(EL1H), target());
        assert_eq!(history.admit(injected, 10, &x), Ok(()));
        assert_eq!(history.admit(injected, 12, &x), Ok(()), "an exit between");
        x[19] += 1;
        assert_eq!(history.admit(injected, 13, &x), Ok(()), "a loop's counter");
        assert_eq!(
            history.admit(data_abort(READ, 0x1238, at(EL1H), target()), 14, &x),
            Ok(()),
            "another address"
        );
        let elsewhere = Interrupted {
            pc: 0x4008_1238,
            pstate: EL1H,
        };
        assert_eq!(
            history.admit(data_abort(READ, 0x1238, elsewhere, target()), 15, &x),
            Ok(()),
            "another instruction"
        );
        assert_eq!(
            history.admit(data_abort(READ, 0x1238, elsewhere, target()), 16, &x),
            Err(CrashReason::RepeatedAbort)
        );
    }

    #[test]
    fn a_vector_outside_memory_crashes() {
        let x = [0; 31];
        // The injected abort's vector does not fetch.
        let mut history = AbortHistory::new();
        let first = data_abort(READ, 0x1234, at(EL0T), target());
        assert_eq!(history.admit(first, 1, &x), Ok(()));
        let fetch = inst_abort(
            Abort::new(0x07),
            first.pc,
            Interrupted {
                pc: first.pc,
                pstate: first.pstate,
            },
            target(),
        );
        assert_eq!(history.admit(fetch, 2, &x), Err(CrashReason::VectorFault));
        // The guest's own exception led to a vector that does not fetch, and injecting leads there again.
        let mut history = AbortHistory::new();
        let vector = target().vbar + 0x200;
        let fetch = inst_abort(Abort::new(0x07), vector, Interrupted { pc: vector, pstate: 0x3c5 }, target());
        assert_eq!(history.admit(fetch, 1, &x), Err(CrashReason::VectorFault));
    }

    #[test]
    fn a_jump_out_of_memory_does_not_crash() {
        let mut history = AbortHistory::new();
        let out = Interrupted {
            pc: 0x5000_0000,
            pstate: EL1H,
        };
        for exit in 1..4 {
            let x = [exit; 31];
            assert_eq!(history.admit(inst_abort(Abort::new(0x07), out.pc, out, target()), exit, &x), Ok(()));
        }
    }
}
