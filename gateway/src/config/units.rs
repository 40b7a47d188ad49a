//! Sizes and durations as people write them: `512MiB`, `10s`.
//!
//! A size is bytes, with an optional binary (`KiB`) or decimal (`KB`) unit; a duration has a unit always, so that nobody
//! has to guess it. Both print in the form in which they can be read again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time, at least a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Why a text is no size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    /// Not a size.
    #[error("'{0}' is not a size: write a whole number with a unit, like 512MiB, 2GiB or 4096B")]
    Size(String),
    /// Not a duration.
    #[error("'{0}' is not a duration: write a whole number with a unit, like 500ms, 5s, 2m or 1h")]
    Span(String),
}

const SIZE_UNITS: [(&str, u64); 12] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("kiB", 1 << 10),
];

const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A whole number and one of the units, multiplied; none when it is not that or does not fit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor)?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl FromStr for Size {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, BadUnit> {
        scaled(text, &SIZE_UNITS).map(Self).ok_or_else(|| BadUnit::Size(text.to_owned()))
    }
}

impl FromStr for Span {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, BadUnit> {
        let millis = scaled(text, &SPAN_UNITS).filter(|millis| *millis > 0);
        millis.map(|millis| Self(Duration::from_millis(millis))).ok_or_else(|| BadUnit::Span(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS[..4].iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        let (name, factor) = unit.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let unit = SPAN_UNITS.iter().find(|(_, factor)| millis % factor == 0);
        let (name, factor) = unit.copied().unwrap_or(("ms", 1));
        write!(f, "{}{name}", millis / factor)
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text! { Size Span }

/// Bytes for people, with three figures: `1.50 GiB`. Not meant to be read again.
#[must_use]
pub fn approximate(bytes: u64) -> String {
    let unit = SIZE_UNITS[..4].iter().find(|(_, factor)| bytes >= *factor);
    let Some((name, factor)) = unit else { return format!("{bytes} B") };
    let hundredths = u128::from(bytes) * 100 / u128::from(*factor);
    match hundredths {
        0..1_000 => format!("{}.{:02} {name}", hundredths / 100, hundredths % 100),
        1_000..10_000 => format!("{}.{} {name}", hundredths / 100, hundredths / 10 % 10),
        _ => format!("{} {name}", hundredths / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_print_the_same_again() {
        for (text, bytes) in [("0B", 0), ("1B", 1), ("512MiB", 512 << 20), ("64GiB", 64 << 30), ("5TiB", 5 << 40)] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
        }
        for (text, bytes) in [("4096", 4096), ("1kB", 1000), (" 2 MB ", 2_000_000), ("1024MiB", 1 << 30)] {
            assert_eq!(text.parse::<Size>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "MiB", "1.5GiB", "-1B", "1 lightyear", "99999999999TiB", "1mib"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_print_the_same_again() {
        for (text, millis) in [("1ms", 1), ("1500ms", 1500), ("5s", 5000), ("2m", 120_000), ("1h", 3_600_000)] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0, span.to_string().as_str()), (Duration::from_millis(millis), text));
        }
        for text in ["", "5", "0s", "1.5s", "s", "5 parsecs"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_for_people_have_three_figures() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (12 << 20, "12.0 MiB"), (700 << 20, "700 MiB")]
        {
            assert_eq!(approximate(bytes), text);
        }
    }
}
