//! What the keys that end in one direction's limit say together, and what they must agree on.
//!
//! What does not live here: the formula (`rate::scale`), which takes what is made here.

use super::{Config, Disagreement};
use crate::rate::{Direction, PerCpu, Policy, Rate, Size};

/// 125000 bytes per second, 1 Mbit/s: Mesos' floor.
pub(super) const MINIMUM: Rate = Rate::from_bits_per_second(1_000_000);

impl Config {
    /// What the configuration says of one direction.
    pub fn policy(&self, direction: Direction) -> Policy {
        let burst = |size: Size| (size.bytes() > 0).then_some(size);
        match direction {
            Direction::Egress => Policy {
                direction,
                per_container: self.egress_rate_limit_per_container,
                per_cpu: self.egress_rate_per_cpu,
                minimum: self.minimum_egress_rate_limit,
                maximum: self.maximum_egress_rate_limit,
                ceil: self.egress_ceil_limit,
                burst: burst(self.egress_burst),
            },
            Direction::Ingress => Policy {
                direction,
                per_container: self.ingress_rate_limit_per_container,
                per_cpu: self.ingress_rate_per_cpu,
                minimum: self.minimum_ingress_rate_limit,
                maximum: self.maximum_ingress_rate_limit,
                ceil: self.ingress_ceil_limit,
                burst: burst(self.ingress_burst),
            },
        }
    }

    /// Every rate and burst within its bounds, no minimum above its maximum. A ceil below the fixed rate is not refused:
    /// it is for those rates that are below it.
    pub(super) fn limits_agree(&self) -> Result<(), Disagreement> {
        for direction in Direction::BOTH {
            agree(&self.policy(direction))?;
        }
        match self.link_speed.out_of_bounds() {
            Some(why) => Err((vec!["link_speed".to_string()], why)),
            None => Ok(()),
        }
    }
}

fn agree(policy: &Policy) -> Result<(), Disagreement> {
    let direction = policy.direction;
    let (minimum, maximum) = (format!("minimum_{direction}_rate_limit"), format!("maximum_{direction}_rate_limit"));
    let per_cpu = match policy.per_cpu {
        PerCpu::Rate(rate) => rate,
        PerCpu::Off | PerCpu::Auto => Rate::UNLIMITED,
    };
    for (key, rate) in [
        (format!("{direction}_rate_limit_per_container"), policy.per_container),
        (format!("{direction}_rate_per_cpu"), per_cpu),
        (minimum.clone(), policy.minimum),
        (maximum.clone(), policy.maximum),
        (format!("{direction}_ceil_limit"), policy.ceil),
    ] {
        if let Some(why) = rate.out_of_bounds() {
            return Err((vec![key], why));
        }
    }
    if policy.minimum.is_unlimited() {
        let why =
            format!("0B would leave a container with less than one CPU without a limit; give {MINIMUM} or another");
        return Err((vec![minimum], why));
    }
    if policy.maximum.is_below(policy.minimum) {
        let why = format!(
            "{maximum} ({}) is below {minimum} ({}); raise the one or lower the other",
            policy.maximum, policy.minimum
        );
        return Err((vec![maximum, minimum], why));
    }
    match policy.burst.and_then(|burst| burst.out_of_bounds(None)) {
        Some(why) => Err((vec![format!("{direction}_burst")], why)),
        None => Ok(()),
    }
}
