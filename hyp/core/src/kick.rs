//! Asking another pCPU: the kick, the request, and the wait for either.
//!
//! A [`Kick`] asks a vCPU's pCPU for fresh registers: draw a ticket, send the SGI, always; wait until the ticket is acknowledged. A
//! [`Request`] asks it to do something to its resident vCPU, and is followed by a kick. Who waits goes on serving what others ask
//! of it ([`wait`]), so that two pCPUs can ask each other.

use crate::sync;

mod request;
mod ticket;
mod wait;

pub use request::{Claim, Request, Submitted, Taken, Withdrawn};
pub use ticket::{Kick, Observed, Ticket};
pub use wait::{TimedOut, wait};
