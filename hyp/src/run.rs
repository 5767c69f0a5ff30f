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
    forward::{Cut, End, Resolution, Waiting},
    idreg::{HostId, IdTable, Shown},
    inject::PstateFeatures,
    policy::{self, Options},
    psci::Start,
    regs::cpu::SysReg,
    sched::{self, Round, Says, Turn, earlier},
    types::Pa,
    vgic::cpuif::{CpuIf, running_priority},
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
    vcpu::{GIVEN, Vcpu, VcpuState},
    vm::{self, Piece, Vm},
    wait,
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
        /// It restarts its VM, in its turns: what is next. Nobody else does, and nobody has to ask who.
        rebuild: Option<Piece>,
    },
}

/// The most vCPUs that share one pCPU.
const MOST_PLACES: usize = hyp_abi::layout::MAX_SHARING;
/// How long a vCPU runs while another of its pCPU is ready.
const SLICE_MS: u64 = 4;

/// One vCPU's place on this pCPU.
pub(crate) struct Place {
    vcpu: &'static Vcpu,
    vm: &'static Vm,
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
    /// The vCPUs of this pCPU that are not in its registers.
    neighbours: Neighbours,
    /// Which place is that of the vCPU in the registers, or of the last that was.
    current: usize,
    /// What is left of its vCPUs' slices.
    round: Round,
    /// Since when one of them has had its turn.
    since: u64,
    /// Whose state is in this pCPU's EL1, FP and debug registers and whose translations are in its TLB: the last VM and
    /// vCPU that ran here.
    last: Option<(usize, usize)>,
    interface: Interface,
    world: World,
    /// What this pCPU's hardware is.
    pub(crate) machine: Machine,
}

/// What a pCPU's hardware is, and what its guests see of it.
pub(crate) struct Machine {
    /// What PSTATE has.
    pub(crate) features: PstateFeatures,
    /// The ID registers as guests see them.
    pub(crate) ids: IdTable,
}

/// The vCPU that is in the registers, with its lock held.
pub(crate) struct Resident {
    /// The vCPU.
    pub(crate) vcpu: &'static Vcpu,
    /// Its VM.
    pub(crate) vm: &'static Vm,
    /// What its lock guards.
    pub(crate) state: Guard<'static, VcpuState>,
    /// This pCPU's virtual interface.
    pub(crate) interface: Interface,
    /// Where it goes when it leaves.
    pub(crate) phase: Phase,
    /// Whether other vCPUs share this pCPU.
    pub(crate) shared: bool,
    /// When the pCPU is to look again, whatever the vCPU does.
    pub(crate) alarm: Option<u64>,
}

/// The vCPUs of a pCPU that are not in its registers.
pub(crate) struct Neighbours {
    places: [Option<Place>; MOST_PLACES],
    /// How many vCPUs this pCPU has, the one in the registers included; 0 before the VMs are built.
    count: usize,
}

