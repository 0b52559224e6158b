//! `portslice setup`: prepare the host, or put it back.

use std::fs;
use std::io;
use std::path::Path;

use super::args::Setup;
use super::print;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::sysctl::Proc;
use crate::host::{Facts, unmanaged};
use crate::net::{Netlink, Netns};
use crate::plan::grant;
use crate::ports::PortSet;
use crate::slice::prepare::{self, Wanted};
use crate::slice::undo;

/// Keeps the reservation across boots.
const SYSCTL_FILE: &str = "/etc/sysctl.d/50-portslice.conf";

pub fn run(config: &Config, args: &Setup) -> Result<()> {
    match (args.undo, args.dry_run) {
        (true, true) => print("would detach the data path, restore settings and remove the state directory\n"),
        (true, false) => undo(config),
        (false, true) => dry_run(config),
        (false, false) => set_up(config),
    }
}

fn set_up(config: &Config) -> Result<()> {
    let mut netlink = Netlink::route()?;
    // everything that may be refused comes before the first change
    let proc = Proc::default();
    let facts = Facts::read(&mut netlink, &proc, config.uplink.as_deref())?;
    if let Some(reserved) = prepare::reserve(config)? {
        print(&format!("reserved ports {reserved} (net.ipv4.ip_local_reserved_ports)\n"))?;
    }
    if persistent()? {
        keep(&config.ephemeral_ports.ports().union(&config.ports))?;
        let written = unmanaged::install(Path::new("/"))?;
        if !written.is_empty() {
            let files: Vec<String> = written.iter().map(|p| p.display().to_string()).collect();
            print(&format!("told network managers to leave devices portslice* alone ({})\n", files.join(", ")))?;
        }
    }
    let facts = Facts { reserved: proc.here().reserved_ports()?, ..facts };
    grant::check_host(config, &facts)?;
    prepare::ready(config, &mut netlink, &facts, Netns::current()?.id, Wanted { anew: true, shaper: false })?;
    let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    let size = config.ephemeral_ports_per_container;
    print(&format!(
        "ready on {} ({}): room for {} containers with {size} ephemeral ports each\n",
        facts.uplink.name,
        addresses.join(", "),
        config.ephemeral_ports.capacity(size)
    ))
}

fn undo(config: &Config) -> Result<()> {
    undo::undo(config)?;
    if persistent()? {
        match fs::remove_file(SYSCTL_FILE) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", SYSCTL_FILE)(e)),
            _ => {}
        }
        unmanaged::remove(Path::new("/"))?;
    }
    Ok(())
}

fn dry_run(config: &Config) -> Result<()> {
    let facts = Facts::read(&mut Netlink::route()?, &Proc::default(), config.uplink.as_deref())?;
    let ports = config.ephemeral_ports.ports().union(&config.ports);
    let new = ports.difference(&facts.reserved);
    let mut text = String::new();
    if !new.is_empty() {
        text.push_str(&format!("would reserve ports {new} (net.ipv4.ip_local_reserved_ports)\n"));
    }
    text.push_str(&format!(
        "would set net.ipv4.conf.lo.accept_local and route_localnet to 1\nwould attach the data path to {} and lo\n",
        facts.uplink.name
    ));
    print(&text)
}

/// The files below /etc speak of the machine's first namespace, so only a setup there writes them.
fn persistent() -> Result<bool> {
    let first = Netns::open(Path::new("/proc/1/ns/net"));
    let here = Netns::current()?.id;
    Ok(first.is_ok_and(|netns| netns.id == here) && Path::new("/etc/sysctl.d").is_dir())
}

fn keep(ports: &PortSet) -> Result<()> {
    let text = format!(
        "# Written by `portslice setup`: the host's own connections never take these ports.\n\
         net.ipv4.ip_local_reserved_ports = {ports}\n"
    );
    fs::write(SYSCTL_FILE, text).map_err(Error::file("write", SYSCTL_FILE))
}
