//! The physical GICv3: enough of it for EL2 to take and send its own interrupts, and the `ICH_*` registers.

pub(crate) use hyp_core::fdt::board::{HYP_TIMER_PPI, VTIMER_PPI};
use hyp_core::{
    regs::gic::ICH_VTR_EL2,
    vgic::{Ich, PhysicalSpis, ctlr},
};

use super::{barrier, mmio::Mmio};

/// The SGI that makes a pCPU look at its requests.
pub(crate) const KICK_SGI: u32 = 0;
/// EL1's physical timer.
pub(crate) const REMINDER_PPI: u32 = 30;

const GICD_CTLR: usize = 0x0000;
const GICD_TYPER: usize = 0x0004;
const GICD_IGROUPR: usize = 0x0080;
const GICD_ISENABLER: usize = 0x0100;
const GICD_IPRIORITYR: usize = 0x0400;
const GICD_ICFGR: usize = 0x0C00;
const GICD_IROUTER: usize = 0x6000;
const GICD_ICENABLER: usize = 0x0180;
const GICD_ICENABLER_E: usize = 0x1400;
const GICD_ISPENDR: usize = 0x0200;
const GICD_ICPENDR: usize = 0x0280;
const GICD_ISACTIVER: usize = 0x0300;
const GICD_ICACTIVER: usize = 0x0380;
const GICR_CTLR: usize = 0x0000;
const GICR_TYPER: usize = 0x0008;
const GICR_WAKER: usize = 0x0014;
const SGI_BASE: usize = 0x1_0000;
const GICR_IGROUPR0: usize = SGI_BASE + 0x0080;
const GICR_ISENABLER0: usize = SGI_BASE + 0x0100;
const GICR_ICENABLER0: usize = SGI_BASE + 0x0180;
const GICR_ICPENDR0: usize = SGI_BASE + 0x0280;
const GICR_ISACTIVER0: usize = SGI_BASE + 0x0300;
const GICR_ICACTIVER0: usize = SGI_BASE + 0x0380;
const GICR_IPRIORITYR: usize = SGI_BASE + 0x0400;

/// The machine's distributor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distributor(Mmio);

impl Distributor {
    /// The distributor at `mmio`.
    pub(crate) const fn new(mmio: Mmio) -> Self {
        Self(mmio)
    }

    /// Turns affinity routing and group 1 on. With two security states these are the non-secure view's `EnableGrp1A` and
    /// `ARE_NS`, with one `EnableGrp1` and `ARE`: the same bits (IHI 0069 GICD_CTLR).
    ///
    /// What a boot loader left enabled or active is turned off first: nobody here would handle it. Of the extended SPIs that nobody
    /// enables again, what is active does not matter.
    pub(crate) fn enable(self) {
        self.0.write32(GICD_CTLR, 0);
        self.settle();
        let typer = self.0.read32(GICD_TYPER);
        let words = (typer & 0x1F) as usize;
        self.0.fill32(GICD_ICENABLER + 4, words, u32::MAX);
        self.0.fill32(GICD_ICACTIVER + 4, words, u32::MAX);
        // ESPI and ESPI_range (IHI 0069 GICD_TYPER).
        if typer & 1 << 8 != 0 {
            self.0.fill32(GICD_ICENABLER_E, (typer >> 27) as usize + 1, u32::MAX);
        }
        self.settle();
        self.0.write32(GICD_CTLR, 1 << 4 | 1 << 1);
        self.settle();
    }

    /// Lets SPI `intid` interrupt the PE with this affinity.
    pub(crate) fn route(self, intid: u32, affinity: u64) {
        self.configure(intid, affinity);
        self.set_enabled(intid, true);
    }

    /// SPI `intid`, which is disabled, is of group 1 and goes to the PE with this affinity. One PE at a time does this.
    pub(crate) fn configure(self, intid: u32, affinity: u64) {
        let (word, bit) = (4 * (intid as usize / 32), 1 << (intid & 31));
        self.0.write32(GICD_IGROUPR + word, self.0.read32(GICD_IGROUPR + word) | bit);
        let priority = GICD_IPRIORITYR + (intid as usize & !3);
        let shift = 8 * (intid & 3);
        self.0.write32(priority, self.0.read32(priority) & !(0xFF << shift) | 0xA0 << shift);
        self.set_route(intid, affinity);
    }

