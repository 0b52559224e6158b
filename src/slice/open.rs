//! Open ports: what a slice is offered of what it asks for, and the refusal where this host cannot.
//!
//! What does not live here: how a port is claimed (`steer`), and whether it is free.

use super::wanted::assignable;
use crate::config::{Config, SocketRules};
use crate::error::{Error, Result};
use crate::host::process::boot_id;
use crate::host::{Facts, HostRecord};
use crate::lease::Offer;
use crate::ports::{OpenPorts, PortNames, PortRange, PortSet};
use crate::request::{ContainerId, Request};
use crate::wire::Host;

/// What the slice of `id` is offered. Refused where it asks for open ports on a host that does not judge bind(); those of the
/// configuration are left out there, since `socket_rules = "auto"` means as far as the kernel can.
///
/// What leases are cut from and what the host's own connections take is left out: a claim there would keep a block from being
/// leased, or lead a connection of the host into the container.
pub fn offer(
    config: &Config,
    id: &ContainerId,
    asked: Option<&OpenPorts>,
    (host, facts): (&Host, &Facts),
) -> Result<Offer> {
    let open = asked.unwrap_or(&config.open_ports);
    if open.is_none() {
        return Ok(Offer::default());
    }
    if host.maps.namespaces.is_some() {
        let asked = open.set().clone();
        let ports = asked.difference(&withheld(config, (facts.ephemeral, &facts.reserved)));
        return Ok(Offer { asked, ports, limit: config.open_ports_per_container });
    }
    if asked.is_none() { Ok(Offer::default()) } else { Err(impossible(config, id, OPEN_PORTS)) }
}

/// What nobody is offered: what leases are cut from, and what the host's own connections take. Those take what is in the host's
/// ephemeral range and not reserved (`ip_local_port_range`, `ip_local_reserved_ports`).
pub fn withheld(config: &Config, (ephemeral, reserved): (PortRange, &PortSet)) -> PortSet {
    assignable(config).union(&PortSet::from(ephemeral).difference(reserved))
}

/// Refuses what no host with this configuration can give, before anything is done.
pub fn possible(config: &Config, id: &ContainerId, asked: Option<&OpenPorts>) -> Result<()> {
    let asks = asked.is_some_and(|open| !open.is_none());
    if asks && config.socket_rules == SocketRules::Off { Err(impossible(config, id, OPEN_PORTS)) } else { Ok(()) }
}

/// Refuses port names on a host whose programs at the sockets cannot translate them.
pub fn nameable(config: &Config, request: &Request, host: &Host) -> Result<()> {
    has_names(config, (&request.id, &request.ports.names), host)
}

/// The same for the container `id` with these names.
pub fn has_names(config: &Config, (id, names): (&ContainerId, &PortNames), host: &Host) -> Result<()> {
    if names.is_empty() || (host.sockets.is_some() && host.maps.names.is_some()) {
        return Ok(());
    }
    if host.sockets.is_some() {
        return Err(Error::unsupported(
            format!("container {id} asks for port names ({names}), which the programs of this host are too old for"),
            "run `portslice setup`, which replaces them",
        ));
    }
    Err(impossible(config, id, PORT_NAMES))
}

/// What is asked for, what makes it work, and how to do without.
type Wish = [&'static str; 3];
const OPEN_PORTS: Wish = ["open ports", "are claimed by bind()", "leave open-ports out"];
const PORT_NAMES: Wish =
    ["port names", "are given at bind()", "give ports without names, and let programs listen on them"];

fn impossible(config: &Config, id: &ContainerId, [asks, how, without]: Wish) -> Error {
    let refuse = |why: &str, remedy: &str| {
        let what = format!("container {id} asks for {asks}, which {how}, but {why}");
        Error::unsupported(what, format!("{remedy}, or {without}"))
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
