//! SPIs: the distributor's registers, and interrupts that software makes pending there. Needs a VM of 4 vCPUs.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use guest::check::Check;
use guest::gic::{self, SPURIOUS};
use guest::{cpu, fault, mmio, psci, timer};
use hyp_abi::layout::{GICD_BASE, affinity_of};

guest::tests!(
    typer_has_the_lines,
    registers_keep_what_is_written,
    accesses_of_every_size,
    taken_by_whom_irouter_names,
    one_of_n_goes_to_one,
    moves_when_rerouted,
    disabled_and_masked_wait,
    priorities_beside_sgis,
    edge_and_level,
    active_by_mmio,
    eoimode_1_across_vcpus,
    pending_goes_back_when_its_target_goes_off,
    waits_for_a_target_that_is_off,
    many_at_once,
    a_group_is_turned_off_for_all,
    one_of_n_finds_who_was_never_looked_at
);

const PATIENCE: u64 = 10;
/// The first and the last SPI.
const FIRST: u32 = 32;
const LAST: u32 = 287;

const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xC00;
const IROUTER: u64 = 0x6000;
const ONE_OF_N: u64 = 1 << 31;

/// The address of the word of a register with one bit for each INTID, and its bit.
const fn bit(register: u64, intid: u32) -> (u64, u32) {
    (GICD_BASE + register + (intid / 32) as u64 * 4, 1 << (intid % 32))
}

fn set(register: u64, intid: u32) {
    let (address, bit) = bit(register, intid);
    mmio::write32(address, bit);
}

fn get(register: u64, intid: u32) -> bool {
    let (address, bit) = bit(register, intid);
    mmio::read32(address) & bit != 0
}

fn route(intid: u32, to: u64) {
    mmio::write64(GICD_BASE + IROUTER + 8 * u64::from(intid), to);
}

fn prioritize(intid: u32, priority: u8) {
    mmio::write8(GICD_BASE + IPRIORITYR + u64::from(intid), priority);
}

/// Edge-triggered, or level-sensitive.
fn trigger(intid: u32, edge: bool) {
    let address = GICD_BASE + ICFGR + u64::from(intid / 16) * 4;
    let bit = 2 << (intid % 16 * 2);
    let old = mmio::read32(address);
    mmio::write32(address, if edge { old | bit } else { old & !bit });
}

/// SPI `intid` as most tests want it: group 1, enabled, edge-triggered, at priority 0xA0, for the vCPU `index`.
fn ready(intid: u32, index: usize) {
    let (address, mask) = bit(IGROUPR, intid);
    mmio::write32(address, mmio::read32(address) | mask);
    set(ICENABLER, intid);
    set(ICPENDR, intid);
    set(ICACTIVER, intid);
    trigger(intid, true);
    prioritize(intid, 0xA0);
    route(intid, affinity_of(index));
    set(ISENABLER, intid);
}

