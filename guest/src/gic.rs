//! The GICv3: SGIs and PPIs, and the CPU interface (IHI 0069).

use crate::{cpu, mmio};
use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};
use hyp_abi::layout::{GICD_BASE, GICR_BASE, GICR_STRIDE};

const GICD_CTLR: u64 = GICD_BASE;
const GICD_CTLR_RWP: u32 = 1 << 31;
const GICD_CTLR_ARE: u32 = 1 << 4;
const GICD_CTLR_GRP1: u32 = 1 << 1;
const GICR_WAKER: u64 = 0x14;
const WAKER_SLEEP: u32 = 1 << 1;
const WAKER_ASLEEP: u32 = 1 << 2;
const SGI_FRAME: u64 = 0x1_0000;
const IGROUPR0: u64 = SGI_FRAME + 0x80;
const ISENABLER0: u64 = SGI_FRAME + 0x100;
const ICENABLER0: u64 = SGI_FRAME + 0x180;
const ISPENDR0: u64 = SGI_FRAME + 0x200;
const ICPENDR0: u64 = SGI_FRAME + 0x280;
const ISACTIVER0: u64 = SGI_FRAME + 0x300;
const ICACTIVER0: u64 = SGI_FRAME + 0x380;
const IPRIORITYR0: u64 = SGI_FRAME + 0x400;

/// Writes an ICC register by its encoding's name, then synchronises.
macro_rules! icc_write {
    ($register:literal, $value:expr) => {
        // SAFETY: Writes this PE's own GIC CPU interface, which holds no Rust object; the ISB makes it act at once.
        unsafe { asm!(concat!("msr ", $register, ", {}"), "isb", in(reg) u64::from($value), options(nostack, preserves_flags)) }
    };
}

/// Reads an ICC register by its encoding's name.
macro_rules! icc_read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: Reads this PE's own GIC CPU interface; not `nomem`, so reads keep their order.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// `ICC_CTLR_EL1.CBPR`.
pub const CTLR_CBPR: u64 = 1 << 0;
/// `ICC_CTLR_EL1.EOImode`.
pub const CTLR_EOIMODE: u64 = 1 << 1;
/// What `ICC_IAR1_EL1` reads when nothing is there to take.
pub const SPURIOUS: u32 = 1023;

