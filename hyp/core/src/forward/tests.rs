//! What becomes of a forwarded call, by name.

use super::exits::SLOTS;
use super::*;
use crate::psci::{CpuOn, Start, State};
use hyp_abi::errno::Errno;
use hyp_abi::smccc::Conduit;

const REGS: [u64; 4] = [0x8400_0003, 1, 2, 3];

fn answered(verdict: Verdict, x0: u64) -> End {
    End::Answered(Answer {
        verdict,
        values: [x0, 21, 22, 23],
    })
}

fn cpu_on() -> Forwarded {
    Forwarded::CpuOn(CpuOn {
        target: 1,
        start: Start {
            entry: 0x4000_0000,
            context: 9,
            big_endian: false,
        },
    })
}

fn allow() -> Answer {
    Answer {
        verdict: Verdict::Allow,
        values: [0; 4],
    }
}

/// Delivers what must be a call.
fn told(exits: &Exits) -> Option<(usize, Cookie)> {
    match exits.deliver() {
        Some(Exit::Call { vcpu, cookie, .. }) => Some((vcpu, cookie)),
        _ => None,
    }
}

const DENIED: u64 = -3_i64 as u64;
const FAILED: u64 = -6_i64 as u64;

#[test]
fn cpu_on_starts_the_target_only_if_allowed() {
    for (end, resolution) in [
        (answered(Verdict::Allow, 5), Resolution::Started(1)),
        (answered(Verdict::Values, 0), Resolution::Started(1)),
        (answered(Verdict::Deny, 0), Resolution::Return(DENIED)),
        (answered(Verdict::Fail, 0), Resolution::Return(FAILED)),
        (answered(Verdict::Values, 5), Resolution::Values([5, 21, 22, 23])),
        (End::Deadline, Resolution::Return(FAILED)),
        (End::Cancelled, Resolution::Dropped),
    ] {
        let power = [const { Power::new() }; 2];
        let waiting = Waiting::begin(cpu_on(), &power).unwrap();
        assert_eq!(power[1].state(), State::OnPending, "claimed before the host is asked");
        assert_eq!(Waiting::begin(cpu_on(), &power).unwrap_err(), Refused::OnPending);
        assert_eq!(waiting.end(&end, &power), resolution);
        let started = resolution == Resolution::Started(1);
        assert_eq!(power[1].state(), if started { State::On } else { State::Off });
        assert_eq!(power[1].take_start().is_some(), started);
        assert_eq!(power[0].state(), State::Off);
    }
}

#[test]
fn cpu_off_is_off_unless_refused() {
    for (end, resolution) in [
        (answered(Verdict::Allow, 5), Resolution::CpuOff),
        (answered(Verdict::Values, 0), Resolution::CpuOff),
        (answered(Verdict::Deny, 0), Resolution::Return(DENIED)),
        (answered(Verdict::Fail, 0), Resolution::Return(DENIED)),
        (answered(Verdict::Values, 5), Resolution::Values([5, 21, 22, 23])),
        (End::Deadline, Resolution::CpuOff),
        (End::Cancelled, Resolution::Dropped),
    ] {
        assert_eq!(Waiting::begin(Forwarded::CpuOff, &[]).unwrap().end(&end, &[]), resolution);
    }
}

#[test]
fn system_calls_are_done_unless_refused() {
    for (call, done) in [
        (Forwarded::SystemOff, Resolution::SystemOff),
        (Forwarded::SystemReset, Resolution::SystemReset),
    ] {
        for (end, resolution) in [
            (answered(Verdict::Allow, 5), done),
            (answered(Verdict::Values, 0), done),
            (answered(Verdict::Deny, 0), Resolution::Return(DENIED)),
            (answered(Verdict::Fail, 0), Resolution::Return(FAILED)),
            (answered(Verdict::Values, 5), Resolution::Values([5, 21, 22, 23])),
            (End::Deadline, done),
            (End::Cancelled, Resolution::Dropped),
        ] {
            assert_eq!(Waiting::begin(call, &[]).unwrap().end(&end, &[]), resolution);
        }
    }
}

#[test]
fn a_suspend_happens_only_if_allowed() {
    let start = Start {
        entry: 0x4000_0000,
        context: 9,
        big_endian: false,
    };
    for (end, resolution) in [
        (answered(Verdict::Allow, 5), Resolution::SystemSuspend(start)),
        (answered(Verdict::Values, 0), Resolution::SystemSuspend(start)),
        (answered(Verdict::Deny, 0), Resolution::Return(DENIED)),
        (answered(Verdict::Fail, 0), Resolution::Return(FAILED)),
        (answered(Verdict::Values, 5), Resolution::Values([5, 21, 22, 23])),
        (End::Deadline, Resolution::Return(FAILED)),
        (End::Cancelled, Resolution::Dropped),
    ] {
        assert_eq!(
            Waiting::begin(Forwarded::SystemSuspend(start), &[]).unwrap().end(&end, &[]),
            resolution
        );
    }
}

