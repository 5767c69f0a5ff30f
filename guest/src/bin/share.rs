//! vCPUs that share pCPUs: every register is each vCPU's own, all of them get on, and what is to wake one does. For a VM of
//! any number of vCPUs. `key=N` makes the patterns of several VMs differ; `neighbours` needs the host test of that name.
//! `greedy`, `restless` and `standing_by` are for a neighbour that measures what they leave it, for `ms=`.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use guest::check::Check;
use guest::{bootargs, cpu, gic, oem, println, psci, timer};
use hyp_abi::layout::{MAX_VCPUS, VTIMER_INTID, affinity_of};
use hyp_abi::psci::CPU_SUSPEND_64;
use hyp_abi::smccc::Conduit;

guest::tests!(
    every_register_is_its_own,
    spinners_starve_nobody,
    everybody_naps,
    sgis_go_round,
    ticks_come_while_all_spin,
    a_timer_that_is_turned_off_is_not_pending ; only
    neighbours,
    greedy,
    restless,
    standing_by,
    nothing_of_anothers_errors
);

const PATIENCE: u64 = 60;

global_asm!(
    include_str!("hold.s"),
    fpcr = const offset_of!(Held, fpcr),
    q = const offset_of!(Held, q),
    spins = const offset_of!(Hold, spins),
    found = const offset_of!(Hold, found),
    nzcv = const offset_of!(Held, nzcv),
);

unsafe extern "C" {
    /// Loads `load`, counts `spins` down with everything loaded, waits for an interrupt if `wfi` says so, and stores what the
    /// registers hold then to `found`. Makes no call and no memory access meanwhile.
    fn hold(this: *mut Hold);
}

/// What an unprivileged program has in its registers; of `x` all but x0.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    x: [u64; 31],
    nzcv: u64,
    q: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

#[repr(C, align(16))]
struct Hold {
    load: Held,
    found: Held,
    spins: u64,
    wfi: u64,
}

const _: () = assert!(size_of::<Held>() == 784, "hold.s stores in this order");

/// A value of the key `key`, another one for each `n`.
const fn pattern(key: u64, n: u64) -> u64 {
    let mixed = (key * 64 + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 29
}

impl Held {
    fn of(key: u64) -> Self {
        Self {
            x: core::array::from_fn(|n| if n == 0 { 0 } else { pattern(key, n as u64) }),
            nzcv: (key & 0xF) << 28,
            q: core::array::from_fn(|n| u128::from(pattern(key, 31 + n as u64)) << 64 | u128::from(!pattern(key, n as u64))),
            // Rounding mode and flush to zero; cumulative exception bits.
            fpcr: (key & 7) << 22,
            fpsr: key & 0x1F,
        }
    }
}

/// This vCPU's key, another one for each vCPU of the machine.
fn key() -> u64 {
    bootargs::number("key", 0) + cpu::index() as u64
}

/// One system register.
struct Register {
    name: &'static str,
    read: fn() -> u64,
    write: fn(u64),
    /// What a vCPU with this key has in it, given what every vCPU has after boot.
    value: fn(u64, u64) -> u64,
}

macro_rules! register {
    ($name:literal, $value:expr) => {
        Register {
            name: $name,
            read: || {
                let value: u64;
                // SAFETY: Reads a register of this vCPU; not `nomem`, so reads keep their place.
                unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
                value
            },
            write: |value| {
                // SAFETY: The table gives values only that leave the running code its memory map, and `worker` masks
                // interrupts before it writes them; the ISB makes it act at once.
                unsafe { asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack, preserves_flags)) };
            },
            value: $value,
        }
    };
}

