//! What the tool looks like: colours on a terminal only, one line per step, a spinner for the long ones.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

/// A text style.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Important.
    Bold,
    /// Beside the point.
    Dim,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Look here.
    Warn,
    /// Umbra's own lines.
    Umbra,
    /// The host partition's lines.
    Host,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warn => "33",
            Self::Umbra => "36",
            Self::Host => "35",
        }
    }
}

fn wants_colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var("TERM").map_or(true, |t| t != "dumb")
}

/// Whether standard output shows colours.
pub(crate) fn stdout_colour() -> bool {
    wants_colour(std::io::stdout().is_terminal())
}

/// Whether standard error shows colours.
pub(crate) fn stderr_colour() -> bool {
    wants_colour(std::io::stderr().is_terminal())
}

/// `text` in `style`, or plain when `colour` is false.
pub(crate) fn paint(colour: bool, style: Style, text: &str) -> String {
    if colour {
        format!("\x1b[{}m{text}\x1b[0m", style.code())
    } else {
        text.to_owned()
    }
}

/// `text` for standard output.
pub(crate) fn out(style: Style, text: &str) -> String {
    paint(stdout_colour(), style, text)
}

/// `text` for standard error.
pub(crate) fn err(style: Style, text: &str) -> String {
    paint(stderr_colour(), style, text)
}

/// Writes a line on standard output, whose errors are the caller's. That nobody reads any longer (`| head`) is none.
macro_rules! outln {
    ($($text:tt)*) => { $crate::ui::write_out(format_args!($($text)*)) };
}
/// Writes a line on standard error. Where that cannot be, there is nobody to tell.
macro_rules! errln {
    ($($text:tt)*) => { $crate::ui::write_err(format_args!($($text)*)) };
}
pub(crate) use {errln, outln};

/// What `outln` does.
pub(crate) fn write_out(line: Arguments<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write standard output"),
        _ => Ok(()),
    }
}

/// What `errln` does.
pub(crate) fn write_err(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says what the tool is doing, on standard error.
pub(crate) fn say(verb: &str, what: &str) {
    errln!("{} {what}", err(Style::Good, &format!("{verb:>12}")));
}

/// Warns on standard error; the run goes on.
pub(crate) fn warn(what: &str) {
    errln!("{} {what}", err(Style::Warn, &format!("{:>12}", "Warning")));
}

/// A long step: a spinner on a terminal, one line elsewhere. Dropping it clears the spinner.
pub(crate) struct Step {
    bar: ProgressBar,
}

impl Step {
    /// Begins a step.
    pub(crate) fn begin(verb: &str, what: &str) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {prefix:>10} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(verb.to_owned());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            Self { bar }
        } else {
            say(verb, what);
            Self {
                bar: ProgressBar::hidden(),
            }
        }
    }

    /// Changes what the spinner says.
    pub(crate) fn note(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A number of bytes as people write it.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if n >= size {
            return if n.is_multiple_of(size) {
                format!("{} {unit}", n / size)
            } else {
                format!("{:.1} {unit}", n as f64 / size as f64)
            };
        }
    }
    format!("{n} B")
}

/// A number with its thousands apart.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_when_nobody_sees_them() {
        assert_eq!(paint(false, Style::Bad, "x"), "x");
        assert_eq!(paint(true, Style::Bad, "x"), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(thousands(1_234_567), "1 234 567");
        assert_eq!(thousands(12), "12");
    }
}
