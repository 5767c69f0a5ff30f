//! What EL0 finds, in A64 and in A32: the faults that it is given, devices that EL1 lets it have, and the physical timer. And what PSTATE
//! is at the vector of an exception that Umbra gives.
#![no_std]
#![no_main]

use aarch64_cpu::registers::{CNTKCTL_EL1, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, Readable, SCTLR_EL1, TTBR0_EL1, Writeable};
use core::arch::asm;
use core::sync::atomic::Ordering;
use guest::check::Check;
use guest::fault::{self, EXTERNAL_ABORT, Fault, catch, class, pstate};
use hyp_abi::layout::UART_BASE;

guest::tests!(
    faults_are_those_of_el0,
    pstate_at_the_vector_is_hardwares,
    a_device_answers,
    the_timer_is_els_to_give,
    the_timer_in_a32
);

/// Where EL0 has the lowest GiB, with the devices.
const DEVICES: u64 = 0x8000_0000;
/// Where EL0 has the GiB with RAM, less its address.
const RAM: u64 = 0xC000_0000 - 0x4000_0000;
/// No VM has anything here.
const HOLE: u64 = DEVICES + 0x0D00_0000;
/// Nor here, where EL0 may execute.
const PAST_RAM: u64 = RAM + 0x7000_0000;
/// `SPSR_EL1` of EL0 in A64, and in A32, with everything masked that can be.
const STATES: [State; 2] = [
    State {
        name: "A64",
        pstate: 0x3C0,
        vector: 8,
        call: 0x15,
    },
    State {
        name: "A32",
        pstate: 0x1D0,
        vector: 12,
        call: 0x11,
    },
];
const A32: State = STATES[1];
/// `CNTKCTL_EL1.EL0PTEN`.
const EL0PTEN: u64 = 1 << 9;

#[derive(Clone, Copy)]
struct State {
    name: &'static str,
    pstate: u64,
    /// Its synchronous exceptions'.
    vector: u64,
    /// SVC's exception class.
    call: u64,
}

/// Instructions for EL0, in memory of their own.
macro_rules! code {
    ($($word:expr),+ $(,)?) => {{
        static CODE: &[u32] = &[$($word),+];
        CODE.as_ptr() as u64 + RAM
    }};
}

/// `ldr w0, [x1]` and `svc #0`, at EL0's address.
fn load(state: State) -> u64 {
    if state.pstate & 0x10 == 0 {
        code![0xB940_0020, 0xD400_0001]
    } else {
        code![0xE591_0000, 0xEF00_0000]
    }
}

/// Two blocks that EL0 may use: the lowest GiB as a device, and RAM.
fn open() {
    let table = TTBR0_EL1.get() & !0xFFF;
    for (index, block) in [
        (DEVICES >> 30, 0x0060_0000_0000_0445_u64),
        ((RAM + 0x4000_0000) >> 30, 0x0020_0000_4000_0741),
    ] {
        let entry = (table + 8 * index) as *mut u64;
        // SAFETY: The runtime's table of level 1. Nothing of ours is at these addresses; the old entry is gone before the new one.
        unsafe {
            entry.write_volatile(0);
            asm!("dsb ishst", "tlbi vmalle1", "dsb ish", "isb");
            entry.write_volatile(block);
            asm!("dsb ishst", "isb");
        }
    }
}

/// Runs from `entry`, with `x0` to `x3`, until an exception: that, and what `x0` to `x3` are then. At EL1 it goes on behind it.
fn run(state: State, entry: u64, mut x: [u64; 4]) -> (Option<Fault>, [u64; 4]) {
    open();
    let [x0, x1, x2, x3] = &mut x;
    let fault = catch(|| {
        // SAFETY: `catch` returns from EL0 to x30, which no code here changes, and what runs at EL1 does so itself. A32 may lose the upper half of any register but SP.
        unsafe {
            asm!(
                "stp x19, x29, [sp, #-16]!",
                "msr ELR_EL1, {entry}",
                "msr SPSR_EL1, {pstate}",
                "adr x30, 2f",
                "eret",
                "2: ldp x19, x29, [sp], #16",
                entry = in(reg) entry, pstate = in(reg) state.pstate,
                inout("x0") *x0, inout("x1") *x1, inout("x2") *x2, inout("x3") *x3,
                out("x20") _, out("x21") _, out("x22") _, out("x23") _, out("x24") _, out("x25") _, out("x26") _, out("x27") _,
                out("x28") _, clobber_abi("C"),
            );
        }
    });
    (fault, x)
}

