//! Every PSCI rule by name, and one test for each bug known from elsewhere.

use super::*;
use hyp_abi::psci::{AFFINITY_OFF, AFFINITY_ON, AFFINITY_ON_PENDING};

const RAM: u64 = 0x4000_0000;
const RAM_END: u64 = 0x5000_0000;

/// A VM of `N` vCPUs.
struct Vm<const N: usize> {
    power: [Power; N],
    affinity: fn(usize) -> u64,
}

impl<const N: usize> Vm<N> {
    const fn new() -> Self {
        Self {
            power: [const { Power::new() }; N],
            affinity: hyp_abi::layout::affinity_of,
        }
    }

    fn call(&self, fid: u32, args: [u64; 3]) -> Outcome {
        decode(fid, args, self, &Filter::new())
    }
}

impl<const N: usize> VmView for Vm<N> {
    fn vcpus(&self) -> usize {
        N
    }
    fn find(&self, affinity: u64) -> Option<usize> {
        // Careless on purpose: the bits that are no affinity are the decoder's to refuse.
        (0..N).find(|&index| self.affinity(index) == affinity & AFFINITY)
    }
    fn affinity(&self, index: usize) -> u64 {
        (self.affinity)(index)
    }
    fn in_ram(&self, ipa: u64) -> bool {
        (RAM..RAM_END).contains(&ipa)
    }
    fn power(&self, index: usize) -> State {
        self.power[index].state()
    }
}

fn on(target: usize, entry: u64, context: u64) -> Outcome {
    Outcome::CpuOn(CpuOn {
        target,
        start: Start {
            entry,
            context,
            big_endian: false,
        },
    })
}

#[test]
fn version_is_1_3_and_migration_is_not_required() {
    let vm = Vm::<1>::new();
    assert_eq!(vm.call(psci::VERSION, [9; 3]), Outcome::Return(0x1_0003));
    assert_eq!(vm.call(psci::MIGRATE_INFO_TYPE, [9; 3]), Outcome::Return(2));
}

#[test]
fn cpu_on_checks_the_mpidr_before_the_entry() {
    let vm = Vm::<4>::new();
    for mpidr in [4, 1 << 8, 1 << 24, 1 << 31 | 1, 1 << 32, 1 << 40, 1 << 63, u64::MAX] {
        assert_eq!(
            vm.call(psci::CPU_ON_64, [mpidr, 0, 0]),
            refuse(PsciError::InvalidParameters),
            "{mpidr:#x}"
        );
    }
    for entry in [0, RAM - 4, RAM_END, RAM + 1, RAM + 2, u64::MAX, 1 << 63 | RAM] {
        assert_eq!(
            vm.call(psci::CPU_ON_64, [3, entry, 0]),
            refuse(PsciError::InvalidAddress),
            "{entry:#x}"
        );
    }
    assert_eq!(vm.call(psci::CPU_ON_64, [3, RAM, u64::MAX]), on(3, RAM, u64::MAX));
    assert_eq!(vm.call(psci::CPU_ON_64, [0, RAM_END - 4, 7]), on(0, RAM_END - 4, 7));
}

#[test]
fn an_smc32_call_uses_the_low_halves_of_its_arguments() {
    let vm = Vm::<4>::new();
    let high = 0xDEAD_BEEF << 32;
    assert_eq!(vm.call(psci::CPU_ON_32, [high | 2, high | RAM, high | 5]), on(2, RAM, 5));
    assert_eq!(vm.call(psci::CPU_ON_64, [high | 2, RAM, 5]), refuse(PsciError::InvalidParameters));
    assert_eq!(vm.call(psci::AFFINITY_INFO_32, [high | 2, high, 0]), Outcome::Return(AFFINITY_OFF));
    assert_eq!(
        vm.call(psci::AFFINITY_INFO_64, [2, high, 0]),
        Outcome::Return(AFFINITY_OFF),
        "the level is a word in both"
    );
}

#[test]
fn a_function_identifier_is_the_low_half_of_x0() {
    let vm = Vm::<1>::new();
    let x0 = 0xFFFF_FFFF_0000_0000 | u64::from(psci::VERSION);
    assert_eq!(smccc(&[x0, 0, 0, 0], &Filter::new(), &vm), Outcome::Return(0x1_0003));
}

