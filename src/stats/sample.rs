//! Samples: the statistics of one container at one time, as [`Monitored`].

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::cgroup::{self, Usage};
use super::net::{self, Net};
use super::sources::Sources;
use crate::lease::{Lease, Member, Stage};
use crate::net::Netlink;
use crate::request::Names;

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
    /// The name people know it by, where its engine tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The id of the slice it is in. The network belongs to the slice, so that its counters stand in the entry of the first
    /// member alone, and sums hold.
    pub slice: String,
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
    /// What its engine calls it, and its image. For the metrics.
    #[serde(skip)]
    pub names: Names,
    /// The engine that runs it, where that can be told.
    #[serde(skip)]
    pub engine: Option<String>,
    /// Unix time in seconds at which it came; `None` of a slice without members.
    #[serde(skip)]
    pub started: Option<u64>,
    /// The name of its network device inside.
    #[serde(skip)]
    pub interface: String,
    /// The epoch of the slice's lease.
    #[serde(skip)]
    pub epoch: u32,
    /// Whether the network's counters are to be here: it is the first member, and nobody works on the slice.
    #[serde(skip)]
    pub counts_network: bool,
}

/// Reads the statistics of one member of a slice; `None`: of a slice without any. `netlink` is a socket in the host's
/// namespace. Of a member whose cgroups nobody told, nothing is known of CPU and memory here (but see `inhabitants`).
pub fn sample(lease: &Lease, member: Option<&Member>, from: &Sources<'_>, netlink: &mut Netlink) -> Monitored {
    let (usage, mut troubles) = member.map(|member| usage(member, from)).unwrap_or_default();
    let first = lease.members.first().map(|member| &member.id) == member.map(|member| &member.id);
    let net::Reading { net, troubles: more } =
        if first { net::read(lease, from, netlink) } else { net::Reading::default() };
    troubles.extend(more);
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let id = member.map_or(&lease.id, |member| &member.id).to_string();
    let labels = member.map(|member| member.labels.clone()).unwrap_or_default();
    Monitored {
        executor_id: labels.executor_id.unwrap_or_else(|| id.clone()),
        executor_name: labels.executor_name.unwrap_or_default(),
        framework_id: labels.framework_id.unwrap_or_default(),
        source: labels.source.unwrap_or_default(),
        container_id: id,
        name: member.and_then(|member| member.name.clone()),
        names: member.map(|member| member.names.clone()).unwrap_or_default(),
        engine: member.and_then(|member| member.engine.clone()),
        started: member.map(|member| member.created),
        interface: lease.device.clone(),
        slice: lease.id.to_string(),
        statistics: Statistics { usage, net, timestamp },
        troubles,
        epoch: lease.epoch,
        counts_network: first && lease.stage == Stage::Attached,
    }
}

/// Reads the container's cgroups. Returns what was read, and one line for each source that could not be read.
fn usage(member: &Member, from: &Sources<'_>) -> (Usage, Vec<String>) {
    let cgroup::Reading { mut usage, notes } = match &member.cgroups {
        Some(place) => cgroup::read(place, from.groups.pids_and_tids)
            .unwrap_or_else(|e| cgroup::Reading { notes: vec![e.to_string()], ..cgroup::Reading::default() }),
        None => cgroup::Reading::default(),
    };
    (usage.cpus_limit, usage.cpus_soft_limit) =
        cgroup::limits(&member.asked.terms(), member.cpu.now.bandwidth, from.cpus);
    if member.cpu.now.bandwidth.is_none() {
        usage.cpus_limit = member.cgroups.as_ref().and_then(cgroup::allowed);
    }
    (usage, notes)
}
