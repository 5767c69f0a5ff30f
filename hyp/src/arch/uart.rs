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

impl Uart {
    /// Takes a byte that was received, if there is one. Only a PL011 and an 8250 are listened to.
    pub(crate) fn receive(self) -> Option<u8> {
        match self {
            Self::None | Self::Imx(_) => None,
            Self::Pl011(mmio) => (mmio.read32(0x18) & 1 << 4 == 0).then(|| mmio.read32(0x00) as u8), // UARTFR.RXFE
            Self::Uart8250 { mmio, shift, wide: true } => (mmio.read32(5 << shift) & 1 != 0).then(|| mmio.read32(0) as u8), // LSR.DR
            Self::Uart8250 { mmio, shift, wide: false } => (mmio.read8(5 << shift) & 1 != 0).then(|| mmio.read8(0)),
        }
    }

    /// Lets what is received interrupt, or not.
    pub(crate) fn listen(self, listen: bool) {
        match self {
            Self::None | Self::Imx(_) => {}
            Self::Pl011(mmio) => {
                mmio.write32(0x2C, 0x70); // UARTLCR_H: 8 bits, FIFOs
                mmio.write32(0x30, 0x301); // UARTCR: RXE, TXE, UARTEN
                mmio.write32(0x38, if listen { 0x50 } else { 0 }); // UARTIMSC: RTIM, RXIM
            }
            Self::Uart8250 { mmio, shift, wide: true } => mmio.write32(1 << shift, u32::from(listen)), // IER.ERBFI
            Self::Uart8250 { mmio, shift, wide: false } => mmio.write8(1 << shift, u8::from(listen)),
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
