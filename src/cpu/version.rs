//! The two interfaces that the kernel has for cgroups.

use serde::{Deserialize, Serialize};

use crate::file;

/// The interface of a cgroup: v1 or v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A hierarchy for each controller, or for some together.
    V1,
    /// One hierarchy for all controllers.
    V2,
}

impl Version {
    /// The interface that a container's CPU limits will have here: that of this process's own.
    pub fn of_this_host() -> Self {
        Self::of(&file::read_generated_text("/proc/self/cgroup").unwrap_or_default())
    }

    /// The same from the text of `/proc/PID/cgroup`: `4:cpu,cpuacct:/path` is a hierarchy of v1 (cgroups(7)).
    fn of(text: &str) -> Self {
        let has_cpu =
            |line: &str| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == "cpu"));
        if text.lines().any(has_cpu) { Version::V1 } else { Version::V2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_of_cpu_decides() {
        assert_eq!(Version::of("5:cpuset:/\n4:cpu,cpuacct:/a:b\n0::/\n"), Version::V1);
        assert_eq!(Version::of("5:cpuset:/\n1:name=systemd:/\n0::/x\n"), Version::V2);
        assert_eq!(Version::of("0::/user.slice\n"), Version::V2);
    }
}
