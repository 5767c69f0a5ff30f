//! The physical console: polled transmission on the UART that `/chosen/stdout-path` names.

use core::sync::atomic::{AtomicBool, Ordering};

use hyp_core::fdt::board::{Console, UartKind};

use super::mmio::Mmio;

/// A UART that EL2 can print on: where its registers are, and which bits of its status say what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uart {
    mmio: Mmio,
    kind: Kind,
    /// Distance between an 8250's registers, as a power of two.
    shift: u8,
    /// Registers are accessed as bytes, rather than 32 bits at a time.
    narrow: bool,
    status: u8,
    transmit: u8,
    /// Bits of the status that are 0 when what the masks below are for is so.
    inverted: u8,
    /// There is no room for a byte to send.
    full: u8,
    /// No byte was received; 0 where nobody looks.
    empty: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// There is none, and output is dropped.
    None,
    /// Arm PL011 (DDI 0183).
    Pl011,
    /// 8250 or compatible.
    Uart8250,
    /// NXP i.MX UART.
    Imx,
}

/// A FIFO that stays full this long is dead; the byte is dropped rather than the machine held up.
const PATIENCE: u32 = 1_000_000;

/// The FIFO did not drain once: from then on a byte gets one look.
static DEAD: AtomicBool = AtomicBool::new(false);

impl Uart {
    /// None.
    pub(crate) const NONE: Self = Self {
        // SAFETY: Nobody accesses it.
        mmio: unsafe { Mmio::new(0) },
        kind: Kind::None,
        shift: 0,
        narrow: false,
        status: 0,
        transmit: 0,
        inverted: 0,
        full: 0,
        empty: 0,
    };

    /// The device tree's console.
    ///
    /// # Safety
    /// Its frame is mapped as Device memory at EL2 whenever this is used, or the MMU is off.
    pub(crate) unsafe fn new(found: Console) -> Self {
        let uart = Self {
            // SAFETY: This function's contract.
            mmio: unsafe { Mmio::new(found.base.get() as usize) },
            ..Self::NONE
        };
        match found.kind {
            UartKind::Pl011 => Self {
                kind: Kind::Pl011,
                status: 0x18,  // UARTFR
                full: 1 << 5,  // TXFF
                empty: 1 << 4, // RXFE
                ..uart
            },
            UartKind::Uart8250 { reg_shift, io_width } => Self {
                kind: Kind::Uart8250,
                shift: reg_shift,
                narrow: io_width != 4,
                status: 5 << reg_shift, // LSR
                inverted: 1 << 5 | 1,
                full: 1 << 5, // THRE
                empty: 1,     // DR
                ..uart
            },
            UartKind::Imx => Self {
                kind: Kind::Imx,
                status: 0xB4,   // UTS
                transmit: 0x40, // URTX
                full: 1 << 4,   // TXFULL
                ..uart
            },
        }
    }

    /// Sends one byte, waiting for room in the FIFO (bounded).
    pub(crate) fn send(&self, byte: u8) {
        if self.kind == Kind::None {
            return;
        }
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
            Kind::None | Kind::Imx => {}
            Kind::Pl011 => {
                self.mmio.write32(0x2C, 0x70); // UARTLCR_H: 8 bits, FIFOs
                self.mmio.write32(0x30, 0x301); // UARTCR: RXE, TXE, UARTEN
                self.mmio.write32(0x38, if listen { 0x50 } else { 0 }); // UARTIMSC: RTIM, RXIM
            }
            Kind::Uart8250 => self.write(1 << self.shift, u8::from(listen)), // IER.ERBFI
        }
    }

    #[inline]
    fn says(&self, mask: u8) -> bool {
        (self.read(self.status) ^ self.inverted) & mask != 0
    }

    fn read(&self, register: u8) -> u8 {
        if self.narrow {
            self.mmio.read8(usize::from(register))
        } else {
            self.mmio.read32(usize::from(register)) as u8
        }
    }

    fn write(&self, register: u8, byte: u8) {
        if self.narrow {
            self.mmio.write8(usize::from(register), byte);
        } else {
            self.mmio.write32(usize::from(register), u32::from(byte));
        }
    }
}
