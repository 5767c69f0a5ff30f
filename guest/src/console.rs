//! The PL011 at 0x0900_0000, polled, one line at a time.

use crate::{cpu, mmio};
use core::fmt::{self, Write};
use hyp_abi::layout::UART_BASE;

const DR: u64 = UART_BASE;
const FR: u64 = UART_BASE + 0x18;
const FR_TXFF: u32 = 1 << 5;

struct Pl011;

/// Held for one [`print`] call, so that lines of several vCPUs do not mix.
static LINE: spin::mutex::SpinMutex<Pl011, cpu::Relax> = spin::mutex::SpinMutex::new(Pl011);

impl Pl011 {
    fn byte(&mut self, byte: u8) {
        while mmio::read32(FR) & FR_TXFF != 0 {
            cpu::relax();
        }
        mmio::write32(DR, u32::from(byte));
    }
}

impl Write for Pl011 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}

/// Prints with interrupts masked and the line lock held; see [`crate::println`].
pub fn print(arguments: fmt::Arguments<'_>) {
    cpu::masked(|| {
        // The PL011 takes every byte: its write_str has no error to give.
        let _always_ok = LINE.lock().write_fmt(arguments);
    });
}

/// Sends bytes as they are, unprintable ones too.
pub fn raw(bytes: &[u8]) {
    cpu::masked(|| {
        let mut uart = LINE.lock();
        for &byte in bytes {
            uart.byte(byte);
        }
    });
}

/// Prints one line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($argument)*))) };
}
