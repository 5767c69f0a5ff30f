//! Calls that the host decides: what is claimed before it is asked, how its answer gets back, and what that makes of the
//! call.
//!
//! The way of one call: [`Waiting::begin`] claims the target of a `CPU_ON`; [`Exits::post`] shows the call to the host;
//! the calling vCPU, and no other, waits by [`Exits::poll`]; [`Waiting::end`] says what to do.
//!
//! | call | allow | deny | fail | deadline |
//! |---|---|---|---|---|
//! | `CPU_ON` | the target starts, `SUCCESS` | `DENIED` | `INTERNAL_FAILURE` | `INTERNAL_FAILURE` |
//! | `CPU_OFF` | off | `DENIED` | `DENIED` (its only error) | off |
//! | `SYSTEM_OFF`, `SYSTEM_RESET`, `SYSTEM_OFF2`, `SYSTEM_RESET2` | done | `DENIED` | `INTERNAL_FAILURE` | done |
//! | `SYSTEM_SUSPEND` | suspended | `DENIED` | `INTERNAL_FAILURE` | `INTERNAL_FAILURE` |
//! | any other | as if it were not forwarded | `NOT_SUPPORTED` | `NOT_SUPPORTED` | `NOT_SUPPORTED` |
//!
//! [`Verdict::Values`] gives `x0` to `x3` as they are, and nothing is done; except that `w0` = `SUCCESS` for a power call
//! (every row but the last) means allow, because no guest is told `SUCCESS` for what was not done. A `CPU_ON` that is not
//! allowed leaves its target OFF.

pub mod exits;
mod steps;

use crate::psci::{Claim, Forwarded, How, Power, Refused, Start};
pub use exits::{Answer, Cookie, Cut, End, Exit, Exits};
use hyp_abi::call::Verdict;
use hyp_abi::psci::PsciError;
use hyp_abi::smccc::NOT_SUPPORTED;

/// What the end of a wait means for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Do it.
    Do,
    /// Do not; the value is for `x0`.
    Refuse(u64),
    /// Do not; the values are for `x0` to `x3`.
    Values([u64; 4]),
    /// Nobody is left to take a result.
    Drop,
}

/// Decides a forwarded call: the table above.
#[inline]
fn decide(call: &Asked, end: &End) -> Decision {
    const DENIED: Decision = Decision::Refuse(PsciError::Denied.to_ret());
    const FAILED: Decision = Decision::Refuse(PsciError::InternalFailure.to_ret());
    let answer = match end {
        End::Cancelled => return Decision::Drop,
        End::Deadline => {
            return match call {
                Asked::CpuOn { .. } | Asked::Nobody | Asked::SystemSuspend(_) => FAILED,
                Asked::CpuOff | Asked::SystemOff | Asked::SystemReset => Decision::Do,
                Asked::Other => Decision::Refuse(NOT_SUPPORTED),
            };
        }
        End::Answered(answer) => answer,
    };
    match (answer.verdict, call) {
        (Verdict::Allow, _) => Decision::Do,
        (Verdict::Values, Asked::Other) => Decision::Values(answer.values),
        // DEN 0022: a return code is a signed number of 32 bits. What the caller reads is w0.
        (Verdict::Values, _) if answer.values[0] as u32 == 0 => Decision::Do,
        (Verdict::Values, _) => Decision::Values(answer.values),
        (Verdict::Deny | Verdict::Fail, Asked::Other) => Decision::Refuse(NOT_SUPPORTED),
        (Verdict::Deny, _) | (Verdict::Fail, Asked::CpuOff) => DENIED,
        (Verdict::Fail, _) => FAILED,
    }
}

