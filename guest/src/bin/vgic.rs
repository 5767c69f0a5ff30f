//! The virtual GICv3: SGIs, the virtual timer's PPI, priorities, end of interrupt, and every register of the frames.
//! Needs a VM of 4 vCPUs. `template` and `narrowed` need the host test `ready`; `compare` a host that answers COMPARE.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guest::check::Check;
use guest::gic::{self, CTLR_CBPR, CTLR_EOIMODE, SPURIOUS};
use guest::{cpu, fault, mmio, oem, psci, timer};
use hyp_abi::layout::{GICD_BASE, GICR_BASE, GICR_STRIDE, UART_BASE, VTIMER_INTID, affinity_of};

guest::tests!(
    system_register_interface,
    ctlr_keeps_its_two_bits,
    binary_points_clamp,
    sgi_to_self,
    sgi_to_each_other,
    sgi_to_a_list,
    sgi_to_all_but_self,
    sgi_to_nobody,
    sgi_range_selector,
    sgis_of_both_groups,
    sgi_wakes_wfi,
    ping_pong,
    disabled_and_masked_sgis_wait,
    sixteen_pending_in_priority_order,
    preemption_and_running_priority,
    eoimode_1_needs_dir,
    sixteen_active_at_once,
    pending_registers,
    timer_fires_and_ends,
    timer_line_is_a_level,
    timer_wakes_wfi,
    typer_and_identification,
    any_register,
    every_offset_has_a_result ; only
    template, narrowed, compare
);

const PATIENCE: u64 = 10;

/// This vCPU's GIC as a test wants it: SGIs on, interrupts masked at the PE so that the test acknowledges itself.
fn fresh() {
    cpu::mask();
    timer::disarm();
    gic::init_distributor();
    gic::init_cpu();
    // What an earlier test that failed left pending, or active with its priority not dropped.
    gic::clear_pending(u32::MAX);
    for intid in 0..16 {
        if gic::active() & 1 << intid != 0 {
            gic::eoir1(intid);
        }
    }
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

fn send_self(intid: u32) {
    gic::send_sgi(cpu::affinity(), intid);
}

fn system_register_interface(check: &mut Check) {
    check.eq("ICC_SRE_EL1.SRE", gic::sre() & 1, 1);
    fresh();
    check.eq("ICC_IGRPEN1_EL1", gic::igrpen1(), 1);
    check.eq("ICC_RPR_EL1 when idle", gic::rpr(), 0xFF);
    check.eq("ICC_IAR1_EL1 when idle", gic::iar1(), SPURIOUS);
    gic::set_pmr(0xA5);
    check.eq("ICC_PMR_EL1's five upper bits", gic::pmr() & 0xF8, 0xA0);
    for intid in [0, 15, 27, 1023, 8192] {
        gic::eoir1(intid);
    }
    check.eq("ICC_RPR_EL1 after EOIs of nothing", gic::rpr(), 0xFF);
}

fn ctlr_keeps_its_two_bits(check: &mut Check) {
    fresh();
    let fixed = gic::ctlr();
    check.eq("bits outside of 0x000c_ff03", fixed & !0x000C_FF03, 0);
    check.that(fixed & 0x700 != 0, "PRIbits");
    for value in [CTLR_CBPR, CTLR_EOIMODE, CTLR_CBPR | CTLR_EOIMODE, 0] {
        gic::set_ctlr(value);
        check.eq("ICC_CTLR_EL1 after a write", gic::ctlr(), fixed | value);
    }
    gic::set_ctlr(u64::MAX);
    check.eq("ICC_CTLR_EL1 after all ones", gic::ctlr(), fixed | 3);
    gic::set_ctlr(0);
    // Nobody to ask (-1) is fine.
    check.that(
        oem::ask(oem::COMPARE, gic::ctlr(), cpu::index() as u64) <= 0,
        "the host's view is the guest's",
    );
}

fn binary_points_clamp(check: &mut Check) {
    fresh();
    gic::set_bpr0(7);
    gic::set_bpr1(7);
    check.eq("BPR0, BPR1", (gic::bpr0(), gic::bpr1()), (7, 7));
    gic::set_bpr0(0);
    gic::set_bpr1(0);
    let (min0, min1) = (gic::bpr0(), gic::bpr1());
    check.that(
        min0 <= 3 && min1 <= 4 && min1 >= min0,
        "the minima fit four to seven bits of preemption",
    );
    gic::set_bpr0(5);
    gic::set_bpr1(4);
    gic::set_ctlr(CTLR_CBPR);
    check.eq("BPR1 with CBPR follows BPR0", gic::bpr1(), 6);
    gic::set_bpr1(7);
    gic::set_ctlr(0);
    check.eq("BPR1 writes with CBPR are ignored", gic::bpr1(), 4);
    gic::set_bpr0(0);
    gic::set_bpr1(0);
}

fn sgi_to_self(check: &mut Check) {
    fresh();
    for intid in 0..16 {
        send_self(intid);
        check.eq("what is taken", take(), intid);
        check.eq("ICC_RPR_EL1", gic::rpr(), 0xA0);
        gic::eoir1(intid);
        check.eq("ICC_RPR_EL1 after its end", gic::rpr(), 0xFF);
    }
    check.eq("then nothing", gic::iar1(), SPURIOUS);
}

static GOT: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];
static UP: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicU32 = AtomicU32::new(0);
/// 1: listeners wait in WFI.
static SLEEPY: AtomicU32 = AtomicU32::new(0);

