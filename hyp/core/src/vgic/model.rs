//! A vCPU's SGIs and PPIs against a slow and obvious model: every interrupt has its own few booleans, and the guest's view is
//! worked out from all of them each time. Nothing here knows of list registers.

use super::dist::{self, Dist};
use super::fake::{Dir, FakeIch, Kind};
use super::lr::VcpuGic;
use super::redist::{self, Identity};
use super::sgi::{self, SgiRegister};
use super::vmcr::Vmcr;
use super::{Group, Ich};
use proptest::prelude::*;

/// Few enough for them to meet, of every kind: SGIs, a PPI without a line, the hardware-backed timer, an emulated level PPI.
const INTIDS: [u32; 10] = [0, 1, 2, 3, 4, 5, 15, 20, TIMER, LEVEL];
const TIMER: u32 = 27;
const LEVEL: u32 = 30;

#[derive(Clone, Copy, Default)]
struct Irq {
    latch: bool,
    line: bool,
    active: bool,
    enabled: bool,
    group1: bool,
    priority: u8,
}

#[derive(Clone, Default)]
struct Model {
    irq: [Irq; 32],
    /// The running interrupts, the innermost last: INTID, group 1, and the part of its priority that preempts.
    running: Vec<(u32, bool, u64)>,
    /// Dropped, with EOImode 1, and still to be deactivated.
    dropped: Vec<u32>,
    enables: u32,
}

impl Model {
    fn pending(&self, i: u32) -> bool {
        self.irq[i as usize].latch || self.irq[i as usize].line
    }

    /// The interrupts that the vCPU may be shown: those of the most urgent priority, if they are urgent enough.
    fn shown(&self, vmcr: Vmcr) -> (Vec<u32>, bool) {
        let deliverable = |i: &u32| {
            let irq = &self.irq[*i as usize];
            let forwarded = self.enables >> u32::from(irq.group1) & 1 == 1;
            let on = if irq.group1 { vmcr.igrpen1() } else { vmcr.igrpen0() } == 1;
            self.pending(*i) && !irq.active && irq.enabled && forwarded && on
        };
        let all: Vec<u32> = (0..32).filter(deliverable).collect();
        let Some(least) = all.iter().map(|&i| self.irq[i as usize].priority).min() else {
            return (Vec::new(), true);
        };
        let tied: Vec<u32> = all.into_iter().filter(|&i| self.irq[i as usize].priority == least).collect();
        let urgent = |i: &u32| {
            let group = if self.irq[*i as usize].group1 { Group::One } else { Group::Zero };
            let level = u64::from(least) & FakeIch::preempting(vmcr, group);
            u64::from(least) < vmcr.pmr() && self.running.iter().all(|&(_, _, running)| level < running)
        };
        let shown: Vec<u32> = tied.iter().copied().filter(urgent).collect();
        let maybe_none = shown.len() < tied.len();
        (shown, maybe_none)
    }

