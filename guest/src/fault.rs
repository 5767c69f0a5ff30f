//! Exceptions taken to EL1: interrupts go to [`crate::gic`], expected faults to the test that waits for them, every
//! other one ends the VM with a report.

use crate::{check, cpu, gic, println};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use hyp_abi::layout::MAX_VCPUS;

/// What the vectors in `start.s` save.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
    pad: u64,
}

const _: () = assert!(
    size_of::<Frame>() == 288,
    "start.s stores at these offsets and keeps SP 16-byte aligned"
);

/// A fault that [`catch`] took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`.
    pub far: u64,
    /// `ELR_EL1`.
    pub elr: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
    /// The vector's number, 0 to 15.
    pub vector: u64,
    /// What of PSTATE the handler found as it was at the vector, of [`LOOK_AT`].
    pub pstate: u64,
}

/// Bits of PSTATE that have a register of their own, as in `SPSR_EL1`; each only where the processor has it.
pub mod pstate {
    /// Speculative store bypass is safe.
    pub const SSBS: u64 = 1 << 12;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// User access override.
    pub const UAO: u64 = 1 << 23;
    /// Data-independent timing.
    pub const DIT: u64 = 1 << 24;
    /// Tag checks are overridden.
    pub const TCO: u64 = 1 << 25;
    /// Interrupt masks.
    pub const DAIF: u64 = 0xF << 6;
}

/// Which bits of PSTATE a handler looks at, of those that [`now`] reads.
pub static LOOK_AT: AtomicU64 = AtomicU64::new(0);

/// The bits `which` of PSTATE as they are now.
#[must_use]
pub fn now(which: u64) -> u64 {
    let mut found = 0;
    macro_rules! look {
        ($($bit:expr => $register:literal),* $(,)?) => {
            $(if which & $bit != 0 {
                let value: u64;
                // SAFETY: Reads PSTATE.
                unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack)) };
                found |= value & $bit;
            })*
        };
    }
    look! {
        pstate::SSBS => "S3_3_C4_C2_6",
        pstate::PAN => "S3_0_C4_C2_3",
        pstate::UAO => "S3_0_C4_C2_4",
        pstate::DIT => "S3_3_C4_C2_5",
        pstate::TCO => "S3_3_C4_C2_7",
        pstate::DAIF => "DAIF",
    }
    found
}

impl Fault {
    /// The exception class, `ESR_EL1.EC`.
    #[must_use]
    pub const fn class(self) -> u64 {
        self.esr >> 26 & 0x3F
    }
    /// The fault status code of an abort, `ESR_EL1.DFSC` or `IFSC`.
    #[must_use]
    pub const fn status(self) -> u64 {
        self.esr & 0x3F
    }
}

/// Exception classes (DDI 0487, `ESR_EL1`).
pub mod class {
    /// An UNDEFINED instruction, and whatever has no class of its own.
    pub const UNKNOWN: u64 = 0x00;
    /// A trapped `MSR`, `MRS` or system instruction.
    pub const SYSREG: u64 = 0x18;
    /// Instruction abort without a change of level.
    pub const INSTRUCTION_ABORT: u64 = 0x21;
    /// Data abort without a change of level.
    pub const DATA_ABORT: u64 = 0x25;
}

/// `SPSR_EL1` of EL1 with `SP_EL1` and everything masked.
const EL1H_MASKED: u64 = 0x3C5;

/// `DFSC` and `IFSC` of a synchronous external abort, not on a table walk.
pub const EXTERNAL_ABORT: u64 = 0x10;

struct Slot {
    armed: AtomicBool,
    taken: AtomicBool,
    value: [AtomicU64; 6],
}

static SLOTS: [Slot; MAX_VCPUS] = [const {
    Slot {
        armed: AtomicBool::new(false),
        taken: AtomicBool::new(false),
        value: [const { AtomicU64::new(0) }; 6],
    }
}; MAX_VCPUS];

/// Runs `body`, which may take one synchronous fault, and returns it. A faulting instruction is skipped; a faulting
/// fetch returns to the caller (to `x30`), and so does whatever ends a stretch at EL0.
pub fn catch(body: impl FnOnce()) -> Option<Fault> {
    let slot = &SLOTS[cpu::index()];
    slot.taken.store(false, Ordering::Relaxed);
    slot.armed.store(true, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    body();
    compiler_fence(Ordering::SeqCst);
    slot.armed.store(false, Ordering::Relaxed);
    slot.taken.load(Ordering::Relaxed).then(|| {
        let [esr, far, elr, spsr, vector, pstate] = core::array::from_fn(|i| slot.value[i].load(Ordering::Relaxed));
        Fault {
            esr,
            far,
            elr,
            spsr,
            vector,
            pstate,
        }
    })
}

/// Whether `body` ran without a fault.
pub fn none(body: impl FnOnce()) -> bool {
    catch(body).is_none()
}

/// Every exception comes here, with the vector's number (0 to 15).
// SAFETY: `start.s` is the only caller and no other symbol of this name exists.
#[unsafe(no_mangle)]
extern "C" fn guest_trap(vector: u64, frame: &mut Frame) {
    match vector & 3 {
        0 if expected(vector, frame) => {}
        1 => gic::dispatch(),
        _ => {
            let Frame { elr, spsr, esr, far, .. } = *frame;
            println!(
                "FAIL fault: esr={esr:#x} elr={elr:#x} far={far:#x} spsr={spsr:#x} vector={vector} cpu={}",
                cpu::index()
            );
            check::abandon()
        }
    }
}

fn expected(vector: u64, frame: &mut Frame) -> bool {
    let slot = &SLOTS[cpu::index()];
    if !slot.armed.swap(false, Ordering::Relaxed) {
        return false;
    }
    for (cell, value) in slot.value.iter().zip([
        frame.esr,
        frame.far,
        frame.elr,
        frame.spsr,
        vector,
        now(LOOK_AT.load(Ordering::Relaxed)),
    ]) {
        cell.store(value, Ordering::Relaxed);
    }
    slot.taken.store(true, Ordering::Relaxed);
    if vector >= 8 {
        frame.spsr = EL1H_MASKED;
    }
    frame.elr = if vector >= 8 || frame.esr >> 26 & 0x3F == class::INSTRUCTION_ABORT {
        frame.x[30]
    } else {
        frame.elr + 4
    };
    true
}
