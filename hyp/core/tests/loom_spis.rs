//! How vCPUs claim SPIs and give them back, under the model checker: the whole of `vgic`, with nothing left out but the
//! hardware. Whatever the order, one vCPU at most has an SPI, and none is lost: in the end the vCPU that it is routed to has
//! it, or it shows as pending in the distributor.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p hyp-core --release --test loom_spis`
//!
//! The distributor's accesses are sequentially consistent, and loom does not model that for loads and stores. Here each is a
//! read-modify-write, a load one that changes nothing: so it sees the last store, as it must in the one order of them all. The
//! variants are atomics that do less than they are asked for, and each must reach a bad outcome.
#![cfg(loom)]
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the source that is included has more in it than is used here"
)]

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc as StdArc, Mutex, PoisonError};
use sync::{Atomics, Ordering};
use vgic::dist::{CTLR, Dist, Effect, PASSES};
use vgic::lr::VcpuGic;
use vgic::redist::Identity;
use vgic::{Ich, ctlr::CtlrView, vmcr::Vmcr};

/// The included source's `crate::sync`.
mod sync {
    pub use loom::sync::atomic::Ordering;
    use std::cell::Cell;

    /// What the atomics of this run do.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Atomics {
        /// What they are asked for.
        Right,
        /// Loads that acquire and stores that release, and no one order of all.
        AcquireRelease,
        /// Each by itself.
        Relaxed,
        /// A compare-and-swap that is a load and a store.
        NoSwap,
    }

    std::thread_local! {
        /// loom runs its threads one at a time on the thread of the test.
        pub static ATOMICS: Cell<Atomics> = const { Cell::new(Atomics::Right) };
    }

    fn weakened(order: Ordering) -> Option<Ordering> {
        match ATOMICS.get() {
            Atomics::Right | Atomics::NoSwap => None,
            Atomics::AcquireRelease if order == Ordering::SeqCst => Some(Ordering::AcqRel),
            Atomics::AcquireRelease => None,
            Atomics::Relaxed => Some(Ordering::Relaxed),
        }
    }

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub struct $name(loom::sync::atomic::$name);

            impl $name {
                pub fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    match weakened(order) {
                        None if order == Ordering::SeqCst => self.0.fetch_or(0, order),
                        None => self.0.load(order),
                        Some(Ordering::AcqRel) => self.0.load(Ordering::Acquire),
                        Some(order) => self.0.load(order),
                    }
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    match weakened(order) {
                        None if order == Ordering::SeqCst => {
                            self.0.swap(value, order);
                        }
                        None => self.0.store(value, order),
                        Some(Ordering::AcqRel) => self.0.store(value, Ordering::Release),
                        Some(order) => self.0.store(value, order),
                    }
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, weakened(order).unwrap_or(order))
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_or(value, weakened(order).unwrap_or(order))
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_and(value, weakened(order).unwrap_or(order))
                }

                pub fn compare_exchange(&self, from: $value, to: $value, order: Ordering, _: Ordering) -> Result<$value, $value> {
                    if ATOMICS.get() == Atomics::NoSwap {
                        let found = self.load(order);
                        return if found == from {
                            self.store(to, order);
                            Ok(found)
                        } else {
                            Err(found)
                        };
                    }
                    self.0
                        .compare_exchange(from, to, weakened(order).unwrap_or(order), Ordering::Relaxed)
                }
            }
        };
    }

    atomic!(AtomicU8, u8);
    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

/// The included source's `crate::regs`.
mod regs {
    pub(crate) use hyp_core::regs::*;
}

#[path = "../src/vgic/mod.rs"]
mod vgic;

