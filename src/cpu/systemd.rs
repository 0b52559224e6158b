//! CPU limits as systemd has them: which unit a cgroup belongs to, and the properties that come to the same values.
//!
//! systemd writes its own idea of a unit's limits into the unit's cgroup whenever it reloads, so it has to be told. What
//! does not live here: talking to it (`bus`).

use super::place::Version;
use super::share::{PERIOD, Quota};
use super::write::Values;
use crate::error::Result;

/// A unit's property, as org.freedesktop.systemd1(5) has it; all that are used here are unsigned 64 bit numbers.
pub type Property = (&'static str, u64);

/// Whoever keeps the limits of units.
pub trait Units {
    /// Sets properties of `unit` until the next boot. `NotFound`: there is no such unit.
    fn set(&self, unit: &str, properties: &[Property]) -> Result<()>;
}

/// The unit whose own cgroup `path` is. `None` for what is below a unit, which systemd leaves to whoever is in there
/// (its Delegate=), and for what is not systemd's at all.
///
/// A slice is below the slices that its name contains (systemd.slice(5)), any other unit directly in a slice. A user's
/// systemd has units like that below its own service; they are not the host's and count as being below it.
pub fn unit(path: &str) -> Option<&str> {
    let mut slice = "";
    let mut names = path.strip_prefix('/')?.split('/').peekable();
    while let Some(name) = names.next() {
        // systemd puts one before a name that could be taken for one of the kernel's files
        let name = name.strip_prefix('_').unwrap_or(name);
        match name.strip_suffix(".slice") {
            Some(nested) if is_child(nested, slice) => slice = nested,
            Some(_) => return None,
            None => return (names.peek().is_none() && is_unit(name)).then_some(name),
        }
        if names.peek().is_none() {
            return Some(name);
        }
    }
    None
}

/// The properties that come to `values` in a cgroup whose period is `period` microseconds now.
///
/// A period that is the default already is not mentioned: systemd before 242 has no name for it.
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
            // quotas are far below the 2^44 microseconds of the kernel
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

/// `quota` for a period of [`PERIOD`] as systemd keeps it: in whole percents of a CPU, rounded up as runc does, since
/// before version 247 the rest is lost when it reloads.
pub fn kept(quota: Quota) -> Quota {
    match quota {
        Quota::Micros(quota) => Quota::Micros(quota.next_multiple_of(PERIOD / 100)),
        Quota::Unlimited => Quota::Unlimited,
    }
}

/// Is the slice `name` directly in the slice `parent`? Without the suffixes; "" is the root.
fn is_child(name: &str, parent: &str) -> bool {
    let own = if parent.is_empty() { Some(name) } else { name.strip_prefix(parent).and_then(|n| n.strip_prefix('-')) };
    own.is_some_and(|own| !own.is_empty() && !own.contains('-'))
}

fn is_unit(name: &str) -> bool {
    // the other kinds of units hold no containers
    [".scope", ".service"].iter().any(|kind| name.len() > kind.len() && name.ends_with(kind))
}
