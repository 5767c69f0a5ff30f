//! PSCI and the few SMCCC calls that every guest may make: decides, does not act.
//!
//! [`smccc`] looks at one call and says what the trap path must do. The order of `CPU_ON`'s checks is MPIDR, entry, state,
//! policy, failure: the first two are made here, and the state is not looked at but claimed ([`Power::claim`]), so there
//! is no gap between the look and the change. The host, when it is asked, decides policy only.

pub mod power;
mod steps;

use crate::filter::{Action, Filter};
use hyp_abi::call::REVISION;
use hyp_abi::layout::MAX_VCPUS;
use hyp_abi::psci::{self, PsciError};
use hyp_abi::smccc as arch;
pub use power::{AFFINITY_OF_STATE, Claim, How, Power, Refused, Start, State};

/// What a decision needs to know of the calling VM.
pub trait VmView {
    /// How many vCPUs it has.
    fn vcpus(&self) -> usize;
    /// The vCPU with this affinity (`MPIDR_EL1` without bits 31:24 and above 39).
    fn find(&self, affinity: u64) -> Option<usize>;
    /// The affinity of vCPU `index`.
    fn affinity(&self, index: usize) -> u64 {
        hyp_abi::layout::affinity_of(index)
    }
    /// Whether a guest can run from this IPA: it lies in the VM's RAM.
    fn in_ram(&self, ipa: u64) -> bool;
    /// The power state of vCPU `index`.
    fn power(&self, index: usize) -> State;
    /// Whether the caller runs big-endian (`SCTLR_EL1.EE`); what it starts inherits that.
    fn big_endian(&self) -> bool {
        false
    }
}

/// A `CPU_ON` whose MPIDR and entry are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOn {
    /// The target's index.
    pub target: usize,
    /// Where it is to start.
    pub start: Start,
}

/// A call for the host to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `CPU_ON`: claim the target first.
    CpuOn(CpuOn),
    /// `CPU_OFF`.
    CpuOff,
    /// `SYSTEM_OFF` and `SYSTEM_OFF2`.
    SystemOff,
    /// `SYSTEM_RESET` and `SYSTEM_RESET2`.
    SystemReset,
    /// `SYSTEM_SUSPEND`: where the VM is to go on.
    SystemSuspend(Start),
    /// Any other call: the host gives `x0` to `x3`.
    Other,
}

/// What the trap path must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Put the value in `x0` and resume the guest.
    Return(u64),
    /// Put the values in `x0` to `x3` and resume the guest.
    Values([u64; 4]),
    /// [`Power::turn_on`] the target, wake its pCPU, and return `SUCCESS` or [`Refused::to_ret`].
    CpuOn(CpuOn),
    /// Turn the calling vCPU off: [`Power::begin_off`], fold its state back, [`Power::finish_off`].
    CpuOff,
    /// Wait as for `WFI`, then return `SUCCESS`.
    Suspend,
    /// End the calling VM.
    SystemOff,
    /// Restart the calling VM.
    SystemReset,
    /// The calling vCPU is the last one of its VM: it leaves, and goes on at the start, as after a `CPU_ON`, when an
    /// interrupt is there for it.
    SystemSuspend(Start),
    /// Hand the call to the host and let the calling vCPU alone wait.
    Forward(Forwarded),
    /// Neither PSCI nor an SMCCC call of ours; nothing denies it.
    NotMine,
}

const NOT_SUPPORTED: Outcome = refuse(PsciError::NotSupported);

const fn refuse(error: PsciError) -> Outcome {
    Outcome::Return(error.to_ret())
}

/// Decides the call in `x0` to `x3`. The function identifier is `w0`: the upper half of `x0` does not count.
#[must_use]
pub fn smccc(x: &[u64; 4], filter: &Filter, vm: &impl VmView) -> Outcome {
    let [x0, x1, x2, x3] = *x;
    let fid = x0 as u32;
    let action = filter.lookup(fid);
    if action == Action::Deny {
        return Outcome::Return(arch::NOT_SUPPORTED);
    }
    let decoded = decode(fid, [x1, x2, x3], vm, filter);
    if action == Action::Forward {
        forward(fid, decoded)
    } else {
        decoded
    }
}

/// The calls whose state machine is hyp's even when the host decides them.
const fn is_power_call(fid: u32) -> bool {
    matches!(
        of_either_width(fid),
        psci::CPU_ON_32
            | psci::CPU_OFF
            | psci::SYSTEM_OFF
            | psci::SYSTEM_OFF2_32
            | psci::SYSTEM_RESET
            | psci::SYSTEM_RESET2_32
            | psci::SYSTEM_SUSPEND_32
    )
}

/// Leaves to the host what passed the checks; a bad power call is answered at once.
const fn forward(fid: u32, decoded: Outcome) -> Outcome {
    match decoded {
        Outcome::CpuOn(call) => Outcome::Forward(Forwarded::CpuOn(call)),
        Outcome::CpuOff => Outcome::Forward(Forwarded::CpuOff),
        Outcome::SystemOff => Outcome::Forward(Forwarded::SystemOff),
        Outcome::SystemReset => Outcome::Forward(Forwarded::SystemReset),
        Outcome::SystemSuspend(start) => Outcome::Forward(Forwarded::SystemSuspend(start)),
        answered if is_power_call(fid) => answered,
        _ => Outcome::Forward(Forwarded::Other),
    }
}

