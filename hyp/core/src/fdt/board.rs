//! The board, from the device tree that the boot loader passed.
//!
//! Nothing here needs a heap: [`console`] is asked before anything else, so that everything after it can be said.

use arrayvec::{ArrayString, ArrayVec};

use super::{Cells, Node, Tree, TreeError, cut, one_string};
use crate::physmem::{Full, MAX_REGIONS, RangeSet};
use crate::put;
use crate::text::{Shown, Sink};
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
pub const MAX_LOGLEVEL: u8 = 3;

/// What the machine is.
#[derive(Clone, Debug)]
pub struct Board {
    /// RAM, sorted; neighbours are one.
    pub ram: RangeSet,
    /// What the tree asks to leave alone: `/memreserve/` and the nodes with `reg` below `/reserved-memory`.
    pub reserved: RangeSet,
    /// The CPUs in the tree's order: a pCPU's number is its place here.
    pub cpus: ArrayVec<Cpu, MAX_CPUS>,
    /// How the firmware's PSCI is reached, if there is one.
    pub psci: Option<PsciMethod>,
    /// The interrupt controller.
    pub gic: Gic,
    /// Where to print.
    pub console: Option<Console>,
    /// What `/chosen` says to Umbra itself.
    pub chosen: Chosen,
}

/// A CPU that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its affinity as PSCI takes it: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
    pub affinity: u64,
}

/// The instruction that reaches the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciMethod {
    /// `HVC #0`: nobody answers it when we are the hypervisor.
    Hvc,
    /// `SMC #0`.
    Smc,
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

    /// `reg` is the distributor, then the redistributor regions, then what only a GICv2 driver uses.
    #[inline(never)]
    fn read(&mut self, tree: &Tree<'_>) -> Result<(), BoardError> {
        let Some(node) = tree.gic() else { return Err(no_gic_v3(tree)) };
        let regions = node.cell("#redistributor-regions").unwrap_or(1) as usize;
        let (what, most) = ("GIC redistributor regions", MAX_GICR);
        if regions > most {
            return Err(BoardError::TooMany { what, most });
        }
        let bus = node.parent().ok_or(BoardError::BadGic)?;
        let mut frames = node.reg(&bus);
        for nth in 0..=regions {
            let frame = frames.next().and_then(|frame| bus.physical(frame)).ok_or(BoardError::BadGic)?;
            if nth == 0 {
                self.gicd = frame;
            } else {
                self.gicr.try_push(frame).map_err(|_| BoardError::TooMany { what, most })?;
            }
        }
        if regions == 0 {
            return Err(BoardError::BadGic);
        }
        let stride = node.property("redistributor-stride").unwrap_or_default();
        self.stride = Cells(stride).take(stride.len() as u32 / 4).filter(|stride| *stride != 0);
        self.maintenance = interrupt(&node, 1, 16).map(|ppi| 16 + ppi);
        Ok(())
    }
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
    /// The tree gives the virtual timer or EL2's another interrupt than [`VTIMER_PPI`] and [`HYP_TIMER_PPI`].
    OtherTimers,
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

impl Shown for BoardError {
    fn show(&self, f: &mut dyn Sink) {
        match *self {
            Self::Tree(error) => error.show(f),
            Self::NoRam => f.words("the device tree describes no RAM (the boot loader fills in /memory)"),
            Self::NoCpu => f.words("the device tree describes no usable CPU below /cpus"),
            Self::BadCpu { index } => put!(f, "CPU {} of the device tree has no valid affinity in `reg`", index),
            Self::SameCpu { affinity } => put!(f, "two CPUs of the device tree have the affinity {:#x}", affinity),
            Self::NoGic => f.words("the device tree describes no GICv3 (compatible \"arm,gic-v3\")"),
            Self::GicV2 { compatible } => put!(f, "the interrupt controller is a GICv2 ({}); Umbra needs a GICv3", compatible),
            Self::BadGic => f.words("the GICv3's `reg` lacks the distributor or a redistributor region"),
            Self::OtherTimers => f.words("the timers' `interrupts` are not PPI 11 for the virtual one and PPI 10 for EL2's"),
            Self::TooMany { what, most } => put!(f, "the device tree has more than {} {}", most, what),
        }
    }
}

