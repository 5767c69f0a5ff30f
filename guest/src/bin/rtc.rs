//! A device of the machine that was passed to the VM: QEMU `virt`'s PL031 real-time clock, SPI 2. Needs a VM of one vCPU that has it.
#![no_std]
#![no_main]

use guest::check::Check;
use guest::gic::{self, SPURIOUS};
use guest::{cpu, mmio, psci};
use hyp_abi::layout::{GICD_BASE, affinity_of};

guest::tests!(
    the_clock_is_there,
    its_interrupt_comes_twice,
    it_comes_again_while_the_device_asserts,
    it_does_not_come_when_it_was_served_before,
    it_ends_by_dir ; only
    after_a_reset
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
/// A time of day that no clock has: it survives a reset of the VM, as the device does.
const LONG_AGO: u32 = 1000;

/// The GIC and the clock as a test wants them: no alarm, the SPI enabled.
fn fresh() {
    cpu::mask();
    mmio::write32(IMSC, 0);
    mmio::write32(ICR, 1);
    gic::init_distributor();
    gic::init_cpu();
    mmio::write32(WORD + 0x180, BIT); // ICENABLER
    mmio::write32(WORD + 0x80, mmio::read32(WORD + 0x80) | BIT); // IGROUPR
    mmio::write8(GICD_BASE + 0x400 + u64::from(INTID), 0xA0);
    mmio::write64(GICD_BASE + 0x6000 + 8 * u64::from(INTID), affinity_of(0));
    mmio::write32(WORD + 0x100, BIT); // ISENABLER
    mmio::write32(IMSC, 1);
}

/// Sets the alarm to the next second but one at the latest, and waits for it in the device's own register.
fn alarm() {
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

fn the_clock_is_there(c: &mut Check) {
    c.eq("PeriphID0", mmio::read32(PERIPH_ID0), 0x31);
    let before = mmio::read32(DR);
    c.that(before != 0, "it shows a time");
    c.that(cpu::wait_until(5, || mmio::read32(DR) != before), "it goes on");
}

fn twice(c: &mut Check) {
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
    c.eq("nothing more", take(1), SPURIOUS);
}

fn it_does_not_come_when_it_was_served_before(c: &mut Check) {
    fresh();
    mmio::write32(WORD + 0x180, BIT); // ICENABLER
    alarm();
    c.that(raised(), "the alarm goes off");
    c.eq("disabled", take(0), SPURIOUS);
    mmio::write32(ICR, 1);
    mmio::write32(WORD + 0x100, BIT); // ISENABLER
    c.eq("served", take(1), SPURIOUS);
    twice(c);
}

fn it_ends_by_dir(c: &mut Check) {
    fresh();
    gic::set_ctlr(gic::CTLR_EOIMODE);
    alarm();
    c.eq("taken", take(10), INTID);
    gic::eoir1(INTID);
    c.eq("active", take(1), SPURIOUS);
    gic::dir(INTID);
    c.eq("asserted still", take(10), INTID);
    mmio::write32(ICR, 1);
    gic::eoir1(INTID);
    gic::dir(INTID);
    c.eq("nothing more", take(1), SPURIOUS);
    gic::set_ctlr(0);
}

/// The VM is reset while the interrupt is active; afterwards it comes as ever.
fn after_a_reset(c: &mut Check) {
    if mmio::read32(DR) > 2 * LONG_AGO {
        fresh();
        alarm();
        c.eq("taken", take(10), INTID);
        mmio::write32(LR, LONG_AGO);
        psci::system_reset();
    }
    fresh();
    twice(c);
}
