//! The host partition's side of the tests: `test=NAME` picks what it does while a guest runs. Each name's guest and what
//! both must print are in the table at [`main`].
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicI64, Ordering};
use guest::check::{self, Check};
use guest::host::{self, Answer, Exit, Verdict};
use guest::{bootargs, cpu, oem, println, timer};
use hyp_abi::attr::{self, CPU_SYSREGS, CTRL, CTRL_INIT, ICC_CTLR, ICC_PMR, cpu_sysreg};
use hyp_abi::call::{self, ALL_VCPUS, Counter, ExitKind, Trigger, VmState};
use hyp_abi::errno::Errno;
use hyp_abi::layout::affinity_of;
use hyp_abi::psci::{CPU_ON_32, CPU_ON_64, MIGRATE_INFO_TYPE};
use hyp_abi::smccc::NOT_SUPPORTED;

guest::program!(main);

/// The guest under test.
const VM: u64 = 1;
/// No VM has this id.
const NO_VM: u64 = 99;
/// Microseconds; generous, because MTTCG may not run the target for a while.
const DEADLINE: u64 = 2_000_000;

/// | `test=` | guest program and its `test=` |
/// |---|---|
/// | `serve` | any; `reset` |
/// | `slowly` | `waiting test=flood` and, as another VM, `waiting test=now_and_then` |
/// | `anew` | any that ends soon, and another VM that ends later |
/// | `gone` | `psci test=unanswered`, `forward_deadline_ms = 300` |
/// | `never`, `late` | `psci test=unanswered`, `forward_deadline_ms = 300` |
/// | `twice`, `forged` | `psci test=answered` |
/// | `verdicts` | `psci test=verdicts` |
/// | `second` | any; a host partition of two vCPUs |
/// | `badcalls`, `contended` | `contended` |
/// | `staleness` | `staleness` |
/// | `waiting` | `waiting test=alone`, one vCPU, `forward_deadline_ms = 3000` |
/// | `waiting_among` | `waiting test=among` |
/// | `neighbours` | `share test=neighbours` |
/// | `filter` | `psci test=filtered`, a VM without filter entries |
/// | `ready` | `vgic test=template,narrowed` |
/// | `epoch` | `reset test=outstanding` |
/// | `slow_setup` | any |
/// | `refused` | any whose pCPU does not come up |
/// | `stops` | `reset test=hundreds` |
/// | `resumes` | any that is stopped and then reset from the monitor |
/// | `trigger_panic`, `trigger_stack`, `trigger_access` | any; `pcpu=N` says where |
fn main() {
    check::is_host();
    let on_demand = |name, run| check::Test {
        name,
        by_default: false,
        run,
    };
    check::run(&[
        check::Test {
            name: "serve",
            by_default: true,
            run: serve,
        },
        on_demand("anew", anew),
        on_demand("gone", gone),
        on_demand("never", never),
        on_demand("late", late),
        on_demand("slowly", slowly),
        on_demand("twice", twice),
        on_demand("forged", forged),
        on_demand("verdicts", verdicts),
        on_demand("second", second),
        on_demand("badcalls", badcalls),
        on_demand("contended", contended),
        on_demand("staleness", staleness),
        on_demand("waiting", waiting),
        on_demand("waiting_among", waiting_among),
        on_demand("neighbours", neighbours),
        on_demand("filter", filter),
        on_demand("ready", ready),
        on_demand("epoch", epoch),
        on_demand("slow_setup", slow_setup),
        on_demand("refused", refused),
        on_demand("stops", stops),
        on_demand("resumes", resumes),
        on_demand("trigger_panic", |check| trigger(check, Trigger::Panic)),
        on_demand("trigger_stack", |check| trigger(check, Trigger::StackOverflow)),
        on_demand("trigger_access", |check| trigger(check, Trigger::BadAccess)),
    ]);
    check::done()
}

fn counted(counter: Counter) -> u64 {
    host::counter(VM, ALL_VCPUS, counter).unwrap_or(u64::MAX)
}

/// What `serve` and `epoch` keep for the guest across its resets.
#[derive(Default)]
struct Kept {
    boots: u64,
    ends: usize,
    slots: [u64; 8],
}

impl Kept {
    fn decide(&mut self, exit: &Exit) -> Option<Answer> {
        match exit.kind {
            ExitKind::Reset => self.boots += 1,
            ExitKind::Ended => self.ends += 1,
            ExitKind::Hvc | ExitKind::Smc => {}
        }
        if !exit.wants_answer() {
            return None;
        }
        Some(match exit.function() {
            oem::BOOTCOUNT => Answer::value(self.boots + 1),
            oem::KEEP => {
                let slot = &mut self.slots[exit.x[1] as usize % 8];
                let old = *slot;
                if exit.x[2] != 0 {
                    *slot = exit.x[2];
                }
                Answer::value(old)
            }
            oem::COMPARE => compare(exit),
            function if function & 0xFFFF_FF00 == oem::BASE => Answer::value(NOT_SUPPORTED),
            _ => Answer::ALLOW,
        })
    }
}

fn compare(exit: &Exit) -> Answer {
    let found = host::exact_read(u64::from(exit.vm), cpu_sysreg(affinity_of(exit.x[2] as usize), ICC_CTLR), DEADLINE);
    if found != Ok(exit.x[1]) {
        println!("compare: vcpu={} guest={:#x} host={found:x?}", exit.x[2], exit.x[1]);
    }
    Answer::value(u64::from(found != Ok(exit.x[1])))
}

/// Allows everything.
fn serve(check: &mut Check) {
    let mut kept = Kept::default();
    host::serve(|exit| kept.decide(exit));
    check.that(host::vms().all(host::has_ended), "every VM has ended");
    check.eq("ends that were told", kept.ends, host::vms().count());
}

