//! PURE. Kinds of values: how each is read from TOML, shown as TOML, and described to the operator.

use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::from_text::FromText;
use super::listener::ListenerKind;
use super::options::{GIB, KIB, LogFormat, LogLevel, MIB, Wiring};
use crate::routing::{TlsPolicy, is_host_name};

/// A kind of value. Reading never panics; what it says on failure completes "found …".
pub(super) trait Kind {
    /// What it is read into.
    type Value;
    /// The value, or what is wrong with it when the allowed forms alone do not say it.
    fn read(&self, value: &DeValue<'_>) -> Result<Self::Value, Wrong>;
    /// As TOML that reads back to the same.
    fn show(&self, value: &Self::Value) -> String;
    /// The allowed forms, in words.
    fn allowed(&self) -> String;
}

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is not of the allowed form.
    Form,
    /// It is, but cannot be; the reason.
    Reason(String),
}

/// A whole number within bounds.
pub(super) struct Count<T>(pub RangeInclusive<T>);

impl<T: TryFrom<u64> + PartialOrd + Display> Kind for Count<T> {
    type Value = T;

    fn read(&self, value: &DeValue<'_>) -> Result<T, Wrong> {
        let count = integer(value).and_then(|count| T::try_from(count).ok()).ok_or(Wrong::Form)?;
        if self.0.contains(&count) { Ok(count) } else { Err(Wrong::Form) }
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }

    fn allowed(&self) -> String {
        format!("a whole number from {} to {}", self.0.start(), self.0.end())
    }
}

/// A whole number within bounds, or `"auto"`, which is read as 0.
pub(super) struct CountOrAuto(pub u16);

impl Kind for CountOrAuto {
    type Value = u16;

    fn read(&self, value: &DeValue<'_>) -> Result<u16, Wrong> {
        if value.as_str() == Some("auto") { Ok(0) } else { Count(1..=self.0).read(value) }
    }

    fn show(&self, value: &u16) -> String {
        if *value == 0 { quoted("auto") } else { value.to_string() }
    }

    fn allowed(&self) -> String {
        format!("\"auto\" or {}", Count(1..=self.0).allowed())
    }
}

/// A number with a fraction, within bounds.
pub(super) struct Fraction(pub RangeInclusive<f64>);

impl Kind for Fraction {
    type Value = f64;

    fn read(&self, value: &DeValue<'_>) -> Result<f64, Wrong> {
        let number = match value {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            other => integer(other).map(|count| count as f64),
        };
        number.filter(|number| self.0.contains(number)).ok_or(Wrong::Form)
    }

    fn show(&self, value: &f64) -> String {
        format!("{value:?}")
    }

    fn allowed(&self) -> String {
        format!("a number from {:?} to {:?}", self.0.start(), self.0.end())
    }
}

/// `true` or `false`.
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn read(&self, value: &DeValue<'_>) -> Result<bool, Wrong> {
        value.as_bool().ok_or(Wrong::Form)
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn allowed(&self) -> String {
        "true or false".into()
    }
}

/// Units of sizes, largest first, so that a size is shown in the largest that divides it.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];
/// Units of durations, likewise, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads `64MiB` and the like: digits, then one of `units`.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Shows `amount` in the largest of `units` that divides it.
fn show_quantity(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, scale): &&(&str, u64)| amount.is_multiple_of(*scale) && (amount > 0 || *scale == 1);
    let (name, scale) = units.iter().find(fits).unwrap_or(&units[units.len() - 1]);
    format!("{}{name}", amount / scale)
}

/// A size in bytes.
pub(super) struct Size(pub RangeInclusive<u64>);

impl Kind for Size {
    type Value = u64;

    fn read(&self, value: &DeValue<'_>) -> Result<u64, Wrong> {
        let bytes = match value.as_str() {
            Some(text) => quantity(text, &SIZE_UNITS),
            None => integer(value),
        };
        bytes.filter(|bytes| self.0.contains(bytes)).ok_or(Wrong::Form)
    }

    fn show(&self, value: &u64) -> String {
        quoted(&show_quantity(*value, &SIZE_UNITS))
    }

    fn allowed(&self) -> String {
        let (least, most) =
            (show_quantity(*self.0.start(), &SIZE_UNITS), show_quantity(*self.0.end(), &SIZE_UNITS));
        format!("a size such as \"64MiB\" (units B, KiB, MiB, GiB) from {least} to {most}")
    }
}

