//! Where a limit comes from: what a container asks for, else what the configuration gives it, per CPU or fixed.
//!
//! The formula of Mesos' last isolator, with the differences named at the items. Pure: what the host has to offer is
//! passed in. What does not live here: the keys (`config`, `request`) and how the kernel is told (`net`).

use super::text::{PER_CPU, UnitError, parse};
use super::{Direction, Limit, Rate, Size};
use crate::cpus::Cpus;
use crate::error::{Error, Result};
use crate::refusal::from_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::str::FromStr;

/// The bandwidth that comes with each CPU. In text: `0B`, a rate, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PerCpu {
    /// Limits do not depend on CPUs.
    #[default]
    Off,
    /// So much for each whole CPU of the container.
    Rate(Rate),
    /// The uplink's speed divided by the CPUs of the host.
    Auto,
}

/// What the configuration says of one direction. A rate of 0 is "none" throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which one; messages name its keys.
    pub direction: Direction,
    /// What every container gets that nothing else decides for.
    pub per_container: Rate,
    /// Stands above `per_container` when the container's CPUs are known.
    pub per_cpu: PerCpu,
    /// The least that `per_cpu` gives.
    pub minimum: Rate,
    /// The most that `per_cpu` gives.
    pub maximum: Rate,
    /// Used where it is above the rate.
    pub ceil: Rate,
    /// `None`: computed from the rate.
    pub burst: Option<Size>,
}

/// What the host has to offer, for [`PerCpu::Auto`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The speed of the uplink, if anybody knows it.
    pub link: Option<Rate>,
    /// How many CPUs share it.
    pub cpus: u32,
}

/// A limit as it is enforced: every part known. `ceil` is never below `rate`, and neither is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// What it always gets.
    pub rate: Rate,
    /// What a burst may reach.
    pub ceil: Rate,
    /// How much may go at the ceil.
    pub burst: Size,
}

impl Policy {
    /// The limit of a container that asks for `asked` and has `cpus`, if known; `None`: unlimited.
    ///
    /// The rate is what is asked; else `per_cpu` times the whole CPUs, from `minimum` to `maximum`; else the fixed one;
    /// else, when only the CPUs are missing, `minimum`, as if it had none; else there is no limit. Unlike in Mesos the
    /// two bounds leave a fixed rate alone, and an asked or fixed 0 is no limit.
    ///
    /// # Errors
    ///
    /// Parts of `asked` that do not agree with each other or with the rate in effect; a rate outside of
    /// [`Rate::SLOWEST`] to [`Rate::FASTEST`]; `auto` without a link speed or CPUs. Each names what to change.
    pub fn shape(&self, asked: &Limit, cpus: Option<Cpus>, machine: &Machine) -> Result<Option<Shape>> {
        let direction = self.direction;
        let asked = asked.checked(&format!("asked {direction} limit"))?;
        let Some(rate) = self.rate(asked.rate, cpus, machine)? else {
            let extra = asked.ceil.map(|_| "ceil").or(asked.burst.map(|_| "burst"));
            return extra.map_or(Ok(None), |part| {
                let why = format!("there is no {direction} rate that it could exceed; give {direction}-rate as well");
                Err(Error::invalid(format!("{direction}-{part}"), why))
            });
        };
        let ceil = match asked.ceil {
            Some(ceil) if ceil.is_below(rate) => {
                let why = format!(
                    "the ceil {ceil} is below the rate {rate} that the configuration gives; give at least that, or a \
                     lower {direction}-rate"
                );
                return Err(Error::invalid(format!("{direction}-ceil"), why));
            }
            Some(ceil) => ceil,
            None if rate.is_below(self.ceil) && !self.ceil.is_unlimited() => self.ceil,
            None => rate,
        };
        let burst = match asked.burst {
            Some(burst) => match burst.out_of_bounds(Some(rate)) {
                Some(why) => return Err(Error::invalid(format!("{direction}-burst"), why)),
                None => burst,
            },
            // A configured one is for every rate there is, so a slow one gets what it can have of it.
            None => self.burst.unwrap_or_else(|| default_burst(rate)).min(Limit::largest_burst(Some(rate))),
        };
        Ok(Some(Shape { rate, ceil, burst }))
    }

