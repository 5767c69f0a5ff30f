//! The device tree that a guest is given: a subset of QEMU's `virt`, at the same addresses.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use hyp_abi::layout;
use vm_fdt::FdtWriter;

use super::vms::{Device, Spi as PassedSpi};
use crate::types::Range;

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

impl GuestTree<'_> {
    /// The tree as a blob.
    ///
    /// # Errors
    /// [`vm_fdt::Error`] when `bootargs` contains a NUL.
    pub fn write(&self) -> Result<Vec<u8>, vm_fdt::Error> {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fdt.property_string("compatible", "linux,dummy-virt")?;
        fdt.property_string("model", "linux,dummy-virt")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_u32("interrupt-parent", GIC)?;
        self.chosen(&mut fdt)?;
        self.memory(&mut fdt)?;
        self.cpus(&mut fdt)?;
        psci(&mut fdt)?;
        self.gic(&mut fdt)?;
        timer(&mut fdt)?;
        clock(&mut fdt)?;
        uart(&mut fdt)?;
        for device in self.devices {
            passed(&mut fdt, device)?;
        }
        fdt.end_node(root)?;
        fdt.finish()
    }

    fn chosen(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = fdt.begin_node("chosen")?;
        fdt.property_string("stdout-path", &format!("/pl011@{:x}", layout::UART_BASE))?;
        if !self.bootargs.is_empty() {
            fdt.property_string("bootargs", self.bootargs)?;
        }
        if let Some(seed) = self.seed {
            let mut state = seed;
            fdt.property_u64("kaslr-seed", splitmix(&mut state))?;
            let bytes: Vec<u8> = (0..8).flat_map(|_| splitmix(&mut state).to_be_bytes()).collect();
            fdt.property("rng-seed", &bytes)?;
        }
        if let Some(initrd) = self.initrd {
            fdt.property_u64("linux,initrd-start", initrd.start())?;
            fdt.property_u64("linux,initrd-end", initrd.end())?;
        }
        fdt.end_node(node)
    }

    fn memory(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = fdt.begin_node(&format!("memory@{:x}", self.ram.start()))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[self.ram.start(), self.ram.size()])?;
        fdt.end_node(node)
    }

    fn cpus(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let cpus = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 0)?;
        for index in 0..self.vcpus {
            let affinity = layout::affinity_of(index);
            let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
            fdt.property_string("device_type", "cpu")?;
            fdt.property_string("compatible", "arm,armv8")?;
            fdt.property_string("enable-method", "psci")?;
            fdt.property_u64("reg", affinity)?;
            fdt.end_node(cpu)?;
        }
        fdt.end_node(cpus)
    }

    fn gic(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = fdt.begin_node(&format!("intc@{:x}", layout::GICD_BASE))?;
        fdt.property_string("compatible", "arm,gic-v3")?;
        fdt.property_u32("#interrupt-cells", 3)?;
        fdt.property_u32("#address-cells", 0)?;
        fdt.property_null("interrupt-controller")?;
        let redistributors = layout::GICR_STRIDE * self.vcpus as u64;
        fdt.property_array_u64("reg", &[layout::GICD_BASE, layout::GICD_SIZE, layout::GICR_BASE, redistributors])?;
        fdt.property_phandle(GIC)?;
        fdt.end_node(node)
    }
}

fn psci(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("psci")?;
    strings(fdt, "compatible", &["arm,psci-1.0", "arm,psci-0.2"])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

/// Secure physical, physical, virtual and EL2 timer, as on `virt`. Umbra's vCPUs have the virtual one.
fn timer(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let interrupts = [PPI, 13, LEVEL_HIGH, PPI, 14, LEVEL_HIGH, PPI, 11, LEVEL_HIGH, PPI, 10, LEVEL_HIGH];
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&format!("pl011@{:x}", layout::UART_BASE))?;
    strings(fdt, "compatible", &["arm,pl011", "arm,primecell"])?;
    fdt.property_array_u64("reg", &[layout::UART_BASE, layout::UART_SIZE])?;
    fdt.property_array_u32("interrupts", &[SPI, layout::UART_SPI, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    strings(fdt, "clock-names", &["uartclk", "apb_pclk"])?;
    fdt.end_node(node)
}

/// A device of the board, whose clocks, whatever they are, run and are shown as the fixed one.
fn passed(fdt: &mut FdtWriter, device: &Device) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&device.name)?;
    fdt.property("compatible", &device.compatible)?;
    let registers: Vec<u64> = device.registers.iter().flat_map(|range| [range.start(), range.size()]).collect();
    fdt.property_array_u64("reg", &registers)?;
    if !device.interrupts.is_empty() {
        let trigger = |edge| if edge { EDGE_RISING } else { LEVEL_HIGH };
        let specifier = |spi: &PassedSpi| [SPI, spi.intid - 32, trigger(spi.edge)];
        let interrupts: Vec<u32> = device.interrupts.iter().flat_map(specifier).collect();
        fdt.property_array_u32("interrupts", &interrupts)?;
    }
    if device.clocks > 0 {
        let clocks: Vec<u32> = (0..device.clocks).map(|_| CLOCK).collect();
        fdt.property_array_u32("clocks", &clocks)?;
    }
    if !device.clock_names.is_empty() {
        fdt.property("clock-names", &device.clock_names)?;
    }
    fdt.end_node(node)
}

fn strings(fdt: &mut FdtWriter, name: &str, values: &[&str]) -> Result<(), vm_fdt::Error> {
    fdt.property_string_list(name, values.iter().map(ToString::to_string).collect())
}
