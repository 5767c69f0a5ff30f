//! What the distributor's registers show and do, and who gets which SPI.

use super::*;

fn dist() -> Dist {
    Dist::new(&CtlrView::new(0x90b8_0003, 0x000c_0000))
}

fn read(dist: &Dist, offset: u64, size: u64) -> u64 {
    let (value, effect) = dist.read(&(), offset, size);
    assert_eq!((effect.owners, effect.kick), (0, 0), "nobody holds anything");
    value
}

/// A distributor whose SPI 33 is enabled, in group 1 and goes to vCPU 2, which is on.
fn with_33() -> Dist {
    let dist = dist();
    let _ = dist.write(&(), CTLR, 4, 3);
    let _ = dist.power_on(2);
    let _ = dist.write(&(), IGROUPR + 4, 4, 2);
    let _ = dist.write(&(), IROUTER + 8 * 33, 8, 2);
    let _ = dist.write(&(), ISENABLER + 4, 4, 2);
    for vcpu in 0..MAX_VCPUS {
        let _ = dist.drain(vcpu);
    }
    dist
}

#[test]
fn identity_is_a_gicv3_with_one_security_state_and_288_intids() {
    let dist = dist();
    assert_eq!(read(&dist, CTLR, 4), 0x50);
    assert_eq!(read(&dist, TYPER, 4), 8 | 9 << 19 | 1 << 24 | 1 << 26);
    assert_eq!(read(&dist, IIDR, 4), 0x5500_043b);
    assert_eq!(read(&dist, TYPER2, 4), 0);
    assert_eq!(read(&dist, 0xffe8, 4), 0x3b);
}

#[test]
fn affinity_routing_and_ds_cannot_be_turned_off() {
    let dist = dist();
    let _ = dist.power_on(5);
    assert_eq!(dist.write(&(), CTLR, 4, 0x8000_0083).owners, 1 << 5);
    assert_eq!(read(&dist, CTLR, 4), 0x53);
    assert!(dist.write(&(), CTLR, 4, 3).is_none());
    assert_eq!(dist.write(&(), CTLR, 4, 0).owners, 1 << 5);
    assert_eq!(read(&dist, CTLR, 4), 0x50);
}

#[test]
fn an_effect_is_none_only_if_nobody_is_asked_anything() {
    let none = Effect::default();
    assert!(none.is_none());
    for some in [
        Effect { owners: 4, ..none },
        Effect { kick: 4, ..none },
        Effect {
            owners: 1,
            kick: 2,
            ..none
        },
    ] {
        assert!(!some.is_none(), "{some:?}");
    }
}

#[test]
fn what_is_routed_to_another_is_left_for_that_one_who_is_told_once() {
    let dist = with_33();
    let _ = dist.write(&(), ISPENDR + 4, 4, 2);
    assert_ne!(dist.drain(2), 0);
    assert_eq!(dist.deliverable(0), 2);
    assert_eq!(dist.sort(0, 2, 1), (0, 1 << 2));
    assert_eq!(dist.sort(0, 2, 1), (0, 0), "it knows");
    assert_eq!(dist.sort(0, 2, 2), (2, 0));
}

#[test]
fn a_route_is_read_and_written_as_a_whole_where_it_begins_alone() {
    let dist = with_33();
    assert_eq!(read(&dist, IROUTER + 8 * 33, 8), 2);
    for by in 1..8 {
        let _ = dist.write(&(), IROUTER + 8 * 33 + by, 8, 1);
        assert_eq!(read(&dist, IROUTER + 8 * 33 + by, 8), 0, "{by}");
        assert_eq!(read(&dist, IROUTER + 8 * 33, 8), 2, "{by}");
    }
}

