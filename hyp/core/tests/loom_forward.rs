//! Claim, verdict, deadline and publication under the model checker, each with the exact set of its outcomes, and each
//! with variants of the same source in which one step is wrong: those stay, and must reach something else.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test -p hyp-core --release --test loom_forward`
//!
//! The model lets a load see an older store; it never lets a load see a store that comes later in its run. So the two
//! orderings that keep a read before another's next write (acquire in `psci::steps::claim`; release in
//! `forward::steps::deliver` with acquire in `answer` and `give_up`) have no variant here: they rest on the arguments
//! written beside them.
#![cfg(loom)]
#![allow(dead_code, unreachable_pub, reason = "a variant uses part of the source that it includes")]
#![allow(clippy::duplicate_mod, reason = "each variant includes the same source")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

/// The included sources' `crate::sync`.
mod sync {
    pub(crate) use hyp_core::sync::*;
}

/// Every outcome that a scenario reached.
type Seen<T> = BTreeSet<T>;

/// How often a thread may be interrupted in one run: without limit for two threads, three times for more. Two are not
/// enough for each outcome below, and the sets are exact, so `LOOM_MAX_PREEMPTIONS` does not count here.
#[derive(Clone, Copy)]
enum Threads {
    Two,
    More,
}

/// Runs `scenario` in every way that the model allows and collects its outcomes.
fn explore<T: Ord + Debug + Send + 'static>(threads: Threads, scenario: impl Fn() -> T + Send + Sync + 'static) -> Seen<T> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = match threads {
        Threads::Two => None,
        Threads::More => Some(3),
    };
    model.check({
        let seen = Arc::clone(&seen);
        move || {
            let outcome = scenario();
            seen.lock().expect("no scenario panics here").insert(outcome);
        }
    });
    let mut seen = seen.lock().expect("no scenario panics here");
    std::mem::take(&mut *seen)
}

#[path = "../src/psci/steps.rs"]
mod power_steps;

#[path = "../src/forward/steps.rs"]
mod exit_steps;

/// The power state's source with the steps given here in the place of the right ones.
macro_rules! power_with {
    ($name:ident { $($step:item)* }) => {
        #[path = "."]
        mod $name {
            mod steps {
                #[allow(unused_imports, reason = "as far as the variant needs them")]
                use crate::sync::{AtomicU64, Ordering};
                pub(crate) use crate::power_steps::*;
                $($step)*
            }
            #[path = "../src/psci/power.rs"]
            pub(crate) mod power;
            #[path = "loom_forward/power_scenarios.rs"]
            pub(crate) mod scenarios;
        }
    };
}

/// The exits' source with the steps given here in the place of the right ones.
macro_rules! exits_with {
    ($name:ident { $($step:item)* }) => {
        #[path = "."]
        mod $name {
            mod steps {
                #[allow(unused_imports, reason = "as far as the variant needs them")]
                use crate::sync::{AtomicU64, Ordering};
                pub(crate) use crate::exit_steps::*;
                $($step)*
            }
            #[path = "../src/forward/exits.rs"]
            pub(crate) mod exits;
            #[path = "loom_forward/exit_scenarios.rs"]
            pub(crate) mod scenarios;
        }
    };
}

power_with!(right_power {});

mod power_races {
    use super::right_power::power::{Refused, State};
    use super::right_power::scenarios::*;
    use std::collections::BTreeSet;

    #[test]
    fn of_three_callers_exactly_one_wins_and_the_others_see_on_pending() {
        assert_eq!(forwarded_claims(), BTreeSet::from([(1, 2, 0)]));
    }

    #[test]
    fn of_three_callers_exactly_one_wins_and_the_others_see_already_on_when_hyp_decides() {
        assert_eq!(handled_claims(), BTreeSet::from([(1, 0, 2)]));
    }

    #[test]
    fn the_target_starts_once_with_the_winners_entry_and_context() {
        let expected = [1, 2].into_iter().flat_map(|winner| {
            let theirs = Some((winner, 10 * winner));
            [(vec![winner], theirs, None), (vec![winner], None, theirs)]
        });
        assert_eq!(starts(), expected.collect());
    }

    #[test]
    fn who_sees_off_sees_the_vcpus_last_stores() {
        let expected = [(State::On, None), (State::OffPending, None), (State::Off, Some(1))];
        assert_eq!(last_stores(), BTreeSet::from(expected));
    }

