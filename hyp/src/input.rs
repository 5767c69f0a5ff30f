//! What people type: it goes to the VM that has the console's focus, or to the monitor.
//!
//! The physical UART's interrupt brings bytes; the focused VM's PL011 takes them. When its FIFO is full the byte at hand is
//! kept and the UART is told to be quiet until the guest has read some: nothing is lost, and nobody waits. `Ctrl-]` opens the
//! monitor for one command.

use core::sync::atomic::{AtomicBool, Ordering};

use hyp_abi::call::{Counter, VmState};

use crate::{
    arch::barrier::Mutex,
    console, power,
    vm::{self, Vm},
};

/// `Ctrl-]`.
const MONITOR_KEY: u8 = 0x1D;
/// How many bytes one interrupt brings at most.
const BURST: usize = 64;

struct Input {
    /// The VM that what is typed goes to.
    focus: u64,
    /// A byte that its PL011 had no room for.
    kept: Option<u8>,
    /// The next byte is a command.
    monitor: bool,
}

static INPUT: Mutex<Input> = Mutex::new(Input {
    focus: 1,
    kept: None,
    monitor: false,
});
/// Bytes wait for the focused VM to read: looked at without the lock.
static WAITING: AtomicBool = AtomicBool::new(false);

/// The console's interrupt: bytes have arrived.
pub(crate) fn arrived() {
    let uart = console::uart();
    let mut input = INPUT.lock();
    for _ in 0..BURST {
        let Some(byte) = input.kept.take().or_else(|| uart.receive()) else {
            break;
        };
        if !input.take(byte) {
            input.kept = Some(byte);
            WAITING.store(true, Ordering::Release);
            uart.listen(false);
            return;
        }
    }
    if WAITING.swap(false, Ordering::AcqRel) {
        uart.listen(true);
    }
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
            console::line(format_args!(
                "monitor: l list, 0-7 focus on a VM, s stop or resume, r reset, o off, g start, q quit; focus is VM {}",
                self.focus
            ));
            return true;
        }
        // Without a VM to take it, or when that VM has ended, it goes nowhere, as on a machine that is off.
        vm::find(self.focus).is_none_or(|vm| !vm.is_running() || vm.type_in(byte))
    }

    fn command(&mut self, key: u8) {
        match key {
            b'l' => vm::all().iter().for_each(list),
            b'0'..=b'7' => self.focus_on(u64::from(key - b'0')),
            MONITOR_KEY => {}
            b'q' => power::end_of_run(0, format_args!("quit=1")),
            b's' | b'r' | b'o' | b'g' => match vm::find(self.focus) {
                Some(vm) => act(vm, key),
                None => console::line(format_args!("monitor: there is no VM {}", self.focus)),
            },
            _ => console::line(format_args!("monitor: no such command")),
        }
    }

    fn focus_on(&mut self, id: u64) {
        match vm::find(id) {
            Some(vm) => {
                self.focus = id;
                console::line(format_args!("monitor: focus is VM {id} ({})", vm.name));
            }
            None => console::line(format_args!("monitor: there is no VM {id}")),
        }
    }
}

fn act(vm: &Vm, key: u8) {
    let done = match key {
        b's' if vm.is_running() => {
            let held = vm.held();
            vm.hold(!held);
            if held { "goes on" } else { "is stopped" }
        }
        b'r' if vm.is_running() => {
            vm.end(VmState::Resetting);
            "is being reset"
        }
        b'o' if vm.is_running() => {
            vm.end(VmState::Off);
            "is being turned off"
        }
        b'g' if vm.state() == VmState::Built => {
            let _ = vm.start();
            "is started"
        }
        b'g' if !vm.is_running() => {
            if vm.revive() {
                "is started anew"
            } else {
                "cannot be started now"
            }
        }
        _ => "is not in a state for that",
    };
    console::line(format_args!("monitor: VM {} ({}) {done}", vm.id, vm.name));
}

/// A VM's vCPUs, as the shadow page and the counters have them: nobody is stopped for it.
fn list(vm: &Vm) {
    console::page(|out| {
        writeln!(out, "VM {} {}: {:?}", vm.id, vm.name, vm.shown_state())?;
        for vcpu in vm.vcpus {
            let word = vcpu.slot.word();
            let fresh = if word.exact() {
                "exact"
            } else {
                "as of its last exit that changed it"
            };
            writeln!(
                out,
                "  vCPU {} on pCPU {}: {:?}, ICC_CTLR_EL1 {:#x} ({fresh}, generation {})",
                vcpu.index,
                vcpu.pcpu,
                vcpu.power.state(),
                word.ctlr(),
                word.generation()
            )?;
            write!(out, "   ")?;
            for counter in Counter::ALL.into_iter().filter(|counter| vcpu.counter(*counter) != 0) {
                write!(out, " {}={}", counter.name(), vcpu.counter(counter))?;
            }
            writeln!(out)?;
        }
        Ok(())
    });
    // Only a vCPU's own pCPU can read its list registers: it prints them when it next looks.
    for vcpu in vm.vcpus {
        vcpu.show.store(true, Ordering::Release);
        vcpu.kick_for(Counter::KicksRequest);
    }
}