impl Resident {
    /// The vCPU, its VM, what its lock guards and its interface, each to be used beside the others.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&'static Vcpu, &'static Vm, &mut VcpuState, &mut Interface) {
        (self.vcpu, self.vm, &mut self.state, &mut self.interface)
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
pub(crate) fn begin(stack_top: u64) -> ! {
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
    // SAFETY: As above, and nothing else has it.
    let here = unsafe { percpu::place() };
    let run = &mut local.run;
    run.leave(frame, here);
    interrupts();
    loop {
        match run.next() {
            Turn::Run { index, alarm } => {
                if run.load(index, alarm, frame, here) {
                    return;
                }
            }
            Turn::Sleep(deadline) => {
                run.prepare(frame);
                idle(deadline);
            }
            Turn::Again => {}
        }
        interrupts();
        if run.start(frame, here) {
            return;
        }
    }
}

/// Sleeps until an interrupt is pending; `deadline` makes one.
fn idle(deadline: Option<u64>) {
    let Some(deadline) = deadline else { return barrier::wfi() };
    timer::arm(deadline);
    barrier::wfi();
    timer::disarm();
}

/// Takes the physical interrupts that are pending while no guest runs. What they announce is looked for by [`Place::step`].
/// Bounded: a few at a time.
fn interrupts() {
    for _ in 0..4 {
        let intid = gic::acknowledge();
        match intid {
            KICK_SGI => {
                gic::drop_and_deactivate(intid);
                continue;
            }
            1020..=1023 => return,
            _ => {}
        }
        if intid == HYP_TIMER_PPI {
            timer::disarm();
        }
        if console::is_console(intid) {
            input::arrived();
        }
        gic::drop_priority(intid);
        match passed::take(intid) {
            Some((vm, looks)) => vm.kick_spis(looks),
            None if intid == VTIMER_PPI || !gic::can_be_active(intid) => {}
            None => gic::deactivate(intid),
        }
        debug_assert!(intid >= 16, "EL2 sends one SGI only");
    }
}

/// What the hardware says in an ID register.
pub(crate) fn hardware_value(register: SysReg) -> u64 {
    cpu::id_register(u64::from(register.crm()), u64::from(register.op2()))
}

impl Run {
    /// Nothing runs yet on pCPU `pcpu`, whose virtual interface is `interface`.
    pub(crate) fn new(pcpu: usize, interface: Interface) -> Self {
        let host = HostId::read(hardware_value);
        Self {
            pcpu,
            neighbours: Neighbours {
                places: core::array::from_fn(|_| None),
                count: 0,
            },
            current: 0,
            round: Round::new(),
            since: 0,
            last: None,
            interface,
            world: world(&host),
            machine: Machine {
                features: PstateFeatures::of(&host),
                ids: IdTable::build(hardware_value, Shown { pauth: false }),
            },
        }
    }

    /// The other vCPUs of this pCPU, and the hardware.
    #[inline]
    pub(crate) fn besides(&mut self) -> (&mut Neighbours, &Machine) {
        (&mut self.neighbours, &self.machine)
    }

    /// Takes the vCPU out of the registers. From here on its shadow is exact.
    fn leave(&mut self, frame: &Frame, here: &mut Option<Resident>) {
        let Some(here) = here.take() else { return };
        if here.shared {
            self.round.charge(self.current, timer::now().wrapping_sub(self.since));
        }
        if let Some(place) = self.neighbours.places.get_mut(self.current) {
            let place = place.insert(Place {
                vcpu: here.vcpu,
                vm: here.vm,
                guard: Some(here.state),
                phase: here.phase,
                was_in_guest: true,
            });
            place.leave(frame, &mut self.interface, here.shared);
        }
        // Behind its ISB the virtual timer is off, too: no other VM's offset comes before that.
        timer::disarm();
    }

    /// Which vCPU is to run, if any.
    fn next(&mut self) -> Turn {
        self.find_places();
        let count = self.neighbours.count;
        let places = &mut self.neighbours.places;
        let look = |place: Option<&mut Option<Place>>| place.and_then(Option::as_mut).map_or(Says::Waits(None), Place::settle);
        match count {
            0 => Turn::Sleep(system::finish_if_over()),
            1 => sched::alone(look(places.first_mut())),
            _ => {
                let since = &mut self.since;
                let now = || {
                    *since = timer::now();
                    *since
                };
                self.round.turn(self.current, count, timer::ticks(SLICE_MS), now, |index| {
                    look(places.get_mut(index))
                })
            }
        }
    }

    /// Puts a vCPU into the registers. At `alarm` the pCPU looks again. What the registers still hold of it is not moved.
    fn load(&mut self, index: usize, alarm: Option<u64>, frame: &mut Frame, here: &mut Option<Resident>) -> bool {
        let shared = self.neighbours.count > 1;
        let Some(slot) = self.neighbours.places.get_mut(index) else {
            return false;
        };
        let Some((vcpu, vm, mut state)) = slot.as_mut().and_then(Place::give_up) else {
            return false;
        };
        *slot = None;
        let who = Some((vm.id, vcpu.index));
        let kept = self.last == who && !shared && !state.context.is_new();
        state.load_x(&mut frame.x, kept);
        timer::set_guest_offset(vm.cntvoff());
        if !kept {
            install(&self.world, &mut self.last, vcpu, vm, &mut state);
        }
        let due = enter(vcpu, vm, &mut state, &mut self.interface);
        state.context.resume();
        if let Some(first) = earlier(due, alarm) {
            timer::arm(first);
        }
        percpu::this().short.open(vm, vcpu, &state);
        self.current = index;
        *here = Some(Resident {
            vcpu,
            vm,
            state,
            interface: self.interface,
            phase: Phase::Ready,
            shared,
            alarm,
        });
        true
    }

