//! PSCI, the filter and forwarding against a small reference model: random interleavings of callers, verdicts, late,
//! repeated and forged answers, deadlines, `CPU_OFF` and resets, which each vCPU sees by itself.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: what cannot go on fails")]

#[path = "psci_model/reference.rs"]
mod reference;

use hyp_abi::call::Verdict;
use hyp_abi::psci as fid;
use hyp_abi::smccc::Conduit;
use hyp_core::filter::Filter;
use hyp_core::forward::{Answer, Cookie, Cut, End, Exit, Exits, Resolution, Waiting};
use hyp_core::psci::{Outcome, Power, Start, State, VmView, smccc};
use proptest::prelude::*;
use reference::{Model, RAM, Rule, Says, Seen, Setup, System, VCPUS};

/// The VM as `hyp` would drive it, without registers.
struct Vm {
    filter: Filter,
    on_pending: bool,
    power: [Power; VCPUS],
    exits: Exits,
    /// What each vCPU does.
    running: [bool; VCPUS],
    waiting: [Option<Waiting>; VCPUS],
    /// Where each goes on that is suspended with its VM.
    sleeping: [Option<Start>; VCPUS],
    /// It is being reset.
    ending: bool,
    /// Which vCPUs have left for good.
    gone: [bool; VCPUS],
    /// The cookie of each call that was forwarded, in order.
    cookies: Vec<Cookie>,
}

impl VmView for Vm {
    fn vcpus(&self) -> usize {
        VCPUS
    }
    fn find(&self, affinity: u64) -> Option<usize> {
        usize::try_from(affinity).ok().filter(|&index| index < VCPUS)
    }
    fn in_ram(&self, ipa: u64) -> bool {
        RAM.contains(&ipa)
    }
    fn power(&self, index: usize) -> State {
        self.power[index].state()
    }
}

impl Vm {
    fn new(setup: &Setup) -> Self {
        let mut filter = Filter::new();
        let rules = [
            (fid::CPU_ON_32, 1, setup.on[0]),
            (fid::CPU_ON_64, 1, setup.on[1]),
            (fid::CPU_OFF, 1, setup.off),
        ];
        let ends = [fid::SYSTEM_OFF, fid::SYSTEM_OFF2_32, fid::SYSTEM_OFF2_64];
        let resets = [fid::SYSTEM_RESET, fid::SYSTEM_RESET2_32, fid::SYSTEM_RESET2_64];
        let suspends = [fid::SYSTEM_SUSPEND_32, fid::SYSTEM_SUSPEND_64].map(|id| (id, 1, setup.suspend));
        let system = ends.into_iter().chain(resets).map(|id| (id, 1, setup.system));
        for (base, count, rule) in rules.into_iter().chain(system).chain(suspends) {
            let action = match rule {
                Rule::Handle => 0,
                Rule::Deny => 1,
                Rule::Forward => 2,
            };
            filter.insert(base, count, action).unwrap();
        }
        let vm = Self {
            filter,
            on_pending: setup.on_pending,
            power: [const { Power::new() }; VCPUS],
            exits: Exits::new(1),
            running: [true, false, false],
            waiting: [const { None }; VCPUS],
            sleeping: [None; VCPUS],
            ending: false,
            gone: [false; VCPUS],
            cookies: vec![],
        };
        vm.boot();
        vm
    }

    fn boot(&self) {
        self.power[0].turn_on(Start::default()).unwrap();
        self.power[0].take_start().unwrap();
    }

    fn runs(&self, vcpu: usize) -> bool {
        self.running[vcpu] && self.waiting[vcpu].is_none() && !self.gone[vcpu]
    }

