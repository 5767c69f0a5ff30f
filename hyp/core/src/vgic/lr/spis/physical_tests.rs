//! SPIs that physical ones stand behind: each is active while the guest has it, and no longer.

use super::tests::{EOIMODE, settle, vcpu};
use super::*;
use crate::regs::gic::{ICH_LR_EL2, LrValue};
use crate::vgic::PhysicalSpis;
use crate::vgic::dist::{CTLR, ICACTIVER, ICENABLER, ICPENDR, IGROUPR, IPRIORITYR, IROUTER, ISACTIVER, ISENABLER, ISPENDR};
use crate::vgic::fake::{Absent, Dir, FakeIch, FakeSpis, Lines};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LEVEL: u32 = 40;
const EDGE: u32 = 41;
/// Their bits.
const BOTH: u64 = 3 << 8;
const EVERY_DISTRIBUTOR: [Lines; 3] = [Lines::Shown, Lines::Probed, Lines::Unknown];

struct Machine {
    dist: Arc<Dist>,
    spis: Arc<FakeSpis>,
}

impl Machine {
    /// Every SPI enabled, in group 1, at priority 0x80, routed to vCPU 0, and backed; all but one are levels.
    fn new(lines: Lines) -> Self {
        let dist = Dist::new(&FakeIch::new(4).view);
        let spis = FakeSpis::new(lines, &[EDGE]);
        for intid in 32..288 {
            dist.back(intid, intid == EDGE);
        }
        for intid in (32..288).step_by(4) {
            let _ = dist.write(&(), IPRIORITYR + intid, 4, 0x8080_8080);
        }
        let _ = dist.write(&(), CTLR, 4, 3);
        for word in 1..9 {
            let _ = dist.write(&(), IGROUPR + 4 * word, 4, u64::MAX);
            let _ = dist.write(&(), ISENABLER + 4 * word, 4, u64::MAX);
        }
        Self {
            dist: Arc::new(dist),
            spis,
        }
    }

    fn loaded(&self, index: usize, lrs: usize) -> (VcpuGic, FakeIch) {
        let (mut gic, mut h) = (vcpu(index), FakeIch::new(lrs));
        h.spis = Arc::clone(&self.spis);
        gic.load(&mut h, &self.dist);
        (gic, h)
    }

    fn line(&self, intid: u32, high: bool) {
        self.spis.set_line(intid, high);
    }

    /// What fires arrives at the distributor. Gives who must look.
    fn arrive(&self) -> Vcpus {
        let mut looks = 0;
        while let Some(intid) = self.spis.acknowledge() {
            looks |= self.dist.fire(intid);
        }
        looks
    }

    /// What fires arrives at this vCPU, which is at an exit for it.
    fn arrive_at(&self, gic: &mut VcpuGic, h: &mut FakeIch) {
        let _ = self.arrive();
        gic.receive_spis(h, &self.dist);
        gic.attend(h, &self.dist);
    }

    /// A guest's write.
    fn write(&self, offset: u64, value: u64) -> crate::vgic::dist::Effect {
        let _ = self.dist.sample(&self.spis);
        self.dist.write(&self.spis, offset, 4, value)
    }

    fn active(&self, intid: u32) -> bool {
        self.spis.is_active(intid)
    }
}

#[test]
fn its_list_register_is_backed_and_the_guests_eoi_is_its_end() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    for intid in [LEVEL, EDGE] {
        m.line(intid, true);
        m.arrive_at(&mut gic, &mut h);
        let lr = LrValue::new(h.lr[0]);
        assert!(lr.is_set(ICH_LR_EL2::HW));
        assert_eq!(lr.read(ICH_LR_EL2::pINTID), u64::from(intid));
        assert_eq!((h.ack(), m.active(intid)), (Some(intid), true));
        let live = gic.live(&h);
        assert_eq!((live.pending, live.active), (0, 0), "it is no PPI");
        m.line(intid, false);
        h.eoi(intid);
        assert_eq!((h.misr(), m.active(intid), h.hcr & !(1 << 14)), (0, false, 1));
        assert_eq!(m.arrive(), 0);
    }
}

