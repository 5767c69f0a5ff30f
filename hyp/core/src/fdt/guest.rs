//! The device tree that a guest is given: a subset of QEMU's `virt`, at the same addresses.

use alloc::{vec, vec::Vec};

use hyp_abi::layout;

use super::vms::{Device, Spi as PassedSpi};
use super::write::{Writer, name};
use crate::types::Range;

/// The command line has a NUL, which would end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NulInBootargs;

/// What differs from one guest's tree to another's. All addresses are IPAs.
#[derive(Clone, Copy, Debug)]
pub struct GuestTree<'a> {
    /// RAM.
    pub ram: Range,
    /// How many vCPUs.
    pub vcpus: usize,
    /// The kernel's command line; no property when it is empty.
    pub bootargs: &'a str,
    /// Where the initial RAM disk is.
    pub initrd: Option<Range>,
    /// For the guest's own randomness: `kaslr-seed` and `rng-seed` are made of it. `None` when the machine has none to give.
    pub seed: Option<u64>,
    /// Devices of the board that the guest is given.
    pub devices: &'a [Device],
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

/// What a tree takes without its command line, and what each vCPU and each device adds, with room to spare.
const ROOM: usize = 1536;
const ROOM_PER_VCPU: usize = 128;
const ROOM_PER_DEVICE: usize = 1024;

impl GuestTree<'_> {
    /// What the tree of a VM with so many vCPUs and devices takes without its command line.
    #[must_use]
    pub const fn room(vcpus: usize, devices: usize) -> usize {
        ROOM + ROOM_PER_VCPU * vcpus + ROOM_PER_DEVICE * devices
    }

    /// The tree as a blob.
    ///
    /// # Errors
    /// [`NulInBootargs`].
    pub fn write(&self) -> Result<Vec<u8>, NulInBootargs> {
        if self.bootargs.as_bytes().contains(&0) {
            return Err(NulInBootargs);
        }
        let mut fdt = Writer::new(Self::room(self.vcpus, self.devices.len()) + self.bootargs.len());
        fdt.begin("");
        fdt.text(name!("compatible"), "linux,dummy-virt");
        fdt.text(name!("model"), "linux,dummy-virt");
        fdt.cells(name!("#address-cells"), &[2]);
        fdt.cells(name!("#size-cells"), &[2]);
        fdt.cells(name!("interrupt-parent"), &[GIC]);
        self.chosen(&mut fdt);
        fdt.begin_at("memory", self.ram.start());
        fdt.text(name!("device_type"), "memory");
        fdt.quads(name!("reg"), &[self.ram.start(), self.ram.size()]);
        fdt.end();
        self.cpus(&mut fdt);
        fdt.begin("psci");
        fdt.text(name!("compatible"), "arm,psci-1.0\0arm,psci-0.2");
        fdt.text(name!("method"), "hvc");
        fdt.end();
        self.gic(&mut fdt);
        timer(&mut fdt);
        clock(&mut fdt);
        uart(&mut fdt);
        for device in self.devices {
            passed(&mut fdt, device);
        }
        fdt.end();
        Ok(fdt.finish())
    }

    fn chosen(&self, fdt: &mut Writer) {
        fdt.begin("chosen");
        fdt.path(name!("stdout-path"), "pl011", layout::UART_BASE);
        if !self.bootargs.is_empty() {
            fdt.text(name!("bootargs"), self.bootargs);
        }
        if let Some(seed) = self.seed {
            let mut state = seed;
            fdt.quads(name!("kaslr-seed"), &[splitmix(&mut state)]);
            let seeds: [u64; 8] = core::array::from_fn(|_| splitmix(&mut state));
            fdt.quads(name!("rng-seed"), &seeds);
        }
        if let Some(initrd) = self.initrd {
            fdt.quads(name!("linux,initrd-start"), &[initrd.start()]);
            fdt.quads(name!("linux,initrd-end"), &[initrd.end()]);
        }
        fdt.end();
    }

    fn cpus(&self, fdt: &mut Writer) {
        fdt.begin("cpus");
        fdt.cells(name!("#address-cells"), &[2]);
        fdt.cells(name!("#size-cells"), &[0]);
        for index in 0..self.vcpus {
            let affinity = layout::affinity_of(index);
            fdt.begin_at("cpu", affinity);
            fdt.text(name!("device_type"), "cpu");
            fdt.text(name!("compatible"), "arm,armv8");
            fdt.text(name!("enable-method"), "psci");
            fdt.quads(name!("reg"), &[affinity]);
            fdt.end();
        }
        fdt.end();
    }

    fn gic(&self, fdt: &mut Writer) {
        fdt.begin_at("intc", layout::GICD_BASE);
        fdt.text(name!("compatible"), "arm,gic-v3");
        fdt.cells(name!("#interrupt-cells"), &[3]);
        fdt.cells(name!("#address-cells"), &[0]);
        fdt.bytes(name!("interrupt-controller"), &[]);
        let redistributors = layout::GICR_STRIDE * self.vcpus as u64;
        fdt.quads(
            name!("reg"),
            &[layout::GICD_BASE, layout::GICD_SIZE, layout::GICR_BASE, redistributors],
        );
        fdt.cells(name!("phandle"), &[GIC]);
        fdt.end();
    }
}