#[test]
fn all_look_again_when_the_first_of_them_takes_a_group() {
    let dist = with_33();
    for vcpu in 0..2 {
        let _ = dist.power_on(vcpu);
    }
    assert_eq!(dist.set_taking(0, 2), 0b111, "group 1's first");
    assert_eq!(dist.set_taking(1, 2), 0, "its second");
    assert_eq!(dist.set_taking(1, 3), 0b111, "group 0's first");
    assert_eq!(dist.set_taking(0, 3), 0);
    assert_eq!(dist.set_taking(0, 0) | dist.set_taking(1, 0), 0);
    assert_eq!(dist.set_taking(2, 2), 0b111, "nobody took it any more");
}

#[test]
fn a_group_is_forwarded_while_its_enable_is_set() {
    let dist = dist();
    for (ctlr, forwarded) in [(0, 0), (1, !0xf0), (2, 0xf0), (3, u64::MAX)] {
        let _ = dist.write(&(), CTLR, 4, ctlr);
        assert_eq!(dist.forwarded(0xf0), forwarded);
    }
    dist.reset();
    assert_eq!(dist.groups(), 0);
}

/// What a register reads after all ones were written to it as 4 bytes, and what before. `None`: no such register.
fn expected(offset: u64) -> Option<(u32, u32)> {
    let bits = |value| (offset & 0x7f >= 4 && offset & 0x7f <= 32).then_some((value, 0));
    Some(match offset {
        CTLR => (0x53, 0x50),
        TYPER => (0x0548_0008, 0x0548_0008),
        IIDR => (0x5500_043b, 0x5500_043b),
        0x80..0x100 | 0x100..0x180 | 0x200..0x280 | 0x300..0x380 => return bits(u32::MAX),
        0x180..0x200 | 0x280..0x300 | 0x380..0x400 => return bits(0),
        0x420..0x520 => (0xf8f8_f8f8, 0),
        0xc08..0xc48 => (0xaaaa_aaaa, 0),
        0x6100..0x6900 if offset.is_multiple_of(8) => (0x80ff_ffff, 0),
        0x6100..0x6900 => (0xff, 0),
        0xffd0 => (0x44, 0x44),
        0xffe0 => (0x92, 0x92),
        0xffe4 => (0xb4, 0xb4),
        0xffe8 => (0x3b, 0x3b),
        0xfff0 => (0x0d, 0x0d),
        0xfff4 => (0xf0, 0xf0),
        0xfff8 => (0x05, 0x05),
        0xfffc => (0xb1, 0xb1),
        _ => return None,
    })
}

