//! Every PSCI rule, by HVC and by SMC, SMC32 and SMC64. Default tests need a VM of 4 vCPUs; `unanswered`, `answered`,
//! `verdicts` and `filtered` need the host test program of that matter.
#![no_std]
#![no_main]

use aarch64_cpu::registers::{CNTP_CTL_EL0, CNTP_TVAL_EL0, Readable, Writeable};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use guest::check::Check;
use guest::psci::{ALREADY_ON, DENIED, INTERNAL_FAILURE, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, SUCCESS, psci};
use guest::smccc::{self, Conduit, call, conduits};
use guest::{cpu, gic, oem, timer};
use hyp_abi::layout::{PTIMER_INTID, affinity_of};
use hyp_abi::psci as id;

guest::tests!(
    smc_is_a_conduit,
    version,
    features_tells_what_there_is,
    migration_is_not_needed,
    smccc_version_and_features,
    vendor_uid,
    unknown_functions,
    host_calls_are_not_for_guests,
    function_id_is_w0,
    calls_preserve_registers,
    affinity_info,
    cpu_on_checks_the_target,
    cpu_on_checks_the_entry,
    smc32_uses_low_halves,
    cpu_on_of_an_on_cpu,
    entry_state,
    endianness_is_the_callers,
    off_and_on_again,
    suspend_is_standby,
    sgi_stays_pending_across_off,
    sgi_sent_while_off_arrives,
    cpu_interface_is_as_after_reset,
    reset2_and_off2_check_their_parameters,
    system_suspend_checks,
    system_suspend_wakes_at_its_entry,
    races ; only
    unanswered, answered, verdicts, denied, filtered, off_by_smc, off_by_off2
);

const PATIENCE: u64 = 10;

static RUNS: AtomicU32 = AtomicU32::new(0);
static HOLD: AtomicU64 = AtomicU64::new(0);

/// A secondary that counts itself and stays until it is released.
fn hold(_: u64) {
    RUNS.fetch_add(1, Ordering::Release);
    let _gives_up = cpu::wait_until(6 * PATIENCE, || HOLD.load(Ordering::Acquire) == 0);
}

/// A secondary that counts itself and goes.
fn visit(_: u64) {
    RUNS.fetch_add(1, Ordering::Release);
}

fn runs_reach(check: &mut Check, count: u32) {
    check.that(
        cpu::wait_until(PATIENCE, || RUNS.load(Ordering::Acquire) == count),
        "the secondary runs",
    );
}

fn goes_off(check: &mut Check, index: usize) {
    check.that(cpu::wait_off(index, PATIENCE), "AFFINITY_INFO gives OFF after CPU_OFF");
}

fn smc_is_a_conduit(check: &mut Check) {
    check.eq("conduits", conduits().len(), 2);
}

fn version(check: &mut Check) {
    for &conduit in conduits() {
        let version = psci(conduit, id::VERSION, 0, 0, 0);
        check.eq("PSCI 1.3", version, 0x1_0003);
    }
}

fn features_tells_what_there_is(check: &mut Check) {
    let present = [
        id::VERSION,
        id::CPU_SUSPEND_32,
        id::CPU_SUSPEND_64,
        id::CPU_OFF,
        id::CPU_ON_32,
        id::CPU_ON_64,
        id::AFFINITY_INFO_32,
        id::AFFINITY_INFO_64,
        id::MIGRATE_INFO_TYPE,
        id::SYSTEM_OFF,
        id::SYSTEM_RESET,
        id::FEATURES,
        id::SYSTEM_SUSPEND_32,
        id::SYSTEM_SUSPEND_64,
        id::SYSTEM_RESET2_32,
        id::SYSTEM_RESET2_64,
        hyp_abi::smccc::VERSION,
    ];
    // The last ones have no SMC64 form, or are no function at all.
    let absent = [
        0xC400_0000,
        0xC400_0002,
        0xC400_0008,
        0x8400_00FF,
        0xC400_00FF,
        0,
        0x8600_0000,
        u32::MAX,
    ];
    for &conduit in conduits() {
        for function in present {
            let found = psci(conduit, id::FEATURES, u64::from(function), 0, 0);
            if found != 0 {
                check.fail(format_args!("FEATURES({function:#x}) gave {found}"));
            }
        }
        for function in [id::SYSTEM_OFF2_32, id::SYSTEM_OFF2_64] {
            let found = psci(conduit, id::FEATURES, u64::from(function), 0, 0);
            check.eq("FEATURES of SYSTEM_OFF2: HIBERNATE_OFF", found, 1);
        }
        for function in absent {
            let found = psci(conduit, id::FEATURES, u64::from(function), 0, 0);
            if found != NOT_SUPPORTED {
                check.fail(format_args!("FEATURES({function:#x}) gave {found}"));
            }
        }
    }
}