#[test]
fn a_level_that_is_still_high_at_its_end_fires_again() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    m.line(LEVEL, true);
    for _ in 0..5 {
        m.arrive_at(&mut gic, &mut h);
        assert_eq!(h.ack(), Some(LEVEL));
        h.eoi(LEVEL);
    }
}

#[test]
fn a_level_that_falls_is_withdrawn_at_the_next_exit_and_an_edge_is_not() {
    for lines in EVERY_DISTRIBUTOR {
        let m = Machine::new(lines);
        let (mut gic, mut h) = m.loaded(0, 4);
        m.line(LEVEL, true);
        m.line(EDGE, true);
        m.arrive_at(&mut gic, &mut h);
        m.line(LEVEL, false);
        m.line(EDGE, false);
        assert!(gic.needs_attention());
        gic.attend(&mut h, &m.dist);
        assert_eq!((m.active(LEVEL), m.active(EDGE)), (false, true), "{lines:?}");
        assert!(!gic.needs_attention());
        assert_eq!((h.ack(), h.signalled_intid()), (Some(EDGE), None));
    }
}

#[test]
fn one_that_is_still_asserted_stays_or_fires_again_at_once() {
    for lines in EVERY_DISTRIBUTOR {
        let m = Machine::new(lines);
        let (mut gic, mut h) = m.loaded(0, 4);
        m.line(LEVEL, true);
        m.arrive_at(&mut gic, &mut h);
        assert_eq!(h.signalled_intid(), Some(LEVEL), "the exit that brings it does not ask");
        for _ in 0..3 {
            gic.attend(&mut h, &m.dist);
            assert_eq!(m.active(LEVEL), lines != Lines::Unknown);
            m.arrive_at(&mut gic, &mut h);
            assert_eq!((m.active(LEVEL), h.signalled_intid()), (true, Some(LEVEL)));
        }
    }
}

#[test]
fn one_that_waits_in_the_distributor_is_withdrawn_when_the_guest_looks() {
    for lines in EVERY_DISTRIBUTOR {
        let m = Machine::new(lines);
        let _ = m.write(ICENABLER + 4, BOTH);
        m.line(LEVEL, true);
        m.line(EDGE, true);
        assert_eq!(m.arrive(), 0);
        m.line(LEVEL, false);
        let _ = m.dist.sample(&m.spis);
        assert_eq!(u64::from(m.dist.read(&m.spis, ISPENDR + 4, 4).0 as u32), 1 << 9, "{lines:?}");
        assert_eq!((m.active(LEVEL), m.active(EDGE)), (false, true));
    }
}

#[test]
fn one_that_a_write_made_pending_needs_no_line() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    assert_eq!(m.write(ISPENDR + 4, BOTH).kick, 1);
    assert!(m.active(LEVEL) && m.active(EDGE), "or the guest's EOI would end nothing");
    gic.receive_spis(&mut h, &m.dist);
    for _ in 0..3 {
        gic.attend(&mut h, &m.dist);
        gic.put(&mut h, &m.dist);
        let _ = m.dist.sample(&m.spis);
        gic.load(&mut h, &m.dist);
    }
    assert_eq!(h.signalled_intid(), Some(LEVEL));
    let effect = m.write(ICPENDR + 4, BOTH);
    let found = gic.spi(&mut h, &m.dist, effect.ask);
    assert_eq!(
        (effect.owners, found, effect.is_over(found)),
        (1, BOTH << 32, true),
        "vCPU 0 has them"
    );
    assert_eq!((m.active(LEVEL), m.active(EDGE), h.signalled_intid()), (false, false, None));
}

#[test]
fn one_that_a_write_made_pending_and_another_not_has_its_line_again() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    for _ in 0..2 {
        let _ = m.write(ICENABLER + 4, BOTH);
        let _ = m.write(ISPENDR + 4, BOTH);
        let _ = m.write(ICPENDR + 4, BOTH);
        assert!(!m.active(LEVEL));
        let _ = m.write(ISENABLER + 4, BOTH);
        m.line(LEVEL, true);
        m.arrive_at(&mut gic, &mut h);
        m.line(LEVEL, false);
        gic.attend(&mut h, &m.dist);
        assert_eq!((h.signalled_intid(), m.active(LEVEL)), (None, false));
    }
}

