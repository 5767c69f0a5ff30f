//! Several vCPUs and their SPIs against a slow and obvious model: every interrupt has its own few booleans, and what each vCPU may
//! take is worked out from all of them each time. Nothing here knows of list registers, inboxes or who holds what. Behind some of the
//! SPIs stand physical ones: to the guest they are as any other, and the physical ones are active while they are pending or active.

use super::dist::{self, Dist, Effect, PASSES, Vcpus};
use super::fake::{Absent, Dir, FakeIch, FakeSpis, Kind, Lines};
use super::lr::VcpuGic;
use super::redist::{self, Identity};
use super::vmcr::Vmcr;
use super::{Group, Ich, PhysicalSpis, for_each};
use proptest::prelude::*;
use std::sync::Arc;

/// Few enough for them to meet: SGIs, and SPIs of several words.
const INTIDS: [u32; 9] = [1, 2, 32, 33, 34, 63, 64, 100, 287];
const VCPUS: usize = 3;

#[derive(Clone, Copy, Default)]
struct Irq {
    latch: bool,
    line: bool,
    /// The guest's to configure, unless it is backed.
    edge: bool,
    backed: bool,
    active: bool,
    enabled: bool,
    group1: bool,
    priority: u8,
    /// `None`: any vCPU.
    route: Option<usize>,
}

impl Irq {
    fn pending(&self) -> bool {
        self.latch || self.line && !self.edge
    }

    /// Whether the next edge comes before the last is taken. From a device it counts, or does not: that depends on when the last one came
    /// to EL2.
    fn second_edge(&self) -> bool {
        self.backed && self.edge && self.latch
    }
}

#[derive(Clone, Default)]
struct Cpu {
    private: [Irq; 32],
    /// The running interrupts, the innermost last: INTID, group 1, and the part of its priority that preempts.
    running: Vec<(u32, bool, u64)>,
    /// Private ones that were dropped, with EOImode 1, and are still to be deactivated.
    dropped: Vec<u32>,
}

struct Model {
    spi: [Irq; 288],
    cpu: [Cpu; VCPUS],
    /// SPIs that somebody dropped.
    dropped: Vec<u32>,
    enables: u32,
}

impl Model {
    fn irq(&mut self, cpu: usize, intid: u32) -> &mut Irq {
        if intid < 32 {
            &mut self.cpu[cpu].private[intid as usize]
        } else {
            &mut self.spi[intid as usize]
        }
    }

    fn get(&self, cpu: usize, intid: u32) -> Irq {
        if intid < 32 {
            self.cpu[cpu].private[intid as usize]
        } else {
            self.spi[intid as usize]
        }
    }

    fn deliverable(&self, irq: &Irq) -> bool {
        irq.pending() && !irq.active && irq.enabled && self.enables >> u32::from(irq.group1) & 1 == 1
    }

    fn urgent(&self, cpu: usize, irq: &Irq, vmcr: Vmcr) -> bool {
        let group = if irq.group1 { Group::One } else { Group::Zero };
        let on = if irq.group1 { vmcr.igrpen1() } else { vmcr.igrpen0() } == 1;
        let level = u64::from(irq.priority) & FakeIch::preempting(vmcr, group);
        let running = &self.cpu[cpu].running;
        on && u64::from(irq.priority) < vmcr.pmr() && running.iter().all(|&(_, _, running)| level < running)
    }

    /// Whether `cpu` may take `intid` now: it is for this vCPU, and nothing that is for this vCPU alone comes before it.
    fn may_take(&self, cpu: usize, intid: u32, vmcr: Vmcr) -> bool {
        let irq = self.get(cpu, intid);
        let mine = intid < 32 || irq.route.is_none_or(|route| route == cpu);
        let first = self.for_alone(cpu, vmcr).map(|(_, other)| other.priority).min();
        mine && self.deliverable(&irq) && self.urgent(cpu, &irq, vmcr) && first.is_none_or(|first| irq.priority <= first)
    }

    /// What is deliverable to `cpu` and to nobody else, of a group that it takes.
    fn for_alone(&self, cpu: usize, vmcr: Vmcr) -> impl Iterator<Item = (u32, Irq)> {
        INTIDS
            .into_iter()
            .map(move |intid| (intid, self.get(cpu, intid)))
            .filter(move |(intid, irq)| {
                let on = if irq.group1 { vmcr.igrpen1() } else { vmcr.igrpen0() } == 1;
                on && self.deliverable(irq) && (*intid < 32 || irq.route == Some(cpu))
            })
    }

