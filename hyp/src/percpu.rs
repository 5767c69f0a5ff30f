//! What belongs to one pCPU.

use core::{
    cell::UnsafeCell,
    mem::offset_of,
    ops::Deref,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{
    arch::cpu,
    run::{Resident, Run},
    vcpu::{Vcpu, VcpuState},
    vm::Vm,
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

/// One pCPU. `TPIDR_EL2` points to its own, and on the boot CPU at first to its [`Place`] alone.
#[repr(C)]
pub(crate) struct PerCpu {
    place: Place,
    here: UnsafeCell<Option<Resident>>,
    local: UnsafeCell<Option<Local>>,
}

/// Where a pCPU is, and what the vectors and a fault's report need of it.
#[repr(C)]
pub(crate) struct Place {
    /// For the short paths of the vectors (`SHORT_*`).
    pub(crate) short: Short,
    /// Its number: the place of its node in the device tree's `/cpus`.
    pub(crate) index: usize,
    /// Its affinity, in `MPIDR_EL1`'s layout.
    pub(crate) affinity: u64,
    /// What it runs on.
    pub(crate) stacks: Stacks,
    /// A fault report of this pCPU is being printed; another fault only parks it.
    pub(crate) dying: AtomicBool,
}

/// Where a pCPU's stacks are.
#[derive(Clone, Copy)]
pub(crate) struct Stacks {
    /// The page below the stack, which is never mapped; 0 where none is known.
    pub(crate) guard: u64,
    /// The end of the stack, where it begins to grow.
    pub(crate) top: u64,
    /// The same of the emergency stack.
    pub(crate) emergency: u64,
}

impl Stacks {
    /// Whether `address` is in the guard page.
    pub(crate) const fn ran_out_at(&self, address: u64) -> bool {
        self.guard != 0 && address >> 12 == self.guard >> 12
    }
}

impl Deref for PerCpu {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// Where the vectors find the emergency stack: a [`Place`] begins a pCPU's data.
pub(crate) const EMERGENCY: usize = offset_of!(Place, stacks) + offset_of!(Stacks, emergency);

/// Where the vectors find what the short paths need.
pub(crate) const SHORT_CALLS: usize = offset_of!(Place, short) + offset_of!(Short, calls);
/// [`SHORT_CALLS`] for the power states, behind which their number is.
pub(crate) const SHORT_POWER: usize = offset_of!(Place, short) + offset_of!(Short, power);
/// [`SHORT_CALLS`] for what becomes of `CPU_ON`: 0, [`HANDLES`] or [`FORWARDS`].
pub(crate) const SHORT_STARTS: usize = offset_of!(Place, short) + offset_of!(Short, starts);
/// [`SHORT_CALLS`] for the interrupts, behind which the counters are.
pub(crate) const SHORT_GIC: usize = offset_of!(Place, short) + offset_of!(Short, gic);

/// Addresses of what the short paths in `trap.s` read and write of the vCPU that runs here: its own, which its lock guards,
/// and what nobody changes. The pCPU itself writes them, between two stretches of guest code.
#[repr(C)]
pub(crate) struct Short {
    /// Its counters, if its calls may be answered without Rust; else 0.
    calls: AtomicUsize,
    /// Its VM's power states.
    power: AtomicUsize,
    /// How many those are.
    vcpus: AtomicUsize,
    /// Its interrupts.
    gic: AtomicUsize,
    /// Its counters.
    counters: AtomicUsize,
    /// What becomes of its `CPU_ON`.
    starts: AtomicUsize,
}

/// Nobody filters `CPU_ON` in its 64-bit form: it is done at once.
pub(crate) const HANDLES: usize = 1;
/// It is the host's to decide.
pub(crate) const FORWARDS: usize = 2;

impl Short {
    const fn new() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            power: AtomicUsize::new(0),
            vcpus: AtomicUsize::new(0),
            gic: AtomicUsize::new(0),
            counters: AtomicUsize::new(0),
            starts: AtomicUsize::new(0),
        }
    }

    /// `vcpu`, whose lock is held here and guards `state`, is about to run.
    pub(crate) fn open(&self, vm: &'static Vm, vcpu: &'static Vcpu, state: &VcpuState) {
        let counters = vcpu.counters_address();
        self.calls.store(if vm.calls_are_short() { counters } else { 0 }, Ordering::Relaxed);
        self.power.store(vm.power.as_ptr() as usize, Ordering::Relaxed);
        self.vcpus.store(vm.power.len(), Ordering::Relaxed);
        self.gic.store(&raw const state.gic as usize, Ordering::Relaxed);
        self.counters.store(counters, Ordering::Relaxed);
        self.starts.store(vm.starts(), Ordering::Relaxed);
    }
}

// SAFETY: `local` and `here` are reached only through the functions of their names, by the pCPU whose TPIDR_EL2 points here; the rest is read-only or
// atomic.
unsafe impl Sync for PerCpu {}

/// What only the pCPU itself touches.
pub(crate) struct Local {
    /// What it runs.
    pub(crate) run: Run,
}

/// The boot CPU's, before its own is made: `boot.s` fills in the emergency stack.
pub(crate) static BOOT: Place = Place::new(
    0,
    0,
    Stacks {
        guard: 0,
        top: 0,
        emergency: 0,
    },
);

impl Place {
    const fn new(index: usize, affinity: u64, stacks: Stacks) -> Self {
        Self {
            stacks,
            short: Short::new(),
            index,
            affinity,
            dying: AtomicBool::new(false),
        }
    }
}

impl PerCpu {
    /// A pCPU with its stacks.
    pub(crate) const fn new(index: usize, affinity: u64, stacks: Stacks) -> Self {
        Self {
            place: Place::new(index, affinity, stacks),
            here: UnsafeCell::new(None),
            local: UnsafeCell::new(None),
        }
    }

    /// Gives the pCPU its own data. On that pCPU, before it takes its first exit.
    ///
    /// # Safety
    /// Called by the pCPU itself, once.
    #[inline(always)]
    pub(crate) unsafe fn set_local(&self, local: Local) {
        // SAFETY: This function's contract: nobody else reaches `local`, no reference exists yet, and there is nothing to drop.
        unsafe { self.local.get().write(Some(local)) };
    }
}

/// Where this pCPU is.
pub(crate) fn this() -> &'static Place {
    // SAFETY: TPIDR_EL2 points to a Place that is never freed: BOOT from the first instruction on, then that of the pCPU's own data.
    unsafe { &*(cpu::per_cpu() as *const Place) }
}

