//! A vCPU's SGIs and PPIs against a slow and obvious model: every interrupt has its own few booleans, and the guest's view is
//! worked out from all of them each time. Nothing here knows of list registers.
//!
//! The guest does most things without an exit: it takes and ends interrupts, and writes the registers of its CPU interface. EL2 learns of them
//! at the next exit, whatever brings that, and its own interrupts, the virtual timer's and the maintenance interrupt, come at any time.

use super::cpuif::{Trapping, window_closed};
use super::dist::{self, Dist};
use super::fake::{Absent, Dir, FakeIch, Kind};
use super::lr::VcpuGic;
use super::redist::{self, Identity, Live};
use super::sgi::{self, SgiRegister};
use super::vmcr::Vmcr;
use super::{Group, Ich};
use crate::regs::gic::ICH_HCR_EL2;
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

/// A running interrupt.
#[derive(Clone, Copy)]
struct Running {
    intid: u32,
    /// The part of its priority that preempts, as of when it was taken.
    level: u64,
}

#[derive(Clone, Default)]
struct Model {
    irq: [Irq; 32],
    /// The running interrupts, the innermost last.
    running: Vec<Running>,
    /// Dropped, with EOImode 1, and still to be deactivated.
    dropped: Vec<u32>,
    enables: u32,
}

fn group(one: bool) -> Group {
    if one { Group::One } else { Group::Zero }
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
            let level = u64::from(least) & FakeIch::preempting(vmcr, group(self.irq[*i as usize].group1));
            u64::from(least) < vmcr.pmr() && self.running.iter().all(|running| level < running.level)
        };
        let shown: Vec<u32> = tied.iter().copied().filter(urgent).collect();
        let maybe_none = shown.len() < tied.len();
        (shown, maybe_none)
    }

    /// Whether the guest may make `vmcr` of its CPU interface's registers. What preempts it leaves alone while something runs: which of the
    /// running ones has ended is told by that. How many steps an end takes it leaves alone between those.
    fn may_write(&self, now: Vmcr, vmcr: Vmcr) -> bool {
        let same = |group| now.preempting(group) == vmcr.preempting(group);
        let steps = self.dropped.is_empty() || now.splits_eoi() == vmcr.splits_eoi();
        self.running.is_empty() && steps || same(Group::Zero) && same(Group::One) && now.splits_eoi() == vmcr.splits_eoi()
    }

    fn word(&self, f: impl Fn(u32) -> bool) -> u32 {
        (0..32).filter(|&i| f(i)).map(|i| 1 << i).sum()
    }
}

/// A write of a register of the CPU interface.
#[derive(Clone, Copy, Debug)]
enum Icc {
    Pmr(u8),
    Enable(bool, bool),
    Bpr(u64, u64),
    /// CBPR and EOImode.
    Ctlr(bool, bool),
}

impl Icc {
    fn apply(self, h: &FakeIch) -> Vmcr {
        match self {
            Self::Pmr(pmr) => h.vmcr.with_pmr(&h.view, pmr.into()),
            Self::Enable(zero, one) => h.vmcr.with_igrpen0(zero.into()).with_igrpen1(one.into()),
            Self::Bpr(zero, one) => h.vmcr.with_bpr0(&h.view, zero).with_bpr1(&h.view, one),
            Self::Ctlr(cbpr, split) => h.view.apply_write(h.vmcr, u64::from(cbpr) | u64::from(split) << 1),
        }
    }

    /// Whether it is one of those that trap with `ICH_HCR_EL2.TC`.
    fn is_common(self) -> bool {
        matches!(self, Self::Pmr(_) | Self::Ctlr(..))
    }
}

/// Who does something to a vCPU: it does it itself, or another, whose kick brings an exit.
#[derive(Clone, Copy, Debug)]
enum Who {
    Itself,
    Another,
}

