//! What guests do often: reads of GIC registers, writes of words that only configure their own redistributor, ID registers, SGIs to
//! themselves or one other, the kick that brings one, a `CPU_ON` that succeeds. In one piece, so that it compiles to few instructions;
//! whatever it does not know it leaves alone, and the long way in `trap.rs` does it. The shortest paths of all are in `trap.s`.

use hyp_abi::{call::Counter, layout};
use hyp_core::{
    esr::{self, Abort},
    psci,
    vgic::sgi::{self, SgiRegister},
};

use crate::{
    arch::{
        context, cpu,
        gic::{self, KICK_SGI},
    },
    percpu,
    run::Resident,
    trap::Frame,
    vm::View,
};

/// The resident vCPU, whose exit this is.
#[inline(always)]
fn resident<'a>() -> &'a mut Resident {
    // SAFETY: Only the vectors call what asks this, at a guest's exit, and it asks once; who has done nothing by then lets another ask,
    // and this reference is gone then.
    unsafe { percpu::at_exit().1 }
}

/// The [`resident`] vCPU, if an exit of it now has nothing to do for it but what it came for.
#[inline(always)]
fn undisturbed<'a>() -> Option<&'a mut Resident> {
    let here = resident();
    here.is_undisturbed().then_some(here)
}

/// What became of an exit that is common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Done {
    /// All of it; the guest goes on.
    All = 0,
    /// Nothing.
    Nothing = 1,
}

impl From<Option<()>> for Done {
    #[inline]
    fn from(done: Option<()>) -> Self {
        if done.is_some() { Self::All } else { Self::Nothing }
    }
}

/// What a guest has read, for its register `rt`; none of its registers, if nothing has been done.
#[repr(C)]
pub(crate) struct Loaded {
    value: u64,
    rt: u64,
}

impl From<Option<(u8, u64)>> for Loaded {
    #[inline(always)]
    fn from(loaded: Option<(u8, u64)>) -> Self {
        match loaded {
            Some((rt, value)) => Self { value, rt: rt.into() },
            None => Self { value: 0, rt: u64::MAX },
        }
    }
}

/// An exception of class 0x20 or above, by something that does not write.
pub(crate) extern "C" fn guest_load(syndrome: u64) -> Loaded {
    load(syndrome).into()
}

/// [`guest_load`], by something that writes; or not a data abort at all.
pub(crate) extern "C" fn guest_store(frame: &mut Frame, syndrome: u64) -> Done {
    store(frame, syndrome).into()
}

/// `CPU_ON` by HVC, in its 64-bit form.
pub(crate) extern "C" fn guest_on(frame: &mut Frame, syndrome: u64) -> Done {
    cpu_on(frame, syndrome).into()
}

/// A trapped system register that a guest reads, or another exception of a class near it.
pub(crate) extern "C" fn guest_id(syndrome: u64) -> Loaded {
    id_register(syndrome).into()
}

/// A write of `ICC_SGI1R_EL1`.
pub(crate) extern "C" fn guest_sgi(value: u64) -> Done {
    sgi1r(value).into()
}

/// A `CPU_ON` that nobody filters ([`percpu::HANDLES`]) and that succeeds. As other calls that are short, it leaves the caller's shadow and
/// interrupts alone.
#[inline(always)]
fn cpu_on(frame: &mut Frame, syndrome: u64) -> Option<()> {
    let here = resident();
    let vm = here.vm;
    let immediate = syndrome as u16;
    if immediate != 0 {
        return None;
    }
    let [_, mpidr, entry, context, ..] = frame.x;
    let on = psci::cpu_on(mpidr, entry, context, &View { vm }).ok()?;
    vm.power.get(on.target)?.turn_on(on.start).ok()?;
    vm.wake_started(on.target);
    here.vcpu.count(Counter::Calls);
    frame.x[0] = 0;
    Some(())
}

/// A read of an ID register.
#[inline(always)]
fn id_register(syndrome: u64) -> Option<(u8, u64)> {
    // SAFETY: As for `resident`.
    let (local, here) = unsafe { percpu::at_exit() };
    let (rt, value) = local.run.machine.ids.read(syndrome)?;
    if !esr::is_plain(cpu::spsr()) || !here.is_undisturbed() {
        return None;
    }
    here.vcpu.count(Counter::Sysregs);
    cpu::set_elr(cpu::elr().wrapping_add(4));
    Some((rt, value))
}

