//! The demo guest: four vCPUs, two of which beat while the others go off and on, race, and storm.
//!
//! vCPU 0 conducts. vCPUs 1 and 2 beat: their virtual timers tick, they look at the counter, and note the longest gap. vCPU 3 is switched on `cycles=` times in each mode, then `races=` times by three callers at once.
//! In the storm it writes PMR, BPR0, BPR1, CBPR and EOImode as functions of one counter and has each state published.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use guest::check::{self, Check};
use guest::oem::{self, phase};
use guest::stats::Samples;
use guest::{bootargs, cpu, gic, println, psci, timer};
use hyp_abi::layout::{VTIMER_INTID, affinity_of};
use hyp_abi::psci::CPU_ON_64;

guest::program!(main);

/// The vCPU that goes off and on.
const TARGET: usize = 3;
/// vCPUs that race for it: all the others.
const RACERS: usize = 3;
/// Seconds that one step may take before it is a failure. MTTCG on a busy machine is slow.
const PATIENCE: u64 = 10;
/// Microseconds between two looks of a vCPU that waits: a machine with fewer cores than vCPUs needs its cores.
const NAP: u64 = 50;
/// One cycle in this many has the target compare its view of `ICC_CTLR_EL1` with the host's.
const COMPARE_EVERY: u64 = 20;

static ON_TIMES: spin::mutex::SpinMutex<Samples<4096>, cpu::Relax> = spin::mutex::SpinMutex::new(Samples::new());

static MISMATCHES: AtomicU64 = AtomicU64::new(0);
static DEPARTURES: AtomicU64 = AtomicU64::new(0);

/// One beating vCPU.
struct Beat {
    count: AtomicU64,
    ticks: AtomicU64,
    gap_max: AtomicU64,
}

static BEATS: [Beat; RACERS] = [const {
    Beat {
        count: AtomicU64::new(0),
        ticks: AtomicU64::new(0),
        gap_max: AtomicU64::new(0),
    }
}; RACERS];

/// A race: its number when it is announced, how many have lined up, its number when it is on, how far apart the callers
/// start, each one's result, how many are back, its number when the target may go.
struct Race {
    announced: AtomicU64,
    lined_up: AtomicUsize,
    go: AtomicU64,
    delay: AtomicU64,
    results: [AtomicI64; RACERS],
    back: AtomicUsize,
    release: AtomicU64,
}

static RACE: Race = Race {
    announced: AtomicU64::new(0),
    lined_up: AtomicUsize::new(0),
    go: AtomicU64::new(0),
    delay: AtomicU64::new(0),
    results: [const { AtomicI64::new(0) }; RACERS],
    back: AtomicUsize::new(0),
    release: AtomicU64::new(0),
};

fn main() {
    let mut setup = Check::new("setup");
    setup.eq("vCPUs", cpu::count().min(4), 4);
    gic::set_handler(tick);
    gic::init_distributor();
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    for index in [1, 2] {
        setup.eq("CPU_ON of a beating vCPU", cpu::start(index, beat, 0), psci::SUCCESS);
        setup.that(
            cpu::nap_until(PATIENCE, NAP, || BEATS[index].count.load(Ordering::Relaxed) > 0),
            "a beating vCPU beats",
        );
    }
    if setup.passed() {
        one_mode("umbra", phase::UMBRA_BEGIN, phase::UMBRA_END);
        one_mode("contended", phase::CONTENDED_BEGIN, phase::CONTENDED_END);
        storm();
    }
    let _unanswered = oem::ask(oem::PHASE, phase::ALL_DONE, 0);
    check::done()
}

/// The cycles and the races, between the two calls that tell the host.
fn one_mode(name: &'static str, begin: u64, end: u64) {
    let mut check = Check::new(name);
    ON_TIMES.lock().clear();
    MISMATCHES.store(0, Ordering::Relaxed);
    // Without a host CPU_ON is not forwarded, and nobody sees ON_PENDING.
    let answered = oem::ask(oem::PHASE, begin, 0) == 0;
    for beat in &BEATS {
        beat.gap_max.store(0, Ordering::Relaxed);
    }
    let cycles = cycles(&mut check, begin == phase::UMBRA_BEGIN);
    let races = races(&mut check);
    let gap = BEATS.iter().map(|beat| beat.gap_max.load(Ordering::Relaxed)).max().unwrap_or(0);
    let _unanswered = oem::ask(oem::PHASE, end, 0);

    let on = ON_TIMES.lock().summary();
    let mismatches = MISMATCHES.load(Ordering::Relaxed);
    println!(
        "@guest phase={name} cycles={cycles} on_min={} on_med={} on_max={} gap_max={gap} mismatches={mismatches} \
         races={} race_success={} race_on_pending={} race_already_on={}",
        on.min, on.median, on.max, races.run, races.success, races.on_pending, races.already_on
    );
    check.eq("views of ICC_CTLR_EL1 that differ", mismatches, 0);
    if answered && races.run >= 20 {
        check.that(races.on_pending > 0, "a race showed ON_PENDING");
        check.that(races.already_on > 0, "a race showed ALREADY_ON");
    }
    check.finish();
}