fn state(vm: u64) -> Option<VmState> {
    host::vm_info(vm).ok().and_then(|info| info.state)
}

/// Stops a VM that resets itself at any moment, and lets it go on: it is stopped then or was not to be had, and goes on.
fn stops(check: &mut Check) {
    let (mut kept, mut stopped) = (Kept::default(), 0);
    while let Some(exit) = host::next_exit() {
        if let Some(answer) = kept.decide(&exit) {
            check.eq("the answer", host::complete_exit(exit.cookie, answer), Ok(()));
        }
        for _ in 0..8 {
            match host::vm_stop(VM) {
                Ok(_) => {
                    stopped += 1;
                    check.eq("a VM that was stopped", state(VM), Some(VmState::Stopped));
                    check.eq("to let it go on", host::vm_resume(VM), Ok(()));
                }
                Err(errno) => check.eq("why it was not stopped", errno, Errno::Invalid),
            }
        }
    }
    check.that(stopped > 0, "it was stopped");
}

/// Lets a VM go on that was stopped and is being reset.
fn resumes(check: &mut Check) {
    check.eq("VM_START", host::vm_start(VM), Ok(()));
    let is_reset = || host::vm_info(VM).is_ok_and(|info| info.state == Some(VmState::Resetting) || info.epoch > 0);
    check.that(cpu::wait_until(20, is_reset), "it is being reset");
    // In time or too late.
    let resumed = host::vm_resume(VM);
    check.that(matches!(resumed, Ok(()) | Err(Errno::Invalid)), "VM_RESUME");
    serve(check);
}

/// The first wait starts the guests, which takes long.
fn slow_setup(check: &mut Check) {
    check.eq("the trigger", host::trigger(Trigger::SlowSetup, 0), Ok(0));
    serve(check);
}

/// A VM that was refused after it had been built is there, and never will be more than that.
fn refused(check: &mut Check) {
    check.eq("the VM's state", host::vm_info(VM).map(|info| info.state), Ok(Some(VmState::Off)));
    let ctlr = cpu_sysreg(affinity_of(0), ICC_CTLR);
    for when in ["before", "after"] {
        check.eq(when, host::attr_get(VM, CPU_SYSREGS, ctlr), Err(Errno::Busy));
        check.eq("CTRL_INIT", host::attr_set(VM, CTRL, CTRL_INIT, 0), Err(Errno::Busy));
    }
    check.eq("VM_START", host::vm_start(VM), Err(Errno::Exists));
}

/// What vCPU 1's calls gave, in `x0`; -1 before.
static SECOND: [AtomicI64; 3] = [const { AtomicI64::new(-1) }; 3];

fn call_as_second(_: u64) {
    let calls = [
        (call::VM_INFO, [VM, 0, 0, 0, 0, 0]),
        (call::WAIT_EXIT, [0; 6]),
        (call::COUNTER, [VM, ALL_VCPUS, 0, 0, 0, 0]),
    ];
    for (result, (function, arguments)) in SECOND.iter().zip(calls) {
        result.store(host::raw(function, arguments)[0] as i64, Ordering::Release);
    }
}

/// Exits are vCPU 0's to wait for, which Umbra wakes; any other call the second vCPU may make as well.
fn second(check: &mut Check) {
    check.eq("CPU_ON", cpu::start(1, call_as_second, 0), guest::psci::SUCCESS);
    let expected = [0, Errno::Busy.to_ret() as i64, 0];
    let found = || SECOND.each_ref().map(|result| result.load(Ordering::Acquire));
    check.that(cpu::wait_until(10, || found() == expected), "vCPU 1's calls return");
    check.eq("VM_INFO, WAIT_EXIT and COUNTER by vCPU 1", found(), expected);
    check.eq(
        "and nothing was started by it",
        host::vm_info(VM).map(|info| info.state),
        Ok(Some(VmState::Built)),
    );
    serve(check);
}

/// Starts itself anew once the first VM's end was told, and waits for the others' then.
fn anew(check: &mut Check) {
    let first = !host::has_ended(VM);
    host::serve(|exit| {
        if first && exit.kind == ExitKind::Ended && u64::from(exit.vm) == VM {
            guest::psci::system_reset();
        }
        exit.wants_answer().then_some(Answer::ALLOW)
    });
    check.that(
        !first && host::vms().all(host::has_ended),
        "every VM has ended, the first one before",
    );
}

/// Ends at once, before it has started anyone.
fn gone(check: &mut Check) {
    check.eq("the guest", host::vm_info(VM).map(|info| info.state), Ok(Some(VmState::Built)));
}

/// Never answers: hyp's deadline does.
fn never(check: &mut Check) {
    let (expired, mut seen) = (counted(Counter::Expired), 0);
    host::serve(|exit| {
        seen += u64::from(exit.wants_answer());
        None
    });
    check.eq("calls seen", seen, 2);
    check.eq("calls that expired", counted(Counter::Expired).wrapping_sub(expired), 2);
}

/// Answers when the deadline is over: refused.
fn late(check: &mut Check) {
    let wait = bootargs::number("late_ms", 450) * 1000;
    let mut answers = 0;
    while let Some(exit) = host::next_exit() {
        if exit.wants_answer() {
            timer::delay(timer::micros(wait));
            check.eq(
                "a late answer",
                host::complete_exit(exit.cookie, Answer::ALLOW),
                Err(Errno::NoDevice),
            );
            answers += 1;
        }
    }
    check.eq("calls seen", answers, 2);
    check.eq("calls that expired", counted(Counter::Expired), 2);
    check.eq("answers dropped", counted(Counter::Dropped), 2);
}

/// Answers everybody, but takes its time: whoever calls again at once has called again when it is done.
fn slowly(check: &mut Check) {
    host::serve(|exit| {
        timer::delay(timer::micros(500));
        exit.wants_answer().then(|| Answer::value(0))
    });
    check.that(host::vms().all(host::has_ended), "every VM has ended");
}

