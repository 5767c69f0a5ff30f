//! What the drivers of U-Boot and Linux rely on, by name.

use super::*;

const FEN: u64 = 0x70;
const RX_AND_RT: u64 = (INT_RX | INT_RT) as u64;
const TX: u64 = INT_TX as u64;

fn with_fifo() -> Pl011 {
    let mut uart = Pl011::new();
    let _ = uart.write(LCR_H, 2, FEN);
    uart
}

fn sent(uart: &mut Pl011, size: u8, value: u64) -> Option<u8> {
    uart.write(DR, size, value).transmit
}

#[test]
fn a_byte_written_to_dr_is_sent_whatever_the_size() {
    let mut uart = Pl011::new();
    for size in [1, 2, 4] {
        assert_eq!(sent(&mut uart, size, 0xf41), Some(b'A'));
    }
    assert_eq!(sent(&mut uart, 8, 0x41), None);
    assert_eq!(uart.write(DR + 1, 1, 0x41).transmit, None, "the middle of a register");
}

#[test]
fn a_byte_is_sent_before_the_guest_has_enabled_anything() {
    let mut uart = Pl011::new();
    let _ = uart.write(CR, 2, 0);
    assert_eq!(sent(&mut uart, 4, 0x41), Some(b'A'));
}

/// U-Boot, and Linux's early and boot consoles: wait while TXFF, write, wait while BUSY.
#[test]
fn the_transmitter_is_never_busy_or_full() {
    let mut uart = with_fifo();
    for _ in 0..100 {
        for size in [1, 2, 4] {
            assert_eq!(uart.read(FR, size), 0x90);
        }
        assert_eq!(sent(&mut uart, 4, 0x42), Some(b'B'));
    }
}

#[test]
fn registers_are_as_in_the_manual_after_reset() {
    let mut uart = with_fifo();
    assert!(uart.receive(1));
    let _ = (uart.write(IMSC, 4, !0), uart.write(CR, 4, !0), uart.write(IFLS, 4, 0));
    uart.reset();
    let found = [RSR, FR, ILPR, IBRD, FBRD, LCR_H, CR, IFLS, IMSC, RIS, MIS, 0x48].map(|offset| uart.read(offset, 4));
    assert_eq!(found, [0, 0x90, 0, 0, 0, 0, 0x300, 0x12, 0, 0, 0, 0]);
    assert!(!uart.line());
}

