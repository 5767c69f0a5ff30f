//! The host partition's calls: SMCCC fast calls, SMC64, owner 6 (vendor-specific hypervisor). Only VM 0 may make them;
//! every other VM gets `NOT_SUPPORTED`. Arguments are in `x1` and up; `x0` returns 0, or a negated [`crate::errno::Errno`];
//! a value is in `x1`.

/// The revision of these calls and of the shadow page, as [`crate::smccc::VENDOR_HYP_REVISION`] tells it: major, minor. What is added
/// (a call, a kind of exit, a counter, an attribute) raises the minor number; whatever else a host program could notice, the major.
pub const REVISION: [u32; 2] = [1, 0];

/// Waits for the next exit. Returns `EINTR` when the host has a pending interrupt. `EBUSY`: exits are vCPU 0's to wait for, and this is
/// another.
/// Results: `x1` the cookie, `x2` [`exit_info`], `x3` to `x6` the guest's `x0` to `x3`.
pub const WAIT_EXIT: u32 = 0xC600_0001;
/// Answers an exit. `x1` the cookie, `x2` a [`Verdict`], `x3` to `x6` the guest's `x0` to `x3` for [`Verdict::Values`].
/// `ENXIO`: no such exit is outstanding (late, repeated, forged, or from before a reset). `EINVAL`: bad verdict.
pub const COMPLETE_EXIT: u32 = 0xC600_0002;
/// Reads an attribute. `x1` VM, `x2` group, `x3` attribute. `x1` returns the value. A running vCPU's register is read by
/// an exact read with the default deadline.
pub const ATTR_GET: u32 = 0xC600_0003;
/// Writes an attribute. `x1` VM, `x2` group, `x3` attribute, `x4` value.
pub const ATTR_SET: u32 = 0xC600_0004;
/// Asks whether an attribute exists. `x1` VM, `x2` group, `x3` attribute. `ENXIO`: it does not.
pub const ATTR_HAS: u32 = 0xC600_0005;
/// Adds a range to a VM's SMCCC filter. `x1` VM, `x2` base, `x3` count, `x4` action in bits 7:0, the rest padding (0).
pub const FILTER_SET: u32 = 0xC600_0006;
/// Starts a VM that waits for its host. `x1` VM. `EEXIST`: it was started before.
pub const VM_START: u32 = 0xC600_0007;
/// Stops every vCPU of a VM and waits until each has left its pCPU. `x1` VM. `x1` returns how many vCPUs were stopped.
pub const VM_STOP: u32 = 0xC600_0008;
/// Lets a stopped VM go on. `x1` VM.
pub const VM_RESUME: u32 = 0xC600_0009;
/// Reads a counter. `x1` VM, `x2` vCPU or [`ALL_VCPUS`], `x3` a [`Counter`]. `x1` returns the value.
pub const COUNTER: u32 = 0xC600_000A;
/// Reads a `CPU_SYSREGS` attribute exactly, by a kick to that vCPU alone when it is resident. `x1` VM, `x2` attribute,
/// `x3` deadline in microseconds. `x1` returns the value. `ETIMEDOUT`: no answer in time.
pub const EXACT_READ: u32 = 0xC600_000B;
/// Reads a `CPU_SYSREGS` attribute in KVM's way: tries every vCPU's lock, and fails with `EBUSY` when one is held.
/// `x1` VM, `x2` attribute. `x1` returns the value.
pub const CONTENDED_READ: u32 = 0xC600_000C;
/// Has Umbra print a record of a VM's counters. `x1` VM, `x2` a label of the host's choice.
pub const MARK: u32 = 0xC600_000D;
/// Describes a VM. `x1` VM. `x1` returns vCPUs in bits 15:0, a [`VmState`] in bits 23:16; `x2` its epoch. `ENOENT`: no
/// such VM.
pub const VM_INFO: u32 = 0xC600_000E;
/// [`COMPLETE_EXIT`], and, once the answer is taken, [`WAIT_EXIT`]: the arguments of the one, the results of the other. Where
/// [`COMPLETE_EXIT`] fails nothing is waited for.
pub const COMPLETE_AND_WAIT: u32 = 0xC600_000F;
/// Test images only (feature `test-triggers`). `x1` a [`Trigger`], `x2` a pCPU index.
pub const TRIGGER: u32 = 0xC600_00F0;