/// The SPI of every scenario, and its bit in the second word of each register.
const SPI: u32 = 32;
const BIT: u64 = 1;
const IGROUPR: u64 = 0x84;
const ISENABLER: u64 = 0x104;
const ICENABLER: u64 = 0x184;
const ISPENDR: u64 = 0x204;
const ICPENDR: u64 = 0x284;
const ISACTIVER: u64 = 0x304;
const ICACTIVER: u64 = 0x384;
const ICFGR: u64 = 0xC08;
const IROUTER: u64 = 0x6100;
/// `GICD_IROUTER<n>`: any vCPU.
const ANY: u64 = 1 << 31;

/// A virtual interface: list registers, and a guest that takes whatever it is given.
struct Registers {
    lr: [u64; 2],
    hcr: u64,
    vmcr: u64,
}

impl Registers {
    fn state(lr: u64) -> u64 {
        lr >> 62
    }
}

impl Ich for Registers {
    type Spis = ();
    fn spis(&self) -> &() {
        &()
    }
    fn count(&self) -> usize {
        self.lr.len()
    }
    fn tdir(&self) -> bool {
        true
    }
    fn lr(&self, i: usize) -> u64 {
        self.lr[i]
    }
    fn set_lr(&mut self, i: usize, value: u64) {
        self.lr[i] = value;
    }
    fn elrsr(&self) -> u64 {
        (0..).zip(self.lr).map(|(i, lr)| u64::from(Self::state(lr) == 0) << i).sum()
    }
    fn eisr(&self) -> u64 {
        0
    }
    fn hcr(&self) -> u64 {
        self.hcr
    }
    fn set_hcr(&mut self, value: u64) {
        self.hcr = value;
    }
    fn vmcr(&self) -> u64 {
        self.vmcr
    }
    fn timer_line(&self) -> bool {
        false
    }
    fn set_timer_active(&mut self, _: bool) {}
}

/// What pCPUs share: the VM's distributor, and the kick SGIs that are pending.
struct Shared {
    dist: Dist,
    kicks: loom::sync::atomic::AtomicU32,
}

impl Shared {
    fn kick(&self, vcpus: u16) {
        if vcpus != 0 {
            self.kicks.fetch_or(vcpus.into(), Ordering::AcqRel);
        }
    }

    fn raise_edge(&self) {
        self.kick(self.dist.raise_edge(SPI).map_or(0, |vcpu| 1 << vcpu));
    }

    /// A guest's write: whoever must look is kicked. What must be asked of an owner is asked by the caller.
    fn write(&self, offset: u64, value: u64) -> Effect {
        let effect = self.dist.write(&(), offset, if offset == IROUTER { 8 } else { 4 }, value);
        self.kick(effect.kick);
        effect
    }
}

/// A pCPU with its vCPU.
struct Pcpu {
    index: usize,
    gic: VcpuGic,
    registers: Registers,
}

impl Pcpu {
    /// The way of the kick SGI.
    fn look(&mut self, shared: &Shared) {
        let me = 1 << self.index;
        if shared.kicks.fetch_and(!me, Ordering::AcqRel) & me != 0 {
            self.gic.receive_spis(&mut self.registers, &shared.dist);
            shared.kick(self.gic.take_kicks());
        }
    }

    /// `CPU_OFF`.
    fn go_off(&mut self, shared: &Shared) {
        self.gic.park(&mut self.registers, &shared.dist);
        shared.kick(self.gic.take_kicks());
    }

    /// It leaves its pCPU for another's turn, and comes back.
    fn make_room(&mut self, shared: &Shared) {
        self.leave(shared);
        self.come_back(shared);
    }

    fn leave(&mut self, shared: &Shared) {
        self.gic.put(&mut self.registers, &shared.dist);
        shared.kick(self.gic.take_kicks());
    }

    fn come_back(&mut self, shared: &Shared) {
        self.gic.load(&mut self.registers, &shared.dist);
        shared.kick(self.gic.take_kicks());
    }

    /// The guest has acknowledged what it was given.
    fn guest_takes_it(&mut self) {
        for lr in &mut self.registers.lr {
            if Registers::state(*lr) == 1 {
                *lr ^= 3 << 62;
            }
        }
    }