/// A secondary that notes which SGIs it takes, until it is told to stop.
fn listen(_: u64) {
    let me = &GOT[cpu::index()];
    gic::init_cpu();
    gic::clear_pending(0xFFFF);
    me.store(0, Ordering::Relaxed);
    UP.fetch_add(1, Ordering::Release);
    while STOP.load(Ordering::Acquire) == 0 {
        let intid = gic::iar1();
        if intid < 16 {
            gic::eoir1(intid);
            me.fetch_or(1 << intid, Ordering::Release);
        } else if SLEEPY.load(Ordering::Relaxed) == 1 {
            cpu::wfi();
        } else {
            cpu::relax();
        }
    }
}

fn with_listeners(check: &mut Check, body: impl FnOnce(&mut Check)) {
    fresh();
    UP.store(0, Ordering::Relaxed);
    STOP.store(0, Ordering::Relaxed);
    for index in 1..4 {
        check.eq("CPU_ON", cpu::start(index, listen, 0), psci::SUCCESS);
    }
    if check.that(
        cpu::wait_until(PATIENCE, || UP.load(Ordering::Acquire) == 3),
        "three listeners come up",
    ) {
        body(check);
    }
    STOP.store(1, Ordering::Release);
    for index in 1..4 {
        gic::send_sgi(affinity_of(index), 0);
        check.that(cpu::wait_off(index, PATIENCE), "a listener goes off");
    }
    SLEEPY.store(0, Ordering::Relaxed);
    for got in &GOT {
        got.store(0, Ordering::Relaxed);
    }
}

fn got(index: usize) -> u32 {
    GOT[index].load(Ordering::Acquire)
}

fn sgi_to_each_other(check: &mut Check) {
    with_listeners(check, |check| {
        for index in 1..4 {
            gic::send_sgi(affinity_of(index), 8 + index as u32);
            check.that(cpu::wait_until(PATIENCE, || got(index) == 1 << (8 + index)), "the SGI arrives");
        }
        check.eq("nobody took another's", [got(1), got(2), got(3)], [1 << 9, 1 << 10, 1 << 11]);
        check.eq("nor the sender", gic::iar1(), SPURIOUS);
    });
}

fn sgi_to_a_list(check: &mut Check) {
    with_listeners(check, |check| {
        gic::sgi1r(gic::sgi_list(0, 0b1011, 7));
        check.that(
            cpu::wait_until(PATIENCE, || got(1) == 1 << 7 && got(3) == 1 << 7),
            "the SGI reaches vCPUs 1 and 3",
        );
        check.eq("and the sender, who is in the list", take(), 7);
        gic::eoir1(7);
        timer::delay(timer::micros(2000));
        check.eq("but not vCPU 2", got(2), 0);
    });
}

