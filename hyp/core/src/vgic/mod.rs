//! The virtual GICv3 of a VM (IHI 0069, one security state: `GICD_CTLR.DS` is 1).
//!
//! The CPU interface is the hardware's: a guest acknowledges and ends interrupts without an exit, out of its pCPU's list
//! registers. Distributor and redistributors are words in memory, and this module decides what goes into the list registers.
//! There are SGIs, PPIs and SPIs; no LPIs, no ITS.
//!
//! * [`ctlr`], [`vmcr`]: what `ICC_CTLR_EL1` and the registers inside `ICH_VMCR_EL2` read as, for guest and host alike;
//! * [`cpuif`]: the CPU-interface registers that trap while `ICH_HCR_EL2.TC` is set, and `ICH_HCR_EL2` itself;
//! * [`lr`]: a vCPU's interrupts, and the list registers they pass through;
//! * [`redist`]: a vCPU's SGIs and PPIs, and the frames a guest sees them through;
//! * [`dist`]: a VM's SPIs, their way to a vCPU, and the frame;
//! * [`sgi`]: who an SGI is for, and the inbox it lands in;
//! * [`attr`]: KVM's device attributes.
//!
//! **Invariant**: a [`lr::VcpuGic`] is written only by whoever holds its vCPU's lock. What other pCPUs touch are atomics: an
//! [`sgi::Inbox`] and the [`dist::Dist`].

pub mod attr;
pub mod cpuif;
pub mod ctlr;
pub mod dist;
#[cfg(all(test, not(loom)))]
mod fake;
pub mod lr;
#[cfg(all(test, not(loom)))]
mod model;
pub mod redist;
pub mod sgi;
#[cfg(all(test, not(loom), not(miri)))]
mod spi_model;
pub mod vmcr;

/// INTIDs of SGIs and PPIs: those that each vCPU has for itself.
pub const PRIVATE_INTIDS: u32 = 32;

/// The most list registers the architecture allows.
pub const MAX_LRS: usize = 16;

/// An interrupt's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Group 0, signalled as FIQ.
    Zero,
    /// Group 1, signalled as IRQ.
    One,
}

/// The physical SPIs that stand behind a VM's. What is done to them needs no vCPU to be loaded, and any pCPU may do it.
///
/// Words are 32 SPIs each: word 0 has INTIDs 32 to 63.
pub trait PhysicalSpis {
    /// Sets the active state of the SPIs of `mask`. Active keeps them from firing; inactive lets them.
    fn set_active(&self, word: usize, mask: u32, active: bool);
    /// Whether the line of `intid`, level-sensitive and active, is still high. Who cannot tell says no and leaves it inactive: then it
    /// fires again, if it is.
    fn asserted(&self, intid: u32) -> bool;
    /// Which SPIs of a word the physical distributor shows as pending.
    fn pending(&self, word: usize) -> u32;
    /// Takes back the pending state of edges that the physical distributor has for the SPIs of `mask`.
    fn clear_pending(&self, word: usize, mask: u32);
}

/// No physical SPI stands behind any.
impl PhysicalSpis for () {
    fn set_active(&self, _: usize, _: u32, _: bool) {}
    fn asserted(&self, _: u32) -> bool {
        false
    }
    fn pending(&self, _: usize) -> u32 {
        0
    }
    fn clear_pending(&self, _: usize, _: u32) {}
}

/// The virtual interface registers of the vCPU that is loaded on this pCPU, and the physical interrupts behind it.
///
/// `hyp` implements this with system registers and its own redistributor frame. For a vCPU that is not loaded nothing of it is asked but the
/// physical SPIs, which are everybody's.
pub trait Ich {
    /// The physical SPIs.
    type Spis: PhysicalSpis;
    /// The physical SPIs.
    fn spis(&self) -> &Self::Spis;
    /// How many list registers there are, 1 to 16.
    fn count(&self) -> usize;
    /// Whether `ICH_HCR_EL2.TDIR` does anything (`ICH_VTR_EL2.TDS`): it is newer than the first GICv3 CPUs (Cortex-A53, A57 and A72).
    fn tdir(&self) -> bool;
    /// `ICH_LR<i>_EL2`.
    fn lr(&self, i: usize) -> u64;
    /// Writes `ICH_LR<i>_EL2`.
    fn set_lr(&mut self, i: usize, value: u64);
    /// [`set_lr`](Self::set_lr) on the shortest ways.
    #[inline(always)]
    fn set_lr_in_place(&mut self, i: usize, value: u64) {
        self.set_lr(i, value);
    }
    /// `ICH_ELRSR_EL2`: bit i is set when list register i is empty and asks for no maintenance.
    fn elrsr(&self) -> u64;
    /// [`elrsr`](Self::elrsr) while no list register was written since the exit, which needs no barrier then.
    fn elrsr_at_exit(&self) -> u64 {
        self.elrsr()
    }
    /// Whether every list register is empty, while none was written since the exit.
    fn all_empty_at_exit(&self) -> bool {
        !self.elrsr_at_exit() & ((1 << self.count().min(MAX_LRS)) - 1) == 0
    }
    /// `ICH_EISR_EL2`: bit i is set when list register i was deactivated and asked to be told.
    fn eisr(&self) -> u64;
    /// `ICH_HCR_EL2`, for its EOIcount.
    fn hcr(&self) -> u64;
    /// Writes `ICH_HCR_EL2`.
    fn set_hcr(&mut self, value: u64);
    /// `ICH_VMCR_EL2`.
    fn vmcr(&self) -> u64;
    /// Whether the virtual timer's line is high: it is enabled, unmasked and due.
    fn timer_line(&self) -> bool;
    /// Sets the active state of the virtual timer's PPI on this pCPU. Active keeps it from firing; inactive lets it.
    fn set_timer_active(&mut self, active: bool);
}

/// Calls `f` with the number of each bit set in `bits`, lowest first.
fn for_each(mut bits: u64, mut f: impl FnMut(u32)) {
    while bits != 0 {
        f(bits.trailing_zeros());
        bits &= bits - 1;
    }
}