fn migration_is_not_needed(check: &mut Check) {
    for &conduit in conduits() {
        check.eq("MIGRATE_INFO_TYPE", psci(conduit, id::MIGRATE_INFO_TYPE, 0, 0, 0), 2);
    }
}

fn smccc_version_and_features(check: &mut Check) {
    for &conduit in conduits() {
        check.that(psci(conduit, hyp_abi::smccc::VERSION, 0, 0, 0) >= 0x1_0001, "SMCCC 1.1 or later");
        let has = |function: u32| psci(conduit, hyp_abi::smccc::ARCH_FEATURES, u64::from(function), 0, 0);
        check.that(has(hyp_abi::smccc::VERSION) >= 0, "ARCH_FEATURES knows SMCCC_VERSION");
        check.that(has(hyp_abi::smccc::ARCH_FEATURES) >= 0, "ARCH_FEATURES knows itself");
        check.eq("ARCH_FEATURES of an unknown function", has(0x8000_7FF0), NOT_SUPPORTED);
    }
}

fn vendor_uid(check: &mut Check) {
    for &conduit in conduits() {
        let words = call(conduit, [u64::from(hyp_abi::smccc::VENDOR_HYP_UID), 0, 0, 0]).map(|word| word as u32);
        check.eq("the vendor UID", words, hyp_abi::smccc::UMBRA_UID);
        let [major, minor, ..] = call(conduit, [u64::from(hyp_abi::smccc::VENDOR_HYP_REVISION), 0, 0, 0]);
        check.eq("the service's revision", [major, minor], hyp_abi::call::REVISION.map(u64::from));
    }
}

fn unknown_functions(check: &mut Check) {
    for &conduit in conduits() {
        for function in [
            0x8400_0050,
            0xC400_0050,
            0x8000_0050,
            0xC000_0050,
            0x8100_0000,
            0x8600_0050,
            0xBF00_0001,
            0x0400_0000,
            0,
            u32::MAX,
        ] {
            let [found, ..] = call(conduit, [u64::from(function), 1, 2, 3]);
            if found != u64::MAX {
                check.fail(format_args!("{function:#x} gave {found:#x}"));
            }
        }
    }
}

fn host_calls_are_not_for_guests(check: &mut Check) {
    use hyp_abi::call;
    for function in call::WAIT_EXIT..=call::COMPLETE_AND_WAIT {
        let [found, ..] = smccc::hvc(function, 1, 0, 0);
        if found != u64::MAX {
            check.fail(format_args!("{function:#x} gave {found:#x}"));
        }
    }
    let [found, ..] = smccc::hvc(call::TRIGGER, 0, 0, 0);
    check.eq("TRIGGER", found, u64::MAX);
}

fn function_id_is_w0(check: &mut Check) {
    let [found, ..] = call(Conduit::Hvc, [0xDEAD_BEEF_0000_0000 | u64::from(id::MIGRATE_INFO_TYPE), 0, 0, 0]);
    check.eq("MIGRATE_INFO_TYPE with junk in the upper half of x0", found, 2);
}

fn calls_preserve_registers(check: &mut Check) {
    let mut changed: u64;
    // SAFETY: Every register that the block uses is named as an operand or a clobber; x18, x19 and x29 are left alone.
    unsafe {
        asm!(
            "mov x4, #4", "mov x5, #5", "mov x6, #6", "mov x7, #7", "mov x8, #8", "mov x9, #9", "mov x10, #10",
            "mov x11, #11", "mov x12, #12", "mov x13, #13", "mov x14, #14", "mov x15, #15", "mov x16, #16", "mov x17, #17",
            "mov x20, #20", "mov x21, #21", "mov x22, #22", "mov x23, #23", "mov x24, #24", "mov x25, #25", "mov x26, #26",
            "mov x27, #27", "mov x28, #28",
            "hvc #0",
            "eor x4, x4, #4", "sub x5, x5, #5", "eor x6, x6, #6", "eor x7, x7, #7", "eor x8, x8, #8", "sub x9, x9, #9",
            "sub x10, x10, #10", "sub x11, x11, #11", "eor x12, x12, #12", "sub x13, x13, #13", "eor x14, x14, #14",
            "eor x15, x15, #15", "eor x16, x16, #16", "sub x17, x17, #17", "sub x20, x20, #20", "sub x21, x21, #21",
            "sub x22, x22, #22", "sub x23, x23, #23", "sub x24, x24, #24", "sub x25, x25, #25", "sub x26, x26, #26",
            "sub x27, x27, #27", "sub x28, x28, #28",
            "orr x4, x4, x5", "orr x4, x4, x6", "orr x4, x4, x7", "orr x4, x4, x8", "orr x4, x4, x9", "orr x4, x4, x10",
            "orr x4, x4, x11", "orr x4, x4, x12", "orr x4, x4, x13", "orr x4, x4, x14", "orr x4, x4, x15",
            "orr x4, x4, x16", "orr x4, x4, x17", "orr x4, x4, x20", "orr x4, x4, x21", "orr x4, x4, x22",
            "orr x4, x4, x23", "orr x4, x4, x24", "orr x4, x4, x25", "orr x4, x4, x26", "orr x4, x4, x27",
            "orr x4, x4, x28",
            inout("x0") u64::from(id::VERSION) => _, out("x1") _, out("x2") _, out("x3") _, out("x4") changed,
            out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _,
            out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, out("x20") _, out("x21") _,
            out("x22") _, out("x23") _, out("x24") _, out("x25") _, out("x26") _, out("x27") _, out("x28") _,
        );
    }
    check.eq("bits that changed in x4 to x28", changed, 0);
}