fn sgi_to_all_but_self(check: &mut Check) {
    with_listeners(check, |check| {
        gic::sgi1r(gic::sgi_others(4));
        check.that(
            cpu::wait_until(PATIENCE, || (1..4).all(|index| got(index) == 1 << 4)),
            "the SGI reaches all others",
        );
        timer::delay(timer::micros(2000));
        check.eq("but not the sender", gic::iar1(), SPURIOUS);
    });
}

fn sgi_to_nobody(check: &mut Check) {
    with_listeners(check, |check| {
        gic::sgi1r(gic::sgi_list(0, 0, 3));
        gic::sgi1r(gic::sgi_list(0, 0xFF00, 3));
        gic::sgi1r(gic::sgi_list(0x100, 0xF, 3));
        gic::sgi1r(gic::sgi_list(0x0001_0000, 0xF, 3));
        gic::sgi1r(gic::sgi_list(0xFF_0000_0000, 0xF, 3));
        timer::delay(timer::micros(5000));
        check.eq("what anybody took", [got(1), got(2), got(3)], [0; 3]);
        check.eq("the sender", gic::iar1(), SPURIOUS);
    });
}

/// `ICC_SGI1R_EL1.RS` 1 means Aff0 16 to 31.
fn sgi_range_selector(check: &mut Check) {
    with_listeners(check, |check| {
        gic::sgi1r(gic::sgi_list(0, 0xF, 3) | 1 << 44);
        timer::delay(timer::micros(5000));
        check.eq("what anybody took", [got(1), got(2), got(3)], [0; 3]);
        check.eq("the sender", gic::iar1(), SPURIOUS);
    });
}

/// `ICC_SGI1R_EL1` raises SGIs of either group, the other two those of group 0 (IHI 0069, `GICD_CTLR.DS` 1).
fn sgis_of_both_groups(check: &mut Check) {
    fresh();
    gic::forward_groups(3);
    gic::set_igrpen0(true);
    gic::set_groups(!(1 << 5));
    let sgi = |intid| gic::sgi_list(cpu::affinity(), 1 << (cpu::affinity() & 0xF), intid);
    for write in [gic::sgi1r, gic::sgi0r, gic::asgi1r, gic::sgi1r] {
        write(sgi(5));
        check.eq("ICC_IAR1_EL1 of one of group 0", gic::iar1(), SPURIOUS);
        check.eq("ICC_IAR0_EL1", gic::iar0(), 5);
        gic::eoir0(5);
    }
    for (write, raised) in [(gic::sgi1r as fn(u64), 1 << 6), (gic::sgi0r, 0), (gic::asgi1r, 0)] {
        write(sgi(6));
        check.eq("one of group 1 is pending", gic::pending() & 1 << 6, raised);
        gic::clear_pending(1 << 6);
    }
    gic::set_igrpen0(false);
    gic::set_groups(u32::MAX);
    fresh();
    with_listeners(check, |check| {
        gic::sgi0r(gic::sgi_others(4));
        gic::asgi1r(gic::sgi_others(5));
        gic::sgi1r(gic::sgi_others(6));
        check.that(
            cpu::wait_until(PATIENCE, || (1..4).all(|index| got(index) & 1 << 6 != 0)),
            "ICC_SGI1R_EL1's arrives",
        );
        timer::delay(timer::micros(2000));
        check.eq("and no other", [got(1), got(2), got(3)], [1 << 6; 3]);
    });
}

fn sgi_wakes_wfi(check: &mut Check) {
    SLEEPY.store(1, Ordering::Relaxed);
    with_listeners(check, |check| {
        for intid in 1..16 {
            timer::delay(timer::micros(500));
            for index in 1..4 {
                gic::send_sgi(affinity_of(index), intid);
            }
            check.that(
                cpu::wait_until(PATIENCE, || (1..4).all(|index| got(index) & 1 << intid != 0)),
                "a sleeper takes its SGI",
            );
        }
    });
}

fn ping_pong(check: &mut Check) {
    with_listeners(check, |check| {
        for round in 0..500 {
            let (index, intid) = (1 + round % 3, (round % 16) as u32);
            GOT[index].store(0, Ordering::Relaxed);
            gic::send_sgi(affinity_of(index), intid);
            if !cpu::wait_until(PATIENCE, || got(index) == 1 << intid) {
                check.fail(format_args!("round {round}: the SGI is lost"));
                break;
            }
        }
    });
}

