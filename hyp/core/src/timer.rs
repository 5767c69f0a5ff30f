//! The physical timer of EL1 (`CNTP_*`, PPI 30), emulated: the real one is not switched with the vCPU, and EL2's own timer
//! stands in for it.

/// A register of the physical timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// `CNTP_CTL_EL0`.
    Ctl,
    /// `CNTP_CVAL_EL0`.
    Cval,
    /// `CNTP_TVAL_EL0`.
    Tval,
}

const ENABLE: u64 = 1 << 0;
const IMASK: u64 = 1 << 1;
const ISTATUS: u64 = 1 << 2;

/// One vCPU's physical timer. Times are in ticks of `CNTPCT_EL0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalTimer {
    ctl: u64,
    cval: u64,
}

impl PhysicalTimer {
    /// Off, as after `CPU_ON`.
    #[must_use]
    pub const fn new() -> Self {
        Self { ctl: 0, cval: 0 }
    }

    /// Whether it is off: it will not interrupt.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.ctl & ENABLE == 0
    }

    /// What a read gives at time `now`. DDI 0487 CNTP_TVAL_EL0: 32 bits of what is left.
    #[must_use]
    pub const fn read(&self, register: Register, now: u64) -> u64 {
        match register {
            Register::Ctl if self.ctl & ENABLE != 0 && now >= self.cval => self.ctl | ISTATUS,
            Register::Ctl => self.ctl,
            Register::Cval => self.cval,
            Register::Tval => self.cval.wrapping_sub(now) & 0xFFFF_FFFF,
        }
    }

    /// A write of `value` at time `now`. DDI 0487 CNTP_TVAL_EL0: the value is a signed 32-bit number of ticks from now.
    pub const fn write(&mut self, register: Register, value: u64, now: u64) {
        match register {
            Register::Ctl => self.ctl = value & (ENABLE | IMASK),
            Register::Cval => self.cval = value,
            Register::Tval => self.cval = now.wrapping_add(value as i32 as i64 as u64),
        }
    }

    /// The level of its interrupt at time `now`.
    #[must_use]
    pub const fn line(&self, now: u64) -> bool {
        self.ctl & (ENABLE | IMASK) == ENABLE && now >= self.cval
    }

    /// When its interrupt rises; `None` while it is off or masked, or has risen.
    #[must_use]
    pub const fn due(&self, now: u64) -> Option<u64> {
        if self.ctl & (ENABLE | IMASK) == ENABLE && now < self.cval {
            Some(self.cval)
        } else {
            None
        }
    }
}

/// When a virtual timer with this `CNTV_CTL_EL0` and `CNTV_CVAL_EL0` fires, by the physical counter, of which the virtual one is `offset`
/// less; `None` while it is off or masked, and for what that counter never reaches: the comparison is unsigned (DDI 0487 CNTV_CVAL_EL0).
#[must_use]
#[inline]
pub const fn virtual_due(ctl: u64, cval: u64, offset: u64) -> Option<u64> {
    if ctl & (ENABLE | IMASK) == ENABLE {
        cval.checked_add(offset)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_timer_fires_by_the_physical_counter_or_never() {
        assert_eq!(virtual_due(ENABLE, 100, 7), Some(107));
        assert_eq!(virtual_due(ENABLE | ISTATUS, 0, 7), Some(7));
        assert_eq!(virtual_due(0, 100, 7), None);
        assert_eq!(virtual_due(ENABLE | IMASK, 100, 7), None);
        // Software that waits for nothing writes all ones: not a moment that has passed.
        assert_eq!(virtual_due(ENABLE, u64::MAX, 7), None);
        assert_eq!(virtual_due(ENABLE, u64::MAX, 0), Some(u64::MAX));
    }

    #[test]
    fn a_timer_that_is_off_says_nothing() {
        let mut timer = PhysicalTimer::new();
        timer.write(Register::Cval, 10, 0);
        assert!(timer.is_off());
        assert_eq!((timer.line(20), timer.due(0), timer.read(Register::Ctl, 20)), (false, None, 0));
    }

    #[test]
    fn the_line_is_high_from_the_compare_value_on() {
        let mut timer = PhysicalTimer::new();
        timer.write(Register::Cval, 100, 0);
        timer.write(Register::Ctl, 0xFF, 0);
        assert_eq!(timer.read(Register::Ctl, 0), ENABLE | IMASK, "the status is not to be written");
        timer.write(Register::Ctl, ENABLE, 0);
        assert!(!timer.is_off());
        assert_eq!((timer.line(99), timer.due(99)), (false, Some(100)));
        assert_eq!((timer.line(100), timer.due(100)), (true, None));
        assert_eq!(timer.read(Register::Ctl, 100), ENABLE | ISTATUS);
    }

    #[test]
    fn a_masked_timer_shows_its_status_and_keeps_its_line_low() {
        let mut timer = PhysicalTimer::new();
        timer.write(Register::Ctl, ENABLE | IMASK, 0);
        assert_eq!((timer.line(5), timer.due(5)), (false, None));
        assert_eq!(timer.read(Register::Ctl, 5), ENABLE | IMASK | ISTATUS);
    }

    #[test]
    fn tval_counts_from_now_in_both_directions() {
        let mut timer = PhysicalTimer::new();
        timer.write(Register::Tval, 50, 1000);
        assert_eq!(timer.read(Register::Cval, 1000), 1050);
        assert_eq!(timer.read(Register::Tval, 1040), 10);
        timer.write(Register::Tval, 0xFFFF_FFFF, 1000);
        assert_eq!(timer.read(Register::Cval, 1000), 999);
        assert_eq!(timer.read(Register::Tval, 1000), 0xFFFF_FFFF);
    }
}
