//! Umbra: a bare-metal AArch64 EL2 micro-hypervisor.
//!
//! This crate is a thin shell: it reads registers, asks `hyp_core` what they mean and what to do, and does it. Read
//! [`boot`] for the way to the first guest, [`trap`] for the way from a guest's exception to its next instruction, and
//! [`run`] for what a pCPU does in between. `unsafe` is allowed in the modules marked here, and nowhere else.
#![no_std]
#![no_main]
#![deny(unsafe_code)]
#![allow(unreachable_pub, reason = "a binary has no public surface")]

#[allow(unsafe_code, reason = "instructions, system registers, device registers")]
mod arch;
mod ask;
#[allow(unsafe_code, reason = "the first instructions, and memory as the boot loader left it")]
mod boot;
#[allow(unsafe_code, reason = "the console before its lock works, and after everything has failed")]
mod console;
#[allow(unsafe_code, reason = "exported to the vectors")]
mod fatal;
#[allow(unsafe_code, reason = "memory from nowhere")]
mod heap;
mod host;
mod input;
#[allow(unsafe_code, reason = "the distributor's registers")]
mod passed;
#[allow(unsafe_code, reason = "data that belongs to one pCPU")]
mod percpu;
mod power;
#[allow(unsafe_code, reason = "changes stacks")]
mod run;
#[allow(unsafe_code, reason = "the outermost functions of an exit")]
mod short;
mod system;
#[allow(unsafe_code, reason = "exported to the vectors")]
mod trap;
#[cfg(feature = "test-triggers")]
#[allow(unsafe_code, reason = "breaks EL2 on purpose")]
mod trigger;
mod vcpu;
#[allow(unsafe_code, reason = "VM memory, stage-2 tables")]
mod vm;
mod wait;
