//! List registers, filled, spilled and taken back, on a fake CPU interface.

use super::super::fake::{Dir, FakeIch, Kind};
use super::*;
use crate::vgic::dist::CTLR;
use crate::vgic::fake::Absent;
use crate::vgic::redist::{ICACTIVER0, ICENABLER0, ICPENDR0, IGROUPR0, IPRIORITYR0, ISACTIVER0, ISENABLER0, ISPENDR0};

const TIMER: u32 = 27;
const EOIMODE: u64 = 2;

/// A loaded vCPU with everything enabled, in group 1, priority 0x80.
fn loaded(lrs: usize) -> (VcpuGic, FakeIch, Dist) {
    let mut h = FakeIch::new(lrs);
    let dist = Dist::new(&h.view);
    let _ = dist.write(&(), CTLR, 4, 3);
    let mut gic = VcpuGic::new(Identity {
        index: 0,
        last: true,
        affinity: 0,
    });
    gic.load(&mut h, &dist);
    gic.write(&mut h, &dist, IGROUPR0, 4, u64::MAX);
    gic.write(&mut h, &dist, ISENABLER0, 4, u64::MAX);
    for word in 0..8 {
        gic.write(&mut h, &dist, IPRIORITYR0 + 4 * word, 4, 0x8080_8080);
    }
    (gic, h, dist)
}

fn set_priority(gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist, intid: u32, priority: u8) {
    gic.write(h, dist, IPRIORITYR0 + u64::from(intid), 1, priority.into());
}

fn settle(gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist) {
    while h.misr() != 0 {
        gic.maintenance(h, dist);
    }
}

fn fire_timer(gic: &mut VcpuGic, h: &mut FakeIch, dist: &Dist) {
    h.line = true;
    h.active = true;
    gic.inject_hw(h, dist, TIMER);
}

#[test]
fn more_pending_than_list_registers_are_all_taken_in_order_of_priority() {
    let (mut gic, mut h, dist) = loaded(4);
    for intid in 0..10 {
        set_priority(&mut gic, &mut h, &dist, intid, 0xf0 - 8 * intid as u8);
        gic.inject(&mut h, &dist, intid);
    }
    assert_eq!(gic.spill().pending.count_ones(), 6);
    let mut taken = Vec::new();
    for _ in 0..10 {
        let intid = h.ack().expect("an interrupt");
        settle(&mut gic, &mut h, &dist);
        h.eoi(intid);
        settle(&mut gic, &mut h, &dist);
        taken.push(intid);
    }
    assert_eq!(taken, (0..10).rev().collect::<Vec<_>>());
    assert_eq!(gic.spill(), Spill::default());
    assert_eq!(h.hcr, 1, "no maintenance is asked for when nothing is spilled");
}

#[test]
fn nothing_but_the_list_register_is_written_when_there_is_room() {
    let (mut gic, mut h, dist) = loaded(4);
    h.hcr = 0xdead_0001;
    gic.inject(&mut h, &dist, 1);
    assert_eq!(h.hcr, 0xdead_0001);
    assert_eq!(h.signalled_intid(), Some(1));
}

/// With `lrs` list registers and that many SGIs, from 0 on, taken one inside the other: all of them are active.
fn nested(lrs: usize, count: u32) -> (VcpuGic, FakeIch, Dist) {
    let (mut gic, mut h, dist) = loaded(lrs);
    for intid in 0..count {
        set_priority(&mut gic, &mut h, &dist, intid, 0x80 - 8 * intid as u8);
        gic.inject(&mut h, &dist, intid);
        assert_eq!(h.ack(), Some(intid));
        settle(&mut gic, &mut h, &dist);
    }
    (gic, h, dist)
}

#[test]
fn nested_active_interrupts_beyond_the_list_registers_end_in_order() {
    for lrs in [1, 2, 4] {
        let (mut gic, mut h, dist) = nested(lrs, 8);
        assert_eq!(gic.live(&h).active, 0xff);
        for intid in (0..8).rev() {
            h.eoi(intid);
            settle(&mut gic, &mut h, &dist);
            assert_eq!(gic.live(&h).active, (1 << intid) - 1, "{lrs} list registers");
        }
    }
}

