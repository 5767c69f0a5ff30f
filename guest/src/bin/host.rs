//! The host partition's program: the VMM of the demo, and of every VM that forwards calls and brings no host of its own.
//!
//! It answers each forwarded `CPU_ON` as a VMM does: it reads the target's `ICC_CTLR_EL1`, as a `cpu_reset` would, and
//! allows the call. In umbra mode it reads the template, the word, the record and the exact value, and takes the time of
//! each. In contended mode it goes KVM's way: try, and when a vCPU's lock is held stop the VM, try again, let it go on.
//! The guest says with [`oem::PHASE`] which mode it wants.
#![no_std]
#![no_main]

use guest::check::{self, Check};
use guest::host::{self, Answer, Exit};
use guest::oem::{self, phase};
use guest::stats::Samples;
use guest::{cpu, println, timer};
use hyp_abi::attr::{ICC_CTLR, cpu_sysreg};
use hyp_abi::errno::Errno;
use hyp_abi::layout::MAX_VCPUS;
use hyp_abi::psci::{CPU_ON_32, CPU_ON_64};
use hyp_abi::shadow::{Record, ShadowSlot, Word};

guest::program!(main);

/// How long an exact read may take, in microseconds. Under MTTCG the target's CPU may itself wait for a core.
const EXACT_DEADLINE: u64 = 2_000_000;
/// Attempts at a record before the host gives up on it.
const ATTEMPTS: u32 = 10_000;
/// Samples kept of each kind of read.
const KEPT: usize = 4096;
/// What the storm is to reach.
const PUBLICATIONS: u64 = 10_000;
/// Seconds after which the storm ends anyway.
const STORM_SECONDS: u64 = 20;

static VMM: spin::mutex::SpinMutex<Vmm, cpu::Relax> = spin::mutex::SpinMutex::new(Vmm::new());

fn main() {
    check::is_host();
    let mut vmm = VMM.lock();
    while let Some(exit) = host::next_exit() {
        if exit.wants_answer() {
            let answer = vmm.decide(&exit);
            // ENXIO means that the deadline was faster; hyp counts it.
            let _late = host::complete_exit(exit.cookie, answer);
            vmm.watch_storm(&exit);
        }
    }
    if !vmm.phased {
        // A guest that knows nothing of phases: the whole run is one.
        vmm.print_reads("run");
    }
    let mut served = Check::new("served");
    served.eq("reads gone wrong outside of any phase", vmm.tally.mismatches, 0);
    served.finish();
    check::done()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Umbra,
    Contended,
    Storm,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Umbra => "umbra",
            Self::Contended => "contended",
            Self::Storm => "storm",
        }
    }
}

/// What the host counts between the two marks of a phase. The call that begins it is not in `calls`, the one that ends
/// it is: so `calls` is the difference of hyp's `forwards` between the marks.
struct Tally {
    calls: u64,
    allowed: u64,
    ebusy: u64,
    stops: u64,
    retries: u64,
    late: u64,
    mismatches: u64,
    template: Samples<KEPT>,
    word: Samples<KEPT>,
    record: Samples<KEPT>,
    exact: Samples<KEPT>,
}

impl Tally {
    const fn new() -> Self {
        Self {
            calls: 0,
            allowed: 0,
            ebusy: 0,
            stops: 0,
            retries: 0,
            late: 0,
            mismatches: 0,
            template: Samples::new(),
            word: Samples::new(),
            record: Samples::new(),
            exact: Samples::new(),
        }
    }

    fn clear(&mut self) {
        (self.calls, self.allowed, self.ebusy, self.stops) = (0, 0, 0, 0);
        (self.retries, self.late, self.mismatches) = (0, 0, 0);
        for samples in [&mut self.template, &mut self.word, &mut self.record, &mut self.exact] {
            samples.clear();
        }
    }
}

