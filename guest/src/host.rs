//! The host partition's side: one typed function for each of Umbra's calls, the shadow pages, and a loop that serves
//! exits. `docs/host-abi.md` tells the story.

use crate::smccc::{Conduit, call7, hvc};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hyp_abi::call::{self, Counter, ExitKind, Trigger, VmState, exit_parts};
use hyp_abi::errno::Errno;
use hyp_abi::layout::{MAX_VMS, SHADOW_BASE, SHADOW_STRIDE};
use hyp_abi::shadow::ShadowPage;
use hyp_abi::smccc::{UMBRA_UID, VENDOR_HYP_REVISION, VENDOR_HYP_UID};

pub use hyp_abi::call::Verdict;

/// Makes a host call as it is: `x1` to `x6` in, `x0` to `x6` out.
#[must_use]
pub fn raw(function: u32, [x1, x2, x3, x4, x5, x6]: [u64; 6]) -> [u64; 7] {
    call7(Conduit::Hvc, [u64::from(function), x1, x2, x3, x4, x5, x6])
}

fn status(function: u32, arguments: [u64; 4]) -> Result<u64, Errno> {
    let [x1, x2, x3, x4] = arguments;
    let [x0, ..] = raw(function, [x1, x2, x3, x4, 0, 0]);
    Errno::from_ret(x0)
}

fn value(function: u32, [x1, x2, x3]: [u64; 3]) -> Result<u64, Errno> {
    let [x0, r1, ..] = raw(function, [x1, x2, x3, 0, 0, 0]);
    Errno::from_ret(x0).map(|_| r1)
}

/// The revision of the calls and of the shadow page below: major, minor. `None`: it is not Umbra.
#[must_use]
pub fn revision() -> Option<[u32; 2]> {
    let ask = |function| hvc(function, 0, 0, 0).map(|word| word as u32);
    let [major, minor, ..] = ask(VENDOR_HYP_REVISION);
    (ask(VENDOR_HYP_UID) == UMBRA_UID).then_some([major, minor])
}

/// An exit that [`wait_exit`] delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Names the exit in [`complete_exit`].
    pub cookie: u64,
    /// Why.
    pub kind: ExitKind,
    /// Whose.
    pub vm: u16,
    /// Which vCPU.
    pub vcpu: u16,
    /// The guest's `x0` to `x3`. For [`ExitKind::Ended`], `x[0]` is 0 for off, 1 for crashed.
    pub x: [u64; 4],
}

impl Exit {
    /// The function that a forwarded call names.
    #[must_use]
    pub const fn function(&self) -> u32 {
        self.x[0] as u32
    }
    /// Whether it waits for an answer.
    #[must_use]
    pub const fn wants_answer(&self) -> bool {
        matches!(self.kind, ExitKind::Hvc | ExitKind::Smc)
    }
}

/// The host's answer: a verdict, and `x0` to `x3` for [`Verdict::Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is to happen.
    pub verdict: Verdict,
    /// The guest's `x0` to `x3`.
    pub x: [u64; 4],
}

impl Answer {
    /// Do it.
    pub const ALLOW: Self = Self::verdict(Verdict::Allow);
    /// Refuse it.
    pub const DENY: Self = Self::verdict(Verdict::Deny);
    /// It failed.
    pub const FAIL: Self = Self::verdict(Verdict::Fail);

    const fn verdict(verdict: Verdict) -> Self {
        Self { verdict, x: [0; 4] }
    }

    /// The call returns `x0`, and zeroes in `x1` to `x3`.
    #[must_use]
    pub const fn value(x0: u64) -> Self {
        Self {
            verdict: Verdict::Values,
            x: [x0, 0, 0, 0],
        }
    }
}

/// `WAIT_EXIT`: the next exit.
///
/// # Errors
/// `EINTR`: the host has a pending interrupt. `EINVAL`: hyp gave a kind this runtime does not know.
pub fn wait_exit() -> Result<Exit, Errno> {
    told(raw(call::WAIT_EXIT, [0; 6]))
}

#[inline]
fn told([x0, cookie, info, a, b, c, d]: [u64; 7]) -> Result<Exit, Errno> {
    Errno::from_ret(x0)?;
    let (kind, vm, vcpu) = exit_parts(info);
    Ok(Exit {
        cookie,
        kind: kind.ok_or(Errno::Invalid)?,
        vm,
        vcpu,
        x: [a, b, c, d],
    })
}