    fn word(&self, f: impl Fn(u32) -> bool) -> u32 {
        (0..32).filter(|&i| f(i)).map(|i| 1 << i).sum()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Sgi(usize, bool),
    /// Of the interrupt that ended last, if that is one: it may be shown again.
    SgiAgain(bool),
    Write(Word, u32),
    Priority(usize, u8),
    Line(bool),
    Level(bool),
    Ack,
    Eoi,
    Dir(usize),
    Mask(u8),
    GroupEnable(bool, bool),
    Forward(u32),
    Migrate,
    Off,
    Exit,
}

#[derive(Clone, Copy, Debug)]
enum Word {
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    Group,
}

fn op() -> impl Strategy<Value = Op> {
    let word = prop_oneof![
        Just(Word::SetEnable),
        Just(Word::ClearEnable),
        Just(Word::SetPending),
        Just(Word::SetPending),
        Just(Word::ClearPending),
        Just(Word::SetActive),
        Just(Word::ClearActive),
        Just(Word::Group),
    ];
    let some = prop_oneof![
        proptest::sample::select(&INTIDS[..]).prop_map(|i| 1u32 << i),
        proptest::sample::subsequence(&INTIDS[..], 0..6).prop_map(|set| set.iter().map(|i| 1 << i).sum()),
    ];
    prop_oneof![
        6 => (0..7usize, any::<bool>()).prop_map(|(i, one)| Op::Sgi(i, one)),
        4 => any::<bool>().prop_map(Op::SgiAgain),
        5 => (word, some).prop_map(|(word, bits)| Op::Write(word, bits)),
        2 => (0..INTIDS.len(), 0..32u8).prop_map(|(i, p)| Op::Priority(i, p * 8)),
        2 => any::<bool>().prop_map(Op::Line),
        2 => any::<bool>().prop_map(Op::Level),
        8 => Just(Op::Ack),
        5 => Just(Op::Eoi),
        4 => any::<usize>().prop_map(Op::Dir),
        1 => prop_oneof![Just(0xf8u8), any::<u8>()].prop_map(Op::Mask),
        1 => (prop::bool::weighted(0.8), prop::bool::weighted(0.8)).prop_map(|(zero, one)| Op::GroupEnable(zero, one)),
        1 => prop_oneof![3 => Just(3u32), 1 => 0..4u32].prop_map(Op::Forward),
        1 => Just(Op::Migrate),
        1 => Just(Op::Off),
        1 => Just(Op::Exit),
    ]
}

struct Machine {
    h: FakeIch,
    gic: VcpuGic,
    dist: Dist,
    model: Model,
    split: bool,
    ended: u32,
    short: bool,
    /// EL2's interrupts have yet to come.
    late: bool,
}

impl Machine {
    fn new(lrs: usize, split: bool, kind: Kind, bpr: (u64, u64, bool)) -> Self {
        let mut h = FakeIch::new(lrs);
        h.kind = kind;
        h.vmcr = h.vmcr.with_bpr0(&h.view, bpr.0).with_bpr1(&h.view, bpr.1).with_igrpen0(1);
        h.vmcr = h.view.apply_write(h.vmcr, u64::from(bpr.2) | u64::from(split) << 1);
        let dist = Dist::new(&h.view);
        let mut gic = VcpuGic::new(Identity {
            index: 0,
            last: true,
            affinity: 0,
        });
        gic.load(&mut h, &dist);
        Self {
            h,
            gic,
            dist,
            model: Model::default(),
            split,
            ended: 0,
            short: false,
            late: false,
        }
    }

    /// Every second time the short way, if that will do.
    fn write(&mut self, offset: u64, value: u32) {
        self.short = !self.short;
        if self.short && self.gic.write_plain(&self.dist, offset, value) {
            return;
        }
        self.gic.write(&mut self.h, &self.dist, offset, 4, value.into());
    }

