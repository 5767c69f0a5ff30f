//! What concerns one vCPU: devices, interrupts to oneself, registers, WFI, faults.

use crate::clock::{Vectors, collect, marked, measure, measure_two, now, pair, report, timed};
use core::arch::asm;
use guest::{cpu, gic, mmio, timer};
use hyp_abi::layout::{GICD_BASE, UART_BASE, UART_SPI, VTIMER_INTID};

const GICD_TYPER: u64 = GICD_BASE + 0x4;
const GICD_ISENABLER1: u64 = GICD_BASE + 0x104;
const GICD_ISPENDR1: u64 = GICD_BASE + 0x204;
const GICD_IPRIORITYR8: u64 = GICD_BASE + 0x420;
const GICD_IROUTER33: u64 = GICD_BASE + 0x6000 + 8 * 33;
const GICR_TYPER: u64 = 0x8;
const GICR_ISENABLER0: u64 = 0x1_0100;
const GICR_ISPENDR0: u64 = 0x1_0200;
const GICR_IPRIORITYR0: u64 = 0x1_0400;

const UART_DR: u64 = UART_BASE;
const UART_FR: u64 = UART_BASE + 0x18;
const UART_CR: u64 = UART_BASE + 0x30;
const UART_IMSC: u64 = UART_BASE + 0x38;
const UART_ICR: u64 = UART_BASE + 0x44;
const UART_TX: u32 = 1 << 5;
const SPI: u32 = 32 + UART_SPI;
/// An address where nobody has anything.
const NOTHING: u64 = 0x0F00_0000;
/// Ticks from arming the timer to its interrupt.
const AHEAD: u64 = 3000;

/// The distributor and this vCPU's interface on, the UART's SPI level-sensitive and routed here.
pub(crate) fn prepare() {
    gic::init_distributor();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    mmio::write32(UART_IMSC, 0);
    mmio::write32(UART_CR, 0x301);
    mmio::write32(UART_ICR, 0x7FF);
    let bit = 1 << (SPI % 32);
    mmio::write32(GICD_BASE + 0x84, mmio::read32(GICD_BASE + 0x84) | bit);
    mmio::write8(GICD_BASE + 0x400 + u64::from(SPI), 0xA0);
    mmio::write64(GICD_IROUTER33, cpu::affinity());
    mmio::write32(GICD_ISENABLER1, bit);
}

fn read32(address: u64) -> u64 {
    marked(|| timed!("ldr {v:w}, [{a}]", v = out(reg) _, a = in(reg) address)).wrapping_sub(pair())
}

fn write32(address: u64, value: u32) -> u64 {
    marked(|| timed!("str {v:w}, [{a}]", v = in(reg) value, a = in(reg) address)).wrapping_sub(pair())
}

fn read64(address: u64) -> u64 {
    marked(|| timed!("ldr {v}, [{a}]", v = out(reg) _, a = in(reg) address)).wrapping_sub(pair())
}

fn write64(address: u64, value: u64) -> u64 {
    marked(|| timed!("str {v}, [{a}]", v = in(reg) value, a = in(reg) address)).wrapping_sub(pair())
}