fn affinity_info(check: &mut Check) {
    for &conduit in conduits() {
        for function in [id::AFFINITY_INFO_32, id::AFFINITY_INFO_64] {
            let info = |target: u64, level: u64| psci(conduit, function, target, level, 0);
            check.eq("this vCPU", info(cpu::affinity(), 0), 0);
            check.eq("a vCPU that never ran", info(affinity_of(1), 0), 1);
            for level in 1..=3 {
                check.eq("the cluster and what holds it", info(0, level), 0);
            }
            check.eq("level 4", info(0, 4), INVALID_PARAMETERS);
            check.eq("a level beyond", info(0, 0xFFFF_FFFF), INVALID_PARAMETERS);
            check.eq("no such vCPU", info(15, 0), INVALID_PARAMETERS);
            check.eq("no such cluster", info(0x100, 1), INVALID_PARAMETERS);
            check.eq("bit 31, which is no affinity", info(0x8000_0000, 0), INVALID_PARAMETERS);
            check.eq("bit 24, which is no affinity", info(0x0100_0000, 0), INVALID_PARAMETERS);
        }
    }
}

fn cpu_on_checks_the_target(check: &mut Check) {
    let entry = cpu::Entry::Timed.address();
    for &conduit in conduits() {
        for target in [15, 0x100, 0x0001_0000, 0x0100_0001, 0x8000_0001, 0xFFFF_FFFF] {
            for function in [id::CPU_ON_32, id::CPU_ON_64] {
                let found = psci(conduit, function, target, entry, 0);
                if found != INVALID_PARAMETERS {
                    check.fail(format_args!("CPU_ON({target:#x}) gave {found}"));
                }
            }
        }
        for target in [1 << 32 | 1, 1 << 40 | 1, u64::MAX] {
            check.eq(
                "CPU_ON, SMC64, of a bad MPIDR",
                psci(conduit, id::CPU_ON_64, target, entry, 0),
                INVALID_PARAMETERS,
            );
        }
        check.eq(
            "a bad target comes before a bad entry",
            psci(conduit, id::CPU_ON_64, 15, 0, 0),
            INVALID_PARAMETERS,
        );
    }
    check.eq("nobody was started", psci(Conduit::Hvc, id::AFFINITY_INFO_64, 1, 0, 0), 1);
}

fn cpu_on_checks_the_entry(check: &mut Check) {
    for &conduit in conduits() {
        for entry in [0, hyp_abi::layout::GICD_BASE, hyp_abi::layout::UART_BASE, 0x3FFF_FFFC, 0xFFFF_0000] {
            for function in [id::CPU_ON_32, id::CPU_ON_64] {
                let found = psci(conduit, function, affinity_of(1), entry, 0);
                if found != INVALID_ADDRESS {
                    check.fail(format_args!("CPU_ON(1, {entry:#x}) gave {found}"));
                }
            }
        }
        for entry in [1 << 40, 0xFFFF_0000_4008_0000, u64::MAX - 3] {
            check.eq(
                "an entry out of reach",
                psci(conduit, id::CPU_ON_64, affinity_of(1), entry, 0),
                INVALID_ADDRESS,
            );
        }
        check.eq(
            "a bad entry comes before the state",
            psci(conduit, id::CPU_ON_64, cpu::affinity(), 0, 0),
            INVALID_ADDRESS,
        );
    }
    check.eq("nobody was started", psci(Conduit::Hvc, id::AFFINITY_INFO_64, 1, 0, 0), 1);
}

fn smc32_uses_low_halves(check: &mut Check) {
    const JUNK: u64 = 0x1234_5678_0000_0000;
    for &conduit in conduits() {
        RUNS.store(0, Ordering::Relaxed);
        let context = cpu::prepare(1, visit, 0);
        let code = psci(
            conduit,
            id::CPU_ON_32,
            JUNK | affinity_of(1),
            JUNK | cpu::Entry::Recorded.address(),
            JUNK | context,
        );
        check.eq("CPU_ON, SMC32, with junk in the upper halves", code, SUCCESS);
        runs_reach(check, 1);
        goes_off(check, 1);
        check.eq("the context id is the low half", cpu::captured(1).x[0], context);
        let info = psci(conduit, id::AFFINITY_INFO_32, JUNK | affinity_of(1), JUNK, 0);
        check.eq("AFFINITY_INFO, SMC32, with junk in the upper halves", info, 1);
    }
}

