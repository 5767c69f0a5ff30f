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
    psci::{self, Outcome, Start},
    regs::cpu::SysReg,
    sched::{self, Says, Turn, earlier},
    types::Pa,
    vgic::{Absent, cpuif::running_priority, redist},
};

use crate::{
    arch::{
        barrier::{self, Guard},
        context,
        cpu::{self, World},
        gic::{self, HYP_TIMER_PPI, Interface, KICK_SGI, VTIMER_PPI},
        memory, timer,
    },
    ask, console, host, input, passed, percpu, system,
    trap::Frame,
    vcpu::{Vcpu, VcpuState},
    vm::{self, View, Vm},
};

/// The running priority of a CPU interface on which nothing is active.
const IDLE_PRIORITY: u64 = 0xFF;

/// Where a vCPU is between two stretches of guest code.
pub(crate) enum Phase {
    /// Off: its pCPU holds its lock and waits for a start.
    Off,
    /// In WFI, on a pCPU that it shares: until something would wake it.
    Sleeps,
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
    /// The last vCPU of a suspended system: its pCPU holds its lock and waits for an interrupt that wakes it.
    Suspended {
        /// Where it goes on.
        start: Start,
    },
    /// The host partition's vCPU, waiting for something to be told.
    HostWaits,
    /// Its VM is ending or being reset, and it has left. The generation tells a restart.
    Departed {
        /// As of when it left.
        generation: u32,
    },
}

/// The most vCPUs that share one pCPU.
const MOST_PLACES: usize = hyp_abi::layout::MAX_VCPUS;
/// How long a vCPU runs while another of its pCPU is ready.
const SLICE_MS: u64 = 4;

/// One vCPU's place on this pCPU.
pub(crate) struct Place {
    vcpu: &'static Vcpu,
    /// Its lock: held while the vCPU is off, ready, asleep or resident; free while it waits for a verdict or is held.
    guard: Option<Guard<'static, VcpuState>>,
    /// Where it is.
    phase: Phase,
    /// It left guest code since its lock was last given up.
    was_in_guest: bool,
}

/// What one pCPU runs: one vCPU or several, in turn.
pub(crate) struct Run {
    pcpu: usize,
    /// The vCPUs of this pCPU; found once the VMs are built.
    places: [Option<Place>; MOST_PLACES],
    /// How many there are.
    count: usize,
    /// Which of them is in the registers, or was last.
    current: usize,
    /// Its state is in the registers.
    resident: bool,
    /// When this pCPU is to look again while it runs.
    alarm: Option<u64>,
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
    /// Whether other vCPUs share this pCPU.
    pub(crate) shared: bool,
    /// When the pCPU is to look again, whatever the vCPU does.
    pub(crate) alarm: Option<u64>,
    /// Those.
    pub(crate) neighbours: Neighbours<'a>,
    /// What this pCPU's PSTATE has.
    pub(crate) features: PstateFeatures,
    /// The ID registers as guests see them.
    pub(crate) ids: &'a IdTable,
}

