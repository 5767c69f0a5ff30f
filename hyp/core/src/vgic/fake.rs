//! A virtual interface in memory: what the guest's accesses do to list registers, by IHI 0069's rules, one physical PPI, and the
//! physical distributor's SPIs.

use super::cpuif::running_priority;
use super::ctlr::CtlrView;
use super::vmcr::Vmcr;
use super::{Group, Ich, MAX_LRS, PRIVATE_INTIDS, PhysicalSpis};
use crate::regs::gic::{ICH_HCR_EL2, ICH_LR_EL2, LrValue};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const PENDING: u64 = 1;
const ACTIVE: u64 = 2;
const SPURIOUS: u32 = 1020;

/// What became of a write to `ICC_DIR_EL1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dir {
    Done,
    Trapped,
}

/// What a physical distributor tells of the line of a level-sensitive interrupt that is active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lines {
    /// It is pending besides: what the architecture says.
    #[default]
    Shown,
    /// Nothing, but EL2 can find out.
    Probed,
    /// Nothing: EL2 must let it fire again.
    Unknown,
}

/// The physical distributor's SPIs, all enabled: the first eight words.
#[derive(Debug, Default)]
pub(super) struct FakeSpis {
    pub(super) lines: Lines,
    line: [AtomicU32; 8],
    edge: [AtomicU32; 8],
    /// Edges that were not acknowledged.
    latch: [AtomicU32; 8],
    active: [AtomicU32; 8],
}

impl FakeSpis {
    pub(super) fn new(lines: Lines, edges: &[u32]) -> Arc<Self> {
        let spis = Self { lines, ..Self::default() };
        for intid in edges {
            spis.edge[*intid as usize / 32 - 1].fetch_or(1 << (intid % 32), Ordering::SeqCst);
        }
        Arc::new(spis)
    }

    fn bit(cell: &[AtomicU32; 8], intid: u32) -> bool {
        cell[intid as usize / 32 - 1].load(Ordering::SeqCst) >> (intid % 32) & 1 == 1
    }

    fn set(cell: &[AtomicU32; 8], intid: u32, on: bool) -> bool {
        let (word, bit) = (&cell[intid as usize / 32 - 1], 1 << (intid % 32));
        let before = if on {
            word.fetch_or(bit, Ordering::SeqCst)
        } else {
            word.fetch_and(!bit, Ordering::SeqCst)
        };
        before & bit != 0
    }

    /// The device sets its line.
    pub(super) fn set_line(&self, intid: u32, high: bool) {
        let was = Self::set(&self.line, intid, high);
        if high && !was && Self::bit(&self.edge, intid) {
            Self::set(&self.latch, intid, true);
        }
    }

    pub(super) fn line(&self, intid: u32) -> bool {
        Self::bit(&self.line, intid)
    }

    pub(super) fn is_active(&self, intid: u32) -> bool {
        Self::bit(&self.active, intid)
    }

    /// An interrupt that fires: EL2 has acknowledged it.
    pub(super) fn acknowledge(&self) -> Option<u32> {
        for word in 0..8 {
            let load = |cell: &[AtomicU32; 8]| cell[word].load(Ordering::SeqCst);
            let level = load(&self.line) & !load(&self.edge);
            let mut ready = (load(&self.latch) | level) & !load(&self.active);
            while ready != 0 {
                let intid = 32 + 32 * word as u32 + ready.trailing_zeros();
                ready &= ready - 1;
                if !Self::set(&self.active, intid, true) {
                    Self::set(&self.latch, intid, false);
                    return Some(intid);
                }
            }
        }
        None
    }
}

impl PhysicalSpis for Arc<FakeSpis> {
    fn set_active(&self, word: usize, mask: u32, active: bool) {
        if active {
            self.active[word].fetch_or(mask, Ordering::SeqCst);
        } else {
            self.active[word].fetch_and(!mask, Ordering::SeqCst);
        }
    }
    fn asserted(&self, intid: u32) -> bool {
        assert!(!FakeSpis::bit(&self.edge, intid), "an edge has no line to ask for");
        if self.lines == Lines::Unknown || !self.line(intid) {
            FakeSpis::set(&self.active, intid, false);
            return false;
        }
        true
    }
    fn pending(&self, word: usize) -> u32 {
        let load = |cell: &[AtomicU32; 8]| cell[word].load(Ordering::SeqCst);
        let level = if self.lines == Lines::Shown {
            load(&self.line) & !load(&self.edge)
        } else {
            0
        };
        load(&self.latch) | level
    }
    fn clear_pending(&self, word: usize, mask: u32) {
        self.latch[word].fetch_and(!mask, Ordering::SeqCst);
    }
}