#[derive(Clone, Debug)]
enum Op {
    Sgi(Who, usize, bool),
    /// Of the interrupt that ended last, if that is one: it may be shown again.
    SgiAgain(Who, bool),
    Write(Who, Word, u32),
    Priority(Who, usize, u8),
    Line(bool),
    Level(Who, bool),
    Ack,
    Eoi,
    Dir(usize),
    Icc(Who, Icc),
    Forward(Who, u32),
    Put(Who),
    Load,
    Off(bool),
    /// A call, or another exit that asks for nothing of the vGIC.
    Exit,
    /// A maintenance interrupt though nothing asks for one any more.
    Spurious,
    /// The first of EL2's interrupts that have yet to come does.
    Serve(bool),
    Read(Who),
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
    let who = || prop_oneof![2 => Just(Who::Itself), 1 => Just(Who::Another)];
    let icc = prop_oneof![
        2 => prop_oneof![Just(0xf8u8), any::<u8>()].prop_map(Icc::Pmr),
        3 => (prop::bool::weighted(0.8), prop::bool::weighted(0.8)).prop_map(|(zero, one)| Icc::Enable(zero, one)),
        1 => (0..8u64, 0..8u64).prop_map(|(zero, one)| Icc::Bpr(zero, one)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(cbpr, split)| Icc::Ctlr(cbpr, split)),
    ];
    prop_oneof![
        6 => (who(), 0..7usize, any::<bool>()).prop_map(|(who, i, one)| Op::Sgi(who, i, one)),
        4 => (who(), any::<bool>()).prop_map(|(who, one)| Op::SgiAgain(who, one)),
        5 => (who(), word, some).prop_map(|(who, word, bits)| Op::Write(who, word, bits)),
        2 => (who(), 0..INTIDS.len(), 0..32u8).prop_map(|(who, i, p)| Op::Priority(who, i, p * 8)),
        2 => any::<bool>().prop_map(Op::Line),
        2 => (who(), any::<bool>()).prop_map(|(who, high)| Op::Level(who, high)),
        8 => Just(Op::Ack),
        5 => Just(Op::Eoi),
        4 => any::<usize>().prop_map(Op::Dir),
        3 => (prop_oneof![9 => Just(Who::Itself), 1 => Just(Who::Another)], icc).prop_map(|(who, icc)| Op::Icc(who, icc)),
        1 => (who(), prop_oneof![3 => Just(3u32), 1 => 0..4u32]).prop_map(|(who, enables)| Op::Forward(who, enables)),
        1 => who().prop_map(Op::Put),
        3 => Just(Op::Load),
        1 => any::<bool>().prop_map(Op::Off),
        1 => Just(Op::Exit),
        1 => Just(Op::Spurious),
        2 => any::<bool>().prop_map(Op::Serve),
        2 => who().prop_map(Op::Read),
    ]
}

/// What a case begins with.
#[derive(Clone, Copy, Debug)]
struct Setup {
    lrs: usize,
    split: bool,
    kind: Kind,
    bpr: (u64, u64, bool),
    /// The common registers always trap.
    strict: bool,
    /// `CPU_ON` gives what hardware does; else what a host may have made of that: a CPU interface that is on.
    reset: bool,
    /// What is written to list registers shows late in `ICH_ELRSR_EL2`.
    stale: bool,
}

struct Machine {
    h: FakeIch,
    gic: VcpuGic,
    dist: Dist,
    model: Model,
    /// What `CPU_ON` gives.
    template: Vmcr,
    /// `ICH_VMCR_EL2` as EL2 last saw it.
    seen: Vmcr,
    strict: bool,
    stale: bool,
    on: bool,
    loaded: bool,
    /// SGIs for a vCPU that is not loaded.
    inbox: u32,
    ended: u32,
    /// The timer's line has fallen, and EL2 has yet to withdraw its interrupt: the guest may take it still.
    fallen: bool,
}

impl Machine {
    fn new(setup: &Setup) -> Self {
        let mut h = FakeIch::new(setup.lrs);
        h.kind = setup.kind;
        h.vmcr = h
            .vmcr
            .with_bpr0(&h.view, setup.bpr.0)
            .with_bpr1(&h.view, setup.bpr.1)
            .with_igrpen0(1);
        h.vmcr = h.view.apply_write(h.vmcr, u64::from(setup.bpr.2) | u64::from(setup.split) << 1);
        let template = if setup.reset { Vmcr::reset(&h.view) } else { h.vmcr };
        let dist = Dist::new(&h.view);
        let mut gic = VcpuGic::new(Identity {
            index: 0,
            last: true,
            affinity: 0,
        });
        gic.will_trap(Trapping {
            strict: setup.strict,
            ..Trapping::default()
        });
        gic.load(&mut h, &dist);
        Self {
            seen: h.vmcr,
            h,
            gic,
            dist,
            model: Model::default(),
            template,
            strict: setup.strict,
            stale: setup.stale,
            on: true,
            loaded: true,
            inbox: 0,
            ended: 0,
            fallen: false,
        }
    }

