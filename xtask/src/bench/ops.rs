//! What is measured: each operation's name, what it is, what was recorded of others, and its target.

/// What was recorded of other hypervisors, in instructions under the same instruction clock. KVM's figures are of all
/// exception levels together: nVHE, then VHE.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recorded {
    /// KVM: nVHE, VHE.
    pub(crate) kvm: Option<(u64, u64)>,
    /// KVM, where the VMM must pause the VM first: one figure.
    pub(crate) kvm_pausing: Option<u64>,
    /// Xen.
    pub(crate) xen: Option<u64>,
    /// Bao: the least and the most that was recorded for this kind of operation.
    pub(crate) bao: Option<(u64, u64)>,
    /// The smallest hypervisor possible: hand-written assembly, one list register, no checks.
    pub(crate) smallest: Option<u64>,
}

/// Where the recorded figures are from.
pub(crate) const SOURCE: &str = "KVM, Xen, Bao and the smallest possible hypervisor: recorded once under the same instruction clock, when the targets were set; \
     this run does not measure them. KVM's are nVHE/VHE and of all exception levels; p: with the pause of the VM that it needs.";

/// What of a figure is the guest's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// So many instructions: the calling one, where it completes.
    Fixed(u64),
    /// What the same program finds without Umbra.
    Bare,
}

/// An operation.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) what: &'static str,
    /// The set of the bench guest that measures it.
    pub(crate) set: &'static str,
    /// What of the figure is not Umbra's.
    pub(crate) own: Own,
    /// Others.
    pub(crate) recorded: Recorded,
    /// The most that it should cost at EL2.
    pub(crate) target: Option<u64>,
    /// What to try for.
    pub(crate) dream: Option<u64>,
}

impl Op {
    fn new(set: &'static str, name: &str, what: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            what,
            set,
            own: Own::Fixed(0),
            recorded: Recorded::default(),
            target: None,
            dream: None,
        }
    }
    fn own(mut self, own: Own) -> Self {
        self.own = own;
        self
    }
    fn others(mut self, recorded: Recorded) -> Self {
        self.recorded = recorded;
        self
    }
    fn target(mut self, target: u64) -> Self {
        self.target = Some(target);
        self
    }
    fn dream(mut self, dream: u64) -> Self {
        self.dream = Some(dream);
        self
    }
}

const fn recorded(kvm: Option<(u64, u64)>, xen: Option<u64>, bao: Option<(u64, u64)>, smallest: Option<u64>) -> Recorded {
    Recorded {
        kvm,
        kvm_pausing: None,
        xen,
        bao,
        smallest,
    }
}

/// What KVM needs with the VM paused, and the smallest hypervisor without that.
const fn pausing(kvm: u64, smallest: Option<u64>) -> Recorded {
    let mut others = recorded(None, None, None, smallest);
    others.kvm_pausing = Some(kvm);
    others
}

/// A null call, by whatever number.
const CALL: Recorded = recorded(Some((1703, 1249)), Some(387), Some((149, 188)), Some(14));
/// An exit through Rust that does nothing.
const EXIT: Recorded = recorded(None, None, Some((99, 99)), Some(55));
/// A read of a GICD or GICR register.
const GIC_READ: Recorded = recorded(Some((2444, 2028)), Some(599), Some((225, 1290)), Some(59));
/// An SGI to another vCPU.
const IPI: Recorded = recorded(Some((5273, 4363)), Some(1467), Some((799, 799)), Some(30));

/// How many vCPUs run during the host's reads.
pub(crate) const RUNNING: [u64; 4] = [1, 2, 4, 8];

/// Every operation, in the order of the table.
pub(crate) fn all() -> Vec<Op> {
    let mut ops = calls();
    ops.extend(power());
    ops.extend(host_reads());
    ops.extend(devices());
    ops.extend(interrupts());
    ops.extend(rest());
    ops
}

