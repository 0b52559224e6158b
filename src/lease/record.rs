//! The lease: everything that is known about one slice. One JSON document each, kept as a file in the ledger's directory
//! and as bytes in the kernel (`steer::book`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::member::Member;
use crate::cpus::Cpus;
use crate::format::{Known, RAISED};
use crate::host::process::Worker;
use crate::host::record::Changed;
use crate::net::netns::NetnsId;
use crate::ports::{Block, PortNames, PortSet};
use crate::rate::{Limit, Shape};
use crate::request::ContainerId;

/// Format of the record. Raised when an older program could not read a newer record correctly.
pub const FORMAT: u32 = 1 + RAISED;

/// The formats that are read. Fields that a format adds have defaults.
pub const FORMATS: Known = Known { oldest: 1, newest: FORMAT };

/// How far a verb got with a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Leased for a container whose namespace does not exist yet. It holds for as long as its worker runs, which creates the
    /// container; the hook takes it up.
    Reserved,
    /// Leased, not wired yet.
    Attaching,
    /// Everything works.
    Attached,
    /// Works; its terms or members are being changed.
    Changing,
    /// Being taken apart.
    Detaching,
}

impl Stage {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Reserved => "reserved",
            Stage::Attaching => "attaching",
            Stage::Attached => "attached",
            Stage::Changing => "changing",
            Stage::Detaching => "detaching",
        }
    }
}

/// The limits a slice asked for. `portslice set` may change them; the rest is the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Limit on what it sends.
    pub egress: Limit,
    /// Limit on what it receives.
    pub ingress: Limit,
    /// Does what stays on this host count?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_local: Option<bool>,
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

/// The bandwidth of a slice: what was asked, and what is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What was asked.
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
    /// Directions that use their second class, because the first one was in debt when the rate changed.
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

/// The open ports that a slice may claim with bind().
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What was asked for, or the configuration gave.
    pub asked: PortSet,
    /// Those of them that may be claimed at all, as far as nobody has them: neither the host's own connections nor leases take
    /// any of these.
    pub ports: PortSet,
    /// How many of them at a time; a port counts once a protocol. 0 where no port is offered.
    pub limit: u16,
}

impl Offer {
    /// Is no port asked for?
    pub fn is_none(&self) -> bool {
        self.asked.is_empty()
    }
}

/// What a change may alter: the bandwidth, the open ports, and who the members are with what each has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The bandwidth.
    pub terms: Terms,
    /// The members.
    pub members: Vec<Member>,
    /// Listening ports that are leased to the slice: its members', and those of members that left.
    pub leased: PortSet,
    /// What the slice may claim.
    #[serde(default, skip_serializing_if = "Offer::is_none", rename = "open_ports")]
    pub open: Offer,
}

/// What stood in the namespace before the slice: a namespace that lives on gets it back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its lo had a qdisc for filters already.
    pub lo_qdisc: bool,
    /// Its bundle says whether IPv6 is on: it is not turned on against that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub own_ipv6: bool,
    /// Settings that were changed.
    pub settings: Vec<Changed>,
}

impl Found {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The lease of one slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// See [`FORMAT`].
    pub format: u32,
    /// The id of the first member: the slice keeps it when that one leaves.
    pub id: ContainerId,
    /// Index in the data path's maps and suffix of the device.
    pub slot: u16,
    /// Its ephemeral ports.
    pub block: Block,
    /// Listening ports that are leased to it: its members', and those of members that left.
    pub ports: PortSet,
    /// Ports that it may claim with bind(). A claim is not leased: it ends with its sockets.
    #[serde(default, skip_serializing_if = "Offer::is_none", rename = "open_ports")]
    pub open: Offer,
    /// Its bandwidth.
    #[serde(flatten)]
    pub terms: Terms,
    /// The containers in its namespace, in the order in which they came.
    pub members: Vec<Member>,
    /// What a change in progress, or one that was killed, set out from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<State>>,
    /// What queues dropped that are gone: counters never go back.
    #[serde(default)]
    pub dropped: Dropped,
    /// Where the namespace was found.
    pub netns: PathBuf,
    /// Which namespace it is.
    pub netns_id: NetnsId,
    /// Did somebody else make the namespace, who may keep it when the last member leaves? Then the slice ends with the
    /// namespace, else with its last member. No longer so once the pod's sandbox has ended, after which nothing joins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// What stood in it before.
    #[serde(default, skip_serializing_if = "Found::is_nothing")]
    pub found: Found,
    /// Which of `host::Given` it carries; 0 when nobody knows.
    #[serde(default)]
    pub given: u32,
    /// How far a verb got.
    pub stage: Stage,
    /// Unix time of the attach, in seconds.
    pub created: u64,
    /// Distinguishes this tenant of the slot from earlier ones.
    pub epoch: u32,
    /// Name of the container's device: the uplink's at that time, unless its network called it otherwise.
    pub device: String,
    /// Name of the uplink at that time, where the device is called otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// May it reach the host through 127.0.0.1?
    pub host_loopback: bool,
    /// The process that works on it, or did last.
    pub worker: Worker,
}