/// Decides a call as if there were no filter, except that `PSCI_FEATURES` does not advertise what `filter` denies. Pure:
/// power states are read, never written.
#[must_use]
#[inline(never)]
pub fn decode(fid: u32, args: [u64; 3], vm: &impl VmView, filter: &Filter) -> Outcome {
    let [a1, a2, a3] = if fid & SMC64 == 0 { args.map(low) } else { args };
    match of_either_width(fid) {
        psci::VERSION => Outcome::Return(psci::VERSION_1_3),
        psci::CPU_SUSPEND_32 => cpu_suspend(a1 as u32, a2, vm),
        psci::CPU_OFF => Outcome::CpuOff,
        psci::CPU_ON_32 => cpu_on(a1, a2, a3, vm).map_or_else(refuse, Outcome::CpuOn),
        psci::AFFINITY_INFO_32 => affinity_info(a1, a2 as u32, vm),
        psci::MIGRATE_INFO_TYPE => Outcome::Return(psci::MIGRATE_NOT_REQUIRED),
        psci::SYSTEM_OFF => Outcome::SystemOff,
        psci::SYSTEM_RESET => Outcome::SystemReset,
        psci::FEATURES => Outcome::Return(features(a1 as u32, filter)),
        psci::SYSTEM_SUSPEND_32 => system_suspend(a1, a2, vm),
        psci::SYSTEM_RESET2_32 => system_reset2(a1 as u32),
        psci::SYSTEM_OFF2_32 => system_off2(a1 as u32, a2),
        arch::VERSION => Outcome::Return(arch::VERSION_1_1),
        arch::ARCH_FEATURES => Outcome::Return(arch_features(a1 as u32)),
        arch::VENDOR_HYP_UID => Outcome::Values(arch::UMBRA_UID.map(u64::from)),
        arch::VENDOR_HYP_REVISION => Outcome::Values([REVISION[0].into(), REVISION[1].into(), 0, 0]),
        other if other & !(SMC64 | NUMBER) == psci::VERSION => NOT_SUPPORTED,
        _ => Outcome::NotMine,
    }
}

/// The calling convention's bit: SMC64.
const SMC64: u32 = 1 << 30;
/// The number of a PSCI function, without its width and its service.
const NUMBER: u32 = 0x1F;
/// The PSCI functions that there are in both widths, one bit each.
const BOTH_WIDTHS: u32 = 1 << (psci::CPU_SUSPEND_64 & NUMBER)
    | 1 << (psci::CPU_ON_64 & NUMBER)
    | 1 << (psci::AFFINITY_INFO_64 & NUMBER)
    | 1 << (psci::SYSTEM_SUSPEND_64 & NUMBER)
    | 1 << (psci::SYSTEM_RESET2_64 & NUMBER)
    | 1 << (psci::SYSTEM_OFF2_64 & NUMBER);

/// A function identifier; that of the 32-bit form, of a PSCI function that there is in both widths.
const fn of_either_width(fid: u32) -> u32 {
    if fid & !NUMBER == psci::VERSION | SMC64 && BOTH_WIDTHS >> (fid & NUMBER) & 1 != 0 {
        fid & !SMC64
    } else {
        fid
    }
}

/// Every affinity field of an MPIDR; no other bit may be set in one that names a target.
const AFFINITY: u64 = 0xFF_00FF_FFFF;

const fn low(value: u64) -> u64 {
    value & 0xFFFF_FFFF
}

/// Which vCPU `mpidr` names.
fn target(mpidr: u64, vm: &impl VmView) -> Option<usize> {
    if mpidr & !AFFINITY != 0 {
        return None;
    }
    vm.find(mpidr).filter(|&index| index < vm.vcpus().min(MAX_VCPUS))
}

/// Whether a vCPU can start here: RAM, and an address that an A64 instruction can have.
fn can_enter(entry: u64, vm: &impl VmView) -> bool {
    entry & 3 == 0 && vm.in_ram(entry)
}

/// DEN 0022, `CPU_ON`, 64-bit, as if there were no filter: what is checked before the target's state.
///
/// # Errors
/// `INVALID_PARAMETERS` or `INVALID_ADDRESS`.
#[inline]
pub fn cpu_on(mpidr: u64, entry: u64, context: u64, vm: &impl VmView) -> Result<CpuOn, PsciError> {
    let target = target(mpidr, vm).ok_or(PsciError::InvalidParameters)?;
    if !can_enter(entry, vm) {
        return Err(PsciError::InvalidAddress);
    }
    let start = start(entry, context, vm);
    Ok(CpuOn { target, start })
}