/// As [`run`], of what ends with SVC.
fn runs(check: &mut Check, what: &str, state: State, entry: u64, x: [u64; 4]) -> [u64; 4] {
    let (fault, x) = run(state, entry, x);
    let found = fault.map(|fault| (fault.class(), fault.vector));
    if found != Some((state.call, state.vector)) {
        check.fail(format_args!("{what}, {}: {fault:x?}", state.name));
    }
    x.map(|x| x & 0xFFFF_FFFF)
}

fn faults_are_those_of_el0(check: &mut Check) {
    for state in STATES {
        let at = load(state);
        for (what, entry, ec, far) in [("a load", at, 0x24, HOLE), ("a fetch", PAST_RAM, 0x20, PAST_RAM)] {
            let (fault, _) = run(state, entry, [0, HOLE, 0, 0]);
            let found = fault.map(|f| (f.vector, f.class(), f.esr & 0x03FF_FFFF, f.far, f.elr, f.spsr));
            let expected = (state.vector, ec, 1 << 25 | EXTERNAL_ABORT, far, entry, state.pstate);
            if found != Some(expected) {
                check.fail(format_args!(
                    "{what}, {}: found (vector, EC, IL and ISS, FAR, ELR, SPSR) {found:x?}, expected {expected:x?}",
                    state.name
                ));
            }
        }
    }
}

/// Each exception of Umbra's finds PSTATE as one that the processor takes itself from the same state.
fn pstate_at_the_vector_is_hardwares(check: &mut Check) {
    const SPAN: u64 = 1 << 23;
    const DSSBS: u64 = 1 << 44;
    const EL1H: u64 = 5;
    const A32_SSBS: u64 = 1 << 23;
    const EACH: [u64; 5] = [pstate::SSBS, pstate::PAN, pstate::UAO, pstate::DIT, pstate::TCO];
    let mut has = pstate::DAIF;
    for bit in EACH {
        if catch(|| _ = fault::now(bit)).is_none() {
            has |= bit;
        }
    }
    fault::LOOK_AT.store(has, Ordering::Relaxed);
    // brk #0, svc #0; hvc #1, which is undefined, and a load from where nothing is. At EL1 there is more: ret.
    let (brk, hvc, hole) = (
        code![0xD420_0000, 0xD65F_03C0] - RAM,
        code![0xD400_0022, 0xD65F_03C0] - RAM,
        code![0xB940_0020, 0xD65F_03C0] - RAM,
    );
    let before = SCTLR_EL1.get();
    let mut seen = 0;
    for sctlr in [0, SPAN, SPAN | DSSBS] {
        SCTLR_EL1.set(before & !SPAN | sctlr);
        for old in [0].into_iter().chain(EACH).chain([u64::MAX]) {
            let at_el1 = old & (has | 0xF << 28) | EL1H;
            // In A32 PAN and DIT are where they are in A64.
            let in_a32 = (old & has & pstate::DIT) | if old & has & pstate::SSBS != 0 { A32_SSBS } else { 0 };
            let starts = [
                (at_el1, brk, [hvc, hole], HOLE - DEVICES),
                (at_el1 & !EL1H & !pstate::UAO, code![0xD400_0001], [load(STATES[0]); 2], HOLE),
                (A32.pstate | in_a32, code![0xEF00_0000], [load(A32); 2], HOLE),
            ];
            for (spsr, own, given, hole) in starts {
                let at = |entry| {
                    run(State { pstate: spsr, ..A32 }, entry, [0, hole, 0, 0])
                        .0
                        .map(|f| (f.pstate, f.spsr, f.vector))
                };
                let expected = at(own);
                for entry in given {
                    // DIT stays as it was (DDI 0487, AArch64.TakeException does not name it); QEMU clears it.
                    let found = at(entry).map(|(found, spsr, vector)| (found ^ spsr & has & pstate::DIT, spsr, vector));
                    if found.is_none() || found != expected.map(|(found, spsr, vector)| (found & !pstate::DIT, spsr, vector)) {
                        check.fail(format_args!(
                            "from {spsr:#x}, SCTLR_EL1 {sctlr:#x}: (PSTATE, SPSR, vector) {found:x?}, as hardware {expected:x?}"
                        ));
                    }
                }
                seen |= expected.map_or(0, |(found, ..)| found);
            }
        }
    }
    SCTLR_EL1.set(before);
    fault::LOOK_AT.store(0, Ordering::Relaxed);
    check.eq("what was ever set", seen & !pstate::DIT, has & !pstate::UAO & !pstate::DIT);
}

