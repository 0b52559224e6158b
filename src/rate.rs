//! Bandwidth and burst sizes with their units.
//!
//! Two families of units meet here: Mesos' bytes (`37500KB`, 1024-based) and tc's bits (`300mbit`, 1000-based). A rate
//! is kept in bits per second because every byte rate is a whole number of bits while the reverse does not hold; 64
//! bits reach 18 Ebit/s. What is asked for is a `limit`, what becomes of it is decided in `scale`. What does not live
//! here: the keys (`config`, `request`), and how the kernel is told (`net`). Reading a number with its unit is in `text`.

mod limit;
mod scale;
mod text;

pub use limit::{Direction, Limit};
pub use scale::{Machine, PerCpu, Policy, Shape};
pub use text::UnitError;

use crate::refusal::from_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use text::{RATE, SIZE, bits_word, bytes_word, parse};

/// Bits per second, exact. Zero (`0B`, `0mbit`) means unlimited, as in Mesos up to 1.11.
///
/// Not ordered on purpose: zero would sort below every limit. Use [`Rate::is_below`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    bits: u64,
    /// Written in bits, as in tc: it is shown so again. This makes no difference between two rates.
    in_bits: bool,
}

/// Bytes, as in `64KB`; 1024-based units only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

impl Rate {
    /// No limit.
    pub const UNLIMITED: Rate = Rate::from_bits_per_second(0);

    /// From bits per second; 0 is unlimited.
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Rate { bits, in_bits: false }
    }

    /// From bytes per second; `None` beyond 2^61.
    pub const fn from_bytes_per_second(bytes: u64) -> Option<Self> {
        match bytes.checked_mul(8) {
            Some(bits) => Some(Rate::from_bits_per_second(bits)),
            None => None,
        }
    }

    /// Bits per second, exact.
    pub const fn bits_per_second(self) -> u64 {
        self.bits
    }

    /// Bytes per second, the kernel's unit. Rounded up, so that no limit ever becomes 0, which would be none.
    pub const fn bytes_per_second(self) -> u64 {
        self.bits.div_ceil(8)
    }

    /// Whether this is no limit at all.
    pub const fn is_unlimited(self) -> bool {
        self.bits == 0
    }

    /// Whether this limit is tighter than `other`; unlimited is never below anything.
    pub const fn is_below(self, other: Rate) -> bool {
        !self.is_unlimited() && (other.is_unlimited() || self.bits < other.bits)
    }
}

impl Size {
    /// From a number of bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Size(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let in_bits = text.trim().to_ascii_lowercase().trim_end_matches("/s").ends_with("bit");
        parse(text, RATE).map(|bits| Rate { bits, in_bits })
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, SIZE).map(Size)
    }
}

impl PartialEq for Rate {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl Eq for Rate {}

/// In the unit it was written in: `37500KB/s (307.2 Mbit/s)`, `300mbit`. The first word is exact and can be typed back; the
/// second is rounded to three decimals, and left out where it would say the same. Zero is `0B (unlimited)`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits;
        if self.is_unlimited() {
            return f.write_str("0B (unlimited)");
        }
        let (name, unit) = [("bit/s", 1), ("Kbit/s", 1000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)]
            .into_iter()
            .chain([("Tbit/s", 1_000_000_000_000u64)])
            .rfind(|&(_, unit)| bits >= unit)
            .unwrap_or(("bit/s", 1));
        let thousandths = (u128::from(bits) * 1000 + u128::from(unit) / 2) / u128::from(unit);
        let decimals = format!(".{:03}", thousandths % 1000);
        let decimals = decimals.trim_end_matches('0').trim_end_matches('.');
        let (word, rounded) = (self.word(), format!("{}{decimals} {name}", thousandths / 1000));
        if word.eq_ignore_ascii_case(rounded.replace(' ', "").trim_end_matches("/s")) {
            return f.write_str(&word);
        }
        write!(f, "{word}{} ({rounded})", if word.ends_with('B') { "/s" } else { "" })
    }
}

/// The largest unit that keeps it exact: `64KB`, `1600B`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bytes_word(self.0))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.word())
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a rate with its unit such as \"37500KB\" or \"300mbit\"")
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a size with its unit such as \"64KB\"")
    }
}

impl Rate {
    /// The exact spelling: bits where it was written so, or where bytes do not come out whole.
    fn word(self) -> String {
        let in_bytes = self.bits.is_multiple_of(8) && (!self.in_bits || self.is_unlimited());
        if in_bytes { bytes_word(self.bits / 8) } else { bits_word(self.bits) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn both_families_are_exact() {
        for (text, bits) in [
            ("37500KB", 307_200_000),
            ("37500kb", 307_200_000),
            ("300mbit", 300_000_000),
            ("1.5Mbit", 1_500_000),
            ("0.5KB", 4096),
            ("1.000bit", 1),
            ("0.125B", 1),
            ("34359738368B", 274_877_906_944),
            ("10tbit", 10_000_000_000_000),
            ("2097151TB", 18_446_735_277_616_529_408),
            ("18446744073709551615bit", u64::MAX),
        ] {
            assert_eq!(rate(text).bits_per_second(), bits, "{text}");
        }
        assert_eq!("1.5KB".parse::<Size>().unwrap().bytes(), 1536);
    }

    #[test]
    fn prints_both_families() {
        for (text, shown) in [
            ("37500KB", "37500KB/s (307.2 Mbit/s)"),
            ("37500kb/s", "37500KB/s (307.2 Mbit/s)"),
            ("300mbit", "300mbit"),
            ("300Mbit/s", "300mbit"),
            ("1.5mbit", "1500kbit (1.5 Mbit/s)"),
            ("2500000B", "2500000B/s (20 Mbit/s)"),
            ("1GB", "1GB/s (8.59 Gbit/s)"),
            ("1bit", "1bit"),
            ("1234567bit", "1234567bit (1.235 Mbit/s)"),
            ("100gbit", "100gbit"),
            ("0gbit", "0B (unlimited)"),
        ] {
            assert_eq!(rate(text).to_string(), shown);
        }
        assert_eq!("2048B".parse::<Size>().unwrap().to_string(), "2KB");
        assert_eq!(Size::from_bytes(0).to_string(), "0B");
    }

    #[test]
    fn unlimited_is_above_every_limit() {
        assert!(rate("0B").is_unlimited() && rate("0.0bit").is_unlimited());
        assert!(rate("1tbit").is_below(Rate::UNLIMITED) && !Rate::UNLIMITED.is_below(rate("1tbit")));
        assert!(!rate("1kbit").is_below(rate("1kbit")));
        assert_eq!(rate("1bit").bytes_per_second(), 1);
    }

    #[test]
    fn serde_keeps_the_value() {
        for bits in [0, 1, 8, 307_200_000, u64::MAX, u64::MAX - 7] {
            let text = serde_json::to_string(&Rate::from_bits_per_second(bits)).unwrap();
            assert_eq!(serde_json::from_str::<Rate>(&text).unwrap(), Rate::from_bits_per_second(bits), "{text}");
        }
        for text in ["\"20mbit\"", "\"37500KB\""] {
            let kept: Rate = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&kept).unwrap(), text);
        }
        assert_eq!(rate("20mbit"), rate("2500000B"));
        assert!(serde_json::from_str::<Rate>("300").unwrap_err().to_string().contains("300mbit"));
    }
}
