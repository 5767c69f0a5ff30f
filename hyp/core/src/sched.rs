//! Whose turn it is on a pCPU that several vCPUs share.
//!
//! Time goes in rounds, of which each vCPU has a slice. Who is interrupted keeps what is left of its slice, and who has nothing left waits
//! until nobody who is ready has: then a new round begins. So nobody gets more by sleeping, waking or being kicked often, and who has run
//! little is not kept waiting by those who have run much. Within a round it is round robin: the look begins behind the vCPU that ran
//! last, and everyone is looked at, because their requests and deadlines do not wait for their turn.

use hyp_abi::layout::MAX_SHARING;

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

/// What a pCPU does that has one vCPU: [`Round::turn`], without a slice.
#[must_use]
pub const fn alone(says: Says) -> Turn {
    match says {
        Says::Ready => Turn::Run { index: 0, alarm: None },
        Says::Waits(until) => Turn::Sleep(until),
        Says::Busy => Turn::Again,
    }
}

/// What is left of the slices of a pCPU's vCPUs, by their places, in ticks.
#[derive(Clone, Debug)]
pub struct Round {
    left: [u64; MAX_SHARING],
}

impl Round {
    /// The last one is over.
    #[must_use]
    pub const fn new() -> Self {
        Self { left: [0; MAX_SHARING] }
    }

    /// The vCPU in place `index` had the pCPU for `ticks`.
    pub fn charge(&mut self, index: usize, ticks: u64) {
        if let Some(left) = self.left.get_mut(index) {
            *left = left.saturating_sub(ticks);
        }
    }

    /// Looks at each of `count` places once, the one behind `last` first, and decides. `now` is asked after the looks, which may have taken
    /// long: what was done for others is not of that vCPU's time. A `slice` is as many ticks, at least one.
    pub fn turn(&mut self, last: usize, count: usize, slice: u64, now: impl FnOnce() -> u64, mut look: impl FnMut(usize) -> Says) -> Turn {
        let (mut alarm, mut chosen, mut used_up, mut busy) = (None, None, None, false);
        for step in 1..=count {
            let after = last + step;
            let index = if after >= count { after - count } else { after };
            match look(index) {
                Says::Ready => match self.left.get(index) {
                    Some(&left) if left > 0 => chosen = chosen.or(Some((index, left))),
                    _ => used_up = used_up.or(Some(index)),
                },
                Says::Waits(until) => alarm = earlier(alarm, until),
                Says::Busy => busy = true,
            }
        }
        if chosen.is_none()
            && let Some(index) = used_up
        {
            self.left = [slice; MAX_SHARING];
            chosen = Some((index, slice));
        }
        match chosen {
            Some((index, left)) => Turn::Run {
                index,
                alarm: earlier(alarm, Some(now().saturating_add(left))),
            },
            None if busy => Turn::Again,
            None => Turn::Sleep(alarm),
        }
    }
}