fn allow_or_echo(exit: &Exit) -> Answer {
    if exit.function() == oem::STEP {
        Answer::value(exit.x[2])
    } else {
        Answer::ALLOW
    }
}

/// Answers each call, then answers it again.
fn twice(check: &mut Check) {
    let mut previous = None;
    while let Some(exit) = host::next_exit() {
        if !exit.wants_answer() {
            continue;
        }
        check.eq("the answer", host::complete_exit(exit.cookie, allow_or_echo(&exit)), Ok(()));
        check.eq(
            "the same again",
            host::complete_exit(exit.cookie, Answer::DENY),
            Err(Errno::NoDevice),
        );
        if let Some(cookie) = previous {
            check.eq(
                "the one before again",
                host::complete_exit(cookie, Answer::DENY),
                Err(Errno::NoDevice),
            );
        }
        previous = Some(exit.cookie);
    }
    check.that(previous.is_some(), "a call came");
}

/// Tries forged cookies while a call is outstanding, then the true one.
fn forged(check: &mut Check) {
    let mut calls = 0;
    while let Some(exit) = host::next_exit() {
        if !exit.wants_answer() {
            continue;
        }
        calls += 1;
        for bit in 0..64 {
            let forged = exit.cookie ^ 1 << bit;
            if host::complete_exit(forged, Answer::DENY) != Err(Errno::NoDevice) {
                check.fail(format_args!("a cookie with bit {bit} changed was not refused"));
            }
        }
        for cookie in [0, u64::MAX, exit.cookie.wrapping_add(1), exit.cookie.wrapping_sub(1), !exit.cookie] {
            check.eq("a forged cookie", host::complete_exit(cookie, Answer::DENY), Err(Errno::NoDevice));
        }
        let bad_verdict = host::raw(call::COMPLETE_EXIT, [exit.cookie, 9, 0, 0, 0, 0])[0];
        check.eq("a verdict that does not exist", bad_verdict, Errno::Invalid.to_ret());
        check.eq("the true one", host::complete_exit(exit.cookie, allow_or_echo(&exit)), Ok(()));
    }
    check.that(calls > 0, "a call came");
}

/// Denies the first CPU_ON, fails the second, allows the third; says which conduit a call came by.
fn verdicts(check: &mut Check) {
    let mut starts = 0;
    let mut conduits = [0; 2];
    host::serve(|exit| {
        Some(match exit.function() {
            CPU_ON_32 | CPU_ON_64 => {
                starts += 1;
                match starts {
                    1 => Answer::DENY,
                    2 => Answer::FAIL,
                    _ => Answer::ALLOW,
                }
            }
            oem::STEP => {
                let conduit = u64::from(exit.kind == ExitKind::Smc);
                conduits[conduit as usize] += 1;
                let arguments_arrived = exit.x[2] == 7 && exit.x[3] == 8;
                Answer {
                    verdict: Verdict::Values,
                    x: [conduit, 0x11, 0x22, if arguments_arrived { 0x33 } else { 0 }],
                }
            }
            _ => Answer::ALLOW,
        })
    });
    check.eq("CPU_ON calls", starts, 3);
    check.eq("calls by HVC and by SMC", conduits, [1, 1]);
}

/// Runs `at_step` when the guest makes [`oem::STEP`], while its caller waits for the answer: 0 if nothing failed.
fn at_steps(check: &mut Check, steps: u64, mut at_step: impl FnMut(&mut Check, &Exit)) {
    let mut done = 0;
    while let Some(exit) = host::next_exit() {
        if !exit.wants_answer() {
            continue;
        }
        let answer = if exit.function() == oem::STEP {
            let mut found = Check::new("step");
            at_step(&mut found, &exit);
            done += 1;
            let good = !found.has_failed();
            check.that(good, "a step");
            Answer::value(u64::from(!good))
        } else {
            Answer::ALLOW
        };
        let _late = host::complete_exit(exit.cookie, answer);
    }
    check.eq("steps", done, steps);
}

fn x0(function: u32, arguments: [u64; 4]) -> Option<Errno> {
    let [a, b, c, d] = arguments;
    Errno::from_ret(host::raw(function, [a, b, c, d, 0, 0])[0]).err()
}

/// Which bits of `x7` to `x17` a call changes.
fn changed_by(function: u32, [x1, x2, x3, x4]: [u64; 4]) -> u64 {
    let mut kept: [u64; 11] = core::array::from_fn(|at| 0x1111_2222_3333_4444 * (at as u64 + 1));
    let before = kept;
    let [x7, x8, x9, x10, x11, x12, x13, x14, x15, x16, x17] = &mut kept;
    // SAFETY: A call of the host's changes registers only, and every register that it may change is named here.
    unsafe {
        core::arch::asm!("hvc #0",
            inout("x0") u64::from(function) => _, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _,
            inout("x4") x4 => _, inout("x5") 0_u64 => _, inout("x6") 0_u64 => _,
            inout("x7") *x7, inout("x8") *x8, inout("x9") *x9, inout("x10") *x10, inout("x11") *x11, inout("x12") *x12,
            inout("x13") *x13, inout("x14") *x14, inout("x15") *x15, inout("x16") *x16, inout("x17") *x17,
            options(nostack));
    }
    kept.iter().zip(before).fold(0, |changed, (found, was)| changed | found ^ was)
}

