//! Calls by HVC and SMC.

use crate::clock::{marked, measure, pair, timed};
use hyp_abi::psci;
use hyp_abi::smccc::Conduit;

/// A call: its operation's name by HVC and by SMC, the function, its first argument.
struct Call {
    names: [&'static str; 2],
    function: u32,
    argument: u64,
}

/// A number of the vendor-specific hypervisor range that nobody answers.
const NOBODYS: u32 = 0xC600_0F00;
/// The first number that the bench's filters deny.
const DENIED: u32 = 0xC300_0031;
/// `SMCCC_VERSION`.
const SMCCC_VERSION: u32 = 0x8000_0000;

const CALLS: [Call; 5] = [
    Call {
        names: ["null-hvc", "null-smc"],
        function: NOBODYS,
        argument: 0,
    },
    Call {
        names: ["psci-version-hvc", "psci-version-smc"],
        function: psci::VERSION,
        argument: 0,
    },
    Call {
        names: ["affinity-info-hvc", "affinity-info-smc"],
        function: psci::AFFINITY_INFO_64,
        argument: 0,
    },
    Call {
        names: ["smccc-version-hvc", "smccc-version-smc"],
        function: SMCCC_VERSION,
        argument: 0,
    },
    Call {
        names: ["denied-hvc", "denied-smc"],
        function: DENIED,
        argument: 0,
    },
];

/// The calls of an unfiltered VM.
pub(crate) fn plain(wants: &dyn Fn(&str) -> bool) {
    for call in &CALLS[..4] {
        both(call, wants);
    }
}

/// A denied call, and one that no range of the VM's filter names.
pub(crate) fn filtered(wants: &dyn Fn(&str) -> bool) {
    both(&CALLS[4], wants);
    both(
        &Call {
            names: ["filtered-hvc", "filtered-smc"],
            function: NOBODYS,
            argument: 0,
        },
        wants,
    );
}

fn both(call: &Call, wants: &dyn Fn(&str) -> bool) {
    for (name, conduit) in call.names.into_iter().zip([Conduit::Hvc, Conduit::Smc]) {
        if wants(name) {
            measure(name, || marked(|| one(conduit, call.function, call.argument)).wrapping_sub(pair()));
        }
    }
}

/// The ticks of one call, gross.
pub(crate) fn one(conduit: Conduit, function: u32, argument: u64) -> u64 {
    macro_rules! by {
        ($instruction:literal) => {
            timed!($instruction, inout("x0") u64::from(function) => _, inout("x1") argument => _, inout("x2") 0_u64 => _, inout("x3") 0_u64 => _,
                lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _,
                lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _)
        };
    }
    match conduit {
        Conduit::Hvc => by!("hvc #0"),
        Conduit::Smc => by!("smc #0"),
    }
}