/// In [`COUNTER`]: the sum over a VM's vCPUs.
pub const ALL_VCPUS: u64 = u64::MAX;

/// Why [`WAIT_EXIT`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitKind {
    /// A forwarded call by `HVC`; answer it with [`COMPLETE_EXIT`].
    Hvc = 1,
    /// A forwarded call by `SMC`; answer it with [`COMPLETE_EXIT`].
    Smc = 2,
    /// The VM ended (off or crashed); nothing to answer. `x3`: 0 off, 1 crashed.
    Ended = 3,
    /// The VM was started anew, by itself or from the monitor, once or more; nothing to answer.
    Reset = 4,
}

impl ExitKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Hvc,
            2 => Self::Smc,
            3 => Self::Ended,
            4 => Self::Reset,
            _ => return None,
        })
    }
}

/// Packs `x2` of [`WAIT_EXIT`]: kind in bits 7:0, VM in 23:8, vCPU in 39:24.
#[must_use]
pub const fn exit_info(kind: ExitKind, vm: u16, vcpu: u16) -> u64 {
    kind as u64 | (vm as u64) << 8 | (vcpu as u64) << 24
}

/// Unpacks `x2` of [`WAIT_EXIT`] into kind, VM and vCPU.
#[must_use]
pub const fn exit_parts(info: u64) -> (Option<ExitKind>, u16, u16) {
    (ExitKind::from_u8(info as u8), (info >> 8) as u16, (info >> 24) as u16)
}

/// The host's answer to a forwarded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Verdict {
    /// Do it, as PSCI says; a call that is not one of the power calls (`CPU_ON`, `CPU_OFF`, `SYSTEM_OFF`, `SYSTEM_OFF2`,
    /// `SYSTEM_RESET`, `SYSTEM_RESET2`, `SYSTEM_SUSPEND`) is handled as if it had not been forwarded.
    Allow = 0,
    /// Refuse it: `DENIED` for a power call, `NOT_SUPPORTED` for any other.
    Deny = 1,
    /// It failed: `INTERNAL_FAILURE` (for `CPU_OFF`, whose only error it is, `DENIED`); `NOT_SUPPORTED` for any other call.
    Fail = 2,
    /// Not a power call, or not to be treated as one: these are `x0` to `x3`, and nothing else is done. For a power call
    /// `w0` = `SUCCESS` means allow: no guest is told `SUCCESS` for what was not done.
    Values = 3,
}

impl Verdict {
    /// The verdict with this number.
    #[must_use]
    pub const fn from_u64(value: u64) -> Option<Self> {
        Some(match value {
            0 => Self::Allow,
            1 => Self::Deny,
            2 => Self::Fail,
            3 => Self::Values,
            _ => return None,
        })
    }
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VmState {
    /// Built, not started.
    Built = 0,
    /// Running.
    Running = 1,
    /// Held by [`VM_STOP`], or from the monitor.
    Stopped = 2,
    /// Being restarted.
    Resetting = 3,
    /// Off by `SYSTEM_OFF`.
    Off = 4,
    /// A vCPU crashed.
    Crashed = 5,
}

impl VmState {
    /// The state with this number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Built,
            1 => Self::Running,
            2 => Self::Stopped,
            3 => Self::Resetting,
            4 => Self::Off,
            5 => Self::Crashed,
            _ => return None,
        })
    }

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Built => "built",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Resetting => "being reset",
            Self::Off => "off",
            Self::Crashed => "crashed",
        }
    }
}

