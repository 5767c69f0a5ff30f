//! One wire for Umbra's own lines and for every VM's console.
//!
//! Umbra's lines go out whole. A VM's bytes go out as it writes them; between channels the multiplexer of
//! [`hyp_abi::console`] marks the change, or, without it, a line break and the VM's name do.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use hyp_abi::console::{CHANNEL_BASE, ESCAPE, RECORD_TAG, UMBRA};
use hyp_core::text::{self, Sink, Text, Value};

use crate::{
    arch::{
        barrier::{FairGuard, FairMutex},
        gic::REMINDER_PPI,
        uart::Uart,
    },
    vm,
};

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A record ([`RECORD_TAG`]): always printed.
    Record,
    /// A record of what was found at boot: from `loglevel=1` on.
    Found,
    /// What went wrong, or was asked for: always printed.
    Error,
    /// What could go wrong: from `loglevel=2` on.
    Warning,
    /// What was found and what happens: from `loglevel=3` on, which is the level unless the boot arguments have another.
    Info,
}

impl Kind {
    /// The level from which it is printed on.
    const fn level(self) -> u8 {
        match self {
            Self::Record | Self::Error => 0,
            Self::Found => 1,
            Self::Warning => 2,
            Self::Info => 3,
        }
    }
}

struct Console {
    uart: Uart,
    mux: bool,
    channel: u8,
    /// The last byte did not end a line.
    in_line: bool,
}

/// All zeroes, as every static of Umbra's is: it takes no room in the image.
static CONSOLE: FairMutex<Console> = FairMutex::new(Console {
    uart: Uart::NONE,
    mux: false,
    channel: UMBRA,
    in_line: false,
});
/// Locks need the MMU: exclusives on memory that is not cacheable are not guaranteed to work.
static LOCKABLE: AtomicBool = AtomicBool::new(false);
/// How much Umbra says.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Sets the UART. Before translation is on, by the boot CPU alone.
pub(crate) fn init(uart: Uart, mux: bool, level: Option<u8>) {
    with(|console| {
        console.uart = uart;
        console.mux = mux;
    });
    LEVEL.store(level.unwrap_or(Kind::Info.level()), Ordering::Relaxed);
}

/// The physical UART.
#[inline(never)]
pub(crate) fn uart() -> Uart {
    with(|console| console.uart)
}

/// The INTID of the physical UART's interrupt; 0 while nobody listens.
static INTERRUPT: AtomicU32 = AtomicU32::new(0);

/// What is typed interrupts with `intid` from now on.
pub(crate) fn listen(intid: u32) {
    INTERRUPT.store(intid, Ordering::Release);
    uart().listen(true);
}

/// Whether `intid` is the console's: its interrupt, or the reminder that bytes wait.
pub(crate) fn is_console(intid: u32) -> bool {
    intid == REMINDER_PPI || intid != 0 && intid == INTERRUPT.load(Ordering::Relaxed)
}

/// The MMU is on: from here on the console is locked.
pub(crate) fn lockable() {
    LOCKABLE.store(true, Ordering::Release);
}

/// The console's lock, once locks work.
#[inline(never)]
fn lock() -> Option<FairGuard<'static, Console>> {
    LOCKABLE.load(Ordering::Acquire).then(|| CONSOLE.lock())
}

fn with<R>(action: impl FnOnce(&mut Console) -> R) -> R {
    let mut guard = lock();
    action(match &mut guard {
        Some(guard) => guard,
        // SAFETY: Before `lockable` only the boot CPU runs, and it does not come back here from inside `action`, which
        // does nothing but formatting and device writes.
        None => unsafe { &mut *CONSOLE.as_mut_ptr() },
    })
}

impl Console {
    fn byte(&mut self, byte: u8) {
        if byte == ESCAPE && self.mux {
            self.uart.send(ESCAPE);
        }
        self.in_line = byte != b'\n';
        self.uart.send(byte);
    }

    fn switch(&mut self, channel: u8) {
        if self.channel == channel {
            return;
        }
        self.channel = channel;
        if self.mux {
            self.uart.send(ESCAPE);
            self.uart.send(CHANNEL_BASE + channel);
        } else if self.in_line {
            self.text("\n");
        }
    }

    /// A byte of Umbra's own.
    fn own_byte(&mut self, byte: u8) {
        if byte == b'\n' {
            self.byte(b'\r');
        }
        self.byte(byte);
    }

    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.own_byte(byte);
        }
    }
}

impl Sink for Console {
    fn words(&mut self, words: &str) {
        self.text(words);
    }

    fn byte(&mut self, byte: u8) {
        self.own_byte(byte);
    }
}

/// Prints a line, if the level allows that.
#[inline(always)]
pub(crate) fn line(kind: Kind, text: Text<'_>) {
    line_of(kind, text.template, text.values);
}

#[inline(never)]
fn line_of(kind: Kind, template: &str, values: &[Value<'_>]) {
    if kind.level() > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    page(|out| {
        if matches!(kind, Kind::Record | Kind::Found) {
            out.words(RECORD_TAG);
        }
        text::put(out, template, values);
        out.byte(b'\n');
    });
}

/// Prints lines that belong together, with no other line between them.
#[inline]
pub(crate) fn page(print: impl FnOnce(&mut dyn Sink)) {
    with(|console| {
        console.switch(UMBRA);
        print(console);
    });
}

/// Prints without the lock: EL2 is finished, and whoever holds the lock may be the reason.
#[inline(always)]
pub(crate) fn last_words(text: Text<'_>) {
    last_words_of(text.template, text.values);
}

#[inline(never)]
fn last_words_of(template: &str, values: &[Value<'_>]) {
    // SAFETY: The machine stops after this; interleaved output is the worst that can happen.
    let console = unsafe { &mut *CONSOLE.as_mut_ptr() };
    console.channel = u8::MAX;
    console.switch(UMBRA);
    text::put(console, template, values);
}

/// One byte that a VM wrote to its PL011.
pub(crate) fn guest_byte(vm: usize, byte: u8) {
    // Whoever has a guest has the MMU on.
    let console = &mut *CONSOLE.lock();
    console.switch(UMBRA + 1 + vm as u8);
    if !console.mux && !console.in_line {
        console.text("[");
        console.text(vm::find(vm as u64).map_or("", |vm| vm.name));
        console.text("] ");
    }
    console.byte(byte);
}

/// Prints a line of Umbra's at level info.
macro_rules! info {
    ($($text:tt)*) => { $crate::console::line($crate::console::Kind::Info, hyp_core::text!($($text)*)) };
}

/// Prints a line of Umbra's at level warning.
macro_rules! warning {
    ($($text:tt)*) => { $crate::console::line($crate::console::Kind::Warning, hyp_core::text!($($text)*)) };
}

/// Prints a line of Umbra's, whatever the level.
macro_rules! error {
    ($($text:tt)*) => { $crate::console::line($crate::console::Kind::Error, hyp_core::text!($($text)*)) };
}

/// Prints a record, whatever the level.
macro_rules! record {
    ($($text:tt)*) => { $crate::console::line($crate::console::Kind::Record, hyp_core::text!($($text)*)) };
}

/// Prints a record of what was found at boot.
macro_rules! found {
    ($($text:tt)*) => { $crate::console::line($crate::console::Kind::Found, hyp_core::text!($($text)*)) };
}

pub(crate) use {error, found, info, record, warning};