    /// While the only vCPU of this pCPU is off, the registers are made what `CPU_ON` gives it, as far as no start is needed for that and
    /// nobody else sees it: when the start comes, it only has to go.
    fn prepare(&mut self, frame: &mut Frame) {
        if self.neighbours.count != 1 {
            return;
        }
        let Some((vcpu, vm, state)) = self.neighbours.only().and_then(Place::unprepared) else {
            return;
        };
        state.context.reset(false);
        install(&self.world, &mut self.last, vcpu, vm, state);
        state.prepare(vm);
        frame.x = [0; 31];
        percpu::this().short.open(vm, vcpu, state);
    }

    /// A start has come for the vCPU that is prepared: it goes at once, unless something else is to be done first.
    fn start(&mut self, frame: &mut Frame, here: &mut Option<Resident>) -> bool {
        let Some(slot) = self.neighbours.places.first_mut() else {
            return false;
        };
        let Some((vcpu, vm, mut state, start)) = slot.as_mut().and_then(Place::started) else {
            return false;
        };
        *slot = None;
        if start.big_endian {
            state.context.reset(true);
            state.context.load();
        }
        frame.x[0] = start.context;
        timer::set_guest_offset(vm.cntvoff());
        cpu::set_elr(start.entry);
        cpu::set_spsr(policy::ENTRY_SPSR);
        state.go(vcpu, vm, &mut self.interface);
        self.current = 0;
        *here = Some(Resident {
            vcpu,
            vm,
            state,
            interface: self.interface,
            phase: Phase::Ready,
            shared: false,
            alarm: None,
        });
        true
    }

    /// This pCPU's vCPUs: found once the VMs are built.
    fn find_places(&mut self) {
        if self.neighbours.count > 0 {
            return;
        }
        for vm in vm::all() {
            for vcpu in vm.vcpus {
                if vcpu.pcpu == self.pcpu
                    && let Some(place) = self.neighbours.places.get_mut(self.neighbours.count)
                {
                    *place = Some(Place {
                        vcpu,
                        vm,
                        guard: None,
                        phase: Phase::Off,
                        was_in_guest: false,
                    });
                    self.neighbours.count += 1;
                }
            }
        }
        let host = HostId::read(hardware_value);
        self.world.hcr = policy::hcr(
            &host,
            Options {
                pauth: false,
                shared_pcpu: self.neighbours.count > 1,
            },
        );
    }
}

/// What traps from every vCPU of this pCPU; of one that is alone.
fn world(host: &HostId) -> World {
    World {
        hcr: policy::hcr(
            host,
            Options {
                pauth: false,
                shared_pcpu: false,
            },
        ),
        vtcr: policy::vtcr(host),
        cptr: policy::cptr(host),
        mdcr: policy::mdcr(host, cpu::pmcr(host.pmu())),
        cnthctl: policy::cnthctl(false),
        ras: host.ras(),
        hcrx: host.hcrx(),
        fine_grained_traps: host.fine_grained_traps(),
        mpam: host.mpam(),
    }
}

/// Puts a vCPU's EL1 state into the registers, and EL2's for it, if those of another are there. `last` says whose.
fn install(world: &World, last: &mut Option<(usize, usize)>, vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState) {
    let who = Some((vm.id, vcpu.index));
    if *last == who {
        // As it was but for the debug registers, which a new vCPU does not have.
        world.trap_debug();
    } else {
        world.enter();
        cpu::enter_vcpu(vm.vttbr, policy::vmpidr(hyp_abi::layout::affinity_of(vcpu.index)));
        *last = who;
        memory::drop_local_guest_tlb();
    }
    state.context.load();
}

/// The rest of what a vCPU has in registers, but for what [`Context`](context::Context) is. Returns when its physical timer
/// is due.
fn enter(vcpu: &Vcpu, vm: &Vm, state: &mut VcpuState, interface: &mut Interface) -> Option<u64> {
    state.load_interface(vm, interface);
    let word = vcpu.inbox.drain_sgis();
    if word != 0 {
        vcpu.count_inbox();
        state.gic.receive(interface, &vm.dist, word);
    }
    cpu::set_elr(state.pc);
    cpu::set_spsr(state.pstate);
    let due = state.sample_timer(interface, vm);
    state.enter(vcpu);
    due
}

impl Neighbours {
    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        self.places.iter_mut().take(self.count).flatten()
    }