    // What hyp does.

    /// The guest's `ICH_VMCR_EL2` has become another.
    fn changed(&mut self) {
        self.seen = self.h.vmcr;
        let trapping = self.gic.trapping();
        if trapping.coming_up && window_closed(self.seen) {
            self.gic.will_trap(Trapping {
                coming_up: false,
                ..trapping
            });
        }
        self.gic.vmcr_changed(&mut self.h, &self.dist, self.seen);
    }

    /// What comes first in each exit but the shortest.
    fn refresh(&mut self) {
        self.h.exit(self.stale);
        if self.seen != self.h.vmcr {
            self.changed();
        }
    }

    fn attend(&mut self) {
        if self.gic.needs_attention() {
            self.gic.attend(&mut self.h, &self.dist);
        }
        self.fallen = false;
    }

    /// Whether an exit has nothing to do but what it came for: the short ways.
    fn is_undisturbed(&mut self) -> bool {
        self.h.exit(self.stale);
        let undisturbed = self.seen == self.h.vmcr && (!self.gic.may_need_attention() || self.gic.attend_ended(&self.h));
        self.fallen &= !undisturbed;
        undisturbed
    }

    /// An exit: by something that the guest does, or by an interrupt, also the kick of another that does something to it.
    fn exit(&mut self, who: Who, act: impl FnOnce(&mut Self)) {
        self.refresh();
        match who {
            Who::Itself => {
                self.attend();
                act(self);
            }
            Who::Another => {
                act(self);
                if self.loaded {
                    self.attend();
                }
            }
        }
    }

    /// What another does to a vCPU that is not loaded comes after the SGIs that wait for it.
    fn take_sgis(&mut self) {
        let word = core::mem::take(&mut self.inbox);
        self.gic.receive(&mut Absent(()), &self.dist, word);
    }

    fn write(&mut self, who: Who, offset: u64, size: u64, value: u64) {
        if !self.loaded {
            self.take_sgis();
            return self.gic.write(&mut Absent(()), &self.dist, offset, size, value);
        }
        let short = matches!(who, Who::Itself) && size == 4 && self.is_undisturbed();
        if !(short && self.gic.write_plain(&self.dist, offset, value as u32)) {
            self.exit(who, |m| m.gic.write(&mut m.h, &m.dist, offset, size, value));
        }
    }

