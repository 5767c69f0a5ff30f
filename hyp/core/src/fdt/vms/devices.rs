//! Devices of the board that are passed to a VM: `umbra,devices`.
//!
//! Without an SMMU nothing confines a device's own memory accesses, so what is known to do any is refused. A device that does DMA
//! and whose node does not say so cannot be told from one that does none: whoever writes the property answers for that.

use arrayvec::ArrayVec;
use hyp_abi::layout;

use super::DEVICES;
use crate::fdt::board::Board;
use crate::fdt::{Cells, Node, Tree, cut};
use crate::types::Range;

/// The most devices that one VM is given.
pub const MAX_DEVICES: usize = 8;
/// The most register ranges, and the most interrupts, of one device.
const MOST: usize = 4;
/// The most clocks of one device.
const MOST_CLOCKS: usize = 8;
/// The longest `compatible`, and the longest `clock-names`, in bytes.
const MOST_TEXT: usize = 256;
/// What stage 2 maps is a multiple of this.
const PAGE: u64 = 4096;
/// The SPIs that a VM's distributor has.
const SPIS: u64 = 256;

/// A device that is passed to a VM. Texts are where the board's tree has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    /// The node's name, without the address.
    pub name: &'a [u8],
    /// `compatible`, as it stands.
    pub compatible: &'a [u8],
    /// Its registers, which the guest sees at the same addresses.
    pub registers: ArrayVec<Range, MOST>,
    /// Its interrupts, which the guest gets with the same INTIDs.
    pub interrupts: ArrayVec<Spi, MOST>,
    /// `clock-names`, as it stands.
    pub clock_names: &'a [u8],
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

impl<'a> Device<'a> {
    /// The device of the board at `path`, if it can be passed to a VM at all.
    ///
    /// # Errors
    /// Why not.
    pub fn read(tree: &Tree<'a>, board: &Board, path: &[u8]) -> Result<Self, &'static str> {
        let node = if path.starts_with(b"/") { tree.at(path) } else { None };
        let node = node.ok_or("the board has no such node")?;
        let compatible = node.property("compatible").unwrap_or_default();
        let is = |kind| node.says("device_type", kind);
        if node.has(&CONTROLLER) || is("cpu") || is("memory") || node.compatible_with(&TIMERS).is_some() {
            return Err(UMBRAS);
        }
        if node.has(&BUS_MASTER) || is_virtio(compatible) || is("pci") {
            return Err("it does DMA, which nothing confines without an SMMU");
        }
        if compatible.is_empty() || !node.available() {
            return Err("it is disabled or has no 'compatible'");
        }
        let clock_names = node.property("clock-names").unwrap_or_default();
        let named = clock_names.iter().filter(|byte| **byte == 0).count();
        let mut device = Self {
            name: node.base_name(),
            compatible,
            registers: ArrayVec::new(),
            interrupts: ArrayVec::new(),
            clock_names,
            clocks: if named == 0 { usize::from(node.has(&["clocks"])) } else { named },
        };
        let mut fits = device.clocks <= MOST_CLOCKS && compatible.len() <= MOST_TEXT && clock_names.len() <= MOST_TEXT;
        let bus = node.parent().ok_or(NO_REGISTERS)?;
        for range in node.reg(&bus) {
            let registers = bus.physical(range).ok_or(NO_REGISTERS)?;
            whole_pages(registers).ok_or(NO_REGISTERS)?;
            fits &= device.registers.try_push(registers).is_ok();
        }
        if device.registers.is_empty() {
            return Err(NO_REGISTERS);
        }
        fits &= device.add_interrupts(tree, &node)?;
        if !fits {
            return Err("it has more registers, interrupts or clocks than Umbra passes on");
        }
        if is_umbras(board, &device.pages()) {
            return Err(UMBRAS);
        }
        let console = board.console.and_then(|console| console.interrupt);
        if device.interrupts.iter().any(|spi| Some(spi.intid) == console) {
            return Err("it shares an interrupt with Umbra's console");
        }
        Ok(device)
    }

    /// Adds the node's interrupts. False: it has too many.
    fn add_interrupts(&mut self, tree: &Tree<'_>, node: &Node<'_, '_>) -> Result<bool, &'static str> {
        const OTHERS: &str = "its interrupts are not all SPIs 0 to 255 of the GIC, edge-rising or level-high";
        if node.has(&["interrupts-extended"]) {
            return Err(OTHERS);
        }
        let Some(mut value) = node.property("interrupts") else {
            return Ok(true);
        };
        let gic = tree.gic().ok_or(OTHERS)?;
        let phandle = gic.cell("phandle").ok_or(OTHERS)?;
        let size = gic.cell("#interrupt-cells").unwrap_or(3).clamp(3, 8) as usize * 4;
        if node.interrupt_parent() != Some(phandle) || value.is_empty() {
            return Err(OTHERS);
        }
        let mut fits = true;
        while !value.is_empty() {
            let (specifier, rest) = value.split_at_checked(size).ok_or(OTHERS)?;
            let mut cells = Cells(specifier);
            let (Some(0), Some(number @ 0..SPIS), Some(flags @ (1 | 4))) = (cells.take(1), cells.take(1), cells.take(1)) else {
                return Err(OTHERS);
            };
            let spi = Spi {
                intid: 32 + number as u32,
                edge: flags == 1,
            };
            fits &= self.interrupts.try_push(spi).is_ok();
            value = rest;
        }
        Ok(fits)
    }

    /// What stage 2 maps of it: the whole pages with its registers.
    #[must_use]
    #[inline(never)]
    pub fn pages(&self) -> ArrayVec<Range, MOST> {
        self.registers.iter().filter_map(|range| whole_pages(*range)).collect()
    }

    /// Whether a VM with RAM at `ram` can have it.
    ///
    /// # Errors
    /// Why not.
    pub fn fits(&self, ram: Range) -> Result<(), &'static str> {
        for page in self.pages() {
            // Below, where `virt` has flash, nothing is emulated that a device could hide.
            let mut emulated = DEVICES.iter().skip(1);
            if page.end() > 1 << layout::IPA_BITS || ram.overlaps(page) || emulated.any(|(device, _)| device.overlaps(page)) {
                return Err("its registers overlap the VM's RAM or what Umbra emulates, or lie above the guest's addresses");
            }
        }
        if self.interrupts.iter().any(|spi| spi.intid == 32 + layout::UART_SPI) {
            return Err("its SPI 1 is the guest's PL011's");
        }
        Ok(())
    }

    /// Whether it has no page and no interrupt in common with `others`, which VMs already have.
    ///
    /// # Errors
    /// That it has.
    #[inline(never)]
    pub fn apart(&self, others: &[Self]) -> Result<(), &'static str> {
        for other in others {
            let interrupts = || {
                other
                    .interrupts
                    .iter()
                    .any(|spi| self.interrupts.iter().any(|own| own.intid == spi.intid))
            };
            let pages = other.pages();
            if self.pages().iter().any(|page| page.overlaps_any(&pages)) || interrupts() {
                return Err("it, or a page or interrupt that it shares, is given away already");
            }
        }
        Ok(())
    }
}

