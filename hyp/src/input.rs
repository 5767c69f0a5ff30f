//! What people type: it goes to the VM that has the console's focus, or to the monitor.
//!
//! The physical UART's interrupt brings bytes; the focused VM's PL011 takes them. When that has no more room the byte at hand is
//! kept and the UART is told to be quiet until the guest has read some: nothing is lost, and nobody waits. `Ctrl-]` opens the
//! monitor for one command. No guest can keep it shut: of a VM that takes nothing for [`PATIENCE_MS`] what has no room is dropped.

use core::sync::atomic::{AtomicBool, Ordering};

use hyp_abi::call::{Counter, VmState};
use hyp_core::put;

use crate::{
    arch::{barrier::Mutex, timer},
    console::{self, error},
    system,
    vm::{self, Vm},
};

/// `Ctrl-]`.
const MONITOR_KEY: u8 = 0x1D;
/// How many bytes one interrupt brings at most.
const BURST: usize = 64;
/// So long after it took its last byte the focused VM may have the UART kept quiet: what else is typed may be for the monitor.
const PATIENCE_MS: u64 = 4000;

struct Input {
    /// The VM that what is typed goes to.
    focus: u64,
    /// A byte that its PL011 had no room for. While there is one nothing is received, so the focus stays.
    kept: Option<u8>,
    /// Until when one may be kept.
    patience: u64,
    /// The next byte is a command.
    monitor: bool,
}

static INPUT: Mutex<Input> = Mutex::new(Input {
    focus: 0,
    kept: None,
    patience: 0,
    monitor: false,
});
/// Bytes wait for the focused VM to read: looked at without the lock.
static WAITING: AtomicBool = AtomicBool::new(false);

/// What is typed interrupts with `intid` from now on, and goes to VM 1.
pub(crate) fn listen(intid: u32) {
    INPUT.lock().focus = 1;
    console::listen(intid);
}

/// The console's interrupt: bytes have arrived, or one has been kept for long enough.
pub(crate) fn arrived() {
    let uart = console::uart();
    let mut input = INPUT.lock();
    let waited = input.kept.is_some();
    let now = timer::now();
    let patience = now + timer::ticks(PATIENCE_MS);
    for _ in 0..BURST {
        let Some(byte) = input.kept.take().or_else(|| uart.receive()) else {
            break;
        };
        if input.take(byte) {
            input.patience = patience;
        } else if now < input.patience {
            input.kept = Some(byte);
            break;
        }
    }
    let waiting = input.kept.is_some();
    if waiting != waited {
        WAITING.store(waiting, Ordering::Release);
        uart.listen(!waiting);
    }
    timer::remind(waiting.then_some(input.patience));
}

/// A VM has read from its PL011: there may be room again.
pub(crate) fn room() {
    if WAITING.load(Ordering::Acquire) {
        arrived();
    }
}

impl Input {
    /// Takes one byte. False: there is no room for it now.
    fn take(&mut self, byte: u8) -> bool {
        if core::mem::take(&mut self.monitor) {
            self.command(byte);
            return true;
        }
        if byte == MONITOR_KEY {
            self.monitor = true;
            error!(
                "monitor: l list, 0-7 focus on a VM, s stop or resume, r reset, o off, g start, q quit; focus is VM {}",
                self.focus
            );
            return true;
        }
        // Without a VM to take it, or when that VM has ended, it goes nowhere, as on a machine that is off.
        vm::find(self.focus).is_none_or(|vm| !vm.is_running() || vm.type_in(byte))
    }

    fn command(&mut self, key: u8) {
        let id = match key {
            b'l' => return vm::all().iter().for_each(list),
            MONITOR_KEY => return,
            b'q' => return system::quit(),
            b'0'..=b'7' => u64::from(key - b'0'),
            b's' | b'r' | b'o' | b'g' => self.focus,
            _ => return error!("monitor: no such command"),
        };
        let Some(vm) = vm::find(id) else {
            return error!("monitor: there is no VM {}", id);
        };
        self.focus = id;
        error!("monitor: VM {} ({}) {}", id, vm.name, act(vm, key));
    }
}

const NOT_NOW: &str = "is not in a state for that";

/// Does what `key` asks for. Gives what became of it.
fn act(vm: &Vm, key: u8) -> &'static str {
    let held = vm.held();
    match (key, vm.state()) {
        (b'0'..=b'7', _) => "has the focus",
        (b's', VmState::Running) => {
            vm.hold(!held);
            if held { "goes on" } else { "is stopped" }
        }
        (b'r', VmState::Running) => {
            vm.end(VmState::Resetting);
            "is being reset"
        }
        (b'o', VmState::Running) => {
            vm.end(VmState::Off);
            "is being turned off"
        }
        (b'g', VmState::Built) => {
            let _ = vm.start();
            "is started"
        }
        (b'g', VmState::Off | VmState::Crashed | VmState::Resetting) => {
            // What is held when it ends is so when it runs again.
            match (vm.revive(), held) {
                (true, false) => "is started anew",
                (true, true) => "is started anew, stopped",
                (false, _) => NOT_NOW,
            }
        }
        _ => NOT_NOW,
    }
}

/// A VM's vCPUs, as the shadow page and the counters have them: nobody is stopped for it.
fn list(vm: &Vm) {
    console::page(|out| {
        let state = vm.shown_state();
        put!(out, "VM {} {}: {}\n", vm.id, vm.name, state.name());
        for vcpu in vm.vcpus {
            let (state, word) = (vcpu.power.state(), vcpu.slot.word());
            let fresh = if word.exact() {
                "exact"
            } else {
                "as of its last exit that changed it"
            };
            put!(
                out,
                "  vCPU {} on pCPU {}: {}, ICC_CTLR_EL1 {:#x} ({}, generation {})\n   ",
                vcpu.index,
                vcpu.pcpu,
                state.name(),
                word.ctlr(),
                fresh,
                word.generation()
            );
            system::put_counts(out, false, &Counter::ALL.map(|counter| vcpu.counter(counter)));
            out.byte(b'\n');
        }
    });
    // Only a vCPU's own pCPU can read its list registers: it prints them when it next looks.
    for vcpu in vm.vcpus {
        vcpu.show.store(true, Ordering::Release);
        vcpu.kick_for(Counter::KicksRequest);
    }
}
