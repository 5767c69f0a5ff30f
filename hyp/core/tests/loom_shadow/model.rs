//! The models. Each runs the code beside it, whichever variant that is, and collects the outcomes. One that is not among the `good`
//! ones ends it.

use super::page::ShadowSlot;
use super::ready::Ready;
use super::request::{Request, Withdrawn};
use super::ticket::Kick;
use super::wait::wait;
use super::writer::{Flags, Sample, ShadowWriter};
use crate::model_types::{Answer, Outcomes};
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use std::fmt::Debug;
use std::sync::{Arc as StdArc, Mutex, PoisonError};

/// A reset value of `ICC_CTLR_EL1`.
pub(crate) const TEMPLATE: u64 = 0x8c00;

/// Every outcome of `run`.
fn explore<T>(good: &'static [T], preemptions: Option<usize>, run: impl Fn() -> T + Send + Sync + 'static) -> Outcomes<T>
where
    T: Copy + Debug + Ord + Send + Sync + 'static,
{
    let reached = StdArc::new(Mutex::new(Outcomes::new()));
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions.or(builder.preemption_bound);
    builder.check({
        let reached = StdArc::clone(&reached);
        move || {
            let outcome = run();
            assert!(good.contains(&outcome), "a bad outcome: {outcome:?}");
            reached.lock().unwrap_or_else(PoisonError::into_inner).insert(outcome);
        }
    });
    std::mem::take(&mut *reached.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A sample all of whose words are `n`.
fn sample(n: u64) -> Sample {
    Sample {
        ctlr: n,
        vmcr: n,
        pmr: n,
        stamp: n,
        ..Sample::default()
    }
}

/// Two publications, one attempt to read.
pub(crate) fn records(good: &'static [Option<[u64; 5]>]) -> Outcomes<Option<[u64; 5]>> {
    explore(good, None, || {
        let slot = Arc::new(ShadowSlot::new());
        let reader = thread::spawn({
            let slot = Arc::clone(&slot);
            move || slot.try_read().map(|record| record.words())
        });
        let mut writer = ShadowWriter::new();
        writer.publish(&slot, &sample(1), Flags::default());
        writer.publish(&slot, &sample(2), Flags::default());
        reader.join().expect("the reader")
    })
}

/// One publication and the way into the guest; the word is read, then the record.
pub(crate) fn words(good: &'static [(u64, bool, Option<u64>)]) -> Outcomes<(u64, bool, Option<u64>)> {
    explore(good, None, || {
        let slot = Arc::new(ShadowSlot::new());
        let reader = thread::spawn({
            let slot = Arc::clone(&slot);
            move || {
                let word = slot.word();
                (
                    word.generation(),
                    word.in_guest(),
                    slot.try_read().map(|record| record.generation()),
                )
            }
        });
        let mut writer = ShadowWriter::new();
        writer.publish(&slot, &sample(1), Flags::default());
        writer.enter(&slot);
        reader.join().expect("the reader")
    })
}

/// One publication of a vCPU that goes on, and then waits; the word is read, then the record.
pub(crate) fn rests(good: &'static [(u64, bool, Option<u64>)]) -> Outcomes<(u64, bool, Option<u64>)> {
    explore(good, None, || {
        let slot = Arc::new(ShadowSlot::new());
        let reader = thread::spawn({
            let slot = Arc::clone(&slot);
            move || {
                let word = slot.word();
                (
                    word.generation(),
                    word.in_guest(),
                    slot.try_read().map(|record| record.generation()),
                )
            }
        });
        let mut writer = ShadowWriter::new();
        let flags = Flags {
            in_guest: true,
            trapped: false,
        };
        writer.publish(&slot, &sample(1), flags);
        writer.rest(&slot);
        reader.join().expect("the reader")
    })
}

/// The VM's ready flag guards the template and the word.
pub(crate) fn ready(good: &'static [Option<[u64; 2]>]) -> Outcomes<Option<[u64; 2]>> {
    explore(good, None, || {
        let shared = Arc::new((ShadowSlot::new(), Ready::new()));
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.1.is_ready().then(|| [shared.0.template(), shared.0.word().ctlr()])
        });
        ShadowWriter::new().set_template(&shared.0, &sample(TEMPLATE));
        shared.1.publish();
        reader.join().expect("the reader")
    })
}

/// The word's ready flag guards the template, for the host.
pub(crate) fn ready_word(good: &'static [Option<u64>]) -> Outcomes<Option<u64>> {
    explore(good, None, || {
        let slot = Arc::new(ShadowSlot::new());
        let reader = thread::spawn({
            let slot = Arc::clone(&slot);
            move || slot.word().ready().then(|| slot.template())
        });
        let mut writer = ShadowWriter::new();
        writer.set_template(&slot, &sample(TEMPLATE));
        writer.mark_ready(&slot);
        reader.join().expect("the reader")
    })
}

/// One physical core with its resident vCPU.
struct Pcpu {
    slot: ShadowSlot,
    kick: Kick,
    /// The kick SGI, pending.
    sgi: AtomicBool,
}