fn a_device_answers(check: &mut Check) {
    for state in STATES {
        let at = load(state);
        let [flags, ..] = runs(check, "UARTFR", state, at, [0, DEVICES + UART_BASE + 0x18, 0, 0]);
        check.eq("UARTFR", flags, 0x90);
    }
    // strh r0, [r1]; ldrsb r2, [r1]: a narrow store, and a load with its sign. svc #0.
    let at = code![0xE1C1_00B0, 0xE1D1_20D0, 0xEF00_0000];
    let [_, _, signed, _] = runs(check, "UARTIBRD", A32, at, [0x1_23F4, DEVICES + UART_BASE + 0x24, 0, 0]);
    check.eq("ldrsb of UARTIBRD", signed, 0xFFFF_FFF4);
}

/// MRC p15, 0, r0, c14, c2, 1: `CNTP_CTL`. Then svc #0.
fn read_control() -> u64 {
    code![0xEE1E_0F32, 0xEF00_0000]
}

fn the_timer_is_els_to_give(check: &mut Check) {
    CNTKCTL_EL1.set(0);
    let at = read_control();
    let (fault, _) = run(A32, at, [0; 4]);
    check.eq(
        "EC and vector of MRC, CNTKCTL_EL1.EL0PTEN being 0",
        fault.map(|fault| (fault.class(), fault.vector)),
        Some((0x03, 12)),
    );
    // mrs x0, CNTP_CTL_EL0
    let (fault, _) = run(STATES[0], code![0xD53B_E220], [0; 4]);
    check.eq("EC of MRS", fault.map(Fault::class), Some(class::SYSREG));
}

fn the_timer_in_a32(check: &mut Check) {
    CNTKCTL_EL1.set(EL0PTEN);
    CNTP_CTL_EL0.set(0);
    // MCRR p15, 2, r0, r1, c14; MRRC p15, 2, r2, r3, c14: CNTP_CVAL.
    let at = code![0xEC41_0F2E, 0xEC53_2F2E, 0xEF00_0000];
    let [_, _, low, high] = runs(check, "CNTP_CVAL", A32, at, [0x9ABC_DEF0, 0xF234_5678, 0, 0]);
    check.eq("CNTP_CVAL, read back", (low, high), (0x9ABC_DEF0, 0xF234_5678));
    check.eq("CNTP_CVAL_EL0", CNTP_CVAL_EL0.get(), 0xF234_5678_9ABC_DEF0);
    // MCR p15, 0, r1, c14, c2, 1; then CNTP_CTL is read.
    let at = code![0xEE0E_1F32, 0xEE1E_0F32, 0xEF00_0000];
    let [control, ..] = runs(check, "CNTP_CTL", A32, at, [0, 0xFFFF_FFFF, 0, 0]);
    check.eq("CNTP_CTL, read back", control, 3);
    check.eq("CNTP_CTL_EL0", CNTP_CTL_EL0.get(), 3);
    // MCR p15, 0, r1, c14, c2, 0; MRC p15, 0, r0, c14, c2, 0: CNTP_TVAL.
    let at = code![0xEE0E_1F12, 0xEE1E_0F12, 0xEF00_0000];
    let before = CNTPCT_EL0.get();
    let [left, ..] = runs(check, "CNTP_TVAL", A32, at, [0, 0xFFFF_FFF0, 0, 0]);
    let passed = CNTPCT_EL0.get() - before;
    let since = CNTP_CVAL_EL0.get().wrapping_add(16).wrapping_sub(before);
    check.that(since <= passed, "CNTP_TVAL is a signed number of ticks from now");
    check.that(0xFFFF_FFF0 - left <= passed, "CNTP_TVAL, read back");
    let [control, ..] = runs(check, "CNTP_CTL of one that is due", A32, read_control(), [0; 4]);
    check.eq("CNTP_CTL of one that is due and masked", control, 7);
    CNTP_CTL_EL0.set(0);
    CNTKCTL_EL1.set(0);
}