    /// The guest has acknowledged and ended what it was given.
    fn guest_ends_it(&mut self) {
        for lr in &mut self.registers.lr {
            *lr &= !(3 << 62);
        }
    }

    fn refresh(&mut self, shared: &Shared) {
        self.gic.refresh(&mut self.registers, &shared.dist);
        shared.kick(self.gic.take_kicks());
    }

    /// How many list registers have the SPI.
    fn places(&self) -> usize {
        let it = |lr: &&u64| Registers::state(**lr) != 0 && **lr as u32 == SPI;
        self.registers.lr.iter().filter(it).count()
    }
}

/// The machine: `N` pCPUs, the SPI edge-triggered, in group 1, enabled, and routed as said.
fn machine<const N: usize>(route: u64) -> (Arc<Shared>, [Pcpu; N]) {
    let view = CtlrView::new(0x90b8_0001, 0);
    let shared = Shared {
        dist: Dist::new(&view),
        kicks: loom::sync::atomic::AtomicU32::new(0),
    };
    for (offset, value) in [(CTLR, 2), (IGROUPR, BIT), (ICFGR, 2), (ISENABLER, BIT), (IROUTER, route)] {
        let _nobody_runs = shared.write(offset, value);
    }
    let vmcr = Vmcr::reset(&view).with_pmr(&view, 0xFF).with_igrpen1(1).get();
    let pcpus = core::array::from_fn(|index| {
        let id = Identity {
            index,
            last: index == N - 1,
            affinity: index as u64,
        };
        let mut pcpu = Pcpu {
            index,
            gic: VcpuGic::new(id),
            registers: Registers { lr: [0; 2], hcr: 0, vmcr },
        };
        pcpu.gic.load(&mut pcpu.registers, &shared.dist);
        let _all_load = pcpu.gic.take_kicks();
        pcpu
    });
    shared.kicks.store(0, Ordering::Relaxed);
    (Arc::new(shared), pcpus)
}

/// Who has the SPI when the threads are done; who has it when every kick has arrived; and whether it is pending in the
/// distributor.
type Outcome = (u8, u8, bool);

fn owners(pcpus: &[Pcpu]) -> u8 {
    pcpus.iter().map(|pcpu| u8::from(pcpu.places() != 0) << pcpu.index).sum()
}

/// Owners do what a write asks of them.
fn answer(shared: &Shared, pcpus: &mut [Pcpu], effect: Effect) {
    for pcpu in pcpus.iter_mut().filter(|pcpu| effect.owners >> pcpu.index & 1 != 0) {
        let _bits = pcpu.gic.spi(&mut pcpu.registers, &shared.dist, effect.ask);
        shared.kick(pcpu.gic.take_kicks());
    }
}

/// The rest of the run: what was asked of owners is answered, every kick arrives.
fn settle(shared: &Shared, pcpus: &mut [Pcpu], effect: Option<Effect>) -> Outcome {
    let first = owners(pcpus);
    assert!(first.count_ones() < 2, "two have it at once");
    if let Some(effect) = effect {
        answer(shared, pcpus, effect);
    }
    for _ in 0..4 {
        pcpus.iter_mut().for_each(|pcpu| pcpu.look(shared));
    }
    assert_eq!(shared.kicks.load(Ordering::Relaxed), 0, "kicks without end");
    let last = owners(pcpus);
    let outcome = (first, last, shared.dist.read(&(), ISPENDR, 4).0 & BIT != 0);
    // Who has it is also who is known to have it: routed elsewhere, it goes there, and so does the next edge.
    let effect = shared.write(IROUTER, 0);
    answer(shared, pcpus, effect);
    shared.raise_edge();
    for _ in 0..3 {
        pcpus.iter_mut().for_each(|pcpu| pcpu.look(shared));
    }
    let places: usize = pcpus.iter().map(Pcpu::places).sum();
    assert!(places < 2, "the next edge is delivered twice");
    outcome
}