fn cpu_on_of_an_on_cpu(check: &mut Check) {
    for &conduit in conduits() {
        RUNS.store(0, Ordering::Relaxed);
        HOLD.store(1, Ordering::Release);
        check.eq("CPU_ON", cpu::start(1, hold, 0), SUCCESS);
        runs_reach(check, 1);
        let entry = cpu::Entry::Timed.address();
        check.eq(
            "AFFINITY_INFO while on",
            psci(conduit, id::AFFINITY_INFO_64, affinity_of(1), 0, 0),
            0,
        );
        for function in [id::CPU_ON_32, id::CPU_ON_64] {
            check.eq(
                "CPU_ON of a vCPU that is on",
                psci(conduit, function, affinity_of(1), entry, 0),
                ALREADY_ON,
            );
        }
        check.eq(
            "CPU_ON of the caller",
            psci(conduit, id::CPU_ON_64, cpu::affinity(), entry, 0),
            ALREADY_ON,
        );
        HOLD.store(0, Ordering::Release);
        goes_off(check, 1);
        check.eq("it ran once", RUNS.load(Ordering::Acquire), 1);
    }
}

fn entry_state(check: &mut Check) {
    for &conduit in conduits() {
        for round in 0..3 {
            RUNS.store(0, Ordering::Relaxed);
            let context = cpu::prepare(2, visit, round);
            let code = psci(conduit, id::CPU_ON_64, affinity_of(2), cpu::Entry::Recorded.address(), context);
            check.eq("CPU_ON", code, SUCCESS);
            runs_reach(check, 1);
            goes_off(check, 2);
            let found = cpu::captured(2);
            check.eq("x0 is the context id", found.x[0], context);
            check.eq("x1 to x30 are zero", found.x[1..].iter().fold(0, |all, x| all | x), 0);
            check.eq("CurrentEL", found.current_el, 1 << 2);
            check.eq("DAIF", found.daif, 0xF << 6);
            check.eq("SPSel", found.spsel, 1);
            check.eq(
                "SCTLR_EL1.M, C, I, EE, E0E",
                found.sctlr & (1 | 1 << 2 | 1 << 12 | 1 << 25 | 1 << 24),
                0,
            );
        }
    }
}

// A vCPU that stores its SCTLR_EL1 at x0, little-endian, and goes off.
global_asm!(
    ".section .text.endian, \"ax\"",
    ".global endian_entry",
    "endian_entry:",
    "mrs x1, sctlr_el1",
    "bic x2, x1, #(1 << 25)",
    "msr sctlr_el1, x2",
    "isb",
    "str x1, [x0]",
    "dsb sy",
    "mov w0, #({off} & 0xFFFF)",
    "movk w0, #({off} >> 16), lsl #16",
    "hvc #0",
    "b .",
    off = const id::CPU_OFF,
);

unsafe extern "C" {
    fn endian_entry();
}

/// Big-endian when the caller is, and not the next time, when it is not.
fn endianness_is_the_callers(check: &mut Check) {
    const EE: u64 = 1 << 25;
    static SEEN: AtomicU64 = AtomicU64::new(0);
    for ee in [0, EE, EE, 0] {
        SEEN.store(0, Ordering::Relaxed);
        let code = cpu::masked(|| {
            let code: i64;
            // SAFETY: Between the two writes of SCTLR_EL1 nothing accesses memory, and addresses are the same with the MMU off (a table
            // would be big-endian, too); SMCCC lets the callee change x0 to x17. The entry writes
            // to `SEEN` only.
            unsafe {
                asm!("mrs x5, sctlr_el1", "bic x4, x5, #1", "orr x4, x4, {ee}", "msr sctlr_el1, x4", "isb", "hvc #0",
                    "msr sctlr_el1, x5", "isb",
                    ee = in(reg) ee, inout("x0") u64::from(id::CPU_ON_64) => code, inout("x1") affinity_of(1) => _,
                inout("x2") endian_entry as *const () as u64 => _, inout("x3") SEEN.as_ptr() as u64 => _,
                out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _,
                out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, options(nostack));
            }
            code
        });
        check.eq("CPU_ON", code, SUCCESS);
        check.that(cpu::wait_until(PATIENCE, || SEEN.load(Ordering::Acquire) != 0), "vCPU 1 runs");
        check.eq("SCTLR_EL1.EE of what was started", SEEN.load(Ordering::Acquire) & EE, ee);
        goes_off(check, 1);
    }
}

fn off_and_on_again(check: &mut Check) {
    RUNS.store(0, Ordering::Relaxed);
    for round in 1..=50 {
        let index = 1 + round as usize % 3;
        check.eq("CPU_ON", cpu::start(index, visit, 0), SUCCESS);
        runs_reach(check, round);
        goes_off(check, index);
    }
}