/// Bad input at every call, while the VM runs.
fn badcalls(check: &mut Check) {
    at_steps(check, 2, |check, exit| {
        let own = exit.cookie;
        let ctlr = cpu_sysreg(affinity_of(1), ICC_CTLR);
        let nobody = cpu_sysreg(0x0700, ICC_CTLR);
        let unknown = cpu_sysreg(affinity_of(1), 0x1234);
        let good = host::exact_read(VM, ctlr, DEADLINE).unwrap_or(0);
        check.that(good & 0x700 != 0, "a good exact read");
        use Errno::{Busy, Exists, Invalid, NoDevice, NoEntry};
        let cases: [(&str, u32, [u64; 4], Option<Errno>); 50] = [
            ("COMPLETE_EXIT of nothing", call::COMPLETE_EXIT, [0, 0, 0, 0], Some(NoDevice)),
            (
                "COMPLETE_EXIT of everything",
                call::COMPLETE_EXIT,
                [u64::MAX, 0, 0, 0],
                Some(NoDevice),
            ),
            ("COMPLETE_EXIT with no verdict", call::COMPLETE_EXIT, [own, 4, 0, 0], Some(Invalid)),
            (
                "COMPLETE_EXIT with a wide verdict",
                call::COMPLETE_EXIT,
                [own, 1 << 32, 0, 0],
                Some(Invalid),
            ),
            (
                "COMPLETE_AND_WAIT of nothing",
                call::COMPLETE_AND_WAIT,
                [0, 0, 0, 0],
                Some(NoDevice),
            ),
            (
                "COMPLETE_AND_WAIT with no verdict",
                call::COMPLETE_AND_WAIT,
                [own, 4, 0, 0],
                Some(Invalid),
            ),
            ("ATTR_GET of no VM", call::ATTR_GET, [NO_VM, CPU_SYSREGS, ctlr, 0], Some(NoEntry)),
            (
                "ATTR_GET of a wide VM",
                call::ATTR_GET,
                [1 << 32 | VM, CPU_SYSREGS, ctlr, 0],
                Some(NoEntry),
            ),
            ("ATTR_GET of no group", call::ATTR_GET, [VM, 77, ctlr, 0], Some(NoDevice)),
            (
                "ATTR_GET of a wide group",
                call::ATTR_GET,
                [VM, 1 << 32 | CPU_SYSREGS, ctlr, 0],
                Some(NoDevice),
            ),
            (
                "ATTR_GET of no register",
                call::ATTR_GET,
                [VM, CPU_SYSREGS, unknown, 0],
                Some(NoDevice),
            ),
            (
                "ATTR_GET of a kernel id, not the UAPI's",
                call::ATTR_GET,
                [VM, CPU_SYSREGS, 0x18_CC80, 0],
                Some(NoDevice),
            ),
            ("ATTR_GET of no vCPU", call::ATTR_GET, [VM, CPU_SYSREGS, nobody, 0], Some(Invalid)),
            (
                "ATTR_GET of what is only written",
                call::ATTR_GET,
                [VM, CTRL, CTRL_INIT, 0],
                Some(NoDevice),
            ),
            ("ATTR_SET of no VM", call::ATTR_SET, [NO_VM, CPU_SYSREGS, ctlr, good], Some(NoEntry)),
            (
                "ATTR_SET of no register",
                call::ATTR_SET,
                [VM, CPU_SYSREGS, unknown, 0],
                Some(NoDevice),
            ),
            (
                "ATTR_SET of no vCPU",
                call::ATTR_SET,
                [VM, CPU_SYSREGS, nobody, good],
                Some(Invalid),
            ),
            (
                "ATTR_SET of upper bits",
                call::ATTR_SET,
                [VM, CPU_SYSREGS, ctlr, 1 << 32 | good],
                Some(Invalid),
            ),
            (
                "ATTR_SET of more PRIbits",
                call::ATTR_SET,
                [VM, CPU_SYSREGS, ctlr, good | 0x700],
                Some(Invalid),
            ),
            (
                "ATTR_SET of other SEIS",
                call::ATTR_SET,
                [VM, CPU_SYSREGS, ctlr, good ^ 1 << 14],
                Some(Invalid),
            ),
            (
                "ATTR_SET of other A3V",
                call::ATTR_SET,
                [VM, CPU_SYSREGS, ctlr, good ^ 1 << 15],
                Some(Invalid),
            ),
            (
                "ATTR_SET of no SRE",
                call::ATTR_SET,
                [VM, CPU_SYSREGS, cpu_sysreg(1, attr::ICC_SRE), 0],
                Some(Invalid),
            ),
            ("ATTR_SET of no group", call::ATTR_SET, [VM, 77, 0, 0], Some(NoDevice)),
            ("ATTR_HAS of no VM", call::ATTR_HAS, [NO_VM, CPU_SYSREGS, ctlr, 0], Some(NoEntry)),
            (
                "ATTR_HAS of no register",
                call::ATTR_HAS,
                [VM, CPU_SYSREGS, unknown, 0],
                Some(NoDevice),
            ),
            ("ATTR_HAS of CTLR", call::ATTR_HAS, [VM, CPU_SYSREGS, ctlr, 0], None),
            ("FILTER_SET of no VM", call::FILTER_SET, [NO_VM, 0x8600_0000, 1, 1], Some(NoEntry)),
            ("FILTER_SET of the host", call::FILTER_SET, [0, 0x8600_0000, 1, 1], Some(Invalid)),
            ("FILTER_SET of a running VM", call::FILTER_SET, [VM, 0x8600_0000, 1, 1], Some(Busy)),
            (
                "FILTER_SET of an unknown action",
                call::FILTER_SET,
                [VM, 0x8600_0000, 1, 3],
                Some(Invalid),
            ),
            ("VM_START of no VM", call::VM_START, [NO_VM, 0, 0, 0], Some(NoEntry)),
            ("VM_START of the host", call::VM_START, [0, 0, 0, 0], Some(Invalid)),
            ("VM_START of a running VM", call::VM_START, [VM, 0, 0, 0], Some(Exists)),
            ("VM_STOP of no VM", call::VM_STOP, [NO_VM, 0, 0, 0], Some(NoEntry)),
            ("VM_STOP of the host", call::VM_STOP, [0, 0, 0, 0], Some(Invalid)),
            ("VM_RESUME of no VM", call::VM_RESUME, [NO_VM, 0, 0, 0], Some(NoEntry)),
            ("VM_RESUME of the host", call::VM_RESUME, [0, 0, 0, 0], Some(Invalid)),
            ("COUNTER of no VM", call::COUNTER, [NO_VM, 0, 0, 0], Some(NoEntry)),
            ("COUNTER of no vCPU", call::COUNTER, [VM, 40, 0, 0], Some(Invalid)),
            ("COUNTER of no counter", call::COUNTER, [VM, 0, 500, 0], Some(NoDevice)),
            ("EXACT_READ of no VM", call::EXACT_READ, [NO_VM, ctlr, DEADLINE, 0], Some(NoEntry)),
            (
                "EXACT_READ of no register",
                call::EXACT_READ,
                [VM, unknown, DEADLINE, 0],
                Some(NoDevice),
            ),
            ("EXACT_READ of no vCPU", call::EXACT_READ, [VM, nobody, DEADLINE, 0], Some(Invalid)),
            ("EXACT_READ without end", call::EXACT_READ, [VM, ctlr, u64::MAX, 0], None),
            ("CONTENDED_READ of no VM", call::CONTENDED_READ, [NO_VM, ctlr, 0, 0], Some(NoEntry)),
            (
                "CONTENDED_READ of no register",
                call::CONTENDED_READ,
                [VM, unknown, 0, 0],
                Some(NoDevice),
            ),
            ("CONTENDED_READ of no vCPU", call::CONTENDED_READ, [VM, nobody, 0, 0], Some(Invalid)),
            ("MARK of no VM", call::MARK, [NO_VM, 0, 0, 0], Some(NoEntry)),
            ("VM_INFO of no VM", call::VM_INFO, [NO_VM, 0, 0, 0], Some(NoEntry)),
            ("VM_INFO of a wide VM", call::VM_INFO, [1 << 40, 0, 0, 0], Some(NoEntry)),
        ];
        for (what, function, arguments, expected) in cases {
            let found = x0(function, arguments);
            if found != expected {
                check.fail(format_args!("{what}: found {found:?}, expected {expected:?}"));
            }
        }
        for (function, arguments) in [
            (call::COMPLETE_EXIT, [0; 4]),
            (call::ATTR_GET, [VM, CPU_SYSREGS, ctlr, 0]),
            (call::EXACT_READ, [VM, cpu_sysreg(affinity_of(1), attr::ICC_AP1R0), DEADLINE, 0]),
            (call::VM_STOP, [VM, 0, 0, 0]),
            (call::VM_RESUME, [VM, 0, 0, 0]),
            (call::COUNTER, [VM, ALL_VCPUS, 0, 0]),
            (call::VM_INFO, [VM, 0, 0, 0]),
            (0xC600_0077, [0; 4]),
        ] {
            let changed = changed_by(function, arguments);
            if changed != 0 {
                check.fail(format_args!("call {function:#x} changes {changed:#x} of x7 to x17"));
            }
        }
        check.eq("the revision", host::revision(), Some(call::REVISION));
        let [nothing, ..] = host::raw(0xC600_0077, [0; 6]);
        check.eq("a call that does not exist", nothing, NOT_SUPPORTED);
        check.eq("and its errno", Errno::from_ret(nothing), Err(Errno::NotPermitted));
        for register in [
            attr::ICC_PMR,
            attr::ICC_BPR0,
            attr::ICC_BPR1,
            attr::ICC_AP0R0,
            attr::ICC_AP1R0,
            ICC_CTLR,
            attr::ICC_SRE,
        ] {
            check.that(
                host::attr_has(VM, CPU_SYSREGS, cpu_sysreg(1, register)).is_ok(),
                "ATTR_HAS of a register of the group",
            );
            check.that(
                host::attr_get(VM, CPU_SYSREGS, cpu_sysreg(1, register)).is_ok(),
                "ATTR_GET of a register of the group",
            );
        }
        check.eq("after all that, an exact read", host::exact_read(VM, ctlr, DEADLINE), Ok(good));
        check.eq(
            "and the VM runs",
            host::vm_info(VM).map(|info| info.state),
            Ok(Some(VmState::Running)),
        );
        // A deadline of zero has passed at once, or the answer is there without waiting.
        check.that(
            matches!(host::exact_read(VM, ctlr, 0), Err(Errno::TimedOut)) || good != 0,
            "EXACT_READ at once",
        );
    });
}

