//! Where a container's counters are read from, and which of them are wanted.

use super::inhabitants::Inhabitants;
use crate::config::Config;
use crate::net::Holders;
use crate::steer::Maps;

/// The groups of statistics that cost enough to be turned on one by one. Mesos had a flag for each.
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
    /// No group at all.
    pub const NONE: Groups = Groups { socket_summary: false, socket_details: false, snmp: false, pids_and_tids: false };

    /// The groups that the configuration turns on.
    pub fn of(config: &Config) -> Self {
        Groups {
            socket_summary: config.socket_statistics_summary,
            socket_details: config.socket_statistics_details,
            snmp: config.snmp_statistics,
            pids_and_tids: config.pids_and_tids_count,
        }
    }

    /// Whether one of these groups can only be read inside the container's network namespace.
    pub fn needs_namespace(&self) -> bool {
        self.socket_summary || self.socket_details || self.snmp
    }
}

/// The sources from which the counters of this host's containers are read.
pub struct Sources<'a> {
    /// The data path's maps.
    pub maps: &'a Maps,
    /// The interface index of the device that limits what containers send, if there is one.
    pub shaper: Option<u32>,
    /// The number of the host's CPUs.
    pub cpus: u32,
    /// The groups that are wanted.
    pub groups: Groups,
    /// The processes that hold the containers' network namespaces.
    pub holders: Holders,
    /// The cgroups of those that nobody named.
    pub inhabitants: Inhabitants,
}
