//! The physical console: polled transmission on the UART that `/chosen/stdout-path` names.

use core::sync::atomic::{AtomicBool, Ordering};

use super::mmio::Mmio;

/// A UART that EL2 can print on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Uart {
    /// None was found: output is dropped.
    None,
    /// Arm PL011 (DDI 0183).
    Pl011(Mmio),
    /// 8250 or compatible: registers `1 << shift` bytes apart, accessed as bytes or as words.
    Uart8250 {
        /// Its frame.
        mmio: Mmio,
        /// Distance between registers, as a power of two.
        shift: u32,
        /// Whether registers are accessed 32 bits at a time.
        wide: bool,
    },
    /// NXP i.MX UART.
    Imx(Mmio),
}

/// A FIFO that stays full this long is dead; the byte is dropped rather than the machine held up.
const PATIENCE: u32 = 1_000_000;

impl Uart {
    /// Sends one byte, waiting for room in the FIFO (bounded).
    pub(crate) fn send(self, byte: u8) {
        match self {
            Self::None => {}
            Self::Pl011(mmio) => {
                wait_until(|| mmio.read32(0x18) & 1 << 5 == 0); // UARTFR.TXFF
                mmio.write32(0x00, u32::from(byte)); // UARTDR
            }
            Self::Uart8250 { mmio, shift, wide: true } => {
                wait_until(|| mmio.read32(5 << shift) & 1 << 5 != 0); // LSR.THRE
                mmio.write32(0, u32::from(byte));
            }
            Self::Uart8250 { mmio, shift, wide: false } => {
                wait_until(|| mmio.read8(5 << shift) & 1 << 5 != 0);
                mmio.write8(0, byte);
            }
            Self::Imx(mmio) => {
                wait_until(|| mmio.read32(0xB4) & 1 << 4 == 0); // UTS.TXFULL
                mmio.write32(0x40, u32::from(byte)); // URTX
            }
        }
    }
}

/// The FIFO did not drain once: from then on a byte gets one look.
static DEAD: AtomicBool = AtomicBool::new(false);

fn wait_until(mut ready: impl FnMut() -> bool) {
    let tries = if DEAD.load(Ordering::Relaxed) { 1 } else { PATIENCE };
    for _ in 0..tries {
        if ready() {
            if tries == 1 {
                DEAD.store(false, Ordering::Relaxed);
            }
            return;
        }
    }
    DEAD.store(true, Ordering::Relaxed);
}