/// Every outcome of `run` with these atomics; one that is not among the `good` ones ends it.
fn explore<T: Copy + Debug + Ord + Send + Sync>(
    atomics: Atomics,
    preemptions: Option<usize>,
    good: &'static [T],
    run: impl Fn() -> T + Send + Sync + 'static,
) -> BTreeSet<T> {
    sync::ATOMICS.set(atomics);
    let reached = StdArc::new(Mutex::new(BTreeSet::new()));
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    builder.check({
        let reached = StdArc::clone(&reached);
        move || {
            let outcome = run();
            assert!(good.contains(&outcome), "a bad outcome: {outcome:?}");
            reached.lock().unwrap_or_else(PoisonError::into_inner).insert(outcome);
        }
    });
    std::mem::take(&mut *reached.lock().unwrap_or_else(PoisonError::into_inner))
}

fn exactly<T: Copy + Debug + Ord>(reached: &BTreeSet<T>, good: &[T]) {
    assert_eq!(*reached, good.iter().copied().collect());
}

/// How often a thread may be interrupted in one run.
const OFTEN: Option<usize> = Some(3);

/// It is pending for vCPU 0, which looks; vCPU 1's guest routes it to itself, and looks.
const ROUTED: &[Outcome] = &[(0, 0b10, false), (0b01, 0b10, false), (0b10, 0b10, false)];

fn routed(atomics: Atomics) -> BTreeSet<Outcome> {
    explore(atomics, OFTEN, ROUTED, || {
        let (shared, [mut zero, mut one]) = machine(0);
        shared.raise_edge();
        let looker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                zero.look(&shared);
                zero
            }
        });
        let effect = shared.write(IROUTER, 1);
        one.look(&shared);
        let zero = looker.join().expect("it ends");
        settle(&shared, &mut [zero, one], Some(effect))
    })
}

/// vCPU 0 has it and goes off; vCPU 1's guest routes it to itself meanwhile.
const LEFT: &[Outcome] = &[(0, 0b10, false), (0b10, 0b10, false)];

fn left(atomics: Atomics) -> BTreeSet<Outcome> {
    explore(atomics, OFTEN, LEFT, || {
        let (shared, [mut zero, mut one]) = machine(0);
        shared.raise_edge();
        zero.look(&shared);
        let leaver = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                zero.go_off(&shared);
                zero
            }
        });
        let effect = shared.write(IROUTER, 1);
        one.look(&shared);
        let zero = leaver.join().expect("it ends");
        settle(&shared, &mut [zero, one], Some(effect))
    })
}

/// It is pending for vCPU 0, which looks; vCPU 1's guest disables it.
const DISABLED: &[Outcome] = &[(0, 0, true), (0b01, 0, true)];

fn disabled(atomics: Atomics) -> BTreeSet<Outcome> {
    explore(atomics, OFTEN, DISABLED, || {
        let (shared, [mut zero, one]) = machine(0);
        shared.raise_edge();
        let looker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                zero.look(&shared);
                zero
            }
        });
        let effect = shared.write(ICENABLER, BIT);
        let zero = looker.join().expect("it ends");
        settle(&shared, &mut [zero, one], Some(effect))
    })
}

/// vCPU 0's guest has ended it, and vCPU 0 gives it back; a device raises the next edge.
const RAISED: &[Outcome] = &[(0, 0b01, false), (0b01, 0b01, false)];

fn raised(atomics: Atomics) -> BTreeSet<Outcome> {
    explore(atomics, OFTEN, RAISED, || {
        let (shared, [mut zero]) = machine(0);
        shared.raise_edge();
        zero.look(&shared);
        zero.guest_ends_it();
        let owner = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                zero.refresh(&shared);
                zero
            }
        });
        shared.raise_edge();
        let zero = owner.join().expect("it ends");
        settle(&shared, &mut [zero], None)
    })
}

/// Any vCPU may have it. vCPU 0 has it and goes off; vCPU 1 leaves its pCPU and comes back; a device raises another edge.
const ANYONE: &[Outcome] = &[(0, 0b10, false), (0b10, 0b10, false)];