/// What the calling vCPU's pCPU must do when the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Put the value in `x0` and resume the guest.
    Return(u64),
    /// Put the values in `x0` to `x3` and resume the guest.
    Values([u64; 4]),
    /// This vCPU is on and its start is waiting: wake its pCPU, and return `SUCCESS`.
    Started(usize),
    /// Turn the calling vCPU off.
    CpuOff,
    /// End the calling VM.
    SystemOff,
    /// Restart the calling VM.
    SystemReset,
    /// The calling vCPU leaves, and goes on at the start when an interrupt is there for it.
    SystemSuspend(Start),
    /// Handle the call as if it were not filtered ([`crate::psci::decode`]).
    Handle,
    /// The VM is being reset or ended: drop the call, resume nothing.
    Dropped,
}

/// A call that the host has been asked to decide, and what it holds meanwhile.
#[derive(Debug)]
#[must_use = "the target of a CPU_ON stays claimed until the wait is ended"]
pub struct Waiting(Asked);

/// A [`Forwarded`] call, and what was claimed for it.
#[derive(Debug)]
#[repr(u64)]
enum Asked {
    /// `CPU_ON` of a vCPU that knows its entry and context already.
    CpuOn {
        /// That vCPU.
        target: usize,
        /// The right to start it.
        claim: Claim,
    },
    /// `CPU_ON` of a vCPU that there is not.
    Nobody,
    CpuOff,
    SystemOff,
    SystemReset,
    SystemSuspend(Start),
    Other,
}

impl Waiting {
    /// Claims what the call needs, before anything is forwarded. `power` has the VM's vCPUs.
    ///
    /// # Errors
    /// The target of a `CPU_ON` is not to be had.
    #[inline]
    pub fn begin(call: Forwarded, power: &[Power]) -> Result<Self, Refused> {
        Ok(Self(match call {
            Forwarded::CpuOn(on) => match power.get(on.target) {
                Some(target) => Asked::CpuOn {
                    target: on.target,
                    claim: target.claim(How::Forwarded, on.start)?,
                },
                None => Asked::Nobody,
            },
            Forwarded::CpuOff => Asked::CpuOff,
            Forwarded::SystemOff => Asked::SystemOff,
            Forwarded::SystemReset => Asked::SystemReset,
            Forwarded::SystemSuspend(start) => Asked::SystemSuspend(start),
            Forwarded::Other => Asked::Other,
        }))
    }

    /// Ends the wait: starts or rolls back what was claimed, and says what is left to do.
    #[inline]
    pub fn end(self, end: &End, power: &[Power]) -> Resolution {
        let decision = decide(&self.0, end);
        match (decision, self.0) {
            (decision, Asked::CpuOn { target, claim }) => end_cpu_on(target, claim, decision, power),
            (_, Asked::Nobody) => Resolution::Return(PsciError::InternalFailure.to_ret()),
            (Decision::Refuse(x0), _) => Resolution::Return(x0),
            (Decision::Values(values), _) => Resolution::Values(values),
            (Decision::Drop, _) => Resolution::Dropped,
            (Decision::Do, Asked::CpuOff) => Resolution::CpuOff,
            (Decision::Do, Asked::SystemOff) => Resolution::SystemOff,
            (Decision::Do, Asked::SystemReset) => Resolution::SystemReset,
            (Decision::Do, Asked::SystemSuspend(start)) => Resolution::SystemSuspend(start),
            (Decision::Do, Asked::Other) => Resolution::Handle,
        }
    }
}

#[inline]
fn end_cpu_on(index: usize, claim: Claim, decision: Decision, power: &[Power]) -> Resolution {
    let Some(target) = power.get(index) else {
        return Resolution::Return(PsciError::InternalFailure.to_ret());
    };
    if decision == Decision::Do {
        return if target.start(claim) {
            Resolution::Started(index)
        } else {
            Resolution::Dropped
        };
    }
    if !target.rollback(claim) {
        return Resolution::Dropped;
    }
    match decision {
        Decision::Refuse(x0) => Resolution::Return(x0),
        Decision::Values(values) => Resolution::Values(values),
        Decision::Do | Decision::Drop => Resolution::Dropped,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
