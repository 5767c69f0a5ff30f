//! What a pCPU does when it runs no guest code: it takes its vCPU out of the registers, waits until the vCPU is to run,
//! and puts it back.

use core::sync::atomic::Ordering;

use hyp_abi::{
    call::{Counter, VmState},
    errno::Errno,
    smccc::Conduit,
};
use hyp_core::{
    esr,
    filter::Action,
    forward::{Cut, End, Resolution, Waiting},
    idreg::{HostId, IdTable, Shown},
    inject::PstateFeatures,
    policy::{self, Options},
    psci::{self, Outcome},
    regs::cpu::SysReg,
    types::Pa,
    vgic::{Absent, cpuif::running_priority},
};

use crate::{
    arch::{
        barrier::{self, Guard},
        context,
        cpu::{self, World},
        gic::{self, HYP_TIMER_PPI, Interface, KICK_SGI, VTIMER_PPI},
        memory, timer,
    },
    ask, host, percpu, system,
    trap::Frame,
    vcpu::{Vcpu, VcpuState},
    vm::{self, View, Vm},
};

/// Where a vCPU is between two stretches of guest code.
pub(crate) enum Phase {
    /// Off: its pCPU holds its lock and waits for a start.
    Off,
    /// To be put into the registers.
    Ready,
    /// A call of its is to be shown to the host, once its lock is free.
    Forwards {
        /// What is claimed meanwhile.
        waiting: Option<Waiting>,
        /// The instruction it used.
        conduit: Conduit,
        /// When it ends without an answer.
        deadline: u64,
    },
    /// Waiting for the host's answer to a forwarded call, its lock free.
    Forwarded {
        /// What is claimed meanwhile.
        waiting: Option<Waiting>,
        /// When it ends without an answer.
        deadline: u64,
    },
    /// The host partition's vCPU, waiting for something to be told.
    HostWaits,
    /// Its VM is ending or being reset, and it has left. The generation tells a restart.
    Departed {
        /// As of when it left.
        generation: u32,
    },
}

/// What one pCPU runs.
pub(crate) struct Run {
    pcpu: usize,
    /// The one vCPU of this pCPU.
    vcpu: Option<&'static Vcpu>,
    /// That vCPU's lock, held from load to leave, and while it is off.
    guard: Option<Guard<'static, VcpuState>>,
    /// Where that vCPU is.
    pub(crate) phase: Phase,
    /// Its state is in the registers.
    resident: bool,
    /// It left guest code since its lock was last given up.
    was_in_guest: bool,
    /// Whose translations this pCPU's TLB may hold: the last VM and vCPU that ran here.
    last: Option<(usize, usize)>,
    /// What this pCPU's hardware is, and what its guests see of it.
    pub(crate) features: PstateFeatures,
    /// The ID registers as guests see them.
    pub(crate) ids: IdTable,
    host: HostId,
}

/// What a vCPU that runs here is, for one exit.
pub(crate) struct Resident<'a> {
    /// The vCPU.
    pub(crate) vcpu: &'static Vcpu,
    /// Its VM.
    pub(crate) vm: &'static Vm,
    /// What its lock guards.
    pub(crate) state: &'a mut VcpuState,
    /// This pCPU's virtual interface.
    pub(crate) interface: &'a mut Interface,
    /// Where it goes when it leaves.
    pub(crate) phase: &'a mut Phase,
    /// What this pCPU's PSTATE has.
    pub(crate) features: PstateFeatures,
    /// The ID registers as guests see them.
    pub(crate) ids: &'a IdTable,
}

impl Resident<'_> {
    /// The vCPU, its VM, what its lock guards and its interface, each to be used beside the others.
    pub(crate) fn parts(&mut self) -> (&'static Vcpu, &'static Vm, &mut VcpuState, &mut Interface) {
        (self.vcpu, self.vm, self.state, self.interface)
    }
}

enum Step {
    /// Look again.
    Again,
    /// Put the vCPU into the registers and go.
    Enter,
    /// Nothing to do until an interrupt, or until this moment.
    Wait(Option<u64>),
}

unsafe extern "C" {
    fn enter_run_loop(stack_top: u64) -> !;
}

/// Starts the run loop on this pCPU, on an empty stack. Does not come back.
pub(crate) fn enter(stack_top: u64) -> ! {
    // SAFETY: `stack_top` is the end of this pCPU's own stack; nothing on it is used any more.
    unsafe { enter_run_loop(stack_top) }
}