/// `COMPLETE_AND_WAIT`: answers an exit and waits for the next.
///
/// # Errors
/// `ENXIO`: no such exit is outstanding, and nothing was waited for. `EINTR`: it was answered, and the host has a pending interrupt.
/// `EINVAL`: hyp gave a kind this runtime does not know.
pub fn complete_and_wait(cookie: u64, answer: Answer) -> Result<Exit, Errno> {
    let [a, b, c, d] = answer.x;
    told(raw(call::COMPLETE_AND_WAIT, [cookie, answer.verdict as u64, a, b, c, d]))
}

/// `COMPLETE_EXIT`: answers an exit.
///
/// # Errors
/// `ENXIO`: no such exit is outstanding.
pub fn complete_exit(cookie: u64, answer: Answer) -> Result<(), Errno> {
    let [a, b, c, d] = answer.x;
    let [x0, ..] = raw(call::COMPLETE_EXIT, [cookie, answer.verdict as u64, a, b, c, d]);
    Errno::from_ret(x0).map(|_| ())
}

/// `ATTR_GET`.
///
/// # Errors
/// As KVM's: `ENXIO`, `EBUSY`, `EINVAL`; `ENOENT` for a VM that is not there.
pub fn attr_get(vm: u64, group: u64, attribute: u64) -> Result<u64, Errno> {
    value(call::ATTR_GET, [vm, group, attribute])
}

/// `ATTR_SET`.
///
/// # Errors
/// As [`attr_get`].
pub fn attr_set(vm: u64, group: u64, attribute: u64, value: u64) -> Result<(), Errno> {
    status(call::ATTR_SET, [vm, group, attribute, value]).map(|_| ())
}

/// `ATTR_HAS`.
///
/// # Errors
/// `ENXIO`: there is no such attribute.
pub fn attr_has(vm: u64, group: u64, attribute: u64) -> Result<(), Errno> {
    status(call::ATTR_HAS, [vm, group, attribute, 0]).map(|_| ())
}

/// `FILTER_SET`: `action` is 0 handle, 1 deny, 2 forward.
///
/// # Errors
/// `EINVAL`: bad range, action or padding. `EEXIST`: it overlaps a range, or a reserved one. `EBUSY`: the VM has run.
pub fn filter_set(vm: u64, base: u64, count: u64, action: u64) -> Result<(), Errno> {
    status(call::FILTER_SET, [vm, base, count, action]).map(|_| ())
}

/// `VM_START`.
///
/// # Errors
/// `EEXIST`: it runs already.
pub fn vm_start(vm: u64) -> Result<(), Errno> {
    status(call::VM_START, [vm, 0, 0, 0]).map(|_| ())
}

/// `VM_STOP`: returns how many vCPUs had to leave their pCPUs. One that waits for a verdict has none to leave.
///
/// # Errors
/// `ENOENT`: no such VM. `EINVAL`: it does not run. `ETIMEDOUT`: a vCPU did not leave, and the VM goes on.
pub fn vm_stop(vm: u64) -> Result<u64, Errno> {
    value(call::VM_STOP, [vm, 0, 0])
}

/// `VM_RESUME`.
///
/// # Errors
/// `ENOENT`: no such VM. `EINVAL`: the host partition itself, or it does not run.
pub fn vm_resume(vm: u64) -> Result<(), Errno> {
    status(call::VM_RESUME, [vm, 0, 0, 0]).map(|_| ())
}

/// `COUNTER`, of one vCPU or of [`call::ALL_VCPUS`].
///
/// # Errors
/// `ENOENT`: no such VM. `EINVAL`: no such vCPU. `ENXIO`: no such counter.
pub fn counter(vm: u64, vcpu: u64, counter: Counter) -> Result<u64, Errno> {
    value(call::COUNTER, [vm, vcpu, counter as u64])
}

/// `EXACT_READ` of a `CPU_SYSREGS` attribute.
///
/// # Errors
/// `ETIMEDOUT`: no answer within `microseconds`. Else as [`attr_get`].
pub fn exact_read(vm: u64, attribute: u64, microseconds: u64) -> Result<u64, Errno> {
    value(call::EXACT_READ, [vm, attribute, microseconds])
}

/// `CONTENDED_READ` of a `CPU_SYSREGS` attribute.
///
/// # Errors
/// `EBUSY`: a vCPU's lock is held. Else as [`attr_get`].
pub fn contended_read(vm: u64, attribute: u64) -> Result<u64, Errno> {
    value(call::CONTENDED_READ, [vm, attribute, 0])
}

/// `MARK`: Umbra prints a record of the VM's counters with this label.
///
/// # Errors
/// `ENOENT`: no such VM.
pub fn mark(vm: u64, label: u64) -> Result<(), Errno> {
    status(call::MARK, [vm, label, 0, 0]).map(|_| ())
}

