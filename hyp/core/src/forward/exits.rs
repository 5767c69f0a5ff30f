//! The exits of one VM that are the host's to see: a slot a vCPU for its forwarded call, and a bitmap of what waits.
//!
//! A slot is FREE, POSTED (the host has not seen the call), DELIVERED (it has), ANSWERING (its answer has won and is being
//! written), ANSWERED. Only the waiting vCPU's pCPU posts, gives up and frees; only the host's side delivers and answers.
//! One compare-and-swap on the slot's word decides between the answer (DELIVERED to ANSWERING) and the deadline
//! (DELIVERED to FREE). The word carries the call's sequence number and the VM's epoch, which the cookie shows: an answer
//! that is late, repeated, forged, or from before a reset meets another word and is dropped.

use super::steps;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use hyp_abi::call::{ExitKind, Verdict};
use hyp_abi::errno::Errno;
use hyp_abi::layout::MAX_VCPUS;
use hyp_abi::smccc::Conduit;

/// Slots in a VM. The model checker gets no more than its tests use: each atomic costs it.
pub const SLOTS: usize = if cfg!(loom) { 2 } else { MAX_VCPUS };

/// Names one forwarded call: VM in bits 63:56, vCPU in 55:48, the VM's epoch in 47:32, the slot's sequence in 31:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(u64);

impl Cookie {
    /// The cookie that the host gave.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
    /// The cookie as the host sees it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The VM it names, which need not exist.
    #[must_use]
    pub const fn vm(self) -> usize {
        (self.0 >> 56) as usize
    }
    /// The vCPU it names, which need not exist.
    #[must_use]
    pub const fn vcpu(self) -> usize {
        (self.0 >> 48 & 0xFF) as usize
    }
    const fn epoch(self) -> u32 {
        (self.0 >> 32 & 0xFFFF) as u32
    }
    /// Sequence and epoch, as a slot's word holds them.
    const fn tag(self) -> u64 {
        self.0 << TAG_SHIFT
    }
    const fn of(vm: u8, vcpu: usize, word: u64) -> Self {
        Self((vm as u64) << 56 | (vcpu as u64 & 0xFF) << 48 | word >> TAG_SHIFT)
    }
}

/// What the host answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its verdict.
    pub verdict: Verdict,
    /// `x0` to `x3`, for [`Verdict::Values`].
    pub values: [u64; 4],
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The host answered in time.
    Answered(Answer),
    /// The deadline came first.
    Deadline,
    /// The VM is being reset or ended: nobody is left to take a result.
    Cancelled,
}

/// Why a wait should end without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The deadline has passed.
    Deadline,
    /// The VM is being reset or ended.
    Reset,
}

/// What the host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A forwarded call, to be answered.
    Call {
        /// Names it in the answer.
        cookie: Cookie,
        /// The caller.
        vcpu: usize,
        /// The instruction it used.
        conduit: Conduit,
        /// Its `x0` to `x3`.
        regs: [u64; 4],
    },
    /// The VM ended.
    Ended {
        /// Because a vCPU crashed.
        crashed: bool,
    },
    /// The VM was started anew, once or more, and runs.
    Reset,
}

impl Exit {
    /// The kind, as `WAIT_EXIT` reports it.
    #[must_use]
    pub const fn kind(&self) -> ExitKind {
        match self {
            Self::Call { conduit: Conduit::Hvc, .. } => ExitKind::Hvc,
            Self::Call { conduit: Conduit::Smc, .. } => ExitKind::Smc,
            Self::Ended { .. } => ExitKind::Ended,
            Self::Reset => ExitKind::Reset,
        }
    }
}

// The word of a slot: tag in 63:16 (epoch in 63:48, sequence in 47:16), BY_SMC and verdict where they have a meaning, state.
const TAG_SHIFT: u32 = 16;
const TAG: u64 = !0 << TAG_SHIFT;
const STATE: u64 = 0xF;
const FREE: u64 = 0;
const POSTED: u64 = 1;
const DELIVERED: u64 = 2;
const ANSWERING: u64 = 3;
const ANSWERED: u64 = 4;
const BY_SMC: u64 = 1 << 4;
const VERDICT_SHIFT: u32 = 8;

/// One vCPU's forwarded call.
#[derive(Debug)]
struct Slot {
    word: AtomicU64,
    /// The call's `x0` to `x3` until it is delivered, the answer's once it is answered.
    regs: [AtomicU64; 4],
}

impl Slot {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            word: AtomicU64::new(FREE),
            regs: [const { AtomicU64::new(0) }; 4],
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            word: AtomicU64::new(FREE),
            regs: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    // Not loops: they would cost more than their bodies.

