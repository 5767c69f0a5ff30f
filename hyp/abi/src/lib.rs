//! What Umbra's EL2 image, its host partition, its guests and its tools share.
//!
//! Numbers and layouts only: call numbers ([`call`]), errno values ([`errno`]), PSCI's and SMCCC's function
//! identifiers ([`psci`], [`smccc`]), KVM's device attributes ([`attr`]), the guest-visible memory map ([`layout`]),
//! the console's channel protocol ([`console`]), and the shadow page with its reader ([`shadow`]).
#![cfg_attr(not(any(test, loom)), no_std)]
#![forbid(unsafe_code)]

pub mod attr;
pub mod call;
pub mod console;
pub mod errno;
pub mod layout;
pub mod psci;
pub mod shadow;
pub mod smccc;
mod sync;