/// A vCPU that publishes at full speed, and what was seen of it.
struct Storm {
    vcpu: usize,
    first: Option<u64>,
    last: u64,
    reads: u64,
    torn: u64,
    ends: u64,
}

impl Storm {
    const fn published(&self) -> u64 {
        match self.first {
            Some(first) => self.last.wrapping_sub(first),
            None => 0,
        }
    }

    fn is_over(&self) -> bool {
        self.published() >= PUBLICATIONS || timer::now() >= self.ends
    }

    /// Reads until the vCPU has published about as often as it does between two polls, or stands still.
    fn watch(&mut self, slot: &ShadowSlot, retries: &mut u64) {
        let mut begin = None;
        let mut still_since = timer::now();
        loop {
            self.reads += 1;
            let Some(record) = slot.read(retries, ATTEMPTS) else { return };
            self.torn += u64::from(is_torn(&record));
            let generation = record.generation();
            if generation != self.last {
                still_since = timer::now();
            }
            self.last = generation;
            self.first.get_or_insert(generation);
            let advanced = generation.wrapping_sub(*begin.get_or_insert(generation));
            if advanced >= oem::STORM_ROUND - 6 || timer::now() - still_since > timer::micros(20_000) {
                return;
            }
            cpu::relax();
        }
    }
}

/// Whether a record mixes two of the states that the storming vCPU ran through: every field must be the one in
/// `ICH_VMCR_EL2`, and, unless group 0 is on (the vCPU's mark for "between two states"), a function of one counter.
fn is_torn(record: &Record) -> bool {
    let vmcr = record.vmcr();
    let field = |low: u32, mask: u64| vmcr >> low & mask;
    let (cbpr, eoimode, bpr1, bpr0, pmr) = (field(4, 1), field(9, 1), field(18, 7), field(21, 7), field(24, 0xFF));
    let guest_bpr1 = if cbpr == 1 { (bpr0 + 1).min(7) } else { bpr1 };
    let found = [
        record.ctlr() & 3,
        record.pmr(),
        record.bpr0(),
        record.bpr1(),
        record.igrpen0(),
        record.igrpen1(),
    ];
    if found != [cbpr | eoimode << 1, pmr, bpr0, guest_bpr1, field(0, 1), field(1, 1)] {
        return true;
    }
    let state = oem::StormState::of(pmr >> 3);
    field(0, 1) == 0 && [state.pmr, state.bpr0, state.bpr1, state.ctlr].map(u64::from) != [pmr, bpr0, bpr1, cbpr | eoimode << 1]
}

struct Vmm {
    mode: Mode,
    tally: Tally,
    storm: Storm,
    /// A guest asked for a phase.
    phased: bool,
}

impl Vmm {
    const fn new() -> Self {
        Self {
            mode: Mode::Umbra,
            tally: Tally::new(),
            storm: Storm {
                vcpu: 0,
                first: None,
                last: 0,
                reads: 0,
                torn: 0,
                ends: 0,
            },
            phased: false,
        }
    }

    fn decide(&mut self, exit: &Exit) -> Answer {
        self.tally.calls += 1;
        match exit.function() {
            CPU_ON_32 | CPU_ON_64 => self.cpu_on(exit),
            oem::PHASE => self.phase(exit),
            oem::COMPARE => self.compare(exit),
            oem::STORM_POLL => Answer::value(u64::from(self.storm.is_over())),
            function if function & 0xFFFF_FF00 == oem::BASE => Answer::value(hyp_abi::smccc::NOT_SUPPORTED),
            _ => Answer::ALLOW,
        }
    }

    /// What a VMM's `cpu_reset` of the target reads, in the way of the mode.
    fn cpu_on(&mut self, exit: &Exit) -> Answer {
        let affinity = if exit.function() == CPU_ON_32 {
            exit.x[1] & 0xFFFF_FFFF
        } else {
            exit.x[1]
        };
        if let Some(slot) = slot(exit.vm, (affinity & 0xFF) as usize) {
            match self.mode {
                Mode::Contended => self.read_as_kvm_does(exit.vm, affinity, slot),
                Mode::Umbra | Mode::Storm => self.read_every_kind(exit.vm, affinity, slot),
            }
        } else {
            self.tally.mismatches += 1;
        }
        self.tally.allowed += 1;
        Answer::ALLOW
    }