fn disabled_and_masked_sgis_wait(check: &mut Check) {
    fresh();
    gic::disable(3);
    send_self(3);
    check.eq("a disabled SGI", gic::iar1(), SPURIOUS);
    check.eq("is pending", gic::pending() & 1 << 3, 1 << 3);
    gic::enable(3);
    check.eq("and comes when it is enabled", take(), 3);
    gic::eoir1(3);

    gic::set_pmr(0xA0);
    send_self(4);
    check.eq("a priority that the mask holds back", gic::iar1(), SPURIOUS);
    gic::set_pmr(0xA8);
    check.eq("comes when the mask opens", take(), 4);
    gic::eoir1(4);
    gic::set_pmr(0xFF);

    gic::set_igrpen1(false);
    send_self(5);
    check.eq("with group 1 off", gic::iar1(), SPURIOUS);
    gic::set_igrpen1(true);
    check.eq("comes when group 1 is on", take(), 5);
    gic::eoir1(5);
}

fn sixteen_pending_in_priority_order(check: &mut Check) {
    fresh();
    // SGI 15 first: priorities 0x78 down to 0.
    for intid in 0..16 {
        gic::set_priority(intid, ((15 - intid) * 8) as u8);
    }
    for round in 0..3_u32 {
        for step in 0..16 {
            send_self((step * 7 + round) % 16);
        }
        for expected in (0..16).rev() {
            check.eq("the next in priority order", take(), expected);
            gic::eoir1(expected);
        }
        check.eq("then nothing", gic::iar1(), SPURIOUS);
        check.eq("nothing is pending or active", (gic::pending() | gic::active()) & 0xFFFF, 0);
    }
}

fn preemption_and_running_priority(check: &mut Check) {
    fresh();
    for (intid, priority) in [(1, 0xC0), (2, 0x80), (3, 0x40)] {
        gic::set_priority(intid, priority);
    }
    for (intid, priority) in [(1, 0xC0), (2, 0x80), (3, 0x40)] {
        send_self(intid);
        check.eq("a higher priority preempts", take(), intid);
        check.eq("ICC_RPR_EL1", gic::rpr(), priority);
    }
    send_self(4);
    check.eq("a lower one does not", gic::iar1(), SPURIOUS);
    check.eq("three are active", gic::active() & 0xFFFF, 0b1110);
    for (intid, rpr) in [(3, 0x80), (2, 0xC0)] {
        gic::eoir1(intid);
        check.eq("ICC_RPR_EL1 after an end", gic::rpr(), rpr);
        if intid == 2 {
            check.eq("the waiting one, 0xa0, now preempts 0xc0", take(), 4);
            gic::eoir1(4);
        }
    }
    gic::eoir1(1);
    check.eq("ICC_RPR_EL1 at the end", gic::rpr(), 0xFF);
    check.eq("none is active", gic::active() & 0xFFFF, 0);
}

fn eoimode_1_needs_dir(check: &mut Check) {
    fresh();
    gic::set_ctlr(CTLR_EOIMODE);
    send_self(9);
    check.eq("what is taken", take(), 9);
    gic::eoir1(9);
    check.eq("EOIR drops the priority", gic::rpr(), 0xFF);
    check.eq("and leaves it active", gic::active() & 1 << 9, 1 << 9);
    send_self(9);
    check.eq("active and pending is not taken", gic::iar1(), SPURIOUS);
    gic::dir(9);
    check.eq("DIR deactivates, so it is taken again", take(), 9);
    gic::eoir1(9);
    gic::dir(9);
    check.eq("none is active", gic::active() & 0xFFFF, 0);
    gic::set_ctlr(0);
}

fn sixteen_active_at_once(check: &mut Check) {
    fresh();
    gic::set_ctlr(CTLR_EOIMODE);
    for intid in 0..16 {
        send_self(intid);
        check.eq("what is taken while others are active", take(), intid);
        gic::eoir1(intid);
    }
    check.eq("all are active", gic::active() & 0xFFFF, 0xFFFF);
    let mut left = 0xFFFF;
    for step in 0..16 {
        let intid = step * 5 % 16;
        gic::dir(intid);
        left &= !(1 << intid);
        check.eq("what DIR leaves", gic::active() & 0xFFFF, left);
    }
    gic::set_ctlr(0);
    send_self(2);
    check.eq("and they can come again", take(), 2);
    gic::eoir1(2);
}

