//! How large EL2's stacks are in optimised images; without optimisation every temporary has its place, and they are larger. xtask holds
//! them against their deepest paths. The boot CPU's is the linker script's.

/// Bytes of a pCPU's stack.
pub const PCPU: u64 = 11 << 9;
/// Bytes of the stack that a fault at EL2 has.
pub const EMERGENCY: u64 = 5 << 9;
