//! Makes random calls that change nothing, by HVC and SMC in turn, and prints a digest of the answers to each kind. Two VMs of
//! the same three vCPUs and the same `seed=` must print the same, whichever way their calls are answered. Then random `CPU_ON`s,
//! each by both.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::check::{self, Check};
use guest::psci::{ALREADY_ON, INVALID_ADDRESS, INVALID_PARAMETERS, SUCCESS};
use guest::smccc::Conduit;
use guest::{bootargs, cpu, println, timer};
use hyp_abi::{layout::affinity_of, psci, smccc};

guest::tests!(random_calls, random_starts);

const CALLS: usize = 4000;
/// What the case's filter forwards in one VM; nobody calls it.
const FORWARDED: u32 = 0xC500_0000;

// x0 = registers, x1 = the conduit: x0 to x18 go in and come out, and the flags come out behind them. The first instruction
// after the call is one that matters.
global_asm!(
    ".global call_with_all",
    "call_with_all:",
    "stp x18, x19, [sp, #-32]!",
    "str x30, [sp, #16]",
    "mov x19, x0",
    "cmp x1, #0",
    "ldp x0, x1, [x19]",
    "ldp x2, x3, [x19, #16]",
    "ldp x4, x5, [x19, #32]",
    "ldp x6, x7, [x19, #48]",
    "ldp x8, x9, [x19, #64]",
    "ldp x10, x11, [x19, #80]",
    "ldp x12, x13, [x19, #96]",
    "ldp x14, x15, [x19, #112]",
    "ldp x16, x17, [x19, #128]",
    "ldr x18, [x19, #144]",
    "b.ne 1f",
    "hvc #0",
    "stp x0, x1, [x19]",
    "b 2f",
    "1: smc #0",
    "stp x0, x1, [x19]",
    "2: stp x2, x3, [x19, #16]",
    "stp x4, x5, [x19, #32]",
    "stp x6, x7, [x19, #48]",
    "stp x8, x9, [x19, #64]",
    "stp x10, x11, [x19, #80]",
    "stp x12, x13, [x19, #96]",
    "stp x14, x15, [x19, #112]",
    "stp x16, x17, [x19, #128]",
    "mrs x0, nzcv",
    "stp x18, x0, [x19, #144]",
    "ldr x30, [sp, #16]",
    "ldp x18, x19, [sp], #32",
    "ret",
);

// A vCPU that stores its x0 in `CONTEXT` and goes off.
global_asm!(
    ".global started_here",
    "started_here:",
    "adrp x1, {context}",
    "add x1, x1, :lo12:{context}",
    "str x0, [x1]",
    "dsb sy",
    "mov w0, #({off} & 0xFFFF)",
    "movk w0, #({off} >> 16), lsl #16",
    "hvc #0",
    "b .",
    context = sym CONTEXT,
    off = const psci::CPU_OFF,
);

unsafe extern "C" {
    fn call_with_all(x: *mut [u64; 20], smc: u64);
    fn started_here();
}

/// What `started_here` found in x0.
static CONTEXT: AtomicU64 = AtomicU64::new(0);

