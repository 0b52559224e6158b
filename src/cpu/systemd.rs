//! CPU limits as properties of a systemd unit.
//!
//! systemd writes its own idea of a unit's limits into the unit's cgroup whenever it reloads. A limit that systemd does
//! not know is lost then. What does not live here: which unit a cgroup belongs to (`unit`), and the protocol that systemd
//! speaks (`bus`).

use super::values::{PERIOD, Quota, Values};
use super::version::Version;
use crate::error::Result;

/// The name and the value of a unit's property (org.freedesktop.systemd1(5)). All that are used here are unsigned 64 bit
/// numbers.
pub type Property = (&'static str, u64);

/// Sets limits of units: the host's systemd, or a test's stand-in for it.
pub trait Units {
    /// Sets properties of `unit` until the next boot. `NotFound`: there is no such unit.
    fn set(&self, unit: &str, properties: &[Property]) -> Result<()>;
}

/// Returns the properties that have the effect of `values`. `period`: the cgroup's period at present, in microseconds.
///
/// The period's property is left out while old and new period are the default: systemd before 242 has no such property.
pub fn properties(version: Version, values: &Values, period: u64) -> Vec<Property> {
    let mut properties = Vec::with_capacity(3);
    if let Some(weight) = values.weight {
        let name = match version {
            Version::V1 => "CPUShares",
            Version::V2 => "CPUWeight",
        };
        properties.push((name, weight));
    }
    if let Some(bandwidth) = values.bandwidth {
        let per_second = match bandwidth.quota {
            // cannot be cut off: quotas are far below the kernel's bound of 2^44 microseconds
            Quota::Micros(quota) => (u128::from(quota) * 1_000_000 / u128::from(bandwidth.period.max(1))) as u64,
            Quota::Unlimited => u64::MAX,
        };
        properties.push(("CPUQuotaPerSecUSec", per_second));
        if bandwidth.period != PERIOD || period != PERIOD {
            properties.push(("CPUQuotaPeriodUSec", bandwidth.period));
        }
    }
    properties
}

/// Rounds `quota`, for a period of [`PERIOD`], up to whole percents of a CPU, as runc does: systemd before 247 loses the
/// fraction when it reloads.
pub fn in_whole_percents(quota: Quota) -> Quota {
    match quota {
        Quota::Micros(quota) => Quota::Micros(quota.next_multiple_of(PERIOD / 100)),
        Quota::Unlimited => Quota::Unlimited,
    }
}