/// A load from the distributor or the vCPU's own redistributor.
#[inline(always)]
fn load(syndrome: u64) -> Option<(u8, u64)> {
    let abort = Abort::plain(syndrome)?;
    let (here, ipa) = access()?;
    let own = ipa.wrapping_sub(here.vcpu.redistributor);
    // Each size by itself, for the compiler to know it.
    let value = if own < layout::GICR_STRIDE {
        let (gic, interface) = (&here.state.gic, &here.interface);
        match abort.size_log2() {
            2 => gic.read_short(interface, own, 4)?,
            3 => gic.read_short(interface, own, 8)?,
            0 => gic.read_short(interface, own, 1)?,
            _ => return None,
        }
    } else {
        let offset = ipa.wrapping_sub(layout::GICD_BASE);
        if offset >= layout::GICD_SIZE {
            return None;
        }
        match abort.size_log2() {
            2 => here.vm.dist.read_plain(offset, 4)?,
            3 => here.vm.dist.read_plain(offset, 8)?,
            0 => here.vm.dist.read_plain(offset, 1)?,
            _ => return None,
        }
    };
    here.accessed();
    Some((abort.rt(), value))
}

/// A store of a word to the vCPU's own redistributor.
#[inline(always)]
fn store(frame: &mut Frame, syndrome: u64) -> Option<()> {
    let abort = Abort::plain(syndrome)?;
    let (here, ipa) = access()?;
    let value = frame.x.get(usize::from(abort.rt())).copied().unwrap_or(0);
    let own = ipa.wrapping_sub(here.vcpu.redistributor);
    if abort.size_log2() != 2 || own >= layout::GICR_STRIDE || !here.state.gic.write_plain(&here.vm.dist, own, value as u32) {
        return None;
    }
    here.accessed();
    Some(())
}

/// Who made a common access, and where to. The UART, which needs its lock, is out from the start.
#[inline(always)]
fn access<'a>() -> Option<(&'a mut Resident, u64)> {
    /// The bit of an IPA that tells the UART from the GIC.
    const UART: u64 = layout::UART_BASE & !layout::GICD_BASE;
    const _: () = assert!(UART.is_power_of_two() && (layout::GICD_BASE | layout::GICR_BASE) & UART == 0);
    let ipa = Abort::plain_ipa(cpu::hpfar(), cpu::far());
    if ipa & UART != 0 || !esr::is_plain(cpu::spsr()) || !esr::always_little_endian(context::guest_sctlr()) {
        return None;
    }
    Some((undisturbed()?, ipa))
}

impl Resident {
    /// Its shadow is up to date, and none of its hardware-backed interrupts may have to be withdrawn.
    #[inline(always)]
    fn is_undisturbed(&mut self) -> bool {
        gic::vmcr() == self.state.cpuif.vmcr.get() && (!self.state.gic.may_need_attention() || self.state.gic.attend_ended(&self.interface))
    }

    /// An access to a device is done.
    #[inline(always)]
    fn accessed(&self) {
        self.vcpu.count(Counter::Mmio);
        cpu::set_elr(cpu::elr().wrapping_add(4));
    }
}

/// A write of `ICC_SGI1R_EL1`: an SGI for the vCPU itself, or for one other.
#[inline(always)]
fn sgi1r(value: u64) -> Option<()> {
    if !esr::is_plain(cpu::spsr()) {
        return None;
    }
    let here = undisturbed()?;
    let (vcpu, vm, state, interface) = here.parts();
    let (intid, targets) = sgi::decode_listed(value)?;
    if targets == vcpu.as_target {
        let again = state.gic.again(interface, intid)?;
        state.gic.show(interface, again);
    } else {
        if !targets.is_power_of_two() {
            return None;
        }
        let target = vm.vcpus.get(targets.trailing_zeros() as usize)?;
        if target.inbox.post(sgi::word(intid, SgiRegister::Any)) {
            target.kick_plainly();
        }
    }
    vcpu.count(Counter::Sysregs);
    cpu::set_elr(cpu::elr().wrapping_add(4));
    Some(())
}

/// The kick, acknowledged, when it brings an SGI and nothing else is asked.
pub(crate) extern "C" fn guest_kick() -> Done {
    kicked().into()
}

#[inline(always)]
fn kicked() -> Option<()> {
    let here = undisturbed()?;
    if here.shared {
        return None;
    }
    let (vcpu, _, state, interface) = here.parts();
    let word = vcpu.inbox.only_sgi()?;
    let again = state.gic.again(interface, word.trailing_zeros())?;
    if !vcpu.inbox.take_only(word) {
        return None;
    }
    state.gic.show(interface, again);
    vcpu.count_inbox();
    gic::drop_and_deactivate(KICK_SGI);
    vcpu.count(Counter::Interrupts);
    Some(())
}
