//! What may happen to a forwarded call between its caller and the host. Each function runs one scenario under the model
//! and returns every outcome that it reached.

use super::exits::{Answer, Cookie, Cut, End, Exit, Exits};
use crate::{Seen, Threads, explore};
use hyp_abi::call::Verdict;
use hyp_abi::smccc::Conduit;
use loom::sync::Arc;
use loom::thread;

const CALL: [u64; 4] = [1, 2, 3, 4];
const NEXT_CALL: [u64; 4] = [5, 6, 7, 8];
const ANSWER: [u64; 4] = [11, 12, 13, 14];
const OTHER_ANSWER: [u64; 4] = [21, 22, 23, 24];

/// How a wait ended, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    /// Answered, with the right values.
    Whole,
    /// Answered, with the values of the other answer.
    Other,
    /// Answered, with values that nobody gave.
    Torn,
    /// By the deadline.
    Late,
    /// By a reset.
    Cancelled,
}

fn ended(end: &End) -> Ended {
    match end {
        End::Answered(Answer { values: ANSWER, .. }) => Ended::Whole,
        End::Answered(Answer { values: OTHER_ANSWER, .. }) => Ended::Other,
        End::Answered(_) => Ended::Torn,
        End::Deadline => Ended::Late,
        End::Cancelled => Ended::Cancelled,
    }
}

/// Polls until the wait ends. The model leaves a thread that yields aside until another has run, and so misses outcomes:
/// the first polls do not.
fn wait(exits: &Exits, vcpu: usize, cut: Option<Cut>) -> End {
    let mut polls = 0;
    loop {
        if let Some(end) = exits.poll(vcpu, cut) {
            return end;
        }
        polls += 1;
        if polls > 2 {
            thread::yield_now();
        }
    }
}

fn deliver(exits: &Exits) -> Option<(Cookie, [u64; 4])> {
    match exits.deliver() {
        Some(Exit::Call { cookie, regs, .. }) => Some((cookie, regs)),
        _ => None,
    }
}

fn values(values: [u64; 4]) -> Answer {
    Answer { verdict: Verdict::Values, values }
}

/// The host answers while the deadline passes: whether its answer was taken, and how the wait ended.
pub(crate) fn verdict_or_deadline() -> Seen<(bool, Ended)> {
    explore(Threads::Two, || {
        let exits = Arc::new(Exits::new(1));
        let cookie = exits.post(0, Conduit::Hvc, &CALL).expect("the slot is free");
        deliver(&exits).expect("it was posted");
        let waiter = thread::spawn({
            let exits = Arc::clone(&exits);
            move || ended(&wait(&exits, 0, Some(Cut::Deadline)))
        });
        let taken = exits.answer(cookie, &values(ANSWER)).is_ok();
        (taken, waiter.join().expect("the waiter"))
    })
}

/// The host is told of a call while its deadline passes, and answers it: whether it got the call, and got it whole,
/// whether its answer was taken, and how the wait ended.
pub(crate) fn delivery_or_deadline() -> Seen<(Option<bool>, bool, Ended)> {
    explore(Threads::Two, || {
        let exits = Arc::new(Exits::new(1));
        let host = thread::spawn({
            let exits = Arc::clone(&exits);
            move || {
                let told = deliver(&exits);
                let taken = told.is_some_and(|(cookie, _)| exits.answer(cookie, &values(ANSWER)).is_ok());
                (told.map(|(_, regs)| regs == CALL), taken)
            }
        });
        exits.post(0, Conduit::Hvc, &CALL).expect("the slot is free");
        let end = ended(&wait(&exits, 0, Some(Cut::Deadline)));
        let (whole, taken) = host.join().expect("the host");
        (whole, taken, end)
    })
}

