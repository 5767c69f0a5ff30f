//! What PSCI and forwarding are to do, told a second time, step by step and as plainly as possible. Imports nothing.

/// vCPUs of the VM; their affinities are 0, 1, 2.
pub(crate) const VCPUS: usize = 3;
/// The VM's RAM.
pub(crate) const RAM: std::ops::Range<u64> = 0x4000_0000..0x4001_0000;

/// What can be seen of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing of note, or nothing to do.
    Nothing,
    /// The call returned with this `x0`.
    X0(u64),
    /// The call returned with these `x0` to `x3`.
    Values([u64; 4]),
    /// The call was forwarded; the caller waits.
    Waits,
    /// The caller is on its way to off.
    Leaves,
    /// The vCPU started, with entry and `x0`.
    Starts(u64, u64),
    /// The host's answer was taken, or dropped.
    Taken(bool),
    /// The VM ends.
    Ends,
    /// The VM is reset.
    Resets,
    /// The VM is suspended: its last vCPU has left.
    Sleeps,
}

/// A call that is for the whole VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Off,
    /// `SYSTEM_OFF2` with this type and cookie.
    Off2(u64, u64),
    Reset,
    /// `SYSTEM_RESET2` with this type and cookie.
    Reset2(u64, u64),
    /// `SYSTEM_SUSPEND` with this entry and context.
    Suspend(u64, u64),
}

/// What the filter does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Handle,
    Deny,
    Forward,
}

/// How the VM is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// `CPU_ON`, SMC32 and SMC64.
    pub(crate) on: [Rule; 2],
    pub(crate) off: Rule,
    pub(crate) system: Rule,
    /// `SYSTEM_SUSPEND`.
    pub(crate) suspend: Rule,
    pub(crate) on_pending: bool,
}