    /// SPI `intid` goes to the PE with this affinity.
    pub(crate) fn set_route(self, intid: u32, affinity: u64) {
        let router = GICD_IROUTER + 8 * intid as usize;
        self.0.write32(router, affinity as u32);
        self.0.write32(router + 4, (affinity >> 32) as u32);
    }

    /// SPI `intid`, which is disabled, is edge-triggered or level-sensitive. One PE at a time does this.
    pub(crate) fn set_edge(self, intid: u32, edge: bool) {
        let (register, bit) = (GICD_ICFGR + 4 * (intid as usize / 16), 2 << (2 * (intid & 15)));
        let others = self.0.read32(register) & !bit;
        self.0.write32(register, others | if edge { bit } else { 0 });
    }

    /// Lets SPI `intid` fire, or not; when this is done it does not.
    #[inline(never)]
    pub(crate) fn set_enabled(self, intid: u32, enabled: bool) {
        let register = if enabled { GICD_ISENABLER } else { GICD_ICENABLER };
        self.0.write32(register + 4 * (intid as usize / 32), 1 << (intid & 31));
        self.settle();
    }

    /// SPI `intid`, which is disabled, is neither pending by an edge nor active any more, whoever acknowledged it.
    pub(crate) fn clear(self, intid: u32) {
        let (word, bit) = (intid as usize / 32, 1 << (intid & 31));
        self.0.write32(GICD_ICPENDR + 4 * word, bit);
        self.0.write32(GICD_ICACTIVER + 4 * word, bit);
    }

    /// Waits until writes have taken effect (RWP).
    fn settle(self) {
        self.0.settle(GICD_CTLR, 1 << 31);
    }
}

/// Words of SPIs begin with INTID 32.
impl PhysicalSpis for Distributor {
    fn set_active(&self, word: usize, mask: u32, active: bool) {
        if active {
            make_active(self.0, GICD_ISACTIVER + 4 * (word + 1), mask);
        } else {
            self.0.write32(GICD_ICACTIVER + 4 * (word + 1), mask);
        }
    }

    fn asserted(&self, intid: u32) -> bool {
        let (word, bit) = (intid as usize / 32 - 1, 1 << (intid & 31));
        if self.pending(word) & bit != 0 {
            return true;
        }
        // Fallen, or this distributor does not show the line of an active interrupt (QEMU's does not): it may fire again, and if it
        // would do so here at once it is high.
        deactivate(intid);
        let fires = mrs!("S3_0_C12_C12_2") as u32 & 0xFF_FFFF == intid; // ICC_HPPIR1_EL1
        if fires {
            self.set_active(word, bit, true);
        }
        fires
    }

    fn pending(&self, word: usize) -> u32 {
        self.0.read32(GICD_ISPENDR + 4 * (word + 1))
    }

    fn clear_pending(&self, word: usize, mask: u32) {
        self.0.write32(GICD_ICPENDR + 4 * (word + 1), mask);
    }
}

/// One pCPU's redistributor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redistributor(Mmio);

impl Redistributor {
    /// The redistributor whose `RD_base` is `mmio`.
    pub(crate) const fn new(mmio: Mmio) -> Self {
        Self(mmio)
    }

    /// The affinity it serves, in `MPIDR_EL1`'s layout, and whether it is the last of its region (`GICR_TYPER`).
    pub(crate) fn identity(self) -> (u64, bool) {
        let typer = self.0.read64(GICR_TYPER);
        let affinity = typer >> 32;
        ((affinity & 0xFF00_0000) << 8 | affinity & 0x00FF_FFFF, typer & 1 << 4 != 0)
    }

    /// Whether it has the two extra frames of GICv4 (`GICR_TYPER.VLPIS`).
    pub(crate) fn has_vlpi_frames(self) -> bool {
        self.0.read64(GICR_TYPER) & 1 << 1 != 0
    }

