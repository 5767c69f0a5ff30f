//! A device of the machine that was passed to the VM: QEMU `virt`'s PL031 real-time clock, SPI 2. Needs a VM that has it, of one vCPU, and
//! of two for the tests whose names say so.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};
use guest::check::Check;
use guest::gic::{self, SPURIOUS};
use guest::{cpu, mmio, psci, timer};
use hyp_abi::layout::{GICD_BASE, affinity_of};
use hyp_abi::psci::SYSTEM_RESET2_64;
use hyp_abi::smccc::Conduit;

guest::tests!(
    the_clock_is_there,
    its_interrupt_comes_twice,
    it_comes_again_while_the_device_asserts,
    it_does_not_come_when_it_was_served_before,
    it_is_withdrawn_when_it_was_served_while_pending,
    it_waits_while_it_is_disabled,
    its_pending_state_by_mmio,
    its_active_state_by_mmio,
    it_ends_by_dir ; only
    after_a_reset,
    many_without_an_exit_at_the_end,
    rerouted_to_another_of_two,
    ended_by_another_of_two,
    taken_along_by_one_of_two_that_goes_off
);

const RTC: u64 = 0x0901_0000;
const DR: u64 = RTC;
const MR: u64 = RTC + 0x04;
const LR: u64 = RTC + 0x08;
const IMSC: u64 = RTC + 0x10;
const RIS: u64 = RTC + 0x14;
const ICR: u64 = RTC + 0x1C;
const PERIPH_ID0: u64 = RTC + 0xFE0;
const INTID: u32 = 34;
const WORD: u64 = GICD_BASE + INTID as u64 / 32 * 4;
const BIT: u32 = 1 << (INTID % 32);
const IGROUPR: u64 = WORD + 0x80;
const ISENABLER: u64 = WORD + 0x100;
const ICENABLER: u64 = WORD + 0x180;
const ISPENDR: u64 = WORD + 0x200;
const ICPENDR: u64 = WORD + 0x280;
const ISACTIVER: u64 = WORD + 0x300;
const ICACTIVER: u64 = WORD + 0x380;
const ONE_OF_N: u64 = 1 << 31;
/// Times of day that no clock has: they survive a reset of the VM, as the device does. After the second reset, and the first.
const LONG_AGO: u32 = 1000;
const LATER: u32 = 1_000_000;
/// How many interrupts `many_without_an_exit_at_the_end` takes: the tool, which counts the exits, knows it too.
const MANY: u32 = 500;
/// How long a test waits for what must not come, in microseconds.
const QUIET: u64 = 50_000;

/// The clock is quiet, and the GIC as a test wants it.
fn fresh() {
    cpu::mask();
    quiet();
    set_up();
    mmio::write32(IMSC, 1);
}

/// No alarm.
fn quiet() {
    mmio::write32(IMSC, 0);
    mmio::write32(ICR, 1);
}

/// The SPI is enabled, and goes to vCPU 0.
fn set_up() {
    gic::init_distributor();
    gic::init_cpu();
    mmio::write32(ICENABLER, BIT);
    mmio::write32(IGROUPR, mmio::read32(IGROUPR) | BIT);
    mmio::write8(GICD_BASE + 0x400 + u64::from(INTID), 0xA0);
    route(affinity_of(0));
    mmio::write32(ISENABLER, BIT);
}

fn route(to: u64) {
    mmio::write64(GICD_BASE + 0x6000 + 8 * u64::from(INTID), to);
}

fn reads(register: u64) -> bool {
    mmio::read32(register) & BIT != 0
}

/// Sets the alarm to this second, so that it goes off at once.
fn alarm() {
    // A second may begin between the two.
    for _ in 0..3 {
        mmio::write32(MR, mmio::read32(DR));
        if mmio::read32(RIS) & 1 != 0 {
            break;
        }
    }
}

/// Sets the alarm to the next second: this vCPU is long back at something else when it goes off.
fn alarm_later() {
    mmio::write32(MR, mmio::read32(DR) + 1);
}

fn raised() -> bool {
    cpu::wait_until(10, || mmio::read32(RIS) & 1 != 0)
}

/// Acknowledges the next interrupt, if one comes in time.
fn take(seconds: u64) -> u32 {
    let mut intid = SPURIOUS;
    let _in_time = cpu::wait_until(seconds, || {
        intid = gic::iar1();
        intid != SPURIOUS
    });
    intid
}