    fn write_word(&mut self, word: Word, bits: u32) {
        // With EOImode 0 an EOIR of an interrupt that a write has ended meanwhile cannot be told from that of another.
        let running: u32 = self.model.running.iter().fold(0, |bits, &(i, _, _)| bits | 1 << i);
        let bits = if matches!(word, Word::ClearActive) && !self.split {
            bits & !running
        } else {
            bits
        };
        let offset = match word {
            Word::SetEnable => redist::ISENABLER0,
            Word::ClearEnable => redist::ICENABLER0,
            Word::SetPending => redist::ISPENDR0,
            Word::ClearPending => redist::ICPENDR0,
            Word::SetActive => redist::ISACTIVER0,
            Word::ClearActive => redist::ICACTIVER0,
            Word::Group => redist::IGROUPR0,
        };
        self.write(offset, bits);
        for (i, irq) in self.model.irq.iter_mut().enumerate() {
            let set = bits >> i & 1 == 1;
            match word {
                Word::Group => irq.group1 = set,
                _ if !set => {}
                Word::SetEnable => irq.enabled = true,
                Word::ClearEnable => irq.enabled = false,
                Word::SetPending => irq.latch = true,
                Word::ClearPending => irq.latch = false,
                Word::SetActive => irq.active = true,
                Word::ClearActive => irq.active = false,
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Sgi(i, one) => self.sgi(INTIDS[i], one),
            Op::SgiAgain(one) => {
                if self.ended < 16 {
                    self.sgi(self.ended, one);
                }
            }
            Op::Write(word, bits) => self.write_word(word, bits),
            Op::Priority(i, priority) => {
                let offset = redist::IPRIORITYR0 + u64::from(INTIDS[i]);
                self.gic.write(&mut self.h, &self.dist, offset, 1, priority.into());
                self.model.irq[INTIDS[i] as usize].priority = priority;
            }
            Op::Line(high) => {
                self.h.line = high;
                self.model.irq[TIMER as usize].line = high;
            }
            Op::Level(high) => {
                self.gic.set_line(&mut self.h, &self.dist, LEVEL, high);
                self.model.irq[LEVEL as usize].line = high;
            }
            Op::Ack => self.ack(),
            Op::Eoi => {
                let Some((intid, _, _)) = self.model.running.pop() else {
                    return self.h.eoi(3);
                };
                self.h.eoi(intid);
                self.ended = intid;
                if self.split {
                    self.model.dropped.push(intid);
                } else {
                    self.model.irq[intid as usize].active = false;
                }
            }
            Op::Dir(n) if self.model.dropped.is_empty() => self.dir(INTIDS[n % INTIDS.len()]),
            Op::Dir(n) => {
                let n = n % self.model.dropped.len();
                let intid = self.model.dropped.swap_remove(n);
                self.dir(intid);
            }
            Op::Mask(pmr) => self.h.vmcr = self.h.vmcr.with_pmr(&self.h.view, pmr.into()),
            Op::GroupEnable(zero, one) => self.h.vmcr = self.h.vmcr.with_igrpen0(zero.into()).with_igrpen1(one.into()),
            Op::Forward(enables) => {
                let _ = self.dist.write(&(), dist::CTLR, 4, enables.into());
                self.gic.refresh(&mut self.h, &self.dist);
                self.model.enables = enables;
            }
            Op::Migrate => {
                self.gic.put(&mut self.h, &self.dist);
                assert!(
                    (0..self.h.count()).all(|i| self.h.lr(i) == 0),
                    "nothing stays in the list registers"
                );
                // Another vCPU was here, and left the physical interrupt any way.
                self.h.active = !self.h.active;
                self.h.hcr = 0;
                self.gic.load(&mut self.h, &self.dist);
            }
            Op::Off => {
                self.h.line = false;
                self.gic.park(&mut self.h, &self.dist);
                assert!(!self.h.active);
                let model = &mut self.model;
                model.irq[TIMER as usize] = Irq {
                    latch: false,
                    line: false,
                    active: false,
                    ..model.irq[TIMER as usize]
                };
                model.running.clear();
                model.dropped.clear();
                (self.h.ap0r, self.h.ap1r) = ([0; 4], [0; 4]);
                self.gic.load(&mut self.h, &self.dist);
            }
            Op::Exit => {}
        }
    }

    /// As a write of `ICC_SGI1R_EL1` by the vCPU itself goes, and a kick that brings an SGI: the short way first. Or, if it is not to be of
    /// `any` group, of another SGI register.
    fn sgi(&mut self, intid: u32, any: bool) {
        let register = if any { SgiRegister::Any } else { SgiRegister::Zero };
        match self.gic.again(&self.h, intid) {
            Some(again) if any => self.gic.show(&mut self.h, again),
            _ => self.gic.receive(&mut self.h, &self.dist, sgi::word(intid, register)),
        }
        let irq = &mut self.model.irq[intid as usize];
        irq.latch |= any || !irq.group1;
    }

    fn ack(&mut self) {
        let (shown, maybe_none) = self.model.shown(self.h.vmcr);
        let Some(intid) = self.h.ack() else {
            assert!(shown.is_empty() || maybe_none || self.late, "{shown:?} should have been signalled");
            return;
        };
        assert!(shown.contains(&intid) || self.late, "{intid} was taken, the model has {shown:?}");
        let irq = &mut self.model.irq[intid as usize];
        let level = u64::from(irq.priority) & FakeIch::preempting(self.h.vmcr, if irq.group1 { Group::One } else { Group::Zero });
        irq.latch = false;
        irq.active = true;
        let group1 = irq.group1;
        self.model.running.push((intid, group1, level));
    }

    fn dir(&mut self, intid: u32) {
        if self.h.dir(intid) == Dir::Trapped {
            let _ = self.gic.deactivate(&mut self.h, &self.dist, intid);
        }
        if self.split {
            self.model.irq[intid as usize].active = false;
        }
    }

    /// What EL2 does first at an exit.
    fn attend(&mut self) {
        if self.gic.may_need_attention() && !self.gic.attend_ended(&self.h) {
            self.gic.attend(&mut self.h, &self.dist);
        }
    }

    /// What EL2 does before the guest runs on: it serves its interrupts until there are none.
    fn settle(&mut self) {
        for _ in 0..8 {
            if self.h.line && !self.h.active {
                self.h.active = true;
                self.gic.inject_hw(&mut self.h, &self.dist, TIMER);
            } else if self.h.misr() != 0 {
                self.gic.maintenance(&mut self.h, &self.dist);
            } else {
                return;
            }
        }
        assert_eq!(self.h.misr(), 0, "EL2 never gets back to the guest: HCR {:#x}", self.h.hcr);
    }

    /// What a guest reads, also while EL2's interrupts have yet to come.
    fn check_state(&self) {
        self.h.assert_sane();
        let live = self.gic.live(&self.h);
        for (offset, state) in [(redist::ISPENDR0, live.pending), (redist::ICACTIVER0, live.active)] {
            if let Some(value) = self.gic.read_short(&self.h, offset, 4) {
                assert_eq!(value, u64::from(state), "{offset:#x}, the short way");
            }
        }
        assert_eq!(live.pending, self.model.word(|i| self.model.pending(i)), "pending");
        if self.gic.is_quiet(&self.dist) {
            assert_eq!(
                live.pending & !(u32::from(self.h.line) << TIMER),
                0,
                "all is quiet, but for what is on its way"
            );
        }
        assert_eq!(live.active, self.model.word(|i| self.model.irq[i as usize].active), "active");
    }

    fn check(&self) {
        self.check_state();
        let timer = self.model.pending(TIMER) || self.model.irq[TIMER as usize].active;
        assert_eq!(
            self.h.active, timer,
            "the physical timer is active exactly while the virtual one is pending or active"
        );
        let (shown, maybe_none) = self.model.shown(self.h.vmcr);
        match self.h.signalled_intid() {
            Some(intid) => assert!(shown.contains(&intid), "{intid} is signalled, the model has {shown:?}"),
            None => assert!(shown.is_empty() || maybe_none, "{shown:?} should be signalled"),
        }
        if !maybe_none || shown.is_empty() {
            let running = self.h.running();
            assert!(
                shown.is_empty() || self.gic.wakes(&self.h, &self.dist, self.h.vmcr, running),
                "a signalled interrupt wakes"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 8 * ProptestConfig::default().cases }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_vcpu_sees_what_the_model_sees(
        lrs in prop_oneof![Just(1usize), Just(2), Just(3), Just(4), Just(4), Just(16)],
        split: bool,
        kind in proptest::sample::select(&Kind::ALL[..]),
        bpr in (0..8u64, 0..8u64, any::<bool>()),
        priorities in proptest::collection::vec(0..32u8, INTIDS.len()),
        group1: u32,
        ops in proptest::collection::vec((op(), prop::bool::weighted(0.3)), 0..if cfg!(miri) { 20 } else { 160 }),
    ) {
        let mut machine = Machine::new(lrs, split, kind, bpr);
        let all: u32 = INTIDS.iter().map(|i| 1 << i).sum();
        let first = [Op::Forward(3), Op::Write(Word::SetEnable, all), Op::Write(Word::Group, group1 | all & 0xf)];
        let priorities = priorities.iter().enumerate().map(|(i, p)| Op::Priority(i, p * 8));
        let prompt = first.into_iter().chain(priorities).map(|op| (op, false));
        for (op, late) in prompt.chain(ops) {
            machine.step(&op);
            machine.late = late;
            machine.attend();
            if late {
                machine.check_state();
            } else {
                machine.settle();
                machine.check();
            }
        }
    }
}
