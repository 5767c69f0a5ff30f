//! SPIs on their way through vCPUs: claimed, ended, moved, given back.

use super::*;
use crate::vgic::dist::{CTLR, Effect, ICACTIVER, ICFGR, ICPENDR, IGROUPR, IPRIORITYR, IROUTER, ISACTIVER, ISENABLER, ISPENDR, SPIS};
use crate::vgic::fake::Absent;
use crate::vgic::fake::{Dir, FakeIch};
use crate::vgic::redist::{IGROUPR0, ISENABLER0, Identity};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const UART: u32 = 33;
pub(super) const EOIMODE: u64 = 2;

pub(super) fn vcpu(index: usize) -> VcpuGic {
    VcpuGic::new(Identity {
        index,
        last: false,
        affinity: index as u64,
    })
}

/// A distributor with every SPI enabled, edge-triggered, in group 1, at priority 0x80, routed to vCPU 0.
fn dist() -> Dist {
    let dist = Dist::new(&FakeIch::new(4).view);
    let _ = dist.write(&(), CTLR, 4, 3);
    for word in 1..9 {
        let _ = dist.write(&(), IGROUPR + 4 * word, 4, u64::MAX);
        let _ = dist.write(&(), ISENABLER + 4 * word, 4, u64::MAX);
    }
    for intid in (32..288).step_by(4) {
        let _ = dist.write(&(), IPRIORITYR + intid, 4, 0x8080_8080);
    }
    for intid in (32..288).step_by(16) {
        let _ = dist.write(&(), ICFGR + intid / 4, 4, 0xaaaa_aaaa);
    }
    dist
}

fn loaded(dist: &Dist, index: usize, lrs: usize) -> (VcpuGic, FakeIch) {
    let (mut gic, mut h) = (vcpu(index), FakeIch::new(lrs));
    gic.load(&mut h, dist);
    (gic, h)
}

pub(super) fn settle(gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist) {
    for _ in 0..8 {
        if h.misr() == 0 {
            return;
        }
        gic.maintenance(h, dist);
    }
    assert_eq!(h.misr(), 0, "EL2 never gets back to the guest");
}

/// What is asked of the vCPU before a write is over, if anything is.
fn ask(effect: Effect, gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist) {
    assert_eq!(effect.owners, 1 << gic.id.index);
    let _ = gic.spi(h, dist, effect.ask);
}

fn level(dist: &Dist, intid: u32) {
    let _ = dist.write(&(), ICFGR + u64::from(intid) / 16 * 4, 4, 0);
}

#[test]
fn a_level_line_is_sampled_again_when_its_interrupt_ends() {
    let dist = dist();
    level(&dist, UART);
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    assert_eq!(dist.set_line(UART, true), Some(0));
    gic.receive_spis(&mut h, &dist);
    assert_eq!(h.ack(), Some(UART));
    h.eoi(UART);
    settle(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), Some(UART), "still high");
    assert_eq!(dist.set_line(UART, false), Some(0), "it is held");
    h.eoi(UART);
    settle(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), None);
    gic.receive_spis(&mut h, &dist);
    assert_eq!((h.ack(), gic.held.used), (None, 0));
}

/// `GICD_CTLR.RWP` reads 0: who has turned a group off and reads that may count on it (IHI 0069).
#[test]
fn a_group_that_is_turned_off_is_signalled_to_nobody_when_the_write_is_over() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 1, 4);
    gic.write(&mut h, &dist, IGROUPR0, 4, u64::MAX);
    gic.write(&mut h, &dist, ISENABLER0, 4, u64::MAX);
    for intid in [3, 40] {
        let _ = dist.write(&(), IROUTER + 8 * 40, 8, 1);
        if intid == 40 {
            let _ = dist.raise_edge(40);
            gic.receive_spis(&mut h, &dist);
        } else {
            gic.inject(&mut h, &dist, 3);
        }
        assert_eq!(h.signalled_intid(), Some(intid));
        ask(dist.write(&(), CTLR, 4, 1), &mut gic, &mut h, &dist);
        assert_eq!(h.signalled_intid(), None);
        ask(dist.write(&(), CTLR, 4, 3), &mut gic, &mut h, &dist);
        assert_eq!(h.ack(), Some(intid));
        h.eoi(intid);
    }
}