#[test]
fn several_spilled_interrupts_that_end_before_an_exit_are_all_over() {
    for lrs in [1, 2, 4] {
        for at_once in 1..=8 {
            let (mut gic, mut h, dist) = nested(lrs, 8);
            for intid in (8 - at_once..8).rev() {
                h.eoi(intid);
            }
            settle(&mut gic, &mut h, &dist);
            let left = (1 << (8 - at_once)) - 1;
            assert_eq!(gic.live(&h).active, left, "{at_once} at once, {lrs} list registers");
        }
    }
}

#[test]
fn an_end_that_was_counted_is_not_lost_when_other_registers_are_to_trap() {
    let (mut gic, mut h, dist) = nested(1, 4);
    // The second is in no list register.
    h.eoi(3);
    h.eoi(2);
    let strict = Trapping {
        strict: true,
        ..Trapping::default()
    };
    gic.will_trap(strict);
    let vmcr = h.vmcr;
    gic.vmcr_changed(&mut h, &dist, vmcr);
    settle(&mut gic, &mut h, &dist);
    assert_eq!(gic.live(&h).active, 0b11);
}

#[test]
fn spilled_interrupts_end_by_the_priorities_that_they_were_taken_with() {
    for lrs in [1, 2, 4] {
        let (mut gic, mut h, dist) = nested(lrs, 8);
        // What was taken last is the least urgent now.
        for intid in 0..8 {
            set_priority(&mut gic, &mut h, &dist, intid, 0x80 + 8 * intid as u8);
        }
        for intid in (0..8).rev() {
            h.eoi(intid);
            settle(&mut gic, &mut h, &dist);
            assert_eq!(gic.live(&h).active, (1 << intid) - 1, "{lrs} list registers");
        }
    }
}

#[test]
fn what_the_guest_has_ended_reads_inactive_before_the_maintenance_interrupt_has_come() {
    for lrs in [1, 2, 4] {
        let (mut gic, mut h, dist) = nested(lrs, 8);
        for intid in (0..8).rev() {
            h.eoi(intid);
            assert_eq!(gic.read(&h, ISACTIVER0, 4), (1 << intid) - 1, "{lrs} list registers");
            assert!(gic.read_short(&h, ISACTIVER0, 4).is_none_or(|active| active == (1 << intid) - 1));
        }
        settle(&mut gic, &mut h, &dist);
        assert_eq!((gic.live(&h).active, gic.spill()), (0, Spill::default()));
    }
}

/// In the few instructions before the maintenance interrupt comes, which then finds the other EOImode.
#[test]
fn what_the_guest_has_ended_is_over_when_it_turns_to_eoimode_1() {
    for lrs in [1, 2, 4] {
        let (mut gic, mut h, dist) = nested(lrs, 8);
        for intid in (0..8).rev() {
            h.eoi(intid);
        }
        h.vmcr = h.view.apply_write(h.vmcr, EOIMODE);
        assert_eq!(gic.live(&h).active, 0, "{lrs} list registers");
        let vmcr = h.vmcr;
        gic.vmcr_changed(&mut h, &dist, vmcr);
        settle(&mut gic, &mut h, &dist);
        assert_eq!((gic.live(&h).active, gic.spill()), (0, Spill::default()), "{lrs} list registers");
    }
}

#[test]
fn with_eoimode_1_pending_interrupts_arrive_while_every_active_one_waits_for_dir() {
    for kind in Kind::ALL {
        let (mut gic, mut h, dist) = loaded(4);
        h.kind = kind;
        h.vmcr = h.view.apply_write(h.vmcr, EOIMODE);
        for intid in 0..12 {
            gic.inject(&mut h, &dist, intid);
            assert_eq!(h.ack(), Some(intid));
            settle(&mut gic, &mut h, &dist);
            h.eoi(intid);
            settle(&mut gic, &mut h, &dist);
        }
        assert_eq!(gic.live(&h).active, 0xfff);
        for intid in [3, 11, 0, 7, 1, 2, 4, 5, 6, 8, 9, 10] {
            if h.dir(intid) == Dir::Trapped {
                let _ = gic.deactivate(&mut h, &dist, intid);
            }
            settle(&mut gic, &mut h, &dist);
            assert_eq!(gic.live(&h).active >> intid & 1, 0);
        }
        assert_eq!((gic.live(&h).active, h.hcr & (1 << 14 | 1 << 10)), (0, 0));
    }
}

