//! Open ports: what a slice is offered of what it asks for, and the refusal where this host cannot.
//!
//! What does not live here: how a port is claimed (`steer`), and whether it is free.

use crate::config::{Config, SocketRules};
use crate::error::{Error, Result};
use crate::host::HostRecord;
use crate::host::process::boot_id;
use crate::lease::Offer;
use crate::ports::{OpenPorts, PortSet};
use crate::request::ContainerId;
use crate::wire::Host;

/// What the slice of `id` is offered. Refused where it asks for open ports on a host that does not judge bind(); those of the
/// configuration are left out there, since `socket_rules = "auto"` means as far as the kernel can.
pub fn offer(config: &Config, id: &ContainerId, asked: Option<&OpenPorts>, host: &Host) -> Result<Offer> {
    let open = asked.unwrap_or(&config.open_ports);
    if open.is_none() {
        return Ok(Offer::default());
    }
    if host.maps.namespaces.is_some() {
        return Ok(offered(config, open.set().clone()));
    }
    if asked.is_none() { Ok(Offer::default()) } else { Err(impossible(config, id)) }
}

/// `ports` as an offer, as many at a time as the configuration says.
pub fn offered(config: &Config, ports: PortSet) -> Offer {
    if ports.is_empty() { Offer::default() } else { Offer { ports, limit: config.open_ports_per_container } }
}

/// Refuses what no host with this configuration can give, before anything is done.
pub fn possible(config: &Config, id: &ContainerId, asked: Option<&OpenPorts>) -> Result<()> {
    let asks = asked.is_some_and(|open| !open.is_none());
    if asks && config.socket_rules == SocketRules::Off { Err(impossible(config, id)) } else { Ok(()) }
}

fn impossible(config: &Config, id: &ContainerId) -> Error {
    let refuse = |why: &str, remedy: &str| {
        let what = format!("container {id} asks for open ports, which are claimed by bind(), but {why}");
        Error::unsupported(what, format!("{remedy}, or leave open-ports out"))
    };
    if config.socket_rules == SocketRules::Off {
        return refuse("socket_rules is \"off\"", "set it to \"auto\"");
    }
    let missing = HostRecord::read(&config.state_dir, boot_id()).ok().and_then(|record| record.sockets?.missing);
    match missing {
        Some(missing) => refuse(&format!("bind() is not judged here ({missing})"), "run a kernel that can"),
        None => refuse(
            "bind() is not judged here, since this host is one network namespace of several",
            "set socket_cgroup to the cgroup of its processes, or socket_rules to \"require\"",
        ),
    }
}