/// CPU_ON of the target, its life, CPU_OFF, until it is off; as often as `cycles=` says.
fn cycles(check: &mut Check, compare: bool) -> u64 {
    let wanted = bootargs::number("cycles", 1000);
    for cycle in 0..wanted {
        let departures = DEPARTURES.load(Ordering::Acquire);
        let argument = cycle << 1 | u64::from(compare && cycle % COMPARE_EVERY == 0);
        let context = cpu::prepare(TARGET, live, argument);
        let called = timer::now();
        let code = psci::cpu_on(affinity_of(TARGET), cpu::Entry::Timed.address(), context);
        if code != psci::SUCCESS {
            check.fail(format_args!("cycle {cycle}: CPU_ON gave {code}"));
            return cycle;
        }
        if !cpu::nap_until(PATIENCE, NAP, || DEPARTURES.load(Ordering::Acquire) != departures) || !target_goes_off() {
            check.fail(format_args!("cycle {cycle}: the target did not come and go"));
            return cycle;
        }
        ON_TIMES.lock().add(cpu::started_at(TARGET).wrapping_sub(called));
    }
    wanted
}

/// One life of the target: its own writes to ICC_CTLR_EL1 read back, and sometimes the host has to agree.
fn live(argument: u64) {
    let (cycle, compare) = (argument >> 1, argument & 1 == 1);
    let fresh = gic::ctlr();
    let written = cycle & (gic::CTLR_CBPR | gic::CTLR_EOIMODE);
    gic::set_ctlr(written);
    gic::set_igrpen1(true);
    let seen = gic::ctlr();
    let mut wrong = fresh & 3 != 0 || seen != fresh | written;
    if compare {
        // Nobody to ask (-1) is not a mismatch.
        wrong |= oem::ask(oem::COMPARE, seen, TARGET as u64) > 0;
        gic::set_ctlr(written ^ 3);
        wrong |= oem::ask(oem::COMPARE, gic::ctlr(), TARGET as u64) > 0;
    }
    MISMATCHES.fetch_add(u64::from(wrong), Ordering::Relaxed);
    DEPARTURES.fetch_add(1, Ordering::Release);
}

fn target_goes_off() -> bool {
    cpu::nap_until(PATIENCE, NAP, || psci::affinity_info(affinity_of(TARGET)) == 1)
}

#[derive(Default)]
struct Races {
    run: u64,
    success: u64,
    on_pending: u64,
    already_on: u64,
}

/// Three vCPUs call CPU_ON of the target at once: exactly one SUCCESS each time, and the others see why not.
fn races(check: &mut Check) -> Races {
    let mut races = Races::default();
    // Numbers go on where the other mode's races ended.
    let phase_races = RACE.go.load(Ordering::Relaxed);
    for number in 1..=bootargs::number("races", 50) {
        // Not always a dead heat: the later ones come while the verdict is outstanding, or after it.
        RACE.delay
            .store(timer::micros(if number % 4 == 3 { 3000 } else { number % 4 }), Ordering::Relaxed);
        RACE.back.store(0, Ordering::Relaxed);
        let context = cpu::prepare(TARGET, stay, number);
        RACE.release.store(0, Ordering::Relaxed);
        CONTEXT.store(context, Ordering::Relaxed);
        RACE.lined_up.store(0, Ordering::Relaxed);
        RACE.announced.store(number + phase_races, Ordering::Release);
        if !cpu::nap_until(PATIENCE, NAP, || RACE.lined_up.load(Ordering::Acquire) == RACERS - 1) {
            check.fail(format_args!("race {number}: not every caller lined up"));
            return races;
        }
        RACE.go.store(number + phase_races, Ordering::Release);
        run_race(0);
        if !cpu::nap_until(PATIENCE, NAP, || RACE.back.load(Ordering::Acquire) == RACERS) {
            check.fail(format_args!("race {number}: not every caller came back"));
            return races;
        }
        let codes: [i64; RACERS] = core::array::from_fn(|racer| RACE.results[racer].load(Ordering::Relaxed));
        let count = |code: i64| codes.iter().filter(|&&found| found == code).count() as u64;
        let departures = DEPARTURES.load(Ordering::Acquire);
        RACE.release.store(number, Ordering::Release);
        races.run += 1;
        races.success += count(psci::SUCCESS);
        races.on_pending += count(psci::ON_PENDING);
        races.already_on += count(psci::ALREADY_ON);
        if count(psci::SUCCESS) != 1 || count(psci::ON_PENDING) + count(psci::ALREADY_ON) != RACERS as u64 - 1 {
            check.fail(format_args!("race {number}: {codes:?}"));
            return races;
        }
        if !cpu::nap_until(PATIENCE, NAP, || DEPARTURES.load(Ordering::Acquire) != departures) || !target_goes_off() {
            check.fail(format_args!("race {number}: the target did not come and go"));
            return races;
        }
    }
    races
}

