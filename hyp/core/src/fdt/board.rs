//! The board, from the device tree that the boot loader passed.
//!
//! Nothing here needs a heap: [`console`] is asked before anything else, so that everything after it can be said.

use core::fmt;

use arrayvec::{ArrayString, ArrayVec};

use super::{COMPATIBLE, Cells, Node, Sought, Tree, TreeError, one_string};
use crate::physmem::{Full, MAX_REGIONS, RangeSet};
use crate::put;
use crate::types::{Pa, Range};

/// The most CPUs that are used.
pub const MAX_CPUS: usize = 64;
/// The most separate ranges of reserved memory.
pub const MAX_RESERVED: usize = 96;
/// The most GIC redistributor regions.
pub const MAX_GICR: usize = 32;
/// The longest `umbra,nonce`.
pub const MAX_NONCE: usize = 64;
/// The most talkative `loglevel`.
pub const MAX_LOGLEVEL: u8 = 4;

/// What the machine is.
#[derive(Clone, Debug)]
pub struct Board {
    /// RAM, sorted; neighbours are one.
    pub ram: RangeSet<MAX_REGIONS>,
    /// What the tree asks to leave alone: `/memreserve/` and the nodes with `reg` below `/reserved-memory`.
    pub reserved: RangeSet<MAX_RESERVED>,
    /// The CPUs in the tree's order: a pCPU's number is its place here.
    pub cpus: ArrayVec<Cpu, MAX_CPUS>,
    /// The firmware's PSCI, if there is one.
    pub psci: Option<Psci>,
    /// The interrupt controller.
    pub gic: Gic,
    /// Where to print.
    pub console: Option<Console>,
    /// The generic timer's interrupts.
    pub timer: Timer,
    /// What `/chosen` says to Umbra itself.
    pub chosen: Chosen,
}

/// A CPU that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its affinity as PSCI takes it: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
    pub affinity: u64,
    /// How it is started.
    pub enable_method: EnableMethod,
}

/// How a CPU is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableMethod {
    /// By PSCI CPU_ON.
    Psci,
    /// By a word in memory.
    SpinTable,
    /// By something else, or the tree does not say.
    Other,
}

/// The instruction that reaches the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciMethod {
    /// `HVC #0`: nobody answers it when we are the hypervisor.
    Hvc,
    /// `SMC #0`.
    Smc,
}

/// The newest PSCI that the firmware's node is compatible with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PsciVersion {
    /// `arm,psci`: function identifiers come from the node. Not supported.
    V0_1,
    /// `arm,psci-0.2`.
    V0_2,
    /// `arm,psci-1.0`.
    V1_0,
}

/// The firmware's PSCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Psci {
    /// The instruction.
    pub method: PsciMethod,
    /// The version.
    pub version: PsciVersion,
}

/// A GICv3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic {
    /// The distributor.
    pub gicd: Range,
    /// The redistributor regions, in the tree's order.
    pub gicr: ArrayVec<Range, MAX_GICR>,
    /// `redistributor-stride`, where frames do not simply follow one another by what GICR_TYPER.VLPIS says.
    pub stride: Option<u64>,
    /// The maintenance interrupt's INTID, if it is a PPI.
    pub maintenance: Option<u32>,
}

impl Gic {
    fn new() -> Self {
        Self {
            gicd: Range::EMPTY,
            gicr: ArrayVec::new(),
            stride: None,
            maintenance: None,
        }
    }
}

/// The INTIDs of the generic timer's PPIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    /// EL1 physical, non-secure.
    pub physical: Option<u32>,
    /// EL1 virtual.
    pub virt: Option<u32>,
    /// EL2 physical.
    pub hyp: Option<u32>,
}

/// The kinds of UART that `stdout-path` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// PL011, or the SBSA subset of it.
    Pl011,
    /// 8250 and its many descendants.
    Uart8250 {
        /// Registers are `1 << reg_shift` bytes apart.
        reg_shift: u8,
        /// Bytes in one access: 1, 2 or 4.
        io_width: u8,
    },
    /// i.MX.
    Imx,
}