impl Lease {
    /// The host's end of the pair.
    pub fn link(&self) -> String {
        link_name(self.slot)
    }

    /// The uplink at the time of the attach.
    pub fn uplink(&self) -> &str {
        self.uplink.as_deref().unwrap_or(&self.device)
    }

    /// Every port that is leased to it: nobody else gets one of these.
    pub fn all_ports(&self) -> PortSet {
        self.ports.union(&self.block.range().into())
    }

    /// What a change may alter, as it is now.
    pub fn state(&self) -> State {
        State {
            terms: self.terms.clone(),
            members: self.members.clone(),
            leased: self.ports.clone(),
            open: self.open.clone(),
        }
    }

    /// The member called `id`.
    pub fn member(&self, id: &ContainerId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == *id)
    }
}

impl State {
    /// Listening ports of all members.
    pub fn ports(&self) -> PortSet {
        self.members.iter().fold(PortSet::empty(), |all, member| all.union(&member.ports))
    }

    /// The port names of all members. No two of them are in each other's way: whoever makes a state sees to it
    /// (`plan::grant::named`).
    pub fn port_names(&self) -> PortNames {
        let names = |all: PortNames, member: &Member| all.union(&member.port_names).unwrap_or(all);
        self.members.iter().fold(PortNames::default(), names)
    }

    /// The CPUs of all members, for limits that scale with them; `None` if nothing is known of any.
    pub fn cpus(&self) -> Option<Cpus> {
        cpus_of(&self.members)
    }
}

/// The members of a slice; `None` alone for one that all of them left.
pub fn members_of(lease: &Lease) -> impl Iterator<Item = Option<&Member>> {
    let none = lease.members.is_empty().then_some(None);
    lease.members.iter().map(Some).chain(none)
}

/// The sum of what is known of the members' CPUs.
pub fn cpus_of(members: &[Member]) -> Option<Cpus> {
    let known: Vec<u64> = members.iter().filter_map(Member::cpus).map(|cpus| cpus.thousandths()).collect();
    if known.is_empty() { None } else { Cpus::from_thousandths(known.iter().sum()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as a version wrote it that knew no open ports.
    const OLDER: &str = r#"{"format":1,"id":"web","slot":3,"block":{"begin":32768,"end":33791},"ports":"31000","asked":{},
        "egress_placed":"host","limit_local":true,"members":[],"before":{"terms":{"asked":{},"limit_local":true},"members":[],
        "leased":""},"dropped":{"egress":0,"ingress":0},"netns":"/run/netns/web","netns_id":{"dev":4,"ino":1},"given":0,
        "stage":"changing","created":0,"epoch":7,"device":"eth0","host_loopback":true,"worker":{"pid":1,"started":1}}"#;

    #[test]
    fn port_names_survive_and_older_records_have_none() {
        let member = r#"{"id":"web","pid":null,"ports":"31000-31001","asked":{},"labels":{},"created":0}"#;
        let older: Member = serde_json::from_str(member).unwrap();
        let written = serde_json::to_value(&older).unwrap();
        assert!(older.port_names.is_empty() && written.get("port_names").is_none(), "{written}");

        let named = Member { port_names: "31000:80/tcp,31001:53".parse().unwrap(), ..older.clone() };
        let written = serde_json::to_value(&named).unwrap();
        assert_eq!(written["port_names"], "31000:80/tcp,31001:53");
        assert_eq!(serde_json::from_value::<Member>(written).unwrap(), named);
        let lease: Lease = serde_json::from_str(OLDER).unwrap();
        let lease =
            Lease { members: vec![named, Member { port_names: "31002:81".parse().unwrap(), ..older }], ..lease };
        assert_eq!(lease.state().port_names().to_string(), "31000:80/tcp,31001:53,31002:81");
    }

    #[test]
    fn open_ports_survive_and_older_records_have_none() {
        let older: Lease = serde_json::from_str(OLDER).unwrap();
        assert!(older.open.is_none() && older.before.as_ref().unwrap().open.is_none());
        // What has none is written as before: an older version reads it.
        let written = serde_json::to_value(&older).unwrap();
        assert!(written.get("open_ports").is_none() && written["before"].get("open_ports").is_none(), "{written}");

        let open =
            Offer { asked: "443,1024-65535".parse().unwrap(), ports: "443,1024-32767".parse().unwrap(), limit: 1024 };
        let lease = Lease { open: open.clone(), ..older };
        let written = serde_json::to_value(&lease).unwrap();
        assert_eq!(
            written["open_ports"],
            serde_json::json!({"asked": "443,1024-65535", "ports": "443,1024-32767", "limit": 1024})
        );
        let read: Lease = serde_json::from_value(written).unwrap();
        assert_eq!((&read, &read.state().open), (&lease, &open));
    }
}