    /// Whether `cpu` must be signalled something: what comes first is urgent enough, whichever that is of several alike.
    fn must_take(&self, cpu: usize, vmcr: Vmcr) -> bool {
        let first = self.for_alone(cpu, vmcr).map(|(_, irq)| irq.priority).min();
        let mut tied = self.for_alone(cpu, vmcr).filter(|(_, irq)| Some(irq.priority) == first).peekable();
        tied.peek().is_some() && tied.all(|(_, irq)| self.urgent(cpu, &irq, vmcr))
    }
}

#[derive(Clone, Copy, Debug)]
enum Bits {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

#[derive(Clone, Debug)]
enum Op {
    Raise(u32),
    Line(u32, bool),
    Sgi(usize, u32),
    Write(Bits, u32, u32),
    Priority(u32, u8),
    Edge(u32, bool),
    Route(u32, Option<usize>),
    Ack(usize),
    Eoi(usize),
    Dir(usize, usize),
    Mask(usize, u8),
    GroupEnable(usize, bool, bool),
    Forward(u32),
    Put(usize),
    Load(usize),
    Off(usize),
    Exit(usize),
    Read,
}

fn op() -> impl Strategy<Value = Op> {
    let bits = prop_oneof![
        Just(Bits::Group),
        Just(Bits::SetEnable),
        Just(Bits::SetEnable),
        Just(Bits::ClearEnable),
        Just(Bits::SetPending),
        Just(Bits::ClearPending),
        Just(Bits::SetActive),
        Just(Bits::ClearActive),
        Just(Bits::ClearActive),
    ];
    let spi = || proptest::sample::select(&INTIDS[2..]);
    let cpu = || 0..VCPUS;
    prop_oneof![
        6 => spi().prop_map(Op::Raise),
        5 => (spi(), any::<bool>()).prop_map(|(i, high)| Op::Line(i, high)),
        3 => (cpu(), 1..3u32).prop_map(|(c, i)| Op::Sgi(c, i)),
        5 => (bits, 0..9u32, any::<u32>()).prop_map(|(bits, word, value)| Op::Write(bits, word, value | value >> 16)),
        2 => (spi(), 0..32u8).prop_map(|(i, p)| Op::Priority(i, p * 8)),
        1 => (spi(), any::<bool>()).prop_map(|(i, edge)| Op::Edge(i, edge)),
        3 => (spi(), proptest::option::of(0..VCPUS + 1)).prop_map(|(i, route)| Op::Route(i, route)),
        12 => cpu().prop_map(Op::Ack),
        8 => cpu().prop_map(Op::Eoi),
        5 => (cpu(), any::<usize>()).prop_map(|(c, n)| Op::Dir(c, n)),
        1 => (cpu(), prop_oneof![Just(0xf8u8), any::<u8>()]).prop_map(|(c, pmr)| Op::Mask(c, pmr)),
        1 => (cpu(), prop::bool::weighted(0.7), prop::bool::weighted(0.7)).prop_map(|(c, zero, one)| Op::GroupEnable(c, zero, one)),
        1 => prop_oneof![3 => Just(3u32), 1 => 0..4u32].prop_map(Op::Forward),
        2 => cpu().prop_map(Op::Put),
        3 => cpu().prop_map(Op::Load),
        1 => cpu().prop_map(Op::Off),
        1 => cpu().prop_map(Op::Exit),
        2 => Just(Op::Read),
    ]
}

struct Vcpu {
    h: FakeIch,
    gic: VcpuGic,
    loaded: bool,
    on: bool,
    /// `ICH_VMCR_EL2` as of its last exit: the guest writes that without one.
    seen: Vmcr,
    /// What is written to list registers shows late in `ICH_ELRSR_EL2`.
    stale: bool,
}

impl Vcpu {
    /// What comes first in an exit.
    fn refresh(&mut self, dist: &Dist) {
        if !self.loaded {
            return;
        }
        self.h.exit(self.stale);
        if self.seen != self.h.vmcr {
            self.seen = self.h.vmcr;
            self.gic.vmcr_changed(&mut self.h, dist, self.seen);
        }
    }