#[test]
fn the_caller_gives_the_target_its_endianness() {
    struct BigEndian(Vm<2>);
    impl VmView for BigEndian {
        fn vcpus(&self) -> usize {
            2
        }
        fn find(&self, affinity: u64) -> Option<usize> {
            self.0.find(affinity)
        }
        fn in_ram(&self, ipa: u64) -> bool {
            self.0.in_ram(ipa)
        }
        fn power(&self, index: usize) -> State {
            self.0.power(index)
        }
        fn big_endian(&self) -> bool {
            true
        }
    }
    let vm = BigEndian(Vm::new());
    let Outcome::CpuOn(call) = decode(psci::CPU_ON_64, [1, RAM, 0], &vm, &Filter::new()) else {
        panic!("refused")
    };
    assert_eq!(vm.0.power[call.target].turn_on(call.start), Ok(()));
    assert_eq!(
        vm.0.power[1].take_start(),
        Some(Start {
            entry: RAM,
            context: 0,
            big_endian: true
        })
    );
}

#[test]
fn affinity_info_tells_each_state() {
    let vm = Vm::<4>::new();
    let info = |target| vm.call(psci::AFFINITY_INFO_64, [target, 0, 0]);
    assert_eq!(info(1), Outcome::Return(AFFINITY_OFF));
    let claim = vm.power[1].claim(How::Forwarded, Start::default()).unwrap();
    assert_eq!(info(1), Outcome::Return(AFFINITY_ON_PENDING));
    assert!(vm.power[1].start(claim));
    assert_eq!(info(1), Outcome::Return(AFFINITY_ON));
    assert!(vm.power[1].take_start().is_some() && vm.power[1].begin_off());
    assert_eq!(info(1), Outcome::Return(AFFINITY_ON), "it has not left its pCPU yet");
    assert!(vm.power[1].finish_off());
    assert_eq!(info(1), Outcome::Return(AFFINITY_OFF));
}

#[test]
fn affinity_info_of_a_level_is_on_then_pending_then_off() {
    // Two clusters of two: affinities 0, 1, 0x100, 0x101.
    let vm = Vm::<4> {
        affinity: |index| ((index as u64 / 2) << 8) | (index as u64 % 2),
        ..Vm::new()
    };
    let info = |target, level| vm.call(psci::AFFINITY_INFO_64, [target, level, 0]);
    for level in 0..4 {
        assert_eq!(info(0, level), Outcome::Return(AFFINITY_OFF));
    }
    let claim = vm.power[3].claim(How::Forwarded, Start::default()).unwrap();
    assert_eq!(
        info(0x1FF, 1),
        Outcome::Return(AFFINITY_ON_PENDING),
        "the fields below the level do not count"
    );
    assert_eq!(info(0x0FF, 1), Outcome::Return(AFFINITY_OFF));
    assert_eq!(info(0, 2), Outcome::Return(AFFINITY_ON_PENDING));
    assert_eq!(vm.power[0].turn_on(Start::default()), Ok(()));
    assert_eq!(info(0, 2), Outcome::Return(AFFINITY_ON), "ON wins over pending");
    assert_eq!(info(0x100, 1), Outcome::Return(AFFINITY_ON_PENDING));
    assert!(vm.power[3].rollback(claim));
    assert_eq!(info(0x100, 1), Outcome::Return(AFFINITY_OFF));
    for (target, level) in [
        (2, 0),
        (0x200, 1),
        (0x1_0000, 2),
        (1 << 32, 3),
        (1 << 24, 3),
        (1 << 40, 3),
        (0, 4),
        (0, u64::from(u32::MAX)),
    ] {
        assert_eq!(
            info(target, level),
            refuse(PsciError::InvalidParameters),
            "{target:#x} at level {level}"
        );
    }
}

#[test]
fn cpu_suspend_is_standby_once_its_parameters_are_good() {
    let vm = Vm::<1>::new();
    for fid in [psci::CPU_SUSPEND_32, psci::CPU_SUSPEND_64] {
        assert_eq!(vm.call(fid, [0, 0, 0]), Outcome::Suspend);
        assert_eq!(vm.call(fid, [0x0300_FFFF, u64::MAX, 0]), Outcome::Suspend, "standby has no entry");
        assert_eq!(vm.call(fid, [1 << 16, RAM, 0]), Outcome::Suspend, "power-down becomes standby");
        assert_eq!(vm.call(fid, [1 << 16, 0, 0]), refuse(PsciError::InvalidAddress));
        for bit in (17..24).chain(26..32) {
            assert_eq!(vm.call(fid, [1 << bit, RAM, 0]), refuse(PsciError::InvalidParameters), "bit {bit}");
        }
        assert_eq!(
            vm.call(fid, [1 << 31 | 1 << 16, 0, 0]),
            refuse(PsciError::InvalidParameters),
            "before the entry"
        );
    }
}

