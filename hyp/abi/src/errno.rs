//! The errno values that cross the host ABI, numbered as in Linux. Calls return them negated in `x0`.

/// Why a host call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Errno {
    /// There is no such call, or not for this VM (`EPERM`): the number is that of SMCCC's `NOT_SUPPORTED`.
    NotPermitted = 1,
    /// No such VM (`ENOENT`).
    NoEntry = 2,
    /// The wait ended because the host has a pending interrupt (`EINTR`).
    Interrupted = 4,
    /// No such attribute, register, or outstanding exit (`ENXIO`).
    NoDevice = 6,
    /// The argument list is longer or larger than the implementation takes (`E2BIG`).
    TooBig = 7,
    /// A pointer or an address leads nowhere (`EFAULT`).
    Fault = 14,
    /// In use: a vCPU's lock is held, the VM has run, or its vGIC is not initialised (`EBUSY`).
    Busy = 16,
    /// Already set (`EEXIST`).
    Exists = 17,
    /// A bad value (`EINVAL`).
    Invalid = 22,
    /// An exact read was not answered before its deadline (`ETIMEDOUT`).
    TimedOut = 110,
}

impl Errno {
    /// The value a call returns in `x0`: the negated number, sign-extended to 64 bits.
    #[must_use]
    pub const fn to_ret(self) -> u64 {
        (-(self as i64)) as u64
    }

    /// Reads a return value: `Ok` for zero and positive values, the errno for a known negative one.
    ///
    /// # Errors
    /// The errno that `x0` carries; an unknown negative value reads as [`Errno::Invalid`].
    pub const fn from_ret(x0: u64) -> Result<u64, Self> {
        let value = x0 as i64;
        if value >= 0 {
            return Ok(x0);
        }
        Err(match value.wrapping_neg() {
            1 => Self::NotPermitted,
            2 => Self::NoEntry,
            4 => Self::Interrupted,
            6 => Self::NoDevice,
            7 => Self::TooBig,
            14 => Self::Fault,
            16 => Self::Busy,
            17 => Self::Exists,
            110 => Self::TimedOut,
            _ => Self::Invalid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn every_errno_round_trips_through_x0() {
        assert_eq!(Errno::from_ret(crate::smccc::NOT_SUPPORTED), Err(Errno::NotPermitted));
        for errno in [
            Errno::NotPermitted,
            Errno::NoEntry,
            Errno::Interrupted,
            Errno::NoDevice,
            Errno::TooBig,
            Errno::Fault,
            Errno::Busy,
            Errno::Exists,
            Errno::Invalid,
            Errno::TimedOut,
        ] {
            assert_eq!(Errno::from_ret(errno.to_ret()), Err(errno));
        }
        assert_eq!(Errno::from_ret(7), Ok(7));
        assert_eq!(Errno::from_ret(i64::MIN as u64 + 1), Err(Errno::Invalid));
    }
}