    #[inline]
    fn write(&self, &[x0, x1, x2, x3]: &[u64; 4]) {
        let [a, b, c, d] = &self.regs;
        a.store(x0, Ordering::Relaxed);
        b.store(x1, Ordering::Relaxed);
        c.store(x2, Ordering::Relaxed);
        d.store(x3, Ordering::Relaxed);
    }

    #[inline]
    fn read(&self) -> [u64; 4] {
        let [a, b, c, d] = &self.regs;
        let read = |reg: &AtomicU64| reg.load(Ordering::Relaxed);
        [read(a), read(b), read(c), read(d)]
    }

    #[inline]
    fn is_over(&self) -> bool {
        !matches!(steps::peek(&self.word) & STATE, POSTED | DELIVERED | ANSWERING)
    }

    #[inline]
    fn post(&self, epoch: u32, conduit: Conduit, regs: &[u64; 4]) -> Option<u64> {
        let word = self.word.load(Ordering::Relaxed);
        if word & STATE != FREE {
            return None;
        }
        let sequence = ((word >> TAG_SHIFT) as u32).wrapping_add(1);
        let tag = (u64::from(epoch) << 32 | u64::from(sequence)) << TAG_SHIFT;
        self.write(regs);
        let by = if conduit == Conduit::Smc { BY_SMC } else { 0 };
        steps::publish(&self.word, tag | by | POSTED);
        Some(tag)
    }

    #[inline]
    fn deliver(&self) -> Option<(u64, Conduit, [u64; 4])> {
        let posted = steps::peek(&self.word);
        if posted & STATE != POSTED {
            return None;
        }
        let regs = self.read();
        let conduit = if posted & BY_SMC != 0 { Conduit::Smc } else { Conduit::Hvc };
        let tag = posted & TAG;
        steps::deliver(&self.word, posted, tag | DELIVERED).then_some((tag, conduit, regs))
    }

    #[inline]
    fn answer(&self, tag: u64, answer: &Answer) -> bool {
        if !steps::answer(&self.word, tag | DELIVERED, tag | ANSWERING) {
            return false;
        }
        self.write(&answer.values);
        steps::publish(&self.word, tag | (answer.verdict as u64) << VERDICT_SHIFT | ANSWERED);
        true
    }

    #[inline]
    fn poll(&self, cut: Option<Cut>) -> Option<End> {
        let word = steps::peek(&self.word);
        let free = word & TAG | FREE;
        match (word & STATE, cut) {
            (ANSWERED, Some(Cut::Reset)) => {
                self.word.store(free, Ordering::Relaxed);
                Some(End::Cancelled)
            }
            (ANSWERED, _) => {
                let verdict = Verdict::from_u64(word >> VERDICT_SHIFT & 0xFF).unwrap_or(Verdict::Fail);
                let answer = Answer {
                    verdict,
                    values: self.read(),
                };
                self.word.store(free, Ordering::Relaxed);
                Some(End::Answered(answer))
            }
            (POSTED | DELIVERED, Some(cut)) => steps::give_up(&self.word, word, free).then_some(match cut {
                Cut::Deadline => End::Deadline,
                Cut::Reset => End::Cancelled,
            }),
            (POSTED | DELIVERED | ANSWERING, _) => None,
            // Nothing was posted, so nothing will be answered.
            _ => Some(End::Cancelled),
        }
    }
}

const RESET: u64 = 1 << 32;
const OFF: u64 = 1 << 33;
const CRASHED: u64 = 1 << 34;

/// What one VM has for the host.
#[derive(Debug)]
pub struct Exits {
    vm: u8,
    epoch: AtomicU32,
    /// One bit a vCPU with a call to deliver, and `RESET`, `OFF`, `CRASHED`.
    waiting: AtomicU64,
    /// The vCPU whose turn is next.
    turn: AtomicU32,
    slots: [Slot; SLOTS],
}