    #[test]
    fn cpu_on_of_a_vcpu_on_its_way_to_off_is_already_on_until_it_is_off() {
        assert_eq!(
            off_and_on(),
            BTreeSet::from([(Ok(()), Some((2, 20))), (Err(Refused::AlreadyOn), None)])
        );
    }

    #[test]
    fn a_loser_sees_on_pending_until_the_verdict() {
        assert_eq!(
            second_caller(true),
            BTreeSet::from([Err(Refused::OnPending), Err(Refused::AlreadyOn)])
        );
        assert_eq!(second_caller(false), BTreeSet::from([Err(Refused::OnPending), Ok(())]));
    }

    #[test]
    fn a_claim_from_before_a_reset_does_nothing() {
        assert_eq!(stale_rollback(), BTreeSet::from([State::OnPending]));
    }
}

// Xen's and Jailhouse's bug: the state is tested, then set.
power_with!(test_then_set {
    pub(crate) fn claim(word: &AtomicU64, off: u64, next: u64) -> Result<(), u64> {
        match word.load(Ordering::SeqCst) {
            found if found == off => {
                word.store(next, Ordering::SeqCst);
                Ok(())
            }
            found => Err(found),
        }
    }
});

#[test]
fn a_claim_in_two_steps_is_caught() {
    assert!(test_then_set::scenarios::forwarded_claims().contains(&(3, 0, 0)));
    assert!(test_then_set::scenarios::handled_claims().contains(&(2, 0, 1)));
    let starts = test_then_set::scenarios::starts();
    assert!(starts.iter().any(|(won, ..)| won.len() == 2), "two callers got SUCCESS: {starts:?}");
}

// The claim itself says that a start is there, before entry and context are.
power_with!(announced_early {
    pub(crate) fn claim(word: &AtomicU64, off: u64, next: u64) -> Result<(), u64> {
        crate::power_steps::claim(word, off, next | 1 << 2)
    }
});

#[test]
fn a_start_announced_before_it_is_written_is_caught() {
    let starts = announced_early::scenarios::starts();
    assert!(starts.iter().any(|(_, early, _)| *early == Some((0, 0))), "{starts:?}");
}

