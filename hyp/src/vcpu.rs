//! A vCPU: what its lock guards, and what other pCPUs may touch without it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hyp_abi::{call::Counter, layout, shadow::ShadowSlot};
use hyp_core::{
    inject::AbortHistory,
    kick::{Kick, Request},
    policy,
    psci::{Power, Start, State},
    shadow::{Flags, Sample, ShadowWriter},
    timer::PhysicalTimer,
    vgic::{
        Ich,
        cpuif::{CpuIf, Trapping, window_closed},
        ctlr::CtlrView,
        lr::VcpuGic,
        redist::Identity,
        sgi::Inbox,
        vmcr::Vmcr,
    },
};

use crate::{
    arch::{
        barrier::{Guard, Mutex},
        context::Context,
        gic::{self, Interface},
        timer,
    },
    vm::Vm,
};

/// The most registers that a call gives a vCPU that waited for its end.
pub(crate) const GIVEN: usize = 7;

/// What each exit is counted as: one of these.
const EXITS: [Counter; 6] = [
    Counter::Exits,
    Counter::Calls,
    Counter::Sysregs,
    Counter::Mmio,
    Counter::Interrupts,
    Counter::Waits,
];

/// One vCPU. Who may touch what: [`Vcpu::state`] by the holder of its lock, which is the pCPU on which it is resident; the
/// rest by anyone.
pub(crate) struct Vcpu {
    /// Its number in its VM.
    pub(crate) index: usize,
    /// The bit that it is in a list of SGI targets.
    pub(crate) as_target: u16,
    /// The pCPU it runs on.
    pub(crate) pcpu: usize,
    /// That pCPU's affinity.
    pcpu_affinity: u64,
    /// What kicks that pCPU.
    kick_sgi: u64,
    /// The IPA of its redistributor.
    pub(crate) redistributor: u64,
    /// Its power state.
    pub(crate) power: &'static Power,
    /// Its slot of the shadow page.
    pub(crate) slot: &'static ShadowSlot,
    /// Held by the pCPU that has it resident.
    pub(crate) state: Mutex<VcpuState>,
    /// Requests for fresh registers.
    pub(crate) kick: Kick,
    /// Requests to do something to it.
    pub(crate) request: Request,
    /// The last [`Vm::hold_word`] that its pCPU acted on.
    pub(crate) held: AtomicU32,
    /// Its pCPU is to print its list registers.
    pub(crate) show: AtomicBool,
    /// SGIs from other pCPUs.
    pub(crate) inbox: Inbox,
    counters: [AtomicU64; Counter::ALL.len()],
    /// How often SGIs were found in its inbox.
    inboxes: AtomicU64,
}

/// What the vCPU's lock guards. What common exits look at comes first: near enough for one instruction to load two words.
#[repr(C)]
pub(crate) struct VcpuState {
    /// Its private interrupts.
    pub(crate) gic: VcpuGic,
    /// Its CPU interface while it is not resident; of the resident one, `vmcr` as last seen.
    pub(crate) cpuif: CpuIf,
    /// EL1 and FP registers while it is not resident.
    pub(crate) context: Context,
    /// `x0` to `x30` while it is not resident; on a pCPU that it does not share only `x0` to `x3`, the rest stays in the frame.
    pub(crate) x: [u64; 31],
    /// What it finds in `x0` and after when it goes on, and how many of them.
    given: ([u64; GIVEN], usize),
    /// Where it goes on.
    pub(crate) pc: u64,
    /// With which PSTATE.
    pub(crate) pstate: u64,
    /// What CPU_ON gives it.
    pub(crate) template: CpuIf,
    /// The one writer of its shadow.
    writer: ShadowWriter,
    /// The abort it was last given.
    pub(crate) aborts: AbortHistory,
    /// Its physical timer.
    pub(crate) timer: PhysicalTimer,
    /// How far cache maintenance by set and way has got, by the instruction at this address.
    pub(crate) cleaned: (u64, u64),
    /// It waits in its pCPU's registers with its lock free: who takes that can read `cpuif`, and has to ask for everything else.
    pub(crate) in_place: bool,
    /// It is off, and its pCPU's registers are what `CPU_ON` gives it.
    prepared: bool,
    strict: bool,
}

