//! The run as a whole: which VMs have ended, and what follows when all have.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hyp_abi::call::Counter;
use hyp_core::{
    put, text,
    text::{Sink, Text},
};

use crate::{
    arch::{barrier, gic, timer},
    console, power,
    vm::{self, Vm},
};

/// How long the host partition has, after the last guest ended, to print what it knows and turn itself off.
const HOST_GRACE_MS: u64 = 2000;

static GUESTS: AtomicU32 = AtomicU32::new(0);
static OFF: AtomicU32 = AtomicU32::new(0);
static CRASHED: AtomicU32 = AtomicU32::new(0);
static REFUSED: AtomicU32 = AtomicU32::new(0);
static HAS_HOST: AtomicBool = AtomicBool::new(false);
/// What kicks the host partition's pCPU; 0 without one.
static HOST_KICK: AtomicU64 = AtomicU64::new(0);
static HOST_ENDED: AtomicBool = AtomicBool::new(false);
static FINISHING: AtomicBool = AtomicBool::new(false);
/// When the grace ends, once no guest is left.
static GRACE: AtomicU64 = AtomicU64::new(0);

/// A VM description was refused.
pub(crate) fn refused() {
    // The boot CPU alone, and its MMU may be off: no exclusives.
    REFUSED.store(REFUSED.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// A VM that was counted by [`built`] is refused after all.
pub(crate) fn never_built(vm: usize) {
    if vm == 0 {
        HAS_HOST.store(false, Ordering::Relaxed);
    } else {
        one_guest_less();
    }
}

/// The host's grace begins anew with each guest's end, before that counts: who finds that none is left finds the last one's, also when
/// some had been started anew meanwhile.
fn one_guest_less() {
    begin_grace();
    GUESTS.fetch_sub(1, Ordering::AcqRel);
}

fn begin_grace() {
    GRACE.store(timer::now() + timer::ticks(HOST_GRACE_MS), Ordering::Relaxed);
}

/// So many guests were built, and this host partition.
pub(crate) fn built(guests: usize, host: Option<&Vm>) {
    if guests == 0 {
        begin_grace();
    }
    GUESTS.store(guests as u32, Ordering::Relaxed);
    HAS_HOST.store(host.is_some(), Ordering::Relaxed);
    if let Some(vcpu) = host.and_then(|host| host.vcpus.first()) {
        HOST_KICK.store(vcpu.kick_sgi(), Ordering::Relaxed);
    }
}

/// A VM has ended: no vCPU of it runs.
pub(crate) fn ended(vm: usize, crashed: bool) {
    if vm == 0 {
        HOST_ENDED.store(true, Ordering::Release);
        if crashed {
            CRASHED.fetch_add(1, Ordering::AcqRel);
        }
        // Nobody is left to start them, and their calls have deadlines.
        vm::start_guests();
    } else {
        let ends = if crashed { &CRASHED } else { &OFF };
        ends.fetch_add(1, Ordering::AcqRel);
        one_guest_less();
    }
    wake_host();
}

/// A VM that had ended is started anew.
pub(crate) fn revived(vm: usize, crashed: bool) {
    if vm == 0 {
        HOST_ENDED.store(false, Ordering::Release);
    } else {
        GUESTS.fetch_add(1, Ordering::AcqRel);
    }
    if crashed {
        CRASHED.fetch_sub(1, Ordering::AcqRel);
    } else if vm != 0 {
        OFF.fetch_sub(1, Ordering::AcqRel);
    }
}

fn guests_ended() -> bool {
    GUESTS.load(Ordering::Acquire) == 0
}

/// Has the host partition look for exits: its first vCPU, which alone waits for them.
#[inline]
pub(crate) fn wake_host() {
    let sgi = HOST_KICK.load(Ordering::Relaxed);
    if sgi != 0 {
        gic::send_kick(sgi);
    }
}

/// For a pCPU with nothing to run: ends the run if it is over. When only the host partition's grace is left to wait for,
/// returns when to come back.
pub(crate) fn finish_if_over() -> Option<u64> {
    if !guests_ended() {
        return None;
    }
    let host_done = !HAS_HOST.load(Ordering::Relaxed) || HOST_ENDED.load(Ordering::Acquire);
    let grace = GRACE.load(Ordering::Relaxed);
    if !host_done && timer::now() < grace {
        return Some(grace);
    }
    if finishing() { None } else { report() }
}

/// Whether the run is being ended already; it is from now on. One verdict is given, whoever ends the run meanwhile.
#[inline(never)]
fn finishing() -> bool {
    FINISHING.swap(true, Ordering::AcqRel)
}

/// Somebody ends the run from the monitor.
pub(crate) fn quit() {
    if !finishing() {
        power::end_of_run(0, text!("quit=1"))
    }
}

/// The records of the whole run, the verdict, the end.
fn report() -> ! {
    for vm in vm::all() {
        counts(vm);
    }
    let (off, crashed, refused) = (
        OFF.load(Ordering::Acquire),
        CRASHED.load(Ordering::Acquire),
        REFUSED.load(Ordering::Relaxed),
    );
    let status = u32::from(crashed + refused > 0);
    power::end_of_run(
        status,
        text!(
            "vms={} off={} crashed={} refused={}",
            off + crashed + refused,
            off,
            crashed,
            refused
        ),
    )
}

/// What every counter is at.
pub(crate) type Counts = [u64; Counter::ALL.len()];

/// Prints every vCPU's counters.
fn counts(vm: &Vm) {
    for vcpu in vm.vcpus {
        print_counts(
            text!("@umbra count vm={} vcpu={}", vm.id, vcpu.index),
            &Counter::ALL.map(|counter| vcpu.counter(counter)),
        );
    }
}

/// Prints a record of a VM's counters, summed over its vCPUs.
pub(crate) fn mark(vm: &Vm, label: u64) {
    let what = text!("@umbra mark vm={} label={} time={}", vm.id, label, timer::now());
    print_counts(what, &Counter::ALL.map(|counter| vm.sum(counter)));
}

fn print_counts(what: Text<'_>, counts: &Counts) {
    console::page(|out| {
        what.put(out);
        put_counts(out, true, counts);
        out.byte(b'\n');
    });
}

/// Writes each counter's name and value, those that are 0 only with `zeroes`.
#[inline(never)]
pub(crate) fn put_counts(out: &mut dyn Sink, zeroes: bool, counts: &Counts) {
    for (counter, value) in Counter::ALL.iter().zip(counts) {
        if zeroes || *value != 0 {
            put!(out, " {}={}", counter.name(), *value);
        }
    }
}

/// There is nothing to run at all.
pub(crate) fn idle_forever() -> ! {
    loop {
        barrier::wfi();
    }
}