    /// Whether an exit has nothing to do but what it came for: the short ways.
    fn is_undisturbed(&mut self) -> bool {
        self.h.exit(self.stale);
        self.loaded && self.seen == self.h.vmcr && (!self.gic.may_need_attention() || self.gic.attend_ended(&self.h))
    }
}

struct Machine {
    cpu: Vec<Vcpu>,
    dist: Dist,
    spis: Arc<FakeSpis>,
    model: Model,
    split: bool,
    /// Maintenance interrupts, and perhaps others, have yet to come.
    late: bool,
}

impl Machine {
    /// `behind` says behind which SPIs a physical one stands, an edge or a level.
    fn new((lrs, split, stale): (usize, bool, bool), kind: Kind, lines: Lines, behind: &[Option<bool>]) -> Self {
        let backed = |(intid, behind): (u32, &Option<bool>)| behind.map(|edge| (intid, edge));
        let backed: Vec<(u32, bool)> = INTIDS[2..].iter().copied().zip(behind).filter_map(backed).collect();
        let edges: Vec<u32> = backed.iter().filter(|b| b.1).map(|b| b.0).collect();
        let spis = FakeSpis::new(lines, &edges);
        let cpu: Vec<Vcpu> = (0..VCPUS)
            .map(|index| {
                let mut h = FakeIch::new(lrs);
                h.kind = kind;
                h.spis = Arc::clone(&spis);
                h.vmcr = h.vmcr.with_igrpen0(1);
                h.vmcr = h.view.apply_write(h.vmcr, u64::from(split) << 1);
                let gic = VcpuGic::new(Identity {
                    index,
                    last: index + 1 == VCPUS,
                    affinity: index as u64,
                });
                Vcpu {
                    seen: h.vmcr,
                    h,
                    gic,
                    loaded: false,
                    on: false,
                    stale,
                }
            })
            .collect();
        let route = Irq {
            route: Some(0),
            ..Irq::default()
        };
        let mut model = Model {
            spi: [route; 288],
            cpu: Default::default(),
            dropped: Vec::new(),
            enables: 0,
        };
        let dist = Dist::new(&cpu[0].h.view);
        for (intid, edge) in backed {
            dist.back(intid, edge);
            (model.spi[intid as usize].backed, model.spi[intid as usize].edge) = (true, edge);
        }
        Self {
            dist,
            cpu,
            spis,
            model,
            split,
            late: false,
        }
    }

    // What hyp does.

    /// Everybody in `vcpus` looks, and whoever that concerns, until it is quiet.
    fn kick(&mut self, mut vcpus: Vcpus) {
        for round in 0.. {
            assert!(round < 64, "vCPUs hand SPIs to each other for ever");
            for vcpu in &mut self.cpu {
                vcpus |= vcpu.gic.take_kicks();
            }
            if vcpus == 0 {
                return;
            }
            for (index, vcpu) in self.cpu.iter_mut().enumerate() {
                if vcpus >> index & 1 != 0 && vcpu.loaded {
                    vcpu.refresh(&self.dist);
                    vcpu.gic.receive_spis(&mut vcpu.h, &self.dist);
                }
            }
            vcpus = 0;
        }
    }

    fn apply(&mut self, effect: Effect) -> u64 {
        let mut answer = 0;
        for_each(effect.owners.into(), |index| {
            let vcpu = &mut self.cpu[index as usize];
            vcpu.refresh(&self.dist);
            answer |= if vcpu.loaded {
                vcpu.gic.spi(&mut vcpu.h, &self.dist, effect.ask)
            } else {
                vcpu.gic.spi(&mut Absent(self.spis.clone()), &self.dist, effect.ask)
            };
        });
        self.kick(effect.kick);
        answer
    }

    fn sample(&mut self) {
        let kicks = self.dist.sample(&self.spis);
        self.kick(kicks);
    }

    /// An exit that asks for nothing.
    fn exit(&mut self, index: usize) {
        let vcpu = &mut self.cpu[index];
        if vcpu.loaded && !vcpu.is_undisturbed() {
            vcpu.refresh(&self.dist);
            vcpu.gic.attend(&mut vcpu.h, &self.dist);
        }
        self.kick(0);
    }

    /// What fires physically arrives.
    fn arrive(&mut self) {
        for round in 0.. {
            assert!(round < 64, "an interrupt fires again and again, and the guest never runs");
            let Some(intid) = self.spis.acknowledge() else { return };
            let kicks = self.dist.fire(intid);
            self.kick(kicks);
            if !self.late {
                self.settle();
            }
        }
    }

    fn write(&mut self, offset: u64, size: u64, value: u64) {
        self.sample();
        let effect = self.dist.write(&self.spis, offset, size, value);
        self.distributed(effect, offset, size, Some(value));
    }

    fn read(&mut self, offset: u64) -> u32 {
        self.sample();
        let (value, effect) = self.dist.read(&self.spis, offset, 4);
        value as u32 | self.distributed(effect, offset, 4, None)
    }

    fn distributed(&mut self, mut effect: Effect, offset: u64, size: u64, value: Option<u64>) -> u32 {
        let mut read = 0;
        for pass in 0.. {
            assert!(pass < PASSES, "SPIs go from vCPU to vCPU for ever");
            let answers = self.apply(effect);
            read |= answers as u32;
            if effect.is_over(answers) {
                break;
            }
            effect = match value {
                Some(value) => self.dist.write(&self.spis, offset, size, value),
                None => {
                    let (seen, effect) = self.dist.read(&self.spis, offset, size);
                    read |= seen as u32;
                    effect
                }
            };
        }
        read
    }

