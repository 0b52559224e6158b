//! The CPU limits of one cgroup as a value: a weight, and a quota with its period.
//!
//! No I/O. What does not live here: the values that a container's request comes to (`share`), and reading and writing the
//! cgroup's files (`write`).

use serde::{Deserialize, Serialize};

/// The default period of a quota, in microseconds: the kernel's default, and Mesos' CPU_CFS_PERIOD.
pub const PERIOD: u64 = 100_000;

/// The CPU limits of a cgroup. `None`: this field is not touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Values {
    /// v1 `cpu.shares`, v2 `cpu.weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// v1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`, v2 `cpu.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// How much CPU time a cgroup may use in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// CPU time on all CPUs together.
    pub quota: Quota,
    /// The period's length in microseconds.
    pub period: u64,
}

/// The CPU time that may be used in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quota {
    /// Microseconds.
    Micros(u64),
    /// No limit: -1 in v1, `max` in v2.
    Unlimited,
}

impl Values {
    /// Returns these values, with the fields that are `None` taken from `other`: [`Option::or`], field by field.
    pub fn or(self, other: Values) -> Values {
        Values { weight: self.weight.or(other.weight), bandwidth: self.bandwidth.or(other.bandwidth) }
    }

    /// Returns those of these fields for which `current` still equals `expected`; the other fields are `None`.
    pub fn where_unchanged(self, expected: &Values, current: &Values) -> Values {
        Values {
            weight: self.weight.filter(|_| current.weight == expected.weight),
            bandwidth: self.bandwidth.filter(|_| current.bandwidth == expected.bandwidth),
        }
    }

    /// Returns only the fields that `other` has too; the other fields are `None`.
    pub fn only_fields_of(self, other: &Values) -> Values {
        Values {
            weight: self.weight.filter(|_| other.weight.is_some()),
            bandwidth: self.bandwidth.filter(|_| other.bandwidth.is_some()),
        }
    }
}