/// GICD, GICR and PL011 registers.
pub(crate) fn devices(wants: &dyn Fn(&str) -> bool) {
    let gicr = gic::redistributor();
    let bit = 1 << (SPI % 32);
    let reads = [
        ("gicd-typer-read", GICD_TYPER),
        ("gicd-isenabler1-read", GICD_ISENABLER1),
        ("gicd-ipriorityr-read", GICD_IPRIORITYR8),
        ("gicd-ispendr-read", GICD_ISPENDR1),
        ("gicr-isenabler0-read", gicr + GICR_ISENABLER0),
        ("gicr-ipriorityr-read", gicr + GICR_IPRIORITYR0),
        ("gicr-ispendr-read", gicr + GICR_ISPENDR0),
        ("pl011-fr-read", UART_FR),
    ];
    for (name, address) in reads {
        if wants(name) {
            measure(name, || read32(address));
        }
    }
    for (name, address) in [("gicd-irouter-read", GICD_IROUTER33), ("gicr-typer-read", gicr + GICR_TYPER)] {
        if wants(name) {
            measure(name, || read64(address));
        }
    }
    let writes = [
        ("gicd-isenabler1-write", GICD_ISENABLER1, bit),
        ("gicd-ipriorityr-write", GICD_IPRIORITYR8, 0xA0A0_A0A0),
        ("gicr-isenabler0-write", gicr + GICR_ISENABLER0, 1 << VTIMER_INTID),
        ("gicr-ipriorityr-write", gicr + GICR_IPRIORITYR0, 0xA0A0_A0A0),
    ];
    for (name, address, value) in writes {
        if wants(name) {
            measure(name, || write32(address, value));
        }
    }
    if wants("gicd-irouter-write") {
        measure("gicd-irouter-write", || write64(GICD_IROUTER33, cpu::affinity()));
    }
    // An SPI and an SGI that are not enabled: made pending, and not taken.
    if wants("gicd-ispendr-write") {
        measure("gicd-ispendr-write", || {
            let ticks = write32(GICD_ISPENDR1, 1 << 20);
            mmio::write32(GICD_ISPENDR1 + 0x80, 1 << 20);
            ticks
        });
    }
    if wants("gicr-ispendr-write") {
        gic::disable(20);
        measure("gicr-ispendr-write", || {
            let ticks = write32(gicr + GICR_ISPENDR0, 1 << 20);
            gic::clear_pending(1 << 20);
            ticks
        });
    }
    if wants("pl011-byte-write") {
        collect(|| [write32(UART_DR, u32::from(b'.')), 0]);
        guest::println!("");
        report(["pl011-byte-write", ""]);
    }
}

/// Registers of the CPU.
pub(crate) fn registers(wants: &dyn Fn(&str) -> bool) {
    if wants("id-register-read") {
        measure("id-register-read", || {
            marked(|| timed!("mrs {v}, ID_AA64PFR0_EL1", v = out(reg) _)).wrapping_sub(pair())
        });
    }
    icc(wants, ["icc-ctlr-read", "icc-ctlr-write"]);
}

/// `ICC_CTLR_EL1`, trapped or not.
pub(crate) fn icc(wants: &dyn Fn(&str) -> bool, [read, write]: [&str; 2]) {
    if wants(read) {
        measure(read, || {
            marked(|| timed!("mrs {v}, S3_0_C12_C12_4", v = out(reg) _)).wrapping_sub(pair())
        });
    }
    if wants(write) {
        let value = gic::ctlr();
        measure(write, || {
            marked(|| timed!("msr S3_0_C12_C12_4, {v}", v = in(reg) value)).wrapping_sub(pair())
        });
    }
}

/// Interrupts to this vCPU: to the handler's first instruction, and through its end of interrupt.
pub(crate) fn interrupts(wants: &dyn Fn(&str) -> bool) {
    if wants("sgi-self") || wants("sgi-self-eoi") {
        let value = gic::sgi_list(cpu::affinity(), 1 << (cpu::affinity() & 0xF), 1);
        Vectors::Sgi.with(|| measure_two(["sgi-self", "sgi-self-eoi"], || taken(marked(|| sgi(value)))));
    }
    if wants("vtimer") || wants("vtimer-eoi") {
        Vectors::Timer.with(|| measure_two(["vtimer", "vtimer-eoi"], || tick().map(|t| t.wrapping_sub(1))));
    }
    if wants("spi") || wants("spi-eoi") {
        // A byte has left: UARTRIS.TXRIS stands, and the mask alone decides about the line.
        mmio::write32(UART_DR, u32::from(b'\n'));
        Vectors::Line.with(|| measure_two(["spi", "spi-eoi"], || taken(marked(line))));
        mmio::write32(UART_ICR, UART_TX);
    }
}

/// Net of the pair: what ends it here is the handler's first reading, without a barrier before it.
fn taken([handler, end]: [u64; 2]) -> [u64; 2] {
    [handler.wrapping_sub(pair() - 1), end.wrapping_sub(pair() - 1)]
}

