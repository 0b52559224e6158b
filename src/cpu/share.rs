//! The formula: the values of a cgroup's files that follow from a container's request. Mesos' cgroups/cpu isolator,
//! without rounding errors.
//!
//! No I/O. What does not live here: the same values as properties of a systemd unit (`systemd`).

use super::values::{PERIOD, Quota};
use super::version::Version;
use crate::cpus::{CpuLimit, Cpus};

/// The least quota that the kernel takes, in microseconds (kernel/sched/core.c: min_cfs_quota_period).
const LEAST_QUOTA: u64 = 1_000;

/// The CPUs that a container asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// CPUs that the container gets when others want them too.
    pub cpus: Option<Cpus>,
    /// The most CPUs that the container may use.
    pub limit: Option<CpuLimit>,
    /// Whether the container's CPUs may be taken away: all of them count little then.
    pub revocable: bool,
}

/// The host's configuration for CPU limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the CPUs asked for are also the most a container may use, unless it asks for a limit (Mesos'
    /// cgroups_enable_cfs).
    pub enable_cfs: bool,
    /// Whether revocable CPUs count little (Mesos' flag of the same name).
    pub revocable_cpu_low_priority: bool,
}

/// Mesos' defaults.
impl Default for Policy {
    fn default() -> Self {
        Self { enable_cfs: false, revocable_cpu_low_priority: true }
    }
}

/// The values that a request comes to. `None`: this file is not touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// v1 `cpu.shares`, v2 `cpu.weight`.
    pub weight: Option<u64>,
    /// v1 `cpu.cfs_quota_us`, v2 the first number of `cpu.max`, for a period of [`PERIOD`].
    pub quota: Option<Quota>,
    /// One line for each value that differs from the formula's, because the kernel does not take the formula's.
    pub notes: Vec<String>,
}

/// Computes the values that `asked` comes to. Where nothing is asked nothing is written, and the runtime's limits stand.
///
/// Mesos writes `max` into a v2 `cpu.max` when there is no limit. Mesos' cgroups are its own; these are a runtime's, which
/// may have set a limit. So the quota is left alone, as in v1.
pub fn settings(asked: &Asked, policy: &Policy, version: Version) -> Settings {
    let mut notes = Vec::new();
    let low = asked.revocable && policy.revocable_cpu_low_priority;
    let weight = asked.cpus.map(|cpus| weight(cpus, low, version, &mut notes));
    let limit = asked.limit.or_else(|| asked.cpus.filter(|_| policy.enable_cfs).map(CpuLimit::Cpus));
    let quota = limit.map(|limit| match limit {
        CpuLimit::Cpus(cpus) => quota(cpus, version, &mut notes),
        CpuLimit::Infinite => Quota::Unlimited,
    });
    Settings { weight, quota, notes }
}

impl Settings {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.weight.is_none() && self.quota.is_none()
    }
}

/// The scale of a weight: its file, the weight of one CPU, and the kernel's bounds, which are MIN_SHARES and MAX_SHARES
/// (kernel/sched/sched.h), CGROUP_WEIGHT_MIN and CGROUP_WEIGHT_MAX (include/linux/cgroup.h).
struct Scale {
    file: &'static str,
    per_cpu: u64,
    per_revocable_cpu: u64,
    least: u64,
    most: u64,
}

const SHARES: Scale = Scale { file: "cpu.shares", per_cpu: 1024, per_revocable_cpu: 10, least: 2, most: 262_144 };
const WEIGHT: Scale = Scale { file: "cpu.weight", per_cpu: 100, per_revocable_cpu: 1, least: 1, most: 10_000 };

/// The weight of `cpus`. `low`: revocable CPUs that count little.
fn weight(cpus: Cpus, low: bool, version: Version, notes: &mut Vec<String>) -> u64 {
    let scale = match version {
        Version::V1 => SHARES,
        Version::V2 => WEIGHT,
    };
    let per_cpu = if low { scale.per_revocable_cpu } else { scale.per_cpu };
    let exact = per_cpu * cpus.thousandths() / 1000;
    let taken = exact.clamp(scale.least, scale.most);
    if taken != exact {
        let which = if exact < taken { "least" } else { "most" };
        notes.push(format!(
            "{cpus} CPUs make {} {exact}, but the {which} the kernel takes is {taken}: {taken} is written",
            scale.file
        ));
    }
    taken
}

/// The quota of `cpus` for a period of [`PERIOD`]. The kernel's upper bound, 2^44 microseconds (kernel/sched/sched.h: MAX_BW), is above the quota of `Cpus::MOST`.
fn quota(cpus: Cpus, version: Version, notes: &mut Vec<String>) -> Quota {
    let exact = PERIOD * cpus.thousandths() / 1000;
    if exact < LEAST_QUOTA {
        let file = match version {
            Version::V1 => "cpu.cfs_quota_us",
            Version::V2 => "cpu.max",
        };
        notes.push(format!(
            "{cpus} CPUs make {file} {exact} microseconds, but the least the kernel takes is {LEAST_QUOTA}: \
             {LEAST_QUOTA} is written"
        ));
    }
    Quota::Micros(exact.max(LEAST_QUOTA))
}
