//! EL2's own translation: the identity, with W^X, guard pages left out, and two windows a pCPU through which memory that
//! no mapping shows is copied and scrubbed.

use core::{
    alloc::Layout,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

pub(crate) use hyp_core::stage1::Access;
use hyp_core::{
    policy,
    stage1::{self, Stage1},
    stage2::{PAGE, Tables},
    types::{Pa, Range},
};

use super::{barrier, cpu, memory};
use crate::heap;

/// Windows are the last GiB of the address space.
const WINDOWS: usize = Stage1::WINDOWS as usize;
/// One window.
const WINDOW_SIZE: usize = 2 << 20;

/// Tables from the heap, which stay for ever, also where boot ends for want of one.
struct FromHeap;

impl Tables for FromHeap {
    fn alloc(&mut self) -> Option<Pa> {
        let layout = Layout::from_size_align(PAGE as usize, PAGE as usize).ok()?;
        let table = heap::take(layout)?;
        // SAFETY: So many bytes, which are nobody else's.
        unsafe { table.write_bytes(0, layout.size()) };
        Some(Pa::new(table.addr().get() as u64))
    }

    fn read(&self, table: Pa, index: usize) -> u64 {
        // SAFETY: `table` came from `alloc`, `index` is below 512.
        unsafe { ptr::read_volatile((table.get() as *const u64).add(index & 0x1FF)) }
    }

    fn write(&mut self, table: Pa, index: usize, descriptor: u64) {
        // SAFETY: As for reads.
        unsafe { ptr::write_volatile((table.get() as *mut u64).add(index & 0x1FF), descriptor) };
    }
}

/// EL2's translation tables, as long as they hold what is mapped: then the first that they could not.
pub(crate) struct Map(Result<Stage1, Range>);

/// The registers that turn translation on, the same on every pCPU. `trap.s` reads them in this order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// `MAIR_EL2`.
    pub(crate) mair: u64,
    /// `TCR_EL2`.
    pub(crate) tcr: u64,
    /// `TTBR0_EL2`.
    pub(crate) ttbr0: u64,
    /// `SCTLR_EL2`.
    pub(crate) sctlr: u64,
}

unsafe extern "C" {
    fn enable_mmu(mair: u64, tcr: u64, ttbr0: u64, sctlr: u64);
}

impl Map {
    /// An empty map.
    pub(crate) fn new() -> Self {
        Self(Stage1::new(&mut FromHeap).ok_or(Range::EMPTY))
    }

    /// Maps `range` to itself, rounded out to pages.
    #[inline(never)]
    pub(crate) fn identity(&mut self, range: Range, access: Access) {
        if let Ok(tables) = &self.0
            && tables.identity(&mut FromHeap, range, access).is_err()
        {
            self.0 = Err(range);
        }
    }

    /// Turns translation and caches on, on the boot CPU. The tables stay; those of the windows are changed by their users.
    ///
    /// # Errors
    /// What the tables could not hold: translation stays off.
    ///
    /// # Safety
    /// The map must show the running image, its stack and every object in use, at their own addresses, with W^X.
    pub(crate) unsafe fn activate(self) -> Result<Registers, Range> {
        let tables = self.0?;
        let pa_range = (cpu::mmfr0() & 0xF).min(5);
        let registers = Registers {
            mair: stage1::MAIR,
            // RES1 bits 31 and 23, PS, SH0 inner, ORGN0 and IRGN0 write-back write-allocate, T0SZ (DDI 0487 TCR_EL2).
            tcr: 1 << 31 | 1 << 23 | pa_range << 16 | 3 << 12 | 1 << 10 | 1 << 8 | u64::from(64 - stage1::VA_BITS),
            ttbr0: tables.root().get(),
            sctlr: policy::SCTLR_EL2_ON,
        };
        WINDOW_TABLE.store(tables.windows().get() as usize, Ordering::Relaxed);
        barrier::dsb_sy();
        // SAFETY: This function's contract; the values are those of `registers`.
        unsafe { enable_mmu(registers.mair, registers.tcr, registers.ttbr0, registers.sctlr) };
        Ok(registers)
    }
}

/// A piece of physical memory, open to this pCPU alone while the value lives.
///
/// Windows are opened and closed by one descriptor each, in a table that exists since boot: no lock, no allocation.
pub(crate) struct Window {
    number: usize,
    offset: usize,
}

/// The level-2 table under the windows; 0 until the map is active.
static WINDOW_TABLE: AtomicUsize = AtomicUsize::new(0);

impl Window {
    /// Opens window `which` (0 or 1) of pCPU `pcpu` on the memory at `pa`: as much of it as lies in one 2 MiB block.
    ///
    /// # Safety
    /// The memory must be RAM that no Rust object lives in; the window of this number must not be open already.
    pub(crate) unsafe fn open(pcpu: usize, which: usize, pa: u64) -> Self {
        let window = Self {
            number: (2 * pcpu + (which & 1)) & 0x1FF,
            offset: pa as usize & (WINDOW_SIZE - 1),
        };
        window.set(Access::Write.block(pa & !(WINDOW_SIZE as u64 - 1)));
        barrier::dsb_ishst();
        barrier::isb();
        window
    }

    fn set(&self, descriptor: u64) {
        let table = WINDOW_TABLE.load(Ordering::Relaxed) as *mut u64;
        // SAFETY: The table has 512 descriptors and `number` is below that; it is mapped and lives for ever; each pCPU
        // writes its own two entries.
        unsafe { ptr::write_volatile(table.add(self.number), descriptor) };
    }

    fn base(&self) -> usize {
        WINDOWS + self.number * WINDOW_SIZE + self.offset
    }

    /// How many bytes of the memory the window shows.
    pub(crate) const fn size(&self) -> usize {
        WINDOW_SIZE - self.offset
    }

    /// Writes zeroes to the first `size` bytes, at most [`Window::size`].
    pub(crate) fn zero(&mut self, size: usize) {
        // SAFETY: `open` mapped the memory here, writable, for this pCPU alone, and no object lives in it.
        unsafe { ptr::write_bytes(self.base() as *mut u8, 0, size.min(self.size())) };
    }

    /// Copies the first `size` bytes from `from`'s, at most as many as both show.
    pub(crate) fn copy(&mut self, from: &Self, size: usize) {
        // SAFETY: As for `zero`; the windows are two, and so is the memory: a module and a VM's RAM never overlap.
        unsafe {
            ptr::copy(
                from.base() as *const u8,
                self.base() as *mut u8,
                size.min(self.size()).min(from.size()),
            );
        };
    }

    /// Copies the first bytes from `from`, at most as many as the window shows.
    pub(crate) fn copy_bytes(&mut self, from: &[u8]) {
        // SAFETY: As for `zero`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.base() as *mut u8, from.len().min(self.size())) };
    }

    /// Cleans the first `size` bytes to the point of coherency.
    pub(crate) fn clean(&self, size: usize) {
        memory::clean_to_poc(self.base(), size.min(self.size()));
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.set(0);
        memory::drop_hyp_tlb(self.base());
    }
}