    fn write_word(&mut self, who: Who, word: Word, bits: u32) {
        // With EOImode 0 an EOIR of an interrupt that a write has ended meanwhile cannot be told from that of another.
        let running: u32 = self.model.running.iter().fold(0, |bits, r| bits | 1 << r.intid);
        let bits = if matches!(word, Word::ClearActive) && !self.h.vmcr.splits_eoi() {
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
        self.write(who, offset, 4, bits.into());
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
            Op::Sgi(who, i, one) => self.sgi(who, INTIDS[i], one),
            Op::SgiAgain(who, one) if self.ended < 16 => self.sgi(who, self.ended, one),
            Op::Write(who, word, bits) => self.write_word(who, word, bits),
            Op::Priority(who, i, priority) => {
                let offset = redist::IPRIORITYR0 + u64::from(INTIDS[i]);
                self.write(who, offset, 1, priority.into());
                self.model.irq[INTIDS[i] as usize].priority = priority;
            }
            // While it is not loaded, only time passes.
            Op::Line(high) if high || self.loaded => {
                self.fallen |= self.h.line && !high;
                self.h.line = high;
                self.model.irq[TIMER as usize].line = high;
            }
            Op::Level(who, high) => {
                if self.loaded {
                    self.exit(who, |m| m.gic.set_line(&mut m.h, &m.dist, LEVEL, high));
                } else {
                    self.gic.set_line(&mut Absent(()), &self.dist, LEVEL, high);
                }
                self.model.irq[LEVEL as usize].line = high;
            }
            Op::Ack if self.loaded => self.ack(),
            Op::Eoi if self.loaded => self.eoi(),
            Op::Dir(n) if self.loaded => {
                let intid = if self.model.dropped.is_empty() {
                    INTIDS[n % INTIDS.len()]
                } else {
                    let n = n % self.model.dropped.len();
                    self.model.dropped.swap_remove(n)
                };
                self.dir(intid);
            }
            Op::Icc(who, icc) if self.loaded => self.icc(who, icc),
            Op::Forward(who, enables) => {
                let ask = |m: &mut Self| {
                    let effect = m.dist.write(&(), dist::CTLR, 4, enables.into());
                    assert_eq!(effect.kick, 0);
                    if effect.owners == 0 {
                        return;
                    }
                    assert_eq!(effect.owners, 1);
                    let answers = if m.loaded {
                        m.gic.spi(&mut m.h, &m.dist, effect.ask)
                    } else {
                        m.gic.spi(&mut Absent(()), &m.dist, effect.ask)
                    };
                    assert!(effect.is_over(answers));
                };
                if self.loaded {
                    self.exit(who, ask);
                } else {
                    ask(self);
                }
                self.model.enables = enables;
            }
            Op::Put(who) if self.loaded => self.exit(who, |m| {
                // The end of a slice, too, or the kick of another vCPU of the pCPU: nothing was attended to.
                m.gic.put(&mut m.h, &m.dist);
                m.left();
            }),
            Op::Load if !self.loaded => self.load(),
            Op::Off(comes_back) => self.off(comes_back),
            Op::Exit if self.loaded => self.exit(Who::Itself, |_| {}),
            Op::Spurious if self.loaded => self.exit(Who::Another, |m| m.gic.maintenance(&mut m.h, &m.dist)),
            Op::Serve(timer_first) if self.loaded => _ = self.serve(timer_first),
            Op::Read(who) => self.read(who),
            _ => {}
        }
    }

    fn left(&mut self) {
        assert!(
            (0..self.h.count()).all(|i| self.h.lr(i) == 0),
            "nothing stays in the list registers"
        );
        self.h.hcr = 0;
        (self.loaded, self.fallen) = (false, false);
    }

    fn load(&mut self) {
        // Another vCPU was here, and left the physical interrupt any way.
        self.h.active = !self.h.active;
        (self.on, self.loaded) = (true, true);
        self.seen = self.h.vmcr;
        self.gic.load(&mut self.h, &self.dist);
        let word = core::mem::take(&mut self.inbox);
        self.gic.receive(&mut self.h, &self.dist, word);
    }

    /// `CPU_OFF`, or the same of one that is not loaded; and perhaps at once `CPU_ON`.
    fn off(&mut self, comes_back: bool) {
        self.h.line = false;
        if self.loaded {
            self.exit(Who::Another, |m| {
                m.gic.park(&mut m.h, &m.dist);
                m.left();
            });
            assert!(!self.h.active);
        } else {
            self.gic.park(&mut Absent(()), &self.dist);
        }
        let model = &mut self.model;
        model.irq[TIMER as usize] = Irq {
            latch: false,
            line: false,
            active: false,
            ..model.irq[TIMER as usize]
        };
        model.running.clear();
        model.dropped.clear();
        self.on = false;
        (self.h.ap0r, self.h.ap1r) = ([0; 4], [0; 4]);
        self.h.vmcr = self.template;
        self.gic.will_trap(Trapping {
            coming_up: true,
            strict: self.strict,
            narrowed: false,
        });
        if comes_back {
            self.load();
            self.icc(Who::Itself, Icc::Pmr(0xf8));
            self.icc(Who::Itself, Icc::Enable(true, true));
        }
    }

    /// As a write of `ICC_SGI1R_EL1` by the vCPU itself goes, and a kick that brings an SGI: the short way first. Or, if it is not to be of
    /// `any` group, of another SGI register.
    fn sgi(&mut self, who: Who, intid: u32, any: bool) {
        let register = if any { SgiRegister::Any } else { SgiRegister::Zero };
        let word = sgi::word(intid, register);
        if !self.loaded {
            // What SGIs wait is not seen before somebody looks.
            self.inbox |= word;
        } else if any
            && self.is_undisturbed()
            && let Some(again) = self.gic.again(&self.h, intid)
        {
            self.gic.show(&mut self.h, again);
        } else {
            self.exit(who, |m| m.gic.receive(&mut m.h, &m.dist, word));
        }
        let irq = &mut self.model.irq[intid as usize];
        irq.latch |= any || !irq.group1;
    }