fn suspend_is_standby(check: &mut Check) {
    gic::init_distributor();
    gic::init_cpu();
    gic::enable(hyp_abi::layout::VTIMER_INTID);
    for &conduit in conduits() {
        timer::arm(timer::micros(1000));
        let code = psci(conduit, id::CPU_SUSPEND_64, 0, 0, 0);
        check.eq("standby until the timer's interrupt", code, SUCCESS);
        timer::disarm();
    }
    check.eq(
        "reserved bits",
        psci(Conduit::Hvc, id::CPU_SUSPEND_64, 1 << 31, 0, 0),
        INVALID_PARAMETERS,
    );
    gic::disable(hyp_abi::layout::VTIMER_INTID);
}

static SEEN: AtomicU32 = AtomicU32::new(0);

/// Shows what is pending in its redistributor and waits for SGI 5 there with interrupts masked; then goes off with it.
fn wait_for_sgi5(_: u64) {
    gic::init_cpu();
    RUNS.fetch_add(1, Ordering::Release);
    let _gives_up = cpu::wait_until(PATIENCE, || gic::hppir1() == 5);
    SEEN.store(gic::hppir1(), Ordering::Release);
}

/// Takes what is pending from before, without changing the redistributor first.
fn take_sgi(_: u64) {
    SEEN.store(0, Ordering::Relaxed);
    gic::set_pmr(0xFF);
    gic::set_igrpen1(true);
    let _gives_up = cpu::wait_until(PATIENCE, || gic::hppir1() != gic::SPURIOUS);
    let intid = gic::iar1();
    gic::eoir1(intid);
    SEEN.store(0x100 | intid, Ordering::Release);
    RUNS.fetch_add(1, Ordering::Release);
}

fn sgi_stays_pending_across_off(check: &mut Check) {
    gic::init_distributor();
    gic::init_cpu();
    RUNS.store(0, Ordering::Relaxed);
    check.eq("CPU_ON", cpu::start(1, wait_for_sgi5, 0), SUCCESS);
    runs_reach(check, 1);
    gic::send_sgi(affinity_of(1), 5);
    goes_off(check, 1);
    check.eq("the SGI was pending before CPU_OFF", SEEN.load(Ordering::Acquire), 5);
    check.eq("CPU_ON again", cpu::start(1, take_sgi, 0), SUCCESS);
    runs_reach(check, 2);
    check.eq("the SGI that is taken then", SEEN.load(Ordering::Acquire), 0x105);
    goes_off(check, 1);
}

fn sgi_sent_while_off_arrives(check: &mut Check) {
    // At once, and when whatever the SGI woke sleeps again.
    for pause in [0, timer::micros(50_000)] {
        RUNS.store(0, Ordering::Relaxed);
        gic::send_sgi(affinity_of(1), 6);
        timer::delay(pause);
        check.eq("CPU_ON", cpu::start(1, take_sgi, 0), SUCCESS);
        runs_reach(check, 1);
        check.eq("the SGI that is taken then", SEEN.load(Ordering::Acquire), 0x106);
        goes_off(check, 1);
    }
}

/// Goes off with everything on, in the handler of SGI 7, with the line of its physical timer high.
fn leave_in_a_handler(_: u64) {
    gic::init_cpu();
    gic::set_ctlr(gic::CTLR_CBPR | gic::CTLR_EOIMODE);
    gic::set_igrpen0(true);
    gic::send_sgi(cpu::affinity(), 7);
    let _gives_up = cpu::wait_until(PATIENCE, || gic::hppir1() == 7);
    SEEN.store(gic::iar1(), Ordering::Release);
    CNTP_TVAL_EL0.set(0);
    CNTP_CTL_EL0.set(1);
    RUNS.fetch_add(1, Ordering::Release);
}

static INTERFACE: [AtomicU64; 7] = [const { AtomicU64::new(u64::MAX) }; 7];

/// The CPU interface at the first instructions. Nothing of SGI 7 stays.
fn look_at_the_interface(_: u64) {
    let line = gic::pending() >> PTIMER_INTID & 1;
    let timer = CNTP_CTL_EL0.get() & 1;
    let found = [
        gic::pmr(),
        gic::igrpen0(),
        gic::igrpen1(),
        gic::rpr(),
        gic::ctlr() & 3,
        line.into(),
        timer,
    ];
    for (cell, value) in INTERFACE.iter().zip(found) {
        cell.store(value, Ordering::Relaxed);
    }
    gic::clear_active(1 << 7);
    RUNS.fetch_add(1, Ordering::Release);
}