/// What hyp counts for each vCPU. The names are the keys of `count` and `mark` records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Exits of every kind.
    Exits = 0,
    /// HVC and SMC exits.
    Calls = 1,
    /// Calls forwarded to the host.
    Forwards = 2,
    /// `CPU_ON` calls that succeeded with this vCPU as target.
    Starts = 3,
    /// Times this vCPU was held, by [`VM_STOP`] or from the monitor.
    Stops = 4,
    /// Stops that took it out of the guest (it was running guest code, and nobody had asked for it).
    Bystanders = 5,
    /// Kicks of this vCPU for an exact read of its registers.
    KicksExact = 6,
    /// Kicks of this vCPU to deliver an interrupt to it.
    KicksIrq = 7,
    /// Kicks of this vCPU to have it serve another request: a write to its registers, an access to its redistributor, a question about
    /// its SPIs, a look at a changed `GICD_CTLR`.
    KicksRequest = 8,
    /// `EBUSY` answers to reads of this vCPU's registers.
    Busy = 9,
    /// Exact reads of this vCPU that missed their deadline.
    Late = 10,
    /// Records published to the shadow page.
    Published = 11,
    /// Forwarded calls that nobody answered in time.
    Expired = 12,
    /// Answers dropped: late, repeated, forged, or from before a reset.
    Dropped = 13,
    /// Accesses to an emulated device that carried no syndrome, and got an external abort.
    NoSyndrome = 14,
    /// External aborts injected.
    Aborts = 15,
    /// Exits for a trapped system register.
    Sysregs = 16,
    /// Exits for an access to an emulated device, or to nothing.
    Mmio = 17,
    /// Exits for a physical interrupt.
    Interrupts = 18,
    /// Exits for WFI on a shared pCPU.
    Waits = 19,
}

impl Counter {
    /// Every counter, in the order of its number.
    pub const ALL: [Self; 20] = [
        Self::Exits,
        Self::Calls,
        Self::Forwards,
        Self::Starts,
        Self::Stops,
        Self::Bystanders,
        Self::KicksExact,
        Self::KicksIrq,
        Self::KicksRequest,
        Self::Busy,
        Self::Late,
        Self::Published,
        Self::Expired,
        Self::Dropped,
        Self::NoSyndrome,
        Self::Aborts,
        Self::Sysregs,
        Self::Mmio,
        Self::Interrupts,
        Self::Waits,
    ];

    /// The counter's key in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exits => "exits",
            Self::Calls => "calls",
            Self::Forwards => "forwards",
            Self::Starts => "starts",
            Self::Stops => "stops",
            Self::Bystanders => "bystanders",
            Self::KicksExact => "kicks_exact",
            Self::KicksIrq => "kicks_irq",
            Self::KicksRequest => "kicks_request",
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Published => "published",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::NoSyndrome => "no_syndrome",
            Self::Aborts => "aborts",
            Self::Sysregs => "sysregs",
            Self::Mmio => "mmio",
            Self::Interrupts => "interrupts",
            Self::Waits => "waits",
        }
    }

    /// The counter with this number.
    #[must_use]
    pub fn from_u64(value: u64) -> Option<Self> {
        usize::try_from(value).ok().and_then(|index| Self::ALL.get(index).copied())
    }
}

/// What [`TRIGGER`] makes EL2 do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Trigger {
    /// Panic.
    Panic = 0,
    /// Run off the end of the stack.
    StackOverflow = 1,
    /// Follow a pointer to an address that is not mapped.
    BadAccess = 2,
    /// Take a second to set up a VM, from now on, wherever that is done.
    SlowSetup = 3,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_at_their_numbers() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
            assert_eq!(Counter::from_u64(index as u64), Some(counter));
        }
        assert_eq!(Counter::from_u64(20), None);
    }

    #[test]
    fn exit_info_round_trips() {
        assert_eq!(exit_parts(exit_info(ExitKind::Smc, 7, 15)), (Some(ExitKind::Smc), 7, 15));
        assert_eq!(exit_parts(0).0, None);
    }
}