/// From `trap.s`, when a vCPU leaves this pCPU, and once at the beginning. Returns when `frame` and the registers hold a
/// vCPU that is to run.
pub(crate) extern "C" fn run_loop(frame: &mut Frame) {
    // SAFETY: The outermost function of this exit.
    let Some(local) = (unsafe { percpu::local() }) else {
        system::idle_forever()
    };
    let (run, interface) = (&mut local.run, &mut local.interface);
    run.leave(frame, interface);
    loop {
        run.interrupts();
        match run.step(interface) {
            Step::Again => {}
            Step::Enter => {
                if run.load(frame, interface) {
                    return;
                }
            }
            Step::Wait(deadline) => idle(deadline),
        }
    }
}

/// Sleeps until an interrupt is pending; `deadline` makes one.
fn idle(deadline: Option<u64>) {
    if let Some(deadline) = deadline {
        timer::arm(deadline);
    }
    barrier::wfi();
    timer::disarm();
}

/// What the hardware says in an ID register.
pub(crate) fn hardware_value(register: SysReg) -> u64 {
    cpu::id_register(u64::from(register.crm()), u64::from(register.op2()))
}

impl Run {
    /// Nothing runs yet on pCPU `pcpu`.
    pub(crate) fn new(pcpu: usize) -> Self {
        let host = HostId::read(hardware_value);
        Self {
            pcpu,
            vcpu: None,
            guard: None,
            phase: Phase::Off,
            resident: false,
            was_in_guest: false,
            last: None,
            features: PstateFeatures::of(&host),
            ids: IdTable::build(hardware_value, Shown { pauth: false }),
            host,
        }
    }

    /// The vCPU whose state is in the registers.
    pub(crate) fn resident<'a>(&'a mut self, interface: &'a mut Interface) -> Option<Resident<'a>> {
        let vcpu = self.vcpu?;
        Some(Resident {
            vcpu,
            vm: vcpu.vm()?,
            state: self.guard.as_mut()?,
            interface,
            phase: &mut self.phase,
            features: self.features,
            ids: &self.ids,
        })
    }

    /// Takes the vCPU out of the registers. From here on its shadow is exact.
    fn leave(&mut self, frame: &Frame, interface: &mut Interface) {
        let (Some(vcpu), true) = (self.vcpu, self.resident) else { return };
        self.resident = false;
        self.was_in_guest = true;
        let off = matches!(self.phase, Phase::Off);
        let for_good = off || vcpu.vm().is_some_and(Vm::ending);
        if let Some(state) = self.guard.as_mut() {
            state.x = frame.x;
            state.pc = cpu::elr();
            state.pstate = cpu::spsr();
            state.save_interface(interface, for_good);
            state.context.save();
            state.publish(vcpu, false);
        }
        if let Phase::Forwards {
            waiting,
            conduit,
            deadline,
        } = &mut self.phase
        {
            let (waiting, conduit, deadline) = (waiting.take(), *conduit, *deadline);
            // The lock first: who hears of the call can look at the caller at once.
            self.guard = None;
            self.phase = Phase::Forwarded { waiting, deadline };
            let [x0, x1, x2, x3, ..] = frame.x;
            if let Some(vm) = vcpu.vm() {
                vm.exits.post(vcpu.index, conduit, &[x0, x1, x2, x3]);
                system::wake_host();
            }
        }
        if let (true, Some(power)) = (off, vcpu.power()) {
            // Nothing of it is left here: from now on AFFINITY_INFO says OFF, and CPU_ON can have it.
            self.was_in_guest = false;
            if let Some(state) = self.guard.as_mut() {
                state.power_down(vcpu);
            }
            power.finish_off();
        }
    }

    /// Puts the vCPU into the registers.
    fn load(&mut self, frame: &mut Frame, interface: &mut Interface) -> bool {
        let Some((vcpu, vm)) = self.vcpu.and_then(|vcpu| Some((vcpu, vcpu.vm()?))) else {
            return false;
        };
        self.world(vm, vcpu).enter();
        if self.last != Some((vm.id, vcpu.index)) {
            self.last = Some((vm.id, vcpu.index));
            memory::drop_local_guest_tlb();
        }
        let Some(state) = self.guard.as_mut() else { return false };
        state.context.load();
        state.load_interface(vm, interface);
        let word = vcpu.inbox.drain();
        if word != 0 {
            state.gic.receive(interface, &vm.dist, word);
        }
        frame.x = state.x;
        cpu::set_elr(state.pc);
        cpu::set_spsr(state.pstate);
        state.enter(vcpu);
        self.resident = true;
        self.was_in_guest = true;
        true
    }