/// Makes a call with these x0 to x18, and gives what they are afterwards and the flags, which `cmp` set before.
fn call_all(conduit: Conduit, mut x: [u64; 20]) -> [u64; 20] {
    // SAFETY: It follows the procedure call standard and writes to `x` only; the calls made here change no memory.
    unsafe { call_with_all(&raw mut x, u64::from(conduit == Conduit::Smc)) };
    x
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }
    fn one_of<const N: usize>(&mut self, of: [u32; N]) -> u32 {
        of[self.below(N as u64) as usize]
    }
    /// `value`, often with something above its low word.
    fn dirty(&mut self, value: u64) -> u64 {
        if self.below(4) != 0 { value } else { value | self.next() << 32 }
    }

    fn function(&mut self) -> u32 {
        const KNOWN: [u32; 10] = [
            psci::VERSION,
            psci::AFFINITY_INFO_32,
            psci::AFFINITY_INFO_64,
            psci::FEATURES,
            psci::MIGRATE_INFO_TYPE,
            smccc::VERSION,
            smccc::ARCH_FEATURES,
            smccc::VENDOR_HYP_UID,
            smccc::VENDOR_HYP_REVISION,
            0xC600_0000,
        ];
        match self.below(8) {
            0 => psci::VERSION,
            1 | 2 => self.one_of([psci::AFFINITY_INFO_32, psci::AFFINITY_INFO_64]),
            3 => smccc::VERSION,
            4 => self.one_of(KNOWN),
            5 => self.one_of(KNOWN) ^ 1 << self.below(32),
            6 => self.next() as u32 & 0xFF00_001F,
            _ => self.next() as u32,
        }
    }

    /// x0 to x18 of a `CPU_ON` in its 64-bit form; where its target and its entry are good, the entry is `started_here`.
    fn start(&mut self) -> [u64; 20] {
        let mut x: [u64; 20] = core::array::from_fn(|_| self.next());
        x[0] = self.dirty(psci::CPU_ON_64.into());
        x[1] = match self.below(8) {
            0 => self.next(),
            1 => 2 | 1 << self.below(64),
            2 | 3 => self.below(5),
            _ => 2,
        };
        let entry = started_here as *const () as u64;
        x[2] = match self.below(8) {
            0 => self.next() | 1 << 63,
            1 => entry | (1 + self.below(3)),
            2 => self.below(0x4000_0000),
            _ => entry,
        };
        x
    }

    /// x0 to x18 of a call that changes nothing and that no host is asked about.
    fn call(&mut self) -> [u64; 20] {
        let mut x: [u64; 20] = core::array::from_fn(|_| self.next());
        let function = loop {
            let function = self.function();
            if !changes_something(function) && function != FORWARDED {
                break function;
            }
        };
        x[0] = self.dirty(u64::from(function));
        match self.below(8) {
            0 => {}
            1 | 2 => x[1] = u64::from(self.function()),
            3 => x[1] = 1 << self.below(64) | self.below(4),
            _ => {
                let target = self.below(5);
                x[1] = self.dirty(target);
            }
        }
        match self.below(8) {
            0 => {}
            1 | 2 => {
                let level = self.below(6);
                x[2] = self.dirty(level);
            }
            _ => x[2] = self.dirty(0),
        }
        x
    }
}

/// PSCI's calls that switch something on or off, or wait; in any width, and yielding ones too.
fn changes_something(function: u32) -> bool {
    let calls = [
        psci::CPU_SUSPEND_32,
        psci::CPU_OFF,
        psci::CPU_ON_32,
        psci::SYSTEM_OFF,
        psci::SYSTEM_RESET,
        psci::SYSTEM_SUSPEND_32,
        psci::SYSTEM_RESET2_32,
        psci::SYSTEM_OFF2_32,
    ];
    calls.iter().any(|call| (call ^ function) << 2 == 0)
}

/// What the answers to one kind of call were.
#[derive(Clone, Copy)]
struct Kind {
    what: &'static str,
    made: u64,
    /// FNV-1a, 64 bits, of each x0 to x3.
    digest: u64,
    /// How often x0 was 0, 1, 2, -1, -2.
    values: [u64; 5],
}

impl Kind {
    const fn new(what: &'static str) -> Self {
        Self {
            what,
            made: 0,
            digest: 0xCBF2_9CE4_8422_2325,
            values: [0; 5],
        }
    }

    fn add(&mut self, results: &[u64]) {
        self.made += 1;
        for byte in results.iter().flat_map(|value| value.to_le_bytes()) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
        let values = [0, 1, 2, -1, INVALID_PARAMETERS];
        let seen = values.into_iter().position(|value| results.first() == Some(&(value as u64)));
        if let Some(seen) = seen {
            self.values[seen] += 1;
        }
    }
}

const KINDS: [Kind; 8] = [
    Kind::new("PSCI_VERSION"),
    Kind::new("AFFINITY_INFO"),
    Kind::new("PSCI_FEATURES"),
    Kind::new("PSCI"),
    Kind::new("SMCCC_VERSION"),
    Kind::new("ARCH"),
    Kind::new("UID"),
    Kind::new("unimplemented"),
];
const AFFINITY_INFO: usize = 1;

/// Which of [`KINDS`] it is.
fn kind_of(function: u32) -> usize {
    match function {
        psci::VERSION => 0,
        psci::AFFINITY_INFO_32 | psci::AFFINITY_INFO_64 => AFFINITY_INFO,
        psci::FEATURES => 2,
        _ if function >> 24 & 0x3F == 4 => 3,
        smccc::VERSION => 4,
        _ if function >> 24 & 0x3F == 0 => 5,
        smccc::VENDOR_HYP_UID | smccc::VENDOR_HYP_REVISION => 6,
        _ => 7,
    }
}