    fn call(&mut self, caller: usize, x: [u64; 4]) -> Seen {
        if !self.runs(caller) {
            return Seen::Nothing;
        }
        match smccc(&x, &self.filter, self) {
            Outcome::Return(x0) => Seen::X0(x0),
            Outcome::CpuOn(call) => match self.power[call.target].turn_on(call.start) {
                Ok(()) => Seen::X0(0),
                Err(refused) => Seen::X0(refused.to_ret(self.on_pending)),
            },
            Outcome::Forward(call) => match Waiting::begin(call, &self.power) {
                Ok(waiting) => {
                    self.waiting[caller] = Some(waiting);
                    self.cookies.push(self.exits.post(caller, Conduit::Hvc, &x).unwrap());
                    Seen::Waits
                }
                Err(refused) => Seen::X0(refused.to_ret(self.on_pending)),
            },
            Outcome::CpuOff => self.leave(caller),
            Outcome::SystemOff => self.end(caller, false),
            Outcome::SystemReset => self.end(caller, true),
            Outcome::SystemSuspend(start) => self.sleep(caller, start),
            outcome => panic!("{x:x?} gave {outcome:?}"),
        }
    }

    fn leave(&mut self, vcpu: usize) -> Seen {
        assert!(self.power[vcpu].begin_off());
        self.running[vcpu] = false;
        Seen::Leaves
    }

    fn sleep(&mut self, vcpu: usize, start: Start) -> Seen {
        self.running[vcpu] = false;
        self.sleeping[vcpu] = Some(start);
        Seen::Sleeps
    }

    fn interrupt(&mut self, vcpu: usize) -> Seen {
        if self.gone[vcpu] {
            return Seen::Nothing;
        }
        match self.sleeping[vcpu].take() {
            Some(start) => {
                self.running[vcpu] = true;
                Seen::Starts(start.entry, start.context)
            }
            None => Seen::Nothing,
        }
    }

    fn take_start(&mut self, vcpu: usize) -> Seen {
        if self.gone[vcpu] {
            return Seen::Nothing;
        }
        match self.power[vcpu].take_start() {
            Some(start) => {
                assert!(!std::mem::replace(&mut self.running[vcpu], true), "it runs already");
                Seen::Starts(start.entry, start.context)
            }
            None => Seen::Nothing,
        }
    }

    fn look(&mut self, vcpu: usize, cut: Option<Cut>) -> Seen {
        let Some(waiting) = self.waiting[vcpu].take() else {
            return Seen::Nothing;
        };
        let Some(end) = self.exits.poll(vcpu, cut) else {
            self.waiting[vcpu] = Some(waiting);
            return Seen::Nothing;
        };
        match waiting.end(&end, &self.power) {
            Resolution::Return(x0) => Seen::X0(x0),
            Resolution::Values(values) => Seen::Values(values),
            Resolution::Started(_) => Seen::X0(0),
            Resolution::CpuOff => self.leave(vcpu),
            Resolution::SystemOff => self.end(vcpu, false),
            Resolution::SystemReset => self.end(vcpu, true),
            Resolution::SystemSuspend(start) => self.sleep(vcpu, start),
            Resolution::Dropped => {
                assert_eq!(end, End::Cancelled);
                Seen::Nothing
            }
            Resolution::Handle => panic!("no other call is forwarded here"),
        }
    }

    /// A call ends the VM, unless something else ends it already. The caller leaves.
    fn end(&mut self, caller: usize, reset: bool) -> Seen {
        if !reset && !self.ending {
            return Seen::Ends;
        }
        self.ending = true;
        self.depart(caller);
        Seen::Resets
    }

    /// The vCPU has seen that the VM is being reset, and leaves; the last one starts the VM anew.
    fn depart(&mut self, vcpu: usize) {
        if !self.ending || self.gone[vcpu] {
            return;
        }
        self.power[vcpu].finish_off();
        assert_eq!(self.look(vcpu, Some(Cut::Reset)), Seen::Nothing);
        assert!(self.waiting[vcpu].is_none());
        self.gone[vcpu] = true;
        if self.gone != [true; VCPUS] {
            return;
        }
        self.power.iter().for_each(Power::reset);
        self.exits.reset();
        (self.ending, self.gone) = (false, [false; VCPUS]);
        self.running = [true, false, false];
        self.sleeping = [None; VCPUS];
        self.boot();
    }
}