#[test]
fn dir_without_eoimode_1_does_nothing() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.inject(&mut h, &dist, 1);
    h.ack();
    let _ = gic.deactivate(&mut h, &dist, 1);
    assert_eq!(gic.live(&h).active, 1 << 1);
}

#[test]
fn an_edge_while_active_is_taken_again() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.inject(&mut h, &dist, 1);
    assert_eq!(h.ack(), Some(1));
    gic.inject(&mut h, &dist, 1);
    gic.inject(&mut h, &dist, 1);
    assert_eq!((gic.live(&h).pending, gic.live(&h).active), (2, 2));
    h.eoi(1);
    assert_eq!(h.ack(), Some(1));
    h.eoi(1);
    assert_eq!(h.ack(), None);
}

#[test]
fn an_eoi_of_the_timer_reaches_the_physical_interrupt_without_an_exit() {
    let (mut gic, mut h, dist) = loaded(4);
    fire_timer(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), Some(TIMER));
    h.line = false;
    h.eoi(TIMER);
    assert!(!h.active);
    assert_eq!(gic.live(&h).pending, 0);
}

#[test]
fn a_timer_entry_whose_line_fell_is_withdrawn_and_deactivated() {
    let (mut gic, mut h, dist) = loaded(4);
    fire_timer(&mut gic, &mut h, &dist);
    gic.attend(&mut h, &dist);
    assert_eq!(h.signalled_intid(), Some(TIMER), "not while the line is high");
    h.line = false;
    assert!(gic.needs_attention());
    gic.attend(&mut h, &dist);
    assert_eq!(h.ack(), None);
    assert!(!h.active);
    assert!(!gic.needs_attention());
}

/// The kick of whoever looks, or the end of a slice, brings an exit that has not attended to it yet.
#[test]
fn a_timer_whose_line_fell_is_pending_for_nobody_and_wakes_nobody() {
    let (mut gic, mut h, dist) = loaded(4);
    fire_timer(&mut gic, &mut h, &dist);
    assert_eq!(gic.read(&h, ISPENDR0, 4), 1 << TIMER);
    h.line = false;
    assert_eq!(gic.read(&h, ISPENDR0, 4), 0);
    assert!(!gic.wakes(&h, &dist, h.vmcr, 0xff));
    gic.put(&mut h, &dist);
    assert_eq!(gic.read(&Absent(()), ISPENDR0, 4), 0);
    assert!(gic.is_quiet(&dist) && !gic.wakes(&Absent(()), &dist, h.vmcr, 0xff));
    gic.load(&mut h, &dist);
    assert_eq!((h.signalled_intid(), h.active), (None, false));
    // What a write has made pending needs no line.
    gic.write(&mut h, &dist, ISPENDR0, 4, 1 << TIMER);
    assert_eq!(gic.read(&h, ISPENDR0, 4), 1 << TIMER);
    gic.put(&mut h, &dist);
    assert_eq!(gic.read(&Absent(()), ISPENDR0, 4), 1 << TIMER);
}

#[test]
fn a_taken_timer_needs_no_attention_after_one_look() {
    let (mut gic, mut h, dist) = loaded(4);
    fire_timer(&mut gic, &mut h, &dist);
    h.ack();
    gic.attend(&mut h, &dist);
    assert!(!gic.needs_attention());
    assert!(h.active);
    assert_eq!(gic.live(&h).active, 1 << TIMER);
}