    fn world(&self, vm: &Vm, vcpu: &Vcpu) -> World {
        World {
            hcr: policy::hcr(
                &self.host,
                Options {
                    pauth: false,
                    shared_pcpu: false,
                },
            ),
            vttbr: vm.vttbr,
            vtcr: policy::vtcr(&self.host),
            vmpidr: policy::vmpidr(hyp_abi::layout::affinity_of(vcpu.index)),
            cptr: policy::cptr(&self.host),
            mdcr: policy::mdcr(&self.host, cpu::pmcr(self.host.pmu())),
            cnthctl: policy::cnthctl(false),
            hcrx: self.host.hcrx(),
            fine_grained_traps: self.host.fine_grained_traps(),
            mpam: self.host.mpam(),
        }
    }

    /// Takes the physical interrupts that are pending while no guest runs. What they announce is looked for by
    /// [`Run::step`]. Bounded: a few at a time.
    fn interrupts(&mut self) {
        for _ in 0..4 {
            let intid = gic::acknowledge();
            if intid >= 1020 {
                return;
            }
            if intid == HYP_TIMER_PPI {
                timer::disarm();
            }
            gic::drop_priority(intid);
            if intid != VTIMER_PPI {
                gic::deactivate(intid);
            }
            debug_assert!(intid == KICK_SGI || intid >= 16, "EL2 sends one SGI only");
        }
    }

    /// What to do next with this pCPU's vCPU.
    fn step(&mut self, interface: &mut Interface) -> Step {
        let Some((vcpu, vm)) = self.own() else {
            return Step::Wait(system::finish_if_over());
        };
        #[cfg(feature = "test-triggers")]
        crate::trigger::check();
        self.serve(vcpu, vm);
        if let Phase::Departed { generation } = self.phase {
            if vm.generation() != generation {
                self.phase = Phase::Off;
                return Step::Again;
            }
            return Step::Wait(system::finish_if_over());
        }
        if vm.state() == VmState::Built {
            return Step::Wait(None);
        }
        if vm.ending() {
            return self.depart(vcpu, vm);
        }
        if vm.held() {
            self.hold(vcpu);
            return Step::Wait(None);
        }
        match &mut self.phase {
            Phase::Off => self.off(vcpu),
            Phase::Ready => {
                self.take(vcpu);
                Step::Enter
            }
            Phase::Forwarded { waiting, deadline } => {
                let (deadline, late) = (*deadline, timer::now() >= *deadline);
                match vm.exits.poll(vcpu.index, late.then_some(Cut::Deadline)) {
                    None => Step::Wait(Some(deadline)),
                    Some(end) => {
                        let resolution = waiting.take().map_or(Resolution::Dropped, |waiting| waiting.end(&end, vm.power));
                        if end == End::Deadline {
                            vcpu.count(Counter::Expired);
                        }
                        self.resolve(vcpu, vm, resolution);
                        Step::Again
                    }
                }
            }
            Phase::HostWaits => self.host_waits(vcpu, interface),
            Phase::Forwards { .. } | Phase::Departed { .. } => Step::Again,
        }
    }

    /// This pCPU's vCPU: found once the VMs are built.
    fn own(&mut self) -> Option<(&'static Vcpu, &'static Vm)> {
        if self.vcpu.is_none() {
            self.vcpu = vm::all().iter().flat_map(|vm| vm.vcpus).find(|vcpu| vcpu.pcpu == self.pcpu);
        }
        let vcpu = self.vcpu?;
        Some((vcpu, vcpu.vm()?))
    }

    /// Serves what others ask of the vCPU while it does not run.
    fn serve(&mut self, vcpu: &'static Vcpu, vm: &'static Vm) {
        let asked = vcpu.kick.pending() || vcpu.request.pending() || vcpu.refill.load(Ordering::Relaxed);
        if asked {
            match self.guard.as_mut() {
                Some(state) => ask::serve(vcpu, vm, state, &mut Absent, false),
                None => ask::serve(vcpu, vm, &mut vcpu.state.lock(), &mut Absent, false),
            }
        }
    }

    fn take(&mut self, vcpu: &'static Vcpu) {
        if self.guard.is_none() {
            self.guard = Some(vcpu.state.lock());
        }
    }

    fn off(&mut self, vcpu: &'static Vcpu) -> Step {
        self.take(vcpu);
        let Some(start) = vcpu.power().and_then(psci::Power::take_start) else {
            return Step::Wait(None);
        };
        if let Some(state) = self.guard.as_mut() {
            state.power_up(start);
            let trapping = state.trapping(true);
            state.gic.set_trapping(&mut Absent, trapping);
            state.publish(vcpu, false);
        }
        self.phase = Phase::Ready;
        Step::Again
    }

