//! One vCPU's power state, and the start that a `CPU_ON` leaves for it.
//!
//! One atomic word holds the state, whether a start is waiting to be taken, and the epoch of the VM. `CPU_ON` *claims* its
//! target by one compare-and-swap from OFF; whoever gets the [`Claim`] is alone in writing entry and context, and the
//! target takes them only when the word says that they are there. A claim from before a reset finds another epoch in the
//! word and does nothing.

use super::steps;
use crate::sync::{AtomicU64, Ordering};
use hyp_abi::psci::{self, PsciError};

/// A vCPU's power state (DEN 0022, `AFFINITY_INFO` and `CPU_ON`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Not running, and free to be claimed.
    Off = 0,
    /// Claimed by a `CPU_ON` whose verdict is outstanding.
    OnPending = 1,
    /// Running, or about to.
    On = 2,
    /// It called `CPU_OFF` and has not left its pCPU yet.
    OffPending = 3,
}

impl State {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::OnPending => "on its way to on",
            Self::On => "on",
            Self::OffPending => "on its way to off",
        }
    }
}

/// How a `CPU_ON` is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By hyp, at once: the claim and ON are one step.
    Handled,
    /// By the host: ON_PENDING until its verdict or the deadline.
    Forwarded,
}

/// Why a claim failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// The target is on, or on its way to off.
    AlreadyOn,
    /// Another `CPU_ON` of it waits for its verdict.
    OnPending,
}

impl Refused {
    /// The value in the loser's `x0`. A VM without `on_pending` never sees `ON_PENDING`, as under KVM.
    #[must_use]
    pub const fn to_ret(self, on_pending: bool) -> u64 {
        match self {
            Self::OnPending if on_pending => PsciError::OnPending.to_ret(),
            Self::OnPending | Self::AlreadyOn => PsciError::AlreadyOn.to_ret(),
        }
    }
}

/// Where a vCPU starts, and with what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The first instruction's IPA.
    pub entry: u64,
    /// `x0`.
    pub context: u64,
    /// The endianness of the caller (`SCTLR_EL1.EE`), which the target inherits.
    pub big_endian: bool,
}

/// The right to start or to roll back one vCPU, won by a claim.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a vCPU that is claimed and neither started nor rolled back never starts"]
pub struct Claim {
    /// The word that the claim left in the cell.
    word: u64,
}

const STATE: u64 = 0b11;
/// Entry and context are written, and the target has not taken them yet.
const START: u64 = 1 << 2;
/// The endianness of whoever claimed it: there from the claim on, with a meaning while [`START`] is.
const BIG_ENDIAN: u64 = 1 << 3;
const EPOCH_SHIFT: u32 = 8;
const EPOCH: u64 = !0 << EPOCH_SHIFT;

const fn state_of(word: u64) -> State {
    match word & STATE {
        0 => State::Off,
        1 => State::OnPending,
        2 => State::On,
        _ => State::OffPending,
    }
}

/// `word`'s epoch with `state` and nothing waiting.
const fn in_state(word: u64, state: State) -> u64 {
    word & EPOCH | state as u64
}

/// One vCPU's power state.
#[derive(Debug)]
pub struct Power {
    word: AtomicU64,
    entry: AtomicU64,
    context: AtomicU64,
}

impl Default for Power {
    fn default() -> Self {
        Self::new()
    }
}

/// What `AFFINITY_INFO` answers for each state, two bits each, the lowest for state 0: where an answer has to be read in few
/// instructions.
pub const AFFINITY_OF_STATE: u64 = psci::AFFINITY_OFF << (2 * State::Off as u64)
    | psci::AFFINITY_ON_PENDING << (2 * State::OnPending as u64)
    | psci::AFFINITY_ON << (2 * State::On as u64)
    | psci::AFFINITY_ON << (2 * State::OffPending as u64);

impl Power {
    /// Where in it the word is whose bits 1:0 are the [`State`]: to be read with acquire.
    pub const WORD: usize = core::mem::offset_of!(Self, word);

