//! The EL1 physical timer (`CNTP_*_EL0`, PPI 30), which Umbra emulates. For a VM of any number of vCPUs.
#![no_std]
#![no_main]

use aarch64_cpu::registers::{CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTP_TVAL_EL0, CNTPCT_EL0, Readable, Writeable};
use core::sync::atomic::{AtomicU64, Ordering};
use guest::check::Check;
use guest::gic::{self, SPURIOUS};
use guest::{cpu, psci, timer};
use hyp_abi::layout::{MAX_VCPUS, PTIMER_INTID, VTIMER_INTID};

guest::tests!(
    registers,
    the_counters_agree,
    off_at_first,
    level_until_masked,
    pending_without_being_taken,
    a_past_time_is_due_at_once,
    handler_runs,
    wakes_wfi,
    both_timers_wake_in_order,
    every_vcpu_has_its_own
);

const PATIENCE: u64 = 20;
const ENABLE: u64 = 1;
const IMASK: u64 = 2;
const ISTATUS: u64 = 4;

fn isb() {
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

fn control(value: u64) {
    CNTP_CTL_EL0.set(value);
    isb();
}

/// Due `ticks` from now.
fn arm(ticks: u64) {
    CNTP_TVAL_EL0.set(ticks);
    control(ENABLE);
}

fn now() -> u64 {
    isb();
    CNTPCT_EL0.get()
}

fn fresh() {
    cpu::mask();
    control(0);
    timer::disarm();
    gic::init_distributor();
    gic::init_cpu();
    gic::clear_pending(u32::MAX);
    gic::clear_active(u32::MAX);
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

fn registers(check: &mut Check) {
    fresh();
    for value in [0, 1, u64::MAX, 0x0123_4567_89AB_CDEF, 1 << 63] {
        CNTP_CVAL_EL0.set(value);
        check.eq("CNTP_CVAL_EL0", CNTP_CVAL_EL0.get(), value);
    }
    CNTP_CVAL_EL0.set(u64::MAX);
    for (written, read) in [(ENABLE, ENABLE), (IMASK, IMASK), (u64::MAX, 3), (ISTATUS, 0), (0, 0)] {
        control(written);
        check.eq("CNTP_CTL_EL0, not due", CNTP_CTL_EL0.get(), read);
    }
    CNTP_CVAL_EL0.set(0);
    control(ENABLE | IMASK);
    check.eq("CNTP_CTL_EL0, due and masked", CNTP_CTL_EL0.get(), ENABLE | IMASK | ISTATUS);
    control(ENABLE);
    check.eq("CNTP_CTL_EL0, due", CNTP_CTL_EL0.get(), ENABLE | ISTATUS);
    control(0);
    check.eq("CNTP_CTL_EL0.ISTATUS while it is off", CNTP_CTL_EL0.get() & ENABLE, 0);
    for ticks in [0, 1000, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x8000_0000, 0xABCD_0000_0000_1000] {
        let before = now();
        CNTP_TVAL_EL0.set(ticks);
        let after = now();
        let signed = i64::from(ticks as i32) as u64;
        let cval = CNTP_CVAL_EL0.get();
        check.that(
            cval.wrapping_sub(before.wrapping_add(signed)) <= after - before,
            "CNTP_CVAL_EL0 after a write of CNTP_TVAL_EL0: now and a signed 32-bit number",
        );
        let before = now();
        let tval = CNTP_TVAL_EL0.get();
        let after = now();
        check.eq("CNTP_TVAL_EL0's upper half", tval >> 32, 0);
        let latest = cval.wrapping_sub(before) as u32;
        check.that(
            latest.wrapping_sub(tval as u32) <= (after - before) as u32,
            "CNTP_TVAL_EL0 is what is left",
        );
    }
}

/// The virtual counter is the physical one less an offset that does not change.
fn the_counters_agree(check: &mut Check) {
    let (mut least, mut most) = (i64::MIN, i64::MAX);
    for _ in 0..1000 {
        let (before, physical, after) = (timer::now(), now(), timer::now());
        least = least.max(physical.wrapping_sub(after) as i64);
        most = most.min(physical.wrapping_sub(before) as i64);
    }
    check.that(least <= most, "one offset explains every pair of reads");
    check.that(most >= 0, "it is not negative");
}

fn off_at_first(check: &mut Check) {
    if cpu::count() > 1 {
        static FOUND: AtomicU64 = AtomicU64::new(u64::MAX);
        CNTP_CVAL_EL0.set(0);
        control(ENABLE | IMASK);
        check.eq(
            "CPU_ON",
            cpu::start(1, |_| FOUND.store(CNTP_CTL_EL0.get() & ENABLE, Ordering::Release), 0),
            psci::SUCCESS,
        );
        check.that(cpu::wait_off(1, PATIENCE), "it goes off");
        check.eq("CNTP_CTL_EL0.ENABLE of a vCPU that comes up", FOUND.load(Ordering::Acquire), 0);
    }
    control(0);
}

fn level_until_masked(check: &mut Check) {
    fresh();
    gic::enable(PTIMER_INTID);
    for silence in [ENABLE | IMASK, 0] {
        arm(timer::micros(300));
        for _ in 0..3 {
            check.eq("the line is up", take(), PTIMER_INTID);
            check.eq("GICR_ISACTIVER0", gic::active() >> PTIMER_INTID & 1, 1);
            gic::eoir1(PTIMER_INTID);
        }
        control(silence);
        let mut late = 0;
        while gic::iar1() != SPURIOUS && late < 4 {
            gic::eoir1(PTIMER_INTID);
            late += 1;
        }
        check.eq("taken after the line fell", late, 0);
        check.eq(
            "nothing is pending or active",
            (gic::pending() | gic::active()) >> PTIMER_INTID & 1,
            0,
        );
    }
    arm(timer::micros(300));
    check.eq("it can come again", take(), PTIMER_INTID);
    // A new time in the future while it is active.
    CNTP_TVAL_EL0.set(timer::frequency());
    isb();
    gic::eoir1(PTIMER_INTID);
    check.eq("a later time lets the line fall", gic::iar1(), SPURIOUS);
    check.eq("CNTP_CTL_EL0.ISTATUS then", CNTP_CTL_EL0.get(), ENABLE);
    control(0);
    gic::disable(PTIMER_INTID);
}

fn pending_without_being_taken(check: &mut Check) {
    fresh();
    let pending = || gic::pending() >> PTIMER_INTID & 1;
    arm(timer::micros(200));
    check.that(
        cpu::wait_until(PATIENCE, || pending() == 1),
        "GICR_ISPENDR0 shows the line of a disabled interrupt",
    );
    check.eq("a disabled interrupt is not taken", gic::iar1(), SPURIOUS);
    gic::clear_pending(1 << PTIMER_INTID);
    check.eq("GICR_ICPENDR0 does not lower a line", pending(), 1);
    control(ENABLE | IMASK);
    check.eq("masking does", pending(), 0);
    control(ENABLE);
    check.eq("and unmasking raises it", pending(), 1);
    gic::enable(PTIMER_INTID);
    check.eq("it is taken once it is enabled", take(), PTIMER_INTID);
    control(0);
    gic::eoir1(PTIMER_INTID);
    check.eq("and no more once it is off", gic::iar1(), SPURIOUS);
    gic::disable(PTIMER_INTID);
}

fn a_past_time_is_due_at_once(check: &mut Check) {
    fresh();
    gic::enable(PTIMER_INTID);
    CNTP_CVAL_EL0.set(0);
    control(ENABLE);
    check.eq("without any time passing", gic::iar1(), PTIMER_INTID);
    control(0);
    gic::eoir1(PTIMER_INTID);
    gic::disable(PTIMER_INTID);
}

static TICKS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];

fn tick(intid: u32) {
    if intid == PTIMER_INTID {
        TICKS[cpu::index()].fetch_add(1, Ordering::Relaxed);
        arm(timer::micros(300));
    }
}

fn handler_runs(check: &mut Check) {
    fresh();
    gic::set_handler(tick);
    gic::enable(PTIMER_INTID);
    TICKS[0].store(0, Ordering::Relaxed);
    arm(timer::micros(300));
    cpu::unmask();
    check.that(
        cpu::wait_until(PATIENCE, || TICKS[0].load(Ordering::Relaxed) >= 50),
        "it ticks while the vCPU spins",
    );
    cpu::mask();
    control(0);
    gic::disable(PTIMER_INTID);
}

fn wakes_wfi(check: &mut Check) {
    fresh();
    gic::enable(PTIMER_INTID);
    for round in 0..40 {
        let due = now() + timer::micros(200 + round * 50);
        CNTP_CVAL_EL0.set(due);
        control(ENABLE);
        cpu::wfi();
        check.that(now() >= due, "WFI ends at the time");
        check.eq("what woke it", gic::iar1(), PTIMER_INTID);
        control(0);
        gic::eoir1(PTIMER_INTID);
    }
    gic::disable(PTIMER_INTID);
}

fn both_timers_wake_in_order(check: &mut Check) {
    fresh();
    gic::enable(PTIMER_INTID);
    gic::enable(VTIMER_INTID);
    for round in 0..20_u64 {
        let physical_first = round.is_multiple_of(2);
        let (early, late) = (timer::micros(400), timer::micros(400_000));
        arm(if physical_first { early } else { late });
        timer::arm(if physical_first { late } else { early });
        cpu::wfi();
        let intid = gic::iar1();
        check.eq("the first one", intid, if physical_first { PTIMER_INTID } else { VTIMER_INTID });
        control(0);
        timer::disarm();
        if intid != SPURIOUS {
            gic::eoir1(intid);
        }
    }
    gic::disable(PTIMER_INTID);
    gic::disable(VTIMER_INTID);
}

static BAD: AtomicU64 = AtomicU64::new(0);

fn own(_: u64) {
    cpu::mask();
    gic::init_cpu();
    gic::enable(PTIMER_INTID);
    let bad = || BAD.fetch_add(1, Ordering::Relaxed);
    for round in 0..40 {
        let due = now() + timer::micros(200 + cpu::index() as u64 * 170 + round * 13);
        CNTP_CVAL_EL0.set(due);
        control(ENABLE);
        if round % 4 == 3 {
            // Without sleeping: the line rises while this vCPU runs, or waits for its turn.
            let _came = cpu::wait_until(PATIENCE, || gic::hppir1() == PTIMER_INTID);
        } else {
            cpu::wfi();
        }
        if CNTP_CVAL_EL0.get() != due || now() < due || gic::iar1() != PTIMER_INTID {
            bad();
        }
        control(0);
        gic::eoir1(PTIMER_INTID);
        if gic::iar1() != SPURIOUS {
            bad();
        }
    }
    gic::disable(PTIMER_INTID);
}

fn every_vcpu_has_its_own(check: &mut Check) {
    fresh();
    let count = cpu::count();
    for index in 1..count {
        check.eq("CPU_ON", cpu::start(index, own, 0), psci::SUCCESS);
    }
    own(0);
    for index in 1..count {
        check.that(cpu::wait_off(index, PATIENCE), "it is done");
    }
    check.eq("what went wrong", BAD.load(Ordering::Relaxed), 0);
}
