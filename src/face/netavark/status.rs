//! What netavark is answered (`StatusBlock`): Podman shows it in `inspect`, and writes a container's resolv.conf by it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::host::{Given, resolver};
use crate::lease::Lease;
use crate::net::link::mac_text;

/// The network of one container.
#[derive(Debug, Serialize)]
pub struct Status {
    /// None of its own: Podman takes the host's.
    dns_search_domains: Vec<String>,
    dns_server_ips: Vec<IpAddr>,
    interfaces: BTreeMap<String, Interface>,
}

#[derive(Debug, Serialize)]
struct Interface {
    mac_address: String,
    subnets: Vec<Subnet>,
}

#[derive(Debug, Serialize)]
struct Subnet {
    ipnet: String,
}

impl Status {
    /// Of the container with this lease, which was given what all containers of the host are given.
    pub fn of(lease: &Lease, given: &Given) -> Self {
        let subnets =
            given.addresses.iter().map(|ip| Subnet { ipnet: format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }) });
        let interface = Interface { mac_address: mac_text(given.mac), subnets: subnets.collect() };
        // Podman takes those on loopback for unreachable, and drops them unless they are named here.
        let mut servers = resolver::servers();
        servers.retain(|ip| lease.host_loopback || !ip.is_loopback());
        Self {
            dns_search_domains: Vec::new(),
            dns_server_ips: servers,
            interfaces: BTreeMap::from([(lease.device.clone(), interface)]),
        }
    }
}
