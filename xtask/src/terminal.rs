//! The user's terminal as the guest's: every key goes to the machine's serial line, and the terminal is itself again
//! however the run ends.

use crate::console::Line;
use crate::qemu::Watch;
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use std::io::{IsTerminal, Read, Write};
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// How the terminal was before we changed it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether a person can type here and see what comes of it.
pub(crate) fn is_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Gives the terminal back as it was. May be called any number of times.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // Fails only when the terminal is gone.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
    }
}

/// The terminal without lines, echo and signals, until this is dropped (or the tool panics).
struct Raw;

impl Raw {
    fn begin() -> std::io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                usual(info);
            }));
        });
        let before = termios::tcgetattr(std::io::stdin())?;
        let raw = keys_only(&before);
        // Kept first: from the change on there is a way back.
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// `before` with every key given to us as it is. What is written stays as it was: a line end still returns the carriage.
fn keys_only(before: &Termios) -> Termios {
    let mut raw = before.clone();
    let output = raw.output_modes;
    raw.make_raw();
    raw.output_modes = output;
    raw.local_modes.remove(LocalModes::ISIG);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    raw
}

/// Ctrl-A, as in QEMU's own terminal.
const PREFIX: u8 = 0x01;

/// Tells keys for the guest from keys for us.
#[derive(Debug, Default)]
struct Keys {
    prefixed: bool,
}

/// What a piece of input comes to.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    /// For the guest.
    bytes: Vec<u8>,
    /// The user wants out.
    quit: bool,
}

impl Keys {
    /// Ctrl-A x ends the run, Ctrl-A Ctrl-A is one for the guest, and so is any other key, Ctrl-C and Ctrl-] included.
    fn feed(&mut self, input: &[u8]) -> Typed {
        let mut bytes = Vec::new();
        for &byte in input {
            match (self.prefixed, byte) {
                (false, PREFIX) => self.prefixed = true,
                (true, b'x' | b'X') => return Typed { bytes, quit: true },
                (true, PREFIX) => {
                    self.prefixed = false;
                    bytes.push(PREFIX);
                }
                (true, _) => {
                    self.prefixed = false;
                    bytes.extend([PREFIX, byte]);
                }
                (false, _) => bytes.push(byte),
            }
        }
        Typed { bytes, quit: false }
    }
}

/// Types what comes from `from` until one side closes. On a terminal the keys of [`Keys`] count; the one that ends the run
/// sets `left`.
fn forward(mut from: impl Read, mut to: impl Write, terminal: bool, left: &AtomicBool) {
    let mut keys = Keys::default();
    let mut buffer = [0u8; 256];
    loop {
        let piece = match from.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(n) => &buffer[..n],
        };
        let typed = if terminal {
            keys.feed(piece)
        } else {
            Typed {
                bytes: piece.to_vec(),
                quit: false,
            }
        };
        if to.write_all(&typed.bytes).and_then(|()| to.flush()).is_err() {
            break;
        }
        if typed.quit {
            left.store(true, Ordering::Relaxed);
            break;
        }
    }
}

/// A screen with a keyboard.
pub(crate) struct Console<S: Watch> {
    // Before the terminal, so that what it still holds is written first.
    screen: S,
    types: bool,
    raw: Option<Raw>,
    left: Arc<AtomicBool>,
}

impl<S: Watch> Console<S> {
    /// `screen`, and what the user types goes to the guest if `types`.
    pub(crate) fn new(screen: S, types: bool) -> Self {
        Self {
            screen,
            types,
            raw: None,
            left: Arc::default(),
        }
    }
}

impl<S: Watch> Watch for Console<S> {
    fn begin(&mut self, input: ChildStdin) {
        if !self.types {
            return;
        }
        let terminal = is_there();
        if terminal {
            self.raw = Raw::begin().ok();
        } else if std::io::stdin().is_terminal() {
            // Somebody reads our output elsewhere, or nobody does: the terminal's keys are not for the guest.
            return;
        }
        let keys = self.raw.is_some();
        // Ends with the tool: a read from a terminal cannot be called off.
        let left = Arc::clone(&self.left);
        std::thread::spawn(move || forward(std::io::stdin(), input, keys, &left));
    }

    fn byte(&mut self, channel: u8, byte: u8) {
        self.screen.byte(channel, byte);
    }

    fn line(&mut self, line: &Line) {
        self.screen.line(line);
    }

    fn pause(&mut self, idle: bool) {
        self.screen.pause(idle);
    }

    fn enough(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys::default();
        let mut all = Vec::new();
        for piece in pieces {
            let typed = keys.feed(piece);
            all.extend(typed.bytes);
            if typed.quit {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn ctrl_c_and_ctrl_bracket_are_for_the_guest() {
        assert_eq!(typed(&[b"ls\r\x03\x1d"]), (b"ls\r\x03\x1d".to_vec(), false));
    }

    #[test]
    fn ctrl_a_x_ends_the_run_however_it_arrives() {
        assert_eq!(typed(&[b"a\x01xb"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"a\x01", b"x"]), (b"a".to_vec(), true));
    }

    #[test]
    fn ctrl_a_twice_is_one_and_before_another_key_it_is_itself() {
        assert_eq!(typed(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
        assert_eq!(typed(&[b"\x01", b"e"]), (b"\x01e".to_vec(), false));
    }

    #[test]
    fn without_a_terminal_every_byte_is_typed() {
        let (mut to, left) = (Vec::new(), AtomicBool::new(false));
        forward(b"\x01x\n".as_slice(), &mut to, false, &left);
        assert_eq!(to, b"\x01x\n");
        assert!(!left.load(Ordering::Relaxed));
        forward(b"a\x01xb".as_slice(), &mut to, true, &left);
        assert_eq!(to, b"\x01x\na");
        assert!(left.load(Ordering::Relaxed));
    }
}