    fn read_every_kind(&mut self, vm: u16, affinity: u64, slot: &ShadowSlot) {
        let tally = &mut self.tally;
        let template = timed(&mut tally.template, || slot.template());
        let before = timed(&mut tally.word, || slot.word());
        let mut retries = 0;
        let record = timed(&mut tally.record, || slot.read(&mut retries, ATTEMPTS));
        tally.retries += retries;
        let exact = timed(&mut tally.exact, || {
            host::exact_read(u64::from(vm), cpu_sysreg(affinity, ICC_CTLR), EXACT_DEADLINE)
        });
        let after = slot.word();

        let unchanged = before.exact() && after.exact() && before.generation() == after.generation();
        let wrong = match (exact, record) {
            (Err(Errno::TimedOut), _) => {
                tally.late += 1;
                false
            }
            (Err(_), _) | (_, None) => true,
            (Ok(exact), Some(record)) => {
                !before.ready()
                    || unchanged && exact != before.ctlr()
                    || same_generation(&record, before.generation()) && record.ctlr() != before.ctlr()
                    || before.is_template() && before.ctlr() != template
            }
        };
        tally.mismatches += u64::from(wrong);
    }

    fn read_as_kvm_does(&mut self, vm: u16, affinity: u64, slot: &ShadowSlot) {
        let tally = &mut self.tally;
        let (vm, attribute) = (u64::from(vm), cpu_sysreg(affinity, ICC_CTLR));
        let start = timer::now();
        let wrong = match host::contended_read(vm, attribute) {
            Ok(_) => false,
            Err(Errno::Busy) => {
                tally.ebusy += 1;
                let stopped = host::vm_stop(vm);
                let value = host::contended_read(vm, attribute);
                let word = slot.word();
                let resumed = host::vm_resume(vm);
                tally.stops += stopped.unwrap_or(0);
                stopped.is_err() || resumed.is_err() || !word.exact() || value != Ok(word.ctlr())
            }
            Err(_) => true,
        };
        tally.exact.add(timer::now() - start);
        tally.mismatches += u64::from(wrong);
    }

    /// The guest's own view of `ICC_CTLR_EL1` against an exact read, bit for bit.
    fn compare(&mut self, exit: &Exit) -> Answer {
        let affinity = hyp_abi::layout::affinity_of(exit.x[2] as usize);
        let found = host::exact_read(u64::from(exit.vm), cpu_sysreg(affinity, ICC_CTLR), EXACT_DEADLINE);
        let equal = found == Ok(exit.x[1]);
        if !equal {
            println!("FAIL compare: vcpu={} guest={:#x} host={found:x?}", exit.x[2], exit.x[1]);
            self.tally.mismatches += 1;
        }
        Answer::value(u64::from(!equal))
    }

    fn phase(&mut self, exit: &Exit) -> Answer {
        let vm = u64::from(exit.vm);
        match exit.x[1] {
            phase::UMBRA_BEGIN => self.begin(Mode::Umbra, vm, 1),
            phase::CONTENDED_BEGIN => self.begin(Mode::Contended, vm, 3),
            phase::STORM_BEGIN => {
                self.begin(Mode::Storm, vm, 5);
                let ends = timer::now() + STORM_SECONDS * timer::frequency();
                self.storm = Storm {
                    vcpu: exit.x[2] as usize,
                    first: None,
                    last: 0,
                    reads: 0,
                    torn: 0,
                    ends,
                };
            }
            phase::UMBRA_END => self.end(vm, 2),
            phase::CONTENDED_END => self.end(vm, 4),
            phase::STORM_END => self.end(vm, 6),
            _ => {}
        }
        Answer::value(0)
    }