fn pending_registers(check: &mut Check) {
    fresh();
    gic::set_pending(1 << 7 | 1 << 8);
    check.eq("GICR_ISPENDR0", gic::pending() & 0xFFFF, 1 << 7 | 1 << 8);
    gic::clear_pending(1 << 7);
    check.eq("what is left is taken", take(), 8);
    check.eq("GICR_ISACTIVER0", gic::active() & 0xFFFF, 1 << 8);
    gic::eoir1(8);
    check.eq("then nothing", gic::iar1(), SPURIOUS);
    check.eq("GICR_ISPENDR0 and GICR_ISACTIVER0", (gic::pending() | gic::active()) & 0xFFFF, 0);
}

fn timer_fires_and_ends(check: &mut Check) {
    fresh();
    gic::enable(VTIMER_INTID);
    for _ in 0..20 {
        timer::arm(timer::micros(200));
        check.eq("what is taken", take(), VTIMER_INTID);
        check.that(timer::fired(), "CNTV_CTL_EL0.ISTATUS");
        timer::disarm();
        gic::eoir1(VTIMER_INTID);
        check.eq("after its end", gic::iar1(), SPURIOUS);
    }
    gic::disable(VTIMER_INTID);
    check.eq("none is active", gic::active(), 0);
}

fn timer_line_is_a_level(check: &mut Check) {
    fresh();
    gic::enable(VTIMER_INTID);
    timer::arm(1);
    for _ in 0..4 {
        check.eq("the line is still up", take(), VTIMER_INTID);
        gic::eoir1(VTIMER_INTID);
    }
    timer::disarm();
    let mut late = 0;
    while gic::iar1() != SPURIOUS && late < 4 {
        gic::eoir1(VTIMER_INTID);
        late += 1;
    }
    check.that(late <= 1, "it ends with the line");
    gic::disable(VTIMER_INTID);
    timer::arm(1);
    check.that(
        cpu::wait_until(PATIENCE, || gic::pending() & 1 << VTIMER_INTID != 0),
        "GICR_ISPENDR0 shows the line",
    );
    timer::disarm();
    check.that(
        cpu::wait_until(PATIENCE, || gic::pending() & 1 << VTIMER_INTID == 0),
        "and its fall",
    );
    gic::enable(VTIMER_INTID);
    check.eq("a line that fell is not taken", gic::iar1(), SPURIOUS);
    gic::disable(VTIMER_INTID);
}

static TICKS: AtomicU64 = AtomicU64::new(0);

fn tick(intid: u32) {
    if intid == VTIMER_INTID {
        TICKS.fetch_add(1, Ordering::Relaxed);
        timer::disarm();
    }
}

fn timer_wakes_wfi(check: &mut Check) {
    fresh();
    gic::set_handler(tick);
    gic::enable(VTIMER_INTID);
    TICKS.store(0, Ordering::Relaxed);
    cpu::unmask();
    for round in 1..=20 {
        timer::arm(timer::micros(500));
        while TICKS.load(Ordering::Relaxed) < round {
            cpu::wfi();
        }
    }
    cpu::mask();
    timer::arm(timer::micros(500));
    cpu::wfi();
    check.that(timer::fired(), "a masked interrupt ends WFI");
    timer::disarm();
    gic::disable(VTIMER_INTID);
    check.eq("handlers run", TICKS.load(Ordering::Relaxed), 20);
}