#[test]
fn a_timer_that_was_taken_and_is_over_takes_no_other_interrupt_with_it() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.write(&mut h, &dist, ICENABLER0, 4, 1 << 5);
    gic.inject(&mut h, &dist, 5);
    gic.inject(&mut h, &dist, 6);
    fire_timer(&mut gic, &mut h, &dist);
    set_priority(&mut gic, &mut h, &dist, TIMER, 0x40);
    assert_eq!(h.ack(), Some(TIMER));
    h.line = false;
    h.eoi(TIMER);
    assert!(gic.may_need_attention() && gic.attend_ended(&h) && !gic.may_need_attention());
    assert_eq!(gic.live(&h).pending, 1 << 5 | 1 << 6);
    gic.write(&mut h, &dist, ISENABLER0, 4, 1 << 5);
    let mut taken = 0;
    while let Some(intid) = h.ack() {
        taken |= 1 << intid;
        h.eoi(intid);
    }
    assert_eq!(taken, 1 << 5 | 1 << 6, "each once");
    assert_eq!(gic.live(&h).pending, 0);
}

#[test]
fn a_write_to_the_timers_pending_state_reaches_the_physical_interrupt() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.write(&mut h, &dist, ISPENDR0, 4, 1 << TIMER);
    assert!(h.active, "or the guest's EOI would have nothing to deactivate");
    gic.attend(&mut h, &dist);
    assert_eq!(h.signalled_intid(), Some(TIMER), "a written pending state needs no line");
    gic.write(&mut h, &dist, ICPENDR0, 4, 1 << TIMER);
    assert!(!h.active);
}

#[test]
fn a_timer_that_fires_after_a_written_pending_state_is_over_is_withdrawn_when_its_line_falls() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.write(&mut h, &dist, ISPENDR0, 4, 1 << TIMER);
    assert_eq!(h.ack(), Some(TIMER));
    h.eoi(TIMER);
    fire_timer(&mut gic, &mut h, &dist);
    h.line = false;
    gic.attend(&mut h, &dist);
    assert_eq!(h.ack(), None);
    assert!(!h.active);
}

#[test]
fn an_interrupt_is_shown_again_until_something_about_it_changes() {
    let (mut gic, mut h, dist) = loaded(4);
    assert!(!gic.show_again(&mut h, 3), "it was never shown");
    gic.inject(&mut h, &dist, 3);
    assert!(!gic.show_again(&mut h, 3), "it is pending");
    for _ in 0..2 {
        assert_eq!(h.ack(), Some(3));
        assert!(!gic.show_again(&mut h, 3), "it is active");
        h.eoi(3);
        assert!(gic.show_again(&mut h, 3));
        assert_eq!(gic.live(&h).pending, 1 << 3);
    }
    assert_eq!(h.ack(), Some(3));
    h.eoi(3);
    set_priority(&mut gic, &mut h, &dist, 3, 0x40);
    assert!(!gic.show_again(&mut h, 3), "its priority is another");
    gic.inject(&mut h, &dist, 3);
    assert_eq!(h.ack(), Some(3));
}

#[test]
fn an_sgi_is_shown_again_in_the_group_that_it_is_of() {
    let (mut gic, mut h, dist) = loaded(4);
    h.vmcr = h.vmcr.with_igrpen0(1);
    for group1 in [u64::MAX, 0] {
        gic.write(&mut h, &dist, IGROUPR0, 4, group1);
        assert!(gic.again(&h, 3).is_none(), "its group is another");
        gic.inject(&mut h, &dist, 3);
        assert!(gic.again(&h, 3).is_none(), "it is pending");
        assert_eq!(h.ack(), Some(3));
        h.eoi(3);
        assert!(gic.again(&h, 2).is_none());
        let again = gic.again(&h, 3).expect("nothing has changed");
        gic.show(&mut h, again);
        assert_eq!(gic.live(&h).pending, 1 << 3);
        assert_eq!((h.ack(), h.ap1r[0] != 0, h.ap0r[0] != 0), (Some(3), group1 != 0, group1 == 0));
        h.eoi(3);
    }
}

#[test]
fn a_write_that_ends_the_timer_lets_it_fire_again() {
    let (mut gic, mut h, dist) = loaded(4);
    fire_timer(&mut gic, &mut h, &dist);
    h.ack();
    gic.write(&mut h, &dist, ICACTIVER0, 4, 1 << TIMER);
    assert!(!h.active);
}