/// In what virtual interfaces differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// EOIcount counts with EOImode 1, too.
    counts_drops: bool,
    /// `ICH_HCR_EL2.TDIR` does something.
    tdir: bool,
}

impl Kind {
    /// Arm's today.
    pub(super) const ARM: Self = Self {
        counts_drops: false,
        tdir: true,
    };
    /// Arm's first ones.
    pub(super) const EARLY: Self = Self {
        counts_drops: false,
        tdir: false,
    };
    /// QEMU's.
    pub(super) const QEMU: Self = Self {
        counts_drops: true,
        tdir: true,
    };
    /// Each of them.
    pub(super) const ALL: [Self; 3] = [Self::ARM, Self::EARLY, Self::QEMU];
}

/// The hardware.
#[derive(Clone, Debug)]
pub(super) struct FakeIch {
    pub(super) lr: [u64; MAX_LRS],
    count: usize,
    pub(super) view: CtlrView,
    pub(super) vmcr: Vmcr,
    pub(super) hcr: u64,
    pub(super) ap0r: [u32; 4],
    pub(super) ap1r: [u32; 4],
    /// The line of the physical PPI 27.
    pub(super) line: bool,
    /// Its active state.
    pub(super) active: bool,
    pub(super) kind: Kind,
    /// `ICH_ELRSR_EL2` as of the exit, where what was written to list registers since does not show in it without a barrier.
    at_exit: Option<u64>,
    /// The machine's.
    pub(super) spis: Arc<FakeSpis>,
}

impl FakeIch {
    pub(super) fn new(count: usize) -> Self {
        let view = CtlrView::new(0x90b8_0000 | (count as u64 - 1), 0);
        Self {
            // Those that there are were emptied by whoever was here before.
            lr: core::array::from_fn(|i| if i < count { 0 } else { 0xdead }),
            count,
            view,
            vmcr: Vmcr::reset(&view).with_pmr(&view, 0xff).with_igrpen1(1),
            hcr: 0,
            ap0r: [0; 4],
            ap1r: [0; 4],
            line: false,
            active: false,
            kind: Kind::ARM,
            at_exit: None,
            spis: Arc::default(),
        }
    }

    /// The guest exits. `stale`: what is written to list registers from here on shows late in `ICH_ELRSR_EL2`.
    pub(super) fn exit(&mut self, stale: bool) {
        self.at_exit = stale.then(|| self.elrsr());
    }

    fn lrs(&self) -> impl Iterator<Item = (usize, LrValue)> {
        self.lr
            .into_iter()
            .take(self.count)
            .enumerate()
            .map(|(i, lr)| (i, LrValue::new(lr)))
    }

    fn state(lr: LrValue) -> u64 {
        lr.read(ICH_LR_EL2::State)
    }

    /// The bits of a priority that preempt.
    pub(super) fn preempting(vmcr: Vmcr, group: Group) -> u64 {
        let split = match group {
            Group::One if !vmcr.cbpr() => vmcr.bpr1() - 1,
            _ => vmcr.bpr0(),
        };
        !0 << (split + 1) & 0xff
    }

    pub(super) fn running(&self) -> u64 {
        running_priority(&self.view, &self.ap0r, &self.ap1r)
    }

    /// The interrupt that is signalled to the vCPU: its list register.
    pub(super) fn signalled(&self) -> Option<usize> {
        let (i, lr) = self
            .lrs()
            .filter(|&(_, lr)| {
                let on = if lr.is_set(ICH_LR_EL2::Group) {
                    self.vmcr.igrpen1()
                } else {
                    self.vmcr.igrpen0()
                };
                Self::state(lr) == PENDING && on != 0
            })
            .min_by_key(|(_, lr)| lr.read(ICH_LR_EL2::Priority))?;
        let priority = lr.read(ICH_LR_EL2::Priority);
        let group = if lr.is_set(ICH_LR_EL2::Group) { Group::One } else { Group::Zero };
        let preempts = priority & Self::preempting(self.vmcr, group) < self.running();
        (self.hcr & 1 != 0 && priority < self.vmcr.pmr() && preempts).then_some(i)
    }

