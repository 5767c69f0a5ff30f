//! Breakpoints and watchpoints of a vCPU. They are in hardware only while the vCPU may use them: from its first access after
//! it came to its pCPU, or from its coming if `MDSCR_EL1` enables any debug event. A guest that does not debug costs nothing.
//!
//! EL2 takes no debug exception: `MDCR_EL2.TDE` is 0, so they are EL1's, and from EL2 none is generated (DDI 0487, Enabling debug exceptions).
//! What belongs to an external debugger is not switched. Where FEAT_FGT is, the communications channel, the claim tags and
//! `OSECCR_EL1` trap for ever and read as [`hyp_core::idreg`] says; elsewhere `OSECCR_EL1` cannot be written, because a guest's OS
//! lock is never locked, and the claim tags, which some emulated machines do not have, are the pCPU's.

use hyp_core::policy::MDCR_TDA;

/// The most breakpoints, and the most watchpoints, that a PE has.
const MOST: usize = 16;

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

/// A pair of registers, by the number in their names. It is there: `ID_AA64DFR0_EL1` says so.
macro_rules! pairs {
    ($read:ident, $write:ident, $value:literal, $control:literal: $($n:literal)*) => {
        fn $read(count: usize, pairs: &mut [[u64; 2]; MOST]) {
            for (n, pair) in pairs.iter_mut().enumerate().take(count) {
                match n {
                    $($n => *pair = [mrs!($value $n "_el1"), mrs!($control $n "_el1")],)*
                    _ => {}
                }
            }
        }

        fn $write(count: usize, pairs: &[[u64; 2]; MOST]) {
            for (n, [value, control]) in pairs.iter().enumerate().take(count) {
                match n {
                    $($n => {
                        msr!($value $n "_el1", *value);
                        msr!($control $n "_el1", *control);
                    })*
                    _ => {}
                }
            }
        }
    };
}

pairs!(read_breakpoints, write_breakpoints, "dbgbvr", "dbgbcr": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
pairs!(read_watchpoints, write_watchpoints, "dbgwvr", "dbgwcr": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

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
