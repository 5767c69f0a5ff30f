//! What concerns several vCPUs: SGIs from one to another, power states, forwarded calls, turns on a shared pCPU.
//!
//! One thread runs all CPUs on one clock, so a figure is what all of them execute. Who waits, waits in WFI, or gives its
//! turn away with YIELD. What a target executes at EL1 after the moment that counts, and before the sender goes on, is
//! taken off: each target says when it began and when it was about to wait again.

use crate::clock::{Vectors, marked, marked_if, measure, pair};
use crate::one::drain;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::{bootargs, cpu, gic, oem, psci, timer};
use hyp_abi::layout::{MAX_VCPUS, affinity_of};
use hyp_abi::psci::{AFFINITY_INFO_64, CPU_OFF, CPU_ON_64};

/// What a target says, and is told. A vCPU whose caches are off writes it too.
#[repr(C, align(256))]
struct Slot {
    /// When the first instruction of the handler, or after `CPU_ON`, ran.
    came: AtomicU64,
    /// When it was about to wait again.
    done: AtomicU64,
    /// Not 0: leave.
    leave: AtomicU64,
    /// When it called `CPU_OFF`.
    left: AtomicU64,
}

static SLOTS: [Slot; MAX_VCPUS] = [const {
    Slot {
        came: AtomicU64::new(0),
        done: AtomicU64::new(0),
        leave: AtomicU64::new(0),
        left: AtomicU64::new(0),
    }
}; MAX_VCPUS];

