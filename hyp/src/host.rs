//! The host partition's calls (`hyp_abi::call`), in the order of their numbers.

use core::sync::atomic::{AtomicUsize, Ordering};

use hyp_abi::{
    attr::CPU_SYSREGS,
    call::{self, Counter, ExitKind, Verdict},
    errno::Errno,
};
use hyp_core::{
    forward::{Answer, Cookie, Exit as Pending},
    vgic::attr::{self, Attribute, Register},
};

use crate::{
    arch::timer,
    ask::{self, Ask},
    run::Phase,
    system,
    trap::{Exit, Leave},
    vm::{self, Vm},
    wait::{self, Waited},
};

/// What a call gives: `x1`, and `x2` where one has it.
type Result1 = Result<u64, Errno>;

/// Serves a call of the host partition's. `None`: there is no such call.
#[inline]
pub(crate) fn call(exit: &mut Exit<'_>) -> Option<Leave> {
    match exit.frame.x[0] as u32 {
        call::WAIT_EXIT => Some(wait_exit(exit)),
        call::COMPLETE_EXIT => {
            exit.frame.x[0] = complete_exit(exit);
            Some(Leave::Stay)
        }
        call::COMPLETE_AND_WAIT => match complete_exit(exit) {
            0 => Some(wait_exit(exit)),
            errno => {
                exit.frame.x[0] = errno;
                Some(Leave::Stay)
            }
        },
        function => other_call(exit, function),
    }
}

#[inline(never)]
fn other_call(exit: &mut Exit<'_>, function: u32) -> Option<Leave> {
    let [_, x1, x2, x3, x4, ..] = exit.frame.x;
    let result = match function {
        call::ATTR_GET..=call::VM_INFO => vm::find(x1)
            .ok_or(Errno::NoEntry)
            .and_then(|vm| about_vm(exit, function, vm, [x2, x3, x4])),
        #[cfg(feature = "test-triggers")]
        call::TRIGGER => crate::trigger::pull(x1, x2),
        _ => return None,
    };
    match result {
        Ok(value) => {
            exit.frame.x[0] = 0;
            exit.frame.x[1] = value;
        }
        Err(errno) => exit.frame.x[0] = errno.to_ret(),
    }
    Some(Leave::Stay)
}

/// A call that names `vm` in its `x1`; `args` are `x2` to `x4`.
fn about_vm(exit: &mut Exit<'_>, function: u32, vm: &'static Vm, args: [u64; 3]) -> Result1 {
    let [x2, x3, x4] = args;
    match function {
        call::ATTR_GET => return attr_get(exit, vm, x2, x3),
        call::ATTR_SET => return attr_set(exit, vm, x2, x3, x4),
        call::ATTR_HAS => attr::has(x2, x3, vm.vcpus.len())?,
        call::FILTER_SET => guest(vm)?.edit_filter(x2, x3, x4)?,
        call::VM_START => guest(vm)?.start()?,
        call::VM_STOP => return stop(exit, guest(vm)?),
        call::VM_RESUME => {
            // Also one that is being reset, or has ended: it is not to be stopped when it is started anew.
            let running = running(guest(vm)?);
            vm.hold(false);
            running?;
        }
        call::COUNTER => return counter(vm, x2, x3),
        call::EXACT_READ => return exact_read(exit, vm, x2, x3),
        call::CONTENDED_READ => return contended_read(vm, x2),
        call::MARK => system::mark(vm, x2),
        // `VM_INFO`.
        _ => {
            exit.frame.x[2] = u64::from(vm.exits.epoch());
            return Ok(vm.vcpus.len() as u64 | (vm.shown_state() as u64) << 16);
        }
    }
    Ok(0)
}