    fn begin(&mut self, mode: Mode, vm: u64, label: u64) {
        self.phased = true;
        self.mode = mode;
        self.tally.clear();
        if host::mark(vm, label).is_err() {
            self.tally.mismatches += 1;
        }
    }

    fn end(&mut self, vm: u64, label: u64) {
        if host::mark(vm, label).is_err() {
            self.tally.mismatches += 1;
        }
        let mut check = Check::new(self.mode.name());
        match self.mode {
            Mode::Storm => self.report_storm(&mut check),
            Mode::Umbra | Mode::Contended => self.report_reads(&mut check),
        }
        check.finish();
        self.mode = Mode::Umbra;
        self.tally.clear();
    }

    fn print_reads(&mut self, phase: &str) {
        let tally = &mut self.tally;
        let [template, word, record, exact] =
            [&mut tally.template, &mut tally.word, &mut tally.record, &mut tally.exact].map(Samples::summary);
        println!(
            "@host phase={phase} calls={} allowed={} ebusy={} stops={} template_n={} template_min={} template_med={} template_max={} \
             word_n={} word_min={} word_med={} word_max={} record_n={} record_min={} record_med={} record_max={} \
             exact_n={} exact_min={} exact_med={} exact_max={} retries={} late={} mismatches={}",
            tally.calls,
            tally.allowed,
            tally.ebusy,
            tally.stops,
            template.count,
            template.min,
            template.median,
            template.max,
            word.count,
            word.min,
            word.median,
            word.max,
            record.count,
            record.min,
            record.median,
            record.max,
            exact.count,
            exact.min,
            exact.median,
            exact.max,
            tally.retries,
            tally.late,
            tally.mismatches,
        );
    }

    fn report_reads(&mut self, check: &mut Check) {
        self.print_reads(self.mode.name());
        let tally = &self.tally;
        check.eq("mismatches", tally.mismatches, 0);
        check.eq("exact reads past their deadline", tally.late, 0);
        match self.mode {
            Mode::Contended => check.eq("EBUSY answers, one for each CPU_ON", tally.ebusy, tally.allowed),
            Mode::Umbra | Mode::Storm => check.eq("EBUSY answers", tally.ebusy, 0),
        }
    }

    /// While the storming vCPU runs to its next poll, reads its record in a loop.
    fn watch_storm(&mut self, exit: &Exit) {
        if exit.function() != oem::STORM_POLL || self.storm.is_over() {
            return;
        }
        if let Some(slot) = slot(exit.vm, self.storm.vcpu) {
            self.storm.watch(slot, &mut self.tally.retries);
        }
    }

    fn report_storm(&mut self, check: &mut Check) {
        let storm = &self.storm;
        let published = storm.published();
        println!(
            "@host phase=storm calls={} published={published} reads={} retries={} torn={} late={} mismatches={}",
            self.tally.calls, storm.reads, self.tally.retries, storm.torn, self.tally.late, self.tally.mismatches,
        );
        check.eq("torn records", storm.torn, 0);
        check.that(published >= PUBLICATIONS, "10 000 records published while being read");
        check.eq("mismatches", self.tally.mismatches, 0);
    }
}

fn timed<R>(samples: &mut Samples<KEPT>, read: impl FnOnce() -> R) -> R {
    let start = timer::now();
    let result = read();
    samples.add(timer::now() - start);
    result
}

/// Whether `record` and a word with this generation are of one refresh.
fn same_generation(record: &Record, generation: u64) -> bool {
    record.generation() & ((1 << Word::GENERATION_BITS) - 1) == generation
}

fn slot(vm: u16, vcpu: usize) -> Option<&'static ShadowSlot> {
    (vcpu < MAX_VCPUS).then(|| host::shadow(u64::from(vm)).slot(vcpu)).flatten()
}