/// Secure physical, physical, virtual and EL2 timer, as on `virt`. Umbra's vCPUs have the virtual one.
fn timer(fdt: &mut Writer) {
    fdt.begin("timer");
    fdt.text(name!("compatible"), "arm,armv8-timer");
    let interrupts = [PPI, 13, LEVEL_HIGH, PPI, 14, LEVEL_HIGH, PPI, 11, LEVEL_HIGH, PPI, 10, LEVEL_HIGH];
    fdt.cells(name!("interrupts"), &interrupts);
    fdt.bytes(name!("always-on"), &[]);
    fdt.end();
}

fn clock(fdt: &mut Writer) {
    fdt.begin("apb-pclk");
    fdt.text(name!("compatible"), "fixed-clock");
    fdt.cells(name!("#clock-cells"), &[0]);
    fdt.cells(name!("clock-frequency"), &[CLOCK_HZ]);
    fdt.text(name!("clock-output-names"), "clk24mhz");
    fdt.cells(name!("phandle"), &[CLOCK]);
    fdt.end();
}

fn uart(fdt: &mut Writer) {
    fdt.begin_at("pl011", layout::UART_BASE);
    fdt.text(name!("compatible"), "arm,pl011\0arm,primecell");
    fdt.quads(name!("reg"), &[layout::UART_BASE, layout::UART_SIZE]);
    fdt.cells(name!("interrupts"), &[SPI, layout::UART_SPI, LEVEL_HIGH]);
    fdt.cells(name!("clocks"), &[CLOCK, CLOCK]);
    fdt.text(name!("clock-names"), "uartclk\0apb_pclk");
    fdt.end();
}

/// A device of the board, whose clocks, whatever they are, run and are shown as the fixed one.
fn passed(fdt: &mut Writer, device: &Device) {
    fdt.begin(&device.name);
    fdt.bytes(name!("compatible"), &device.compatible);
    let registers = device.registers.iter().flat_map(|range| [range.start(), range.size()]);
    fdt.quads(name!("reg"), &registers.collect::<Vec<_>>());
    if !device.interrupts.is_empty() {
        let trigger = |edge| if edge { EDGE_RISING } else { LEVEL_HIGH };
        let specifier = |spi: &PassedSpi| [SPI, spi.intid - 32, trigger(spi.edge)];
        let interrupts: Vec<u32> = device.interrupts.iter().flat_map(specifier).collect();
        fdt.cells(name!("interrupts"), &interrupts);
    }
    if device.clocks > 0 {
        fdt.cells(name!("clocks"), &vec![CLOCK; device.clocks]);
    }
    if !device.clock_names.is_empty() {
        fdt.bytes(name!("clock-names"), &device.clock_names);
    }
    fdt.end();
}