#[test]
fn features_tells_what_there_is_and_not_what_is_denied() {
    let vm = Vm::<1>::new();
    let all = (0_u32..0x20).flat_map(|number| [psci::VERSION + number, psci::VERSION + SMC64 + number]);
    for fid in all.chain([arch::VERSION]) {
        let there = match fid {
            arch::VERSION => true,
            fid if fid & SMC64 != 0 => matches!(fid & 0x1F, 1 | 3 | 4 | 0xE | 0x12 | 0x15),
            fid => matches!(fid & 0x1F, 0..=4 | 6 | 8..=10 | 0xE | 0x12 | 0x15),
        };
        // SYSTEM_OFF2 shows HIBERNATE_OFF; no other call has a flag.
        let flags = u64::from(fid & 0x1F == 0x15);
        let expected = if there { Outcome::Return(flags) } else { NOT_SUPPORTED };
        assert_eq!(vm.call(psci::FEATURES, [u64::from(fid), 0, 0]), expected, "{fid:#x}");
        if !there {
            assert_eq!(vm.call(fid, [0; 3]), NOT_SUPPORTED, "{fid:#x}");
        }
        let mut filter = Filter::new();
        // A call of the architecture's cannot be denied.
        if filter.insert(fid, 1, Action::Deny as u64).is_ok() {
            assert_eq!(decode(psci::FEATURES, [u64::from(fid), 0, 0], &vm, &filter), NOT_SUPPORTED);
        } else {
            assert_eq!(fid, arch::VERSION);
        }
    }
    assert_eq!(vm.call(psci::FEATURES, [u64::from(arch::ARCH_FEATURES), 0, 0]), NOT_SUPPORTED);
}

#[test]
fn reset2_is_a_warm_reset_and_nothing_else() {
    let vm = Vm::<1>::new();
    for fid in [psci::SYSTEM_RESET2_32, psci::SYSTEM_RESET2_64] {
        for cookie in [0, 1, u64::MAX] {
            assert_eq!(vm.call(fid, [0, cookie, 0]), Outcome::SystemReset, "the cookie means nothing");
        }
        assert_eq!(vm.call(fid, [1 << 32, 0, 0]), Outcome::SystemReset, "the type is a word in both");
        for kind in [1, 2, 0x7FFF_FFFF, 1 << 31, 1 << 31 | 1, 0xFFFF_FFFF] {
            assert_eq!(vm.call(fid, [kind, 0, 0]), refuse(PsciError::InvalidParameters), "{kind:#x}");
        }
    }
}

#[test]
fn off2_is_off_for_type_0_and_1_without_a_cookie() {
    let vm = Vm::<1>::new();
    for fid in [psci::SYSTEM_OFF2_32, psci::SYSTEM_OFF2_64] {
        for kind in [0, 1] {
            assert_eq!(vm.call(fid, [kind, 0, 0]), Outcome::SystemOff);
            assert_eq!(vm.call(fid, [kind, 1, 0]), refuse(PsciError::InvalidParameters), "a cookie");
        }
        for kind in [2, 3, 1 << 31, 1 << 31 | 1, 0xFFFF_FFFF] {
            assert_eq!(vm.call(fid, [kind, 0, 0]), refuse(PsciError::InvalidParameters), "{kind:#x}");
        }
    }
    let high = 1 << 32;
    assert_eq!(vm.call(psci::SYSTEM_OFF2_32, [1, high, 0]), Outcome::SystemOff);
    assert_eq!(vm.call(psci::SYSTEM_OFF2_64, [1, high, 0]), refuse(PsciError::InvalidParameters));
}