/// The host partition does not start, stop or filter itself.
fn guest(vm: &'static Vm) -> Result<&'static Vm, Errno> {
    if vm.id == 0 { Err(Errno::Invalid) } else { Ok(vm) }
}

fn running(vm: &'static Vm) -> Result<&'static Vm, Errno> {
    if vm.is_running() { Ok(vm) } else { Err(Errno::Invalid) }
}

/// The first wait starts every guest that the host has not started itself. Only the host's first vCPU waits.
#[inline(never)]
fn wait_exit(exit: &mut Exit<'_>) -> Leave {
    if exit.vcpu.index != 0 {
        // Nobody would wake it: see `system::wake_host`.
        exit.frame.x[0] = Errno::Busy.to_ret();
        return Leave::Stay;
    }
    vm::start_guests();
    let waited = if !exit.shared {
        wait::in_place(exit, |exit| next_exit(&mut exit.frame.x))
    } else if next_exit_of_shared(&mut exit.frame.x) {
        Waited::Done
    } else {
        Waited::Leaves
    };
    match waited {
        Waited::Done => Leave::Stay,
        Waited::Woken => {
            exit.frame.x[0] = Errno::Interrupted.to_ret();
            Leave::Stay
        }
        Waited::Leaves => {
            exit.phase = Phase::HostWaits;
            Leave::Go
        }
    }
}

/// The VM at which [`next_exit`] begins to look: the one after that of which the host was told last, so that no VM's calls keep another's
/// waiting until their deadlines decide.
static FIRST: AtomicUsize = AtomicUsize::new(0);

/// Puts what the host is to be told next into its `x0` to `x6`. False: there is nothing.
#[inline]
pub(crate) fn next_exit(x: &mut [u64]) -> bool {
    let vms = vm::all();
    let mut at = FIRST.load(Ordering::Relaxed);
    for _ in vms {
        at = if at < vms.len() { at } else { 0 };
        if vms.get(at).is_some_and(|vm| vm.exits.any() && tell(vm, x)) {
            return true;
        }
        at += 1;
    }
    false
}

/// [`next_exit`], where the host partition shares its pCPU.
#[inline(never)]
pub(crate) fn next_exit_of_shared(x: &mut [u64]) -> bool {
    next_exit(x)
}

/// [`next_exit`] of one VM. The host partition's own exits are nobody's to be told.
#[inline(never)]
fn tell(vm: &Vm, x: &mut [u64]) -> bool {
    if vm.id == 0 {
        return false;
    }
    let (Some(pending), Some([x0, x1, x2, x3, x4, x5, x6])) = (vm.exits.deliver(), x.first_chunk_mut()) else {
        return false;
    };
    FIRST.store(vm.id + 1, Ordering::Relaxed);
    *x0 = 0;
    let info = |kind, vcpu| call::exit_info(kind, vm.id as u16, vcpu);
    (*x1, *x2, [*x3, *x4, *x5, *x6]) = match pending {
        Pending::Call { cookie, vcpu, regs, .. } => (cookie.get(), info(pending.kind(), vcpu as u16), regs),
        Pending::Ended { crashed } => (0, info(ExitKind::Ended, 0), [u64::from(crashed), 0, 0, 0]),
        Pending::Reset => (0, info(ExitKind::Reset, 0), [0; 4]),
    };
    true
}

/// Gives a waiting vCPU the host's answer. Returns the host's `x0`.
#[inline(never)]
fn complete_exit(exit: &mut Exit<'_>) -> u64 {
    let [_, x1, x2, a, b, c, d, ..] = exit.frame.x;
    let cookie = Cookie::new(x1);
    let Some(verdict) = Verdict::from_u64(x2) else {
        return Errno::Invalid.to_ret();
    };
    let Some(vm) = vm::find(cookie.vm() as u64).filter(|vm| vm.id != 0) else {
        return Errno::NoDevice.to_ret();
    };
    let answer = Answer {
        verdict,
        values: [a, b, c, d],
    };
    match vm.exits.answer(cookie, &answer) {
        Ok(index) => {
            if let Some(vcpu) = vm.vcpus.get(index) {
                vcpu.kick_plainly();
            }
            0
        }
        Err(errno) => {
            if let Some(vcpu) = vm.vcpus.get(cookie.vcpu()).or(vm.vcpus.first()) {
                vcpu.count_remote(Counter::Dropped);
            }
            errno.to_ret()
        }
    }
}

fn attr_get(exit: &mut Exit<'_>, vm: &'static Vm, group: u64, attr: u64) -> Result1 {
    match find(vm, group, attr)? {
        Attribute::CpuSysreg { vcpu, register } => exact(exit, vm, vcpu, register, ask::patience()),
        Attribute::Init => Err(Errno::NoDevice),
    }
}

fn attr_set(exit: &mut Exit<'_>, vm: &'static Vm, group: u64, attr: u64, value: u64) -> Result1 {
    match find(vm, group, attr)? {
        Attribute::CpuSysreg { vcpu, register } => {
            let target = vm.vcpus.get(vcpu).ok_or(Errno::Invalid)?;
            ask::ask(exit, vm, target, Counter::KicksRequest, Ask::set(register, value), ask::patience())
        }
        Attribute::Init => vm.init_vgic().map(|()| 0),
    }
}

/// Finds an attribute; a `CPU_SYSREGS` one of a VM whose vGIC is not initialised is `EBUSY`, and counted.
fn find(vm: &Vm, group: u64, attribute: u64) -> Result<Attribute, Errno> {
    let found = attr::find(group, attribute, vm.vcpus.len(), vm.ready.is_ready());
    if let (Err(Errno::Busy), Some(vcpu)) = (found, vm.vcpus.first()) {
        vcpu.count_remote(Counter::Busy);
    }
    found
}

fn exact_read(exit: &mut Exit<'_>, vm: &'static Vm, attribute: u64, microseconds: u64) -> Result1 {
    const MOST_US: u64 = 10_000_000;
    // CNTFRQ_EL0 has 32 bits.
    let ticks = (timer::frequency() & 0xFFFF_FFFF) * microseconds.min(MOST_US) / 1_000_000;
    let deadline = timer::now() + ticks;
    match find(vm, CPU_SYSREGS, attribute)? {
        Attribute::CpuSysreg { vcpu, register } => exact(exit, vm, vcpu, register, deadline),
        Attribute::Init => Err(Errno::NoDevice),
    }
}

/// A register's value now. The vCPU alone is kicked, and only if its lock is held. What the record has is read from the
/// record it publishes; active priorities are asked for.
fn exact(exit: &mut Exit<'_>, vm: &'static Vm, vcpu: usize, register: Register, deadline: u64) -> Result1 {
    let target = vm.vcpus.get(vcpu).ok_or(Errno::Invalid)?;
    if let Some(state) = exit.neighbours.state_of(target) {
        return register.get(&state.cpuif);
    }
    if let Some(state) = target.state.try_lock() {
        return register.get(&state.cpuif);
    }
    let result = match register {
        Register::Ctlr | Register::Pmr | Register::Bpr0 | Register::Bpr1 | Register::Igrpen0 | Register::Igrpen1 => {
            ask::freshen(exit, target, deadline).and_then(|()| published(target, register))
        }
        _ => ask::ask(exit, vm, target, Counter::KicksExact, Ask::get(register), deadline),
    };
    if result == Err(Errno::TimedOut) {
        target.count_remote(Counter::Late);
    }
    result
}

fn published(target: &crate::vcpu::Vcpu, register: Register) -> Result1 {
    const TRIES: u32 = 1 << 20;
    let record = target.slot.read(&mut 0, TRIES).ok_or(Errno::TimedOut)?;
    match register {
        Register::Ctlr => Ok(record.ctlr()),
        Register::Pmr => Ok(record.pmr()),
        Register::Bpr0 => Ok(record.bpr0()),
        Register::Bpr1 => Ok(record.bpr1()),
        Register::Igrpen0 => Ok(record.igrpen0()),
        Register::Igrpen1 => Ok(record.igrpen1()),
        _ => Err(Errno::NoDevice),
    }
}

/// KVM's way: every vCPU's lock must be free, whichever is asked about.
fn contended_read(vm: &'static Vm, attribute: u64) -> Result1 {
    let Attribute::CpuSysreg { vcpu: wanted, register } = find(vm, CPU_SYSREGS, attribute)? else {
        return Err(Errno::NoDevice);
    };
    let mut value = Err(Errno::Invalid);
    let mut guards = [const { None }; hyp_abi::layout::MAX_VCPUS];
    for (vcpu, held) in vm.vcpus.iter().zip(guards.iter_mut()) {
        match vcpu.state.try_lock() {
            Some(state) => {
                if vcpu.index == wanted {
                    value = register.get(&state.cpuif);
                }
                *held = Some(state);
            }
            None => {
                if let Some(target) = vm.vcpus.get(wanted) {
                    target.count_remote(Counter::Busy);
                }
                return Err(Errno::Busy);
            }
        }
    }
    value
}

/// Holds every vCPU and waits until each lock is free. One that ends meanwhile is not stopped when it is started anew.
fn stop(exit: &mut Exit<'_>, vm: &'static Vm) -> Result1 {
    running(vm)?;
    let before = vm.sum(Counter::Stops);
    let word = vm.hold(true);
    exit.neighbours.hold(vm);
    let deadline = ask::patience();
    let stopped = vm.vcpus.iter().try_for_each(|vcpu| {
        ask::wait(exit, deadline, || {
            vm.ending() || (vcpu.held.load(Ordering::Acquire) == word && !vcpu.state.is_locked())
        })
    });
    if let Err(errno) = stopped.and_then(|()| running(vm).map(drop)) {
        vm.hold(false);
        return Err(errno);
    }
    Ok(vm.sum(Counter::Stops).wrapping_sub(before))
}

fn counter(vm: &Vm, vcpu: u64, counter: u64) -> Result1 {
    let counter = Counter::from_u64(counter).ok_or(Errno::NoDevice)?;
    if vcpu == call::ALL_VCPUS {
        return Ok(vm.sum(counter));
    }
    usize::try_from(vcpu)
        .ok()
        .and_then(|index| vm.vcpus.get(index))
        .map(|vcpu| vcpu.counter(counter))
        .ok_or(Errno::Invalid)
}
