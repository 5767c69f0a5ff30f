//! Boot-time memory: used until the VMs start, sealed after. What it gives is never given back, so that is all there is of a heap:
//! nothing that would allocate by itself can be used.

use core::{alloc::Layout, mem::MaybeUninit, ptr::NonNull, slice};

use hyp_core::types::Range;
use linked_list_allocator::Heap;

use crate::{fatal, percpu::BootCell};

unsafe extern "C" {
    static __heap_start: u8;
    static __heap_end: u8;
}

/// Bytes of the part in the image.
pub(crate) const SIZE: usize = match usize::from_str_radix(env!("UMBRA_BOOT_HEAP"), 10) {
    Ok(size) => size,
    Err(_) => 0,
};

/// The part in the image, for EL2's tables, the board and the plan of the VMs, and the part that is as large as the VMs need it.
struct BootHeap {
    heaps: [BootCell<Heap>; 2],
    sealed: BootCell<bool>,
}

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

/// So much memory for ever, if there is some left.
#[inline(never)]
pub(crate) fn take(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: The boot CPU is the only one that comes here, and only before `seal`, so the heap has one user at a time.
    unsafe {
        if *HEAP.sealed.get_mut() {
            return None;
        }
        // What the VMs' part has room for leaves the other to the rest.
        let mut heaps = HEAP.heaps.iter().rev();
        heaps.find_map(|heap| heap.get_mut().allocate_first_fit(layout).ok())
    }
}

/// Room for `count` values, that is nobody else's and stays. Boot ends where there is none.
fn room<T>(count: usize) -> &'static mut [MaybeUninit<T>] {
    let start = bytes(size_of::<T>().saturating_mul(count), align_of::<T>());
    // SAFETY: So many bytes, aligned so, that are nobody else's and stay.
    unsafe { slice::from_raw_parts_mut(start.as_ptr().cast(), count) }
}

#[inline(never)]
fn bytes(size: usize, align: usize) -> NonNull<u8> {
    let start = Layout::from_size_align(size.max(1), align).ok().and_then(take);
    start.unwrap_or_else(|| fatal::no_memory(size))
}

/// `value`, kept for ever.
#[inline]
pub(crate) fn keep<T>(value: T) -> &'static mut T {
    let room: *mut T = room::<T>(1).as_mut_ptr().cast();
    // SAFETY: Room for one value, which is written before anybody reads it.
    unsafe {
        room.write(value);
        &mut *room
    }
}

/// Values that live for ever, in room that is made for all of them at once.
pub(crate) struct List<T: 'static> {
    room: &'static mut [MaybeUninit<T>],
    len: usize,
}

impl<T> List<T> {
    /// Room for `most` values.
    pub(crate) fn new(most: usize) -> Self {
        Self { room: room(most), len: 0 }
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
    let start: *mut u32 = room::<u32>(count).as_mut_ptr().cast();
    // SAFETY: So many words, aligned so, that are nobody else's and stay; made zeroes before anybody reads them.
    unsafe {
        start.write_bytes(0, count);
        slice::from_raw_parts_mut(start, count)
    }
}
