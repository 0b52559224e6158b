//! What netavark says of a container (`NetworkPluginExec`), and the request that it makes.
//!
//! Options carry the keys of annotations: those of the network (`podman network create -o KEY=VALUE`) hold for all of its
//! containers, those of the container (`--network NAME:KEY=VALUE`) stand above them. What a slice cannot do is refused, not
//! ignored.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::net::link::is_name_of_device;
use crate::ports::{NameProtocol, PortNames, PortRange};
use crate::refusal::{one_line, quoted};
use crate::request::{ContainerId, KEYS, Request};

/// Options by their keys.
pub type Options = BTreeMap<String, String>;

/// One container, and the network that it is to be in.
#[derive(Debug, Deserialize)]
pub struct Call {
    container_id: String,
    #[serde(default)]
    container_name: String,
    #[serde(default)]
    port_mappings: Option<Vec<Mapping>>,
    network: Network,
    network_options: Container,
}

#[derive(Debug, Deserialize)]
struct Network {
    name: String,
    #[serde(default)]
    options: Option<Options>,
}

/// What the container asks of the network.
#[derive(Debug, Deserialize)]
struct Container {
    #[serde(default)]
    interface_name: String,
    #[serde(default)]
    static_ips: Option<Vec<IpAddr>>,
    #[serde(default)]
    static_mac: Option<String>,
    #[serde(default)]
    options: Option<Options>,
}

/// A published port (`-p`), or several in a row.
#[derive(Debug, Deserialize)]
struct Mapping {
    container_port: u16,
    host_port: u16,
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    range: u16,
}

impl Call {
    /// The container's id.
    pub fn id(&self) -> Result<ContainerId> {
        self.container_id.parse()
    }

    /// What the container asks for.
    pub fn request(&self) -> Result<Request> {
        self.network_options.check()?;
        let mut request = Request::new(self.id()?);
        let (mut options, network) = (self.network.options.clone().unwrap_or_default(), &self.network.name);
        options.extend(self.network_options.options.clone().unwrap_or_default());
        ask(&mut request, &options, network)?;
        for mapping in self.port_mappings.iter().flatten() {
            request.ports.set.insert(mapping.published(&mut request.ports.names)?);
        }
        // Podman keeps a published port bound while it has the network set up.
        let names = std::mem::take(&mut request.ports.names).checked();
        request.ports.names = names.map_err(|why| Error::invalid("published ports", why.to_string()))?;
        request.caller_holds_ports = !request.ports.set.is_empty();
        request.device = Some(self.network_options.interface_name.clone()).filter(|name| !name.is_empty());
        request.name = Some(one_line(&self.container_name)).filter(|name| !name.is_empty());
        request.engine = Some("podman".to_owned());
        Ok(request)
    }
}

/// Sets what options ask for.
pub fn ask(request: &mut Request, options: &Options, network: &str) -> Result<()> {
    for (key, value) in options {
        let shown = if KEYS.contains(&key.as_str()) { key.clone() } else { quoted(key) };
        request.set(key, value, &format!("option {shown} of network {}", quoted(network)))?;
    }
    Ok(())
}

impl Container {
    fn check(&self) -> Result<()> {
        let refuse =
            |what: String| Err(Error::invalid(what, "containers carry the host's own addresses; leave it out"));
        if let Some(ip) = self.static_ips.iter().flatten().next() {
            return refuse(format!("address {ip}"));
        }
        let name = &self.interface_name;
        if !name.is_empty() && !is_name_of_device(name) {
            let why = "cannot be a container's device; give at most 15 bytes without / : and blanks, and not lo";
            return Err(Error::invalid(format!("interface_name {}", quoted(name)), why));
        }
        match self.static_mac.as_deref().filter(|mac| !mac.is_empty()) {
            Some(mac) => refuse(format!("MAC address {}", quoted(mac))),
            None => Ok(()),
        }
    }
}