/// A duration, bounds in milliseconds.
pub(super) struct Time(pub RangeInclusive<u64>);

/// A time-out: 100 ms to a day.
pub(super) const TIMEOUT: Time = Time(100..=86_400_000);

impl Kind for Time {
    type Value = Duration;

    fn read(&self, value: &DeValue<'_>) -> Result<Duration, Wrong> {
        let text = value.as_str().ok_or(Wrong::Form)?;
        let millis = quantity(text, &TIME_UNITS).filter(|millis| self.0.contains(millis));
        millis.map(Duration::from_millis).ok_or(Wrong::Form)
    }

    fn show(&self, value: &Duration) -> String {
        quoted(&show_duration(*value))
    }

    fn allowed(&self) -> String {
        let (least, most) =
            (show_quantity(*self.0.start(), &TIME_UNITS), show_quantity(*self.0.end(), &TIME_UNITS));
        format!("a duration such as \"5m\" (units ms, s, m, h, d) from {least} to {most}")
    }
}

/// `5m` and the like.
pub(super) fn show_duration(duration: Duration) -> String {
    show_quantity(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS)
}

/// `64MiB` and the like.
pub(super) fn show_size(bytes: u64) -> String {
    show_quantity(bytes, &SIZE_UNITS)
}

/// A text that a type reads itself.
pub(super) struct Parsed<T>(&'static str, PhantomData<T>);

/// A text read by `T`, with the words for what is allowed.
pub(super) const fn text<T: FromText>(allowed: &'static str) -> Parsed<T> {
    Parsed(allowed, PhantomData)
}

impl<T: FromText> Kind for Parsed<T> {
    type Value = T;

    fn read(&self, value: &DeValue<'_>) -> Result<T, Wrong> {
        T::from_text(value.as_str().ok_or(Wrong::Form)?)
    }

    fn show(&self, value: &T) -> String {
        quoted(&value.to_text())
    }

    fn allowed(&self) -> String {
        self.0.into()
    }
}

/// A list of texts; `least` of them at least.
pub(super) struct List<T> {
    item: Parsed<T>,
    least: usize,
}

/// A list of at least `least` texts read by `T`.
pub(super) const fn list<T: FromText>(least: usize, allowed: &'static str) -> List<T> {
    List { item: text(allowed), least }
}

impl<T: FromText> Kind for List<T> {
    type Value = Vec<T>;

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<T>, Wrong> {
        let array = value.as_array().ok_or(Wrong::Form)?;
        if array.len() < self.least {
            return Err(Wrong::Reason("the list is too short".into()));
        }
        let item = |item: &Spanned<DeValue<'_>>| {
            self.item.read(item.get_ref()).map_err(|wrong| match wrong {
                Wrong::Form => Wrong::Reason(format!("{} is not allowed in it", found(item.get_ref()))),
                reason => reason,
            })
        };
        array.iter().map(item).collect()
    }

    fn show(&self, value: &Vec<T>) -> String {
        let items: Vec<String> = value.iter().map(|item| self.item.show(item)).collect();
        format!("[{}]", items.join(", "))
    }

    fn allowed(&self) -> String {
        format!("a list of {}", self.item.allowed())
    }
}

/// A value of the table's own, in place of another setting's. Left out it is `None`, which is shown as nothing.
pub(super) struct Own<K>(pub K);

impl<K: Kind> Kind for Own<K> {
    type Value = Option<K::Value>;

    fn read(&self, value: &DeValue<'_>) -> Result<Self::Value, Wrong> {
        self.0.read(value).map(Some)
    }

    fn show(&self, value: &Self::Value) -> String {
        value.as_ref().map(|value| self.0.show(value)).unwrap_or_default()
    }

    fn allowed(&self) -> String {
        self.0.allowed()
    }
}

/// A name, or empty for the one that stands in for it.
pub(super) struct NameOrEmpty;

impl Kind for NameOrEmpty {
    type Value = String;