/// KVM's way: EBUSY while any vCPU is resident, an answer from a stopped VM, and the stops that the states predict.
fn contended(check: &mut Check) {
    const CYCLES: u64 = 20;
    at_steps(check, 2, |check, exit| {
        // In step 1 vCPU 1 runs, 2 waits in WFI, 3 is off; in step 2 all three are off. vCPU 0 waits for this answer.
        let running = exit.x[1] == 1;
        let each = |counter: Counter| [0, 1, 2, 3].map(|vcpu| host::counter(VM, vcpu, counter).unwrap_or(u64::MAX));
        let since = |counter: Counter, before: [u64; 4]| {
            let now = each(counter);
            core::array::from_fn::<u64, 4, _>(|vcpu| now[vcpu].wrapping_sub(before[vcpu]))
        };
        // As last published, by whatever took each out of the guest: nobody has been asked anything since.
        let shown = [1, 2, 3].map(|vcpu| {
            let record = host::shadow(VM).slot(vcpu).and_then(|slot| slot.read(&mut 0, 10_000));
            record.map(|record| record.power())
        });
        let (on, off) = (Some(0), Some(1));
        check.eq("the records' power states", shown, if running { [on, on, off] } else { [off; 3] });
        // Its exit may come to the host a little before it has left its pCPU.
        check.that(guest::cpu::wait_until(10, || !is_resident(0)), "the caller leaves its pCPU");
        let (stops, bystanders, busy) = (each(Counter::Stops), each(Counter::Bystanders), counted(Counter::Busy));
        for _ in 0..CYCLES {
            for vcpu in 0..4 {
                let attribute = cpu_sysreg(affinity_of(vcpu), ICC_CTLR);
                check.eq(
                    "a read while vCPUs are resident",
                    host::contended_read(VM, attribute),
                    Err(Errno::Busy),
                );
            }
            check.eq("vCPUs that a stop takes from their pCPUs", host::vm_stop(VM), Ok(3));
            check.eq(
                "the VM's state",
                host::vm_info(VM).map(|info| info.state),
                Ok(Some(VmState::Stopped)),
            );
            for vcpu in 0..4 {
                let attribute = cpu_sysreg(affinity_of(vcpu), ICC_CTLR);
                let value = host::contended_read(VM, attribute);
                check.that(value.is_ok(), "a read of a stopped VM");
                let word = host::shadow(VM).slot(vcpu).map(|slot| slot.word());
                check.eq("the word of a stopped vCPU is exact", word.map(|word| word.exact()), Some(true));
                check.eq("and has the value", word.map(|word| word.ctlr()), value.ok());
            }
            check.eq("VM_RESUME", host::vm_resume(VM), Ok(()));
            // Until every vCPU is back: the next cycle's prediction needs it.
            let back = guest::cpu::wait_until(10, || (1..4).all(is_resident));
            check.that(back, "every vCPU is resident again");
        }
        check.eq("stops", since(Counter::Stops, stops), [0, CYCLES, CYCLES, CYCLES]);
        let taken = since(Counter::Bystanders, bystanders);
        check.eq(
            "stops that took a vCPU out of the guest",
            [taken[0], taken[1], taken[3]],
            [0, if running { CYCLES } else { 0 }, 0],
        );
        check.that(counted(Counter::Busy) - busy >= 4 * CYCLES, "EBUSY answers are counted");
        println!(
            "contended step={} stops={:?} bystanders={taken:?}",
            exit.x[1],
            since(Counter::Stops, stops)
        );
    });
}