/// Sends the SGI and takes it.
fn sgi(value: u64) -> [u64; 2] {
    let (before, handler, end): (u64, u64, u64);
    // SAFETY: The vectors of the bench are in place; they change x9 to x11, which are declared here.
    unsafe {
        asm!("mov x9, xzr", "msr daifclr, #2", "isb", "mrs {before}, cntvct_el0", "isb", "msr S3_0_C12_C11_5, {value}", "isb",
            "2: cbz x9, 2b", "msr daifset, #2",
            before = out(reg) before, value = in(reg) value, out("x9") handler, out("x10") _, out("x11") end, options(nostack));
    }
    [handler.wrapping_sub(before), end.wrapping_sub(before)]
}

/// Raises the UART's line by its mask, and takes its interrupt.
fn line() -> [u64; 2] {
    let (before, handler, end): (u64, u64, u64);
    // SAFETY: As in `sgi`; the handler writes 0 to the word at x12, which is the UART's mask.
    unsafe {
        asm!("mov x9, xzr", "msr daifclr, #2", "isb", "mrs {before}, cntvct_el0", "isb", "str {tx:w}, [x12]", "isb",
            "2: cbz x9, 2b", "msr daifset, #2",
            before = out(reg) before, tx = in(reg) UART_TX, out("x9") handler, out("x10") _, out("x11") end, in("x12") UART_IMSC,
            options(nostack));
    }
    [handler.wrapping_sub(before), end.wrapping_sub(before)]
}

/// The virtual timer's interrupt, from the tick that it was armed for.
fn tick() -> [u64; 2] {
    let due = now() + AHEAD;
    let [handler, end] = marked(|| {
        let (handler, end): (u64, u64);
        // SAFETY: As in `sgi`; the handler turns the timer off.
        unsafe {
            asm!("mov x9, xzr", "msr cntv_cval_el0, {due}", "msr cntv_ctl_el0, {on}", "msr daifclr, #2", "isb",
                "2: cbz x9, 2b", "msr daifset, #2",
                due = in(reg) due, on = in(reg) 1_u64, out("x9") handler, out("x10") _, out("x11") end, options(nostack));
        }
        [handler, end]
    });
    [handler.wrapping_sub(due), end.wrapping_sub(due)]
}

/// WFI to the instruction after it, from the tick that the timer was armed for; interrupts are masked.
pub(crate) fn waiting(wants: &dyn Fn(&str) -> bool) {
    if wants("wfi") {
        measure("wfi", || {
            let due = now() + AHEAD;
            let after = marked(|| {
                let after: u64;
                // SAFETY: Waits until the timer is due; the interrupt stays pending, for it is masked.
                unsafe {
                    asm!("msr cntv_cval_el0, {due}", "msr cntv_ctl_el0, {on}", "isb", "wfi", "mrs {after}, cntvct_el0",
                        due = in(reg) due, on = in(reg) 1_u64, after = out(reg) after, options(nostack));
                }
                after
            });
            timer::disarm();
            drain();
            after.wrapping_sub(due).wrapping_sub(1)
        });
    }
}

/// Takes whatever is pending.
pub(crate) fn drain() {
    for _ in 0..4 {
        let intid = gic::iar1();
        if intid >= 1020 {
            break;
        }
        gic::eoir1(intid);
    }
}

/// A load from an address where nothing is, to the first instruction of the handler.
pub(crate) fn faults(wants: &dyn Fn(&str) -> bool) {
    if wants("missing-page") {
        Vectors::Sgi.with(|| {
            measure("missing-page", || {
                let [before, handler] = marked(|| {
                    let (before, handler): (u64, u64);
                    // SAFETY: The load faults, and the vectors of the bench skip it; they change x9 and x10.
                    unsafe {
                        asm!("isb", "mrs {before}, cntvct_el0", "isb", "ldr {v:w}, [{a}]", "isb",
                            before = out(reg) before, v = out(reg) _, a = in(reg) NOTHING, out("x9") handler, out("x10") _, options(nostack));
                    }
                    [before, handler]
                });
                handler.wrapping_sub(before).wrapping_sub(pair() - 1)
            });
        });
    }
}
