//! What a container asks for: its id, its ports, its limits, its labels, read from annotations or arguments.
//! What somebody wants to be different while it runs is a `change`.
//!
//! Ids, keys and values come from whoever starts containers and are hostile: long ones are refused before they are
//! parsed, and no message repeats them raw. What does not live here: the defaults (`config`), what is granted (`lease`),
//! and how an annotation or an argument is found (`face`).

mod asked;
mod attachment;
mod change;
mod id;
mod labels;
mod names;

pub use asked::{PortsAsked, PortsAskedError};
pub use attachment::Attachment;
pub use change::{Change, LimitChange, PortsChange, PortsChangeError};
pub use id::ContainerId;
pub use labels::Labels;
pub use names::Names;

use crate::cpus::{CpuLimit, Cpus};
use crate::error::{Error, Result};

use crate::ports::{Block, BlockSize, OpenPorts, PortSet};
use crate::rate::Limit;
use crate::refusal::{one_line, quoted, unknown};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What annotations that are meant for portslice begin with.
pub const PREFIX: &str = "portslice/";

/// The keys of [`Request::set`].
pub const KEYS: [&str; 18] = [
    "ports",
    "open-ports",
    "ephemeral-ports",
    "egress-rate",
    "egress-ceil",
    "egress-burst",
    "ingress-rate",
    "ingress-ceil",
    "ingress-burst",
    "executor-id",
    "executor-name",
    "framework-id",
    "source",
    "host-loopback",
    "cpus",
    "cpus-limit",
    "cpus-revocable",
    "limit-local",
];

/// What one container asks for. `None` and empty mean it does not ask, and the configuration applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub id: ContainerId,
    /// Ports to listen on.
    pub ports: PortsAsked,
    /// Ports that it may claim with bind().
    pub open_ports: Option<OpenPorts>,
    /// The size of its block.
    pub ephemeral_ports: Option<BlockSize>,
    /// Whether it may reach the host through 127.0.0.1.
    pub host_loopback: Option<bool>,
    /// What it may send.
    pub egress: Limit,
    /// What it may receive.
    pub ingress: Limit,
    /// How many CPUs it has; limits may scale with it.
    pub cpus: Option<Cpus>,
    /// The most CPUs it may use.
    pub cpus_limit: Option<CpuLimit>,
    /// Whether its CPUs may be taken away.
    pub cpus_revocable: Option<bool>,
    /// CPUs that its bundle gives it: its limits scale with them, and its runtime sees to the rest.
    pub bundle_cpus: Option<Cpus>,
    /// Whether its limits count traffic that stays on this host.
    pub limit_local: Option<bool>,
    /// What statistics call it.
    pub labels: Labels,
    /// Settings under /proc/sys/net that the container brings along (`ipv4/tcp_ecn`): they are left alone.
    pub own_settings: Vec<String>,
    /// What its bundle has written into `ipv4/ip_local_port_range`, as its runtime would.
    pub port_range: Option<String>,
    /// The same of `ipv4/ip_local_reserved_ports`, as far as that names ports.
    pub reserved_ports: Option<PortSet>,
    /// Whether it certainly has no power over its network namespace, so that a limit may be kept inside. Not something
    /// that can be asked for: whoever reads the bundle knows.
    pub cannot_tamper: bool,
    /// Whether it only holds the namespaces of a pod, so that its cgroup says nothing of the pod. Read from the bundle, too.
    pub sandbox: bool,
    /// Whether its capabilities give it no power over its network namespace, whoever made that.
    pub powerless: bool,
    /// Whether it would have CAP_NET_ADMIN in the host's user namespace, as far as its bundle tells; see
    /// [`crate::oci::bundle::Bundle::net_admin`].
    pub net_admin: bool,
    /// Whether it lives in a network namespace that somebody else made, who may keep it when the container ends.
    pub joins_namespace: bool,
    /// Whether it gets nothing unless its network namespace has a slice already: a container of a pod that asks for nothing.
    pub only_joins: bool,
    /// Whether sockets of the processes that this one descends from are not in its way: an engine keeps a published port bound
    /// while it has the container made.
    pub caller_holds_ports: bool,
    /// Whether it gets nothing unless its network namespace has no network yet: it did not ask, the operator gives all a slice.
    pub only_bare: bool,
    /// Where its bundle is, when a runtime told: whoever detaches the container has to name the same one.
    pub bundle: Option<PathBuf>,
    /// The name people know it by.
    pub name: Option<String>,
    /// The engine that runs it.
    pub engine: Option<String>,
    /// The path of the cgroup of its pod, when that was told.
    pub cgroup: Option<String>,
    /// The network it is attached to, when that was asked for instead of a container: its device is called as that says,
    /// and the slice ends with the attachment. Otherwise the device is called like the uplink.
    pub attachment: Option<Attachment>,
    /// What its device is called, when a network says so without being the one that ends the slice.
    pub device: Option<String>,
    /// What that engine calls it.
    pub names: Names,
}

impl Request {
    /// What its device is to be called; `None`: like the uplink.
    pub fn device(&self) -> Option<&str> {
        self.attachment.as_ref().map(|network| network.device.as_str()).or(self.device.as_deref())
    }

    /// A request that asks for nothing in particular.
    pub fn new(id: ContainerId) -> Self {
        let (ports, labels) = (PortsAsked::default(), Labels::default());
        let (egress, ingress) = (Limit::default(), Limit::default());
        Request {
            id,
            ports,
            open_ports: None,
            ephemeral_ports: None,
            host_loopback: None,
            egress,
            ingress,
            cpus: None,
            cpus_limit: None,
            cpus_revocable: None,
            bundle_cpus: None,
            limit_local: None,
            labels,
            own_settings: Vec::new(),
            port_range: None,
            reserved_ports: None,
            cannot_tamper: false,
            sandbox: false,
            powerless: false,
            net_admin: false,
            joins_namespace: false,
            only_joins: false,
            caller_holds_ports: false,
            only_bare: false,
            bundle: None,
            name: None,
            engine: None,
            cgroup: None,
            attachment: None,
            device: None,
            names: Names::default(),
        }
    }

