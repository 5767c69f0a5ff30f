//! Breakpoints and watchpoints of a vCPU. They are in hardware only while the vCPU may use them: from its first access after
//! it came to its pCPU, or from its coming if `MDSCR_EL1` enables any debug event. A guest that does not debug costs nothing.
//!
//! EL2 takes no debug exception: `MDCR_EL2.TDE` is 0, so they are EL1's, and from EL2 none is generated (DDI 0487, Enabling debug exceptions).
//! What belongs to an external debugger is not switched. Where FEAT_FGT is, the communications channel, the claim tags and
//! `OSECCR_EL1` trap for ever and read as [`hyp_core::idreg`] says; elsewhere `OSECCR_EL1` cannot be written, because a guest's OS
//! lock is never locked, and the claim tags, which some emulated machines do not have, are the pCPU's.

use core::arch::asm;

use hyp_core::policy::MDCR_TDA;

/// The most breakpoints, and the most watchpoints, that a PE has.
const MOST: usize = 16;
/// Bytes of the three instructions that move one pair.
const PAIR: usize = 12;

/// The debug registers of one vCPU but `MDSCR_EL1`.
pub(crate) struct Debug {
    /// Hardware has them, and accesses do not trap.
    loaded: bool,
    /// None has been written since it was made; what is below does not count.
    new: bool,
    /// `DBGBVR<n>_EL1` and `DBGBCR<n>_EL1`.
    breakpoints: [[u64; 2]; MOST],
    /// `DBGWVR<n>_EL1` and `DBGWCR<n>_EL1`.
    watchpoints: [[u64; 2]; MOST],
}

/// How many breakpoints and watchpoints this pCPU has.
fn counts() -> (usize, usize) {
    let dfr0 = mrs!("id_aa64dfr0_el1");
    ((dfr0 >> 12 & 0xF) as usize + 1, (dfr0 >> 20 & 0xF) as usize + 1)
}

/// The first `count` pairs of registers, by the number in their names: a branch into a row of accesses that ends with number 0.
/// `ID_AA64DFR0_EL1` says that they are there.
macro_rules! pairs {
    ($read:ident, $write:ident, $value:literal, $control:literal: $($n:literal)*) => {
        #[inline(never)]
        fn $read(count: usize, pairs: &mut [[u64; 2]; MOST]) {
            // SAFETY: Reading debug registers has no side effect, and they go to their places in `pairs`.
            unsafe {
                asm!(
                    "adr {to}, 2f", "add {to}, {to}, {others}", "br {to}", "2:",
                    $(
                        concat!("mrs {value}, ", $value, $n, "_el1"), concat!("mrs {control}, ", $control, $n, "_el1"),
                        concat!("stp {value}, {control}, [{pairs}, #16 * ", $n, "]"),
                    )*
                    others = in(reg) (MOST - count.min(MOST)) * PAIR, pairs = in(reg) pairs, to = out(reg) _, value = out(reg) _, control = out(reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }

        #[inline(never)]
        fn $write(count: usize, pairs: &[[u64; 2]; MOST]) {
            // SAFETY: They are the guest's own, whose places in `pairs` are read; EL2 takes no debug exception.
            unsafe {
                asm!(
                    "adr {to}, 2f", "add {to}, {to}, {others}", "br {to}", "2:",
                    $(
                        concat!("ldp {value}, {control}, [{pairs}, #16 * ", $n, "]"),
                        concat!("msr ", $value, $n, "_el1, {value}"), concat!("msr ", $control, $n, "_el1, {control}"),
                    )*
                    others = in(reg) (MOST - count.min(MOST)) * PAIR, pairs = in(reg) pairs, to = out(reg) _, value = out(reg) _, control = out(reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }
    };
}

pairs!(read_breakpoints, write_breakpoints, "dbgbvr", "dbgbcr": 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0);
pairs!(read_watchpoints, write_watchpoints, "dbgwvr", "dbgwcr": 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0);

impl Debug {
    /// As a vCPU finds them at its first instruction: none is enabled.
    pub(crate) const fn new() -> Self {
        Self {
            loaded: false,
            new: true,
            breakpoints: [[0; 2]; MOST],
            watchpoints: [[0; 2]; MOST],
        }
    }

    /// As [`new`](Self::new): hardware does not have them, and the vCPU's next access begins with none enabled.
    pub(crate) fn reset(&mut self) {
        self.loaded = false;
        self.new = true;
    }

    /// Takes the registers out of hardware, if they are there. The next vCPU's accesses trap again.
    pub(crate) fn save(&mut self) {
        if !core::mem::take(&mut self.loaded) {
            return;
        }
        let (breakpoints, watchpoints) = counts();
        read_breakpoints(breakpoints, &mut self.breakpoints);
        read_watchpoints(watchpoints, &mut self.watchpoints);
    }

    /// Puts the registers into hardware, where the vCPU reaches them from its next instruction on. `false`: they are there.
    pub(crate) fn load(&mut self) -> bool {
        if core::mem::replace(&mut self.loaded, true) {
            return false;
        }
        if core::mem::take(&mut self.new) {
            *self = Self {
                loaded: true,
                new: false,
                ..Self::new()
            };
        }
        let (breakpoints, watchpoints) = counts();
        write_breakpoints(breakpoints, &self.breakpoints);
        write_watchpoints(watchpoints, &self.watchpoints);
        // No interrupt by the communications channel, and no locked OS lock, which would hold back every debug exception.
        msr!("mdccint_el1", 0);
        msr!("oslar_el1", 0);
        msr!("mdcr_el2", mrs!("mdcr_el2") & !MDCR_TDA);
        true
    }
}