fn calls() -> Vec<Op> {
    let mut ops = Vec::new();
    let mut both = |set, stem: &str, what, target: u64, others: Recorded| {
        for conduit in ["hvc", "smc"] {
            let op = Op::new(set, &format!("{stem}-{conduit}"), what).own(Own::Fixed(1));
            ops.push(op.target(target).others(others));
        }
    };
    both("one", "null", "a vendor call that nobody answers", 40, CALL);
    both("one", "psci-version", "PSCI_VERSION", 40, CALL);
    both("one", "affinity-info", "AFFINITY_INFO of the caller", 90, EXIT);
    both("one", "smccc-version", "SMCCC_VERSION", 90, EXIT);
    both("filtered", "filtered", "the null call past a filter of 32 ranges", 50, CALL);
    both("filtered", "denied", "a call that the filter denies", 90, EXIT);
    for op in &mut ops {
        if op.target == Some(40) {
            op.dream = Some(17);
        }
    }
    ops
}

fn power() -> Vec<Op> {
    let on = recorded(Some((27_868, 28_668)), Some(5081), Some((1551, 1551)), Some(73));
    let forwarded = pausing(93_870, None);
    vec![
        Op::new("many", "cpu-on", "CPU_ON to the target's first instruction and the caller's return")
            .others(on)
            .own(Own::Fixed(1))
            .target(800)
            .dream(300),
        Op::new("forwarded", "cpu-on-forwarded", "the same, decided by the host partition")
            .others(forwarded)
            .target(1500)
            .dream(500),
        Op::new("many", "cpu-off", "CPU_OFF until AFFINITY_INFO says OFF").own(Own::Fixed(2)),
        Op::new("forwarded", "forwarded-call", "a call that the host answers, to its verdict"),
    ]
}

fn host_reads() -> Vec<Op> {
    let kinds = [
        ("host-template", "the host reads a vCPU's template"),
        ("host-word", "the host reads a running vCPU's word"),
        ("host-record", "the host reads a running vCPU's record"),
        ("host-exact", "the host reads a running vCPU exactly"),
        ("host-contended", "KVM's way: try, stop the VM, read, let it go on"),
    ];
    let mut ops = Vec::new();
    for (name, what) in kinds {
        for running in RUNNING {
            let op = Op::new("reads", &format!("{name}-{running}"), what);
            ops.push(match name {
                "host-word" => op.others(pausing(93_942, Some(2))).target(8).dream(4),
                "host-record" => op.others(recorded(None, None, None, Some(9))).target(32).dream(20),
                _ => op,
            });
        }
    }
    ops
}

fn devices() -> Vec<Op> {
    let read = |name, what| Op::new("one", name, what).others(GIC_READ).target(140).dream(90);
    let write = |name, what| Op::new("one", name, what);
    let enable = recorded(Some((2593, 2173)), Some(735), Some((3589, 3589)), Some(58));
    vec![
        read("gicd-typer-read", "GICD_TYPER"),
        read("gicd-isenabler1-read", "GICD_ISENABLER1"),
        read("gicd-ipriorityr-read", "GICD_IPRIORITYR8"),
        read("gicd-ispendr-read", "GICD_ISPENDR1"),
        read("gicd-irouter-read", "GICD_IROUTER33"),
        read("gicr-typer-read", "GICR_TYPER"),
        read("gicr-isenabler0-read", "GICR_ISENABLER0"),
        read("gicr-ipriorityr-read", "GICR_IPRIORITYR0"),
        read("gicr-ispendr-read", "GICR_ISPENDR0"),
        write("gicd-isenabler1-write", "GICD_ISENABLER1"),
        write("gicd-ipriorityr-write", "GICD_IPRIORITYR8"),
        write("gicd-ispendr-write", "GICD_ISPENDR1, of an SPI that is disabled"),
        write("gicd-irouter-write", "GICD_IROUTER33"),
        write("gicr-isenabler0-write", "GICR_ISENABLER0")
            .others(enable)
            .target(200)
            .dream(100),
        write("gicr-ipriorityr-write", "GICR_IPRIORITYR0"),
        write("gicr-ispendr-write", "GICR_ISPENDR0, of a PPI that is disabled"),
        write("pl011-fr-read", "UARTFR"),
        write("pl011-byte-write", "one byte to UARTDR"),
    ]
}