    /// Held: the lock is free until the VM goes on.
    fn hold(&mut self, vcpu: &Vcpu) {
        if self.guard.is_some() {
            vcpu.count(Counter::Stops);
            if self.was_in_guest {
                vcpu.count(Counter::Bystanders);
            }
            // Counted first: who waits for the lock reads the count next.
            self.guard = None;
        }
        self.was_in_guest = false;
        if let Some(vm) = vcpu.vm() {
            vcpu.held.store(vm.hold_word(), Ordering::Release);
        }
    }

    /// The VM is ending: the vCPU leaves for good.
    fn depart(&mut self, vcpu: &Vcpu, vm: &Vm) -> Step {
        if let Phase::Forwarded { waiting, .. } = &mut self.phase {
            match vm.exits.poll(vcpu.index, Some(Cut::Reset)) {
                None => return Step::Again,
                Some(end) => {
                    if let Some(waiting) = waiting.take() {
                        let _ = waiting.end(&end, vm.power);
                    }
                }
            }
        }
        self.guard = None;
        self.last = None;
        vcpu.held.store(vm.hold_word(), Ordering::Release);
        self.phase = Phase::Departed {
            generation: vm.generation(),
        };
        vm.depart(self.pcpu);
        Step::Again
    }

    /// A forwarded call has its answer, or its deadline.
    fn resolve(&mut self, vcpu: &'static Vcpu, vm: &'static Vm, resolution: Resolution) {
        self.take(vcpu);
        self.phase = Phase::Ready;
        let Some(state) = self.guard.as_mut() else { return };
        match resolution {
            Resolution::Return(x0) => state.x[0] = x0,
            Resolution::Values([x0, x1, x2, x3]) => {
                state.x[0] = x0;
                state.x[1] = x1;
                state.x[2] = x2;
                state.x[3] = x3;
            }
            Resolution::Started(target) => {
                state.x[0] = 0;
                vm.wake_started(target);
            }
            Resolution::CpuOff => {
                if let Some(power) = vcpu.power()
                    && power.begin_off()
                {
                    state.gic.park(&mut Absent);
                    state.power_down(vcpu);
                    self.phase = Phase::Off;
                    self.was_in_guest = false;
                    power.finish_off();
                }
            }
            Resolution::SystemOff => vm.end(VmState::Off),
            Resolution::SystemReset => vm.end(VmState::Resetting),
            Resolution::Handle => {
                let [x0, x1, x2, x3] = [state.x[0], state.x[1], state.x[2], state.x[3]];
                let view = View { vm };
                state.x[0] = match psci::decode(x0 as u32, [x1, x2, x3], &view, |id| vm.filter().lookup(id) == Action::Deny) {
                    Outcome::Return(value) => value,
                    Outcome::Values([value, x1, x2, x3]) => {
                        state.x[1] = x1;
                        state.x[2] = x2;
                        state.x[3] = x3;
                        value
                    }
                    Outcome::Suspend => 0,
                    _ => hyp_abi::smccc::NOT_SUPPORTED,
                };
            }
            Resolution::Dropped => {}
        }
    }

    fn host_waits(&mut self, vcpu: &'static Vcpu, _: &mut Interface) -> Step {
        self.take(vcpu);
        let Some(state) = self.guard.as_mut() else {
            return Step::Wait(None);
        };
        let running = running_priority(&state.cpuif.view, &state.cpuif.ap0r, &state.cpuif.ap1r);
        let due = state.context.timer_due().filter(|_| state.timer_matters());
        let wakes =
            !vcpu.inbox.is_empty() || state.gic.wakes(&Absent, state.cpuif.vmcr, running) || due.is_some_and(|at| timer::now() >= at);
        if let Some(values) = host::next_exit() {
            for (x, value) in state.x.iter_mut().zip(values) {
                *x = value;
            }
        } else if wakes {
            state.x[0] = Errno::Interrupted.to_ret();
        } else {
            return Step::Wait(due);
        }
        self.phase = Phase::Ready;
        Step::Again
    }
}

/// A table that this pCPU's translation walks from.
pub(crate) const fn vttbr(vm: usize, root: u64) -> u64 {
    policy::vttbr(vm as u8 + 1, Pa::new(root))
}

/// Whether the resident guest's data accesses are big-endian now.
pub(crate) fn guest_is_big_endian() -> bool {
    esr::big_endian(cpu::spsr(), context::guest_sctlr())
}
