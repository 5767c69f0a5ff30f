//! The PL011 (DDI 0183) and its interrupt, INTID 33, without anybody typing: transmission, and what loopback receives.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};
use guest::check::Check;
use guest::gic::{self, SPURIOUS};
use guest::{cpu, fault, mmio, timer};
use hyp_abi::layout::{GICD_BASE, UART_BASE, UART_SPI, affinity_of};

guest::tests!(
    identification,
    registers,
    flags,
    transmit_interrupt,
    transmit_interrupt_is_taken,
    loopback_receives,
    loopback_receive_interrupt,
    loopback_overrun,
    wakes_wfi,
    accesses_of_every_size
);

const INTID: u32 = 32 + UART_SPI;

const DR: u64 = 0x00;
const RSR: u64 = 0x04;
const FR: u64 = 0x18;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCR_H: u64 = 0x2C;
const CR: u64 = 0x30;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3C;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;

const RXFE: u32 = 1 << 4;
const TXFF: u32 = 1 << 5;
const RXFF: u32 = 1 << 6;
const TXFE: u32 = 1 << 7;
const BUSY: u32 = 1 << 3;

const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;
const OE: u32 = 1 << 10;

/// UARTEN, TXE, RXE.
const ON: u32 = 0x301;
const LOOP: u32 = 1 << 7;
/// FIFOs, 8 bits.
const FIFO: u32 = 0x70;

fn read(register: u64) -> u32 {
    mmio::read32(UART_BASE + register)
}

fn write(register: u64, value: u32) {
    mmio::write32(UART_BASE + register, value);
}

/// The UART on, nothing received and no interrupt asked for; the SPI level-sensitive, enabled, for this vCPU.
fn fresh() {
    cpu::mask();
    timer::disarm();
    gic::init_distributor();
    gic::init_cpu();
    write(IMSC, 0);
    write(LCR_H, 0);
    write(LCR_H, FIFO);
    write(CR, ON);
    while read(FR) & RXFE == 0 {
        let _typed = read(DR);
    }
    write(RSR, 0);
    write(ICR, 0x7FF);
    let bit = 1 << (INTID % 32);
    mmio::write32(GICD_BASE + 0x84, mmio::read32(GICD_BASE + 0x84) | bit);
    mmio::write32(GICD_BASE + 0x184, bit);
    mmio::write32(GICD_BASE + 0x284, bit);
    mmio::write32(GICD_BASE + 0xC08, mmio::read32(GICD_BASE + 0xC08) & !(2 << (INTID % 16 * 2)));
    mmio::write8(GICD_BASE + 0x400 + u64::from(INTID), 0x80);
    mmio::write64(GICD_BASE + 0x6000 + 8 * u64::from(INTID), affinity_of(cpu::index()));
    mmio::write32(GICD_BASE + 0x104, bit);
}

/// Whether the SPI is pending.
fn pending() -> bool {
    mmio::read32(GICD_BASE + 0x204) >> (INTID % 32) & 1 != 0
}

/// Acknowledges the next interrupt, if one comes in time.
fn take() -> u32 {
    let mut intid = SPURIOUS;
    let _in_time = cpu::wait_until(2, || {
        intid = gic::iar1();
        intid != SPURIOUS
    });
    intid
}

fn identification(check: &mut Check) {
    let found: [u32; 8] = core::array::from_fn(|n| read(0xFE0 + 4 * n as u64));
    check.eq(
        "UARTPeriphID0 to 3, UARTPCellID0 to 3",
        found,
        [0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1],
    );
}

fn registers(check: &mut Check) {
    fresh();
    for (what, register, value, kept) in [
        ("UARTIBRD", IBRD, 0x1234, 0x1234),
        ("UARTFBRD", FBRD, 0x3F, 0x3F),
        ("UARTLCR_H", LCR_H, 0x70, 0x70),
        ("UARTIFLS", IFLS, 0x12, 0x12),
        ("UARTIMSC", IMSC, 0, 0),
        ("UARTCR", CR, ON, ON),
    ] {
        write(register, value);
        check.eq(what, read(register), kept);
    }
    write(RIS, 0x7FF);
    check.eq("UARTRIS is read-only", read(RIS), 0);
    check.eq("UARTICR reads as zero", read(ICR), 0);
}

fn flags(check: &mut Check) {
    fresh();
    check.eq(
        "UARTFR: nothing received, everything sent",
        read(FR) & (RXFE | RXFF | TXFE | TXFF | BUSY),
        RXFE | TXFE,
    );
}

/// A line of its own, so that the console's reader is not confused.
fn send_newline() {
    write(DR, u32::from(b'\n'));
}