    /// The vCPU of a pCPU that has one, while it is not in the registers.
    fn only(&mut self) -> Option<&mut Place> {
        self.places.first_mut().and_then(Option::as_mut)
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
        self.places().filter(|place| core::ptr::eq(place.vm, vm)).for_each(Place::hold);
    }
}

impl Place {
    /// Takes the vCPU out of the registers; those that only a vCPU uses keep their values on a pCPU that it does not share.
    fn leave(&mut self, frame: &Frame, interface: &mut Interface, shared: bool) {
        let (vcpu, vm) = (self.vcpu, self.vm);
        let off = matches!(self.phase, Phase::Off);
        let suspended = matches!(self.phase, Phase::Suspended { .. });
        let for_good = off || suspended || vm.ending();
        if let Some(state) = self.guard.as_mut() {
            state.save_x(&frame.x, shared);
            state.pc = cpu::elr();
            state.pstate = cpu::spsr();
            state.save_interface(vm, interface, for_good);
            if shared {
                state.context.save();
            } else {
                state.context.pause();
            }
            if !off {
                state.publish(vcpu, false);
            }
        }
        if matches!(self.phase, Phase::Forwarded { .. }) {
            // It has waited in place until now.
            self.guard = None;
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
            vm.exits.post(vcpu.index, conduit, &[x0, x1, x2, x3]);
            system::wake_host();
        }
        if off {
            // Nothing of it is left here: from now on AFFINITY_INFO says OFF, and CPU_ON can have it.
            self.was_in_guest = false;
            if let Some(state) = self.guard.as_mut() {
                state.power_down(vcpu);
            }
            vcpu.power.finish_off();
        }
    }

    /// What is to go into the registers, if its lock is held.
    fn give_up(&mut self) -> Option<(&'static Vcpu, &'static Vm, Guard<'static, VcpuState>)> {
        Some((self.vcpu, self.vm, self.guard.take()?))
    }

    /// A vCPU to prepare: it is off, its VM runs, and its lock is held.
    fn unprepared(&mut self) -> Option<(&'static Vcpu, &'static Vm, &mut VcpuState)> {
        let state = self.guard.as_deref_mut().filter(|state| !state.is_prepared())?;
        if !self.vm.is_running() || !matches!(self.phase, Phase::Off) {
            return None;
        }
        Some((self.vcpu, self.vm, state))
    }