    /// Wakes it and enables EL2's SGI and PPIs, all in group 1 and at one priority. No other PPI stays enabled, and no LPI if those can be
    /// turned off again (`GICR_CTLR.CES`).
    pub(crate) fn enable(self, maintenance: u32) {
        self.0.write32(GICR_WAKER, self.0.read32(GICR_WAKER) & !(1 << 1));
        self.0.settle(GICR_WAKER, 1 << 2);
        self.0.write32(GICR_CTLR, 0);
        // The extended ones are in the words after the first: none, one or two (IHI 0069 GICR_TYPER.PPInum).
        let words = 1 + (self.0.read32(GICR_TYPER) >> 27 & 3) as usize;
        self.0.fill32(GICR_ICENABLER0, words, u32::MAX);
        self.0.write32(GICR_ICACTIVER0, u32::MAX);
        self.0.write32(GICR_ICPENDR0, u32::MAX);
        self.0.write32(GICR_IGROUPR0, u32::MAX);
        self.0.fill32(GICR_IPRIORITYR, 8, 0xA0A0_A0A0);
        self.0.write32(
            GICR_ISENABLER0,
            1 << KICK_SGI | 1 << HYP_TIMER_PPI | 1 << VTIMER_PPI | 1 << REMINDER_PPI | 1 << (maintenance & 31),
        );
        self.0.settle(GICR_CTLR, 1 << 3);
    }

    /// Sets or clears the physical active state of a PPI.
    pub(crate) fn set_active(self, intid: u32, active: bool) {
        let mask = 1 << (intid & 31);
        if active {
            make_active(self.0, GICR_ISACTIVER0, mask);
        } else {
            self.0.write32(GICR_ICACTIVER0, mask);
        }
    }
}

/// Makes the interrupts of `mask` active, by the register at `set`. They are when this is done: the register was read back, because a store to a
/// device may be on its way still after a barrier (Device-nGnRE). A guest's own deactivation (`ICH_LR<n>_EL2.HW`) that came before it would end
/// nothing, and nobody the active state that comes after.
#[inline(always)]
fn make_active(frame: Mmio, set: usize, mask: u32) {
    frame.write32(set, mask);
    let _ = frame.read32(set);
    barrier::dsb_sy();
}

/// Turns the GIC's system registers on, which may be off after reset. Before any `ICC_*` or `ICH_*` access.
pub(crate) fn use_system_registers() {
    msr!("S3_4_C12_C9_5", hyp_core::policy::ICC_SRE); // ICC_SRE_EL2
    barrier::isb();
}

/// The guest's own system-register enable, which it may have cleared where legacy virtual interrupts exist.
pub(crate) fn set_system_registers() {
    msr!("S3_0_C12_C12_5", 7); // ICC_SRE_EL1
    barrier::isb();
}

/// Turns this pCPU's physical CPU interface on for group 1, with `EOImode` 1: EL2's EOI drops the priority, a guest's own
/// EOI deactivates a hardware-backed interrupt. No priority is active any more that was when Umbra was entered.
pub(crate) fn enable_cpu_interface() {
    use_system_registers();
    let registers = ctlr::physical_apr_count(physical_ctlr());
    msr!("S3_0_C12_C9_0", 0); // ICC_AP1R0_EL1
    if registers > 1 {
        msr!("S3_0_C12_C9_1", 0); // ICC_AP1R1_EL1
    }
    if registers > 2 {
        msr!("S3_0_C12_C9_2", 0); // ICC_AP1R2_EL1
        msr!("S3_0_C12_C9_3", 0); // ICC_AP1R3_EL1
    }
    msr!("S3_0_C4_C6_0", 0xFF); // ICC_PMR_EL1
    msr!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1
    msr!("S3_0_C12_C12_4", 1 << 1); // ICC_CTLR_EL1.EOImode
    msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    barrier::isb();
}

/// The physical `ICC_CTLR_EL1`.
pub(crate) fn physical_ctlr() -> u64 {
    mrs!("S3_0_C12_C12_4")
}

/// Acknowledges the highest-priority pending physical interrupt; 1020 to 1023 mean none.
pub(crate) fn acknowledge() -> u32 {
    let intid = mrs!("S3_0_C12_C12_0") as u32 & 0xFF_FFFF; // ICC_IAR1_EL1
    barrier::dsb_sy();
    intid
}

/// Drops the running priority of an acknowledged interrupt; it stays active.
pub(crate) fn drop_priority(intid: u32) {
    msr!("S3_0_C12_C12_1", u64::from(intid)); // ICC_EOIR1_EL1
    barrier::isb();
}

/// Whether an interrupt has an active state to end: LPIs, from 8192 on, have none (IHI 0069).
pub(crate) fn can_be_active(intid: u32) -> bool {
    intid < 8192
}

