//! From a guest's exception to the guest's next instruction, in reading order. `trap.s` saves what a Rust function may
//! clobber, and calls one of [`guest_call`], [`guest_forwarded_on`], [`guest_sync`] and [`guest_irq`], if none of [`short`] does it.

use core::arch::global_asm;

use hyp_abi::{
    call::{Counter, VmState},
    layout, psci as ids,
    smccc::{Conduit, NOT_SUPPORTED},
};
use hyp_core::{
    crash::GuestCrash,
    esr::{self, Abort, Esr, MemAccess, SysRegAccess, Trap, ec},
    idreg::{self, IccRegister, SysRegAction, early},
    inject::{self, CrashReason, Injected, Interrupted, Target},
    psci::{self, CpuOn, Forwarded, Outcome},
    put,
    regs::cpu::SysReg,
    sched::earlier,
    text::Value,
    timer::Register,
    types::Ipa,
    vgic::{
        Ich,
        cpuif::running_priority,
        dist::{self, Effect, PASSES, Vcpus},
        lr::VcpuGic,
        sgi::{self, SgiRegister},
        vmcr::Vmcr,
    },
};

use crate::{
    arch::{
        barrier, context, cpu,
        gic::{self, HYP_TIMER_PPI, KICK_SGI, VTIMER_PPI},
        timer,
    },
    ask::{self, Ask},
    boot, console, fatal, host, input, passed, percpu,
    run::{self, Machine, Neighbours, Phase, Resident},
    short,
    vm::{self, Vm},
    wait,
};

global_asm!(
    include_str!("trap.s"),
    call = sym guest_call,
    on = sym short::guest_on,
    forwarded = sym guest_forwarded_on,
    forwards = const percpu::FORWARDS.trailing_zeros(),
    load = sym short::guest_load,
    store = sym short::guest_store,
    id = sym short::guest_id,
    sgi = sym short::guest_sgi,
    sgi1r = const SysRegAccess::write_syndrome(SysReg::ICC_SGI1R_EL1),
    unchecked = const UNCHECKED as u32,
    sync = sym guest_sync,
    kick = sym short::guest_kick,
    irq = sym guest_irq,
    run = sym run::run_loop,
    fault = sym fatal::el2_fault,
    secondary = sym boot::secondary,
    tcrx = const early::TCRX,
    sctlrx = const early::SCTLRX,
    fgt2 = const early::FGT2,
    mpam = const early::MPAM,
    mpam_frac = const early::MPAM_FRAC,
    has_hcr = const early::MPAM_HAS_HCR.trailing_zeros(),
    frame_size = const size_of::<Frame>(),
    emergency = const percpu::EMERGENCY,
    ec_hvc = const ec::HVC,
    hvc0 = const (ec::HVC as u32) << 26 | 1 << 25,
    vtimer = const VTIMER_PPI,
    short_calls = const percpu::SHORT_CALLS,
    short_power = const percpu::SHORT_POWER,
    short_starts = const percpu::SHORT_STARTS,
    short_gic = const percpu::SHORT_GIC,
    hyp_uid = const hyp_abi::smccc::VENDOR_HYP_UID,
    smccc_version = const hyp_abi::smccc::VERSION,
    smccc_1_1 = const hyp_abi::smccc::VERSION_1_1,
    psci_version = const ids::VERSION,
    psci_1_3 = const ids::VERSION_1_3,
    cpu_on = const ids::CPU_ON_64,
    affinity_info = const ids::AFFINITY_INFO_32,
    affinity_of_state = const psci::AFFINITY_OF_STATE,
    power_size = const size_of::<psci::Power>(),
    power_word = const psci::Power::WORD,
    gic_image = const VcpuGic::IMAGE,
    gic_slot = const VcpuGic::TIMER_SLOT,
    gic_latch = const VcpuGic::LATCH,
    count_calls = const 8 * Counter::Calls as usize,
    count_interrupts = const 8 * Counter::Interrupts as usize,
);

/// Nobody will look at which registers the functions of [`short`] use: whoever builds the image and does sets this variable.
const UNCHECKED: bool = option_env!("UMBRA_LEAVES_ARE_CHECKED").is_none();

