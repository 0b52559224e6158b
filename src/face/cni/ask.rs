//! What a container asks for by its network's configuration and the runtime's variables.
//!
//! The same key may come from several places. From the weakest to the strongest: the configuration's own `portslice` object,
//! the pod's annotations, `args` (of whoever calls the runtime, and of Mesos), `CNI_ARGS`. Ports to publish are added to the
//! ports that are asked for; limits of the capability `bandwidth` apply where no key says otherwise.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::decode::{Bandwidth, Environment, Label, Network, PortMapping};
use super::failure::Failure;
use crate::error::Result as OurResult;
use crate::host::process::command_of;
use crate::ports::{NameProtocol, PortNames, PortRange, PortSet};
use crate::rate::{Limit, Rate};
use crate::refusal::{one_line, quoted};
use crate::request::{ContainerId, PREFIX, Request};

/// What keys begin with where a slash has no place.
const DOTTED: &str = "portslice.";
/// Keys of the configuration's `portslice` object that say where our files are.
pub const FILES: [&str; 2] = ["config", "state-dir"];

/// What a container asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request.
    pub request: Request,
    /// Addresses of the host that ports are to be published at: each must be one that containers carry.
    pub published_at: Vec<IpAddr>,
}

/// Reads it from everywhere.
pub fn asked(id: ContainerId, environment: &Environment, network: &Network) -> Result<Asked, Failure> {
    let mut request = Request::new(id);
    for (key, value) in network.portslice.iter().flatten().filter(|(key, _)| !FILES.contains(&key.as_str())) {
        let place = format!("network configuration, portslice.{}", one_line(key));
        request.set(key, &text(value, &place)?, &place)?;
    }
    let runtime = network.runtime_config.clone().unwrap_or_default();
    let annotations = runtime.annotations.iter().flatten();
    set_all(&mut request, "pod annotation", annotations.map(|(key, value)| (key.as_str(), value.as_str())))?;
    let args = network.args.clone().unwrap_or_default();
    if let Some(cni) = &args.cni {
        from_args(&mut request, cni)?;
    }
    let mesos = args.mesos.and_then(|mesos| mesos.network_info).unwrap_or_default();
    let labels = mesos.labels.unwrap_or_default().labels;
    set_all(&mut request, "label", labels.iter().map(pair))?;
    let pairs = environment.args.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    set_all(&mut request, "CNI_ARGS", pairs).map_err(|e| Failure::new(Failure::ENVIRONMENT, e.to_string()))?;

    let mappings: Vec<PortMapping> =
        [runtime.port_mappings, mesos.port_mappings].into_iter().flatten().flatten().collect();
    let Published { ports, names, at: published_at } = Published::of(&mappings)?;
    // Podman binds the ports that it publishes while it has the plugin called.
    request.caller_holds_ports = !ports.is_empty();
    request.ports.set = request.ports.set.union(&ports);
    request.ports.names =
        request.ports.names.union(&names).map_err(|e| Failure::config("port mappings", e.to_string()))?;
    if let Some(bandwidth) = &runtime.bandwidth {
        limit(&mut request, bandwidth)?;
    }
    request.cgroup = runtime.cgroup_path.map(cgroup).transpose()?.flatten();
    request.attachment = Some(network.attachment(environment));
    // The namespace is somebody else's, and so are the processes that will live in it.
    (request.sandbox, request.joins_namespace) = (true, true);
    (request.name, request.engine) = (name(environment), engine(environment, network));
    Ok(Asked { request, published_at })
}

/// The pod's cgroup. A path that leads upwards could be any other's.
fn cgroup(path: String) -> Result<Option<String>, Failure> {
    if path.split('/').any(|part| part == "..") || path.contains('\0') {
        let why = "give the pod's cgroup without .. in its path";
        return Err(Failure::config(format!("cgroupPath {}", quoted(&path)), why));
    }
    Ok(Some(path).filter(|path| !path.trim_matches('/').is_empty()))
}

/// Keys of ours in `args.cni`: as they are, or as labels (CONVENTIONS.md, "labels").
fn from_args(request: &mut Request, args: &Map<String, Value>) -> Result<(), Failure> {
    if let Some(Ok(labels)) = args.get("labels").map(|labels| serde_json::from_value::<Vec<Label>>(labels.clone())) {
        set_all(request, "label", labels.iter().map(pair))?;
    }
    for (key, value) in args.iter().filter(|(key, _)| own(key).is_some()) {
        let value = text(value, &format!("args.cni {}", one_line(key)))?;
        set_all(request, "args.cni", [(key.as_str(), value.as_str())])?;
    }
    Ok(())
}

/// Sets those of the keys that are ours.
fn set_all<'a>(
    request: &mut Request,
    place: &str,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> OurResult<()> {
    for (name, value) in pairs {
        if let Some(key) = own(name) {
            request.set(key, value, &format!("{place} {}", one_line(name)))?;
        }
    }
    Ok(())
}