    fn settle(&mut self) {
        for vcpu in self.cpu.iter_mut().filter(|vcpu| vcpu.loaded) {
            let mut rounds = 0;
            while vcpu.h.misr() != 0 {
                rounds += 1;
                assert!(
                    rounds < 16,
                    "EL2 never gets back to the guest: MISR {:#x} HCR {:#x}",
                    vcpu.h.misr(),
                    vcpu.h.hcr
                );
                vcpu.refresh(&self.dist);
                vcpu.gic.maintenance(&mut vcpu.h, &self.dist);
            }
        }
        self.kick(0);
    }

    fn load(&mut self, index: usize) {
        let vcpu = &mut self.cpu[index];
        if !vcpu.loaded {
            (vcpu.loaded, vcpu.on, vcpu.seen) = (true, true, vcpu.h.vmcr);
            vcpu.gic.load(&mut vcpu.h, &self.dist);
        }
        self.kick(0);
    }

    /// A write to the private registers of a vCPU, or to the distributor's.
    fn write_bits(&mut self, bits: Bits, word: u32, value: u32) {
        let meant = |intid: u32| intid / 32 == word && value >> (intid % 32) & 1 == 1 && INTIDS.contains(&intid);
        // With EOImode 0 an EOIR of an interrupt that a write has ended meanwhile cannot be told from that of another.
        let running = |model: &Model, cpu: usize, intid: u32| {
            let any = |c: &Cpu| c.running.iter().any(|r| r.0 == intid);
            if intid < 32 {
                any(&model.cpu[cpu])
            } else {
                model.cpu.iter().any(any)
            }
        };
        let cpus = if word == 0 { 0..VCPUS } else { 0..1 };
        for cpu in cpus {
            let mut now = 0u32;
            for intid in INTIDS.into_iter().filter(|i| meant(*i)) {
                if matches!(bits, Bits::ClearActive) && !self.split && running(&self.model, cpu, intid) {
                    continue;
                }
                let irq = self.model.get(cpu, intid);
                if matches!(bits, Bits::SetPending) && irq.second_edge() {
                    continue;
                }
                now |= 1 << (intid % 32);
            }
            if word == 0 {
                let offset = match bits {
                    Bits::Group => redist::IGROUPR0,
                    Bits::SetEnable => redist::ISENABLER0,
                    Bits::ClearEnable => redist::ICENABLER0,
                    Bits::SetPending => redist::ISPENDR0,
                    Bits::ClearPending => redist::ICPENDR0,
                    Bits::SetActive => redist::ISACTIVER0,
                    Bits::ClearActive => redist::ICACTIVER0,
                };
                let vcpu = &mut self.cpu[cpu];
                if vcpu.is_undisturbed() && vcpu.gic.write_plain(&self.dist, offset, now) {
                    // The short way.
                } else if vcpu.loaded {
                    vcpu.refresh(&self.dist);
                    vcpu.gic.write(&mut vcpu.h, &self.dist, offset, 4, now.into());
                } else {
                    vcpu.gic.write(&mut Absent(self.spis.clone()), &self.dist, offset, 4, now.into());
                }
                self.kick(0);
            } else {
                let offset = match bits {
                    Bits::Group => dist::IGROUPR,
                    Bits::SetEnable => dist::ISENABLER,
                    Bits::ClearEnable => dist::ICENABLER,
                    Bits::SetPending => dist::ISPENDR,
                    Bits::ClearPending => dist::ICPENDR,
                    Bits::SetActive => dist::ISACTIVER,
                    Bits::ClearActive => dist::ICACTIVER,
                };
                self.write(offset + 4 * u64::from(word), 4, now.into());
            }
            for intid in INTIDS.into_iter().filter(|i| i / 32 == word) {
                let set = now >> (intid % 32) & 1 == 1;
                let irq = self.model.irq(cpu, intid);
                match bits {
                    Bits::Group => irq.group1 = set,
                    _ if !set => {}
                    Bits::SetEnable => irq.enabled = true,
                    Bits::ClearEnable => irq.enabled = false,
                    Bits::SetPending => irq.latch = true,
                    Bits::ClearPending => irq.latch = false,
                    Bits::SetActive => irq.active = true,
                    Bits::ClearActive => irq.active = false,
                }
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Raise(intid) | Op::Line(intid, _) if self.model.spi[intid as usize].backed => self.device(intid, op),
            Op::Raise(intid) => {
                let kicks = self.dist.raise_edge(intid);
                self.kick(kicks.map_or(0, |v| 1 << v));
                self.model.spi[intid as usize].latch = true;
            }
            Op::Line(intid, high) => {
                let kicks = self.dist.set_line(intid, high);
                self.kick(kicks.map_or(0, |v| 1 << v));
                let irq = &mut self.model.spi[intid as usize];
                irq.latch |= irq.edge && high && !irq.line;
                irq.line = high;
            }
            Op::Sgi(cpu, intid) => {
                let vcpu = &mut self.cpu[cpu];
                if vcpu.is_undisturbed()
                    && let Some(again) = vcpu.gic.again(&vcpu.h, intid)
                {
                    vcpu.gic.show(&mut vcpu.h, again);
                } else if vcpu.loaded {
                    vcpu.refresh(&self.dist);
                    vcpu.gic.inject(&mut vcpu.h, &self.dist, intid);
                } else {
                    vcpu.gic.inject(&mut Absent(self.spis.clone()), &self.dist, intid);
                }
                self.model.cpu[cpu].private[intid as usize].latch = true;
            }
            Op::Write(bits, word, value) => self.write_bits(bits, word, value),
            Op::Priority(intid, priority) => {
                self.write(dist::IPRIORITYR + u64::from(intid), 1, priority.into());
                self.model.spi[intid as usize].priority = priority;
            }
            Op::Edge(intid, edge) => {
                let first = intid / 16 * 16;
                let wanted = |i: u32| if i == intid { edge } else { self.model.spi[i as usize].edge };
                let value: u64 = (first..first + 16).map(|i| u64::from(wanted(i)) << ((i % 16) * 2 + 1)).sum();
                let irq = &mut self.model.spi[intid as usize];
                // The trigger of a physical one is its device's.
                irq.edge = if irq.backed { irq.edge } else { edge };
                self.write(dist::ICFGR + u64::from(intid / 16) * 4, 4, value);
            }
            Op::Route(intid, route) => {
                let value = route.map_or(1 << 31, |vcpu| vcpu as u64);
                self.write(dist::IROUTER + 8 * u64::from(intid), 8, value);
                self.model.spi[intid as usize].route = route;
            }
            Op::Ack(cpu) => self.ack(cpu),
            Op::Eoi(cpu) => self.eoi(cpu),
            Op::Dir(cpu, n) => self.dir(cpu, n),
            Op::Mask(cpu, pmr) => {
                let h = &mut self.cpu[cpu].h;
                h.vmcr = h.vmcr.with_pmr(&h.view, pmr.into());
            }
            Op::GroupEnable(cpu, zero, one) => {
                let vcpu = &mut self.cpu[cpu];
                if vcpu.loaded {
                    vcpu.h.vmcr = vcpu.h.vmcr.with_igrpen0(zero.into()).with_igrpen1(one.into());
                }
            }
            Op::Forward(enables) => {
                self.write(dist::CTLR, 4, enables.into());
                self.model.enables = enables;
            }
            Op::Put(cpu) => {
                let vcpu = &mut self.cpu[cpu];
                if vcpu.loaded {
                    vcpu.refresh(&self.dist);
                    vcpu.gic.put(&mut vcpu.h, &self.dist);
                    vcpu.loaded = false;
                    vcpu.h.hcr = 0;
                    assert!(
                        (0..vcpu.h.count()).all(|i| vcpu.h.lr(i) == 0),
                        "nothing stays in the list registers"
                    );
                }
                self.kick(0);
            }
            Op::Load(cpu) => self.load(cpu),
            Op::Off(cpu) => {
                let vcpu = &mut self.cpu[cpu];
                vcpu.refresh(&self.dist);
                if vcpu.loaded {
                    vcpu.gic.park(&mut vcpu.h, &self.dist);
                } else {
                    vcpu.gic.park(&mut Absent(self.spis.clone()), &self.dist);
                }
                (vcpu.loaded, vcpu.on) = (false, false);
                (vcpu.h.ap0r, vcpu.h.ap1r, vcpu.h.hcr) = ([0; 4], [0; 4], 0);
                let model = &mut self.model.cpu[cpu];
                let running = core::mem::take(&mut model.running);
                if self.split {
                    // Still to be deactivated, by whoever.
                    self.model.dropped.extend(running.into_iter().map(|r| r.0).filter(|i| *i >= 32));
                }
                self.kick(0);
            }
            Op::Exit(cpu) => self.exit(cpu),
            Op::Read => self.compare(),
        }
    }

    /// The device behind a physical SPI does something. When a level has fallen, every vCPU that runs makes two exits: the one that may
    /// have brought it, and the one that sees it. And then two more: one that is another vCPU's may only go there by the second.
    fn device(&mut self, intid: u32, op: &Op) {
        let irq = &mut self.model.spi[intid as usize];
        let (high, pulse) = match *op {
            Op::Line(_, high) => (high, false),
            _ => (true, true),
        };
        if high && irq.second_edge() || pulse && !irq.edge {
            return;
        }
        irq.latch |= irq.edge && high && !irq.line;
        irq.line = high && !pulse;
        self.spis.set_line(intid, high);
        if pulse {
            self.spis.set_line(intid, false);
        }
        if !high && !irq.edge {
            for _ in 0..4 {
                self.arrive();
                (0..VCPUS).for_each(|cpu| self.exit(cpu));
            }
            self.sample();
        }
    }

    /// The VM is reset: every vCPU leaves for good, the physical interrupts are turned off, and then everything is as at first.
    fn reset(&mut self) {
        for vcpu in &mut self.cpu {
            if vcpu.loaded {
                vcpu.gic.park(&mut vcpu.h, &self.dist);
            } else {
                vcpu.gic.park(&mut Absent(self.spis.clone()), &self.dist);
            }
            (vcpu.loaded, vcpu.on) = (false, false);
            (vcpu.h.ap0r, vcpu.h.ap1r, vcpu.h.hcr) = ([0; 4], [0; 4], 0);
        }
        for word in 0..8 {
            self.spis.clear_pending(word, u32::MAX);
            self.spis.set_active(word, u32::MAX, false);
        }
        for vcpu in &mut self.cpu {
            vcpu.gic.reset();
        }
        self.dist.reset();
        for irq in &mut self.model.spi {
            *irq = Irq {
                line: irq.line,
                edge: irq.backed && irq.edge,
                backed: irq.backed,
                route: Some(0),
                ..Irq::default()
            };
        }
        self.model.cpu = Default::default();
        self.model.dropped.clear();
        self.model.enables = 0;
    }

    fn ack(&mut self, cpu: usize) {
        let vcpu = &mut self.cpu[cpu];
        if !vcpu.loaded {
            return;
        }
        let vmcr = vcpu.h.vmcr;
        let Some(intid) = vcpu.h.ack() else {
            assert!(
                self.late || !self.model.must_take(cpu, vmcr),
                "vCPU {cpu} should have been signalled something"
            );
            return;
        };
        assert!(self.late || self.model.may_take(cpu, intid, vmcr), "vCPU {cpu} took {intid}");
        let irq = self.model.irq(cpu, intid);
        let group = if irq.group1 { Group::One } else { Group::Zero };
        let level = u64::from(irq.priority) & FakeIch::preempting(vmcr, group);
        (irq.latch, irq.active) = (false, true);
        let group1 = irq.group1;
        self.model.cpu[cpu].running.push((intid, group1, level));
    }

    fn eoi(&mut self, cpu: usize) {
        let vcpu = &mut self.cpu[cpu];
        if !vcpu.loaded {
            return;
        }
        let Some((intid, _, _)) = self.model.cpu[cpu].running.pop() else {
            return vcpu.h.eoi(33);
        };
        vcpu.h.eoi(intid);
        if !self.split {
            self.model.irq(cpu, intid).active = false;
        } else if intid < 32 {
            self.model.cpu[cpu].dropped.push(intid);
        } else {
            self.model.dropped.push(intid);
        }
    }

    /// One that was dropped here, or an SPI that was dropped anywhere, or any other.
    fn dir(&mut self, cpu: usize, n: usize) {
        if !self.cpu[cpu].loaded {
            return;
        }
        let model = &mut self.model;
        let list = if n.is_multiple_of(2) {
            &mut model.dropped
        } else {
            &mut model.cpu[cpu].dropped
        };
        let intid = if list.is_empty() {
            INTIDS[n % INTIDS.len()]
        } else {
            list.swap_remove(n / 2 % list.len())
        };
        if self.cpu[cpu].h.dir(intid) == Dir::Trapped {
            let vcpu = &mut self.cpu[cpu];
            vcpu.refresh(&self.dist);
            let effect = vcpu.gic.deactivate(&mut vcpu.h, &self.dist, intid);
            let (offset, bit) = dist::active(intid);
            self.distributed(effect, offset, 4, Some(bit));
        }
        if self.split {
            self.model.irq(cpu, intid).active = false;
        }
    }

    /// What a guest reads.
    fn compare(&mut self) {
        for word in 1..9 {
            let pending = self.read(dist::ISPENDR + 4 * word);
            let active = self.read(dist::ICACTIVER + 4 * word);
            let bits = |f: fn(&Irq) -> bool| {
                (0..32)
                    .map(|i| u32::from(f(&self.model.spi[word as usize * 32 + i])) << i)
                    .sum::<u32>()
            };
            // Where the physical distributor does not tell, an active one hides the line behind it, also when the guest has ended it and EL2
            // has yet to see that; and one that must fire again to be known is not pending meanwhile.
            let hidden = match self.spis.lines {
                Lines::Shown => 0,
                Lines::Probed if !self.late => bits(|irq| irq.backed && irq.active && !irq.latch),
                Lines::Probed | Lines::Unknown => bits(|irq| irq.backed && !irq.latch),
            };
            assert_eq!(pending & !hidden, bits(Irq::pending) & !hidden, "pending, word {word}");
            assert_eq!(active, bits(|irq| irq.active), "active, word {word}");
        }
    }

    fn check(&mut self) {
        for cpu in 0..VCPUS {
            let vcpu = &self.cpu[cpu];
            let vmcr = vcpu.h.vmcr;
            let must = self.model.must_take(cpu, vmcr);
            assert!(
                !must || !vcpu.on || !vcpu.gic.is_quiet(&self.dist),
                "vCPU {cpu} has something to take"
            );
            if vcpu.loaded {
                vcpu.h.assert_sane();
                match vcpu.h.signalled_intid() {
                    Some(intid) => assert!(self.model.may_take(cpu, intid, vmcr), "vCPU {cpu} is signalled {intid}"),
                    None => assert!(!must, "vCPU {cpu} should be signalled something"),
                }
            } else if must && vcpu.on {
                assert!(
                    vcpu.gic.wakes(&Absent(()), &self.dist, vmcr, vcpu.h.running()),
                    "vCPU {cpu} should wake"
                );
            }
        }
        self.check_any();
        for intid in INTIDS.into_iter().filter(|i| *i >= 32) {
            let irq = &self.model.spi[intid as usize];
            if irq.backed {
                let live = irq.pending() || irq.active;
                assert_eq!(self.spis.is_active(intid), live, "the physical {intid} is active, the guest has it");
            }
        }
    }

    /// What any vCPU may take is signalled to one, unless each that could has something else to do.
    fn check_any(&self) {
        for intid in INTIDS.into_iter().filter(|i| *i >= 32) {
            let irq = &self.model.spi[intid as usize];
            if irq.route.is_some() || !self.model.deliverable(irq) {
                continue;
            }
            let free = |cpu: usize| {
                let vcpu = &self.cpu[cpu];
                vcpu.loaded && vcpu.h.signalled().is_none() && self.model.urgent(cpu, irq, vcpu.h.vmcr)
            };
            assert!(!(0..VCPUS).all(free), "{intid} should be signalled to some vCPU");
        }
    }
}

/// A VM, what it is configured with first, and what happens then: the second time, after a reset, less.
struct Case<'a> {
    lrs: usize,
    split: bool,
    /// What is written to list registers shows late in `ICH_ELRSR_EL2`.
    stale: bool,
    kind: Kind,
    priorities: &'a [u8],
    groups: u32,
    routes: &'a [Option<usize>],
    lines: Lines,
    /// Behind which SPIs a physical one stands, an edge or a level.
    behind: &'a [Option<bool>],
    later: usize,
    /// After each operation; if there are more, all of them come then.
    comes: &'a [Comes],
}

/// Which of EL2's interrupts come before the guest's next operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    Nothing,
    /// Those of devices.
    Physical,
    All,
}