/// A contended read says whether some lock is held; an exact read after a resume waits for this vCPU alone, and only a
/// vCPU that is resident publishes by a kick.
fn is_resident(vcpu: usize) -> bool {
    let before = host::counter(VM, vcpu as u64, Counter::KicksExact).unwrap_or(0);
    let attribute = cpu_sysreg(affinity_of(vcpu), ICC_CTLR);
    host::exact_read(VM, attribute, DEADLINE).is_ok() && host::counter(VM, vcpu as u64, Counter::KicksExact).unwrap_or(0) != before
}

/// Every vCPU has a priority mask of its own, and is running, ready, asleep or waiting for this answer; they share pCPUs, with
/// each other and perhaps with this program. Each read finds the right one's.
fn neighbours(check: &mut Check) {
    at_steps(check, 3, |check, exit| {
        for _ in 0..20 {
            for vcpu in 0..exit.x[2] as usize {
                let attribute = cpu_sysreg(affinity_of(vcpu), ICC_PMR);
                let expected = 0xB0 + 8 * vcpu as u64;
                check.eq("an exact read", host::exact_read(VM, attribute, DEADLINE), Ok(expected));
                check.eq("ATTR_GET", host::attr_get(VM, CPU_SYSREGS, attribute), Ok(expected));
                let record = host::shadow(VM).slot(vcpu).and_then(|slot| slot.read(&mut 0, 10_000));
                check.eq("the record's mask", record.map(|record| record.pmr()), Some(expected));
            }
        }
    });
}

/// Exact always, the word after the next ordinary exit; and while the word says that it is exact, it is.
fn staleness(check: &mut Check) {
    at_steps(check, 4, |check, exit| {
        let (step, expected) = (exit.x[1], exit.x[2]);
        let Some(slot) = host::shadow(VM).slot(1) else { return };
        let attribute = cpu_sysreg(affinity_of(1), ICC_CTLR);
        let before = slot.word();
        let record = slot.read(&mut 0, 10_000);
        check.eq("the record and the word", record.map(|record| record.ctlr()), Some(before.ctlr()));
        if before.exact() {
            check.eq("a word that says it is exact", before.ctlr(), expected);
        }
        match step {
            // Step 1: the last exit found group 1 on. Step 4: the write was followed by an ordinary exit.
            1 | 4 => check.eq("the word after an ordinary exit", before.ctlr(), expected),
            // Steps 2 and 3: an untrapped write since.
            _ => {
                check.that(before.in_guest() && !before.trapped(), "the word says that it may be stale");
                println!("staleness step={step} word={:#x} guest={expected:#x}", before.ctlr());
            }
        }
        check.eq("an exact read", host::exact_read(VM, attribute, DEADLINE), Ok(expected));
        let after = slot.word();
        check.eq("the word after an exact read", after.ctlr(), expected);
        check.eq(
            "the record after an exact read",
            slot.read(&mut 0, 10_000).map(|record| record.ctlr()),
            Some(expected),
        );
        check.eq("ATTR_GET", host::attr_get(VM, CPU_SYSREGS, attribute), Ok(expected));
    });
}

