//! Whose turn it is on a pCPU that several vCPUs share.
//!
//! Round robin: the look begins behind the vCPU that ran last, the first one that is ready runs, and everyone else is looked
//! at once too, because their requests and deadlines do not wait for their turn.

/// What a vCPU says when it is looked at. Times are in ticks of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It can run.
    Ready,
    /// It has nothing to do until something wakes it, or until this moment.
    Waits(Option<u64>),
    /// It has work for its pCPU besides guest code, after the others have had their turn.
    Busy,
}

/// What the pCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The vCPU in place `index` runs, until `alarm` at the latest if there is one.
    Run {
        /// Its place.
        index: usize,
        /// When the pCPU looks again.
        alarm: Option<u64>,
    },
    /// Nobody is ready: the pCPU sleeps until something wakes it, or until this moment.
    Sleep(Option<u64>),
    /// Nobody is ready, and somebody is busy: the pCPU looks again at once.
    Again,
}

/// The earlier of two moments.
#[must_use]
pub const fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a < b { a } else { b }),
        (Some(_), None) => a,
        (None, _) => b,
    }
}

/// What a pCPU does that has one vCPU: [`turn`], without a slice.
#[must_use]
pub const fn alone(says: Says) -> Turn {
    match says {
        Says::Ready => Turn::Run { index: 0, alarm: None },
        Says::Waits(until) => Turn::Sleep(until),
        Says::Busy => Turn::Again,
    }
}

/// Looks at each of `count` places once, the one behind `last` first, and decides. `slice_end` says when a vCPU that is not
/// alone must give up its turn; it is asked after the looks, which may have taken long: what was done for others is not of
/// that vCPU's time.
pub fn turn(last: usize, count: usize, slice_end: impl FnOnce() -> u64, mut look: impl FnMut(usize) -> Says) -> Turn {
    let (mut alarm, mut chosen, mut busy) = (None, None, false);
    for step in 1..=count {
        let after = last + step;
        let index = if after >= count { after - count } else { after };
        match look(index) {
            Says::Ready if chosen.is_none() => chosen = Some(index),
            Says::Ready => {}
            Says::Waits(until) => alarm = earlier(alarm, until),
            Says::Busy => busy = true,
        }
    }
    match chosen {
        Some(index) if count > 1 => Turn::Run {
            index,
            alarm: earlier(alarm, Some(slice_end())),
        },
        Some(index) => Turn::Run { index, alarm },
        None if busy => Turn::Again,
        None => Turn::Sleep(alarm),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn says() -> impl Strategy<Value = Says> {
        prop_oneof![
            Just(Says::Ready),
            Just(Says::Busy),
            Just(Says::Waits(None)),
            (0u64..2000).prop_map(|until| Says::Waits(Some(until))),
        ]
    }

    #[test]
    fn a_vcpu_that_is_alone_has_no_slice() {
        assert_eq!(turn(0, 1, || 500, |_| Says::Ready), Turn::Run { index: 0, alarm: None });
    }

    #[test]
    fn alone_is_a_turn_among_one() {
        for says in [Says::Ready, Says::Busy, Says::Waits(None), Says::Waits(Some(7))] {
            assert_eq!(alone(says), turn(0, 1, || 500, |_| says));
        }
    }

    #[test]
    fn who_ran_last_comes_last() {
        let all_ready = |last| turn(last, 3, || 500, |_| Says::Ready);
        assert_eq!(
            all_ready(0),
            Turn::Run {
                index: 1,
                alarm: Some(500)
            }
        );
        assert_eq!(
            all_ready(2),
            Turn::Run {
                index: 0,
                alarm: Some(500)
            }
        );
        let only_last = turn(1, 3, || 500, |index| if index == 1 { Says::Ready } else { Says::Waits(None) });
        assert_eq!(
            only_last,
            Turn::Run {
                index: 1,
                alarm: Some(500)
            }
        );
    }

    #[test]
    fn nobody_to_run_is_sleep_and_work_besides_is_not() {
        assert_eq!(turn(0, 0, || 500, |_| Says::Ready), Turn::Sleep(None));
        assert_eq!(
            turn(0, 2, || 500, |index| Says::Waits((index == 1).then_some(7))),
            Turn::Sleep(Some(7))
        );
        assert_eq!(
            turn(0, 2, || 500, |index| if index == 1 { Says::Busy } else { Says::Waits(Some(7)) }),
            Turn::Again
        );
    }

    #[test]
    fn a_slice_begins_when_all_have_been_looked_at() {
        let clock = core::cell::Cell::new(0);
        let look = |index| {
            clock.set(clock.get() + 100);
            if index == 1 { Says::Ready } else { Says::Busy }
        };
        assert_eq!(
            turn(0, 3, || clock.get() + 4, look),
            Turn::Run {
                index: 1,
                alarm: Some(304)
            }
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, ..ProptestConfig::default() })]

        /// Everyone is looked at exactly once, whoever is chosen; the chosen one is ready; no deadline of a waiting one is
        /// later than the alarm.
        #[test]
        fn everyone_is_looked_at_once_and_no_deadline_is_lost(
            state in proptest::collection::vec(says(), 1..16),
            last in 0usize..16,
            slice in 0u64..2000,
        ) {
            let last = last % state.len();
            let mut looks = vec![0; state.len()];
            let decided = turn(last, state.len(), || slice, |index| {
                looks[index] += 1;
                state[index]
            });
            prop_assert!(looks.iter().all(|looks| *looks == 1));
            let first = state.iter().filter_map(|says| if let Says::Waits(until) = says { *until } else { None }).min();
            match decided {
                Turn::Run { index, alarm } => {
                    prop_assert_eq!(state[index], Says::Ready);
                    let bound = if state.len() > 1 { earlier(first, Some(slice)) } else { first };
                    prop_assert_eq!(alarm, bound);
                }
                Turn::Sleep(alarm) => {
                    prop_assert_eq!(alarm, first);
                    prop_assert!(!state.contains(&Says::Ready) && !state.contains(&Says::Busy));
                }
                Turn::Again => prop_assert!(state.contains(&Says::Busy) && !state.contains(&Says::Ready)),
            }
        }

        /// A vCPU that stays ready runs within as many turns as the pCPU has vCPUs, whatever the others do.
        #[test]
        fn nobody_who_is_ready_starves(
            rounds in proptest::collection::vec(proptest::collection::vec(says(), 8), 8),
            steady in 0usize..8,
            last in 0usize..8,
        ) {
            let mut last = last;
            let mut ran = false;
            for state in &rounds {
                if let Turn::Run { index, .. } = turn(last, 8, || 1, |index| if index == steady { Says::Ready } else { state[index] }) {
                    last = index;
                    ran |= index == steady;
                }
            }
            prop_assert!(ran);
        }
    }
}