crate::shown!(BoardError);

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
            ram: RangeSet::new(MAX_REGIONS),
            reserved: RangeSet::new(MAX_RESERVED),
            cpus: ArrayVec::new(),
            psci: None,
            gic: Gic::new(),
            console,
            chosen,
        }
    }

    /// The rest of it. A board is large: it is filled in where it is to stay.
    ///
    /// # Errors
    /// See [`BoardError`].
    pub fn read(&mut self, tree: &Tree<'_>) -> Result<(), BoardError> {
        add_ram(tree, &mut self.ram)?;
        if self.ram.as_slice().is_empty() {
            return Err(BoardError::NoRam);
        }
        add_cpus(tree, &mut self.cpus)?;
        if self.cpus.is_empty() {
            return Err(BoardError::NoCpu);
        }
        self.gic.read(tree)?;
        check_timers(tree)?;
        add_reserved(tree, &mut self.reserved)?;
        self.psci = psci(tree);
        Ok(())
    }
}

/// RAM: the nodes below the root that say `device_type = "memory"`, or are called `memory`.
///
/// # Errors
/// [`BoardError::TooMany`].
pub fn ram(tree: &Tree<'_>) -> Result<RangeSet, BoardError> {
    let mut ram = RangeSet::new(MAX_REGIONS);
    add_ram(tree, &mut ram)?;
    Ok(ram)
}

#[inline(never)]
fn add_ram(tree: &Tree<'_>, ram: &mut RangeSet) -> Result<(), BoardError> {
    let root = tree.root();
    for node in tree.memory().filter(Node::available) {
        for range in node.reg(&root) {
            let (what, most) = ("RAM regions", MAX_REGIONS);
            ram.insert(range).map_err(|Full| BoardError::TooMany { what, most })?;
        }
    }
    Ok(())
}

/// Reserved memory. A region that the tree leaves to the operating system to place (`size` without `reg`) is none yet.
///
/// # Errors
/// [`BoardError::TooMany`].
pub fn reserved(tree: &Tree<'_>) -> Result<RangeSet, BoardError> {
    let mut reserved = RangeSet::new(MAX_RESERVED);
    add_reserved(tree, &mut reserved)?;
    Ok(reserved)
}