/// None comes, for a while: one that should not would come at once.
fn none_comes(c: &mut Check, what: &str) {
    let end = timer::now() + timer::micros(QUIET);
    let mut intid = SPURIOUS;
    while intid == SPURIOUS && timer::now() < end {
        intid = gic::iar1();
    }
    c.eq(what, intid, SPURIOUS);
}

fn the_clock_is_there(c: &mut Check) {
    c.eq("PeriphID0", mmio::read32(PERIPH_ID0), 0x31);
    let before = mmio::read32(DR);
    c.that(before != 0, "it shows a time");
    c.that(cpu::wait_until(5, || mmio::read32(DR) != before), "it goes on");
}

fn twice(c: &mut Check) {
    twice_after(c, alarm);
}

fn twice_after(c: &mut Check, alarm: fn()) {
    for _ in 0..2 {
        alarm();
        c.eq("taken", take(10), INTID);
        mmio::write32(ICR, 1);
        gic::eoir1(INTID);
        c.eq("nothing more", take(0), SPURIOUS);
    }
}

fn its_interrupt_comes_twice(c: &mut Check) {
    fresh();
    twice_after(c, alarm_later);
    twice(c);
}

fn it_comes_again_while_the_device_asserts(c: &mut Check) {
    fresh();
    alarm();
    for _ in 0..20 {
        c.eq("taken", take(10), INTID);
        gic::eoir1(INTID);
    }
    c.eq("taken for the last time", take(10), INTID);
    mmio::write32(ICR, 1);
    gic::eoir1(INTID);
    none_comes(c, "nothing more");
}

fn it_does_not_come_when_it_was_served_before(c: &mut Check) {
    fresh();
    mmio::write32(ICENABLER, BIT);
    alarm();
    c.that(raised(), "the alarm goes off");
    c.eq("disabled", take(0), SPURIOUS);
    mmio::write32(ICR, 1);
    mmio::write32(ISENABLER, BIT);
    none_comes(c, "served");
    twice(c);
}

/// Waits until the interrupt is at this vCPU's interface, not to be taken yet.
fn shown(c: &mut Check) {
    c.that(raised(), "the alarm goes off");
    c.that(cpu::wait_until(10, || gic::hppir1() == INTID), "it is pending at the interface");
}

/// An exit that has to do with nothing, and is not answered in the vectors.
fn some_exit() {
    let _known = psci::features(SYSTEM_RESET2_64);
}

fn it_is_withdrawn_when_it_was_served_while_pending(c: &mut Check) {
    fresh();
    alarm();
    shown(c);
    some_exit();
    c.eq("still pending, since the device asserts it", gic::hppir1(), INTID);
    mmio::write32(ICR, 1);
    some_exit();
    none_comes(c, "withdrawn");
    twice(c);
}

fn it_waits_while_it_is_disabled(c: &mut Check) {
    for forwarding in [false, true] {
        fresh();
        let off = || {
            if forwarding {
                mmio::write32(GICD_BASE, 0);
            } else {
                mmio::write32(ICENABLER, BIT);
            }
        };
        let on = || {
            if forwarding {
                mmio::write32(GICD_BASE, 3);
            } else {
                mmio::write32(ISENABLER, BIT);
            }
        };
        off();
        alarm();
        c.that(raised(), "the alarm goes off");
        c.that(cpu::wait_until(2, || reads(ISPENDR)), "GICD_ISPENDR shows it");
        c.eq("disabled", take(0), SPURIOUS);
        on();
        c.that(cpu::wait_until(2, || gic::hppir1() == INTID), "enabled");
        off();
        c.eq("taken back", gic::hppir1(), SPURIOUS);
        on();
        c.eq("enabled again", take(2), INTID);
        off();
        mmio::write32(ICR, 1);
        gic::eoir1(INTID);
        c.that(!reads(ISPENDR), "nothing is pending");
        on();
        c.eq("ended while it was disabled", take(0), SPURIOUS);
        twice(c);
    }
}