/// Where to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    /// What is there.
    pub kind: UartKind,
    /// Its registers.
    pub base: Pa,
    /// Its interrupt's INTID, if it is an SPI of the GIC.
    pub interrupt: Option<u32>,
}

/// What `/chosen` says to Umbra itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chosen {
    /// `umbra,nonce`: goes out with the verdict. Empty when there is none.
    pub nonce: ArrayString<MAX_NONCE>,
    /// `umbra,semihosting`: the machine is an emulator that ends by semihosting.
    pub semihosting: bool,
    /// `umbra,console-mux`: consoles are multiplexed on the wire.
    pub console_mux: bool,
    /// `umbra,fresh-ram`: RAM holds zeroes, so that VMs' RAM need not be scrubbed before their first start.
    pub fresh_ram: bool,
    /// What the boot loader knows that nobody else does, folded: `rng-seed` and `kaslr-seed`. `None` without either.
    pub seed: Option<u64>,
    /// `loglevel=N` in `bootargs`, at most [`MAX_LOGLEVEL`].
    pub loglevel: Option<u8>,
}

/// Why Umbra cannot run on a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardError {
    /// The device tree cannot be read.
    Tree(TreeError),
    /// It describes no RAM.
    NoRam,
    /// It describes no CPU that can be used.
    NoCpu,
    /// A CPU's `reg` is missing, or is no affinity.
    BadCpu {
        /// Its place among the CPUs.
        index: usize,
    },
    /// Two CPUs have the same affinity.
    SameCpu {
        /// That affinity.
        affinity: u64,
    },
    /// It describes no interrupt controller that we know.
    NoGic,
    /// The interrupt controller is a GICv2.
    GicV2 {
        /// What it says it is.
        compatible: &'static str,
    },
    /// The GICv3's `reg` lacks the frames that it must have.
    BadGic,
    /// There are more of something than fit in our table.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        most: usize,
    },
}

impl From<TreeError> for BoardError {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl fmt::Display for BoardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tree(error) => error.fmt(f),
            Self::NoRam => f.write_str("the device tree describes no RAM (the boot loader fills in /memory)"),
            Self::NoCpu => f.write_str("the device tree describes no usable CPU below /cpus"),
            Self::BadCpu { index } => put!(f, "CPU {} of the device tree has no valid affinity in `reg`", index),
            Self::SameCpu { affinity } => put!(f, "two CPUs of the device tree have the affinity {:#x}", affinity),
            Self::NoGic => f.write_str("the device tree describes no GICv3 (compatible \"arm,gic-v3\")"),
            Self::GicV2 { compatible } => put!(f, "the interrupt controller is a GICv2 ({}); Umbra needs a GICv3", compatible),
            Self::BadGic => f.write_str("the GICv3's `reg` lacks the distributor or a redistributor region"),
            Self::TooMany { what, most } => put!(f, "the device tree has more than {} {}", most, what),
        }
    }
}

impl core::error::Error for BoardError {}

impl Board {
    /// Everything that Umbra needs to know about the board whose tree is `blob`.
    ///
    /// # Errors
    /// See [`BoardError`]. Ask [`console`] first, to have a place to say it.
    pub fn discover(blob: &[u8]) -> Result<Self, BoardError> {
        let tree = Tree::new(blob)?;
        let mut board = Self::new(chosen(&tree), console(&tree));
        board.read(&tree)?;
        Ok(board)
    }

    /// A board that was asked for [`chosen`] and [`console`], and of which nothing else is known yet.
    #[must_use]
    #[inline]
    pub fn new(chosen: Chosen, console: Option<Console>) -> Self {
        Self {
            ram: RangeSet::new(),
            reserved: RangeSet::new(),
            cpus: ArrayVec::new(),
            psci: None,
            gic: Gic::new(),
            console,
            timer: Timer::default(),
            chosen,
        }
    }

