//! Samples: the statistics of one container at one time, as [`Monitored`].

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::cgroup::{self, Usage};
use super::net::{self, Net};
use super::sources::Sources;
use crate::lease::Lease;
use crate::net::Netlink;

/// The statistics of one container at one time: Mesos' `statistics` object. A field that could not be read is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// CPU, memory and processes.
    #[serde(flatten)]
    pub usage: Usage,
    /// The network.
    #[serde(flatten)]
    pub net: Net,
    /// Unix time in seconds at which everything had been read.
    pub timestamp: f64,
}

/// One element of `/monitor/statistics`: a container's ids and names, as Mesos has them, and its statistics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Monitored {
    /// The container's id.
    pub container_id: String,
    /// The id of the container's executor; the container's id when there is no such label.
    pub executor_id: String,
    /// The executor's name.
    pub executor_name: String,
    /// The id of the container's framework.
    pub framework_id: String,
    /// The label `source`.
    pub source: String,
    /// The counters.
    pub statistics: Statistics,
    /// Why counters are missing, one line for each source that could not be read. For the log.
    #[serde(skip)]
    pub troubles: Vec<String>,
}

/// Reads the statistics of one container. `netlink` is a socket in the host's namespace.
pub fn sample(lease: &Lease, from: &Sources<'_>, netlink: &mut Netlink) -> Monitored {
    let (usage, mut troubles) = usage(lease, from);
    let net::Reading { net, troubles: more } = net::read(lease, from, netlink);
    troubles.extend(more);
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let labels = &lease.labels;
    let text = |label: &Option<String>| label.clone().unwrap_or_default();
    Monitored {
        container_id: lease.id.to_string(),
        executor_id: labels.executor_id.clone().unwrap_or_else(|| lease.id.to_string()),
        executor_name: text(&labels.executor_name),
        framework_id: text(&labels.framework_id),
        source: text(&labels.source),
        statistics: Statistics { usage, net, timestamp },
        troubles,
    }
}

/// Reads the container's cgroups. Returns what was read, and one line for each source that could not be read.
fn usage(lease: &Lease, from: &Sources<'_>) -> (Usage, Vec<String>) {
    let cgroup::Reading { mut usage, notes } = match &lease.cgroups {
        Some(place) => cgroup::read(place, from.groups.pids_and_tids)
            .unwrap_or_else(|e| cgroup::Reading { notes: vec![e.to_string()], ..cgroup::Reading::default() }),
        None => cgroup::Reading::default(),
    };
    (usage.cpus_limit, usage.cpus_soft_limit) =
        cgroup::limits(&lease.terms.asked.cpu(), lease.cpu.now.bandwidth, from.cpus);
    (usage, notes)
}
