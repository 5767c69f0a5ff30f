//! Asking a vCPU's own pCPU: exact reads, writes of its registers, accesses to its redistributor by others.
//!
//! Who asks sends a kick and waits, at most until a deadline, and serves meanwhile what is asked of its own vCPU, so two
//! that ask each other both get their answer. A vCPU that is resident nowhere and whose lock is free is looked at directly.

use core::sync::atomic::{AtomicBool, Ordering};

use hyp_abi::{call::Counter, errno::Errno};
use hyp_core::{
    kick::{self, Withdrawn},
    put,
    vgic::{Ich, MAX_LRS, attr::Register, cpuif::CpuIf, dist::SpiAsk},
};

use crate::{
    arch::{barrier, gic, timer},
    console,
    trap::Exit,
    vcpu::{Vcpu, VcpuState},
    vm::Vm,
};

/// How long another pCPU may take. Under emulation with fewer real CPUs than pCPUs, milliseconds are ordinary.
const PATIENCE_MS: u64 = 4000;

/// When who asks now gives up.
pub(crate) fn patience() -> u64 {
    timer::now() + timer::ticks(PATIENCE_MS)
}

/// What is asked of a vCPU's pCPU.
#[derive(Clone, Copy)]
pub(crate) enum Ask {
    /// Read a CPU-interface register.
    Get(Register),
    /// Write one.
    Set(Register, u64),
    /// Read from its redistributor: offset and size.
    Read(u64, u64),
    /// Write to it: offset, size and value.
    Write(u64, u64, u64),
    /// About the SPIs it holds.
    Spis(SpiAsk),
}

const GET: u64 = 0;
const SET: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 3;
const SPIS: u64 = 4;

impl Ask {
    /// As the request slot carries it.
    fn words(self) -> [u64; 3] {
        match self {
            Self::Get(register) => [GET, u64::from(register.id()), 0],
            Self::Set(register, value) => [SET, u64::from(register.id()), value],
            Self::Read(offset, size) => [READ | size << 8, offset, 0],
            Self::Write(offset, size, value) => [WRITE | size << 8, offset, value],
            Self::Spis(what) => [SPIS, what.to_word(), 0],
        }
    }

    fn from_words([kind, a, b]: [u64; 3]) -> Result<Self, Errno> {
        let size = kind >> 8;
        Ok(match kind & 0xFF {
            READ => Self::Read(a, size),
            WRITE => Self::Write(a, size, b),
            SPIS => Self::Spis(SpiAsk::from_word(a)),
            get_or_set => {
                let register = Register::from_id(a as u32)?;
                if get_or_set == GET {
                    Self::Get(register)
                } else {
                    Self::Set(register, b)
                }
            }
        })
    }

    /// Does it, with the vCPU's state in hand. `interface` is the hardware's if the vCPU is `resident`.
    fn perform<H: Ich>(self, vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState, interface: &mut H, resident: bool) -> Result<u64, Errno> {
        match self {
            Self::Get(register) | Self::Set(register, _) => {
                let mut wanted = cpuif(state, interface, resident);
                let Self::Set(_, value) = self else {
                    return register.get(&wanted);
                };
                register.set(&mut wanted, value)?;
                if resident {
                    gic::set_vmcr(wanted.vmcr.get());
                    gic::set_active_priorities(wanted.view.apr_count(), wanted.ap0r, wanted.ap1r);
                }
                let first_run = !state.cpuif.has_run;
                state.cpuif = wanted;
                if first_run {
                    state.template = wanted;
                    state.republish_template(vcpu);
                } else if resident {
                    state.changed(vcpu, vm, interface, wanted.vmcr);
                } else {
                    state.publish(vcpu, false);
                }
                Ok(0)
            }
            Self::Read(offset, size) => Ok(state.gic.read(interface, offset, size)),
            Self::Write(offset, size, value) => {
                state.gic.write(interface, &vm.dist, offset, size, value);
                vm.kick_spis(state.gic.take_kicks());
                Ok(0)
            }
            Self::Spis(what) => {
                let answer = state.gic.spi(interface, &vm.dist, what);
                vm.kick_spis(state.gic.take_kicks());
                Ok(u64::from(answer))
            }
        }
    }
}

/// The vCPU's CPU interface as it is now.
fn cpuif<H: Ich>(state: &VcpuState, interface: &H, resident: bool) -> CpuIf {
    let mut now = state.cpuif;
    if resident {
        now.vmcr = hyp_core::vgic::vmcr::Vmcr::new(interface.vmcr());
        (now.ap0r, now.ap1r) = gic::active_priorities(now.view.apr_count());
    }
    now
}