#[test]
#[cfg_attr(miri, ignore = "minutes under the interpreter")]
fn every_offset_at_every_size_has_a_defined_result() {
    for size in [1, 2, 4, 8] {
        let dist = dist();
        // Two bytes past the frame's end as well.
        for offset in (0..0x1_0002u64).step_by(if cfg!(miri) { 211 } else { 1 }) {
            let known = expected(offset & !3);
            let (written, fresh) = match (size, known) {
                (4, Some((written, fresh))) if offset.is_multiple_of(4) => (u64::from(written), u64::from(fresh)),
                (1, Some(_)) if (0x420..0x520).contains(&offset) => (0xf8, 0),
                (8, _) if offset.is_multiple_of(8) && (0x6100..0x6900).contains(&offset) => (0xff_80ff_ffff, 0),
                _ => (0, 0),
            };
            assert_eq!(read(&dist, offset, size), fresh, "{offset:#x} size {size}");
            let _ = dist.write(&(), offset, size, u64::MAX);
            assert_eq!(read(&dist, offset, size), written, "{offset:#x} size {size}");
            dist.reset();
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes under the interpreter")]
fn a_write_where_no_register_is_changes_none() {
    let dist = dist();
    for size in [1, 2, 4, 8] {
        for offset in 0..0x1_0008 {
            let byte = size == 1 && (0x420..0x520).contains(&offset);
            let word = size == 4 && offset % 4 == 0 && expected(offset).is_some();
            let route = size == 8 && offset % 8 == 0 && (0x6100..0x6900).contains(&offset);
            if !(byte || word || route) {
                let _ = dist.write(&(), offset, size, u64::MAX);
            }
        }
    }
    for offset in (0..0x1_0000).step_by(4) {
        let fresh = expected(offset).map_or(0, |(_, fresh)| fresh);
        assert_eq!(read(&dist, offset, 4), fresh.into(), "{offset:#x}");
    }
}

#[test]
fn set_and_clear_registers_are_two_views_of_one_word() {
    for (set, clear) in [(ISENABLER, ICENABLER), (ISPENDR, ICPENDR), (ISACTIVER, ICACTIVER)] {
        let dist = dist();
        let _ = dist.write(&(), set + 8, 4, 0x8001_0003);
        let _ = dist.write(&(), set + 8, 4, 4);
        assert_eq!((read(&dist, set + 8, 4), read(&dist, clear + 8, 4)), (0x8001_0007, 0x8001_0007));
        let _ = dist.write(&(), clear + 8, 4, 0x8000_0001);
        assert_eq!((read(&dist, set + 8, 4), read(&dist, clear + 8, 4)), (0x0001_0006, 0x0001_0006));
        assert_eq!((read(&dist, set + 4, 4), read(&dist, set + 12, 4)), (0, 0));
    }
}

#[test]
fn registers_of_intids_below_32_and_from_288_are_not_here() {
    let dist = dist();
    for offset in [
        0x80, 0x100, 0xa4, 0x124, 0x400, 0x41c, 0x520, 0xc00, 0xc04, 0xc48, 0x6000, 0x60f8, 0x6900, 0x800, 0xd04, 0xe00,
    ] {
        let _ = dist.write(&(), offset, 4, u64::from(u32::MAX));
        assert_eq!(read(&dist, offset, 4), 0, "{offset:#x}");
    }
}

#[test]
fn a_route_is_written_whole_and_by_halves() {
    let dist = dist();
    let _ = dist.write(&(), IROUTER + 8 * 40, 8, 0x12_8034_5678);
    assert_eq!(read(&dist, IROUTER + 8 * 40, 8), 0x12_8034_5678);
    let _ = dist.write(&(), IROUTER + 8 * 40, 4, 0x1);
    assert_eq!(read(&dist, IROUTER + 8 * 40, 8), 0x12_0000_0001);
    let _ = dist.write(&(), IROUTER + 8 * 40 + 4, 4, 0);
    assert_eq!(read(&dist, IROUTER + 8 * 40, 8), 1);
    assert_eq!(read(&dist, IROUTER + 8 * 40 + 4, 4), 0);
}

#[test]
fn triggers_have_one_writable_bit_each() {
    let dist = dist();
    for n in 0..16 {
        let _ = dist.write(&(), ICFGR + 8, 4, 3 << (2 * n));
        assert_eq!(read(&dist, ICFGR + 8, 4), 2 << (2 * n));
        let _ = dist.write(&(), ICFGR + 12, 4, 1 << (2 * n));
        assert_eq!(read(&dist, ICFGR + 12, 4), 0);
        let _ = dist.write(&(), ICFGR + 8, 4, 0);
    }
}

#[test]
fn ispendr_reads_the_line_of_a_level_interrupt_even_while_it_is_disabled() {
    let dist = dist();
    assert_eq!(dist.set_line(33, true), None);
    assert_eq!(read(&dist, ISPENDR + 4, 4), 2);
    let _ = dist.write(&(), ICPENDR + 4, 4, u64::MAX);
    assert_eq!(read(&dist, ISPENDR + 4, 4), 2);
    assert_eq!(dist.set_line(33, false), None);
    assert_eq!(read(&dist, ISPENDR + 4, 4), 0);
}

#[test]
fn an_edge_triggered_interrupt_latches_the_rise_of_its_line() {
    let dist = dist();
    let _ = dist.write(&(), ICFGR + 8, 4, 2 << 2);
    let _ = dist.set_line(33, true);
    let _ = dist.set_line(33, false);
    assert_eq!(read(&dist, ISPENDR + 4, 4), 2);
    let _ = dist.write(&(), ICPENDR + 4, 4, 2);
    let _ = dist.set_line(33, true);
    let _ = dist.write(&(), ICPENDR + 4, 4, 2);
    assert_eq!(read(&dist, ISPENDR + 4, 4), 0, "high, but no edge since");
}

#[test]
fn an_spi_goes_to_the_vcpu_that_its_route_names() {
    let dist = with_33();
    assert_eq!(dist.set_line(33, true), Some(2));
    assert!(dist.has_spis(2) && !dist.has_spis(0));
    assert_eq!(dist.for_vcpu(0, 2), 2);
    assert!(dist.claim(2, Spi::FIRST) && !dist.claim(1, Spi::FIRST));
    assert_eq!(dist.set_line(33, true), None, "no change");
    assert_eq!(dist.raise_edge(31), None);
    assert_eq!(dist.raise_edge(288), None);
}

#[test]
fn whatever_makes_an_spi_deliverable_names_its_vcpu() {
    for (offset, off, on) in [(ISENABLER + 4, ICENABLER + 4, 2), (ISACTIVER + 4, ICACTIVER + 4, 2)] {
        let dist = with_33();
        let (before, after) = if offset == ISENABLER + 4 { (off, offset) } else { (offset, off) };
        let _ = dist.write(&(), before, 4, on);
        assert_eq!(dist.raise_edge(33), None);
        assert_eq!(dist.write(&(), after, 4, on).kick, 4, "{after:#x}");
    }
    let dist = with_33();
    let _ = dist.write(&(), IROUTER + 8 * 33, 8, 5);
    assert_eq!(dist.raise_edge(33), None, "vCPU 5 is off");
    assert_eq!(dist.power_on(5), 1, "it looks at the word that has 33");
    assert_eq!(dist.write(&(), IROUTER + 8 * 33, 8, 2).kick, 4);
    let _ = dist.write(&(), IGROUPR + 4, 4, 0);
    let _ = dist.write(&(), CTLR, 4, 2);
    assert_eq!(dist.write(&(), ISPENDR + 4, 4, 2).kick, 0, "group 0 is not forwarded");
    assert_eq!(dist.write(&(), IGROUPR + 4, 4, 2).kick, 4);
}

#[test]
fn one_of_n_goes_to_the_lowest_vcpu_that_takes_the_group_else_to_the_lowest_that_is_on() {
    let dist = with_33();
    let _ = dist.write(&(), IROUTER + 8 * 33, 8, ANY);
    let route = || dist.route(Spi::at(0, 1));
    assert_eq!(route(), Some(2));
    let _ = dist.power_on(7);
    let _ = dist.power_on(4);
    assert_eq!(dist.set_taking(7, 0b11), 1 << 2 | 1 << 4 | 1 << 7);
    assert_eq!(route(), Some(7));
    assert_eq!(dist.set_taking(4, 0b10), 0);
    assert_eq!(route(), Some(4));
    let _ = dist.raise_edge(33);
    assert_eq!(dist.power_off(4, 0), 1 << 7);
    assert_eq!(route(), Some(7));
    let _ = (dist.power_off(7, 0), dist.power_off(2, 0));
    assert_eq!(route(), None);
}

#[test]
fn asks_survive_the_way_through_a_request_slot() {
    for op in [
        SpiOp::Refresh,
        SpiOp::ReadPending,
        SpiOp::ReadActive,
        SpiOp::ClearPending,
        SpiOp::ClearActive,
    ] {
        let ask = SpiAsk {
            op,
            word: 7,
            mask: 0x8000_0001,
        };
        assert_eq!(SpiAsk::from_word(ask.to_word()), ask);
    }
    assert!(usize::from(SpiAsk::from_word(u64::MAX).word) < WORDS);
}