/// A guest's general-purpose registers at the top of its pCPU's stack. `x19` to `x29` are there only after exits that can
/// name them: in [`guest_sync`].
#[repr(C, align(16))]
pub(crate) struct Frame {
    /// `x0` to `x30`.
    pub(crate) x: [u64; 31],
}

const _: () = assert!(size_of::<Frame>() == 256, "trap.s uses this layout");
const _: () = assert!(
    hyp_abi::smccc::VENDOR_HYP_UID & (1 << 25 | 1 << 15) == 1 << 25 | 1 << 15
        && hyp_abi::smccc::VENDOR_HYP_UID ^ hyp_abi::smccc::VENDOR_HYP_REVISION == 2
        && (ids::VERSION | ids::AFFINITY_INFO_64 | hyp_abi::smccc::VERSION) & 1 << 25 == 0,
    "short_call tells them apart by these bits"
);

/// What becomes of the vCPU after its exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Leave {
    /// It goes on.
    Stay = 0,
    /// It leaves its pCPU; the run loop decides what is next.
    Go = 1,
}

/// One exit: the vCPU that made it, and its registers.
pub(crate) struct Exit<'a> {
    resident: &'a mut Resident,
    /// The other vCPUs of this pCPU.
    pub(crate) neighbours: &'a mut Neighbours,
    machine: &'a Machine,
    /// The general-purpose registers.
    pub(crate) frame: &'a mut Frame,
}

impl core::ops::Deref for Exit<'_> {
    type Target = Resident;
    fn deref(&self) -> &Resident {
        self.resident
    }
}

impl core::ops::DerefMut for Exit<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.resident
    }
}

/// HVC from a guest that the vectors have not answered.
extern "C" fn guest_call(frame: &mut Frame, syndrome: u64) -> Leave {
    ordinary(frame, |exit| {
        exit.attend();
        exit.vcpu.count(Counter::Calls);
        if syndrome & HVC_IMM != 0 {
            return undefined(exit, cpu::elr().wrapping_sub(4));
        }
        call(exit, Conduit::Hvc)
    })
}

/// [`guest_call`] of a `CPU_ON`, in its 64-bit form, that the host is to decide.
extern "C" fn guest_forwarded_on(frame: &mut Frame, syndrome: u64) -> Leave {
    ordinary(frame, |exit| {
        exit.attend();
        exit.vcpu.count(Counter::Calls);
        if syndrome & HVC_IMM != 0 {
            return undefined(exit, cpu::elr().wrapping_sub(4));
        }
        let [_, mpidr, entry, context, ..] = exit.frame.x;
        match psci::cpu_on(mpidr, entry, context, &vm::View { vm: exit.vm }) {
            Ok(on) => wait::forward(exit, Forwarded::CpuOn(on), Conduit::Hvc),
            Err(refused) => {
                exit.frame.x[0] = refused.to_ret();
                Leave::Stay
            }
        }
    })
}

/// An HVC's immediate, in `ESR_EL2`.
const HVC_IMM: u64 = 0xFFFF;

/// Any other synchronous exception from a guest, and what [`short`] has not done; and SError while a guest ran: its own, or its doing.
extern "C" fn guest_sync(frame: &mut Frame) -> Leave {
    let syndrome = cpu::esr();
    ordinary(frame, |exit| synchronous(exit, syndrome))
}

fn synchronous(exit: &mut Exit<'_>, syndrome: u64) -> Leave {
    exit.attend();
    match Trap::decode(syndrome) {
        Trap::Smc { imm: 0 } => smc(exit),
        Trap::SysReg(access) => sysreg(exit, access),
        Trap::DataAbort(abort) => data_abort(exit, abort),
        Trap::InstAbort(abort) => inst_abort(exit, abort),
        Trap::Wfx(_) => wait_for_interrupt(exit),
        Trap::Smc { .. } | Trap::Hidden { .. } => {
            exit.vcpu.count(Counter::Exits);
            undefined(exit, cpu::elr())
        }
        Trap::SError => unexpected(exit, CrashReason::SError),
        Trap::Hvc { .. } | Trap::Svc { .. } | Trap::IllegalState | Trap::PcAlign | Trap::SpAlign | Trap::Other { .. } => {
            unexpected(exit, CrashReason::Unexpected)
        }
    }
}