#[test]
fn ispendr_shows_the_line_of_a_disabled_timer() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.write(&mut h, &dist, ICENABLER0, 4, u64::MAX);
    h.line = true;
    assert_eq!(gic.read(&h, ISPENDR0, 4), 1 << TIMER);
    h.active = true;
    gic.inject_hw(&mut h, &dist, TIMER);
    assert_eq!(gic.read(&h, ISPENDR0, 4), 1 << TIMER);
    assert_eq!(h.signalled_intid(), None);
    gic.write(&mut h, &dist, ISENABLER0, 4, 1 << TIMER);
    assert_eq!(h.signalled_intid(), Some(TIMER));
}

#[test]
fn a_level_line_is_sampled_again_when_its_interrupt_ends() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.set_line(&mut h, &dist, 30, true);
    assert_eq!(h.ack(), Some(30));
    h.eoi(30);
    assert_ne!(h.misr(), 0);
    settle(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), Some(30), "still high");
    gic.set_line(&mut h, &dist, 30, false);
    h.eoi(30);
    settle(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), None);
}

#[test]
fn the_line_of_a_ppi_may_change_while_its_vcpu_is_not_loaded() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.put(&mut h, &dist);
    gic.set_line(&mut Absent(()), &dist, 30, true);
    assert!(gic.wakes(&Absent(()), &dist, h.vmcr, 0xff));
    gic.load(&mut h, &dist);
    assert_eq!(h.signalled_intid(), Some(30));
    gic.put(&mut h, &dist);
    gic.set_line(&mut Absent(()), &dist, 30, false);
    assert!(!gic.wakes(&Absent(()), &dist, h.vmcr, 0xff));
    gic.load(&mut h, &dist);
    assert_eq!(h.signalled_intid(), None);
}

#[test]
fn pending_and_active_state_are_told_apart_on_the_short_way_too() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.write(&mut h, &dist, ICENABLER0, 4, 1 << 5);
    gic.write(&mut h, &dist, ISPENDR0, 4, 1 << 5);
    for (offset, value) in [(ISPENDR0, 1 << 5), (ICPENDR0, 1 << 5), (ISACTIVER0, 0), (ICACTIVER0, 0)] {
        assert_eq!(gic.read_short(&h, offset, 4), Some(value), "{offset:#x}");
        assert_eq!(gic.read(&h, offset, 4), value, "{offset:#x}");
    }
}

#[test]
fn an_active_timer_ends_without_an_exit_after_its_vcpu_was_away_too() {
    let (mut gic, mut h, dist) = loaded(4);
    fire_timer(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), Some(TIMER));
    gic.put(&mut h, &dist);
    gic.load(&mut h, &dist);
    h.line = false;
    h.eoi(TIMER);
    assert_eq!(h.misr(), 0, "nothing asks for an exit");
    assert!(!h.active);
}

#[test]
fn the_list_register_that_is_left_to_the_timer_is_taken_before_another_is_emptied() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.inject(&mut h, &dist, 1);
    fire_timer(&mut gic, &mut h, &dist);
    set_priority(&mut gic, &mut h, &dist, 1, 0xf0);
    assert_eq!(h.ack(), Some(TIMER));
    h.line = false;
    h.eoi(TIMER);
    for intid in [2, 3, 4] {
        gic.inject(&mut h, &dist, intid);
    }
    assert_eq!(gic.spill(), Spill::default());
    let mut taken = 0;
    while let Some(intid) = h.ack() {
        taken |= 1 << intid;
        h.eoi(intid);
    }
    assert_eq!((taken, h.misr()), (0b1_1110, 0), "each without an exit");
}

#[test]
fn cpu_off_keeps_pending_sgis_and_drops_the_timer() {
    let (mut gic, mut h, dist) = loaded(4);
    for intid in 0..6 {
        gic.inject(&mut h, &dist, intid);
    }
    fire_timer(&mut gic, &mut h, &dist);
    gic.park(&mut h, &dist);
    assert!(h.lr.iter().take(4).all(|&lr| lr == 0));
    assert!(!h.active);
    assert_eq!(gic.read(&h, ISPENDR0, 4), 0x3f);
    h.line = false;
    gic.load(&mut h, &dist);
    let mut taken = 0;
    while let Some(intid) = h.ack() {
        taken |= 1 << intid;
        h.eoi(intid);
        settle(&mut gic, &mut h, &dist);
    }
    assert_eq!(taken, 0x3f);
}