#[test]
fn identification_is_a_pl011_in_words_and_in_bytes() {
    let mut uart = Pl011::new();
    for size in [1, 2, 4] {
        let id: [u64; 8] = core::array::from_fn(|i| uart.read(0xfe0 + 4 * i as u64, size));
        assert_eq!(id, [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
        // As Linux's AMBA bus puts them together: part 0x011, designer 0x41 (Arm).
        assert_eq!((id[0] | id[1] << 8 | id[2] << 16) & 0x000f_ffff, 0x0004_1011);
    }
}

#[test]
fn a_received_byte_is_there_at_once_and_interrupts() {
    for fen in [0, FEN] {
        let mut uart = Pl011::new();
        let _ = uart.write(LCR_H, 2, fen);
        let _ = uart.write(IMSC, 2, RX_AND_RT);
        assert!(!uart.line() && uart.receive(b'x') && uart.line());
        assert_eq!(uart.read(FR, 4) & u64::from(FR_RXFE), 0);
        assert_eq!(uart.read(MIS, 4), RX_AND_RT);
        assert_eq!(uart.read(DR, 4), u64::from(b'x'), "no error flags");
        assert_eq!(uart.read(FR, 4), 0x90);
        assert!(!uart.line(), "the last byte takes the interrupt with it");
        assert_eq!(uart.read(DR, 4), 0, "empty");
    }
}

#[test]
fn either_receive_interrupt_alone_tells_of_the_first_byte() {
    for mask in [INT_RX, INT_RT] {
        let mut uart = with_fifo();
        let _ = uart.write(IFLS, 2, 4 << 3);
        let _ = uart.write(IMSC, 2, u64::from(mask));
        assert!(uart.receive(1) && uart.line());
    }
}

#[test]
fn what_a_full_fifo_has_no_room_for_waits_behind_it() {
    for (fen, depth) in [(0, 1), (FEN, 32)] {
        let mut uart = Pl011::new();
        let _ = uart.write(LCR_H, 2, fen);
        for byte in 0..64 {
            assert!(uart.has_room());
            assert_eq!(uart.read(FR, 2) & u64::from(FR_RXFF) != 0, byte >= depth);
            assert!(uart.receive(byte));
        }
        assert!(!uart.has_room() && !uart.receive(199));
        assert_eq!(uart.read(FR, 2), u64::from(FR_TXFE | FR_RXFF));
        assert_eq!(uart.read(DR, 2), 0, "the oldest first, nothing overwritten");
        assert!(uart.has_room() && uart.receive(200));
        let rest: Vec<u64> = (0..64).map(|_| uart.read(DR, 1)).collect();
        assert_eq!(rest, (1..64).chain([200]).collect::<Vec<_>>());
        assert_eq!((uart.read(RSR, 2), uart.read(FR, 2)), (0, 0x90), "no overrun");
    }
}

#[test]
fn a_byte_that_waited_interrupts_when_it_arrives() {
    let mut uart = Pl011::new();
    let _ = uart.write(IMSC, 2, u64::from(INT_RX));
    assert!(uart.receive(1) && uart.receive(2));
    let _ = uart.write(ICR, 2, 0x7ff);
    assert!(!uart.line());
    assert_eq!((uart.read(DR, 1), uart.line()), (1, true));
    assert_eq!((uart.read(DR, 1), uart.line()), (2, false));
}

/// A guest that cleared RX and RT with bytes unread would otherwise never hear of them again, and the FIFO stay full.
#[test]
fn a_byte_offered_to_a_full_fifo_interrupts_again() {
    let mut uart = Pl011::new();
    let _ = uart.write(IMSC, 2, RX_AND_RT);
    for byte in 0..=64 {
        let _ = uart.write(ICR, 2, RX_AND_RT);
        assert!(!uart.line());
        assert_eq!((uart.receive(byte), uart.line()), (byte < 64, true));
    }
}

/// DDI 0183, receive timeout interrupt: the FIFO is not empty and no more data is received. So a handler that clears the interrupt and
/// reads one byte is called for each.
#[test]
fn the_timeout_comes_again_for_each_byte_that_a_read_leaves() {
    let mut uart = with_fifo();
    let _ = uart.write(IMSC, 2, u64::from(INT_RT));
    for byte in 0..5 {
        assert!(uart.receive(byte));
    }
    for byte in 0..5 {
        assert!(uart.line(), "{byte} is not read");
        let _ = uart.write(ICR, 2, RX_AND_RT);
        assert!(!uart.line());
        assert_eq!(uart.read(DR, 1), byte);
    }
    assert!(!uart.line() && uart.read(RIS, 2) == 0);
}

#[test]
fn cleared_receive_interrupts_come_back_with_the_next_byte() {
    let mut uart = with_fifo();
    let _ = uart.write(IMSC, 2, RX_AND_RT);
    assert!(uart.receive(1));
    let _ = uart.write(ICR, 2, 0x7ff);
    assert!(!uart.line() && uart.receive(2) && uart.line());
}

/// Linux, `pl011_enable_interrupts`: clear RT and RX, drain twice its idea of the FIFO's depth (16 for r1p4), enable.
#[test]
fn linux_opens_the_port_with_an_empty_fifo() {
    let mut uart = with_fifo();
    while uart.read(FR, 2) & u64::from(FR_RXFF) == 0 {
        assert!(uart.receive(7));
    }
    let _ = uart.write(ICR, 2, RX_AND_RT);
    for _ in 0..2 * 16 {
        if uart.read(FR, 2) & u64::from(FR_RXFE) != 0 {
            break;
        }
        let _ = uart.read(DR, 2);
    }
    let _ = uart.write(IMSC, 2, RX_AND_RT);
    assert!(!uart.line() && uart.receive(8) && uart.line());
}

/// Linux's interrupt handler: sends up to half its FIFO each time TX is raised, and masks TX when it has no more.
#[test]
fn linux_sends_everything_by_interrupts() {
    let mut uart = with_fifo();
    let (mut left, mut out, mut interrupts) = (100_u64, vec![], 0);
    let _ = uart.write(IMSC, 2, RX_AND_RT | TX);
    // `pl011_start_tx_pio` writes the first bytes itself.
    out.extend(sent(&mut uart, 2, left));
    left -= 1;
    while uart.line() {
        interrupts += 1;
        assert_eq!(uart.read(RIS, 2), TX);
        for _ in 0..8 {
            if left == 0 {
                break;
            }
            out.extend(sent(&mut uart, 2, left));
            left -= 1;
        }
        if left == 0 {
            let _ = uart.write(IMSC, 2, RX_AND_RT);
        }
    }
    assert_eq!((left, out.len()), (0, 100));
    assert_eq!(interrupts, 13);
}

#[test]
fn tx_is_raised_by_a_write_and_cleared_by_icr() {
    let mut uart = Pl011::new();
    let _ = uart.write(IMSC, 2, TX);
    assert!(!uart.line(), "nothing was sent yet");
    assert_eq!(sent(&mut uart, 1, 1), Some(1));
    assert!(uart.line());
    let _ = uart.write(ICR, 2, TX);
    assert!(!uart.line());
    assert_eq!(sent(&mut uart, 1, 1), Some(1));
    assert!(uart.line());
    let _ = uart.write(IMSC, 2, 0);
    assert!(!uart.line());
    assert_eq!((uart.read(RIS, 2), uart.read(MIS, 2)), (TX, 0), "masked, not cleared");
}

#[test]
fn changing_fen_empties_the_fifo_and_its_interrupts() {
    let mut uart = with_fifo();
    let _ = uart.write(IMSC, 2, RX_AND_RT);
    assert!(uart.receive(1) && uart.receive(2));
    let _ = uart.write(LCR_H, 2, FEN | 1);
    assert!(uart.line(), "FEN is as before");
    let _ = uart.write(LCR_H, 2, 0x60);
    assert_eq!((uart.line(), uart.read(FR, 2)), (false, 0x90));
    assert!(uart.receive(3));
    assert_eq!(uart.read(FR, 2) & u64::from(FR_RXFF), u64::from(FR_RXFF));
}

#[test]
fn loopback_feeds_the_receiver_and_shuts_the_outside_out() {
    let mut uart = with_fifo();
    let _ = uart.write(CR, 2, u64::from(CR_RESET | CR_LBE | 1));
    assert!(uart.has_room() && uart.receive(b'o'), "it goes nowhere");
    assert_eq!(uart.read(FR, 2), 0x90);
    for byte in 0..40 {
        assert_eq!(sent(&mut uart, 1, byte), Some(byte as u8));
    }
    assert_eq!(uart.read(RIS, 2), RX_AND_RT | TX | u64::from(INT_OE));
    assert_eq!(uart.read(RSR, 1), u64::from(RSR_OVERRUN));
    for byte in 0..32 {
        assert_eq!(uart.read(DR, 4), byte);
    }
    assert_eq!(uart.read(FR, 2), 0x90);
    let _ = uart.write(RSR, 1, 0);
    assert_eq!(uart.read(RSR, 1), 0);
}

#[test]
fn loopback_turns_modem_outputs_into_inputs() {
    for (output, flag, interrupt) in LOOPED {
        let mut uart = Pl011::new();
        let _ = uart.write(CR, 2, u64::from(output));
        assert_eq!((uart.read(FR, 2), uart.read(RIS, 2)), (0x90, 0));
        let _ = uart.write(CR, 2, u64::from(output | CR_LBE));
        assert_eq!(uart.read(FR, 2), 0x90 | u64::from(flag));
        assert_eq!(uart.read(RIS, 2), u64::from(interrupt));
        let _ = uart.write(ICR, 2, 0xf);
        let _ = uart.write(CR, 2, u64::from(output));
        assert_eq!((uart.read(FR, 2), uart.read(RIS, 2)), (0x90, u64::from(interrupt)));
    }
}

#[test]
fn a_break_in_loopback_is_received_as_one() {
    let mut uart = with_fifo();
    let _ = uart.write(CR, 2, u64::from(CR_LBE));
    let _ = uart.write(LCR_H, 2, FEN | 1);
    assert_eq!(uart.read(RIS, 2), RX_AND_RT | u64::from(INT_BE));
    assert_eq!(uart.read(DR, 4), 0x400);
    assert_eq!(uart.read(RSR, 4), 4);
}

#[test]
fn a_narrow_read_gives_the_bytes_it_names() {
    let mut uart = Pl011::new();
    assert_eq!([0, 1, 2, 3].map(|byte| uart.read(CR + byte, 1)), [0, 3, 0, 0]);
    assert_eq!([0, 2].map(|half| uart.read(CR + half, 2)), [0x300, 0]);
    assert!(uart.receive(9));
    assert_eq!(uart.read(DR, 1), 9);
}

#[test]
fn what_is_not_emulated_reads_zero_and_ignores_writes() {
    let mut uart = Pl011::new();
    for offset in [0x08, 0x14, 0x1c, 0x48, 0x4c, 0xfdc, 0x1000, u64::MAX] {
        let _ = uart.write(offset, 4, !0);
        assert_eq!(uart.read(offset, 4), 0, "{offset:#x}");
    }
    assert_eq!(uart.read(FR, 8), 0);
}

#[test]
fn every_offset_and_size_has_a_result() {
    let mut uart = with_fifo();
    for offset in (0..0x1010).step_by(if cfg!(miri) { 61 } else { 1 }) {
        for size in 0..=9 {
            let _ = uart.receive(1);
            assert!(uart.read(offset, size) < 1 << 16);
            let sent = offset == 0 && matches!(size, 1 | 2 | 4);
            assert_eq!(uart.write(offset, size, !0).transmit.is_some(), sent);
        }
    }
}
