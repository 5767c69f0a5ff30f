//! What belongs to one pCPU.

use core::{cell::UnsafeCell, mem::offset_of, sync::atomic::AtomicBool};

use hyp_core::types::Range;

use crate::{
    arch::{cpu, gic::Interface},
    run::Run,
};

/// A cell that only the boot CPU uses, and only while no other pCPU runs.
pub(crate) struct BootCell<T>(UnsafeCell<T>);

// SAFETY: Every access goes through `get_mut`, whose contract is the boot CPU alone.
unsafe impl<T> Sync for BootCell<T> {}

impl<T> BootCell<T> {
    /// Holds `value`.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The value.
    ///
    /// # Safety
    /// On the boot CPU, before the first VM starts, and with no other reference to the value alive.
    #[allow(clippy::mut_from_ref, reason = "the contract is the borrow checker's")]
    pub(crate) unsafe fn get_mut(&self) -> &mut T {
        // SAFETY: This function's contract.
        unsafe { &mut *self.0.get() }
    }
}

/// One pCPU. `TPIDR_EL2` points to its own.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Top of the emergency stack: the vectors look here (`EMERGENCY`).
    emergency: usize,
    /// Its number: the place of its node in the device tree's `/cpus`.
    pub(crate) index: usize,
    /// Its affinity, in `MPIDR_EL1`'s layout.
    pub(crate) affinity: u64,
    /// The page below its stack, which is never mapped.
    pub(crate) guard_page: Range,
    /// Its stack.
    pub(crate) stack: Range,
    /// A fault report of this pCPU is being printed; another fault only parks it.
    pub(crate) dying: AtomicBool,
    local: UnsafeCell<Option<Local>>,
}

/// Where the vectors find the emergency stack.
pub(crate) const EMERGENCY: usize = offset_of!(PerCpu, emergency);

// SAFETY: `local` is reached only through `local()`, by the pCPU whose TPIDR_EL2 points here; the rest is read-only or
// atomic.
unsafe impl Sync for PerCpu {}

/// What only the pCPU itself touches.
pub(crate) struct Local {
    /// Its virtual interface.
    pub(crate) interface: Interface,
    /// What it runs.
    pub(crate) run: Run,
}

/// The boot CPU's, before its own is made: `boot.s` fills in the emergency stack.
pub(crate) static BOOT: PerCpu = PerCpu {
    emergency: 0,
    index: 0,
    affinity: 0,
    guard_page: Range::EMPTY,
    stack: Range::EMPTY,
    dying: AtomicBool::new(false),
    local: UnsafeCell::new(None),
};

impl PerCpu {
    /// A pCPU with its stacks: `stack` begins with the guard page.
    pub(crate) const fn new(index: usize, affinity: u64, guard_page: Range, stack: Range, emergency_top: u64) -> Self {
        Self {
            emergency: emergency_top as usize,
            index,
            affinity,
            guard_page,
            stack,
            dying: AtomicBool::new(false),
            local: UnsafeCell::new(None),
        }
    }

    /// Gives the pCPU its own data. On that pCPU, before it takes its first exit.
    ///
    /// # Safety
    /// Called by the pCPU itself, once.
    pub(crate) unsafe fn set_local(&self, local: Local) {
        // SAFETY: This function's contract: nobody else reaches `local`, and no reference exists yet.
        unsafe { *self.local.get() = Some(local) };
    }
}

/// This pCPU.
pub(crate) fn this() -> &'static PerCpu {
    // SAFETY: TPIDR_EL2 points to a PerCpu that is never freed: BOOT from the first instruction on, then the pCPU's own.
    unsafe { &*(cpu::per_cpu() as *const PerCpu) }
}

/// This pCPU's own data; `None` before `set_local`.
///
/// # Safety
/// Once for each exit or entry to the run loop, at its outermost function: EL2 runs with interrupts masked, so exits do
/// not nest, and the reference dies before the next one.
pub(crate) unsafe fn local() -> Option<&'static mut Local> {
    // SAFETY: This function's contract.
    unsafe { (*this().local.get()).as_mut() }
}
