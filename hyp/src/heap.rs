//! Boot-time memory: used until the VMs start, sealed after. What it gives is never given back.

use alloc::alloc::{alloc, handle_alloc_error};
use core::{
    alloc::{GlobalAlloc, Layout},
    mem::MaybeUninit,
    ptr, slice,
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

/// Values that live for ever, in room that is made for all of them at once.
pub(crate) struct List<T: 'static> {
    room: &'static mut [MaybeUninit<T>],
    len: usize,
}

impl<T> List<T> {
    /// Room for `most` values.
    pub(crate) fn new(most: usize) -> Self {
        let start = bytes(size_of::<T>() * most, align_of::<T>());
        // SAFETY: So many bytes, aligned so, that are nobody else's and stay.
        let room = unsafe { slice::from_raw_parts_mut(start.cast(), most) };
        Self { room, len: 0 }
    }

    /// Adds `value`, if there is room.
    #[inline]
    pub(crate) fn push(&mut self, value: T) {
        if let Some(place) = self.room.get_mut(self.len) {
            place.write(value);
            self.len += 1;
        }
    }

    /// The values.
    pub(crate) fn leak(self) -> &'static mut [T] {
        // SAFETY: So many were written, and nobody else has the room.
        unsafe { slice::from_raw_parts_mut(self.room.as_mut_ptr().cast(), self.len) }
    }
}

/// `count` words, which are 0.
pub(crate) fn words(count: usize) -> &'static mut [u32] {
    let start: *mut u32 = bytes(size_of::<u32>() * count, align_of::<u32>()).cast();
    // SAFETY: So many words, aligned so, that are nobody else's and stay; made zeroes before anybody reads them.
    unsafe {
        start.write_bytes(0, count);
        slice::from_raw_parts_mut(start, count)
    }
}

fn bytes(size: usize, align: usize) -> *mut u8 {
    // There is no layout of no bytes, nor one of more than the address space has.
    let layout = Layout::from_size_align(size.max(1), align).unwrap_or(Layout::new::<u8>());
    // SAFETY: The layout's size is not 0.
    let start = unsafe { alloc(layout) };
    if start.is_null() || layout.size() < size {
        handle_alloc_error(layout);
    }
    start
}

// SAFETY: The boot CPU is the only one that allocates, and only before `seal`: after it `alloc` gives null, so the heap has one
// user at a time.
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

    /// What boot makes it makes to stay.
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