/// This vCPU's GIC as a test wants it, no SPI enabled.
fn fresh() {
    cpu::mask();
    timer::disarm();
    gic::init_distributor();
    gic::init_cpu();
    gic::clear_pending(u32::MAX);
    gic::clear_active(u32::MAX);
    for word in 1..=8 {
        for register in [ICENABLER, ICPENDR, ICACTIVER] {
            mmio::write32(GICD_BASE + register + word * 4, u32::MAX);
        }
    }
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

fn typer_has_the_lines(check: &mut Check) {
    let typer = mmio::read32(GICD_BASE + 4);
    check.that(typer & 0x1F >= 8, "GICD_TYPER.ITLinesNumber: 288 INTIDs at least");
    check.eq("GICD_TYPER.LPIS, MBIS", typer >> 16 & 3, 0);
    check.that(typer >> 19 & 0x1F >= 9, "GICD_TYPER.IDbits");
}

fn registers_keep_what_is_written(check: &mut Check) {
    fresh();
    for intid in [FIRST, 33, 63, 64, 100, 255, 256, LAST] {
        for (what, on, off) in [
            ("enabled", ISENABLER, ICENABLER),
            ("pending", ISPENDR, ICPENDR),
            ("active", ISACTIVER, ICACTIVER),
        ] {
            // Two each time, so that a clear that is too wide shows.
            let other = if intid % 32 == 31 { intid - 1 } else { intid + 1 };
            set(on, intid);
            set(on, other);
            if !(get(on, intid) && get(off, intid) && get(on, other)) {
                check.fail(format_args!("SPI {intid} is not {what} after a write"));
            }
            set(off, intid);
            if get(on, intid) || get(off, intid) || !get(on, other) {
                check.fail(format_args!("SPI {intid} is {what} after it was cleared, or its neighbour is not"));
            }
            set(off, other);
        }
        for priority in [0, 0x80, 0xF8, 0xA0] {
            prioritize(intid, priority);
            check.eq("GICD_IPRIORITYR", mmio::read8(GICD_BASE + IPRIORITYR + u64::from(intid)), priority);
        }
        for edge in [true, false] {
            trigger(intid, edge);
            let found = mmio::read32(GICD_BASE + ICFGR + u64::from(intid / 16) * 4) >> (intid % 16 * 2) & 3;
            check.eq("GICD_ICFGR", found, if edge { 2 } else { 0 });
        }
        let router = GICD_BASE + IROUTER + 8 * u64::from(intid);
        for to in [affinity_of(1), affinity_of(3), ONE_OF_N, 0] {
            mmio::write64(router, to);
            check.eq("GICD_IROUTER", mmio::read64(router), to);
        }
        let (group, mask) = bit(IGROUPR, intid);
        let old = mmio::read32(group);
        mmio::write32(group, old & !mask);
        check.eq("GICD_IGROUPR cleared", mmio::read32(group), old & !mask);
        mmio::write32(group, old | mask);
        check.eq("GICD_IGROUPR set", mmio::read32(group), old | mask);
    }
    for register in [IGROUPR, ISENABLER, ISPENDR, ISACTIVER] {
        check.eq("word 0 is the redistributor's", mmio::read32(GICD_BASE + register), 0);
        mmio::write32(GICD_BASE + register + 9 * 4, u32::MAX);
        check.eq("INTID 288 and up do not exist", mmio::read32(GICD_BASE + register + 9 * 4), 0);
    }
}

fn accesses_of_every_size(check: &mut Check) {
    fresh();
    let priorities = GICD_BASE + IPRIORITYR + 40;
    let faults = fault::catch(|| {
        mmio::write32(priorities, 0x8070_6050);
        for (n, expected) in [0x50, 0x60, 0x70, 0x80].into_iter().enumerate() {
            check.eq("a byte of a word", mmio::read8(priorities + n as u64), expected);
        }
        mmio::write8(priorities + 2, 0xC0);
        check.eq("the word after a write of a byte", mmio::read32(priorities), 0x80C0_6050);
        let router = GICD_BASE + IROUTER + 8 * 40;
        mmio::write64(router, affinity_of(2));
        check.eq("GICD_IROUTER's lower half", mmio::read32(router), affinity_of(2) as u32);
        mmio::write32(router, 1 << 31);
        check.eq("GICD_IROUTER after a write of its lower half", mmio::read64(router), ONE_OF_N);
        mmio::write32(router + 4, 0);
        check.eq("and of its upper half", mmio::read64(router), ONE_OF_N);
        mmio::write64(router, 0);
        // Sizes that the architecture does not give a register: anything but a fault or a hang.
        for offset in (0..0x1000).step_by(8) {
            let _wide = mmio::read64(GICD_BASE + offset);
        }
        for offset in (0..0x1000).step_by(2) {
            let _narrow = (mmio::read16(GICD_BASE + offset), mmio::read8(GICD_BASE + offset + 1));
        }
    });
    check.eq("a fault", faults, None);
}

/// What the vCPUs 1 to 3 took: one bit for each INTID from 64 on.
static TOOK: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static UP: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static UNSEEN: AtomicBool = AtomicBool::new(false);

/// Sleeps, and takes what comes.
fn listener(_: u64) {
    cpu::mask();
    gic::init_cpu();
    if !UNSEEN.load(Ordering::Relaxed) {
        // An exit: now it is known that this vCPU takes group 1.
        let _version = psci::version();
    }
    UP.fetch_add(1, Ordering::AcqRel);
    while !STOP.load(Ordering::Acquire) {
        cpu::wfi();
        let intid = gic::iar1();
        if intid == SPURIOUS {
            continue;
        }
        if intid >= 64 {
            TOOK[cpu::index()].fetch_or(1 << (intid - 64), Ordering::AcqRel);
        }
        gic::eoir1(intid);
    }
}

fn took(index: usize) -> u64 {
    TOOK[index].load(Ordering::Acquire)
}

fn forget() {
    for took in &TOOK {
        took.store(0, Ordering::Release);
    }
}

/// Runs `body` while vCPUs 1 to 3 listen.
fn with_listeners(check: &mut Check, body: impl FnOnce(&mut Check)) {
    fresh();
    forget();
    STOP.store(false, Ordering::Relaxed);
    UP.store(0, Ordering::Relaxed);
    for index in 1..4 {
        check.eq("CPU_ON of a listener", cpu::start(index, listener, 0), psci::SUCCESS);
    }
    if check.that(
        cpu::wait_until(PATIENCE, || UP.load(Ordering::Acquire) == 3),
        "three listeners come up",
    ) {
        body(check);
    }
    STOP.store(true, Ordering::Release);
    for index in 1..4 {
        gic::send_sgi(affinity_of(index), 0);
        check.that(cpu::wait_off(index, PATIENCE), "a listener goes off");
    }
}

fn taken_by_whom_irouter_names(check: &mut Check) {
    with_listeners(check, |check| {
        for (round, intid) in (64..124).enumerate() {
            let index = 1 + round % 3;
            ready(intid, index);
            set(ISPENDR, intid);
            let came = cpu::wait_until(PATIENCE, || took(index) >> (intid - 64) & 1 == 1);
            check.that(came, "the vCPU that IROUTER names takes it");
            check.that(cpu::wait_until(PATIENCE, || !get(ISACTIVER, intid)), "it is inactive after its end");
            check.that(!get(ISPENDR, intid), "and not pending");
        }
        check.eq(
            "nobody took another's",
            took(1) & took(2) | took(1) & took(3) | took(2) & took(3),
            0,
        );
        check.eq("nor this vCPU", gic::iar1(), SPURIOUS);
        ready(130 - 64 + 32, 0);
        set(ISPENDR, 98);
        check.eq("one that is routed here", take(), 98);
        check.that(get(ISACTIVER, 98), "GICD_ISACTIVER shows it");
        gic::eoir1(98);
        check.that(!get(ISACTIVER, 98), "until its end");
    });
}

fn one_of_n_goes_to_one(check: &mut Check) {
    with_listeners(check, |check| {
        // This vCPU does not take part.
        gic::set_igrpen1(false);
        for intid in 64..104 {
            ready(intid, 0);
            route(intid, ONE_OF_N);
            set(ISPENDR, intid);
            let all = || (1..4).map(|index| took(index) >> (intid - 64) & 1).sum::<u64>();
            if !cpu::wait_until(PATIENCE, || all() > 0) {
                let (pending, active) = (get(ISPENDR, intid), get(ISACTIVER, intid));
                check.fail(format_args!("SPI {intid} is not taken; pending: {pending}, active: {active}"));
                break;
            }
            check.that(cpu::wait_until(PATIENCE, || !get(ISACTIVER, intid)), "it is ended");
            check.eq("by one vCPU", all(), 1);
        }
        gic::set_igrpen1(true);
    });
}

/// The vCPUs that could take it have made no exit since they enabled their group 1.
fn one_of_n_finds_who_was_never_looked_at(check: &mut Check) {
    UNSEEN.store(true, Ordering::Relaxed);
    one_of_n_goes_to_one(check);
}

fn moves_when_rerouted(check: &mut Check) {
    with_listeners(check, |check| {
        // Held here, where it is not taken; then it goes elsewhere.
        for round in 0..20_u32 {
            let (intid, index) = (64 + round, 1 + round as usize % 3);
            ready(intid, 0);
            set(ISPENDR, intid);
            if round % 2 == 0 {
                check.that(
                    cpu::wait_until(PATIENCE, || gic::hppir1() == intid),
                    "it is pending at its first target",
                );
            }
            route(intid, affinity_of(index));
            check.that(
                cpu::wait_until(PATIENCE, || took(index) >> (intid - 64) & 1 == 1),
                "a pending interrupt moves when it is rerouted",
            );
            check.eq("and is not at its first target any more", gic::iar1(), SPURIOUS);
        }
    });
}

fn disabled_and_masked_wait(check: &mut Check) {
    fresh();
    ready(70, 0);
    set(ICENABLER, 70);
    set(ISPENDR, 70);
    check.eq("a disabled SPI", gic::iar1(), SPURIOUS);
    check.that(get(ISPENDR, 70), "is pending");
    set(ISENABLER, 70);
    check.eq("and comes when it is enabled", take(), 70);
    gic::eoir1(70);

    set(ISPENDR, 70);
    check.that(cpu::wait_until(2, || gic::hppir1() == 70), "pending here");
    set(ICENABLER, 70);
    check.eq("disabled again before it is taken", gic::iar1(), SPURIOUS);
    check.that(get(ISPENDR, 70), "it stays pending");
    set(ICPENDR, 70);
    set(ISENABLER, 70);
    check.eq("GICD_ICPENDR took it away", gic::iar1(), SPURIOUS);

    set(ISPENDR, 70);
    set(ICPENDR, 70);
    check.eq("and does while it is enabled", gic::iar1(), SPURIOUS);

    mmio::write32(GICD_BASE, mmio::read32(GICD_BASE) & !2);
    set(ISPENDR, 70);
    check.eq("with GICD_CTLR.EnableGrp1 off", gic::iar1(), SPURIOUS);
    mmio::write32(GICD_BASE, mmio::read32(GICD_BASE) | 2);
    check.eq("and on", take(), 70);
    gic::eoir1(70);
}

fn priorities_beside_sgis(check: &mut Check) {
    fresh();
    // SPIs and SGIs in turn, more of them than list registers, made pending in no order.
    let spi = |n: u32| 80 + n;
    for n in 0..12 {
        ready(spi(n), 0);
        prioritize(spi(n), (n * 16) as u8);
        gic::set_priority(n, (n * 16 + 8) as u8);
    }
    gic::set_pmr(0);
    for step in 0..12 {
        let n = step * 5 % 12;
        set(ISPENDR, spi(n));
        gic::send_sgi(cpu::affinity(), (n + 3) % 12);
    }
    gic::set_pmr(0xFF);
    for n in 0..12 {
        check.eq("the next SPI in priority order", take(), spi(n));
        gic::eoir1(spi(n));
        check.eq("the SGI behind it", take(), n);
        gic::eoir1(n);
    }
    check.eq("then nothing", gic::iar1(), SPURIOUS);

    gic::send_sgi(cpu::affinity(), 9);
    check.eq("an SGI at 0x98", take(), 9);
    set(ISPENDR, spi(11));
    check.eq("an SPI at 0xb0 does not preempt it", gic::iar1(), SPURIOUS);
    set(ISPENDR, spi(2));
    check.eq("one at 0x20 does", take(), spi(2));
    check.eq("ICC_RPR_EL1", gic::rpr(), 0x20);
    gic::eoir1(spi(2));
    gic::eoir1(9);
    check.eq("and the other comes at last", take(), spi(11));
    gic::eoir1(spi(11));

    // A change of the priority of what is pending.
    gic::set_pmr(0x50);
    set(ISPENDR, spi(10));
    check.eq("behind the mask at 0xa0", gic::iar1(), SPURIOUS);
    prioritize(spi(10), 0x40);
    check.eq("before it at 0x40", take(), spi(10));
    gic::eoir1(spi(10));
}

/// The line of these SPIs is nobody's, so it is low: what a level-sensitive one has is what is written.
fn edge_and_level(check: &mut Check) {
    fresh();
    for edge in [true, false] {
        ready(72, 0);
        trigger(72, edge);
        set(ISPENDR, 72);
        check.that(get(ISPENDR, 72), "pending after a write");
        check.eq("what is taken", take(), 72);
        check.that(!get(ISPENDR, 72), "a taken one is not pending");
        set(ISPENDR, 72);
        check.that(get(ISPENDR, 72) && get(ISACTIVER, 72), "active and pending");
        check.eq("is not taken twice", gic::iar1(), SPURIOUS);
        gic::eoir1(72);
        check.eq("and comes again after its end", take(), 72);
        gic::eoir1(72);
        check.eq("once", gic::iar1(), SPURIOUS);
        check.that(!get(ISPENDR, 72) && !get(ISACTIVER, 72), "neither pending nor active");
    }
}

fn active_by_mmio(check: &mut Check) {
    fresh();
    ready(73, 0);
    set(ISACTIVER, 73);
    set(ISPENDR, 73);
    check.eq("one that was made active is not taken", gic::iar1(), SPURIOUS);
    set(ICACTIVER, 73);
    check.eq("until it is made inactive", take(), 73);
    check.that(get(ISACTIVER, 73), "then it is active");
    set(ICACTIVER, 73);
    check.that(!get(ISACTIVER, 73), "GICD_ICACTIVER ends that");
    gic::eoir1(73);
    check.eq("ICC_RPR_EL1 after its end", gic::rpr(), 0xFF);
    set(ISPENDR, 73);
    check.eq("and it comes again", take(), 73);
    gic::eoir1(73);
}

static ENDED: AtomicBool = AtomicBool::new(false);

/// Deactivates what another vCPU took.
fn deactivate(intid: u64) {
    gic::init_cpu();
    gic::set_ctlr(gic::CTLR_EOIMODE);
    gic::dir(intid as u32);
    ENDED.store(true, Ordering::Release);
}

fn eoimode_1_across_vcpus(check: &mut Check) {
    fresh();
    gic::set_ctlr(gic::CTLR_EOIMODE);
    ready(74, 0);
    set(ISPENDR, 74);
    check.eq("what is taken", take(), 74);
    gic::eoir1(74);
    check.that(get(ISACTIVER, 74), "EOIR leaves it active");
    check.eq("CPU_ON", cpu::start(1, deactivate, 74), psci::SUCCESS);
    check.that(cpu::wait_off(1, PATIENCE), "it goes off");
    check.that(ENDED.load(Ordering::Acquire), "another vCPU ran");
    check.that(
        cpu::wait_until(PATIENCE, || !get(ISACTIVER, 74)),
        "DIR on another vCPU deactivates an SPI",
    );
    set(ISPENDR, 74);
    check.eq("it comes again", take(), 74);
    gic::eoir1(74);
    gic::dir(74);
    check.that(!get(ISACTIVER, 74), "DIR here too");
    gic::set_ctlr(0);
}

/// Turns group 1 off and on while others do, each of which waits for the others to see it.
fn turn(_: u64) {
    cpu::mask();
    gic::init_cpu();
    UP.fetch_add(1, Ordering::AcqRel);
    let _in_time = cpu::wait_until(PATIENCE, || UP.load(Ordering::Acquire) == 3);
    for _ in 0..100 {
        gic::forward_groups(0);
        gic::forward_groups(2);
    }
}

fn a_group_is_turned_off_for_all(check: &mut Check) {
    UP.store(0, Ordering::Release);
    for index in 1..3 {
        check.eq("CPU_ON", cpu::start(index, turn, 0), psci::SUCCESS);
    }
    turn(0);
    for index in 1..3 {
        check.that(cpu::wait_off(index, PATIENCE), "all that turn it come to an end");
    }
    with_listeners(check, |check| {
        gic::forward_groups(0);
        for index in 1..4 {
            ready(63 + index, index as usize);
            set(ISPENDR, 63 + index);
        }
        timer::delay(timer::micros(2000));
        check.eq("what is taken while the group is off", [took(1), took(2), took(3)], [0; 3]);
        gic::forward_groups(2);
        check.that(
            cpu::wait_until(PATIENCE, || [took(1), took(2), took(3)] == [1, 2, 4]),
            "what is taken when it is on again",
        );
    });
}

/// Has an SPI pending at its interface and goes off without taking it.
fn ignore(intid: u64) {
    cpu::mask();
    gic::init_cpu();
    UP.store(1, Ordering::Release);
    let _in_time = cpu::wait_until(PATIENCE, || gic::hppir1() == intid as u32);
    UP.store(if gic::hppir1() == intid as u32 { 2 } else { 3 }, Ordering::Release);
}

fn pending_goes_back_when_its_target_goes_off(check: &mut Check) {
    fresh();
    for round in 0..5 {
        let intid = 75 + round;
        UP.store(0, Ordering::Relaxed);
        ready(intid, 1);
        check.eq("CPU_ON", cpu::start(1, ignore, u64::from(intid)), psci::SUCCESS);
        check.that(cpu::wait_until(PATIENCE, || UP.load(Ordering::Acquire) == 1), "it comes up");
        set(ISPENDR, intid);
        check.that(cpu::wait_off(1, PATIENCE), "it goes off");
        check.eq("the SPI was pending at its interface", UP.load(Ordering::Acquire), 2);
        check.that(get(ISPENDR, intid), "the SPI is still pending");
        check.eq("and nobody else's", gic::iar1(), SPURIOUS);
        route(intid, affinity_of(0));
        check.eq("until it is routed to another", take(), intid);
        gic::eoir1(intid);
    }
}

fn take_one(_: u64) {
    cpu::mask();
    gic::init_cpu();
    UP.store(0x1000 | take(), Ordering::Release);
    gic::eoir1(UP.load(Ordering::Relaxed) & 0xFFF);
}

fn waits_for_a_target_that_is_off(check: &mut Check) {
    fresh();
    UP.store(0, Ordering::Relaxed);
    ready(90, 2);
    set(ISPENDR, 90);
    check.that(get(ISPENDR, 90), "it is pending");
    check.eq("and not taken here", gic::iar1(), SPURIOUS);
    check.eq("CPU_ON of its target", cpu::start(2, take_one, 0), psci::SUCCESS);
    check.that(cpu::wait_off(2, PATIENCE), "its target goes off");
    check.eq("what the target took", UP.load(Ordering::Acquire), 0x1000 | 90);
    // A route to nobody.
    ready(91, 0);
    route(91, 0x0000_0700);
    set(ISPENDR, 91);
    check.eq("routed to nobody, nobody takes it", gic::iar1(), SPURIOUS);
    check.that(get(ISPENDR, 91), "and it stays pending");
    route(91, affinity_of(0));
    check.eq("until it is routed to somebody", take(), 91);
    gic::eoir1(91);
}

fn many_at_once(check: &mut Check) {
    with_listeners(check, |check| {
        for intid in 64..128 {
            ready(intid, 1 + intid as usize % 3);
        }
        for round in 0..5 {
            forget();
            // All of them with one write a word.
            for word in [2, 3] {
                mmio::write32(GICD_BASE + ISPENDR + word * 4, u32::MAX);
            }
            let all = || took(1) | took(2) | took(3);
            if !cpu::wait_until(PATIENCE, || all() == u64::MAX) {
                check.fail(format_args!("round {round}: taken: {:#x}", all()));
                break;
            }
            let inactive = || [2, 3].iter().all(|word| mmio::read32(GICD_BASE + ISACTIVER + word * 4) == 0);
            check.that(cpu::wait_until(PATIENCE, inactive), "all are ended");
        }
        check.eq("each by its own", took(1) & took(2) | took(1) & took(3) | took(2) & took(3), 0);
    });
}