fn typer_and_identification(check: &mut Check) {
    check.eq("GICD_PIDR2.ArchRev", mmio::read32(GICD_BASE + 0xFFE8) >> 4 & 0xF, 3);
    let vcpus = cpu::count() as u64;
    for index in 0..vcpus {
        let frame = GICR_BASE + index * GICR_STRIDE;
        let typer = mmio::read64(frame + 8);
        check.eq("GICR_TYPER's affinity", typer >> 32, affinity_of(index as usize));
        check.eq("GICR_TYPER.Processor_Number", typer >> 8 & 0xFFFF, index);
        check.eq("GICR_TYPER.Last", typer >> 4 & 1, u64::from(index == vcpus - 1));
        check.eq(
            "GICR_TYPER by halves",
            u64::from(mmio::read32(frame + 12)) << 32 | u64::from(mmio::read32(frame + 8)),
            typer,
        );
        check.eq("GICR_PIDR2.ArchRev", mmio::read32(frame + 0xFFE8) >> 4 & 0xF, 3);
    }
}

global_asm!(include_str!("registers.s"));

unsafe extern "C" {
    fn with_registers(registers: &mut Registers, named: u64);
    static loads_by_register: [u64; 32];
    static stores_by_register: [u64; 32];
    static sgis_by_register: [u64; 32];
    static ids_by_register: [u64; 32];
}

/// `x0` to `x30`, and room for the stack pointer.
#[repr(C, align(16))]
#[derive(Clone)]
struct Registers([u64; 32]);

impl Registers {
    /// Executes the instruction of `table` that names register `named`, with `x8` and all others at random, or with one value in `named` and
    /// another elsewhere; what they hold before it and after.
    fn around(seed: &mut u64, table: *const [u64; 32], named: usize, x8: u64, values: Option<[u64; 2]>) -> [[u64; 32]; 2] {
        let mut registers = Self([0; 32]);
        for register in &mut registers.0 {
            *seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            *register = *seed ^ *seed >> 29;
        }
        registers.0[8] = x8;
        if let Some([value, others]) = values {
            registers.0 = [others; 32];
            registers.0[named] = value;
        }
        registers.0[if named == 16 { 17 } else { 16 }] = table as u64 + 8 * named as u64;
        let mut before = registers.0;
        // SAFETY: It saves and restores what a function must, and executes an access to a device or a system register.
        unsafe { with_registers(&mut registers, named as u64) };
        // No register: XZR, and the stack pointer's place.
        (before[31], registers.0[31]) = (0, 0);
        [before, registers.0]
    }
}

/// What traps works with each register that an instruction can name, and changes no other: accesses that have a short way, and some
/// that have none.
fn any_register(check: &mut Check) {
    fresh();
    let mut seed = cpu::affinity() ^ 0x5EED;
    let sgi_frame = gic::redistributor() + 0x1_0000;
    let id: u64;
    // SAFETY: A read of an ID register.
    unsafe { core::arch::asm!("mrs {}, id_aa64pfr0_el1", out(reg) id, options(nomem, nostack)) };
    // Each has a list register of its own from now on, in which it can be shown again.
    for intid in [3, 4] {
        send_self(intid);
    }
    for intid in [3, 4] {
        check.eq("what is taken at first", take(), intid);
        gic::eoir1(intid);
    }
    for named in 0..32 {
        let mut gives = |what, table, x8, value: u64| {
            let [mut before, after] = Registers::around(&mut seed, table, named, x8, None);
            if named < 31 {
                before[named] = value;
            }
            check.eq(what, before == after, true);
        };
        for address in [GICD_BASE + 4, gic::redistributor() + 4, UART_BASE + 0xFE0, UART_BASE + 0x18] {
            gives("a load", &raw const loads_by_register, address, mmio::read32(address).into());
        }
        gives("an ID register", &raw const ids_by_register, 0, id);
        for address in [sgi_frame + 0x410, GICD_BASE + 0x420] {
            let [before, after] = Registers::around(&mut seed, &raw const stores_by_register, named, address, None);
            check.eq("a store changes no register", before == after, true);
            check.eq("what was stored", mmio::read32(address), before[named] as u32 & 0xF8F8_F8F8);
            mmio::write32(address, 0xA0A0_A0A0);
        }
        // By XZR it is for nobody.
        let (sgi, to_self) = (if named < 31 { 3 } else { SPURIOUS }, 1 << (cpu::affinity() & 0xF));
        let values = [3 << 24 | to_self, 4 << 24 | to_self];
        let [before, after] = Registers::around(&mut seed, &raw const sgis_by_register, named, 0, Some(values));
        check.eq("an SGI changes no register", before == after, true);
        check.eq("what is taken", if named < 31 { take() } else { gic::iar1() }, sgi);
        gic::eoir1(3);
    }
    fresh();
}