#[test]
fn any_other_call_gets_the_hosts_values() {
    for (end, resolution) in [
        (answered(Verdict::Values, 0), Resolution::Values([0, 21, 22, 23])),
        (answered(Verdict::Values, 5), Resolution::Values([5, 21, 22, 23])),
        (answered(Verdict::Allow, 5), Resolution::Handle),
        (answered(Verdict::Deny, 0), Resolution::Return(NOT_SUPPORTED)),
        (answered(Verdict::Fail, 0), Resolution::Return(NOT_SUPPORTED)),
        (End::Deadline, Resolution::Return(NOT_SUPPORTED)),
        (End::Cancelled, Resolution::Dropped),
    ] {
        assert_eq!(Waiting::begin(Forwarded::Other, &[]).unwrap().end(&end, &[]), resolution);
    }
}

/// A PSCI return code is 32 bits wide: a caller, of SMC32 or SMC64, reads `w0` and would take these for `SUCCESS`.
#[test]
fn a_value_that_reads_as_success_is_success() {
    let power = [const { Power::new() }; 2];
    let start = Start::default();
    for x0 in [1 << 32, 0xDEAD_BEEF_0000_0000] {
        for (call, done) in [
            (cpu_on(), Resolution::Started(1)),
            (Forwarded::CpuOff, Resolution::CpuOff),
            (Forwarded::SystemOff, Resolution::SystemOff),
            (Forwarded::SystemReset, Resolution::SystemReset),
            (Forwarded::SystemSuspend(start), Resolution::SystemSuspend(start)),
        ] {
            let waiting = Waiting::begin(call, &power).unwrap();
            assert_eq!(waiting.end(&answered(Verdict::Values, x0), &power), done, "{x0:#x}");
        }
        power[1].reset();
    }
}

#[test]
fn a_verdict_that_a_reset_overtook_starts_nothing() {
    let power = [const { Power::new() }; 2];
    let waiting = Waiting::begin(cpu_on(), &power).unwrap();
    power[1].reset();
    assert_eq!(waiting.end(&answered(Verdict::Allow, 0), &power), Resolution::Dropped);
    assert_eq!((power[1].state(), power[1].take_start()), (State::Off, None));
}

#[test]
fn a_target_that_does_not_exist_is_an_internal_failure() {
    assert_eq!(
        Waiting::begin(cpu_on(), &[]).unwrap().end(&answered(Verdict::Allow, 0), &[]),
        Resolution::Return(FAILED)
    );
}

#[test]
fn an_exit_tells_the_call_and_its_conduit() {
    let exits = Exits::new(7);
    for (conduit, kind) in [
        (Conduit::Hvc, hyp_abi::call::ExitKind::Hvc),
        (Conduit::Smc, hyp_abi::call::ExitKind::Smc),
    ] {
        let cookie = exits.post(3, conduit, &REGS).unwrap();
        assert_eq!((cookie.vm(), cookie.vcpu()), (7, 3));
        assert_eq!(exits.post(3, conduit, &REGS), None, "it waits already");
        let exit = exits.deliver().unwrap();
        assert_eq!(
            exit,
            Exit::Call {
                cookie,
                vcpu: 3,
                conduit,
                regs: REGS
            }
        );
        assert_eq!(exit.kind(), kind);
        assert_eq!(exits.poll(3, None), None);
        assert!(!exits.is_over(3));
        assert_eq!(exits.answer(Cookie::new(cookie.get()), &allow()), Ok(3));
        assert!(exits.is_over(3));
        assert_eq!(
            exits.poll(3, Some(Cut::Deadline)),
            Some(End::Answered(allow())),
            "the answer was first"
        );
    }
    assert_eq!(exits.post(SLOTS, Conduit::Hvc, &REGS), None);
    assert_eq!(exits.poll(SLOTS, None), Some(End::Cancelled));
}

