//! The interrupts of devices that are passed to a VM.
//!
//! A guest gets a passed SPI with the same INTID, by a list register that is backed by the physical one: that is active from when it
//! fires until the guest's own deactivation, which costs no exit. If the device still asserts a level then, it fires again. What
//! software has to do to the physical interrupts (`hyp_core::vgic::dist`) is done by whoever does it, on any pCPU.

use core::sync::atomic::{AtomicU8, Ordering};

use hyp_core::{
    fdt::vms::{Spi, VmDesc},
    vgic::dist::{Dist, SPIS, Vcpus},
};

use crate::{
    arch::{gic::Distributor, mmio::Mmio},
    vm::{self, Vm},
};

/// `GICD_IROUTER<n>`, of INTID 32.
const IROUTER32: u64 = 0x6100;

/// Whose each physical SPI is: one more than a VM's number; 0 is nobody.
static OWNER: [AtomicU8; SPIS as usize] = [const { AtomicU8::new(0) }; SPIS as usize];

/// The SPIs of one VM's devices.
pub(crate) struct Passed {
    desc: &'static VmDesc<'static>,
    /// The machine's.
    pub(crate) distributor: Distributor,
}

impl Passed {
    /// Those of the devices in `desc`, which stand behind the same of `dist` from now on: disabled, with their triggers set, on the pCPU
    /// with this affinity. On the boot CPU, before the VMs run.
    pub(crate) fn new(desc: &'static VmDesc<'static>, dist: &Dist, affinity: u64) -> Option<Self> {
        let base = vm::board()?.gic.gicd.start() as usize;
        // SAFETY: The distributor's frame as the device tree gives it, mapped at EL2 before the VMs are built.
        let distributor = Distributor::new(unsafe { Mmio::new(base) });
        let passed = Self { desc, distributor };
        for spi in passed.spis() {
            passed.distributor.configure(spi.intid, affinity);
            passed.distributor.set_edge(spi.intid, spi.edge);
            dist.back(spi.intid, spi.edge);
            if let Some(owner) = place(spi.intid) {
                owner.store(desc.id as u8 + 1, Ordering::Relaxed);
            }
        }
        Some(passed)
    }

    fn spis(&self) -> impl Iterator<Item = &'static Spi> + use<> {
        self.desc.devices.iter().flat_map(|device| &device.interrupts)
    }

    /// The VM starts: nothing is left of an earlier run, and the interrupts may come.
    pub(crate) fn open(&self) {
        self.close();
        for spi in self.spis() {
            self.distributor.set_enabled(spi.intid, true);
        }
    }

    /// The VM has ended: none comes any more, and none is active.
    pub(crate) fn close(&self) {
        for spi in self.spis() {
            self.distributor.set_enabled(spi.intid, false);
            self.distributor.clear(spi.intid);
        }
    }

    /// The guest has written at `offset` of its distributor: if that is a route, the physical interrupt follows it to the pCPU of the
    /// vCPU that it goes to now. One that arrives elsewhere finds its way all the same.
    #[cold]
    pub(crate) fn follow(&self, vm: &Vm, offset: u64) {
        let Some(n) = offset.checked_sub(IROUTER32) else { return };
        let intid = 32 + (n / 8) as u32;
        if owner(intid) == Some(vm.id)
            && let Some(vcpu) = vm.dist.target(intid).and_then(|vcpu| vm.vcpus.get(vcpu))
        {
            self.distributor.set_route(intid, vcpu.affinity());
        }
    }
}

fn place(intid: u32) -> Option<&'static AtomicU8> {
    OWNER.get((intid as usize).checked_sub(32)?)
}

/// The number of the VM that physical interrupt `intid` is passed to.
fn owner(intid: u32) -> Option<usize> {
    usize::from(place(intid)?.load(Ordering::Relaxed)).checked_sub(1)
}

/// Takes physical interrupt `intid`, which has been acknowledged, if it is a passed device's: gives whose, and the vCPUs that must look.
/// It stays active; that is the guest's now.
pub(crate) fn take(intid: u32) -> Option<(&'static Vm, Vcpus)> {
    let vm = vm::find(owner(intid)? as u64)?;
    Some((vm, vm.dist.fire(intid)))
}
