//! The lease: everything that is known about one container's slice. One JSON file each, in the ledger's directory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::block::Block;
use super::id::ContainerId;
use crate::host::process::Worker;
use crate::net::netns::NetnsId;
use crate::ports::PortSet;
use crate::rate::Limit;

/// How far an attach or a detach got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Leased, not wired yet.
    Attaching,
    /// Everything works.
    Attached,
    /// Being taken apart.
    Detaching,
}

/// Names the statistics carry, as Mesos called them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// The executor; the container id when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_id: Option<String>,
    /// Its display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_name: Option<String>,
    /// The framework.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework_id: Option<String>,
    /// Where the task came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One container's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub id: ContainerId,
    /// Index in the data path's maps and suffix of the device.
    pub slot: u16,
    /// Its ephemeral ports.
    pub block: Block,
    /// Its listening ports.
    pub ports: PortSet,
    /// A process in the namespace, when one was named.
    pub pid: Option<u32>,
    /// Where the namespace was found.
    pub netns: PathBuf,
    /// How far it got.
    pub stage: Stage,
    /// Unix time of the attach, in seconds.
    pub created: u64,
    /// Which namespace it is.
    pub netns_id: NetnsId,
    /// Distinguishes this tenant of the slot from earlier ones.
    pub epoch: u32,
    /// Name of the container's device, the uplink's at that time.
    pub device: String,
    /// May it reach the host through 127.0.0.1?
    pub host_loopback: bool,
    /// Limit on what it sends.
    pub egress: Limit,
    /// Limit on what it receives.
    pub ingress: Limit,
    /// Names for the statistics.
    pub labels: Labels,
    /// Who is attaching or detaching it.
    pub worker: Worker,
}

impl Lease {
    /// The host's end of the pair.
    pub fn link(&self) -> String {
        link_name(self.slot)
    }

    /// Every port that is steered to the container.
    pub fn all_ports(&self) -> PortSet {
        self.ports.union(&self.block.range().into())
    }
}

/// The host's end of the pair of slot `slot`: at most 13 of the 15 bytes a device name may have.
pub fn link_name(slot: u16) -> String {
    format!("portslice{slot}")
}