impl Mapping {
    /// The ports of the host that are to be the container's. What the program binds instead is added to the names.
    fn published(&self, names: &mut PortNames) -> Result<PortRange> {
        let Mapping { container_port: inner, host_port: outer, .. } = *self;
        let what = || format!("published port {outer}:{inner}");
        if !["", "0.0.0.0", "::"].contains(&self.host_ip.as_str()) {
            let why =
                format!("it would answer at all of the host's addresses, not at {} alone; leave the address out", {
                    quoted(&self.host_ip)
                });
            return Err(Error::invalid(what(), why));
        }
        if let Some(other) = self.protocol.split(',').find(|name| !["", "tcp", "udp", "sctp"].contains(name)) {
            return Err(Error::invalid(what(), format!("protocol {} is not tcp, udp or sctp", quoted(other))));
        }
        let row = |begin: u16| {
            let end = begin.checked_add(self.range.max(1) - 1);
            end.and_then(|end| PortRange::new(begin, end)).ok_or_else(|| {
                Error::invalid(what(), format!("{} ports from there are more than there are", self.range))
            })
        };
        let (outside, inside) = (row(outer)?, row(inner)?);
        for protocol in self.protocol.split(',').filter(|_| outer != inner) {
            let protocol = match protocol {
                "" | "tcp" => NameProtocol::Tcp,
                "udp" => NameProtocol::Udp,
                other => {
                    let why = format!(
                        "ports of {other} have no names; publish {outer}:{outer} and let the program listen there"
                    );
                    return Err(Error::invalid(what(), why));
                }
            };
            names.add(outside, inside, protocol).map_err(|why| Error::invalid(what(), why.to_string()))?;
        }
        Ok(outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(change: impl FnOnce(&mut Value)) -> Result<Request> {
        let mut call = json!({
            "container_id": "c1", "container_name": "web", "port_mappings": null,
            "network": {"name": "ps", "driver": "portslice", "options": {"egress-rate": "100mbit", "cpus": "2"}},
            "network_options": {"interface_name": "eth0", "static_ips": null, "options": {"cpus": "0.5"}},
        });
        change(&mut call);
        serde_json::from_value::<Call>(call).unwrap().request()
    }

    #[test]
    fn options_of_the_container_stand_above_the_networks() {
        let request = request(|call| call["network_options"]["options"]["ports"] = json!("31000+auto:2")).unwrap();
        assert_eq!(request.ports.to_string(), "31000,auto:2");
        assert_eq!(request.cpus.unwrap().to_string(), "0.5");
        assert_eq!(request.egress.rate.unwrap().bits_per_second(), 100_000_000);
        assert_eq!((request.name.as_deref(), request.engine.as_deref()), (Some("web"), Some("podman")));
        assert_eq!(request.device(), Some("eth0"), "as Podman calls it");
    }

    #[test]
    fn published_ports_are_asked_for() {
        let mapping = |port: u16, range: u16, protocol: &str| json!({"container_port": port, "host_port": port, "host_ip": "", "protocol": protocol, "range": range});
        let ports = json!([mapping(31_000, 1, "tcp"), mapping(31_100, 10, "udp"), mapping(31_001, 0, "tcp,udp")]);
        let request = request(|call| {
            call["port_mappings"] = ports;
            call["network_options"]["options"]["ports"] = json!("31500");
        });
        assert_eq!(request.unwrap().ports.to_string(), "31000-31001,31100-31109,31500");
    }

    #[test]
    fn a_published_port_may_have_another_number_inside() {
        let mapping = |outer: u16, inner: u16, range: u16, protocol: &str| json!({"container_port": inner, "host_port": outer, "host_ip": "", "protocol": protocol, "range": range});
        let ports = json!([
            mapping(31_000, 80, 1, "tcp"),
            mapping(31_100, 53, 1, "tcp,udp"),
            mapping(31_200, 31_200, 1, "udp"),
            mapping(31_300, 8000, 10, "udp"),
        ]);
        let request = request(|call| call["port_mappings"] = ports).unwrap();
        assert_eq!(request.ports.to_string(), "31000:80/tcp,31100:53,31300-31309:8000-8009/udp,31200");
        assert_eq!(request.ports.set.to_string(), "31000,31100,31200,31300-31309");
    }

    #[test]
    fn what_a_slice_cannot_do_is_refused_in_one_line() {
        let mapping = |outer: u16, inner: u16, ip: &str, protocol: &str, range: u16| json!([{"container_port": inner, "host_port": outer, "host_ip": ip, "protocol": protocol, "range": range}]);
        for (pointer, value, says) in [
            (
                "/port_mappings",
                mapping(8080, 80, "", "sctp", 1),
                "8080:80: ports of sctp have no names; publish 8080:8080",
            ),
            ("/port_mappings", mapping(8080, 65_535, "", "tcp", 2), "8080:65535: 2 ports from there"),
            ("/port_mappings", mapping(8080, 0, "", "tcp", 1), "8080:0: 1 ports from there"),
            (
                "/port_mappings",
                json!([mapping(8080, 80, "", "tcp", 1)[0], mapping(8081, 80, "", "tcp", 1)[0]]),
                "published port 8081:80: ports 8080 and 8081 are both named 80",
            ),
            ("/port_mappings", mapping(31_000, 31_000, "127.0.0.1", "tcp", 1), "not at \"127.0.0.1\" alone"),
            ("/port_mappings", mapping(31_000, 31_000, "", "dccp", 1), "\"dccp\" is not tcp"),
            ("/port_mappings", mapping(65_535, 65_535, "", "tcp", 2), "2 ports from there"),
            ("/network_options/interface_name", json!("lo"), "interface_name \"lo\": cannot be"),
            ("/network_options/interface_name", json!("a/b"), "interface_name \"a/b\": cannot be"),
            ("/network_options/static_ips", json!(["10.0.0.5"]), "address 10.0.0.5: "),
            ("/network_options/static_mac", json!("aa:bb:cc:dd:ee:ff"), "MAC address"),
            (
                "/network_options/options",
                json!({"prots": "1"}),
                "option \"prots\" of network \"ps\": unknown key; did you mean",
            ),
            ("/network_options/options", json!({"ports": "1-"}), "option ports of network \"ps\": \"1-\""),
            ("/container_id", json!("../x"), "container id"),
        ] {
            let line = request(|call| {
                if call.pointer(pointer).is_none() {
                    call["network_options"]["static_mac"] = json!(null);
                }
                *call.pointer_mut(pointer).unwrap() = value;
            });
            let line = line.unwrap_err().to_string();
            assert!(line.contains(says) && !line.contains('\n'), "{says}: {line}");
        }
    }
}
