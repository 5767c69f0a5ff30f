//! Test images only: EL2 breaks on purpose, so that a test can read what it says, or is slow where two could meet.

use core::{
    hint::black_box,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use hyp_abi::{call::Trigger, errno::Errno};

use crate::{
    arch::{barrier, timer},
    boot, percpu, vm,
};

/// What the pCPU in the low half is to do, plus one in the high half; 0 for nothing.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// The host asks pCPU `pcpu` to break in the way `what` names.
///
/// # Errors
/// `EINVAL`: no such way, or no vCPU runs there.
pub(crate) fn pull(what: u64, pcpu: u64) -> Result<u64, Errno> {
    if what > Trigger::SlowSetup as u64 {
        return Err(Errno::Invalid);
    }
    let vcpu = vm::all()
        .iter()
        .flat_map(|vm| vm.vcpus)
        .find(|vcpu| vcpu.pcpu as u64 == pcpu)
        .ok_or(Errno::Invalid)?;
    ARMED.store((what + 1) << 32 | pcpu, Ordering::Release);
    if percpu::this().index as u64 == pcpu {
        check();
    } else {
        vcpu.wake();
    }
    Ok(0)
}

/// Breaks, if this pCPU is to.
pub(crate) fn check() {
    let armed = ARMED.load(Ordering::Acquire);
    if armed == 0 || armed & 0xFFFF_FFFF != percpu::this().index as u64 {
        return;
    }
    match (armed >> 32) - 1 {
        0 => boom(),
        1 => {
            black_box(overflow(black_box(1)));
        }
        2 => {
            // SAFETY: None: the address is not mapped, and that is the point.
            unsafe { ptr::read_volatile(0x10_0000_0000 as *const u64) };
        }
        _ => {}
    }
}

/// A VM is being set up: takes its time, if it is to.
pub(crate) fn linger() {
    if ARMED.load(Ordering::Acquire) >> 32 != Trigger::SlowSetup as u64 + 1 {
        return;
    }
    let end = timer::now() + timer::ticks(1000);
    while timer::now() < end {
        barrier::relax();
    }
}

/// A pCPU comes up, later than it may if a vCPU of a VM with these `bootargs` is to run there.
pub(crate) fn come_late(pcpu: usize) {
    let mut late = vm::all().iter().filter(|vm| vm.desc.bootargs == b"late").flat_map(|vm| vm.vcpus);
    if !late.any(|vcpu| vcpu.pcpu == pcpu) {
        return;
    }
    let end = timer::now() + timer::ticks(boot::SECONDARY_MS + 300);
    while timer::now() < end {
        barrier::relax();
    }
}

/// The run is being ended: waits for somebody else who ends it, too, if there is a VM with these `bootargs`.
pub(crate) fn meet() {
    static ARRIVED: AtomicU64 = AtomicU64::new(0);
    if !vm::all().iter().any(|vm| vm.desc.bootargs == b"slow-end") {
        return;
    }
    let here = ARRIVED.fetch_add(1, Ordering::AcqRel);
    let end = timer::now() + timer::ticks(3000);
    while ARRIVED.load(Ordering::Acquire) | 1 == here | 1 && timer::now() < end {
        barrier::relax();
    }
}

#[allow(clippy::panic, reason = "the point")]
fn boom() {
    panic!("test trigger");
}

#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let page = black_box([depth; 64]);
    if black_box(depth) == u64::MAX {
        0
    } else {
        overflow(depth + 1) + page[(depth % 64) as usize]
    }
}