fn add_reserved(tree: &Tree<'_>, reserved: &mut RangeSet) -> Result<(), BoardError> {
    let mut add = |range| {
        let (what, most) = ("reserved ranges", MAX_RESERVED);
        reserved.insert(range).map_err(|Full| BoardError::TooMany { what, most })
    };
    for range in tree.reservations() {
        add(range)?;
    }
    let Some(parent) = tree.root().child(b"reserved-memory") else {
        return Ok(());
    };
    for node in parent.children().filter(Node::available) {
        for range in node.reg(&parent) {
            // Without `ranges` the addresses are meant as they stand: reserving too much does no harm.
            add(parent.physical(range).unwrap_or(range))?;
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
    let Some(parent) = tree.root().child(b"cpus") else { return Ok(()) };
    let (cells, _) = parent.cell_counts();
    for node in parent.children() {
        if !(node.is_called(b"cpu") || node.says("device_type", "cpu")) || !node.available() {
            continue;
        }
        let reg = Cells(node.property("reg").unwrap_or_default()).take(cells);
        let affinity = reg.filter(|affinity| cells > 0 && affinity & !0xff_00ff_ffff == 0);
        let affinity = affinity.ok_or(BoardError::BadCpu { index: cpus.len() })?;
        if cpus.iter().any(|cpu| cpu.affinity == affinity) {
            return Err(BoardError::SameCpu { affinity });
        }
        let (what, most) = ("CPUs", MAX_CPUS);
        cpus.try_push(Cpu { affinity }).map_err(|_| BoardError::TooMany { what, most })?;
    }
    Ok(())
}

/// How the firmware's PSCI is reached: the first node that says it in a way that we know.
#[must_use]
pub fn psci(tree: &Tree<'_>) -> Option<PsciMethod> {
    let smc = tree.psci()?.says("method", "smc");
    Some(if smc { PsciMethod::Smc } else { PsciMethod::Hvc })
}

/// The GICv3.
///
/// # Errors
/// [`BoardError::NoGic`], [`BoardError::GicV2`], [`BoardError::BadGic`], [`BoardError::TooMany`].
pub fn gic(tree: &Tree<'_>) -> Result<Gic, BoardError> {
    let mut gic = Gic::new();
    gic.read(tree)?;
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

/// What is there instead of a GICv3.
#[cold]
fn no_gic_v3(tree: &Tree<'_>) -> BoardError {
    let mut nodes = tree.nodes().filter(Node::available);
    let v2 = nodes.find_map(|node| node.compatible_with(&GIC_V2));
    v2.map_or(BoardError::NoGic, |compatible| BoardError::GicV2 { compatible })
}

/// The INTID of EL2's physical timer: PPI 10.
pub const HYP_TIMER_PPI: u32 = 26;
/// The INTID of the virtual timer: PPI 11.
pub const VTIMER_PPI: u32 = 27;

/// Looks whether the timers' `interrupts` are what they are taken for. A tree that does not say is believed to mean those.
fn check_timers(tree: &Tree<'_>) -> Result<(), BoardError> {
    let node = tree.root().child(b"timer");
    let node = node.filter(|node| node.compatible_with(&["arm,armv8-timer"]).is_some());
    let Some(value) = node.and_then(|node| node.property("interrupts")) else {
        return Ok(());
    };
    // The virtual timer comes before EL2's, whatever comes before, between and after them, and whether by place or by name. A PPI's
    // specifier begins with 1 and its number, and EL2's is the next lower one.
    let (mut cells, mut before, mut next) = (Cells(value), 0, u64::from(VTIMER_PPI - 16));
    while let Some(cell) = cells.take(1) {
        if before == 1 && cell == next {
            next = next.saturating_sub(1);
        }
        before = cell;
    }
    if next < u64::from(HYP_TIMER_PPI - 16) {
        Ok(())
    } else {
        Err(BoardError::OtherTimers)
    }
}

const _: () = assert!(HYP_TIMER_PPI + 1 == VTIMER_PPI, "check_timers counts down");

/// The number of a node's first interrupt, if that is below `most` and of this kind: the GIC's specifiers begin with the kind, 0 for an
/// SPI and 1 for a PPI, and the number, and have a third cell at least. Those of controllers with other numbers have one cell or two;
/// with three there are controllers that pass the GIC's on (`fsl,imx8mq-gpc`).
fn interrupt(node: &Node<'_, '_>, kind: u64, most: u64) -> Option<u32> {
    let mut cells = Cells(node.property("interrupts")?);
    let specifier = cells.take(2)?;
    cells.take(1)?;
    let number = specifier & 0xffff_ffff;
    (specifier >> 32 == kind && number < most).then_some(number as u32)
}

/// The UART that `/chosen`'s `stdout-path` (or, in old trees, `linux,stdout-path`) names, by path or by alias, if it is of a
/// kind that we can drive.
#[must_use]
pub fn console(tree: &Tree<'_>) -> Option<Console> {
    let chosen = tree.chosen()?;
    let mut path = chosen.text("stdout-path").or_else(|| chosen.text("linux,stdout-path"))?;
    // What comes after a colon are options.
    let node = tree.at(cut(&mut path, b':'))?;
    let bus = node.parent()?;
    Some(Console {
        kind: uart_kind(&node)?,
        base: Pa::new(node.reg(&bus).find_map(|range| bus.physical(range))?.start()),
        interrupt: interrupt(&node, 0, SPIS).map(|spi| 32 + spi),
    })
}

/// How many SPIs a GIC may have.
const SPIS: u64 = 988;
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

/// What nodes that are compatible with these are, the first that fits.
const UARTS: [(&[&str], UartKind); 4] = [
    (&PL011, UartKind::Pl011),
    (&IMX, UartKind::Imx),
    (&UART_8250_WORDS, UartKind::Uart8250 { reg_shift: 2, io_width: 4 }),
    (&UART_8250, UartKind::Uart8250 { reg_shift: 0, io_width: 1 }),
];

fn uart_kind(node: &Node<'_, '_>) -> Option<UartKind> {
    let (_, kind) = UARTS.iter().find(|(names, _)| node.compatible_with(names).is_some())?;
    let UartKind::Uart8250 { reg_shift, io_width } = *kind else {
        return Some(*kind);
    };
    let reg_shift = node.cell("reg-shift").unwrap_or(reg_shift.into());
    let io_width = node.cell("reg-io-width").unwrap_or(io_width.into());
    let fits = reg_shift <= 3 && matches!(io_width, 1 | 2 | 4);
    fits.then_some(UartKind::Uart8250 {
        reg_shift: reg_shift as u8,
        io_width: io_width as u8,
    })
}

/// FNV-1a over the seeds' bytes.
fn seed(seeds: [&[u8]; 2]) -> Option<u64> {
    let hash = seeds.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    seeds.iter().any(|seed| !seed.is_empty()).then_some(hash)
}

/// What `/chosen` says to Umbra itself. A nonce that is too long, or not ASCII, counts as none.
#[must_use]
pub fn chosen(tree: &Tree<'_>) -> Chosen {
    let Some(node) = tree.chosen() else {
        return Chosen::default();
    };
    let has = |name| node.property(name).is_some();
    let bytes = |name| node.property(name).unwrap_or_default();
    let nonce = one_string(bytes("umbra,nonce")).and_then(nonce);
    Chosen {
        nonce: nonce.unwrap_or_default(),
        semihosting: has("umbra,semihosting"),
        console_mux: has("umbra,console-mux"),
        fresh_ram: has("umbra,fresh-ram"),
        seed: seed([bytes("rng-seed"), bytes("kaslr-seed")]),
        loglevel: loglevel(one_string(bytes("bootargs")).unwrap_or_default()),
    }
}

/// What is ASCII, and not too long.
fn nonce(text: &[u8]) -> Option<ArrayString<MAX_NONCE>> {
    let mut nonce = ArrayString::new();
    for byte in text {
        if !byte.is_ascii() {
            return None;
        }
        nonce.try_push(char::from(*byte)).ok()?;
    }
    Some(nonce)
}

/// The last `loglevel=N` wins, as on a Linux command line. A number above the highest level is the highest; what is no
/// number is not there.
fn loglevel(bootargs: &[u8]) -> Option<u8> {
    let mut level = None;
    for word in bootargs.split(u8::is_ascii_whitespace) {
        if let Some(digits @ [_, ..]) = word.strip_prefix(b"loglevel=")
            && digits.iter().all(u8::is_ascii_digit)
        {
            level = Some(
                digits
                    .iter()
                    .fold(0, |level, digit| (10 * level + (digit - b'0')).min(MAX_LOGLEVEL)),
            );
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loglevel_is_bounded_and_the_last_one_counts() {
        for (bootargs, level) in [
            ("", None),
            ("quiet loglevel=2", Some(2)),
            ("loglevel=1 loglevel=2 x", Some(2)),
            ("loglevel=9", Some(3)),
            ("loglevel=99999999999999999999", Some(3)),
            ("loglevel= loglevel=x loglevel=-1 xloglevel=1", None),
        ] {
            assert_eq!(loglevel(bootargs.as_bytes()), level, "{bootargs:?}");
        }
    }
}