/// On the vCPU's own pCPU: serves what is asked of it. `resident`: it is in the registers, and goes on in the guest.
pub(crate) fn serve<H: Ich>(vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState, interface: &mut H, resident: bool) {
    let word = vcpu.inbox.drain();
    if word != 0 {
        vcpu.count_inbox();
        state.gic.receive(interface, &vm.dist, word);
    }
    if asked(&vcpu.refill) {
        state.gic.refresh(interface, &vm.dist);
    }
    state.gic.receive_spis(interface, &vm.dist);
    vm.kick_spis(state.gic.take_kicks());
    if asked(&vcpu.show) {
        show(vcpu, vm, interface);
    }
    vcpu.request.serve(
        |words| match Ask::from_words(words).and_then(|ask| ask.perform(vcpu, vm, state, interface, resident)) {
            Ok(value) => [0, value],
            Err(errno) => [errno.to_ret(), 0],
        },
    );
    if vcpu.kick.pending() {
        vcpu.kick.answer(|| state.publish(vcpu, resident));
    }
}

/// What waits in the inbox of a vCPU that is in no registers, and whose lock is held here, is seen and changed with the rest.
fn take_sgis(vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState) {
    let word = vcpu.inbox.drain_sgis();
    if word != 0 {
        vcpu.count_inbox();
        state.gic.receive(&mut vm.absent(), &vm.dist, word);
    }
}

/// Takes what a flag asks for; only a load while it asks for nothing.
fn asked(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::AcqRel)
}

/// Prints the vCPU's list registers, for the monitor. One that is not resident has none.
fn show<H: Ich>(vcpu: &Vcpu, vm: &Vm, interface: &H) {
    let mut lrs = [0; MAX_LRS];
    let mut count = 0;
    for (index, lr) in lrs.iter_mut().enumerate().take(interface.count()) {
        *lr = interface.lr(index);
        count += 1;
    }
    print_lrs(vcpu, vm, lrs.get(..count).unwrap_or_default());
}

#[cold]
fn print_lrs(vcpu: &Vcpu, vm: &Vm, lrs: &[u64]) {
    console::page(|out| {
        put!(out, "VM {} vCPU {}:", vm.id, vcpu.index)?;
        for (index, lr) in lrs.iter().enumerate() {
            put!(out, " LR{}={:#x}", index, *lr)?;
        }
        out.write_str(if lrs.is_empty() { " not resident\n" } else { "\n" })
    });
}

/// Asks for something to be done to `target`, a vCPU of `vm`, which may be running anywhere.
///
/// # Errors
/// What the request itself fails with; `ETIMEDOUT` when its pCPU did not answer by `deadline`.
pub(crate) fn ask(
    exit: &mut Exit<'_>,
    vm: &'static Vm,
    target: &'static Vcpu,
    reason: Counter,
    what: Ask,
    deadline: u64,
) -> Result<u64, Errno> {
    if core::ptr::eq(target, exit.vcpu) {
        let (_, _, state, interface) = exit.parts();
        return what.perform(target, vm, state, interface, true);
    }
    if let Some(state) = exit.neighbours.state_of(target) {
        take_sgis(target, vm, state);
        return what.perform(target, vm, state, &mut vm.absent(), false);
    }
    if let Some(mut state) = target.state.try_lock()
        && !state.in_place
    {
        take_sgis(target, vm, &mut state);
        return what.perform(target, vm, &mut state, &mut vm.absent(), false);
    }
    let mut claim = None;
    wait(exit, deadline, || {
        claim = target.request.claim();
        claim.is_some()
    })?;
    let Some(claim) = claim else { return Err(Errno::TimedOut) };
    let mut submitted = claim.submit(what.words());
    target.kick_for(reason);
    let mut results = None;
    let waited = wait(exit, deadline, || {
        results = submitted.poll();
        results.is_some()
    });
    let [status, value] = match (waited, results) {
        (Ok(()), Some(results)) => results,
        _ => match submitted.withdraw() {
            Withdrawn::Finished(results) => results,
            Withdrawn::Untouched | Withdrawn::Abandoned => return Err(Errno::TimedOut),
        },
    };
    Errno::from_ret(status).map(|_| value)
}

/// Has `target` publish what its registers hold now, by a kick to it alone, and returns when the shadow is that fresh.
///
/// # Errors
/// `ETIMEDOUT`.
pub(crate) fn freshen(exit: &mut Exit<'_>, target: &'static Vcpu, deadline: u64) -> Result<(), Errno> {
    let ticket = target.kick.raise();
    target.kick_for(Counter::KicksExact);
    wait(exit, deadline, || target.kick.is_answered(ticket))
}

/// Waits for another pCPU, and serves what is asked of this one.
pub(crate) fn wait(exit: &mut Exit<'_>, deadline: u64, done: impl FnMut() -> bool) -> Result<(), Errno> {
    let expired = || {
        barrier::relax();
        timer::now() >= deadline
    };
    let own = || {
        let (vcpu, vm, state, interface) = exit.parts();
        serve(vcpu, vm, state, interface, true);
        exit.neighbours.serve();
    };
    kick::wait(done, own, expired).map_err(|_| Errno::TimedOut)
}
