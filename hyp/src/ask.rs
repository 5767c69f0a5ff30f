//! Asking a vCPU's own pCPU: exact reads, writes of its registers, accesses to its redistributor by others.
//!
//! Who asks sends a kick and waits, at most until a deadline, and serves meanwhile what is asked of its own vCPU, so two
//! that ask each other both get their answer. A vCPU that is resident nowhere and whose lock is free is looked at directly.

use core::sync::atomic::{AtomicBool, Ordering};

use hyp_abi::{call::Counter, errno::Errno};
use hyp_core::{
    kick::{self, Withdrawn},
    put,
    vgic::{Ich, attr::Register, cpuif::CpuIf, dist::SpiAsk, vmcr::Vmcr},
};

use crate::{
    arch::{
        barrier,
        gic::{self, Interface},
        timer,
    },
    console,
    trap::{Exit, Leave},
    vcpu::{Vcpu, VcpuState},
    vm::Vm,
};

/// How long another pCPU may take. Under emulation with fewer real CPUs than pCPUs, milliseconds are ordinary.
const PATIENCE_MS: u64 = 4000;

/// When who asks now gives up.
pub(crate) fn patience() -> u64 {
    timer::now() + timer::ticks(PATIENCE_MS)
}

/// What is asked of a vCPU's pCPU, as the request slot carries it: what, with what, and a value.
#[derive(Clone, Copy)]
pub(crate) struct Ask([u64; 3]);

/// What is asked, in bits 7:0 of the first word; above is an access's size.
const GET: u64 = 0;
const SET: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 3;
const SPIS: u64 = 4;

impl Ask {
    /// To read a CPU-interface register.
    pub(crate) fn get(register: Register) -> Self {
        Self([GET, register.id().into(), 0])
    }

    /// To write one.
    pub(crate) fn set(register: Register, value: u64) -> Self {
        Self([SET, register.id().into(), value])
    }

    /// To read from its redistributor.
    pub(crate) const fn read(offset: u64, size: u64) -> Self {
        Self([READ | size << 8, offset, 0])
    }

    /// To write to it.
    pub(crate) const fn write(offset: u64, size: u64, value: u64) -> Self {
        Self([WRITE | size << 8, offset, value])
    }

    /// About the SPIs it holds.
    pub(crate) const fn spis(what: SpiAsk) -> Self {
        Self([SPIS, what.to_word(), 0])
    }

    /// Does it, with the vCPU's state in hand, and the hardware's interface if the vCPU is resident.
    fn perform(self, vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState, resident: Option<&mut Interface>) -> Result<u64, Errno> {
        let Self([what, with, value]) = self;
        let register = Register::from_id(with as u32);
        match what & 0xFF {
            GET => register?.get(&cpuif(state, resident.is_some())),
            SET => edit(vcpu, vm, state, resident, register?, value),
            access => {
                let (size, dist, mut absent) = (what >> 8, &vm.dist, vm.absent());
                let interface = resident.unwrap_or(&mut absent);
                let answer = match access {
                    READ => state.gic.read(interface, with, size),
                    WRITE => {
                        state.gic.write(interface, dist, with, size, value);
                        0
                    }
                    _ => state.gic.spi(interface, dist, SpiAsk::from_word(with)),
                };
                vm.kick_spis(state.gic.take_kicks());
                Ok(answer)
            }
        }
    }
}

/// Writes a CPU-interface register of the vCPU, which has `resident` if it is resident.
fn edit(
    vcpu: &Vcpu,
    vm: &Vm,
    state: &mut VcpuState,
    resident: Option<&mut Interface>,
    register: Register,
    value: u64,
) -> Result<u64, Errno> {
    let mut wanted = cpuif(state, resident.is_some());
    register.set(&mut wanted, value)?;
    if resident.is_some() {
        gic::set_vmcr(wanted.vmcr.get());
        gic::set_active_priorities(wanted.view.apr_count(), wanted.ap0r, wanted.ap1r);
    }
    let first_run = !state.cpuif.has_run;
    state.cpuif = wanted;
    match resident {
        _ if first_run => {
            state.template = wanted;
            state.republish_template(vcpu);
        }
        Some(interface) => state.changed(vcpu, vm, interface, wanted.vmcr),
        None => state.publish(vcpu, false),
    }
    Ok(0)
}

/// The vCPU's CPU interface as it is now.
fn cpuif(state: &VcpuState, resident: bool) -> CpuIf {
    let mut now = state.cpuif;
    if resident {
        now.vmcr = Vmcr::new(gic::vmcr());
        (now.ap0r, now.ap1r) = gic::active_priorities(now.view.apr_count());
    }
    now
}

/// On the vCPU's own pCPU: serves what is asked of it. `resident`, with the hardware's interface: it is in the registers, and goes on in
/// the guest. Says whether anything was in its inbox.
pub(crate) fn serve(vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState, mut resident: Option<&mut Interface>) -> bool {
    let mut absent = vm.absent();
    let interface = resident.as_deref_mut().unwrap_or(&mut absent);
    let taken = vcpu.inbox.drain();
    if let Some(word) = taken.filter(|word| *word != 0) {
        vcpu.count_inbox();
        state.gic.receive(interface, &vm.dist, word);
    }
    state.gic.receive_spis(interface, &vm.dist);
    vm.kick_spis(state.gic.take_kicks());
    if asked(&vcpu.show) {
        show(vcpu, vm, interface);
    }
    vcpu.request
        .serve(|words| match Ask(words).perform(vcpu, vm, state, resident.as_deref_mut()) {
            Ok(value) => [0, value],
            Err(errno) => [errno.to_ret(), 0],
        });
    if vcpu.kick.pending() {
        vcpu.kick.answer(|| state.publish(vcpu, resident.is_some()));
    }
    taken.is_some()
}

/// What waits in the inbox of a vCPU that is in no registers, and whose lock is held here, is seen and changed with the rest.
pub(crate) fn take_sgis(vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState) {
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
#[cold]
fn show(vcpu: &Vcpu, vm: &Vm, interface: &Interface) {
    console::page(|out| {
        put!(out, "VM {} vCPU {}:", vm.id, vcpu.index);
        for index in 0..interface.count() {
            put!(out, " LR{}={:#x}", index, interface.lr(index));
        }
        out.words(if interface.count() == 0 { " not resident\n" } else { "\n" });
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
        return what.perform(target, vm, state, Some(interface));
    }
    if let Some(state) = exit.neighbours.state_of(target) {
        take_sgis(target, vm, state);
        return what.perform(target, vm, state, None);
    }
    if let Some(mut state) = target.state.try_lock()
        && !state.in_place
    {
        take_sgis(target, vm, &mut state);
        return what.perform(target, vm, &mut state, None);
    }
    let mut claim = None;
    wait(exit, deadline, || {
        claim = target.request.claim();
        claim.is_some()
    })?;
    let Some(claim) = claim else { return Err(Errno::TimedOut) };
    let mut submitted = claim.submit(what.0);
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
        if serve(vcpu, vm, state, Some(interface)) {
            look_again(exit);
        }
        exit.neighbours.serve();
    };
    kick::wait(done, own, expired).map_err(|_| Errno::TimedOut)
}

/// The word to look may have been taken out of the inbox of this vCPU, which waits. What it was for has been served, unless the vCPU is
/// to leave: that is for the kick that came with it, and has not been taken.
#[cold]
fn look_again(exit: &Exit<'_>) {
    if exit.may_stay() == Leave::Go {
        exit.vcpu.inbox.look();
    }
}