#[test]
fn system_suspend_is_for_the_last_vcpu_that_is_on() {
    let vm = Vm::<3>::new();
    let asleep = Outcome::SystemSuspend(Start {
        entry: RAM,
        context: 7,
        big_endian: false,
    });
    vm.power[1].turn_on(Start::default()).unwrap();
    vm.power[1].take_start().unwrap();
    for fid in [psci::SYSTEM_SUSPEND_32, psci::SYSTEM_SUSPEND_64] {
        let suspend = || vm.call(fid, [RAM, 7, 0]);
        assert_eq!(suspend(), asleep, "the caller alone is on");
        let claim = vm.power[2].claim(How::Forwarded, Start::default()).unwrap();
        assert_eq!(suspend(), refuse(PsciError::Denied), "another is pending");
        assert!(vm.power[2].start(claim));
        assert_eq!(suspend(), refuse(PsciError::Denied), "another is on");
        assert!(vm.power[2].take_start().is_some() && vm.power[2].begin_off());
        assert_eq!(suspend(), refuse(PsciError::Denied), "another has not left its pCPU yet");
        assert_eq!(vm.call(fid, [0, 7, 0]), refuse(PsciError::Denied), "before the entry is looked at");
        assert!(vm.power[2].finish_off());
        assert_eq!(suspend(), asleep);
    }
}

#[test]
fn system_suspend_wants_an_entry_in_ram() {
    let vm = Vm::<2>::new();
    vm.power[0].turn_on(Start::default()).unwrap();
    for entry in [0, RAM - 4, RAM_END, RAM + 1, RAM + 2, u64::MAX] {
        for fid in [psci::SYSTEM_SUSPEND_32, psci::SYSTEM_SUSPEND_64] {
            assert_eq!(vm.call(fid, [entry, 0, 0]), refuse(PsciError::InvalidAddress), "{entry:#x}");
        }
    }
    let high = 1 << 32;
    assert_eq!(
        vm.call(psci::SYSTEM_SUSPEND_32, [high | RAM, high | 7, 0]),
        Outcome::SystemSuspend(Start {
            entry: RAM,
            context: 7,
            big_endian: false
        })
    );
    assert_eq!(
        vm.call(psci::SYSTEM_SUSPEND_64, [high | RAM, 7, 0]),
        refuse(PsciError::InvalidAddress)
    );
}

#[test]
fn smccc_discovery_is_version_1_1_the_vendor_uid_and_its_revision() {
    let vm = Vm::<1>::new();
    assert_eq!(vm.call(arch::VERSION, [0; 3]), Outcome::Return(0x1_0001));
    assert_eq!(vm.call(arch::ARCH_FEATURES, [u64::from(arch::VERSION), 0, 0]), Outcome::Return(0));
    assert_eq!(
        vm.call(arch::ARCH_FEATURES, [u64::from(arch::ARCH_FEATURES), 0, 0]),
        Outcome::Return(0)
    );
    assert_eq!(vm.call(arch::ARCH_FEATURES, [0x8000_8000, 0, 0]), NOT_SUPPORTED);
    assert_eq!(
        vm.call(arch::VENDOR_HYP_UID, [0; 3]),
        Outcome::Values(arch::UMBRA_UID.map(u64::from))
    );
    let [major, minor] = hyp_abi::call::REVISION.map(u64::from);
    assert_eq!(vm.call(arch::VENDOR_HYP_REVISION, [0; 3]), Outcome::Values([major, minor, 0, 0]));
    for fid in [0, 0x0400_0000, 0x8000_0002, 0x8400_0020, 0xC600_0001, 0x8600_FF00, u32::MAX] {
        assert_eq!(vm.call(fid, [0; 3]), Outcome::NotMine, "{fid:#x}");
    }
}

#[test]
fn a_denied_call_is_not_supported_and_not_advertised() {
    let vm = Vm::<2>::new();
    let mut filter = Filter::new();
    filter.insert(psci::CPU_ON_64, 1, 1).unwrap();
    assert_eq!(smccc(&[u64::from(psci::CPU_ON_64), 1, RAM, 0], &filter, &vm), NOT_SUPPORTED);
    assert_eq!(smccc(&[u64::from(psci::CPU_ON_32), 1, RAM, 0], &filter, &vm), on(1, RAM, 0));
    let features = |fid| smccc(&[u64::from(psci::FEATURES), u64::from(fid), 0, 0], &filter, &vm);
    assert_eq!(features(psci::CPU_ON_64), NOT_SUPPORTED);
    assert_eq!(features(psci::CPU_ON_32), Outcome::Return(0));
}