/// One step of an interleaving.
#[derive(Clone, Debug)]
enum Step {
    CpuOn {
        caller: usize,
        wide: bool,
        args: [u64; 3],
    },
    CpuOff {
        caller: usize,
    },
    System {
        caller: usize,
        wide: bool,
        call: System,
    },
    Interrupt {
        vcpu: usize,
    },
    Left {
        vcpu: usize,
    },
    TakeStart {
        vcpu: usize,
    },
    Deliver,
    /// Answers the call that was forwarded `back` calls ago; with a cookie changed by `forge` unless that is 0.
    Answer {
        back: usize,
        forge: u64,
        says: Says,
    },
    Look {
        vcpu: usize,
        late: bool,
    },
    Reset,
    /// A vCPU of a VM that is being reset sees it.
    Depart {
        vcpu: usize,
    },
}

fn entry() -> impl Strategy<Value = u64> {
    let entry = prop_oneof![8 => RAM.start / 4..RAM.end / 4, 1 => any::<u64>()].prop_map(|entry| entry.wrapping_mul(4));
    prop_oneof![20 => entry, 1 => Just(RAM.start + 1)]
}

/// The calls that end or reset the VM, most of them with something wrong: else no interleaving gets far.
fn system() -> impl Strategy<Value = System> {
    let kind = || prop_oneof![1 => 0_u64..2, 4 => 2_u64..4, 4 => (0_u64..2, 1_u32..64).prop_map(|(low, bit)| low | 1 << bit)];
    let cookie = || prop_oneof![1 => Just(0_u64), 2 => (0_u32..64).prop_map(|bit| 1 << bit)];
    prop_oneof![
        1 => Just(System::Off),
        4 => (kind(), cookie()).prop_map(|(kind, cookie)| System::Off2(kind, cookie)),
        1 => Just(System::Reset),
        4 => (kind(), cookie()).prop_map(|(kind, cookie)| System::Reset2(kind, cookie)),
    ]
}

