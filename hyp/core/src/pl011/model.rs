//! The UART told a second time, as plainly as possible, and random accesses to both.

use super::Pl011;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a guest can see of a UART without time: registers that keep what is written to them, a queue, and a set of interrupts.
struct Model {
    kept: BTreeMap<u64, u64>,
    queue: VecDeque<u64>,
    /// What comes from outside and finds the queue full.
    wire: VecDeque<u64>,
    raised: BTreeSet<u32>,
    overrun: bool,
    last_error: u64,
    modem: BTreeSet<u32>,
}

const RX: u32 = 4;
const TX: u32 = 5;
const RT: u32 = 6;
const BE: u32 = 9;
const OE: u32 = 10;

fn word(bits: &BTreeSet<u32>) -> u64 {
    bits.iter().map(|bit| 1 << bit).sum()
}

/// The registers that keep what is written to them, their widths, their values at reset.
fn keeping(offset: u64) -> Option<(u64, u64)> {
    match offset {
        0x20 => Some((0xff, 0)),
        0x24 => Some((0xffff, 0)),
        0x28 => Some((0x3f, 0)),
        0x2c => Some((0xff, 0)),
        0x30 => Some((0xff87, 0x300)),
        0x34 => Some((0x3f, 0x12)),
        0x38 => Some((0x7ff, 0)),
        _ => None,
    }
}

impl Model {
    fn new() -> Self {
        Self {
            kept: BTreeMap::new(),
            queue: VecDeque::new(),
            wire: VecDeque::new(),
            raised: BTreeSet::new(),
            overrun: false,
            last_error: 0,
            modem: BTreeSet::new(),
        }
    }

    fn kept(&self, offset: u64) -> u64 {
        let at_reset = keeping(offset).map_or(0, |(_, at_reset)| at_reset);
        self.kept.get(&offset).copied().unwrap_or(at_reset)
    }

    fn loops(&self) -> bool {
        self.kept(0x30) >> 7 & 1 == 1
    }

    fn full(&self) -> bool {
        self.queue.len() >= if self.kept(0x2c) >> 4 & 1 == 1 { 32 } else { 1 }
    }

    fn arrives(&mut self, entry: u64) {
        if self.full() {
            self.overrun = true;
            self.raised.insert(OE);
        } else {
            self.queue.push_back(entry);
            self.raised.extend([RX, RT]);
        }
    }

    fn has_room(&self) -> bool {
        self.loops() || self.queue.len() + self.wire.len() < 64
    }

    fn receive(&mut self, byte: u8) -> bool {
        let room = self.has_room();
        if !self.loops() {
            if room {
                self.wire.push_back(u64::from(byte));
            }
            self.raised.extend([RX, RT]);
            self.take_from_the_wire();
        }
        room
    }

    fn take_from_the_wire(&mut self) {
        while !self.full()
            && let Some(byte) = self.wire.pop_front()
        {
            self.arrives(byte);
        }
    }

    fn value(&mut self, register: u64) -> u64 {
        match register {
            0x00 => {
                let Some(entry) = self.queue.pop_front() else { return 0 };
                self.last_error = entry >> 8;
                if self.queue.is_empty() {
                    self.raised.remove(&RX);
                    self.raised.remove(&RT);
                }
                self.take_from_the_wire();
                if !self.queue.is_empty() {
                    self.raised.insert(RT);
                }
                if self.full() {
                    self.raised.extend([RX, RT]);
                }
                entry
            }
            0x04 => self.last_error | if self.overrun { 8 } else { 0 },
            0x18 => {
                let (empty, full) = (self.queue.is_empty(), self.full());
                0x80 | word(&self.modem) | if empty { 0x10 } else { 0 } | if full { 0x40 } else { 0 }
            }
            0x3c => word(&self.raised),
            0x40 => word(&self.raised) & self.kept(0x38),
            0xfe0 | 0xfe4 => [0x11, 0x10][(register as usize - 0xfe0) / 4],
            0xfe8 => 0x14,
            0xff0 => 0x0d,
            0xff4 => 0xf0,
            0xff8 => 0x05,
            0xffc => 0xb1,
            other if keeping(other).is_some() => self.kept(other),
            _ => 0,
        }
    }

    fn read(&mut self, offset: u64, size: u8) -> u64 {
        if ![1, 2, 4].contains(&size) {
            return 0;
        }
        let bytes = self.value(offset / 4 * 4).to_le_bytes();
        let mut read = 0;
        for lane in 0..u64::from(size) {
            read |= u64::from(bytes[(offset % 4 + lane) as usize]) << (8 * lane);
        }
        read
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) -> Option<u8> {
        let value = match size {
            1 => value % (1 << 8),
            2 | 4 => value % (1 << 16),
            _ => return None,
        };
        match offset {
            0x00 => {
                self.raised.insert(TX);
                if self.loops() {
                    self.arrives(value % 256);
                }
                return Some((value % 256) as u8);
            }
            0x04 => (self.overrun, self.last_error) = (false, 0),
            0x44 => self.raised.retain(|bit| value >> bit & 1 == 0),
            other => {
                let (width, _) = keeping(other)?;
                let before = self.kept(other);
                self.kept.insert(other, value & width);
                match other {
                    0x2c => self.line_control(before, value),
                    0x30 => self.modem(value),
                    _ => {}
                }
            }
        }
        None
    }