/// `ICC_CTLR_EL1` as this vCPU sees it.
#[must_use]
pub fn ctlr() -> u64 {
    icc_read!("S3_0_C12_C12_4")
}
/// Writes `ICC_CTLR_EL1`.
pub fn set_ctlr(value: u64) {
    icc_write!("S3_0_C12_C12_4", value);
}
/// `ICC_PMR_EL1`.
#[must_use]
pub fn pmr() -> u64 {
    icc_read!("S3_0_C4_C6_0")
}
/// Writes `ICC_PMR_EL1`.
pub fn set_pmr(value: u8) {
    icc_write!("S3_0_C4_C6_0", value);
}
/// `ICC_BPR0_EL1`.
#[must_use]
pub fn bpr0() -> u64 {
    icc_read!("S3_0_C12_C8_3")
}
/// Writes `ICC_BPR0_EL1`.
pub fn set_bpr0(value: u8) {
    icc_write!("S3_0_C12_C8_3", value);
}
/// `ICC_BPR1_EL1`.
#[must_use]
pub fn bpr1() -> u64 {
    icc_read!("S3_0_C12_C12_3")
}
/// Writes `ICC_BPR1_EL1`.
pub fn set_bpr1(value: u8) {
    icc_write!("S3_0_C12_C12_3", value);
}
/// `ICC_IGRPEN0_EL1`.
#[must_use]
pub fn igrpen0() -> u64 {
    icc_read!("S3_0_C12_C12_6")
}
/// Writes `ICC_IGRPEN0_EL1`.
pub fn set_igrpen0(on: bool) {
    icc_write!("S3_0_C12_C12_6", on);
}
/// `ICC_IGRPEN1_EL1`.
#[must_use]
pub fn igrpen1() -> u64 {
    icc_read!("S3_0_C12_C12_7")
}
/// Writes `ICC_IGRPEN1_EL1`.
pub fn set_igrpen1(on: bool) {
    icc_write!("S3_0_C12_C12_7", on);
}
/// `ICC_SRE_EL1`.
#[must_use]
pub fn sre() -> u64 {
    icc_read!("S3_0_C12_C12_5")
}
/// `ICC_RPR_EL1`: the running priority.
#[must_use]
pub fn rpr() -> u64 {
    icc_read!("S3_0_C12_C11_3")
}
/// `ICC_HPPIR1_EL1`: the highest-priority pending INTID.
#[must_use]
pub fn hppir1() -> u32 {
    icc_read!("S3_0_C12_C12_2") as u32
}
/// Acknowledges: `ICC_IAR1_EL1`.
#[must_use]
pub fn iar1() -> u32 {
    let intid = icc_read!("S3_0_C12_C12_0") as u32;
    // SAFETY: A barrier: the acknowledge is complete before the handler's accesses (IHI 0069).
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
    intid
}
/// Writes `ICC_SGI0R_EL1` as it is.
pub fn sgi0r(value: u64) {
    icc_write!("S3_0_C12_C11_7", value);
}
/// Writes `ICC_ASGI1R_EL1` as it is.
pub fn asgi1r(value: u64) {
    icc_write!("S3_0_C12_C11_6", value);
}
/// Acknowledges an interrupt of group 0: `ICC_IAR0_EL1`.
#[must_use]
pub fn iar0() -> u32 {
    icc_read!("S3_0_C12_C8_0") as u32
}
/// [`eoir1`] of an interrupt of group 0: `ICC_EOIR0_EL1`.
pub fn eoir0(intid: u32) {
    icc_write!("S3_0_C12_C8_1", intid);
}
/// Sets which SGIs and PPIs are in group 1 here.
pub fn set_groups(group1: u32) {
    mmio::write32(redistributor() + IGROUPR0, group1);
}
/// Drops the priority, and deactivates with EOImode 0: `ICC_EOIR1_EL1`.
pub fn eoir1(intid: u32) {
    icc_write!("S3_0_C12_C12_1", intid);
}
/// Deactivates: `ICC_DIR_EL1`.
pub fn dir(intid: u32) {
    icc_write!("S3_0_C12_C11_1", intid);
}
/// Writes `ICC_SGI1R_EL1` as it is.
pub fn sgi1r(value: u64) {
    // SAFETY: The barrier makes earlier stores visible to the interrupt's target; the write reaches other vCPUs only.
    unsafe {
        asm!("dsb ishst", "msr S3_0_C12_C11_5, {}", "isb", in(reg) value, options(nostack, preserves_flags));
    }
}
/// Sends SGI `intid` (0 to 15) to the vCPU with `affinity`.
pub fn send_sgi(affinity: u64, intid: u32) {
    sgi1r(sgi_list(affinity, 1 << (affinity & 0xF), intid));
}
/// `ICC_SGI1R_EL1` for the target list `list` in the cluster of `affinity`, with RS 0.
#[must_use]
pub const fn sgi_list(affinity: u64, list: u16, intid: u32) -> u64 {
    let (aff1, aff2, aff3) = (affinity >> 8 & 0xFF, affinity >> 16 & 0xFF, affinity >> 32 & 0xFF);
    aff3 << 48 | aff2 << 32 | (intid as u64) << 24 | aff1 << 16 | list as u64
}
/// `ICC_SGI1R_EL1` for every vCPU but the sender.
#[must_use]
pub const fn sgi_others(intid: u32) -> u64 {
    1 << 40 | (intid as u64) << 24
}

/// This vCPU's redistributor.
#[must_use]
pub fn redistributor() -> u64 {
    GICR_BASE + cpu::index() as u64 * GICR_STRIDE
}

/// Turns the distributor on: affinity routing, group 1. On one vCPU.
pub fn init_distributor() {
    forward_groups(0);
    forward_groups(GICD_CTLR_GRP1);
}