/// The other vCPUs of a pCPU, during an exit of one.
pub(crate) struct Neighbours<'a> {
    before: &'a mut [Option<Place>],
    after: &'a mut [Option<Place>],
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
    /// There is more to do, after the others have had their turn.
    Busy,
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
        interrupts();
        match run.next() {
            Turn::Run { index, alarm } => {
                if run.load(index, alarm, frame, interface) {
                    return;
                }
            }
            Turn::Sleep(deadline) => idle(deadline),
            Turn::Again => {}
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

/// Takes the physical interrupts that are pending while no guest runs. What they announce is looked for by [`Place::step`].
/// Bounded: a few at a time.
fn interrupts() {
    for _ in 0..4 {
        let intid = gic::acknowledge();
        if intid >= 1020 {
            return;
        }
        if intid == HYP_TIMER_PPI {
            timer::disarm();
        }
        if console::is_console(intid) {
            input::arrived();
        }
        gic::drop_priority(intid);
        if !passed::take(intid) && intid != VTIMER_PPI {
            gic::deactivate(intid);
        }
        debug_assert!(intid == KICK_SGI || intid >= 16, "EL2 sends one SGI only");
    }
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
            places: [const { None }; MOST_PLACES],
            count: 0,
            current: 0,
            resident: false,
            alarm: None,
            last: None,
            features: PstateFeatures::of(&host),
            ids: IdTable::build(hardware_value, Shown { pauth: false }),
            host,
        }
    }

    /// The vCPU whose state is in the registers.
    pub(crate) fn resident<'a>(&'a mut self, interface: &'a mut Interface) -> Option<Resident<'a>> {
        let (before, rest) = self.places.split_at_mut_checked(self.current)?;
        let (place, after) = rest.split_first_mut()?;
        let Place { vcpu, guard, phase, .. } = place.as_mut()?;
        Some(Resident {
            vcpu,
            vm: vcpu.vm()?,
            state: guard.as_mut()?,
            interface,
            phase,
            shared: self.count > 1,
            alarm: self.alarm,
            neighbours: Neighbours { before, after },
            features: self.features,
            ids: &self.ids,
        })
    }

    /// Takes the vCPU out of the registers. From here on its shadow is exact.
    fn leave(&mut self, frame: &Frame, interface: &mut Interface) {
        if !core::mem::take(&mut self.resident) {
            return;
        }
        timer::disarm();
        if let Some(place) = self.places.get_mut(self.current).and_then(Option::as_mut) {
            place.leave(frame, interface);
        }
    }

    /// Which vCPU is to run, if any.
    fn next(&mut self) -> Turn {
        self.find_places();
        if self.count == 0 {
            return Turn::Sleep(system::finish_if_over());
        }
        let slice_end = timer::now() + timer::ticks(SLICE_MS);
        let places = &mut self.places;
        sched::turn(self.current, self.count, slice_end, |index| {
            places
                .get_mut(index)
                .and_then(Option::as_mut)
                .map_or(Says::Waits(None), Place::settle)
        })
    }

    /// Puts a vCPU into the registers. At `alarm` the pCPU looks again.
    fn load(&mut self, index: usize, alarm: Option<u64>, frame: &mut Frame, interface: &mut Interface) -> bool {
        let shared = self.count > 1;
        let Some(place) = self.places.get_mut(index).and_then(Option::as_mut) else {
            return false;
        };
        let vcpu = place.vcpu;
        let Some(vm) = vcpu.vm() else { return false };
        world(&self.host, vm, vcpu, shared).enter();
        if self.last != Some((vm.id, vcpu.index)) {
            self.last = Some((vm.id, vcpu.index));
            memory::drop_local_guest_tlb();
        }
        let Some(due) = place.load(vm, frame, interface) else {
            return false;
        };
        self.alarm = alarm;
        if let Some(first) = earlier(due, alarm) {
            timer::arm(first);
        }
        self.current = index;
        self.resident = true;
        true
    }

    /// This pCPU's vCPUs: found once the VMs are built.
    fn find_places(&mut self) {
        if self.count > 0 {
            return;
        }
        let mine = vm::all().iter().flat_map(|vm| vm.vcpus).filter(|vcpu| vcpu.pcpu == self.pcpu);
        for (vcpu, place) in mine.zip(self.places.iter_mut()) {
            *place = Some(Place {
                vcpu,
                guard: None,
                phase: Phase::Off,
                was_in_guest: false,
            });
            self.count += 1;
        }
    }
}

/// What traps from a vCPU, and which memory it has.
fn world(host: &HostId, vm: &Vm, vcpu: &Vcpu, shared_pcpu: bool) -> World {
    World {
        hcr: policy::hcr(host, Options { pauth: false, shared_pcpu }),
        vttbr: vm.vttbr,
        vtcr: policy::vtcr(host),
        vmpidr: policy::vmpidr(hyp_abi::layout::affinity_of(vcpu.index)),
        cptr: policy::cptr(host),
        mdcr: policy::mdcr(host, cpu::pmcr(host.pmu())),
        cntvoff: vm.cntvoff(),
        cnthctl: policy::cnthctl(false),
        hcrx: host.hcrx(),
        fine_grained_traps: host.fine_grained_traps(),
        mpam: host.mpam(),
    }
}