/// All of this pCPU's own data.
///
/// # Safety
/// When it has been made: not on the boot CPU before `join`.
unsafe fn whole() -> &'static PerCpu {
    // SAFETY: This function's contract; a Place other than BOOT begins a PerCpu.
    unsafe { &*(cpu::per_cpu() as *const PerCpu) }
}

/// This pCPU's own data; `None` before `set_local`.
///
/// # Safety
/// After the boot CPU's `join`, and once for each exit or entry to the run loop, at its outermost function: EL2 runs with interrupts masked, so exits do
/// not nest, and the reference dies before the next one.
pub(crate) unsafe fn local() -> Option<&'static mut Local> {
    // SAFETY: This function's contract.
    unsafe { (*whole().local.get()).as_mut() }
}

/// What this pCPU runs and the vCPU in its registers, for an exit of that.
///
/// # Safety
/// As for [`local`], and a guest has run here since this pCPU's registers were last given to a vCPU.
#[inline(always)]
pub(crate) unsafe fn at_exit() -> (&'static mut Local, &'static mut Resident) {
    // SAFETY: This function's contract: what a guest leaves was put into both places before it ran.
    unsafe {
        let this = whole();
        (
            (*this.local.get()).as_mut().unwrap_unchecked(),
            (*this.here.get()).as_mut().unwrap_unchecked(),
        )
    }
}

/// The place of the vCPU in this pCPU's registers, for who puts it there and takes it away.
///
/// # Safety
/// As for [`at_exit`], and instead of it; beside [`local`].
pub(crate) unsafe fn place() -> &'static mut Option<Resident> {
    // SAFETY: This function's contract.
    unsafe { &mut *whole().here.get() }
}