    /// Whether what is signalled may not be what would be had EL2 been told of everything.
    fn is_behind(&self) -> bool {
        self.h.misr() != 0 || self.h.line && !self.h.active
    }

    fn ack(&mut self) {
        let vmcr = self.h.vmcr;
        let (shown, maybe_none) = self.model.shown(vmcr);
        let behind = self.is_behind() || self.fallen;
        let Some(intid) = self.h.ack() else {
            assert!(shown.is_empty() || maybe_none || behind, "{shown:?} should have been signalled");
            return;
        };
        assert!(shown.contains(&intid) || behind, "{intid} was taken, the model has {shown:?}");
        self.fallen &= intid != TIMER;
        let irq = &mut self.model.irq[intid as usize];
        irq.latch = false;
        irq.active = true;
        self.model.running.push(Running {
            intid,
            level: u64::from(irq.priority) & FakeIch::preempting(vmcr, group(irq.group1)),
        });
    }

    fn eoi(&mut self) {
        let Some(Running { intid, .. }) = self.model.running.pop() else {
            return self.h.eoi(3);
        };
        self.h.eoi(intid);
        self.ended = intid;
        if self.h.vmcr.splits_eoi() {
            self.model.dropped.push(intid);
        } else {
            self.model.irq[intid as usize].active = false;
        }
    }

    fn dir(&mut self, intid: u32) {
        if self.h.dir(intid) == Dir::Trapped {
            self.exit(Who::Itself, |m| {
                let _ = m.gic.deactivate(&mut m.h, &m.dist, intid);
            });
        }
        if self.h.vmcr.splits_eoi() {
            self.model.irq[intid as usize].active = false;
        }
    }

    /// The guest writes without an exit, unless the register traps; the host by a request.
    fn icc(&mut self, who: Who, icc: Icc) {
        let vmcr = icc.apply(&self.h);
        if !self.model.may_write(self.h.vmcr, vmcr) {
            return;
        }
        if matches!(who, Who::Itself) && !(icc.is_common() && ICH_HCR_EL2::TC.is_set(self.h.hcr)) {
            self.h.vmcr = vmcr;
            return;
        }
        self.exit(who, |m| {
            if m.h.vmcr != vmcr || matches!(who, Who::Another) {
                m.h.vmcr = vmcr;
                m.changed();
            }
        });
    }

    /// The first of EL2's interrupts that wait, if there is one. In the vectors the timer's is shown again if it can be.
    fn serve(&mut self, timer_first: bool) -> bool {
        let (timer, maintenance) = (self.h.line && !self.h.active, self.h.misr() != 0);
        if timer && (timer_first || !maintenance) {
            self.h.active = true;
            self.h.exit(self.stale);
            if !self.gic.show_again(&mut self.h, TIMER) {
                self.exit(Who::Another, |m| m.gic.inject_hw(&mut m.h, &m.dist, TIMER));
            }
        } else if maintenance {
            self.exit(Who::Another, |m| m.gic.maintenance(&mut m.h, &m.dist));
        }
        timer || maintenance
    }

    /// What EL2 does before the guest runs on: it serves its interrupts until there are none.
    fn settle(&mut self, timer_first: bool) {
        if !self.loaded {
            return;
        }
        if self.fallen {
            self.exit(Who::Itself, |_| {});
        }
        for _ in 0..8 {
            if !self.serve(timer_first) {
                return;
            }
        }
        assert_eq!(self.h.misr(), 0, "EL2 never gets back to the guest: HCR {:#x}", self.h.hcr);
    }

    /// What a guest reads, also while EL2's interrupts have yet to come.
    fn read(&mut self, who: Who) {
        if !self.loaded {
            self.take_sgis();
            return self.compare(self.gic.live(&Absent(())));
        }
        if matches!(who, Who::Itself) && self.is_undisturbed() {
            let live = self.gic.live(&self.h);
            for (offset, state) in [(redist::ISPENDR0, live.pending), (redist::ICACTIVER0, live.active)] {
                if let Some(value) = self.gic.read_short(&self.h, offset, 4) {
                    assert_eq!(value, u64::from(state), "{offset:#x}, the short way");
                }
            }
            self.compare(live);
        }
        self.exit(who, |m| m.compare(m.gic.live(&m.h)));
    }

