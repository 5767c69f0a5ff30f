//! The physical console: polled transmission on the UART that `/chosen/stdout-path` names.

use core::sync::atomic::{AtomicBool, Ordering};

use hyp_core::fdt::board::{Console, UartKind};

use super::mmio::Mmio;

/// A UART that EL2 can print on: where its registers are, and which bits of its status say what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uart {
    mmio: Mmio,
    kind: UartKind,
    /// Registers are accessed 32 bits at a time, rather than as bytes.
    wide: bool,
    status: u8,
    transmit: u8,
    /// Bits of the status that are 0 when what the masks below are for is so.
    inverted: u8,
    /// There is no room for a byte to send.
    full: u8,
    /// No byte was received; 0 where nobody looks.
    empty: u8,
}

/// A FIFO that stays full this long is dead; the byte is dropped rather than the machine held up.
const PATIENCE: u32 = 1_000_000;

/// The FIFO did not drain once: from then on a byte gets one look.
static DEAD: AtomicBool = AtomicBool::new(false);

impl Uart {
    /// The device tree's console.
    ///
    /// # Safety
    /// Its frame is mapped as Device memory at EL2 whenever this is used, or the MMU is off.
    pub(crate) unsafe fn new(found: Console) -> Self {
        let pl011 = Self {
            // SAFETY: This function's contract.
            mmio: unsafe { Mmio::new(found.base.get() as usize) },
            kind: found.kind,
            wide: true,
            status: 0x18, // UARTFR (DDI 0183)
            transmit: 0x00,
            inverted: 0,
            full: 1 << 5,  // TXFF
            empty: 1 << 4, // RXFE
        };
        match found.kind {
            UartKind::Pl011 => pl011,
            UartKind::Uart8250 { reg_shift, io_width } => Self {
                wide: io_width == 4,
                status: 5 << reg_shift, // LSR
                inverted: 1 << 5 | 1,
                full: 1 << 5, // THRE
                empty: 1,     // DR
                ..pl011
            },
            UartKind::Imx => Self {
                status: 0xB4,   // UTS
                transmit: 0x40, // URTX
                full: 1 << 4,   // TXFULL
                empty: 0,
                ..pl011
            },
        }
    }

    /// Sends one byte, waiting for room in the FIFO (bounded).
    pub(crate) fn send(&self, byte: u8) {
        if self.says(self.full) {
            return self.send_late(byte);
        }
        DEAD.store(false, Ordering::Relaxed);
        self.write(self.transmit, byte);
    }

    #[cold]
    #[inline(never)]
    fn send_late(&self, byte: u8) {
        let tries = if DEAD.load(Ordering::Relaxed) { 0 } else { PATIENCE };
        let room = (0..tries).any(|_| !self.says(self.full));
        DEAD.store(!room, Ordering::Relaxed);
        self.write(self.transmit, byte);
    }

    /// Takes a byte that was received, if there is one. Only a PL011 and an 8250 are listened to.
    pub(crate) fn receive(&self) -> Option<u8> {
        (self.empty != 0 && !self.says(self.empty)).then(|| self.read(0))
    }

    /// Lets what is received interrupt, or not.
    pub(crate) fn listen(&self, listen: bool) {
        match self.kind {
            UartKind::Imx => {}
            UartKind::Pl011 => {
                self.mmio.write32(0x2C, 0x70); // UARTLCR_H: 8 bits, FIFOs
                self.mmio.write32(0x30, 0x301); // UARTCR: RXE, TXE, UARTEN
                self.mmio.write32(0x38, if listen { 0x50 } else { 0 }); // UARTIMSC: RTIM, RXIM
            }
            UartKind::Uart8250 { reg_shift, .. } => self.write(1 << reg_shift, u8::from(listen)), // IER.ERBFI
        }
    }

    #[inline]
    fn says(&self, mask: u8) -> bool {
        (self.read(self.status) ^ self.inverted) & mask != 0
    }

    fn read(&self, register: u8) -> u8 {
        if self.wide {
            self.mmio.read32(usize::from(register)) as u8
        } else {
            self.mmio.read8(usize::from(register))
        }
    }

    fn write(&self, register: u8, byte: u8) {
        if self.wide {
            self.mmio.write32(usize::from(register), u32::from(byte));
        } else {
            self.mmio.write8(usize::from(register), byte);
        }
    }
}