/// Reads of every word, writes of what was read, some bytes, half-words and doublewords: no fault.
fn every_offset_has_a_result(check: &mut Check) {
    fresh();
    let fault = fault::catch(|| {
        let own = gic::redistributor();
        for base in [GICD_BASE, own, own + 0x1_0000, GICR_BASE + GICR_STRIDE] {
            for offset in (0..0x1_0000).step_by(4) {
                let _value = mmio::read32(base + offset);
            }
        }
        // Reserved, or without state here; the rest of the frames is written by the tests above.
        for offset in (0x0080..0x0180)
            .step_by(4)
            .chain((0x0020..0x0080).step_by(4))
            .chain((0xC000..0xFFC0).step_by(4))
        {
            mmio::write32(GICD_BASE + offset, u32::MAX);
        }
        for offset in (0x0180..0x0400).step_by(4).chain((0x0C08..0xFFC0).step_by(0x40)) {
            let base = own + 0x1_0000;
            mmio::write32(base + offset, 0);
        }
        for offset in (0x6000..0x6400).step_by(8) {
            let _route = mmio::read64(GICD_BASE + offset);
            mmio::write64(GICD_BASE + offset, 0);
        }
        for offset in 0x0400..0x0480 {
            let _byte = mmio::read8(GICD_BASE + offset);
            mmio::write8(GICD_BASE + offset, 0xA0);
        }
        for offset in (0x0000..0x0100).step_by(2) {
            let _odd_sizes = (mmio::read16(GICD_BASE + offset), mmio::read16(own + offset));
            mmio::write16(GICD_BASE + 0x0080 + offset, 0xFFFF);
        }
    });
    check.eq("a fault", fault, None);
    fresh();
    send_self(1);
    check.eq("and the GIC still works", take(), 1);
    gic::eoir1(1);
}

/// With the host test `ready`: what the host wrote before the first run is there.
fn template(check: &mut Check) {
    check.eq("ICC_PMR_EL1 at the first instruction", gic::pmr(), 0xF0);
    check.eq("the host's view is the guest's", oem::ask(oem::COMPARE, gic::ctlr(), 0), 0);
}

static NARROW: AtomicU64 = AtomicU64::new(u64::MAX);

fn read_narrow(_: u64) {
    let (seen, pmr) = (gic::ctlr(), gic::pmr());
    let compared = oem::ask(oem::COMPARE, seen, 1);
    gic::set_ctlr(CTLR_EOIMODE);
    let again = oem::ask(oem::COMPARE, gic::ctlr(), 1);
    let kept = gic::ctlr() == seen | CTLR_EOIMODE && pmr == 0xE0;
    NARROW.store(
        if compared == 0 && again == 0 && kept { seen } else { u64::MAX - 1 },
        Ordering::Release,
    );
}

/// With the host test `ready`: vCPU 1's PRIbits are one less than vCPU 0's, and its priority mask is what the host made it while this VM
/// ran and it was off.
fn narrowed(check: &mut Check) {
    check.eq("CPU_ON", cpu::start(1, read_narrow, 0), psci::SUCCESS);
    check.that(
        cpu::wait_until(PATIENCE, || NARROW.load(Ordering::Acquire) != u64::MAX),
        "vCPU 1 reports",
    );
    check.eq(
        "its ICC_CTLR_EL1, equal to the host's view",
        NARROW.load(Ordering::Acquire),
        gic::ctlr() - 0x100,
    );
    check.that(cpu::wait_off(1, PATIENCE), "vCPU 1 goes off");
}

/// With a host that answers COMPARE: the two views are equal after every write.
fn compare(check: &mut Check) {
    fresh();
    for value in [0, 1, 2, 3, 0x40, u64::MAX] {
        gic::set_ctlr(value);
        check.eq(
            "the host's view is the guest's",
            oem::ask(oem::COMPARE, gic::ctlr(), cpu::index() as u64),
            0,
        );
    }
    gic::set_ctlr(0);
}