/// Has the distributor forward group 0, by bit 0, and group 1, by bit 1, or not.
pub fn forward_groups(groups: u32) {
    mmio::write32(GICD_CTLR, GICD_CTLR_ARE | groups);
    wait_rwp();
}

fn wait_rwp() {
    // A distributor that never finishes shows in the tests; this must not hang them.
    let _finished = cpu::wait_until(2, || mmio::read32(GICD_CTLR) & GICD_CTLR_RWP == 0);
}

/// Turns this vCPU's redistributor and CPU interface on: SGIs and PPIs in group 1 at priority 0xA0, all disabled but
/// the SGIs, mask open.
pub fn init_cpu() {
    let base = redistributor();
    mmio::write32(base + GICR_WAKER, mmio::read32(base + GICR_WAKER) & !WAKER_SLEEP);
    let _awake = cpu::wait_until(2, || mmio::read32(base + GICR_WAKER) & WAKER_ASLEEP == 0);
    mmio::write32(base + ICENABLER0, u32::MAX);
    mmio::write32(base + IGROUPR0, u32::MAX);
    for word in 0..8 {
        mmio::write32(base + IPRIORITYR0 + word * 4, 0xA0A0_A0A0);
    }
    mmio::write32(base + ISENABLER0, 0xFFFF);
    icc_write!("S3_0_C12_C12_5", 7_u64);
    set_pmr(0xFF);
    set_bpr1(0);
    set_ctlr(0);
    set_igrpen1(true);
}

/// Enables SGI or PPI `intid` here.
pub fn enable(intid: u32) {
    mmio::write32(redistributor() + ISENABLER0, 1 << intid);
}
/// Disables SGI or PPI `intid` here.
pub fn disable(intid: u32) {
    mmio::write32(redistributor() + ICENABLER0, 1 << intid);
}
/// Sets the priority of SGI or PPI `intid` here.
pub fn set_priority(intid: u32, priority: u8) {
    mmio::write8(redistributor() + IPRIORITYR0 + u64::from(intid), priority);
}
/// `GICR_ISPENDR0` here.
#[must_use]
pub fn pending() -> u32 {
    mmio::read32(redistributor() + ISPENDR0)
}
/// `GICR_ISPENDR0` of vCPU `index`.
#[must_use]
pub fn pending_of(index: usize) -> u32 {
    mmio::read32(GICR_BASE + index as u64 * GICR_STRIDE + ISPENDR0)
}
/// Makes the INTIDs in `mask` pending here.
pub fn set_pending(mask: u32) {
    mmio::write32(redistributor() + ISPENDR0, mask);
}
/// Makes the INTIDs in `mask` not pending here.
pub fn clear_pending(mask: u32) {
    mmio::write32(redistributor() + ICPENDR0, mask);
}
/// `GICR_ISACTIVER0` here.
#[must_use]
pub fn active() -> u32 {
    mmio::read32(redistributor() + ISACTIVER0)
}

/// Makes the INTIDs in `mask` inactive here.
pub fn clear_active(mask: u32) {
    mmio::write32(redistributor() + ICACTIVER0, mask);
}

static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Has `handler` called with each INTID that is acknowledged, before its end of interrupt.
pub fn set_handler(handler: fn(u32)) {
    HANDLER.store(handler as usize, Ordering::Release);
}

/// Takes one interrupt: acknowledge, handler, end of interrupt (and deactivation with EOImode 1).
pub(crate) fn dispatch() {
    let intid = iar1();
    if intid >= 1020 {
        return;
    }
    let handler = HANDLER.load(Ordering::Acquire);
    if handler != 0 {
        // SAFETY: `HANDLER` is only ever written by [`set_handler`], with a `fn(u32)`.
        let handler: fn(u32) = unsafe { core::mem::transmute::<usize, fn(u32)>(handler) };
        handler(intid);
    }
    eoir1(intid);
    if ctlr() & CTLR_EOIMODE != 0 {
        dir(intid);
    }
}
