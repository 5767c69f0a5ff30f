//! Boot-time memory: used until the VMs start, sealed after.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    mem::MaybeUninit,
    ptr,
};

use linked_list_allocator::Heap;

use crate::percpu::BootCell;

/// Device-tree work, EL2's tables, the VMs' tables and contexts.
const SIZE: usize = 112 * 1024;

#[repr(align(4096))]
struct Memory(UnsafeCell<[MaybeUninit<u8>; SIZE]>);

// SAFETY: Handed to the heap once, by `init` on the boot CPU.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([MaybeUninit::uninit(); SIZE]));

struct BootHeap {
    heap: BootCell<Heap>,
    sealed: BootCell<bool>,
}

#[global_allocator]
static HEAP: BootHeap = BootHeap {
    heap: BootCell::new(Heap::empty()),
    sealed: BootCell::new(false),
};

/// Gives the heap its memory.
///
/// # Safety
/// Once, on the boot CPU, before the first allocation.
pub(crate) unsafe fn init() {
    // SAFETY: The memory is used for nothing else; the boot CPU is the only one that runs.
    unsafe { HEAP.heap.get_mut().init(MEMORY.0.get().cast(), SIZE) };
}

/// Ends allocation: from here on the heap gives nothing, which nothing asks for.
pub(crate) fn seal() {
    // SAFETY: Called on the boot CPU before it starts a VM.
    unsafe { *HEAP.sealed.get_mut() = true };
}

/// Bytes in use, and in all.
pub(crate) fn usage() -> (usize, usize) {
    // SAFETY: Called on the boot CPU.
    unsafe { (HEAP.heap.get_mut().used(), SIZE) }
}

// SAFETY: The boot CPU is the only one that allocates, and only before `seal`: after it `alloc` gives null and `dealloc`
// leaks, so the heap has one user at a time.
unsafe impl GlobalAlloc for BootHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: See above.
        let (heap, sealed) = unsafe { (self.heap.get_mut(), *self.sealed.get_mut()) };
        if sealed {
            return ptr::null_mut();
        }
        heap.allocate_first_fit(layout).map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: See above; `at` came from `alloc` with this layout.
        unsafe {
            if let (false, Some(at)) = (*self.sealed.get_mut(), ptr::NonNull::new(at)) {
                self.heap.get_mut().deallocate(at, layout);
            }
        }
    }
}