power_with!(settle_without_release {
    pub(crate) fn settle(word: &AtomicU64, from: u64, to: u64) -> bool {
        word.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
});

#[test]
fn a_start_without_release_is_caught() {
    let starts = settle_without_release::scenarios::starts();
    assert!(starts.iter().any(|(_, early, _)| *early == Some((0, 0))), "{starts:?}");
    assert!(settle_without_release::scenarios::last_stores().contains(&(settle_without_release::power::State::Off, Some(0))));
}

power_with!(peek_without_acquire {
    pub(crate) fn peek(word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }
});

#[test]
fn a_look_without_acquire_is_caught() {
    let starts = peek_without_acquire::scenarios::starts();
    assert!(starts.iter().any(|(_, early, _)| *early == Some((0, 0))), "{starts:?}");
    assert!(peek_without_acquire::scenarios::last_stores().contains(&(peek_without_acquire::power::State::Off, Some(0))));
}

power_with!(settle_without_check {
    pub(crate) fn settle(word: &AtomicU64, _from: u64, to: u64) -> bool {
        word.store(to, Ordering::Release);
        true
    }
});

#[test]
fn a_rollback_that_does_not_look_is_caught() {
    assert_eq!(
        settle_without_check::scenarios::stale_rollback(),
        BTreeSet::from([settle_without_check::power::State::Off])
    );
}

exits_with!(right_exits {});

mod exit_races {
    use super::right_exits::scenarios::*;
    use std::collections::BTreeSet;

    #[test]
    fn verdict_and_deadline_never_both_win_and_nothing_is_torn() {
        assert_eq!(verdict_or_deadline(), BTreeSet::from([(false, Ended::Late), (true, Ended::Whole)]));
    }

    #[test]
    fn a_call_is_told_whole_or_not_at_all() {
        let expected = [
            (None, false, Ended::Late),
            (Some(true), false, Ended::Late),
            (Some(true), true, Ended::Whole),
        ];
        assert_eq!(delivery_or_deadline(), BTreeSet::from(expected));
    }

    #[test]
    fn a_late_answer_never_reaches_the_next_call() {
        let expected = [(Ended::Whole, false), (Ended::Late, false), (Ended::Cancelled, false)];
        assert_eq!(late_answer(), BTreeSet::from(expected));
    }

    #[test]
    fn of_two_answers_one_is_taken_whole() {
        assert_eq!(
            two_answers(),
            BTreeSet::from([(true, false, Ended::Whole), (false, true, Ended::Other)])
        );
    }

    #[test]
    fn an_end_that_comes_after_a_reset_is_told_after_it() {
        const ENDED: u8 = hyp_abi::call::ExitKind::Ended as u8;
        const RESET: u8 = hyp_abi::call::ExitKind::Reset as u8;
        let expected = [vec![ENDED, RESET, ENDED], vec![RESET, ENDED]];
        assert_eq!(end_after_reset(), BTreeSet::from(expected));
    }

    #[test]
    fn a_posted_call_is_told_once() {
        assert_eq!(delivery(), BTreeSet::from([Told::Early, Told::Later]));
    }

    #[test]
    fn a_reset_drops_the_answer_whether_it_was_taken_or_not() {
        assert_eq!(reset(), BTreeSet::from([(true, Ended::Cancelled), (false, Ended::Cancelled)]));
    }
}

exits_with!(answer_in_two_steps {
    pub(crate) fn answer(word: &AtomicU64, delivered: u64, answering: u64) -> bool {
        word.load(Ordering::SeqCst) == delivered && {
            word.store(answering, Ordering::SeqCst);
            true
        }
    }
});

#[test]
fn an_answer_in_two_steps_is_caught() {
    use answer_in_two_steps::scenarios::{Ended, two_answers, verdict_or_deadline};
    let seen = verdict_or_deadline();
    assert!(seen.contains(&(true, Ended::Late)), "{seen:?}");
    let seen = two_answers();
    assert!(seen.iter().any(|&(one, two, _)| one && two), "{seen:?}");
}

exits_with!(deadline_in_two_steps {
    pub(crate) fn give_up(word: &AtomicU64, outstanding: u64, to: u64) -> bool {
        word.load(Ordering::SeqCst) == outstanding && {
            word.store(to, Ordering::SeqCst);
            true
        }
    }
});

#[test]
fn a_deadline_in_two_steps_is_caught() {
    let seen = deadline_in_two_steps::scenarios::verdict_or_deadline();
    assert!(seen.contains(&(true, deadline_in_two_steps::scenarios::Ended::Late)), "{seen:?}");
}

exits_with!(publish_without_release {
    pub(crate) fn publish(word: &AtomicU64, to: u64) {
        word.store(to, Ordering::Relaxed);
    }
});

#[test]
fn an_answer_without_release_is_caught() {
    use publish_without_release::scenarios::{Ended, verdict_or_deadline};
    let seen = verdict_or_deadline();
    assert!(seen.contains(&(true, Ended::Torn)), "{seen:?}");
}

exits_with!(peek_of_a_call_without_acquire {
    pub(crate) fn peek(word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }
});

#[test]
fn a_look_at_an_answer_without_acquire_is_caught() {
    use peek_of_a_call_without_acquire::scenarios::{Ended, verdict_or_deadline};
    let seen = verdict_or_deadline();
    assert!(seen.contains(&(true, Ended::Torn)), "{seen:?}");
}

// The cookie is not compared: whatever call is delivered now is the one that is answered.
exits_with!(any_cookie {
    pub(crate) fn answer(word: &AtomicU64, delivered: u64, answering: u64) -> bool {
        let found = word.load(Ordering::Acquire);
        found & 0xF == delivered & 0xF && crate::exit_steps::answer(word, found, answering)
    }
});

#[test]
fn an_answer_that_ignores_its_cookie_is_caught() {
    use any_cookie::scenarios::{Ended, late_answer};
    let seen = late_answer();
    assert!(seen.contains(&(Ended::Other, false)), "{seen:?}");
}

exits_with!(raise_without_release {
    pub(crate) fn raise(waiting: &AtomicU64, bits: u64) {
        waiting.fetch_or(bits, Ordering::Relaxed);
    }
});

#[test]
fn a_bit_raised_without_release_is_caught() {
    use raise_without_release::scenarios::{Told, delivery};
    assert!(delivery().contains(&Told::Lost));
}

// The host reads the bits and writes them back without the one that it takes.
exits_with!(lower_in_two_steps {
    pub(crate) fn lower(waiting: &AtomicU64, bits: u64) -> u64 {
        let found = waiting.load(Ordering::SeqCst);
        waiting.store(found & !bits, Ordering::SeqCst);
        found & bits
    }
    pub(crate) fn deliver(word: &AtomicU64, _posted: u64, delivered: u64) -> bool {
        word.store(delivered, Ordering::SeqCst);
        true
    }
});

#[test]
fn a_delivery_in_two_steps_is_caught() {
    use lower_in_two_steps::scenarios::{Told, delivery};
    assert!(delivery().contains(&Told::Twice));
}

mod whole_call {
    use super::{Seen, Threads, explore};
    use hyp_abi::call::Verdict;
    use hyp_abi::psci::PsciError;
    use hyp_abi::smccc::Conduit;
    use hyp_core::forward::{Answer, Cut, Exit, Exits, Resolution, Waiting};
    use hyp_core::psci::{CpuOn, Forwarded, Power, Start, State};
    use loom::sync::Arc;
    use loom::thread;
    use std::collections::BTreeSet;

    struct Vm {
        power: [Power; 1],
        exits: Exits,
    }

    /// What one caller got in `x0`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Got {
        Success,
        Failure,
        OnPending,
        AlreadyOn,
        Unknown,
    }

    fn cpu_on(vm: &Vm, caller: usize) -> Got {
        let start = Start {
            entry: caller as u64 + 1,
            context: 10 * (caller as u64 + 1),
            big_endian: false,
        };
        let got = match Waiting::begin(Forwarded::CpuOn(CpuOn { target: 0, start }), &vm.power) {
            Err(refused) => refused.to_ret(true),
            Ok(waiting) => {
                vm.exits.post(caller, Conduit::Hvc, &[0; 4]).expect("the slot is free");
                let end = loop {
                    match vm.exits.poll(caller, Some(Cut::Deadline)) {
                        Some(end) => break end,
                        None => thread::yield_now(),
                    }
                };
                match waiting.end(&end, &vm.power) {
                    Resolution::Started(0) => 0,
                    Resolution::Return(x0) => x0,
                    _ => 1,
                }
            }
        };
        match got {
            0 => Got::Success,
            got if got == PsciError::InternalFailure.to_ret() => Got::Failure,
            got if got == PsciError::OnPending.to_ret() => Got::OnPending,
            got if got == PsciError::AlreadyOn.to_ret() => Got::AlreadyOn,
            _ => Got::Unknown,
        }
    }

    /// Two callers race for one target while the host allows one call and a deadline is near: what each got, the target's
    /// state, and where it starts.
    fn race() -> Seen<(Got, Got, State, Option<u64>)> {
        explore(Threads::More, || {
            let vm = Arc::new(Vm {
                power: [Power::new()],
                exits: Exits::new(1),
            });
            let callers = [0, 1].map(|caller| {
                let vm = Arc::clone(&vm);
                thread::spawn(move || cpu_on(&vm, caller))
            });
            if let Some(Exit::Call { cookie, .. }) = vm.exits.deliver() {
                let _ = vm.exits.answer(
                    cookie,
                    &Answer {
                        verdict: Verdict::Allow,
                        values: [0; 4],
                    },
                );
            }
            let [one, two] = callers.map(|caller| caller.join().expect("a caller"));
            let start = vm.power[0].take_start();
            assert!(start.is_none_or(|start| start.context == 10 * start.entry));
            (one, two, vm.power[0].state(), start.map(|start| start.entry))
        })
    }

    #[test]
    fn a_success_is_a_start_with_that_callers_entry_and_nothing_else_is() {
        use Got::{AlreadyOn, Failure, OnPending, Success};
        let mut expected = BTreeSet::from([(Failure, Failure, State::Off, None)]);
        for other in [OnPending, AlreadyOn, Failure] {
            expected.insert((Success, other, State::On, Some(1)));
            expected.insert((other, Success, State::On, Some(2)));
        }
        expected.insert((Failure, OnPending, State::Off, None));
        expected.insert((OnPending, Failure, State::Off, None));
        assert_eq!(race(), expected);
    }
}