/// What can be had of the guest's only vCPU while it waits for a verdict, without a kick: everything that is only read.
fn waiting(check: &mut Check) {
    let of = |register| cpu_sysreg(affinity_of(0), register);
    let expired = counted(Counter::Expired);
    let mut steps = 0;
    while let Some(exit) = host::next_exit() {
        if !exit.wants_answer() {
            continue;
        }
        steps += 1;
        check.eq("the step", exit.x[1], steps);
        let (ctlr, pmr, active) = (exit.x[2], exit.x[3] & 0xFF, exit.x[3] >> 8);
        let kicks = || counted(Counter::KicksExact) + counted(Counter::KicksRequest);
        let before = kicks();
        let reads = |check: &mut Check, pmr: u64| {
            let all = [(ICC_CTLR, ctlr), (ICC_PMR, pmr), (attr::ICC_AP1R0, active)];
            for (register, expected) in all {
                check.eq("a contended read", host::contended_read(VM, of(register)), Ok(expected));
                check.eq("an exact read", host::exact_read(VM, of(register), DEADLINE), Ok(expected));
                check.eq("ATTR_GET", host::attr_get(VM, CPU_SYSREGS, of(register)), Ok(expected));
            }
            let slot = host::shadow(VM).slot(0);
            let word = slot.map(|slot| slot.word());
            check.eq(
                "the word",
                word.map(|word| (word.ctlr(), word.exact(), word.in_guest())),
                Some((ctlr, true, false)),
            );
            let record = slot.and_then(|slot| slot.read(&mut 0, 10_000));
            check.eq("the record", record.map(|record| (record.ctlr(), record.pmr())), Some((ctlr, pmr)));
        };
        let mut answer = Some(Answer::value(0));
        match steps {
            1 => {
                reads(check, pmr);
                check.eq("kicks for all that", kicks() - before, 0);
            }
            2 => {
                check.eq("ATTR_SET", host::attr_set(VM, CPU_SYSREGS, of(ICC_PMR), 0xD0), Ok(()));
                // It has answered that, and is about to wait again.
                let waits = || host::contended_read(VM, of(ICC_CTLR)) != Err(Errno::Busy);
                check.that(guest::cpu::wait_until(10, waits), "it waits again");
                reads(check, 0xD0);
            }
            3 | 4 => {
                check.eq("VM_STOP of one that is not in the guest", host::vm_stop(VM), Ok(0));
                check.eq("the state", host::vm_info(VM).map(|info| info.state), Ok(Some(VmState::Stopped)));
                reads(check, pmr);
                if steps == 4 {
                    let answered = host::complete_exit(exit.cookie, Answer::value(0));
                    check.eq("an answer while it is stopped", answered, Ok(()));
                    answer = None;
                }
                check.eq("VM_RESUME", host::vm_resume(VM), Ok(()));
            }
            5 => {
                check.that(guest::cpu::wait_until(10, || counted(Counter::Expired) != expired), "the deadline");
                check.eq(
                    "an answer after it",
                    host::complete_exit(exit.cookie, Answer::value(0)),
                    Err(Errno::NoDevice),
                );
                answer = None;
            }
            // Far longer than the guest's timers, and far shorter than the deadline, for a machine that has much else to do.
            6 => timer::delay(timer::micros(1_000_000)),
            _ => {}
        }
        if let Some(answer) = answer {
            check.eq("the answer", host::complete_exit(exit.cookie, answer), Ok(()));
        }
    }
    check.eq("steps", steps, 7);
    check.eq("calls that expired", counted(Counter::Expired) - expired, 1);
    check.eq("stops", counted(Counter::Stops), 0);
}

/// Answers two vCPUs when both wait, the first one first.
fn waiting_among(check: &mut Check) {
    let mut first = None;
    host::serve(|exit| {
        if exit.function() == oem::STEP && exit.x[1] == 1 {
            first = Some(exit.cookie);
            return None;
        }
        if exit.function() == oem::STEP {
            let answered = first.map(|cookie| host::complete_exit(cookie, Answer::value(0)));
            check.eq("the first one's answer", answered, Some(Ok(())));
        }
        Some(if exit.function() == oem::STEP {
            Answer::value(0)
        } else {
            Answer::ALLOW
        })
    });
    check.that(first.is_some(), "the first one came");
}

/// The filter's ranges and errors before the VM's first run, EBUSY after it.
fn filter(check: &mut Check) {
    const DENY: u64 = 1;
    const FORWARD: u64 = 2;
    use Errno::{Busy, Exists, Invalid};
    let set = |base: u64, count: u64, action: u64| host::filter_set(VM, base, count, action).err();
    for (what, base, count, action, expected) in [
        ("a range to forward", u64::from(oem::FILTER_FORWARDED), 1, FORWARD, None),
        ("a range to deny", u64::from(oem::FILTER_DENIED), 1, DENY, None),
        ("a PSCI function to deny", u64::from(MIGRATE_INFO_TYPE), 1, DENY, None),
        ("the same range again", u64::from(oem::FILTER_FORWARDED), 1, FORWARD, Some(Exists)),
        ("a range around it", u64::from(oem::FILTER_DENIED) - 1, 8, DENY, Some(Exists)),
        ("a range across its end", u64::from(oem::FILTER_FORWARDED), 2, DENY, Some(Exists)),
        ("the reserved SMC32 range", 0x8000_0000, 1, DENY, Some(Exists)),
        ("its last", 0x8000_FFFF, 1, DENY, Some(Exists)),
        ("across its begin", 0x7FFF_FFFF, 2, DENY, Some(Exists)),
        ("the reserved SMC64 range", 0xC000_0000, 0x1_0000, FORWARD, Some(Exists)),
        ("no functions", 0x8600_0000, 0, DENY, Some(Invalid)),
        ("a range that wraps", 0xFFFF_FFFF, 2, DENY, Some(Invalid)),
        ("an unknown action", 0x8600_0000, 1, 3, Some(Invalid)),
        ("padding", 0x8600_0000, 1, 1 << 8 | DENY, Some(Invalid)),
        ("a wide base", 1 << 32, 1, DENY, Some(Invalid)),
        ("a wide count", 0, 1 << 32, DENY, Some(Invalid)),
    ] {
        let found = set(base, count, action);
        if found != expected {
            check.fail(format_args!("{what}: found {found:?}, expected {expected:?}"));
        }
    }
    check.eq("VM_START", host::vm_start(VM), Ok(()));
    let mut calls = 0;
    host::serve(|exit| {
        if exit.wants_answer() {
            calls += 1;
            check.eq("what is forwarded", exit.function(), oem::FILTER_FORWARDED);
            check.eq("a range after the first run", set(0x8600_0000, 1, DENY), Some(Busy));
        }
        Some(Answer::value(0x77))
    });
    check.eq("calls, one by each conduit", calls, 2);
}

