//! A bandwidth limit as it is asked for: a rate, and how far and for how long it may be exceeded.
//!
//! What does not live here: what the configuration adds to it (`scale`) and how the kernel is told.

use super::{Rate, Size};
use crate::error::{Error, Result};
use crate::refusal::one_line;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which way packets go, seen from the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What the container sends.
    Egress,
    /// What it receives.
    Ingress,
}

/// A bandwidth limit of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// What it always gets. Unlimited is a value, too: it overrides a configured limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// What a burst may reach; not below the rate, and never unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceil: Option<Rate>,
    /// How much may go at the ceil rate; from [`Limit::SMALLEST_BURST`] to [`Limit::LARGEST_BURST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Size>,
}

impl Direction {
    /// Both, in the order they are shown.
    pub const BOTH: [Direction; 2] = [Direction::Egress, Direction::Ingress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        })
    }
}

impl Rate {
    /// The slowest limit, 8 kbit/s or 1000 B/s. There a 64 KB packet takes a minute, and sch_htb forgets a debt that is
    /// longer (its `mbuffer`), so a slower limit would not hold.
    pub const SLOWEST: Rate = Rate::from_bits_per_second(8_000);
    /// The fastest limit, 100 Tbit/s: no link comes near it, and everything computed from it fits 64 bits.
    pub const FASTEST: Rate = Rate::from_bits_per_second(100_000_000_000_000);

    /// Why this cannot be a limit; `None` if it can. Unlimited can.
    pub fn out_of_bounds(self) -> Option<String> {
        if self.is_below(Self::SLOWEST) {
            return Some(format!("{self} is below the slowest limit that holds; give at least {}", Self::SLOWEST));
        }
        let above = !self.is_unlimited() && Self::FASTEST.is_below(self);
        above.then(|| format!("{self} is above every link; give at most {}, or 0B for no limit", Self::FASTEST))
    }
}

impl Size {
    /// Why this cannot be a burst, at `rate` if that is known; `None` if it can.
    pub fn out_of_bounds(self, rate: Option<Rate>) -> Option<String> {
        let largest = Limit::largest_burst(rate);
        match rate {
            _ if self < Limit::SMALLEST_BURST => {
                Some(format!("a burst of {self} holds no full packet; give at least {}", Limit::SMALLEST_BURST))
            }
            Some(rate) if self > largest && largest < Limit::LARGEST_BURST => Some(format!(
                "a burst of {self} is more than a minute at the rate {rate}; give at most {largest}, or a higher rate"
            )),
            _ => (self > largest).then(|| format!("a burst of {self} is too large; give at most {largest}")),
        }
    }
}

impl Limit {
    /// A burst must hold one full-sized packet with its headers, or nothing would ever be sent.
    pub const SMALLEST_BURST: Size = Size::from_bytes(1600);
    /// 4 GB: who means more means no limit.
    pub const LARGEST_BURST: Size = Size::from_bytes(4 << 30);
    /// A burst may be what the rate carries in so many seconds. sch_htb counts a pause as no longer (its `mbuffer`), and
    /// 32 bits of 64 ns ticks, its `buffer`, end at 274.
    pub const LONGEST_BURST_SECONDS: u64 = 60;

    /// What `rate` carries while a burst may last, at most [`Limit::LARGEST_BURST`], which is also the bound when no rate
    /// is known.
    pub fn largest_burst(rate: Option<Rate>) -> Size {
        let bits = rate.filter(|rate| !rate.is_unlimited()).map_or(u64::MAX, Rate::bits_per_second);
        Size::from_bytes(bits.saturating_mul(Self::LONGEST_BURST_SECONDS) / 8).min(Self::LARGEST_BURST)
    }

    /// The limit itself if its parts agree. A part that is missing agrees with anything, so whoever fills one in
    /// (from the configuration, from the lease) checks again. `place` is what the refusal is about.
    pub fn checked(self, place: &str) -> Result<Limit> {
        let refuse = |why| Err(Error::invalid(one_line(place), why));
        if let Some(why) = [self.rate, self.ceil].into_iter().flatten().find_map(Rate::out_of_bounds) {
            return refuse(why);
        }
        match (self.rate, self.ceil) {
            (_, Some(ceil)) if ceil.is_unlimited() => {
                return refuse("a ceil of 0B is no limit at all; leave the ceil out, or give a rate of 0B".to_string());
            }
            (Some(rate), Some(ceil)) if ceil.is_below(rate) => {
                return refuse(format!("the ceil {ceil} is below the rate {rate}; give a ceil of at least the rate"));
            }
            _ => {}
        }
        match self.burst.map(|burst| (burst, burst.out_of_bounds(self.rate))) {
            Some((_, Some(why))) => refuse(why),
            Some((burst, None)) if self.rate == Some(Rate::UNLIMITED) => {
                refuse(format!("a burst of {burst} limits nothing at a rate of 0B (unlimited); leave the burst out"))
            }
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_and_what_they_must_agree_on() {
        let limit = |rate: &str, ceil: &str, burst: &str| {
            let read = |text: &str| (!text.is_empty()).then(|| text.parse::<Rate>().unwrap());
            let burst = (!burst.is_empty()).then(|| burst.parse().unwrap());
            Limit { rate: read(rate), ceil: read(ceil), burst }.checked("--x").map_err(|error| error.to_string())
        };
        for (rate, ceil, burst) in [
            ("8kbit", "100tbit", "60000B"),
            ("1000B", "1000B", "1600B"),
            ("100tbit", "", "4GB"),
            ("0B", "", ""),
            ("", "1mbit", "4GB"),
        ] {
            assert!(limit(rate, ceil, burst).is_ok(), "{rate} {ceil} {burst}");
        }
        for (rate, ceil, burst, words) in [
            ("7999bit", "", "", "below the slowest limit that holds; give at least 1000B/s (8 Kbit/s)"),
            ("100000000000001bit", "", "", "above every link; give at most 12207031250KB/s (100 Tbit/s), or 0B"),
            ("", "1bit", "", "below the slowest"),
            ("", "101tbit", "", "above every link"),
            ("1mbit", "0B", "", "a ceil of 0B is no limit at all"),
            ("", "0B", "", "a ceil of 0B is no limit at all"),
            ("2mbit", "1mbit", "", "is below the rate"),
            ("0B", "1mbit", "", "is below the rate 0B (unlimited)"),
            ("0B", "", "64KB", "a burst of 64KB limits nothing"),
            ("", "", "1599B", "holds no full packet; give at least 1600B"),
            ("", "", "4294967297B", "is too large; give at most 4GB"),
            ("8kbit", "", "60001B", "more than a minute at the rate 8kbit; give at most 60000B"),
            ("100tbit", "", "5GB", "is too large; give at most 4GB"),
        ] {
            let line = limit(rate, ceil, burst).unwrap_err();
            assert!(line.starts_with("--x: ") && line.contains(words), "{rate} {ceil} {burst}: {line}");
        }
    }
}
