//! The two interfaces that the kernel has for cgroups.

use serde::{Deserialize, Serialize};

/// The interface of a cgroup: v1 or v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A hierarchy for each controller, or for some together.
    V1,
    /// One hierarchy for all controllers.
    V2,
}
