//! Errors that carry the tool's exit status.

use std::fmt;

/// All is well.
pub(crate) const OK: u8 = 0;
/// A VM crashed or was refused, numbers disagree, a test failed, or a build did.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage, a wrong VM file, or a tool that is missing on this machine.
pub(crate) const USAGE: u8 = 2;
/// The run did not end in time.
pub(crate) const TIMEOUT: u8 = 3;
/// Ctrl-C, by the shells' convention.
pub(crate) const INTERRUPTED: u8 = 130;

/// An error with an exit status of its own; every other error ends the tool with [`FAILED`].
#[derive(Debug)]
pub(crate) struct Fail {
    /// The tool's exit status.
    pub(crate) status: u8,
    message: String,
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fail {}

/// A mistake in what the user gave us, or something missing that the user can get: status 2.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Fail {
        status: USAGE,
        message: message.into(),
    }
    .into()
}

/// The status that `error` ends the tool with.
pub(crate) fn status_of(error: &anyhow::Error) -> u8 {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Fail>())
        .map_or(FAILED, |fail| fail.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_status_survives_context() {
        let error = Err::<(), _>(usage("no such file")).context("reading a.toml").expect_err("an error");
        assert_eq!(status_of(&error), USAGE);
        assert_eq!(status_of(&anyhow::anyhow!("other")), FAILED);
    }
}