impl Vcpu {
    /// vCPU `index` of a VM, the `last` or not, on pCPU `pcpu` of that affinity. `shown`: its power state, and its slot of the shadow page.
    pub(crate) fn new(
        (index, last): (usize, bool),
        (pcpu, pcpu_affinity): (usize, u64),
        (power, slot): (&'static Power, &'static ShadowSlot),
        view: CtlrView,
        strict: bool,
    ) -> Self {
        let identity = Identity {
            index,
            last,
            affinity: layout::affinity_of(index),
        };
        let template = CpuIf::new(view);
        Self {
            index,
            as_target: 1 << (index & 15),
            pcpu,
            pcpu_affinity,
            kick_sgi: gic::kick_sgi(pcpu_affinity),
            redistributor: layout::GICR_BASE + index as u64 * layout::GICR_STRIDE,
            power,
            slot,
            state: Mutex::new(VcpuState {
                context: Context::new(),
                x: [0; 31],
                given: ([0; GIVEN], 0),
                pc: 0,
                pstate: policy::ENTRY_SPSR,
                cpuif: template,
                template,
                gic: VcpuGic::new(identity),
                in_place: false,
                writer: ShadowWriter::new(),
                aborts: AbortHistory::new(),
                timer: PhysicalTimer::new(),
                prepared: false,
                cleaned: (0, 0),
                strict,
            }),
            kick: Kick::new(),
            request: Request::new(),
            held: AtomicU32::new(0),
            show: AtomicBool::new(false),
            inbox: Inbox::new(),
            counters: [const { AtomicU64::new(0) }; Counter::ALL.len()],
            inboxes: AtomicU64::new(0),
        }
    }

    /// The affinity of the pCPU it runs on.
    pub(crate) const fn affinity(&self) -> u64 {
        self.pcpu_affinity
    }

    /// What kicks that pCPU.
    pub(crate) const fn kick_sgi(&self) -> u64 {
        self.kick_sgi
    }

    /// Whether somebody asks something of it, besides to take its interrupts: loads, for its own pCPU.
    #[inline]
    pub(crate) fn asked(&self) -> bool {
        self.kick.pending() || self.request.pending() || self.show.load(Ordering::Relaxed)
    }