fn transmit_interrupt(check: &mut Check) {
    fresh();
    check.eq("UARTRIS at rest", read(RIS) & TX, 0);
    send_newline();
    check.that(cpu::wait_until(2, || read(RIS) & TX != 0), "UARTRIS.TXRIS when a byte has left");
    check.eq("UARTMIS while it is masked", read(MIS), 0);
    check.that(!pending(), "INTID 33 while it is masked");
    write(IMSC, TX);
    check.eq("UARTMIS.TXMIS", read(MIS), TX);
    check.that(cpu::wait_until(2, pending), "INTID 33 is pending");
    write(IMSC, 0);
    check.that(cpu::wait_until(2, || !pending()), "UARTIMSC lets the line fall");
    write(IMSC, TX);
    write(ICR, TX);
    check.eq("UARTRIS after UARTICR", read(RIS) & TX, 0);
    check.that(cpu::wait_until(2, || !pending()), "UARTICR lets the line fall");
    write(IMSC, 0);
}

fn transmit_interrupt_is_taken(check: &mut Check) {
    fresh();
    write(IMSC, TX);
    for _ in 0..5 {
        send_newline();
        check.eq("what is taken", take(), INTID);
        gic::eoir1(INTID);
        check.eq("again, for the line is still up", take(), INTID);
        write(ICR, TX);
        gic::eoir1(INTID);
        check.eq("after UARTICR", gic::iar1(), SPURIOUS);
    }
    write(IMSC, 0);
}

fn loopback_receives(check: &mut Check) {
    fresh();
    write(CR, ON | LOOP);
    for byte in b"loop\n" {
        write(DR, u32::from(*byte));
    }
    check.eq("UARTFR.RXFE", read(FR) & RXFE, 0);
    for byte in b"loop\n" {
        check.eq("UARTDR", read(DR), u32::from(*byte));
    }
    check.eq("UARTFR.RXFE when all is read", read(FR) & RXFE, RXFE);
    check.eq("UARTRIS then", read(RIS) & (RX | RT), 0);
    write(CR, ON);
}

static RECEIVED: AtomicU32 = AtomicU32::new(0);

fn receive(intid: u32) {
    if intid == INTID {
        while read(FR) & RXFE == 0 {
            if read(DR) == u32::from(b'\n') {
                RECEIVED.fetch_add(1, Ordering::Relaxed);
            }
        }
        write(ICR, RX | RT);
    }
}

fn loopback_receive_interrupt(check: &mut Check) {
    fresh();
    gic::set_handler(receive);
    RECEIVED.store(0, Ordering::Relaxed);
    write(CR, ON | LOOP);
    write(IMSC, RX | RT);
    check.eq("nothing at first", gic::iar1(), SPURIOUS);
    cpu::unmask();
    for count in 1..=20 {
        send_newline();
        if !check.that(
            cpu::wait_until(2, || RECEIVED.load(Ordering::Relaxed) == count),
            "the handler receives what was sent",
        ) {
            break;
        }
    }
    cpu::mask();
    check.that(!pending(), "nothing is pending when all is read");
    write(IMSC, 0);
    write(CR, ON);
}

fn loopback_overrun(check: &mut Check) {
    fresh();
    write(CR, ON | LOOP);
    let depth = (1..=64).take_while(|_| {
        send_newline();
        read(FR) & RXFF == 0
    });
    let depth = depth.count() + 1;
    check.that(depth == 16 || depth == 32, "the receive FIFO's depth");
    check.eq("UARTRIS.OERIS when it is full", read(RIS) & OE, 0);
    send_newline();
    check.eq("and one byte later", read(RIS) & OE, OE);
    check.eq("UARTRSR.OE", read(RSR) & 8, 8);
    write(RSR, 0);
    check.eq("UARTECR clears it", read(RSR), 0);
    let mut left = 0;
    while read(FR) & RXFE == 0 && left < 64 {
        let _byte = read(DR);
        left += 1;
    }
    check.eq("bytes that were kept", left, depth);
    write(CR, ON);
}

fn wakes_wfi(check: &mut Check) {
    fresh();
    write(IMSC, TX);
    send_newline();
    cpu::wfi();
    check.eq("what ends WFI", gic::iar1(), INTID);
    write(ICR, TX);
    gic::eoir1(INTID);
    write(IMSC, 0);
}

fn accesses_of_every_size(check: &mut Check) {
    fresh();
    let found = fault::catch(|| {
        check.eq("a half-word of UARTFR", u32::from(mmio::read16(UART_BASE + FR)), read(FR));
        check.eq("a byte of UARTFR", u32::from(mmio::read8(UART_BASE + FR)), read(FR) & 0xFF);
        mmio::write16(UART_BASE + IBRD, 0x0102);
        check.eq("UARTIBRD after a half-word", read(IBRD), 0x0102);
        mmio::write8(UART_BASE + DR, b'\n');
        check.eq("a byte to UARTDR is sent", read(RIS) & TX, TX);
        for offset in (0..0x1000).step_by(4) {
            if offset != DR {
                let _value = mmio::read32(UART_BASE + offset);
            }
        }
    });
    check.eq("a fault", found, None);
    write(ICR, 0x7FF);
}