impl Default for Round {
    fn default() -> Self {
        Self::new()
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

    /// The first turn of a round.
    fn turn(last: usize, count: usize, slice: u64, look: impl FnMut(usize) -> Says) -> Turn {
        Round::new().turn(last, count, slice, || 0, look)
    }

    #[test]
    fn alone_is_a_turn_among_one_without_a_slice() {
        assert_eq!(alone(Says::Ready), Turn::Run { index: 0, alarm: None });
        assert_eq!(turn(0, 1, 500, |_| Says::Ready), run(0, 500));
        for says in [Says::Busy, Says::Waits(None), Says::Waits(Some(7))] {
            assert_eq!(alone(says), turn(0, 1, 500, |_| says));
        }
    }

    const fn run(index: usize, alarm: u64) -> Turn {
        Turn::Run { index, alarm: Some(alarm) }
    }

    #[test]
    fn who_ran_last_comes_last() {
        let all_ready = |last| turn(last, 3, 500, |_| Says::Ready);
        assert_eq!(all_ready(0), run(1, 500));
        assert_eq!(all_ready(2), run(0, 500));
        let only_last = turn(1, 3, 500, |index| if index == 1 { Says::Ready } else { Says::Waits(None) });
        assert_eq!(only_last, run(1, 500));
    }

    #[test]
    fn nobody_to_run_is_sleep_and_work_besides_is_not() {
        assert_eq!(turn(0, 0, 500, |_| Says::Ready), Turn::Sleep(None));
        assert_eq!(
            turn(0, 2, 500, |index| Says::Waits((index == 1).then_some(7))),
            Turn::Sleep(Some(7))
        );
        assert_eq!(
            turn(0, 2, 500, |index| if index == 1 { Says::Busy } else { Says::Waits(Some(7)) }),
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
        assert_eq!(Round::new().turn(0, 3, 4, || clock.get(), look), run(1, 304));
    }

    #[test]
    fn who_is_interrupted_keeps_what_is_left_and_who_wakes_has_no_more_than_that() {
        let mut round = Round::new();
        let mut turn = |last, now, says: [Says; 2], charge: u64| {
            let decided = round.turn(last, 2, 100, || now, |index| says[index]);
            if let Turn::Run { index, .. } = decided {
                round.charge(index, charge);
            }
            decided
        };
        let asleep = Says::Waits(Some(90));
        // The first works for 80 and sleeps; the second runs until the first wakes.
        assert_eq!(turn(1, 0, [Says::Ready; 2], 80), run(0, 100));
        assert_eq!(turn(0, 80, [asleep, Says::Ready], 10), run(1, 90));
        // Awake again it has its 20, and then the second has its 90, however often the first wakes.
        assert_eq!(turn(1, 90, [Says::Ready; 2], 20), run(0, 110));
        assert_eq!(turn(0, 110, [asleep, Says::Ready], 30), run(1, 90));
        assert_eq!(turn(1, 140, [Says::Ready; 2], 60), run(1, 200));
        // Nobody has anything left: a new round.
        assert_eq!(turn(1, 200, [Says::Ready; 2], 0), run(0, 300));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

        /// Everyone is looked at exactly once, whoever is chosen; the chosen one is ready; no deadline of a waiting one is
        /// later than the alarm, and the alarm not later than the end of what is left to the chosen one.
        #[test]
        fn everyone_is_looked_at_once_and_no_deadline_is_lost(
            state in proptest::collection::vec(says(), 1..16),
            used in proptest::collection::vec(0u64..150, 16),
            last in 0usize..16,
            slice in 1u64..100,
        ) {
            let mut round = Round { left: [slice; MAX_SHARING] };
            used.iter().enumerate().for_each(|(index, used)| round.charge(index, *used));
            let last = last % state.len();
            let mut looks = vec![0; state.len()];
            let decided = round.turn(last, state.len(), slice, || 1000, |index| {
                looks[index] += 1;
                state[index]
            });
            prop_assert!(looks.iter().all(|looks| *looks == 1));
            let first = state.iter().filter_map(|says| if let Says::Waits(until) = says { *until } else { None }).min();
            match decided {
                Turn::Run { index, alarm } => {
                    prop_assert_eq!(state[index], Says::Ready);
                    let left = round.left[index];
                    prop_assert!((1..=slice).contains(&left));
                    prop_assert_eq!(alarm, earlier(first, Some(1000 + left)));
                }
                Turn::Sleep(alarm) => {
                    prop_assert_eq!(alarm, first);
                    prop_assert!(!state.contains(&Says::Ready) && !state.contains(&Says::Busy));
                }
                Turn::Again => prop_assert!(state.contains(&Says::Busy) && !state.contains(&Says::Ready)),
            }
        }

        /// A vCPU that stays ready has its share of the time, whatever the others do, and however often they have the pCPU look: while it
        /// runs and only then, while they run, or all the time.
        #[test]
        fn who_is_ready_has_its_share(
            turns in proptest::collection::vec((any::<u32>(), 1u64..30), if cfg!(miri) { 2..5 } else { 100..300 }),
            steady in 0usize..8,
            (its, theirs) in any::<(bool, bool)>(),
        ) {
            const SLICE: u64 = 100;
            let (mut round, mut last, mut now, mut ran) = (Round::new(), 0, 0u64, 0);
            for (states, until_interrupt) in &turns {
                let look = |index: usize| match states >> (4 * index) & 0xF {
                    _ if index == steady => Says::Ready,
                    0..6 => Says::Ready,
                    6 => Says::Busy,
                    7 => Says::Waits(None),
                    soon => Says::Waits(Some(now + 10 * u64::from(soon))),
                };
                let Turn::Run { index, alarm } = round.turn(last, 8, SLICE, || now, look) else {
                    prop_assert!(false, "somebody is ready");
                    continue;
                };
                // A moment that has passed rings at once.
                let interrupted = if index == steady { its } else { theirs };
                let until_interrupt = if interrupted { *until_interrupt } else { u64::MAX };
                let ticks = alarm.unwrap_or(u64::MAX).saturating_sub(now).clamp(1, until_interrupt);
                (last, now) = (index, now + ticks);
                round.charge(index, ticks);
                ran += if index == steady { ticks } else { 0 };
            }
            prop_assert!(8 * (ran + SLICE) >= now, "{} of {}", ran, now);
        }
    }
}