    /// Its lock, waited for.
    #[inline(never)]
    pub(crate) fn lock(&self) -> Guard<'_, VcpuState> {
        self.state.lock()
    }

    /// Makes its pCPU look: at its requests, its interrupts, its VM.
    #[inline(never)]
    pub(crate) fn wake(&self) {
        self.inbox.look();
        gic::send_kick(self.kick_sgi);
    }

    /// [`Vcpu::wake`], counted with its reason.
    pub(crate) fn kick_for(&self, reason: Counter) {
        self.count_remote(reason);
        self.wake();
    }

    /// Kicks it for the first SGI in its inbox, which it counts itself when it drains that; or for what it waits for and looks at with
    /// each kick: an answer, an exit to serve, a start while it is off.
    #[inline]
    pub(crate) fn kick_plainly(&self) {
        gic::send_kick(self.kick_sgi);
    }

    /// A counter's value. [`Counter::Exits`] is the sum of the exits that have a counter of their own and of those that are
    /// counted as nothing else.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        let value = |counter: Counter| self.counters.get(counter as usize).map_or(0, |cell| cell.load(Ordering::Relaxed));
        match counter {
            Counter::Exits => EXITS.into_iter().map(value).sum(),
            // An inbox that was found full was one kick.
            Counter::KicksIrq => value(counter) + self.inboxes.load(Ordering::Relaxed),
            counter => value(counter),
        }
    }

    /// Where its counters are, for the short paths in `trap.s`.
    pub(crate) fn counters_address(&self) -> usize {
        self.counters.as_ptr() as usize
    }

    /// SGIs were in its inbox.
    #[inline]
    pub(crate) fn count_inbox(&self) {
        self.inboxes
            .store(self.inboxes.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Counts what happens on the vCPU's own pCPU, which alone writes these counters: no read-modify-write.
    pub(crate) fn count(&self, counter: Counter) {
        if let Some(cell) = self.counters.get(counter as usize) {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Counts what others do to it. A counter is counted either by this or by [`Vcpu::count`].
    pub(crate) fn count_remote(&self, counter: Counter) {
        if let Some(cell) = self.counters.get(counter as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The vGIC is initialised: its template can be read.
    pub(crate) fn publish_template(&self) {
        let mut state = self.lock();
        state.republish_template(self);
        state.writer.mark_ready(self.slot);
    }

    /// The VM is being reset: everything but the host's template goes back to what it was at first.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        state.gic.reset();
        let _ = self.inbox.drain();
        state.prepared = false;
        state.cpuif = state.template;
        state.aborts = AbortHistory::new();
        state.writer.mark_unready(self.slot);
    }
}

/// A power state as the record has it: `AFFINITY_INFO`'s numbers. What is published on the way to off is the record of a vCPU that
/// has left for good, which stands until it is on again: [`VcpuState::power_down`].
const fn shown(state: State) -> u64 {
    match state {
        State::On => 0,
        State::Off | State::OffPending => 1,
        State::OnPending => 2,
    }
}

impl VcpuState {
    /// `CPU_ON`: every register as at the first instruction.
    pub(crate) fn power_up(&mut self, start: Start) {
        self.prepared = false;
        self.context.reset(start.big_endian);
        self.give(&[start.context]);
        self.pc = start.entry;
        self.pstate = policy::ENTRY_SPSR;
        self.cpuif = CpuIf {
            has_run: true,
            ..self.template
        };
        self.aborts = AbortHistory::new();
        self.cleaned = (0, 0);
        self.timer = PhysicalTimer::new();
    }

    /// While it is off: the registers that nobody else sees are as at its first instruction.
    pub(crate) fn prepare(&mut self, vm: &Vm) {
        self.prepared = true;
        self.timer = PhysicalTimer::new();
        let _ = self.sample_timer(&mut vm.absent(), vm);
        let CpuIf {
            vmcr, view, ap0r, ap1r, ..
        } = self.template;
        gic::set_system_registers();
        gic::set_vmcr(vmcr.get());
        gic::set_active_priorities(view.apr_count(), ap0r, ap1r);
    }

    /// Whether it is [`VcpuState::prepare`]d, and off.
    pub(crate) const fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// [`VcpuState::prepare`]d, it goes: the rest of what `CPU_ON` gives it, published and in the registers.
    pub(crate) fn go(&mut self, vcpu: &Vcpu, vm: &Vm, interface: &mut Interface) {
        self.cpuif = CpuIf {
            has_run: true,
            ..self.template
        };
        self.prepared = false;
        self.given.1 = 0;
        self.aborts = AbortHistory::new();
        self.cleaned = (0, 0);
        self.gic.will_trap(self.trapping(true));
        self.publish(vcpu, true);
        self.gic.load(interface, &vm.dist);
        vm.kick_spis(self.gic.take_kicks());
        let word = vcpu.inbox.drain_sgis();
        if word != 0 {
            vcpu.count_inbox();
            self.gic.receive(interface, &vm.dist, word);
        }
    }

    /// When it goes on it finds these values, [`GIVEN`] at most, in `x0` and after.
    pub(crate) fn give(&mut self, values: &[u64]) {
        for (x, value) in self.given.0.iter_mut().zip(values) {
            *x = *value;
        }
        self.given.1 = values.len();
    }

    /// Takes `x0` to `x30` out of `frame`; those of a vCPU that is alone on its pCPU stay there.
    pub(crate) fn save_x(&mut self, frame: &[u64; 31], shared: bool) {
        if shared {
            self.x = *frame;
        } else {
            self.x[..4].copy_from_slice(&frame[..4]);
        }
    }

    /// Puts `x0` to `x30` into `frame`, where they are if they were `kept`, and what the vCPU was given.
    pub(crate) fn load_x(&mut self, frame: &mut [u64; 31], kept: bool) {
        if self.context.is_new() {
            *frame = [0; 31];
        } else if !kept {
            *frame = self.x;
        }
        let (values, count) = &mut self.given;
        for (x, value) in frame.iter_mut().zip(values.iter()).take(core::mem::take(count)) {
            *x = *value;
        }
    }

    /// The physical timer's line is what the time makes it. Returns when it will rise.
    pub(crate) fn sample_timer(&mut self, interface: &mut Interface, vm: &Vm) -> Option<u64> {
        let now = timer::now();
        self.gic.set_line(interface, &vm.dist, layout::PTIMER_INTID, self.timer.line(now));
        self.timer.due(now)
    }

    /// Off: from here on its CPU interface is the reset template's, for whoever asks, and for its next `CPU_ON`. The caller lets it be
    /// claimed next: who sees that sees this record.
    pub(crate) fn power_down(&mut self, vcpu: &Vcpu) {
        self.cpuif = CpuIf {
            has_run: true,
            ..self.template
        };
        self.publish(vcpu, false);
    }

    /// When the virtual timer of a vCPU that is not resident fires, if that would interrupt it.
    #[inline(never)]
    pub(crate) fn timer_due(&self, vm: &Vm) -> Option<u64> {
        self.context
            .timer_due(vm.cntvoff())
            .filter(|_| self.gic.is_enabled(layout::VTIMER_INTID))
    }

    /// Why the vCPU's common registers trap while it comes up.
    pub(crate) fn trapping(&self, coming_up: bool) -> Trapping {
        Trapping {
            coming_up,
            strict: self.strict,
            narrowed: self.cpuif.view.narrowed(),
        }
    }

    #[inline]
    fn sample(&self, power: State) -> Sample {
        let (vmcr, view) = (self.cpuif.vmcr, &self.cpuif.view);
        Sample {
            ctlr: view.ctlr(vmcr),
            vmcr: vmcr.get(),
            pmr: vmcr.pmr(),
            bpr0: vmcr.bpr0(),
            bpr1: vmcr.bpr1(),
            igrpen0: vmcr.igrpen0(),
            igrpen1: vmcr.igrpen1(),
            power: shown(power),
            stamp: timer::now(),
        }
    }

    /// Publishes what `cpuif.vmcr` holds. `in_guest`: the vCPU goes on in the guest.
    pub(crate) fn publish(&mut self, vcpu: &Vcpu, in_guest: bool) {
        let sample = self.sample(vcpu.power.state());
        let trapped = self.gic.trapping().tc();
        self.writer.publish(vcpu.slot, &sample, Flags { in_guest, trapped });
        vcpu.count(Counter::Published);
    }

    /// Publishes the reset template, which the host may have edited.
    pub(crate) fn republish_template(&mut self, vcpu: &Vcpu) {
        self.prepared = false;
        self.cpuif = self.template;
        let sample = self.sample(vcpu.power.state());
        self.writer.set_template(vcpu.slot, &sample);
    }

    /// The vCPU is about to run guest code.
    #[inline]
    pub(crate) fn enter(&mut self, vcpu: &Vcpu) {
        self.writer.enter(vcpu.slot);
    }

    /// Resident, it is about to wait with its lock free: its registers hold what was last published, and so does `cpuif`.
    #[inline]
    pub(crate) fn begin_wait(&mut self, vcpu: &Vcpu) {
        let count = self.cpuif.view.apr_count();
        gic::save_active_priorities(count, &mut self.cpuif.ap0r, &mut self.cpuif.ap1r);
        self.in_place = true;
        self.writer.rest(vcpu.slot);
    }

    /// The wait of [`begin_wait`](Self::begin_wait) is over, and its lock held again.
    #[inline]
    pub(crate) fn end_wait(&mut self) {
        self.in_place = false;
    }

    /// An ordinary exit: if the guest changed its CPU interface's registers, the shadow follows; and once group 1 is enabled
    /// its writes trap no more.
    pub(crate) fn refresh(&mut self, vcpu: &Vcpu, vm: &Vm, interface: &mut Interface) {
        let vmcr = Vmcr::new(interface.vmcr());
        if vmcr.get() != self.cpuif.vmcr.get() {
            self.changed(vcpu, vm, interface, vmcr);
        }
    }

    /// The resident vCPU's `ICH_VMCR_EL2` has become `vmcr`.
    pub(crate) fn changed(&mut self, vcpu: &Vcpu, vm: &Vm, interface: &mut Interface, vmcr: Vmcr) {
        self.cpuif.vmcr = vmcr;
        let trapping = self.gic.trapping();
        if trapping.coming_up && window_closed(vmcr) {
            self.gic.will_trap(Trapping {
                coming_up: false,
                ..trapping
            });
        }
        self.gic.vmcr_changed(interface, &vm.dist, vmcr);
        vm.kick_spis(self.gic.take_kicks());
        self.publish(vcpu, true);
    }

    /// Takes the CPU interface out of the registers.
    pub(crate) fn save_interface(&mut self, vm: &Vm, interface: &mut Interface, for_good: bool) {
        if for_good {
            self.gic.park(interface, &vm.dist);
        } else {
            self.gic.put(interface, &vm.dist);
        }
        vm.kick_spis(self.gic.take_kicks());
        self.cpuif.vmcr = Vmcr::new(interface.vmcr());
        let count = self.cpuif.view.apr_count();
        gic::save_active_priorities(count, &mut self.cpuif.ap0r, &mut self.cpuif.ap1r);
        gic::set_hcr(0);
    }

    /// Puts the CPU interface into the registers.
    pub(crate) fn load_interface(&mut self, vm: &Vm, interface: &mut Interface) {
        gic::set_system_registers();
        gic::set_vmcr(self.cpuif.vmcr.get());
        gic::set_active_priorities(self.cpuif.view.apr_count(), self.cpuif.ap0r, self.cpuif.ap1r);
        self.gic.load(interface, &vm.dist);
        vm.kick_spis(self.gic.take_kicks());
    }
}