impl Case<'_> {
    fn run(&self, ops: &[Op]) {
        let mut machine = Machine::new((self.lrs, self.split, self.stale), self.kind, self.lines, self.behind);
        let mut first = vec![Op::Forward(3), Op::Load(0), Op::Load(1), Op::Load(2)];
        for word in 0..9 {
            first.push(Op::Write(Bits::Group, word, self.groups.rotate_left(word)));
            first.push(Op::Write(Bits::SetEnable, word, u32::MAX));
        }
        for (i, &intid) in INTIDS.iter().enumerate().skip(2) {
            first.push(Op::Priority(intid, self.priorities[i] * 8));
            first.push(Op::Route(intid, self.routes[i]));
        }
        for ops in [ops, &ops[..self.later.min(ops.len())]] {
            let comes = first
                .iter()
                .map(|_| Comes::All)
                .chain(self.comes.iter().copied())
                .chain(core::iter::repeat(Comes::All));
            for (op, comes) in first.iter().chain(ops).zip(comes) {
                machine.step(op);
                machine.late = comes != Comes::All;
                if comes == Comes::All {
                    machine.settle();
                }
                if comes != Comes::Nothing {
                    machine.arrive();
                }
                if comes == Comes::All {
                    machine.check();
                }
            }
            machine.compare();
            machine.reset();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 8 * ProptestConfig::default().cases }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn vcpus_see_what_the_model_sees(
        lrs in prop_oneof![Just(1usize), Just(2), Just(4), Just(4), Just(16)],
        (split, stale) in any::<(bool, bool)>(),
        kind in proptest::sample::select(&Kind::ALL[..]),
        priorities in proptest::collection::vec(0..32u8, INTIDS.len()),
        groups: u32,
        routes in proptest::collection::vec(proptest::option::of(0..VCPUS), INTIDS.len()),
        ops in proptest::collection::vec(op(), 0..if cfg!(miri) { 40 } else { 200 }),
        lines in proptest::sample::select(&[Lines::Shown, Lines::Probed, Lines::Unknown][..]),
        behind in proptest::collection::vec(proptest::option::of(prop::bool::weighted(0.3)), INTIDS.len() - 2),
        later in 0..60usize,
        comes in proptest::collection::vec(proptest::sample::select(&[Comes::Nothing, Comes::Physical, Comes::All, Comes::All, Comes::All][..]), 0..200),
    ) {
        let case = Case { lrs, split, stale, kind, priorities: &priorities, groups, routes: &routes, lines, behind: &behind, later, comes: &comes };
        case.run(&ops);
    }
}

