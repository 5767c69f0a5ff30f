//! Devices of the board that are passed to a VM: `umbra,devices`.
//!
//! Without an SMMU nothing confines a device's own memory accesses, so what is known to do any is refused. A device that does DMA
//! and whose node does not say so cannot be told from one that does none: whoever writes the property answers for that.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hyp_abi::layout;

use super::DEVICES;
use crate::fdt::board;
use crate::fdt::{Cells, Node, Tree};
use crate::types::Range;

/// The most devices that one VM is given.
pub const MAX_DEVICES: usize = 8;
/// The most register ranges, and the most interrupts, of one device.
const MOST: usize = 4;
/// The most clocks of one device.
const MOST_CLOCKS: usize = 8;
/// What stage 2 maps is a multiple of this.
const PAGE: u64 = 4096;
/// The SPIs that a VM's distributor has.
const SPIS: u64 = 256;

/// A device that is passed to a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The node's name in the guest's tree.
    pub name: String,
    /// `compatible`, as it stands.
    pub compatible: Vec<u8>,
    /// Its registers, which the guest sees at the same addresses.
    pub registers: Vec<Range>,
    /// Its interrupts, which the guest gets with the same INTIDs.
    pub interrupts: Vec<Spi>,
    /// `clock-names`, as it stands.
    pub clock_names: Vec<u8>,
    /// How many clocks it has.
    pub clocks: usize,
}

/// A physical SPI of a passed device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spi {
    /// Its INTID, 32 to 287.
    pub intid: u32,
    /// Triggered by a rising edge, as opposed to a high level.
    pub edge: bool,
}

impl Device {
    /// The device at `path`, if it can be passed to a VM at all.
    ///
    /// # Errors
    /// Why not.
    pub fn read(tree: &Tree<'_>, path: &str) -> Result<Self, &'static str> {
        const NO_NODE: &str = "the board has no such node";
        if !path.starts_with('/') {
            return Err(NO_NODE);
        }
        Self::of(tree, &tree.at(path).ok_or(NO_NODE)?)
    }

    fn of(tree: &Tree<'_>, node: &Node<'_, '_>) -> Result<Self, &'static str> {
        let compatible = node.property("compatible").unwrap_or_default();
        let kind = node.string("device_type");
        let has = |name: &str| node.property(name).is_some();
        if has("interrupt-controller") || has("msi-controller") || matches!(kind, Some("cpu" | "memory")) || is_timer(node) {
            return Err("Umbra needs it itself");
        }
        let bus_master = [
            "iommus",
            "iommu-map",
            "dmas",
            "dma-names",
            "dma-coherent",
            "dma-noncoherent",
            "dma-ranges",
            "memory-region",
        ];
        let virtio = compatible.split(|byte| *byte == 0).any(|name| name.starts_with(b"virtio"));
        if bus_master.into_iter().any(has) || virtio || kind == Some("pci") {
            return Err("it does DMA, which nothing confines without an SMMU");
        }
        if compatible.is_empty() || !node.available() {
            return Err("it is disabled or has no 'compatible'");
        }
        let registers: Vec<Range> = node.physical_reg().take(MOST + 1).collect();
        if registers.is_empty()
            || registers.len() != node.reg().take(MOST + 1).count()
            || registers.iter().any(|range| page(*range).is_none())
        {
            return Err("it has no registers that the CPUs can reach");
        }
        let interrupts = interrupts(tree, node)?;
        let clock_names = node.property("clock-names").unwrap_or_default();
        let named = clock_names.iter().filter(|byte| **byte == 0).count();
        let clocks = if named == 0 { usize::from(has("clocks")) } else { named };
        if registers.len() > MOST || interrupts.len() > MOST || clocks > MOST_CLOCKS || compatible.len() > 256 || clock_names.len() > 256 {
            return Err("it has more registers, interrupts or clocks than Umbra passes on");
        }
        let umbras = |range: Range| board_devices(tree).any(|own| own.overlaps(range));
        if registers.iter().filter_map(|range| page(*range)).any(umbras) {
            return Err("Umbra needs it itself");
        }
        let console = board::console(tree).and_then(|console| console.interrupt);
        if interrupts.iter().any(|spi| Some(spi.intid) == console) {
            return Err("it shares an interrupt with Umbra's console");
        }
        let base = registers.first().map_or(0, |range| range.start());
        Ok(Self {
            name: format!("{}@{base:x}", node.base_name()),
            compatible: compatible.to_owned(),
            registers,
            interrupts,
            clock_names: clock_names.to_owned(),
            clocks,
        })
    }

    /// What stage 2 maps of it: whole pages.
    pub fn pages(&self) -> impl Iterator<Item = Range> {
        self.registers.iter().filter_map(|range| page(*range))
    }

    /// Whether a VM with RAM at `ram` can have it beside `others`, which VMs (this one too) already have.
    ///
    /// # Errors
    /// Why not.
    pub fn fits<'d>(&self, ram: Range, others: impl Iterator<Item = &'d Self>) -> Result<(), &'static str> {
        let top = 1 << layout::IPA_BITS;
        // Below, where `virt` has flash, nothing is emulated that a device could hide.
        let emulated = || DEVICES.iter().skip(1).filter_map(|(start, size, _)| Range::new(*start, *size));
        let taken = |range: Range| range.end() > top || ram.overlaps(range) || emulated().any(|other| other.overlaps(range));
        if self.pages().any(taken) {
            return Err("its registers overlap the VM's RAM or what Umbra emulates, or lie above the guest's addresses");
        }
        if self.interrupts.iter().any(|spi| spi.intid == 32 + layout::UART_SPI) {
            return Err("its SPI 1 is the guest's PL011's");
        }
        for other in others {
            let pages = self.pages().any(|own| other.pages().any(|page| page.overlaps(own)));
            let spis = self
                .interrupts
                .iter()
                .any(|own| other.interrupts.iter().any(|spi| spi.intid == own.intid));
            if pages || spis {
                return Err("it, or a page or interrupt that it shares, is given away already");
            }
        }
        Ok(())
    }
}

