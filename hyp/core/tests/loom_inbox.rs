//! A vCPU's inbox under the model checker: a kick that finds one SGI there looks nowhere else, and still nothing that is asked of
//! the vCPU besides is missed.
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
        found.sgi |= self.inbox.drain() != 0;
        found.request |= self.request.load(Ordering::Relaxed) != 0;
    }
}

/// Every outcome of one SGI and one request from two pCPUs. `says`: who asks says so in the inbox.
fn outcomes(says: bool) -> BTreeSet<(bool, bool, bool)> {
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
        // One look while they are at it, if a kick has come by then, and one for the kicks that came since.
        let served = vcpu.kicks.load(Ordering::Acquire);
        if served != 0 {
            vcpu.exit(&mut found);
        }
        sender.join().unwrap();
        asker.join().unwrap();
        if vcpu.kicks.load(Ordering::Acquire) > served {
            vcpu.exit(&mut found);
        }
        all.lock().unwrap().insert((found.sgi, found.request, found.short));
    });
    std::sync::Arc::try_unwrap(seen).unwrap().into_inner().unwrap()
}

#[test]
fn a_kick_for_one_sgi_looks_nowhere_else_and_nothing_is_missed() {
    assert_eq!(outcomes(true), BTreeSet::from([(true, true, false), (true, true, true)]));
}

#[test]
fn who_does_not_say_so_is_missed() {
    assert!(outcomes(false).iter().any(|(_, request, _)| !request));
}