#[test]
fn a_level_interrupt_whose_line_falls_before_it_is_taken_is_withdrawn() {
    let dist = dist();
    level(&dist, UART);
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let _ = dist.set_line(UART, true);
    gic.receive_spis(&mut h, &dist);
    assert_eq!(h.signalled_intid(), Some(UART));
    let _ = dist.set_line(UART, false);
    gic.receive_spis(&mut h, &dist);
    assert_eq!((h.signalled_intid(), gic.held.used), (None, 0));
}

#[test]
fn what_is_cleared_of_one_spi_stays_of_its_neighbours() {
    for active in [false, true] {
        let dist = dist();
        let (mut gic, mut h) = loaded(&dist, 0, 4);
        // Each preempts the one before it.
        let _ = dist.write(&(), IPRIORITYR + 32, 4, 0x6070_8080);
        for intid in [33, 34, 35] {
            assert_eq!(dist.set_line(intid, true), Some(0));
            let _ = dist.set_line(intid, false);
            gic.receive_spis(&mut h, &dist);
            assert!(!active || h.ack() == Some(intid));
        }
        let state = |gic: &mut VcpuGic, h: &mut FakeIch| {
            let ask = |register| dist.read(&(), register + 4, 4).1.ask;
            (gic.spi(h, &dist, ask(ISPENDR)) as u32, gic.spi(h, &dist, ask(ISACTIVER)) as u32)
        };
        assert_eq!(state(&mut gic, &mut h), if active { (0, 0b1110) } else { (0b1110, 0) });
        let effect = dist.write(&(), if active { ICACTIVER } else { ICPENDR } + 4, 4, 0b100);
        assert_eq!(effect.owners, 1);
        let _ = gic.spi(&mut h, &dist, effect.ask);
        assert_eq!(state(&mut gic, &mut h), if active { (0, 0b1010) } else { (0b1010, 0) });
    }
}

#[test]
fn a_line_that_falls_while_its_interrupt_is_active_asks_for_no_maintenance() {
    let dist = dist();
    level(&dist, UART);
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let _ = dist.set_line(UART, true);
    gic.receive_spis(&mut h, &dist);
    assert_eq!(h.ack(), Some(UART));
    let _ = dist.set_line(UART, false);
    gic.receive_spis(&mut h, &dist);
    h.eoi(UART);
    assert_eq!(h.misr(), 0);
    assert_eq!(dist.set_line(UART, true), Some(0));
    gic.receive_spis(&mut h, &dist);
    assert_eq!(h.ack(), Some(UART));
}