const REGISTERS: [Register; 24] = [
    register!("TPIDR_EL0", |_, key| pattern(key, 40)),
    register!("TPIDRRO_EL0", |_, key| pattern(key, 41)),
    register!("TPIDR_EL1", |_, key| pattern(key, 42)),
    register!("CONTEXTIDR_EL1", |_, key| pattern(key, 43) & 0xFFFF_FFFF),
    register!("SP_EL0", |_, key| pattern(key, 44)),
    register!("ELR_EL1", |_, key| pattern(key, 45)),
    register!("SPSR_EL1", |_, key| 0x3C5 | (key & 0xF) << 28),
    register!("ESR_EL1", |_, key| pattern(key, 46) & 0xFFFF_FFFF),
    register!("FAR_EL1", |_, key| pattern(key, 47)),
    register!("PAR_EL1", |_, key| pattern(key, 48) & 0x00FF_FFFF_F000),
    register!("VBAR_EL1", |_, key| 0x4100_0000 + key * 0x800),
    // Attributes 4 to 7 are nobody's.
    register!("MAIR_EL1", |own, key| own | (pattern(key, 49) & 0x4444_4444) << 32),
    register!("TTBR0_EL1", |_, _| private_map()),
    // TCR_EL1.EPD1 is set: these are used for nothing.
    register!("TTBR1_EL1", |_, key| pattern(key, 50) & 0xFF_FFFF_F000),
    register!("TCR_EL1", |own, key| own | ((16 + key) & 0x1F) << 16),
    // What EL0 may do: UMA, DZE, UCT, UCI.
    register!("SCTLR_EL1", |own, key| own
        | (key & 1) << 9
        | (key >> 1 & 1) << 14
        | (key >> 2 & 1) << 15
        | (key >> 3 & 1) << 26),
    // FPEN: EL1 may use FP, and EL0 of every other vCPU.
    register!("CPACR_EL1", |_, key| (1 | (key & 1) << 1) << 20),
    register!("CSSELR_EL1", |_, key| key % 3),
    register!("CNTKCTL_EL1", |_, key| key & 3 | (key >> 2 & 3) << 8),
    // Hours from now, each its own.
    register!("CNTV_CVAL_EL0", |_, key| 1 << 56 | pattern(key, 51) >> 8),
    register!("CNTV_CTL_EL0", |_, _| 1),
    register!("CNTP_CVAL_EL0", |_, key| 1 << 56 | pattern(key, 52) >> 8),
    register!("CNTP_CTL_EL0", |_, key| 1 | (key & 1) << 1),
    register!("MDSCR_EL1", |own, _| own),
];

/// A table, and what it maps: this vCPU's own 2 MiB of RAM at [`PRIVATE`], where every other has its own.
#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static ROOTS: [Table; MAX_VCPUS] = [const { Table([const { AtomicU64::new(0) }; 512]) }; MAX_VCPUS];
static LEAVES: [Table; MAX_VCPUS] = [const { Table([const { AtomicU64::new(0) }; 512]) }; MAX_VCPUS];
/// A VA; nothing else is there.
const PRIVATE: u64 = 0x8000_0000;

/// `TTBR0_EL1` of this vCPU; the same ASID for all.
fn private_map() -> u64 {
    core::ptr::from_ref(&ROOTS[cpu::index()]) as u64
}

/// Makes this vCPU's tables: as the ones in use, but for [`PRIVATE`], which is global, as a kernel's mapping would be.
fn make_private_map(original: u64) {
    /// A block of Normal memory, inner shareable, accessed, that is not to be executed.
    const NORMAL: u64 = 0x0060_0000_0000_0701;
    let (root, leaf) = (&ROOTS[cpu::index()], &LEAVES[cpu::index()]);
    for (n, entry) in root.0.iter().enumerate() {
        // SAFETY: `original` is the table of `start.s`, identity-mapped; nobody writes to it.
        let old = unsafe { ((original & !0xFFF) as *const u64).add(n).read_volatile() };
        entry.store(old, Ordering::Relaxed);
    }
    leaf.0[0].store(0x4080_0000 + cpu::index() as u64 * 0x20_0000 + NORMAL, Ordering::Relaxed);
    root.0[2].store(core::ptr::from_ref(leaf) as u64 + 3, Ordering::Relaxed);
    drop_translations();
}