    /// Everything in `annotations` that begins with [`PREFIX`]; the rest is not looked at.
    pub fn from_annotations<K, V>(id: ContainerId, annotations: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut request = Request::new(id);
        for (name, value) in annotations {
            if let Some(key) = name.as_ref().strip_prefix(PREFIX) {
                // An unknown key may be anything, a known one is shown as it is written.
                let name = if KEYS.contains(&key) { name.as_ref().to_string() } else { quoted(name.as_ref()) };
                request.set(key, value.as_ref(), &format!("annotation {name}"))?;
            }
        }
        Ok(request)
    }

    /// Refuses a bundle that sets the ephemeral ports of its namespace to anything but `block`, which its container has: under
    /// runc, which writes after our hook, it would silently win.
    pub fn fits(&self, block: Option<Block>) -> Result<()> {
        let same = |range: &str| block.is_some_and(|block| range == format!("{} {}", block.begin(), block.end()));
        match &self.port_range {
            Some(range) if !same(range) => Err(Error::invalid(
                "linux.sysctl net.ipv4.ip_local_port_range of the bundle",
                "a container's ephemeral ports are the block it leases; remove it, and ask for a size with the \
                 annotation portslice/ephemeral-ports",
            )),
            _ => Ok(()),
        }
    }

    /// Sets one of [`KEYS`] from its text. `place` is where it was found and what the refusal calls it. A refusal leaves
    /// the request as it was.
    pub fn set(&mut self, key: &str, value: &str, place: &str) -> Result<()> {
        bounded(value, place)?;
        let text = value.trim();
        match key {
            "ports" => self.ports = parsed(text, place)?,
            "open-ports" => self.open_ports = Some(parsed(text, place)?),
            "ephemeral-ports" => self.ephemeral_ports = Some(parsed(text, place)?),
            "host-loopback" => self.host_loopback = Some(flag(text, place)?),
            "egress-rate" | "egress-ceil" | "egress-burst" => self.egress = with_part(self.egress, key, text, place)?,
            "ingress-rate" | "ingress-ceil" | "ingress-burst" => {
                self.ingress = with_part(self.ingress, key, text, place)?;
            }
            "cpus-limit" => self.cpus_limit = Some(parsed(text, place)?),
            "cpus-revocable" => self.cpus_revocable = Some(flag(text, place)?),
            "cpus" => self.cpus = Some(parsed(text, place)?),
            "limit-local" => self.limit_local = Some(flag(text, place)?),
            "executor-id" => self.labels.executor_id = Some(label(value, place)?),
            "executor-name" => self.labels.executor_name = Some(label(value, place)?),
            "framework-id" => self.labels.framework_id = Some(label(value, place)?),
            "source" => self.labels.source = Some(label(value, place)?),
            _ => return Err(Error::invalid(one_line(place), unknown("key", key, &KEYS))),
        }
        Ok(())
    }
}

/// No honest value comes near it: the longest port set has 190 KB only if every other port is listed by itself.
const LONGEST_VALUE: usize = 64 << 10;

/// Labels end up in every statistic, so they are held shorter.
const LONGEST_LABEL: usize = 1024;

fn bounded(value: &str, place: &str) -> Result<()> {
    if value.len() > LONGEST_VALUE {
        let why = format!("the value has {} bytes; at most {LONGEST_VALUE} are read", value.len());
        return Err(Error::invalid(one_line(place), why));
    }
    Ok(())
}

/// `limit` with the part that `key` names (`egress-ceil`) set from `text`.
fn with_part(mut limit: Limit, key: &str, text: &str, place: &str) -> Result<Limit> {
    match key.rsplit('-').next() {
        Some("rate") => limit.rate = Some(parsed(text, place)?),
        Some("ceil") => limit.ceil = Some(parsed(text, place)?),
        _ => limit.burst = Some(parsed(text, place)?),
    }
    limit.checked(place)
}

fn parsed<T: FromStr>(text: &str, place: &str) -> Result<T>
where
    T::Err: fmt::Display,
{
    text.parse().map_err(|error: T::Err| Error::invalid(one_line(place), error.to_string()))
}

fn flag(text: &str, place: &str) -> Result<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::invalid(one_line(place), format!("{} is neither true nor false", quoted(text)))),
    }
}

fn label(text: &str, place: &str) -> Result<String> {
    let refuse = |why| Err(Error::invalid(one_line(place), format!("{} {why}", quoted(text))));
    if text.len() > LONGEST_LABEL {
        return refuse("is too long; give at most 1024 bytes");
    }
    // It is printed to terminals.
    if text.chars().any(char::is_control) {
        return refuse("contains a control character; give printable text");
    }
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_taken_and_a_refusal_changes_nothing() {
        let id: ContainerId = "web".parse().unwrap();
        for key in KEYS {
            let mut request = Request::new(id.clone());
            let value = ["auto:1", "1024", "1mbit", "64KB", "true", "0.35"]
                .iter()
                .find(|value| request.set(key, value, key).is_ok())
                .unwrap_or_else(|| panic!("{key}"));
            assert_ne!(request, Request::new(id.clone()), "{key} {value}");
        }
        let mut request = Request::new(id);
        request.set("egress-rate", "2mbit", "--egress-rate").unwrap();
        let before = request.clone();
        assert!(request.set("egress-ceil", "1mbit", "--egress-ceil").is_err());
        assert_eq!(request, before);
    }
}
