//! The PL011 that each VM has (DDI 0183, PrimeCell UART), as QEMU's `virt` machine has it.
//!
//! A state machine without time and without a wire. Transmission completes at once, so the transmit FIFO is always empty and
//! the transmitter never busy. Reception is [`Pl011::receive`], which takes a byte or leaves it with its caller. Bytes that the
//! FIFO has no room for wait behind it, unseen, as if they were still on the wire: each arrives when the guest has read another.
//! What depends on time in hardware happens at once:
//!
//! | interrupt | raised by | cleared by |
//! |---|---|---|
//! | TX | each byte written: the FIFO falls through its trigger level as it empties | `UARTICR` |
//! | RX | each byte received, whatever `UARTIFLS` says: guests of `virt` may enable RX alone and wait for the first byte; one that finds the FIFO full tells of those that wait | `UARTICR`, reading the last byte |
//! | RT, receive timeout | as RX, and each byte read that leaves others: nobody reads for 32 bit times | as RX |
//! | OE, BE, modem status | in loopback only: overrun, break, a change of a modem output | `UARTICR` |
//!
//! The guest's baud rate, word length and enable bits are kept for it to read and change nothing: software for `virt` may
//! never set them.

mod fifo;

use fifo::Fifo;

// Registers (DDI 0183, 3.2).
const DR: u64 = 0x000;
const RSR: u64 = 0x004;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const PERIPH_ID0: u64 = 0xfe0;
const CELL_ID3: u64 = 0xffc;

/// UARTPeriphID0 to 3 of revision r1p4, as QEMU's has it, then UARTPCellID0 to 3.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

// UARTDR: bits 11:8 tell what was wrong with the byte in 7:0; UARTRSR shows them as bits 3:0.
const DR_BREAK: u16 = 1 << 10;
const RSR_OVERRUN: u8 = 1 << 3;

// UARTFR. BUSY (3) and TXFF (5) are always 0.
const FR_CTS: u16 = 1 << 0;
const FR_DSR: u16 = 1 << 1;
const FR_DCD: u16 = 1 << 2;
const FR_RXFE: u16 = 1 << 4;
const FR_RXFF: u16 = 1 << 6;
const FR_TXFE: u16 = 1 << 7;
const FR_RI: u16 = 1 << 8;

// UARTLCR_H.
const LCR_BRK: u16 = 1 << 0;
const LCR_FEN: u16 = 1 << 4;

// UARTCR. Bits 6:3 are reserved.
const CR_MASK: u16 = 0xff87;
const CR_RESET: u16 = 0x0300;
const CR_LBE: u16 = 1 << 7;
const CR_DTR: u16 = 1 << 10;
const CR_RTS: u16 = 1 << 11;
const CR_OUT1: u16 = 1 << 12;
const CR_OUT2: u16 = 1 << 13;

/// UARTIFLS at reset: both triggers at half full.
const IFLS_RESET: u16 = 0x12;

// UARTIMSC, UARTRIS, UARTMIS, UARTICR.
const INT_ALL: u16 = 0x7ff;
const INT_RI: u16 = 1 << 0;
const INT_CTS: u16 = 1 << 1;
const INT_DCD: u16 = 1 << 2;
const INT_DSR: u16 = 1 << 3;
const INT_RX: u16 = 1 << 4;
const INT_TX: u16 = 1 << 5;
const INT_RT: u16 = 1 << 6;
const INT_BE: u16 = 1 << 9;
const INT_OE: u16 = 1 << 10;

/// What a modem output drives in loopback (DDI 0183, UARTCR.LBE): the output, its flag, its interrupt.
const LOOPED: [(u16, u16, u16); 4] = [
    (CR_RTS, FR_CTS, INT_CTS),
    (CR_DTR, FR_DSR, INT_DSR),
    (CR_OUT1, FR_DCD, INT_DCD),
    (CR_OUT2, FR_RI, INT_RI),
];

/// What a write asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effect {
    /// Send this byte.
    pub transmit: Option<u8>,
}

