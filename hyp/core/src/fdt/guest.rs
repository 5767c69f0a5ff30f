//! The device tree that a guest is given: a subset of QEMU's `virt`, at the same addresses.

use hyp_abi::layout;

use super::vms::Device;
use super::write::{Writer, name, part};
use crate::types::Range;

/// What differs from one guest's tree to another's. All addresses are IPAs.
#[derive(Clone, Copy, Debug)]
pub struct GuestTree<'a> {
    /// RAM.
    pub ram: Range,
    /// How many vCPUs.
    pub vcpus: usize,
    /// The kernel's command line; no property when it is empty.
    pub bootargs: &'a [u8],
    /// Where the initial RAM disk is.
    pub initrd: Option<Range>,
    /// For the guest's own randomness: `kaslr-seed` and `rng-seed` are made of it. `None` when the machine has none to give.
    pub seed: Option<u64>,
    /// Devices of the board that the guest is given.
    pub devices: &'a [Device<'a>],
}

/// Phandles.
const GIC: u32 = 1;
const CLOCK: u32 = 2;
/// In an interrupt specifier: its kind, and the level-sensitive, active-high trigger.
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;
const EDGE_RISING: u32 = 1;
/// Frequency of the PL011's clock, as on `virt`.
const CLOCK_HZ: u32 = 24_000_000;

/// The next number of a SplitMix64 sequence: it spreads a seed, and adds nothing to it.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl GuestTree<'_> {
    /// How many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.write_into(Writer::tree(&mut []))
    }

    /// Writes it to `words`, which are zeroes. Gives it as the bytes that it takes of them; `None` when there are not so many, and
    /// for a command line with a NUL, which would end it.
    #[must_use]
    pub fn write<'w>(&self, words: &'w mut [u32]) -> Option<&'w [u8]> {
        if self.bootargs.contains(&0) {
            return None;
        }
        let size = self.write_into(Writer::tree(words));
        let bytes: &[u8] = bytemuck::must_cast_slice(words);
        bytes.get(..size)
    }

    /// Writes as much of it as there is room for. Gives its size.
    #[inline(never)]
    fn write_into(&self, mut fdt: Writer<'_>) -> usize {
        fdt.part(part!(head));
        self.chosen(&mut fdt);
        fdt.begin_at(b"memory", self.ram.start());
        fdt.part(part!(memory));
        fdt.quads(name!("reg"), &[self.ram.start(), self.ram.size()]);
        fdt.end();
        fdt.part(part!(cpus));
        for index in 0..self.vcpus {
            let affinity = layout::affinity_of(index);
            fdt.begin_at(b"cpu", affinity);
            fdt.part(part!(cpu));
            fdt.quads(name!("reg"), &[affinity]);
            fdt.end();
        }
        fdt.end();
        fdt.part(part!(gic));
        let redistributors = layout::GICR_STRIDE * self.vcpus as u64;
        fdt.quads(
            name!("reg"),
            &[layout::GICD_BASE, layout::GICD_SIZE, layout::GICR_BASE, redistributors],
        );
        fdt.end();
        fdt.part(part!(rest));
        for device in self.devices {
            passed(&mut fdt, device);
        }
        fdt.end();
        fdt.finish()
    }

    fn chosen(&self, fdt: &mut Writer<'_>) {
        fdt.part(part!(chosen));
        if !self.bootargs.is_empty() {
            fdt.text(name!("bootargs"), self.bootargs);
        }
        if let Some(seed) = self.seed {
            let mut state = seed;
            fdt.quads(name!("kaslr-seed"), &[splitmix(&mut state)]);
            fdt.open(name!("rng-seed"), 64);
            (0..8).for_each(|_| fdt.quad(splitmix(&mut state)));
        }
        if let Some(initrd) = self.initrd {
            fdt.quads(name!("linux,initrd-start"), &[initrd.start()]);
            fdt.quads(name!("linux,initrd-end"), &[initrd.end()]);
        }
        fdt.end();
    }
}

// What is the same in every tree: written while compiling.

/// The root's properties.
const fn head(fdt: &mut Writer<'_>) {
    fdt.begin(b"");
    fdt.text(name!("compatible"), b"linux,dummy-virt");
    fdt.text(name!("model"), b"linux,dummy-virt");
    fdt.cells(name!("#address-cells"), &[2]);
    fdt.cells(name!("#size-cells"), &[2]);
    fdt.cells(name!("interrupt-parent"), &[GIC]);
}

const fn chosen(fdt: &mut Writer<'_>) {
    fdt.begin(b"chosen");
    fdt.path(name!("stdout-path"), b"pl011", layout::UART_BASE);
}

const fn memory(fdt: &mut Writer<'_>) {
    fdt.text(name!("device_type"), b"memory");
}

const fn cpus(fdt: &mut Writer<'_>) {
    fdt.begin(b"cpus");
    fdt.cells(name!("#address-cells"), &[2]);
    fdt.cells(name!("#size-cells"), &[0]);
}