impl Exits {
    /// Nothing waits. `vm` is the VM's number.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(vm: u8) -> Self {
        Self {
            vm,
            epoch: AtomicU32::new(0),
            waiting: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            slots: [const { Slot::new() }; SLOTS],
        }
    }

    /// Nothing waits. `vm` is the VM's number.
    #[cfg(loom)]
    #[must_use]
    pub fn new(vm: u8) -> Self {
        Self {
            vm,
            epoch: AtomicU32::new(0),
            waiting: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            slots: core::array::from_fn(|_| Slot::new()),
        }
    }

    /// How often the VM was reset.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// For vCPU `vcpu`'s own pCPU: posts its call, whose `x0` to `x3` are `regs`. The caller wakes the host, and then
    /// waits by [`Exits::poll`]. `None`: there is no such vCPU, or it is waiting already.
    #[inline]
    pub fn post(&self, vcpu: usize, conduit: Conduit, regs: &[u64; 4]) -> Option<Cookie> {
        let tag = self.slots.get(vcpu)?.post(self.epoch() & 0xFFFF, conduit, regs)?;
        steps::raise(&self.waiting, 1 << vcpu);
        Some(Cookie::of(self.vm, vcpu, tag))
    }

    /// For vCPU `vcpu`'s own pCPU: whether its wait has ended, by an answer or for the reason given. `None`: it goes on
    /// (with a reason given, only for the few instructions that the host's pCPU needs to finish an answer: ask again).
    #[inline]
    pub fn poll(&self, vcpu: usize, cut: Option<Cut>) -> Option<End> {
        match self.slots.get(vcpu) {
            Some(slot) => slot.poll(cut),
            None => Some(End::Cancelled),
        }
    }

    /// For vCPU `vcpu`'s own pCPU: whether its wait has ended without a reason of its own, so that [`Exits::poll`] says how.
    #[must_use]
    #[inline]
    pub fn is_over(&self, vcpu: usize) -> bool {
        self.slots.get(vcpu).is_none_or(Slot::is_over)
    }

    /// The VM was reset: cookies given out before are void, and the host is told. Only while each vCPU of the VM is held;
    /// a vCPU that waits ends its wait by [`Cut::Reset`] first.
    pub fn reset(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        // An end that the host has not heard of is over: told after the reset, it would say that the VM does not run.
        let _ = steps::lower(&self.waiting, OFF | CRASHED);
        steps::raise(&self.waiting, RESET);
    }

    /// The VM ended: the host is told.
    pub fn ended(&self, crashed: bool) {
        steps::raise(&self.waiting, if crashed { CRASHED } else { OFF });
    }

    /// Whether something may be there for [`Exits::deliver`].
    #[must_use]
    pub fn any(&self) -> bool {
        self.waiting.load(Ordering::Acquire) != 0
    }

    /// Takes the next exit for the host: a reset first, then calls, each vCPU in its turn, then the end. Each exit is
    /// given once. `None`: there was nothing when this began; whoever adds something later wakes the host again.
    #[inline]
    pub fn deliver(&self) -> Option<Exit> {
        let waiting = self.waiting.load(Ordering::Acquire);
        if waiting & RESET != 0 && steps::lower(&self.waiting, RESET) != 0 {
            return Some(Exit::Reset);
        }
        self.next_call(waiting).or_else(|| self.next_end(waiting))
    }

    #[inline]
    fn next_call(&self, waiting: u64) -> Option<Exit> {
        let mut calls = waiting & ((1 << SLOTS) - 1);
        while calls != 0 {
            // The first from whose turn it is, or else the first.
            let later = calls & !0 << self.turn.load(Ordering::Relaxed);
            let vcpu = if later == 0 { calls } else { later }.trailing_zeros() as usize;
            calls &= !(1 << vcpu);
            if steps::lower(&self.waiting, 1 << vcpu) == 0 {
                continue;
            }
            // A call whose deadline has passed is no longer there: its bit was all that was left of it.
            if let Some((tag, conduit, regs)) = self.slots.get(vcpu).and_then(Slot::deliver) {
                self.turn.store((vcpu as u32 + 1) % SLOTS as u32, Ordering::Relaxed);
                return Some(Exit::Call {
                    cookie: Cookie::of(self.vm, vcpu, tag),
                    vcpu,
                    conduit,
                    regs,
                });
            }
        }
        None
    }

    /// The VM may have been reset since `waiting` was read, and have ended again: then the host is told of the reset first, for which it is woken.
    fn next_end(&self, waiting: u64) -> Option<Exit> {
        let ended = waiting & (OFF | CRASHED);
        if ended == 0 {
            return None;
        }
        let taken = steps::lower_behind(&self.waiting, ended, RESET);
        (taken != 0).then_some(Exit::Ended {
            crashed: taken & CRASHED != 0,
        })
    }

    /// The host answers. Returns the vCPU that waits; the caller wakes its pCPU.
    ///
    /// # Errors
    /// `ENXIO`: the cookie names no call that the host was told of and that is still unanswered and in time.
    #[inline]
    pub fn answer(&self, cookie: Cookie, answer: &Answer) -> Result<usize, Errno> {
        if cookie.vm() != usize::from(self.vm) || cookie.epoch() != self.epoch() & 0xFFFF {
            return Err(Errno::NoDevice);
        }
        match self.slots.get(cookie.vcpu()) {
            Some(slot) if slot.answer(cookie.tag(), answer) => Ok(cookie.vcpu()),
            _ => Err(Errno::NoDevice),
        }
    }
}