impl Neighbours<'_> {
    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        self.before.iter_mut().chain(self.after.iter_mut()).flatten()
    }

    /// What the lock of `vcpu` guards, if it has its place on this pCPU and its lock is held here.
    pub(crate) fn state_of(&mut self, vcpu: &Vcpu) -> Option<&mut VcpuState> {
        self.places()
            .find(|place| core::ptr::eq(place.vcpu, vcpu))
            .and_then(|place| place.guard.as_deref_mut())
    }

    /// Serves what others ask of the vCPUs that share this pCPU.
    pub(crate) fn serve(&mut self) {
        self.places().for_each(Place::serve);
    }

    /// Frees the locks of `vm`'s vCPUs here: the VM is held.
    pub(crate) fn hold(&mut self, vm: &Vm) {
        self.places()
            .filter(|place| place.vcpu.vm().is_some_and(|own| own.id == vm.id))
            .for_each(Place::hold);
    }
}

impl Place {
    /// Takes the vCPU out of the registers.
    fn leave(&mut self, frame: &Frame, interface: &mut Interface) {
        let vcpu = self.vcpu;
        self.was_in_guest = true;
        let off = matches!(self.phase, Phase::Off);
        let suspended = matches!(self.phase, Phase::Suspended { .. });
        let for_good = off || suspended || vcpu.vm().is_some_and(Vm::ending);
        if let Some(state) = self.guard.as_mut() {
            state.x = frame.x;
            state.pc = cpu::elr();
            state.pstate = cpu::spsr();
            if let Some(vm) = vcpu.vm() {
                state.save_interface(vm, interface, for_good);
            }
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
    /// `None`: its lock is not held. Otherwise, when its physical timer is due.
    fn load(&mut self, vm: &Vm, frame: &mut Frame, interface: &mut Interface) -> Option<Option<u64>> {
        let vcpu = self.vcpu;
        let state = self.guard.as_mut()?;
        state.context.load();
        state.load_interface(vm, interface);
        let word = vcpu.inbox.drain();
        if word != 0 {
            state.gic.receive(interface, &vm.dist, word);
        }
        frame.x = state.x;
        cpu::set_elr(state.pc);
        cpu::set_spsr(state.pstate);
        let due = state.sample_timer(interface, vm);
        state.enter(vcpu);
        self.was_in_guest = true;
        Some(due)
    }

    /// [`Place::step`] until it says something definite; a few times at most.
    fn settle(&mut self) -> Says {
        for _ in 0..8 {
            match self.step() {
                Step::Again => {}
                Step::Enter => return Says::Ready,
                Step::Wait(deadline) => return Says::Waits(deadline),
                Step::Busy => return Says::Busy,
            }
        }
        Says::Busy
    }

    /// What to do next with this vCPU.
    fn step(&mut self) -> Step {
        let vcpu = self.vcpu;
        let Some(vm) = vcpu.vm() else { return Step::Wait(None) };
        #[cfg(feature = "test-triggers")]
        crate::trigger::check();
        self.serve();
        if let Phase::Departed { generation } = self.phase {
            if vm.generation() != generation {
                self.phase = Phase::Off;
                return Step::Again;
            }
            if vcpu.index == 0 {
                vm.revive_if_asked();
            }
            if vm.state() == VmState::Resetting && vm.rebuild(vcpu.pcpu).is_some() {
                return Step::Busy;
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
            self.hold();
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
            Phase::Suspended { start } => {
                let start = *start;
                self.suspended(vcpu, vm, start)
            }
            Phase::HostWaits => self.host_waits(vcpu),
            Phase::Sleeps => self.sleeps(vcpu),
            Phase::Forwards { .. } | Phase::Departed { .. } => Step::Again,
        }
    }

    /// Serves what others ask of the vCPU while it does not run.
    fn serve(&mut self) {
        let vcpu = self.vcpu;
        let Some(vm) = vcpu.vm() else { return };
        let asked =
            vcpu.kick.pending() || vcpu.request.pending() || vcpu.refill.load(Ordering::Relaxed) || vcpu.show.load(Ordering::Relaxed);
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
        self.come_up(vcpu, start)
    }

    /// The vCPU, whose lock is held, is to run from `start`, with everything as `CPU_ON` gives it.
    fn come_up(&mut self, vcpu: &Vcpu, start: Start) -> Step {
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
    fn hold(&mut self) {
        let vcpu = self.vcpu;
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
        vcpu.held.store(vm.hold_word(), Ordering::Release);
        self.phase = Phase::Departed {
            generation: vm.generation(),
        };
        vm.depart(vcpu.pcpu);
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
                    state.gic.park(&mut Absent, &vm.dist);
                    vm.kick_spis(state.gic.take_kicks());
                    state.power_down(vcpu);
                    self.phase = Phase::Off;
                    self.was_in_guest = false;
                    power.finish_off();
                }
            }
            Resolution::SystemOff => vm.end(VmState::Off),
            Resolution::SystemReset => vm.end(VmState::Resetting),
            Resolution::SystemSuspend(start) => {
                state.gic.park(&mut Absent, &vm.dist);
                vm.kick_spis(state.gic.take_kicks());
                self.phase = Phase::Suspended { start };
            }
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

    /// `SYSTEM_SUSPEND`: what wakes is an interrupt that distributor and redistributor would forward. The CPU interface has
    /// no say, as it has no power: software disables its groups before it suspends.
    fn suspended(&mut self, vcpu: &'static Vcpu, vm: &'static Vm, start: Start) -> Step {
        self.take(vcpu);
        let Some(state) = self.guard.as_mut() else {
            return Step::Wait(None);
        };
        state.gic.stand_by(&vm.dist);
        let word = vcpu.inbox.drain();
        if word != 0 {
            state.gic.receive(&mut Absent, &vm.dist, word);
        }
        let view = state.cpuif.view;
        let open = state.cpuif.vmcr.with_pmr(&view, 0xFF).with_igrpen0(1).with_igrpen1(1);
        let enabled = state.gic.read(&Absent, redist::ISENABLER0, 4) >> VTIMER_PPI & 1 != 0;
        let due = state
            .context
            .timer_due()
            .map(|at| at.wrapping_add(vm.cntvoff()))
            .filter(|_| enabled);
        if state.gic.wakes(&Absent, &vm.dist, open, IDLE_PRIORITY) || due.is_some_and(|at| timer::now() >= at) {
            return self.come_up(vcpu, start);
        }
        Step::Wait(due)
    }

    /// Whether something would wake the vCPU, whose lock is held, from WFI; and when its timer will.
    fn wakes(&mut self, vcpu: &'static Vcpu) -> (bool, Option<u64>) {
        self.take(vcpu);
        let Some(state) = self.guard.as_mut() else { return (false, None) };
        let running = running_priority(&state.cpuif.view, &state.cpuif.ap0r, &state.cpuif.ap1r);
        let physical = vcpu.vm().and_then(|vm| state.sample_timer(&mut Absent, vm));
        let offset = vcpu.vm().map_or(0, Vm::cntvoff);
        let due = state
            .context
            .timer_due()
            .map(|at| at.wrapping_add(offset))
            .filter(|_| state.timer_matters());
        let wakes = !vcpu.inbox.is_empty()
            || vcpu
                .vm()
                .is_some_and(|vm| state.gic.wakes(&Absent, &vm.dist, state.cpuif.vmcr, running))
            || due.is_some_and(|at| timer::now() >= at);
        (wakes, earlier(due, physical))
    }

    /// In WFI on a pCPU that it shares.
    fn sleeps(&mut self, vcpu: &'static Vcpu) -> Step {
        let (wakes, due) = self.wakes(vcpu);
        if !wakes {
            return Step::Wait(due);
        }
        self.phase = Phase::Ready;
        Step::Again
    }

    fn host_waits(&mut self, vcpu: &'static Vcpu) -> Step {
        let (wakes, due) = self.wakes(vcpu);
        let Some(state) = self.guard.as_mut() else {
            return Step::Wait(None);
        };
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
