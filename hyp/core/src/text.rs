//! Text with values in it, in a fraction of the code that `core::fmt` takes: a call gives the template and one word or slice for each
//! of its values, and one function finds their places.
//!
//! A value's place is written as `core::fmt` has it: `{}`, `{:#x}`, or `{:#018x}` with any width. A template is ASCII; [`text!`](crate::text!)
//! and [`put!`](crate::put!) check while compiling that it is one and that it has as many places as there are values.

use core::fmt::{self, Write};

/// What says itself how it reads. With [`shown!`](crate::shown!) it is a `Display`, too, which the image has no use for.
pub trait Shown {
    /// Writes it to `f`.
    fn show(&self, f: &mut dyn Sink);
}

/// Where text goes. It takes all there is.
pub trait Sink {
    /// Writes these words.
    fn words(&mut self, words: &str);
    /// Writes an ASCII character.
    fn byte(&mut self, byte: u8);
}

/// A formatter as a [`Sink`], and the first error that it gave.
#[expect(missing_debug_implementations, reason = "a formatter has none")]
pub struct Through<'f, 'g>(&'f mut fmt::Formatter<'g>, fmt::Result);

impl<'f, 'g> Through<'f, 'g> {
    /// Has `shown` write itself to `f`.
    ///
    /// # Errors
    /// As `f` does.
    pub fn show(shown: &impl Shown, f: &'f mut fmt::Formatter<'g>) -> fmt::Result {
        let mut through = Self(f, Ok(()));
        shown.show(&mut through);
        through.1
    }
}

impl Sink for Through<'_, '_> {
    fn words(&mut self, words: &str) {
        self.1 = self.1.and_then(|()| self.0.write_str(words));
    }
    fn byte(&mut self, byte: u8) {
        self.1 = self.1.and_then(|()| self.0.write_char(char::from(byte)));
    }
}

/// What stands in one place of a template.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// A number that may be negative, always in decimal.
    Signed(i64),
    /// Words.
    Words(&'a str),
    /// What says itself how it reads.
    Of(&'a dyn Shown),
}

macro_rules! numbers {
    ($($type:ty)+) => {
        $(impl From<$type> for Value<'_> {
            #[inline(always)]
            #[allow(clippy::cast_lossless, reason = "there is no other way for usize")]
            fn from(number: $type) -> Self {
                Self::Number(number as u64)
            }
        })+
    };
}

numbers!(u8 u16 u32 u64 usize);

impl From<i64> for Value<'_> {
    #[inline(always)]
    fn from(number: i64) -> Self {
        Self::Signed(number)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    #[inline(always)]
    fn from(words: &'a str) -> Self {
        Self::Words(words)
    }
}

impl<'a> From<&'a dyn Shown> for Value<'a> {
    #[inline(always)]
    fn from(value: &'a dyn Shown) -> Self {
        Self::Of(value)
    }
}

/// A template and its values: what [`text!`](crate::text!) makes.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// With a place for each value.
    pub template: &'static str,
    /// In the order of their places.
    pub values: &'a [Value<'a>],
}

impl Text<'_> {
    /// [`put`].
    #[inline(always)]
    pub fn put(self, out: &mut dyn Sink) {
        put(out, self.template, self.values);
    }
}

impl Shown for Text<'_> {
    fn show(&self, f: &mut dyn Sink) {
        self.put(f);
    }
}

crate::shown!(Text<'_>);

/// How many values have a place in `template`.
///
/// # Panics
/// While compiling: if it is no template.
#[must_use]
pub const fn places(template: &str) -> usize {
    let (bytes, mut at, mut places, mut inside) = (template.as_bytes(), 0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'{' if !inside => inside = true,
            b'}' if inside => {
                inside = false;
                places += 1;
            }
            b':' | b'#' | b'x' | b'0'..=b'9' if inside => {}
            byte => assert!(!inside && byte.is_ascii() && byte != b'}', "not a template"),
        }
        at += 1;
    }
    assert!(!inside, "a place without an end");
    places
}