#[test]
fn one_that_is_active_in_the_distributor_stays_so_when_its_pending_state_goes() {
    let m = Machine::new(Lines::Shown);
    let _ = m.write(ISACTIVER + 4, BOTH);
    let _ = m.write(ISPENDR + 4, BOTH);
    let _ = m.write(ICPENDR + 4, BOTH);
    assert!(m.active(LEVEL) && m.active(EDGE));
    let _ = m.write(ISPENDR + 4, BOTH);
    let _ = m.write(ICACTIVER + 4, BOTH);
    assert!(m.active(LEVEL) && m.active(EDGE));
    let _ = m.write(ICPENDR + 4, BOTH);
    assert!(!m.active(LEVEL) && !m.active(EDGE));
}

#[test]
fn an_edge_behind_an_active_one_is_taken_back_by_a_write() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    let edge = || {
        m.line(EDGE, true);
        m.line(EDGE, false);
    };
    edge();
    m.arrive_at(&mut gic, &mut h);
    assert_eq!(h.ack(), Some(EDGE));
    edge();
    assert_eq!(m.dist.read(&m.spis, ISPENDR + 4, 4).0, 1 << 9, "as hardware shows it");
    let _ = m.write(ICPENDR + 4, BOTH);
    h.eoi(EDGE);
    assert_eq!((m.arrive(), m.active(EDGE)), (0, false));
}

#[test]
fn another_vcpu_that_asks_does_not_see_one_whose_line_has_fallen() {
    for lines in EVERY_DISTRIBUTOR {
        let m = Machine::new(lines);
        let (mut gic, mut h) = m.loaded(0, 4);
        m.line(LEVEL, true);
        m.arrive_at(&mut gic, &mut h);
        m.line(LEVEL, false);
        let (_, effect) = m.dist.read(&m.spis, ISPENDR + 4, 4);
        assert_eq!(effect.owners, 1, "vCPU 0 has it");
        assert_eq!(gic.spi(&mut h, &m.dist, effect.ask) as u32, 0, "{lines:?}");
        assert_eq!((h.signalled_intid(), m.active(LEVEL)), (None, false));
    }
}

#[test]
fn one_that_is_pending_again_while_active_comes_a_second_time() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    m.line(LEVEL, true);
    m.arrive_at(&mut gic, &mut h);
    assert_eq!(h.ack(), Some(LEVEL));
    m.line(LEVEL, false);
    let _ = m.write(ISPENDR + 4, BOTH);
    gic.receive_spis(&mut h, &m.dist);
    h.assert_sane();
    h.eoi(LEVEL);
    settle(&mut gic, &mut h, &m.dist);
    assert!(m.active(LEVEL));
    assert_eq!(h.ack(), Some(LEVEL));
    h.eoi(LEVEL);
    settle(&mut gic, &mut h, &m.dist);
    assert!(!m.active(LEVEL));
}

#[test]
fn those_beyond_the_list_registers_end_by_eoicount_and_by_dir() {
    for split in [false, true] {
        let m = Machine::new(Lines::Shown);
        let (mut gic, mut h) = m.loaded(0, 2);
        h.vmcr = h.view.apply_write(h.vmcr, if split { EOIMODE } else { 0 });
        gic.refresh(&mut h, &m.dist);
        for n in 0..10 {
            let _ = m.write(IPRIORITYR + 48 + 4 * n, 0);
        }
        for intid in 50..60 {
            let _ = m.dist.write(&(), IPRIORITYR + u64::from(intid), 1, u64::from(60 - intid) * 8);
            m.line(intid, true);
            m.arrive_at(&mut gic, &mut h);
            assert_eq!(h.ack(), Some(intid));
            m.line(intid, false);
            settle(&mut gic, &mut h, &m.dist);
            if split {
                h.eoi(intid);
                settle(&mut gic, &mut h, &m.dist);
            }
        }
        for intid in (50..60).rev() {
            assert!(m.active(intid));
            if !split {
                h.eoi(intid);
            } else if h.dir(intid) == Dir::Trapped {
                let _ = gic.deactivate(&mut h, &m.dist, intid);
            }
            settle(&mut gic, &mut h, &m.dist);
            assert!((50..60).all(|other| m.active(other) == (other < intid)), "{intid}");
        }
    }
}

