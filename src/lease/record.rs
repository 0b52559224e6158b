//! The lease: everything that is known about one container's slice. One JSON file each, in the ledger's directory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cpu::{self, Place, Values};
use crate::cpus::{CpuLimit, Cpus};
use crate::host::process::Worker;
use crate::net::netns::NetnsId;
use crate::ports::Block;
use crate::ports::PortSet;
use crate::rate::{Limit, Shape};
use crate::request::ContainerId;
use crate::request::Labels;

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

/// What a container asked for and `portslice set` may change; the rest is the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// The most CPUs it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_limit: Option<CpuLimit>,
    /// May its CPUs be taken away?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_revocable: Option<bool>,
    /// Limit on what it sends.
    pub egress: Limit,
    /// Limit on what it receives.
    pub ingress: Limit,
    /// Does what stays on this host count?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_local: Option<bool>,
}

impl Asked {
    /// What of it concerns CPUs.
    pub fn cpu(&self) -> cpu::Asked {
        cpu::Asked { cpus: self.cpus, limit: self.cpus_limit, revocable: self.cpus_revocable.unwrap_or(false) }
    }
}

/// The CPU limits a container was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuTerms {
    /// What was written into its cgroup.
    pub now: Values,
    /// What stood there before the first time.
    pub before: Values,
    /// Where it got something else than it asked for, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl CpuTerms {
    fn is_untouched(&self) -> bool {
        *self == Self::default()
    }
}

/// Where what a container sends is held to its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placed {
    /// On the host, out of the container's reach.
    #[default]
    Host,
    /// On its own device: cheaper, but whoever holds CAP_NET_ADMIN over its namespace could remove it.
    Inside,
}

/// What may change while a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Its listening ports.
    pub ports: PortSet,
    /// What it asked for.
    pub asked: Asked,
    /// Limit on what it sends, as enforced; `None` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Shape>,
    /// Where that is enforced.
    #[serde(default)]
    pub egress_placed: Placed,
    /// Limit on what it receives, as enforced; `None` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Shape>,
    /// Does what stays on this host count?
    pub limit_local: bool,
    /// Which directions are held by their second class: the first one had sent too far ahead when the rate changed.
    #[serde(default, skip_serializing_if = "Second::is_none")]
    pub second: Second,
}

/// A choice between two classes for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// What it sends.
    pub egress: bool,
    /// What it receives.
    pub ingress: bool,
}

impl Second {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Packets that limits dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Of what it sent.
    pub egress: u64,
    /// Of what it was to receive.
    pub ingress: u64,
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
    /// What may change.
    #[serde(flatten)]
    pub terms: Terms,
    /// The terms that a change in progress, or one that was killed, set out from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Terms>>,
    /// What queues dropped that are gone: counters never go back.
    #[serde(default)]
    pub dropped: Dropped,
    /// CPUs that its bundle gives it, for limits that scale with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_cpus: Option<Cpus>,
    /// Its CPU limits, as far as it asked for some.
    #[serde(default, skip_serializing_if = "CpuTerms::is_untouched")]
    pub cpu: CpuTerms,
    /// Its cgroups, when a process was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<Place>,
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

    /// Every port that is steered to the container, or was before a change that did not come to its end.
    pub fn all_ports(&self) -> PortSet {
        self.listening().union(&self.block.range().into())
    }

    /// Its listening ports, those before an unfinished change among them.
    pub fn listening(&self) -> PortSet {
        match &self.before {
            Some(before) => self.terms.ports.union(&before.ports),
            None => self.terms.ports.clone(),
        }
    }
}

/// The end of the shaper in which what containers send waits for its turn.
pub const SHAPER: &str = "portslice-limit";

/// The class of a container there, first or second; `SHAPER_CLASS` and `SHAPER_SECOND` of `bpf/maps.h`.
pub fn shaper_class(slot: u16, second: bool) -> u16 {
    if second { slot + 0x2000 } else { slot }
}

/// The host's end of the pair of slot `slot`: at most 13 of the 15 bytes a device name may have.
pub fn link_name(slot: u16) -> String {
    format!("portslice{slot}")
}
