//! What a vCPU has in registers that EL2 does not use: moved only when a vCPU leaves its pCPU or comes to it.

use core::{arch::global_asm, mem::MaybeUninit};

use super::debug::Debug;
use hyp_core::{
    crash::El1,
    inject::Injected,
    policy::{El1State, MDSCR_EVENTS},
    timer::virtual_due,
};

global_asm!(include_str!("fp.s"));

unsafe extern "C" {
    fn fp_save(to: *mut Fp);
    fn fp_load(from: *const Fp);
}

/// FP and SIMD registers, as `fp.s` lays them out.
#[repr(C, align(16))]
pub(crate) struct Fp {
    q: [u128; 32],
    control: [u64; 2],
}

/// FP and SIMD registers as a vCPU finds them at its first instruction: zeroes, which take no room in the image here.
#[unsafe(link_section = ".bss.no_fp")]
static NO_FP: Fp = Fp {
    q: [0; 32],
    control: [0; 2],
};

const _: () = assert!(size_of::<Fp>() == 528, "fp.s uses this layout");

macro_rules! el1_registers {
    ($($name:ident => $reg:literal),*; $timer:ident => $control:literal) => {
        /// Reads them all: a field that is not listed below does not compile.
        fn save_el1() -> El1State {
            El1State { $($name: mrs!($reg),)* $timer: mrs!($control) }
        }

        /// Writes them all but the virtual timer's control register.
        #[inline(always)]
        fn load_el1(state: &El1State) {
            $(msr!($reg, state.$name);)*
        }
    };
}

el1_registers! {
    sp_el0 => "sp_el0",
    sp_el1 => "sp_el1",
    elr_el1 => "elr_el1",
    spsr_el1 => "spsr_el1",
    esr_el1 => "esr_el1",
    far_el1 => "far_el1",
    afsr0_el1 => "afsr0_el1",
    afsr1_el1 => "afsr1_el1",
    vbar_el1 => "vbar_el1",
    sctlr_el1 => "sctlr_el1",
    ttbr0_el1 => "ttbr0_el1",
    ttbr1_el1 => "ttbr1_el1",
    tcr_el1 => "tcr_el1",
    mair_el1 => "mair_el1",
    amair_el1 => "amair_el1",
    contextidr_el1 => "contextidr_el1",
    par_el1 => "par_el1",
    cpacr_el1 => "cpacr_el1",
    csselr_el1 => "csselr_el1",
    mdscr_el1 => "mdscr_el1",
    cntkctl_el1 => "cntkctl_el1",
    tpidr_el0 => "tpidr_el0",
    tpidrro_el0 => "tpidrro_el0",
    tpidr_el1 => "tpidr_el1",
    cntv_cval_el0 => "cntv_cval_el0";
    cntv_ctl_el0 => "cntv_ctl_el0"
}

/// All of a vCPU's EL1 state but its general-purpose registers and its CPU interface.
///
/// In this order what is made is not next to what is not: the compiler copies it without `fp`.
#[repr(C)]
pub(crate) struct Context {
    el1: El1State,
    debug: Debug,
    /// It has not been in the registers since it was made: of the rest only this and the virtual timer's control count.
    new: bool,
    big_endian: bool,
    /// Nothing as long as it is new, and until it has been saved.
    fp: MaybeUninit<Fp>,
}

impl Context {
    /// As a vCPU finds it at its first instruction.
    pub(crate) const fn new() -> Self {
        Self {
            el1: El1State::at_entry(false),
            fp: MaybeUninit::uninit(),
            debug: Debug::new(),
            new: true,
            big_endian: false,
        }
    }

    /// Every register as a vCPU finds it at its first instruction.
    pub(crate) fn reset(&mut self, big_endian: bool) {
        self.big_endian = big_endian;
        self.el1.cntv_ctl_el0 = 0;
        self.debug.reset();
        self.new = true;
    }

    /// Whether it has been in no registers since it was made.
    pub(crate) const fn is_new(&self) -> bool {
        self.new
    }

    /// Its pCPU's registers keep the state, but the virtual timer is turned off.
    pub(crate) fn pause(&mut self) {
        self.el1.cntv_cval_el0 = mrs!("cntv_cval_el0");
        self.el1.cntv_ctl_el0 = mrs!("cntv_ctl_el0");
        msr!("cntv_ctl_el0", 0);
    }

    /// After [`Context::load`], or [`Context::pause`] with nothing else in the registers since: the virtual timer is as it was. Behind an `ISB`,
    /// so that it is not on with another vCPU's compare value or another VM's offset, and when the physical interrupt is active if the vCPU has the
    /// virtual one, so that it does not come for what the vCPU has.
    pub(crate) fn resume(&self) {
        msr!("cntv_ctl_el0", self.el1.cntv_ctl_el0);
    }

    /// Takes the state out of the registers, and turns the virtual timer off: it is the next vCPU's.
    pub(crate) fn save(&mut self) {
        self.el1 = save_el1();
        msr!("cntv_ctl_el0", 0);
        self.debug.save();
        // SAFETY: `Fp` has the layout that fp.s writes; FP accesses do not trap at EL2 (CPTR_EL2.TFP is 0).
        unsafe { fp_save(self.fp.as_mut_ptr()) };
    }

    /// Gives the resident vCPU, which is about to use them, its debug registers. `false`: it has them.
    pub(crate) fn use_debug(&mut self) -> bool {
        self.debug.load()
    }

    /// [`virtual_due`] of a vCPU that is not resident.
    pub(crate) const fn timer_due(&self, offset: u64) -> Option<u64> {
        virtual_due(self.el1.cntv_ctl_el0, self.el1.cntv_cval_el0, offset)
    }

    /// Puts the state into the registers. The virtual timer stays off.
    pub(crate) fn load(&mut self) {
        msr!("cntv_ctl_el0", 0);
        let fp = if core::mem::take(&mut self.new) {
            // All but one are zeroes, which come from no memory.
            load_el1(&El1State::at_entry(self.big_endian));
            &raw const NO_FP
        } else {
            load_el1(&self.el1);
            if self.el1.mdscr_el1 & MDSCR_EVENTS != 0 {
                self.debug.load();
            }
            self.fp.as_ptr()
        };
        // SAFETY: As for save; only reads memory, and EL2 is built without FP registers. `self.fp` has been written: a context that is
        // neither new nor kept in the registers (`Run::load`) left them by `save`.
        unsafe { fp_load(fp) };
    }
}

/// Gives the resident guest an exception: EL1's part of it.
pub(crate) fn inject(exception: &Injected) {
    msr!("esr_el1", exception.esr);
    if let Some(far) = exception.far {
        msr!("far_el1", far);
    }
    msr!("elr_el1", exception.elr);
    msr!("spsr_el1", exception.spsr);
}

/// `VBAR_EL1` of the resident guest.
pub(crate) fn guest_vectors() -> u64 {
    mrs!("vbar_el1")
}

/// `SCTLR_EL1` of the resident guest.
pub(crate) fn guest_sctlr() -> u64 {
    mrs_apart!("sctlr_el1")
}

/// EL1's own registers, for the report of a crash.
pub(crate) fn for_report() -> El1 {
    El1 {
        sp_el0: mrs!("sp_el0"),
        sp_el1: mrs!("sp_el1"),
        elr: mrs!("elr_el1"),
        spsr: mrs!("spsr_el1"),
        esr: mrs!("esr_el1"),
        far: mrs!("far_el1"),
        vbar: guest_vectors(),
        sctlr: guest_sctlr(),
    }
}