/// Deactivates an interrupt whose priority was dropped.
pub(crate) fn deactivate(intid: u32) {
    msr!("S3_0_C12_C11_1", u64::from(intid)); // ICC_DIR_EL1
    barrier::isb();
}

/// Drops the running priority of an acknowledged interrupt and deactivates it.
pub(crate) fn drop_and_deactivate(intid: u32) {
    msr!("S3_0_C12_C12_1", u64::from(intid)); // ICC_EOIR1_EL1
    msr!("S3_0_C12_C11_1", u64::from(intid)); // ICC_DIR_EL1
    barrier::isb();
}

/// What sends the kick SGI to the pCPU with this affinity (`ICC_SGI1R_EL1`).
pub(crate) const fn kick_sgi(affinity: u64) -> u64 {
    let aff0 = affinity & 0xFF;
    (affinity >> 32 & 0xFF) << 48
        | (affinity >> 16 & 0xFF) << 32
        | (affinity >> 8 & 0xFF) << 16
        | (aff0 >> 4) << 44
        | (KICK_SGI as u64) << 24
        | 1 << (aff0 & 0xF)
}

/// Sends a [`kick_sgi`]. What was stored before is visible to its pCPU.
pub(crate) fn send_kick(sgi: u64) {
    barrier::dsb_ishst();
    msr!("S3_0_C12_C11_5", sgi); // ICC_SGI1R_EL1
    barrier::isb();
}

/// `ICH_VTR_EL2`.
pub(crate) fn vtr() -> u64 {
    mrs!("S3_4_C12_C11_1")
}

/// `ICH_VMCR_EL2`: the guest's view of its CPU interface's control registers.
pub(crate) fn vmcr() -> u64 {
    mrs_apart!("S3_4_C12_C11_7")
}

/// Writes `ICH_VMCR_EL2`.
pub(crate) fn set_vmcr(value: u64) {
    msr!("S3_4_C12_C11_7", value);
}

/// `ICH_HCR_EL2`.
pub(crate) fn hcr() -> u64 {
    mrs!("S3_4_C12_C11_0")
}

/// Writes `ICH_HCR_EL2`. Acts at the next ERET.
pub(crate) fn set_hcr(value: u64) {
    msr!("S3_4_C12_C11_0", value);
}

/// The virtual interface of the vCPU that is resident on this pCPU, and the physical interrupts behind it; or, of one that is not
/// resident, only the physical SPIs.
#[derive(Clone, Copy)]
pub(crate) struct Interface {
    redistributor: Redistributor,
    distributor: Distributor,
    list_registers: u32,
    /// `ICH_VTR_EL2.TDS` (IHI 0069).
    tdir: bool,
    /// `ICH_ELRSR_EL2` while all of them are empty.
    all_empty: u64,
}

impl Interface {
    /// This pCPU's, whose redistributor is `redistributor`. Its list registers are empty from now on, while no vCPU is resident.
    pub(crate) fn new(redistributor: Redistributor, distributor: Distributor) -> Self {
        let vtr = vtr();
        let list_registers = (vtr & 0xF) as u32 + 1;
        let mut new = Self {
            redistributor,
            distributor,
            list_registers,
            tdir: ICH_VTR_EL2::TDS.is_set(vtr),
            all_empty: (1 << list_registers) - 1,
        };
        for index in 0..new.count() {
            new.set_lr(index, 0);
        }
        new
    }

    /// That of a vCPU which is resident nowhere. It is asked for nothing but the physical SPIs.
    pub(crate) const fn absent(distributor: Distributor) -> Self {
        Self {
            redistributor: Redistributor(distributor.0),
            distributor,
            list_registers: 0,
            tdir: false,
            all_empty: 0,
        }
    }
}

macro_rules! list_registers {
    ($($reg:literal),+ $(,)?) => {
        #[inline(never)]
        fn read_lr(index: usize) -> u64 {
            mrs_indexed!(index, $($reg),+)
        }

        #[inline(always)]
        fn write_lr(index: usize, value: u64) {
            msr_indexed!(index, value, $($reg),+);
        }
    };
}

