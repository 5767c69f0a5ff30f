//! SYSTEM_RESET: a guest that overwrites its own text and data finds them right again, its RAM scrubbed, its other vCPUs
//! off and its GIC fresh. Needs the host test `serve` (`outstanding`: `epoch`), which counts the boots.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::check::Check;
use guest::{bootargs, cpu, gic, mmio, oem, println, psci, timer};
use hyp_abi::layout::{GICD_BASE, UART_BASE, UART_SPI, affinity_of};

guest::tests!(three_boots ; only outstanding, hundreds);

/// Far enough above the image, in every VM of 16 MiB or more.
const SCRATCH: u64 = 0x4090_0000;
const STUB: u64 = 0x4080_0000;
/// Two branches to themselves: a vCPU that still runs the overwritten text stays where it is.
const PATTERN: u64 = 0x1400_0000_1400_0000;

static DATA: AtomicU64 = AtomicU64::new(0x0123_4567_89AB_CDEF);
static ZERO: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static __image_start: u64;
    static __text_end_exclusive: u64;
    static __bss_start: u64;
    static __image_end_exclusive: u64;
}

/// The sum of the image's words up to its writable data, in which the harness counts.
fn text_sum() -> u64 {
    let start = &raw const __image_start as u64;
    let end = &raw const __text_end_exclusive as u64;
    (start..end)
        .step_by(8)
        .fold(0, |sum: u64, address| sum.rotate_left(1) ^ peek(address))
        >> 1
}

fn peek(address: u64) -> u64 {
    // SAFETY: Callers stay inside RAM that the stage-1 map covers.
    unsafe { (address as *const u64).read_volatile() }
}

fn poke(address: u64, value: u64) {
    // SAFETY: Callers write to RAM that no Rust object lies in, and that the stage-1 map covers.
    unsafe { (address as *mut u64).write_volatile(value) };
}

static SPINNING: AtomicU64 = AtomicU64::new(0);

fn spin(_: u64) {
    gic::init_cpu();
    SPINNING.store(1, Ordering::Release);
    loop {
        cpu::relax();
    }
}

fn reset_from_here(_: u64) {
    psci::system_reset()
}

/// `GICD_ISPENDR1`, and the bit of the UART's interrupt in it.
const ISPENDR1: u64 = GICD_BASE + 0x204;
const UART_BIT: u32 = 1 << UART_SPI;
/// `UARTIMSC`, and the bit in it of the interrupt that each byte sent raises.
const IMSC: u64 = UART_BASE + 0x38;
const TX: u32 = 1 << 5;

fn three_boots(check: &mut Check) {
    // Before anything is printed: each access has the line follow the UART.
    let pending = mmio::read32(ISPENDR1) & UART_BIT;
    let boot = oem::ask(oem::BOOTCOUNT, 0, 0);
    let sum = text_sum();
    // A failure ends the test here: after another reset nobody would count it.
    check.eq("initialised data", DATA.load(Ordering::Relaxed), 0x0123_4567_89AB_CDEF);
    check.eq("zeroed data", ZERO.load(Ordering::Relaxed), 0);
    check.eq("RAM above the image", (peek(SCRATCH), peek(SCRATCH + 0x1_0000)), (0, 0));
    check.eq("another vCPU", psci::affinity_info(affinity_of(1)), 1);
    check.eq(
        "ICC_CTLR_EL1's own bits, PMR, group 1",
        (gic::ctlr() & 3, gic::pmr(), gic::igrpen1()),
        (0, 0, 0),
    );
    check.that(!timer::fired(), "the timer is off");
    check.eq("the UART's interrupt", pending, 0);
    match boot {
        1 => {
            let _old = oem::ask(oem::KEEP, 0, sum);
            check.eq("CPU_ON", cpu::start(1, spin, 0), psci::SUCCESS);
            check.that(
                cpu::wait_until(10, || SPINNING.load(Ordering::Acquire) == 1),
                "another vCPU runs at the reset",
            );
            dirty();
            if !check.has_failed() {
                overwrite_everything_and_reset()
            }
        }
        2 => {
            check.eq("text and constants", sum as i64, oem::ask(oem::KEEP, 0, sum));
            dirty();
            if check.has_failed() {
                return;
            }
            // This time another vCPU asks, while this one spins.
            check.eq("CPU_ON", cpu::start(2, reset_from_here, 0), psci::SUCCESS);
            timer::delay(10 * timer::frequency());
            check.fail(format_args!("the other vCPU's SYSTEM_RESET did not come"));
        }
        3 => check.eq("text and constants", sum as i64, oem::ask(oem::KEEP, 0, sum)),
        other => check.fail(format_args!("boot number {other}: is the host test `serve` there?")),
    }
}