/// Drops what this vCPU has in its TLB.
fn drop_translations() {
    // SAFETY: Only drops cached translations; the barriers put the tables' stores before and later accesses after.
    unsafe { asm!("dsb ish", "tlbi vmalle1", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// This vCPU's CPU interface.
fn interface() -> [(&'static str, u64); 7] {
    [
        ("ICC_PMR_EL1", gic::pmr()),
        ("ICC_BPR0_EL1", gic::bpr0()),
        ("ICC_BPR1_EL1", gic::bpr1()),
        ("ICC_CTLR_EL1", gic::ctlr()),
        ("ICC_IGRPEN0_EL1", gic::igrpen0()),
        ("ICC_IGRPEN1_EL1", gic::igrpen1()),
        ("ICC_RPR_EL1", gic::rpr()),
    ]
}

/// The SGI that stays active for the whole test, so that a running priority and an active-priority bit are to be kept.
const ACTIVE_SGI: u32 = 14;

/// Gives the CPU interface this vCPU's values; what it then reads, the running priority by what it must be.
fn set_interface(key: u64) -> [(&'static str, u64); 7] {
    gic::init_cpu();
    gic::set_priority(VTIMER_INTID, 0x20);
    let running = 0x80 + (key as u8 & 3) * 0x20;
    gic::set_priority(ACTIVE_SGI, running);
    gic::enable(VTIMER_INTID);
    gic::set_bpr0(4);
    gic::set_bpr1(4);
    gic::send_sgi(cpu::affinity(), ACTIVE_SGI);
    let mut taken = gic::SPURIOUS;
    let _in_time = cpu::wait_until(2, || {
        taken = gic::iar1();
        taken != gic::SPURIOUS
    });
    gic::set_ctlr(key >> 1 & 3);
    gic::set_pmr(0xA8 + 8 * (key as u8 & 7));
    gic::set_igrpen0(key & 1 == 1);
    gic::set_bpr0(4 + (key as u8 >> 2 & 1));
    let mut set = interface();
    set[0].1 = 0xA8 + 8 * (key & 7);
    set[6].1 = u64::from(running);
    set
}

/// Ends the active SGI.
fn reset_interface() {
    gic::set_ctlr(0);
    gic::eoir1(ACTIVE_SGI);
    gic::clear_active(u32::MAX);
    gic::init_cpu();
}

static BAD: AtomicU32 = AtomicU32::new(0);
static RUNNING: AtomicU32 = AtomicU32::new(0);
static FIRST_DONE: AtomicBool = AtomicBool::new(false);
static PROGRESS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];

fn complain(round: u64, what: &str, found: u64, expected: u64) {
    if BAD.fetch_add(1, Ordering::Relaxed) < 20 {
        println!("bad: vCPU {} round {round}: {what} is {found:#x}, not {expected:#x}", cpu::index());
    }
}

/// How often a WFI ended with no interrupt there. It traps only where the processor would sleep (DDI 0487 HCR_EL2.TWI): while an interrupt
/// of the hypervisor's is pending and not yet taken it ends at once, and the vCPU goes on behind it after the others' turns.
static EARLY: AtomicU64 = AtomicU64::new(0);
/// The most of them in a test: the moment is a few instructions long, and a test has a hundred naps and more.
const MOST_EARLY: u64 = 3;

/// What this vCPU's WFI has ended for; if nothing is there, what the next one ends for.
fn woken_by() -> u32 {
    let mut intid = gic::iar1();
    let _there = cpu::wait_until(PATIENCE, || {
        if intid == gic::SPURIOUS {
            EARLY.fetch_add(1, Ordering::Relaxed);
            cpu::wfi();
            intid = gic::iar1();
        }
        intid != gic::SPURIOUS
    });
    intid
}

fn compare(round: u64, held: &Held, found: &Held) {
    for (n, (&found, &expected)) in found.x.iter().zip(&held.x).enumerate().skip(1) {
        if found != expected {
            complain(round, "an x register", found, expected);
            complain(round, "its number", n as u64, 0);
        }
    }
    for (&found, &expected) in found.q.iter().zip(&held.q) {
        if found != expected {
            complain(round, "a q register's lower half", found as u64, expected as u64);
            complain(round, "and its upper half", (found >> 64) as u64, (expected >> 64) as u64);
        }
    }
    for (what, found, expected) in [
        ("NZCV", found.nzcv, held.nzcv),
        ("FPCR", found.fpcr, held.fpcr),
        ("FPSR", found.fpsr, held.fpsr),
    ] {
        if found != expected {
            complain(round, what, found, expected);
        }
    }
}

/// Fills every register with what is this vCPU's own, and looks whether it stays: while it spins, and while it sleeps.
fn worker(_: u64) {
    cpu::mask();
    let key = key();
    let rounds = bootargs::number("rounds", 12);
    let before: [u64; REGISTERS.len()] = core::array::from_fn(|n| (REGISTERS[n].read)());
    let ttbr0 = REGISTERS
        .iter()
        .zip(before)
        .find(|(r, _)| r.name == "TTBR0_EL1")
        .map_or(0, |(_, v)| v);
    make_private_map(ttbr0);
    let icc = set_interface(key);
    let mut expected: [u64; REGISTERS.len()] = core::array::from_fn(|n| (REGISTERS[n].value)(before[n], key));
    for (register, value) in REGISTERS.iter().zip(expected) {
        (register.write)(value);
    }
    drop_translations();
    // What the register makes of it, but for those whose every bit is kept.
    for (register, value) in REGISTERS.iter().zip(&mut expected) {
        if ["CSSELR_EL1", "CNTKCTL_EL1"].contains(&register.name) {
            *value = (register.read)();
        }
    }
    let private = PRIVATE as *mut u64;
    // SAFETY: This vCPU's own map has RAM there that no program uses.
    unsafe { private.write_volatile(pattern(key, 60)) };
    RUNNING.fetch_add(1, Ordering::AcqRel);
    // Nobody measures another's progress before all are there.
    if !cpu::wait_until(PATIENCE, || RUNNING.load(Ordering::Acquire) as usize >= cpu::count()) {
        complain(
            0,
            "how many came up",
            u64::from(RUNNING.load(Ordering::Relaxed)),
            cpu::count() as u64,
        );
    }
    let held = Held::of(key);
    let spins = bootargs::number("spins", 6_000_000);
    for round in 1..=rounds {
        let wfi = round % 2 == 0;
        let mut this = Hold {
            load: held,
            found: Held::of(99),
            spins: if wfi { 1000 } else { spins },
            wfi: u64::from(wfi),
        };
        if wfi {
            timer::arm(timer::micros(1500 + key * 700));
        }
        // SAFETY: `this` has the layout that hold.s uses; it saves what its caller needs.
        unsafe { hold(&raw mut this) };
        compare(round, &this.load, &this.found);
        if wfi {
            let intid = woken_by();
            if !timer::fired() {
                complain(round, "after WFI, the timer", 0, 1);
            }
            if intid != VTIMER_INTID {
                complain(round, "what woke it", u64::from(intid), u64::from(VTIMER_INTID));
            }
            for (register, value) in REGISTERS.iter().zip(expected) {
                if register.name.starts_with("CNTV") {
                    (register.write)(value);
                }
            }
            if intid != gic::SPURIOUS {
                gic::eoir1(intid);
                if gic::ctlr() & gic::CTLR_EOIMODE != 0 {
                    gic::dir(intid);
                }
            }
        }
        for (register, value) in REGISTERS.iter().zip(expected) {
            let found = (register.read)();
            if found != value {
                complain(round, register.name, found, value);
            }
        }
        for ((what, found), (_, expected)) in interface().into_iter().zip(icc) {
            if found != expected {
                complain(round, what, found, expected);
            }
        }
        // SAFETY: As above.
        let found = unsafe { private.read_volatile() };
        if found != pattern(key, 60) {
            complain(round, "the memory of a map of its own", found, pattern(key, 60));
        }
        PROGRESS[cpu::index()].fetch_add(1, Ordering::Relaxed);
    }
    if !FIRST_DONE.swap(true, Ordering::AcqRel) {
        let each: [u64; MAX_VCPUS] = core::array::from_fn(|n| PROGRESS[n].load(Ordering::Relaxed));
        let least = each.iter().take(cpu::count()).copied().min().unwrap_or(0);
        // Only where all share one pCPU: how QEMU's threads get on is up to the machine below.
        let fair = bootargs::number("fair", 0);
        if fair != 0 && fair * (least + 1) < rounds {
            complain(rounds, "the slowest one's rounds when the fastest is done", least, rounds);
        }
        println!("rounds when the fastest is done: {:?}", &each[..cpu::count()]);
    }
    for (register, value) in REGISTERS.iter().zip(before) {
        (register.write)(value);
    }
    drop_translations();
    reset_interface();
}

/// Starts `work` on every vCPU but this one, runs it here too if `here`, runs `body`, and waits for all of them to go off.
fn on_all(check: &mut Check, work: fn(u64), body: impl FnOnce(&mut Check)) {
    BAD.store(0, Ordering::Relaxed);
    EARLY.store(0, Ordering::Relaxed);
    RUNNING.store(0, Ordering::Relaxed);
    STOP.store(false, Ordering::Relaxed);
    gic::init_distributor();
    let count = cpu::count();
    for index in 1..count {
        check.eq("CPU_ON", cpu::start(index, work, 0), psci::SUCCESS);
    }
    body(check);
    STOP.store(true, Ordering::Release);
    for index in 1..count {
        check.that(cpu::wait_off(index, PATIENCE), "it is done");
    }
    check.eq("what is wrong", BAD.load(Ordering::Relaxed), 0);
    check.that(EARLY.load(Ordering::Relaxed) <= MOST_EARLY, "WFI ends for an interrupt");
}

fn every_register_is_its_own(check: &mut Check) {
    on_all(check, worker, |_| worker(0));
}

static STOP: AtomicBool = AtomicBool::new(false);
static SPINS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];

/// Spins without a single exit of its own.
fn spinner(_: u64) {
    while !STOP.load(Ordering::Acquire) {
        SPINS[cpu::index()].fetch_add(1, Ordering::Relaxed);
    }
}

/// A nap of `ticks`: how late it ended, or nothing if what woke this vCPU was not its timer, or came too early.
fn nap(ticks: u64) -> Option<u64> {
    let due = timer::now() + ticks;
    timer::arm(ticks);
    cpu::wfi();
    let intid = woken_by();
    let late = timer::now().checked_sub(due);
    timer::disarm();
    if intid != gic::SPURIOUS {
        gic::eoir1(intid);
    }
    late.filter(|_| intid == VTIMER_INTID)
}

fn spinners_starve_nobody(check: &mut Check) {
    for spins in &SPINS {
        spins.store(0, Ordering::Relaxed);
    }
    on_all(check, spinner, |check| {
        gic::init_cpu();
        gic::enable(VTIMER_INTID);
        let mut worst = 0;
        for _ in 0..60 {
            match nap(timer::micros(1000)) {
                Some(late) => worst = worst.max(late),
                None => check.fail(format_args!("a nap beside spinners ended before its time")),
            }
        }
        // Some slices of each other vCPU; generous, for QEMU's threads are at the mercy of the machine below.
        check.that(worst < timer::frequency(), "a nap ends less than a second late");
        let each = |n: usize| SPINS[n].load(Ordering::Relaxed);
        let count = cpu::count();
        check.that((1..count).all(|n| each(n) > 0), "every spinner spins");
        let before: [u64; MAX_VCPUS] = core::array::from_fn(each);
        // This vCPU spins too, now.
        timer::delay(timer::micros(100_000));
        check.that(
            cpu::wait_until(PATIENCE, || (1..count).all(|n| each(n) > before[n])),
            "and goes on beside one that does not sleep",
        );
        gic::disable(VTIMER_INTID);
    });
}

fn napper(_: u64) {
    cpu::mask();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    for round in 1..=40 {
        match nap(timer::micros(300 + (key() * 130 + round * 37) % 900)) {
            Some(late) if late < 2 * timer::frequency() => {}
            late => complain(round, "a nap was late by", late.unwrap_or(u64::MAX), 0),
        }
    }
    gic::disable(VTIMER_INTID);
}

fn everybody_naps(check: &mut Check) {
    on_all(check, napper, |_| napper(0));
}

const LAPS: u64 = 100;
static LAP: AtomicU64 = AtomicU64::new(0);

/// Waits in WFI for SGI 1, and passes it on.
fn runner(_: u64) {
    cpu::mask();
    gic::init_cpu();
    RUNNING.fetch_add(1, Ordering::AcqRel);
    let next = affinity_of((cpu::index() + 1) % cpu::count());
    let mut taken = 0;
    while taken < LAPS {
        cpu::wfi();
        match gic::iar1() {
            gic::SPURIOUS => {}
            intid => {
                gic::eoir1(intid);
                taken += 1;
                if cpu::index() == 0 {
                    LAP.store(taken, Ordering::Release);
                }
                if cpu::index() != 0 || taken < LAPS {
                    gic::send_sgi(next, intid);
                }
            }
        }
    }
}

fn sgis_go_round(check: &mut Check) {
    LAP.store(0, Ordering::Relaxed);
    on_all(check, runner, |check| {
        check.that(
            cpu::wait_until(PATIENCE, || RUNNING.load(Ordering::Acquire) as usize == cpu::count() - 1),
            "all come up",
        );
        gic::init_cpu();
        let next = affinity_of(1 % cpu::count());
        gic::send_sgi(next, 1);
        if cpu::count() > 1 {
            runner(0);
        }
        check.that(cpu::count() == 1 || LAP.load(Ordering::Acquire) == LAPS, "every lap ends here");
    });
}

static TICKS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];

fn tick(intid: u32) {
    if intid == VTIMER_INTID {
        TICKS[cpu::index()].fetch_add(1, Ordering::Relaxed);
        timer::arm(timer::micros(700));
    }
}

fn ticked(_: u64) {
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    timer::arm(timer::micros(700));
    cpu::unmask();
    let before = TICKS[cpu::index()].load(Ordering::Relaxed);
    let came = cpu::wait_until(PATIENCE, || TICKS[cpu::index()].load(Ordering::Relaxed) >= before + 30);
    cpu::mask();
    timer::disarm();
    gic::disable(VTIMER_INTID);
    if !came {
        complain(0, "ticks", TICKS[cpu::index()].load(Ordering::Relaxed) - before, 30);
    }
}

fn ticks_come_while_all_spin(check: &mut Check) {
    gic::set_handler(tick);
    on_all(check, ticked, |_| ticked(0));
}

static ASKED: AtomicU64 = AtomicU64::new(0);
static READ: AtomicU64 = AtomicU64::new(0);

/// Reads vCPU 0's pending interrupts whenever it is asked to: `ASKED` counts, and `READ` has the count above what was read.
fn onlooker(_: u64) {
    let mut answered = 0;
    while !STOP.load(Ordering::Acquire) {
        let asked = ASKED.load(Ordering::Acquire);
        if cpu::index() == 1 && asked != answered {
            answered = asked;
            READ.store(asked << 32 | u64::from(gic::pending_of(0)), Ordering::Release);
        }
    }
}

/// Its interrupt had come and was not taken: no other vCPU sees it pending after that, whether this one runs meanwhile or not.
fn a_timer_that_is_turned_off_is_not_pending(check: &mut Check) {
    if cpu::count() < 2 {
        return;
    }
    cpu::mask();
    on_all(check, onlooker, |check| {
        gic::init_cpu();
        gic::enable(VTIMER_INTID);
        for round in 1..=10 {
            timer::arm(0);
            check.that(
                cpu::wait_until(PATIENCE, || gic::hppir1() == VTIMER_INTID),
                "the timer's interrupt comes",
            );
            timer::disarm();
            // Not one exit of its own.
            ASKED.store(round, Ordering::Release);
            check.that(
                cpu::wait_until(PATIENCE, || READ.load(Ordering::Acquire) >> 32 == round),
                "another vCPU reads GICR_ISPENDR0",
            );
            let pending = READ.load(Ordering::Acquire) as u32;
            check.eq("the timer is pending", pending >> VTIMER_INTID & 1, 0);
        }
        gic::disable(VTIMER_INTID);
    });
}

/// Has its own priority mask, and is in the guest, in WFI or passing between both.
fn neighbour(_: u64) {
    cpu::mask();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    gic::set_pmr(0xB0 + 8 * cpu::index() as u8);
    RUNNING.fetch_add(1, Ordering::AcqRel);
    while !STOP.load(Ordering::Acquire) {
        match cpu::index() {
            1 => cpu::relax(),
            2 => timer::delay(timer::micros(500)),
            _ => {}
        }
        if cpu::index() > 1 {
            let _woken = nap(timer::micros(900));
        }
    }
}

/// The host reads every vCPU's mask while they share pCPUs, with each other and with itself.
fn neighbours(check: &mut Check) {
    on_all(check, neighbour, |check| {
        gic::init_cpu();
        gic::set_pmr(0xB0);
        check.that(
            cpu::wait_until(PATIENCE, || RUNNING.load(Ordering::Acquire) as usize == cpu::count() - 1),
            "all come up",
        );
        for round in 1..=3 {
            check.eq("what the host finds wrong", oem::ask(oem::STEP, round, cpu::count() as u64), 0);
            timer::delay(timer::micros(3000));
        }
    });
}

/// Until when a test for a neighbour goes on.
fn end() -> u64 {
    timer::now() + timer::micros(1000 * bootargs::number("ms", 400))
}

/// Wakes up 20 microseconds after it has fallen asleep, and works for almost a slice: what it does not get by being woken.
fn greedy(_: &mut Check) {
    gic::init_distributor();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    let end = end();
    while timer::now() < end {
        let _early = nap(timer::micros(20));
        timer::delay(timer::micros(3900));
    }
}

/// Sleeps all the time, and never for long.
fn restless(_: &mut Check) {
    gic::init_distributor();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    let end = end();
    while timer::now() < end {
        let _early = nap(timer::micros(1));
    }
}

/// Idles by CPU_SUSPEND, a timer far ahead.
fn standing_by(check: &mut Check) {
    gic::init_distributor();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    let end = end();
    while timer::now() < end {
        timer::arm(timer::micros(50_000));
        while !timer::fired() {
            check.eq("CPU_SUSPEND", psci::psci(Conduit::Hvc, CPU_SUSPEND_64, 0, 0, 0), psci::SUCCESS);
        }
        timer::disarm();
        gic::eoir1(gic::iar1());
    }
}

/// `DISR_EL1`, which only a processor with RAS has.
fn nothing_of_anothers_errors(check: &mut Check) {
    let own = 0x8000_0000 | (key() + 1);
    for _ in 0..50 {
        let found: u64;
        // SAFETY: Records what an error synchronisation has deferred; nothing in the guest looks at it.
        unsafe {
            asm!("msr S3_0_C12_C1_1, {}", "isb", in(reg) own, options(nostack, preserves_flags));
            timer::delay(timer::micros(5000));
            asm!("mrs {}, S3_0_C12_C1_1", out(reg) found, options(nostack, preserves_flags));
        }
        check.that(found == own || found == 0, "DISR_EL1 is this vCPU's own");
    }
}
