//! What a vCPU that has its pCPU to itself waits for without leaving it: the host's verdict on a call of its own, or, the host
//! partition's, an exit to serve. Its registers stay where they are.

use core::mem;

use hyp_abi::{
    call::{Counter, VmState},
    smccc::{Conduit, NOT_SUPPORTED},
};
use hyp_core::{
    forward::{Cut, End, Resolution, Waiting},
    psci::{self, Forwarded, Outcome},
    vgic::cpuif::running_priority,
};

use crate::{
    arch::{
        barrier,
        gic::{self, KICK_SGI},
        timer,
    },
    run::Phase,
    system,
    trap::{self, Exit, Frame, Leave},
    vcpu::Vcpu,
    vm::{View, Vm},
};

/// How a wait in place ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// What was waited for is there.
    Done,
    /// An interrupt is there for the vCPU.
    Woken,
    /// The vCPU is to leave its pCPU.
    Leaves,
}

/// The resident vCPU, which is alone on its pCPU, waits in a call of its own until `done` says so or an interrupt is there for it.
pub(crate) fn in_place(exit: &mut Exit<'_>, mut done: impl FnMut(&mut Exit<'_>) -> bool) -> Waited {
    loop {
        if done(exit) {
            return Waited::Done;
        }
        if woken(exit) {
            return Waited::Woken;
        }
        barrier::wfi();
        let intid = gic::acknowledge();
        if intid == KICK_SGI && exit.vcpu.inbox.is_untouched() {
            // It was only to look at what is waited for.
            gic::drop_and_deactivate(intid);
            check_trigger();
        } else if trap::interrupt(exit, intid) == Leave::Go {
            return Waited::Leaves;
        }
    }
}

/// [`would_wake`], of one that has just been woken or has nothing there: an interrupt that a physical one brings wakes its pCPU first.
#[inline]
fn woken(exit: &mut Exit<'_>) -> bool {
    if exit.vcpu.inbox.is_empty() && exit.state.gic.is_quiet(&exit.vm.dist) {
        return false;
    }
    let (_, vm, state, interface) = exit.parts();
    state.gic.receive_spis(interface, &vm.dist);
    vm.kick_spis(state.gic.take_kicks());
    would_wake(exit)
}

/// Whether an interrupt would wake the resident vCPU from WFI.
#[inline(never)]
pub(crate) fn would_wake(exit: &Exit<'_>) -> bool {
    let cpuif = &exit.state.cpuif;
    let (group0, group1) = gic::active_priorities(cpuif.view.apr_count());
    let running = running_priority(&cpuif.view, &group0, &group1);
    exit.state.gic.wakes(&exit.interface, &exit.vm.dist, cpuif.vmcr, running) || !exit.vcpu.inbox.is_empty()
}

/// On purpose, in test images.
fn check_trigger() {
    #[cfg(feature = "test-triggers")]
    crate::trigger::check();
}

/// The host decides. The target of a `CPU_ON` is claimed before the host hears of it; the calling vCPU alone waits.
#[inline(always)]
pub(crate) fn forward(exit: &mut Exit<'_>, forwarded: Forwarded, conduit: Conduit) -> Leave {
    match Waiting::begin(forwarded, exit.vm.power) {
        Ok(waiting) => for_verdict(exit, waiting, conduit),
        Err(refused) => {
            exit.frame.x[0] = refused.to_ret(exit.vm.desc.on_pending);
            Leave::Stay
        }
    }
}

#[inline(never)]
fn for_verdict(exit: &mut Exit<'_>, waiting: Waiting, conduit: Conduit) -> Leave {
    let (vcpu, vm) = (exit.vcpu, exit.vm);
    let deadline = timer::now().saturating_add(vm.verdict_ticks);
    vcpu.count(Counter::Forwards);
    if exit.shared {
        exit.phase = Phase::Forwards {
            waiting: Some(waiting),
            conduit,
            deadline,
        };
        return Leave::Go;
    }
    let mut call = Some(conduit);
    loop {
        exit.state.begin_wait(vcpu);
        timer::arm(deadline);
        let call = mem::take(&mut call);
        let (resident, frame) = exit.both();
        let interrupted = barrier::lend(&vcpu.state, &mut resident.state, await_verdict, (vcpu, vm, call, frame));
        exit.state.end_wait();
        if let Some(intid) = interrupted
            && trap::interrupt(exit, intid) == Leave::Go
        {
            exit.phase = Phase::Forwarded {
                waiting: Some(waiting),
                deadline,
            };
            return Leave::Go;
        }
        let late = interrupted.is_some() && timer::now() >= deadline;
        if let Some(end) = vm.exits.poll(vcpu.index, late.then_some(Cut::Deadline)) {
            return finish(exit, waiting, &end);
        }
    }
}