fn its_pending_state_by_mmio(c: &mut Check) {
    fresh();
    alarm();
    shown(c);
    for _ in 0..5 {
        mmio::write32(ICPENDR, BIT);
        c.that(
            cpu::wait_until(2, || gic::hppir1() == INTID),
            "GICD_ICPENDR takes nothing back from a line that is high",
        );
    }
    c.eq("taken", take(2), INTID);
    mmio::write32(ICPENDR, BIT);
    mmio::write32(ICR, 1);
    gic::eoir1(INTID);
    none_comes(c, "nothing more");
    mmio::write32(ISPENDR, BIT);
    some_exit();
    some_exit();
    c.that(reads(ISPENDR), "GICD_ISPENDR makes it pending without the device");
    mmio::write32(ICPENDR, BIT);
    c.that(!reads(ISPENDR), "and GICD_ICPENDR not");
    c.eq("nothing is there", take(0), SPURIOUS);
    twice(c);
    mmio::write32(ISPENDR, BIT);
    some_exit();
    some_exit();
    c.eq("taken without the device", take(2), INTID);
    // Pending and active, beside the device.
    mmio::write32(ISPENDR, BIT);
    alarm();
    c.that(raised(), "the alarm goes off");
    gic::eoir1(INTID);
    c.eq("taken again", take(2), INTID);
    mmio::write32(ICR, 1);
    gic::eoir1(INTID);
    let _of_both = take(0);
    gic::eoir1(INTID);
    none_comes(c, "nothing more");
    twice(c);
}

fn its_active_state_by_mmio(c: &mut Check) {
    fresh();
    mmio::write32(ISACTIVER, BIT);
    alarm();
    c.that(raised(), "the alarm goes off");
    none_comes(c, "one that was made active does not come");
    mmio::write32(ICACTIVER, BIT);
    c.eq("until it is made inactive", take(2), INTID);
    gic::set_ctlr(gic::CTLR_EOIMODE);
    gic::eoir1(INTID);
    c.that(reads(ISACTIVER), "active");
    mmio::write32(ICACTIVER, BIT);
    c.eq("asserted still", take(2), INTID);
    mmio::write32(ICR, 1);
    gic::eoir1(INTID);
    mmio::write32(ICACTIVER, BIT);
    c.that(!reads(ISACTIVER), "not active");
    gic::set_ctlr(0);
    none_comes(c, "nothing more");
    twice(c);
}

/// The tool counts the exits.
fn many_without_an_exit_at_the_end(c: &mut Check) {
    fresh();
    alarm();
    c.that(raised(), "the alarm goes off");
    for n in 1..=MANY {
        let intid = take(10);
        if intid != INTID {
            return c.fail(format_args!("interrupt {n} is {intid}"));
        }
        if n == MANY {
            mmio::write32(ICR, 1);
        }
        gic::eoir1(INTID);
    }
}

/// What vCPU 1 has got to: 1 it is up, 2 it has the interrupt, 3 it has ended it.
static GOT: AtomicU32 = AtomicU32::new(0);
/// What vCPU 1 is to do: 1 end it, 2 take the next.
static DO: AtomicU32 = AtomicU32::new(0);

fn got(n: u32) -> bool {
    cpu::wait_until(20, || GOT.load(Ordering::Acquire) >= n)
}

fn told(n: u32) -> bool {
    cpu::wait_until(20, || DO.load(Ordering::Acquire) >= n)
}

/// Takes `rounds` interrupts, the device asserting until the last.
fn take_over(rounds: u64) {
    cpu::mask();
    gic::init_cpu();
    // 1-of-N goes to who was seen to take group 1.
    some_exit();
    GOT.store(1, Ordering::Release);
    for round in 1..=rounds {
        if take(20) != INTID {
            return;
        }
        if round == rounds {
            mmio::write32(ICR, 1);
        }
        gic::eoir1(INTID);
    }
    GOT.store(2, Ordering::Release);
    let _in_time = told(1);
}

fn start(c: &mut Check, entry: fn(u64), argument: u64) {
    GOT.store(0, Ordering::Relaxed);
    DO.store(0, Ordering::Relaxed);
    c.eq("CPU_ON", cpu::start(1, entry, argument), psci::SUCCESS);
    c.that(got(1), "vCPU 1 is up");
}

fn rerouted_to_another_of_two(c: &mut Check) {
    for to in [affinity_of(1), ONE_OF_N] {
        fresh();
        start(c, take_over, 5);
        alarm();
        shown(c);
        if to == ONE_OF_N {
            // vCPU 0 does not want it.
            gic::set_igrpen1(false);
            some_exit();
        }
        route(to);
        c.that(got(2), "vCPU 1 takes it while the device asserts");
        c.eq("and vCPU 0 not", gic::hppir1(), SPURIOUS);
        gic::set_igrpen1(true);
        c.eq("nothing more", take(0), SPURIOUS);
        DO.store(1, Ordering::Release);
        c.that(cpu::wait_off(1, 20), "vCPU 1 goes off");
        route(affinity_of(0));
        twice(c);
    }
}