    /// The start that has come for a vCPU that is prepared, if that is all there is to do for it.
    fn started(&mut self) -> Option<(&'static Vcpu, &'static Vm, Guard<'static, VcpuState>, Start)> {
        if !self.guard.as_ref()?.is_prepared() {
            return None;
        }
        let (vcpu, vm) = (self.vcpu, self.vm);
        if vcpu.asked() || !vm.is_running() || vm.held() {
            return None;
        }
        let start = vcpu.power.take_start()?;
        Some((vcpu, vm, self.guard.take()?, start))
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
        let (vcpu, vm) = (self.vcpu, self.vm);
        #[cfg(feature = "test-triggers")]
        crate::trigger::check();
        self.serve();
        if let Phase::Departed { generation, rebuild } = &mut self.phase {
            if vm.generation() != *generation {
                self.phase = Phase::Off;
                return Step::Again;
            }
            if rebuild.is_none() && vcpu.index == 0 {
                *rebuild = vm.revive_if_asked();
            }
            if let Some(at) = *rebuild {
                *rebuild = vm.rebuild(at);
                return Step::Busy;
            }
            return Step::Wait(system::finish_if_over());
        }
        if vm.state() == VmState::Built {
            return Step::Wait(None);
        }
        if vm.ending() {
            return self.depart();
        }
        if vm.held() {
            self.hold();
            return Step::Wait(None);
        }
        match &mut self.phase {
            Phase::Off => self.off(),
            Phase::Ready => {
                self.take();
                Step::Enter
            }
            Phase::Forwarded { waiting, deadline } => {
                let (deadline, late) = (*deadline, timer::now() >= *deadline);
                match ended(vm, vcpu, late.then_some(Cut::Deadline)) {
                    None => Step::Wait(Some(deadline)),
                    Some(end) => {
                        let resolution = waiting.take().map_or(Resolution::Dropped, |waiting| waiting.end(&end, vm.power));
                        if end == End::Deadline {
                            vcpu.count(Counter::Expired);
                        }
                        self.resolve(resolution);
                        Step::Again
                    }
                }
            }
            Phase::Suspended { start } => {
                let start = *start;
                self.suspended(start)
            }
            Phase::HostWaits => self.host_waits(),
            Phase::Sleeps => self.sleeps(),
            Phase::Forwards { .. } | Phase::Departed { .. } => Step::Again,
        }
    }

    /// Serves what others ask of the vCPU while it does not run.
    fn serve(&mut self) {
        let (vcpu, vm) = (self.vcpu, self.vm);
        if vcpu.asked() {
            // Whether it may run is looked at when its turn comes.
            let _ = match self.guard.as_mut() {
                Some(state) => ask::serve(vcpu, vm, state, None),
                None => ask::serve(vcpu, vm, &mut vcpu.lock(), None),
            };
        }
    }

    /// What its lock guards, which is held from now on.
    #[inline(never)]
    fn take(&mut self) -> &mut VcpuState {
        let vcpu = self.vcpu;
        self.guard.get_or_insert_with(|| vcpu.lock())
    }

    fn off(&mut self) -> Step {
        let vcpu = self.vcpu;
        self.take();
        match vcpu.power.take_start() {
            Some(start) => self.come_up(start),
            None => Step::Wait(None),
        }
    }

    /// The vCPU is to run from `start`, with everything as `CPU_ON` gives it.
    fn come_up(&mut self, start: Start) -> Step {
        let vcpu = self.vcpu;
        let state = self.take();
        state.power_up(start);
        let trapping = state.trapping(true);
        state.gic.will_trap(trapping);
        state.publish(vcpu, false);
        // Whether it may run was looked at just before.
        self.phase = Phase::Ready;
        Step::Enter
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
        vcpu.held.store(self.vm.hold_word(), Ordering::Release);
    }

