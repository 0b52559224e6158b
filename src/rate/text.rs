//! A number with its unit: which units there are, and exact reading of `1.5mbit`.
//!
//! What does not live here: what the value is good for, which is one level up.

use crate::refusal::quoted;

/// Why a text is not a rate or a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing, or something that does not begin with a digit.
    #[error("{} does not begin with a number; write {}", quoted(.0), .1.example)]
    NotANumber(String, Kind),
    /// Less than zero.
    #[error("{} is negative; write {}, or 0B", quoted(.0), .1.example)]
    Negative(String, Kind),
    /// A bare number could mean bits or bytes, by 1000 or by 1024.
    #[error("{} has no unit; write one of {} right after the number", quoted(.0), .1.names)]
    NoUnit(String, Kind),
    /// A unit that does not exist or does not measure this.
    #[error("{} has an unknown unit; write one of {} right after the number", quoted(.0), .1.names)]
    UnknownUnit(String, Kind),
    /// A fraction that does not come out even.
    #[error("{} is not a whole number of {}; write it in a smaller unit", quoted(.0), .1.base)]
    NotWhole(String, Kind),
    /// More than 64 bits hold.
    #[error("{} is too large; the largest is {}", quoted(.0), .1.largest)]
    TooLarge(String, Kind),
}

/// What the two kinds of quantity differ in, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    base: &'static str,
    example: &'static str,
    names: &'static str,
    largest: &'static str,
    units: &'static [(&'static str, u64)],
}

/// Rates, in bits per second.
pub(super) const RATE: Kind = Kind {
    base: "bits per second",
    example: "37500KB or 300mbit",
    names: "B, KB, MB, GB, TB (1024-based bytes per second) or bit, kbit, mbit, gbit, tbit (1000-based bits per second)",
    largest: "18446744073709551615bit",
    units: &[
        ("B", 8),
        ("KB", 8 << 10),
        ("MB", 8 << 20),
        ("GB", 8 << 30),
        ("TB", 8 << 40),
        ("bit", 1),
        ("kbit", 1_000),
        ("mbit", 1_000_000),
        ("gbit", 1_000_000_000),
        ("tbit", 1_000_000_000_000),
    ],
};

/// Rates, where `auto` is understood, too.
pub(super) const PER_CPU: Kind = Kind { example: "37500KB, 300mbit or auto", ..RATE };

/// Sizes, in bytes.
pub(super) const SIZE: Kind = Kind {
    base: "bytes",
    example: "64KB",
    names: "B, KB, MB, GB, TB (1024-based bytes)",
    largest: "18446744073709551615B",
    units: BYTES,
};

const BITS: &[(&str, u64)] =
    &[("bit", 1), ("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000), ("tbit", 1_000_000_000_000)];

const BYTES: &[(&str, u64)] = &[("B", 1), ("KB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// With more decimals than this, no unit comes out whole that 128 bits can compute.
const DECIMALS: usize = 24;

/// Digits, optionally a point and digits, and a unit of `kind`, without spaces between; case does not matter. A rate may end
/// in `/s`, as it is shown.
pub(super) fn parse(text: &str, kind: Kind) -> Result<u64, UnitError> {
    let text = text.trim();
    let refuse = |why: fn(String, Kind) -> UnitError| why(text.chars().take(100).collect(), kind);
    if text.starts_with('-') {
        return Err(refuse(UnitError::Negative));
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(refuse(UnitError::NotANumber));
    }
    let unit = if kind.base == RATE.base { unit.strip_suffix("/s").unwrap_or(unit) } else { unit };
    if unit.is_empty() {
        return Err(refuse(UnitError::NoUnit));
    }
    let &(_, scale) = (kind.units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)))
        .ok_or_else(|| refuse(UnitError::UnknownUnit))?;
    let whole: u64 = whole.parse().map_err(|_| refuse(UnitError::TooLarge))?;
    let part = part_of(fraction, scale).ok_or_else(|| refuse(UnitError::NotWhole))?;
    whole.checked_mul(scale).and_then(|value| value.checked_add(part)).ok_or_else(|| refuse(UnitError::TooLarge))
}

/// 0.`fraction` times `scale`, if that is a whole number.
fn part_of(fraction: &str, scale: u64) -> Option<u64> {
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Some(0);
    }
    if fraction.len() > DECIMALS {
        return None;
    }
    let product = fraction.parse::<u128>().ok()? * u128::from(scale);
    let divisor = 10u128.pow(fraction.len() as u32);
    // Less than `scale`, hence 64 bits.
    product.is_multiple_of(divisor).then_some((product / divisor) as u64)
}

/// Bytes, in the largest unit that keeps them exact.
pub(super) fn bytes_word(bytes: u64) -> String {
    word(bytes, BYTES)
}

/// Bits, in the largest unit that keeps them exact.
pub(super) fn bits_word(bits: u64) -> String {
    word(bits, BITS)
}

fn word(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |&&(_, unit): &&(&str, u64)| number >= unit && number.is_multiple_of(unit);
    let &(name, unit) = units.iter().rfind(fits).unwrap_or(&units[0]);
    format!("{}{name}", number / unit)
}

#[cfg(test)]
mod tests {
    use crate::rate::{Rate, Size};

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, message) in [
            ("300", "\"300\" has no unit; write one of B, KB"),
            ("-5KB", "is negative"),
            ("", "does not begin with a number"),
            ("fast", "does not begin with a number"),
            (".5mbit", "does not begin with a number"),
            ("1.mbit", "does not begin with a number"),
            ("1.2.3mbit", "does not begin with a number"),
            ("1e3mbit", "unknown unit"),
            ("300 mbit", "unknown unit"),
            ("300mbps", "unknown unit"),
            ("1.5bit", "is not a whole number of bits per second"),
            ("0.3KB", "is not a whole number"),
            ("2097152TB", "is too large; the largest is 18446744073709551615bit"),
            ("99999999999999999999bit", "is too large"),
            ("5\u{7}", "\\u{7}"),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains(message) && !error.contains('\n'), "{text}: {error}");
        }
        assert!("64kbit".parse::<Size>().unwrap_err().to_string().contains("B, KB, MB, GB, TB (1024-based bytes)"));
    }
}