#[test]
fn a_forwarded_call_has_good_parameters() {
    let vm = Vm::<2>::new();
    let mut filter = Filter::new();
    filter.insert(0x8400_0000, 0x20, 2).unwrap();
    filter.insert(0xC400_0000, 0x20, 2).unwrap();
    let call = |fid: u32, args: [u64; 3]| smccc(&[u64::from(fid), args[0], args[1], args[2]], &filter, &vm);
    for fid in [psci::CPU_ON_32, psci::CPU_ON_64] {
        let good = CpuOn {
            target: 1,
            start: Start {
                entry: RAM,
                context: 3,
                big_endian: false,
            },
        };
        assert_eq!(call(fid, [1, RAM, 3]), Outcome::Forward(Forwarded::CpuOn(good)));
        assert_eq!(call(fid, [2, RAM, 3]), refuse(PsciError::InvalidParameters));
        assert_eq!(call(fid, [1, 0, 3]), refuse(PsciError::InvalidAddress));
    }
    assert_eq!(call(psci::CPU_OFF, [0; 3]), Outcome::Forward(Forwarded::CpuOff));
    assert_eq!(call(psci::SYSTEM_OFF, [0; 3]), Outcome::Forward(Forwarded::SystemOff));
    assert_eq!(call(psci::SYSTEM_RESET, [0; 3]), Outcome::Forward(Forwarded::SystemReset));
    let start = Start {
        entry: RAM,
        context: 3,
        big_endian: false,
    };
    for fid in [psci::SYSTEM_SUSPEND_32, psci::SYSTEM_SUSPEND_64] {
        assert_eq!(call(fid, [RAM, 3, 0]), Outcome::Forward(Forwarded::SystemSuspend(start)));
        assert_eq!(call(fid, [0, 3, 0]), refuse(PsciError::InvalidAddress));
    }
    for fid in [psci::SYSTEM_RESET2_32, psci::SYSTEM_RESET2_64] {
        assert_eq!(call(fid, [0; 3]), Outcome::Forward(Forwarded::SystemReset));
        assert_eq!(call(fid, [1, 0, 0]), refuse(PsciError::InvalidParameters));
    }
    for fid in [psci::SYSTEM_OFF2_32, psci::SYSTEM_OFF2_64] {
        assert_eq!(call(fid, [1, 0, 0]), Outcome::Forward(Forwarded::SystemOff));
        assert_eq!(call(fid, [1, 1, 0]), refuse(PsciError::InvalidParameters));
    }
    for fid in [
        psci::VERSION,
        psci::AFFINITY_INFO_64,
        psci::CPU_SUSPEND_32,
        psci::FEATURES,
        0x8400_001F,
    ] {
        assert_eq!(call(fid, [9; 3]), Outcome::Forward(Forwarded::Other), "{fid:#x}");
    }
    assert_eq!(call(arch::VERSION, [0; 3]), Outcome::Return(0x1_0001), "reserved: handled always");
}

#[test]
fn without_on_pending_a_loser_sees_already_on() {
    assert_eq!(Refused::OnPending.to_ret(true), PsciError::OnPending.to_ret());
    assert_eq!(Refused::OnPending.to_ret(false), PsciError::AlreadyOn.to_ret());
    assert_eq!(Refused::AlreadyOn.to_ret(true), PsciError::AlreadyOn.to_ret());
    assert_eq!(Refused::AlreadyOn.to_ret(false), PsciError::AlreadyOn.to_ret());
}

#[test]
fn a_reset_voids_claims_and_starts_from_before() {
    let cell = Power::new();
    let claim = cell
        .claim(
            How::Forwarded,
            Start {
                entry: 4,
                context: 4,
                big_endian: true,
            },
        )
        .unwrap();
    cell.reset();
    assert_eq!(cell.state(), State::Off);
    assert_eq!(
        cell.turn_on(Start {
            entry: RAM,
            context: 1,
            big_endian: false
        }),
        Ok(())
    );
    assert!(!cell.start(claim));
    assert_eq!(
        cell.take_start(),
        Some(Start {
            entry: RAM,
            context: 1,
            big_endian: false
        })
    );
    assert_eq!(cell.take_start(), None, "once");
    cell.reset();
    let stale = cell.claim(How::Forwarded, Start::default()).unwrap();
    cell.reset();
    let fresh = cell.claim(How::Forwarded, Start::default()).unwrap();
    assert!(!cell.rollback(stale), "the vCPU is claimed by another now");
    assert!(cell.rollback(fresh));
    assert_eq!((cell.state(), cell.take_start()), (State::Off, None));
    assert!(!cell.begin_off() && !cell.finish_off(), "nothing runs");
}

