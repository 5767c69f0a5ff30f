//! EL2's own end: a readable report, a failing verdict, and no more.

use core::{panic::PanicInfo, sync::atomic::Ordering};

use hyp_core::{
    crash::{El2Crash, El2Failure, El2State},
    text,
    text::Value,
};

use crate::{
    arch::{barrier, cpu},
    boot, console, percpu, power,
    trap::Frame,
};

/// Exit status of a run in which EL2 panicked.
pub(crate) const PANIC: u32 = 70;
/// Exit status of a run in which EL2 itself took an exception.
pub(crate) const FAULT: u32 = 71;

fn die(page: &El2Crash<'_>, status: u32) -> ! {
    // A plain load and store: this pCPU alone writes it, and exclusives may not work yet.
    let dying = &percpu::this().dying;
    if !dying.load(Ordering::Relaxed) {
        dying.store(true, Ordering::Relaxed);
        console::last_words(text!("\n{}", Value::Of(page)));
        power::end_with(status);
    }
    loop {
        barrier::wfi();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let message = info.message();
    let location = info.location().map(|at| (at.file(), at.line()));
    let page = El2Crash {
        failure: El2Failure::Panic {
            message: &message,
            location,
        },
        pcpu: percpu::this().index as u32,
        state: None,
    };
    die(&page, PANIC)
}

/// Boot needs so many bytes more than there are.
#[cold]
pub(crate) fn no_memory(size: usize) -> ! {
    let page = El2Crash {
        failure: El2Failure::Panic {
            message: &text!("memory allocation of {} bytes failed", size),
            location: None,
        },
        pcpu: percpu::this().index as u32,
        state: None,
    };
    die(&page, PANIC)
}

/// From the vectors: an exception was taken at EL2. `sp` is where the stack stood.
pub(crate) extern "C" fn el2_fault(vector: u64, frame: &Frame, sp: u64) -> ! {
    let cpu = percpu::this();
    let far = cpu::far();
    let overflow = cpu.stacks.ran_out_at(far) || cpu.stacks.ran_out_at(sp);
    let state = El2State {
        esr: cpu::esr(),
        elr: cpu::elr(),
        spsr: cpu::spsr(),
        far,
        sp,
        image_base: boot::image().start(),
        x: Some(&frame.x),
    };
    // The vectors' lower half are EL2's own synchronous exceptions, IRQ, FIQ and SError, in this order, on either stack.
    let failure = if overflow && vector & 3 == 0 {
        El2Failure::GuardPage
    } else {
        El2Failure::Exception
    };
    die(
        &El2Crash {
            failure,
            pcpu: cpu.index as u32,
            state: Some(state),
        },
        FAULT,
    )
}
