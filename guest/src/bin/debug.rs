//! Self-hosted debug: breakpoints, watchpoints and single steps are a vCPU's own, wherever it runs and whoever runs beside it.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guest::check::Check;
use guest::fault::{catch, class};
use guest::{cpu, gic, psci, timer};
use hyp_abi::layout::{GICD_BASE, MAX_VCPUS, VTIMER_INTID};

guest::tests!(
    every_breakpoint_of_the_hardware_is_shown,
    registers_start_at_zero,
    breakpoint,
    watchpoint,
    steps_over_emulated_instructions,
    brk,
    a_secondary_starts_without_breakpoints,
    two_vcpus_keep_their_own ; only
    nothing_of_another_vm
);

/// `MDSCR_EL1`: single step; debug at EL1 itself; breakpoints and watchpoints.
const SS: u64 = 1 << 0;
const KDE: u64 = 1 << 13;
const MDE: u64 = 1 << 15;
/// `DBGBCR<n>_EL1`: enabled, at EL1, all four bytes.
const AT_EL1: u64 = 1 | 1 << 1 | 0xF << 5;
/// `DBGWCR<n>_EL1`: enabled, from EL1, loads and stores, all eight bytes.
const LOADS_AND_STORES: u64 = 1 | 1 << 1 | 3 << 3 | 0xFF << 5;

const BREAKPOINT: u64 = 0x31;
const STEP: u64 = 0x33;
const WATCHPOINT: u64 = 0x35;
const BRK: u64 = 0x3C;
/// `ESR_EL1.IFSC` and `DFSC` of a debug exception.
const DEBUG_EVENT: u64 = 0x22;

