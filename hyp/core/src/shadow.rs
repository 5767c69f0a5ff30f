//! The shadow's writing side. The page and its readers are [`hyp_abi::shadow`].
//!
//! A vCPU's [`ShadowWriter`] lives inside what the vCPU's lock guards, so whoever publishes holds that lock: the pCPU on which
//! the vCPU is resident, or whoever found it on none. That there is one writer at a time is therefore a matter of types, and the
//! writer needs neither a lock of its own nor an atomic read-modify-write.

use crate::sync;
use hyp_abi::shadow as page;

mod ready;
mod writer;

pub use ready::Ready;
pub use writer::{Flags, Sample, ShadowWriter};

const _: () = assert!(page::SLOTS == hyp_abi::layout::MAX_VCPUS, "a slot for every vCPU of a VM");