fn start(entry: u64, context: u64, vm: &impl VmView) -> Start {
    Start {
        entry,
        context,
        big_endian: vm.big_endian(),
    }
}

/// DEN 0022, `CPU_SUSPEND`, in the original format of `power_state`: StateID 15:0, StateType 16, PowerLevel 25:24. A
/// power-down request may become standby and return `SUCCESS`; it does so here, after its entry was checked.
fn cpu_suspend(power_state: u32, entry: u64, vm: &impl VmView) -> Outcome {
    const RESERVED: u32 = 0xFCFE_0000;
    const POWER_DOWN: u32 = 1 << 16;
    if power_state & RESERVED != 0 {
        return refuse(PsciError::InvalidParameters);
    }
    if power_state & POWER_DOWN != 0 && !can_enter(entry, vm) {
        return refuse(PsciError::InvalidAddress);
    }
    Outcome::Suspend
}

/// DEN 0022, `AFFINITY_INFO`: any vCPU of the instance that is on makes it ON, then any that is pending, else OFF.
fn affinity_info(affinity: u64, level: u32, vm: &impl VmView) -> Outcome {
    let mask = match level {
        0 => AFFINITY,
        1 => AFFINITY & !0xFF,
        2 => AFFINITY & !0xFFFF,
        3 => AFFINITY & !0xFF_FFFF,
        _ => return refuse(PsciError::InvalidParameters),
    };
    if affinity & !AFFINITY != 0 {
        return refuse(PsciError::InvalidParameters);
    }
    if level == 0 {
        return target(affinity, vm).map_or(refuse(PsciError::InvalidParameters), |index| {
            Outcome::Return(AFFINITY_OF_STATE >> (2 * vm.power(index) as u64) & 3)
        });
    }
    let mut answer = PsciError::InvalidParameters.to_ret();
    for index in 0..vm.vcpus().min(MAX_VCPUS) {
        if (vm.affinity(index) ^ affinity) & mask == 0 {
            match vm.power(index) {
                State::On | State::OffPending => return Outcome::Return(psci::AFFINITY_ON),
                State::OnPending => answer = psci::AFFINITY_ON_PENDING,
                State::Off if answer == psci::AFFINITY_ON_PENDING => {}
                State::Off => answer = psci::AFFINITY_OFF,
            }
        }
    }
    Outcome::Return(answer)
}

/// DEN 0022, `SYSTEM_SUSPEND`: only for the last vCPU of the VM. The caller itself is on, so it is the last one if no two
/// are; one on its way to on or off is not off. Nobody can turn another on meanwhile: only the caller runs.
fn system_suspend(entry: u64, context: u64, vm: &impl VmView) -> Outcome {
    let not_off = |&index: &usize| vm.power(index) != State::Off;
    if (0..vm.vcpus().min(MAX_VCPUS)).filter(not_off).count() > 1 {
        return refuse(PsciError::Denied);
    }
    if !can_enter(entry, vm) {
        return refuse(PsciError::InvalidAddress);
    }
    Outcome::SystemSuspend(start(entry, context, vm))
}

/// DEN 0022, `SYSTEM_RESET2`: the architectural warm reset, whose cookie means nothing. Vendor-specific types (bit 31)
/// there are none.
const fn system_reset2(kind: u32) -> Outcome {
    match kind {
        psci::WARM_RESET => Outcome::SystemReset,
        _ => refuse(PsciError::InvalidParameters),
    }
}

/// DEN 0022, `SYSTEM_OFF2`. Type 0 is taken for `HIBERNATE_OFF`, as KVM takes it.
const fn system_off2(kind: u32, cookie: u64) -> Outcome {
    match (kind, cookie) {
        (0 | psci::HIBERNATE_OFF, 0) => Outcome::SystemOff,
        _ => refuse(PsciError::InvalidParameters),
    }
}

/// DEN 0022, `PSCI_FEATURES`: the feature flags, mostly none, of what is implemented and not denied.
fn features(asked: u32, filter: &Filter) -> u64 {
    let flags = match of_either_width(asked) {
        psci::VERSION
        | psci::CPU_SUSPEND_32
        | psci::CPU_OFF
        | psci::CPU_ON_32
        | psci::AFFINITY_INFO_32
        | psci::MIGRATE_INFO_TYPE
        | psci::SYSTEM_OFF
        | psci::SYSTEM_RESET
        | psci::FEATURES
        | psci::SYSTEM_SUSPEND_32
        | psci::SYSTEM_RESET2_32
        | arch::VERSION => Some(0),
        psci::SYSTEM_OFF2_32 => Some(u64::from(psci::HIBERNATE_OFF)),
        _ => None,
    };
    flags
        .filter(|_| filter.lookup(asked) != Action::Deny)
        .unwrap_or(PsciError::NotSupported.to_ret())
}

/// DEN 0028, `SMCCC_ARCH_FEATURES`: 0 for what is implemented.
const fn arch_features(asked: u32) -> u64 {
    match asked {
        arch::VERSION | arch::ARCH_FEATURES => 0,
        _ => arch::NOT_SUPPORTED,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