/// The pages that `range` touches.
fn page(range: Range) -> Option<Range> {
    let start = range.start() & !(PAGE - 1);
    let end = range.end().checked_next_multiple_of(PAGE)?;
    (range.size() != 0).then(|| Range::new(start, end - start)).flatten()
}

fn is_timer(node: &Node<'_, '_>) -> bool {
    node.compatible_with(&["arm,armv8-timer", "arm,armv7-timer", "arm,armv7-timer-mem"])
        .is_some()
}

/// What of the board is Umbra's: RAM, GIC, console.
fn board_devices(tree: &Tree<'_>) -> impl Iterator<Item = Range> {
    let gic = board::gic(tree).ok();
    let gicr: Vec<Range> = gic.iter().flat_map(|gic| gic.gicr.iter().copied()).collect();
    let ram: Vec<Range> = board::ram(tree).map(|ram| ram.as_slice().to_vec()).unwrap_or_default();
    let console = board::console(tree).and_then(|console| Range::new(console.base.get(), PAGE));
    gic.map(|gic| gic.gicd).into_iter().chain(gicr).chain(ram).chain(console)
}

fn interrupts(tree: &Tree<'_>, node: &Node<'_, '_>) -> Result<Vec<Spi>, &'static str> {
    const OTHERS: &str = "its interrupts are not all SPIs 0 to 255 of the GIC, edge-rising or level-high";
    if node.property("interrupts-extended").is_some() {
        return Err(OTHERS);
    }
    let Some(value) = node.property("interrupts") else {
        return Ok(Vec::new());
    };
    let gic = tree.nodes().find_map(|gic| {
        gic.compatible_with(&["arm,gic-v3"])?;
        Some((gic.cell("phandle")?, gic.cell("#interrupt-cells").unwrap_or(3)))
    });
    let (phandle, cells) = gic.ok_or(OTHERS)?;
    let size = (cells.clamp(3, 8) * 4) as usize;
    if node.interrupt_parent() != Some(phandle) || value.is_empty() || !value.len().is_multiple_of(size) {
        return Err(OTHERS);
    }
    let spi = |specifier| {
        let mut cells = Cells(specifier);
        match (cells.take(1), cells.take(1), cells.take(1)) {
            (Some(0), Some(number), Some(flags @ (1 | 4))) if number < SPIS => Ok(Spi {
                intid: 32 + number as u32,
                edge: flags == 1,
            }),
            _ => Err(OTHERS),
        }
    };
    value.chunks_exact(size).take(MOST + 1).map(spi).collect()
}
