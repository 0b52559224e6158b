//! What a runtime hands to the plugin: environment variables, and a network's configuration on standard input.
//!
//! Names and shapes are those of the CNI specification 1.1.0 ("Execution Protocol") and its conventions (CONVENTIONS.md).
//! Unknown keys are ignored, as the specification wants; runtimes write `null` for what they do not have. What does not live
//! here: what a container asks for by it ([`super::ask`]).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::failure::Failure;
use crate::net::link::is_name_of_device;
use crate::refusal::{one_line, quoted};
use crate::request::{Attachment, ContainerId};

/// The versions of the specification that are spoken, the oldest first. Up to 0.2.0 a result has one address of each family.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest of them.
pub const NEWEST: &str = "1.1.0";

/// No honest configuration comes near it: a port mapping has some 70 bytes, so all ports of both protocols have 9 MB.
const LONGEST: u64 = 32 << 20;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Take its network away.
    Del,
    /// Look whether its network is as planned.
    Check,
    /// End every attachment that is not listed.
    Gc,
    /// Say whether a container could be attached.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Command {
    /// As in `CNI_COMMAND`.
    pub const ALL: [(&'static str, Command); 6] = [
        ("ADD", Command::Add),
        ("DEL", Command::Del),
        ("CHECK", Command::Check),
        ("GC", Command::Gc),
        ("STATUS", Command::Status),
        ("VERSION", Command::Version),
    ];

    /// The first version of the specification that has it.
    fn since(self) -> &'static str {
        match self {
            Command::Gc | Command::Status => "1.1.0",
            Command::Check => "0.4.0",
            _ => VERSIONS[0],
        }
    }

    /// The variables that it needs besides `CNI_COMMAND`.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status | Command::Version => &[],
        }
    }
}

/// The environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: Command,
    /// `CNI_CONTAINERID`, where the command needs it.
    pub container: Option<ContainerId>,
    /// `CNI_IFNAME`, where the command needs it.
    pub device: String,
    /// `CNI_NETNS`
    pub netns: PathBuf,
    /// `CNI_ARGS` as pairs.
    pub args: Vec<(String, String)>,
}

impl Environment {
    /// Reads the variables through `get`, which gives the value of one by its name.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let get = |name: &str| get(name).unwrap_or_default();
        let wrong = |line: String| Failure::new(Failure::ENVIRONMENT, line);
        let name = get("CNI_COMMAND");
        let known = Command::ALL.map(|(name, _)| name).join(", ");
        let command = Command::ALL.iter().find(|(known, _)| *known == name).map(|(_, command)| *command);
        let command = command.ok_or_else(|| match name.as_str() {
            "" => wrong(format!("CNI_COMMAND is missing: this is a CNI plugin, which a runtime calls with {known}")),
            other => wrong(format!("CNI_COMMAND {} is none of {known}", quoted(other))),
        })?;
        let missing: Vec<&str> = command.needs().iter().filter(|name| get(name).is_empty()).copied().collect();
        if !missing.is_empty() {
            return Err(wrong(format!("{} not set: {name} needs it", missing.join(", "))));
        }
        let needs = |name: &str| command.needs().contains(&name);
        let id = needs("CNI_CONTAINERID").then(|| container_id(&get("CNI_CONTAINERID"))).transpose()?;
        let device = if needs("CNI_IFNAME") { device(get("CNI_IFNAME"))? } else { String::new() };
        let args = if needs("CNI_CONTAINERID") { pairs(&get("CNI_ARGS"))? } else { Vec::new() };
        Ok(Self { command, container: id, device, netns: get("CNI_NETNS").into(), args })
    }

    /// The value of a pair in `CNI_ARGS`, if there is one and it is not empty.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

/// A network's configuration, with what the runtime put into it for this call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// The version of the specification.
    pub cni_version: Option<String>,
    /// The network.
    pub name: Option<String>,
    /// What the runtime knows of this container, by capability.
    pub runtime_config: Option<Runtime>,
    /// What users and frameworks ask for.
    pub args: Option<Args>,
    /// What the plugins before this one came to.
    pub prev_result: Option<Map<String, Value>>,
    /// Name servers of the network.
    pub dns: Option<Map<String, Value>>,
    /// Keys of our own: what every container of the network asks for, and where our files are.
    pub portslice: Option<Map<String, Value>>,
    /// GC: what is still attached.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Listed>>,
    /// GC: the same under its first name.
    #[serde(rename = "cni.dev/attachments")]
    pub attachments: Option<Vec<Listed>>,
}

/// `runtimeConfig`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Runtime {
    /// Ports to publish.
    pub port_mappings: Option<Vec<PortMapping>>,
    /// Limits.
    pub bandwidth: Option<Bandwidth>,
    /// The pod's cgroup.
    pub cgroup_path: Option<String>,
    /// The annotations of a pod, as containerd's CRI hands them on.
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A published port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortMapping {
    /// The port on the host; 0: none.
    #[serde(alias = "host_port")]
    pub host_port: i64,
    /// The port that the program binds.
    #[serde(alias = "container_port")]
    pub container_port: i64,
    /// `tcp`, `udp` or `sctp`; empty for TCP.
    pub protocol: Option<String>,
    /// The host's address at which it is reached; empty for all.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
}