    /// The VM is ending: the vCPU leaves for good.
    fn depart(&mut self) -> Step {
        let (vcpu, vm) = (self.vcpu, self.vm);
        if let Phase::Forwarded { waiting, .. } = &mut self.phase {
            match ended(vm, vcpu, Some(Cut::Reset)) {
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
        // Before it counts as gone: the restart may be over when that is done.
        let generation = vm.generation();
        let rebuild = vm.depart(vcpu);
        self.phase = Phase::Departed { generation, rebuild };
        Step::Again
    }

    /// A forwarded call has its answer, or its deadline.
    fn resolve(&mut self, resolution: Resolution) {
        let (vcpu, vm) = (self.vcpu, self.vm);
        self.phase = Phase::Ready;
        let state = self.take();
        match resolution {
            Resolution::Return(x0) => state.give(&[x0]),
            Resolution::Values(values) => state.give(&values),
            Resolution::Started(target) => {
                state.give(&[0]);
                vm.wake_started(target);
            }
            Resolution::CpuOff => {
                if vcpu.power.begin_off() {
                    state.gic.park(&mut vm.absent(), &vm.dist);
                    vm.kick_spis(state.gic.take_kicks());
                    state.power_down(vcpu);
                    self.phase = Phase::Off;
                    self.was_in_guest = false;
                    vcpu.power.finish_off();
                }
            }
            Resolution::SystemOff => vm.end(VmState::Off),
            Resolution::SystemReset => vm.end(VmState::Resetting),
            Resolution::SystemSuspend(start) => {
                state.gic.park(&mut vm.absent(), &vm.dist);
                vm.kick_spis(state.gic.take_kicks());
                self.phase = Phase::Suspended { start };
            }
            Resolution::Handle => {
                let [x0, x1, x2, x3] = [state.x[0], state.x[1], state.x[2], state.x[3]];
                let (values, count) = wait::handle(vm, [x0, x1, x2, x3]);
                state.give(values.get(..count).unwrap_or(&[]));
            }
            Resolution::Dropped => {}
        }
    }

    /// `SYSTEM_SUSPEND`: what wakes is an interrupt that distributor and redistributor would forward. The CPU interface has
    /// no say, as it has no power: software disables its groups before it suspends.
    fn suspended(&mut self, start: Start) -> Step {
        let (vcpu, vm) = (self.vcpu, self.vm);
        let state = self.take();
        state.gic.stand_by(&vm.dist);
        ask::take_sgis(vcpu, vm, state);
        let view = state.cpuif.view;
        let open = state.cpuif.vmcr.with_pmr(&view, 0xFF).with_igrpen0(1).with_igrpen1(1);
        let physical = state.sample_timer(&mut vm.absent(), vm);
        let due = state.timer_due(vm);
        if state.gic.wakes(&vm.absent(), &vm.dist, open, IDLE_PRIORITY) || due.is_some_and(|at| timer::now() >= at) {
            return self.come_up(start);
        }
        Step::Wait(earlier(due, physical))
    }

    /// Whether something would wake the vCPU from WFI; and when its timer will.
    fn wakes(&mut self) -> (bool, Option<u64>) {
        let (vcpu, vm) = (self.vcpu, self.vm);
        let state = self.take();
        let physical = state.sample_timer(&mut vm.absent(), vm);
        let due = state.timer_due(vm);
        let interrupted = || {
            let CpuIf {
                vmcr, view, ap0r, ap1r, ..
            } = &state.cpuif;
            !state.gic.is_quiet(&vm.dist) && state.gic.wakes(&vm.absent(), &vm.dist, *vmcr, running_priority(view, ap0r, ap1r))
        };
        let wakes = !vcpu.inbox.is_empty() || interrupted() || due.is_some_and(|at| timer::now() >= at);
        (wakes, earlier(due, physical))
    }

    /// In WFI on a pCPU that it shares.
    fn sleeps(&mut self) -> Step {
        let (wakes, due) = self.wakes();
        if !wakes {
            return Step::Wait(due);
        }
        self.phase = Phase::Ready;
        Step::Again
    }

    fn host_waits(&mut self) -> Step {
        let (wakes, due) = self.wakes();
        let state = self.take();
        let mut values = [0; GIVEN];
        if host::next_exit_of_shared(&mut values) {
            state.give(&values);
        } else if wakes {
            state.give(&[Errno::Interrupted.to_ret()]);
        } else {
            return Step::Wait(due);
        }
        self.phase = Phase::Ready;
        Step::Again
    }
}

/// Whether a vCPU's wait for a verdict has ended, by itself or for the reason given.
#[inline(never)]
fn ended(vm: &Vm, vcpu: &Vcpu, cut: Option<Cut>) -> Option<End> {
    vm.exits.poll(vcpu.index, cut)
}

/// A table that this pCPU's translation walks from.
pub(crate) const fn vttbr(vm: usize, root: u64) -> u64 {
    policy::vttbr(vm as u8 + 1, Pa::new(root))
}

/// Whether the resident guest's data accesses are big-endian now.
pub(crate) fn guest_is_big_endian() -> bool {
    esr::big_endian(cpu::spsr(), context::guest_sctlr())
}
