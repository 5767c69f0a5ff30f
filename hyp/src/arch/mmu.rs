//! EL2's own translation: the identity, with W^X, guard pages left out, and two windows a pCPU through which memory that
//! no mapping shows is copied and scrubbed.

use core::{
    mem::ManuallyDrop,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use aarch64_paging::{
    Mapping,
    descriptor::{El23Attributes, PhysicalAddress},
    idmap::IdTranslation,
    mair::{Mair, MairAttribute, NormalMemory},
    paging::{Constraints, El2, MemoryRegion},
};
use hyp_core::types::Range;

use super::{barrier, cpu, memory};

/// The level-1 root covers 39 bits.
const VA_BITS: u64 = 39;
/// Windows are the last GiB of them.
const WINDOWS: usize = 511 << 30;
/// One window.
const WINDOW_SIZE: usize = 2 << 20;

const NORMAL: El23Attributes = El23Attributes::VALID
    .union(El23Attributes::ATTRIBUTE_INDEX_0)
    .union(El23Attributes::INNER_SHAREABLE)
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::USER_RES1);
const DEVICE: El23Attributes = El23Attributes::VALID
    .union(El23Attributes::ATTRIBUTE_INDEX_1)
    .union(El23Attributes::OUTER_SHAREABLE)
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::USER_RES1)
    .union(El23Attributes::XN);

/// What EL2 may do with a piece of its own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Run it.
    Execute,
    /// Read it.
    Read,
    /// Read and write it.
    Write,
    /// A device's registers.
    Device,
}

impl Access {
    const fn attributes(self) -> El23Attributes {
        match self {
            Self::Execute => NORMAL.union(El23Attributes::READ_ONLY),
            Self::Read => NORMAL.union(El23Attributes::READ_ONLY).union(El23Attributes::XN),
            Self::Write => NORMAL.union(El23Attributes::XN),
            Self::Device => DEVICE,
        }
    }
}

/// Why EL2's map could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapFailed(pub(crate) Range);

/// EL2's translation tables.
pub(crate) struct Map {
    /// They stay for ever, also where boot ends for want of them.
    tables: ManuallyDrop<Mapping<IdTranslation<El23Attributes>, El2>>,
}

/// The registers that turn translation on, the same on every pCPU.
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
        Self {
            tables: ManuallyDrop::new(Mapping::new(IdTranslation::new(), 1, El2)),
        }
    }

    /// Maps `range` to itself, rounded out to pages.
    pub(crate) fn identity(&mut self, range: Range, access: Access) -> Result<(), MapFailed> {
        let region = MemoryRegion::new(range.start() as usize, range.end() as usize);
        self.tables
            .map_range(
                &region,
                PhysicalAddress(region.start().0),
                access.attributes(),
                Constraints::NO_CONTIGUOUS_HINT,
            )
            .map_err(|_| MapFailed(range))
    }

    /// Makes the table under the windows exist, so that opening one allocates nothing.
    fn prepare_windows(&mut self) -> Result<(), MapFailed> {
        let region = MemoryRegion::new(WINDOWS, WINDOWS + WINDOW_SIZE);
        let range = Range::new(WINDOWS as u64, WINDOW_SIZE as u64).ok_or(MapFailed(Range::default()))?;
        self.tables
            .map_range(&region, PhysicalAddress(0), El23Attributes::XN, Constraints::NO_CONTIGUOUS_HINT)
            .map_err(|_| MapFailed(range))
    }

    /// The physical address, which is the virtual one, of the table that `prepare_windows` made.
    fn window_table(&self) -> usize {
        let root = self.tables.root_address().0 as *const u64;
        // SAFETY: The root has 512 descriptors; the last one points to a table after `prepare_windows`.
        let descriptor = unsafe { ptr::read_volatile(root.add(511)) };
        (descriptor & 0x0000_FFFF_FFFF_F000) as usize
    }

    fn registers(&self) -> Registers {
        let pa_range = (cpu::mmfr0() & 0xF).min(5);
        Registers {
            mair: Mair::from([
                MairAttribute::normal(
                    NormalMemory::WriteBackNonTransientReadWriteAllocate,
                    NormalMemory::WriteBackNonTransientReadWriteAllocate,
                ),
                MairAttribute::DEVICE_NGNRE,
                MairAttribute::default(),
                MairAttribute::default(),
                MairAttribute::default(),
                MairAttribute::default(),
                MairAttribute::default(),
                MairAttribute::default(),
            ])
            .0,
            // RES1 bits 31 and 23, PS, SH0 inner, ORGN0 and IRGN0 write-back write-allocate, T0SZ (DDI 0487 TCR_EL2).
            tcr: 1 << 31 | 1 << 23 | pa_range << 16 | 3 << 12 | 1 << 10 | 1 << 8 | (64 - VA_BITS),
            ttbr0: self.tables.root_address().0 as u64,
            // RES1 bits, WXN, I, SA, C, M (DDI 0487 SCTLR_EL2).
            sctlr: 0x30C5_0830 | 1 << 19 | 1 << 12 | 1 << 3 | 1 << 2 | 1,
        }
    }

    /// Turns translation and caches on, on the boot CPU. The map is kept for windows.
    ///
    /// # Safety
    /// The map must show the running image, its stack and every object in use, at their own addresses, with W^X.
    pub(crate) unsafe fn activate(mut self) -> Result<Registers, MapFailed> {
        self.prepare_windows()?;
        self.tables.mark_active();
        let registers = self.registers();
        WINDOW_TABLE.store(self.window_table(), Ordering::Relaxed);
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
        window.set((pa & !(WINDOW_SIZE as u64 - 1)) | Access::Write.attributes().bits() as u64);
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
