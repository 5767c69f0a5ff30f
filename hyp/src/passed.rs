//! The interrupts of devices that are passed to a VM.
//!
//! A guest gets a passed SPI as an emulated level or edge with the same INTID. A level-sensitive one stays active in the physical
//! GIC from when it fires until the guest's end of interrupt, which comes as a maintenance interrupt: then the virtual line falls,
//! the physical interrupt is deactivated, and if the device still asserts it, it fires again. So a guest that does not serve its
//! device costs nobody anything, and a sampling too many costs an exit and loses nothing.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hyp_core::{
    fdt::vms::{Spi, VmDesc},
    vgic::dist::{Dist, Vcpus},
};

use crate::{
    arch::{
        gic::{self, Distributor},
        mmio::Mmio,
    },
    vm,
};

/// The SPIs of one VM's devices.
pub(crate) struct Passed(Vec<Line>);

/// One of them.
struct Line {
    spi: Spi,
    /// It has fired, and is active in the physical GIC; its virtual line is high.
    fired: AtomicBool,
}

fn distributor() -> Option<Distributor> {
    let base = vm::board()?.gic.gicd.start() as usize;
    // SAFETY: The distributor's frame as the device tree gives it, mapped at EL2 before the VMs are built.
    Some(Distributor::new(unsafe { Mmio::new(base) }))
}

impl Passed {
    /// Those of the devices in `desc`, disabled, with their triggers set, on the pCPU with this affinity. On the boot CPU, before
    /// the VMs run.
    pub(crate) fn new(desc: &VmDesc, affinity: u64) -> Self {
        let lines: Vec<Line> = desc
            .devices
            .iter()
            .flat_map(|device| &device.interrupts)
            .map(|spi| Line {
                spi: *spi,
                fired: AtomicBool::new(false),
            })
            .collect();
        if let Some(distributor) = distributor() {
            for line in &lines {
                distributor.configure(line.spi.intid, affinity);
                distributor.set_edge(line.spi.intid, line.spi.edge);
            }
        }
        Self(lines)
    }

    /// The VM starts: nothing is left of an earlier run, and the interrupts may come.
    pub(crate) fn open(&self, dist: &Dist) {
        self.close(dist);
        if let Some(distributor) = distributor() {
            for line in &self.0 {
                distributor.set_enabled(line.spi.intid, true);
            }
        }
    }

    /// The VM has ended: none comes any more.
    pub(crate) fn close(&self, dist: &Dist) {
        let Some(distributor) = distributor().filter(|_| !self.0.is_empty()) else {
            return;
        };
        for line in &self.0 {
            distributor.set_enabled(line.spi.intid, false);
            line.fired.store(false, Ordering::Release);
            let _ = dist.set_line(line.spi.intid, false);
            distributor.deactivate(line.spi.intid);
        }
    }

    /// Lets the lines fall that are high, and the physical interrupts fire again that still have a cause. Gives the vCPUs that must
    /// look.
    pub(crate) fn sample(&self, dist: &Dist) -> Vcpus {
        let mut kicks = 0;
        for line in &self.0 {
            if line.fired.load(Ordering::Acquire) && line.fired.swap(false, Ordering::AcqRel) {
                // In this order: from its deactivation on, it may fire on another pCPU.
                if let Some(vcpu) = dist.set_line(line.spi.intid, false) {
                    kicks |= 1 << (vcpu & 15);
                }
                if let Some(distributor) = distributor() {
                    distributor.deactivate(line.spi.intid);
                }
            }
        }
        kicks
    }

    /// Physical SPI `intid` has fired. `None`: it is not this VM's. Otherwise the vCPU that must look.
    fn fire(&self, dist: &Dist, intid: u32) -> Option<Option<usize>> {
        let line = self.0.iter().find(|line| line.spi.intid == intid)?;
        if line.spi.edge {
            gic::deactivate(intid);
            return Some(dist.raise_edge(intid));
        }
        let vcpu = dist.set_line(intid, true);
        // After the line: who finds this set lets the line fall.
        line.fired.store(true, Ordering::Release);
        Some(vcpu)
    }
}

/// Takes physical interrupt `intid`, which has been acknowledged, if it is a passed device's.
pub(crate) fn take(intid: u32) -> bool {
    if intid < 32 {
        return false;
    }
    for vm in vm::all() {
        if let Some(vcpu) = vm.passed.fire(&vm.dist, intid) {
            if let Some(vcpu) = vcpu {
                vm.kick_spis(1 << (vcpu & 15));
            }
            return true;
        }
    }
    false
}
