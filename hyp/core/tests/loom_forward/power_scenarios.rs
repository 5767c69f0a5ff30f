//! What may happen to one vCPU's power state. Each function runs one scenario under the model and returns every outcome
//! that it reached.

use super::power::{How, Power, Refused, Start, State};
use crate::{Seen, Threads, explore};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

fn start(caller: u64) -> Start {
    Start { entry: caller, context: 10 * caller, big_endian: false }
}

fn claims(how: How) -> Seen<(usize, usize, usize)> {
    explore(Threads::More, move || {
        let target = Arc::new(Power::new());
        let callers = [(); 2].map(|()| {
            let target = Arc::clone(&target);
            thread::spawn(move || target.claim(how, start(1)).map(|_claim| ()))
        });
        let third = target.claim(how, start(1)).map(|_claim| ());
        let results = callers.map(|caller| caller.join().expect("a caller")).into_iter().chain([third]);
        results.fold((0, 0, 0), |(won, pending, on), result| match result {
            Ok(()) => (won + 1, pending, on),
            Err(Refused::OnPending) => (won, pending + 1, on),
            Err(Refused::AlreadyOn) => (won, pending, on + 1),
        })
    })
}

/// Three callers race for one target, for the host to decide: how many won, saw ON_PENDING, saw ALREADY_ON.
pub(crate) fn forwarded_claims() -> Seen<(usize, usize, usize)> {
    claims(How::Forwarded)
}

/// The same, decided by hyp.
pub(crate) fn handled_claims() -> Seen<(usize, usize, usize)> {
    claims(How::Handled)
}

/// What the target took, entry and context.
type Taken = Option<(u64, u64)>;

/// Two callers race to start a target that looks for its start meanwhile: who won, what the target took while they were
/// at it, and what it found afterwards.
pub(crate) fn starts() -> Seen<(Vec<u64>, Taken, Taken)> {
    explore(Threads::More, || {
        let target = Arc::new(Power::new());
        let take = |target: &Power| target.take_start().map(|start| (start.entry, start.context));
        let taker = thread::spawn({
            let target = Arc::clone(&target);
            move || take(&target)
        });
        let caller = thread::spawn({
            let target = Arc::clone(&target);
            move || target.turn_on(start(1)).is_ok()
        });
        let mut won = vec![];
        if target.turn_on(start(2)).is_ok() {
            won.push(2);
        }
        if caller.join().expect("the caller") {
            won.insert(0, 1);
        }
        let early = taker.join().expect("the target");
        (won, early, take(&target))
    })
}

/// A vCPU stores, turns off, and is watched: the state seen, and the store as seen by who saw OFF.
pub(crate) fn last_stores() -> Seen<(State, Option<u64>)> {
    explore(Threads::Two, || {
        let (vcpu, memory) = (Arc::new(Power::new()), Arc::new(AtomicU64::new(0)));
        vcpu.turn_on(start(1)).expect("it was off");
        vcpu.take_start().expect("it was started");
        let watcher = thread::spawn({
            let (vcpu, memory) = (Arc::clone(&vcpu), Arc::clone(&memory));
            move || {
                let state = vcpu.state();
                (state, (state == State::Off).then(|| memory.load(Ordering::Relaxed)))
            }
        });
        memory.store(1, Ordering::Relaxed);
        assert!(vcpu.begin_off() && vcpu.finish_off());
        watcher.join().expect("the watcher")
    })
}

/// A vCPU turns off while another turns it on: what that one got, and the start that waits in the end.
pub(crate) fn off_and_on() -> Seen<(Result<(), Refused>, Taken)> {
    explore(Threads::Two, || {
        let vcpu = Arc::new(Power::new());
        vcpu.turn_on(start(1)).expect("it was off");
        vcpu.take_start().expect("it was started");
        let caller = thread::spawn({
            let vcpu = Arc::clone(&vcpu);
            move || vcpu.turn_on(start(2))
        });
        assert!(vcpu.begin_off() && vcpu.finish_off());
        let result = caller.join().expect("the caller");
        (result, vcpu.take_start().map(|start| (start.entry, start.context)))
    })
}

/// A claim is rolled back, or else becomes ON, while another caller tries: what that one got.
pub(crate) fn second_caller(allowed: bool) -> Seen<Result<(), Refused>> {
    explore(Threads::Two, move || {
        let target = Arc::new(Power::new());
        let claim = target.claim(How::Forwarded, start(1)).expect("it was off");
        let caller = thread::spawn({
            let target = Arc::clone(&target);
            move || target.claim(How::Forwarded, start(1)).map(|_claim| ())
        });
        if allowed {
            target.start(claim);
        } else {
            target.rollback(claim);
        }
        caller.join().expect("the caller")
    })
}

/// A claim from before a reset is rolled back after it: the state of the vCPU, which another caller has claimed since.
pub(crate) fn stale_rollback() -> Seen<State> {
    explore(Threads::Two, || {
        let target = Power::new();
        let stale = target.claim(How::Forwarded, start(1)).expect("it was off");
        target.reset();
        let _fresh = target.claim(How::Forwarded, start(1)).expect("the reset turned it off");
        target.rollback(stale);
        target.state()
    })
}