/// Writes `template` to `out` with `values` in their places.
pub fn put(out: &mut dyn Sink, template: &str, values: &[Value<'_>]) {
    let mut values = values.iter();
    // In a place: its base, and its width.
    let mut place = None::<(u64, usize)>;
    for byte in template.bytes() {
        match (byte, &mut place) {
            (b'{', _) => place = Some((10, 0)),
            (b'}', Some((base, width))) => {
                if let Some(value) = values.next() {
                    show(out, value, *base, *width);
                }
                place = None;
            }
            (b'x', Some((base, _))) => *base = 16,
            (b'0'..=b'9', Some((_, width))) => *width = 10 * *width + usize::from(byte - b'0'),
            (_, Some(_)) => {}
            (_, None) => out.byte(byte),
        }
    }
}

fn show(out: &mut dyn Sink, value: &Value<'_>, base: u64, width: usize) {
    match *value {
        Value::Number(number) => {
            if base == 16 {
                out.words("0x");
            }
            digits(out, number, base, width.saturating_sub(2));
        }
        Value::Signed(number) => {
            if number < 0 {
                out.byte(b'-');
            }
            digits(out, number.unsigned_abs(), 10, 0);
        }
        Value::Words(words) => out.words(words),
        Value::Of(value) => value.show(out),
    }
}

/// The digits of `number`, at least `least` of them and one.
fn digits(out: &mut dyn Sink, mut number: u64, base: u64, least: usize) {
    let mut digits = [0; 20];
    let mut count = 0;
    for digit in &mut digits {
        *digit = (number % base) as u8;
        number /= base;
        count += 1;
        if number == 0 && count >= least {
            break;
        }
    }
    for digit in digits.iter().take(count).rev() {
        let first = if *digit < 10 { b'0' } else { b'a' - 10 };
        out.byte(first + digit);
    }
}

/// A [`Text`]: a template and its values.
#[macro_export]
macro_rules! text {
    ($template:literal $(, $value:expr)* $(,)?) => {
        $crate::text::Text {
            template: const {
                assert!($crate::text::places($template) == <[&str]>::len(&[$(stringify!($value)),*]), "a place for each value");
                $template
            },
            values: &[$($crate::text::Value::from($value)),*],
        }
    };
}

/// Makes what is [`Shown`] a `Display`.
#[macro_export]
macro_rules! shown {
    ($type:ty) => {
        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                $crate::text::Through::show(self, f)
            }
        }
    };
}

/// Writes a template with its values to a [`Sink`](crate::text::Sink).
#[macro_export]
macro_rules! put {
    ($out:expr, $($text:tt)*) => {
        $crate::text!($($text)*).put($out)
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_stand_in_their_places() {
        let name: &dyn Shown = &text!("na{}", "me");
        let text = text!(
            "{}: {} of {}, {:#x} and {:#06x}, {}.\n",
            1_u8,
            "two",
            name,
            0x3f_u64,
            4_usize,
            -5_i64
        );
        assert_eq!(text.to_string(), "1: two of name, 0x3f and 0x0004, -5.\n");
        assert_eq!(text!("plain").to_string(), "plain");
        assert_eq!(text!("{}", &text!("{:#04x}", 7_u32) as &dyn Shown).to_string(), "0x07");
    }

    #[test]
    fn a_value_too_few_leaves_its_place_empty() {
        let text = Text {
            template: "{}+{}",
            values: &[Value::Number(1)],
        };
        assert_eq!(text.to_string(), "1+");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn numbers_read_as_core_fmt_has_them(number in prop_oneof![any::<u64>(), 0..20_u64, Just(u64::MAX), Just(i64::MIN as u64)]) {
            prop_assert_eq!(text!("{}", number).to_string(), format!("{number}"));
            prop_assert_eq!(text!("{}", number as i64).to_string(), format!("{}", number as i64));
            prop_assert_eq!(text!("{:#x}", number).to_string(), format!("{number:#x}"));
            prop_assert_eq!(text!("{:#018x}", number).to_string(), format!("{number:#018x}"));
            prop_assert_eq!(text!("{:#04x}", number & 0xFF).to_string(), format!("{:#04x}", number & 0xFF));
        }
    }
}