#[test]
fn late_repeated_forged_and_undelivered_answers_are_enxio() {
    let exits = Exits::new(1);
    let drop = |cookie: u64| assert_eq!(exits.answer(Cookie::new(cookie), &allow()), Err(Errno::NoDevice), "{cookie:#x}");
    drop(0);
    drop(u64::MAX);
    drop(1 << 56);
    let cookie = exits.post(2, Conduit::Hvc, &REGS).unwrap().get();
    drop(cookie);
    assert!(told(&exits).is_some());
    for bit in 0..64 {
        drop(cookie ^ 1 << bit);
    }
    assert_eq!(exits.answer(Cookie::new(cookie), &allow()), Ok(2));
    drop(cookie);
    assert_eq!(exits.poll(2, None), Some(End::Answered(allow())));
    drop(cookie);
    let late = exits.post(2, Conduit::Hvc, &REGS).unwrap().get();
    assert!(told(&exits).is_some());
    assert_eq!(exits.poll(2, Some(Cut::Deadline)), Some(End::Deadline));
    drop(late);
    let next = exits.post(2, Conduit::Hvc, &REGS).unwrap().get();
    assert!(told(&exits).is_some());
    drop(cookie);
    drop(late);
    assert_eq!(exits.answer(Cookie::new(next), &allow()), Ok(2));
}

#[test]
fn answers_from_before_a_reset_are_enxio() {
    let exits = Exits::new(1);
    let cookie = exits.post(0, Conduit::Hvc, &REGS).unwrap();
    assert!(told(&exits).is_some());
    let epoch = exits.epoch();
    exits.reset();
    assert_eq!(exits.epoch(), epoch + 1);
    assert_eq!(
        exits.answer(cookie, &allow()),
        Err(Errno::NoDevice),
        "even before the caller has noticed"
    );
    assert_eq!(exits.poll(0, Some(Cut::Reset)), Some(End::Cancelled));
    let after = exits.post(0, Conduit::Hvc, &REGS).unwrap();
    assert_eq!(exits.deliver(), Some(Exit::Reset), "the reset is told before what follows it");
    assert!(told(&exits).is_some());
    assert_eq!(exits.answer(cookie, &allow()), Err(Errno::NoDevice));
    assert_eq!(exits.answer(after, &allow()), Ok(0));
    assert_eq!(
        exits.poll(0, Some(Cut::Reset)),
        Some(End::Cancelled),
        "an answer is no use after a reset"
    );
    assert_eq!(exits.poll(0, None), Some(End::Cancelled), "nothing is posted");
}

#[test]
fn a_call_whose_deadline_passed_is_not_delivered() {
    let exits = Exits::new(1);
    assert!(exits.post(0, Conduit::Hvc, &REGS).is_some() && exits.post(5, Conduit::Hvc, &REGS).is_some());
    assert_eq!(exits.poll(0, Some(Cut::Deadline)), Some(End::Deadline));
    assert_eq!(told(&exits).map(|(vcpu, _)| vcpu), Some(5));
    assert!(!exits.any());
    assert_eq!(exits.deliver(), None);
}

#[test]
fn delivery_is_fair_among_the_vcpus() {
    let exits = Exits::new(1);
    let post = |vcpu| assert!(exits.post(vcpu, Conduit::Hvc, &REGS).is_some());
    let answer = |vcpu, cookie| {
        assert_eq!(exits.answer(cookie, &allow()), Ok(vcpu));
        assert_eq!(exits.poll(vcpu, None), Some(End::Answered(allow())));
    };
    [0, 1, 2, 15].into_iter().for_each(post);
    for expected in [0, 1, 2, 15, 0, 1, 2, 15] {
        let (vcpu, cookie) = told(&exits).unwrap();
        assert_eq!(vcpu, expected);
        answer(vcpu, cookie);
        post(vcpu);
    }
}

#[test]
fn an_end_is_told_once_and_last() {
    let exits = Exits::new(1);
    exits.ended(false);
    assert!(exits.post(4, Conduit::Hvc, &REGS).is_some());
    assert_eq!(told(&exits).map(|(vcpu, _)| vcpu), Some(4));
    assert_eq!(exits.deliver(), Some(Exit::Ended { crashed: false }));
    assert_eq!(exits.deliver(), None);
    exits.ended(true);
    assert_eq!(exits.deliver().map(|exit| exit.kind()), Some(hyp_abi::call::ExitKind::Ended));
}

/// What was started anew after its end is not said to have ended: that would be told last, and be wrong for ever.
#[test]
fn an_end_that_a_restart_overtook_is_not_told() {
    let exits = Exits::new(1);
    for crashed in [false, true] {
        exits.ended(crashed);
        exits.reset();
        assert!(exits.post(0, Conduit::Hvc, &REGS).is_some());
        assert_eq!(exits.deliver(), Some(Exit::Reset));
        assert!(told(&exits).is_some(), "it runs");
        assert_eq!(exits.deliver(), None);
        assert_eq!(exits.poll(0, Some(Cut::Reset)), Some(End::Cancelled));
    }
    exits.reset();
    exits.ended(true);
    assert_eq!(exits.deliver(), Some(Exit::Reset));
    assert_eq!(exits.deliver(), Some(Exit::Ended { crashed: true }), "the end came after it");
}