/// Leaves traces wherever a reset has to clean up.
fn dirty() {
    gic::init_distributor();
    gic::init_cpu();
    gic::set_ctlr(3);
    gic::enable(hyp_abi::layout::VTIMER_INTID);
    gic::send_sgi(cpu::affinity(), 3);
    timer::arm(1);
    println!("the UART's interrupt is pending");
    mmio::write32(IMSC, TX);
    DATA.store(PATTERN, Ordering::Relaxed);
    ZERO.store(PATTERN, Ordering::Relaxed);
    poke(SCRATCH, PATTERN);
    poke(SCRATCH + 0x1_0000, PATTERN);
}

/// Copies a few instructions to where they survive, and lets them overwrite text, constants, .bss and stacks, and make
/// the call. What is left alone is `.data`, for the stage-1 tables in use are there; [`dirty`] has been at the rest of it.
fn overwrite_everything_and_reset() -> ! {
    let text = (&raw const __image_start as u64, &raw const __text_end_exclusive as u64);
    let bss = (&raw const __bss_start as u64, &raw const __image_end_exclusive as u64);
    let (stub_start, stub_end): (u64, u64);
    // SAFETY: Takes the addresses of two labels around instructions that are jumped over here.
    unsafe {
        asm!(
            "adr {s}, 2f", "adr {e}, 3f", "b 3f",
            "2: stp x4, x4, [x0], #16", "cmp x0, x1", "b.lo 2b",
            "4: stp x4, x4, [x2], #16", "cmp x2, x3", "b.lo 4b",
            "mov w0, #9", "movk w0, #0x8400, lsl #16", "hvc #0", "b .",
            "3:",
            s = out(reg) stub_start, e = out(reg) stub_end,
        );
    }
    for (index, address) in (stub_start..stub_end).step_by(4).enumerate() {
        // SAFETY: Reads an instruction of this function, writes to RAM that no Rust object lies in.
        unsafe { ((STUB + index as u64 * 4) as *mut u32).write_volatile((address as *const u32).read_volatile()) };
    }
    // SAFETY: The copy was just written and is made visible to instruction fetch; it uses x0 to x4 only, needs no stack,
    // and never returns.
    unsafe {
        asm!("dc cvau, {stub}", "dc cvau, {end}", "dsb ish", "ic ivau, {stub}", "ic ivau, {end}", "dsb ish", "isb", "br {stub}",
             stub = in(reg) STUB, end = in(reg) STUB + 48, in("x0") text.0, in("x1") text.1, in("x2") bss.0, in("x3") bss.1,
             in("x4") PATTERN, options(noreturn));
    }
}

fn ask_and_wait(_: u64) {
    let _never_answered = oem::ask(oem::STEP, 1, 0);
}

/// With the host test `epoch`: a call is outstanding when the VM resets, and its answer comes afterwards.
fn outstanding(check: &mut Check) {
    match oem::ask(oem::BOOTCOUNT, 0, 0) {
        1 => {
            check.eq("CPU_ON", cpu::start(1, ask_and_wait, 0), psci::SUCCESS);
            // The host keeps slot 1 for the outstanding call: it is there when the slot says so.
            check.that(cpu::wait_until(10, || oem::ask(oem::KEEP, 1, 0) == 1), "the host has the call");
            psci::system_reset()
        }
        2 => check.eq(
            "the host's answer to the call from before the reset is refused",
            oem::ask(oem::STEP, 2, 0),
            0,
        ),
        other => check.fail(format_args!("boot number {other}: is the host test `epoch` there?")),
    }
}

/// Again and again, from each vCPU in turn: all of them, on as they are or off, leave at nearly the same time, and each restart is
/// finished whichever comes last.
fn hundreds(check: &mut Check) {
    let boot = oem::ask(oem::BOOTCOUNT, 0, 0);
    if boot >= bootargs::number("boots", 300) as i64 {
        return;
    }
    let from = boot as usize % cpu::count();
    if from > 0 {
        check.eq("CPU_ON", cpu::start(from, reset_from_here, 0), psci::SUCCESS);
        timer::delay(10 * timer::frequency());
        check.fail(format_args!("vCPU {from}'s SYSTEM_RESET did not come"));
        return;
    }
    psci::system_reset()
}
