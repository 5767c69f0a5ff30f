//! The eight defects of the RFC "KVM: arm64: vgic-v3: Cache ICC_CTLR_EL1 and allow lockless read when ready", one test each.
//! The RFC names the right problem; this is where its mistakes must not come back.
#![cfg(not(loom))]

use hyp_abi::attr::{CPU_SYSREGS, ICC_CTLR, cpu_sysreg};
use hyp_abi::errno::Errno;
use hyp_abi::shadow::ShadowSlot;
use hyp_core::shadow::{Flags, Sample, ShadowWriter};
use hyp_core::vgic::attr::{Attribute, Register, find};
use hyp_core::vgic::cpuif::CpuIf;
use hyp_core::vgic::ctlr::CtlrView;
use hyp_core::vgic::vmcr::Vmcr;
use std::sync::Arc;
use std::thread;

/// QEMU's `ICH_VTR_EL2`.
const VTR: u64 = 0x90b8_0003;
/// What `ICC_CTLR_EL1` reads after reset there.
const RESET: u64 = 0x8c00;

fn view() -> CtlrView {
    CtlrView::new(VTR, 0)
}

fn cpuif() -> CpuIf {
    CpuIf::new(view())
}

/// What an exit publishes.
fn sample(view: &CtlrView, vmcr: Vmcr) -> Sample {
    Sample {
        ctlr: view.ctlr(vmcr),
        vmcr: vmcr.get(),
        ..Sample::default()
    }
}

#[test]
fn defect_1_the_uapi_attribute_finds_the_register_and_a_kernel_register_id_does_not() {
    let kernel = 3 << 19 | 12 << 12 | 12 << 8 | 4 << 5;
    assert_eq!(kernel, 0x18_cc80);
    assert_eq!(ICC_CTLR, 0xc664);
    let found = find(CPU_SYSREGS, cpu_sysreg(2, ICC_CTLR), 4, true);
    assert_eq!(
        found,
        Ok(Attribute::CpuSysreg {
            vcpu: 2,
            register: Register::Ctlr
        })
    );
    assert_eq!(find(CPU_SYSREGS, kernel, 4, true), Err(Errno::NoDevice));
}

#[test]
fn defect_2_values_are_64_bits_wide() {
    let mut cpuif = cpuif();
    // All 64 bits are an answer: the upper half is zero, not left over.
    assert_eq!(Register::Ctlr.get(&cpuif), Ok(0x0000_0000_0000_8c00_u64));
    // And all 64 are a question.
    assert_eq!(Register::Ctlr.set(&mut cpuif, 1 << 32 | RESET), Err(Errno::Invalid));
}

#[test]
fn defect_3_the_value_is_right_before_the_host_ever_wrote_it() {
    let slot = ShadowSlot::new();
    let mut writer = ShadowWriter::new();
    writer.set_template(&slot, &sample(&view(), Vmcr::reset(&view())));
    writer.mark_ready(&slot);
    assert_eq!(slot.template(), RESET);
    assert_eq!(slot.word().ctlr(), RESET);
    assert!(slot.word().ready() && slot.word().is_template());
    assert_eq!(slot.try_read().map(|record| record.ctlr()), Some(RESET));
}

#[test]
fn defect_4_an_untrapped_guest_write_is_in_the_shadow_after_the_next_exit_and_no_word_claims_it_sooner() {
    let slot = ShadowSlot::new();
    let mut writer = ShadowWriter::new();
    let reset = Vmcr::reset(&view());
    writer.set_template(&slot, &sample(&view(), reset));
    writer.mark_ready(&slot);
    assert!(slot.word().exact());
    writer.enter(&slot);
    // The guest writes EOImode and CBPR: that lands in ICH_VMCR_EL2 and nowhere else.
    let written = view().apply_write(reset, 3);
    assert!(
        !slot.word().exact(),
        "while the vCPU is in the guest the word is as of its last exit, and says so"
    );
    writer.publish(
        &slot,
        &sample(&view(), written),
        Flags {
            in_guest: true,
            trapped: false,
        },
    );
    assert_eq!(slot.word().ctlr(), RESET | 3);
    writer.leave(&slot, &sample(&view(), written));
    assert!(slot.word().exact());
}