impl Pcpu {
    fn new() -> Self {
        Self {
            slot: ShadowSlot::new(),
            kick: Kick::new(),
            sgi: AtomicBool::new(false),
        }
    }

    /// The interrupt exit, if the SGI is pending. Whether it was.
    fn serve(&self, writer: &mut ShadowWriter) -> bool {
        // A load, because loom lets a read-modify-write in a loop stay before the other core's store for ever.
        let kicked = self.sgi.load(Ordering::Acquire);
        if kicked {
            self.sgi.store(false, Ordering::Relaxed);
            // The guest wrote its register long ago; only this core knows.
            self.kick.answer(|| writer.publish(&self.slot, &sample(1), Flags::default()));
        }
        kicked
    }

    /// Asks `other` for a fresh value, and stays to be asked once.
    fn ask(&self, other: &Self, Rules { serves, barrier }: Rules) -> Option<u64> {
        let mut writer = ShadowWriter::new();
        let mut served = !serves;
        let mut looks = 0;
        let ticket = other.kick.raise();
        // `DSB ISHST`, then the SGI: who takes the interrupt sees the ticket.
        other.sgi.store(true, if barrier { Ordering::Release } else { Ordering::Relaxed });
        let answer = wait(
            || other.kick.is_answered(ticket),
            || {
                served |= serves && self.serve(&mut writer);
                thread::yield_now();
            },
            || {
                looks += 1;
                !serves && looks == 2
            },
        );
        let value = answer.ok().map(|()| other.slot.word().ctlr());
        while !served {
            served = self.serve(&mut writer);
            thread::yield_now();
        }
        value
    }
}

/// What the pCPUs do around the kick.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Serve each other while they wait.
    pub(crate) serves: bool,
    /// Put a barrier between ticket and SGI.
    pub(crate) barrier: bool,
}

/// The right ones.
pub(crate) const RULES: Rules = Rules {
    serves: true,
    barrier: true,
};

/// Two pCPUs ask each other.
pub(crate) fn kicks(rules: Rules, good: &'static [[Option<u64>; 2]]) -> Outcomes<[Option<u64>; 2]> {
    explore(good, None, move || {
        let pcpus = Arc::new([Pcpu::new(), Pcpu::new()]);
        let second = thread::spawn({
            let pcpus = Arc::clone(&pcpus);
            move || pcpus[1].ask(&pcpus[0], rules)
        });
        let first = pcpus[0].ask(&pcpus[1], rules);
        [first, second.join().expect("the second core")]
    })
}

/// An asker leaves a note, then draws a ticket; the target may be on its way anyhow, for another's SGI.
pub(crate) fn notes(good: &'static [(bool, u64)]) -> Outcomes<(bool, u64)> {
    explore(good, None, || {
        let shared = Arc::new((Kick::new(), AtomicU64::new(0)));
        let target = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.0.answer(|| shared.1.load(Ordering::Relaxed))
        });
        shared.1.store(1, Ordering::Relaxed);
        let ticket = shared.0.raise();
        let note = target.join().expect("the target");
        (shared.0.is_answered(ticket), note)
    })
}

/// One request, looked for once and then withdrawn, while the target looks for it once.
pub(crate) fn requests(good: &'static [(Option<u64>, Answer, bool)]) -> Outcomes<(Option<u64>, Answer, bool)> {
    explore(good, None, || {
        let request = Arc::new(Request::new());
        let target = thread::spawn({
            let request = Arc::clone(&request);
            move || {
                let mut performed = None;
                request.serve(|arguments| {
                    let sum = arguments.iter().sum();
                    performed = Some(sum);
                    [sum, 7]
                });
                performed
            }
        });
        let mut submitted = request.claim().expect("the slot is new").submit([1, 2, 3]);
        submitted.poll();
        let answer = match submitted.withdraw() {
            Withdrawn::Untouched => Answer::Untouched,
            Withdrawn::Abandoned => Answer::Abandoned,
            Withdrawn::Finished([sum, seven]) => Answer::Finished(sum, seven),
        };
        let performed = target.join().expect("the target");
        let free = request.claim().is_some();
        (performed, answer, free)
    })
}

/// Two requesters at one slot, served by a third core.
pub(crate) fn contention(good: &'static [[Option<u64>; 2]]) -> Outcomes<[Option<u64>; 2]> {
    fn ask(request: &Request, number: u64) -> Option<u64> {
        let mut submitted = request.claim()?.submit([number, number, number]);
        loop {
            if let Some([result, _]) = submitted.poll() {
                return Some(result);
            }
            thread::yield_now();
        }
    }
    explore(good, Some(2), || {
        let shared = Arc::new((Request::new(), AtomicBool::new(false)));
        let target = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while !shared.1.load(Ordering::Relaxed) {
                    shared.0.serve(|[a, _, c]| [a, c]);
                    thread::yield_now();
                }
            }
        });
        let second = thread::spawn({
            let shared = Arc::clone(&shared);
            move || ask(&shared.0, 2)
        });
        let first = ask(&shared.0, 1);
        let second = second.join().expect("the second requester");
        shared.1.store(true, Ordering::Relaxed);
        target.join().expect("the target");
        [first, second]
    })
}