/// A register of the debug group.
macro_rules! read {
    ($($register:literal)+) => {{
        let value: u64;
        // SAFETY: Reads a register of this vCPU.
        unsafe { asm!(concat!("mrs {}, ", $($register),+), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

macro_rules! write {
    ($($register:literal)+, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: What the debug exceptions that follow are, the tests expect.
        unsafe { asm!(concat!("msr ", $($register,)+ ", {}"), "isb", in(reg) value, options(nostack, preserves_flags)) };
    }};
}

/// Every breakpoint and watchpoint there may be, by number.
macro_rules! each {
    ($($n:literal)*) => {
        /// Value and control of breakpoint `n`, then of watchpoint `n`; 0 where there is none.
        fn registers(n: usize) -> [u64; 4] {
            let mut found = [0; 4];
            match n {
                $($n => {
                    if n < breakpoints() {
                        found[0] = read!("dbgbvr" $n "_el1");
                        found[1] = read!("dbgbcr" $n "_el1");
                    }
                    if n < watchpoints() {
                        found[2] = read!("dbgwvr" $n "_el1");
                        found[3] = read!("dbgwcr" $n "_el1");
                    }
                })*
                _ => {}
            }
            found
        }

        fn set_registers(n: usize, values: [u64; 4]) {
            match n {
                $($n => {
                    if n < breakpoints() {
                        write!("dbgbvr" $n "_el1", values[0]);
                        write!("dbgbcr" $n "_el1", values[1]);
                    }
                    if n < watchpoints() {
                        write!("dbgwvr" $n "_el1", values[2]);
                        write!("dbgwcr" $n "_el1", values[3]);
                    }
                })*
                _ => {}
            }
        }
    };
}
each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

fn breakpoints() -> usize {
    (read!("id_aa64dfr0_el1") >> 12 & 0xF) as usize + 1
}

fn watchpoints() -> usize {
    (read!("id_aa64dfr0_el1") >> 20 & 0xF) as usize + 1
}

fn clear() {
    write!("mdscr_el1", 0);
    (0..16).for_each(|n| set_registers(n, [0; 4]));
}

/// Runs `body` with debug exceptions let in (PSTATE.D clear), and everything else masked.
fn debugged(body: impl FnOnce()) {
    // SAFETY: A debug exception goes to the vectors, which the tests expect.
    unsafe { asm!("msr daifclr, #8", options(nostack)) };
    body();
    // SAFETY: Masking is always allowed.
    unsafe { asm!("msr daifset, #8", options(nostack)) };
}

// Two functions to break at. `catch` skips the instruction at which an exception was taken: the first of each is a NOP.
global_asm!(
    ".section .text.targets, \"ax\"",
    ".global target_a",
    "target_a:",
    "nop",
    "ret",
    ".global target_b",
    "target_b:",
    "nop",
    "ret",
);

unsafe extern "C" {
    safe fn target_a();
    safe fn target_b();
}

/// The function that vCPU `index` breaks at, and that the other one breaks at.
fn target(index: usize) -> extern "C" fn() {
    extern "C" fn a() {
        target_a();
    }
    extern "C" fn b() {
        target_b();
    }
    if index == 0 { a } else { b }
}

fn address_of_target(index: usize) -> u64 {
    if index == 0 {
        target_a as *const () as u64
    } else {
        target_b as *const () as u64
    }
}

/// What is watched: one word by vCPU 0, one by vCPU 1.
static WATCHED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn address_of_watched(index: usize) -> u64 {
    WATCHED[index].as_ptr() as u64
}

/// Class, fault status, and what it is about, of the exception that calling `target(index)` brings.
fn call(index: usize) -> Option<(u64, u64, u64)> {
    catch(|| debugged(|| target(index)())).map(|fault| (fault.class(), fault.status(), fault.elr))
}

/// As [`call`], of a load from `WATCHED[index]`.
fn load(index: usize) -> Option<(u64, u64, u64)> {
    let address = address_of_watched(index);
    // SAFETY: Loads from a live static, or is skipped.
    let access = || unsafe { asm!("ldr {v}, [{a}]", v = out(reg) _, a = in(reg) address, options(nostack)) };
    catch(|| debugged(access)).map(|fault| (fault.class(), fault.status(), fault.far))
}

fn every_breakpoint_of_the_hardware_is_shown(check: &mut Check) {
    let dfr0 = read!("id_aa64dfr0_el1");
    guest::println!(
        "breakpoints={} watchpoints={} contexts={}",
        breakpoints(),
        watchpoints(),
        (dfr0 >> 28 & 0xF) + 1
    );
    check.that(breakpoints() >= 2 && watchpoints() >= 2, "the architecture's least");
    check.eq("the OS lock", read!("oslsr_el1") & 0b1010, 0b1000);
}

fn registers_start_at_zero(check: &mut Check) {
    check.eq("MDSCR_EL1", read!("mdscr_el1"), 0);
    for n in 0..16 {
        check.eq("a breakpoint or watchpoint", registers(n), [0; 4]);
    }
}

fn breakpoint(check: &mut Check) {
    clear();
    let at = address_of_target(0);
    set_registers(1, [at, AT_EL1, 0, 0]);
    check.eq("MDE clear", call(0), None);
    write!("mdscr_el1", MDE | KDE);
    check.eq("the function", call(0), Some((BREAKPOINT, DEBUG_EVENT, at)));
    check.eq("another function", call(1), None);
    check.eq("a breakpoint while PSTATE.D is set", catch(|| target(0)()), None);
    write!("mdscr_el1", MDE);
    check.eq("KDE clear", call(0), None);
    clear();
    check.eq("cleared", call(0), None);
}

fn watchpoint(check: &mut Check) {
    clear();
    let at = address_of_watched(1);
    set_registers(1, [0, 0, at, LOADS_AND_STORES]);
    write!("mdscr_el1", MDE | KDE);
    check.eq("a load", load(1), Some((WATCHPOINT, DEBUG_EVENT, at)));
    check.eq("a load beside", load(0), None);
    // SAFETY: Stores zero to an atomic that nobody else uses now, or is skipped.
    let store = || unsafe { asm!("strb wzr, [{a}]", a = in(reg) at + 4, options(nostack)) };
    let found = catch(|| debugged(store)).map(|fault| (fault.class(), fault.status(), fault.far, fault.esr >> 6 & 1));
    check.eq("a store to a byte of it", found, Some((WATCHPOINT, DEBUG_EVENT, at + 4, 1)));
    clear();
}

/// What the vectors below saw of one vCPU, and how many more steps they are to make.
#[repr(C)]
struct Log {
    count: AtomicU64,
    steps: AtomicU64,
    /// `ESR_EL1`, `ELR_EL1`, `SPSR_EL1`, and nothing.
    entries: [[AtomicU64; 4]; 16],
}

static LOG: Log = Log {
    count: AtomicU64::new(0),
    steps: AtomicU64::new(0),
    entries: [const { [const { AtomicU64::new(0) }; 4] }; 16],
};

// TPIDR_EL1 = the log. A step is followed by another one while the log says so; anything else is skipped.
global_asm!(
    ".section .text.stepping_vectors, \"ax\"",
    ".balign 0x800",
    ".global stepping_vectors",
    "stepping_vectors:",
    "b .",
    ".balign 0x200",
    "b 1f",
    ".balign 0x80",
    "b .",
    ".balign 0x800",
    "1: sub sp, sp, #32",
    "stp x0, x1, [sp]",
    "stp x2, x3, [sp, #16]",
    "mrs x0, tpidr_el1",
    "ldr x1, [x0]",
    "cmp x1, #16",
    "2: b.hs 2b",
    "add x2, x0, #16",
    "add x2, x2, x1, lsl #5",
    "add x1, x1, #1",
    "str x1, [x0]",
    "mrs x1, esr_el1",
    "mrs x3, elr_el1",
    "stp x1, x3, [x2]",
    "mrs x3, spsr_el1",
    "str x3, [x2, #16]",
    "lsr x1, x1, #26",
    "cmp x1, #0x33",
    "b.ne 4f",
    "ldr x1, [x0, #8]",
    "cbz x1, 3f",
    "sub x1, x1, #1",
    "str x1, [x0, #8]",
    "orr x3, x3, #0x200000",
    "msr spsr_el1, x3",
    "b 5f",
    "3: msr mdscr_el1, xzr",
    "b 5f",
    "4: mrs x3, elr_el1",
    "add x3, x3, #4",
    "msr elr_el1, x3",
    "5: ldp x2, x3, [sp, #16]",
    "ldp x0, x1, [sp], #32",
    "eret",
);

unsafe extern "C" {
    static stepping_vectors: u8;
}

/// After each instruction there is a step exception, whether the PE executed it or Umbra.
fn steps_over_emulated_instructions(check: &mut Check) {
    /// EL1h, D clear, A, I and F set, SS.
    const START: u64 = 5 | 7 << 6 | 1 << 21;
    clear();
    LOG.count.store(0, Ordering::Relaxed);
    LOG.steps.store(6, Ordering::Relaxed);
    let (vectors, log) = (&raw const stepping_vectors as u64, &raw const LOG as u64);
    let before = read!("vbar_el1");
    write!("tpidr_el1", log);
    write!("vbar_el1", vectors);
    let (first, version, typer, pfr0): (u64, u64, u64, u64);
    // SAFETY: ERET goes on at the next label with SS set; the vectors above return to each next instruction. SMCCC's clobbers
    // are named.
    unsafe {
        asm!(
            "adr x23, 20f",
            "msr elr_el1, x23",
            "msr spsr_el1, {spsr}",
            "msr mdscr_el1, {mdscr}",
            "eret",
            "20: nop",
            "hvc #0",
            "ldr w21, [x20, #4]",
            "mrs x22, id_aa64pfr0_el1",
            "mov x24, x0",
            "mrs x25, pmcr_el0",
            "smc #0",
            "nop",
            spsr = in(reg) START, mdscr = in(reg) SS | KDE,
            in("x0") u64::from(hyp_abi::psci::VERSION), in("x20") GICD_BASE, out("x21") typer, out("x22") pfr0,
            out("x23") first, out("x24") version, out("x25") _,
            clobber_abi("C"),
        );
    }
    write!("mdscr_el1", 0);
    write!("vbar_el1", before);
    let count = LOG.count.load(Ordering::Relaxed);
    let after = |n: u64| (STEP, first + 4 * n);
    // The sixth is undefined: its exception comes first, and the step after the instruction to which its handler returns.
    let expected = [
        after(1),
        after(2),
        after(3),
        after(4),
        after(5),
        (class::UNKNOWN, first + 20),
        after(7),
        after(8),
    ];
    for (n, (entry, expected)) in LOG.entries.iter().zip(expected).enumerate() {
        let [esr, elr, spsr, _] = entry.each_ref().map(|cell| cell.load(Ordering::Relaxed));
        if (n as u64) < count && (esr >> 26, elr) != expected {
            check.fail(format_args!(
                "exception {n}: found (EC, ELR) {:x?}, expected {expected:x?}",
                (esr >> 26, elr)
            ));
        }
        if esr >> 26 == STEP {
            check.eq("ESR_EL1.IFSC of a step", esr & 0x3F, DEBUG_EVENT);
            check.eq("SPSR_EL1.SS after a step", spsr >> 21 & 1, 0);
        }
    }
    check.eq("exceptions", count, expected.len() as u64);
    check.that((0x1_0000..0x10_0000).contains(&version), "what HVC returned");
    check.that(
        typer != 0 && typer == u64::from(guest::mmio::read32(GICD_BASE + 4)),
        "what GICD_TYPER read",
    );
    check.eq("ID_AA64PFR0_EL1.GIC", pfr0 >> 24 & 0xF, 1);
}

fn brk(check: &mut Check) {
    clear();
    // SAFETY: The exception is expected, and the instruction is skipped.
    let found = catch(|| unsafe { asm!("brk #0x5a5", options(nostack)) });
    check.eq("BRK", found.map(|fault| (fault.class(), fault.esr & 0xFFFF)), Some((BRK, 0x5A5)));
}

/// What a vCPU's part of a test found: 0 while it goes on, 1 when all was well, else what was not.
static RESULTS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];
const GOOD: u64 = 1;

fn look_then_spoil(_: u64) {
    let clean = read!("mdscr_el1") == 0 && (0..16).all(|n| registers(n) == [0; 4]);
    (0..16).for_each(|n| set_registers(n, pattern(1, n)));
    write!("mdscr_el1", MDE | KDE);
    RESULTS[1].store(if clean { GOOD } else { 2 }, Ordering::Release);
}

fn a_secondary_starts_without_breakpoints(check: &mut Check) {
    for _ in 0..3 {
        RESULTS[1].store(0, Ordering::Release);
        check.eq("CPU_ON", cpu::start(1, look_then_spoil, 0), psci::SUCCESS);
        cpu::wait_until(10, || RESULTS[1].load(Ordering::Acquire) != 0);
        check.eq("what the secondary found", RESULTS[1].load(Ordering::Acquire), GOOD);
        check.that(cpu::wait_off(1, 10), "it goes off");
    }
}

/// What vCPU `index` keeps in breakpoint and watchpoint `n`, disabled.
fn pattern(index: usize, n: usize) -> [u64; 4] {
    let value = 0x4000_0000 + 0x0100_0000 * (index as u64 + 1) + 0x1000 * n as u64;
    let control = (index as u64 + 1) << 1 | 0xF << 5;
    let values = [value, control, value + 0x800, control | 1 << 3];
    let there = [n < breakpoints(), n < breakpoints(), n < watchpoints(), n < watchpoints()];
    core::array::from_fn(|i| if there[i] { values[i] } else { 0 })
}

/// Gives others their turn, by WFI or by the end of a slice.
fn pass(round: u64) {
    if round & 1 == 0 {
        timer::arm(timer::micros(1000));
        cpu::wfi();
        timer::disarm();
    } else {
        timer::delay(timer::micros(6000));
    }
}

fn keeps_its_own(index: u64) {
    let index = index as usize;
    RESULTS[index].store(body(index), Ordering::Release);

    fn body(index: usize) -> u64 {
        gic::init_cpu();
        gic::enable(VTIMER_INTID);
        clear();
        (0..16).for_each(|n| set_registers(n, pattern(index, n)));
        let own = [address_of_target(index), AT_EL1, address_of_watched(index), LOADS_AND_STORES];
        for round in 0..40 {
            let enabled = round >= 20;
            if round == 20 {
                set_registers(0, own);
                write!("mdscr_el1", MDE | KDE);
            }
            pass(round);
            for n in 0..16 {
                let expected = if n == 0 && enabled { own } else { pattern(index, n) };
                if registers(n) != expected {
                    return 100 + round;
                }
            }
            let mdscr = if enabled { MDE | KDE } else { 0 };
            let (broken, watched) = (
                enabled.then_some((BREAKPOINT, DEBUG_EVENT, own[0])),
                enabled.then_some((WATCHPOINT, DEBUG_EVENT, own[2])),
            );
            if read!("mdscr_el1") != mdscr {
                return 200 + round;
            }
            if call(index) != broken || load(index) != watched {
                return 300 + round;
            }
            if call(index ^ 1).is_some() || load(index ^ 1).is_some() {
                return 400 + round;
            }
        }
        clear();
        GOOD
    }
}

fn two_vcpus_keep_their_own(check: &mut Check) {
    gic::init_distributor();
    RESULTS[1].store(0, Ordering::Release);
    check.eq("CPU_ON", cpu::start(1, keeps_its_own, 1), psci::SUCCESS);
    keeps_its_own(0);
    cpu::wait_until(20, || RESULTS[1].load(Ordering::Acquire) != 0);
    for result in &RESULTS[..2] {
        check.eq(
            "what a vCPU found (1: all well; hundreds: what was not; the rest: when)",
            result.load(Ordering::Acquire),
            GOOD,
        );
    }
    check.that(cpu::wait_off(1, 10), "the secondary goes off");
}

/// Beside another VM that runs the tests above, on the same pCPU, in the same program: nothing of it is seen.
fn nothing_of_another_vm(check: &mut Check) {
    gic::init_distributor();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    for round in 0..200 {
        pass(round);
        let mdscr = if round < 100 { 0 } else { MDE | KDE };
        check.eq("MDSCR_EL1", read!("mdscr_el1"), if round == 100 { 0 } else { mdscr });
        write!("mdscr_el1", mdscr);
        for n in 0..16 {
            check.eq("a breakpoint or watchpoint", registers(n), [0; 4]);
        }
        for index in 0..2 {
            check.eq("a breakpoint's function", call(index), None);
            check.eq("a watched word", load(index), None);
        }
    }
    clear();
}
