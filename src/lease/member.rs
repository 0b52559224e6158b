//! A member: one container that lives in the namespace of a slice. Ports, CPU terms, cgroups, names and labels are its own;
//! everything else is the slice's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cpu::{self, Place, Values};
use crate::cpus::{CpuLimit, Cpus};
use crate::host::process::Worker;
use crate::ports::{PortNames, PortSet};
use crate::request::{Attachment, ContainerId, Labels, Names};

/// The CPUs a member asked for. `portslice set` may change them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuAsked {
    /// CPUs it gets when others want them, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// The most CPUs it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_limit: Option<CpuLimit>,
    /// May its CPUs be taken away?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_revocable: Option<bool>,
}

impl CpuAsked {
    /// As the formula takes it.
    pub fn terms(&self) -> cpu::Asked {
        cpu::Asked { cpus: self.cpus, limit: self.cpus_limit, revocable: self.cpus_revocable.unwrap_or(false) }
    }
}

/// The CPU limits a member was given.
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
    /// Was nothing asked, and nothing written?
    pub fn is_untouched(&self) -> bool {
        *self == Self::default()
    }
}

/// One container of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The runtime's name for it.
    pub id: ContainerId,
    /// The name people know it by, where its engine tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The engine that runs it (`podman`, `docker`, `containerd`), where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// What that engine calls it, and its image.
    #[serde(default, skip_serializing_if = "Names::are_unknown")]
    pub names: Names,
    /// Its first process, when one was named.
    pub pid: Option<u32>,
    /// The same process, beyond its number: a number may be given out again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Worker>,
    /// Where its bundle is, when a hook told. Whoever ends the member must name the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// The network whose attachment it is. Only whoever names the same one ends it, and no runtime does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// Its listening ports.
    pub ports: PortSet,
    /// What programs inside know some of them as.
    #[serde(default, skip_serializing_if = "PortNames::is_empty")]
    pub port_names: PortNames,
    /// The CPUs it asked for.
    pub asked: CpuAsked,
    /// CPUs that its bundle gives it, for limits that scale with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_cpus: Option<Cpus>,
    /// Its CPU limits, as far as it asked for some.
    #[serde(default, skip_serializing_if = "CpuTerms::is_untouched")]
    pub cpu: CpuTerms,
    /// Its cgroups, when a process was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<Place>,
    /// Does it only hold the namespaces of a pod? Then its cgroup says nothing of the pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
    /// Names for the statistics.
    pub labels: Labels,
    /// Unix time at which it came, in seconds.
    pub created: u64,
}

impl Member {
    /// How many CPUs limits that scale with them count for it.
    pub fn cpus(&self) -> Option<Cpus> {
        self.asked.cpus.or(self.bundle_cpus)
    }

    /// Once its CPU limits are written: of what stood there before, only what is still replaced is kept.
    pub fn trim(&mut self) {
        self.cpu.before = self.cpu.before.only_fields_of(&self.cpu.now);
    }

    /// Does its first process still run? `None` when none was named.
    pub fn runs(&self) -> Option<bool> {
        self.process.map(|process| process.is_alive())
    }
}