/// A physical interrupt, acknowledged, while a guest ran. The next one, if there is one, exits again.
extern "C" fn guest_irq(frame: &mut Frame, intid: u32) -> Leave {
    ordinary(frame, |exit| {
        exit.vcpu.count(Counter::Interrupts);
        interrupt(exit, intid)
    })
}

/// Handles physical interrupt `intid` on the resident vCPU's pCPU.
pub(crate) fn interrupt(exit: &mut Exit<'_>, intid: u32) -> Leave {
    match intid {
        KICK_SGI => {
            gic::drop_and_deactivate(intid);
            #[cfg(feature = "test-triggers")]
            crate::trigger::check();
            exit.serve();
            if exit.shared {
                // It may have been for another vCPU of this pCPU.
                exit.phase = Phase::Ready;
                return Leave::Go;
            }
        }
        VTIMER_PPI => {
            // It stays active until the guest ends it: the list register is hardware-backed.
            gic::drop_priority(intid);
            let (_, vm, state, interface) = exit.parts();
            state.gic.inject_hw(interface, &vm.dist, VTIMER_PPI);
        }
        HYP_TIMER_PPI => {
            timer::disarm();
            gic::drop_and_deactivate(intid);
            exit.sample_timer();
            if exit.shared {
                exit.phase = Phase::Ready;
                return Leave::Go;
            }
        }
        1020..=1023 => {}
        _ => other_interrupt(exit, intid),
    }
    exit.attend();
    exit.may_stay()
}

/// A device's interrupt, or the maintenance interrupt.
#[inline(never)]
fn other_interrupt(exit: &mut Exit<'_>, intid: u32) {
    match intid {
        _ if console::is_console(intid) => {
            input::arrived();
            gic::drop_and_deactivate(intid);
        }
        32.. => {
            gic::drop_priority(intid);
            match passed::take(intid) {
                // It stays active until the guest ends it: the list register is hardware-backed.
                Some((vm, looks)) => arrived(exit, vm, looks),
                // Nobody's: left enabled by who was here before.
                None if gic::can_be_active(intid) => gic::deactivate(intid),
                None => {}
            }
        }
        _ => {
            // The maintenance interrupt: the only other one that is enabled.
            let (_, vm, state, interface) = exit.parts();
            state.gic.maintenance(interface, &vm.dist);
            vm.kick_spis(state.gic.take_kicks());
            gic::drop_and_deactivate(intid);
        }
    }
}

/// An exit after which a vCPU cannot go on.
fn unexpected(exit: &mut Exit<'_>, reason: CrashReason) -> Leave {
    exit.vcpu.count(Counter::Exits);
    crash(exit, reason)
}