/// `x0` to `x3` of a call for the whole VM.
fn system_call(call: System, wide: bool) -> [u64; 4] {
    let width = |narrow, both| u64::from(if wide { both } else { narrow });
    match call {
        System::Off => [u64::from(fid::SYSTEM_OFF), 0, 0, 0],
        System::Reset => [u64::from(fid::SYSTEM_RESET), 0, 0, 0],
        System::Off2(kind, cookie) => [width(fid::SYSTEM_OFF2_32, fid::SYSTEM_OFF2_64), kind, cookie, 0],
        System::Reset2(kind, cookie) => [width(fid::SYSTEM_RESET2_32, fid::SYSTEM_RESET2_64), kind, cookie, 0],
        System::Suspend(entry, context) => [width(fid::SYSTEM_SUSPEND_32, fid::SYSTEM_SUSPEND_64), entry, context, 0],
    }
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = || 0..VCPUS;
    let mpidr = prop_oneof![20 => 1_u64..3, 3 => Just(0), 1 => Just(3), 1 => any::<u64>(), 1 => (0_u64..3, 0_u32..64).prop_map(|(low, bit)| low | 1 << bit)];
    let says = prop_oneof![
        3 => Just(Says::Allow),
        1 => Just(Says::Deny),
        1 => Just(Says::Fail),
        1 => any::<[u64; 4]>().prop_map(Says::Values),
        1 => any::<[u32; 2]>().prop_map(|[high, x1]| Says::Values([u64::from(high & 1) << 32, x1.into(), 2, 3])),
    ];
    let forge = prop_oneof![6 => Just(0_u64), 1 => any::<u64>(), 2 => (0_u32..64).prop_map(|bit| 1 << bit)];
    prop_oneof![
        40 => (vcpu(), any::<bool>(), mpidr, entry(), any::<u64>())
            .prop_map(|(caller, wide, mpidr, entry, context)| Step::CpuOn { caller, wide, args: [mpidr, entry, context] }),
        10 => prop_oneof![1 => 0..1_usize, 15 => 1..VCPUS].prop_map(|caller| Step::CpuOff { caller }),
        1 => (vcpu(), any::<bool>(), system()).prop_map(|(caller, wide, call)| Step::System { caller, wide, call }),
        2 => (vcpu(), any::<bool>(), entry(), any::<u64>())
            .prop_map(|(caller, wide, entry, context)| Step::System { caller, wide, call: System::Suspend(entry, context) }),
        12 => vcpu().prop_map(|vcpu| Step::Interrupt { vcpu }),
        12 => vcpu().prop_map(|vcpu| Step::Left { vcpu }),
        30 => vcpu().prop_map(|vcpu| Step::TakeStart { vcpu }),
        30 => Just(Step::Deliver),
        50 => (prop_oneof![5 => Just(0_usize), 2 => 0_usize..6], forge, says).prop_map(|(back, forge, says)| Step::Answer { back, forge, says }),
        40 => (vcpu(), prop::bool::weighted(0.2)).prop_map(|(vcpu, late)| Step::Look { vcpu, late }),
        1 => Just(Step::Reset),
        12 => vcpu().prop_map(|vcpu| Step::Depart { vcpu }),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let rule = || prop_oneof![6 => Just(Rule::Forward), 3 => Just(Rule::Handle), 1 => Just(Rule::Deny)];
    let rules = [rule(), rule(), rule(), rule(), rule()];
    (rules, any::<bool>()).prop_map(|([narrow, wide, off, system, suspend], on_pending)| Setup {
        on: [narrow, wide],
        off,
        system,
        suspend,
        on_pending,
    })
}

/// The `n`th vCPU of which `holds` is true, or simply the `n`th: most steps are to have an effect.
fn among(n: usize, holds: impl Fn(usize) -> bool) -> usize {
    let some: Vec<_> = (0..VCPUS).filter(|&vcpu| holds(vcpu)).collect();
    some.get(n % some.len().max(1)).copied().unwrap_or(n)
}

/// Runs one step in both and compares what is seen. The host's side is compared here too.
fn run(vm: &mut Vm, model: &mut Model, step: &Step) -> Seen {
    let high = 0xA5A5_0000_0000_0000;
    let caller = |n| among(n, |vcpu| model.runs(vcpu));
    let (seen, expected) = match *step {
        Step::CpuOn {
            caller,
            wide,
            args: [mpidr, entry, context],
        } => {
            let id = if wide { fid::CPU_ON_64 } else { fid::CPU_ON_32 };
            (
                vm.call(caller, [high | u64::from(id), mpidr, entry, context]),
                model.cpu_on(caller, wide, [mpidr, entry, context]),
            )
        }
        Step::CpuOff { caller: n } => {
            // Seldom the boot vCPU: without it little happens any more.
            let caller = if n == 0 {
                caller(n)
            } else {
                among(n, |vcpu| vcpu != 0 && model.runs(vcpu))
            };
            (vm.call(caller, [u64::from(fid::CPU_OFF), 0, 0, 0]), model.cpu_off(caller))
        }
        Step::System { caller: n, wide, call } => {
            let caller = caller(n);
            (vm.call(caller, system_call(call, wide)), model.system(caller, wide, call))
        }
        Step::Interrupt { vcpu: n } => {
            let vcpu = among(n, |vcpu| model.sleeps(vcpu));
            (vm.interrupt(vcpu), model.interrupt(vcpu))
        }
        Step::Left { vcpu } => {
            vm.power[vcpu].finish_off();
            model.left(vcpu);
            (Seen::Nothing, Seen::Nothing)
        }
        Step::TakeStart { vcpu: n } => {
            let vcpu = among(n, |vcpu| model.starting(vcpu));
            (vm.take_start(vcpu), model.take_start(vcpu))
        }
        Step::Deliver => {
            deliver(vm, model);
            (Seen::Nothing, Seen::Nothing)
        }
        Step::Answer { back, forge, says } => answer(vm, model, back, forge, says),
        Step::Look { vcpu: n, late } => {
            let vcpu = among(n, |vcpu| model.waits(vcpu));
            (vm.look(vcpu, late.then_some(Cut::Deadline)), model.look(vcpu, late))
        }
        Step::Reset => {
            vm.ending = true;
            model.reset();
            (Seen::Nothing, Seen::Nothing)
        }
        Step::Depart { vcpu: n } => {
            let vcpu = among(n, |vcpu| model.departs(vcpu));
            vm.depart(vcpu);
            model.depart(vcpu);
            (Seen::Nothing, Seen::Nothing)
        }
    };
    assert_eq!(seen, expected, "{step:?}");
    for vcpu in 0..VCPUS {
        assert_eq!(vm.runs(vcpu), model.runs(vcpu), "vCPU {vcpu} after {step:?}");
        let info = smccc(&[u64::from(fid::AFFINITY_INFO_64), vcpu as u64, 0, 0], &vm.filter, vm);
        assert_eq!(info, Outcome::Return(model.affinity_info(vcpu)), "vCPU {vcpu} after {step:?}");
    }
    seen
}

fn deliver(vm: &mut Vm, model: &mut Model) {
    match vm.exits.deliver() {
        Some(Exit::Reset) => assert!(model.tell_reset()),
        Some(Exit::Call { cookie, vcpu, .. }) => {
            let number = model.tell(vcpu).expect("the call is outstanding and was not told yet");
            assert_eq!(vm.cookies[number], cookie);
        }
        None => assert!(model.untold().is_empty() && !model.tell_reset(), "something was held back"),
        exit => panic!("{exit:?}"),
    }
}

fn answer(vm: &mut Vm, model: &mut Model, back: usize, forge: u64, says: Says) -> (Seen, Seen) {
    let Some(number) = vm.cookies.len().checked_sub(1 + back) else {
        return (Seen::Nothing, Seen::Nothing);
    };
    let (verdict, values) = match says {
        Says::Allow => (Verdict::Allow, [7; 4]),
        Says::Deny => (Verdict::Deny, [7; 4]),
        Says::Fail => (Verdict::Fail, [7; 4]),
        Says::Values(values) => (Verdict::Values, values),
    };
    let cookie = Cookie::new(vm.cookies[number].get() ^ forge);
    let taken = Seen::Taken(vm.exits.answer(cookie, &Answer { verdict, values }).is_ok());
    // A forged cookie can only be right by being another call's.
    match vm.cookies.iter().position(|known| *known == cookie) {
        Some(number) => (taken, model.answer(number, says)),
        None => (taken, Seen::Taken(false)),
    }
}

/// Runs a whole interleaving and hands out what was seen at each step.
fn interleave(setup: &Setup, steps: &[Step], mut see: impl FnMut(Seen)) {
    let (mut vm, mut model) = (Vm::new(setup), Model::new(*setup));
    for step in steps {
        let seen = run(&mut vm, &mut model, step);
        see(seen);
        if seen == Seen::Ends {
            break;
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), if cfg!(miri) { 1..40 } else { 1..120 })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 250 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn psci_and_forwarding_do_what_the_reference_model_says(setup in setup(), steps in steps()) {
        interleave(&setup, &steps, |_| ());
    }
}

/// The interleavings are worth something only if they get everywhere.
#[test]
#[cfg_attr(miri, ignore = "it takes hundreds of interleavings")]
fn the_interleavings_reach_every_answer() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reached = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..400 {
        let (setup, steps) = (setup(), steps()).new_tree(&mut runner).unwrap().current();
        interleave(&setup, &steps, |seen| {
            let kind = match seen {
                Seen::X0(x0) => format!("{}", x0 as i64),
                Seen::Values(_) => "values".into(),
                Seen::Starts(..) => "starts".into(),
                other => format!("{other:?}"),
            };
            *reached.entry(kind).or_default() += 1;
        });
    }
    let codes = ["0", "-1", "-2", "-3", "-4", "-5", "-6", "-9"];
    let others = [
        "values",
        "starts",
        "Waits",
        "Leaves",
        "Taken(true)",
        "Taken(false)",
        "Ends",
        "Resets",
        "Sleeps",
    ];
    for kind in codes.into_iter().chain(others) {
        assert!(reached.get(kind).is_some_and(|&times| times >= 3), "{kind}: {reached:?}");
    }
}