#[test]
#[cfg_attr(miri, ignore = "minutes under the interpreter, and no other code than the tests beside it runs")]
fn all_256_at_once_are_taken_in_order_of_priority() {
    for lrs in [1, 4, 16] {
        let dist = dist();
        for intid in 32..288u32 {
            let _ = dist.write(&(), IPRIORITYR + u64::from(intid), 1, u64::from(intid * 7 % 31 * 8));
        }
        let (mut gic, mut h) = loaded(&dist, 0, lrs);
        for word in 1..9 {
            let effect = dist.write(&(), ISPENDR + 4 * word, 4, u64::MAX);
            assert_eq!(effect.kick, 1);
            gic.receive_spis(&mut h, &dist);
            settle(&mut gic, &mut h, &dist);
        }
        let mut last = 0;
        for _ in 0..SPIS {
            let intid = h.ack().expect("one more");
            settle(&mut gic, &mut h, &dist);
            let priority = intid * 7 % 31 * 8;
            assert!(priority >= last, "{intid} of {priority:#x} after {last:#x}");
            last = priority;
            h.eoi(intid);
            settle(&mut gic, &mut h, &dist);
        }
        assert_eq!(h.ack(), None);
        gic.refresh(&mut h, &dist);
        assert_eq!((gic.held.used, gic.held.more, h.hcr), (0, 0, 1));
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes under the interpreter, and no other code than the tests beside it runs")]
fn with_eoimode_1_all_256_may_be_active_and_end_on_another_vcpu() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let (mut other, mut other_h) = loaded(&dist, 1, 4);
    for (gic, h) in [(&mut gic, &mut h), (&mut other, &mut other_h)] {
        h.vmcr = h.view.apply_write(h.vmcr, EOIMODE);
        gic.refresh(h, &dist);
    }
    for word in 1..9 {
        let _ = dist.write(&(), ISPENDR + 4 * word, 4, u64::MAX);
    }
    gic.receive_spis(&mut h, &dist);
    let mut taken = Vec::new();
    for _ in 0..SPIS {
        let intid = h.ack().expect("an interrupt");
        settle(&mut gic, &mut h, &dist);
        h.eoi(intid);
        settle(&mut gic, &mut h, &dist);
        taken.push(intid);
    }
    taken.sort_unstable();
    assert_eq!(taken, (32..288).collect::<Vec<_>>());
    let active = |gic: &mut VcpuGic, h: &mut FakeIch| {
        let mut count = 0;
        for word in 1..9 {
            let (value, effect) = dist.read(&(), ISACTIVER + 4 * word, 4);
            assert_eq!(effect.owners & !1, 0);
            let held = if effect.owners == 0 {
                0
            } else {
                gic.spi(h, &dist, effect.ask) as u32
            };
            count += (value as u32 | held).count_ones();
        }
        count
    };
    assert_eq!(active(&mut gic, &mut h), SPIS);
    for (n, intid) in taken.into_iter().enumerate() {
        assert_eq!(other_h.dir(intid), Dir::Trapped);
        let effect = other.deactivate(&mut other_h, &dist, intid);
        assert_eq!(effect.owners & !1, 0);
        if effect.owners != 0 {
            let _ = gic.spi(&mut h, &dist, effect.ask);
        }
        assert_eq!(active(&mut gic, &mut h), SPIS - 1 - n as u32);
    }
}

#[test]
fn one_that_is_routed_away_while_it_is_active_goes_there_next_whatever_else_ends() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let (mut other, mut other_h) = loaded(&dist, 1, 4);
    let _ = dist.write(&(), IPRIORITYR + 41, 1, 0x40);
    for intid in [40, 41] {
        let _ = dist.raise_edge(intid);
        gic.receive_spis(&mut h, &dist);
        assert_eq!(h.ack(), Some(intid));
    }
    let effect = dist.write(&(), IROUTER + 8 * 40, 8, 1);
    let _ = gic.spi(&mut h, &dist, effect.ask);
    let _ = dist.raise_edge(40);
    gic.receive_spis(&mut h, &dist);
    h.eoi(41);
    gic.refresh(&mut h, &dist);
    h.eoi(40);
    settle(&mut gic, &mut h, &dist);
    assert_eq!((h.ack(), gic.take_kicks() & 1 << 1), (None, 1 << 1));
    other.receive_spis(&mut other_h, &dist);
    assert_eq!(other_h.ack(), Some(40));
}

#[test]
fn cpu_off_returns_pending_spis_and_they_are_routed_again() {
    let dist = dist();
    let _ = dist.write(&(), IROUTER + 8 * 40, 8, 1 << 31);
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let (mut other, mut other_h) = loaded(&dist, 1, 4);
    let _ = other.take_kicks();
    for intid in [40, 41] {
        assert_eq!(dist.raise_edge(intid), Some(0));
    }
    gic.receive_spis(&mut h, &dist);
    gic.park(&mut h, &dist);
    assert!(h.lr.iter().take(4).all(|&lr| lr == 0));
    assert_eq!(gic.take_kicks(), 1 << 1, "41 is for vCPU 0 alone");
    other.receive_spis(&mut other_h, &dist);
    assert_eq!((other_h.ack(), other_h.signalled_intid()), (Some(40), None));
    gic.load(&mut h, &dist);
    assert_eq!(h.ack(), Some(41));
}

#[test]
fn a_1_of_n_spi_is_passed_on_by_a_vcpu_that_finds_it_is_anothers_now() {
    let dist = dist();
    let _ = dist.write(&(), IROUTER + 8 * 40, 8, 1 << 31);
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let (mut other, mut other_h) = loaded(&dist, 1, 4);
    let set_group_1 = |gic: &mut VcpuGic, h: &mut FakeIch, on| {
        h.vmcr = h.vmcr.with_igrpen1(on);
        gic.vmcr_changed(h, &dist, h.vmcr);
    };
    set_group_1(&mut gic, &mut h, 0);
    other.put(&mut other_h, &dist);
    assert_eq!(dist.raise_edge(40), Some(1), "it takes the group when it runs");
    set_group_1(&mut gic, &mut h, 1);
    other.load(&mut other_h, &dist);
    assert_eq!((other_h.signalled_intid(), other.take_kicks()), (None, 1));
    gic.receive_spis(&mut h, &dist);
    assert_eq!(h.ack(), Some(40));
}