fn anyone(atomics: Atomics) -> BTreeSet<Outcome> {
    explore(atomics, OFTEN, ANYONE, || {
        let (shared, [mut zero, mut one]) = machine(ANY);
        shared.raise_edge();
        zero.look(&shared);
        let leaver = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                zero.go_off(&shared);
                zero
            }
        });
        let device = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.raise_edge()
        });
        one.make_room(&shared);
        device.join().expect("it ends");
        let zero = leaver.join().expect("it ends");
        settle(&shared, &mut [zero, one], None)
    })
}

/// What a guest reads of an SPI that is pending all the while, as vCPU 0 claims it, gives it back, or both: that a vCPU has to be asked, or
/// that it is pending.
fn read(claims: bool, gives: bool) -> BTreeSet<Option<bool>> {
    explore(Atomics::Right, OFTEN, &[None, Some(true)], move || {
        let (shared, [mut zero]) = machine(0);
        shared.raise_edge();
        if !claims {
            zero.look(&shared);
        }
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.dist.read_plain(ISPENDR, 4).map(|word| word & BIT != 0)
        });
        if claims {
            zero.look(&shared);
        }
        if gives {
            zero.go_off(&shared);
        }
        reader.join().expect("it ends")
    })
}

/// What another vCPU's guest does about the SPI that is vCPU 0's, and that changes hands meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read(u64),
    Write(u64),
}

/// How it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    /// vCPU 0 goes off; vCPU 1 looks.
    Off,
    /// vCPU 0 leaves its pCPU and comes back.
    MakeRoom,
    /// vCPU 0 has yet to look, leaves its pCPU then, and comes back.
    Through,
}

/// Makes an access, as EL2 does, `passes` times at most. vCPUs are locked to be asked, and while they do something themselves. Gives what
/// it reads.
fn access(shared: &Shared, vcpus: &[loom::sync::Mutex<Pcpu>; 2], access: Access, passes: usize) -> bool {
    let mut value = 0;
    for _ in 0..passes {
        let effect = match access {
            Access::Read(offset) => {
                let (seen, effect) = shared.dist.read(&(), offset, 4);
                value |= seen;
                effect
            }
            Access::Write(offset) => shared.write(offset, BIT),
        };
        if effect.is_none() {
            break;
        }
        let mut answers = 0;
        for vcpu in vcpus {
            let pcpu = &mut *vcpu.lock().expect("nobody panics");
            if effect.owners >> pcpu.index & 1 != 0 {
                answers |= pcpu.gic.spi(&mut pcpu.registers, &shared.dist, effect.ask);
                shared.kick(pcpu.gic.take_kicks());
            }
        }
        value |= answers;
        if effect.is_over(answers) {
            break;
        }
    }
    value & BIT != 0
}

/// What the access reads, and whether the SPI is pending or active afterwards, anywhere. In the end every kick has arrived.
fn moved(how: Move, what: Access, passes: usize, good: &'static [(bool, bool)]) -> BTreeSet<(bool, bool)> {
    // An active one is in `ICACTIVER`'s word, a pending one in `ICPENDR`'s.
    let active = matches!(what, Access::Read(ISACTIVER) | Access::Write(ICACTIVER));
    explore(Atomics::Right, OFTEN, good, move || {
        let (shared, [mut zero, one]) = machine(ANY);
        shared.raise_edge();
        if how != Move::Through {
            zero.look(&shared);
        }
        if active {
            zero.guest_takes_it();
        }
        let vcpus = Arc::new([loom::sync::Mutex::new(zero), loom::sync::Mutex::new(one)]);
        let reader = thread::spawn({
            let (shared, vcpus) = (Arc::clone(&shared), Arc::clone(&vcpus));
            move || access(&shared, &vcpus, what, passes)
        });
        let lock = |index: usize| vcpus[index].lock().expect("nobody panics");
        match how {
            Move::Off => {
                lock(0).go_off(&shared);
                lock(1).look(&shared);
            }
            Move::MakeRoom | Move::Through => {
                if how == Move::Through {
                    lock(0).look(&shared);
                }
                lock(0).leave(&shared);
                lock(0).come_back(&shared);
            }
        }
        let read = reader.join().expect("it ends");
        for vcpu in &*vcpus {
            vcpu.lock().expect("nobody panics").look(&shared);
        }
        let after = Access::Read(if active { ISACTIVER } else { ISPENDR });
        (read, access(&shared, &vcpus, after, 1))
    })
}