    pub(super) fn signalled_intid(&self) -> Option<u32> {
        self.signalled().map(|i| self.lr[i] as u32)
    }

    /// Reads the IAR of whichever group is signalled.
    pub(super) fn ack(&mut self) -> Option<u32> {
        let i = self.signalled()?;
        let mut lr = LrValue::new(self.lr[i]);
        let one = lr.is_set(ICH_LR_EL2::Group);
        let mask = Self::preempting(self.vmcr, if one { Group::One } else { Group::Zero });
        let level = (lr.read(ICH_LR_EL2::Priority) & mask) >> 3;
        let word = if one { &mut self.ap1r[0] } else { &mut self.ap0r[0] };
        *word |= 1 << level;
        lr.modify(ICH_LR_EL2::State::Active);
        self.lr[i] = lr.get();
        Some(lr.read(ICH_LR_EL2::vINTID) as u32)
    }

    /// Writes `intid` to the EOIR of the group of the running priority.
    pub(super) fn eoi(&mut self, intid: u32) {
        if intid >= SPURIOUS || self.ap0r[0] | self.ap1r[0] == 0 {
            return;
        }
        let dropped = self.running();
        let (zero, one) = (self.ap0r[0].trailing_zeros(), self.ap1r[0].trailing_zeros());
        let group = if one < zero { Group::One } else { Group::Zero };
        match group {
            Group::One => self.ap1r[0] &= self.ap1r[0] - 1,
            Group::Zero => self.ap0r[0] &= self.ap0r[0] - 1,
        }
        let Some(i) = self.find_active(intid) else {
            if !self.vmcr.splits_eoi() || self.kind.counts_drops {
                self.count_end();
            }
            return;
        };
        let lr = LrValue::new(self.lr[i]);
        let matches = lr.is_set(ICH_LR_EL2::Group) == (group == Group::One)
            && lr.read(ICH_LR_EL2::Priority) & Self::preempting(self.vmcr, group) == dropped;
        if !self.vmcr.splits_eoi() && matches {
            self.end(i);
        }
    }

    /// Writes `intid` to DIR.
    pub(super) fn dir(&mut self, intid: u32) -> Dir {
        if self.hcr & (u64::from(self.kind.tdir) << 14 | 1 << 10) != 0 {
            return Dir::Trapped;
        }
        if self.vmcr.splits_eoi() && intid < SPURIOUS {
            match self.find_active(intid) {
                Some(i) => self.end(i),
                None => self.count_end(),
            }
        }
        Dir::Done
    }

    fn find_active(&self, intid: u32) -> Option<usize> {
        self.lrs()
            .find(|&(_, lr)| Self::state(lr) & ACTIVE != 0 && lr.read(ICH_LR_EL2::vINTID) == u64::from(intid))
            .map(|(i, _)| i)
    }

    fn count_end(&mut self) {
        let count = (self.hcr >> 27 & 31).wrapping_add(1) & 31;
        self.hcr = self.hcr & !(31 << 27) | count << 27;
    }

    fn end(&mut self, i: usize) {
        let lr = LrValue::new(self.lr[i]);
        self.lr[i] &= !(ACTIVE << 62);
        if lr.is_set(ICH_LR_EL2::HW) {
            let intid = lr.read(ICH_LR_EL2::pINTID) as u32;
            assert_eq!(u64::from(intid), lr.read(ICH_LR_EL2::vINTID));
            if intid < PRIVATE_INTIDS {
                assert_eq!(intid, 27);
                self.active = false;
            } else {
                FakeSpis::set(&self.spis.active, intid, false);
            }
        }
    }

    /// `ICH_MISR_EL2`.
    pub(super) fn misr(&self) -> u64 {
        let on = |bit: u32| self.hcr >> bit & 1;
        let valid = self.lrs().filter(|&(_, lr)| Self::state(lr) != 0).count();
        let pending = self.lrs().any(|(_, lr)| Self::state(lr) == PENDING);
        let (zero, one) = (self.vmcr.igrpen0(), self.vmcr.igrpen1());
        let count = ICH_HCR_EL2::EOIcount.read(self.hcr);
        u64::from(self.eisr() != 0)
            | (on(1) & u64::from(valid < 2)) << 1
            | (on(2) & u64::from(count != 0)) << 2
            | (on(3) & u64::from(!pending)) << 3
            | (on(4) & zero) << 4
            | (on(5) & (1 - zero)) << 5
            | (on(6) & one) << 6
            | (on(7) & (1 - one)) << 7
    }