/// Takes it and leaves it active, for another vCPU to end.
fn leave_active(_: u64) {
    cpu::mask();
    gic::init_cpu();
    gic::set_ctlr(gic::CTLR_EOIMODE);
    GOT.store(1, Ordering::Release);
    if take(20) == INTID {
        gic::eoir1(INTID);
        GOT.store(2, Ordering::Release);
    }
    let _in_time = told(1);
}

fn ended_by_another_of_two(c: &mut Check) {
    for by_dir in [true, false] {
        fresh();
        gic::set_ctlr(gic::CTLR_EOIMODE);
        start(c, leave_active, 0);
        route(affinity_of(1));
        alarm();
        c.that(got(2), "vCPU 1 takes it");
        route(affinity_of(0));
        c.that(reads(ISACTIVER), "it is active");
        none_comes(c, "and does not come");
        if by_dir {
            gic::dir(INTID);
        } else {
            mmio::write32(ICACTIVER, BIT);
        }
        c.eq("asserted still", take(2), INTID);
        mmio::write32(ICR, 1);
        gic::eoir1(INTID);
        gic::dir(INTID);
        gic::set_ctlr(0);
        none_comes(c, "nothing more");
        DO.store(1, Ordering::Release);
        c.that(cpu::wait_off(1, 20), "vCPU 1 goes off");
        twice(c);
    }
}

/// Has it pending, or takes it, and goes off.
fn go_off_with_it(taken: u64) {
    cpu::mask();
    gic::init_cpu();
    GOT.store(1, Ordering::Release);
    let there = cpu::wait_until(20, || gic::hppir1() == INTID);
    if there && (taken == 0 || gic::iar1() == INTID) {
        GOT.store(2, Ordering::Release);
    }
}

fn taken_along_by_one_of_two_that_goes_off(c: &mut Check) {
    for taken in [0, 1] {
        fresh();
        start(c, go_off_with_it, taken);
        route(affinity_of(1));
        alarm();
        c.that(got(2), "vCPU 1 has it");
        c.that(cpu::wait_off(1, 20), "vCPU 1 goes off");
        c.eq("active", reads(ISACTIVER), taken == 1);
        route(affinity_of(0));
        if taken == 1 {
            timer::delay(timer::micros(1000));
            c.eq("active, it does not come", gic::hppir1(), SPURIOUS);
            mmio::write32(ICACTIVER, BIT);
        }
        c.eq("it comes here", take(2), INTID);
        mmio::write32(ICR, 1);
        gic::eoir1(INTID);
        none_comes(c, "nothing more");
        twice(c);
    }
}

fn it_ends_by_dir(c: &mut Check) {
    fresh();
    gic::set_ctlr(gic::CTLR_EOIMODE);
    alarm();
    c.eq("taken", take(10), INTID);
    gic::eoir1(INTID);
    none_comes(c, "active");
    gic::dir(INTID);
    c.eq("asserted still", take(10), INTID);
    mmio::write32(ICR, 1);
    gic::eoir1(INTID);
    gic::dir(INTID);
    none_comes(c, "nothing more");
    gic::set_ctlr(0);
}

/// The VM is reset while the interrupt is active, and while it is pending; afterwards it comes as ever.
fn after_a_reset(c: &mut Check) {
    cpu::mask();
    let now = mmio::read32(DR);
    if now > 2 * LATER {
        fresh();
        alarm();
        c.eq("taken", take(10), INTID);
        mmio::write32(LR, LATER);
        psci::system_reset();
    }
    set_up();
    if now > 2 * LONG_AGO {
        shown(c);
        mmio::write32(LR, LONG_AGO);
        let refused = psci::psci(Conduit::Hvc, SYSTEM_RESET2_64, 0, 0, 0);
        return c.eq("SYSTEM_RESET2", refused, psci::SUCCESS);
    }
    c.eq("asserted through both resets", take(2), INTID);
    mmio::write32(ICR, 1);
    gic::eoir1(INTID);
    twice(c);
}