/// Before the vGIC is initialised every register is EBUSY; then the host edits what the vCPUs start with.
fn ready(check: &mut Check) {
    let (first, second) = (cpu_sysreg(affinity_of(0), ICC_CTLR), cpu_sysreg(affinity_of(1), ICC_CTLR));
    let pmr = cpu_sysreg(affinity_of(0), ICC_PMR);
    let Some(slot) = host::shadow(VM).slot(1) else { return };
    check.eq("the VM's state", host::vm_info(VM).map(|info| info.state), Ok(Some(VmState::Built)));
    check.eq("ATTR_GET before ready", host::attr_get(VM, CPU_SYSREGS, first), Err(Errno::Busy));
    check.eq("ATTR_SET before ready", host::attr_set(VM, CPU_SYSREGS, first, 0), Err(Errno::Busy));
    check.eq("EXACT_READ before ready", host::exact_read(VM, first, DEADLINE), Err(Errno::Busy));
    check.eq("CONTENDED_READ before ready", host::contended_read(VM, first), Err(Errno::Busy));
    check.that(!slot.word().ready() && !slot.word().exact(), "the word is not ready");
    check.eq("CTRL_INIT", host::attr_set(VM, CTRL, CTRL_INIT, 0), Ok(()));
    let value = host::attr_get(VM, CPU_SYSREGS, second).unwrap_or(0);
    check.that(value & 0x700 != 0, "ATTR_GET once ready");
    check.that(
        slot.word().ready() && slot.word().exact() && slot.word().is_template(),
        "the word is ready, exact, the template",
    );
    check.eq("the word and the template", [slot.word().ctlr(), slot.template()], [value; 2]);

    check.eq(
        "more PRIbits",
        host::attr_set(VM, CPU_SYSREGS, second, value + 0x100),
        Err(Errno::Invalid),
    );
    check.eq(
        "upper bits",
        host::attr_set(VM, CPU_SYSREGS, second, value | 1 << 63),
        Err(Errno::Invalid),
    );
    check.eq("what a refused write left", host::attr_get(VM, CPU_SYSREGS, second), Ok(value));
    check.eq("fewer PRIbits", host::attr_set(VM, CPU_SYSREGS, second, value - 0x100), Ok(()));
    check.eq("ATTR_GET of it", host::attr_get(VM, CPU_SYSREGS, second), Ok(value - 0x100));
    check.eq(
        "the word and the template of it",
        [slot.word().ctlr(), slot.template()],
        [value - 0x100; 2],
    );
    check.eq("another vCPU's", host::attr_get(VM, CPU_SYSREGS, first), Ok(value));
    check.eq("PMR", host::attr_set(VM, CPU_SYSREGS, pmr, 0xF0), Ok(()));
    check.eq("ATTR_GET of PMR", host::attr_get(VM, CPU_SYSREGS, pmr), Ok(0xF0));

    check.eq("VM_START", host::vm_start(VM), Ok(()));
    check.eq("VM_START again", host::vm_start(VM), Err(Errno::Exists));
    let mut kept = Kept::default();
    host::serve(|exit| {
        if exit.wants_answer() && exit.function() == oem::COMPARE {
            if exit.x[2] == 0 {
                // vCPU 1 is off, and its pCPU waits for its start.
                let pmr = cpu_sysreg(affinity_of(1), ICC_PMR);
                check.eq("PMR of a vCPU that is off", host::attr_set(VM, CPU_SYSREGS, pmr, 0xE0), Ok(()));
            }
            let attribute = cpu_sysreg(affinity_of(exit.x[2] as usize), ICC_CTLR);
            check.that(
                host::attr_set(VM, CPU_SYSREGS, attribute, (exit.x[1] & !0x700) | 0x200).is_err(),
                "narrowing a vCPU that has run is refused",
            );
        }
        kept.decide(exit)
    });
}

/// Answers a call from before a reset after it.
fn epoch(check: &mut Check) {
    let mut kept = Kept::default();
    let mut old = None;
    let mut refused = false;
    while let Some(exit) = host::next_exit() {
        let answer = kept.decide(&exit);
        if !exit.wants_answer() {
            continue;
        }
        let answer = match (exit.function(), exit.x[1]) {
            (oem::STEP, 1) => {
                old = Some(exit.cookie);
                kept.slots[1] = 1;
                continue;
            }
            (oem::STEP, 2) => {
                let found = old.map(|cookie| host::complete_exit(cookie, Answer::value(5)));
                check.eq("an answer from before the reset", found, Some(Err(Errno::NoDevice)));
                refused = true;
                Answer::value(0)
            }
            _ => answer.unwrap_or(Answer::ALLOW),
        };
        let _late = host::complete_exit(exit.cookie, answer);
    }
    check.that(refused, "the guest came back");
    check.eq("boots", kept.boots + 1, 2);
    check.that(counted(Counter::Dropped) >= 1, "the dropped answer is counted");
}

/// Has EL2 fail; in a test image nothing after this runs.
fn trigger(check: &mut Check, what: Trigger) {
    let result = host::trigger(what, bootargs::number("pcpu", 0));
    timer::delay(3 * timer::frequency());
    check.fail(format_args!("EL2 goes on: {result:?}"));
}