    fn read(&self, value: &DeValue<'_>) -> Result<String, Wrong> {
        let name = value.as_str().ok_or(Wrong::Form)?;
        if name.is_empty() || is_host_name(name) { Ok(name.to_owned()) } else { Err(Wrong::Form) }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn allowed(&self) -> String {
        "a host name such as \"mail.example.com\", or \"\"".into()
    }
}

/// A word of letters, digits, `-`, `_` and `.`; empty where there is none.
pub(super) struct WordOrEmpty;

impl Kind for WordOrEmpty {
    type Value = String;

    fn read(&self, value: &DeValue<'_>) -> Result<String, Wrong> {
        let word = value.as_str().ok_or(Wrong::Form)?;
        let fits = word.len() <= 64 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if fits { Ok(word.to_owned()) } else { Err(Wrong::Form) }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn allowed(&self) -> String {
        "up to 64 letters, digits, `-`, `_` and `.`, or \"\"".into()
    }
}

/// Permissions of a file, in octal digits.
pub(super) struct Mode;

impl Kind for Mode {
    type Value = u32;

    fn read(&self, value: &DeValue<'_>) -> Result<u32, Wrong> {
        let digits = value.as_str().filter(|text| (3..=4).contains(&text.len())).ok_or(Wrong::Form)?;
        u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777).ok_or(Wrong::Form)
    }

    fn show(&self, value: &u32) -> String {
        quoted(&format!("{value:04o}"))
    }

    fn allowed(&self) -> String {
        "three octal digits, such as \"0660\"".into()
    }
}

/// A line of text; empty where there is none.
pub(super) struct LineOrEmpty;

impl Kind for LineOrEmpty {
    type Value = String;

    fn read(&self, value: &DeValue<'_>) -> Result<String, Wrong> {
        let line = value.as_str().ok_or(Wrong::Form)?;
        let fits = line.len() <= 255 && !line.contains(char::is_control);
        if fits { Ok(line.to_owned()) } else { Err(Wrong::Form) }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn allowed(&self) -> String {
        "up to 255 bytes without control characters, or \"\"".into()
    }
}

/// A path; empty where there is none.
pub(super) struct PathOrEmpty;

impl Kind for PathOrEmpty {
    type Value = PathBuf;

    fn read(&self, value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
        value.as_str().map(PathBuf::from).ok_or(Wrong::Form)
    }

    fn show(&self, value: &PathBuf) -> String {
        quoted(&value.to_string_lossy())
    }

    fn allowed(&self) -> String {
        "a path, relative to the working directory, or \"\"".into()
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

/// Words of `threads.wiring`.
pub(super) const WIRING: Choice<Wiring> =
    Choice(&[("auto", Wiring::Auto), ("shared", Wiring::Shared), ("split", Wiring::Split)]);
/// Words of `listener.kind`.
pub(super) const LISTENER_KIND: Choice<ListenerKind> = Choice(&[
    ("relay", ListenerKind::Relay),
    ("submission", ListenerKind::Submission),
    ("submissions", ListenerKind::Submissions),
    ("mx", ListenerKind::Mx),
    ("lmtp", ListenerKind::Lmtp),
]);
/// Words of `delivery.tls`.
pub(super) const TLS_POLICY: Choice<TlsPolicy> = Choice(&[
    ("off", TlsPolicy::Off),
    ("opportunistic", TlsPolicy::Opportunistic),
    ("required", TlsPolicy::Required),
    ("verified", TlsPolicy::Verified),
]);
/// Words of `log.format`.
pub(super) const LOG_FORMAT: Choice<LogFormat> =
    Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
/// Words of `log.level`.
pub(super) const LOG_LEVEL: Choice<LogLevel> = Choice(&[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
]);

impl<T: Copy + PartialEq> Kind for Choice<T> {
    type Value = T;

    fn read(&self, value: &DeValue<'_>) -> Result<T, Wrong> {
        let word = value.as_str().ok_or(Wrong::Form)?;
        self.0.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice).ok_or(Wrong::Form)
    }

    fn show(&self, value: &T) -> String {
        quoted(self.0.iter().find(|(_, choice)| choice == value).map_or("", |(name, _)| name))
    }

    fn allowed(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(name, _)| quoted(name)).collect();
        words.join(", ")
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value in the words of an error, cut short, without control characters.
pub(super) fn found(value: &DeValue<'_>) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let text = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(items) => return format!("a list of {}", items.len()),
        DeValue::Table(_) => return "a table".into(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
