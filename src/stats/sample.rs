//! Taking a sample: one container -> [`Monitored`].

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::cgroup::{self, Usage};
use super::net::{self, Net};
use crate::config::Config;
use crate::lease::Lease;
use crate::net::{Holders, Netlink};
use crate::steer::Maps;

/// Everything about one container at one time, as in Mesos' `statistics` object. A field that is not known is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// CPU, memory, processes.
    #[serde(flatten)]
    pub usage: Usage,
    /// Network.
    #[serde(flatten)]
    pub net: Net,
    /// Unix time in seconds, after everything was read.
    pub timestamp: f64,
}

/// One element of `/monitor/statistics`: Mesos' fields, and the container's id.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Monitored {
    /// The container.
    pub container_id: String,
    /// Its executor; the container id when it has no such label.
    pub executor_id: String,
    /// Its executor's name.
    pub executor_name: String,
    /// Its framework.
    pub framework_id: String,
    /// Where it came from.
    pub source: String,
    /// The counters.
    pub statistics: Statistics,
    /// What could not be read of them, one line for each source: for the log.
    #[serde(skip)]
    pub troubles: Vec<String>,
}

/// Which groups of statistics are wanted beside those that cost next to nothing. Mesos had a flag for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// `network_enable_socket_statistics_summary`
    pub socket_summary: bool,
    /// `network_enable_socket_statistics_details`
    pub socket_details: bool,
    /// `network_enable_snmp_statistics`
    pub snmp: bool,
    /// `cgroups_cpu_enable_pids_and_tids_count`
    pub pids_and_tids: bool,
}

impl Groups {
    /// None of them.
    pub const NONE: Groups = Groups { socket_summary: false, socket_details: false, snmp: false, pids_and_tids: false };

    /// Those that the configuration turns on.
    pub fn of(config: &Config) -> Self {
        Groups {
            socket_summary: config.socket_statistics_summary,
            socket_details: config.socket_statistics_details,
            snmp: config.snmp_statistics,
            pids_and_tids: config.pids_and_tids_count,
        }
    }

    /// Must somebody go into the container's namespace for them?
    pub fn needs_namespace(&self) -> bool {
        self.socket_summary || self.socket_details || self.snmp
    }
}

/// Where the counters of this host's containers are, and how they are to be read.
pub struct Sources<'a> {
    /// The data path's maps.
    pub maps: &'a Maps,
    /// The device that limits what containers send, if there is one.
    pub shaper: Option<u32>,
    /// CPUs of the host.
    pub cpus: u32,
    /// Which groups are wanted.
    pub groups: Groups,
    /// Who holds the containers' namespaces.
    pub holders: Holders,
}

/// Reads what is known of one container now. `netlink` is in the host's namespace.
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

/// From the container's cgroups.
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