#[test]
fn one_that_was_active_at_cpu_off_stays_active_in_the_distributor() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let _ = dist.raise_edge(40);
    gic.receive_spis(&mut h, &dist);
    h.ack();
    gic.park(&mut h, &dist);
    (h.ap0r, h.ap1r) = ([0; 4], [0; 4]);
    assert_eq!(dist.read(&(), ISACTIVER + 4, 4), (1 << 8, Default::default()));
    gic.load(&mut h, &dist);
    let _ = dist.raise_edge(40);
    gic.receive_spis(&mut h, &dist);
    assert_eq!(h.signalled_intid(), None);
    assert_eq!(dist.write(&(), ICACTIVER + 4, 4, 1 << 8).kick, 1);
    gic.receive_spis(&mut h, &dist);
    assert_eq!(h.ack(), Some(40));
}

#[test]
fn a_vcpu_that_leaves_its_pcpu_keeps_active_spis_and_no_pending_ones() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    for intid in [40, 41] {
        let _ = dist.raise_edge(intid);
        gic.receive_spis(&mut h, &dist);
    }
    assert_eq!(h.ack(), Some(40));
    gic.put(&mut h, &dist);
    assert_eq!((gic.held.used, gic.take_kicks()), (1, 0));
    assert_eq!(dist.for_vcpu(0, 0), 1 << 9);
    gic.load(&mut h, &dist);
    h.eoi(40);
    assert_eq!(h.ack(), Some(41));
}

#[test]
fn one_that_waits_in_the_distributor_wakes_the_vcpu_it_is_for() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    gic.put(&mut h, &dist);
    assert!(!gic.wakes(&Absent(()), &dist, h.vmcr, 0xff));
    assert_eq!(dist.raise_edge(40), Some(0));
    assert!(gic.wakes(&Absent(()), &dist, h.vmcr, 0xff));
    assert!(!gic.wakes(&Absent(()), &dist, h.vmcr.with_igrpen1(0), 0xff), "its group is off");
    assert!(!gic.wakes(&Absent(()), &dist, h.vmcr.with_pmr(&h.view, 0x80), 0xff), "it is masked");
    assert!(!gic.wakes(&Absent(()), &dist, h.vmcr, 0x80), "something as urgent runs");
    let _ = dist.write(&(), IROUTER + 8 * 40, 8, 1);
    assert!(!gic.wakes(&Absent(()), &dist, h.vmcr, 0xff), "it is another vCPU's");
}

#[test]
fn a_parked_vcpu_that_stands_by_is_woken() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    gic.park(&mut h, &dist);
    assert_eq!(dist.raise_edge(40), None);
    gic.stand_by(&dist);
    assert!(gic.wakes(&Absent(()), &dist, h.vmcr, 0xff));
    assert_eq!(dist.raise_edge(41), Some(0));
    gic.load(&mut h, &dist);
    assert_eq!(h.ack(), Some(40));
}

#[test]
fn dir_traps_with_eoimode_1_once_an_spi_is_in_use() {
    let dist = Dist::new(&FakeIch::new(4).view);
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    let split = h.view.apply_write(h.vmcr, EOIMODE);
    h.vmcr = split;
    gic.vmcr_changed(&mut h, &dist, split);
    assert_eq!(h.hcr, 1);
    ask(dist.write(&(), ISENABLER + 4, 4, 1), &mut gic, &mut h, &dist);
    assert_eq!(h.hcr, 1 << 14 | 1);
    h.vmcr = h.view.apply_write(h.vmcr, 0);
    gic.vmcr_changed(&mut h, &dist, split);
    assert_eq!(h.hcr, 1);
}

#[test]
fn a_reset_vm_has_no_spi_pending_anywhere() {
    let dist = dist();
    let (mut gic, mut h) = loaded(&dist, 0, 4);
    for intid in 32..80 {
        let _ = dist.raise_edge(intid);
    }
    gic.receive_spis(&mut h, &dist);
    gic.park(&mut h, &dist);
    gic.reset();
    dist.reset();
    assert_eq!(gic, vcpu(0));
    let _ = dist.write(&(), CTLR, 4, 3);
    let _ = dist.write(&(), ISENABLER + 4, 4, u64::MAX);
    gic.load(&mut h, &dist);
    assert_eq!(h.signalled_intid(), None);
}

