//! One wire for Umbra's own lines and for every VM's console.
//!
//! Umbra's lines go out whole. A VM's bytes go out as it writes them; between channels the multiplexer of
//! [`hyp_abi::console`] marks the change, or, without it, a line break and the VM's name do.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
};

use hyp_abi::console::{CHANNEL_BASE, ESCAPE, RECORD_TAG, UMBRA};

use crate::arch::{barrier::FairMutex, uart::Uart};

/// How much Umbra says. Records and reports are always printed, those of what was found at boot from `loglevel=1` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// What went wrong.
    Error = 0,
    /// What could go wrong.
    Warning = 2,
    /// What was found and what happens.
    Info = 3,
}

struct Console {
    uart: Uart,
    mux: bool,
    channel: u8,
    fresh_line: bool,
    names: [&'static str; hyp_abi::layout::MAX_VMS],
}

static CONSOLE: FairMutex<Console> = FairMutex::new(Console {
    uart: Uart::None,
    mux: false,
    channel: UMBRA,
    fresh_line: true,
    names: [""; hyp_abi::layout::MAX_VMS],
});
/// Locks need the MMU: exclusives on memory that is not cacheable are not guaranteed to work.
static LOCKABLE: AtomicBool = AtomicBool::new(false);
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Sets the UART. Before translation is on, by the boot CPU alone.
pub(crate) fn init(uart: Uart, mux: bool, level: u8) {
    with(|console| {
        console.uart = uart;
        console.mux = mux;
    });
    LEVEL.store(level, Ordering::Relaxed);
}

/// The physical UART.
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

/// Whether `intid` is the console's.
pub(crate) fn is_console(intid: u32) -> bool {
    intid != 0 && intid == INTERRUPT.load(Ordering::Relaxed)
}

/// The MMU is on: from here on the console is locked.
pub(crate) fn lockable() {
    LOCKABLE.store(true, Ordering::Release);
}

/// Names a VM for the plain-text form of the wire.
pub(crate) fn name(vm: usize, name: &'static str) {
    with(|console| {
        if let Some(slot) = console.names.get_mut(vm) {
            *slot = name;
        }
    });
}

fn with<R>(action: impl FnOnce(&mut Console) -> R) -> R {
    let mut guard = LOCKABLE.load(Ordering::Acquire).then(|| CONSOLE.lock());
    let console = match &mut guard {
        Some(guard) => guard,
        // SAFETY: Before `lockable` only the boot CPU runs, and it does not come back here from inside `action`, which
        // does nothing but formatting and device writes.
        None => unsafe { &mut *CONSOLE.as_mut_ptr() },
    };
    action(console)
}

impl Console {
    fn byte(&mut self, byte: u8) {
        if byte == ESCAPE && self.mux {
            self.uart.send(ESCAPE);
        }
        self.uart.send(byte);
        self.fresh_line = byte == b'\n';
    }

    fn switch(&mut self, channel: u8) {
        if self.channel == channel {
            return;
        }
        self.channel = channel;
        if self.mux {
            self.uart.send(ESCAPE);
            self.uart.send(CHANNEL_BASE + channel);
        } else if !self.fresh_line {
            self.text("\r\n");
        }
    }

    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.byte(byte);
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}

/// Prints one of Umbra's lines, whatever the level.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    with(|console| {
        console.switch(UMBRA);
        let _ = console.write_fmt(text);
        let _ = console.write_str("\n");
    });
}

/// Prints a record ([`RECORD_TAG`]), whatever the level.
pub(crate) fn print_record(text: fmt::Arguments<'_>) {
    line(format_args!("{RECORD_TAG}{text}"));
}

/// Prints a record of what was found at boot, unless all is to be quiet.
pub(crate) fn print_found(text: fmt::Arguments<'_>) {
    if LEVEL.load(Ordering::Relaxed) > 0 {
        print_record(text);
    }
}

/// Prints one of Umbra's lines if the level allows.
pub(crate) fn log(level: Level, text: fmt::Arguments<'_>) {
    if level as u8 <= LEVEL.load(Ordering::Relaxed) {
        line(text);
    }
}

/// Prints several lines that belong together, with no other line between them.
pub(crate) fn page(print: impl FnOnce(&mut dyn Write) -> fmt::Result) {
    with(|console| {
        console.switch(UMBRA);
        let _ = print(console);
    });
}

/// Prints without the lock: EL2 is finished, and whoever holds the lock may be the reason.
pub(crate) fn last_words(print: impl FnOnce(&mut dyn Write) -> fmt::Result) {
    // SAFETY: The machine stops after this; interleaved output is the worst that can happen.
    let console = unsafe { &mut *CONSOLE.as_mut_ptr() };
    console.channel = u8::MAX;
    console.switch(UMBRA);
    let _ = print(console);
}

/// One byte that a VM wrote to its PL011.
pub(crate) fn guest_byte(vm: usize, byte: u8) {
    // Whoever has a guest has the MMU on.
    let console = &mut *CONSOLE.lock();
    console.switch(UMBRA + 1 + vm as u8);
    if !console.mux && console.fresh_line {
        let name = console.names.get(vm).copied().unwrap_or("");
        console.text("[");
        console.text(name);
        console.text("] ");
    }
    console.byte(byte);
}

/// Prints a line of Umbra's at level info.
macro_rules! info {
    ($($text:tt)*) => { $crate::console::log($crate::console::Level::Info, format_args!($($text)*)) };
}

/// Prints a line of Umbra's at level warning.
macro_rules! warning {
    ($($text:tt)*) => { $crate::console::log($crate::console::Level::Warning, format_args!($($text)*)) };
}

/// Prints a line of Umbra's at level error.
macro_rules! error {
    ($($text:tt)*) => { $crate::console::log($crate::console::Level::Error, format_args!($($text)*)) };
}

/// Prints a record, whatever the level.
macro_rules! record {
    ($($text:tt)*) => { $crate::console::print_record(format_args!($($text)*)) };
}

/// Prints a record of what was found at boot.
macro_rules! found {
    ($($text:tt)*) => { $crate::console::print_found(format_args!($($text)*)) };
}

pub(crate) use {error, found, info, record, warning};