const fn cpu(fdt: &mut Writer<'_>) {
    fdt.text(name!("device_type"), b"cpu");
    fdt.text(name!("compatible"), b"arm,armv8");
    fdt.text(name!("enable-method"), b"psci");
}

const fn gic(fdt: &mut Writer<'_>) {
    fdt.begin_at(b"intc", layout::GICD_BASE);
    fdt.text(name!("compatible"), b"arm,gic-v3");
    fdt.cells(name!("#interrupt-cells"), &[3]);
    fdt.cells(name!("#address-cells"), &[0]);
    fdt.flag(name!("interrupt-controller"));
    fdt.cells(name!("phandle"), &[GIC]);
}

const fn rest(fdt: &mut Writer<'_>) {
    psci(fdt);
    timer(fdt);
    clock(fdt);
    uart(fdt);
}

const fn psci(fdt: &mut Writer<'_>) {
    fdt.begin(b"psci");
    fdt.text(name!("compatible"), b"arm,psci-1.0\0arm,psci-0.2");
    fdt.text(name!("method"), b"hvc");
    fdt.end();
}

/// Secure physical, physical, virtual and EL2 timer, as on `virt`. Umbra's vCPUs have the virtual one, and the physical one emulated.
const fn timer(fdt: &mut Writer<'_>) {
    fdt.begin(b"timer");
    fdt.text(name!("compatible"), b"arm,armv8-timer");
    let interrupts = [PPI, 13, LEVEL_HIGH, PPI, 14, LEVEL_HIGH, PPI, 11, LEVEL_HIGH, PPI, 10, LEVEL_HIGH];
    fdt.cells(name!("interrupts"), &interrupts);
    fdt.flag(name!("always-on"));
    fdt.end();
}

const fn clock(fdt: &mut Writer<'_>) {
    fdt.begin(b"apb-pclk");
    fdt.text(name!("compatible"), b"fixed-clock");
    fdt.cells(name!("#clock-cells"), &[0]);
    fdt.cells(name!("clock-frequency"), &[CLOCK_HZ]);
    fdt.text(name!("clock-output-names"), b"clk24mhz");
    fdt.cells(name!("phandle"), &[CLOCK]);
    fdt.end();
}

const fn uart(fdt: &mut Writer<'_>) {
    fdt.begin_at(b"pl011", layout::UART_BASE);
    fdt.text(name!("compatible"), b"arm,pl011\0arm,primecell");
    fdt.quads(name!("reg"), &[layout::UART_BASE, layout::UART_SIZE]);
    fdt.cells(name!("interrupts"), &[SPI, layout::UART_SPI, LEVEL_HIGH]);
    fdt.cells(name!("clocks"), &[CLOCK, CLOCK]);
    fdt.text(name!("clock-names"), b"uartclk\0apb_pclk");
    fdt.end();
}

/// A device of the board, whose clocks, whatever they are, run and are shown as the fixed one.
fn passed(fdt: &mut Writer<'_>, device: &Device<'_>) {
    let base = device.registers.first().map_or(0, |range| range.start());
    fdt.begin_at(device.name, base);
    fdt.bytes(name!("compatible"), device.compatible);
    fdt.open(name!("reg"), 16 * device.registers.len());
    for range in &device.registers {
        fdt.quad(range.start());
        fdt.quad(range.size());
    }
    if !device.interrupts.is_empty() {
        fdt.open(name!("interrupts"), 12 * device.interrupts.len());
        for spi in &device.interrupts {
            fdt.word(SPI);
            fdt.word(spi.intid - 32);
            fdt.word(if spi.edge { EDGE_RISING } else { LEVEL_HIGH });
        }
    }
    if device.clocks > 0 {
        fdt.open(name!("clocks"), 4 * device.clocks);
        (0..device.clocks).for_each(|_| fdt.word(CLOCK));
    }
    if !device.clock_names.is_empty() {
        fdt.bytes(name!("clock-names"), device.clock_names);
    }
    fdt.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::vms::Spi;

    #[test]
    fn a_tree_for_which_there_is_no_room_is_counted_and_not_given() {
        let device = Device {
            name: b"x",
            compatible: b"x\0",
            registers: [Range::EMPTY].into_iter().collect(),
            interrupts: [Spi { intid: 32, edge: false }].into_iter().collect(),
            clock_names: b"x\0",
            clocks: 1,
        };
        let tree = GuestTree {
            ram: Range::EMPTY,
            vcpus: 2,
            bootargs: b"quiet",
            initrd: None,
            seed: Some(1),
            devices: &[device],
        };
        let size = tree.size();
        for room in [0, 100, size / 4, size.div_ceil(4), size] {
            let mut words = vec![0; room];
            assert_eq!(
                tree.write(&mut words).map(<[u8]>::len),
                (4 * room >= size).then_some(size),
                "{room}"
            );
        }
    }

    #[test]
    fn the_seed_is_spread_as_splitmix64_does() {
        let mut state = 0;
        assert_eq!(
            [splitmix(&mut state), splitmix(&mut state), splitmix(&mut state)],
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]
        );
    }
}