#[derive(Default)]
struct Seen {
    raised: AtomicU32,
    /// What `raised` was when it was last taken, or more.
    served: AtomicU32,
    taken: AtomicU32,
    active: AtomicBool,
}

/// vCPUs on threads of their own take what two devices raise, while routes change under them: nothing is lost, and nothing is taken
/// by two.
#[test]
#[cfg_attr(miri, ignore = "minutes under the interpreter, and no other code than the tests beside it runs")]
fn threads_that_race_for_spis_lose_none() {
    const RAISES: u32 = if cfg!(miri) { 20 } else { 4000 };
    const USED: u32 = 40;
    let dist = Arc::new(dist());
    let seen: Arc<Vec<Seen>> = Arc::new((0..USED).map(|_| Seen::default()).collect());
    let done = Arc::new(AtomicBool::new(false));
    let vcpus: Vec<_> = (0..3)
        .map(|index| {
            let (dist, seen, done) = (Arc::clone(&dist), Arc::clone(&seen), Arc::clone(&done));
            thread::spawn(move || {
                let (mut gic, mut h) = loaded(&dist, index, 2);
                let mut turn = 0;
                while !done.load(Ordering::Acquire) {
                    turn += 1;
                    // Whoever was to be kicked looks all the time anyway.
                    let _ = gic.take_kicks();
                    if turn % 64 == 0 {
                        gic.put(&mut h, &dist);
                        gic.load(&mut h, &dist);
                    }
                    gic.receive_spis(&mut h, &dist);
                    settle(&mut gic, &mut h, &dist);
                    if let Some(intid) = h.ack() {
                        let seen = &seen[intid as usize - 32];
                        assert!(!seen.active.swap(true, Ordering::AcqRel), "{intid} is taken by two");
                        seen.served.store(seen.raised.load(Ordering::Acquire), Ordering::Release);
                        seen.taken.fetch_add(1, Ordering::Relaxed);
                        settle(&mut gic, &mut h, &dist);
                        seen.active.store(false, Ordering::Release);
                        h.eoi(intid);
                        settle(&mut gic, &mut h, &dist);
                    } else {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let devices: Vec<_> = (0..2u32)
        .map(|device| {
            let (dist, seen) = (Arc::clone(&dist), Arc::clone(&seen));
            thread::spawn(move || {
                for n in 0..RAISES {
                    let intid = 32 + (n * 7 + device) % USED;
                    if n % 7 == 0 {
                        let route = match n / 7 % 4 {
                            3 => 1 << 31,
                            vcpu => u64::from(vcpu),
                        };
                        // Owners are not asked: they look by themselves at the next of their turns.
                        let _ = dist.write(&(), IROUTER + 8 * u64::from(intid), 8, route);
                    }
                    seen[intid as usize - 32].raised.fetch_add(1, Ordering::AcqRel);
                    let _ = dist.raise_edge(intid);
                    if n % 16 == 0 {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for device in devices {
        device.join().expect("device");
    }
    let all_served = || {
        let served = |seen: &Seen| seen.served.load(Ordering::Acquire) == seen.raised.load(Ordering::Acquire);
        seen.iter().all(|seen| served(seen) && !seen.active.load(Ordering::Acquire))
    };
    let patience = Instant::now() + Duration::from_secs(if cfg!(miri) { 600 } else { 20 });
    while !all_served() && Instant::now() < patience {
        thread::yield_now();
    }
    done.store(true, Ordering::Release);
    for vcpu in vcpus {
        vcpu.join().expect("vCPU");
    }
    for (n, seen) in seen.iter().enumerate() {
        let (raised, served, taken) = (&seen.raised, &seen.served, &seen.taken);
        let (raised, served, taken) = [raised, served, taken].map(|cell| cell.load(Ordering::Relaxed)).into();
        assert_eq!(served, raised, "INTID {}: the last edge was lost", n + 32);
        assert!(taken <= raised && taken != 0, "INTID {}: {taken} taken of {raised}", n + 32);
    }
}
