//! How several consoles share one wire.
//!
//! With the multiplexer on (`umbra,console-mux` in `/chosen`), the byte [`ESCAPE`] is a prefix: `ESCAPE ESCAPE` is that
//! byte itself, and `ESCAPE (CHANNEL_BASE + n)` says that what follows comes from channel `n`. Channel [`UMBRA`] is
//! Umbra's own; channel `1 + vm` is a VM's PL011. A guest's own `ESCAPE` bytes are doubled, so it cannot speak for
//! another channel. Without the multiplexer the wire is plain text, and each line of a VM carries its name.
//!
//! On channel 0 a line that starts with [`RECORD_TAG`] is a record: a kind, then `key=value` pairs, separated by one space.

/// The prefix byte (ASCII SO).
pub const ESCAPE: u8 = 0x0E;
/// Channel 0's letter; channel `n` has the `n`th letter after it.
pub const CHANNEL_BASE: u8 = b'@';
/// Umbra's own channel.
pub const UMBRA: u8 = 0;
/// Starts a record of Umbra's.
pub const RECORD_TAG: &str = "@umbra ";
/// Starts a record of the host partition's program, on its own channel.
pub const HOST_TAG: &str = "@host ";
/// Starts a record of a guest of ours, on its own channel.
pub const GUEST_TAG: &str = "@guest ";