list_registers! {
    "S3_4_C12_C12_0", "S3_4_C12_C12_1", "S3_4_C12_C12_2", "S3_4_C12_C12_3",
    "S3_4_C12_C12_4", "S3_4_C12_C12_5", "S3_4_C12_C12_6", "S3_4_C12_C12_7",
    "S3_4_C12_C13_0", "S3_4_C12_C13_1", "S3_4_C12_C13_2", "S3_4_C12_C13_3",
    "S3_4_C12_C13_4", "S3_4_C12_C13_5", "S3_4_C12_C13_6", "S3_4_C12_C13_7"
}

impl Ich for Interface {
    type Spis = Distributor;

    fn spis(&self) -> &Distributor {
        &self.distributor
    }

    fn count(&self) -> usize {
        self.list_registers as usize
    }

    fn tdir(&self) -> bool {
        self.tdir
    }

    fn lr(&self, i: usize) -> u64 {
        read_lr(i)
    }

    #[inline(never)]
    fn set_lr(&mut self, i: usize, value: u64) {
        write_lr(i, value);
    }

    #[inline(always)]
    fn set_lr_in_place(&mut self, i: usize, value: u64) {
        match i {
            // The one that is used most.
            0 => msr!("S3_4_C12_C12_0", value),
            _ => write_lr(i, value),
        }
    }

    fn elrsr(&self) -> u64 {
        // What was written to list registers before shows here only after this.
        barrier::isb();
        mrs!("S3_4_C12_C11_5")
    }

    fn elrsr_at_exit(&self) -> u64 {
        mrs_apart!("S3_4_C12_C11_5")
    }

    fn all_empty_at_exit(&self) -> bool {
        self.elrsr_at_exit() == self.all_empty
    }

    fn eisr(&self) -> u64 {
        barrier::isb();
        mrs!("S3_4_C12_C11_3")
    }

    fn hcr(&self) -> u64 {
        hcr()
    }

    fn set_hcr(&mut self, value: u64) {
        set_hcr(value);
    }

    fn vmcr(&self) -> u64 {
        vmcr()
    }

    fn timer_line(&self) -> bool {
        // CNTV_CTL_EL0: ENABLE and ISTATUS, not IMASK.
        mrs!("cntv_ctl_el0") & 7 == 5
    }

    fn set_timer_active(&mut self, active: bool) {
        self.redistributor.set_active(VTIMER_PPI, active);
    }
}

/// Reads `ICH_AP0R<n>_EL2` and `ICH_AP1R<n>_EL2`, as many as `count` (1, 2 or 4; the others do not exist).
#[inline(never)]
pub(crate) fn active_priorities(count: usize) -> ([u32; 4], [u32; 4]) {
    let (mut group0, mut group1) = ([0; 4], [0; 4]);
    save_active_priorities(count, &mut group0, &mut group1);
    (group0, group1)
}

/// [`active_priorities`] into words of which those that do not exist are 0.
#[inline]
pub(crate) fn save_active_priorities(count: usize, group0: &mut [u32; 4], group1: &mut [u32; 4]) {
    group0[0] = mrs!("S3_4_C12_C8_0") as u32;
    group1[0] = mrs!("S3_4_C12_C9_0") as u32;
    if count > 1 {
        group0[1] = mrs!("S3_4_C12_C8_1") as u32;
        group1[1] = mrs!("S3_4_C12_C9_1") as u32;
    }
    if count > 2 {
        group0[2] = mrs!("S3_4_C12_C8_2") as u32;
        group0[3] = mrs!("S3_4_C12_C8_3") as u32;
        group1[2] = mrs!("S3_4_C12_C9_2") as u32;
        group1[3] = mrs!("S3_4_C12_C9_3") as u32;
    }
}

/// Writes what [`active_priorities`] reads.
pub(crate) fn set_active_priorities(count: usize, group0: [u32; 4], group1: [u32; 4]) {
    msr!("S3_4_C12_C8_0", u64::from(group0[0]));
    msr!("S3_4_C12_C9_0", u64::from(group1[0]));
    if count > 1 {
        msr!("S3_4_C12_C8_1", u64::from(group0[1]));
        msr!("S3_4_C12_C9_1", u64::from(group1[1]));
    }
    if count > 2 {
        msr!("S3_4_C12_C8_2", u64::from(group0[2]));
        msr!("S3_4_C12_C8_3", u64::from(group0[3]));
        msr!("S3_4_C12_C9_2", u64::from(group1[2]));
        msr!("S3_4_C12_C9_3", u64::from(group1[3]));
    }
}