/// Cases that were found by the test above, and others like them.
fn case<'a>(lrs: usize, split: bool, lines: Lines, routes: &'a [Option<usize>], behind: &'a [Option<bool>]) -> Case<'a> {
    Case {
        lrs,
        split,
        stale: false,
        kind: Kind::ARM,
        priorities: &[0; INTIDS.len()],
        groups: 0,
        routes,
        lines,
        behind,
        later: usize::MAX,
        comes: &[],
    }
}

#[test]
fn a_line_falls_while_its_interrupt_goes_to_another_vcpu() {
    let behind = [None, None, Some(false), None, None, None, Some(false)];
    let case = case(1, false, Lines::Unknown, &[None; INTIDS.len()], &behind);
    let line = |high| Op::Line(287, high);
    case.run(&[Op::Off(0), Op::Load(0), line(false), line(true), Op::Line(34, true)]);
    case.run(&[Op::Line(34, true), line(true), Op::Off(0), Op::Load(0), line(false)]);
}

/// On vCPU 0, which then leaves its pCPU: nobody takes over what is left for it in the distributor.
fn active_and_away(intid: u32) -> Vec<Op> {
    vec![Op::Line(intid, true), Op::Ack(0), Op::Line(intid, false), Op::Put(0)]
}

#[test]
fn another_vcpu_ends_what_a_write_has_made_pending_again() {
    for (split, end) in [(true, Op::Dir(1, 5)), (true, Op::Write(Bits::ClearActive, 1, 1 << 31))] {
        for edge in [false, true] {
            let behind = [None, None, None, Some(edge)];
            let mut ops = active_and_away(63);
            ops.push(Op::Write(Bits::SetPending, 1, 1 << 31));
            ops.push(end.clone());
            ops.extend([Op::Read, Op::Load(0), Op::Ack(0), Op::Eoi(0), Op::Dir(0, 0)]);
            case(1, split, Lines::Shown, &[Some(0); INTIDS.len()], &behind).run(&ops);
        }
    }
}