/// With the vCPU's lock free, posts its call if it is one to post, and waits until the wait is over. `Some`: this physical interrupt,
/// acknowledged, comes first. What SGIs come wait in the inbox.
#[inline(always)]
fn await_verdict((vcpu, vm, call, frame): (&Vcpu, &Vm, Option<Conduit>, &Frame)) -> Option<u32> {
    if let Some(conduit) = call {
        let [x0, x1, x2, x3, ..] = frame.x;
        // Now that the lock is free: who hears of the call can look at the caller at once.
        vm.exits.post(vcpu.index, conduit, &[x0, x1, x2, x3]);
        system::wake_host();
    }
    loop {
        barrier::wfi();
        let intid = gic::acknowledge();
        let over = vm.exits.is_over(vcpu.index);
        if intid != KICK_SGI || !over && vcpu.inbox.is_to_look() {
            return Some(intid);
        }
        gic::drop_and_deactivate(intid);
        check_trigger();
        if over {
            return None;
        }
    }
}

/// The wait for the verdict is over.
#[inline]
fn finish(exit: &mut Exit<'_>, waiting: Waiting, end: &End) -> Leave {
    let (vcpu, vm) = (exit.vcpu, exit.vm);
    if *end == End::Deadline {
        vcpu.count(Counter::Expired);
    }
    exit.end_of_deadline();
    if resolve(exit, waiting.end(end, vm.power)) == Leave::Go {
        return Leave::Go;
    }
    exit.state.enter(vcpu);
    if vcpu.inbox.is_untouched() {
        return Leave::Stay;
    }
    // The kick that it came with was taken above.
    exit.serve();
    exit.attend();
    exit.may_stay()
}

/// A forwarded call has its answer, or its deadline.
#[inline]
fn resolve(exit: &mut Exit<'_>, resolution: Resolution) -> Leave {
    match resolution {
        Resolution::Return(x0) => exit.frame.x[0] = x0,
        Resolution::Values(values) => exit.give(&values),
        Resolution::Started(target) => {
            exit.frame.x[0] = 0;
            exit.vm.wake_started(target);
        }
        Resolution::CpuOff => return trap::cpu_off(exit),
        Resolution::SystemOff => return trap::end(exit, VmState::Off),
        Resolution::SystemReset => return trap::end(exit, VmState::Resetting),
        Resolution::SystemSuspend(start) => {
            exit.phase = Phase::Suspended { start };
            return Leave::Go;
        }
        Resolution::Handle => {
            let [x0, x1, x2, x3, ..] = exit.frame.x;
            let (values, count) = handle(exit.vm, [x0, x1, x2, x3]);
            for (x, value) in exit.frame.x.iter_mut().zip(values).take(count) {
                *x = value;
            }
        }
        Resolution::Dropped => {}
    }
    Leave::Stay
}

/// What a call gives that the host has allowed, as if it had not been forwarded: so many values, for `x0` and after.
#[inline(never)]
pub(crate) fn handle(vm: &'static Vm, [x0, x1, x2, x3]: [u64; 4]) -> ([u64; 4], usize) {
    match psci::decode(x0 as u32, [x1, x2, x3], &View { vm }, vm.filter()) {
        Outcome::Return(value) => ([value, 0, 0, 0], 1),
        Outcome::Values(values) => (values, 4),
        Outcome::Suspend => ([0; 4], 1),
        _ => ([NOT_SUPPORTED, 0, 0, 0], 1),
    }
}
