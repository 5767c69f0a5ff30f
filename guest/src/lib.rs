//! Runtime of Umbra's EL1 programs: the host partition's program, the demo guest, the on-target tests.
//!
//! A program is one file in `src/bin` with a `main`:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! guest::program!(main);
//!
//! fn main() {
//!     guest::println!("hello from EL1");
//! }
//! ```
//!
//! What happens before `main`, in order: `start.s` masks interrupts, turns stage 1 on (so that atomics and the shadow
//! page behave), zeroes `.bss`; [`boot`](self) reads the boot arguments from the device tree. When `main` returns, the
//! VM is switched off. The image is linked at 0x4008_0000 and starts with an arm64 Image header, so it runs as a VM of
//! Umbra and on QEMU's bare `virt` machine at EL1 alike.
//!
//! - [`smccc`], [`psci`]: calls to whoever runs below, by HVC or SMC
//! - [`cpu`]: which vCPU this is, starting others, waiting
//! - [`console`], [`bootargs`], [`stats`], [`check`]: what every program needs
//! - [`fault`]: exceptions, and expecting them
//! - [`gic`], [`timer`]: interrupts
//! - [`host`]: the host partition's side; [`oem`]: the calls that a guest of ours and its host make up between them
#![no_std]

pub mod bootargs;
pub mod check;
pub mod console;
pub mod cpu;
pub mod fault;
pub mod gic;
pub mod host;
pub mod mmio;
pub mod oem;
pub mod psci;
pub mod smccc;
pub mod stats;
pub mod timer;

use core::arch::global_asm;
use core::mem::{offset_of, size_of};

global_asm!(
    include_str!("start.s"),
    captured = const offset_of!(cpu::Start, captured),
    time = const offset_of!(cpu::Start, time),
    stack = const offset_of!(cpu::Start, stack),
    size = const size_of::<cpu::Start>(),
    frame = const size_of::<fault::Frame>(),
);

/// Names the function that runs first, on vCPU 0.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        // SAFETY: `guest_boot` declares this very signature, and each program defines the symbol once.
        #[unsafe(no_mangle)]
        extern "C" fn guest_main() {
            $main();
        }
    };
}

unsafe extern "C" {
    safe fn guest_main();
}

/// The first Rust code of vCPU 0; called by `start.s` with the device tree's address.
// SAFETY: `start.s` is the only caller and no other symbol of this name exists.
#[unsafe(no_mangle)]
extern "C" fn guest_boot(dtb: u64) -> ! {
    bootargs::read(dtb);
    guest_main();
    psci::system_off()
}

/// The first Rust code of a secondary; called by `start.s` with what [`cpu::start`] prepared.
// SAFETY: `start.s` is the only caller and no other symbol of this name exists.
#[unsafe(no_mangle)]
extern "C" fn guest_secondary(start: &cpu::Start) -> ! {
    start.run();
    psci::cpu_off_or_park()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("FAIL panic: {info}");
    check::abandon()
}