/// `CPU_ON` after `CPU_OFF`: no mask, no group, no active priority and no timer of before.
fn cpu_interface_is_as_after_reset(check: &mut Check) {
    gic::init_distributor();
    for _ in 0..2 {
        RUNS.store(0, Ordering::Relaxed);
        check.eq("CPU_ON", cpu::start(1, leave_in_a_handler, 0), SUCCESS);
        runs_reach(check, 1);
        goes_off(check, 1);
        check.eq("it was in a handler", SEEN.load(Ordering::Acquire), 7);
        check.eq("CPU_ON again", cpu::start(1, look_at_the_interface, 0), SUCCESS);
        runs_reach(check, 2);
        goes_off(check, 1);
        let found = INTERFACE.each_ref().map(|cell| cell.load(Ordering::Acquire));
        check.eq(
            "PMR, IGRPEN0, IGRPEN1, RPR, CBPR and EOImode, the timer's line, its ENABLE",
            found,
            [0, 0, 0, 0xFF, 0, 0, 0],
        );
    }
}

static GO: AtomicU64 = AtomicU64::new(0);
static CONTEXT: AtomicU64 = AtomicU64::new(0);
static BACK: AtomicU32 = AtomicU32::new(0);
static CODES: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
const ROUNDS: u64 = 30;

fn race_once(racer: usize) {
    let code = guest::psci::cpu_on(affinity_of(3), cpu::Entry::Timed.address(), CONTEXT.load(Ordering::Relaxed));
    CODES[racer].store(code, Ordering::Relaxed);
    BACK.fetch_add(1, Ordering::Release);
}

fn racer(_: u64) {
    for round in 1..=ROUNDS {
        if !cpu::wait_until(PATIENCE, || GO.load(Ordering::Acquire) >= round) {
            return;
        }
        race_once(cpu::index());
    }
}

fn races(check: &mut Check) {
    GO.store(0, Ordering::Relaxed);
    for index in [1, 2] {
        check.eq("CPU_ON of a racer", cpu::start(index, racer, 0), SUCCESS);
    }
    for round in 1..=ROUNDS {
        RUNS.store(0, Ordering::Relaxed);
        BACK.store(0, Ordering::Relaxed);
        HOLD.store(1, Ordering::Relaxed);
        CONTEXT.store(cpu::prepare(3, hold, 0), Ordering::Relaxed);
        GO.store(round, Ordering::Release);
        race_once(0);
        let back = cpu::wait_until(PATIENCE, || BACK.load(Ordering::Acquire) == 3);
        let codes: [i64; 3] = core::array::from_fn(|racer| CODES[racer].load(Ordering::Relaxed));
        let winners = codes.iter().filter(|&&code| code == SUCCESS).count();
        let losers = codes.iter().filter(|&&code| code == ALREADY_ON || code == ON_PENDING).count();
        if !back || winners != 1 || losers != 2 {
            check.fail(format_args!("round {round}: {codes:?}"));
        }
        runs_reach(check, 1);
        HOLD.store(0, Ordering::Release);
        goes_off(check, 3);
        check.eq("the target ran once", RUNS.load(Ordering::Acquire), 1);
    }
    goes_off(check, 1);
    goes_off(check, 2);
}

/// What they do when all is well ends the VM: `off_by_off2`.
fn reset2_and_off2_check_their_parameters(check: &mut Check) {
    for &conduit in conduits() {
        for function in [id::SYSTEM_RESET2_32, id::SYSTEM_RESET2_64] {
            for kind in [1, 2, 0x7000_0000, 0x8000_0000, 0xFFFF_FFFF] {
                let found = psci(conduit, function, kind, 0, 0);
                if found != INVALID_PARAMETERS {
                    check.fail(format_args!("SYSTEM_RESET2({kind:#x}) gave {found}"));
                }
            }
        }
        for function in [id::SYSTEM_OFF2_32, id::SYSTEM_OFF2_64] {
            for (kind, cookie) in [(2, 0), (3, 0), (0x8000_0000, 0), (0x8000_0001, 0), (0, 1), (1, 1), (1, 0x8000_0000)] {
                let found = psci(conduit, function, kind, cookie, 0);
                if found != INVALID_PARAMETERS {
                    check.fail(format_args!("SYSTEM_OFF2({kind:#x}, {cookie:#x}) gave {found}"));
                }
            }
        }
    }
}

fn system_suspend_checks(check: &mut Check) {
    let entry = cpu::Entry::Timed.address();
    for &conduit in conduits() {
        for function in [id::SYSTEM_SUSPEND_32, id::SYSTEM_SUSPEND_64] {
            for entry in [0, hyp_abi::layout::UART_BASE, 0x3FFF_FFFC, entry + 1] {
                let found = psci(conduit, function, entry, 0, 0);
                if found != INVALID_ADDRESS {
                    check.fail(format_args!("SYSTEM_SUSPEND({entry:#x}) gave {found}"));
                }
            }
            RUNS.store(0, Ordering::Relaxed);
            HOLD.store(1, Ordering::Release);
            check.eq("CPU_ON", cpu::start(2, hold, 0), SUCCESS);
            runs_reach(check, 1);
            check.eq("SYSTEM_SUSPEND while another is on", psci(conduit, function, entry, 0, 0), DENIED);
            check.eq("the same with a bad entry", psci(conduit, function, 0, 0, 0), DENIED);
            HOLD.store(0, Ordering::Release);
            goes_off(check, 2);
        }
    }
}

