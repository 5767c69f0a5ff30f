//! Every decision of the Umbra hypervisor, without a register access, a pointer, or a heap.
//!
//! `hyp` is a thin shell around this crate: it reads registers, asks here what they mean and what to do, and does it.
#![cfg_attr(not(any(test, loom)), no_std)]
#![forbid(unsafe_code)]

pub mod crash;
pub mod esr;
pub mod fdt;
pub mod filter;
pub mod forward;
pub mod idreg;
pub mod image;
pub mod inject;
pub mod kick;
pub mod physmem;
pub mod pl011;
pub mod policy;
pub mod psci;
pub mod regs;
pub mod sched;
pub mod shadow;
pub mod stacks;
pub mod stage1;
pub mod stage2;
pub mod sync;
pub mod text;
pub mod timer;
pub mod types;
pub mod vgic;