    /// What must hold whenever the guest runs.
    pub(super) fn assert_sane(&self) {
        let mut seen = Vec::new();
        for (i, lr) in self.lrs() {
            let state = Self::state(lr);
            if state == 0 {
                continue;
            }
            let intid = lr.read(ICH_LR_EL2::vINTID);
            assert!(
                !(lr.is_set(ICH_LR_EL2::HW) && state == 3),
                "list register {i}: pending and active with HW"
            );
            assert!(!seen.contains(&intid), "list register {i}: an INTID twice");
            seen.push(intid);
        }
    }
}

impl Ich for FakeIch {
    type Spis = Arc<FakeSpis>;
    fn spis(&self) -> &Arc<FakeSpis> {
        &self.spis
    }
    fn count(&self) -> usize {
        self.count
    }
    fn tdir(&self) -> bool {
        self.kind.tdir
    }
    fn lr(&self, i: usize) -> u64 {
        assert!(i < self.count);
        self.lr[i]
    }
    fn set_lr(&mut self, i: usize, value: u64) {
        assert!(i < self.count);
        self.lr[i] = value;
    }
    fn elrsr(&self) -> u64 {
        let empty = |lr: LrValue| Self::state(lr) == 0 && (lr.is_set(ICH_LR_EL2::HW) || !lr.is_set(ICH_LR_EL2::EOI));
        self.lrs().filter(|&(_, lr)| empty(lr)).map(|(i, _)| 1 << i).sum()
    }
    fn elrsr_at_exit(&self) -> u64 {
        self.at_exit.unwrap_or_else(|| self.elrsr())
    }
    fn eisr(&self) -> u64 {
        let ended = |lr: LrValue| Self::state(lr) == 0 && !lr.is_set(ICH_LR_EL2::HW) && lr.is_set(ICH_LR_EL2::EOI);
        self.lrs().filter(|&(_, lr)| ended(lr)).map(|(i, _)| 1 << i).sum()
    }
    fn hcr(&self) -> u64 {
        self.hcr
    }
    fn set_hcr(&mut self, value: u64) {
        self.hcr = value;
    }
    fn vmcr(&self) -> u64 {
        self.vmcr.get()
    }
    fn timer_line(&self) -> bool {
        self.line
    }
    fn set_timer_active(&mut self, active: bool) {
        self.active = active;
    }
}

/// What stands in while a vCPU is not loaded: there are the physical SPIs, and no interface that could be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent<S = ()>(pub(super) S);

impl<S: PhysicalSpis> Ich for Absent<S> {
    type Spis = S;
    fn spis(&self) -> &S {
        &self.0
    }
    fn count(&self) -> usize {
        unreachable!("asked for the list registers of a vCPU that has none")
    }
    fn tdir(&self) -> bool {
        unreachable!("asked for what traps of a vCPU that does not run")
    }
    fn lr(&self, i: usize) -> u64 {
        unreachable!("read list register {i} for a vCPU that has none")
    }
    fn set_lr(&mut self, i: usize, value: u64) {
        unreachable!("wrote {value:#x} to list register {i} for a vCPU that has none")
    }
    fn elrsr(&self) -> u64 {
        unreachable!("asked which list registers of a vCPU are empty that has none")
    }
    fn eisr(&self) -> u64 {
        unreachable!("asked which list registers of a vCPU have ended that has none")
    }
    fn hcr(&self) -> u64 {
        unreachable!("read ICH_HCR_EL2 for a vCPU that is not loaded")
    }
    fn set_hcr(&mut self, value: u64) {
        unreachable!("wrote {value:#x} to ICH_HCR_EL2 for a vCPU that is not loaded")
    }
    fn vmcr(&self) -> u64 {
        unreachable!("read ICH_VMCR_EL2 for a vCPU that is not loaded")
    }
    fn timer_line(&self) -> bool {
        unreachable!("asked for the virtual timer's line for a vCPU that is not loaded")
    }
    fn set_timer_active(&mut self, active: bool) {
        unreachable!("made the virtual timer's PPI active, {active}, for a vCPU that is not loaded")
    }
}