#[test]
fn a_timer_that_was_written_pending_before_cpu_off_follows_its_line_afterwards() {
    let (mut gic, mut h, dist) = loaded(4);
    gic.write(&mut h, &dist, ISPENDR0, 4, 1 << TIMER);
    gic.park(&mut h, &dist);
    gic.load(&mut h, &dist);
    fire_timer(&mut gic, &mut h, &dist);
    h.line = false;
    gic.attend(&mut h, &dist);
    assert_eq!((h.ack(), h.active), (None, false));
}

#[test]
fn what_is_masked_or_less_urgent_than_what_runs_wakes_nobody() {
    let (mut gic, mut h, dist) = loaded(4);
    assert!(!gic.wakes(&h, &dist, h.vmcr, 0xff));
    gic.inject(&mut h, &dist, 3);
    assert!(gic.wakes(&h, &dist, h.vmcr, 0xff));
    assert!(!gic.wakes(&h, &dist, h.vmcr.with_igrpen1(0), 0xff), "its group is off");
    assert!(!gic.wakes(&h, &dist, h.vmcr.with_pmr(&h.view, 0x80), 0xff), "it is masked");
    assert!(!gic.wakes(&h, &dist, h.vmcr, 0x80), "something as urgent runs");
}

#[test]
fn group_0_that_the_guest_does_not_use_keeps_no_list_register_from_group_1() {
    let (mut gic, mut h, dist) = loaded(2);
    gic.write(&mut h, &dist, IGROUPR0, 4, !0xf);
    for intid in 0..4 {
        set_priority(&mut gic, &mut h, &dist, intid, 0);
        gic.inject(&mut h, &dist, intid);
    }
    gic.inject(&mut h, &dist, 7);
    settle(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), Some(7));
    settle(&mut gic, &mut h, &dist);
    h.eoi(7);
    h.vmcr = h.vmcr.with_igrpen0(1);
    settle(&mut gic, &mut h, &dist);
    assert_eq!(h.ack(), Some(0));
}

#[test]
fn trapping_is_in_ich_hcr_once_loaded() {
    let (mut gic, mut h, dist) = loaded(4);
    let trap = |gic: &mut VcpuGic, h: &mut FakeIch, trapping| {
        gic.will_trap(trapping);
        gic.vmcr_changed(h, &dist, h.vmcr);
    };
    let coming_up = Trapping {
        coming_up: true,
        ..Trapping::default()
    };
    trap(&mut gic, &mut h, coming_up);
    assert_eq!(h.hcr, 1 << 10 | 1);
    gic.put(&mut h, &dist);
    h.hcr = 0;
    trap(&mut gic, &mut h, Trapping { strict: true, ..coming_up });
    assert_eq!(h.hcr, 0);
    gic.load(&mut h, &dist);
    assert_eq!(h.hcr, 1 << 10 | 1);
    trap(&mut gic, &mut h, Trapping::default());
    assert_eq!(h.hcr, 1);
}

#[test]
fn intids_that_no_vcpu_has_are_ignored() {
    let (mut gic, mut h, dist) = loaded(4);
    let before = gic.clone();
    for intid in [288, 1020, 1023, u32::MAX] {
        gic.inject(&mut h, &dist, intid);
        gic.set_line(&mut h, &dist, intid, true);
        h.vmcr = h.view.apply_write(h.vmcr, EOIMODE);
        let _ = gic.deactivate(&mut h, &dist, intid);
    }
    assert_eq!(gic, before);
    // Nor is one of them taken for one that there is.
    for intid in 0..8 {
        gic.inject(&mut h, &dist, intid);
        assert_eq!(h.ack(), Some(intid));
        h.eoi(intid);
        settle(&mut gic, &mut h, &dist);
    }
    for intid in 288..2048 {
        let _ = gic.deactivate(&mut h, &dist, intid);
    }
    assert_eq!(gic.live(&h).active, 0xff);
}