const UMBRAS: &str = "Umbra needs it itself";
const NO_REGISTERS: &str = "it has no registers that the CPUs can reach";
/// Properties of those that take others' interrupts.
const CONTROLLER: [&str; 2] = ["interrupt-controller", "msi-controller"];
const TIMERS: [&str; 3] = ["arm,armv8-timer", "arm,armv7-timer", "arm,armv7-timer-mem"];
/// Properties of those that access memory themselves.
const BUS_MASTER: [&str; 8] = [
    "iommus",
    "iommu-map",
    "dmas",
    "dma-names",
    "dma-coherent",
    "dma-noncoherent",
    "dma-ranges",
    "memory-region",
];

fn is_virtio(mut compatible: &[u8]) -> bool {
    while !compatible.is_empty() {
        if cut(&mut compatible, 0).starts_with(b"virtio") {
            return true;
        }
    }
    false
}

/// Whether one of `pages` is Umbra's: RAM, GIC, console.
fn is_umbras(board: &Board, pages: &[Range]) -> bool {
    let uart = board.console.and_then(|console| Range::new(console.base.get(), PAGE));
    let others = [board.gic.gicd, uart.unwrap_or_default()];
    let own = [&others, board.gic.gicr.as_slice(), board.ram.as_slice()];
    pages.iter().any(|page| own.iter().any(|own| page.overlaps_any(own)))
}

/// The pages that `range` touches.
fn whole_pages(range: Range) -> Option<Range> {
    let start = range.start() & !(PAGE - 1);
    let end = range.end().checked_next_multiple_of(PAGE)?;
    (range.size() != 0).then(|| Range::new(start, end - start)).flatten()
}