/// Where a suspended vCPU was in the code that suspended it, and its stack there.
static SUSPENDED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// `SYSTEM_SUSPEND`, to go on at `Entry::Recorded` with `context`, and from there, by [`go_on`], here. The PSCI code.
fn suspend(function: u32, context: u64) -> i64 {
    let result: u64;
    // SAFETY: Everything that the waking vCPU does not find in its registers is saved on the stack, or is declared clobbered.
    // `go_on` comes back with this stack pointer, to the label.
    unsafe {
        asm!(
            "stp x19, x20, [sp, #-96]!", "stp x21, x22, [sp, #16]", "stp x23, x24, [sp, #32]",
            "stp x25, x26, [sp, #48]", "stp x27, x28, [sp, #64]", "stp x29, x30, [sp, #80]",
            "adr x9, 2f", "mov x10, sp", "stp x9, x10, [x8]",
            "hvc #0",
            "b 3f",
            "2: mov x0, #0",
            "3: ldp x29, x30, [sp, #80]", "ldp x27, x28, [sp, #64]", "ldp x25, x26, [sp, #48]",
            "ldp x23, x24, [sp, #32]", "ldp x21, x22, [sp, #16]", "ldp x19, x20, [sp], #96",
            inlateout("x0") u64::from(function) => result,
            in("x1") cpu::Entry::Recorded.address(),
            in("x2") context,
            in("x3") 0_u64,
            in("x8") SUSPENDED.as_ptr(),
            clobber_abi("C"),
        );
    }
    result as i64
}

/// What the vCPU runs at its wake-up, on a stack of its own: back to where it was suspended.
fn go_on(_: u64) {
    let [code, stack] = [0, 1].map(|word| SUSPENDED[word].load(Ordering::Relaxed));
    // SAFETY: `suspend` left both, and waits there with nothing in registers that it needs.
    unsafe { asm!("mov sp, {stack}", "br {code}", stack = in(reg) stack, code = in(reg) code, options(noreturn)) }
}

fn system_suspend_wakes_at_its_entry(check: &mut Check) {
    gic::init_distributor();
    for function in [id::SYSTEM_SUSPEND_32, id::SYSTEM_SUSPEND_64] {
        // The second time as Linux does it: with the CPU interface's group off. The redistributor wakes.
        for interface in [true, false] {
            gic::init_cpu();
            gic::enable(hyp_abi::layout::VTIMER_INTID);
            gic::set_igrpen1(interface);
            // vCPU 3 is off: its stack serves the wake-up.
            let context = cpu::prepare(3, go_on, 0);
            let before = timer::now();
            timer::arm(timer::micros(2000));
            check.eq("SYSTEM_SUSPEND", suspend(function, context), SUCCESS);
            check.that(timer::now() - before >= timer::micros(2000), "it slept until the interrupt");
            let found = cpu::captured(3);
            check.eq("x0 is the context id", found.x[0], context);
            check.eq("x1 to x30 are zero", found.x[1..].iter().fold(0, |all, x| all | x), 0);
            check.eq("CurrentEL", found.current_el, 1 << 2);
            check.eq("DAIF", found.daif, 0xF << 6);
            check.eq("SCTLR_EL1.M, C, I", found.sctlr & (1 | 1 << 2 | 1 << 12), 0);
            check.eq("the timer is off", timer::fired(), false);
            check.eq("AFFINITY_INFO of the caller", guest::psci::affinity_info(cpu::affinity()), 0);
            gic::init_cpu();
            check.eq("nothing is pending afterwards", gic::hppir1(), gic::SPURIOUS);
            gic::disable(hyp_abi::layout::VTIMER_INTID);
        }
    }
    // The physical timer wakes as well.
    gic::enable(PTIMER_INTID);
    let context = cpu::prepare(3, go_on, 0);
    let before = timer::now();
    CNTP_TVAL_EL0.set(timer::micros(2000));
    CNTP_CTL_EL0.set(1);
    check.eq("SYSTEM_SUSPEND", suspend(id::SYSTEM_SUSPEND_64, context), SUCCESS);
    check.that(
        timer::now() - before >= timer::micros(2000),
        "it slept until the physical timer's interrupt",
    );
    check.eq("which is off afterwards", CNTP_CTL_EL0.get(), 0);
    gic::disable(PTIMER_INTID);
    gic::init_cpu();
    gic::set_igrpen1(false);
    gic::send_sgi(cpu::affinity(), 5);
    let context = cpu::prepare(3, go_on, 0);
    check.eq(
        "SYSTEM_SUSPEND with an SGI pending",
        suspend(id::SYSTEM_SUSPEND_64, context),
        SUCCESS,
    );
    gic::init_cpu();
    check.eq("the SGI that woke it is pending", gic::iar1(), 5);
    gic::eoir1(5);
    RUNS.store(0, Ordering::Relaxed);
    check.eq("CPU_ON after it", cpu::start(3, visit, 0), SUCCESS);
    runs_reach(check, 1);
    goes_off(check, 3);
}

