//! Boot-time memory: used until the VMs start, sealed after.

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr,
};

use hyp_core::types::Range;
use linked_list_allocator::Heap;

use crate::percpu::BootCell;

unsafe extern "C" {
    static __heap_start: u8;
    static __heap_end: u8;
}

/// The part in the image, for device-tree work and EL2's tables, and the part that is as large as the VMs need it.
struct BootHeap {
    heaps: [BootCell<Heap>; 2],
    sealed: BootCell<bool>,
}

#[global_allocator]
static HEAP: BootHeap = BootHeap {
    heaps: [BootCell::new(Heap::empty()), BootCell::new(Heap::empty())],
    sealed: BootCell::new(false),
};

/// The part in the image.
fn image() -> core::ops::Range<usize> {
    &raw const __heap_start as usize..&raw const __heap_end as usize
}

/// Gives the heap the memory that the linker script keeps for it.
///
/// # Safety
/// Once, on the boot CPU, before the first allocation.
pub(crate) unsafe fn init() {
    // SAFETY: The memory is used for nothing else; the boot CPU is the only one that runs.
    unsafe { HEAP.heaps[0].get_mut().init(image().start as *mut u8, image().len()) };
}

/// Gives the heap `memory` besides.
///
/// # Safety
/// Once, on the boot CPU; the memory is RAM that is used for nothing else, and mapped from now on.
pub(crate) unsafe fn extend(memory: Range) {
    // SAFETY: This function's contract.
    unsafe { HEAP.heaps[1].get_mut().init(memory.start() as *mut u8, memory.size() as usize) };
}

/// Ends allocation: from here on the heap gives nothing, which nothing asks for.
pub(crate) fn seal() {
    // SAFETY: Called on the boot CPU before it starts a VM.
    unsafe { *HEAP.sealed.get_mut() = true };
}

/// Bytes in use, and in all: in the image, and besides.
pub(crate) fn usage() -> [(usize, usize); 2] {
    // SAFETY: Called on the boot CPU.
    HEAP.heaps
        .each_ref()
        .map(|heap| unsafe { (heap.get_mut().used(), heap.get_mut().size()) })
}

// SAFETY: The boot CPU is the only one that allocates, and only before `seal`: after it `alloc` gives null and `dealloc`
// leaks, so the heap has one user at a time.
unsafe impl GlobalAlloc for BootHeap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: See above.
        unsafe {
            if *self.sealed.get_mut() {
                return ptr::null_mut();
            }
            // What the VMs' part has room for leaves the other to the rest.
            let mut heaps = self.heaps.iter().rev().map(|heap| heap.get_mut().allocate_first_fit(layout));
            heaps.find_map(Result::ok).map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: See above; `at` came from `alloc` with this layout.
        unsafe {
            if let (false, Some(at)) = (*self.sealed.get_mut(), ptr::NonNull::new(at)) {
                let [inside, besides] = &self.heaps;
                let heap = if image().contains(&at.addr().get()) { inside } else { besides };
                heap.get_mut().deallocate(at, layout);
            }
        }
    }
}
