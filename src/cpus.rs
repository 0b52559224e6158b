//! A number of CPUs in thousandths: `0.35`, `100.5`.
//!
//! Kept as a whole number, so that what was asked, stored and compared is exact. What does not live here: what a
//! container gets for its CPUs (`rate::scale`), and how many the host has.

use crate::refusal::{from_text, quoted};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A number of CPUs, in thousandths: more than zero, at most [`Cpus::MOST`]. Serialised as a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus(u64);

/// The most a container may use, whatever the others leave. In text a number of CPUs, or `inf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuLimit {
    /// So many CPUs.
    Cpus(Cpus),
    /// All it can get.
    Infinite,
}

/// Why a text is not a number of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpusError {
    /// Not digits, or digits, a point and digits.
    #[error("{} is not a number of CPUs; write a decimal number such as 0.35 or 2", quoted(.0))]
    NotANumber(String),
    /// Less than zero.
    #[error("{} is negative; write 0.001 or more", quoted(.0))]
    Negative(String),
    /// Nothing to run on.
    #[error("{} is no CPU at all; write 0.001 or more", quoted(.0))]
    Zero(String),
    /// More than three decimals.
    #[error("{} is not a whole number of thousandths; write at most 3 decimals", quoted(.0))]
    TooFine(String),
    /// More than [`Cpus::MOST`].
    #[error("{} is too large; the largest is 100000", quoted(.0))]
    TooLarge(String),
}

impl Cpus {
    /// 100000 CPUs, far beyond any machine; a number above it is a mistake.
    pub const MOST: Cpus = Cpus(100_000_000);

    /// From thousandths of a CPU; `None` for 0 and beyond [`Cpus::MOST`].
    pub const fn from_thousandths(thousandths: u64) -> Option<Self> {
        if thousandths == 0 || thousandths > Self::MOST.0 { None } else { Some(Cpus(thousandths)) }
    }

    /// Thousandths of a CPU, at least 1.
    pub const fn thousandths(self) -> u64 {
        self.0
    }

    /// Whole CPUs, rounded down as Mesos does: 0 below one.
    pub const fn whole(self) -> u64 {
        self.0 / 1000
    }
}

impl FromStr for Cpus {
    type Err = CpusError;

    fn from_str(text: &str) -> Result<Self, CpusError> {
        let text = text.trim();
        let refuse = |why: fn(String) -> CpusError| why(text.chars().take(100).collect());
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (unsigned, negative) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        if !digits(whole) || !digits(fraction) {
            return Err(refuse(CpusError::NotANumber));
        }
        if negative {
            return Err(refuse(CpusError::Negative));
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 3 {
            return Err(refuse(CpusError::TooFine));
        }
        let whole: u64 = whole.parse().map_err(|_| refuse(CpusError::TooLarge))?;
        let part: u64 = format!("{fraction:0<3}").parse().map_err(|_| refuse(CpusError::NotANumber))?;
        match whole.checked_mul(1000).and_then(|whole| whole.checked_add(part)) {
            Some(0) => Err(refuse(CpusError::Zero)),
            Some(thousandths) => Cpus::from_thousandths(thousandths).ok_or_else(|| refuse(CpusError::TooLarge)),
            None => Err(refuse(CpusError::TooLarge)),
        }
    }
}

/// As few decimals as keep it exact: `0.35`, `2`.
impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!(".{:03}", self.0 % 1000);
        write!(f, "{}{}", self.whole(), decimals.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a number of CPUs such as \"0.35\" or \"2\"")
    }
}

impl FromStr for CpuLimit {
    type Err = CpusError;

    fn from_str(text: &str) -> Result<Self, CpusError> {
        if text.trim() == "inf" { Ok(CpuLimit::Infinite) } else { text.parse().map(CpuLimit::Cpus) }
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CpuLimit::Cpus(cpus) => cpus.fmt(f),
            CpuLimit::Infinite => f.write_str("inf"),
        }
    }
}

impl Serialize for CpuLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a number of CPUs such as \"0.35\", or \"inf\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_and_come_back() {
        for (text, thousandths, whole, shown) in [
            ("0.35", 350, 0, "0.35"),
            ("0.001", 1, 0, "0.001"),
            ("1", 1000, 1, "1"),
            (" 2.0 ", 2000, 2, "2"),
            ("3.1", 3100, 3, "3.1"),
            ("0.3500", 350, 0, "0.35"),
            ("007.05", 7050, 7, "7.05"),
            ("100.5", 100_500, 100, "100.5"),
            ("100000", 100_000_000, 100_000, "100000"),
        ] {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!((cpus.thousandths(), cpus.whole(), cpus.to_string().as_str()), (thousandths, whole, shown));
            let json = serde_json::to_string(&cpus).unwrap();
            assert_eq!(json, format!("\"{shown}\""));
            assert_eq!(serde_json::from_str::<Cpus>(&json).unwrap(), cpus);
        }
        assert_eq!((Cpus::from_thousandths(0), Cpus::from_thousandths(100_000_001)), (None, None));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, words) in [
            ("", "is not a number of CPUs"),
            (".5", "is not a number of CPUs"),
            ("1.", "is not a number of CPUs"),
            ("1.2.3", "is not a number of CPUs"),
            ("1e3", "is not a number of CPUs"),
            ("+1", "is not a number of CPUs"),
            ("inf", "is not a number of CPUs"),
            ("500m", "is not a number of CPUs"),
            ("-1", "is negative"),
            ("--1", "is not a number of CPUs"),
            ("0", "is no CPU at all; write 0.001"),
            ("0.000", "is no CPU at all"),
            ("0.0005", "at most 3 decimals"),
            ("100000.001", "the largest is 100000"),
            ("99999999999999999999", "is too large"),
            ("18446744073709552", "is too large"),
            ("1\u{7}", "\\u{7}"),
        ] {
            let error = text.parse::<Cpus>().unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
        }
        assert!(serde_json::from_str::<Cpus>("2").unwrap_err().to_string().contains("such as \"0.35\""));
    }
}