#[test]
fn one_that_is_active_while_its_vcpu_is_not_loaded_can_be_ended() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    m.line(LEVEL, true);
    m.arrive_at(&mut gic, &mut h);
    assert_eq!(h.ack(), Some(LEVEL));
    gic.put(&mut h, &m.dist);
    assert!(m.active(LEVEL));
    let effect = m.write(ICACTIVER + 4, BOTH);
    assert_eq!(effect.owners, 1, "vCPU 0 has it");
    let _ = gic.spi(&mut Absent(m.spis.clone()), &m.dist, effect.ask);
    assert!(!m.active(LEVEL));
    assert_ne!(m.arrive(), 0, "it is asserted still");
}

#[test]
fn at_cpu_off_a_pending_one_is_the_next_vcpus_and_an_active_one_waits_for_its_end() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    let (mut other, mut other_h) = m.loaded(1, 4);
    for intid in [LEVEL, EDGE] {
        m.line(intid, true);
    }
    m.arrive_at(&mut gic, &mut h);
    assert_eq!(h.ack(), Some(LEVEL));
    gic.park(&mut h, &m.dist);
    assert!(m.active(LEVEL) && m.active(EDGE));
    for intid in [LEVEL, EDGE] {
        let _ = m.dist.write(&m.spis, IROUTER + 8 * u64::from(intid), 8, 1);
    }
    other.receive_spis(&mut other_h, &m.dist);
    assert_eq!(other_h.ack(), Some(EDGE));
    other_h.eoi(EDGE);
    assert!(m.active(LEVEL) && !m.active(EDGE));
    assert_eq!(m.arrive(), 0);
    assert_eq!(m.write(ICACTIVER + 4, BOTH).kick, 0);
    assert_eq!(m.arrive(), 2);
    m.arrive_at(&mut other, &mut other_h);
    assert_eq!(other_h.ack(), Some(LEVEL));
}

#[test]
fn what_is_backed_stays_so_after_a_reset() {
    let m = Machine::new(Lines::Shown);
    let (mut gic, mut h) = m.loaded(0, 4);
    m.line(LEVEL, true);
    m.arrive_at(&mut gic, &mut h);
    let _ = m.write(ISPENDR + 4, BOTH);
    gic.park(&mut h, &m.dist);
    gic.reset();
    m.dist.reset();
    for word in 0..8 {
        m.spis.set_active(word, u32::MAX, false);
    }
    assert_eq!(gic, vcpu(0));
    assert_eq!(m.arrive(), 0, "nothing is enabled");
    assert!(m.active(LEVEL));
    let _ = m.write(CTLR, 3);
    let _ = m.write(IGROUPR + 4, BOTH);
    let _ = m.write(ISENABLER + 4, BOTH);
    gic.load(&mut h, &m.dist);
    assert_eq!(h.signalled_intid(), Some(LEVEL));
    gic.attend(&mut h, &m.dist);
    m.line(LEVEL, false);
    gic.attend(&mut h, &m.dist);
    assert_eq!(
        (h.signalled_intid(), m.active(LEVEL)),
        (None, false),
        "what was written before is forgotten"
    );
    m.line(LEVEL, true);
    m.arrive_at(&mut gic, &mut h);
    assert_eq!(h.ack(), Some(LEVEL));
    m.line(LEVEL, false);
    h.eoi(LEVEL);
    assert!(!m.active(LEVEL));
}

#[derive(Default)]
struct Device {
    raised: AtomicU32,
    /// What `raised` was when it was last served, or more.
    served: AtomicU32,
    taken: AtomicU32,
    active: AtomicBool,
}

/// vCPUs on threads of their own, a pCPU that takes what fires, devices that raise their lines, and guests that write to the
/// distributor: every level is served, and in the end nothing is active.
#[test]
#[cfg_attr(miri, ignore = "minutes under the interpreter, and no other code than the tests beside it runs")]
fn threads_that_race_for_physical_spis_leave_none_active_and_lose_none() {
    for lines in EVERY_DISTRIBUTOR {
        race(lines);
    }
}

