//! The same short boot on many machines: CPU, number of pCPUs, memory and kind of image, pairwise.
//!
//! Twelve boots cannot pair everything; these cover every CPU with small and large machines, every size of memory with
//! few and many pCPUs, and both kinds of image with each. Below two pCPUs there is no host partition.

use super::{Case, Guest};

/// CPU, pCPUs, MiB of RAM, whether the guest is given as an arm64 `Image` (else as an ELF).
const MACHINES: [(&str, &str, u32, u64, bool); 12] = [
    ("matrix-a53-1-256", "cortex-a53", 1, 256, false),
    ("matrix-a53-4-1024", "cortex-a53", 4, 1024, true),
    ("matrix-a53-8-4096", "cortex-a53", 8, 4096, false),
    ("matrix-a57-2-256", "cortex-a57", 2, 256, true),
    ("matrix-a57-8-1024", "cortex-a57", 8, 1024, false),
    ("matrix-a72-1-4096", "cortex-a72", 1, 4096, true),
    ("matrix-a72-8-256", "cortex-a72", 8, 256, true),
    ("matrix-n1-2-1024", "neoverse-n1", 2, 1024, false),
    ("matrix-n1-4-256", "neoverse-n1", 4, 256, false),
    ("matrix-n1-8-4096", "neoverse-n1", 8, 4096, true),
    ("matrix-max-1-1024", "max", 1, 1024, true),
    ("matrix-max-4-4096", "max", 4, 4096, false),
];

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let boot = |(name, cpu, smp, mib, image): (&'static str, &'static str, u32, u64, bool)| {
        // One pCPU has no room for a host partition; eight have room for the demo.
        let guest = match smp {
            1 => Guest::new("hello", ""),
            2..5 => Guest::new("hello", "").vcpus(smp - 1).forward(),
            _ => Guest::new("demo", "cycles=20 races=3").vcpus(4).forward().oem(),
        };
        let guest = if image { guest.given_as_image() } else { guest };
        Case::new(name, guest).cpu(cpu).smp(smp).memory_mib(mib).seconds(60)
    };
    MACHINES.into_iter().map(boot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_cpu_meets_both_kinds_of_image_or_memory_sizes_and_every_size_meets_every_kind() {
        let pairs: BTreeSet<_> = MACHINES.iter().map(|m| (m.3, m.4)).collect();
        assert_eq!(pairs.len(), 6, "three sizes of memory with two kinds of image");
        let pairs: BTreeSet<_> = MACHINES.iter().map(|m| (m.1, m.3)).collect();
        assert!(pairs.len() >= 12, "{pairs:?}");
        let cpus: BTreeSet<_> = MACHINES.iter().map(|m| m.1).collect();
        assert_eq!(cpus.len(), 5);
        assert!(MACHINES.iter().any(|m| m.2 == 1) && MACHINES.iter().any(|m| m.2 == 8));
    }
}
