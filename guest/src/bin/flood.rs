//! Takes what is typed as fast as the wire brings it: vCPU 0 checks every byte, in the interrupt's handler, while vCPU 1
//! prints numbered lines. `bytes=N` says how many bytes are typed.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use guest::{bootargs, check, check::Check, cpu, gic, mmio, println, psci, timer};
use hyp_abi::layout::{GICD_BASE, UART_BASE, UART_SPI, affinity_of};

guest::program!(main);

const INTID: u32 = 32 + UART_SPI;

const DR: u64 = UART_BASE;
const FR: u64 = UART_BASE + 0x18;
const LCR_H: u64 = UART_BASE + 0x2C;
const CR: u64 = UART_BASE + 0x30;
const IMSC: u64 = UART_BASE + 0x38;
const ICR: u64 = UART_BASE + 0x44;

const RXFE: u32 = 1 << 4;
const RX: u32 = 1 << 4;
const RT: u32 = 1 << 6;
/// FIFOs, 8 bits.
const FIFO: u32 = 0x70;
/// UARTEN, TXE, RXE.
const ON: u32 = 0x301;

/// Seconds in which all must have come.
const SECONDS: u64 = 90;

/// Bytes that have come.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Where the first wrong byte came, one more than that; 0 for nowhere.
static WRONG: AtomicU64 = AtomicU64::new(0);
/// The sequence's state. `cargo xtask test` types the same one.
static STATE: AtomicU32 = AtomicU32::new(0x2545_F491);
static DONE: AtomicBool = AtomicBool::new(false);

/// The next byte that is typed: a printable one.
fn next() -> u32 {
    let mut state = STATE.load(Ordering::Relaxed);
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    STATE.store(state, Ordering::Relaxed);
    0x20 + (state >> 8) % 95
}

fn receive(intid: u32) {
    if intid != INTID {
        return;
    }
    while mmio::read32(FR) & RXFE == 0 {
        let count = COUNT.load(Ordering::Relaxed) + 1;
        // Bits 11:8 tell of errors: an overrun would be one.
        if mmio::read32(DR) != next() && WRONG.load(Ordering::Relaxed) == 0 {
            WRONG.store(count, Ordering::Relaxed);
        }
        COUNT.store(count, Ordering::Release);
    }
    mmio::write32(ICR, RX | RT);
}

/// What vCPU 1 does until all has come.
fn talk(_: u64) {
    let mut line = 0_u64;
    while !DONE.load(Ordering::Acquire) {
        line += 1;
        println!("line {line} while {} bytes have come", COUNT.load(Ordering::Relaxed));
        // An emulated wire that is never idle one way leaves little time for the other.
        timer::delay(timer::micros(200));
    }
    println!("{}talk lines={line}", check::tag());
}

fn listen() {
    let bit = 1 << (INTID % 32);
    mmio::write32(GICD_BASE + 0x84, mmio::read32(GICD_BASE + 0x84) | bit);
    mmio::write64(GICD_BASE + 0x6000 + 8 * u64::from(INTID), affinity_of(cpu::index()));
    mmio::write8(GICD_BASE + 0x400 + u64::from(INTID), 0x80);
    mmio::write32(GICD_BASE + 0x104, bit);
    mmio::write32(LCR_H, FIFO);
    mmio::write32(CR, ON);
    mmio::write32(ICR, 0x7FF);
    mmio::write32(IMSC, RX | RT);
}

fn main() {
    let mut check = Check::new("flood");
    let bytes = bootargs::number("bytes", 0);
    gic::init_distributor();
    gic::init_cpu();
    gic::set_handler(receive);
    listen();
    // Before the other prints: on a shared pCPU it would nearly always be the one that holds the console.
    println!("listening");
    check.eq("CPU_ON", cpu::start(1, talk, 0), psci::SUCCESS);
    gic::enable(hyp_abi::layout::VTIMER_INTID);
    let come = cpu::nap_until(SECONDS, 1000, || {
        // What has come is taken here: the timer's interrupt, which only ends the nap, is not.
        cpu::unmask();
        cpu::mask();
        COUNT.load(Ordering::Acquire) >= bytes
    });
    DONE.store(true, Ordering::Release);
    check.that(cpu::wait_off(1, 10), "vCPU 1 goes off");
    let (count, wrong) = (COUNT.load(Ordering::Relaxed), WRONG.load(Ordering::Relaxed));
    println!("{}flood bytes={count} wrong={wrong}", check::tag());
    check.that(come, "everything that was typed has come");
    check.eq("bytes", count, bytes);
    check.eq("the first wrong byte", wrong, 0);
    check.finish();
    check::done()
}