/// The host's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Allow,
    Deny,
    Fail,
    Values([u64; 4]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cpu {
    Off,
    Pending,
    /// On, its start not taken yet.
    Starting(u64, u64),
    Running,
    Leaving,
    /// Suspended with its VM, with the entry and the context for its wake-up.
    Sleeping(u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    On { target: usize, entry: u64, context: u64 },
    Off,
    End { reset: bool },
    Suspend { entry: u64, context: u64 },
}

/// A forwarded call. Each has a number of its own.
#[derive(Clone, Copy, Debug)]
struct Wait {
    number: usize,
    call: Call,
    told: bool,
    answer: Option<Says>,
}

#[derive(Debug)]
pub(crate) struct Model {
    setup: Setup,
    cpu: [Cpu; VCPUS],
    wait: [Option<Wait>; VCPUS],
    calls: usize,
    reset_untold: bool,
    /// Being reset: each vCPU leaves for good when it sees that, and goes on until then.
    ending: bool,
    gone: [bool; VCPUS],
}

const fn minus(code: u64) -> u64 {
    0_u64.wrapping_sub(code)
}

impl Model {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            setup,
            cpu: [Cpu::Running, Cpu::Off, Cpu::Off],
            wait: [None; VCPUS],
            calls: 0,
            reset_untold: false,
            ending: false,
            gone: [false; VCPUS],
        }
    }

    /// Whether the vCPU executes instructions.
    pub(crate) fn runs(&self, vcpu: usize) -> bool {
        self.cpu[vcpu] == Cpu::Running && self.wait[vcpu].is_none() && !self.gone[vcpu]
    }

    /// Whether the vCPU has a start to take.
    pub(crate) fn starting(&self, vcpu: usize) -> bool {
        matches!(self.cpu[vcpu], Cpu::Starting(..)) && !self.gone[vcpu]
    }

    /// Whether the vCPU waits for a verdict.
    pub(crate) fn waits(&self, vcpu: usize) -> bool {
        self.wait[vcpu].is_some()
    }

    pub(crate) fn cpu_on(&mut self, caller: usize, wide: bool, args: [u64; 3]) -> Seen {
        if !self.runs(caller) {
            return Seen::Nothing;
        }
        let rule = self.setup.on[usize::from(wide)];
        if rule == Rule::Deny {
            return Seen::X0(minus(1));
        }
        let [mpidr, entry, context] = if wide { args } else { args.map(|arg| arg % (1 << 32)) };
        if mpidr >= VCPUS as u64 {
            return Seen::X0(minus(2));
        }
        if !RAM.contains(&entry) || entry % 4 != 0 {
            return Seen::X0(minus(9));
        }
        let target = mpidr as usize;
        match self.cpu[target] {
            Cpu::Off if rule == Rule::Forward => {
                self.cpu[target] = Cpu::Pending;
                self.forward(caller, Call::On { target, entry, context })
            }
            Cpu::Off => {
                self.cpu[target] = Cpu::Starting(entry, context);
                Seen::X0(0)
            }
            Cpu::Pending if self.setup.on_pending => Seen::X0(minus(5)),
            _ => Seen::X0(minus(4)),
        }
    }

    pub(crate) fn cpu_off(&mut self, caller: usize) -> Seen {
        match (self.runs(caller), self.setup.off) {
            (false, _) => Seen::Nothing,
            (true, Rule::Deny) => Seen::X0(minus(1)),
            (true, Rule::Forward) => self.forward(caller, Call::Off),
            (true, Rule::Handle) => self.leave(caller),
        }
    }

    pub(crate) fn system(&mut self, caller: usize, wide: bool, call: System) -> Seen {
        if !self.runs(caller) {
            return Seen::Nothing;
        }
        let rule = match call {
            System::Suspend(..) => self.setup.suspend,
            _ => self.setup.system,
        };
        if rule == Rule::Deny {
            return Seen::X0(minus(1));
        }
        let low = |arg: u64| arg % (1 << 32);
        let narrow = |arg: u64| if wide { arg } else { low(arg) };
        let call = match call {
            System::Off => Call::End { reset: false },
            System::Off2(kind, cookie) if low(kind) < 2 && narrow(cookie) == 0 => Call::End { reset: false },
            System::Reset => Call::End { reset: true },
            System::Reset2(kind, _) if low(kind) == 0 => Call::End { reset: true },
            System::Off2(..) | System::Reset2(..) => return Seen::X0(minus(2)),
            System::Suspend(..) if (0..VCPUS).any(|other| other != caller && self.cpu[other] != Cpu::Off) => {
                return Seen::X0(minus(3));
            }
            System::Suspend(entry, context) => {
                let (entry, context) = (narrow(entry), narrow(context));
                if !RAM.contains(&entry) || entry % 4 != 0 {
                    return Seen::X0(minus(9));
                }
                Call::Suspend { entry, context }
            }
        };
        if rule == Rule::Forward {
            return self.forward(caller, call);
        }
        self.do_system(caller, call)
    }

    fn do_system(&mut self, caller: usize, call: Call) -> Seen {
        match call {
            Call::Suspend { entry, context } => {
                self.cpu[caller] = Cpu::Sleeping(entry, context);
                Seen::Sleeps
            }
            call => self.end(caller, call == Call::End { reset: true }),
        }
    }

    /// An interrupt that wakes is there for the vCPU.
    pub(crate) fn interrupt(&mut self, vcpu: usize) -> Seen {
        let Cpu::Sleeping(entry, context) = self.cpu[vcpu] else {
            return Seen::Nothing;
        };
        if self.gone[vcpu] {
            return Seen::Nothing;
        }
        self.cpu[vcpu] = Cpu::Running;
        Seen::Starts(entry, context)
    }

    /// Whether the vCPU sleeps with its VM.
    pub(crate) fn sleeps(&self, vcpu: usize) -> bool {
        matches!(self.cpu[vcpu], Cpu::Sleeping(..)) && !self.gone[vcpu]
    }

    fn forward(&mut self, caller: usize, call: Call) -> Seen {
        self.wait[caller] = Some(Wait {
            number: self.calls,
            call,
            told: false,
            answer: None,
        });
        self.calls += 1;
        Seen::Waits
    }

    fn leave(&mut self, vcpu: usize) -> Seen {
        self.cpu[vcpu] = Cpu::Leaving;
        Seen::Leaves
    }

    /// What the VM's end is was said by whoever came first.
    fn end(&mut self, caller: usize, reset: bool) -> Seen {
        if !reset && !self.ending {
            return Seen::Ends;
        }
        self.ending = true;
        self.depart(caller);
        Seen::Resets
    }

    /// Somebody else resets the VM.
    pub(crate) fn reset(&mut self) {
        self.ending = true;
    }

    /// Whether the vCPU is to leave for good.
    pub(crate) fn departs(&self, vcpu: usize) -> bool {
        self.ending && !self.gone[vcpu]
    }

    /// It does. Its call is forgotten, and with the last one the VM starts anew: nothing from before has an effect any more.
    pub(crate) fn depart(&mut self, vcpu: usize) {
        if !self.departs(vcpu) {
            return;
        }
        self.left(vcpu);
        if let Some(Wait {
            call: Call::On { target, .. },
            ..
        }) = self.wait[vcpu].take()
        {
            self.cpu[target] = Cpu::Off;
        }
        self.gone[vcpu] = true;
        if self.gone == [true; VCPUS] {
            *self = Self {
                calls: self.calls,
                reset_untold: true,
                ..Self::new(self.setup)
            };
        }
    }

    /// The vCPU's pCPU has nothing of it any more.
    pub(crate) fn left(&mut self, vcpu: usize) {
        if self.cpu[vcpu] == Cpu::Leaving {
            self.cpu[vcpu] = Cpu::Off;
        }
    }

    pub(crate) fn take_start(&mut self, vcpu: usize) -> Seen {
        match self.cpu[vcpu] {
            Cpu::Starting(entry, context) if !self.gone[vcpu] => {
                self.cpu[vcpu] = Cpu::Running;
                Seen::Starts(entry, context)
            }
            _ => Seen::Nothing,
        }
    }

    /// `AFFINITY_INFO` of one vCPU.
    pub(crate) fn affinity_info(&self, vcpu: usize) -> u64 {
        match self.cpu[vcpu] {
            Cpu::Off => 1,
            Cpu::Pending => 2,
            Cpu::Starting(..) | Cpu::Running | Cpu::Leaving | Cpu::Sleeping(..) => 0,
        }
    }

    /// The vCPUs whose calls the host has not been told of.
    pub(crate) fn untold(&self) -> Vec<usize> {
        (0..VCPUS).filter(|&vcpu| self.wait[vcpu].is_some_and(|wait| !wait.told)).collect()
    }

    /// The host is told of one vCPU's call; gives its number.
    pub(crate) fn tell(&mut self, vcpu: usize) -> Option<usize> {
        let wait = self.wait[vcpu].as_mut().filter(|wait| !wait.told)?;
        wait.told = true;
        Some(wait.number)
    }

    /// The host is told of a reset.
    pub(crate) fn tell_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset_untold)
    }

    pub(crate) fn answer(&mut self, number: usize, says: Says) -> Seen {
        let open = self
            .wait
            .iter_mut()
            .flatten()
            .find(|wait| wait.number == number && wait.told && wait.answer.is_none());
        Seen::Taken(open.map(|wait| wait.answer = Some(says)).is_some())
    }

    /// The waiting vCPU looks for its answer; `late` when its deadline has passed.
    pub(crate) fn look(&mut self, vcpu: usize, late: bool) -> Seen {
        let Some(wait) = self.wait[vcpu] else { return Seen::Nothing };
        if wait.answer.is_none() && !late {
            return Seen::Nothing;
        }
        self.wait[vcpu] = None;
        match (wait.call, wait.answer) {
            (Call::On { target, entry, context }, answer) => {
                let allowed = matches!(answer, Some(Says::Allow)) || matches!(answer, Some(Says::Values([x0, ..])) if x0 as u32 == 0);
                self.cpu[target] = if allowed { Cpu::Starting(entry, context) } else { Cpu::Off };
                match answer {
                    Some(Says::Deny) => Seen::X0(minus(3)),
                    Some(Says::Values(values)) if !allowed => Seen::Values(values),
                    Some(Says::Fail) | None => Seen::X0(minus(6)),
                    _ => Seen::X0(0),
                }
            }
            (_, Some(Says::Values(values))) if values[0] as u32 != 0 => Seen::Values(values),
            (Call::Off, Some(Says::Deny | Says::Fail)) => Seen::X0(minus(3)),
            (Call::Off, _) => self.leave(vcpu),
            (_, Some(Says::Deny)) => Seen::X0(minus(3)),
            (_, Some(Says::Fail)) | (Call::Suspend { .. }, None) => Seen::X0(minus(6)),
            (call, _) => self.do_system(vcpu, call),
        }
    }
}