static CONTEXT: AtomicU64 = AtomicU64::new(0);

/// What each racer does: its delay, the call, the result.
fn run_race(racer: usize) {
    timer::delay(RACE.delay.load(Ordering::Relaxed) * racer as u64);
    let code = psci::cpu_on(affinity_of(TARGET), cpu::Entry::Timed.address(), CONTEXT.load(Ordering::Relaxed));
    RACE.results[racer].store(code, Ordering::Relaxed);
    RACE.back.fetch_add(1, Ordering::Release);
}

/// The raced-for target stays on until every racer has its result.
fn stay(number: u64) {
    let _gives_up = cpu::wait_until(PATIENCE, || RACE.release.load(Ordering::Acquire) == number);
    DEPARTURES.fetch_add(1, Ordering::Release);
}

/// vCPUs 1 and 2: watch the clock, join the races. Each beat is a tick of the virtual timer, and then a while of looking
/// at the counter. A gap is how late the tick came, or what lies between two looks.
fn beat(_: u64) {
    let index = cpu::index();
    let beat = &BEATS[index];
    gic::init_cpu();
    gic::enable(VTIMER_INTID);
    cpu::unmask();
    let mut raced = RACE.announced.load(Ordering::Acquire);
    loop {
        let ticks = beat.ticks.load(Ordering::Relaxed);
        let due = timer::now() + timer::micros(TICK);
        timer::arm(timer::micros(TICK));
        while beat.ticks.load(Ordering::Relaxed) == ticks {
            cpu::masked(|| {
                // Masked, so that the tick cannot come between the look and the wait, which it ends all the same.
                if beat.ticks.load(Ordering::Relaxed) == ticks && !timer::fired() {
                    cpu::wfi();
                }
            });
        }
        let mut last = due;
        let awake = timer::now() + timer::micros(AWAKE);
        loop {
            let now = timer::now();
            beat.gap_max.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
            last = now;
            if now >= awake {
                break;
            }
            cpu::relax();
        }
        beat.count.fetch_add(1, Ordering::Relaxed);
        let race = RACE.announced.load(Ordering::Acquire);
        if race != raced {
            raced = race;
            RACE.lined_up.fetch_add(1, Ordering::Release);
            if cpu::wait_until(PATIENCE, || RACE.go.load(Ordering::Acquire) == race) {
                run_race(index);
            }
        }
    }
}

/// Microseconds from a beat to the next tick of its timer.
const TICK: u64 = 200;
/// Microseconds of each beat that are spent looking at the counter.
const AWAKE: u64 = 20;

fn tick(intid: u32) {
    if intid == VTIMER_INTID {
        timer::disarm();
        BEATS[cpu::index().min(RACERS - 1)].ticks.fetch_add(1, Ordering::Relaxed);
    }
}

/// The target writes its CPU interface as fast as it can while the host reads its record.
fn storm() {
    let mut check = Check::new("storm");
    let _unanswered = oem::ask(oem::PHASE, phase::STORM_BEGIN, TARGET as u64);
    let departures = DEPARTURES.load(Ordering::Acquire);
    check.eq("CPU_ON of the storming vCPU", cpu::start(TARGET, blow, 0), psci::SUCCESS);
    let over = cpu::nap_until(6 * PATIENCE, NAP, || DEPARTURES.load(Ordering::Acquire) != departures) && target_goes_off();
    check.that(over, "the storm ends");
    let _unanswered = oem::ask(oem::PHASE, phase::STORM_END, 0);
    let ticks: u64 = BEATS.iter().map(|beat| beat.ticks.load(Ordering::Relaxed)).sum();
    check.that(ticks > 0, "the beating vCPUs' timers ticked");
    println!("@guest phase=storm states={} ticks={ticks}", STATES.load(Ordering::Relaxed));
    check.finish();
}

static STATES: AtomicU64 = AtomicU64::new(0);

fn blow(_: u64) {
    gic::set_igrpen1(true);
    let mut counter = 0;
    loop {
        for _ in 0..oem::STORM_ROUND {
            enter_state(counter);
            counter += 1;
            // An ordinary exit: it publishes what it finds.
            let _features = psci::features(CPU_ON_64);
        }
        STATES.store(counter, Ordering::Relaxed);
        // 1 is the host's word that it has seen enough; anything but 0 means that there is no host.
        if oem::ask(oem::STORM_POLL, counter, 0) != 0 {
            break;
        }
    }
    DEPARTURES.fetch_add(1, Ordering::Release);
}

/// Group 0 is on while the state is between two counters; a record of that moment is no record of a mix.
fn enter_state(counter: u64) {
    let state = oem::StormState::of(counter);
    gic::set_igrpen0(true);
    gic::set_ctlr(0);
    gic::set_bpr1(state.bpr1);
    gic::set_bpr0(state.bpr0);
    gic::set_pmr(state.pmr);
    gic::set_ctlr(u64::from(state.ctlr));
    gic::set_igrpen0(false);
}