    /// Whether limits may depend on the speed of the uplink, which is then worth finding out.
    pub fn needs_link(&self) -> bool {
        self.per_cpu == PerCpu::Auto
    }

    /// The rate in effect, never unlimited; `None`: there is none.
    fn rate(&self, asked: Option<Rate>, cpus: Option<Cpus>, machine: &Machine) -> Result<Option<Rate>> {
        if let Some(rate) = asked {
            return Ok((!rate.is_unlimited()).then_some(rate));
        }
        let direction = self.direction;
        let (key, rate) = match (self.per_cpu, cpus) {
            (PerCpu::Rate(each), Some(cpus)) => {
                (format!("{direction}_rate_per_cpu"), self.scaled(each.bits_per_second(), cpus)?)
            }
            (PerCpu::Auto, Some(cpus)) => {
                (format!("{direction}_rate_per_cpu"), self.scaled(self.share(machine)?, cpus)?)
            }
            _ if !self.per_container.is_unlimited() => {
                (format!("{direction}_rate_limit_per_container"), self.per_container)
            }
            (PerCpu::Off, _) => return Ok(None),
            (_, None) => (format!("minimum_{direction}_rate_limit"), self.minimum),
        };
        // The file is refused for values like these; a product of two fine ones can still be one.
        let zero = rate.is_unlimited().then(|| "it comes to 0B, which would be no limit; give a minimum".to_string());
        zero.or_else(|| rate.out_of_bounds()).map_or(Ok(Some(rate)), |why| Err(Error::invalid(key, why)))
    }

    /// `each` bits per second for every whole CPU, kept from the minimum to the maximum.
    fn scaled(&self, each: u64, cpus: Cpus) -> Result<Rate> {
        let (least, most) = (self.minimum.bits_per_second(), self.maximum.bits_per_second());
        let most = if most == 0 { u128::MAX } else { u128::from(most) };
        let bits = (u128::from(each) * u128::from(cpus.whole())).max(u128::from(least)).min(most);
        u64::try_from(bits).map(Rate::from_bits_per_second).map_err(|_| {
            let each = Rate::from_bits_per_second(each);
            let why = format!("{each} for each of {cpus} CPUs is more than 64 bits hold; give a lower rate");
            Error::invalid(format!("{}_rate_per_cpu", self.direction), why)
        })
    }

    /// The bits per second that `auto` gives for one CPU.
    fn share(&self, machine: &Machine) -> Result<u64> {
        let refuse = |why: &str| Err(Error::unsupported(format!("{}_rate_per_cpu = \"auto\"", self.direction), why));
        match machine.link.filter(|link| !link.is_unlimited()) {
            None => refuse("the uplink does not tell its speed; set link_speed in the configuration"),
            Some(_) if machine.cpus == 0 => refuse("the number of CPUs is unknown; set cpus in the configuration"),
            Some(link) => Ok(link.bits_per_second() / u64::from(machine.cpus)),
        }
    }
}

impl FromStr for PerCpu {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.trim() == "auto" {
            return Ok(PerCpu::Auto);
        }
        Ok(match parse(text, PER_CPU)? {
            0 => PerCpu::Off,
            _ => PerCpu::Rate(text.parse()?),
        })
    }
}

impl Serialize for PerCpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PerCpu::Off => Rate::UNLIMITED.serialize(serializer),
            PerCpu::Rate(rate) => rate.serialize(serializer),
            PerCpu::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for PerCpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a rate with its unit such as \"37500KB\" or \"300mbit\", or \"auto\"")
    }
}

/// 10 ms at the rate, for a timer that fires late, and at least two full Ethernet frames; one, where two would take more
/// than a second. A burst of seconds, such as the 256 MB of the kubelet's bandwidth plugin, lets a container ignore its
/// limit for as long.
fn default_burst(rate: Rate) -> Size {
    const FRAMES: u64 = 2 * 1514;
    let least = if rate.bytes_per_second() < FRAMES { Limit::SMALLEST_BURST.bytes() } else { FRAMES };
    Size::from_bytes((rate.bits_per_second() / 800).max(least))
}
