//! What happens to a vCPU, and what others see of it, while it waits for the host's verdict: see the host tests `waiting` and
//! `waiting_among`. And two VMs that call at once: see `slowly`.
#![no_std]
#![no_main]

use aarch64_cpu::registers::{CNTP_CTL_EL0, CNTP_TVAL_EL0, Writeable};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::check::{self, Check};
use guest::{cpu, gic, mmio, oem, psci, timer};
use hyp_abi::layout::{GICR_BASE, PTIMER_INTID, VTIMER_INTID, affinity_of};

/// `GICR_ISPENDR0` of vCPU 0.
const ISPENDR0: u64 = GICR_BASE + 0x1_0200;
/// The mask that the caller sets, and the one that the host sets.
const MASK: u8 = 0xC0;
const HOSTS_MASK: u64 = 0xD0;

guest::program!(main);

fn main() {
    let on_demand = |name, run| check::Test {
        name,
        by_default: false,
        run,
    };
    check::run(&[
        on_demand("alone", alone),
        on_demand("among", among),
        on_demand("flood", flood),
        on_demand("now_and_then", now_and_then),
    ]);
    check::done()
}

/// SGIs, both timers, the mask at [`MASK`], and SGI 1 pending; the vCPU takes nothing by itself.
fn fresh() {
    cpu::mask();
    gic::init_distributor();
    gic::init_cpu();
    gic::set_pmr(MASK);
    gic::set_ctlr(gic::CTLR_CBPR);
    for intid in [VTIMER_INTID, PTIMER_INTID] {
        gic::enable(intid);
    }
    gic::send_sgi(cpu::affinity(), 1);
}

/// `ICC_AP1R0_EL1`.
fn active_priorities() -> u64 {
    let value: u64;
    // SAFETY: Reads this PE's own CPU interface.
    unsafe { asm!("mrs {}, S3_0_C12_C9_0", out(reg) value, options(nostack, preserves_flags)) };
    value
}

fn arm_physical(ticks: u64) {
    CNTP_TVAL_EL0.set(ticks);
    CNTP_CTL_EL0.set(1);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

/// A step: `x2` is the caller's ICC_CTLR_EL1, `x3` its mask and, from bit 8, its active priorities.
fn step(number: u64) -> i64 {
    let [x0, ..] = guest::smccc::hvc(oem::STEP, number, gic::ctlr(), gic::pmr() | active_priorities() << 8);
    x0 as i64
}

/// Takes the next interrupt, if one comes in time.
fn take() -> u32 {
    let mut intid = gic::SPURIOUS;
    let _in_time = cpu::wait_until(2, || {
        intid = gic::iar1();
        intid != gic::SPURIOUS
    });
    intid
}

/// The only vCPU of its VM, with a pCPU of its own or not.
fn alone(check: &mut Check) {
    fresh();
    check.eq("the active one", take(), 1);
    check.that(active_priorities() != 0, "it has an active priority");
    gic::send_sgi(cpu::affinity(), 2);

    check.eq("1: the host reads", step(1), 0);

    check.eq("2: the host writes", step(2), 0);
    check.eq("the mask is the host's", gic::pmr(), HOSTS_MASK);
    gic::set_pmr(MASK);

    check.eq("3: the host stops the VM, and lets it go on", step(3), 0);

    check.eq("4: the host answers a stopped VM", step(4), 0);

    // Longer than the deadline of its VM by far: the deadline does not take the timer's place for good.
    arm_physical(timer::micros(4_000_000));
    let before = timer::now();
    check.eq("5: the host does not answer", step(5), psci::NOT_SUPPORTED);
    let waited = timer::now() - before;
    check.that(waited >= timer::micros(2_999_000), "the deadline was waited for");
    check.eq("the physical timer is not due", gic::pending() >> PTIMER_INTID & 1, 0);
    gic::eoir1(1);
    check.eq("what waited behind the active one", take(), 2);
    gic::eoir1(2);
    check.eq("the physical timer comes after all", take(), PTIMER_INTID);
    CNTP_CTL_EL0.set(0);
    gic::eoir1(PTIMER_INTID);

    // Within the wait: both are there when it is over, and neither ends it.
    arm_physical(timer::micros(50_000));
    timer::arm(timer::micros(100_000));
    check.eq("6: the host takes its time", step(6), 0);
    check.eq(
        "both timers are pending",
        gic::pending() & (1 << PTIMER_INTID | 1 << VTIMER_INTID),
        1 << PTIMER_INTID | 1 << VTIMER_INTID,
    );
    CNTP_CTL_EL0.set(0);
    timer::disarm();

    arm_physical(timer::micros(100_000));
    check.eq("7: the host answers at once", step(7), 0);
    check.eq("the physical timer comes", take(), PTIMER_INTID);
    CNTP_CTL_EL0.set(0);
    gic::eoir1(PTIMER_INTID);
}

/// Not 0: vCPU 0 is about to wait.
static WAITS: AtomicU64 = AtomicU64::new(0);
/// Bit 0: vCPU 0's redistributor showed its SGI to another vCPU. Bit 1: and what that one made pending there.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// vCPU 1, while vCPU 0 waits in its step: an SGI for it, a look at its redistributor, a write there, another SGI; then its own step, at
/// which the host answers both.
fn neighbour(_: u64) {
    let _came = cpu::wait_until(10, || WAITS.load(Ordering::Acquire) != 0);
    // Long enough for the other to be asleep at EL2.
    timer::delay(timer::micros(50_000));
    gic::send_sgi(affinity_of(0), 3);
    let shown = |intid: u32| mmio::read32(ISPENDR0) >> intid & 1;
    let mut seen = shown(3);
    mmio::write32(ISPENDR0, 1 << 4);
    seen |= shown(4) << 1;
    SEEN.store(u64::from(seen), Ordering::Release);
    gic::send_sgi(affinity_of(0), 5);
    let _answer = step(2);
}

/// vCPU 0 waits while another has to do with it.
fn among(check: &mut Check) {
    fresh();
    check.eq("CPU_ON", cpu::start(1, neighbour, 0), psci::SUCCESS);
    WAITS.store(1, Ordering::Release);
    check.eq("the step", step(1), 0);
    check.eq("all are pending", gic::pending() & 0xFFFF, 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5);
    check.eq("what the other saw of it", SEEN.load(Ordering::Acquire), 3);
    for intid in [1, 3, 4, 5] {
        check.eq("an SGI", gic::iar1(), intid);
        gic::eoir1(intid);
    }
    check.eq("and no more", gic::iar1(), gic::SPURIOUS);
    check.that(cpu::wait_off(1, 10), "the other goes off");
}

/// Until when `flood` calls, in ticks.
fn flood_ends() -> u64 {
    timer::micros(400_000)
}

fn call_and_call(_: u64) {
    while timer::now() < flood_ends() {
        let _answer = step(0);
    }
}

/// Every vCPU calls all the time.
fn flood(check: &mut Check) {
    for index in 1..cpu::count() {
        check.eq("CPU_ON", cpu::start(index, call_and_call, 0), psci::SUCCESS);
    }
    call_and_call(0);
    for index in 1..cpu::count() {
        check.that(cpu::wait_off(index, 2), "it is done");
    }
}

/// Calls beside a VM that calls all the time: the host answers each, and not the deadline.
fn now_and_then(check: &mut Check) {
    for _ in 0..10 {
        check.eq("the host's answer", step(0), 0);
        timer::delay(timer::micros(20_000));
    }
}