impl Slot {
    fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    /// Cleans and invalidates it.
    fn clean(&self) {
        for line in (self.address()..self.address() + size_of::<Self>() as u64).step_by(16) {
            // SAFETY: Maintenance by address of a live static of atomics.
            unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
        // SAFETY: Completes it.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
    }

    fn forget(&self) {
        for cell in [&self.came, &self.done, &self.leave, &self.left] {
            cell.store(0, Ordering::Relaxed);
        }
        self.clean();
    }
}

/// How many vCPUs are where they wait.
static READY: AtomicU64 = AtomicU64::new(0);
/// Instructions of a target between saying `done` and giving its turn away.
const TAIL: u64 = 6;
/// Ticks that a sender gives its targets; one that waits for the host gives more.
const PATIENCE: u64 = 8_000;
const PATIENCE_WITH_THE_HOST: u64 = 24_000;
/// Seconds that a step may take before it is given up.
const SECONDS: u64 = 10;
/// The SGI that is sent.
const SGI: u32 = 2;

/// Starts vCPUs 1 to `count` with `body` and waits until they wait.
fn start(count: usize, body: fn(u64)) {
    READY.store(0, Ordering::Relaxed);
    for (index, slot) in SLOTS.iter().enumerate().take(count + 1).skip(1) {
        slot.forget();
        if cpu::start(index, body, 0) != psci::SUCCESS {
            guest::println!("FAIL bench: vCPU {index} does not start");
            guest::check::abandon();
        }
        wait(|| READY.load(Ordering::Acquire) == index as u64);
    }
}

/// Waits for something that must come.
fn wait(condition: impl FnMut() -> bool) {
    if !cpu::wait_until(SECONDS, condition) {
        guest::println!("FAIL bench: a vCPU does not do what it should");
        guest::check::abandon();
    }
}

/// Sends everyone home.
fn stop(count: usize) {
    for slot in &SLOTS[1..=count] {
        slot.leave.store(1, Ordering::Release);
    }
    for index in 1..=count {
        gic::send_sgi(affinity_of(index), SGI);
        wait(|| psci::affinity_info(affinity_of(index)) == 1);
    }
}

/// A target that sleeps with interrupts masked, as an idle loop does, and lets them in when it wakes.
fn sleeper(_: u64) {
    gic::init_cpu();
    let slot = &SLOTS[cpu::index()];
    READY.fetch_add(1, Ordering::Release);
    Vectors::Sgi.with(|| {
        // SAFETY: The vectors of the bench change x9 to x11. The slot is this vCPU's to write.
        unsafe {
            asm!("2:", "mov x9, xzr", "dsb sy", "wfi", "msr daifclr, #2", "isb", "msr daifset, #2", "cbz x9, 2b",
                "str x9, [{slot}]", "mrs x9, cntvct_el0", "str x9, [{slot}, #8]", "ldr x9, [{slot}, #16]", "cbz x9, 2b",
                slot = in(reg) slot.address(), out("x9") _, out("x10") _, out("x11") _, options(nostack));
        }
    });
}

/// A target that runs: it does nothing but give its turn away.
fn runner(_: u64) {
    gic::init_cpu();
    let slot = &SLOTS[cpu::index()];
    READY.fetch_add(1, Ordering::Release);
    Vectors::Sgi.with(|| {
        // SAFETY: As in `sleeper`.
        unsafe {
            asm!("2:", "mov x9, xzr", "msr daifclr, #2", "3: yield", "cbz x9, 3b", "msr daifset, #2",
                "str x9, [{slot}]", "mrs x9, cntvct_el0", "str x9, [{slot}, #8]", "ldr x9, [{slot}, #16]", "cbz x9, 2b",
                slot = in(reg) slot.address(), out("x9") _, out("x10") _, out("x11") _, options(nostack));
        }
    });
}

/// A vCPU that is on and out of the way, until the VM ends.
fn parked(_: u64) {
    READY.fetch_add(1, Ordering::Release);
    loop {
        cpu::wfi();
    }
}

/// Has vCPUs 1 to `count` on, asleep for good.
pub(crate) fn park(count: usize) {
    start(count, parked);
}

/// The timer rings when a sender's targets are long done: it can sleep until then.
fn set_alarm(ticks: u64) {
    timer::arm(ticks);
}

/// Sleeps until the alarm.
fn await_alarm() {
    while !timer::fired() {
        cpu::wfi();
    }
    timer::disarm();
    drain();
}

/// What it cost until the last of `targets` came and the sender was back, without what targets did at EL1 since.
fn total(before: u64, back: u64, targets: &[Slot]) -> u64 {
    let came = |slot: &Slot| slot.came.load(Ordering::Relaxed);
    let last = targets.iter().map(came).max().unwrap_or(0).max(back);
    let own: u64 = targets
        .iter()
        .filter(|slot| came(slot) < last)
        .map(|slot| slot.done.load(Ordering::Relaxed).wrapping_sub(came(slot)) + TAIL)
        .sum();
    last.wrapping_sub(before).saturating_sub(own + pair())
}

/// One SGI by `value` to `targets`.
fn send(value: u64, targets: &[Slot]) -> u64 {
    for slot in targets {
        slot.came.store(0, Ordering::Relaxed);
    }
    set_alarm(PATIENCE);
    let [before, back] = marked(|| {
        let (before, back): (u64, u64);
        // SAFETY: The write reaches other vCPUs only; then this one sleeps.
        unsafe {
            asm!("isb", "mrs {before}, cntvct_el0", "isb", "msr S3_0_C12_C11_5, {value}", "isb", "mrs {back}, cntvct_el0", "wfi",
                before = out(reg) before, back = out(reg) back, value = in(reg) value, options(nostack));
        }
        [before, back]
    });
    await_alarm();
    wait(|| targets.iter().all(|slot| slot.came.load(Ordering::Relaxed) != 0));
    total(before, back, targets)
}

/// SGIs to others.
pub(crate) fn sgis(wants: &dyn Fn(&str) -> bool) {
    let to_one = gic::sgi_list(affinity_of(1), 2, SGI);
    if wants("sgi-running") {
        start(1, runner);
        measure("sgi-running", || send(to_one, &SLOTS[1..=1]));
        stop(1);
    }
    if wants("sgi-wfi") {
        start(1, sleeper);
        measure("sgi-wfi", || send(to_one, &SLOTS[1..=1]));
        stop(1);
    }
    if wants("sgi-all") {
        start(3, sleeper);
        measure("sgi-all", || send(gic::sgi_others(SGI), &SLOTS[1..=3]));
        stop(3);
    }
}

unsafe extern "C" {
    /// Takes the time with its first instruction, waits until it is told to leave, goes off.
    fn bench_visitor();
}

core::arch::global_asm!(
    ".section .text.bench_visitor, \"ax\"",
    ".global bench_visitor",
    "bench_visitor:",
    "mrs x1, cntvct_el0",
    "str x1, [x0]",
    "str x1, [x0, #8]",
    "2: yield",
    "ldr x1, [x0, #16]",
    "cbz x1, 2b",
    "ldr x2, ={off}",
    "isb",
    "mrs x1, cntvct_el0",
    "str x1, [x0, #24]",
    "mov x0, x2",
    "hvc #0",
    "3: wfe",
    "b 3b",
    ".ltorg",
    off = const CPU_OFF,
);

/// `CPU_ON` of vCPU 1 to its first instruction, and the caller's return; the alarm rings after `patience` ticks. `mark`
/// says whether it is what a trace is to show.
fn on(patience: u64, mark: bool) -> u64 {
    let slot = &SLOTS[1];
    slot.forget();
    set_alarm(patience);
    let [before, back, code] = marked_if(mark, || {
        let (before, back, code): (u64, u64, u64);
        // SAFETY: SMCCC lets the callee change x0 to x17. The entry writes to its slot only.
        unsafe {
            asm!("isb", "mrs {before}, cntvct_el0", "isb", "hvc #0", "isb", "mrs {back}, cntvct_el0", "wfi",
                before = out(reg) before, back = out(reg) back,
                inout("x0") u64::from(CPU_ON_64) => code, inout("x1") affinity_of(1) => _,
                inout("x2") bench_visitor as *const () as u64 => _, inout("x3") slot.address() => _,
                lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _,
                lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _,
                lateout("x17") _, options(nostack));
        }
        [before, back, code]
    });
    await_alarm();
    slot.clean();
    if code != 0 || slot.came.load(Ordering::Relaxed) == 0 {
        guest::println!("FAIL bench: CPU_ON gave {code:#x}");
        guest::check::abandon();
    }
    total(before, back, &SLOTS[1..=1])
}

/// `CPU_OFF` of vCPU 1, from its call until `AFFINITY_INFO` says that it is off.
fn off(mark: bool) -> u64 {
    let slot = &SLOTS[1];
    slot.leave.store(1, Ordering::Relaxed);
    slot.clean();
    let after = marked_if(mark, || {
        let after: u64;
        // SAFETY: SMCCC lets the callee change x0 to x17; the slot is read only.
        unsafe {
            asm!("2: yield", "dc civac, {slot}", "ldr x0, [{slot}, #24]", "cbz x0, 2b",
                "3: mov x0, {function}", "mov x1, {target}", "mov x2, xzr", "hvc #0", "cmp x0, #1", "b.ne 3b",
                "isb", "mrs {after}, cntvct_el0",
                slot = in(reg) slot.address(), function = in(reg) u64::from(AFFINITY_INFO_64), target = in(reg) affinity_of(1),
                after = out(reg) after, out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _,
                out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                out("x15") _, out("x16") _, out("x17") _, options(nostack));
        }
        after
    });
    slot.clean();
    after.wrapping_sub(slot.left.load(Ordering::Relaxed)).wrapping_sub(pair())
}

/// `CPU_ON` by the name `on_name`, and `CPU_OFF`.
pub(crate) fn power(wants: &dyn Fn(&str) -> bool, on_name: &str, off_name: &str) {
    let patience = if off_name.is_empty() { PATIENCE_WITH_THE_HOST } else { PATIENCE };
    if wants(on_name) {
        measure(on_name, || {
            let ticks = on(patience, true);
            let _ = off(false);
            ticks
        });
    }
    if !off_name.is_empty() && wants(off_name) {
        measure(off_name, || {
            let _ = on(patience, false);
            off(true)
        });
    }
}

/// A call that the host answers, to its verdict.
pub(crate) fn forwarded(wants: &dyn Fn(&str) -> bool) {
    if wants("forwarded-call") {
        measure("forwarded-call", || {
            marked(|| crate::calls::one(hyp_abi::smccc::Conduit::Hvc, oem::STEP, 0)).wrapping_sub(pair())
        });
    }
}

/// The host's reads while 1, 2, 4 and 8 vCPUs run, or as many as `running=` says; the host says what it finds.
pub(crate) fn reads() {
    for running in [1, 2, 4, 8] {
        if ![0, running as u64].contains(&bootargs::number("running", 0)) {
            continue;
        }
        start(running, runner);
        if oem::ask(oem::STEP, running as u64, 0) != 0 {
            guest::println!("FAIL bench: the host does not read");
            guest::check::abandon();
        }
        stop(running);
    }
}

/// The other vCPU on a shared pCPU: it runs for as long as the VM does, and takes the time whenever its slot is empty.
fn partner(_: u64) {
    READY.fetch_add(1, Ordering::Release);
    // SAFETY: Reads a counter, and writes to its own slot only.
    unsafe {
        asm!("2: ldr x10, [{slot}]", "cbnz x10, 2b", "mrs x9, cntvct_el0", "str x9, [{slot}]", "bl bench_end", "b 2b",
            slot = in(reg) SLOTS[cpu::index()].address(), out("x9") _, out("x10") _, out("x30") _, options(nostack));
    }
}

/// From one vCPU's WFI to the other one's next instructions, on one pCPU; up to three of them are not the switch's.
pub(crate) fn switch(wants: &dyn Fn(&str) -> bool) {
    if !wants("vcpu-switch") {
        return;
    }
    start(1, partner);
    let slot = &SLOTS[1];
    measure("vcpu-switch", || {
        set_alarm(PATIENCE);
        let before = marked(|| {
            let before: u64;
            // SAFETY: Empties the slot, reads a counter, and sleeps until the alarm.
            unsafe {
                asm!("str xzr, [{slot}]", "isb", "mrs {before}, cntvct_el0", "wfi",
                    slot = in(reg) slot.address(), before = out(reg) before, options(nostack));
            }
            before
        });
        await_alarm();
        wait(|| slot.came.load(Ordering::Relaxed) != 0);
        slot.came.load(Ordering::Relaxed).wrapping_sub(before).wrapping_sub(1)
    });
}