    /// The rest of it. A board is large: it is filled in where it is to stay.
    ///
    /// # Errors
    /// See [`BoardError`].
    pub fn read(&mut self, tree: &Tree<'_>) -> Result<(), BoardError> {
        let found = Found::in_tree(tree, &mut self.ram);
        found.ram?;
        if self.ram.as_slice().is_empty() {
            return Err(BoardError::NoRam);
        }
        add_cpus(tree, &mut self.cpus)?;
        if self.cpus.is_empty() {
            return Err(BoardError::NoCpu);
        }
        let interrupt_cells = found.gic(tree, &mut self.gic)?;
        add_reserved(tree, &mut self.reserved)?;
        self.psci = found.psci;
        self.timer = found.timer.map(|node| timer(&node, interrupt_cells)).unwrap_or_default();
        Ok(())
    }
}

/// RAM: the nodes below the root that say `device_type = "memory"`, or are called `memory`.
///
/// # Errors
/// [`BoardError::TooMany`].
pub fn ram(tree: &Tree<'_>) -> Result<RangeSet<MAX_REGIONS>, BoardError> {
    let mut ram = RangeSet::new();
    Found::in_tree(tree, &mut ram).ram?;
    Ok(ram)
}

/// Reserved memory. A region that the tree leaves to the operating system to place (`size` without `reg`) is none yet.
///
/// # Errors
/// [`BoardError::TooMany`].
pub fn reserved(tree: &Tree<'_>) -> Result<RangeSet<MAX_RESERVED>, BoardError> {
    let mut reserved = RangeSet::new();
    add_reserved(tree, &mut reserved)?;
    Ok(reserved)
}

fn add_reserved(tree: &Tree<'_>, reserved: &mut RangeSet<MAX_RESERVED>) -> Result<(), BoardError> {
    let mut add = |range| {
        reserved.insert(range).map_err(|Full| BoardError::TooMany {
            what: "reserved ranges",
            most: MAX_RESERVED,
        })
    };
    tree.reservations().try_for_each(&mut add)?;
    let parent = tree.root().child("reserved-memory");
    let nodes = parent.into_iter().flat_map(|parent| parent.children());
    for node in nodes.filter(Node::available) {
        for range in node.reg() {
            // Without `ranges` the addresses are meant as they stand: reserving too much does no harm.
            add(node.physical(range).unwrap_or(range))?;
        }
    }
    Ok(())
}

/// The CPUs in the tree's order, without those whose `status` says that they cannot be used.
///
/// # Errors
/// [`BoardError::BadCpu`], [`BoardError::SameCpu`], [`BoardError::TooMany`].
pub fn cpus(tree: &Tree<'_>) -> Result<ArrayVec<Cpu, MAX_CPUS>, BoardError> {
    let mut cpus = ArrayVec::new();
    add_cpus(tree, &mut cpus)?;
    Ok(cpus)
}

fn add_cpus(tree: &Tree<'_>, cpus: &mut ArrayVec<Cpu, MAX_CPUS>) -> Result<(), BoardError> {
    let Some(parent) = tree.root().child("cpus") else { return Ok(()) };
    let (cells, _) = parent.cell_counts();
    for node in parent.children().filter(|node| is_cpu(node) && node.available()) {
        let reg = Cells(node.property("reg").unwrap_or_default()).take(cells);
        let affinity = reg.filter(|affinity| cells > 0 && affinity & !0xff_00ff_ffff == 0);
        let affinity = affinity.ok_or(BoardError::BadCpu { index: cpus.len() })?;
        if cpus.iter().any(|cpu| cpu.affinity == affinity) {
            return Err(BoardError::SameCpu { affinity });
        }
        let enable_method = if node.says("enable-method", "psci") {
            EnableMethod::Psci
        } else if node.says("enable-method", "spin-table") {
            EnableMethod::SpinTable
        } else {
            EnableMethod::Other
        };
        let full = BoardError::TooMany {
            what: "CPUs",
            most: MAX_CPUS,
        };
        cpus.try_push(Cpu { affinity, enable_method }).map_err(|_| full)?;
    }
    Ok(())
}

