//! The PL011 that each VM has: polled, and it only transmits. DDI 0183 (PrimeCell UART, PL011).

/// Data register.
const DR: u64 = 0x000;
/// Flag register.
const FR: u64 = 0x018;
/// First peripheral identification register; the four of the cell follow.
const PERIPH_ID0: u64 = 0xfe0;
/// Flag: the transmit FIFO is empty.
const FR_TXFE: u64 = 1 << 7;
/// Flag: the receive FIFO is empty.
const FR_RXFE: u64 = 1 << 4;
/// UARTPeriphID0 to 3 of revision r1p4, as QEMU's has it, then UARTPCellID0 to 3.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read gives this value.
    Read(u64),
    /// A write changes nothing.
    Ignored,
    /// A write sends this byte.
    Transmit(u8),
}

/// Decides one access of `size` bytes at `offset` into the frame; `write` is the value of a store. Never busy: the transmit FIFO is
/// always empty, and so is the receive FIFO. Registers that are not emulated, and accesses of eight bytes, read 0 and ignore writes.
#[must_use]
pub const fn access(offset: u64, size: u8, write: Option<u64>) -> Access {
    match write {
        Some(value) => store(offset, size, value),
        None => Access::Read(load(offset, size)),
    }
}

const fn store(offset: u64, size: u8, value: u64) -> Access {
    match (offset, size) {
        (DR, 1 | 2 | 4) => Access::Transmit(value as u8),
        _ => Access::Ignored,
    }
}

const fn load(offset: u64, size: u8) -> u64 {
    let mask = match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => return 0,
    };
    register(offset & !3) >> (8 * (offset & 3)) & mask
}

const fn register(offset: u64) -> u64 {
    match offset {
        FR => FR_TXFE | FR_RXFE,
        PERIPH_ID0..=0xffc => IDENTIFICATION[((offset - PERIPH_ID0) / 4 % 8) as usize] as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_written_to_dr_is_sent_whatever_the_size() {
        for size in [1, 2, 4] {
            assert_eq!(access(0, size, Some(0xf41)), Access::Transmit(b'A'));
        }
        assert_eq!(access(0, 8, Some(0x41)), Access::Ignored);
    }

    #[test]
    fn the_transmitter_is_never_busy_and_nothing_is_received() {
        for size in [1, 2, 4] {
            assert_eq!(access(0x18, size, None), Access::Read(0x90));
        }
        assert_eq!(access(0, 4, None), Access::Read(0));
    }

    #[test]
    fn identification_is_a_pl011_in_words_and_in_bytes() {
        let id = |size| core::array::from_fn::<_, 8, _>(|i| access(0xfe0 + 4 * i as u64, size, None));
        let expected = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1].map(Access::Read);
        assert_eq!(id(4), expected);
        assert_eq!(id(1), expected);
        // As Linux's AMBA bus puts them together: part 0x011, designer 0x41 (Arm), and the PrimeCell id.
        let [p0, p1, p2, ..] = expected.map(|a| if let Access::Read(v) = a { v } else { 0 });
        assert_eq!((p0 | p1 << 8 | p2 << 16) & 0x000f_ffff, 0x0004_1011);
    }

    #[test]
    fn every_offset_and_size_has_a_result() {
        for offset in (0..0x1010).step_by(if cfg!(miri) { 4 } else { 1 }) {
            for size in 0..=9 {
                assert!(matches!(access(offset, size, None), Access::Read(_)));
                let sent = offset == 0 && matches!(size, 1 | 2 | 4);
                assert_eq!(matches!(access(offset, size, Some(!0)), Access::Transmit(0xff)), sent);
            }
        }
        assert_eq!(access(u64::MAX, 4, None), Access::Read(0));
    }

    #[test]
    fn what_is_not_emulated_reads_zero() {
        for offset in [0x04, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x44, 0x48, 0xfdc] {
            assert_eq!(access(offset, 4, None), Access::Read(0), "{offset:#x}");
            assert_eq!(access(offset, 4, Some(!0)), Access::Ignored, "{offset:#x}");
        }
        assert_eq!(access(0x18, 8, None), Access::Read(0));
    }
}