/// vCPU 1: stays on.
fn stay(_: u64) {
    loop {
        cpu::wfi();
    }
}

/// vCPU 2: on and off again, unlike vCPU 0, which was always on.
fn visit(_: u64) {}

/// What is spent on `PSCI_VERSION` at best, in ticks for 64 of them: where instructions are counted it tells which way they go.
fn fastest() -> u64 {
    let mut best = u64::MAX;
    for _ in 0..16 {
        let begin = timer::now();
        for _ in 0..64 {
            let _version = guest::psci::version();
        }
        best = best.min(timer::now() - begin);
    }
    best
}

/// `CPU_ON` is what it is by SMC, which is never short.
fn random_starts(check: &mut Check) {
    const STARTS: usize = 500;
    const ANSWERS: [i64; 4] = [SUCCESS, ALREADY_ON, INVALID_PARAMETERS, INVALID_ADDRESS];
    if guest::psci::affinity_info(affinity_of(1)) == psci::AFFINITY_OFF as i64 {
        check.eq("CPU_ON of a vCPU that stays", cpu::start(1, stay, 0), SUCCESS);
    }
    let mut random = Random(bootargs::number("seed", 1) ^ 0xFFFF);
    let mut seen = [0; ANSWERS.len()];
    for number in 0..STARTS {
        let x = random.start();
        let [by_hvc, by_smc] = [Conduit::Hvc, Conduit::Smc].map(|conduit| {
            CONTEXT.store(!x[3], Ordering::Relaxed);
            let found = call_all(conduit, x);
            if found[0] == SUCCESS as u64 {
                check.that(cpu::wait_off(2, 10), "what was started goes off");
                check.eq("the context it was started with", CONTEXT.load(Ordering::Acquire), x[3]);
            }
            found
        });
        if by_hvc[..19] != by_smc[..19] || by_hvc[1..19] != x[1..19] {
            check.fail(format_args!(
                "start {number}, {:x?}: by HVC {by_hvc:x?}, by SMC {by_smc:x?}",
                &x[..4]
            ));
        }
        match ANSWERS.into_iter().position(|answer| by_hvc[0] == answer as u64) {
            Some(answer) => seen[answer] += 1,
            None => check.fail(format_args!("start {number}, {:x?}: {:#x}", &x[..4], by_hvc[0])),
        }
    }
    println!("{}starts answers={seen:?}", check::tag());
    check.that(seen.into_iter().all(|times| times >= 10), "CPU_ON has every answer");
}

fn random_calls(check: &mut Check) {
    check.eq("CPU_ON of a vCPU that stays", cpu::start(1, stay, 0), SUCCESS);
    check.eq("CPU_ON of a vCPU that goes off", cpu::start(2, visit, 0), SUCCESS);
    check.that(cpu::wait_off(2, 10), "it goes off");
    let mut random = Random(bootargs::number("seed", 1));
    let conduits = [Conduit::Hvc, Conduit::Smc];
    let mut kinds = [KINDS; 2];
    for number in 0..CALLS {
        let x = random.call();
        let found = call_all(conduits[number % 2], x);
        if found[4..19] != x[4..19] {
            check.fail(format_args!(
                "call {number}, {:#x}, changed x4 to x18: {:x?} {:x?}",
                x[0],
                &x[4..19],
                &found[4..19]
            ));
        }
        let flags = if number % 2 == 0 { 0x6000_0000 } else { 0x2000_0000 };
        check.eq("the flags after a call", found[19], flags);
        kinds[number % 2][kind_of(x[0] as u32)].add(&found[..4]);
    }
    for (by, kinds) in ["HVC", "SMC"].into_iter().zip(&kinds) {
        for kind in kinds {
            let Kind {
                what,
                made,
                digest,
                values,
            } = kind;
            let [zero, one, two, unknown, invalid] = values;
            println!(
                "{}calls what={what} by={by} made={made} zero={zero} one={one} two={two} unknown={unknown} invalid={invalid} digest={digest:#x}",
                check::tag()
            );
            check.that(*made >= 10, "every kind of call is made");
        }
        let [on, off, pending, unknown, invalid] = kinds[AFFINITY_INFO].values;
        check.that(on.min(off).min(invalid) >= 20, "AFFINITY_INFO has every answer");
        check.eq("AFFINITY_INFO's other answers", [pending, unknown], [0; 2]);
    }
    println!("{}fastest ticks={}", check::tag(), fastest());
}
