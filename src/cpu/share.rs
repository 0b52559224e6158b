//! The formula: what a container asks for -> the values of its cgroup's files. Mesos' cgroups/cpu isolator, without
//! rounding errors.
//!
//! No I/O. What does not live here: how systemd wants to be told the same (`systemd`).

use serde::{Deserialize, Serialize};

use super::place::Version;
use crate::cpus::{CpuLimit, Cpus};

/// In which a container may use up its quota, in microseconds: the kernel's default, and Mesos' CPU_CFS_PERIOD.
pub const PERIOD: u64 = 100_000;

/// The least quota, in microseconds (kernel/sched/core.c: min_cfs_quota_period).
const LEAST_QUOTA: u64 = 1_000;

/// What a container asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// CPUs it gets when others want them too.
    pub cpus: Option<Cpus>,
    /// The most it may use.
    pub limit: Option<CpuLimit>,
    /// Whether its CPUs may be taken away: all of them count little then.
    pub revocable: bool,
}

/// What the host's configuration says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the CPUs asked for are also the most it may use, unless it asks for a limit (Mesos' cgroups_enable_cfs).
    pub enable_cfs: bool,
    /// Whether revocable CPUs count little (Mesos' flag of that name).
    pub revocable_cpu_low_priority: bool,
}

/// Mesos' defaults.
impl Default for Policy {
    fn default() -> Self {
        Self { enable_cfs: false, revocable_cpu_low_priority: true }
    }
}

/// How much may be used in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quota {
    /// Microseconds.
    Micros(u64),
    /// No limit: -1 in v1, `max` in v2.
    Unlimited,
}

/// What is to be written. `None`: not to be touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// v1 `cpu.shares`, v2 `cpu.weight`.
    pub weight: Option<u64>,
    /// v1 `cpu.cfs_quota_us`, v2 the first number of `cpu.max`, for a period of [`PERIOD`].
    pub quota: Option<Quota>,
    /// One line for each value that is not what the formula says, because the kernel does not take that.
    pub notes: Vec<String>,
}

/// What `asked` comes to. Nothing asked: nothing to write, the runtime's limits stand.
///
/// Mesos writes `max` into a v2 `cpu.max` when there is no limit. Its cgroups are its own; these are a runtime's, which
/// may have set a limit, so it is left alone as it is in v1.
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

/// The weight's file, what one CPU counts in it, and the kernel's bounds: MIN_SHARES and MAX_SHARES
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

/// Its upper bound, 2^44 microseconds (kernel/sched/sched.h: MAX_BW), is beyond what `Cpus::MOST` comes to.
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