fn is_cpu(node: &Node<'_, '_>) -> bool {
    node.says("device_type", "cpu") || node.is_called("cpu")
}

/// What is looked for in every node at once.
struct Found<'t, 'a> {
    /// Whether all of the RAM was added.
    ram: Result<(), BoardError>,
    psci: Option<Psci>,
    gic: Option<Node<'t, 'a>>,
    timer: Option<Node<'t, 'a>>,
}

const TOO_MUCH_RAM: BoardError = BoardError::TooMany {
    what: "RAM regions",
    most: MAX_REGIONS,
};
const GIC_V3: &str = COMPATIBLE[0];
const TIMER: &str = COMPATIBLE[1];
const PSCI: [(&str, PsciVersion); 3] = [
    (COMPATIBLE[2], PsciVersion::V1_0),
    (COMPATIBLE[3], PsciVersion::V0_2),
    (COMPATIBLE[4], PsciVersion::V0_1),
];

impl<'t, 'a> Found<'t, 'a> {
    /// Looks for it, and adds what is RAM to `ram`.
    #[inline(never)]
    fn in_tree(tree: &'t Tree<'a>, ram: &mut RangeSet<MAX_REGIONS>) -> Self {
        let mut found = Self {
            ram: Ok(()),
            psci: None,
            gic: None,
            timer: None,
        };
        tree.seek(&mut |node, sought| match sought {
            _ if !node.available() => {}
            Sought::Memory if node.is_top() => {
                let added = node.reg().try_for_each(|range| ram.insert(range));
                found.ram = found.ram.and(added.map_err(|Full| TOO_MUCH_RAM));
            }
            Sought::Memory => {}
            Sought::Compatible(GIC_V3) => found.gic = found.gic.or(Some(node)),
            Sought::Compatible(TIMER) => found.timer = found.timer.or(Some(node)),
            Sought::Compatible(_) => found.psci = found.psci.or_else(|| psci_of(&node)),
        });
        found
    }

    /// The GICv3. Gives how many cells its interrupt specifiers have.
    fn gic(&self, tree: &Tree<'_>, gic: &mut Gic) -> Result<u32, BoardError> {
        if let Some(node) = &self.gic {
            return gic_v3(node, gic);
        }
        let v2 = tree
            .nodes()
            .find_map(|node| node.compatible_with(&GIC_V2).filter(|_| node.available()));
        Err(v2.map_or(BoardError::NoGic, |compatible| BoardError::GicV2 { compatible }))
    }
}

/// The firmware's PSCI.
#[must_use]
pub fn psci(tree: &Tree<'_>) -> Option<Psci> {
    Found::in_tree(tree, &mut RangeSet::new()).psci
}

fn psci_of(node: &Node<'_, '_>) -> Option<Psci> {
    let (_, version) = PSCI.iter().find(|(name, _)| node.compatible_with(&[name]).is_some())?;
    let method = match node.string("method")? {
        "hvc" => PsciMethod::Hvc,
        "smc" => PsciMethod::Smc,
        _ => return None,
    };
    Some(Psci { method, version: *version })
}

/// The GICv3.
///
/// # Errors
/// [`BoardError::NoGic`], [`BoardError::GicV2`], [`BoardError::BadGic`], [`BoardError::TooMany`].
pub fn gic(tree: &Tree<'_>) -> Result<Gic, BoardError> {
    let mut gic = Gic::new();
    Found::in_tree(tree, &mut RangeSet::new()).gic(tree, &mut gic)?;
    Ok(gic)
}

/// What the kernel's binding lists for GICv1 and GICv2.
const GIC_V2: [&str; 10] = [
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a9-gic",
    "arm,cortex-a7-gic",
    "arm,cortex-a5-gic",
    "arm,eb11mp-gic",
    "arm,pl390",
    "brcm,brahma-b15-gic",
    "qcom,msm-qgic2",
    "nvidia,tegra210-agic",
];

