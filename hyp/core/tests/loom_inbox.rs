//! A vCPU's inbox under the model checker: a kick that finds one SGI there looks nowhere else, nor does one that finds nothing there
//! but what the vCPU waits for, and still nothing that is asked of the vCPU besides is missed.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p hyp-core --release --test loom_inbox`
#![cfg(loom)]

use hyp_core::vgic::sgi::Inbox;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// An SGI as the inbox carries it.
const SGI: u32 = 1 << 3;

/// The vCPU, and what is asked of it besides its interrupts.
struct Vcpu {
    inbox: Inbox,
    request: AtomicUsize,
    /// Kicks sent. One makes the vCPU's pCPU look, and brings what was stored before it (`DSB ISHST` there, `DSB SY` here); those
    /// that come before it looks are one.
    kicks: AtomicUsize,
}

/// What the vCPU's pCPU has found.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    sgi: bool,
    request: bool,
    short: bool,
}

impl Vcpu {
    fn kick(&self) {
        self.kicks.fetch_add(1, Ordering::Release);
    }

    /// The exit of a kick: the short way if it will do, else the long one.
    fn exit(&self, found: &mut Found) {
        if let Some(word) = self.inbox.only_sgi()
            && self.inbox.take_only(word)
        {
            (found.sgi, found.short) = (true, true);
            return;
        }
        found.sgi |= self.inbox.drain().unwrap_or(0) != 0;
        found.request |= self.request.load(Ordering::Relaxed) != 0;
    }
}

/// Every outcome of one SGI and one request from two pCPUs. `says`: who asks says so in the inbox. `meanwhile`: what the vCPU's pCPU does
/// while they are at it; it gives how many kicks it has taken. For those that came since there is one exit.
fn against(says: bool, meanwhile: impl Fn(&Vcpu, &mut Found) -> usize + Send + Sync + 'static) -> BTreeSet<(bool, bool, bool)> {
    let seen = std::sync::Arc::new(Mutex::new(BTreeSet::new()));
    let all = std::sync::Arc::clone(&seen);
    loom::model(move || {
        let vcpu = Arc::new(Vcpu {
            inbox: Inbox::new(),
            request: AtomicUsize::new(0),
            kicks: AtomicUsize::new(0),
        });
        let sender = thread::spawn({
            let vcpu = Arc::clone(&vcpu);
            move || {
                if vcpu.inbox.post(SGI) {
                    vcpu.kick();
                }
            }
        });
        let asker = thread::spawn({
            let vcpu = Arc::clone(&vcpu);
            move || {
                vcpu.request.store(1, Ordering::Relaxed);
                if says {
                    vcpu.inbox.look();
                }
                vcpu.kick();
            }
        });
        let mut found = Found::default();
        let taken = meanwhile(&vcpu, &mut found);
        sender.join().unwrap();
        asker.join().unwrap();
        if vcpu.kicks.load(Ordering::Acquire) > taken {
            vcpu.exit(&mut found);
        }
        all.lock().unwrap().insert((found.sgi, found.request, found.short));
    });
    std::mem::take(&mut *seen.lock().unwrap())
}

/// The vCPU runs, and takes a kick that has come.
fn outcomes(says: bool) -> BTreeSet<(bool, bool, bool)> {
    against(says, |vcpu, found| {
        let kicks = vcpu.kicks.load(Ordering::Acquire);
        if kicks != 0 {
            vcpu.exit(found);
        }
        kicks
    })
}

/// The vCPU waits for another in an exit of its own, and takes SGIs. The request is one that only a kick's exit serves. `again`: where
/// there is one, it says once more that it is to look.
fn serves(again: bool) -> BTreeSet<(bool, bool, bool)> {
    against(true, move |vcpu, found| {
        let taken = vcpu.inbox.drain();
        found.sgi = taken.unwrap_or(0) != 0;
        if again && taken.is_some() && vcpu.request.load(Ordering::Relaxed) != 0 {
            vcpu.inbox.look();
        }
        0
    })
}

/// Every outcome of an answer and a request for a vCPU that waits for the answer, and goes on by its own kicks then: whether it found
/// each of them. `says`: who asks says so in the inbox.
fn waits(says: bool) -> BTreeSet<(bool, bool)> {
    let seen = std::sync::Arc::new(Mutex::new(BTreeSet::new()));
    let all = std::sync::Arc::clone(&seen);
    loom::model(move || {
        let shared = Arc::new((
            Vcpu {
                inbox: Inbox::new(),
                request: AtomicUsize::new(0),
                kicks: AtomicUsize::new(0),
            },
            AtomicUsize::new(0),
        ));
        let answerer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.1.store(1, Ordering::Release);
                shared.0.kick();
            }
        });
        let asker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.0.request.store(1, Ordering::Relaxed);
                if says {
                    shared.0.inbox.look();
                }
                shared.0.kick();
            }
        });
        let (vcpu, answer) = &*shared;
        let (mut found, mut over) = (Found::default(), false);
        let mut kicked = |found: &mut Found| {
            let waited = !over;
            over |= answer.load(Ordering::Acquire) != 0;
            let looks = if waited && !over {
                vcpu.inbox.is_to_look()
            } else {
                !waited || !vcpu.inbox.is_untouched()
            };
            if looks {
                vcpu.exit(found);
            }
        };
        let served = vcpu.kicks.load(Ordering::Acquire);
        if served != 0 {
            kicked(&mut found);
        }
        answerer.join().unwrap();
        asker.join().unwrap();
        if vcpu.kicks.load(Ordering::Acquire) > served {
            kicked(&mut found);
        }
        all.lock().unwrap().insert((over, found.request));
    });
    std::sync::Arc::try_unwrap(seen).unwrap().into_inner().unwrap()
}

#[test]
fn who_serves_while_it_waits_says_again_what_it_has_not_and_nothing_is_missed() {
    assert_eq!(serves(true), BTreeSet::from([(true, true, false)]));
    assert!(serves(false).contains(&(true, false, true)));
}

#[test]
fn an_answers_kick_that_finds_nothing_else_looks_nowhere_else_and_nothing_is_missed() {
    assert_eq!(waits(true), BTreeSet::from([(true, true)]));
    assert!(waits(false).contains(&(true, false)));
}

#[test]
fn a_kick_for_one_sgi_looks_nowhere_else_and_nothing_is_missed() {
    assert_eq!(outcomes(true), BTreeSet::from([(true, true, false), (true, true, true)]));
}

#[test]
fn who_does_not_say_so_is_missed() {
    assert!(outcomes(false).iter().any(|(_, request, _)| !request));
}