#[test]
fn an_spi_that_is_pending_all_the_while_reads_so() {
    for (claims, gives) in [(true, false), (false, true), (true, true)] {
        exactly(&read(claims, gives), &[None, Some(true)]);
    }
}

const PENDING: [Move; 3] = [Move::Off, Move::MakeRoom, Move::Through];
const ACTIVE: [Move; 2] = [Move::Off, Move::MakeRoom];

#[test]
fn an_spi_that_changes_hands_while_it_is_read_is_seen() {
    let read = |how, register| exactly(&moved(how, Access::Read(register), PASSES, &[(true, true)]), &[(true, true)]);
    PENDING.map(|how| read(how, ISPENDR));
    ACTIVE.map(|how| read(how, ISACTIVER));
}

#[test]
fn an_spi_that_changes_hands_while_it_is_cleared_is_so_in_the_end() {
    let clear = |how, register| exactly(&moved(how, Access::Write(register), PASSES, &[(false, false)]), &[(false, false)]);
    PENDING.map(|how| clear(how, ICPENDR));
    ACTIVE.map(|how| clear(how, ICACTIVER));
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_one_pass_a_read_misses_what_changes_hands() {
    moved(Move::Off, Access::Read(ISPENDR), 1, &[(true, true)]);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_one_pass_what_changes_hands_stays_pending() {
    moved(Move::MakeRoom, Access::Write(ICPENDR), 1, &[(false, false)]);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_one_pass_what_changes_hands_stays_active() {
    moved(Move::Off, Access::Write(ICACTIVER), 1, &[(false, false)]);
}

#[test]
fn an_spi_that_is_routed_elsewhere_ends_there() {
    exactly(&routed(Atomics::Right), ROUTED);
}

#[test]
fn an_spi_that_is_given_back_goes_where_it_is_routed_meanwhile() {
    exactly(&left(Atomics::Right), LEFT);
}

#[test]
fn an_spi_that_is_disabled_stays_pending_and_is_nobodys() {
    exactly(&disabled(Atomics::Right), DISABLED);
}

#[test]
fn an_edge_while_its_spi_is_given_back_is_delivered() {
    exactly(&raised(Atomics::Right), RAISED);
}

#[test]
fn an_spi_for_anyone_finds_one_vcpu_that_is_on() {
    exactly(&anyone(Atomics::Right), ANYONE);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_acquire_and_release_alone_routed_goes_wrong() {
    routed(Atomics::AcquireRelease);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_acquire_and_release_alone_left_goes_wrong() {
    left(Atomics::AcquireRelease);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_acquire_and_release_alone_disabled_goes_wrong() {
    disabled(Atomics::AcquireRelease);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_relaxed_routed_goes_wrong() {
    routed(Atomics::Relaxed);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_relaxed_left_goes_wrong() {
    left(Atomics::Relaxed);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_relaxed_disabled_goes_wrong() {
    disabled(Atomics::Relaxed);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_relaxed_raised_goes_wrong() {
    raised(Atomics::Relaxed);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn with_relaxed_anyone_goes_wrong() {
    anyone(Atomics::Relaxed);
}

#[test]
#[should_panic(expected = "delivered twice")]
fn a_claim_that_is_no_compare_and_swap_goes_wrong() {
    routed(Atomics::NoSwap);
}