#[test]
fn defect_5_whoever_sees_ready_sees_the_value() {
    let slot = Arc::new(ShadowSlot::new());
    let reader = thread::spawn({
        let slot = Arc::clone(&slot);
        move || {
            loop {
                if slot.word().ready() {
                    return (slot.word().ctlr(), slot.template());
                }
                thread::yield_now();
            }
        }
    });
    let mut writer = ShadowWriter::new();
    writer.set_template(&slot, &sample(&view(), Vmcr::reset(&view())));
    writer.mark_ready(&slot);
    assert_eq!(reader.join().expect("reader"), (RESET, RESET));
}

#[test]
fn defect_6_a_refused_write_has_changed_nothing() {
    // Each value has fields that would do and one that does not, whatever the order in which they are looked at.
    for refused in [
        0x0403, // narrower fields, then A3V differs
        0xc000, // narrower fields, then SEIS differs
        0x9003, // PRIbits narrower, IDbits too large
        0x8d03, // IDbits would do, PRIbits too large
        1 << 32 | 0x8003,
    ] {
        let mut cpuif = cpuif();
        assert_eq!(Register::Ctlr.set(&mut cpuif, refused), Err(Errno::Invalid), "{refused:#x}");
        assert_eq!(cpuif, self::cpuif(), "{refused:#x}");
    }
}

#[test]
fn defect_7_an_error_is_reported_as_it_is() {
    let attr = cpu_sysreg(0, ICC_CTLR);
    assert_eq!(find(CPU_SYSREGS, attr, 1, false), Err(Errno::Busy), "not initialised");
    assert_eq!(
        find(CPU_SYSREGS, cpu_sysreg(1, ICC_CTLR), 1, true),
        Err(Errno::Invalid),
        "no such vCPU"
    );
    assert_eq!(
        find(CPU_SYSREGS, cpu_sysreg(0, 0xc66f), 1, true),
        Err(Errno::NoDevice),
        "no such register"
    );
    assert_eq!(find(99, attr, 1, true), Err(Errno::NoDevice), "no such group");
    assert_eq!(Register::Ap1r3.get(&cpuif()), Err(Errno::Invalid), "not implemented");
}

#[test]
fn defect_8_guest_and_host_see_one_register() {
    for (vtr, physical) in [
        (VTR, 0),
        (VTR | 1 << 22, 0),
        (VTR & !(1 << 21), 1 << 18),
        (u64::MAX, u64::MAX),
        (0, 0),
    ] {
        let view = CtlrView::new(vtr, physical);
        for value in 0..4 {
            let mut cpuif = CpuIf::new(view);
            // As the guest reads it when the access traps, and from the hardware when it does not.
            cpuif.vmcr = view.apply_write(cpuif.vmcr, value);
            let guest = view.ctlr(cpuif.vmcr);
            let hardware = vtr >> 29 << 8 & 0x700
                | (vtr >> 23 & 7) << 11
                | (vtr >> 22 & 1) << 14
                | (vtr >> 21 & 1) << 15
                | physical & 0xc_0000
                | value;
            assert_eq!(guest, hardware);
            // As the host reads it: by attribute, and in the shadow.
            assert_eq!(Register::Ctlr.get(&cpuif), Ok(guest));
            let slot = ShadowSlot::new();
            let mut writer = ShadowWriter::new();
            writer.publish(&slot, &sample(&view, cpuif.vmcr), Flags::default());
            assert_eq!(
                (slot.word().ctlr(), slot.try_read().map(|record| record.ctlr())),
                (guest, Some(guest))
            );
        }
    }
}
