//! One readable page when a vCPU cannot go on, and when EL2 itself cannot.
use crate::esr::Esr;
use crate::inject::CrashReason;
use crate::regs::cpu::SPSR_EL2;
use crate::text::{Shown, Sink, Text, Value};
use crate::types::Ipa;
use crate::{put, text};

/// What the registers held at a guest's crash. Its `Display` is the report.
#[derive(Clone, Copy, Debug)]
pub struct GuestCrash<'a> {
    /// Name of the VM.
    pub vm: &'a str,
    /// The VM's number.
    pub vm_id: u32,
    /// The vCPU's number.
    pub vcpu: u32,
    /// The pCPU it ran on.
    pub pcpu: u32,
    /// Why it cannot go on.
    pub reason: CrashReason,
    /// `ESR_EL2`.
    pub esr: u64,
    /// `ELR_EL2`.
    pub pc: u64,
    /// `SPSR_EL2`.
    pub pstate: u64,
    /// `FAR_EL2`.
    pub far: u64,
    /// The IPA of the fault, where one is known.
    pub ipa: Option<Ipa>,
    /// x0 to x30.
    pub x: &'a [u64; 31],
    /// What EL1 had saved of its own last exception.
    pub el1: El1,
}

/// EL1's own registers in a report.
#[derive(Clone, Copy, Debug, Default)]
pub struct El1 {
    /// `SP_EL0`.
    pub sp_el0: u64,
    /// `SP_EL1`.
    pub sp_el1: u64,
    /// `ELR_EL1`.
    pub elr: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`.
    pub far: u64,
    /// `VBAR_EL1`.
    pub vbar: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
}

impl Shown for GuestCrash<'_> {
    fn show(&self, f: &mut dyn Sink) {
        put!(
            f,
            "VM {} ({}) crashed: {}\n  vCPU {} on pCPU {}\n",
            self.vm_id,
            self.vm,
            self.reason.text(),
            self.vcpu,
            self.pcpu
        );
        let ipa = match self.ipa {
            Some(ipa) => text!("IPA   {:#018x}", ipa.get()),
            None => text!("IPA   unknown"),
        };
        Exception {
            pc: self.pc,
            esr: self.esr,
            far: self.far,
            pstate: self.pstate,
            besides: ipa,
        }
        .put(f);
        general(f, self.x);
        let el1 = &self.el1;
        put!(
            f,
            "  SP_EL0 {:#018x}  SP_EL1 {:#018x}\n  VBAR_EL1 {:#018x}  SCTLR_EL1 {:#018x}\n  ELR_EL1 {:#018x}  SPSR_EL1 {:#x}  FAR_EL1 {:#018x}\n  ESR_EL1 {:#018x}  {}\n  What to do next: {}\n",
            el1.sp_el0,
            el1.sp_el1,
            el1.vbar,
            el1.sctlr,
            el1.elr,
            el1.spsr,
            el1.far,
            el1.esr,
            Value::Of(&Esr::new(el1.esr)),
            self.advice()
        );
    }
}

crate::shown!(GuestCrash<'_>);

impl GuestCrash<'_> {
    fn advice(&self) -> &'static str {
        match self.reason {
            CrashReason::VectorFault => {
                "it took an exception while VBAR_EL1 was not in its memory. ELR_EL1, ESR_EL1 and FAR_EL1 say which; look ELR_EL1 up in its symbols."
            }
            CrashReason::RepeatedAbort => {
                "compare the IPA with the VM's RAM and devices: it may need more RAM, or has no such device. Look the PC up in its symbols."
            }
            CrashReason::SError => {
                "the machine reported an error, often of a write where nothing is. Look for a wrong device or RAM address."
            }
            CrashReason::Unexpected => "no guest can cause this exception class here. Report it with this page and the machine's name.",
        }
    }
}

/// An exception to EL2, and a line besides.
struct Exception<'a> {
    pc: u64,
    esr: u64,
    far: u64,
    pstate: u64,
    besides: Text<'a>,
}

impl Exception<'_> {
    fn put(&self, out: &mut dyn Sink) {
        put!(
            out,
            "  PC    {:#018x}\n  ESR   {:#018x}  {}\n  FAR   {:#018x}\n  {}\n  SPSR  {:#018x}  {}\n",
            self.pc,
            self.esr,
            Value::Of(&Esr::new(self.esr)),
            self.far,
            Value::Of(&self.besides),
            self.pstate,
            Value::Of(&Pstate(self.pstate))
        );
    }
}

/// x0 to x30, three to a line.
fn general(out: &mut dyn Sink, x: &[u64; 31]) {
    for (n, value) in x.iter().enumerate() {
        let pad = if n < 10 { " " } else { "" };
        let end = if n % 3 == 2 || n == 30 { "\n" } else { "" };
        put!(out, "  x{}{} {:#018x}{}", n, pad, *value, end);
    }
}

/// A saved program status in words.
struct Pstate(u64);

impl Shown for Pstate {
    fn show(&self, f: &mut dyn Sink) {
        f.words(mode(self.0));
        // NZCV are bits 31 to 28, DAIF bits 9 to 6.
        for (n, name) in b"NZCV".iter().enumerate() {
            if self.0 << n & SPSR_EL2::N::SET.value != 0 {
                f.byte(b' ');
                f.byte(*name);
            }
        }
        for (bit, name) in [
            (SPSR_EL2::PAN::SET.value, " PAN"),
            (SPSR_EL2::IL::SET.value, " IL"),
            (SPSR_EL2::SS::SET.value, " SS"),
        ] {
            if self.0 & bit != 0 {
                f.words(name);
            }
        }
        f.words(", masked: ");
        for (n, name) in b"DAIF".iter().enumerate() {
            let masked = self.0 << n & SPSR_EL2::D::SET.value != 0;
            f.byte(if masked { *name } else { b'-' });
        }
    }
}

crate::shown!(Pstate);

fn mode(pstate: u64) -> &'static str {
    if pstate & SPSR_EL2::NRW::SET.value != 0 {
        return "AArch32";
    }
    match pstate & 0xf {
        0b0000 => "EL0",
        0b0100 => "EL1 on SP_EL0",
        0b0101 => "EL1",
        0b1000 => "EL2 on SP_EL0",
        0b1001 => "EL2",
        _ => "reserved mode",
    }
}

/// What went wrong at EL2.
#[derive(Clone, Copy)]
pub enum El2Failure<'a> {
    /// A panic.
    Panic {
        /// Its message.
        message: &'a dyn Shown,
        /// File, line.
        location: Option<(&'a str, u32)>,
    },
    /// The stack ran into its guard page.
    GuardPage,
    /// Any other exception taken from EL2 to EL2.
    Exception,
}

/// What the registers held when EL2 failed. Its `Display` is the report.
#[derive(Clone, Copy)]
pub struct El2Crash<'a> {
    /// What went wrong.
    pub failure: El2Failure<'a>,
    /// The pCPU.
    pub pcpu: u32,
    /// The registers, when an exception was taken.
    pub state: Option<El2State<'a>>,
}

/// EL2's registers at an exception from EL2.
#[derive(Clone, Copy, Debug)]
pub struct El2State<'a> {
    /// `ESR_EL2`.
    pub esr: u64,
    /// `ELR_EL2`.
    pub elr: u64,
    /// `SPSR_EL2`.
    pub spsr: u64,
    /// `FAR_EL2`.
    pub far: u64,
    /// Stack pointer at the exception.
    pub sp: u64,
    /// Where the image was loaded: `elr - base` is an address in its symbols.
    pub image_base: u64,
    /// x0 to x30, if they could be saved.
    pub x: Option<&'a [u64; 31]>,
}

impl Shown for El2Crash<'_> {
    fn show(&self, f: &mut dyn Sink) {
        let advice = match self.failure {
            El2Failure::Panic { message, location } => {
                put!(f, "hypervisor panic on pCPU {}: {}\n", self.pcpu, Value::Of(message));
                if let Some((file, line)) = location {
                    put!(f, "  at {}:{}\n", file, line);
                }
                "no guest may cause this. Report it with this page and what guests were doing."
            }
            El2Failure::GuardPage => {
                put!(
                    f,
                    "hypervisor stack overflow on pCPU {}: the stack ran into its guard page\n",
                    self.pcpu
                );
                "look the image offset up in the symbols: a recursion, or a large array on the stack."
            }
            El2Failure::Exception => {
                put!(f, "hypervisor exception on pCPU {}\n", self.pcpu);
                "look the image offset up in the symbols (addr2line), and report it with this page."
            }
        };
        if let Some(state) = &self.state {
            Exception {
                pc: state.elr,
                esr: state.esr,
                far: state.far,
                pstate: state.spsr,
                besides: text!(
                    "SP    {:#018x}, and the PC is at image offset {:#x}",
                    state.sp,
                    state.elr.wrapping_sub(state.image_base)
                ),
            }
            .put(f);
            if let Some(x) = state.x {
                general(f, x);
            }
        }
        put!(f, "  What to do next: {}\n", advice);
    }
}

crate::shown!(El2Crash<'_>);

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(reason: CrashReason, x: &[u64; 31]) -> GuestCrash<'_> {
        GuestCrash {
            vm: "demo",
            vm_id: 1,
            vcpu: 2,
            pcpu: 3,
            reason,
            // A store of w1 to nowhere.
            esr: 0x9380_0000 | 1 << 24 | 1 << 16 | 1 << 6 | 0x07,
            pc: 0x4008_0123,
            pstate: 0x6000_03c5,
            far: 0xffff_0000_dead_bee0,
            ipa: Some(Ipa::new(0xdead_bee0)),
            x,
            el1: El1 {
                elr: 0x4008_0200,
                esr: 0x5600_0000,
                ..El1::default()
            },
        }
    }

    #[test]
    fn a_guests_report_names_who_where_and_why() {
        let x: [u64; 31] = core::array::from_fn(|n| 0x100 + n as u64);
        let text = guest(CrashReason::RepeatedAbort, &x).to_string();
        for part in [
            "VM 1 (demo) crashed: the same abort came twice",
            "vCPU 2 on pCPU 3",
            "PC    0x0000000040080123",
            "data abort from a lower EL, translation fault, level 3, write, 4 bytes, w1",
            "FAR   0xffff0000deadbee0",
            "IPA   0x00000000deadbee0",
            "EL1 Z C, masked: DAIF",
            "  x0  0x0000000000000100  x1  0x0000000000000101  x2  0x0000000000000102\n",
            "  x9  0x0000000000000109  x10 0x000000000000010a  x11 0x000000000000010b\n",
            "x30 0x000000000000011e",
            "ELR_EL1 0x0000000040080200",
            "SVC",
            "What to do next: compare the IPA",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_report_fits_one_page_and_every_reason_has_advice() {
        for reason in [
            CrashReason::VectorFault,
            CrashReason::RepeatedAbort,
            CrashReason::SError,
            CrashReason::Unexpected,
        ] {
            let text = guest(reason, &[u64::MAX; 31]).to_string();
            assert!(text.lines().count() <= 25, "{} lines", text.lines().count());
            assert!(text.ends_with(".\n"));
            assert!(text.is_ascii());
        }
        let unknown = GuestCrash {
            ipa: None,
            ..guest(CrashReason::SError, &[0; 31])
        };
        assert!(unknown.to_string().contains("IPA   unknown"));
    }

    #[test]
    fn a_stack_overflow_names_the_pcpu_and_the_guard_page() {
        let state = El2State {
            esr: 0x9600_0047,
            elr: 0x4020_1234,
            spsr: 0x3c9,
            far: 0x4030_0ff0,
            sp: 0x4030_0ff0,
            image_base: 0x4020_0000,
            x: None,
        };
        let text = El2Crash {
            failure: El2Failure::GuardPage,
            pcpu: 4,
            state: Some(state),
        }
        .to_string();
        for part in [
            "pCPU 4",
            "guard page",
            "image offset 0x1234",
            "data abort from the same EL",
            "EL2, masked: DAIF",
            "What to do next",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_panic_has_its_message_and_place() {
        let failure = El2Failure::Panic {
            message: &text!("index 4 of 4"),
            location: Some(("hyp/src/trap.rs", 7)),
        };
        let text = El2Crash {
            failure,
            pcpu: 0,
            state: None,
        }
        .to_string();
        assert!(
            text.starts_with("hypervisor panic on pCPU 0: index 4 of 4\n  at hyp/src/trap.rs:7\n"),
            "{text}"
        );
        let text = El2Crash {
            failure: El2Failure::Exception,
            pcpu: 1,
            state: None,
        }
        .to_string();
        assert!(text.starts_with("hypervisor exception on pCPU 1\n"));
    }

    #[test]
    fn every_saved_status_can_be_printed() {
        for m in 0..32 {
            assert!(!Pstate(m).to_string().is_empty());
        }
        assert_eq!(Pstate(0x10).to_string(), "AArch32, masked: ----");
        assert_eq!(Pstate(0x9060_0084).to_string(), "EL1 on SP_EL0 N V PAN SS, masked: --I-");
    }
}