/// With a host that never answers, or answers too late: the deadline decides.
fn unanswered(check: &mut Check) {
    RUNS.store(0, Ordering::Relaxed);
    let context = cpu::prepare(1, visit, 0);
    let code = guest::psci::cpu_on(affinity_of(1), cpu::Entry::Timed.address(), context);
    check.eq("CPU_ON", code, INTERNAL_FAILURE);
    check.eq("AFFINITY_INFO after it", guest::psci::affinity_info(affinity_of(1)), 1);
    check.eq("a forwarded call that is not PSCI's", oem::ask(oem::STEP, 1, 0), NOT_SUPPORTED);
    timer::delay(timer::frequency());
    check.eq(
        "AFFINITY_INFO when the late answer has come",
        guest::psci::affinity_info(affinity_of(1)),
        1,
    );
    check.eq("the target never ran", RUNS.load(Ordering::Acquire), 0);
}

/// With a host that answers, and then answers again or with forged cookies: the call succeeds once.
fn answered(check: &mut Check) {
    for round in 1..=3 {
        RUNS.store(0, Ordering::Relaxed);
        check.eq("CPU_ON", cpu::start(1, visit, 0), SUCCESS);
        runs_reach(check, 1);
        goes_off(check, 1);
        check.eq("a forwarded call that is not PSCI's", oem::ask(oem::STEP, round, 0x55), 0x55);
        check.eq("the target ran once", RUNS.load(Ordering::Acquire), 1);
    }
}

/// With a host that denies, fails, then allows.
fn verdicts(check: &mut Check) {
    RUNS.store(0, Ordering::Relaxed);
    for (what, code) in [("denied", DENIED), ("failed", INTERNAL_FAILURE), ("allowed", SUCCESS)] {
        check.eq(what, cpu::start(1, visit, 0), code);
        if code != SUCCESS {
            check.eq("AFFINITY_INFO after it", guest::psci::affinity_info(affinity_of(1)), 1);
        }
    }
    runs_reach(check, 1);
    goes_off(check, 1);
    for &conduit in conduits() {
        let found = call(conduit, [u64::from(oem::STEP), conduit as u64, 7, 8]);
        // x0 tells which conduit the host saw.
        check.eq("a forwarded call's x0 to x3", found, [conduit as u64, 0x11, 0x22, 0x33]);
    }
}

/// With a host that lets nobody start any more.
fn denied(check: &mut Check) {
    RUNS.store(0, Ordering::Relaxed);
    check.eq("CPU_ON", cpu::start(2, visit, 0), DENIED);
    check.eq("AFFINITY_INFO after it", guest::psci::affinity_info(affinity_of(2)), 1);
    check.eq("the target never ran", RUNS.load(Ordering::Acquire), 0);
}

/// With the filter of the host test `filter`.
fn filtered(check: &mut Check) {
    for &conduit in conduits() {
        let first = |function: u32| call(conduit, [u64::from(function), 0, 0, 0])[0] as i64;
        check.eq("a forwarded function", first(oem::FILTER_FORWARDED), 0x77);
        check.eq("a denied function", first(oem::FILTER_DENIED), NOT_SUPPORTED);
        check.eq("a denied PSCI function", first(id::MIGRATE_INFO_TYPE), NOT_SUPPORTED);
        check.eq(
            "FEATURES does not advertise it",
            guest::psci::features(id::MIGRATE_INFO_TYPE),
            NOT_SUPPORTED,
        );
        check.that(first(id::VERSION) > 0, "what no range names is handled");
    }
}

/// Switches the VM off by SMC; when that returns, the harness's own line counts a failure.
fn off_by_smc(check: &mut Check) {
    guest::println!("ok off_by_smc\n@guest done passed=1 failed=0");
    let code = psci(Conduit::Smc, id::SYSTEM_OFF, 0, 0, 0);
    check.fail(format_args!("SYSTEM_OFF by SMC returned {code}"));
}

/// Switches the VM off by SYSTEM_OFF2; when that returns, the harness's own line counts a failure.
fn off_by_off2(check: &mut Check) {
    guest::println!("ok off_by_off2\n@guest done passed=1 failed=0");
    let code = psci(Conduit::Hvc, id::SYSTEM_OFF2_64, u64::from(id::HIBERNATE_OFF), 0, 0);
    check.fail(format_args!("SYSTEM_OFF2 returned {code}"));
}