/// What [`vm_info`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmInfo {
    /// How many vCPUs it has.
    pub vcpus: usize,
    /// What it is doing; `None` for a state this runtime does not know.
    pub state: Option<VmState>,
    /// How often it was started anew; part of every cookie.
    pub epoch: u64,
}

/// `VM_INFO`.
///
/// # Errors
/// `ENOENT`: no such VM.
pub fn vm_info(vm: u64) -> Result<VmInfo, Errno> {
    let [x0, info, epoch, ..] = raw(call::VM_INFO, [vm, 0, 0, 0, 0, 0]);
    Errno::from_ret(x0)?;
    Ok(VmInfo {
        vcpus: (info & 0xFFFF) as usize,
        state: VmState::from_u8((info >> 16) as u8),
        epoch,
    })
}

/// `TRIGGER`, which only test images have.
///
/// # Errors
/// Images without the feature refuse.
pub fn trigger(what: Trigger, pcpu: u64) -> Result<u64, Errno> {
    status(call::TRIGGER, [what as u64, pcpu, 0, 0])
}

/// The ids of the VMs that there are, the host partition's own (0) not included.
pub fn vms() -> impl Iterator<Item = u64> {
    (1..MAX_VMS as u64).filter(|&vm| vm_info(vm).is_ok())
}

/// The shadow page of `vm`. Pages beyond [`MAX_VMS`] read as the last one's.
#[must_use]
pub fn shadow(vm: u64) -> &'static ShadowPage {
    let vm = vm.min(MAX_VMS as u64 - 1);
    // SAFETY: Umbra maps a page of this layout, read-only, at this address for every VM that `vm_info` knows; a program
    // that asks for another one gets an abort, not memory. `ShadowPage` is made of atomics, so that hyp's writes to it are
    // no data race, and all bit patterns are valid.
    unsafe { &*((SHADOW_BASE + vm * SHADOW_STRIDE) as *const ShadowPage) }
}

/// One VM is not over, as far as its exits tell.
static SOME_LEFT: AtomicBool = AtomicBool::new(false);
/// Who was seen before its end, and whose end was told: a bit each.
static SEEN: AtomicU64 = AtomicU64::new(0);
static TOLD: AtomicU64 = AtomicU64::new(0);

/// The next exit; `None` when every VM has ended, and the end of each that had not when this was first called was told.
#[must_use]
pub fn next_exit() -> Option<Exit> {
    while SOME_LEFT.load(Ordering::Relaxed) || vms().filter(|&vm| !is_over(vm)).count() != 0 {
        SOME_LEFT.store(true, Ordering::Relaxed);
        if let Ok(exit) = wait_exit() {
            return Some(noted(exit));
        }
    }
    None
}

/// Whether `vm` has ended and no end of it is to be told. That of one that was never seen may have been told to this program before it
/// was started anew, or to nobody: one that could not be started has none.
fn is_over(vm: u64) -> bool {
    if !has_ended(vm) {
        SEEN.fetch_or(1 << vm, Ordering::Relaxed);
        return false;
    }
    (SEEN.load(Ordering::Relaxed) & !TOLD.load(Ordering::Relaxed)) >> vm & 1 == 0
}

/// Notes an end: whether it was the last is looked at before the next wait.
#[inline]
fn noted(exit: Exit) -> Exit {
    match exit.kind {
        ExitKind::Ended => {
            TOLD.fetch_or(1 << exit.vm, Ordering::Relaxed);
            SOME_LEFT.store(false, Ordering::Relaxed);
        }
        ExitKind::Reset => {
            TOLD.fetch_and(!(1 << exit.vm), Ordering::Relaxed);
        }
        ExitKind::Hvc | ExitKind::Smc => {}
    }
    exit
}

/// Serves exits until every VM has ended. `decide` sees each exit, the ends too, and gives the answer to those that want one; `None`
/// leaves an exit unanswered.
pub fn serve(mut decide: impl FnMut(&Exit) -> Option<Answer>) {
    let mut next = next_exit();
    while let Some(exit) = next {
        next = match decide(&exit) {
            Some(answer) if exit.wants_answer() => match complete_and_wait(exit.cookie, answer) {
                Ok(exit) => Some(noted(exit)),
                // ENXIO means that the deadline was faster: hyp counts it, and there is nothing left to do.
                Err(_) => next_exit(),
            },
            _ => next_exit(),
        };
    }
}

/// Whether `vm` is off or crashed.
#[must_use]
pub fn has_ended(vm: u64) -> bool {
    matches!(
        vm_info(vm),
        Ok(VmInfo {
            state: Some(VmState::Off | VmState::Crashed),
            ..
        })
    )
}