/// Limits in bits a second. Bursts are not taken: what exceeds a rate here is said by a ceil.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Bandwidth {
    /// What the container receives; 0: no limit.
    pub ingress_rate: Option<u64>,
    /// What it sends; 0: no limit.
    pub egress_rate: Option<u64>,
}

/// `args`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// Of whoever calls a runtime.
    pub cni: Option<Map<String, Value>>,
    /// Of the Mesos agent (`network/cni` isolator).
    #[serde(rename = "org.apache.mesos")]
    pub mesos: Option<Mesos>,
}

/// What the Mesos agent adds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Mesos {
    /// The `NetworkInfo` of the task, as JSON.
    pub network_info: Option<NetworkInfo>,
}

/// mesos.proto, `NetworkInfo`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NetworkInfo {
    /// Labels of the framework.
    pub labels: Option<Labels>,
    /// Ports of the task.
    pub port_mappings: Option<Vec<PortMapping>>,
}

/// mesos.proto, `Labels`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// All of them.
    pub labels: Vec<Label>,
}

/// One label.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Option<String>,
}

/// One attachment that GC is to keep.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The container's device.
    #[serde(rename = "ifname")]
    pub device: String,
}

/// Reads standard input to its end.
pub fn read(input: impl Read) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let cannot = |e| Failure::new(Failure::IO, format!("cannot read the network's configuration from stdin: {e}"));
    input.take(LONGEST + 1).read_to_end(&mut text).map_err(cannot)?;
    if text.len() as u64 > LONGEST {
        return Err(Failure::new(Failure::DECODE, "network configuration on stdin: longer than 32 MiB"));
    }
    Ok(text)
}

impl Network {
    /// Decodes it.
    pub fn parse(text: &[u8]) -> Result<Self, Failure> {
        let refused = |why: &str| {
            Failure::new(Failure::DECODE, format!("network configuration on stdin: {why}; give CNI's JSON"))
        };
        // A list would be taken for the values of an object's keys.
        let is_list = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        if is_list {
            return Err(refused("a list, where an object is expected"));
        }
        serde_json::from_slice(text).map_err(|e| refused(&one_line(&e.to_string())))
    }

    /// The version; the oldest where none is given, as the specification has it.
    pub fn version(&self) -> &str {
        self.cni_version.as_deref().filter(|version| !version.is_empty()).unwrap_or(VERSIONS[0])
    }

    /// Refuses a version that is not spoken or does not know `command`, and a name that is none.
    pub fn check(&self, command: Command) -> Result<&str, Failure> {
        let (version, known) = (self.version(), VERSIONS.join(", "));
        let place = |of: &str| VERSIONS.iter().position(|known| *known == of);
        let Some(at) = place(version) else {
            let line = format!("cniVersion {} is not spoken; give one of {known}", quoted(version));
            return Err(Failure::new(Failure::VERSION, line));
        };
        if Some(at) < place(command.since()) {
            let name = Command::ALL.iter().find(|(_, known)| *known == command).map_or("", |(name, _)| name);
            let line = format!("cniVersion {version} does not know {name}; give {} or newer", command.since());
            return Err(Failure::new(Failure::VERSION, line));
        }
        let name = self.name.as_deref().unwrap_or_default();
        if is_name(name) {
            return Ok(name);
        }
        let why = "a network's name begins with a letter or digit, and goes on with those and _ . -";
        Err(Failure::config(format!("network name {}", quoted(name)), why))
    }

    /// Whether the Mesos agent calls.
    pub fn is_of_mesos(&self) -> bool {
        self.args.as_ref().is_some_and(|args| args.mesos.is_some())
    }

    /// What GC is to keep, under either name; `None` when it is not said.
    pub fn listed(&self) -> Option<Vec<&Listed>> {
        let both = [&self.valid_attachments, &self.attachments];
        both.iter().any(|list| list.is_some()).then(|| both.into_iter().flatten().flatten().collect())
    }

    /// Which attachment of the container is meant.
    pub fn attachment(&self, environment: &Environment) -> Attachment {
        Attachment { network: self.name.clone().unwrap_or_default(), device: environment.device.clone() }
    }
}

/// Letters, digits, `_`, `.` and `-`, the first one a letter or digit: what the specification allows as names and ids.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().next().is_some_and(plain) && text.bytes().all(|byte| plain(byte) || b"_.-".contains(&byte))
}

fn container_id(text: &str) -> Result<ContainerId, Failure> {
    let wrong = |why: String| Failure::new(Failure::ENVIRONMENT, format!("CNI_CONTAINERID: {why}"));
    if !is_name(text) {
        let why = "begins with a letter or digit, and goes on with those and _ . -";
        return Err(wrong(format!("{} is no container id, which {why}", quoted(text))));
    }
    text.parse().map_err(|e: crate::error::Error| wrong(e.to_string()))
}

fn device(text: String) -> Result<String, Failure> {
    if !is_name_of_device(&text) {
        let why = "give at most 15 bytes without / : and blanks, and not lo";
        let line = format!("CNI_IFNAME: {} cannot be a container's device; {why}", quoted(&text));
        return Err(Failure::new(Failure::ENVIRONMENT, line));
    }
    Ok(text)
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let pair = |item: &str| match item.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => {
            let line = format!("CNI_ARGS: {} is no pair; write KEY=VALUE;KEY=VALUE", quoted(item));
            Err(Failure::new(Failure::ENVIRONMENT, line))
        }
    };
    text.split(';').filter(|item| !item.trim().is_empty()).map(pair).collect()
}