/// One UART.
///
/// After every [`write`](Self::write), [`receive`](Self::receive), and [`read`](Self::read) of anything but `UARTFR`, the
/// level of the interrupt may be another: [`line`](Self::line).
#[derive(Clone, Debug)]
pub struct Pl011 {
    fifo: Fifo,
    /// Errors of the byte last read, and an overrun.
    rsr: u8,
    ilpr: u8,
    ibrd: u16,
    fbrd: u8,
    lcr_h: u16,
    cr: u16,
    ifls: u16,
    imsc: u16,
    ris: u16,
    /// The modem inputs, as UARTFR has them.
    modem: u16,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// A UART after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            fifo: Fifo::new(),
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_RESET,
            ifls: IFLS_RESET,
            imsc: 0,
            ris: 0,
            modem: 0,
        }
    }

    /// Resets it, with its VM: what was received and not read is gone.
    pub const fn reset(&mut self) {
        *self = Self::new();
    }

    /// The level of UARTINTR, the one interrupt.
    #[must_use]
    pub const fn line(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// Whether [`receive`](Self::receive) would take a byte now.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.cr & CR_LBE != 0 || self.fifo.len() < fifo::CAPACITY
    }

    /// Takes one byte from outside; in loopback nobody hears it. False: there is no room, and the caller keeps the byte.
    #[must_use = "a byte that is not taken is the caller's to keep"]
    pub const fn receive(&mut self, byte: u8) -> bool {
        let room = self.has_room();
        if self.cr & CR_LBE == 0 {
            // Without room, too: a guest that has cleared its interrupts is told again that bytes wait.
            self.take(byte as u16);
        }
        room
    }

    /// Reads `size` bytes (1, 2 or 4) at `offset`. Other sizes and registers that do not exist give 0.
    #[must_use]
    pub const fn read(&mut self, offset: u64, size: u8) -> u64 {
        let mask = match size {
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => return 0,
        };
        let value = match offset & !3 {
            // First: guests poll it.
            FR => self.flags(),
            DR => self.pop(),
            register => self.peek(register),
        };
        value as u64 >> (8 * (offset & 3)) & mask
    }

    /// Writes `size` bytes (1, 2 or 4) at `offset`. A narrow write is of the whole register, its other bits 0, as the bus gives
    /// it to the device. One that does not begin at a register, or has another size, is ignored.
    pub const fn write(&mut self, offset: u64, size: u8, value: u64) -> Effect {
        let value = match size {
            1 => value as u16 & 0xff,
            2 | 4 => value as u16,
            _ => return Effect { transmit: None },
        };
        match offset {
            DR => return self.transmit(value as u8),
            RSR => self.rsr = 0,
            ILPR => self.ilpr = value as u8,
            IBRD => self.ibrd = value,
            FBRD => self.fbrd = value as u8 & 0x3f,
            LCR_H => self.set_line_control(value & 0xff),
            CR => self.set_control(value & CR_MASK),
            IFLS => self.ifls = value & 0x3f,
            IMSC => self.imsc = value & INT_ALL,
            ICR => self.ris &= !value,
            // UARTFR, UARTRIS, UARTMIS and identification are read-only; UARTDMACR stays 0, for there is no DMA.
            _ => {}
        }
        Effect { transmit: None }
    }

    const fn depth(&self) -> usize {
        if self.lcr_h & LCR_FEN != 0 { fifo::DEPTH } else { 1 }
    }

    const fn flags(&self) -> u16 {
        let received = match self.fifo.len() {
            0 => FR_RXFE,
            some if some >= self.depth() => FR_RXFF,
            _ => 0,
        };
        FR_TXFE | received | self.modem
    }

    /// A register whose reading changes nothing.
    const fn peek(&self, register: u64) -> u16 {
        match register {
            RSR => self.rsr as u16,
            ILPR => self.ilpr as u16,
            IBRD => self.ibrd,
            FBRD => self.fbrd as u16,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.ris,
            MIS => self.ris & self.imsc,
            PERIPH_ID0..=CELL_ID3 => IDENTIFICATION[((register - PERIPH_ID0) / 4 % 8) as usize] as u16,
            _ => 0,
        }
    }

    /// `UARTDR` is read. An empty FIFO gives 0.
    const fn pop(&mut self) -> u16 {
        let Some(entry) = self.fifo.pop() else { return 0 };
        self.rsr = self.rsr & RSR_OVERRUN | (entry >> 8) as u8;
        if self.fifo.len() == 0 {
            self.ris &= !(INT_RX | INT_RT);
        } else {
            // Nothing more is received: a guest that clears first and reads one byte each time has the others.
            self.ris |= INT_RT;
            if self.fifo.len() >= self.depth() {
                // One that waited has arrived.
                self.ris |= INT_RX;
            }
        }
        entry
    }

    /// An entry for the FIFO, or to wait behind it.
    const fn take(&mut self, entry: u16) {
        self.fifo.push(entry);
        self.ris |= INT_RX | INT_RT;
    }

    const fn transmit(&mut self, byte: u8) -> Effect {
        self.ris |= INT_TX;
        self.loop_back(byte as u16);
        Effect { transmit: Some(byte) }
    }

    /// What the transmitter sends reaches the receiver in loopback: the one case of an overrun.
    const fn loop_back(&mut self, entry: u16) {
        if self.cr & CR_LBE == 0 {
            return;
        }
        if self.fifo.len() < self.depth() {
            self.take(entry);
        } else {
            self.rsr |= RSR_OVERRUN;
            self.ris |= INT_OE;
        }
    }

    const fn set_line_control(&mut self, value: u16) {
        let changed = self.lcr_h ^ value;
        self.lcr_h = value;
        if changed & LCR_FEN != 0 {
            // Both FIFOs start empty in their new form.
            self.fifo.clear();
            self.ris &= !(INT_RX | INT_RT);
        }
        if changed & value & LCR_BRK != 0 && self.cr & CR_LBE != 0 {
            self.ris |= INT_BE;
            self.loop_back(DR_BREAK);
        }
    }

    const fn set_control(&mut self, value: u16) {
        self.cr = value;
        let mut index = 0;
        while index < LOOPED.len() {
            let (output, flag, interrupt) = LOOPED[index];
            let now = if value & CR_LBE != 0 && value & output != 0 { flag } else { 0 };
            if self.modem & flag != now {
                self.modem ^= flag;
                self.ris |= interrupt;
            }
            index += 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
