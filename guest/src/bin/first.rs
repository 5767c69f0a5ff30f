//! A guest of 16 KiB whose first instruction reads the machine's counter, and which prints it: what a boot costs. It has
//! nothing of the runtime, so that nothing comes before.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use hyp_abi::layout::UART_BASE;
use hyp_abi::psci::SYSTEM_OFF;

global_asm!(
    ".section .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    "mrs x0, cntpct_el0",
    "b 2f",
    ".quad 0x80000",
    ".quad __image_size",
    ".quad 2",
    ".quad 0, 0, 0",
    ".ascii \"ARM\\x64\"",
    ".word 0",
    "2: adrp x1, __stacks_start",
    "add x1, x1, #0x8000",
    "mov sp, x1",
    "b first_main",
);

/// Code and constants take less than 4 KiB; with this the image is of 16.
// SAFETY: The section holds data, and this is data that nobody names.
#[used]
#[unsafe(link_section = ".data.pad")]
static PAD: [u8; 0x3000] = [0x55; 0x3000];

/// Sends `text`; the caches and stage 1 are off, and nothing else runs.
fn print(text: &[u8]) {
    for &byte in text {
        // SAFETY: UARTDR, by an instruction with a full syndrome.
        unsafe { asm!("str {v:w}, [{a}]", v = in(reg) u32::from(byte), a = in(reg) UART_BASE, options(nostack, preserves_flags)) };
    }
}

fn print_number(number: u64) {
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut length = 0;
    for cell in digits.iter_mut().rev() {
        *cell = b'0' + (rest % 10) as u8;
        rest /= 10;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    print(&digits[20 - length..]);
}

/// `ticks`: what the counter said at the first instruction.
// SAFETY: `_start` is the only caller and no other symbol of this name exists.
#[unsafe(no_mangle)]
extern "C" fn first_main(ticks: u64) -> ! {
    print(b"@guest bench op=boot n=1 min=");
    print_number(ticks);
    print(b" med=");
    print_number(ticks);
    print(b" max=");
    print_number(ticks);
    print(b"\n@guest done passed=1 failed=0\n");
    loop {
        // SAFETY: SYSTEM_OFF does not return.
        unsafe { asm!("hvc #0", in("x0") u64::from(SYSTEM_OFF), options(nostack)) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