fn race(lines: Lines) {
    const RAISES: u32 = 4000;
    const FIRST: u32 = 64;
    const USED: u32 = 24;
    let machine = Arc::new(Machine::new(lines));
    let devices: Arc<Vec<Device>> = Arc::new((0..USED).map(|_| Device::default()).collect());
    let done = Arc::new(AtomicBool::new(false));
    let mut threads: Vec<_> = (0..3)
        .map(|index| {
            let (machine, devices, done) = (Arc::clone(&machine), Arc::clone(&devices), Arc::clone(&done));
            thread::spawn(move || run(&machine, &devices, &done, index, FIRST))
        })
        .collect();
    threads.push({
        let (machine, done) = (Arc::clone(&machine), Arc::clone(&done));
        thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                let _ = machine.arrive();
                thread::yield_now();
            }
        })
    });
    let raisers: Vec<_> = (0..2u32)
        .map(|raiser| {
            let (machine, devices) = (Arc::clone(&machine), Arc::clone(&devices));
            thread::spawn(move || {
                for n in 0..RAISES {
                    let which = (n * 7 + raiser) % USED;
                    let (register, bit) = ((FIRST + which) / 32, 1 << ((FIRST + which) % 32));
                    // Owners are not asked: they look by themselves at the next of their turns.
                    let _ = match n % 11 {
                        0 => machine.write(ISPENDR + 4 * u64::from(register), bit),
                        1 => machine.write(ICPENDR + 4 * u64::from(register), bit),
                        2 => machine.write(ICACTIVER + 4 * u64::from(register), bit),
                        3 => {
                            let route = if n / 11 % 4 == 3 { 1 << 31 } else { u64::from(n / 11 % 4) };
                            machine.dist.write(&machine.spis, IROUTER + 8 * u64::from(FIRST + which), 8, route)
                        }
                        _ => Default::default(),
                    };
                    devices[which as usize].raised.fetch_add(1, Ordering::SeqCst);
                    machine.line(FIRST + which, true);
                    if n % 16 == 0 {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for raiser in raisers {
        raiser.join().expect("device");
    }
    let quiet = || {
        let served = |d: &Device| d.served.load(Ordering::SeqCst) == d.raised.load(Ordering::SeqCst);
        devices.iter().all(served) && (0..USED).all(|n| !machine.active(FIRST + n))
    };
    let patience = Instant::now() + Duration::from_secs(20);
    while !quiet() && Instant::now() < patience {
        thread::yield_now();
    }
    done.store(true, Ordering::Release);
    for thread in threads {
        thread.join().expect("thread");
    }
    for (n, device) in devices.iter().enumerate() {
        let intid = FIRST + n as u32;
        let [served, raised, taken] = [&device.served, &device.raised, &device.taken].map(|cell| cell.load(Ordering::Relaxed));
        assert_eq!(served, raised, "INTID {intid}: its level was lost, {lines:?}");
        assert!(!machine.active(intid), "INTID {intid}: active for ever, {lines:?}");
        assert_ne!(taken, 0, "INTID {intid}");
    }
}

/// A vCPU: it takes what comes, serves the device, and looks as often as it would be kicked.
fn run(machine: &Machine, devices: &[Device], done: &AtomicBool, index: usize, first: u32) {
    let (mut gic, mut h) = machine.loaded(index, 2);
    let dist = &machine.dist;
    let mut turn = 0;
    while !done.load(Ordering::Acquire) {
        turn += 1;
        let _ = gic.take_kicks();
        if turn % 64 == 0 {
            gic.put(&mut h, dist);
            gic.load(&mut h, dist);
        }
        gic.receive_spis(&mut h, dist);
        gic.attend(&mut h, dist);
        settle(&mut gic, &mut h, dist);
        let Some(intid) = h.ack() else {
            thread::yield_now();
            continue;
        };
        let device = &devices[(intid - first) as usize];
        assert!(!device.active.swap(true, Ordering::AcqRel), "{intid} is taken by two");
        machine.line(intid, false);
        device.served.store(device.raised.load(Ordering::SeqCst), Ordering::SeqCst);
        device.taken.fetch_add(1, Ordering::Relaxed);
        settle(&mut gic, &mut h, dist);
        device.active.store(false, Ordering::Release);
        h.eoi(intid);
        settle(&mut gic, &mut h, dist);
    }
}