/// `reg` is the distributor, then the redistributor regions, then what only a GICv2 driver uses.
fn gic_v3(node: &Node<'_, '_>, gic: &mut Gic) -> Result<u32, BoardError> {
    let regions = node.cell("#redistributor-regions").unwrap_or(1) as usize;
    let too_many = BoardError::TooMany {
        what: "GIC redistributor regions",
        most: MAX_GICR,
    };
    if regions > MAX_GICR {
        return Err(too_many);
    }
    let mut frames = node.reg().map(|range| node.physical(range).ok_or(BoardError::BadGic));
    gic.gicd = frames.next().ok_or(BoardError::BadGic)??;
    for frame in frames.take(regions) {
        gic.gicr.try_push(frame?).map_err(|_| too_many)?;
    }
    if gic.gicr.len() != regions || gic.gicr.is_empty() {
        return Err(BoardError::BadGic);
    }
    let stride = node
        .property("redistributor-stride")
        .and_then(|value| Cells(value).take(value.len() as u32 / 4));
    gic.stride = stride.filter(|stride| *stride != 0);
    let interrupt_cells = node.cell("#interrupt-cells").unwrap_or(3);
    gic.maintenance = ppis(node, interrupt_cells).next().flatten();
    Ok(interrupt_cells)
}

/// The `interrupts` of a node as INTIDs, `None` for what is not a PPI. The first cell of a specifier is 1 for a PPI, the
/// second its number, 0 to 15.
fn ppis(node: &Node<'_, '_>, interrupt_cells: u32) -> impl Iterator<Item = Option<u32>> {
    let size = (interrupt_cells.clamp(3, 8) * 4) as usize;
    node.property("interrupts").unwrap_or_default().chunks_exact(size).map(|specifier| {
        let mut cells = Cells(specifier);
        match (cells.take(1)?, cells.take(1)?) {
            (1, number @ 0..16) => Some(16 + number as u32),
            _ => None,
        }
    })
}

/// The first interrupt of a node, if it is an SPI: its INTID. The GIC's specifiers begin with kind and number, whatever their
/// length.
fn spi(node: &Node<'_, '_>) -> Option<u32> {
    const SPIS: u64 = 988;
    let mut cells = Cells(node.property("interrupts")?);
    match (cells.take(1)?, cells.take(1)?) {
        (0, number) if number < SPIS => Some(32 + number as u32),
        _ => None,
    }
}

/// The generic timer's interrupts: secure physical, physical, virtual, EL2 physical, unless `interrupt-names` says otherwise.
fn timer(node: &Node<'_, '_>, interrupt_cells: u32) -> Timer {
    const ORDER: [&str; 4] = ["sec-phys", "phys", "virt", "hyp-phys"];
    let names = node.property("interrupt-names");
    let nth = |wanted: &str| {
        let index = match names {
            Some(names) => names.split(|byte| *byte == 0).position(|name| name == wanted.as_bytes()),
            None => ORDER.iter().position(|name| *name == wanted),
        };
        ppis(node, interrupt_cells).nth(index?).flatten()
    };
    Timer {
        physical: nth("phys"),
        virt: nth("virt"),
        hyp: nth("hyp-phys"),
    }
}

/// The UART that `/chosen`'s `stdout-path` (or, in old trees, `linux,stdout-path`) names, by path or by alias, if it is of a
/// kind that we can drive.
#[must_use]
pub fn console(tree: &Tree<'_>) -> Option<Console> {
    let chosen = tree.chosen()?;
    let path = chosen.string("stdout-path").or_else(|| chosen.string("linux,stdout-path"))?;
    let path = path.split_once(':').map_or(path, |(path, _options)| path);
    let node = tree.at(path)?;
    Some(Console {
        kind: uart_kind(&node)?,
        base: Pa::new(node.physical_reg().next()?.start()),
        interrupt: spi(&node),
    })
}