    fn compare(&self, live: Live) {
        // Nobody looks at the line of a timer that is not in the registers.
        let looked = if self.loaded { u32::MAX } else { !(1 << TIMER) };
        assert_eq!(
            live.pending & looked,
            self.model.word(|i| self.model.pending(i)) & looked,
            "pending"
        );
        if self.gic.is_quiet(&self.dist) {
            assert_eq!(
                live.pending & !(u32::from(self.h.line) << TIMER),
                0,
                "all is quiet, but for what is on its way"
            );
        }
        assert_eq!(live.active, self.model.word(|i| self.model.irq[i as usize].active), "active");
    }

    /// What holds whenever the guest runs.
    fn assert_sane(&self) {
        if self.loaded {
            self.h.assert_sane();
            assert!(self.h.hcr & 1 == 1, "the virtual interface is on");
            let trapping = self.gic.trapping();
            let dir = self.gic.spill().active != 0 && !self.h.tdir();
            assert_eq!(
                ICH_HCR_EL2::TC.is_set(self.h.hcr),
                trapping.tc() || dir,
                "what is to trap does, and nothing else"
            );
        }
    }

    /// EL2 has been told of everything.
    fn check(&self) {
        let mut model = self.model.clone();
        if !self.loaded {
            // Until it is loaded.
            model.irq[TIMER as usize].line = false;
        }
        let (shown, maybe_none) = model.shown(self.h.vmcr);
        let running = self.h.running();
        let wakes = if self.loaded {
            let timer = self.model.pending(TIMER) || self.model.irq[TIMER as usize].active;
            assert_eq!(
                self.h.active, timer,
                "the physical timer is active exactly while the virtual one is pending or active"
            );
            match self.h.signalled_intid() {
                Some(intid) => assert!(shown.contains(&intid), "{intid} is signalled, the model has {shown:?}"),
                None => assert!(shown.is_empty() || maybe_none, "{shown:?} should be signalled"),
            }
            self.gic.wakes(&self.h, &self.dist, self.h.vmcr, running)
        } else {
            !self.on || self.inbox != 0 || self.gic.wakes(&Absent(()), &self.dist, self.h.vmcr, running)
        };
        assert!(shown.is_empty() || maybe_none || wakes, "a signalled interrupt wakes");
    }

    /// A case: each operation, and after some of them EL2's interrupts have yet to come; else the timer's comes first, or not.
    fn run(setup: &Setup, priorities: &[u8], group1: u32, ops: &[(Op, bool, bool)]) {
        let mut machine = Self::new(setup);
        let all: u32 = INTIDS.iter().map(|i| 1 << i).sum();
        let itself = Who::Itself;
        let mut first = vec![
            Op::Forward(itself, 3),
            Op::Write(itself, Word::SetEnable, all),
            Op::Write(itself, Word::Group, group1 | all & 0xf),
        ];
        first.extend(priorities.iter().enumerate().map(|(i, p)| Op::Priority(itself, i, p * 8)));
        let first: Vec<_> = first.into_iter().map(|op| (op, false, true)).collect();
        for (op, late, timer_first) in first.iter().chain(ops) {
            machine.step(op);
            machine.assert_sane();
            if !late {
                machine.settle(*timer_first);
                machine.assert_sane();
                machine.check();
            }
        }
        machine.settle(true);
        machine.check();
        machine.read(itself);
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
        (strict, reset, stale) in (prop::bool::weighted(0.2), any::<bool>(), any::<bool>()),
        priorities in proptest::collection::vec(0..32u8, INTIDS.len()),
        group1: u32,
        ops in proptest::collection::vec((op(), prop::bool::weighted(0.3), any::<bool>()), 0..if cfg!(miri) { 20 } else { 160 }),
    ) {
        Machine::run(&Setup { lrs, split, kind, bpr, strict, reset, stale }, &priorities, group1, &ops);
    }
}