fn interrupts() -> Vec<Op> {
    let bare = |set, name, what| Op::new(set, name, what).own(Own::Bare);
    let to_self = recorded(Some((3180, 2721)), Some(961), Some((799, 799)), Some(30));
    let timer = recorded(None, Some(1020), Some((199, 199)), Some(13));
    vec![
        bare("one", "sgi-self", "an SGI to oneself, to the handler")
            .others(to_self)
            .target(200)
            .dream(60),
        bare("one", "sgi-self-eoi", "the same, through its end of interrupt"),
        bare(
            "many",
            "sgi-running",
            "an SGI to a running vCPU, to its handler and the sender's return",
        )
        .others(IPI)
        .target(250)
        .dream(100),
        bare("many", "sgi-wfi", "an SGI to a vCPU in WFI")
            .others(IPI)
            .target(250)
            .dream(100),
        bare("many", "sgi-all", "an SGI to all three others in WFI"),
        bare("one", "vtimer", "the virtual timer, to the handler"),
        bare("one", "vtimer-eoi", "the same, through its end of interrupt")
            .others(timer)
            .target(80)
            .dream(26),
        bare("one", "spi", "the PL011's level SPI, from the write that raises it to the handler"),
        bare("one", "spi-eoi", "the same, lowered and through its end of interrupt"),
        bare("one", "wfi", "WFI, from the timer's tick to the next instruction"),
    ]
}

fn rest() -> Vec<Op> {
    let boot = recorded(None, Some(33_900_000), Some((379_000, 379_000)), Some(54));
    vec![
        Op::new("one", "icc-ctlr-read", "ICC_CTLR_EL1, untrapped").own(Own::Bare),
        Op::new("one", "icc-ctlr-write", "ICC_CTLR_EL1, untrapped").own(Own::Bare),
        Op::new("strict", "icc-ctlr-read-strict", "ICC_CTLR_EL1 in strict mode").others(EXIT),
        Op::new("strict", "icc-ctlr-write-strict", "ICC_CTLR_EL1 in strict mode"),
        Op::new("one", "id-register-read", "ID_AA64PFR0_EL1")
            .others(EXIT)
            .target(90)
            .dream(64),
        Op::new("one", "missing-page", "a load where nothing is, to the handler"),
        Op::new("shared", "vcpu-switch", "from a vCPU's WFI to its neighbour's next instruction"),
        Op::new(
            "boot-1",
            "boot-1",
            "from the machine's start to the guest's first instruction, 1 pCPU",
        )
        .others(boot)
        .target(100_000)
        .dream(10_000),
        Op::new("boot-4", "boot-4", "the same on 4 pCPUs, all of them counted"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_words_and_differ() {
        let ops = all();
        let names: BTreeSet<&str> = ops.iter().map(|op| op.name.as_str()).collect();
        assert_eq!(names.len(), ops.len());
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(names.iter().all(|name| name.chars().all(fine)));
    }

    #[test]
    fn every_target_is_below_every_peer() {
        for op in all() {
            let Some(target) = op.target else { continue };
            let kvm = op.recorded.kvm.map(|(nvhe, vhe)| nvhe.min(vhe));
            for peer in [
                kvm,
                op.recorded.kvm_pausing,
                op.recorded.xen,
                op.recorded.bao.map(|(least, _)| least),
            ]
            .into_iter()
            .flatten()
            {
                assert!(target < peer, "{}", op.name);
            }
            assert!(op.dream.is_none_or(|dream| dream < target), "{}", op.name);
        }
    }
}