fn own(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(DOTTED))
}

fn pair(label: &Label) -> (&str, &str) {
    (&label.key, label.value.as_deref().unwrap_or_default())
}

/// The text of a value: JSON's own words for numbers and truth do as well.
fn text(value: &Value, place: &str) -> Result<String, Failure> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        _ => Err(Failure::config(place, "its value is neither text nor a number; write it in quotes")),
    }
}

/// What is published.
#[derive(Default)]
struct Published {
    ports: PortSet,
    /// What the program binds where that is another number.
    names: PortNames,
    /// At which addresses of the host, as far as one is named.
    at: Vec<IpAddr>,
}

impl Published {
    fn of(mappings: &[PortMapping]) -> Result<Self, Failure> {
        let mut all = Self::default();
        let mut ports: Vec<PortRange> = Vec::new();
        for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
            let (host, container) = (mapping.host_port, mapping.container_port);
            let port = |port: i64| u16::try_from(port).ok().and_then(|port| PortRange::new(port, port));
            let wrong = |what: String| Failure::config(what, "give 1 to 65535");
            let outside = port(host).ok_or_else(|| wrong(format!("port mapping of host port {host}")))?;
            let mapped = || format!("host port {host} for container port {container}");
            let inside = port(container).ok_or_else(|| wrong(mapped()))?;
            all.names
                .add(outside, inside, protocol(mapping, &mapped)?)
                .map_err(|e| Failure::config(mapped(), e.to_string()))?;
            ports.push(outside);
            let Some(text) = mapping.host_ip.as_deref().filter(|text| !text.is_empty()) else { continue };
            let ip: IpAddr = text.parse().map_err(|_| {
                Failure::config(
                    format!("hostIP {} of port {host}", quoted(text)),
                    "give an address of the host, or none",
                )
            })?;
            if !ip.is_unspecified() && !all.at.contains(&ip) {
                all.at.push(ip);
            }
        }
        all.ports = ports.into_iter().collect();
        all.names = all.names.checked().map_err(|e| Failure::config("port mappings", e.to_string()))?;
        Ok(all)
    }
}

/// For which protocol a mapping names a port. What is neither TCP nor UDP has ports under their own numbers alone.
fn protocol(mapping: &PortMapping, mapped: &impl Fn() -> String) -> Result<NameProtocol, Failure> {
    match mapping.protocol.as_deref().unwrap_or("").to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(NameProtocol::Tcp),
        "udp" => Ok(NameProtocol::Udp),
        _ if mapping.host_port == mapping.container_port => Ok(NameProtocol::Both),
        other => Err(Failure::config(
            mapped(),
            format!(
                "ports of {} have no names; let the program listen on the host port, and publish that",
                quoted(other)
            ),
        )),
    }
}

/// Limits by capability, where no key of ours says otherwise.
fn limit(request: &mut Request, bandwidth: &Bandwidth) -> Result<(), Failure> {
    let set = |limit: &mut Limit, bits: Option<u64>, name: &str| -> Result<(), Failure> {
        if let Some(bits) = bits.filter(|bits| *bits > 0 && limit.rate.is_none()) {
            limit.rate = Some(Rate::from_bits_per_second(bits));
            limit.checked(&format!("bandwidth.{name} {bits}"))?;
        }
        Ok(())
    };
    set(&mut request.egress, bandwidth.egress_rate, "egressRate")?;
    set(&mut request.ingress, bandwidth.ingress_rate, "ingressRate")
}

/// What people call it: a pod by its namespace, an allocation of Nomad by its job and group.
fn name(environment: &Environment) -> Option<String> {
    let joined = |keys: &[&str]| {
        let parts: Vec<&str> = keys.iter().filter_map(|key| environment.arg(key)).collect();
        (!parts.is_empty()).then(|| one_line(&parts.join("/")))
    };
    let pod = environment.arg("K8S_POD_NAME").and_then(|_| joined(&["K8S_POD_NAMESPACE", "K8S_POD_NAME"]));
    pod.or_else(|| joined(&["NOMAD_NAMESPACE", "NOMAD_JOB_ID", "NOMAD_GROUP_NAME"]))
}

/// Who calls: known by what only it hands on, else by the process that started the plugin.
fn engine(environment: &Environment, network: &Network) -> Option<String> {
    const PARENTS: [(&str, &str); 4] =
        [("containerd", "containerd"), ("crio", "cri-o"), ("podman", "podman"), ("nomad", "nomad")];
    if network.is_of_mesos() {
        return Some("mesos".to_owned());
    }
    if environment.arg("NOMAD_ALLOC_ID").is_some() {
        return Some("nomad".to_owned());
    }
    let parent = command_of(nix::unistd::getppid().as_raw().unsigned_abs())?;
    PARENTS.iter().find(|(command, _)| *command == parent).map(|(_, name)| (*name).to_owned())
}
