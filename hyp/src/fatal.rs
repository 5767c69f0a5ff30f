//! EL2's own end: a readable report, a failing verdict, and no more.

use core::{
    panic::{PanicInfo, PanicMessage},
    sync::atomic::Ordering,
};

use hyp_core::{
    crash::{El2Crash, El2Failure, El2State},
    text,
    text::{Shown, Sink, Value},
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

/// What a panic says.
struct Message<'a>(PanicMessage<'a>);

impl Shown for Message<'_> {
    fn show(&self, f: &mut dyn Sink) {
        match self.0.as_str() {
            Some(message) => f.words(message),
            None => with_values(&self.0, f),
        }
    }
}

/// Only an image for debugging has code that formats them.
#[cfg(debug_assertions)]
fn with_values(message: &PanicMessage<'_>, f: &mut dyn Sink) {
    use core::fmt::{self, Write};
    struct Through<'f>(&'f mut dyn Sink);
    impl Write for Through<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.words(text);
            Ok(())
        }
    }
    let _ = write!(Through(f), "{message}");
}

#[cfg(not(debug_assertions))]
fn with_values(_: &PanicMessage<'_>, f: &mut dyn Sink) {
    f.words("(an image for debugging says it)");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let message = Message(info.message());
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