/// What every exit does that comes here: refresh the shadow, act. What acts counts it: as one of calls, system registers, memory
/// accesses, interrupts and waits, or as an exit that is none of these.
#[inline(always)]
fn ordinary(frame: &mut Frame, act: impl FnOnce(&mut Exit<'_>) -> Leave) -> Leave {
    // SAFETY: Only the vectors call what comes here, at a guest's exit, and it asks once.
    let (local, resident) = unsafe { percpu::at_exit() };
    let (neighbours, machine) = local.run.besides();
    let mut exit = Exit {
        resident,
        neighbours,
        machine,
        frame,
    };
    #[cfg(feature = "panic-canary")]
    core::hint::black_box(exit.frame.x[core::hint::black_box(exit.vcpu.index)]);
    let (vcpu, vm, state, interface) = exit.parts();
    state.refresh(vcpu, vm, interface);
    act(&mut exit)
}

impl Exit<'_> {
    /// The vCPU and its registers, each to be used beside the other.
    #[inline]
    pub(crate) fn both(&mut self) -> (&mut Resident, &Frame) {
        (self.resident, self.frame)
    }

    /// Withdraws what the guest's hardware-backed interrupts no longer assert.
    #[inline]
    pub(crate) fn attend(&mut self) {
        if self.state.gic.needs_attention() {
            self.withdraw();
        }
    }

    #[cold]
    fn withdraw(&mut self) {
        let (_, vm, state, interface) = self.parts();
        state.gic.attend(interface, &vm.dist);
        vm.kick_spis(state.gic.take_kicks());
    }

    /// The physical timer's line follows the time, and EL2's timer rings when it rises or when the pCPU is to look.
    fn sample_timer(&mut self) {
        let (_, vm, state, interface) = self.parts();
        let due = state.sample_timer(interface, vm);
        // A moment that has passed rings at once: it is never dropped.
        match earlier(due, self.alarm) {
            Some(alarm) => timer::arm(alarm),
            None => timer::disarm(),
        }
    }

    /// EL2's timer rang for a deadline, or did not, and rings for what it rang for before.
    pub(crate) fn end_of_deadline(&mut self) {
        if self.alarm.is_none() && self.state.timer.is_off() {
            timer::disarm();
        } else {
            self.sample_timer();
        }
    }

    /// Somebody asks something of this vCPU, or has an interrupt for it, or its VM is ending or held.
    pub(crate) fn serve(&mut self) {
        let (vcpu, vm, state, interface) = self.parts();
        let _ = ask::serve(vcpu, vm, state, Some(interface));
    }

    /// A call gives these values, in `x0` and after.
    pub(crate) fn give(&mut self, values: &[u64; 4]) {
        let [x0, x1, x2, x3] = *values;
        [self.frame.x[0], self.frame.x[1], self.frame.x[2], self.frame.x[3]] = [x0, x1, x2, x3];
    }

    /// The vCPU goes on unless its VM is ending or held.
    pub(crate) fn may_stay(&self) -> Leave {
        if self.vm.ending() || self.vm.held() {
            Leave::Go
        } else {
            Leave::Stay
        }
    }

    fn x(&self, index: u8) -> u64 {
        self.frame.x.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn set_x(&mut self, index: u8, value: u64) {
        if let Some(x) = self.frame.x.get_mut(usize::from(index)) {
            *x = value;
        }
    }

    fn target(&self) -> Target {
        Target {
            vbar: context::guest_vectors(),
            sctlr: context::guest_sctlr(),
            features: self.machine.features,
        }
    }
}

/// WFI of a vCPU that shares its pCPU: the next one's turn, unless something is there already.
fn wait_for_interrupt(exit: &mut Exit<'_>) -> Leave {
    exit.vcpu.count(Counter::Waits);
    step_over();
    if wait::would_wake(exit) {
        return Leave::Stay;
    }
    exit.phase = Phase::Sleeps;
    Leave::Go
}

/// Whether the instruction that trapped passes its condition, if it has one.
fn was_executed() -> bool {
    esr::passes(Esr::new(cpu::esr()), cpu::spsr())
}

/// Past the instruction that trapped.
fn step_over() {
    let pstate = cpu::spsr();
    let (pc, after) = esr::stepped_over(Esr::new(cpu::esr()), cpu::elr(), pstate);
    cpu::set_elr(pc);
    if after != pstate {
        cpu::set_spsr(after);
    }
}

#[inline(never)]
fn smc(exit: &mut Exit<'_>) -> Leave {
    step_over();
    exit.vcpu.count(Counter::Calls);
    call(exit, Conduit::Smc)
}

/// HVC or SMC: an SMCCC call.
#[inline]
fn call(exit: &mut Exit<'_>, conduit: Conduit) -> Leave {
    if exit.vm.id == 0
        && let Some(leave) = host::call(exit)
    {
        // Of a service that no filter can be about: the host partition has none.
        return leave;
    }
    other_call(exit, conduit)
}

#[inline(never)]
fn other_call(exit: &mut Exit<'_>, conduit: Conduit) -> Leave {
    let [x0, x1, x2, x3, ..] = exit.frame.x;
    let view = vm::View { vm: exit.vm };
    match psci::smccc(&[x0, x1, x2, x3], exit.vm.filter(), &view) {
        Outcome::Return(value) => {
            exit.frame.x[0] = value;
            Leave::Stay
        }
        Outcome::Values(values) => {
            exit.give(&values);
            Leave::Stay
        }
        Outcome::CpuOn(on) => cpu_on(exit, on),
        Outcome::CpuOff => cpu_off(exit),
        Outcome::Suspend => suspend(exit),
        Outcome::SystemOff => end(exit, VmState::Off),
        Outcome::SystemReset => end(exit, VmState::Resetting),
        Outcome::SystemSuspend(start) => {
            exit.phase = Phase::Suspended { start };
            Leave::Go
        }
        Outcome::Forward(forwarded) => wait::forward(exit, forwarded, conduit),
        Outcome::NotMine => {
            exit.frame.x[0] = NOT_SUPPORTED;
            Leave::Stay
        }
    }
}

fn cpu_on(exit: &mut Exit<'_>, on: CpuOn) -> Leave {
    let Some(power) = exit.vm.power.get(on.target) else {
        return Leave::Stay;
    };
    exit.frame.x[0] = match power.turn_on(on.start) {
        Ok(()) => {
            exit.vm.wake_started(on.target);
            0
        }
        Err(refused) => refused.to_ret(exit.vm.desc.on_pending),
    };
    Leave::Stay
}

pub(crate) fn cpu_off(exit: &mut Exit<'_>) -> Leave {
    if exit.vcpu.power.begin_off() {
        exit.phase = Phase::Off;
        return Leave::Go;
    }
    exit.frame.x[0] = ids::PsciError::Denied.to_ret();
    Leave::Stay
}

/// Standby: until something is pending for this pCPU. A call that comes back early is within the rules (DEN 0022,
/// CPU_SUSPEND).
fn suspend(exit: &mut Exit<'_>) -> Leave {
    exit.frame.x[0] = 0;
    if wait::would_wake(exit) {
        return Leave::Stay;
    }
    if exit.shared {
        exit.phase = Phase::Sleeps;
        return Leave::Go;
    }
    barrier::wfi();
    Leave::Stay
}

pub(crate) fn end(exit: &Exit<'_>, how: VmState) -> Leave {
    exit.vm.end(how);
    Leave::Go
}

/// A trapped system register.
fn sysreg(exit: &mut Exit<'_>, access: SysRegAccess) -> Leave {
    exit.vcpu.count(Counter::Sysregs);
    let value = match idreg::classify(access.register, access.read) {
        SysRegAction::Id => exit.machine.ids.get(access.register),
        SysRegAction::Value(value) => Some(value),
        SysRegAction::Ignore => None,
        SysRegAction::Icc(register) => icc(exit, register, access),
        SysRegAction::PhysicalTimer(register) => physical_timer(exit, register, access),
        SysRegAction::SetWay(_) => {
            let pc = cpu::elr();
            let (at, done) = exit.state.cleaned;
            let done = if at == pc { done } else { 0 };
            let more = exit.vm.clean_by_set_way(exit.x(access.rt), done);
            exit.state.cleaned = (pc, more.unwrap_or(0));
            if more.is_some() {
                return Leave::Stay;
            }
            None
        }
        // Made again, it does not trap; one that does is not there.
        SysRegAction::Debug if exit.state.context.use_debug() => return Leave::Stay,
        SysRegAction::Debug | SysRegAction::Undef => return undefined(exit, cpu::elr()),
    };
    if let Some(value) = value {
        exit.set_x(access.rt, value);
    }
    step_over();
    Leave::Stay
}

/// A register of the physical timer. EL2's own timer rings when it is due. In AArch32 nobody sees the upper half of a general-purpose
/// register, and what it holds is UNKNOWN. Gives what a read does.
fn physical_timer(exit: &mut Exit<'_>, register: Register, access: SysRegAccess) -> Option<u64> {
    if !was_executed() {
        return None;
    }
    let now = timer::now();
    if access.read {
        let value = exit.state.timer.read(register, now);
        exit.set_x(access.high, value >> 32);
        return Some(value);
    }
    let mut value = exit.x(access.rt);
    if access.high != 31 {
        value = value & 0xFFFF_FFFF | exit.x(access.high) << 32;
    }
    exit.state.timer.write(register, value, now);
    exit.sample_timer();
    None
}

/// A register of the GIC CPU interface that traps: SGIs always, the rest while the vCPU comes up or in strict mode. Gives what a read does.
fn icc(exit: &mut Exit<'_>, register: IccRegister, access: SysRegAccess) -> Option<u64> {
    let value = exit.x(access.rt);
    let now = Vmcr::new(exit.interface.vmcr());
    let view = exit.state.cpuif.view;
    let (changed, read) = match register {
        IccRegister::Sgi1r => {
            send_sgi(exit, SgiRegister::Any, value);
            return None;
        }
        IccRegister::Sgi0r | IccRegister::Asgi1r => {
            send_sgi(exit, SgiRegister::Zero, value);
            return None;
        }
        IccRegister::Dir => {
            let (intid, (_, vm, state, interface)) = (value as u32 & 0xFF_FFFF, exit.parts());
            let effect = state.gic.deactivate(interface, &vm.dist, intid);
            vm.kick_spis(state.gic.take_kicks());
            let (offset, bit) = dist::active(intid);
            let _ = distributed(exit, effect, offset, 4, Some(bit));
            return None;
        }
        IccRegister::Ctlr => (view.apply_write(now, value), view.ctlr(now)),
        IccRegister::Pmr => (now.with_pmr(&view, value), now.pmr()),
        IccRegister::Rpr => {
            let (group0, group1) = gic::active_priorities(view.apr_count());
            (now, running_priority(&view, &group0, &group1))
        }
    };
    if access.read {
        return Some(read);
    }
    if changed.get() != now.get() {
        gic::set_vmcr(changed.get());
        let (vcpu, vm, state, interface) = exit.parts();
        state.changed(vcpu, vm, interface, changed);
    }
    None
}

fn send_sgi(exit: &mut Exit<'_>, register: SgiRegister, value: u64) {
    let vm = exit.vm;
    let request = sgi::decode(register, value, exit.vcpu.index, vm.vcpus.len());
    let mut targets = request.targets;
    if targets >> exit.vcpu.index & 1 != 0 {
        targets &= !(1 << exit.vcpu.index);
        let (_, _, state, interface) = exit.parts();
        state.gic.receive(interface, &vm.dist, request.word);
    }
    while targets != 0 {
        if let Some(target) = vm.vcpus.get(targets.trailing_zeros() as usize)
            && target.inbox.post(request.word)
        {
            target.kick_plainly();
        }
        targets &= targets - 1;
    }
}

/// A data access outside the guest's RAM: a device of its machine, or nothing.
fn data_abort(exit: &mut Exit<'_>, abort: Abort) -> Leave {
    exit.vcpu.count(Counter::Mmio);
    let far = cpu::far();
    if abort.cache_maintenance() && !abort.on_stage1_walk() {
        // By address, outside RAM: there is nothing that a cache could hold.
        step_over();
        return Leave::Stay;
    }
    // Where HPFAR_EL2 does not hold it, it is no device of the guest's machine: of those nothing is mapped, and so each access is a
    // translation fault.
    let ipa = abort.ipa(cpu::hpfar(), far);
    match (ipa.map(Ipa::get), abort.access()) {
        (Some(ipa), Some(access)) if !abort.on_stage1_walk() && emulated(exit, ipa) => access_device(exit, ipa, access),
        (Some(ipa), None) => {
            if emulated(exit, ipa) {
                exit.vcpu.count(Counter::NoSyndrome);
            }
            external_abort(exit, abort, far)
        }
        _ => external_abort(exit, abort, far),
    }
}

/// Whether a device of the guest's machine is at `ipa`.
#[inline]
fn emulated(exit: &Exit<'_>, ipa: u64) -> bool {
    let redistributors = exit.vm.vcpus.len() as u64 * layout::GICR_STRIDE;
    ipa < layout::GICD_BASE + layout::GICD_SIZE
        || ipa.wrapping_sub(layout::GICR_BASE) < redistributors
        || ipa.wrapping_sub(layout::UART_BASE) < layout::UART_SIZE
}

/// One load or store at `ipa`, where a device of the guest's machine is.
fn access_device(exit: &mut Exit<'_>, ipa: u64, access: MemAccess) -> Leave {
    let pstate = cpu::spsr();
    let big_endian = esr::big_endian(pstate, context::guest_sctlr());
    let size = u64::from(access.size);
    let value = access.write.then(|| access.store(exit.x(access.rt), big_endian));
    let raw = if ipa >= layout::UART_BASE {
        uart(exit, ipa - layout::UART_BASE, access.size, value)
    } else if ipa >= layout::GICR_BASE {
        redistributor(exit, ipa - layout::GICR_BASE, size, value)
    } else if ipa >= layout::GICD_BASE {
        distributor(exit, ipa - layout::GICD_BASE, size, value)
    } else {
        // Where `virt` has its flash.
        0
    };
    if !access.write {
        exit.set_x(access.rt, access.load(raw, big_endian));
    }
    step_over();
    exit.may_stay()
}

fn uart(exit: &mut Exit<'_>, offset: u64, size: u8, value: Option<u64>) -> u64 {
    let vm = exit.vm;
    let (value, looks) = if let Some(value) = value {
        let (effect, looks) = vm.uart(|uart| uart.write(offset, size, value));
        if let Some(byte) = effect.transmit {
            console::guest_byte(vm.id, byte);
        }
        (0, looks)
    } else {
        let read = vm.uart(|uart| uart.read(offset, size));
        input::room();
        read
    };
    if looks != 0 {
        arrived(exit, vm, looks);
    }
    value
}

/// A redistributor: the vCPU's own directly, another's by asking its pCPU.
fn redistributor(exit: &mut Exit<'_>, offset: u64, size: u64, value: Option<u64>) -> u64 {
    let (index, offset) = ((offset / layout::GICR_STRIDE) as usize, offset % layout::GICR_STRIDE);
    if index != exit.vcpu.index {
        return others_redistributor(exit, index, offset, size, value);
    }
    let (_, vm, state, interface) = exit.parts();
    let Some(value) = value else {
        return state.gic.read(interface, offset, size);
    };
    state.gic.write(interface, &vm.dist, offset, size, value);
    vm.kick_spis(state.gic.take_kicks());
    0
}

#[cold]
fn others_redistributor(exit: &mut Exit<'_>, index: usize, offset: u64, size: u64, value: Option<u64>) -> u64 {
    let Some(target) = exit.vm.vcpus.get(index) else { return 0 };
    let what = match value {
        Some(value) => Ask::write(offset, size, value),
        None => Ask::read(offset, size),
    };
    let deadline = ask::patience();
    ask::ask(exit, exit.vm, target, Counter::KicksRequest, what, deadline).unwrap_or(0)
}

fn distributor(exit: &mut Exit<'_>, offset: u64, size: u64, value: Option<u64>) -> u64 {
    let vm = exit.vm;
    if vm.dist.has_backed() {
        sample(vm);
    }
    let Some(value) = value else {
        let (value, effect) = vm.dist.read(exit.interface.spis(), offset, size);
        if effect.is_none() {
            return value;
        }
        // Some of it is with vCPUs.
        return value | distributed(exit, effect, offset, size, None);
    };
    let effect = vm.dist.write(exit.interface.spis(), offset, size, value);
    if vm.dist.has_backed() {
        vm.passed.follow(vm, offset);
    }
    if !effect.is_none() {
        let _ = distributed(exit, effect, offset, size, Some(value));
    }
    0
}

/// What a guest has served without taking its interrupt is not to come, nor to be seen.
#[cold]
fn sample(vm: &Vm) {
    vm.kick_spis(vm.dist.sample(&vm.passed.distributor));
}

/// SPIs have come for the vCPUs `looks` of `vm`, which may be another than the one that runs here.
#[inline(never)]
fn arrived(exit: &mut Exit<'_>, vm: &Vm, mut looks: Vcpus) {
    let own = 1 << exit.vcpu.index;
    if vm.id == exit.vm.id && looks & own != 0 {
        looks &= !own;
        let (_, _, state, interface) = exit.parts();
        state.gic.receive_spis(interface, &vm.dist);
        looks |= state.gic.take_kicks();
    }
    vm.kick_spis(looks);
}

/// What an access to the distributor asks of vCPUs; and the access again, until it is over. Gives the bits that they answer, and those
/// that it reads.
#[inline(never)]
fn distributed(exit: &mut Exit<'_>, mut effect: Effect, offset: u64, size: u64, value: Option<u64>) -> u64 {
    let mut read = 0;
    for _ in 0..PASSES {
        let answers = follow(exit, effect);
        read |= answers & 0xFFFF_FFFF;
        if effect.is_over(answers) {
            break;
        }
        let (dist, spis) = (&exit.vm.dist, exit.interface.spis());
        effect = match value {
            Some(value) => dist.write(spis, offset, size, value),
            None => {
                let (seen, effect) = dist.read(spis, offset, size);
                read |= seen;
                effect
            }
        };
    }
    read
}

/// What an access to the distributor asks of vCPUs. Gives their answers.
fn follow(exit: &mut Exit<'_>, effect: Effect) -> u64 {
    let mut answers = 0;
    let mut owners = effect.owners;
    if owners != 0 {
        let deadline = ask::patience();
        while owners != 0 {
            if let Some(owner) = exit.vm.vcpus.get(owners.trailing_zeros() as usize) {
                let answer = ask::ask(exit, exit.vm, owner, Counter::KicksRequest, Ask::spis(effect.ask), deadline);
                // One that does not answer is not asked again.
                answers |= answer.unwrap_or(0xFFFF_FFFF << 32);
            }
            owners &= owners - 1;
        }
    }
    arrived(exit, exit.vm, effect.kick);
    answers
}

fn inst_abort(exit: &mut Exit<'_>, abort: Abort) -> Leave {
    exit.vcpu.count(Counter::Exits);
    let far = cpu::far();
    let from = Interrupted {
        pc: cpu::elr(),
        pstate: cpu::spsr(),
    };
    let exception = inject::inst_abort(abort, far, from, exit.target());
    give(exit, exception)
}

fn external_abort(exit: &mut Exit<'_>, abort: Abort, far: u64) -> Leave {
    let from = Interrupted {
        pc: cpu::elr(),
        pstate: cpu::spsr(),
    };
    let exception = inject::data_abort(abort, far, from, exit.target());
    give(exit, exception)
}

/// Gives the guest an abort, or ends a guest that would only come back with the same one.
fn give(exit: &mut Exit<'_>, exception: Injected) -> Leave {
    exit.vcpu.count(Counter::Aborts);
    let number = exit.vcpu.counter(Counter::Exits);
    let x = exit.frame.x;
    match exit.state.aborts.admit(exception, number, &x) {
        Ok(()) => {
            take_exception(&exception);
            Leave::Stay
        }
        Err(reason) => crash(exit, reason),
    }
}

/// The instruction at `pc` does not exist for this guest.
fn undefined(exit: &Exit<'_>, pc: u64) -> Leave {
    if !was_executed() {
        step_over();
        return Leave::Stay;
    }
    let from = Interrupted { pc, pstate: cpu::spsr() };
    take_exception(&inject::undef(from, exit.target()));
    Leave::Stay
}

fn take_exception(exception: &Injected) {
    context::inject(exception);
    cpu::set_elr(exception.pc);
    cpu::set_spsr(exception.pstate);
}

/// The vCPU cannot go on: a page that says why, and its VM ends.
fn crash(exit: &mut Exit<'_>, reason: CrashReason) -> Leave {
    let (far, x) = (cpu::far(), exit.frame.x);
    let syndrome = Esr::new(cpu::esr());
    let ipa = match syndrome.ec() {
        ec::DATA_ABORT_LOWER | ec::INST_ABORT_LOWER => Abort::new(syndrome.iss()).ipa(cpu::hpfar(), far),
        _ => None,
    };
    let page = GuestCrash {
        vm: exit.vm.name,
        vm_id: exit.vm.id as u32,
        vcpu: exit.vcpu.index as u32,
        pcpu: exit.vcpu.pcpu as u32,
        reason,
        esr: syndrome.get(),
        pc: cpu::elr(),
        pstate: cpu::spsr(),
        far,
        ipa,
        x: &x,
        el1: context::for_report(),
    };
    console::page(|out| put!(out, "{}", Value::Of(&page)));
    end(exit, VmState::Crashed)
}