#[test]
fn what_a_write_has_made_pending_is_taken_back_and_it_stays_active() {
    for split in [false, true] {
        for edge in [false, true] {
            let behind = [None, None, None, Some(edge)];
            let mut ops = active_and_away(63);
            ops.push(Op::Write(Bits::SetPending, 1, 1 << 31));
            ops.push(Op::Write(Bits::ClearPending, 1, 1 << 31));
            ops.extend([Op::Read, Op::Load(0), Op::Eoi(0), Op::Dir(0, 0)]);
            case(1, split, Lines::Shown, &[Some(0); INTIDS.len()], &behind).run(&ops);
        }
    }
}

/// The maintenance interrupt that its end asks for has yet to come when a write to a CPU interface's registers brings an exit.
#[test]
fn what_has_ended_without_a_list_register_is_signalled_again_after_an_exit_that_counts_it() {
    let mut case = case(1, false, Lines::Shown, &[None; INTIDS.len()], &[]);
    case.groups = 1 << 2;
    let (late, all) = (Comes::Physical, Comes::All);
    let comes = [all, all, all, late, late, late, late, all];
    case.comes = &comes;
    let mut ops = vec![Op::GroupEnable(2, true, false), Op::Sgi(2, 1), Op::Sgi(2, 2)];
    ops.extend([Op::Ack(2), Op::Sgi(2, 1), Op::Eoi(2), Op::Mask(2, 0xf0), Op::Exit(2), Op::Ack(2)]);
    case.run(&ops);
}

#[test]
fn a_line_that_is_high_is_known_again_once_its_interrupt_has_ended_without_a_list_register() {
    for lines in [Lines::Shown, Lines::Probed, Lines::Unknown] {
        let mut case = case(1, false, lines, &[None; INTIDS.len()], &[None, None, Some(false)]);
        let (late, all) = (Comes::Physical, Comes::All);
        let comes = [all, all, late, late, late, all];
        case.comes = &comes;
        case.run(&[Op::Line(34, true), Op::Ack(0), Op::Sgi(0, 1), Op::Eoi(0), Op::Read, Op::Read]);
    }
}