    /// A vCPU that is off.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
        }
    }

    /// A vCPU that is off.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
        }
    }

    /// The state now. Who sees OFF also sees everything that the vCPU did.
    #[must_use]
    pub fn state(&self) -> State {
        state_of(steps::peek(&self.word))
    }

    /// Tries to take the vCPU from OFF, by one compare-and-swap, and writes what it is to start with: nobody else does until the claim
    /// is started or rolled back, and the target reads it only once it is started.
    ///
    /// # Errors
    /// Why it is not to be had.
    #[inline]
    pub fn claim(&self, how: How, start: Start) -> Result<Claim, Refused> {
        // Within one epoch there is one word that means OFF, so whatever the swap meets instead is the true state.
        let off = in_state(self.word.load(Ordering::Relaxed), State::Off);
        let state = match how {
            How::Handled => State::On,
            How::Forwarded => State::OnPending,
        };
        let next = in_state(off, state) | if start.big_endian { BIG_ENDIAN } else { 0 };
        match steps::claim(&self.word, off, next) {
            Ok(()) => {
                self.entry.store(start.entry, Ordering::Relaxed);
                self.context.store(start.context, Ordering::Relaxed);
                Ok(Claim { word: next })
            }
            Err(found) => Err(match state_of(found) {
                State::OnPending => Refused::OnPending,
                // OFF here means that a reset came between: the caller's VM is gone, and it never sees this answer.
                State::On | State::OffPending | State::Off => Refused::AlreadyOn,
            }),
        }
    }

    /// Lets the target see what it was claimed for: from here on it is ON and [`Power::take_start`] gives that. The caller wakes its
    /// pCPU afterwards. False, and nothing changes, if the VM was reset since the claim.
    #[inline]
    pub fn start(&self, claim: Claim) -> bool {
        let endian = claim.word & BIG_ENDIAN;
        steps::settle(&self.word, claim.word, in_state(claim.word, State::On) | START | endian)
    }

    /// Gives a claim back: OFF again. False, and nothing changes, if the VM was reset since the claim.
    pub fn rollback(&self, claim: Claim) -> bool {
        steps::settle(&self.word, claim.word, in_state(claim.word, State::Off))
    }

    /// `CPU_ON` handled by hyp: claims the vCPU and starts it. The caller wakes its pCPU.
    ///
    /// # Errors
    /// Why it is not to be had.
    pub fn turn_on(&self, start: Start) -> Result<(), Refused> {
        let claim = self.claim(How::Handled, start)?;
        self.start(claim);
        Ok(())
    }

    /// For the vCPU's own pCPU: takes the start that is waiting, once.
    pub fn take_start(&self) -> Option<Start> {
        let word = steps::peek(&self.word);
        if word & START == 0 {
            return None;
        }
        let start = Start {
            entry: self.entry.load(Ordering::Relaxed),
            context: self.context.load(Ordering::Relaxed),
            big_endian: word & BIG_ENDIAN != 0,
        };
        steps::settle(&self.word, word, in_state(word, State::On)).then_some(start)
    }

    /// For the vCPU's own pCPU, in `CPU_OFF`: ON to OFF_PENDING. False if it is not running.
    pub fn begin_off(&self) -> bool {
        let on = in_state(self.word.load(Ordering::Relaxed), State::On);
        steps::settle(&self.word, on, in_state(on, State::OffPending))
    }

    /// For the vCPU's own pCPU, when nothing of it is left there: OFF_PENDING to OFF. From here on it can be claimed.
    pub fn finish_off(&self) -> bool {
        let leaving = in_state(self.word.load(Ordering::Relaxed), State::OffPending);
        steps::settle(&self.word, leaving, in_state(leaving, State::Off))
    }

    /// Resets the vCPU with its VM: OFF, nothing waiting, and every claim from before is void. Only while each vCPU of the
    /// VM is held. The caller then starts the boot vCPU by [`Power::turn_on`].
    pub fn reset(&self) {
        let epoch = (self.word.load(Ordering::Relaxed) >> EPOCH_SHIFT).wrapping_add(1);
        self.word.store(epoch << EPOCH_SHIFT, Ordering::Release);
    }
}