    fn line_control(&mut self, before: u64, value: u64) {
        if (before ^ value) >> 4 & 1 == 1 {
            self.queue.clear();
            self.wire.clear();
            self.raised.remove(&RX);
            self.raised.remove(&RT);
        }
        if before & 1 == 0 && value & 1 == 1 && self.loops() {
            self.raised.insert(BE);
            self.arrives(0x400);
        }
    }

    fn modem(&mut self, control: u64) {
        for (output, flag, interrupt) in [(11, 0, 1), (10, 1, 3), (12, 2, 2), (13, 8, 0)] {
            let on = self.loops() && control >> output & 1 == 1;
            let changed = if on { self.modem.insert(flag) } else { self.modem.remove(&flag) };
            if changed {
                self.raised.insert(interrupt);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u8),
    Write(u64, u8, u64),
    Receive(u8),
    Reset,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        30 => prop::sample::select(vec![0x00_u64, 0x00, 0x04, 0x18, 0x2c, 0x30, 0x38, 0x3c, 0x40, 0x44]),
        10 => (0_u64..0x13).prop_map(|word| word * 4),
        2 => (0x3f0_u64..0x404).prop_map(|word| word * 4),
        2 => 0_u64..0x1004,
        1 => any::<u64>(),
    ]
}

fn size() -> impl Strategy<Value = u8> {
    prop_oneof![10 => Just(4_u8), 4 => Just(2_u8), 4 => Just(1_u8), 1 => Just(8_u8), 1 => any::<u8>()]
}

fn value() -> impl Strategy<Value = u64> {
    // Loopback, FIFO and interrupt bits, one or several, are what matters.
    prop_oneof![4 => any::<u64>(), 4 => (0_u32..16).prop_map(|bit| 1 << bit), 1 => Just(0_u64), 2 => Just(0x10_u64), 2 => Just(0x3f81_u64)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (offset(), size()).prop_map(|(offset, size)| Step::Read(offset, size)),
        16 => (offset(), size(), value()).prop_map(|(offset, size, value)| Step::Write(offset, size, value)),
        30 => any::<u8>().prop_map(Step::Receive),
        1 => prop::bool::weighted(0.2).prop_map(|reset| if reset { Step::Reset } else { Step::Receive(0) }),
    ]
}

/// Runs one step in both, compares what it gives, then everything that can be seen without changing it.
fn run(uart: &mut Pl011, model: &mut Model, step: &Step) {
    match *step {
        Step::Read(offset, size) => {
            assert_eq!(uart.read(offset, size), model.read(offset, size), "{step:x?}");
        }
        Step::Write(offset, size, value) => {
            assert_eq!(
                uart.write(offset, size, value).transmit,
                model.write(offset, size, value),
                "{step:x?}"
            );
        }
        Step::Receive(byte) => {
            assert_eq!(uart.has_room(), model.has_room(), "before {step:x?}");
            assert_eq!(uart.receive(byte), model.receive(byte), "{step:x?}");
        }
        Step::Reset => {
            uart.reset();
            *model = Model::new();
        }
    }
    for offset in (4..0x50).step_by(4) {
        assert_eq!(uart.read(offset, 4), model.value(offset), "{offset:#x} after {step:x?}");
    }
    assert_eq!(uart.line(), model.value(0x40) != 0, "the line after {step:x?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 500 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_uart_does_what_its_model_says(steps in prop::collection::vec(step(), 1..if cfg!(miri) { 12 } else { 200 })) {
        let (mut uart, mut model) = (Pl011::new(), Model::new());
        for step in &steps {
            run(&mut uart, &mut model, step);
        }
    }

    /// Whatever the guest does, a byte that was taken is read, in its order, unless the guest itself emptied the FIFO.
    #[test]
    fn every_byte_that_is_taken_is_read_in_order(chunks in prop::collection::vec((1_usize..150, 0_usize..150), 1..20), fifo: bool) {
        let mut uart = Pl011::new();
        let _ = uart.write(0x2c, 2, if fifo { 0x70 } else { 0x60 });
        let (mut sent, mut read, mut next) = (vec![], vec![], 0_u8);
        for (offers, reads) in chunks {
            for _ in 0..offers {
                if uart.receive(next) {
                    sent.push(next);
                    next = next.wrapping_add(1);
                }
            }
            for _ in 0..reads {
                if uart.read(0x18, 2) & 0x10 == 0 {
                    read.push(uart.read(0, 2) as u8);
                }
            }
        }
        while uart.read(0x18, 2) & 0x10 == 0 {
            read.push(uart.read(0, 2) as u8);
        }
        prop_assert_eq!(sent, read);
    }
}

/// The random steps are worth something only if they get everywhere.
#[test]
#[cfg_attr(miri, ignore = "it takes hundreds of sequences")]
fn the_steps_reach_every_interrupt_and_both_ends_of_the_fifo() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut raised, mut flags) = (0, 0);
    let (mut fullest, mut most) = (0, 0);
    for _ in 0..200 {
        let steps = prop::collection::vec(step(), 200).new_tree(&mut runner).unwrap().current();
        let (mut uart, mut model) = (Pl011::new(), Model::new());
        for step in &steps {
            run(&mut uart, &mut model, step);
            raised |= uart.read(0x3c, 4);
            flags |= uart.read(0x18, 4);
            fullest = fullest.max(model.queue.len());
            most = most.max(model.queue.len() + model.wire.len());
        }
    }
    // Parity and framing errors (8 and 7) cannot happen.
    assert_eq!(raised, 0x7f | 0x600, "{raised:#x}");
    assert_eq!(flags, 0x1d7, "{flags:#x}");
    assert_eq!((fullest, most), (32, 64));
}