/// Bao took the caller's lock and changed the target.
#[test]
fn cpu_on_changes_the_target_and_not_the_caller() {
    let vm = Vm::<3>::new();
    vm.power[0].turn_on(Start::default()).unwrap();
    vm.power[0].take_start().unwrap();
    let Outcome::CpuOn(call) = vm.call(psci::CPU_ON_64, [2, RAM, 5]) else {
        panic!("refused")
    };
    vm.power[call.target].turn_on(call.start).unwrap();
    assert_eq!([0, 1, 2].map(|index| vm.power[index].state()), [State::On, State::Off, State::On]);
    assert_eq!(vm.power[0].take_start(), None);
    assert_eq!(vm.power[2].take_start().map(|start| start.context), Some(5));
}

/// Jailhouse let a second `CPU_ON` overwrite the first one's entry, and told both SUCCESS.
#[test]
fn a_second_cpu_on_neither_succeeds_nor_changes_the_first_ones_entry() {
    let cell = Power::new();
    assert_eq!(
        cell.turn_on(Start {
            entry: RAM,
            context: 1,
            big_endian: false
        }),
        Ok(())
    );
    assert_eq!(
        cell.turn_on(Start {
            entry: RAM + 4,
            context: 2,
            big_endian: false
        }),
        Err(Refused::AlreadyOn)
    );
    assert_eq!(cell.claim(How::Forwarded, Start::default()), Err(Refused::AlreadyOn));
    assert_eq!(cell.take_start().map(|start| (start.entry, start.context)), Some((RAM, 1)));
}

/// axvisor panicked.
#[test]
fn cpu_on_of_a_bad_mpidr_or_a_running_target_is_an_error_value() {
    let vm = Vm::<1>::new();
    assert_eq!(vm.call(psci::CPU_ON_64, [0xFF, RAM, 0]), refuse(PsciError::InvalidParameters));
    vm.power[0].turn_on(Start::default()).unwrap();
    assert_eq!(vm.call(psci::CPU_ON_64, [0, RAM, 0]), on(0, RAM, 0));
    assert_eq!(
        vm.power[0].turn_on(Start::default()),
        Err(Refused::AlreadyOn),
        "a vCPU turns itself on"
    );
}

/// Xen looked at the state outside its lock: here nothing looks, and what the call found earlier does not matter.
#[test]
fn the_state_is_claimed_and_not_looked_at() {
    let vm = Vm::<2>::new();
    let first = vm.call(psci::CPU_ON_64, [1, RAM, 1]);
    let second = vm.call(psci::CPU_ON_64, [1, RAM, 2]);
    let (Outcome::CpuOn(first), Outcome::CpuOn(second)) = (first, second) else {
        panic!("refused")
    };
    assert_eq!(vm.power[1].turn_on(first.start), Ok(()));
    assert_eq!(vm.power[1].turn_on(second.start), Err(Refused::AlreadyOn));
}

/// QEMU's own PSCI gave several SUCCESSes for one target when several host threads ran it.
#[test]
fn threads_racing_for_one_target_get_one_success_and_its_start() {
    let rounds = if cfg!(miri) { 3 } else { 200 };
    for _ in 0..rounds {
        let cell = Power::new();
        let won = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for caller in 1..=4 {
                let (cell, won) = (&cell, &won);
                scope.spawn(move || {
                    if cell
                        .turn_on(Start {
                            entry: caller,
                            context: !caller,
                            big_endian: false,
                        })
                        .is_ok()
                    {
                        won.lock().unwrap().push(caller);
                    }
                });
            }
        });
        let start = cell.take_start().unwrap();
        assert_eq!((won.into_inner().unwrap(), start.context), (vec![start.entry], !start.entry));
    }
}

/// An MPIDR that `find` maps beyond the VM's vCPUs names nothing.
#[test]
fn a_target_lies_among_the_vms_vcpus() {
    struct Wild;
    impl VmView for Wild {
        fn vcpus(&self) -> usize {
            usize::MAX
        }
        fn find(&self, affinity: u64) -> Option<usize> {
            usize::try_from(affinity).ok()
        }
        fn in_ram(&self, _: u64) -> bool {
            true
        }
        fn power(&self, index: usize) -> State {
            assert!(index < MAX_VCPUS);
            State::On
        }
    }
    assert_eq!(
        decode(psci::CPU_ON_64, [16, RAM, 0], &Wild, &Filter::new()),
        refuse(PsciError::InvalidParameters)
    );
    assert_eq!(
        decode(psci::AFFINITY_INFO_64, [0, 3, 0], &Wild, &Filter::new()),
        Outcome::Return(AFFINITY_ON)
    );
}