/// A caller's deadline passes and it calls again, while two of the host's vCPUs each deliver and answer what they find,
/// the first's answer being meant for the first call only: how the second call ended, and whether any call was delivered
/// with the registers of another.
pub(crate) fn late_answer() -> Seen<(Ended, bool)> {
    explore(Threads::More, || {
        let exits = Arc::new(Exits::new(1));
        let first = exits.post(0, Conduit::Hvc, &CALL).expect("the slot is free");
        let (told, _) = deliver(&exits).expect("it was posted");
        assert_eq!(told, first);
        let waiter = thread::spawn({
            let exits = Arc::clone(&exits);
            move || {
                if wait(&exits, 0, Some(Cut::Deadline)) != End::Deadline {
                    return None;
                }
                exits.post(0, Conduit::Smc, &NEXT_CALL).expect("the slot is free");
                let end = exits.poll(0, None).unwrap_or_else(|| wait(&exits, 0, Some(Cut::Deadline)));
                Some(ended(&end))
            }
        });
        let answerer = thread::spawn({
            let exits = Arc::clone(&exits);
            move || exits.answer(first, &values(OTHER_ANSWER)).is_ok()
        });
        let mixed = match deliver(&exits) {
            Some((cookie, regs)) => {
                let _ = exits.answer(cookie, &values(ANSWER));
                regs != NEXT_CALL
            }
            None => false,
        };
        let taken = answerer.join().expect("the answerer");
        let second = waiter.join().expect("the waiter");
        // The first call was answered in time: that is another scenario's.
        (if taken && second.is_none() { Ended::Cancelled } else { second.unwrap_or(Ended::Torn) }, mixed)
    })
}

/// Two of the host's vCPUs answer one call: whether each was taken, and what the caller got.
pub(crate) fn two_answers() -> Seen<(bool, bool, Ended)> {
    explore(Threads::Two, || {
        let exits = Arc::new(Exits::new(1));
        let cookie = exits.post(0, Conduit::Hvc, &CALL).expect("the slot is free");
        deliver(&exits).expect("it was posted");
        let other = thread::spawn({
            let exits = Arc::clone(&exits);
            move || exits.answer(cookie, &values(OTHER_ANSWER)).is_ok()
        });
        let one = exits.answer(cookie, &values(ANSWER)).is_ok();
        let two = other.join().expect("the other");
        (one, two, ended(&wait(&exits, 0, None)))
    })
}

/// When the host was told of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    /// While it was being posted.
    Early,
    /// When it looked again.
    Later,
    /// Never.
    Lost,
    /// More than once.
    Twice,
}

/// A vCPU posts, after a call whose deadline passed untold, while two of the host's look: when they were told.
pub(crate) fn delivery() -> Seen<Told> {
    explore(Threads::More, || {
        let exits = Arc::new(Exits::new(1));
        exits.post(1, Conduit::Hvc, &NEXT_CALL).expect("the slot is free");
        assert_eq!(exits.poll(1, Some(Cut::Deadline)), Some(End::Deadline));
        let poster = thread::spawn({
            let exits = Arc::clone(&exits);
            move || exits.post(1, Conduit::Smc, &CALL).expect("the slot is free")
        });
        let other = thread::spawn({
            let exits = Arc::clone(&exits);
            move || deliver(&exits)
        });
        let early = [deliver(&exits), other.join().expect("the other")];
        poster.join().expect("the poster");
        match (early.iter().flatten().count(), deliver(&exits)) {
            (0, None) => Told::Lost,
            (0, Some(_)) => Told::Later,
            (1, None) => Told::Early,
            _ => Told::Twice,
        }
    })
}

/// A VM is reset while the host answers a call from before: whether the answer was taken, and how the wait ended. The
/// caller's pCPU sees the reset first, as it must.
pub(crate) fn reset() -> Seen<(bool, Ended)> {
    explore(Threads::Two, || {
        let exits = Arc::new(Exits::new(1));
        let cookie = exits.post(0, Conduit::Hvc, &CALL).expect("the slot is free");
        deliver(&exits).expect("it was posted");
        let waiter = thread::spawn({
            let exits = Arc::clone(&exits);
            move || {
                let end = wait(&exits, 0, Some(Cut::Reset));
                exits.reset();
                ended(&end)
            }
        });
        let taken = exits.answer(cookie, &values(ANSWER)).is_ok();
        let end = waiter.join().expect("the waiter");
        assert!(exits.answer(cookie, &values(ANSWER)).is_err(), "a cookie from before the reset");
        (taken, end)
    })
}

/// A VM that has ended is started anew and ends again while the host looks: the kinds of what the host was told, in this order.
pub(crate) fn end_after_reset() -> Seen<Vec<u8>> {
    explore(Threads::Two, || {
        let exits = Arc::new(Exits::new(1));
        exits.ended(false);
        let vm = thread::spawn({
            let exits = Arc::clone(&exits);
            move || {
                exits.reset();
                exits.ended(false);
            }
        });
        let mut told: Vec<_> = exits.deliver().iter().map(|exit| exit.kind() as u8).collect();
        vm.join().expect("the VM");
        told.extend(std::iter::from_fn(|| exits.deliver()).map(|exit| exit.kind() as u8));
        told
    })
}