const PL011: [&str; 2] = ["arm,pl011", "arm,sbsa-uart"];
const IMX: [&str; 5] = [
    "fsl,imx6q-uart",
    "fsl,imx21-uart",
    "fsl,imx8mp-uart",
    "fsl,imx8mq-uart",
    "fsl,imx8mm-uart",
];
/// 8250s whose node gives its own `reg-shift` and `reg-io-width` (defaults: 0, and 1 byte).
const UART_8250: [&str; 9] = [
    "snps,dw-apb-uart",
    "ns16550a",
    "ns16550",
    "ns16450",
    "ns8250",
    "ns16750",
    "fsl,ns16550",
    "nvidia,tegra20-uart",
    "nvidia,tegra186-uart",
];
/// 8250s whose registers are always words, whether the node says so or not.
const UART_8250_WORDS: [&str; 5] = [
    "ti,am654-uart",
    "ti,am64-uart",
    "ti,omap4-uart",
    "brcm,bcm2835-aux-uart",
    "mediatek,mt6577-uart",
];

fn uart_kind(node: &Node<'_, '_>) -> Option<UartKind> {
    if node.compatible_with(&PL011).is_some() {
        return Some(UartKind::Pl011);
    }
    if node.compatible_with(&IMX).is_some() {
        return Some(UartKind::Imx);
    }
    let (shift, width) = if node.compatible_with(&UART_8250_WORDS).is_some() {
        (2, 4)
    } else {
        node.compatible_with(&UART_8250)?;
        (0, 1)
    };
    let reg_shift = node.cell("reg-shift").unwrap_or(shift);
    let io_width = node.cell("reg-io-width").unwrap_or(width);
    let fits = reg_shift <= 3 && matches!(io_width, 1 | 2 | 4);
    fits.then_some(UartKind::Uart8250 {
        reg_shift: reg_shift as u8,
        io_width: io_width as u8,
    })
}

/// FNV-1a over the seeds' bytes.
fn seed(rng: Option<&[u8]>, kaslr: Option<&[u8]>) -> Option<u64> {
    let mut all = [rng, kaslr].into_iter().flatten().flatten().peekable();
    all.peek()?;
    Some(all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    }))
}

/// What `/chosen` says to Umbra itself. A nonce that is too long counts as none.
#[must_use]
pub fn chosen(tree: &Tree<'_>) -> Chosen {
    let Some(node) = tree.chosen() else {
        return Chosen::default();
    };
    let [nonce, semihosting, console_mux, fresh_ram, rng_seed, kaslr_seed, bootargs] = node.properties(&[
        "umbra,nonce",
        "umbra,semihosting",
        "umbra,console-mux",
        "umbra,fresh-ram",
        "rng-seed",
        "kaslr-seed",
        "bootargs",
    ]);
    Chosen {
        nonce: nonce
            .and_then(one_string)
            .and_then(|nonce| ArrayString::from(nonce).ok())
            .unwrap_or_default(),
        semihosting: semihosting.is_some(),
        console_mux: console_mux.is_some(),
        fresh_ram: fresh_ram.is_some(),
        seed: seed(rng_seed, kaslr_seed),
        loglevel: bootargs.and_then(one_string).and_then(loglevel),
    }
}

/// The last `loglevel=N` wins, as on a Linux command line. A number above the highest level is the highest; what is no
/// number is not there.
fn loglevel(bootargs: &str) -> Option<u8> {
    let mut values = bootargs.split_ascii_whitespace().filter_map(|word| word.strip_prefix("loglevel="));
    let last = values.rfind(|value| !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit()))?;
    Some(last.parse::<u8>().map_or(MAX_LOGLEVEL, |level| level.min(MAX_LOGLEVEL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loglevel_is_bounded_and_the_last_one_counts() {
        for (bootargs, level) in [
            ("", None),
            ("quiet loglevel=2", Some(2)),
            ("loglevel=1 loglevel=3 x", Some(3)),
            ("loglevel=9", Some(4)),
            ("loglevel=99999999999999999999", Some(4)),
            ("loglevel= loglevel=x loglevel=-1 xloglevel=1", None),
        ] {
            assert_eq!(loglevel(bootargs), level, "{bootargs:?}");
        }
    }
}
